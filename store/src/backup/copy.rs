//! Making a backup.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::catalogue::{Entry, Header, Writer};
use super::page_list::PageList;
use super::place::{Place, stem};
use super::slots::{Segments, Slots, SlotsOfSegments};
use super::{BackupReport, Progress, unusable};
use crate::backend::SegmentFile;
use crate::error::{Result, StoreError};
use crate::format::{Location, ObjectRecord, SegmentKind, SegmentRecord};
use crate::placement::name_of_window;
use crate::upload::page_ids;
use crate::{Reader, Snapshot, StoreView, now};

/// Pages that are looked up in one go.
const LOOKED_UP: usize = 4096;

/// Makes or renews the backup in the directory `to` of what the store has now. Others may write to it and collect meanwhile.
/// `progress` is called every 2 MiB at most, and may take its time.
///
/// Fails when the index cannot be read, and when `to` is neither vacant nor a backup of this store. Damaged pages
/// are no failure; the report names the objects.
pub fn back_up(
    view: &StoreView,
    to: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport> {
    let superblock = view.superblock();
    if !superblock.is_marked() {
        let why = "counts no commits yet, as stores of old releases do: start poolsvc on it once, then back it up";
        return Err(unusable(view.directory(), why));
    }
    let place = Place::for_writing(to, superblock.identity)?;
    let begun_at = now();
    let held = view.hold_all()?;
    let snapshot = &held.value;
    let segments: Segments = snapshot.segments()?.into_iter().collect();
    let mut used = SlotsOfSegments::default();
    snapshot.for_each_object(|id, record| used.add(id, &record, &segments))?;
    let segments: Segments = segments
        .into_iter()
        .filter(|(id, _)| used.of(*id).is_some())
        .collect();

    let commits = snapshot.commits()?;
    let mut copier = Copier {
        snapshot,
        place: &place,
        identity: superblock.identity,
        commits,
        report: BackupReport {
            commits,
            segments: segments.len() as u64,
            ..BackupReport::default()
        },
        done: 0,
        total: segments.values().map(bytes_of).sum(),
        progress,
    };
    let mut doubtful = SlotsOfSegments::default();
    let mut stems = BTreeSet::new();
    for (id, record) in &segments {
        let slots = used.of(*id).expect("others were left out");
        doubtful.insert(*id, copier.take(*id, record, slots)?);
        stems.insert(stem(*id, record, commits));
    }
    place.sync_copies()?;
    let mut report = copier.report;
    report.damaged_objects = damaged_objects(snapshot, &doubtful)?;

    let header = Header {
        segment_bytes: superblock.segment_bytes,
        identity: superblock.identity,
        commits,
        begun_at,
    };
    let mut catalogue = Writer::create(&place.new_catalogue(), &header)?;
    for (id, record) in &segments {
        catalogue.put(Entry::Segment, &id.0.to_be_bytes(), &record.encode())?;
    }
    for id in &report.damaged_objects {
        catalogue.put(Entry::Damaged, id.as_bytes(), &[])?;
    }
    snapshot.each_kept(|kept, key, value| catalogue.put(Entry::Kept(kept), key, value))?;
    catalogue.finish()?;
    place.take_catalogue()?;
    place.prune(&stems)?;
    Ok(report)
}

/// Bytes of a segment's used slots.
fn bytes_of(record: &SegmentRecord) -> u64 {
    u64::from(record.used) * PAGE_SIZE
}

struct Copier<'a> {
    snapshot: &'a Snapshot<'a>,
    place: &'a Place,
    identity: [u8; 16],
    commits: u64,
    report: BackupReport,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Copier<'_> {
    /// Sees to it that the backup has a segment. Answers with those of `slots`, which objects refer to, of which the index
    /// does not say that they have what they should.
    fn take(&mut self, id: SegmentId, record: &SegmentRecord, slots: &Slots) -> Result<Slots> {
        let stem = stem(id, record, self.commits);
        if let Some(pages) = self.copied_before(id, record, &stem) {
            let unproven = unproven(self.snapshot, id, record, &pages, slots)?;
            if self.still_has(id, &pages, &unproven) {
                self.done += bytes_of(record);
                self.tell(0);
                return Ok(unproven);
            }
        }
        let pages = self.copy(id, record, &stem)?;
        let unproven = unproven(self.snapshot, id, record, &pages, slots)?;
        let list = PageList {
            store: self.identity,
            segment: id,
            pages,
        };
        list.write(&self.place.pages(&stem), &self.place.new_pages(&stem))?;
        self.report.copied_segments += 1;
        Ok(unproven)
    }

    /// The pages of a segment that the backup has a whole copy of, in the state that it is in.
    fn copied_before(
        &self,
        id: SegmentId,
        record: &SegmentRecord,
        stem: &str,
    ) -> Option<Vec<Option<PageId>>> {
        let list = match PageList::read(&self.place.pages(stem)) {
            Ok(list) => list?,
            Err(error) => {
                tracing::warn!(%error, "copying the segment anew");
                return None;
            }
        };
        let length = fs::metadata(self.place.segment(stem)).map_or(0, |file| file.len());
        let fits = list.store == self.identity
            && list.segment == id
            && list.pages.len() as u64 == u64::from(record.used)
            && length == bytes_of(record);
        fits.then_some(list.pages)
    }

    /// True when the store has in `slots` what an earlier copy has: it may have been unreadable then.
    fn still_has(&self, segment: SegmentId, pages: &[Option<PageId>], slots: &Slots) -> bool {
        let mut page = vec![0; PAGE_SIZE as usize];
        slots.within(0, pages.len() as u32).all(|number| {
            let slot = Slot(number);
            let read = self
                .snapshot
                .view()
                .read_page(Location { segment, slot }, &mut page);
            read.is_ok() && page_ids(&page)[0] == pages[number as usize]
        })
    }

    /// Copies a segment, and answers with what its slots have. What cannot be read is left out.
    fn copy(
        &mut self,
        id: SegmentId,
        record: &SegmentRecord,
        stem: &str,
    ) -> Result<Vec<Option<PageId>>> {
        let from = self.snapshot.view().segment_file(id)?;
        let path = self.place.segment(stem);
        let failed = |error| StoreError::io("writing", &path, error);
        // Until there is a list again it is no copy.
        match fs::remove_file(self.place.pages(stem)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(failed)?,
        }
        let to = File::create(&path).map_err(failed)?;
        to.set_len(bytes_of(record)).map_err(failed)?;
        let mut pages = Vec::with_capacity(record.used as usize);
        let mut content = vec![0; WINDOW_SIZE as usize];
        for offset in (0..bytes_of(record)).step_by(WINDOW_SIZE as usize) {
            let length = (bytes_of(record) - offset).min(WINDOW_SIZE);
            let content = &mut content[..length as usize];
            read_what_can_be(from.as_ref(), id, content, offset);
            let found = page_ids(content);
            self.report.copied_bytes += write_pages(content, &found, |bytes, at| {
                FileExt::write_all_at(&to, bytes, offset + at)
            })
            .map_err(failed)?;
            pages.extend(found);
            self.done += length;
            self.tell(length);
        }
        to.sync_all().map_err(failed)?;
        Ok(pages)
    }

    fn tell(&mut self, read: u64) {
        (self.progress)(Progress {
            done: self.done,
            total: self.total,
            read,
        });
    }
}

