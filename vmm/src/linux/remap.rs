//! What `mremap` is asked for, as far as it takes no look at what is mapped: what is wrong in itself is said before that
//! (`check_mremap_params`, mm/mremap.c), on both platforms.

use pool_core::PAGE_SIZE;
use pool_core::address::USER_ADDRESS_END;
use rustix::io::Errno;

use super::Arguments;
use super::memory::aligned;

const MAY_MOVE: u64 = libc::MREMAP_MAYMOVE as u64;
const FIXED: u64 = libc::MREMAP_FIXED as u64;

/// A call that is not wrong in itself. Lengths are of whole pages; `old_length` may reach beyond all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remap {
    pub(crate) old: u64,
    /// Nothing: what begins at `old` is to be had twice.
    pub(crate) old_length: u64,
    /// Some, and no more than there are addresses.
    pub(crate) new_length: u64,
    pub(crate) may_move: bool,
    /// Where it is to lie then, whatever lies there: beside the old place.
    pub(crate) fixed: Option<u64>,
}

impl Remap {
    /// Of these arguments. `MREMAP_DONTUNMAP` is not served.
    pub(crate) fn of(
        [old, old_length, new_length, flags, new, _]: Arguments,
    ) -> Result<Self, Errno> {
        let (old_length, new_length) = (aligned(old_length), aligned(new_length));
        let may_move = flags & MAY_MOVE != 0;
        let is_wrong = flags & !(MAY_MOVE | FIXED) != 0
            || !old.is_multiple_of(PAGE_SIZE)
            || !(1..=USER_ADDRESS_END).contains(&new_length);
        if is_wrong {
            return Err(Errno::INVAL);
        }
        let fixed = (flags & FIXED != 0).then_some(new);
        if let Some(new) = fixed {
            let overlaps = old < new.wrapping_add(new_length) && new < old.wrapping_add(old_length);
            let is_wrong = new > USER_ADDRESS_END - new_length
                || !new.is_multiple_of(PAGE_SIZE)
                || !may_move
                || overlaps;
            if is_wrong {
                return Err(Errno::INVAL);
            }
        }
        Ok(Self {
            old,
            old_length,
            new_length,
            may_move,
            fixed,
        })
    }

    /// It becomes shorter, or stays as it is, where it is: what is behind is no more.
    pub(crate) fn shrinks_in_place(&self) -> bool {
        self.fixed.is_none() && self.new_length <= self.old_length
    }

    /// Bytes more than there were.
    pub(crate) fn growth(&self) -> u64 {
        self.new_length.saturating_sub(self.old_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u64 = 0x7000_0000;
    const NEW: u64 = 0x1000_0000;
    const PAGE: u64 = PAGE_SIZE;
    const END: u64 = USER_ADDRESS_END;

    #[test]
    fn what_is_wrong_in_itself_is_said_first() {
        for wrong in [
            // Flags: unknown ones, in the high half too, and one without the other.
            [OLD, PAGE, PAGE, 4 | MAY_MOVE, 0],
            [OLD, PAGE, PAGE, 8, 0],
            [OLD, PAGE, PAGE, 1 << 32 | MAY_MOVE, 0],
            [OLD, PAGE, PAGE, FIXED, NEW],
            // Addresses.
            [OLD + 1, PAGE, PAGE, MAY_MOVE, 0],
            [OLD, PAGE, PAGE, MAY_MOVE | FIXED, NEW + 1],
            // Lengths: none, as said and as rounded, and more than there are addresses.
            [OLD, PAGE, 0, MAY_MOVE, 0],
            [OLD, PAGE, u64::MAX, MAY_MOVE, 0],
            [OLD, PAGE, END + 1, MAY_MOVE, 0],
            [OLD, u64::MAX - PAGE, END + 1, 0, 0],
            // Where it ends.
            [OLD, PAGE, PAGE, MAY_MOVE | FIXED, END],
            [OLD, PAGE, 2 * PAGE, MAY_MOVE | FIXED, END - PAGE],
            [OLD, PAGE, PAGE, MAY_MOVE | FIXED, u64::MAX - PAGE + 1],
            // One upon the other.
            [OLD, PAGE, PAGE, MAY_MOVE | FIXED, OLD],
            [OLD, 2 * PAGE, PAGE, MAY_MOVE | FIXED, OLD + PAGE],
            [OLD, PAGE, 2 * PAGE, MAY_MOVE | FIXED, OLD - PAGE],
        ] {
            let [old, length, new_length, flags, new] = wrong;
            let found = Remap::of([old, length, new_length, flags, new, 0]);
            assert_eq!(found, Err(Errno::INVAL), "{wrong:x?}");
        }
    }

    #[test]
    fn lengths_are_whole_pages_and_a_place_is_asked_for_or_not() {
        let moved = Remap {
            old: OLD,
            old_length: PAGE,
            new_length: 2 * PAGE,
            may_move: true,
            fixed: None,
        };
        // Where it would lie counts only if it is asked for.
        let of = |length, new_length, flags, new| {
            Remap::of([OLD, length, new_length, flags, new, 7]).unwrap()
        };
        assert_eq!(of(1, PAGE + 1, MAY_MOVE, OLD + 1), moved);
        assert_eq!(moved.growth(), PAGE);
        assert!(!moved.shrinks_in_place());
        let fixed = of(PAGE, 2 * PAGE, MAY_MOVE | FIXED, OLD + PAGE);
        assert_eq!(fixed.fixed, Some(OLD + PAGE));
        let last = of(PAGE, PAGE, MAY_MOVE | FIXED, END - PAGE);
        assert!(!last.shrinks_in_place());
        assert_eq!(of(u64::MAX, END, 0, 0).old_length, 0);
        assert_eq!(of(u64::MAX, END, 0, 0).growth(), END);
        let shorter = of(u64::MAX - PAGE, 1, 0, 0);
        assert_eq!((shorter.growth(), shorter.new_length), (0, PAGE));
        assert!(shorter.shrinks_in_place());
        // Its end is not to be had in a number: beside all that is shorter.
        let beyond = of(u64::MAX - PAGE, PAGE, MAY_MOVE | FIXED, NEW);
        assert_eq!(beyond.old_length, u64::MAX - PAGE + 1);
    }
}
