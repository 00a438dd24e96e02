//! Copying what is live of one segment, or leaving no trace of having tried.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::moves::Moves;
use super::survey::{LiveSlots, Survey};
use crate::backend::{Backend, SegmentFile};
use crate::collection::{Collection, SkipReason, Skipped, running_barrier};
use crate::damage::DamagedSlots;
use crate::error::{Result, StoreError};
use crate::format::{Location, SegmentRecord, SegmentState};
use crate::proof::read_what_can_be;
use crate::segment::{Appender, Room};

/// Disk that a copy leaves free: the index writes of what moved, and others write meanwhile.
const SPARE_BYTES: u64 = 2 << 20;

/// Bytes of a copy that are waited for at a time. Who syncs anything else meanwhile waits for all that the disk was given before.
const SYNCED_BYTES: u64 = 2 << 20;

/// What became of the attempt to copy a segment.
pub(super) enum Copied {
    /// All of it is copied and durable.
    Whole(Moves),
    /// Nothing of it is.
    Not(Skipped),
}

/// Why a copy was not finished.
enum Failure {
    /// The segment cannot be read, or is not what the index says.
    Damaged(StoreError),
    /// The copy cannot be written.
    Unwritten(StoreError),
}

impl Collection<'_> {
    /// Copies what is live of a segment to new slots and makes it durable.
    ///
    /// # Errors
    ///
    /// When the index cannot be read or written. Everything else that stands in the way is
    /// answered with [`Copied::Not`].
    pub(super) fn copy(&self, segment: SegmentId, survey: &Survey) -> Result<Copied> {
        let not = |reason, why: String| {
            Ok(Copied::Not(Skipped {
                segment,
                reason,
                why,
            }))
        };
        let Some(live) = survey.live.get(&segment) else {
            return Ok(Copied::Whole(Moves::default()));
        };
        let file = match self.store.segment_file(segment) {
            Ok(file) => file,
            Err(StoreError::NoSegment(_)) => {
                self.store.remember(&survey.all_live(segment))?;
                return not(SkipReason::Damaged, "it has no file".into());
            }
            Err(error) => return not(SkipReason::Damaged, error.to_string()),
        };
        let source = Source {
            segment,
            file,
            live,
            survey,
        };
        // A page without an entry would be taken for right, and what is noted of it be forgotten.
        let damage = self.store.damage();
        let first = source.at(Slot(0));
        let mut noted = damage.among(first, u32::MAX).map(|(at, _)| at.slot);
        if let Some(slot) = noted.find(|slot| live.contains(*slot)) {
            let slot = slot.0;
            return not(
                SkipReason::Damaged,
                format!("slot {slot} was found damaged: what has it is to be pushed again"),
            );
        }
        // All of it is read before anything is written: damage stays, and would cost a copy at
        // every collection.
        let found = source.damage();
        if let Some((at, _)) = found.iter().next() {
            // So that the next push of it mends it, and lets the segment go.
            self.store.remember(&found)?;
            let (slot, count) = (at.slot.0, found.len());
            return not(
                SkipReason::Damaged,
                format!(
                    "slot {slot} does not have its content's digest ({count} slots may not): what has it is to be pushed again"
                ),
            );
        }
        let (needed, free) = (live.bytes(), self.store.free_bytes()?);
        if free < with_spare(needed) {
            let spare = with_spare(needed) - needed;
            return not(
                SkipReason::NoRoom,
                format!(
                    "its copy takes {needed} bytes and {spare} to spare, and the disk has {free}"
                ),
            );
        }
        let mut room = Vec::new();
        let failure = match self.copy_to_new(&source, &mut room) {
            Ok(moves) => return Ok(Copied::Whole(moves)),
            Err(failure) => failure,
        };
        if let Err(error) = self.give_back(&room) {
            // They are used by nothing, as after a stop.
            tracing::warn!(%segment, %error, "slots of a copy that failed stay reserved");
        }
        match failure {
            Failure::Damaged(error) => not(SkipReason::Damaged, error.to_string()),
            Failure::Unwritten(error @ StoreError::NoSpace { .. }) => {
                not(SkipReason::NoRoom, error.to_string())
            }
            Failure::Unwritten(error @ StoreError::Io { .. }) => {
                not(SkipReason::NotWritten, error.to_string())
            }
            Failure::Unwritten(error) => Err(error),
        }
    }

    /// Copies a segment; what it reserves is added to `room`, whether it gets to its end or not.
    fn copy_to_new(
        &self,
        source: &Source<'_>,
        room: &mut Vec<Room>,
    ) -> std::result::Result<Moves, Failure> {
        let mut moves = Moves::default();
        let mut target = Target::new(self.store.view.backend.as_ref());
        let mut content = vec![0; WINDOW_SIZE as usize];
        let windows = &source.live.windows;
        let taken =
            self.reserve(|appender| windows.iter().map(|_| appender.reserve_window()).collect())?;
        room.extend_from_slice(&taken);
        for (slot, (to, _)) in windows.iter().zip(taken) {
            source.read_window(*slot, &mut content)?;
            target.write(to, &content)?;
            moves.windows.insert(source.at(*slot), to);
        }
        let single: Vec<_> = source.live.single().collect();
        let mut rest = single.as_slice();
        let taken = self.reserve(|appender| appender.reserve_pages(single.len() as u32))?;
        room.extend_from_slice(&taken);
        for (first, count) in taken {
            let (slots, after) = rest.split_at(count as usize);
            rest = after;
            for (nth, slots) in slots.chunks(PAGES_PER_WINDOW as usize).enumerate() {
                let start = first.slot.0 + (nth as u64 * PAGES_PER_WINDOW) as u32;
                let piece = &mut content[..slots.len() * PAGE_SIZE as usize];
                for (nth, page) in piece.chunks_mut(PAGE_SIZE as usize).enumerate() {
                    source.read_page(slots[nth], page)?;
                    let slot = Slot(start + nth as u32);
                    let to = Location { slot, ..first };
                    moves.pages.insert(source.at(slots[nth]), to);
                }
                let slot = Slot(start);
                target.write(Location { slot, ..first }, piece)?;
            }
        }
        target.sync()?;
        Ok(moves)
    }

    /// Reserves slots and records them as used, so that no rollback hands them out again.
    fn reserve(&self, take: impl Fn(&mut Appender) -> Result<Vec<Room>>) -> Result<Vec<Room>> {
        self.check_goes_on()?;
        let store = self.store;
        store.step_with_slots(&self.longest_hold, take, |turn, room| {
            // If it is not any more, they may be nobody's to write to.
            store.check_trusted()?;
            // Nothing refers to the new slots yet, and no mark knows them.
            let barrier = running_barrier(turn.writer)?;
            for (at, _) in room {
                barrier.protect_segment(at.segment);
            }
            Ok(room.to_vec())
        })
    }

    /// Takes back slots to which nothing refers: their disk, and as far as nobody has appended
    /// behind them meanwhile, the slots themselves. A segment that holds nothing else is retired.
    fn give_back(&self, room: &[Room]) -> Result<()> {
        if self.store.distrusts_index() {
            // They may never have been free. They stay used, by nothing.
            return Ok(());
        }
        // While they are still reserved: nobody else writes there.
        let mut target = Target::new(self.store.view.backend.as_ref());
        for run in room {
            if let Err(error) = target.discard(*run) {
                tracing::warn!(%error, "giving disk back failed");
            }
        }
        self.alone(|writer| {
            writer.appender.begin()?;
            if writer.appender.holders() > 0 {
                // Commits under way may write behind them. They stay used, by nothing.
                return Ok(());
            }
            let mut batch = self.store.view.index.batch();
            let changed = without(&self.store.segments()?, room);
            for (id, record) in &changed {
                batch.put_segment(*id, record);
            }
            batch.commit()?;
            for (id, record) in changed {
                if record.state == SegmentState::Retired {
                    writer.appender.let_go(id);
                }
            }
            // The appender takes up from the records.
            writer.appender.rollback()
        })
    }
}

