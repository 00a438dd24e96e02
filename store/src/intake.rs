//! One commit's placing of pages: what is known is found, what is new is written.

use std::collections::{BTreeMap, HashMap, HashSet};

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::{Extent, ExtentMap, Slot};
use pool_core::page::{PAGE_SIZE, PageCount, WINDOW_SIZE};

use crate::Store;
use crate::claims::{self, Claim, PageReader, Piece, Proven};
use crate::damage::Expected;
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord};
use crate::index::{Batch, Pending};
use crate::look::Looked;
use crate::moment::Moment;
use crate::placement::{self, Placement, WindowPlan};
use crate::prepared::{Hand, Prepared};
use crate::stored::Stored;
use crate::upload::{CommitSummary, Target, UploadManifest, UploadObject};

/// One commit's placing of pages.
pub(crate) struct Intake<'a, 'w> {
    store: &'a Store,
    stored: &'w Stored<'a>,
    hand: Hand<'w>,
    prepared: &'w mut Prepared<'a>,
    reader: PageReader<'w>,
    known: Known<'w>,
    /// Pages and windows placed by this commit.
    placed: HashMap<PageId, Location>,
    placed_windows: HashMap<WindowId, Location>,
    distinct: HashSet<PageId>,
    batch: Batch<'a>,
    /// An object that was damaged has been placed anew.
    is_mended: bool,
    /// Pages or windows that are on record were.
    moves: bool,
    /// Every object of the upload, known ones included.
    objects: BTreeMap<ObjectId, ObjectRecord>,
    summary: CommitSummary,
}

/// What a commit knows when it is planned.
#[derive(Clone, Copy)]
pub(crate) struct Known<'w> {
    /// Objects whose pages need not be checked, and where those were.
    pub(crate) proven: &'w Proven,
    /// What the plan goes by.
    pub(crate) moment: &'w Moment,
}

/// What a commit comes to, its name aside. It stands for as long as nothing that it found was moved or removed.
pub(crate) struct Planned<'a> {
    /// What is to be changed.
    pub(crate) batch: Batch<'a>,
    /// The same, for commits after it.
    pub(crate) pending: Pending,
    /// Every object of the upload.
    pub(crate) objects: BTreeMap<ObjectId, ObjectRecord>,
    /// What others have damaged is here anew.
    pub(crate) can_mend: bool,
    /// What is on record of pages, windows and objects may be other places than they come to have by this.
    pub(crate) moves: bool,
    /// What was done.
    pub(crate) summary: CommitSummary,
}

impl Planned<'_> {
    /// True when there is something that the pool did not have.
    pub(crate) fn is_new(&self) -> bool {
        !self.batch.is_empty()
    }

    /// The same after others have committed, who may have stored some of it as well.
    pub(crate) fn overtaken(mut self) -> Self {
        self.batch.overtaken();
        self.moves = true;
        self
    }
}

impl<'a, 'w> Intake<'a, 'w> {
    pub(crate) fn new(
        store: &'a Store,
        stored: &'w Stored<'a>,
        hand: Hand<'w>,
        prepared: &'w mut Prepared<'a>,
        reader: PageReader<'w>,
        known: Known<'w>,
    ) -> Self {
        Self {
            store,
            stored,
            hand,
            prepared,
            reader,
            known,
            placed: HashMap::new(),
            placed_windows: HashMap::new(),
            distinct: HashSet::new(),
            batch: store.view.index.batch(),
            is_mended: false,
            moves: false,
            objects: BTreeMap::new(),
            summary: CommitSummary::default(),
        }
    }

