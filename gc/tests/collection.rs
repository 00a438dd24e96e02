//! What a collection takes, what it leaves, and what holds it back.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::Duration;

use collecting::{NOW, assert_sound};
use common::{
    assert_stored, content, description, image_ref, image_target, library_ref, negotiate, open,
    push_image, push_library, read_object,
};
use pool_core::ObjectId;
use pool_core::page::PAGE_SIZE;
use pool_gc::{CollectOptions, CollectReport, Thing, collect, collect_watched, why};
use pool_store::placement::Placement;
use pool_store::upload::{UploadManifest, UploadObject};
use pool_store::{Store, StoreView};

fn collect_now(store: &Store) -> CollectReport {
    let report = collect(store, &NOW).unwrap();
    assert_sound(store);
    report
}

fn disk_bytes(store: &Store) -> u64 {
    store.stats().unwrap().disk_bytes
}

#[test]
fn a_deleted_image_gives_its_space_back_after_the_grace_period() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (kept, file, library) = (content(1, 40), content(2, 50), content(3, 1100));
    push_library(&store, "kept@1", &kept, Placement::Sparse).unwrap();
    store.pin_library(&library_ref("kept@1"), true).unwrap();
    push_image(&store, "app:1", &file, &[("lib@1", &library)]).unwrap();
    assert_eq!(collect_now(&store).objects, 0);
    let full = disk_bytes(&store);

    store.delete_image(&image_ref("app:1")).unwrap();
    let patient = CollectOptions {
        grace: Duration::from_secs(3600),
        ..NOW
    };
    let report = collect(&store, &patient).unwrap();
    assert_eq!((report.objects, report.libraries.len()), (1, 0));
    assert_stored(&store, &library);

    let report = collect_now(&store);
    assert_eq!(report.libraries, [library_ref("lib@1")]);
    assert_eq!(report.objects, 1);
    assert_eq!(report.waiting_bytes, 0);
    assert!(report.freed_bytes >= 1100 * PAGE_SIZE, "{report:?}");
    // The pinned library's segment is still appended to and stays.
    assert!(disk_bytes(&store) <= full - 1100 * PAGE_SIZE);
    assert_stored(&store, &kept);
    assert!(store.object(ObjectId::of(&library)).unwrap().is_none());
    assert_eq!(store.stats().unwrap().stored_pages.0, 40);

    // Nothing left over, and all of it can come back.
    let report = collect_now(&store);
    assert_eq!(
        (report.objects, report.pages, report.freed_bytes),
        (0, 0, 0)
    );
    push_image(&store, "app:1", &file, &[("lib@1", &library)]).unwrap();
    assert_stored(&store, &library);
    assert_sound(&store);
}

#[test]
fn a_lease_keeps_content_until_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (file, library) = (content(2, 50), content(3, 600));
    push_image(&store, "app:1", &file, &[("lib@1", &library)]).unwrap();
    // Another process's view, as the filesystem has it.
    let guest = StoreView::follow(directory.path(), scratch.path()).unwrap();
    let image = image_ref("app:1");
    let held = guest
        .hold(|view| {
            let Some((_, manifest)) = view.image(&image)? else {
                return Ok(None);
            };
            let objects = manifest.objects();
            Ok(Some((view.image_map(&manifest)?, objects)))
        })
        .unwrap()
        .unwrap();
    store.delete_image(&image).unwrap();
    let report = collect_now(&store);
    assert_eq!((report.objects, report.freed_bytes), (0, 0));
    let answer = why(&store, Thing::Object(ObjectId::of(&library))).unwrap();
    assert!(answer.objects[&ObjectId::of(&library)].leased);
    for (id, map) in &held.value.objects {
        let bytes = guest.read(map, 0, map.length as usize).unwrap();
        assert_eq!(ObjectId::of(&bytes), *id);
    }
    drop(held);
    let report = collect_now(&store);
    assert_eq!(report.objects, 2);
    assert!(report.freed_bytes >= 650 * PAGE_SIZE, "{report:?}");
    assert_eq!(store.stats().unwrap().objects, 0);
}

#[test]
fn a_leased_segment_waits_and_is_freed_by_the_next_collection() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let library = content(3, 600);
    push_library(&store, "lib@1", &library, Placement::Windows { phase: 0 }).unwrap();
    let record = store.object(ObjectId::of(&library)).unwrap().unwrap();
    let segment = record.map.extents()[0].segment;
    let held = store.hold_segment(segment).unwrap();
    let report = collect_now(&store);
    assert_eq!(report.segments_retired, [segment]);
    assert!(report.waiting_bytes >= 600 * PAGE_SIZE && report.freed_bytes == 0);
    let mut page = vec![0; PAGE_SIZE as usize];
    let offset = record.map.extents()[0].slot.byte_offset();
    held.value.read_exact_at(&mut page, offset).unwrap();
    assert!(page == library[..PAGE_SIZE as usize]);
    drop(held);
    let report = collect_now(&store);
    assert_eq!(report.segments_reaped, [segment]);
    assert!(report.freed_bytes >= 600 * PAGE_SIZE && report.waiting_bytes == 0);
}

