//! Calls on files, names, sockets and what waits: what they return is what the host's kernel returns
//! to the same program run natively.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use pool_tests::requirements::{needs, skip};
use pool_tests::run::bounded;
use world::{World, text};

const TOLD: &str = include_str!("programs/told.h");
const FILES: &str = include_str!("programs/files.c");
const WRONG: &str = include_str!("programs/wrong.c");
const WAITS: &str = include_str!("programs/waits.c");
const NETWORK: &str = include_str!("programs/network.c");
const OWN: &str = include_str!("programs/own.c");
const HEAP: &str = include_str!("programs/heap.c");
const MOVES: &str = include_str!("programs/moves.c");
const LIMITS: &str = include_str!("programs/limits.c");
const SHARED_FILES: &str = include_str!("programs/shared_files.c");
const COPIED: &str = include_str!("programs/copied.c");
const BLOCKED: &str = include_str!("programs/blocked.c");
const ALONE: &str = include_str!("programs/alone.c");
const PARTLY: &str = include_str!("programs/partly.c");
const GRANTS: &str = include_str!("programs/grants.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];

fn whole(source: &str) -> String {
    source.replace("#include \"told.h\"", TOLD)
}

/// Without capabilities and alone in its session, as guests run.
fn native(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("setsid");
    command.args(["--wait", "setpriv"]);
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
    command.arg(program).args(arguments).stdin(Stdio::null());
    command.output().unwrap()
}

/// The lines of both, side by side, that differ.
fn differences(found: &Output, native: &Output) -> Vec<String> {
    let (found_text, native_text) = (text(&found.stdout), text(&native.stdout));
    let mut lines: Vec<String> = found_text
        .lines()
        .zip(native_text.lines())
        .filter(|(guest, host)| guest != host)
        .map(|(guest, host)| format!("guest: {guest}\n host: {host}"))
        .collect();
    if found_text.lines().count() != native_text.lines().count() {
        lines.push(format!("guest ended with {:?}", found_text.lines().last()));
    }
    lines
}

fn compare(name: &str, compilers: &[&str], source: &str, options: &[&str]) {
    let mut world = World::new();
    for compiler in compilers {
        let image = format!("{name}-{compiler}");
        let program = world.build(&image, compiler, &["-w"], &whole(source));
        for platform in PLATFORMS {
            let directory = |kind: &str| {
                let path = world
                    .directory
                    .path()
                    .join(format!("{image}-{platform}-{kind}"));
                fs::create_dir(&path).unwrap();
                path
            };
            let host = directory("host");
            let native = native(&program, &[host.to_str().unwrap()]);
            let grant = format!("{}:/data", directory("guest").display());
            let options = [&["--platform", platform, "--dir", &grant][..], options].concat();
            let mut command = world.vmm(&image, &options, &["/data"]);
            let found = command.stdin(Stdio::null()).output().unwrap();
            let differ = differences(&found, &native);
            let said = text(&found.stderr);
            assert!(
                differ.is_empty(),
                "{image} {platform}: {said}\n{}",
                differ.join("\n")
            );
            assert_eq!(
                found.status.code(),
                native.status.code(),
                "{image} {platform}: {said}"
            );
        }
    }
}

#[test]
fn files_and_names_are_the_kernels() {
    if needs(&["kvm", "root"]) {
        compare("files", &["gcc"], FILES, &[]);
    }
}

#[test]
fn what_is_wrong_is_said_in_the_kernels_order() {
    if needs(&["kvm", "root"]) {
        compare("wrong", &["gcc"], WRONG, &[]);
    }
}

/// What daemons and runtimes ask for before they do anything.
#[test]
fn a_guest_is_alone_in_its_session() {
    if needs(&["kvm", "root"]) {
        compare("alone", &["gcc", "musl-gcc"], ALONE, &["--net", "host"]);
    }
}

/// A message is sent whole or not at all, and what is wrong with a socket comes before what is wrong with a buffer.
#[test]
fn buffers_that_are_partly_there_are_the_kernels_to_find() {
    if needs(&["kvm", "root"]) {
        compare("partly", &["gcc"], PARTLY, &["--net", "host"]);
    }
}

/// As a file's state is asked for since Linux 6.11.
#[test]
fn an_open_file_is_looked_at_without_a_path_or_a_grant() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void) {
            struct stat named, open;
            long first = syscall(SYS_newfstatat, 1, "", &named, AT_EMPTY_PATH);
            long second = syscall(SYS_newfstatat, 1, 0, &open, AT_EMPTY_PATH);
            printf("%ld %ld %d, ", first, second, named.st_ino == open.st_ino);
            printf("%ld, ", syscall(SYS_newfstatat, AT_FDCWD, 0, &open, 0));
            printf("%ld\n", syscall(SYS_newfstatat, 99, 0, &open, AT_EMPTY_PATH));
            for (int mode = 0; mode < 9; mode += 2)
                printf("%ld ", syscall(439 /* faccessat2 */, 1, "", mode, AT_EMPTY_PATH));
            printf("%ld ", syscall(439, 99, "", 0, AT_EMPTY_PATH));
            printf("%ld ", syscall(439, 1, "", 0, 0));
            printf("%ld\n", syscall(439, AT_FDCWD, "/etc", 0, AT_EMPTY_PATH));
            return 0;
        }"#;
    let world = World::of("seen", "musl-gcc", &[], source);
    for platform in PLATFORMS {
        let found = world.run("seen", &["--platform", platform], &[]);
        let said = text(&found.stdout);
        let expected = match (platform, world::kernel()) {
            ("kvm", version) if version < (6, 11) => "0 -1 0, -1, -1\n",
            _ => "0 0 1, -1, -1\n",
        };
        // What is wanted is allowed, or no bits of it.
        let expected = format!("{expected}0 0 0 0 -1 -1 -1 -1\n");
        assert_eq!(said, expected, "{platform}: {}", text(&found.stderr));
    }
}

