//! The service itself: what it is, how it does, and the description of its API.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth;
use crate::problem::{Problem, Result};
use crate::service::{Service, blocking};
use crate::types::{Health, Stats, Version};

/// How old the store's figures in `/metrics` may be: counting visits most records of the index.
const METRICS_AGE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(version))
        .routes(routes!(health))
        .routes(routes!(stats))
        .routes(routes!(metrics))
        .routes(routes!(document))
}

/// What the service is.
#[utoipa::path(
    get, path = "/v1/version", tag = "service",
    responses((status = 200, description = "Names and versions", body = Version))
)]
async fn version(State(service): State<Service>) -> Json<Version> {
    let superblock = service.store().superblock();
    Json(Version {
        name: "poolsvc".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        store_format: superblock.version,
        store: auth::hex(&superblock.identity),
    })
}

/// Whether the service lives, and whether it can do its work.
#[utoipa::path(
    get, path = "/healthz", tag = "service",
    responses(
        (status = 200, description = "It can", body = Health),
        (status = 503, description = "It lives, and cannot: it is shutting down, or the store cannot be read", body = Health),
    )
)]
async fn health(State(service): State<Service>) -> (StatusCode, Json<Health>) {
    let readable = service.with_store(|store| Ok(store.epoch()?)).await.is_ok();
    let ready = readable && !service.is_stopping();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Health { live: true, ready }))
}

/// The state of the store in numbers.
#[utoipa::path(
    get, path = "/v1/stats", tag = "service",
    responses((status = 200, description = "As of the last commit", body = Stats))
)]
async fn stats(State(service): State<Service>) -> Result<Json<Stats>> {
    let work = service.clone();
    let look = move || {
        let scrubbed_at = work.scrub_state().completed_at;
        let quotas = work.store().quota_use();
        Ok((work.stats(Duration::ZERO)?, scrubbed_at, quotas))
    };
    let (store, scrubbed_at, quotas) = blocking(look).await?;
    Ok(Json(Stats {
        store,
        dense_from_pages: service.options().dense_from_pages,
        uploads: service.uploads().count() as u64,
        damaged_pages: service.store().damaged_slots(),
        scrubbed_at,
        quotas,
    }))
}

/// Counters for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((status = 200, description = "OpenMetrics text", content_type = "application/openmetrics-text"))
)]
async fn metrics(State(service): State<Service>) -> Result<Response> {
    let work = service.clone();
    let text = blocking(move || {
        let stats = work.stats(METRICS_AGE)?;
        let uploads = work.uploads().count() as u64;
        work.metrics()
            .note_upload_memory(work.store().upload_memory());
        work.metrics().note_quotas(&work.store().quota_use());
        work.metrics()
            .encode(
                &stats,
                uploads,
                work.store().damaged_slots(),
                &work.scrub_state(),
            )
            .map_err(Problem::internal)
    })
    .await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
async fn document(State(service): State<Service>) -> Response {
    Json(super::document(service.gate().needs_token())).into_response()
}
