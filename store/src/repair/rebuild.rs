//! Making an index anew from the journal and the segments.
//!
//! The newest checkpoint and the commits after it have everything but where pages and windows are. That is found out by
//! reading: first all objects, each of which says by its digest whether its pages are right, then the slots that whole ones refer
//! to. The pages of damaged objects get no entry, so that nothing else is made of them, and their slots are noted, so that the next
//! push of the objects mends them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pool_core::digest::ObjectId;
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::diagnosis::lost_segments;
use super::mark_unfinished;
use crate::StoreView;
use crate::backend::{Backend, SegmentFile};
use crate::catalogue::Entry;
use crate::damage::{self, Expected};
use crate::error::{Result, StoreError};
use crate::format::{self, Location, ObjectRecord, SegmentKind, SegmentRecord};
use crate::index::{Batch, Index, records};
use crate::journal::{self, Found, Journal, checkpoint::checkpoint};
use crate::opening::may_lack_file;
use crate::places::put_places;
use crate::progress::Progress;
use crate::proof::read_what_can_be;
use crate::slots::{Segments, Slots, SlotsOfSegments, bytes_of};
use crate::superblock::Superblock;
use crate::upload::page_ids;
use crate::used::Reach;

/// Bytes of changes that are written as one.
const BATCH: usize = 4 << 20;

/// What was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) replayed: u64,
    pub(super) objects: u64,
    pub(super) damaged: Vec<ObjectId>,
    /// What is wrong with segments.
    pub(super) left: Vec<String>,
}

/// Where the index is made before it has its name.
pub(super) fn new(directory: &Path) -> PathBuf {
    directory.join(format!("{}.new", format::INDEX_DIRECTORY))
}

/// Makes an index from the journal, which was found whole, beside the one that is there.
pub(super) fn rebuild(
    directory: &Path,
    superblock: &Superblock,
    backend: &Arc<dyn Backend>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Made> {
    let path = new(directory);
    clear(directory)?;
    mark_unfinished(directory)?;
    let index = Index::make(&path)?;
    let journal = directory.join(format::JOURNAL_DIRECTORY);
    let newest = take_records(&journal, superblock, &index)?;
    // To read objects as everybody does.
    let view = StoreView::assemble(directory, *superblock, index, Arc::clone(backend))?;
    let contents = Contents::of(&view)?;
    if are_elsewhere(backend.as_ref(), &contents.segments) {
        // An index that was made so would know no page for good.
        drop(view);
        super::end(directory)?;
        return Err(StoreError::Refused {
            path: directory.into(),
            why: "none of its segments has a file: put the segments back, or mount what holds them, then repair again"
                .into(),
        });
    }
    let mut state = Progress::begin(contents.bytes());
    let mut tell = |bytes| progress(state.step(bytes, bytes));
    let (good, bad, damaged) = contents.verify(&view, &mut tell);
    let mut batch = view.index.batch();
    for kind in [SegmentKind::Dense, SegmentKind::Sparse] {
        // Of a page that is kept twice the place outside of windows is the one that others find: it is put later.
        for (id, record) in contents
            .segments
            .iter()
            .filter(|(_, record)| record.kind == kind)
        {
            if let Some(slots) = good.of(*id) {
                let nothing = Slots::default();
                let bad = bad.of(*id).unwrap_or(&nothing);
                take_places(&view, (*id, record), slots, bad, &mut batch, &mut tell)?;
            }
        }
    }
    note_damage(&view, &good, &bad, &mut batch)?;
    batch.put_now()?;
    let index = &view.index;
    index.begin_counting(superblock.identity, newest.last, Some(newest.digest))?;
    Ok(Made {
        replayed: newest.last - newest.checkpoint,
        objects: contents.objects.len() as u64,
        damaged,
        left: lost_segments(backend.as_ref(), contents.segments),
    })
}

/// True when there are segments, and no file of any.
fn are_elsewhere(backend: &dyn Backend, segments: &Segments) -> bool {
    let files = backend.list().unwrap_or_default();
    let mut used = segments
        .iter()
        .filter(|(_, record)| !may_lack_file(**record))
        .peekable();
    used.peek().is_some() && used.all(|(id, _)| !files.contains(id))
}

/// Removes what a repair that was cut short left: there is its note.
pub(super) fn clear(directory: &Path) -> Result<()> {
    let path = new(directory);
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let marker = directory.join(format::REPAIRING_FILE);
    if marker.symlink_metadata().is_err() {
        return Err(StoreError::Refused {
            path: directory.into(),
            why: format!(
                "there is a {}, which no repair made: move it away, then repair again",
                path.display()
            ),
        });
    }
    fs::remove_dir_all(&path).map_err(|error| StoreError::io("removing", path, error))
}

/// Puts all records of the journal into `index`. Answers with what the journal has.
fn take_records(journal: &Path, superblock: &Superblock, index: &Index) -> Result<Found> {
    let damaged = |why: String| StoreError::Backup {
        path: journal.into(),
        why: format!("is not what it was a moment ago ({why}): repair again"),
    };
    let newest = journal::read(journal, superblock.identity, |_, _, _| ());
    let newest = newest.map_err(|unusable| damaged(unusable.why))?;
    Journal::secure(journal, &newest)?;
    let catalogue = checkpoint(journal, superblock.identity, newest.checkpoint).map_err(damaged)?;
    let mut batch = index.batch();
    catalogue.each(|entry, key, value| {
        match entry {
            Entry::Kept(kept) => batch.put_kept(kept, key, value),
            Entry::Segment => batch.put_raw_segment(key, value),
            Entry::Damaged => {}
        }
        flush(index, &mut batch)
    })?;
    batch.put_now()?;
    let mut result = Ok(());
    let read = journal::read(journal, superblock.identity, |number, _, changes| {
        if result.is_ok() && number > newest.checkpoint {
            let replayed = Batch::replayed(index, number, changes, false);
            result = replayed.and_then(Batch::put_now);
        }
    });
    read.map_err(|unusable| damaged(unusable.why))?;
    result?;
    Ok(newest)
}

fn flush<'a>(index: &'a Index, batch: &mut Batch<'a>) -> Result<()> {
    if batch.size() < BATCH {
        return Ok(());
    }
    std::mem::replace(batch, index.batch()).put_now()
}

