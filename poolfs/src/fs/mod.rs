//! The FUSE calls. Each asks [`Contents`] and answers the kernel; what changes something answers
//! `EROFS`.

mod directories;
mod files;
mod names;
mod xattr;

use std::any::Any;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use pool_store::StoreError;

use crate::ahead::Ahead;
use crate::contents::Contents;
use crate::handles::Handles;
use crate::inodes::Inodes;
use crate::passthrough::{self, BackingIds, Decision};
use crate::recent::Recent;
use crate::refused::Refused;
use crate::tree::Place;
use names::{attributes, time_to_live};

pub use xattr::{DIGEST_ATTRIBUTE, EXTENTS_ATTRIBUTE};

/// Longest name that a directory entry can have (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Requests that the kernel may have waiting for us in the background: readahead, mostly.
const MAX_BACKGROUND: u16 = 64;

/// The filesystem.
#[derive(Debug)]
pub struct PoolFs {
    /// Ends before the store is closed.
    _ahead: Option<Ahead>,
    contents: Arc<Contents>,
    inodes: Inodes,
    recent: Recent,
    refused: Refused,
    handles: Arc<Handles>,
    passthrough: Decision,
    backing_ids: BackingIds,
    /// Without passthrough: commits that there were when the kernel's cache of a segment was last emptied. The cache may hold
    /// what later ones refer to as zeros.
    emptied: Mutex<HashMap<INodeNo, u64>>,
    /// Dropped when everything above is gone; last, because fields are dropped in order.
    _alive: Arc<dyn Any + Send + Sync>,
}

type FsResult<T> = std::result::Result<T, Errno>;

impl PoolFs {
    /// A filesystem over `contents`, which keeps what is open in `handles`. `alive` is dropped
    /// once the filesystem is gone.
    pub fn new(
        contents: Contents,
        passthrough: Decision,
        handles: Arc<Handles>,
        alive: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let contents = Arc::new(contents);
        Self {
            _ahead: Ahead::of(&contents),
            contents,
            inodes: Inodes::default(),
            recent: Recent::default(),
            refused: Refused::default(),
            handles,
            passthrough,
            backing_ids: BackingIds::default(),
            emptied: Mutex::default(),
            _alive: alive,
        }
    }
}

/// Logs a failure of the store and says it as an errno.
fn failed(doing: &str, place: &Place, error: &StoreError) -> Errno {
    tracing::error!(%error, path = place.path(), "{doing} failed");
    match error {
        StoreError::Io { error, .. } => told(error.raw_os_error()),
        _ => Errno::EIO,
    }
}

/// The errno of a disk under the store as one of the mount. Most would say something else of the
/// mount than they say of the disk: that a file is not there, or that a call is not to be made
/// again (`ENOSYS`).
fn told(errno: Option<i32>) -> Errno {
    match errno {
        Some(libc::EACCES) => Errno::EACCES,
        Some(libc::ENOMEM) => Errno::ENOMEM,
        Some(libc::EMFILE | libc::ENFILE) => Errno::ENFILE,
        _ => Errno::EIO,
    }
}

impl Filesystem for PoolFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        if !passthrough::request(config) {
            self.passthrough.decide(false);
        }
        // These only help; a kernel without them serves as well.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find_child(request.pid(), parent, name) {
            Ok((node, found)) => {
                let inode = self.inodes.remember(&node);
                let (entry, attribute) = time_to_live(&node.place);
                let attributes = attributes(inode, &found);
                // A digest's object needs no help to be found again, and a segment is where its name leads.
                if found.version.is_some()
                    && !matches!(node.place, Place::Object(_) | Place::Segment(_))
                {
                    self.recent.keep(inode, found);
                }
                reply.entry_with_ttls(&attribute, &entry, &attributes, Generation(0));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, inode: INodeNo, lookups: u64) {
        self.inodes.forget(inode, lookups);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let time = self
            .inodes
            .node(inode)
            .map(|node| time_to_live(&node.place));
        let found = self.known(inode, |found| attributes(inode, found));
        match (found, time) {
            (Ok(attributes), Some((_, time))) => reply.attr(&time, &attributes),
            (Ok(_), None) => reply.error(Errno::ESTALE),
            (Err(errno), _) => reply.error(errno),
        }
    }

    fn access(&self, _: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let directory = self.node(inode).map(|node| node.place.is_directory());
        match directory {
            Err(errno) => reply.error(errno),
            Ok(_) if mask.contains(AccessFlags::W_OK) => reply.error(Errno::EROFS),
            Ok(false) if mask.contains(AccessFlags::X_OK) => reply.error(Errno::EACCES),
            Ok(_) => reply.ok(),
        }
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(request.pid(), inode, flags, reply);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        number: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.read_file(inode, number, offset, size, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is ever written: the kernel need not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        number: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.handles.release(number);
        reply.ok();
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.open_directory(inode, reply);
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        number: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.read_directory(inode, number, offset, reply);
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        number: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handles.release(number);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // The room is that of the disk under the store.
        match rustix::fs::statvfs(self.contents.view().directory()) {
            Ok(disk) => reply.statfs(
                disk.f_blocks,
                disk.f_bfree,
                disk.f_bavail,
                disk.f_files,
                disk.f_ffree,
                disk.f_bsize as u32,
                NAME_MAX as u32,
                disk.f_frsize as u32,
            ),
            Err(errno) => reply.error(told(Some(errno.raw_os_error()))),
        }
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.known(inode, |found| xattr::value(found, name));
        xattr::answer(value.and_then(|value| value), size, reply);
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.known(inode, xattr::names);
        xattr::answer(names, size, reply);
    }

    // The mount is read-only, so the kernel refuses most of what follows by itself. It asks us
    // when somebody remounts it writable.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &std::path::Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_errno_of_the_disk_says_something_else_of_the_mount() {
        let code = |errno| told(errno).code();
        for errno in [libc::ENOENT, libc::ESTALE, libc::ENOSYS, libc::EINTR, 512] {
            assert_eq!(code(Some(errno)), libc::EIO);
        }
        assert_eq!(code(None), libc::EIO);
        assert_eq!(code(Some(libc::EMFILE)), libc::ENFILE);
    }
}
