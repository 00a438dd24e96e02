//! Names, what they lead to, and the attributes of that.

use std::ffi::OsStr;
use std::time::Duration;

use fuser::{Errno, FileAttr, FileType, INodeNo};
use pool_core::page::PAGE_SIZE;

use super::{FsResult, NAME_MAX, PoolFs, failed};
use crate::contents::{Content, Found};
use crate::inodes::Node;
use crate::tree::Place;

/// How long the kernel may believe a name that people choose, and attributes that may change. What it opens by such a name is
/// compared with where that leads.
const NAME_TTL: Duration = Duration::from_millis(500);
/// How long it may believe the name of a file that is another one after each commit.
const CHANGING_TTL: Duration = Duration::ZERO;
/// How long it may believe a digest or a segment number, which never mean anything else.
const IMMUTABLE_TTL: Duration = Duration::from_secs(60);

impl PoolFs {
    pub(super) fn node(&self, inode: INodeNo) -> FsResult<Node> {
        self.inodes.node(inode).ok_or(Errno::ESTALE)
    }

    pub(super) fn find(&self, place: &Place) -> FsResult<Option<Found>> {
        self.contents
            .find(place)
            .map_err(|error| failed("looking up", place, &error))
    }

    /// What a thread finds by a name in a directory.
    pub(super) fn find_child(
        &self,
        thread: u32,
        parent: INodeNo,
        name: &OsStr,
    ) -> FsResult<(Node, Found)> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let parent = self.node(parent)?.place;
        if !parent.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        let place = name.to_str().and_then(|name| parent.child(name));
        let place = place.ok_or(Errno::ENOENT)?;
        let Some(found) = self.find(&place)? else {
            self.refused.found_nothing(thread, &place);
            return Err(Errno::ENOENT);
        };
        let version = found.version;
        Ok((Node { place, version }, found))
    }

    /// What an inode shows: by its name while that leads to it; after that by what was seen there,
    /// and at last, as where the store cannot be asked, by an open handle alone.
    pub(super) fn known<T>(&self, inode: INodeNo, answer: impl FnOnce(&Found) -> T) -> FsResult<T> {
        let node = self.node(inode)?;
        let errno = match self.contents.find_node(&node, || self.seen(inode)) {
            Ok(Some(found)) => return Ok(answer(&found)),
            Ok(None) => Errno::ESTALE,
            Err(error) => failed("looking up", &node.place, &error),
        };
        let handle = self.handles.of_inode(inode).ok_or(errno)?;
        Ok(answer(handle.found()))
    }

    /// What an inode showed when it was last looked up or opened.
    pub(super) fn seen(&self, inode: INodeNo) -> Option<Found> {
        self.recent.get(inode).or_else(|| {
            let handle = self.handles.of_inode(inode)?;
            Some(handle.found().clone())
        })
    }
}

/// What stat(2) shows.
pub(super) fn attributes(inode: INodeNo, found: &Found) -> FileAttr {
    let directory = matches!(found.content, Content::Directory);
    FileAttr {
        ino: inode,
        size: found.size,
        blocks: found.stored.div_ceil(512),
        atime: found.time,
        mtime: found.time,
        ctime: found.time,
        crtime: found.time,
        kind: if directory {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if directory { 0o555 } else { 0o444 },
        nlink: found.links,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PAGE_SIZE as u32,
        flags: 0,
    }
}

/// How long the kernel may keep a name, and how long attributes.
pub(super) fn time_to_live(place: &Place) -> (Duration, Duration) {
    match place {
        Place::Extents(_) | Place::ServiceFile(_) => (CHANGING_TTL, NAME_TTL),
        // A segment takes up more of the disk as it fills, a directory has more in it, and what is
        // collected is there no more.
        Place::Object(_)
        | Place::Segment(_)
        | Place::Root
        | Place::Libraries
        | Place::Images
        | Place::Objects
        | Place::Segments
        | Place::Service
        | Place::AllExtents => (IMMUTABLE_TTL, NAME_TTL),
        _ => (NAME_TTL, NAME_TTL),
    }
}

#[cfg(test)]
mod tests {
    use pool_core::digest::ObjectId;
    use pool_core::extent::SegmentId;

    use super::*;

    #[test]
    fn what_can_be_collected_is_not_believed_to_be_there_for_long() {
        let object = ObjectId::of(b"object");
        for place in [
            Place::Object(object),
            Place::Extents(object),
            Place::Segment(SegmentId(1)),
        ] {
            let (_, attributes) = time_to_live(&place);
            assert!(attributes <= NAME_TTL, "{place:?}");
        }
    }
}
