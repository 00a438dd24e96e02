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
