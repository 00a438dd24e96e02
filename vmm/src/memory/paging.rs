//! x86-64 page-table entries of one 2 MiB window, computed from the areas in it. Pure.
//!
//! Entries are written with their accessed and dirty bits set: the processor (or the shadow pager) then
//! never has to write a table, and a first store costs no second fault. Only pages that show a file come
//! without the dirty bit: their first store faults in the host anyway, and as long as the bit is clear
//! nothing remembers them as writable, so that a program that makes its relocated data read-only when it
//! starts costs no flush. (Intel SDM volume 3A, 4.5; AMD APM volume 2, 5.3.)

use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::runs::Runs;
use super::space::{AddressSpace, Area, Backing};

/// Entry is valid.
pub const PRESENT: u64 = 1;
/// Stores are allowed.
pub const WRITABLE: u64 = 1 << 1;
/// CPL 3 may use it.
pub const USER: u64 = 1 << 2;
/// It was used.
pub const ACCESSED: u64 = 1 << 5;
/// It was written through.
pub const DIRTY: u64 = 1 << 6;
/// The entry maps 2 MiB itself.
pub const LARGE: u64 = 1 << 7;
/// Instruction fetches are refused.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The frame address in an entry.
pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// An entry that points to a table: permissions are decided below.
pub const TABLE: u64 = PRESENT | WRITABLE | USER | 1 << 5;

/// The entries of one window.
pub type Entries = [u64; PAGES_PER_WINDOW as usize];

/// The entry of 2 MiB that maps the window at `window`, whose private pages lie where `runs` says, if one
/// can: all of it belongs to one area and lies in one piece.
pub(super) fn large(space: &AddressSpace, window: u64, runs: &Runs) -> Option<u64> {
    let (at, area) = space.find(window)?;
    if area.end < window + WINDOW_SIZE || !area.accessible() {
        return None;
    }
    let physical = match area.backing {
        Backing::Shared { physical } => physical + (window - at),
        Backing::Private | Backing::Kept => runs.window()?,
        Backing::File { .. } | Backing::Shown { .. } => return None,
    };
    let aligned = physical.is_multiple_of(WINDOW_SIZE);
    aligned.then(|| physical | LARGE | flags(&area))
}

/// The entries of 4 KiB of its pages `from..to`, in their places; false when there are none.
pub(super) fn small(
    space: &AddressSpace,
    window: u64,
    runs: &Runs,
    (from, to): (u16, u16),
    entries: &mut Entries,
) -> bool {
    let address = |page: u16| window + u64::from(page) * PAGE_SIZE;
    let page = |address: u64| ((address - window) / PAGE_SIZE) as u16;
    let mut any = false;
    for (at, area) in space.over(address(from), address(to)) {
        if !area.accessible() {
            continue;
        }
        let flags = flags(&area);
        let (first, end) = (at.max(address(from)), area.end.min(address(to)));
        let mut put = |page: u16, physical: u64, count: u16| {
            any = true;
            for nth in 0..count {
                entries[usize::from(page + nth)] = (physical + u64::from(nth) * PAGE_SIZE) | flags;
            }
        };
        match area.backing {
            Backing::Shared { physical } => {
                let count = (end - first) / PAGE_SIZE;
                put(page(first), physical + (first - at), count as u16);
            }
            Backing::Private | Backing::Kept | Backing::File { .. } | Backing::Shown { .. } => {
                for run in runs.within(page(first), page(end)) {
                    put(run.page, run.physical(), run.count);
                }
            }
        }
    }
    any
}

/// `new` as it is to be written over `old`: what is known of the page's use is kept.
pub(super) fn keeping_use(old: u64, new: u64) -> u64 {
    let same = old & new & PRESENT != 0 && (old ^ new) & (FRAME | LARGE) == 0;
    if same { new | old & DIRTY } else { new }
}

/// True when a processor that remembers `old` could do with it what `new` forbids, or reach
/// another frame: it must be made to forget. It remembers nothing that was not used, and no right to write
/// where nothing was written.
pub fn is_stale(old: u64, new: u64) -> bool {
    let lost = |bit| old & bit != 0 && new & bit == 0;
    old & PRESENT != 0
        && old & ACCESSED != 0
        && (lost(PRESENT)
            || (lost(WRITABLE) && old & DIRTY != 0)
            || (old ^ new) & (FRAME | LARGE) != 0
            || (old & NO_EXECUTE == 0 && new & NO_EXECUTE != 0))
}

fn flags(area: &Area) -> u64 {
    let mut flags = PRESENT | USER | ACCESSED;
    if area.protection.write {
        flags |= WRITABLE;
    }
    if !area.protection.execute {
        flags |= NO_EXECUTE;
    }
    match area.backing {
        Backing::File { .. } | Backing::Shown { .. } => flags,
        Backing::Private | Backing::Kept | Backing::Shared { .. } => flags | DIRTY,
    }
}

#[cfg(test)]
mod tests {
    use pool_core::GuestAddress;
    use pool_core::address::Protection;

    use super::*;
    use crate::memory::files::FileId;
    use crate::memory::runs::Run;
    use crate::plan::Rooms;

    const WINDOW: u64 = 0x1000_0000;
    const USED: u64 = ACCESSED | DIRTY;

