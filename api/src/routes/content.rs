//! Answers whose body is stored content: held against collection while they are sent, in ranges
//! if asked for, and with a tag by which a client that has them is told so.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::ExtentMap;
use pool_core::page::PAGE_SIZE;
use pool_store::{Held, Snapshot, StoreError};

use crate::conditions::etag;
use crate::problem::{Problem, Result};
use crate::service::{Service, blocking};

/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 20;

/// The bytes of the object that `look` finds by a name: of what the name stands for in the state
/// of the index in which the object is there.
pub(super) async fn named(
    service: &Service,
    headers: &HeaderMap,
    look: impl Fn(&Snapshot<'_>) -> Result<ObjectId> + Send + 'static,
) -> Result<Response> {
    let (id, held) = service
        .with_store(move |store| {
            let mut found = Err(Problem::nothing_is("object of that name"));
            let held = store.hold(|view| {
                found = look(view);
                match &found {
                    Ok(id) => object(view, *id),
                    Err(_) => Ok(None),
                }
            })?;
            let id = found?;
            let held = held.ok_or_else(|| Problem::nothing_is(format!("object {id}")))?;
            Ok((id, held))
        })
        .await?;
    answer(service, headers, id, held).await
}

/// An object's map, and what must be held for it to be read.
fn object(view: &Snapshot<'_>, id: ObjectId) -> HeldObject {
    let record = view.object(id)?;
    Ok(record.map(|record| (record.map, vec![id])))
}

type HeldObject = pool_store::Result<Option<(ExtentMap, Vec<ObjectId>)>>;

/// The bytes of an object, or of a page if no object has that digest.
pub(super) async fn object_or_page(
    service: &Service,
    headers: &HeaderMap,
    id: ObjectId,
) -> Result<Response> {
    if let Some(held) = find(service, id).await? {
        return answer(service, headers, id, held).await;
    }
    let page = service
        .with_store(move |store| {
            let held = store.hold_page(&PageId(id.0))?;
            let held = held.ok_or_else(|| Problem::nothing_is(format!("object or page {id}")))?;
            let mut page = vec![0; PAGE_SIZE as usize];
            store.read_page(held.value, &mut page)?;
            if ObjectId::of(&page) != id {
                return Err(StoreError::Damaged(id).into());
            }
            Ok(page)
        })
        .await?;
    Ok(part(headers, id, PAGE_SIZE, |from, to| {
        let page = Bytes::from(page);
        Body::from(page.slice(from as usize..to as usize))
    }))
}

async fn find(service: &Service, id: ObjectId) -> Result<Option<Held<ExtentMap>>> {
    service
        .with_store(move |store| Ok(store.hold(|view| object(view, id))?))
        .await
}

/// Content may be kept by who asked for it, and is asked for again before each use (RFC 9111, 5.2.2).
const REVALIDATED: &str = "private, no-cache";

/// Headers of content that its digest names.
fn immutable(id: ObjectId) -> [(header::HeaderName, HeaderValue); 4] {
    let tag = HeaderValue::from_str(&format!("\"{id}\""));
    [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (header::CACHE_CONTROL, HeaderValue::from_static(REVALIDATED)),
        (
            header::ETAG,
            tag.unwrap_or_else(|_| HeaderValue::from_static("\"\"")),
        ),
    ]
}

/// What is read in one piece is compared with its digest before anything is answered, and more than that on the way, or
/// before, if something of what is asked for is known to be damaged.
async fn answer(
    service: &Service,
    headers: &HeaderMap,
    id: ObjectId,
    held: Held<ExtentMap>,
) -> Result<Response> {
    let length = held.value.length;
    if length > CHUNK {
        let held = match wanted(headers, id, length) {
            Wanted::All => whole_if_doubted(service, id, held, 0, length).await?,
            Wanted::Part { first, last } => {
                whole_if_doubted(service, id, held, first, last + 1).await?
            }
            Wanted::None => held,
        };
        return Ok(part(headers, id, length, |from, to| {
            body(service, held, from, to, id)
        }));
    }
    let work = service.clone();
    let content = blocking(move || {
        let read = work.store().read(&held.value, 0, length as usize);
        let read = read.and_then(|bytes| check(id, ObjectId::of(&bytes)).map(|()| bytes));
        noted(&work, id, read)
    });
    let content = Bytes::from(content.await?);
    Ok(part(headers, id, length, |from, to| {
        Body::from(content.slice(from as usize..to as usize))
    }))
}

/// An object of which something between two bytes is known to be damaged, or was once, if it is whole all the same: nothing
/// tells whether a part of it is right, and whoever asks for this one would get what is known to be wrong.
async fn whole_if_doubted(
    service: &Service,
    id: ObjectId,
    held: Held<ExtentMap>,
    from: u64,
    to: u64,
) -> Result<Held<ExtentMap>> {
    if !service.store().has_known_damage(&held.value, from, to) {
        return Ok(held);
    }
    let work = service.clone();
    let look = move || {
        let found = work.store().digest_of(&held.value);
        noted(&work, id, found.and_then(|found| check(id, found)))?;
        Ok(held)
    };
    blocking(look).await
}

fn check(expected: ObjectId, found: ObjectId) -> pool_store::Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(StoreError::Damaged(expected))
    }
}

