//! The FUSE calls. Each asks [`Contents`] and answers the kernel; what changes something answers
//! `EROFS`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use pool_core::extent::{ExtentMap, SegmentId};
use pool_core::page::PAGE_SIZE;
use pool_store::StoreError;

use crate::contents::{Content, Contents, Found};
use crate::handles::{Directory, Handle, Handles};
use crate::inodes::{Inodes, Node};
use crate::passthrough::{self, BackingIds, Decision};
use crate::tree::Place;

/// How long the kernel may believe a name that people choose. Opening checks it again anyway.
const NAME_TTL: Duration = Duration::from_millis(500);
/// How long it may believe a digest or a segment number, which never mean anything else.
const IMMUTABLE_TTL: Duration = Duration::from_secs(60);
/// Longest name that a directory entry can have (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Requests that the kernel may have waiting for us in the background: readahead, mostly.
const MAX_BACKGROUND: u16 = 64;

/// Extended attribute with the extents of an object's file, as JSON.
pub const EXTENTS_ATTRIBUTE: &str = "user.pool.extents";
/// Extended attribute with the digest of an object's file.
pub const DIGEST_ATTRIBUTE: &str = "user.pool.digest";
/// What `listxattr` answers for an object's file.
const ATTRIBUTE_LIST: &[u8] = b"user.pool.digest\0user.pool.extents\0";

/// The filesystem.
#[derive(Debug)]
pub struct PoolFs {
    contents: Contents,
    inodes: Inodes,
    handles: Handles,
    passthrough: Decision,
    backing_ids: BackingIds,
    /// Without passthrough: slots that were in use when the kernel's cache of a segment was last
    /// emptied. The cache may hold later slots as zeros.
    cached_slots: Mutex<HashMap<SegmentId, u32>>,
    /// Hung up when everything above is gone; last, because fields are dropped in order.
    _ended: Sender<()>,
}

type FsResult<T> = std::result::Result<T, Errno>;

impl PoolFs {
    /// A filesystem over `contents`. `ended` is hung up once the filesystem is gone.
    pub fn new(contents: Contents, passthrough: Decision, ended: Sender<()>) -> Self {
        Self {
            contents,
            inodes: Inodes::default(),
            handles: Handles::default(),
            passthrough,
            backing_ids: BackingIds::default(),
            cached_slots: Mutex::default(),
            _ended: ended,
        }
    }

    fn node(&self, inode: INodeNo) -> FsResult<Node> {
        self.inodes.node(inode).ok_or(Errno::ESTALE)
    }

    fn find(&self, place: &Place) -> FsResult<Option<Found>> {
        self.contents
            .find(place)
            .map_err(|error| failed("looking up", place, &error))
    }

    fn find_child(&self, parent: INodeNo, name: &OsStr) -> FsResult<(Node, Found)> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let parent = self.node(parent)?.place;
        if !parent.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        let place = name.to_str().and_then(|name| parent.child(name));
        let place = place.ok_or(Errno::ENOENT)?;
        let found = self.find(&place)?.ok_or(Errno::ENOENT)?;
        let version = found.version;
        Ok((Node { place, version }, found))
    }

    /// What an inode shows: by its name while that leads to it, by an open handle after that.
    fn known<T>(&self, inode: INodeNo, answer: impl FnOnce(&Found) -> T) -> FsResult<T> {
        let node = self.node(inode)?;
        match self.find(&node.place)? {
            Some(found) if found.version == node.version => return Ok(answer(&found)),
            _ => {}
        }
        let handle = self.handles.of_inode(inode).ok_or(Errno::ESTALE)?;
        handle.found().map(answer).ok_or(Errno::ESTALE)
    }

    fn open_segment(
        &self,
        inode: INodeNo,
        found: Found,
        segment: SegmentId,
        used: u32,
        reply: ReplyOpen,
    ) {
        let file = match self.contents.view().hold_segment(segment) {
            Ok(file) => file,
            Err(StoreError::NoSegment(_)) => return reply.error(Errno::ESTALE),
            Err(error) => {
                return reply.error(failed("opening", &Place::Segment(segment), &error));
            }
        };
        let backing_file = file.value.file().filter(|_| self.passthrough.works());
        let backing = match backing_file {
            None => None,
            Some(backing_file) => match self.backing_ids.get(segment, backing_file, &reply) {
                Ok(id) => Some(id),
                Err(error) => {
                    let why = passthrough::explain(&error);
                    tracing::error!(%segment, why, "passing a segment through failed");
                    return reply.error(Errno::EIO);
                }
            },
        };
        let handle = Handle::Segment {
            found: Box::new(found),
            file,
            backing: backing.clone(),
        };
        let number = self.handles.insert(inode, handle);
        match backing {
            Some(id) => reply.opened_passthrough(number, FopenFlags::empty(), &id),
            None => reply.opened(number, self.cache_flags(segment, used)),
        }
    }

    /// Whether the kernel may keep what it has cached of a segment that it reads through us:
    /// while no slot has been handed out since.
    fn cache_flags(&self, segment: SegmentId, used: u32) -> FopenFlags {
        let mut cached = self
            .cached_slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if cached.insert(segment, used) == Some(used) {
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            FopenFlags::empty()
        }
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
            Place::Segment(_) => None,
            file if !file.is_directory() => {
                let found = self.find(file).ok().flatten();
                found.and_then(|found| found.version)
            }
            _ => None,
        };
        let place = place.clone();
        Inodes::shown(&Node { place, version })
    }

    fn read_object(&self, map: &ExtentMap, offset: u64, size: u32) -> FsResult<Vec<u8>> {
        self.contents
            .view()
            .read(map, offset, size as usize)
            .map_err(|error| {
                tracing::error!(%error, "reading an object failed");
                Errno::EIO
            })
    }
}

