//! What is looked at before a store is opened: does its index belong to it, do index, journal and mark fit, is it all there?

use std::fs;
use std::io;
use std::path::Path;

use pool_core::extent::SegmentId;
use pool_core::page::PAGE_SIZE;

use crate::backend::Backend;
use crate::error::{self, Result, StoreError};
use crate::format::{self, SegmentRecord, SegmentState};
use crate::index::{Index, Inspection, follow_segments};
use crate::journal::frame::Digest;
use crate::journal::{self, Commits, Found, Unusable};
use crate::mark::Mark;
use crate::owner;
use crate::slots::Segments;
use crate::superblock::Superblock;

use super::told::{self, Told};

/// What was found before anything is changed.
pub(super) struct Examined {
    /// Those that the index knows, and that may have files.
    pub(super) known: Vec<SegmentId>,
    /// Segment files that the index does not know.
    pub(super) unknown: Vec<SegmentId>,
    /// Absent in a store that has no journal yet.
    pub(super) lead: Option<Lead>,
}

/// Bytes of changes that are kept in memory until the index gets them; of more the journal is read once more.
const FEW: usize = 16 << 20;

/// What the journal has over the index.
#[derive(Debug)]
pub(crate) struct Lead {
    pub(crate) found: Found,
    /// Number of the last commit that the index need not get again.
    pub(crate) has: u64,
    /// The commits that it lacks, number, digest and changes of each; empty where these are many bytes.
    pub(crate) few: Commits,
    /// What segments there are once it has all.
    pub(crate) segments: Segments,
    /// What the index says of segments otherwise than the journal, in words.
    pub(crate) differing: Vec<String>,
}

impl Lead {
    /// Commits that the index lacks.
    pub(crate) fn lacks(&self) -> u64 {
        self.found.last.saturating_sub(self.has)
    }
}

/// Compares index, journal, mark and segments, and changes nothing.
pub(super) fn examine(
    directory: &Path,
    superblock: &Superblock,
    backend: &dyn Backend,
) -> Result<Examined> {
    let is_journaled = has_journal(directory, superblock);
    let (index, mark, files) = look_at_index(directory, superblock, backend)?;
    check_parts(directory)?;
    let lead = if is_journaled {
        let lead = check_journal(directory, superblock, mark, &index);
        Some(lead.map_err(|why| refused(directory, why))?)
    } else {
        let checked = check_index(superblock, mark, &index, &files);
        checked.map_err(|why| refused(directory, why))?;
        None
    };
    let segments = match &lead {
        Some(lead) => lead.segments.clone(),
        None => index.segments.into_iter().collect(),
    };
    for (id, record) in &segments {
        check_segment(backend, *id, *record).map_err(|why| {
            let differing = lead.as_ref().and_then(|lead| lead.differing.first());
            let why = match differing {
                Some(differing) => format!(
                    "{why}; or the index is wrong about segments ({differing}): then let {} make it anew from the journal",
                    repair(directory)
                ),
                None => why,
            };
            refused(directory, why)
        })?;
    }
    let (known, unknown) = files.into_iter().partition(|id| segments.contains_key(id));
    Ok(Examined {
        known,
        unknown,
        lead,
    })
}

/// True when the store has a journal: there is none half made, so one that is there is whole even before the superblock tells of it.
pub(crate) fn has_journal(directory: &Path, superblock: &Superblock) -> bool {
    let path = directory.join(format::JOURNAL_DIRECTORY);
    superblock.is_journaled() || path.symlink_metadata().is_ok()
}

