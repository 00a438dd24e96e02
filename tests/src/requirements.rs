//! What a machine must have for a test, and what happens where it has not.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Command;

use crate::memory_group::MemoryGroup;

/// True when this machine has everything in `what`: "root", "kvm", "fuse", "groff", "go", "memory group"
/// (control groups of memory). Where it has not, that is a failure if `POOL_REQUIRE_ALL` is set; else the test is to be skipped, which is said on
/// standard error and counted in the file that `POOL_SKIP_LOG` names.
pub fn needs(what: &[&str]) -> bool {
    let missing: Vec<_> = what.iter().filter(|thing| !has(thing)).collect();
    if missing.is_empty() {
        return true;
    }
    lacks(&format!("{missing:?}"));
    false
}

/// Skips the calling test for want of what every machine with `POOL_REQUIRE_ALL` must have; there it fails.
///
/// # Panics
///
/// There.
pub fn lacks(what: &str) {
    let why = format!("this machine lacks {what}");
    assert!(std::env::var_os("POOL_REQUIRE_ALL").is_none(), "{why}");
    skip(&why);
}

/// Says on standard error that the calling test is skipped and why, and counts it in the file that
/// `POOL_SKIP_LOG` names. For what [`needs`] cannot ask for: things that no machine must have.
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED: {test}: {why}");
    if let Some(log) = std::env::var_os("POOL_SKIP_LOG") {
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .and_then(|mut file| writeln!(file, "{test}: {why}"));
        assert!(
            written.is_ok(),
            "counting a skipped test in {} failed",
            log.display()
        );
    }
}

fn runs(program: &str, argument: &str) -> bool {
    let output = Command::new(program).arg(argument).output();
    output.is_ok_and(|output| output.status.success())
}

fn has(thing: &str) -> bool {
    let device = |path| {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .is_ok()
    };
    match thing {
        "root" => rustix::process::geteuid().is_root(),
        "kvm" => device("/dev/kvm"),
        "fuse" => device("/dev/fuse"),
        "memory group" => MemoryGroup::create("pool-needs").is_ok(),
        "groff" => runs(thing, "--version"),
        "go" => runs(thing, "version"),
        other => panic!("no machine is known to have {other:?}"),
    }
}
