//! Tagged images.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::name::{ImageRef, Named};
use pool_store::Snapshot;
use pool_store::manifest::{ImageManifest, TagRecord};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::responses::{Conditional, Made, NoImage, StoredBytes};
use super::whole_file::WholeFile;
use super::{ImageParams, ImagePath, content};
use crate::announce;
use crate::conditions::{Conditions, etag, with_revision};
use crate::json::JsonBody;
use crate::paths;
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
        NoImage,
    )
)]
async fn get(State(service): State<Service>, ImagePath(image): ImagePath) -> Result<Response> {
    let (revision, image) = service
        .with_store(move |store| {
            let store = store.snapshot();
            let name = Named::Image(image.clone());
            let revision = store.revision(&name)?;
            let revision = revision.ok_or_else(|| Problem::not_found(name))?;
            let (tag, manifest) = find(&store, &image)?;
            Ok((revision, summary(image, &tag, &manifest)))
        })
        .await?;
    Ok(with_revision(revision, Json(image)))
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
        Conditional,
        (status = 422, description = "Not a static x86-64 executable", body = ProblemBody),
    )
)]
async fn put(ImagePath(image): ImagePath, file: WholeFile) -> Result<Made<PushSummary>> {
    let name = Named::Image(image.clone());
    file.take_in(name, move |content, store| {
        let described = pool_image::describe::describe(content)?;
        store(&announce::image(&described, image))
    })
    .await
}

/// The executable, byte for byte as it was pushed. Ranges are served.
#[utoipa::path(
    get,
    path = "/v1/images/{name}/{tag}/elf",
    tag = "images",
    params(ImageParams),
    responses(StoredBytes, NoImage,)
)]
async fn elf(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
    headers: HeaderMap,
) -> Result<Response> {
    content::named(&service, &headers, move |store| {
        Ok(find(store, &image)?.1.file)
    })
    .await
}

/// The first contents of the writable pages.
#[utoipa::path(
    get, path = "/v1/images/{name}/{tag}/data", tag = "images",
    params(ImageParams),
    responses(
        StoredBytes,
        (status = 404, description = "No such image, or it has none", body = ProblemBody),
    )
)]
async fn data(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
    headers: HeaderMap,
) -> Result<Response> {
    content::named(&service, &headers, move |store| {
        let data = find(store, &image)?.1.data;
        data.ok_or_else(|| Problem::nothing_is(format!("writable data of image/{image}")))
    })
    .await
}

/// What lies where in the image's memory.
#[utoipa::path(
    get, path = "/v1/images/{name}/{tag}/desc", tag = "images",
    params(ImageParams),
    responses(
        (status = 200, description = "The description; its digest is the image's manifest", body = schemas::Description, content_type = "application/json"),
        NoImage,
    )
)]
async fn description(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
) -> Result<Response> {
    let (tag, manifest) = service
        .with_store(move |store| find(&store.snapshot(), &image))
        .await?;
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
        (status = 200, description = "The image under the tag, which there was", body = Image),
        (status = 201, description = "The image under its new tag", body = Image),
        NoImage,
        Conditional,
    )
)]
async fn tag(
    State(service): State<Service>,
    ImagePath(from): ImagePath,
    conditions: Conditions,
    JsonBody(request): JsonBody<TagRequest>,
) -> Result<Made<Image>> {
    let to = ImageRef {
        name: request.name,
        tag: request.tag,
    };
    let precondition = conditions.precondition();
    let tagged = service.with_store(move |store| {
        let tagged = store.when(&precondition).tag_image(&from, &to)?;
        Ok(Made {
            created: tagged.created,
            location: paths::image(&to),
            body: summary(to, &tagged.record, &tagged.manifest),
        })
    });
    tagged.await
}

/// Remove a tag. Its image goes with its last tag; pages go with the next collection.
#[utoipa::path(
    delete, path = "/v1/images/{name}/{tag}", tag = "images",
    params(ImageParams),
    responses(
        (status = 204, description = "Removed"),
        NoImage,
        Conditional,
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

fn find(store: &Snapshot<'_>, image: &ImageRef) -> Result<(TagRecord, ImageManifest)> {
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
