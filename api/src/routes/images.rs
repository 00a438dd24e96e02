//! Tagged images.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::name::{ImageRef, Named};
use pool_store::StoreView;
use pool_store::manifest::{ImageManifest, TagRecord};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::whole_file::WholeFile;
use super::{ImageParams, ImagePath, content};
use crate::announce;
use crate::body::read_json;
use crate::conditions::{Conditions, etag, with_revision};
use crate::problem::{Problem, ProblemBody, Result};
use crate::query::Filter;
use crate::schemas;
use crate::service::Service;
use crate::types::{Image, PushSummary, TagRequest};

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, put, remove))
        .routes(routes!(elf))
        .routes(routes!(description))
        .routes(routes!(data))
        .routes(routes!(tag))
}

/// List images.
#[utoipa::path(
    get, path = "/v1/images", tag = "images", params(Filter),
    responses((status = 200, description = "All tags, in order of name", body = Vec<Image>))
)]
async fn list(State(service): State<Service>, filter: Filter) -> Result<Json<Vec<Image>>> {
    let images = service
        .with_store(move |store| {
            let mut images = Vec::new();
            let store = store.snapshot();
            for (reference, _) in store.tags()? {
                if !reference.to_string().starts_with(&filter.prefix) {
                    continue;
                }
                if let Some((tag, manifest)) = store.image(&reference)? {
                    images.push(summary(reference, &tag, &manifest));
                }
            }
            Ok(images)
        })
        .await?;
    Ok(Json(images))
}

/// One image.
#[utoipa::path(
    get, path = "/v1/images/{name}/{tag}", tag = "images",
    params(ImageParams),
    responses(
        (status = 200, description = "The image", body = Image),
        (status = 404, description = "No such image", body = ProblemBody),
    )
)]
async fn get(State(service): State<Service>, ImagePath(image): ImagePath) -> Result<Response> {
    let name = Named::Image(image.clone());
    let (revision, (tag, manifest)) = service
        .with_store(move |store| {
            let revision = store.revision(&name)?;
            let Named::Image(image) = &name else {
                return Err(Problem::not_found(name));
            };
            let found = look_up(store, image)?;
            let revision = revision.ok_or_else(|| Problem::not_found(&name))?;
            Ok((revision, found))
        })
        .await?;
    Ok(with_revision(
        revision,
        Json(summary(image, &tag, &manifest)),
    ))
}

/// Push a whole executable: `curl -T app.elf http://HOST/v1/images/NAME/TAG`.
///
/// The service describes it and stores what it lacks. A client that can cut files into pages
/// sends less by `POST /v1/uploads`.
#[utoipa::path(
    put, path = "/v1/images/{name}/{tag}", tag = "images",
    params(ImageParams),
    request_body(content_type = "application/octet-stream", description = "A static executable"),
    responses(
        (status = 200, description = "Stored, and the tag points there now", body = PushSummary),
        (status = 201, description = "Stored and named", body = PushSummary),
        (status = 409, description = "A library version of it has other content", body = ProblemBody),
        (status = 412, description = "The name is not what the conditions expect", body = ProblemBody),
        (status = 413, description = "The file is too long", body = ProblemBody),
        (status = 422, description = "Not a static x86-64 executable", body = ProblemBody),
        (status = 507, description = "The disk is full", body = ProblemBody),
    )
)]
async fn put(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
    conditions: Conditions,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<PushSummary>)> {
    let name = Named::Image(image.clone());
    let file = WholeFile {
        service,
        name,
        conditions,
        headers,
        body,
    };
    file.take_in(move |content, store| {
        let described = pool_image::describe::describe(content)?;
        store(&announce::image(&described, image))
    })
    .await
}

/// The executable, byte for byte as it was pushed. Ranges are served.
#[utoipa::path(
    get, path = "/v1/images/{name}/{tag}/elf", tag = "images",
    params(ImageParams),
    responses(
        (status = 200, description = "The file", content_type = "application/octet-stream"),
        (status = 206, description = "The range asked for", content_type = "application/octet-stream"),
        (status = 404, description = "No such image", body = ProblemBody),
        (status = 416, description = "No such range", body = ProblemBody),
    )
)]
async fn elf(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
    headers: HeaderMap,
) -> Result<Response> {
    let (_, manifest) = find(&service, &image).await?;
    content::object(&service, &headers, manifest.file).await
}

