use pool_core::GuestAddress;
use proptest::prelude::*;

use super::*;

const NOTHING: Protection = Protection {
    read: false,
    write: false,
    execute: false,
};

fn space() -> AddressSpace {
    let rooms = Rooms {
        monitor: GuestAddress(0x3f40_0000),
        stack_low: GuestAddress(0x3f80_0000),
        stack_high: GuestAddress(0x4000_0000),
        heap: GuestAddress(0x50_0000),
        mmap_top: GuestAddress(0x3f20_0000),
    };
    AddressSpace::new(rooms)
}

fn private(end: u64, protection: Protection) -> Area {
    Area {
        end,
        protection,
        backing: Backing::Private,
    }
}

fn list(space: &AddressSpace) -> Vec<(u64, u64, String)> {
    space
        .over(0, u64::MAX)
        .map(|(at, area)| (at, area.end, area.protection.to_string()))
        .collect()
}

#[test]
fn neighbours_join_and_holes_split() {
    let mut space = space();
    for (start, end) in [(0x50_0000, 0x50_2000), (0x50_2000, 0x50_4000)] {
        let area = private(end, Protection::READ_WRITE);
        space.map(start, area).unwrap();
    }
    assert_eq!(list(&space), [(0x50_0000, 0x50_4000, "rw-".into())]);
    space.unmap(0x50_1000, 0x50_2000).unwrap();
    assert_eq!(
        list(&space),
        [
            (0x50_0000, 0x50_1000, "rw-".into()),
            (0x50_2000, 0x50_4000, "rw-".into())
        ]
    );
}

#[test]
fn a_reservation_is_cut_and_made_again() {
    // What glibc's arenas do: reserve, cut to an aligned part, reserve again beside it.
    let mut space = space();
    for _ in 0..64 {
        let start = space.find_gap(128 << 20).unwrap();
        let end = start + (128 << 20);
        space.map(start, Area::anonymous(end, NOTHING)).unwrap();
        let kept = start.next_multiple_of(64 << 20);
        space.unmap(start, kept).unwrap();
        space.unmap(kept + (64 << 20), end).unwrap();
        space
            .protect(kept, kept + 0x2_1000, Protection::READ_WRITE)
            .1
            .unwrap();
    }
    assert_eq!(list(&space).len(), 128);
}

#[test]
fn protection_changes_up_to_a_hole() {
    let mut space = space();
    let area = private(0x50_4000, Protection::READ_WRITE);
    space.map(0x50_0000, area).unwrap();
    let hole = Err(ProtectError::Hole);
    let read = Protection::READ;
    assert_eq!(
        space.protect(0x50_1000, 0x50_2000, read),
        (0x50_2000, Ok(()))
    );
    assert_eq!(list(&space).len(), 3);
    assert_eq!(space.protect(0x4f_f000, 0x50_1000, read), (0x4f_f000, hole));
    assert_eq!(list(&space).len(), 3);
    assert_eq!(space.protect(0x50_3000, 0x50_5000, read), (0x50_4000, hole));
    assert_eq!(list(&space)[3], (0x50_3000, 0x50_4000, "r--".into()));
    let all = space.protect(0x50_0000, 0x50_4000, Protection::READ_WRITE);
    assert_eq!(all, (0x50_4000, Ok(())));
    assert_eq!(list(&space), [(0x50_0000, 0x50_4000, "rw-".into())]);
}

#[test]
fn shared_pages_never_become_writable_and_keep_their_place() {
    let mut space = space();
    let shared = Area {
        end: 0x40_4000,
        protection: Protection::READ_EXECUTE,
        backing: Backing::Shared { physical: 0x9000 },
    };
    space.map(0x40_0000, shared).unwrap();
    assert_eq!(
        space.protect(0x40_0000, 0x40_1000, Protection::READ_WRITE),
        (0x40_0000, Err(ProtectError::Shared))
    );
    space.unmap(0x40_1000, 0x40_2000).unwrap();
    let (_, tail) = space.find(0x40_3000).unwrap();
    assert_eq!(tail.backing, Backing::Shared { physical: 0xb000 });
}

