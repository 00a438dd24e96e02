use std::collections::BTreeSet;

use pool_core::page::PAGE_SIZE;
use proptest::prelude::*;

use super::super::Class;
use super::*;

const CONSTANTS: u64 = 0x4000;

fn code(name: u32, identity: u32, size: u64) -> Thing {
    Thing {
        space: Space::Shared,
        class: Class::Code,
        name,
        identity,
        size,
        alignment: 16,
        offset: 0,
        is_called: true,
        yields: false,
    }
}

/// What would be on record of things in these places.
fn record(things: &[Thing], arranged: &Arranged, more_at: u64) -> Record {
    let placed = things.iter().zip(&arranged.offsets).zip(&arranged.jumps);
    let placed = placed.filter(|((thing, _), _)| thing.size > 0);
    Record {
        constants_at: CONSTANTS,
        more_at,
        bound: PAGE_SIZE,
        lines: placed
            .map(|((thing, offset), jump)| Line {
                space: thing.space,
                name: thing.name,
                identity: thing.identity,
                offset: *offset,
                size: thing.size,
                jump: *jump,
            })
            .collect(),
    }
}

/// Functions one after the other, as a first version has them.
fn first(things: &[Thing]) -> Record {
    let mut end = 0u64;
    let offsets = things.iter().map(|thing| {
        let offset = end.next_multiple_of(thing.alignment);
        end = offset + thing.size;
        offset
    });
    let arranged = Arranged {
        offsets: offsets.collect(),
        jumps: vec![None; things.len()],
    };
    record(things, &arranged, CONSTANTS)
}

#[test]
fn what_grows_goes_and_leaves_a_jump_and_all_others_stay() {
    let old = [code(1, 1, 100), code(2, 2, 100), code(3, 3, 100)];
    let record = first(&old);
    let new = [code(1, 1, 100), code(2, 9, 300), code(3, 3, 100)];
    let arranged = arrange(&new, &record, 200).unwrap();
    assert_eq!(arranged.offsets[0], 0);
    assert_eq!(arranged.offsets[2], 224);
    assert_eq!(arranged.jumps, [None, Some(112), None]);
    // That is 200 bytes that stay, and no more.
    assert_eq!(arrange(&new, &record, 201), None);
    // It fits on a page that differs anyway, behind the others.
    assert!(arranged.offsets[1] >= 324);
    // A change that fits stays, though it takes up what was between.
    let new = [code(1, 1, 100), code(2, 9, 112), code(3, 3, 100)];
    assert_eq!(arrange(&new, &record, 0).unwrap().offsets, [0, 112, 224]);
    assert_eq!(arrange(&new, &record, 0).unwrap().jumps, [None; 3]);
}

#[test]
fn what_yields_makes_room_for_what_grew() {
    let frames = |identity, size| Thing {
        class: Class::Stored,
        ..code(1, identity, size)
    };
    let own = |size| Thing {
        class: Class::Stored,
        yields: true,
        is_called: false,
        ..code(2, 2, size)
    };
    let mut before = first(&[frames(1, 1000), own(48)]);
    before.constants_at = 0;
    let after = [frames(9, 1030), own(48)];
    assert_eq!(arrange(&after, &before, 0).unwrap().offsets[0], 0);
    let same = [frames(9, 1000), own(48)];
    assert_eq!(arrange(&same, &before, 0).unwrap().offsets, [0, 1008]);
}

#[test]
fn the_jump_outlives_the_next_version() {
    let record_1 = first(&[code(1, 1, 100), code(2, 2, 100)]);
    let second = [code(1, 8, 300), code(2, 2, 100)];
    let arranged_2 = arrange(&second, &record_1, 0).unwrap();
    assert_eq!(arranged_2.jumps[0], Some(0));
    let third = [code(1, 9, 400), code(2, 2, 100)];
    let record_2 = record(&second, &arranged_2, CONSTANTS);
    let arranged_3 = arrange(&third, &record_2, 0).unwrap();
    assert_eq!(arranged_3.jumps[0], Some(0));
    assert_eq!(arranged_3.offsets[1], arranged_2.offsets[1]);
}

