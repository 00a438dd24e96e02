//! Copies of a backup: which are meant, what of them is kept, and what is in their way.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use collecting::{DENSE, assert_sound, fill, follow};
use common::{assert_stored, content, open, push_library};
use pool_core::ObjectId;
use pool_core::page::PAGE_SIZE;
use pool_store::backup::{self, BackupReport, Copies, Damaged, RestoreReport};
use pool_store::placement::Placement;
use pool_store::{Progress, Result, Store};

const SPARSE: Placement = Placement::Sparse;

fn back_up_with(
    store: &Path,
    to: &Path,
    copies: Copies,
    step: &mut dyn FnMut(Progress),
) -> Result<BackupReport> {
    backup::back_up(&follow(store), to, copies, step)
}

fn back_up(store: &Path, to: &Path) -> Result<BackupReport> {
    back_up_with(store, to, Copies::Trusted, &mut |_| ())
}

fn verify(from: &Path) -> RestoreReport {
    backup::verify(from, &mut |_| ()).unwrap()
}

fn restore(from: &Path, to: &Path) -> RestoreReport {
    let _ = fs::remove_dir_all(to);
    backup::restore(from, to, Damaged::Refused, &mut |_| ()).unwrap()
}

/// The files of the copies of a backup, in order.
fn copies(backup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(backup.join("segments")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Makes a store's pages of an object something else.
fn spoil(directory: &Path, store: &Store, bytes: &[u8], pages: &[u64]) {
    let record = store.object(ObjectId::of(bytes)).unwrap().unwrap();
    for page in pages {
        let at = record.map.slice(*page, 1).next().unwrap();
        let path = directory.join(format!("segments/{}.seg", at.segment));
        let segment = File::options().write(true).open(path).unwrap();
        segment
            .write_all_at(b"spoilt", at.slot.byte_offset() + 9)
            .unwrap();
    }
}

#[test]
fn what_the_store_has_damaged_since_is_kept_of_the_former_backup() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let store = open(&path("store"));
    let (singly, windows) = (content(1, 70), content(2, 450));
    push_library(&store, "singly@1", &singly, SPARSE).unwrap();
    push_library(&store, "windows@1", &windows, DENSE).unwrap();
    back_up(&path("store"), &path("backup")).unwrap();

    spoil(&path("store"), &store, &singly, &[0, 69]);
    spoil(&path("store"), &store, &windows, &[5, 400]);
    // Segments that may go on growing are copied anew.
    let (more, late) = (content(3, 5), content(4, 200));
    push_library(&store, "more@1", &more, SPARSE).unwrap();
    push_library(&store, "late@1", &late, DENSE).unwrap();
    spoil(&path("store"), &store, &late, &[7]);
    let report = back_up(&path("store"), &path("backup")).unwrap();
    let mut damaged = [&singly, &windows, &late].map(|bytes| ObjectId::of(bytes));
    damaged.sort();
    assert_eq!(report.damaged_objects, damaged);
    assert_eq!(report.mended_pages, 4);
    // Nobody ever had it right.
    assert_eq!(report.lost_objects, [ObjectId::of(&late)]);
    assert_eq!(verify(&path("backup")).damaged_objects, report.lost_objects);

    // Even when the store has nothing any more.
    for segment in store.segment_files().unwrap() {
        fs::remove_file(path(&format!("store/segments/{segment}.seg"))).unwrap();
    }
    let report = back_up(&path("store"), &path("backup")).unwrap();
    assert_eq!(report.lost_objects, [ObjectId::of(&late)]);
    let (from, to) = (path("backup"), path("new"));
    backup::restore(&from, &to, Damaged::TakenOver, &mut |_| ()).unwrap();
    let restored = open(&to);
    for bytes in [&singly, &windows, &more] {
        assert_stored(&restored, bytes);
    }
}

#[test]
fn copies_of_another_state_are_none() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    drop(open(&path("one")));
    // A copy of a store is the same store as far as anybody can tell once its journal begins behind what they share.
    let copied = Command::new("cp")
        .arg("-a")
        .args([path("one"), path("two")])
        .status();
    assert!(copied.unwrap().success());
    let bytes = [content(1, 3000), content(2, 3000)];
    for (name, bytes) in ["one", "two"].into_iter().zip(&bytes) {
        push_library(&open(&path(name)), "l@1", bytes, DENSE).unwrap();
    }
    let two = open(&path("two"));
    push_library(&two, "more@1", &content(3, 3), SPARSE).unwrap();
    assert!(two.checkpoint().unwrap());
    drop(two);
    back_up(&path("one"), &path("backup")).unwrap();
    let former = copies(&path("backup"));
    let cut = catch_unwind(AssertUnwindSafe(|| {
        let to = path("backup");
        back_up_with(&path("two"), &to, Copies::Trusted, &mut |step| {
            assert!(step.done < step.total, "cut");
        })
    }));
    assert!(cut.is_err());
    // The former backup is whole.
    let all = copies(&path("backup"));
    assert!(all.len() > former.len() + 2, "{all:?}");
    assert!(restore(&path("backup"), &path("new")).made);
    assert_sound(&follow(&path("new")));
    assert_stored(&open(&path("new")), &bytes[0]);

    // Who puts one in another's place is found out.
    let of_segment = |path: &Path| path.file_name().unwrap().to_str().unwrap()[..8].to_owned();
    let mut swapped = 0;
    for old in &former {
        let other = all.iter().find(|new| {
            !former.contains(new)
                && new.extension() == old.extension()
                && of_segment(new) == of_segment(old)
        });
        if let Some(other) = other {
            fs::copy(other, old).unwrap();
            swapped += 1;
        }
    }
    assert!(swapped >= 2, "{all:?}");
    assert_eq!(
        verify(&path("backup")).damaged_objects,
        [ObjectId::of(&bytes[0])]
    );
}

