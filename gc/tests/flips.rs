//! Bits that are turned in the files that say what a store has: each is found and named, and nothing is found that is not there.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../store/tests/closed/mod.rs"]
mod closed;
#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use closed::{example, flip, journal_files, reopen, tamper};
use common::{Random, content, library_ref, open, push_library, reservation};
use pool_core::ObjectId;
use pool_gc::fsck::Problem;
use pool_gc::{CollectOptions, FsckLevel, Scrubbed, collect, fsck, scrub};
use pool_store::audit::{Audit, Part, audit};
use pool_store::manifest::TokenScope;
use pool_store::placement::Placement;
use pool_store::repair::{Remedy, repair};
use pool_store::{Store, StoreError, StoreView};

/// A store with tables, a log of the index, a checkpoint and two logs of the journal, all of which have something.
fn filled(directory: &Path) -> Store {
    example(directory);
    let store = open(directory);
    assert!(store.checkpoint().unwrap());
    more(&store, 100);
    // In the way of a checkpoint: a log is begun, and the one before stays.
    let commits = store.generation().unwrap();
    let new = directory.join(format!("journal/{commits:016x}.checkpoint.new"));
    fs::create_dir(&new).unwrap();
    assert!(store.checkpoint().is_err());
    fs::remove_dir(new).unwrap();
    more(&store, 200);
    assert_eq!(journal_files(directory, "log").len(), 2);
    store
}

/// Makes, changes and removes records of several kinds.
fn more(store: &Store, seed: u64) {
    let library = |nth: u64| format!("more{seed}-{nth}@1");
    for nth in 0..4 {
        let dense = Placement::Windows { phase: 0 };
        push_library(store, &library(nth), &content(seed + nth, 40), dense).unwrap();
    }
    store.pin_library(&library_ref(&library(1)), true).unwrap();
    store.delete_library(&library_ref(&library(2))).unwrap();
    store.delete_library(&library_ref("l2@1")).ok();
    let request = reservation(&library(0), b"members");
    store.reserve_addresses(&[request]).unwrap().unwrap();
    let secret = ObjectId::of(b"secret");
    store
        .add_token(&format!("t{seed}"), secret, TokenScope::Read)
        .unwrap();
}

/// A file, and the bytes of it that say something.
type Victim = (PathBuf, u64);

/// What is flipped in: files of `directory` whose names begin or end so.
fn files(directory: PathBuf, names: &[&str]) -> Vec<Victim> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if names
            .iter()
            .any(|part| name.starts_with(part) || name.ends_with(part))
        {
            let bytes = fs::read(&path).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0);
            found.extend(used.map(|last| (path, last as u64 + 1)));
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{names:?}");
    found
}

fn victims(store: &Path) -> Vec<Victim> {
    let mut all = files(store.to_path_buf(), &["superblock", "generation"]);
    all.extend(files(store.join("journal"), &[".checkpoint", ".log"]));
    all.extend(files(
        store.join("index"),
        &[".sst", "CURRENT", "MANIFEST-", ".log"],
    ));
    all
}

/// Bits of a file to turn, one at a time.
fn bits(bytes: u64, random: &mut Random) -> Vec<u64> {
    let flips = std::env::var("POOL_SOAK_FLIPS").map_or(3, |text| text.parse().unwrap());
    if flips >= bytes {
        return (0..bytes).map(|byte| 8 * byte + random.below(8)).collect();
    }
    (0..flips).map(|_| random.below(8 * bytes)).collect()
}

