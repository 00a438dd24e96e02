//! The kernel's vdso in guests: what it says is what system calls say, and it takes no exit.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::process::Command;

use pool_tests::requirements::needs;
use serde_json::Value;
use world::{World, assert_same, text};

const CLOCK: &str = include_str!("programs/clock.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];
const COMPILERS: [(&str, &str); 2] = [("musl", "musl-gcc"), ("glibc", "gcc")];

/// Readings, calls among them, milliseconds of sleep.
const MIXED: [&str; 3] = ["250000", "5000", "1500"];

#[test]
fn readings_agree_with_calls_and_leave_the_guest_only_as_calls() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    for (name, compiler) in COMPILERS {
        let path = world.build(name, compiler, &[], CLOCK);
        let native = Command::new(&path).args(MIXED).output().unwrap();
        assert!(text(&native.stdout).starts_with("vdso: yes\n"));
        for platform in PLATFORMS {
            let report = world.directory.path().join("report.json");
            let options = ["--platform", platform, "--report", report.to_str().unwrap()];
            let found = world.run(name, &options, &MIXED);
            assert_same(&format!("{name}, {platform}"), &found, &native);
            if platform == "kvm" {
                let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
                // Four clocks, one call and 5 000 each; then six calls, twice.
                let calls = 4 * 5001 + 2 * 6;
                assert_eq!(report["syscalls"]["clock_gettime"], calls, "{name}");
                for other in ["gettimeofday", "time"] {
                    assert_eq!(report["syscalls"][other], Value::Null, "{name}");
                }
            }
        }
    }
}

#[test]
fn what_lies_around_the_vdso_is_nobodys() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("musl", "musl-gcc", &[], CLOCK);
    for platform in PLATFORMS {
        for what in ["write-code", "write-data", "run-data", "before", "behind"] {
            let found = world.run("musl", &["--platform", platform], &[what]);
            let said = text(&found.stderr);
            // SIGSEGV; the kernel's own SIGBUS for a page of data that is not in use.
            assert!(
                matches!(found.status.code(), Some(139 | 135)),
                "{what}, {platform}: {said}"
            );
            assert!(said.contains("guest stopped"), "{what}, {platform}: {said}");
        }
    }
}