/// Fills `content` from byte `offset` of a segment, with zeros where it cannot be read.
fn read_what_can_be(from: &dyn SegmentFile, id: SegmentId, content: &mut [u8], offset: u64) {
    if from.read_exact_at(content, offset).is_ok() {
        return;
    }
    for (page, at) in content
        .chunks_mut(PAGE_SIZE as usize)
        .zip((offset..).step_by(PAGE_SIZE as usize))
    {
        if let Err(error) = from.read_exact_at(page, at) {
            tracing::warn!(%error, segment = %id, slot = at / PAGE_SIZE, "reading a page");
            page.fill(0);
        }
    }
}

/// Writes the pages of `content` that are not zeros, in runs, with `write`, which is told where in `content` each begins.
/// Answers with the bytes written.
pub(super) fn write_pages(
    content: &[u8],
    pages: &[Option<PageId>],
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<u64> {
    let mut written = 0;
    let mut offset = 0;
    for run in pages.chunk_by(|one, next| one.is_some() == next.is_some()) {
        let length = run.len() as u64 * PAGE_SIZE;
        if run[0].is_some() {
            write(&content[offset as usize..][..length as usize], offset)?;
            written += length;
        }
        offset += length;
    }
    Ok(written)
}

/// Those of `slots` of which neither the place of their page nor their window says that they have what they should: the
/// same page is kept elsewhere, or they are damaged.
fn unproven(
    index: &Reader<'_>,
    segment: SegmentId,
    record: &SegmentRecord,
    pages: &[Option<PageId>],
    slots: &Slots,
) -> Result<Slots> {
    let mut open = Slots::default();
    let all: Vec<u32> = slots.within(0, record.used).collect();
    for part in all.chunks(LOOKED_UP) {
        let listed = part.iter().map(|slot| (*slot, pages[*slot as usize]));
        let (listed, zeros): (Vec<_>, Vec<_>) = listed.partition(|(_, page)| page.is_some());
        for (slot, _) in zeros {
            open.insert(slot);
        }
        let ids: Vec<PageId> = listed.iter().filter_map(|(_, page)| *page).collect();
        for ((slot, _), found) in listed.into_iter().zip(index.pages(&ids)?) {
            let slot = Slot(slot);
            if found != Some(Location { segment, slot }) {
                open.insert(slot.0);
            }
        }
    }
    if record.kind == SegmentKind::Sparse || open.is_empty() {
        return Ok(open);
    }
    let mut left = Slots::default();
    let per_window = PAGES_PER_WINDOW as usize;
    for (window, first) in pages.chunks(per_window).zip((0..).step_by(per_window)) {
        let mut open = open.within(first, window.len() as u32).peekable();
        if open.peek().is_some() {
            let at = Location {
                segment,
                slot: Slot(first),
            };
            if index.window(&name_of_window(window))? != Some(at) {
                open.for_each(|slot| left.insert(slot));
            }
        }
    }
    Ok(left)
}

/// Objects with pages in `doubtful` slots that are not what their digests say.
fn damaged_objects(snapshot: &Snapshot<'_>, doubtful: &SlotsOfSegments) -> Result<Vec<ObjectId>> {
    let mut damaged = Vec::new();
    if doubtful.is_empty() {
        return Ok(damaged);
    }
    snapshot.for_each_object(|id, record| {
        if doubtful.touch(&record) && !is_whole(snapshot.view(), id, &record) {
            damaged.push(id);
        }
        Ok(())
    })?;
    Ok(damaged)
}

fn is_whole(view: &StoreView, id: ObjectId, record: &ObjectRecord) -> bool {
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < record.map.length {
        let Ok(part) = view.read(&record.map, offset, WINDOW_SIZE as usize) else {
            return false;
        };
        offset += part.len() as u64;
        hasher.update(&part);
    }
    ObjectId::from(hasher.finalize()) == id
}
