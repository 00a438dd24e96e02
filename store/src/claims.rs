//! What an upload claims of its objects: that the pages it lists make them up.
//!
//! Whether they do takes a look at every byte, which nobody else should have to wait for. So it is found out before the
//! writer's lock is taken: what is true of a list of digests stays true, wherever the pages are by then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::SegmentId;
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW};

use crate::Store;
use crate::backend::SegmentFile;
use crate::error::{Result, StoreError};
use crate::format::Location;
use crate::upload::{Upload, UploadObject};

/// Most segments that one reader keeps open.
const MOST_OPEN: usize = 64;

/// Pages that are looked up in one go.
const LOOKED_UP: usize = 4096;

impl Store {
    /// The objects of an upload that its pages were found to make up, wherever it lists them; an object of which they
    /// make up another one is refused. Nothing is said of objects that the pool has, and of those with pages that are
    /// missing, or that a collection takes meanwhile.
    pub(crate) fn proven(&self, upload: &Upload) -> Result<HashSet<ObjectId>> {
        let mut reader = PageReader::new(self, upload);
        let (mut proven, mut open) = (HashSet::new(), HashSet::new());
        for object in &upload.manifest().objects {
            let is_known = self.object(object.id)?.is_some();
            if !is_known && reader.prove(object)? {
                proven.insert(object.id);
            } else {
                open.insert(object.id);
            }
        }
        proven.retain(|id| !open.contains(id));
        Ok(proven)
    }
}

/// Reads pages from what was sent with an upload, or else from the store.
pub(crate) struct PageReader<'a> {
    store: &'a Store,
    upload: &'a Upload,
    /// Segments that pages were read from.
    files: HashMap<SegmentId, Arc<dyn SegmentFile>>,
}

impl<'a> PageReader<'a> {
    pub(crate) fn new(store: &'a Store, upload: &'a Upload) -> Self {
        Self {
            store,
            upload,
            files: HashMap::new(),
        }
    }

    /// Reads pages one behind the other into `content`; those of zeros are left as they are.
    pub(crate) fn read(
        &mut self,
        pages: &[Option<PageId>],
        at: &[Option<Location>],
        content: &mut [u8],
    ) -> Result<()> {
        let sent = self.sent(pages);
        let places = pages.iter().zip(sent.into_iter().zip(at));
        for (page, (id, (sent, at))) in content.chunks_mut(PAGE_SIZE as usize).zip(places) {
            let Some(id) = id else { continue };
            if let Some(offset) = sent {
                let read = self.upload.file().read_exact_at(page, offset);
                read.map_err(|source| {
                    StoreError::io("reading", "an upload's temporary file", source)
                })?;
                continue;
            }
            let at = at.ok_or_else(|| StoreError::MissingPages(vec![*id]))?;
            let read = self.file(at.segment)?;
            let read = read.read_exact_at(page, at.slot.byte_offset());
            read.map_err(|source| {
                StoreError::io("reading the segment", at.segment.to_string(), source)
            })?;
        }
        Ok(())
    }

    /// Where pages are in the upload's file; `None` for those that were not sent.
    fn sent(&self, pages: &[Option<PageId>]) -> Vec<Option<u64>> {
        let offsets = self.upload.offsets();
        let sent = pages.iter().map(|id| offsets.get(id.as_ref()?).copied());
        sent.collect()
    }

    fn file(&mut self, id: SegmentId) -> Result<&dyn SegmentFile> {
        if !self.files.contains_key(&id) {
            // Pages of one object may lie in more segments than a process may have files open.
            if self.files.len() >= MOST_OPEN {
                self.files.clear();
            }
            let file = self.store.view.segment_file(id)?;
            self.files.insert(id, file);
        }
        Ok(self.files[&id].as_ref())
    }

