//! Whether an index says of segments what the journal does.
//!
//! Commits are handed slots by what the index has of segments, and what they make of that goes on record, in the journal as well. So
//! one that is wrong there is found out before the first commit: afterwards its journal would be as wrong. An opening reads the
//! logs in any case; of the checkpoint it takes the beginning, which has the segments.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;

use pool_core::extent::SegmentId;

use crate::catalogue::Catalogue;
use crate::error::Result;
use crate::format::SegmentRecord;
use crate::index::{Inspection, Kept, Recorded};
use crate::journal::checkpoint::{checkpoint, unread_checkpoint};
use crate::journal::frame::each_change;

/// What a journal, or a part of it, tells of segments.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Records as they are; `None` of segments that have gone.
    records: BTreeMap<SegmentId, Option<Vec<u8>>>,
    /// Number of the next segment.
    next: Option<u64>,
}

impl Told {
    /// Adds what a commit has changed.
    pub(super) fn follow(&mut self, changes: &[u8]) {
        let _: std::result::Result<bool, Infallible> = each_change(changes, |change| {
            if let Some(what) = Recorded::of(&change) {
                self.put(what, change.key, change.value);
            }
            Ok(())
        });
    }

    fn put(&mut self, what: Recorded, key: &[u8], value: Option<&[u8]>) {
        match what {
            Recorded::Segment => {
                if let Ok(number) = key.try_into() {
                    let id = SegmentId(u32::from_be_bytes(number));
                    self.records.insert(id, value.map(<[u8]>::to_vec));
                }
            }
            Recorded::Kept(Kept::Meta) => {
                let next = Kept::next_segment(key, value.unwrap_or_default());
                self.next = next.or(self.next);
            }
            Recorded::Kept(_) => {}
        }
    }

    /// Reads the beginning of a checkpoint.
    fn of_checkpoint(checkpoint: &Catalogue) -> Result<Self> {
        let mut told = Self::default();
        let mut entries = checkpoint.entries()?;
        while let Some((entry, key, value)) = entries.read_next()? {
            match entry.recorded() {
                Some(what @ Recorded::Segment) => told.put(what, key, Some(value)),
                Some(what @ Recorded::Kept(Kept::Meta)) if told.next.is_none() => {
                    told.put(what, key, Some(value));
                }
                _ => break,
            }
        }
        Ok(told)
    }

    /// What comes after this.
    fn then(mut self, later: &Self) -> Self {
        let later_records = later.records.iter();
        let later_records = later_records.map(|(id, record)| (*id, record.clone()));
        self.records.extend(later_records);
        self.next = later.next.or(self.next);
        self
    }

    /// What `index` says otherwise, in words. Of segments that are not told of it may say anything, unless this `is_all`.
    fn differences(&self, index: &Inspection, is_all: bool) -> Vec<String> {
        let found: BTreeMap<_, _> = index.segments.iter().copied().collect();
        let more = found.keys().filter(|_| is_all);
        let ids: BTreeSet<_> = self.records.keys().chain(more).copied().collect();
        let mut differing = Vec::new();
        for id in ids {
            let told = self.records.get(&id).and_then(Option::as_deref);
            let found = found.get(&id).map(SegmentRecord::encode);
            let found = found.as_ref().map(<[u8; 12]>::as_slice);
            if told != found {
                let (found, told) = (in_words(found), in_words(told));
                differing.push(format!(
                    "of segment {id} it has {found}, and the journal has {told}"
                ));
            }
        }
        if let Some(next) = self.next.filter(|next| *next != index.next_segment) {
            differing.push(format!(
                "the next segment is number {} in it, and {next} in the journal",
                index.next_segment
            ));
        }
        differing
    }
}

fn in_words(record: Option<&[u8]>) -> String {
    let Some(bytes) = record else {
        return "no record".into();
    };
    match SegmentRecord::decode(bytes) {
        Ok(record) => format!(
            "a record ({:?}, {:?}, {} of {} slots used)",
            record.kind, record.state, record.used, record.capacity
        ),
        Err(_) => "a record that cannot be read".into(),
    }
}

/// What an index that has `has` commits says of segments otherwise than the journal in `directory` of the store `identity`, in
/// words. `logged` is what the commits up to that one changed, as far as there are logs, and `newest` the number of the newest
/// checkpoint.
pub(super) fn differences(
    directory: &Path,
    identity: [u8; 16],
    newest: u64,
    has: u64,
    logged: &Told,
    index: &Inspection,
) -> Vec<String> {
    let by_logs = || logged.differences(index, false);
    // It has what comes later.
    if newest > has {
        return by_logs();
    }
    let begins = unread_checkpoint(directory, newest).and_then(|found| Told::of_checkpoint(&found));
    let Ok(begins) = begins else {
        // Scrubs and fsck tell of it.
        return by_logs();
    };
    let differing = begins.then(logged).differences(index, true);
    // Nothing has told so far that the checkpoint is what was written.
    if differing.is_empty() || checkpoint(directory, identity, newest).is_ok() {
        return differing;
    }
    by_logs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{SegmentKind, SegmentState};

    fn record(used: u32) -> SegmentRecord {
        SegmentRecord {
            kind: SegmentKind::Sparse,
            state: SegmentState::Open,
            used,
            capacity: 512,
        }
    }

    fn told(records: &[(u32, Option<u32>)], next: Option<u64>) -> Told {
        let mut told = Told::default();
        for (id, used) in records {
            let value = used.map(|used| record(used).encode());
            let value = value.as_ref().map(<[u8; 12]>::as_slice);
            told.put(Recorded::Segment, &id.to_be_bytes(), value);
        }
        told.next = next;
        told
    }

    #[test]
    fn the_last_word_of_the_journal_counts() {
        let index = Inspection {
            identity: None,
            commits: 9,
            hole: None,
            frame: None,
            next_segment: 4,
            segments: vec![(SegmentId(1), record(7)), (SegmentId(3), record(5))],
        };
        let before = told(&[(0, Some(9)), (1, Some(7)), (3, Some(2))], Some(3));
        let later = told(&[(0, None), (3, Some(5))], Some(4));
        let all = before.clone().then(&later);
        assert_eq!(all.differences(&index, true), Vec::<String>::new());
        assert_eq!(later.differences(&index, false), Vec::<String>::new());
        // Of a segment that it does not tell of, and that there is.
        assert_eq!(later.differences(&index, true).len(), 1);
        let differing = before.differences(&index, true);
        assert_eq!(differing.len(), 3, "{differing:?}");
        assert!(differing[1].contains("5 of 512 slots"), "{differing:?}");
        assert!(differing[1].contains("2 of 512 slots"), "{differing:?}");
        assert!(
            differing[2].contains("number 4 in it, and 3"),
            "{differing:?}"
        );
        let gone = told(&[(1, None)], None).differences(&index, false);
        assert!(gone[0].contains("the journal has no record"), "{gone:?}");
    }
}
