use std::collections::BTreeMap;

use pool_core::address::Protection;
use pool_core::description::{
    Abi, DESCRIPTION_FORMAT, FileIdentity, Layout, LibraryUse, ProgramHeaders, Source,
};
use pool_core::image_map::IMAGE_MAP_FORMAT;
use pool_core::registry::AddressRange;
use pool_core::slide::Field;
use pool_core::{Extent, ExtentMap, PAGE_SIZE, PageCount, SegmentId, Slot};

use super::*;
use crate::plan::{Content, Plan, Sharing};

const TEXT: u64 = 0x40_0000;
const DATA: u64 = TEXT + 4 * PAGE_SIZE;
const LIBRARY: u64 = 0x1000_0000;
const PRIVATE: u64 = 0x6000_0000;

fn range(address: u64, pages: u64, kind: RangeKind, offset: u64) -> Range {
    let protection = match kind {
        RangeKind::Shared => Protection::READ_EXECUTE,
        _ => Protection::READ_WRITE,
    };
    Range {
        address: GuestAddress(address),
        length: pages * PAGE_SIZE,
        protection,
        kind,
        source: (kind != RangeKind::Zero).then(|| Source {
            object: ObjectId::of(b"all"),
            offset: offset * PAGE_SIZE,
        }),
        library: None,
    }
}

/// An application of four pages of text, two of data and one of zeros, and a library of 512 and two.
fn map() -> ImageMap {
    let ranges = vec![
        range(TEXT, 4, RangeKind::Shared, 0),
        range(DATA, 2, RangeKind::Private, 4),
        range(DATA + 2 * PAGE_SIZE, 1, RangeKind::Zero, 0),
        range(LIBRARY, 512, RangeKind::Shared, 512),
        range(PRIVATE, 2, RangeKind::Private, 6),
    ];
    let extent = |file_page, slot, count, dense| Extent {
        file_page,
        segment: SegmentId(u32::from(dense)),
        slot: Slot(slot),
        count,
        dense,
    };
    let extents = vec![extent(0, 0, 8, false), extent(512, 512, 512, true)];
    let all = ExtentMap::new(1024 * PAGE_SIZE, extents).unwrap();
    ImageMap {
        format: IMAGE_MAP_FORMAT,
        description: Description {
            format: DESCRIPTION_FORMAT,
            image: FileIdentity {
                digest: ObjectId::of(b"elf"),
                length: 1,
            },
            abi: Abi::Linux,
            layout: Layout::Registered,
            load_bias: 0,
            entry: GuestAddress(TEXT + 16),
            program_headers: Some(ProgramHeaders {
                address: GuestAddress(TEXT + 64),
                count: 3,
            }),
            executable_stack: false,
            slide: None,
            libraries: vec![],
            ranges,
        },
        objects: BTreeMap::from([(ObjectId::of(b"all"), all)]),
    }
}

fn run(start: u64, pages: u64) -> AddressRange {
    AddressRange {
        start: GuestAddress(start),
        pages: PageCount(pages),
    }
}

fn record_of(fields: &[(u64, FieldKind, usize)]) -> SlideRecord {
    let units = vec![
        [run(TEXT, 7), run(0, 0)],
        [run(LIBRARY, 512), run(PRIVATE, 2)],
    ];
    let field = |&(address, kind, target): &(u64, FieldKind, usize)| Field {
        address,
        kind,
        target,
    };
    SlideRecord::new(units, None, fields.iter().map(field).collect()).unwrap()
}

fn slid(fields: &[(u64, FieldKind, usize)], numbers: &[u64]) -> (ImageMap, Slides) {
    let mut map = map();
    let record = record_of(fields);
    record.check(&map.description).unwrap();
    let mut random = Random::from(numbers.to_vec());
    let slides = slide(&mut map, Some(record), Aslr::Image, &mut random).unwrap();
    (map, slides)
}

