//! Standard input, output and error: a guest uses the operator's, and leaves them as they were.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use world::{World, text};

const TOLD: &str = include_str!("programs/told.h");
const BLOCKED: &str = include_str!("programs/blocked.c");
const CHANGES: &str = include_str!("programs/changes.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];

fn world() -> World {
    let mut world = World::new();
    for (name, source) in [("blocked", BLOCKED), ("changes", CHANGES)] {
        let whole = source.replace("#include \"told.h\"", TOLD);
        world.build(name, "gcc", &["-w"], &whole);
    }
    world
}

/// A terminal: the side that shows it, and the side of programs.
fn terminal() -> (File, OwnedFd) {
    let (mut outside, mut inside) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: fills two numbers, and is told nothing of what may be null.
    let made = unsafe {
        libc::openpty(
            &raw mut outside,
            &raw mut inside,
            none,
            none.cast(),
            none.cast(),
        )
    };
    assert_eq!(made, 0);
    // SAFETY: both were just made, and nobody else has them.
    unsafe { (File::from_raw_fd(outside), OwnedFd::from_raw_fd(inside)) }
}

fn settings(file: &impl AsRawFd) -> [u32; 4] {
    // SAFETY: all zeros are such a structure, which the call fills.
    let mut found: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is filled.
    let asked = unsafe { libc::tcgetattr(file.as_raw_fd(), &raw mut found) };
    assert_eq!(asked, 0);
    [found.c_iflag, found.c_oflag, found.c_cflag, found.c_lflag]
}

fn flags(file: &impl AsRawFd) -> i32 {
    // SAFETY: only asks.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }
}

/// What a line of `told.h` says that a call returned.
fn result(line: &str) -> &str {
    line.rsplit_once(" = ")
        .map_or(line, |(_, result)| result.trim())
}

#[test]
fn a_terminal_is_as_it_was() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = world();
    for platform in PLATFORMS {
        let (_outside, inside) = terminal();
        let before = (settings(&inside), flags(&inside));
        let vmm = world.vmm("changes", &["--platform", platform], &[]);
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "60", "setsid", "--ctty", "--wait"]);
        command.arg(vmm.get_program()).args(vmm.get_args());
        let found = command.stdin(inside.try_clone().unwrap()).output().unwrap();
        let said = text(&found.stdout);
        let said: Vec<&str> = said.lines().map(result).collect();
        let expected = [
            "0", "0", "1", "0", "0", "group 1", "0", "0", "1", "0", "3072",
        ];
        assert_eq!(
            said[..expected.len()],
            expected,
            "{platform} {}",
            text(&found.stderr)
        );
        assert_eq!((settings(&inside), flags(&inside)), before, "{platform}");
    }
}

#[test]
fn flags_that_are_shared_are_as_they_were() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = world();
    for platform in PLATFORMS {
        let (pipe, _writer) = std::io::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let files: [OwnedFd; 3] = [pipe.into(), socket.into(), file.into()];
        for (at, file) in files.iter().enumerate() {
            // SAFETY: only asks.
            let size = || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETPIPE_SZ) };
            let before = (flags(file), size());
            let mut command = bounded(&world.vmm("changes", &["--platform", platform], &[]));
            let found = command.stdin(file.try_clone().unwrap()).output().unwrap();
            let said = text(&found.stdout);
            assert!(
                said.contains("(O_NONBLOCK | O_APPEND) = 3072"),
                "{platform} {at} {said}"
            );
            assert_eq!((flags(file), size()), before, "{platform} {at} {said}");
        }
    }
}

