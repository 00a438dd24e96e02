//! The guest's virtual address space as a list of areas. Pure bookkeeping: what is mapped where,
//! with which protection; page tables and host memory follow from it.

use std::collections::BTreeMap;

use pool_core::address::{Protection, USER_ADDRESS_END};
use pool_core::{PAGE_SIZE, WINDOW_SIZE};

use crate::plan::Rooms;

/// Addresses below this are never given out, so that a null pointer faults (as Linux's
/// `vm.mmap_min_addr`).
const LOWEST: u64 = 0x1_0000;

/// What stands behind an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Read-only pages at consecutive guest physical addresses, the first given.
    Shared {
        /// Guest physical address of the area's first byte.
        physical: u64,
    },
    /// The guest's own RAM, in the window that the area's window owns.
    Private,
}

/// A run of pages with one protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address past the area.
    pub end: u64,
    /// What the guest may do; nothing at all for a reservation (`PROT_NONE`).
    pub protection: Protection,
    /// Shared or private.
    pub backing: Backing,
}

impl Area {
    fn without_first(self, bytes: u64) -> Self {
        let backing = match self.backing {
            Backing::Shared { physical } => Backing::Shared {
                physical: physical + bytes,
            },
            Backing::Private => Backing::Private,
        };
        Self { backing, ..self }
    }

    /// True when the guest may do anything there.
    pub fn accessible(&self) -> bool {
        let Protection {
            read,
            write,
            execute,
        } = self.protection;
        read || write || execute
    }
}

/// All areas of a guest, by start address; they never overlap.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    areas: BTreeMap<u64, Area>,
    rooms: Rooms,
    /// Current end of the heap.
    heap_end: u64,
}

impl AddressSpace {
    /// An empty address space.
    pub fn new(rooms: Rooms) -> Self {
        Self {
            areas: BTreeMap::new(),
            rooms,
            heap_end: rooms.heap.0,
        }
    }

    /// Stack, heap and monitor.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Current end of the heap (`brk`).
    pub fn heap_end(&self) -> u64 {
        self.heap_end
    }

    /// Records a new end of the heap.
    pub fn set_heap_end(&mut self, end: u64) {
        self.heap_end = end;
    }

    /// Puts an area at `start`, in place of whatever was there.
    pub fn map(&mut self, start: u64, area: Area) {
        self.unmap(start, area.end);
        self.areas.insert(start, area);
        self.join(start, area.end);
    }

    /// Removes whatever is mapped in `start..end`.
    pub fn unmap(&mut self, start: u64, end: u64) {
        self.split(start);
        self.split(end);
        let doomed: Vec<u64> = self.areas.range(start..end).map(|(&at, _)| at).collect();
        for at in doomed {
            self.areas.remove(&at);
        }
    }

    /// Changes the protection of `start..end`; false (and nothing is changed) when a page of it is
    /// not mapped or a shared page would become writable.
    pub fn protect(&mut self, start: u64, end: u64, protection: Protection) -> bool {
        let mut next = start;
        for (at, area) in self.over(start, end) {
            let forbidden = protection.write && matches!(area.backing, Backing::Shared { .. });
            if at > next || forbidden {
                return false;
            }
            next = area.end;
        }
        if next < end {
            return false;
        }
        self.split(start);
        self.split(end);
        for (_, area) in self.areas.range_mut(start..end) {
            area.protection = protection;
        }
        self.join(start, end);
        true
    }

    /// The area that holds `address`, with its start.
    pub fn find(&self, address: u64) -> Option<(u64, Area)> {
        let (&at, area) = self.areas.range(..=address).next_back()?;
        (address < area.end).then_some((at, *area))
    }

