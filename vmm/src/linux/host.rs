//! System calls of the host on behalf of the guest.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::time::Duration;

use pool_core::PAGE_SIZE;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use vm_memory::VolatileSlice;

use crate::memory::{MAX_RUNS, Reached};
use crate::terminal;

/// Makes a call and says what it returned.
///
/// # Safety
///
/// Every argument that the kernel takes for an address is null, or one that no process has, or has behind it as many
/// bytes of this process as the kernel reads or writes there, which nothing else uses during the call; a descriptor that
/// the call closes or changes is not one of a value of this process.
pub(super) unsafe fn call(number: u64, arguments: [u64; 6]) -> Result<u64, Errno> {
    let [rdi, rsi, rdx, r10, r8, r9] = arguments;
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(number as libc::c_long, rdi, rsi, rdx, r10, r8, r9) };
    result_of(result as isize)
}

/// Makes a call that takes numbers alone. Descriptors that it closes or changes are the guest's, so that no
/// value of this process owns them.
fn numbers<const N: usize>(number: libc::c_long, arguments: [u64; N]) -> Result<u64, Errno> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    // SAFETY: none of the arguments of the calls below is an address.
    unsafe { call(number as u64, all) }
}

/// What a call that fails returns.
pub(super) fn failed(error: Errno) -> u64 {
    (-i64::from(error.raw_os_error())) as u64
}

/// A call of numbers and descriptors that waits for a disk: whoever makes it needs nothing else of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskCall {
    number: u64,
    arguments: [u64; 6],
}

impl DiskCall {
    /// Call `number`, none of whose arguments is an address to the kernel.
    pub(super) fn new(number: u64, arguments: [u64; 6]) -> Self {
        Self { number, arguments }
    }

    /// Makes it; what it returns to the guest.
    pub fn make(self) -> u64 {
        numbers(self.number as libc::c_long, self.arguments).unwrap_or_else(failed)
    }
}

/// `close`.
pub(super) fn close(descriptor: RawFd) -> Result<u64, Errno> {
    numbers(libc::SYS_close, [descriptor as u64])
}

/// `close_range`.
pub(super) fn close_range(first: u32, last: u32, flags: u64) -> Result<u64, Errno> {
    let arguments = [u64::from(first), u64::from(last), flags];
    numbers(libc::SYS_close_range, arguments)
}

/// `dup2`.
pub(super) fn dup2(old: RawFd, new: RawFd) -> Result<u64, Errno> {
    numbers(libc::SYS_dup2, [old as u64, new as u64])
}

/// `dup3`.
pub(super) fn dup3(old: RawFd, new: RawFd, flags: u64) -> Result<u64, Errno> {
    numbers(libc::SYS_dup3, [old as u64, new as u64, flags])
}

/// `bind`, to the address that `name` holds.
pub(crate) fn bind(descriptor: RawFd, name: &[u8]) -> Result<u64, Errno> {
    named(libc::SYS_bind, descriptor, name)
}

/// `connect`, to the address that `name` holds.
pub(crate) fn connect(descriptor: RawFd, name: &[u8]) -> Result<u64, Errno> {
    named(libc::SYS_connect, descriptor, name)
}

fn named(number: libc::c_long, descriptor: RawFd, name: &[u8]) -> Result<u64, Errno> {
    let (at, length) = (name.as_ptr() as u64, name.len() as u64);
    // SAFETY: `bind` and `connect` read as many bytes at the address as `name` has.
    unsafe { call(number as u64, [descriptor as u64, at, length, 0, 0, 0]) }
}

/// `fchmodat2` (Linux 6.6) of `descriptor` itself, which need not have a file.
pub(crate) fn change_mode(descriptor: RawFd, mode: Mode) -> Result<(), Errno> {
    let (empty, flags) = (c"".as_ptr() as u64, libc::AT_EMPTY_PATH as u64);
    let mode = u64::from(mode.bits());
    let arguments = [descriptor as u64, empty, mode, flags, 0, 0];
    // SAFETY: the kernel reads the path, which has its NUL.
    unsafe { call(libc::SYS_fchmodat2 as u64, arguments) }.map(drop)
}

/// `faccessat2` of `descriptor` itself, which need not have a file.
pub(crate) fn may_access(descriptor: RawFd, mode: u64) -> Result<(), Errno> {
    let (empty, flags) = (c"".as_ptr() as u64, libc::AT_EMPTY_PATH as u64);
    let arguments = [descriptor as u64, empty, mode, flags, 0, 0];
    // SAFETY: the kernel reads the path, which has its NUL.
    unsafe { call(libc::SYS_faccessat2 as u64, arguments) }.map(drop)
}

