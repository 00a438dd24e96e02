//! Pages that the disk has changed are not taken for what their digests say, and are written anew by whoever pushes them.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{
    announcement, assert_stored, assert_totals, content, description, image_target, library_ref,
    negotiate, open, push_library, read_object,
};
use pool_core::extent::Extent;
use pool_core::page::PAGE_SIZE;
use pool_core::{ObjectId, PageId};
use pool_store::placement::Placement;
use pool_store::upload::{CommitSummary, UploadManifest, UploadObject, padded};
use pool_store::{Compared, Result, Store, StoreError};

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
    flip_at(directory, extent_of(store, bytes, page));
}

fn flip_at(directory: &Path, at: Extent) {
    let path = directory.join(format!("segments/{}.seg", at.segment));
    let segment = File::options().read(true).write(true).open(path).unwrap();
    let place = at.slot.byte_offset() + 7;
    let mut byte = [0];
    segment.read_exact_at(&mut byte, place).unwrap();
    segment.write_all_at(&[byte[0] ^ 1], place).unwrap();
}

/// Pushes content under a name.
type Push = fn(&Store, &str, &[u8], Placement) -> Result<CommitSummary>;

fn negotiated(
    store: &Store,
    name: &str,
    bytes: &[u8],
    placement: Placement,
) -> Result<CommitSummary> {
    negotiate(store, announcement(name, bytes, placement), bytes)
}

/// The same content by negotiation, and all at once.
const WAYS: [Push; 2] = [negotiated, push_library];

fn scrubbed(store: &Store) -> Vec<ObjectId> {
    let report = pool_store::scrub::scrub(store, &mut |_| ()).unwrap();
    report.damaged_objects
}

#[test]
fn a_damaged_page_is_written_anew_by_whoever_comes_to_refer_to_it() {
    for (push, is_at_hand) in WAYS.into_iter().zip([false, true]) {
        // Singly, in a window of few pages, in one of many, and as an object's last page.
        for (nth, placement) in [(0, SPARSE), (0, DENSE), (39, DENSE), (3, SPARSE)] {
            let directory = tempfile::tempdir().unwrap();
            let store = open(directory.path());
            let old = content(1, 20);
            push_library(&store, "old@1", &old, SPARSE).unwrap();
            let spoilt = extent_of(&store, &old, 9);
            flip(directory.path(), &store, &old, 9);
            let mut new = content(2, 40);
            new.splice(
                nth * PAGE..(nth + 1) * PAGE,
                old[9 * PAGE..10 * PAGE].to_vec(),
            );
            let new = &new[..if nth == 0 { 4 } else { nth + 1 } * PAGE];
            push(&store, "new@1", new, placement).unwrap();
            assert_stored(&store, new);
            if nth == 39 && is_at_hand {
                // A window that is written from what is at hand does not come to refer to it: nobody knows yet.
                assert_eq!(scrubbed(&store), [ObjectId::of(&old)]);
                continue;
            }
            // Others that consist of it follow, and what is not damaged stays where it was.
            assert_stored(&store, &old);
            assert_ne!(extent_of(&store, &old, 9), spoilt);
            assert_eq!(extent_of(&store, &old, 8).segment, spoilt.segment);
            assert_eq!(store.damaged_slots(), 0);
            assert_eq!(scrubbed(&store), []);
            let page = PageId::of(&old[9 * PAGE..10 * PAGE]);
            let at = store.page(&page).unwrap().unwrap();
            assert_ne!((at.segment, at.slot), (spoilt.segment, spoilt.slot));
        }
    }
}

#[test]
fn damage_is_found_by_whichever_processor_comes_to_it() {
    // As many pages as are compared by all of them together.
    let old = content(1, 1200);
    let new = [&old[..], &content(2, 1)].concat();
    for push in WAYS {
        for nth in [0, 700, 1199] {
            let directory = tempfile::tempdir().unwrap();
            let store = open(directory.path());
            push_library(&store, "old@1", &old, SPARSE).unwrap();
            let spoilt = extent_of(&store, &old, nth);
            flip(directory.path(), &store, &old, nth);
            push(&store, "new@1", &new, SPARSE).unwrap();
            assert_stored(&store, &new);
            assert_stored(&store, &old);
            assert_ne!(extent_of(&store, &old, nth), spoilt);
            assert_eq!(store.damaged_slots(), 0);
        }
    }
}