/// New records of the segments that `room` is in, as if it had not been handed out: a segment that
/// holds nothing else is retired, and slots behind which nothing was appended are free again.
/// Others stay used, by nothing.
fn without(
    segments: &[(SegmentId, SegmentRecord)],
    room: &[Room],
) -> Vec<(SegmentId, SegmentRecord)> {
    let mut changed = Vec::new();
    // One segment of a kind is open at most.
    let mut open: Vec<_> = segments
        .iter()
        .filter(|(_, record)| record.state == SegmentState::Open)
        .copied()
        .collect();
    // The last ones first: those that were begun when the ones before had become full.
    for (id, record) in segments.iter().rev() {
        let runs = room.iter().filter(|(at, _)| at.segment == *id);
        let (first, count) = runs.fold((u32::MAX, 0), |(first, sum), (at, count)| {
            (first.min(at.slot.0), sum + count)
        });
        let mut record = *record;
        if count == 0 || first.checked_add(count) != Some(record.used) {
            continue;
        }
        if first == 0 {
            record.state = SegmentState::Retired;
            open.retain(|(other, _)| other != id);
        } else if open
            .iter()
            .all(|(other, open)| other == id || open.kind != record.kind)
        {
            record.state = SegmentState::Open;
            record.used = first;
            open.push((*id, record));
        } else {
            continue;
        }
        changed.push((*id, record));
    }
    changed
}

/// `bytes`, and what should be left on the disk beside them: a sixteenth is more than the records
/// of as many pages.
fn with_spare(bytes: u64) -> u64 {
    bytes + bytes / 16 + SPARE_BYTES
}

/// The segments that are copied to, opened for this alone. The kernel tells of a page that did not
/// get to the disk once to each who has the file open (fsync(2)), and uploads write to the same files
/// and sync them: neither may hear of what the other has lost in its place.
struct Target<'a> {
    backend: &'a dyn Backend,
    files: HashMap<SegmentId, Arc<dyn SegmentFile>>,
    /// Bytes written since the last sync.
    unsynced: u64,
}

impl<'a> Target<'a> {
    fn new(backend: &'a dyn Backend) -> Self {
        Self {
            backend,
            files: HashMap::new(),
            unsynced: 0,
        }
    }

