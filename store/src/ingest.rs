//! Taking content in: negotiation, staging, commit.
//!
//! An [`Upload`] announces objects as lists of page digests. Those pages that the pool lacks are
//! sent, each checked against its digest, and kept in a nameless file that ends with the upload.
//! [`Store::commit`] then looks all pages up *again*, so that a collection in the meantime costs
//! at most another round, places what is new, makes it durable and names it, in that order. An
//! upload that is given up leaves nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use pool_core::description::Description;
use pool_core::digest::{ObjectId, PageId};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW, PageCount};
use serde::{Deserialize, Serialize};

use crate::error::{Result, StoreError};
use crate::intake::{Intake, Sent, Staging};
use crate::placement::Placement;
use crate::{Store, Writer, page_digest, references};

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

/// Content from which on cutting into pages is worth a thread for each processor.
const WORTH_THREADS: usize = 4 << 20;

/// The digest of each page of `content`, the last padded with zeros; `None` is a page of zeros.
pub fn page_ids(content: &[u8]) -> Vec<Option<PageId>> {
    let (pages, tail) = content.as_chunks::<{ PAGE_SIZE as usize }>();
    let threads = if content.len() < WORTH_THREADS {
        1
    } else {
        std::thread::available_parallelism().map_or(1, usize::from)
    };
    let mut ids = Vec::with_capacity(pages.len() + 1);
    std::thread::scope(|scope| {
        let mut parts = pages.chunks(pages.len().div_ceil(threads).max(1));
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts
            .map(|part| scope.spawn(|| whole_page_ids(part)))
            .collect();
        ids.extend(whole_page_ids(first));
        for other in others {
            // Hashing does not fail; should it, the panic goes on here.
            ids.extend(
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            );
        }
    });
    if !tail.is_empty() {
        ids.extend(whole_page_ids(&[padded(tail)]));
    }
    ids
}

fn whole_page_ids(pages: &[page_digest::Page]) -> Vec<Option<PageId>> {
    let mut ids = Vec::with_capacity(pages.len());
    let (mut stored, mut digests) = (Vec::new(), Vec::new());
    // A few at a time, so that the bytes are still in the cache when they are hashed.
    for pages in pages.chunks(64) {
        stored.clear();
        digests.clear();
        for page in pages {
            if !page::is_zero(page) {
                stored.push((ids.len(), page));
            }
            ids.push(None);
        }
        let bytes: Vec<_> = stored.iter().map(|(_, page)| *page).collect();
        page_digest::digest_pages(&bytes, &mut digests);
        for ((at, _), digest) in stored.iter().zip(&digests) {
            ids[*at] = Some(*digest);
        }
    }
    ids
}

/// A page whose first bytes are `bytes` and whose rest is zero.
pub fn padded(bytes: &[u8]) -> [u8; PAGE_SIZE as usize] {
    let mut page = [0; PAGE_SIZE as usize];
    page[..bytes.len()].copy_from_slice(bytes);
    page
}

/// Content that is at hand, with its digest: what [`Store::ingest`] takes.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    id: ObjectId,
    bytes: &'a [u8],
    placement: Placement,
}

impl<'a> Content<'a> {
    /// Hashes `bytes`.
    pub fn of(bytes: &'a [u8], placement: Placement) -> Self {
        Self {
            id: ObjectId::of(bytes),
            bytes,
            placement,
        }
    }

