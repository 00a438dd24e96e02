//! An index that was found damaged, or to differ from the journal, is not trusted: it is the journal then that is right.
//!
//! That is on record in the store's directory, since whoever opens the store next has to know: a checkpoint is a copy of the index,
//! and what has the right records goes with it. So do pages with a collection that takes them for garbage, and no repair brings
//! those back.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use crate::StoreView;
use crate::backend::sync_directory;
use crate::error::{Result, StoreError};
use crate::format::DISTRUSTED_FILE;

/// True when the index of the store in `directory` was found damaged, and nothing has shown since that it is whole.
pub(crate) fn is_noted(directory: &Path) -> bool {
    directory.join(DISTRUSTED_FILE).symlink_metadata().is_ok()
}

/// Notes it, and waits until that survives a power cut.
pub(crate) fn note(directory: &Path) -> Result<()> {
    let path = directory.join(DISTRUSTED_FILE);
    File::create(&path).map_err(|error| StoreError::io("creating", path, error))?;
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

impl StoreView {
    /// True when the index was found damaged, or to differ from the journal, and nothing has shown since that it is whole. No
    /// checkpoint is written meanwhile, so the logs grow, and nothing is collected.
    pub fn distrusts_index(&self) -> bool {
        self.distrusts_index.load(Ordering::SeqCst) || is_noted(self.directory())
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
        self.distrusts_index.store(is_distrusted, Ordering::SeqCst);
        let noted = match (is_distrusted, is_noted(self.directory())) {
            (true, false) => note(self.directory()),
            (false, true) => clear(self.directory()),
            (true, true) | (false, false) => Ok(()),
        };
        if let Err(error) = noted {
            tracing::error!(%error, is_distrusted, "noting whether the index can be trusted");
        }
    }
}
