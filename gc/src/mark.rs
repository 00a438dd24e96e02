//! What is live: everything that a root refers to, down to the slot.
//!
//! Roots are image manifests (each has a tag), library versions, and leased objects. Reading only;
//! any record that cannot be read, and any object that a root names and that is not there, ends
//! the mark. All of it is read in one snapshot; what is committed meanwhile is in the barrier.

use std::collections::{HashMap, HashSet};

use pool_core::digest::ObjectId;
use pool_core::extent::{Extent, SegmentId};
use pool_core::name::LibraryRef;
use pool_core::page::PAGES_PER_WINDOW;
use pool_store::Snapshot;
use pool_store::format::{Location, SegmentRecord};

use crate::{GcError, Result, during};

/// What is live.
#[derive(Debug, Default)]
pub struct Mark {
    /// Live objects.
    pub objects: HashSet<ObjectId>,
    segments: HashMap<SegmentId, LiveSlots>,
}

/// Live slots of one segment, a bit each.
#[derive(Debug)]
struct LiveSlots {
    slots: Vec<u64>,
    /// One bit a window that a dense extent owns.
    windows: Vec<u64>,
}

impl Mark {
    /// True when an object refers to the slot.
    pub fn is_live(&self, at: Location) -> bool {
        let segment = self.segments.get(&at.segment);
        segment.is_some_and(|live| bit(&live.slots, at.slot.0))
    }

    /// True when a dense extent lies in the window that begins at `at`.
    pub fn window_is_live(&self, at: Location) -> bool {
        let window = (u64::from(at.slot.0) / PAGES_PER_WINDOW) as u32;
        let segment = self.segments.get(&at.segment);
        segment.is_some_and(|live| bit(&live.windows, window))
    }

    /// Slots that must be kept: live ones, and all 512 of a live window, which stays whole.
    pub fn kept_slots(&self, segment: SegmentId) -> u64 {
        let Some(live) = self.segments.get(&segment) else {
            return 0;
        };
        let per_window = (PAGES_PER_WINDOW / 64) as usize;
        let windows = live.slots.chunks(per_window).enumerate();
        windows
            .map(|(nth, slots)| {
                if bit(&live.windows, nth as u32) {
                    PAGES_PER_WINDOW
                } else {
                    slots.iter().map(|word| u64::from(word.count_ones())).sum()
                }
            })
            .sum()
    }

    fn add(&mut self, extent: &Extent) -> std::result::Result<(), String> {
        let segment = extent.segment;
        let live = self
            .segments
            .get_mut(&segment)
            .ok_or_else(|| format!("segment {segment}, which does not exist"))?;
        let end = u64::from(extent.slot.0) + u64::from(extent.count);
        if end > live.slots.len() as u64 * 64 {
            return Err(format!("slots past the end of segment {segment}"));
        }
        for slot in extent.slot.0..end as u32 {
            set_bit(&mut live.slots, slot);
            if extent.dense {
                set_bit(&mut live.windows, slot / PAGES_PER_WINDOW as u32);
            }
        }
        Ok(())
    }
}

fn bit(words: &[u64], at: u32) -> bool {
    let word = words.get(at as usize / 64);
    word.is_some_and(|word| word >> (at % 64) & 1 != 0)
}

fn set_bit(words: &mut [u64], at: u32) {
    words[at as usize / 64] |= 1 << (at % 64);
}

/// Marks from all roots but the library versions `without`, which are about to go.
pub fn mark(store: &Snapshot<'_>, without: &[LibraryRef]) -> Result<Mark> {
    let roots = roots(store, without)?;
    let mut mark = Mark::default();
    let mut unreadable = None;
    let scan = store.for_each_object(|id, record| {
        if !roots.contains(&id) && !store.view().object_is_leased(id)? {
            return Ok(());
        }
        for extent in record.map.extents() {
            if !mark.segments.contains_key(&extent.segment)
                && let Some(record) = store.segment(extent.segment)?
            {
                mark.segments.insert(extent.segment, empty(&record));
            }
            if let Err(what) = mark.add(extent) {
                unreadable.get_or_insert(format!("object {id} refers to {what}"));
            }
        }
        mark.objects.insert(id);
        Ok(())
    });
    during("marking", scan)?;
    if let Some(what) = unreadable {
        return Err(GcError::Inconsistent(what));
    }
    match roots.iter().find(|id| !mark.objects.contains(id)) {
        Some(id) => Err(GcError::Inconsistent(format!(
            "object {id} is named and is not in the pool"
        ))),
        None => Ok(mark),
    }
}

fn empty(record: &SegmentRecord) -> LiveSlots {
    let windows = u64::from(record.capacity).div_ceil(PAGES_PER_WINDOW);
    LiveSlots {
        slots: vec![0; (windows * PAGES_PER_WINDOW / 64) as usize],
        windows: vec![0; windows.div_ceil(64) as usize],
    }
}

/// Objects that a manifest or a library version names.
fn roots(store: &Snapshot<'_>, without: &[LibraryRef]) -> Result<HashSet<ObjectId>> {
    let mut roots = HashSet::new();
    let manifests = store.for_each_manifest(|_, manifest| {
        roots.extend(manifest.objects());
        Ok(())
    });
    during("reading image manifests", manifests)?;
    for (library, record) in during("reading library versions", store.libraries())? {
        if !without.contains(&library) {
            roots.insert(record.object);
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use pool_core::extent::Slot;

    use super::*;

    fn extent(slot: u32, count: u32, dense: bool) -> Extent {
        Extent {
            file_page: 0,
            segment: SegmentId(3),
            slot: Slot(slot),
            count,
            dense,
        }
    }

    #[test]
    fn slots_and_windows_are_marked_and_counted() {
        let mut mark = Mark::default();
        let live = LiveSlots {
            slots: vec![0; 16],
            windows: vec![0; 1],
        };
        mark.segments.insert(SegmentId(3), live);
        mark.add(&extent(10, 3, false)).unwrap();
        let at = |slot| Location {
            segment: SegmentId(3),
            slot: Slot(slot),
        };
        assert!(mark.is_live(at(12)) && !mark.is_live(at(13)) && !mark.is_live(at(9)));
        assert_eq!(mark.kept_slots(SegmentId(3)), 3);
        mark.add(&extent(600, 1, true)).unwrap();
        assert!(mark.window_is_live(at(512)) && !mark.window_is_live(at(0)));
        assert_eq!(mark.kept_slots(SegmentId(3)), 515);
        assert!(mark.add(&extent(1023, 2, false)).is_err());
        assert!(!mark.is_live(at(5000)));
        assert_eq!(mark.kept_slots(SegmentId(4)), 0);
    }
}
