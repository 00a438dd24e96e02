//! Layouts that few linkers make, compared with Linux where Linux loads them.

// Parts of tests may unwrap as tests may.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::handmade::{FIXED, Header, INDEPENDENT, R, W, X, elf, load, registered};
use common::memory::{assert_same, described, executed, interpreted};
use pool_core::PageCount;
use pool_core::description::{Layout, RangeKind};
use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};
use pool_image::describe::{DescribedImage, ObjectRole, describe};
use pool_image::elf::INDEPENDENT_BASE;
use pool_image::extract::extract;
use pool_image::inspect::{WindowReport, inspect};
use pool_image::minify::{minify, restore};

fn restored(image: &DescribedImage<'_>) -> Vec<u8> {
    let pool: BTreeMap<_, _> = image
        .objects
        .iter()
        .filter(|object| object.role != ObjectRole::File)
        .map(|object| (object.id, object.content.bytes()))
        .collect();
    restore(&minify(image), |id| pool.get(id)).unwrap()
}

/// What Linux makes of the file.
fn as_linux_does(file: &[u8], lowest: u64) -> Option<common::memory::Memory> {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("program");
    fs::write(&path, file).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    executed(&path, lowest)
}

#[test]
fn odd_layouts_load_as_linux_loads_them() {
    let code = load(R | X, 0, 0x40_0000, 0x1800, 0x1800);
    let cases: [(&str, u16, Vec<Header>); 9] = [
        (
            "text and data share a page",
            FIXED,
            vec![code, load(R | W, 0x1800, 0x40_1800, 0x900, 0x3000)],
        ),
        (
            "data and read-only data share a page",
            FIXED,
            vec![
                code,
                load(R | W, 0x2000, 0x40_2000, 0x800, 0x800),
                load(R, 0x2800, 0x40_2800, 0x800, 0x800),
            ],
        ),
        (
            "the file ends within the last page",
            FIXED,
            vec![code, load(R, 0x3000, 0x40_3000, 0xf00, 0xf00)],
        ),
        (
            "read-only with more memory than bytes",
            FIXED,
            vec![code, load(R, 0x2000, 0x40_3000, 0x123, 0x2345)],
        ),
        (
            "writable, executable, cleared within a page",
            FIXED,
            vec![code, load(R | W | X, 0x2010, 0x40_3010, 0x123, 0x125)],
        ),
        (
            "zeros alone",
            FIXED,
            vec![code, load(R | W, 0, 0x40_3010, 0, 0x2345)],
        ),
        (
            "bytes end on a page",
            FIXED,
            vec![code, load(R | W, 0x2000, 0x40_3000, 0x1000, 0x1001)],
        ),
        (
            "an empty segment between others",
            FIXED,
            vec![code, load(R, 0, 0, 0, 0), load(R, 0x2000, 0x40_3000, 1, 1)],
        ),
        (
            "position independent",
            INDEPENDENT,
            vec![
                load(R | X, 0, 0, 0x1800, 0x1800),
                load(R | W, 0x1800, 0x2800, 0x900, 0x3000),
            ],
        ),
    ];
    for (what, kind, headers) in cases {
        let entry = headers[0].address + 0x400;
        let file = elf(kind, entry, &headers, 0x3f00);
        let image = describe(&file).unwrap_or_else(|error| panic!("{what}: {error}"));
        let memory = described(&image);
        assert_same(what, &memory, &interpreted(&file));
        let lowest = *memory.keys().next().unwrap();
        let linux = as_linux_does(&file, lowest);
        let linux = linux.unwrap_or_else(|| panic!("{what}: Linux does not execute it"));
        assert_same(what, &memory, &linux);
        assert!(restored(&image) == file, "{what}");
    }
}

