//! Telling kernel images from programs: what kernels carry for whoever boots them.
//!
//! A unikernel built for a hypervisor is an ELF executable like any other, and Linux would even
//! begin to run it. What tells it apart is the header or note by which a boot loader knows how to
//! start it:
//!
//! - PVH: a note of the name `Xen` and type 18, the 32-bit entry point (Xen, `public/elfnote.h`);
//! - Multiboot: a header in the first 8 KiB, or 32 KiB for version 2, whose words sum to zero
//!   (Multiboot specification 0.6.96, 3.1; Multiboot 2 specification, 3.1);
//! - Linux 64-bit boot has no mark of its own. Unikraft's images for it have a section
//!   `.uk_bootinfo` and begin at 1 MiB; its Linux programs have the section too, but lie where
//!   programs do.

use goblin::elf::program_header::{self as ph, ProgramHeader};
use pool_core::WINDOW_SIZE;
use pool_core::description::Abi;

/// What Unikraft calls the section that its boot code reads.
pub(super) const UNIKRAFT_BOOT_INFORMATION: &[u8] = b".uk_bootinfo";

const XEN_NAME: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const XEN_ENTRY: u32 = 18;
const NOTE_HEADER: usize = 12;

const MULTIBOOT: u32 = 0x1bad_b002;
const MULTIBOOT_REACH: usize = 8 << 10;
/// Flags that a loader of version 1 must understand are the lower 16; three are defined.
const MULTIBOOT_UNDEFINED: u32 = 0xfff8;
/// The header has addresses for its loader.
const MULTIBOOT_ADDRESSES: u32 = 1 << 16;
const MULTIBOOT2: u32 = 0xe852_50d6;
const MULTIBOOT2_REACH: usize = 32 << 10;
/// i386 and MIPS.
const MULTIBOOT2_ARCHITECTURES: [u32; 2] = [0, 4];

/// What `file` expects of whoever runs it. `boot_information` is true for a file with
/// [`UNIKRAFT_BOOT_INFORMATION`].
pub(super) fn abi(file: &[u8], headers: &[ProgramHeader], boot_information: bool) -> Abi {
    let loaded = |header: &&ProgramHeader| header.p_type == ph::PT_LOAD && header.p_memsz > 0;
    let lowest = headers.iter().filter(loaded).map(|h| h.p_vaddr).min();
    let below_programs = lowest.is_some_and(|lowest| lowest < WINDOW_SIZE);
    if headers.iter().any(|header| names_pvh_entry(file, header)) {
        Abi::Pvh
    } else if has_multiboot_header(file) {
        Abi::Multiboot
    } else if boot_information && below_programs {
        Abi::Lxboot
    } else {
        Abi::Linux
    }
}

fn names_pvh_entry(file: &[u8], header: &ProgramHeader) -> bool {
    if header.p_type != ph::PT_NOTE {
        return false;
    }
    let end = header.p_offset.saturating_add(header.p_filesz);
    let notes = file.get(header.p_offset as usize..end as usize);
    notes.is_some_and(has_pvh_note)
}

fn has_pvh_note(mut notes: &[u8]) -> bool {
    while let (Some(name_size), Some(size), Some(kind)) =
        (word(notes, 0), word(notes, 4), word(notes, 8))
    {
        let rest = &notes[NOTE_HEADER..];
        if kind == XEN_ENTRY && name_size == 4 && rest.starts_with(XEN_NAME) {
            return true;
        }
        let padded = |size: u32| (size as usize).next_multiple_of(4);
        match rest.get(padded(name_size).saturating_add(padded(size))..) {
            Some(next) => notes = next,
            None => break,
        }
    }
    false
}

/// True for a file with a Multiboot header (of version 1) that says itself where its loader puts what: what its program headers say
/// does not count then.
pub(super) fn has_multiboot_addresses(file: &[u8]) -> bool {
    let mut places = (0..file.len().min(MULTIBOOT_REACH)).step_by(4);
    places.any(|at| {
        is_multiboot(file, at)
            && word(file, at + 4).is_some_and(|flags| flags & MULTIBOOT_ADDRESSES != 0)
    })
}

/// There is a Multiboot header of version 1 at `at`.
fn is_multiboot(file: &[u8], at: usize) -> bool {
    word(file, at) == Some(MULTIBOOT)
        && word(file, at + 4).is_some_and(|flags| flags & MULTIBOOT_UNDEFINED == 0)
        && sum(file, at, 3) == Some(0)
}

/// Of words at `at`.
fn sum(file: &[u8], at: usize, words: usize) -> Option<u32> {
    (0..words).try_fold(0u32, |sum, nth| {
        word(file, at + nth * 4).map(|word| sum.wrapping_add(word))
    })
}

/// True for a file with a Multiboot header of either version.
pub(super) fn has_multiboot_header(file: &[u8]) -> bool {
    let places = |reach: usize, step| (0..file.len().min(reach)).step_by(step);
    let first = |at| is_multiboot(file, at);
    let second = |at| {
        word(file, at) == Some(MULTIBOOT2)
            && word(file, at + 4).is_some_and(|of| MULTIBOOT2_ARCHITECTURES.contains(&of))
            && sum(file, at, 4) == Some(0)
    };
    places(MULTIBOOT_REACH, 4).any(first) || places(MULTIBOOT2_REACH, 8).any(second)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}
