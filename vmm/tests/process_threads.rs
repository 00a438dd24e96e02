//! Threads and signals of guests that are processes: as natively, and no more than a guest may have.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use pool_tests::wait::{PATIENCE, until, until_some};
use rustix::process::{Pid, Signal, kill_process};
use support::Placement;
use world::{Running, World, assert_same, text};

const THREADS: &str = include_str!("programs/process_threads.c");
const SIGNALS: &str = include_str!("programs/process_signals.c");
const COMPILERS: [&str; 2] = ["musl-gcc", "gcc"];
/// The stacks of threads count whole, and glibc's have 8 MiB.
const PROCESS: [&str; 4] = ["--platform", "process", "--memory", "256M"];

/// The program, in both C libraries.
fn worlds(source: &str) -> impl Iterator<Item = (World, Command)> {
    COMPILERS.into_iter().map(move |compiler| {
        let mut world = World::new();
        let native = world.build("program", compiler, &["-pthread", "-w"], source);
        (world, Command::new(native))
    })
}

fn as_natively(source: &str, arguments: &[&str]) {
    for (world, mut native) in worlds(source) {
        let native = native.args(arguments).output().unwrap();
        for backing in ["pool", "copy"] {
            let options = [&PROCESS[..], &["--backing", backing]].concat();
            let found = world.run("program", &options, arguments);
            assert_same(&format!("{arguments:?}, {backing}"), &found, &native);
        }
    }
}

fn in_guests(source: &str, arguments: &[&str], check: impl Fn(&Output)) {
    for (world, _) in worlds(source) {
        check(&world.run("program", &PROCESS, arguments));
    }
}

#[test]
fn threads_do_what_they_do_natively() {
    for what in ["turns", "memory", "many", "locks"] {
        as_natively(THREADS, &[what]);
    }
}

#[test]
fn a_group_ends_as_a_whole_and_the_first_thread_may_leave() {
    for what in ["group", "first-leaves"] {
        as_natively(THREADS, &[what]);
    }
}

/// The first thread comes for a device meanwhile, whose end the kernel tells of when all others are gone.
#[test]
fn a_group_ends_whatever_its_first_thread_waits_for() {
    let (world, _) = worlds(THREADS).next().unwrap();
    for turns in 0..40 {
        let turns = (turns * 10_000).to_string();
        let mut command = bounded(&world.vmm("program", &PROCESS, &["opening", &turns]));
        let found = command.output().unwrap();
        let said = text(&found.stderr);
        assert_eq!(found.status.code(), Some(5), "{turns} {said}");
    }
}

/// Zeros that are mapped shared are memory that nobody counts. One thread has them in the place of another file while
/// that is being mapped, sooner or later.
#[test]
fn who_maps_zeros_unseen_ends() {
    if !needs(&["root"]) {
        return;
    }
    for (world, _) in worlds(THREADS) {
        let found = bounded(&world.granted("program", &PROCESS, &["zeros"])).output();
        let found = found.unwrap();
        let said = text(&found.stderr);
        assert_eq!(found.status.code(), Some(137), "{said}");
        assert_eq!(text(&found.stdout), "replaced\n", "{said}");
        assert!(said.contains("by poolvmm: it put /dev/zero"), "{said}");
    }
}

/// A file may have been called as they are, as far as its name's end tells.
#[test]
fn who_maps_a_file_with_a_name_like_that_of_zeros_goes_on() {
    if !needs(&["root"]) {
        return;
    }
    let (world, _) = worlds(THREADS).next().unwrap();
    let found = bounded(&world.granted("program", &PROCESS, &["named"])).output();
    let found = found.unwrap();
    assert_eq!(text(&found.stdout), "5\n", "{}", text(&found.stderr));
}

/// They stop over and over: there is always one that the monitor could answer.
#[test]
fn threads_that_ask_the_monitor_all_the_time_keep_nothing_from_each_other() {
    for (world, _) in worlds(THREADS) {
        let mut command = world.vmm("program", &PROCESS, &["asking"]);
        let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        assert_eq!(first_line(&mut running), "all\n");
        send(running.0.id(), "TERM");
        let status = until_some("a signal's turn", || running.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(143));
    }
}

