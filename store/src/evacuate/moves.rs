//! Where slots went, and what that makes of an object's extents. Pure.

use std::collections::{HashMap, HashSet};

use pool_core::digest::ObjectId;
use pool_core::extent::{Extent, ExtentMap, SegmentId, Slot};

use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord};

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
    pub(super) fn window(&self, at: Location) -> Option<(Location, Location)> {
        let first = Slot(at.slot.0 - at.slot.page_in_window() as u32);
        let segment = at.segment;
        let window = Location {
            segment,
            slot: first,
        };
        self.windows.get(&window).map(|to| (window, *to))
    }

    /// Appends the new extents of an extent; false, and nothing appended, when a page of it did
    /// not move.
    fn redirect(&self, extent: &Extent, out: &mut Vec<Extent>) -> bool {
        let before = out.len();
        for (nth, from) in (0u64..).zip(slots(extent)) {
            let Some(to) = self.page(from) else {
                out.truncate(before);
                return false;
            };
            out.push(Extent {
                file_page: extent.file_page + nth,
                segment: to.segment,
                slot: to.slot,
                count: 1,
                // A page that left its window is single from now on.
                dense: extent.dense && !self.pages.contains_key(&from),
            });
        }
        true
    }
}

/// The slots of an extent.
pub(super) fn slots(extent: &Extent) -> impl Iterator<Item = Location> + use<> {
    let (segment, slot) = (extent.segment, extent.slot);
    (0..extent.count).map(move |nth| Location { segment, slot }.plus(nth))
}

/// An object after moves.
pub(super) struct Redirected {
    pub(super) record: ObjectRecord,
    /// Its extents that are elsewhere now, as they were.
    pub(super) moved: Vec<Extent>,
    /// Segments of extents that did not move.
    pub(super) stays: Vec<SegmentId>,
    /// There is more to move.
    pub(super) rest: bool,
}

/// What the moves make of an object's record. Ends with the extent that makes it `limit` pages or
/// more.
pub(super) fn redirect_object(
    id: ObjectId,
    record: &ObjectRecord,
    sources: &HashSet<SegmentId>,
    moves: &Moves,
    limit: u64,
) -> Result<Redirected> {
    let mut extents = Vec::new();
    let (mut moved, mut stays, mut rest) = (Vec::new(), Vec::new(), false);
    let mut pages = 0;
    for extent in record.map.extents() {
        if sources.contains(&extent.segment) {
            if pages >= limit {
                rest = true;
            } else if moves.redirect(extent, &mut extents) {
                moved.push(*extent);
                pages += u64::from(extent.count);
                continue;
            } else {
                stays.push(extent.segment);
            }
        }
        extents.push(*extent);
    }
    let map = ExtentMap::new(record.map.length, extents)
        .map_err(|error| StoreError::Extents(id, error))?;
    let phase = record.phase;
    Ok(Redirected {
        record: ObjectRecord { phase, map },
        moved,
        stays,
        rest,
    })
}

#[cfg(test)]
mod tests {
    use pool_core::page::PAGE_SIZE;

    use super::*;

    fn extent(slot: u32, count: u32, dense: bool) -> Extent {
        Extent {
            file_page: 0,
            segment: SegmentId(1),
            slot: Slot(slot),
            count,
            dense,
        }
    }

    #[test]
    fn an_extent_moves_whole_or_not_at_all() {
        let at = |segment, slot| Location {
            segment: SegmentId(segment),
            slot: Slot(slot),
        };
        let mut moves = Moves::default();
        moves.windows.insert(at(1, 512), at(2, 1024));
        let mut out = Vec::new();
        assert!(!moves.redirect(&extent(1020, 5, true), &mut out));
        assert!(out.is_empty());
        moves.pages.insert(at(1, 1024), at(3, 7));
        assert!(moves.redirect(&extent(1020, 5, true), &mut out));
        let map = ExtentMap::new(5 * PAGE_SIZE, out).unwrap();
        let found: Vec<_> = map
            .extents()
            .iter()
            .map(|e| (e.segment.0, e.slot.0, e.count, e.dense))
            .collect();
        assert_eq!(found, [(2, 1532, 4, true), (3, 7, 1, false)]);
    }

    #[test]
    fn a_large_object_moves_in_parts() {
        let mut moves = Moves::default();
        let at = |segment, slot| Location {
            segment: SegmentId(segment),
            slot: Slot(slot),
        };
        let mut extents = Vec::new();
        for nth in 0..3u32 {
            moves.pages.insert(at(1, 2 * nth), at(2, 5 * nth));
            extents.push(Extent {
                file_page: u64::from(nth),
                ..extent(2 * nth, 1, false)
            });
        }
        // What has no new place stays, and is nothing more to move.
        extents.push(Extent {
            file_page: 3,
            ..extent(100, 1, false)
        });
        let map = ExtentMap::new(4 * PAGE_SIZE, extents).unwrap();
        let mut record = ObjectRecord { phase: 0, map };
        let sources = HashSet::from([SegmentId(1)]);
        let mut parts = Vec::new();
        loop {
            let done = redirect_object(ObjectId([0; 32]), &record, &sources, &moves, 2).unwrap();
            record = done.record;
            parts.push(done.moved.len());
            if !done.rest {
                assert_eq!(done.stays, [SegmentId(1)]);
                break;
            }
        }
        assert_eq!(parts, [2, 1]);
        let found = record.map.extents().iter();
        let found: Vec<_> = found.map(|e| (e.segment.0, e.slot.0)).collect();
        assert_eq!(found, [(2, 0), (2, 5), (2, 10), (1, 100)]);
    }
}
