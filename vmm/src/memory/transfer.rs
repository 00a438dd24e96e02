//! Bytes between files and guest memory, without a copy in between.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

/// Most runs that one call moves (the kernel's `UIO_MAXIOV`).
pub const MAX_RUNS: usize = 1024;

/// Where in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At the descriptor's own position, which moves.
    Current,
    /// At this byte; the descriptor's position stays.
    At(i64),
}

impl Position {
    fn offset(self) -> libc::off_t {
        match self {
            Self::Current => -1,
            Self::At(offset) => offset,
        }
    }
}

/// Reads from `file` into guest memory; the number of bytes, zero at the end of the file.
pub fn read(
    file: BorrowedFd<'_>,
    into: &[VolatileSlice<'_>],
    position: Position,
) -> io::Result<usize> {
    let runs = runs(into);
    // SAFETY: each run is host memory that its volatile slice vouches for during this call; the
    // kernel writes at most the run's length.
    let moved = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            runs.as_ptr(),
            runs.len() as libc::c_int,
            position.offset(),
            0,
        )
    };
    result(moved)
}

/// Writes guest memory to `file`; the number of bytes.
pub fn write(
    file: BorrowedFd<'_>,
    from: &[VolatileSlice<'_>],
    position: Position,
) -> io::Result<usize> {
    let runs = runs(from);
    // SAFETY: each run is host memory that its volatile slice vouches for during this call; the
    // kernel only reads it.
    let moved = unsafe {
        libc::pwritev2(
            file.as_raw_fd(),
            runs.as_ptr(),
            runs.len() as libc::c_int,
            position.offset(),
            0,
        )
    };
    result(moved)
}

/// Fills the whole of `region` from `offset` of `file`.
pub(super) fn fill(file: BorrowedFd<'_>, region: &MmapRegion, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < region.size() {
        let rest = region
            .get_slice(done, region.size() - done)
            .map_err(io::Error::other)?;
        match read(file, &[rest], Position::At((offset + done as u64) as i64))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            moved => done += moved,
        }
    }
    Ok(())
}

fn runs(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    let run = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    slices.iter().take(MAX_RUNS).map(run).collect()
}

fn result(moved: isize) -> io::Result<usize> {
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Length of the longest terminal structure.
pub(crate) const TERMINAL_BYTES: usize = 64;

/// `fcntl` with a `struct flock` in its ABI form (32 bytes): F_GETLK, F_SETLK or F_SETLKW.
pub(crate) fn record_lock(
    file: BorrowedFd<'_>,
    command: i32,
    lock: &mut [u8; 32],
) -> io::Result<()> {
    debug_assert!(matches!(
        command,
        libc::F_GETLK | libc::F_SETLK | libc::F_SETLKW
    ));
    // SAFETY: the three commands read and write one `struct flock`, which is 32 bytes long with
    // alignment 8; the kernel copies byte by byte and does not need the alignment.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, lock.as_mut_ptr()) };
    result_of(result)
}

/// May this process access what `file` stands for, an `O_PATH` descriptor too, as `mode` (`R_OK`
/// and others) says? `accessat` of rustix has no way to ask this of a descriptor.
pub(crate) fn access(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: the path is an empty C string that lives for ever; the kernel only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            file.as_raw_fd(),
            c"".as_ptr(),
            mode,
            libc::AT_EMPTY_PATH,
        )
    };
    result_of(result as libc::c_int)
}

/// Directory entries of `directory` in their ABI form; the number of bytes filled.
pub(crate) fn directory_entries(directory: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`.
    let filled = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            into.as_mut_ptr(),
            into.len(),
        )
    };
    result(filled as isize)
}

/// Settings (TCGETS) or size (TIOCGWINSZ) of a terminal; the number of bytes filled. Any other
/// request fails with `ENOTTY`.
pub(crate) fn terminal(
    file: BorrowedFd<'_>,
    request: u64,
    into: &mut [u8; TERMINAL_BYTES],
) -> io::Result<usize> {
    let length = match request {
        libc::TCGETS => 36,
        libc::TIOCGWINSZ => 8,
        _ => return Err(io::Error::from_raw_os_error(libc::ENOTTY)),
    };
    // SAFETY: TCGETS writes 36 bytes (the kernel's termios), TIOCGWINSZ 8; the buffer has 64.
    result_of(unsafe { libc::ioctl(file.as_raw_fd(), request, into.as_mut_ptr()) })?;
    Ok(length)
}

fn result_of(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