#[test]
fn mostly_dead_segments_are_emptied_and_every_byte_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut kept = Vec::new();
    for nth in 0..60u64 {
        // Segments have 1 024 slots: sparse ones of many libraries, dense ones of two windows.
        let bytes = content(nth, 100);
        let placement = if nth % 2 == 0 {
            Placement::Sparse
        } else {
            Placement::Windows {
                phase: (nth * 7 % 512) as u16,
            }
        };
        let name = format!("l{nth}@1");
        push_library(&store, &name, &bytes, placement).unwrap();
        if nth % 10 == 3 || nth % 10 == 6 {
            store.pin_library(&library_ref(&name), true).unwrap();
            kept.push(bytes);
        }
    }
    let before = disk_bytes(&store);
    let report = collect_now(&store);
    assert!(!report.segments_evacuated.is_empty(), "{report:?}");
    assert!(disk_bytes(&store) < before / 2, "{report:?}");
    for bytes in &kept {
        assert_stored(&store, bytes);
        let record = store.object(ObjectId::of(bytes)).unwrap().unwrap();
        for extent in record.map.extents() {
            assert!(!report.segments_evacuated.contains(&extent.segment));
        }
    }
    // Dense windows are still dense, and known pages still known.
    let windows = kept.iter().filter(|bytes| {
        let record = store.object(ObjectId::of(bytes)).unwrap().unwrap();
        record.map.extents().iter().all(|extent| extent.dense)
    });
    assert_eq!(windows.count(), 6);
    let again = push_library(&store, "again@1", &kept[0][4096..], Placement::Sparse).unwrap();
    assert_eq!(again.new_pages.0, 0);
    drop(store);
    let store = open(directory.path());
    assert_sound(&store);
    for bytes in &kept {
        assert_stored(&store, bytes);
    }
}

#[test]
fn a_page_shared_with_a_dead_window_outlives_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let window = content(1, 512);
    push_library(&store, "dead@1", &window, Placement::Windows { phase: 0 }).unwrap();
    // A sparse object whose pages lie in the other's window.
    let live = window[100 * 4096..103 * 4096].to_vec();
    push_library(&store, "live@1", &live, Placement::Sparse).unwrap();
    store.pin_library(&library_ref("live@1"), true).unwrap();
    // Fill the segment up, so that it is sealed and can be emptied.
    push_library(
        &store,
        "fill@1",
        &content(2, 512),
        Placement::Windows { phase: 0 },
    )
    .unwrap();
    let report = collect_now(&store);
    assert_eq!(report.segments_evacuated.len(), 1);
    assert_eq!(report.windows, 2);
    assert_stored(&store, &live);
    assert_eq!(store.stats().unwrap().stored_pages.0, 3);
    assert_eq!(store.stats().unwrap().dense_windows, 0);
}

#[test]
fn a_rehearsal_changes_nothing_and_tells_the_same_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for nth in 0..30u64 {
        let name = format!("l{nth}@1");
        let bytes = content(nth, 100);
        push_library(&store, &name, &bytes, Placement::Sparse).unwrap();
        if nth % 9 == 0 {
            store.pin_library(&library_ref(&name), true).unwrap();
        }
    }
    let before = (store.stats().unwrap(), store.generation().unwrap());
    let rehearsal = CollectOptions {
        dry_run: true,
        ..NOW
    };
    let mut told = collect(&store, &rehearsal).unwrap();
    assert_eq!(
        (store.stats().unwrap(), store.generation().unwrap()),
        before
    );
    let mut done = collect_now(&store);
    assert!(told.dry_run && !done.dry_run);
    for report in [&mut told, &mut done] {
        (report.dry_run, report.epoch) = (false, 0);
        (report.duration_us, report.longest_hold_us) = (0, 0);
    }
    assert_eq!(told, done);
    assert!(done.freed_bytes > 0 && !done.segments_evacuated.is_empty());
}

#[test]
fn options_and_second_collections_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for compact_below in [-0.1, 1.1, f64::NAN] {
        let options = CollectOptions {
            compact_below,
            ..NOW
        };
        assert!(collect(&store, &options).is_err());
    }
    let running = store.begin_collection().unwrap();
    assert!(collect(&store, &NOW).is_err());
    drop(running);
    collect_now(&store);
}

