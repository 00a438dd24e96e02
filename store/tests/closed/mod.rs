//! A closed store, and what can be done to its files.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file includes it and uses a part"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use pool_core::ObjectId;
use pool_store::manifest::TokenScope;
use pool_store::placement::Placement;
use pool_store::{Store, StoreError, StoreOptions, StoreView};
use rocksdb::{DB, Options};

use crate::common::{
    assert_stored, content, image_ref, library_ref, open, open_with, push_image, push_library,
};

/// Libraries that [`example`] pushes.
pub const PUSHED: u64 = 12;

pub fn library(nth: u64) -> Vec<u8> {
    content(nth, 40 + nth as usize)
}

/// A store with tables, a log, several segments and [`PUSHED`] libraries, closed.
pub fn example(directory: &Path) {
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

pub fn assert_whole(store: &StoreView) {
    for nth in 0..PUSHED {
        let name = library_ref(&format!("l{nth}@1"));
        assert!(store.library(&name).unwrap().is_some(), "{name}");
        assert_stored(store, &library(nth));
    }
    assert!(store.image(&image_ref("i:1")).unwrap().is_some());
}

/// Paths in a directory of their own, which lasts as long as they do.
pub fn places() -> impl Fn(&str) -> PathBuf {
    let root = tempfile::tempdir().unwrap();
    move |name| root.path().join(name)
}

/// Opens a store and compares what it [tells](told).
pub fn assert_told(directory: &Path, whole: &str) {
    assert_eq!(told(&reopen(directory).unwrap()), whole);
}

/// Opens a store's index past the store and changes it.
pub fn tamper(directory: &Path, change: impl FnOnce(&DB)) {
    let path = directory.join("index");
    let families = DB::list_cf(&Options::default(), &path).unwrap();
    let index = DB::open_cf(&Options::default(), &path, families).unwrap();
    change(&index);
}

/// Makes the records of all segments say another number of used slots, of what they say.
pub fn set_used(index: &DB, used: impl Fn(u32) -> u32) {
    let family = index.cf_handle("segments").unwrap();
    let records = index.iterator_cf(family, rocksdb::IteratorMode::Start);
    let records: Vec<_> = records.map(Result::unwrap).collect();
    for (key, value) in records {
        let mut record = value.to_vec();
        let old = u32::from_le_bytes(record[4..8].try_into().unwrap());
        record[4..8].copy_from_slice(&used(old).to_le_bytes());
        index.put_cf(family, key, record).unwrap();
    }
}

/// Moves a store's index to a disk of its own, as somebody would who has a faster one.
pub fn move_index(directory: &Path, to: &Path) {
    let index = directory.join("index");
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(&index).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
    }
    fs::remove_dir_all(&index).unwrap();
    symlink(to, &index).unwrap();
}

pub fn reopen(directory: &Path) -> Result<Store, StoreError> {
    open_with(directory, StoreOptions::default())
}

pub fn copy(from: &Path, to: &Path) {
    assert!(try_copy(from, to));
}

/// The same, unless files go meanwhile.
pub fn try_copy(from: &Path, to: &Path) -> bool {
    let mut command = Command::new("cp");
    command.args(["-a", "--sparse=always"]).arg(from).arg(to);
    command.status().unwrap().success()
}

/// Every file with its digest, every link with its target, every directory.
pub fn listing(directory: &Path) -> BTreeMap<PathBuf, String> {
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
pub fn newest(directory: &Path, end: &str) -> PathBuf {
    let entries = fs::read_dir(directory.join("index")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.ends_with(end) || name.starts_with(end)
    };
    paths.filter(named).max().unwrap()
}

pub fn flip(path: &Path, bit: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

/// What a refused opening says. Fails when it was not refused, or changed anything.
pub fn refused(directory: &Path) -> String {
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

pub fn gone(path: &Path) {
    if fs::symlink_metadata(path).unwrap().is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

pub fn cut(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// The files of a journal whose names end so, in order.
pub fn journal_files(directory: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("journal")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut named: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|found| found == end))
        .collect();
    named.sort();
    named
}

/// What a store has: names, registry, tokens, and every object, read and compared with its digest.
pub fn told(view: &StoreView) -> String {
    let mut objects = Vec::new();
    let snapshot = view.snapshot();
    snapshot
        .for_each_object(|id, record| {
            let is_whole = view.digest_of(&record.map)? == id;
            objects.push((id, record.phase, record.map.length, is_whole));
            Ok(())
        })
        .unwrap();
    let tags = snapshot.tags().unwrap();
    let images: Vec<_> = tags
        .iter()
        .map(|(image, _)| snapshot.image(image).unwrap())
        .collect();
    format!(
        "{:?} {images:?} {:?} {:?} {objects:?}",
        snapshot.libraries().unwrap(),
        snapshot.reservations().unwrap(),
        snapshot.tokens().unwrap(),
    )
}

/// Adds a token, which is a commit of its own.
pub fn add_token(store: &Store, name: &str) -> Result<(), StoreError> {
    let secret = ObjectId::of(b"secret");
    store.add_token(name, secret, TokenScope::Read).map(drop)
}

/// The newest log of a journal.
pub fn newest_log(store: &Path) -> PathBuf {
    journal_files(store, "log").pop().unwrap()
}

/// Puts the index `from` in the place of the store's.
pub fn put_index(store: &Path, from: &Path) {
    gone(&store.join("index"));
    copy(from, &store.join("index"));
}