#[test]
fn what_was_found_damaged_is_asked_for_and_mended_by_the_same_push() {
    for push in WAYS {
        for placement in [SPARSE, DENSE] {
            let directory = tempfile::tempdir().unwrap();
            let store = open(directory.path());
            let bytes = content(1, 600);
            push(&store, "old@1", &bytes, placement).unwrap();
            let shares = [&bytes[..512 * PAGE], &content(2, 3)[..]].concat();
            push(&store, "shares@1", &shares, placement).unwrap();
            flip(directory.path(), &store, &bytes, 9);
            flip(directory.path(), &store, &bytes, 550);
            // An object that the pool has is not read again: nobody knows yet.
            push(&store, "old@1", &bytes, placement).unwrap();
            assert_ne!(read_object(&store, ObjectId::of(&bytes)), bytes);
            let mut damaged = vec![ObjectId::of(&bytes), ObjectId::of(&shares)];
            damaged.sort();
            assert_eq!(scrubbed(&store), damaged);
            assert_eq!(store.note_damaged(&damaged).unwrap(), 2);
            assert_eq!(store.note_damaged(&damaged).unwrap(), 0);
            assert_eq!(store.damaged_slots(), 2);
            assert_eq!(store.unknown_objects(damaged.clone()).unwrap(), damaged);
            drop(store);
            // It is known to the next process, too.
            let store = open(directory.path());
            assert_eq!(store.damaged_slots(), 2);
            let upload = store
                .begin_upload(announcement("old@1", &bytes, placement))
                .unwrap();
            let pages = [9, 550].map(|nth| PageId::of(&bytes[nth * PAGE..(nth + 1) * PAGE]));
            assert_eq!(store.missing_pages(&upload).unwrap(), pages);

            push(&store, "old@1", &bytes, placement).unwrap();
            assert_stored(&store, &bytes);
            assert_stored(&store, &shares);
            for bytes in [&bytes, &shares] {
                let dense = extent_of(&store, bytes, 9).dense;
                assert_eq!(dense, placement == DENSE, "windows stay windows");
            }
            assert_eq!(store.damaged_slots(), 0);
            assert_eq!(scrubbed(&store), []);
            drop(store);
            let store = open(directory.path());
            assert_eq!(store.damaged_slots(), 0);
            assert_stored(&store, &shares);
        }
    }
}

#[test]
fn an_object_keeps_its_windows_whoever_mends_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 100);
    push_library(&store, "old@1", &bytes, Placement::Windows { phase: 500 }).unwrap();
    let phase = |store: &Store| store.object(ObjectId::of(&bytes)).unwrap().unwrap().phase;
    flip(directory.path(), &store, &bytes, 50);
    store.note_damaged(&[ObjectId::of(&bytes)]).unwrap();
    push_library(&store, "file@1", &bytes, SPARSE).unwrap();
    assert_stored(&store, &bytes);
    let extent = extent_of(&store, &bytes, 50);
    assert!(extent.dense);
    assert_eq!(extent.slot.page_in_window(), 38);
    assert_eq!(phase(&store), 500);
    assert_eq!(store.damaged_slots(), 0);
}

