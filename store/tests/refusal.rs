//! A store whose index or segments are not what they were is refused, and nothing is changed: with
//! the right files back, everything acknowledged is there.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{assert_stored, content, image_ref, library_ref, open, push_image, push_library};
use pool_core::page::WINDOW_SIZE;
use pool_store::format::{FEATURE_MARKED, Superblock};
use pool_store::placement::Placement;
use pool_store::{Store, StoreError, StoreOptions, StoreView};
use rocksdb::{DB, Options, WriteBatch};

/// Libraries that [`example`] pushes.
const PUSHED: u64 = 12;

fn library(nth: u64) -> Vec<u8> {
    content(nth, 40 + nth as usize)
}

/// A store with tables, a log, several segments and [`PUSHED`] libraries, closed.
fn example(directory: &Path) {
    for round in 0..2 {
        // Each opening turns the log of the one before into tables.
        let store = open(directory);
        for nth in round * PUSHED / 2..(round + 1) * PUSHED / 2 {
            let placement = match nth % 2 {
                0 => Placement::Sparse,
                _ => Placement::Windows { phase: 0 },
            };
            push_library(&store, &format!("l{nth}@1"), &library(nth), placement).unwrap();
        }
        push_image(&store, &format!("i:{round}"), &content(99, 3), &[]).unwrap();
    }
}

fn assert_whole(store: &StoreView) {
    for nth in 0..PUSHED {
        let name = library_ref(&format!("l{nth}@1"));
        assert!(store.library(&name).unwrap().is_some(), "{name}");
        assert_stored(store, &library(nth));
    }
    assert!(store.image(&image_ref("i:1")).unwrap().is_some());
}

fn reopen(directory: &Path) -> Result<Store, StoreError> {
    Store::open(directory, StoreOptions::default())
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.args(["-a", "--sparse=always"]).arg(from).arg(to);
    assert!(command.status().unwrap().success());
}

/// Every file with its digest, every link with its target, every directory.
fn listing(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let what = if metadata.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else if metadata.is_dir() {
                open.push(path.clone());
                "directory".into()
            } else {
                blake3::hash(&fs::read(&path).unwrap()).to_string()
            };
            found.insert(path, what);
        }
    }
    found
}

/// The newest file of the index whose name ends so.
fn newest(directory: &Path, end: &str) -> PathBuf {
    let entries = fs::read_dir(directory.join("index")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.ends_with(end) || name.starts_with(end)
    };
    paths.filter(named).max().unwrap()
}

