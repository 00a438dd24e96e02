//! Disk that uploads leave to what has to go on when it is full.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Backend;
use crate::error::{Result, StoreError};

/// Bytes of the segments' disk that new pages do not take. Most often the index is there, too, and writes to tables what its
/// log has (16 MiB of a family) before it opens; and collections, which give room back, need some.
pub(crate) const KEPT: u64 = 16 << 20;

/// Bytes that uploads under way may write yet.
#[derive(Debug, Default)]
pub(crate) struct Promised(AtomicU64);

/// Disk that is an upload's until this value is dropped, by when what it was for is written.
#[derive(Debug)]
#[must_use = "it is not promised any longer than that"]
pub(crate) struct Promise {
    promised: Arc<Promised>,
    bytes: u64,
}

impl Promised {
    /// Promises so many bytes; `None` when there are not enough. To be called by one at a time.
    pub(crate) fn add(
        self: &Arc<Self>,
        backend: &dyn Backend,
        bytes: u64,
    ) -> Result<Option<Promise>> {
        // Before the disk is looked at: what is written meanwhile counts twice, and not never.
        let others = self.0.load(Ordering::Acquire);
        if backend.free_bytes()? < others.saturating_add(bytes).saturating_add(KEPT) {
            return Ok(None);
        }
        self.0.fetch_add(bytes, Ordering::AcqRel);
        Ok(Some(Promise {
            promised: Arc::clone(self),
            bytes,
        }))
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.promised.0.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The refusal of an upload that has found too little.
pub(crate) fn none_left() -> StoreError {
    StoreError::io(
        "keeping 16 MiB free for the index and collections beside",
        PathBuf::from("the segments"),
        io::Error::from(io::ErrorKind::StorageFull),
    )
}
