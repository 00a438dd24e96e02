//! Steps of a collection among commits: what they share, what they find, and what is left when one comes to nothing.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::thread;

use pool_core::digest::{ObjectId, PageId};
use pool_core::page::PAGE_SIZE;
use pool_tests::wait;

use super::*;
use crate::damage::{DamagedSlots, Expected};
use crate::format::{LEASES_FILE, Location};
use crate::lease::LeaseTable;
use crate::placement::Placement;
use crate::steps::{self, Step};
use crate::testing::{self, assert_stored, content, counted_store, open, push};
use crate::upload::UploadManifest;

fn page_of(bytes: &[u8]) -> PageId {
    PageId::of(&bytes[..PAGE_SIZE as usize])
}

/// What is there of a page that nothing refers to any more, with the object that did gone.
fn garbage(store: &Store, bytes: &[u8]) -> (PageId, Location) {
    push(store, "dead@1", bytes).unwrap();
    store.delete_library(&"dead@1".parse().unwrap()).unwrap();
    let collection = store.begin_collection().unwrap();
    let deleted = collection.delete_objects(&[ObjectId::of(bytes)]);
    assert_eq!(deleted.unwrap(), 1);
    let id = page_of(bytes);
    (id, store.page(&id).unwrap().unwrap())
}

#[test]
fn a_step_is_made_durable_with_the_commits_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let dead = garbage(&store, &content(1, 1));
    let collection = store.begin_collection().unwrap();
    let (joined, commits) = (store.groups.joined(), store.generation().unwrap());
    let held = store.groups.hold();
    thread::scope(|scope| {
        let pushed = scope.spawn(|| push(&store, "a@1", &content(2, 3)).unwrap());
        wait::until("it has joined", || store.groups.joined() == joined + 1);
        // Somebody else sees to it that the step gets there.
        let other = scope.spawn(|| {
            wait::until("all have joined", || store.groups.joined() == joined + 2);
            drop(held);
        });
        assert_eq!(collection.delete_pages(&[dead]).unwrap(), 1);
        other.join().unwrap();
        pushed.join().unwrap();
    });
    assert_eq!(store.generation().unwrap(), commits + 1);
    assert_eq!(store.page(&dead.0).unwrap(), None);
}

/// Runs `push` while the removal of a page is on its way, which is durable only once that has joined.
fn beside_a_removal(store: &Store, dead: (PageId, Location), push: impl FnOnce() + Send) {
    let collection = store.begin_collection().unwrap();
    let joined = store.groups.joined();
    let held = store.groups.hold();
    thread::scope(|scope| {
        scope.spawn(move || {
            wait::until("the removal has joined", || {
                store.groups.joined() == joined + 1
            });
            thread::scope(|scope| {
                scope.spawn(push);
                wait::until("the push has joined", || {
                    store.groups.joined() == joined + 2
                });
                drop(held);
            });
        });
        assert_eq!(collection.delete_pages(&[dead]).unwrap(), 1);
    });
}

#[test]
fn a_page_whose_removal_is_on_its_way_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 1);
    let dead = garbage(&store, &bytes);
    beside_a_removal(&store, dead, || {
        let summary = push(&store, "again@1", &bytes).unwrap();
        assert_eq!(summary.new_pages.0, 1);
    });
    assert_ne!(store.page(&dead.0).unwrap(), Some(dead.1));
    assert_stored(&store, &bytes);
    assert_eq!(store.snapshot().totals().unwrap().unwrap().pages, 1);
}

#[test]
fn what_was_looked_up_beside_a_removal_is_looked_up_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 1);
    let dead = garbage(&store, &bytes);
    let collection = store.begin_collection().unwrap();
    let joined = store.groups.joined();
    let held = store.groups.hold();
    let (target, content) = testing::library("again@1", &bytes, Placement::Sparse);
    let objects = vec![content.announce()];
    thread::scope(|scope| {
        let store = &store;
        let begun = scope.spawn(move || {
            wait::until("the removal has joined", || {
                store.groups.joined() == joined + 1
            });
            let upload = store
                .begin_upload(UploadManifest { target, objects })
                .unwrap();
            // It is there yet.
            assert!(store.missing_pages(&upload).unwrap().is_empty());
            drop(held);
            upload
        });
        assert_eq!(collection.delete_pages(&[dead]).unwrap(), 1);
        let upload = begun.join().unwrap();
        let refused = store.commit(&upload).unwrap_err();
        assert!(
            matches!(refused, crate::StoreError::MissingPages(_)),
            "{refused}"
        );
    });
    assert_eq!(store.page(&dead.0).unwrap(), None);
}

