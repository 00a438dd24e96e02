//! The guest's memory in this process: one reservation of addresses, overlaid inside.
//!
//! ```text
//! 2 MiB aligned                                     2 MiB aligned
//! |<----------- RAM, up to the limit ------------>|<---- shared pages ---->|
//! | .data of the image | anonymous | not yet given | segment windows, pages |
//!   private, COW         read-write  PROT_NONE       PROT_READ, shared
//! ```
//!
//! Everything that maps, unmaps or advises guest memory is here; nothing else calls `mmap` for
//! it. An overlay replaces part of the reservation and can never reach outside it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use vm_memory::MmapRegion;

use super::runs::Run;

/// How a segment's pages are laid in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// Read-only, the page cache's own pages.
    Shared,
    /// Writable; a written page is copied first.
    Private,
}

/// A run of host addresses that belongs to the guest.
#[derive(Debug)]
pub struct Reservation {
    base: NonNull<u8>,
    length: u64,
}

// SAFETY: the mapping is the value's own, and is one for all threads of the process; nothing of it depends on
// which of them has the value.
unsafe impl Send for Reservation {}

impl Reservation {
    /// Reserves `length` bytes (a multiple of 2 MiB) at a 2 MiB-aligned address. Costs address
    /// space only.
    pub fn new(length: u64) -> io::Result<Self> {
        let asked = length
            .checked_add(WINDOW_SIZE)
            .and_then(|asked| usize::try_from(asked).ok())
            .filter(|_| length.is_multiple_of(WINDOW_SIZE) && length > 0)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), asked, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start.cast::<u8>();
        let head = start.align_offset(WINDOW_SIZE as usize);
        let tail = WINDOW_SIZE as usize - head;
        // SAFETY: `head + length + tail` is exactly the mapping just made, so `base` and the
        // unmapped ends lie in it, and no one else knows of it.
        let base = unsafe {
            let base = start.add(head);
            if head > 0 {
                libc::munmap(start.cast(), head);
            }
            libc::munmap(base.add(length as usize).cast(), tail);
            base
        };
        let base = NonNull::new(base).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { base, length })
    }

    /// Makes `length` bytes at `offset` zero-filled memory, taken from the host page by page as
    /// it is touched.
    pub fn map_anonymous(&self, offset: u64, length: u64, writable: bool) -> io::Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.overlay(offset, length, protection(writable), flags, -1, 0)
    }

    /// Lays `length` bytes of `segment` from `segment_offset` in at `offset`. The caller has
    /// checked that the segment is that long: touching a mapping past the end of its file would
    /// raise SIGBUS.
    pub fn map_segment(
        &self,
        offset: u64,
        length: u64,
        segment: BorrowedFd<'_>,
        segment_offset: u64,
        overlay: Overlay,
    ) -> io::Result<()> {
        let (writable, flags) = match overlay {
            Overlay::Shared => (false, libc::MAP_SHARED),
            Overlay::Private => (true, libc::MAP_PRIVATE | libc::MAP_NORESERVE),
        };
        let protection = protection(writable);
        let file = segment.as_raw_fd();
        self.overlay(offset, length, protection, flags, file, segment_offset)
    }

    /// Has `length` bytes at `offset` be what is mapped at `view`: a mapping of a file that is shared and at least
    /// so long. It may raise SIGBUS: nobody touches it but the machine, and the kernel in a call.
    pub fn lay(&self, offset: u64, length: u64, view: *mut u8) -> io::Result<()> {
        self.check(offset, length)?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: no bytes of the old mapping are moved: it is had a second time (mremap(2), `old_size` 0). The
        // new place was checked to lie in this reservation, which belongs to the guest alone.
        let laid = unsafe {
            libc::mremap(
                view.cast(),
                0,
                length as usize,
                flags,
                self.base.as_ptr().add(offset as usize),
            )
        };
        if laid == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Asks for 2 MiB pages behind `length` bytes at `offset`.
    pub fn advise_huge(&self, offset: u64, length: u64) -> io::Result<()> {
        self.advise(offset, length, libc::MADV_HUGEPAGE)
    }

    /// Asks for single pages behind `length` bytes at `offset`.
    pub fn advise_small(&self, offset: u64, length: u64) -> io::Result<()> {
        self.advise(offset, length, libc::MADV_NOHUGEPAGE)
    }

    /// Has the host begin to read `length` bytes at `offset` of a file that is laid in there, and no others of it.
    pub fn read_ahead(&self, offset: u64, length: u64) {
        // What was not read is read when it is touched.
        let _ = self.advise(offset, length, libc::MADV_WILLNEED);
    }

    /// Gives private changes back: anonymous memory reads as zeros again, a private overlay as
    /// its segment.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.advise(offset, length, libc::MADV_DONTNEED)
    }

    /// Has the kernel forget every translation to `length` bytes at `offset` that was made for a machine
    /// with more rights than its tables now give: the pages lose a right for a moment.
    pub fn revoke(&self, offset: u64, length: u64, writable: bool) -> io::Result<()> {
        let (less, all) = if writable {
            (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE)
        } else {
            (libc::PROT_NONE, libc::PROT_READ)
        };
        self.protect(offset, length, less)?;
        self.protect(offset, length, all)
    }

    /// Takes `length` bytes at `offset` from the host now rather than at the first touch, if it can.
    pub fn populate(&self, offset: u64, length: u64) {
        // A kernel before 5.14 does not know the advice; the pages come when they are touched then.
        let _ = self.advise(offset, length, libc::MADV_POPULATE_WRITE);
    }

    /// Whether `length` bytes at `offset` can be written: of a file that is laid in there, that its disk has room.
    pub fn can_write(&self, offset: u64, length: u64) -> bool {
        self.can(offset, length, libc::MADV_POPULATE_WRITE)
    }

    /// Whether `length` bytes at `offset` can be read: of a file that is laid in there, that it still has them.
    pub fn can_read(&self, offset: u64, length: u64) -> bool {
        self.can(offset, length, libc::MADV_POPULATE_READ)
    }

    fn can(&self, offset: u64, length: u64, populate: libc::c_int) -> bool {
        match self.advise(offset, length, populate) {
            Ok(()) => true,
            // A kernel before 5.14 does not know the advice.
            Err(error) => error.raw_os_error() == Some(libc::EINVAL),
        }
    }

    /// How many pages of `runs`, one after the other, can be read, up to the first that cannot: of a file that is
    /// laid in there, that it has them. They are in the host's memory then.
    pub(super) fn readable(&self, runs: &[Run]) -> u16 {
        /// As many as a window has; the kernel takes twice as many (`UIO_MAXIOV`).
        const MOST: usize = PAGES_PER_WINDOW as usize;
        let base = self.base.as_ptr();
        let one = |page: u64| libc::iovec {
            iov_base: base.wrapping_add((page * PAGE_SIZE) as usize).cast(),
            iov_len: 1,
        };
        let inside = |run: &&Run| self.check(run.physical(), run.bytes()).is_ok();
        let pages = runs.iter().filter(inside).flat_map(|run| {
            let first = u64::from(run.frame);
            first..first + u64::from(run.count)
        });
        let theirs: Vec<libc::iovec> = pages.take(MOST).map(one).collect();
        let mut bytes = [0u8; MOST];
        let ours = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: theirs.len(),
        };
        // SAFETY: the kernel writes at most as many bytes as there are pages, and reads one of each, which lie in
        // this reservation.
        let read = unsafe {
            libc::process_vm_readv(
                libc::getpid(),
                &raw const ours,
                1,
                theirs.as_ptr(),
                theirs.len() as libc::c_ulong,
                0,
            )
        };
        u16::try_from(read).unwrap_or(0)
    }

    /// For each page of `length` bytes at `offset`: is it in memory? Where that cannot be told, it is.
    pub fn resident(&self, offset: u64, length: u64) -> Vec<bool> {
        let pages = (length / PAGE_SIZE) as usize;
        let mut found = vec![1u8; pages];
        if self.check(offset, length).is_ok() {
            // SAFETY: the range lies in this reservation, and the kernel writes one byte a page of it.
            let result = unsafe {
                libc::mincore(
                    self.base.as_ptr().add(offset as usize).cast(),
                    length as usize,
                    found.as_mut_ptr(),
                )
            };
            if result != 0 {
                found.fill(1);
            }
        }
        found.into_iter().map(|byte| byte & 1 != 0).collect()
    }

    /// The host address of `offset`, for a memory slot that covers `length` bytes from there.
    pub fn host_address(&self, offset: u64, length: u64) -> io::Result<u64> {
        self.check(offset, length)?;
        Ok(self.base.as_ptr() as u64 + offset)
    }

    /// A view of `length` bytes at `offset` for bounds-checked access. Whoever uses it must keep
    /// the reservation, and must not write where a shared overlay lies.
    pub fn region(&self, offset: u64, length: u64) -> io::Result<MmapRegion> {
        self.check(offset, length)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        // SAFETY: the range lies in the reservation, which stays mapped as long as `self`; a raw
        // region does not unmap it when dropped.
        let region = unsafe {
            let start = self.base.as_ptr().add(offset as usize);
            MmapRegion::build_raw(
                start,
                length as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
            )
        };
        region.map_err(io::Error::other)
    }

    fn overlay(
        &self,
        offset: u64,
        length: u64,
        protection: i32,
        flags: i32,
        file: i32,
        file_offset: u64,
    ) -> io::Result<()> {
        self.check(offset, length)?;
        let file_offset = libc::off_t::try_from(file_offset)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: the range was checked to lie in this reservation, which belongs to the guest
        // alone; no Rust reference points into it (access goes through volatile slices).
        let mapped = unsafe {
            libc::mmap(
                self.base.as_ptr().add(offset as usize).cast(),
                length as usize,
                protection,
                flags | libc::MAP_FIXED,
                file,
                file_offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn protect(&self, offset: u64, length: u64, protection: i32) -> io::Result<()> {
        self.check(offset, length)?;
        // SAFETY: the range lies in this reservation, which belongs to the guest alone; nobody reads or
        // writes it between the two changes of `revoke`, as the one thread that would is here.
        let result = unsafe {
            libc::mprotect(
                self.base.as_ptr().add(offset as usize).cast(),
                length as usize,
                protection,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn advise(&self, offset: u64, length: u64, advice: i32) -> io::Result<()> {
        self.check(offset, length)?;
        // SAFETY: the range lies in this reservation; the kinds of advice used change only
        // what stands behind the guest's own memory.
        let result = unsafe {
            libc::madvise(
                self.base.as_ptr().add(offset as usize).cast(),
                length as usize,
                advice,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Refuses ranges that are empty, not made of pages, or reach outside the reservation.
    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        let whole = (offset | length).is_multiple_of(PAGE_SIZE) && length > 0;
        let inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length);
        if whole && inside {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::InvalidInput))
        }
    }
}

fn protection(writable: bool) -> i32 {
    if writable {
        libc::PROT_READ | libc::PROT_WRITE
    } else {
        libc::PROT_READ
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range is the whole reservation, made in `new` and owned by `self`; regions
        // handed out must not outlive it, as `region` says.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.length as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_stay_inside() {
        let reservation = Reservation::new(2 * WINDOW_SIZE).unwrap();
        assert_eq!(
            reservation.host_address(0, PAGE_SIZE).unwrap() % WINDOW_SIZE,
            0
        );
        assert!(reservation.map_anonymous(0, WINDOW_SIZE, true).is_ok());
        for (offset, length) in [
            (2 * WINDOW_SIZE, PAGE_SIZE),
            (WINDOW_SIZE, WINDOW_SIZE + PAGE_SIZE),
            (!0xfff, PAGE_SIZE),
            (1, PAGE_SIZE),
            (0, 0),
        ] {
            assert!(reservation.map_anonymous(offset, length, true).is_err());
            assert!(reservation.discard(offset, length).is_err());
        }
    }

    #[test]
    fn odd_sizes_are_refused() {
        for length in [0, PAGE_SIZE, !(WINDOW_SIZE - 1)] {
            assert!(Reservation::new(length).is_err());
        }
    }
}
