//! The journal: every change of the index a second time, so that the index can be lost.
//!
//! A commit appends a frame with all its changes to the newest log and syncs it, and only then writes them to the index. So the
//! journal has every commit that the index has: an index that is older, whatever made it so, is brought up from there when the
//! store is opened, and one that is gone is made anew (`repair`). In turn a journal that is gone is begun anew from the index.
//!
//! A *checkpoint* is the state after some commit; logs that end before it are not needed any more. It is written beside
//! everything else, from a snapshot.

pub(crate) mod checkpoint;
pub(crate) mod frame;
mod log;
mod merge;
mod names;
pub(crate) mod read;
mod rescue;
mod tail;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::backend::{new_file, open_file, sync_directory, sync_parent};
use crate::error::{Result, StoreError};
use crate::index::Reader;
use checkpoint::{prune, write_checkpoint};
use frame::{Digest, Form, HEAD, HEADER, Header, MASK, Mask};
use names::Name;

pub(crate) use checkpoint::{Checkpointer, clear_away};
pub(crate) use read::{Examined, Flaw, Found, Unusable, digest_of, each_commit, examine, read};
pub(crate) use rescue::{Commits, following, next_segment};
pub(crate) use tail::Tail;

/// A log grows by so much disk at a time.
const STEP: u64 = 1 << 20;

/// Disk that a log has beyond its last frame, as long as there is any: a collection on a full disk needs it.
const RESERVE: u64 = 2 << 20;

/// Bytes of a log from which on the next frame goes to another one: while no checkpoint can be written there is no end to them.
const MOST: u64 = 256 << 20;

/// A checkpoint is due when the logs since the last one have twice its bytes, between these.
const DUE: std::ops::RangeInclusive<u64> = 16 << 20..=256 << 20;

/// The journal of a store that is open for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    identity: [u8; 16],
    segment_bytes: u64,
    /// How logs are begun.
    form: Form,
    log: OpenLog,
    /// Bytes from which on another log is begun.
    most: u64,
    /// Number and digest of the last commit.
    last: u64,
    digest: Digest,
    /// Bytes of frames since the last checkpoint.
    logged: u64,
    /// Of these, bytes in logs that were begun with the last [turn](Self::turn) or later and have come to their end.
    ended: u64,
    /// Bytes of that checkpoint.
    checkpoint_bytes: u64,
    /// Of what was logged, what is no reason for another one: an attempt came after it.
    put_off: u64,
    /// The log was begun for a checkpoint that could not be written yet.
    has_turned: bool,
    doubt: Option<Doubt>,
}

/// The log that is appended to.
#[derive(Debug)]
struct OpenLog {
    path: PathBuf,
    file: File,
    form: Form,
    base: u64,
    /// What the next frame follows.
    digest: Digest,
    /// Where the next frame goes.
    end: u64,
    /// Disk that the file has, in bytes from its start.
    allocated: u64,
    /// The filesystem gives disk beforehand.
    allocates: bool,
    /// Its name survives a power cut.
    is_named: bool,
}

/// What may be behind the last commit's frame.
#[derive(Debug)]
enum Doubt {
    /// What could not be written or synced, whole or not.
    Written,
    /// A whole frame whose changes the index has not taken, or does not say so.
    Refused { digest: Digest, length: u64 },
}

impl Journal {
    /// Begins the journal of a store whose index is `state`, in `directory`, where there is none.
    pub(crate) fn begin(
        directory: &Path,
        identity: [u8; 16],
        segment_bytes: u64,
        form: Form,
        state: &Reader<'_>,
    ) -> Result<()> {
        let new = Self::prepare(directory, identity, segment_bytes, form, state)?;
        fs::rename(&new, directory).map_err(|error| StoreError::io("naming", &new, error))?;
        sync_parent(directory)
    }