#[test]
fn gaps_are_found_below_the_stack_first() {
    let mut space = space();
    let read_write = |end| private(end, Protection::READ_WRITE);
    assert_eq!(space.find_gap(0x3000), Some(0x3f1f_d000));
    space.map(0x3f1f_d000, read_write(0x3f20_0000)).unwrap();
    assert_eq!(space.find_gap(0x1000), Some(0x3f1f_c000));
    assert_eq!(space.find_gap(WINDOW_SIZE), Some(0x3ee0_0000));
    assert_eq!(space.find_gap(1 << 30), Some(0x4020_0000));
    assert_eq!(space.find_gap(1 << 47), None);
    space.map(0x3f1f_0000, read_write(0x3f1f_b000)).unwrap();
    assert_eq!(space.find_gap(0x2000), Some(0x3f1f_b000));
    assert_eq!(space.find_gap(0x3000), Some(0x3f1e_d000));
    // Two areas above the stack in one window, and one that reaches there from below.
    for at in [0x4020_0000, 0x4020_2000, 0x4020_4000] {
        space.map(at, read_write(at + 0x1000)).unwrap();
    }
    assert_eq!(space.find_gap(1 << 30), Some(0x4040_0000));
    space.map(0x401f_f000, read_write(0x4060_1000)).unwrap();
    assert_eq!(space.find_gap(1 << 30), Some(0x4080_0000));
}

#[test]
fn the_monitor_and_page_zero_are_never_free() {
    let space = space();
    assert!(!space.is_free(0, 0x2000));
    assert!(!space.is_free(0x3f40_0000, 0x3f40_1000));
    assert!(!space.is_free(0x3f3f_f000, 0x3f40_1000));
    assert!(space.is_free(0x3f3f_f000, 0x3f40_0000));
    assert!(!space.is_free(USER_ADDRESS_END - 0x1000, USER_ADDRESS_END + 0x1000));
}

#[test]
fn a_file_is_shown_until_its_last_page_is_gone() {
    let mut space = space();
    let file = FileId::numbered(7);
    let area = Area {
        end: 0x50_4000,
        protection: Protection::READ,
        backing: Backing::File {
            file,
            offset: 0x1000,
        },
    };
    space.map(0x50_0000, area).unwrap();
    space.protect(0x50_1000, 0x50_2000, NOTHING).1.unwrap();
    space.unmap(0x50_0000, 0x50_3000).unwrap();
    let (at, rest) = space.find(0x50_3000).unwrap();
    let offset = 0x4000;
    assert_eq!(
        (at, rest.backing),
        (0x50_3000, Backing::File { file, offset })
    );
    assert!(space.shows(file));
    // In place of itself it is still there.
    space.map(0x50_3000, rest).unwrap();
    assert_eq!(space.take_hidden(), []);
    space
        .map(0x50_3000, private(0x50_4000, Protection::READ))
        .unwrap();
    assert!(!space.shows(file));
    assert_eq!(space.take_hidden(), [file]);
    assert_eq!(space.take_hidden(), []);
}

const FULL: u64 = 0x100_0000_0000;

/// A space with so many areas, of three pages each, from [`FULL`] on, four pages apart.
fn full(count: usize) -> AddressSpace {
    let mut space = space();
    for nth in 0..count as u64 {
        let at = FULL + nth * 0x4000;
        let area = private(at + 0x3000, Protection::READ_WRITE);
        space.map(at, area).unwrap();
    }
    assert_eq!(space.areas.len(), count);
    space
}

/// What `act` does where there are so many areas. What is refused changes nothing.
fn at_limit(
    count: usize,
    act: impl FnOnce(&mut AddressSpace) -> Result<(), Refused>,
) -> Result<usize, Refused> {
    let mut space = full(count);
    let before = (space.areas.clone(), space.mapped, space.data);
    let done = act(&mut space);
    if done.is_err() {
        assert_eq!(before, (space.areas.clone(), space.mapped, space.data));
    }
    done.map(|()| space.areas.len())
}

