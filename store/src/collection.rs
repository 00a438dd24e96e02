//! What a collector may do to a store, and what keeps it from doing harm.
//!
//! The store decides nothing about garbage: `pool-gc` marks what is live, from a look at the
//! index while uploads go on, and proposes removals. Each proposal is checked again here, under
//! the writer's lock and in bounded batches, against the *barrier*: everything that commits have
//! referred to since the collection began. So an upload that found "page already there" and a
//! collector that found "page not used" cannot both be right.

use std::collections::{HashMap, HashSet};

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::{Extent, ExtentMap, SegmentId, Slot};
use pool_core::name::LibraryRef;
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use serde::{Deserialize, Serialize};

use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, SegmentState};
use crate::index::Batch;
use crate::ingest::segments_of;
use crate::manifest::Timestamp;
use crate::{Store, Writer};

/// Most changes that a collection makes in one batch, which bounds how long a commit waits.
pub const MAX_BATCH: usize = 1024;

/// What commits have referred to since a collection began.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    objects: HashSet<ObjectId>,
    slots: HashSet<Location>,
    segments: HashSet<SegmentId>,
}

impl Barrier {
    /// Notes that a commit refers to an object and to where its pages are.
    pub(crate) fn protect(&mut self, id: ObjectId, extents: &[Extent]) {
        self.objects.insert(id);
        self.segments.extend(segments_of(extents));
        for extent in extents {
            for nth in 0..extent.count {
                let slot = Slot(extent.slot.0 + nth);
                self.slots.insert(Location {
                    segment: extent.segment,
                    slot,
                });
            }
        }
    }

    /// True when a commit refers to a slot of the window that begins at `window`.
    fn protects_window(&self, window: Location) -> bool {
        self.segments.contains(&window.segment)
            && (0..PAGES_PER_WINDOW as u32).any(|nth| {
                let slot = Slot(window.slot.0 + nth);
                self.slots.contains(&Location {
                    segment: window.segment,
                    slot,
                })
            })
    }
}

/// A collection under way. One at a time; it ends when this value is dropped.
#[derive(Debug)]
pub struct Collection<'a> {
    store: &'a Store,
    epoch: u64,
}

/// What [`Collection::reap`] gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaped {
    /// Segments unlinked.
    pub segments: Vec<SegmentId>,
    /// Bytes of disk they took up.
    pub bytes: u64,
}

impl Store {
    /// Begins a collection: from now on, what commits refer to is protected.
    pub fn begin_collection(&self) -> Result<Collection<'_>> {
        let mut writer = self.writer();
        if writer.barrier.is_some() {
            return Err(StoreError::CollectionRunning);
        }
        let epoch = self.epoch()? + 1;
        let mut batch = self.view.index.batch();
        batch.put_epoch(epoch);
        batch.commit()?;
        writer.barrier = Some(Barrier::default());
        Ok(Collection { store: self, epoch })
    }
}

impl Drop for Collection<'_> {
    fn drop(&mut self) {
        self.store.writer().barrier = None;
    }
}

