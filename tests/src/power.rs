//! Power cuts: a disk that writes down what it is asked for, and what a cut can leave of that.
//!
//! The disk is a loop device on a file that a FUSE server of this process keeps in memory, with a
//! filesystem on it. The server notes every write and every flush in order. A cut after any of them
//! leaves what was written before the last flush, and of the rest anything: all, nothing, or some
//! sectors.
//!
//! Beside each request stands how long the *journal* was by then, a file elsewhere to which the
//! program under test adds a line when it is told that something is done. So it is known what must
//! have survived which cut.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::disk::SmallDisk;
use crate::keeper::Keeper;
use crate::requirements::needs;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
const DISK: INodeNo = INodeNo(2);
const NAME: &str = "disk";
const TTL: Duration = Duration::from_secs(60);

/// What the disk was asked for.
#[derive(Debug)]
enum Asked {
    Write { offset: usize, data: Box<[u8]> },
    Flush,
}

/// Everything that a disk was asked for, in order.
#[derive(Debug)]
pub struct Recording {
    bytes: usize,
    /// Each with the length that the journal had when it came.
    asked: Vec<(u64, Asked)>,
}

/// A disk whose requests are recorded, mounted.
#[derive(Debug)]
pub struct RecordedDisk {
    // In the order in which they must go.
    mounted: Mounted,
    _session: BackgroundSession,
    _unmounted: Keeper,
    _served: tempfile::TempDir,
    disk: Arc<Mutex<Disk>>,
}

/// A disk that serves nothing.
#[derive(Debug)]
pub struct Held<'a>(
    #[expect(dead_code, reason = "it is there to be dropped")] MutexGuard<'a, Disk>,
);

/// What a cut left of a disk, mounted.
#[derive(Debug)]
pub struct Leftover {
    // In the order in which they must go.
    mounted: Mounted,
    _memory: SmallDisk,
}

/// What is kept of unflushed writes at a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    None,
    /// Everything.
    All,
    /// Every other write or so.
    Writes,
    /// Every other sector or so.
    Sectors,
}

impl RecordedDisk {
    /// A new disk of so many MiB with a filesystem that `mkfs.FILESYSTEM` makes. `journal` is looked
    /// at for its length. `None`, said on standard error, where this process may not mount.
    pub fn new(mebibytes: usize, filesystem: &str, journal: PathBuf) -> Result<Option<Self>> {
        if !needs(&["root", "fuse"]) {
            return Ok(None);
        }
        let disk = Arc::new(Mutex::new(Disk {
            content: vec![0; mebibytes << 20],
            journal,
            asked: Vec::new(),
        }));
        let served = tempfile::tempdir().context("making a mount point")?;
        let unmounted = Keeper::unmount(served.path())?;
        let server = Server(Arc::clone(&disk));
        let session = fuser::spawn_mount(server, served.path(), &Config::default())
            .context("serving a disk")?;
        let file = served.path().join(NAME);
        run(Command::new(format!("mkfs.{filesystem}"))
            .arg("-q")
            .arg(&file))?;
        let mounted = Mounted::new(&file)?;
        Ok(Some(Self {
            mounted,
            _session: session,
            _unmounted: unmounted,
            _served: served,
            disk,
        }))
    }

    /// The directory that it is mounted on.
    pub fn path(&self) -> &Path {
        self.mounted.mount_point.path()
    }

    /// The disk serves nothing for as long as the value lives: who asks it for something waits.
    pub fn hold(&self) -> Held<'_> {
        Held(lock(&self.disk))
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        lock(&self.disk).asked.len()
    }

    /// Stops recording: what is asked for from now on is none of the recording.
    pub fn recording(&self) -> Recording {
        let mut disk = lock(&self.disk);
        Recording {
            bytes: disk.content.len(),
            asked: std::mem::take(&mut disk.asked),
        }
    }
}

impl Recording {
    /// Requests.
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// True when nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// True when the disk was asked to flush by request `nth`.
    pub fn is_flush(&self, nth: usize) -> bool {
        matches!(self.asked.get(nth), Some((_, Asked::Flush)))
    }

