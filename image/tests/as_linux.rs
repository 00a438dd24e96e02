//! Programs with odd headers that Linux executes: each is taken in and loaded as Linux loads it, or
//! refused for something that matters, by name.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::memory::{assert_same, described, executed};
use common::programs::programs;
use pool_image::describe::{DescribeError, describe};
use pool_image::elf::ElfError;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PT_GNU_STACK: u32 = 0x6474_e551;

fn put<const N: usize>(file: &mut [u8], at: usize, bytes: [u8; N]) {
    file[at..at + N].copy_from_slice(&bytes);
}

fn word(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().unwrap())
}

/// Where the program headers of this kind lie.
fn headers(file: &[u8], kind: u32) -> Vec<usize> {
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    let start = word(file, 32) as usize;
    (0..count)
        .map(|nth| start + nth * 56)
        .filter(|&at| file[at..at + 4] == kind.to_le_bytes())
        .collect()
}

fn swap(file: &mut [u8], first: usize, second: usize) {
    for at in 0..56 {
        file.swap(first + at, second + at);
    }
}

/// Makes the note's header one of `kind`.
fn replace_note(file: &mut [u8], kind: u32, flags: u32, words: [u64; 6]) {
    let at = headers(file, PT_NOTE)[0];
    put(file, at, kind.to_le_bytes());
    put(file, at + 4, flags.to_le_bytes());
    for (nth, word) in words.into_iter().enumerate() {
        put(file, at + 8 + nth * 8, word.to_le_bytes());
    }
}

/// End of the last byte that is loaded.
fn loaded_end(file: &[u8]) -> usize {
    let end = |at: usize| (word(file, at + 8) + word(file, at + 32)) as usize;
    headers(file, PT_LOAD).into_iter().map(end).max().unwrap()
}

type Change = fn(&mut Vec<u8>);
type Refusal = fn(&ElfError) -> bool;

/// What Linux does not look at, or reads as it is meant.
const TAKEN: [(&str, Change); 25] = [
    ("no class", |f| f[4] = 0),
    ("no byte order", |f| f[5] = 0),
    ("ident version", |f| f[6] = 9),
    ("OS ABI of FreeBSD", |f| f[7] = 9),
    ("OS ABI of nobody", |f| f[7] = 255),
    ("ABI version", |f| f[8] = 77),
    ("padding", |f| put(f, 9, [1; 7])),
    ("version", |f| put(f, 20, 7u32.to_le_bytes())),
    ("flags", |f| put(f, 48, u32::MAX.to_le_bytes())),
    ("header size", |f| put(f, 52, [0; 2])),
    ("no section headers", |f| put(f, 40, [0; 8])),
    ("section header size", |f| put(f, 58, [1, 0])),
    ("section names", |f| put(f, 62, [0xfe, 0xff])),
    ("note beyond the file", |f| {
        let at = headers(f, PT_NOTE)[0];
        put(f, at + 8, (1u64 << 40).to_le_bytes());
    }),
    ("note of any size", |f| {
        let at = headers(f, PT_NOTE)[0];
        put(f, at + 32, u64::MAX.to_le_bytes());
    }),
    ("odd alignment", |f| {
        let at = headers(f, PT_LOAD)[0];
        put(f, at + 48, 3u64.to_le_bytes());
    }),
    ("huge alignment of a later segment", |f| {
        let at = headers(f, PT_LOAD)[1];
        put(f, at + 48, (1u64 << 30).to_le_bytes());
    }),
    ("physical address", |f| {
        let at = headers(f, PT_LOAD)[0];
        put(f, at + 24, (1u64 << 63).to_le_bytes());
    }),
    ("unknown flags of a segment", |f| {
        let at = headers(f, PT_LOAD)[0];
        f[at + 6] = 0xff;
    }),
    ("unknown kind of header", |f| {
        replace_note(f, 0x6504_1580, 7, [u64::MAX; 6]);
    }),
    ("segments in another order", |f| {
        let loads = headers(f, PT_LOAD);
        swap(f, loads[1], loads[2]);
    }),
    ("the last segment before the others", |f| {
        let loads = headers(f, PT_LOAD);
        swap(f, loads[1], loads[loads.len() - 1]);
    }),
    ("dynamic section that is not there", |f| {
        replace_note(f, PT_DYNAMIC, 4, [1 << 40, 0, 0, 1 << 40, 16, 1]);
    }),
    ("an empty segment", |f| {
        replace_note(f, PT_LOAD, 4, [0x123, 0x123, 0, 0, 0, 4096]);
    }),
    ("bytes behind the end", |f| f.extend([0x78; 5000])),
];

/// What Linux executes and the pool refuses.
const REFUSED: [(&str, Change, Refusal); 5] = [
    (
        "said to be 32-bit",
        |f| f[4] = 1,
        |e| *e == ElfError::Class32,
    ),
    (
        "said to be big-endian",
        |f| f[5] = 2,
        |e| *e == ElfError::BigEndian,
    ),
    (
        "cut short in its section headers",
        |f| f.truncate(loaded_end(f)),
        |e| matches!(e, ElfError::Truncated { .. }),
    ),
    (
        "section headers far beyond the end",
        |f| put(f, 40, (1u64 << 40).to_le_bytes()),
        |e| matches!(e, ElfError::Truncated { .. }),
    ),
    (
        "two segments at one address",
        |f| {
            let first = headers(f, PT_LOAD)[0];
            let note = headers(f, PT_NOTE)[0];
            f.copy_within(first..first + 56, note);
        },
        |e| matches!(e, ElfError::Overlap(..)),
    ),
];

#[test]
fn what_linux_executes_is_taken_or_refused_for_something_that_matters() {
    let programs = programs();
    let directory = tempfile::tempdir().unwrap();
    for name in ["glibc", "glibc-static-pie"] {
        let program = programs.all.iter().find(|p| p.name == name).unwrap();
        let changed = |what: &str, change: Change| {
            let mut file = program.bytes.clone();
            change(&mut file);
            let path = directory.path().join(format!("{name} {what}"));
            fs::write(&path, &file).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            (file, path)
        };
        for (what, change) in TAKEN {
            let (file, path) = changed(what, change);
            let image = describe(&file).unwrap_or_else(|e| panic!("{name}, {what}: {e}"));
            let memory = described(&image);
            let lowest = *memory.keys().next().unwrap();
            let linux = executed(&path, lowest);
            let linux = linux.unwrap_or_else(|| panic!("{name}, {what}: Linux refuses it"));
            assert_same(&format!("{name}, {what}"), &memory, &linux);
        }
        for (what, change, expected) in REFUSED {
            let (file, path) = changed(what, change);
            assert!(
                executed(&path, 0).is_some(),
                "{name}, {what}: Linux refuses it"
            );
            match describe(&file) {
                Err(DescribeError::Elf(error)) => {
                    assert!(expected(&error), "{name}, {what}: {error:?}");
                }
                other => panic!("{name}, {what}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_last_stack_header_says_whether_the_stack_is_executable() {
    let programs = programs();
    let program = programs.all.iter().find(|p| p.name == "glibc").unwrap();
    let executable = |file: &[u8]| describe(file).unwrap().description.executable_stack;
    let mut file = program.bytes.clone();
    assert!(!executable(&file));
    let at = headers(&file, PT_GNU_STACK)[0];
    file[at + 4] = 7;
    assert!(executable(&file));
    put(&mut file, at, 0x99u32.to_le_bytes());
    assert!(!executable(&file), "without the header it holds data");
}
