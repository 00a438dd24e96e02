//! Making the index follow what was copied, in bounded batches.

use std::collections::HashSet;

use pool_core::digest::ObjectId;
use pool_core::extent::SegmentId;
use pool_core::page::PAGES_PER_WINDOW;

use super::moves::{Entries, Moves, redirect_object};
use super::survey::Survey;
use crate::collection::{Collection, MAX_BATCH, weight};
use crate::damage::DamagedSlots;
use crate::error::Result;
use crate::format::Location;
use crate::index::Batch;

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
        let collection = self.collection;
        let now = collection.store.view.index.now();
        collection.in_batches(&self.survey.windows, |barrier, batch, (id, at)| {
            if !self.sources.contains(&at.segment) || now.window(id)? != Some(*at) {
                return Ok(false);
            }
            match self.moves.windows.get(at) {
                Some(to) => batch.move_window(*id, *to),
                None if barrier.protects_window(*at) => {
                    self.kept.insert(at.segment);
                    return Ok(false);
                }
                None => batch.delete_window(*id),
            }
            Ok(true)
        })?;
        Ok(())
    }

    /// Redirects entries of pages that have not followed an object.
    fn pages(&mut self) -> Result<()> {
        let mut pages = self.survey.pages.clone();
        pages.retain(|(_, at)| self.sources.contains(&at.segment));
        self.collection
            .pages_in_batches(&pages, |barrier, batch, id, at| {
                match self.moves.page(at) {
                    Some(to) => batch.move_page(id, to),
                    None if barrier.protects(at) => {
                        self.kept.insert(at.segment);
                        return Ok(false);
                    }
                    None => batch.delete_page(id),
                }
                Ok(true)
            })?;
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
        let mut left = touching.into_iter().peekable();
        let mut changed = 0;
        let mut begun = false;
        while left.peek().is_some() {
            collection.locked(|_| {
                let mut batch = store.view.index.batch();
                let mut room = MAX_BATCH;
                while room > 0
                    && let Some(id) = left.peek().copied()
                {
                    let Some(record) = store.object(id)? else {
                        left.next();
                        continue;
                    };
                    let weight = weight(&record);
                    // A record that is long is not written again for the sake of few entries.
                    let limit = room.max(weight);
                    let done =
                        redirect_object(id, &record, sources, &self.moves, &self.followed, limit)?;
                    room = room.saturating_sub(weight + done.entries.count());
                    self.kept.extend(done.stays);
                    if done.moved {
                        self.follow(&mut batch, done.entries)?;
                        batch.put_object(id, &done.record);
                        changed += u64::from(!begun);
                    }
                    // What is left of it comes first in the next batch.
                    begun = done.rest;
                    if !begun {
                        left.next();
                    }
                }
                batch.commit()
            })?;
        }
        Ok(changed)
    }

    /// Redirects entries that go with an object, each once.
    fn follow(&mut self, batch: &mut Batch<'_>, entries: Entries) -> Result<()> {
        let now = self.collection.store.view.index.now();
        let inside = |(from, to): (Location, Location)| {
            (0..PAGES_PER_WINDOW as u32).map(move |nth| (from.plus(nth), to.plus(nth)))
        };
        // A window's pages move with it, whoever refers to them.
        let of_windows = entries.windows.iter().map(|(from, to)| (*from, *to));
        let of_windows = of_windows.flat_map(inside);
        let mut named = Vec::new();
        for (from, to) in of_windows.chain(entries.pages.iter().copied()) {
            if let Some(id) = self.survey.names.remove(&from) {
                named.push((id, from, to));
            }
        }
        // In order of keys, and all at once: commits wait meanwhile.
        named.sort_unstable_by_key(|(id, ..)| *id);
        let ids: Vec<_> = named.iter().map(|(id, ..)| *id).collect();
        for ((id, from, to), found) in named.into_iter().zip(now.pages(&ids)?) {
            if found == Some(from) {
                batch.move_page(id, to);
            }
        }
        for (from, to) in entries.windows {
            if let Some(id) = self.survey.window_names.remove(&from)
                && now.window(&id)? == Some(from)
            {
                batch.move_window(id, to);
            }
            self.followed.insert(from);
        }
        Ok(())
    }
}
