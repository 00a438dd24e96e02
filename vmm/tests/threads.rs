//! Threads of guests: they do what they do natively, in two C libraries.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::process::Command;

use pool_tests::requirements::needs;
use world::{World, assert_same, text};

const THREADS: &str = include_str!("programs/threads.c");
const COMPILERS: [&str; 2] = ["musl-gcc", "gcc"];
const BACKINGS: [[&str; 2]; 2] = [["--backing", "pool"], ["--backing", "copy"]];

fn as_natively(what: &str) {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    for compiler in COMPILERS {
        let path = world.build(compiler, compiler, &["-pthread", "-w"], THREADS);
        let native = Command::new(path).arg(what).output().unwrap();
        for backing in BACKINGS {
            let found = world.run(compiler, &backing, &[what]);
            assert_same(&format!("{what}, {compiler}, {backing:?}"), &found, &native);
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
    let mut world = World::new();
    world.build("bomb", "musl-gcc", &["-pthread", "-w"], THREADS);
    let found = world.run("bomb", &["--memory", "256M"], &["bomb"]);
    let said = text(&found.stdout);
    assert_eq!(said, "4095 threads, again\n", "{}", text(&found.stderr));
}

#[test]
fn a_guest_that_would_start_a_process_is_told_and_so_is_its_operator() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("fork", "musl-gcc", &["-pthread", "-w"], THREADS);
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
