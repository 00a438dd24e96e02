//! What an upload claims of its objects: that the pages it lists make them up.
//!
//! Whether they do takes a look at every byte, which nobody else should have to wait for. So it is found out before the
//! writer's lock is taken: what is true of a list of digests stays true, wherever the pages are by then. Pages that the
//! store has are read where the object will refer to them. One which the disk has changed is not taken for what its
//! digest says: it is remembered as damaged, so that it counts as missing, and is sent, or written from what is at hand.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{self, PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use crate::backend::SegmentFile;
use crate::damage::{DamagedSlots, Expected};
use crate::error::{Result, StoreError};
use crate::format::Location;
use crate::placement::{self, Placement, WindowPlan};
use crate::upload::{Upload, UploadObject};
use crate::{Store, may_lack_file};

/// Most segments that one reader keeps open.
const MOST_OPEN: usize = 64;

/// Where the bytes of an upload are that the store lacks.
#[derive(Clone, Copy)]
pub(crate) enum Given<'a> {
    /// Pages in a temporary file; the objects' digests are somebody else's claim.
    Sent(&'a Upload),
    /// Whole objects in memory, hashed here.
    AtHand(&'a HashMap<ObjectId, &'a [u8]>),
}

impl<'a> Given<'a> {
    fn is_at_hand(self) -> bool {
        matches!(self, Self::AtHand(_))
    }

    /// Those bytes of an object that are at hand, from a page on.
    fn bytes_at_hand(self, object: ObjectId, first_page: u64) -> Option<&'a [u8]> {
        match self {
            Self::Sent(_) => None,
            Self::AtHand(objects) => objects
                .get(&object)?
                .get((first_page * PAGE_SIZE) as usize..),
        }
    }
}

/// Up to 512 consecutive pages of an object.
pub(crate) struct Piece<'a> {
    pub(crate) object: ObjectId,
    /// Number of the first in the object.
    pub(crate) first_page: u64,
    pub(crate) pages: &'a [Option<PageId>],
}

/// What an object has in one part of its plan, a window's worth at a time, which bounds the memory that a large object
/// takes.
pub(crate) fn pieces<'a>(
    object: &'a UploadObject,
    part: &WindowPlan,
) -> impl Iterator<Item = Piece<'a>> + use<'a> {
    let (first_page, count) = (part.first_page, part.count);
    let pages = &object.pages[first_page as usize..][..count as usize];
    let pieces = pages.chunks(PAGES_PER_WINDOW as usize);
    let firsts = (first_page..).step_by(PAGES_PER_WINDOW as usize);
    pieces.zip(firsts).map(|(pages, first_page)| Piece {
        object: object.id,
        first_page,
        pages,
    })
}

impl Store {
    /// Those of `objects` that their pages were found to make up, wherever they are listed; an object of which they
    /// make up another one is refused. Nothing is said of objects that the pool has, and of those with pages that are
    /// missing, or that a collection takes meanwhile.
    pub(crate) fn proven(
        &self,
        objects: &[UploadObject],
        given: Given<'_>,
    ) -> Result<HashSet<ObjectId>> {
        let mut reader = PageReader::new(self, given);
        let (mut proven, mut open) = (HashSet::new(), HashSet::new());
        for object in objects {
            let is_known = self.whole_object(object.id)?.is_some();
            if !is_known && reader.prove(object)? {
                proven.insert(object.id);
            } else {
                open.insert(object.id);
            }
        }
        proven.retain(|id| !open.contains(id));
        Ok(proven)
    }

    /// How an object is to lie. One that is known and damaged keeps its windows: others map it by them.
    pub(crate) fn placement_of(&self, object: &UploadObject) -> Result<Placement> {
        let known = self.object(object.id)?;
        let known = known.filter(|known| known.map.extents().iter().any(|extent| extent.dense));
        Ok(known.map_or(object.placement, |known| Placement::Windows {
            phase: known.phase,
        }))
    }

    /// True when a segment that should have a file has none.
    fn is_lost(&self, id: SegmentId) -> Result<bool> {
        let record = self.segment(id)?;
        Ok(record.is_some_and(|record| !may_lack_file(record)))
    }
}

