//! Making the index follow what was copied, in bounded batches.

use std::collections::HashSet;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::SegmentId;
use pool_core::page::PAGES_PER_WINDOW;

use super::moves::{Entries, Moves, redirect_object};
use super::survey::Survey;
use crate::change::Turn;
use crate::collection::{Collection, MAX_BATCH, running_barrier, weight};
use crate::damage::DamagedSlots;
use crate::error::Result;
use crate::format::Location;
use crate::index::{Batch, Reader};

/// The index on its way from old places to new ones.
pub(super) struct Redirection<'a> {
    collection: &'a Collection<'a>,
    survey: Survey,
    moves: Moves,
    /// Segments that were copied whole.
    sources: &'a HashSet<SegmentId>,
    /// Those of them that an upload has come to use in an unforeseen way.
    pub(super) kept: HashSet<SegmentId>,
    /// Windows whose entries have followed.
    followed: HashSet<Location>,
}

impl<'a> Redirection<'a> {
    pub(super) fn new(
        collection: &'a Collection<'a>,
        survey: Survey,
        moves: Moves,
        sources: &'a HashSet<SegmentId>,
    ) -> Self {
        Self {
            collection,
            survey,
            moves,
            sources,
            kept: HashSet::new(),
            followed: HashSet::new(),
        }
    }

    /// Redirects everything, and answers with how many objects changed.
    pub(super) fn run(&mut self) -> Result<u64> {
        let surveyed = self.objects()?;
        self.windows()?;
        self.pages()?;
        // Those that commits have added meanwhile. From now on none can.
        self.collection.store.settled();
        let added = self.objects()?;
        self.take_notes_along()?;
        Ok(surveyed + added)
    }

    /// What was found damaged since it was copied is so in the copy, as far as nothing named it that a check could go by. Nobody
    /// comes to refer to the old place any more, and a note of that would be forgotten.
    fn take_notes_along(&self) -> Result<()> {
        let store = self.collection.store;
        let mut copies = DamagedSlots::default();
        for (at, expected) in store.damage().iter() {
            if self.sources.contains(&at.segment)
                && let Some(to) = self.moves.page(at)
            {
                copies.note(to, expected);
            }
        }
        if copies.is_empty() {
            return Ok(());
        }
        store.remember(&copies).map(drop)
    }

    /// Redirects entries of windows that have not followed an object.
    fn windows(&mut self) -> Result<()> {
        let mut windows = self.survey.windows.clone();
        windows.retain(|(_, at)| self.sources.contains(&at.segment));
        let (moves, kept) = (&self.moves, &mut self.kept);
        let change = |turn: &mut Turn<'_>, (id, at): &(WindowId, Location)| {
            match moves.windows.get(at) {
                Some(to) => turn.batch.move_window(*id, *to),
                None if running_barrier(turn.writer)?.protects_window(*at) => {
                    kept.insert(at.segment);
                    return Ok(false);
                }
                None => turn.batch.delete_window(*id),
            }
            Ok(true)
        };
        self.collection.windows_in_batches(&windows, change)?;
        Ok(())
    }

    /// Redirects entries of pages that have not followed an object.
    fn pages(&mut self) -> Result<()> {
        let mut pages = self.survey.pages.clone();
        pages.retain(|(_, at)| self.sources.contains(&at.segment));
        let (moves, kept) = (&self.moves, &mut self.kept);
        let change = |turn: &mut Turn<'_>, (id, at): &(PageId, Location)| {
            match moves.page(*at) {
                Some(to) => turn.batch.move_page(*id, to),
                None if running_barrier(turn.writer)?.protects(*at) => {
                    kept.insert(at.segment);
                    return Ok(false);
                }
                None => turn.batch.delete_page(*id),
            }
            Ok(true)
        };
        self.collection.pages_in_batches(&pages, change)?;
        Ok(())
    }

    /// Redirects every object that refers to the segments, with the entries of what it has there.
    fn objects(&mut self) -> Result<u64> {
        let mut touching: Vec<ObjectId> = Vec::new();
        let (collection, sources) = (self.collection, self.sources);
        let store = collection.store;
        store.snapshot().for_each_object(|id, record| {
            let mut extents = record.map.extents().iter();
            if extents.any(|extent| sources.contains(&extent.segment)) {
                touching.push(id);
            }
            Ok(())
        })?;
        let mut at = Progress::default();
        while at.next < touching.len() {
            let mut taken = Taken::default();
            let plan = |now: &Reader<'_>| {
                self.give_back(std::mem::take(&mut taken));
                let mut batch = store.view.index.batch();
                let next = self.redirect_batch(now, &mut batch, &touching, at, &mut taken)?;
                Ok((batch.into_changes(), next))
            };
            at = collection.planned(plan, |turn, (changes, next)| {
                turn.batch.append(&changes);
                Ok(next)
            })?;
        }
        Ok(at.changed)
    }

    /// Redirects the next objects of `touching`, as many as a batch has room for. What goes with them is `taken` from what there is
    /// to follow.
    fn redirect_batch(
        &mut self,
        now: &Reader<'_>,
        batch: &mut Batch<'_>,
        touching: &[ObjectId],
        mut at: Progress,
        taken: &mut Taken,
    ) -> Result<Progress> {
        let mut room = MAX_BATCH;
        while room > 0
            && let Some(&id) = touching.get(at.next)
        {
            let Some(record) = now.object(id)? else {
                (at.next, at.is_begun) = (at.next + 1, false);
                continue;
            };
            let weight = weight(&record);
            // A record that is long is not written again for the sake of few entries.
            let limit = room.max(weight);
            let (sources, followed) = (self.sources, &self.followed);
            let done = redirect_object(id, &record, sources, &self.moves, followed, limit)?;
            room = room.saturating_sub(weight + done.entries.count());
            self.kept.extend(done.stays);
            if done.moved {
                self.follow(now, batch, done.entries, taken)?;
                batch.put_object(id, &done.record);
                at.changed += u64::from(!at.is_begun);
            }
            // What is left of it comes first in the next batch.
            at.is_begun = done.rest;
            at.next += usize::from(!done.rest);
        }
        Ok(at)
    }

    /// Redirects entries that go with an object, each once.
    fn follow(
        &mut self,
        now: &Reader<'_>,
        batch: &mut Batch<'_>,
        entries: Entries,
        taken: &mut Taken,
    ) -> Result<()> {
        let inside = |(from, to): (Location, Location)| {
            (0..PAGES_PER_WINDOW as u32).map(move |nth| (from.plus(nth), to.plus(nth)))
        };
        // A window's pages move with it, whoever refers to them.
        let of_windows = entries.windows.iter().map(|(from, to)| (*from, *to));
        let of_windows = of_windows.flat_map(inside);
        let mut named = Vec::new();
        for (from, to) in of_windows.chain(entries.pages.iter().copied()) {
            if let Some(id) = self.survey.names.remove(&from) {
                taken.names.push((from, id));
                named.push((id, from, to));
            }
        }
        // In order of keys, and all at once.
        named.sort_unstable_by_key(|(id, ..)| *id);
        let ids: Vec<_> = named.iter().map(|(id, ..)| *id).collect();
        for ((id, from, to), found) in named.into_iter().zip(now.pages(&ids)?) {
            if found == Some(from) {
                batch.move_page(id, to);
            }
        }
        for (from, to) in entries.windows {
            if let Some(id) = self.survey.window_names.remove(&from) {
                taken.window_names.push((from, id));
                if now.window(&id)? == Some(from) {
                    batch.move_window(id, to);
                }
            }
            self.followed.insert(from);
            taken.followed.push(from);
        }
        Ok(())
    }

    /// Takes back what a batch had taken that came to nothing.
    fn give_back(&mut self, taken: Taken) {
        self.survey.names.extend(taken.names);
        self.survey.window_names.extend(taken.window_names);
        for window in taken.followed {
            self.followed.remove(&window);
        }
    }
}

