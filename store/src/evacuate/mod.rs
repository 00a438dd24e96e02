//! Moving what is live out of a mostly dead segment, so that the segment can go.
//!
//! Nothing waits for the copying. What is to move is read and checked first, and compared with the
//! room on the disk; then slots are reserved under the writer's lock and recorded as used, the
//! pages are copied, checked and synced without it, and only then does the index follow, in
//! bounded batches and in this order: the objects, each with the entries of its windows and pages,
//! then entries that no object has, after which no commit can find anything in the old segment,
//! then the objects that commits have added meanwhile, then the segment's end. A large object goes
//! in several batches, what it has in one window of a segment at a time. So an entry is never
//! without an object for having moved, and a stop or a full disk at any instruction leaves either
//! place valid and some slots unused.
//!
//! A segment that cannot be moved stays as it is, damaged pages and all, and the others go on
//! without it: what was copied of it is taken back, so that trying again costs no disk. What was found
//! damaged in it is noted, so that the next push of it lets the segment go.

mod copy;
mod moves;
mod redirect;
mod survey;

use std::collections::HashSet;

use pool_core::extent::SegmentId;
use serde::{Deserialize, Serialize};

use crate::collection::{Collection, SkipReason, Skipped, running_barrier};
use crate::error::Result;
use crate::format::SegmentState;
use copy::Copied;
use moves::Moves;
use redirect::Redirection;
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
        let (sealed, held) = self.step(|turn| {
            let (mut sealed, mut held) = (Vec::new(), Vec::new());
            for id in segments {
                let record = turn.now.segment(*id)?;
                if !record.is_some_and(|record| record.state == SegmentState::Sealed) {
                    continue;
                }
                // No commit gets slots of a sealed one, so that none comes to hold any of those that are free of it now.
                if turn.writer.appender.is_held(*id) {
                    held.push(in_use(*id));
                } else {
                    sealed.push(*id);
                }
            }
            Ok((sealed, held))
        })?;
        let mut done = Evacuated::default();
        if !sealed.is_empty() {
            let survey = Survey::of(&self.store.snapshot(), &sealed)?;
            done = self.move_out(&sealed, survey)?;
        }
        done.skipped.extend(held);
        Ok(done)
    }

    /// Empties the segments that were surveyed. Commits may have come since.
    fn move_out(&self, segments: &[SegmentId], survey: Survey) -> Result<Evacuated> {
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
        done.windows = moves.windows.len() as u64;
        done.pages = moves.pages.len() as u64;
        let mut redirection = Redirection::new(self, survey, moves, &sources);
        done.objects = redirection.run()?;
        let kept = redirection.kept;
        for id in sources.difference(&kept) {
            let retired = self.step(|turn| {
                // What commits referred to there was redirected with the rest.
                running_barrier(turn.writer)?.let_go(*id);
                turn.retire(*id)
            })?;
            done.segments.extend(retired.then_some(*id));
        }
        done.segments.sort_unstable();
        done.skipped.extend(kept.into_iter().map(in_use));
        Ok(done)
    }
}

