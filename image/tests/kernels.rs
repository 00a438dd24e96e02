//! Kernel images are told from programs, and programs are never taken for kernels.

#![allow(clippy::unwrap_used)]

mod common;

use common::handmade::{FIXED, Header, R, W, X, elf, load, with_section};
use common::programs::programs;
use pool_core::description::Abi;
use pool_image::describe::{DescribeError, ObjectRole, describe};
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

/// The file that loaders by the Multiboot specification take, as Unikraft makes it of a 64-bit one.
fn behind_32_bits(file: &[u8]) -> Vec<u8> {
    let number = |at: usize, size: usize| {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&file[at..at + size]);
        u64::from_le_bytes(bytes)
    };
    let (table, count) = (number(32, 8) as usize, number(56, 2) as usize);
    let before = 64 + 32 * count as u64;
    let mut whole = b"\x7fELF\x01\x01\x01".to_vec();
    whole.resize(52, 0);
    let mut put = |at: usize, bytes: &[u8]| whole[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &[2, 0, 3, 0, 1, 0, 0, 0]);
    put(24, &file[24..28]);
    put(28, &64u32.to_le_bytes());
    put(32, &(before as u32 + file.len() as u32).to_le_bytes());
    put(40, &52u16.to_le_bytes());
    put(42, &32u16.to_le_bytes());
    put(44, &(count as u16).to_le_bytes());
    whole.extend(words(&multiboot(3)));
    for at in (table..).step_by(56).take(count) {
        let word = |from: usize, size: usize| number(at + from, size) as u32;
        let flags = word(4, 4);
        whole.extend(words(&[
            word(0, 4),
            word(8, 8) + before as u32,
            word(16, 8),
            word(24, 8),
            word(32, 8),
            word(40, 8),
            flags,
            word(48, 8),
        ]));
    }
    whole.extend_from_slice(file);
    whole
}

#[test]
fn a_kernel_behind_32_bit_headers_is_what_it_is_without_them() {
    let kernel = with_section(image(MIB, &[0; 4]), ".uk_bootinfo", &[1; 64]);
    let alone = describe(&kernel).unwrap();
    let file = behind_32_bits(&kernel);
    let described = describe(&file).unwrap();
    assert_eq!(described.description.abi, Abi::Multiboot);
    assert_eq!(described.description.entry, alone.description.entry);
    assert_eq!(described.file(), file);
    let memory = |of: &pool_image::describe::DescribedImage<'_>| -> Vec<(u64, Vec<u8>)> {
        let ranges = of.description.ranges.iter();
        let starts = ranges.map(|range| range.address.0).collect::<Vec<_>>();
        let objects = of.objects.iter().filter(|o| o.role != ObjectRole::File);
        let contents = objects.map(|object| object.content.bytes().into_owned());
        starts.into_iter().zip(contents).collect()
    };
    let (found, expected) = (memory(&described), memory(&alone));
    assert_eq!(found.len(), expected.len());
    for ((start, bytes), (place, kept)) in found.iter().zip(&expected) {
        assert_eq!(start, place);
        // Of a page that a segment ends in, a file has more than the segment where pages are the file's own.
        assert_eq!(bytes[..0x1000], kept[..0x1000]);
    }
}

#[test]
fn headers_of_32_bits_that_say_something_else_are_refused() {
    let kernel = image(MIB, &[0; 4]);
    let good = behind_32_bits(&kernel);
    assert!(describe(&good).is_ok());
    let before = good.len() - kernel.len();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = good.clone();
        change(&mut file);
        let DescribeError::Elf(error) = describe(&file).unwrap_err() else {
            panic!("refused as something else")
        };
        error
    };
    for at in [24, 64, 68, 72, 76, 80, 84, 88] {
        // The entry, and each word of the first program header but its alignment.
        let error = refused(&|file| file[at] ^= 4);
        assert_eq!(error, ElfError::OtherKernel32, "{at}");
    }
    assert_eq!(refused(&|file| file[before] = 0), ElfError::Kernel32);
    assert_eq!(refused(&|file| file[42] = 40), ElfError::Kernel32);
    assert_eq!(refused(&|file| file[44] = 0), ElfError::Kernel32);
    assert_eq!(refused(&|file| file[before + 4] = 1), ElfError::Kernel32);
    assert_eq!(refused(&|file| file[52] = 0), ElfError::Class32);
    // Byte order, both versions, and the machine; another type than the executable's.
    for (at, value) in [(5, 2), (6, 0), (20, 2), (18, 62)] {
        assert_eq!(
            refused(&|file| file[at] = value),
            ElfError::Kernel32,
            "{at}"
        );
    }
    assert_eq!(refused(&|file| file[16] = 3), ElfError::OtherKernel32);
    // A loader goes by the header's own addresses then.
    let addresses = words(&multiboot(0x1_0003));
    let error = refused(&|file| file[52..64].copy_from_slice(&addresses));
    assert_eq!(error, ElfError::KernelAddresses);
    // Places are those in the whole file.
    let length = before as u64 + 70;
    assert_eq!(
        refused(&|file| {
            file[32..36].fill(0);
            file.truncate(length as usize);
        }),
        ElfError::Truncated {
            what: "the program headers",
            end: before as u64 + 64 + 3 * 56,
            length
        }
    );
}

#[test]
fn section_headers_of_32_bits_lie_in_the_file() {
    let kernel = image(MIB, &[0; 4]);
    let mut file = behind_32_bits(&kernel);
    let end = file.len() as u64;
    file[46..50].copy_from_slice(&[40, 0, 2, 0]);
    file.resize(file.len() + 80, 0);
    assert!(describe(&file).is_ok());
    let mut other = file.clone();
    other[46] = 64;
    let error = describe(&other).unwrap_err();
    assert!(
        matches!(error, DescribeError::Elf(ElfError::OtherKernel32)),
        "{error:?}"
    );
    file.pop();
    let DescribeError::Elf(error) = describe(&file).unwrap_err() else {
        panic!("refused as something else")
    };
    assert_eq!(
        error,
        ElfError::Truncated {
            what: "the 32-bit section headers",
            end: end + 80,
            length: end + 79
        }
    );
}

#[test]
fn what_is_behind_32_bits_is_refused_when_it_is_cut_short() {
    let good = behind_32_bits(&image(MIB, &[0; 4]));
    let before = good.len() - image(MIB, &[0; 4]).len();
    for length in 0..before + 64 {
        let mut file = good.clone();
        file.truncate(length);
        assert!(describe(&file).is_err(), "{length} bytes");
    }
}

#[test]
fn real_programs_are_programs() {
    for program in &programs().all {
        assert_eq!(abi(&program.bytes), Abi::Linux, "{}", program.name);
    }
}
