//! Opening a store, or what is none; what is there after a restart; following a writer.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
mod failing;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{assert_stored, content, image_ref, library_ref, open, push_image, push_library};
use failing::as_nobody;
use pool_core::extent::SegmentId;
use pool_core::page::WINDOW_SIZE;
use pool_core::{ExtentMap, ObjectId};
use pool_store::placement::Placement;
use pool_store::{Store, StoreError, StoreOptions, StoreView};
use pool_tests::keeper::Keeper;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::umask;

const DENSE: Placement = Placement::Windows { phase: 0 };

fn reopen(directory: &Path) -> Result<Store, StoreError> {
    Store::open(directory, StoreOptions::default())
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for round in 0..4u64 {
        let store = open(directory.path());
        for nth in 0..3u64 {
            let bytes = content(round * 10 + nth, 200 + nth as usize * 300);
            let name = format!("l{round}{nth}@1");
            let placement = if nth == 1 { Placement::Sparse } else { DENSE };
            push_library(&store, &name, &bytes, placement).unwrap();
            all.push((name, bytes));
        }
        for (name, bytes) in &all {
            assert!(store.library(&library_ref(name)).unwrap().is_some());
            assert_stored(&store, bytes);
        }
    }
}

#[test]
fn a_store_has_one_writer() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert!(matches!(
        reopen(directory.path()),
        Err(StoreError::Locked { path }) if path == directory.path()
    ));
    drop(store);
    reopen(directory.path()).unwrap();
}

#[test]
fn what_is_no_store_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let not_a_store = |path: &Path| matches!(reopen(path), Err(StoreError::NotAStore { .. }));
    assert!(not_a_store(&root.path().join("absent")));
    assert!(not_a_store(root.path()));
    let file = root.path().join("file");
    fs::write(&file, b"hello").unwrap();
    assert!(not_a_store(&file));
    // Creation takes an empty directory, not one that holds something.
    let create = StoreOptions {
        create: true,
        ..StoreOptions::default()
    };
    let full = Store::open(root.path(), create);
    assert!(matches!(full, Err(StoreError::NotAStore { .. })));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    let scratch = root.path().join("scratch");
    let followed = StoreView::follow(root.path(), &scratch);
    assert!(matches!(followed, Err(StoreError::NotAStore { .. })));
    assert!(!scratch.exists());

    let empty = root.path().join("empty");
    let odd = StoreOptions {
        create: true,
        segment_bytes: WINDOW_SIZE + 4096,
        ..StoreOptions::default()
    };
    assert!(Store::open(&empty, odd).is_err());
    assert!(!empty.exists());
}

#[test]
fn a_creation_that_was_cut_short_can_be_repeated() {
    let root = tempfile::tempdir().unwrap();
    for leftovers in [
        &["segments"][..],
        &["segments", "staging", "superblock.new"],
        &["segments", "staging", "index", "lost+found"],
    ] {
        let directory = root.path().join(leftovers.len().to_string());
        for name in leftovers {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        if leftovers.len() == 3 {
            fs::remove_dir(directory.join("superblock.new")).unwrap();
            fs::write(directory.join("superblock.new"), b"PO").unwrap();
        }
        let store = open(&directory);
        push_library(&store, "a@1", b"content", Placement::Sparse).unwrap();
        assert!(!directory.join("superblock.new").exists());
    }
}

#[test]
fn damaged_and_newer_superblocks_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let path = directory.path().join("superblock");
    let good = fs::read(&path).unwrap();
    let mut spoilt = good.clone();
    spoilt[50] ^= 1;
    fs::write(&path, &spoilt).unwrap();
    assert!(matches!(
        reopen(directory.path()),
        Err(StoreError::NotAStore { .. })
    ));
    let mut newer = good.clone();
    newer[8] = 2;
    fs::write(&path, &newer).unwrap();
    assert!(matches!(
        reopen(directory.path()),
        Err(StoreError::Unsupported { .. })
    ));
    fs::write(&path, &good).unwrap();
    reopen(directory.path()).unwrap();
}