#[test]
fn why_names_everyone_who_keeps_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (file, library) = (content(1, 3), content(2, 5));
    push_image(&store, "app:1", &file, &[("lib@1", &library)]).unwrap();
    store
        .tag_image(&image_ref("app:1"), &image_ref("app:2"))
        .unwrap();
    store.pin_library(&library_ref("lib@1"), true).unwrap();
    let page = pool_core::PageId::of(&library[..4096]);
    let answer = why(&store, Thing::Page(page)).unwrap();
    assert!(answer.exists && !answer.segment_leased);
    assert_eq!(answer.objects.len(), 1);
    let keepers = &answer.objects[&ObjectId::of(&library)];
    assert_eq!(keepers.images, [image_ref("app:1"), image_ref("app:2")]);
    assert_eq!(keepers.libraries, [library_ref("lib@1")]);
    assert_eq!(keepers.pinned, [library_ref("lib@1")]);
    let segment = answer.segment.unwrap();
    let answer = why(&store, Thing::Segment(segment)).unwrap();
    assert_eq!(answer.objects.len(), 2);
    let nothing = why(&store, Thing::Object(ObjectId::of(b"no"))).unwrap();
    assert!(!nothing.exists && nothing.objects.is_empty());
    assert_eq!(read_object(&store, ObjectId::of(&file)), file);
}

// Removals that race with something, step by step.

#[test]
fn what_is_committed_after_the_mark_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 40);
    push_library(&store, "a@1", &bytes, Placement::Sparse).unwrap();
    store.delete_library(&library_ref("a@1")).unwrap();
    let collection = store.begin_collection().unwrap();
    let mark = pool_gc::mark::mark(&store.snapshot(), &[]).unwrap();
    let garbage = pool_gc::sweep::garbage(&store.snapshot(), &mark).unwrap();
    assert_eq!((garbage.objects.len(), garbage.pages.len()), (1, 40));
    // Another object of the same pages, between mark and sweep.
    push_library(&store, "b@1", &bytes[4096..], Placement::Sparse).unwrap();
    assert_eq!(collection.delete_objects(&garbage.objects).unwrap(), 1);
    assert_eq!(collection.delete_pages(&garbage.pages).unwrap(), 1);
    let plan = pool_gc::compact::plan(&store, &mark, 0.5).unwrap();
    assert_eq!(plan.dead.len(), 1);
    assert_eq!(collection.retire_segments(&plan.dead).unwrap(), []);
    assert_stored(&store, &bytes[4096..]);
    drop(collection);
    assert_sound(&store);

    // The same object again, between mark and sweep.
    let collection = store.begin_collection().unwrap();
    store.delete_library(&library_ref("b@1")).unwrap();
    let mark = pool_gc::mark::mark(&store.snapshot(), &[]).unwrap();
    let garbage = pool_gc::sweep::garbage(&store.snapshot(), &mark).unwrap();
    push_library(&store, "c@1", &bytes[4096..], Placement::Sparse).unwrap();
    assert_eq!(collection.delete_objects(&garbage.objects).unwrap(), 0);
    assert_eq!(collection.delete_pages(&garbage.pages).unwrap(), 0);
    drop(collection);
    assert_sound(&store);
    assert_stored(&store, &bytes[4096..]);
}

#[test]
fn what_a_push_leaves_out_after_the_mark_is_kept_with_its_pages() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    // In a window, and in single pages.
    let (dense, sparse, file) = (content(1, 600), content(2, 20), content(3, 2));
    let windows = Placement::Windows { phase: 0 };
    push_library(&store, "dense@1", &dense, windows).unwrap();
    push_library(&store, "sparse@1", &sparse, Placement::Sparse).unwrap();
    for name in ["dense@1", "sparse@1"] {
        store.delete_library(&library_ref(name)).unwrap();
    }
    let collection = store.begin_collection().unwrap();
    let mark = pool_gc::mark::mark(&store.snapshot(), &[]).unwrap();
    let garbage = pool_gc::sweep::garbage(&store.snapshot(), &mark).unwrap();
    assert_eq!((garbage.objects.len(), garbage.pages.len()), (2, 620));
    assert_eq!(garbage.windows.len(), 2);

    // It lists its own file alone, and nothing of its libraries is looked at but that they are there.
    let libraries: &[(&str, &[u8])] = &[("dense@1", &dense), ("sparse@1", &sparse)];
    let manifest = UploadManifest {
        target: image_target("app:1", description(&file, libraries)),
        objects: vec![UploadObject::of(&file, Placement::Sparse)],
    };
    let summary = negotiate(&store, manifest, &file).unwrap();
    assert_eq!((summary.pages.0, summary.known_pages.0), (622, 620));

    assert_eq!(collection.delete_objects(&garbage.objects).unwrap(), 0);
    assert_eq!(collection.delete_windows(&garbage.windows).unwrap(), 0);
    assert_eq!(collection.delete_pages(&garbage.pages).unwrap(), 0);
    let plan = pool_gc::compact::plan(&store, &mark, 0.5).unwrap();
    assert!(!plan.dead.is_empty());
    assert_eq!(collection.retire_segments(&plan.dead).unwrap(), []);
    drop(collection);
    assert_sound(&store);
    for bytes in [&dense, &sparse, &file] {
        assert_stored(&store, bytes);
    }
}

