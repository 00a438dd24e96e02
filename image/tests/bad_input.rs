//! Files that are refused, each with its own error; the rest of a family is in `arbitrary.rs`.

mod common;

use common::handmade::{FIXED, INDEPENDENT, R, REGISTERED_LAYOUT, W, X, elf, load};
use common::handmade::{registered, with_layout};
use common::programs::{programs, unwanted};
use pool_image::describe::{DescribeError, LayoutError, describe};
use pool_image::elf::ElfError;

/// Writes little-endian bytes over a file.
fn patch(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn refusal(file: &[u8]) -> DescribeError {
    match describe(file) {
        Err(error) => error,
        Ok(image) => panic!("accepted: {:?}", image.description),
    }
}

/// Three segments as any linker leaves them.
fn valid() -> Vec<u8> {
    elf(
        FIXED,
        0x40_1000,
        &[
            load(R, 0, 0x40_0000, 0x1000, 0x1000),
            load(R | X, 0x1000, 0x40_1000, 0x1000, 0x1000),
            load(R | W, 0x2000, 0x40_2000, 0x1000, 0x3000),
        ],
        0x4000,
    )
}

/// Offset of a field in program header `header` of a hand-made file.
fn field(header: usize, field: usize) -> usize {
    64 + 56 * header + field
}
const TYPE: usize = 0;
const OFFSET: usize = 8;
const ADDRESS: usize = 16;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;

/// What a message may tell a person to do.
const ADVICE: [&str; 5] = ["link", "build it for", "give ", "copy", "is damaged"];

#[test]
fn wrong_headers_are_refused_each_by_its_own_error() {
    type Case = (&'static str, fn(&mut Vec<u8>), fn(&ElfError) -> bool);
    assert!(describe(&valid()).is_ok());
    let cases: [Case; 27] = [
        ("no magic", |f| f[0] = 0, |e| *e == ElfError::NotElf),
        ("empty", Vec::clear, |e| *e == ElfError::NotElf),
        (
            "script",
            |f| *f = b"#!/bin/sh\n".to_vec(),
            |e| *e == ElfError::NotElf,
        ),
        (
            "cut in the ELF header",
            |f| f.truncate(40),
            |e| matches!(e, ElfError::Truncated { .. }),
        ),
        (
            "cut in the program headers",
            |f| f.truncate(100),
            |e| matches!(e, ElfError::Truncated { .. }),
        ),
        (
            "cut in a segment",
            |f| f.truncate(0x2fff),
            |e| matches!(e, ElfError::Truncated { end: 0x3000, .. }),
        ),
        (
            "section headers past the end",
            |f| {
                patch(f, 40, &0x5000u64.to_le_bytes());
                patch(f, 58, &64u16.to_le_bytes());
                patch(f, 60, &9u16.to_le_bytes());
            },
            |e| matches!(e, ElfError::Truncated { .. }),
        ),
        (
            "section header count past any file",
            |f| {
                patch(f, 40, &0x3000u64.to_le_bytes());
                patch(f, 58, &64u16.to_le_bytes());
            },
            |e| matches!(e, ElfError::Truncated { .. }),
        ),
        ("32-bit", |f| f[4] = 1, |e| *e == ElfError::Class32),
        ("big-endian", |f| f[5] = 2, |e| *e == ElfError::BigEndian),
        ("AArch64", |f| f[18] = 183, |e| *e == ElfError::Machine(183)),
        ("object", |f| f[16] = 1, |e| *e == ElfError::Relocatable),
        ("core dump", |f| f[16] = 4, |e| *e == ElfError::Core),
        ("no type", |f| f[16] = 9, |e| *e == ElfError::Type(9)),
        (
            "shared library",
            |f| {
                f[16] = 3;
                patch(f, 24, &[0; 8]);
            },
            |e| *e == ElfError::SharedLibrary,
        ),
        (
            "no program headers",
            |f| f[56] = 0,
            |e| *e == ElfError::NothingToLoad,
        ),
        (
            "no PT_LOAD",
            |f| (0..3).for_each(|h| f[field(h, TYPE)] = 4),
            |e| *e == ElfError::NothingToLoad,
        ),
        (
            "program headers of another size",
            |f| f[54] = 32,
            |e| *e == ElfError::HeaderSize(32),
        ),
        (
            "too many program headers",
            |f| patch(f, 56, &1171u16.to_le_bytes()),
            |e| *e == ElfError::TooManyHeaders(1171),
        ),
        (
            "file size above memory size",
            |f| patch(f, field(0, FILE_SIZE), &0x1001u64.to_le_bytes()),
            |e| *e == ElfError::FileSize(0, 0x1001, 0x1000),
        ),
        (
            "offset overflows",
            |f| patch(f, field(1, OFFSET), &(u64::MAX - 0xfff).to_le_bytes()),
            |e| matches!(e, ElfError::Truncated { .. }),
        ),
        (
            "address overflows",
            |f| patch(f, field(2, ADDRESS), &(u64::MAX - 0xfff).to_le_bytes()),
            |e| *e == ElfError::PastUserAddresses(2),
        ),
        (
            "memory size beyond user addresses",
            |f| patch(f, field(2, MEMORY_SIZE), &(1u64 << 47).to_le_bytes()),
            |e| *e == ElfError::PastUserAddresses(2),
        ),
        (
            "memory size overflows",
            |f| patch(f, field(2, MEMORY_SIZE), &u64::MAX.to_le_bytes()),
            |e| *e == ElfError::PastUserAddresses(2),
        ),
        (
            "below mmap_min_addr",
            |f| patch(f, field(0, ADDRESS), &0xf000u64.to_le_bytes()),
            |e| matches!(e, ElfError::TooLow(0, _)),
        ),
        (
            "unsorted",
            |f| {
                patch(f, field(0, ADDRESS), &0x40_2800u64.to_le_bytes());
                patch(f, field(0, FILE_SIZE), &0x100u64.to_le_bytes());
                patch(f, field(0, MEMORY_SIZE), &0x100u64.to_le_bytes());
                patch(f, field(2, ADDRESS), &0x40_2000u64.to_le_bytes());
                patch(f, field(2, FILE_SIZE), &0x800u64.to_le_bytes());
                patch(f, field(2, MEMORY_SIZE), &0x800u64.to_le_bytes());
            },
            |e| matches!(e, ElfError::Unsorted(2, _)),
        ),
        (
            "overlapping",
            |f| patch(f, field(1, MEMORY_SIZE), &0x1001u64.to_le_bytes()),
            |e| matches!(e, ElfError::Overlap(2, _)),
        ),
    ];
    for (what, spoil, expected) in cases {
        let mut file = valid();
        spoil(&mut file);
        match refusal(&file) {
            DescribeError::Elf(error) => {
                assert!(expected(&error), "{what}: {error:?}");
                let text = error.to_string();
                let advises = ADVICE.iter().any(|advice| text.contains(advice));
                assert!(advises, "{what} does not say what to do: {text}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn an_entry_that_cannot_be_executed_is_refused() {
    for entry in [0x40_0000u64, 0x40_2000, 0x50_0000, u64::MAX] {
        let mut file = valid();
        patch(&mut file, 24, &entry.to_le_bytes());
        let error = refusal(&file);
        assert!(matches!(error, DescribeError::Entry(at) if at.0 == entry));
    }
}

#[test]
fn segments_that_repeat_the_file_are_refused() {
    let headers: Vec<_> = (0..64)
        .map(|at| load(R | X, 0, 0x40_0000 + 0x1_0000 * at, 0x4000, 0x4000))
        .collect();
    let error = refusal(&elf(FIXED, 0x40_0000, &headers, 0x4000));
    assert!(matches!(
        error,
        DescribeError::Elf(ElfError::Repeats { .. })
    ));
}

#[test]
fn dynamic_and_unlinked_programs_are_refused() {
    let unwanted = unwanted();
    match refusal(&unwanted.dynamic) {
        DescribeError::Elf(ElfError::Interpreter(path)) => assert!(path.contains("ld-linux")),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        refusal(&unwanted.object),
        DescribeError::Elf(ElfError::Relocatable)
    ));
    assert!(matches!(
        refusal(&unwanted.debug),
        DescribeError::Elf(ElfError::DebugOnly)
    ));
    // DT_NEEDED without an interpreter: a dynamic section of one entry, then the end.
    let mut dynamic_section = load(R, 0x3000, 0x3000, 32, 32);
    dynamic_section.kind = 2;
    let mut file = elf(
        INDEPENDENT,
        0x1000,
        &[load(R | X, 0, 0, 0x4000, 0x4000), dynamic_section],
        0x4000,
    );
    patch(&mut file, 0x3000, &[0; 32]);
    assert!(describe(&file).is_ok());
    patch(&mut file, 0x3000, &[1]);
    assert!(matches!(
        refusal(&file),
        DescribeError::Elf(ElfError::NeedsLibraries)
    ));
}

#[test]
fn a_program_cut_short_anywhere_is_refused() {
    for program in programs().all.iter().filter(|p| p.bytes.len() < 1 << 21) {
        for cut in [
            1,
            64,
            4096,
            program.bytes.len() / 2,
            program.bytes.len() - 64,
        ] {
            let end = program.bytes.len() - cut;
            match refusal(&program.bytes[..end]) {
                DescribeError::Elf(ElfError::Truncated { length, .. }) => {
                    assert_eq!(length, end as u64);
                }
                other => panic!("{}, {cut} bytes short: {other}", program.name),
            }
        }
    }
}

#[test]
fn a_layout_that_lies_is_refused() {
    type Case = (
        &'static str,
        &'static str,
        &'static str,
        fn(&LayoutError) -> bool,
    );
    assert!(describe(&registered()).is_ok());
    let cases: [Case; 14] = [
        ("not JSON", "{", "[", |e| matches!(e, LayoutError::Json(_))),
        (
            "format",
            "\"format\":1,\"libraries\"",
            "\"format\":3,\"x\"",
            |e| matches!(e, LayoutError::Format(3)),
        ),
        (
            "of another kind",
            "\"format\":1",
            "\"format\":1,\"kind\":\"spacer\"",
            |e| matches!(e, LayoutError::Kind("spacer")),
        ),
        (
            "of no kind",
            "\"format\":1",
            "\"format\":1,\"kind\":\"odd\"",
            |e| matches!(e, LayoutError::Json(_)),
        ),
        ("name", "lua@5.4", "../lua@5.4", |e| {
            matches!(e, LayoutError::Json(_))
        }),
        ("twice", "musl@1.2.3", "lua@5.4", |e| {
            matches!(e, LayoutError::Twice(_))
        }),
        ("unaligned", "0x10200000", "0x10200010", |e| {
            matches!(e, LayoutError::Json(_))
        }),
        (
            "overflow",
            "\"pages\":2",
            "\"pages\":4503599627370496",
            |e| matches!(e, LayoutError::Json(_)),
        ),
        ("kernel half", "0x10200000", "0xffffffffff000000", |e| {
            matches!(e, LayoutError::Json(_))
        }),
        ("overlap", "0x10200000", "0x10001000", |e| {
            matches!(e, LayoutError::Overlap { .. })
        }),
        (
            "too long",
            "\"pages\":2}",
            "\"pages\":3}",
            |e| matches!(e, LayoutError::NotShared { address, .. } if address.0 == 0x1020_2000),
        ),
        (
            "nothing there",
            "0x10200000",
            "0x20000000",
            |e| matches!(e, LayoutError::NotShared { address, .. } if address.0 == 0x2000_0000),
        ),
        ("writable", "0x10200000", "0x602000", |e| {
            matches!(e, LayoutError::NotShared { .. })
        }),
        ("zeros", "0x10200000", "0x604000", |e| {
            matches!(e, LayoutError::NotShared { .. })
        }),
    ];
    for (what, from, to, expected) in cases {
        let json = REGISTERED_LAYOUT.replacen(from, to, 1);
        assert_ne!(json, REGISTERED_LAYOUT, "{what}");
        let plain = registered();
        let loaded = plain[..0x9000].to_vec();
        match refusal(&with_layout(loaded, &json)) {
            DescribeError::Layout(error) => assert!(expected(&error), "{what}: {error:?}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}