impl<'a> Collection<'a> {
    /// The store under collection.
    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// This collection's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Proposes changes for each of `items`, at most [`MAX_BATCH`] at a time, and counts those
    /// that were made.
    fn in_batches<T>(
        &self,
        items: &[T],
        mut change: impl FnMut(&Barrier, &mut Batch<'_>, &T) -> Result<bool>,
    ) -> Result<u64> {
        let mut made = 0;
        for chunk in items.chunks(MAX_BATCH) {
            let writer = self.store.writer();
            let barrier = running_barrier(&writer)?;
            let mut batch = self.store.view.index.batch();
            for item in chunk {
                made += u64::from(change(barrier, &mut batch, item)?);
            }
            if batch.len() > 0 {
                batch.commit()?;
                self.store.view.advance_generation()?;
            }
        }
        Ok(made)
    }

    /// Removes library versions that still have no user, pin or lease and have been unused since
    /// `unused_before` or earlier; answers with those removed.
    pub fn delete_libraries(
        &self,
        libraries: &[LibraryRef],
        unused_before: Timestamp,
    ) -> Result<Vec<LibraryRef>> {
        let mut deleted = Vec::new();
        self.in_batches(libraries, |_, batch, library| {
            let Some(record) = self.store.library(library)? else {
                return Ok(false);
            };
            let long_unused = record
                .unused_since
                .is_some_and(|since| since <= unused_before);
            if !long_unused
                || self.store.library_keeper(library, &record)?.is_some()
                || self.store.object_is_leased(record.object)?
            {
                return Ok(false);
            }
            batch.delete_library(library);
            deleted.push(library.clone());
            Ok(true)
        })?;
        Ok(deleted)
    }

    /// Removes objects that no commit has referred to since the collection began and that nobody
    /// leases.
    pub fn delete_objects(&self, objects: &[ObjectId]) -> Result<u64> {
        self.in_batches(objects, |barrier, batch, id| {
            if barrier.objects.contains(id) || self.store.object_is_leased(*id)? {
                return Ok(false);
            }
            batch.delete_object(*id);
            Ok(true)
        })
    }

    /// Removes pages from the index, unless a commit refers to their slot.
    pub fn delete_pages(&self, pages: &[(PageId, Location)]) -> Result<u64> {
        self.in_batches(pages, |barrier, batch, (id, location)| {
            let moved = self.store.view.index.page(id)? != Some(*location);
            if moved || barrier.slots.contains(location) {
                return Ok(false);
            }
            batch.delete_page(*id);
            Ok(true)
        })
    }

    /// Removes densely stored windows from the index, unless a commit refers to them.
    pub fn delete_windows(&self, windows: &[(WindowId, Location)]) -> Result<u64> {
        self.in_batches(windows, |barrier, batch, (id, location)| {
            let moved = self.store.view.index.window(id)? != Some(*location);
            if moved || barrier.protects_window(*location) {
                return Ok(false);
            }
            batch.delete_window(*id);
            Ok(true)
        })
    }

    /// Retires sealed or open segments to which neither the index nor a commit refers any more.
    /// The caller has removed every page, window and object that lies in them.
    pub fn retire_segments(&self, segments: &[SegmentId]) -> Result<Vec<SegmentId>> {
        let mut retired = Vec::new();
        for id in segments {
            let mut writer = self.store.writer();
            let barrier = running_barrier(&writer)?;
            let Some(mut record) = self.store.segment(*id)? else {
                continue;
            };
            if record.state == SegmentState::Retired || barrier.segments.contains(id) {
                continue;
            }
            record.state = SegmentState::Retired;
            let mut batch = self.store.view.index.batch();
            batch.put_segment(*id, &record);
            batch.commit()?;
            // An open segment leaves the appender with this.
            writer.appender.rollback(&self.store.view.index)?;
            self.store.view.advance_generation()?;
            retired.push(*id);
        }
        Ok(retired)
    }

    /// Moves what is live of one segment to others: windows that are live as such whole, single
    /// pages singly. Every object, window and page of the index that refers to the segment is
    /// changed in the same batch, so that the segment can then be retired.
    ///
    /// The segment must not be open; its pages are checked against `pages` while they are copied.
    pub fn evacuate(&self, segment: SegmentId, live: &LiveSlots) -> Result<Evacuated> {
        let mut writer = self.store.writer();
        let result = self.evacuate_locked(&mut writer, segment, live);
        match &result {
            Ok(_) => writer.appender.committed(),
            Err(_) => writer.abandon(&self.store.view.index),
        }
        result
    }

    fn evacuate_locked(
        &self,
        writer: &mut Writer,
        segment: SegmentId,
        live: &LiveSlots,
    ) -> Result<Evacuated> {
        let barrier = running_barrier(writer)?;
        if barrier.segments.contains(&segment) {
            // A commit refers to slots that `live` does not know: leave it to the next collection.
            return Ok(Evacuated::default());
        }
        let mut moved = Moves::default();
        let mut content = vec![0; WINDOW_SIZE as usize];
        for window in &live.windows {
            self.read_slots(segment, *window, &mut content)?;
            let to = writer.appender.append_window(&content)?;
            moved.windows.insert(*window, to);
        }
        for slots in live.pages.chunks(PAGES_PER_WINDOW as usize) {
            let bytes = slots.len() * PAGE_SIZE as usize;
            for (slot, page) in slots
                .iter()
                .zip(content[..bytes].chunks_mut(PAGE_SIZE as usize))
            {
                self.read_slots(segment, *slot, page)?;
            }
            let mut from = slots.iter();
            for (first, count) in writer.appender.append_pages(&content[..bytes])? {
                for nth in 0..count {
                    let slot = *from.next().expect("one run's slots for each page given");
                    let to = Location {
                        segment: first.segment,
                        slot: Slot(first.slot.0 + nth),
                    };
                    moved.pages.insert(slot, to);
                }
            }
        }
        let mut batch = self.store.view.index.batch();
        let objects = self.redirect_objects(&mut batch, segment, &moved)?;
        self.redirect_index(&mut batch, segment, &moved)?;
        writer.appender.sync()?;
        writer.appender.record(&mut batch);
        batch.commit()?;
        self.store.view.advance_generation()?;
        if let Some(barrier) = &mut writer.barrier {
            // The new places are live, and no mark knows them.
            for (id, record) in &objects {
                barrier.protect(*id, record.map.extents());
            }
        }
        Ok(Evacuated {
            windows: live.windows.len() as u64,
            pages: live.pages.len() as u64,
            objects: objects.len() as u64,
        })
    }

    fn read_slots(&self, segment: SegmentId, slot: Slot, buffer: &mut [u8]) -> Result<()> {
        self.store
            .view
            .read_page(Location { segment, slot }, buffer)
    }

    fn redirect_objects(
        &self,
        batch: &mut Batch<'_>,
        segment: SegmentId,
        moved: &Moves,
    ) -> Result<Vec<(ObjectId, ObjectRecord)>> {
        let mut changed = Vec::new();
        self.store.for_each_object(|id, record| {
            if !record
                .map
                .extents()
                .iter()
                .any(|extent| extent.segment == segment)
            {
                return Ok(());
            }
            let mut extents = Vec::new();
            for extent in record.map.extents() {
                if extent.segment == segment {
                    moved.redirect(id, extent, &mut extents)?;
                } else {
                    extents.push(*extent);
                }
            }
            let map = ExtentMap::new(record.map.length, extents)
                .map_err(|error| StoreError::Extents(id, error))?;
            changed.push((id, ObjectRecord { map, ..record }));
            Ok(())
        })?;
        for (id, record) in &changed {
            batch.put_object(*id, record);
        }
        Ok(changed)
    }

    /// Redirects pages and windows of the index; what has no new place loses its entry.
    fn redirect_index(
        &self,
        batch: &mut Batch<'_>,
        segment: SegmentId,
        moved: &Moves,
    ) -> Result<()> {
        self.store.for_each_page(|id, at| {
            if at.segment == segment {
                match moved.page(at.slot) {
                    Some(to) => batch.put_page(id, to),
                    None => batch.delete_page(id),
                }
            }
            Ok(())
        })?;
        self.store.for_each_window(|id, at| {
            if at.segment == segment {
                match moved.windows.get(&at.slot) {
                    Some(to) => batch.put_window(id, *to),
                    None => batch.delete_window(id),
                }
            }
            Ok(())
        })
    }

    /// Unlinks retired segments that nobody holds any more.
    pub fn reap(&self) -> Result<Reaped> {
        let (segments, bytes) = self.store.view.reap()?;
        let mut batch = self.store.view.index.batch();
        for id in &segments {
            batch.delete_segment(*id);
        }
        if batch.len() > 0 {
            let _writer = self.store.writer();
            batch.commit()?;
            self.store.view.advance_generation()?;
        }
        Ok(Reaped { segments, bytes })
    }
}

fn running_barrier(writer: &Writer) -> Result<&Barrier> {
    // A `Collection` exists, and only dropping it takes the barrier away.
    writer.barrier.as_ref().ok_or(StoreError::CollectionRunning)
}

/// What is live of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveSlots {
    /// First slots of windows that an object maps whole, in order.
    pub windows: Vec<Slot>,
    /// Other live slots, in order.
    pub pages: Vec<Slot>,
}

