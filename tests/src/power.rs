//! Power cuts: a disk that writes down what it is asked for, and what a cut can leave of that.
//!
//! The disk is a loop device on a file that a FUSE server of this process keeps in memory, with a
//! filesystem on it. The server notes every write and every flush in order. A cut after any of them
//! leaves what was written before the last flush, and of the rest anything: all, nothing, or some
//! sectors.

use std::ffi::OsStr;
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

use serde_json::{Value, json};

use crate::disk::SmallDisk;
use crate::keeper::Keeper;
use crate::recording::{self, Course, Kept, Recorded, Recorder, Requests, SECTOR, write_sparse};
use crate::requirements::needs;

const DISK: INodeNo = INodeNo(2);
const NAME: &str = "disk";
const TTL: Duration = Duration::from_secs(60);

/// What the disk was asked for.
#[derive(Debug)]
enum Asked {
    Write { offset: usize, data: Box<[u8]> },
    Flush,
}

impl recording::Asked for Asked {
    fn save(&self) -> (Value, &[u8]) {
        match self {
            Self::Write { offset, data } => (json!({"write": offset}), data),
            Self::Flush => (json!("flush"), &[]),
        }
    }

    fn load(saved: &Value, data: Box<[u8]>) -> Option<Self> {
        if saved == "flush" {
            return Some(Self::Flush);
        }
        let offset = saved["write"].as_u64()? as usize;
        Some(Self::Write { offset, data })
    }
}

/// Everything that a disk was asked for, in order.
#[derive(Debug)]
pub struct Recording {
    bytes: usize,
    requests: Requests<Asked>,
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

impl RecordedDisk {
    /// A new disk of so many MiB with a filesystem that `mkfs.FILESYSTEM` makes. `journal` is looked
    /// at for its length. `None`, said on standard error, where this process may not mount.
    pub fn new(mebibytes: usize, filesystem: &str, journal: PathBuf) -> Result<Option<Self>> {
        if !needs(&["root", "fuse"]) {
            return Ok(None);
        }
        let disk = Arc::new(Mutex::new(Disk {
            content: vec![0; mebibytes << 20],
            recorder: Recorder::new(journal),
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
        lock(&self.disk).recorder.len()
    }

    /// Stops recording: what is asked for from now on is none of the recording.
    pub fn recording(&self) -> Recording {
        let mut disk = lock(&self.disk);
        Recording {
            bytes: disk.content.len(),
            requests: disk.recorder.take(),
        }
    }
}

impl Recording {
    /// Mounts what is left when the power goes after so many requests, and the last `forgotten`
    /// flushes among them were none. `random` answers with a number below its argument.
    pub fn cut(
        &self,
        requests: usize,
        forgotten: usize,
        kept: Kept,
        mut random: impl FnMut(u64) -> u64,
    ) -> Result<Leftover> {
        let asked = self.requests.until(requests);
        let flushes = asked.iter().enumerate().rev();
        let mut flushes = flushes.filter(|(_, asked)| matches!(asked, Asked::Flush));
        let safe = flushes.nth(forgotten).map_or(0, |(nth, _)| nth);
        let mut content = vec![0; self.bytes];
        for (nth, asked) in asked.iter().enumerate() {
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

impl Recorded for Recording {
    fn course(&self) -> &Course {
        self.requests.course()
    }

    fn save(&self, to: &Path, journal: &str) -> Result<()> {
        self.requests
            .save(to, &json!({"disk": self.bytes}), journal)
    }

    fn load(from: &Path) -> Result<(Self, String)> {
        let (about, requests, journal) = Requests::load(from)?;
        let bytes = about["disk"].as_u64().context("it is not of a disk")? as usize;
        Ok((Self { bytes, requests }, journal))
    }
}

impl Leftover {
    /// The directory that it is mounted on.
    pub fn path(&self) -> &Path {
        self.mounted.mount_point.path()
    }
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
    recorder: Recorder<Asked>,
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
        disk.recorder.note(Asked::Write {
            offset,
            data: data.into(),
        });
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.0).recorder.note(Asked::Flush);
        reply.ok();
    }
}
