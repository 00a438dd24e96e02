//! Taking content in: negotiation, staging, commit.
//!
//! An [`Upload`] announces objects as lists of page digests. Those pages that the pool lacks are
//! sent, each checked against its digest, and kept in a nameless file that ends with the upload.
//! [`Store::commit`] then looks all pages up *again*, so that a collection in the meantime costs
//! at most another round, places what is new, makes it durable and names it, in that order. An
//! upload that is given up leaves nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::description::Description;
use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{Extent, ExtentMap, SegmentId};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW, PageCount, WINDOW_SIZE};
use serde::{Deserialize, Serialize};

use crate::backend::SegmentFile;
use crate::collection::Barrier;
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord};
use crate::index::Batch;
use crate::placement::{self, Placement, WindowPlan};
use crate::segment::Appender;
use crate::{Store, Writer, references};

/// Most pages that one upload may announce: 64 GiB.
pub const MAX_UPLOAD_PAGES: u64 = 1 << 24;

/// An object as an upload announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadObject {
    /// Digest of the content.
    pub id: ObjectId,
    /// Bytes.
    pub length: u64,
    /// How it wants to lie.
    pub placement: Placement,
    /// Digest of each page, the last padded with zeros; `None` is a page of zeros.
    pub pages: Vec<Option<PageId>>,
}

impl UploadObject {
    /// Announces `content`.
    pub fn of(content: &[u8], placement: Placement) -> Self {
        Self {
            id: ObjectId::of(content),
            length: content.len() as u64,
            placement,
            pages: page_ids(content),
        }
    }
}

/// The digest of each page of `content`, the last padded with zeros; `None` is a page of zeros.
pub fn page_ids(content: &[u8]) -> Vec<Option<PageId>> {
    content
        .chunks(PAGE_SIZE as usize)
        .map(|bytes| {
            if page::is_zero(bytes) {
                None
            } else if bytes.len() as u64 == PAGE_SIZE {
                Some(PageId::of(bytes))
            } else {
                Some(PageId::of(&padded(bytes)))
            }
        })
        .collect()
}

/// A page whose first bytes are `bytes` and whose rest is zero.
pub fn padded(bytes: &[u8]) -> [u8; PAGE_SIZE as usize] {
    let mut page = [0; PAGE_SIZE as usize];
    page[..bytes.len()].copy_from_slice(bytes);
    page
}

/// What an upload becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An image under a tag.
    Image {
        /// The tag.
        image: ImageRef,
        /// What lies where; its objects are announced or known.
        description: Box<Description>,
        /// The object with the writable ranges' initial contents, if there are any.
        data: Option<ObjectId>,
    },
    /// A library version.
    Library {
        /// Its name and version.
        library: LibraryRef,
        /// Its content.
        object: ObjectId,
    },
}

/// An announcement: what is to be stored, and under which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadManifest {
    /// What the upload becomes.
    pub target: Target,
    /// The objects that it consists of.
    pub objects: Vec<UploadObject>,
}

impl UploadManifest {
    /// Checks everything that can be checked without the store.
    fn validate(&self) -> Result<()> {
        let bad = |why: String| Err(StoreError::BadUpload(why));
        let mut total = 0u64;
        for object in &self.objects {
            let expected = PageCount::covering(object.length).0;
            total = total.saturating_add(expected);
            if object.pages.len() as u64 != expected {
                return bad(format!(
                    "object {} of {} bytes has {expected} pages, {} are listed",
                    object.id,
                    object.length,
                    object.pages.len()
                ));
            }
            if let Placement::Windows { phase } = object.placement
                && u64::from(phase) >= PAGES_PER_WINDOW
            {
                return bad(format!(
                    "object {} has phase {phase}, the largest is 511",
                    object.id
                ));
            }
        }
        if total > MAX_UPLOAD_PAGES {
            return bad(format!(
                "{total} pages are announced, the limit is {MAX_UPLOAD_PAGES}"
            ));
        }
        if let Target::Image { description, .. } = &self.target
            && let Err(error) = description.validate()
        {
            return bad(format!("its description is wrong: {error}"));
        }
        Ok(())
    }

