//! Windows of guest addresses: the RAM behind their private pages, and their page tables.

use std::io;

use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::access::Place;
use super::charge::FREE_TABLES;
use super::frames::{self, Backed, Run};
use super::{Forgotten, GrowError, GuestMemory, SlotRequest, Window, paging, space};

/// RAM is handed to the VM in slots; each further one is at least this large.
const LEAST_GROWTH: u64 = 8 << 20;
/// From this much RAM on, further windows are backed by 2 MiB host pages: touching one costs 1/300
/// of touching its pages, and at most an eighth of the guest's memory is wasted.
const HUGE_FROM: u64 = 16 << 20;
/// A window of RAM of which fewer pages than this are still charged is repacked into pages, so
/// that RAM never takes more room than twice what is charged, and as much again in pages.
const LEAST_CHARGED: u64 = PAGES_PER_WINDOW / 2;
/// Tables that one window may need: a page directory pointer table, a directory, a table.
const TABLES_A_WINDOW: u64 = 3;

/// Windows of RAM beyond what lies in windows from the start that a guest of `limit` bytes can
/// come to use.
pub(super) fn most_windows(limit: u64) -> u64 {
    const SPARE: u64 = 4;
    3 * limit.div_ceil(WINDOW_SIZE) + SPARE
}

impl GuestMemory {
    /// Gives the window at `window` RAM for its private pages, and page-table entries.
    pub(super) fn map_window(&mut self, window: u64) -> Result<(), GrowError> {
        self.windows.entry(window).or_default().mapped = true;
        self.update_window(window, Forgotten::Nothing)
    }

    /// Charges the piece of the stack that holds `address`, if it was not reached before.
    pub(super) fn grow(&mut self, address: u64) -> Result<bool, GrowError> {
        let Some((start, end)) = self.space.grow(address)? else {
            return Ok(false);
        };
        self.update(start, end, Forgotten::Nothing)?;
        Ok(true)
    }

    /// Replaces the private memory of `start..end` by untouched zeros. As the host's pages are
    /// taken away, its kernel forgets every translation to what was there.
    pub(super) fn reset(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        self.each_run(start, end, |memory, physical, length, image| {
            if image {
                // A segment may be laid in here.
                memory.reservation.map_anonymous(physical, length, true)
            } else {
                memory.reservation.discard(physical, length)
            }
        })
    }

    /// Calls `act` with guest physical address, length and "is the image's window" of the RAM
    /// behind `start..end`.
    pub(super) fn each_run(
        &self,
        start: u64,
        end: u64,
        act: impl Fn(&Self, u64, u64, bool) -> io::Result<()>,
    ) -> Result<(), GrowError> {
        let first = start & !(WINDOW_SIZE - 1);
        for (&window, state) in self.windows.range(first..end.max(first)) {
            let (low, high) = (start.max(window), end.min(window + WINDOW_SIZE));
            let page = |address: u64| ((address - window) / PAGE_SIZE) as u16;
            let image = matches!(state.backed, Backed::Window { image: true, .. });
            for run in state.backed.runs(page(low), page(high)) {
                act(self, run.physical(), run.bytes(), image)?;
            }
        }
        Ok(())
    }

    /// Brings every window in `start..end` that has been touched up to date.
    pub(super) fn update(
        &mut self,
        start: u64,
        end: u64,
        forgotten: Forgotten,
    ) -> Result<(), GrowError> {
        // What faults after this is no repetition.
        self.last_fault = None;
        let first = start & !(WINDOW_SIZE - 1);
        let touched = self.windows.range(first..end.max(first));
        let touched: Vec<u64> = touched.map(|(&window, _)| window).collect();
        touched
            .into_iter()
            .try_for_each(|window| self.update_window(window, forgotten))
    }

    fn update_window(&mut self, window: u64, forgotten: Forgotten) -> Result<(), GrowError> {
        let Some(mut state) = self.windows.remove(&window) else {
            return Ok(());
        };
        let done = self.update_state(window, &mut state, forgotten);
        if state.table.is_some() || state.mapped || state.backed != Backed::Nothing {
            self.windows.insert(window, state);
        }
        done
    }

    fn update_state(
        &mut self,
        window: u64,
        state: &mut Window,
        forgotten: Forgotten,
    ) -> Result<(), GrowError> {
        self.fit_ram(window, &mut state.backed)?;
        if !state.mapped {
            return Ok(());
        }
        let entries = paging::window_entries(&self.space, window, &state.backed);
        if self.provide_tables()? {
            // This window is not among the others now.
            state.table = None;
        }
        let written = self.tables.write(&self.ram, window, state.table, entries)?;
        state.table = written.table;
        state.mapped = written.mapped;
        let remembered = written.stale && forgotten == Forgotten::Nothing;
        self.flush |= remembered || written.restructured;
        self.counts.large_entries += written.large;
        self.counts.small_entries += written.small;
        Ok(())
    }

