//! Repairs: whatever file of the index or the journal is gone or damaged, nothing that was acknowledged is lost.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod closed;
mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use closed::{
    PUSHED, copy, example, flip, gone, journal_files, library, listing, newest, places, refused,
    reopen, told,
};
use common::{content, library_ref, open, push_image, push_library, reservation};
use pool_core::page::PAGE_SIZE;
use pool_core::{ObjectId, PageId};
use pool_store::manifest::TokenScope;
use pool_store::placement::Placement;
use pool_store::repair::{Remedy, RepairReport, repair};
use pool_store::{Result, Store, StoreError, StoreView};

fn mend(store: &Path) -> Result<RepairReport> {
    repair(store, false, &mut |_| ())
}

/// A store with something of every kind, of which the journal's checkpoint has a part and its logs the rest; closed. Answers
/// with what is in it.
fn filled(directory: &Path) -> String {
    example(directory);
    let store = open(directory);
    assert!(store.checkpoint().unwrap());
    // A window whose pages are known, and zeros inside.
    let mut mixed = library(0);
    mixed.extend(vec![0; 3 * PAGE_SIZE as usize]);
    mixed.extend(content(300, 440));
    let dense = Placement::Windows { phase: 7 };
    push_library(&store, "mixed@1", &mixed, dense).unwrap();
    push_image(&store, "app:v1", &content(301, 30), &[("mixed@1", &mixed)]).unwrap();
    store.pin_library(&library_ref("mixed@1"), true).unwrap();
    store.delete_library(&library_ref("l3@1")).unwrap();
    push_library(&store, "l3@1", &library(3), dense).unwrap();
    let request = reservation("mixed@1", b"members");
    store.reserve_addresses(&[request]).unwrap().unwrap();
    let secret = ObjectId::of(b"secret");
    store.add_token("ci", secret, TokenScope::Write).unwrap();
    told(&store)
}

/// Looks at everything, which an index with a damaged table does not allow.
fn look(store: &Path) -> Result<String> {
    let store = reopen(store)?;
    let all = store.snapshot();
    all.for_each_page(|_, _| Ok(()))?;
    all.for_each_window(|_, _| Ok(()))?;
    all.for_each_object(|_, _| Ok(()))?;
    for (library, _) in all.libraries()? {
        all.library_users(&library)?;
    }
    for (image, _) in all.tags()? {
        all.image(&image)?;
    }
    all.reservations()?;
    all.tokens()?;
    drop(all);
    Ok(told(&store))
}

#[test]
fn an_index_that_is_gone_is_made_anew() {
    let path = places();
    let whole = filled(&path("store"));
    let counts = |store: &Store| {
        let stats = store.stats().unwrap();
        (
            stats.stored_pages,
            stats.dense_windows,
            stats.objects,
            store.epoch().unwrap(),
        )
    };
    let store = reopen(&path("store")).unwrap();
    let (before, generation) = (counts(&store), store.generation().unwrap());
    let segments = store.segments().unwrap();
    assert!(matches!(
        mend(&path("store")),
        Err(StoreError::Locked { .. })
    ));
    drop(store);
    let sound = mend(&path("store")).unwrap();
    assert_eq!(
        (sound.remedy, sound.done, &sound.wrong),
        (Remedy::None, false, &vec![])
    );

    gone(&path("store/index"));
    let said = refused(&path("store"));
    let stake = format!("all of its {generation} commits");
    assert!(
        said.contains("pool repair") && said.contains(&stake),
        "{said}"
    );
    let spoilt = listing(&path("store"));
    let rehearsed = repair(&path("store"), true, &mut |_| ()).unwrap();
    assert_eq!((rehearsed.remedy, rehearsed.done), (Remedy::Index, false));
    assert_eq!(listing(&path("store")), spoilt);

    let (mut read, mut total) = (0, 0);
    let made = repair(&path("store"), false, &mut |progress| {
        read += progress.read;
        total = progress.total;
    });
    let made = made.unwrap();
    assert_eq!(
        (made.remedy, made.done, made.commits),
        (Remedy::Index, true, generation)
    );
    assert_eq!(
        (made.damaged_objects, made.moved, made.left),
        (vec![], vec![], vec![])
    );
    assert!(made.replayed > 3 && made.objects > PUSHED);
    assert!(read > 0 && read <= total, "{read} of {total}");
    let store = reopen(&path("store")).unwrap();
    assert_eq!(told(&store), whole);
    assert_eq!(counts(&store), before);
    assert_eq!(store.generation().unwrap(), generation);
    assert_eq!(store.segments().unwrap(), segments);
    // What was stored once is known.
    let again = push_library(&store, "again@1", &library(5), Placement::Sparse).unwrap();
    assert_eq!(again.written_pages.0, 0, "{again:?}");
    assert!(
        store
            .page(&PageId::of(&library(2)[..PAGE_SIZE as usize]))
            .unwrap()
            .is_some()
    );
    drop(store);
    assert!(!path("store/repairing").exists() && !path("store/index.new").exists());
}

