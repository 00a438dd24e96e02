//! Calls on open descriptors.
//!
//! A guest's descriptor number is an index into [`Files`]; behind it stands a host descriptor
//! that the guest never sees. Position, flags and locks are the host's.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::grant::Grant;
use super::record::Record;
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, signal};
use crate::memory::Access;
use crate::memory::transfer::{self, Position};

/// Descriptors that a guest may have open.
pub(crate) const MAX_FILES: usize = 1024;
/// Most bytes that one call moves, as under Linux.
const MOST_BYTES: u64 = 0x7fff_f000;
const MOST_VECTORS: u64 = 1024;

/// An open file: what several descriptors may share.
#[derive(Debug)]
pub(super) struct OpenFile {
    host: OwnedFd,
    /// Where it lies for the guest; `None` for standard input, output and error.
    pub(super) path: Option<Vec<u8>>,
    /// Opened below a read-only grant.
    pub(super) read_only: bool,
}

impl OpenFile {
    pub(super) fn new(host: OwnedFd, path: Option<Vec<u8>>, read_only: bool) -> Self {
        Self {
            host,
            path,
            read_only,
        }
    }

    pub(super) fn host(&self) -> BorrowedFd<'_> {
        self.host.as_fd()
    }
}

#[derive(Clone, Debug)]
struct Descriptor {
    file: Rc<OpenFile>,
    close_on_exec: bool,
}

/// The guest's descriptors, working directory and granted directories.
#[derive(Debug)]
pub(super) struct Files {
    descriptors: Vec<Option<Descriptor>>,
    pub(super) grants: Vec<Grant>,
    pub(super) directory: Vec<u8>,
}

impl Files {
    pub(super) fn new(standard: [OwnedFd; 3], grants: Vec<Grant>) -> Self {
        let open = |host| {
            Some(Descriptor {
                file: Rc::new(OpenFile::new(host, None, false)),
                close_on_exec: false,
            })
        };
        Self {
            descriptors: standard.into_iter().map(open).collect(),
            grants,
            directory: b"/".to_vec(),
        }
    }

    pub(super) fn get(&self, fd: u64) -> Result<&OpenFile, Errno> {
        self.descriptor(fd).map(|descriptor| &*descriptor.file)
    }

    /// An open file below a granted directory; `otherwise` for standard input, output and error.
    fn granted(&self, fd: u64, otherwise: Errno) -> Result<&OpenFile, Errno> {
        self.get(fd).and_then(|file| match file.path {
            Some(_) => Ok(file),
            None => Err(otherwise),
        })
    }

    /// Fails unless `fd` is an ordinary file that may be read, as `mmap` does.
    pub(super) fn mappable(&self, fd: u64) -> Result<(), Errno> {
        let host = self.get(fd)?.host();
        let flags = rustix::fs::fcntl_getfl(host)?;
        if flags.contains(OFlags::PATH) {
            return Err(Errno::BADF);
        }
        if flags & OFlags::ACCMODE == OFlags::WRONLY {
            return Err(Errno::ACCESS);
        }
        match FileType::from_raw_mode(rustix::fs::fstat(host)?.st_mode) {
            FileType::RegularFile => Ok(()),
            _ => Err(Errno::NODEV),
        }
    }

    fn descriptor(&self, fd: u64) -> Result<&Descriptor, Errno> {
        let at = usize::try_from(fd as u32).map_err(|_| Errno::BADF)?;
        self.descriptors
            .get(at)
            .and_then(Option::as_ref)
            .ok_or(Errno::BADF)
    }

    pub(super) fn insert(&mut self, file: OpenFile, close_on_exec: bool) -> Result<u64, Errno> {
        self.insert_from(0, Rc::new(file), close_on_exec)
    }