#[test]
fn areas_are_counted_as_linux_counts_them() {
    const MAX: usize = MAX_AREAS;
    const REFUSED: Result<usize, Refused> = Err(Refused::Areas);
    let nothing = |at| Area::anonymous(at + 0x1000, NOTHING);
    // One more than there may be, and no matter where.
    let map = |at: u64| move |space: &mut AddressSpace| space.map(at, nothing(at));
    for at in [0x50_0000, FULL, FULL + 0x2000, FULL + 0x3000] {
        assert_eq!(at_limit(MAX, map(at)), Ok(MAX + 1), "{at:#x}");
        assert_eq!(at_limit(MAX + 1, map(at)), REFUSED, "{at:#x}");
    }
    // In the midst of another, with which there are two more.
    assert_eq!(at_limit(MAX - 1, map(FULL + 0x1000)), Ok(MAX + 1));
    assert_eq!(at_limit(MAX, map(FULL + 0x1000)), REFUSED);
    let unmap = |from, to| move |space: &mut AddressSpace| space.unmap(FULL + from, FULL + to);
    assert_eq!(at_limit(MAX - 1, unmap(0x1000, 0x2000)), Ok(MAX));
    assert_eq!(at_limit(MAX, unmap(0x1000, 0x2000)), REFUSED);
    assert_eq!(at_limit(MAX + 1, unmap(0x1000, 0x3000)), Ok(MAX + 1));
    assert_eq!(at_limit(MAX + 1, unmap(0x2000, 0x5000)), Ok(MAX + 1));
    // A protection: one more for each end that is cut. (What is refused for the second is not cut at the first.)
    let protect = |from, to| {
        move |space: &mut AddressSpace| match space
            .protect(FULL + from, FULL + to, Protection::READ)
            .1
        {
            Err(ProtectError::Refused(refused)) => Err(refused),
            done => {
                done.unwrap();
                Ok(())
            }
        }
    };
    assert_eq!(at_limit(MAX - 2, protect(0x1000, 0x2000)), Ok(MAX));
    assert_eq!(at_limit(MAX - 1, protect(0x1000, 0x2000)), REFUSED);
    assert_eq!(at_limit(MAX - 1, protect(0, 0x1000)), Ok(MAX));
    assert_eq!(at_limit(MAX, protect(0, 0x1000)), REFUSED);
    assert_eq!(at_limit(MAX, protect(0x2000, 0x3000)), REFUSED);
    assert_eq!(at_limit(MAX + 1, protect(0, 0x3000)), Ok(MAX + 1));
    // What grows stays one, and may be one with what it comes to.
    let extend = |nth: usize| {
        move |space: &mut AddressSpace| {
            let at = FULL + nth as u64 * 0x4000;
            space.extend(at + 0x3000, at + 0x4000);
            assert!(space.find(at).unwrap().1.end >= at + 0x4000);
            Ok(())
        }
    };
    assert_eq!(at_limit(MAX + 1, extend(MAX)), Ok(MAX + 1));
    assert_eq!(at_limit(MAX + 1, extend(0)), Ok(MAX));
}

/// Where both ends that are cut join what lies between, there is no more, however many there are.
#[test]
fn a_protection_that_joins_its_neighbours_takes_no_more_areas() {
    let mut space = space();
    for nth in 0..=MAX_AREAS as u64 {
        let at = FULL + nth * 0x2000;
        let protection = [Protection::READ_WRITE, Protection::READ][(nth % 2) as usize];
        space.map(at, private(at + 0x2000, protection)).unwrap();
    }
    assert_eq!(space.areas.len(), MAX_AREAS + 1);
    // From within one that is written to within the next such, over one that is only read.
    let (from, to) = (FULL + 0x1000, FULL + 0x5000);
    assert_eq!(space.protect(from, to, Protection::READ), (to, Ok(())));
    let found: Vec<_> = list(&space).into_iter().take(3).collect();
    assert_eq!(
        found,
        [
            (FULL, from, "rw-".into()),
            (from, to, "r--".into()),
            (to, FULL + 0x6000, "rw-".into())
        ]
    );
    assert_eq!(space.areas.len(), MAX_AREAS + 1);
}

#[test]
fn what_moves_keeps_its_distance_from_the_limit() {
    let rooms = |count| {
        let space = full(count);
        (space.has_room_to_move(), space.has_room_to_replace())
    };
    assert_eq!(rooms(MAX_AREAS - 6), (true, true));
    assert_eq!(rooms(MAX_AREAS - 5), (true, false));
    assert_eq!(rooms(MAX_AREAS - 4), (true, false));
    assert_eq!(rooms(MAX_AREAS - 3), (false, false));
}

