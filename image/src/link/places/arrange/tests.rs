use proptest::prelude::*;

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
        kept: 0,
    };
    record(things, &arranged, CONSTANTS)
}

#[test]
fn what_grows_goes_and_leaves_a_jump_and_all_others_stay() {
    let old = [code(1, 1, 100), code(2, 2, 100), code(3, 3, 100)];
    let record = first(&old);
    let new = [code(1, 1, 100), code(2, 9, 300), code(3, 3, 100)];
    let arranged = arrange(&new, &record);
    assert_eq!(arranged.offsets[0], 0);
    assert_eq!(arranged.offsets[2], 224);
    assert_eq!(arranged.jumps, [None, Some(112), None]);
    assert_eq!(arranged.kept, 200);
    // It fits on a page that differs anyway, behind the others.
    assert!(arranged.offsets[1] >= 324);
    // A change that fits stays, though it takes up what was between.
    let new = [code(1, 1, 100), code(2, 9, 112), code(3, 3, 100)];
    assert_eq!(arrange(&new, &record).offsets, [0, 112, 224]);
    assert_eq!(arrange(&new, &record).jumps, [None; 3]);
}

#[test]
fn the_jump_outlives_the_next_version() {
    let record_1 = first(&[code(1, 1, 100), code(2, 2, 100)]);
    let second = [code(1, 8, 300), code(2, 2, 100)];
    let arranged_2 = arrange(&second, &record_1);
    assert_eq!(arranged_2.jumps[0], Some(0));
    let third = [code(1, 9, 400), code(2, 2, 100)];
    let arranged_3 = arrange(&third, &record(&second, &arranged_2, CONSTANTS));
    assert_eq!(arranged_3.jumps[0], Some(0));
    assert_eq!(arranged_3.offsets[1], arranged_2.offsets[1]);
}

#[test]
fn what_is_called_otherwise_is_known_by_what_it_is() {
    let record = first(&[code(1, 11, 100), code(2, 12, 100)]);
    let arranged = arrange(&[code(5, 12, 100), code(6, 11, 100)], &record);
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
    let arranged = arrange(&new, &record);
    assert_eq!(arranged.offsets[3] / PAGE_SIZE, 1);
    let new = [
        code(1, 1, page),
        code(2, 2, page),
        code(3, 3, page),
        code(4, 4, 32),
    ];
    let arranged = arrange(&new, &record);
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
            }
        },
    )
}

fn any_record() -> impl Strategy<Value = Record> {
    let line = (0usize..4, 0u32..12, 0u32..3, 0u64..0x9000, 0u64..3000);
    let line = (line, prop::option::of(0u64..0x9000));
    prop::collection::vec(line, 0..40).prop_map(|lines| Record {
        constants_at: CONSTANTS,
        more_at: 0x8000,
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
    /// Whatever a record says, nothing overlaps, all is aligned and on its side of the borders, and whoever follows the record
    /// of the outcome has the same.
    #[test]
    fn no_record_makes_things_overlap(
        things in prop::collection::vec(thing(), 0..60),
        record_before in any_record(),
    ) {
        let arranged = arrange(&things, &record_before);
        let mut ranges = Vec::new();
        for ((thing, offset), jump) in things.iter().zip(&arranged.offsets).zip(&arranged.jumps) {
            prop_assert!(offset.is_multiple_of(thing.alignment));
            if let Some(jump) = jump {
                prop_assert_eq!(thing.class, Class::Code);
                ranges.push((Space::Shared, *jump, jump + JUMP_SIZE));
            }
            if thing.size == 0 {
                continue;
            }
            let end = offset + thing.size;
            ranges.push((thing.space, *offset, end));
            if thing.space == Space::Shared {
                let is_in_code = end <= CONSTANTS;
                let is_behind = *offset >= record_before.more_at;
                match thing.class {
                    Class::Code => prop_assert!(is_in_code || is_behind),
                    _ => prop_assert!(*offset >= CONSTANTS),
                }
            }
        }
        ranges.sort_unstable();
        for two in ranges.windows(2) {
            prop_assert!(two[0].0 != two[1].0 || two[0].2 <= two[1].1, "{:?}", two);
        }
        let again = arrange(&things, &record(&things, &arranged, record_before.more_at));
        prop_assert_eq!(&again.offsets, &arranged.offsets);
        prop_assert_eq!(&again.jumps, &arranged.jumps);
    }
}
