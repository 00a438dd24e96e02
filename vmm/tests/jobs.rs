//! Guests as jobs of a shell: what a terminal, a shell or a service's manager sends reaches a guest once, and it stops and goes on, as the same
//! program does natively.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::path::Path;
use std::process::Command;

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use support::compile;
use world::{World, text};

const JOB: &str = include_str!("programs/job.c");
const STOPPED: &str = include_str!("programs/stopped.c");
const TERMINAL: &str = include_str!("programs/terminal.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];

/// What a shell at a terminal of its own sees of `job`.
fn seen(shell: &Path, scenario: &str, job: &Command) -> String {
    let mut command = bounded(Command::new(shell).arg(scenario));
    let found = command
        .arg(job.get_program())
        .args(job.get_args())
        .output()
        .unwrap();
    text(&found.stdout) + &text(&found.stderr)
}

fn as_natively(scenario: &str, arguments: &[&str]) {
    program_as_natively(JOB, scenario, arguments);
}

fn program_as_natively(source: &str, scenario: &str, arguments: &[&str]) {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let directory = world.directory.path().to_owned();
    let shell = compile(&directory, "shell", "gcc", &["-w"], TERMINAL);
    let program = world.build("job", "musl-gcc", &["-w"], source);
    let expected = seen(&shell, scenario, Command::new(program).args(arguments));
    assert!(!expected.contains("failed"), "{expected}");
    for platform in PLATFORMS {
        let guest = world.vmm("job", &["--platform", platform], arguments);
        let found = seen(&shell, scenario, &guest);
        assert_eq!(found, expected, "{scenario} {platform}");
    }
}

#[test]
fn a_signal_comes_once() {
    as_natively("all", &[]);
}

#[test]
fn a_job_stops_and_goes_on() {
    as_natively("stop", &[]);
}

/// To stop and to go on undo each other in the order in which they are sent.
#[test]
fn whoever_has_a_job_go_on_is_heard_while_it_stops() {
    as_natively("in haste", &[]);
    as_natively("again in haste", &["asked"]);
}

/// The first of which has ended.
#[test]
fn threads_stop_together() {
    as_natively("stop", &["threads"]);
}

#[test]
fn who_is_stopped_in_a_call_goes_on_with_it() {
    for what in ["sleeps", "reads"] {
        as_natively(what, &[what]);
    }
}

/// SIGCONT is told before the call that it was stopped in goes on, or ends as a handler has it end.
#[test]
fn who_goes_on_is_told_before_its_call_goes_on() {
    for scenario in ["sleeps", "reads", "reads later"] {
        for how in ["restarts", "ends"] {
            let what = scenario.split(' ').next().unwrap();
            as_natively(scenario, &[what, how]);
        }
    }
}

#[test]
fn who_goes_on_reading_in_the_background_is_stopped_again() {
    for how in ["unaware", "restarts"] {
        as_natively("reads behind", &["reads", how]);
    }
}

/// Who reads when that happens, and who does so later.
#[test]
fn a_terminal_goes_away() {
    as_natively("hangs up", &["loses"]);
}

/// Who reads from its terminal, writes to it (`stty tostop`), sets it, drops its input or waits until it has sent all.
#[test]
fn who_uses_its_terminal_in_the_background_is_told() {
    for how in ["stops", "handles", "again", "ignores", "blocks"] {
        as_natively("background", &["uses", how]);
    }
}

#[test]
fn a_stop_ends_some_calls_and_others_wait_on() {
    program_as_natively(STOPPED, "calls", &["9 ended"]);
}

/// Those that it ends were ended by it, though their time is over when they go on.
#[test]
fn a_stop_ends_a_call_before_its_limit_does() {
    program_as_natively(STOPPED, "limits", &["9 ended", "4000"]);
}

#[test]
fn a_guest_has_a_say_in_how_it_is_stopped() {
    as_natively("handled", &["handled"]);
}

#[test]
fn a_guest_stops_itself_for_all_to_see() {
    as_natively("itself", &["itself"]);
}

#[test]
fn a_job_is_ended_by_its_number_and_by_its_group() {
    for signal in ["1", "2", "3", "15"] {
        as_natively("default", &["default", signal]);
    }
}

/// The end of its reader, and a time limit.
#[test]
fn shells_put_guests_where_programs_are() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let program = world.build("job", "musl-gcc", &["-w"], JOB);
    let shell = |script: &str, job: &Command| {
        let mut command = bounded(Command::new("bash").args(["-c", script]));
        command.arg(job.get_program()).args(job.get_args());
        let found = command.output().unwrap();
        text(&found.stdout) + &text(&found.stderr)
    };
    for (script, arguments) in [
        (
            r#""$0" "$@" 2>&1 | head -n 2; echo "${PIPESTATUS[0]}""#,
            "many",
        ),
        (r#"timeout -s INT 1 "$0" "$@"; echo "$?""#, "default"),
        (r#"timeout 1 "$0" "$@"; echo "$?""#, "default"),
    ] {
        let expected = shell(script, Command::new(&program).arg(arguments));
        for platform in PLATFORMS {
            let guest = world.vmm("job", &["--platform", platform], &[arguments]);
            assert_eq!(shell(script, &guest), expected, "{platform} {script}");
        }
    }
}