fn follow<T>(directory: &Path, look: impl FnOnce(&StoreView) -> T) -> Result<T, String> {
    let scratch = tempfile::tempdir().unwrap();
    match StoreView::follow(directory, &scratch.path().join("f")) {
        Ok(view) => Ok(look(&view)),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn every_flipped_bit_of_a_closed_store_is_found_and_none_that_is_not_there() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    drop(filled(&store));
    let look = || follow(&store, |view| fsck(view, FsckLevel::Index).findings);
    assert_eq!(look(), Ok(vec![]));
    let mut random = Random(7);
    let mut found_by_name = 0;
    for (path, bytes) in victims(&store) {
        for bit in bits(bytes, &mut random) {
            flip(&path, bit);
            let what = format!("bit {bit} of {} ({bytes} bytes)", path.display());
            match look() {
                Ok(findings) => {
                    assert_eq!(findings.len(), 1, "{what}: {findings:#?}");
                    let name = path.file_name().unwrap().to_str().unwrap();
                    let finding = findings.first();
                    let finding = finding.unwrap_or_else(|| panic!("{what} is not found"));
                    assert!(!finding.advice.is_empty(), "{what}: {finding:?}");
                    found_by_name += usize::from(finding.what.contains(name));
                    assert!(
                        finding.what.contains(name) || finding.what.contains("index"),
                        "{what}: {finding:?}"
                    );
                }
                // Readers refuse it as an opening does.
                Err(said) => {
                    let said = said.replace(store.to_str().unwrap(), "");
                    let named = ["superblock", "index", "generation", "newer release"];
                    assert!(
                        named.iter().any(|part| said.contains(part)),
                        "{what}: {said}"
                    );
                }
            }
            // What people are told to do is what there is to do.
            let part = path.parent().unwrap().file_name().unwrap();
            if part == "index" || part == "journal" {
                let plan = repair(&store, true, &mut |_| ());
                let plan = plan.unwrap_or_else(|error| panic!("{what}: {error}"));
                let is_right = match plan.remedy {
                    Remedy::Index | Remedy::Replay => part == "index",
                    Remedy::Journal => part == "journal",
                    Remedy::None | Remedy::Segments => false,
                };
                assert!(is_right, "{what}: {plan:#?}");
            }
            flip(&path, bit);
        }
    }
    assert!(found_by_name > 20, "{found_by_name}");
    assert_eq!(look(), Ok(vec![]));
}

fn scrubbed(store: &Store) -> Scrubbed {
    scrub(store, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn every_flipped_bit_of_an_open_store_is_found_and_mended_where_that_can_be() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = filled(&directory);
    let clean = scrubbed(&store);
    assert!(clean.report.is_clean(), "{clean:?}");
    let mut random = Random(8);
    let (mut named, mut mended) = (0, 0);
    let parts: [(&str, &[&str]); 3] = [
        ("", &["superblock", "generation"]),
        ("journal", &[".checkpoint", ".log"]),
        ("index", &[".sst", "CURRENT", "MANIFEST-", ".log"]),
    ];
    for (part, names) in parts {
        for name in names {
            let mut left = bits(64, &mut random).len() as u64;
            while left > 0 {
                left -= 1;
                // What was mended is another file by now.
                let all = files(directory.join(part), &[name]);
                let (path, bytes) = all[random.below(all.len() as u64) as usize].clone();
                let bit = random.below(8 * bytes);
                flip(&path, bit);
                let what = format!("bit {bit} of {} ({bytes} bytes)", path.display());
                // Nothing is changed by this.
                assert!(!fsck(&store, FsckLevel::Index).is_sound(), "{what}");
                let found = scrubbed(&store).report.damaged_files;
                assert_eq!(found.len(), 1, "{what}: {found:#?}");
                let relative = path.strip_prefix(&directory).unwrap().to_str().unwrap();
                let is_named = found[0].file == relative;
                assert!(
                    is_named || found[0].part == Part::Index,
                    "{what}: {found:?}"
                );
                named += u32::from(is_named);
                assert_eq!(found[0].mended, part.is_empty(), "{what}: {found:?}");
                assert_eq!(store.distrusts_index(), part == "index", "{what}");
                if found[0].mended {
                    mended += 1;
                    more(&store, 1000 + mended);
                } else {
                    assert!(found[0].advice.contains("pool repair"), "{found:?}");
                    flip(&path, bit);
                }
                let clean = scrubbed(&store);
                assert!(clean.report.is_clean(), "after {what}: {clean:?}");
                assert!(!store.distrusts_index(), "after {what}");
            }
        }
    }
    assert!(named > 15 && mended >= 6, "{named} {mended}");
    // A log without a frame has nothing but a header.
    assert!(store.checkpoint().unwrap());
    let log = journal_files(&directory, "log").pop().unwrap();
    flip(&log, 8 * 20);
    let found = scrubbed(&store).report.damaged_files;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].part, found[0].offset), (Part::Log, Some(0)));
    flip(&log, 8 * 20);
    assert!(scrubbed(&store).report.is_clean());
    // What is gone is as what is damaged, and nothing is made in its place.
    for name in ["journal", "index/CURRENT"] {
        fs::rename(directory.join(name), root.path().join("aside")).unwrap();
        let found = scrubbed(&store).report.damaged_files;
        assert!(found.len() == 1 && !found[0].mended, "{found:?}");
        assert_eq!(found[0].file, name);
        assert!(!directory.join(name).exists());
        fs::rename(root.path().join("aside"), directory.join(name)).unwrap();
    }
    assert!(scrubbed(&store).report.is_clean());
    let told = closed::told(&store);
    drop(store);
    assert_eq!(closed::told(&open(&directory)), told);
}

