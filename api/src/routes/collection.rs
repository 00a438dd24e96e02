//! Garbage: what is, what keeps it, and having it collected.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use pool_core::digest::PageId;
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_gc::{Cause, CollectReport, FsckLevel, FsckReport, GcError, Scrubbed, Thing, Why};
use pool_store::Snapshot;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::OnePart;
use super::objects::parse;
use super::responses::{NoImage, NoLibrary};
use crate::json::JsonBody;
use crate::problem::{Problem, ProblemBody, Result};
use crate::schemas;
use crate::service::{Service, blocking};
use crate::types::{CollectRequest, Collections, FsckRequest, ScrubRequest};

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(collections, collect))
        .routes(routes!(pause, resume))
        .routes(routes!(stop))
        .routes(routes!(fsck))
        .routes(routes!(scrub))
        .routes(routes!(why_digest))
        .routes(routes!(why_library))
        .routes(routes!(why_image))
}

/// What is being collected, and what the last collections did.
#[utoipa::path(
    get, path = "/v1/gc", tag = "collection",
    responses((status = 200, description = "The last collections, and whether the next ones are to wait", body = Collections))
)]
async fn collections(State(service): State<Service>) -> Json<Collections> {
    Json(service.collector().collections())
}

/// Have collections wait, the one that is running, too, which goes no further than to the end of the change that it makes, and
/// ends there after a minute. It stays so when the service is restarted.
#[utoipa::path(
    put, path = "/v1/gc/pause", tag = "collection",
    responses((status = 200, description = "They wait", body = Collections))
)]
async fn pause(State(service): State<Service>) -> Result<Json<Collections>> {
    let paused = service.clone();
    blocking(move || paused.collector().pause(true))
        .await
        .map(Json)
}

/// Let collections go on, the one that was running, too.
#[utoipa::path(
    delete, path = "/v1/gc/pause", tag = "collection",
    responses((status = 200, description = "They go on", body = Collections))
)]
async fn resume(State(service): State<Service>) -> Result<Json<Collections>> {
    let resumed = service.clone();
    blocking(move || resumed.collector().pause(false))
        .await
        .map(Json)
}

/// Stop the collection that is running, if one is, before its next change. What it did stays done; the next one does the rest.
#[utoipa::path(
    delete, path = "/v1/gc/running", tag = "collection",
    responses((status = 200, description = "It ends, or none is running", body = Collections))
)]
async fn stop(State(service): State<Service>) -> Json<Collections> {
    Json(service.collector().stop())
}

/// Collect what nothing refers to.
#[utoipa::path(
    post, path = "/v1/gc", tag = "collection", request_body = CollectRequest,
    responses(
        (status = 200, description = "What was done, or would be", body = schemas::CollectReport),
        (status = 409, description = "A collection is running, they are paused, or the index was found damaged, so that nothing can be taken for garbage", body = ProblemBody),
        (status = 500, description = "The index could not be read, so nothing was collected", body = ProblemBody),
    )
)]
async fn collect(
    State(service): State<Service>,
    JsonBody(request): JsonBody<CollectRequest>,
) -> Result<Json<CollectReport>> {
    let grace = request.grace_seconds.map(Duration::from_secs);
    let grace = grace.unwrap_or(service.options().grace);
    let collected = if request.dry_run {
        service.rehearse(grace).await
    } else {
        service.collect(grace, Cause::Asked).await
    };
    collected.map(Json)
}

/// Compare everything with everything, and change nothing: superblock, mark, index and journal as they are on disk, names, and
/// what they refer to. What is found damaged is asked for by the next push of it.
#[utoipa::path(
    post, path = "/v1/fsck", tag = "collection", request_body = FsckRequest,
    responses((status = 200, description = "What was looked at and found", body = schemas::FsckReport))
)]
async fn fsck(
    State(service): State<Service>,
    JsonBody(request): JsonBody<FsckRequest>,
) -> Result<Json<FsckReport>> {
    let level = if request.content {
        FsckLevel::Content
    } else {
        FsckLevel::Index
    };
    let noting = service.clone();
    let report = service
        .with_store(move |store| {
            let report = pool_gc::fsck(store, level);
            noting.note_damaged(&report.damaged_objects);
            Ok(report)
        })
        .await?;
    Ok(Json(report))
}