    fn insert_from(
        &mut self,
        least: usize,
        file: Rc<OpenFile>,
        close_on_exec: bool,
    ) -> Result<u64, Errno> {
        let mut at = least;
        while self.descriptors.get(at).is_some_and(Option::is_some) {
            at += 1;
        }
        self.put(at, file, close_on_exec)
    }

    fn put(&mut self, at: usize, file: Rc<OpenFile>, close_on_exec: bool) -> Result<u64, Errno> {
        if at >= MAX_FILES {
            return Err(Errno::MFILE);
        }
        if at >= self.descriptors.len() {
            self.descriptors.resize(at + 1, None);
        }
        self.descriptors[at] = Some(Descriptor {
            file,
            close_on_exec,
        });
        Ok(at as u64)
    }

    fn close(&mut self, fd: u64) -> Result<(), Errno> {
        self.descriptor(fd)?;
        self.descriptors[fd as u32 as usize] = None;
        Ok(())
    }
}

fn offset(value: u64) -> Result<Position, Errno> {
    match i64::try_from(value) {
        Ok(offset) => Ok(Position::At(offset)),
        Err(_) => Err(Errno::INVAL),
    }
}

fn read_at(linux: &mut Linux, fd: u64, at: u64, length: u64, position: Position) -> Served {
    let file = linux.files.get(fd)?;
    let slices = linux
        .memory
        .slices(at, length.min(MOST_BYTES), Access::Write)?;
    Ok(transfer::read(file.host(), &slices, position)? as u64)
}

fn write_at(linux: &mut Linux, fd: u64, at: u64, length: u64, position: Position) -> Served {
    let file = linux.files.get(fd)?;
    let slices = linux
        .memory
        .slices(at, length.min(MOST_BYTES), Access::Read)?;
    let written = transfer::write(file.host(), &slices, position);
    written_bytes(linux, written)
}

fn written_bytes(linux: &mut Linux, written: std::io::Result<usize>) -> Served {
    if let Err(error) = &written
        && error.kind() == std::io::ErrorKind::BrokenPipe
    {
        signal::raise(linux, libc::SIGPIPE as u64)?;
    }
    Ok(written? as u64)
}

/// Waits until there is something to be read, unless the file is not to be waited for.
fn until_readable(linux: &Linux, fd: u64) -> Result<(), Stop> {
    use rustix::event::{PollFd, PollFlags};
    let host = linux.files.get(fd)?.host();
    let mut polls = [PollFd::from_borrowed_fd(host, PollFlags::IN)];
    let ready = rustix::event::poll(&mut polls, Some(&rustix::time::Timespec::default()))? > 0;
    if ready || rustix::fs::fcntl_getfl(host)?.contains(OFlags::NONBLOCK) {
        return Ok(());
    }
    Err(Stop::Wait(Wait::Ready {
        descriptor: host.as_raw_fd(),
        events: PollFlags::IN,
        deadline: None,
    }))
}

/// `read`.
pub(super) fn read(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    until_readable(linux, fd)?;
    read_at(linux, fd, at, length, Position::Current)
}

/// `write`.
pub(super) fn write(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    write_at(linux, fd, at, length, Position::Current)
}

/// `pread64`.
pub(super) fn pread64(linux: &mut Linux, [fd, at, length, from, ..]: Arguments) -> Served {
    read_at(linux, fd, at, length, offset(from)?)
}

/// `pwrite64`.
pub(super) fn pwrite64(linux: &mut Linux, [fd, at, length, to, ..]: Arguments) -> Served {
    write_at(linux, fd, at, length, offset(to)?)
}

/// The guest's `iovec`s: address and length each.
fn vectors(linux: &mut Linux, at: u64, count: u64) -> Result<Vec<(u64, u64)>, Stop> {
    if count > MOST_VECTORS {
        return Err(Errno::INVAL.into());
    }
    let mut raw = vec![0; count as usize * 16];
    linux.memory.read(at, &mut raw)?;
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |value, &b| value << 8 | u64::from(b))
    };
    let mut left = MOST_BYTES;
    let mut list = Vec::with_capacity(count as usize);
    for pair in raw.chunks_exact(16) {
        let length = word(&pair[8..]).min(left);
        left -= length;
        if length > 0 {
            list.push((word(&pair[..8]), length));
        }
    }
    Ok(list)
}

