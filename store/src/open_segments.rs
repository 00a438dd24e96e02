//! Reading objects through the segments that they lie in.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use pool_core::extent::{Extent, ExtentMap, SegmentId};
use pool_core::page::PAGE_SIZE;

use crate::StoreView;
use crate::backend::{Identity, SegmentFile};
use crate::error::{Result, StoreError};

/// Most files that are kept open. An object may lie in more segments than a process may have open.
const MOST_OPEN: usize = 64;

/// Segments as they were at some moment: what is read through them is in the files that had their names then, whatever has by now.
#[derive(Debug, Default)]
pub struct OpenSegments(BTreeMap<SegmentId, Segment>);

#[derive(Debug)]
enum Segment {
    Open(Arc<dyn SegmentFile>),
    /// Opened when it is read, and refused if it is another one by then.
    Named(Identity),
}

impl StoreView {
    /// Opens the segments that extents lie in. One that has no file is left out, and what lies in others can be read all the same.
    pub fn open_segments(&self, extents: impl Iterator<Item = Extent>) -> Result<OpenSegments> {
        self.open_at_most(MOST_OPEN, extents)
    }

    fn open_at_most(
        &self,
        most: usize,
        extents: impl Iterator<Item = Extent>,
    ) -> Result<OpenSegments> {
        let mut segments = BTreeMap::new();
        for id in extents.map(|extent| extent.segment) {
            if segments.contains_key(&id) {
                continue;
            }
            let segment = if segments.len() < most {
                self.segment_file(id).map(Segment::Open)
            } else {
                self.segment_identity(id).map(Segment::Named)
            };
            match segment {
                Ok(segment) => drop(segments.insert(id, segment)),
                Err(StoreError::NoSegment(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(OpenSegments(segments))
    }

    /// Reads bytes of a file by its map, from `offset` on; fewer at the file's end.
    pub fn read(&self, map: &ExtentMap, offset: u64, length: usize) -> Result<Vec<u8>> {
        let asked = extents(map, &within(map, offset, length));
        let segments = self.open_segments(asked)?;
        self.read_through(&segments, map, offset, length)
    }

    /// The same, of what lies in these segments.
    pub fn read_through(
        &self,
        segments: &OpenSegments,
        map: &ExtentMap,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>> {
        let bytes = within(map, offset, length);
        let mut buffer = vec![0; (bytes.end - bytes.start) as usize];
        for extent in extents(map, &bytes) {
            let extent_start = extent.file_page * PAGE_SIZE;
            let from = extent_start.max(bytes.start);
            let to = (extent.end_page() * PAGE_SIZE).min(bytes.end);
            let part = &mut buffer[(from - bytes.start) as usize..(to - bytes.start) as usize];
            let position = extent.slot.byte_offset() + (from - extent_start);
            let file = self.file_of(segments, extent.segment)?;
            file.read_exact_at(part, position).map_err(|source| {
                StoreError::io("reading the segment", extent.segment.to_string(), source)
            })?;
        }
        Ok(buffer)
    }

    fn file_of(&self, segments: &OpenSegments, id: SegmentId) -> Result<Arc<dyn SegmentFile>> {
        match segments.0.get(&id) {
            Some(Segment::Open(file)) => Ok(Arc::clone(file)),
            Some(Segment::Named(identity)) => {
                let file = self.segment_file(id)?;
                if file.identity() == Some(*identity) {
                    Ok(file)
                } else {
                    Err(StoreError::NoSegment(id))
                }
            }
            None => Err(StoreError::NoSegment(id)),
        }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use pool_core::digest::ObjectId;

    use super::*;
    use crate::placement::Placement;
    use crate::testing;

    #[test]
    fn what_is_not_kept_open_is_read_as_long_as_it_is_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::open(directory.path());
        let bytes = testing::content(1, (5 << 20) / PAGE_SIZE as usize);
        let windows = Placement::Windows { phase: 0 };
        let (target, content) = testing::library("l@1", &bytes, windows);
        store.ingest(target, &[content]).unwrap();
        let map = store.object(ObjectId::of(&bytes)).unwrap().unwrap().map;
        let segments = store
            .open_at_most(1, map.extents().iter().copied())
            .unwrap();
        let open = |segment: &&Segment| matches!(segment, Segment::Open(_));
        assert_eq!(segments.0.values().filter(open).count(), 1);
        let read = |offset, length| store.read_through(&segments, &map, offset, length);
        assert!(read(0, bytes.len()).unwrap() == bytes);
        // The same bytes, by another hand.
        let last = map.extents().last().unwrap().segment;
        let path = directory.path().join(format!("segments/{last}.seg"));
        let copy = path.with_extension("copy");
        fs::copy(&path, &copy).unwrap();
        fs::rename(&copy, &path).unwrap();
        let refused = read(4 << 20, 4096);
        assert!(
            matches!(refused, Err(StoreError::NoSegment(id)) if id == last),
            "{refused:?}"
        );
        assert!(read(0, 4096).unwrap() == bytes[..4096]);
    }
}
