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

/// Refuses an index with files that RocksDB would never come to the end of: a pipe or a device, for which it would wait, and a
/// list of tables with a record of a kind that is in no such list.
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
        let is_list = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(b"MANIFEST-");
        if is_list
            && let Ok(bytes) = fs::read(&path)
            && let Some((at, kind)) = unknown_record(&bytes)
        {
            let path = path.display();
            return Err(StoreError::Corrupt(format!(
                "{path} has a record of kind {kind} at byte {at}, and no list of tables has such"
            )));
        }
    }
    Ok(())
}

/// Refuses an index with a table that is absent or has another length than the list of tables says: RocksDB opens a few of
/// them, and takes the others for what they should be until they are asked.
fn check_tables(path: &Path, db: &DB) -> Result<()> {
    let tables = db
        .live_files()
        .map_err(|source| failed("listing", source))?;
    for table in tables {
        let path = path.join(table.name.trim_start_matches('/'));
        let why = match fs::metadata(&path) {
            Ok(found) if found.len() == table.size as u64 => continue,
            Ok(found) => format!("has {} bytes, not {}", found.len(), table.size),
            Err(error) => format!("cannot be found ({error})"),
        };
        let path = path.display();
        return Err(StoreError::Corrupt(format!("its table {path} {why}")));
    }
    Ok(())
}

/// Where a list of tables has a record that is neither whole nor a part of one, and of which kind it is said to be: RocksDB
/// takes a record for that of a recycled log, whose header is longer, and reads it again and again (db/log_format.h: blocks of
/// 32 KiB; a checksum of 4 bytes, a length of 2 and a kind before each record, which goes over no block's end).
fn unknown_record(list: &[u8]) -> Option<(usize, u8)> {
    const BLOCK: usize = 32 << 10;
    const HEADER: usize = 7;
    let mut at = 0;
    while let Some(header) = list.get(at..at + HEADER) {
        let left = BLOCK - at % BLOCK;
        if left < HEADER {
            at += left;
            continue;
        }
        match header[6] {
            // Set aside for what is to come.
            0 => return None,
            1..=4 => at += HEADER + usize::from(u16::from_le_bytes([header[4], header[5]])),
            kind => return Some((at, kind)),
        }
    }
    None
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
        check_tables(path, &db)?;
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

#[cfg(test)]
mod tests {
    use super::super::family;
    use super::super::options::{PAGES, primary_options};
    use super::*;

    fn record(kind: u8, length: usize) -> Vec<u8> {
        let mut record = vec![0xc5; 7 + length];
        record[4..6].copy_from_slice(&(length as u16).to_le_bytes());
        record[6] = kind;
        record
    }

    #[test]
    fn a_record_of_another_kind_is_found_wherever_it_is() {
        let first = record(1, 32_000);
        // No header fits into what is left of the first block.
        let second = record(2, (32 << 10) - first.len() - 7 - 3);
        let third = record(4, 100);
        let list = [&first[..], &second, &[0; 3], &third].concat();
        assert_eq!(unknown_record(&list), None);
        assert_eq!(unknown_record(&[&list[..], &[0; 4096]].concat()), None);
        assert_eq!(unknown_record(&list[..list.len() - 30]), None);
        for at in [0, first.len(), list.len() - third.len()] {
            let mut flipped = list.clone();
            flipped[at + 6] ^= 4;
            let found = unknown_record(&flipped).map(|(at, _)| at);
            assert_eq!(found, (flipped[at + 6] > 4).then_some(at), "{at}");
        }
    }

    #[test]
    fn every_table_is_looked_for_however_many_there_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        Index::create(&path, [7; 16]).unwrap();
        let db = DB::open_cf_descriptors(&primary_options(), &path, families()).unwrap();
        // Of a family that an inspection does not read.
        let pages = family(&db, PAGES);
        db.set_options_cf(pages, &[("disable_auto_compactions", "true")])
            .unwrap();
        // More than RocksDB opens at once.
        for number in 0..24u64 {
            db.put_cf(pages, number.to_be_bytes(), []).unwrap();
            db.flush_cf(pages).unwrap();
        }
        drop(db);
        Index::inspect_at(&path).unwrap();
        let entries = fs::read_dir(&path).unwrap();
        let tables = entries.map(|entry| entry.unwrap().path());
        let tables: Vec<_> = tables
            .filter(|path| path.extension().is_some_and(|end| end == "sst"))
            .collect();
        assert!(tables.len() >= 24);
        for table in tables {
            let bytes = fs::read(&table).unwrap();
            for spoilt in [None, Some(&bytes[..bytes.len() / 2])] {
                match spoilt {
                    None => fs::remove_file(&table).unwrap(),
                    Some(bytes) => fs::write(&table, bytes).unwrap(),
                }
                Index::inspect_at(&path).unwrap_err();
            }
            fs::write(&table, bytes).unwrap();
        }
        Index::inspect_at(&path).unwrap();
    }

    #[test]
    fn a_list_of_tables_that_would_be_read_for_ever_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        Index::create(&path, [7; 16]).unwrap();
        let mut lists = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let list = lists.find(|path| path.display().to_string().contains("MANIFEST-"));
        let list = list.unwrap();
        let mut bytes = fs::read(&list).unwrap();
        assert_eq!(bytes[6], 1);
        bytes[6] = 5;
        fs::write(&list, bytes).unwrap();
        let refused = Index::inspect_at(&path).unwrap_err().to_string();
        assert!(refused.contains("record of kind 5 at byte 0"), "{refused}");
    }
}
