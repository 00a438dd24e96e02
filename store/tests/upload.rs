//! Negotiation, and everything that an upload can get wrong.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::HashMap;

use common::{
    announcement, assert_stored, content, description, image_target, negotiate, open, open_with,
    options, push_image, push_library,
};
use pool_core::description::Slide;
use pool_core::page::PAGE_SIZE;
use pool_core::{ObjectId, PageId};
use pool_store::placement::Placement;
use pool_store::upload::{Content, MAX_UPLOAD_PAGES, Target, Upload, UploadManifest, UploadObject};
use pool_store::{Store, StoreError, StoreOptions};

const SPARSE: Placement = Placement::Sparse;

/// What must not change when an upload fails.
fn state(store: &Store) -> impl PartialEq + std::fmt::Debug {
    let stats = pool_store::stats::StoreStats {
        // Slots written and then given up may have taken blocks; they are used again.
        disk_bytes: 0,
        ..store.stats().unwrap()
    };
    // A segment that nothing was committed to may be left, and is the next one to be used.
    let segments = store.segments().unwrap().into_iter();
    let in_use = segments.filter(|(_, record)| record.used > 0);
    (in_use.collect::<Vec<_>>(), stats)
}

#[test]
fn only_missing_pages_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 10);
    push_library(&store, "a@1", &bytes[..4 * 4096], SPARSE).unwrap();
    let upload = store
        .begin_upload(announcement("a@2", &bytes, SPARSE))
        .unwrap();
    let missing = store.missing_pages(&upload).unwrap();
    let pages: Vec<_> = bytes.chunks(PAGE_SIZE as usize).collect();
    let expected: Vec<_> = pages[4..].iter().map(|page| PageId::of(page)).collect();
    assert_eq!(missing, expected);

    upload.add_page(missing[0], pages[4]).unwrap();
    upload.add_page(missing[0], pages[4]).unwrap();
    assert_eq!(store.missing_pages(&upload).unwrap(), expected[1..]);
    let before = state(&store);
    match store.commit(&upload) {
        Err(StoreError::MissingPages(pages)) => assert_eq!(pages, expected[1..]),
        other => panic!("{other:?}"),
    }
    assert_eq!(state(&store), before);
    for (id, page) in expected.iter().zip(&pages[4..]) {
        upload.add_page(*id, page).unwrap();
    }
    store.commit(&upload).unwrap();
    assert_stored(&store, &bytes);
}

#[test]
fn pages_are_checked_as_they_come() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 2);
    let upload = store
        .begin_upload(announcement("a@1", &bytes, SPARSE))
        .unwrap();
    let (first, second) = bytes.split_at(4096);
    let id = PageId::of(first);
    for wrong in [second, &first[..4095], &[], &bytes] {
        let result = upload.add_page(id, wrong);
        assert!(matches!(result, Err(StoreError::PageMismatch { expected, .. }) if expected == id));
    }
    let short = PageId::of(&first[..10]);
    assert!(matches!(
        upload.add_page(short, &first[..10]),
        Err(StoreError::PageMismatch { .. })
    ));
    let stranger = content(9, 1);
    assert!(matches!(
        upload.add_page(PageId::of(&stranger), &stranger),
        Err(StoreError::UnexpectedPage(_))
    ));
    assert_eq!(store.missing_pages(&upload).unwrap().len(), 2);
}

#[test]
fn an_object_that_its_pages_do_not_make_up_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    push_library(&store, "old@1", &content(5, 3), SPARSE).unwrap();
    for (pages, placement) in [(2, SPARSE), (600, Placement::Windows { phase: 7 })] {
        let bytes = content(1, pages);
        let mut manifest = announcement("a@1", &bytes, placement);
        manifest.objects[0].id = ObjectId::of(b"something else");
        manifest.target = Target::Library {
            library: common::library_ref("a@1"),
            object: manifest.objects[0].id,
        };
        let before = state(&store);
        let result = negotiate(&store, manifest, &bytes);
        assert!(matches!(result, Err(StoreError::ObjectMismatch { .. })));
        assert_eq!(state(&store), before);
        // The slots that were written to are used again, correctly.
        negotiate(&store, announcement("a@1", &bytes, placement), &bytes).unwrap();
        assert_stored(&store, &bytes);
        store.delete_library(&common::library_ref("a@1")).unwrap();
    }
    assert_stored(&store, &content(5, 3));
}

