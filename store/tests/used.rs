//! Nothing is appended over slots that something refers to, whatever the record of their segment says: where the journal says
//! otherwise than the index, and where both are wrong.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;
mod failing;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use closed::{
    PUSHED, assert_whole, copy, example, flip, gone, journal_files, library, places, reopen,
    set_used, tamper,
};
use common::{assert_stored, content, options, push_library};
use failing::while_failing;
use pool_core::extent::SegmentId;
use pool_core::{ObjectId, PageCount};
use pool_store::format::{SegmentKind, SegmentRecord, SegmentState};
use pool_store::placement::Placement;
use pool_store::repair::{Remedy, repair};
use pool_store::superblock::{FEATURE_JOURNAL, FEATURE_MASKED, Superblock};
use pool_store::{Store, StoreError, StoreView};

/// Pushes something for each kind of segment.
fn push(store: &Store, seed: u64) {
    let placements = [Placement::Sparse, Placement::Windows { phase: 0 }];
    for (nth, placement) in (0..).zip(placements) {
        let bytes = content(1000 + 2 * seed + nth, 200);
        push_library(store, &format!("more{seed}-{nth}@1"), &bytes, placement).unwrap();
    }
}

fn assert_pushed(store: &StoreView, seed: u64) {
    for nth in 0..2 {
        assert_stored(store, &content(1000 + 2 * seed + nth, 200));
    }
}

fn records(store: &StoreView) -> BTreeMap<SegmentId, SegmentRecord> {
    store.segments().unwrap().into_iter().collect()
}

/// What is in each slot that is used now.
fn slots(directory: &Path, records: &BTreeMap<SegmentId, SegmentRecord>) -> Vec<Vec<u8>> {
    let of = |(id, record): (&SegmentId, &SegmentRecord)| {
        let bytes = fs::read(directory.join(format!("segments/{id}.seg"))).unwrap();
        bytes[..record.used as usize * 4096].to_vec()
    };
    records.iter().map(of).collect()
}

/// Makes the journal as wrong as the index.
fn forget_journal(directory: &Path) {
    gone(&directory.join("journal"));
    let path = directory.join("superblock");
    let mut superblock = Superblock::decode(&fs::read(&path).unwrap(), true).unwrap();
    superblock.read_only_compatible &= !(FEATURE_JOURNAL | FEATURE_MASKED);
    fs::write(path, superblock.encode()).unwrap();
}

/// Makes the records of open segments of a kind that have slots in use say so many.
fn forge_open(directory: &Path, kind: SegmentKind, used: u32) {
    tamper(directory, |index| {
        let family = index.cf_handle("segments").unwrap();
        let records = index.iterator_cf(family, rocksdb::IteratorMode::Start);
        let records: Vec<_> = records.map(Result::unwrap).collect();
        for (key, value) in records {
            let mut record = SegmentRecord::decode(&value).unwrap();
            if (record.kind, record.state) == (kind, SegmentState::Open) && record.used > 0 {
                record.used = used;
                index.put_cf(family, key, record.encode()).unwrap();
            }
        }
    });
}

/// A store with sealed and open segments of both kinds, closed, and its segments.
fn segmented(directory: &Path) -> BTreeMap<SegmentId, SegmentRecord> {
    example(directory);
    let store = reopen(directory).unwrap();
    push(&store, 0);
    push(&store, 1);
    let found = records(&store);
    let states: Vec<_> = found.values().map(|record| record.state).collect();
    assert!(states.contains(&SegmentState::Sealed) && states.contains(&SegmentState::Open));
    found
}

#[test]
fn an_index_that_says_otherwise_of_segments_than_the_journal_is_not_trusted_from_its_opening_on() {
    for (what, is_in_checkpoint) in [("fewer", false), ("fewer", true), ("none", true)] {
        let path = places();
        let before = segmented(&path("store"));
        if is_in_checkpoint {
            assert!(reopen(&path("store")).unwrap().checkpoint().unwrap());
            // No commit since then tells.
            assert_eq!(journal_files(&path("store"), "log").len(), 1);
        }
        let content = slots(&path("store"), &before);
        tamper(&path("store"), |index| {
            set_used(index, |used| if what == "none" { 0 } else { used / 4 });
        });
        let store = reopen(&path("store")).unwrap();
        assert!(store.distrusts_index(), "{what} {is_in_checkpoint}");
        assert!(matches!(store.reap(), Err(StoreError::Distrusted { .. })));
        push(&store, 2);
        drop(store);
        assert!(slots(&path("store"), &before) == content, "{what}");
        let report = repair(&path("store"), false, &mut |_| ()).unwrap();
        assert_eq!(report.remedy, Remedy::Index, "{report:#?}");
        let store = reopen(&path("store")).unwrap();
        assert!(!store.distrusts_index());
        assert_whole(&store);
        (0..3).for_each(|seed| assert_pushed(&store, seed));
    }
}

