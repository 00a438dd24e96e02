//! Slots that were found damaged: what they should have counts as missing until it is written anew.
//!
//! Nothing is ever written to a slot again that anything refers to. So a damaged page is mended by whoever pushes it next:
//! a commit does not find it, asks for it and writes it to another slot, and [`mend`](crate::mend) makes all that
//! refers to the damaged slot follow. For that it must be known that the slot is damaged, by whoever found it, and after
//! a restart: the index has a record of each. There is nearly always none, and then all of this costs a look at an
//! empty map.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::{Extent, ExtentMap, SegmentId, Slot};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW};

use crate::error::Result;
use crate::format::{Location, ObjectRecord};
use crate::slots::SlotsOfSegments;
use crate::{Store, StoreView};

/// Most slots of which it is remembered that they are damaged: 1 GiB of pages. What is over is found again once some
/// of these are mended; where so much is lost, a backup is what helps.
pub(crate) const MOST: usize = 1 << 18;

/// What a damaged slot should have, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The page.
    pub(crate) page: Option<PageId>,
    /// The window that the slot is in, of a dense segment.
    pub(crate) window: Option<WindowId>,
}

/// Damaged slots, by place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DamagedSlots(BTreeMap<Location, Expected>);

/// Whether an object was whole when it was compared with its digest the last time, and what was known to be damaged then.
#[derive(Debug, Default)]
pub struct Compared(Mutex<Option<(Arc<DamagedSlots>, bool)>>);

/// The first slot of the 2 MiB window of a segment that a slot is in.
pub(crate) fn window_around(at: Location) -> Location {
    let first = page::round_down(u64::from(at.slot.0), PAGES_PER_WINDOW);
    Location {
        slot: Slot(first as u32),
        ..at
    }
}

impl DamagedSlots {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Location, Expected)> + '_ {
        self.0.iter().map(|(at, expected)| (*at, *expected))
    }

    pub(crate) fn get(&self, at: Location) -> Option<Expected> {
        self.0.get(&at).copied()
    }

    /// Those among `count` slots from `first` on.
    pub(crate) fn among(
        &self,
        first: Location,
        count: u32,
    ) -> impl Iterator<Item = (Location, Expected)> + '_ {
        let slot = Slot(first.slot.0.saturating_add(count));
        let found = self.0.range(first..Location { slot, ..first });
        found.map(|(at, expected)| (*at, *expected))
    }

    /// True when something of the bytes from `from` to before `to` of an object is in a damaged slot.
    fn is_in_bytes(&self, map: &ExtentMap, from: u64, to: u64) -> bool {
        let pages = from / PAGE_SIZE..to.div_ceil(PAGE_SIZE);
        let mut asked = map.slice(pages.start, pages.end.saturating_sub(pages.start));
        !self.is_empty() && asked.any(|extent| self.is_in(&extent))
    }

    /// True when a slot of the window that begins at `first` is damaged.
    fn is_in_window(&self, first: Location) -> bool {
        self.among(first, PAGES_PER_WINDOW as u32).next().is_some()
    }

    /// True when an object consists of one of the slots.
    pub(crate) fn touch(&self, map: &ExtentMap) -> bool {
        !self.is_empty() && map.extents().iter().any(|extent| self.is_in(extent))
    }

    /// True when one of the slots is in an extent.
    fn is_in(&self, extent: &Extent) -> bool {
        let (segment, slot) = (extent.segment, extent.slot);
        let first = Location { segment, slot };
        self.among(first, extent.count).next().is_some()
    }

    /// Adds a slot, or what is known of it; false when that was known, or too many are known already.
    pub(crate) fn note(&mut self, at: Location, expected: Expected) -> bool {
        let is_full = self.0.len() >= MOST;
        match self.0.entry(at) {
            Entry::Vacant(_) if is_full => false,
            Entry::Vacant(new) => {
                new.insert(expected);
                true
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                let before = *known;
                known.page = known.page.or(expected.page);
                known.window = known.window.or(expected.window);
                *known != before
            }
        }
    }

    pub(crate) fn forget(&mut self, at: Location) {
        self.0.remove(&at);
    }

    /// Adds slots of which nothing more is known.
    pub(crate) fn note_all(&mut self, slots: &SlotsOfSegments) {
        for (segment, slot) in slots.iter() {
            let at = Location { segment, slot };
            self.note(at, Expected::default());
        }
    }

    /// Takes it from an entry of the index that a slot should have a page.
    pub(crate) fn name_page(&mut self, at: Location, id: PageId) {
        if let Some(expected) = self.0.get_mut(&at) {
            expected.page = Some(id);
        }
    }

    /// Takes it from an entry of the index that slots should have a window.
    pub(crate) fn name_window(&mut self, first: Location, id: WindowId) {
        let slot = Slot(first.slot.0.saturating_add(PAGES_PER_WINDOW as u32));
        for (_, expected) in self.0.range_mut(first..Location { slot, ..first }) {
            expected.window = Some(id);
        }
    }

    /// Segments with damaged slots.
    pub(crate) fn segments(&self) -> Vec<SegmentId> {
        let mut segments: Vec<_> = self.0.keys().map(|at| at.segment).collect();
        segments.dedup();
        segments
    }
}

