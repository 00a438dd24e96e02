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
use crate::moment::Moment;
use crate::placement::{self, Placement, WindowPlan};
use crate::upload::{Upload, UploadObject};
use crate::{Store, may_lack_file};

/// Most segments that one reader keeps open.
const MOST_OPEN: usize = 64;

/// Most pages of which it is remembered where they were found: of 16 GiB, which takes 48 MiB of memory.
const MOST_FOUND: usize = 1 << 22;

/// Pages that are compared at a time: they stay in a processor's cache from when they are read until then.
const COMPARED: usize = 64;

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

impl<'a> Piece<'a> {
    /// The same in pieces of up to so many pages.
    fn split(&self, pages: usize) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let (object, firsts) = (self.object, (self.first_page..).step_by(pages));
        self.pages
            .chunks(pages)
            .zip(firsts)
            .map(move |(pages, first_page)| Piece {
                object,
                first_page,
                pages,
            })
    }
}

/// What was found out about an upload's objects before its commit.
#[derive(Debug, Default)]
pub(crate) struct Proven {
    objects: HashSet<ObjectId>,
    /// When that began.
    since: Option<Moment>,
    /// Where pages of each object were, by number.
    found: HashMap<ObjectId, Vec<Looked>>,
}

/// What is known of where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// Nothing.
    Not,
    /// It was there.
    Found(Location),
    /// It was not in the store.
    Nowhere,
}

impl Proven {
    /// True when the pages of an object were found to make it up, wherever it is listed.
    pub(crate) fn has(&self, object: ObjectId) -> bool {
        self.objects.contains(&object)
    }

    /// What is still known at a later moment of where the pages of a piece are.
    pub(crate) fn looked(&self, later: &Moment, piece: &Piece<'_>) -> Vec<Looked> {
        let nothing = || vec![Looked::Not; piece.pages.len()];
        // Of an object that is listed in several ways, and not proven, numbers say nothing.
        let found = self.found.get(&piece.object);
        let found = found.filter(|_| self.has(piece.object));
        let (Some(found), Some(since)) = (found, &self.since) else {
            return nothing();
        };
        if !since.keeps(later) {
            return nothing();
        }
        let pages = found.get(piece.first_page as usize..);
        let Some(pages) = pages.and_then(|pages| pages.get(..piece.pages.len())) else {
            return nothing();
        };
        let mut looked = pages.to_vec();
        if !since.adds_nothing(later) {
            // Others may have stored them since.
            for looked in &mut looked {
                if *looked == Looked::Nowhere {
                    *looked = Looked::Not;
                }
            }
        }
        looked
    }
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
    /// Those of `objects` that their pages were found to make up, and where those were; an object of which they
    /// make up another one is refused. Nothing is said of objects that the pool has, and of those with pages that are
    /// missing, or that a collection takes meanwhile.
    pub(crate) fn proven(&self, objects: &[UploadObject], given: Given<'_>) -> Result<Proven> {
        // Before anything is looked for.
        let since = Moment::of(self, &self.joining());
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
        Ok(Proven {
            objects: proven,
            since: Some(since),
            found: reader.found,
        })
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
    /// See [`Proven`].
    found: HashMap<ObjectId, Vec<Looked>>,
    /// Pages of which there is something in `found`.
    remembered: usize,
}

impl<'a> PageReader<'a> {
    pub(crate) fn new(store: &'a Store, given: Given<'a>) -> Self {
        Self {
            store,
            given,
            files: HashMap::new(),
            found: HashMap::new(),
            remembered: 0,
        }
    }

    /// What is to be checked of an object.
    pub(crate) fn claim(&self, object: &UploadObject) -> Claim<'a> {
        Claim::about(object, self.given)
    }

