//! Giving frames to pages that are touched, and taking them back.

use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

use super::access::Place;
use super::batch::{ALONE, Around, Batch};
use super::files::FileId;
use super::runs::{Run, Runs};
use super::space::{Area, Backing, Refused};
use super::windows::{ALL, pages_of};
use super::{FREE_TABLES, GrowError, GuestMemory};

impl GuestMemory {
    /// Gives the page at `address` a frame and an entry, and those that are likely to be next; a call
    /// on the guest's behalf goes on to `until`. False when there is no such page: beyond the end of a
    /// file, or what lies there cannot be read.
    pub(super) fn open(&mut self, address: u64, until: u64) -> Result<bool, GrowError> {
        let Some((start, area)) = self.space.find(address) else {
            return Ok(false);
        };
        let window = address & !(WINDOW_SIZE - 1);
        let (page, demanded) = pages_of(
            window,
            address,
            until.checked_next_multiple_of(PAGE_SIZE).unwrap_or(until),
        );
        let mut changed = ALL;
        let state = self.windows.get(&window);
        let had = state.is_some_and(|state| state.runs.physical(page).is_some());
        if !had && !matches!(area.backing, Backing::Shared { .. }) {
            match self.give(window, (start, area), page, demanded)? {
                Some(given) => changed = given,
                None => return Ok(false),
            }
        }
        if self.windows.get(&window).is_some_and(|state| state.mapped) {
            let at = |page: u16| window + u64::from(page) * PAGE_SIZE;
            self.update(at(changed.0), at(changed.1), false)?;
        } else {
            self.map_window(window)?;
        }
        Ok(true)
    }

    /// Gives the pages of `start..end` before they are touched. What cannot be had without taking
    /// something back is left to the touch.
    pub(super) fn open_early(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        if self.left() < (end - start) / PAGE_SIZE {
            return Ok(());
        }
        let mut at = start;
        while at < end {
            let until = end.min((at & !(WINDOW_SIZE - 1)) + WINDOW_SIZE);
            self.open(at, until)?;
            at = until;
        }
        Ok(())
    }

    /// The pages from `page` on that were given frames.
    fn give(
        &mut self,
        window: u64,
        (start, area): (u64, Area),
        page: u16,
        demanded: u16,
    ) -> Result<Option<(u16, u16)>, GrowError> {
        if matches!(area.backing, Backing::Shown { .. }) {
            return self.show(window, (start, area), page, demanded);
        }
        let none = Runs::default();
        let runs = self.windows.get(&window).map_or(&none, |state| &state.runs);
        let room = pages_of(window, start, area.end);
        let around = Around {
            room,
            runs,
            full_below: start < window && self.is_full(window.wrapping_sub(WINDOW_SIZE)),
            full_above: area.end > window + WINDOW_SIZE && self.is_full(window + WINDOW_SIZE),
        };
        let demanded = demanded.min(runs.gap_end(page, room.1));
        let mut batch = around.batch(page);
        let in_order = batch.follows != 0 && self.was_touched(window, room, page, batch);
        if !in_order {
            batch.from = batch.from.max(page & !(ALONE - 1));
            batch.to = batch.to.min((page & !(ALONE - 1)) + ALONE);
        }
        batch.to = batch.to.max(demanded);
        if in_order
            && area.is_anonymous()
            && batch.is_window()
            && self.left() >= PAGES_PER_WINDOW
            && let Some(ram) = self.frames.take_window()
        {
            self.give_window(window, ram)?;
            return Ok(Some(ALL));
        }
        if self.left() < u64::from(batch.to - batch.from) {
            // Just what is needed, as far as it goes.
            batch.from = page;
            batch.to = demanded.max(page + 1);
        }
        let runs = self.take_runs(batch, page)?;
        let to = runs.last().map_or(page, |run| run.end());
        if let Backing::File { file, offset } = area.backing {
            let from = window + u64::from(batch.from) * PAGE_SIZE;
            return self.fill_pages(window, file, offset + (from - start), &runs, page);
        }
        if in_order {
            for run in &runs {
                self.reservation.populate(run.physical(), run.bytes());
            }
        }
        self.insert(window, &runs);
        Ok(Some((batch.from, to)))
    }

    fn give_window(&mut self, window: u64, ram: u64) -> Result<(), GrowError> {
        self.used += PAGES_PER_WINDOW;
        self.commit()?;
        self.reservation.advise_huge(ram, WINDOW_SIZE)?;
        self.reservation.populate(ram, WINDOW_SIZE);
        self.insert(window, &[Run::at(0, PAGES_PER_WINDOW, ram)]);
        self.windows.entry(window).or_default().huge = true;
        Ok(())
    }

    pub(super) fn insert(&mut self, window: u64, runs: &[Run]) {
        let state = self.windows.entry(window).or_default();
        for &run in runs {
            state.runs.insert(run);
        }
    }

    /// Frames for `batch`, as many as there are, but for `page` in any case.
    pub(super) fn take_runs(&mut self, batch: Batch, page: u16) -> Result<Vec<Run>, GrowError> {
        let mut runs: Vec<Run> = Vec::new();
        let mut at = batch.from;
        while at < batch.to {
            if let Some((physical, count)) = self.take(u64::from(batch.to - at))? {
                runs.push(Run::at(at, count, physical));
                at += count as u16;
            } else if at > page {
                break;
            } else if !self.reclaim()? {
                for run in runs {
                    self.give_back(run)?;
                }
                return Err(Refused::Limit(self.limit >> 10).into());
            }
        }
        Ok(runs)
    }