#[test]
fn unknown_segment_files_are_moved_aside_and_nothing_is_written_where_they_may_belong() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    push_library(&store, "a@1", &content(1, 5), Placement::Sparse).unwrap();
    drop(store);
    let segments = directory.path().join("segments");
    let lost = directory.path().join("lost");
    for (nth, expected) in ["0000abcd.seg", "0000abcd.seg.1"].iter().enumerate() {
        fs::write(segments.join("0000abcd.seg"), format!("copy {nth}")).unwrap();
        let store = reopen(directory.path()).unwrap();
        assert!(!segments.join("0000abcd.seg").exists());
        let found = fs::read_to_string(lost.join(expected)).unwrap();
        assert_eq!(found, format!("copy {nth}"));
        assert_eq!(store.lost_files().unwrap().len(), nth + 1);
        assert_stored(&store, &content(1, 5));
        push_library(
            &store,
            &format!("b@{nth}"),
            &content(9, 5),
            Placement::Sparse,
        )
        .unwrap();
        let extents = store.object(ObjectId::of(&content(9, 5))).unwrap().unwrap();
        let segment = extents.map.extents()[0].segment;
        assert!(segment > SegmentId(0xabcd), "{segment} was open before");
    }
    // Names that no segment has are nobody's business.
    for name in ["0000ABCD.seg", "00000000.seg.bak", "notes"] {
        fs::write(segments.join(name), b"kept").unwrap();
    }
    drop(reopen(directory.path()).unwrap());
    assert_eq!(fs::read(segments.join("notes")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(lost).unwrap().count(), 2);
}

#[test]
fn an_unknown_segment_file_cannot_use_the_numbers_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    push_library(&store, "a@1", &content(1, 5), Placement::Sparse).unwrap();
    drop(store);
    let segments = directory.path().join("segments");
    fs::write(segments.join("ffffffff.seg"), b"stray").unwrap();
    for nth in 0..2 {
        let store = reopen(directory.path()).unwrap();
        let name = format!("b{nth}@1");
        push_library(&store, &name, &content(2 + nth, 5), Placement::Sparse).unwrap();
        assert_stored(&store, &content(1, 5));
        assert_stored(&store, &content(2 + nth, 5));
    }
    let lost = directory.path().join("lost/ffffffff.seg");
    assert_eq!(fs::read(lost).unwrap(), b"stray");
}

/// Everything below a directory, itself included, with its mode.
fn modes(directory: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(path) = open.pop() {
        let metadata = fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            open.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        found.push((path, metadata.mode() & 0o7777));
    }
    found
}

#[test]
fn who_may_read_a_store_is_up_to_who_makes_it() {
    let root = tempfile::tempdir().unwrap();
    for mask in [0o022, 0o027, 0o077] {
        let before = umask(Mode::from_raw_mode(mask));
        let path = root.path().join(format!("{mask:o}"));
        let store = open(&path);
        push_library(&store, "a@1", &content(1, 50), DENSE).unwrap();
        fs::write(path.join("segments/00000aaa.seg"), b"stray").unwrap();
        drop(store);
        drop(open(&path));
        umask(before);
        let found = modes(&path);
        assert!(
            found
                .iter()
                .any(|(path, _)| path.ends_with("lost/00000aaa.seg"))
        );
        for (path, mode) in found {
            let all = if path.is_dir() { 0o777 } else { 0o666 };
            assert_eq!(mode, all & !mask, "{} with umask {mask:o}", path.display());
        }
    }
}

#[test]
fn a_commit_that_is_refused_or_stopped_leaves_no_unknown_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 700);
    let id = ObjectId::of(&bytes);
    push_library(&store, "a@1", b"other", Placement::Sparse).unwrap();
    // Conflicts are found after the pages were written.
    let conflict = push_library(&store, "a@1", &bytes, DENSE);
    assert!(matches!(conflict, Err(StoreError::VersionConflict { .. })));
    let before = store.segment_files().unwrap();
    assert!(before.len() > 1, "{before:?}");
    // As a stop between a record and its file leaves it.
    drop(store);
    let spare = before.last().unwrap();
    fs::remove_file(directory.path().join(format!("segments/{spare}.seg"))).unwrap();
    let store = reopen(directory.path()).unwrap();
    assert!(!directory.path().join("lost").exists());
    push_library(&store, "b@1", &bytes, DENSE).unwrap();
    let record = store.object(id).unwrap().unwrap();
    let used: Vec<_> = record.map.extents().iter().map(|e| e.segment).collect();
    assert!(used.contains(spare), "{used:?} are used, {spare} was there");
    assert_eq!(store.segment_files().unwrap(), before);
    assert_stored(&store, &bytes);
}

#[test]
fn a_follower_sees_what_was_acknowledged_also_after_the_writer_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = directory.path().join("scratch-of-a-reader");
    let store = open(directory.path());
    let follower = StoreView::follow(directory.path(), &scratch).unwrap();
    push_library(&store, "a@1", &content(1, 50), DENSE).unwrap();
    assert!(follower.library(&library_ref("a@1")).unwrap().is_none());
    follower.refresh().unwrap();
    assert_stored(&follower, &content(1, 50));
    drop(store);
    let store = open(directory.path());
    push_image(&store, "i:1", &content(2, 5), &[]).unwrap();
    follower.refresh().unwrap();
    assert!(follower.image(&image_ref("i:1")).unwrap().is_some());
    assert_stored(&follower, &content(2, 5));
    assert_stored(&follower, &content(1, 50));
    store.delete_image(&image_ref("i:1")).unwrap();
    follower.refresh().unwrap();
    assert!(follower.image(&image_ref("i:1")).unwrap().is_none());
    drop(follower);
    assert!(!scratch.exists());
}

