//! The small world: what programs find of their machine and of themselves, with a file system of their own and
//! without, on both platforms.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use pool_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use world::{Running, World, text};

const SMALL: &str = include_str!("programs/small.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];

fn world() -> World {
    let mut world = World::new();
    let path = world.build("musl", "musl-gcc", &["-pthread", "-w"], SMALL);
    world.pool.add(&path, "small", support::Placement::Dense);
    world
}

/// Where a guest has a file system of its own, and where not.
fn grants(world: &World) -> [Vec<String>; 2] {
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    [vec![], vec!["--dir".to_owned(), grant]]
}

#[test]
fn programs_find_what_they_look_for() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = world();
    for grant in grants(&world) {
        for platform in PLATFORMS {
            let mut options = vec!["--platform", platform, "--env", "A=b"];
            options.extend(grant.iter().map(String::as_str));
            let found = world.run("small", &options, &["all"]);
            assert_eq!(
                text(&found.stdout),
                "out\n0 wrong\n",
                "{options:?} {}",
                text(&found.stderr)
            );
        }
    }
}

/// Runs `small` with `arguments` on both platforms, which is to say `expected`.
fn says(world: &World, options: &[&str], arguments: &[&str], expected: &str) {
    for platform in PLATFORMS {
        let options = [&["--platform", platform], options].concat();
        let found = world.run("small", &options, arguments);
        let said = text(&found.stdout);
        assert_eq!(said, expected, "{options:?} {}", text(&found.stderr));
    }
}

#[test]
fn whatever_leads_there_in_a_file_system_leads_to_it() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = world();
    let grant = grants(&world)[1].clone();
    let grant: Vec<_> = grant.iter().map(String::as_str).collect();
    says(&world, &grant, &["places"], "logged\nagain\n0 wrong\n");
    // A trace has one call where the guest made one.
    for platform in PLATFORMS {
        let options = [&["--platform", platform, "--trace"], &grant[..]].concat();
        let trace = text(&world.run("small", &options, &["places"]).stderr);
        let opened = trace
            .lines()
            .filter(|line| line.contains("open(\"/tmp/comm\""));
        let opened: Vec<_> = opened.collect();
        assert_eq!(opened.len(), 1, "{trace}");
        assert!(opened[0].ends_with(" = 3"), "{opened:?}");
    }
}

/// A guest shapes what `maps` says, and opens it as often as it likes.
#[test]
fn what_says_much_is_bounded() {
    if !needs(&["kvm"]) {
        return;
    }
    says(&world(), &[], &["many"], "0 wrong\n");
}

/// A thread has no table of descriptors of its own, where nobody would find what it has opened.
#[test]
fn descriptors_are_of_all_threads() {
    if !needs(&["kvm"]) {
        return;
    }
    says(&world(), &[], &["apart"], "0 wrong\n");
}

/// What a guest gets is finished, however its threads race for it, and whichever are left.
#[test]
fn no_file_of_it_can_be_written() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = world();
    for grant in grants(&world) {
        let grant: Vec<_> = grant.iter().map(String::as_str).collect();
        let mut ways = vec![vec!["sealed", "/proc/self/comm"], vec!["last"]];
        if !grant.is_empty() {
            ways.push(vec!["sealed", "comm"]);
        }
        for way in ways {
            says(&world, &grant, &way, "0 wrong\n");
        }
    }
}

/// A process that is stopped and goes on has opened what it would have, once.
#[test]
fn who_is_stopped_while_it_opens_goes_on() {
    if !needs(&["root"]) {
        return;
    }
    let world = world();
    let mut command = world.granted("small", &["--platform", "process"], &["stopped"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut guest = Running(command.spawn().unwrap());
    let mut said = BufReader::new(guest.0.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let vmm = guest.0.id();
    let children = fs::read_to_string(format!("/proc/{vmm}/task/{vmm}/children")).unwrap();
    let process = Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    for _ in 0..2000 {
        kill_process(process, Signal::STOP).unwrap();
        wait::until("the process to stop", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
            let stat = stat.unwrap();
            stat.contains(") t ") || stat.contains(") T ")
        });
        kill_process(process, Signal::CONT).unwrap();
    }
    drop(guest.0.stdin.take());
    assert_eq!(said.next().unwrap().unwrap(), "0 wrong");
}

/// The kernel has threads leave whatever they wait for, and so the place where they are handed a file.
#[test]
fn who_is_told_to_go_on_while_it_opens_has_opened_one_file() {
    if !needs(&["root"]) {
        return;
    }
    let world = world();
    let command = world.granted("small", &["--platform", "process"], &["continued"]);
    let found = bounded(&command).output().unwrap();
    assert_eq!(text(&found.stdout), "0 wrong\n", "{}", text(&found.stderr));
}

/// Has what it runs confined already, by a filter that somebody listens at.
const LISTENED: &str = r#"
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <stdio.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <sys/wait.h>
    #include <unistd.h>
    int main(int c, char **v) {
        struct sock_filter allow = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
        struct sock_fprog program = {1, &allow};
        int status;
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program) < 0)
            return perror("listener"), 99;
        if (!fork()) return execv(v[1], v + 1), 98;
        wait(&status);
        return WEXITSTATUS(status);
    }"#;

