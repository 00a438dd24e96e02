//! Pages that the disk has changed are not taken for what their digests say.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use common::{announcement, assert_stored, content, library_ref, negotiate, open, push_library};
use pool_core::extent::Extent;
use pool_core::page::PAGE_SIZE;
use pool_core::{ObjectId, PageId};
use pool_store::placement::Placement;
use pool_store::upload::{UploadObject, padded};
use pool_store::{Result, Store, StoreError};

const PAGE: usize = PAGE_SIZE as usize;
const SPARSE: Placement = Placement::Sparse;
const DENSE: Placement = Placement::Windows { phase: 0 };

/// Where an object has a page, as its extents say.
fn extent_of(store: &Store, bytes: &[u8], page: u64) -> Extent {
    let record = store.object(ObjectId::of(bytes)).unwrap().unwrap();
    record.map.slice(page, 1).next().unwrap()
}

/// Turns a bit of a page that an object has, or turns it back.
fn flip(directory: &Path, store: &Store, bytes: &[u8], page: u64) {
    let at = extent_of(store, bytes, page);
    let path = directory.join(format!("segments/{}.seg", at.segment));
    let segment = File::options().read(true).write(true).open(path).unwrap();
    let place = at.slot.byte_offset() + 7;
    let mut byte = [0];
    segment.read_exact_at(&mut byte, place).unwrap();
    segment.write_all_at(&[byte[0] ^ 1], place).unwrap();
}

/// The same content by negotiation, and all at once.
fn push_both_ways(store: &Store, bytes: &[u8], placement: Placement) -> [Result<()>; 2] {
    let negotiated = negotiate(store, announcement("new@1", bytes, placement), bytes).map(drop);
    let at_hand = push_library(store, "new@1", bytes, placement).map(drop);
    [negotiated, at_hand]
}

#[track_caller]
fn assert_refused(store: &Store, bytes: &[u8], placement: Placement) {
    let before = store.segments().unwrap();
    let [negotiated, at_hand] = push_both_ways(store, bytes, placement);
    assert!(
        matches!(negotiated, Err(StoreError::ObjectMismatch { .. })),
        "{negotiated:?}"
    );
    assert!(
        matches!(at_hand, Err(StoreError::Damaged(id)) if id == ObjectId::of(bytes)),
        "{at_hand:?}"
    );
    assert!(store.library(&library_ref("new@1")).unwrap().is_none());
    assert_eq!(store.segments().unwrap(), before);
}

#[test]
fn a_page_that_was_changed_is_found_by_whoever_comes_to_refer_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let old = content(1, 20);
    push_library(&store, "old@1", &old, SPARSE).unwrap();
    flip(directory.path(), &store, &old, 9);
    // Singly, in a window of few pages, and as an object's last page.
    let page = &old[9 * PAGE..10 * PAGE];
    let others = [[page, &content(2, 3)].concat(), content(3, 3)];
    let last = [&content(4, 3), page].concat();
    for (bytes, placement) in [(&others[0], SPARSE), (&others[0], DENSE), (&last, SPARSE)] {
        assert_refused(&store, bytes, placement);
    }
    // What has nothing to do with it is not kept out.
    push_library(&store, "other@1", &others[1], SPARSE).unwrap();
    // Nor is a window that is written from what is at hand.
    let window = [page, &content(5, 39)].concat();
    push_library(&store, "window@1", &window, DENSE).unwrap();
    assert_stored(&store, &window);

    flip(directory.path(), &store, &old, 9);
    for pushed in push_both_ways(&store, &last, SPARSE) {
        pushed.unwrap();
    }
    assert_stored(&store, &last);
}

#[test]
fn a_window_that_was_changed_is_found_though_its_pages_are_whole_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let old = content(1, 512);
    // The index finds its first pages there.
    push_library(&store, "pages@1", &old[..20 * PAGE], SPARSE).unwrap();
    push_library(&store, "window@1", &old, DENSE).unwrap();
    let new = [&old, &content(2, 40)[..]].concat();
    flip(directory.path(), &store, &old, 5);
    assert_refused(&store, &new, DENSE);
    // Who refers to the pages alone has all of them.
    let singly = [&old[..10 * PAGE], &content(3, 1)].concat();
    push_library(&store, "singly@1", &singly, SPARSE).unwrap();
    assert_stored(&store, &singly);
    flip(directory.path(), &store, &old, 5);

    // It is the window that the object has, so pages of it elsewhere are none of its business.
    flip(directory.path(), &store, &old[..20 * PAGE], 5);
    let at = extent_of(&store, &old, 0);
    for pushed in push_both_ways(&store, &new, DENSE) {
        pushed.unwrap();
    }
    assert_eq!(extent_of(&store, &new, 0).segment, at.segment);
    assert_stored(&store, &new);
}

#[test]
fn a_page_that_was_sent_and_is_stored_meanwhile_is_checked_where_it_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 3);
    let upload = store
        .begin_upload(announcement("new@1", &bytes, SPARSE))
        .unwrap();
    for page in bytes.chunks(PAGE).map(padded) {
        upload.add_page(PageId::of(&page), &page).unwrap();
    }
    let other = [&bytes[..2 * PAGE], &content(2, 1)].concat();
    push_library(&store, "other@1", &other, SPARSE).unwrap();
    flip(directory.path(), &store, &other, 1);
    let refused = store.commit(&upload);
    assert!(
        matches!(refused, Err(StoreError::ObjectMismatch { .. })),
        "{refused:?}"
    );
    flip(directory.path(), &store, &other, 1);
    store.commit(&upload).unwrap();
    assert_stored(&store, &bytes);
}

#[test]
fn pages_are_asked_for_before_any_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let old = content(1, 3);
    push_library(&store, "old@1", &old, SPARSE).unwrap();
    flip(directory.path(), &store, &old, 1);
    // All of the first object is there.
    let first = [&old[PAGE..], &old[..PAGE]].concat();
    let second = content(2, 1);
    let mut manifest = announcement("new@1", &first, SPARSE);
    manifest.objects.push(UploadObject::of(&second, SPARSE));
    let upload = store.begin_upload(manifest).unwrap();
    let missing = store.commit(&upload);
    let expected = PageId::of(&second);
    assert!(
        matches!(&missing, Err(StoreError::MissingPages(pages)) if pages == &[expected]),
        "{missing:?}"
    );
}
