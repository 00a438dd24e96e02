//! Where a guest that is a process sees segments of the pool.
//!
//! A segment holds the pages of many images, and each is mapped as far as the guest has some. The kernel lets whoever has
//! a mapping of a file make it longer, or have a longer one beside it (`mremap`), which would show what follows: pages
//! of others. So these mappings stay where the plan has them until they are gone, and whether a call would
//! move one is said by its registers.

use super::ptrace::Registers;
use crate::linux::aligned;
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

    /// Whether `mremap` with these registers would move some, or have them twice. One that shrinks in place does not.
    pub(super) fn would_move(&self, registers: &Registers) -> bool {
        let (old, flags) = (registers.rdi, registers.r10);
        let [length, new_length] = [registers.rsi, registers.rdx].map(aligned);
        let fixed = flags & libc::MREMAP_FIXED as u64 != 0;
        if !fixed && length > 0 && new_length <= length {
            return false;
        }
        // Nothing is moved by a length of nothing: what begins here is had twice. What is shorter elsewhere loses its rest first.
        let shrinks = fixed && (1..length).contains(&new_length);
        let moved = if shrinks { new_length } else { length.max(1) };
        let end = old.saturating_add(moved);
        let first = self.0.partition_point(|&(_, past)| past <= old);
        self.0.get(first).is_some_and(|&(start, _)| start < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_pool_stay() {
        let pages = PoolPages(vec![(0x40_0000, 0x40_3000), (0x50_0000, 0x50_1000)]);
        // SAFETY: all zeros are a valid value of it.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        for ([old, length, new_length, flags], moves) in [
            ([0x40_0000, 0x1000, 0x2000, 1], true),
            ([0x40_2000, 0x1000, 0x2000, 0], true),
            ([0x40_2fff, 1, 0x2000, 1], true),
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
            (registers.rdi, registers.rsi) = (old, length);
            (registers.rdx, registers.r10) = (new_length, flags);
            assert_eq!(
                pages.would_move(&registers),
                moves,
                "{old:#x} {length:#x} {flags}"
            );
        }
    }
}
