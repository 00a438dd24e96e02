//! What the monitor does beside serving a guest: refusing, confining, reporting, ending it.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use pool_tests::requirements::needs;
use pool_tests::wait;
use serde_json::Value;
use support::Placement;
use world::{WAYS, World, text};

const HELLO: &str = r#"
#include <stdio.h>
int main(void) { puts("hello"); return 0; }"#;

const FAULTS: &str = r#"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static int deep(volatile int n) { volatile char b[4096]; b[0] = n; return deep(n + 1) + b[0]; }
int main(int c, char **v) {
    char *page = mmap(0, 8192, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[4096] = 1;
    if (!strcmp(v[1], "null")) return *(volatile int *)(long)(c - 2);
    if (!strcmp(v[1], "text")) *(volatile char *)(void *)main = 1;
    if (!strcmp(v[1], "jump")) ((void (*)(void))0x12345000)();
    if (!strcmp(v[1], "stack")) return deep(0);
    if (!strcmp(v[1], "trap")) __builtin_trap();
    if (!strcmp(v[1], "divide")) { volatile int z = 0; return 100 / z; }
    if (!strcmp(v[1], "privileged")) __asm__ volatile("cli");
    if (!strcmp(v[1], "overflow")) __asm__ volatile("int $4");
    if (!strcmp(v[1], "protected")) { mprotect(page + 4096, 4096, PROT_NONE); return page[4096]; }
    if (!strcmp(v[1], "unmapped")) { munmap(page + 4096, 4096); return page[4096]; }
    if (!strcmp(v[1], "abort")) abort();
    if (!strcmp(v[1], "raise")) raise(SIGTERM);
    return 0;
}"#;

const CALLS: &str = r"
#include <sys/syscall.h>
#include <unistd.h>
int main(void) { for (int i = 0; i < 100000; i++) syscall(SYS_getppid); return 0; }";

#[test]
fn faults_end_the_guest_with_a_report_and_leave_the_pool_unharmed() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("faults", "musl-gcc", &[], FAULTS);
    let segment = world.pool.root.join("segments/00000001");
    let before = fs::read(&segment).unwrap();
    let cases = [
        ("null", 139, "at 0x0 (null pointer)"),
        (
            "text",
            139,
            "(text, shared, read-only), instruction pointer 0x40",
        ),
        ("jump", 139, "jump to 0x12345000 (jump to nowhere)"),
        ("stack", 139, "stack overflow"),
        ("trap", 132, "invalid instruction"),
        ("divide", 136, "division by zero"),
        ("privileged", 139, "programs may not use"),
        ("overflow", 139, "programs may not use"),
        ("protected", 139, "guest stopped: "),
        ("unmapped", 139, "guest stopped: "),
        ("abort", 134, ""),
        ("raise", 143, ""),
    ];
    for way in WAYS {
        for (what, status, message) in cases {
            let found = world.run("faults", &way, &[what]);
            let said = text(&found.stderr);
            assert_eq!(found.status.code(), Some(status), "{way:?} {what}: {said}");
            assert!(said.contains(message), "{way:?} {what}: {said}");
            if !message.is_empty() {
                assert!(
                    said.contains("image faults:v1+0x") || what == "jump",
                    "{what}: {said}"
                );
            }
        }
    }
    assert!(
        fs::read(&segment).unwrap() == before,
        "a guest changed the pool"
    );
}

