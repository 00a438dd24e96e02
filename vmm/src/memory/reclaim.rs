//! At the limit: taking back what was given and not touched.
//!
//! Pages come in batches ([`super::batch`]), so some were never touched. Before a guest is refused a page,
//! the host is asked which are in its memory; those that are not and read as zeros are taken back. A
//! page that the host has swapped out does not read as zeros, unless it is: then nothing is lost either.

use pool_core::{PAGE_SIZE, WINDOW_SIZE};

use super::access::Place;
use super::runs::Run;
use super::space::Backing;
use super::windows::pages_of;
use super::{GrowError, GuestMemory};

impl GuestMemory {
    /// Takes back what was not touched, and tables that lead nowhere; true when that was anything.
    pub(super) fn reclaim(&mut self) -> Result<bool, GrowError> {
        let left = self.left();
        for (start, end) in self.untouched() {
            self.close(start, end)?;
        }
        self.collect_from = self.collect_from.min(super::FREE_TABLES);
        self.collect_tables()?;
        Ok(self.left() > left)
    }

    /// Guest addresses, first and past the last, of untouched anonymous pages that have frames.
    fn untouched(&self) -> Vec<(u64, u64)> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        for (&window, state) in &self.windows {
            for (at, area) in self.space.over(window, window + WINDOW_SIZE) {
                if area.backing != Backing::Private {
                    continue;
                }
                let (from, to) = pages_of(window, at, area.end);
                for run in state.runs.within(from, to) {
                    let base = window + u64::from(run.page) * PAGE_SIZE;
                    self.untouched_of(run, base, &mut found);
                }
            }
        }
        found
    }

    fn untouched_of(&self, run: Run, base: u64, found: &mut Vec<(u64, u64)>) {
        let resident = self.reservation.resident(run.physical(), run.bytes());
        for (nth, there) in (0..).zip(resident) {
            if there || !self.is_zero(run.physical() + nth * PAGE_SIZE) {
                continue;
            }
            let address = base + nth * PAGE_SIZE;
            match found.last_mut() {
                Some(last) if last.1 == address => last.1 += PAGE_SIZE,
                _ => found.push((address, address + PAGE_SIZE)),
            }
        }
    }

    fn is_zero(&self, physical: u64) -> bool {
        let mut page = [0; PAGE_SIZE as usize];
        let slice = self.slice(Place::Ram(physical), PAGE_SIZE);
        slice.is_some_and(|slice| {
            slice.copy_to(&mut page);
            pool_core::page::is_zero(&page)
        })
    }
}
