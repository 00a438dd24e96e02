//! Making a store from a backup.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::copied::{Copied, stem};
use super::copy::write_pages;
use super::page_list::{ListDigest, PageList};
use super::place::Place;
use super::{RestoreReport, cannot_be_right, no_room, unusable};
use crate::StoreOptions;
use crate::backend::{Backend, SegmentFile, read_file, sync_directory};
use crate::catalogue::{Catalogue, Entry};
use crate::creation;
use crate::directory;
use crate::error::{Result, StoreError};
use crate::format::{self, ObjectRecord, SegmentKind, SegmentRecord};
use crate::index::{Batch, Index, Kept};
use crate::mark::Mark;
use crate::opening;
use crate::places::put_places;
use crate::progress::Progress;
use crate::proof::read_what_can_be;
use crate::slots::{Segments, Slots, SlotsOfSegments, bytes_of};
use crate::upload::page_ids;

/// Bytes of changes that are made as one.
const BATCH: usize = 4 << 20;

/// What is made of damaged pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// No store is made.
    Refused,
    /// They are taken over as they are.
    TakenOver,
}

/// Makes a store of its own in `directory`, which is absent or empty, or holds what a restoration that was cut short left.
/// Every page is compared with its digest on the way. If some are damaged and that is refused, the report says
/// of which objects, and there is no store.
pub fn restore(
    from: &Path,
    directory: &Path,
    damaged: Damaged,
    progress: &mut dyn FnMut(Progress),
) -> Result<RestoreReport> {
    let made = make(from, directory, damaged, progress);
    made.map_err(|error| {
        no_room(
            error,
            "free some in the new store's filesystem, then begin again",
        )
    })
}

fn make(
    from: &Path,
    directory: &Path,
    damaged: Damaged,
    progress: &mut dyn FnMut(Progress),
) -> Result<RestoreReport> {
    let source = Source::open(from)?;
    if directory::is_within(directory, from)? {
        return Err(StoreError::NotMade {
            path: directory.into(),
            why: "it is in the backup: name a directory elsewhere".into(),
        });
    }
    clear(directory)?;
    // Who may look into the backup may look into the store.
    directory::make(directory, directory::mode(from)?)?;
    let options = StoreOptions {
        segment_bytes: source.catalogue.header().segment_bytes,
        ..StoreOptions::default()
    };
    let mut report = source.report();
    let mut is_refused = false;
    let made = creation::create_with(directory, options, || {
        mark_unfinished(directory)?;
        let mark = Mark::open_for_writing(&directory.join(format::GENERATION_FILE))?;
        let index = Index::open_primary(&directory.join(format::INDEX_DIRECTORY), mark)?;
        let mut making = Making {
            backend: opening::backend(directory),
            index: &index,
            batch: index.batch(),
        };
        report.damaged_objects = source.take_all(Some(&mut making), progress)?;
        is_refused = damaged == Damaged::Refused && !report.damaged_objects.is_empty();
        if is_refused {
            return Err(unusable(from, "has damaged objects"));
        }
        source.catalogue.each(|entry, key, value| {
            match entry {
                Entry::Kept(kept) => making.batch.put_kept(kept, key, value),
                Entry::Segment => {
                    let (id, copied) = Copied::decode(key, value)?;
                    making.batch.put_segment(id, &copied.record);
                }
                Entry::Damaged => {}
            }
            making.commit_if_large()
        })?;
        making.batch.commit()
    });
    match made {
        Ok(_) => {
            report.made = true;
            directory::end_restoration(directory)?;
        }
        Err(_) if is_refused => clear(directory)?,
        Err(error) => {
            if let Err(error) = clear(directory) {
                tracing::warn!(%error, "clearing what was restored so far");
            }
            return Err(error);
        }
    }
    Ok(report)
}

/// Reads a whole backup and compares every page with its digest, as [`restore`] does; makes nothing.
pub fn verify(from: &Path, progress: &mut dyn FnMut(Progress)) -> Result<RestoreReport> {
    let source = Source::open(from)?;
    let mut report = source.report();
    report.damaged_objects = source.take_all(None, progress)?;
    Ok(report)
}

/// Notes that a restoration is under way: nothing else in the directory is anybody's until it ended.
fn mark_unfinished(directory: &Path) -> Result<()> {
    let path = directory.join(format::RESTORING_FILE);
    let made = File::create(&path).and_then(|file| file.sync_all());
    made.map_err(|error| StoreError::io("creating", path, error))?;
    sync_directory(directory)
}

