//! Finding out what is damaged of an object, and making what refers to damaged slots follow to where it is whole.
//!
//! A commit writes anew what counts as missing for being damaged, and its own objects refer to that. The others that
//! consist of the same pages follow here: in bounded batches under the writer's lock, each object in one, and by what
//! the index says at that moment, as a commit would find it. A stop at any instruction leaves an object at the one place
//! or at the other, and the record of the slot until nothing refers to it.

use std::collections::HashSet;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::{Extent, ExtentMap};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use crate::collection::{MAX_BATCH, weight};
use crate::damage::{DamagedSlots, Expected, window_around};
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, SegmentState};
use crate::placement::name_of_window;
use crate::proof::{is_whole, read_what_can_be, unproven};
use crate::slots::{Segments, SlotsOfSegments, by_window, bytes_of};
use crate::upload::page_ids;
use crate::{Snapshot, Store};

/// What became of damage that was known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Objects that are whole again, or have less that is damaged.
    pub objects: u64,
    /// Slots of which nothing is to be remembered any more: nothing refers to them, or they have what they should.
    pub slots: u64,
}

impl Store {
    /// Looks into objects that were found not to be what their digests say, and remembers which of their slots are
    /// damaged: what those should have counts as missing from then on, so whoever pushes it next mends it. Answers with
    /// the number of slots that were not known. Nothing is said of an object that is whole.
    pub fn note_damaged(&self, objects: &[ObjectId]) -> Result<u64> {
        /// What a collection moves meanwhile is looked at again, where it is then.
        const LOOKS: u32 = 4;
        let mut left = objects.to_vec();
        let mut noted = 0;
        for _ in 0..LOOKS {
            let mut looked_at = Vec::new();
            noted += self.note_at_places(&left, &mut looked_at)?;
            // From the note on an evacuation takes it along.
            left.clear();
            for (id, record) in looked_at {
                let now = self.object(id)?;
                left.extend(now.filter(|now| *now != record).map(|_| id));
            }
            if left.is_empty() {
                break;
            }
        }
        Ok(noted)
    }

