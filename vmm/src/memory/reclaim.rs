//! At the limit: taking back what a guest can do without.
//!
//! First what was given and not touched: pages come in batches ([`super::batch`]), so some never were. The host
//! is asked which are in its memory; those that are not and read as zeros are taken back. A page that the
//! host has swapped out does not read as zeros, unless it is: then nothing is lost either.
//!
//! Then pages of files that were not written, as a kernel does: what has no dirty bit and what its file has
//! comes back from there; and files' own pages, which lose nothing. Not so the image's own: until they are written they are the pool's pages, and a
//! program without them gets nowhere.
//!
//! What a call has found and not yet used (`held`) stays, and what each processor was given last (`given`): two pages that one
//! instruction needs, or two processors, would else take from each other for ever.

use pool_core::{PAGE_SIZE, WINDOW_SIZE};

use super::access::Place;
use super::files::FileId;
use super::runs::Run;
use super::space::Backing;
use super::tables::Tables;
use super::windows::pages_of;
use super::{GrowError, GuestMemory};

const PAGE: usize = PAGE_SIZE as usize;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Untouched,
    Unwritten,
}

impl GuestMemory {
    /// Takes back what was not touched, and tables that lead nowhere; if there is none of that, what was
    /// not written. True when that was anything.
    pub(super) fn reclaim(&mut self) -> Result<bool, GrowError> {
        let left = self.left();
        // What is looked at is not written meanwhile.
        self.stop_others();
        self.take_back(Kind::Untouched)?;
        self.collect_from = self.collect_from.min(super::FREE_TABLES);
        self.collect_tables()?;
        if self.left() == left {
            self.take_back(Kind::Unwritten)?;
        }
        Ok(self.left() > left)
    }

    fn take_back(&mut self, kind: Kind) -> Result<(), GrowError> {
        for (start, end) in self.dispensable(kind) {
            self.close(start, end)?;
        }
        Ok(())
    }

    /// Guest addresses, first and past the last, of pages that can be taken back.
    fn dispensable(&self, kind: Kind) -> Vec<(u64, u64)> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        for (&window, state) in &self.windows {
            for (at, area) in self.space.over(window, window + WINDOW_SIZE) {
                let (from, to) = pages_of(window, at, area.end);
                for run in state.runs.within(from, to) {
                    let base = window + u64::from(run.page) * PAGE_SIZE;
                    let pages = match (kind, area.backing) {
                        (Kind::Untouched, Backing::Private | Backing::Kept) => self.untouched(run),
                        (Kind::Unwritten, Backing::File { file, offset }) => {
                            self.unwritten(run, state.table, file, offset + (base - at))
                        }
                        (Kind::Unwritten, Backing::Shown { .. }) => self.unused(run),
                        _ => continue,
                    };
                    add(&mut found, base, &pages);
                }
            }
        }
        found
    }

    /// For each page of `run`: it was not touched.
    fn untouched(&self, run: Run) -> Vec<bool> {
        let resident = self.reservation.resident(run.physical(), run.bytes());
        let pages = (0..).zip(resident);
        let untouched = pages.map(|(nth, there)| {
            let physical = run.physical() + nth * PAGE_SIZE;
            !there && !self.is_held(physical) && self.is_zero(physical)
        });
        untouched.collect()
    }

    /// For each page of `run`, which the file has from `offset` on and `table` has entries for: it was not
    /// written.
    fn unwritten(&self, run: Run, table: Option<u64>, file: FileId, offset: u64) -> Vec<bool> {
        let mut content = [0; PAGE];
        let pages = (0..).zip(run.page..run.end());
        let unwritten = pages.map(|(nth, page)| {
            let physical = run.physical() + nth * PAGE_SIZE;
            !self.is_held(physical)
                && !self.overlaid.contains(&physical)
                && !table.is_some_and(|table| Tables::was_written(&self.ram, table, page))
                && self
                    .files
                    .read(file, offset + nth * PAGE_SIZE, &mut content)
                    == PAGE_SIZE
                && self.page(physical).is_some_and(|page| page == content)
        });
        unwritten.collect()
    }

    /// For each page of `run`: no call is about to use it.
    fn unused(&self, run: Run) -> Vec<bool> {
        let pages = 0..u64::from(run.count);
        pages
            .map(|nth| !self.is_held(run.physical() + nth * PAGE_SIZE))
            .collect()
    }

    fn is_held(&self, physical: u64) -> bool {
        let page = physical..physical + PAGE_SIZE;
        let meets = |held: &std::ops::Range<u64>| held.start < page.end && page.start < held.end;
        let given = self.given.values().flatten();
        self.held.iter().any(meets) || given.into_iter().any(|&given| given == physical)
    }

    fn is_zero(&self, physical: u64) -> bool {
        self.page(physical)
            .is_some_and(|page| pool_core::page::is_zero(&page))
    }

    fn page(&self, physical: u64) -> Option<[u8; PAGE]> {
        let mut page = [0; PAGE];
        self.slice(Place::Ram(physical), PAGE_SIZE)?
            .copy_to(&mut page);
        Some(page)
    }
}

/// Adds those of `pages`, from guest address `base` on, to `found`.
fn add(found: &mut Vec<(u64, u64)>, base: u64, pages: &[bool]) {
    let addresses = (0..).map(|nth| base + nth * PAGE_SIZE);
    for (address, _) in addresses.zip(pages).filter(|&(_, &taken)| taken) {
        match found.last_mut() {
            Some(last) if last.1 == address => last.1 += PAGE_SIZE,
            _ => found.push((address, address + PAGE_SIZE)),
        }
    }
}