#[test]
fn what_is_called_otherwise_is_known_by_what_it_is() {
    let record = first(&[code(1, 11, 100), code(2, 12, 100)]);
    let arranged = arrange(&[code(5, 12, 100), code(6, 11, 100)], &record, 0).unwrap();
    assert_eq!(arranged.offsets, [112, 0]);
}

#[test]
fn new_things_keep_off_pages_that_stay() {
    let page = PAGE_SIZE - 64;
    let old = [code(1, 1, page), code(2, 2, page), code(3, 3, page)];
    let mut at = 0;
    let mut record = first(&old);
    for line in &mut record.lines {
        line.offset = at;
        at += PAGE_SIZE;
    }
    // The second page differs, so that there is room on it; none of the others is touched.
    let new = [
        code(1, 1, page),
        code(2, 7, page),
        code(3, 3, page),
        code(4, 4, 32),
    ];
    let arranged = arrange(&new, &record, 0).unwrap();
    assert_eq!(arranged.offsets[3] / PAGE_SIZE, 1);
    let new = [
        code(1, 1, page),
        code(2, 2, page),
        code(3, 3, page),
        code(4, 4, 32),
    ];
    let arranged = arrange(&new, &record, 0).unwrap();
    assert!(arranged.offsets[3] >= record.more_at);
}

fn thing() -> impl Strategy<Value = Thing> {
    (0usize..4, 0usize..4, 0u32..12, 0u32..3, 0u64..3000, 0u32..7).prop_map(
        |(space, class, name, identity, size, alignment)| {
            let space = Space::ALL[space];
            let class = match (space, class) {
                (Space::Shared, 0) => Class::Code,
                (Space::Shared, 1) => Class::Held,
                (Space::Data | Space::Thread, 0) => Class::Zero,
                _ => Class::Stored,
            };
            Thing {
                space,
                class,
                name,
                identity,
                size,
                alignment: 1 << alignment,
                offset: 0,
                is_called: class == Class::Code && name % 4 != 0,
                yields: class == Class::Stored && name % 4 == 1,
            }
        },
    )
}

fn any_record() -> impl Strategy<Value = Record> {
    let line = (0usize..4, 0u32..12, 0u32..3, 0u64..0x9000, 0u64..3000);
    let line = (line, prop::option::of(0u64..0x9000));
    let borders = (0u64..0x8000, 0u64..0x4000);
    (borders, prop::collection::vec(line, 0..40)).prop_map(|((constants_at, more), lines)| Record {
        constants_at,
        more_at: constants_at + more,
        bound: PAGE_SIZE,
        lines: lines
            .into_iter()
            .map(|((space, name, identity, offset, size), jump)| Line {
                space: Space::ALL[space],
                name,
                identity,
                offset,
                size,
                jump: jump.filter(|_| space == 0),
            })
            .collect(),
    })
}