fn flip(path: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

/// What a refused opening says. Fails when it was not refused, or changed anything.
fn refused(directory: &Path) -> String {
    let before = listing(directory);
    let error = reopen(directory).expect_err("the store was opened");
    assert_eq!(listing(directory), before, "{error}");
    assert!(
        matches!(
            error,
            StoreError::Refused { .. } | StoreError::NotAStore { .. }
        ),
        "{error:?}"
    );
    error.to_string()
}

/// What is done to a store, and what the refusal says.
type Case = (&'static str, fn(&Path, &Path), &'static str);

/// Each is given the store and an older index of it.
const CASES: &[Case] = &[
    (
        "index absent",
        |s, _| gone(&s.join("index")),
        "is not there",
    ),
    (
        "index empty",
        |s, _| {
            gone(&s.join("index"));
            fs::create_dir(s.join("index")).unwrap();
        },
        "no file CURRENT",
    ),
    (
        "index a file",
        |s, _| {
            gone(&s.join("index"));
            fs::write(s.join("index"), b"x").unwrap();
        },
        "not a directory",
    ),
    (
        "index a dangling link",
        |s, _| {
            gone(&s.join("index"));
            symlink("/nowhere", s.join("index")).unwrap();
        },
        "is not there",
    ),
    (
        "index older",
        |s, old| {
            gone(&s.join("index"));
            copy(old, &s.join("index"));
        },
        "an older one",
    ),
    (
        "index without CURRENT",
        |s, _| gone(&s.join("index/CURRENT")),
        "no file CURRENT",
    ),
    (
        "CURRENT spoilt",
        |s, _| fs::write(s.join("index/CURRENT"), b"MANIFEST-999999\n").unwrap(),
        "cannot be read",
    ),
    (
        "CURRENT cut",
        |s, _| fs::write(s.join("index/CURRENT"), b"").unwrap(),
        "cannot be read",
    ),
    (
        "log absent",
        |s, _| gone(&newest(s, ".log")),
        "an older one",
    ),
    (
        "log empty",
        |s, _| fs::write(newest(s, ".log"), b"").unwrap(),
        "an older one",
    ),
    ("log cut", |s, _| cut(&newest(s, ".log")), "an older one"),
    (
        "list of tables spoilt",
        |s, _| flip(&newest(s, "MANIFEST"), 8 * 200),
        "cannot be read",
    ),
    ("list of tables cut", |s, _| cut(&newest(s, "MANIFEST")), ""),
    (
        "table absent",
        |s, _| gone(&newest(s, ".sst")),
        "cannot be read",
    ),
    (
        "table cut",
        |s, _| cut(&newest(s, ".sst")),
        "cannot be read",
    ),
    (
        "mark absent",
        |s, _| gone(&s.join("generation")),
        "an older copy will do",
    ),
    (
        "mark cut",
        |s, _| fs::write(s.join("generation"), b"1234567").unwrap(),
        "an older copy will do",
    ),
    (
        "segment absent",
        |s, _| gone(&s.join("segments/00000000.seg")),
        "segment 00000000 has no file",
    ),
    (
        "segment short",
        |s, _| cut(&s.join("segments/00000001.seg")),
        "segment 00000001 has 2097152 bytes",
    ),
    (
        "segment a directory",
        |s, _| {
            gone(&s.join("segments/00000001.seg"));
            fs::create_dir(s.join("segments/00000001.seg")).unwrap();
        },
        "not a file",
    ),
    (
        "segments absent",
        |s, _| gone(&s.join("segments")),
        "not to be found",
    ),
    (
        "superblock absent",
        |s, _| gone(&s.join("superblock")),
        "superblock is missing",
    ),
    (
        "superblock empty",
        |s, _| fs::write(s.join("superblock"), b"").unwrap(),
        "from a backup",
    ),
    (
        "superblock zeroed",
        |s, _| fs::write(s.join("superblock"), [0; 128]).unwrap(),
        "from a backup",
    ),
];

fn gone(path: &Path) {
    if fs::symlink_metadata(path).unwrap().is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

fn cut(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

#[test]
fn what_does_not_belong_together_is_refused_and_left_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    example(&path("whole"));
    {
        let store = open(&path("whole"));
        copy(&path("whole/index"), &path("old-index"));
        push_library(&store, "newest@1", b"newest", Placement::Sparse).unwrap();
    }
    for (what, spoil, words) in CASES {
        copy(&path("whole"), &path("store"));
        spoil(&path("store"), &path("old-index"));
        let spoilt = listing(&path("store"));
        let said = refused(&path("store"));
        assert!(said.contains(words), "{what}: {said}");
        let create = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        assert!(Store::open(&path("store"), create).is_err(), "{what}");
        assert_eq!(listing(&path("store")), spoilt, "{what}");
        // A reader needs the index, and looks for segments when it reads them.
        if !what.starts_with("segment") {
            let followed = StoreView::follow(&path("store"), &path("scratch"));
            assert!(followed.is_err(), "{what}");
            assert_eq!(listing(&path("store")), spoilt, "{what}");
        }
        for part in fs::read_dir(path("whole")).unwrap() {
            let part = part.unwrap().file_name();
            if fs::symlink_metadata(path("store").join(&part)).is_ok() {
                gone(&path("store").join(&part));
            }
            copy(&path("whole").join(&part), &path("store").join(&part));
        }
        let store = reopen(&path("store")).unwrap();
        assert_whole(&store);
        assert_stored(&store, b"newest");
        drop(store);
        gone(&path("store"));
    }
}

#[test]
fn the_index_of_another_store_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    example(&path("store"));
    example(&path("other"));
    gone(&path("store/index"));
    copy(&path("other/index"), &path("store/index"));
    assert!(refused(&path("store")).contains("another store"));
    let followed = StoreView::follow(&path("store"), &path("scratch"));
    assert!(followed.unwrap_err().to_string().contains("another store"));
}

#[test]
fn an_index_elsewhere_behind_a_link_is_as_good() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    example(&path("store"));
    fs::rename(path("store/index"), path("moved")).unwrap();
    symlink("../moved", path("store/index")).unwrap();
    assert_whole(&reopen(&path("store")).unwrap());
}

