//! Reading a store: what a filesystem, an API or a collector can ask.
//!
//! A [`StoreView`] is the read half of a [`crate::Store`], or stands alone in a process that only
//! reads. Alone it follows the writing process: [`StoreView::refresh`] costs one short read while
//! nothing has changed.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::SegmentId;
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW};
use pool_core::registry::{Known, Reservation};

use crate::backend::{Backend, Identity, SegmentFile};
use crate::damage::DamagedSlots;
use crate::directory;
use crate::distrust::Distrust;
use crate::error::{Result, StoreError};
use crate::following::{Follower, Seen};
use crate::format::{self, Location, ObjectRecord, SegmentRecord};
use crate::index::{Followed, Index};
use crate::lease::{Lease, LeaseTable};
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};
use crate::mark::Mark;
use crate::opening;
use crate::snapshot::Snapshot;
use crate::stats::StoreStats;
use crate::superblock::Superblock;
use crate::upload::page_ids;

/// The readable side of a store.
#[derive(Debug)]
pub struct StoreView {
    directory: PathBuf,
    superblock: Superblock,
    pub(crate) index: Arc<Index>,
    pub(crate) backend: Arc<dyn Backend>,
    leases: Arc<LeaseTable>,
    /// The file that was there last; absent in a store of an old release that nobody has written to.
    mark: Mutex<Option<Mark>>,
    /// The writer follows nobody.
    follower: Option<Follower>,
    /// See [`StoreView::distrusts_index`].
    pub(crate) distrust: Arc<Distrust>,
    /// See [`StoreView::damage`].
    pub(crate) damage: RwLock<Arc<DamagedSlots>>,
    /// Open segments, as long as somebody uses them: a cache must not keep unlinked files alive.
    open: Mutex<HashMap<SegmentId, Weak<dyn SegmentFile>>>,
    /// A follower's scratch directory, removed when the view is dropped.
    scratch: Option<PathBuf>,
}

/// A segment or an object that is held against collection while this value lives.
#[derive(Debug)]
pub struct Held<T> {
    /// The thing held.
    pub value: T,
    _leases: Vec<Lease>,
}

impl StoreView {
    /// Opens the store in `directory` for reading, beside a writer or without one. `scratch` is a
    /// new directory for this reader's own notes, which it removes in the end.
    pub fn follow(directory: &Path, scratch: &Path) -> Result<Self> {
        Self::open_following(directory, scratch, Followed::Whole, |_| None)
    }

    /// The same, of a reader that stays: it learns of commits from the journal, too, which is far quicker, as long as somebody has it
    /// [settle](Self::settle) now and then. So what it shows is the index's and the journal's together: who compares the two must not. And it
    /// does not know where single pages and windows are, which large commits change by the ten thousand: to ask for one is
    /// [`StoreError::NotFollowed`].
    pub fn follow_closely(directory: &Path, scratch: &Path) -> Result<Self> {
        let followed = Followed::WithoutPages;
        let view = Self::open_following(directory, scratch, followed, |superblock| {
            let tells = superblock.is_marked() && superblock.is_journaled();
            tells.then(|| directory.join(format::JOURNAL_DIRECTORY))
        })?;
        if let Err(error) = view.settle() {
            tracing::warn!(%error, "the journal is not followed for now");
        }
        Ok(view)
    }

    fn open_following(
        directory: &Path,
        scratch: &Path,
        followed: Followed,
        journal: impl FnOnce(&Superblock) -> Option<PathBuf>,
    ) -> Result<Self> {
        let superblock = Superblock::read(directory, false)?;
        let backend = opening::backend(directory);
        opening::examine_for_reading(directory, &superblock, backend.as_ref())?;
        fs::create_dir_all(scratch)
            .map_err(|source| StoreError::io("creating", scratch, source))?;
        let index = directory.join(format::INDEX_DIRECTORY);
        let index = Index::open_secondary(&index, scratch, followed)?;
        let mut view = Self::assemble(directory, superblock, index, backend)?;
        view.follower = Some(Follower::new(view.look_at_mark()?, journal(&superblock)));
        view.scratch = Some(scratch.into());
        view.refresh()?;
        Ok(view)
    }

    pub(crate) fn assemble(
        directory: &Path,
        superblock: Superblock,
        index: Index,
        backend: Arc<dyn Backend>,
    ) -> Result<Self> {
        Ok(Self {
            directory: directory.into(),
            superblock,
            index: Arc::new(index),
            backend,
            leases: LeaseTable::open(&directory.join(format::LEASES_FILE))?,
            mark: Mutex::new(Mark::open(&directory.join(format::GENERATION_FILE))?),
            follower: None,
            distrust: Distrust::of(directory, superblock.identity),
            damage: RwLock::default(),
            open: Mutex::default(),
            scratch: None,
        })
    }

