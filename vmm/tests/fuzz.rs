//! Guests that ask for anything at all: whatever becomes of them, poolvmm says how they ended and the host
//! is as it was.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use world::{World, seeds, text};

const CALL_FUZZ: &str = include_str!("programs/call_fuzz.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];
const STEPS: u64 = 2000;

/// A directory for a guest to spoil, and beside it what it must not reach.
fn grant(at: &Path) {
    fs::create_dir_all(at.join("data/dir")).unwrap();
    fs::write(at.join("outside"), "as it was").unwrap();
    let mode = Permissions::from_mode(0o640);
    fs::set_permissions(at.join("outside"), mode).unwrap();
    fs::write(at.join("data/steps"), [0; 4096]).unwrap();
    let fifo = at.join("data/fifo");
    mknodat(CWD, fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    symlink(at.join("outside"), at.join("data/link")).unwrap();
}

/// How many calls the guest made, as it counted them.
fn steps(at: &Path) -> u64 {
    let count = fs::read(at.join("data/steps")).unwrap();
    count
        .first_chunk()
        .map_or(0, |count| u64::from_le_bytes(*count))
}

#[test]
fn whatever_a_guest_asks_for_it_ends_alone() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    // The stack's guard lies where the thread pointer says, which guests may move.
    let world = World::of(
        "fuzz",
        "musl-gcc",
        &["-O1", "-fno-stack-protector"],
        CALL_FUZZ,
    );
    let mut made = 0;
    let count = seeds(12);
    for seed in 1..=count {
        for platform in PLATFORMS {
            let name = format!("{platform}-{seed}");
            let at = world.directory.path().join(&name);
            grant(&at);
            let report = at.join("report");
            let data = format!("{}:/data", at.join("data").display());
            // A network of its own, in which there is nothing.
            let mut command = Command::new("unshare");
            let network = ["none", "host"][(seed / 2 % 2) as usize];
            // Odd ones have two threads.
            let cpus = ["1", "2", "1", "3"][(seed % 4) as usize];
            let guest = world.vmm(
                "fuzz",
                &[
                    ["--platform", platform],
                    ["--memory", "64M"],
                    ["--cpus", cpus],
                    ["--net", network],
                    ["--dir", &data],
                    ["--report", report.to_str().unwrap()],
                ]
                .concat(),
                &[&seed.to_string(), &STEPS.to_string()],
            );
            command.arg("--net").arg(guest.get_program());
            command.args(guest.get_args());
            let found = bounded(&command).stdin(Stdio::null()).output().unwrap();
            let said = text(&found.stderr);
            let code = found.status.code();
            assert!(!said.contains("panicked"), "{name}: {said}");
            let report = fs::read(&report).unwrap_or_default();
            let report: Value = serde_json::from_slice(&report).unwrap_or_else(|error| {
                panic!("{name} ended by {code:?} without report ({error}): {said}")
            });
            assert_eq!(
                report["status"].as_i64(),
                code.map(i64::from),
                "{name}: {said}"
            );
            let outside = fs::read_to_string(at.join("outside"));
            assert_eq!(outside.unwrap(), "as it was", "{name}");
            let mode = fs::metadata(at.join("outside"))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o7777, 0o640, "{name}");
            made += steps(&at).min(STEPS);
            fs::remove_dir_all(&at).unwrap();
        }
    }
    // Some end early by what they do to themselves.
    assert!(
        made > count * STEPS,
        "{made} calls of {} were made",
        2 * count * STEPS
    );
}
