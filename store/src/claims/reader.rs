//! Reading an upload's pages, from the store or from what is given, and comparing them with what is claimed.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use pool_core::digest::PageId;
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};

use super::{Claim, Given, Piece, pieces};
use crate::Store;
use crate::backend::SegmentFile;
use crate::damage::{DamagedSlots, Expected};
use crate::error::{Result, StoreError};
use crate::format::Location;
use crate::look::{Look, Looked};
use crate::parallel;
use crate::placement::{self, WindowPlan};
use crate::staging::Staged;
use crate::upload::UploadObject;

/// Most segments that one reader keeps open.
const MOST_OPEN: usize = 64;

/// Pieces whose pages are compared by all processors together, which bounds what is remembered of where they are.
const COMPARED_TOGETHER: usize = 64;

/// Pages that are compared at a time: they stay in a processor's cache from when they are read until then.
const COMPARED: usize = 64;

/// Most places in memory that pages may be in to be at hand: those that were sent otherwise than they lie are put together first.
const MOST_PLACES: usize = 16;

/// Bytes that need not be read.
pub(crate) enum AtHand<'a> {
    /// Of what is taken in at once.
    Given(&'a [u8]),
    /// Of pages that were sent, one behind the other.
    Staged(Vec<Staged>),
}

impl AtHand<'_> {
    /// Where the bytes are, whole pages in each place.
    pub(crate) fn places(&self) -> Vec<&[u8]> {
        match self {
            Self::Given(bytes) => vec![*bytes],
            Self::Staged(staged) => staged.iter().map(Deref::deref).collect(),
        }
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

    /// The bytes of a piece, if all of its pages are at hand whole, or are in memory where they were sent, in few places.
    pub(crate) fn at_hand(&self, piece: &Piece<'_>) -> Option<AtHand<'a>> {
        self.bytes_at_hand(piece, piece.pages.len() * PAGE_SIZE as usize)
    }

    /// The bytes of a piece that fills a window, if they are at hand as they will lie there.
    pub(crate) fn window_at_hand(
        &self,
        part: &WindowPlan,
        piece: &Piece<'_>,
    ) -> Option<AtHand<'a>> {
        let is_aligned = part.position == 0 && part.first_page == piece.first_page;
        if !is_aligned {
            return None;
        }
        self.bytes_at_hand(piece, WINDOW_SIZE as usize)
    }

    fn bytes_at_hand(&self, piece: &Piece<'_>, bytes: usize) -> Option<AtHand<'a>> {
        match self.given {
            Given::AtHand(_) => {
                let given = self.given.bytes_at_hand(piece.object, piece.first_page)?;
                given.get(..bytes).map(AtHand::Given)
            }
            Given::Sent(upload) if piece.pages.len() * PAGE_SIZE as usize == bytes => {
                let rows = sent_in_rows(&upload.offsets(), piece.pages)?;
                let mut staged = Vec::new();
                for row in rows {
                    staged.extend(upload.staging().at_hand(row)?);
                }
                Some(AtHand::Staged(staged))
            }
            Given::Sent(_) => None,
        }
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
                    upload.staging().read_exact_at(pages, offset)?;
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

    /// Where pages are among those staged; `None` for those that were not sent.
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

    /// Whether the pages of an object, the `nth` that is announced, are all there and make it up; an error if they make up
    /// another one. Damage that is found on the way is remembered: those pages are not there, and it is looked for the others
    /// again.
    pub(super) fn prove(
        &mut self,
        nth: usize,
        object: &UploadObject,
        look: &mut Look,
    ) -> Result<bool> {
        loop {
            let found = |piece: &Piece<'_>| look.found(nth, piece.first_page, piece.pages.len());
            let error = match self.compare(object, found) {
                Ok(proven) => return Ok(proven),
                Err(error) => error,
            };
            let damage = self.damage_in(object)?;
            if self.store.remember(&damage)? > 0 {
                look.forget(nth);
                continue;
            }
            return match error {
                // Collected, or moved and collected, since it was looked up.
                StoreError::NoSegment(_) => Ok(false),
                error => Err(error),
            };
        }
    }

    /// Compares an object with its pages, of which `looked` says where they are known to be. What is at hand is compared by
    /// all processors; of pages that were sent one after the other is hashed.
    fn compare(
        &mut self,
        object: &UploadObject,
        looked: impl Fn(&Piece<'_>) -> Vec<Looked>,
    ) -> Result<bool> {
        let (store, given) = (self.store, self.given);
        let mut claim = self.claim(object);
        let parts = self.parts(object)?;
        let mut all = parts
            .iter()
            .flat_map(|part| pieces(object, part).map(move |piece| (part, piece)));
        loop {
            let mut placed = Vec::new();
            for (part, piece) in all.by_ref().take(COMPARED_TOGETHER) {
                let at = self.places(part, &piece, &looked(&piece))?;
                placed.push((piece, at));
            }
            if placed.is_empty() {
                break;
            }
            let pages: usize = placed.iter().map(|(piece, _)| piece.pages.len()).sum();
            let threads = parallel::threads_for(pages * PAGE_SIZE as usize);
            if !given.is_at_hand() || threads == 1 {
                if !self.compare_pieces(&placed, &mut claim)? {
                    return Ok(false);
                }
                continue;
            }
            let compared = parallel::in_parts(&placed, threads, |placed| {
                let mut reader = PageReader::new(store, given);
                let mut claim = reader.claim(object);
                let compared = reader.compare_pieces(placed, &mut claim);
                vec![compared.and_then(|are_there| claim.check().map(|()| are_there))]
            });
            for are_there in compared {
                if !are_there? {
                    return Ok(false);
                }
            }
        }
        claim.check()?;
        Ok(true)
    }

    /// Compares what a claim is about with some pieces at their places; false if something is missing.
    fn compare_pieces(
        &mut self,
        placed: &[(Piece<'_>, Vec<Option<Location>>)],
        claim: &mut Claim<'a>,
    ) -> Result<bool> {
        let mut content = vec![0; COMPARED * PAGE_SIZE as usize];
        for (piece, at) in placed {
            if self.given.is_at_hand() && at.iter().all(Option::is_none) {
                // It was hashed here, and is what will be written.
                continue;
            }
            for (piece, at) in piece.split(COMPARED).zip(at.chunks(COMPARED)) {
                if at.iter().all(Option::is_none)
                    && let Some(at_hand) = self.at_hand(&piece)
                {
                    let mut first_page = piece.first_page;
                    for pages in at_hand.places() {
                        claim.update(first_page, pages);
                        first_page += pages.len() as u64 / PAGE_SIZE;
                    }
                    continue;
                }
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
        Ok(true)
    }

    /// The slots among those that an object would refer to that have not what they should.
    fn damage_in(&mut self, object: &UploadObject) -> Result<DamagedSlots> {
        let mut damage = DamagedSlots::default();
        let mut content = vec![0; PAGE_SIZE as usize];
        for part in self.parts(object)? {
            let known = self.known_window(&part)?;
            for piece in pieces(object, &part) {
                // Where they are now: what was found may have been moved since.
                let at = self.places(&part, &piece, &[])?;
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

    /// How an object is to lie.
    pub(super) fn parts(&self, object: &UploadObject) -> Result<Vec<WindowPlan>> {
        let placement = self.store.placement_of(object)?;
        Ok(placement::plan(placement, &object.pages, self.store.policy))
    }

    /// Where the store has the window of a part that is stored densely.
    pub(super) fn known_window(&self, part: &WindowPlan) -> Result<Option<Location>> {
        match &part.dense {
            Some(id) => self.store.whole_window(id),
            None => Ok(None),
        }
    }

    /// Where to read the pages of a piece of a part, of which it is known where they were when they were looked up.
    fn places(
        &self,
        part: &WindowPlan,
        piece: &Piece<'_>,
        looked: &[Looked],
    ) -> Result<Vec<Option<Location>>> {
        let known = self.known_window(part)?;
        if known.is_some() {
            // Of a window that the store has, all pages are known, and where others of them are does not matter.
            return Ok(self.places_in_window(known, part, &vec![None; piece.pages.len()]));
        }
        let at = self.locate(piece.pages, looked)?;
        Ok(match part.dense {
            Some(_) => self.places_in_window(None, part, &at),
            None => at,
        })
    }

    /// Where the store has each page; `None` for pages of zeros, and for those that it lacks. Those are asked for of which
    /// `looked` says nothing.
    pub(super) fn locate(
        &self,
        pages: &[Option<PageId>],
        looked: &[Looked],
    ) -> Result<Vec<Option<Location>>> {
        let damage = self.store.damage();
        let mut at = vec![None; pages.len()];
        let (mut numbers, mut asked) = (Vec::new(), Vec::new());
        for (nth, id) in pages.iter().enumerate() {
            let Some(id) = id else { continue };
            match looked.get(nth) {
                // Unless it was found damaged since.
                Some(Looked::Found(found)) if damage.get(*found).is_none() => {
                    at[nth] = Some(*found);
                }
                Some(Looked::Found(_) | Looked::Nowhere) => {}
                Some(Looked::Not) | None => {
                    numbers.push(nth);
                    asked.push(*id);
                }
            }
        }
        if !asked.is_empty() {
            for (nth, found) in numbers.into_iter().zip(self.store.whole_pages(&asked)?) {
                at[nth] = found;
            }
        }
        Ok(at)
    }
}

/// Where pages are among those staged, if all were sent and lie in few rows, one after the other in each.
fn sent_in_rows(
    offsets: &HashMap<PageId, u64>,
    pages: &[Option<PageId>],
) -> Option<Vec<Range<u64>>> {
    let mut rows = Vec::<Range<u64>>::new();
    for id in pages {
        let at = *offsets.get(id.as_ref()?)?;
        if let Some(row) = rows.last_mut().filter(|row| row.end == at) {
            row.end += PAGE_SIZE;
        } else if rows.len() < MOST_PLACES {
            rows.push(at..at + PAGE_SIZE);
        } else {
            return None;
        }
    }
    Some(rows)
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