/// Who reads it sees the end when the guest has closed it, and not when the guest ends.
#[test]
fn output_that_the_guest_closes_is_closed() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = "#include <unistd.h>\nint main(void) { char b; write(1, \"x\", 1); close(1); return read(0, &b, 1) == 1 ? b : 1; }";
    let world = World::of("closes", "gcc", &["-w"], source);
    for platform in PLATFORMS {
        let mut command = world.vmm("closes", &["--platform", platform], &[]);
        let mut guest = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = guest.stdout.take().unwrap();
        let (told, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut said = Vec::new();
            output.read_to_end(&mut said).unwrap();
            told.send(said)
        });
        let said = end.recv_timeout(std::time::Duration::from_secs(60));
        guest.stdin.take().unwrap().write_all(b"\x05").unwrap();
        assert_eq!(guest.wait().unwrap().code(), Some(5), "{platform}");
        assert_eq!(said.as_deref(), Ok(&b"x"[..]), "{platform}");
    }
}

/// A terminal takes no more than it can show, and the thread that writes is the only one to wait.
#[test]
fn a_terminal_that_nobody_looks_at_stops_one_thread() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = world();
    let (_outside, inside) = terminal();
    let mut command = bounded(&world.vmm("blocked", &[], &["terminal"]));
    let status = command.stdout(inside).status().unwrap();
    assert_eq!(status.code(), Some(7));
}

#[test]
fn a_stream_that_is_closed_leads_nowhere() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = "#include <unistd.h>\nint main(void) { char b; return read(0, &b, 1) == 0 && write(1, \"x\", 1) == 1 && write(2, \"x\", 1) == 1 ? 5 : 1; }";
    let world = World::of("uses", "gcc", &["-w"], source);
    for platform in PLATFORMS {
        let vmm = bounded(&world.vmm("uses", &["--platform", platform], &[]));
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh"]);
        shell.arg(vmm.get_program()).args(vmm.get_args());
        assert_eq!(shell.status().unwrap().code(), Some(5), "{platform}");
    }
}

/// A pipe whose reader has gone ends the guest, and not the monitor.
#[test]
fn output_that_nobody_reads_is_the_guests_affair() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = "#include <signal.h>\n#include <unistd.h>\nint main(void) { signal(SIGPIPE, SIG_IGN); return write(1, \"x\", 1) == -1 ? 5 : 1; }";
    let world = World::of("writes", "gcc", &["-w"], source);
    for platform in PLATFORMS {
        let mut command = bounded(&world.vmm("writes", &["--platform", platform], &[]));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = command.stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(5), "{platform}");
    }
}

/// Whoever started the guest learns how it ended, whatever becomes of the messages.
#[test]
fn a_reader_that_is_gone_changes_no_status() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = "int main(void) { return *(volatile int *)8; }";
    let world = World::of("faults", "gcc", &["-w"], source);
    let report = world.directory.path().join("report");
    for platform in PLATFORMS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let options = ["--platform", platform, "--report", report.to_str().unwrap()];
        let mut command = bounded(&world.vmm("faults", &options, &[]));
        let found = command.stderr(writer).output().unwrap();
        assert_eq!(found.status.code(), Some(139), "{platform}");
        let written = std::fs::read_to_string(&report).unwrap();
        assert!(written.contains("\"status\": 139"), "{platform} {written}");
    }
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let vmm = || Command::new(env!("CARGO_BIN_EXE_poolvmm"));
    let found = vmm().arg("--help").stdout(full()).output().unwrap();
    assert_eq!(found.status.code(), Some(1));
    assert!(text(&found.stderr).starts_with("poolvmm: printing: No space left"));
    let found = vmm().arg("bogus").stderr(full()).output().unwrap();
    assert_eq!(found.status.code(), Some(2));
}

#[test]
fn too_few_descriptors_are_told_of() {
    let found = Command::new("sh")
        .args(["-c", "ulimit -n 70; exec \"$0\" run any"])
        .arg(env!("CARGO_BIN_EXE_poolvmm"))
        .output()
        .unwrap();
    assert_eq!(found.status.code(), Some(1));
    let said = text(&found.stderr);
    assert!(said.contains("70 are allowed (ulimit -n)"), "{said}");
}