    /// The store's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// True in the process that writes to the store.
    pub fn is_writer(&self) -> bool {
        self.follower.is_none()
    }

    /// The store's superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Number of commits acknowledged since the store was made. A change means that listings may
    /// have changed.
    pub fn generation(&self) -> Result<u64> {
        self.look_at_mark().map(|seen| seen.generation)
    }

    fn look_at_mark(&self) -> Result<Seen> {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have put another one in its place.
        let path = self.directory.join(format::GENERATION_FILE);
        if directory::identity(&path)? != mark.as_ref().map(Mark::identity)
            && let Some(there) = Mark::open(&path)?
        {
            *mark = Some(there);
        }
        let read = mark.as_ref().map(Mark::read).transpose()?;
        Ok(Seen {
            mark: mark.as_ref().map(Mark::identity),
            generation: read.flatten().unwrap_or(0),
        })
    }

    /// Makes everything committed before the call visible. Does nothing in the writing process. What somebody has put in place of
    /// the store is followed if it is a copy of it, however old, and refused if it is another store.
    pub fn refresh(&self) -> Result<()> {
        let Some(follower) = &self.follower else {
            return Ok(());
        };
        if let Err(error) = self.leases.look_again() {
            tracing::warn!(%error, "leases are not seen by collections");
        }
        let counts = self.superblock.is_marked();
        let identity = counts.then_some(self.superblock.identity);
        let look = || self.look_at_mark();
        follower.refresh(&self.index, identity, look, || self.look_at_damage())
    }

    pub(crate) fn look_at_damage(&self) -> Result<()> {
        self.set_damage(self.index.now().damaged()?);
        Ok(())
    }

    pub(crate) fn follower(&self) -> Option<&Follower> {
        self.follower.as_ref()
    }

