//! What tests of this crate share: stores of small segments, content from seeds, and libraries.

mod disk;

use std::path::Path;

use pool_core::digest::ObjectId;

pub(crate) use self::disk::counted_store;
pub(crate) use pool_tests::content::content;
use pool_tests::wait;

use crate::error::{Result, StoreError};
use crate::placement::Placement;
use crate::upload::{CommitSummary, Content, Target};
use crate::{Store, StoreOptions};

/// Bytes of a segment of [`open`]'s stores: one window.
pub(crate) const SEGMENT_BYTES: u64 = 2 << 20;

/// Options of a store with such segments, which is made if it is not there.
pub(crate) fn options(segment_bytes: u64) -> StoreOptions {
    StoreOptions {
        create: true,
        segment_bytes,
        ..StoreOptions::default()
    }
}

/// A store of small segments.
pub(crate) fn open(directory: &Path) -> Store {
    open_with(directory, options(SEGMENT_BYTES))
}

/// Opens a store that nobody has, or that this test has closed.
pub(crate) fn open_with(directory: &Path, options: StoreOptions) -> Store {
    unlocked(|| Store::open(directory, options)).unwrap()
}

/// Tries until a store that this test has closed is not locked any more: a child that another test of this process starts has its lock, too,
/// until it has become the program that it is to run.
pub(crate) fn unlocked<T>(mut open: impl FnMut() -> Result<T>) -> Result<T> {
    wait::until_some("the store's lock", || match open() {
        Err(StoreError::Locked { .. }) => None,
        other => Some(other),
    })
}

/// A library version with this content.
pub(crate) fn library<'a>(
    name: &str,
    bytes: &'a [u8],
    placement: Placement,
) -> (Target, Content<'a>) {
    let content = Content::of(bytes, placement);
    let target = Target::Library {
        library: name.parse().unwrap(),
        object: content.id(),
    };
    (target, content)
}

/// Pushes it, page by page.
pub(crate) fn push(store: &Store, name: &str, bytes: &[u8]) -> Result<CommitSummary> {
    let (target, content) = library(name, bytes, Placement::Sparse);
    store.ingest(target, &[content])
}

pub(crate) fn assert_stored(store: &Store, bytes: &[u8]) {
    let record = store.object(ObjectId::of(bytes)).unwrap().unwrap();
    let found = store.read(&record.map, 0, bytes.len()).unwrap();
    assert!(found == bytes);
}
