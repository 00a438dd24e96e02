//! What an index says of itself before it is opened: whose it is, and whether commits are missing.

use std::fs;
use std::path::Path;

use pool_core::extent::SegmentId;
use rocksdb::DB;

use super::options::{families, options};
use super::{COMMIT, COMMITS, COUNTED, FIRST_COMMIT, Index, META, Role, failed};
use crate::error::{Result, StoreError};
use crate::format::SegmentRecord;
use crate::journal::frame::Digest;

/// What an index says of itself before it is opened.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// Identity of the store that it belongs to; absent in indexes of old releases.
    pub(crate) identity: Option<[u8; 16]>,
    /// Commits that it has.
    pub(crate) commits: u64,
    /// The first commit below that number that it lacks.
    pub(crate) hole: Option<u64>,
    /// Digest of the last commit's frame of the journal; absent before there is one.
    pub(crate) frame: Option<Digest>,
    /// Number of the next segment.
    pub(crate) next_segment: u64,
    /// Segments on record.
    pub(crate) segments: Vec<(SegmentId, SegmentRecord)>,
}

/// Refuses an index with a pipe or a device among its files: RocksDB would wait for somebody who writes to it.
pub(super) fn check_files(path: &Path) -> Result<()> {
    // RocksDB says what is in the way.
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // One that went meanwhile was needed no more.
        if fs::metadata(&path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
            let path = path.display();
            return Err(StoreError::Corrupt(format!("{path} is not a file")));
        }
    }
    Ok(())
}

impl Index {
    /// Reads what an index says of itself, with the same recovery as a writer's, and changes
    /// nothing on disk.
    pub(crate) fn inspect_at(path: &Path) -> Result<Inspection> {
        Self::open_inspector(path)?.inspect()
    }

    /// Opens an index to look at it, and changes nothing on disk.
    pub(crate) fn open_inspector(path: &Path) -> Result<Self> {
        check_files(path)?;
        let mut options = options();
        options.set_max_open_files(64);
        options.set_max_file_opening_threads(1);
        options.set_skip_stats_update_on_db_open(true);
        let db = DB::open_cf_descriptors_read_only(&options, path, families(), false)
            .map_err(|source| failed("opening", source))?;
        Ok(Self {
            path: path.into(),
            role: Role::Inspector(db),
        })
    }

    pub(crate) fn inspect(&self) -> Result<Inspection> {
        let now = self.now();
        let commits = now.counter(COMMITS)?;
        Ok(Inspection {
            identity: self.identity()?,
            commits,
            hole: self.missing_commit(commits)?,
            frame: now.last_frame()?,
            next_segment: now.next_segment()?,
            segments: now.segments()?,
        })
    }

    /// The first commit of those counted that has no key.
    fn missing_commit(&self, commits: u64) -> Result<Option<u64>> {
        let now = self.now();
        let first = now.counter(FIRST_COMMIT)?;
        let mut expected = first.max(commits.saturating_add(1).saturating_sub(COUNTED));
        let mut hole = None;
        now.scan(META, COMMIT, |key, _| {
            let number = key[COMMIT.len()..].try_into().map_or(0, u64::from_be_bytes);
            if hole.is_none() && number >= expected {
                if number > expected {
                    hole = Some(expected);
                }
                // A damaged number may be the last one there is.
                expected = number.saturating_add(1);
            }
            Ok(())
        })?;
        // An index of an old release counts nothing.
        let counted = commits > 0 || self.identity()?.is_some();
        Ok(hole.or_else(|| (counted && expected <= commits).then_some(expected)))
    }
}
