//! What stands in the way of a collection, and that it gets on with the rest: damaged segments, a
//! full disk, leases, damage of the index, few descriptors.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{assert_stored, content, library_ref, open, push_library};
use pool_core::ObjectId;
use pool_core::extent::{Extent, SegmentId};
use pool_core::page::{PAGE_SIZE, WINDOW_SIZE};
use pool_gc::fsck::Problem;
use pool_gc::{CollectOptions, CollectReport, FsckLevel, GcError, collect, fsck};
use pool_store::collection::SkipReason;
use pool_store::format::SegmentState;
use pool_store::placement::Placement;
use pool_store::{Store, StoreError, StoreView};
use pool_tests::disk::SmallDisk;
use pool_tests::wait;
use rustix::process::{Resource, Rlimit, setrlimit};

const NOW: CollectOptions = CollectOptions {
    grace: Duration::ZERO,
    dry_run: false,
    compact_below: 0.5,
};

/// Slots of a segment of [`open`].
const SLOTS: usize = 1024;

/// Pages of a segment of [`mostly_dead`] that stay.
const KEPT: usize = SLOTS / 4;

/// MiB of a small disk: the index alone takes 18 for its log, before anything is in it.
const DISK: u32 = 192;

/// Fills `segments` segments of single pages, a quarter of each for ever and the rest garbage;
/// answers with what stays.
fn mostly_dead(store: &Store, segments: u64) -> Vec<Vec<u8>> {
    (0..segments)
        .map(|nth| {
            let kept = content(1000 + nth, KEPT);
            let name = format!("kept{nth}@1");
            push_library(store, &name, &kept, Placement::Sparse).unwrap();
            store.pin_library(&library_ref(&name), true).unwrap();
            let dead = content(2000 + nth, SLOTS - KEPT);
            push_library(store, &format!("dead{nth}@1"), &dead, Placement::Sparse).unwrap();
            kept
        })
        .collect()
}

fn first_extent(view: &StoreView, bytes: &[u8]) -> Extent {
    let record = view.object(ObjectId::of(bytes)).unwrap().unwrap();
    record.map.extents()[0]
}

fn segment_path(directory: &Path, id: SegmentId) -> PathBuf {
    directory.join(format!("segments/{id}.seg"))
}

/// Segment files and the bytes of disk that they take up.
fn usage(directory: &Path) -> (usize, u64) {
    let files: Vec<_> = fs::read_dir(directory.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap())
        .collect();
    let bytes = files.iter().map(|file| file.blocks() * 512).sum();
    (files.len(), bytes)
}