#[test]
fn a_segment_that_only_a_wrong_index_knows_is_no_reason_to_look_for_its_file() {
    let path = places();
    segmented(&path("store"));
    tamper(&path("store"), |index| {
        let family = index.cf_handle("segments").unwrap();
        let records = index.iterator_cf(family, rocksdb::IteratorMode::End);
        let (_, record) = records.map(Result::unwrap).next().unwrap();
        index.put_cf(family, 77u32.to_be_bytes(), record).unwrap();
    });
    let said = closed::refused(&path("store"));
    assert!(said.contains("segment 0000004d has no file"), "{said}");
    assert!(said.contains("pool repair"), "{said}");
    let report = repair(&path("store"), false, &mut |_| ()).unwrap();
    assert_eq!(report.remedy, Remedy::Index, "{report:#?}");
    assert_eq!(report.left, Vec::<String>::new());
    assert_whole(&reopen(&path("store")).unwrap());
}

#[test]
fn a_checkpoint_that_is_damaged_where_segments_are_says_nothing_of_the_index() {
    let path = places();
    segmented(&path("store"));
    assert!(reopen(&path("store")).unwrap().checkpoint().unwrap());
    let checkpoint = journal_files(&path("store"), "checkpoint").remove(0);
    // The used slots of the first record: behind the header, the entry's head, its key and 4 bytes.
    flip(&checkpoint, 8 * (64 + 12 + 4 + 4));
    let store = reopen(&path("store")).unwrap();
    assert!(!store.distrusts_index());
    push(&store, 2);
    assert_whole(&store);
}

#[test]
fn where_index_and_journal_are_wrong_what_is_referred_to_is_kept() {
    type Forge = fn(u32) -> u32;
    let forged: [(&str, Forge); 3] = [
        ("fewer", |used| used / 4),
        ("one", |used| used.saturating_sub(1)),
        ("none", |_| 0),
    ];
    for (what, used) in forged {
        let path = places();
        let before = segmented(&path("store"));
        let content = slots(&path("store"), &before);
        tamper(&path("store"), |index| set_used(index, used));
        forget_journal(&path("store"));
        for round in 2..4 {
            let store = reopen(&path("store")).unwrap();
            assert!(!store.distrusts_index());
            push(&store, round);
            drop(store);
            assert!(slots(&path("store"), &before) == content, "{what}");
        }
        // Those that nothing is appended to were not looked at.
        let plan = repair(&path("store"), true, &mut |_| ()).unwrap();
        assert_eq!(plan.remedy, Remedy::Segments, "{plan:#?}");
        assert!(
            plan.wrong[0].contains("something refers to slot"),
            "{plan:#?}"
        );
        let report = repair(&path("store"), false, &mut |_| ()).unwrap();
        assert!(
            report.done && report.remedy == Remedy::Segments,
            "{report:#?}"
        );
        let plan = repair(&path("store"), true, &mut |_| ()).unwrap();
        assert_eq!((plan.remedy, plan.wrong), (Remedy::None, vec![]), "{what}");
        let store = reopen(&path("store")).unwrap();
        let after = records(&store);
        for (id, record) in &before {
            assert!(after[id].used >= record.used, "{what} {id}: {after:?}");
        }
        assert_whole(&store);
        (0..4).for_each(|seed| assert_pushed(&store, seed));
    }
}

#[test]
fn an_index_that_is_made_anew_has_what_objects_refer_to_behind_what_the_journal_has() {
    let path = places();
    let before = segmented(&path("store"));
    tamper(&path("store"), |index| set_used(index, |used| used / 4));
    forget_journal(&path("store"));
    drop(reopen(&path("store")).unwrap());
    gone(&path("store/index"));
    let report = repair(&path("store"), false, &mut |_| ()).unwrap();
    assert_eq!(report.remedy, Remedy::Index, "{report:#?}");
    assert_eq!((report.damaged_objects, report.left), (vec![], vec![]));
    let told = |what: &str| report.wrong.iter().any(|wrong| wrong.contains(what));
    assert!(told("something refers to slot"), "{:#?}", report.wrong);
    let plan = repair(&path("store"), true, &mut |_| ()).unwrap();
    assert_eq!((plan.remedy, plan.wrong), (Remedy::None, vec![]));
    copy(&path("store"), &path("copy"));
    let store = reopen(&path("store")).unwrap();
    assert_eq!(records(&store), before);
    assert_whole(&store);
    // Its pages are found again.
    for nth in 0..PUSHED {
        let name = format!("again{nth}@1");
        let bytes = [library(nth), content(500 + nth, 1)].concat();
        let pushed = push_library(&store, &name, &bytes, Placement::Sparse).unwrap();
        assert_eq!(pushed.new_pages, PageCount(1), "{name}");
    }
}

