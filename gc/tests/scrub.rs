//! A scrub finds every flipped bit of what is in use, and nothing else.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../store/tests/closed/mod.rs"]
mod closed;
mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;

use closed::tamper;
use collecting::{DENSE, collect_all, fill, follow};
use common::{Random, content, library_ref, open, push_library};
use pool_core::ObjectId;
use pool_core::extent::{SegmentId, Slot};
use pool_core::page::PAGE_SIZE;
use pool_store::placement::Placement;
use pool_store::scrub::scrub;
use pool_store::{Store, StoreView};

/// Objects by the slots that they consist of.
fn slots(view: &StoreView) -> Vec<(SegmentId, Slot, ObjectId)> {
    let mut all = Vec::new();
    let snapshot = view.snapshot();
    let scan = snapshot.for_each_object(|id, record| {
        for extent in record.map.extents() {
            for slot in extent.slot.0..extent.slot.0 + extent.count {
                all.push((extent.segment, Slot(slot), id));
            }
        }
        Ok(())
    });
    scan.unwrap();
    all.sort();
    all
}

/// Something of every kind, and what nothing refers to.
fn fill_and_leave(store: &Store) {
    fill(store);
    push_library(store, "gone@1", &content(9, 700), DENSE).unwrap();
    store.delete_library(&library_ref("gone@1")).unwrap();
}

#[test]
fn every_flipped_bit_of_what_is_in_use_is_found() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    fill_and_leave(&open(&store));
    let all = slots(&follow(&store));
    let clean = scrub(&follow(&store), &mut |_| ()).unwrap();
    assert_eq!(clean.damaged_objects, []);
    // Its pages are each on record at a place, or in a window.
    assert_eq!(clean.doubtful_pages, 0);
    let mut distinct: Vec<_> = all
        .iter()
        .map(|(segment, slot, _)| (segment, slot))
        .collect();
    distinct.dedup();
    assert_eq!(clean.pages, distinct.len() as u64);

    let mut random = Random(11);
    for _ in 0..40 {
        let (segment, slot, _) = all[random.below(all.len() as u64) as usize];
        let users = all
            .iter()
            .filter(|(other, at, _)| (*other, *at) == (segment, slot));
        let mut users: Vec<ObjectId> = users.map(|(.., object)| *object).collect();
        users.sort();
        let path = store.join(format!("segments/{segment}.seg"));
        let file = File::options().read(true).write(true).open(path).unwrap();
        let at = slot.byte_offset() + random.below(PAGE_SIZE);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1 << random.below(8)], at)
            .unwrap();
        let found = scrub(&follow(&store), &mut |_| ()).unwrap();
        assert_eq!(found.damaged_objects, users, "{segment} {slot:?} {at}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(scrub(&follow(&store), &mut |_| ()).unwrap(), clean);

    // Past the end of an object, too, which whoever maps it sees.
    let tail = content(6, 2)[..5000].to_vec();
    push_library(&open(&store), "tail@1", &tail, Placement::Sparse).unwrap();
    let (segment, slot, object) = *slots(&follow(&store))
        .iter()
        .rfind(|(.., object)| *object == ObjectId::of(&tail))
        .unwrap();
    let path = store.join(format!("segments/{segment}.seg"));
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[1], slot.byte_offset() + 4000).unwrap();
    let found = scrub(&follow(&store), &mut |_| ()).unwrap();
    assert_eq!(found.damaged_objects, [object]);
    file.write_all_at(&[0], slot.byte_offset() + 4000).unwrap();

    let all = slots(&follow(&store));
    let (lost, ..) = all[0];
    fs::remove_file(store.join(format!("segments/{lost}.seg"))).unwrap();
    let mut users: Vec<ObjectId> = all
        .iter()
        .filter(|(id, ..)| *id == lost)
        .map(|at| at.2)
        .collect();
    users.sort();
    users.dedup();
    let found = scrub(&follow(&store), &mut |_| ()).unwrap();
    assert_eq!(found.damaged_objects, users);
    // What is there in its place is not waited for.
    let pipe = rustix::fs::FileType::Fifo;
    let path = store.join(format!("segments/{lost}.seg"));
    rustix::fs::mknodat(rustix::fs::CWD, path, pipe, 0o600.into(), 0).unwrap();
    assert_eq!(scrub(&follow(&store), &mut |_| ()).unwrap(), found);
}

#[test]
fn what_comes_and_goes_meanwhile_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = open(&directory);
    fill_and_leave(&store);
    for round in 0..6 {
        let mut steps = 0;
        let found = scrub(&follow(&directory), &mut |_| {
            steps += 1;
            if steps == round {
                let name = format!("new{round}@1");
                push_library(&store, &name, &content(50 + round, 300), DENSE).unwrap();
                collect_all(&store);
            }
        });
        assert_eq!(found.unwrap().damaged_objects, [], "round {round}");
    }
}

