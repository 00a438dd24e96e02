//! Conditional requests (RFC 9110, 13): `If-Match` and `If-None-Match`.
//!
//! A read is compared with the entity-tag of its answer, here, for every route at once. A change
//! becomes a [`Precondition`] that the store looks at under its writer's lock, so that of two who
//! push the same tag with `If-None-Match: *` one wins. Nothing here has a modification date, so
//! `If-Modified-Since` and `If-Unmodified-Since` are ignored, as 13.1.3 and 13.1.4 want.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use pool_core::digest::ObjectId;
use pool_store::manifest::Revision;
use pool_store::precondition::{Precondition, Revisions};
use serde_json::Value;

use crate::problem::{Problem, Result};

/// What a request says about the state that it expects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// The value of a condition.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    /// `*`: whatever exists.
    Any,
    Listed(Vec<Tag>),
}

/// An entity-tag (8.8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tag {
    weak: bool,
    opaque: String,
}

/// What becomes of a read.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Answer,
    NotModified,
    Failed,
}

impl Conditions {
    /// Reads the conditions of a request. A condition that cannot be read is refused: whoever
    /// wrote it would take the answer for the answer to it.
    fn of(headers: &HeaderMap) -> Result<Self> {
        Ok(Self {
            if_match: Tags::of(headers, &header::IF_MATCH)?,
            if_none_match: Tags::of(headers, &header::IF_NONE_MATCH)?,
        })
    }

    /// What must hold of a name for it to be changed.
    pub(crate) fn precondition(&self) -> Precondition {
        let mut precondition = Precondition::default();
        if let Some(tags) = &self.if_match {
            // Strong comparison: a weak tag is no tag's equal.
            precondition = precondition.among(tags.revisions(|tag| !tag.weak));
        }
        if let Some(tags) = &self.if_none_match {
            precondition = precondition.outside(tags.revisions(|_| true));
        }
        precondition
    }