/// Whatever is done to one file, an opening or a repair and an opening find everything.
fn comes_back(store: &Path, whole: &str, what: &str) -> Option<Remedy> {
    match look(store) {
        Ok(found) => {
            assert_eq!(found, whole, "{what}");
            None
        }
        Err(error) => {
            let is_named = matches!(error, StoreError::Refused { .. } | StoreError::Index { .. });
            assert!(is_named, "{what}: {error:?}");
            let report = mend(store).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(report.done, "{what}: {report:?}");
            assert_eq!(look(store).unwrap(), whole, "{what}: {report:?}");
            Some(report.remedy)
        }
    }
}

#[test]
fn every_file_of_index_and_journal_may_go_or_be_damaged() {
    let flips: u64 = std::env::var("POOL_SOAK_FLIPS").map_or(1, |text| text.parse().unwrap());
    let path = places();
    let whole = filled(&path("whole"));
    // An opening makes tables of the log.
    drop(open(&path("whole")));
    let mut remedies = Vec::new();
    for part in ["index", "journal"] {
        let files = fs::read_dir(path("whole").join(part)).unwrap();
        let mut names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            let file = path("whole").join(part).join(&name);
            let length = fs::metadata(&file).unwrap().len();
            let used = fs::read(&file).unwrap();
            let used = used
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last as u64 + 1);
            for nth in 0..=flips {
                copy(&path("whole"), &path("store"));
                let spoilt = path("store").join(part).join(&name);
                let what = if nth == flips {
                    gone(&spoilt);
                    format!("{} is gone", file.display())
                } else if length > 0 {
                    let bit = used.max(1) * 8 * (2 * nth + 1) / (2 * flips) + nth % 8;
                    flip(&spoilt, bit.min(length * 8 - 1));
                    format!("bit {bit} of {}", file.display())
                } else {
                    String::new()
                };
                remedies.extend(comes_back(&path("store"), &whole, &what));
                gone(&path("store"));
            }
        }
    }
    for remedy in [Remedy::Index, Remedy::Journal] {
        assert!(remedies.contains(&remedy), "{remedies:?}");
    }
}