    /// Makes a whole journal for `directory` beside it, and answers with where it is.
    pub(crate) fn prepare(
        directory: &Path,
        identity: [u8; 16],
        segment_bytes: u64,
        form: Form,
        state: &Reader<'_>,
    ) -> Result<PathBuf> {
        let new = unfinished(directory);
        clear_unfinished(&new)?;
        fs::create_dir(&new).map_err(|error| StoreError::io("creating", &new, error))?;
        let (base, _) = write_checkpoint(&new, identity, segment_bytes, state)?;
        let header = Header {
            form,
            identity,
            base,
            previous: state.last_frame()?.unwrap_or_default(),
        };
        create_log(&new, &header)?.keep_name(&new)?;
        Ok(new)
    }

    /// Goes on with a journal that was read and found whole. Logs are begun in this form, one at once if the newest is of another.
    pub(crate) fn open(
        directory: &Path,
        identity: [u8; 16],
        segment_bytes: u64,
        form: Form,
        found: &Found,
    ) -> Result<Self> {
        let newest = &found.newest;
        let path = names::path(directory, Name::Log(newest.header.base));
        let file = open_file(&path, OpenOptions::new().read(true).write(true));
        let file = file.map_err(|error| StoreError::io("opening", &path, error))?;
        if newest.torn {
            // What a stop left of a commit that nobody was told of.
            file.set_len(newest.end)
                .and_then(|()| file.sync_data())
                .map_err(|error| StoreError::io("cutting", &path, error))?;
        }
        let mut journal = Self {
            directory: directory.into(),
            identity,
            segment_bytes,
            form,
            most: MOST,
            log: OpenLog {
                path,
                file,
                form: newest.form(),
                base: newest.header.base,
                digest: newest.digest,
                end: newest.end,
                // Whatever its length: somebody may have copied it and left holes.
                allocated: newest.end,
                allocates: true,
                // A stop may have come before that.
                is_named: false,
            },
            last: found.last,
            digest: found.digest,
            logged: found.logged,
            ended: 0,
            checkpoint_bytes: found.checkpoint_bytes,
            put_off: 0,
            has_turned: false,
            doubt: None,
        };
        prune(directory, found.checkpoint);
        if journal.log.form != form {
            journal.begin_log_if_possible();
        }
        Ok(journal)
    }

    /// Waits until all that was `found` in a journal survives a power cut: a process that was killed may have left it in memory
    /// alone. To be called before an index gets it, which has no commit that the journal has not.
    ///
    /// If that process was told that the last frame did not get to the disk, nobody else is, and the kernel takes it for written
    /// (fsync(2)). So it is written once more.
    pub(crate) fn secure(directory: &Path, found: &Found) -> Result<()> {
        let newest = &found.newest;
        let path = names::path(directory, Name::Log(newest.header.base));
        open_file(&path, OpenOptions::new().read(true).write(true))
            .and_then(|log| {
                rewrite(&log, newest.last_at..newest.end)?;
                log.sync_data()
            })
            .map_err(|error| StoreError::io("syncing", &path, error))?;
        sync_directory(directory)
    }

    /// True when something is behind the last commit that may be there at the next opening.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// True when that is a whole frame that the index may have taken nevertheless.
    pub(crate) fn was_refused(&self) -> bool {
        matches!(self.doubt, Some(Doubt::Refused { .. }))
    }

    /// True when the log has the room for collections, as far as is known.
    pub(crate) fn has_room(&self) -> bool {
        let log = &self.log;
        log.allocated >= log.end + RESERVE || !log.allocates
    }

    /// Refuses when there is no disk for what a collection would have to write.
    pub(crate) fn reserve(&mut self) -> Result<()> {
        let log = &mut self.log;
        let asked = log.allocate(log.end + RESERVE);
        asked.map_err(|error| StoreError::io("keeping room for a collection in", &log.path, error))
    }

