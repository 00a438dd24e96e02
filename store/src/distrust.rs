//! An index that was found damaged, or to differ from the journal, is not trusted: it is the journal then that is right.
//!
//! That is on record in the store's directory, since whoever opens the store next has to know: a checkpoint is a copy of the index,
//! and what has the right records goes with it. So do pages with a collection that takes them for garbage, and with a commit that
//! fills slots which the index takes for free: no repair brings those back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pool_core::extent::SegmentId;

use crate::StoreView;
use crate::backend::{Backend, new_file, sync_directory};
use crate::error::{Result, StoreError};
use crate::format::{DISTRUSTED_FILE, JOURNAL_DIRECTORY};
use crate::index::Reader;
use crate::journal;

/// Numbers of segments from here on are taken for nobody's: a file of such a name would use up the
/// numbers that are left, and no store comes to so many.
pub(crate) const NOBODYS: u32 = 1 << 31;

/// True when the index of the store in `directory` was found damaged, and nothing has shown since that it is whole.
pub(crate) fn is_noted(directory: &Path) -> bool {
    directory.join(DISTRUSTED_FILE).symlink_metadata().is_ok()
}

/// Notes it, and waits until that survives a power cut.
pub(crate) fn note(directory: &Path) -> Result<()> {
    let path = directory.join(DISTRUSTED_FILE);
    new_file(&path).map_err(|error| StoreError::io("creating", path, error))?;
    sync_directory(directory)
}

/// Takes the note back.
pub(crate) fn clear(directory: &Path) -> Result<()> {
    let path = directory.join(DISTRUSTED_FILE);
    match fs::remove_file(&path) {
        Ok(()) => sync_directory(directory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("removing", path, error)),
    }
}

/// Whether the index of an open store is trusted.
#[derive(Debug)]
pub(crate) struct Distrust {
    directory: PathBuf,
    /// The store's identity.
    identity: [u8; 16],
    /// It is not; the note of that may not be on disk.
    is_known: AtomicBool,
}

impl Distrust {
    /// Of the store `identity` in `directory`.
    pub(crate) fn of(directory: &Path, identity: [u8; 16]) -> Arc<Self> {
        Arc::new(Self {
            directory: directory.into(),
            identity,
            is_known: AtomicBool::new(false),
        })
    }

    /// See [`StoreView::distrusts_index`].
    pub(crate) fn holds(&self) -> bool {
        self.is_known.load(Ordering::SeqCst) || is_noted(&self.directory)
    }

    /// Notes whether it holds.
    fn set(&self, is_distrusted: bool) {
        self.is_known.store(is_distrusted, Ordering::SeqCst);
        let noted = match (is_distrusted, is_noted(&self.directory)) {
            (true, false) => note(&self.directory),
            (false, true) => clear(&self.directory),
            (true, true) | (false, false) => Ok(()),
        };
        if let Err(error) = noted {
            tracing::error!(%error, is_distrusted, "noting whether the index can be trusted");
        }
    }

    /// A number from which on there are no segments, whatever the index says: no file has it, nor has the journal, as
    /// far as that can be read. Reads all of the journal.
    pub(crate) fn next_segment(&self, index: &Reader<'_>, backend: &dyn Backend) -> Result<u64> {
        let journal = self.directory.join(JOURNAL_DIRECTORY);
        let logged = journal::next_segment(&journal, self.identity);
        let after = |id: SegmentId| u64::from(id.0) + 1;
        let files = backend.list()?.into_iter().map(after);
        let recorded = index.segments_one_by_one()?.into_iter();
        let recorded = recorded.map(|(id, _)| after(id));
        let all = files.chain(recorded).chain([logged, index.next_segment()?]);
        let known = all.filter(|number| *number < NOBODYS.into());
        Ok(known.max().unwrap_or(0))
    }
}

impl StoreView {
    /// True when the index was found damaged, or to differ from the journal, and nothing has shown since that it is whole.
    /// Checkpoints are made of the journal alone meanwhile, nothing is collected, and what is pushed goes to segments that are begun
    /// for it.
    pub fn distrusts_index(&self) -> bool {
        self.distrust.holds()
    }

    /// Refuses to go by an index that is not [trusted](Self::distrusts_index): what it does not refer to, the journal may.
    pub fn check_trusted(&self) -> Result<()> {
        if self.distrusts_index() {
            let path = self.directory().into();
            return Err(StoreError::Distrusted { path });
        }
        Ok(())
    }

    /// Notes whether the index can be trusted.
    pub(crate) fn set_distrust(&self, is_distrusted: bool) {
        self.distrust.set(is_distrusted);
    }
}
