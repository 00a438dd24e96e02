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

/// Bytes of a frame that is read. What a larger one changes takes as much memory, and as long.
const MOST: usize = 1 << 20;

/// A place behind the frame of a commit.
#[derive(Debug)]
pub(crate) struct Tail {
    directory: PathBuf,
    identity: [u8; 16],
    /// The log that it is in, by number, and open while it is read: one that goes is not to keep its disk.
    base: u64,
    log: Option<File>,
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
            base,
            log: Some(log),
            form: header.form,
            at: HEADER as u64,
            follows: begin,
            last: base,
            digest: header.previous,
        };
        while tail.last < number {
            let Some(length) = tail.next_length()? else {
                return Ok(None);
            };
            tail.at += (HEAD + length + DIGEST) as u64;
            tail.last += 1;
            if tail.last == number {
                let mut found = [0; DIGEST];
                let read = tail.read(&mut found, tail.at - DIGEST as u64)?;
                if read < DIGEST {
                    return Ok(None);
                }
                (tail.follows, tail.digest) = (found, found);
            }
        }
        Ok((tail.digest == digest).then_some(tail))
    }

    /// Number of the commit.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Digest of its frame.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Goes on to the commit `to`, which counts. Calls `visit` with number, digest and changes of each on the way, in order. False
    /// when they are not there, not whole or too large: then the place is none any more, and what was visited is some of it.
    pub(crate) fn go_on(
        &mut self,
        to: u64,
        mut visit: impl FnMut(u64, &Digest, &[u8]) -> bool,
    ) -> io::Result<bool> {
        while self.last < to {
            let length = match self.next_length()? {
                None if self.turn()? => self.next_length()?,
                found => found,
            };
            let Some(length) = length.filter(|length| *length <= MOST) else {
                return Ok(false);
            };
            let mut rest = vec![0; length + DIGEST];
            if self.read(&mut rest, self.at + HEAD as u64)? < rest.len() {
                return Ok(false);
            }
            let (body, found) = rest.split_at_mut(length);
            let number = self.last + 1;
            let head = frame::head(length as u32, number);
            let digest = frame::digest(&self.follows, &head, body);
            let Some(changes) = self.form.changes(body).filter(|_| *found == digest) else {
                return Ok(false);
            };
            if !visit(number, &digest, changes) {
                return Ok(false);
            }
            self.at += (HEAD + length + DIGEST) as u64;
            self.last = number;
            (self.follows, self.digest) = (digest, digest);
        }
        Ok(true)
    }

    /// Bytes of the next frame's body, if its head is here.
    fn next_length(&mut self) -> io::Result<Option<usize>> {
        let mut head = [0; HEAD];
        let read = self.read(&mut head, self.at)?;
        let next = frame::parse_head(&head).filter(|_| read == HEAD);
        Ok(next.and_then(|(length, number)| (number == self.last + 1).then_some(length)))
    }

    /// Closes its log until it is read again.
    pub(crate) fn rest(&mut self) {
        self.log = None;
    }

    /// Reads as much of `bytes` as its log has from `offset` on; nothing, where that has gone.
    fn read(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.log.is_none() {
            match read_file(&names::path(&self.directory, Name::Log(self.base))) {
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
        match open_log(&self.directory, self.identity, self.last)? {
            Some((log, header, begin)) if header.previous == self.digest => {
                (self.base, self.log, self.form) = (self.last, Some(log), header.form);
                (self.at, self.follows) = (HEADER as u64, begin);
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
