//! The filesystem, as the kernel asks for it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::FallocateFlags;

use super::{Asked, FileRecording, Inode, ROOT, change_content};
use crate::keeper::Keeper;
use crate::recording::Recorder;
use crate::requirements::needs;

const TTL: Duration = Duration::from_secs(60);
/// Blocks of 4 KiB that it says it has, and has left.
const BLOCKS: u64 = 1 << 20;

/// A filesystem whose requests are recorded, mounted.
#[derive(Debug)]
pub struct RecordedFiles {
    // In the order in which they must go.
    _session: BackgroundSession,
    _unmounted: Keeper,
    mount_point: tempfile::TempDir,
    tree: Arc<Mutex<Tree>>,
}

impl RecordedFiles {
    /// An empty filesystem. `journal` is looked at for its length. `None`, said on standard error, where this process may
    /// not mount.
    pub fn new(journal: PathBuf) -> Result<Option<Self>> {
        if !needs(&["root", "fuse"]) {
            return Ok(None);
        }
        let tree = Arc::new(Mutex::new(Tree::new(journal)));
        let mount_point = tempfile::tempdir().context("making a mount point")?;
        let unmounted = Keeper::unmount(mount_point.path())?;
        let server = Server(Arc::clone(&tree));
        let session = fuser::spawn_mount(server, mount_point.path(), &Config::default())
            .context("serving files")?;
        Ok(Some(Self {
            _session: session,
            _unmounted: unmounted,
            mount_point,
            tree,
        }))
    }

    /// The directory that it is mounted on.
    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    /// Requests so far that change or sync something.
    pub fn requests(&self) -> usize {
        lock(&self.tree).recorder.len()
    }

    /// Stops recording: what is asked for from now on is none of the recording.
    pub fn recording(&self) -> FileRecording {
        let requests = lock(&self.tree).recorder.take();
        FileRecording { requests }
    }
}

/// What the server keeps.
#[derive(Debug)]
struct Tree {
    nodes: HashMap<Inode, Node>,
    next: Inode,
    recorder: Recorder<Asked>,
}

#[derive(Debug)]
enum Node {
    File(Vec<u8>),
    Directory(BTreeMap<OsString, Inode>),
}

type Answer<T> = std::result::Result<T, Errno>;

fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    fn new(journal: PathBuf) -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::Directory(BTreeMap::new()))]),
            next: ROOT + 1,
            recorder: Recorder::new(journal),
        }
    }

    fn names(&mut self, directory: Inode) -> Answer<&mut BTreeMap<OsString, Inode>> {
        match self.nodes.get_mut(&directory) {
            Some(Node::Directory(names)) => Ok(names),
            Some(Node::File(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn content(&self, inode: Inode) -> Answer<&Vec<u8>> {
        match self.nodes.get(&inode) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Directory(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn find(&mut self, directory: Inode, name: &OsStr) -> Answer<Inode> {
        let found = self.names(directory)?.get(name).copied();
        found.ok_or(Errno::ENOENT)
    }

    fn attributes(&self, inode: Inode) -> Answer<FileAttr> {
        let (kind, size) = match self.nodes.get(&inode).ok_or(Errno::ENOENT)? {
            Node::File(content) => (FileType::RegularFile, content.len() as u64),
            Node::Directory(_) => (FileType::Directory, 0),
        };
        Ok(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn make(&mut self, directory: Inode, name: &OsStr, node: Node) -> Answer<FileAttr> {
        let inode = self.next;
        let names = self.names(directory)?;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.into(), inode);
        self.next += 1;
        let is_directory = matches!(node, Node::Directory(_));
        self.nodes.insert(inode, node);
        self.recorder.note(Asked::Made {
            at: (directory, name.into()),
            inode,
            is_directory,
        });
        self.attributes(inode)
    }

    /// Removes a name. What had it stays for who has it open.
    fn remove(&mut self, directory: Inode, name: &OsStr) -> Answer<()> {
        let inode = self.find(directory, name)?;
        if matches!(self.nodes.get(&inode), Some(Node::Directory(names)) if !names.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        self.names(directory)?.remove(name);
        let at = (directory, name.into());
        self.recorder.note(Asked::Removed { at });
        Ok(())
    }

    fn rename(
        &mut self,
        from: (Inode, &OsStr),
        to: (Inode, &OsStr),
        flags: RenameFlags,
    ) -> Answer<()> {
        let inode = self.find(from.0, from.1)?;
        let taken = self.find(to.0, to.1).is_ok();
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && taken {
            return Err(Errno::EEXIST);
        }
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return Err(Errno::EINVAL);
        }
        self.names(from.0)?.remove(from.1);
        self.names(to.0)?.insert(to.1.into(), inode);
        self.recorder.note(Asked::Renamed {
            from: (from.0, from.1.into()),
            to: (to.0, to.1.into()),
            inode,
        });
        Ok(())
    }

    /// Changes a file's content.
    fn change(&mut self, inode: Inode, change: Asked) -> Answer<()> {
        self.content(inode)?;
        if let Some(Node::File(content)) = self.nodes.get_mut(&inode) {
            change_content(content, &change);
        }
        self.recorder.note(change);
        Ok(())
    }

    /// As fallocate(2).
    fn allocate(&mut self, inode: Inode, offset: usize, bytes: usize, mode: i32) -> Answer<()> {
        let length = self.content(inode)?.len();
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        if mode == FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE {
            let hole = Asked::Punch {
                inode,
                offset,
                bytes,
            };
            return self.change(inode, hole);
        }
        if !(mode - FallocateFlags::KEEP_SIZE).is_empty() {
            return Err(Errno::EOPNOTSUPP);
        }
        let bytes = offset + bytes;
        if mode.is_empty() && bytes > length {
            return self.change(inode, Asked::Length { inode, bytes });
        }
        Ok(())
    }
}

/// One thread serves it, so requests have an order.
struct Server(Arc<Mutex<Tree>>);

impl Server {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.0)
    }

    fn sync(&self, inode: INodeNo, reply: ReplyEmpty) {
        self.tree().recorder.note(Asked::Sync(inode.0));
        reply.ok();
    }
}

fn answer(done: Answer<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn entry(found: Answer<FileAttr>, reply: ReplyEntry) {
    match found {
        Ok(found) => reply.entry(&TTL, &found, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn attributes(found: Answer<FileAttr>, reply: ReplyAttr) {
    match found {
        Ok(found) => reply.attr(&TTL, &found),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut tree = self.tree();
        let found = tree.find(parent.0, name);
        entry(found.and_then(|inode| tree.attributes(inode)), reply);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(self.tree().attributes(inode.0), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
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
        let (mut tree, inode) = (self.tree(), inode.0);
        let changed = size.map_or(Ok(()), |bytes| {
            let bytes = bytes as usize;
            tree.change(inode, Asked::Length { inode, bytes })
        });
        attributes(changed.and_then(|()| tree.attributes(inode)), reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let empty = Node::Directory(BTreeMap::new());
        entry(self.tree().make(parent.0, name, empty), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.tree().make(parent.0, name, Node::File(Vec::new())) {
            Ok(made) => reply.created(
                &TTL,
                &made,
                Generation(0),
                FileHandle(0),
                FopenFlags::empty(),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.tree().remove(parent.0, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.tree().remove(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        answer(self.tree().rename(from, to, flags), reply);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.tree().content(inode.0) {
            Ok(content) => {
                let start = (offset as usize).min(content.len());
                let end = (start + size as usize).min(content.len());
                reply.data(&content[start..end]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let inode = inode.0;
        let change = Asked::Write {
            inode,
            offset: offset as usize,
            data: data.into(),
        };
        match self.tree().change(inode, change) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (offset, bytes) = (offset as usize, length as usize);
        answer(self.tree().allocate(inode.0, offset, bytes, mode), reply);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(inode, reply);
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(inode, reply);
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut tree = self.tree();
        let names = match tree.names(inode.0) {
            Ok(names) => names.clone(),
            Err(errno) => return reply.error(errno),
        };
        // In order of inodes, of which no two are the same: names may go while somebody reads.
        let mut names: Vec<_> = names
            .into_iter()
            .map(|(name, inode)| (inode, name))
            .collect();
        names.sort();
        for (inode, name) in names.into_iter().filter(|(inode, _)| *inode > offset) {
            let kind = match tree.nodes.get(&inode) {
                Some(Node::Directory(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            if reply.add(INodeNo(inode), inode, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }
}
