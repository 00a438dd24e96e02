//! What `brk` asks for, as far as it takes no look at what is mapped (mm/mmap.c), on both platforms.

use pool_core::PAGE_SIZE;

/// What becomes of a heap: from which address to which there is to be more or less of it, in whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heap {
    /// It ends in the page that it has ended in.
    Stays,
    Grows {
        from: u64,
        to: u64,
    },
    Shrinks {
        from: u64,
        to: u64,
    },
}

impl Heap {
    /// Of a heap that ends at `current`, if it is to end at `wanted`.
    pub(crate) fn change(current: u64, wanted: u64) -> Self {
        // Beyond all addresses is no heap's end: as far as numbers go.
        let whole = |end: u64| {
            let whole = end.checked_next_multiple_of(PAGE_SIZE);
            whole.unwrap_or(u64::MAX - (PAGE_SIZE - 1))
        };
        match (whole(current), whole(wanted)) {
            (old, new) if new > old => Self::Grows { from: old, to: new },
            (old, new) if new < old => Self::Shrinks { from: new, to: old },
            _ => Self::Stays,
        }
    }

    /// Whether a heap from `start` to `wanted` is more than a limit on data of `most` bytes allows. That is asked before
    /// anything else, of a heap that shrinks or stays as well (`check_data_rlimit`); no data at all means none here.
    pub(crate) fn exceeds(most: u64, start: u64, wanted: u64) -> bool {
        wanted.saturating_sub(start) > most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heap_changes_by_whole_pages() {
        const START: u64 = 0x50_0000;
        let of = |current, wanted| Heap::change(START + current, START + wanted);
        let grows = |from, to| Heap::Grows {
            from: START + from,
            to: START + to,
        };
        let shrinks = |from, to| Heap::Shrinks {
            from: START + from,
            to: START + to,
        };
        assert_eq!(of(0, 0), Heap::Stays);
        assert_eq!(of(0, 1), grows(0, 0x1000));
        assert_eq!(of(1, 0x1000), Heap::Stays);
        assert_eq!(of(0x1000, 1), Heap::Stays);
        assert_eq!(of(1, 0x1001), grows(0x1000, 0x2000));
        assert_eq!(of(0x1000, 0), shrinks(0, 0x1000));
        assert_eq!(of(0x3001, 0x1001), shrinks(0x2000, 0x4000));
        let last = u64::MAX - 4095;
        for beyond in [last, last + 1, u64::MAX] {
            let grows = Heap::Grows {
                from: START,
                to: last,
            };
            assert_eq!(Heap::change(START, beyond), grows);
        }
    }

    #[test]
    fn data_is_bounded_to_the_byte() {
        assert!(!Heap::exceeds(0x1000, 0x50_0000, 0x50_1000));
        assert!(Heap::exceeds(0x1000, 0x50_0000, 0x50_1001));
        assert!(!Heap::exceeds(0, 0x50_0000, 0x50_0000));
        assert!(Heap::exceeds(0, 0x50_0000, 0x50_0001));
        assert!(!Heap::exceeds(u64::MAX, 0x50_0000, u64::MAX));
    }
}
