//! Moving what is live out of a mostly dead segment, so that the segment can go.
//!
//! Nothing waits for the copying. What is to move is read and checked first, and compared with the
//! room on the disk; then slots are reserved under the writer's lock and recorded as used, the
//! pages are copied, checked and synced without it, and only then does the index follow, in
//! bounded batches and in this order: the objects, each with the entries of its windows and pages,
//! then entries that no object has, after which no commit can find anything in the old segment,
//! then the objects that commits have added meanwhile, then the segment's end. So an entry is never
//! without an object for having moved, and a stop or a full disk at any instruction leaves either
//! place valid and some slots unused.
//!
//! A segment that cannot be moved stays as it is, damaged pages and all, and the others go on
//! without it: what was copied of it is taken back, so that trying again costs no disk.

mod copy;
mod moves;
mod survey;

use std::collections::{BTreeSet, HashSet};

use pool_core::digest::ObjectId;
use pool_core::extent::{Extent, SegmentId};
use pool_core::page::PAGES_PER_WINDOW;
use serde::{Deserialize, Serialize};

use crate::collection::{Collection, MAX_BATCH, SkipReason, Skipped, running_barrier};
use crate::error::Result;
use crate::format::{Location, SegmentState};
use crate::index::Batch;
use copy::Copied;
use moves::{Moves, redirect_object, slots};
use survey::Survey;

/// What an evacuation did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evacuated {
    /// Segments emptied and retired.
    pub segments: Vec<SegmentId>,
    /// Segments that stay, and why.
    pub skipped: Vec<Skipped>,
    /// Windows moved whole.
    pub windows: u64,
    /// Pages moved singly.
    pub pages: u64,
    /// Objects whose extents changed.
    pub objects: u64,
}