/// What an evacuation moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evacuated {
    /// Windows moved whole.
    pub windows: u64,
    /// Pages moved singly.
    pub pages: u64,
    /// Objects whose extents changed.
    pub objects: u64,
}

/// Where an evacuated segment's slots went.
#[derive(Debug, Default)]
struct Moves {
    windows: HashMap<Slot, Location>,
    pages: HashMap<Slot, Location>,
}

impl Moves {
    fn page(&self, slot: Slot) -> Option<Location> {
        if let Some(to) = self.pages.get(&slot) {
            return Some(*to);
        }
        let position = slot.page_in_window() as u32;
        let window = self.windows.get(&Slot(slot.0 - position))?;
        Some(Location {
            segment: window.segment,
            slot: Slot(window.slot.0 + position),
        })
    }

    /// Appends the new extents of an extent of the evacuated segment.
    fn redirect(&self, id: ObjectId, extent: &Extent, out: &mut Vec<Extent>) -> Result<()> {
        for nth in 0..extent.count {
            let slot = Slot(extent.slot.0 + nth);
            let to = self.page(slot).ok_or_else(|| {
                StoreError::Corrupt(format!("a live page of object {id} was not marked"))
            })?;
            // A page that left its window is single from now on.
            let in_window = !self.pages.contains_key(&slot);
            out.push(Extent {
                file_page: extent.file_page + u64::from(nth),
                segment: to.segment,
                slot: to.slot,
                count: 1,
                dense: extent.dense && in_window,
            });
        }
        Ok(())
    }
}
