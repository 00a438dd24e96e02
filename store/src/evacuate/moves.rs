//! Where slots went, and what that makes of an object's extents. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use pool_core::digest::ObjectId;
use pool_core::extent::{Extent, ExtentMap, SegmentId, Slot};
use pool_core::page::PAGES_PER_WINDOW;

use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord};
use crate::slots::by_window;

/// Where slots went.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// By first slot.
    pub(super) windows: HashMap<Location, Location>,
    /// Pages that moved singly.
    pub(super) pages: HashMap<Location, Location>,
}

impl Moves {
    /// Adds the moves of another segment.
    pub(super) fn extend(&mut self, other: Self) {
        self.windows.extend(other.windows);
        self.pages.extend(other.pages);
    }

    pub(super) fn page(&self, at: Location) -> Option<Location> {
        if let Some(to) = self.pages.get(&at) {
            return Some(*to);
        }
        let (_, to) = self.window(at)?;
        Some(to.plus(at.slot.page_in_window() as u32))
    }

    /// Where the window that `at` lies in was, and where it is, if it moved whole.
    fn window(&self, at: Location) -> Option<(Location, Location)> {
        let first = Slot(at.slot.0 - at.slot.page_in_window() as u32);
        let segment = at.segment;
        let window = Location {
            segment,
            slot: first,
        };
        self.windows.get(&window).map(|to| (window, *to))
    }

    /// Appends the new extents of a run that lies in one window of a segment, and adds the entries
    /// that go with it; false, and nothing is added, when a page of it did not move.
    fn redirect(
        &self,
        run: &Extent,
        followed: &HashSet<Location>,
        out: &mut Vec<Extent>,
        entries: &mut Entries,
    ) -> bool {
        let new: Option<Vec<_>> = slots(run).map(|from| self.page(from)).collect();
        let Some(new) = new else {
            return false;
        };
        let window = slots(run).next().and_then(|from| self.window(from));
        match window {
            Some((from, to)) => {
                if !followed.contains(&from) {
                    entries.windows.insert(from, to);
                }
            }
            None => entries.pages.extend(slots(run).zip(new.iter().copied())),
        }
        for (nth, to) in (0u64..).zip(new) {
            out.push(Extent {
                file_page: run.file_page + nth,
                segment: to.segment,
                slot: to.slot,
                count: 1,
                // A page that left its window is single from now on.
                dense: run.dense && window.is_some(),
            });
        }
        true
    }
}

/// The slots of an extent.
fn slots(extent: &Extent) -> impl Iterator<Item = Location> + use<> {
    let (segment, slot) = (extent.segment, extent.slot);
    (0..extent.count).map(move |nth| Location { segment, slot }.plus(nth))
}

/// What of the index goes with a part of an object: from where to where.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Of pages that moved singly.
    pub(super) pages: Vec<(Location, Location)>,
    /// Of windows, each with all its pages.
    pub(super) windows: BTreeMap<Location, Location>,
}

impl Entries {
    pub(super) fn count(&self) -> usize {
        self.pages.len() + self.windows.len() * (PAGES_PER_WINDOW as usize + 1)
    }
}

/// An object after moves.
pub(super) struct Redirected {
    pub(super) record: ObjectRecord,
    /// Something of it is elsewhere now.
    pub(super) moved: bool,
    pub(super) entries: Entries,
    /// Segments of what did not move.
    pub(super) stays: Vec<SegmentId>,
    /// There is more to move.
    pub(super) rest: bool,
}

/// What the moves make of an object's record. What it has in one window of a segment moves whole or
/// not at all; that which brings the number of entries to `limit` is the last. Windows of which the
/// entries have `followed` bring none.
pub(super) fn redirect_object(
    id: ObjectId,
    record: &ObjectRecord,
    sources: &HashSet<SegmentId>,
    moves: &Moves,
    followed: &HashSet<Location>,
    limit: usize,
) -> Result<Redirected> {
    let mut extents = Vec::new();
    let mut entries = Entries::default();
    let (mut moved, mut stays, mut rest) = (false, Vec::new(), false);
    for extent in record.map.extents() {
        if !sources.contains(&extent.segment) {
            extents.push(*extent);
            continue;
        }
        for run in by_window(extent) {
            if entries.count() >= limit {
                rest = true;
                extents.push(run);
            } else if moves.redirect(&run, followed, &mut extents, &mut entries) {
                moved = true;
            } else {
                stays.push(run.segment);
                extents.push(run);
            }
        }
    }
    let map = ExtentMap::new(record.map.length, extents)
        .map_err(|error| StoreError::Extents(id, error))?;
    let phase = record.phase;
    Ok(Redirected {
        record: ObjectRecord { phase, map },
        moved,
        entries,
        stays,
        rest,
    })
}