/// As the managers of some containers do. No file can be handed over then, and none is left that could be written.
#[test]
fn where_somebody_else_listens_there_is_none_and_poolvmm_says_so() {
    if !needs(&["root"]) {
        return;
    }
    let world = world();
    let home = world.directory.path();
    let listened = support::compile(home, "listened", "gcc", &["-w"], LISTENED);
    for grant in grants(&world) {
        let mut options = vec!["--platform", "process"];
        options.extend(grant.iter().map(String::as_str));
        let run = world.vmm("small", &options, &["unheard"]);
        let mut command = Command::new(&listened);
        let found = command.arg(run.get_program()).args(run.get_args()).output();
        let found = found.unwrap();
        let said = text(&found.stderr);
        assert_eq!(text(&found.stdout), "0 wrong\n", "{options:?} {said}");
        assert_eq!(found.status.code(), Some(7), "{said}");
        assert!(said.contains("somebody else listens"), "{said}");
    }
}

/// How large files may be that poolvmm writes is no matter of these.
#[test]
fn limits_of_files_are_not_its_own() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = world();
    let (soft, hard) = ("ulimit -S -f 0", "ulimit -f 0");
    let [kvm, process] = PLATFORMS;
    for (platform, limit, status) in [(process, soft, 0), (process, hard, 1), (kvm, soft, 0)] {
        let run = world.vmm("small", &["--platform", platform], &["named"]);
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]);
        command.arg(run.get_program()).args(run.get_args());
        let found = command.output().unwrap();
        let said = text(&found.stdout);
        assert_eq!(found.status.code(), Some(status), "{platform} {said}");
    }
}

#[test]
fn a_name_need_not_be_text() {
    if !needs(&["kvm"]) {
        return;
    }
    says(&world(), &[], &["named"], "0 wrong\n");
}

/// By no form of a path that leads through the small world, or a link in a grant to it.
#[test]
fn no_path_leads_to_the_host() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = world();
    let grants = grants(&world);
    let data = world.directory.path().join("data");
    let secret = world.directory.path().join("secret");
    fs::write(&secret, "").unwrap();
    for (name, target) in [
        ("root", "/proc/self/root"),
        ("one", "/proc/1/root"),
        ("up", "../.."),
    ] {
        std::os::unix::fs::symlink(target, data.join(name)).unwrap();
    }
    let secret = secret.display();
    let host = std::process::id();
    let ways = [
        String::new(),
        "/proc/self/root".to_owned(),
        "/proc/self/cwd".to_owned(),
        "/proc/thread-self/root".to_owned(),
        "//proc/./self/task/1/root".to_owned(),
        "/proc/1/root".to_owned(),
        format!("/proc/{host}/root"),
        "/proc/self/../..".to_owned(),
        "/proc/self/fd/0/../../..".to_owned(),
        "/dev/fd/..".to_owned(),
        "/data/root".to_owned(),
        "/data/one".to_owned(),
        "/data/up".to_owned(),
        "/data/../..".to_owned(),
    ];
    let ways = ways.map(|way| format!("{way}{secret}"));
    let exists = [format!("/proc/{host}"), format!("/proc/{host}/maps")];
    let paths: Vec<_> = ways.iter().chain(&exists).map(String::as_str).collect();
    for grant in grants {
        for platform in PLATFORMS {
            let mut options = vec!["--platform", platform];
            options.extend(grant.iter().map(String::as_str));
            let found = world.run("small", &options, &[&["list"], &paths[..]].concat());
            let said = text(&found.stdout);
            assert_eq!(said.lines().count(), paths.len(), "{}", text(&found.stderr));
            for line in said.lines() {
                let refused = ["No such file or directory", "Not a directory"];
                assert!(
                    refused.iter().any(|words| line.ends_with(words)),
                    "{options:?} {line}"
                );
            }
        }
    }
}

