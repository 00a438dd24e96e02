//! x86-64 page-table entries of one 2 MiB window, computed from the areas in it. Pure.
//!
//! Every entry is written with its accessed and dirty bits set: the processor (or the shadow
//! pager) then never has to write a table, and a first store costs no second fault.
//! (Intel SDM volume 3A, 4.5; AMD APM volume 2, 5.3.)

use pool_core::address::Protection;
use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::frames::Backed;
use super::space::{AddressSpace, Backing};

/// Entry is valid.
pub const PRESENT: u64 = 1;
/// Stores are allowed.
pub const WRITABLE: u64 = 1 << 1;
/// CPL 3 may use it.
pub const USER: u64 = 1 << 2;
/// Accessed and dirty.
pub const USED: u64 = 1 << 5 | 1 << 6;
/// The entry maps 2 MiB itself.
pub const LARGE: u64 = 1 << 7;
/// Instruction fetches are refused.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The frame address in an entry.
pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// An entry that points to a table: permissions are decided below.
pub const TABLE: u64 = PRESENT | WRITABLE | USER | 1 << 5;

/// How a window is mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowEntries {
    /// Not at all: nothing in it is accessible.
    Nothing,
    /// By one entry of 2 MiB.
    Large(u64),
    /// By a table of 4 KiB entries.
    Small(Box<[u64; PAGES_PER_WINDOW as usize]>),
}

/// The entries of the window at `window`, whose private pages lie where `backed` says.
pub(super) fn window_entries(space: &AddressSpace, window: u64, backed: &Backed) -> WindowEntries {
    let end = window + WINDOW_SIZE;
    if let Some((at, area)) = space.find(window)
        && area.end >= end
        && area.accessible()
        && let Some(physical) = whole_window(area.backing, at, window, backed)
        && physical.is_multiple_of(WINDOW_SIZE)
    {
        return WindowEntries::Large(physical | LARGE | flags(area.protection));
    }
    let page = |address: u64| (address - window) / PAGE_SIZE;
    let mut entries = None;
    for (at, area) in space.over(window, end) {
        if !area.accessible() || matches!(area.backing, Backing::Growing) {
            continue;
        }
        let entries = entries.get_or_insert_with(|| Box::new([0; PAGES_PER_WINDOW as usize]));
        let flags = flags(area.protection);
        let (from, to) = (at.max(window), area.end.min(end));
        let mut put = |page: u64, physical: u64, count: u64| {
            for nth in 0..count {
                entries[(page + nth) as usize] = (physical + nth * PAGE_SIZE) | flags;
            }
        };
        match area.backing {
            Backing::Shared { physical } => {
                put(page(from), physical + (from - at), (to - from) / PAGE_SIZE);
            }
            _ => {
                for run in backed.runs(page(from) as u16, page(to) as u16) {
                    put(run.page.into(), run.physical(), run.count.into());
                }
            }
        }
    }
    entries.map_or(WindowEntries::Nothing, WindowEntries::Small)
}

/// True when a processor that remembers `old` could do with it what `new` forbids, or reach
/// another frame: it must be made to forget.
pub fn is_stale(old: u64, new: u64) -> bool {
    let lost = |bit| old & bit != 0 && new & bit == 0;
    old & PRESENT != 0
        && old != new
        && (lost(PRESENT)
            || lost(WRITABLE)
            || (old ^ new) & (FRAME | LARGE) != 0
            || (old & NO_EXECUTE == 0 && new & NO_EXECUTE != 0))
}

/// Where the window begins in guest physical memory, if it lies there in one piece.
fn whole_window(backing: Backing, at: u64, window: u64, backed: &Backed) -> Option<u64> {
    match backing {
        Backing::Shared { physical } => Some(physical + (window - at)),
        Backing::Private => backed.window(),
        Backing::Reserved | Backing::Growing => None,
    }
}

fn flags(protection: Protection) -> u64 {
    let mut flags = PRESENT | USER | USED;
    if protection.write {
        flags |= WRITABLE;
    }
    if !protection.execute {
        flags |= NO_EXECUTE;
    }
    flags
}

#[cfg(test)]
mod tests {
    use pool_core::GuestAddress;

    use super::*;
    use crate::memory::frames::Run;
    use crate::memory::space::Area;
    use crate::plan::Rooms;

    const WINDOW: u64 = 0x1000_0000;

