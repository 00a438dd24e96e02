//! What a collector may do to a store, and what keeps it from doing harm.
//!
//! The store decides nothing about garbage: `pool-gc` marks what is live, from a look at the
//! index while uploads go on, and proposes removals. Each proposal is checked again here, under
//! the writer's lock and in bounded batches, against the *barrier*: everything that commits have
//! referred to since the collection began. So an upload that found "page already there" and a
//! collector that found "page not used" cannot both be right.
//!
//! Every prefix of a collection's batches leaves a whole store: objects go before the pages they
//! are made of, pages before their segment, and a segment is retired only after a scan of the
//! index found nothing that refers to it, whatever the collector believes. Nothing is removed by an index that is not trusted.

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::SegmentId;
use pool_core::name::LibraryRef;
use serde::{Deserialize, Serialize};

use crate::barrier::Barrier;
use crate::change::Turn;
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, SegmentState};
use crate::index::Reader;
use crate::manifest::Timestamp;
use crate::references::library_keeper;
use crate::steps::{Step, reached};
use crate::{Store, Writer};

/// Most changes that a collection makes in one batch, which bounds how long a commit waits.
pub const MAX_BATCH: usize = 512;

/// Extents of an object's record that take as long to read and write as the entry of a page.
const EXTENTS_PER_ENTRY: usize = 64;

/// How much of a batch an object's record takes up.
pub(crate) fn weight(record: &ObjectRecord) -> usize {
    1 + record.map.extents().len() / EXTENTS_PER_ENTRY
}

/// Is asked before each change that a collection makes. It may take its time, and may end the collection.
pub type Watch<'a> = &'a dyn Fn() -> ControlFlow<()>;

/// A collection under way. One at a time; it ends when this value is dropped.
pub struct Collection<'a> {
    pub(crate) store: &'a Store,
    epoch: u64,
    watch: Watch<'a>,
    pub(crate) longest_hold: Cell<Duration>,
}

impl std::fmt::Debug for Collection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// What [`Store::reap`] gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reaped {
    /// Segments unlinked.
    pub segments: Vec<SegmentId>,
    /// Bytes of disk they took up.
    pub bytes: u64,
    /// Segments that could not be unlinked.
    pub skipped: Vec<Skipped>,
}

/// A segment that a collection left as it is, though it should have gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// The segment.
    pub segment: SegmentId,
    /// Why, for programs.
    pub reason: SkipReason,
    /// Why, for people.
    pub why: String,
}

impl Skipped {
    /// A segment whose record cannot be read: nobody knows what it is for.
    pub fn unreadable(segment: SegmentId, error: &StoreError) -> Self {
        Self {
            segment,
            reason: SkipReason::Damaged,
            why: format!("its record cannot be read: {error}"),
        }
    }
}

/// Why a segment was left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// Something live in it cannot be read, or is not what its digest says. `pool fsck` names it.
    Damaged,
    /// The disk has no room for a copy of what is live in it.
    NoRoom,
    /// The copy could not be written.
    NotWritten,
    /// An upload has come to use it since the collection began.
    InUse,
    /// Its file could not be unlinked.
    NotRemoved,
}

impl SkipReason {
    /// As reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::NoRoom => "no-room",
            Self::NotWritten => "not-written",
            Self::InUse => "in-use",
            Self::NotRemoved => "not-removed",
        }
    }
}

impl Store {
    /// Begins a collection: from now on, what commits refer to is protected.
    pub fn begin_collection(&self) -> Result<Collection<'_>> {
        self.begin_watched_collection(&|| ControlFlow::Continue(()))
    }

    /// [`Store::begin_collection`] of one that `watch` can keep waiting, or end: what it asks for next fails with
    /// [`StoreError::CollectionStopped`] then. What it has done by that time leaves a whole store. So does one that has begun by
    /// the time that the index is [not to be trusted](crate::StoreView::distrusts_index) any more.
    pub fn begin_watched_collection<'a>(&'a self, watch: Watch<'a>) -> Result<Collection<'a>> {
        self.check_trusted()?;
        let mut collection = {
            let barrier = &mut self.joining().barrier;
            if barrier.is_some() {
                return Err(StoreError::CollectionRunning);
            }
            *barrier = Some(Barrier::default());
            Collection {
                store: self,
                epoch: 0,
                watch,
                longest_hold: Cell::default(),
            }
        };
        // What has joined before the barrier was there is durable once this is, so that whoever looks finds it.
        let begins = |turn: &mut Turn<'_>, ()| {
            let epoch = turn.now.epoch()? + 1;
            turn.batch.put_epoch(epoch);
            Ok(epoch)
        };
        collection.epoch = collection.step_anyway(|_| Ok(()), begins)?;
        Ok(collection)
    }
}

