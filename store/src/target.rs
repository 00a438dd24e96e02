//! The file of a segment that commits append to, several at a time.
//!
//! Each writes to slots of its own, and what all of them wrote before a sync is durable after it: so one sync is
//! enough for many. The kernel tells of a page that did not get to the disk once to each who has a file open
//! (fsync(2)). Whose page it was nobody knows, so nobody who wrote by then may take the next sync for a good one.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::extent::{SegmentId, Slot};

use crate::backend::SegmentFile;
use crate::error::{Result, StoreError};

/// An open segment's file.
#[derive(Debug)]
pub(crate) struct Target {
    id: SegmentId,
    file: Arc<dyn SegmentFile>,
    /// Writes that have come to their end.
    written: AtomicU64,
    /// Those that are durable.
    synced: Mutex<u64>,
    is_spoilt: AtomicBool,
    /// Slots that are used by what the index says.
    recorded: AtomicU32,
}

/// What is durable once a [sync](Target::sync) has reached it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Written(u64);

/// Why what was written may not all be on the disk.
#[derive(Debug)]
pub(crate) enum Unsynced {
    /// The sync that was asked for has failed.
    Now(StoreError),
    /// An earlier one has, and who asked for that was told.
    Before,
}

impl Target {
    pub(crate) fn new(id: SegmentId, file: Arc<dyn SegmentFile>, recorded: u32) -> Self {
        Self {
            id,
            file,
            written: AtomicU64::new(0),
            synced: Mutex::new(0),
            is_spoilt: AtomicBool::new(false),
            recorded: AtomicU32::new(recorded),
        }
    }

    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    pub(crate) fn file(&self) -> &dyn SegmentFile {
        self.file.as_ref()
    }

    /// Fills slots that nobody else has, from `first` on, with what is in these places.
    pub(crate) fn write(&self, first: Slot, content: &[&[u8]]) -> Result<Written> {
        self.file
            .write_parts_at(content, first.byte_offset())
            .map_err(|source| StoreError::io("writing the segment", self.id.to_string(), source))?;
        Ok(Written(self.written.fetch_add(1, Ordering::AcqRel) + 1))
    }

    /// Has the disk begin with slots that were written, and waits for nothing.
    pub(crate) fn begin_sync(&self, first: Slot, bytes: u64) {
        self.file.begin_sync(first.byte_offset(), bytes);
    }

    /// Makes all durable that was written by then. Who asks while another does waits, and finds it done.
    ///
    /// # Errors
    ///
    /// When it may not all be on the disk, from the first failure on for as long as the file is open.
    pub(crate) fn sync(&self, written: Written) -> std::result::Result<(), Unsynced> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_spoilt() {
            return Err(Unsynced::Before);
        }
        if *synced >= written.0 {
            return Ok(());
        }
        let now = self.written.load(Ordering::Acquire);
        self.file.sync().map_err(|error| {
            self.spoil();
            Unsynced::Now(StoreError::io(
                "syncing the segment",
                self.id.to_string(),
                error,
            ))
        })?;
        *synced = now;
        Ok(())
    }

    /// What was written may be lost: its file has no name any more, say.
    pub(crate) fn spoil(&self) {
        self.is_spoilt.store(true, Ordering::Release);
    }

    pub(crate) fn is_spoilt(&self) -> bool {
        self.is_spoilt.load(Ordering::Acquire)
    }

    /// Slots that are used by what the index says.
    pub(crate) fn recorded(&self) -> u32 {
        self.recorded.load(Ordering::Acquire)
    }

    /// Notes that the index says so.
    pub(crate) fn record(&self, used: u32) {
        self.recorded.fetch_max(used, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;

    use super::*;

    /// A file that counts how often it is synced, and cannot be the second time.
    #[derive(Debug, Default)]
    struct Counted(AtomicU32);

    impl SegmentFile for Counted {
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            unreachable!("nothing is read")
        }

        fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            Ok(())
        }

        fn discard(&self, _: u64, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                1 => Err(io::Error::other("a page is lost")),
                _ => Ok(()),
            }
        }

        fn file(&self) -> Option<&File> {
            None
        }
    }

    #[test]
    fn one_sync_is_enough_and_after_a_failed_one_none_is_good() {
        let file = Arc::new(Counted::default());
        let target = Target::new(SegmentId(1), Arc::clone(&file) as _, 0);
        let first = target.write(Slot(0), &[]).unwrap();
        let second = target.write(Slot(1), &[]).unwrap();
        target.sync(first).unwrap();
        target.sync(second).unwrap();
        assert_eq!(file.0.load(Ordering::Relaxed), 1);
        let third = target.write(Slot(2), &[]).unwrap();
        let fourth = target.write(Slot(3), &[]).unwrap();
        assert!(matches!(target.sync(third), Err(Unsynced::Now(_))));
        // The kernel has told of it, and would say that all is well.
        assert!(matches!(target.sync(fourth), Err(Unsynced::Before)));
        assert!(matches!(target.sync(first), Err(Unsynced::Before)));
        assert_eq!(file.0.load(Ordering::Relaxed), 2);
    }
}