#[test]
fn a_last_page_that_is_not_filled_up_with_zeros_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    push_library(&store, "old@1", &content(5, 2), SPARSE).unwrap();
    let windows = Placement::Windows { phase: 7 };
    // New pages, in windows and singly, and pages that are there already.
    for (seed, pages, placement) in [(1, 600, windows), (2, 3, SPARSE), (5, 2, SPARSE)] {
        let whole = content(seed, pages);
        let bytes = &whole[..whole.len() - 1];
        let good = announcement("a@1", bytes, placement);
        let mut bad = good.clone();
        bad.objects[0].pages = UploadObject::of(&whole, placement).pages;
        let before = state(&store);
        let result = negotiate(&store, bad, &whole);
        assert!(
            matches!(result, Err(StoreError::BadUpload(_))),
            "{result:?}"
        );
        assert_eq!(state(&store), before);
        negotiate(&store, good, bytes).unwrap();
        assert_stored(&store, bytes);
        store.delete_library(&common::library_ref("a@1")).unwrap();
    }
}

#[test]
fn pages_of_zeros_may_be_announced_by_their_digest() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let zeros = PageId::of(&[0; PAGE_SIZE as usize]);
    let windows = Placement::Windows { phase: 0 };
    for (seed, placement) in [(1, SPARSE), (2, windows)] {
        let mut bytes = content(seed, 60);
        bytes[50 * 4096..].fill(0);
        let name = format!("a@{seed}");
        let mut manifest = announcement(&name, &bytes, placement);
        for page in &mut manifest.objects[0].pages {
            page.get_or_insert(zeros);
        }
        let upload = store.begin_upload(manifest.clone()).unwrap();
        assert_eq!(store.missing_pages(&upload).unwrap().len(), 50);
        upload.add_page(zeros, &[0; PAGE_SIZE as usize]).unwrap();
        let summary = negotiate(&store, manifest, &bytes).unwrap();
        assert_eq!((summary.zero_pages.0, summary.new_pages.0), (10, 50));
        assert_stored(&store, &bytes);
    }
    assert_eq!(store.page(&zeros).unwrap(), None);
    // A window has the same name, whoever announces it and how.
    let mut longer = content(2, 513);
    longer[50 * 4096..512 * 4096].fill(0);
    let summary = push_library(&store, "b@1", &longer, windows).unwrap();
    assert_eq!(summary.shared_windows, 1);
}

#[test]
fn impossible_announcements_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 2);
    let good = announcement("a@1", &bytes, SPARSE);
    let refused = |change: &dyn Fn(&mut UploadObject)| {
        let mut manifest = good.clone();
        change(&mut manifest.objects[0]);
        matches!(store.begin_upload(manifest), Err(StoreError::BadUpload(_)))
    };
    assert!(refused(&|object| object.length = 4096));
    assert!(refused(&|object| object.length = 8193));
    assert!(refused(&|object| object.length = u64::MAX));
    assert!(refused(&|object| object.pages.truncate(1)));
    assert!(refused(
        &|object| object.placement = Placement::Windows { phase: 512 }
    ));
    assert!(refused(&|object| {
        object.length = (MAX_UPLOAD_PAGES + 1) * PAGE_SIZE;
        object.pages = vec![None; MAX_UPLOAD_PAGES as usize + 1];
    }));
    assert!(store.begin_upload(good.clone()).is_ok());

    // A known object under another length.
    negotiate(&store, good.clone(), &bytes).unwrap();
    let mut shorter = good;
    shorter.objects[0].length -= 1;
    let result = negotiate(&store, shorter, &bytes);
    assert!(matches!(result, Err(StoreError::BadUpload(_))));
}

