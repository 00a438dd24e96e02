//! Garbage: what is, what keeps it, and having it collected.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use pool_core::digest::PageId;
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef, Name};
use pool_gc::{CollectReport, FsckLevel, FsckReport, GcError, Thing, Why};
use pool_store::StoreError;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::OnePart;
use super::objects::parse;
use crate::body::read_json;
use crate::problem::{Problem, ProblemBody, Result};
use crate::service::Service;
use crate::types::{CollectRequest, FsckRequest};

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(collect))
        .routes(routes!(fsck))
        .routes(routes!(why_digest))
        .routes(routes!(why_named))
}

/// Collect what nothing refers to.
#[utoipa::path(
    post, path = "/v1/gc", tag = "collection", request_body = CollectRequest,
    responses(
        (status = 200, description = "What was done, or would be", body = crate::report::CollectReport),
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
    responses((status = 200, description = "What was looked at and found", body = Object))
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

/// What keeps an object, a page or a segment.
#[utoipa::path(
    get, path = "/v1/why/{digest}", tag = "collection",
    params(("digest" = String, Path, description = "A digest of 64 digits, or a segment's number of 8")),
    responses(
        (status = 200, description = "The chain up to names and leases", body = Object),
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

/// What keeps the content of a library version or the file of an image.
#[utoipa::path(
    get, path = "/v1/why/{kind}/{name}", tag = "collection",
    params(
        ("kind" = String, Path, description = "lib or image"),
        ("name" = String, Path, description = "NAME@VERSION or NAME:TAG"),
    ),
    responses(
        (status = 200, description = "The chain up to names and leases", body = Object),
        (status = 400, description = "Not a name", body = ProblemBody),
        (status = 404, description = "The pool has no such thing", body = ProblemBody),
    )
)]
async fn why_named(
    State(service): State<Service>,
    NamedPath(named): NamedPath,
) -> Result<Json<Why>> {
    let what = named.to_string();
    let found = service
        .with_store(move |store| match &named {
            Named::Library(library) => Ok(store.library(library)?.map(|record| record.object)),
            Named::Image(image) => Ok(store.image(image)?.map(|(_, manifest)| manifest.file)),
        })
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

enum Named {
    Library(LibraryRef),
    Image(ImageRef),
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Library(library) => write!(f, "lib/{library}"),
            Self::Image(image) => write!(f, "image/{image}"),
        }
    }
}

/// `{kind}/{name}` of a path.
struct NamedPath(Named);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for NamedPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self> {
        let (kind, name): (String, String) = super::path_parts(parts, state).await?;
        match kind.as_str() {
            "lib" => Ok(Self(Named::Library(name.parse()?))),
            "image" => Ok(Self(Named::Image(name.parse()?))),
            // Says what a name of a thing looks like.
            _ => Err(
                pool_core::name::NameError::Referent(Name::new(kind)?.as_str().to_owned()).into(),
            ),
        }
    }
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
