//! A full disk: a clear error, nothing half visible, and work goes on once there is room.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;
mod failing;

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use closed::move_index;
use common::{
    announcement, assert_stored, content, negotiate, open, open_with, options, push_library,
};
use failing::while_failing;
use pool_core::PageId;
use pool_store::placement::Placement;
use pool_store::{Again, StoreError, StoreOptions};
use pool_tests::disk::SmallDisk;
use pool_tests::wait;

/// Repeats a push until the index has noticed that there is room again.
fn until_done<T>(mut push: impl FnMut() -> Result<T, StoreError>) -> T {
    wait::until_some("there is room again", || match push() {
        Err(StoreError::NoSpace { .. }) => None,
        other => Some(other.unwrap()),
    })
}

#[test]
fn a_full_disk_changes_nothing_and_room_lets_work_go_on() {
    // Room for nothing, for the temporary file alone, for the segments but not for what they leave, and for small ones
    // for a while.
    for left in [0, 64 << 10, (5 << 20) + (96 << 10), 17 << 20] {
        let Some(disk) = SmallDisk::new(64).unwrap() else {
            return;
        };
        let path = disk.path().join("store");
        let store = open(&path);
        let known = content(1, 100);
        push_library(&store, "known@1", &known, Placement::Sparse).unwrap();
        // A segment that nothing was committed to may be left, and is the next one to be used.
        let in_use = || {
            let segments = store.segments().unwrap().into_iter();
            segments
                .filter(|(_, record)| record.used > 0)
                .collect::<Vec<_>>()
        };
        let before = in_use();
        let ballast = disk.leave(left).unwrap();
        let bytes = content(2, 1300);
        let push = || push_library(&store, "new@1", &bytes, Placement::Windows { phase: 0 });
        let mut refused = 0;
        for nth in 0..3000 {
            let result = if nth == 0 {
                push().map(drop)
            } else {
                // Small pushes use up what is left.
                let name = format!("s{nth}@1");
                push_library(&store, &name, &content(nth, 1), Placement::Sparse).map(drop)
            };
            match result {
                Ok(()) => {}
                Err(StoreError::NoSpace { .. }) => refused += 1,
                Err(other) => panic!("{left} bytes left: {other}"),
            }
            if nth == 0 && refused == 1 {
                assert_eq!(in_use(), before, "{left} bytes left");
                assert!(
                    store
                        .library(&common::library_ref("new@1"))
                        .unwrap()
                        .is_none()
                );
            }
            if refused > 2 {
                break;
            }
        }
        assert!(refused > 0, "{left} bytes left were enough for everything");
        assert_stored(&store, &known);
        // No push takes what opening the index needs.
        if left > 16 << 20 {
            assert!(disk.free_bytes().unwrap() > 15 << 20);
        }

        fs::remove_file(ballast).unwrap();
        until_done(push);
        let other = content(3, 700);
        until_done(|| {
            let manifest = announcement("other@1", &other, Placement::Sparse);
            negotiate(&store, manifest, &other)
        });
        drop(store);
        let store = open(&path);
        for bytes in [&known, &bytes, &other] {
            assert_stored(&store, bytes);
        }
        drop(store);
    }
}

