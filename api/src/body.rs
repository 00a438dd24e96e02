//! Request bodies, with their limits.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use pool_store::Spool;
use tokio::sync::OwnedSemaphorePermit;

use crate::pace::Progress;
use crate::problem::{self, CODED, Problem};
use crate::service::{Room, Service, blocking};

/// Most of a body that is still taken in after a refusal.
const DRAIN_BYTES: u64 = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// Bytes that are gathered before they are written.
const WRITE_SIZE: usize = 1 << 20;
/// Time in which they have to come: what came by then is written as it is, and memory for more is given back. So a client holds what it
/// sends in that time, and no more while it sends nothing.
pub(crate) const HELD: Duration = Duration::from_millis(250);

/// Refuses a body that is not what it would be taken for: a part of a file (RFC 9110, 14.5), or
/// bytes in a coding (8.4). A version never changes, so a wrong one would stay wrong.
pub(crate) async fn check_form(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && headers.contains_key(header::CONTENT_RANGE) {
        let what = "a part of a file cannot be put: Content-Range is not taken here";
        return Problem::bad_request("partial", what)
            .hint("send the whole file; pool push sends only the pages that the pool lacks")
            .into_response();
    }
    if !reads && names_other_than(headers, &header::CONTENT_ENCODING, "identity") {
        let what = "the body is in a content coding, and bodies are taken as they are";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Problem::new(status, CODED, what)
            .hint("send it without Content-Encoding")
            .into_response();
    }
    if *request.method() == Method::PUT && is_form(headers) {
        let what = "the body is a form, and would be stored as it is, form and all";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Problem::new(status, "form", what)
            .hint("send the file itself: curl -T FILE URL")
            .into_response();
    }
    let is_chunked_twice = codings(headers, &header::TRANSFER_ENCODING).count() > 1;
    if is_chunked_twice || names_other_than(headers, &header::TRANSFER_ENCODING, "chunked") {
        // Chunks are put together by whoever reads the connection; another coding would be taken
        // for the body (RFC 9112, 6.1).
        let what = "the body is in a transfer coding that is not known here";
        return Problem::new(StatusCode::NOT_IMPLEMENTED, CODED, what)
            .hint("send it as it is, or chunked alone")
            .into_response();
    }
    next.run(request).await
}

/// The codings of a list.
fn codings<'a>(headers: &'a HeaderMap, list: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(list).iter();
    lines
        .flat_map(|line| line.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|coding| !coding.is_empty())
}

/// Whether a list of codings has one that is not `plain`.
fn names_other_than(headers: &HeaderMap, list: &HeaderName, plain: &str) -> bool {
    codings(headers, list).any(|coding| !coding.eq_ignore_ascii_case(plain))
}

/// Whether a body is what a form of a web page or `curl -F` and `-d` send: parts between
/// boundaries, or a file without its line ends.
fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.trim_start().to_ascii_lowercase();
    kind.starts_with("multipart/") || kind.starts_with("application/x-www-form-urlencoded")
}

/// What a route has left of a request's body.
///
/// A service that answers a request without reading its body, because it refuses it or the route
/// takes none, closes the connection on a client that is still sending, which then sees a broken pipe in place of the reason. So some of the
/// body is taken in first; but not from a client that waits to be told to send (RFC 9110, 10.1.1).
pub(crate) struct Leftover {
    shared: Arc<Mutex<Shared>>,
    waits_to_be_told: bool,
}

struct Shared {
    stream: BodyDataStream,
    asked: bool,
    ended: bool,
}

impl Leftover {
    /// Lends `request`'s body to a route. `None` when there is no body.
    pub(crate) fn lend(request: Request) -> (Request, Option<Self>) {
        if request.body().is_end_stream() {
            return (request, None);
        }
        let waits_to_be_told = request.headers().contains_key(header::EXPECT);
        let (parts, body) = request.into_parts();
        let shared = Arc::new(Mutex::new(Shared {
            stream: body.into_data_stream(),
            asked: false,
            ended: false,
        }));
        let lent = Arc::clone(&shared);
        let body = Body::from_stream(stream::poll_fn(move |context| lock(&lent).poll(context)));
        let leftover = Self {
            shared,
            waits_to_be_told,
        };
        (Request::from_parts(parts, body), Some(leftover))
    }

    /// Takes in what the route left, within limits; true when that was all. Otherwise nothing can
    /// follow on this connection.
    pub(crate) async fn drain(self) -> bool {
        if self.waits_to_be_told && !lock(&self.shared).asked {
            return false;
        }
        let drain = async {
            let mut left = DRAIN_BYTES;
            while let Some(Ok(piece)) = poll_fn(|context| lock(&self.shared).poll(context)).await {
                left = left.saturating_sub(piece.len() as u64);
                if left == 0 {
                    break;
                }
            }
        };
        // Whether it ended or time ran out: the answer follows.
        drop(tokio::time::timeout(DRAIN_TIME, drain).await);
        lock(&self.shared).ended
    }
}

