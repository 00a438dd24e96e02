//! What an index says of itself before it is opened: whose it is, and whether commits are missing.

use std::fs::{self, File};
use std::io::{self, Read};
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
/// log or a list of tables with a record [that it reads again and again](read_for_ever).
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
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if (name.starts_with(b"MANIFEST-") || name.ends_with(b".log"))
            && let Ok(file) = File::open(&path)
            && let Ok(Some((at, kind))) = read_for_ever(file)
        {
            let path = path.display();
            return Err(StoreError::Corrupt(format!(
                "{path} has a record of kind {kind} at byte {at}, and no log of an index has such"
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

/// Bytes of a block of RocksDB's logs and lists of tables. No record goes over its end, and behind one that is not whole the next
/// block is read.
const BLOCK: usize = 32 << 10;

/// Bytes before a record: a checksum of 4, a length of 2 and a kind.
const HEADER: usize = 7;

/// Where a log or a list of tables has a record of a kind that recycled logs have, and which kind that is. Among others RocksDB
/// does not get past one, as its header is longer (db/log_format.h, `Reader::ReadPhysicalRecord` of db/log_reader.cc).
fn read_for_ever(mut file: impl Read) -> io::Result<Option<(usize, u8)>> {
    let mut block = Vec::with_capacity(BLOCK);
    for start in (0..).step_by(BLOCK) {
        block.clear();
        file.by_ref().take(BLOCK as u64).read_to_end(&mut block)?;
        if let Some((at, kind)) = recycled_in(&block) {
            return Ok(Some((start + at, kind)));
        }
        if block.len() < BLOCK {
            break;
        }
    }
    Ok(None)
}

/// The same, of one block.
fn recycled_in(block: &[u8]) -> Option<(usize, u8)> {
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER) {
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        match header[6] {
            kind @ (5..=8 | 11 | 131) => return are_whole(&block[..at]).then_some((at, kind)),
            // Set aside for what is to come, or never written.
            0 if length == 0 => return None,
            _ => at += HEADER + length,
        }
    }
    None
}

/// True when records have the checksums that they should. What a power cut leaves of some is not whole, and what seems to be
/// behind that in the same block may be anything.
fn are_whole(mut records: &[u8]) -> bool {
    while let Some((header, rest)) = records.split_first_chunk::<HEADER>() {
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let Some((content, rest)) = rest.split_at_checked(length) else {
            return false;
        };
        let checksum = crc32c(&[&header[6..], content].concat());
        // As stored: it may be part of what another one is taken of (util/crc32c.h, `Mask`).
        let masked = checksum.rotate_right(15).wrapping_add(0xa282_ead8);
        if header[..4] != masked.to_le_bytes() {
            return false;
        }
        records = rest;
    }
    true
}

/// The CRC of RFC 3720, appendix B.4. Of few bytes: a bit at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let of_byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc));
    !bytes.iter().fold(u32::MAX, of_byte)
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
        let content = vec![0xc5; length];
        let checksum = crc32c(&[&[kind], &content[..]].concat());
        let masked = checksum.rotate_right(15).wrapping_add(0xa282_ead8);
        let mut record = masked.to_le_bytes().to_vec();
        record.extend_from_slice(&(length as u16).to_le_bytes());
        record.push(kind);
        record.extend_from_slice(&content);
        record
    }

    #[test]
    fn a_record_of_a_recycled_log_is_found_wherever_it_is_read() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        let first = record(1, 32_000);
        // No header fits into what is left of the first block.
        let second = record(2, BLOCK - first.len() - HEADER - 3);
        let third = record(4, 100);
        let list = [&first[..], &second, &[0; 3], &third].concat();
        let found = |list: &[u8]| read_for_ever(list).unwrap();
        assert_eq!(found(&list), None);
        assert_eq!(found(&[&list[..], &[0; 4096]].concat()), None);
        assert_eq!(found(&list[..list.len() - 30]), None);
        let third_at = list.len() - third.len();
        for at in [0, first.len(), third_at] {
            for kind in 0..=u8::MAX {
                let mut flipped = list.clone();
                flipped[at + 6] = kind;
                let is_one = matches!(kind, 5..=8 | 11 | 131);
                assert_eq!(found(&flipped), is_one.then_some((at, kind)));
            }
        }
        // What is not whole is not read any further, to the end of its block.
        let mut flipped = list.clone();
        flipped[first.len() + 6] = 5;
        flipped[1000] ^= 1;
        assert_eq!(found(&flipped), None);
        flipped[..HEADER].fill(0);
        assert_eq!(found(&flipped), None);
        flipped[third_at + 6] = 5;
        assert_eq!(found(&flipped), Some((third_at, 5)));
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
    fn files_that_would_be_read_for_ever_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        Index::create(&path, [7; 16]).unwrap();
        // A second record of the log.
        let index = Index::make(&path).unwrap();
        index.begin_counting([7; 16], 0, None).unwrap();
        index.begin_counting([7; 16], 0, None).unwrap();
        drop(index);
        for (part, at) in [("MANIFEST-", 0), (".log", 1)] {
            let files = fs::read_dir(&path).unwrap();
            let files = files.map(|entry| entry.unwrap().path());
            let named = files.filter(|path| path.display().to_string().contains(part));
            let file = named.max().unwrap();
            let before = fs::read(&file).unwrap();
            let length = usize::from(u16::from_le_bytes([before[4], before[5]]));
            let at = at * (HEADER + length);
            assert_eq!(before[at + 6], 1);
            let mut bytes = before.clone();
            bytes[at + 6] = 5;
            fs::write(&file, bytes).unwrap();
            let refused = Index::inspect_at(&path).unwrap_err().to_string();
            let told = format!("record of kind 5 at byte {at},");
            assert!(refused.contains(&told), "{refused}");
            fs::write(&file, before).unwrap();
            Index::inspect_at(&path).unwrap();
        }
    }
}
