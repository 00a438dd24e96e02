//! Segments and records of the index that are damaged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use pool_core::ObjectId;
use pool_core::extent::Extent;
use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};
use pool_gc::fsck::Problem;
use pool_gc::{CollectOptions, FsckLevel, collect, fsck};
use pool_store::collection::SkipReason;
use pool_store::format::SegmentState;
use pool_store::placement::Placement;

use super::closed::tamper;
use super::collecting::NOW;
use super::common::{assert_stored, content, library_ref, open, push_library};
use super::{SLOTS, first_extent, mostly_dead, segment_path, skipped, usage};

/// Spoils a segment so that its live pages cannot be moved.
type Spoil = fn(&Path, Extent);

const WAYS_TO_SPOIL: [(&str, Spoil); 4] = [
    ("a flipped byte", |path, extent| {
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(b"\x00\xff", extent.slot.byte_offset() + 9)
            .unwrap();
    }),
    ("a short file", |path, extent| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(extent.slot.byte_offset() + 100).unwrap();
    }),
    ("no file", |path, _| fs::remove_file(path).unwrap()),
    ("a file that cannot be read", |path, _| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
];

#[test]
fn one_damaged_segment_keeps_nothing_else() {
    for (how, spoil) in WAYS_TO_SPOIL {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let kept = mostly_dead(&store, 20);
        let damaged = first_extent(&store, &kept[7]);
        spoil(&segment_path(directory.path(), damaged.segment), damaged);

        let report = collect(&store, &NOW).unwrap();
        assert_eq!(
            skipped(&report),
            [(damaged.segment, SkipReason::Damaged)],
            "{how}"
        );
        assert_eq!(report.segments_evacuated.len(), 19, "{how}");
        assert_eq!(report.segments_reaped, report.segments_evacuated, "{how}");
        let after = usage(directory.path());
        let (records, pages) = (
            store.segments().unwrap(),
            store.stats().unwrap().stored_pages,
        );

        for nth in 0..5u64 {
            // Garbage of later days goes as ever, a whole segment of it and parts of one.
            let late = content(3000 + nth, 2 * SLOTS);
            push_library(&store, &format!("late{nth}@1"), &late, Placement::Sparse).unwrap();
            let report = collect(&store, &NOW).unwrap();
            assert_eq!(
                skipped(&report),
                [(damaged.segment, SkipReason::Damaged)],
                "{how}"
            );
            assert!(report.freed_bytes >= SLOTS as u64 * PAGE_SIZE, "{how}");
        }
        for _ in 0..5 {
            let report = collect(&store, &NOW).unwrap();
            assert_eq!(report.segments_evacuated, [], "{how}");
        }
        let (files, bytes) = usage(directory.path());
        // The segment that is appended to may hold a part of the late garbage.
        assert!(files <= after.0 + 1, "{how}: {files}, not {}", after.0);
        assert!(bytes <= after.1 + 2 * WINDOW_SIZE, "{how}: {bytes}");
        assert_eq!(store.stats().unwrap().stored_pages, pages, "{how}");
        assert!(records.iter().all(|(id, record)| {
            record.state == SegmentState::Open
                || store.segments().unwrap().contains(&(*id, *record))
        }));

        // Nothing damaged was dropped or moved, and nothing else was touched.
        assert_eq!(first_extent(&store, &kept[7]), damaged, "{how}");
        for (nth, bytes) in kept.iter().enumerate().filter(|(nth, _)| *nth != 7) {
            assert_stored(&store, bytes);
            assert_ne!(
                first_extent(&store, bytes).segment,
                damaged.segment,
                "{nth}"
            );
        }
        let found = fsck(&store, FsckLevel::Content);
        assert!(!found.is_sound(), "{how}");
        let expected = [
            Problem::PageContent,
            Problem::FileSize,
            Problem::MissingFile,
            Problem::Unreadable,
        ];
        assert!(
            found.findings.iter().any(|f| expected.contains(&f.problem)),
            "{how}: {found:#?}"
        );

        // It was noted, so the next push of it is written elsewhere and the segment can go.
        assert!(store.damaged_slots() > 0, "{how}");
        // What is no file is not removed as one.
        let _ = fs::remove_dir(segment_path(directory.path(), damaged.segment));
        push_library(&store, "again@1", &kept[7], Placement::Sparse).unwrap();
        assert_stored(&store, &kept[7]);
        let report = collect(&store, &NOW).unwrap();
        assert_eq!(skipped(&report), [], "{how}");
        assert_eq!(store.damaged_slots(), 0, "{how}");
        let mut records = store.segments().unwrap().into_iter();
        assert!(records.all(|(id, _)| id != damaged.segment), "{how}");
    }
}

#[test]
fn a_damaged_window_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let windows = Placement::Windows { phase: 0 };
    let mut kept = Vec::new();
    for nth in 0..3u64 {
        // Two windows a segment: one goes.
        let bytes = content(10 + nth, 300);
        let name = format!("kept{nth}@1");
        push_library(&store, &name, &bytes, windows).unwrap();
        store.pin_library(&library_ref(&name), true).unwrap();
        push_library(
            &store,
            &format!("dead{nth}@1"),
            &content(20 + nth, 500),
            windows,
        )
        .unwrap();
        kept.push(bytes);
    }
    let damaged = first_extent(&store, &kept[1]);
    (WAYS_TO_SPOIL[0].1)(&segment_path(directory.path(), damaged.segment), damaged);
    let half = CollectOptions {
        compact_below: 0.6,
        ..NOW
    };
    let report = collect(&store, &half).unwrap();
    assert_eq!(skipped(&report), [(damaged.segment, SkipReason::Damaged)]);
    assert_eq!(report.segments_evacuated.len(), 2);
    let after = usage(directory.path());
    for _ in 0..5 {
        let report = collect(&store, &half).unwrap();
        assert_eq!(skipped(&report), [(damaged.segment, SkipReason::Damaged)]);
        assert_eq!(usage(directory.path()), after);
    }
    assert_eq!(first_extent(&store, &kept[1]), damaged);
    assert_stored(&store, &kept[0]);
    assert_stored(&store, &kept[2]);
}

#[test]
fn what_is_retired_goes_though_the_index_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let dead = content(1, SLOTS);
    push_library(&store, "dead@1", &dead, Placement::Sparse).unwrap();
    push_library(&store, "live@1", &content(2, 10), Placement::Sparse).unwrap();
    store.pin_library(&library_ref("live@1"), true).unwrap();
    let segment = first_extent(&store, &dead).segment;
    let held = store.hold_segment(segment).unwrap();
    assert_eq!(collect(&store, &NOW).unwrap().segments_retired, [segment]);
    drop(held);
    drop(store);
    tamper(directory.path(), |index| {
        let objects = index.cf_handle("objects").unwrap();
        let live = ObjectId::of(&content(2, 10));
        index.put_cf(objects, live.0, b"{spoilt").unwrap();
    });
    let store = open(directory.path());
    assert!(segment_path(directory.path(), segment).exists());
    let not_counted = store.stats().unwrap().not_counted;
    assert_eq!(not_counted.len(), 1, "the damage is seen: {not_counted:?}");
    collect(&store, &NOW).unwrap_err();
    assert!(!segment_path(directory.path(), segment).exists());
    assert!(store.library(&library_ref("live@1")).unwrap().is_some());
}