/// How far the objects are that are to be redirected.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Number of the next one.
    next: usize,
    /// A part of it is redirected.
    is_begun: bool,
    /// Objects that have changed.
    changed: u64,
}

/// What a batch has taken from what there is to follow.
#[derive(Debug, Default)]
struct Taken {
    names: Vec<(Location, PageId)>,
    window_names: Vec<(Location, WindowId)>,
    /// Windows.
    followed: Vec<Location>,
}

#[cfg(test)]
mod tests {
    use pool_core::page::PAGE_SIZE;

    use super::*;
    use crate::evacuate::copy::Copied;
    use crate::testing::{self, push};

    #[test]
    fn a_batch_that_came_to_nothing_is_made_again_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::open(directory.path());
        let bytes = testing::content(1, 512);
        let (kept, dead) = bytes.split_at(300 * PAGE_SIZE as usize);
        for (name, bytes) in [
            ("kept@1", kept),
            ("part@1", &kept[..9 * PAGE_SIZE as usize]),
        ] {
            push(&store, name, bytes).unwrap();
        }
        push(&store, "dead@1", dead).unwrap();
        let segment = store.segments().unwrap()[0].0;
        let collection = store.begin_collection().unwrap();
        let survey = Survey::of(&store.snapshot(), &[segment]).unwrap();
        let Copied::Whole(moves) = collection.copy(segment, &survey).unwrap() else {
            panic!("it was not copied");
        };
        let sources = HashSet::from([segment]);
        let mut redirection = Redirection::new(&collection, survey, moves, &sources);
        let touching = [kept, &kept[..9 * PAGE_SIZE as usize], dead].map(ObjectId::of);
        let now = store.view.index.now();
        let mut batches = Vec::new();
        let mut left = Vec::new();
        for _ in 0..2 {
            let (mut taken, mut batch) = (Taken::default(), store.view.index.batch());
            let at = Progress::default();
            let made = redirection.redirect_batch(&now, &mut batch, &touching, at, &mut taken);
            assert_eq!(made.unwrap().next, 3);
            assert!(!taken.names.is_empty());
            batches.push(batch.changes().to_vec());
            redirection.give_back(taken);
            left.push((redirection.survey.names.len(), redirection.followed.len()));
        }
        assert_eq!(batches[0], batches[1]);
        assert_eq!(left, [(512, 0), (512, 0)]);
    }
}