    /// Fills `runs` with bytes of `file` from `offset` on. Pages past its end are given back.
    fn fill_pages(
        &mut self,
        window: u64,
        file: FileId,
        offset: u64,
        runs: &[Run],
        page: u16,
    ) -> Result<Option<(u16, u16)>, GrowError> {
        let from = runs.first().map_or(page, |run| run.page);
        let filled = self.fill(file, offset, runs);
        let end = from + filled.div_ceil(PAGE_SIZE) as u16;
        // Without the page that was asked for the others are of no use.
        let end = if page < end { end } else { from };
        for run in runs {
            if let Some(rest) = run.within(end, u16::MAX) {
                self.give_back(rest)?;
            }
        }
        let kept: Vec<Run> = runs.iter().filter_map(|run| run.within(0, end)).collect();
        self.insert(window, &kept);
        Ok((page < end).then_some((from, end)))
    }

    /// Bytes read: fewer than the runs have at the end of the file, or where it cannot be read.
    fn fill(&self, file: FileId, offset: u64, runs: &[Run]) -> u64 {
        let mut done = 0;
        for run in runs {
            let Some(slice) = self.slice(Place::Ram(run.physical()), run.bytes()) else {
                return done;
            };
            let filled = self.files.fill(file, offset + done, &slice);
            done += filled;
            if filled < run.bytes() {
                return done;
            }
        }
        done
    }

    /// True when all pages of the window at `window` have frames.
    fn is_full(&self, window: u64) -> bool {
        let state = self.windows.get(&window);
        state.is_some_and(|state| state.runs.had_from(ALL.0, ALL.1) == ALL.1)
    }

    /// True when three of four of the pages that `batch` follows are in the host's memory.
    fn was_touched(&self, window: u64, room: (u16, u16), page: u16, batch: Batch) -> bool {
        let length = batch.follows.unsigned_abs().min(ALL.1.into()) as u16;
        let (window, from, to) = match batch.follows > 0 {
            true if page == room.0 => (window - WINDOW_SIZE, 0, ALL.1),
            true => (window, room.0.max(page.saturating_sub(length)), page),
            false if page + 1 == room.1 => (window + WINDOW_SIZE, 0, ALL.1),
            false => (window, page + 1, room.1.min(page + 1 + length)),
        };
        let Some(state) = self.windows.get(&window) else {
            return false;
        };
        let (mut had, mut all) = (0, 0);
        for run in state.runs.within(from, to) {
            let resident = self.reservation.resident(run.physical(), run.bytes());
            had += resident.iter().filter(|&&there| there).count();
            all += usize::from(run.count);
        }
        had * 4 >= all * 3
    }

    /// Pages that the guest may still be given.
    pub(super) fn left(&self) -> u64 {
        let tables = self.tables.frames().saturating_sub(FREE_TABLES);
        (self.limit / PAGE_SIZE).saturating_sub(self.used + tables)
    }

    /// Between one and `most` frames, charged to the guest: guest physical address and number.
    pub(super) fn take(&mut self, most: u64) -> Result<Option<(u64, u64)>, GrowError> {
        let most = most.min(self.left());
        if most == 0 {
            return Ok(None);
        }
        let Some((physical, count)) = self.frames.take_pages(most) else {
            return Ok(None);
        };
        self.used += count;
        self.commit()?;
        Ok(Some((physical, count)))
    }

    /// A frame for a page table.
    pub(super) fn take_table(&mut self) -> Result<Option<u64>, GrowError> {
        if self.tables.frames() >= FREE_TABLES && self.left() == 0 {
            return Ok(None);
        }
        let Some((frame, _)) = self.frames.take_pages(1) else {
            return Ok(None);
        };
        self.commit()?;
        Ok(Some(frame))
    }

    /// Takes a frame back, whose entries are gone. As the host's pages are taken away, its kernel forgets
    /// every translation to what was there.
    pub(super) fn give_back(&mut self, run: Run) -> Result<(), GrowError> {
        let (physical, length) = (run.physical(), run.bytes());
        if self.unlay(run) || self.overlaid.contains(&physical) {
            // A segment or a file may be laid in here.
            self.reservation.map_anonymous(physical, length, true)?;
        } else {
            self.reservation.discard(physical, length)?;
        }
        self.used -= u64::from(run.count);
        self.frames.give(physical, run.count.into());
        Ok(())
    }

    /// Takes the frames of `start..end` back, and brings its entries up to date.
    pub(super) fn close(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        let mut gone = Vec::new();
        for (_, runs) in self.detach(start, end)? {
            gone.extend(runs);
        }
        self.update(start, end, true)?;
        for run in gone {
            self.give_back(run)?;
        }
        self.drop_empty(start, end);
        Ok(())
    }

    /// Takes the frames of `start..end` out of their windows, each with its runs; their entries stay.
    pub(super) fn detach(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<(u64, Vec<Run>)>, GrowError> {
        let first = start & !(WINDOW_SIZE - 1);
        let mut detached = Vec::new();
        for (&window, state) in self.windows.range_mut(first..end.max(first)) {
            let (from, to) = pages_of(window, start, end);
            let whole = state.runs.window();
            let removed = state.runs.remove(from, to);
            if removed.is_empty() {
                continue;
            }
            if std::mem::take(&mut state.huge)
                && let Some(ram) = whole
            {
                // The host may not fill up what the guest gave back.
                self.reservation.advise_small(ram, WINDOW_SIZE)?;
            }
            detached.push((window, removed));
        }
        Ok(detached)
    }
}