/// Sends `bytes` with what `message` says, at once or not at all; never with SIGPIPE.
pub(crate) fn send(
    descriptor: RawFd,
    bytes: &mut [u8],
    message: &mut Message,
    flags: i32,
) -> Result<u64, Errno> {
    let quiet = flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    let all = Reached {
        slices: vec![VolatileSlice::from(bytes)],
        beyond: 0,
    };
    self::message(Direction::Out, descriptor, &all, message, quiet)
}

/// `sendfile`, from `offset`, which moves, or from the source's own position.
pub(super) fn sendfile(
    target: RawFd,
    source: RawFd,
    offset: Option<&mut i64>,
    count: u64,
) -> Result<u64, Errno> {
    let at = offset.map_or(0, |offset| std::ptr::from_mut(offset) as u64);
    let arguments = [target as u64, source as u64, at, count, 0, 0];
    // SAFETY: the kernel reads and writes eight bytes at `at`, unless it is null.
    unsafe { call(libc::SYS_sendfile as u64, arguments) }
}

/// Bytes of a `struct epoll_event` on x86-64, where it is packed.
pub(super) const EPOLL_EVENT: usize = 12;

/// The events that have come at an `epoll` descriptor by now, as many as there is room for; their number.
pub(super) fn epoll_events(descriptor: RawFd, events: &mut [u8]) -> Result<u64, Errno> {
    let (at, room) = (events.as_mut_ptr() as u64, events.len() / EPOLL_EVENT);
    let arguments = [descriptor as u64, at, room as u64, 0, 0, 0];
    // SAFETY: the kernel writes at most `room` events.
    unsafe { call(libc::SYS_epoll_wait as u64, arguments) }
}

/// Whether one of `events` (or an error) has come at `descriptor`.
pub(crate) fn is_ready(descriptor: RawFd, events: PollFlags) -> Result<bool, Errno> {
    let mut poll = [PollFd::from_borrowed_fd(borrow(descriptor), events)];
    let now = rustix::time::Timespec::default();
    Ok(crate::descriptors::poll(&mut poll, Some(&now))? > 0)
}

/// Whether `descriptor` is of a pseudo-terminal whose other side was closed.
pub(super) fn is_abandoned(descriptor: RawFd) -> Result<bool, Errno> {
    /// Major numbers of those that have a place in `/dev/pts` (Documentation/admin-guide/devices.txt).
    const PSEUDO: std::ops::RangeInclusive<u32> = 136..=143;
    let stat = rustix::fs::fstat(borrow(descriptor))?;
    let is_pseudo = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && PSEUDO.contains(&rustix::fs::major(stat.st_rdev));
    Ok(is_pseudo && is_ready(descriptor, PollFlags::empty())?)
}

/// The descriptor, as long as nothing closes it.
pub(crate) fn borrow<'a>(descriptor: RawFd) -> BorrowedFd<'a> {
    // SAFETY: it is not -1 (`Own::check`). The number may stand for nothing, which the kernel answers with
    // EBADF; it never stands for what a value of this process owns.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

/// Whether calls on `descriptor` fail rather than wait.
pub(crate) fn is_nonblocking(descriptor: RawFd) -> Result<bool, Errno> {
    Ok(rustix::fs::fcntl_getfl(borrow(descriptor))?.contains(OFlags::NONBLOCK))
}

/// Has `act` fail with `EAGAIN` where it would wait at one of `descriptors`, by their own flag: for calls
/// that cannot say so themselves. Whoever shares the open file sees that for as long as it takes.
pub(crate) fn at_once<T, E: From<Errno>>(
    descriptors: &[RawFd],
    act: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let mut changed = Vec::with_capacity(descriptors.len());
    let mut ready = Ok(());
    for &descriptor in descriptors {
        ready = is_nonblocking(descriptor).and_then(|already| {
            if !already {
                rustix::io::ioctl_fionbio(borrow(descriptor), true)?;
                changed.push(descriptor);
            }
            Ok(())
        });
        if ready.is_err() {
            break;
        }
    }
    let done = match ready {
        Ok(()) => act(),
        Err(error) => Err(error.into()),
    };
    for descriptor in changed {
        rustix::io::ioctl_fionbio(borrow(descriptor), false)?;
    }
    done
}

/// What kind of file it is.
pub(crate) fn kind(descriptor: RawFd) -> Result<FileType, Errno> {
    let stat = rustix::fs::fstat(borrow(descriptor))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Whether what `descriptor` is of was opened to be written, too; fails if it is not to be read, so that it cannot be
/// mapped.
pub(crate) fn is_writable(descriptor: RawFd) -> Result<bool, Errno> {
    let mode = rustix::fs::fcntl_getfl(borrow(descriptor))? & OFlags::RWMODE;
    if mode == OFlags::WRONLY {
        return Err(Errno::ACCESS);
    }
    Ok(mode == OFlags::RDWR)
}

/// Whether `descriptor` is of `/dev/zero`, whose shared mappings are memory; fails for what has no pages of its own
/// and is no such memory.
pub(crate) fn is_zeros(descriptor: RawFd) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(borrow(descriptor))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(false),
        FileType::CharacterDevice if stat.st_rdev == rustix::fs::makedev(1, 5) => Ok(true),
        _ => Err(Errno::NODEV),
    }
}