    fn page_ids(&self) -> impl Iterator<Item = PageId> + '_ {
        self.objects
            .iter()
            .flat_map(|object| object.pages.iter().flatten().copied())
    }

    /// Objects that the target refers to, each with the bytes of it that must exist.
    fn required_objects(&self) -> BTreeMap<ObjectId, u64> {
        let mut required = BTreeMap::new();
        match &self.target {
            Target::Library { object, .. } => {
                required.insert(*object, 0);
            }
            Target::Image {
                description, data, ..
            } => {
                required.insert(description.image.digest, description.image.length);
                required.extend(data.map(|id| (id, 0)));
                for range in &description.ranges {
                    if let Some(source) = range.source {
                        let end = required.entry(source.object).or_insert(0);
                        *end = (*end).max(source.offset.saturating_add(range.length));
                    }
                }
            }
        }
        required
    }
}

/// An upload under way.
#[derive(Debug)]
pub struct Upload {
    manifest: UploadManifest,
    /// Epoch in which the missing pages were determined.
    epoch: u64,
    announced: HashSet<PageId>,
    staged: Mutex<Staging>,
}

#[derive(Debug)]
struct Staging {
    file: Arc<dyn SegmentFile>,
    offsets: HashMap<PageId, u64>,
}

impl Upload {
    /// The collection epoch in which the upload began.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the upload announced.
    pub fn manifest(&self) -> &UploadManifest {
        &self.manifest
    }

    /// Takes in one page of exactly 4 096 bytes. A page may be sent again; several threads may
    /// send at once.
    pub fn add_page(&self, id: PageId, bytes: &[u8]) -> Result<()> {
        let found = PageId::of(bytes);
        if found != id || bytes.len() as u64 != PAGE_SIZE {
            return Err(StoreError::PageMismatch {
                expected: id,
                found,
            });
        }
        if !self.announced.contains(&id) {
            return Err(StoreError::UnexpectedPage(id));
        }
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        if staged.offsets.contains_key(&id) {
            return Ok(());
        }
        let offset = staged.offsets.len() as u64 * PAGE_SIZE;
        staged
            .file
            .write_all_at(bytes, offset)
            .map_err(|source| StoreError::io("writing", "an upload's temporary file", source))?;
        staged.offsets.insert(id, offset);
        Ok(())
    }
}

/// What a commit did, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitSummary {
    /// Pages of all objects of the upload.
    pub pages: PageCount,
    /// Of these, pages of zeros, which are never stored.
    pub zero_pages: PageCount,
    /// Distinct pages among the others.
    pub distinct_pages: PageCount,
    /// Distinct pages that the pool did not have.
    pub new_pages: PageCount,
    /// Pages written to segments: new ones, and repeated ones of dense windows.
    pub written_pages: PageCount,
    /// Windows written densely.
    pub new_windows: u64,
    /// Windows that were there already.
    pub shared_windows: u64,
}

impl Store {
    /// Begins an upload.
    pub fn begin_upload(&self, manifest: UploadManifest) -> Result<Upload> {
        manifest.validate()?;
        let file = self.backend.temporary()?;
        let announced = manifest.page_ids().collect();
        Ok(Upload {
            manifest,
            epoch: self.epoch()?,
            announced,
            staged: Mutex::new(Staging {
                file,
                offsets: HashMap::new(),
            }),
        })
    }

    /// Pages of the upload that are neither stored nor sent, each once, in the order announced.
    pub fn missing_pages(&self, upload: &Upload) -> Result<Vec<PageId>> {
        let mut unknown = Vec::new();
        let mut seen = HashSet::new();
        for object in &upload.manifest.objects {
            if self.object(object.id)?.is_some() {
                continue;
            }
            unknown.extend(object.pages.iter().flatten().filter(|id| seen.insert(**id)));
        }
        let staged = upload.staged.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.retain(|id| !staged.offsets.contains_key(id));
        drop(staged);
        let mut missing = Vec::new();
        for chunk in unknown.chunks(4096) {
            let found = self.view.index.pages(chunk)?;
            missing.extend(
                chunk
                    .iter()
                    .zip(found)
                    .filter(|(_, at)| at.is_none())
                    .map(|(id, _)| *id),
            );
        }
        Ok(missing)
    }

