//! Which pages of a 2 MiB window of guest addresses have a frame, and which one. Pure.

use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

/// Consecutive pages of a window that lie in consecutive frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First page in the window.
    pub(super) page: u16,
    /// Pages.
    pub(super) count: u16,
    /// First frame of RAM.
    pub(super) frame: u32,
}

impl Run {
    /// `count` pages from `page` at guest physical address `physical`.
    pub(super) fn at(page: u16, count: u64, physical: u64) -> Self {
        Self {
            page,
            count: count as u16,
            frame: (physical / PAGE_SIZE) as u32,
        }
    }

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

    fn continues_into(self, next: Self) -> bool {
        self.end() == next.page && self.frame + u32::from(self.count) == next.frame
    }
}

/// The frames of one window, in the order of its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs(Vec<Run>);

impl Runs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Guest physical address of page `page`, and how many pages follow it there, itself included.
    pub(super) fn physical(&self, page: u16) -> Option<(u64, u16)> {
        let run = self.0.get(self.first_past(page))?;
        let part = run.within(page, run.end())?;
        (part.page == page).then(|| (part.physical(), part.count))
    }

    /// What of pages `from..to` has frames.
    pub(super) fn within(&self, from: u16, to: u16) -> impl Iterator<Item = Run> + '_ {
        let runs = self.0[self.first_past(from)..].iter();
        runs.map_while(move |run| run.within(from, to))
    }

    /// The guest physical address of the window, if it lies there whole and in one piece.
    pub(super) fn window(&self) -> Option<u64> {
        let run = self.0.first()?;
        let whole = u64::from(run.count) == PAGES_PER_WINDOW;
        (whole && run.physical().is_multiple_of(WINDOW_SIZE)).then(|| run.physical())
    }

    /// The end of the pages without frames that begin at `page`, at most `end`.
    pub(super) fn gap_end(&self, page: u16, end: u16) -> u16 {
        let next = self.0.get(self.first_past(page));
        next.map_or(end, |run| run.page.max(page).min(end))
    }

    /// The start of the pages without frames that end just before `page`, at least `start`.
    pub(super) fn gap_start(&self, page: u16, start: u16) -> u16 {
        let before = self.0.partition_point(|run| run.page < page);
        let last = self.0[..before].last();
        last.map_or(start, |run| run.end().min(page).max(start))
    }

    /// How many pages just before `page`, from `start`, have frames.
    pub(super) fn had_before(&self, page: u16, start: u16) -> u16 {
        let mut at = page;
        while at > start {
            let Some(run) = self.0.get(self.first_past(at - 1)) else {
                break;
            };
            if run.page >= at {
                break;
            }
            at = run.page.max(start);
        }
        page - at
    }

    /// How many pages from `page`, up to `end`, have frames.
    pub(super) fn had_from(&self, page: u16, end: u16) -> u16 {
        let mut at = page;
        while at < end {
            match self.physical(at) {
                Some((_, count)) => at = (at + count).min(end),
                None => break,
            }
        }
        at - page
    }

    /// Adds frames for pages that have none.
    pub(super) fn insert(&mut self, run: Run) {
        let at = self.first_past(run.page);
        self.0.insert(at, run);
        if self
            .0
            .get(at + 1)
            .is_some_and(|&next| self.0[at].continues_into(next))
        {
            self.0[at].count += self.0.remove(at + 1).count;
        }
        if at > 0 && self.0[at - 1].continues_into(self.0[at]) {
            self.0[at - 1].count += self.0.remove(at).count;
        }
    }

    /// Takes the frames of pages `from..to` away.
    pub(super) fn remove(&mut self, from: u16, to: u16) -> Vec<Run> {
        let removed: Vec<Run> = self.within(from, to).collect();
        if removed.is_empty() {
            return removed;
        }
        let kept = self.0.iter().flat_map(|run| {
            let (before, after) = (run.within(0, from), run.within(to, u16::MAX));
            before.into_iter().chain(after)
        });
        self.0 = kept.collect();
        removed
    }

    /// Where the first run lies that ends past `page`.
    fn first_past(&self, page: u16) -> usize {
        self.0.partition_point(|run| run.end() <= page)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn pages(runs: &[Run]) -> BTreeMap<u16, u32> {
        let of = |run: &Run| {
            let run = *run;
            (0..run.count).map(move |nth| (run.page + nth, run.frame + u32::from(nth)))
        };
        runs.iter().flat_map(of).collect()
    }

    proptest! {
        /// Runs are what a table of pages is, joined wherever they go on.
        #[test]
        fn runs_are_a_table_of_pages(
            steps in prop::collection::vec((any::<bool>(), 0..512u16, 1..40u16), 1..40),
        ) {
            let (mut runs, mut model) = (Runs::default(), BTreeMap::new());
            for (add, from, count) in steps {
                let to = (from + count).min(512);
                if add {
                    for page in from..to {
                        // In ascending frames, so that neighbours join.
                        if let std::collections::btree_map::Entry::Vacant(free) = model.entry(page) {
                            free.insert(u32::from(page) + 512);
                            runs.insert(Run { page, count: 1, frame: u32::from(page) + 512 });
                        }
                    }
                } else {
                    let removed = pages(&runs.remove(from, to));
                    let expected: BTreeMap<u16, u32> =
                        model.range(from..to).map(|(&page, &frame)| (page, frame)).collect();
                    prop_assert_eq!(removed, expected);
                    model.retain(|page, _| !(from..to).contains(page));
                }
                prop_assert_eq!(&pages(&runs.0), &model);
                for pair in runs.0.windows(2) {
                    prop_assert!(!pair[0].continues_into(pair[1]) && pair[0].end() <= pair[1].page);
                }
                let has = |page: u16| model.contains_key(&page);
                let until = (from..512).find(|&page| has(page)).unwrap_or(512);
                prop_assert_eq!(runs.gap_end(from, 512), until);
                let since = (0..from).rev().find(|&page| has(page)).map_or(0, |page| page + 1);
                prop_assert_eq!(runs.gap_start(from, 0), since);
                let before = (0..from).rev().take_while(|&page| has(page)).count();
                prop_assert_eq!(usize::from(runs.had_before(from, 0)), before);
                let after = (from..512).take_while(|&page| has(page)).count();
                prop_assert_eq!(usize::from(runs.had_from(from, 512)), after);
                prop_assert_eq!(runs.physical(from).map(|(at, _)| at),
                    model.get(&from).map(|&frame| u64::from(frame) * PAGE_SIZE));
            }
        }
    }
}
