//! Upload by negotiation: announce, send what is missing, commit.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use pool_store::upload::Target;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::OnePart;
use super::responses::{Conditional, Made, NoUpload};
use crate::body::LimitedBody;
use crate::conditions::Conditions;
use crate::copies;
use crate::json::read_json;
use crate::paths;
use crate::problem::{ProblemBody, Result};
use crate::records;
use crate::service::Service;
use crate::types::{PagesAccepted, PushSummary, UploadRequest, UploadStarted};
use crate::wire::PageList;

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(begin))
        .routes(routes!(give_up))
        .routes(routes!(send_pages))
        .routes(routes!(commit))
}

/// Begin an upload.
///
/// What the pool has need not be listed: an object that the image or the library refers to may be left out, and pages
/// that are those of another object may be given as copies (an image's file is made of those of its objects, mostly).
/// If the pool does not have such an object, or cannot read it, the answer is 409 with the list of those to announce, too.
///
/// Conditions here and at the commit are about the name that the upload is to have. They are
/// looked at now, so that nothing is sent in vain, and again when the name is given.
#[utoipa::path(
    post, path = "/v1/uploads", tag = "uploads", request_body = UploadRequest,
    responses(
        (status = 201, description = "Begun; send the missing pages next", body = UploadStarted),
        (status = 409, description = "The upload refers to objects that are neither announced nor to be had from the pool: announce them, too", body = ProblemBody),
        Conditional,
        (status = 422, description = "The announcement contradicts itself", body = ProblemBody),
        (status = 503, description = "Too many uploads are under way: try again after as many seconds as Retry-After says", body = ProblemBody),
    )
)]
async fn begin(
    State(service): State<Service>,
    conditions: Conditions,
    request: Request,
) -> Result<Made<UploadStarted>> {
    service.uploads().check_room()?;
    let limit = service.options().limits.announcement;
    let room = service.announced_room();
    let (request, mut taken) = read_json::<UploadRequest>(&service, request, limit, room).await?;
    taken.merge(room.take(copies::room_for(&request, limit)?)?);
    let work = service.clone();
    let started = service
        .with_store(move |store| {
            copies::check_all(&request.objects)?;
            let precondition = conditions.precondition();
            let target = Target::from(request.target);
            store.check(&target.name(), &precondition)?;
            let manifest = copies::manifest(store, target, &request.objects)?;
            let upload = store.begin_upload(manifest)?;
            let missing = store.missing_pages(&upload)?;
            let epoch = upload.epoch();
            let (id, _) = work.uploads().insert(upload, precondition, taken)?;
            Ok(UploadStarted {
                id,
                epoch,
                missing_pages: missing.len() as u64,
                missing: PageList::of(&missing),
                idle_seconds: work.uploads().idle().as_secs(),
            })
        })
        .await?;
    Ok(Made {
        created: true,
        location: paths::upload(&started.id),
        body: started,
    })
}

/// Send pages.
///
/// The body is any number of records of 4128 bytes: the digest of a page (32 bytes), then the
/// page (4096 bytes, the last one of an object padded with zeros). Several requests may send at
/// once, a page may be sent again, and what was taken in before a refusal stays.
#[utoipa::path(
    put, path = "/v1/uploads/{id}/pages", tag = "uploads",
    params(("id" = String, Path, description = "From the answer to the announcement")),
    request_body(content_type = "application/octet-stream", description = "Page records"),
    responses(
        (status = 200, description = "All taken in", body = PagesAccepted),
        NoUpload,
        (status = 422, description = "The body is no whole number of records, or a page has another digest or was not announced", body = ProblemBody),
    )
)]
async fn send_pages(
    State(service): State<Service>,
    OnePart(id): OnePart,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PagesAccepted>> {
    let session = service.uploads().get(&id)?;
    let limit = service.options().limits.body;
    let hint = "send the pages in several requests";
    let mut body = LimitedBody::new(&service, &headers, body, limit, hint)?;
    let taken = records::take_in(&session, &mut body).await;
    let received = body.received();
    session.note_received(received);
    service.metrics().note_received(received);
    Ok(Json(PagesAccepted { pages: taken? }))
}

/// Store and name what was announced.
///
/// The answer comes when it would survive a power cut. When pages are missing, because they were
/// not sent or a collection took them meanwhile, nothing has happened: send them, commit again. When objects that
/// were not announced have gone, begin again and announce them.
#[utoipa::path(
    post, path = "/v1/uploads/{id}/commit", tag = "uploads",
    params(("id" = String, Path, description = "From the answer to the announcement")),
    responses(
        (status = 200, description = "Stored; the name was there", body = PushSummary),
        (status = 201, description = "Stored and named", body = PushSummary),
        NoUpload,
        (status = 409, description = "Pages or objects are missing, or the version has other content", body = ProblemBody),
        Conditional,
        (status = 422, description = "The pages do not make up the objects announced", body = ProblemBody),
    )
)]
async fn commit(
    State(service): State<Service>,
    OnePart(id): OnePart,
    conditions: Conditions,
) -> Result<Made<PushSummary>> {
    let session = service.uploads().get(&id)?;
    let work = service.clone();
    // All in one go: when the client goes away, nobody is left to do the rest.
    let committed = service.with_store(move |store| {
        let precondition = conditions.precondition().and(&session.precondition);
        let summary = store.when(&precondition).commit(&session.upload)?;
        work.metrics().note_commit(&summary);
        // Another commit of the same upload may have been quicker to forget it.
        let _ = work.uploads().remove(&id);
        let target = &session.upload.manifest().target;
        let summary = PushSummary::new(target, summary, session.received());
        Ok(Made::of(&target.name(), summary))
    });
    committed.await
}

/// Give an upload up.
#[utoipa::path(
    delete, path = "/v1/uploads/{id}", tag = "uploads",
    params(("id" = String, Path, description = "From the answer to the announcement")),
    responses(
        (status = 204, description = "Forgotten; it leaves nothing"),
        NoUpload,
    )
)]
async fn give_up(State(service): State<Service>, OnePart(id): OnePart) -> Result<StatusCode> {
    service.uploads().remove(&id)?;
    Ok(StatusCode::NO_CONTENT)
}