#[test]
fn a_record_that_cannot_be_read_keeps_nothing_else_from_being_scrubbed() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    fill_and_leave(&open(&directory));
    let bytes = content(60, 5);
    push_library(&open(&directory), "spoilt@1", &bytes, Placement::Sparse).unwrap();
    let spoilt = ObjectId::of(&bytes);
    tamper(&directory, |index| {
        let objects = index.cf_handle("objects").unwrap();
        index.put_cf(objects, spoilt.0, b"no record").unwrap();
    });
    let all = slots_but(&directory, spoilt);
    let (segment, slot, object) = all[all.len() / 2];
    let path = directory.join(format!("segments/{segment}.seg"));
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"spoilt", slot.byte_offset()).unwrap();
    let found = scrub(&follow(&directory), &mut |_| ()).unwrap();
    assert!(found.damaged_objects.contains(&object), "{found:?}");
    let store = open(&directory);
    let scrubbed = pool_gc::scrub(&store, &mut |_| ControlFlow::Continue(())).unwrap();
    // What was passed over is read when that can be: the next pass begins anew, and finds the same.
    assert!(!scrubbed.is_complete);
    let again = pool_gc::scrub(&store, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(again, scrubbed);
    for report in [found, scrubbed.report] {
        assert!(report.damaged_objects.contains(&object), "{report:?}");
        let [file] = report.damaged_files.as_slice() else {
            panic!("{report:?}");
        };
        let id = spoilt.to_string();
        assert!(
            file.what.contains(&id) && file.advice.contains("pool repair"),
            "{file:?}"
        );
    }
}

#[test]
fn a_pass_that_goes_on_looks_at_index_and_journal_again() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = open(&directory);
    for nth in 0..3 {
        push_library(&store, &format!("l{nth}@1"), &content(nth, 600), DENSE).unwrap();
    }
    let pass = |end: Option<u32>| {
        let mut segments = 0;
        let scrubbed = pool_gc::scrub(&store, &mut |progress| {
            segments += u32::from(progress.read > 0);
            match end {
                Some(end) if segments > end => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        scrubbed.unwrap()
    };
    let checkpoint = closed::journal_files(&directory, "checkpoint")
        .pop()
        .unwrap();
    let begun = pass(Some(2));
    assert!(!begun.is_complete && begun.report.is_clean(), "{begun:?}");
    assert_eq!(begun.report.segments, 1);
    closed::flip(&checkpoint, 8 * 40);
    let found = pass(Some(0));
    assert!(!found.is_complete && found.report.damaged_files.len() == 1);
    // Somebody has mended it.
    closed::flip(&checkpoint, 8 * 40);
    let done = pass(None);
    assert!(done.is_complete && done.report.is_clean(), "{done:?}");
    assert!(pass(Some(2)).report.is_clean());
    closed::flip(&checkpoint, 8 * 40);
    let done = pass(None);
    assert!(done.is_complete && !done.report.is_clean(), "{done:?}");
}

/// As [`slots`], of all objects but one, whose record cannot be read.
fn slots_but(directory: &std::path::Path, spoilt: ObjectId) -> Vec<(SegmentId, Slot, ObjectId)> {
    let mut all = Vec::new();
    let view = follow(directory);
    let scan = view
        .snapshot()
        .each(&pool_store::records::OBJECTS, |record| {
            if let Ok((id, record)) = record {
                assert_ne!(id, spoilt);
                for extent in record.map.extents() {
                    all.extend((0..extent.count).map(|nth| {
                        let slot = Slot(extent.slot.0 + nth);
                        (extent.segment, slot, id)
                    }));
                }
            }
            Ok(())
        });
    scan.unwrap();
    all.sort();
    all
}

#[test]
fn asking_objects_is_paced_and_can_be_ended() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = open(&directory);
    // Three windows of one object.
    let bytes = content(1, 3 * 512);
    push_library(&store, "large@1", &bytes, DENSE).unwrap();
    let steps = |store: &Store, end: Option<u32>| {
        let mut steps = 0;
        let scrubbed = pool_gc::scrub(store, &mut |_| {
            steps += 1;
            match end {
                Some(end) if steps == end => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        (steps, scrubbed.unwrap())
    };
    let (clean, scrubbed) = steps(&store, None);
    assert!(scrubbed.is_complete && scrubbed.report.is_clean());
    let (segment, slot, _) = slots(&store)[700];
    let path = directory.join(format!("segments/{segment}.seg"));
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"spoilt", slot.byte_offset()).unwrap();
    let (asked, scrubbed) = steps(&store, None);
    assert_eq!(scrubbed.report.damaged_objects, [ObjectId::of(&bytes)]);
    assert_eq!(asked, clean + 3);
    // Wherever it is ended the next one finds it.
    for end in 1..=asked {
        let (_, ended) = steps(&store, Some(end));
        assert!(!ended.is_complete || end == asked, "{end}");
        let mut next = ended;
        while !next.is_complete {
            next = steps(&store, None).1;
        }
        assert_eq!(next.report.damaged_objects, [ObjectId::of(&bytes)], "{end}");
    }
}
