//! Registered addresses: where `pool link` places each library version.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use pool_core::registry::{Reservation, ReservationRequest};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::body::read_json;
use crate::problem::{ProblemBody, Result};
use crate::schemas;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new().routes(routes!(list, reserve))
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
        (status = 200, description = "The reservation", body = schemas::Reservation),
        (status = 409, description = "The version is registered with other contents, or there is no room", body = ProblemBody),
        (status = 422, description = "The thread-local storage asked for is impossible", body = ProblemBody),
    )
)]
async fn reserve(
    State(service): State<Service>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Reservation>> {
    let limit = service.options().limits.json;
    let request: ReservationRequest = read_json(&headers, body, limit).await?;
    let reservation = service
        .with_store(move |store| Ok(store.reserve_addresses(&request)??))
        .await?;
    Ok(Json(reservation))
}
