//! What can be at a place: a directory, or a file and where its bytes come from.

use std::sync::Arc;
use std::time::SystemTime;
#[cfg(test)]
use std::time::UNIX_EPOCH;

use pool_core::digest::ObjectId;
use pool_core::extent::{ExtentMap, SegmentId};
use pool_core::page::PAGE_SIZE;
use pool_store::backend::Identity;
use pool_store::manifest::ImageManifest;

/// What was found at a place.
#[derive(Clone, Debug)]
pub struct Found {
    /// Digest of the content, where the content is fixed, and of a segment of which file it is.
    pub version: Option<ObjectId>,
    /// Bytes; zero for directories.
    pub size: u64,
    /// Bytes that take up room, zero pages left out.
    pub stored: u64,
    /// When it came to be as it is.
    pub time: SystemTime,
    /// Names of the inode: 1 for a file, 2 and one for each subdirectory for a directory, or 1 where
    /// those are not counted.
    pub links: u32,
    /// The bytes.
    pub content: Content,
    /// Objects to hold while the file is open.
    pub(super) holds: Vec<ObjectId>,
    /// The segments that those lie in, if somebody has asked.
    pub(super) segments: Option<Arc<[SegmentId]>>,
    /// What an image's map was made of: it also says where the pages of `holds` were.
    pub(super) mapped: Option<Arc<ImageManifest>>,
}

/// Where the bytes of a file come from.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nowhere: a directory.
    Directory,
    /// Made for reading.
    Rendered(Arc<[u8]>),
    /// An object's pages.
    Object(ObjectId, Arc<ExtentMap>),
    /// A segment file.
    Segment {
        /// The segment.
        id: SegmentId,
        /// Commits that the store had by then, all of whose slots are filled; 0 where they are not counted.
        commits: u64,
    },
}

/// What tells a segment from another that somebody has put in its place.
pub(crate) fn segment_version((device, inode): Identity) -> ObjectId {
    ObjectId::of(&[device.to_le_bytes(), inode.to_le_bytes()].concat())
}

impl Found {
    /// A file of these bytes.
    #[cfg(test)]
    pub(crate) fn of_bytes(bytes: Arc<[u8]>) -> Self {
        rendered(bytes, UNIX_EPOCH, vec![])
    }

    /// Bytes in memory that this is, about.
    pub(crate) fn bytes_kept(&self) -> usize {
        let content = match &self.content {
            Content::Rendered(bytes) => bytes.len(),
            Content::Object(_, map) => size_of_val(map.extents()),
            Content::Directory | Content::Segment { .. } => 0,
        };
        // What a map was made of has about as much in memory as the map.
        let made_of = if self.mapped.is_some() { content } else { 0 };
        content + made_of + size_of_val(self.holds.as_slice()) + size_of::<Self>()
    }
}

pub(super) fn directory(links: u32, time: SystemTime) -> Found {
    Found {
        version: None,
        size: 0,
        stored: 0,
        time,
        links,
        content: Content::Directory,
        holds: vec![],
        segments: None,
        mapped: None,
    }
}

pub(super) fn object(
    id: ObjectId,
    map: ExtentMap,
    time: SystemTime,
    holds: Vec<ObjectId>,
) -> Found {
    let pages: u64 = map
        .extents()
        .iter()
        .map(|extent| u64::from(extent.count))
        .sum();
    Found {
        version: Some(id),
        size: map.length,
        stored: pages * PAGE_SIZE,
        time,
        links: 1,
        content: Content::Object(id, Arc::new(map)),
        holds,
        segments: None,
        mapped: None,
    }
}

pub(super) fn rendered(bytes: Arc<[u8]>, time: SystemTime, holds: Vec<ObjectId>) -> Found {
    Found {
        version: Some(ObjectId::of(&bytes)),
        size: bytes.len() as u64,
        stored: bytes.len() as u64,
        time,
        links: 1,
        content: Content::Rendered(bytes),
        holds,
        segments: None,
        mapped: None,
    }
}
