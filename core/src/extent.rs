//! Where a file's pages are kept: extents of segment slots.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::page::{PAGE_SIZE, PAGES_PER_WINDOW, PageCount};

/// Names a segment file: 8 lower-case hexadecimal digits. Never used again after an unlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(pub u32);

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for SegmentId {
    type Err = ExtentError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let canonical = text.len() == 8
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match (canonical, u32::from_str_radix(text, 16)) {
            (true, Ok(id)) => Ok(Self(id)),
            _ => Err(ExtentError::SegmentName(text.chars().take(80).collect())),
        }
    }
}

/// The position of a page in its segment, counted in pages from the segment's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

impl Slot {
    /// Byte offset of the slot in the segment file.
    pub const fn byte_offset(self) -> u64 {
        self.0 as u64 * PAGE_SIZE
    }

    /// Position of the slot in its 2 MiB window, 0 to 511.
    pub const fn page_in_window(self) -> u64 {
        self.0 as u64 % PAGES_PER_WINDOW
    }
}

/// A run of a file's pages that lies in consecutive slots of one segment.
///
/// In JSON an extent is the array `[file_page, segment, slot, count, dense]`, the last as 0 or 1,
/// without what is as usual at its end: `count` 1 and `dense` 0. A large file has thousands of
/// single pages, and an extended attribute has room for 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    /// First page of the run in the file.
    pub file_page: u64,
    /// The segment that holds it.
    pub segment: SegmentId,
    /// The slot of the first page.
    pub slot: Slot,
    /// Pages in the run; never zero.
    pub count: u32,
    /// The run has each 2 MiB window of the segment that it touches to itself: every other slot
    /// of those windows reads as zeros, now and for as long as the segment exists. A mapper may
    /// therefore map such a window whole.
    pub dense: bool,
}

impl Serialize for Extent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = match (self.count, self.dense) {
            (_, true) => 5,
            (1, false) => 3,
            (_, false) => 4,
        };
        let mut array = serializer.serialize_seq(Some(length))?;
        array.serialize_element(&self.file_page)?;
        array.serialize_element(&self.segment)?;
        array.serialize_element(&self.slot)?;
        if length > 3 {
            array.serialize_element(&self.count)?;
        }
        if length > 4 {
            array.serialize_element(&u8::from(self.dense))?;
        }
        array.end()
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ExtentVisitor)
    }
}

/// Reads an extent's array of three to five numbers.
struct ExtentVisitor;

impl<'de> Visitor<'de> for ExtentVisitor {
    type Value = Extent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an extent: [page, segment, slot], [.., count] or [.., count, dense]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Extent, A::Error> {
        let missing = |length| move || de::Error::invalid_length(length, &ExtentVisitor);
        let file_page = array.next_element()?.ok_or_else(missing(0))?;
        let segment = array.next_element()?.ok_or_else(missing(1))?;
        let slot = array.next_element()?.ok_or_else(missing(2))?;
        let count = array.next_element()?.unwrap_or(1);
        let dense = array.next_element::<u8>()?.unwrap_or(0) != 0;
        Ok(Extent {
            file_page,
            segment,
            slot,
            count,
            dense,
        })
    }
}

impl Extent {
    /// First page of the file past the run.
    pub const fn end_page(&self) -> u64 {
        self.file_page + self.count as u64
    }

    /// True when `next` goes on where this run ends, in the file and in the segment alike.
    pub fn continues_into(&self, next: &Self) -> bool {
        self.end_page() == next.file_page
            && self.segment == next.segment
            && self.slot.0.checked_add(self.count) == Some(next.slot.0)
            && self.dense == next.dense
    }
}

/// Why a list of extents is not the map of a file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ExtentError {
    /// An extent without pages.
    #[error("extent {0} has no pages")]
    Empty(usize),
    /// Extents overlap or are out of order.
    #[error("extent {0} begins before its predecessor ends")]
    Overlap(usize),
    /// File or slot arithmetic leaves its range.
    #[error("extent {0} ends past the largest page number")]
    Overflow(usize),
    /// An extent reaches past the file's last page.
    #[error("extent {0} reaches past the end of a file of {1} pages")]
    PastEnd(usize, u64),
    /// Not eight hexadecimal digits.
    #[error("not a segment name: expected 8 lower-case hexadecimal digits, got {0:?}")]
    SegmentName(String),
}

/// The extents of one file, sorted by file page; pages in no extent are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentMap {
    /// The file's true length in bytes; the last page is padded with zeros.
    pub length: u64,
    extents: Vec<Extent>,
}