#[test]
fn an_earlier_state_takes_no_later_ones_place() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    push_library(&open(&path("store")), "a@1", &content(1, 3), SPARSE).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .args([path("store"), path("earlier")])
        .status();
    assert!(copied.unwrap().success());
    push_library(&open(&path("store")), "b@1", &content(2, 3), SPARSE).unwrap();
    back_up(&path("store"), &path("backup")).unwrap();
    let before = copies(&path("backup"));
    let error = back_up(&path("earlier"), &path("backup")).unwrap_err();
    assert!(error.to_string().contains("earlier state"), "{error}");
    assert_eq!(copies(&path("backup")), before);
    assert_eq!(verify(&path("backup")).libraries, 2);
    back_up(&path("earlier"), &path("another")).unwrap();
}

#[test]
fn what_came_to_nothing_is_not_in_the_way_of_the_next_attempt() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let store = open(&path("store"));
    for round in 0..4 {
        for (seed, placement) in [(10, SPARSE), (20, DENSE)] {
            let name = format!("l{round}-{seed}@1");
            push_library(&store, &name, &content(seed + round, 40), placement).unwrap();
        }
        let segments = store.segments().unwrap().len();
        let cut = catch_unwind(AssertUnwindSafe(|| {
            let to = path("backup");
            back_up_with(&path("store"), &to, Copies::Trusted, &mut |step| {
                if step.done == step.total {
                    // The last one is in the making.
                    let there = copies(&to);
                    assert_eq!(there.len(), 2 * segments - 1, "{there:?}");
                    panic!("cut");
                }
            })
        }));
        let why = cut.unwrap_err();
        assert_eq!(why.downcast_ref::<&str>(), Some(&"cut"));
    }
    let report = back_up(&path("store"), &path("backup")).unwrap();
    assert_eq!(copies(&path("backup")).len() as u64, 2 * report.segments);
    assert_eq!(verify(&path("backup")).damaged_objects, []);
}

#[test]
fn a_copy_that_has_gone_bad_is_made_anew_when_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fill(&open(&path("store")));
    back_up(&path("store"), &path("backup")).unwrap();
    let all = copies(&path("backup"));
    let copy = all
        .iter()
        .find(|path| path.extension().is_some_and(|end| end == "seg"));
    let copy = File::options().write(true).open(copy.unwrap()).unwrap();
    copy.write_all_at(b"spoilt", 3 * PAGE_SIZE).unwrap();
    let damaged = verify(&path("backup")).damaged_objects;
    assert_ne!(damaged, []);
    // What was copied before is not read again.
    let report = back_up(&path("store"), &path("backup")).unwrap();
    assert_eq!(report.copied_segments, 0);
    assert_eq!(verify(&path("backup")).damaged_objects, damaged);
    let asked = back_up_with(&path("store"), &path("backup"), Copies::Read, &mut |_| ());
    let report = asked.unwrap();
    assert_eq!(
        (report.copied_segments, report.damaged_objects),
        (1, vec![])
    );
    assert_eq!(verify(&path("backup")).damaged_objects, []);
    assert_eq!(copies(&path("backup")), all);
    let asked = back_up_with(&path("store"), &path("backup"), Copies::Read, &mut |_| ());
    assert_eq!(asked.unwrap().copied_segments, 0);
}