    /// Digest of the bytes.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    fn announce(&self) -> UploadObject {
        UploadObject {
            id: self.id,
            length: self.bytes.len() as u64,
            placement: self.placement,
            pages: page_ids(self.bytes),
        }
    }
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
        if let Target::Image { description, .. } = &self.target {
            let mut contents = HashMap::new();
            for used in &description.libraries {
                let first = *contents.entry(&used.library).or_insert(used.object);
                if first != used.object {
                    let library = &used.library;
                    return bad(format!("it uses {library} with two different contents"));
                }
            }
        }
        Ok(())
    }

    fn page_ids(&self) -> impl Iterator<Item = PageId> + '_ {
        self.objects
            .iter()
            .flat_map(|object| object.pages.iter().flatten().copied())
    }

    /// Objects that the target refers to, each with the bytes of it that must exist.
    pub(crate) fn required_objects(&self) -> BTreeMap<ObjectId, u64> {
        let mut required = BTreeMap::new();
        match &self.target {
            Target::Library { object, .. } => {
                required.insert(*object, 0);
            }
            Target::Image {
                description, data, ..
            } => {
                required.insert(description.image.digest, description.image.length);
                if let Some(data) = data {
                    required.entry(*data).or_insert(0);
                }
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
    /// Of these, pages of objects that the pool had whole.
    pub known_pages: PageCount,
    /// Of the others, pages of zeros, which are never stored.
    pub zero_pages: PageCount,
    /// Distinct pages among those left.
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
        writer.settle(&self.view.index, result.is_ok());
        result
    }

    fn commit_locked(&self, writer: &mut Writer, upload: &Upload) -> Result<CommitSummary> {
        let manifest = &upload.manifest;
        let missing = self.missing_pages(upload)?;
        if !missing.is_empty() {
            return Err(StoreError::MissingPages(missing));
        }
        let staged = upload.staged.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_in(writer, manifest, Sent::Staged(&staged), PageCount(0))
    }

    /// Places, syncs and names everything in one batch. The caller commits or rolls back the
    /// appender. `known` are pages of objects that were left out because the pool has them.
    fn take_in(
        &self,
        writer: &mut Writer,
        manifest: &UploadManifest,
        sent: Sent<'_>,
        known: PageCount,
    ) -> Result<CommitSummary> {
        let mut intake = Intake::new(self, &mut writer.appender, sent);
        intake.summary.pages = known;
        intake.summary.known_pages = known;
        // Dense windows first: pages that they hold need no place of their own.
        let mut objects: Vec<_> = manifest.objects.iter().collect();
        objects.sort_by_key(|object| object.placement == Placement::Sparse);
        for object in objects {
            intake.take(object)?;
        }
        intake.check_required(manifest)?;
        let (mut batch, objects, summary) = intake.finish();
        references::name_target(self, &mut batch, &manifest.target)?;
        writer.appender.sync()?;
        writer.appender.record(&mut batch);
        batch.commit()?;
        if let Some(barrier) = &mut writer.barrier {
            for (id, record) in &objects {
                barrier.protect(*id, record.map.extents());
            }
        }
        self.view.advance_generation()?;
        Ok(summary)
    }

    /// Stores content that is at hand, all in one. The digests in `contents` were computed here,
    /// so nothing is read back to be checked, and content that the pool has is not even cut into
    /// pages.
    pub fn ingest(&self, target: Target, contents: &[Content<'_>]) -> Result<CommitSummary> {
        let bytes = contents.iter().map(|content| (content.id, content.bytes));
        let bytes: HashMap<_, _> = bytes.collect();
        let mut manifest = UploadManifest {
            target,
            objects: Vec::new(),
        };
        let mut announced = HashSet::new();
        loop {
            let mut known = PageCount(0);
            let mut unknown = Vec::new();
            {
                let mut writer = self.writer();
                for content in contents {
                    if announced.contains(&content.id) {
                        continue;
                    }
                    if self.object(content.id)?.is_some() {
                        known += PageCount::covering(content.bytes.len() as u64);
                    } else {
                        unknown.push(content);
                    }
                }
                if unknown.is_empty() {
                    manifest.validate()?;
                    let sent = Sent::AtHand(&bytes);
                    let result = self.take_in(&mut writer, &manifest, sent, known);
                    writer.settle(&self.view.index, result.is_ok());
                    return result;
                }
            }
            // Hashing pages needs no lock, and what is announced now is not asked about again.
            for content in unknown {
                if announced.insert(content.id) {
                    manifest.objects.push(content.announce());
                }
            }
        }
    }
}