    /// Stores and names what the upload announced. When pages are missing nothing has happened:
    /// send them and commit again.
    pub fn commit(&self, upload: &Upload) -> Result<CommitSummary> {
        let mut writer = self.writer();
        let result = self.commit_locked(&mut writer, upload);
        match &result {
            Ok(_) => writer.appender.committed(),
            Err(_) => writer.abandon(&self.view.index),
        }
        result
    }

    fn commit_locked(&self, writer: &mut Writer, upload: &Upload) -> Result<CommitSummary> {
        let manifest = &upload.manifest;
        let missing = self.missing_pages(upload)?;
        if !missing.is_empty() {
            return Err(StoreError::MissingPages(missing));
        }
        let staged = upload.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let mut intake = Intake {
            store: self,
            appender: &mut writer.appender,
            staged: &staged,
            placed: HashMap::new(),
            batch: self.view.index.batch(),
            objects: BTreeMap::new(),
            summary: CommitSummary::default(),
        };
        intake.count(manifest);
        // Dense windows first: pages that they hold need no place of their own.
        let mut objects: Vec<_> = manifest.objects.iter().collect();
        objects.sort_by_key(|object| object.placement == Placement::Sparse);
        for object in objects {
            intake.take(object)?;
        }
        intake.check_required(manifest)?;
        let Intake {
            mut batch,
            objects,
            summary,
            ..
        } = intake;
        drop(staged);

        references::name_target(self, &mut batch, &manifest.target)?;
        writer.appender.sync()?;
        writer.appender.record(&mut batch);
        batch.commit()?;
        if let Some(barrier) = &mut writer.barrier {
            record_in_barrier(barrier, &objects);
        }
        self.view.advance_generation()?;
        Ok(summary)
    }

    /// Stores content that is at hand, all in one: for uploads without negotiation.
    pub fn ingest(
        &self,
        target: Target,
        contents: &[(UploadObject, &[u8])],
    ) -> Result<CommitSummary> {
        let objects = contents.iter().map(|(object, _)| object.clone()).collect();
        let upload = self.begin_upload(UploadManifest { target, objects })?;
        loop {
            let missing: HashSet<_> = self.missing_pages(&upload)?.into_iter().collect();
            for (object, content) in contents {
                let pages = content.chunks(PAGE_SIZE as usize).zip(&object.pages);
                for (bytes, id) in pages.filter_map(|(bytes, id)| Some((bytes, (*id)?))) {
                    if missing.contains(&id) {
                        upload.add_page(id, &padded(bytes))?;
                    }
                }
            }
            match self.commit(&upload) {
                // A collection took a page that was known a moment ago: send that one too.
                Err(StoreError::MissingPages(_)) => {}
                other => return other,
            }
        }
    }
}

fn record_in_barrier(barrier: &mut Barrier, objects: &BTreeMap<ObjectId, ObjectRecord>) {
    for (id, record) in objects {
        barrier.protect(*id, record.map.extents());
    }
}

/// One commit's placing of pages.
struct Intake<'a, 'w> {
    store: &'a Store,
    appender: &'w mut Appender,
    staged: &'w Staging,
    /// Pages placed by this commit.
    placed: HashMap<PageId, Location>,
    batch: Batch<'a>,
    /// Every object of the upload, known ones included.
    objects: BTreeMap<ObjectId, ObjectRecord>,
    summary: CommitSummary,
}

impl Intake<'_, '_> {
    fn count(&mut self, manifest: &UploadManifest) {
        let all: u64 = manifest
            .objects
            .iter()
            .map(|object| object.pages.len() as u64)
            .sum();
        let stored = manifest.page_ids().count() as u64;
        self.summary.pages = PageCount(all);
        self.summary.zero_pages = PageCount(all - stored);
        self.summary.distinct_pages =
            PageCount(manifest.page_ids().collect::<HashSet<_>>().len() as u64);
    }

