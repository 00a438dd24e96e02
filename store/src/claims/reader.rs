//! Reading an upload's pages, from the store or from what is given, and comparing them with what is claimed.

use std::collections::HashMap;
use std::sync::Arc;

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};

use super::proven::Looked;
use super::{Claim, Given, Piece, pieces};
use crate::Store;
use crate::backend::SegmentFile;
use crate::damage::{DamagedSlots, Expected};
use crate::error::{Result, StoreError};
use crate::format::Location;
use crate::placement::{self, WindowPlan};
use crate::upload::UploadObject;

/// Most segments that one reader keeps open.
const MOST_OPEN: usize = 64;

/// Most pages of which it is remembered where they were found: of 16 GiB, which takes 48 MiB of memory.
const MOST_FOUND: usize = 1 << 22;

/// Pages that are compared at a time: they stay in a processor's cache from when they are read until then.
const COMPARED: usize = 64;

/// Reads pages from the store, or else from what is given with an upload.
pub(crate) struct PageReader<'a> {
    store: &'a Store,
    given: Given<'a>,
    /// Segments that pages were read from.
    files: HashMap<SegmentId, Arc<dyn SegmentFile>>,
    /// See [`Proven`](super::Proven).
    pub(super) found: HashMap<ObjectId, Vec<Looked>>,
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
    pub(super) fn prove(&mut self, object: &UploadObject) -> Result<bool> {
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
