//! Comparing what the journal comes to with what the index has, record by record.
//!
//! The checkpoint is read beside the index, both being in the same order: what one of them lacks or has otherwise is *open*. Then
//! each later commit settles what it changed, by whether the index has that; what is open in the end differs. So there is no more
//! in memory than what was changed since the checkpoint. Pages and windows are found out from the segments, and compared by
//! scrubs.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use super::Reading;
use crate::catalogue::{Catalogue, Entries};
use crate::error::Result;
use crate::index::{Reader, Recorded, shown};
use crate::journal;
use crate::journal::frame::{Change, each_change};

/// Records that are named; the others are counted.
const NAMED: usize = 16;

/// Keys of records that are not known to be the same, in the order of a checkpoint.
type Open = BTreeSet<(Recorded, Vec<u8>)>;

/// An index and a journal that are whole, the one at the commit `limit`, the other up to it at least.
pub(crate) struct Comparison<'a> {
    pub(crate) index: &'a Reader<'a>,
    pub(crate) checkpoint: &'a Catalogue,
    pub(crate) journal: &'a Path,
    pub(crate) identity: [u8; 16],
    pub(crate) limit: u64,
}

/// Whom the bytes are told to that were read, and whether to go on.
struct Steps<'a> {
    step: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    flow: ControlFlow<()>,
}

impl Steps<'_> {
    fn note(&mut self, bytes: u64) -> ControlFlow<()> {
        if self.flow.is_continue() {
            self.flow = (self.step)(bytes);
        }
        self.flow
    }
}

impl Comparison<'_> {
    /// What differs, in words; `None` when `step`, which is told of the bytes that were read, ended it, or the journal is not what
    /// it was a moment ago.
    pub(crate) fn differences(
        &self,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Vec<String>>> {
        let reading = &mut Steps {
            step,
            flow: ControlFlow::Continue(()),
        };
        let mut open = self.against_checkpoint(reading)?;
        let begun = self.checkpoint.header().commits;
        let mut result = Ok(());
        let read = journal::each_commit(
            self.journal,
            self.identity,
            self.limit,
            |number, _, changes| {
                if number > begun
                    && result.is_ok()
                    && reading.note(changes.len() as u64).is_continue()
                {
                    result =
                        each_change(changes, |change| self.settle(&change, &mut open)).map(drop);
                }
            },
        );
        result?;
        // It was whole a moment ago.
        if reading.flow.is_break() || read.is_err() {
            return Ok(None);
        }
        Ok(Some(told(&open)))
    }

    /// What index and checkpoint do not have alike.
    fn against_checkpoint(&self, reading: &mut Steps<'_>) -> Result<Open> {
        let mut open = Open::new();
        let mut entries = self.checkpoint.entries()?;
        let mut next = Next::of(&mut entries)?;
        self.index.each_recorded(|what, key, value| {
            let _ = reading.note((key.len() + value.len()) as u64);
            while let Some(before) = next.take_if(|next| next.is_before(what, key)) {
                open.insert(before.into_key());
                next = Next::of(&mut entries)?;
            }
            let here = next.take_if(|next| (next.what, next.key.as_slice()) == (what, key));
            if here.as_ref().is_none_or(|here| here.value != value) {
                open.insert((what, key.to_vec()));
            }
            if here.is_some() {
                next = Next::of(&mut entries)?;
            }
            Ok(())
        })?;
        while let Some(left) = next {
            open.insert(left.into_key());
            next = Next::of(&mut entries)?;
        }
        Ok(open)
    }

    /// Takes note of whether the index has what a commit changed.
    fn settle(&self, change: &Change<'_>, open: &mut Open) -> Result<()> {
        let Some(what) = Recorded::of(change) else {
            return Ok(());
        };
        let key = (what, change.key.to_vec());
        if self.index.recorded(what, change.key)?.as_deref() == change.value {
            open.remove(&key);
        } else {
            open.insert(key);
        }
        Ok(())
    }
}

/// A record of a checkpoint.
struct Next {
    what: Recorded,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Next {
    /// The next one, if there is one.
    fn of(entries: &mut Entries<'_>) -> Result<Option<Self>> {
        while let Some((entry, key, value)) = entries.read_next()? {
            let Some(what) = entry.recorded() else {
                continue;
            };
            return Ok(Some(Self {
                what,
                key: key.to_vec(),
                value: value.to_vec(),
            }));
        }
        Ok(None)
    }

    fn is_before(&self, what: Recorded, key: &[u8]) -> bool {
        (self.what, self.key.as_slice()) < (what, key)
    }

    fn into_key(self) -> (Recorded, Vec<u8>) {
        (self.what, self.key)
    }
}

fn told(open: &Open) -> Vec<String> {
    let mut told: Vec<_> = open
        .iter()
        .take(NAMED)
        .map(|(what, key)| {
            let family = what.family();
            format!(
                "the record {} of {family} is not the one that the journal has",
                shown(key)
            )
        })
        .collect();
    if open.len() > NAMED {
        told.push(format!(
            "{} more records are not those that the journal has",
            open.len() - NAMED
        ));
    }
    told
}

/// Records of an index that nothing can be compared with that cannot be read, in words.
pub(super) fn check(index: &Reader<'_>, reading: &mut Reading<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let scanned = index.each_recorded(|what, key, value| {
        let _ = reading.note((key.len() + value.len()) as u64);
        if let Err(error) = what.check(key, value)
            && wrong.len() < NAMED
        {
            wrong.push(format!(
                "the record {} of {}: {error}",
                shown(key),
                what.family()
            ));
        }
        Ok(())
    });
    wrong.extend(scanned.err().map(|error| error.to_string()));
    wrong
}
