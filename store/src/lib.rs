//! The on-disk store: pages in segments, and an index that says what they make up.
//!
//! [`Store`] is the writing side, held by one process; [`StoreView`] is the reading side, which
//! any process can open beside it. FORMAT.md describes every byte. The order of durability is
//! always the same: segment data, `fdatasync`, one synced batch of index changes, the answer.
//!
//! A page's way through the modules: `ingest` finds out which pages are missing and takes them
//! in, [`placement`] decides how they will lie, `segment` writes them, `index` records them,
//! [`references`] names what they make up, [`lease`] keeps them for whoever maps them, and
//! [`collection`] lets a collector take away what nothing refers to.

pub mod backend;
pub mod collection;
mod error;
pub mod evacuate;
pub mod format;
mod index;
mod ingest;
mod intake;
pub mod lease;
pub mod manifest;
mod page_digest;
pub mod placement;
pub mod precondition;
pub mod references;
mod segment;
pub mod stats;
pub mod upload;
mod view;

use std::fs::{self, File};
use std::io::Write;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use error::{Result, StoreError};
pub use format::Reference;
pub use view::{Held, StoreView};

use backend::{Backend, DirectoryBackend};
use collection::Barrier;
use format::{FORMAT_VERSION, SegmentState, Superblock};
use index::Index;
use manifest::Timestamp;
use placement::PlacementPolicy;
use segment::Appender;

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Make a new store in a directory that is absent or empty.
    pub create: bool,
    /// Bytes of a segment of a new store, a multiple of 2 MiB.
    pub segment_bytes: u64,
    /// Which windows are stored densely from now on.
    pub placement: PlacementPolicy,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            create: false,
            segment_bytes: 64 << 20,
            placement: PlacementPolicy::default(),
        }
    }
}

/// A store opened for writing.
#[derive(Debug)]
pub struct Store {
    view: StoreView,
    policy: PlacementPolicy,
    writer: Mutex<Writer>,
}

/// What changes under the writer's lock. Commits hold it from the look-up of their pages to the
/// write of their batch, a collection for one bounded batch at a time.
#[derive(Debug)]
struct Writer {
    appender: Appender,
    /// What was committed since the running collection began; absent when none runs.
    barrier: Option<Barrier>,
}

impl Writer {
    /// Keeps what was appended for a committed change, or forgets what a failed one appended; the
    /// change's own error is then the one to report.
    fn settle(&mut self, index: &Index, committed: bool) {
        if committed {
            self.appender.committed();
        } else if let Err(error) = self.appender.rollback(index) {
            tracing::error!(%error, "forgetting what a failed commit appended");
        }
    }
}

impl Deref for Store {
    type Target = StoreView;
    fn deref(&self) -> &StoreView {
        &self.view
    }
}

impl Store {
    /// Opens the store in `directory`; only one process can at a time.
    pub fn open(directory: &Path, options: StoreOptions) -> Result<Self> {
        if options.create && is_absent_or_empty(directory)? {
            create(directory, options)?;
        }
        let superblock = view::read_superblock(directory, true)?;
        let index = Index::open_primary(&directory.join(format::INDEX_DIRECTORY))?;
        let backend: Arc<dyn Backend> = Arc::new(DirectoryBackend::new(
            directory.join(format::SEGMENTS_DIRECTORY),
            directory.join(format::STAGING_DIRECTORY),
        ));
        remove_orphans(&index, backend.as_ref())?;
        let appender = Appender::open(Arc::clone(&backend), &index, superblock.segment_bytes)?;
        let view = StoreView::assemble(directory, superblock, index, backend)?;
        view.advance_generation()?;
        Ok(Self {
            view,
            policy: options.placement,
            writer: Mutex::new(Writer {
                appender,
                barrier: None,
            }),
        })
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic under the lock leaves at most slots that were handed out and not recorded.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Temporary name of the superblock of a store in the making.
const NEW_SUPERBLOCK_FILE: &str = "superblock.new";

fn is_absent_or_empty(directory: &Path) -> Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            // A file system of its own has a lost+found; the others are what a creation that was
            // cut short leaves.
            let harmless = [
                "lost+found",
                NEW_SUPERBLOCK_FILE,
                format::SEGMENTS_DIRECTORY,
                format::STAGING_DIRECTORY,
            ];
            Ok(entries.all(|entry| {
                entry.is_ok_and(|entry| harmless.iter().any(|name| entry.file_name() == *name))
            }))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(StoreError::io("opening", directory, source)),
    }
}

/// Makes an empty store. The superblock comes last: a directory with one is whole.
fn create(directory: &Path, options: StoreOptions) -> Result<()> {
    let mut identity = [0; 16];
    rustix::rand::getrandom(&mut identity, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| StoreError::io("naming the store", directory, errno.into()))?;
    let superblock = Superblock {
        version: FORMAT_VERSION,
        compatible: format::COMPATIBLE_FEATURES,
        read_only_compatible: format::READ_ONLY_COMPATIBLE_FEATURES,
        incompatible: format::INCOMPATIBLE_FEATURES,
        segment_bytes: options.segment_bytes,
        identity,
    };
    let bytes = superblock.encode();
    if Superblock::decode(&bytes, true).is_err() {
        return Err(StoreError::BadUpload(format!(
            "segments of {} bytes are not possible: use a multiple of 2 MiB up to 16 GiB",
            options.segment_bytes
        )));
    }
    for part in ["", format::SEGMENTS_DIRECTORY, format::STAGING_DIRECTORY] {
        let path = directory.join(part);
        fs::create_dir_all(&path).map_err(|source| StoreError::io("creating", path, source))?;
    }
    let path = directory.join(format::SUPERBLOCK_FILE);
    let temporary = directory.join(NEW_SUPERBLOCK_FILE);
    File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|source| StoreError::io("writing", &path, source))?;
    backend::sync_directory(directory)
}

/// Removes segment files that no commit ever recorded, and those whose removal a power cut undid.
fn remove_orphans(index: &Index, backend: &dyn Backend) -> Result<()> {
    for id in backend.list()? {
        if index.segment(id)?.is_none() {
            tracing::info!(segment = %id, "removing a segment that was never committed");
            backend.unlink(id)?;
        }
    }
    for (id, record) in index.segments()? {
        let gone = || Err(StoreError::Corrupt(format!("segment {id} has no file")));
        match backend.open(id, false) {
            Err(StoreError::NoSegment(_)) if record.state == SegmentState::Retired => {}
            Err(StoreError::NoSegment(_)) => gone()?,
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> Timestamp {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