    /// Whether the pages of an object are all there and make it up; an error if they make up another one.
    fn prove(&mut self, object: &UploadObject) -> Result<bool> {
        let mut at = Vec::with_capacity(object.pages.len());
        for pages in object.pages.chunks(LOOKED_UP) {
            let Some(places) = self.locate(pages)? else {
                return Ok(false);
            };
            at.extend(places);
        }
        let mut claim = Claim::about(object);
        let mut content = vec![0; (PAGES_PER_WINDOW * PAGE_SIZE) as usize];
        let pieces = PAGES_PER_WINDOW as usize;
        for (pages, at) in object.pages.chunks(pieces).zip(at.chunks(pieces)) {
            let content = &mut content[..pages.len() * PAGE_SIZE as usize];
            content.fill(0);
            match self.read(pages, at, content) {
                Ok(()) => claim.update(content),
                // Collected, or moved and collected, since it was looked up.
                Err(StoreError::NoSegment(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        claim.check()?;
        Ok(true)
    }

    /// Where the store has the pages that were not sent; `None` when it lacks one.
    fn locate(&self, pages: &[Option<PageId>]) -> Result<Option<Vec<Option<Location>>>> {
        let mut at = vec![None; pages.len()];
        let pages = pages.iter().zip(self.sent(pages)).enumerate();
        let asked =
            pages.filter_map(|(nth, (id, sent))| Some((nth, id.filter(|_| sent.is_none())?)));
        let (numbers, asked): (Vec<_>, Vec<_>) = asked.unzip();
        for (nth, found) in numbers
            .into_iter()
            .zip(self.store.view.index.now().pages(&asked)?)
        {
            if found.is_none() {
                return Ok(None);
            }
            at[nth] = found;
        }
        Ok(Some(at))
    }
}

/// What an upload claims of an object, compared with its pages.
pub(crate) struct Claim {
    object: ObjectId,
    hasher: blake3::Hasher,
    /// Bytes of the object not hashed yet.
    remaining: u64,
    /// Whoever maps the last page sees what it has past the object's end.
    ends_in_zeros: bool,
}

impl Claim {
    pub(crate) fn about(object: &UploadObject) -> Self {
        Self {
            object: object.id,
            hasher: blake3::Hasher::new(),
            remaining: object.length,
            ends_in_zeros: true,
        }
    }

    /// Takes whole pages, the next ones of the object.
    pub(crate) fn update(&mut self, pages: &[u8]) {
        let length = (pages.len() as u64).min(self.remaining);
        let (bytes, past_end) = pages.split_at(length as usize);
        self.hasher.update(bytes);
        self.remaining -= length;
        self.ends_in_zeros &= page::is_zero(past_end);
    }

    pub(crate) fn check(self) -> Result<()> {
        let expected = self.object;
        let found = ObjectId::from(self.hasher.finalize());
        if found != expected {
            return Err(StoreError::ObjectMismatch { expected, found });
        }
        if !self.ends_in_zeros {
            return Err(StoreError::BadUpload(format!(
                "the last page of object {expected} has bytes past the object's end: fill it up \
                 with zeros"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;
    use crate::placement::Placement;
    use crate::precondition::Precondition;
    use crate::upload::{Target, UploadManifest};

    fn store(directory: &std::path::Path) -> Store {
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        Store::open(directory, options).unwrap()
    }

    /// `pages` pages that no other seed has.
    fn content(seed: u8, pages: u8) -> Vec<u8> {
        (0..pages)
            .flat_map(|page| [[seed, page, 1, 1]; 1024].concat())
            .collect()
    }

    /// An upload of library `l@1`, the first of `objects`.
    fn upload(store: &Store, objects: &[UploadObject]) -> Upload {
        let target = Target::Library {
            library: "l@1".parse().unwrap(),
            object: objects[0].id,
        };
        let objects = objects.to_vec();
        store
            .begin_upload(UploadManifest { target, objects })
            .unwrap()
    }

    fn send(upload: &Upload, bytes: &[u8]) {
        for page in bytes.chunks(PAGE_SIZE as usize) {
            upload.add_page(PageId::of(page), page).unwrap();
        }
    }

    #[test]
    fn an_object_is_proven_by_every_list_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let (a, b) = (content(1, 3), content(2, 3));
        let good = UploadObject::of(&a, Placement::Sparse);
        let windows = Placement::Windows { phase: 0 };
        let other = UploadObject::of(&b, windows);
        let both = upload(&store, &[good.clone(), other.clone()]);
        send(&both, &a);
        send(&both, &b[..2 * PAGE_SIZE as usize]);
        assert_eq!(store.proven(&both).unwrap(), [good.id].into());
        send(&both, &b);
        assert_eq!(store.proven(&both).unwrap(), [good.id, other.id].into());

        // Another list of the same object is another claim, and would be placed first.
        let lie = UploadObject {
            placement: windows,
            pages: other.pages.clone(),
            ..good.clone()
        };
        let twice = upload(&store, &[good.clone(), lie]);
        send(&twice, &a);
        assert!(store.proven(&twice).unwrap().is_empty());
        send(&twice, &b);
        let refused = store.commit(&twice);
        assert!(
            matches!(refused, Err(StoreError::ObjectMismatch { .. })),
            "{refused:?}"
        );
        store.commit(&both).unwrap();
        assert!(store.proven(&both).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_proven_is_checked_when_it_is_placed() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        for (seed, placement) in [(1, Placement::Sparse), (2, Placement::Windows { phase: 0 })] {
            let bytes = content(seed, 40);
            let good = UploadObject::of(&bytes, placement);
            let mut lie = good.clone();
            lie.pages.swap(3, 4);
            let commit = |object: UploadObject| {
                let upload = upload(&store, &[object]);
                send(&upload, &bytes);
                let mut writer = store.writer();
                let nothing = HashSet::new();
                let precondition = Precondition::default();
                let result = store.commit_locked(&mut writer, &upload, &nothing, &precondition);
                store.answer(&mut writer, result)
            };
            let refused = commit(lie);
            assert!(
                matches!(refused, Err(StoreError::ObjectMismatch { .. })),
                "{refused:?}"
            );
            commit(good).unwrap();
            store.delete_library(&"l@1".parse().unwrap()).unwrap();
        }
    }
}
