//! Content goes in and comes back, each page is kept once, and windows lie dense.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{assert_stored, assert_totals, content, negotiate, open, push_image, push_library};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use pool_core::{ObjectId, PageCount};
use pool_store::placement::Placement;
use pool_store::upload::page_ids;
use pool_store::{Store, StoreError};

const DENSE: Placement = Placement::Windows { phase: 0 };

#[test]
fn content_of_any_length_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let page = PAGE_SIZE as usize;
    let lengths = [
        0,
        1,
        page - 1,
        page,
        page + 1,
        40 * page + 7,
        512 * page,
        700 * page + 1,
        3000 * page - 1,
    ];
    let placements = [
        Placement::Sparse,
        DENSE,
        Placement::Windows { phase: 511 },
        Placement::Windows { phase: 500 },
    ];
    let mut all = Vec::new();
    for (nth, length) in lengths.into_iter().enumerate() {
        for (kind, placement) in placements.into_iter().enumerate() {
            let seed = (nth * 10 + kind) as u64;
            let mut bytes = content(seed, length.div_ceil(page));
            bytes.truncate(length);
            // Holes at the start, at a window's border and at the end.
            for hole in [0, 511, 512, 699] {
                if let Some(part) = bytes.get_mut(hole * page..(hole + 1) * page)
                    && nth % 2 == 0
                {
                    part.fill(0);
                }
            }
            let name = format!("l{nth}@{kind}");
            push_library(&store, &name, &bytes, placement).unwrap();
            assert_stored(&store, &bytes);
            all.push(bytes);
        }
    }
    drop(store);
    let store = open(directory.path());
    for bytes in all {
        assert_stored(&store, &bytes);
    }
}

#[test]
fn a_part_of_an_object_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut bytes = content(1, 600);
    bytes[8192..16384].fill(0);
    bytes.truncate(bytes.len() - 5);
    push_library(&store, "a@1", &bytes, DENSE).unwrap();
    let record = store.object(ObjectId::of(&bytes)).unwrap().unwrap();
    for (offset, length) in [
        (0, 1),
        (4095, 2),
        (8000, 9000),
        (WINDOW_SIZE - 1, 2),
        (bytes.len() as u64 - 1, 100),
        (bytes.len() as u64, 1),
        (u64::MAX, 1),
    ] {
        let start = (offset as usize).min(bytes.len());
        let expected = &bytes[start..(start + length).min(bytes.len())];
        let found = store.read(&record.map, offset, length).unwrap();
        assert_eq!(found, expected, "{length} bytes at {offset}");
    }
}

#[test]
fn each_page_is_stored_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    // Ten distinct pages, each twice, and five of zeros.
    let mut bytes = content(1, 10);
    bytes.extend_from_within(..);
    bytes.resize(25 * PAGE_SIZE as usize, 0);
    let first = push_library(&store, "a@1", &bytes, Placement::Sparse).unwrap();
    assert_eq!(first.pages, PageCount(25));
    assert_eq!(first.zero_pages, PageCount(5));
    assert_eq!(first.distinct_pages, PageCount(10));
    assert_eq!(first.new_pages, PageCount(10));
    assert_eq!(first.written_pages, PageCount(10));

    let again = push_library(&store, "b@1", &bytes, Placement::Sparse).unwrap();
    assert_eq!(again.known_pages, PageCount(25));
    assert_eq!(again.new_pages, PageCount(0));
    assert_eq!(again.written_pages, PageCount(0));

    // Another object: nine known pages in another order, one new.
    let mut other = bytes[PAGE_SIZE as usize..10 * PAGE_SIZE as usize].to_vec();
    other.extend(content(2, 1));
    let third = push_library(&store, "c@1", &other, Placement::Sparse).unwrap();
    assert_eq!(third.known_pages, PageCount(0));
    assert_eq!(third.distinct_pages, PageCount(10));
    assert_eq!(third.new_pages, PageCount(1));
    assert_stored(&store, &other);
    assert_eq!(store.stats().unwrap().stored_pages, PageCount(11));
}

#[test]
fn a_negotiated_upload_stores_the_same_as_a_direct_one() {
    let bytes = content(7, 1100);
    let mut stats = Vec::new();
    for direct in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let summary = if direct {
            push_library(&store, "a@1", &bytes, DENSE).unwrap()
        } else {
            let manifest = common::announcement("a@1", &bytes, DENSE);
            negotiate(&store, manifest, &bytes).unwrap()
        };
        assert_stored(&store, &bytes);
        let extents = store.object(ObjectId::of(&bytes)).unwrap().unwrap();
        stats.push((summary, extents, store.stats().unwrap().stored_pages));
    }
    assert_eq!(stats[0], stats[1]);
}

