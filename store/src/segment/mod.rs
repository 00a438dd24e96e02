//! Appending to segments.
//!
//! Two segments are open at a time: one takes whole 2 MiB windows, the other single pages. A
//! window is written in one aligned piece, because that is what makes the page cache keep it as
//! one 2 MiB folio. Single pages are written in runs that end at the next 2 MiB boundary; the
//! last run of a commit may be shorter, since pages of a sparse segment are mapped one by one
//! and rewriting an acknowledged page to fill up a piece would put it at risk in a power cut.
//!
//! Slots are handed out under the writer's lock and filled without it. Several commits have some at a time, and whichever
//! comes first puts all that were handed out by then on record as used. What one gives up lies among those of
//! others then, and is used by nothing until a collection moves them.
//!
//! While the index is not [trusted](crate::distrust) nothing that was there before is touched: the journal may have more in it than
//! the index says. Segments are begun anew then, of numbers that nobody has had.

mod trust;

use std::collections::HashMap;
use std::sync::Arc;

use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW};

use crate::backend::Backend;
use crate::distrust::{Distrust, NOBODYS};
use crate::error::{Result, StoreError};
use crate::format::{Location, SegmentKind, SegmentRecord, SegmentState};
use crate::group::Groups;
use crate::index::{Batch, Index};
use crate::room::{self, Promise, Promised};
use crate::target::Target;
use crate::used::has_data;

/// A run of reserved slots: the first, and how many.
pub(crate) type Room = (Location, u32);

/// A run of slots to fill, and the file that they are in.
pub(crate) type Taken = (Arc<Target>, Room);

/// A segment that is being appended to.
#[derive(Debug)]
struct OpenSegment {
    target: Arc<Target>,
    record: SegmentRecord,
}

/// What is on record of a segment once a batch is committed.
#[derive(Debug)]
pub(crate) struct Recorded {
    target: Arc<Target>,
    used: u32,
}

impl Recorded {
    /// The batch is committed.
    pub(crate) fn confirm(&self) {
        self.target.record(self.used);
    }
}

/// Hands out slots. What it handed out counts only once a batch that [`Appender::record`] added to is committed; see
/// [`Appender::rollback`].
#[derive(Debug)]
pub(crate) struct Appender {
    backend: Arc<dyn Backend>,
    index: Arc<Index>,
    groups: Arc<Groups>,
    distrust: Arc<Distrust>,
    /// While the index is not trusted: the number of the first segment that was begun since.
    begun_from: Option<u64>,
    /// Left open beside those that are appended to, from a time in which the index was not trusted, or without room for more.
    left: Vec<SegmentId>,
    /// Bytes of slots that were handed out and are not filled yet.
    promised: Arc<Promised>,
    segment_slots: u32,
    next: u64,
    dense: Option<OpenSegment>,
    sparse: Option<OpenSegment>,
    /// On record, and nothing was ever committed to them; they may lack a file.
    spare: Vec<SegmentId>,
    /// Full, and not on record as that yet.
    sealed: Vec<OpenSegment>,
    /// Commits that may have slots which are on no record yet.
    holders: usize,
    /// Runs of such slots, by segment.
    held: HashMap<SegmentId, usize>,
    /// Groups of commits that were known to have come to nothing.
    failed: u64,
    /// Writing a batch with such slots failed, and none was committed since.
    in_doubt: bool,
}

impl Appender {
    /// Takes up where the last commit left off.
    pub(crate) fn open(
        backend: Arc<dyn Backend>,
        index: &Arc<Index>,
        groups: &Arc<Groups>,
        distrust: &Arc<Distrust>,
        promised: &Arc<Promised>,
        segment_bytes: u64,
    ) -> Result<Self> {
        let mut appender = Self {
            backend,
            index: Arc::clone(index),
            groups: Arc::clone(groups),
            distrust: Arc::clone(distrust),
            begun_from: None,
            left: Vec::new(),
            promised: Arc::clone(promised),
            segment_slots: (segment_bytes / PAGE_SIZE) as u32,
            next: 0,
            dense: None,
            sparse: None,
            spare: Vec::new(),
            sealed: Vec::new(),
            holders: 0,
            held: HashMap::new(),
            failed: 0,
            in_doubt: false,
        };
        appender.look_at_trust()?;
        appender.reload(&index.now().segments()?)?;
        Ok(appender)
    }