/// The first contents of the writable pages.
#[utoipa::path(
    get, path = "/v1/images/{name}/{tag}/data", tag = "images",
    params(ImageParams),
    responses(
        (status = 200, description = "The pages", content_type = "application/octet-stream"),
        (status = 206, description = "The range asked for", content_type = "application/octet-stream"),
        (status = 404, description = "No such image, or it has none", body = ProblemBody),
        (status = 416, description = "No such range", body = ProblemBody),
    )
)]
async fn data(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
    headers: HeaderMap,
) -> Result<Response> {
    let (_, manifest) = find(&service, &image).await?;
    let data = manifest
        .data
        .ok_or_else(|| Problem::not_found(format!("writable data of image/{image}")))?;
    content::object(&service, &headers, data).await
}

/// What lies where in the image's memory.
#[utoipa::path(
    get, path = "/v1/images/{name}/{tag}/desc", tag = "images",
    params(ImageParams),
    responses(
        (status = 200, description = "The description; its digest is the image's manifest", body = schemas::Description, content_type = "application/json"),
        (status = 404, description = "No such image", body = ProblemBody),
    )
)]
async fn description(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
) -> Result<Response> {
    let (tag, manifest) = find(&service, &image).await?;
    let json = manifest.description.to_json();
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((etag(tag.manifest), kind, json).into_response())
}

/// Give an image a further tag, or move that tag here from another image.
///
/// Conditions are about the tag that is given or moved: `If-None-Match: *` only gives.
#[utoipa::path(
    post, path = "/v1/images/{name}/{tag}/tag", tag = "images",
    params(ImageParams),
    request_body = TagRequest,
    responses(
        (status = 200, description = "The image under its new tag", body = Image),
        (status = 404, description = "No such image", body = ProblemBody),
        (status = 412, description = "The name is not what the conditions expect", body = ProblemBody),
    )
)]
async fn tag(
    State(service): State<Service>,
    ImagePath(from): ImagePath,
    conditions: Conditions,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Image>> {
    let limit = service.options().limits.json;
    let request: TagRequest = read_json(&headers, body, limit).await?;
    let to = ImageRef {
        name: request.name,
        tag: request.tag,
    };
    let reference = to.clone();
    let precondition = conditions.precondition();
    service
        .with_store(move |store| Ok(store.when(&precondition).tag_image(&from, &to)?))
        .await?;
    let (tag, manifest) = find(&service, &reference).await?;
    Ok(Json(summary(reference, &tag, &manifest)))
}

/// Remove a tag. Its image goes with its last tag; pages go with the next collection.
#[utoipa::path(
    delete, path = "/v1/images/{name}/{tag}", tag = "images",
    params(ImageParams),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "No such image", body = ProblemBody),
        (status = 412, description = "The name is not what the conditions expect", body = ProblemBody),
    )
)]
async fn remove(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
    conditions: Conditions,
) -> Result<StatusCode> {
    let precondition = conditions.precondition();
    service
        .with_store(move |store| Ok(store.when(&precondition).delete_image(&image)?))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(service: &Service, image: &ImageRef) -> Result<(TagRecord, ImageManifest)> {
    let image = image.clone();
    service
        .with_store(move |store| look_up(store, &image))
        .await
}

fn look_up(store: &StoreView, image: &ImageRef) -> Result<(TagRecord, ImageManifest)> {
    store
        .image(image)?
        .ok_or_else(|| Problem::not_found(format!("image/{image}")))
}

fn summary(reference: ImageRef, tag: &TagRecord, manifest: &ImageManifest) -> Image {
    let libraries = &manifest.description.libraries;
    Image {
        name: reference.name,
        tag: reference.tag,
        manifest: tag.manifest,
        file: manifest.file,
        length: manifest.description.image.length,
        data: manifest.data,
        libraries: libraries.iter().map(|used| used.library.clone()).collect(),
        created_at: manifest.created_at,
        tagged_at: tag.tagged_at,
    }
}
