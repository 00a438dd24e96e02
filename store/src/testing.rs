//! What tests of this crate share: stores of small segments, content from seeds, and libraries.

use std::path::Path;

use pool_core::digest::ObjectId;

pub(crate) use pool_tests::content::content;

use crate::error::Result;
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
    Store::open(directory, options(SEGMENT_BYTES)).unwrap()
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