    /// Appends the changes of the commit `number` and waits until they survive a power cut. The frame counts once it is
    /// [confirmed](Self::confirm), and until then it may be there at the next opening, or taken back.
    ///
    /// # Errors
    ///
    /// When it cannot be written. It is taken back then; where even that fails it is in doubt.
    pub(crate) fn append(&mut self, number: u64, changes: &[u8]) -> Result<Digest> {
        debug_assert!(self.doubt.is_none() && number == self.last + 1);
        if self.log.end >= self.most {
            self.begin_log_if_possible();
        }
        let log = &mut self.log;
        log.keep_name(&self.directory)?;
        let mask = match log.form {
            Form::Plain => None,
            Form::Masked => Some(random_mask(&log.path)?),
        };
        let frame = frame::encode(&log.digest, number, changes, mask.as_ref());
        let (frame, digest) = frame.ok_or_else(|| {
            StoreError::BadUpload("a change of the index has 4 GiB: store less at a time".into())
        })?;
        let length = frame.len() as u64;
        if let Err(error) = log.allocate(log.end + length + RESERVE) {
            tracing::debug!(%error, "no more room for the journal beforehand");
        }
        let written = log.file.write_all_at(&frame, log.end);
        if let Err(error) = written.and_then(|()| log.file.sync_data()) {
            self.doubt = Some(Doubt::Written);
            let path = self.log.path.clone();
            return Err(match self.take_back() {
                Ok(()) => StoreError::io("writing", path, error),
                Err(second) => {
                    tracing::error!(error = %second, "taking back what could not be written");
                    let doing = "writing (what was to be changed may be there when the store is next opened)";
                    StoreError::Io { doing, path, error }
                }
            });
        }
        log.allocated = log.allocated.max(log.end + length);
        self.doubt = Some(Doubt::Refused { digest, length });
        Ok(digest)
    }

    /// The index has what was appended.
    pub(crate) fn confirm(&mut self) {
        if let Some(Doubt::Refused { digest, length }) = self.doubt.take() {
            self.last += 1;
            self.digest = digest;
            self.log.digest = digest;
            self.log.end += length;
            self.logged += length;
        }
    }

    /// Takes back what is in doubt, and waits until that survives a power cut.
    ///
    /// # Errors
    ///
    /// When it cannot be written. The doubt stays.
    pub(crate) fn take_back(&mut self) -> Result<()> {
        let log = &mut self.log;
        // Without a head it is none, and the file keeps its disk.
        let head = |log: &OpenLog| -> io::Result<()> {
            if log.file.metadata()?.len() >= log.end + HEAD as u64 {
                log.file.write_all_at(&[0; HEAD], log.end)?;
            }
            log.file.sync_data()
        };
        let whole = |log: &mut OpenLog| -> io::Result<()> {
            log.file.set_len(log.end)?;
            log.allocated = log.end;
            log.file.sync_data()
        };
        head(log)
            .or_else(|_| whole(log))
            .map_err(|error| StoreError::io("taking back from", &log.path, error))?;
        self.doubt = None;
        Ok(())
    }

    /// True when enough was logged since the last checkpoint.
    pub(crate) fn is_due(&self) -> bool {
        let due = self.checkpoint_bytes.saturating_mul(2);
        self.logged - self.put_off > due.clamp(*DUE.start(), *DUE.end())
    }

    /// No checkpoint is due before as much was logged once more: one could not be made of what there is, which takes reading all of
    /// it to see.
    pub(crate) fn put_off(&mut self) {
        self.put_off = self.logged;
    }

    /// Begins a new log, so that the ones so far end before a checkpoint of what the index has from now on; one that has no
    /// frame yet, or was begun for a checkpoint that then failed, goes on being the newest, unless it is to be made `anew`: or there
    /// would be one for each attempt. Answers with what writes the checkpoint.
    pub(crate) fn turn(&mut self, anew: bool) -> Result<Checkpointer> {
        if anew || !self.has_turned {
            if anew || self.log.base != self.last {
                self.begin_log()?;
                self.has_turned = true;
            }
            self.ended = 0;
        }
        // The new log is the one from here on, whatever becomes of this: a journal with a log behind the one that goes on would
        // not be whole.
        self.log.keep_name(&self.directory)?;
        Ok(Checkpointer {
            directory: self.directory.clone(),
            identity: self.identity,
            segment_bytes: self.segment_bytes,
            last: self.last,
        })
    }

    /// Takes note of a checkpoint that was written since the last [turn](Self::turn).
    pub(crate) fn turned(&mut self, checkpoint_bytes: u64) {
        self.checkpoint_bytes = checkpoint_bytes;
        self.logged = self.ended + self.log.frames();
        self.put_off = 0;
        self.has_turned = false;
    }