#[test]
fn a_follower_that_cannot_open_the_index_anew_answers_nothing_older() {
    let directory = tempfile::tempdir().unwrap();
    let notes = tempfile::tempdir().unwrap();
    let place = notes.path().join("place");
    fs::create_dir(&place).unwrap();
    let store = open(directory.path());
    push_image(&store, "i:1", &content(1, 5), &[]).unwrap();
    let follower = StoreView::follow(directory.path(), &place.join("scratch")).unwrap();
    push_image(&store, "i:1", &content(2, 5), &[]).unwrap();
    follower.refresh().unwrap();
    let seen = || follower.image(&image_ref("i:1")).unwrap().unwrap().0;
    let second = seen().manifest;

    // The log that has the third state goes before it is read, and the place for notes too.
    fs::remove_dir_all(&place).unwrap();
    push_image(&store, "i:1", &content(3, 5), &[]).unwrap();
    drop(store);
    let store = open(directory.path());
    assert!(follower.refresh().is_err());
    // What is committed now is in a log that can be read.
    push_library(&store, "a@1", &content(4, 5), DENSE).unwrap();
    assert!(follower.refresh().is_err());
    assert!(follower.refresh().is_err());

    fs::create_dir(&place).unwrap();
    follower.refresh().unwrap();
    assert_ne!(seen().manifest, second);
    let written = store.image(&image_ref("i:1")).unwrap().unwrap().0;
    assert_eq!(seen().manifest, written.manifest);
    assert!(follower.library(&library_ref("a@1")).unwrap().is_some());
}

#[test]
fn a_follower_keeps_up_with_a_writer() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let follower = StoreView::follow(directory.path(), scratch.path()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                follower.refresh().unwrap();
                for (_, record) in follower.libraries().unwrap() {
                    let held = follower.hold(|view| {
                        let found = view.object(record.object)?;
                        Ok(found.map(|found| (found.map, vec![record.object])))
                    });
                    let map: ExtentMap = held.unwrap().unwrap().value;
                    let bytes = follower.read(&map, 0, map.length as usize).unwrap();
                    assert_eq!(ObjectId::of(&bytes), record.object);
                }
            }
        });
        for nth in 0..40 {
            let name = format!("l{nth}@1");
            push_library(&store, &name, &content(nth, 70), DENSE).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    follower.refresh().unwrap();
    assert_eq!(follower.libraries().unwrap().len(), 40);
}

#[test]
fn leases_outlive_the_loss_of_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 50);
    push_library(&store, "a@1", &bytes, DENSE).unwrap();
    let segment = store.segments().unwrap()[0].0;
    let follower = StoreView::follow(directory.path(), scratch.path()).unwrap();
    let held = follower.hold_segment(segment).unwrap();
    let leases = directory.path().join("leases");
    fs::rename(&leases, directory.path().join("leases.old")).unwrap();
    assert!(store.segment_is_leased(segment).unwrap());
    drop(store);
    let store = open(directory.path());
    // Whatever is looked up next, changed or not.
    follower.refresh().unwrap();
    assert!(store.segment_is_leased(segment).unwrap());
    drop(held);
    assert!(!store.segment_is_leased(segment).unwrap());
}

#[test]
fn leases_of_a_follower_are_seen_by_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 50);
    push_library(&store, "a@1", &bytes, DENSE).unwrap();
    let id = ObjectId::of(&bytes);
    let follower = StoreView::follow(directory.path(), scratch.path()).unwrap();
    let segment = follower.segments().unwrap()[0].0;
    let held = follower
        .hold(|view| Ok(view.object(id)?.map(|record| (record, vec![id]))))
        .unwrap();
    assert!(store.object_is_leased(id).unwrap() && store.segment_is_leased(segment).unwrap());
    let second = follower.hold_segment(segment).unwrap();
    drop(held);
    assert!(!store.object_is_leased(id).unwrap());
    assert!(store.segment_is_leased(segment).unwrap());
    drop(second);
    assert!(!store.segment_is_leased(segment).unwrap());
    let nothing = follower.hold(|_| Ok(None::<((), Vec<ObjectId>)>));
    assert!(nothing.unwrap().is_none());
    let gone = follower.hold_segment(SegmentId(99));
    assert!(matches!(gone, Err(StoreError::NoSegment(_))));
}

