//! Calls that name files, and what they may reach: directories granted with `--dir` and nothing
//! else.
//!
//! A guest path is made absolute and cleaned of `.` and `..` as text; the grant with the longest
//! matching guest directory decides; what remains of the path is resolved by the host kernel with
//! `RESOLVE_BENEATH`, so that no symbolic link leads out. What is mounted below a granted directory is
//! not part of the grant. A path in no grant does not exist (`ENOENT`), as in an empty file system.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Access as HostAccess, AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::file::{Files, OpenFile, is_ordinary, statx_of, write_stat};
use super::grant::{Grant, below, clean};
use super::{Arguments, Linux, Served, Stop};
use crate::memory::transfer;

const MAX_PATH: usize = 4095;
const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_REMOVEDIR: u64 = 0x200;
const AT_EMPTY_PATH: u64 = 0x1000;
/// Mode of the directories above a granted one.
const MODE_ABOVE_GRANTS: u32 = libc::S_IFDIR | 0o555;

/// A guest path and the grant it lies in.
struct Place<'a> {
    grant: &'a Grant,
    /// Relative to the granted directory; `.` for the directory itself.
    relative: Vec<u8>,
    /// Clean and absolute.
    guest: Vec<u8>,
}

impl Place<'_> {
    fn open(&self, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let opened = rustix::fs::openat2(
            self.grant.directory(),
            &self.relative[..],
            flags | OFlags::CLOEXEC,
            mode,
            resolve,
        );
        // A link that leads out of the granted directory leads to something that does not exist, and so
        // does what is mounted below it: it was not granted.
        opened.map_err(|error| {
            if error == Errno::XDEV {
                Errno::NOENT
            } else {
                error
            }
        })
    }

    /// The directory that holds the last part of the path, and that part.
    fn parent(&self) -> Result<(OwnedFd, &[u8]), Errno> {
        if self.relative == b"." {
            return Err(Errno::BUSY);
        }
        let at = self.relative.iter().rposition(|&byte| byte == b'/');
        let (directory, name) = match at {
            Some(at) => (&self.relative[..at], &self.relative[at + 1..]),
            None => (&b"."[..], &self.relative[..]),
        };
        let directory = Place {
            grant: self.grant,
            relative: directory.to_vec(),
            guest: Vec::new(),
        };
        let opened = directory.open(OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok((opened, name))
    }

    /// Fails for devices, sockets and pipes: they were not what was granted, and opening one may wait or
    /// act. What does not exist yet is fine.
    fn ordinary(&self, follow: bool) -> Result<(), Errno> {
        match self.look(follow) {
            Ok(found) if is_ordinary(&rustix::fs::fstat(&found)?) => Ok(()),
            Ok(_) => Err(Errno::ACCESS),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn writable(&self) -> Result<(), Errno> {
        if self.grant.read_only {
            Err(Errno::ROFS)
        } else {
            Ok(())
        }
    }

    /// The file itself, for calls that only look.
    fn look(&self, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        self.open(flags, Mode::empty())
    }
}

impl Linux {
    fn path_argument(&mut self, at: u64) -> Result<Vec<u8>, Stop> {
        let path = self
            .memory
            .read_string(at, MAX_PATH)?
            .ok_or(Errno::NAMETOOLONG)?;
        if path.is_empty() {
            return Err(Errno::NOENT.into());
        }
        Ok(path)
    }

    /// The clean, absolute form of a path argument relative to `directory`.
    fn absolute(&mut self, directory: u64, at: u64) -> Result<Vec<u8>, Stop> {
        let path = self.path_argument(at)?;
        if path.starts_with(b"/") {
            return Ok(clean(&path));
        }
        let base = if directory as i32 == AT_FDCWD {
            &self.files.directory
        } else {
            self.files
                .get(directory)?
                .path
                .as_ref()
                .ok_or(Errno::NOTDIR)?
        };
        Ok(clean(&[base, &b"/"[..], &path].concat()))
    }

    fn place(&mut self, directory: u64, at: u64) -> Result<Place<'_>, Stop> {
        let guest = self.absolute(directory, at)?;
        Ok(self.place_of(guest)?)
    }

    /// The same; a directory above a granted one fails with `above`.
    fn place_or(&mut self, directory: u64, at: u64, above: Errno) -> Result<Place<'_>, Stop> {
        let guest = self.absolute(directory, at)?;
        let leads = self.files.grant_below(&guest).is_some();
        let place = self.place_of(guest);
        Ok(place.map_err(|error| if leads { above } else { error })?)
    }

    fn place_of(&self, guest: Vec<u8>) -> Result<Place<'_>, Errno> {
        let mut best: Option<(&Grant, &[u8])> = None;
        for grant in &self.files.grants {
            let prefix = grant.guest.as_os_str().as_encoded_bytes();
            let Some(rest) = below(&guest, prefix) else {
                continue;
            };
            if best.is_none_or(|(_, shortest)| rest.len() < shortest.len()) {
                best = Some((grant, rest));
            }
        }
        let (grant, rest) = best.ok_or(Errno::NOENT)?;
        let relative = if rest.is_empty() {
            b".".to_vec()
        } else {
            rest.to_vec()
        };
        Ok(Place {
            grant,
            relative,
            guest,
        })
    }
}