    fn space(areas: &[(u64, u64, Protection, Backing)]) -> AddressSpace {
        let far = GuestAddress(1 << 40);
        let rooms = Rooms {
            monitor: far,
            stack_low: far,
            stack_high: far,
            heap: far,
            mmap_top: far,
        };
        let mut space = AddressSpace::new(rooms, u64::MAX);
        for &(start, end, protection, backing) in areas {
            let (start, end) = (WINDOW + start, WINDOW + end);
            let area = Area {
                end,
                protection,
                backing,
                copied: false,
            };
            space.map(start, area).unwrap();
        }
        space
    }

    fn ram(ram: u64) -> Backed {
        Backed::Window {
            ram,
            image: false,
            huge: false,
        }
    }

    #[test]
    fn pages_lie_where_their_frames_do_and_nothing_takes_no_table() {
        let private = Backing::Private;
        let space = space(&[
            (0x2000, 0x5000, Protection::READ_WRITE, private),
            (0x8000, 0x9000, Protection::READ_WRITE, Backing::Growing),
        ]);
        let run = |page, count, frame| Run { page, count, frame };
        let backed = Backed::Pages(vec![run(2, 1, 0x777), run(3, 2, 0x555)]);
        let WindowEntries::Small(entries) = window_entries(&space, WINDOW, &backed) else {
            panic!("pages take an entry each")
        };
        let flags = PRESENT | USER | USED | NO_EXECUTE | WRITABLE;
        let expected = [
            0,
            0,
            0x77_7000 | flags,
            0x55_5000 | flags,
            0x55_6000 | flags,
            0,
        ];
        assert_eq!(entries[..6], expected);
        assert_eq!(entries[8], 0, "a stack that was not reached has no entries");
        let next = WINDOW + WINDOW_SIZE;
        let nothing = window_entries(&space, next, &Backed::Nothing);
        assert_eq!(nothing, WindowEntries::Nothing);
    }

    #[test]
    fn a_window_of_one_kind_takes_one_entry() {
        let shared = Backing::Shared { physical: 1 << 36 };
        let whole = space(&[(0, WINDOW_SIZE, Protection::READ_EXECUTE, shared)]);
        let expected = 1 << 36 | LARGE | PRESENT | USER | USED;
        assert_eq!(
            window_entries(&whole, WINDOW, &Backed::Nothing),
            WindowEntries::Large(expected)
        );
        let whole = space(&[(0, WINDOW_SIZE, Protection::READ_WRITE, Backing::Private)]);
        let expected = 0x60_0000 | LARGE | PRESENT | USER | USED | WRITABLE | NO_EXECUTE;
        assert_eq!(
            window_entries(&whole, WINDOW, &ram(0x60_0000)),
            WindowEntries::Large(expected)
        );
    }

    #[test]
    fn shared_pages_at_an_odd_place_take_small_entries() {
        let shared = Backing::Shared { physical: 0x1000 };
        let odd = space(&[(0, WINDOW_SIZE, Protection::READ, shared)]);
        let WindowEntries::Small(entries) = window_entries(&odd, WINDOW, &Backed::Nothing) else {
            panic!("an entry of 2 MiB cannot map this")
        };
        assert_eq!(entries[511], 0x20_0000 | PRESENT | USER | USED | NO_EXECUTE);
    }

    #[test]
    fn mixed_windows_have_an_entry_a_page_and_none_for_what_may_not_be_touched() {
        let nothing = Protection {
            read: false,
            write: false,
            execute: false,
        };
        let shared = Backing::Shared { physical: 0x9000 };
        let mixed = space(&[
            (0x1000, 0x3000, Protection::READ, shared),
            (0x3000, 0x4000, nothing, Backing::Private),
            (0x4000, 0x5000, Protection::READ_WRITE, Backing::Private),
        ]);
        let WindowEntries::Small(entries) = window_entries(&mixed, WINDOW, &ram(0x20_0000)) else {
            panic!("a mixed window has no single entry")
        };
        let read_only = PRESENT | USER | USED | NO_EXECUTE;
        assert_eq!(
            entries[..6],
            [
                0,
                0x9000 | read_only,
                0xa000 | read_only,
                0,
                0x20_4000 | read_only | WRITABLE,
                0
            ]
        );
    }

    #[test]
    fn only_withdrawn_rights_are_stale() {
        let read = 0x1000 | PRESENT | USER | NO_EXECUTE;
        let write = read | WRITABLE;
        for (old, new, stale) in [
            (0, write, false),
            (read, write, false),
            (read, read & !NO_EXECUTE, false),
            (write, read, true),
            (read, 0, true),
            (read, read + 0x1000, true),
            (read & !NO_EXECUTE, read, true),
        ] {
            assert_eq!(is_stale(old, new), stale, "{old:#x} {new:#x}");
        }
    }
}