impl StoreView {
    /// Slots that were found damaged and are not mended yet; to a follower, as of its last [refresh](Self::refresh).
    pub(crate) fn damage(&self) -> Arc<DamagedSlots> {
        let damage = self.damage.read();
        Arc::clone(&damage.unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_damage(&self, damage: DamagedSlots) {
        let mut current = self.damage.write().unwrap_or_else(PoisonError::into_inner);
        // What was compared while they were known still holds.
        if **current != damage {
            *current = Arc::new(damage);
        }
    }

    /// Slots that were found damaged and are not mended yet.
    pub fn damaged_slots(&self) -> u64 {
        self.damage().len() as u64
    }

    /// The record of an object, unless something of it is known to be damaged: then it is to be pushed again.
    pub fn whole_object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        let record = self.object(id)?;
        Ok(record.filter(|record| !self.damage().touch(&record.map)))
    }

    /// True when something of the bytes from `from` to before `to` of an object is known to be damaged, or was when it was
    /// looked at.
    pub fn has_known_damage(&self, map: &ExtentMap, from: u64, to: u64) -> bool {
        self.damage().is_in_bytes(map, from, to)
    }

    /// True unless these bytes of the object `id` can be taken for what they should be: nothing of them is known to be damaged, or
    /// the object was compared with its digest since, and is whole all the same. That takes a look at all of it, so it is
    /// remembered in `compared`, which is the same for each part of the object.
    pub fn is_damaged_in(
        &self,
        (id, map): (ObjectId, &ExtentMap),
        from: u64,
        to: u64,
        compared: &Compared,
    ) -> Result<bool> {
        let damage = self.damage();
        if !damage.is_in_bytes(map, from, to) {
            return Ok(false);
        }
        let mut last = compared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, is_whole)) = &*last
            && Arc::ptr_eq(known, &damage)
        {
            return Ok(!is_whole);
        }
        let is_whole = self.digest_of(map)? == id;
        *last = Some((damage, is_whole));
        Ok(!is_whole)
    }

    /// Where pages are, in the order of `ids`; `None` for those that the store lacks, or is known to have damaged.
    pub(crate) fn whole_pages(&self, ids: &[PageId]) -> Result<Vec<Option<Location>>> {
        let mut found = self.index.now().pages(ids)?;
        let damage = self.damage();
        if !damage.is_empty() {
            for at in &mut found {
                at.take_if(|at| damage.get(*at).is_some());
            }
        }
        Ok(found)
    }

    /// Where a densely stored window begins, likewise.
    pub(crate) fn whole_window(&self, id: &WindowId) -> Result<Option<Location>> {
        let found = self.index.now().window(id)?;
        Ok(found.filter(|first| !self.damage().is_in_window(*first)))
    }
}

impl Store {
    /// Remembers that slots are damaged, from the next look-up on; answers with how many were not known.
    pub(crate) fn remember(&self, found: &DamagedSlots) -> Result<u64> {
        // Under the lock, so that no commit refers to one of them that has not looked yet.
        let _writer = self.writer();
        let mut damage = DamagedSlots::clone(&self.damage());
        let mut batch = self.view.index.batch();
        let mut new = 0;
        for (at, expected) in found.iter() {
            if damage.note(at, expected) {
                batch.put_damaged(at, damage.get(at).unwrap_or(expected));
                new += 1;
            }
        }
        batch.commit()?;
        if new > 0 {
            for segment in found.segments() {
                tracing::error!(
                    %segment,
                    "pages of it are damaged: what is pushed with them is written anew (pool fsck --content names objects)"
                );
            }
            self.view.set_damage(damage);
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_by_place_and_by_window() {
        let mut damage = DamagedSlots::default();
        let page = PageId::of(b"page");
        for (segment, slot) in [(1, 700), (1, 1024), (2, 0)] {
            assert!(damage.note(Location::of(segment, slot), Expected::default()));
            assert!(!damage.note(Location::of(segment, slot), Expected::default()));
        }
        damage.name_page(Location::of(1, 700), page);
        damage.name_page(Location::of(1, 701), page);
        damage.name_window(Location::of(1, 512), WindowId([7; 32]));
        assert_eq!(damage.len(), 3);
        let expected = Expected {
            page: Some(page),
            window: Some(WindowId([7; 32])),
        };
        assert_eq!(damage.get(Location::of(1, 700)), Some(expected));
        assert_eq!(damage.get(Location::of(1, 1024)), Some(Expected::default()));
        assert!(
            damage.is_in_window(Location::of(1, 512)) && damage.is_in_window(Location::of(2, 0))
        );
        assert!(
            !damage.is_in_window(Location::of(1, 0)) && !damage.is_in_window(Location::of(2, 512))
        );
        // A spoilt entry may begin at the last slots there can be.
        assert!(!damage.is_in_window(Location::of(3, u32::MAX)));
        assert_eq!(damage.segments(), [SegmentId(1), SegmentId(2)]);
        assert_eq!(window_around(Location::of(1, 700)), Location::of(1, 512));
        damage.forget(Location::of(1, 700));
        assert!(!damage.is_in_window(Location::of(1, 512)));
    }
}