    fn space(areas: &[(u64, u64, Protection, Backing)]) -> AddressSpace {
        let far = GuestAddress(1 << 40);
        let rooms = Rooms {
            monitor: far,
            stack_low: far,
            stack_high: far,
            heap: far,
            mmap_top: far,
        };
        let mut space = AddressSpace::new(rooms);
        for &(start, end, protection, backing) in areas {
            let (start, end) = (WINDOW + start, WINDOW + end);
            let area = Area {
                end,
                protection,
                backing,
            };
            space.map(start, area).unwrap();
        }
        space
    }

    fn runs(list: &[(u16, u16, u32)]) -> Runs {
        let mut runs = Runs::default();
        for &(page, count, frame) in list {
            runs.insert(Run { page, count, frame });
        }
        runs
    }

    fn entries(space: &AddressSpace, runs: &Runs, from: u16, to: u16) -> Option<Box<Entries>> {
        let mut entries = Box::new([0; PAGES_PER_WINDOW as usize]);
        small(space, WINDOW, runs, (from, to), &mut entries).then_some(entries)
    }

    #[test]
    fn pages_lie_where_their_frames_do_and_untouched_ones_nowhere() {
        let space = space(&[(0x2000, 0x5000, Protection::READ_WRITE, Backing::Private)]);
        let had = runs(&[(2, 1, 0x777), (4, 1, 0x556), (9, 1, 0x1)]);
        let found = entries(&space, &had, 0, 512).unwrap();
        let flags = PRESENT | USER | USED | NO_EXECUTE | WRITABLE;
        let expected = [0, 0, 0x77_7000 | flags, 0, 0x55_6000 | flags, 0];
        assert_eq!(found[..6], expected);
        assert!(found[6..].iter().all(|&entry| entry == 0));
        assert_eq!(entries(&space, &had, 3, 4), None);
        assert_eq!(large(&space, WINDOW, &had), None);
    }

    #[test]
    fn a_window_of_one_kind_takes_one_entry() {
        let shared = Backing::Shared { physical: 1 << 36 };
        let whole = space(&[(0, WINDOW_SIZE, Protection::READ_EXECUTE, shared)]);
        let expected = 1 << 36 | LARGE | PRESENT | USER | USED;
        assert_eq!(large(&whole, WINDOW, &Runs::default()), Some(expected));
        let whole = space(&[(0, WINDOW_SIZE, Protection::READ_WRITE, Backing::Private)]);
        let expected = 0x60_0000 | LARGE | PRESENT | USER | USED | WRITABLE | NO_EXECUTE;
        let in_one = runs(&[(0, 512, 0x600)]);
        assert_eq!(large(&whole, WINDOW, &in_one), Some(expected));
        for odd in [&[(0, 512, 0x601)][..], &[(0, 511, 0x600)]] {
            assert_eq!(large(&whole, WINDOW, &runs(odd)), None);
        }
    }

    #[test]
    fn shared_pages_at_an_odd_place_take_small_entries() {
        let shared = Backing::Shared { physical: 0x1000 };
        let odd = space(&[(0, WINDOW_SIZE, Protection::READ, shared)]);
        assert_eq!(large(&odd, WINDOW, &Runs::default()), None);
        let found = entries(&odd, &Runs::default(), 500, 512).unwrap();
        assert_eq!(found[511], 0x20_0000 | PRESENT | USER | USED | NO_EXECUTE);
        assert_eq!(found[499], 0);
    }

    #[test]
    fn mixed_windows_have_an_entry_a_page_and_none_for_what_may_not_be_touched() {
        let nothing = Protection {
            read: false,
            write: false,
            execute: false,
        };
        let shared = Backing::Shared { physical: 0x9000 };
        let file = Backing::File {
            file: FileId::numbered(1),
            offset: 0,
        };
        let mixed = space(&[
            (0x1000, 0x3000, Protection::READ, shared),
            (0x3000, 0x4000, nothing, Backing::Private),
            (0x4000, 0x5000, Protection::READ_WRITE, Backing::Private),
            (0x5000, 0x6000, Protection::READ_WRITE, file),
        ]);
        let found = entries(&mixed, &runs(&[(0, 512, 0x200)]), 0, 512).unwrap();
        let read_only = PRESENT | USER | USED | NO_EXECUTE;
        assert_eq!(
            found[..7],
            [
                0,
                0x9000 | read_only,
                0xa000 | read_only,
                0,
                0x20_4000 | read_only | WRITABLE,
                0x20_5000 | (read_only & !DIRTY) | WRITABLE,
                0
            ]
        );
    }

    #[test]
    fn only_withdrawn_rights_that_were_used_are_stale() {
        let read = 0x1000 | PRESENT | USER | NO_EXECUTE | ACCESSED;
        let write = read | WRITABLE | DIRTY;
        for (old, new, stale) in [
            (0, write, false),
            (read, write, false),
            (read, read & !NO_EXECUTE, false),
            (write, read, true),
            (write & !DIRTY, read, false),
            (write & !DIRTY, 0, true),
            (read & !ACCESSED, 0, false),
            (read, 0, true),
            (read, read + 0x1000, true),
            (read & !NO_EXECUTE, read, true),
        ] {
            assert_eq!(is_stale(old, new), stale, "{old:#x} {new:#x}");
        }
        assert_eq!(keeping_use(write, read), read | DIRTY);
        assert_eq!(keeping_use(write, read + 0x1000), read + 0x1000);
        assert_eq!(keeping_use(0, read), read);
    }
}
