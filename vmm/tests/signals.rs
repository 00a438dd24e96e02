//! Signals of guests: their handlers run as they do natively, in two C libraries.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use pool_tests::requirements::needs;
use pool_tests::run::with_signals;
use world::{World, text};

const SIGNALS: &str = include_str!("programs/signals.c");
const FLAGS: [&str; 2] = ["-pthread", "-w"];
const COMPILERS: [&str; 2] = ["musl-gcc", "gcc"];

/// Runs with a pipe as standard input, which is closed once the program says "!".
fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let input = child.stdin.take();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut all = String::new();
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        all.push_str(&line);
        if line == "!\n" {
            break;
        }
        line.clear();
    }
    // A handler is to run before it is closed; what the program says is the same if it does not.
    drop(input);
    std::io::Read::read_to_string(&mut output, &mut all).unwrap();
    let ended = child.wait_with_output().unwrap();
    Output {
        stdout: all.into_bytes(),
        ..ended
    }
}

fn as_natively(what: &str) {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    for compiler in COMPILERS {
        let path = world.build(compiler, compiler, &FLAGS, SIGNALS);
        let native = run(Command::new(path).arg(what));
        for cpus in ["1", "2"] {
            let found = run(&mut world.vmm(compiler, &["--cpus", cpus], &[what]));
            let said = text(&found.stderr);
            assert_eq!(
                text(&found.stdout),
                text(&native.stdout),
                "{what}, {compiler}, {cpus}: {said}"
            );
            let status = native.status.signal().map(|signal| 128 + signal);
            let status = status.or(native.status.code());
            assert_eq!(
                found.status.code(),
                status,
                "{what}, {compiler}, {cpus}: {said}"
            );
        }
    }
}

#[test]
fn handlers_run_on_their_stack_and_inside_each_other() {
    for what in ["stack", "nest"] {
        as_natively(what);
    }
}

#[test]
fn faults_are_handled() {
    for what in ["mend", "jump", "skip"] {
        as_natively(what);
    }
}

#[test]
fn registers_survive_a_handler() {
    for what in ["registers", "preempted"] {
        as_natively(what);
    }
}

#[test]
fn calls_are_interrupted_or_made_again() {
    as_natively("interrupt");
}

#[test]
fn signals_wait_and_are_waited_for() {
    for what in ["suspend", "queue"] {
        as_natively(what);
    }
}

/// Not natively: it would use up what this user may have waiting.
#[test]
fn signals_that_wait_are_bounded() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("flood", "musl-gcc", &FLAGS, SIGNALS);
    let found = world.run("flood", &[], &["flood"]);
    assert_eq!(
        text(&found.stdout),
        "bounded 1\n",
        "{}",
        text(&found.stderr)
    );
}

#[test]
fn a_signal_to_the_process_is_anybodys_who_does_not_block_it() {
    as_natively("other");
}

#[test]
fn a_mask_for_a_wait_is_for_the_wait_alone() {
    as_natively("masks");
}

#[test]
fn programs_are_told_what_their_arithmetic_did() {
    as_natively("codes");
}

/// Nor that of the operator. (Not natively: as above.)
#[test]
fn the_signals_that_count_once_are_never_refused() {
    if !needs(&["kvm"]) {
        return;
    }
    let said = "kill 0 raise 0 write -1 1, of several 0, handled 3";
    let expected = (said.to_owned(), "told".to_owned(), Some(137));
    assert_eq!(told("full", "TERM"), expected);
}

#[test]
fn timers_send_signals() {
    as_natively("timers");
}

#[test]
fn no_forged_frame_is_believed() {
    for what in ["forge", "no-room"] {
        as_natively(what);
    }
}

#[test]
fn a_handler_is_not_where_no_program_may_be() {
    as_natively("nowhere");
}

#[test]
fn no_port_is_a_programs() {
    as_natively("ports");
}

#[test]
fn single_steps_are_counted_over_calls_too() {
    as_natively("step");
}

/// Whatever the exception: the handler of faults is asked.
#[test]
fn an_exception_whose_handler_has_no_room_is_a_fault() {
    as_natively("no-room-for-exceptions");
}

#[test]
fn what_is_done_by_default() {
    as_natively("default");
}

/// Sends `signal` to the VMM once its guest is ready; what it said before and afterwards and how it ended.
fn told(what: &str, signal: &str) -> (String, String, Option<i32>) {
    let world = World::of("told", "musl-gcc", &FLAGS, SIGNALS);
    // Whoever starts the test may ignore some (`nohup`), and so would the guest.
    let mut command = with_signals(&["--default-signal"], &world.vmm("told", &[], &[what]));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    let before: Vec<String> = lines.by_ref().take_while(|line| line != "ready").collect();
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
    let rest: Vec<String> = lines.collect();
    (before.concat(), rest.concat(), child.wait().unwrap().code())
}

#[test]
fn signals_of_the_host_are_the_guests() {
    if !needs(&["kvm"]) {
        return;
    }
    for what in ["told", "computing"] {
        let expected = (String::new(), "told".to_owned(), Some(0));
        assert_eq!(told(what, "TERM"), expected, "{what}");
    }
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("USR1", 138)] {
        let expected = (String::new(), String::new(), Some(status));
        assert_eq!(told("waits", signal), expected);
    }
}
