//! Reading objects through the segments that they lie in.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use pool_core::extent::{Extent, ExtentMap, SegmentId};
use pool_core::page::PAGE_SIZE;

use crate::StoreView;
use crate::backend::SegmentFile;
use crate::error::{Result, StoreError};

/// Segments that are open: what is read through them is in the files that had their names then, whatever has by now.
#[derive(Debug, Default)]
pub struct OpenSegments(BTreeMap<SegmentId, Arc<dyn SegmentFile>>);

impl StoreView {
    /// Opens the segments that extents lie in. One that has no file is left out, and what lies in others can be read all the same.
    pub fn open_segments(&self, extents: impl Iterator<Item = Extent>) -> Result<OpenSegments> {
        let mut open = BTreeMap::new();
        for extent in extents {
            if let Entry::Vacant(entry) = open.entry(extent.segment) {
                match self.segment_file(extent.segment) {
                    Ok(file) => drop(entry.insert(file)),
                    Err(StoreError::NoSegment(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(OpenSegments(open))
    }

    /// Reads bytes of a file by its map, from `offset` on; fewer at the file's end.
    pub fn read(&self, map: &ExtentMap, offset: u64, length: usize) -> Result<Vec<u8>> {
        let asked = extents(map, &within(map, offset, length));
        self.open_segments(asked)?.read(map, offset, length)
    }
}

impl OpenSegments {
    /// The same, of what lies in these segments.
    pub fn read(&self, map: &ExtentMap, offset: u64, length: usize) -> Result<Vec<u8>> {
        let bytes = within(map, offset, length);
        let mut buffer = vec![0; (bytes.end - bytes.start) as usize];
        for extent in extents(map, &bytes) {
            let extent_start = extent.file_page * PAGE_SIZE;
            let from = extent_start.max(bytes.start);
            let to = (extent.end_page() * PAGE_SIZE).min(bytes.end);
            let part = &mut buffer[(from - bytes.start) as usize..(to - bytes.start) as usize];
            let position = extent.slot.byte_offset() + (from - extent_start);
            let segment = extent.segment;
            let file = self.0.get(&segment).ok_or(StoreError::NoSegment(segment))?;
            file.read_exact_at(part, position).map_err(|source| {
                StoreError::io("reading the segment", segment.to_string(), source)
            })?;
        }
        Ok(buffer)
    }
}

/// What there is of `length` bytes from `offset` on.
fn within(map: &ExtentMap, offset: u64, length: usize) -> Range<u64> {
    let start = offset.min(map.length);
    start..start.saturating_add(length as u64).min(map.length)
}

/// The extents of the pages that bytes are in.
fn extents<'a>(map: &'a ExtentMap, bytes: &Range<u64>) -> impl Iterator<Item = Extent> + use<'a> {
    let pages = if bytes.is_empty() {
        0..0
    } else {
        bytes.start / PAGE_SIZE..bytes.end.div_ceil(PAGE_SIZE)
    };
    map.slice(pages.start, pages.end - pages.start)
}