#[test]
fn a_step_beside_which_a_commit_fails_is_made_nevertheless() {
    let directory = tempfile::tempdir().unwrap();
    let (store, syncs) = counted_store(directory.path());
    let dead = garbage(&store, &content(1, 1));
    let collection = store.begin_collection().unwrap();
    let joined = store.groups.joined();
    let held = store.groups.hold();
    thread::scope(|scope| {
        let pushed = scope.spawn(|| push(&store, "a@1", &content(2, 3)));
        wait::until("it has joined", || store.groups.joined() == joined + 1);
        let other = scope.spawn(|| {
            wait::until("all have joined", || store.groups.joined() == joined + 2);
            syncs.to_fail.store(1, Ordering::SeqCst);
            drop(held);
        });
        assert_eq!(collection.delete_pages(&[dead]).unwrap(), 1);
        other.join().unwrap();
        // Whichever of the two has led the group: who has not written to the segment is not told of it.
        let _ = pushed.join().unwrap();
    });
    assert_eq!(syncs.to_fail.load(Ordering::SeqCst), 0);
    assert_eq!(store.page(&dead.0).unwrap(), None);
    push(&store, "b@1", &content(3, 3)).unwrap();
    assert_stored(&store, &content(3, 3));
}

#[test]
fn a_plan_is_made_again_when_a_commit_moves_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path()));
    let bytes = content(1, 2);
    push(&store, "a@1", &bytes).unwrap();
    let at = store.page(&page_of(&bytes)).unwrap().unwrap();
    let pushed = |name: &str, bytes: &[u8]| {
        push(&store, name, bytes).unwrap();
    };
    let plans = |beside: &(dyn Fn() + Sync)| {
        let plans = Cell::new(0);
        let plan = |_: &Reader<'_>| {
            plans.set(plans.get() + 1);
            if plans.get() == 1 {
                thread::scope(|scope| scope.spawn(beside).join().unwrap());
            }
            Ok(())
        };
        store.step(&Cell::default(), plan, |_, ()| Ok(())).unwrap();
        plans.get()
    };
    assert_eq!(plans(&|| pushed("b@1", &content(2, 2))), 1);
    assert_eq!(plans(&|| pushed("c@1", &bytes)), 1);
    let mut found = DamagedSlots::default();
    let page = Some(page_of(&bytes));
    found.note(at, Expected { page, window: None });
    store.remember(&found).unwrap();
    // It puts the page that is damaged elsewhere.
    assert_eq!(plans(&|| pushed("d@1", &bytes)), 2);
    assert_ne!(store.page(&page_of(&bytes)).unwrap(), Some(at));
    // So may who is overtaken each time, and stores what others have stored.
    let large = content(3, 1500);
    assert_eq!(
        plans(&|| {
            let (others, mut nth) = (Arc::clone(&store), 0);
            let first = large[..PAGE_SIZE as usize].to_vec();
            steps::at_each(move |step| {
                if step == Step::Planned {
                    nth += 1;
                    let bytes = if nth < 3 {
                        content(100 + nth, 1)
                    } else {
                        first.clone()
                    };
                    let name = format!("other{nth}@1");
                    let pushed = || push(&others, &name, &bytes).unwrap();
                    thread::scope(|scope| scope.spawn(pushed).join().unwrap());
                }
            });
            pushed("large@1", &large);
        }),
        2
    );
}

#[test]
fn an_object_that_is_taken_away_for_a_moment_keeps_what_is_known_of_its_damage() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 2);
    push(&store, "a@1", &bytes).unwrap();
    store.delete_library(&"a@1".parse().unwrap()).unwrap();
    let id = ObjectId::of(&bytes);
    let at = store.page(&page_of(&bytes)).unwrap().unwrap();
    let mut found = DamagedSlots::default();
    found.note(at, Expected::default());
    store.remember(&found).unwrap();
    let collection = store.begin_collection().unwrap();
    thread::scope(|scope| {
        let (ask, asked) = std::sync::mpsc::channel();
        let (done, wait_for) = std::sync::mpsc::channel();
        let store = &store;
        scope.spawn(move || {
            let reader = LeaseTable::open(&store.directory().join(LEASES_FILE)).unwrap();
            for () in asked {
                // A reader that found the object before.
                let lease = reader.acquire(id).unwrap();
                assert_eq!(store.object(id).unwrap(), None);
                store.mend().unwrap();
                done.send(lease).unwrap();
            }
        });
        let mut ask = Some(ask);
        let kept = std::rc::Rc::new(Cell::new(None));
        let keep = std::rc::Rc::clone(&kept);
        steps::at_each(move |step| {
            if step == Step::Removed
                && let Some(ask) = ask.take()
            {
                ask.send(()).unwrap();
                drop(ask);
                keep.set(wait_for.recv().ok());
            }
        });
        assert_eq!(collection.delete_objects(&[id]).unwrap(), 0);
        steps::at_each(|_| ());
    });
    assert!(store.object(id).unwrap().is_some());
    assert!(store.damage().get(at).is_some());
}
