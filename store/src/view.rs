//! Reading a store: what a filesystem, an API or a collector can ask.
//!
//! A [`StoreView`] is the read half of a [`crate::Store`], or stands alone in a process that only
//! reads. Alone it follows the writing process: [`StoreView::refresh`] costs one short read while
//! nothing has changed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::{ExtentMap, SegmentId};
use pool_core::image_map::{IMAGE_MAP_FORMAT, ImageMap};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page::PAGE_SIZE;
use pool_core::registry::Reservation;

use crate::backend::{Backend, DirectoryBackend, SegmentFile};
use crate::error::{Result, StoreError};
use crate::format::{
    self, Location, ObjectRecord, Reference, SegmentRecord, Superblock, SuperblockError,
};
use crate::index::Index;
use crate::lease::{Lease, LeaseTable};
use crate::manifest::{ImageManifest, LibraryRecord, TagRecord, TokenRecord};

/// The readable side of a store.
#[derive(Debug)]
pub struct StoreView {
    directory: PathBuf,
    superblock: Superblock,
    pub(crate) index: Index,
    pub(crate) backend: Arc<dyn Backend>,
    leases: Arc<LeaseTable>,
    generation: File,
    /// For a follower: the generation last caught up with. The writer needs none.
    followed: Option<Mutex<u64>>,
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

/// How often [`StoreView::hold`] looks again for an object that was named and is not there, before
/// it calls the store damaged.
const MOST_VANISHED: u32 = 16;

impl StoreView {
    /// Opens the store in `directory` for reading, beside a writer or without one. `scratch` is a
    /// new directory for this reader's own notes, which it removes in the end.
    pub fn follow(directory: &Path, scratch: &Path) -> Result<Self> {
        let superblock = read_superblock(directory, false)?;
        fs::create_dir_all(scratch)
            .map_err(|source| StoreError::io("creating", scratch, source))?;
        let index = Index::open_secondary(&directory.join(format::INDEX_DIRECTORY), scratch)?;
        let backend = Arc::new(DirectoryBackend::new(
            directory.join(format::SEGMENTS_DIRECTORY),
            directory.join(format::STAGING_DIRECTORY),
        ));
        let mut view = Self::assemble(directory, superblock, index, backend)?;
        view.followed = Some(Mutex::new(u64::MAX));
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
        let leases = LeaseTable::open(&directory.join(format::LEASES_FILE), true)?;
        let path = directory.join(format::GENERATION_FILE);
        let generation = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| StoreError::io("opening", path, source))?;
        Ok(Self {
            directory: directory.into(),
            superblock,
            index,
            backend,
            leases,
            generation,
            followed: None,
            open: Mutex::default(),
            scratch: None,
        })
    }

    /// The store's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The store's superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Number of commits since the store was made, as far as this view can tell without looking
    /// into the index. A change means that listings may have changed.
    pub fn generation(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        let read = self.generation.read_at(&mut bytes, 0).map_err(|source| {
            StoreError::io(
                "reading",
                self.directory.join(format::GENERATION_FILE),
                source,
            )
        })?;
        Ok(if read == bytes.len() {
            u64::from_le_bytes(bytes)
        } else {
            0
        })
    }

    /// Counts a commit. A lost count costs a follower nothing but a late look, so it is not synced.
    pub(crate) fn advance_generation(&self) -> Result<()> {
        let next = self.generation()?.wrapping_add(1);
        FileExt::write_all_at(&self.generation, &next.to_le_bytes(), 0).map_err(|source| {
            StoreError::io(
                "writing",
                self.directory.join(format::GENERATION_FILE),
                source,
            )
        })
    }

    /// Makes everything committed before the call visible. Does nothing in the writing process.
    pub fn refresh(&self) -> Result<()> {
        let Some(followed) = &self.followed else {
            return Ok(());
        };
        // Read before catching up: a commit in between is then seen twice rather than never.
        let now = self.generation()?;
        let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
        if *followed != now {
            self.index.catch_up()?;
            *followed = now;
        }
        Ok(())
    }

