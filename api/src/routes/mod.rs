//! The routes, one file a topic.

mod admission;
mod collection;
mod content;
mod images;
mod libraries;
mod objects;
mod registry;
mod responses;
mod service;
mod tokens;
mod uploads;
mod whole_file;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use futures_util::FutureExt as _;
use pool_core::name::{ImageRef, LibraryRef, Name};
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;

use crate::body::{self, Leftover};
use crate::problem::{Problem, Result};
use crate::service::Service;
use crate::shape::Shapes;
use crate::{conditions, host, openapi, query, schemas};

/// All routes with their part of the OpenAPI document.
fn documented() -> OpenApiRouter<Service> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .merge(uploads::routes())
        .merge(images::routes())
        .merge(libraries::routes())
        .merge(objects::routes())
        .merge(registry::routes())
        .merge(collection::routes())
        .merge(tokens::routes())
        .merge(service::routes())
}

/// The description of the whole API, for a service that has a token or has none.
fn document(needs_token: bool) -> serde_json::Value {
    let routes = documented().into_openapi();
    openapi::complete(&routes, admission::required_scope, needs_token)
}

/// Everything a service answers. Whoever accepts connections adds an [`crate::auth::Peer`] to the
/// extensions of each request.
pub fn router(service: Service) -> Router {
    let described = document(false);
    let known = query::Known::of(&described);
    let shapes = Shapes::of(&described);
    let unconditional = conditions::Unconditional::of(&described);
    let (router, _) = documented().split_for_parts();
    router
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "no-route", "there is nothing here")
                .hint("see /v1/openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "no-route",
                "this cannot be done here",
            )
            .hint("see /v1/openapi.json")
        })
        .layer(Extension(shapes))
        .layer(middleware::from_fn(conditions::answer_reads))
        .layer(middleware::from_fn_with_state(
            unconditional,
            conditions::refuse_elsewhere,
        ))
        .layer(middleware::from_fn(body::check_form))
        .layer(middleware::from_fn_with_state(known, query::check))
        .layer(middleware::from_fn_with_state(
            service.clone(),
            admission::check,
        ))
        .layer(middleware::from_fn(admission::check_method))
        .layer(middleware::from_fn(host::settle))
        .layer(middleware::from_fn_with_state(service.clone(), observe))
        .with_state(service)
}

/// Counts and logs each request, and turns a panic into an answer.
async fn observe(State(service): State<Service>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned());
    let (mut request, leftover) = Leftover::lend(request);
    if method != Method::GET {
        // Ranges are defined for GET alone (RFC 9110, 14.2).
        request.headers_mut().remove(header::RANGE);
    }
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        Problem::internal(format!("{method} {path} met a defect of the service")).into_response()
    });
    if let Some(leftover) = leftover
        && !leftover.drain().await
    {
        // So that the client does not send another behind it (RFC 9112, 9.6).
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    let took = start.elapsed();
    if response.status() == StatusCode::INSUFFICIENT_STORAGE {
        service.note_full_disk();
    }
    let status = response.status().as_u16();
    let word = known_method(method.as_str());
    service.metrics().note_request(word, &route, status, took);
    tracing::info!(%method, path, status, micros = took.as_micros() as u64, "answered");
    response
}

/// A method name of its own for each request would be a time series of its own.
fn known_method(method: &str) -> &'static str {
    ["GET", "HEAD", "PUT", "POST", "DELETE"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}

/// The variable parts of a path, percent-decoded and checked.
async fn path_parts<T, S>(parts: &mut Parts, state: &S) -> Result<T>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    match Path::<T>::from_request_parts(parts, state).await {
        Ok(Path(values)) => Ok(values),
        Err(PathRejection::FailedToDeserializePathParams(error)) => {
            Err(Problem::bad_request("bad-path", error.body_text()))
        }
        Err(error) => Err(Problem::internal(error)),
    }
}

/// `{name}/{version}` of a path.
struct LibraryPath(LibraryRef);

/// How the document describes a [`LibraryPath`].
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct LibraryParams {
    /// The library.
    #[param(schema_with = schemas::name)]
    name: Name,
    /// Its version.
    #[param(schema_with = schemas::name)]
    version: Name,
}

/// `{name}/{tag}` of a path.
struct ImagePath(ImageRef);

/// How the document describes an [`ImagePath`].
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "a description")]
struct ImageParams {
    /// The image.
    #[param(schema_with = schemas::name)]
    name: Name,
    /// Its tag.
    #[param(schema_with = schemas::name)]
    tag: Name,
}

/// The only variable part of a path.
struct OnePart(String);

impl<S: Send + Sync> FromRequestParts<S> for LibraryPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let (name, version): (String, String) = path_parts(parts, state).await?;
        Ok(Self(LibraryRef {
            name: Name::new(name)?,
            version: Name::new(version)?,
        }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ImagePath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let (name, tag): (String, String) = path_parts(parts, state).await?;
        Ok(Self(ImageRef {
            name: Name::new(name)?,
            tag: Name::new(tag)?,
        }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OnePart {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        path_parts(parts, state).await.map(Self)
    }
}