#[test]
fn what_waits_for_its_commit_in_files_leaves_room_for_what_has_to_go_on() {
    const MOST: usize = 20_000;
    let Some(disk) = SmallDisk::new(64).unwrap() else {
        return;
    };
    let path = disk.path().join("store");
    let store = open_with(
        &path,
        StoreOptions {
            upload_memory: 0,
            ..options()
        },
    )
    .unwrap();
    let known = content(1, 100);
    push_library(&store, "known@1", &known, Placement::Sparse).unwrap();
    let (bytes, free) = (content(2, MOST), || disk.free_bytes().unwrap());
    let before = free();
    let manifest = announcement("new@1", &bytes, Placement::Sparse);
    let upload = store.begin_upload(manifest).unwrap();
    // Several at a time, each of which would find room alone.
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for pages in bytes.chunks(bytes.len() / 4) {
            scope.spawn(|| {
                for pages in pages.chunks(256 << 12) {
                    let pages = pages.chunks(1 << 12);
                    match upload.add_pages(pages.map(|page| (PageId::of(page), page))) {
                        Ok(()) => {}
                        Err(StoreError::NoSpace { .. }) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert!(refused.into_inner() > 0);
    assert!(free() > 15 << 20, "{}", free());
    // Less than what comes at a time is free beyond that, and nothing of it is anybody's.
    assert!(free() < 18 << 20, "{}", free());
    let mut spool = store.spool(0).unwrap();
    let said = spool.write(&bytes[..4 << 20]).unwrap_err().to_string();
    assert!(said.contains("keeping 16 MiB free"), "{said}");
    drop(upload);
    let mut written = 0;
    while spool.write(&bytes[..1 << 20]).is_ok() {
        written += 1 << 20;
    }
    assert!(free() > 15 << 20, "{}", free());
    assert_eq!(spool.file().unwrap().metadata().unwrap().len(), written);
    drop(spool);
    assert!(free() + (1 << 20) > before, "{}", free());
    let other = content(3, 700);
    push_library(&store, "other@1", &other, Placement::Sparse).unwrap();
    for bytes in [&known, &other] {
        assert_stored(&store, bytes);
    }
}

#[test]
fn an_opening_that_finds_no_room_says_how_much_it_needs_and_has_it_then() {
    let Some(disk) = SmallDisk::new(96).unwrap() else {
        return;
    };
    let path = disk.path().join("store");
    let refused = |options: StoreOptions| {
        disk.leave(0).unwrap();
        let refused = open_with(&path, options).map(drop).unwrap_err();
        let said = refused.to_string();
        let StoreError::NoSpace {
            again: Again::Openable { needed, free },
            ..
        } = refused
        else {
            panic!("{said}");
        };
        assert!(free <= 64 << 10, "{free}: {said}");
        let (needed_mebibytes, path) = (needed.div_ceil(1 << 20), path.display());
        for words in [
            "no space left while",
            &format!(" {path}") as &str,
            "the store is not opened, and what it has is kept",
            &format!("{needed_mebibytes} MiB should be free"),
            "pool gc",
        ] {
            assert!(said.contains(words), "{said}");
        }
        needed
    };
    // Where there is none yet.
    let needed = refused(options());
    let ballast = disk.leave(needed).unwrap();
    let known = content(1, 3000);
    let store = open(&path);
    fs::remove_file(ballast).unwrap();
    push_library(&store, "known@1", &known, Placement::Sparse).unwrap();
    drop(store);
    let needed = refused(StoreOptions::default());
    disk.leave(needed).unwrap();
    let store = open_with(&path, StoreOptions::default()).unwrap();
    assert_stored(&store, &known);
}

/// The index on a full disk of its own, segments on one with room: what is refused again and again
/// may not be taken back before the index takes writes again, and must not pile up meanwhile.
#[test]
fn pushes_that_a_full_index_refuses_do_not_pile_up() {
    let Some(disk) = SmallDisk::new(160).unwrap() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let known = content(1, 100);
    push_library(&store, "known@1", &known, Placement::Sparse).unwrap();
    drop(store);
    move_index(directory.path(), &disk.path().join("index"));

    // Without room for the log beforehand, so that it takes what it needs when it is written; and
    // after a failure the index wants so much free before it takes writes again.
    disk.leave(1 << 20).unwrap();
    let store = open(directory.path());
    push_library(&store, "first@1", &content(3, 1), Placement::Sparse).unwrap();
    let usage = || {
        let segments = store.segments().unwrap();
        let used = |id| store.segment_disk_usage(id).unwrap_or(0);
        segments.into_iter().map(|(id, _)| used(id)).sum::<u64>()
    };
    let before = usage();
    disk.leave(0).unwrap();
    let bytes = content(2, 700);
    let push = |nth: u64| {
        let name = format!("new{nth}@1");
        push_library(&store, &name, &content(100 + nth, 700), Placement::Sparse)
    };
    for nth in 0..8 {
        let refused = push(nth);
        assert!(
            matches!(refused, Err(StoreError::NoSpace { .. })),
            "{refused:?}"
        );
        assert!(usage() - before <= bytes.len() as u64, "after {nth}");
    }
    assert_stored(&store, &known);
    let said = push(9).unwrap_err().to_string();
    assert!(said.contains("after 16 MiB of its disk are free"), "{said}");
    // No more than it says, and nobody opens the store anew.
    disk.leave(17 << 20).unwrap();
    until_done(|| push_library(&store, "taken@1", &bytes, Placement::Sparse));
    assert_eq!(usage() - before, bytes.len() as u64);
    drop(store);
    let store = open(directory.path());
    for bytes in [&known, &bytes] {
        assert_stored(&store, bytes);
    }
}

#[test]
fn a_quota_that_the_index_reaches_is_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 3);
    let push = |store: &pool_store::Store| push_library(store, "a@1", &bytes, Placement::Sparse);
    // The index writes its log with write(2), and segments are written by pwrite(2).
    let limited = while_failing(libc::SYS_write, libc::EDQUOT, || push(&store).map(drop));
    // With the quota raised, too: RocksDB has closed its log.
    for refused in [limited, push(&store).map(drop)] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StoreError::NoSpace { .. }), "{refused}");
        let said = refused.to_string();
        assert!(said.contains("once poolsvc is restarted"), "{said}");
    }
    drop(store);
    let store = open(directory.path());
    push(&store).unwrap();
    assert_stored(&store, &bytes);
}
