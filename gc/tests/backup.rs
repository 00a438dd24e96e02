//! Backups: what was in a store is in the one that is made from a backup of it, whatever happens on the way.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use collecting::{DENSE, assert_sound, collect_all, fill, follow};
use common::{announcement, assert_stored, content, image_ref, library_ref, open, push_library};
use pool_core::ObjectId;
use pool_core::page::PAGE_SIZE;
use pool_gc::{FsckLevel, fsck};
use pool_store::backup::{self, BackupReport, Copies, Damaged, RestoreReport};
use pool_store::placement::Placement;
use pool_store::{Progress, Result, Store, StoreView};

fn back_up(store: &Path, to: &Path) -> Result<BackupReport> {
    backup::back_up(&follow(store), to, Copies::Trusted, &mut |_| ())
}

fn restore(from: &Path, to: &Path, damaged: Damaged) -> Result<RestoreReport> {
    backup::restore(from, to, damaged, &mut |_| ())
}

/// What a store has, as far as names and contents go.
fn told(view: &StoreView) -> String {
    let objects = {
        let mut all = Vec::new();
        let snapshot = view.snapshot();
        snapshot
            .for_each_object(|id, record| {
                all.push((id, record.map.length, record.phase));
                Ok(())
            })
            .unwrap();
        all
    };
    format!(
        "{:?} {:?} {:?} {:?} {objects:?} {:?}",
        view.libraries().unwrap(),
        view.tags().unwrap(),
        view.reservations().unwrap(),
        view.tokens().unwrap(),
        view.image(&image_ref("app:v1")).unwrap(),
    )
}

#[test]
fn a_restored_store_is_the_one_that_was_backed_up() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let store = open(&path("store"));
    fill(&store);
    // What nothing refers to any more is not taken along.
    push_library(&store, "gone@1", &content(9, 1100), DENSE).unwrap();
    store.delete_library(&library_ref("gone@1")).unwrap();
    collect_all(&store);
    // The service goes on, in this process.
    let report = back_up(&path("store"), &path("backup")).unwrap();
    assert_eq!(report.damaged_objects, []);
    assert_eq!(report.copied_segments, report.segments);
    let whole = backup::verify(&path("backup"), &mut |_| ()).unwrap();
    assert_eq!((whole.made, &whole.damaged_objects), (false, &vec![]));

    let made = restore(&path("backup"), &path("new"), Damaged::Refused).unwrap();
    assert!(made.made);
    let restored = open(&path("new"));
    assert_eq!(told(&restored), told(&store));
    assert_sound(&restored);
    assert_ne!(restored.superblock().identity, store.superblock().identity);
    assert!(!path("new/restoring").exists());
    for bytes in [content(1, 70), content(2, 600), content(4, 30)] {
        assert_stored(&restored, &bytes);
    }
    // It knows its pages and windows, so that nothing is stored twice, and it goes on as any other.
    let manifest = announcement("again@1", &content(3, 440), DENSE);
    let upload = restored.begin_upload(manifest).unwrap();
    assert_eq!(restored.missing_pages(&upload).unwrap(), []);
    let both = [content(2, 600), content(1, 70)].concat();
    let summary = push_library(&restored, "both@1", &both, DENSE).unwrap();
    assert_eq!((summary.new_pages.0, summary.shared_windows), (0, 1));
    push_library(&restored, "more@1", &content(20, 2000), DENSE).unwrap();
    let mixed = library_ref("mixed@1");
    restored.pin_library(&mixed, false).unwrap();
    restored.delete_library(&mixed).unwrap();
    collect_all(&restored);
    assert_sound(&restored);
    assert_sound(&store);
}

#[test]
fn the_next_backup_copies_what_is_new() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let store = open(&path("store"));
    fill(&store);
    push_library(&store, "large@1", &content(5, 3000), DENSE).unwrap();
    let first = back_up(&path("store"), &path("backup")).unwrap();
    let (mut steps, mut read) = (Vec::new(), 0);
    let view = follow(&path("store"));
    let second = backup::back_up(&view, &path("backup"), Copies::Trusted, &mut |step| {
        read += step.read;
        steps.push(step);
    });
    let second = second.unwrap();
    assert_eq!(
        (second.segments, second.copied_segments),
        (first.segments, 0)
    );
    let Some(&Progress { done, total, .. }) = steps.last() else {
        panic!("no steps");
    };
    assert_eq!((done, read), (total, 0));

    push_library(&store, "small@1", &content(6, 5), Placement::Sparse).unwrap();
    let third = back_up(&path("store"), &path("backup")).unwrap();
    // Those that may go on growing, of which there is one of each kind.
    assert!((1..=2).contains(&third.copied_segments), "{third:?}");
    assert!(third.segments > 3, "{third:?}");
    store.delete_library(&library_ref("large@1")).unwrap();
    collect_all(&store);
    back_up(&path("store"), &path("backup")).unwrap();
    let made = restore(&path("backup"), &path("new"), Damaged::Refused).unwrap();
    let restored = open(&path("new"));
    assert_eq!(told(&restored), told(&store));
    assert_sound(&restored);
    // Nothing is left of what went, and no other store takes it for its own.
    let copies = fs::read_dir(path("backup/segments")).unwrap().count();
    assert_eq!(copies as u64, 2 * made.segments);
    let error = back_up(&path("new"), &path("backup")).unwrap_err();
    assert!(error.to_string().contains("another store"), "{error}");
}