fn make_pipe(path: &Path) {
    let _ = fs::remove_file(path);
    let pipe = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, pipe, 0o600.into(), 0).unwrap();
}

#[test]
fn what_is_no_file_is_neither_waited_for_nor_followed() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let store = open(&path("store"));
    fill(&store);
    back_up(&path("store"), &path("backup")).unwrap();
    for end in ["seg", "pages"] {
        let all = copies(&path("backup"));
        let copy = all
            .iter()
            .find(|path| path.extension().is_some_and(|found| found == end));
        make_pipe(copy.unwrap());
        assert_ne!(verify(&path("backup")).damaged_objects, [], "{end}");
        back_up(&path("store"), &path("backup")).unwrap();
        assert_eq!(verify(&path("backup")).damaged_objects, [], "{end}");
    }

    // What is written is the backup's own.
    fs::write(path("mine"), "text").unwrap();
    push_library(&store, "more@1", &content(9, 5), SPARSE).unwrap();
    symlink(path("mine"), path("backup/catalogue.new")).unwrap();
    for segment in store.segment_files().unwrap() {
        for end in ["seg.new", "pages.new"] {
            let link = path(&format!("backup/segments/{segment}.{end}"));
            symlink(path("mine"), link).unwrap();
        }
    }
    back_up(&path("store"), &path("backup")).unwrap();
    assert_eq!(fs::read_to_string(path("mine")).unwrap(), "text");
    assert_eq!(verify(&path("backup")).damaged_objects, []);

    make_pipe(&path("backup/catalogue"));
    let error = backup::verify(&path("backup"), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
    assert!(back_up(&path("store"), &path("backup")).is_err());
}

#[test]
fn who_may_look_into_a_store_may_look_into_its_backup() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fill(&open(&path("store")));
    for permissions in [0o700, 0o750] {
        fs::set_permissions(path("store"), Permissions::from_mode(permissions)).unwrap();
        let _ = fs::remove_dir_all(path("deep"));
        back_up(&path("store"), &path("deep/down/backup")).unwrap();
        assert_eq!(mode(&path("deep/down/backup")), permissions);
        restore(&path("deep/down/backup"), &path("new"));
        assert_eq!(mode(&path("new")), permissions);
    }
}

#[test]
fn a_store_that_was_opened_is_no_longer_a_restoration() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fill(&open(&path("store")));
    back_up(&path("store"), &path("backup")).unwrap();
    // As a stop after the superblock leaves it.
    restore(&path("backup"), &path("new"));
    fs::write(path("new/restoring"), "").unwrap();
    push_library(&open(&path("new")), "more@1", &content(9, 5), SPARSE).unwrap();
    // Somebody loses the superblock, and asks for the backup to be put over it all.
    fs::rename(path("new/superblock"), path("aside")).unwrap();
    let refused = backup::restore(&path("backup"), &path("new"), Damaged::Refused, &mut |_| ());
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    fs::rename(path("aside"), path("new/superblock")).unwrap();
    let store = open(&path("new"));
    assert_stored(&store, &content(9, 5));
    assert_sound(&store);
}

#[test]
fn another_copy_of_a_store_takes_no_backup_over() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fill(&open(&path("store")));
    let mut copy = Command::new("cp");
    copy.arg("-a").args([path("store"), path("twin")]);
    assert!(copy.status().unwrap().success());
    let push = |store: &str, nth: u64| {
        let store = open(&path(store));
        push_library(&store, &format!("l{nth}@1"), &content(nth, 5), SPARSE).unwrap();
        store.generation().unwrap()
    };
    let made = push("store", 70);
    back_up(&path("store"), &path("backup")).unwrap();
    let whole = fs::read(path("backup/catalogue")).unwrap();
    // As many commits, and more, of another history.
    assert_eq!(push("twin", 80), made);
    for nth in 81..83 {
        let error = back_up(&path("twin"), &path("backup")).unwrap_err();
        assert!(error.to_string().contains("another copy"), "{error}");
        assert_eq!(fs::read(path("backup/catalogue")).unwrap(), whole);
        push("twin", nth);
    }
    // The store itself, with what its journal tells, and when that does not reach back any more.
    push("store", 71);
    back_up(&path("store"), &path("backup")).unwrap();
    push("store", 72);
    assert!(open(&path("store")).checkpoint().unwrap());
    back_up(&path("store"), &path("backup")).unwrap();
    assert_eq!(verify(&path("backup")).damaged_objects, []);
}