    /// The areas that reach into `start..end`, with their starts, uncut.
    pub fn over(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, Area)> + '_ {
        let first = self.find(start).map_or(start, |(at, _)| at);
        self.areas
            .range(first..end.max(first))
            .map(|(&at, area)| (at, *area))
    }

    /// True when nothing is mapped in `start..end`, and it lies where guests may map.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        let monitor = self.rooms.monitor.0;
        let clear_of_monitor = end <= monitor || start >= monitor + WINDOW_SIZE;
        start < end
            && start >= LOWEST
            && end <= USER_ADDRESS_END
            && clear_of_monitor
            && self.over(start, end).next().is_none()
    }

    /// A free place for `length` bytes (a multiple of the page size): the highest below the
    /// stack's guard, else the lowest above the stack. Large mappings begin on a 2 MiB boundary,
    /// so that one page-table entry can map each of their windows.
    pub fn find_gap(&self, length: u64) -> Option<u64> {
        let granule = if length >= WINDOW_SIZE {
            WINDOW_SIZE
        } else {
            PAGE_SIZE
        };
        let lowest = self.heap_end.checked_next_multiple_of(WINDOW_SIZE)?;
        let fits_below = |end: u64| {
            let start = end.checked_sub(length)? & !(granule - 1);
            (start >= lowest).then_some(start)
        };
        let mut end = self.rooms.mmap_top.0;
        for (&at, area) in self.areas.range(..self.rooms.mmap_top.0).rev() {
            match fits_below(end) {
                Some(start) if start >= area.end => return Some(start),
                _ => end = end.min(at),
            }
        }
        fits_below(end).or_else(|| self.find_gap_above(length))
    }

    fn find_gap_above(&self, length: u64) -> Option<u64> {
        let mut start = self.rooms.stack_high.0 + WINDOW_SIZE;
        for (&at, area) in self.areas.range(start..) {
            if at - start >= length {
                break;
            }
            start = area.end.checked_next_multiple_of(WINDOW_SIZE)?;
        }
        let end = start.checked_add(length)?;
        (end <= USER_ADDRESS_END).then_some(start)
    }

    /// Bytes of private memory that the guest may touch, the stack apart: that is a reservation of
    /// which programs use little.
    pub fn private_bytes(&self) -> u64 {
        let stack = self.rooms.stack_low.0..self.rooms.stack_high.0;
        self.areas
            .iter()
            .filter(|(at, area)| {
                area.backing == Backing::Private && area.accessible() && !stack.contains(at)
            })
            .map(|(at, area)| area.end - at)
            .sum()
    }

    /// Joins areas that became alike in `start..end` and at its two ends.
    fn join(&mut self, start: u64, end: u64) {
        let before = self.areas.range(..start).next_back();
        let mut at = before.map_or(start, |(&at, _)| at);
        loop {
            // Never an empty range: `BTreeMap::range` does not take one backwards.
            let mut after = self.areas.range(at + 1..=end.max(at + 1));
            let Some((next, area)) = after.next().map(|(&next, &area)| (next, area)) else {
                return;
            };
            match self.areas.get_mut(&at) {
                Some(previous) if previous.end == next && joins(at, previous, &area) => {
                    previous.end = area.end;
                    self.areas.remove(&next);
                }
                _ => at = next,
            }
        }
    }

    fn split(&mut self, address: u64) {
        if let Some((at, area)) = self.find(address)
            && at < address
        {
            let head = Area {
                end: address,
                ..area
            };
            self.areas.insert(at, head);
            self.areas.insert(address, area.without_first(address - at));
        }
    }
}

fn joins(at: u64, before: &Area, after: &Area) -> bool {
    before.protection == after.protection
        && before.without_first(before.end - at).backing == after.backing
}

#[cfg(test)]
mod tests {
    use pool_core::GuestAddress;

    use super::*;

    fn space() -> AddressSpace {
        AddressSpace::new(Rooms {
            monitor: GuestAddress(0x3f40_0000),
            stack_low: GuestAddress(0x3f80_0000),
            stack_high: GuestAddress(0x4000_0000),
            heap: GuestAddress(0x50_0000),
            mmap_top: GuestAddress(0x3f20_0000),
        })
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
        space.map(0x50_0000, private(0x50_2000, Protection::READ_WRITE));
        space.map(0x50_2000, private(0x50_4000, Protection::READ_WRITE));
        assert_eq!(list(&space), [(0x50_0000, 0x50_4000, "rw-".into())]);
        space.unmap(0x50_1000, 0x50_2000);
        assert_eq!(
            list(&space),
            [
                (0x50_0000, 0x50_1000, "rw-".into()),
                (0x50_2000, 0x50_4000, "rw-".into())
            ]
        );
        assert_eq!(space.private_bytes(), 0x3000);
    }

    #[test]
    fn protection_changes_whole_ranges_or_nothing() {
        let mut space = space();
        space.map(0x50_0000, private(0x50_4000, Protection::READ_WRITE));
        assert!(space.protect(0x50_1000, 0x50_2000, Protection::READ));
        assert_eq!(list(&space).len(), 3);
        assert!(!space.protect(0x50_3000, 0x50_5000, Protection::READ));
        assert!(!space.protect(0x4f_f000, 0x50_1000, Protection::READ));
        assert_eq!(list(&space).len(), 3);
        assert!(space.protect(0x50_1000, 0x50_2000, Protection::READ_WRITE));
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
        space.map(0x40_0000, shared);
        assert!(!space.protect(0x40_0000, 0x40_1000, Protection::READ_WRITE));
        space.unmap(0x40_1000, 0x40_2000);
        let (_, tail) = space.find(0x40_3000).unwrap();
        assert_eq!(tail.backing, Backing::Shared { physical: 0xb000 });
    }

    #[test]
    fn gaps_are_found_below_the_stack_first() {
        let mut space = space();
        assert_eq!(space.find_gap(0x3000), Some(0x3f1f_d000));
        space.map(0x3f1f_d000, private(0x3f20_0000, Protection::READ_WRITE));
        assert_eq!(space.find_gap(0x1000), Some(0x3f1f_c000));
        assert_eq!(space.find_gap(WINDOW_SIZE), Some(0x3ee0_0000));
        assert_eq!(space.find_gap(1 << 30), Some(0x4020_0000));
        assert_eq!(space.find_gap(1 << 47), None);
        space.map(0x3f1f_0000, private(0x3f1f_b000, Protection::READ_WRITE));
        assert_eq!(space.find_gap(0x2000), Some(0x3f1f_b000));
        assert_eq!(space.find_gap(0x3000), Some(0x3f1e_d000));
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
}