/// What was read of an object; sees to it that damage is mended, if that is why it was not.
fn noted<T>(service: &Service, id: ObjectId, read: pool_store::Result<T>) -> Result<T> {
    let error = match read {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    let is_damage = matches!(
        error,
        StoreError::Damaged(_) | StoreError::Io { .. } | StoreError::NoSegment(_)
    );
    if is_damage {
        tracing::error!(%error, object = %id, "an object is not sent");
        let service = service.clone();
        tokio::task::spawn_blocking(move || service.note_unread(id));
    }
    Err(match error {
        // It was held, so the segment was not collected: it has lost its file.
        StoreError::NoSegment(_) => StoreError::Damaged(id).into(),
        error => error.into(),
    })
}

/// What is asked for of a content of `length` bytes.
fn wanted(headers: &HeaderMap, id: ObjectId, length: u64) -> Wanted {
    let tag = format!("\"{id}\"");
    // A condition that does not hold, whatever is written there, turns the range into the whole
    // (RFC 9110, 13.1.5).
    let mut conditions = headers.get_all(header::IF_RANGE).iter();
    let mut ranges = headers.get_all(header::RANGE).iter();
    let range = if conditions.all(|condition| condition == tag.as_str()) {
        // Two headers are no range.
        ranges.next().filter(|_| ranges.next().is_none())
    } else {
        None
    };
    let range = range.and_then(|range| range.to_str().ok());
    range.map_or(Wanted::All, |range| parse_range(range, length))
}

/// The part of a content that is asked for, of `length` bytes; `body` makes it, from one byte to
/// before another.
fn part(
    headers: &HeaderMap,
    id: ObjectId,
    length: u64,
    body: impl FnOnce(u64, u64) -> Body,
) -> Response {
    match wanted(headers, id, length) {
        Wanted::All => {
            let length_header = [(header::CONTENT_LENGTH, HeaderValue::from(length))];
            let body = body(0, length);
            (immutable(id), length_header, body).into_response()
        }
        Wanted::Part { first, last } => {
            let content_range = format!("bytes {first}-{last}/{length}");
            let part = [
                (header::CONTENT_RANGE, content_range),
                (header::CONTENT_LENGTH, (last - first + 1).to_string()),
            ];
            let body = body(first, last + 1);
            (StatusCode::PARTIAL_CONTENT, immutable(id), part, body).into_response()
        }
        Wanted::None => {
            let what = format!("the content has {length} bytes, none of them in that range");
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad-range", what);
            let answer = [
                (header::CONTENT_RANGE, format!("bytes */{length}")),
                // A 304 that comes of it has what a 200 would have (RFC 9110, 15.4.5).
                (header::CACHE_CONTROL, REVALIDATED.to_owned()),
            ];
            (etag(id), answer, problem).into_response()
        }
    }
}

/// Bytes `from` to `to` of an object, which is held until the last was read. All of it is compared with its digest
/// before the last of it is handed out; nothing tells whether a part is right.
fn body(service: &Service, held: Held<ExtentMap>, from: u64, to: u64, id: ObjectId) -> Body {
    let is_whole = from == 0 && to == held.value.length;
    let reading = Reading {
        service: service.clone(),
        held,
        id,
        at: from,
        to,
        hasher: is_whole.then(Box::default),
    };
    Body::from_stream(stream::try_unfold(reading, |reading| async {
        if reading.at >= reading.to {
            return Ok(None);
        }
        match blocking(move || reading.next()).await {
            Ok((bytes, reading)) if !bytes.is_empty() => Ok(Some((Bytes::from(bytes), reading))),
            // The status is sent already: cut the body off, so that nobody takes it for whole.
            Ok(_) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            Err(problem) => Err(std::io::Error::other(problem.body.detail)),
        }
    }))
}

/// An object that is being sent.
struct Reading {
    service: Service,
    held: Held<ExtentMap>,
    id: ObjectId,
    /// The next byte, and the one where it ends.
    at: u64,
    to: u64,
    /// What it has been so far, if all of it is sent.
    hasher: Option<Box<blake3::Hasher>>,
}

impl Reading {
    /// The next bytes. Blocks.
    fn next(mut self) -> Result<(Vec<u8>, Self)> {
        let length = (self.to - self.at).min(CHUNK) as usize;
        let read = self.service.store().read(&self.held.value, self.at, length);
        let read = read.and_then(|bytes| {
            self.at += bytes.len() as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes);
                if self.at >= self.to {
                    check(self.id, hasher.finalize().into())?;
                }
            }
            Ok(bytes)
        });
        let bytes = noted(&self.service, self.id, read)?;
        Ok((bytes, self))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Part { first: u64, last: u64 },
    None,
}