fn assert_sound(view: &StoreView) {
    let report = fsck(view, FsckLevel::Content);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

fn skipped(report: &CollectReport) -> Vec<(SegmentId, SkipReason)> {
    let skipped = report.segments_skipped.iter();
    skipped.map(|left| (left.segment, left.reason)).collect()
}

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
fn a_nearly_full_disk_gets_its_room_back() {
    // With wholly dead segments beside the mostly dead ones; with room for one copy alone.
    for (dead, left) in [(4u64, 1 << 20), (0, 4 << 20)] {
        let Some(disk) = SmallDisk::new(DISK).unwrap() else {
            return;
        };
        let path = disk.path().join("store");
        let store = open(&path);
        let kept = mostly_dead(&store, 8);
        for nth in 0..dead {
            let bytes = content(4000 + nth, SLOTS);
            push_library(&store, &format!("x{nth}@1"), &bytes, Placement::Sparse).unwrap();
        }
        disk.leave(left).unwrap();
        let full = push_library(&store, "new@1", &content(1, 5000), Placement::Sparse);
        assert!(matches!(full, Err(StoreError::NoSpace { .. })), "{full:?}");
        // What was refused leaves the room that there was.
        assert!(disk.free_bytes().unwrap() + (256 << 10) >= left);
        // The index takes writes again once it has noticed that there is room.
        let report = wait::until_some("the index takes writes", || match collect(&store, &NOW) {
            Err(pool_gc::GcError::Store {
                source: StoreError::NoSpace { .. },
                ..
            }) => None,
            other => Some(other.unwrap()),
        });
        assert_eq!(skipped(&report), [], "{dead} dead: {report:#?}");
        assert_eq!(report.segments_evacuated.len(), 8, "{dead} dead");
        assert_eq!(report.segments_retired.len() as u64, dead);
        push_library(&store, "new@1", &content(1, 5000), Placement::Sparse).unwrap();
        for bytes in &kept {
            assert_stored(&store, bytes);
        }
        drop(store);
        assert_sound(&open(&path));
    }
}

#[test]
fn without_room_for_a_copy_nothing_is_begun() {
    let Some(disk) = SmallDisk::new(DISK).unwrap() else {
        return;
    };
    let path = disk.path().join("store");
    let store = open(&path);
    let kept = mostly_dead(&store, 8);
    // The index has room, a copy has not.
    let ballast = disk.leave(KEPT as u64 * PAGE_SIZE).unwrap();
    let report = collect(&store, &NOW).unwrap();
    assert_eq!(report.segments_evacuated, []);
    assert_eq!(report.segments_skipped.len(), 8, "{report:#?}");
    for skipped in &report.segments_skipped {
        assert_eq!(skipped.reason, SkipReason::NoRoom);
        let needed = (KEPT as u64 * PAGE_SIZE).to_string();
        assert!(skipped.why.contains(&needed), "{}", skipped.why);
    }
    let before = (usage(&path), store.segments().unwrap());
    for _ in 0..5 {
        let report = collect(&store, &NOW).unwrap();
        assert_eq!(report.segments_skipped.len(), 8);
        assert_eq!((usage(&path), store.segments().unwrap()), before);
    }
    fs::remove_file(ballast).unwrap();
    let report = collect(&store, &NOW).unwrap();
    assert_eq!(report.segments_evacuated.len(), 8);
    assert_eq!(skipped(&report), []);
    for bytes in &kept {
        assert_stored(&store, bytes);
    }
    assert_sound(&store);
}

/// Room enough by the count of bytes, and yet no copy can be finished: no further file can be made.
#[test]
fn a_copy_that_cannot_be_finished_leaves_nothing() {
    let Some(disk) = SmallDisk::with_options(&format!("size={DISK}m,nr_inodes=256")).unwrap()
    else {
        return;
    };
    // The segments alone lie there: an index makes and removes files when it likes.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    drop(open(path));
    fs::create_dir(disk.path().join("segments")).unwrap();
    fs::remove_dir(path.join("segments")).unwrap();
    symlink(disk.path().join("segments"), path.join("segments")).unwrap();
    let store = open(path);
    let windows = Placement::Windows { phase: 0 };
    // A segment of two windows, a page of each in use by itself, and one window in use whole.
    let half = content(1, 512);
    push_library(&store, "half@1", &half, windows).unwrap();
    let whole = content(2, 300);
    push_library(&store, "whole@1", &whole, windows).unwrap();
    store.pin_library(&library_ref("whole@1"), true).unwrap();
    let page = half[100 * 4096..101 * 4096].to_vec();
    push_library(&store, "page@1", &page, windows).unwrap();
    store.pin_library(&library_ref("page@1"), true).unwrap();
    // The window goes to a segment that is there; the page would need a new one.
    push_library(&store, "open@1", &content(3, 200), windows).unwrap();
    store.pin_library(&library_ref("open@1"), true).unwrap();
    assert!(
        store
            .segments()
            .unwrap()
            .iter()
            .all(|(_, record)| record.kind == pool_store::format::SegmentKind::Dense)
    );
    let source = first_extent(&store, &whole).segment;
    let all = CollectOptions {
        compact_below: 1.0,
        ..NOW
    };
    let mut more = 0;
    while File::create(disk.path().join(format!("more{more}"))).is_ok() {
        more += 1;
    }
    let report = collect(&store, &all).unwrap();
    assert_eq!(
        skipped(&report),
        [(source, SkipReason::NoRoom)],
        "{report:#?}"
    );
    let before = (usage(path), store.segments().unwrap());
    for _ in 0..5 {
        let report = collect(&store, &all).unwrap();
        assert_eq!(skipped(&report), [(source, SkipReason::NoRoom)]);
        assert_eq!((usage(path), store.segments().unwrap()), before);
    }
    for bytes in [&whole, &page] {
        assert_stored(&store, bytes);
        assert_eq!(first_extent(&store, bytes).segment, source);
    }
    for nth in 0..more {
        fs::remove_file(disk.path().join(format!("more{nth}"))).unwrap();
    }
    let report = collect(&store, &all).unwrap();
    assert_eq!(report.segments_evacuated, [source], "{report:#?}");
    for bytes in [&whole, &page] {
        assert_stored(&store, bytes);
    }
    assert_sound(&store);
}

/// Moves a store's index to a disk of its own, as somebody would who has a faster one.
fn move_index(directory: &Path, to: &Path) {
    let index = directory.join("index");
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(&index).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
    }
    fs::remove_dir_all(&index).unwrap();
    symlink(to, &index).unwrap();
}

