//! Making a new store.
//!
//! The superblock comes last: a directory that has one holds a whole store. Whatever a creation
//! that was cut short leaves is empty, and the next one goes on from there.

use std::fs;
use std::path::Path;

use crate::StoreOptions;
use crate::backend::sync_directory;
use crate::directory;
use crate::error::{Result, StoreError};
use crate::format;
use crate::index::Index;
use crate::lease::LeaseTable;
use crate::mark::Mark;
use crate::superblock::{self, FORMAT_VERSION, Superblock};

/// Makes an empty store in a vacant directory.
pub(crate) fn create(directory: &Path, options: StoreOptions) -> Result<Superblock> {
    create_with(directory, options, || Ok(()))
}

/// Makes a store in a vacant directory, with what `fill` puts into it. That is called while all but the superblock is there
/// and nobody else can have the directory; if it fails, there is no store.
pub(crate) fn create_with(
    directory: &Path,
    options: StoreOptions,
    fill: impl FnOnce() -> Result<()>,
) -> Result<Superblock> {
    let mut identity = [0; 16];
    rustix::rand::getrandom(&mut identity, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| StoreError::io("naming the store", directory, errno.into()))?;
    let made = Superblock {
        version: FORMAT_VERSION,
        compatible: superblock::COMPATIBLE_FEATURES,
        // The journal begins when it is first opened for writing.
        read_only_compatible: superblock::FEATURE_MARKED,
        incompatible: superblock::INCOMPATIBLE_FEATURES,
        segment_bytes: options.segment_bytes,
        identity,
    };
    if Superblock::decode(&made.encode(), true).is_err() {
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
    directory::make(directory, 0o777)?;
    let _lock = directory::lock(directory)?;
    // Another process may have come first.
    if !directory::is_vacant(directory)? {
        return Err(not_vacant(directory));
    }
    make(format::SEGMENTS_DIRECTORY)?;
    make(format::STAGING_DIRECTORY)?;
    Index::create(&directory.join(format::INDEX_DIRECTORY), identity)?;
    Mark::open_for_writing(&directory.join(format::GENERATION_FILE))?.advance(0)?;
    drop(LeaseTable::open(&directory.join(format::LEASES_FILE))?);
    sync_directory(directory)?;
    fill()?;
    made.write(directory)?;
    Ok(made)
}

/// What is in the way of a new store.
pub(crate) fn not_vacant(directory: &Path) -> StoreError {
    let is_cut_short = directory.join(format::RESTORING_FILE).exists();
    let why = match Superblock::read(directory, false) {
        Ok(_) => "it holds a store already",
        Err(_) if is_cut_short => "a restoration into it was cut short; run pool restore again",
        Err(_) => "it is not empty, and a new store is made in an empty or new directory only",
    };
    StoreError::NotMade {
        path: directory.into(),
        why: why.into(),
    }
}
