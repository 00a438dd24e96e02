//! Garbage: what is, what keeps it, and having it collected.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use pool_core::digest::PageId;
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_gc::{CollectReport, FsckLevel, FsckReport, GcError, Thing, Why};
use pool_store::StoreError;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::OnePart;
use super::objects::parse;
use crate::body::read_json;
use crate::problem::{Problem, ProblemBody, Result};
use crate::schemas;
use crate::service::Service;
use crate::types::{CollectRequest, FsckRequest};

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(collect))
        .routes(routes!(fsck))
        .routes(routes!(why_digest))
        .routes(routes!(why_library))
        .routes(routes!(why_image))
}

/// Collect what nothing refers to.
#[utoipa::path(
    post, path = "/v1/gc", tag = "collection", request_body = CollectRequest,
    responses(
        (status = 200, description = "What was done, or would be", body = schemas::CollectReport),
        (status = 409, description = "A collection is running", body = ProblemBody),
        (status = 500, description = "The index could not be read, so nothing was collected", body = ProblemBody),
    )
)]
async fn collect(
    State(service): State<Service>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CollectReport>> {
    let limit = service.options().limits.json;
    let request: CollectRequest = read_json(&headers, body, limit).await?;
    let grace = request.grace_seconds.map(Duration::from_secs);
    let grace = grace.unwrap_or(service.options().grace);
    service.collect(grace, request.dry_run).await.map(Json)
}

/// Compare everything with everything, and change nothing.
#[utoipa::path(
    post, path = "/v1/fsck", tag = "collection", request_body = FsckRequest,
    responses((status = 200, description = "What was looked at and found", body = schemas::FsckReport))
)]
async fn fsck(
    State(service): State<Service>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<FsckReport>> {
    let limit = service.options().limits.json;
    let request: FsckRequest = read_json(&headers, body, limit).await?;
    let level = if request.content {
        FsckLevel::Content
    } else {
        FsckLevel::Index
    };
    let report = service
        .with_store(move |store| Ok(pool_gc::fsck(store, level)))
        .await?;
    Ok(Json(report))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct DigestParams {
    /// A digest of 64 digits, or a segment's number of 8.
    #[param(schema_with = schemas::digest_or_segment)]
    digest: String,
}

/// What keeps an object, a page or a segment.
#[utoipa::path(
    get, path = "/v1/why/{digest}", tag = "collection",
    params(DigestParams),
    responses(
        (status = 200, description = "The chain up to names and leases", body = schemas::Why),
        (status = 400, description = "Neither digest nor segment", body = ProblemBody),
        (status = 404, description = "The pool has no such thing", body = ProblemBody),
    )
)]
async fn why_digest(State(service): State<Service>, OnePart(digest): OnePart) -> Result<Json<Why>> {
    if let Ok(segment) = digest.parse::<SegmentId>() {
        let what = format!("segment {digest}");
        return why(&service, vec![Thing::Segment(segment)], what).await;
    }
    let id = parse(&digest)?;
    let things = vec![Thing::Object(id), Thing::Page(PageId(id.0))];
    why(&service, things, format!("object or page {digest}")).await
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct LibraryName {
    /// `NAME@VERSION`.
    #[param(schema_with = schemas::library)]
    name: LibraryRef,
}

/// What keeps the content of a library version.
#[utoipa::path(
    get, path = "/v1/why/lib/{name}", tag = "collection",
    params(LibraryName),
    responses(
        (status = 200, description = "The chain up to names and leases", body = schemas::Why),
        (status = 404, description = "No such library version", body = ProblemBody),
    )
)]
async fn why_library(State(service): State<Service>, OnePart(name): OnePart) -> Result<Json<Why>> {
    let library: LibraryRef = name.parse()?;
    let what = format!("lib/{library}");
    let found = service
        .with_store(move |store| Ok(store.library(&library)?.map(|record| record.object)))
        .await?;
    let id = found.ok_or_else(|| Problem::not_found(&what))?;
    why(&service, vec![Thing::Object(id)], what).await
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct ImageName {
    /// `NAME:TAG`.
    #[param(schema_with = schemas::image)]
    name: ImageRef,
}

/// What keeps the file of an image.
#[utoipa::path(
    get, path = "/v1/why/image/{name}", tag = "collection",
    params(ImageName),
    responses(
        (status = 200, description = "The chain up to names and leases", body = schemas::Why),
        (status = 404, description = "No such image", body = ProblemBody),
    )
)]
async fn why_image(State(service): State<Service>, OnePart(name): OnePart) -> Result<Json<Why>> {
    let image: ImageRef = name.parse()?;
    let what = format!("image/{image}");
    let found = service
        .with_store(move |store| Ok(store.image(&image)?.map(|(_, manifest)| manifest.file)))
        .await?;
    let id = found.ok_or_else(|| Problem::not_found(&what))?;
    why(&service, vec![Thing::Object(id)], what).await
}

/// The answer about the first of `things` that exists.
async fn why(service: &Service, things: Vec<Thing>, what: String) -> Result<Json<Why>> {
    service
        .with_store(move |store| {
            for thing in things {
                let answer = pool_gc::why(store, thing)?;
                if answer.exists {
                    return Ok(Json(answer));
                }
            }
            Err(Problem::not_found(what))
        })
        .await
}

impl From<GcError> for Problem {
    fn from(error: GcError) -> Self {
        match error {
            GcError::Store {
                source: source @ StoreError::CollectionRunning,
                ..
            } => source.into(),
            GcError::Store { .. } | GcError::Inconsistent(_) => Self::internal(error),
            GcError::BadRatio(_) => Self::bad_request("bad-ratio", error.to_string()),
        }
    }
}