#[test]
fn what_is_cut_short_leaves_the_former_backup_and_is_taken_up_again() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let store = open(&path("store"));
    fill(&store);
    for round in 0..12 {
        // A panic in a step is as good as a kill: nothing is tidied up after it.
        let mut steps = 0;
        let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let view = follow(&path("store"));
            backup::back_up(&view, &path("backup"), Copies::Trusted, &mut |_| {
                assert!(steps < round, "cut");
                steps += 1;
            })
        }));
        let whole = backup::verify(&path("backup"), &mut |_| ());
        match (cut, round) {
            (Ok(report), _) => assert_eq!(report.unwrap().damaged_objects, []),
            (Err(_), 0..2) => assert!(whole.is_err()),
            (Err(_), _) => {}
        }
        if let Ok(whole) = whole {
            assert_eq!(whole.damaged_objects, []);
            let _ = fs::remove_dir_all(path("new"));
            restore(&path("backup"), &path("new"), Damaged::Refused).unwrap();
            assert_sound(&follow(&path("new")));
        }
        let seed = 100 + round;
        push_library(&store, &format!("l{round}@1"), &content(seed, 90), DENSE).unwrap();
        collect_all(&store);
    }
    back_up(&path("store"), &path("backup")).unwrap();
    fs::remove_dir_all(path("new")).unwrap();
    // A restoration that was cut short is begun anew.
    for cut_at in [0, 1, 3] {
        let mut steps = 0;
        let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            backup::restore(&path("backup"), &path("new"), Damaged::Refused, &mut |_| {
                assert!(steps < cut_at, "cut");
                steps += 1;
            })
        }));
        assert!(cut.is_err());
        assert!(path("new/restoring").exists() && !path("new/superblock").exists());
        let error = Store::open(&path("new"), common::options()).unwrap_err();
        assert!(error.to_string().contains("pool restore"), "{error}");
    }
    restore(&path("backup"), &path("new"), Damaged::Refused).unwrap();
    let restored = open(&path("new"));
    assert_eq!(told(&restored), told(&store));
    assert_sound(&restored);
}

#[test]
fn damage_of_a_backup_is_named_and_no_store_is_made_of_it() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    {
        let store = open(&path("store"));
        fill(&store);
    }
    back_up(&path("store"), &path("backup")).unwrap();
    let mut files: Vec<_> = fs::read_dir(path("backup/segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let whole = fs::read(&file).unwrap();
        for spoil in 0..4 {
            match spoil {
                // A byte of a page: not of one of zeros that nothing refers to.
                0 => {
                    let at = whole.iter().rposition(|byte| *byte != 0).unwrap();
                    let spoilt = File::options().write(true).open(&file).unwrap();
                    spoilt.write_all_at(&[whole[at] ^ 1], at as u64).unwrap();
                }
                1 => fs::write(&file, &whole[..whole.len() / 2]).unwrap(),
                2 => fs::write(&file, b"").unwrap(),
                _ => fs::remove_file(&file).unwrap(),
            }
            let shown = file.display();
            let found = backup::verify(&path("backup"), &mut |_| ()).unwrap();
            assert_ne!(found.damaged_objects, [], "{shown} {spoil}");
            let refused = restore(&path("backup"), &path("new"), Damaged::Refused).unwrap();
            assert_eq!(refused, found, "{shown} {spoil}");
            assert!(!path("new/superblock").exists());
            assert_eq!(fs::read_dir(path("new")).unwrap().count(), 0, "{shown}");
            // It can be asked for; then the check of the store finds the same.
            let made = restore(&path("backup"), &path("new"), Damaged::TakenOver).unwrap();
            assert!(made.made);
            let report = fsck(&follow(&path("new")), FsckLevel::Content);
            let damaged: Vec<String> = report.findings.iter().map(|f| f.what.clone()).collect();
            for object in &found.damaged_objects {
                let named = |what: &String| what.contains(&object.to_string());
                // Only its list may be gone, and the pages be right.
                assert!(
                    damaged.iter().any(named) || file.extension().is_some_and(|end| end == "pages"),
                    "{object}: {damaged:?}"
                );
            }
            fs::remove_dir_all(path("new")).unwrap();
            fs::write(&file, &whole).unwrap();
        }
    }
    for spoil in ["catalogue", "segments"] {
        fs::rename(path("backup").join(spoil), path("aside")).unwrap();
        let result = restore(&path("backup"), &path("new"), Damaged::Refused);
        assert!(!result.is_ok_and(|report| report.made), "{spoil}");
        fs::rename(path("aside"), path("backup").join(spoil)).unwrap();
    }
    assert!(
        restore(&path("backup"), &path("new"), Damaged::Refused)
            .unwrap()
            .made
    );
}