/// Reads pages from the store, or else from what is given with an upload.
pub(crate) struct PageReader<'a> {
    store: &'a Store,
    given: Given<'a>,
    /// Segments that pages were read from.
    files: HashMap<SegmentId, Arc<dyn SegmentFile>>,
}

impl<'a> PageReader<'a> {
    pub(crate) fn new(store: &'a Store, given: Given<'a>) -> Self {
        Self {
            store,
            given,
            files: HashMap::new(),
        }
    }

    /// What is to be checked of an object.
    pub(crate) fn claim(&self, object: &UploadObject) -> Claim<'a> {
        Claim::about(object, self.given)
    }

    /// The bytes of a piece that fills a window, if they are at hand as they will lie there.
    pub(crate) fn window_at_hand(&self, part: &WindowPlan, piece: &Piece<'_>) -> Option<&'a [u8]> {
        let bytes = self.given.bytes_at_hand(piece.object, piece.first_page)?;
        let is_aligned = part.position == 0 && part.first_page == piece.first_page;
        bytes.get(..WINDOW_SIZE as usize).filter(|_| is_aligned)
    }

    /// Reads pages one behind the other into `content`, those that are at no place from what is given; those of zeros
    /// are left as they are.
    pub(crate) fn read(
        &mut self,
        piece: &Piece<'_>,
        at: &[Option<Location>],
        content: &mut [u8],
    ) -> Result<()> {
        let sent = self.sent(piece.pages);
        let mut nth = 0;
        while nth < piece.pages.len() {
            let run = run(&piece.pages[nth..], &at[nth..]);
            let first = nth;
            nth += run.max(1);
            let pages = &mut content[first * PAGE_SIZE as usize..];
            if let (Some(at), 1..) = (at[first], run) {
                let pages = &mut pages[..run * PAGE_SIZE as usize];
                let read = self.file(at.segment)?;
                let read = read.read_exact_at(pages, at.slot.byte_offset());
                read.map_err(|source| {
                    StoreError::io("reading the segment", at.segment.to_string(), source)
                })?;
                continue;
            }
            let Some(id) = &piece.pages[first] else {
                continue;
            };
            let page = &mut pages[..PAGE_SIZE as usize];
            let sent = sent[first];
            let bytes = self
                .given
                .bytes_at_hand(piece.object, piece.first_page + first as u64);
            match (self.given, sent, bytes) {
                (Given::Sent(upload), Some(offset), _) => {
                    let read = upload.file().read_exact_at(page, offset);
                    read.map_err(|source| {
                        StoreError::io("reading", "an upload's temporary file", source)
                    })?;
                }
                (_, _, Some(bytes)) => {
                    let length = bytes.len().min(page.len());
                    page[..length].copy_from_slice(&bytes[..length]);
                    page[length..].fill(0);
                }
                _ => return Err(StoreError::MissingPages(vec![*id])),
            }
        }
        Ok(())
    }

    /// Where pages are in the upload's file; `None` for those that were not sent.
    fn sent(&self, pages: &[Option<PageId>]) -> Vec<Option<u64>> {
        let Given::Sent(upload) = self.given else {
            return vec![None; pages.len()];
        };
        let offsets = upload.offsets();
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

    /// Where to read the pages of a window that is stored densely: `known` is where the store has it, `at` where it has
    /// its pages, which may be other copies of them.
    pub(crate) fn places_in_window(
        &self,
        known: Option<Location>,
        part: &WindowPlan,
        at: &[Option<Location>],
    ) -> Vec<Option<Location>> {
        match known {
            Some(window) => {
                // A spoilt entry may begin at the last slots there can be, which cannot be read.
                let first = window.slot.0.saturating_add(part.position as u32);
                let slots = (0..at.len() as u32).map(|nth| Slot(first.saturating_add(nth)));
                slots
                    .map(|slot| Some(Location { slot, ..window }))
                    .collect()
            }
            // It will be written, and all of it from memory.
            None if self.given.is_at_hand() => vec![None; at.len()],
            None => at.to_vec(),
        }
    }

    /// Whether the pages of an object are all there and make it up; an error if they make up another one. Damage that
    /// is found on the way is remembered: those pages are not there.
    fn prove(&mut self, object: &UploadObject) -> Result<bool> {
        loop {
            let error = match self.compare(object) {
                Ok(proven) => return Ok(proven),
                Err(error) => error,
            };
            let damage = self.damage_in(object)?;
            if self.store.remember(&damage)? > 0 {
                continue;
            }
            return match error {
                // Collected, or moved and collected, since it was looked up.
                StoreError::NoSegment(_) => Ok(false),
                error => Err(error),
            };
        }
    }

    fn compare(&mut self, object: &UploadObject) -> Result<bool> {
        let mut claim = self.claim(object);
        let mut content = vec![0; WINDOW_SIZE as usize];
        for part in self.parts(object)? {
            let known = self.known_window(&part)?;
            for piece in pieces(object, &part) {
                let at = self.places(&part, known, &piece)?;
                if self.given.is_at_hand() && at.iter().all(Option::is_none) {
                    // It was hashed here, and is what will be written.
                    continue;
                }
                let content = &mut content[..piece.pages.len() * PAGE_SIZE as usize];
                content.fill(0);
                match self.read(&piece, &at, content) {
                    Ok(()) => claim.update(piece.first_page, content),
                    // Not sent, or collected since it was looked up.
                    Err(StoreError::MissingPages(_)) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
        }
        claim.check()?;
        Ok(true)
    }

    /// The slots among those that an object would refer to that have not what they should.
    fn damage_in(&mut self, object: &UploadObject) -> Result<DamagedSlots> {
        let mut damage = DamagedSlots::default();
        let mut content = vec![0; PAGE_SIZE as usize];
        for part in self.parts(object)? {
            let known = self.known_window(&part)?;
            for piece in pieces(object, &part) {
                let at = self.places(&part, known, &piece)?;
                for (id, at) in piece.pages.iter().zip(at) {
                    let (Some(id), Some(at)) = (id, at) else {
                        continue;
                    };
                    let read = self.file(at.segment).map(|file| {
                        file.read_exact_at(&mut content, at.slot.byte_offset())
                            .is_ok()
                    });
                    let is_right = match read {
                        Ok(read) => read && PageId::of(&content) == *id,
                        Err(StoreError::NoSegment(segment)) => !self.store.is_lost(segment)?,
                        Err(StoreError::Io { .. }) => false,
                        Err(error) => return Err(error),
                    };
                    if !is_right {
                        let expected = Expected {
                            page: Some(*id),
                            window: part.dense.filter(|_| known.is_some()),
                        };
                        damage.note(at, expected);
                    }
                }
            }
        }
        Ok(damage)
    }

    fn parts(&self, object: &UploadObject) -> Result<Vec<WindowPlan>> {
        let placement = self.store.placement_of(object)?;
        Ok(placement::plan(placement, &object.pages, self.store.policy))
    }

    /// Where the store has the window of a part that is stored densely.
    fn known_window(&self, part: &WindowPlan) -> Result<Option<Location>> {
        match &part.dense {
            Some(id) => self.store.whole_window(id),
            None => Ok(None),
        }
    }

    /// Where to read the pages of a piece of a part.
    fn places(
        &self,
        part: &WindowPlan,
        known: Option<Location>,
        piece: &Piece<'_>,
    ) -> Result<Vec<Option<Location>>> {
        if known.is_some() {
            // Of a window that the store has, all pages are known, and where others of them are does not matter.
            return Ok(self.places_in_window(known, part, &vec![None; piece.pages.len()]));
        }
        let at = self.locate(piece.pages)?;
        Ok(match part.dense {
            Some(_) => self.places_in_window(None, part, &at),
            None => at,
        })
    }

    /// Where the store has each page; `None` for pages of zeros, and for those that it lacks.
    fn locate(&self, pages: &[Option<PageId>]) -> Result<Vec<Option<Location>>> {
        let mut at = vec![None; pages.len()];
        let asked = pages.iter().enumerate();
        let asked = asked.filter_map(|(nth, id)| Some((nth, (*id)?)));
        let (numbers, asked): (Vec<_>, Vec<_>) = asked.unzip();
        let found = self.store.whole_pages(&asked)?;
        for (nth, found) in numbers.into_iter().zip(found) {
            at[nth] = found;
        }
        Ok(at)
    }
}

/// How many of the first pages lie one behind the other in a segment.
fn run(pages: &[Option<PageId>], at: &[Option<Location>]) -> usize {
    let Some(first) = at.first().copied().flatten() else {
        return 0;
    };
    let follows = |nth: usize, at: Location| {
        let slot = first.slot.0.checked_add(nth as u32);
        at.segment == first.segment && Some(at.slot.0) == slot
    };
    let pages = pages.iter().zip(at).enumerate();
    let run =
        pages.take_while(|(nth, (id, at))| id.is_some() && at.is_some_and(|at| follows(*nth, at)));
    run.count()
}

/// What an upload claims of an object, compared with its pages.
pub(crate) enum Claim<'a> {
    /// That they have its digest.
    Digest {
        object: ObjectId,
        hasher: Box<blake3::Hasher>,
        /// Bytes of the object not hashed yet.
        remaining: u64,
        /// Whoever maps the last page sees what it has past the object's end.
        ends_in_zeros: bool,
    },
    /// That they are bytes which are at hand, and filled up with zeros.
    Bytes {
        object: ObjectId,
        bytes: &'a [u8],
        are_the_same: bool,
    },
}

impl<'a> Claim<'a> {
    fn about(object: &UploadObject, given: Given<'a>) -> Self {
        match given.bytes_at_hand(object.id, 0) {
            Some(bytes) => Self::Bytes {
                object: object.id,
                bytes,
                are_the_same: true,
            },
            None => Self::Digest {
                object: object.id,
                hasher: Box::default(),
                remaining: object.length,
                ends_in_zeros: true,
            },
        }
    }

    /// Takes whole pages, the next ones of the object. What is at hand need not be shown to itself.
    pub(crate) fn update(&mut self, first_page: u64, pages: &[u8]) {
        match self {
            Self::Digest {
                hasher,
                remaining,
                ends_in_zeros,
                ..
            } => {
                let length = (pages.len() as u64).min(*remaining);
                let (bytes, past_end) = pages.split_at(length as usize);
                hasher.update(bytes);
                *remaining -= length;
                *ends_in_zeros &= page::is_zero(past_end);
            }
            Self::Bytes {
                bytes,
                are_the_same,
                ..
            } => {
                let rest = bytes.get((first_page * PAGE_SIZE) as usize..);
                let rest = rest.unwrap_or_default();
                let (found, past_end) = pages.split_at(pages.len().min(rest.len()));
                *are_the_same &= rest.starts_with(found) && page::is_zero(past_end);
            }
        }
    }

    pub(crate) fn check(self) -> Result<()> {
        match self {
            Self::Digest {
                object: expected,
                hasher,
                ends_in_zeros,
                ..
            } => {
                let found = ObjectId::from(hasher.finalize());
                if found != expected {
                    return Err(StoreError::ObjectMismatch { expected, found });
                }
                if !ends_in_zeros {
                    return Err(StoreError::BadUpload(format!(
                        "the last page of object {expected} has bytes past the object's end: fill it up \
                         with zeros"
                    )));
                }
                Ok(())
            }
            Self::Bytes { are_the_same, .. } if are_the_same => Ok(()),
            Self::Bytes { object, .. } => Err(StoreError::Damaged(object)),
        }
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

    fn proven(store: &Store, upload: &Upload) -> HashSet<ObjectId> {
        let objects = &upload.manifest().objects;
        store.proven(objects, Given::Sent(upload)).unwrap()
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
        assert_eq!(proven(&store, &both), [good.id].into());
        send(&both, &b);
        assert_eq!(proven(&store, &both), [good.id, other.id].into());

        // Another list of the same object is another claim, and would be placed first.
        let lie = UploadObject {
            placement: windows,
            pages: other.pages.clone(),
            ..good.clone()
        };
        let twice = upload(&store, &[good.clone(), lie]);
        send(&twice, &a);
        assert!(proven(&store, &twice).is_empty());
        send(&twice, &b);
        let refused = store.commit(&twice);
        assert!(
            matches!(refused, Err(StoreError::ObjectMismatch { .. })),
            "{refused:?}"
        );
        store.commit(&both).unwrap();
        assert!(proven(&store, &both).is_empty());
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
                let (nothing, given) = (HashSet::new(), Given::Sent(&upload));
                store.take_in(upload.manifest(), given, &nothing, &Precondition::default())
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
