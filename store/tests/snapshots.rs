//! Readers beside a writer that changes everything they look at: each answer is whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{content, image_ref, library_ref, open, push_image};
use pool_store::{Store, StoreView};

const IMAGES: u64 = 3;

/// Pushes, moves and deletes a few images and their libraries, again and again.
fn write(store: &Store, rounds: u64) {
    for round in 0..rounds {
        let nth = round % IMAGES;
        let library = content(10 + nth, 40);
        let image = image_ref(&format!("i:{nth}"));
        let used = format!("l{nth}@1");
        push_image(
            store,
            &image.to_string(),
            &content(round, 2),
            &[(&used, &library)],
        )
        .unwrap();
        store.tag_image(&image, &image_ref("moving:1")).unwrap();
        store.delete_image(&image).unwrap();
        store.delete_image(&image_ref("moving:1")).unwrap();
        store.delete_library(&library_ref(&used)).unwrap();
    }
}

/// Asks everything that takes more than one look; answers how often something was there and how
/// often not.
fn read(view: &StoreView, done: &AtomicBool, seen: &[AtomicU64; 2]) {
    while !done.load(Ordering::Relaxed) {
        view.refresh().unwrap();
        for name in ["i:0", "i:1", "i:2", "moving:1"] {
            let found = view.image(&image_ref(name)).unwrap();
            seen[usize::from(found.is_some())].fetch_add(1, Ordering::Relaxed);
        }
        let snapshot = view.snapshot();
        for (image, tag) in snapshot.tags().unwrap() {
            let (again, manifest) = snapshot.image(&image).unwrap().unwrap();
            assert_eq!(again, tag);
            assert!(
                snapshot
                    .tags_of_manifest(tag.manifest)
                    .unwrap()
                    .contains(&image)
            );
            snapshot.image_map(&manifest).unwrap();
            for used in &manifest.description.libraries {
                let record = snapshot.library(&used.library).unwrap().unwrap();
                assert_eq!(record.unused_since, None, "{image}");
                assert!(
                    snapshot
                        .library_users(&used.library)
                        .unwrap()
                        .contains(&image)
                );
            }
            for object in manifest.objects() {
                let record = snapshot.object(object).unwrap().unwrap();
                for extent in record.map.extents() {
                    let segment = snapshot.segment(extent.segment).unwrap().unwrap();
                    assert!(extent.slot.0 + extent.count <= segment.used);
                }
            }
        }
        let stats = snapshot.stats().unwrap();
        assert!(stats.images <= stats.tags && stats.unused_libraries <= stats.libraries);
        assert!(stats.libraries - stats.unused_libraries >= stats.images);
        drop(snapshot);
        for nth in 0..IMAGES {
            let image = image_ref(&format!("i:{nth}"));
            let held = view.hold(|store| {
                let found = store.image(&image)?;
                Ok(found.map(|(_, manifest)| ((), manifest.objects())))
            });
            held.unwrap();
        }
    }
}

#[test]
fn look_ups_beside_deletions_are_whole_or_find_nothing() {
    let rounds: u64 = std::env::var("POOL_SOAK_ROUNDS").map_or(60, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let follower = StoreView::follow(directory.path(), &scratch.path().join("f")).unwrap();
    let done = AtomicBool::new(false);
    let seen = [
        [const { AtomicU64::new(0) }; 2],
        [const { AtomicU64::new(0) }; 2],
    ];
    std::thread::scope(|scope| {
        let (done, seen) = (&done, &seen);
        let readers: Vec<_> = [(&*store, 0), (&*store, 0), (&follower, 1), (&follower, 1)]
            .into_iter()
            .map(|(view, who)| scope.spawn(move || read(view, done, &seen[who])))
            .collect();
        let both = |who: usize| seen[who].iter().all(|n| n.load(Ordering::Relaxed) > 0);
        let failed = || {
            readers
                .iter()
                .any(std::thread::ScopedJoinHandle::is_finished)
        };
        // Until readers of both kinds have met what is there and what is gone.
        loop {
            write(&store, rounds);
            if (both(0) && both(1)) || failed() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn a_snapshot_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    push_image(&store, "i:1", &content(1, 2), &[]).unwrap();
    let follower = StoreView::follow(directory.path(), &scratch.path().join("f")).unwrap();
    let (mine, followers) = (store.snapshot(), follower.snapshot());
    store.delete_image(&image_ref("i:1")).unwrap();
    std::thread::scope(|scope| {
        let (began, begun) = std::sync::mpsc::channel();
        let follower = &follower;
        let refresh = scope.spawn(move || {
            began.send(()).unwrap();
            follower.refresh().unwrap();
        });
        begun.recv().unwrap();
        for snapshot in [&mine, &followers] {
            assert!(snapshot.image(&image_ref("i:1")).unwrap().is_some());
            assert_eq!(snapshot.stats().unwrap().images, 1);
        }
        drop((mine, followers));
        refresh.join().unwrap();
    });
    for view in [&*store, &follower] {
        assert!(view.image(&image_ref("i:1")).unwrap().is_none());
        assert_eq!(view.snapshot().stats().unwrap().images, 0);
    }
}