/// Ends a process, which others may wait for.
struct Ends(Pid);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// The kernel has whoever changes a pipe wait for whoever moves bytes into it, and no signal ends that.
#[test]
fn the_monitor_waits_for_no_pipe() {
    const SPLICE: &str = "275 ";
    const FCNTL: &str = "72 ";
    let (world, _) = worlds(THREADS).next().unwrap();
    let output = world.directory.path().join("output");
    for to_pipe in [false, true] {
        let mut command = world.vmm("program", &PROCESS, &["pipe"]);
        let file = fs::File::create(&output).unwrap();
        command.stdout(if to_pipe { Stdio::piped() } else { file.into() });
        // No pipe.
        let (mut input, input_of_guest) = UnixStream::pair().unwrap();
        command
            .stdin(OwnedFd::from(input_of_guest))
            .stderr(Stdio::null());
        let mut running = Running(command.spawn().unwrap());
        let vmm = running.0.id();
        let guest = until_some("the guest", || first_child(vmm));
        let any_is_in = |call: &str| {
            let threads = fs::read_dir(format!("/proc/{guest}/task"));
            threads.into_iter().flatten().flatten().any(|thread| {
                let its = fs::read_to_string(thread.path().join("syscall"));
                its.is_ok_and(|its| its.starts_with(call))
            })
        };
        until("the pipe to be held", || any_is_in(SPLICE));
        let ends = Ends(Pid::from_raw(guest).unwrap());
        input.write_all(b"x").unwrap();
        if to_pipe {
            assert_eq!(first_line(&mut running), "Operation not permitted\n");
        } else {
            until("the guest to wait for it", || any_is_in(FCNTL));
        }
        send(vmm, "TERM");
        let status = until_some("the guest to end", || running.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(143));
        drop(ends);
    }
}

/// The monitor uses a pipe while the guest closes it, and is then the last to do so, which waits as above.
#[test]
fn who_ends_a_guest_does_not_wait_for_its_pipes() {
    for (signal, grants) in [
        ("TERM", false),
        ("KILL", false),
        ("TERM", true),
        ("KILL", true),
    ] {
        if grants && !needs(&["root"]) {
            return;
        }
        let (world, _) = worlds(THREADS).next().unwrap();
        let grant = format!("{}:/data", world.directory.path().display());
        let mut options = PROCESS.to_vec();
        if grants {
            options.extend(["--dir", &grant]);
        }
        let mut running = Running(world.vmm("program", &options, &["closes"]).spawn().unwrap());
        let vmm = running.0.id();
        let guest = until_some("the guest", || first_child(vmm));
        let ends = Ends(Pid::from_raw(guest).unwrap());
        // Or, if it is never the last, until all are closed.
        until(
            "the monitor to wait, or the guest to have closed all",
            || {
                threads_of(vmm).any(|thread| state(&thread) == Some('D'))
                    || threads_of(guest.cast_unsigned()).count() > 2 * 20
            },
        );
        // Over and over, as an impatient supervisor does.
        let status = until_some("poolvmm to end", || {
            send(vmm, signal);
            running.0.try_wait().unwrap()
        });
        assert!(!status.success(), "{signal} {grants}: {status}");
        until("the guest to end", || {
            matches!(
                state(format!("/proc/{guest}").as_ref()),
                None | Some('Z' | 'X')
            )
        });
        drop(ends);
    }
}

/// A descriptor without a file is changed by an empty path alone.
#[test]
fn what_is_open_is_changed_as_with_linux() {
    if !needs(&["root"]) {
        return;
    }
    for (world, _) in worlds(THREADS) {
        let found = bounded(&world.granted("program", &PROCESS, &["place"])).output();
        let found = found.unwrap();
        let said = text(&found.stderr);
        assert_eq!(
            text(&found.stdout),
            "1 1 1 1 1 640\n",
            "{} {said}",
            found.status
        );
    }
}

/// Where `/proc` is another namespace's, the guest's number is somebody else's there.
#[test]
fn a_guest_is_not_looked_for_among_others() {
    if !needs(&["root"]) {
        return;
    }
    let (world, _) = worlds(THREADS).next().unwrap();
    let run = world.vmm("program", &PROCESS, &["group"]);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]);
    command.arg(run.get_program()).args(run.get_args());
    let found = bounded(&command).output().unwrap();
    let said = text(&found.stderr);
    assert!(
        !found.status.success() && said.contains("mount -t proc"),
        "{said}"
    );
    command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(run.get_program()).args(run.get_args());
    let found = bounded(&command).output().unwrap();
    assert_eq!(found.status.code(), Some(5), "{}", text(&found.stderr));
}