/// `readv`: one host call for all vectors, as a pipe gives what it has.
pub(super) fn readv(linux: &mut Linux, [fd, at, count, ..]: Arguments) -> Served {
    let ranges = vectors(linux, at, count)?;
    until_readable(linux, fd)?;
    let file = linux.files.get(fd)?;
    let slices = linux.memory.slices_of(&ranges, Access::Write)?;
    Ok(transfer::read(file.host(), &slices, Position::Current)? as u64)
}

/// `writev`: likewise, so that a line is written in one piece.
pub(super) fn writev(linux: &mut Linux, [fd, at, count, ..]: Arguments) -> Served {
    let ranges = vectors(linux, at, count)?;
    let file = linux.files.get(fd)?;
    let slices = linux.memory.slices_of(&ranges, Access::Read)?;
    let written = transfer::write(file.host(), &slices, Position::Current);
    written_bytes(linux, written)
}

/// `close`.
pub(super) fn close(linux: &mut Linux, [fd, ..]: Arguments) -> Served {
    linux.files.close(fd)?;
    Ok(0)
}

/// `close_range`.
pub(super) fn close_range(linux: &mut Linux, [first, last, flags, ..]: Arguments) -> Served {
    const CLOSE_ON_EXEC: u64 = 4;
    let (first, last) = (first as u32 as usize, last as u32 as usize);
    if first > last || flags & !CLOSE_ON_EXEC != 0 {
        return Err(Errno::INVAL.into());
    }
    let open = &mut linux.files.descriptors;
    let end = open.len().min(last.saturating_add(1));
    for descriptor in open.iter_mut().take(end).skip(first) {
        match descriptor {
            Some(descriptor) if flags != 0 => descriptor.close_on_exec = true,
            _ => *descriptor = None,
        }
    }
    Ok(0)
}

/// `lseek`.
pub(super) fn lseek(linux: &mut Linux, [fd, to, whence, ..]: Arguments) -> Served {
    let signed = to as i64;
    let to = match whence {
        0 => SeekFrom::Start(u64::try_from(signed).map_err(|_| Errno::INVAL)?),
        1 => SeekFrom::Current(signed),
        2 => SeekFrom::End(signed),
        3 => SeekFrom::Data(u64::try_from(signed).map_err(|_| Errno::NXIO)?),
        4 => SeekFrom::Hole(u64::try_from(signed).map_err(|_| Errno::NXIO)?),
        _ => return Err(Errno::INVAL.into()),
    };
    Ok(rustix::fs::seek(linux.files.get(fd)?.host(), to)?)
}

/// Writes the kernel's `struct stat` of x86-64.
pub(super) fn write_stat(linux: &mut Linux, at: u64, stat: &Stat) -> Served {
    let record = Record::default()
        .u64(stat.st_dev)
        .u64(stat.st_ino)
        .u64(stat.st_nlink)
        .u32(stat.st_mode)
        .u32(stat.st_uid)
        .u32(stat.st_gid)
        .u32(0)
        .u64(stat.st_rdev)
        .u64(stat.st_size as u64)
        .u64(stat.st_blksize as u64)
        .u64(stat.st_blocks as u64)
        .u64(stat.st_atime as u64)
        .u64(stat.st_atime_nsec)
        .u64(stat.st_mtime as u64)
        .u64(stat.st_mtime_nsec)
        .u64(stat.st_ctime as u64)
        .u64(stat.st_ctime_nsec)
        .zeros(24);
    linux.memory.write(at, record.bytes())?;
    Ok(0)
}