/// Says that a segment stays for the sake of an upload.
fn in_use(segment: SegmentId) -> Skipped {
    Skipped {
        segment,
        reason: SkipReason::InUse,
        why: "an upload has come to use it meanwhile".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pool_core::digest::{ObjectId, PageId};
    use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW};

    use super::*;
    use crate::Store;
    use crate::damage::{DamagedSlots, Expected};
    use crate::format::Location;
    use crate::testing::{self, assert_stored, push};

    /// A store with one full segment of `bytes`, of which the first pages are `kept@1`, and the rest
    /// is `dead@1`, which no name has any more.
    fn half_dead(directory: &Path, kept: &[u8], dead: &[u8]) -> (Store, SegmentId) {
        let options = testing::options((kept.len() + dead.len()) as u64);
        let store = testing::open_with(directory, options);
        push(&store, "kept@1", kept).unwrap();
        push(&store, "dead@1", dead).unwrap();
        let (segment, record) = store.segments().unwrap()[0];
        assert_eq!(record.state, SegmentState::Sealed);
        store.delete_library(&"dead@1".parse().unwrap()).unwrap();
        (store, segment)
    }

    fn content(windows: u64) -> Vec<u8> {
        testing::content(1, (windows * PAGES_PER_WINDOW) as usize)
    }

    #[test]
    fn an_object_of_one_extent_moves_in_batches_too() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = content(6);
        let (kept, dead) = bytes.split_at(1600 * PAGE_SIZE as usize);
        let (store, segment) = half_dead(directory.path(), kept, dead);
        let collection = store.begin_collection().unwrap();
        collection.delete_objects(&[ObjectId::of(dead)]).unwrap();
        let dead_page = |(_, at): &(PageId, Location)| at.slot.0 >= 1600;
        let mut survey = Survey::of(&store.snapshot(), &[segment]).unwrap();
        survey.pages.retain(dead_page);
        collection.delete_pages(&survey.pages).unwrap();
        let survey = Survey::of(&store.snapshot(), &[segment]).unwrap();
        assert_eq!(survey.pages.len(), 1600);
        let Copied::Whole(moves) = collection.copy(segment, &survey).unwrap() else {
            panic!("it was not copied");
        };
        let sources = HashSet::from([segment]);
        let before = store.generation().unwrap();
        let mut redirection = Redirection::new(&collection, survey, moves, &sources);
        assert_eq!(redirection.run().unwrap(), 1);
        assert!(redirection.kept.is_empty());
        // No more than a batch of pages at a time.
        assert_eq!(store.generation().unwrap() - before, 4);
        assert_stored(&store, kept);
        let page = PageId::of(&kept[..PAGE_SIZE as usize]);
        assert_ne!(store.page(&page).unwrap().unwrap().segment, segment);
    }

    #[test]
    fn what_is_found_damaged_while_it_is_copied_is_so_in_the_copy() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = content(1);
        let (kept, dead) = bytes.split_at(100 * PAGE_SIZE as usize);
        let (store, segment) = half_dead(directory.path(), kept, dead);
        let collection = store.begin_collection().unwrap();
        collection.delete_objects(&[ObjectId::of(dead)]).unwrap();
        // As a repair leaves it: nothing names the pages, so no copy is checked.
        let survey = Survey::of(&store.snapshot(), &[segment]).unwrap();
        collection.delete_pages(&survey.pages).unwrap();
        let survey = Survey::of(&store.snapshot(), &[segment]).unwrap();
        assert!(survey.pages.is_empty());
        let Copied::Whole(moves) = collection.copy(segment, &survey).unwrap() else {
            panic!("it was not copied");
        };
        let slot = |nth| {
            let slot = pool_core::extent::Slot(nth);
            Location { segment, slot }
        };
        let mut found = DamagedSlots::default();
        found.note(slot(7), Expected::default());
        assert_eq!(store.remember(&found).unwrap(), 1);
        let to = moves.page(slot(7)).unwrap();
        let sources = HashSet::from([segment]);
        let mut redirection = Redirection::new(&collection, survey, moves, &sources);
        assert_eq!(redirection.run().unwrap(), 1);
        assert!(store.damage().get(to).is_some());
        drop(collection);
        store.mend().unwrap();
        // The old place is nobody's, and what has the copy is asked for.
        assert_eq!(store.damaged_slots(), 1);
        assert_eq!(store.whole_object(ObjectId::of(kept)).unwrap(), None);
    }

    #[test]
    fn a_segment_that_an_upload_comes_to_use_meanwhile_stays() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = content(1);
        let (kept, dead) = bytes.split_at(100 * PAGE_SIZE as usize);
        let (store, segment) = half_dead(directory.path(), kept, dead);
        let collection = store.begin_collection().unwrap();
        collection.delete_objects(&[ObjectId::of(dead)]).unwrap();
        let survey = Survey::of(&store.snapshot(), &[segment]).unwrap();
        // Its pages are where the survey found nothing alive.
        let late = &dead[5 * PAGE_SIZE as usize..9 * PAGE_SIZE as usize];
        push(&store, "late@1", late).unwrap();
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