/// Under KVM the processor tells what was tried. As a process it is said where nothing else can have been.
#[test]
fn a_fault_says_what_was_tried_where_that_is_sure() {
    const MAPPED: [&str; 2] = [
        "(memory that the guest mapped as ",
        "(memory that does not allow it)",
    ];
    const IMAGE: [&str; 2] = ["= image tried:v1+0x"; 2];
    const NOWHERE: [&str; 2] = ["(jump to nowhere)"; 2];
    const TRIED: &str = r#"
        #define _GNU_SOURCE
        #include <signal.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static const char image[4 * 4096] __attribute__((aligned(4096))) = {1, 2, 3};
        __attribute__((noinline, aligned(4096))) static void itself(void) { __asm__ volatile("1: movb $0x90, 1b(%rip)"); }
        int main(int c, char **v) {
            char *page = (char *)image + 4096, *text = (char *)((long)itself & -4096);
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
            if (!strcmp(v[1], "hidden")) { mprotect(page, 4096, PROT_NONE); return *(volatile char *)page; }
            if (!strcmp(v[1], "replaced")) { mmap(page, 4096, PROT_NONE, flags, -1, 0); return *(volatile char *)page; }
            if (!strcmp(v[1], "gone")) { munmap(page, 4096); return *(volatile char *)page; }
            if (!strcmp(v[1], "written")) *(volatile char *)page = 1;
            if (!strcmp(v[1], "itself")) itself();
            if (!strcmp(v[1], "data")) { mprotect(text, 4096, PROT_READ); itself(); }
            if (!strcmp(v[1], "own")) ((void (*)(void))mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))();
            if (!strcmp(v[1], "nowhere")) ((void (*)(void))0x12345000)();
            char *mine = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (!strcmp(v[1], "read-only")) *mine = 1;
            if (!strcmp(v[1], "reserved")) { mprotect(mine, 4096, PROT_NONE); return *(volatile char *)mine; }
            if (!strcmp(v[1], "forged")) {
                /* What looks like another fault waits for the thread, and goes in the place of its own. */
                siginfo_t info = { .si_signo = SIGSEGV, .si_code = SEGV_ACCERR };
                sigset_t set;
                info.si_addr = page;
                sigemptyset(&set);
                sigaddset(&set, SIGSEGV);
                sigprocmask(SIG_BLOCK, &set, 0);
                syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGSEGV, &info);
                ((void (*)(void))-1l)();
            }
            return 0;
        }"#;
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("tried", "gcc", &["-w"], TRIED);
    for (what, kvm, process, places) in [
        ("hidden", "read at", "access at", IMAGE),
        ("replaced", "read at", "access at", IMAGE),
        ("gone", "read at", "access at", IMAGE),
        ("written", "write at", "write at", IMAGE),
        ("itself", "write at", "write at", IMAGE),
        ("data", "jump to", "jump to", IMAGE),
        ("own", "jump to", "jump to", MAPPED),
        ("nowhere", "jump to", "jump to", NOWHERE),
        ("read-only", "write at", "access at", MAPPED),
        ("reserved", "read at", "access at", MAPPED),
        ("forged", "jump to", "write at", [NOWHERE[0], IMAGE[1]]),
    ] {
        for way in WAYS {
            let found = world.run("tried", &way, &[what]);
            let said = text(&found.stderr);
            let (expected, place) = match way[1] {
                "kvm" => (kvm, places[0]),
                _ => (process, places[1]),
            };
            let expected = format!("guest stopped: {expected} 0x");
            assert!(said.starts_with(&expected), "{way:?} {what}: {said}");
            assert!(said.contains(place), "{way:?} {what}: {said}");
            assert_eq!(found.status.code(), Some(139), "{way:?} {what}: {said}");
        }
    }
}

#[test]
fn the_report_says_what_was_done() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("calls", "musl-gcc", &[], CALLS);
    let file = world.directory.path().join("report.json");
    let path = file.to_str().unwrap();
    let found = world.run("calls", &["--report", path], &[]);
    assert_eq!(found.status.code(), Some(0), "{}", text(&found.stderr));
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(report["syscalls"]["getppid"], 100_000);
    assert_eq!(report["leases"], 2);
    assert_eq!(report["status"], 0);
    assert!(report["exits"]["syscalls"].as_u64().unwrap() > 100_000);
    assert!(report["mapped"]["shared_pages"].as_u64().unwrap() > 0);
    let us = |name: &str| report["microseconds"][name].as_f64().unwrap();
    assert!(us("planned") < us("mapped") && us("mapped") < us("first_instruction"));
    assert!(us("first_instruction") < us("first_exit") && us("first_exit") < us("end"));
}

#[test]
fn calls_that_are_not_served_fail_and_are_counted() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #include <errno.h>
        #include <stdio.h>
        #include <sys/socket.h>
        #include <unistd.h>
        int main(void) {
            printf("%d ", socket(AF_INET, SOCK_STREAM, 0)); printf("%d ", errno == EAFNOSUPPORT);
            printf("%d ", fork()); printf("%d\n", errno == ENOSYS);
            syscall(323, 0); /* userfaultfd */
            return 0;
        }"#;
    let world = World::of("network", "musl-gcc", &[], source);
    let file = world.directory.path().join("report.json");
    for way in WAYS {
        let options = [&way[..], &["--report", file.to_str().unwrap()]].concat();
        let found = world.run("network", &options, &[]);
        assert_eq!(
            text(&found.stdout),
            "-1 1 -1 1\n",
            "{way:?} {}",
            text(&found.stderr)
        );
        let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        if way[1] == "kvm" {
            assert_eq!(report["syscalls"]["socket"], 1);
        }
        assert_eq!(report["unknown_calls"]["323"], 1, "{way:?}");
        assert_eq!(report["refused_process"], true, "{way:?}");
    }
}

