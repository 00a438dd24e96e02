//! One log of a journal: how far is it whole, and is anything whole behind that?

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::frame::{self, DIGEST, Digest, Form, HEAD, HEADER, Header};
use super::read::Flaw;
use crate::backend::{next_data, read_file};

/// Bytes of a log that are looked at as one where it is not known how many there are.
pub(super) const PIECE: usize = 1 << 20;

/// A log as far as it is whole.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// Number of the last whole frame, the base without any.
    pub(super) last: u64,
    /// Digest that the next frame follows.
    pub(super) digest: Digest,
    /// Where the last whole frame is; where the first one goes without any.
    pub(super) last_at: u64,
    /// Where the next frame goes.
    pub(super) end: u64,
    /// Bytes of the file.
    length: u64,
    /// What is left of a frame is behind the last whole one.
    pub(super) torn: bool,
    /// Number of a whole frame behind what is not whole.
    pub(super) beyond: Option<u64>,
}

impl Log {
    /// How its frames are written.
    pub(super) fn form(&self) -> Form {
        self.header.form
    }

    /// Where the next frame goes, if there is one.
    fn place(&self) -> Place<'_> {
        Place {
            last: self.last,
            digest: &self.digest,
            at: self.end,
            length: self.length,
        }
    }

    /// Digest of the last commit.
    pub(super) fn last_digest(&self) -> Digest {
        if self.last == self.header.base {
            self.header.previous
        } else {
            self.digest
        }
    }

    /// It has a frame that is not whole, which is damage because of `why`.
    pub(super) fn is_damaged(&self, why: impl std::fmt::Display) -> Flaw {
        let (last, offset) = (self.last, self.end);
        Flaw {
            offset: Some(offset),
            ..Flaw::new(
                &self.path,
                format!("is damaged after commit {last}, at byte {offset}, and {why}"),
            )
        }
    }

    /// It is the last one of the journal in `directory`, and `commits` were made.
    pub(super) fn ends_early(&self, directory: &Path, commits: u64) -> Flaw {
        if self.torn {
            return self.is_damaged(format!("the index has {commits} commits"));
        }
        let last = self.last;
        Flaw::new(
            directory,
            format!("ends with commit {last}, and the index has {commits}"),
        )
    }
}

/// Reads a log up to the commit `limit`.
pub(super) fn read_log(
    path: &Path,
    limit: u64,
    mut visit: impl FnMut(u64, &Digest, &[u8]),
) -> Result<Log, Flaw> {
    let failed = |error: io::Error| Flaw::new(path, format!("cannot be read ({error})"));
    let file = read_file(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length < HEADER as u64 {
        return Err(Flaw::new(path, "is cut short"));
    }
    let mut from = BufReader::with_capacity(1 << 20, &file);
    let mut header = [0; HEADER];
    from.read_exact(&mut header).map_err(failed)?;
    let mut log = Log {
        path: path.into(),
        header: Header::decode(&header).map_err(|why| Flaw {
            offset: Some(0),
            ..Flaw::new(path, why)
        })?,
        last: 0,
        digest: frame::digest_of_header(&header),
        last_at: HEADER as u64,
        end: HEADER as u64,
        length,
        torn: false,
        beyond: None,
    };
    log.last = log.header.base;
    let mut body = Vec::new();
    while log.last < limit
        && let Some(digest) =
            next_frame(&file, &mut from, &log.place(), &mut body).map_err(failed)?
    {
        let bytes = (HEAD + body.len() + DIGEST) as u64;
        let Some(changes) = log.header.form.changes(&mut body) else {
            break;
        };
        log.last_at = log.end;
        log.end += bytes;
        log.last += 1;
        log.digest = digest;
        visit(log.last, &digest, changes);
    }
    if log.last >= limit {
        return Ok(log);
    }
    log.torn = !is_zero_from(&file, log.end).map_err(failed)?;
    if log.torn {
        log.beyond = last_whole(&file, &log).map_err(failed)?;
    }
    Ok(log)
}

/// Where a frame may be.
pub(super) struct Place<'a> {
    /// Number of the commit before it.
    pub(super) last: u64,
    /// The digest that it follows.
    pub(super) digest: &'a Digest,
    /// Where it begins, which is not behind the end.
    pub(super) at: u64,
    /// Bytes of the file.
    pub(super) length: u64,
}

