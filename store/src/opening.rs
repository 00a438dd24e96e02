//! Opening a store: is this a store, does its index belong to it, is it all there?
//!
//! Everything is looked at before anything is changed. An index that is absent, empty, of another
//! store, older than what was acknowledged or damaged is refused in words, and so is a segment that
//! is missing or has another length: putting the right one back makes the store what it was.
//! Segment files that the index does not know are moved aside and never unlinked; a commit records
//! a segment before it makes the file, so a stop leaves none of them.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use pool_core::extent::SegmentId;
use pool_core::page::PAGE_SIZE;

use crate::backend::{Backend, DirectoryBackend};
use crate::directory;
use crate::error::{self, Result, StoreError};
use crate::format::{self, SegmentRecord, SegmentState};
use crate::index::{Index, Inspection};
use crate::mark::Mark;
use crate::superblock::{FEATURE_MARKED, Superblock};

/// A store that is open for writing.
pub(crate) struct Opened {
    pub(crate) superblock: Superblock,
    pub(crate) index: Index,
    pub(crate) backend: Arc<dyn Backend>,
    /// Keeps other writers away for as long as it is open.
    pub(crate) lock: File,
}

/// Opens the store in `directory` for writing.
pub(crate) fn open(directory: &Path) -> Result<Opened> {
    let mut superblock = Superblock::read(directory, true)?;
    let lock = directory::lock(directory)?;
    let backend = backend(directory);
    let unknown = examine(directory, &superblock, backend.as_ref())?;

    let mark = Mark::open_for_writing(&directory.join(format::GENERATION_FILE))?;
    let index = Index::open_primary(&directory.join(format::INDEX_DIRECTORY), mark)?;
    if !superblock.is_marked() {
        index.adopt(superblock.identity)?;
        superblock.read_only_compatible |= FEATURE_MARKED;
        superblock.write(directory)?;
        tracing::info!("the index carries the store's identity and counts commits from now on");
    }
    set_aside(&index, backend.as_ref(), &unknown)?;
    let staging = directory.join(format::STAGING_DIRECTORY);
    fs::create_dir_all(&staging).map_err(|source| StoreError::io("creating", staging, source))?;
    // With it, and should the superblock be lost, the next restoration would take all of this for its own.
    directory::end_restoration(directory)?;
    Ok(Opened {
        superblock,
        index,
        backend,
        lock,
    })
}

/// The segments and temporary files of a store.
pub(crate) fn backend(directory: &Path) -> Arc<dyn Backend> {
    Arc::new(DirectoryBackend::new(
        directory.join(format::SEGMENTS_DIRECTORY),
        directory.join(format::STAGING_DIRECTORY),
        directory.join(format::LOST_DIRECTORY),
    ))
}

/// Compares index, mark and segments, and changes nothing. Answers with segment files that the
/// index does not know.
fn examine(
    directory: &Path,
    superblock: &Superblock,
    backend: &dyn Backend,
) -> Result<Vec<SegmentId>> {
    let (index, files) = examine_index(directory, superblock, backend)?;
    for (id, record) in &index.segments {
        check_segment(backend, *id, *record).map_err(|why| refused(directory, why))?;
    }
    // In order of number, as keys are.
    let known = |id: &SegmentId| {
        index
            .segments
            .binary_search_by_key(id, |(known, _)| *known)
            .is_ok()
    };
    Ok(files.into_iter().filter(|id| !known(id)).collect())
}

/// Looks at the index alone, as a reader does. While a writer is at work something can be gone
/// between two looks, so several are taken.
pub(crate) fn examine_for_reading(
    directory: &Path,
    superblock: &Superblock,
    backend: &dyn Backend,
) -> Result<()> {
    const LOOKS: u32 = 10;
    let mut look = 1;
    loop {
        match examine_index(directory, superblock, backend) {
            Err(error @ StoreError::Refused { .. }) if look < LOOKS => {
                tracing::debug!(%error, "looking again");
                std::thread::sleep(std::time::Duration::from_millis(look.into()));
                look += 1;
            }
            other => return other.map(drop),
        }
    }
}