    /// The same of objects where they are now; adds those that are damaged to `looked_at`, as they were.
    fn note_at_places(
        &self,
        objects: &[ObjectId],
        looked_at: &mut Vec<(ObjectId, ObjectRecord)>,
    ) -> Result<u64> {
        let mut damage = DamagedSlots::default();
        for id in objects {
            let look = |snapshot: &Snapshot<'_>| {
                let record = snapshot.object(*id)?;
                Ok(record.map(|record| (record, vec![*id])))
            };
            if let Some(held) = self.view.hold(look)?
                && !is_whole(&self.view, *id, &held.value)
            {
                damage.note_all(&self.doubtful_slots(*id, &held.value)?);
                looked_at.push((*id, held.value));
            }
        }
        if damage.is_empty() {
            return Ok(0);
        }
        let snapshot = self.snapshot();
        snapshot.for_each_page(|id, at| {
            damage.name_page(at, id);
            Ok(())
        })?;
        snapshot.for_each_window(|id, first| {
            damage.name_window(first, id);
            Ok(())
        })?;
        drop(snapshot);
        self.remember(&damage)
    }

    /// The slots of an object of which the index does not say that they have what they should.
    fn doubtful_slots(&self, id: ObjectId, record: &ObjectRecord) -> Result<SlotsOfSegments> {
        let index = self.view.index.now();
        let segments: Segments = index.segments()?.into_iter().collect();
        let (mut slots, mut doubtful) = (SlotsOfSegments::default(), SlotsOfSegments::default());
        slots.add(id, record, &segments)?;
        let mut content = vec![0; WINDOW_SIZE as usize];
        for (segment, segment_record) in &segments {
            let Some(slots) = slots.of(*segment) else {
                continue;
            };
            let file = match self.view.segment_file(*segment) {
                Ok(file) => file,
                Err(StoreError::NoSegment(_)) => {
                    doubtful.insert(*segment, slots.clone());
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut pages = vec![None; segment_record.used as usize];
            let per_window = PAGES_PER_WINDOW as usize;
            for (pages, first) in pages.chunks_mut(per_window).zip((0..).step_by(per_window)) {
                if slots.within(first, pages.len() as u32).next().is_none() {
                    continue;
                }
                let offset = u64::from(first) * PAGE_SIZE;
                let length = (bytes_of(segment_record) - offset).min(WINDOW_SIZE);
                let content = &mut content[..length as usize];
                read_what_can_be(file.as_ref(), *segment, content, offset);
                pages.copy_from_slice(&page_ids(content));
            }
            let open = unproven(&index, *segment, segment_record, &pages, slots)?;
            doubtful.insert(*segment, open);
        }
        Ok(doubtful)
    }

    /// Makes objects that refer to damaged slots follow to where the same pages are whole, as far as the store has
    /// them, and forgets slots that nothing refers to any more, and those that have what they should again. Does
    /// nothing where no damage is known.
    pub fn mend(&self) -> Result<Mended> {
        let mut mended = Mended::default();
        let damage = self.damage();
        if damage.is_empty() {
            return Ok(mended);
        }
        let mut touching = Vec::new();
        self.snapshot().for_each_object(|id, record| {
            if damage.touch(&record.map) {
                touching.push(id);
            }
            Ok(())
        })?;
        let mut left = touching.into_iter();
        while !left.as_slice().is_empty() {
            mended.objects += self.mend_batch(&mut left, &damage)?;
        }
        mended.slots = self.forget_mended(&damage)?;
        if mended != Mended::default() {
            tracing::info!(
                objects = mended.objects,
                slots = mended.slots,
                "mended what was damaged"
            );
        }
        Ok(mended)
    }

    /// Takes the next of `left`, as many as a batch has room for; answers with how many changed.
    fn mend_batch(
        &self,
        left: &mut std::vec::IntoIter<ObjectId>,
        damage: &DamagedSlots,
    ) -> Result<u64> {
        let mut writer = self.writer();
        let mut batch = self.view.index.batch();
        let mut changed = Vec::new();
        let mut room = MAX_BATCH;
        while room > 0
            && let Some(id) = left.next()
        {
            let Some(record) = self.object(id)? else {
                room -= 1;
                continue;
            };
            room = room.saturating_sub(weight(&record));
            if let Some(record) = redirected(id, &record, damage, self)? {
                batch.put_object(id, &record);
                changed.push((id, record));
            }
        }
        batch.commit()?;
        if let Some(barrier) = &mut writer.barrier {
            for (id, record) in &changed {
                barrier.protect(*id, record.map.extents());
            }
        }
        Ok(changed.len() as u64)
    }

    /// Forgets those of the slots that nothing refers to, with entries of pages and windows, and those that are right.
    fn forget_mended(&self, damage: &DamagedSlots) -> Result<u64> {
        let mut over: Vec<_> = damage.iter().map(|(at, _)| at).collect();
        let mut used = DamagedSlots::default();
        // No commit comes to refer to one of them, as they count as missing.
        let mut note = |map: &ExtentMap| {
            for extent in map.extents() {
                let (segment, slot) = (extent.segment, extent.slot);
                for (at, expected) in damage.among(Location { segment, slot }, extent.count) {
                    used.note(at, expected);
                }
            }
        };
        let snapshot = {
            let writer = self.writer();
            // A collection may take an object away for a moment.
            let limbo = writer.barrier.iter().flat_map(|barrier| &barrier.limbo);
            limbo.for_each(&mut note);
            self.snapshot()
        };
        snapshot.for_each_object(|_, record| {
            note(&record.map);
            Ok(())
        })?;
        drop(snapshot);
        over.retain(|at| {
            used.get(*at)
                .is_none_or(|expected| self.is_right(*at, expected))
        });
        let mut forgotten = 0;
        for over in over.chunks(MAX_BATCH) {
            let _writer = self.writer();
            let mut next = DamagedSlots::clone(&self.damage());
            let mut batch = self.view.index.batch();
            // Each once, of however many slots of it are over.
            let mut windows = HashSet::new();
            for at in over {
                let Some(expected) = next.get(*at) else {
                    continue;
                };
                if used.get(*at).is_none() {
                    self.delete_entries(&mut batch, *at, expected, &mut windows)?;
                }
                batch.delete_damaged(*at);
                next.forget(*at);
                forgotten += 1;
            }
            batch.commit()?;
            self.view.set_damage(next);
        }
        Ok(forgotten)
    }

    /// Deletes the entries by which a commit would find a damaged slot that no object refers to.
    fn delete_entries(
        &self,
        batch: &mut crate::index::Batch<'_>,
        at: Location,
        expected: Expected,
        windows: &mut HashSet<WindowId>,
    ) -> Result<()> {
        let index = self.view.index.now();
        if let Some(id) = expected.page
            && index.page(&id)? == Some(at)
        {
            batch.delete_page(id);
        }
        if let Some(id) = expected.window
            && index.window(&id)? == Some(window_around(at))
            && windows.insert(id)
        {
            batch.delete_window(id);
        }
        Ok(())
    }

    /// True when a slot has what it should after all: somebody brought its segment back, or the disk reads again.
    fn is_right(&self, at: Location, expected: Expected) -> bool {
        let is_kept = self
            .segment(at.segment)
            .is_ok_and(|record| record.is_some_and(|record| record.state != SegmentState::Retired));
        let mut page = [0; PAGE_SIZE as usize];
        if !is_kept || self.read_page(at, &mut page).is_err() {
            return false;
        }
        if let Some(id) = expected.page {
            return page_ids(&page)[0] == Some(id);
        }
        let Some(id) = expected.window else {
            return false;
        };
        let mut window = vec![0; WINDOW_SIZE as usize];
        let read = self.read_page(window_around(at), &mut window);
        read.is_ok() && name_of_window(&page_ids(&window)) == id
    }
}

/// Where what damaged slots should have is whole.
trait Elsewhere {
    fn page(&self, id: PageId) -> Result<Option<Location>>;
    fn window(&self, id: WindowId) -> Result<Option<Location>>;
}

/// As the index says now.
impl Elsewhere for Store {
    fn page(&self, id: PageId) -> Result<Option<Location>> {
        Ok(self.whole_pages(&[id])?[0])
    }

    fn window(&self, id: WindowId) -> Result<Option<Location>> {
        self.whole_window(&id)
    }
}

/// An object's record with all that it has in damaged slots at the places where that is whole; `None` when it is
/// nowhere. Pure but for the questions.
fn redirected(
    id: ObjectId,
    record: &ObjectRecord,
    damage: &DamagedSlots,
    elsewhere: &impl Elsewhere,
) -> Result<Option<ObjectRecord>> {
    let mut extents = Vec::new();
    let mut is_changed = false;
    for run in record.map.extents().iter().flat_map(by_window) {
        let (segment, slot) = (run.segment, run.slot);
        let first = Location { segment, slot };
        let damaged: Vec<_> = damage.among(first, run.count).collect();
        if damaged.is_empty() {
            extents.push(run);
            continue;
        }
        let mut windows = damaged.iter().filter_map(|(_, expected)| expected.window);
        if run.dense
            && let Some(id) = windows.next()
            && let Some(window) = elsewhere.window(id)?
        {
            let at = window.plus(slot.page_in_window() as u32);
            extents.push(Extent {
                segment: at.segment,
                slot: at.slot,
                ..run
            });
            is_changed = true;
            continue;
        }
        let mut places: Vec<_> = (0..run.count).map(|nth| first.plus(nth)).collect();
        let mut is_split = false;
        for (at, expected) in damaged {
            if let Some(id) = expected.page
                && let Some(to) = elsewhere.page(id)?
            {
                places[(at.slot.0 - slot.0) as usize] = to;
                is_split = true;
            }
        }
        is_changed |= is_split;
        for (file_page, at) in (run.file_page..).zip(places) {
            extents.push(Extent {
                file_page,
                segment: at.segment,
                slot: at.slot,
                count: 1,
                // Nobody is to map a window whole that has a page elsewhere.
                dense: run.dense && !is_split,
            });
        }
    }
    if !is_changed {
        return Ok(None);
    }
    let map = ExtentMap::new(record.map.length, extents)
        .map_err(|error| StoreError::Extents(id, error))?;
    let phase = record.phase;
    Ok(Some(ObjectRecord { phase, map }))
}

#[cfg(test)]
mod tests {
    use pool_core::extent::{SegmentId, Slot};

    use super::*;

    /// One page and one window that are whole elsewhere.
    #[derive(Default)]
    struct Known {
        page: Option<(PageId, Location)>,
        window: Option<(WindowId, Location)>,
    }

    impl Elsewhere for Known {
        fn page(&self, id: PageId) -> Result<Option<Location>> {
            let known = self.page.filter(|(known, _)| *known == id);
            Ok(known.map(|(_, at)| at))
        }

        fn window(&self, id: WindowId) -> Result<Option<Location>> {
            let known = self.window.filter(|(known, _)| *known == id);
            Ok(known.map(|(_, at)| at))
        }
    }

    fn places(record: &ObjectRecord) -> Vec<(u32, u32, u32, bool)> {
        let extents = record.map.extents().iter();
        extents
            .map(|e| (e.segment.0, e.slot.0, e.count, e.dense))
            .collect()
    }

    #[test]
    fn what_is_damaged_is_taken_from_elsewhere_and_the_rest_stays() {
        let extent = |file_page, slot, count, dense| Extent {
            file_page,
            segment: SegmentId(1),
            slot: Slot(slot),
            count,
            dense,
        };
        let extents = vec![extent(0, 10, 4, false), extent(4, 1000, 100, true)];
        let map = ExtentMap::new(104 * PAGE_SIZE, extents).unwrap();
        let record = ObjectRecord { phase: 7, map };
        let id = ObjectId([0; 32]);
        let (page, window) = (PageId([1; 32]), WindowId([2; 32]));
        let mut damage = DamagedSlots::default();
        let named = |page, window| Expected { page, window };
        damage.note(Location::of(1, 12), named(Some(page), None));
        damage.note(Location::of(1, 1030), named(Some(page), Some(window)));
        let go = |known: &Known| redirected(id, &record, &damage, known).unwrap();

        assert_eq!(go(&Known::default()), None);
        let mut known = Known {
            page: Some((page, Location::of(5, 3))),
            window: Some((window, Location::of(6, 512))),
        };
        let mended = go(&known).unwrap();
        let single = [(1, 10, 2, false), (5, 3, 1, false), (1, 13, 1, false)];
        let windows = [(1, 1000, 24, true), (6, 512, 76, true)];
        assert_eq!(places(&mended), [&single[..], &windows].concat());
        assert_eq!(mended.phase, 7);
        // Without its window it has single pages there, and the window before stays.
        known.window = None;
        let mended = go(&known).unwrap();
        let apart = [
            (1, 1000, 24, true),
            (1, 1024, 6, false),
            (5, 3, 1, false),
            (1, 1031, 69, false),
        ];
        assert_eq!(places(&mended), [&single[..], &apart].concat());
        // What is damaged and nowhere else stays as it is, windows and all.
        known.page = None;
        known.window = Some((window, Location::of(6, 512)));
        let mended = go(&known).unwrap();
        assert_eq!(
            places(&mended),
            [&[(1, 10, 4, false)][..], &windows].concat()
        );
    }
}
