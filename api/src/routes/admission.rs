//! Which scope each route needs, and letting in who has it.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use pool_store::manifest::TokenScope;

use crate::auth::Peer;
use crate::problem::Problem;
use crate::service::Service;

/// The scope that a request needs; `None` for what everybody may ask.
pub(super) fn required_scope(method: &str, path: &str) -> Option<TokenScope> {
    let administers = ["/v1/gc", "/v1/fsck", "/v1/scrub", "/v1/tokens"]
        .iter()
        .any(|route| path == *route || path.starts_with(&format!("{route}/")));
    match path {
        "/healthz" | "/v1/version" | "/v1/openapi.json" => None,
        _ if administers => Some(TokenScope::Admin),
        // Those that change nothing (RFC 9110, 9.2.1), whether there is an answer to them or not.
        _ if matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY") => {
            Some(TokenScope::Read)
        }
        _ => Some(TokenScope::Write),
    }
}

/// Methods that clients may well try (RFC 9110, 9.3, RFC 5789, and QUERY, a GET with a body), so that they are told
/// when a resource does not have them.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY",
];

/// Refuses what no resource could have been asked (RFC 9110, 9.1).
pub(super) async fn check_method(request: Request, next: Next) -> Response {
    let method = request.method().as_str();
    if METHODS.contains(&method) {
        return next.run(request).await;
    }
    let shown: String = method.chars().take(80).collect();
    let what = format!("{shown} is no method that is known here");
    Problem::new(StatusCode::NOT_IMPLEMENTED, "no-method", what)
        .hint("see /v1/openapi.json")
        .into_response()
}

/// Lets a request through to its route, or refuses it.
pub(super) async fn check(
    State(service): State<Service>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().copied();
    let needed = required_scope(request.method().as_str(), request.uri().path());
    if let Some(needed) = needed {
        match service.gate().admit(peer, request.headers()) {
            Ok(scope) if scope >= needed => {}
            Ok(scope) => return insufficient(needed, scope),
            Err(problem) => return problem.into_response(),
        }
    }
    next.run(request).await
}

/// Refuses a token that does not let its bearer do this (RFC 6750, 3.1).
fn insufficient(needed: TokenScope, has: TokenScope) -> Response {
    let word = |scope| format!("{scope:?}").to_lowercase();
    let (needed, has) = (word(needed), word(has));
    let what = format!("this needs a token with the scope {needed}, yours has {has}");
    let hint = format!("ask for one: pool token add NAME --scope {needed}");
    let mut refused = Problem::new(StatusCode::FORBIDDEN, "forbidden", what)
        .hint(hint)
        .into_response();
    let challenge =
        format!("Bearer realm=\"pool\", error=\"insufficient_scope\", scope=\"{needed}\"");
    if let Ok(challenge) = HeaderValue::try_from(challenge) {
        refused
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_routes() {
        use TokenScope::{Admin, Read, Write};
        for (method, path, scope) in [
            ("GET", "/healthz", None),
            ("GET", "/v1/libs", Some(Read)),
            ("GET", "/metrics", Some(Read)),
            ("PUT", "/v1/images/a/b", Some(Write)),
            ("POST", "/v1/registry", Some(Write)),
            ("GET", "/v1/tokens", Some(Admin)),
            ("DELETE", "/v1/tokens/x", Some(Admin)),
            ("POST", "/v1/gc", Some(Admin)),
            ("GET", "/v1/gc", Some(Admin)),
            ("DELETE", "/v1/gc/pause", Some(Admin)),
            ("POST", "/v1/scrub", Some(Admin)),
            ("PATCH", "/v1/whatever", Some(Write)),
            ("OPTIONS", "/v1/libs", Some(Read)),
            ("OPTIONS", "/v1/gc", Some(Admin)),
            ("TRACE", "/healthz", None),
        ] {
            assert_eq!(required_scope(method, path), scope, "{method} {path}");
        }
    }
}