#[test]
fn an_image_moves_as_a_whole() {
    let fields = [
        (DATA + 8, FieldKind::Address, 1),
        (LIBRARY + 5 * PAGE_SIZE - 4, FieldKind::Address, 0),
        (PRIVATE, FieldKind::Distance, 0),
    ];
    for number in [0, 1 << 62, u64::MAX] {
        let (map, slides) = slid(&fields, &[number]);
        let description = &map.description;
        let by = description.entry.0 - (TEXT + 16);
        assert!(by.is_multiple_of(WINDOW_SIZE) && by > 0);
        assert_eq!(
            description.program_headers.unwrap().address.0,
            TEXT + 64 + by
        );
        let first = description.ranges.first().unwrap().address.0;
        let last = description.ranges.last().unwrap().end().0;
        assert_eq!((first, last), (TEXT + by, PRIVATE + 2 * PAGE_SIZE + by));
        assert!(first >= LOWEST && last + ROOMS <= HIGHEST, "{number:#x}");
        let writes: Vec<_> = slides
            .writes()
            .map(|write| (write.address, write.by))
            .collect();
        // A distance within what moves together stays.
        assert_eq!(
            writes,
            [(DATA + 8 + by, by), (LIBRARY + 5 * PAGE_SIZE - 4 + by, by)]
        );
        let pages = |start: u64, pages| (start + by, start + by + pages * PAGE_SIZE);
        assert_eq!(
            slides.pages(),
            [pages(DATA, 1), pages(LIBRARY + 4 * PAGE_SIZE, 2)]
        );
    }
}

#[test]
fn only_pages_that_are_written_are_private() {
    let (map, slides) = slid(&[(LIBRARY + PAGE_SIZE, FieldKind::Address, 1)], &[7]);
    let by = map.description.entry.0 - (TEXT + 16);
    let plan = Plan::slid(&map, 16 << 20, slides, &mut Random::from(vec![])).unwrap();
    let written: Vec<_> = plan
        .mappings
        .iter()
        .filter(|mapping| mapping.written)
        .collect();
    assert_eq!(written.len(), 1);
    let page = written[0];
    assert_eq!(
        (page.address.0, page.length),
        (LIBRARY + PAGE_SIZE + by, PAGE_SIZE)
    );
    assert_eq!(page.sharing, Sharing::Private);
    let source = Content::Segment {
        segment: SegmentId(1),
        offset: 513 * PAGE_SIZE,
    };
    assert_eq!(
        (page.content, page.protection),
        (source, Protection::READ_EXECUTE)
    );
    let shared = plan
        .mappings
        .iter()
        .filter(|mapping| mapping.sharing == Sharing::Shared);
    assert_eq!(
        shared.map(|mapping| mapping.length).sum::<u64>(),
        (4 + 511) * PAGE_SIZE
    );

    // Without such a page its window is mapped whole, wherever it is.
    let (map, slides) = slid(&[(DATA, FieldKind::Address, 1)], &[7]);
    let plan = Plan::slid(&map, 16 << 20, slides, &mut Random::from(vec![])).unwrap();
    assert!(plan.mappings.iter().any(|mapping| mapping.windows));
}

#[test]
fn rooms_are_where_nobody_guesses() {
    let mut seen = Vec::new();
    for number in [0, 1 << 63, u64::MAX] {
        let (map, slides) = slid(&[], &[1 << 40]);
        let end = map.description.ranges.last().unwrap().end().0;
        let mut random = Random::from(vec![number; 8]);
        let plan = Plan::slid(&map, 16 << 20, slides, &mut random).unwrap();
        let rooms = plan.rooms;
        assert!(rooms.heap.0 >= end && rooms.heap.0 + (32 << 20) < rooms.mmap_top.0);
        assert!(rooms.mmap_top < rooms.stack_low && rooms.stack_high < rooms.monitor);
        assert_eq!(
            rooms.monitor.window(),
            GuestAddress(rooms.stack_high.0 - 1).window()
        );
        assert!(plan.stack_gap.is_multiple_of(16) && plan.stack_gap < 8192);
        seen.push([
            rooms.heap.0,
            rooms.mmap_top.0,
            rooms.stack_high.0,
            plan.stack_gap,
        ]);
    }
    for room in 0..4 {
        assert!(
            seen[0][room] != seen[1][room] && seen[1][room] != seen[2][room],
            "{seen:x?}"
        );
    }
}

