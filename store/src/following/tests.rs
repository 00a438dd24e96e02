//! A follower has what the writer has, whichever way it learns of it.

#[path = "../../tests/failing/mod.rs"]
mod failing;
mod reopening;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pool_core::digest::{ObjectId, PageId};
use pool_core::page::{PAGE_SIZE, PageCount};
use pool_tests::wait;
use proptest::prelude::*;

use crate::error::{Result, StoreError};
use crate::manifest::TokenScope;
use crate::steps::{self, Step};
use crate::testing::{content, open, push, unlocked};
use crate::{Store, StoreOptions, StoreView};

type Record = (&'static str, Vec<u8>, Vec<u8>);
type Directories = (tempfile::TempDir, tempfile::TempDir);

/// A store with something in it, and who follows it closely.
fn followed() -> (Directories, Store, StoreView) {
    let directories = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(directories.0.path());
    push(&store, "first@1", &content(1, 20)).unwrap();
    let view = StoreView::follow_closely(directories.0.path(), directories.1.path()).unwrap();
    assert!(view.knows_the_journal());
    (directories, store, view)
}

fn token(store: &Store, name: &str) {
    let secret = ObjectId::of(name.as_bytes());
    store.add_token(name, secret, TokenScope::Read).unwrap();
}

fn assert_same(store: &Store, view: &StoreView) {
    view.refresh().unwrap();
    let mut written = store.snapshot().everything();
    written.retain(|(family, ..)| !matches!(*family, "pages" | "windows"));
    let shown = view.snapshot().everything();
    let keys = |one: &[Record], other: &[Record]| -> Vec<_> {
        let differ = one.iter().filter(|record| !other.contains(record));
        differ
            .map(|(family, key, _)| (*family, key.escape_ascii().to_string()))
            .collect()
    };
    let (missing, wrong) = (keys(&written, &shown), keys(&shown, &written));
    assert!(
        shown == written,
        "{missing:?} are not shown, and {wrong:?} are"
    );
    // By single questions, too.
    let objects = written.iter().filter(|(family, ..)| *family == "objects");
    for (_, id, _) in objects {
        let id = ObjectId(id.as_slice().try_into().unwrap());
        assert_eq!(view.object(id).unwrap(), store.object(id).unwrap());
    }
    assert_eq!(
        view.snapshot().commits().unwrap(),
        store.generation().unwrap()
    );
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Push(u8),
    Delete(u8),
    Token(u8),
    LargeToken,
    Checkpoint,
    Collect,
    Reopen,
    Look,
    Settle,
    Follow,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0..6u8).prop_map(Deed::Push),
        4 => (0..6u8).prop_map(Deed::Delete),
        2 => (0..6u8).prop_map(Deed::Token),
        1 => Just(Deed::LargeToken),
        1 => Just(Deed::Checkpoint),
        1 => Just(Deed::Collect),
        1 => Just(Deed::Reopen),
        5 => Just(Deed::Look),
        5 => Just(Deed::Settle),
        1 => Just(Deed::Follow),
    ]
}

/// Deletes all objects that no library has, and their pages.
fn collect(store: &Store) {
    let used: Vec<_> = store.libraries().unwrap();
    let used: Vec<ObjectId> = used.iter().map(|(_, record)| record.object).collect();
    let mut unused = Vec::new();
    let all = store.snapshot();
    all.for_each_object(|id, _| {
        unused.extend((!used.contains(&id)).then_some(id));
        Ok(())
    })
    .unwrap();
    drop(all);
    let collection = store.begin_collection().unwrap();
    collection.delete_objects(&unused).unwrap();
    drop(collection);
    store.reap().unwrap();
}

fn run(deeds: &[Deed]) {
    let (directories, mut store, mut view) = followed();
    for (nth, deed) in deeds.iter().enumerate() {
        let library = |which: u8| format!("l{which}@1");
        match *deed {
            Deed::Push(which) => {
                let bytes = content(u64::from(which) + 10, 10 + usize::from(which));
                // Or there is one of another content.
                let _ = push(&store, &library(which), &bytes);
            }
            Deed::Delete(which) => {
                // Or there is none.
                let _ = store.delete_library(&library(which).parse().unwrap());
            }
            Deed::Token(which) => token(&store, &format!("t{which}-{nth}")),
            Deed::LargeToken => {
                token(&store, &format!("{nth}{}", "x".repeat(2 << 20)));
            }
            Deed::Checkpoint => {
                store.checkpoint().unwrap();
            }
            Deed::Collect => collect(&store),
            Deed::Reopen => {
                drop(store);
                store = open(directories.0.path());
            }
            Deed::Look => assert_same(&store, &view),
            Deed::Settle => view.settle().unwrap(),
            Deed::Follow => {
                drop(view);
                let (store, notes) = (directories.0.path(), directories.1.path());
                view = StoreView::follow_closely(store, notes).unwrap();
            }
        }
    }
    assert_same(&store, &view);
    view.settle().unwrap();
    assert!(view.knows_the_journal(), "it is found again");
    assert_same(&store, &view);
    push(&store, "last@1", &content(9, 9)).unwrap();
    assert_same(&store, &view);
    assert!(view.knows_the_journal());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_follower_has_what_the_writer_has(deeds in prop::collection::vec(deed(), 1..40)) {
        run(&deeds);
    }
}

