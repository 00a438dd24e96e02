//! Real guests on every platform and backing, compared with the same program run natively.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use pool_tests::requirements::needs;
use support::{Placement, compile};
use world::{WAYS, World, assert_same, text};

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
    std::os::unix::fs::symlink("/etc/shadow", data.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../etc/shadow", data.join("upwards")).unwrap();
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
            "/etc/shadow",
            "/etc/os-release",
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
fn directories_above_a_granted_one_exist() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <limits.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static const char *said(long result) { return result < 0 ? strerror(errno) : "ok"; }
        int main(void) {
            const char *paths[] = { "/", "/srv", "/srv/deep/", "/other" };
            for (int at = 0; at < 4; at++) {
                struct stat s;
                unsigned char x[256] = { 0 };
                const char *path = paths[at];
                printf("%s: %s", path, said(stat(path, &s)));
                printf(", %s", said(syscall(SYS_statx, AT_FDCWD, path, 0, 0x7ff, x)));
                printf(", %s", said(access(path, R_OK | X_OK)));
                /* struct statx has its mode there. */
                int mode = x[28] | x[29] << 8;
                if (at < 3) printf(", %s, %s", said(mkdir(path, 0777)), S_ISDIR(s.st_mode) && S_ISDIR(mode) ? "directory" : "other");
                puts("");
            }
            char real[PATH_MAX];
            puts(realpath("/srv/deep/data/./file", real) ? real : strerror(errno));
            return 0;
        }"#;
    for (name, compiler) in [("above-musl", "musl-gcc"), ("above-glibc", "gcc")] {
        world.build(name, compiler, &[], source);
    }
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), "x").unwrap();
    let grant = format!("{}:/srv/deep/data", data.display());
    let exists = "ok, ok, ok, File exists, directory";
    let absent = "No such file or directory";
    let expected = format!(
        "/: {exists}\n/srv: {exists}\n/srv/deep/: {exists}\n\
         /other: {absent}, {absent}, {absent}\n/srv/deep/data/file\n"
    );
    for name in ["above-musl", "above-glibc"] {
        for way in WAYS {
            let found = world.run(name, &[&way[..], &["--dir", &grant]].concat(), &[]);
            assert_eq!(text(&found.stdout), expected, "{name} {way:?}");
        }
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
fn sqlite_sorts_more_than_its_cache_holds() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #include <sqlite3.h>
        #include <stdio.h>
        static int row(void *u, int n, char **v, char **c) { for (int i = 0; i < n; i++) printf("%s ", v[i]); puts(""); return 0; }
        int main(int c, char **v) {
            sqlite3 *db; char *e = 0;
            sqlite3_temp_directory = v[1];
            if (sqlite3_open("", &db)) return 1;
            const char *q = "pragma cache_size=20; pragma temp_store=1; create table t(a, b); begin;"
                "with recursive n(i) as (select 1 union all select i + 1 from n where i < 30000)"
                " insert into t select i * 7919 % 30011, hex(zeroblob(40)) || i from n; commit;"
                "create index x on t(b); select count(*), max(a) from (select a from t order by a, b);"
                "pragma integrity_check;";
            if (sqlite3_exec(db, q, row, 0, &e)) { printf("%s\n", e); return 2; }
            return 0;
        }"#;
    let path = world.build("sort", "gcc", &["-lsqlite3", "-lm"], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    let native = Command::new(&path).arg(&data).output().unwrap();
    assert!(native.status.success(), "{}", text(&native.stdout));
    for way in WAYS {
        let options = [&way[..], &["--dir", &grant]].concat();
        let found = world.run("sort", &options, &["/data"]);
        assert_same(&format!("{way:?}"), &found, &native);
    }
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