/// What lies there already is no directory, and an error of the kernel's alone says neither which grant nor what to do.
#[test]
fn a_grant_that_has_no_place_is_named() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = World::of("nothing", "musl-gcc", &[], "int main(void) { return 0; }");
    let host = world.data();
    for platform in PLATFORMS {
        for place in ["/etc/passwd", "/dev/null", "/dev/fd", "/etc/hosts/inside"] {
            let grant = format!("{}:{place}", host.display());
            let found = world.run("nothing", &["--platform", platform, "--dir", &grant], &[]);
            let said = text(&found.stderr);
            assert_eq!(found.status.code(), Some(1), "{platform} {place}: {said}");
            assert!(said.contains(&format!("{place:?}")), "{platform}: {said}");
            assert!(said.contains("another place"), "{platform}: {said}");
        }
    }
}

#[test]
fn what_waits_waits_as_long_and_no_longer() {
    if needs(&["kvm", "root"]) {
        // A pair of datagrams can be sent to any name, so a process has none without a network.
        compare("waits", &["gcc", "musl-gcc"], WAITS, &["--net", "host"]);
    }
}

#[test]
fn sockets_are_the_kernels() {
    if needs(&["kvm", "root"]) {
        compare("network", &["gcc", "musl-gcc"], NETWORK, &["--net", "host"]);
    }
}

#[test]
fn limits_are_read_back_and_hold() {
    if needs(&["kvm", "root"]) {
        compare(
            "limits",
            &["gcc", "musl-gcc"],
            LIMITS,
            &["--memory", "256M"],
        );
    }
}

#[test]
fn a_heap_ends_where_linux_has_it_end() {
    if needs(&["kvm", "root"]) {
        compare("heap", &["gcc", "musl-gcc"], HEAP, &[]);
    }
}

#[test]
fn what_is_wrong_with_a_move_is_what_linux_says() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    // From then on several mappings are moved by one call, and checked otherwise.
    if world::kernel() < (6, 17) {
        return skip("this host's kernel is older than Linux 6.17");
    }
    compare("moves", &["gcc"], MOVES, &["--memory", "4M"]);
}

#[test]
fn shared_mappings_are_their_files() {
    if needs(&["kvm", "root"]) {
        compare("shared", &["gcc", "musl-gcc"], SHARED_FILES, &[]);
    }
}

#[test]
fn processor_time_ends_at_its_limit() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("limits", "gcc", &["-w"], &whole(LIMITS));
    for platform in PLATFORMS {
        let options = ["--platform", platform];
        let mut command = world.vmm("limits", &options, &["/", "processor"]);
        let found = command.output().unwrap();
        let (said, errors) = (text(&found.stdout), text(&found.stderr));
        assert!(
            said.ends_with("out of time\n"),
            "{platform}: {said} {errors}"
        );
        assert_eq!(found.status.code(), Some(137), "{platform}: {errors}");
    }
}