#[test]
fn commits_are_learnt_from_the_journal_and_the_index_follows() {
    let (_directories, store, view) = followed();
    let state = || view.snapshot().state().unwrap();
    let before = state();
    push(&store, "a@1", &content(2, 20)).unwrap();
    assert_eq!(state(), before, "nobody has asked");
    assert_same(&store, &view);
    assert_eq!(state(), before + 1);
    view.settle().unwrap();
    assert_eq!(state(), before + 1, "it is the same state");
    assert_same(&store, &view);
    // More at once than are kept beside the index.
    for nth in 0..200 {
        token(&store, &format!("t{nth}"));
    }
    assert_same(&store, &view);
    token(&store, "last");
    assert_same(&store, &view);
    assert!(view.knows_the_journal());
    assert_eq!(state(), before + 202);
}

#[test]
fn a_new_log_is_gone_on_with() {
    let (_directories, store, view) = followed();
    for nth in 0..3 {
        store.checkpoint().unwrap();
        token(&store, &format!("t{nth}"));
        assert_same(&store, &view);
        assert!(view.knows_the_journal());
    }
    // One that nobody has read goes with the next checkpoint.
    store.checkpoint().unwrap();
    token(&store, "unread");
    store.checkpoint().unwrap();
    token(&store, "last");
    assert_same(&store, &view);
    assert!(!view.knows_the_journal());
    view.settle().unwrap();
    assert!(view.knows_the_journal());
    assert_same(&store, &view);
}

#[test]
fn what_is_too_large_is_the_indexs_to_tell() {
    let (_directories, store, view) = followed();
    for length in [60 << 10, 70 << 10, 2 << 20] {
        token(&store, &format!("before {length}"));
        token(&store, &"x".repeat(length));
        assert_same(&store, &view);
        assert!(view.knows_the_journal(), "{length}");
        token(&store, &format!("after {length}"));
        assert_same(&store, &view);
        view.settle().unwrap();
        assert_same(&store, &view);
        assert!(view.knows_the_journal(), "{length}");
    }
}

#[test]
fn a_reader_inside_goes_on_with_what_there_was() {
    let (_directories, store, view) = followed();
    view.refresh().unwrap();
    let inside = view.snapshot();
    let whole = inside.everything();
    let (_, reads) = inside
        .noting(|| inside.library(&"a@1".parse().unwrap()))
        .unwrap();
    push(&store, "a@1", &content(2, 20)).unwrap();
    // It waits for nobody.
    view.refresh().unwrap();
    assert!(inside.everything() == whole);
    let now = view.snapshot();
    let state = inside.state().unwrap();
    assert!(now.everything() != whole && !now.keeps(&reads, state));
    let (_, others) = inside
        .noting(|| inside.library(&"b@1".parse().unwrap()))
        .unwrap();
    assert!(now.keeps(&others, state));
    let (_, all) = inside.noting(|| inside.libraries()).unwrap();
    let (_, tags) = inside.noting(|| inside.tags()).unwrap();
    assert!(!now.keeps(&all, state) && now.keeps(&tags, state));
    drop((inside, now));
    assert_same(&store, &view);
}

#[test]
fn a_journal_that_tells_nothing_is_no_loss() {
    for (name, spoil) in [
        ("gone", (|log| fs::remove_file(log).unwrap()) as fn(&Path)),
        ("cut", |log| {
            let file = fs::OpenOptions::new().write(true).open(log).unwrap();
            file.set_len(200).unwrap();
        }),
        ("zeros", |log| {
            let length = fs::metadata(log).unwrap().len();
            fs::write(log, vec![0; length as usize]).unwrap();
        }),
        ("another", |log| {
            let mut bytes = fs::read(log).unwrap();
            let half = bytes.len() / 2;
            bytes[200..half].iter_mut().for_each(|byte| *byte ^= 0x55);
            fs::write(log, bytes).unwrap();
        }),
    ] {
        let (directories, store, view) = followed();
        push(&store, "a@1", &content(2, 20)).unwrap();
        let journal = directories.0.path().join("journal");
        for entry in fs::read_dir(journal).unwrap() {
            let path = entry.unwrap().path();
            if path.extension() == Some("log".as_ref()) {
                spoil(&path);
            }
        }
        assert_same(&store, &view);
        push(&store, "b@1", &content(3, 20)).unwrap();
        assert_same(&store, &view);
        view.settle().unwrap();
        assert_same(&store, &view);
        drop(view);
        let (store_at, notes) = (directories.0.path(), directories.1.path());
        let view = StoreView::follow_closely(store_at, notes).unwrap();
        assert_same(&store, &view);
        assert!(name != "zeros" || !view.knows_the_journal());
    }
}