#[test]
fn offsets_that_pages_cannot_follow_are_copied() {
    let file = elf(
        FIXED,
        0x40_0100,
        &[
            load(R | X, 0x321, 0x40_0100, 0x1234, 0x1234),
            load(R | W, 0x1555, 0x40_1334, 0x800, 0x2000),
            load(R, 0x2000, 0x40_3800, 0x10, 0x10),
        ],
        0x3000,
    );
    assert!(as_linux_does(&file, 0).is_none(), "Linux refuses it");
    let image = describe(&file).unwrap();
    let memory = described(&image);
    assert_same("copied", &memory, &interpreted(&file));
    let byte = |address: u64| memory[&(address & !0xfff)].1[(address & 0xfff) as usize];
    assert_eq!(byte(0x40_0100), file[0x321]);
    assert_eq!(byte(0x40_1333), file[0x321 + 0x1233]);
    assert_eq!(byte(0x40_1334), file[0x1555]);
    assert_eq!(byte(0x40_1b33), file[0x1555 + 0x7ff]);
    assert_eq!(byte(0x40_1b34), 0);
    assert_eq!(byte(0x40_3800), file[0x2000]);
    let kind = |address: u64| {
        let holds =
            |r: &&pool_core::description::Range| (r.address.0..r.end().0).contains(&address);
        image.description.ranges.iter().find(holds).unwrap().kind
    };
    assert_eq!(kind(0x40_0100), RangeKind::Shared);
    assert_eq!(
        kind(0x40_1000),
        RangeKind::Private,
        "text and data share it"
    );
    assert!(restored(&image) == file);
}

#[test]
fn zeros_that_begin_within_a_page_leave_what_lies_before() {
    let file = elf(
        FIXED,
        0x40_0000,
        &[
            load(R | X, 0, 0x40_0000, 0x1800, 0x1800),
            load(R | W, 0, 0x40_1900, 0, 0x2000),
        ],
        0x2000,
    );
    let image = describe(&file).unwrap();
    let memory = described(&image);
    let (access, page) = &memory[&0x40_1000];
    assert_eq!(access, "rwx");
    assert!(page[..0x900] == file[0x1000..0x1900]);
    assert!(page[0x900..].iter().all(|byte| *byte == 0));
    assert_eq!(memory[&0x40_2000].0, "rw-");
    assert!(restored(&image) == file);
}

#[test]
fn read_only_parts_of_one_window_make_one_object() {
    let parts = |second: u64, third: u64| {
        let file = elf(
            FIXED,
            0x40_0000,
            &[
                load(R | X, 0, 0x40_0000, 0x1000, 0x1000),
                load(R, 0x1000, second, 0x1000, 0x1000),
                load(R, 0x2000, third, 0x1000, 0x1000),
            ],
            0x3000,
        );
        let image = describe(&file).unwrap();
        let lengths: Vec<_> = image
            .objects
            .iter()
            .filter(|object| object.role == ObjectRole::Code)
            .map(|object| (object.phase, object.content.page_count().0))
            .collect();
        (lengths, inspect(&image).windows)
    };
    let windows = |touched, whole| WindowReport {
        touched,
        shared: touched,
        whole,
    };
    assert_eq!(parts(0x40_8000, 0x5f_f000), (vec![(0, 512)], windows(1, 1)));
    assert_eq!(
        parts(0x40_8000, 0x60_0000),
        (vec![(0, 9), (0, 1)], windows(2, 2)),
        "another window is another object"
    );
    assert_eq!(
        parts(0x5f_f000, 0x60_0000),
        (vec![(0, 513)], windows(2, 2)),
        "unless it goes on without a gap"
    );
}

#[test]
fn windows_with_anything_else_in_them_are_not_whole() {
    let file = elf(
        FIXED,
        0x40_0000,
        &[
            load(R | X, 0, 0x40_0000, 0x1000, 0x1000),
            load(R | W, 0x1000, 0x5f_f000, 0x1000, 1 << 40),
        ],
        0x2000,
    );
    let image = describe(&file).unwrap();
    let expected = WindowReport {
        touched: 1 + (1 << 40) / WINDOW_SIZE,
        shared: 1,
        whole: 0,
    };
    assert_eq!(inspect(&image).windows, expected);
}