/// Mounts a read-only view of a directory, unmounted in the end whatever happens.
fn read_only_mount(of: &Path, at: &Path) -> Keeper {
    let run = |arguments: &[&std::ffi::OsStr]| {
        let status = std::process::Command::new("mount").args(arguments).status();
        assert!(status.unwrap().success());
    };
    fs::create_dir(at).unwrap();
    let keeper = Keeper::unmount(at).unwrap();
    run(&["--bind".as_ref(), of.as_os_str(), at.as_os_str()]);
    run(&["-o".as_ref(), "remount,ro,bind".as_ref(), at.as_os_str()]);
    keeper
}

#[test]
fn reading_needs_no_permission_to_write() {
    if !pool_tests::requirements::needs(&["root"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("store");
    let store = open(&path);
    let bytes = content(1, 50);
    let id = ObjectId::of(&bytes);
    push_library(&store, "a@1", &bytes, DENSE).unwrap();
    let at = root.path().join("mount");
    let mounted = read_only_mount(&path, &at);
    let reader = StoreView::follow(&at, &root.path().join("scratch")).unwrap();
    assert_stored(&reader, &bytes);
    // The one who writes through another mount sees its leases, and it sees what is written.
    let held = reader
        .hold(|store| Ok(store.object(id)?.map(|record| (record, vec![id]))))
        .unwrap();
    assert!(held.is_some() && store.object_is_leased(id).unwrap());
    drop(held);
    assert!(!store.object_is_leased(id).unwrap());
    push_library(&store, "b@1", &content(2, 3), Placement::Sparse).unwrap();
    reader.refresh().unwrap();
    assert_stored(&reader, &content(2, 3));
    let refused = reopen(&at);
    assert!(matches!(refused, Err(StoreError::Locked { .. })));
    drop(store);
    let refused = reopen(&at).unwrap_err().to_string();
    assert!(refused.contains("Read-only"), "{refused}");

    // A published snapshot without lease file.
    drop((reader, mounted));
    fs::remove_file(path.join("leases")).unwrap();
    let at = root.path().join("mount2");
    let _mounted = read_only_mount(&path, &at);
    let reader = StoreView::follow(&at, &root.path().join("scratch")).unwrap();
    let held = reader.hold(|store| Ok(store.object(id)?.map(|record| (record, vec![id]))));
    let held = held.unwrap();
    assert!(held.is_some());
    assert_stored(&reader, &bytes);
    // Somebody comes to write to it nevertheless.
    let store = open(&path);
    reader.refresh().unwrap();
    assert!(store.object_is_leased(id).unwrap());
    drop(held);
    assert!(!store.object_is_leased(id).unwrap());
}

#[test]
fn a_superblock_that_is_no_file_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let superblock = directory.path().join("superblock");
    let put: [fn(&Path); 2] = [
        |path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
        |path| fs::create_dir(path).unwrap(),
    ];
    for put in put {
        fs::rename(&superblock, directory.path().join("aside")).unwrap();
        put(&superblock);
        let error = reopen(directory.path()).unwrap_err();
        assert!(matches!(error, StoreError::NotAStore { .. }), "{error:?}");
        assert!(error.to_string().contains("is not a file"), "{error}");
        if superblock.is_dir() {
            fs::remove_dir(&superblock).unwrap();
        } else {
            fs::remove_file(&superblock).unwrap();
        }
        fs::rename(directory.path().join("aside"), &superblock).unwrap();
    }
    drop(reopen(directory.path()).unwrap());
}

#[test]
fn where_no_store_can_be_made_is_said_of_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("notes"), "mine").unwrap();
    let odd = StoreOptions {
        segment_bytes: 3,
        ..StoreOptions::default()
    };
    for (path, options) in [
        (directory.path().to_owned(), StoreOptions::default()),
        (directory.path().join("new"), odd),
    ] {
        let error = Store::create(&path, options).map(drop).unwrap_err();
        let said = format!("no store is made in {}: ", path.display());
        assert!(error.to_string().starts_with(&said), "{error}");
    }
    assert!(!directory.path().join("new").exists());
}

#[test]
fn a_store_is_made_below_directories_that_are_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/store");
    Store::create(&path, StoreOptions::default())
        .map(drop)
        .unwrap();
    drop(reopen(&path).unwrap());
}

#[test]
fn who_may_not_read_the_index_is_not_told_to_make_it_anew() {
    if !pool_tests::requirements::needs(&["root"]) {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("store");
    drop(open(&path));
    let allow =
        |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for directory in [root.path(), &path] {
        allow(directory, 0o755);
    }
    let notes = root.path().join("notes");
    fs::create_dir(&notes).unwrap();
    allow(&notes, 0o777);
    let current = path.join("index/CURRENT");
    allow(&current, 0o600);
    let refused = as_nobody(|| {
        StoreView::follow(&path, &notes.join("f"))
            .unwrap_err()
            .to_string()
    });
    assert!(refused.contains("Permission denied"), "{refused}");
    assert!(
        refused.contains("chown") && !refused.contains("repair"),
        "{refused}"
    );
}
