//! What a guest is charged for, against its limit (`--memory`).
//!
//! Charged is every private page that the guest was ever allowed to use since it mapped it, from
//! the moment it is allowed to, touched or not; and each page table that such pages may need,
//! beyond those that every guest has for nothing. What is charged can be had: a touch never fails
//! for want of memory. Not charged are shared pages, reservations (`PROT_NONE`), and the part of
//! the stack that was not reached.

use std::collections::BTreeMap;

use pool_core::{PAGE_SIZE, WINDOW_SIZE};

/// Page tables that cost a guest nothing: those that fit RAM window 0 beside the monitor's two
/// pages and the top-level table.
pub const FREE_TABLES: u64 = WINDOW_SIZE / PAGE_SIZE - 3;

/// Charged pages of a window of guest addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    pages: u16,
    /// Has a table for pages that are not charged.
    pinned: bool,
}

/// The pages and page tables that a guest is charged for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Charges {
    pages: u64,
    /// By window of 2 MiB: each may need a table of 4 KiB entries.
    windows: BTreeMap<u64, Window>,
    /// How many windows there are in each GiB: a page directory each.
    directories: BTreeMap<u64, u32>,
    /// How many directories there are in each 512 GiB: a table each.
    pointers: BTreeMap<u64, u32>,
}

impl Charges {
    /// Bytes charged.
    pub fn bytes(&self) -> u64 {
        (self.pages + self.tables().saturating_sub(FREE_TABLES)) * PAGE_SIZE
    }

    /// Charged pages, without tables, in bytes.
    pub fn page_bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// Page tables below the top-level one that the guest may need at once.
    pub fn tables(&self) -> u64 {
        (self.windows.len() + self.directories.len() + self.pointers.len()) as u64
    }

    /// Charged pages of the window at `window`.
    pub fn in_window(&self, window: u64) -> u64 {
        self.windows.get(&window).map_or(0, |w| w.pages.into())
    }

    /// Charges the pages `start..end`, which were not charged.
    pub fn add(&mut self, start: u64, end: u64) {
        for_each_window(start, end, |window, pages| {
            self.window_mut(window).pages += pages;
            self.pages += u64::from(pages);
        });
    }

    /// Takes the charge of `start..end` back.
    pub fn remove(&mut self, start: u64, end: u64) {
        for_each_window(start, end, |window, pages| {
            let state = self.window_mut(window);
            state.pages -= pages;
            let unused = *state == Window::default();
            self.pages -= u64::from(pages);
            if unused {
                self.windows.remove(&window);
                if leave(&mut self.directories, window >> 30) {
                    leave(&mut self.pointers, window >> 39);
                }
            }
        });
    }

    /// Notes that the windows of `start..end` have tables whatever is charged there.
    pub fn pin(&mut self, start: u64, end: u64) {
        for_each_window(start, end, |window, _| {
            self.window_mut(window).pinned = true;
        });
    }

    fn window_mut(&mut self, window: u64) -> &mut Window {
        let (directories, pointers) = (&mut self.directories, &mut self.pointers);
        self.windows.entry(window).or_insert_with(|| {
            let directory = directories.entry(window >> 30).or_default();
            if *directory == 0 {
                *pointers.entry(window >> 39).or_default() += 1;
            }
            *directory += 1;
            Window::default()
        })
    }
}

/// One user of `key` less; true when it was the last.
fn leave(users: &mut BTreeMap<u64, u32>, key: u64) -> bool {
    let Some(count) = users.get_mut(&key) else {
        return false;
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        users.remove(&key);
    }
    last
}

/// Calls `act` with each window that `start..end` reaches into and the number of its pages there.
fn for_each_window(start: u64, end: u64, mut act: impl FnMut(u64, u16)) {
    let mut at = start;
    while at < end {
        let window = at & !(WINDOW_SIZE - 1);
        let next = end.min(window + WINDOW_SIZE);
        act(window, ((next - at) / PAGE_SIZE) as u16);
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_pages_are_charged_with_their_tables() {
        let mut charges = Charges::default();
        for nth in 0..FREE_TABLES {
            charges.add(nth << 30, (nth << 30) + PAGE_SIZE);
        }
        // A table and a directory a page, and one pointer table.
        assert_eq!(charges.tables(), 2 * FREE_TABLES + 1);
        assert_eq!(charges.bytes(), (2 * FREE_TABLES + 1) * PAGE_SIZE);
        for nth in 0..FREE_TABLES {
            charges.remove(nth << 30, (nth << 30) + PAGE_SIZE);
        }
        assert_eq!(charges, Charges::default());
    }

    #[test]
    fn dense_memory_costs_no_tables_up_to_a_gib() {
        let mut charges = Charges::default();
        charges.add(1 << 30, 3 << 29);
        assert_eq!(charges.bytes(), 1 << 29);
        assert_eq!(charges.in_window(1 << 30), WINDOW_SIZE / PAGE_SIZE);
        charges.pin(1 << 32, (1 << 32) + PAGE_SIZE);
        assert_eq!(charges.bytes(), 1 << 29);
        assert_eq!(charges.in_window(1 << 32), 0);
    }
}
