//! Making a new store.
//!
//! The superblock comes last: a directory that has one holds a whole store. Whatever a creation
//! that was cut short leaves is empty, and the next one goes on from there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use crate::backend::{sync_directory, sync_parent};
use crate::error::{Result, StoreError};
use crate::format::{self, FORMAT_VERSION, Superblock};
use crate::index::Index;
use crate::lease::LeaseTable;
use crate::mark::Mark;
use crate::{StoreOptions, opening};

/// Temporary name of a superblock.
const NEW_SUPERBLOCK_FILE: &str = "superblock.new";

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
        Some(NEW_SUPERBLOCK_FILE) => Ok(metadata.is_file()),
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

/// Makes an empty store in a vacant directory.
pub(crate) fn create(directory: &Path, options: StoreOptions) -> Result<Superblock> {
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
    if Superblock::decode(&superblock.encode(), true).is_err() {
        return Err(StoreError::NotMade {
            path: directory.into(),
            why: format!(
                "segments of {} bytes are not possible: use a multiple of 2 MiB up to 16 GiB",
                options.segment_bytes
            ),
        });
    }
    let make = |part| {
        let path = directory.join(part);
        fs::create_dir_all(&path).map_err(|source| StoreError::io("creating", path, source))
    };
    let absent: Vec<_> = directory
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    make("")?;
    for made in absent {
        sync_parent(made)?;
    }
    let _lock = opening::lock(directory)?;
    make(format::SEGMENTS_DIRECTORY)?;
    make(format::STAGING_DIRECTORY)?;
    Index::create(&directory.join(format::INDEX_DIRECTORY), identity)?;
    Mark::open_for_writing(&directory.join(format::GENERATION_FILE))?.advance(0)?;
    drop(LeaseTable::open(&directory.join(format::LEASES_FILE))?);
    sync_directory(directory)?;
    write_superblock(directory, &superblock)?;
    Ok(superblock)
}

/// Writes the superblock whole, or not at all.
pub(crate) fn write_superblock(directory: &Path, superblock: &Superblock) -> Result<()> {
    let path = directory.join(format::SUPERBLOCK_FILE);
    let temporary = directory.join(NEW_SUPERBLOCK_FILE);
    File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(&superblock.encode())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|source| StoreError::io("writing", &path, source))?;
    sync_directory(directory)
}
