//! A checkpoint that is made of the journal alone: of the one before and the commits since.
//!
//! That is how the logs stay bounded while the index is not trusted: a checkpoint is a copy of the index otherwise. Both are in
//! the same order, so the former checkpoint is read once, beside what the commits have changed.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::frame::{Digest, each_change, shortened};
use super::read::{checkpoint, each_commit, newest_number};
use super::{Checkpointer, prune, write_catalogue};
use crate::catalogue::{Catalogue, Writer};
use crate::error::{Result, StoreError};
use crate::index::Recorded;

/// Bytes of changes that are kept in memory; of more several checkpoints are made, one after the other.
const MOST: usize = 64 << 20;

/// What commits make of records; `None` where one goes.
type Changes = BTreeMap<(Recorded, Vec<u8>), Option<Vec<u8>>>;

/// What some of the commits after a checkpoint change.
struct Changed {
    /// Number of the last one, and the digest of its frame.
    last: u64,
    digest: Digest,
    changes: Changes,
    bytes: usize,
}

impl Changed {
    fn add(&mut self, number: u64, digest: &Digest, changes: &[u8]) {
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
        let mut from = newest_number(&self.directory).map_err(|flaw| self.damaged(&flaw.told()))?;
        loop {
            let former = checkpoint(&self.directory, self.identity, from);
            let former = former.map_err(|why| self.damaged(&why))?;
            if from >= self.last {
                return Ok((from, former.bytes()));
            }
            let changed = self.changed_since(from, most)?;
            let mut header = *former.header();
            header.begun_at = crate::now();
            header.commits = changed.last;
            header.frame = shortened(Some(changed.digest));
            from = changed.last;
            let bytes = write_catalogue(&self.directory, &header, |writer| {
                merge(&former, changed.changes, writer)
            })?;
            prune(&self.directory, from);
            if from == self.last {
                return Ok((from, bytes));
            }
        }
    }

    /// What commits after `from` change, until that is `most` bytes.
    fn changed_since(&self, from: u64, most: usize) -> Result<Changed> {
        let mut changed = Changed {
            last: from,
            digest: Digest::default(),
            changes: Changes::new(),
            bytes: 0,
        };
        let read = each_commit(
            &self.directory,
            self.identity,
            self.last,
            |number, digest, changes| {
                if number > from && (changed.last == from || changed.bytes < most) {
                    changed.add(number, digest, changes);
                }
            },
        );
        read.map_err(|flaw| self.damaged(&flaw.told()))?;
        if changed.last == from {
            return Err(self.damaged(&format!("its logs lack commit {}", from + 1)));
        }
        Ok(changed)
    }

    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Corrupt(format!(
            "no checkpoint can be made of the journal {} ({why}), so its logs stay",
            self.directory.display()
        ))
    }
}

/// Writes what changes make of a checkpoint.
fn merge(former: &Catalogue, changes: Changes, writer: &mut Writer) -> Result<()> {
    let mut changes = changes.into_iter().peekable();
    let mut entries = former.entries()?;
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
    }
    for ((what, key), value) in changes {
        put(writer, what, &key, value.as_deref())?;
    }
    Ok(())
}

fn put(writer: &mut Writer, what: Recorded, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    value.map_or(Ok(()), |value| writer.put(what.into(), key, value))
}
