//! Files behind mappings: each is kept by a *view*, a mapping of its own that no guest sees.
//!
//! So a file is kept as Linux keeps it, by being mapped, and the kernel says whether it can be. A descriptor
//! would not do: when one is closed, the kernel drops all record locks that this process has on the file, and
//! those are the guest's. Bytes are read through a view by a call, which comes back short where touching the
//! page would raise SIGBUS: past the end of the file, or where it cannot be read. Of a shared mapping, more
//! mappings of the same pages can be had from its view ([`super::shown`]).
//!
//! Page tables of a view would be memory that no guest is charged for, 4 KiB for each 2 MiB of a file that was ever
//! touched. So a view keeps none: what is read is forgotten at once, and what is shown is looked at where it is
//! laid.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use pool_core::{PAGE_SIZE, WINDOW_SIZE};
use rustix::fs::{AtFlags, StatxFlags};
use vm_memory::VolatileSlice;

/// Most mappings of files that a guest may have at once: a quarter of those that a process may have.
const MOST: usize = 16_384;
/// Most bytes of them: half of the addresses of this process, which needs some itself.
const MOST_BYTES: u64 = 1 << 46;

/// A view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u32);

impl FileId {
    /// The file number `number`, for tests of what does not look into files.
    #[cfg(test)]
    pub(super) fn numbered(number: u32) -> Self {
        Self(number)
    }
}

/// A place in a file, by whatever mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePlace {
    /// Device and inode.
    file: (u64, u64),
    offset: u64,
}

/// The views of a guest's files.
#[derive(Debug, Default)]
pub(super) struct Files {
    views: BTreeMap<FileId, View>,
    /// Bytes of all.
    bytes: u64,
    next: u32,
}

/// What a view is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Copies of its pages.
    Copies,
    /// The same, of a segment of the pool, most of whose pages are others'.
    Segment,
    /// Its own pages, to be read.
    Shared,
    /// Its own pages, to be written too.
    Writable,
}

/// `length` bytes of a file from `offset` on, inaccessible to the guest.
#[derive(Debug)]
struct View {
    start: NonNull<u8>,
    length: u64,
    offset: u64,
    /// Device and inode.
    file: (u64, u64),
    of_segment: bool,
}

