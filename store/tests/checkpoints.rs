//! Checkpoints of the journal: written whole or not at all, and nothing of an attempt stays.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use closed::{
    add_token, assert_told, copy, example, gone, journal_files, newest_log, places, put_index,
    reopen, told,
};
use common::{content, open, push_library};
use pool_store::StoreView;
use pool_store::placement::Placement;

#[test]
fn no_attempt_at_a_checkpoint_leaves_a_log_of_its_own() {
    let path = places();
    let store = open(&path("store"));
    let name = |nth: u32| format!("{nth}{}", "x".repeat(2 << 20));
    for nth in 0..9 {
        add_token(&store, &name(nth)).unwrap();
    }
    for attempt in 0..4 {
        add_token(&store, &format!("more{attempt}")).unwrap();
        let commits = store.generation().unwrap();
        let in_the_way = path("store").join(format!("journal/{commits:016x}.checkpoint.new"));
        fs::create_dir(&in_the_way).unwrap();
        store.checkpoint_if_due().unwrap_err();
        fs::remove_dir(in_the_way).unwrap();
        assert_eq!(journal_files(&path("store"), "log").len(), 2, "{attempt}");
    }
    assert!(store.checkpoint_if_due().unwrap());
    for end in ["log", "checkpoint"] {
        assert_eq!(journal_files(&path("store"), end).len(), 1, "{end}");
    }
    assert!(!store.checkpoint_if_due().unwrap());
    add_token(&store, "last").unwrap();
    let whole = told(&store);
    drop(store);
    assert_told(&path("store"), &whole);
}

#[test]
fn what_a_kill_left_unfinished_goes_with_the_next_opening_and_nothing_else() {
    let path = places();
    example(&path("store"));
    let whole = told(&reopen(&path("store")).unwrap());
    let journal = path("store/journal");
    let unfinished = [
        "00000000000000ff.checkpoint.new",
        "00000000000000ff.log.new",
    ];
    // Not of such a name, not a file, or nothing of this store's.
    let others = [
        "ff.checkpoint.new",
        "00000000000000FF.checkpoint.new",
        "00000000000000ff.new",
        "00000000000000ff.checkpoint.new.old",
        "notes",
    ];
    for name in unfinished.iter().chain(&others) {
        fs::write(journal.join(name), b"half").unwrap();
    }
    let directory = journal.join("00000000000000fe.checkpoint.new");
    fs::create_dir(&directory).unwrap();
    // A reader leaves them.
    drop(StoreView::follow(&path("store"), &path("scratch")).unwrap());
    for name in unfinished {
        assert!(journal.join(name).exists(), "{name}");
    }
    for _ in 0..2 {
        assert_told(&path("store"), &whole);
        for name in unfinished {
            assert!(!journal.join(name).exists(), "{name}");
        }
        for name in others {
            assert_eq!(fs::read(journal.join(name)).unwrap(), b"half", "{name}");
        }
        assert!(directory.is_dir());
    }
    // Nor does a checkpoint take them.
    let store = reopen(&path("store")).unwrap();
    assert!(store.checkpoint().unwrap());
    for name in others {
        assert_eq!(fs::read(journal.join(name)).unwrap(), b"half", "{name}");
    }
    assert!(directory.is_dir());
}

#[test]
fn a_checkpoint_that_is_cut_at_any_step_loses_nothing() {
    let path = places();
    example(&path("store"));
    copy(&path("store/index"), &path("old"));
    let store = open(&path("store"));
    push_library(&store, "a@1", &content(50, 3), Placement::Sparse).unwrap();
    copy(&path("store/journal"), &path("before"));
    assert!(store.checkpoint().unwrap());
    let whole = told(&store);
    drop(store);
    copy(&path("store/journal"), &path("after"));
    let name = |file: PathBuf| file.file_name().unwrap().to_owned();
    let log = name(newest_log(&path("store")));
    let checkpoint = name(journal_files(&path("store"), "checkpoint").remove(0));
    let unfinished = |name: &std::ffi::OsStr| {
        let mut name = name.to_owned();
        name.push(".new");
        name
    };
    let bytes = |name: &std::ffi::OsStr| fs::read(path("after").join(name)).unwrap();
    for step in 0..6 {
        gone(&path("store/journal"));
        copy(&path("before"), &path("store/journal"));
        let put = |name: &std::ffi::OsStr, bytes: &[u8]| {
            fs::write(path("store/journal").join(name), bytes).unwrap();
        };
        if step == 0 {
            put(&unfinished(&log), &bytes(&log)[..70]);
        }
        if step >= 1 {
            put(&log, &bytes(&log));
        }
        if step == 2 {
            put(&unfinished(&checkpoint), &bytes(&checkpoint)[..200]);
        }
        if step >= 3 {
            put(&checkpoint, &bytes(&checkpoint));
        }
        if step >= 4 {
            gone(&journal_files(&path("store"), "log")[0]);
        }
        if step >= 5 {
            gone(&journal_files(&path("store"), "checkpoint")[0]);
        }
        let index = if step < 3 {
            path("old")
        } else {
            path("store/index")
        };
        if step < 3 {
            put_index(&path("store"), &index);
        }
        let store = reopen(&path("store")).unwrap();
        assert_eq!(told(&store), whole, "step {step}");
        add_token(&store, "more").unwrap();
        assert!(store.checkpoint().unwrap());
        store.delete_token("more").unwrap();
        drop(store);
        let store = reopen(&path("store")).unwrap();
        assert_eq!(told(&store), whole, "step {step}");
        assert_eq!(journal_files(&path("store"), "checkpoint").len(), 1);
        drop(store);
        // Each step begins with the store as it was.
        put_index(&path("store"), &path("old"));
        gone(&path("store/journal"));
        copy(&path("before"), &path("store/journal"));
        fs::write(path("store/generation"), [0; 8]).unwrap();
        drop(reopen(&path("store")).unwrap());
    }
}

#[test]
fn checkpoints_that_cannot_be_written_do_not_fill_the_disk() {
    let path = places();
    let store = open(&path("store"));
    for nth in 0..8 {
        add_token(&store, &format!("t{nth}")).unwrap();
        // In the way of the file that is made first.
        let commits = store.generation().unwrap();
        let new = format!("store/journal/{commits:016x}.checkpoint.new");
        fs::create_dir(path(&new)).unwrap();
        assert!(store.checkpoint().is_err());
    }
    let logs = journal_files(&path("store"), "log");
    assert_eq!(logs.len(), 9);
    let blocks = logs.iter().map(|log| fs::metadata(log).unwrap().blocks());
    assert!(blocks.sum::<u64>() * 512 < 4 << 20);
    let whole = told(&store);
    drop(store);
    let store = reopen(&path("store")).unwrap();
    assert_eq!(told(&store), whole);
    add_token(&store, "more").unwrap();
    assert!(store.checkpoint().unwrap());
    assert_eq!(journal_files(&path("store"), "log").len(), 1);
}