#[test]
fn a_window_that_was_changed_is_written_anew_though_its_pages_are_whole_elsewhere() {
    for push in WAYS {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let old = content(1, 512);
        // The index finds its first pages there.
        push_library(&store, "pages@1", &old[..20 * PAGE], SPARSE).unwrap();
        push_library(&store, "window@1", &old, DENSE).unwrap();
        let before = extent_of(&store, &old, 0);
        let new = [&old, &content(2, 40)[..]].concat();
        flip(directory.path(), &store, &old, 5);
        // Who refers to the pages alone has all of them.
        let singly = [&old[..10 * PAGE], &content(3, 1)].concat();
        push(&store, "singly@1", &singly, SPARSE).unwrap();
        assert_stored(&store, &singly);
        assert_eq!(store.damaged_slots(), 0);
        push(&store, "new@1", &new, DENSE).unwrap();
        for bytes in [&old, &new] {
            assert_stored(&store, bytes);
            let after = extent_of(&store, bytes, 0);
            assert!(after.dense);
            assert_ne!((after.segment, after.slot), (before.segment, before.slot));
        }
        assert_eq!(store.damaged_slots(), 0);

        // It is the window that the object has, so pages of it elsewhere are none of its business.
        flip(directory.path(), &store, &old[..20 * PAGE], 5);
        let at = extent_of(&store, &old, 0);
        let more = [&old, &content(4, 40)[..]].concat();
        push(&store, "more@1", &more, DENSE).unwrap();
        assert_eq!(extent_of(&store, &more, 0).segment, at.segment);
        assert_stored(&store, &more);
    }
}

#[test]
fn pages_that_cannot_be_read_are_damaged_and_so_are_those_of_a_lost_segment() {
    for push in WAYS {
        for is_lost in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let store = open(directory.path());
            let old = content(1, 1024);
            push_library(&store, "old@1", &old, SPARSE).unwrap();
            let at = extent_of(&store, &old, 0);
            let path = directory
                .path()
                .join(format!("segments/{}.seg", at.segment));
            if is_lost {
                std::fs::remove_file(&path).unwrap();
            } else {
                let file = File::options().write(true).open(&path).unwrap();
                file.set_len(100 * PAGE_SIZE + 5).unwrap();
            }
            let new = [&old[90 * PAGE..110 * PAGE], &content(2, 3)].concat();
            push(&store, "new@1", &new, SPARSE).unwrap();
            assert_stored(&store, &new);
            // Those that were pushed are elsewhere; the others are still to come.
            store.note_damaged(&[ObjectId::of(&old)]).unwrap();
            let left = if is_lost { 1004 } else { 914 };
            assert_eq!(store.damaged_slots(), left);
            push(&store, "old@1", &old, SPARSE).unwrap();
            assert_stored(&store, &old);
            assert_eq!(store.damaged_slots(), 0);
        }
    }
}

#[test]
fn an_object_is_compared_with_its_digest_once_for_what_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (bytes, other) = (content(1, 10), content(2, 3));
    push_library(&store, "a@1", &bytes, SPARSE).unwrap();
    push_library(&store, "b@1", &other, SPARSE).unwrap();
    let (id, other_id) = (ObjectId::of(&bytes), ObjectId::of(&other));
    let map = store.object(id).unwrap().unwrap().map;
    let compared = Compared::default();
    let is_damaged = |page: u64, compared: &Compared| {
        let (from, to) = (page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
        let answer = store.is_damaged_in((id, &map), from, to, compared);
        answer.unwrap()
    };
    flip(directory.path(), &store, &bytes, 4);
    assert!(!is_damaged(4, &compared), "nobody knows yet");
    store.note_damaged(&[id]).unwrap();
    flip(directory.path(), &store, &bytes, 4);
    // It is whole all the same, and from then on it is not looked at.
    assert!(!is_damaged(4, &compared));
    flip(directory.path(), &store, &bytes, 5);
    assert!(!is_damaged(4, &compared));
    assert!(is_damaged(4, &Compared::default()));
    assert!(
        !is_damaged(5, &Compared::default()),
        "nothing is known of it"
    );
    // What else becomes known is a reason to look again.
    flip(directory.path(), &store, &other, 1);
    store.note_damaged(&[other_id]).unwrap();
    assert!(is_damaged(4, &compared));
    flip(directory.path(), &store, &bytes, 5);
    assert!(is_damaged(4, &compared));
    assert!(!is_damaged(4, &Compared::default()));
}