/// Whether bytes of such a file are there or not, so that nobody waits for them.
pub(super) fn never_waits(kind: FileType) -> bool {
    matches!(
        kind,
        FileType::RegularFile | FileType::Directory | FileType::BlockDevice
    )
}

/// Whether such a file has records of the kernel's, each of which it takes or gives in one piece: those without a place in any file system
/// have (counters, timers, what `epoll` waits with).
pub(super) fn has_records(kind: FileType) -> bool {
    kind == FileType::Unknown
}

/// What kind of file `path`, which ends with NUL, is in `directory`, which may be no descriptor at all;
/// `flags` as `newfstatat` has them.
pub(super) fn kind_at(directory: RawFd, path: &[u8], flags: i32) -> Result<FileType, Errno> {
    if path.last() != Some(&0) {
        return Err(Errno::INVAL);
    }
    // SAFETY: all zeros are such a structure.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let at = [path.as_ptr() as u64, (&raw mut stat) as u64];
    let arguments = [directory as u64, at[0], at[1], flags as u64, 0, 0];
    // SAFETY: the kernel reads the path up to its NUL, and fills the structure.
    unsafe { call(libc::SYS_newfstatat as u64, arguments) }?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// `struct stat` of an open file.
pub(super) fn stat(descriptor: BorrowedFd<'_>) -> Result<[u8; 144], Errno> {
    let mut stat = [0; 144];
    let (file, at) = (descriptor.as_raw_fd() as u64, stat.as_mut_ptr() as u64);
    // SAFETY: the kernel fills as many bytes as such a structure has on x86-64.
    unsafe { call(libc::SYS_fstat as u64, [file, at, 0, 0, 0, 0]) }?;
    Ok(stat)
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the file into the guest's memory.
    In,
    /// From the guest's memory to the file.
    Out,
}

/// Moves bytes between a file and guest memory, at its own position or at `offset`; the number of
/// bytes. `flags` are those of `preadv2`.
pub(super) fn transfer(
    direction: Direction,
    descriptor: RawFd,
    buffers: &Reached<'_>,
    offset: Option<i64>,
    flags: i32,
) -> Result<u64, Errno> {
    let runs = runs(buffers);
    let (at, count) = (runs.as_ptr(), runs.len() as libc::c_int);
    let offset = offset.unwrap_or(-1);
    // SAFETY: each run is as `runs` says; the kernel reads or writes at most the run's length.
    let moved = unsafe {
        match direction {
            Direction::In => libc::preadv2(descriptor, at, count, offset, flags),
            Direction::Out => libc::pwritev2(descriptor, at, count, offset, flags),
        }
    };
    result_of(moved)
}

/// Moves no bytes, at a file's own position or at `offset`: the file is asked all the same, other than where [`transfer`] has nothing to
/// move. A datagram of none is sent by it.
pub(super) fn nothing(
    direction: Direction,
    descriptor: RawFd,
    offset: Option<i64>,
) -> Result<u64, Errno> {
    let number = match (direction, offset) {
        (Direction::In, None) => libc::SYS_read,
        (Direction::In, Some(_)) => libc::SYS_pread64,
        (Direction::Out, None) => libc::SYS_write,
        (Direction::Out, Some(_)) => libc::SYS_pwrite64,
    };
    let offset = offset.unwrap_or(0) as u64;
    // The second is an address, of no bytes.
    numbers(number, [descriptor as u64, 0, 0, offset])
}

/// A message of a socket, as `struct msghdr` has it.
#[derive(Debug, Default)]
pub(crate) struct Message {
    /// The other's address; as much of it as there is room for.
    pub(crate) name: Vec<u8>,
    /// How long it is, which may be more, once one was received.
    pub(crate) name_length: u32,
    /// Control messages; likewise.
    pub(crate) control: Vec<u8>,
    /// What came with it.
    pub(crate) flags: i32,
}

/// Sends or receives a message whose bytes are in `buffers`; the number of bytes. What is received
/// replaces the name and the control messages, whose lengths say how much room there is.
pub(super) fn message(
    direction: Direction,
    descriptor: RawFd,
    buffers: &Reached<'_>,
    message: &mut Message,
    flags: i32,
) -> Result<u64, Errno> {
    let mut runs = runs(buffers);
    // SAFETY: all zeros are a message without anything.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if !message.name.is_empty() {
        header.msg_name = message.name.as_mut_ptr().cast();
        header.msg_namelen = message.name.len() as u32;
    }
    if !message.control.is_empty() {
        header.msg_control = message.control.as_mut_ptr().cast();
        header.msg_controllen = message.control.len();
    }
    header.msg_iov = runs.as_mut_ptr();
    header.msg_iovlen = runs.len();
    // SAFETY: the header's parts are vectors of this process with the lengths given, and runs that are as `runs` says.
    let moved = unsafe {
        match direction {
            Direction::In => libc::recvmsg(descriptor, &raw mut header, flags),
            Direction::Out => libc::sendmsg(descriptor, &raw const header, flags),
        }
    };
    let moved = result_of(moved)?;
    if direction == Direction::In {
        message.name_length = header.msg_namelen;
        message.name.truncate(header.msg_namelen as usize);
        message.control.truncate(header.msg_controllen);
        message.flags = header.msg_flags;
    }
    Ok(moved)
}

