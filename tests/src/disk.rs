//! A small file system of its own, to be filled up; and a file that cannot be written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::keeper::Keeper;
use crate::requirements::{needs, skip};

/// A mounted tmpfs, unmounted when it is dropped or its process ends.
#[derive(Debug)]
pub struct SmallDisk {
    // In the order in which they must go.
    _mounted: Keeper,
    mount_point: tempfile::TempDir,
}

impl SmallDisk {
    /// A disk of so many MiB; `None`, said on standard error, where this process may not mount.
    pub fn new(mebibytes: u32) -> Result<Option<Self>> {
        Self::with_options(&format!("size={mebibytes}m"))
    }

    /// A disk with these options of tmpfs(5).
    pub fn with_options(options: &str) -> Result<Option<Self>> {
        if !needs(&["root"]) {
            return Ok(None);
        }
        let mount_point = tempfile::tempdir().context("making a mount point")?;
        let keeper = Keeper::unmount(mount_point.path())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(mount_point.path())
            .status()
            .context("mounting a tmpfs")?;
        ensure!(mounted.success(), "mounting a tmpfs failed: {mounted}");
        Ok(Some(Self {
            _mounted: keeper,
            mount_point,
        }))
    }

    /// The directory that it is mounted on.
    pub fn path(&self) -> &Path {
        self.mount_point.path()
    }

    /// Bytes that can be written.
    pub fn free_bytes(&self) -> Result<u64> {
        let disk = rustix::fs::statvfs(self.path()).context("measuring a disk")?;
        Ok(disk.f_bavail * disk.f_frsize)
    }

    /// Writes a file until so many bytes are left, and answers with its path. What it wrote before
    /// is part of the disk's free bytes.
    pub fn leave(&self, bytes: u64) -> Result<PathBuf> {
        let ballast = self.path().join("ballast");
        if ballast.exists() {
            fs::remove_file(&ballast).context("emptying a disk")?;
        }
        let file = fs::File::create(&ballast).context("filling a disk")?;
        let (mut filled, mut step) = (0, u64::MAX);
        // Somebody else can write meanwhile, as an index does to its log. What does not fit then is
        // not allocated in part, so it is tried again in smaller pieces.
        while step >= 4096 {
            let size = self.free_bytes()?.saturating_sub(bytes).min(step);
            if size == 0 {
                break;
            }
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), filled, size) {
                Ok(()) => filled += size,
                Err(rustix::io::Errno::NOSPC) => step = size / 2,
                Err(error) => return Err(error).context("filling a disk"),
            }
        }
        Ok(ballast)
    }
}

/// A file that nobody can write, whoever has it open, while this value lives.
#[derive(Debug)]
pub struct Immutable(#[expect(dead_code, reason = "it is there to be dropped")] Keeper);

impl Immutable {
    /// `None`, said on standard error, where this process may not do that, or the filesystem knows no such flag.
    pub fn new(path: &Path) -> Result<Option<Self>> {
        if !needs(&["root"]) {
            return Ok(None);
        }
        let file = fs::File::open(path).context("opening a file")?;
        let undone = format!("{} is still immutable", path.display());
        let keeper = Keeper::new(&undone, "chattr -i -- \"$1\"", &[path.as_os_str()])?;
        let set = ioctl_getflags(&file)
            .and_then(|flags| ioctl_setflags(&file, flags | IFlags::IMMUTABLE));
        if let Err(error) = set {
            skip(&format!("no file can be made immutable here: {error}"));
            return Ok(None);
        }
        Ok(Some(Self(keeper)))
    }
}