#[test]
fn a_hostile_spread_of_segments_costs_little() {
    let headers: Vec<_> = (0..1100)
        .map(|at| 0x40_0000 + at / 2 * WINDOW_SIZE + at % 2 * 0x1f_f000)
        .map(|address| load(R | X, 0, address, 0x100, 0x100))
        .collect();
    let file = elf(FIXED, 0x40_0000, &headers, 1 << 18);
    let image = describe(&file).unwrap();
    assert_eq!(inspect(&image).windows.touched, 550);
    let filled: u64 = image.objects.iter().map(|o| o.content.len()).sum();
    assert!(filled < 36 * WINDOW_SIZE, "{filled}");
    assert_same("spread", &described(&image), &interpreted(&file));
}

#[test]
fn registered_libraries_are_objects_of_their_own() {
    let file = registered();
    let image = describe(&file).unwrap();
    let description = &image.description;
    assert_eq!(description.layout, Layout::Registered);
    assert_same("registered", &described(&image), &interpreted(&file));
    let used: Vec<_> = description
        .libraries
        .iter()
        .map(|used| (used.library.to_string(), used.address.0))
        .collect();
    let expected = [("lua@5.4", 0x1020_0000), ("musl@1.2.3", 0x1000_0000)];
    assert_eq!(used, expected.map(|(name, at)| (name.to_owned(), at)));
    let lua = image.object(&description.libraries[0].object).unwrap();
    assert!(
        *lua.content.bytes() == file[0x6000..0x8000],
        "text and rodata"
    );
    assert_eq!(lua.phase, 0);

    let report = inspect(&image);
    let counts = |at: usize| {
        let library = &report.libraries[at];
        [library.shared, library.private, library.bss].map(|count| count.0)
    };
    assert_eq!(counts(0), [2, 1, 0]);
    assert_eq!(counts(1), [2, 0, 2], "its private part is all bss");
    assert_eq!(report.windows.whole, 3, "both libraries and the text");
    assert!(report.to_string().contains("lua@5.4"));

    let minified = minify(&image);
    let libraries = 4 * PAGE_SIZE as usize;
    assert!(minified.len() < file.len() - libraries + 512);
    assert!(restored(&image) == file);

    let names: Vec<_> = extract(&image).into_iter().map(|file| file.name).collect();
    assert_eq!(names[..2], ["musl@1.2.3", "lua@5.4"]);
    assert!(names[2].starts_with("code-") && names[2].len() == 17);
    assert_eq!(names[3..], ["data"]);
}

#[test]
fn a_library_is_the_same_object_in_every_image() {
    let one = registered();
    let mut other = registered();
    other[0x1100..0x3000].fill(9);
    let objects = |file| {
        let image = describe(file).unwrap();
        let used: Vec<_> = image
            .description
            .libraries
            .iter()
            .map(|l| l.object)
            .collect();
        (used, image.description.image.digest)
    };
    let (first, second) = (objects(&one), objects(&other));
    assert_eq!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[test]
fn independent_programs_are_moved_as_one() {
    let file = elf(
        INDEPENDENT,
        0x1000,
        &[load(R | X, 0, 0, 0x2000, 0x2000)],
        0x2000,
    );
    let description = describe(&file).unwrap().description;
    assert_eq!(description.load_bias, INDEPENDENT_BASE);
    assert_eq!(description.entry.0, INDEPENDENT_BASE + 0x1000);
    assert_eq!(description.ranges[0].address.0, INDEPENDENT_BASE);
    let headers = description.program_headers.unwrap();
    assert_eq!(headers.address.0, INDEPENDENT_BASE + 64);
    assert_eq!(PageCount::covering(description.ranges[0].length).0, 2);
}
