//! What is taken in: objects as lists of page digests, the announcement of an upload, its pages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use pool_core::description::{Description, Slide};
use pool_core::digest::{ObjectId, PageId};
use pool_core::name::{ImageRef, LibraryRef, Named};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW, PageCount};
use serde::{Deserialize, Serialize};

use crate::backend::SegmentFile;
use crate::error::{Result, StoreError};
use crate::page_digest;
use crate::placement::Placement;

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
        thread::available_parallelism().map_or(1, usize::from)
    };
    let mut ids = Vec::with_capacity(pages.len() + 1);
    thread::scope(|scope| {
        let mut parts = pages.chunks(pages.len().div_ceil(threads).max(1));
        let first = parts.next().unwrap_or_default();
        let others: Vec<_> = parts
            .map(|part| {
                let thread = thread::Builder::new().spawn_scoped(scope, || whole_page_ids(part));
                (part, thread)
            })
            .collect();
        ids.extend(whole_page_ids(first));
        for (part, thread) in others {
            ids.extend(match thread {
                // Hashing does not fail; should it, the panic goes on here.
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // As many as there can be.
                Err(_) => whole_page_ids(part),
            });
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

/// Content that is at hand, with its digest: what [`crate::Store::ingest`] takes.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    pub(crate) id: ObjectId,
    pub(crate) bytes: &'a [u8],
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

    pub(crate) fn announce(&self) -> UploadObject {
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

impl Target {
    /// Objects that it refers to, each with the bytes of it that must exist.
    pub fn required_objects(&self) -> BTreeMap<ObjectId, u64> {
        let mut required = BTreeMap::new();
        match self {
            Self::Library { object, .. } => {
                required.insert(*object, 0);
            }
            Self::Image {
                description, data, ..
            } => {
                required.insert(description.image.digest, description.image.length);
                if let Some(data) = data {
                    required.entry(*data).or_insert(0);
                }
                if let Some(Slide::Record { object, length }) = &description.slide {
                    required.insert(*object, *length);
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

    /// The name that the upload is to have.
    pub fn name(&self) -> Named {
        match self {
            Self::Image { image, .. } => Named::Image(image.clone()),
            Self::Library { library, .. } => Named::Library(library.clone()),
        }
    }
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
    pub(crate) fn validate(&self) -> Result<()> {
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

    /// Takes a page of zeros for one that is announced by its digest, too, as by who hashes every
    /// page: it is never stored, and a window has the name of what is in it.
    pub(crate) fn leave_zeros_out(&mut self) {
        let zeros = PageId::of(&[0; PAGE_SIZE as usize]);
        let objects = self.objects.iter_mut();
        for page in objects.flat_map(|object| &mut object.pages) {
            page.take_if(|id| *id == zeros);
        }
    }

    fn page_ids(&self) -> impl Iterator<Item = PageId> + '_ {
        self.objects
            .iter()
            .flat_map(|object| object.pages.iter().flatten().copied())
    }
}

/// An upload under way.
#[derive(Debug)]
pub struct Upload {
    manifest: UploadManifest,
    /// Epoch in which the missing pages were determined.
    epoch: u64,
    announced: HashSet<PageId>,
    /// The pages that were sent, one behind the other.
    file: Arc<dyn SegmentFile>,
    /// Where each is in the file.
    offsets: Mutex<HashMap<PageId, u64>>,
}

impl Upload {
    /// An upload that was announced by `manifest` and puts its pages into `file`.
    pub(crate) fn new(manifest: UploadManifest, epoch: u64, file: Arc<dyn SegmentFile>) -> Self {
        let announced = manifest.page_ids().collect();
        Self {
            manifest,
            epoch,
            announced,
            file,
            offsets: Mutex::default(),
        }
    }

    /// The file that pages sent are in.
    pub(crate) fn file(&self) -> &dyn SegmentFile {
        self.file.as_ref()
    }

    /// The pages sent so far, and where each is in the file. To be held for a look: a commit asks with the writer's
    /// lock in its hands.
    pub(crate) fn offsets(&self) -> MutexGuard<'_, HashMap<PageId, u64>> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        if page::is_zero(bytes) {
            // Announced or not, it is not kept.
            return Ok(());
        }
        if !self.announced.contains(&id) {
            return Err(StoreError::UnexpectedPage(id));
        }
        let mut offsets = self.offsets();
        if offsets.contains_key(&id) {
            return Ok(());
        }
        let offset = offsets.len() as u64 * PAGE_SIZE;
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| StoreError::io("writing", "an upload's temporary file", source))?;
        offsets.insert(id, offset);
        Ok(())
    }
}

/// What a commit did, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitSummary {
    /// The name is new.
    pub created: bool,
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
