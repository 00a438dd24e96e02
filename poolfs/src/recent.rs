//! What the last look-ups found.
//!
//! Between a look-up and the opening that it is for, somebody may point the name elsewhere. What
//! the kernel then opens is still in the store, but nothing there leads to it any more.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use fuser::INodeNo;

use crate::contents::Found;

/// Look-ups kept at the same time: many times what threads can be in the middle of opening.
const MOST_FILES: usize = 1024;
/// Bytes of files made for reading that they may keep.
const MOST_BYTES: usize = 16 << 20;

/// The last look-ups of files whose inodes are one content for ever, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    files: VecDeque<(INodeNo, Found)>,
    bytes: usize,
}

impl Recent {
    /// Keeps what was found in place of what was found longest ago.
    pub(crate) fn keep(&self, inode: INodeNo, found: Found) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.files.iter().position(|(known, _)| *known == inode) {
            kept.remove(at);
        }
        kept.bytes += found.bytes_kept();
        kept.files.push_back((inode, found));
        // The last stays, however large.
        while kept.files.len() > 1 && (kept.files.len() > MOST_FILES || kept.bytes > MOST_BYTES) {
            kept.remove(0);
        }
    }

    /// What the last look-up of an inode found.
    pub(crate) fn get(&self, inode: INodeNo) -> Option<Found> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.files.iter().rfind(|(known, _)| *known == inode);
        known.map(|(_, found)| found.clone())
    }
}

impl Kept {
    fn remove(&mut self, at: usize) {
        if let Some((_, found)) = self.files.remove(at) {
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
            let bytes: usize = kept.files.iter().map(|(_, found)| found.bytes_kept()).sum();
            assert_eq!(kept.bytes, bytes);
            kept.files.len()
        };
        let known = |inode| recent.get(INodeNo(inode)).is_some();
        assert_eq!(keep(1, 1), 1);
        assert_eq!(keep(1, 2), 1);
        for inode in 2..=MOST_FILES as u64 + 1 {
            keep(inode, 1);
        }
        assert!(!known(1) && known(2));
        assert_eq!(keep(1, MOST_BYTES), 1);
        assert!(known(1) && !known(2));
        assert_eq!(keep(2, MOST_BYTES + 1), 1);
        assert!(known(2) && !known(1));
    }
}
