//! Moving what is live out of a mostly dead segment, so that the segment can go.
//!
//! Nothing waits for the copying. Room is reserved under the writer's lock and recorded as used,
//! the pages are copied, checked and synced without it, and only then does the index follow, in
//! bounded batches and in this order: windows and pages first, after which no commit can find
//! anything in the old segment, then the objects that are there already, then the segment's end.
//! A stop at any instruction leaves either place valid and at most some slots unused.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::{Extent, ExtentMap, SegmentId, Slot};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use serde::{Deserialize, Serialize};

use crate::Writer;
use crate::backend::SegmentFile;
use crate::collection::{Collection, MAX_BATCH, running_barrier};
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, SegmentState};
use crate::placement::name_of_window;
use crate::segment::{Appender, Room};
use crate::upload::page_ids;

/// What an evacuation did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evacuated {
    /// Segments emptied and retired.
    pub segments: Vec<SegmentId>,
    /// Windows moved whole.
    pub windows: u64,
    /// Pages moved singly.
    pub pages: u64,
    /// Objects whose extents changed.
    pub objects: u64,
}

impl Collection<'_> {
    /// Moves what objects refer to out of those of `segments` that are sealed, and retires them.
    /// Dense windows move whole, other pages singly; everything copied is checked against its
    /// digest. To be called after dead objects, windows and pages were removed. A segment that a
    /// commit has referred to in an unforeseen way meanwhile stays for the next collection.
    pub fn evacuate(&self, segments: &[SegmentId]) -> Result<Evacuated> {
        let mut sources = HashSet::new();
        for id in segments {
            let record = self.store.segment(*id)?;
            if record.is_some_and(|record| record.state == SegmentState::Sealed) {
                sources.insert(*id);
            }
        }
        if sources.is_empty() {
            return Ok(Evacuated::default());
        }
        let survey = self.survey(&sources)?;
        let mut moves = Moves::default();
        for (segment, live) in &survey.live {
            self.copy(*segment, live, &survey, &mut moves)?;
        }
        let mut kept = HashSet::new();
        self.redirect_windows(&survey, &moves, &mut kept)?;
        self.redirect_pages(&survey, &moves, &mut kept)?;
        let objects = self.redirect_objects(&sources, &moves, &mut kept)?;
        let mut done = Evacuated {
            windows: moves.windows.len() as u64,
            pages: moves.pages.len() as u64,
            objects,
            ..Evacuated::default()
        };
        for id in sources.difference(&kept) {
            let retired = self.locked(|writer| {
                // What commits referred to there was redirected with the rest.
                let barrier = running_barrier(writer)?;
                barrier.segments.remove(id);
                barrier.slots.retain(|at| at.segment != *id);
                self.retire_locked(writer, *id)
            })?;
            done.segments.extend(retired.then_some(*id));
        }
        done.segments.sort_unstable();
        Ok(done)
    }

    /// What the index has in the segments.
    fn survey(&self, sources: &HashSet<SegmentId>) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut live: HashMap<SegmentId, LiveSlots> = HashMap::new();
        for id in sources {
            live.insert(*id, LiveSlots::default());
        }
        self.store.for_each_object(|_, record| {
            for extent in record.map.extents() {
                if let Some(live) = live.get_mut(&extent.segment) {
                    live.add(extent);
                }
            }
            Ok(())
        })?;
        self.store.for_each_window(|id, at| {
            if sources.contains(&at.segment) {
                survey.windows.push((id, at));
            }
            Ok(())
        })?;
        self.store.for_each_page(|id, at| {
            if sources.contains(&at.segment) {
                survey.pages.push((id, at));
            }
            Ok(())
        })?;
        survey.live = live.into_iter().collect();
        survey.names = survey.pages.iter().map(|(id, at)| (*at, *id)).collect();
        survey.window_names = survey.windows.iter().map(|(id, at)| (*at, *id)).collect();
        Ok(survey)
    }

    /// Copies what is live of one segment to reserved slots and makes it durable.
    fn copy(
        &self,
        segment: SegmentId,
        live: &LiveSlots,
        survey: &Survey,
        moves: &mut Moves,
    ) -> Result<()> {
        let mut written: HashMap<SegmentId, Arc<dyn SegmentFile>> = HashMap::new();
        let source = self.store.segment_file(segment)?;
        let read = |slot: Slot, buffer: &mut [u8]| {
            source
                .read_exact_at(buffer, slot.byte_offset())
                .map_err(|error| StoreError::io("reading the segment", segment.to_string(), error))
        };
        let mut content = vec![0; WINDOW_SIZE as usize];
        let windows = live.windows.iter();
        let room =
            self.reserve(|appender| windows.clone().map(|_| appender.reserve_window()).collect())?;
        for (slot, (to, _, file)) in windows.clone().zip(room) {
            let slot = *slot;
            let from = Location { segment, slot };
            read(slot, &mut content)?;
            survey.check_window(from, &content)?;
            write(&file, to, &content)?;
            moves.windows.insert(from, to);
            written.insert(to.segment, file);
        }
        let single: Vec<_> = live.single().collect();
        let mut rest = single.as_slice();
        for (first, count, file) in
            self.reserve(|appender| appender.reserve_pages(single.len() as u32))?
        {
            let (slots, after) = rest.split_at(count as usize);
            rest = after;
            for (nth, slots) in slots.chunks(PAGES_PER_WINDOW as usize).enumerate() {
                let start = first.slot.0 + (nth as u64 * PAGES_PER_WINDOW) as u32;
                let piece = &mut content[..slots.len() * PAGE_SIZE as usize];
                for (at, page) in piece.chunks_mut(PAGE_SIZE as usize).enumerate() {
                    let slot = slots[at];
                    let from = Location { segment, slot };
                    read(slot, page)?;
                    survey.check_page(from, page)?;
                    let slot = Slot(start + at as u32);
                    moves.pages.insert(from, Location { slot, ..first });
                }
                let slot = Slot(start);
                write(&file, Location { slot, ..first }, piece)?;
            }
            written.insert(first.segment, file);
        }
        for (id, file) in written {
            file.sync()
                .map_err(|source| StoreError::io("syncing the segment", id.to_string(), source))?;
        }
        Ok(())
    }

    /// Reserves slots and records them as used, so that no rollback hands them out again.
    fn reserve(&self, take: impl FnOnce(&mut Appender) -> Result<Vec<Room>>) -> Result<Vec<Room>> {
        self.locked(|writer| {
            let result = self.reserve_locked(writer, take);
            writer.settle(&self.store.view.index, result.is_ok());
            result
        })
    }

    fn reserve_locked(
        &self,
        writer: &mut Writer,
        take: impl FnOnce(&mut Appender) -> Result<Vec<Room>>,
    ) -> Result<Vec<Room>> {
        let room = take(&mut writer.appender)?;
        if room.is_empty() {
            return Ok(room);
        }
        let mut batch = self.store.view.index.batch();
        writer.appender.record(&mut batch);
        batch.commit()?;
        // Nothing refers to the new slots yet, and no mark knows them.
        let barrier = running_barrier(writer)?;
        barrier
            .segments
            .extend(room.iter().map(|(at, _, _)| at.segment));
        Ok(room)
    }

    fn redirect_windows(
        &self,
        survey: &Survey,
        moves: &Moves,
        kept: &mut HashSet<SegmentId>,
    ) -> Result<()> {
        self.in_batches(&survey.windows, |barrier, batch, (id, at)| {
            if self.store.view.index.window(id)? != Some(*at) {
                return Ok(false);
            }
            match moves.windows.get(at) {
                Some(to) => batch.put_window(*id, *to),
                None if barrier.protects_window(*at) => {
                    kept.insert(at.segment);
                    return Ok(false);
                }
                None => batch.delete_window(*id),
            }
            Ok(true)
        })?;
        Ok(())
    }

    fn redirect_pages(
        &self,
        survey: &Survey,
        moves: &Moves,
        kept: &mut HashSet<SegmentId>,
    ) -> Result<()> {
        self.in_batches(&survey.pages, |barrier, batch, (id, at)| {
            if self.store.view.index.page(id)? != Some(*at) {
                return Ok(false);
            }
            match moves.page(*at) {
                Some(to) => batch.put_page(*id, to),
                None if barrier.slots.contains(at) => {
                    kept.insert(at.segment);
                    return Ok(false);
                }
                None => batch.delete_page(*id),
            }
            Ok(true)
        })?;
        Ok(())
    }

    /// Redirects every object that refers to the segments. None can be added any more.
    fn redirect_objects(
        &self,
        sources: &HashSet<SegmentId>,
        moves: &Moves,
        kept: &mut HashSet<SegmentId>,
    ) -> Result<u64> {
        let mut touching = Vec::new();
        self.store.for_each_object(|id, record| {
            let mut extents = record.map.extents().iter();
            if extents.any(|extent| sources.contains(&extent.segment)) {
                touching.push(id);
            }
            Ok(())
        })?;
        let mut changed = 0;
        // Records have thousands of extents, so a batch of them is smaller than one of pages.
        for chunk in touching.chunks(MAX_BATCH / 32) {
            changed += self.in_batches(chunk, |_, batch, id| {
                let Some(record) = self.store.object(*id)? else {
                    return Ok(false);
                };
                let record = redirect_object(*id, &record, sources, moves, kept)?;
                batch.put_object(*id, &record);
                Ok(true)
            })?;
        }
        Ok(changed)
    }
}

