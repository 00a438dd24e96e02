//! What quotas charge whom for, and that nothing goes past them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::sync::Barrier;
use std::thread;

use common::{
    announcement, content, description, image_ref, image_target, library_ref, negotiate, open,
    push_image, push_library,
};
use pool_core::ObjectId;
use pool_core::address::GuestAddress;
use pool_core::description::Range;
use pool_core::page::PAGE_SIZE;
use pool_store::placement::Placement;
use pool_store::quota::Quota;
use pool_store::upload::{Content, Target, UploadManifest, UploadObject};
use pool_store::{Result, Store, StoreError};

/// A quota of so many pages.
fn quota(prefix: &str, pages: u64) -> Quota {
    Quota {
        prefix: prefix.into(),
        bytes: pages * PAGE_SIZE,
    }
}

fn open_with(directory: &Path, quotas: &[(&str, u64)]) -> Store {
    let mut store = open(directory);
    let quotas = quotas.iter().map(|(prefix, pages)| quota(prefix, *pages));
    store.set_quotas(quotas.collect());
    store
}

/// Pages in use, of each quota.
fn used(store: &Store) -> Vec<u64> {
    let quotas = store.quota_use();
    let used = quotas.iter().map(|quota| quota.used_bytes.unwrap());
    used.map(|bytes| {
        assert_eq!(bytes % PAGE_SIZE, 0, "{quotas:?}");
        bytes / PAGE_SIZE
    })
    .collect()
}

fn push(store: &Store, library: &str, seed: u64, pages: usize) -> Result<()> {
    push_library(store, library, &content(seed, pages), Placement::Sparse).map(drop)
}

fn is_refused<T>(result: &Result<T>, would_be: u64) -> bool {
    let bytes = would_be * PAGE_SIZE;
    matches!(result, Err(StoreError::QuotaExceeded { would_be, .. }) if *would_be == bytes)
}

#[test]
fn whoever_gives_a_name_is_charged_for_the_file_under_it() {
    let directory = tempfile::tempdir().unwrap();
    let quotas = [("team-a-", 3), ("", 10), ("team-", 9)];
    let store = open_with(directory.path(), &quotas);
    assert_eq!(used(&store), [0, 0, 0]);
    push(&store, "team-a-x@1", 1, 2).unwrap();
    assert_eq!(used(&store), [2, 2, 2]);
    // Pushed again, and under another name, which shares every page.
    push(&store, "team-a-x@1", 1, 2).unwrap();
    push(&store, "team-b-x@1", 1, 2).unwrap();
    assert_eq!(used(&store), [2, 4, 4]);
    assert!(is_refused(&push(&store, "team-a-y@1", 2, 2), 4));
    let sent = content(2, 2);
    let announced = announcement("team-a-y@1", &sent, Placement::Sparse);
    assert!(is_refused(
        &store.begin_upload(announced.clone()).map(drop),
        4
    ));
    assert!(store.library(&library_ref("team-a-y@1")).unwrap().is_none());
    push(&store, "another@1", 3, 5).unwrap();
    assert!(is_refused(&push(&store, "one-more@1", 4, 2), 11));
    store.delete_library(&library_ref("team-a-x@1")).unwrap();
    assert_eq!(used(&store), [0, 7, 2]);
    negotiate(&store, announced, &sent).unwrap();
    assert_eq!(used(&store), [2, 9, 4]);
    drop(store);
    let store = open_with(directory.path(), &quotas);
    assert_eq!(used(&store), [2, 9, 4]);
}

#[test]
fn tags_count_one_by_one_and_the_libraries_of_an_image_by_their_own_names() {
    let directory = tempfile::tempdir().unwrap();
    // Each tag has a description of a page beside its file.
    let store = open_with(directory.path(), &[("app", 7), ("zlib", 2)]);
    let library = content(1, 2);
    let uses = [("zlib@1", &library[..])];
    push_image(&store, "app:v1", &content(2, 3), &uses).unwrap();
    assert_eq!(used(&store), [4, 2]);
    // A library that the quota has no room for keeps the image away, too.
    let other = [("zlib@2", &content(7, 1)[..])];
    let refused = push_image(&store, "web:v1", &content(3, 1), &other);
    assert!(is_refused(&refused.map(drop), 3));
    let (v1, v2) = (image_ref("app:v1"), image_ref("app:v2"));
    assert!(is_refused(&store.tag_image(&v1, &v2), 8));
    store.tag_image(&v1, &image_ref("web:v1")).unwrap();
    // What takes its place is smaller, or larger.
    push_image(&store, "app:v1", &content(4, 1), &[]).unwrap();
    assert_eq!(used(&store), [2, 2]);
    store.tag_image(&v1, &v2).unwrap();
    let larger = push_image(&store, "app:v1", &content(5, 5), &[]);
    assert!(is_refused(&larger.map(drop), 8));
    push_image(&store, "app:v1", &content(6, 4), &[]).unwrap();
    assert_eq!(used(&store), [7, 2]);
    store.delete_image(&v2).unwrap();
    assert_eq!(used(&store), [5, 2]);
}

