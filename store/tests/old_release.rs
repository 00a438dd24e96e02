//! Stores of releases that did not count commits.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use closed::{assert_whole, copy, example, gone, journal_files, refused, reopen, tamper, told};
use common::{open, push_library};
use pool_core::page::WINDOW_SIZE;
use pool_store::StoreView;
use pool_store::audit::{Audit, audit};
use pool_store::placement::Placement;
use pool_store::superblock::{FEATURE_JOURNAL, FEATURE_MARKED, FEATURE_MASKED, Superblock};
use rocksdb::{IteratorMode, WriteBatch};

/// Makes of a closed store what release 0.1 made: no identity and no count in the index, and a
/// superblock without feature bits.
fn as_old_release(directory: &Path) {
    gone(&directory.join("journal"));
    let path = directory.join("superblock");
    let mut superblock = Superblock::decode(&fs::read(&path).unwrap(), true).unwrap();
    superblock.read_only_compatible &= !(FEATURE_MARKED | FEATURE_JOURNAL | FEATURE_MASKED);
    fs::write(path, superblock.encode()).unwrap();
    tamper(directory, |index| {
        let meta = index.cf_handle("meta").unwrap();
        let mut batch = WriteBatch::default();
        for entry in index.iterator_cf(meta, IteratorMode::Start) {
            let (key, _) = entry.unwrap();
            if !matches!(&*key, b"epoch" | b"next-segment") {
                batch.delete_cf(meta, key);
            }
        }
        index.write(batch).unwrap();
    });
}

#[test]
fn a_store_of_an_old_release_is_taken_over_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    example(&path);
    let segment = fs::metadata(path.join("segments/00000000.seg"))
        .unwrap()
        .len();
    assert_eq!(segment, 2 * WINDOW_SIZE);
    as_old_release(&path);
    // What a stop left of an old release's commit.
    fs::write(path.join("segments/000000aa.seg"), b"left").unwrap();

    let view = StoreView::follow(&path, &directory.path().join("scratch")).unwrap();
    assert_whole(&view);
    // There is nothing to compare its index with.
    let found = audit(&view, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(found, ControlFlow::Continue(Audit::default()));
    drop(view);
    let generation = fs::read(path.join("generation")).unwrap();
    let store = reopen(&path).unwrap();
    let features = FEATURE_MARKED | FEATURE_JOURNAL | FEATURE_MASKED;
    assert_eq!(store.superblock().read_only_compatible & features, features);
    assert_eq!(journal_files(&path, "checkpoint").len(), 1);
    assert_whole(&store);
    assert_eq!(fs::read(path.join("lost/000000aa.seg")).unwrap(), b"left");
    push_library(&store, "new@1", b"new", Placement::Sparse).unwrap();
    drop(store);
    assert!(fs::read(path.join("generation")).unwrap() > generation);
    copy(&path.join("index"), &directory.path().join("old-index"));
    let store = reopen(&path).unwrap();
    assert_whole(&store);
    push_library(&store, "newer@1", b"newer", Placement::Sparse).unwrap();
    let whole = told(&store);
    drop(store);
    gone(&path.join("index"));
    copy(&directory.path().join("old-index"), &path.join("index"));
    assert_eq!(told(&reopen(&path).unwrap()), whole);
}

#[test]
fn an_empty_index_beside_the_segments_of_an_old_release_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    example(&path);
    as_old_release(&path);
    let other = directory.path().join("other");
    drop(open(&other));
    as_old_release(&other);
    gone(&path.join("index"));
    copy(&other.join("index"), &path.join("index"));
    assert!(refused(&path).contains("its index is empty"));
}

#[test]
fn a_store_of_an_old_release_without_a_mark_gets_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    example(&path);
    as_old_release(&path);
    gone(&path.join("generation"));
    for _ in 0..2 {
        assert_whole(&reopen(&path).unwrap());
    }
}