#[test]
fn a_dense_window_lies_alone_in_an_aligned_window_of_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(3, 100);
    let phase = 300;
    push_library(&store, "a@1", &bytes, Placement::Windows { phase }).unwrap();
    let record = store.object(ObjectId::of(&bytes)).unwrap().unwrap();
    assert_eq!(record.phase, phase);
    let extents = record.map.extents();
    assert_eq!(extents.len(), 1);
    assert!(extents[0].dense);
    assert_eq!(extents[0].slot.page_in_window(), u64::from(phase));
    let held = store.hold_segment(extents[0].segment).unwrap();
    let mut window = vec![1; WINDOW_SIZE as usize];
    let start = extents[0].slot.byte_offset() - u64::from(phase) * PAGE_SIZE;
    held.value.read_exact_at(&mut window, start).unwrap();
    let inside = usize::from(phase) * PAGE_SIZE as usize;
    assert!(window[..inside].iter().all(|byte| *byte == 0));
    assert!(window[inside..inside + bytes.len()] == bytes);
    assert!(window[inside + bytes.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn equal_windows_are_shared_and_unequal_ones_repeat_their_pages() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = content(1, 1024);
    let summary = push_library(&store, "a@1", &first, DENSE).unwrap();
    assert_eq!((summary.new_windows, summary.shared_windows), (2, 0));

    // Its first window is that of the other; its second differs in one page.
    let mut second = first.clone();
    second[600 * PAGE_SIZE as usize] ^= 1;
    let summary = push_library(&store, "a@2", &second, DENSE).unwrap();
    assert_eq!((summary.new_windows, summary.shared_windows), (1, 1));
    assert_eq!(summary.new_pages, PageCount(1));
    assert_eq!(summary.written_pages, PageCount(PAGES_PER_WINDOW));
    assert_stored(&store, &first);
    assert_stored(&store, &second);

    let stats = store.stats().unwrap();
    assert_eq!(stats.stored_pages, PageCount(1025));
    assert_eq!(stats.dense_windows, 3);
}

#[test]
fn windows_that_repeat_within_one_commit_are_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let window = content(1, 512);
    let doubled = [window.as_slice(), &window].concat();
    let mut other = window.clone();
    other.extend(content(2, 512));
    let summary = push_image(&store, "i:1", &doubled, &[("l@1", &other)]).unwrap();
    assert_eq!((summary.new_windows, summary.shared_windows), (2, 2));
    assert_stored(&store, &doubled);
    assert_stored(&store, &other);
}

#[test]
fn few_pages_in_a_window_stay_sparse() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 31);
    push_library(&store, "a@1", &bytes, DENSE).unwrap();
    let record = store.object(ObjectId::of(&bytes)).unwrap().unwrap();
    assert!(record.map.extents().iter().all(|extent| !extent.dense));
    assert_eq!(store.stats().unwrap().dense_windows, 0);
}

#[test]
fn page_digests_tell_zero_pages_and_pad_the_tail() {
    let mut bytes = content(1, 3);
    bytes[4096..8192].fill(0);
    bytes.truncate(3 * 4096 - 10);
    let ids = page_ids(&bytes);
    let digest = |bytes: &[u8]| Some(pool_core::PageId::of(bytes));
    let tail = [&bytes[8192..], &[0; 10]].concat();
    assert_eq!(ids, [digest(&bytes[..4096]), None, digest(&tail)]);
    assert!(page_ids(&[]).is_empty());
    assert_eq!(page_ids(&[0; 5]), [None]);
}

#[test]
fn digests_of_stored_pages_are_those_that_were_announced() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let page = PAGE_SIZE as usize;
    let mut bytes = content(1, 1100);
    bytes[511 * page..514 * page].fill(0);
    bytes.truncate(1099 * page + 5);
    let (id, ids) = (ObjectId::of(&bytes), page_ids(&bytes));
    for placement in [Placement::Sparse, DENSE] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        push_library(&store, "z@1", &bytes, placement).unwrap();
        let runs = [0..1, 5..5, 3..700, 1099..1100, 0..1100];
        let expected = runs.clone().map(|run| ids[run].to_vec());
        let runs = runs.map(|run| run.start as u64..run.end as u64);
        assert_eq!(store.object_page_ids(id, &runs).unwrap(), expected);
        let past = store.object_page_ids(id, &[0..1, 1000..1101]);
        assert!(matches!(past, Err(StoreError::BadUpload(_))), "{past:?}");
    }
    let unknown = store.object_page_ids(id, &[0..1, 2..3]);
    assert!(matches!(unknown, Err(StoreError::UnknownObjects(ids)) if ids == [id]));
}

#[test]
fn commits_say_how_many_pages_there_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut store = open(&path);
    let told = |store: &Store| {
        assert_totals(store);
        let totals = store.snapshot().totals().unwrap().unwrap();
        (totals.pages, totals.windows)
    };
    assert_eq!(told(&store), (0, 0));
    let pushed = |store: &Store, name: &str, seed, pages, placement| {
        push_library(store, name, &content(seed, pages), placement).unwrap();
    };
    pushed(&store, "a@1", 1, 10, Placement::Sparse);
    assert_eq!(told(&store), (10, 0));
    // The same again, some of it, and what has windows.
    pushed(&store, "b@1", 1, 10, Placement::Sparse);
    pushed(&store, "c@1", 2, 600, Placement::Windows { phase: 0 });
    let before = told(&store);
    assert_eq!(before, (610, 2));
    drop(store);
    store = open(&path);
    assert_eq!(told(&store), before);
    pushed(&store, "d@1", 3, 5, Placement::Sparse);
    assert_eq!(told(&store), (615, 2));
}