/// What poolvmm was started with is where the guest's limit begins, not where it ends.
#[test]
fn a_soft_limit_of_poolvmm_is_the_guests_to_raise() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/resource.h>
        #include <unistd.h>
        int main(void) {
            static char bytes[20000];
            struct rlimit limit;
            getrlimit(RLIMIT_FSIZE, &limit);
            printf("%ld, ", (long)limit.rlim_cur);
            limit.rlim_cur = limit.rlim_max;
            setrlimit(RLIMIT_FSIZE, &limit);
            int fd = open("/data/file", O_RDWR | O_CREAT | O_TRUNC, 0600);
            printf("%ld\n", (long)pwrite(fd, bytes, sizeof bytes, 0));
            return 0;
        }"#;
    let world = World::of("raises", "musl-gcc", &[], source);
    for platform in PLATFORMS {
        let guest = world.granted("raises", &["--platform", platform], &[]);
        let mut command = Command::new("bash");
        command.args(["-c", "ulimit -S -f 8; exec \"$0\" \"$@\""]);
        let found = command.arg(guest.get_program()).args(guest.get_args());
        let found = found.output().unwrap();
        let said = text(&found.stdout);
        assert_eq!(said, "8192, 20000\n", "{platform} {}", text(&found.stderr));
    }
}

#[test]
fn a_thread_that_waits_lets_others_run() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("blocked", "gcc", &["-w"], &whole(BLOCKED));
    for what in [
        "event",
        "event full",
        "timer",
        "sendfile",
        "sendfile input",
        "splice",
    ] {
        let mut command = bounded(&world.vmm("blocked", &[], &[what]));
        let (input, _open) = UnixStream::pair().unwrap();
        let found = command.stdin(OwnedFd::from(input)).output().unwrap();
        assert_eq!(
            found.status.code(),
            Some(7),
            "{what} {}",
            text(&found.stderr)
        );
    }
}

/// What other threads do with its records while it waits is nothing to it.
#[test]
fn a_call_that_waits_has_read_what_it_is_about() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut world = World::new();
    for compiler in ["gcc", "musl-gcc"] {
        world.build(compiler, compiler, &["-w"], &whole(COPIED));
        for platform in PLATFORMS {
            let options = ["--platform", platform, "--net", "host"];
            let found = world.granted(compiler, &options, &["/data"]).output();
            let found = found.unwrap();
            let said = text(&found.stdout);
            let copied = said.lines().filter(|line| line.ends_with(" copied"));
            let counts = (copied.count(), said.lines().count());
            let errors = text(&found.stderr);
            assert_eq!(counts, (15, 15), "{compiler} {platform}: {said}{errors}");
        }
    }
}

/// What `poll` says of a pipe that others read too may be over by the time of the read.
#[test]
fn guests_share_a_pipe() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("blocked", "gcc", &["-w"], &whole(BLOCKED));
    let (input, feed) = std::io::pipe().unwrap();
    let mut feed = fs::File::from(OwnedFd::from(feed));
    // SAFETY: sets flags of a descriptor of this test.
    unsafe { libc::fcntl(feed.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    let mut guests: Vec<_> = (0..3)
        .map(|_| {
            let mut command = bounded(&world.vmm("blocked", &[], &["shared"]));
            command.stdin(input.try_clone().unwrap()).spawn().unwrap()
        })
        .collect();
    for guest in &mut guests {
        let status = loop {
            // It may be full when nobody reads any more.
            let _ = feed.write(b"x");
            if let Some(status) = guest.try_wait().unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(7));
    }
}

#[test]
fn grants_give_no_more_than_files() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = World::of("grants", "gcc", &["-w"], &whole(GRANTS));
    for platform in PLATFORMS {
        let data = world.directory.path().join(platform);
        fs::create_dir(&data).unwrap();
        let socket = UnixDatagram::bind(data.join("socket")).unwrap();
        socket.set_nonblocking(true).unwrap();
        let pipe = Command::new("mkfifo").arg(data.join("pipe")).status();
        assert!(pipe.unwrap().success());
        let input = world.directory.path().join(format!("{platform}-input"));
        fs::write(&input, "").unwrap();
        fs::set_permissions(&input, fs::Permissions::from_mode(0o644)).unwrap();
        let grant = format!("{}:/data", data.display());
        let options = ["--platform", platform, "--dir", &grant];
        // A process opens pipes with a name.
        let pipe: &[&str] = if platform == "kvm" {
            &["/data/pipe"]
        } else {
            &[]
        };
        let mut command = bounded(&world.vmm("grants", &options, pipe));
        command.stdin(
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(&input)
                .unwrap(),
        );
        let found = command.output().unwrap();
        let said: Vec<String> = text(&found.stdout).lines().map(results).collect();
        let [not, gone, bad] = [
            "-1 Operation not permitted",
            "-1 No such file or directory",
            "-1 Bad file descriptor",
        ];
        let expected = [
            "-1 Invalid argument",
            "0",
            "-1 Invalid argument",
            "1",
            "1",
            not,
            not,
            "-1 Not a directory",
            not,
            not,
            not,
            "0",
            "0",
            "0",
            "604 5 8",
            "0",
            not,
            bad,
            gone,
            "-1 Bad address",
        ];
        assert_eq!(
            said[..expected.len()],
            expected,
            "{platform} {}",
            text(&found.stderr)
        );
        let no = "-1 Permission denied";
        if platform == "kvm" {
            assert_eq!(
                said[expected.len()..],
                [no, no, "-1 File exists", "-1 Not a directory"]
            );
        }
        assert!(
            socket.recv(&mut [0; 8]).is_err(),
            "{platform}: nothing came"
        );
        let mode = fs::metadata(&input).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644, "{platform}");
    }
}

