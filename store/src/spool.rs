//! A file that comes piece by piece and waits on the disk until it is whole.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::Store;
use crate::backend::{Backend, SegmentFile};
use crate::error::{Result, StoreError};
use crate::room::{self, Promised};

/// What a file is called that has no name.
pub(crate) const TEMPORARY: &str = "an upload's temporary file";

/// A nameless file beside the store's, which goes with this value. It leaves the room on the disk that segments do.
#[derive(Debug)]
pub struct Spool {
    backend: Arc<dyn Backend>,
    promised: Arc<Promised>,
    file: Arc<dyn SegmentFile>,
    end: u64,
}

impl Store {
    /// A file without anything in it.
    pub fn spool(&self) -> Result<Spool> {
        let backend = Arc::clone(&self.view.backend);
        Ok(Spool {
            file: backend.temporary()?,
            backend,
            promised: Arc::clone(&self.promised),
            end: 0,
        })
    }
}

impl Spool {
    /// Adds bytes at the end.
    ///
    /// # Errors
    ///
    /// When they cannot be written, or there is no room for them on the disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        write(
            self.backend.as_ref(),
            &self.promised,
            self.file.as_ref(),
            bytes,
            self.end,
        )?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// The file, which nobody else has.
    ///
    /// # Errors
    ///
    /// When the store keeps its temporary files in none.
    pub fn file(&self) -> Result<&File> {
        let none = || StoreError::io("reading", TEMPORARY, io::ErrorKind::Unsupported.into());
        self.file.file().ok_or_else(none)
    }
}

/// Writes to a temporary file what leaves enough room on its disk.
pub(crate) fn write(
    backend: &dyn Backend,
    promised: &Arc<Promised>,
    file: &dyn SegmentFile,
    bytes: &[u8],
    offset: u64,
) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let promise = promised.add(bytes.len() as u64, || backend.free_for_temporary())?;
    let _promise = promise.ok_or_else(|| room::none_left(TEMPORARY))?;
    let written = file.write_all_at(bytes, offset);
    written.map_err(|source| StoreError::io("writing", TEMPORARY, source))
}
