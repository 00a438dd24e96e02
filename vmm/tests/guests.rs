//! Real guests on every platform and backing, compared with the same program run natively.

#![allow(clippy::unwrap_used)]

mod support;

use pool_tests::requirements::needs;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{Placement, TestPool, compile};
use tempfile::TempDir;

const HELLO: &str = r#"
#include <stdio.h>
#include <stdlib.h>
static int table[] = {3, 1, 2};
int main(int c, char **v) {
    printf("hello from %s with %d, %s\n", v[0], c - 1, getenv("GREETING"));
    for (int i = 1; i < c; i++) puts(v[i]);
    table[0]++;
    return table[0] + table[1];
}"#;

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

const MEMORY: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    size_t n = 24 << 20;
    unsigned char *p = mmap(0, n, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    long sum = 0, zero = 0;
    for (size_t i = 0; i < n; i += 4096) p[i] = i >> 12;
    for (size_t i = 0; i < n; i += 4096) sum += p[i];
    mprotect(p + (6 << 20), 4096, PROT_READ);
    sum += p[6 << 20];
    mprotect(p + (6 << 20), 4096, PROT_READ | PROT_WRITE);
    p[6 << 20] = 9;
    madvise(p, n, MADV_DONTNEED);
    for (size_t i = 0; i < n; i += 4096) zero += p[i];
    p[5] = 5;
    unsigned char *q = mremap(p, n, n + (2 << 20), MREMAP_MAYMOVE);
    sum += q[5] + q[n];
    munmap(q, n + (2 << 20));
    char *b = (char *)syscall(SYS_brk, 0);
    syscall(SYS_brk, b + 300000); memset(b, 1, 300000);
    syscall(SYS_brk, b); syscall(SYS_brk, b + 300000);
    for (int i = 4096; i < 300000; i++) zero += b[i];
    for (int i = 0; i < 1000; i++) { char *m = malloc(i * 97 + 1); memset(m, i, i * 97 + 1); sum += m[0]; if (i % 3) free(m); }
    printf("%ld %ld %p\n", sum, zero, (void *)0);
    return 0;
}"#;

const SQLITE: &str = r#"
#include <sqlite3.h>
#include <stdio.h>
static int row(void *u, int n, char **v, char **c) { for (int i = 0; i < n; i++) printf("%s ", v[i]); puts(""); return 0; }
int main(int c, char **v) {
    sqlite3 *db; char *e = 0;
    if (sqlite3_open(c > 1 ? v[1] : ":memory:", &db)) return 1;
    const char *q = "create table t(a integer primary key, b text); begin;"
        "with recursive n(i) as (select 1 union all select i+1 from n where i<3000) insert into t select i, hex(i*i) from n; commit;"
        "create index x on t(b); delete from t where a%7=0; vacuum;"
        "select count(*), sum(a), max(b) from t; pragma integrity_check;";
    if (sqlite3_exec(db, q, row, 0, &e)) { printf("%s\n", e); return 2; }
    sqlite3_close(db);
    return 0;
}"#;

const ZLIB: &str = r#"
#include <stdio.h>
#include <string.h>
#include <zlib.h>
static unsigned char in[1 << 20], out[1 << 21], back[1 << 20];
int main(void) {
    unsigned x = 1;
    for (int i = 0; i < sizeof in; i++) { x = x * 1103515245 + 12345; in[i] = (x >> 16) & 15; }
    uLongf n = sizeof out, m = sizeof back;
    if (compress2(out, &n, in, sizeof in, 6)) return 1;
    if (uncompress(back, &m, out, n) || m != sizeof in || memcmp(in, back, m)) return 2;
    printf("%lu %lx\n", n, crc32(0, out, n));
    return 0;
}"#;

struct World {
    directory: TempDir,
    pool: TestPool,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = TestPool::new(&directory.path().join("pool"));
        Self { directory, pool }
    }

    fn build(&mut self, name: &str, compiler: &str, flags: &[&str], source: &str) -> PathBuf {
        let path = compile(self.directory.path(), name, compiler, flags, source);
        self.pool.add(&path, name, Placement::Dense);
        path
    }

    fn vmm(&self, image: &str, options: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poolvmm"));
        command
            .args(["run", &format!("{image}:v1"), "--pool"])
            .arg(&self.pool.root);
        command.args(options).arg("--").args(arguments);
        command
    }

    fn run(&self, image: &str, options: &[&str], arguments: &[&str]) -> Output {
        self.vmm(image, options, arguments).output().unwrap()
    }
}

