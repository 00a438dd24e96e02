//! Uploads, deletions, readers and collections at once: whatever was acknowledged is there.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{
    Random, announcement, assert_stored, content, image_ref, library_ref, negotiate, open,
    push_image,
};
use pool_core::ObjectId;
use pool_gc::{CollectOptions, FsckLevel, collect, fsck};
use pool_store::placement::Placement;
use pool_store::{Store, StoreView};

/// Library content number `nth`: neighbours share most pages.
fn library(nth: u64) -> Vec<u8> {
    let mut bytes = content(1, 60);
    bytes[..4096].copy_from_slice(&content(100 + nth, 1));
    bytes.extend(content(200 + nth / 2, 40));
    bytes
}

/// One thread's pushes and deletions; answers with the images it leaves.
fn push_and_delete(store: &Store, thread: u64, seed: u64, steps: u64) -> Vec<(String, u64)> {
    let mut random = Random(seed);
    let mut mine: Vec<(String, u64)> = Vec::new();
    for step in 0..steps {
        if mine.len() > 3 || (!mine.is_empty() && random.below(3) == 0) {
            let (name, _) = mine.swap_remove(random.below(mine.len() as u64) as usize);
            store.delete_image(&image_ref(&name)).unwrap();
            continue;
        }
        let nth = random.below(8);
        let bytes = library(nth);
        let name = format!("t{thread}:{step}");
        let file = content(1000 + nth, 3);
        if random.below(2) == 0 {
            // The library by negotiation first: its pages are asked for before the commit.
            let manifest = announcement(
                &format!("l{nth}@1"),
                &bytes,
                Placement::Windows { phase: 0 },
            );
            negotiate(store, manifest, &bytes).unwrap();
        }
        let used = format!("l{nth}@1");
        push_image(store, &name, &file, &[(&used, &bytes)]).unwrap();
        mine.push((name, nth));
    }
    // Whatever the order of things was: something is left, and something for the collector.
    let (kept, gone) = (format!("t{thread}:kept"), format!("t{thread}:gone"));
    push_image(store, &kept, &content(1000, 3), &[("l0@1", &library(0))]).unwrap();
    mine.push((kept, 0));
    push_image(store, &gone, &content(2000 + thread, 3), &[]).unwrap();
    store.delete_image(&image_ref(&gone)).unwrap();
    mine
}

/// Opens images as the filesystem does, and checks that what is held can be read to the end.
fn hold_and_read(view: &StoreView, seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = Random(seed);
    let mut read = 0;
    // To the end, and until something was read.
    while !stop.load(Ordering::Relaxed) || read == 0 {
        view.refresh().unwrap();
        let tags = view.tags().unwrap();
        if tags.is_empty() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            continue;
        }
        let (image, _) = &tags[random.below(tags.len() as u64) as usize];
        let held = view.hold(|view| {
            let Some((_, manifest)) = view.image(image)? else {
                return Ok(None);
            };
            let mut records = Vec::new();
            for id in manifest.objects() {
                records.extend(view.object(id)?.map(|record| (id, record)));
            }
            Ok(Some((records, manifest.objects())))
        });
        let Some(held) = held.unwrap() else { continue };
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        for (id, record) in &held.value {
            let bytes = view
                .read(&record.map, 0, record.map.length as usize)
                .unwrap();
            assert_eq!(ObjectId::of(&bytes), *id);
            read += 1;
        }
    }
    read
}

/// Stops the others when it goes, by whatever way.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let rounds: u64 = std::env::var("POOL_SOAK_ROUNDS").map_or(6, |text| text.parse().unwrap());
    for round in 0..rounds {
        let directory = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let follower = StoreView::follow(directory.path(), scratch.path()).unwrap();
        let stop = AtomicBool::new(false);
        let (left, collected, read) = std::thread::scope(|scope| {
            let (store, follower, stop) = (&store, &follower, &stop);
            // A thread that fails must not leave the others running.
            let _ends = Ends(stop);
            let pushers: Vec<_> = (0..3)
                .map(|thread| {
                    let seed = round * 1000 + thread + 1;
                    scope.spawn(move || push_and_delete(store, thread, seed, 25))
                })
                .collect();
            let readers: Vec<_> = [follower, &**store]
                .into_iter()
                .map(|view| scope.spawn(move || hold_and_read(view, round + 77, stop)))
                .collect();
            let collector = scope.spawn(move || {
                let options = CollectOptions {
                    grace: Duration::ZERO,
                    dry_run: false,
                    compact_below: 0.9,
                };
                let mut pages = 0;
                loop {
                    // The last one begins when all is done.
                    let last = stop.load(Ordering::Relaxed);
                    pages += collect(store, &options).unwrap().pages;
                    if last {
                        return pages;
                    }
                }
            });
            let left: Vec<_> = pushers
                .into_iter()
                .flat_map(|pusher| pusher.join().unwrap())
                .collect();
            stop.store(true, Ordering::Relaxed);
            let read: u64 = readers
                .into_iter()
                .map(|reader| reader.join().unwrap())
                .sum();
            (left, collector.join().unwrap(), read)
        });
        let report = fsck(&store, FsckLevel::Content);
        assert!(report.findings.is_empty(), "round {round}: {report:#?}");
        assert!(
            collected > 0 && read > 0,
            "{collected} pages collected, {read} read"
        );
        for (name, nth) in left {
            assert!(store.image(&image_ref(&name)).unwrap().is_some(), "{name}");
            assert!(
                store
                    .library(&library_ref(&format!("l{nth}@1")))
                    .unwrap()
                    .is_some()
            );
            assert_stored(&store, &library(nth));
            assert_stored(&store, &content(1000 + nth, 3));
        }
    }
}
