//! What a client is told when something went wrong.

use std::io;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::digest::ObjectId;
use pool_core::name::NameError;
use pool_core::registry::ReserveError;
use pool_image::describe::DescribeError;
use pool_store::StoreError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::wire::PageList;

/// The body of every refusal (`application/problem+json`, RFC 9457), but of what cannot be read as
/// an HTTP request: that is answered by 400, 414 or 431 without a body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// The status's own phrase, since the type is `about:blank` (RFC 9457, 4.2.1).
    #[serde(default)]
    pub title: String,
    /// The status.
    #[serde(default)]
    pub status: u16,
    /// A stable word for programs, as in `not-found`.
    pub error: String,
    /// What is wrong, with what, for people.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// For `missing-pages`: the pages to send before committing again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::pages)]
    pub missing: Option<PageList>,
    /// For `unknown-objects`: those that the pool does not have, or cannot read, to be announced, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::digests)]
    pub unknown: Option<Vec<ObjectId>>,
}

/// The word for a change that is made and not acknowledged.
const IN_DOUBT: &str = "in-doubt";

/// The word for a body in a coding that is not taken.
pub(crate) const CODED: &str = "coded";

/// The word for what is refused only because of what others do meanwhile.
pub(crate) const BUSY: &str = "busy";

/// The word for pages that do not make up the object that they are said to.
pub(crate) const OBJECT_MISMATCH: &str = "object-mismatch";

/// The word for a token that was shown and is none.
pub(crate) const UNKNOWN_TOKEN: &str = "unknown-token";

/// An answer that says what went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: Box<ProblemBody>,
}

/// What routes return.
pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    /// A problem without a hint.
    pub fn new(status: StatusCode, error: &str, detail: impl Into<String>) -> Self {
        Self {
            status,
            body: Box::new(ProblemBody {
                title: status.canonical_reason().unwrap_or_default().into(),
                status: status.as_u16(),
                error: error.into(),
                detail: detail.into(),
                ..ProblemBody::default()
            }),
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = Some(hint.into());
        self
    }

    /// 400.
    pub fn bad_request(error: &str, what: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, what)
    }

    /// 404 of a thing by its name.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::nothing_is(what).hint("list what there is: pool ls")
    }

    /// 404 of a thing that no list of names shows.
    pub fn nothing_is(what: impl std::fmt::Display) -> Self {
        let what = format!("there is no {what} in the pool");
        Self::new(StatusCode::NOT_FOUND, "not-found", what)
    }

    /// 413 of a body longer than `limit` bytes.
    pub fn too_large(limit: u64, hint: &str) -> Self {
        let what = format!("the body is longer than {limit} bytes, the limit here");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", what).hint(hint)
    }

    /// 500. The cause is logged here; the client learns what a person can use.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            cause.to_string(),
        )
        .hint("see the log of poolsvc")
    }

    /// A failure to write a file of the service's own: 507 on a full disk, else 500.
    pub fn io(doing: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::no_space(format!(
                "no space left while {doing}: nothing was changed; free space or collect unused \
                     pages (pool gc), then try again"
            )),
            _ => Self::internal(format!("{doing}: {error}")),
        }
    }

    /// `detail` says what to do, too.
    fn no_space(what: String) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "no-space", what)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // What is in doubt stays so until a person has mended something.
        let seconds = if self.body.error == IN_DOUBT {
            "30"
        } else {
            "1"
        };
        let retry_after = HeaderValue::from_static(seconds);
        // A challenge has at least one parameter (RFC 6750, 3).
        let challenge = HeaderValue::from_static(if self.body.error == UNKNOWN_TOKEN {
            "Bearer realm=\"pool\", error=\"invalid_token\""
        } else {
            "Bearer realm=\"pool\""
        });
        let is_coded = self.body.error == CODED;
        let mut response = (self.status, Json(self.body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE && is_coded {
            // A body is taken as it is, and of media types this says nothing (RFC 9110, 12.5.3).
            headers.insert(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("identity"),
            );
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, retry_after);
        }
        response
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        Self::bad_request("bad-name", error.to_string())
    }
}

impl From<DescribeError> for Problem {
    fn from(error: DescribeError) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "not-an-image",
            error.to_string(),
        )
    }
}

