//! Where objects are.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use super::error::LinkError;

/// Where an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Of a member of an archive.
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Source {
    pub(super) fn open(&self) -> Result<File, LinkError> {
        File::open(&self.path).map_err(|source| LinkError::Read {
            path: self.path.clone(),
            source,
        })
    }

    /// Its bytes, if they are there.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let mut file = self.open().ok()?;
        file.seek(SeekFrom::Start(self.offset)).ok()?;
        let mut bytes = Vec::new();
        file.take(self.size).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 == self.size).then_some(bytes)
    }
}
