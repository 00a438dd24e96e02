//! What a guest of the process platform can reach, measured by guests that try.

#![allow(clippy::unwrap_used)]

mod programs;
mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use pool_tests::requirements::needs;
use pool_tests::wait;
use programs::{
    FACTS, FILES, IGNORED, MODES, REGISTERS, SCAN, SIGNALS, SLEEP, SPARSE, TABLES, TAKE,
};
use serde_json::Value;
use support::Placement;
use world::{World, text};

const PROCESS: [&str; 2] = ["--platform", "process"];
const KVM: [&str; 2] = ["--platform", "kvm"];
const COMPILERS: [&str; 2] = ["gcc", "musl-gcc"];

/// In the environment, the arguments and the paths of the VMM, and nowhere in a guest.
const MARKER: &str = "q7Zk-operators-secret-0fW2";

/// An operator with secrets: where the VMM is started, how, and where its report goes.
struct Operator {
    world: World,
    home: PathBuf,
}

impl Operator {
    fn new() -> Self {
        let world = World::new();
        let home = world.directory.path().join(MARKER);
        fs::create_dir(&home).unwrap();
        Self { world, home }
    }

    fn build(&mut self, name: &str, compiler: &str, flags: &[&str], source: &str) -> PathBuf {
        self.world.build(name, compiler, flags, source)
    }

    fn report(&self) -> PathBuf {
        self.home.join("report.json")
    }

    fn vmm(&self, image: &str, options: &[&str], arguments: &[&str]) -> Command {
        let report = self.report();
        let options = [options, &["--report", report.to_str().unwrap()]].concat();
        let mut command = self.world.vmm(image, &options, arguments);
        command
            .env("OPERATORS_TOKEN", MARKER)
            .current_dir(&self.home)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, image: &str, options: &[&str], arguments: &[&str]) -> Output {
        self.vmm(image, options, arguments).output().unwrap()
    }

    /// KiB of the guest's largest resident set in the last run.
    fn peak(&self) -> i64 {
        let report: Value = serde_json::from_slice(&fs::read(self.report()).unwrap()).unwrap();
        report["host"]["peak_rss_kib"].as_i64().unwrap()
    }
}

/// A VMM with a guest process, ended with the value.
struct Running(Child);

