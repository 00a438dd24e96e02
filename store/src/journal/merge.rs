//! A checkpoint that is made of the journal alone: of the one before and the commits since.
//!
//! That is how the logs stay bounded while the index is not trusted: a checkpoint is a copy of the index otherwise. Both are in
//! the same order, so the former checkpoint is read once, beside what the commits have changed, and each log is.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io;

use super::checkpoint::{Checkpointer, checkpoint, newest_number, prune, write_catalogue};
use super::frame::{Digest, each_change, shortened};
use super::names::{self, Name};
use super::read::each_commit;
use crate::backend::{SegmentFile as _, open_file, remove_if_there};
use crate::catalogue::{Catalogue, Header, Writer};
use crate::error::{Result, StoreError};
use crate::index::Recorded;

/// Bytes of changes that are kept in memory; of more a catalogue is made on the way, which has no name.
const MOST: usize = 64 << 20;

/// What to do about what this has written itself a moment ago.
const ADVICE: &str = "check the disk (dmesg, smartctl)";

/// Bytes of what was put down that are given back to the disk at a time.
const STEP: u64 = 1 << 20;

/// What commits make of records; `None` where one goes.
type Changes = BTreeMap<(Recorded, Vec<u8>), Option<Vec<u8>>>;

/// A checkpoint with some of the commits after it.
struct Merging<'a> {
    checkpointer: &'a Checkpointer,
    /// What has all but the changes.
    former: Former,
    /// Number of the last commit, and the digest of its frame.
    last: u64,
    digest: Digest,
    changes: Changes,
    bytes: usize,
    /// Bytes of changes from which on they are put down.
    most: usize,
    failed: Option<StoreError>,
}

/// What is read to be merged with changes.
struct Former {
    catalogue: Catalogue,
    /// Its file, to give back what was read of it: of what was put down on the way, which nobody else reads. So that takes no disk that
    /// what is written of it needs, and at no moment is there more than the checkpoint and one copy.
    put_down: Option<File>,
}

impl Former {
    /// Gives the disk back under whole steps between two places of what was put down.
    fn give_back(&self, from: &mut u64, to: u64) {
        let Some(file) = &self.put_down else {
            return;
        };
        let bytes = (to - *from) / STEP * STEP;
        if bytes == 0 {
            return;
        }
        if let Err(error) = file.discard(*from, bytes) {
            tracing::debug!(%error, "a part of a checkpoint that was read takes disk until it is written");
        }
        *from += bytes;
    }
}

impl Merging<'_> {
    /// Takes in a commit, unless the checkpoint has it.
    fn add(&mut self, number: u64, digest: &Digest, changes: &[u8]) {
        if number <= self.last || self.failed.is_some() {
            return;
        }
        if self.bytes >= self.most
            && let Err(error) = self.put_down()
        {
            self.failed = Some(error);
            return;
        }
        (self.last, self.digest) = (number, *digest);
        let _: std::result::Result<bool, Infallible> = each_change(changes, |change| {
            if let Some(what) = Recorded::of(&change) {
                let value = change.value.map(<[u8]>::to_vec);
                self.bytes += change.key.len() + value.as_ref().map_or(0, Vec::len);
                self.changes.insert((what, change.key.to_vec()), value);
            }
            Ok(())
        });
    }

    /// What a checkpoint of what there is says of itself.
    fn header(&self) -> Header {
        Header {
            begun_at: crate::now(),
            commits: self.last,
            frame: shortened(Some(self.digest)),
            ..*self.former.catalogue.header()
        }
    }

    /// Merges what there is, so that its changes are kept in memory no longer. The logs are not read to their end yet, so it is no
    /// checkpoint: nobody else finds it, and it goes when it is not used any more.
    fn put_down(&mut self) -> Result<()> {
        let name = Name::Checkpoint(self.last);
        let path = names::unfinished(&self.checkpointer.directory, name);
        let header = self.header();
        let changes = std::mem::take(&mut self.changes);
        let put_down = || -> Result<Option<Former>> {
            let mut writer = Writer::create(&path, &header)?;
            merge(&self.former, changes, &mut writer)?;
            writer.finish()?;
            // What the disk gives back otherwise would have a right digest in the checkpoint.
            let catalogue = Catalogue::open(&path, ADVICE)?;
            Ok(catalogue.map(|catalogue| Former {
                catalogue,
                put_down: open_file(&path, OpenOptions::new().write(true)).ok(),
            }))
        };
        let merged = put_down();
        let removed = remove_if_there(&path);
        removed.map_err(|error| StoreError::io("removing", &path, error))?;
        let gone = || StoreError::io("opening", &path, io::ErrorKind::NotFound.into());
        self.former = merged?.ok_or_else(gone)?;
        self.bytes = 0;
        Ok(())
    }
}