    /// The bytes of a piece, if all of its pages are at hand whole.
    pub(crate) fn at_hand(&self, piece: &Piece<'_>) -> Option<&'a [u8]> {
        let bytes = self.given.bytes_at_hand(piece.object, piece.first_page)?;
        bytes.get(..piece.pages.len() * PAGE_SIZE as usize)
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
            let bytes = self
                .given
                .bytes_at_hand(piece.object, piece.first_page + first as u64);
            match (self.given, sent[first], bytes) {
                (Given::Sent(upload), Some(offset), _) => {
                    // Those that were sent one after the other and are nowhere else.
                    let others = sent[first..].iter().zip(&at[first..]);
                    let offsets = (offset..).step_by(PAGE_SIZE as usize);
                    let run = others.zip(offsets);
                    let run = run
                        .take_while(|((sent, at), offset)| at.is_none() && **sent == Some(*offset));
                    let run = run.count();
                    nth = first + run.max(1);
                    let pages = &mut pages[..run.max(1) * PAGE_SIZE as usize];
                    let read = upload.file().read_exact_at(pages, offset);
                    read.map_err(|source| {
                        StoreError::io("reading", "an upload's temporary file", source)
                    })?;
                }
                (_, _, Some(bytes)) => {
                    let page = &mut pages[..PAGE_SIZE as usize];
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
        let pages = object.pages.len();
        if self.remembered + pages <= MOST_FOUND {
            self.remembered += pages;
            self.found.insert(object.id, vec![Looked::Not; pages]);
        }
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
        let mut content = vec![0; COMPARED * PAGE_SIZE as usize];
        for part in self.parts(object)? {
            let known = self.known_window(&part)?;
            for piece in pieces(object, &part) {
                let at = self.places(&part, known, &piece)?;
                if self.given.is_at_hand() && at.iter().all(Option::is_none) {
                    // It was hashed here, and is what will be written.
                    continue;
                }
                for (piece, at) in piece.split(COMPARED).zip(at.chunks(COMPARED)) {
                    let content = &mut content[..piece.pages.len() * PAGE_SIZE as usize];
                    if piece.pages.iter().any(Option::is_none) {
                        content.fill(0);
                    }
                    match self.read(&piece, at, content) {
                        Ok(()) => claim.update(piece.first_page, content),
                        // Not sent, or collected since it was looked up.
                        Err(StoreError::MissingPages(_)) => return Ok(false),
                        Err(error) => return Err(error),
                    }
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
        &mut self,
        part: &WindowPlan,
        known: Option<Location>,
        piece: &Piece<'_>,
    ) -> Result<Vec<Option<Location>>> {
        if known.is_some() {
            // Of a window that the store has, all pages are known, and where others of them are does not matter.
            return Ok(self.places_in_window(known, part, &vec![None; piece.pages.len()]));
        }
        let at = self.locate(piece.pages)?;
        self.note_found(piece, &at);
        Ok(match part.dense {
            Some(_) => self.places_in_window(None, part, &at),
            None => at,
        })
    }

    /// Remembers where the pages of a piece are.
    fn note_found(&mut self, piece: &Piece<'_>, at: &[Option<Location>]) {
        let found = self.found.get_mut(&piece.object);
        let found = found.and_then(|found| found.get_mut(piece.first_page as usize..));
        for (looked, at) in found.into_iter().flatten().zip(at) {
            *looked = at.map_or(Looked::Nowhere, Looked::Found);
        }
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
    use crate::upload::{Content, Target, UploadManifest};

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
        store.proven(objects, Given::Sent(upload)).unwrap().objects
    }

    /// Stores a library in one go.
    fn put(store: &Store, name: &str, bytes: &[u8]) {
        let content = Content::of(bytes, Placement::Sparse);
        let target = Target::Library {
            library: name.parse().unwrap(),
            object: content.id(),
        };
        store.ingest(target, &[content]).unwrap();
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
    fn where_pages_were_is_known_until_somebody_may_move_them() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let (known, new) = (content(1, 3), content(2, 2));
        put(&store, "known@1", &known);
        let object = UploadObject::of(&[&known[..], &new].concat(), Placement::Sparse);
        let both = upload(&store, std::slice::from_ref(&object));
        send(&both, &new);
        let given = Given::Sent(&both);
        let proven = store.proven(std::slice::from_ref(&object), given);
        let proven = proven.unwrap();
        let looked = |first: usize| {
            let piece = Piece {
                object: object.id,
                first_page: first as u64,
                pages: &object.pages[first..],
            };
            let now = Moment::of(&store, &store.joining());
            proven.looked(&now, &piece)
        };
        let ids: Vec<_> = object.pages[..3].iter().flatten().copied().collect();
        let at = store.whole_pages(&ids).unwrap();
        let found: Vec<_> = at.into_iter().flatten().map(Looked::Found).collect();
        assert_eq!(found.len(), 3);
        let nowhere = [Looked::Nowhere; 2];
        assert_eq!(looked(0), [&found[..], &nowhere].concat());
        assert_eq!(looked(2), [&found[2..], &nowhere].concat());
        // Another one may have stored what was not there.
        put(&store, "other@1", &content(3, 1));
        assert_eq!(looked(0), [&found[..], &[Looked::Not; 2]].concat());
        drop(store.writer());
        assert_eq!(looked(0), [Looked::Not; 5]);

        // While something is on its way nobody knows what is not there.
        let halt = store.groups.hold();
        std::thread::scope(|scope| {
            scope.spawn(|| put(&store, "waits@1", &content(4, 1)));
            while store.groups.sight().is_clear() {
                std::thread::yield_now();
            }
            let proven = store.proven(std::slice::from_ref(&object), given).unwrap();
            let piece = Piece {
                object: object.id,
                first_page: 0,
                pages: &object.pages,
            };
            let now = Moment::of(&store, &store.joining());
            let looked = proven.looked(&now, &piece);
            assert_eq!(looked, [&found[..], &[Looked::Not; 2]].concat());
            drop(halt);
        });
    }

    #[test]
    fn what_another_one_has_stored_since_is_not_stored_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let bytes = content(1, 3);
        let object = UploadObject::of(&bytes[..2 * PAGE_SIZE as usize], Placement::Sparse);
        let sent = upload(&store, std::slice::from_ref(&object));
        send(&sent, &bytes[..2 * PAGE_SIZE as usize]);
        let given = Given::Sent(&sent);
        let proven = store.proven(std::slice::from_ref(&object), given);
        put(&store, "other@1", &bytes);
        let taken = store.take_in(
            sent.manifest(),
            given,
            &proven.unwrap(),
            &Precondition::default(),
        );
        assert_eq!(taken.unwrap().new_pages.0, 0);
    }

    #[test]
    fn pages_are_read_in_whatever_order_they_were_sent() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let bytes = content(5, 9);
        let object = UploadObject::of(&bytes, Placement::Sparse);
        let pages: Vec<_> = bytes
            .chunks(PAGE_SIZE as usize)
            .map(|page| (PageId::of(page), page))
            .collect();
        for order in [
            [0, 1, 2, 3, 4, 5, 6, 7, 8],
            [8, 7, 6, 5, 4, 3, 2, 1, 0],
            [3, 4, 5, 0, 1, 2, 6, 8, 7],
        ] {
            let sent = upload(&store, std::slice::from_ref(&object));
            let (some, others) = order.split_at(4);
            for part in [some, &[3, 3, 0], others] {
                sent.add_pages(part.iter().map(|nth| pages[*nth])).unwrap();
            }
            assert_eq!(proven(&store, &sent), [object.id].into());
            // Each is there once.
            assert_eq!(sent.offsets().len(), 9);
        }
        // What comes before a page that is refused stays, and nothing after it.
        let sent = upload(&store, std::slice::from_ref(&object));
        let wrong = (pages[1].0, pages[2].1);
        let refused = sent.add_pages([pages[0], wrong, pages[3]]);
        assert!(matches!(refused, Err(StoreError::PageMismatch { .. })));
        let foreign = (
            PageId::of(&[7; PAGE_SIZE as usize]),
            &[7; PAGE_SIZE as usize][..],
        );
        let refused = sent.add_pages([pages[1], foreign, pages[4]]);
        assert!(matches!(refused, Err(StoreError::UnexpectedPage(_))));
        let short = (pages[5].0, &pages[5].1[1..]);
        let refused = sent.add_pages([pages[2], short, pages[5]]);
        assert!(matches!(refused, Err(StoreError::PageMismatch { .. })));
        let there: HashSet<_> = sent.offsets().keys().copied().collect();
        assert_eq!(there, [pages[0].0, pages[1].0, pages[2].0].into());
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
                let (nothing, given) = (Proven::default(), Given::Sent(&upload));
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