#[test]
fn a_record_that_differs_from_the_journal_is_named() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let told = closed::told(&filled(&directory));
    let gone = ObjectId::of(&content(100, 40));
    tamper(&directory, |index| {
        let handle = |family| index.cf_handle(family).unwrap();
        // One of the checkpoint and one of a log, one that is missing and one too many.
        let libraries = handle("libraries");
        let record = index.get_cf(libraries, "l0@1").unwrap().unwrap();
        let record = String::from_utf8(record).unwrap();
        let other = record.replace("created_at\":1", "created_at\":2");
        assert_ne!(other, record);
        index.put_cf(libraries, "l0@1", &other).unwrap();
        index.put_cf(libraries, "invented@1", &record).unwrap();
        let pinned = index.get_cf(libraries, "more200-1@1").unwrap().unwrap();
        let pinned = String::from_utf8(pinned).unwrap();
        let free = pinned.replace("pinned\":true", "pinned\":false");
        assert_ne!(free, pinned);
        index.put_cf(libraries, "more200-1@1", free).unwrap();
        index.delete_cf(handle("objects"), gone.0).unwrap();
        index.put_cf(handle("meta"), "epoch", [9; 8]).unwrap();
    });
    let store = open(&directory);
    let mut named: Vec<String> = fsck(&store, FsckLevel::Index)
        .findings
        .into_iter()
        .filter(|finding| finding.problem == Problem::Index)
        .map(|finding| finding.what)
        .collect();
    named.sort();
    let mut expected: Vec<String> = [
        ("l0@1".to_owned(), "libraries"),
        ("invented@1".to_owned(), "libraries"),
        ("more200-1@1".to_owned(), "libraries"),
        (gone.to_string(), "objects"),
        ("epoch".to_owned(), "meta"),
    ]
    .into_iter()
    .map(|(key, family)| {
        format!("index: the record {key} of {family} is not the one that the journal has")
    })
    .collect();
    expected.sort();
    assert_eq!(named, expected);
    // What the index lacks is no garbage, whether that would be found now or was before.
    let told_to_repair = collect(&store, &collecting()).unwrap_err().to_string();
    assert!(told_to_repair.contains("pool repair"), "{told_to_repair}");
    let dry_run = CollectOptions {
        dry_run: true,
        ..collecting()
    };
    assert!(collect(&store, &dry_run).is_err());
    assert!(matches!(store.reap(), Err(StoreError::Distrusted { .. })));
    // No checkpoint takes that over before a repair, however long the logs were and whoever opens the store.
    let before = journal_files(&directory, "checkpoint");
    let name = |nth: u32| format!("{nth}{}", "x".repeat(2 << 20));
    for nth in 0..6 {
        let secret = ObjectId::of(b"secret");
        store
            .add_token(&name(nth), secret, TokenScope::Read)
            .unwrap();
    }
    assert!(store.checkpoint_if_due().unwrap());
    let merged = journal_files(&directory, "checkpoint");
    assert!(merged.len() == 1 && merged != before, "{merged:?}");
    assert_eq!(journal_files(&directory, "log").len(), 1);
    drop(store);
    let store = open(&directory);
    assert!(store.distrusts_index());
    let secret = ObjectId::of(b"secret");
    store.add_token("after", secret, TokenScope::Read).unwrap();
    // Damage of the journal is no reason to, either.
    let log = journal_files(&directory, "log").pop().unwrap();
    flip(&log, 8 * 300);
    let found = scrubbed(&store).report.damaged_files;
    let parts: Vec<_> = found.iter().map(|file| file.part).collect();
    assert_eq!(parts, [Part::Log, Part::Index], "{found:#?}");
    for file in &found {
        let advice = &file.advice;
        assert!(!file.mended && advice.contains("pool backup"), "{file:?}");
    }
    assert!(store.distrusts_index());
    let unmade = store.checkpoint().unwrap_err().to_string();
    assert!(unmade.contains("no checkpoint can be made"), "{unmade}");
    drop(store);
    let refused = repair(&directory, false, &mut |_| ()).unwrap_err();
    assert!(refused.to_string().contains("distrusted"), "{refused}");
    assert_eq!(journal_files(&directory, "checkpoint"), merged);
    flip(&log, 8 * 300);
    // The repair that people are told of.
    let report = repair(&directory, false, &mut |_| ()).unwrap();
    assert_eq!(report.remedy, Remedy::Index, "{report:#?}");
    assert_eq!(report.wrong.len(), 5, "{report:#?}");
    assert_eq!(
        repair(&directory, false, &mut |_| ()).unwrap().remedy,
        Remedy::None
    );
    let store = open(&directory);
    assert!(!store.distrusts_index());
    assert!(scrubbed(&store).report.is_clean());
    store.delete_token("after").unwrap();
    for nth in 0..6 {
        store.delete_token(&name(nth)).unwrap();
    }
    assert_eq!(closed::told(&store), told);
}