    /// Ends the newest log and begins another one.
    fn begin_log(&mut self) -> Result<()> {
        let header = Header {
            form: self.form,
            identity: self.identity,
            base: self.last,
            previous: self.digest,
        };
        let before = std::mem::replace(&mut self.log, create_log(&self.directory, &header)?);
        // It goes with the next checkpoint, and until one can be written its disk beforehand would be in the way.
        if let Err(error) = before.file.set_len(before.end) {
            tracing::debug!(%error, path = %before.path.display(), "giving disk back");
        }
        self.ended += before.frames();
        Ok(())
    }

    /// The same; the newest log goes on where there is no disk for another one, say.
    fn begin_log_if_possible(&mut self) {
        if let Err(error) = self.begin_log() {
            tracing::debug!(%error, "a log of the journal goes on for now");
        }
    }
}

impl OpenLog {
    /// Bytes of its frames.
    fn frames(&self) -> u64 {
        self.end - HEADER as u64
    }

    /// Sees to it that the name of the log, which is in `directory`, survives a power cut. To be called before anything in it
    /// counts.
    fn keep_name(&mut self, directory: &Path) -> Result<()> {
        if !self.is_named {
            sync_directory(directory)?;
            self.is_named = true;
        }
        Ok(())
    }

    /// Sees to it that the file has disk up to byte `to`.
    fn allocate(&mut self, to: u64) -> io::Result<()> {
        if to <= self.allocated || !self.allocates {
            return Ok(());
        }
        let to = to.next_multiple_of(STEP);
        let flags = FallocateFlags::empty();
        match rustix::fs::fallocate(&self.file, flags, self.allocated, to - self.allocated) {
            Ok(()) => self.allocated = to,
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.allocates = false,
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}

/// A mask that nobody can know.
fn random_mask(log: &Path) -> Result<Mask> {
    let mut mask = [0; MASK];
    rustix::rand::getrandom(&mut mask, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| StoreError::io("choosing a mask for", log, errno.into()))?;
    Ok(mask)
}

/// Writes what a file has in a range over itself, so that it is to be written to the disk.
fn rewrite(file: &File, range: Range<u64>) -> io::Result<()> {
    let mut piece = vec![0; STEP as usize];
    for from in range.clone().step_by(STEP as usize) {
        let piece = &mut piece[..(range.end - from).min(STEP) as usize];
        file.read_exact_at(piece, from)?;
        file.write_all_at(piece, from)?;
    }
    Ok(())
}

/// Makes a log without frames that has its room beforehand, whole or not at all. Its name is not durable yet.
fn create_log(directory: &Path, header: &Header) -> Result<OpenLog> {
    let name = Name::Log(header.base);
    let new = names::unfinished(directory, name);
    let path = names::path(directory, name);
    let bytes = header.encode();
    let make = || -> io::Result<OpenLog> {
        let mut log = OpenLog {
            path: path.clone(),
            file: new_file(&new)?,
            form: header.form,
            base: header.base,
            digest: frame::digest_of_header(&bytes),
            end: HEADER as u64,
            allocated: 0,
            allocates: true,
            is_named: false,
        };
        log.allocate(HEADER as u64 + RESERVE)?;
        log.file.write_all_at(&bytes, 0)?;
        log.file.sync_data()?;
        fs::rename(&new, &path)?;
        Ok(log)
    };
    make().map_err(|error| {
        // On a full disk it is room.
        if let Err(error) = fs::remove_file(&new) {
            tracing::debug!(%error, path = %new.display(), "leaving half a log");
        }
        StoreError::io("creating", &path, error)
    })
}

/// Where a journal is begun before it has its name.
fn unfinished(directory: &Path) -> PathBuf {
    let mut path = directory.as_os_str().to_owned();
    path.push(".new");
    path.into()
}

/// Removes what a beginning that was cut short left, and nothing else.
fn clear_unfinished(new: &Path) -> Result<()> {
    let failed = |error| StoreError::io("removing", new, error);
    let entries = match fs::read_dir(new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if names::parse(&name).is_some() || names::parse_unfinished(&name).is_some() {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    fs::remove_dir(new).map_err(failed)
}
