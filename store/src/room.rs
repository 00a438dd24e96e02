//! Disk that uploads leave to what has to go on when it is full.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Result, StoreError};

/// Bytes of a disk that new pages do not take, in segments or on their way there. Most often the index is there, too, and writes to
/// tables what its log has (16 MiB of a family) before it opens; and collections, which give room back, need some.
pub(crate) const KEPT: u64 = 16 << 20;

/// Bytes that uploads under way may write yet.
#[derive(Debug, Default)]
pub(crate) struct Promised(Mutex<u64>);

/// Disk that is an upload's until this value is dropped, by when what it was for is written.
#[derive(Debug)]
#[must_use = "it is not promised any longer than that"]
pub(crate) struct Promise {
    promised: Arc<Promised>,
    bytes: u64,
}

impl Promised {
    /// Promises so many bytes of a disk that has as many as `free` says; `None` when there are not enough.
    pub(crate) fn add(
        self: &Arc<Self>,
        bytes: u64,
        free: impl FnOnce() -> Result<u64>,
    ) -> Result<Option<Promise>> {
        // Until the disk was looked at: what is written meanwhile counts twice, and not never.
        let mut others = self.others();
        let needed = others.saturating_add(bytes).saturating_add(KEPT);
        if free()? < needed {
            return Ok(None);
        }
        *others += bytes;
        Ok(Some(Promise {
            promised: Arc::clone(self),
            bytes,
        }))
    }

    fn others(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        *self.promised.others() -= self.bytes;
    }
}

/// The refusal of an upload that has found too little for what it would write to.
pub(crate) fn none_left(beside: impl Into<PathBuf>) -> StoreError {
    StoreError::io(
        "keeping 16 MiB free for the index and collections beside",
        beside,
        io::Error::from(io::ErrorKind::StorageFull),
    )
}