/// Reads a `Range` header (RFC 9110, 14.2). What is not one range of bytes is ignored, as a
/// server may.
fn parse_range(range: &str, length: u64) -> Wanted {
    let Some((first, last)) = range
        .split_once('=')
        // Units are alike in any case (14.1).
        .filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"))
        .and_then(|(_, spec)| spec.trim().split_once('-'))
    else {
        return Wanted::All;
    };
    // Rust reads `+5` as a number; a position is digits alone.
    if range.contains('+') {
        return Wanted::All;
    }
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => Wanted::All,
        (Ok(first), _) if first >= length && (last.is_empty() || last.parse::<u64>().is_ok()) => {
            Wanted::None
        }
        (Ok(first), Ok(last)) => Wanted::Part {
            first,
            last: last.min(length - 1),
        },
        (Ok(first), Err(_)) if last.is_empty() => Wanted::Part {
            first,
            last: length - 1,
        },
        (Err(_), Ok(suffix)) if first.is_empty() => match suffix.min(length) {
            0 => Wanted::None,
            bytes => Wanted::Part {
                first: length - bytes,
                last: length - 1,
            },
        },
        _ => Wanted::All,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |first, last| Wanted::Part { first, last };
        for (range, length, wanted) in [
            ("bytes=0-9", 100, part(0, 9)),
            ("bytes=90-", 100, part(90, 99)),
            ("Bytes=90-", 100, part(90, 99)),
            ("bytes=-10", 100, part(90, 99)),
            ("bytes=-1000", 100, part(0, 99)),
            ("bytes=50-1000", 100, part(50, 99)),
            ("bytes=100-", 100, Wanted::None),
            ("bytes=100-200", 100, Wanted::None),
            ("bytes=-0", 100, Wanted::None),
            ("bytes=0-", 0, Wanted::None),
            ("bytes=9-0", 100, Wanted::All),
            ("bytes=0-1,5-6", 100, Wanted::All),
            ("bytes=x-", 100, Wanted::All),
            ("bytes=+5-10", 100, Wanted::All),
            ("bytes=5-+10", 100, Wanted::All),
            ("bytes=100-x", 100, Wanted::All),
            ("pages=0-1", 100, Wanted::All),
            ("bytes=18446744073709551616-", 100, Wanted::All),
        ] {
            assert_eq!(parse_range(range, length), wanted, "{range}");
        }
    }
}