impl Store {
    /// Unlinks retired segments that nobody holds any more: nothing refers to them, whatever else
    /// is damaged, and whether a collection runs or not. One that cannot be unlinked, or whose
    /// record cannot be read, stays and keeps none of the others.
    ///
    /// # Errors
    ///
    /// When the index cannot be read, or is not to be trusted: one that is damaged may call what is live retired.
    pub fn reap(&self) -> Result<Reaped> {
        self.check_trusted()?;
        let mut reaped = Reaped::default();
        for (id, record) in self.segments_one_by_one()? {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    reaped.skipped.push(Skipped::unreadable(id, &error));
                    continue;
                }
            };
            if record.state != SegmentState::Retired || self.segment_is_leased(id)? {
                continue;
            }
            let bytes = self.segment_disk_usage(id).unwrap_or(0);
            match self.view.backend.unlink(id) {
                Ok(()) => {
                    reaped.segments.push(id);
                    reaped.bytes += bytes;
                }
                Err(error) => reaped.skipped.push(Skipped {
                    segment: id,
                    reason: SkipReason::NotRemoved,
                    why: error.to_string(),
                }),
            }
        }
        let forgotten = self.change(|_, batch| {
            reaped
                .segments
                .iter()
                .for_each(|id| batch.delete_segment(*id));
            Ok(())
        });
        if let Err(error) = forgotten {
            // The files are gone; their records go with the next call. A full disk has room now.
            tracing::warn!(%error, "records of unlinked segments stay for now");
        }
        Ok(reaped)
    }

    /// Bytes that can be written to segments before their disk is full.
    pub fn free_bytes(&self) -> Result<u64> {
        self.view.backend.free_bytes()
    }
}

