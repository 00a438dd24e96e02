//! A process that pushes, deletes and collects is killed at any instruction; nothing that it
//! acknowledged is lost, and the store is whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../store/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Random, assert_stored, content, image_ref, open, push_image};
use pool_gc::{CollectOptions, FsckLevel, collect, fsck};
use pool_tests::wait;

const DIRECTORY: &str = "POOL_CRASH_DIRECTORY";

fn library(nth: u64) -> Vec<u8> {
    let mut bytes = content(7, 70);
    bytes.extend(content(300 + nth % 5, 30));
    bytes
}

fn file(nth: u64) -> Vec<u8> {
    content(5000 + nth, 120)
}

fn push(store: &pool_store::Store, nth: u64) {
    let used = format!("l{}@1", nth % 5);
    push_image(
        store,
        &format!("i:{nth}"),
        &file(nth),
        &[(&used, &library(nth))],
    )
    .unwrap();
}

/// The process that is killed; run by [`a_killed_collector_loses_nothing`].
#[test]
#[ignore = "a part of another test"]
fn worker() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    let store = open(&directory.join("store"));
    let mut journal = OpenOptions::new()
        .append(true)
        .create(true)
        .open(directory.join("journal"))
        .unwrap();
    let known = read_journal(&directory);
    let mut next = known.keys().last().map_or(0, |last| last + 1);
    let mut alive: Vec<u64> = known
        .into_iter()
        .filter_map(|(nth, alive)| alive.then_some(nth))
        .collect();
    let options = CollectOptions {
        grace: Duration::ZERO,
        dry_run: false,
        compact_below: 0.95,
    };
    loop {
        push(&store, next);
        journal.write_all(format!("+{next}\n").as_bytes()).unwrap();
        alive.push(next);
        next += 1;
        if alive.len() > 4 {
            let nth = alive.remove((next % 4) as usize);
            journal.write_all(format!("-{nth}\n").as_bytes()).unwrap();
            store.delete_image(&image_ref(&format!("i:{nth}"))).unwrap();
        }
        collect(&store, &options).unwrap();
    }
}

/// Images pushed, and whether their deletion was never begun.
fn read_journal(directory: &Path) -> BTreeMap<u64, bool> {
    let text = fs::read_to_string(directory.join("journal")).unwrap_or_default();
    let mut images = BTreeMap::new();
    for line in text.lines() {
        let (sign, nth) = line.split_at(1);
        images.insert(nth.parse().unwrap(), sign == "+");
    }
    images
}

#[test]
fn a_killed_collector_loses_nothing() {
    let rounds: u64 = std::env::var("POOL_SOAK_ROUNDS").map_or(12, |text| text.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let mut lives = Random(0x1234_5678_9abc_def1);
    for round in 0..rounds {
        let mut worker = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker", "--ignored", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let before = read_journal(directory.path()).len();
        wait::until("the worker pushes", || {
            assert!(worker.try_wait().unwrap().is_none(), "the worker failed");
            read_journal(directory.path()).len() > before
        });
        // Anywhere in what it does next.
        std::thread::sleep(Duration::from_micros(lives.below(150_000)));
        assert!(worker.try_wait().unwrap().is_none(), "the worker failed");
        worker.kill().unwrap();
        worker.wait().unwrap();

        let store = open(&directory.path().join("store"));
        let report = fsck(&store, FsckLevel::Content);
        assert!(report.findings.is_empty(), "round {round}: {report:#?}");
        for (nth, alive) in read_journal(directory.path()) {
            if alive {
                let image = image_ref(&format!("i:{nth}"));
                assert!(
                    store.image(&image).unwrap().is_some(),
                    "round {round}: {image}"
                );
                assert_stored(&store, &file(nth));
                assert_stored(&store, &library(nth));
            }
        }
    }
}
