//! What is pushed while the index is known to be wrong takes nothing from what the journal has, whatever the index says.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use closed::{listing, places, reopen, set_used, tamper, told};
use common::{assert_stored, content, library_ref, open, open_with, options, push_library};
use pool_core::ObjectId;
use pool_core::extent::SegmentId;
use pool_core::page::WINDOW_SIZE;
use pool_store::format::{SegmentKind, SegmentState};
use pool_store::placement::Placement;
use pool_store::repair::{Remedy, repair};
use pool_store::upload::{Content, Target};
use pool_store::{Store, StoreOptions, StoreView};
use rocksdb::DB;

const SPARSE: Placement = Placement::Sparse;
const DENSE: Placement = Placement::Windows { phase: 0 };

fn push(store: &Store, seed: u64) {
    for (kind, placement) in [("sparse", SPARSE), ("dense", DENSE)] {
        let bytes = content(seed + u64::from(placement == DENSE), 300);
        push_library(store, &format!("{kind}{seed}@1"), &bytes, placement).unwrap();
    }
}

fn assert_pushed(store: &StoreView, seed: u64) {
    for (kind, nth) in [("sparse", 0), ("dense", 1)] {
        let name = library_ref(&format!("{kind}{seed}@1"));
        assert!(store.library(&name).unwrap().is_some(), "{name}");
        assert_stored(store, &content(seed + nth, 300));
    }
}

/// The files of segments and their digests.
fn segments(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = listing(&directory.join("segments"));
    found.retain(|path, _| path.extension().is_some_and(|end| end == "seg"));
    found
}

/// All that was there is what it was.
fn assert_untouched(directory: &Path, before: &BTreeMap<PathBuf, String>) {
    let mut now = segments(directory);
    now.retain(|path, _| before.contains_key(path));
    assert_eq!(now, *before);
}

/// Makes an index wrong.
type Forge = fn(&DB);

/// Segments that are appended to, of each kind.
fn open_ones(store: &StoreView) -> Vec<(SegmentKind, SegmentId)> {
    let segments = store.segments().unwrap().into_iter();
    let open = segments.filter(|(_, record)| record.state == SegmentState::Open && record.used > 0);
    open.map(|(id, record)| (record.kind, id)).collect()
}

fn forget_segments(index: &DB) {
    let family = index.cf_handle("segments").unwrap();
    let records = index.iterator_cf(family, rocksdb::IteratorMode::Start);
    let records: Vec<_> = records.map(Result::unwrap).collect();
    for (key, _) in records {
        index.delete_cf(family, key).unwrap();
    }
    let meta = index.cf_handle("meta").unwrap();
    index
        .put_cf(meta, "next-segment", 0u64.to_le_bytes())
        .unwrap();
}

fn use_numbers_up(index: &DB) {
    let meta = index.cf_handle("meta").unwrap();
    index
        .put_cf(meta, "next-segment", (1u64 << 33).to_le_bytes())
        .unwrap();
}

#[test]
fn nothing_goes_to_slots_that_the_journal_has_whatever_the_index_says_of_segments() {
    let anew = Remedy::Index;
    let wrong: [(&str, Forge, Remedy); 4] = [
        (
            "fewer slots",
            |index| set_used(index, |used| used / 4),
            anew,
        ),
        ("no slots", |index| set_used(index, |_| 0), anew),
        ("no segments", forget_segments, anew),
        // What is pushed puts that right.
        ("no number is left", use_numbers_up, Remedy::None),
    ];
    for (what, forge, remedy) in wrong {
        let path = places();
        let store = open(&path("store"));
        push(&store, 10);
        drop(store);
        tamper(&path("store"), forge);
        fs::write(path("store/distrusted"), b"").unwrap();
        let before = segments(&path("store"));
        for round in 2..4 {
            let store = reopen(&path("store")).unwrap();
            push(&store, 10 * round);
            assert_pushed(&store, 10 * round);
            // What is refused gives nothing back that is not its own.
            let bytes = content(99, 200);
            let refused = Content::of(&bytes, SPARSE);
            let target = Target::Library {
                library: library_ref("refused@1"),
                object: ObjectId::of(b"another"),
            };
            store.ingest(target, &[refused]).unwrap_err();
            drop(store);
            assert_untouched(&path("store"), &before);
        }
        assert!(!path("store/lost").exists(), "{what}");
        let report = repair(&path("store"), false, &mut |_| ()).unwrap();
        assert_eq!(report.remedy, remedy, "{what}: {report:#?}");
        assert_eq!((report.damaged_objects, report.left), (vec![], vec![]));
        for _ in 0..2 {
            let store = reopen(&path("store")).unwrap();
            push(&store, 40);
            for seed in [10, 20, 30, 40] {
                assert_pushed(&store, seed);
            }
            let open = open_ones(&store);
            let mut kinds: Vec<_> = open.iter().map(|(kind, _)| format!("{kind:?}")).collect();
            kinds.sort();
            kinds.dedup();
            assert_eq!(kinds.len(), open.len(), "{what}: {open:?}");
        }
        assert!(!path("store/lost/00000000.seg").exists(), "{what}");
    }
}

#[test]
fn what_is_open_when_the_index_is_found_to_be_wrong_gets_no_more() {
    let path = places();
    let options = StoreOptions {
        segment_bytes: 8 * WINDOW_SIZE,
        ..options()
    };
    let store = open_with(&path("store"), options).unwrap();
    push(&store, 10);
    let first = open_ones(&store);
    assert_eq!(first.len(), 2);
    fs::write(path("store/distrusted"), b"").unwrap();
    let before = segments(&path("store"));
    push(&store, 20);
    push(&store, 30);
    assert_untouched(&path("store"), &before);
    assert_eq!(open_ones(&store).len(), 4);
    assert_eq!(segments(&path("store")).len(), 4);
    // It was compared again, say.
    fs::remove_file(path("store/distrusted")).unwrap();
    push(&store, 40);
    let open = open_ones(&store);
    assert_eq!(open.len(), 2, "{open:?}");
    assert!(open.iter().all(|one| !first.contains(one)), "{open:?}");
    assert_eq!(segments(&path("store")).len(), 4);
    let whole = told(&store);
    drop(store);
    let store = reopen(&path("store")).unwrap();
    assert_eq!(told(&store), whole);
    assert_eq!(open_ones(&store), open);
}

#[test]
fn numbers_of_segments_that_the_journal_alone_knows_are_not_used_again() {
    for is_in_checkpoint in [false, true] {
        let path = places();
        let store = open(&path("store"));
        push(&store, 10);
        drop(store);
        // It is moved aside, and later ones get larger numbers.
        fs::write(path("store/segments/000000aa.seg"), b"another").unwrap();
        let store = reopen(&path("store")).unwrap();
        if is_in_checkpoint {
            assert!(store.checkpoint().unwrap());
        }
        drop(store);
        tamper(&path("store"), |index| {
            let meta = index.cf_handle("meta").unwrap();
            index
                .put_cf(meta, "next-segment", 2u64.to_le_bytes())
                .unwrap();
        });
        fs::write(path("store/distrusted"), b"").unwrap();
        let store = reopen(&path("store")).unwrap();
        push(&store, 20);
        let segments = store.segments().unwrap();
        let numbers: Vec<_> = segments.iter().map(|(id, _)| id.0).collect();
        assert_eq!(numbers, [0, 1, 0xab, 0xac], "{is_in_checkpoint}");
    }
}