#[test]
fn a_copy_in_the_stores_place_is_followed_however_old() {
    // What tells the commits is replaced as a file is, or overwritten.
    for replaces in [true, false] {
        let (directories, store, view) = followed();
        let at = directories.0.path();
        let mark = at.join("generation");
        drop(store);
        let copy = at.with_extension("copy");
        let mut command = std::process::Command::new("cp");
        assert!(
            command
                .arg("-a")
                .args([at, &copy])
                .status()
                .unwrap()
                .success()
        );
        let store = open(at);
        push(&store, "a@1", &content(2, 20)).unwrap();
        assert_same(&store, &view);
        drop(store);
        for name in ["index", "journal"] {
            fs::remove_dir_all(at.join(name)).unwrap();
            fs::rename(copy.join(name), at.join(name)).unwrap();
        }
        if replaces {
            fs::rename(copy.join("generation"), &mark).unwrap();
        } else {
            fs::write(&mark, fs::read(copy.join("generation")).unwrap()).unwrap();
        }
        fs::remove_dir_all(&copy).unwrap();
        let store = unlocked(|| Store::open(at, StoreOptions::default())).unwrap();
        assert_same(&store, &view);
        push(&store, "b@1", &content(3, 20)).unwrap();
        assert_same(&store, &view);
        view.settle().unwrap();
        assert!(view.knows_the_journal());
        assert_same(&store, &view);
    }
}

/// One sees a store in one state, whoever else has it catch up meanwhile.
#[test]
fn readers_writers_and_who_settles_do_not_get_in_each_others_way() {
    let (_directories, store, view) = followed();
    let done = AtomicBool::new(false);
    let goes_on = || !done.load(Ordering::Relaxed);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0;
                while goes_on() {
                    view.refresh().unwrap();
                    let snapshot = view.snapshot();
                    let commits = snapshot.commits().unwrap();
                    assert!(commits >= last);
                    last = commits;
                    for (library, record) in snapshot.libraries().unwrap() {
                        let object = snapshot.object(record.object).unwrap();
                        assert!(object.is_some(), "{library}");
                    }
                    assert_eq!(snapshot.commits().unwrap(), commits);
                }
            });
        }
        scope.spawn(|| {
            while goes_on() {
                view.settle().unwrap();
                thread::yield_now();
            }
        });
        for nth in 0..120 {
            let name = format!("l{}@1", nth % 7);
            push(&store, &name, &content(20 + nth % 7, 10)).unwrap();
            store.delete_library(&name.parse().unwrap()).unwrap();
            if nth % 40 == 0 {
                store.checkpoint().unwrap();
                collect(&store);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_same(&store, &view);
}

#[test]
fn who_settles_beside_a_long_reader_keeps_others_from_nothing() {
    let (_directories, store, view) = followed();
    let inside = view.snapshot();
    push(&store, "a@1", &content(2, 20)).unwrap();
    let (begun, settled) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            begun.store(true, Ordering::Relaxed);
            view.settle().unwrap();
            settled.store(true, Ordering::Relaxed);
        });
        while !begun.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        for nth in 0..20 {
            token(&store, &format!("t{nth}"));
            view.refresh().unwrap();
            assert_eq!(
                view.snapshot().commits().unwrap(),
                store.generation().unwrap()
            );
        }
        assert!(!settled.load(Ordering::Relaxed));
        drop(inside);
    });
    assert_same(&store, &view);
}

