//! Request bodies, with their limits.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use crate::problem::{Problem, Result};
use crate::service::blocking;

/// A client that sends nothing for this long is given up.
const IDLE: Duration = Duration::from_secs(60);
/// What is still taken in after a refusal, so that the client gets to read it: closing a socket
/// with unread bytes resets it.
const DRAIN_BYTES: u64 = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// Bytes that are gathered before they are written.
const WRITE_SIZE: usize = 1 << 20;

/// A body that is read piece by piece and may not be longer than a limit.
pub(crate) struct LimitedBody {
    stream: BodyDataStream,
    limit: u64,
    hint: &'static str,
    received: u64,
}

impl LimitedBody {
    /// Refuses at once when the client announces too much.
    pub(crate) fn new(
        headers: &HeaderMap,
        body: Body,
        limit: u64,
        hint: &'static str,
    ) -> Result<Self> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(Problem::too_large(limit, hint));
        }
        Ok(Self {
            stream: body.into_data_stream(),
            limit,
            hint,
            received: 0,
        })
    }

    /// The next piece, `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let next = tokio::time::timeout(IDLE, self.stream.next()).await;
        let piece = match next {
            Err(_) => {
                let what = format!("the body stopped for {} seconds", IDLE.as_secs());
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", what));
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                let what = format!("the body ended early: {error}");
                return Err(Problem::bad_request("cut-off", what));
            }
            Ok(Some(Ok(piece))) => piece,
        };
        self.received += piece.len() as u64;
        if self.received > self.limit {
            return Err(Problem::too_large(self.limit, self.hint));
        }
        Ok(Some(piece))
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Takes in some of what is left after a refusal.
    pub(crate) async fn drain(&mut self) {
        let drain = async {
            let mut left = DRAIN_BYTES;
            while let Some(Ok(piece)) = self.stream.next().await {
                left = left.saturating_sub(piece.len() as u64);
                if left == 0 {
                    break;
                }
            }
        };
        // Whether it ended or time ran out: the answer follows.
        drop(tokio::time::timeout(DRAIN_TIME, drain).await);
    }

    /// Passes on `result`, after draining when it is a refusal.
    pub(crate) async fn settle<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.drain().await;
        }
        result
    }

    async fn read_all(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Writes the whole body to `file`.
    pub(crate) async fn spool(&mut self, mut file: File) -> Result<File> {
        let mut gathered = Vec::with_capacity(WRITE_SIZE);
        loop {
            let piece = self.next().await?;
            let last = piece.is_none();
            gathered.extend_from_slice(&piece.unwrap_or_default());
            if gathered.len() >= WRITE_SIZE || last {
                (file, gathered) = blocking(move || {
                    file.write_all(&gathered)
                        .map_err(|error| Problem::io("keeping the upload", &error))?;
                    gathered.clear();
                    Ok((file, gathered))
                })
                .await?;
            }
            if last {
                return Ok(file);
            }
        }
    }
}

/// Reads a JSON body of at most `limit` bytes.
pub(crate) async fn read_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    limit: u64,
) -> Result<T> {
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        // A web page may make a browser send plain text anywhere, but not JSON.
        let what = "the body must be JSON";
        return Err(
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", what)
                .hint("send the header Content-Type: application/json"),
        );
    }
    let mut body = LimitedBody::new(headers, body, limit, "send less at a time")?;
    let read = body.read_all().await;
    let bytes = body.settle(read).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let what = format!("the body is not the JSON that belongs here: {error}");
        Problem::bad_request("bad-json", what).hint("see /v1/openapi.json for its form")
    })
}