/// `fstat`.
pub(super) fn fstat(linux: &mut Linux, [fd, at, ..]: Arguments) -> Served {
    let stat = rustix::fs::fstat(linux.files.get(fd)?.host())?;
    write_stat(linux, at, &stat)
}

/// `fsync`.
pub(super) fn fsync(linux: &mut Linux, [fd, ..]: Arguments) -> Served {
    rustix::fs::fsync(linux.files.get(fd)?.host())?;
    Ok(0)
}

/// `fdatasync`.
pub(super) fn fdatasync(linux: &mut Linux, [fd, ..]: Arguments) -> Served {
    rustix::fs::fdatasync(linux.files.get(fd)?.host())?;
    Ok(0)
}

/// `ftruncate`.
pub(super) fn ftruncate(linux: &mut Linux, [fd, length, ..]: Arguments) -> Served {
    i64::try_from(length).map_err(|_| Errno::INVAL)?;
    rustix::fs::ftruncate(linux.files.get(fd)?.host(), length)?;
    Ok(0)
}

/// `fallocate`, plain.
pub(super) fn fallocate(linux: &mut Linux, [fd, mode, from, length, ..]: Arguments) -> Served {
    let mode = rustix::fs::FallocateFlags::from_bits(mode as u32).ok_or(Errno::OPNOTSUPP)?;
    let file = linux.files.granted(fd, Errno::NODEV)?;
    rustix::fs::fallocate(file.host(), mode, from, length)?;
    Ok(0)
}

/// `fchmod`.
pub(super) fn fchmod(linux: &mut Linux, [fd, mode, ..]: Arguments) -> Served {
    let file = changeable(linux, fd)?;
    rustix::fs::fchmod(
        file.host(),
        rustix::fs::Mode::from_raw_mode(mode as u32 & 0o777),
    )?;
    Ok(0)
}

/// `fchown`: only to what it is already.
pub(super) fn fchown(linux: &mut Linux, [fd, user, group, ..]: Arguments) -> Served {
    let file = changeable(linux, fd)?;
    let stat = rustix::fs::fstat(file.host())?;
    let kept = |wanted: u64, found: u32| wanted as u32 == u32::MAX || wanted as u32 == found;
    if kept(user, stat.st_uid) && kept(group, stat.st_gid) {
        Ok(0)
    } else {
        Err(Errno::PERM.into())
    }
}

fn changeable(linux: &Linux, fd: u64) -> Result<&OpenFile, Errno> {
    let file = linux.files.get(fd)?;
    match (&file.path, file.read_only) {
        (None, _) => Err(Errno::PERM),
        (_, true) => Err(Errno::ROFS),
        _ => Ok(file),
    }
}

/// `dup`.
pub(super) fn dup(linux: &mut Linux, [fd, ..]: Arguments) -> Served {
    let file = Rc::clone(&linux.files.descriptor(fd)?.file);
    Ok(linux.files.insert_from(0, file, false)?)
}

/// `dup2`.
pub(super) fn dup2(linux: &mut Linux, [old, new, ..]: Arguments) -> Served {
    let file = Rc::clone(&linux.files.descriptor(old)?.file);
    if old as u32 == new as u32 {
        return Ok(new);
    }
    Ok(linux.files.put(new as u32 as usize, file, false)?)
}

/// `dup3`.
pub(super) fn dup3(linux: &mut Linux, [old, new, flags, ..]: Arguments) -> Served {
    let file = Rc::clone(&linux.files.descriptor(old)?.file);
    if old as u32 == new as u32 || flags & !u64::from(OFlags::CLOEXEC.bits()) != 0 {
        return Err(Errno::INVAL.into());
    }
    Ok(linux.files.put(new as u32 as usize, file, flags != 0)?)
}

