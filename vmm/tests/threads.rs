//! Threads of guests: they do what they do natively, in two C libraries.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use pool_tests::power::RecordedDisk;
use pool_tests::requirements::needs;
use pool_tests::wait::{self, PATIENCE};
use world::{Running, World, assert_same, text};

const THREADS: &str = include_str!("programs/threads.c");
const COMPILERS: [&str; 2] = ["musl-gcc", "gcc"];
/// Taking turns on one processor, and on several at once.
const WAYS: [[&str; 2]; 4] = [
    ["--backing", "pool"],
    ["--backing", "copy"],
    ["--cpus", "2"],
    ["--cpus", "5"],
];

fn as_natively(what: &str) {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    for compiler in COMPILERS {
        let path = world.build(compiler, compiler, &["-pthread", "-w"], THREADS);
        let native = Command::new(path).arg(what).output().unwrap();
        for way in WAYS {
            let found = world.run(compiler, &way, &[what]);
            assert_same(&format!("{what}, {compiler}, {way:?}"), &found, &native);
        }
    }
}

#[test]
fn mutexes_conditions_and_barriers_hold_many_threads_together() {
    for what in ["mutex", "condition", "barrier"] {
        as_natively(what);
    }
}

#[test]
fn a_thread_that_never_calls_lets_others_run() {
    as_natively("spin");
}

/// Though they take turns on one thread of the VMM.
#[test]
fn each_thread_has_its_own_processor_time() {
    as_natively("time");
}

#[test]
fn registers_and_the_thread_pointer_are_each_threads_own() {
    as_natively("registers");
}

#[test]
fn a_thread_sleeps_while_another_computes() {
    for what in ["sleep", "sleepers", "timed"] {
        as_natively(what);
    }
}

#[test]
fn many_threads_wait_for_many_descriptors() {
    as_natively("crowd");
}

#[test]
fn locks_know_who_owns_them() {
    for what in ["robust", "inherit", "deadlock"] {
        as_natively(what);
    }
}

#[test]
fn the_last_threads_status_is_the_guests_and_a_group_ends_at_once() {
    for what in ["first-leaves", "whole-group"] {
        as_natively(what);
    }
}

#[test]
fn odd_requests_fail_as_they_do_natively() {
    as_natively("odd");
}

#[test]
fn threads_are_bounded() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("bomb", "musl-gcc", &["-pthread", "-w"], THREADS);
    let found = world.run("bomb", &["--memory", "256M"], &["bomb"]);
    let said = text(&found.stdout);
    assert_eq!(said, "4095 threads, again\n", "{}", text(&found.stderr));
}

#[test]
fn a_guest_that_would_start_a_process_is_told_and_so_is_its_operator() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("fork", "musl-gcc", &["-pthread", "-w"], THREADS);
    let found = world.run("fork", &[], &["fork"]);
    let said = "-1 Function not implemented\n";
    assert_eq!(text(&found.stdout), said.repeat(2));
    let notice = text(&found.stderr);
    assert_eq!(
        notice.matches("asked to start a process").count(),
        1,
        "{notice}"
    );
}

/// Waits for a disk in one thread, and in another says what it hears.
const DISK: &str = r#"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static int file;
static void *sync_it(void *unused) {
    if (fsync(file)) perror("fsync");
    puts("synced");
    return 0;
}
int main(void) {
    char line[100];
    pthread_t thread;
    setvbuf(stdout, 0, _IOLBF, 0);
    file = open("/data/file", O_CREAT | O_RDWR, 0644);
    if (file < 0 || write(file, "some", 4) != 4) return perror("/data/file"), 1;
    puts("wrote");
    fgets(line, sizeof line, stdin);
    pthread_create(&thread, 0, sync_it, 0);
    while (fgets(line, sizeof line, stdin)) fputs(line, stdout);
    pthread_join(thread, 0);
    return 0;
}"#;

/// What processors share is not kept from the others for as long as a disk takes.
#[test]
fn one_waits_for_a_disk_and_others_go_on() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("disk", "musl-gcc", &["-pthread"], DISK);
    let journal = world.directory.path().join("journal");
    let Some(disk) = RecordedDisk::new(32, "ext4", journal).unwrap() else {
        return;
    };
    let grant = format!("{}:/data", disk.path().display());
    let mut command = world.vmm("disk", &["--cpus", "2", "--dir", &grant], &[]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let guest = &mut running.0;
    let process = guest.id();
    let mut input = guest.stdin.take().unwrap();
    let output = BufReader::new(guest.stdout.take().unwrap());
    let (told, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in output.lines() {
            told.send(line.unwrap()).unwrap();
        }
    });
    let hear = || heard.recv_timeout(PATIENCE);

    assert_eq!(hear(), Ok("wrote".into()));
    let held = disk.hold();
    input.write_all(b"\n").unwrap();
    wait::until("a thread that syncs", || syncs(process));
    input.write_all(b"go on\n").unwrap();
    let answered = hear();
    // Before anything can fail: who waits for a disk cannot be killed.
    drop(held);
    drop(input);
    assert_eq!(answered, Ok("go on".into()));
    assert_eq!(hear(), Ok("synced".into()));
    assert!(guest.wait().unwrap().success());
    reader.join().unwrap();
}

/// Some thread of `process` is in `fsync`.
fn syncs(process: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    threads.is_ok_and(|threads| {
        let mut calls = threads
            .flatten()
            .map(|thread| thread.path().join("syscall"));
        calls.any(|call| fs::read_to_string(call).is_ok_and(|call| call.starts_with("74 ")))
    })
}