/// What is done to a closed store, and what mends it.
type Case = (&'static str, fn(&Path, &Path), Remedy);

/// Each is given the store and a directory with parts of others: `old`, from before the checkpoint, and `other`, another store's.
const CASES: &[Case] = &[
    (
        "index empty",
        |s, _| {
            gone(&s.join("index"));
            fs::create_dir(s.join("index")).unwrap();
        },
        Remedy::Index,
    ),
    (
        "index a dangling link",
        |s, _| {
            gone(&s.join("index"));
            symlink("/nowhere", s.join("index")).unwrap();
        },
        Remedy::Index,
    ),
    (
        "index another store's",
        |s, parts| {
            gone(&s.join("index"));
            copy(&parts.join("other/index"), &s.join("index"));
        },
        Remedy::Index,
    ),
    (
        "index from before the checkpoint",
        |s, parts| {
            gone(&s.join("index"));
            copy(&parts.join("old/index"), &s.join("index"));
        },
        Remedy::Index,
    ),
    (
        "journal gone",
        |s, _| gone(&s.join("journal")),
        Remedy::Journal,
    ),
    (
        "journal empty",
        |s, _| {
            gone(&s.join("journal"));
            fs::create_dir(s.join("journal")).unwrap();
        },
        Remedy::Journal,
    ),
    (
        "journal another store's",
        |s, parts| {
            gone(&s.join("journal"));
            copy(&parts.join("other/journal"), &s.join("journal"));
        },
        Remedy::Journal,
    ),
    (
        "journal older",
        |s, parts| {
            gone(&s.join("journal"));
            copy(&parts.join("old/journal"), &s.join("journal"));
        },
        Remedy::Journal,
    ),
    (
        "log cut short",
        |s, _| {
            let log = journal_files(s, "log").pop().unwrap();
            File::options()
                .write(true)
                .open(log)
                .unwrap()
                .set_len(300)
                .unwrap();
        },
        Remedy::Journal,
    ),
    (
        "index gone and mark gone",
        |s, _| {
            gone(&s.join("index"));
            gone(&s.join("generation"));
        },
        Remedy::Index,
    ),
];

#[test]
fn what_is_gone_or_another_s_is_made_anew_and_kept_aside() {
    let path = places();
    example(&path("whole"));
    copy(&path("whole"), &path("old"));
    example(&path("other"));
    gone(&path("whole"));
    copy(&path("old"), &path("whole"));
    let whole = filled_on(&path("whole"));
    for (what, spoil, remedy) in CASES {
        copy(&path("whole"), &path("store"));
        spoil(&path("store"), &path(""));
        let said = refused(&path("store"));
        assert!(
            said.contains("pool repair") || what.contains("mark"),
            "{what}: {said}"
        );
        let there = path("store/index").symlink_metadata().is_ok() || *remedy == Remedy::Journal;
        let there = there && *what != "journal gone";
        let report = mend(&path("store")).unwrap();
        assert_eq!(
            (report.remedy, report.done),
            (*remedy, true),
            "{what}: {report:?}"
        );
        assert_eq!(report.moved.len(), usize::from(there), "{what}: {report:?}");
        for moved in &report.moved {
            assert!(moved.starts_with(path("store/lost")) && moved.symlink_metadata().is_ok());
        }
        assert_eq!(look(&path("store")).unwrap(), whole, "{what}");
        let sound = mend(&path("store")).unwrap();
        assert_eq!(sound.remedy, Remedy::None, "{what}: {sound:?}");
        gone(&path("store"));
    }
}

/// Goes on as [`filled`] does after its example.
fn filled_on(directory: &Path) -> String {
    let store = open(directory);
    push_library(&store, "b@1", &content(401, 30), Placement::Sparse).unwrap();
    assert!(store.checkpoint().unwrap());
    push_library(&store, "a@1", &content(400, 30), Placement::Sparse).unwrap();
    told(&store)
}

#[test]
fn an_older_index_is_brought_up_by_a_repair_too() {
    let path = places();
    example(&path("store"));
    copy(&path("store/index"), &path("old"));
    let store = open(&path("store"));
    push_library(&store, "a@1", &content(400, 30), Placement::Sparse).unwrap();
    let whole = told(&store);
    drop(store);
    gone(&path("store/index"));
    copy(&path("old"), &path("store/index"));
    // With a damaged checkpoint, which only a repair reads.
    let checkpoint = journal_files(&path("store"), "checkpoint").remove(0);
    flip(&checkpoint, 8 * 80);
    let report = mend(&path("store")).unwrap();
    assert_eq!(
        (report.remedy, report.done),
        (Remedy::Replay, true),
        "{report:?}"
    );
    assert!(report.replayed > 0 && report.wrong.len() == 2, "{report:?}");
    assert_eq!(look(&path("store")).unwrap(), whole);
    assert_eq!(mend(&path("store")).unwrap().remedy, Remedy::None);
}

#[test]
fn a_stop_in_a_commit_and_a_damaged_journal_are_no_loss() {
    let path = places();
    filled(&path("store"));
    copy(&path("store/index"), &path("old"));
    let generation = fs::read(path("store/generation")).unwrap();
    let store = open(&path("store"));
    push_library(&store, "last@1", &content(402, 3), Placement::Sparse).unwrap();
    let whole = told(&store);
    drop(store);
    // The frame was written, and then the process was killed.
    gone(&path("store/index"));
    copy(&path("old"), &path("store/index"));
    fs::write(path("store/generation"), generation).unwrap();
    copy(&path("store"), &path("whole"));
    let spoil: [fn(&Path); 4] = [
        |s| gone(&journal_files(s, "checkpoint").pop().unwrap()),
        |s| flip(&journal_files(s, "checkpoint").pop().unwrap(), 8 * 30),
        // The first frame of the newest log; its header.
        |s| flip(&journal_files(s, "log").pop().unwrap(), 8 * 150),
        |s| flip(&journal_files(s, "log").pop().unwrap(), 8 * 40),
    ];
    for (nth, spoil) in spoil.into_iter().enumerate() {
        gone(&path("store"));
        copy(&path("whole"), &path("store"));
        spoil(&path("store"));
        refused(&path("store"));
        let before = listing(&path("store"));
        let plan = repair(&path("store"), true, &mut |_| ()).unwrap();
        assert_eq!(listing(&path("store")), before);
        let report = mend(&path("store")).unwrap();
        assert_eq!(report.remedy, Remedy::Replay, "{nth}: {report:?}");
        assert_eq!((plan.remedy, plan.wrong), (report.remedy, report.wrong));
        assert!(report.done && report.replayed > 0 && report.moved.len() == 1);
        assert_eq!(look(&path("store")).unwrap(), whole, "{nth}");
        assert_eq!(mend(&path("store")).unwrap().remedy, Remedy::None);
        // The journal that was begun has all of it.
        gone(&path("store/index"));
        assert_eq!(mend(&path("store")).unwrap().remedy, Remedy::Index);
        assert_eq!(look(&path("store")).unwrap(), whole, "{nth}");
    }
}

#[test]
fn an_index_is_not_made_of_segments_that_are_elsewhere() {
    let path = places();
    let whole = filled(&path("store"));
    gone(&path("store/index"));
    fs::rename(path("store/segments"), path("elsewhere")).unwrap();
    fs::create_dir(path("store/segments")).unwrap();
    let before = listing(&path("store"));
    let error = mend(&path("store")).unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("mount"), "{error}");
    assert_eq!(listing(&path("store")), before);
    fs::remove_dir(path("store/segments")).unwrap();
    fs::rename(path("elsewhere"), path("store/segments")).unwrap();
    mend(&path("store")).unwrap();
    assert_eq!(look(&path("store")).unwrap(), whole);
}

