//! Content by digest.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use pool_core::digest::ObjectId;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::responses::StoredBytes;
use super::{OnePart, content};
use crate::problem::{Problem, ProblemBody, Result};
use crate::schemas;
use crate::service::Service;

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new().routes(routes!(get))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct DigestParams {
    /// BLAKE3-256 in lower-case hexadecimal.
    #[param(schema_with = schemas::digest)]
    digest: ObjectId,
}

/// The bytes of an object, or of a page if no object has that digest. Ranges are served.
#[utoipa::path(
    get, path = "/v1/objects/{digest}", tag = "objects",
    params(DigestParams),
    responses(
        StoredBytes,
        (status = 400, description = "Not a digest", body = ProblemBody),
        (status = 404, description = "No such object or page", body = ProblemBody),
    )
)]
async fn get(
    State(service): State<Service>,
    OnePart(digest): OnePart,
    headers: HeaderMap,
) -> Result<Response> {
    content::object_or_page(&service, &headers, parse(&digest)?).await
}

/// Reads a digest of a path.
pub(super) fn parse(digest: &str) -> Result<ObjectId> {
    digest
        .parse()
        .map_err(|error: pool_core::digest::ParseDigestError| {
            Problem::bad_request("bad-digest", error.to_string())
        })
}
