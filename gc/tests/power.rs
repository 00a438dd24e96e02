//! The power goes while a process pushes, deletes and collects: nothing that was acknowledged is
//! lost, and the store opens and is whole, whatever the disk kept of what it was not told to keep, and in whatever order a
//! filesystem keeps names.
//!
//! `POOL_SOAK_ROUNDS` is how many cuts are made, `POOL_SOAK_SEED` chooses them. No two runs are recorded alike. So when something is lost
//! the recording is kept, in `POOL_SOAK_KEEP` if that is set, beside what cuts of files left that is bad, and `POOL_SOAK_REPLAY` makes
//! the same cuts of it again.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Random, content, open, push_library};
use pool_gc::{FsckLevel, fsck};
use pool_store::Store;
use pool_store::placement::Placement;
use pool_tests::disk::SmallDisk;
use pool_tests::power::{RecordedDisk, Recording};
use pool_tests::recorded::{FileRecording, Left, Order, RecordedFiles};
use pool_tests::recording::{Kept, Recorded};
use pool_tests::run::ends_with_its_parent;
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
    ends_with_its_parent();
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

/// A recording, what its worker was told, and which cuts are made of it.
struct Cuts<R> {
    /// The test that makes them.
    test: &'static str,
    recording: R,
    journal: String,
    rounds: u64,
    seed: u64,
    /// Where what is lost is kept.
    keep: Option<PathBuf>,
}

/// One cut.
struct Cut<'a> {
    nth: usize,
    /// After so many requests.
    requests: usize,
    /// What the worker was told by then.
    journal: &'a str,
    random: &'a mut Random,
}

impl<R: Recorded> Cuts<R> {
    /// Of a new recording, or of one that was kept. `None` where none can be made.
    fn of(test: &'static str, record: impl FnOnce() -> Option<(R, String)>) -> Option<Self> {
        let number =
            |name: &str, usual| std::env::var(name).map_or(usual, |text| text.parse().unwrap());
        let (recording, journal) = match std::env::var_os("POOL_SOAK_REPLAY") {
            Some(from) => R::load(Path::new(&from)).unwrap(),
            None => record()?,
        };
        Some(Self {
            test,
            recording,
            journal,
            rounds: number("POOL_SOAK_ROUNDS", 12),
            seed: number("POOL_SOAK_SEED", 1),
            keep: std::env::var_os("POOL_SOAK_KEEP").map(PathBuf::from),
        })
    }

    /// Makes all of them, and fails with each that lost something: `look` says what.
    fn make(&self, random: &mut Random, mut look: impl FnMut(Cut<'_>) -> Result<(), String>) {
        let (mut lost, mut acknowledged) = (Vec::new(), 0);
        for nth in 0..self.rounds {
            let requests = 1 + random.below(self.recording.course().len() as u64) as usize;
            let journal = self.told(requests);
            acknowledged += journal.lines().count();
            let cut = Cut {
                nth: nth as usize,
                requests,
                journal,
                random,
            };
            if let Err(what) = look(cut) {
                lost.push(format!("after {requests} requests, {what}"));
            }
        }
        let (cuts, bad) = (self.rounds, lost.len());
        eprintln!("{cuts} cuts, {acknowledged} acknowledged before them, {bad} bad");
        assert!(
            bad == 0,
            "{bad} of {cuts}: {}\n{}",
            lost.join("\n"),
            self.kept()
        );
    }

    /// Looks at cuts near the end of what keeps nothing of what it was told to: losses must be seen.
    fn make_forgetful(&self, random: &mut Random, mut is_lost: impl FnMut(Cut<'_>) -> bool) {
        let seen = (0..6).filter(|nth| {
            let requests = self.recording.course().len() - random.below(200) as usize;
            is_lost(Cut {
                nth: *nth,
                requests,
                journal: self.told(requests),
                random: &mut *random,
            })
        });
        assert!(seen.count() > 0, "losses are not seen");
    }

    fn told(&self, requests: usize) -> &str {
        let whole = &self.journal[..self.recording.course().journal(requests) as usize];
        &whole[..whole.rfind('\n').map_or(0, |end| end + 1)]
    }

    /// Keeps the recording, and answers with what makes the same cuts again.
    fn kept(&self) -> String {
        let keep = self.keep.clone();
        let keep = keep.unwrap_or_else(|| tempfile::tempdir().unwrap().keep());
        let place = keep.join(self.test);
        match self.recording.save(&place, &self.journal) {
            Ok(()) => format!(
                "replay: POOL_SOAK_REPLAY={} POOL_SOAK_SEED={} POOL_SOAK_ROUNDS={} cargo nextest run --release --locked \
                 --workspace -E 'package(pool-gc) and test(={})'",
                place.display(),
                self.seed,
                self.rounds,
                self.test
            ),
            Err(error) => format!("the recording is lost: {error:#}"),
        }
    }
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

#[test]
fn a_power_cut_loses_nothing() {
    let Some(cuts) = Cuts::of("a_power_cut_loses_nothing", || record(4000)) else {
        return;
    };
    let recording = &cuts.recording;
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ cuts.seed);
    cuts.make(&mut random, |cut| {
        let kept = [Kept::None, Kept::All, Kept::Writes, Kept::Sectors][cut.nth % 4];
        let random = |end| cut.random.below(end);
        match recording.cut(cut.requests, 0, kept, random) {
            Ok(left) => look(&left.path().join("store"), cut.journal)
                .map_err(|what| format!("{kept:?} of the last: {what}")),
            // Before the filesystem was made.
            Err(_) if cut.journal.is_empty() => Ok(()),
            Err(error) => Err(format!("{kept:?} of the last: {error:#}")),
        }
    });
    cuts.make_forgetful(&mut random, |cut| {
        let random = |end| cut.random.below(end);
        match recording.cut(cut.requests, 200, Kept::None, random) {
            Ok(left) => look(&left.path().join("store"), cut.journal).is_err(),
            Err(_) => true,
        }
    });
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
    let test = "a_power_cut_loses_nothing_in_whatever_order_names_are_kept";
    let Some(cuts) = Cuts::of(test, || record_files(6000)) else {
        return;
    };
    let recording = &cuts.recording;
    let mut random = Random(0x2545_f491_4f6c_dd1d ^ cuts.seed);
    cuts.make(&mut random, |cut| {
        let order = [Order::Each, Order::One][cut.nth % 2];
        let kept = [Kept::None, Kept::Sectors, Kept::Writes, Kept::All][cut.nth / 2 % 4];
        let random = |end| cut.random.below(end);
        let left = recording.cut(cut.requests, 0, order, kept, random);
        look_at_files(&left, cut.journal).map_err(|what| {
            if let Some(keep) = &cuts.keep {
                let keep = keep.join(cut.nth.to_string());
                fs::create_dir_all(&keep).unwrap();
                left.write(&keep).unwrap();
            }
            format!("{kept:?} of the last, names by {order:?}: {what}")
        })
    });
    cuts.make_forgetful(&mut random, |cut| {
        let random = |end| cut.random.below(end);
        let left = recording.cut(cut.requests, 200, Order::Each, Kept::None, random);
        look_at_files(&left, cut.journal).is_err()
    });
}