#[test]
fn what_cannot_slide_is_refused_by_name() {
    let mut image = map().description;
    let refused = |image: &Description, bytes: Vec<u8>| {
        record(image, |_| Ok::<_, ()>(bytes))
            .unwrap()
            .map(|record| record.is_some())
    };
    assert_eq!(refused(&image, vec![]), Err(CannotSlide::Unrecorded));
    let why = "main.o holds an address".to_owned();
    image.slide = Some(Slide::Fixed { why: why.clone() });
    assert_eq!(refused(&image, vec![]), Err(CannotSlide::Fixed { why }));
    image.slide = Some(Slide::Record {
        object: ObjectId::of(b"record"),
        length: 1,
    });
    assert_eq!(refused(&image, vec![0]), Err(SlideError::Form.into()));
    let good = record_of(&[(DATA, FieldKind::Address, 0)]).to_bytes();
    assert_eq!(refused(&image, good), Ok(true));
    let zeros = record_of(&[(DATA + 2 * PAGE_SIZE, FieldKind::Address, 0)]).to_bytes();
    let error = SlideError::NoBytes(DATA + 2 * PAGE_SIZE);
    assert_eq!(refused(&image, zeros), Err(error.into()));
    image.slide = Some(Slide::Record {
        object: ObjectId::of(b"record"),
        length: MAX_SLIDE_BYTES + 1,
    });
    assert!(matches!(
        refused(&image, vec![]),
        Err(CannotSlide::Record(SlideError::TooLong(_)))
    ));
    image.slide = None;
    image.load_bias = 0x10_0000_0000;
    assert_eq!(refused(&image, vec![]), Ok(false));
}

#[test]
fn an_image_as_large_as_the_address_space_has_no_room() {
    let mut map = map();
    let last = map.description.ranges.last_mut().unwrap();
    last.address = GuestAddress(USER_ADDRESS_END - last.length);
    let error = slide(&mut map, None, Aslr::Image, &mut Random::from(vec![]));
    assert_eq!(error, Err(CannotSlide::NoRoom));
}

#[test]
fn addresses_that_reach_into_zeros_are_written() {
    let across = DATA + PAGE_SIZE - 4;
    let (mut map, slides) = slid(&[(across, FieldKind::Address, 0)], &[7]);
    let all = map.objects.values_mut().next().unwrap();
    // Of the second page of data nothing is stored.
    let extents = all.extents().iter().map(|extent| match extent.file_page {
        0 => Extent {
            count: 5,
            ..*extent
        },
        _ => *extent,
    });
    *all = ExtentMap::new(1024 * PAGE_SIZE, extents.collect()).unwrap();
    let (start, end) = slides.pages()[0];
    assert_eq!(end - start, 2 * PAGE_SIZE);
    let plan = Plan::slid(&map, 16 << 20, slides, &mut Random::from(vec![])).unwrap();
    let written = plan.mappings.iter().filter(|mapping| mapping.written);
    let written: Vec<_> = written
        .map(|mapping| (mapping.address.0, mapping.content == Content::Zero))
        .collect();
    assert_eq!(written, [(start, false), (start + PAGE_SIZE, true)]);
}

#[test]
fn random_numbers_are_below_their_bound() {
    let mut random = Random::draw(64).unwrap();
    let drawn: Vec<u64> = (0..64).map(|_| random.below(1000)).collect();
    assert!(drawn.iter().all(|number| *number < 1000));
    assert!(drawn.iter().any(|number| *number != drawn[0]));
    assert_eq!(random.below(1000), 0, "none is left");
}

/// Memory of some pages, which have all been copied.
struct Bytes(BTreeMap<u64, u8>);