    fn take(&mut self, object: &UploadObject) -> Result<()> {
        if self.objects.contains_key(&object.id) {
            return Ok(());
        }
        let record = match self.store.object(object.id)? {
            Some(known) if known.map.length == object.length => known,
            Some(known) => {
                return Err(StoreError::BadUpload(format!(
                    "object {} has {} bytes, not {}",
                    object.id, known.map.length, object.length
                )));
            }
            None => self.place(object)?,
        };
        self.objects.insert(object.id, record);
        Ok(())
    }

    /// Places a new object and checks that its pages make it up.
    fn place(&mut self, object: &UploadObject) -> Result<ObjectRecord> {
        let plans = placement::plan(object.placement, &object.pages, self.store.policy);
        let mut extents = Vec::new();
        let mut hasher = blake3::Hasher::new();
        let mut remaining = object.length;
        for part in plans {
            let pages = &object.pages[part.first_page as usize..][..part.count as usize];
            match part.dense {
                Some(_) => {
                    self.place_window(&part, pages, &mut hasher, &mut remaining, &mut extents)?;
                }
                None => {
                    self.place_pages(&part, pages, &mut hasher, &mut remaining, &mut extents)?;
                }
            }
        }
        let found = ObjectId::from(hasher.finalize());
        if found != object.id {
            return Err(StoreError::ObjectMismatch {
                expected: object.id,
                found,
            });
        }
        let map = ExtentMap::new(object.length, extents)
            .map_err(|error| StoreError::Extents(object.id, error))?;
        let phase = match object.placement {
            Placement::Sparse => 0,
            Placement::Windows { phase } => phase,
        };
        let record = ObjectRecord { phase, map };
        self.batch.put_object(object.id, &record);
        Ok(record)
    }

    fn place_window(
        &mut self,
        part: &WindowPlan,
        pages: &[Option<PageId>],
        hasher: &mut blake3::Hasher,
        remaining: &mut u64,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let id = part.dense.expect("only dense parts come here");
        let mut content = vec![0; WINDOW_SIZE as usize];
        let start = (part.position * PAGE_SIZE) as usize;
        let inside = &mut content[start..start + (part.count * PAGE_SIZE) as usize];
        for (page, id) in inside.chunks_mut(PAGE_SIZE as usize).zip(pages) {
            self.fetch(id.as_ref(), page)?;
        }
        hash_content(hasher, inside, remaining);
        let window = match self.store.view.index.window(&id)? {
            Some(known) => {
                self.summary.shared_windows += 1;
                known
            }
            None => self.write_window(id, &content, part, pages)?,
        };
        extents.push(Extent {
            file_page: part.first_page,
            segment: window.segment,
            slot: pool_core::Slot(window.slot.0 + part.position as u32),
            count: part.count as u32,
            dense: true,
        });
        Ok(())
    }

    fn write_window(
        &mut self,
        id: pool_core::digest::WindowId,
        content: &[u8],
        part: &WindowPlan,
        pages: &[Option<PageId>],
    ) -> Result<Location> {
        let window = self.appender.append_window(content)?;
        self.batch.put_window(id, window);
        self.summary.new_windows += 1;
        self.summary.written_pages += PageCount(pages.iter().flatten().count() as u64);
        for (at, id) in pages.iter().enumerate() {
            let Some(id) = id else { continue };
            if self.locate(id)?.is_none() {
                let slot = window.slot.0 + part.position as u32 + at as u32;
                self.record_new(
                    *id,
                    Location {
                        segment: window.segment,
                        slot: pool_core::Slot(slot),
                    },
                );
            }
        }
        Ok(window)
    }