/// What a line of `told.h` says that a call returned.
fn results(line: &str) -> String {
    let result = line.rsplit_once(" = ").map_or(line, |(_, result)| result);
    result.trim().to_owned()
}

#[test]
fn the_monitors_descriptors_are_closed_to_a_guest() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = World::of("own", "musl-gcc", &["-w"], &whole(OWN));
    let data = world.directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    // Their descriptors are closed again before the guest runs: the VMM's others lie behind a gap.
    let many: Vec<String> = (0..110)
        .flat_map(|at| ["--dir".to_owned(), format!("{}:/data/{at}", data.display())])
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let report = world.directory.path().join("report.json");
    for options in [
        &[][..],
        &["--dir", &grant],
        &many,
        &["--net", "host", "--env", "NETWORK=1"],
    ] {
        let options = [options, &["--report", report.to_str().unwrap()]].concat();
        let found = world.run("own", &options, &[]);
        assert_eq!(
            text(&found.stdout),
            "done\n",
            "{options:?} {}",
            text(&found.stderr)
        );
        assert_eq!(found.status.code(), Some(3), "{options:?}");
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["status"], 3, "the report is still the monitor's");
    }
}

#[test]
fn a_directory_is_no_standard_file() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("empty", "musl-gcc", &[], "int main(void) { return 0; }");
    for platform in PLATFORMS {
        let mut command = world.vmm("empty", &["--platform", platform], &[]);
        let directory = fs::File::open(world.directory.path()).unwrap();
        let found = command.stdin(directory).output().unwrap();
        assert_eq!(found.status.code(), Some(1), "{platform}");
        assert!(
            text(&found.stderr).contains("one of them is a directory"),
            "{}",
            text(&found.stderr)
        );
    }
}

/// Numbers of the host's processes are not a guest's business, not even a part of one.
#[test]
fn no_process_of_the_host_is_told_of() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/socket.h>
        int main(void) {
            int pair[2], file = open("/data/file", O_RDWR);
            socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
            for (socklen_t length = 1; length <= 12; length++) {
                unsigned number[3] = {0};
                socklen_t told = length;
                getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, number, &told);
                printf("%u ", number[0]);
            }
            for (int way = 0; way < 2; way++) {
                struct flock lock = {.l_type = F_WRLCK};
                int asked = fcntl(file, way ? F_OFD_GETLK : F_GETLK, &lock);
                printf("%d %d %d ", asked, lock.l_type == F_WRLCK, lock.l_pid);
            }
            return 0;
        }"#;
    let world = World::of("numbers", "musl-gcc", &["-w"], source);
    let path = world.data().join("file");
    fs::write(&path, "content").unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::fcntl_lock(&file, lock).unwrap();
    let found = world.granted("numbers", &[], &[]).output().unwrap();
    let expected = ["1 "; 12].concat() + &"0 1 0 ".repeat(2);
    assert_eq!(text(&found.stdout), expected, "{}", text(&found.stderr));
}