#[test]
fn no_argument_of_a_call_harms_the_monitor() {
    if !needs(&["kvm"]) {
        return;
    }
    // Every number, many odd arguments; what would end or stop the guest itself is left out.
    let source = r#"
        #include <stdlib.h>
        #include <string.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static unsigned long seed;
        static char buffer[8192];
        static unsigned long next(void) { seed = seed * 6364136223846793005ul + 1442695040888963407ul; return seed >> 33; }
        static long odd(void) {
            static const unsigned long odds[] = { 0, 1, 2, 3, 7, 8, 16, 4095, 4096, 1ul << 20, 1ul << 31, 1ul << 32, 1ul << 46,
                (1ul << 47) - 4096, 1ul << 47, 1ul << 62, 1ul << 63, -1ul, -4096ul, -100ul, 0x3f400000, 0x3f401000, 0x3f7ff000 };
            unsigned long n = next();
            if (n % 4 == 0) return (long)(buffer + next() % sizeof buffer);
            return odds[n / 4 % (sizeof odds / sizeof *odds)];
        }
        int main(int c, char **v) {
            seed = atoi(v[1]);
            for (int i = 0; i < 4000; i++) {
                long n = next() % 450;
                long a = odd(), b = odd(), d = odd(), e = odd(), f = odd(), g = odd();
                switch (n) {
                case SYS_exit: case SYS_exit_group: case SYS_pause: case SYS_nanosleep: case SYS_clock_nanosleep:
                case SYS_poll: case SYS_ppoll: case SYS_kill: case SYS_tkill: case SYS_tgkill: case SYS_arch_prctl:
                case SYS_rt_sigsuspend: case SYS_rt_sigtimedwait: case SYS_rt_sigreturn: case SYS_rt_sigqueueinfo:
                case SYS_rt_tgsigqueueinfo: case SYS_alarm: case SYS_read: case SYS_readv:
                    continue;
                case SYS_futex: if ((b & 0x7f) == 0 || (b & 0x7f) == 9 || (b & 0x7f) == 6 || (b & 0x7f) == 13) e = (long)"\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0"; break;
                case SYS_munmap: case SYS_mprotect: case SYS_mremap: case SYS_madvise:
                    if (a < 0x600000) a = 0x30000000; b &= 0xffffff; break;
                case SYS_mmap: if (a < 0x600000) e &= ~0x10; break;
                case SYS_select: case SYS_pselect6: case SYS_epoll_wait: case SYS_epoll_pwait: case SYS_epoll_pwait2:
                    continue;
                /* What it may have of time, files and stack. */
                case SYS_setrlimit: if ((unsigned)a < 4 && (int)a != 2) a = 7; break;
                case SYS_prlimit64: if ((unsigned)b < 4 && (int)b != 2) b = 7; break;
                /* Nothing that this guest reads may make it wait for itself. */
                case SYS_pipe: n = SYS_pipe2; b = 04000; break;
                case SYS_pipe2: case SYS_eventfd2: case SYS_timerfd_create: case SYS_socketpair: b |= 04000; break;
                case SYS_eventfd: n = SYS_eventfd2; b = 04000; break;
                case SYS_close: case SYS_dup2: case SYS_dup3: case SYS_close_range: a |= 64; b |= 64; break;
                }
                if (n % 3) strcpy(buffer, "/data/x");
                syscall(n, a, b, d, e, f, g);
            }
            syscall(SYS_exit_group, 42);
        }"#;
    let world = World::of("odd", "musl-gcc", &[], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    let mut ended_well = 0;
    for seed in 1..=24 {
        let granted = ["--dir", grant.as_str()];
        let options = if seed % 2 == 0 { &granted[..] } else { &[] };
        let mut command = world.vmm("odd", options, &[&seed.to_string()]);
        let found = command.stdin(Stdio::null()).output().unwrap();
        let said = text(&found.stderr);
        let code = found.status.code();
        assert!(!said.contains("panicked"), "seed {seed}: {said}");
        assert!(
            matches!(code, Some(42 | 134..=143)),
            "seed {seed}: {:?} {said}",
            found.status
        );
        ended_well += u32::from(code == Some(42));
    }
    assert!(
        ended_well > 8,
        "most guests should reach their end, {ended_well} did"
    );
}

#[test]
fn guests_run_confined() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world
        .pool
        .add(Path::new("/usr/bin/busybox"), "busybox", Placement::Dense);
    for way in WAYS {
        let mut guest = world
            .vmm("busybox", &way, &["sleep", "100"])
            .spawn()
            .unwrap();
        let status = confined_status(guest.id(), way[1] == "process");
        guest.kill().unwrap();
        guest.wait().unwrap();
        assert!(status.contains("NoNewPrivs:\t1\n"), "{way:?} {status}");
        assert!(
            status.contains("CapEff:\t0000000000000000\n"),
            "{way:?} {status}"
        );
        assert!(
            status.contains("CapPrm:\t0000000000000000\n"),
            "{way:?} {status}"
        );
    }
}