    /// Makes `backed` the RAM of just the private pages of the window.
    fn fit_ram(&mut self, window: u64, backed: &mut Backed) -> Result<(), GrowError> {
        let charged = self.space.charges().in_window(window);
        match backed {
            Backed::Nothing if charged == 0 => {}
            Backed::Nothing if charged == PAGES_PER_WINDOW => {
                let ram = self.frames.take_window().ok_or(GrowError::Exhausted)?;
                self.commit()?;
                let huge = ram >= HUGE_FROM;
                if huge {
                    self.reservation.advise_huge(ram, WINDOW_SIZE)?;
                }
                *backed = Backed::Window {
                    ram,
                    image: false,
                    huge,
                };
            }
            Backed::Nothing => {
                *backed = Backed::Pages(Vec::new());
                self.fit_pages(window, backed)?;
            }
            Backed::Window { ram, huge, .. } if charged == 0 => {
                let (ram, huge) = (*ram, *huge);
                *backed = Backed::Nothing;
                self.give_window(ram, huge)?;
            }
            Backed::Window {
                ram,
                image: false,
                huge,
            } if charged < LEAST_CHARGED => {
                let (ram, huge) = (*ram, *huge);
                *backed = Backed::Pages(Vec::new());
                self.fit_pages(window, backed)?;
                self.repack(ram, backed)?;
                self.give_window(ram, huge)?;
            }
            Backed::Window { ram, huge, .. } => {
                if *huge && charged < PAGES_PER_WINDOW {
                    // The host may not fill up what the guest gave back.
                    *huge = false;
                    self.reservation.advise_small(*ram, WINDOW_SIZE)?;
                }
            }
            Backed::Pages(_) => self.fit_pages(window, backed)?,
        }
        Ok(())
    }

    fn fit_pages(&mut self, window: u64, backed: &mut Backed) -> Result<(), GrowError> {
        let Backed::Pages(runs) = backed else {
            return Ok(());
        };
        let end = window + WINDOW_SIZE;
        let page = |address: u64| ((address - window) / PAGE_SIZE) as u16;
        let mut wanted: Vec<(u16, u16)> = Vec::new();
        for (at, area) in self.space.over(window, end) {
            if area.backing != space::Backing::Private {
                continue;
            }
            let (from, to) = (page(at.max(window)), page(area.end.min(end)));
            match wanted.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => wanted.push((from, to)),
            }
        }
        let complete = frames::fit(runs, &wanted, &mut self.frames);
        if runs.is_empty() {
            *backed = Backed::Nothing;
        }
        self.commit()?;
        if complete {
            Ok(())
        } else {
            Err(GrowError::Exhausted)
        }
    }

    /// Copies what is in `backed` from its places in the RAM window at `ram`.
    fn repack(&mut self, ram: u64, backed: &Backed) -> Result<(), GrowError> {
        let mut bytes = [0; PAGE_SIZE as usize];
        let copy = |at: u64, to: u64, bytes: &mut [u8]| {
            self.slice(Place::Ram(at), PAGE_SIZE)?.copy_to(bytes);
            if !pool_core::page::is_zero(bytes) {
                self.slice(Place::Ram(to), PAGE_SIZE)?.copy_from(bytes);
            }
            Some(())
        };
        for run in backed.runs(0, PAGES_PER_WINDOW as u16) {
            for nth in 0..run.count {
                let Run { page, frame, .. } = run;
                let at = ram + u64::from(page + nth) * PAGE_SIZE;
                let to = (u64::from(frame) + u64::from(nth)) * PAGE_SIZE;
                copy(at, to, &mut bytes).ok_or(GrowError::Exhausted)?;
            }
        }
        self.flush = true;
        Ok(())
    }

    fn give_window(&mut self, ram: u64, huge: bool) -> Result<(), GrowError> {
        self.reservation.discard(ram, WINDOW_SIZE)?;
        if huge {
            self.reservation.advise_small(ram, WINDOW_SIZE)?;
        }
        self.frames.give_window(ram);
        Ok(())
    }

    /// Sees to it that the tables of one more window can be had; true when all were forgotten
    /// for it. The guest is charged for as many as its pages may need, so that more than those
    /// are in use means that some lead nowhere.
    fn provide_tables(&mut self) -> Result<bool, GrowError> {
        if self.tables.left() >= TABLES_A_WINDOW {
            return Ok(false);
        }
        let allowed = self.space.charges().tables().max(FREE_TABLES);
        let forget = self.tables.pages() > allowed;
        if forget {
            self.forget_tables()?;
        }
        while self.tables.left() < TABLES_A_WINDOW {
            let (frame, _) = self.frames.take_pages(1).ok_or(GrowError::Exhausted)?;
            self.commit()?;
            self.tables.add(frame);
        }
        Ok(forget)
    }

    /// Starts the page tables again: what is used comes back fault by fault.
    fn forget_tables(&mut self) -> Result<(), GrowError> {
        for frame in self.tables.clear() {
            self.reservation.discard(frame, PAGE_SIZE)?;
            self.frames.give_pages(frame, 1);
        }
        let root = self.tables.root();
        self.reservation.discard(root, WINDOW_SIZE - root)?;
        self.tables.write_monitor(&self.ram)?;
        self.windows.retain(|_, window| {
            window.table = None;
            window.mapped = false;
            window.backed != Backed::Nothing
        });
        self.flush = true;
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
