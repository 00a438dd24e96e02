//! A segment as a catalogue has it: its record, and which copy of it is meant.

use pool_core::digest::DIGEST_SIZE;
use pool_core::extent::SegmentId;
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW};

use super::page_list::ListDigest;
use crate::error::{Result, StoreError};
use crate::format::{SegmentKind, SegmentRecord, SegmentState};
use crate::superblock::SEGMENT_BYTES_RANGE;

/// Bytes of a segment's record.
const RECORD: usize = 12;

/// A segment that a backup has a copy of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) record: SegmentRecord,
    /// Of the list of the copy's pages: copies of other states of the segment have other lists.
    pub(super) list: ListDigest,
}

impl Copied {
    /// The value of its entry in a catalogue, whose key is the segment's number as in the index.
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.record.encode()[..], &self.list[..]].concat()
    }

    /// Reads an entry; refuses what no backup has.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<(SegmentId, Self)> {
        let wrong = |what: &str| StoreError::Corrupt(what.into());
        let number = key.try_into().map_err(|_| wrong("a segment's number"))?;
        let id = SegmentId(u32::from_be_bytes(number));
        if value.len() == RECORD {
            let what = "it does not say which copy of a segment is meant, as those of a former release: make a new backup";
            return Err(wrong(what));
        }
        let (record, list) = value
            .split_at_checked(RECORD)
            .ok_or_else(|| wrong("a segment's record"))?;
        let record = SegmentRecord::decode(record)?;
        let list = <[u8; DIGEST_SIZE]>::try_from(list);
        let list = list.map_err(|_| wrong("the digest of a segment's list"))?;
        let windows = u64::from(record.used) % PAGES_PER_WINDOW == 0;
        let is_possible = record.state != SegmentState::Retired
            && SEGMENT_BYTES_RANGE.contains(&(u64::from(record.capacity) * PAGE_SIZE))
            && (record.kind == SegmentKind::Sparse || windows);
        if is_possible {
            Ok((id, Self { record, list }))
        } else {
            Err(wrong("a segment's record is impossible"))
        }
    }
}

/// What a copy is called. One that is to be replaced because the store or the copy is damaged keeps its name for as long
/// as a catalogue tells of it.
pub(super) fn stem(id: SegmentId, list: &ListDigest) -> String {
    let short = *list.first_chunk().expect("it has 32 bytes");
    format!("{id}-{:016x}", u64::from_be_bytes(short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_backup_has_is_refused() {
        let mut copied = Copied {
            record: SegmentRecord {
                kind: SegmentKind::Dense,
                state: SegmentState::Sealed,
                used: 512,
                capacity: 1024,
            },
            list: [7; 32],
        };
        let key = 10u32.to_be_bytes();
        let good = copied.encode();
        assert_eq!(
            Copied::decode(&key, &good).unwrap(),
            (SegmentId(10), copied)
        );
        assert_eq!(
            stem(SegmentId(10), &copied.list),
            "0000000a-0707070707070707"
        );
        for length in 0..good.len() {
            assert!(Copied::decode(&key, &good[..length]).is_err(), "{length}");
        }
        let old = Copied::decode(&key, &good[..RECORD]).unwrap_err();
        assert!(old.to_string().contains("make a new backup"), "{old}");
        assert!(Copied::decode(&key[1..], &good).is_err());
        copied.record.used = 511;
        assert!(Copied::decode(&key, &copied.encode()).is_err());
        copied.record.kind = SegmentKind::Sparse;
        assert!(Copied::decode(&key, &copied.encode()).is_ok());
        copied.record.state = SegmentState::Retired;
        assert!(Copied::decode(&key, &copied.encode()).is_err());
    }
}