/// Read all that is stored and compare it with its digests, going on where that was interrupted last, and before that index and
/// journal with each other. What is found damaged is asked for by the next push of it; a damaged superblock or mark is written anew. A scrub that
/// runs is ended, and this one goes on where it was.
#[utoipa::path(
    post, path = "/v1/scrub", tag = "collection", request_body = ScrubRequest,
    responses(
        (status = 200, description = "What was read and found", body = schemas::Scrubbed),
    )
)]
async fn scrub(
    State(service): State<Service>,
    JsonBody(request): JsonBody<ScrubRequest>,
) -> Result<Json<Scrubbed>> {
    service.scrub(request.rate).await.map(Json)
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
        let nothing = Problem::nothing_is(format!("segment {digest}"));
        return why(&service, nothing, move |_| {
            Ok(vec![Thing::Segment(segment)])
        })
        .await;
    }
    let id = parse(&digest)?;
    let nothing = Problem::nothing_is(format!("object or page {digest}"));
    let things = vec![Thing::Object(id), Thing::Page(PageId(id.0))];
    why(&service, nothing, move |_| Ok(things)).await
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct LibraryName {
    /// `NAME@VERSION`.
    #[param(schema_with = schemas::library)]
    library: LibraryRef,
}

/// What keeps the content of a library version.
#[utoipa::path(
    get, path = "/v1/why/lib/{library}", tag = "collection",
    params(LibraryName),
    responses(
        (status = 200, description = "The chain up to names and leases", body = schemas::Why),
        NoLibrary,
    )
)]
async fn why_library(State(service): State<Service>, OnePart(name): OnePart) -> Result<Json<Why>> {
    let library: LibraryRef = name.parse()?;
    let nothing = Problem::not_found(format!("lib/{library}"));
    why(&service, nothing, move |store| {
        let record = store.library(&library)?;
        Ok(record
            .map(|record| Thing::Object(record.object))
            .into_iter()
            .collect())
    })
    .await
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct ImageName {
    /// `NAME:TAG`.
    #[param(schema_with = schemas::image)]
    image: ImageRef,
}

/// What keeps the file of an image.
#[utoipa::path(
    get, path = "/v1/why/image/{image}", tag = "collection",
    params(ImageName),
    responses(
        (status = 200, description = "The chain up to names and leases", body = schemas::Why),
        NoImage,
    )
)]
async fn why_image(State(service): State<Service>, OnePart(name): OnePart) -> Result<Json<Why>> {
    let image: ImageRef = name.parse()?;
    let nothing = Problem::not_found(format!("image/{image}"));
    why(&service, nothing, move |store| {
        let found = store.image(&image)?;
        Ok(found
            .map(|(_, manifest)| Thing::Object(manifest.file))
            .into_iter()
            .collect())
    })
    .await
}

/// The answer about the first that exists of the things that `look` names, in the state of the
/// index that they are looked up in, or `nothing`.
async fn why(
    service: &Service,
    nothing: Problem,
    look: impl FnOnce(&Snapshot<'_>) -> Result<Vec<Thing>> + Send + 'static,
) -> Result<Json<Why>> {
    service
        .with_store(move |store| {
            let store = store.snapshot();
            for thing in look(&store)? {
                let answer = pool_gc::why_at(&store, thing)?;
                if answer.exists {
                    return Ok(Json(answer));
                }
            }
            Err(nothing)
        })
        .await
}

impl From<GcError> for Problem {
    fn from(error: GcError) -> Self {
        let what = error.to_string();
        match error {
            GcError::Store { source, .. } => {
                // Whose turn it is depends on what the store met, as for any other change.
                let mut problem = Self::from(source);
                problem.body.detail = what;
                problem
            }
            GcError::Inconsistent(_) => Self::internal(what),
            GcError::BadRatio(_) => Self::bad_request("bad-ratio", what),
        }
    }
}

#[cfg(test)]
mod tests {
    use pool_store::{Again, StoreError};

    use super::*;

    #[test]
    fn a_collection_that_cannot_go_on_says_who_must_act() {
        let full = StoreError::NoSpace {
            doing: "writing",
            path: "the index".into(),
            again: Again::WithRoom(16 << 20),
        };
        let doubt = StoreError::InDoubt {
            path: "generation".into(),
            error: std::io::Error::other("x"),
        };
        let spoilt = StoreError::Corrupt("a record".into());
        for (source, status, word) in [
            (full, 507, "no-space"),
            (doubt, 503, "in-doubt"),
            (spoilt, 500, "internal"),
            (StoreError::CollectionRunning, 409, "collection-running"),
        ] {
            let doing = "beginning a collection";
            let problem = Problem::from(GcError::Store { doing, source });
            assert_eq!(problem.status.as_u16(), status, "{problem:?}");
            assert_eq!(problem.body.error, word);
            assert!(problem.body.detail.starts_with(doing), "{problem:?}");
        }
    }
}
