use pool_core::description::{
    Abi, DESCRIPTION_FORMAT, FileIdentity, Layout, Range, RangeKind, Source,
};
use pool_core::image_map::IMAGE_MAP_FORMAT;
use pool_core::{Extent, ExtentMap, ObjectId, Slot};
use pool_core::{PAGE_SIZE, WINDOW_SIZE};

use super::*;

const R: Protection = Protection::READ;
const RX: Protection = Protection::READ_EXECUTE;
const RW: Protection = Protection::READ_WRITE;
const LIBRARY: u64 = 0x1000_0000;
const TEXT: u64 = 0x40_1000;

fn object(name: &str) -> ObjectId {
    ObjectId::of(name.as_bytes())
}

fn range(
    address: u64,
    pages: u64,
    protection: Protection,
    kind: RangeKind,
    source: Option<(&str, u64)>,
) -> Range {
    Range {
        address: GuestAddress(address),
        length: pages * PAGE_SIZE,
        protection,
        kind,
        source: source.map(|(name, page)| Source {
            object: object(name),
            offset: page * PAGE_SIZE,
        }),
        library: None,
    }
}

/// (file page, segment, slot, count, dense)
type Run = (u64, u32, u32, u32, bool);

fn placed(name: &str, pages: u64, runs: &[Run]) -> (ObjectId, ExtentMap) {
    let extents = runs
        .iter()
        .map(|&(file_page, segment, slot, count, dense)| Extent {
            file_page,
            segment: SegmentId(segment),
            slot: Slot(slot),
            count,
            dense,
        });
    let map = ExtentMap::new(pages * PAGE_SIZE, extents.collect()).unwrap();
    (object(name), map)
}

fn map(ranges: Vec<Range>, objects: Vec<(ObjectId, ExtentMap)>) -> ImageMap {
    let entry = ranges
        .iter()
        .find(|r| r.protection.execute)
        .unwrap()
        .address;
    let map = ImageMap {
        format: IMAGE_MAP_FORMAT,
        description: Description {
            format: DESCRIPTION_FORMAT,
            image: FileIdentity {
                digest: object("elf"),
                length: 1,
            },
            abi: Abi::Linux,
            layout: Layout::Own,
            load_bias: 0,
            entry,
            program_headers: None,
            executable_stack: false,
            slide: None,
            libraries: vec![],
            ranges,
        },
        objects: objects.into_iter().collect(),
    };
    map.description.validate().unwrap();
    map
}

fn plan(map: &ImageMap) -> Plan {
    Plan::new(map, 16 << 20).unwrap()
}

fn brief(plan: &Plan) -> Vec<(u64, u64, u64, Content, bool)> {
    let line = |m: &Mapping| {
        (
            m.address.0,
            m.physical,
            m.length / PAGE_SIZE,
            m.content,
            m.windows,
        )
    };
    plan.mappings.iter().map(line).collect()
}

fn segment(segment: u32, slot: u64) -> Content {
    Content::Segment {
        segment: SegmentId(segment),
        offset: slot * PAGE_SIZE,
    }
}

#[test]
fn a_dense_library_is_mapped_by_whole_windows() {
    // Text and rodata, one zero page between their stored pages, 600 pages over two windows.
    let map = map(
        vec![
            range(LIBRARY, 300, RX, RangeKind::Shared, Some(("z", 0))),
            range(
                LIBRARY + 300 * PAGE_SIZE,
                300,
                R,
                RangeKind::Shared,
                Some(("z", 300)),
            ),
        ],
        vec![placed(
            "z",
            600,
            &[(0, 7, 1024, 100, true), (101, 7, 1125, 499, true)],
        )],
    );
    let plan = plan(&map);
    assert_eq!(
        brief(&plan),
        [
            (LIBRARY, SHARED_BASE, 512, segment(7, 1024), true),
            (
                LIBRARY + WINDOW_SIZE,
                SHARED_BASE + WINDOW_SIZE,
                512,
                segment(7, 1536),
                true
            ),
        ]
    );
    assert_eq!(plan.mappings[0].protection, RX);
    assert_eq!(plan.mappings[1].protection, R);
    assert_eq!(plan.segments()[&SegmentId(7)], 2048 * PAGE_SIZE);
    let parts: Vec<_> = plan.image_parts(&plan.mappings[1]).collect();
    assert_eq!(parts, [(LIBRARY + WINDOW_SIZE, LIBRARY + 600 * PAGE_SIZE)]);
}