impl ExtentMap {
    /// Checks `extents` against `length` and merges runs that continue each other.
    pub fn new(length: u64, extents: Vec<Extent>) -> Result<Self, ExtentError> {
        let pages = PageCount::covering(length).0;
        let mut merged: Vec<Extent> = Vec::with_capacity(extents.len());
        let mut end = 0;
        for (at, extent) in extents.into_iter().enumerate() {
            if extent.count == 0 {
                return Err(ExtentError::Empty(at));
            }
            if extent.slot.0.checked_add(extent.count).is_none() {
                return Err(ExtentError::Overflow(at));
            }
            if extent.file_page < end {
                return Err(ExtentError::Overlap(at));
            }
            end = extent
                .file_page
                .checked_add(extent.count as u64)
                .ok_or(ExtentError::Overflow(at))?;
            if end > pages {
                return Err(ExtentError::PastEnd(at, pages));
            }
            match merged.last_mut() {
                Some(last)
                    if last.continues_into(&extent)
                        && last.count.checked_add(extent.count).is_some() =>
                {
                    last.count += extent.count;
                }
                _ => merged.push(extent),
            }
        }
        Ok(Self {
            length,
            extents: merged,
        })
    }

    /// Repeats the checks of [`ExtentMap::new`] on a map that came from outside.
    pub fn validated(self) -> Result<Self, ExtentError> {
        Self::new(self.length, self.extents)
    }

    /// The extents, sorted by file page.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Pages of the file, zero pages included.
    pub fn page_count(&self) -> PageCount {
        PageCount::covering(self.length)
    }

    /// The part of the map that covers file pages `first` to `first + count - 1`, each extent cut
    /// to fit; gaps are zero pages.
    pub fn slice(&self, first: u64, count: u64) -> impl Iterator<Item = Extent> + '_ {
        let end = first.saturating_add(count);
        let start = self.extents.partition_point(|e| e.end_page() <= first);
        self.extents[start..]
            .iter()
            .take_while(move |e| e.file_page < end)
            .map(move |e| {
                let from = e.file_page.max(first);
                let to = e.end_page().min(end);
                Extent {
                    file_page: from,
                    slot: Slot(e.slot.0 + (from - e.file_page) as u32),
                    count: (to - from) as u32,
                    ..*e
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(file_page: u64, segment: u32, slot: u32, count: u32) -> Extent {
        Extent {
            file_page,
            segment: SegmentId(segment),
            slot: Slot(slot),
            count,
            dense: false,
        }
    }

    #[test]
    fn adjacent_runs_merge() {
        let map = ExtentMap::new(
            4 * PAGE_SIZE,
            vec![extent(0, 1, 8, 1), extent(1, 1, 9, 2), extent(3, 2, 11, 1)],
        )
        .unwrap();
        assert_eq!(map.extents(), [extent(0, 1, 8, 3), extent(3, 2, 11, 1)]);
    }

    #[test]
    fn wrong_maps_are_refused() {
        let new = |extents| ExtentMap::new(2 * PAGE_SIZE, extents);
        assert_eq!(new(vec![extent(0, 1, 0, 0)]), Err(ExtentError::Empty(0)));
        assert_eq!(
            new(vec![extent(1, 1, 0, 1), extent(0, 1, 1, 1)]),
            Err(ExtentError::Overlap(1))
        );
        assert_eq!(
            new(vec![extent(0, 1, u32::MAX, 1)]),
            Err(ExtentError::Overflow(0))
        );
        assert_eq!(
            new(vec![extent(u64::MAX, 1, 0, 1)]),
            Err(ExtentError::Overflow(0))
        );
        assert_eq!(
            new(vec![extent(1, 1, 0, 2)]),
            Err(ExtentError::PastEnd(0, 2))
        );
    }

    #[test]
    fn slices_are_cut_at_both_ends() {
        let map = ExtentMap::new(
            16 * PAGE_SIZE,
            vec![extent(0, 1, 100, 4), extent(8, 1, 200, 8)],
        )
        .unwrap();
        let cut: Vec<_> = map.slice(2, 8).collect();
        assert_eq!(cut, [extent(2, 1, 102, 2), extent(8, 1, 200, 2)]);
        assert_eq!(map.slice(4, 4).count(), 0);
        assert_eq!(
            map.slice(15, u64::MAX).collect::<Vec<_>>(),
            [extent(15, 1, 207, 1)]
        );
    }

    #[test]
    fn json_form_is_compact() {
        let dense = Extent {
            dense: true,
            ..extent(1, 2, 3, 1)
        };
        for (extent, json) in [
            (extent(1, 2, 3, 1), "[1,2,3]"),
            (extent(1, 2, 3, 4), "[1,2,3,4]"),
            (dense, "[1,2,3,1,1]"),
        ] {
            assert_eq!(serde_json::to_string(&extent).unwrap(), json);
            assert_eq!(serde_json::from_str::<Extent>(json).unwrap(), extent);
        }
    }

    #[test]
    fn arrays_that_leave_nothing_out_are_read_too() {
        let read = |json| serde_json::from_str::<Extent>(json).ok();
        assert_eq!(read("[1,2,3,4,0]"), Some(extent(1, 2, 3, 4)));
        assert_eq!(read("[1,2,3,1,0]"), Some(extent(1, 2, 3, 1)));
        assert_eq!(read("[1,2,3,1]"), Some(extent(1, 2, 3, 1)));
        for wrong in [
            "[]",
            "[1,2]",
            "[1,2,3,4,1,0]",
            "[1,2,-3]",
            "[1,2,4294967296]",
            "[1,2,3,4,true]",
            "{}",
            "1",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