impl Memory for Bytes {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        for (at, byte) in (address..).zip(bytes) {
            *byte = self.0.get(&at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.extend((address..).zip(bytes.iter().copied()));
        Ok(())
    }
}

impl Bytes {
    fn word(&mut self, address: u64) -> u64 {
        let mut word = [0; 8];
        self.read(address, &mut word).unwrap();
        u64::from_le_bytes(word)
    }
}

fn apart(record: SlideRecord, numbers: &[u64]) -> Result<(ImageMap, Slides), CannotSlide> {
    let mut map = map();
    record.check(&map.description).unwrap();
    let mut random = Random::from(numbers.to_vec());
    let slides = slide(&mut map, Some(record), Aslr::Library, &mut random)?;
    Ok((map, slides))
}

#[test]
fn every_unit_moves_by_itself() {
    let across = DATA + PAGE_SIZE - 4;
    let fields = [
        (DATA, FieldKind::Address, 0),
        (across, FieldKind::Address, 1),
        (PRIVATE + 16, FieldKind::LongDistance, 0),
        (PRIVATE + 24, FieldKind::Distance, 0),
    ];
    let mut seen = Vec::new();
    for numbers in [
        [0, 0, 0],
        [u64::MAX, u64::MAX, u64::MAX],
        [1 << 63, 1 << 62, 3 << 61],
    ] {
        let (map, slides) = apart(record_of(&fields), &numbers).unwrap();
        let by: Vec<u64> = slides.moved().iter().map(|moved| moved.by.0).collect();
        assert_eq!(by, slides.by);
        assert!(by.iter().all(|by| by.is_multiple_of(WINDOW_SIZE)));
        assert_ne!(by[0], by[1]);
        let last = map.description.ranges.last().unwrap().end().0;
        let first = map.description.ranges.first().unwrap().address.0;
        // A distance of 32 bits reaches from anywhere to anywhere.
        assert!(
            first >= LOWEST && last - first < ARENA,
            "{first:#x} to {last:#x}"
        );
        let mut memory = Bytes(BTreeMap::new());
        memory.write(DATA + by[0], &TEXT.to_le_bytes()).unwrap();
        memory
            .write(across + by[0], &LIBRARY.to_le_bytes())
            .unwrap();
        // As linked: from the library's data to the text.
        let linked = TEXT.wrapping_sub(PRIVATE);
        let short = (linked as u32).to_le_bytes();
        memory
            .write(PRIVATE + 16 + by[1], &linked.to_le_bytes())
            .unwrap();
        memory.write(PRIVATE + 24 + by[1], &short).unwrap();
        slides.carry_out(&mut memory).unwrap();
        assert_eq!(memory.word(DATA + by[0]), TEXT + by[0]);
        assert_eq!(memory.word(across + by[0]), LIBRARY + by[1]);
        let distance = (TEXT + by[0]).wrapping_sub(PRIVATE + by[1]);
        assert_eq!(memory.word(PRIVATE + 16 + by[1]), distance);
        assert_eq!(memory.word(PRIVATE + 24 + by[1]) as u32, distance as u32);
        seen.push(by);
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2]);
}

