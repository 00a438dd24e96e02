//! Tagged images.

use std::fs::File;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use memmap2::Mmap;
use pool_core::name::ImageRef;
use pool_store::manifest::{ImageManifest, TagRecord};
use pool_store::upload::Content;
use pool_store::{Store, StoreView};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ImagePath, content};
use crate::announce::{self, Announcement};
use crate::body::{LimitedBody, read_json};
use crate::problem::{Problem, ProblemBody, Result};
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

/// Which entries of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only names that begin with this.
    #[serde(default)]
    pub(super) prefix: String,
}

/// List images.
#[utoipa::path(
    get, path = "/v1/images", tag = "images", params(Filter),
    responses((status = 200, description = "All tags, in order of name", body = Vec<Image>))
)]
async fn list(
    State(service): State<Service>,
    Query(filter): Query<Filter>,
) -> Result<Json<Vec<Image>>> {
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
    params(("name" = String, Path, description = "The image"), ("tag" = String, Path, description = "Its tag")),
    responses(
        (status = 200, description = "The image", body = Image),
        (status = 404, description = "No such image", body = ProblemBody),
    )
)]
async fn get(State(service): State<Service>, ImagePath(image): ImagePath) -> Result<Json<Image>> {
    let (tag, manifest) = find(&service, &image).await?;
    Ok(Json(summary(image, &tag, &manifest)))
}

/// Push a whole executable: `curl -T app.elf http://HOST/v1/images/NAME/TAG`.
///
/// The service describes it and stores what it lacks. A client that can cut files into pages
/// sends less by `POST /v1/uploads`.
#[utoipa::path(
    put, path = "/v1/images/{name}/{tag}", tag = "images",
    params(("name" = String, Path, description = "The image"), ("tag" = String, Path, description = "Its tag")),
    request_body(content_type = "application/octet-stream", description = "A static executable"),
    responses(
        (status = 201, description = "Stored and named", body = PushSummary),
        (status = 409, description = "A library version of it has other content", body = ProblemBody),
        (status = 413, description = "The file is too long", body = ProblemBody),
        (status = 422, description = "Not a static x86-64 executable", body = ProblemBody),
        (status = 507, description = "The disk is full", body = ProblemBody),
    )
)]
async fn put(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<PushSummary>)> {
    let file = receive(&service, &headers, body).await?;
    let work = service.clone();
    let summary = service
        .with_store(move |store| {
            let content = map(&file)?;
            let described = pool_image::describe::describe(&content)?;
            ingest(&work, store, &announce::image(&described, image))
        })
        .await?;
    Ok((StatusCode::CREATED, Json(summary)))
}

/// Takes in a file that is sent whole.
pub(super) async fn receive(service: &Service, headers: &HeaderMap, body: Body) -> Result<File> {
    let limit = service.options().limits.body;
    let hint = "push it by negotiation (pool push), or raise body-limit";
    let mut body = LimitedBody::new(headers, body, limit, hint)?;
    let work = service.clone();
    let file = crate::service::blocking(move || work.spool_file()).await;
    let spooled = match file {
        Ok(file) => body.spool(file).await,
        Err(problem) => Err(problem),
    };
    service.metrics().note_received(body.received());
    spooled
}

/// The bytes of a received file.
pub(super) fn map(file: &File) -> Result<Mapped> {
    let metadata = file
        .metadata()
        .map_err(|error| Problem::io("measuring the upload", &error))?;
    if metadata.len() == 0 {
        // An empty file cannot be mapped.
        return Ok(Mapped(None));
    }
    // SAFETY: the file has no name and its one descriptor is borrowed here, so nothing can change
    // or shorten it while it is mapped.
    let map =
        unsafe { Mmap::map(file) }.map_err(|error| Problem::io("reading the upload", &error))?;
    Ok(Mapped(Some(map)))
}

/// A received file, mapped; the default is an empty one.
pub(super) struct Mapped(Option<Mmap>);

impl std::ops::Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Stores what was announced.
pub(super) fn ingest(
    service: &Service,
    store: &Store,
    announcement: &Announcement<'_>,
) -> Result<PushSummary> {
    let contents: Vec<_> = announcement
        .parts
        .iter()
        .map(|part| Content::of(&part.bytes, part.placement))
        .collect();
    let summary = store.ingest(announcement.target.clone(), &contents)?;
    service.metrics().note_commit(&summary);
    Ok(PushSummary::new(
        &announcement.target,
        summary,
        announcement.file_bytes,
    ))
}

/// The executable, byte for byte as it was pushed. Ranges are served.
#[utoipa::path(
    get, path = "/v1/images/{name}/{tag}/elf", tag = "images",
    params(("name" = String, Path, description = "The image"), ("tag" = String, Path, description = "Its tag")),
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
    params(("name" = String, Path, description = "The image"), ("tag" = String, Path, description = "Its tag")),
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
    params(("name" = String, Path, description = "The image"), ("tag" = String, Path, description = "Its tag")),
    responses(
        (status = 200, description = "The description; its digest is the image's manifest", content_type = "application/json"),
        (status = 404, description = "No such image", body = ProblemBody),
    )
)]
async fn description(
    State(service): State<Service>,
    ImagePath(image): ImagePath,
) -> Result<Response> {
    let (_, manifest) = find(&service, &image).await?;
    let json = manifest.description.to_json();
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// Give an image a further tag, or move that tag here from another image.
#[utoipa::path(
    post, path = "/v1/images/{name}/{tag}/tag", tag = "images",
    params(("name" = String, Path, description = "The image"), ("tag" = String, Path, description = "Its tag")),
    request_body = TagRequest,
    responses(
        (status = 200, description = "The image under its new tag", body = Image),
        (status = 404, description = "No such image", body = ProblemBody),
    )
)]
async fn tag(
    State(service): State<Service>,
    ImagePath(from): ImagePath,
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
    service
        .with_store(move |store| Ok(store.tag_image(&from, &to)?))
        .await?;
    let (tag, manifest) = find(&service, &reference).await?;
    Ok(Json(summary(reference, &tag, &manifest)))
}

/// Remove a tag. Its image goes with its last tag; pages go with the next collection.
#[utoipa::path(
    delete, path = "/v1/images/{name}/{tag}", tag = "images",
    params(("name" = String, Path, description = "The image"), ("tag" = String, Path, description = "Its tag")),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "No such image", body = ProblemBody),
    )
)]
async fn remove(State(service): State<Service>, ImagePath(image): ImagePath) -> Result<StatusCode> {
    service
        .with_store(move |store| Ok(store.delete_image(&image)?))
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
