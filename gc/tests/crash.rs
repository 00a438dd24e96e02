//! A process that pushes, deletes and collects is killed at any instruction; nothing that it
//! acknowledged is lost, and the store is whole.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod collecting;
#[path = "../../store/tests/common/mod.rs"]
mod common;
mod work;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Random, open};
use pool_gc::{FsckLevel, fsck};
use pool_tests::run::ends_with_its_parent;
use pool_tests::wait;

const DIRECTORY: &str = "POOL_CRASH_DIRECTORY";

/// The process that is killed; run by [`a_killed_collector_loses_nothing`].
#[test]
#[ignore = "a part of another test"]
fn worker() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    ends_with_its_parent();
    work::work(&directory.join("store"), &directory.join("journal"));
}

fn journal(directory: &Path) -> String {
    fs::read_to_string(directory.join("journal")).unwrap_or_default()
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
        let before = journal(directory.path()).len();
        wait::until("the worker pushes", || {
            assert!(worker.try_wait().unwrap().is_none(), "the worker failed");
            journal(directory.path()).len() > before
        });
        // Anywhere in what it does next.
        std::thread::sleep(Duration::from_micros(lives.below(150_000)));
        assert!(worker.try_wait().unwrap().is_none(), "the worker failed");
        worker.kill().unwrap();
        worker.wait().unwrap();

        let store = open(&directory.path().join("store"));
        let report = fsck(&store, FsckLevel::Content);
        assert!(report.findings.is_empty(), "round {round}: {report:#?}");
        if let Err(what) = work::check(&store, &journal(directory.path())) {
            panic!("round {round}: {what}");
        }
        drop(store);
        if round % 4 == 3
            && let Err(what) =
                work::check_rebuilt(&directory.path().join("store"), &journal(directory.path()))
        {
            panic!("round {round}, made anew: {what}");
        }
    }
}