/// Removes what a restoration that was cut short left: there is its note, and no superblock yet.
fn clear(directory: &Path) -> Result<()> {
    let has = |name: &str| directory.join(name).symlink_metadata().is_ok();
    if !has(format::RESTORING_FILE) || has(format::SUPERBLOCK_FILE) {
        return Ok(());
    }
    let _lock = directory::lock(directory)?;
    let failed = |path: &Path, error| StoreError::io("removing", path, error);
    for name in [
        format::INDEX_DIRECTORY,
        format::SEGMENTS_DIRECTORY,
        format::STAGING_DIRECTORY,
    ] {
        let path = directory.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|error| failed(&path, error))?,
        }
    }
    for name in [
        format::LEASES_FILE,
        format::GENERATION_FILE,
        format::RESTORING_FILE,
    ] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(|error| failed(&path, error))?,
        }
    }
    sync_directory(directory)
}

/// A store in the making.
struct Making<'a> {
    backend: Arc<dyn Backend>,
    index: &'a Index,
    batch: Batch<'a>,
}

impl Making<'_> {
    fn commit_if_large(&mut self) -> Result<()> {
        if self.batch.size() < BATCH {
            return Ok(());
        }
        std::mem::replace(&mut self.batch, self.index.batch()).commit()
    }
}

/// A backup whose catalogue was looked through.
struct Source {
    place: Place,
    catalogue: Catalogue,
    segments: Segments,
    /// Which copies of them are meant.
    lists: BTreeMap<SegmentId, ListDigest>,
    /// What objects refer to.
    used: SlotsOfSegments,
    /// Objects that the store had damaged.
    damaged: BTreeSet<ObjectId>,
    objects: u64,
    libraries: u64,
    images: u64,
}

impl Source {
    fn open(from: &Path) -> Result<Self> {
        let (place, catalogue) = Place::for_reading(from)?;
        let mut source = Self {
            place,
            segments: Segments::new(),
            lists: BTreeMap::new(),
            used: SlotsOfSegments::default(),
            damaged: BTreeSet::new(),
            objects: 0,
            libraries: 0,
            images: 0,
            catalogue,
        };
        source
            .survey()
            .map_err(|error| cannot_be_right(from, &error))?;
        Ok(source)
    }

    /// Looks at every entry. Segments come before the objects that lie in them.
    fn survey(&mut self) -> Result<()> {
        let Self {
            catalogue,
            segments,
            lists,
            used,
            damaged,
            ..
        } = self;
        let (mut objects, mut libraries, mut images) = (0, 0, 0);
        let mut next_segment = 0;
        catalogue.each(|entry, key, value| {
            match entry {
                Entry::Segment => {
                    let (id, copied) = Copied::decode(key, value)?;
                    segments.insert(id, copied.record);
                    lists.insert(id, copied.list);
                }
                Entry::Damaged => {
                    let id = ObjectId::from_slice(key);
                    damaged.insert(id.ok_or_else(|| StoreError::Corrupt("a digest".into()))?);
                }
                Entry::Kept(kept) => {
                    kept.check(key, value)?;
                    match kept {
                        Kept::Objects => {
                            let (id, record) = decode_object(key, value)?;
                            used.add(id, &record, segments)?;
                            objects += 1;
                        }
                        Kept::Libraries => libraries += 1,
                        Kept::Tags => images += 1,
                        Kept::Meta => {
                            next_segment = Kept::next_segment(key, value).unwrap_or(next_segment);
                        }
                        Kept::Manifests | Kept::References | Kept::Registry | Kept::Tokens => {}
                    }
                }
            }
            Ok(())
        })?;
        if let Some((last, _)) = segments.last_key_value()
            && next_segment <= u64::from(last.0)
        {
            let what = format!("segment {last} has a number that is yet to be given");
            return Err(StoreError::Corrupt(what));
        }
        (self.objects, self.libraries, self.images) = (objects, libraries, images);
        Ok(())
    }

    fn report(&self) -> RestoreReport {
        let pages = |id| self.used.of(id).map_or(0, Slots::len);
        RestoreReport {
            made: false,
            commits: self.catalogue.header().commits,
            segments: self.segments.len() as u64,
            objects: self.objects,
            libraries: self.libraries,
            images: self.images,
            pages: self.segments.keys().map(|id| pages(*id)).sum(),
            damaged_objects: Vec::new(),
        }
    }