    /// One state of the index, for everything that asks more than one question: what one answer
    /// names is there in the others. Commits go on meanwhile. A follower does not
    /// [refresh](Self::refresh) while a snapshot of it lives, so a snapshot is for a short time, and
    /// whoever holds one must not ask for a refresh.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(self)
    }

    /// The record of an object.
    pub fn object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        self.index.now().object(id)
    }

    /// Where a page is kept.
    pub fn page(&self, id: &PageId) -> Result<Option<Location>> {
        self.index.now().page(id)
    }

    /// The record of a library version.
    pub fn library(&self, library: &LibraryRef) -> Result<Option<LibraryRecord>> {
        self.index.now().library(library)
    }

    /// The record of a segment.
    pub fn segment(&self, id: SegmentId) -> Result<Option<SegmentRecord>> {
        self.index.now().segment(id)
    }

    /// The collection epoch: grows by one with every collection.
    pub fn epoch(&self) -> Result<u64> {
        self.index.now().epoch()
    }

    /// Every segment on record, with what its record says or why it cannot be read.
    pub fn segments_one_by_one(&self) -> Result<Vec<(SegmentId, Result<SegmentRecord>)>> {
        self.index.now().segments_one_by_one()
    }

    /// See [`Reader::libraries`](crate::Reader::libraries).
    pub fn libraries(&self) -> Result<Vec<(LibraryRef, LibraryRecord)>> {
        self.snapshot().libraries()
    }

    /// See [`Reader::library_users`](crate::Reader::library_users).
    pub fn library_users(&self, library: &LibraryRef) -> Result<Vec<ImageRef>> {
        self.snapshot().library_users(library)
    }

    /// See [`Reader::tags`](crate::Reader::tags).
    pub fn tags(&self) -> Result<Vec<(ImageRef, TagRecord)>> {
        self.snapshot().tags()
    }

    /// See [`Reader::image`](crate::Reader::image).
    pub fn image(&self, image: &ImageRef) -> Result<Option<(TagRecord, ImageManifest)>> {
        self.snapshot().image(image)
    }

    /// See [`Reader::tags_of_manifest`](crate::Reader::tags_of_manifest).
    pub fn tags_of_manifest(&self, manifest: ObjectId) -> Result<Vec<ImageRef>> {
        self.snapshot().tags_of_manifest(manifest)
    }

    /// See [`Reader::segments`](crate::Reader::segments).
    pub fn segments(&self) -> Result<Vec<(SegmentId, SegmentRecord)>> {
        self.snapshot().segments()
    }

    /// See [`Reader::reservations`](crate::Reader::reservations).
    pub fn reservations(&self) -> Result<Vec<Reservation>> {
        self.snapshot().reservations()
    }

    /// See [`Reader::known_places`](crate::Reader::known_places).
    pub fn known_places(&self, libraries: &[LibraryRef]) -> Result<Vec<Known>> {
        self.snapshot().known_places(libraries)
    }

    /// See [`Reader::tokens`](crate::Reader::tokens).
    pub fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.snapshot().tokens()
    }

    /// See [`Snapshot::stats`]. In the process that writes, what had to be counted for it once is known from then on.
    pub fn stats(&self) -> Result<StoreStats> {
        self.index.know_totals();
        self.snapshot().stats()
    }

    /// The [totals](crate::Reader::totals) that commits have told were found wrong: in the process that writes, they are counted when somebody asks
    /// next.
    pub fn forget_totals(&self) -> Result<()> {
        self.index.forget_totals()
    }

    /// Bytes of disk that a segment takes up.
    pub fn segment_disk_usage(&self, id: SegmentId) -> Result<u64> {
        self.backend.disk_usage(id)
    }

    /// Which file has a segment's name: another one, where somebody has put a copy in its place.
    pub fn segment_identity(&self, id: SegmentId) -> Result<Identity> {
        self.backend.identity(id)
    }

    /// Bytes of a segment's file.
    pub fn segment_file_length(&self, id: SegmentId) -> Result<u64> {
        self.backend.length(id)
    }

    /// What lies in the directory for segment files that the index did not know: name and bytes.
    pub fn lost_files(&self) -> Result<Vec<(String, u64)>> {
        self.backend.lost()
    }

    /// Every segment that has a file, whether the index knows it or not.
    pub fn segment_files(&self) -> Result<Vec<SegmentId>> {
        self.backend.list()
    }

    /// Reads the superblock again and checks it.
    pub fn check_superblock(&self) -> Result<()> {
        let found = Superblock::read(&self.directory, false)?;
        if found == self.superblock {
            Ok(())
        } else {
            Err(StoreError::Corrupt(
                "the superblock changed while the store was open".into(),
            ))
        }
    }

    /// True when anybody holds a lease of the object.
    pub fn object_is_leased(&self, id: ObjectId) -> Result<bool> {
        self.leases.is_held(id)
    }

    /// True when anybody holds a lease of the segment.
    pub fn segment_is_leased(&self, id: SegmentId) -> Result<bool> {
        self.leases.is_held(id)
    }

    /// Opens a segment and holds it: its file stays where it is for as long as the answer lives.
    pub fn hold_segment(&self, id: SegmentId) -> Result<Held<Arc<dyn SegmentFile>>> {
        let lease = self.leases.acquire(id)?;
        // Look only now: a collector that missed the lease has removed the record before.
        self.refresh()?;
        if self.segment(id)?.is_none() {
            return Err(StoreError::NoSegment(id));
        }
        Ok(Held {
            value: self.segment_file(id)?,
            _leases: vec![lease],
        })
    }

    /// Looks something up and holds all objects that it names, with the segments that those lie in: `look` is asked again once
    /// they are held, in a later snapshot, until it names the same ones twice, so that nothing can
    /// have been collected in between. `None` when there is no such thing.
    pub fn hold<T>(
        &self,
        mut look: impl FnMut(&Snapshot<'_>) -> Result<Option<(T, Vec<ObjectId>)>>,
    ) -> Result<Option<Held<T>>> {
        self.hold_at(|snapshot| {
            let Some((value, objects)) = look(snapshot)? else {
                return Ok(None);
            };
            let segments = snapshot.segments_of(&objects)?;
            Ok(Some((value, objects, segments)))
        })
    }

    /// The same, where `look` also says the segments: [those](crate::Reader::segments_of) that the objects lie in in that snapshot.
    pub fn hold_at<T, S: AsRef<[SegmentId]>>(
        &self,
        mut look: impl FnMut(&Snapshot<'_>) -> Result<Option<(T, Vec<ObjectId>, S)>>,
    ) -> Result<Option<Held<T>>> {
        let mut held: Option<(Vec<ObjectId>, S, Vec<Lease>)> = None;
        loop {
            self.refresh()?;
            let snapshot = self.snapshot();
            let Some((value, objects, segments)) = look(&snapshot)? else {
                return Ok(None);
            };
            drop(snapshot);
            match held.take() {
                Some((held_objects, held_segments, leases))
                    if held_objects == objects && held_segments.as_ref() == segments.as_ref() =>
                {
                    return Ok(Some(Held {
                        value,
                        _leases: leases,
                    }));
                }
                _ => {}
            }
            let mut leases = Vec::with_capacity(objects.len() + segments.as_ref().len());
            for object in &objects {
                leases.push(self.leases.acquire(*object)?);
            }
            for segment in segments.as_ref() {
                leases.push(self.leases.acquire(*segment)?);
            }
            held = Some((objects, segments, leases));
        }
    }

    /// Looks a page up and holds its segment. `None` when the pool does not have it.
    pub fn hold_page(&self, id: &PageId) -> Result<Option<Held<Location>>> {
        let mut held: Option<(Location, Lease)> = None;
        loop {
            self.refresh()?;
            let Some(at) = self.page(id)? else {
                return Ok(None);
            };
            match held.take() {
                Some((before, lease)) if before == at => {
                    return Ok(Some(Held {
                        value: at,
                        _leases: vec![lease],
                    }));
                }
                _ => held = Some((at, self.leases.acquire(at.segment)?)),
            }
        }
    }

    /// A snapshot all of whose segments are held, those with an unreadable record too, for whoever
    /// reads everything.
    pub fn hold_all(&self) -> Result<Held<Snapshot<'_>>> {
        let mut held: Option<(Vec<SegmentId>, Vec<Lease>)> = None;
        loop {
            self.refresh()?;
            let snapshot = self.snapshot();
            let segments = snapshot.segments_one_by_one()?;
            let segments: Vec<_> = segments.into_iter().map(|(id, _)| id).collect();
            if let Some((held, leases)) = held.take()
                && segments.iter().all(|id| held.binary_search(id).is_ok())
            {
                return Ok(Held {
                    value: snapshot,
                    _leases: leases,
                });
            }
            drop(snapshot);
            let leases = segments.iter().map(|id| self.leases.acquire(*id));
            let leases = leases.collect::<Result<_>>()?;
            held = Some((segments, leases));
        }
    }

    /// A segment's file, shared with whoever else has it open.
    pub(crate) fn segment_file(&self, id: SegmentId) -> Result<Arc<dyn SegmentFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&id).and_then(Weak::upgrade)
            // Where there is a writer that one looks after its files.
            && (self.is_writer() || self.backend.is_named(id, file.as_ref()))
        {
            return Ok(file);
        }
        open.retain(|_, file| file.strong_count() > 0);
        let file = self.backend.open(id, false)?;
        open.insert(id, Arc::downgrade(&file));
        Ok(file)
    }

    /// The digests of an object's pages in each of `runs`, given by their numbers; `None` is a page of zeros. They are
    /// made from what is stored, so this costs a read of the pages.
    pub fn object_page_ids(
        &self,
        object: ObjectId,
        runs: &[Range<u64>],
    ) -> Result<Vec<Vec<Option<PageId>>>> {
        let look = |snapshot: &Snapshot<'_>| {
            let record = snapshot.object(object)?;
            Ok(record.map(|record| (record.map, vec![object])))
        };
        let unknown = || StoreError::UnknownObjects(vec![object]);
        let held = self.hold(look)?.ok_or_else(unknown)?;
        let map = &held.value;
        let pages = map.page_count();
        if let Some(run) = runs.iter().find(|run| run.end > pages.0) {
            let Range { start, end } = run;
            return Err(StoreError::BadUpload(format!(
                "object {object} has {pages} pages, and those from {start} to {end} are copied"
            )));
        }
        let ids_of = |run: &Range<u64>| {
            let mut ids = Vec::with_capacity((run.end - run.start) as usize);
            for at in run.clone().step_by(PAGES_PER_WINDOW as usize) {
                let pages = (run.end - at).min(PAGES_PER_WINDOW);
                let content = self.read(map, at * PAGE_SIZE, (pages * PAGE_SIZE) as usize)?;
                ids.extend(page_ids(&content));
            }
            Ok(ids)
        };
        runs.iter().map(ids_of).collect()
    }

    /// Those of `objects` that are not stored, or known to be damaged.
    pub fn unknown_objects(
        &self,
        objects: impl IntoIterator<Item = ObjectId>,
    ) -> Result<Vec<ObjectId>> {
        let mut unknown = Vec::new();
        for id in objects {
            if self.whole_object(id)?.is_none() {
                unknown.push(id);
            }
        }
        Ok(unknown)
    }

    /// Reads one page by its location into `page`.
    pub fn read_page(&self, location: Location, page: &mut [u8]) -> Result<()> {
        self.segment_file(location.segment)?
            .read_exact_at(page, location.slot.byte_offset())
            .map_err(|source| {
                StoreError::io("reading the segment", location.segment.to_string(), source)
            })
    }
}

impl Drop for StoreView {
    fn drop(&mut self) {
        if let Some(scratch) = &self.scratch
            && let Err(error) = fs::remove_dir_all(scratch)
        {
            tracing::debug!(%error, path = %scratch.display(), "leaving a scratch directory");
        }
    }
}
