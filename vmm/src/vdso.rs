//! The kernel's vdso, by which programs read clocks without a system call.
//!
//! A guest gets the host kernel's own: its code, and the data pages that lie before it, which the kernel
//! keeps current. So what the guest reads is what its system calls would say, always, whatever steers the
//! clock, and there is no second clock to keep in step. Under KVM the pages are shown to the guest when it
//! touches them first; a guest that never does costs nothing more. The process platform moves them.
//!
//! What the pages hold is the same in every process of the host: clocks and their steering, the offsets
//! of the time namespace, how often the kernel's random numbers were seeded anew; no secret.

use std::io;
use std::ops::Range;

use pool_core::PAGE_SIZE;

use crate::plan::{MONITOR_SIZE, Rooms};

/// Most pages of data before the code: Linux 6.18 has six.
const MOST_DATA: u64 = 16;
/// Most pages of code: Linux 6.18 has two.
const MOST_CODE: u64 = 16;
/// Most bytes of both.
pub const MOST: u64 = (MOST_DATA + MOST_CODE) * PAGE_SIZE;
/// Fields of an ELF header (System V ABI, chapter 4).
const SECTIONS_AT: usize = 40;
const SECTION_SIZE: usize = 58;
const SECTION_COUNT: usize = 60;

/// Where a guest finds the code, whose first page is an ELF header: at the end of the monitor's room,
/// with room for the data before it.
pub fn address(rooms: Rooms) -> u64 {
    rooms.monitor.0 + MONITOR_SIZE - MOST_CODE * PAGE_SIZE
}

/// Addresses that code at `address` and its data may take.
pub fn room(address: u64) -> Range<u64> {
    address - MOST_DATA * PAGE_SIZE..address + MOST_CODE * PAGE_SIZE
}

/// The vdso of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vdso {
    code: u64,
    length: u64,
}

impl Vdso {
    /// The vdso that the kernel gave this process, if it gave one.
    pub fn find() -> Option<Self> {
        // SAFETY: a plain question.
        let code = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
        if code == 0 || !code.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let mut header = [0; 64];
        // SAFETY: the kernel says that an ELF header is there, and nothing unmaps it.
        unsafe {
            std::ptr::copy_nonoverlapping(code as *const u8, header.as_mut_ptr(), header.len());
        }
        let length = length(&header).filter(|&length| length <= MOST_CODE * PAGE_SIZE)?;
        Some(Self { code, length })
    }

    /// Addresses of the code.
    pub fn code(&self) -> Range<u64> {
        self.code..self.code + self.length
    }

    /// Addresses of the data pages before it.
    ///
    /// They are what lies there without being anybody's memory: this process maps no device.
    pub fn data(&self) -> Range<u64> {
        let pages = (1..=MOST_DATA).take_while(|nth| {
            self.code
                .checked_sub(nth * PAGE_SIZE)
                .is_some_and(is_special)
        });
        self.code - pages.count() as u64 * PAGE_SIZE..self.code
    }

    /// Code and data together.
    pub fn all(&self) -> Range<u64> {
        self.data().start..self.code().end
    }
}

/// Where the vdso of this process comes to lie in a guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Data and code, where they lie now.
    pub from: [Range<u64>; 2],
    /// Data and code, behind each other, where they come to lie.
    pub to: [Range<u64>; 2],
}

impl Moved {
    /// What `vdso` is to a guest with these rooms.
    pub fn new(vdso: &Vdso, rooms: Rooms) -> Self {
        let (data, start) = (vdso.data(), address(rooms));
        let below = start - (data.end - data.start);
        Self {
            from: [data, vdso.code()],
            to: [below..start, start..start + vdso.length],
        }
    }

    /// All addresses.
    pub fn all(&self) -> Range<u64> {
        self.to[0].start..self.to[1].end
    }
}

/// True for a page that is neither file nor anonymous memory. The kernel refuses two kinds of advice for
/// such a page; the first also for memory that it may drop, the second also for inaccessible memory.
fn is_special(page: u64) -> bool {
    [libc::MADV_DODUMP, libc::MADV_POPULATE_READ]
        .iter()
        .all(|&advice| {
            // SAFETY: nothing of this process is left out of core dumps, so the first changes nothing, and
            // reading changes nothing.
            let result = unsafe { libc::madvise(page as *mut _, PAGE_SIZE as usize, advice) };
            result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
        })
}

/// True when the kernel has something to show at `page`: of the data pages some are for clocks or
/// namespaces that are not in use, and touching those is an error.
pub fn is_readable(page: u64) -> bool {
    let other_than_any = 0x5eed_u32;
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1,
    };
    // SAFETY: the kernel reads a word there and compares it; if it is that value, it waits a moment.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            page,
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            other_than_any,
            &raw const at_once,
        )
    };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
}

/// Bytes of whole pages that the ELF file takes: its table of sections is its end.
fn length(header: &[u8; 64]) -> Option<u64> {
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (table, _) = header[SECTIONS_AT..].split_first_chunk()?;
    let end = half(SECTION_SIZE) * half(SECTION_COUNT);
    let end = u64::from_le_bytes(*table).checked_add(end)?;
    let elf64 = header.starts_with(b"\x7fELF\x02");
    end.checked_next_multiple_of(PAGE_SIZE)
        .filter(|&end| elf64 && end > 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Start and end of this process's mappings whose names begin so.
    fn mapped(name: &str) -> Vec<(u64, u64)> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let range = |line: &str| {
            let (start, rest) = line.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(start)?, number(rest.split(' ').next()?)?))
        };
        let named = maps.lines().filter(|line| line.contains(name));
        named.map(|line| range(line).unwrap()).collect()
    }

    #[test]
    fn it_is_what_the_kernel_says_and_no_page_more() {
        let vdso = Vdso::find().unwrap();
        assert_eq!(mapped("[vdso]"), [(vdso.code().start, vdso.code().end)]);
        let data = mapped("[vvar");
        assert_eq!(vdso.data().start, data[0].0);
        assert_eq!(vdso.data().end, data[data.len() - 1].1);
        assert!(is_readable(vdso.data().start) && is_readable(vdso.code().start));
    }

    #[test]
    fn memory_beside_it_is_not_taken_for_it() {
        for protection in [libc::PROT_NONE, libc::PROT_READ] {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping touches nothing.
            let page =
                unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) } as u64;
            assert!(!is_special(page));
            assert_eq!(is_readable(page), protection == libc::PROT_READ);
            // SAFETY: made above, and unused.
            unsafe { libc::munmap(page as *mut _, 4096) };
            assert!(!is_special(page) && !is_readable(page));
        }
    }

    #[test]
    fn odd_headers_are_refused() {
        assert_eq!(length(&[0; 64]), None);
        let mut header = [0xff; 64];
        header[..5].copy_from_slice(b"\x7fELF\x02");
        assert_eq!(length(&header), None);
        header[SECTIONS_AT..].fill(0);
        header[SECTIONS_AT + 1] = 0x1e;
        (header[SECTION_SIZE], header[SECTION_COUNT]) = (64, 16);
        assert_eq!(length(&header), Some(0x3000));
    }
}
