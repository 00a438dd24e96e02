//! Several commits in one group: what it costs, who sees what, and what is left of it wherever it stops.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::thread;

use pool_core::digest::{ObjectId, PageId};
use pool_core::name::LibraryRef;
use pool_core::page::PAGE_SIZE;
use pool_tests::disk::Immutable;

use super::*;
use crate::Store;
use crate::manifest::{TagRecord, TokenScope};
use crate::placement::Placement;
use crate::precondition::Precondition;
use crate::prepared::{Hand, Prepared};
use crate::quota::Quota;
use crate::steps::{self, Step};
use crate::testing::{self, assert_stored, counted_store, push};
use crate::upload::{Content, Target as Named, UploadManifest};

/// Commits that come at once.
const WRITERS: u64 = 8;

/// Three pages.
fn content(seed: u64) -> Vec<u8> {
    testing::content(seed, 3)
}

fn target<'a>(name: &str, bytes: &'a [u8]) -> (Named, Content<'a>) {
    testing::library(name, bytes, Placement::Sparse)
}

type Work<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

fn work<'a, T>(work: impl FnOnce() -> T + Send + 'a) -> Work<'a, T> {
    Box::new(work)
}

/// Runs `works` in threads of their own while no group is made durable, until as many have joined one.
fn together<T: Send>(store: &Store, works: Vec<Work<'_, T>>) -> Vec<T> {
    let (count, before) = (works.len() as u64, store.groups.joined());
    let held = store.groups.hold();
    thread::scope(|scope| {
        let threads: Vec<_> = works.into_iter().map(|work| scope.spawn(work)).collect();
        pool_tests::wait::until("all have joined", || {
            store.groups.joined() == before + count
        });
        drop(held);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

fn libraries(store: &Store) -> BTreeSet<String> {
    let libraries = store.libraries().unwrap();
    libraries
        .into_iter()
        .map(|(name, _)| name.to_string())
        .collect()
}

#[test]
fn commits_that_come_at_once_share_every_sync() {
    let directory = tempfile::tempdir().unwrap();
    let (store, syncs) = counted_store(directory.path());
    let cost = |work: &dyn Fn()| {
        let before = (
            syncs.done.load(Ordering::SeqCst),
            store.generation().unwrap(),
        );
        work();
        let after = (
            syncs.done.load(Ordering::SeqCst),
            store.generation().unwrap(),
        );
        // Of segments; frames of the journal, each of which is synced, and as many batches of the index.
        (after.0 - before.0, after.1 - before.1)
    };
    let alone = cost(&|| {
        push(&store, "alone@1", &content(98)).unwrap();
    });
    assert_eq!(alone, (1, 1));
    let at_once = cost(&|| {
        let push = |nth: u64| {
            let store = &store;
            work(move || push(store, &format!("l{nth}@1"), &content(nth)).unwrap())
        };
        for summary in together(&store, (0..WRITERS).map(push).collect()) {
            assert_eq!((summary.created, summary.new_pages.0), (true, 3));
        }
    });
    assert_eq!(at_once, (1, 1));
    let names = |nth: u64| {
        let store = &store;
        work(move || {
            let library: LibraryRef = format!("l{nth}@1").parse().unwrap();
            store.pin_library(&library, true).unwrap();
        })
    };
    let pins = cost(&|| drop(together(&store, (0..WRITERS).map(names).collect())));
    assert_eq!(pins, (0, 1));
    drop(store);
    let store = testing::open(directory.path());
    for nth in 0..WRITERS {
        assert_stored(&store, &content(nth));
        let library: LibraryRef = format!("l{nth}@1").parse().unwrap();
        assert!(store.library(&library).unwrap().unwrap().pinned);
    }
}

#[test]
fn what_a_group_changes_is_seen_by_the_commits_after_it_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = counted_store(directory.path());
    let library: LibraryRef = "same@1".parse().unwrap();
    let bytes = content(1);
    let held = store.groups.hold();
    thread::scope(|scope| {
        let before = store.groups.joined();
        let first = scope.spawn(|| push(&store, "same@1", &bytes));
        pool_tests::wait::until("it has joined", || store.groups.joined() == before + 1);
        // Nobody else sees it.
        assert!(store.library(&library).unwrap().is_none());
        let others: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (target, content) = target("same@1", &bytes);
                    let absent = Precondition::absent();
                    store.when(&absent).ingest(target, &[content])
                })
            })
            .collect();
        let again = scope.spawn(|| push(&store, "other@1", &bytes));
        pool_tests::wait::until("the last has joined", || {
            store.groups.joined() == before + 2
        });
        // They wait for what they would be refused for.
        assert!(others.iter().all(|other| !other.is_finished()));
        drop(held);
        assert!(first.join().unwrap().unwrap().created);
        for other in others {
            let refused = other.join().unwrap().unwrap_err();
            assert!(
                matches!(refused, StoreError::PreconditionFailed { .. }),
                "{refused}"
            );
        }
        // Its pages are stored once.
        assert_eq!(again.join().unwrap().unwrap().new_pages.0, 0);
    });
    assert!(store.library(&library).unwrap().is_some());
}

