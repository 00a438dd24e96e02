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
        let position = at.slot.page_in_window() as u32;
        let window = self.windows.get(&Location {
            segment: at.segment,
            slot: Slot(at.slot.0 - position),
        })?;
        Some(Location {
            segment: window.segment,
            slot: Slot(window.slot.0 + position),
        })
    }

    /// Appends the new extents of an extent; false, and nothing appended, when a page of it did
    /// not move.
    fn redirect(&self, extent: &Extent, out: &mut Vec<Extent>) -> bool {
        let before = out.len();
        for nth in 0..extent.count {
            let from = Location {
                segment: extent.segment,
                slot: Slot(extent.slot.0 + nth),
            };
            let Some(to) = self.page(from) else {
                out.truncate(before);
                return false;
            };
            out.push(Extent {
                file_page: extent.file_page + u64::from(nth),
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

/// An object's record after the moves. Segments of `sources` that it still refers to go to `kept`.
pub(super) fn redirect_object(
    id: ObjectId,
    record: &ObjectRecord,
    sources: &HashSet<SegmentId>,
    moves: &Moves,
    kept: &mut HashSet<SegmentId>,
) -> Result<ObjectRecord> {
    let mut extents = Vec::new();
    for extent in record.map.extents() {
        let moved = sources.contains(&extent.segment) && moves.redirect(extent, &mut extents);
        if !moved {
            if sources.contains(&extent.segment) {
                kept.insert(extent.segment);
            }
            extents.push(*extent);
        }
    }
    let map = ExtentMap::new(record.map.length, extents)
        .map_err(|error| StoreError::Extents(id, error))?;
    let phase = record.phase;
    Ok(ObjectRecord { phase, map })
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
}