impl Running {
    /// The guest's process, once it is the guest: in a call of this number.
    fn guest_in_call(&mut self, number: u32) -> u32 {
        let vmm = self.0.id();
        wait::until_some("the guest's process", || {
            let children = fs::read_to_string(format!("/proc/{vmm}/task/{vmm}/children")).ok()?;
            let guest: u32 = children.split_whitespace().next()?.parse().ok()?;
            let call = fs::read_to_string(format!("/proc/{guest}/syscall")).ok()?;
            (call.split_whitespace().next()? == number.to_string()).then_some(guest)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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

/// Number of a call on x86-64.
fn libc_number(name: &str) -> u32 {
    let calls = poolvmm::linux::table::CALLS;
    calls.iter().find(|call| call.name == name).unwrap().number as u32
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
fn what_the_starter_ignores_stays_ignored() {
    let mut operator = Operator::new();
    let native = operator.build("signals", "musl-gcc", &[], IGNORED);
    let vmm = operator.vmm("signals", &PROCESS, &[]);
    let found = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(vmm.get_program())
        .args(vmm.get_args())
        .output()
        .unwrap();
    assert_eq!(text(&found.stdout), "1\n", "{}", text(&found.stderr));
    let native = Command::new(native).output().unwrap();
    let found = operator.run("signals", &PROCESS, &[]);
    assert_eq!(text(&found.stdout), text(&native.stdout));
}

#[test]
fn limits_that_are_lower_stay() {
    let mut operator = Operator::new();
    operator.build("take", "gcc", &[], TAKE);
    let vmm = operator.vmm("take", &PROCESS, &["private"]);
    let found = Command::new("sh")
        .args(["-c", "ulimit -d 32768; exec \"$@\"", "sh"])
        .arg(vmm.get_program())
        .args(vmm.get_args())
        .output()
        .unwrap();
    let taken: i64 = text(&found.stdout)
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{}", text(&found.stderr)));
    assert!((4..=32).contains(&taken), "{taken} MiB");
}

#[test]
fn a_guest_that_was_stopped_sleeps_on() {
    let mut operator = Operator::new();
    operator.build("sleep", "musl-gcc", &[], SLEEP);
    let vmm = operator
        .vmm("sleep", &PROCESS, &[])
        .stdout(Stdio::piped())
        .spawn();
    let mut running = Running(vmm.unwrap());
    let guest = running.guest_in_call(libc_number("nanosleep"));
    let send = |signal: &str| {
        let sent = Command::new("kill")
            .args([signal, &guest.to_string()])
            .status();
        assert!(sent.unwrap().success());
    };
    send("-STOP");
    wait::until_some("the guest stops", || {
        let stat = fs::read_to_string(format!("/proc/{guest}/stat")).ok()?;
        let state = stat.rsplit(") ").next()?.chars().next()?;
        "Tt".contains(state).then_some(())
    });
    send("-CONT");
    let mut line = String::new();
    let output = running.0.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut line).unwrap();
    assert_eq!(line, "slept, long enough\n");
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

#[test]
fn memory_is_limited_however_it_is_taken() {
    const MEMORY: i64 = 64;
    const STACK: i64 = 8;
    let mut operator = Operator::new();
    operator.build("take", "gcc", &[], TAKE);
    for how in [
        "private",
        "shared",
        "growing",
        "shared-none",
        "promised",
        "heap",
        "moved",
        "given-up",
        "given-up-whole",
    ] {
        let found = operator.run(
            "take",
            &[&PROCESS[..], &["--memory", "64M"]].concat(),
            &[how],
        );
        let said = text(&found.stdout);
        let taken: i64 = said
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("{how}: {said} {} {}", found.status, text(&found.stderr)));
        // Written and given up does not count at once, but no more is given up than was granted.
        let most = if how.starts_with("given-up") { 2 } else { 1 } * (MEMORY + STACK);
        assert!(taken <= most, "{how}: {taken} MiB");
        assert!(taken >= MEMORY - 8, "{how}: {taken} MiB were granted");
        let peak = operator.peak() >> 10;
        assert!(peak <= most + 8, "{how}: {peak} MiB resident");
    }
}

#[test]
fn memory_may_be_sparse_and_reserved_and_what_is_only_read_is_bounded() {
    let mut operator = Operator::new();
    operator.build("sparse", "gcc", &[], SPARSE);
    let found = operator.run(
        "sparse",
        &[&PROCESS[..], &["--memory", "64M"]].concat(),
        &[],
    );
    assert_eq!(
        text(&found.stdout),
        "8 GiB to read\nmore by other calls: 0\n"
    );
}

#[test]
fn page_tables_are_limited() {
    const MEMORY: u64 = 64;
    const STACK: u64 = 8;
    let mut operator = Operator::new();
    operator.build("tables", "gcc", &[], TABLES);
    for how in ["read", "hint", "write", "move", "spread", "grow", "leave"] {
        let options = [&PROCESS[..], &["--memory", "64M"]].concat();
        let mut running = Running(operator.vmm("tables", &options, &[how]).spawn().unwrap());
        let guest = running.guest_in_call(libc_number("pause"));
        let status = fs::read_to_string(format!("/proc/{guest}/status")).unwrap();
        let tables = status
            .lines()
            .find_map(|l| l.strip_prefix("VmPTE:"))
            .unwrap();
        let kib: u64 = tables.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        assert!(
            kib <= (MEMORY + STACK + 1) << 10,
            "{how}: {kib} KiB of tables"
        );
        assert!(kib >= 16 << 10, "{how}: refused at {kib} KiB of tables");
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