#[test]
fn a_group_that_comes_to_nothing_fails_the_one_who_led_it() {
    let directory = tempfile::tempdir().unwrap();
    let (store, syncs) = counted_store(directory.path());
    let works = (0..WRITERS).map(|nth| {
        let store = &store;
        work(move || push(store, &format!("l{nth}@1"), &content(nth)))
    });
    syncs.to_fail.store(1, Ordering::SeqCst);
    let done = together(&store, works.collect());
    let refused = done.iter().filter(|result| result.is_err()).count();
    assert_eq!(refused, 1, "{done:?}");
    let expected: BTreeSet<_> = done
        .iter()
        .enumerate()
        .filter(|(_, result)| result.is_ok())
        .map(|(nth, _)| format!("l{nth}@1"))
        .chain(["first@1".into()])
        .collect();
    assert_eq!(libraries(&store), expected);
    // Nothing of it is used twice.
    push(&store, "after@1", &content(50)).unwrap();
    drop(store);
    let store = testing::open(directory.path());
    assert_eq!(libraries(&store).len(), expected.len() + 1);
    for (nth, result) in done.iter().enumerate() {
        if result.is_ok() {
            assert_stored(&store, &content(nth as u64));
        }
    }
    assert_stored(&store, &content(50));
    assert_stored(&store, &content(99));
}

/// What a group that came to nothing would have left under its names is charged to nobody.
#[test]
fn what_comes_to_nothing_uses_no_quota() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, syncs) = counted_store(directory.path());
    let bytes = content(1).len() as u64;
    let prefix = String::from("q");
    store.set_quotas(vec![Quota { prefix, bytes }]);
    syncs.to_fail.store(1, Ordering::SeqCst);
    push(&store, "q1@1", &content(1)).unwrap_err();
    assert_eq!(syncs.to_fail.load(Ordering::SeqCst), 0);
    assert_eq!(store.quota_use()[0].used_bytes, Some(0));
    push(&store, "q2@1", &content(2)).unwrap();
    assert_eq!(store.quota_use()[0].used_bytes, Some(bytes));
    let refused = push(&store, "q1@1", &content(1));
    assert!(matches!(refused, Err(StoreError::QuotaExceeded { .. })));
}

#[test]
fn how_much_of_a_quota_is_used_is_told_while_somebody_commits() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = counted_store(directory.path());
    let (prefix, bytes) = (String::new(), content(99).len() as u64);
    store.set_quotas(vec![Quota { prefix, bytes }]);
    let writer = store.writer();
    let (told, hear) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| told.send(store.quota_use()));
        let heard = hear.recv_timeout(pool_tests::wait::PATIENCE);
        drop(writer);
        assert_eq!(heard.unwrap()[0].used_bytes, Some(bytes));
    });
}