#[test]
fn no_flipped_bit_of_the_index_loses_anything_silently() {
    let flips: u64 = std::env::var("POOL_SOAK_FLIPS").map_or(24, |text| text.parse().unwrap());
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    example(&path("whole"));
    copy(&path("whole"), &path("store"));
    let (mut refusals, mut found_later) = (0, 0);
    for end in [".log", "MANIFEST", ".sst", "OPTIONS", "CURRENT"] {
        let name = newest(&path("whole"), end);
        let bits = fs::metadata(&name).unwrap().len() * 8;
        for nth in 0..flips {
            // The last record is the one that tolerance of torn tails is about.
            let bit = match nth % 4 {
                0 => bits - 1 - (nth * 97) % bits.min(2400),
                _ => bits / flips * nth + nth % 8,
            };
            gone(&path("store/index"));
            copy(&path("whole/index"), &path("store/index"));
            copy(&path("whole/generation"), &path("store"));
            flip(&path("store/index").join(name.file_name().unwrap()), bit);
            let before = listing(&path("store"));
            match reopen(&path("store")) {
                Err(error) => {
                    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
                    assert_eq!(listing(&path("store")), before, "{end} bit {bit}: {error}");
                    refusals += 1;
                }
                // A block of a table is checked when it is read.
                Ok(store) => match (0..PUSHED).try_for_each(|nth| {
                    let name = library_ref(&format!("l{nth}@1"));
                    let record = store.library(&name)?;
                    assert!(record.is_some(), "{end} bit {bit}: {name} is lost");
                    let object = store.object(record.unwrap().object)?;
                    assert!(object.is_some(), "{end} bit {bit}: {name} has no object");
                    Ok::<_, StoreError>(())
                }) {
                    Ok(()) => {}
                    Err(StoreError::Index { .. }) => found_later += 1,
                    Err(other) => panic!("{end} bit {bit}: {other}"),
                },
            }
        }
    }
    assert!(
        refusals > flips,
        "{refusals} refused, {found_later} found later"
    );
}

#[test]
fn zeros_in_the_middle_of_the_log_are_noticed() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    {
        let store = open(&path("whole"));
        for nth in 0..200 {
            let scope = pool_store::manifest::TokenScope::Read;
            let secret = pool_core::ObjectId::of(b"secret");
            store.add_token(&format!("t{nth}"), secret, scope).unwrap();
        }
    }
    copy(&path("whole"), &path("store"));
    let log = newest(&path("whole"), ".log");
    let length = fs::metadata(&log).unwrap().len();
    assert!(length > 3 * 4096, "{length}");
    for from in (0..length - 4096).step_by(1000) {
        gone(&path("store/index"));
        copy(&path("whole/index"), &path("store/index"));
        let spoilt = path("store/index").join(log.file_name().unwrap());
        let file = File::options().write(true).open(spoilt).unwrap();
        file.write_all_at(&[0; 4096], from).unwrap();
        let said = refused(&path("store"));
        assert!(said.contains("log"), "{from}: {said}");
    }
}

