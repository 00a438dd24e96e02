//! Windows of guest addresses: their page tables, and what the processor remembers of them.
//!
//! Page tables are a cache of what the areas and the frames say: they are written where a page is touched
//! or changes, and can be forgotten whole.
//!
//! A right that is withdrawn must be forgotten by the processor. Where its page is taken from the host, or
//! changes its protection there for a moment, the host's kernel sees to that (20 us); only where an entry
//! changes its *kind* must the machine forget everything (100 us and more), because a shadow pager goes
//! on with what it made for the old kind. Other processors must not meet such an entry before it has forgotten, nor
//! one that leads to memory which the machine is yet to be given: they are outside from before it is written.

use std::io;

use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::paging;
use super::space::Refused;
use super::tables::Tables;
use super::{GrowError, GuestMemory, SlotRequest};
use crate::plan::{MAX_MEMORY, SHARED_BASE};

/// RAM is handed to the VM in slots; each further one is at least this large.
const LEAST_GROWTH: u64 = 8 << 20;
/// Tables that one window may need: a page directory pointer table, a directory, a table.
const TABLES_A_WINDOW: u64 = 3;
/// Runs of pages that are made to be forgotten one by one; for more the machine forgets everything.
const MOST_REVOKED: usize = 8;
/// Windows that one entry mapped, of which is known what the processor may remember; for more it forgets
/// everything. As many as the largest guest has in use, so that what it forgets is for the most part gone.
const MOST_REMEMBERED: usize = (MAX_MEMORY / WINDOW_SIZE) as usize;
/// All pages of a window.
pub(super) const ALL: (u16, u16) = (0, PAGES_PER_WINDOW as u16);

/// The pages of the window at `window` that `start..end` reaches, first and past the last.
pub(super) fn pages_of(window: u64, start: u64, end: u64) -> (u16, u16) {
    let page = |address: u64| ((address - window) / PAGE_SIZE) as u16;
    (
        page(start.max(window)),
        page(end.min(window + WINDOW_SIZE).max(window)),
    )
}

impl GuestMemory {
    /// Writes the entries of the window at `window`.
    pub(super) fn map_window(&mut self, window: u64) -> Result<(), GrowError> {
        self.provide_tables()?;
        self.windows.entry(window).or_default().mapped = true;
        self.write_entries(window, ALL, false)
    }

    /// Brings the entries of `start..end` up to date where there are any. `gone`: the caller is about
    /// to take the RAM that they led to from the host.
    pub(super) fn update(&mut self, start: u64, end: u64, gone: bool) -> Result<(), GrowError> {
        let first = start & !(WINDOW_SIZE - 1);
        let reached = self.windows.range(first..end.max(first));
        let mapped = reached.filter(|(_, state)| state.mapped);
        let mapped: Vec<(u64, bool)> = mapped.map(|(&at, s)| (at, s.table.is_some())).collect();
        for (window, has_table) in mapped {
            if !has_table {
                self.provide_tables()?;
            }
            self.write_entries(window, pages_of(window, start, end), gone)?;
        }
        Ok(())
    }

    fn write_entries(
        &mut self,
        window: u64,
        (from, to): (u16, u16),
        gone: bool,
    ) -> Result<(), GrowError> {
        // What faults after this is no repetition.
        self.last_fault = None;
        let Some(state) = self.windows.get_mut(&window).filter(|s| s.mapped) else {
            return Ok(());
        };
        let mut entries = [0; PAGES_PER_WINDOW as usize];
        if let Some(table) = state.table {
            paging::small(&self.space, window, &state.runs, (from, to), &mut entries);
            self.tables.add_monitor(window, &mut entries);
            let entries = &entries[usize::from(from)..usize::from(to)];
            let written = Tables::write_small(&self.ram, table, from, entries)?;
            self.counts.small_entries += written.entries;
            self.revoke(&written.stale, gone);
            return Ok(());
        }
        let large = paging::large(&self.space, window, &state.runs);
        let mut any =
            large.is_none() && paging::small(&self.space, window, &state.runs, ALL, &mut entries);
        any |= self.tables.add_monitor(window, &mut entries);
        if any {
            // Where the monitor is, there is a table already, which a processor may remember.
            let linked = self.tables.linked(&self.ram, window)?;
            let table = match linked {
                Some(table) => table,
                None => self.tables.make(&self.ram)?,
            };
            state.table = Some(table);
            state.large = false;
            if self.remembered.contains_key(&window) {
                self.forget_all();
            }
            let written = Tables::write_small(&self.ram, table, 0, &entries)?;
            if linked.is_none() {
                self.tables.link(&self.ram, window, table)?;
            }
            self.counts.small_entries += written.entries;
            return Ok(());
        }
        state.large = large.is_some();
        let entry = large.unwrap_or(0);
        if large.is_some() {
            let frame = entry & paging::FRAME;
            let before = self.remembered.insert(window, frame);
            if before.is_some_and(|before| before != frame)
                || self.remembered.len() > MOST_REMEMBERED
            {
                self.forget_all();
            }
        }
        let written = self.tables.write_large(&self.ram, window, entry)?;
        self.counts.large_entries += written.entries;
        self.revoke(&written.stale, gone);
        Ok(())
    }