/// Everything that has no name.
fn collecting() -> CollectOptions {
    CollectOptions {
        grace: Duration::ZERO,
        ..CollectOptions::default()
    }
}

#[test]
fn a_collection_ends_when_the_index_turns_out_to_be_damaged() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = filled(&directory);
    let object = ObjectId::of(&content(100, 40));
    let collection = store.begin_collection().unwrap();
    let table = closed::newest(&directory, ".sst");
    flip(&table, 8 * 20);
    assert!(!scrubbed(&store).report.is_clean());
    let refused = collection.delete_objects(&[object]);
    assert!(
        matches!(refused, Err(StoreError::Distrusted { .. })),
        "{refused:?}"
    );
    flip(&table, 8 * 20);
    assert!(scrubbed(&store).report.is_clean());
    assert_eq!(collection.delete_objects(&[object]).unwrap(), 1);
}

#[test]
fn a_mark_that_goes_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = filled(&directory);
    let path = directory.join("generation");
    let says = || u64::from_le_bytes(fs::read(&path).unwrap().try_into().unwrap());
    for round in 0..2 {
        let written = says();
        fs::remove_file(&path).unwrap();
        if round == 1 {
            fs::write(&path, written.to_le_bytes()).unwrap();
        }
        let report = fsck(&store, FsckLevel::Index);
        assert_eq!(report.findings[0].problem, Problem::Mark, "{report:?}");
        let found = scrubbed(&store).report.damaged_files;
        assert!(found.len() == 1 && found[0].mended, "{found:?}");
        assert_eq!((found[0].part, says()), (Part::Mark, written));
        more(&store, 300 + round);
        assert!(says() > written);
        assert!(scrubbed(&store).report.is_clean());
    }
}