#[test]
fn what_was_taken_back_is_not_taken_for_what_counts() {
    let (_directories, store, view) = followed();
    token(&store, "before");
    assert_same(&store, &view);
    // The index has it in its log, and could not sync that.
    let refused = thread::scope(|scope| {
        let refused = scope.spawn(|| {
            steps::at_each(|step| {
                if step == Step::Framed {
                    failing::fail(libc::SYS_fdatasync, libc::ENOSPC);
                }
            });
            store.add_token("refused", ObjectId::of(b"refused"), TokenScope::Read)
        });
        refused.join().unwrap()
    });
    assert!(refused.is_err());
    view.settle().unwrap();
    let shown = view.snapshot();
    let (_, reads) = shown.noting(|| shown.tokens()).unwrap();
    let before = shown.state().unwrap();
    drop(shown);
    // RocksDB goes on by itself, a few seconds later.
    wait::until("the index takes a write again", || {
        let secret = ObjectId::of(b"after");
        let added = store.add_token("after", secret, TokenScope::Read);
        view.refresh().unwrap();
        added.is_ok()
    });
    assert_same(&store, &view);
    assert!(!view.snapshot().keeps(&reads, before));
    for nth in 0..3 {
        view.settle().unwrap();
        token(&store, &format!("later{nth}"));
        assert_same(&store, &view);
    }
    assert!(view.knows_the_journal());
}

#[test]
fn what_is_on_its_way_when_the_index_catches_up_counts_once_it_does() {
    let (_directories, store, view) = followed();
    let view = Arc::new(view);
    for step in [Step::Framed, Step::Put, Step::Marked] {
        let (beside, at) = (Arc::clone(&view), step);
        steps::at_each(move |step| {
            if step == at {
                beside.settle().unwrap();
                let commits = beside.snapshot().commits().unwrap();
                beside.refresh().unwrap();
                assert!(beside.snapshot().commits().unwrap() >= commits);
            }
        });
        token(&store, &format!("{step:?}"));
        steps::at_each(|_| ());
        assert_same(&store, &view);
        assert!(view.knows_the_journal(), "{step:?}");
        token(&store, &format!("after {step:?}"));
        assert_same(&store, &view);
    }
}

#[test]
fn many_commits_that_nobody_asked_for_are_the_indexs_to_tell() {
    let (_directories, store, view) = followed();
    for nth in 0..400 {
        token(&store, &format!("t{nth}"));
    }
    assert_same(&store, &view);
    assert!(!view.knows_the_journal());
    view.settle().unwrap();
    assert!(view.knows_the_journal());
    assert_same(&store, &view);
}

#[test]
fn a_log_that_goes_does_not_keep_its_disk() {
    let (directories, store, view) = followed();
    for nth in 0..3 {
        token(&store, &format!("t{nth}"));
        assert_same(&store, &view);
        store.checkpoint().unwrap();
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let open = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        let journal = directories.0.path().join("journal");
        let gone = |path: &PathBuf| {
            path.starts_with(&journal) && path.to_string_lossy().ends_with(" (deleted)")
        };
        let gone: Vec<_> = open.filter(gone).collect();
        assert!(gone.is_empty(), "{gone:?}");
    }
    token(&store, "last");
    assert_same(&store, &view);
    assert!(view.knows_the_journal());
}

#[test]
fn single_pages_are_not_followed_and_nobody_is_told_that_there_are_none() {
    let (_directories, store, view) = followed();
    // Small enough for the journal to tell, and too large.
    for length in [20, 2000] {
        let (bytes, name) = (content(length as u64, length), format!("l{length}@1"));
        push(&store, &name, &bytes).unwrap();
        let id = PageId::of(&bytes[..PAGE_SIZE as usize]);
        assert!(store.page(&id).unwrap().is_some());
        assert_same(&store, &view);
        let refused = |said: Result<()>, what| {
            let said = said.unwrap_err();
            assert!(
                matches!(said, StoreError::NotFollowed(family) if family == what),
                "{said}"
            );
        };
        let shown = view.snapshot();
        refused(view.page(&id).map(drop), "pages");
        refused(shown.page(&id).map(drop), "pages");
        refused(shown.pages(&[id]).map(drop), "pages");
        refused(shown.for_each_page(|_, _| Ok(())), "pages");
        refused(shown.for_each_window(|_, _| Ok(())), "windows");
        // How many there are says every commit.
        let stats = shown.stats().unwrap();
        assert_eq!(stats, store.stats().unwrap());
        assert!(stats.stored_pages > PageCount(0) && stats.not_counted.is_empty());
    }
}

/// Many of the families that a commit changes are not there, and tables of those come and go.
#[test]
fn what_is_not_followed_is_passed_over_wherever_it_is() {
    let (_directories, store, view) = followed();
    for nth in 0..6u8 {
        push(
            &store,
            &format!("l{nth}@1"),
            &content(u64::from(nth) + 50, 700),
        )
        .unwrap();
        assert_same(&store, &view);
        store.index.compact_pages();
        view.prepare();
        view.settle().unwrap();
        assert_same(&store, &view);
        if nth % 2 == 1 {
            store
                .delete_library(&format!("l{}@1", nth - 1).parse().unwrap())
                .unwrap();
            collect(&store);
            assert_same(&store, &view);
        }
    }
    assert!(view.knows_the_journal());
}