    /// What becomes of a read whose answer has the strong entity-tag `current`, or none, in the order
    /// of 13.2.2. What has no tag exists, and is none of those listed.
    fn verdict(&self, current: Option<&str>) -> Verdict {
        let matches = |tags: &Tags, weak_too: bool| match tags {
            Tags::Any => true,
            Tags::Listed(list) => list
                .iter()
                .any(|tag| Some(tag.opaque.as_str()) == current && (weak_too || !tag.weak)),
        };
        if self
            .if_match
            .as_ref()
            .is_some_and(|tags| !matches(tags, false))
        {
            return Verdict::Failed;
        }
        if self
            .if_none_match
            .as_ref()
            .is_some_and(|tags| matches(tags, true))
        {
            return Verdict::NotModified;
        }
        Verdict::Answer
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Conditions {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Self::of(&parts.headers)
    }
}

impl Tags {
    fn of(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>> {
        // A letter for each byte: tags may have bytes beyond ASCII (`obs-text`), though none here has.
        let letters =
            |line: &HeaderValue| line.as_bytes().iter().copied().map(char::from).collect();
        let lines: Vec<String> = headers.get_all(name).iter().map(letters).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        Self::parse(&lines.join(",")).map(Some).ok_or_else(|| {
            let what = format!("the header {name} holds neither * nor a list of entity-tags");
            Problem::bad_request("bad-condition", what)
                .hint("entity-tags are quoted, as the header ETag of an answer has them")
        })
    }

    /// `*`, or entity-tags between commas; elements of a list may be empty (5.6.1.2).
    fn parse(text: &str) -> Option<Self> {
        if text.trim_matches([' ', '\t', ',']) == "*" {
            return Some(Self::Any);
        }
        let mut list = Vec::new();
        let mut rest = text.trim_start_matches([' ', '\t', ',']);
        while !rest.is_empty() {
            let (weak, quoted) = match rest.strip_prefix("W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
            if !opaque.chars().all(|c| c > ' ' && c != '\u{7f}') {
                return None;
            }
            list.push(Tag {
                weak,
                opaque: opaque.to_owned(),
            });
            let after = after.trim_start_matches([' ', '\t']);
            if !after.is_empty() && !after.starts_with(',') {
                return None;
            }
            rest = after.trim_start_matches([' ', '\t', ',']);
        }
        // An empty list is nothing's equal.
        Some(Self::Listed(list))
    }

    fn revisions(&self, counts: impl Fn(&Tag) -> bool) -> Revisions {
        match self {
            Self::Any => Revisions::Any,
            Self::Listed(list) => Revisions::Listed(
                list.iter()
                    .filter(|tag| counts(tag))
                    // A tag that this service never gave out is nothing's.
                    .filter_map(|tag| tag.opaque.parse().ok())
                    .collect(),
            ),
        }
    }
}

/// The changes that look at no condition, by method and pattern of the path.
#[derive(Clone, Debug)]
pub(crate) struct Unconditional(Arc<HashSet<(Method, String)>>);

impl Unconditional {
    /// Those that list no 412 in an OpenAPI document.
    pub(crate) fn of(document: &Value) -> Self {
        let mut changes = HashSet::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                if operation["responses"].get("412").is_none()
                    && let Ok(method) = method.to_uppercase().parse()
                    && method != Method::GET
                {
                    changes.insert((method, path.clone()));
                }
            }
        }
        Self(Arc::new(changes))
    }
}

/// Refuses a change under a condition that its route would overlook: it must not be made when the
/// condition does not hold (13.1.1), and what has no entity-tag cannot be compared.
pub(crate) async fn refuse_elsewhere(
    State(unconditional): State<Unconditional>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let conditional = [header::IF_MATCH, header::IF_NONE_MATCH]
        .iter()
        .any(|name| headers.contains_key(name));
    if conditional
        && let Some(path) = request.extensions().get::<MatchedPath>()
        && unconditional
            .0
            .contains(&(request.method().clone(), path.as_str().to_owned()))
    {
        let what = "nothing here has an entity-tag that a condition could be compared with";
        return Problem::bad_request("bad-condition", what)
            .hint("ask again without If-Match and If-None-Match")
            .into_response();
    }
    next.run(request).await
}

/// The header that tells the state of an answer.
pub(crate) fn etag(of: impl std::fmt::Display) -> [(HeaderName, HeaderValue); 1] {
    let value = HeaderValue::try_from(format!("\"{of}\""));
    let value = value.unwrap_or_else(|_| HeaderValue::from_static("\"\""));
    [(header::ETAG, value)]
}

/// Answers that a route gave `revision` to.
pub(crate) fn with_revision(revision: Revision, answer: impl IntoResponse) -> Response {
    (etag(revision), answer).into_response()
}

/// Most of a JSON answer that is read back to be given a tag.
const MAX_TAGGED: usize = 1 << 30;

/// Gives every JSON answer to a read an entity-tag, and does what the conditions of the read say.
pub(crate) async fn answer_reads(request: Request, next: Next) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let conditions = match Conditions::of(request.headers()) {
        Ok(conditions) => conditions,
        Err(problem) => return problem.into_response(),
    };
    let response = next.run(request).await;
    // What would not succeed anyway is said first (13.2.1); a range comes after the conditions.
    if !matches!(response.status().as_u16(), 200 | 206 | 416) {
        return response;
    }
    let (response, tag) = match tagged(response).await {
        Ok(tagged) => tagged,
        Err(problem) => return problem.into_response(),
    };
    match conditions.verdict(tag.as_deref()) {
        Verdict::Answer => response,
        Verdict::NotModified => not_modified(response.into_parts().0.headers),
        Verdict::Failed => {
            let has = tag.map_or_else(
                || "it has no ETag".to_owned(),
                |tag| format!("its ETag is \"{tag}\""),
            );
            let what = format!("this is not what the request expects: {has}");
            Problem::new(StatusCode::PRECONDITION_FAILED, "precondition-failed", what)
                .hint("ask again without If-Match")
                .into_response()
        }
    }
}