impl Files {
    /// The grant that the directory `guest` leads to, if it does. Such directories exist, though
    /// nothing else is in them, and are shown with its times and owner and [`MODE_ABOVE_GRANTS`].
    fn grant_below(&self, guest: &[u8]) -> Option<&Grant> {
        let leads =
            |grant: &&Grant| below(grant.guest.as_os_str().as_encoded_bytes(), guest).is_some();
        self.grants.iter().find(leads)
    }
}

fn here() -> u64 {
    AT_FDCWD as u64
}

/// `open`.
pub(super) fn open(linux: &mut Linux, [path, flags, mode, ..]: Arguments) -> Served {
    openat(linux, [here(), path, flags, mode, 0, 0])
}

/// `openat`.
pub(super) fn openat(linux: &mut Linux, [directory, path, flags, mode, ..]: Arguments) -> Served {
    let served = OFlags::ACCMODE
        | OFlags::CREATE
        | OFlags::EXCL
        | OFlags::TRUNC
        | OFlags::APPEND
        | OFlags::NONBLOCK
        | OFlags::DIRECTORY
        | OFlags::NOFOLLOW
        | OFlags::CLOEXEC
        | OFlags::SYNC
        | OFlags::PATH
        | OFlags::NOCTTY;
    // O_LARGEFILE and O_NOATIME change nothing here.
    let flags = OFlags::from_bits_retain(flags as u32);
    if flags.contains(OFlags::TMPFILE) {
        return Err(Errno::OPNOTSUPP.into());
    }
    let flags = flags & served;
    let place = linux.place(directory, path)?;
    let access = flags & OFlags::ACCMODE;
    let changes = access != OFlags::RDONLY || flags.intersects(OFlags::CREATE | OFlags::TRUNC);
    if changes && !flags.contains(OFlags::PATH) && place.grant.read_only {
        // An existing file that would only be read may carry O_CREAT.
        let harmless = access == OFlags::RDONLY && !flags.contains(OFlags::TRUNC);
        if !(harmless && place.look(true).is_ok()) {
            return Err(Errno::ROFS.into());
        }
    }
    let mode = if flags.contains(OFlags::CREATE) {
        Mode::from_raw_mode(mode as u32 & 0o777)
    } else {
        Mode::empty()
    };
    if !flags.contains(OFlags::PATH) {
        place.ordinary(!flags.contains(OFlags::NOFOLLOW))?;
    }
    let host = place.open(flags, mode)?;
    if !is_ordinary(&rustix::fs::fstat(&host)?) {
        // It was put there since.
        return Err(Errno::ACCESS.into());
    }
    let file = OpenFile::new(host, Some(place.guest), place.grant.read_only);
    Ok(linux.files.insert(file, flags.contains(OFlags::CLOEXEC))?)
}

/// `stat`.
pub(super) fn stat(linux: &mut Linux, [path, at, ..]: Arguments) -> Served {
    newfstatat(linux, [here(), path, at, 0, 0, 0])
}

/// `lstat`.
pub(super) fn lstat(linux: &mut Linux, [path, at, ..]: Arguments) -> Served {
    newfstatat(linux, [here(), path, at, AT_SYMLINK_NOFOLLOW, 0, 0])
}

/// `newfstatat`.
pub(super) fn newfstatat(linux: &mut Linux, [directory, path, at, flags, ..]: Arguments) -> Served {
    if is_empty_path(linux, path, flags)? {
        return super::file::fstat(linux, [directory, at, 0, 0, 0, 0]);
    }
    let guest = linux.absolute(directory, path)?;
    let stat = match linux.place_of(guest.clone()) {
        Ok(place) => rustix::fs::fstat(place.look(flags & AT_SYMLINK_NOFOLLOW == 0)?)?,
        Err(error) => {
            let grant = linux.files.grant_below(&guest).ok_or(error)?;
            let mut stat = rustix::fs::fstat(grant.directory())?;
            stat.st_mode = MODE_ABOVE_GRANTS;
            stat
        }
    };
    write_stat(linux, at, &stat)
}