#[test]
fn windows_that_are_not_whole_are_mapped_by_pages() {
    type Case = (&'static str, Vec<Run>);
    let cases: [Case; 4] = [
        ("sparse", vec![(0, 7, 1024, 300, false)]),
        ("not congruent", vec![(0, 7, 1025, 300, true)]),
        (
            "two segments",
            vec![(0, 7, 1024, 100, true), (100, 8, 100, 200, true)],
        ),
        (
            "two windows",
            vec![(0, 7, 1024, 100, true), (100, 7, 612, 200, true)],
        ),
    ];
    for (what, runs) in cases {
        let ranges = vec![range(LIBRARY, 300, RX, RangeKind::Shared, Some(("z", 0)))];
        let map = map(ranges, vec![placed("z", 300, &runs)]);
        let plan = plan(&map);
        assert!(plan.mappings.iter().all(|m| !m.windows), "{what}");
        assert_eq!(plan.shared_length, 300 * PAGE_SIZE, "{what}");
    }
}

#[test]
fn private_pages_in_a_window_keep_it_from_being_whole() {
    let map = map(
        vec![
            range(LIBRARY, 300, RX, RangeKind::Shared, Some(("z", 0))),
            range(LIBRARY + 511 * PAGE_SIZE, 1, RW, RangeKind::Zero, None),
        ],
        vec![placed("z", 300, &[(0, 7, 1024, 300, true)])],
    );
    assert_eq!(
        brief(&plan(&map)),
        [
            (LIBRARY, SHARED_BASE, 300, segment(7, 1024), false),
            (LIBRARY + 511 * PAGE_SIZE, 0, 1, Content::Zero, false),
        ]
    );
}

#[test]
fn holes_are_zero_pages_and_runs_merge_across_ranges_of_one_kind() {
    let map = map(
        vec![
            range(TEXT, 4, RX, RangeKind::Shared, Some(("a", 2))),
            range(
                TEXT + 4 * PAGE_SIZE,
                2,
                RX,
                RangeKind::Shared,
                Some(("a", 6)),
            ),
            range(
                TEXT + 6 * PAGE_SIZE,
                2,
                RW,
                RangeKind::Private,
                Some(("d", 0)),
            ),
            range(TEXT + 8 * PAGE_SIZE, 3, RW, RangeKind::Zero, None),
        ],
        vec![
            placed("a", 9, &[(0, 1, 50, 4, false), (5, 1, 55, 4, false)]),
            placed("d", 2, &[(0, 2, 9, 2, false)]),
        ],
    );
    let plan = plan(&map);
    assert_eq!(
        brief(&plan),
        [
            (TEXT, SHARED_BASE, 2, segment(1, 52), false),
            (
                TEXT + 2 * PAGE_SIZE,
                SHARED_BASE + 2 * PAGE_SIZE,
                1,
                Content::Zero,
                false
            ),
            (
                TEXT + 3 * PAGE_SIZE,
                SHARED_BASE + 3 * PAGE_SIZE,
                3,
                segment(1, 55),
                false
            ),
            (TEXT + 6 * PAGE_SIZE, 0, 2, segment(2, 9), false),
            (TEXT + 8 * PAGE_SIZE, 0, 3, Content::Zero, false),
        ]
    );
    assert_eq!(plan.rooms.heap, GuestAddress(TEXT + 11 * PAGE_SIZE));
}

#[test]
fn windows_come_first_in_the_shared_slot() {
    let map = map(
        vec![
            range(TEXT, 3, RX, RangeKind::Shared, Some(("a", 0))),
            range(LIBRARY, 10, R, RangeKind::Shared, Some(("z", 0))),
        ],
        vec![
            placed("a", 3, &[(0, 1, 5, 3, false)]),
            placed("z", 10, &[(0, 7, 0, 10, true)]),
        ],
    );
    let plan = plan(&map);
    assert_eq!(plan.mappings[1].physical, SHARED_BASE);
    assert_eq!(plan.mappings[0].physical, SHARED_BASE + WINDOW_SIZE);
    assert_eq!(plan.shared_length, WINDOW_SIZE + 3 * PAGE_SIZE);
}

#[test]
fn images_that_need_more_memory_than_granted_are_refused() {
    let map = map(
        vec![
            range(TEXT, 1, RX, RangeKind::Shared, Some(("a", 0))),
            range(
                TEXT + PAGE_SIZE,
                1024,
                RW,
                RangeKind::Private,
                Some(("d", 0)),
            ),
            // Costs nothing until it is touched.
            range(TEXT + 1025 * PAGE_SIZE, 4096, RW, RangeKind::Zero, None),
        ],
        vec![
            placed("a", 1, &[(0, 1, 5, 1, false)]),
            placed("d", 1024, &[(0, 1, 100, 1024, false)]),
        ],
    );
    assert_eq!(
        Plan::new(&map, 4 << 20).unwrap_err(),
        PlanError::NeedsMemory {
            needed: 4352,
            granted: 4096
        }
    );
    assert!(Plan::new(&map, 5 << 20).is_ok());
}

/// Each would take gigabytes to be planned window by window.
#[test]
fn images_as_large_as_the_address_space_are_refused_at_once() {
    let pages = 1 << 34;
    let text = || range(TEXT, 1, RX, RangeKind::Shared, Some(("a", 0)));
    let at = 1 << 40;
    let map_of = |range, pages| {
        let objects = vec![
            placed("a", 1, &[(0, 1, 5, 1, false)]),
            placed("b", pages, &[]),
        ];
        map(vec![text(), range], objects)
    };
    let zeros = map_of(range(at, pages, RW, RangeKind::Zero, None), 1);
    let holes = map_of(
        range(at, pages, R, RangeKind::Shared, Some(("b", 0))),
        pages,
    );
    let before = peak_kib();
    assert!(matches!(
        Plan::new(&zeros, 1 << 30),
        Err(PlanError::NeedsMemory { .. })
    ));
    let most = (pages + 1) * PAGE_SIZE;
    assert_eq!(
        Plan::new(&holes, 1 << 30).unwrap_err(),
        PlanError::TooLarge(most)
    );
    let grown = peak_kib() - before;
    assert!(grown < 100 << 10, "{grown} KiB");
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let word = line.unwrap().split_whitespace().nth(1).unwrap();
    word.parse().unwrap()
}

#[test]
fn rooms_never_meet_the_image() {
    for last in [
        TEXT,
        0x3fff_0000,
        0x3c00_0000,
        0x6fff_f000,
        0x7fff_f000_0000 - (20 << 30),
    ] {
        let map = map(
            vec![range(last, 1, RX, RangeKind::Shared, Some(("a", 0)))],
            vec![placed("a", 1, &[(0, 1, 5, 1, false)])],
        );
        let rooms = plan(&map).rooms;
        assert!(
            rooms.heap.0 > last && rooms.mmap_top.0 >= rooms.heap.0 + (32 << 20),
            "{last:#x}"
        );
        assert!(
            rooms.mmap_top < rooms.stack_low && rooms.stack_high < rooms.monitor,
            "{last:#x}"
        );
        let window = rooms.monitor.window();
        assert_ne!(window, GuestAddress(last).window());
        assert_eq!(window, GuestAddress(rooms.stack_high.0 - 1).window());
    }
    let top = pool_core::address::USER_ADDRESS_END - PAGE_SIZE;
    let map = map(
        vec![range(top, 1, RX, RangeKind::Shared, Some(("a", 0)))],
        vec![placed("a", 1, &[(0, 1, 5, 1, false)])],
    );
    assert_eq!(Plan::new(&map, 1 << 20).unwrap_err(), PlanError::NoRoom);
}
