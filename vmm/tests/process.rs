//! What a guest of the process platform can reach, measured by guests that try.

#![allow(clippy::unwrap_used)]

mod operator;
mod programs;
mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use operator::{MARKER, Operator, PROCESS, libc_number};
use pool_tests::requirements::needs;
use pool_tests::run::{bounded, with_signals};
use pool_tests::wait;
use programs::{FACTS, FILES, INHERITED, MODES, REGISTERS, SCAN, SIGNALS, SLEEP};
use support::Placement;
use world::{Running, text};

const KVM: [&str; 2] = ["--platform", "kvm"];
const COMPILERS: [&str; 2] = ["gcc", "musl-gcc"];

#[test]
fn a_guest_finds_nothing_of_the_vmm_in_its_address_space() {
    let backwards: String = MARKER.chars().rev().collect();
    let mut operator = Operator::new();
    for compiler in COMPILERS {
        let native = operator.build(compiler, compiler, &[], SCAN);
        let control = Command::new(native)
            .arg(&backwards)
            .env("OPERATORS_TOKEN", MARKER)
            .output()
            .unwrap();
        let control = text(&control.stdout);
        assert!(!control.ends_with("hits 0\n"), "it can be found: {control}");

        for backing in ["pool", "copy"] {
            let options = [&PROCESS[..], &["--backing", backing]].concat();
            let found = operator.run(compiler, &options, &[&backwards]);
            let said = text(&found.stdout);
            assert_eq!(
                found.status.code(),
                Some(0),
                "{said} {}",
                text(&found.stderr)
            );
            assert!(said.ends_with("hits 0\n"), "{said}");
            // The image, its heap, the monitor's page and the stack lie in the image's own GiB.
            for line in said.lines().filter(|line| line.contains('-')) {
                let range = line.split(' ').next().unwrap();
                let (_, end) = range.split_once('-').unwrap();
                let end = u64::from_str_radix(end, 16).unwrap();
                assert!(end <= 1 << 30, "something lies at {line}:\n{said}");
            }
        }
    }
}

#[test]
fn a_guest_starts_with_the_registers_of_a_new_program() {
    let mut operator = Operator::new();
    let flags = ["-nostdlib", "-nostartfiles", "-fno-stack-protector"];
    operator.build("registers", "gcc", &flags, REGISTERS);
    let found = operator.run("registers", &PROCESS, &[]);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
}

#[test]
fn the_host_sees_the_guest_and_nothing_of_the_vmm_in_its_process() {
    let mut operator = Operator::new();
    operator
        .world
        .pool
        .add("/usr/bin/busybox".as_ref(), "busybox", Placement::Dense);
    let options = [&PROCESS[..], &["--env", "COLOUR=green"]].concat();
    let vmm = operator
        .vmm("busybox", &options, &["sleep", "1000"])
        .spawn();
    let mut running = Running(vmm.unwrap());
    let guest = running.guest_in_call(libc_number("clock_nanosleep"));
    let read = |name: &str| fs::read(format!("/proc/{guest}/{name}")).unwrap();
    assert_eq!(text(&read("cmdline")), "busybox\0sleep\x001000\0");
    assert_eq!(text(&read("environ")), "COLOUR=green\0");
    let maps = text(&read("maps"));
    for line in maps.lines().filter(|line| !line.ends_with("[vsyscall]")) {
        let end = line.split(['-', ' ']).nth(1).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        assert!(end <= 1 << 30, "{maps}");
        assert!(!line.contains("poolvmm"), "{maps}");
    }
    let descriptors = fs::read_dir(format!("/proc/{guest}/fd")).unwrap();
    let mut descriptors: Vec<_> = descriptors
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    descriptors.sort();
    assert_eq!(descriptors, ["0", "1", "2"]);
    let status = text(&read("status"));
    for line in [
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp_filters:\t1",
    ] {
        assert!(status.contains(line), "{status}");
    }
}

#[test]
fn a_guest_learns_no_more_of_the_host_than_under_kvm() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut operator = Operator::new();
    for compiler in COMPILERS {
        operator.build(compiler, compiler, &[], FACTS);
        let kvm = operator.run(compiler, &KVM, &[]);
        let process = operator.run(compiler, &PROCESS, &[]);
        let (kvm, process) = (text(&kvm.stdout), text(&process.stdout));
        assert_eq!(process, kvm, "{compiler}");
        for line in [
            "Linux poolvmm 6.1.0 #1 poolvmm x86_64",
            "sysinfo 0: 64 MiB, some free, 1 processes",
            "uname into nowhere: Bad address",
            "cwd /",
            "stdin: ok 1",
            "mode of stdout: Operation not permitted",
            "argument registers survive: 1",
            "other descriptors: 0",
        ] {
            assert!(process.lines().any(|l| l == line), "{line} in {process}");
        }
        let none = "No such file or directory";
        let absent = format!("/etc/shadow: {none}, {none}, {none}\n");
        assert!(process.contains(&absent), "{process}");
        let nothing = format!("nothing: {none}, {none}\n");
        assert!(process.contains(&nothing), "{process}");
        assert!(
            process.contains("grows by 0x100000, shrinks to 0\n"),
            "{process}"
        );
    }
}

