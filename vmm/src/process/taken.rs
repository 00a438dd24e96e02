//! What the guest's calls about memory can make it have.
//!
//! The kernel takes whole pages, so lengths are rounded as it rounds them before anything is counted: one byte is a page, and
//! what is too much for a number is nothing, to which it answers with an error or, as `old_size` of `mremap`, by having
//! what is mapped a second time.

use super::limits::with_tables;
use super::ptrace::Registers;
use crate::linux::aligned;

/// The most bytes that this call can make the guest have, with the tables to find them by.
pub(super) fn most_taken(registers: &Registers) -> u64 {
    match registers.orig_rax as i64 {
        libc::SYS_mremap => with_tables(aligned(registers.rdx)),
        _ if registers.rdx as i32 == libc::PROT_NONE => 0,
        _ => with_tables(aligned(registers.rsi)),
    }
}

/// The most bytes that become accessible by this call without counting as private writable memory.
pub(super) fn newly_readable(registers: &Registers) -> u64 {
    let protection = registers.rdx as i32;
    let writable = protection & libc::PROT_WRITE != 0;
    let private = plain(registers.r10) & libc::MAP_TYPE as u64 == libc::MAP_PRIVATE as u64;
    match registers.orig_rax as i64 {
        libc::SYS_mremap => aligned(registers.rdx).saturating_sub(aligned(registers.rsi)),
        _ if protection == libc::PROT_NONE => 0,
        libc::SYS_mmap if writable && private => 0,
        _ => aligned(registers.rsi),
    }
}

/// The descriptor whose file is to be mapped shared.
pub(super) fn shared_file(registers: &Registers) -> Option<u64> {
    const SHARED: u64 = libc::MAP_SHARED as u64;
    const ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
    let is_mapped = registers.orig_rax == libc::SYS_mmap as u64;
    (is_mapped && registers.r10 & (SHARED | ANONYMOUS) == SHARED).then_some(registers.r8)
}

/// `mmap` flags of private memory, in the place of a file that is mapped shared.
pub(super) fn private(flags: u64) -> u64 {
    flags & !(libc::MAP_TYPE as u64) | (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64
}

/// `mmap` flags that mean the same in one process, and count against its limit.
pub(super) fn plain(flags: u64) -> u64 {
    const ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
    const TYPE: u64 = libc::MAP_TYPE as u64;
    const HUGE: u64 = libc::MAP_HUGETLB as u64 | 0x3f << libc::MAP_HUGE_SHIFT;
    let mut plain = flags & !(libc::MAP_GROWSDOWN as u64);
    if plain & libc::MAP_HUGETLB as u64 != 0 {
        plain &= !HUGE;
    }
    if plain & ANONYMOUS != 0 && plain & TYPE == libc::MAP_SHARED as u64 {
        plain = plain & !TYPE | libc::MAP_PRIVATE as u64;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_count_becomes_what_does() {
        for (flags, expected) in [
            (0x21, 0x22),
            // `MAP_SHARED_VALIDATE`, which the kernel does not take for anonymous memory.
            (0x23, 0x23),
            (0x31, 0x32),
            (0x122, 0x22),
            (0x4_0022, 0x22),
            (0x5404_0121, 0x22),
            (0x4_0001, 0x1),
            (0x22, 0x22),
        ] {
            assert_eq!(plain(flags), expected, "{flags:#x}");
        }
    }

    #[test]
    fn shared_files_are_told_apart() {
        // SAFETY: all zeros are a valid value of it.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        (registers.orig_rax, registers.r8) = (libc::SYS_mmap as u64, 3);
        for (flags, expected) in [(0x1, Some(3)), (0x3, Some(3)), (0x2, None), (0x21, None)] {
            registers.r10 = flags;
            assert_eq!(shared_file(&registers), expected, "{flags:#x}");
        }
        assert_eq!(private(0x11), 0x32);
        registers.orig_rax = libc::SYS_mprotect as u64;
        assert_eq!(shared_file(&registers), None);
    }

    #[test]
    fn what_a_call_makes_readable() {
        // SAFETY: all zeros are a valid value of it.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        for (call, [rsi, rdx, r10], expected) in [
            (libc::SYS_mmap, [1 << 40, 0, 0x22], 0),
            (libc::SYS_mmap, [1 << 40, 1, 0x22], 1 << 40),
            (libc::SYS_mmap, [1 << 40, 3, 0x22], 0),
            (libc::SYS_mmap, [1 << 40, 3, 0x21], 0),
            (libc::SYS_mmap, [1 << 40, 3, 0x01], 1 << 40),
            (libc::SYS_mprotect, [1 << 40, 0, 0], 0),
            (libc::SYS_mprotect, [1 << 40, 3, 0], 1 << 40),
            (libc::SYS_mremap, [4096, 1 << 40, 1], (1 << 40) - 4096),
            (libc::SYS_mremap, [1 << 40, 4096, 1], 0),
            // What is too long for a number is nothing: what is mapped is had twice.
            (libc::SYS_mremap, [u64::MAX, 1 << 40, 1], 1 << 40),
            (libc::SYS_mremap, [u64::MAX - 4094, 1 << 40, 1], 1 << 40),
            (libc::SYS_mremap, [u64::MAX - 4095, 1 << 40, 1], 0),
            (libc::SYS_mremap, [0, 1, 1], 4096),
            (libc::SYS_mremap, [1, 4097, 1], 4096),
            (libc::SYS_mremap, [4096, u64::MAX, 1], 0),
            (libc::SYS_mprotect, [1, 1, 0], 4096),
            (libc::SYS_mprotect, [4097, 1, 0], 8192),
            (libc::SYS_mprotect, [u64::MAX, 1, 0], 0),
            (libc::SYS_mmap, [1, 1, 0x22], 4096),
            (libc::SYS_mmap, [4097, 3, 0x01], 8192),
            (libc::SYS_mmap, [u64::MAX, 1, 0x22], 0),
        ] {
            (registers.orig_rax, registers.rsi) = (call as u64, rsi);
            (registers.rdx, registers.r10) = (rdx, r10);
            assert_eq!(
                newly_readable(&registers),
                expected,
                "{call} {rsi:#x} {rdx:#x}"
            );
        }
    }

    #[test]
    fn the_most_that_a_call_takes() {
        // SAFETY: all zeros are a valid value of it.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        for (call, [rsi, rdx], expected) in [
            (libc::SYS_mmap, [2 << 20, 3], (2 << 20) + 7 * 4096),
            (libc::SYS_mmap, [2 << 20, 0], 0),
            (libc::SYS_mprotect, [2 << 20, 1], (2 << 20) + 7 * 4096),
            (libc::SYS_mremap, [4096, 2 << 20], (2 << 20) + 7 * 4096),
            (libc::SYS_mmap, [1, 3], 7 * 4096 + 8),
            (libc::SYS_mprotect, [4097, 3], 8 * 4096 + 16),
            (libc::SYS_mremap, [4096, 4097], 8 * 4096 + 16),
            // The kernel refuses it.
            (libc::SYS_mmap, [u64::MAX, 3], 6 * 4096),
            (libc::SYS_mmap, [u64::MAX - 4095, 3], u64::MAX),
        ] {
            registers.orig_rax = call as u64;
            (registers.rsi, registers.rdx) = (rsi, rdx);
            assert_eq!(most_taken(&registers), expected, "{call} {rsi:#x}");
        }
    }
}
