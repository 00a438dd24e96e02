//! Guest physical RAM: handed out by windows of 2 MiB, or by pages out of windows that were cut
//! up. Pure: what is handed out and what is free.
//!
//! A window of guest addresses that is charged whole gets a window of RAM, for one page-table
//! entry. One of which the guest may use only a part gets pages ([`Backed::Pages`]): memory slots
//! cost by their size, and a guest may use a page here and there in any number of windows.

use std::collections::BTreeMap;

use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

/// The RAM of a guest that is free. Whatever is handed out reads as zeros.
#[derive(Debug)]
pub(super) struct Frames {
    windows: Vec<u64>,
    /// First page and number of pages, which never touch each other.
    pages: BTreeMap<u64, u64>,
    /// First byte never handed out.
    next: u64,
    /// End of RAM.
    end: u64,
}

/// Consecutive pages of a window of guest addresses that lie in consecutive pages of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First page in the window.
    pub(super) page: u16,
    /// Pages.
    pub(super) count: u16,
    /// First page of RAM.
    pub(super) frame: u32,
}

impl Run {
    pub(super) fn end(self) -> u16 {
        self.page + self.count
    }

    /// Guest physical address.
    pub(super) fn physical(self) -> u64 {
        u64::from(self.frame) * PAGE_SIZE
    }

    pub(super) fn bytes(self) -> u64 {
        u64::from(self.count) * PAGE_SIZE
    }

    /// The part of the run in pages `from..to`, if there is one.
    pub(super) fn within(self, from: u16, to: u16) -> Option<Self> {
        let (page, end) = (self.page.max(from), self.end().min(to));
        (page < end).then(|| Self {
            page,
            count: end - page,
            frame: self.frame + u32::from(page - self.page),
        })
    }
}

/// What stands behind the private pages of a window of guest addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Backed {
    /// Nothing: it holds none.
    #[default]
    Nothing,
    /// A window of RAM, each page at its own position.
    Window {
        /// Guest physical address.
        ram: u64,
        /// The image's, with its data laid in: never repacked.
        image: bool,
        /// The host was asked for a 2 MiB page.
        huge: bool,
    },
    /// Just those pages, sorted.
    Pages(Vec<Run>),
}

impl Backed {
    /// Guest physical address of page `page` of the window, and how many pages follow it there.
    pub(super) fn physical(&self, page: u16) -> Option<(u64, u16)> {
        match self {
            Self::Nothing => None,
            Self::Window { ram, .. } => {
                let left = PAGES_PER_WINDOW as u16 - page;
                Some((ram + u64::from(page) * PAGE_SIZE, left))
            }
            Self::Pages(runs) => {
                let at = runs.partition_point(|run| run.end() <= page);
                let run = runs.get(at)?.within(page, PAGES_PER_WINDOW as u16)?;
                (run.page == page).then(|| (run.physical(), run.count))
            }
        }
    }

    /// The RAM behind pages `from..to`.
    pub(super) fn runs(&self, from: u16, to: u16) -> Vec<Run> {
        match self {
            _ if from >= to => Vec::new(),
            Self::Nothing => Vec::new(),
            Self::Window { ram, .. } => vec![Run {
                page: from,
                count: to - from,
                frame: (ram / PAGE_SIZE) as u32 + u32::from(from),
            }],
            Self::Pages(runs) => runs.iter().filter_map(|run| run.within(from, to)).collect(),
        }
    }

    /// The window of RAM, if there is one.
    pub(super) fn window(&self) -> Option<u64> {
        match self {
            Self::Window { ram, .. } => Some(*ram),
            _ => None,
        }
    }
}

impl Frames {
    /// RAM from `next` to `end`, windows both.
    pub(super) fn new(next: u64, end: u64) -> Self {
        Self {
            windows: Vec::new(),
            pages: BTreeMap::new(),
            next,
            end,
        }
    }

    /// First byte never handed out: what lies below must be in memory slots.
    pub(super) fn reached(&self) -> u64 {
        self.next
    }

    /// A window, if one is left.
    pub(super) fn take_window(&mut self) -> Option<u64> {
        if let Some(window) = self.windows.pop() {
            return Some(window);
        }
        let window = self.next;
        let next = window.checked_add(WINDOW_SIZE).filter(|&n| n <= self.end)?;
        self.next = next;
        Some(window)
    }

    /// Between one and `most` consecutive pages: guest physical address and number.
    pub(super) fn take_pages(&mut self, most: u64) -> Option<(u64, u64)> {
        if self.pages.is_empty() {
            let window = self.take_window()?;
            self.pages.insert(window, PAGES_PER_WINDOW);
        }
        let (at, count) = self.pages.pop_first()?;
        if count > most {
            self.pages.insert(at + most * PAGE_SIZE, count - most);
        }
        Some((at, count.min(most)))
    }

    /// Takes a window back, which the caller has cleared.
    pub(super) fn give_window(&mut self, window: u64) {
        self.windows.push(window);
    }

    /// Takes pages back, which the caller has cleared.
    pub(super) fn give_pages(&mut self, at: u64, count: u64) {
        let (mut at, mut count) = (at, count);
        if let Some((&before, &pages)) = self.pages.range(..at).next_back()
            && before + pages * PAGE_SIZE == at
        {
            self.pages.remove(&before);
            (at, count) = (before, pages + count);
        }
        if let Some(pages) = self.pages.remove(&(at + count * PAGE_SIZE)) {
            count += pages;
        }
        self.pages.insert(at, count);
    }
}