/// The kernel seals what is never to be executed, and says so of this, too.
#[test]
fn memory_that_is_not_to_be_executed_is_filled() {
    if !needs(&["kvm", "root"]) || !Path::new("/proc/sys/vm/memfd_noexec").exists() {
        return;
    }
    let world = world();
    for platform in PLATFORMS {
        let run = world.vmm("small", &["--platform", platform, "--env", "A=b"], &["all"]);
        // The setting is that of a PID namespace.
        let script = "echo 1 > /proc/sys/vm/memfd_noexec && \"$@\"";
        let found = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "sh", "-ec", script, "sh"])
            .arg(run.get_program())
            .args(run.get_args())
            .output()
            .unwrap();
        let said = text(&found.stdout);
        assert_eq!(said, "out\n0 wrong\n", "{platform} {}", text(&found.stderr));
    }
}

/// The kernel has the guest's name for its process.
#[test]
fn a_process_has_the_name_of_its_program() {
    let world = world();
    let mut command = world.vmm("small", &["--platform", "process"], &["waits"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut guest = command.spawn().unwrap();
    let mut number = String::new();
    let mut said = BufReader::new(guest.stdout.take().unwrap());
    said.read_line(&mut number).unwrap();
    let name = fs::read_to_string(format!("/proc/{}/comm", number.trim())).unwrap();
    assert_eq!(name, "small\n");
    drop(guest.stdin.take());
    assert!(guest.wait().unwrap().success());
}

/// What the host unmounts is free (an overlay says that of its directories), though a guest runs on; and what it mounts
/// where a guest may look is not the guest's.
#[test]
fn mounts_of_the_host_come_and_go() {
    const SCRIPT: &str = r#"
        mount -t tmpfs none . && mount --make-shared . && cd "$PWD" && mkdir -p l u w m g/sub && mkfifo in out
        over() { mount -t overlay none -o index=on,lowerdir=l,upperdir=u,workdir=w m; }
        over
        "$@" <in >out &
        exec 3>in 4<out
        echo runs >&3 && read word <&4 && test "$word" = runs
        umount m
        over && echo free
        mount -t tmpfs none g/sub && echo secret >g/sub/file
        exec 3>&-
        cat <&4"#;
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut world = World::new();
    world.pool.add(
        Path::new("/usr/bin/busybox"),
        "busybox",
        support::Placement::Dense,
    );
    let place = world.directory.path().join("place");
    fs::create_dir(&place).unwrap();
    let grant = format!("{}:/data", place.join("g").display());
    for platform in PLATFORMS {
        let options = ["--platform", platform, "--dir", &grant];
        let run = world.vmm("busybox", &options, &["cat", "-", "/data/sub/file"]);
        let found = Command::new("unshare")
            .args(["--mount", "sh", "-ec", SCRIPT, "sh"])
            .arg(run.get_program())
            .args(run.get_args())
            .current_dir(&place)
            .output()
            .unwrap();
        let said = text(&found.stderr);
        assert_eq!(text(&found.stdout), "free\n", "{platform} {said}");
        assert!(said.contains("No such file"), "{platform} {said}");
    }
}

/// Whatever the host does with cores: of its file it has no page, and a program gets none by a pipe.
#[test]
fn no_core_is_dumped() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = world();
    for platform in PLATFORMS {
        let mut command = world.vmm("small", &["--platform", platform], &["waits"]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut vmm = Running(command.spawn().unwrap());
        let mut said = BufReader::new(vmm.0.stdout.take().unwrap()).lines();
        let guest = said.next().unwrap().unwrap();
        let mut processes = vec![vmm.0.id().to_string()];
        processes.extend((platform == "process").then_some(guest));
        for process in processes {
            let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core"));
            let words: Vec<_> = core.unwrap().split_whitespace().collect();
            assert_eq!(words[4..], ["1", "1", "bytes"], "{platform} {limits}");
        }
        drop(vmm.0.stdin.take());
        assert!(vmm.0.wait().unwrap().success());
    }
}

/// A guest's own directories come first.
#[test]
fn what_was_granted_comes_first() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = world();
    let own = world.directory.path().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("mine"), "").unwrap();
    let grant = format!("{}:/proc/sys", own.display());
    for platform in PLATFORMS {
        let options = ["--platform", platform, "--dir", &grant];
        let paths = [
            "/proc/sys/mine",
            "/proc/sys/kernel/ostype",
            "/proc/self/status",
        ];
        let found = world.run("small", &options, &[&["list"], &paths[..]].concat());
        let expected = "/proc/sys/mine: there\n/proc/sys/kernel/ostype: No such file or directory\n\
                        /proc/self/status: there\n";
        assert_eq!(text(&found.stdout), expected, "{platform}");
    }
}