/// The same, page by page.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<u64, (Protection, Backing)>);

impl Model {
    fn of(space: &AddressSpace) -> Self {
        let mut model = Self::default();
        for (at, area) in space.over(0, u64::MAX) {
            assert!(at < area.end, "an area is empty");
            for page in (at..area.end).step_by(PAGE_SIZE as usize) {
                let piece = area.without_first(page - at);
                let twice = model.0.insert(page, (piece.protection, piece.backing));
                assert_eq!(twice, None, "areas overlap at {page:#x}");
            }
        }
        model
    }

    fn apply(&mut self, step: &Step) {
        let (start, end) = step.range();
        let pages = (start..end).step_by(PAGE_SIZE as usize);
        match step {
            Step::Map(.., protection) => {
                let area = Area::anonymous(end, *protection);
                self.0
                    .extend(pages.map(|page| (page, (*protection, area.backing))));
            }
            Step::Share(..) => self.0.extend(pages.map(|page| {
                let physical = page - start + SHARED;
                (page, (Protection::READ, Backing::Shared { physical }))
            })),
            Step::Unmap(..) => self.0.retain(|page, _| !(start..end).contains(page)),
            Step::Protect(.., protection) => {
                for page in pages {
                    match self.0.get_mut(&page) {
                        Some((_, Backing::Shared { .. })) if protection.write => return,
                        Some(page) => page.0 = *protection,
                        None => return,
                    }
                }
            }
        }
    }
}

const SHARED: u64 = 1 << 36;
const BASE: u64 = 0x1000_0000;
/// Three windows and a bit.
const PAGES: u64 = 1600;

#[derive(Clone, Debug)]
enum Step {
    Map(u64, u64, Protection),
    Share(u64, u64),
    Unmap(u64, u64),
    Protect(u64, u64, Protection),
}

impl Step {
    fn range(&self) -> (u64, u64) {
        let (Self::Map(from, pages, _)
        | Self::Share(from, pages)
        | Self::Unmap(from, pages)
        | Self::Protect(from, pages, _)) = self;
        let end = (from + pages).min(PAGES);
        (BASE + from * PAGE_SIZE, BASE + end * PAGE_SIZE)
    }
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![3 => 1..9u64, 1 => 1..PAGES, 1 => Just(512)];
    let protection = prop_oneof![
        Just(NOTHING),
        Just(Protection::READ),
        Just(Protection::READ_WRITE)
    ];
    (0..4, 0..PAGES, length, protection).prop_map(|(kind, from, length, protection)| match kind {
        0 => Step::Map(from, length, protection),
        1 => Step::Share(from, length),
        2 => Step::Unmap(from, length),
        _ => Step::Protect(from, length, protection),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Areas are what a table of pages is, whatever is done, joined wherever they are alike.
    #[test]
    fn areas_are_a_table_of_pages(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut space = space();
        let mut model = Model::default();
        for step in &steps {
            let (start, end) = step.range();
            let done = match step {
                Step::Map(.., protection) => space.map(start, Area::anonymous(end, *protection)),
                Step::Share(..) => space.map(start, Area {
                    end,
                    protection: Protection::READ,
                    backing: Backing::Shared { physical: SHARED },
                }),
                Step::Unmap(..) => space.unmap(start, end),
                Step::Protect(.., protection) => match space.protect(start, end, *protection).1 {
                    Err(ProtectError::Refused(refused)) => Err(refused),
                    _ => Ok(()),
                },
            };
            prop_assert!(done.is_ok());
            model.apply(step);
            prop_assert_eq!(&Model::of(&space).0, &model.0);
            let areas: Vec<_> = space.over(0, u64::MAX).collect();
            for pair in areas.windows(2) {
                let [(at, before), (next, after)] = [pair[0], pair[1]];
                prop_assert!(!joins(at, &before, next, &after));
            }
            for length in [PAGE_SIZE, 9 * PAGE_SIZE, WINDOW_SIZE] {
                let gap = space.find_gap(length).unwrap();
                prop_assert!(space.is_free(gap, gap + length));
            }
        }
    }
}