/// `fcntl`: duplicates, flags, and record locks (which are the host's).
pub(super) fn fcntl(linux: &mut Linux, [fd, command, argument, ..]: Arguments) -> Served {
    const DUPFD_CLOEXEC: u64 = libc::F_DUPFD_CLOEXEC as u64;
    match command {
        0 | DUPFD_CLOEXEC => {
            let file = Rc::clone(&linux.files.descriptor(fd)?.file);
            let least = usize::try_from(argument).map_err(|_| Errno::INVAL)?;
            if least >= MAX_FILES {
                return Err(Errno::INVAL.into());
            }
            Ok(linux
                .files
                .insert_from(least, file, command == DUPFD_CLOEXEC)?)
        }
        1 => Ok(linux.files.descriptor(fd)?.close_on_exec.into()),
        2 => {
            linux.files.descriptor(fd)?;
            if let Some(descriptor) = &mut linux.files.descriptors[fd as u32 as usize] {
                descriptor.close_on_exec = argument & 1 != 0;
            }
            Ok(0)
        }
        3 => Ok(rustix::fs::fcntl_getfl(linux.files.get(fd)?.host())?
            .bits()
            .into()),
        4 => {
            let changeable = OFlags::APPEND | OFlags::NONBLOCK;
            let flags = OFlags::from_bits_truncate(argument as u32) & changeable;
            rustix::fs::fcntl_setfl(linux.files.get(fd)?.host(), flags)?;
            Ok(0)
        }
        5..=7 => lock(linux, fd, command, argument),
        _ => Err(Errno::INVAL.into()),
    }
}

/// Record locks: the guest's `struct flock` is the host's.
fn lock(linux: &mut Linux, fd: u64, command: u64, at: u64) -> Served {
    let mut raw = [0; 32];
    linux.memory.read(at, &mut raw)?;
    let file = linux.files.granted(fd, Errno::INVAL)?;
    transfer::record_lock(file.host(), command as i32, &mut raw)?;
    if command == 5 {
        linux.memory.write(at, &raw)?;
    }
    Ok(0)
}

/// `flock`.
pub(super) fn flock(linux: &mut Linux, [fd, operation, ..]: Arguments) -> Served {
    use rustix::fs::FlockOperation;
    let operation = match operation {
        1 => FlockOperation::LockShared,
        2 => FlockOperation::LockExclusive,
        5 => FlockOperation::NonBlockingLockShared,
        6 => FlockOperation::NonBlockingLockExclusive,
        8 => FlockOperation::Unlock,
        _ => return Err(Errno::INVAL.into()),
    };
    let file = linux.files.granted(fd, Errno::INVAL)?;
    rustix::fs::flock(file.host(), operation)?;
    Ok(0)
}

/// `getdents64`.
pub(super) fn getdents64(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    let directory = linux.files.granted(fd, Errno::NOTDIR)?;
    let mut buffer = vec![0; length.min(32 << 10) as usize];
    let filled = transfer::directory_entries(directory.host(), &mut buffer)?;
    linux.memory.write(at, &buffer[..filled])?;
    Ok(filled as u64)
}

/// `ioctl`: the size and the settings of a terminal, so that programs know they talk to one.
pub(super) fn ioctl(linux: &mut Linux, [fd, request, at, ..]: Arguments) -> Served {
    let file = linux.files.get(fd)?;
    let mut buffer = [0; transfer::TERMINAL_BYTES];
    let length = transfer::terminal(file.host(), request, &mut buffer)?;
    linux.memory.write(at, &buffer[..length])?;
    Ok(0)
}

/// `poll`: descriptors of files and of standard input, output and error.
pub(super) fn poll(linux: &mut Linux, [at, count, timeout, ..]: Arguments) -> Served {
    if let (None, milliseconds @ 0..) = (linux.progress.deadline, timeout as i32) {
        let duration = std::time::Duration::from_millis(milliseconds as u64);
        linux.progress.deadline = Some(super::time::from_now(duration));
    }
    wait(linux, at, count)
}