const WAYS: [[&str; 4]; 4] = [
    ["--platform", "kvm", "--backing", "pool"],
    ["--platform", "kvm", "--backing", "copy"],
    ["--platform", "process", "--backing", "pool"],
    ["--platform", "process", "--backing", "copy"],
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_same(what: &str, found: &Output, native: &Output) {
    assert_eq!(
        text(&found.stdout),
        text(&native.stdout),
        "{what}: {}",
        text(&found.stderr)
    );
    assert_eq!(
        found.status.code(),
        native.status.code(),
        "{what}: {}",
        text(&found.stderr)
    );
}

#[test]
fn programs_behave_as_they_do_natively() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let cases = [
        ("hello-musl", "musl-gcc", &[][..], HELLO),
        ("hello-glibc", "gcc", &[][..], HELLO),
        ("hello-pie", "gcc", &["-static-pie"][..], HELLO),
        ("memory-musl", "musl-gcc", &[][..], MEMORY),
        ("memory-glibc", "gcc", &[][..], MEMORY),
        ("zlib", "gcc", &["-lz"][..], ZLIB),
        ("sqlite", "gcc", &["-lsqlite3", "-lm"][..], SQLITE),
    ];
    for (name, compiler, flags, source) in cases {
        let path = world.build(name, compiler, flags, source);
        let arguments = if name.starts_with("hello") {
            &["one", "-- two"][..]
        } else {
            &[]
        };
        let native = Command::new(&path)
            .arg0(name)
            .args(arguments)
            .env_clear()
            .env("GREETING", "hi")
            .output()
            .unwrap();
        for way in WAYS {
            let options = [&way[..], &["--env", "GREETING=hi"]].concat();
            let found = world.run(name, &options, arguments);
            assert_same(&format!("{name} {way:?}"), &found, &native);
        }
    }
}

#[test]
fn sparse_images_run_too() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = compile(world.directory.path(), "sparse", "musl-gcc", &[], MEMORY);
    world.pool.add(&path, "sparse", Placement::Sparse);
    let native = Command::new(&path).output().unwrap();
    for way in WAYS {
        assert_same(
            &format!("{way:?}"),
            &world.run("sparse", &way, &[]),
            &native,
        );
    }
}

#[test]
fn busybox_works_on_granted_files_and_no_others() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world
        .pool
        .add(Path::new("/usr/bin/busybox"), "busybox", Placement::Dense);
    let data = world.directory.path().join("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(data.join("lines"), "b\na\nc\n").unwrap();
    fs::write(data.join("sub/deep"), "deep\n").unwrap();
    std::os::unix::fs::symlink("lines", data.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", data.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../etc/passwd", data.join("upwards")).unwrap();
    let host = data.to_str().unwrap();
    let grant = format!("{host}:{host}");
    let read_only = format!("{host}:{host}:ro");
    let at = |name: &str| format!("{host}/{name}");
    let same: [Vec<String>; 8] = [
        vec!["echo".into(), "hi".into()],
        vec!["cat".into(), at("lines"), at("link")],
        vec!["sort".into(), at("lines")],
        vec!["wc".into(), at("lines")],
        vec!["sha256sum".into(), at("lines")],
        vec!["ls".into(), "-R".into(), host.into()],
        vec!["find".into(), host.into(), "-name".into(), "deep".into()],
        vec!["expr".into(), "6".into(), "*".into(), "7".into()],
    ];
    for way in WAYS {
        let granted = [&way[..], &["--dir", &grant]].concat();
        for arguments in &same {
            let native = Command::new("/usr/bin/busybox")
                .args(arguments)
                .output()
                .unwrap();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let found = world.run("busybox", &granted, &arguments);
            assert_same(&format!("{way:?} {arguments:?}"), &found, &native);
        }
        for hidden in [
            "/etc/passwd",
            &at("absolute"),
            &at("upwards"),
            &at("../pool"),
        ] {
            let found = world.run("busybox", &granted, &["cat", hidden]);
            assert_eq!(found.status.code(), Some(1), "{way:?} {hidden}");
            assert_eq!(text(&found.stdout), "", "{way:?} {hidden}");
        }
        let found = world.run("busybox", &way, &["cat", &at("lines")]);
        assert_eq!(found.status.code(), Some(1), "{way:?}: not granted");
        let found = world.run("busybox", &granted, &["cp", &at("lines"), &at("copy")]);
        assert!(found.status.success(), "{way:?}: {}", text(&found.stderr));
        assert_eq!(fs::read(data.join("copy")).unwrap(), b"b\na\nc\n");
        fs::remove_file(data.join("copy")).unwrap();
        let protected = [&way[..], &["--dir", &read_only]].concat();
        let found = world.run("busybox", &protected, &["touch", &at("new")]);
        assert!(
            text(&found.stderr).contains("Read-only"),
            "{way:?} {}",
            text(&found.stderr)
        );
        assert!(!data.join("new").exists());
    }
}