fn examine_index(
    directory: &Path,
    superblock: &Superblock,
    backend: &dyn Backend,
) -> Result<(Inspection, Vec<SegmentId>)> {
    check_index_directory(directory)?;
    // Before the index, which a writer at work may be adding to.
    let mark = read_mark(directory, superblock)?;
    let index = Index::inspect_at(&directory.join(format::INDEX_DIRECTORY))
        .map_err(|error| unreadable_index(directory, &error))?;
    let files = backend.list().map_err(|error| {
        let advice = "put the segments back, or mount what holds them";
        refused(
            directory,
            format!("its segments are not to be found ({error}): {advice}"),
        )
    })?;
    check_index(superblock, mark, &index, &files).map_err(|why| refused(directory, why))?;
    Ok((index, files))
}

fn refused(directory: &Path, why: String) -> StoreError {
    StoreError::Refused {
        path: directory.into(),
        why,
    }
}

/// Wraps what RocksDB says of an index that cannot be opened.
fn unreadable_index(directory: &Path, error: &StoreError) -> StoreError {
    let why = format!(
        "its index cannot be read ({error}): check the disk (dmesg, smartctl), then put the \
         undamaged index back"
    );
    refused(directory, why)
}

/// Refuses a directory without index: RocksDB would say less, or make one.
fn check_index_directory(directory: &Path) -> Result<()> {
    let path = directory.join(format::INDEX_DIRECTORY);
    let advice = "put the index back that belongs to this store, or mount what holds it";
    let why = match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_dir() => "is not a directory",
        Ok(_) => match fs::metadata(path.join("CURRENT")) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "has no file CURRENT",
            Err(source) => return Err(StoreError::io("opening", path.join("CURRENT"), source)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is not there",
        Err(source) => return Err(StoreError::io("opening", path, source)),
    };
    let why = format!("its index {} {why}: {advice}", path.display());
    Err(refused(directory, why))
}

/// The number of commits that were acknowledged; zero if the store does not count them yet.
fn read_mark(directory: &Path, superblock: &Superblock) -> Result<u64> {
    let path = directory.join(format::GENERATION_FILE);
    let mark = Mark::open(&path)?;
    match mark.map(|mark| mark.read()).transpose()?.flatten() {
        Some(commits) => Ok(commits),
        None if !superblock.is_marked() => Ok(0),
        None => {
            let why = format!(
                "{} is absent or too short, so there is no telling whether the index is the \
                 newest one: put the file back, an older copy will do; if the index is known to be \
                 the newest, 8 zero bytes will do",
                path.display()
            );
            Err(refused(directory, why))
        }
    }
}

/// What an index must say to be the one of this store; otherwise why it is not, and what to do.
fn check_index(
    superblock: &Superblock,
    mark: u64,
    index: &Inspection,
    files: &[SegmentId],
) -> std::result::Result<(), String> {
    if index
        .identity
        .is_some_and(|found| found != superblock.identity)
    {
        return Err(error::another_store());
    }
    if !superblock.is_marked() {
        let empty = index.segments.is_empty() && index.next_segment == 0;
        return if empty && !files.is_empty() {
            let files = files.len();
            Err(format!(
                "its index is empty, and there are {files} segment files: put the index back that \
                 belongs to them"
            ))
        } else {
            Ok(())
        };
    }
    if index.identity.is_none() {
        return Err(
            "its index does not say which store it belongs to, so it is older than this store or \
             empty: put the newest index back"
                .into(),
        );
    }
    if index.commits < mark {
        return Err(error::older(index.commits, mark));
    }
    match index.hole {
        Some(number) => Err(format!(
            "commit {number} of {} is missing in its index, so the index's log is damaged: check \
             the disk (dmesg, smartctl), then put the undamaged index back",
            index.commits
        )),
        None => Ok(()),
    }
}

/// True when a segment may have no file: it is about to go, or nothing was ever committed to it.
pub fn may_lack_file(record: SegmentRecord) -> bool {
    record.state == SegmentState::Retired || record.state == SegmentState::Open && record.used == 0
}