/// The index runs out of room while it follows the pages that were copied.
#[test]
fn an_index_that_is_full_half_way_leaves_all_whole() {
    let mut half_way = 0;
    for room in [16u64, 48, 80, 112] {
        let Some(disk) = SmallDisk::new(DISK).unwrap() else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let store = open(path);
        let kept = mostly_dead(&store, 8);
        let nothing_moved = CollectOptions {
            compact_below: 0.0,
            ..NOW
        };
        collect(&store, &nothing_moved).unwrap();
        drop(store);
        move_index(path, &disk.path().join("index"));
        // Without room for the log beforehand, so that it takes what it needs when it is written.
        disk.leave(1 << 20).unwrap();
        let store = open(path);
        push_library(&store, "first@1", &content(3, 1), Placement::Sparse).unwrap();
        store.pin_library(&library_ref("first@1"), true).unwrap();
        disk.leave(room << 10).unwrap();
        let before: Vec<_> = kept
            .iter()
            .map(|bytes| first_extent(&store, bytes))
            .collect();
        match collect(&store, &NOW) {
            Ok(report) => {
                for skipped in &report.segments_skipped {
                    assert_eq!(skipped.reason, SkipReason::NoRoom, "{room}: {report:#?}");
                    assert!(!report.segments_reaped.contains(&skipped.segment));
                }
                half_way += u64::from(!report.segments_skipped.is_empty());
            }
            Err(GcError::Store {
                source: StoreError::NoSpace { .. },
                ..
            }) => {}
            Err(other) => panic!("{room}: {other}"),
        }
        for bytes in &kept {
            assert_stored(&store, bytes);
        }
        // As a stop in this state leaves it.
        drop(store);
        disk.leave(40 << 20).unwrap();
        let store = open(path);
        for bytes in &kept {
            assert_stored(&store, bytes);
        }
        assert_sound(&store);
        let report = collect(&store, &NOW).unwrap();
        assert_eq!(skipped(&report), [], "{room}");
        // Every page is still known to be there.
        let pages: usize = kept
            .iter()
            .map(|bytes| bytes.len() / PAGE_SIZE as usize)
            .sum();
        assert_eq!(
            store.stats().unwrap().stored_pages.0,
            pages as u64 + 1,
            "{room}"
        );
        for (bytes, before) in kept.iter().zip(before) {
            assert_stored(&store, bytes);
            assert_ne!(first_extent(&store, bytes), before);
        }
        // What was copied twice goes as garbage does, but for the segment that is appended to.
        let all = CollectOptions {
            compact_below: 1.0,
            ..NOW
        };
        for _ in 0..3 {
            collect(&store, &all).unwrap();
        }
        let mark = pool_gc::mark::mark(&store.snapshot(), &[]).unwrap();
        for (id, record) in store.segments().unwrap() {
            let kept = mark.kept_slots(id);
            let tight = record.state == SegmentState::Open || kept == u64::from(record.used);
            assert!(
                tight,
                "{room}: {kept} of {} slots of {id} are used",
                record.used
            );
        }
        assert_sound(&store);
    }
    assert!(half_way > 0, "no collection stopped half-way");
}