#[cfg(test)]
mod tests {
    use pool_core::page::PAGE_SIZE;

    use super::*;

    fn extent(file_page: u64, slot: u32, count: u32, dense: bool) -> Extent {
        Extent {
            file_page,
            segment: SegmentId(1),
            slot: Slot(slot),
            count,
            dense,
        }
    }

    fn object(extents: Vec<Extent>) -> ObjectRecord {
        let pages: u64 = extents.iter().map(|extent| u64::from(extent.count)).sum();
        let map = ExtentMap::new(pages * PAGE_SIZE, extents).unwrap();
        ObjectRecord { phase: 0, map }
    }

    fn redirect(
        record: &ObjectRecord,
        moves: &Moves,
        followed: &HashSet<Location>,
        limit: usize,
    ) -> Redirected {
        let sources = HashSet::from([SegmentId(1)]);
        redirect_object(ObjectId([0; 32]), record, &sources, moves, followed, limit).unwrap()
    }

    fn places(record: &ObjectRecord) -> Vec<(u32, u32, u32, bool)> {
        let extents = record.map.extents().iter();
        extents
            .map(|e| (e.segment.0, e.slot.0, e.count, e.dense))
            .collect()
    }

    #[test]
    fn what_lies_in_one_window_moves_whole_or_not_at_all() {
        let mut moves = Moves::default();
        moves
            .windows
            .insert(Location::of(1, 512), Location::of(2, 1024));
        let record = object(vec![extent(0, 1020, 6, true)]);
        let done = redirect(&record, &moves, &HashSet::new(), 10_000);
        assert_eq!(
            places(&done.record),
            [(2, 1532, 4, true), (1, 1024, 2, true)]
        );
        assert_eq!((done.stays, done.rest), (vec![SegmentId(1)], false));
        moves
            .pages
            .insert(Location::of(1, 1024), Location::of(3, 7));
        let done = redirect(&record, &moves, &HashSet::new(), 10_000);
        assert_eq!(
            places(&done.record),
            [(2, 1532, 4, true), (1, 1024, 2, true)]
        );
        moves
            .pages
            .insert(Location::of(1, 1025), Location::of(3, 8));
        let done = redirect(&record, &moves, &HashSet::new(), 10_000);
        assert_eq!(places(&done.record), [(2, 1532, 4, true), (3, 7, 2, false)]);
        assert_eq!(done.entries.windows.len(), 1);
        let pages = [
            (Location::of(1, 1024), Location::of(3, 7)),
            (Location::of(1, 1025), Location::of(3, 8)),
        ];
        assert_eq!(done.entries.pages, pages);
        assert!(done.moved && done.stays.is_empty() && !done.rest);
    }

    #[test]
    fn a_large_object_moves_in_parts_however_few_its_extents() {
        let mut moves = Moves::default();
        for nth in 0..1400 {
            moves
                .pages
                .insert(Location::of(1, 100 + nth), Location::of(2, nth));
        }
        for window in [2048, 2560, 3072] {
            moves
                .windows
                .insert(Location::of(1, window), Location::of(3, window));
        }
        // What has no new place stays, and is nothing more to move.
        let mut record = object(vec![
            extent(0, 100, 1400, false),
            extent(1400, 2048, 1536, true),
            extent(2936, 9000, 1, false),
        ]);
        let mut followed = HashSet::new();
        let mut parts = Vec::new();
        loop {
            let done = redirect(&record, &moves, &followed, 500);
            record = done.record;
            parts.push((done.entries.pages.len(), done.entries.windows.len()));
            followed.extend(done.entries.windows.into_keys());
            if !done.rest {
                assert_eq!(done.stays, [SegmentId(1)]);
                break;
            }
        }
        // Each up to a boundary of windows; the last one finds what stays.
        assert_eq!(parts, [(924, 0), (476, 1), (0, 1), (0, 1), (0, 0)]);
        assert_eq!(
            places(&record),
            [
                (2, 0, 1400, false),
                (3, 2048, 1536, true),
                (1, 9000, 1, false)
            ]
        );
        // Another object in windows that have moved brings nothing, so it moves at once.
        let other = object(vec![extent(0, 2050, 1000, false)]);
        let done = redirect(&other, &moves, &followed, 1);
        assert!(done.moved && !done.rest && done.entries.count() == 0);
    }
}
