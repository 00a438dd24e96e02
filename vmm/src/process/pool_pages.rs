//! Where a guest that is a process sees segments of the pool.
//!
//! A segment holds the pages of many images, and each is mapped as far as the guest has some. The kernel lets whoever has
//! a mapping of a file make it longer, or have a longer one beside it (`mremap`), which would show what follows: pages
//! of others. So these mappings stay where the plan has them until they are gone. Whether a call could
//! move one is said by its arguments; whether it is gone, by the guest's areas.

use super::areas::{Area, Areas};
use crate::linux::Remap;
use crate::plan::{Content, Plan};

/// Start and end of each, in order.
#[derive(Debug)]
pub(super) struct PoolPages(Vec<(u64, u64)>);

impl PoolPages {
    /// Those of `plan`. What was written before the guest ran is its own.
    pub(super) fn of(plan: &Plan) -> Self {
        let mappings = plan.mappings.iter();
        let of_pool = mappings
            .filter(|m| matches!(m.content, Content::Segment { .. }) && !m.written)
            .map(|m| (m.address.0, m.end()));
        let mut places: Vec<_> = of_pool.collect();
        places.sort_unstable();
        Self(places)
    }

    /// Whether this call would move some that are still there, by the `areas` that there are, or have them twice. One that
    /// shrinks in place does not. If that cannot be known, it would.
    pub(super) fn would_move(&self, remap: &Remap, areas: &Areas) -> bool {
        // Areas are looked at only where it would be a place of theirs.
        self.moved_by(remap).is_some_and(|(start, end)| {
            let is_there = areas.any(|area| self.is_left(area, (start, end)));
            is_there.unwrap_or(true)
        })
    }

    /// What is moved, or had twice, if some of their places are in it.
    fn moved_by(&self, remap: &Remap) -> Option<(u64, u64)> {
        if remap.shrinks_in_place() {
            return None;
        }
        // Nothing is moved by a length of nothing: what begins here is had twice. What is shorter elsewhere loses its rest first.
        let moved = remap.old_length.min(remap.new_length).max(1);
        let end = remap.old.saturating_add(moved);
        self.is_place(remap.old, end).then_some((remap.old, end))
    }

    /// `area` may be of pages of the pool in `start..end`: where theirs were, with a file behind it. None comes back there that was gone: it would have
    /// to be moved.
    fn is_left(&self, area: &Area, (start, end): (u64, u64)) -> bool {
        let (start, end) = (area.start.max(start), area.end.min(end));
        area.has_file && start < end && self.is_place(start, end)
    }

    fn is_place(&self, start: u64, end: u64) -> bool {
        let first = self.0.partition_point(|&(_, past)| past <= start);
        self.0.get(first).is_some_and(|&(place, _)| place < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::areas::of_text;

    fn pages() -> PoolPages {
        PoolPages(vec![(0x40_0000, 0x40_3000), (0x50_0000, 0x50_1000)])
    }

    #[test]
    fn what_would_move_is_known_by_the_call() {
        const ELSEWHERE: u64 = 0x7000_0000;
        for ([old, length, new_length, flags], moves) in [
            ([0x40_0000, 0x1000, 0x2000, 1], true),
            ([0x40_2000, 0x1000, 0x2000, 0], true),
            ([0x40_2000, 1, 0x2000, 1], true),
            ([0x40_0000, 0, 0x1000, 1], true),
            ([0x50_0000, u64::MAX, 0x1000, 1], true),
            ([0x50_0000, 0x1000, 0x1000, 3], true),
            ([0x3f_f000, 0x2000, 0x2000, 3], true),
            ([0x3f_f000, 0x1000, 0x9000, 1], false),
            ([0x3f_f000, 0x2000, 0x1000, 3], false),
            ([0x3f_f000, 0x3000, 0x2000, 3], true),
            ([0x40_3000, 0x1000, 0x2000, 1], false),
            ([0x40_3000, 0x10_0000, 0x20_0000, 1], true),
            ([0x50_1000, 0, 0x1000, 1], false),
            ([0x40_0000, 0x3000, 0x1000, 1], false),
            ([0x40_0000, 0x3000, 0x1000, 3], true),
        ] {
            let remap = Remap::of([old, length, new_length, flags, ELSEWHERE, 0]).unwrap();
            let found = pages().moved_by(&remap);
            assert_eq!(found.is_some(), moves, "{old:#x} {length:#x} {flags}");
        }
    }

    #[test]
    fn what_was_theirs_and_is_the_guests_own_moves() {
        let text = "003ff000-00400000 r-xp 00000000 00:21 7 /x\n\
                    00400000-00401000 rw-p 00000000 00:00 0\n\
                    00401000-00402000 r-xp 00001000 00:21 7 /pool/segments/1\n\
                    00403000-00404000 r-xp 00000000 00:21 7 /x\n";
        let areas = of_text(text.as_bytes()).unwrap();
        for (range, left) in [
            ((0x40_0000, 0x40_1000), false),
            ((0x3f_f000, 0x40_1000), false),
            ((0x40_0000, 0x40_2000), true),
            ((0x40_1000, 0x40_1001), true),
            ((0x40_2000, 0x40_4000), false),
        ] {
            let found = areas.iter().any(|area| pages().is_left(area, range));
            assert_eq!(found, left, "{range:x?}");
        }
    }
}