    /// Reads all segments, and gives a store what they have. Answers with objects that are damaged.
    fn take_all(
        &self,
        mut making: Option<&mut Making<'_>>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<ObjectId>> {
        let mut state = Progress::begin(self.segments.values().map(bytes_of).sum());
        let mut damaged = SlotsOfSegments::default();
        // Of a page that is kept twice the place outside of windows is the one that others find: it is put later.
        for kind in [SegmentKind::Dense, SegmentKind::Sparse] {
            for (id, record) in &self.segments {
                if record.kind != kind {
                    continue;
                }
                let mut tell = |read| progress(state.step(read, read));
                damaged.insert(
                    *id,
                    self.take(*id, record, making.as_deref_mut(), &mut tell)?,
                );
            }
        }
        let mut objects = self.damaged.clone();
        if !damaged.is_empty() {
            self.catalogue.each(|entry, key, value| {
                if entry == Entry::Kept(Kept::Objects) {
                    let (id, record) = decode_object(key, value)?;
                    if damaged.touch(&record) {
                        objects.insert(id);
                    }
                }
                Ok(())
            })?;
        }
        Ok(objects.into_iter().collect())
    }

    /// Reads one segment. Answers with slots that objects refer to and that are not what the list of pages says.
    fn take(
        &self,
        id: SegmentId,
        record: &SegmentRecord,
        mut making: Option<&mut Making<'_>>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Slots> {
        let digest = self.lists[&id];
        let stem = stem(id, &digest);
        let listed = self.listed(id, record, &digest);
        let from = read_file(&self.place.segment(&stem));
        if let Err(error) = &from {
            tracing::warn!(%error, path = %self.place.segment(&stem).display(), "opening a copy");
        }
        let to = making.as_deref_mut().map(|making| {
            let bytes = u64::from(record.capacity) * PAGE_SIZE;
            making.backend.create(id, bytes)
        });
        let to = to.transpose()?;
        let nothing = Slots::default();
        let used = self.used.of(id).unwrap_or(&nothing);
        let mut damaged = Slots::default();
        let mut content = vec![0; WINDOW_SIZE as usize];
        for first in (0..record.used).step_by(PAGES_PER_WINDOW as usize) {
            let count = (record.used - first).min(PAGES_PER_WINDOW as u32);
            let content = &mut content[..(u64::from(count) * PAGE_SIZE) as usize];
            content.fill(0);
            let offset = Slot(first).byte_offset();
            if let Ok(from) = &from {
                read_what_can_be(from, id, content, offset);
            }
            let found = page_ids(content);
            let expected = listed
                .as_ref()
                .map(|pages| &pages[first as usize..][..count as usize]);
            let is_right = |slot: u32| {
                let at = (slot - first) as usize;
                expected.is_some_and(|expected| expected[at] == found[at])
            };
            let wrong = used.within(first, count).filter(|slot| !is_right(*slot));
            wrong.for_each(|slot| damaged.insert(slot));
            if let (Some(making), Some(to)) = (making.as_deref_mut(), &to) {
                write(to.as_ref(), id, content, &found, offset)?;
                let good = used.within(first, count).filter(|slot| is_right(*slot));
                let is_window = record.kind == SegmentKind::Dense
                    && expected == Some(&found[..])
                    && used.within(first, count).next().is_some();
                put_places(&mut making.batch, id, first, &found, good, is_window);
                making.commit_if_large()?;
            }
            tell(content.len() as u64);
        }
        if let Some(to) = to {
            to.sync()
                .map_err(|error| StoreError::io("syncing the segment", id.to_string(), error))?;
        }
        Ok(damaged)
    }

    /// What the pages of a copy must be; `None` when nothing tells.
    fn listed(
        &self,
        id: SegmentId,
        record: &SegmentRecord,
        digest: &ListDigest,
    ) -> Option<Vec<Option<PageId>>> {
        let path = self.place.pages(&stem(id, digest));
        let list = match PageList::read(&path) {
            Ok(list) => list.filter(|list| {
                list.digest() == *digest && list.pages.len() as u64 == u64::from(record.used)
            }),
            Err(error) => {
                tracing::warn!(%error, "reading a list of pages");
                return None;
            }
        };
        if list.is_none() {
            tracing::warn!(path = %path.display(), "the list of a copy's pages is missing, or another's");
        }
        list.map(|list| list.pages)
    }
}

fn write(
    to: &dyn SegmentFile,
    id: SegmentId,
    content: &[u8],
    pages: &[Option<PageId>],
    offset: u64,
) -> Result<()> {
    write_pages(content, pages, |bytes, at| {
        to.write_all_at(bytes, offset + at)
    })
    .map(drop)
    .map_err(|error| StoreError::io("writing the segment", id.to_string(), error))
}

fn decode_object(key: &[u8], value: &[u8]) -> Result<(ObjectId, ObjectRecord)> {
    let id = ObjectId::from_slice(key);
    let id = id.ok_or_else(|| StoreError::Corrupt("an object's digest".into()))?;
    Ok((id, ObjectRecord::decode(id, value)?))
}