fn check_segment(
    backend: &dyn Backend,
    id: SegmentId,
    record: SegmentRecord,
) -> std::result::Result<(), String> {
    if may_lack_file(record) {
        return Ok(());
    }
    let advice = "put the file back, or mount what holds it";
    let expected = u64::from(record.capacity) * PAGE_SIZE;
    match backend.length(id) {
        Ok(length) if length == expected => Ok(()),
        Ok(length) => Err(format!(
            "segment {id} has {length} bytes, not {expected}: {advice}"
        )),
        Err(StoreError::NoSegment(_)) => Err(format!("segment {id} has no file: {advice}")),
        Err(error) => Err(format!("segment {id} cannot be used ({error}): {advice}")),
    }
}

/// Numbers of segments from here on are taken for nobody's: a file of such a name would use up the
/// numbers that are left, and no store comes to so many.
const NOBODYS: u32 = 1 << 31;

/// Moves segment files aside that the index does not know. Somebody put them there, or the index is
/// not what it should be: from then on nothing is written to segments that were open, either.
fn set_aside(index: &Index, backend: &dyn Backend, unknown: &[SegmentId]) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    for id in unknown {
        let path = backend.set_aside(*id)?;
        tracing::warn!(
            segment = %id,
            path = %path.display(),
            "moved a segment file aside that the index does not know; remove it if nobody misses it"
        );
    }
    let mut batch = index.batch();
    for (id, mut record) in index.now().segments()? {
        if record.state == SegmentState::Open && record.used > 0 {
            record.state = SegmentState::Sealed;
            batch.put_segment(id, &record);
        }
    }
    let taken = unknown.iter().filter(|id| id.0 < NOBODYS);
    let after = taken.map(|id| u64::from(id.0) + 1).max();
    let next = index.now().next_segment()?.max(after.unwrap_or(0));
    batch.put_next_segment(next);
    batch.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superblock::FORMAT_VERSION;

    const MINE: [u8; 16] = [7; 16];

    fn superblock(features: u64) -> Superblock {
        Superblock {
            version: FORMAT_VERSION,
            compatible: 0,
            read_only_compatible: features,
            incompatible: 0,
            segment_bytes: 64 << 20,
            identity: MINE,
        }
    }

    fn index(identity: Option<[u8; 16]>, commits: u64) -> Inspection {
        Inspection {
            identity,
            commits,
            hole: None,
            next_segment: 0,
            segments: vec![],
        }
    }

    #[test]
    fn only_the_newest_index_of_the_same_store_is_taken() {
        let check = |mark, index: &Inspection| {
            check_index(&superblock(FEATURE_MARKED), mark, index, &[]).err()
        };
        let says =
            |found: Option<String>, words: &str| found.is_some_and(|why| why.contains(words));
        assert_eq!(check(5, &index(Some(MINE), 5)), None);
        // A stop between a commit and its mark.
        assert_eq!(check(5, &index(Some(MINE), 6)), None);
        assert!(says(
            check(5, &index(Some(MINE), 4)),
            "knows of 4 commits, and 5"
        ));
        assert!(says(check(0, &index(Some([8; 16]), 9)), "another store"));
        assert!(says(check(0, &index(None, 0)), "which store"));
        let holed = Inspection {
            hole: Some(3),
            ..index(Some(MINE), 5)
        };
        assert!(says(check(5, &holed), "commit 3 of 5"));
    }

    #[test]
    fn an_index_of_an_old_release_is_taken_unless_it_is_empty_beside_segments() {
        let check = |index: &Inspection, files: &[SegmentId]| {
            check_index(&superblock(0), 9, index, files).is_ok()
        };
        let used = Inspection {
            next_segment: 1,
            ..index(None, 0)
        };
        assert!(check(&used, &[SegmentId(0)]));
        assert!(check(&index(None, 0), &[]));
        assert!(!check(&index(None, 0), &[SegmentId(0)]));
        // One that was being taken over when the process was stopped.
        assert!(check(&index(Some(MINE), 9), &[]));
        assert!(!check(&index(Some([8; 16]), 9), &[]));
    }
}