#[test]
fn an_image_must_have_all_it_refers_to() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (file, library) = (content(1, 3), content(2, 5));
    let libraries = [("l@1", library.as_slice())];
    let ingest = |target: Target, contents: &[&[u8]]| {
        let contents: Vec<_> = contents
            .iter()
            .map(|bytes| Content::of(bytes, SPARSE))
            .collect();
        store.ingest(target, &contents)
    };
    let refused = |target: Target, contents: &[&[u8]]| {
        let before = state(&store);
        let result = ingest(target, contents);
        assert!(
            matches!(result, Err(StoreError::BadUpload(_))),
            "{result:?}"
        );
        assert_eq!(state(&store), before);
    };
    let good = description(&file, &libraries);
    let lacks = |target: Target, contents: &[&[u8]], lacking: &[u8]| {
        let before = state(&store);
        let result = ingest(target, contents);
        let expected = vec![ObjectId::of(lacking)];
        assert!(
            matches!(&result, Err(StoreError::UnknownObjects(ids)) if *ids == expected),
            "{result:?}"
        );
        assert_eq!(state(&store), before);
    };
    lacks(image_target("i:1", good.clone()), &[&file], &library);
    lacks(image_target("i:1", good.clone()), &[&library], &file);
    let mut slides = good.clone();
    slides.slide = Some(Slide::Record {
        object: ObjectId::of(b"record"),
        length: 6,
    });
    lacks(image_target("i:1", slides), &[&file, &library], b"record");

    let mut past_end = good.clone();
    past_end.ranges[1].length += 4096;
    refused(image_target("i:1", past_end), &[&file, &library]);
    let mut overflowing = good.clone();
    if let Some(source) = &mut overflowing.ranges[0].source {
        source.offset = u64::MAX - 4095;
    }
    refused(image_target("i:1", overflowing), &[&file, &library]);
    let mut other_length = good.clone();
    other_length.image.length -= 1;
    refused(image_target("i:1", other_length), &[&file, &library]);
    let mut no_entry = good.clone();
    no_entry.entry.0 = 0;
    refused(image_target("i:1", no_entry), &[&file, &library]);
    let mut ambiguous = description(&file, &[("l@1", &library), ("l@1", &file)]);
    ambiguous.ranges[2].library = None;
    refused(image_target("i:1", ambiguous), &[&file, &library]);
    let mut data = image_target("i:1", good.clone());
    if let Target::Image { data, .. } = &mut data {
        *data = Some(ObjectId::of(b"nowhere"));
    }
    lacks(data, &[&file, &library], b"nowhere");

    assert!(store.tags().unwrap().is_empty());
    assert!(store.libraries().unwrap().is_empty());
    ingest(image_target("i:1", good), &[&file, &library]).unwrap();
    assert_stored(&store, &file);
}

/// It would be garbage from the first, and nobody's.
#[test]
fn what_nothing_refers_to_is_not_taken_in() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let stray = content(2, 3);
    let mut manifest = announcement("l@1", &content(1, 1), SPARSE);
    manifest.objects.push(UploadObject::of(&stray, SPARSE));
    let before = state(&store);
    let refused = store.begin_upload(manifest).map(drop);
    let says = refused.unwrap_err().to_string();
    let id = ObjectId::of(&stray).to_string();
    assert!(
        says.contains(&id) && says.contains("leave it out"),
        "{says}"
    );
    assert_eq!(state(&store), before);
}

#[test]
fn a_version_never_changes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (old, new) = (content(1, 3), content(2, 3));
    push_library(&store, "l@1", &old, SPARSE).unwrap();
    let before = state(&store);
    let conflict = |result| matches!(result, Err(StoreError::VersionConflict { .. }));
    assert!(conflict(push_library(&store, "l@1", &new, SPARSE)));
    let image = content(3, 1);
    assert!(conflict(push_image(
        &store,
        "i:1",
        &image,
        &[("l@1", &new)]
    )));
    assert_eq!(state(&store), before);
    push_library(&store, "l@1", &old, SPARSE).unwrap();
}

#[test]
fn uploads_of_the_same_content_at_once_store_it_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 700);
    std::thread::scope(|scope| {
        for nth in 0..6 {
            let (store, bytes) = (&store, &bytes);
            scope.spawn(move || {
                let name = format!("l{nth}@1");
                let placement = Placement::Windows { phase: 0 };
                if nth % 2 == 0 {
                    let manifest = announcement(&name, bytes, placement);
                    negotiate(store, manifest, bytes).unwrap();
                } else {
                    push_library(store, &name, bytes, placement).unwrap();
                }
            });
        }
    });
    let stats = store.stats().unwrap();
    assert_eq!(stats.libraries, 6);
    assert_eq!(stats.objects, 1);
    assert_eq!(stats.stored_pages.0, 700);
    assert_eq!(stats.dense_windows, 2);
    assert_stored(&store, &bytes);
}

