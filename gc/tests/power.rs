//! The power goes while a process pushes, deletes and collects: nothing that was acknowledged is
//! lost, and the store opens and is whole, whatever the disk kept of what it was not told to keep.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;
mod work;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Random, content, open, push_library};
use pool_gc::{FsckLevel, fsck};
use pool_store::Store;
use pool_store::placement::Placement;
use pool_tests::power::{Kept, RecordedDisk, Recording};
use pool_tests::wait;

/// Says where the worker's store and journal are.
const STORE: &str = "POOL_POWER_STORE";
const JOURNAL: &str = "POOL_POWER_JOURNAL";

/// The process whose power goes; run by [`record`].
#[test]
#[ignore = "a part of another test"]
fn worker() {
    let (Some(store), Some(journal)) = (std::env::var_os(STORE), std::env::var_os(JOURNAL)) else {
        return;
    };
    work::work(Path::new(&store), Path::new(&journal));
}

/// Lets a worker work until the disk has been asked for so much, and answers with that and with
/// what the worker was told. `None` where no disk can be made.
fn record(requests: usize) -> Option<(Recording, String)> {
    let filesystem = std::env::var("POOL_POWER_FILESYSTEM").unwrap_or_else(|_| "ext4".into());
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let disk = RecordedDisk::new(320, &filesystem, journal.clone()).unwrap()?;
    let first = disk.requests();
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--ignored", "--test-threads=1"])
        .env(STORE, disk.path().join("store"))
        .env(JOURNAL, &journal)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait::until("the worker works", || {
        assert!(worker.try_wait().unwrap().is_none(), "the worker failed");
        disk.requests() > first + requests
    });
    let recording = disk.recording();
    worker.kill().unwrap();
    worker.wait().unwrap();
    Some((recording, fs::read_to_string(journal).unwrap()))
}

/// What is wrong with the store that a cut left, if anything.
fn look(directory: &Path, journal: &str) -> Result<(), String> {
    let store = Store::open(directory, common::options()).map_err(|error| error.to_string())?;
    let report = fsck(&store, FsckLevel::Content);
    if !report.findings.is_empty() {
        return Err(format!("{:#?}", report.findings));
    }
    work::check(&store, journal)?;
    // And it goes on.
    push_library(&store, "after@1", &content(9, 40), Placement::Sparse)
        .map_err(|error| error.to_string())?;
    collecting::collect_all(&store);
    drop(store);
    let store = open(directory);
    work::check(&store, journal)?;
    drop(store);
    // What the journal kept is as good as what the index kept.
    work::check_rebuilt(directory, journal)
}

fn told(journal: &str, length: u64) -> &str {
    let whole = &journal[..length as usize];
    &whole[..whole.rfind('\n').map_or(0, |end| end + 1)]
}

#[test]
fn a_power_cut_loses_nothing() {
    let cuts: u64 = std::env::var("POOL_SOAK_ROUNDS").map_or(12, |text| text.parse().unwrap());
    let seed = std::env::var("POOL_SOAK_SEED").map_or(1, |text| text.parse().unwrap());
    let Some((recording, journal)) = record(4000) else {
        return;
    };
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
    let (mut lost, mut acknowledged) = (Vec::new(), 0);
    for nth in 0..cuts {
        let requests = 1 + random.below(recording.len() as u64) as usize;
        let kept = [Kept::None, Kept::All, Kept::Writes, Kept::Sectors][nth as usize % 4];
        let journal = told(&journal, recording.journal(requests));
        let left = recording.cut(requests, 0, kept, |end| random.below(end));
        let Ok(left) = left else {
            // Before the filesystem was made.
            assert_eq!(journal, "", "after {requests} requests: {left:?}");
            continue;
        };
        acknowledged += journal.lines().count();
        if let Err(what) = look(&left.path().join("store"), journal) {
            lost.push(format!(
                "after {requests} requests, {kept:?} of the last: {what}"
            ));
        }
    }
    eprintln!(
        "{cuts} cuts, {acknowledged} acknowledged before them, {} bad",
        lost.len()
    );
    assert!(
        lost.is_empty(),
        "{} of {cuts}: {}",
        lost.len(),
        lost.join("\n")
    );

    // A disk that does not do what it is told shows that losses are seen.
    let forgetful = (0..6).filter(|_| {
        let requests = recording.len() - random.below(200) as usize;
        let journal = told(&journal, recording.journal(requests));
        let left = recording.cut(requests, 200, Kept::None, |end| random.below(end));
        left.is_err() || look(&left.unwrap().path().join("store"), journal).is_err()
    });
    assert!(forgetful.count() > 0, "losses are not seen");
}