#[test]
fn what_a_stop_leaves_of_an_unanswered_commit_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    example(&path("running"));
    let store = open(&path("running"));
    push_library(&store, "before@1", &content(50, 3), Placement::Sparse).unwrap();
    let log = newest(&path("running"), ".log");
    let acknowledged = fs::metadata(&log).unwrap().len();
    copy(&path("running"), &path("stopped"));
    push_library(&store, "during@1", &content(51, 90), Placement::Sparse).unwrap();
    let whole = fs::read(&log).unwrap();
    drop(store);
    let record = whole.len() - acknowledged as usize;
    for (nth, written) in (0..=record)
        .step_by(record / 16)
        .chain([record])
        .enumerate()
    {
        // Cut there; zeros from there; the other half of the record zero.
        for shape in 0..3 {
            let mut torn = whole.clone();
            let cut = acknowledged as usize + written;
            match shape {
                0 => torn.truncate(cut),
                1 => torn[cut..].fill(0),
                _ => torn[acknowledged as usize..cut].fill(0),
            }
            copy(&path("stopped"), &path("store"));
            let name = path("store/index").join(log.file_name().unwrap());
            fs::write(name, &torn).unwrap();
            let store = reopen(&path("store")).unwrap();
            assert_whole(&store);
            assert_stored(&store, &content(50, 3));
            push_library(&store, "after@1", &content(52, 90), Placement::Sparse).unwrap();
            drop(store);
            let store = reopen(&path("store")).unwrap();
            assert_whole(&store);
            assert_stored(&store, &content(52, 90));
            drop(store);
            gone(&path("store"));
            assert!(nth < 64);
        }
    }
}

/// Makes of a closed store what release 0.1 made: no identity and no count in the index, and a
/// superblock without feature bits.
fn as_old_release(directory: &Path) {
    let path = directory.join("superblock");
    let mut superblock = Superblock::decode(&fs::read(&path).unwrap(), true).unwrap();
    superblock.read_only_compatible &= !FEATURE_MARKED;
    fs::write(path, superblock.encode()).unwrap();
    let path = directory.join("index");
    let families = DB::list_cf(&Options::default(), &path).unwrap();
    let index = DB::open_cf(&Options::default(), &path, families).unwrap();
    let meta = index.cf_handle("meta").unwrap();
    let mut batch = WriteBatch::default();
    for entry in index.iterator_cf(meta, rocksdb::IteratorMode::Start) {
        let (key, _) = entry.unwrap();
        if !matches!(&*key, b"epoch" | b"next-segment") {
            batch.delete_cf(meta, key);
        }
    }
    index.write(batch).unwrap();
}

#[test]
fn a_store_of_an_old_release_is_taken_over_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    example(&path);
    let segment = fs::metadata(path.join("segments/00000000.seg"))
        .unwrap()
        .len();
    assert_eq!(segment, 2 * WINDOW_SIZE);
    as_old_release(&path);
    // What a stop left of an old release's commit.
    fs::write(path.join("segments/000000aa.seg"), b"left").unwrap();

    let view = StoreView::follow(&path, &directory.path().join("scratch")).unwrap();
    assert_whole(&view);
    drop(view);
    let generation = fs::read(path.join("generation")).unwrap();
    let store = reopen(&path).unwrap();
    assert!(store.superblock().read_only_compatible & FEATURE_MARKED != 0);
    assert_whole(&store);
    assert_eq!(fs::read(path.join("lost/000000aa.seg")).unwrap(), b"left");
    push_library(&store, "new@1", b"new", Placement::Sparse).unwrap();
    drop(store);
    assert!(fs::read(path.join("generation")).unwrap() > generation);
    copy(&path.join("index"), &directory.path().join("old-index"));
    let store = reopen(&path).unwrap();
    assert_whole(&store);
    push_library(&store, "newer@1", b"newer", Placement::Sparse).unwrap();
    drop(store);
    gone(&path.join("index"));
    copy(&directory.path().join("old-index"), &path.join("index"));
    assert!(refused(&path).contains("an older one"));
}

#[test]
fn an_empty_index_beside_the_segments_of_an_old_release_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    example(&path);
    as_old_release(&path);
    let other = directory.path().join("other");
    drop(open(&other));
    as_old_release(&other);
    gone(&path.join("index"));
    copy(&other.join("index"), &path.join("index"));
    assert!(refused(&path).contains("its index is empty"));
}
