//! The mark that cannot be written, and what may lie in its place.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{assert_stored, content, library_ref, open, push_library};
use pool_core::digest::ObjectId;
use pool_store::placement::Placement;
use pool_store::{Store, StoreError, StoreOptions, StoreView};
use pool_tests::disk::Immutable;
use pool_tests::requirements::needs;
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn reopen(directory: &Path) -> Result<Store, StoreError> {
    Store::open(directory, StoreOptions::default())
}

#[test]
fn a_change_whose_mark_cannot_be_written_is_not_acknowledged() {
    if !needs(&["root"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("generation");
    let store = open(directory.path());
    let (known, doubtful, later) = (content(1, 10), content(2, 600), content(3, 10));
    let push = |name: &str, bytes: &[u8]| push_library(&store, name, bytes, Placement::Sparse);
    push("known@1", &known).unwrap();
    let generation = store.generation().unwrap();

    let Some(frozen) = Immutable::new(&mark).unwrap() else {
        return;
    };
    let error = push("doubtful@1", &doubtful).unwrap_err();
    assert!(matches!(error, StoreError::InDoubt { .. }), "{error:?}");
    for words in ["generation", "not acknowledged", "ask for the change again"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    // It is made nevertheless, and nothing takes its slots.
    assert_stored(&store, &doubtful);
    assert_eq!(store.generation().unwrap(), generation);
    let before = store.segments().unwrap();
    for name in ["later@1", "doubtful@1"] {
        let bytes = if name == "later@1" { &later } else { &doubtful };
        let error = push(name, bytes).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{name}: {error:?}");
    }
    let error = store.pin_library(&library_ref("known@1"), true);
    assert!(matches!(error, Err(StoreError::Io { .. })), "{error:?}");
    assert!(store.library(&library_ref("later@1")).unwrap().is_none());
    assert!(
        !store
            .library(&library_ref("known@1"))
            .unwrap()
            .unwrap()
            .pinned
    );
    assert_eq!(store.segments().unwrap(), before);
    drop(store);
    let error = reopen(directory.path()).unwrap_err();
    assert!(error.to_string().contains("chattr -i"), "{error}");

    drop(frozen);
    let store = reopen(directory.path()).unwrap();
    assert_eq!(store.generation().unwrap(), generation + 1);
    let push = |name: &str, bytes: &[u8]| push_library(&store, name, bytes, Placement::Sparse);
    assert!(!push("doubtful@1", &doubtful).unwrap().created);
    push("later@1", &later).unwrap();
    for bytes in [&known, &doubtful, &later] {
        assert_stored(&store, bytes);
    }
}

#[test]
fn a_repeated_change_is_acknowledged_once_the_mark_can_be_written() {
    if !needs(&["root"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    // With a segment to append to: a new one is a change of its own, and this one's mark fails first.
    push_library(&store, "known@1", b"known", Placement::Sparse).unwrap();
    let bytes = content(1, 10);
    let push = || push_library(&store, "new@1", &bytes, Placement::Sparse);
    let Some(frozen) = Immutable::new(&directory.path().join("generation")).unwrap() else {
        return;
    };
    let generation = store.generation().unwrap();
    assert!(matches!(push(), Err(StoreError::InDoubt { .. })));
    drop(frozen);
    assert!(!push().unwrap().created);
    assert!(store.generation().unwrap() > generation);
    let scratch = directory.path().join("scratch");
    let reader = StoreView::follow(directory.path(), &scratch).unwrap();
    assert_stored(&reader, &bytes);
}

/// What lies where the mark should, and what the refusal says.
type Impostor = (fn(&Path), &'static str);

const IMPOSTORS: [Impostor; 4] = [
    (|path| fs::create_dir(path).unwrap(), "is a directory"),
    (
        |path| symlink("/nowhere/generation", path).unwrap(),
        "is a link to /nowhere/generation, which is not there",
    ),
    (
        |path| mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
        "is a pipe",
    ),
    (
        |path| drop(UnixListener::bind(path).unwrap()),
        "is a socket",
    ),
];

#[test]
fn what_is_no_file_in_place_of_the_mark_is_refused_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    let store = open(&path("store"));
    push_library(&store, "known@1", b"known", Placement::Sparse).unwrap();
    drop(store);
    let mark = path("store/generation");
    fs::rename(&mark, path("aside")).unwrap();
    for (put, words) in IMPOSTORS {
        put(&mark);
        let opened = reopen(&path("store")).map(drop);
        let followed = StoreView::follow(&path("store"), &path("scratch")).map(drop);
        for result in [opened, followed] {
            let error = result.unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
            let said = error.to_string();
            assert!(
                said.contains(words) && said.contains("put the file back"),
                "{said}"
            );
        }
        // Nothing was put in its place, nor made where a link points.
        let found = fs::symlink_metadata(&mark).unwrap();
        assert!(!found.is_file(), "{words}");
        if found.is_dir() {
            fs::remove_dir(&mark).unwrap();
        } else {
            fs::remove_file(&mark).unwrap();
        }
    }
    fs::rename(path("aside"), &mark).unwrap();
    assert_stored(&reopen(&path("store")).unwrap(), b"known");
}

#[test]
fn a_follower_goes_by_the_mark_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    push_library(&store, "old@1", b"old", Placement::Sparse).unwrap();
    let scratch = directory.path().join("scratch");
    let reader = StoreView::follow(directory.path(), &scratch).unwrap();
    drop(store);
    // As somebody puts it back who is told to.
    let mark = directory.path().join("generation");
    fs::rename(&mark, directory.path().join("aside")).unwrap();
    reader.refresh().unwrap();
    fs::copy(directory.path().join("aside"), &mark).unwrap();
    let store = reopen(directory.path()).unwrap();
    push_library(&store, "new@1", b"new", Placement::Sparse).unwrap();
    reader.refresh().unwrap();
    assert_stored(&reader, b"new");
}

#[test]
fn a_follower_goes_by_the_store_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { directory.path().join(name) };
    // Two states of one store, after as many commits, with something else in the same slots.
    let push = |store: &Store, name: &str, seed| {
        let bytes = content(seed, 3);
        push_library(store, name, &bytes, Placement::Sparse).unwrap();
        bytes
    };
    let store = open(&path("store"));
    push(&store, "both@1", 1);
    drop(store);
    assert!(
        Command::new("cp")
            .arg("-a")
            .args([path("store"), path("older")])
            .status()
            .unwrap()
            .success()
    );
    let store = reopen(&path("store")).unwrap();
    let gone = push(&store, "gone@1", 2);
    let reader = StoreView::follow(&path("store"), &path("scratch")).unwrap();
    assert_stored(&reader, &gone);
    let record = reader.object(ObjectId::of(&gone)).unwrap().unwrap();
    let extents = record.map.extents().iter().copied();
    let segments = reader.open_segments(extents).unwrap();
    drop(store);

    fs::rename(path("store"), path("newer")).unwrap();
    fs::rename(path("older"), path("store")).unwrap();
    let store = reopen(&path("store")).unwrap();
    let new = push(&store, "new@1", 3);
    reader.refresh().unwrap();
    assert_eq!(reader.libraries().unwrap(), store.libraries().unwrap());
    assert_stored(&reader, &new);
    let read = reader.read_through(&segments, &record.map, 0, gone.len());
    let read = read.unwrap();
    assert!(read == gone, "what was open is what it was");
}
