//! Guests whose threads run on several processors at once.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use world::{World, text};

const PROCESSORS: &str = include_str!("programs/processors.c");
const TWO: [&str; 2] = ["--cpus", "2"];

fn world() -> World {
    let world = World::of("processors", "musl-gcc", &["-O1", "-pthread"], PROCESSORS);
    fs::write(world.data().join("file"), [0; 4096]).unwrap();
    world
}

fn says(what: &str, expected: &str) {
    if !needs(&["kvm"]) {
        return;
    }
    let world = world();
    let found = bounded(&world.granted("processors", &TWO, &[what])).output();
    let found = found.unwrap();
    assert_eq!(text(&found.stdout), expected, "{}", text(&found.stderr));
}

/// Other processes of this user may have used up what he may have waiting.
#[test]
fn a_processor_comes_when_it_is_called_whatever_signals_wait() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = world();
    let mut command = bounded(&world.vmm("processors", &TWO, &["call"]));
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut guest = command.spawn().unwrap();
    let mut lines = BufReader::new(guest.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let id = guest.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let vmm = Pid::from_raw(children.trim().parse().unwrap());
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    prlimit(vmm, Resource::Sigpending, none).unwrap();
    guest.stdin.take().unwrap().write_all(b"\n").unwrap();
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(rest, ["barrier 0"]);
    assert!(guest.wait().unwrap().success());
}

/// It would have a processor for itself, and all others the rest.
#[test]
fn a_thread_that_computes_alone_shares_once_there_are_more() {
    says("share", "seen 1\n");
}

#[test]
fn words_of_files_are_changed_at_once() {
    says("sum", "lost 0\n");
}

/// As Linux, which writes nothing but what it has found.
#[test]
fn what_a_call_only_reads_may_change_meanwhile() {
    says("ask", "lost 0\n");
}

/// A processor that waits for all of a guest's descriptors, and for its own, gives the guest no more of them.
#[test]
fn a_wait_for_all_descriptors_allows_no_more() {
    says("bound", "woken 5, more 0\n");
}

#[test]
fn what_the_monitor_looks_at_is_what_the_kernel_gets() {
    says("linger", "waits 0\n");
}