#[test]
fn signals_are_handled_as_they_are_natively() {
    let mut operator = Operator::new();
    for compiler in COMPILERS {
        let native = operator.build(compiler, compiler, &[], SIGNALS);
        // No end by a signal, by one that it had a handler for, by one that is a fault's.
        for arguments in [&[][..], &["15"], &["11"]] {
            let expected = Command::new(&native).args(arguments).output().unwrap();
            let found = operator.run(compiler, &PROCESS, arguments);
            let what = format!("{compiler} {arguments:?}");
            assert_eq!(text(&found.stdout), text(&expected.stdout), "{what}");
            let status = arguments
                .first()
                .map_or(3, |s| 128 + s.parse::<i32>().unwrap());
            assert_eq!(found.status.code(), Some(status), "{what}");
            // What was handled is not reported.
            assert_eq!(text(&found.stderr), "", "{what}");
        }
    }
}

#[test]
fn signals_start_out_as_the_starter_left_them() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut operator = Operator::new();
    let native = operator.build("signals", "musl-gcc", &[], INHERITED);
    let started = |command: &Command, options: &[&str]| {
        let options = [&["--default-signal"], options].concat();
        let found = with_signals(&options, command).output().unwrap();
        text(&found.stdout) + &text(&found.stderr)
    };
    for options in [
        &[][..],
        &["--ignore-signal=HUP"],
        &["--ignore-signal=PIPE"],
        &[
            "--ignore-signal=ALRM",
            "--ignore-signal=TERM",
            "--block-signal=USR1",
        ],
        &[
            "--block-signal=INT",
            "--block-signal=TERM",
            "--block-signal=CHLD",
        ],
    ] {
        let expected = started(&Command::new(&native), options);
        assert_eq!(expected.is_empty(), options.is_empty(), "{expected}");
        for platform in [KVM, PROCESS] {
            let found = started(&operator.vmm("signals", &platform, &[]), options);
            assert_eq!(found, expected, "{platform:?} {options:?}");
        }
    }
}

/// Sends `signal` to `process`, or to the group that it stands for with a minus.
fn send(signal: &str, process: &str) {
    let sent = Command::new("kill")
        .args(["-s", signal, "--", process])
        .status();
    assert!(sent.unwrap().success());
}

/// Whoever stopped it. People and service managers know of the VMM, and have that go on.
#[test]
fn a_guest_that_was_stopped_sleeps_on() {
    for told in ["the guest", "the VMM"] {
        sleeps_on(told == "the VMM");
    }
}

fn sleeps_on(by_vmm: bool) {
    let mut operator = Operator::new();
    operator.build("sleep", "musl-gcc", &[], SLEEP);
    let vmm = operator
        .vmm("sleep", &PROCESS, &[])
        .stdout(Stdio::piped())
        .spawn();
    let mut running = Running(vmm.unwrap());
    let guest = running.guest_in_call(libc_number("nanosleep"));
    send("STOP", &guest.to_string());
    wait::until_some("the guest stops", || {
        let stat = fs::read_to_string(format!("/proc/{guest}/stat")).ok()?;
        let state = stat.rsplit(") ").next()?.chars().next()?;
        "Tt".contains(state).then_some(())
    });
    let told = if by_vmm { running.0.id() } else { guest };
    send("CONT", &told.to_string());
    let mut line = String::new();
    let output = running.0.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "slept, long enough\n");
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