    /// Bytes of the journal that were there when the power went after so many requests.
    pub fn journal(&self, requests: usize) -> u64 {
        let at = requests.min(self.asked.len() - 1);
        self.asked[at].0
    }

    /// Mounts what is left when the power goes after so many requests, and the last `forgotten`
    /// flushes among them were none. `random` answers with a number below its argument.
    pub fn cut(
        &self,
        requests: usize,
        forgotten: usize,
        kept: Kept,
        mut random: impl FnMut(u64) -> u64,
    ) -> Result<Leftover> {
        let asked = &self.asked[..requests];
        let flushes = asked.iter().enumerate().rev();
        let mut flushes = flushes.filter(|(_, (_, asked))| matches!(asked, Asked::Flush));
        let safe = flushes.nth(forgotten).map_or(0, |(nth, _)| nth);
        let mut content = vec![0; self.bytes];
        for (nth, (_, asked)) in asked.iter().enumerate() {
            let Asked::Write { offset, data } = asked else {
                continue;
            };
            let sectors = data.chunks(SECTOR).enumerate();
            let whole = nth < safe || kept == Kept::All || kept == Kept::Writes && random(2) == 0;
            for (sector, bytes) in sectors {
                if whole || kept == Kept::Sectors && random(2) == 0 {
                    content[offset + sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        // In memory, since a filesystem that goes is written back as slowly as a disk takes it.
        let memory = SmallDisk::new((self.bytes >> 20) as u32 + 8)?.context("not root")?;
        let image = memory.path().join(NAME);
        write_sparse(&image, &content).context("writing an image")?;
        Ok(Leftover {
            mounted: Mounted::new(&image)?,
            _memory: memory,
        })
    }
}

impl Leftover {
    /// The directory that it is mounted on.
    pub fn path(&self) -> &Path {
        self.mounted.mount_point.path()
    }
}

pub(crate) fn write_sparse(path: &Path, content: &[u8]) -> std::io::Result<()> {
    const PIECE: usize = 64 << 10;
    let file = File::create(path)?;
    file.set_len(content.len() as u64)?;
    for (nth, piece) in content.chunks(PIECE).enumerate() {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(piece, (nth * PIECE) as u64)?;
        }
    }
    Ok(())
}

/// A filesystem in a file, unmounted in the end whatever happens.
#[derive(Debug)]
struct Mounted {
    // In the order in which they must go.
    _mounted: Keeper,
    mount_point: tempfile::TempDir,
}

impl Mounted {
    fn new(file: &Path) -> Result<Self> {
        let mount_point = tempfile::tempdir().context("making a mount point")?;
        let keeper = Keeper::unmount(mount_point.path())?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(file)
            .arg(mount_point.path()))?;
        Ok(Self {
            _mounted: keeper,
            mount_point,
        })
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// What the server keeps.
#[derive(Debug)]
struct Disk {
    content: Vec<u8>,
    journal: PathBuf,
    asked: Vec<(u64, Asked)>,
}

impl Disk {
    fn note(&mut self, asked: Asked) {
        let journal = fs::metadata(&self.journal).map_or(0, |journal| journal.len());
        self.asked.push((journal, asked));
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory with one file, the disk. One thread serves it, so requests have an order.
struct Server(Arc<Mutex<Disk>>);

impl Server {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let root = inode == INodeNo::ROOT;
        let size = if root {
            0
        } else {
            lock(&self.0).content.len() as u64
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if root {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&TTL, &self.attributes(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Past the page cache: what the loop device asks for arrives when it asks.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disk = lock(&self.0);
        let start = (offset as usize).min(disk.content.len());
        let end = (start + size as usize).min(disk.content.len());
        reply.data(&disk.content[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut disk = lock(&self.0);
        let offset = offset as usize;
        let Some(part) = disk.content.get_mut(offset..offset + data.len()) else {
            reply.error(Errno::ENOSPC);
            return;
        };
        part.copy_from_slice(data);
        disk.note(Asked::Write {
            offset,
            data: data.into(),
        });
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.0).note(Asked::Flush);
        reply.ok();
    }
}