impl Collection<'_> {
    /// Moves what objects refer to out of those of `segments` that are sealed, in this order, and
    /// retires them. Dense windows move whole, other pages singly; everything copied is checked
    /// against its digest. To be called after dead objects, windows and pages were removed.
    ///
    /// A segment that is damaged, that the disk has no room to copy, or that a commit has referred
    /// to in an unforeseen way meanwhile, stays for the next collection.
    ///
    /// # Errors
    ///
    /// When the index cannot be read or written. What was moved by then is whole in either place.
    pub fn evacuate(&self, segments: &[SegmentId]) -> Result<Evacuated> {
        let mut sealed = Vec::new();
        for id in segments {
            let record = self.store.segment(*id)?;
            if record.is_some_and(|record| record.state == SegmentState::Sealed) {
                sealed.push(*id);
            }
        }
        if sealed.is_empty() {
            return Ok(Evacuated::default());
        }
        let survey = Survey::of(&self.store.snapshot(), &sealed)?;
        self.move_out(&sealed, survey)
    }

    /// Empties the segments that were surveyed. Commits may have come since.
    fn move_out(&self, segments: &[SegmentId], mut survey: Survey) -> Result<Evacuated> {
        let mut done = Evacuated::default();
        let mut sources = HashSet::new();
        let mut moves = Moves::default();
        for &id in segments {
            match self.copy(id, &survey)? {
                Copied::Whole(moved) => {
                    moves.extend(moved);
                    sources.insert(id);
                }
                Copied::Not(skipped) => done.skipped.push(skipped),
            }
        }
        if sources.is_empty() {
            return Ok(done);
        }
        let mut kept = HashSet::new();
        done.objects = self.redirect_objects(&mut survey, &sources, &moves, &mut kept)?;
        self.redirect_windows(&survey, &sources, &moves, &mut kept)?;
        self.redirect_pages(&survey, &sources, &moves, &mut kept)?;
        // Those that commits have added meanwhile. From now on none can.
        done.objects += self.redirect_objects(&mut survey, &sources, &moves, &mut kept)?;
        done.windows = moves.windows.len() as u64;
        done.pages = moves.pages.len() as u64;
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
        done.skipped.extend(kept.into_iter().map(|segment| {
            let why = "an upload has come to use it meanwhile".into();
            Skipped {
                segment,
                reason: SkipReason::InUse,
                why,
            }
        }));
        Ok(done)
    }

    fn redirect_windows(
        &self,
        survey: &Survey,
        sources: &HashSet<SegmentId>,
        moves: &Moves,
        kept: &mut HashSet<SegmentId>,
    ) -> Result<()> {
        self.in_batches(&survey.windows, |barrier, batch, (id, at)| {
            if !sources.contains(&at.segment)
                || self.store.view.index.now().window(id)? != Some(*at)
            {
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
        sources: &HashSet<SegmentId>,
        moves: &Moves,
        kept: &mut HashSet<SegmentId>,
    ) -> Result<()> {
        self.in_batches(&survey.pages, |barrier, batch, (id, at)| {
            if !sources.contains(&at.segment) || self.store.view.index.now().page(id)? != Some(*at)
            {
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

    /// Redirects every object that refers to the segments, with the entries of what it has there.
    fn redirect_objects(
        &self,
        survey: &mut Survey,
        sources: &HashSet<SegmentId>,
        moves: &Moves,
        kept: &mut HashSet<SegmentId>,
    ) -> Result<u64> {
        let mut touching = Vec::new();
        self.store.snapshot().for_each_object(|id, record| {
            let extents = record.map.extents().iter();
            let inside = extents.filter(|extent| sources.contains(&extent.segment));
            let pages: u64 = inside.map(|extent| u64::from(extent.count)).sum();
            if pages > 0 {
                touching.push((id, pages));
            }
            Ok(())
        })?;
        let mut changed = 0;
        for chunk in small_enough(&touching) {
            // Larger ones are alone.
            let mut rest = true;
            while rest {
                rest = false;
                self.in_batches(chunk, |_, batch, (id, _)| {
                    let Some(record) = self.store.object(*id)? else {
                        return Ok(false);
                    };
                    let done = redirect_object(*id, &record, sources, moves, MAX_PAGES)?;
                    kept.extend(done.stays);
                    if done.moved.is_empty() {
                        return Ok(false);
                    }
                    self.redirect_entries(batch, survey, moves, &done.moved)?;
                    batch.put_object(*id, &done.record);
                    rest |= done.rest;
                    changed += u64::from(!done.rest);
                    Ok(true)
                })?;
            }
        }
        Ok(changed)
    }

    /// Redirects the entries of windows and pages that an object had in `extents`, once.
    fn redirect_entries(
        &self,
        batch: &mut Batch<'_>,
        survey: &mut Survey,
        moves: &Moves,
        extents: &[Extent],
    ) -> Result<()> {
        let now = self.store.view.index.now();
        let mut redirect = |batch: &mut Batch<'_>, from: Location, to| -> Result<()> {
            if let Some(id) = survey.names.remove(&from)
                && now.page(&id)? == Some(from)
            {
                batch.put_page(id, to);
            }
            Ok(())
        };
        let mut windows = BTreeSet::new();
        for from in extents.iter().flat_map(slots) {
            if let Some(window) = moves.window(from) {
                windows.insert(window);
            } else if let Some(to) = moves.page(from) {
                redirect(batch, from, to)?;
            }
        }
        // A window's pages move with it, whoever refers to them.
        for (from, to) in windows {
            for nth in 0..PAGES_PER_WINDOW as u32 {
                redirect(batch, from.plus(nth), to.plus(nth))?;
            }
            if let Some(id) = survey.window_names.remove(&from)
                && now.window(&id)? == Some(from)
            {
                batch.put_window(id, to);
            }
        }
        Ok(())
    }
}

/// Pages of one object that move in one batch, but for an extent that is larger.
const MAX_PAGES: u64 = 8 * MAX_BATCH as u64;

/// Divides objects, each with its pages, so that a batch of them is as small as one of pages.
fn small_enough(objects: &[(ObjectId, u64)]) -> Vec<&[(ObjectId, u64)]> {
    let mut chunks = Vec::new();
    let (mut begin, mut sum) = (0, 0);
    for (nth, (_, pages)) in objects.iter().enumerate() {
        if nth > begin && (sum + pages > MAX_BATCH as u64 || nth - begin == MAX_BATCH / 32) {
            chunks.push(&objects[begin..nth]);
            (begin, sum) = (nth, 0);
        }
        sum += pages;
    }
    chunks.push(&objects[begin..]);
    chunks
}

#[cfg(test)]
mod tests {
    use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};

    use super::*;
    use crate::placement::Placement;
    use crate::upload::{Content, Target};
    use crate::{Store, StoreOptions};

    fn push(store: &Store, name: &str, bytes: &[u8]) {
        let content = Content::of(bytes, Placement::Sparse);
        let target = Target::Library {
            library: name.parse().unwrap(),
            object: content.id(),
        };
        store.ingest(target, &[content]).unwrap();
    }

    fn assert_stored(store: &Store, bytes: &[u8]) {
        let record = store.object(ObjectId::of(bytes)).unwrap().unwrap();
        let found = store.read(&record.map, 0, bytes.len()).unwrap();
        assert!(found == bytes);
    }

    #[test]
    fn a_segment_that_an_upload_comes_to_use_meanwhile_stays() {
        let directory = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            create: true,
            segment_bytes: WINDOW_SIZE,
            ..StoreOptions::default()
        };
        let store = Store::open(directory.path(), options).unwrap();
        let mut bytes = vec![0; WINDOW_SIZE as usize];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let (kept, dead) = bytes.split_at(100 * PAGE_SIZE as usize);
        push(&store, "kept@1", kept);
        push(&store, "dead@1", dead);
        let segment = store.segments().unwrap()[0].0;
        assert_eq!(
            store.segment(segment).unwrap().unwrap().used,
            PAGES_PER_WINDOW as u32
        );
        store.delete_library(&"dead@1".parse().unwrap()).unwrap();

        let collection = store.begin_collection().unwrap();
        collection.delete_objects(&[ObjectId::of(dead)]).unwrap();
        let survey = Survey::of(&store.snapshot(), &[segment]).unwrap();
        // Its pages are where the survey found nothing alive.
        let late = &dead[5 * PAGE_SIZE as usize..9 * PAGE_SIZE as usize];
        push(&store, "late@1", late);
        let done = collection.move_out(&[segment], survey).unwrap();
        let [skipped] = done.skipped.as_slice() else {
            panic!("{done:?}");
        };
        assert_eq!(
            (skipped.segment, skipped.reason),
            (segment, SkipReason::InUse)
        );
        assert_eq!((done.segments.len(), done.pages), (0, 100));
        assert_stored(&store, kept);
        assert_stored(&store, late);
        drop(collection);

        let done = store
            .begin_collection()
            .unwrap()
            .evacuate(&[segment])
            .unwrap();
        assert_eq!((done.segments, done.pages), (vec![segment], 4));
        assert_stored(&store, kept);
        assert_stored(&store, late);
    }
}
