//! What the index has in segments that are to be emptied: what must move, and how it is checked.

use std::collections::{BTreeSet, HashMap};

use pool_core::digest::{PageId, WindowId};
use pool_core::extent::{Extent, SegmentId, Slot};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use crate::damage::{DamagedSlots, Expected, window_around};
use crate::error::{Result, StoreError};
use crate::format::Location;
use crate::placement::name_of_window;
use crate::snapshot::Snapshot;
use crate::upload::page_ids;

/// What the index has in the segments to be emptied.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// What objects refer to, by segment.
    pub(super) live: HashMap<SegmentId, LiveSlots>,
    pub(super) windows: Vec<(WindowId, Location)>,
    pub(super) pages: Vec<(PageId, Location)>,
    pub(super) names: HashMap<Location, PageId>,
    pub(super) window_names: HashMap<Location, WindowId>,
}

impl Survey {
    /// Looks at everything that the index has in `segments`.
    pub(super) fn of(store: &Snapshot<'_>, segments: &[SegmentId]) -> Result<Self> {
        let mut survey = Self::default();
        let live = &mut survey.live;
        live.extend(segments.iter().map(|id| (*id, LiveSlots::default())));
        store.for_each_object(|_, record| {
            for extent in record.map.extents() {
                if let Some(live) = live.get_mut(&extent.segment) {
                    live.add(extent);
                }
            }
            Ok(())
        })?;
        store.for_each_window(|id, at| {
            if live.contains_key(&at.segment) {
                survey.windows.push((id, at));
            }
            Ok(())
        })?;
        store.for_each_page(|id, at| {
            if live.contains_key(&at.segment) {
                survey.pages.push((id, at));
            }
            Ok(())
        })?;
        survey.names = survey.pages.iter().map(|(id, at)| (*at, *id)).collect();
        survey.window_names = survey.windows.iter().map(|(id, at)| (*at, *id)).collect();
        Ok(survey)
    }

    /// Adds a page that is not what its name says, or that could not be read, to what is damaged.
    pub(super) fn look_at_page(
        &self,
        at: Location,
        content: &[u8],
        is_read: bool,
        damage: &mut DamagedSlots,
    ) {
        if !is_read || self.check_page(at, content).is_err() {
            damage.note(at, self.expected(at));
        }
    }

    /// The same of a window. Where its name alone tells, all of its pages that have none of their own may be the wrong one.
    pub(super) fn look_at_window(
        &self,
        first: Location,
        content: &[u8],
        is_read: bool,
        damage: &mut DamagedSlots,
    ) {
        if is_read && self.check_window(first, content).is_ok() {
            return;
        }
        let mut is_told = false;
        let mut unnamed = Vec::new();
        for (nth, found) in (0..).zip(page_ids(content)) {
            let at = first.plus(nth);
            match self.names.get(&at) {
                Some(id) if found == Some(*id) => {}
                Some(_) => {
                    damage.note(at, self.expected(at));
                    is_told = true;
                }
                None => unnamed.push(at),
            }
        }
        if !is_told || !is_read {
            for at in unnamed {
                damage.note(at, self.expected(at));
            }
        }
    }

    /// All that objects refer to in a segment whose file is lost.
    pub(super) fn all_live(&self, segment: SegmentId) -> DamagedSlots {
        let mut damage = DamagedSlots::default();
        let Some(live) = self.live.get(&segment) else {
            return damage;
        };
        let of_window = |first: &Slot| {
            let first = first.0;
            (0..PAGES_PER_WINDOW as u32).map(move |nth| Slot(first + nth))
        };
        for slot in live.windows.iter().flat_map(of_window).chain(live.single()) {
            let at = Location { segment, slot };
            damage.note(at, self.expected(at));
        }
        damage
    }

    /// What a slot should have, as far as the index names it.
    fn expected(&self, at: Location) -> Expected {
        Expected {
            page: self.names.get(&at).copied(),
            window: self.window_names.get(&window_around(at)).copied(),
        }
    }

    /// Checks a page that the index has a name for.
    pub(super) fn check_page(&self, at: Location, content: &[u8]) -> Result<()> {
        match self.names.get(&at) {
            Some(id) if PageId::of(content) != *id => Err(damaged(at)),
            _ => Ok(()),
        }
    }

    /// Checks a window by its own name, or else those of its pages that have one.
    pub(super) fn check_window(&self, at: Location, content: &[u8]) -> Result<()> {
        let pages = page_ids(content);
        if let Some(id) = self.window_names.get(&at) {
            return if name_of_window(&pages) == *id {
                Ok(())
            } else {
                Err(damaged(at))
            };
        }
        for (nth, found) in pages.iter().enumerate() {
            let named = self.names.get(&at.plus(nth as u32));
            if named.is_some_and(|id| *found != Some(*id)) {
                return Err(damaged(at));
            }
        }
        Ok(())
    }
}

fn damaged(at: Location) -> StoreError {
    StoreError::Corrupt(format!(
        "slot {} of segment {} does not have its content's digest, so it is not moved",
        at.slot.0, at.segment
    ))
}

/// What objects refer to in one segment.
#[derive(Debug, Default)]
pub(super) struct LiveSlots {
    /// First slots of windows that an object may map whole.
    pub(super) windows: BTreeSet<Slot>,
    /// Slots of other extents.
    pages: BTreeSet<Slot>,
}

impl LiveSlots {
    fn add(&mut self, extent: &Extent) {
        for nth in 0..extent.count {
            let slot = extent.slot.0 + nth;
            if extent.dense {
                let window = page::round_down(u64::from(slot), PAGES_PER_WINDOW);
                self.windows.insert(Slot(window as u32));
            } else {
                self.pages.insert(Slot(slot));
            }
        }
    }

    /// Bytes of disk that a copy takes up.
    pub(super) fn bytes(&self) -> u64 {
        self.windows.len() as u64 * WINDOW_SIZE + self.single().count() as u64 * PAGE_SIZE
    }

    /// Slots that move singly: those in no live window.
    pub(super) fn single(&self) -> impl Iterator<Item = Slot> + '_ {
        let singly = self.pages.iter().copied();
        singly.filter(|slot| !self.is_in_window(*slot))
    }

    fn is_in_window(&self, slot: Slot) -> bool {
        let window = page::round_down(u64::from(slot.0), PAGES_PER_WINDOW);
        self.windows.contains(&Slot(window as u32))
    }

    /// True for a slot that moves, singly or with its window.
    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.pages.contains(&slot) || self.is_in_window(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_live_window_move_with_it_and_others_singly() {
        let extent = |slot, count, dense| Extent {
            file_page: 0,
            segment: SegmentId(1),
            slot: Slot(slot),
            count,
            dense,
        };
        let mut live = LiveSlots::default();
        live.add(&extent(600, 10, true));
        live.add(&extent(1000, 100, false));
        assert_eq!(live.windows.iter().collect::<Vec<_>>(), [&Slot(512)]);
        let single: Vec<_> = live.single().collect();
        assert_eq!((single[0], single.len()), (Slot(1024), 76));
        for (slot, moves) in [
            (511, false),
            (512, true),
            (1023, true),
            (1099, true),
            (1100, false),
        ] {
            assert_eq!(live.contains(Slot(slot)), moves, "{slot}");
        }
        assert_eq!(live.bytes(), WINDOW_SIZE + 76 * PAGE_SIZE);
    }
}