#[test]
fn what_a_kill_leaves_behind_used_slots_is_appended_over_as_ever() {
    let path = places();
    let before = segmented(&path("store"));
    for (id, record) in before
        .iter()
        .filter(|(_, record)| record.state == SegmentState::Open)
    {
        let file = path(&format!("store/segments/{id}.seg"));
        let mut bytes = fs::read(&file).unwrap();
        bytes[record.used as usize * 4096..].fill(7);
        fs::write(&file, bytes).unwrap();
    }
    let store = common::open_with(&path("store"), options()).unwrap();
    assert_eq!(records(&store), before);
    push(&store, 2);
    assert_pushed(&store, 2);
}

#[test]
fn windows_go_to_multiples_of_their_size_and_nothing_beyond_the_end_whatever_records_say() {
    let path = places();
    example(&path("made"));
    push(&reopen(&path("made")).unwrap(), 0);
    // Nothing but holes is behind the first 200 pages of the last window, so that nothing tells of what records lack.
    for (kind, used) in [
        (SegmentKind::Dense, 300),
        (SegmentKind::Dense, 700),
        (SegmentKind::Dense, 1024),
        (SegmentKind::Sparse, 1024),
    ] {
        let directory = path(&format!("{kind:?}{used}"));
        copy(&path("made"), &directory);
        let open = |(_, record): &(&SegmentId, &SegmentRecord)| {
            (record.kind, record.state) == (kind, SegmentState::Open) && record.used > 0
        };
        let before = records(&reopen(&directory).unwrap());
        let (forged, _) = before.iter().find(open).unwrap();
        forge_open(&directory, kind, used);
        forget_journal(&directory);
        let store = reopen(&directory).unwrap();
        for seed in 1..4 {
            push(&store, seed);
        }
        drop(store);
        let store = reopen(&directory).unwrap();
        let after = records(&store);
        assert_eq!(after[forged].state, SegmentState::Sealed, "{after:?}");
        for seed in 0..4 {
            assert_pushed(&store, seed);
            let dense = ObjectId::of(&content(1001 + 2 * seed, 200));
            let map = store.object(dense).unwrap().unwrap().map;
            let first = map.extents()[0];
            assert!(first.dense && first.slot.0.is_multiple_of(512), "{first:?}");
        }
        assert_whole(&store);
        drop(store);
        let plan = repair(&directory, true, &mut |_| ()).unwrap();
        assert_eq!((plan.remedy, plan.wrong), (Remedy::None, vec![]), "{used}");
    }
}

#[test]
fn records_are_right_before_a_file_that_nobody_knows_seals_them() {
    let path = places();
    let before = segmented(&path("store"));
    tamper(&path("store"), |index| set_used(index, |used| used / 4));
    forget_journal(&path("store"));
    let stray = path("store/segments/00000050.seg");
    fs::write(&stray, [7; 4096]).unwrap();
    let store = reopen(&path("store")).unwrap();
    assert!(!stray.exists());
    let after = records(&store);
    for (id, record) in &before {
        assert_eq!(after[id].state, SegmentState::Sealed, "{id}");
        if record.state == SegmentState::Open {
            assert!(after[id].used >= record.used, "{id}: {after:?}");
        }
    }
    push(&store, 2);
    assert_whole(&store);
    (0..3).for_each(|seed| assert_pushed(&store, seed));
}

#[test]
fn a_file_that_nobody_knows_stays_until_it_is_on_record_that_it_was_there() {
    let path = places();
    let before = segmented(&path("store"));
    let stray = path("store/segments/00000050.seg");
    fs::write(&stray, [7; 4096]).unwrap();
    // The journal writes its frames by pwrite(2).
    let refused = while_failing(libc::SYS_pwrite64, libc::EIO, || reopen(&path("store")));
    let refused = refused.map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Io { .. }), "{refused:?}");
    assert!(stray.exists());
    let lost = path("store/lost");
    // The file cannot be moved, and that it is there is on record.
    fs::write(&lost, []).unwrap();
    reopen(&path("store")).map(drop).unwrap_err();
    assert!(stray.exists());
    gone(&stray);
    gone(&lost);
    let store = reopen(&path("store")).unwrap();
    push(&store, 2);
    let after = records(&store);
    for id in before.keys() {
        assert_eq!(after[id].state, SegmentState::Sealed, "{id}");
    }
    let new: Vec<_> = after.keys().filter(|id| !before.contains_key(id)).collect();
    assert!(
        !new.is_empty() && new.iter().all(|id| id.0 > 0x50),
        "{new:?}"
    );
    assert_whole(&store);
}