/// Changes `runs` so that they back the pages of `wanted` (sorted, apart) and no others: what is
/// not wanted goes back to `frames`, what is missing comes from there. False when RAM is at its
/// end; what was had by then is kept.
pub(super) fn fit(runs: &mut Vec<Run>, wanted: &[(u16, u16)], frames: &mut Frames) -> bool {
    let old = std::mem::take(runs);
    let mut complete = true;
    let mut kept: Vec<Run> = Vec::with_capacity(old.len());
    for run in old {
        // What lies between the wanted parts of the run goes back.
        let mut at = run.page;
        for &(from, to) in wanted {
            let Some(part) = run.within(from, to) else {
                continue;
            };
            give(run.within(at, part.page), frames);
            kept.push(part);
            at = part.end();
        }
        give(run.within(at, run.end()), frames);
    }
    let mut have = kept.into_iter().peekable();
    for &(from, to) in wanted {
        let mut at = from;
        while at < to {
            let next = have.peek().filter(|run| run.page < to).copied();
            if let Some(run) = next.filter(|run| run.page == at) {
                push(runs, run);
                at = run.end();
                have.next();
                continue;
            }
            let until = next.map_or(to, |run| run.page);
            let Some((physical, count)) = frames.take_pages(u64::from(until - at)) else {
                complete = false;
                at = until;
                continue;
            };
            let run = Run {
                page: at,
                count: count as u16,
                frame: (physical / PAGE_SIZE) as u32,
            };
            push(runs, run);
            at = run.end();
        }
    }
    runs.shrink_to_fit();
    complete
}

fn give(run: Option<Run>, frames: &mut Frames) {
    if let Some(run) = run {
        frames.give_pages(run.physical(), run.count.into());
    }
}

/// Appends `run`, as part of the last one where it continues it.
fn push(runs: &mut Vec<Run>, run: Run) {
    if let Some(last) = runs.last_mut()
        && last.end() == run.page
        && last.frame + u32::from(last.count) == run.frame
    {
        last.count += run.count;
    } else {
        runs.push(run);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ram_ends() {
        let mut frames = Frames::new(WINDOW_SIZE, 3 * WINDOW_SIZE);
        assert_eq!(frames.take_pages(3), Some((WINDOW_SIZE, 3)));
        assert_eq!(frames.take_window(), Some(2 * WINDOW_SIZE));
        assert_eq!(frames.take_window(), None);
        assert_eq!(
            frames.take_pages(1000),
            Some((WINDOW_SIZE + 3 * PAGE_SIZE, 509))
        );
        assert_eq!(frames.take_pages(1), None);
        frames.give_window(2 * WINDOW_SIZE);
        assert_eq!(frames.take_pages(1), Some((2 * WINDOW_SIZE, 1)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Several windows share one RAM: each has exactly the pages it wants, those it had before
        /// stay where they were, no page is had twice, and none is lost.
        #[test]
        fn pages_are_had_once(
            steps in prop::collection::vec(
                (0..4usize, prop::collection::btree_set(0..512u16, 0..40), 1..60u16),
                1..30,
            ),
        ) {
            let mut frames = Frames::new(0, 8 * WINDOW_SIZE);
            let mut windows = vec![Vec::new(); 4];
            for (at, starts, length) in steps {
                let wanted = intervals(&starts, length);
                let before: BTreeMap<u16, u32> = pages(&windows[at]);
                prop_assert!(fit(&mut windows[at], &wanted, &mut frames));
                let after = pages(&windows[at]);
                let keys: Vec<u16> = after.keys().copied().collect();
                let all: Vec<u16> = wanted.iter().flat_map(|&(from, to)| from..to).collect();
                prop_assert_eq!(keys, all);
                for (page, frame) in &before {
                    prop_assert!(after.get(page).is_none_or(|now| now == frame));
                }
                let mut used: Vec<u64> = windows
                    .iter()
                    .flat_map(|runs| pages(runs).into_values().map(u64::from))
                    .collect();
                for (&start, &count) in &frames.pages {
                    used.extend(start / PAGE_SIZE..start / PAGE_SIZE + count);
                }
                used.sort_unstable();
                let reached = frames.reached() / PAGE_SIZE;
                prop_assert_eq!(used, (0..reached).collect::<Vec<u64>>());
            }
        }
    }

    fn intervals(starts: &std::collections::BTreeSet<u16>, length: u16) -> Vec<(u16, u16)> {
        let mut intervals: Vec<(u16, u16)> = Vec::new();
        for &start in starts {
            let end = (start + length).min(512);
            match intervals.last_mut() {
                Some(last) if last.1 >= start => last.1 = end,
                _ => intervals.push((start, end)),
            }
        }
        intervals
    }

    fn pages(runs: &[Run]) -> BTreeMap<u16, u32> {
        let of = |run: &Run| {
            let run = *run;
            (0..run.count).map(move |nth| (run.page + nth, run.frame + u32::from(nth)))
        };
        runs.iter().flat_map(of).collect()
    }
}
