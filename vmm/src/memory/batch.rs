//! How many pages a guest is given when it touches one. Pure.
//!
//! An exit costs some twenty times what giving one more page costs, so pages come in batches: like
//! the kernel's read-ahead, small where an access stands alone, and as much again as lies behind it
//! where a program goes through memory in order. What it then is likely to touch is taken from the
//! host at once; a window that follows one that was filled comes whole, for one entry and one host
//! page of 2 MiB. So a guest never holds more untouched memory than it has touched beside it, however
//! large its mappings are. What was given and not touched is taken back at the limit
//! ([`super::reclaim`]).

use super::runs::Runs;

/// Pages of a batch that stands alone: 64 KiB, as the kernel's fault-around.
pub(super) const ALONE: u16 = 16;
const WINDOW: u16 = 512;

/// What is around a page that is touched and has no frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    /// The pages of its window that are in the same area, first and past the last.
    pub(super) room: (u16, u16),
    /// The frames of its window.
    pub(super) runs: &'a Runs,
    /// The area goes on in the window below, or above, and that one has all its frames.
    pub(super) full_below: bool,
    /// See there.
    pub(super) full_above: bool,
}

/// The pages to be given, which have no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// First page.
    pub(super) from: u16,
    /// Page past the last.
    pub(super) to: u16,
    /// They go on from this many pages that lie below (positive) or above (negative), and are
    /// to be taken from the host at once if those were touched.
    pub(super) follows: i32,
}

impl Batch {
    /// The whole window.
    pub(super) fn is_window(self) -> bool {
        (self.from, self.to) == (0, WINDOW)
    }
}

impl Around<'_> {
    /// The batch for `page`.
    pub(super) fn batch(self, page: u16) -> Batch {
        let (start, end) = self.room;
        let gap = (
            self.runs.gap_start(page, start),
            self.runs.gap_end(page, end),
        );
        let mut below = self.runs.had_before(page, start);
        if page - below == 0 && self.full_below {
            below += WINDOW;
        }
        let mut above = self.runs.had_from(page + 1, end);
        if page + 1 + above == WINDOW && self.full_above {
            above += WINDOW;
        }
        if below >= ALONE {
            let to = page.saturating_add(below).min(gap.1);
            return Batch {
                from: page,
                to,
                follows: below.into(),
            };
        }
        if above >= ALONE {
            let from = (page + 1).saturating_sub(above).max(gap.0);
            return Batch {
                from,
                to: page + 1,
                follows: -i32::from(above),
            };
        }
        let block = page & !(ALONE - 1);
        Batch {
            from: block.max(gap.0),
            to: (block + ALONE).min(gap.1),
            follows: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::runs::Run;
    use super::*;

    fn runs(parts: &[(u16, u16)]) -> Runs {
        let mut runs = Runs::default();
        for &(from, to) in parts {
            runs.insert(Run {
                page: from,
                count: to - from,
                frame: u32::from(from),
            });
        }
        runs
    }

    fn around(runs: &Runs, room: (u16, u16)) -> Around<'_> {
        Around {
            room,
            runs,
            full_below: false,
            full_above: false,
        }
    }

    #[test]
    fn batches_double_in_both_directions() {
        let mut had = Runs::default();
        let mut sizes = Vec::new();
        let mut page = 0;
        while page < WINDOW {
            let batch = around(&had, (0, WINDOW)).batch(page);
            assert_eq!(batch.from, page);
            sizes.push(batch.to - batch.from);
            had = runs(&[(0, batch.to)]);
            page = batch.to;
        }
        assert_eq!(sizes, [16, 16, 32, 64, 128, 256]);
        let stack = runs(&[(496, 512)]);
        let batch = around(&stack, (0, WINDOW)).batch(495);
        assert_eq!(
            batch,
            Batch {
                from: 480,
                to: 496,
                follows: -16
            }
        );
    }

    #[test]
    fn a_window_comes_whole_after_a_full_one() {
        let none = Runs::default();
        let after = Around {
            full_below: true,
            ..around(&none, (0, WINDOW))
        };
        assert!(after.batch(0).is_window());
        assert_eq!(after.batch(100).to, 112, "not in order");
        let before = Around {
            full_above: true,
            ..around(&none, (0, WINDOW))
        };
        assert!(before.batch(511).is_window());
        let short = Around {
            full_below: true,
            ..around(&none, (0, 40))
        };
        assert_eq!(short.batch(0).to, 40);
    }

    proptest! {
        /// A batch holds the page, stays in the area, takes nothing twice, and is at most as long
        /// as what lies beside it, or a block.
        #[test]
        fn batches_stay_in_their_room(
            parts in prop::collection::btree_set(0..64u16, 0..20),
            room in (0..256u16, 257..=512u16),
            page in 0..512u16,
            full: (bool, bool),
        ) {
            let mut had = Runs::default();
            for part in parts {
                had.insert(Run { page: part * 8, count: 5, frame: u32::from(part) * 8 });
            }
            prop_assume!((room.0..room.1).contains(&page) && had.physical(page).is_none());
            let around = Around {
                room, runs: &had, full_below: full.0 && room.0 == 0, full_above: full.1 && room.1 == WINDOW,
            };
            let batch = around.batch(page);
            prop_assert!((batch.from..batch.to).contains(&page));
            prop_assert!(room.0 <= batch.from && batch.to <= room.1);
            prop_assert!(had.within(batch.from, batch.to).next().is_none());
            let most = batch.follows.unsigned_abs().max(u32::from(ALONE));
            prop_assert!(u32::from(batch.to - batch.from) <= most);
        }
    }
}
