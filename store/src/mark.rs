//! The mark: how many commits have been acknowledged, kept outside the index.
//!
//! It is the `generation` file, 8 bytes that are overwritten in place and synced after a commit's
//! batch and before its answer. So an index that has counted fewer commits than the mark is an
//! older one, or a damaged one, whatever its own checksums say; one that has counted more is right,
//! since a stop may come between the two. Readers take a new value for news.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};

/// The mark of one store, opened for writing by its writer and for reading by everybody else.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    file: File,
}

impl Mark {
    /// Opens the mark to read it. `None` when there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        Self::open_with(path, OpenOptions::new().read(true))
    }

    /// Opens the mark to advance it, and makes one where there is none.
    pub(crate) fn open_for_writing(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        Self::open_with(path, &options)?.ok_or_else(|| {
            StoreError::io("creating", path, io::Error::from(io::ErrorKind::NotFound))
        })
    }

    fn open_with(path: &Path, options: &OpenOptions) -> Result<Option<Self>> {
        match options.open(path) {
            Ok(file) => Ok(Some(Self {
                path: path.into(),
                file,
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::io("opening", path, source)),
        }
    }

    /// Commits acknowledged so far; `None` when the file is too short to say.
    pub(crate) fn read(&self) -> Result<Option<u64>> {
        let mut bytes = [0; 8];
        match FileExt::read_exact_at(&self.file, &mut bytes, 0) {
            Ok(()) => Ok(Some(u64::from_le_bytes(bytes))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(source) => Err(StoreError::io("reading", &self.path, source)),
        }
    }

    /// Notes that `commits` commits were made, and waits until the note survives a power cut.
    pub(crate) fn advance(&self, commits: u64) -> Result<()> {
        FileExt::write_all_at(&self.file, &commits.to_le_bytes(), 0)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| StoreError::io("writing", &self.path, source))
    }
}
