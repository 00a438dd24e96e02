//! `--trace`: what it prints is what `strace` prints, on both platforms; and what poolvmm says of calls that are not
//! served.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use pool_tests::requirements::needs;
use serde_json::Value;
use world::{World, text};

const TRACED: &str = include_str!("programs/traced.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];

/// Lines of a trace that are the same wherever the program runs.
const LINES: [&str; 18] = [
    r#"open("/no such\tfile", O_RDONLY) = -1 ENOENT (No such file or directory)"#,
    "openat(99, 0x8, O_RDONLY|O_CLOEXEC) = -1 ",
    "pipe2([3, 4], O_CLOEXEC) = 0",
    r#"writev(4, [{iov_base="one \"1\"\n", iov_len=8}, {iov_base="\1\0002\377", iov_len=4}], 2) = 12"#,
    r#"read(3, "one \"1\"\n\1\0002\377", 64) = 12"#,
    "fstat(3, {st_mode=S_IFIFO|0600, st_size=0, ...}) = 0",
    "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x",
    "clock_nanosleep(CLOCK_MONOTONIC, 0, {tv_sec=0, tv_nsec=1000}, NULL) = 0",
    "rt_sigaction(SIGUSR1, {sa_handler=0x",
    ", SIGUSR1) = 0",
    "--- SIGUSR1 {si_signo=SIGUSR1, si_code=SI_TKILL, si_pid=",
    "rt_sigreturn(",
    "lseek(0, -1, SEEK_CUR) = -1 ",
    r#"write(4, "end", 3 <unfinished ...>"#,
    "<... read resumed>\"end\", 64) = 3",
    "exit_group(7) = ?",
    "exited with 0 +++",
    "+++ exited with 7 +++",
];

/// What `strace` pads and abbreviates.
fn plain(line: &str) -> String {
    let mut line = line.to_owned();
    while line.contains(")  ") {
        line = line.replace(")  ", ") ");
    }
    line
}

fn traced(world: &World, platform: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = world.vmm("traced", &["--platform", platform, "--trace"], arguments);
    let found = command.stdin(Stdio::piped()).output().unwrap();
    (found.status.code(), text(&found.stderr))
}

fn build(world: &mut World) -> std::path::PathBuf {
    world.build("traced", "musl-gcc", &["-pthread", "-w"], TRACED)
}

fn contains(trace: &str, line: &str) -> bool {
    // A write that wakes the reader may return before it or after.
    let whole = line.replace(" <unfinished ...>", ") = 3");
    let resumed = line.replace("<... read resumed>", "read(3, ");
    trace
        .lines()
        .map(plain)
        .any(|found| found.contains(line) || found.contains(&whole) || found.contains(&resumed))
}

#[test]
fn a_trace_has_the_form_of_strace_on_both_platforms() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = build(&mut world);
    for platform in PLATFORMS {
        let (status, trace) = traced(&world, platform, &[]);
        assert_eq!(status, Some(7), "{trace}");
        for line in LINES {
            assert!(contains(&trace, line), "{platform}: {line}\n{trace}");
        }
        assert!(trace.contains("[pid "), "{trace}");
        let first = trace.lines().next().unwrap();
        assert!(first.starts_with("arch_prctl(ARCH_SET_FS, 0x"), "{first}");
        // Nothing of how the guest came to be.
        assert!(!trace.contains("close_range("), "{trace}");
        let (status, trace) = traced(&world, platform, &["fault"]);
        assert_eq!(status, Some(139), "{trace}");
        for line in [
            "--- SIGSEGV {si_signo=SIGSEGV, si_code=SEGV_MAPERR, si_addr=0x8} ---",
            "+++ killed by SIGSEGV +++",
        ] {
            assert!(contains(&trace, line), "{platform}: {line}\n{trace}");
        }
    }
    natively(&path);
}

/// A guest whose standard error does not wait has its trace wait all the same.
#[test]
fn nothing_of_a_trace_is_lost() {
    const ROOM: usize = 4096;
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    build(&mut world);
    for platform in PLATFORMS {
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, ROOM).unwrap();
        let mut command = world.vmm("traced", &["--platform", platform, "--trace"], &["hurry"]);
        let mut guest = command.stderr(writer).spawn().unwrap();
        drop(command);
        let mut trace = Vec::new();
        for _ in 0..5 {
            // Half a line, which finds no room.
            let full = (ROOM - "getuid(".len()) as u64;
            while rustix::io::ioctl_fionread(&reader).unwrap() <= full {
                assert!(guest.try_wait().unwrap().is_none());
                std::thread::yield_now();
            }
            // Who does not wait goes on.
            (0..1000).for_each(|_| std::thread::yield_now());
            let mut some = [0; ROOM];
            let length = reader.read(&mut some).unwrap();
            trace.extend_from_slice(&some[..length]);
        }
        reader.read_to_end(&mut trace).unwrap();
        assert!(guest.wait().unwrap().success());
        let trace = text(&trace);
        let line = format!("getuid() = {}", rustix::process::getuid().as_raw());
        let found = trace.lines().filter(|found| *found == line).count();
        assert_eq!(found, 20000, "{platform}");
        assert!(trace.ends_with("+++ exited with 0 +++\n"), "{platform}");
    }
}

#[test]
fn a_trace_in_a_file_is_not_the_guests() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    build(&mut world);
    let file = world.directory.path().join("trace");
    let option = format!("--trace={}", file.display());
    for platform in PLATFORMS {
        let found = world.run("traced", &["--platform", platform, &option], &["spoil"]);
        assert_eq!(text(&found.stderr), "exit_group(9) = ?\n", "{platform}");
        let trace = fs::read_to_string(&file).unwrap();
        assert!(trace.starts_with("arch_prctl("), "{trace}");
        assert!(
            !trace.lines().any(|line| line == "exit_group(9) = ?"),
            "{trace}"
        );
        assert!(trace.contains("ftruncate(2, 0) = "), "{trace}");
        assert!(
            trace.ends_with("exit_group(0) = ?\n+++ exited with 0 +++\n"),
            "{trace}"
        );
    }
    let nowhere = world.run("traced", &["--trace=/nonexistent/trace"], &["spoil"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(text(&nowhere.stderr).contains("--trace=/nonexistent/trace: No such file"));
}

/// `strace` itself prints the same, where it is installed.
fn natively(path: &Path) {
    let strace = Command::new("strace")
        .args(["-f", "-a0"])
        .arg(path)
        .stdin(Stdio::piped())
        .output();
    let Ok(found) = strace else {
        return;
    };
    let trace = text(&found.stderr);
    for line in LINES {
        assert!(contains(&trace, line), "strace: {line}\n{trace}");
    }
}

#[test]
fn a_guest_that_fails_is_said_to_miss_calls() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    build(&mut world);
    let report = world.directory.path().join("report.json");
    for platform in PLATFORMS {
        let options = ["--platform", platform, "--report", report.to_str().unwrap()];
        let found = world.run("traced", &options, &[]);
        let said = text(&found.stderr);
        for line in [
            "the guest made calls that are not served: io_uring_setup (425)\n",
            "the guest made calls with arguments that are not served: prctl(0x4d)\n",
        ] {
            assert!(said.contains(line), "{platform}: {said}");
        }
        let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["unknown_calls"]["425"], 1, "{platform}");
        assert_eq!(report["refused_calls"]["prctl(0x4d)"], 1, "{platform}");
        assert_eq!(report["stops"].is_object(), platform == "process");
        assert_eq!(report["exits"].is_object(), platform == "kvm");
    }
}
