//! A store's directory from outside: who has it, and what it looks like where no store is.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::backend::{Identity, sync_directory, sync_parent};
use crate::error::{Result, StoreError};
use crate::format;

/// Keeps other processes, and this one, from opening the store a second time for writing. RocksDB
/// has a lock of its own, but takes it only when it is about to change things.
pub(crate) fn lock(directory: &Path) -> Result<File> {
    let handle =
        File::open(directory).map_err(|source| StoreError::io("opening", directory, source))?;
    match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(handle),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked {
            path: directory.into(),
        }),
        Err(errno) => Err(StoreError::io("locking", directory, errno.into())),
    }
}

/// Which file is at a path, if there is one. Somebody may have put another one there.
pub(crate) fn identity(path: &Path) -> Result<Option<Identity>> {
    match fs::metadata(path) {
        Ok(there) => Ok(Some((there.dev(), there.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("looking at", path, error)),
    }
}

/// True when a new store can be made in `directory`: it is absent or empty, or holds nothing but
/// what a creation that was cut short left.
pub(crate) fn is_vacant(directory: &Path) -> Result<bool> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(StoreError::io("opening", directory, source)),
    };
    for entry in entries {
        let vacant = entry
            .and_then(|entry| is_leftover(&entry.path()))
            .map_err(|source| StoreError::io("reading", directory, source))?;
        if !vacant {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_leftover(path: &Path) -> io::Result<bool> {
    let is_empty = |path| Ok::<_, io::Error>(fs::read_dir(path)?.next().is_none());
    let metadata = fs::symlink_metadata(path)?;
    match path.file_name().and_then(|name| name.to_str()) {
        // A file system of its own has one.
        Some("lost+found") => Ok(true),
        Some(format::NEW_SUPERBLOCK_FILE) => Ok(metadata.is_file()),
        Some(format::LEASES_FILE | format::GENERATION_FILE) => {
            Ok(metadata.is_file() && metadata.len() <= 8)
        }
        Some(format::SEGMENTS_DIRECTORY | format::STAGING_DIRECTORY) => {
            Ok(metadata.is_dir() && is_empty(path)?)
        }
        // An index in the making has no tables yet; `Index::create` looks inside.
        Some(format::INDEX_DIRECTORY) => {
            if !metadata.is_dir() {
                return Ok(false);
            }
            for entry in fs::read_dir(path)? {
                if entry?.path().extension().is_some_and(|end| end == "sst") {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Makes a directory, if it is not there, with the permissions `mode` less the umask, and its ancestors, whose names are
/// durable then.
pub(crate) fn make(directory: &Path, mode: u32) -> Result<()> {
    let failed = |source| StoreError::io("creating", directory, source);
    let absent: Vec<_> = directory
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    if let [_, above, ..] = absent[..] {
        fs::create_dir_all(above).map_err(failed)?;
    }
    let made = DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory);
    made.map_err(failed)?;
    absent.into_iter().try_for_each(sync_parent)
}

/// Who may do what in a directory.
pub(crate) fn mode(directory: &Path) -> Result<u32> {
    let found = fs::metadata(directory);
    let found = found.map_err(|error| StoreError::io("looking at", directory, error))?;
    Ok(found.mode() & 0o777)
}

/// True when `path`, which need not be there, is the directory `outer` or in it.
pub(crate) fn is_within(path: &Path, outer: &Path) -> Result<bool> {
    let real = |path: &Path| {
        let real = fs::canonicalize(path);
        real.map_err(|error| StoreError::io("looking at", path, error))
    };
    let there = path.ancestors().find(|path| path.exists());
    let there = there.filter(|path| !path.as_os_str().is_empty());
    Ok(real(there.unwrap_or(Path::new(".")))?.starts_with(real(outer)?))
}

/// Ends a restoration: a store is there, and what is in its directory is its own.
pub(crate) fn end_restoration(directory: &Path) -> Result<()> {
    let path = directory.join(format::RESTORING_FILE);
    match fs::remove_file(&path) {
        Ok(()) => sync_directory(directory),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("removing", path, error)),
    }
}

/// What a directory without superblock looks like.
pub(crate) fn without_superblock(directory: &Path) -> &'static str {
    let has = |name| directory.join(name).exists();
    if !directory.exists() {
        "it is not there"
    } else if has(format::RESTORING_FILE) {
        "a restoration into it was cut short; run pool restore again"
    } else if is_vacant(directory).unwrap_or(false)
        && (has(format::INDEX_DIRECTORY) || has(format::SEGMENTS_DIRECTORY))
    {
        "nothing is in it but what a creation that was cut short left; ask for a new store once more (--create, or pool init)"
    } else if has(format::INDEX_DIRECTORY) || has(format::SEGMENTS_DIRECTORY) {
        "its superblock is missing; put it back from a copy of this directory (what pool backup makes has none)"
    } else if is_vacant(directory).unwrap_or(false) {
        "it is empty; perhaps a filesystem is missing that should be mounted there"
    } else {
        "it has no superblock"
    }
}
