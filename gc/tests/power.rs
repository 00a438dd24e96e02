//! The power goes while a process pushes, deletes and collects: nothing that was acknowledged is
//! lost, and the store opens and is whole, whatever the disk kept of what it was not told to keep, and in whatever order a
//! filesystem keeps names.
//!
//! `POOL_SOAK_ROUNDS` is how many cuts are made, `POOL_SOAK_SEED` chooses them; what a cut of files left that is bad is written to
//! `POOL_SOAK_KEEP`, if that is set.

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
use pool_tests::disk::SmallDisk;
use pool_tests::power::{Kept, RecordedDisk, Recording};
use pool_tests::recorded::{FileRecording, Left, Order, RecordedFiles};
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
    let last = disk.requests() + requests;
    let recording = while_working(disk.path(), &journal, || {
        (disk.requests() > last).then(|| disk.recording())
    });
    Some((recording, fs::read_to_string(journal).unwrap()))
}

/// The same of files.
fn record_files(requests: usize) -> Option<(FileRecording, String)> {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let files = RecordedFiles::new(journal.clone()).unwrap()?;
    let recording = while_working(files.path(), &journal, || {
        (files.requests() > requests).then(|| files.recording())
    });
    Some((recording, fs::read_to_string(journal).unwrap()))
}

/// Lets a worker work in a directory until there is an answer.
fn while_working<T>(on: &Path, journal: &Path, mut answer: impl FnMut() -> Option<T>) -> T {
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "worker", "--ignored", "--test-threads=1"])
        .env(STORE, on.join("store"))
        .env(JOURNAL, journal)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let found = wait::until_some("the worker works", || {
        assert!(worker.try_wait().unwrap().is_none(), "the worker failed");
        answer()
    });
    worker.kill().unwrap();
    worker.wait().unwrap();
    found
}

/// How many cuts are made, and what chooses them.
fn rounds() -> (u64, u64) {
    let number =
        |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
    (number("POOL_SOAK_ROUNDS", 12), number("POOL_SOAK_SEED", 1))
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
    let (cuts, seed) = rounds();
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
    assert_none_lost(cuts, acknowledged, &lost);

    // A disk that does not do what it is told shows that losses are seen.
    let forgetful = (0..6).filter(|_| {
        let requests = recording.len() - random.below(200) as usize;
        let journal = told(&journal, recording.journal(requests));
        let left = recording.cut(requests, 200, Kept::None, |end| random.below(end));
        left.is_err() || look(&left.unwrap().path().join("store"), journal).is_err()
    });
    assert!(forgetful.count() > 0, "losses are not seen");
}

/// Says how many commits so many cuts came after, and fails with each that lost something.
fn assert_none_lost(cuts: u64, acknowledged: usize, lost: &[String]) {
    let bad = lost.len();
    eprintln!("{cuts} cuts, {acknowledged} acknowledged before them, {bad} bad");
    assert!(bad == 0, "{bad} of {cuts}: {}", lost.join("\n"));
}

/// Looks at what a cut left of files.
fn look_at_files(left: &Left, journal: &str) -> Result<(), String> {
    // In memory, where nothing is waited for.
    let disk = SmallDisk::new(512).unwrap().unwrap();
    left.write(disk.path()).unwrap();
    look(&disk.path().join("store"), journal)
}

#[test]
fn a_power_cut_loses_nothing_in_whatever_order_names_are_kept() {
    let (cuts, seed) = rounds();
    let Some((recording, journal)) = record_files(6000) else {
        return;
    };
    let mut random = Random(0x2545_f491_4f6c_dd1d ^ seed);
    let (mut lost, mut acknowledged) = (Vec::new(), 0);
    for nth in 0..cuts {
        let requests = 1 + random.below(recording.len() as u64) as usize;
        let order = [Order::Each, Order::One][nth as usize % 2];
        let kept = [Kept::None, Kept::Sectors, Kept::Writes, Kept::All][nth as usize / 2 % 4];
        let journal = told(&journal, recording.journal(requests));
        let left = recording.cut(requests, 0, order, kept, |end| random.below(end));
        acknowledged += journal.lines().count();
        if let Err(what) = look_at_files(&left, journal) {
            lost.push(format!(
                "after {requests} requests, {kept:?} of the last, names by {order:?}: {what}"
            ));
            if let Ok(keep) = std::env::var("POOL_SOAK_KEEP") {
                let keep = Path::new(&keep).join(nth.to_string());
                fs::create_dir_all(&keep).unwrap();
                left.write(&keep).unwrap();
            }
        }
    }
    assert_none_lost(cuts, acknowledged, &lost);

    // A filesystem that does not do what it is told shows that losses are seen.
    let forgetful = (0..6).filter(|_| {
        let requests = recording.len() - random.below(200) as usize;
        let journal = told(&journal, recording.journal(requests));
        let random = |end| random.below(end);
        let left = recording.cut(requests, 200, Order::Each, Kept::None, random);
        look_at_files(&left, journal).is_err()
    });
    assert!(forgetful.count() > 0, "losses are not seen");
}