fn write(file: &Arc<dyn SegmentFile>, at: Location, content: &[u8]) -> Result<()> {
    file.write_all_at(content, at.slot.byte_offset())
        .map_err(|source| StoreError::io("writing the segment", at.segment.to_string(), source))
}

fn redirect_object(
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

/// What the index has in the segments to be emptied.
#[derive(Debug, Default)]
struct Survey {
    live: Vec<(SegmentId, LiveSlots)>,
    windows: Vec<(WindowId, Location)>,
    pages: Vec<(PageId, Location)>,
    names: HashMap<Location, PageId>,
    window_names: HashMap<Location, WindowId>,
}

impl Survey {
    /// Checks a page that the index has a name for.
    fn check_page(&self, at: Location, content: &[u8]) -> Result<()> {
        match self.names.get(&at) {
            Some(id) if PageId::of(content) != *id => Err(damaged(at)),
            _ => Ok(()),
        }
    }

    /// Checks a window by its own name, or else those of its pages that have one.
    fn check_window(&self, at: Location, content: &[u8]) -> Result<()> {
        let pages = page_ids(content);
        if let Some(id) = self.window_names.get(&at) {
            return if name_of_window(&pages) == *id {
                Ok(())
            } else {
                Err(damaged(at))
            };
        }
        for (nth, found) in pages.iter().enumerate() {
            let at = Location {
                segment: at.segment,
                slot: Slot(at.slot.0 + nth as u32),
            };
            let named = self.names.get(&at);
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
struct LiveSlots {
    /// First slots of windows that an object may map whole.
    windows: BTreeSet<Slot>,
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

    /// Slots that move singly: those in no live window.
    fn single(&self) -> impl Iterator<Item = Slot> + '_ {
        let in_window = |slot: &Slot| {
            let window = page::round_down(u64::from(slot.0), PAGES_PER_WINDOW);
            self.windows.contains(&Slot(window as u32))
        };
        self.pages
            .iter()
            .copied()
            .filter(move |slot| !in_window(slot))
    }
}

/// Where slots went.
#[derive(Debug, Default)]
struct Moves {
    windows: HashMap<Location, Location>,
    pages: HashMap<Location, Location>,
}

impl Moves {
    fn page(&self, at: Location) -> Option<Location> {
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

#[cfg(test)]
mod tests {
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
    fn pages_of_a_live_window_move_with_it_and_others_singly() {
        let mut live = LiveSlots::default();
        live.add(&extent(600, 10, true));
        live.add(&extent(1000, 100, false));
        assert_eq!(live.windows.iter().collect::<Vec<_>>(), [&Slot(512)]);
        let single: Vec<_> = live.single().collect();
        assert_eq!((single[0], single.len()), (Slot(1024), 76));
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