#[test]
fn the_unwinders_table_is_put_in_order() {
    let units = vec![
        [run(TEXT, 7), run(0, 0)],
        [run(LIBRARY, 512), run(PRIVATE, 2)],
    ];
    let table = DATA + PAGE_SIZE - 20;
    let lines = table + 12;
    let distances = [lines + 8, lines + 12].map(|address| Field {
        address,
        kind: FieldKind::Distance,
        target: 1,
    });
    let described = slide::UnwindTable {
        address: table,
        entries: 2,
    };
    let record = SlideRecord::new(units, Some(described), distances.to_vec()).unwrap();
    let mut orders = BTreeMap::new();
    for place in 0..64u64 {
        let (_, slides) = apart(record.clone(), &[place << 58, 1 << 63, 5]).unwrap();
        let by = slides.by.clone();
        let at = lines + by[0];
        // Both pages are written, though one has a line of the application alone.
        assert_eq!(
            slides.pages(),
            [(DATA + by[0], DATA + by[0] + 2 * PAGE_SIZE)]
        );
        let mut memory = Bytes(BTreeMap::new());
        let line = |to: u64| (to.wrapping_sub(table) as u32).to_le_bytes();
        let before = [
            line(DATA + 40),
            line(DATA + 48),
            line(LIBRARY),
            line(LIBRARY + 16),
        ];
        memory.write(at, before.as_flattened()).unwrap();
        slides.carry_out(&mut memory).unwrap();
        let mut after = [0; 16];
        memory.read(at, &mut after).unwrap();
        let number = |at: usize| i64::from(i32::from_le_bytes(*after[at..].first_chunk().unwrap()));
        let found = [number(0), number(4), number(8), number(12)];
        assert!(found[0] < found[2], "{found:x?}");
        let application = [DATA + 40, DATA + 48].map(|to| to.wrapping_sub(table) as i64);
        let moved = by[1].wrapping_sub(by[0]) as i64;
        let library = [LIBRARY, LIBRARY + 16].map(|to| to.wrapping_sub(table) as i64 + moved);
        let is_first = found[..2] == application;
        let expected = if is_first {
            [application, library]
        } else {
            [library, application]
        };
        assert_eq!(found, *expected.as_flattened());
        *orders.entry(is_first).or_insert(0) += 1;
    }
    assert_eq!(orders.len(), 2, "{orders:?}");
}

#[test]
fn libraries_that_cannot_move_by_themselves_are_refused() {
    let calls = |pages: u64| -> Vec<_> {
        let places = (0..pages).map(|page| TEXT + page * PAGE_SIZE + 8);
        places.map(|at| (at, FieldKind::Distance, 1)).collect()
    };
    let error = apart(record_of(&calls(3)), &[]).unwrap_err();
    let first = DirectReference(GuestAddress(TEXT + 8));
    assert_eq!(error, CannotSlide::Direct(first));
    // As much as `.init` and `.fini` are.
    let (slid, slides) = apart(record_of(&calls(2)), &[9, 0, 0]).unwrap();
    let text = TEXT + slides.by[0];
    assert_eq!(slides.pages(), [(text, text + 2 * PAGE_SIZE)]);
    let mut ranges = slid.description.ranges.iter();
    let written = ranges.find(|range| range.address.0 == text).unwrap();
    assert_eq!(written.kind, RangeKind::Private);
    assert_eq!(written.protection, Protection::READ_EXECUTE);
    let mut map = map();
    // An image that asks where it ends has one unit, whatever libraries.
    map.description.libraries.push(LibraryUse {
        library: "l@1".parse().unwrap(),
        object: ObjectId::of(b"all"),
        address: GuestAddress(LIBRARY),
    });
    let units = vec![[
        run(TEXT, 7),
        run(LIBRARY, PRIVATE / PAGE_SIZE - LIBRARY / PAGE_SIZE + 2),
    ]];
    let record = SlideRecord::new(units, None, Vec::new()).unwrap();
    record.check(&map.description).unwrap();
    let mut random = Random::from(vec![9, 0, 0]);
    let refused = slide(&mut map, Some(record.clone()), Aslr::Library, &mut random);
    assert_eq!(refused.unwrap_err(), CannotSlide::OnePiece(OnePiece));
    let slides = slide(&mut map, Some(record), Aslr::Image, &mut random).unwrap();
    assert_eq!(slides.by.len(), 1);
    let whole = slide(&mut map, None, Aslr::Library, &mut Random::from(vec![]));
    assert_eq!(whole, Err(CannotSlide::Whole));
}

#[test]
fn distances_that_become_too_large_are_refused() {
    let (_, slides) = apart(record_of(&[(PRIVATE, FieldKind::Distance, 0)]), &[9, 0, 0]).unwrap();
    let at = PRIVATE + slides.by[1];
    let far = if slides.by[0] > slides.by[1] {
        i32::MAX
    } else {
        i32::MIN
    };
    let mut memory = Bytes(BTreeMap::new());
    memory.write(at, &far.to_le_bytes()).unwrap();
    assert!(matches!(
        slides.carry_out(&mut memory),
        Err(CannotWrite::Reach(_))
    ));
}