#[test]
fn what_is_leased_after_the_mark_is_kept_with_its_pages() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let bytes = content(1, 600);
    push_library(&store, "a@1", &bytes, Placement::Windows { phase: 9 }).unwrap();
    store.delete_library(&library_ref("a@1")).unwrap();
    let collection = store.begin_collection().unwrap();
    let mark = pool_gc::mark::mark(&store.snapshot(), &[]).unwrap();
    let garbage = pool_gc::sweep::garbage(&store.snapshot(), &mark).unwrap();
    let id = ObjectId::of(&bytes);
    let held = store
        .hold(|view| Ok(view.object(id)?.map(|record| (record, vec![id]))))
        .unwrap();
    assert!(held.is_some());
    assert_eq!(collection.delete_objects(&garbage.objects).unwrap(), 0);
    assert_eq!(collection.delete_pages(&garbage.pages).unwrap(), 0);
    assert_eq!(collection.delete_windows(&garbage.windows).unwrap(), 0);
    let plan = pool_gc::compact::plan(&store, &mark, 0.5).unwrap();
    assert_eq!(collection.retire_segments(&plan.dead).unwrap(), []);
    drop(held);
    drop(collection);
    assert_sound(&store);
    assert_stored(&store, &bytes);
    collect_now(&store);
    assert_eq!(store.stats().unwrap().objects, 0);
}

#[test]
fn a_segment_in_use_cannot_be_retired_by_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    push_library(&store, "a@1", &content(1, 40), Placement::Sparse).unwrap();
    let all: Vec<_> = store
        .segments()
        .unwrap()
        .iter()
        .map(|(id, _)| *id)
        .collect();
    let collection = store.begin_collection().unwrap();
    assert_eq!(collection.retire_segments(&all).unwrap(), []);
    drop(collection);
    assert_sound(&store);
}

/// A store that a collection has something of every kind to do in.
fn with_garbage(directory: &std::path::Path) -> Store {
    let store = open(directory);
    let (kept, file, library) = (content(1, 40), content(2, 50), content(3, 1100));
    push_library(&store, "kept@1", &kept, Placement::Sparse).unwrap();
    push_image(&store, "app:1", &file, &[("lib@1", &library)]).unwrap();
    // Mostly dead segments, of which something moves.
    for nth in 0..4 {
        let bytes = content(10 + nth, 250);
        push_library(&store, &format!("s{nth}@1"), &bytes, Placement::Sparse).unwrap();
    }
    for kept in ["kept@1", "s1@1"] {
        store.pin_library(&library_ref(kept), true).unwrap();
    }
    store.delete_image(&image_ref("app:1")).unwrap();
    store
}

#[test]
fn a_collection_that_is_stopped_anywhere_leaves_the_rest_to_the_next() {
    let options = CollectOptions {
        compact_below: 0.95,
        ..NOW
    };
    let mut stops = 0;
    loop {
        let directory = tempfile::tempdir().unwrap();
        let store = with_garbage(directory.path());
        let asked = Cell::new(0);
        let watch = || {
            asked.set(asked.get() + 1);
            if asked.get() > stops {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let report = collect_watched(&store, &options, &watch).unwrap();
        assert_sound(&store);
        assert_eq!(report.stopped, asked.get() > stops, "after {stops}");
        let done = !report.stopped;
        let rest = collect(&store, &options).unwrap();
        assert_sound(&store);
        assert!(!rest.stopped);
        for (seed, pages) in [(1, 40), (11, 250)] {
            assert_stored(&store, &content(seed, pages));
        }
        let stats = store.stats().unwrap();
        assert_eq!(
            (stats.objects, stats.stored_pages.0),
            (2, 290),
            "after {stops}"
        );
        if done {
            break;
        }
        stops += 1;
    }
    assert!(stops > 5, "it asked {stops} times");
}