/// Sends what is missing of `bytes`, some pages at a time.
fn send(store: &Store, upload: &Upload, bytes: &[u8], at_a_time: usize) -> Result<(), StoreError> {
    let pages: HashMap<_, _> = bytes
        .chunks(PAGE_SIZE as usize)
        .map(|page| (PageId::of(page), page))
        .collect();
    let missing = store.missing_pages(upload).unwrap();
    for some in missing.chunks(at_a_time) {
        upload.add_pages(some.iter().map(|id| (*id, pages[id])))?;
    }
    Ok(())
}

#[test]
fn what_was_sent_is_stored_wherever_it_has_waited() {
    let pages = |count: usize| count * PAGE_SIZE as usize;
    let bytes_of = |count| pages(count) as u64;
    // Two windows, and some more. Of the first some pages are known, some are zeros, and some come twice.
    let mut bytes = content(1, 2 * 512 + 40);
    bytes[pages(100)..pages(105)].fill(0);
    bytes.copy_within(pages(3)..pages(6), pages(200));
    let known = bytes[pages(20)..pages(30)].to_vec();
    let sent = bytes_of(2 * 512 + 40 - 5 - 3 - 10);
    for (memory, at_a_time) in [
        (0, 100),
        (bytes_of(4 * 300), 100),
        (4 * sent, 1),
        (4 * sent, 100),
        (4 * sent, 2000),
    ] {
        let windows = |phase| Placement::Windows { phase };
        for placement in [SPARSE, windows(0), windows(7)] {
            let directory = tempfile::tempdir().unwrap();
            let options = StoreOptions {
                upload_memory: memory,
                ..options()
            };
            let store = open_with(directory.path(), options).unwrap();
            push_library(&store, "known@1", &known, SPARSE).unwrap();
            let announced = announcement("a@1", &bytes, placement);
            let upload = store.begin_upload(announced).unwrap();
            send(&store, &upload, &bytes, at_a_time).unwrap();
            assert_eq!(store.upload_memory(), memory / 4);
            store.commit(&upload).unwrap();
            assert_stored(&store, &bytes);
            drop(upload);
            assert_eq!(store.upload_memory(), 0);
        }
    }
}

#[test]
fn an_upload_that_has_room_in_memory_needs_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        upload_memory: 4 * 20 * PAGE_SIZE,
        ..options()
    };
    let store = open_with(directory.path(), options).unwrap();
    let staging = directory.path().join("staging");
    std::fs::remove_dir(&staging).unwrap();
    let begin = |name, bytes: &[u8]| store.begin_upload(announcement(name, bytes, SPARSE));
    let (small, large) = (content(1, 20), content(2, 21));
    let upload = begin("small@1", &small).unwrap();
    send(&store, &upload, &small, 7).unwrap();
    store.commit(&upload).unwrap();
    assert_stored(&store, &small);
    // One with more does, and what it cannot keep is missing.
    let upload = begin("large@1", &large).unwrap();
    let refused = send(&store, &upload, &large, 20);
    assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
    let refused = store.commit(&upload);
    assert!(
        matches!(&refused, Err(StoreError::MissingPages(pages)) if pages.len() == 1),
        "{refused:?}"
    );
    std::fs::create_dir(&staging).unwrap();
    send(&store, &upload, &large, 20).unwrap();
    store.commit(&upload).unwrap();
    assert_stored(&store, &large);
}

#[test]
fn an_upload_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 4);
    let before = state(&store);
    let upload = store
        .begin_upload(UploadManifest {
            ..announcement("a@1", &bytes, SPARSE)
        })
        .unwrap();
    upload
        .add_page(PageId::of(&bytes[..4096]), &bytes[..4096])
        .unwrap();
    drop(upload);
    assert_eq!(state(&store), before);
    let staging = directory.path().join("staging");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
}