impl Shared {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.asked = true;
        let polled = self.stream.poll_next_unpin(context);
        self.ended = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What comes of a body.
pub(crate) enum Arrived {
    /// Some of it.
    Piece(Bytes),
    /// Nothing, in the time that there was.
    Nothing,
    /// All of it came before.
    End,
}

/// A body that is read piece by piece, and may be neither longer than a limit nor too slow.
pub(crate) struct LimitedBody {
    stream: BodyDataStream,
    announced: Option<u64>,
    limit: u64,
    hint: &'static str,
    received: u64,
    progress: Progress,
}

impl LimitedBody {
    /// Refuses at once when the client announces too much.
    pub(crate) fn new(
        service: &Service,
        headers: &HeaderMap,
        body: Body,
        limit: u64,
        hint: &'static str,
    ) -> problem::Result<Self> {
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Err(Problem::too_large(limit, hint));
        }
        Ok(Self {
            stream: body.into_data_stream(),
            announced,
            limit,
            hint,
            received: 0,
            progress: Progress::new(service.options().limits.pace),
        })
    }

    /// The next piece, `None` at the end.
    pub(crate) async fn next(&mut self) -> problem::Result<Option<Bytes>> {
        loop {
            match self.next_until(None).await? {
                Arrived::Piece(piece) => return Ok(Some(piece)),
                Arrived::End => return Ok(None),
                Arrived::Nothing => {}
            }
        }
    }

    /// What comes until some moment, if that is not for ever.
    pub(crate) async fn next_until(&mut self, until: Option<Instant>) -> problem::Result<Arrived> {
        let since = Instant::now();
        let deadline = self.progress.deadline(since);
        let next = self.stream.next();
        let next = match [deadline, until].into_iter().flatten().min() {
            Some(first) => tokio::time::timeout_at(first.into(), next).await,
            None => Ok(next.await),
        };
        let piece = match next {
            Err(_) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                let what = format!("the body came too slowly: {}", self.progress.too_slow());
                return Err(
                    Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", what).hint(
                        "send it faster, or have the service started with a lower --speed-limit",
                    ),
                );
            }
            Err(_) => {
                self.progress.note(since.elapsed(), 0);
                return Ok(Arrived::Nothing);
            }
            Ok(None) => return Ok(Arrived::End),
            Ok(Some(Err(error))) => {
                let what = format!("the body ended early: {error}");
                return Err(Problem::bad_request("cut-off", what));
            }
            Ok(Some(Ok(piece))) => piece,
        };
        self.progress.note(since.elapsed(), piece.len() as u64);
        self.received += piece.len() as u64;
        if self.received > self.limit {
            return Err(Problem::too_large(self.limit, self.hint));
        }
        Ok(Arrived::Piece(piece))
    }

    /// Bytes that the client says it sends, if it does.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.announced
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The whole body, and the room in memory that it takes.
    pub(crate) async fn read_all(
        &mut self,
        room: &Room,
    ) -> problem::Result<(Vec<u8>, OwnedSemaphorePermit)> {
        let mut all = Vec::new();
        let mut taken = room.take(0)?;
        while let Some(piece) = self.next().await? {
            taken.merge(room.take(piece.len())?);
            all.extend_from_slice(&piece);
        }
        Ok((all, taken))
    }

    /// Writes the whole body to `spool`.
    pub(crate) async fn spool(&mut self, mut spool: Spool) -> problem::Result<Spool> {
        let (mut gathered, mut since) = (Vec::new(), None);
        loop {
            let arrived = self.next_until(since.map(|since| since + HELD)).await?;
            if let Arrived::Piece(piece) = &arrived {
                if since.is_none() {
                    since = Some(Instant::now());
                    gathered.reserve_exact(WRITE_SIZE);
                }
                gathered.extend_from_slice(piece);
                if gathered.len() < WRITE_SIZE {
                    continue;
                }
            }
            (spool, gathered) = blocking(move || {
                spool.write(&gathered)?;
                gathered.clear();
                Ok((spool, gathered))
            })
            .await?;
            match arrived {
                Arrived::Piece(_) => since = Some(Instant::now()),
                // Whoever sends so little takes no memory for what is to come.
                Arrived::Nothing => (gathered, since) = (Vec::new(), None),
                Arrived::End => return Ok(spool),
            }
        }
    }
}