/// The kernel keeps one of two that wait, here that of the guest, and what the VMM has passed on is had with it.
#[test]
fn a_signal_that_meets_the_guests_own_comes_with_it() {
    const MEETS: &str = r#"
        #include <signal.h>
        #include <unistd.h>
        static void heard(int signal) { write(1, signal == SIGUSR1 ? "heard\n" : "fence\n", 6); }
        int main(void) {
            char byte;
            sigset_t set;
            signal(SIGUSR1, heard);
            signal(SIGUSR2, heard);
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            while (read(0, &byte, 1) == 1) {
                sigprocmask(SIG_BLOCK, &set, 0);
                kill(getpid(), SIGUSR1);
                write(1, "sent\n", 5);
                read(0, &byte, 1);
                sigprocmask(SIG_UNBLOCK, &set, 0);
            }
            return 3;
        }"#;
    const ROUNDS: usize = 10;
    let mut operator = Operator::new();
    operator.build("meets", "musl-gcc", &["-w"], MEETS);
    for platform in [KVM, PROCESS] {
        let mut vmm = operator.vmm("meets", &platform, &[]);
        let vmm = vmm.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = Running(vmm.process_group(0).spawn().unwrap());
        let vmm = running.0.id().to_string();
        let mut input = running.0.stdin.take().unwrap();
        let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
        let mut line = || lines.next().map(Result::unwrap);
        for _ in 0..ROUNDS {
            input.write_all(b"x").unwrap();
            assert_eq!(line().unwrap(), "sent");
            // The first is passed on once the second has come.
            send("USR1", &vmm);
            send("USR2", &vmm);
            assert_eq!(line().unwrap(), "fence");
            input.write_all(b"x").unwrap();
            assert_eq!(line().unwrap(), "heard");
            send("USR1", &format!("-{vmm}"));
            assert_eq!(line().unwrap(), "heard", "{platform:?}");
        }
        drop(input);
        assert_eq!(running.0.wait().unwrap().code(), Some(3));
        assert_eq!(line(), None, "{platform:?}: one came twice");
    }
}

/// Who sends a signal to a job or to a service tells the VMM and the guest's process.
#[test]
fn a_signal_to_all_comes_once_and_one_to_the_guest_comes() {
    const COUNTS: &str = r#"
        #include <signal.h>
        #include <unistd.h>
        static void heard(int signal) {
            if (signal == SIGTERM) _exit(3);
            write(1, "heard\n", 6);
        }
        int main(void) {
            signal(SIGUSR1, heard);
            signal(SIGTERM, heard);
            write(1, "ready\n", 6);
            for (;;) pause();
        }"#;
    const ROUNDS: usize = 40;
    let mut operator = Operator::new();
    operator.build("counts", "musl-gcc", &["-w"], COUNTS);
    for platform in [KVM, PROCESS] {
        let mut vmm = operator.vmm("counts", &platform, &[]);
        let vmm = vmm.stdout(Stdio::piped()).process_group(0).spawn();
        let mut running = Running(vmm.unwrap());
        let vmm = running.0.id();
        let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
        let mut line = || lines.next().map(Result::unwrap);
        assert_eq!(line().unwrap(), "ready");
        for _ in 0..ROUNDS {
            send("USR1", &format!("-{vmm}"));
            assert_eq!(line().unwrap(), "heard");
        }
        send("USR1", &vmm.to_string());
        assert_eq!(line().unwrap(), "heard");
        if platform == PROCESS {
            let guest = running.guest_in_call(libc_number("pause"));
            send("USR1", &guest.to_string());
            assert_eq!(line().unwrap(), "heard");
        }
        send("TERM", &vmm.to_string());
        assert_eq!(running.0.wait().unwrap().code(), Some(3));
        assert_eq!(line(), None, "{platform:?}: one came twice");
    }
}

/// No thread stops for these two, so the status would be all that anybody had.
#[test]
fn what_no_program_is_asked_about_is_said_in_words() {
    const ENDS: &str = r#"
        #include <signal.h>
        #include <string.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            if (!strcmp(argv[1], "old")) { long r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory"); }
            kill(getpid(), !strcmp(argv[1], "kill") ? SIGKILL : SIGSYS);
            for (;;) pause();
        }"#;
    let mut operator = Operator::new();
    operator.build("ends", "musl-gcc", &[], ENDS);
    for (how, status, words) in [
        ("old", 159, "guest stopped: a system call of 32-bit code"),
        ("kill", 137, "guest stopped: killed (SIGKILL)"),
        ("sys", 159, ""),
    ] {
        let mut found = bounded(&operator.vmm("ends", &PROCESS, &[how]));
        let found = found.output().unwrap();
        let said = text(&found.stderr);
        assert_eq!(found.status.code(), Some(status), "{how}: {said}");
        assert!(said.starts_with(words), "{how}: {said}");
        assert_eq!(said.is_empty(), words.is_empty(), "{how}: {said}");
        let reported = operator.reported();
        let fault = reported["fault"].as_str().unwrap_or_default();
        assert_eq!(fault, said.trim_end(), "{how}");
    }
}

