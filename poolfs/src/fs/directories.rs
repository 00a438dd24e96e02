//! Listing directories.

use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Errno, FileHandle, FileType, FopenFlags, INodeNo, ReplyDirectory, ReplyOpen};

use super::{FsResult, PoolFs, failed};
use crate::handles::{Directory, Handle};
use crate::inodes::{Inodes, Node};
use crate::tree::Place;

impl PoolFs {
    pub(super) fn open_directory(&self, inode: INodeNo, reply: ReplyOpen) {
        let node = match self.node(inode) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        match self.find(&node.place) {
            Err(errno) => reply.error(errno),
            Ok(None) => reply.error(Errno::ESTALE),
            Ok(Some(found)) => {
                let handle = Handle::Directory(Box::new(Directory {
                    place: node.place,
                    found,
                    listing: Mutex::default(),
                }));
                reply.opened(self.handles.insert(inode, handle), FopenFlags::empty());
            }
        }
    }

    pub(super) fn read_directory(
        &self,
        inode: INodeNo,
        number: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let handle = self.handles.get(number);
        let Some(Handle::Directory(directory)) = handle.as_deref() else {
            return reply.error(Errno::EBADF);
        };
        let listing = match self.listing(directory, offset == 0) {
            Ok(listing) => listing,
            Err(errno) => return reply.error(errno),
        };
        let dots = [(inode, "."), (self.shown(&directory.place.parent()), "..")];
        for position in offset.. {
            // An entry's offset is that of the one after it.
            let next = position + 1;
            let full = match usize::try_from(position) {
                Ok(at @ 0..2) => reply.add(dots[at].0, next, FileType::Directory, dots[at].1),
                Ok(at) if at - 2 < listing.len() => {
                    let place = &listing[at - 2];
                    let kind = if place.is_directory() {
                        FileType::Directory
                    } else {
                        FileType::RegularFile
                    };
                    let name = place.name();
                    reply.add(self.shown(place), next, kind, &*name)
                }
                _ => break,
            };
            if full {
                break;
            }
        }
        reply.ok();
    }

    fn listing(&self, directory: &Directory, rewind: bool) -> FsResult<Arc<[Place]>> {
        let mut listing = directory
            .listing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = listing.as_ref().filter(|_| !rewind) {
            return Ok(Arc::clone(known));
        }
        let fresh: Arc<[Place]> = self
            .contents
            .children(&directory.place)
            .map_err(|error| failed("listing", &directory.place, &error))?
            .into();
        *listing = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// The inode number that a look-up of `place` would give.
    fn shown(&self, place: &Place) -> INodeNo {
        let version = match place {
            Place::Object(id) => Some(*id),
            file if !file.is_directory() => {
                let found = self.find(file).ok().flatten();
                found.and_then(|found| found.version)
            }
            _ => None,
        };
        let place = place.clone();
        Inodes::shown(&Node { place, version })
    }
}