/// Who would be refused for what is on its way waits for what becomes of it.
#[test]
fn what_is_on_its_way_uses_a_quota_only_if_it_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, syncs) = counted_store(directory.path());
    let (first, second) = (content(1), content(2));
    let (prefix, bytes) = (String::from("q"), first.len() as u64);
    store.set_quotas(vec![Quota { prefix, bytes }]);
    let held = store.groups.hold();
    thread::scope(|scope| {
        let before = store.groups.joined();
        let joined = |count: u64| {
            pool_tests::wait::until("all have joined", || {
                store.groups.joined() == before + count
            });
        };
        let arriving = scope.spawn(|| push(&store, "q1@1", &first));
        joined(1);
        let begun = scope.spawn(|| {
            let (target, content) = target("q2@1", &second);
            let objects = vec![content.announce()];
            store
                .begin_upload(UploadManifest { target, objects })
                .map(drop)
        });
        let other = scope.spawn(|| push(&store, "other@1", &content(3)).map(drop));
        joined(2);
        assert!(!begun.is_finished());
        syncs.to_fail.store(u32::MAX, Ordering::SeqCst);
        drop(held);
        arriving.join().unwrap().unwrap_err();
        other.join().unwrap().unwrap_err();
        begun.join().unwrap().unwrap();
    });
}

/// Puts a tag into the index that nothing can be read of, past all that sees to it that there is none.
fn spoil(store: &Store, image: &str) {
    let _writer = store.writer();
    let mut batch = store.view.index.batch();
    let record = TagRecord {
        manifest: ObjectId::of(b"nothing"),
        tagged_at: 0,
    };
    batch.put_tag(&image.parse().unwrap(), &record, None);
    batch.commit().unwrap();
}

/// However much there is under names that quotas are about.
#[test]
fn only_what_may_have_changed_is_counted_again() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, syncs) = counted_store(directory.path());
    let page = content(1).len() as u64;
    let (prefix, bytes) = (String::from("q"), 2 * page);
    store.set_quotas(vec![Quota { prefix, bytes }]);
    // Whoever looks at it again fails.
    spoil(&store, "q:spoilt");
    let used = || store.quota_use()[0].used_bytes;
    syncs.to_fail.store(1, Ordering::SeqCst);
    push(&store, "q1@1", &content(1)).unwrap_err();
    assert_eq!(used(), Some(0));
    push(&store, "q2@1", &content(2)).unwrap();
    push(&store, "q3@1", &content(3)).unwrap();
    assert_eq!(used(), Some(2 * page));
    let collection = store.begin_collection().unwrap();
    let unused = ["q2@1".parse().unwrap()];
    let deleted = collection.delete_libraries(&unused, u64::MAX).unwrap();
    assert_eq!(deleted, unused);
    drop(collection);
    assert_eq!(used(), Some(page));
    push(&store, "q4@1", &content(4)).unwrap();
}

#[test]
fn what_cannot_be_counted_lets_nothing_grow_and_keeps_nothing_else_away() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = counted_store(directory.path());
    push(&store, "q1@1", &content(1)).unwrap();
    spoil(&store, "q:spoilt");
    let (prefix, bytes) = (String::from("q"), u64::MAX);
    store.set_quotas(vec![Quota { prefix, bytes }]);
    assert_eq!(store.quota_use()[0].used_bytes, None);
    let refused = push(&store, "q2@1", &content(2));
    assert!(
        matches!(refused, Err(StoreError::Corrupt(_))),
        "{refused:?}"
    );
    push(&store, "r@1", &content(2)).unwrap();
    push(&store, "q1@1", &content(1)).unwrap();
    let library: LibraryRef = "q1@1".parse().unwrap();
    store.pin_library(&library, true).unwrap();
    store.pin_library(&library, false).unwrap();
    store.delete_library(&library).unwrap();
}