#[test]
fn faults_of_files_stacks_and_alignment_are_told_apart() {
    const FAULTS: &str = r#"
        #include <fcntl.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            char bytes[64];
            if (!strcmp(argv[1], "file")) {
                int f = open("/data/file", O_RDWR | O_CREAT, 0600);
                ftruncate(f, 1);
                char *at = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
                at[5000] = 1;
            }
            if (!strcmp(argv[1], "stack"))
                __asm__ volatile("movabs $0x8000000000000000, %rsp; push %rax");
            if (!strcmp(argv[1], "aligned"))
                __asm__ volatile("pushf; orq $0x40000, (%%rsp); popf; movl 1(%0), %%eax" : : "r"(bytes) : "rax", "cc");
            return 0;
        }"#;
    let mut operator = Operator::new();
    operator.build("faults", "musl-gcc", &["-w"], FAULTS);
    for (how, words) in [
        ("file", "past the end of the mapped file"),
        ("stack", "an address that no stack can have"),
        ("aligned", "processor exception 17"),
    ] {
        let found = operator.world.granted("faults", &PROCESS, &[how]).output();
        let found = found.unwrap();
        let said = text(&found.stderr);
        assert_eq!(found.status.code(), Some(135), "{how}: {said}");
        assert!(said.contains(words), "{how}: {said}");
    }
}

#[test]
fn what_is_the_kernel_is_not_granted() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut operator = Operator::new();
    operator.build("files", "gcc", &[], FILES);
    for platform in [KVM, PROCESS] {
        for host in ["/proc", "/proc/self", "/sys"] {
            let grant = format!("{host}:/data:ro");
            let found = operator.run("files", &[&platform[..], &["--dir", &grant]].concat(), &[]);
            let kind = if host == "/sys" { "sysfs" } else { "procfs" };
            let said = text(&found.stderr);
            assert_eq!(found.status.code(), Some(1), "{said}");
            assert!(said.contains(&grant) && said.contains(kind), "{said}");
        }
    }
}

/// Its standard input is the operator's file: a guest that may change it as root could change
/// `/dev/null` for the whole host.
#[test]
fn standard_files_keep_their_modes() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut operator = Operator::new();
    operator.build("modes", "gcc", &[], MODES);
    let input = operator.home.join("input");
    fs::write(&input, "x").unwrap();
    fs::set_permissions(&input, fs::Permissions::from_mode(0o644)).unwrap();
    let data = operator.home.join("data");
    fs::create_dir(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    for platform in [KVM, PROCESS] {
        for options in [&[][..], &["--dir", &grant][..]] {
            let mut guest = operator.vmm("modes", &[&platform[..], options].concat(), &[]);
            let found = guest
                .stdin(fs::File::open(&input).unwrap())
                .output()
                .unwrap();
            let own = if options.is_empty() {
                "no file"
            } else {
                "changed"
            };
            let expected = format!("0: refused\n9: refused\nown: {own}\n");
            let said = text(&found.stdout);
            assert_eq!(said, expected, "{platform:?} {}", text(&found.stderr));
            let mode = fs::metadata(&input).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o644, "{platform:?}");
        }
    }
}

#[test]
fn only_files_of_the_granted_file_system_are_granted() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut operator = Operator::new();
    operator.build("files", "gcc", &[], FILES);
    let data = operator.home.join("data");
    fs::create_dir_all(data.join("below")).unwrap();
    fs::write(data.join("file"), "x").unwrap();
    let made = Command::new("sh")
        .args(["-ec", "mknod null c 1 3; mknod zero c 1 5; mkfifo fifo"])
        .current_dir(&data)
        .status();
    assert!(made.unwrap().success());
    let grant = format!("{}:/data", data.display());
    for platform in [KVM, PROCESS] {
        // procfs is mounted below the directory in a mount namespace that ends with the run.
        let arguments = [
            "/data/file",
            "/data/null",
            "/data/zero",
            "/data/below/self/mem",
            "/data/below/version",
            "+/data/new",
        ];
        let guest = operator.vmm(
            "files",
            &[&platform[..], &["--dir", &grant]].concat(),
            &arguments,
        );
        let found = Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-ec",
                "mount -t proc proc data/below; exec \"$@\"",
                "sh",
            ])
            .arg(guest.get_program())
            .args(guest.get_args())
            .current_dir(&operator.home)
            .output()
            .unwrap();
        let said = text(&found.stdout);
        let expected = String::from(
            "/data/file: open\n\
             /data/null: Permission denied\n\
             /data/zero: Permission denied\n\
             /data/below/self/mem: No such file or directory\n\
             /data/below/version: No such file or directory\n\
             +/data/new: Operation not permitted\n",
        );
        assert_eq!(said, expected, "{platform:?} {}", text(&found.stderr));
        if let Ok(new) = fs::metadata(data.join("new")) {
            assert_eq!(new.permissions().mode() & 0o6000, 0, "{platform:?}");
        }
    }
    // A pipe is not waited for.
    let found = operator.run(
        "files",
        &[&KVM[..], &["--dir", &grant]].concat(),
        &["/data/fifo"],
    );
    assert_eq!(text(&found.stdout), "/data/fifo: Permission denied\n");
}
