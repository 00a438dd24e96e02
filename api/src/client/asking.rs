//! One request and its answer: what is sent along, and what of an answer is none.

use std::io::{self, Read};
use std::time::Duration;

use pool_core::digest::ObjectId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{HeaderValue, Method, Request, Response};
use ureq::{AsSendBody, Body, BodyReader, Timeout};

use super::{Client, ClientError, PATIENCE, Result};
use crate::problem::ProblemBody;

/// The media type of stored bytes.
const OCTETS: &str = "application/octet-stream";

/// What rustls says of a certificate that it does not accept.
const UNTRUSTED: &str = "invalid peer certificate";

/// Longest JSON answer that is taken in; lists of pages are the long ones.
pub(super) const MAX_JSON: u64 = 1 << 30;

impl Client {
    pub(super) fn remove(&self, path: &str) -> Result<()> {
        let status = self.ask(Method::DELETE, path, ())?.status().as_u16();
        if status != 204 {
            return Err(self.strange(status, &"a removal is answered by 204"));
        }
        Ok(())
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.json(self.ask(Method::GET, path, ())?)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let json = serde_json::to_vec(body).expect("requests have only string keys");
        self.json(self.ask(Method::POST, path, Json(&json))?)
    }

    /// Sends a request and sorts out refusals.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: impl RequestBody,
    ) -> Result<Response<Body>> {
        self.ask_if(method, path, body, None)
    }

    /// The same with a condition: a header's name and value.
    pub(super) fn ask_if(
        &self,
        method: Method,
        path: &str,
        body: impl RequestBody,
        condition: Option<(&str, &str)>,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server.base()))
            // Without this any coding may be answered in (RFC 9110, 12.5.3).
            .header("accept-encoding", "identity");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        if let Some((name, value)) = condition {
            request = request.header(name, value);
        }
        if let Some(kind) = body.content_type() {
            request = request.header("content-type", kind);
        }
        let request = request
            .body(body.into_send_body())
            .map_err(|error| self.lost(error.into()))?;
        let patience = self.patience(path);
        let request = self
            .agent
            .configure_request(request)
            .timeout_per_read(patience)
            .timeout_per_write(patience)
            .build();
        let mut response = self.agent.run(request).map_err(|error| self.lost(error))?;
        let status = response.status().as_u16();
        let coding = response.headers().get("content-encoding");
        if let Some(coding) = coding.filter(|coding| *coding != "identity") {
            let coding = coding.to_str().unwrap_or("?");
            return Err(self.strange(status, &format!("it answers in {coding}, unasked")));
        }
        if (200..300).contains(&status) {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        if let Some(place) = header("location").filter(|_| (300..400).contains(&status)) {
            let why = format!(
                "it sends to {place}, and is not followed: name the service itself with --server or \
                 POOL_SERVER"
            );
            return Err(self.strange(status, &why));
        }
        let retry_after = header("retry-after")
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        let body = response.body_mut().with_config().limit(MAX_JSON);
        let text = body.read_to_string().unwrap_or_default();
        Err(match serde_json::from_str::<ProblemBody>(&text) {
            Ok(body) => ClientError::Refused {
                status,
                body: Box::new(body),
                retry_after,
            },
            Err(_) => self.strange(status, &text.chars().take(200).collect::<String>()),
        })
    }

    pub(super) fn json<T: DeserializeOwned>(&self, mut response: Response<Body>) -> Result<T> {
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_JSON);
        let bytes = body.read_to_vec().map_err(|error| self.lost(error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(status, &error))
    }

    pub(super) fn lost(&self, source: ureq::Error) -> ClientError {
        let server = self.server.to_string();
        if matches!(
            source,
            ureq::Error::Timeout(Timeout::PerRead | Timeout::PerWrite)
        ) {
            let seconds = self.patience.unwrap_or(PATIENCE).as_secs();
            return ClientError::Silent { server, seconds };
        }
        let untrusted = match &source {
            ureq::Error::Io(error) => error.to_string().starts_with(UNTRUSTED),
            ureq::Error::Rustls(error) => error.to_string().starts_with(UNTRUSTED),
            _ => false,
        };
        let source = Box::new(source);
        if untrusted {
            ClientError::Untrusted { server, source }
        } else {
            ClientError::Connection { server, source }
        }
    }

    pub(super) fn strange(&self, status: u16, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Strange {
            server: self.server.to_string(),
            status,
            why: why.to_string(),
        }
    }
}

/// Content on its way. What goes wrong with it is told as with any other answer.
pub(super) struct Content {
    pub(super) client: Client,
    /// What it must be, and what it has been so far.
    pub(super) check: Option<(ObjectId, Box<blake3::Hasher>)>,
    pub(super) reader: BodyReader<'static>,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer);
        let read = read.map_err(|error| {
            io::Error::other(match self.client.lost(error.into()) {
                ClientError::Connection { server, source } => {
                    ClientError::CutOff { server, source }
                }
                other => other,
            })
        })?;
        if let Some((expected, hasher)) = &mut self.check {
            hasher.update(&buffer[..read]);
            let is_the_end = read == 0 && !buffer.is_empty();
            let found = is_the_end.then(|| ObjectId::from(hasher.finalize()));
            if let Some(found) = found.filter(|found| found != expected) {
                return Err(io::Error::other(ClientError::Damaged {
                    server: self.client.server.to_string(),
                    expected: *expected,
                    found,
                }));
            }
        }
        Ok(read)
    }
}

/// The digest that an ETag of stored bytes is.
pub(super) fn digest_of(etag: &HeaderValue) -> Option<ObjectId> {
    let etag = etag.to_str().ok()?;
    // A proxy may have made it weak.
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

/// A request's body and its media type.
pub(super) trait RequestBody {
    type Send: AsSendBody;
    fn content_type(&self) -> Option<&'static str>;
    fn into_send_body(self) -> Self::Send;
}

impl RequestBody for () {
    type Send = ();
    fn content_type(&self) -> Option<&'static str> {
        None
    }
    fn into_send_body(self) -> Self::Send {}
}

pub(super) struct Json<'a>(pub(super) &'a [u8]);

impl<'a> RequestBody for Json<'a> {
    type Send = &'a [u8];
    fn content_type(&self) -> Option<&'static str> {
        Some("application/json")
    }
    fn into_send_body(self) -> Self::Send {
        self.0
    }
}

/// True of the media type of stored bytes, in whatever letters and with whatever parameters (RFC 9110, 8.3.1).
pub(super) fn is_octets(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case(OCTETS)
}

pub(super) struct Octets<'a>(pub(super) &'a [u8]);

impl<'a> RequestBody for Octets<'a> {
    type Send = &'a [u8];
    fn content_type(&self) -> Option<&'static str> {
        Some(OCTETS)
    }
    fn into_send_body(self) -> Self::Send {
        self.0
    }
}