    /// Has the machine forget everything before anybody goes on.
    fn forget_all(&mut self) {
        self.others.stop();
        self.flush = true;
    }

    /// Has the processor forget the pages of `stale`: guest physical address and length each.
    pub(super) fn revoke(&mut self, stale: &[(u64, u64)], gone: bool) {
        let needed = |&&(physical, _): &&(u64, u64)| !gone || physical >= SHARED_BASE;
        let stale = stale.iter().filter(needed);
        for (nth, &(physical, length)) in stale.enumerate() {
            if self.flush {
                return;
            }
            self.revocations += 1;
            let (offset, writable) = match physical.checked_sub(SHARED_BASE) {
                Some(at) => (self.ram.size() as u64 + at, false),
                None => (physical, true),
            };
            let done =
                nth < MOST_REVOKED && self.reservation.revoke(offset, length, writable).is_ok();
            self.flush |= !done;
        }
    }

    /// Forgets windows of `start..end` of which nothing is left.
    pub(super) fn drop_empty(&mut self, start: u64, end: u64) {
        let first = start & !(WINDOW_SIZE - 1);
        let reached = self.windows.range(first..end.max(first));
        let empty = reached.filter(|(_, s)| s.runs.is_empty() && s.table.is_none() && !s.large);
        let empty: Vec<u64> = empty.map(|(&window, _)| window).collect();
        for window in empty {
            self.windows.remove(&window);
        }
    }

    /// Sees to it that the tables of one more window can be had.
    fn provide_tables(&mut self) -> Result<(), GrowError> {
        if self.tables.left() >= TABLES_A_WINDOW {
            return Ok(());
        }
        self.collect_tables()?;
        if !self.take_tables()? {
            self.forget_tables()?;
            if !self.take_tables()? {
                return Err(Refused::Limit(self.limit >> 10).into());
            }
        }
        Ok(())
    }

    /// Takes frames for the tables of one window; false when there are none.
    pub(super) fn take_tables(&mut self) -> Result<bool, GrowError> {
        while self.tables.left() < TABLES_A_WINDOW {
            let Some(frame) = self.take_table()? else {
                return Ok(false);
            };
            self.tables.add(frame);
        }
        Ok(true)
    }

    /// Forgets the tables if half of them lead nowhere; looked at whenever there are twice as many as
    /// were needed the last time.
    pub(super) fn collect_tables(&mut self) -> Result<bool, GrowError> {
        if self.tables.pages() < self.collect_from {
            return Ok(false);
        }
        let needed = self.tables_needed();
        self.collect_from = super::FREE_TABLES.max(2 * needed);
        if self.tables.pages() < 2 * needed {
            return Ok(false);
        }
        self.forget_tables()?;
        Ok(true)
    }

    fn tables_needed(&self) -> u64 {
        let (mut needed, mut directory, mut pointers) = (0, None, None);
        for &window in self.windows.keys() {
            if self
                .space
                .over(window, window + WINDOW_SIZE)
                .next()
                .is_none()
            {
                continue;
            }
            needed += 1;
            needed += u64::from(directory.replace(window >> 30) != Some(window >> 30));
            needed += u64::from(pointers.replace(window >> 39) != Some(window >> 39));
        }
        needed
    }

    /// Starts the page tables again: what is used comes back fault by fault.
    fn forget_tables(&mut self) -> Result<(), GrowError> {
        self.forget_all();
        for frame in self.tables.clear() {
            self.reservation.discard(frame, PAGE_SIZE)?;
            self.frames.give(frame, 1);
        }
        self.reservation.discard(self.tables.root(), PAGE_SIZE)?;
        self.windows.retain(|_, state| {
            state.table = None;
            state.large = false;
            state.mapped = false;
            !state.runs.is_empty()
        });
        self.take_tables()?;
        self.tables.write_monitor(&self.ram)?;
        Ok(())
    }

    /// Has memory slots cover all RAM that was handed out.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        while self.committed < self.frames.reached() {
            let room = self.ram.size() as u64 - self.committed;
            let growth = LEAST_GROWTH.max(self.committed).min(room);
            self.commit_more(growth)?;
        }
        Ok(())
    }

    pub(super) fn commit_more(&mut self, length: u64) -> io::Result<()> {
        self.others.stop();
        let at = self.committed;
        self.reservation.map_anonymous(at, length, true)?;
        self.request_slot(at, at, length, false)?;
        self.committed += length;
        Ok(())
    }

    pub(super) fn request_slot(
        &mut self,
        physical: u64,
        offset: u64,
        length: u64,
        read_only: bool,
    ) -> io::Result<()> {
        let host = self.reservation.host_address(offset, length)?;
        self.slots.push(SlotRequest {
            slot: self.next_slot,
            physical,
            host,
            length,
            read_only,
        });
        self.next_slot += 1;
        Ok(())
    }
}
