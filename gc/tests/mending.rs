//! Damage is found, remembered, and goes with the next push of what has it, whatever else happens meanwhile.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use collecting::{NOW, assert_sound};
use common::{
    Random, announcement, assert_stored, content, library_ref, negotiate, open, push_library,
};
use pool_core::ObjectId;
use pool_core::page::PAGE_SIZE;
use pool_gc::{FsckLevel, collect, fsck, scrub};
use pool_store::placement::Placement;
use pool_store::repair::repair;
use pool_store::scrub::State;
use pool_store::{Progress, Store};

const DENSE: Placement = Placement::Windows { phase: 0 };
const PAGE: usize = PAGE_SIZE as usize;

/// Turns a bit of a page that an object has.
fn flip(directory: &Path, store: &Store, id: ObjectId, random: &mut Random) {
    let record = store.object(id).unwrap().unwrap();
    let page = random.below(record.map.page_count().0);
    let Some(extent) = record.map.slice(page, 1).next() else {
        return;
    };
    let path = directory.join(format!("segments/{}.seg", extent.segment));
    let segment = File::options().read(true).write(true).open(path).unwrap();
    let at = extent.slot.byte_offset() + random.below(PAGE_SIZE);
    let mut byte = [0];
    segment.read_exact_at(&mut byte, at).unwrap();
    segment
        .write_all_at(&[byte[0] ^ 1 << random.below(8)], at)
        .unwrap();
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Content number `nth`: neighbours share pages and windows.
fn nth_content(nth: u64) -> (Vec<u8>, Placement) {
    let placement = if nth.is_multiple_of(3) {
        Placement::Sparse
    } else {
        DENSE
    };
    let shared = content(1000 + nth / 3, 512);
    let own = content(nth, 20 + nth as usize);
    let tail = content(2000 + nth % 2, 45);
    let zeros = vec![0; 2 * PAGE];
    ([shared, own, zeros, tail].concat(), placement)
}

fn push(store: &Store, nth: u64, at_hand: bool) -> pool_store::Result<()> {
    let (bytes, placement) = nth_content(nth);
    let name = format!("l{nth}@1");
    if at_hand {
        push_library(store, &name, &bytes, placement).map(drop)
    } else {
        negotiate(store, announcement(&name, &bytes, placement), &bytes).map(drop)
    }
}

#[test]
fn whatever_is_damaged_is_whole_once_it_was_found_and_pushed_again() {
    let rounds: u64 = std::env::var("POOL_SOAK_ROUNDS").map_or(8, |text| text.parse().unwrap());
    for round in 0..rounds {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("store");
        let mut store = open(&directory);
        let mut random = Random(round + 1);
        let mut there: Vec<u64> = Vec::new();
        for _ in 0..25 {
            let nth = random.below(9);
            let known = there.iter().position(|other| *other == nth);
            match random.below(10) {
                0..=3 => {
                    // Nothing that is known to be damaged keeps a push out, nor does what is not.
                    push(&store, nth, random.below(2) == 0).unwrap();
                    let name = library_ref(&format!("l{nth}@1"));
                    store.pin_library(&name, true).unwrap();
                    if known.is_none() {
                        there.push(nth);
                    }
                }
                4..=5 if known.is_some() => {
                    let (bytes, _) = nth_content(nth);
                    flip(&directory, &store, ObjectId::of(&bytes), &mut random);
                }
                6 => drop(scrub(&store, &mut go_on).unwrap()),
                7 => drop(collect(&store, &NOW).unwrap()),
                8 => {
                    drop(store);
                    store = open(&directory);
                }
                9 if known.is_some() => {
                    let name = library_ref(&format!("l{nth}@1"));
                    store.pin_library(&name, false).unwrap();
                    store
                        .delete_library(&library_ref(&format!("l{nth}@1")))
                        .unwrap();
                    there.retain(|other| *other != nth);
                }
                _ => {}
            }
        }
        scrub(&store, &mut go_on).unwrap();
        for nth in &there {
            push(&store, *nth, random.below(2) == 0).unwrap();
        }
        // Nobody pushes garbage again.
        collect(&store, &NOW).unwrap();
        let found = scrub(&store, &mut go_on).unwrap();
        assert_eq!(found.report.damaged_objects, [], "round {round}");
        for nth in &there {
            assert_stored(&store, &nth_content(*nth).0);
        }
        collect(&store, &NOW).unwrap();
        assert_eq!(store.damaged_slots(), 0, "round {round}");
        for nth in &there {
            assert_stored(&store, &nth_content(*nth).0);
        }
        assert_sound(&store);
    }
}

#[test]
fn a_scrub_goes_on_where_it_was_interrupted() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = open(&directory);
    for nth in 0..4 {
        // A segment each.
        let name = format!("l{nth}@1");
        push_library(&store, &name, &content(nth, 1024), DENSE).unwrap();
    }
    let damaged = ObjectId::of(&content(0, 1024));
    flip(&directory, &store, damaged, &mut Random(5));
    let mut steps = 0;
    let mut until = |last: u32| {
        let scrubbed = scrub(&store, &mut |progress| {
            steps += 1;
            assert_eq!(progress.total, 4 * 1024 * PAGE_SIZE);
            if steps == last {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let read = std::mem::take(&mut steps);
        (read, scrubbed.unwrap())
    };
    // In the second segment, of two steps each: behind one for index and journal, and two for the object that is asked.
    let (_, first) = until(6);
    assert!(!first.is_complete);
    assert_eq!(first.report.segments, 1);
    assert_eq!(first.report.damaged_objects, [damaged]);
    let kept = State::read(&directory, 0);
    assert_eq!(kept.completed_at, None);
    assert_eq!(kept.pass.unwrap().found, first.report);
    assert_eq!(store.damaged_slots(), 1, "what was found is known at once");
    let (read, second) = until(u32::MAX);
    // One for index and journal again.
    assert_eq!((read, second.is_complete), (7, true));
    assert_eq!((second.report.segments, second.report.pages), (4, 4096));
    assert_eq!(second.report.damaged_objects, [damaged]);
    let kept = State::read(&directory, 0);
    assert!(kept.completed_at.is_some() && kept.pass.is_none());
    // The next one begins anew.
    let (read, third) = until(u32::MAX);
    assert_eq!((read, third), (11, second));
}

#[test]
fn what_fsck_finds_is_told_to_whoever_asks_for_its_objects() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = open(&directory);
    let (one, two) = (content(1, 100), content(2, 3));
    push_library(&store, "one@1", &one, DENSE).unwrap();
    push_library(&store, "two@1", &two, Placement::Sparse).unwrap();
    flip(&directory, &store, ObjectId::of(&one), &mut Random(3));
    let report = fsck(&store, FsckLevel::Content);
    assert_eq!(report.damaged_objects, [ObjectId::of(&one)]);
    assert_eq!(store.note_damaged(&report.damaged_objects).unwrap(), 1);
    // It is not said of what is whole, whoever says it.
    assert_eq!(store.note_damaged(&[ObjectId::of(&two)]).unwrap(), 0);
    assert_eq!(store.note_damaged(&[ObjectId::of(b"nothing")]).unwrap(), 0);
    push_library(&store, "one@1", &one, DENSE).unwrap();
    assert_sound(&store);
}

#[test]
fn a_segment_can_go_once_what_was_damaged_in_it_is_elsewhere() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = open(&directory);
    let (kept, dead) = (content(1, 100), content(2, 924));
    push_library(&store, "kept@1", &kept, Placement::Sparse).unwrap();
    store.pin_library(&library_ref("kept@1"), true).unwrap();
    push_library(&store, "dead@1", &dead, Placement::Sparse).unwrap();
    flip(&directory, &store, ObjectId::of(&kept), &mut Random(7));
    let report = collect(&store, &NOW).unwrap();
    assert_eq!(
        (
            report.segments_skipped.len(),
            report.segments_evacuated.len()
        ),
        (1, 0)
    );
    // Who met the damage noted it.
    assert_eq!(store.damaged_slots(), 1);
    push_library(&store, "kept@1", &kept, Placement::Sparse).unwrap();
    let report = collect(&store, &NOW).unwrap();
    assert_eq!(
        (
            report.segments_skipped.len(),
            report.segments_evacuated.len()
        ),
        (0, 1)
    );
    assert_stored(&store, &kept);
    assert_sound(&store);
}

#[test]
fn what_is_known_to_be_damaged_is_not_moved_and_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let (kept, dead) = (content(1, 100), content(2, 924));
    {
        let store = open(&directory);
        push_library(&store, "kept@1", &kept, Placement::Sparse).unwrap();
        store.pin_library(&library_ref("kept@1"), true).unwrap();
        push_library(&store, "dead@1", &dead, Placement::Sparse).unwrap();
        flip(&directory, &store, ObjectId::of(&kept), &mut Random(7));
    }
    // In an index that was made anew pages of damaged objects have no entries: nothing but the note tells.
    fs::remove_dir_all(directory.join("index")).unwrap();
    repair(&directory, false, &mut |_| ()).unwrap();
    let store = open(&directory);
    // The repair noted them.
    let known = store.damaged_slots();
    assert_eq!(known, 100);
    let report = collect(&store, &NOW).unwrap();
    assert_eq!(report.segments_skipped.len(), 1, "{report:?}");
    assert_eq!(report.segments_evacuated, []);
    assert_eq!(store.damaged_slots(), known);
    push_library(&store, "kept@1", &kept, Placement::Sparse).unwrap();
    assert_stored(&store, &kept);
    collect(&store, &NOW).unwrap();
    assert_eq!(store.damaged_slots(), 0);
    assert_stored(&store, &kept);
    assert_sound(&store);
}
