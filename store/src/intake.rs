//! One commit's placing of pages: what is known is found, what is new is written.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::extent::{Extent, ExtentMap, Slot};
use pool_core::page::{PAGE_SIZE, PageCount, WINDOW_SIZE};

use crate::Store;
use crate::claims::{self, Claim, PageReader, Piece};
use crate::damage::{DamagedSlots, Expected};
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord};
use crate::index::Batch;
use crate::placement::{self, Placement, WindowPlan};
use crate::segment::Appender;
use crate::upload::{CommitSummary, Target, UploadManifest, UploadObject};

/// One commit's placing of pages.
pub(crate) struct Intake<'a, 'w> {
    store: &'a Store,
    appender: &'w mut Appender,
    reader: PageReader<'w>,
    /// Objects whose pages need not be checked.
    proven: &'w HashSet<ObjectId>,
    /// Pages and windows placed by this commit.
    placed: HashMap<PageId, Location>,
    placed_windows: HashMap<WindowId, Location>,
    distinct: HashSet<PageId>,
    batch: Batch<'a>,
    damage: Arc<DamagedSlots>,
    /// An object that was damaged has been placed anew.
    is_mended: bool,
    /// Every object of the upload, known ones included.
    objects: BTreeMap<ObjectId, ObjectRecord>,
    pub(crate) summary: CommitSummary,
}

/// What a commit leaves: changes to write, the objects it refers to, what was done.
type Finished<'a> = (Batch<'a>, BTreeMap<ObjectId, ObjectRecord>, CommitSummary);

impl<'a, 'w> Intake<'a, 'w> {
    pub(crate) fn new(
        store: &'a Store,
        appender: &'w mut Appender,
        reader: PageReader<'w>,
        proven: &'w HashSet<ObjectId>,
    ) -> Self {
        Self {
            store,
            appender,
            reader,
            proven,
            placed: HashMap::new(),
            placed_windows: HashMap::new(),
            distinct: HashSet::new(),
            batch: store.view.index.batch(),
            damage: store.damage(),
            is_mended: false,
            objects: BTreeMap::new(),
            summary: CommitSummary::default(),
        }
    }

    /// True when what others have damaged is here anew.
    pub(crate) fn can_mend(&self) -> bool {
        let placed = |expected: Expected| {
            let page = expected
                .page
                .is_some_and(|id| self.placed.contains_key(&id));
            let window = expected.window.as_ref();
            page || window.is_some_and(|id| self.placed_windows.contains_key(id))
        };
        self.is_mended || self.damage.iter().any(|(_, expected)| placed(expected))
    }

    pub(crate) fn finish(mut self) -> Finished<'a> {
        self.summary.distinct_pages = PageCount(self.distinct.len() as u64);
        (self.batch, self.objects, self.summary)
    }

    /// Takes in one announced object, whether the pool has it or not.
    pub(crate) fn take(&mut self, object: &UploadObject) -> Result<()> {
        let pages = PageCount(object.pages.len() as u64);
        self.summary.pages += pages;
        if self.objects.contains_key(&object.id) {
            self.summary.known_pages += pages;
            return Ok(());
        }
        let record = match self.store.object(object.id)? {
            Some(known) if known.map.length == object.length && self.damage.touch(&known.map) => {
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
        let is_proven = self.proven.contains(&object.id);
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
            None => self.store.whole_window(&id)?,
        };
        self.summary.shared_windows += u64::from(known.is_some());
        if let (Some(known), None) = (known, &claim) {
            return Ok(known);
        }
        let at = self.locate(piece.pages)?;
        let from = self.reader.places_in_window(known, part, &at);
        let mut content = vec![0; WINDOW_SIZE as usize];
        let start = (part.position * PAGE_SIZE) as usize;
        let inside = &mut content[start..][..piece.pages.len() * PAGE_SIZE as usize];
        self.reader.read(piece, &from, inside)?;
        if let Some(claim) = claim {
            claim.update(piece.first_page, inside);
        }
        if let Some(known) = known {
            return Ok(known);
        }
        let window = self.appender.append_window(&content)?;
        self.batch.put_window(id, window);
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
        let mut at = self.locate(piece.pages)?;
        let known = |(id, at): (&Option<PageId>, &Option<Location>)| id.is_none() || at.is_some();
        let all_known = piece.pages.iter().zip(&at).all(known);
        if !all_known || claim.is_some() {
            let mut content = vec![0; piece.pages.len() * PAGE_SIZE as usize];
            if let Some(claim) = claim {
                self.reader.read(piece, &at, &mut content)?;
                claim.update(piece.first_page, &content);
            } else {
                let pages = piece.pages.iter().zip(&at);
                let new: Vec<_> = pages.map(|(id, at)| id.filter(|_| at.is_none())).collect();
                let new = Piece {
                    pages: &new,
                    ..*piece
                };
                self.reader.read(&new, &at, &mut content)?;
            }
            self.write_new(piece.pages, &mut at, &content)?;
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
        content: &[u8],
    ) -> Result<()> {
        let mut fresh = Vec::new();
        let mut fresh_content = Vec::new();
        let mut listed = HashSet::new();
        let bytes = content.chunks(PAGE_SIZE as usize);
        for ((id, at), bytes) in pages.iter().zip(at.iter()).zip(bytes) {
            if let (Some(id), None) = (id, at)
                && listed.insert(*id)
            {
                fresh.push(*id);
                fresh_content.extend_from_slice(bytes);
            }
        }
        let mut fresh = fresh.into_iter();
        for (first, count) in self.appender.append_pages(&fresh_content)? {
            for (nth, id) in (0..count).zip(fresh.by_ref()) {
                let slot = Slot(first.slot.0 + nth);
                self.record_new(id, Location { slot, ..first });
            }
        }
        self.summary.written_pages += PageCount(fresh_content.len() as u64 / PAGE_SIZE);
        for (id, at) in pages.iter().zip(at) {
            if let (Some(id), None) = (id, &at) {
                *at = self.placed.get(id).copied();
            }
        }
        Ok(())
    }

    fn record_new(&mut self, id: PageId, location: Location) {
        if self.placed.insert(id, location).is_none() {
            self.summary.new_pages += PageCount(1);
        }
        self.batch.put_page(id, location);
    }

    /// Where each page is, in one look-up; `None` for zero pages and new ones.
    fn locate(&self, pages: &[Option<PageId>]) -> Result<Vec<Option<Location>>> {
        let mut at = vec![None; pages.len()];
        let (mut asked, mut positions) = (Vec::new(), Vec::new());
        for (position, id) in pages.iter().enumerate() {
            let Some(id) = id else { continue };
            if let Some(placed) = self.placed.get(id) {
                at[position] = Some(*placed);
            } else {
                asked.push(*id);
                positions.push(position);
            }
        }
        for (position, found) in positions.into_iter().zip(self.store.whole_pages(&asked)?) {
            at[position] = found;
        }
        Ok(at)
    }

    /// Every object that the target refers to must be in the upload or in the store, and be long
    /// enough for the ranges that refer to it.
    pub(crate) fn check_required(&mut self, manifest: &UploadManifest) -> Result<()> {
        for (id, needed) in manifest.target.required_objects() {
            let record = if let Some(record) = self.objects.get(&id) {
                record.clone()
            } else {
                // Left out because the pool has it.
                let record = self.store.whole_object(id)?;
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