impl Checkpointer {
    /// Writes the checkpoint of the last commit when this was made, and removes what is not needed any more. Answers with its commits and
    /// bytes.
    ///
    /// # Errors
    ///
    /// When the former checkpoint or a log is damaged, or it cannot be written. The logs stay.
    pub(crate) fn merge(&self) -> Result<(u64, u64)> {
        self.merge_by(MOST)
    }

    pub(super) fn merge_by(&self, most: usize) -> Result<(u64, u64)> {
        self.make_room();
        let from = newest_number(&self.directory).map_err(|flaw| self.damaged(&flaw.told()))?;
        let former = checkpoint(&self.directory, self.identity, from);
        let former = former.map_err(|why| self.damaged(&why))?;
        if from >= self.last {
            return Ok((from, former.bytes()));
        }
        let mut merging = Merging {
            checkpointer: self,
            former: Former {
                catalogue: former,
                put_down: None,
            },
            last: from,
            digest: Digest::default(),
            changes: Changes::new(),
            bytes: 0,
            most,
            failed: None,
        };
        let read = each_commit(
            &self.directory,
            self.identity,
            self.last,
            |number, digest, changes| merging.add(number, digest, changes),
        );
        read.map_err(|flaw| self.damaged(&flaw.told()))?;
        if let Some(failed) = merging.failed.take() {
            return Err(failed);
        }
        if merging.last != self.last {
            let lacking = merging.last + 1;
            return Err(self.damaged(&format!("its logs lack commit {lacking}")));
        }
        let header = merging.header();
        let (former, changes) = (merging.former, merging.changes);
        let bytes = write_catalogue(&self.directory, &header, |writer| {
            merge(&former, changes, writer)
        })?;
        prune(&self.directory, self.last);
        Ok((self.last, bytes))
    }

    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Corrupt(format!(
            "no checkpoint can be made of the journal {} ({why}), so its logs stay",
            self.directory.display()
        ))
    }
}

/// Writes what changes make of a checkpoint. Of one that was put down nothing is left then.
fn merge(former: &Former, changes: Changes, writer: &mut Writer) -> Result<()> {
    let mut changes = changes.into_iter().peekable();
    let mut entries = former.catalogue.entries()?;
    let mut given_back = 0;
    while let Some((entry, key, value)) = entries.read_next()? {
        let Some(what) = entry.recorded() else {
            continue;
        };
        let at = (what, key);
        while let Some(((what, key), value)) =
            changes.next_if(|((what, key), _)| (*what, key.as_slice()) < at)
        {
            put(writer, what, &key, value.as_deref())?;
        }
        let becomes = changes.next_if(|((what, key), _)| (*what, key.as_slice()) == at);
        match becomes {
            Some((_, becomes)) => put(writer, what, key, becomes.as_deref())?,
            None => writer.put(entry, key, value)?,
        }
        former.give_back(&mut given_back, entries.position());
    }
    for ((what, key), value) in changes {
        put(writer, what, &key, value.as_deref())?;
    }
    Ok(())
}

fn put(writer: &mut Writer, what: Recorded, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    value.map_or(Ok(()), |value| writer.put(what.into(), key, value))
}