/// `statx`.
pub(super) fn statx(linux: &mut Linux, [directory, path, flags, mask, at, _]: Arguments) -> Served {
    let record = if is_empty_path(linux, path, flags)? {
        statx_of(linux.files.get(directory)?.host(), mask, None)?
    } else {
        let guest = linux.absolute(directory, path)?;
        match linux.place_of(guest.clone()) {
            Ok(place) => {
                let host = place.look(flags & AT_SYMLINK_NOFOLLOW == 0)?;
                statx_of(host.as_fd(), mask, None)?
            }
            Err(error) => {
                let grant = linux.files.grant_below(&guest).ok_or(error)?;
                statx_of(grant.directory(), mask, Some(MODE_ABOVE_GRANTS as u16))?
            }
        }
    };
    linux.memory.write(at, record.bytes())?;
    Ok(0)
}

fn is_empty_path(linux: &mut Linux, path: u64, flags: u64) -> Result<bool, Stop> {
    if flags & AT_EMPTY_PATH == 0 {
        return Ok(false);
    }
    let first: u8 = if path == 0 {
        0
    } else {
        linux.memory.read_value(path)?
    };
    Ok(first == 0)
}

/// `access`.
pub(super) fn access(linux: &mut Linux, [path, mode, ..]: Arguments) -> Served {
    faccessat(linux, [here(), path, mode, 0, 0, 0])
}

/// `faccessat`: it has no flags, whatever is in the register.
pub(super) fn faccessat(linux: &mut Linux, [directory, path, mode, ..]: Arguments) -> Served {
    faccessat2(linux, [directory, path, mode, 0, 0, 0])
}

/// `faccessat2`. The guest's real and effective users are the same one.
pub(super) fn faccessat2(
    linux: &mut Linux,
    [directory, path, mode, flags, ..]: Arguments,
) -> Served {
    const AT_EACCESS: u64 = 0x200;
    let known = AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;
    let flags = u64::from(flags as u32);
    let mode = HostAccess::from_bits(mode as u32).ok_or(Errno::INVAL)?;
    if flags & !known != 0 {
        return Err(Errno::INVAL.into());
    }
    if is_empty_path(linux, path, flags)? {
        let file = linux.files.get(directory)?;
        if mode.contains(HostAccess::WRITE_OK) && file.read_only {
            return Err(Errno::ROFS.into());
        }
        transfer::access(file.host(), mode.bits())?;
        return Ok(0);
    }
    let guest = linux.absolute(directory, path)?;
    let place = match linux.place_of(guest.clone()) {
        Ok(place) => place,
        // A directory above a granted one may be searched and read.
        Err(error) => {
            linux.files.grant_below(&guest).ok_or(error)?;
            if mode.contains(HostAccess::WRITE_OK) {
                return Err(Errno::ROFS.into());
            }
            return Ok(0);
        }
    };
    let host = place.look(flags & AT_SYMLINK_NOFOLLOW == 0)?;
    if mode.contains(HostAccess::WRITE_OK) {
        place.writable()?;
    }
    transfer::access(host.as_fd(), mode.bits())?;
    Ok(0)
}

/// `readlink`.
pub(super) fn readlink(linux: &mut Linux, [path, at, length, ..]: Arguments) -> Served {
    readlinkat(linux, [here(), path, at, length, 0, 0])
}

/// `readlinkat`.
pub(super) fn readlinkat(
    linux: &mut Linux,
    [directory, path, at, length, ..]: Arguments,
) -> Served {
    if length as i32 <= 0 {
        return Err(Errno::INVAL.into());
    }
    let place = linux.place_or(directory, path, Errno::INVAL)?;
    let host = place.look(false)?;
    let target = rustix::fs::readlinkat(&host, "", Vec::new()).map_err(|error| match error {
        Errno::NOENT => Errno::INVAL,
        other => other,
    })?;
    let target = target.as_bytes();
    let kept = &target[..target.len().min(length as usize)];
    linux.memory.write(at, kept)?;
    Ok(kept.len() as u64)
}

/// `mkdir`.
pub(super) fn mkdir(linux: &mut Linux, [path, mode, ..]: Arguments) -> Served {
    mkdirat(linux, [here(), path, mode, 0, 0, 0])
}

