//! Making a backup.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pool_core::digest::PageId;
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};

use super::page_list::PageList;
use super::place::{Place, stem};
use super::{BackupReport, unusable};
use crate::catalogue::{Entry, Header, Writer};
use crate::error::{Result, StoreError};
use crate::format::{Location, SegmentRecord};
use crate::progress::Progress;
use crate::proof::{damaged_objects, read_what_can_be, unproven};
use crate::slots::{Slots, SlotsOfSegments, bytes_of};
use crate::upload::page_ids;
use crate::{Snapshot, StoreView, now};

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
    let (segments, used) = SlotsOfSegments::of_objects(snapshot)?;

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
        state: Progress::begin(segments.values().map(bytes_of).sum()),
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

struct Copier<'a> {
    snapshot: &'a Snapshot<'a>,
    place: &'a Place,
    identity: [u8; 16],
    commits: u64,
    report: BackupReport,
    state: Progress,
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
                (self.progress)(self.state.step(bytes_of(record), 0));
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
        let from = match self.snapshot.view().segment_file(id) {
            Ok(from) => Some(from),
            Err(error @ StoreError::NoSegment(_)) => {
                tracing::warn!(%error, "leaving out what is lost");
                None
            }
            Err(error) => return Err(error),
        };
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
            content.fill(0);
            if let Some(from) = &from {
                read_what_can_be(from.as_ref(), id, content, offset);
            }
            let found = page_ids(content);
            self.report.copied_bytes += write_pages(content, &found, |bytes, at| {
                FileExt::write_all_at(&to, bytes, offset + at)
            })
            .map_err(failed)?;
            pages.extend(found);
            (self.progress)(self.state.step(length, length));
        }
        to.sync_all().map_err(failed)?;
        Ok(pages)
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