/// The status of a VMM, or of its child, once it has a filter.
fn confined_status(vmm: u32, child: bool) -> String {
    wait::until_some("the guest is confined", || {
        let children = fs::read_to_string(format!("/proc/{vmm}/task/{vmm}/children")).ok()?;
        let pid = if child {
            children.split_whitespace().next()?.to_owned()
        } else {
            vmm.to_string()
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.contains("Seccomp:\t2\n").then_some(status)
    })
}

#[test]
fn what_cannot_be_run_is_refused_with_advice() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("hello", "musl-gcc", &[], HELLO);
    let root = world.pool.root.clone();
    let elsewhere = world.directory.path().to_str().unwrap().to_owned();
    let complain = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poolvmm"));
        let output = command.args(options).current_dir(&root).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let pool = root.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 10] = [
        // Where this runs, as a shell completes it.
        (
            &["run", "images/hello/v2", "--pool", pool],
            1,
            "images/hello/v2 does not exist",
        ),
        (&["run", "none:v1", "--pool", pool], 1, "no image none:v1"),
        (
            &["run", "hello:v1", "--pool", &elsewhere],
            1,
            "not a mounted pool",
        ),
        (&["run", "../hello", "--pool", pool], 1, "no image"),
        (&["run", "a/b:c", "--pool", pool], 1, "names no image"),
        (
            &["run", "hello:v1", "--pool", pool, "--memory", "1"],
            2,
            "--memory",
        ),
        (
            &["run", "hello:v1", "--pool", pool, "--net", "guest"],
            2,
            "none or host",
        ),
        (
            &["run", "hello:v1", "--pool", pool, "--dir", "/none:/x"],
            1,
            "cannot be opened",
        ),
        (&["run"], 2, "no image"),
        (&["fly"], 2, "expected the command"),
    ];
    for (options, status, message) in cases {
        let (code, said) = complain(options);
        assert_eq!(code, Some(status), "{options:?}: {said}");
        assert!(said.contains(message), "{options:?}: {said}");
    }
    let map = root.join("images/hello/v1/map");
    let good = fs::read_to_string(&map).unwrap();
    let broken = [
        (good[..good.len() / 2].to_owned(), "cannot be used"),
        (good.replace("\"format\":1", "\"format\":9"), "format 9"),
    ];
    for (text, message) in &broken {
        fs::write(&map, text).unwrap();
        let (code, said) = complain(&["run", "hello:v1", "--pool", pool]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(message), "{said}");
    }
    let kernels = [
        ("pvh", "kernel image (PVH)", "qemu-system-x86_64 -kernel"),
        ("multiboot", "kernel image (Multiboot)", "GRUB"),
        ("lxboot", "kernel image (Linux 64-bit boot)", "Firecracker"),
    ];
    for (abi, what, loader) in kernels {
        let kernel = good.replace("\"abi\":\"linux\"", &format!("\"abi\":\"{abi}\""));
        fs::write(&map, kernel).unwrap();
        for platform in ["kvm", "process"] {
            let options = ["run", "hello:v1", "--pool", pool, "--platform", platform];
            let (code, said) = complain(&options);
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(what) && said.contains(loader), "{said}");
            assert!(said.contains("/images/hello/v1/image.elf"), "{said}");
        }
    }
    fs::write(&map, &good).unwrap();
    let segment = root.join("segments/00000001");
    let file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(4096).unwrap();
    let (code, said) = complain(&["run", "hello:v1", "--pool", pool]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("pool fsck"), "{said}");
}
