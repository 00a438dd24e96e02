//! Disks without room for a copy, for a file, or for the index.

use std::fs::{self, File};
use std::os::unix::fs::symlink;

use pool_core::page::PAGE_SIZE;
use pool_gc::{CollectOptions, GcError, collect};
use pool_store::StoreError;
use pool_store::collection::SkipReason;
use pool_store::format::SegmentState;
use pool_store::placement::Placement;
use pool_tests::disk::SmallDisk;
use pool_tests::wait;

use super::closed::move_index;
use super::collecting::{NOW, assert_sound};
use super::common::{assert_stored, content, library_ref, open, push_library};
use super::{KEPT, SLOTS, first_extent, mostly_dead, skipped, usage};

/// MiB of a small disk: the index alone takes 18 for its log, before anything is in it.
const DISK: u32 = 192;

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
            Err(GcError::Store {
                source: StoreError::NoSpace { .. },
                ..
            }) => None,
            other => Some(other.unwrap()),
        });
        assert_eq!(skipped(&report), [], "{dead} dead: {report:#?}");
        assert_eq!(report.segments_evacuated.len(), 8, "{dead} dead");
        assert_eq!(report.segments_retired.len() as u64, dead);
        // There is as much again as pushes leave.
        push_library(&store, "new@1", &content(1, 2000), Placement::Sparse).unwrap();
        for bytes in &kept {
            assert_stored(&store, bytes);
        }
        drop(store);
        assert_sound(&open(&path));
    }
}

#[test]
fn garbage_goes_however_much_there_is_on_a_full_disk() {
    // The journal takes 44 bytes to remove a page, and has 2 to 3 MiB for that.
    const SEGMENTS: usize = 80;
    let Some(disk) = SmallDisk::new(420).unwrap() else {
        return;
    };
    let path = disk.path().join("store");
    let store = open(&path);
    for nth in 0..SEGMENTS / 8 {
        let bytes = content(6000 + nth as u64, 8 * SLOTS);
        push_library(&store, &format!("x{nth}@1"), &bytes, Placement::Sparse).unwrap();
    }
    disk.leave(0).unwrap();
    for nth in 0..SEGMENTS / 8 {
        let library = library_ref(&format!("x{nth}@1"));
        store.delete_library(&library).unwrap();
    }
    let report = collect(&store, &NOW).unwrap();
    assert_eq!(report.pages, (SEGMENTS * SLOTS) as u64);
    assert_eq!(report.segments_retired.len(), SEGMENTS);
    assert_eq!(report.segments_reaped, report.segments_retired);
    assert_eq!(skipped(&report), []);
    push_library(&store, "new@1", &content(1, 5000), Placement::Sparse).unwrap();
    drop(store);
    assert_sound(&open(&path));
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
    fs::remove_dir_all(path.join("segments")).unwrap();
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