#[test]
fn what_is_right_again_and_what_nobody_has_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (one, two) = (content(1, 3), content(2, 512));
    push_library(&store, "one@1", &one, SPARSE).unwrap();
    push_library(&store, "two@1", &two, DENSE).unwrap();
    for bytes in [&one, &two] {
        flip(directory.path(), &store, bytes, 1);
    }
    let ids = [&one, &two].map(|bytes| ObjectId::of(bytes));
    assert_eq!(store.note_damaged(&ids).unwrap(), 2);
    assert_eq!(store.mend().unwrap().slots, 0);
    for bytes in [&one, &two] {
        flip(directory.path(), &store, bytes, 1);
    }
    assert_eq!(store.mend().unwrap().slots, 2);
    assert_eq!(store.unknown_objects(ids).unwrap(), []);

    // Two pages of one window.
    for page in [1, 3] {
        flip(directory.path(), &store, &two, page);
    }
    store.note_damaged(&ids).unwrap();
    store.delete_library(&library_ref("two@1")).unwrap();
    let collection = store.begin_collection().unwrap();
    assert_eq!(collection.delete_objects(&ids[1..]).unwrap(), 1);
    drop(collection);
    assert_eq!(store.mend().unwrap().slots, 2);
    assert_totals(&store);
    // The entries went with it: what the next one brings is written.
    push_library(&store, "two@1", &two, DENSE).unwrap();
    assert_stored(&store, &two);
    assert_totals(&store);
}

#[test]
fn a_collection_leaves_what_a_mended_object_has_come_to_use() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let old = content(1, 1024);
    push_library(&store, "old@1", &old, SPARSE).unwrap();
    let segment = extent_of(&store, &old, 0).segment;
    flip(directory.path(), &store, &old, 9);
    store.note_damaged(&[ObjectId::of(&old)]).unwrap();
    // Nobody but the damaged object needs this page, once the one that brings it has gone.
    let brings = content(1, 10)[9 * PAGE..].to_vec();
    let collection = store.begin_collection().unwrap();
    push_library(&store, "brings@1", &brings, SPARSE).unwrap();
    assert_stored(&store, &old);
    let page = (
        PageId::of(&brings),
        store.page(&PageId::of(&brings)).unwrap().unwrap(),
    );
    assert_eq!(collection.delete_pages(&[page]).unwrap(), 0);
    assert_eq!(collection.retire_segments(&[page.1.segment]).unwrap(), []);
    // The rest of the damaged segment can be moved now.
    let moved = collection.evacuate(&[segment]).unwrap();
    assert_eq!((moved.segments, moved.pages), (vec![segment], 1023));
    assert_stored(&store, &old);
    drop(collection);
    drop(store);
    assert_stored(&open(directory.path()), &old);
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
    // It was sent, so it need not be asked for.
    store.commit(&upload).unwrap();
    assert_stored(&store, &bytes);
    assert_stored(&store, &other);
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
    let objects = [&first, &second];
    let manifest = UploadManifest {
        target: image_target("new:1", description(&first, &[("l@1", &second)])),
        objects: objects.map(|bytes| UploadObject::of(bytes, SPARSE)).into(),
    };
    let upload = store.begin_upload(manifest).unwrap();
    let missing = store.commit(&upload);
    let expected = PageId::of(&second);
    assert!(
        matches!(&missing, Err(StoreError::MissingPages(pages)) if pages == &[expected]),
        "{missing:?}"
    );
    assert_eq!(store.damaged_slots(), 0);
}

#[test]
fn who_lies_damages_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let old = content(1, 40);
    push_library(&store, "old@1", &old, DENSE).unwrap();
    let mut manifest = announcement("new@1", &old, DENSE);
    manifest.objects[0].pages.swap(3, 4);
    let lie = ObjectId::of(b"something else");
    manifest.objects[0].id = lie;
    manifest.target = pool_store::upload::Target::Library {
        library: library_ref("new@1"),
        object: lie,
    };
    let upload = store.begin_upload(manifest).unwrap();
    let refused = store.commit(&upload);
    assert!(
        matches!(refused, Err(StoreError::ObjectMismatch { .. })),
        "{refused:?}"
    );
    assert_eq!(store.damaged_slots(), 0);
}