/// `mkdirat`.
pub(super) fn mkdirat(linux: &mut Linux, [directory, path, mode, ..]: Arguments) -> Served {
    let place = linux.place_or(directory, path, Errno::EXIST)?;
    let (parent, name) = place.parent().map_err(|error| match error {
        Errno::BUSY => Errno::EXIST,
        other => other,
    })?;
    place.writable()?;
    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode as u32 & 0o777))?;
    Ok(0)
}

/// `unlink`.
pub(super) fn unlink(linux: &mut Linux, [path, ..]: Arguments) -> Served {
    unlinkat(linux, [here(), path, 0, 0, 0, 0])
}

/// `rmdir`.
pub(super) fn rmdir(linux: &mut Linux, [path, ..]: Arguments) -> Served {
    unlinkat(linux, [here(), path, AT_REMOVEDIR, 0, 0, 0])
}

/// `unlinkat`.
pub(super) fn unlinkat(linux: &mut Linux, [directory, path, flags, ..]: Arguments) -> Served {
    let place = linux.place(directory, path)?;
    let (parent, name) = place.parent()?;
    place.writable()?;
    let flags = match flags {
        0 => AtFlags::empty(),
        AT_REMOVEDIR => AtFlags::REMOVEDIR,
        _ => return Err(Errno::INVAL.into()),
    };
    rustix::fs::unlinkat(&parent, name, flags)?;
    Ok(0)
}

/// `rename`.
pub(super) fn rename(linux: &mut Linux, [old, new, ..]: Arguments) -> Served {
    renameat2(linux, [here(), old, here(), new, 0, 0])
}

/// `renameat`.
pub(super) fn renameat(linux: &mut Linux, [old_at, old, new_at, new, ..]: Arguments) -> Served {
    renameat2(linux, [old_at, old, new_at, new, 0, 0])
}

/// `renameat2`.
pub(super) fn renameat2(
    linux: &mut Linux,
    [old_at, old, new_at, new, flags, _]: Arguments,
) -> Served {
    let flags = rustix::fs::RenameFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
    let place = linux.place(old_at, old)?;
    place.writable()?;
    let (old_parent, old_name) = place.parent()?;
    let old_name = old_name.to_vec();
    let place = linux.place(new_at, new)?;
    place.writable()?;
    let (new_parent, new_name) = place.parent()?;
    rustix::fs::renameat_with(&old_parent, &old_name[..], &new_parent, new_name, flags)?;
    Ok(0)
}

/// `truncate`.
pub(super) fn truncate(linux: &mut Linux, [path, length, ..]: Arguments) -> Served {
    i64::try_from(length).map_err(|_| Errno::INVAL)?;
    let place = linux.place(here(), path)?;
    place.writable()?;
    place.ordinary(true)?;
    let host = place.open(OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty())?;
    rustix::fs::ftruncate(&host, length)?;
    Ok(0)
}

/// `utimensat`.
pub(super) fn utimensat(linux: &mut Linux, [directory, path, times, ..]: Arguments) -> Served {
    use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW as _,
    };
    let mut both = [now, now];
    if times != 0 {
        let mut words = [0i64; 4];
        for (offset, word) in (0..).step_by(8).zip(&mut words) {
            let at = times.checked_add(offset).ok_or(Errno::FAULT)?;
            *word = linux.memory.read_value(at)?;
        }
        for (time, pair) in both.iter_mut().zip(words.chunks_exact(2)) {
            (time.tv_sec, time.tv_nsec) = (pair[0], pair[1] as _);
        }
    }
    let times = Timestamps {
        last_access: both[0],
        last_modification: both[1],
    };
    if path == 0 {
        let file = linux.files.get(directory)?;
        if file.read_only || file.path.is_none() {
            return Err(Errno::ROFS.into());
        }
        rustix::fs::futimens(file.host(), &times)?;
        return Ok(0);
    }
    let place = linux.place(directory, path)?;
    place.writable()?;
    let (parent, name) = place.parent()?;
    rustix::fs::utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(0)
}

/// `getcwd`.
pub(super) fn getcwd(linux: &mut Linux, [at, length, ..]: Arguments) -> Served {
    let path = [&linux.files.directory, &b"\0"[..]].concat();
    if (path.len() as u64) > length {
        return Err(Errno::RANGE.into());
    }
    linux.memory.write(at, &path)?;
    Ok(path.len() as u64)
}

/// `chdir`, to a granted directory or below, or to `/`.
pub(super) fn chdir(linux: &mut Linux, [path, ..]: Arguments) -> Served {
    let target = linux.absolute(here(), path)?;
    if target != b"/" {
        let place = linux.place(here(), path)?;
        place.open(OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    }
    linux.files.directory = target;
    Ok(0)
}