#[test]
fn what_cannot_be_read_as_a_file_is_waited_for_by_nobody() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = filled(&directory);
    let (path, aside) = (directory.join("index/CURRENT"), root.path().join("aside"));
    fs::rename(&path, &aside).unwrap();
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let found = scrubbed(&store).report.damaged_files;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].file, "index/CURRENT");
    let said = follow(&directory, |_| ()).unwrap_err();
    assert!(said.contains("is not a file"), "{said}");
    fs::rename(&aside, &path).unwrap();
    assert!(scrubbed(&store).report.is_clean());
}

/// What is read, and what is kept of it, does not go by the length that a damaged file has.
#[test]
fn a_log_that_is_too_long_is_damaged_and_no_more() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = filled(&directory);
    let log = journal_files(&directory, "log").pop().unwrap();
    let file = File::options().write(true).open(&log).unwrap();
    let length = file.metadata().unwrap().len();
    flip(&log, 8 * 300);
    file.set_len(1 << 43).unwrap();
    // A frame that would have all of that.
    let at = length + 100;
    file.write_all_at(&u32::MAX.to_le_bytes(), at).unwrap();
    file.write_all_at(&u64::MAX.to_le_bytes(), at + 8).unwrap();
    let found = scrubbed(&store).report.damaged_files;
    assert!(found.len() == 1 && found[0].part == Part::Log, "{found:?}");
    let relative = log.strip_prefix(&directory).unwrap().to_str().unwrap();
    assert_eq!(found[0].file, relative);
    // Those behind the damage are whole.
    assert!(found[0].what.contains("is behind that"), "{found:?}");
    drop(store);
    assert!(reopen(&directory).is_err());
    let plan = repair(&directory, true, &mut |_| ()).unwrap();
    assert_eq!(plan.remedy, Remedy::Journal, "{plan:#?}");
    file.set_len(length).unwrap();
    flip(&log, 8 * 300);
    assert!(scrubbed(&open(&directory)).report.is_clean());
}

#[test]
fn what_others_do_meanwhile_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = filled(&directory);
    let ended = AtomicBool::new(false);
    let now = collecting();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut round = 0;
            while !ended.load(Ordering::Relaxed) {
                round += 1;
                more(&store, 5000 + 10 * round);
                if round % 3 == 0 {
                    store.checkpoint().unwrap();
                    collect(&store, &now).unwrap();
                }
            }
        });
        let mut found = Vec::new();
        for round in 0..12 {
            let mut go_on = |_| ControlFlow::Continue(());
            let mut look = |view: &StoreView| audit(view, &mut go_on).unwrap();
            found.push(if round % 2 == 0 {
                look(&store)
            } else {
                follow(&directory, &mut look).unwrap()
            });
        }
        // Whatever is found, the other thread must end.
        ended.store(true, Ordering::Relaxed);
        for found in found {
            assert_eq!(found, ControlFlow::Continue(Audit::default()));
        }
    });
    // It can be ended at any step.
    let stopped = audit(&store, &mut |_| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap(), ControlFlow::Break(()));
}

/// RocksDB goes on without a filter that it cannot read, and says nothing.
#[test]
fn no_part_of_a_table_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = filled(&directory);
    let tables = files(directory.join("index"), &[".sst"]);
    let (table, bytes) = tables.into_iter().max_by_key(|(_, bytes)| *bytes).unwrap();
    let (mut go_on, mut of_filters) = (|_| ControlFlow::Continue(()), 0);
    for byte in (0..bytes).step_by(61) {
        flip(&table, 8 * byte);
        let ControlFlow::Continue(found) = audit(&store, &mut go_on).unwrap() else {
            panic!("nothing ended it");
        };
        assert_eq!(found.damaged.len(), 1, "byte {byte}: {found:#?}");
        let name = table.file_name().unwrap().to_str().unwrap();
        let what = &found.damaged[0].what;
        assert!(
            what.contains(name) || what.contains("a table of"),
            "{found:#?}"
        );
        of_filters += u32::from(found.damaged[0].what.contains("filter"));
        flip(&table, 8 * byte);
    }
    assert!(of_filters > 0);
}