proptest! {
    /// Whatever a record says, nothing overlaps, all is aligned and on its side of the borders, no page has code beside constants
    /// that hold addresses, and whoever follows the record of the outcome has the same.
    #[test]
    fn no_record_makes_things_overlap(
        things in prop::collection::vec(thing(), 0..60),
        before in any_record(),
    ) {
        let arranged = arrange(&things, &before, 0).unwrap();
        let mut ranges = Vec::new();
        let mut pages: [BTreeSet<u64>; 2] = Default::default();
        let mut note = |class: Class, from: u64, size: u64| match class {
            Class::Code => pages[0].extend(from / PAGE_SIZE..=(from + size - 1) / PAGE_SIZE),
            Class::Held => pages[1].extend(from / PAGE_SIZE..=(from + size - 1) / PAGE_SIZE),
            _ => {}
        };
        for ((thing, offset), jump) in things.iter().zip(&arranged.offsets).zip(&arranged.jumps) {
            prop_assert!(offset.is_multiple_of(thing.alignment));
            if let Some(jump) = jump {
                prop_assert!(thing.is_called);
                ranges.push((Space::Shared, *jump, jump + JUMP_SIZE));
                note(Class::Code, *jump, JUMP_SIZE);
            }
            if thing.space == Space::Shared && thing.class != Class::Code {
                prop_assert!(*offset >= before.constants_at);
            }
            if thing.size == 0 {
                continue;
            }
            let end = offset + thing.size;
            ranges.push((thing.space, *offset, end));
            if thing.space == Space::Shared {
                note(thing.class, *offset, thing.size);
                let is_in_code = end <= before.constants_at || *offset >= before.more_at;
                prop_assert!(thing.class != Class::Code || is_in_code);
            }
        }
        prop_assert!(pages[0].is_disjoint(&pages[1]));
        ranges.sort_unstable();
        for two in ranges.windows(2) {
            prop_assert!(two[0].0 != two[1].0 || two[0].2 <= two[1].1, "{:?}", two);
        }
        let mut own = record(&things, &arranged, before.more_at);
        own.constants_at = before.constants_at;
        prop_assert_eq!(follow(&things, &own), Some(arranged.clone()));
        // Whatever the members are called that they come from.
        let renamed: Vec<Thing> = things.iter().rev().zip(&things).map(|(named, thing)| Thing {
            name: named.name,
            identity: named.identity,
            ..*thing
        }).collect();
        prop_assert_eq!(follow(&renamed, &own), Some(arranged));
    }
}

#[test]
fn a_record_of_its_own_is_followed_to_the_letter_or_not_at_all() {
    let things = [code(1, 1, 100), code(2, 2, 300), code(3, 3, 100)];
    let before = first(&[code(1, 1, 100), code(2, 5, 100), code(3, 3, 100)]);
    let arranged = arrange(&things, &before, 0).unwrap();
    let own = record(&things, &arranged, CONSTANTS);
    assert_eq!(own.lines[1].jump, Some(112));
    assert_eq!(follow(&things, &own).as_ref(), Some(&arranged));
    let refuses = |change: &dyn Fn(&mut Vec<Line>)| {
        let mut other = own.clone();
        change(&mut other.lines);
        assert_eq!(follow(&things, &other), None);
    };
    refuses(&|lines| lines.truncate(2));
    refuses(&|lines| {
        lines.push(Line {
            offset: 0x8000,
            ..lines[0]
        });
    });
    refuses(&|lines| lines[0].size += 1);
    refuses(&|lines| lines[0].space = Space::Data);
    // On another, not aligned, across the border to the constants, a jump on another.
    refuses(&|lines| lines[0].offset = lines[2].offset);
    refuses(&|lines| lines[0].offset += 1);
    refuses(&|lines| lines[0].offset = CONSTANTS - 48);
    refuses(&|lines| lines[1].jump = Some(lines[2].offset));
    // A jump to what nobody calls.
    let mut others = things;
    others[1].is_called = false;
    assert_eq!(follow(&others, &own), None);
    assert_eq!(arrange(&others, &before, 0).unwrap().jumps, [None; 3]);
}

/// As many as it takes for looking at each gap for each thing to be felt.
#[test]
fn many_new_things_find_their_places() {
    let old: Vec<Thing> = (0..40_000).map(|n| code(n, n, 40)).collect();
    let mut before = first(&old);
    before.constants_at = 40_000 * 48;
    before.more_at = before.constants_at;
    let new: Vec<Thing> = (0..60_000)
        .filter(|n| n % 3 != 1)
        .map(|n| code(n, n, 40))
        .collect();
    let arranged = arrange(&new, &before, 0).unwrap();
    // Each that is gone leaves room for one that is new; what is left is behind.
    let inside = arranged.offsets.iter().filter(|at| **at < before.more_at);
    assert_eq!(inside.count(), 40_000);
    let all_new: Vec<Thing> = (50_000..90_000).map(|n| code(n, n, 40)).collect();
    assert_eq!(arrange(&all_new, &before, 1), None);
}