impl Files {
    /// Keeps `length` bytes of `file` from `offset` on, both multiples of the page size; the descriptor may be
    /// closed.
    pub(super) fn keep(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
        kind: Kind,
    ) -> io::Result<FileId> {
        if self.views.len() >= MOST {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        self.make_room(length)?;
        let view = View::new(file, offset, length, kind)?;
        self.bytes += length;
        while self.views.contains_key(&FileId(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let id = FileId(self.next);
        self.next = self.next.wrapping_add(1);
        self.views.insert(id, view);
        Ok(id)
    }

    /// Bytes of all.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Fails if so many bytes more would be too many.
    fn make_room(&self, more: u64) -> io::Result<()> {
        if more > MOST_BYTES - self.bytes {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        Ok(())
    }

    /// Has `id` reach to byte `end` of its file.
    pub(super) fn reach(&mut self, id: FileId, end: u64) -> io::Result<()> {
        let Some(view) = self.views.get(&id) else {
            return Ok(());
        };
        let (length, wanted) = (view.length, end.saturating_sub(view.offset));
        if wanted <= length {
            return Ok(());
        }
        self.make_room(wanted - length)?;
        if let Some(view) = self.views.get_mut(&id) {
            view.grow(wanted)?;
            self.bytes += wanted - length;
        }
        Ok(())
    }

    /// Lets go of `id`.
    pub(super) fn release(&mut self, id: FileId) {
        if let Some(view) = self.views.remove(&id) {
            self.bytes -= view.length;
        }
    }

    /// Fills `into` from `offset` of the file on; the number of bytes, less where there are no more pages.
    pub(super) fn fill(&self, id: FileId, offset: u64, into: &VolatileSlice<'_>) -> u64 {
        let guard = into.ptr_guard_mut();
        self.copy(id, offset, guard.as_ptr(), into.len())
    }

    /// The same into memory of this process.
    pub(super) fn read(&self, id: FileId, offset: u64, into: &mut [u8]) -> u64 {
        self.copy(id, offset, into.as_mut_ptr(), into.len())
    }

    /// `at` must be good for `length` bytes.
    fn copy(&self, id: FileId, offset: u64, at: *mut u8, length: usize) -> u64 {
        let Some((from, room)) = self.at(id, offset) else {
            return 0;
        };
        let length = length.min(room as usize);
        // SAFETY: the callers vouch for `at`, and the view is there for `room` bytes.
        let copied = unsafe { copy(at, from, length) as u64 };
        if let Some(view) = self.views.get(&id) {
            view.forget(offset, length as u64);
        }
        copied
    }

    /// Where byte `offset` of the file lies in its view, and how many bytes there are from there. For calls alone
    /// that leave no translation behind.
    pub(super) fn at(&self, id: FileId, offset: u64) -> Option<(*mut u8, u64)> {
        self.views.get(&id)?.at(offset)
    }

    /// Of a segment of the pool.
    pub(super) fn is_segment(&self, id: FileId) -> bool {
        self.views.get(&id).is_some_and(|view| view.of_segment)
    }

    /// Byte `offset` of the file.
    pub(super) fn place(&self, id: FileId, offset: u64) -> Option<FilePlace> {
        let file = self.views.get(&id)?.file;
        Some(FilePlace { file, offset })
    }

    /// For each of `pages` from `offset` on: the host has it in memory, as far as it tells.
    pub(super) fn present(&self, id: FileId, offset: u64, pages: u64) -> Vec<bool> {
        let mut found = vec![0u8; pages as usize];
        if let Some((from, room)) = self.at(id, offset) {
            let length = (pages * PAGE_SIZE).min(room) as usize;
            // SAFETY: the range lies in the view, and the kernel writes one byte a page of it.
            unsafe {
                libc::mincore(from.cast(), length, found.as_mut_ptr());
            }
        }
        found.into_iter().map(|byte| byte & 1 != 0).collect()
    }

    /// Makes a hole in the file.
    pub(super) fn remove(&self, id: FileId, offset: u64, length: u64) -> io::Result<()> {
        let (from, room) = self.at(id, offset).ok_or(io::ErrorKind::InvalidInput)?;
        let length = length.min(room) as usize;
        // SAFETY: the range lies in the view, which holds nothing of this program.
        check(unsafe { libc::madvise(from.cast(), length, libc::MADV_REMOVE) })
    }

    /// Has `length` bytes from `offset` on be written to where the file is kept.
    pub(super) fn sync(&self, id: FileId, offset: u64, length: u64) -> io::Result<()> {
        let (from, room) = self.at(id, offset).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the range lies in the view.
        check(unsafe { libc::msync(from.cast(), length.min(room) as usize, libc::MS_SYNC) })
    }
}

/// Copies `length` bytes by a call, which comes back short where touching a page would raise SIGBUS or
/// SIGSEGV; how many were copied.
///
/// # Safety
/// Both ranges are mappings of this process that nothing else refers to meanwhile, but for others that share
/// their file.
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, length: usize) -> usize {
    let mut done = 0;
    while done < length {
        let ours = libc::iovec {
            iov_base: to.wrapping_add(done).cast(),
            iov_len: length - done,
        };
        let theirs = libc::iovec {
            iov_base: from.wrapping_add(done).cast_mut().cast(),
            iov_len: length - done,
        };
        // SAFETY: the caller's promise.
        let moved = unsafe {
            libc::process_vm_readv(libc::getpid(), &raw const ours, 1, &raw const theirs, 1, 0)
        };
        match usize::try_from(moved) {
            Ok(0) => break,
            Ok(moved) => done += moved,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    done
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Device and inode. What the kernel remembers of them is true, so no file system is asked: poolfs is by `fstat`, where the
/// file has been mapped, since that is an access.
fn identity(file: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(file, "", flags, StatxFlags::INO)?;
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    Ok((device, found.stx_ino))
}

// SAFETY: the mapping is the value's own, and is one for all threads of the process.
unsafe impl Send for View {}

impl View {
    fn new(file: BorrowedFd<'_>, offset: u64, length: u64, kind: Kind) -> io::Result<Self> {
        let wrong = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
        let (flags, protection) = match kind {
            Kind::Copies | Kind::Segment => {
                (libc::MAP_PRIVATE | libc::MAP_NORESERVE, libc::PROT_READ)
            }
            Kind::Shared => (libc::MAP_SHARED, libc::PROT_READ),
            Kind::Writable => (libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE),
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                usize::try_from(length).map_err(wrong)?,
                protection,
                flags,
                file.as_raw_fd(),
                libc::off_t::try_from(offset).map_err(wrong)?,
            )
        };
        let mut view = Self {
            start: Self::mapped(start)?,
            length,
            offset,
            file: (0, 0),
            of_segment: kind == Kind::Segment,
        };
        view.file = identity(file)?;
        Ok(view)
    }

    fn grow(&mut self, length: u64) -> io::Result<()> {
        let (now, wanted) = (self.length as usize, length as usize);
        // SAFETY: the range is this view, which nothing refers to; it is known where it lies then.
        let start = unsafe {
            libc::mremap(
                self.start.as_ptr().cast(),
                now,
                wanted,
                libc::MREMAP_MAYMOVE,
            )
        };
        self.start = Self::mapped(start)?;
        self.length = length;
        Ok(())
    }

    /// Has the kernel forget the translations that reading `length` bytes from `offset` of the file on has made. Linux
    /// 6.14 and later give the page tables back, too, where a whole one is forgotten.
    fn forget(&self, offset: u64, length: u64) {
        let start = self.start.as_ptr().addr() as u64;
        let at = start + (offset - self.offset);
        let from = (at & !(WINDOW_SIZE - 1)).max(start);
        let end = (at + length).next_multiple_of(WINDOW_SIZE);
        let length = end.min(start + self.length) - from;
        // SAFETY: the range lies in the view, in which nothing is ever written: what is forgotten comes from the
        // file again.
        unsafe {
            let from = self.start.as_ptr().add((from - start) as usize);
            libc::madvise(from.cast(), length as usize, libc::MADV_DONTNEED);
        }
    }

    fn mapped(start: *mut libc::c_void) -> io::Result<NonNull<u8>> {
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Where byte `offset` of the file lies, and how many bytes there are from there.
    fn at(&self, offset: u64) -> Option<(*mut u8, u64)> {
        let skipped = offset.checked_sub(self.offset)?;
        let room = self.length.checked_sub(skipped)?;
        Some((self.start.as_ptr().wrapping_add(skipped as usize), room))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the range is this view, which nothing refers to.
        unsafe {
            libc::munmap(self.start.as_ptr().cast(), self.length as usize);
        }
    }
}
