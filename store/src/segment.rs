//! Appending to segments.
//!
//! Two segments are open at a time: one takes whole 2 MiB windows, the other single pages. A
//! window is written in one aligned piece, because that is what makes the page cache keep it as
//! one 2 MiB folio. Single pages are written in runs that end at the next 2 MiB boundary; the
//! last run of a commit may be shorter, since pages of a sparse segment are mapped one by one
//! and rewriting an acknowledged page to fill up a piece would put it at risk in a power cut.

use std::sync::Arc;

use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use crate::backend::{Backend, SegmentFile};
use crate::error::{Result, StoreError};
use crate::format::{Location, SegmentKind, SegmentRecord, SegmentState};
use crate::index::{Batch, Index};

/// A run of reserved slots: the first, and how many.
pub(crate) type Room = (Location, u32);

/// A segment that is being appended to.
#[derive(Debug)]
struct OpenSegment {
    id: SegmentId,
    record: SegmentRecord,
    file: Arc<dyn SegmentFile>,
    /// Written to since the last commit.
    dirty: bool,
}

/// Hands out slots and fills them. What it handed out counts only once the batch that
/// [`Appender::record`] adds to is committed; see [`Appender::rollback`].
#[derive(Debug)]
pub(crate) struct Appender {
    backend: Arc<dyn Backend>,
    index: Arc<Index>,
    segment_slots: u32,
    next: u64,
    dense: Option<OpenSegment>,
    sparse: Option<OpenSegment>,
    /// On record, and nothing was ever committed to them; they may lack a file.
    spare: Vec<SegmentId>,
    /// Filled since the last commit.
    sealed: Vec<OpenSegment>,
    /// What was appended since the last commit is in a batch.
    recorded: bool,
    /// Writing such a batch failed, and none was committed since.
    in_doubt: bool,
}

