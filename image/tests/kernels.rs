//! Kernel images are told from programs, and programs are never taken for kernels.

#![allow(clippy::unwrap_used)]

mod common;

use common::handmade::{FIXED, Header, R, W, X, elf, load, with_section};
use common::programs::programs;
use pool_core::description::Abi;
use pool_image::describe::{DescribeError, describe};
use pool_image::elf::ElfError;

const NOTE: u32 = 4;
const MIB: u64 = 1 << 20;

fn note(offset: u64, size: u64) -> Header {
    Header {
        kind: NOTE,
        flags: R,
        offset,
        address: MIB + offset,
        file_size: size,
        memory_size: size,
    }
}

/// A file as Unikraft links it, at `base`, with a note segment of `notes`.
fn image(base: u64, notes: &[u8]) -> Vec<u8> {
    let mut file = elf(
        FIXED,
        base + 0x1000,
        &[
            load(R | X, 0x1000, base + 0x1000, 0x2000, 0x2000),
            load(R | W, 0x3000, base + 0x4000, 0x1000, 0x3000),
            note(0x2000, notes.len() as u64),
        ],
        0x4000,
    );
    file[0x2000..0x2000 + notes.len()].copy_from_slice(notes);
    file
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A note as the gABI lays it out.
fn note_of(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = words(&[name.len() as u32, content.len() as u32, kind]);
    for part in [name, content] {
        note.extend_from_slice(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn with(mut file: Vec<u8>, at: usize, words_there: &[u32]) -> Vec<u8> {
    let bytes = words(words_there);
    file[at..at + bytes.len()].copy_from_slice(&bytes);
    file
}

fn abi(file: &[u8]) -> Abi {
    describe(file).unwrap().description.abi
}

fn multiboot(flags: u32) -> [u32; 3] {
    let magic = 0x1bad_b002u32;
    [magic, flags, 0u32.wrapping_sub(magic).wrapping_sub(flags)]
}

fn multiboot2(architecture: u32) -> [u32; 4] {
    let (magic, length) = (0xe852_50d6u32, 24);
    let sum = magic.wrapping_add(architecture).wrapping_add(length);
    [magic, architecture, length, 0u32.wrapping_sub(sum)]
}

#[test]
fn kernels_are_known_by_what_their_loaders_look_for() {
    let build_id = note_of(b"GNU\0", 3, &[7; 20]);
    let entry = note_of(b"Xen\0", 18, &0x10_0000u32.to_le_bytes());
    let long_entry = note_of(b"Xen\0", 18, &0x10_0000u64.to_le_bytes());
    let plain = || image(4 * MIB, &build_id);
    let low = || image(MIB, &build_id);
    let boot_information = |file| with_section(file, ".uk_bootinfo", &[1; 64]);
    let cases = [
        ("PVH", image(MIB, &entry), Abi::Pvh),
        ("PVH, 64 bits", image(MIB, &long_entry), Abi::Pvh),
        (
            "PVH behind a build id",
            image(MIB, &[&build_id[..], &entry].concat()),
            Abi::Pvh,
        ),
        (
            "Multiboot",
            with(low(), 0x1000, &multiboot(3)),
            Abi::Multiboot,
        ),
        (
            "Multiboot with addresses",
            with(low(), 8188 - 12, &multiboot(0x1_0003)),
            Abi::Multiboot,
        ),
        (
            "Multiboot 2",
            with(low(), 0x1008, &multiboot2(0)),
            Abi::Multiboot,
        ),
        (
            "Unikraft for Firecracker",
            boot_information(low()),
            Abi::Lxboot,
        ),
    ];
    for (what, file, expected) in cases {
        assert_eq!(abi(&file), expected, "{what}");
        let report = pool_image::inspect::inspect(&describe(&file).unwrap()).to_string();
        assert!(
            report.contains(&format!("abi {}", expected.name())),
            "{report}"
        );
    }
    let programs = [
        ("a build id", plain()),
        ("a low program", low()),
        ("Unikraft for Linux", boot_information(plain())),
        (
            "another Xen note",
            image(MIB, &note_of(b"Xen\0", 6, b"linux\0")),
        ),
        (
            "another's note 18",
            image(MIB, &note_of(b"GNU\0", 18, &[0; 4])),
        ),
        ("a note cut short", image(MIB, &entry[..14])),
        (
            "a note of any size",
            image(MIB, &words(&[u32::MAX, u32::MAX, 1, 0])),
        ),
        (
            "Multiboot's magic alone",
            with(low(), 0x1000, &[0x1bad_b002, 3, 5]),
        ),
        (
            "Multiboot with undefined flags",
            with(low(), 0x1000, &multiboot(0x80)),
        ),
        (
            "Multiboot at an odd place",
            with(low(), 0x1002, &multiboot(3)),
        ),
        ("Multiboot too late", with(low(), 8192, &multiboot(3))),
        (
            "Multiboot 2 at an odd place",
            with(low(), 0x1004, &multiboot2(0)),
        ),
        (
            "Multiboot 2 for nothing known",
            with(low(), 0x1008, &multiboot2(9)),
        ),
    ];
    for (what, file) in programs {
        assert_eq!(abi(&file), Abi::Linux, "{what}");
    }
}

#[test]
fn kernels_that_cannot_be_held_are_called_kernels() {
    let entry = note_of(b"Xen\0", 18, &0x10_0000u32.to_le_bytes());
    let linux = image(0xffff_ffff_8100_0000, &entry);
    let DescribeError::Elf(error) = describe(&linux).unwrap_err() else {
        panic!("refused as something else")
    };
    assert!(matches!(&error, ElfError::Kernel(Abi::Pvh, _)), "{error:?}");
    assert!(error.to_string().contains("kernel image (PVH)"), "{error}");

    let mut qemu = with(image(MIB, &[0; 4]), 0x1000, &multiboot(3));
    qemu[4] = 1;
    let DescribeError::Elf(error) = describe(&qemu).unwrap_err() else {
        panic!("refused as something else")
    };
    assert_eq!(error, ElfError::Kernel32);
    assert!(error.to_string().contains("-kernel"), "{error}");
}

#[test]
fn real_programs_are_programs() {
    for program in &programs().all {
        assert_eq!(abi(&program.bytes), Abi::Linux, "{}", program.name);
    }
}
