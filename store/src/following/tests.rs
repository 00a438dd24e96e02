//! A follower has what the writer has, whichever way it learns of it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pool_core::digest::{ObjectId, PageId};
use proptest::prelude::*;

use crate::manifest::TokenScope;
use crate::testing::{content, open, push, unlocked};
use crate::{Store, StoreOptions, StoreView};

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

/// One whose frame is too large to be kept in memory.
fn large_token(store: &Store) {
    token(store, &"x".repeat(2 << 20));
}

fn assert_same(store: &Store, view: &StoreView) {
    view.refresh().unwrap();
    let written = store.snapshot().everything();
    assert!(view.snapshot().everything() == written);
    // By single questions, too, and by many at once.
    let ids: Vec<PageId> = written
        .iter()
        .filter(|(family, ..)| *family == "pages")
        .map(|(_, key, _)| PageId(key.as_slice().try_into().unwrap()))
        .chain([PageId::of(b"none")])
        .collect();
    let of = |store: &StoreView| {
        let single: Vec<_> = ids.iter().map(|id| store.page(id).unwrap()).collect();
        assert_eq!(store.snapshot().pages(&ids).unwrap(), single);
        single
    };
    assert_eq!(of(view), of(store));
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
fn what_is_too_large_is_the_indexs_to_tell_and_the_journal_is_found_again() {
    let (_directories, store, view) = followed();
    large_token(&store);
    assert_same(&store, &view);
    assert!(!view.knows_the_journal());
    token(&store, "a");
    assert_same(&store, &view);
    view.settle().unwrap();
    assert!(view.knows_the_journal());
    token(&store, "b");
    assert_same(&store, &view);
    assert!(view.knows_the_journal());
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
    let (directories, store, view) = followed();
    let at = directories.0.path();
    let mark = at.join("generation");
    drop(store);
    let copy = at.with_extension("copy");
    let copied = std::process::Command::new("cp")
        .args(["-a"])
        .args([at, &copy])
        .status();
    assert!(copied.unwrap().success());
    let store = open(at);
    push(&store, "a@1", &content(2, 20)).unwrap();
    assert_same(&store, &view);
    drop(store);
    fs::remove_dir_all(at.join("index")).unwrap();
    fs::remove_dir_all(at.join("journal")).unwrap();
    fs::remove_file(&mark).unwrap();
    for name in ["index", "journal", "generation"] {
        fs::rename(copy.join(name), at.join(name)).unwrap();
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