/// Reads the journal, and what the index lacks of it; otherwise why they do not fit, and what to do.
pub(crate) fn check_journal(
    directory: &Path,
    superblock: &Superblock,
    mark: u64,
    index: &Inspection,
) -> std::result::Result<Lead, String> {
    check_identity(superblock, index)
        .map_err(|why| format!("{why}{}", advice(directory, superblock)))?;
    // From a commit that is missing on all are made again.
    let has = match index.hole {
        Some(hole) => hole.saturating_sub(1),
        None => index.commits,
    };
    let mut reached = None;
    let mut segments: Segments = index.segments.iter().copied().collect();
    let mut followed = Ok(());
    let mut logged = Told::default();
    let (mut few, mut bytes) = (Commits::new(), 0);
    let path = directory.join(format::JOURNAL_DIRECTORY);
    let found = journal::read(&path, superblock.identity, |number, digest, changes| {
        if number <= has {
            reached = Some(*digest).filter(|_| number == has);
            logged.follow(changes);
        } else if followed.is_ok() {
            followed = follow_segments(&mut segments, number, changes);
            bytes += changes.len();
            if bytes <= FEW {
                few.push((number, *digest, changes.to_vec()));
            } else {
                few.clear();
            }
        }
    });
    let repair = repair(directory);
    let found = found.map_err(|Unusable { why, .. }| {
        format!("its journal cannot be used ({why}): check the disk (dmesg, smartctl), and that this user may read it; {repair} makes a new one of a whole index")
    })?;
    if mark > index.commits.max(found.last) {
        let last = index.commits.max(found.last);
        return Err(error::older("its index and its journal know", last, mark));
    }
    if index.commits > found.last {
        return Err(format!(
            "its journal ends with commit {}, and its index has {}: the journal is an older one, or its end is \
             damaged; put the newest one back, or let {repair} make a new one of the index",
            found.last, index.commits
        ));
    }
    if has < found.first || index.hole == Some(0) {
        return Err(format!(
            "its index knows of {has} commits, or lacks the next one, and its journal begins after commit {}: put the \
             newest index back, or let {repair} make it anew from the journal",
            found.first
        ));
    }
    if has == found.first {
        reached = Some(found.previous);
    }
    let unknown = Digest::default();
    if index.hole.is_none()
        && reached.is_some_and(|reached| reached != index.frame.unwrap_or(unknown))
    {
        return Err(format!(
            "commit {has} of its index is another one than commit {has} of its journal: they are of different copies of \
             this store, so put those back that belong together"
        ));
    }
    followed.map_err(|error| error.to_string())?;
    // One with a hole has more than that, and is brought up from there.
    let differing = if index.hole.is_some() {
        Vec::new()
    } else {
        let (identity, newest) = (superblock.identity, found.checkpoint);
        told::differences(&path, identity, newest, has, &logged, index)
    };
    Ok(Lead {
        found,
        has,
        few,
        segments,
        differing,
    })
}

/// How to repair a store, in words.
pub(crate) fn repair(directory: &Path) -> String {
    format!("pool repair --store {}", directory.display())
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

fn examine_index(directory: &Path, superblock: &Superblock, backend: &dyn Backend) -> Result<()> {
    let (index, mark, files) = look_at_index(directory, superblock, backend)?;
    check_index(superblock, mark, &index, &files).map_err(|why| {
        let advice = advice(directory, superblock);
        refused(directory, format!("{why}{advice}"))
    })?;
    let labels = index
        .segments
        .iter()
        .map(|(id, _)| check_label(backend, *id));
    labels
        .collect::<std::result::Result<(), _>>()
        .map_err(|why| refused(directory, why))
}

/// What index, mark and the directory of segments say.
fn look_at_index(
    directory: &Path,
    superblock: &Superblock,
    backend: &dyn Backend,
) -> Result<(Inspection, u64, Vec<SegmentId>)> {
    check_index_directory(directory).map_err(|error| match error {
        Missing::Why(why) => {
            let advice = advice(directory, superblock);
            refused(directory, format!("{why}{advice}"))
        }
        Missing::Failed(error) => error,
    })?;
    // Before the index, which a writer at work may be adding to.
    let mark = read_mark(directory, superblock)?;
    let index = Index::inspect_at(&directory.join(format::INDEX_DIRECTORY))
        .map_err(|error| unreadable_index(directory, superblock, error))?;
    let files = backend.list().map_err(|error| {
        let advice = "put the segments back, or mount what holds them";
        refused(
            directory,
            format!("its segments are not to be found ({error}): {advice}"),
        )
    })?;
    // Before anything is said of one of them.
    owner::check(directory, superblock.identity).map_err(|why| refused(directory, why))?;
    Ok((index, mark, files))
}

/// What else can be done about an index that is not the right one, with what is at stake.
fn advice(directory: &Path, superblock: &Superblock) -> String {
    if !has_journal(directory, superblock) {
        return String::new();
    }
    let path = directory.join(format::JOURNAL_DIRECTORY);
    match journal::read(&path, superblock.identity, |_, _, _| ()) {
        Ok(found) => format!(
            "; or let {} make it anew from the journal, which has all of its {} commits",
            repair(directory),
            found.last
        ),
        Err(unusable) => format!("; its journal cannot be used, either ({})", unusable.why),
    }
}

pub(super) fn refused(directory: &Path, why: String) -> StoreError {
    StoreError::Refused {
        path: directory.into(),
        why,
    }
}

/// Parts of a store that every opening makes or removes, and whether each is a directory.
const PARTS: [(&str, bool); 2] = [
    (format::STAGING_DIRECTORY, true),
    (format::RESTORING_FILE, false),
];

/// Refuses what is in the way of such a part.
fn check_parts(directory: &Path) -> Result<()> {
    for (part, is_directory) in PARTS {
        let path = directory.join(part);
        let is_right = match fs::metadata(&path) {
            Ok(found) => found.is_dir() == is_directory && found.is_file() != is_directory,
            // A link that leads nowhere is something.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.symlink_metadata().is_err()
            }
            Err(error) => return Err(StoreError::io("looking at", path, error)),
        };
        if !is_right {
            let what = if is_directory { "directory" } else { "file" };
            let why = format!("its {part} is not a {what}: move {} away", path.display());
            return Err(refused(directory, why));
        }
    }
    Ok(())
}

