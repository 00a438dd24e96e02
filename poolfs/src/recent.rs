//! What the last look-ups found.
//!
//! Between a look-up and the opening that it is for, somebody may point the name elsewhere. What
//! the kernel then opens, or asks about, is still in the store, but nothing there leads to it any more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use fuser::INodeNo;

use crate::contents::Found;

/// Look-ups remembered: many times what threads can be in the middle of opening.
const MOST_LOOKUPS: usize = 4096;
/// Bytes that what they found may keep in memory.
const MOST_BYTES: usize = 16 << 20;

/// What the last look-ups of files found whose inodes are one content for ever.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// What each inode showed, with the number of its last look-up.
    files: HashMap<INodeNo, (u64, Found)>,
    /// Every look-up, the oldest first; those but the last of an inode count for nothing.
    lookups: VecDeque<(u64, INodeNo)>,
    next: u64,
    bytes: usize,
}

impl Recent {
    /// Remembers what a look-up found, and forgets the oldest when they are too many.
    pub(crate) fn keep(&self, inode: INodeNo, found: Found) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = kept.next;
        kept.next += 1;
        kept.bytes += found.bytes_kept();
        kept.lookups.push_back((number, inode));
        if let Some((_, old)) = kept.files.insert(inode, (number, found)) {
            kept.bytes -= old.bytes_kept();
        }
        // The last stays, however large.
        while kept.lookups.len() > MOST_LOOKUPS || (kept.bytes > MOST_BYTES && kept.files.len() > 1)
        {
            kept.forget_oldest();
        }
    }

    /// What the last look-up of an inode found.
    pub(crate) fn get(&self, inode: INodeNo) -> Option<Found> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.files.get(&inode).map(|(_, found)| found.clone())
    }
}

impl Kept {
    fn forget_oldest(&mut self) {
        let Some((number, inode)) = self.lookups.pop_front() else {
            return;
        };
        if self
            .files
            .get(&inode)
            .is_some_and(|(last, _)| *last == number)
            && let Some((_, found)) = self.files.remove(&inode)
        {
            self.bytes -= found.bytes_kept();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_look_ups_are_kept_and_neither_too_many_nor_too_large() {
        let recent = Recent::default();
        let keep = |inode, length| {
            recent.keep(INodeNo(inode), Found::of_bytes(vec![0; length].into()));
            let kept = recent.0.lock().unwrap();
            let bytes: usize = kept
                .files
                .values()
                .map(|(_, found)| found.bytes_kept())
                .sum();
            assert_eq!(kept.bytes, bytes);
            kept.files.len()
        };
        let known = |inode| recent.get(INodeNo(inode)).is_some();
        assert_eq!(keep(1, 1), 1);
        assert_eq!(keep(1, 2), 1);
        for inode in 2..=MOST_LOOKUPS as u64 + 1 {
            keep(inode, 1);
        }
        assert!(!known(1) && known(2));
        assert_eq!(keep(1, MOST_BYTES), 1);
        assert!(known(1) && !known(2));
        assert_eq!(keep(2, MOST_BYTES + 1), 1);
        assert!(known(2) && !known(1));
    }
}