/// It makes connections itself, with what keeps it from waiting, which another thread takes back at once.
#[test]
fn who_ends_a_guest_does_not_wait_for_its_connections() {
    if !needs(&["root"]) {
        return;
    }
    for (world, _) in worlds(THREADS) {
        let network = ["--net", "host", "--connect", "127.0.0.1:*"];
        let options = [&PROCESS[..], &network].concat();
        let run = world.vmm("program", &options, &["connects"]);
        // Whatever its starter has blocked.
        let mut command = Command::new("env");
        command.arg("--block-signal=URG");
        command.arg(run.get_program()).args(run.get_args());
        let mut running = Running(command.spawn().unwrap());
        let vmm = running.0.id();
        let waits = |thread: &PathBuf| {
            let wait = fs::read_to_string(thread.join("wchan")).unwrap_or_default();
            wait.contains("connect") || wait == "wait_woken"
        };
        until("the monitor to wait", || {
            threads_of(vmm).any(|thread| waits(&thread))
        });
        send(vmm, "TERM");
        let status = until_some("poolvmm to end", || running.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(143));
    }
}

/// What `/proc` knows the threads of process `number` by.
fn threads_of(number: u32) -> impl Iterator<Item = PathBuf> {
    let threads = fs::read_dir(format!("/proc/{number}/task"));
    threads
        .into_iter()
        .flatten()
        .flatten()
        .map(|thread| thread.path())
}