/// What is small takes a page, and a description may be large.
#[test]
fn names_are_charged_for_whole_pages_and_images_for_what_describes_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), &[("l", 3), ("app", 1000), ("few", 9)]);
    for nth in 0..3 {
        let name = format!("l{nth}@1");
        push_library(&store, &name, &[1], Placement::Sparse).unwrap();
    }
    assert_eq!(used(&store), [3, 0, 0]);
    let one_more = push_library(&store, "l3@1", &[1], Placement::Sparse);
    assert!(is_refused(&one_more.map(drop), 4));
    // Ranges of one page, of the same bytes.
    let file = content(1, 1);
    let mut described = description(&file, &[]);
    let range = described.ranges.remove(0);
    let ranges = (0..1000).map(|nth| Range {
        address: GuestAddress(range.address.0 + 2 * nth * PAGE_SIZE),
        ..range.clone()
    });
    described.ranges = ranges.collect();
    let length = described.to_json().len() as u64;
    let would_be = 1 + length.div_ceil(PAGE_SIZE);
    assert!(would_be > 30, "{would_be}");
    let contents = [Content::of(&file, Placement::Sparse)];
    let push = |image: &str| {
        let target = image_target(image, described.clone());
        store.ingest(target, &contents).map(drop)
    };
    push("app:v1").unwrap();
    assert_eq!(used(&store), [3, would_be, 0]);
    assert!(is_refused(&push("few:v1"), would_be));
}

/// Nothing says that its pages and data are those of its file.
#[test]
fn an_image_is_charged_for_what_is_its_own_if_that_is_more_than_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), &[("app", 6)]);
    let (file, text, data) = (content(1, 1), content(2, 4), content(3, 2));
    let target = |data: Option<&[u8]>| {
        let mut described = description(&text, &[]);
        described.image = description(&file, &[]).image;
        Target::Image {
            image: image_ref("app:v1"),
            description: Box::new(described),
            data: data.map(ObjectId::of),
        }
    };
    let contents = [&file, &text, &data].map(|bytes| Content::of(bytes, Placement::Sparse));
    let refused = store.ingest(target(Some(&data)), &contents).map(drop);
    assert!(is_refused(&refused, 7), "{refused:?}");
    let objects = [&file, &text, &data].map(|bytes| UploadObject::of(bytes, Placement::Sparse));
    let announced = UploadManifest {
        target: target(Some(&data)),
        objects: objects.into(),
    };
    let refused = store.begin_upload(announced).map(drop);
    assert!(is_refused(&refused, 7), "{refused:?}");
    // What the pool has, and nobody announces, is weighed when it is given the name.
    for (name, bytes) in [("x@1", &file), ("x@2", &text), ("x@3", &data)] {
        push_library(&store, name, bytes, Placement::Sparse).unwrap();
    }
    let refused = store.ingest(target(Some(&data)), &[]).map(drop);
    assert!(is_refused(&refused, 7), "{refused:?}");
    store.ingest(target(None), &[]).unwrap();
    assert_eq!(used(&store), [5]);
    drop(store);
    let store = open_with(directory.path(), &[("app", 6)]);
    assert_eq!(used(&store), [5]);
}

/// Whatever is sent for it, a version stays what it is.
#[test]
fn another_content_of_a_version_is_refused_for_that() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), &[("l", 2)]);
    push(&store, "l@1", 1, 2).unwrap();
    let refused = push(&store, "l@1", 2, 3);
    assert!(
        matches!(refused, Err(StoreError::VersionConflict { .. })),
        "{refused:?}"
    );
}

/// Nobody loses what was there before a quota was, and it may become less step by step.
#[test]
fn what_is_above_a_new_quota_may_shrink_and_not_grow() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), &[]);
    push_image(&store, "app:v1", &content(1, 9), &[]).unwrap();
    drop(store);
    let store = open_with(directory.path(), &[("a", 4)]);
    assert_eq!(used(&store), [10]);
    assert!(is_refused(&push(&store, "a@1", 2, 1), 11));
    push(&store, "b@1", 2, 1).unwrap();
    // As large as before, and smaller.
    push_image(&store, "app:v1", &content(3, 9), &[]).unwrap();
    push_image(&store, "app:v1", &content(4, 8), &[]).unwrap();
    assert_eq!(used(&store), [9]);
    store.delete_image(&image_ref("app:v1")).unwrap();
    push(&store, "a@1", 2, 1).unwrap();
    assert_eq!(used(&store), [1]);
}

#[test]
fn those_who_push_at_once_get_what_there_is_and_no_more() {
    const ROOM: u64 = 5;
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), &[("p", ROOM)]);
    let start = Barrier::new(16);
    let pushed = thread::scope(|scope| {
        let pushes = (0..16).map(|seed| {
            let (store, start) = (&store, &start);
            scope.spawn(move || {
                start.wait();
                push(store, &format!("p{seed}@1"), seed, 1)
            })
        });
        let pushes: Vec<_> = pushes.collect();
        let ended = pushes.into_iter().map(|push| push.join().unwrap());
        ended.collect::<Vec<_>>()
    });
    let (done, refused): (Vec<_>, Vec<_>) = pushed.into_iter().partition(Result::is_ok);
    assert_eq!(done.len() as u64, ROOM, "{refused:?}");
    for refused in refused {
        assert!(is_refused(&refused, ROOM + 1));
    }
    assert_eq!(used(&store), [ROOM]);
    assert_eq!(store.snapshot().libraries().unwrap().len() as u64, ROOM);
}

#[test]
fn what_is_collected_is_charged_to_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), &[("l", 3)]);
    push(&store, "l@1", 1, 3).unwrap();
    assert!(is_refused(&push(&store, "l@2", 2, 1), 4));
    let collection = store.begin_collection().unwrap();
    let unused = [library_ref("l@1")];
    let deleted = collection.delete_libraries(&unused, u64::MAX).unwrap();
    assert_eq!(deleted, unused);
    drop(collection);
    assert_eq!(used(&store), [0]);
    push(&store, "l@2", 2, 1).unwrap();
}
