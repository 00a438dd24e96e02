//! Files that are read whole, and replaced whole or not at all.
//!
//! Somebody may have put a pipe in the place of one, or of what it is written as at first: nobody waits for that.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::backend::{new_file, read_file, sync_parent};
use crate::error::{Result, StoreError};

/// All of a file.
///
/// # Errors
///
/// When it cannot be read, or is no file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts `bytes` at `path`, by way of `new` beside it. A power cut may leave the file that was there, or an empty one.
pub fn replace(path: &Path, new: &Path, bytes: &[u8]) -> Result<()> {
    replace_once(path, new, bytes, |_| Ok(()))
}

/// The same, and waits until a power cut leaves the one file or the other. Which it is stays open until their directory is
/// synced, which may be once for many.
pub(crate) fn replace_synced(path: &Path, new: &Path, bytes: &[u8]) -> Result<()> {
    replace_once(path, new, bytes, File::sync_all)
}

/// The same, and waits until it survives a power cut.
pub fn replace_durably(path: &Path, new: &Path, bytes: &[u8]) -> Result<()> {
    replace_synced(path, new, bytes)?;
    sync_parent(path)
}

fn replace_once(
    path: &Path,
    new: &Path,
    bytes: &[u8],
    is_ready: impl FnOnce(&File) -> io::Result<()>,
) -> Result<()> {
    let write = || {
        let mut file = new_file(new)?;
        file.write_all(bytes)?;
        is_ready(&file)?;
        fs::rename(new, path)
    };
    write().map_err(|error| StoreError::io("writing", path, error))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_no_pipe_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (path, new) = (directory.path().join("a"), directory.path().join("a.new"));
        for replace in [replace, replace_synced, replace_durably] {
            let made = Command::new("mkfifo").args([&path, &new]).status().unwrap();
            assert!(made.success());
            assert!(read(&path).is_err());
            replace(&path, &new, b"bytes").unwrap();
            assert_eq!(read(&path).unwrap(), b"bytes");
            assert!(!new.exists());
            fs::remove_file(&path).unwrap();
        }
    }
}
