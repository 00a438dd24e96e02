//! What is taken in: objects as lists of page digests, the announcement of an upload, its pages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pool_core::description::{Description, Slide};
use pool_core::digest::{ObjectId, PageId};
use pool_core::name::{ImageRef, LibraryRef, Named};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW, PageCount};
use serde::{Deserialize, Serialize};

use crate::error::{Result, StoreError};
use crate::look::Look;
use crate::object_digest::object_id;
use crate::page_digest::{self, Page};
use crate::parallel;
use crate::placement::Placement;
use crate::staging::Staging;

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
            id: object_id(content),
            length: content.len() as u64,
            placement,
            pages: page_ids(content),
        }
    }
}

/// The digest of each page of `content`, the last padded with zeros; `None` is a page of zeros.
pub fn page_ids(content: &[u8]) -> Vec<Option<PageId>> {
    let (pages, tail) = content.as_chunks::<{ PAGE_SIZE as usize }>();
    let threads = parallel::threads_for(content.len());
    let mut ids = parallel::in_parts(pages, threads, whole_page_ids);
    if !tail.is_empty() {
        ids.extend(whole_page_ids(&[padded(tail)]));
    }
    ids
}

fn whole_page_ids(pages: &[Page]) -> Vec<Option<PageId>> {
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
            id: object_id(bytes),
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
        let required = self.target.required_objects();
        let stray = |object: &&UploadObject| !required.contains_key(&object.id);
        if let Some(stray) = self.objects.iter().find(stray) {
            return bad(format!(
                "object {} is announced, and nothing that is pushed refers to it: leave it out",
                stray.id
            ));
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
    staging: Staging,
    /// Where each page is there.
    offsets: Mutex<HashMap<PageId, u64>>,
    /// What was found when the pages were looked up last.
    look: Mutex<Option<Look>>,
}

impl Upload {
    /// An upload that was announced by `manifest` and puts its pages into `staging`.
    pub(crate) fn new(manifest: UploadManifest, epoch: u64, staging: Staging) -> Self {
        let pages = manifest.objects.iter().map(|object| object.pages.len());
        let mut announced = HashSet::with_capacity(pages.sum());
        announced.extend(manifest.page_ids());
        Self {
            manifest,
            epoch,
            announced,
            staging,
            offsets: Mutex::default(),
            look: Mutex::default(),
        }
    }

    /// Where pages sent are.
    pub(crate) fn staging(&self) -> &Staging {
        &self.staging
    }

    /// The pages sent so far, and where each is there. To be held for a look: a commit asks with the writer's
    /// lock in its hands.
    pub(crate) fn offsets(&self) -> MutexGuard<'_, HashMap<PageId, u64>> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found when its pages were looked up last, for the next time.
    pub(crate) fn keep_look(&self, look: Look) {
        *self.look.lock().unwrap_or_else(PoisonError::into_inner) = Some(look);
    }

    /// The same, to be looked at.
    pub(crate) fn take_look(&self) -> Option<Look> {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        look.take()
    }

    /// The collection epoch in which the upload began.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the upload announced.
    pub fn manifest(&self) -> &UploadManifest {
        &self.manifest
    }

    /// Takes in one page: see [`Upload::add_pages`].
    pub fn add_page(&self, id: PageId, bytes: &[u8]) -> Result<()> {
        self.add_pages([(id, bytes)])
    }

    /// Takes in pages of exactly 4 096 bytes, all before the first that is refused. A page may be sent again; several threads
    /// may send at once. The more there are in one call, the less each costs.
    pub fn add_pages<'a>(&self, pages: impl IntoIterator<Item = (PageId, &'a [u8])>) -> Result<()> {
        let (mut ids, mut whole, mut refusal) = (Vec::new(), Vec::<&Page>::new(), Ok(()));
        for (id, bytes) in pages {
            let Ok(page) = bytes.try_into() else {
                refusal = Err(StoreError::PageMismatch {
                    expected: id,
                    found: PageId::of(bytes),
                });
                break;
            };
            ids.push(id);
            whole.push(page);
        }
        let mut digests = Vec::with_capacity(whole.len());
        page_digest::digest_pages(&whole, &mut digests);
        let mut accepted = Vec::with_capacity(whole.len());
        for ((id, page), found) in ids.into_iter().zip(whole).zip(digests) {
            if found != id {
                refusal = Err(StoreError::PageMismatch {
                    expected: id,
                    found,
                });
                break;
            }
            // Announced or not, a page of zeros is not kept.
            if page::is_zero(page) {
                continue;
            }
            if !self.announced.contains(&id) {
                refusal = Err(StoreError::UnexpectedPage(id));
                break;
            }
            accepted.push((id, page));
        }
        self.keep(accepted)?;
        refusal
    }

    /// Keeps those pages that are not there, in one piece.
    fn keep(&self, mut pages: Vec<(PageId, &Page)>) -> Result<()> {
        let mut listed = HashSet::new();
        let offsets = self.offsets();
        pages.retain(|(id, _)| !offsets.contains_key(id) && listed.insert(*id));
        drop(offsets);
        if pages.is_empty() {
            return Ok(());
        }
        let content: Vec<_> = pages.iter().map(|(_, page)| *page).collect();
        // Without a lock: what another one sends of the same meanwhile is there twice, and one of them is found.
        let first = self.staging.put(&content)?;
        let mut offsets = self.offsets();
        for ((id, _), offset) in pages.iter().zip((first..).step_by(PAGE_SIZE as usize)) {
            offsets.entry(*id).or_insert(offset);
        }
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
