//! Open files and directories.
//!
//! An open file's handle holds what it shows against collection; dropping it, which the kernel
//! asks for at the last `close`, lets go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use fuser::{BackingId, FileHandle, INodeNo};
use pool_store::backend::SegmentFile;
use pool_store::{Compared, Held, OpenSegments};

use crate::contents::Found;
use crate::tree::Place;

/// An open file or directory.
#[derive(Debug)]
pub enum Handle {
    /// A file made for reading, or an object.
    File {
        /// What it showed when it was opened, held.
        found: Held<Found>,
        /// What an object lies in.
        segments: OpenSegments,
        /// Of an object: whether it is whole, where there is a reason to ask.
        compared: Compared,
    },
    /// A segment.
    Segment {
        /// What was known of it when it was opened.
        found: Box<Found>,
        /// The file, held.
        file: Held<Arc<dyn SegmentFile>>,
        /// The kernel's own hold on the file, shared by all who have it open.
        backing: Option<Arc<BackingId>>,
    },
    /// A directory.
    Directory(Box<Directory>),
}

/// An open directory: the listing as of its opening or its last rewind, so that offsets mean the
/// same entries however many uploads come in between.
#[derive(Debug)]
pub struct Directory {
    /// Where it is.
    pub place: Place,
    /// What was found when it was opened.
    pub found: Found,
    /// Its listing; absent until first read.
    pub listing: Mutex<Option<Arc<[Place]>>>,
}

impl Handle {
    /// What was found when it was opened.
    pub fn found(&self) -> &Found {
        match self {
            Self::File { found, .. } => &found.value,
            Self::Segment { found, .. } => found,
            Self::Directory(directory) => &directory.found,
        }
    }
}

/// All handles.
#[derive(Debug, Default)]
pub struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<FileHandle, (INodeNo, Arc<Handle>)>>,
    by_inode: Mutex<HashMap<INodeNo, Vec<FileHandle>>>,
    /// Told when nothing is open any more.
    idle: Condvar,
}

impl Handles {
    /// Keeps a handle until [`Handles::release`].
    pub fn insert(&self, inode: INodeNo, handle: Handle) -> FileHandle {
        let number = FileHandle(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let mut by_inode = self.by_inode.lock().unwrap_or_else(PoisonError::into_inner);
        by_inode.entry(inode).or_default().push(number);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, (inode, Arc::new(handle)));
        number
    }

    /// An open handle.
    pub fn get(&self, number: FileHandle) -> Option<Arc<Handle>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&number).map(|(_, handle)| Arc::clone(handle))
    }

    /// Any open handle of an inode: it knows what that showed after its name is gone.
    pub fn of_inode(&self, inode: INodeNo) -> Option<Arc<Handle>> {
        let by_inode = self.by_inode.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *by_inode.get(&inode)?.first()?;
        drop(by_inode);
        self.get(number)
    }

    /// Waits until nothing is open.
    pub fn wait_until_idle(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether a panic elsewhere ends the wait is the same: nothing is served then.
        drop(self.idle.wait_while(open, |open| !open.is_empty()));
    }

    /// Lets go of a handle and of what it holds.
    pub fn release(&self, number: FileHandle) {
        let mut by_inode = self.by_inode.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((inode, handle)) = open.remove(&number) else {
            return;
        };
        if let Some(numbers) = by_inode.get_mut(&inode) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                by_inode.remove(&inode);
            }
        }
        let idle = open.is_empty();
        drop((open, by_inode));
        drop(handle);
        if idle {
            self.idle.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Handle {
        Handle::Directory(Box::new(Directory {
            place: Place::Root,
            found: Found::of_bytes(Arc::default()),
            listing: Mutex::default(),
        }))
    }

    #[test]
    fn handles_are_found_by_number_and_by_inode_until_released() {
        let handles = Handles::default();
        let inode = INodeNo(7);
        let first = handles.insert(inode, directory());
        let second = handles.insert(inode, directory());
        assert_ne!(first, second);
        handles.release(first);
        assert!(handles.get(first).is_none());
        assert!(handles.of_inode(inode).is_some());
        handles.release(second);
        assert!(handles.of_inode(inode).is_none());
        handles.release(second);
        assert!(handles.by_inode.lock().unwrap().is_empty());
        handles.wait_until_idle();
    }

    #[test]
    fn idle_is_when_the_last_is_released() {
        let handles = Handles::default();
        let open = handles.insert(INodeNo(7), directory());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                handles.wait_until_idle();
                handles.get(open).is_none()
            });
            handles.release(open);
            assert!(waiter.join().unwrap());
        });
    }
}