#[test]
fn a_part_of_a_segment_that_cannot_be_read_costs_no_other_page() {
    let path = places();
    let store = open(&path("store"));
    let (kept, lost) = (content(500, 30), content(501, 30));
    push_library(&store, "kept@1", &kept, Placement::Sparse).unwrap();
    push_library(&store, "lost@1", &lost, Placement::Sparse).unwrap();
    let extent = store
        .object(ObjectId::of(&kept))
        .unwrap()
        .unwrap()
        .map
        .extents()[0];
    assert_eq!((extent.slot.0, extent.count), (0, 30));
    drop(store);
    let segment = path("store").join(format!("segments/{}.seg", extent.segment));
    let segment = File::options().write(true).open(segment).unwrap();
    let length = segment.metadata().unwrap().len();
    segment.set_len(30 * PAGE_SIZE).unwrap();
    gone(&path("store/index"));
    let report = mend(&path("store")).unwrap();
    assert_eq!(report.damaged_objects, [ObjectId::of(&lost)]);
    assert_eq!(report.left.len(), 1, "{report:?}");
    segment.set_len(length).unwrap();
    let store = reopen(&path("store")).unwrap();
    let first = PageId::of(&kept[..PAGE_SIZE as usize]);
    assert!(store.page(&first).unwrap().is_some());
    let first = PageId::of(&lost[..PAGE_SIZE as usize]);
    assert!(store.page(&first).unwrap().is_none());
}

#[test]
fn nothing_is_done_where_index_and_journal_are_both_damaged() {
    let path = places();
    filled(&path("whole"));
    let spoil_journal: [fn(&Path); 3] = [
        |s| gone(&s.join("journal")),
        |s| flip(&journal_files(s, "log").pop().unwrap(), 8 * 200),
        |s| flip(&journal_files(s, "checkpoint").pop().unwrap(), 8 * 200),
    ];
    let spoil_index: [fn(&Path); 2] = [|s| gone(&s.join("index")), |s| gone(&newest(s, ".sst"))];
    for journal in spoil_journal {
        for index in spoil_index {
            copy(&path("whole"), &path("store"));
            journal(&path("store"));
            index(&path("store"));
            let before = listing(&path("store"));
            let error = mend(&path("store")).unwrap_err();
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
            assert!(
                error.to_string().contains("cannot stand in for it"),
                "{error}"
            );
            assert_eq!(listing(&path("store")), before);
            gone(&path("store"));
        }
    }
}

