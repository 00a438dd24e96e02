//! Guest physical RAM: which frames are free. Pure.
//!
//! A frame is handed out when a page of the guest is first touched, so frames in use are what the
//! guest is charged. They lie close together, because memory slots cost by their size; a whole
//! window of 2 MiB is had where one is free, so that one page-table entry and one host page hold it.

use std::collections::BTreeSet;

use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};

const PAGES: u32 = PAGES_PER_WINDOW as u32;

/// A window of RAM: a bit a page, set while it is free.
#[derive(Clone, Debug)]
struct Chunk {
    free: [u64; PAGES as usize / 64],
    count: u32,
}

/// The RAM of a guest. Whatever is handed out reads as zeros.
#[derive(Debug)]
pub(super) struct Frames {
    chunks: Vec<Chunk>,
    /// Chunks that are free whole.
    whole: BTreeSet<u32>,
    /// Chunks of which a part is free.
    partial: BTreeSet<u32>,
    /// Most chunks.
    most: u32,
}

impl Frames {
    /// RAM of `length` bytes, whole windows.
    pub(super) fn new(length: u64) -> Self {
        Self {
            chunks: Vec::new(),
            whole: BTreeSet::new(),
            partial: BTreeSet::new(),
            most: (length / WINDOW_SIZE) as u32,
        }
    }

    /// First byte never handed out: what lies below must be in memory slots.
    pub(super) fn reached(&self) -> u64 {
        self.chunks.len() as u64 * WINDOW_SIZE
    }

    /// The guest physical address of a window, if one is free whole.
    pub(super) fn take_window(&mut self) -> Option<u64> {
        let at = self.whole.first().copied().or_else(|| self.next_chunk())?;
        self.set(at, 0, PAGES, false);
        Some(u64::from(at) * WINDOW_SIZE)
    }

    /// Between one and `most` consecutive pages: guest physical address and number.
    pub(super) fn take_pages(&mut self, most: u64) -> Option<(u64, u64)> {
        let used = self.partial.first().or_else(|| self.whole.first()).copied();
        let at = used.or_else(|| self.next_chunk())?;
        let (from, to) = self.chunks[at as usize].first_run(most.min(u64::from(PAGES)) as u32);
        self.set(at, from, to, false);
        let physical = u64::from(at) * WINDOW_SIZE + u64::from(from) * PAGE_SIZE;
        Some((physical, u64::from(to - from)))
    }

    /// Takes `count` pages at `physical` back, which the caller has cleared.
    pub(super) fn give(&mut self, physical: u64, count: u64) {
        let mut page = physical / PAGE_SIZE;
        let end = page + count;
        while page < end {
            let chunk = page / PAGES_PER_WINDOW;
            let next = end.min((chunk + 1) * PAGES_PER_WINDOW);
            let first = chunk * PAGES_PER_WINDOW;
            self.set(
                chunk as u32,
                (page - first) as u32,
                (next - first) as u32,
                true,
            );
            page = next;
        }
    }

    /// A chunk that was never used; it is free whole.
    fn next_chunk(&mut self) -> Option<u32> {
        let at = self.chunks.len() as u32;
        if at == self.most {
            return None;
        }
        self.chunks.push(Chunk {
            free: [u64::MAX; PAGES as usize / 64],
            count: PAGES,
        });
        self.whole.insert(at);
        Some(at)
    }

    fn set(&mut self, at: u32, from: u32, to: u32, free: bool) {
        let Some(chunk) = self.chunks.get_mut(at as usize) else {
            return;
        };
        for page in from..to {
            chunk.set(page, free);
        }
        let count = chunk.count;
        self.whole.remove(&at);
        self.partial.remove(&at);
        match count {
            0 => {}
            PAGES => drop(self.whole.insert(at)),
            _ => drop(self.partial.insert(at)),
        }
    }
}

impl Chunk {
    fn is_free(&self, page: u32) -> bool {
        self.free[page as usize / 64] >> (page % 64) & 1 == 1
    }

    fn set(&mut self, page: u32, free: bool) {
        if self.is_free(page) == free {
            return;
        }
        self.free[page as usize / 64] ^= 1 << (page % 64);
        self.count = if free { self.count + 1 } else { self.count - 1 };
    }

    /// The first free pages, at most `most`. There is one.
    fn first_run(&self, most: u32) -> (u32, u32) {
        let from = (0..PAGES).find(|&page| self.is_free(page)).unwrap_or(0);
        let taken = (from..PAGES).take(most as usize);
        let count = taken.take_while(|&page| self.is_free(page)).count();
        (from, from + count as u32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ram_ends_and_windows_come_back() {
        let mut frames = Frames::new(2 * WINDOW_SIZE);
        assert_eq!(frames.take_pages(3), Some((0, 3)));
        assert_eq!(frames.take_window(), Some(WINDOW_SIZE));
        assert_eq!(frames.take_window(), None);
        assert_eq!(frames.take_pages(1000), Some((3 * PAGE_SIZE, 509)));
        assert_eq!(frames.take_pages(1), None);
        frames.give(PAGE_SIZE, PAGES_PER_WINDOW);
        assert_eq!(frames.take_pages(600), Some((PAGE_SIZE, 511)));
        assert_eq!(frames.take_pages(600), Some((WINDOW_SIZE, 1)));
        frames.give(0, 2 * PAGES_PER_WINDOW);
        assert_eq!(frames.take_window(), Some(0), "pieces are whole again");
        assert_eq!(frames.reached(), 2 * WINDOW_SIZE);
    }

    proptest! {
        /// No page is had twice, none is lost, and nothing beyond what is needed is reached.
        #[test]
        fn pages_are_had_once(steps in prop::collection::vec((0..3u8, 1..700u64), 1..60)) {
            let mut frames = Frames::new(8 * WINDOW_SIZE);
            let mut had: Vec<(u64, u64)> = Vec::new();
            let mut pages = BTreeSet::new();
            for (kind, number) in steps {
                let taken = match kind {
                    0 => frames.take_pages(number),
                    1 => frames.take_window().map(|at| (at, PAGES_PER_WINDOW)),
                    _ if had.is_empty() => None,
                    _ => {
                        let (at, count) = had.swap_remove(number as usize % had.len());
                        frames.give(at, count);
                        pages.retain(|page| !(at..at + count * PAGE_SIZE).contains(page));
                        None
                    }
                };
                if let Some((at, count)) = taken {
                    prop_assert!(count > 0 && at + count * PAGE_SIZE <= frames.reached());
                    had.push((at, count));
                    for page in 0..count {
                        prop_assert!(pages.insert(at + page * PAGE_SIZE), "had twice");
                    }
                }
                let free: u32 = frames.chunks.iter().map(|chunk| chunk.count).sum();
                let all = frames.reached() / PAGE_SIZE;
                prop_assert_eq!(u64::from(free) + pages.len() as u64, all);
            }
        }
    }
}