/// `ppoll`.
pub(super) fn ppoll(linux: &mut Linux, [at, count, timeout, mask, size, _]: Arguments) -> Served {
    linux.mask_for_wait(mask, size)?;
    if timeout != 0 && linux.progress.deadline.is_none() {
        let time = super::time::read_timespec(linux, timeout)?;
        let duration = super::time::duration(&time);
        linux.progress.deadline = Some(super::time::from_now(duration));
    }
    wait(linux, at, count)
}

fn wait(linux: &mut Linux, at: u64, count: u64) -> Served {
    use rustix::event::{PollFd, PollFlags};
    const RECORD: usize = 8;
    if count > MAX_FILES as u64 {
        return Err(Errno::INVAL.into());
    }
    let mut raw = vec![0u8; count as usize * RECORD];
    linux.memory.read(at, &mut raw)?;
    let mut ready = 0;
    let mut waiting = Vec::new();
    let mut places = Vec::new();
    for (place, record) in raw.chunks_exact_mut(RECORD).enumerate() {
        let fd = i32::from_le_bytes([record[0], record[1], record[2], record[3]]);
        let events = u16::from_le_bytes([record[4], record[5]]);
        record[6..].fill(0);
        if fd < 0 {
            continue;
        }
        if let Ok(file) = linux.files.get(fd as u64) {
            let events = PollFlags::from_bits_retain(events);
            waiting.push(PollFd::from_borrowed_fd(file.host(), events));
            places.push((place, file.host().as_raw_fd(), events));
        } else {
            record[6..].copy_from_slice(&PollFlags::NVAL.bits().to_le_bytes());
            ready += 1;
        }
    }
    rustix::event::poll(&mut waiting, Some(&rustix::time::Timespec::default()))?;
    for (poll, (place, ..)) in waiting.iter().zip(&places) {
        let events = poll.revents().bits();
        raw[place * RECORD + 6..][..2].copy_from_slice(&events.to_le_bytes());
        ready += u64::from(events != 0);
    }
    let deadline = linux.progress.deadline;
    if ready == 0 && !deadline.is_some_and(super::time::is_over) {
        let descriptors = places.into_iter().map(|(_, fd, events)| (fd, events));
        return Err(Stop::Wait(Wait::AnyReady {
            descriptors: descriptors.collect(),
            deadline,
        }));
    }
    linux.memory.write(at, &raw)?;
    Ok(ready)
}

/// True for what a guest may reach through a granted directory.
pub(super) fn is_ordinary(stat: &Stat) -> bool {
    matches!(
        FileType::from_raw_mode(stat.st_mode),
        FileType::RegularFile | FileType::Directory | FileType::Symlink
    )
}

/// `statx` of a host descriptor, as the guest's 256 bytes, and with `mode` if one is given.
pub(super) fn statx_of(
    host: BorrowedFd<'_>,
    mask: u64,
    mode: Option<u16>,
) -> Result<Record, Errno> {
    let mask = rustix::fs::StatxFlags::from_bits_truncate(mask as u32);
    let x = rustix::fs::statx(host, "", AtFlags::EMPTY_PATH, mask)?;
    let mut record = Record::default()
        .u32(x.stx_mask)
        .u32(x.stx_blksize)
        .u64(x.stx_attributes.bits())
        .u32(x.stx_nlink)
        .u32(x.stx_uid)
        .u32(x.stx_gid)
        .u16(mode.unwrap_or(x.stx_mode))
        .u16(0)
        .u64(x.stx_ino)
        .u64(x.stx_size)
        .u64(x.stx_blocks)
        .u64(x.stx_attributes_mask.bits());
    for time in [x.stx_atime, x.stx_btime, x.stx_ctime, x.stx_mtime] {
        record = record.u64(time.tv_sec as u64).u32(time.tv_nsec).u32(0);
    }
    Ok(record
        .u32(x.stx_rdev_major)
        .u32(x.stx_rdev_minor)
        .u32(x.stx_dev_major)
        .u32(x.stx_dev_minor)
        .zeros(112))
}
