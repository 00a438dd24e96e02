//! A folder for what this process notes while it reads a store.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::ending::Ending;

/// A folder that goes with this value, and when this process is told to end.
pub(crate) struct Scratch {
    folder: TempDir,
    _ending: Ending,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for notes")?;
        let path = folder.path().to_owned();
        let ending = Ending::after(move || {
            // It is of no use to anybody, and a temporary one.
            let _ = fs::remove_dir_all(path);
        });
        Ok(Self {
            folder,
            _ending: ending.context("waiting for signals")?,
        })
    }

    /// Where a reader of a store may keep what it needs.
    pub(crate) fn index(&self) -> PathBuf {
        self.folder.path().join("index")
    }
}
