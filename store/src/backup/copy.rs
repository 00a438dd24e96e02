//! Making a backup.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pool_core::digest::PageId;
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};

use super::copied::{Copied, stem};
use super::page_list::{ListDigest, PageList};
use super::place::Place;
use super::{BackupReport, Copies, cannot_be_right, no_room, unusable};
use crate::backend::{new_file, read_file, remove_if_there};
use crate::catalogue::{Catalogue, Entry, Header, Writer};
use crate::error::{Result, StoreError};
use crate::format::{JOURNAL_DIRECTORY, Location, SegmentRecord};
use crate::journal::digest_of;
use crate::journal::frame::{Digest, shortened};
use crate::progress::Progress;
use crate::proof::{damaged_objects, read_what_can_be, unproven};
use crate::slots::{Slots, SlotsOfSegments, bytes_of};
use crate::upload::page_ids;
use crate::{Snapshot, StoreView, now};

/// Makes or renews the backup in the directory `to` of what the store has now. Others may write to it and collect meanwhile.
/// `progress` is called every 2 MiB at most, and may take its time.
///
/// Fails when the index cannot be read, and when `to` is neither vacant nor a backup of this store in this state or an earlier
/// one. Damaged pages are no failure; the report names the objects.
pub fn back_up(
    view: &StoreView,
    to: &Path,
    copies: Copies,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport> {
    let made = make(view, to, copies, progress);
    made.map_err(|error| {
        no_room(
            error,
            "the former backup is whole; free some there, then begin again",
        )
    })
}

fn make(
    view: &StoreView,
    to: &Path,
    copies: Copies,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport> {
    let superblock = view.superblock();
    if !superblock.is_marked() {
        let why = "counts no commits yet, as stores of old releases do: start poolsvc on it once, then back it up";
        return Err(unusable(view.directory(), why));
    }
    let (place, former) = Place::for_writing(to, superblock.identity, view.directory())?;
    let begun_at = now();
    let held = view.hold_all()?;
    let snapshot = &held.value;
    let (segments, used) = SlotsOfSegments::of_objects(snapshot)?;
    let commits = snapshot.commits()?;
    let frame = snapshot.last_frame()?;
    if let Some(former) = &former {
        check_history(view, former, to, (commits, frame))?;
    }
    let former = former.map(|former| stems_of(&former, to, commits));
    let former = former.transpose()?.unwrap_or_default();
    // What was begun for other states and came to nothing would be in the way of this one on a disk that is nearly full.
    let there = place.stems()?;
    place.prune(|id, stem| {
        let is_whole = || there.get(&id).is_some_and(|stems| stems.contains(stem));
        former.contains(stem) || segments.contains_key(&id) && is_whole()
    })?;

    let mut copier = Copier {
        snapshot,
        identity: superblock.identity,
        copies,
        former,
        there,
        place: &place,
        report: BackupReport {
            commits,
            segments: segments.len() as u64,
            ..BackupReport::default()
        },
        state: Progress::begin(segments.values().map(bytes_of).sum()),
        progress,
    };
    let (mut damaged, mut doubtful) = (SlotsOfSegments::default(), SlotsOfSegments::default());
    let (mut entries, mut stems) = (BTreeMap::new(), BTreeSet::new());
    for (id, record) in &segments {
        let slots = used.of(*id).expect("others were left out");
        let taken = copier.take(*id, record, slots)?;
        let mut in_store = taken.doubtful.clone();
        let mended = taken.mended.within(0, record.used);
        mended.for_each(|slot| in_store.insert(slot));
        damaged.insert(*id, in_store);
        doubtful.insert(*id, taken.doubtful);
        stems.insert(stem(*id, &taken.list));
        let (record, list) = (*record, taken.list);
        entries.insert(*id, Copied { record, list });
    }
    place.sync_copies()?;
    let mut report = copier.report;
    report.damaged_objects = damaged_objects(snapshot, &damaged, &mut |_| ());
    report.lost_objects = damaged_objects(snapshot, &doubtful, &mut |_| ());

    let header = Header {
        segment_bytes: superblock.segment_bytes,
        identity: superblock.identity,
        commits,
        frame: shortened(frame),
        begun_at,
    };
    let mut catalogue = Writer::create(&place.new_catalogue(), &header)?;
    for (id, copied) in &entries {
        catalogue.put(Entry::Segment, &id.0.to_be_bytes(), &copied.encode())?;
    }
    for id in &report.lost_objects {
        catalogue.put(Entry::Damaged, id.as_bytes(), &[])?;
    }
    snapshot.each_kept(|kept, key, value| catalogue.put(Entry::Kept(kept), key, value))?;
    catalogue.finish()?;
    place.take_catalogue()?;
    place.prune(|_, stem| stems.contains(stem))?;
    Ok(report)
}

/// Refuses the backup of another copy of the store that went on by itself, as far as the journal still tells.
fn check_history(
    view: &StoreView,
    former: &Catalogue,
    to: &Path,
    (commits, frame): (u64, Option<Digest>),
) -> Result<()> {
    let had = former.header();
    let unknown = shortened(None);
    let here = if had.commits == commits {
        frame
    } else {
        let journal = view.directory().join(JOURNAL_DIRECTORY);
        digest_of(&journal, had.identity, had.commits)
    };
    let here = shortened(here);
    if [here, had.frame].contains(&unknown) || here == had.frame {
        return Ok(());
    }
    let why = format!(
        "has commit {} of another copy of this store: give each copy a directory of its own",
        had.commits
    );
    Err(unusable(to, why))
}

/// The copies that the former backup consists of. It is none if it has a later state: what only that has would be lost.
fn stems_of(former: &Catalogue, to: &Path, commits: u64) -> Result<BTreeSet<String>> {
    let had = former.header().commits;
    if had > commits {
        let why = format!(
            "has {had} commits of this store, which has made {commits}: it was put back to an earlier state, or it is a copy \
             of the one that was backed up; give it another directory"
        );
        return Err(unusable(to, why));
    }
    let mut stems = BTreeSet::new();
    former.each(|entry, key, value| {
        if entry == Entry::Segment {
            let found = Copied::decode(key, value);
            let (id, copied) = found.map_err(|error| cannot_be_right(to, &error))?;
            stems.insert(stem(id, &copied.list));
        }
        Ok(())
    })?;
    Ok(stems)
}

struct Copier<'a> {
    snapshot: &'a Snapshot<'a>,
    place: &'a Place,
    identity: [u8; 16],
    copies: Copies,
    /// Copies of the former backup, which stay until this one is whole.
    former: BTreeSet<String>,
    /// Copies that have a list.
    there: BTreeMap<SegmentId, BTreeSet<String>>,
    report: BackupReport,
    state: Progress,
    progress: &'a mut dyn FnMut(Progress),
}

/// A segment that the backup has.
struct Taken {
    list: ListDigest,
    /// Slots that objects refer to, of which the index does not say that the copy has what they should.
    doubtful: Slots,
    /// Slots that the copy has right, and the store has not.
    mended: Slots,
}

impl Copier<'_> {
    /// Sees to it that the backup has a segment, of which objects refer to `slots`.
    fn take(&mut self, id: SegmentId, record: &SegmentRecord, slots: &Slots) -> Result<Taken> {
        let earlier = self.earlier(id);
        for (stem, list) in &earlier {
            if !self.is_of(stem, list, record) {
                continue;
            }
            let doubtful = unproven(self.snapshot, id, record, &list.pages, slots)?;
            if self.still_has(id, &list.pages, &doubtful) && self.is_right(stem, list) {
                (self.progress)(self.state.step(bytes_of(record), 0));
                return Ok(Taken {
                    list: list.digest(),
                    doubtful,
                    mended: Slots::default(),
                });
            }
        }
        let (former, others): (Vec<_>, Vec<_>) = earlier
            .into_iter()
            .partition(|(stem, _)| self.former.contains(stem));
        for (stem, _) in others {
            for path in [self.place.pages(&stem), self.place.segment(&stem)] {
                remove_if_there(&path).map_err(|error| StoreError::io("removing", path, error))?;
            }
        }
        self.copy(id, record, slots, &former)
    }

    /// The copies that there are of a segment, in whatever state of it.
    fn earlier(&self, id: SegmentId) -> Vec<(String, PageList)> {
        let stems = self.there.get(&id).into_iter().flatten();
        let read = |stem: &String| match PageList::read(&self.place.pages(stem)) {
            Ok(list) => {
                // Under another's name it would not be the copy that the catalogue names.
                let list = list.filter(|list| {
                    list.store == self.identity
                        && list.segment == id
                        && super::copied::stem(id, &list.digest()) == *stem
                });
                Some((stem.clone(), list?))
            }
            Err(error) => {
                tracing::warn!(%error, "leaving a copy out of account");
                None
            }
        };
        stems.filter_map(read).collect()
    }

    /// True for a copy of as many slots as the segment has now.
    fn is_of(&self, stem: &str, list: &PageList, record: &SegmentRecord) -> bool {
        let length = fs::metadata(self.place.segment(stem)).map_or(0, |file| file.len());
        list.pages.len() as u64 == u64::from(record.used) && length == bytes_of(record)
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

    /// True when a copy has what its list says, or is trusted to.
    fn is_right(&mut self, stem: &str, list: &PageList) -> bool {
        if self.copies == Copies::Trusted {
            return true;
        }
        let Ok(copy) = read_file(&self.place.segment(stem)) else {
            return false;
        };
        let mut content = vec![0; WINDOW_SIZE as usize];
        let per_window = (WINDOW_SIZE / PAGE_SIZE) as usize;
        let windows = list.pages.chunks(per_window);
        for (pages, offset) in windows.zip((0..).step_by(WINDOW_SIZE as usize)) {
            let content = &mut content[..pages.len() * PAGE_SIZE as usize];
            let read = FileExt::read_exact_at(&copy, content, offset);
            if read.is_err() || page_ids(content) != pages {
                tracing::warn!(stem, "the copy is not what its list says");
                return false;
            }
            (self.progress)(self.state.step(0, content.len() as u64));
        }
        true
    }

    /// Copies a segment. What the store has damaged or lost comes from copies of the `former` backup where they have it, and
    /// is left out otherwise.
    fn copy(
        &mut self,
        id: SegmentId,
        record: &SegmentRecord,
        slots: &Slots,
        former: &[(String, PageList)],
    ) -> Result<Taken> {
        let from = match self.snapshot.view().segment_file(id) {
            Ok(from) => Some(from),
            Err(error @ StoreError::NoSegment(_)) => {
                tracing::warn!(%error, "leaving out what is lost");
                None
            }
            Err(error) => return Err(error),
        };
        let path = self.place.new_segment(id);
        let failed = |error| StoreError::io("writing", &path, error);
        let to = new_file(&path).map_err(failed)?;
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
        let mut doubtful = unproven(self.snapshot, id, record, &pages, slots)?;
        let mut mended = Slots::default();
        for (stem, list) in former {
            if doubtful.is_empty() {
                break;
            }
            let told = self.told_by(id, record, list, &pages, &doubtful)?;
            let Ok(copy) = read_file(&self.place.segment(stem)) else {
                continue;
            };
            for (slot, page) in told {
                if put_page(&copy, slot, page, &to).map_err(failed)? {
                    pages[slot.0 as usize] = page;
                    mended.insert(slot.0);
                }
            }
            doubtful = unproven(self.snapshot, id, record, &pages, slots)?;
        }
        to.sync_all().map_err(failed)?;
        let list = PageList {
            store: self.identity,
            segment: id,
            pages,
        };
        let digest = list.digest();
        let stem = stem(id, &digest);
        // Whatever has the name has the same, or less of it.
        fs::rename(&path, self.place.segment(&stem)).map_err(failed)?;
        list.write(&self.place.pages(&stem), &self.place.new_pages(id))?;
        self.report.copied_segments += 1;
        self.report.mended_pages += mended.len();
        Ok(Taken {
            list: digest,
            doubtful,
            mended,
        })
    }

    /// Of those `doubtful` slots of a segment that has `pages` the ones that have something else in an earlier copy, which the
    /// index says is right; and that.
    fn told_by(
        &self,
        id: SegmentId,
        record: &SegmentRecord,
        earlier: &PageList,
        pages: &[Option<PageId>],
        doubtful: &Slots,
    ) -> Result<Vec<(Slot, Option<PageId>)>> {
        let count = record.used.min(earlier.pages.len() as u32);
        let mut told = pages.to_vec();
        for slot in doubtful.within(0, count) {
            told[slot as usize] = earlier.pages[slot as usize];
        }
        let open = unproven(self.snapshot, id, record, &told, doubtful)?;
        let found = doubtful.within(0, count);
        let found = found.filter(|slot| {
            let slot = *slot as usize;
            told[slot] != pages[slot]
        });
        let found = found.filter(|slot| !open.contains(*slot));
        Ok(found
            .map(|slot| (Slot(slot), told[slot as usize]))
            .collect())
    }
}

/// Puts a page of an earlier copy into a new one, if it is what it should be.
fn put_page(earlier: &File, slot: Slot, page: Option<PageId>, new: &File) -> io::Result<bool> {
    let mut content = vec![0; PAGE_SIZE as usize];
    let read = FileExt::read_exact_at(earlier, &mut content, slot.byte_offset());
    let is_right = read.is_ok() && page_ids(&content)[0] == page;
    if is_right {
        FileExt::write_all_at(new, &content, slot.byte_offset())?;
    }
    Ok(is_right)
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
