//! Slots that something refers to are used, whatever the record of their segment says.
//!
//! Commits append behind the slots that are used on record, so a record that has too few costs what is behind them. It may have
//! got there by a commit that was made by a wrong index, before openings [compared it](crate::opening) with the journal, or by a fault of
//! memory; then index and journal say the same, and only what refers to slots tells. Objects are many at 100 million pages. So an opening looks
//! at them only where an open segment's file has data behind its used slots, as it has after a kill; a repair looks at everything.

use std::collections::BTreeMap;

use pool_core::extent::{SegmentId, Slot};
use pool_core::page::PAGES_PER_WINDOW;

use crate::Reader;
use crate::backend::{Backend, SegmentFile};
use crate::error::Result;
use crate::format::{Location, ObjectRecord, SegmentRecord, SegmentState};
use crate::index::{Index, records};

/// How far segments are referred to.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// The slot behind the last one of each.
    ends: BTreeMap<SegmentId, u64>,
    /// Something could not be read, and may refer to any.
    is_partial: bool,
}

impl Reach {
    /// What objects refer to.
    fn of_objects(index: &Reader<'_>) -> Self {
        let mut reach = Self::default();
        let unread = index.for_each_readable_object(|_, record| reach.add(&record));
        reach.is_partial = !unread.is_empty();
        reach
    }

    /// What objects, pages and windows refer to, as far as they can be read.
    fn of_all(index: &Reader<'_>) -> Self {
        let mut reach = Self::of_objects(index);
        let mut note = |at: Result<Location>, count| {
            match at {
                Ok(at) => reach.note(at.segment, u64::from(at.slot.0) + count),
                Err(_) => reach.is_partial = true,
            }
            Ok(())
        };
        let pages = index.each(&records::PAGES, |page| note(page.map(|(_, at)| at), 1));
        let windows = index.each(&records::WINDOWS, |window| {
            note(window.map(|(_, at)| at), PAGES_PER_WINDOW)
        });
        reach.is_partial |= pages.and(windows).is_err();
        reach
    }

    /// Adds what an object refers to.
    pub(crate) fn add(&mut self, record: &ObjectRecord) {
        for extent in record.map.extents() {
            let end = u64::from(extent.slot.0) + u64::from(extent.count);
            self.note(extent.segment, end);
        }
    }

    fn note(&mut self, segment: SegmentId, end: u64) {
        let last = self.ends.entry(segment).or_default();
        *last = end.max(*last);
    }

    /// The record of a segment with as many used slots as there have to be; `None` where it has as many.
    pub(crate) fn raise(&self, id: SegmentId, record: &SegmentRecord) -> Option<SegmentRecord> {
        if record.state == SegmentState::Retired {
            return None;
        }
        let unit = record.kind.unit();
        let end = self.ends.get(&id)?.next_multiple_of(unit.into());
        let used = end.min(record.capacity.into()) as u32;
        let is_full = used == record.capacity;
        (used > record.used).then_some(SegmentRecord {
            used,
            state: match record.state {
                SegmentState::Open if is_full => SegmentState::Sealed,
                state => state,
            },
            ..*record
        })
    }

    /// The record of an open segment that has data behind its used slots, if that is to be another: with as many used slots as there have to
    /// be, and sealed where some objects cannot be read, for they may refer to what would be appended over.
    fn right(&self, id: SegmentId, record: &SegmentRecord) -> Option<SegmentRecord> {
        let mut right = self.raise(id, record).unwrap_or(*record);
        if self.is_partial {
            right.state = SegmentState::Sealed;
        }
        (right != *record).then_some(right)
    }
}

/// Makes the records right of open segments that have data behind their used slots. To be called before anything is appended.
pub(crate) fn raise_open(index: &Index, backend: &dyn Backend) -> Result<()> {
    let now = index.now();
    let mut open = now.segments()?;
    open.retain(|(id, record)| {
        record.state == SegmentState::Open && has_more(backend, *id, Slot(record.used))
    });
    if open.is_empty() {
        return Ok(());
    }
    let reach = Reach::of_objects(&now);
    let mut batch = index.batch();
    for (id, record) in open {
        let Some(right) = reach.right(id, &record) else {
            continue;
        };
        if right.used > record.used {
            tracing::error!("{}", in_words(id, &record, &right));
        }
        if reach.is_partial {
            tracing::warn!(segment = %id, "nothing more is appended to it, since some objects cannot be read");
        }
        batch.put_segment(id, &right);
    }
    batch.commit()
}

