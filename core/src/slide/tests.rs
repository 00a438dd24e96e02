use proptest::prelude::*;

use super::*;
use crate::address::Protection;
use crate::description::{Abi, DESCRIPTION_FORMAT, FileIdentity, Layout, Range, Source};
use crate::digest::ObjectId;

/// What it is, the change that makes it so, and what is said of it.
type Case = (&'static str, fn(&mut Vec<u8>), SlideError);

const APPLICATION: u64 = 0x40_0000;
const SHARED: u64 = 0x1000_0000;
const PRIVATE: u64 = 0x6000_0000;
const PAGES: u64 = 16;
const LENGTH: u64 = PAGES * PAGE_SIZE;

fn run(start: u64, pages: u64) -> AddressRange {
    AddressRange {
        start: GuestAddress(start),
        pages: PageCount(pages),
    }
}

fn units() -> Vec<[AddressRange; 2]> {
    vec![
        [run(APPLICATION, PAGES), AddressRange::default()],
        [run(SHARED, PAGES), run(PRIVATE, PAGES)],
    ]
}

fn field(address: u64, kind: FieldKind, target: usize) -> Field {
    Field {
        address,
        kind,
        target,
    }
}

fn record(fields: &[Field]) -> Result<SlideRecord, SlideError> {
    SlideRecord::new(units(), None, fields.to_vec())
}

/// Each field of a record by itself.
fn single(record: &SlideRecord) -> Vec<Field> {
    let of_run = |fields: Fields| {
        (0..fields.count).map(move |nth| Field {
            address: fields.address + nth * fields.kind.width(),
            kind: fields.kind,
            target: fields.target,
        })
    };
    record.fields().flat_map(of_run).collect()
}

#[test]
fn tables_of_addresses_take_a_few_bytes() {
    let table = (0..1000).map(|nth| field(PRIVATE + 8 * nth, FieldKind::Address, 1));
    let record = record(&table.collect::<Vec<_>>()).unwrap();
    assert!(record.fields.len() < 12, "{}", record.fields.len());
    let fields: Vec<_> = record.fields().collect();
    assert_eq!(fields.iter().map(|fields| fields.count).sum::<u64>(), 1000);
    assert_eq!(fields[0].unit, 1);
    assert_eq!(
        pages_of(fields.into_iter()),
        [(PRIVATE, PRIVATE + 2 * PAGE_SIZE)]
    );
}

#[test]
fn wrong_fields_are_refused() {
    use FieldKind::{Address, Distance};
    let at = APPLICATION + 100;
    for (fields, error) in [
        (
            vec![field(at, Address, 0), field(at + 4, Address, 0)],
            SlideError::Overlap(at + 4),
        ),
        (vec![field(at, Distance, 2)], SlideError::Target(at, 2)),
        (vec![field(0x10, Address, 0)], SlideError::Outside(0x10)),
        (
            vec![field(APPLICATION + LENGTH - 4, Address, 0)],
            SlideError::Outside(APPLICATION + LENGTH - 4),
        ),
        (
            vec![field(u64::MAX, Address, 0)],
            SlideError::Outside(u64::MAX),
        ),
    ] {
        assert_eq!(record(&fields), Err(error));
    }
}

#[test]
fn wrong_units_are_refused() {
    let wrong = [
        [run(APPLICATION + 1, 1), run(0, 0)],
        [run(APPLICATION, 2), run(APPLICATION + PAGE_SIZE, 1)],
        [run(SHARED, 1), run(0, 0)],
        [run(USER_ADDRESS_END, 1), run(0, 0)],
        [run(APPLICATION, u64::MAX), run(0, 0)],
    ];
    for unit in wrong {
        let mut all = units();
        all[0] = unit;
        assert!(matches!(
            SlideRecord::new(all, None, Vec::new()),
            Err(SlideError::Unit(_))
        ));
    }
    let table = UnwindTable {
        address: APPLICATION + LENGTH - 16,
        entries: 1,
    };
    let error = SlideRecord::new(units(), Some(table), Vec::new());
    assert_eq!(error, Err(SlideError::Table(table.address)));
}

#[test]
fn wrong_records_are_refused() {
    let good = record(&[field(APPLICATION, FieldKind::Address, 1)])
        .unwrap()
        .to_bytes();
    let cases: [Case; 8] = [
        ("cut short", |b| b.truncate(20), SlideError::Form),
        ("without units", |b| b.truncate(40), SlideError::Form),
        ("magic", |b| b[0] = 0, SlideError::Form),
        ("version", |b| b[8] = 2, SlideError::Version(2)),
        ("no units", |b| b[12] = 0, SlideError::Form),
        ("part of a page", |b| b[40] = 1, SlideError::Unit(0)),
        ("meaning", |b| b.push(7), SlideError::Number(5)),
        (
            "endless number",
            |b| b.extend([0xff; 12]),
            SlideError::Number(5),
        ),
    ];
    assert_eq!(SlideRecord::parse(&good).unwrap().to_bytes(), good);
    for (what, spoil, error) in cases {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert_eq!(SlideRecord::parse(&bad), Err(error), "{what}");
    }
    // So many fields behind one another that their end cannot be counted.
    let mut bad = good;
    bad.extend([0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    assert!(SlideRecord::parse(&bad).is_err());
}

fn description(kinds: &[(u64, RangeKind)]) -> Description {
    let range = |(address, kind): &(u64, RangeKind)| Range {
        address: GuestAddress(*address),
        length: 2 * PAGE_SIZE,
        protection: Protection::READ_EXECUTE,
        kind: *kind,
        source: Some(Source {
            object: ObjectId::of(b"text"),
            offset: 0,
        }),
        library: None,
    };
    Description {
        format: DESCRIPTION_FORMAT,
        image: FileIdentity {
            digest: ObjectId::of(b"elf"),
            length: 1,
        },
        abi: Abi::Linux,
        layout: Layout::Registered,
        load_bias: 0,
        entry: GuestAddress(APPLICATION),
        program_headers: None,
        executable_stack: false,
        slide: None,
        libraries: vec![],
        ranges: kinds.iter().map(range).collect(),
    }
}

#[test]
fn records_are_about_their_image() {
    let kinds = [
        (APPLICATION, RangeKind::Shared),
        (APPLICATION + 2 * PAGE_SIZE, RangeKind::Private),
        (APPLICATION + 4 * PAGE_SIZE, RangeKind::Zero),
    ];
    let image = description(&kinds);
    let across = APPLICATION + 2 * PAGE_SIZE - 4;
    let check = |address, image: &Description| {
        let record = record(&[field(address, FieldKind::Address, 0)]).unwrap();
        record.check(image)
    };
    assert_eq!(check(across, &image), Ok(()));
    let zeros = APPLICATION + 4 * PAGE_SIZE;
    assert_eq!(check(zeros, &image), Err(SlideError::NoBytes(zeros)));
    assert_eq!(check(zeros - 4, &image), Err(SlideError::NoBytes(zeros)));
    let hole = APPLICATION + 8 * PAGE_SIZE;
    assert_eq!(check(hole, &image), Err(SlideError::NoBytes(hole)));
    let table = |address, entries, image: &Description| {
        let table = Some(UnwindTable { address, entries });
        let record = SlideRecord::new(units(), table, vec![]).unwrap();
        record.check(image)
    };
    assert_eq!(table(APPLICATION, 2046, &image), Ok(()));
    // Its last pair reaches into zeros.
    let entries = ((4 * PAGE_SIZE - 12) / 8 + 1) as u32;
    assert_eq!(
        table(APPLICATION, entries, &image),
        Err(SlideError::NoBytes(zeros))
    );
    assert_eq!(table(hole, 1, &image), Err(SlideError::NoBytes(hole)));
    let beside = description(&[(APPLICATION + LENGTH, RangeKind::Shared)]);
    assert!(matches!(check(across, &beside), Err(SlideError::Range(_))));
}

fn any_field() -> impl Strategy<Value = Field> {
    let starts = prop::sample::select(vec![APPLICATION, SHARED, PRIVATE]);
    let kinds = prop::sample::select(FieldKind::ALL.to_vec());
    (starts, 0..LENGTH - 8, kinds, 0..2usize).prop_map(|(start, at, kind, target)| Field {
        address: start + at,
        kind,
        target,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(fields in prop::collection::vec(any_field(), 0..200)) {
        let mut fields = fields;
        fields.sort_unstable();
        let mut end = 0;
        fields.retain(|field| {
            let fits = field.address >= end;
            if fits {
                end = field.address + field.kind.width();
            }
            fits
        });
        let written = record(&fields).unwrap();
        let read = SlideRecord::parse(&written.to_bytes()).unwrap();
        prop_assert_eq!(&read, &written);
        prop_assert_eq!(single(&read), fields);
    }

    #[test]
    fn any_bytes_have_an_answer(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        at in 0usize..200,
    ) {
        let _ = SlideRecord::parse(&bytes);
        let fields = (0..8).map(|nth| field(PRIVATE + 24 * nth, FieldKind::Address, nth as usize % 2));
        let mut record = record(&fields.collect::<Vec<_>>()).unwrap().to_bytes();
        let at = at.min(record.len());
        let end = record.len().min(at + bytes.len());
        record.splice(at..end, bytes);
        if let Ok(record) = SlideRecord::parse(&record) {
            prop_assert!(record.fields().all(|fields| fields.count > 0 && fields.target < record.units().len()));
        }
    }
}