impl Appender {
    /// Takes up where the last commit left off.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        index: &Arc<Index>,
        segment_bytes: u64,
    ) -> Result<Self> {
        let mut appender = Self {
            backend,
            index: Arc::clone(index),
            segment_slots: (segment_bytes / PAGE_SIZE) as u32,
            next: 0,
            dense: None,
            sparse: None,
            spare: Vec::new(),
            sealed: Vec::new(),
            recorded: false,
            in_doubt: false,
        };
        appender.reload(&index.now().segments()?)?;
        Ok(appender)
    }

    /// To be called before anything is appended: ends the doubt that a failed write has left, gives
    /// back what it appended, and looks at what files the open segments have now.
    ///
    /// # Errors
    ///
    /// When the index takes no writes yet, or a file cannot be opened. Nothing was appended then.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if self.in_doubt {
            self.end_doubt()?;
        }
        self.look_again(SegmentKind::Dense)?;
        self.look_again(SegmentKind::Sparse)
    }

    /// Opens the file of the open segment of a kind anew: somebody may have removed it, or put a copy
    /// in its place, and whatever is appended to one that has no name is lost once it is closed. A segment without a
    /// file gets no more.
    fn look_again(&mut self, kind: SegmentKind) -> Result<()> {
        let Some(open) = self.open_segment(kind) else {
            return Ok(());
        };
        let (id, mut record) = (open.id, open.record);
        match self.backend.open(id, true) {
            Ok(file) => {
                if let Some(open) = self.open_segment(kind) {
                    open.file = file;
                }
                return Ok(());
            }
            Err(StoreError::NoSegment(_)) => {}
            Err(error) => return Err(error),
        }
        tracing::error!(segment = %id, "it has no file any more (pool scrub names objects)");
        record.state = SegmentState::Sealed;
        let mut batch = self.index.batch();
        batch.put_segment(id, &record);
        batch.commit()?;
        *self.open_segment(kind) = None;
        Ok(())
    }

    fn end_doubt(&mut self) -> Result<()> {
        // RocksDB takes no write after a failed one before it has written out all that was
        // committed and begun another log, so what is committed now is what is there at the next
        // opening, and the failed batch is not.
        let mut batch = self.index.batch();
        batch.put_next_segment(self.next);
        batch.commit()?;
        self.in_doubt = false;
        self.rollback()
    }

    /// Forgets everything that was appended since the last commit, and gives its disk back. The
    /// slots are used again; no record refers to them.
    ///
    /// A batch whose write failed may turn out to be durable when the index is opened again, and
    /// must then find the pages that it names. So after such a failure all stays where it is, until
    /// [`Appender::begin`] finds that the index takes writes again.
    pub(crate) fn rollback(&mut self) -> Result<()> {
        // What the journal has taken back is not there at the next opening, either.
        self.in_doubt |= self.recorded && self.index.is_in_doubt();
        self.recorded = false;
        if self.in_doubt {
            return Ok(());
        }
        let records = self.index.now().segments()?;
        for segment in self.touched() {
            // What was committed is what the index says.
            if let Some((_, record)) = records.iter().find(|(id, _)| *id == segment.id) {
                segment.discard_from(Slot(record.used));
            }
        }
        self.reload(&records)
    }

    /// Appends no more to a segment that a commit has just retired.
    pub(crate) fn let_go(&mut self, id: SegmentId) {
        for open in [&mut self.dense, &mut self.sparse] {
            open.take_if(|segment| segment.id == id);
        }
        self.sealed.retain(|segment| segment.id != id);
        self.spare.retain(|&spare| spare != id);
    }

    fn reload(&mut self, records: &[(SegmentId, SegmentRecord)]) -> Result<()> {
        self.next = self.index.now().next_segment()?;
        self.dense = None;
        self.sparse = None;
        self.sealed.clear();
        self.spare.clear();
        for &(id, record) in records {
            if record.state == SegmentState::Open && record.used == 0 {
                self.spare.push(id);
            } else if record.state == SegmentState::Open {
                let file = self.backend.open(id, true)?;
                *self.open_segment(record.kind) = Some(OpenSegment {
                    id,
                    record,
                    file,
                    dirty: false,
                });
            }
        }
        Ok(())
    }

    fn open_segment(&mut self, kind: SegmentKind) -> &mut Option<OpenSegment> {
        match kind {
            SegmentKind::Dense => &mut self.dense,
            SegmentKind::Sparse => &mut self.sparse,
        }
    }

    /// The open segment of `kind`, with room for at least one unit of it.
    fn with_room(&mut self, kind: SegmentKind) -> Result<&mut OpenSegment> {
        if self.open_segment(kind).is_none() {
            let created = self.create(kind)?;
            *self.open_segment(kind) = Some(created);
        }
        Ok(self.open_segment(kind).as_mut().expect("set above"))
    }

    fn create(&mut self, kind: SegmentKind) -> Result<OpenSegment> {
        let record = SegmentRecord {
            kind,
            state: SegmentState::Open,
            used: 0,
            capacity: self.segment_slots,
        };
        let bytes = u64::from(self.segment_slots) * PAGE_SIZE;
        let (id, file) = if let Some(id) = self.spare.pop() {
            (id, self.backend.recreate(id, bytes)?)
        } else {
            let id = u32::try_from(self.next)
                .map(SegmentId)
                .map_err(|_| StoreError::Corrupt("all segment numbers are used up".into()))?;
            // The record goes before the file, so that whatever stops this commit leaves no file
            // that the index does not know.
            let mut batch = self.index.batch();
            batch.put_segment(id, &record);
            batch.put_next_segment(self.next + 1);
            batch.commit()?;
            self.next += 1;
            (id, self.backend.create(id, bytes)?)
        };
        Ok(OpenSegment {
            id,
            record,
            file,
            dirty: true,
        })
    }

    /// Moves a full segment out of the way.
    fn seal_if_full(&mut self, kind: SegmentKind) {
        let open = self.open_segment(kind);
        if open
            .as_ref()
            .is_some_and(|segment| segment.record.used == segment.record.capacity)
        {
            let mut full = open.take().expect("checked above");
            full.record.state = SegmentState::Sealed;
            self.sealed.push(full);
        }
    }

    /// Writes one window of exactly 2 MiB and says where it is.
    pub(crate) fn append_window(&mut self, content: &[u8]) -> Result<Location> {
        debug_assert_eq!(content.len() as u64, WINDOW_SIZE);
        let location = self.with_room(SegmentKind::Dense)?.append(content)?;
        self.seal_if_full(SegmentKind::Dense);
        Ok(location)
    }

    /// Writes whole pages one after the other and says where each run of them is: (location of
    /// the first page, pages).
    pub(crate) fn append_pages(&mut self, mut content: &[u8]) -> Result<Vec<(Location, u32)>> {
        debug_assert!((content.len() as u64).is_multiple_of(PAGE_SIZE));
        let mut runs = Vec::new();
        while !content.is_empty() {
            let segment = self.with_room(SegmentKind::Sparse)?;
            let to_boundary = PAGES_PER_WINDOW - u64::from(segment.record.used) % PAGES_PER_WINDOW;
            let bytes = (content.len() as u64).min(to_boundary * PAGE_SIZE);
            let (piece, rest) = content.split_at(bytes as usize);
            runs.push((segment.append(piece)?, (bytes / PAGE_SIZE) as u32));
            content = rest;
            self.seal_if_full(SegmentKind::Sparse);
        }
        Ok(runs)
    }

    /// Hands out one window for [`crate::evacuate`] to fill. Counts once recorded and committed.
    pub(crate) fn reserve_window(&mut self) -> Result<Room> {
        let segment = self.with_room(SegmentKind::Dense)?;
        let room = segment.reserve(PAGES_PER_WINDOW as u32);
        self.seal_if_full(SegmentKind::Dense);
        Ok(room)
    }

    /// Hands out `count` single slots in runs, likewise.
    pub(crate) fn reserve_pages(&mut self, mut count: u32) -> Result<Vec<Room>> {
        let mut runs = Vec::new();
        while count > 0 {
            let segment = self.with_room(SegmentKind::Sparse)?;
            let run = count.min(segment.record.capacity - segment.record.used);
            runs.push(segment.reserve(run));
            count -= run;
            self.seal_if_full(SegmentKind::Sparse);
        }
        Ok(runs)
    }

    /// Makes all that was appended durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        for segment in self.touched() {
            segment.file.sync().map_err(|source| {
                StoreError::io("syncing the segment", segment.id.to_string(), source)
            })?;
        }
        Ok(())
    }

    /// Adds the new state of all touched segments to `batch`, which is to be committed next.
    pub(crate) fn record(&mut self, batch: &mut Batch<'_>) {
        self.recorded = true;
        for segment in self.touched() {
            batch.put_segment(segment.id, &segment.record);
        }
        batch.put_next_segment(self.next);
    }

    /// Notes that the batch was committed.
    pub(crate) fn committed(&mut self) {
        self.recorded = false;
        self.in_doubt = false;
        self.sealed.clear();
        for segment in [&mut self.dense, &mut self.sparse].into_iter().flatten() {
            segment.dirty = false;
        }
    }

    fn touched(&self) -> impl Iterator<Item = &OpenSegment> {
        let open = [&self.dense, &self.sparse].into_iter().flatten();
        open.filter(|segment| segment.dirty).chain(&self.sealed)
    }
}

impl OpenSegment {
    /// A refused upload must not take up the disk that the next one needs.
    fn discard_from(&self, slot: Slot) {
        let from = slot.byte_offset();
        let bytes = u64::from(self.record.capacity) * PAGE_SIZE - from;
        if bytes > 0
            && let Err(error) = self.file.discard(from, bytes)
        {
            tracing::warn!(segment = %self.id, %error, "giving disk back failed");
        }
    }

    /// Advances past `count` slots that the caller fills. The caller has checked that they fit.
    fn reserve(&mut self, count: u32) -> Room {
        let location = Location {
            segment: self.id,
            slot: Slot(self.record.used),
        };
        self.dirty = true;
        self.record.used += count;
        (location, count)
    }

    /// Writes `content` at the first free slot. The caller has checked that it fits.
    fn append(&mut self, content: &[u8]) -> Result<Location> {
        let slot = Slot(self.record.used);
        self.dirty = true;
        self.file
            .write_all_at(content, slot.byte_offset())
            .map_err(|source| StoreError::io("writing the segment", self.id.to_string(), source))?;
        self.record.used += (content.len() as u64 / PAGE_SIZE) as u32;
        Ok(Location {
            segment: self.id,
            slot,
        })
    }
}