/// True when a segment's file may have something from a slot on.
fn has_more(backend: &dyn Backend, id: SegmentId, slot: Slot) -> bool {
    // One that cannot be opened is looked at by whoever needs it.
    backend
        .open(id, false)
        .is_ok_and(|file| has_data(file.as_ref(), slot))
}

/// True when a file may have something other than a hole from a slot on.
pub(crate) fn has_data(file: &dyn SegmentFile, slot: Slot) -> bool {
    !matches!(file.next_data(slot.byte_offset()), Ok(None))
}

/// Segments that have fewer used slots on record than something refers to, in words. Reads all of the index but names.
pub(crate) fn short(index: &Reader<'_>) -> Result<Vec<String>> {
    let raised = raised(index)?;
    let told = raised
        .iter()
        .map(|(id, record, raised)| in_words(*id, record, raised));
    Ok(told.collect())
}

/// Makes their records right.
pub(crate) fn raise_all(index: &Index) -> Result<()> {
    let mut batch = index.batch();
    for (id, _, raised) in raised(&index.now())? {
        batch.put_segment(id, &raised);
    }
    batch.commit()
}

fn raised(index: &Reader<'_>) -> Result<Vec<(SegmentId, SegmentRecord, SegmentRecord)>> {
    let reach = Reach::of_all(index);
    let mut all = Vec::new();
    for (id, record) in index.segments_one_by_one()? {
        // Whoever asks says what is wrong with others.
        if let Ok(record) = record
            && let Some(raised) = reach.raise(id, &record)
        {
            all.push((id, record, raised));
        }
    }
    Ok(all)
}

fn in_words(id: SegmentId, record: &SegmentRecord, raised: &SegmentRecord) -> String {
    format!(
        "segment {id} has {} used slots on record, and something refers to slot {}",
        record.used,
        raised.used - 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::SegmentKind;

    #[test]
    fn records_are_raised_to_what_is_referred_to_and_never_lowered() {
        use SegmentKind::{Dense, Sparse};
        use SegmentState::{Open, Retired, Sealed};
        let mut reach = Reach::default();
        for (segment, end) in [(1, 70), (1, 30), (2, 513), (3, 1024)] {
            reach.note(SegmentId(segment), end);
        }
        let record = |kind, state, used| SegmentRecord {
            kind,
            state,
            used,
            capacity: 1024,
        };
        let raise = |id, kind, state, used| {
            let raised = reach.raise(SegmentId(id), &record(kind, state, used));
            raised.map(|raised| (raised.used, raised.state))
        };
        assert_eq!(raise(1, Sparse, Open, 25), Some((70, Open)));
        assert_eq!(raise(1, Sparse, Sealed, 0), Some((70, Sealed)));
        assert_eq!(raise(1, Sparse, Open, 70), None);
        assert_eq!(raise(1, Sparse, Open, 71), None);
        assert_eq!(raise(1, Sparse, Retired, 25), None);
        // A window is handed out whole.
        assert_eq!(raise(1, Dense, Open, 0), Some((512, Open)));
        assert_eq!(raise(2, Dense, Open, 512), Some((1024, Sealed)));
        assert_eq!(raise(3, Sparse, Open, 1023), Some((1024, Sealed)));
        assert_eq!(raise(4, Sparse, Open, 0), None);
        // What an object says that cannot be.
        reach.note(SegmentId(4), 1 << 40);
        let raised = reach.raise(SegmentId(4), &record(Sparse, Open, 5));
        assert_eq!(raised.map(|raised| raised.used), Some(1024));
    }

    #[test]
    fn nothing_is_appended_behind_what_may_be_referred_to() {
        use SegmentState::{Open, Sealed};
        let right = |is_partial, end, used| {
            let reach = Reach {
                ends: BTreeMap::from([(SegmentId(1), end)]),
                is_partial,
            };
            let record = SegmentRecord {
                kind: SegmentKind::Sparse,
                state: Open,
                used,
                capacity: 1024,
            };
            let right = reach.right(SegmentId(1), &record);
            right.map(|right| (right.used, right.state))
        };
        assert_eq!(right(false, 70, 25), Some((70, Open)));
        assert_eq!(right(false, 70, 70), None);
        assert_eq!(right(true, 70, 25), Some((70, Sealed)));
        assert_eq!(right(true, 70, 70), Some((70, Sealed)));
        assert_eq!(right(true, 0, 0), Some((0, Sealed)));
    }
}