impl Drop for Collection<'_> {
    fn drop(&mut self) {
        self.store.joining().barrier = None;
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

    /// The longest that this collection has kept commits waiting so far.
    pub fn longest_hold(&self) -> Duration {
        self.longest_hold.get()
    }

    /// False when the journal's disk has no room beyond what is kept for collections.
    pub fn has_room(&self) -> bool {
        self.store.view.index.reserve().is_ok()
    }

    /// Decides a change under the writer's lock, unless the collection is to end, and answers once it is durable. See [`Store::step`].
    pub(crate) fn step<T>(&self, mut change: impl FnMut(&mut Turn<'_>) -> Result<T>) -> Result<T> {
        self.planned(|_| Ok(()), |turn, ()| change(turn))
    }

    /// The same of what is looked at before that.
    pub(crate) fn planned<P, T>(
        &self,
        plan: impl FnMut(&Reader<'_>) -> Result<P>,
        change: impl FnMut(&mut Turn<'_>, P) -> Result<T>,
    ) -> Result<T> {
        self.check_goes_on()?;
        self.step_anyway(plan, change)
    }

    /// As [`Collection::planned`], for what has to be done of a collection that ends, too.
    fn step_anyway<P, T>(
        &self,
        plan: impl FnMut(&Reader<'_>) -> Result<P>,
        change: impl FnMut(&mut Turn<'_>, P) -> Result<T>,
    ) -> Result<T> {
        self.store.step(&self.longest_hold, plan, change)
    }

    pub(crate) fn check_goes_on(&self) -> Result<()> {
        if (self.watch)().is_break() {
            return Err(StoreError::CollectionStopped);
        }
        self.store.check_trusted()
    }

    /// Runs `work` under the writer's lock, alone, also of a collection that ends.
    pub(crate) fn alone<T>(&self, work: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        work(&mut self.store.hold_alone(&self.longest_hold).writer)
    }

    /// Proposes changes for each of `items` that `are_there` says is where it is said to be, at most [`MAX_BATCH`] at a time, and
    /// counts those that were made.
    pub(crate) fn in_batches<T>(
        &self,
        items: &[T],
        are_there: impl Fn(&Reader<'_>, &[T]) -> Result<Vec<bool>>,
        mut change: impl FnMut(&mut Turn<'_>, &T) -> Result<bool>,
    ) -> Result<u64> {
        let mut made = 0;
        for chunk in items.chunks(MAX_BATCH) {
            made += self.planned(
                |now| are_there(now, chunk),
                |turn, are_there| {
                    let mut made = 0;
                    for (item, _) in chunk.iter().zip(are_there).filter(|(_, is)| *is) {
                        made += u64::from(change(turn, item)?);
                    }
                    Ok(made)
                },
            )?;
        }
        Ok(made)
    }

    /// The same for pages.
    pub(crate) fn pages_in_batches(
        &self,
        pages: &[(PageId, Location)],
        change: impl FnMut(&mut Turn<'_>, &(PageId, Location)) -> Result<bool>,
    ) -> Result<u64> {
        let are_there = |now: &Reader<'_>, pages: &[(PageId, Location)]| {
            let ids: Vec<_> = pages.iter().map(|(id, _)| *id).collect();
            let found = now.pages(&ids)?;
            let both = pages.iter().zip(found);
            Ok(both.map(|((_, at), found)| found == Some(*at)).collect())
        };
        self.in_batches(pages, are_there, change)
    }

    /// The same for windows.
    pub(crate) fn windows_in_batches(
        &self,
        windows: &[(WindowId, Location)],
        change: impl FnMut(&mut Turn<'_>, &(WindowId, Location)) -> Result<bool>,
    ) -> Result<u64> {
        let are_there = |now: &Reader<'_>, windows: &[(WindowId, Location)]| {
            let each = windows.iter();
            each.map(|(id, at)| Ok(now.window(id)? == Some(*at)))
                .collect()
        };
        self.in_batches(windows, are_there, change)
    }

    /// Removes library versions that still have no user, pin or lease and have been unused since
    /// `unused_before` or earlier; answers with those removed.
    pub fn delete_libraries(
        &self,
        libraries: &[LibraryRef],
        unused_before: Timestamp,
    ) -> Result<Vec<LibraryRef>> {
        let mut deleted = Vec::new();
        for chunk in libraries.chunks(MAX_BATCH) {
            deleted.extend(self.step(|turn| {
                let mut deleted = Vec::new();
                for library in chunk {
                    if self.is_unused(&turn.now, library, unused_before)? {
                        turn.batch.delete_library(library);
                        deleted.push(library.clone());
                    }
                }
                Ok(deleted)
            })?);
        }
        Ok(deleted)
    }

    /// True of a library version that nobody uses, pins or leases, and nobody has used since.
    fn is_unused(&self, now: &Reader<'_>, library: &LibraryRef, since: Timestamp) -> Result<bool> {
        let Some(record) = now.library(library)? else {
            return Ok(false);
        };
        let is_unused = record.unused_since.is_some_and(|unused| unused <= since)
            && library_keeper(now, library, &record)?.is_none()
            && !self.store.object_is_leased(record.object)?;
        Ok(is_unused)
    }

    /// Removes objects that no commit has referred to since the collection began and that nobody
    /// leases. A leased one is protected, with its pages, for the rest of the collection.
    pub fn delete_objects(&self, objects: &[ObjectId]) -> Result<u64> {
        let mut left = objects;
        let mut deleted = 0;
        while !left.is_empty() {
            deleted += self.delete_object_batch(&mut left)?;
        }
        Ok(deleted)
    }

    /// Takes the next of `left`, as many as a batch has room for.
    fn delete_object_batch(&self, left: &mut &[ObjectId]) -> Result<u64> {
        self.check_goes_on()?;
        let _limbo = Limbo(self.store);
        let (deleted, rest) = self.step_anyway(
            |now| self.next_objects(now, left),
            |turn, (found, rest)| {
                let barrier = running_barrier(turn.writer)?;
                barrier.limbo.clear();
                let mut deleted = Vec::new();
                for candidate in found {
                    let Candidate { id, record, .. } = candidate;
                    if barrier.protects_object(id) {
                        continue;
                    }
                    if candidate.is_leased {
                        barrier.protect(id, record.map.extents());
                        continue;
                    }
                    turn.batch.delete_object(id);
                    barrier.limbo.push(record.map.clone());
                    deleted.push((id, record));
                }
                Ok((deleted, rest))
            },
        )?;
        *left = rest;
        reached(Step::Removed);
        // Whoever took a lease since the question above has either looked before the removal,
        // and shows up now, or looks after it, and finds nothing.
        let mut taken = Vec::new();
        for (id, record) in &deleted {
            // If that cannot be known it may be.
            if self.store.object_is_leased(*id).unwrap_or(true) {
                taken.push((*id, record));
            }
        }
        if !taken.is_empty() {
            let put_back = |turn: &mut Turn<'_>, ()| {
                for (id, record) in &taken {
                    running_barrier(turn.writer)?.protect(*id, record.map.extents());
                    // Unless it was pushed again meanwhile.
                    if turn.now.object(*id)?.is_none() {
                        turn.batch.put_object(*id, record);
                    }
                }
                Ok(())
            };
            self.step_anyway(|_| Ok(()), put_back)?;
        }
        Ok((deleted.len() - taken.len()) as u64)
    }

    /// Those of the next objects that there are, as many as a batch has room for, and those behind them.
    fn next_objects<'o>(
        &self,
        now: &Reader<'_>,
        objects: &'o [ObjectId],
    ) -> Result<(Vec<Candidate>, &'o [ObjectId])> {
        let (mut found, mut rest, mut room) = (Vec::new(), objects, MAX_BATCH);
        while room > 0
            && let Some((id, after)) = rest.split_first()
        {
            rest = after;
            let Some(record) = now.object(*id)? else {
                room -= 1;
                continue;
            };
            room = room.saturating_sub(weight(&record));
            found.push(Candidate {
                id: *id,
                record,
                is_leased: self.store.object_is_leased(*id)?,
            });
        }
        Ok((found, rest))
    }

    /// Removes pages from the index, unless a commit refers to their slot.
    pub fn delete_pages(&self, pages: &[(PageId, Location)]) -> Result<u64> {
        self.pages_in_batches(pages, |turn, (id, at)| {
            let goes = !running_barrier(turn.writer)?.protects(*at);
            if goes {
                turn.batch.delete_page(*id);
            }
            Ok(goes)
        })
    }

    /// Removes densely stored windows from the index, unless a commit refers to them.
    pub fn delete_windows(&self, windows: &[(WindowId, Location)]) -> Result<u64> {
        self.windows_in_batches(windows, |turn, (id, at)| {
            let goes = !running_barrier(turn.writer)?.protects_window(*at);
            if goes {
                turn.batch.delete_window(*id);
            }
            Ok(goes)
        })
    }

    /// Retires those of `segments`, sealed or open, to which nothing in the index and no commit
    /// refers; answers with them. What the collector proposes is checked by a scan of the index.
    pub fn retire_segments(&self, segments: &[SegmentId]) -> Result<Vec<SegmentId>> {
        let mut unused: HashSet<_> = segments.iter().copied().collect();
        if unused.is_empty() {
            return Ok(vec![]);
        }
        // Outside the lock: only commits add references, and the barrier knows those.
        let snapshot = self.store.snapshot();
        snapshot.for_each_object(|_, record| {
            for extent in record.map.extents() {
                unused.remove(&extent.segment);
            }
            Ok(())
        })?;
        snapshot.for_each_page(|_, at| {
            unused.remove(&at.segment);
            Ok(())
        })?;
        snapshot.for_each_window(|_, at| {
            unused.remove(&at.segment);
            Ok(())
        })?;
        drop(snapshot);
        let mut retired = Vec::new();
        for id in segments.iter().filter(|id| unused.contains(id)) {
            let done = self.step(|turn| {
                let is_used = running_barrier(turn.writer)?.protects_any_of(*id);
                Ok(!is_used && turn.retire(*id)?)
            })?;
            retired.extend(done.then_some(*id));
        }
        Ok(retired)
    }
}

impl Turn<'_> {
    /// Retires a segment that nothing refers to; false when it is retired or gone already, or a commit under way writes to it.
    pub(crate) fn retire(&mut self, id: SegmentId) -> Result<bool> {
        if self.writer.appender.is_held(id) {
            return Ok(false);
        }
        let Some(mut record) = self.now.segment(id)? else {
            return Ok(false);
        };
        let was = std::mem::replace(&mut record.state, SegmentState::Retired);
        if was == SegmentState::Retired {
            return Ok(false);
        }
        self.batch.put_segment(id, &record);
        if was == SegmentState::Open {
            self.writer.appender.let_go(id);
        }
        Ok(true)
    }
}

/// An object that is to be removed.
struct Candidate {
    id: ObjectId,
    record: ObjectRecord,
    is_leased: bool,
}

/// Ends what is between being removed and being found leased.
struct Limbo<'a>(&'a Store);

impl Drop for Limbo<'_> {
    fn drop(&mut self) {
        if let Some(barrier) = &mut self.0.joining().barrier {
            barrier.limbo.clear();
        }
    }
}

/// The barrier of the collection under way.
pub(crate) fn running_barrier(writer: &mut Writer) -> Result<&mut Barrier> {
    // A `Collection` exists, and only dropping it takes the barrier away.
    writer.barrier.as_mut().ok_or(StoreError::CollectionRunning)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread;

    use pool_core::extent::{Extent, ExtentMap, Slot};
    use pool_core::page::PAGE_SIZE;

    use super::*;
    use crate::format::{SegmentKind, SegmentRecord};
    use crate::testing;

    #[test]
    fn objects_of_many_extents_go_a_few_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::open(directory.path());
        let extents = (0..20_000).map(|nth| Extent {
            file_page: 2 * nth,
            segment: SegmentId(0),
            slot: Slot(0),
            count: 1,
            dense: false,
        });
        let map = ExtentMap::new(40_000 * PAGE_SIZE, extents.collect()).unwrap();
        let record = ObjectRecord { phase: 0, map };
        let ids = [0u8, 1, 2, 3].map(|nth| ObjectId::of(&[nth]));
        let mut batch = store.view.index.batch();
        for id in ids {
            batch.put_object(id, &record);
        }
        batch.commit().unwrap();
        let collection = store.begin_collection().unwrap();
        let before = store.generation().unwrap();
        assert_eq!(collection.delete_objects(&ids).unwrap(), 4);
        assert_eq!(store.generation().unwrap() - before, 2);
    }

    #[test]
    fn who_waits_gets_in_before_the_next_step() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::open(directory.path());
        let collection = store.begin_collection().unwrap();
        let order = Mutex::new(Vec::new());
        let did = |what| order.lock().unwrap().push(what);
        thread::scope(|threads| {
            for nth in 0..3 {
                let step = collection.step(|_| {
                    did((nth, "step"));
                    let (store, did) = (&store, &did);
                    threads.spawn(move || {
                        let _writer = store.joining();
                        did((nth, "commit"));
                    });
                    pool_tests::wait::until("it waits", || store.queue.is_awaited());
                    Ok(())
                });
                step.unwrap();
            }
        });
        let each = (0..3).flat_map(|nth| [(nth, "step"), (nth, "commit")]);
        assert_eq!(order.into_inner().unwrap(), each.collect::<Vec<_>>());
    }

    #[test]
    fn a_record_that_cannot_be_read_keeps_no_other_segment() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::open(directory.path());
        let retired = SegmentRecord {
            kind: SegmentKind::Sparse,
            state: SegmentState::Retired,
            used: 1,
            capacity: 512,
        };
        let path = |nth: u32| {
            directory
                .path()
                .join(format!("segments/{}.seg", SegmentId(nth)))
        };
        let mut batch = store.view.index.batch();
        for nth in 0..5 {
            std::fs::write(path(nth), b"segment").unwrap();
            batch.put_segment(SegmentId(nth), &retired);
        }
        batch.spoil_segment(&2u32.to_be_bytes());
        batch.spoil_segment(b"no number");
        batch.put_next_segment(5);
        batch.commit().unwrap();

        let reaped = store.reap().unwrap();
        assert_eq!(reaped.segments, [0, 1, 3, 4].map(SegmentId));
        assert_eq!(reaped.skipped.len(), 1);
        let skipped = &reaped.skipped[0];
        let what = (skipped.segment, skipped.reason);
        assert_eq!(what, (SegmentId(2), SkipReason::Damaged));
        for nth in 0..5 {
            assert_eq!(path(nth).exists(), nth == 2, "{nth}");
        }
        // What is not understood is still there the next time.
        let again = store.reap().unwrap();
        assert_eq!((again.segments.len(), again.skipped), (0, reaped.skipped));
    }
}