/// The runs of host memory that the kernel gets for a guest's buffers. Each of them is vouched for by its volatile slice, during the
/// call. What the guest may not use is bytes of the page at zero, where no process has memory: the kernel, which goes from one byte
/// to the next, fails at the first of them, if it comes to that. Before, it may go by how many there are, so that page comes over and
/// over; of what would be too many runs as many are left that a pipe, which is filled by pages, ends with as many bytes.
fn runs(buffers: &Reached<'_>) -> Vec<libc::iovec> {
    let run = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    let nowhere = |length: u64| libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: length as usize,
    };
    let mut runs: Vec<_> = buffers.slices.iter().map(run).collect();
    let part = buffers.beyond % PAGE_SIZE;
    if part > 0 {
        runs.push(nowhere(part));
    }
    let pages = buffers.beyond / PAGE_SIZE;
    let room = MAX_RUNS.saturating_sub(runs.len());
    runs.extend((0..pages).take(room).map(|_| nowhere(PAGE_SIZE)));
    runs
}

fn result_of(result: isize) -> Result<u64, Errno> {
    u64::try_from(result).map_err(|_| {
        let error = io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// How long a call may wait at a socket, by `SO_RCVTIMEO` or `SO_SNDTIMEO`; or to read from a terminal that
/// need not give a byte (termios(3), MIN == 0, TIME > 0), and then finds none.
pub(super) fn time_limit(descriptor: RawFd, direction: Direction) -> Option<(Duration, Late)> {
    let timeout = match direction {
        Direction::In => rustix::net::sockopt::Timeout::Recv,
        Direction::Out => rustix::net::sockopt::Timeout::Send,
    };
    match rustix::net::sockopt::socket_timeout(borrow(descriptor), timeout) {
        Ok(limit) => return limit.map(|limit| (limit, Late::Error)),
        Err(_) if direction == Direction::Out => return None,
        Err(_) => {}
    }
    let settings = terminal::settings(borrow(descriptor)).ok()?;
    let limit = terminal::patience(&settings)?;
    Some((Duration::from_millis(limit), Late::Nothing))
}

/// Processor time of a thread of this process.
pub(super) fn thread_time(thread: i32) -> Timespec {
    // The clock of a thread: the complement of its number, and three bits.
    time(!thread << 3 | 6)
}

/// What the clock of this number shows; zero if there is none, which is so for a thread that has ended.
pub(super) fn time(clock: i32) -> Timespec {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure, or leaves it as it is.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Timespec {
        tv_sec: time.tv_sec,
        tv_nsec: time.tv_nsec,
    }
}

/// How fine the clock of this number is; zero if there is none.
pub(super) fn resolution(clock: i32) -> Timespec {
    let mut fine = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure, or leaves it as it is.
    unsafe { libc::clock_getres(clock, &raw mut fine) };
    Timespec {
        tv_sec: fine.tv_sec,
        tv_nsec: fine.tv_nsec,
    }
}

/// What a call returns that has waited for as long as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// It fails with `EAGAIN`.
    Error,
    /// There was nothing.
    Nothing,
}

/// A new descriptor, the lowest that is free, of what `old` is of.
pub(super) fn duplicate(old: RawFd, close_on_exec: bool) -> Result<RawFd, Errno> {
    let old = borrow(old);
    let new = if close_on_exec {
        rustix::io::fcntl_dupfd_cloexec(old, 0)?
    } else {
        rustix::io::dup(old)?
    };
    Ok(new.into_raw_fd())
}