    /// The record of an object.
    pub fn object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        self.index.object(id)
    }

    /// Where a page is kept.
    pub fn page(&self, id: &PageId) -> Result<Option<Location>> {
        self.index.page(id)
    }

    /// The record of a library version.
    pub fn library(&self, library: &LibraryRef) -> Result<Option<LibraryRecord>> {
        self.index.library(library)
    }

    /// All library versions in order of name.
    pub fn libraries(&self) -> Result<Vec<(LibraryRef, LibraryRecord)>> {
        self.index.libraries("")
    }

    /// All versions of one library.
    pub fn library_versions(&self, name: &str) -> Result<Vec<(LibraryRef, LibraryRecord)>> {
        self.index.libraries(&format!("{name}@"))
    }

    /// Images that use a library version, tag by tag.
    pub fn library_users(&self, library: &LibraryRef) -> Result<Vec<ImageRef>> {
        let mut tags = Vec::new();
        for manifest in self.index.users_of(library)? {
            tags.extend(self.index.tags_of(manifest)?);
        }
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    /// All tags in order of name.
    pub fn tags(&self) -> Result<Vec<(ImageRef, TagRecord)>> {
        self.index.tags("")
    }

    /// All tags of one image name.
    pub fn tags_of_name(&self, name: &str) -> Result<Vec<(ImageRef, TagRecord)>> {
        self.index.tags(&format!("{name}:"))
    }

    /// A tag and the manifest it points at.
    pub fn image(&self, image: &ImageRef) -> Result<Option<(TagRecord, ImageManifest)>> {
        let Some(tag) = self.index.tag(image)? else {
            return Ok(None);
        };
        let manifest = self.index.manifest(tag.manifest)?.ok_or_else(|| {
            StoreError::Corrupt(format!(
                "image/{image} points at no manifest ({})",
                tag.manifest
            ))
        })?;
        Ok(Some((tag, manifest)))
    }

    /// Tags that point at a manifest.
    pub fn tags_of_manifest(&self, manifest: ObjectId) -> Result<Vec<ImageRef>> {
        self.index.tags_of(manifest)
    }

    /// The map that a VMM works from.
    pub fn image_map(&self, manifest: &ImageManifest) -> Result<ImageMap> {
        let mut objects = BTreeMap::new();
        for id in manifest.description.objects().into_keys() {
            let record = self.object(id)?.ok_or_else(|| missing_object(id))?;
            objects.insert(id, record.map);
        }
        Ok(ImageMap {
            format: IMAGE_MAP_FORMAT,
            description: manifest.description.clone(),
            objects,
        })
    }

    /// All segments that the index knows.
    pub fn segments(&self) -> Result<Vec<(SegmentId, SegmentRecord)>> {
        self.index.segments()
    }

    /// The record of a segment.
    pub fn segment(&self, id: SegmentId) -> Result<Option<SegmentRecord>> {
        self.index.segment(id)
    }

    /// Bytes of disk that a segment takes up.
    pub fn segment_disk_usage(&self, id: SegmentId) -> Result<u64> {
        self.backend.disk_usage(id)
    }

    /// Every address reservation, oldest first.
    pub fn reservations(&self) -> Result<Vec<Reservation>> {
        self.index.reservations()
    }

    /// Every token record.
    pub fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.index.tokens()
    }

    /// The collection epoch: grows by one with every collection.
    pub fn epoch(&self) -> Result<u64> {
        self.index.epoch()
    }

    /// Calls `visit` with every page of the index.
    pub fn for_each_page(&self, visit: impl FnMut(PageId, Location) -> Result<()>) -> Result<()> {
        self.index.for_each_page(visit)
    }

    /// Calls `visit` with every densely stored window.
    pub fn for_each_window(
        &self,
        visit: impl FnMut(WindowId, Location) -> Result<()>,
    ) -> Result<()> {
        self.index.for_each_window(visit)
    }

    /// Calls `visit` with every object.
    pub fn for_each_object(
        &self,
        visit: impl FnMut(ObjectId, ObjectRecord) -> Result<()>,
    ) -> Result<()> {
        self.index.for_each_object(visit)
    }

    /// Calls `visit` with every image manifest.
    pub fn for_each_manifest(
        &self,
        visit: impl FnMut(ObjectId, ImageManifest) -> Result<()>,
    ) -> Result<()> {
        self.index.for_each_manifest(visit)
    }

    /// Calls `visit` with every entry of the index of references.
    pub fn for_each_reference(&self, visit: impl FnMut(Reference) -> Result<()>) -> Result<()> {
        self.index.for_each_reference(visit)
    }

    /// Every segment that has a file, whether the index knows it or not.
    pub fn segment_files(&self) -> Result<Vec<SegmentId>> {
        self.backend.list()
    }

    /// Reads the superblock again and checks it.
    pub fn check_superblock(&self) -> Result<()> {
        let found = read_superblock(&self.directory, false)?;
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

    /// Looks something up and holds all objects and segments it names: `look` is asked again once
    /// they are held, until it names the same ones twice, so that nothing can have been collected
    /// in between. `None` when there is no such thing.
    pub fn hold<T>(
        &self,
        mut look: impl FnMut(&Self) -> Result<Option<(T, Vec<ObjectId>)>>,
    ) -> Result<Option<Held<T>>> {
        let mut held: Option<(Vec<ObjectId>, Vec<SegmentId>, Vec<Lease>)> = None;
        let mut vanished = 0;
        loop {
            self.refresh()?;
            let Some((value, objects)) = look(self)? else {
                return Ok(None);
            };
            let segments = match self.segments_of(&objects) {
                Ok(segments) => segments,
                // Collected between two of the look-ups: what named it has gone too.
                Err(StoreError::Corrupt(_)) if vanished < MOST_VANISHED => {
                    vanished += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match held.take() {
                Some((held_objects, held_segments, leases))
                    if held_objects == objects && held_segments == segments =>
                {
                    return Ok(Some(Held {
                        value,
                        _leases: leases,
                    }));
                }
                _ => {}
            }
            let mut leases = Vec::with_capacity(objects.len() + segments.len());
            for object in &objects {
                leases.push(self.leases.acquire(*object)?);
            }
            for segment in &segments {
                leases.push(self.leases.acquire(*segment)?);
            }
            held = Some((objects, segments, leases));
        }
    }

    fn segments_of(&self, objects: &[ObjectId]) -> Result<Vec<SegmentId>> {
        let mut segments = Vec::new();
        for id in objects {
            let record = self.object(*id)?.ok_or_else(|| missing_object(*id))?;
            segments.extend(record.map.extents().iter().map(|extent| extent.segment));
        }
        segments.sort_unstable();
        segments.dedup();
        Ok(segments)
    }

    /// A segment's file, shared with whoever else has it open.
    pub(crate) fn segment_file(&self, id: SegmentId) -> Result<Arc<dyn SegmentFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&id).and_then(Weak::upgrade) {
            return Ok(file);
        }
        open.retain(|_, file| file.strong_count() > 0);
        let file = self.backend.open(id, false)?;
        open.insert(id, Arc::downgrade(&file));
        Ok(file)
    }

    /// Reads bytes of a file by its map, from `offset` on; fewer at the file's end.
    pub fn read(&self, map: &ExtentMap, offset: u64, length: usize) -> Result<Vec<u8>> {
        let available = map.length.saturating_sub(offset).min(length as u64);
        let mut buffer = vec![0; available as usize];
        if available == 0 {
            return Ok(buffer);
        }
        let first_page = offset / PAGE_SIZE;
        let last_page = (offset + available - 1) / PAGE_SIZE;
        for extent in map.slice(first_page, last_page - first_page + 1) {
            let extent_start = extent.file_page * PAGE_SIZE;
            let from = extent_start.max(offset);
            let to = (extent.end_page() * PAGE_SIZE).min(offset + available);
            let part = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            let position = extent.slot.byte_offset() + (from - extent_start);
            self.segment_file(extent.segment)?
                .read_exact_at(part, position)
                .map_err(|source| {
                    StoreError::io("reading the segment", extent.segment.to_string(), source)
                })?;
        }
        Ok(buffer)
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

fn missing_object(id: ObjectId) -> StoreError {
    StoreError::Corrupt(format!("object {id} is referred to, and is not there"))
}

/// Reads and checks the superblock of the store in `directory`.
pub(crate) fn read_superblock(directory: &Path, writable: bool) -> Result<Superblock> {
    let path = directory.join(format::SUPERBLOCK_FILE);
    let not_a_store = |why: String| StoreError::NotAStore {
        path: directory.into(),
        why,
    };
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(not_a_store("it has no superblock".into()));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(not_a_store("it is not a directory".into()));
        }
        Err(source) => return Err(StoreError::io("reading", path, source)),
    };
    Superblock::decode(&bytes, writable).map_err(|error| match error {
        SuperblockError::Damaged(why) => not_a_store(why),
        SuperblockError::Unsupported(what) => StoreError::Unsupported {
            path: directory.into(),
            what,
        },
    })
}