    fn file(&mut self, id: SegmentId) -> Result<&dyn SegmentFile> {
        let file = match self.files.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.backend.open(id, true)?),
        };
        Ok(&**file)
    }

    fn write(&mut self, at: Location, content: &[u8]) -> Result<()> {
        self.file(at.segment)?
            .write_all_at(content, at.slot.byte_offset())
            .map_err(|source| {
                StoreError::io("writing the segment", at.segment.to_string(), source)
            })?;
        self.unsynced += content.len() as u64;
        if self.unsynced >= SYNCED_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Gives the disk under a run of slots back.
    fn discard(&mut self, (at, count): Room) -> Result<()> {
        self.file(at.segment)?
            .discard(at.slot.byte_offset(), u64::from(count) * PAGE_SIZE)
            .map_err(|source| {
                StoreError::io("emptying the segment", at.segment.to_string(), source)
            })
    }

    /// Makes all that was written durable.
    fn sync(&mut self) -> Result<()> {
        self.unsynced = 0;
        for (id, file) in &self.files {
            file.sync()
                .map_err(|source| StoreError::io("syncing the segment", id.to_string(), source))?;
        }
        Ok(())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Unwritten(error)
    }
}

/// A segment to be copied.
struct Source<'a> {
    segment: SegmentId,
    file: Arc<dyn SegmentFile>,
    live: &'a LiveSlots,
    survey: &'a Survey,
}

impl Source<'_> {
    fn at(&self, slot: Slot) -> Location {
        let segment = self.segment;
        Location { segment, slot }
    }

    /// Reads everything that is to be copied, and answers with what of it is not what it should be.
    fn damage(&self) -> DamagedSlots {
        let mut damage = DamagedSlots::default();
        let mut content = vec![0; WINDOW_SIZE as usize];
        let read = |slot: Slot, content: &mut [u8]| {
            read_what_can_be(
                self.file.as_ref(),
                self.segment,
                content,
                slot.byte_offset(),
            )
        };
        for slot in &self.live.windows {
            let is_read = read(*slot, &mut content);
            let at = self.at(*slot);
            self.survey
                .look_at_window(at, &content, is_read, &mut damage);
        }
        let page = &mut content[..PAGE_SIZE as usize];
        for slot in self.live.single() {
            let is_read = read(slot, page);
            self.survey
                .look_at_page(self.at(slot), page, is_read, &mut damage);
        }
        damage
    }

    fn read_window(&self, slot: Slot, content: &mut [u8]) -> std::result::Result<(), Failure> {
        self.read(slot, content)
            .and_then(|()| self.survey.check_window(self.at(slot), content))
            .map_err(Failure::Damaged)
    }

    fn read_page(&self, slot: Slot, page: &mut [u8]) -> std::result::Result<(), Failure> {
        self.read(slot, page)
            .and_then(|()| self.survey.check_page(self.at(slot), page))
            .map_err(Failure::Damaged)
    }

    fn read(&self, slot: Slot, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, slot.byte_offset())
            .map_err(|error| StoreError::io("reading the segment", self.segment.to_string(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::SegmentKind::{self, Dense, Sparse};
    use crate::format::SegmentState::{Open, Retired, Sealed};

    fn segment(
        id: u32,
        kind: SegmentKind,
        state: SegmentState,
        used: u32,
    ) -> (SegmentId, SegmentRecord) {
        let record = SegmentRecord {
            kind,
            state,
            used,
            capacity: 1024,
        };
        (SegmentId(id), record)
    }

    fn run(segment: u32, slot: u32, count: u32) -> (Location, u32) {
        let at = Location {
            segment: SegmentId(segment),
            slot: Slot(slot),
        };
        (at, count)
    }

    #[test]
    fn slots_at_the_end_are_free_again_and_new_segments_go() {
        // Filled 3 up, then 4, and began 5; 6 is of the other kind.
        let segments = [
            segment(3, Sparse, Sealed, 1024),
            segment(4, Sparse, Sealed, 1024),
            segment(5, Sparse, Open, 10),
            segment(6, Dense, Open, 512),
        ];
        let room = [run(3, 1000, 24), run(4, 0, 1024), run(5, 0, 10)];
        let changed = without(&segments, &room);
        let expected = [
            segment(5, Sparse, Retired, 10),
            segment(4, Sparse, Retired, 1024),
            segment(3, Sparse, Open, 1000),
        ];
        assert_eq!(changed, expected);
    }

    #[test]
    fn what_others_appended_behind_stays() {
        let segments = [
            segment(3, Sparse, Sealed, 1024),
            segment(5, Sparse, Open, 12),
            segment(6, Dense, Open, 1024),
        ];
        // Behind the run in 5 and between those in 6.
        let room = [run(3, 1000, 24), run(5, 0, 10), run(6, 0, 512)];
        assert_eq!(without(&segments, &room), []);
        let room = [run(5, 2, 4), run(5, 6, 6)];
        assert_eq!(
            without(&segments, &room),
            [segment(5, Sparse, Open, 2)],
            "two runs of one copy"
        );
    }
}