/// Wraps what RocksDB says of an index that cannot be opened.
fn unreadable_index(directory: &Path, superblock: &Superblock, error: StoreError) -> StoreError {
    if error.is_for_lack_of_rights() {
        return error;
    }
    let why = format!(
        "its index cannot be read ({error}): check the disk (dmesg, smartctl), then put the \
         undamaged index back{}",
        advice(directory, superblock)
    );
    refused(directory, why)
}

/// Why there is no index.
enum Missing {
    /// In words, and what to do.
    Why(String),
    /// It cannot be told.
    Failed(StoreError),
}

/// Refuses a directory without index: RocksDB would say less, or make one.
fn check_index_directory(directory: &Path) -> std::result::Result<(), Missing> {
    let path = directory.join(format::INDEX_DIRECTORY);
    let advice = "put the index back that belongs to this store, or mount what holds it";
    let failed = |path, source| Missing::Failed(StoreError::io("opening", path, source));
    let why = match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_dir() => "is not a directory",
        Ok(_) => match fs::metadata(path.join("CURRENT")) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "has no file CURRENT",
            Err(source) => return Err(failed(path.join("CURRENT"), source)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is not there",
        Err(source) => return Err(failed(path, source)),
    };
    let path = path.display();
    Err(Missing::Why(format!("its index {path} {why}: {advice}")))
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
pub(crate) fn check_index(
    superblock: &Superblock,
    mark: u64,
    index: &Inspection,
    files: &[SegmentId],
) -> std::result::Result<(), String> {
    check_identity(superblock, index)?;
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
    if index.commits < mark {
        return Err(error::older("its index knows", index.commits, mark));
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

/// Refuses the index of another store, and one that does not say whose it is.
fn check_identity(superblock: &Superblock, index: &Inspection) -> std::result::Result<(), String> {
    match index.identity {
        Some(found) if found != superblock.identity => Err(error::another_store()),
        None if superblock.is_marked() => Err(
            "its index does not say which store it belongs to, so it is older than this store or \
             empty: put the newest index back"
                .into(),
        ),
        _ => Ok(()),
    }
}

/// True when a segment may have no file: it is about to go, or nothing was ever committed to it.
pub fn may_lack_file(record: SegmentRecord) -> bool {
    record.state == SegmentState::Retired || record.state == SegmentState::Open && record.used == 0
}

pub(crate) fn check_segment(
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
        Ok(length) if length == expected => check_label(backend, id),
        Ok(length) => Err(format!(
            "segment {id} has {length} bytes, not {expected}: {advice}"
        )),
        Err(StoreError::NoSegment(_)) => Err(format!(
            "segment {id} has no file: {advice}; if it is gone for good, truncate -s {expected} \
             {}/{id}.seg has all else served, and asked for again what was in it",
            format::SEGMENTS_DIRECTORY
        )),
        Err(error) => Err(format!("segment {id} cannot be used ({error}): {advice}")),
    }
}

/// Refuses a file that says that it was made as another segment's.
fn check_label(backend: &dyn Backend, id: SegmentId) -> std::result::Result<(), String> {
    match backend.made_as(id) {
        None => Ok(()),
        Some(other) => Err(format!(
            "the file of segment {id} says that it is segment {other}'s (getfattr -n user.pool.segment): call each what it was \
             called, or remove what it says if that is known to be wrong (setfattr -x)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superblock::{FEATURE_MARKED, FORMAT_VERSION};

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
            frame: None,
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