impl From<ReserveError> for Problem {
    fn from(error: ReserveError) -> Self {
        let (status, word) = match &error {
            ReserveError::Conflict { .. } | ReserveError::Layout { .. } => {
                (StatusCode::CONFLICT, "version-conflict")
            }
            ReserveError::Full { .. } => (StatusCode::CONFLICT, "registry-full"),
            ReserveError::Alignment { .. }
            | ReserveError::Tls { .. }
            | ReserveError::Keeps { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "bad-reservation"),
        };
        Self::new(status, word, error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let what = error.to_string();
        let (status, word) = match error {
            StoreError::NoSpace { .. } => return Self::no_space(what),
            StoreError::NotFound(name) => return Self::not_found(name),
            StoreError::Io { .. }
            | StoreError::Index { .. }
            | StoreError::Corrupt(_)
            | StoreError::Damaged(_)
            | StoreError::Extents(..)
            | StoreError::NotAStore { .. }
            | StoreError::Refused { .. }
            | StoreError::NotMade { .. }
            | StoreError::Backup { .. }
            | StoreError::Unsupported { .. }
            | StoreError::NotFollowed(_) => return Self::internal(what),
            // Not the client's doing, and to be asked again (RFC 9110, 15.6.4). `detail` says the rest.
            StoreError::InDoubt { .. } => {
                tracing::error!(cause = %what, "a change is not acknowledged");
                (StatusCode::SERVICE_UNAVAILABLE, IN_DOUBT)
            }
            StoreError::Locked { .. } => (StatusCode::SERVICE_UNAVAILABLE, "locked"),
            StoreError::NoSegment(_) => (StatusCode::SERVICE_UNAVAILABLE, "moved"),
            StoreError::PageMismatch { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "page-mismatch"),
            StoreError::UnexpectedPage(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unexpected-page"),
            StoreError::ObjectMismatch { .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, OBJECT_MISMATCH)
            }
            StoreError::BadUpload(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad-upload"),
            StoreError::VersionConflict { .. } => (StatusCode::CONFLICT, "version-conflict"),
            StoreError::InUse { .. } => (StatusCode::CONFLICT, "in-use"),
            StoreError::PreconditionFailed { .. } => {
                (StatusCode::PRECONDITION_FAILED, "precondition-failed")
            }
            // As Ceph's object gateway answers; the disk may have room enough.
            StoreError::QuotaExceeded { .. } => (StatusCode::FORBIDDEN, "quota-exceeded"),
            StoreError::CollectionRunning => (StatusCode::CONFLICT, "collection-running"),
            StoreError::CollectionStopped => (StatusCode::CONFLICT, "collection-stopped"),
            StoreError::Distrusted { .. } => (StatusCode::CONFLICT, "index-distrusted"),
            StoreError::MissingPages(missing) => {
                let mut problem = Self::new(StatusCode::CONFLICT, "missing-pages", what);
                problem.body.missing = Some(PageList::of(&missing));
                return problem;
            }
            StoreError::UnknownObjects(unknown) => {
                let mut problem = Self::new(StatusCode::CONFLICT, "unknown-objects", what);
                problem.body.unknown = Some(unknown);
                return problem;
            }
        };
        Self::new(status, word, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::digest::PageId;
    use pool_store::Again;

    /// Clients tell by it whether a coding or a media type is not taken (RFC 9110, 12.5.3).
    #[test]
    fn what_codings_are_taken_is_told_of_codings_alone() {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        for (word, told) in [(CODED, true), ("not-json", false), ("form", false)] {
            let response = Problem::new(status, word, "x").into_response();
            let has = response.headers().contains_key(header::ACCEPT_ENCODING);
            assert_eq!(has, told, "{word}");
        }
    }

    #[test]
    fn errors_of_the_store_have_the_status_that_tells_who_must_act() {
        let page = PageId::of(b"p");
        let object = ObjectId::of(b"o");
        let path = || "/p".into();
        let no_space = StoreError::NoSpace {
            doing: "writing",
            path: path(),
            again: Again::WithSpace,
        };
        let in_doubt = || StoreError::InDoubt {
            path: path(),
            error: io::Error::other("x"),
        };
        let mismatch = StoreError::PageMismatch {
            expected: page,
            found: page,
        };
        let conflict = StoreError::VersionConflict {
            library: "z@1".into(),
            stored: object,
            pushed: object,
        };
        let quota = StoreError::QuotaExceeded {
            prefix: "team-".into(),
            quota: 1,
            used: 0,
            would_be: 2,
        };
        for (error, status) in [
            (no_space, 507),
            (in_doubt(), 503),
            (mismatch, 422),
            (conflict, 409),
            (quota, 403),
            (StoreError::MissingPages(vec![page]), 409),
            (StoreError::NotFound("x".into()), 404),
            (StoreError::BadUpload("x".into()), 422),
            (StoreError::Corrupt("x".into()), 500),
            (StoreError::CollectionRunning, 409),
            (StoreError::Distrusted { path: path() }, 409),
        ] {
            let text = error.to_string();
            let problem = Problem::from(error);
            assert_eq!(problem.status.as_u16(), status, "{text}");
            assert_eq!(problem.body.detail, text);
        }
        // A program can tell it from a service that is busy, and when to ask again.
        let problem = Problem::from(in_doubt());
        assert_eq!(problem.body.error, "in-doubt");
        assert!(problem.body.detail.contains("made and not acknowledged"));
        assert_eq!(problem.into_response().headers()["retry-after"], "30");
        // Whoever asks for what is not there is told what to do, whichever verb looked.
        let problem = Problem::from(StoreError::NotFound("lib/z@1".into()));
        assert_eq!(problem, Problem::not_found("lib/z@1"));
        assert!(problem.body.hint.is_some());
        let problem = Problem::from(StoreError::MissingPages(vec![page]));
        assert_eq!(problem.body.missing, Some(PageList::of(&[page])));
        let problem = Problem::from(StoreError::UnknownObjects(vec![object]));
        assert_eq!(problem.status.as_u16(), 409);
        assert_eq!(problem.body.unknown, Some(vec![object]));
    }
}
