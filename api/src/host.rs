//! Which host a request is meant for (RFC 9112, 3.2), which decides who may ask.

use axum::extract::Request;
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::problem::Problem;

/// Refuses a request that names no host or several: another that reads it, as a proxy, might
/// choose another one. A host in the target goes before that of the header. What is not spoken here
/// is not answered either, `https` above all (RFC 9110, 7.4).
pub(crate) async fn settle(mut request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11 {
        let what = format!("the request has {hosts} Host headers");
        return Problem::bad_request("bad-host", what)
            .hint("send one")
            .into_response();
    }
    let host = request.headers().get(header::HOST);
    if host.is_some_and(|host| !is_host(host)) {
        let what = "the Host header is neither a name nor an address, with or without a port";
        return Problem::bad_request("bad-host", what).into_response();
    }
    let scheme = request.uri().scheme();
    if let Some(scheme) = scheme.filter(|scheme| **scheme != Scheme::HTTP) {
        let what = format!("the target of the request is of {scheme}, and http is spoken here");
        return Problem::bad_request("bad-host", what).into_response();
    }
    if let Some(authority) = request.uri().authority() {
        let Ok(host) = HeaderValue::from_str(authority.as_str()) else {
            let what = "the target of the request names no host";
            return Problem::bad_request("bad-host", what).into_response();
        };
        request.headers_mut().insert(header::HOST, host);
    }
    next.run(request).await
}

/// Whether a header may name a host (RFC 9110, 7.2). It is empty where the target names none.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else {
        return false;
    };
    let number = match text.rsplit_once(':') {
        // In brackets is an address, which has colons of its own.
        Some((_, port)) if !port.ends_with(']') => port,
        _ => "",
    };
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    text.is_empty() || is_number && !text.contains('@') && text.parse::<Authority>().is_ok()
}