/// Reads the frame at a place of `file`, which `from` goes on with, its body into `body`, and answers with its digest. `None` when there
/// is no whole one.
pub(super) fn next_frame(
    file: &File,
    from: &mut impl Read,
    place: &Place<'_>,
    body: &mut Vec<u8>,
) -> io::Result<Option<Digest>> {
    let left = place.length - place.at;
    if left < (HEAD + DIGEST) as u64 {
        return Ok(None);
    }
    let mut head = [0; HEAD];
    from.read_exact(&mut head)?;
    let Some((length, number)) = frame::parse_head(&head) else {
        return Ok(None);
    };
    if number != place.last.wrapping_add(1) || left < (HEAD + length + DIGEST) as u64 {
        return Ok(None);
    }
    // What a damaged head says is no reason to take as much memory.
    if length > PIECE && whole_at(file, place.at, place.digest, &head, length)?.is_none() {
        return Ok(None);
    }
    body.resize(length, 0);
    from.read_exact(body)?;
    let mut digest = [0; DIGEST];
    from.read_exact(&mut digest)?;
    let is_right = frame::digest(place.digest, &head, body) == digest;
    Ok(is_right.then_some(digest))
}

/// The digest of the frame at byte `at` of a log that begins with `head` and has a body of `length` bytes, if it is whole.
fn whole_at(
    file: &File,
    at: u64,
    previous: &Digest,
    head: &[u8],
    length: usize,
) -> io::Result<Option<Digest>> {
    let mut digest = [0; DIGEST];
    file.read_exact_at(&mut digest, at + (HEAD + length) as u64)?;
    // In a hole, which may be long.
    if digest == Digest::default() {
        return Ok(None);
    }
    let mut hasher = frame::hasher(previous, head);
    let mut from = at + HEAD as u64;
    let mut left = length;
    let mut piece = vec![0; length.min(PIECE)];
    while left > 0 {
        let piece = &mut piece[..left.min(PIECE)];
        file.read_exact_at(piece, from)?;
        hasher.update(piece);
        from += piece.len() as u64;
        left -= piece.len();
    }
    Ok((*hasher.finalize().as_bytes() == digest).then_some(digest))
}

/// Reads as much of `piece` as the file has from `offset` on.
pub(super) fn read_up_to(file: &File, piece: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < piece.len() {
        match file.read_at(&mut piece[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

fn is_zero_from(file: &File, mut offset: u64) -> io::Result<bool> {
    let mut piece = vec![0; PIECE];
    while let Some(at) = next_data(file, offset)? {
        let read = read_up_to(file, &mut piece, at)?;
        if piece[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if read == 0 {
            break;
        }
        offset = at + read as u64;
    }
    Ok(true)
}

/// The largest number of a whole frame behind the last one of `log`, where something is that is none. It can begin at any byte;
/// the digest that it follows is before it.
fn last_whole(file: &File, log: &Log) -> io::Result<Option<u64>> {
    let most = (log.length - log.end) / (HEAD + DIGEST) as u64;
    let mut found = None;
    let mut piece = vec![0; PIECE];
    let mut offset = log.end;
    // A head is not zero to its end, so it may begin in a hole and is not all in one.
    while let Some(data) = next_data(file, offset)? {
        let from = offset.max(data.saturating_sub(HEAD as u64 - 1));
        let read = read_up_to(file, &mut piece, from)?;
        if read < HEAD {
            break;
        }
        for at in 0..=read - HEAD {
            let head = &piece[at..][..HEAD];
            let Some((length, number)) = frame::parse_head(head) else {
                continue;
            };
            let at = from + at as u64;
            let end = at + (HEAD + length + DIGEST) as u64;
            if number <= log.last || number - log.last > most || end > log.length {
                continue;
            }
            let mut previous = [0; DIGEST];
            file.read_exact_at(&mut previous, at - DIGEST as u64)?;
            if whole_at(file, at, &previous, head, length)?.is_some() {
                found = found.max(Some(number));
            }
        }
        offset = from + (read - HEAD + 1) as u64;
    }
    Ok(found)
}