/// The state of a thread or a process (`proc_pid_stat(5)`), behind its name.
fn state(thread: &Path) -> Option<char> {
    let stat = fs::read_to_string(thread.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The first line that it prints.
fn first_line(running: &mut Running) -> String {
    let mut output = BufReader::new(running.0.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        said
    });
    until("the guest to say something", || reader.is_finished());
    reader.join().unwrap()
}

/// The first child of process `parent`, where there is one.
fn first_child(parent: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn a_fault_of_any_thread_is_named() {
    in_guests(THREADS, &["fault"], |found| {
        let said = text(&found.stderr);
        assert_eq!(found.status.code(), Some(139), "{said}");
        let null = "guest stopped: access at 0x8 (null pointer), instruction pointer ";
        assert!(said.starts_with(null), "{said}");
    });
}

#[test]
fn threads_reach_their_own_and_no_other() {
    let other = std::process::id().to_string();
    in_guests(THREADS, &["numbers", &other], |found| {
        let expected = "own process: 1\nits clock: 0\nits processors: 0\n\
                        another's: No such process, No such process, Invalid argument\n\
                        signal by the right one: 1\n";
        assert_eq!(text(&found.stdout), expected, "{}", text(&found.stderr));
    });
}

#[test]
fn threads_are_counted() {
    in_guests(THREADS, &["limit"], |found| {
        let expected = "1024, Resource temporarily unavailable\n";
        assert_eq!(text(&found.stdout), expected, "{}", text(&found.stderr));
    });
}

#[test]
fn a_guest_starts_no_process() {
    let none = "Function not implemented";
    let expected = format!("fork: {none}\nuntraced: Invalid argument\nclone3: {none}\n");
    in_guests(THREADS, &["processes"], |found| {
        assert_eq!(text(&found.stdout), expected, "{}", text(&found.stderr));
    });
}

/// Each thread asks for memory when there is room, and they all ask at once.
#[test]
fn threads_take_no_more_memory_together_than_one_alone() {
    const GRANTED: i64 = 256 + 8;
    for (world, _) in worlds(THREADS) {
        let report = world.directory.path().join("report");
        let options = [&PROCESS[..], &["--report", report.to_str().unwrap()]].concat();
        let found = world.run("program", &options, &["keep"]);
        let kept: i64 = text(&found.stdout)
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{}", text(&found.stderr)));
        // What is granted, and as much again while it was last counted.
        assert!((GRANTED / 2..=2 * GRANTED).contains(&kept), "{kept} MiB");
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        let peak = report["host"]["peak_rss_kib"].as_i64().unwrap() >> 10;
        assert!(peak <= 2 * GRANTED + 8, "{peak} MiB");
    }
}

/// The descriptor that a thread has changed is another's meanwhile.
#[test]
fn no_race_changes_a_standard_file() {
    if !needs(&["root"]) {
        return;
    }
    for (world, _) in worlds(THREADS) {
        let home = world.directory.path();
        let (input, data) = (home.join("input"), home.join("data"));
        fs::write(&input, "x").unwrap();
        fs::set_permissions(&input, fs::Permissions::from_mode(0o604)).unwrap();
        fs::create_dir(&data).unwrap();
        let grant = format!("{}:/data", data.display());
        let options = [&PROCESS[..], &["--dir", &grant]].concat();
        let found = world
            .vmm("program", &options, &["modes"])
            .stdin(fs::File::open(&input).unwrap())
            .output()
            .unwrap();
        let expected = "both: 1, mode of the input: 604\n";
        assert_eq!(text(&found.stdout), expected, "{}", text(&found.stderr));
        let own = fs::metadata(data.join("own")).unwrap();
        assert_eq!(own.permissions().mode() & 0o7777, 0o640);
    }
}

#[test]
fn signals_and_timers_are_as_natively() {
    for (world, mut native) in worlds(SIGNALS) {
        let native = text(&native.output().unwrap().stdout);
        let (same, _) = native.split_once("to another").unwrap();
        let found = world.run("program", &PROCESS, &[]);
        let none = "No such process";
        let expected = format!("{same}to another: {none}, {none}\n");
        assert_eq!(text(&found.stdout), expected, "{}", text(&found.stderr));
    }
}

#[test]
fn signals_to_the_vmm_are_for_the_guest() {
    for (world, _) in worlds(SIGNALS) {
        let mut vmm = world
            .vmm("program", &PROCESS, &["from-outside"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(vmm.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        for (name, number) in [
            ("USR1", "10"),
            ("USR2", "12"),
            ("HUP", "1"),
            ("WINCH", "28"),
        ] {
            send(vmm.id(), name);
            assert_eq!(lines.next().unwrap().unwrap(), number, "{name}");
        }
        send(vmm.id(), "TERM");
        assert_eq!(lines.next().unwrap().unwrap(), "15");
        assert_eq!(vmm.wait().unwrap().code(), Some(3), "the guest decides");
    }
}

fn send(process: u32, signal: &str) {
    let sent = Command::new("kill")
        .args(["-s", signal, &process.to_string()])
        .status();
    assert!(sent.unwrap().success());
}

/// Its process is sent for by its number here, as what is sent to poolvmm then is by that.
#[test]
fn who_ends_a_guest_that_is_being_prepared_has_ended_it() {
    const WAITS: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }";
    const ROUNDS: usize = 8;
    let world = World::of("waits", "musl-gcc", &["-w"], WAITS);
    for _ in 0..ROUNDS {
        let mut vmm = world.vmm("waits", &PROCESS, &[]);
        let vmm = vmm.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let vmm = Running(vmm.unwrap());
        // Soon after it has become one, as nobody sleeps in between.
        let since = Instant::now();
        let child = loop {
            if let Some(child) = first_child(vmm.0.id()) {
                break child;
            }
            assert!(since.elapsed() < PATIENCE, "it has no guest");
        };
        kill_process(Pid::from_raw(child).unwrap(), Signal::TERM).unwrap();
        let (status, said) = vmm.ended();
        assert_eq!((status, &said[..]), (Some(143), ""));
    }
}

/// A guest that goes to where the VMM would stop, could it not leave, has failed itself.
#[test]
fn a_guest_is_not_taken_for_the_vmm() {
    in_guests(SIGNALS, &["leave"], |found| {
        let said = text(&found.stderr);
        assert_eq!(found.status.code(), Some(132), "{said}");
        assert!(
            said.starts_with("guest stopped: invalid instruction"),
            "{said}"
        );
    });
}

/// Go makes threads by its own calls, moves on with signals and reserves addresses by the gigabyte.
#[test]
fn go_runs() {
    if !needs(&["go"]) {
        return;
    }
    let mut world = World::new();
    let home = world.directory.path().to_owned();
    let source = home.join("main.go");
    fs::write(&source, include_str!("programs/process_go.go")).unwrap();
    let program = home.join("go-program");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&program, &source])
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", home.join("cache"))
        .env("HOME", &home)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", text(&built.stderr));
    world.pool.add(&program, "go", Placement::Dense);
    let native = Command::new(&program).output().unwrap();
    for backing in ["pool", "copy"] {
        let options = [&PROCESS[..], &["--net", "host", "--backing", backing]].concat();
        assert_same(backing, &world.run("go", &options, &[]), &native);
    }
}
