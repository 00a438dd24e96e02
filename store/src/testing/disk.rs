//! A disk whose syncs are counted, and can fail.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pool_core::extent::SegmentId;

use super::{SEGMENT_BYTES, push};
use crate::backend::{Backend, Identity, SegmentFile};
use crate::error::Result;
use crate::{Store, opening, testing};

/// Segments of a directory, whose syncs are counted and can fail.
#[derive(Debug)]
struct Disk {
    inner: Arc<dyn Backend>,
    syncs: Arc<Syncs>,
}

#[derive(Debug, Default)]
pub(crate) struct Syncs {
    /// That were asked for.
    pub(crate) done: AtomicU32,
    /// The next ones that fail.
    pub(crate) to_fail: AtomicU32,
}

#[derive(Debug)]
struct DiskFile {
    inner: Arc<dyn SegmentFile>,
    syncs: Arc<Syncs>,
}

impl SegmentFile for DiskFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.inner.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> std::io::Result<()> {
        self.inner.write_all_at(buffer, offset)
    }

    fn discard(&self, offset: u64, bytes: u64) -> std::io::Result<()> {
        self.inner.discard(offset, bytes)
    }

    fn begin_sync(&self, offset: u64, bytes: u64) {
        self.inner.begin_sync(offset, bytes);
    }

    fn sync(&self) -> std::io::Result<()> {
        self.syncs.done.fetch_add(1, Ordering::SeqCst);
        let fail = |left: u32| left.checked_sub(1);
        let to_fail = &self.syncs.to_fail;
        if to_fail
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fail)
            .is_ok()
        {
            return Err(std::io::Error::other("the disk says no"));
        }
        self.inner.sync()
    }

    fn file(&self) -> Option<&std::fs::File> {
        self.inner.file()
    }
}

impl Disk {
    fn counted(&self, file: Arc<dyn SegmentFile>) -> Arc<dyn SegmentFile> {
        Arc::new(DiskFile {
            inner: file,
            syncs: Arc::clone(&self.syncs),
        })
    }
}

impl Backend for Disk {
    fn create(&self, id: SegmentId, bytes: u64) -> Result<Arc<dyn SegmentFile>> {
        Ok(self.counted(self.inner.create(id, bytes)?))
    }

    fn recreate(&self, id: SegmentId, bytes: u64) -> Result<Arc<dyn SegmentFile>> {
        Ok(self.counted(self.inner.recreate(id, bytes)?))
    }

    fn open(&self, id: SegmentId, writable: bool) -> Result<Arc<dyn SegmentFile>> {
        Ok(self.counted(self.inner.open(id, writable)?))
    }

    fn identity(&self, id: SegmentId) -> Result<Identity> {
        self.inner.identity(id)
    }

    fn is_named(&self, id: SegmentId, file: &dyn SegmentFile) -> bool {
        self.inner.is_named(id, file)
    }

    fn unlink(&self, id: SegmentId) -> Result<()> {
        self.inner.unlink(id)
    }

    fn set_aside(&self, id: SegmentId) -> Result<PathBuf> {
        self.inner.set_aside(id)
    }

    fn lost(&self) -> Result<Vec<(String, u64)>> {
        self.inner.lost()
    }

    fn length(&self, id: SegmentId) -> Result<u64> {
        self.inner.length(id)
    }

    fn list(&self) -> Result<Vec<SegmentId>> {
        self.inner.list()
    }

    fn label(&self, id: SegmentId) {
        self.inner.label(id);
    }

    fn made_as(&self, id: SegmentId) -> Option<SegmentId> {
        self.inner.made_as(id)
    }

    fn disk_usage(&self, id: SegmentId) -> Result<u64> {
        self.inner.disk_usage(id)
    }

    fn free_bytes(&self) -> Result<u64> {
        self.inner.free_bytes()
    }

    fn free_for_temporary(&self) -> Result<u64> {
        self.inner.free_for_temporary()
    }

    fn temporary(&self) -> Result<Arc<dyn SegmentFile>> {
        self.inner.temporary()
    }
}

/// A store with an open segment of three pages, and what counts the syncs of its segments.
pub(crate) fn counted_store(directory: &Path) -> (Store, Arc<Syncs>) {
    drop(testing::open(directory));
    let mut opened = testing::unlocked(|| opening::open(directory)).unwrap();
    let syncs = Arc::new(Syncs::default());
    opened.backend = Arc::new(Disk {
        inner: opened.backend,
        syncs: Arc::clone(&syncs),
    });
    let store = Store::assemble(directory, testing::options(SEGMENT_BYTES), opened).unwrap();
    push(&store, "first@1", &testing::content(99, 3)).unwrap();
    (store, syncs)
}