#[test]
fn leased_segments_are_told_and_go_later() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let kept = mostly_dead(&store, 6);
    let leased = first_extent(&store, &kept[2]).segment;
    let held = store.hold_segment(leased).unwrap();
    for _ in 0..2 {
        let report = collect(&store, &NOW).unwrap();
        assert_eq!(report.segments_waiting, [leased], "{report:#?}");
        let dead = (SLOTS - KEPT) as u64 * PAGE_SIZE;
        assert_eq!(report.waiting_bytes, dead);
        assert_eq!(skipped(&report), []);
    }
    drop(held);
    let report = collect(&store, &NOW).unwrap();
    assert_eq!(report.segments_evacuated, [leased]);
    assert_eq!(
        (report.segments_waiting.len(), report.waiting_bytes),
        (0, 0)
    );
    assert_sound(&store);
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
    {
        let path = directory.path().join("index");
        let families = rocksdb::DB::list_cf(&rocksdb::Options::default(), &path).unwrap();
        let index = rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, families).unwrap();
        let objects = index.cf_handle("objects").unwrap();
        index
            .put_cf(objects, ObjectId::of(&content(2, 10)).0, b"{spoilt")
            .unwrap();
    }
    let store = open(directory.path());
    assert!(segment_path(directory.path(), segment).exists());
    let pages = store.stats().map(|stats| stats.stored_pages);
    assert!(pages.is_err(), "the damage is seen");
    collect(&store, &NOW).unwrap_err();
    assert!(!segment_path(directory.path(), segment).exists());
    assert!(store.library(&library_ref("live@1")).unwrap().is_some());
}

const FEW_DESCRIPTORS: &str = "POOL_FEW_DESCRIPTORS";

/// The process with few descriptors; run by [`few_descriptors_are_enough`].
#[test]
#[ignore = "a part of another test"]
fn frugal() {
    let Some(directory) = std::env::var_os(FEW_DESCRIPTORS) else {
        return;
    };
    let limit = Rlimit {
        current: Some(128),
        maximum: Some(128),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let options = pool_store::StoreOptions {
        create: true,
        segment_bytes: WINDOW_SIZE,
        ..pool_store::StoreOptions::default()
    };
    let store = Store::open(Path::new(&directory), options).unwrap();
    let mut mix = Vec::new();
    for nth in 0..150u64 {
        let bytes = content(nth, 512);
        push_library(&store, &format!("l{nth}@1"), &bytes, Placement::Sparse).unwrap();
        mix.extend_from_slice(&bytes[..PAGE_SIZE as usize]);
    }
    assert!(store.segments().unwrap().len() >= 150);
    // A page of each segment, read to check the claim that the client makes.
    let manifest = common::announcement("mix@1", &mix, Placement::Sparse);
    common::negotiate(&store, manifest, &mix).unwrap();
    assert_stored(&store, &mix);
    store.pin_library(&library_ref("mix@1"), true).unwrap();
    let report = collect(&store, &NOW).unwrap();
    assert!(report.segments_evacuated.len() >= 150, "{report:#?}");
    assert_eq!(skipped(&report), []);
    assert_stored(&store, &mix);
    assert_sound(&store);
}

#[test]
fn few_descriptors_are_enough() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "frugal", "--ignored", "--test-threads=1"])
        .env(FEW_DESCRIPTORS, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    // Nothing run is a success, too.
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