#[test]
fn a_leader_is_not_told_of_what_others_have_written() {
    let directory = tempfile::tempdir().unwrap();
    let (store, syncs) = counted_store(directory.path());
    let page = &content(1)[..PAGE_SIZE as usize];
    let mut upload = Prepared::new(&store).unwrap();
    let ids = [PageId::of(page)];
    upload.write_pages(&mut Hand::Free, &ids, &[page]).unwrap();
    let part = Part {
        changes: store.view.index.batch().into_changes(),
        pending: Arc::default(),
        written: upload.written(),
        recorded: Vec::new(),
    };
    let writer = store.joining();
    let place = store
        .groups
        .join(&store.view.index, &store.groups.sight(), part)
        .unwrap();
    drop(writer);
    upload.joined(&place);
    syncs.to_fail.store(1, Ordering::SeqCst);
    // It leads, and writes no page.
    let library: LibraryRef = "first@1".parse().unwrap();
    store.pin_library(&library, true).unwrap();
    assert_eq!(syncs.to_fail.load(Ordering::SeqCst), 0);
    assert!(store.library(&library).unwrap().unwrap().pinned);
    let told = store.groups.wait(&store.view.index, &place);
    assert!(matches!(told, Err(Failed::Other)), "{told:?}");
}

#[test]
fn what_is_durable_keeps_its_pages_when_it_cannot_be_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = counted_store(directory.path());
    let push = |nth: u64| push(&store, &format!("l{nth}@1"), &content(nth));
    let Some(frozen) = Immutable::new(&directory.path().join("generation")).unwrap() else {
        return;
    };
    let works = (0..WRITERS).map(|nth| work(move || push(nth)));
    for told in together(&store, works.collect()) {
        assert!(matches!(told, Err(StoreError::InDoubt { .. })), "{told:?}");
    }
    drop(frozen);
    for nth in 0..WRITERS {
        let again = push(nth).unwrap();
        assert_eq!((again.created, again.new_pages.0), (false, 0));
        assert_stored(&store, &content(nth));
    }
}

/// What a process that is killed leaves is what others see in its directory.
#[test]
fn a_group_is_there_whole_or_not_at_all_wherever_it_stops() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let (store, _) = counted_store(&directory);
    // Tables would go while they are copied.
    let kept = store.view.index.keep_files().unwrap();
    let copy_to = |step: Step| root.path().join(format!("{step:?}"));
    let works = (0..4).map(|nth: u64| {
        let (store, from, root) = (&store, directory.clone(), root.path().to_path_buf());
        work(move || {
            // Whoever leads.
            steps::at_each(move |step| {
                // Several plan at a time.
                if step < Step::Taken {
                    return;
                }
                let to = root.join(format!("{step:?}"));
                let mut copy = Command::new("cp");
                copy.args(["-a", "--sparse=always"]).arg(&from).arg(&to);
                assert!(copy.status().unwrap().success());
            });
            if nth == 3 {
                let secret = ObjectId::of(b"secret");
                store.add_token("token", secret, TokenScope::Read).unwrap();
            } else {
                push(store, &format!("l{nth}@1"), &content(nth)).unwrap();
            }
        })
    });
    together(&store, works.collect());
    drop(kept);
    drop(store);
    for step in [
        Step::Taken,
        Step::Synced,
        Step::Framed,
        Step::Put,
        Step::Marked,
    ] {
        assert!(copy_to(step).exists(), "{step:?}: the group was not one");
        let store = testing::open(&copy_to(step));
        let expected = if step >= Step::Framed { 5 } else { 1 };
        let found = libraries(&store).len() + store.tokens().unwrap().len();
        assert_eq!(found, expected, "{step:?}");
        for nth in 0..expected as u64 - 1 {
            if nth < 3 {
                assert_stored(&store, &content(nth));
            }
        }
        push(&store, "after@1", &content(50)).unwrap();
        assert_stored(&store, &content(50));
        assert_stored(&store, &content(99));
        drop(store);
        fs::remove_dir_all(copy_to(step)).unwrap();
    }
}
