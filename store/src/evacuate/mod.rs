//! Moving what is live out of a mostly dead segment, so that the segment can go.
//!
//! Nothing waits for the copying. What is to move is read and checked first, and compared with the
//! room on the disk; then slots are reserved under the writer's lock and recorded as used, the
//! pages are copied, checked and synced without it, and only then does the index follow, in
//! bounded batches and in this order: windows and pages first, after which no commit can find
//! anything in the old segment, then the objects that are there already, then the segment's end.
//! A stop at any instruction leaves either place valid and at most some slots unused.
//!
//! A segment that cannot be moved stays as it is, damaged pages and all, and the others go on
//! without it: what was copied of it is taken back, so that trying again costs no disk.

mod copy;
mod moves;
mod survey;

use std::collections::HashSet;

use pool_core::extent::SegmentId;
use serde::{Deserialize, Serialize};

use crate::collection::{Collection, MAX_BATCH, SkipReason, Skipped, running_barrier};
use crate::error::Result;
use crate::format::SegmentState;
use copy::Copied;
use moves::{Moves, redirect_object};
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
        let mut done = Evacuated::default();
        if sealed.is_empty() {
            return Ok(done);
        }
        let survey = Survey::of(self.store, &sealed)?;
        let mut sources = HashSet::new();
        let mut moves = Moves::default();
        for id in sealed {
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
        self.redirect_windows(&survey, &sources, &moves, &mut kept)?;
        self.redirect_pages(&survey, &sources, &moves, &mut kept)?;
        done.objects = self.redirect_objects(&sources, &moves, &mut kept)?;
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
            if !sources.contains(&at.segment) || self.store.view.index.window(id)? != Some(*at) {
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
            if !sources.contains(&at.segment) || self.store.view.index.page(id)? != Some(*at) {
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