#[test]
fn sqlite_keeps_a_database_in_a_granted_directory() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = world.build("sqlite", "gcc", &["-lsqlite3", "-lm"], SQLITE);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    let native = Command::new(&path)
        .arg(data.join("native.db"))
        .output()
        .unwrap();
    assert!(native.status.success());
    for way in WAYS {
        let found = world.run(
            "sqlite",
            &[&way[..], &["--dir", &grant]].concat(),
            &["/data/t.db"],
        );
        assert_same(&format!("{way:?}"), &found, &native);
        let check = Command::new(&path).arg(data.join("t.db")).output().unwrap();
        assert_eq!(
            text(&check.stdout),
            "table t already exists\n",
            "the host sees the guest's tables"
        );
        fs::remove_file(data.join("t.db")).unwrap();
    }
}

#[test]
fn faults_end_the_guest_with_a_report_and_leave_the_pool_unharmed() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("faults", "musl-gcc", &[], FAULTS);
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

#[test]
fn the_report_says_what_was_done() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("calls", "musl-gcc", &[], CALLS);
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
    let mut world = World::new();
    let source = r#"
        #include <errno.h>
        #include <stdio.h>
        #include <sys/socket.h>
        #include <unistd.h>
        int main(void) {
            printf("%d ", socket(AF_INET, SOCK_STREAM, 0)); printf("%d ", errno == ENOSYS);
            printf("%d ", fork()); printf("%d\n", errno == ENOSYS);
            return 0;
        }"#;
    world.build("network", "musl-gcc", &[], source);
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
            assert_eq!(report["unknown_calls"]["41"], 1);
        }
    }
}

#[test]
fn no_argument_of_a_call_harms_the_monitor() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
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
                    continue;
                case SYS_munmap: case SYS_mprotect: case SYS_mremap: case SYS_madvise:
                    if (a < 0x600000) a = 0x30000000; b &= 0xffffff; break;
                case SYS_mmap: if (a < 0x600000) e &= ~0x10; break;
                case SYS_close: case SYS_dup2: case SYS_dup3: case SYS_close_range: a |= 64; b |= 64; break;
                }
                if (n % 3) strcpy(buffer, "/data/x");
                syscall(n, a, b, d, e, f, g);
            }
            syscall(SYS_exit_group, 42);
        }"#;
    world.build("odd", "musl-gcc", &[], source);
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
        let status = status.unwrap_or_else(|| panic!("{way:?}: never confined"));
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
fn confined_status(vmm: u32, child: bool) -> Option<String> {
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let children = fs::read_to_string(format!("/proc/{vmm}/task/{vmm}/children")).ok()?;
        let Some(pid) = (if child {
            children.split_whitespace().next().map(str::to_owned)
        } else {
            Some(vmm.to_string())
        }) else {
            continue;
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        if status.contains("Seccomp:\t2\n") {
            return Some(status);
        }
    }
    None
}

#[test]
fn a_closed_pipe_ends_the_guest_as_it_would_a_process() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world
        .pool
        .add(Path::new("/usr/bin/busybox"), "busybox", Placement::Dense);
    for way in WAYS {
        let mut guest = world
            .vmm("busybox", &way, &["yes"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        drop(guest.stdout.take());
        assert_eq!(guest.wait().unwrap().code(), Some(141), "{way:?}");
    }
}

#[test]
fn standard_input_is_passed_through() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world
        .pool
        .add(Path::new("/usr/bin/busybox"), "busybox", Placement::Dense);
    for way in WAYS {
        let mut command = world.vmm("busybox", &way, &["sha256sum"]);
        let mut guest = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = guest.stdin.take().unwrap();
        input.write_all(&vec![7; 300_000]).unwrap();
        drop(input);
        let output = guest.wait_with_output().unwrap();
        assert_eq!(
            text(&output.stdout),
            "08f166476de183f7a1b2874d544d37912aaf8d19b92013e1aafe233ba231024a  -\n",
            "{way:?}"
        );
    }
}

#[test]
fn what_cannot_be_run_is_refused_with_advice() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("hello", "musl-gcc", &[], HELLO);
    let root = world.pool.root.clone();
    let elsewhere = world.directory.path().to_str().unwrap().to_owned();
    let complain = |options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poolvmm"));
        let output = command.args(options).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let pool = root.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 9] = [
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
            &["run", "hello:v1", "--pool", pool, "--net", "host"],
            2,
            "not served yet",
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