/// What C libraries and runtimes count them by.
#[test]
fn a_guest_finds_its_processors() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #define _GNU_SOURCE
        #include <sched.h>
        #include <stdio.h>
        #include <string.h>
        #include <unistd.h>
        int main(void) {
            static char line[4096];
            cpu_set_t set;
            int listed = 0, counted = 0;
            FILE *file = fopen("/proc/cpuinfo", "r");
            while (fgets(line, sizeof line, file)) listed += !strncmp(line, "processor", 9);
            file = freopen("/proc/stat", "r", file);
            while (fgets(line, sizeof line, file)) counted += !strncmp(line, "cpu", 3) && line[3] != ' ';
            file = freopen("/sys/devices/system/cpu/online", "r", file);
            fgets(line, sizeof line, file);
            sched_getaffinity(0, sizeof set, &set);
            printf("%d %d %d %ld %s", listed, counted, CPU_COUNT(&set), sysconf(_SC_NPROCESSORS_ONLN), line);
            return 0;
        }"#;
    for compiler in ["gcc", "musl-gcc"] {
        world.build(compiler, compiler, &["-w"], source);
        for grant in grants(&world) {
            for platform in PLATFORMS {
                for (cpus, expected) in [("1", "1 1 1 1 0\n"), ("3", "3 3 3 3 0-2\n")] {
                    let mut options = vec!["--platform", platform, "--cpus", cpus];
                    options.extend(grant.iter().map(String::as_str));
                    let found = world.run(compiler, &options, &[]);
                    assert_eq!(text(&found.stdout), expected, "{compiler} {options:?}");
                }
            }
        }
    }
}

/// Nothing of the host: its name, its processors, its files behind the guest's memory.
#[test]
fn nothing_of_the_host_is_in_it() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut world = world();
    let source = r"
        #include <fcntl.h>
        #include <unistd.h>
        int main(int c, char **v) {
            static char text[4096];
            for (int i = 1; i < c; i++) {
                int fd = open(v[i], O_RDONLY);
                long n;
                while ((n = read(fd, text, sizeof text)) > 0) write(1, text, n);
                close(fd);
            }
            return 0;
        }";
    world.build("cat", "musl-gcc", &[], source);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let directory = world.directory.path().to_str().unwrap().to_owned();
    let pool = world.pool.root.to_str().unwrap().to_owned();
    for grant in grants(&world) {
        for platform in PLATFORMS {
            let mut options = vec!["--platform", platform];
            options.extend(grant.iter().map(String::as_str));
            let files = [
                "/proc/self/maps",
                "/proc/self/status",
                "/proc/self/stat",
                "/proc/version",
                "/proc/self/mountinfo",
                "/proc/mounts",
                "/proc/self/environ",
                "/proc/self/cmdline",
                "/proc/sys/kernel/hostname",
                "/proc/sys/kernel/osrelease",
                "/etc/hostname",
            ];
            let found = world.run("cat", &options, &files);
            let said = text(&found.stdout);
            assert!(
                said.contains("/cat\n") && said.contains("[stack]\n"),
                "{said}"
            );
            let secrets = [host.trim(), release.trim(), &directory, &pool, "segments"];
            // One of a few letters is in other words.
            for secret in secrets.into_iter().filter(|secret| secret.len() > 4) {
                assert!(!said.contains(secret), "{options:?} {secret}: {said}");
            }
        }
    }
}