#[test]
fn damage_of_the_store_is_named_and_goes_no_further_than_it_must() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let (good, bad) = (content(1, 70), content(2, 600));
    {
        let store = open(&path("store"));
        push_library(&store, "good@1", &good, Placement::Sparse).unwrap();
        push_library(&store, "bad@1", &bad, DENSE).unwrap();
    }
    assert_eq!(
        back_up(&path("store"), &path("first"))
            .unwrap()
            .damaged_objects,
        []
    );
    let mut spoilt = 0;
    for entry in fs::read_dir(path("store/segments")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == "owner" {
            continue;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(entry.path())
            .unwrap();
        let mut page = vec![0; PAGE_SIZE as usize];
        file.read_exact_at(&mut page, 0).unwrap();
        if page == bad[..PAGE_SIZE as usize] {
            file.write_all_at(b"spoilt", 100).unwrap();
            spoilt += 1;
        }
    }
    assert_eq!(spoilt, 1);
    let damaged = vec![ObjectId::of(&bad)];
    let report = back_up(&path("store"), &path("backup")).unwrap();
    assert_eq!(report.damaged_objects, damaged);
    let refused = restore(&path("backup"), &path("new"), Damaged::Refused).unwrap();
    assert_eq!((refused.made, &refused.damaged_objects), (false, &damaged));
    let made = restore(&path("backup"), &path("new"), Damaged::TakenOver).unwrap();
    assert_eq!((made.made, &made.damaged_objects), (true, &damaged));
    let restored = open(&path("new"));
    assert_stored(&restored, &good);
    assert!(!fsck(&restored, FsckLevel::Content).is_sound());
    // The copy that was made before stays right: nothing of the store's segments is copied twice.
    let old = restore(&path("first"), &path("old"), Damaged::Refused).unwrap();
    assert!(old.made);
    assert_stored(&open(&path("old")), &bad);
}

#[test]
fn directories_that_are_something_else_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    {
        fill(&open(&path("store")));
    }
    fs::create_dir(path("notes")).unwrap();
    fs::write(path("notes/mine"), "text").unwrap();
    for (to, words) in [("notes", "holds no backup"), ("store", "in the store")] {
        let error = back_up(&path("store"), &path(to)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(fs::read_dir(path("notes")).unwrap().count(), 1);
    // Its directory of uploads is empty, and no place for a backup.
    for to in ["store/staging", "store/new/backup"] {
        let error = back_up(&path("store"), &path(to)).unwrap_err();
        assert!(error.to_string().contains("in the store"), "{error}");
    }
    assert_eq!(fs::read_dir(path("store/staging")).unwrap().count(), 0);
    fs::create_dir_all(path("partly/segments")).unwrap();
    fs::write(path("partly/segments/notes.seg"), "mine").unwrap();
    assert!(back_up(&path("store"), &path("partly")).is_err());
    back_up(&path("store"), &path("backup")).unwrap();
    for (from, to, words) in [
        ("notes", "new", "no catalogue"),
        ("absent", "new", "absent"),
        ("backup", "notes", "not empty"),
        ("backup", "store", "a store already"),
        ("backup", "backup", "in the backup"),
        ("backup", "backup/new", "in the backup"),
    ] {
        let error = restore(&path(from), &path(to), Damaged::Refused).unwrap_err();
        assert!(error.to_string().contains(words), "{from} {to}: {error}");
    }
    assert_eq!(fs::read_to_string(path("notes/mine")).unwrap(), "text");
    assert_sound(&open(&path("store")));
    // Files of others in a backup stay.
    fs::write(path("backup/segments/README"), "mine").unwrap();
    back_up(&path("store"), &path("backup")).unwrap();
    assert!(path("backup/segments/README").exists());
}

#[test]
fn a_copy_under_another_name_is_none() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let store = open(&path("store"));
    fill(&store);
    back_up(&path("store"), &path("backup")).unwrap();
    for entry in fs::read_dir(path("backup/segments")).unwrap() {
        let copy = entry.unwrap().path();
        let name = copy.file_name().unwrap().to_str().unwrap();
        let (segment, end) = (&name[..8], &name[25..]);
        let other = format!("{segment}-0123456789abcdef{end}");
        fs::rename(&copy, copy.with_file_name(other)).unwrap();
    }
    let report = back_up(&path("store"), &path("backup")).unwrap();
    assert_eq!(report.copied_segments, report.segments);
    let whole = backup::verify(&path("backup"), &mut |_| ()).unwrap();
    assert_eq!(whole.damaged_objects, []);
}
