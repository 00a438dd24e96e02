//! Answers that several routes give, and how the document describes them.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::name::Named;
use serde::Serialize;
use utoipa::IntoResponses;
use utoipa::openapi::{self, ContentBuilder, Ref, RefOr, ResponseBuilder};

use crate::paths;
use crate::types::PushSummary;

/// 201 with the place of what was made (RFC 9110, 15.3.2), or 200 with what was there.
pub(super) struct Made<T> {
    pub(super) created: bool,
    /// Path of what was made.
    pub(super) location: String,
    pub(super) body: T,
}

impl Made<PushSummary> {
    /// A push, which may have made its name (RFC 9110, 9.3.4).
    pub(super) fn of(name: &Named, body: PushSummary) -> Self {
        Self {
            created: body.created,
            location: paths::named(name),
            body,
        }
    }
}

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        if !self.created {
            return Json(self.body).into_response();
        }
        let mut response = (StatusCode::CREATED, Json(self.body)).into_response();
        // Paths are percent-encoded, so this never fails.
        if let Ok(location) = HeaderValue::try_from(self.location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// One answer: its status, its description, and whether its body is a problem or bytes.
type Described = (&'static str, &'static str, Body);

enum Body {
    Problem,
    Bytes,
}

fn described(all: &[Described]) -> BTreeMap<String, RefOr<openapi::Response>> {
    let one = |(status, description, body): &Described| {
        let (kind, content) = match body {
            Body::Problem => {
                let schema = Ref::from_schema_name("ProblemBody");
                let content = ContentBuilder::new().schema(Some(schema));
                ("application/problem+json", content)
            }
            Body::Bytes => ("application/octet-stream", ContentBuilder::new()),
        };
        let response = ResponseBuilder::new()
            .description(*description)
            .content(kind, content.build())
            .build();
        ((*status).to_owned(), RefOr::T(response))
    };
    all.iter().map(one).collect()
}

macro_rules! responses {
    ($($(#[$doc:meta])* $name:ident => [$($described:expr),*];)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
                described(&[$($described),*])
            }
        }
    )*};
}

responses! {
    /// Stored bytes.
    StoredBytes => [
        ("200", "The bytes", Body::Bytes),
        ("206", "The range asked for", Body::Bytes),
        ("416", "No such range", Body::Problem)
    ];
    /// The library version of the path is not there.
    NoLibrary => [("404", "No such library version", Body::Problem)];
    /// The image of the path is not there.
    NoImage => [("404", "No such image", Body::Problem)];
    /// The upload of the path is not there.
    NoUpload => [("404", "No such upload", Body::Problem)];
    /// What a change under conditions may meet; a change without it refuses conditions.
    Conditional => [("412", "The name is not what the conditions expect", Body::Problem)];
}
