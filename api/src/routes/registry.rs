//! Registered addresses: where `pool link` places each library version.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use pool_core::name::LibraryRef;
use pool_core::registry::{Known, Reservation, ReservationRequest};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::responses::{Made, NoLibrary};
use super::{LibraryParams, LibraryPath};
use crate::json::{JsonBody, read_json};
use crate::paths;
use crate::problem::{Problem, ProblemBody, Result};
use crate::schemas;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list, reserve))
        .routes(routes!(reserve_all))
        .routes(routes!(known))
        .routes(routes!(get))
}

/// List reservations.
#[utoipa::path(
    get, path = "/v1/registry", tag = "registry",
    responses((status = 200, description = "All reservations, oldest first", body = Vec<schemas::Reservation>))
)]
async fn list(State(service): State<Service>) -> Result<Json<Vec<Reservation>>> {
    let list = service
        .with_store(|store| Ok(store.reservations()?))
        .await?;
    Ok(Json(list))
}

/// Reserve addresses for a library version.
///
/// The same request always has the same answer: the addresses are the version's for good, since
/// from now on images may be linked at them.
#[utoipa::path(
    post, path = "/v1/registry", tag = "registry",
    request_body(content = schemas::ReservationRequest, description = "Name, version, identity, pages and thread-local storage"),
    responses(
        (status = 200, description = "The reservation, which there was", body = schemas::Reservation),
        (status = 201, description = "The reservation, made now", body = schemas::Reservation),
        (status = 409, description = "The version is registered with other contents, or there is no room", body = ProblemBody),
        (status = 422, description = "The alignment or the thread-local storage asked for is impossible", body = ProblemBody),
    )
)]
async fn reserve(
    State(service): State<Service>,
    JsonBody(request): JsonBody<ReservationRequest>,
) -> Result<Made<Reservation>> {
    let location = paths::reservation(&request.library);
    let (mut reserved, created) = service
        .with_store(move |store| Ok(store.reserve_addresses(&[request])??))
        .await?;
    Ok(Made {
        created,
        location,
        body: reserved.remove(0),
    })
}

/// Reserve addresses for all library versions of a link.
///
/// Either all are reserved or, when one is refused, none. As for a single one, the same request
/// always has the same answer.
#[utoipa::path(
    post, path = "/v1/registry/batch", tag = "registry",
    request_body(content = Vec<schemas::ReservationRequest>, description = "What each needs"),
    responses(
        (status = 200, description = "The reservations, in the order of the requests", body = Vec<schemas::Reservation>),
        (status = 409, description = "A version is registered with other contents, or there is no room", body = ProblemBody),
        (status = 422, description = "The alignment or the thread-local storage asked for is impossible", body = ProblemBody),
    )
)]
async fn reserve_all(
    State(service): State<Service>,
    request: Request,
) -> Result<Json<Vec<Reservation>>> {
    // What is on record of large libraries is large.
    let limit = service.options().limits.announcement;
    let room = service.announced_room();
    let (requests, _room) =
        read_json::<Vec<ReservationRequest>>(&service, request, limit, room).await?;
    let reserved = service.with_store(move |store| Ok(store.reserve_addresses(&requests)??.0));
    reserved.await.map(Json)
}

/// What decides where everything is in library versions.
///
/// A new version keeps what it has of the latest one of its name where it was. Whoever registers a version first decides which
/// one that is, and everybody else links it by its own record.
#[utoipa::path(
    post, path = "/v1/registry/known", tag = "registry",
    request_body(content = schemas::LibraryRefs, description = "Names and versions"),
    responses(
        (status = 200, description = "What is known of each, in their order", body = Vec<schemas::Known>),
        (status = 413, description = "The body is too long, or what is known of all is", body = ProblemBody),
    )
)]
async fn known(
    State(service): State<Service>,
    JsonBody(libraries): JsonBody<Vec<LibraryRef>>,
) -> Result<Json<Vec<Known>>> {
    // A few bytes ask for a record of megabytes.
    let most = service.options().limits.announcement;
    let known = service.with_store(move |store| {
        let known = store.known_places(&libraries, usize::try_from(most).unwrap_or(usize::MAX))?;
        known.ok_or_else(|| {
            let what = format!("what is known of all of them has more than {most} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", what)
                .hint("ask about fewer at a time")
        })
    });
    known.await.map(Json)
}

/// The reservation of a library version, whether it was pushed or not.
#[utoipa::path(
    get, path = "/v1/registry/{name}/{version}", tag = "registry",
    params(LibraryParams),
    responses(
        (status = 200, description = "The reservation", body = schemas::Reservation),
        NoLibrary,
    )
)]
async fn get(
    State(service): State<Service>,
    LibraryPath(library): LibraryPath,
) -> Result<Json<Reservation>> {
    let of_it = |list: Vec<Reservation>| list.into_iter().find(|r| r.request.library == library);
    let found = service
        .with_store(|store| Ok(store.reservations()?))
        .await
        .map(of_it)?;
    let nothing = || Problem::nothing_is(format!("reservation of lib/{library}"));
    found.map(Json).ok_or_else(nothing)
}