#[test]
fn a_repair_that_was_cut_short_is_run_again() {
    let path = places();
    let whole = filled(&path("whole"));
    let half: &[fn(&Path)] = &[
        // While the index was made.
        |s| {
            fs::write(s.join("repairing"), b"").unwrap();
            copy(&s.join("index"), &s.join("index.new"));
            gone(&newest(s, ".sst"));
        },
        // Between the two renames.
        |s| {
            fs::write(s.join("repairing"), b"").unwrap();
            copy(&s.join("index"), &s.join("index.new"));
            fs::create_dir(s.join("lost")).unwrap();
            fs::rename(s.join("index"), s.join("lost/index")).unwrap();
        },
        // The same of a journal.
        |s| {
            copy(&s.join("journal"), &s.join("journal.new"));
            fs::create_dir(s.join("lost")).unwrap();
            fs::rename(s.join("journal"), s.join("lost/journal")).unwrap();
        },
    ];
    for (nth, cut) in half.iter().enumerate() {
        copy(&path("whole"), &path("store"));
        cut(&path("store"));
        let report = mend(&path("store")).unwrap();
        assert!(report.done, "{nth}: {report:?}");
        assert_eq!(look(&path("store")).unwrap(), whole, "{nth}");
        for left in ["repairing", "index.new", "journal.new"] {
            assert!(!path("store").join(left).exists(), "{nth}: {left}");
        }
        gone(&path("store"));
    }
    // What no repair made is somebody's.
    copy(&path("whole"), &path("store"));
    gone(&path("store/index"));
    fs::create_dir(path("store/index.new")).unwrap();
    let error = mend(&path("store")).unwrap_err();
    assert!(error.to_string().contains("move it away"), "{error}");
    assert!(path("store/index.new").exists());
}

#[test]
fn damaged_objects_are_named_and_stay_damaged() {
    let path = places();
    filled(&path("store"));
    // Of one object alone, in a window of its own, and of one in single pages.
    let damaged: Vec<(PathBuf, u64, ObjectId)> = {
        let store = reopen(&path("store")).unwrap();
        let places = [library(1), library(4)].map(|bytes| {
            let id = ObjectId::of(&bytes);
            let extent = store.object(id).unwrap().unwrap().map.extents()[0];
            let file = path("store").join(format!("segments/{}.seg", extent.segment));
            (file, extent.slot.byte_offset(), id)
        });
        places.into()
    };
    for (file, offset, _) in &damaged {
        let file = File::options().write(true).open(file).unwrap();
        file.write_all_at(b"spoilt", *offset).unwrap();
    }
    gone(&path("store/index"));
    let report = mend(&path("store")).unwrap();
    let mut expected: Vec<ObjectId> = damaged.iter().map(|(_, _, id)| *id).collect();
    expected.sort_unstable();
    let mut found = report.damaged_objects;
    found.sort_unstable();
    assert_eq!(found, expected);
    let view = StoreView::follow(&path("store"), &path("scratch")).unwrap();
    let report = pool_store::scrub::scrub(&view, &mut |_| ()).unwrap();
    assert_eq!(report.damaged_files, [], "index and journal are the same");
    let mut scrubbed = report.damaged_objects;
    scrubbed.sort_unstable();
    assert_eq!(scrubbed, expected, "what is damaged counts as right now");
    drop(view);
    // They are noted, so the next push of one mends it.
    let store = reopen(&path("store")).unwrap();
    assert!(store.damaged_slots() >= 2);
    push_library(&store, "l1@1", &library(1), Placement::Windows { phase: 0 }).unwrap();
    common::assert_stored(&store, &library(1));
    let file = store.object(ObjectId::of(&library(1))).unwrap().unwrap();
    let file = file.map.extents()[0].segment;
    drop(store);
    // A lost segment is none that a repair brings back.
    gone(&path("store").join(format!("segments/{file}.seg")));
    let left = mend(&path("store")).unwrap().left;
    assert!(
        left.len() == 1 && left[0].contains("has no file"),
        "{left:?}"
    );
}
