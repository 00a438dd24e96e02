//! The end of the journal of a store that somebody else writes to.
//!
//! A commit is in the journal before it counts, so who follows the writer has it from there for the reading of a few bytes. Each frame proves
//! that it follows the one before it, and whatever else is found is no reason to fail: the index has all of it, too.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::frame::{self, DIGEST, Digest, Form, HEAD, HEADER, Header};
use super::log::read_up_to;
use super::names::{self, Name};
use crate::backend::read_file;

/// Bytes of a frame that is read, of some thousand changes. Of a larger one the index has them as soon.
const MOST: usize = 64 << 10;

/// A place behind the frame of a commit.
#[derive(Debug)]
pub(crate) struct Tail {
    directory: PathBuf,
    identity: [u8; 16],
    place: Place,
    /// Its log, open while it is read: it may go, and is not to keep its disk then.
    log: Option<File>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The log, by number.
    base: u64,
    form: Form,
    /// Where the next frame goes.
    at: u64,
    /// What it follows.
    follows: Digest,
    /// Number and digest of the commit.
    last: u64,
    digest: Digest,
}

impl Tail {
    /// The place behind the commit `number`, whose frame comes to `digest`, in the journal in `directory` of the store `identity`. `None`
    /// where the journal does not have it. Takes one short read for each frame of a log before it.
    pub(crate) fn behind(
        directory: &Path,
        identity: [u8; 16],
        number: u64,
        digest: Digest,
    ) -> io::Result<Option<Self>> {
        let (bases, _) = names::list(directory)?;
        let Some(&base) = bases.iter().rfind(|base| **base <= number) else {
            return Ok(None);
        };
        let Some((log, header, begin)) = open_log(directory, identity, base)? else {
            return Ok(None);
        };
        let mut tail = Self {
            directory: directory.into(),
            identity,
            place: Place {
                base,
                form: header.form,
                at: HEADER as u64,
                follows: begin,
                last: base,
                digest: header.previous,
            },
            log: Some(log),
        };
        let is_there = tail.skip(number)?;
        Ok((is_there && tail.place.digest == digest).then_some(tail))
    }

    /// Number of the commit.
    pub(crate) fn last(&self) -> u64 {
        self.place.last
    }

    /// Digest of its frame.
    pub(crate) fn digest(&self) -> Digest {
        self.place.digest
    }

    /// Goes on to the commit `to`, which counts. Calls `visit` with number, digest and changes of each on the way, in order. False
    /// when they are not there, not whole, too large, or not wanted: then it is where it was, and what was visited is some of it.
    pub(crate) fn go_on(
        &mut self,
        to: u64,
        mut visit: impl FnMut(u64, &Digest, &[u8]) -> bool,
    ) -> io::Result<bool> {
        self.walk(to, |tail, length| {
            if length > MOST {
                return Ok(None);
            }
            let mut rest = vec![0; length + DIGEST];
            if tail.read(&mut rest, tail.place.at + HEAD as u64)? < rest.len() {
                return Ok(None);
            }
            let (body, found) = rest.split_at_mut(length);
            let number = tail.place.last + 1;
            let head = frame::head(length as u32, number);
            let digest = frame::digest(&tail.place.follows, &head, body);
            let changes = tail.place.form.changes(body);
            let changes = changes.filter(|_| *found == digest);
            let is_wanted = changes.is_some_and(|changes| visit(number, &digest, changes));
            Ok(is_wanted.then_some(digest))
        })
    }

    /// Goes on to the commit `to`, which counts, by one short read for each on the way, whatever it changes. That the frames are whole is not
    /// looked at: its digest is to be compared. False when they are not there, and then it is where it was.
    pub(crate) fn skip(&mut self, to: u64) -> io::Result<bool> {
        self.walk(to, |tail, length| {
            let mut found = [0; DIGEST];
            let read = tail.read(&mut found, tail.place.at + (HEAD + length) as u64)?;
            Ok((read == DIGEST).then_some(found))
        })
    }

    /// Goes on to the commit `to`, frame by frame: `pass` is told the length of each and answers with its digest, if it is to be gone on with.
    fn walk(
        &mut self,
        to: u64,
        mut pass: impl FnMut(&mut Self, usize) -> io::Result<Option<Digest>>,
    ) -> io::Result<bool> {
        let before = self.place;
        let mut steps = || {
            while self.place.last < to {
                let length = match self.next_length()? {
                    None if self.turn()? => self.next_length()?,
                    found => found,
                };
                let Some(length) = length else {
                    return Ok(false);
                };
                let Some(digest) = pass(self, length)? else {
                    return Ok(false);
                };
                self.place.at += (HEAD + length + DIGEST) as u64;
                self.place.last += 1;
                (self.place.follows, self.place.digest) = (digest, digest);
            }
            Ok(true)
        };
        let told = steps();
        if !matches!(told, Ok(true)) {
            self.place = before;
        }
        self.log = None;
        told
    }

    /// Bytes of the next frame's body, if its head is here.
    fn next_length(&mut self) -> io::Result<Option<usize>> {
        let mut head = [0; HEAD];
        let read = self.read(&mut head, self.place.at)?;
        let next = frame::parse_head(&head).filter(|_| read == HEAD);
        Ok(next.and_then(|(length, number)| (number == self.place.last + 1).then_some(length)))
    }

    /// Reads as much of `bytes` as its log has from `offset` on; nothing, where that has gone.
    fn read(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.log.is_none() {
            match read_file(&names::path(&self.directory, Name::Log(self.place.base))) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                other => self.log = Some(other?),
            }
        }
        self.log
            .as_ref()
            .map_or(Ok(0), |log| read_up_to(log, bytes, offset))
    }

    /// Goes on with the log that begins behind the last commit, if there is one.
    fn turn(&mut self) -> io::Result<bool> {
        match open_log(&self.directory, self.identity, self.place.last)? {
            Some((log, header, begin)) if header.previous == self.place.digest => {
                self.log = Some(log);
                self.place = Place {
                    base: self.place.last,
                    form: header.form,
                    at: HEADER as u64,
                    follows: begin,
                    ..self.place
                };
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// The log of this base, its header, and what its first frame follows. `None` where there is none, or another store's.
fn open_log(
    directory: &Path,
    identity: [u8; 16],
    base: u64,
) -> io::Result<Option<(File, Header, Digest)>> {
    let file = match read_file(&names::path(directory, Name::Log(base))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = [0; HEADER];
    if read_up_to(&file, &mut bytes, 0)? < HEADER {
        return Ok(None);
    }
    let header = Header::decode(&bytes).ok();
    let header = header.filter(|header| header.identity == identity && header.base == base);
    Ok(header.map(|header| (file, header, frame::digest_of_header(&bytes))))
}