    /// To be called before anything is handed out: ends the doubt that a failed write has left, gives
    /// back what it handed out, and looks at what files the open segments have now.
    ///
    /// # Errors
    ///
    /// When the index takes no writes yet, or a file cannot be opened. Nothing was handed out then.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.look_at_trust()?;
        self.seal_left()?;
        self.look_for_doubt();
        if self.in_doubt {
            self.end_doubt()?;
        }
        self.look_again(SegmentKind::Dense)?;
        self.look_again(SegmentKind::Sparse)
    }

    /// [Begins](Self::begin) for a commit that holds what it gets until it [lets go](Self::release).
    pub(crate) fn hold(&mut self) -> Result<()> {
        self.begin()?;
        self.holders += 1;
        Ok(())
    }

    /// Ends what [`Appender::hold`] has begun, for a commit that had these runs: all of them are on record, or it has
    /// given up.
    pub(crate) fn release(&mut self, runs: &[Taken]) {
        self.holders -= 1;
        for (target, _) in runs {
            if let Some(held) = self.held.get_mut(&target.id()) {
                *held -= 1;
            }
        }
        self.held.retain(|_, runs| *runs > 0);
    }

    /// True when a commit under way may have slots of a segment which are on no record yet.
    pub(crate) fn is_held(&self, id: SegmentId) -> bool {
        self.held.contains_key(&id)
    }

    /// Commits under way that may have slots which are on no record yet.
    pub(crate) fn holders(&self) -> usize {
        self.holders
    }

    fn look_for_doubt(&mut self) {
        let failed = self.groups.failed();
        if std::mem::replace(&mut self.failed, failed) != failed {
            self.in_doubt |= self.index.is_in_doubt();
        }
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

    /// Forgets everything that was handed out since the last commit, and gives its disk back. The
    /// slots are used again; no record refers to them. While commits are under way that have some, it does nothing.
    ///
    /// A batch whose write failed may turn out to be durable when the index is opened again, and
    /// must then find the pages that it names. So after such a failure all stays where it is, until
    /// [`Appender::begin`] finds that the index takes writes again.
    pub(crate) fn rollback(&mut self) -> Result<()> {
        self.look_at_trust()?;
        self.look_for_doubt();
        if self.in_doubt || self.holders > 0 {
            return Ok(());
        }
        let records = self.index.now().segments()?;
        for segment in self.touched() {
            // What was committed is what the index says.
            let id = segment.target.id();
            let record = records.iter().find(|(other, _)| *other == id);
            if let Some(next) = record.and_then(|(_, record)| record.next_unit()) {
                segment.discard_from(Slot(next));
            }
        }
        self.reload(&records)
    }

    /// True when what a failed commit has filled may be there at the next opening.
    pub(crate) fn is_in_doubt(&mut self) -> bool {
        self.look_for_doubt();
        self.in_doubt
    }

    /// Appends no more to a segment that a commit has just retired.
    pub(crate) fn let_go(&mut self, id: SegmentId) {
        for open in [&mut self.dense, &mut self.sparse] {
            open.take_if(|segment| segment.target.id() == id);
        }
        self.sealed.retain(|segment| segment.target.id() != id);
        self.spare.retain(|&spare| spare != id);
    }

    fn reload(&mut self, records: &[(SegmentId, SegmentRecord)]) -> Result<()> {
        let next = self.index.now().next_segment()?;
        // A number that a record has is nobody else's.
        let after = |(id, _): &(SegmentId, SegmentRecord)| u64::from(id.0) + 1;
        let next = next.max(records.iter().map(after).max().unwrap_or(0));
        self.next = match self.begun_from {
            // It is not believed before it has one of these.
            Some(from) if !(from..NOBODYS.into()).contains(&next) => from,
            _ => next,
        };
        self.dense = None;
        self.sparse = None;
        self.sealed.clear();
        self.spare.clear();
        self.left.clear();
        for &(id, record) in records {
            let is_kept_off = self.begun_from.is_some_and(|from| u64::from(id.0) < from);
            if is_kept_off || record.state != SegmentState::Open {
                continue;
            }
            if record.used == 0 {
                self.spare.push(id);
                continue;
            }
            // What is on record may be wrong, and a window goes nowhere but to a multiple of 2 MiB.
            let Some(used) = record.next_unit() else {
                self.left.push(id);
                continue;
            };
            let record = SegmentRecord { used, ..record };
            let file = self.backend.open(id, true)?;
            let target = Arc::new(Target::new(id, file, used));
            let before = self
                .open_segment(record.kind)
                .replace(OpenSegment { target, record });
            self.left.extend(before.map(|before| before.target.id()));
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
        self.look_at_trust()?;
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
        let target = Arc::new(Target::new(id, file, 0));
        Ok(OpenSegment { target, record })
    }

    /// Moves a full segment out of the way.
    fn seal_if_full(&mut self, kind: SegmentKind) {
        let open = self.open_segment(kind);
        if open
            .as_ref()
            .is_some_and(|segment| segment.record.next_unit().is_none())
        {
            let mut full = open.take().expect("checked above");
            full.record.state = SegmentState::Sealed;
            self.sealed.push(full);
        }
    }

    /// Promises the disk for so many bytes of a commit's slots, until they are filled.
    ///
    /// # Errors
    ///
    /// When less than [`KEPT`](crate::room::KEPT) would be left.
    pub(crate) fn promise(&mut self, bytes: u64) -> Result<Promise> {
        let backend = Arc::clone(&self.backend);
        let free = || backend.free_bytes();
        if let Some(promise) = self.promised.add(bytes, free)? {
            return Ok(promise);
        }
        // A kill leaves what uploads under way had written.
        self.look_at_trust()?;
        self.discard_leftovers();
        let promise = self.promised.add(bytes, free)?;
        promise.ok_or_else(|| room::none_left("the segments"))
    }

    /// Gives the disk back under slots that were never handed out.
    fn discard_leftovers(&self) {
        for open in [&self.dense, &self.sparse].into_iter().flatten() {
            let from = Slot(open.record.used);
            if has_data(open.target.file(), from) {
                open.discard_from(from);
            }
        }
        for id in &self.spare {
            let bytes = u64::from(self.segment_slots) * PAGE_SIZE;
            let discarded = self.backend.open(*id, true).and_then(|file| {
                if !has_data(file.as_ref(), Slot(0)) {
                    return Ok(());
                }
                let discarded = file.discard(0, bytes);
                discarded.map_err(|error| StoreError::io("punching", id.to_string(), error))
            });
            match discarded {
                Ok(()) | Err(StoreError::NoSegment(_)) => {}
                Err(error) => tracing::warn!(segment = %id, %error, "giving disk back failed"),
            }
        }
    }

    /// Hands out the slots of one window to a commit that [holds](Self::hold) them.
    pub(crate) fn take_window(&mut self) -> Result<Taken> {
        let segment = self.with_room(SegmentKind::Dense)?;
        let room = segment.reserve(PAGES_PER_WINDOW as u32);
        let target = Arc::clone(&segment.target);
        self.seal_if_full(SegmentKind::Dense);
        *self.held.entry(target.id()).or_default() += 1;
        Ok((target, room))
    }

    /// Hands out `count` single slots, likewise, in runs that end at 2 MiB boundaries. Adds each of them to `taken`, whether
    /// there are enough or not.
    pub(crate) fn take_pages(&mut self, mut count: u32, taken: &mut Vec<Taken>) -> Result<()> {
        while count > 0 {
            let segment = self.with_room(SegmentKind::Sparse)?;
            let boundary = PAGES_PER_WINDOW as u32;
            let record = &segment.record;
            let left = record.capacity - record.used;
            let run = count.min(boundary - record.used % boundary).min(left);
            let room = segment.reserve(run);
            let target = Arc::clone(&segment.target);
            count -= run;
            self.seal_if_full(SegmentKind::Sparse);
            *self.held.entry(target.id()).or_default() += 1;
            taken.push((target, room));
        }
        Ok(())
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

    /// Adds the new state of all segments that have changed to `batch`, which is to join the group that is gathering.
    pub(crate) fn record(&mut self, batch: &mut Batch<'_>) -> Vec<Recorded> {
        self.sealed.retain(OpenSegment::is_touched);
        let touched = self.touched().map(|segment| {
            batch.put_segment(segment.target.id(), &segment.record);
            Recorded {
                target: Arc::clone(&segment.target),
                used: segment.record.used,
            }
        });
        touched.collect()
    }

    fn touched(&self) -> impl Iterator<Item = &OpenSegment> {
        let open = [&self.dense, &self.sparse].into_iter().flatten();
        open.chain(&self.sealed)
            .filter(|segment| segment.is_touched())
    }
}

impl OpenSegment {
    /// True when slots of it are not on record as used.
    fn is_touched(&self) -> bool {
        self.target.recorded() != self.record.used
    }

    /// A refused upload must not take up the disk that the next one needs.
    fn discard_from(&self, slot: Slot) {
        let from = slot.byte_offset();
        let bytes = u64::from(self.record.capacity) * PAGE_SIZE - from;
        if bytes > 0
            && let Err(error) = self.target.file().discard(from, bytes)
        {
            tracing::warn!(segment = %self.target.id(), %error, "giving disk back failed");
        }
    }

    /// Advances past `count` slots that the caller fills. The caller has checked that they fit.
    fn reserve(&mut self, count: u32) -> Room {
        let location = Location {
            segment: self.target.id(),
            slot: Slot(self.record.used),
        };
        self.record.used += count;
        (location, count)
    }
}