    fn place_pages(
        &mut self,
        part: &WindowPlan,
        pages: &[Option<PageId>],
        hasher: &mut blake3::Hasher,
        remaining: &mut u64,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        // A window's worth at a time bounds the memory that a large object takes.
        for (nth, pages) in pages.chunks(PAGES_PER_WINDOW as usize).enumerate() {
            let first_page = part.first_page + nth as u64 * PAGES_PER_WINDOW;
            let mut content = vec![0; pages.len() * PAGE_SIZE as usize];
            let mut fresh: Vec<PageId> = Vec::new();
            let mut fresh_content = Vec::new();
            let mut listed = HashSet::new();
            for (page, id) in content.chunks_mut(PAGE_SIZE as usize).zip(pages) {
                self.fetch(id.as_ref(), page)?;
                if let Some(id) = id
                    && self.locate(id)?.is_none()
                    && listed.insert(*id)
                {
                    fresh.push(*id);
                    fresh_content.extend_from_slice(page);
                }
            }
            hash_content(hasher, &content, remaining);
            self.write_pages(&fresh, &fresh_content)?;
            for (at, id) in pages.iter().enumerate() {
                let Some(id) = id else { continue };
                let location = self
                    .locate(id)?
                    .ok_or_else(|| StoreError::MissingPages(vec![*id]))?;
                extents.push(Extent {
                    file_page: first_page + at as u64,
                    segment: location.segment,
                    slot: location.slot,
                    count: 1,
                    dense: false,
                });
            }
        }
        Ok(())
    }

    fn write_pages(&mut self, ids: &[PageId], content: &[u8]) -> Result<()> {
        let mut ids = ids.iter();
        for (first, count) in self.appender.append_pages(content)? {
            for nth in 0..count {
                let id = ids.next().expect("one run's pages for each page given");
                let slot = pool_core::Slot(first.slot.0 + nth);
                self.record_new(
                    *id,
                    Location {
                        segment: first.segment,
                        slot,
                    },
                );
            }
        }
        self.summary.written_pages += PageCount(content.len() as u64 / PAGE_SIZE);
        Ok(())
    }

    fn record_new(&mut self, id: PageId, location: Location) {
        self.placed.insert(id, location);
        self.batch.put_page(id, location);
        self.summary.new_pages += PageCount(1);
    }

    fn locate(&self, id: &PageId) -> Result<Option<Location>> {
        match self.placed.get(id) {
            Some(location) => Ok(Some(*location)),
            None => self.store.view.index.page(id),
        }
    }

    /// Reads a page from what was sent, or from the store; `None` leaves zeros.
    fn fetch(&self, id: Option<&PageId>, page: &mut [u8]) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        if let Some(offset) = self.staged.offsets.get(id) {
            return self
                .staged
                .file
                .read_exact_at(page, *offset)
                .map_err(|source| StoreError::io("reading", "an upload's temporary file", source));
        }
        let location = self
            .locate(id)?
            .ok_or_else(|| StoreError::MissingPages(vec![*id]))?;
        self.store.read_page(location, page)
    }

    /// Every object that the target refers to must be in the upload or in the store, and be long
    /// enough for the ranges that refer to it.
    fn check_required(&mut self, manifest: &UploadManifest) -> Result<()> {
        for (id, needed) in manifest.required_objects() {
            let record = match self.objects.get(&id) {
                Some(record) => record.clone(),
                None => self.store.object(id)?.ok_or_else(|| {
                    StoreError::BadUpload(format!(
                        "it refers to object {id}, which is neither announced nor stored"
                    ))
                })?,
            };
            let enough = PageCount::covering(needed) <= record.map.page_count();
            if !enough {
                return Err(StoreError::BadUpload(format!(
                    "it refers to {needed} bytes of object {id}, which has {}",
                    record.map.length
                )));
            }
            self.objects.insert(id, record);
        }
        Ok(())
    }
}

/// Feeds the true bytes of padded pages to the object's digest.
fn hash_content(hasher: &mut blake3::Hasher, padded: &[u8], remaining: &mut u64) {
    let length = (padded.len() as u64).min(*remaining);
    hasher.update(&padded[..length as usize]);
    *remaining -= length;
}

/// Segments that a set of extents touches.
pub(crate) fn segments_of(extents: &[Extent]) -> HashSet<SegmentId> {
    extents.iter().map(|extent| extent.segment).collect()
}