    /// Takes in everything that is announced.
    pub(crate) fn run(mut self, manifest: &UploadManifest) -> Result<Planned<'a>> {
        // Dense windows first: pages that they hold need no place of their own.
        let mut objects: Vec<_> = manifest.objects.iter().collect();
        objects.sort_by_key(|object| object.placement == Placement::Sparse);
        for object in objects {
            self.take(object)?;
        }
        self.check_required(manifest)?;
        // In order of keys, in which the index puts them into memory at a fraction of the cost, here and whenever its log is
        // read again.
        let mut placed: Vec<_> = self.placed.iter().collect();
        placed.sort_unstable_by_key(|(id, _)| **id);
        for (id, at) in placed {
            if self.stored.has_page(id)? {
                self.moves = true;
                self.batch.move_page(*id, *at);
            } else {
                self.batch.add_page(*id, *at);
            }
        }
        let can_mend = self.can_mend();
        self.summary.distinct_pages = PageCount(self.distinct.len() as u64);
        Ok(Planned {
            pending: Pending::of(self.batch.changes(), self.placed, self.placed_windows),
            batch: self.batch,
            objects: self.objects,
            can_mend,
            moves: self.moves || self.is_mended,
            summary: self.summary,
        })
    }

    /// True when what others have damaged is here anew.
    fn can_mend(&self) -> bool {
        let placed = |expected: Expected| {
            let page = expected
                .page
                .is_some_and(|id| self.placed.contains_key(&id));
            let window = expected.window.as_ref();
            page || window.is_some_and(|id| self.placed_windows.contains_key(id))
        };
        let mut damaged = self.stored.damage().iter();
        self.is_mended || damaged.any(|(_, expected)| placed(expected))
    }

    /// Takes in one announced object, whether the pool has it or not.
    fn take(&mut self, object: &UploadObject) -> Result<()> {
        let pages = PageCount(object.pages.len() as u64);
        self.summary.pages += pages;
        if self.objects.contains_key(&object.id) {
            self.summary.known_pages += pages;
            return Ok(());
        }
        let record = match self.stored.object(object.id)? {
            Some(known)
                if known.map.length == object.length && self.stored.damage().touch(&known.map) =>
            {
                self.is_mended = true;
                self.place(object)?
            }
            Some(known) if known.map.length == object.length => {
                self.summary.known_pages += pages;
                known
            }
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

    /// Places a new object and, if it is not proven, checks that its pages make it up.
    fn place(&mut self, object: &UploadObject) -> Result<ObjectRecord> {
        let stored = object.pages.iter().flatten();
        let zeros = object.pages.len() - stored.clone().count();
        self.summary.zero_pages += PageCount(zeros as u64);
        self.distinct.extend(stored.copied());

        let mut extents = Vec::new();
        // Nearly always all are proven. The others were known a moment ago, or their pages were elsewhere.
        let is_proven = self.known.proven.has(object.id);
        let mut claim = (!is_proven).then(|| self.reader.claim(object));
        let placement = self.store.placement_of(object)?;
        for part in placement::plan(placement, &object.pages, self.store.policy) {
            for piece in claims::pieces(object, &part) {
                match part.dense {
                    Some(id) => {
                        let window = self.place_window(id, &part, &piece, &mut claim)?;
                        extents.push(Extent {
                            file_page: part.first_page,
                            segment: window.segment,
                            slot: Slot(window.slot.0 + part.position as u32),
                            count: part.count as u32,
                            dense: true,
                        });
                    }
                    None => self.place_pages(&piece, &mut claim, &mut extents)?,
                }
            }
        }
        if let Some(claim) = claim {
            claim.check()?;
        }
        let map = ExtentMap::new(object.length, extents)
            .map_err(|error| StoreError::Extents(object.id, error))?;
        let phase = match placement {
            Placement::Sparse => 0,
            Placement::Windows { phase } => phase,
        };
        let record = ObjectRecord { phase, map };
        self.batch.put_object(object.id, &record);
        Ok(record)
    }

    fn place_window(
        &mut self,
        id: WindowId,
        part: &WindowPlan,
        piece: &Piece<'_>,
        claim: &mut Option<Claim>,
    ) -> Result<Location> {
        let known = match self.placed_windows.get(&id) {
            Some(placed) => Some(*placed),
            None => self.stored.window(&id)?,
        };
        self.summary.shared_windows += u64::from(known.is_some());
        if let (Some(known), None) = (known, &claim) {
            return Ok(known);
        }
        let at = self.locate(piece)?;
        // Written when it was placed the last time.
        let prepared = match known {
            Some(_) => None,
            None => self.prepared.window(&id),
        };
        let at_hand = match (known, prepared, &claim) {
            (None, None, None) => self.reader.window_at_hand(part, piece),
            _ => None,
        };
        let window = if let (Some(window), None) = (prepared, &claim) {
            window
        } else if let Some(at_hand) = &at_hand {
            let places = at_hand.places();
            self.prepared.write_window(&mut self.hand, id, &places)?
        } else {
            let from = self.reader.places_in_window(known, part, &at);
            let mut content = vec![0; WINDOW_SIZE as usize];
            let start = (part.position * PAGE_SIZE) as usize;
            let inside = &mut content[start..][..piece.pages.len() * PAGE_SIZE as usize];
            self.reader.read(piece, &from, inside)?;
            if let Some(claim) = claim {
                claim.update(piece.first_page, inside);
            }
            match known.or(prepared) {
                Some(window) => window,
                None => self
                    .prepared
                    .write_window(&mut self.hand, id, &[&content[..]])?,
            }
        };
        if known.is_some() {
            return Ok(window);
        }
        if self.stored.has_window(&id)? {
            self.moves = true;
            self.batch.move_window(id, window);
        } else {
            self.batch.add_window(id, window);
        }
        self.placed_windows.insert(id, window);
        self.summary.new_windows += 1;
        self.summary.written_pages += PageCount(piece.pages.iter().flatten().count() as u64);
        for (nth, (id, at)) in piece.pages.iter().zip(at).enumerate() {
            if let (Some(id), None) = (id, at) {
                let slot = Slot(window.slot.0 + part.position as u32 + nth as u32);
                self.record_new(*id, Location { slot, ..window });
            }
        }
        Ok(window)
    }

    fn place_pages(
        &mut self,
        piece: &Piece<'_>,
        claim: &mut Option<Claim>,
        extents: &mut Vec<Extent>,
    ) -> Result<()> {
        let mut at = self.locate(piece)?;
        let known = |(id, at): (&Option<PageId>, &Option<Location>)| id.is_none() || at.is_some();
        let all_known = piece.pages.iter().zip(&at).all(known);
        if !all_known
            && claim.is_none()
            && let Some(content) = self.reader.at_hand(piece)
        {
            self.write_new(piece.pages, &mut at, &content.places())?;
        } else if !all_known || claim.is_some() {
            let mut content = vec![0; piece.pages.len() * PAGE_SIZE as usize];
            if let Some(claim) = claim {
                self.reader.read(piece, &at, &mut content)?;
                claim.update(piece.first_page, &content);
            } else {
                let is_new = |id: &PageId, at: &Option<Location>| {
                    at.is_none() && self.prepared.page(id).is_none()
                };
                let pages = piece.pages.iter().zip(&at);
                let new: Vec<_> = pages
                    .map(|(id, at)| id.filter(|id| is_new(id, at)))
                    .collect();
                let new = Piece {
                    pages: &new,
                    ..*piece
                };
                self.reader.read(&new, &at, &mut content)?;
            }
            self.write_new(piece.pages, &mut at, &[&content[..]])?;
        }
        for (nth, (id, at)) in piece.pages.iter().zip(at).enumerate() {
            let Some(id) = id else { continue };
            let at = at.ok_or_else(|| StoreError::MissingPages(vec![*id]))?;
            extents.push(Extent {
                file_page: piece.first_page + nth as u64,
                segment: at.segment,
                slot: at.slot,
                count: 1,
                dense: false,
            });
        }
        Ok(())
    }

    /// Writes the pages of `content` that are nowhere yet, each once, and fills in where they are.
    fn write_new(
        &mut self,
        pages: &[Option<PageId>],
        at: &mut [Option<Location>],
        content: &[&[u8]],
    ) -> Result<()> {
        let (mut fresh, mut fresh_bytes) = (Vec::new(), Vec::new());
        let mut listed = HashSet::new();
        let bytes = content.iter();
        let bytes = bytes.flat_map(|place| place.chunks(PAGE_SIZE as usize));
        for ((id, at), bytes) in pages.iter().zip(at.iter()).zip(bytes) {
            if let (Some(id), None) = (id, at)
                && listed.insert(*id)
                // Written when it was placed the last time.
                && self.prepared.page(id).is_none()
            {
                fresh.push(*id);
                fresh_bytes.push(bytes);
            }
        }
        if fresh.len() == pages.len() {
            self.prepared.write_pages(&mut self.hand, &fresh, content)?;
        } else {
            self.prepared
                .write_pages(&mut self.hand, &fresh, &fresh_bytes)?;
        }
        self.summary.written_pages += PageCount(listed.len() as u64);
        for (id, at) in pages.iter().zip(at) {
            if let (Some(id), None) = (id, &at)
                && let Some(written) = self.prepared.page(id)
            {
                *at = Some(written);
                self.record_new(*id, written);
            }
        }
        Ok(())
    }

    fn record_new(&mut self, id: PageId, location: Location) {
        if self.placed.insert(id, location).is_none() {
            self.summary.new_pages += PageCount(1);
        }
    }

    /// Where each page is, in one look-up; `None` for zero pages and new ones.
    fn locate(&self, piece: &Piece<'_>) -> Result<Vec<Option<Location>>> {
        let looked = self.known.proven.looked(self.known.moment, piece);
        let mut at = vec![None; piece.pages.len()];
        let (mut asked, mut positions) = (Vec::new(), Vec::new());
        for (position, (id, looked)) in piece.pages.iter().zip(looked).enumerate() {
            let Some(id) = id else { continue };
            if let Some(placed) = self.placed.get(id) {
                at[position] = Some(*placed);
                continue;
            }
            match looked {
                Looked::Nowhere => {}
                // Unless it was found damaged since.
                Looked::Found(found) => at[position] = self.stored.unless_damaged(found),
                Looked::Not => {
                    asked.push(*id);
                    positions.push(position);
                }
            }
        }
        if !asked.is_empty() {
            for (position, found) in positions.into_iter().zip(self.stored.pages(&asked)?) {
                at[position] = found;
            }
        }
        Ok(at)
    }

    /// Every object that the target refers to must be in the upload or in the store, and be long
    /// enough for the ranges that refer to it.
    fn check_required(&mut self, manifest: &UploadManifest) -> Result<()> {
        for (id, needed) in manifest.target.required_objects() {
            let record = if let Some(record) = self.objects.get(&id) {
                record.clone()
            } else {
                // Left out because the pool has it.
                let record = self.stored.whole_object(id)?;
                let record = record.ok_or_else(|| StoreError::UnknownObjects(vec![id]))?;
                self.summary.pages += record.map.page_count();
                self.summary.known_pages += record.map.page_count();
                record
            };
            let enough = PageCount::covering(needed) <= record.map.page_count();
            if !enough {
                return Err(StoreError::BadUpload(format!(
                    "it refers to {needed} bytes of object {id}, which has {}",
                    record.map.length
                )));
            }
            if let Target::Image { description, .. } = &manifest.target
                && description.image.digest == id
                && description.image.length != record.map.length
            {
                return Err(StoreError::BadUpload(format!(
                    "it describes a file of {} bytes, and object {id} has {}",
                    description.image.length, record.map.length
                )));
            }
            self.objects.insert(id, record);
        }
        Ok(())
    }
}