/// Logs a failure of the store and says it as an errno.
fn failed(doing: &str, place: &Place, error: &StoreError) -> Errno {
    tracing::error!(%error, path = place.path(), "{doing} failed");
    match error {
        StoreError::Io { error, .. } => error.raw_os_error().map_or(Errno::EIO, Errno::from_i32),
        _ => Errno::EIO,
    }
}

fn attributes(inode: INodeNo, found: &Found) -> FileAttr {
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
fn time_to_live(place: &Place) -> (Duration, Duration) {
    match place {
        Place::Object(_) => (IMMUTABLE_TTL, IMMUTABLE_TTL),
        // A segment takes up more of the disk as it fills, a directory has more in it.
        Place::Segment(_)
        | Place::Root
        | Place::Libraries
        | Place::Images
        | Place::Objects
        | Place::Segments
        | Place::Service => (IMMUTABLE_TTL, NAME_TTL),
        _ => (NAME_TTL, NAME_TTL),
    }
}

fn attribute(found: &Found, name: &OsStr) -> FsResult<Vec<u8>> {
    let Content::Object(id, map) = &found.content else {
        return Err(Errno::NO_XATTR);
    };
    match name.to_str() {
        Some(DIGEST_ATTRIBUTE) => Ok(id.to_string().into_bytes()),
        Some(EXTENTS_ATTRIBUTE) => serde_json::to_vec(map.extents()).map_err(|_| Errno::EIO),
        _ => Err(Errno::NO_XATTR),
    }
}

/// Answers an attribute call: with the length when that is asked for, with the value if it fits.
fn reply_attribute(value: FsResult<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Err(errno) => reply.error(errno),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

impl Filesystem for PoolFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        if !passthrough::request(config) {
            self.passthrough.decide(false);
        }
        // Both only speed things up; a kernel without them serves as well.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find_child(parent, name) {
            Ok((node, found)) => {
                let inode = self.inodes.remember(&node);
                let (entry, attribute) = time_to_live(&node.place);
                let attributes = attributes(inode, &found);
                reply.entry_with_ttls(&entry, &attribute, &attributes, Generation(0));
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

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return reply.error(Errno::EROFS);
        }
        let node = match self.node(inode) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        let found = match self.contents.hold(&node) {
            Ok(Some(found)) => found,
            // Gone or replaced: the kernel then looks the name up again.
            Ok(None) => return reply.error(Errno::ESTALE),
            Err(error) => return reply.error(failed("opening", &node.place, &error)),
        };
        if let Content::Segment { id, used } = found.value.content {
            return self.open_segment(inode, found.value, id, used, reply);
        }
        let flags = if found.value.version.is_some() {
            // The inode will never show anything else.
            FopenFlags::FOPEN_KEEP_CACHE
        } else {
            // Served as of the opening; the length that the kernel remembers may be another.
            FopenFlags::FOPEN_DIRECT_IO
        };
        let number = self.handles.insert(inode, Handle::File { found });
        reply.opened(number, flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        number: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(handle) = self.handles.get(number) else {
            return reply.error(Errno::EBADF);
        };
        match &*handle {
            Handle::Directory(_) => reply.error(Errno::EISDIR),
            Handle::File { found } => match &found.value.content {
                Content::Rendered(bytes) => {
                    let start = bytes
                        .len()
                        .min(usize::try_from(offset).unwrap_or(usize::MAX));
                    let end = start.saturating_add(size as usize).min(bytes.len());
                    reply.data(&bytes[start..end]);
                }
                Content::Object(_, map) => match self.read_object(map, offset, size) {
                    Ok(bytes) => reply.data(&bytes),
                    Err(errno) => reply.error(errno),
                },
                Content::Directory | Content::Segment { .. } => reply.error(Errno::EBADF),
            },
            Handle::Segment { found, file, .. } => {
                let left = found.size.saturating_sub(offset).min(u64::from(size));
                let mut buffer = vec![0; left as usize];
                match file.value.read_exact_at(&mut buffer, offset) {
                    Ok(()) => reply.data(&buffer),
                    Err(error) => {
                        tracing::error!(%error, "reading a segment failed");
                        reply.error(Errno::EIO);
                    }
                }
            }
        }
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
        let node = match self.node(inode) {
            Ok(node) => node,
            Err(errno) => return reply.error(errno),
        };
        match self.find(&node.place) {
            Err(errno) => reply.error(errno),
            Ok(None) => reply.error(Errno::ESTALE),
            Ok(Some(_)) => {
                let handle = Handle::Directory(Directory {
                    place: node.place,
                    listing: Mutex::default(),
                });
                reply.opened(self.handles.insert(inode, handle), FopenFlags::empty());
            }
        }
    }

    fn readdir(
        &self,
        _: &Request,
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
            Err(errno) => reply.error(Errno::from_i32(errno.raw_os_error())),
        }
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value = self.known(inode, |found| attribute(found, name));
        reply_attribute(value.and_then(|value| value), size, reply);
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.known(inode, |found| match found.content {
            Content::Object(..) => ATTRIBUTE_LIST.to_vec(),
            _ => vec![],
        });
        reply_attribute(names, size, reply);
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