/// What objects there are, and what they consist of.
struct Contents {
    /// With as many used slots as objects refer to.
    segments: Segments,
    objects: Vec<(ObjectId, ObjectRecord)>,
}

impl Contents {
    fn of(view: &StoreView) -> Result<Self> {
        let snapshot = view.index.now();
        let mut segments = Segments::new();
        for (id, record) in snapshot.segments_one_by_one()? {
            match record {
                Ok(record) => drop(segments.insert(id, record)),
                Err(error) => tracing::warn!(%error, segment = %id, "a record is left as it is"),
            }
        }
        let mut objects = Vec::new();
        snapshot.each(&records::OBJECTS, |record| {
            match record {
                Ok(object) => objects.push(object),
                Err(error) => tracing::warn!(%error, "a record is left as it is"),
            }
            Ok(())
        })?;
        // They are put on record by a commit once the index has its name, or the journal would have less than it.
        let mut reach = Reach::default();
        for (_, record) in &objects {
            reach.add(record);
        }
        for (id, record) in &mut segments {
            if let Some(raised) = reach.raise(*id, record) {
                *record = raised;
            }
        }
        Ok(Self { segments, objects })
    }

    /// Bytes that are read, about.
    fn bytes(&self) -> u64 {
        let objects = self.objects.iter().map(|(_, record)| record.map.length);
        objects.sum::<u64>() + self.segments.values().map(bytes_of).sum::<u64>()
    }

    /// Compares all objects with their digests. Answers with the slots of those that are whole and of those that are not, and
    /// with the latter.
    fn verify(
        &self,
        view: &StoreView,
        tell: &mut dyn FnMut(u64),
    ) -> (SlotsOfSegments, SlotsOfSegments, Vec<ObjectId>) {
        let (mut good, mut bad) = (SlotsOfSegments::default(), SlotsOfSegments::default());
        let mut damaged = Vec::new();
        for (id, record) in &self.objects {
            let whole = is_whole(view, *id, record, tell);
            if let Err(error) = &whole {
                tracing::warn!(%error, object = %id, "reading an object");
            }
            let slots = if whole.unwrap_or(false) {
                &mut good
            } else {
                damaged.push(*id);
                &mut bad
            };
            // Whoever can be read lies in segments that there are.
            if let Err(error) = slots.add(*id, record, &self.segments) {
                tracing::warn!(%error, "an object is left as it is");
            }
        }
        (good, bad, damaged)
    }
}

/// True when an object is what its digest says.
fn is_whole(
    view: &StoreView,
    id: ObjectId,
    record: &ObjectRecord,
    tell: &mut dyn FnMut(u64),
) -> Result<bool> {
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < record.map.length {
        let part = view.read(&record.map, offset, WINDOW_SIZE as usize)?;
        offset += part.len() as u64;
        hasher.update(&part);
        tell(part.len() as u64);
    }
    Ok(ObjectId::from(hasher.finalize()) == id && view.ends_in_zeros(record)?)
}

/// Notes the slots that no whole object has: nothing says what each should have, and what is pushed with them is written anew.
fn note_damage<'a>(
    view: &'a StoreView,
    good: &SlotsOfSegments,
    bad: &SlotsOfSegments,
    batch: &mut Batch<'a>,
) -> Result<()> {
    let is_good = |segment, slot: Slot| good.of(segment).is_some_and(|good| good.contains(slot.0));
    let doubtful = bad
        .iter()
        .filter(|(segment, slot)| !is_good(*segment, *slot));
    for (segment, slot) in doubtful.take(damage::MOST) {
        batch.put_damaged(Location { segment, slot }, Expected::default());
        flush(&view.index, batch)?;
    }
    Ok(())
}

/// Notes where the pages in `good` slots of a segment are, and its windows that have none of `bad` ones.
fn take_places<'a>(
    view: &'a StoreView,
    (id, record): (SegmentId, &SegmentRecord),
    good: &Slots,
    bad: &Slots,
    batch: &mut Batch<'a>,
    tell: &mut dyn FnMut(u64),
) -> Result<()> {
    let file: Arc<dyn SegmentFile> = view.segment_file(id)?;
    let mut content = vec![0; WINDOW_SIZE as usize];
    for first in (0..record.used).step_by(PAGES_PER_WINDOW as usize) {
        let count = (record.used - first).min(PAGES_PER_WINDOW as u32);
        let content = &mut content[..(u64::from(count) * PAGE_SIZE) as usize];
        tell(content.len() as u64);
        if good.within(first, count).next().is_none() {
            continue;
        }
        // Nobody needs what cannot be read, or it is of a damaged object.
        let is_read = read_what_can_be(file.as_ref(), id, content, Slot(first).byte_offset());
        let found = page_ids(content);
        let is_spare = |slot: u32| found[(slot - first) as usize].is_none();
        let is_window = record.kind == SegmentKind::Dense
            && is_read
            && bad.within(first, count).next().is_none()
            && (first..first + count).all(|slot| good.contains(slot) || is_spare(slot));
        put_places(
            batch,
            id,
            first,
            &found,
            good.within(first, count),
            is_window,
        );
        flush(&view.index, batch)?;
    }
    Ok(())
}