/// The answer and its entity-tag without the quotes, `None` when it has none.
async fn tagged(response: Response) -> Result<(Response, Option<String>)> {
    let headers = response.headers();
    if let Some(tag) = headers.get(header::ETAG) {
        let tag = tag
            .to_str()
            .unwrap_or_default()
            .trim_matches('"')
            .to_owned();
        return Ok((response, Some(tag)));
    }
    let json = HeaderValue::from_static("application/json");
    if response.status() != StatusCode::OK || headers.get(header::CONTENT_TYPE) != Some(&json) {
        return Ok((response, None));
    }
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_TAGGED)
        .await
        .map_err(Problem::internal)?;
    let tag = ObjectId::of(&body).to_string();
    parts.headers.extend(etag(&tag));
    Ok((Response::from_parts(parts, Body::from(body)), Some(tag)))
}

/// 304 with the headers that it must have (15.4.5), and without a length: that of a body which is
/// not sent would be wrong.
fn not_modified(mut headers: HeaderMap) -> Response {
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_RANGE,
        header::ACCEPT_RANGES,
    ] {
        headers.remove(name);
    }
    let nothing = stream::empty::<std::result::Result<Vec<u8>, std::io::Error>>();
    (
        StatusCode::NOT_MODIFIED,
        headers,
        Body::from_stream(nothing),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_entity_tags_are_read_as_written() {
        let listed = |tags: &[(bool, &str)]| {
            let tag = |(weak, opaque): &(bool, &str)| Tag {
                weak: *weak,
                opaque: (*opaque).to_owned(),
            };
            Some(Tags::Listed(tags.iter().map(tag).collect()))
        };
        for (text, tags) in [
            ("*", Some(Tags::Any)),
            (" * ", Some(Tags::Any)),
            ("\"a\"", listed(&[(false, "a")])),
            ("W/\"a\"", listed(&[(true, "a")])),
            (
                "\"a\" ,\tW/\"b,c\",,",
                listed(&[(false, "a"), (true, "b,c")]),
            ),
            ("\"\"", listed(&[(false, "")])),
            ("", listed(&[])),
            ("a", None),
            ("\"a", None),
            ("\"a\" \"b\"", None),
            ("w/\"a\"", None),
            ("*, \"a\"", None),
            ("\"a b\"", None),
        ] {
            assert_eq!(Tags::parse(text), tags, "{text}");
        }
    }

    #[test]
    fn tags_of_others_may_have_bytes_beyond_ascii() {
        let of = |value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            Conditions::of(&HeaderMap::from_iter([(header::IF_NONE_MATCH, value)]))
        };
        let verdict = |value: &[u8]| of(value).unwrap().verdict(Some("now"));
        assert_eq!(verdict(b"\"n\xf6w\""), Verdict::Answer);
        assert_eq!(verdict(b"\"n\xf6w\", \"now\""), Verdict::NotModified);
        assert!(of(b"n\xf6w").is_err());
    }

    #[test]
    fn reads_follow_the_order_of_the_rfc() {
        let verdict = |pairs: &[(HeaderName, &'static str)]| {
            let pairs = pairs.iter().cloned();
            let headers = pairs.map(|(name, value)| (name, HeaderValue::from_static(value)));
            Conditions::of(&headers.collect())
                .unwrap()
                .verdict(Some("now"))
        };
        let (is, none) = (header::IF_MATCH, header::IF_NONE_MATCH);
        for (pairs, expected) in [
            (vec![], Verdict::Answer),
            (vec![(is.clone(), "\"now\"")], Verdict::Answer),
            (vec![(is.clone(), "\"x\", \"now\"")], Verdict::Answer),
            (vec![(is.clone(), "*")], Verdict::Answer),
            (vec![(is.clone(), "W/\"now\"")], Verdict::Failed),
            (vec![(is.clone(), "\"x\"")], Verdict::Failed),
            (vec![(none.clone(), "\"now\"")], Verdict::NotModified),
            (vec![(none.clone(), "W/\"now\"")], Verdict::NotModified),
            (vec![(none.clone(), "*")], Verdict::NotModified),
            (vec![(none.clone(), "\"x\"")], Verdict::Answer),
            (
                vec![(is.clone(), "\"x\""), (none.clone(), "\"now\"")],
                Verdict::Failed,
            ),
            (
                vec![(is, "\"now\""), (none, "\"now\"")],
                Verdict::NotModified,
            ),
        ] {
            assert_eq!(verdict(&pairs), expected, "{pairs:?}");
        }
    }
}
