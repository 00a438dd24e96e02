//! Which host a request is meant for (RFC 9112, 3.2), which decides who may ask.

use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::problem::Problem;

/// Refuses a request that names no host or several: another that reads it, as a proxy, might
/// choose another one. A host in the target goes before that of the header.
pub(crate) async fn settle(mut request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11 {
        let what = format!("the request has {hosts} Host headers");
        return Problem::bad_request("bad-host", what)
            .hint("send one")
            .into_response();
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
