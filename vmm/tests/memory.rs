//! Guest memory as programs use it: mappings compared with Linux, and limits that hold.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use serde_json::Value;
use world::{WAYS, World, assert_same, seeds, text};

const KVM: [&str; 4] = WAYS[0];
const MAPPING_FUZZ: &str = include_str!("programs/mapping_fuzz.c");
const MEMORY_CALLS: &str = include_str!("programs/memory_calls.c");
const TOUCHES: &str = include_str!("programs/touches.c");
const MEMORY_LIMIT: &str = include_str!("programs/memory_limit.c");
const SPARSE: &str = include_str!("programs/sparse.c");
const ARENAS: &str = include_str!("programs/arenas.c");
const GROWTH: &str = include_str!("programs/growth.c");

#[test]
fn mappings_are_what_linux_makes_of_them() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    for (name, compiler) in [("fuzz-glibc", "gcc"), ("fuzz-musl", "musl-gcc")] {
        let path = world.build(name, compiler, &[], MAPPING_FUZZ);
        for seed in 1..=seeds(6) {
            let arguments = [&seed.to_string(), "600"];
            let native = Command::new(&path).args(arguments).output().unwrap();
            assert!(native.status.success(), "{}", text(&native.stdout));
            for way in WAYS {
                let found = world.run(name, &way, &arguments);
                assert_same(&format!("{name} {way:?} {seed}"), &found, &native);
            }
            // Just enough: what was given and not touched must come back.
            let tight = [&KVM[..], &["--memory", "34M"]].concat();
            let found = world.run(name, &tight, &arguments);
            assert_same(&format!("{name} {tight:?} {seed}"), &found, &native);
        }
    }
}

/// Calls with arguments of every kind: results, and what memory holds and allows afterwards.
#[test]
fn calls_about_memory_return_what_linux_returns() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = world.build("memory-calls", "musl-gcc", &["-w"], MEMORY_CALLS);
    let content: Vec<u8> = (0..30 * 4096 - 100)
        .map(|at: usize| (at / 4096 * 7 + 1) as u8)
        .collect();
    // From Linux 6.17 on several mappings are moved by one call.
    let moves = u8::from(kernel() >= (6, 17)).to_string();
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    let (file, shared) = (data.join("file"), data.join("shared"));
    for seed in 1..=seeds(6) {
        let seed = seed.to_string();
        fs::write(&file, &content).unwrap();
        fs::write(&shared, &content).unwrap();
        let paths = [&file, &shared].map(|path| path.to_str().unwrap());
        let arguments = [&seed, "500", paths[0], paths[1], &moves];
        let native = Command::new(&path).args(arguments).output().unwrap();
        assert!(native.status.success(), "{}", text(&native.stdout));
        let written = fs::read(&shared).unwrap();
        let arguments = [&seed, "500", "/data/file", "/data/shared", &moves];
        fs::write(&file, &content).unwrap();
        fs::write(&shared, &content).unwrap();
        let found = world.run(
            "memory-calls",
            &[&KVM[..], &["--dir", &grant]].concat(),
            &arguments,
        );
        let (found, native) = (text(&found.stdout), text(&native.stdout));
        let differing = found
            .lines()
            .zip(native.lines())
            .find(|(found, native)| found != native);
        assert_eq!(differing, None, "seed {seed}");
        assert_eq!(found.lines().count(), native.lines().count(), "seed {seed}");
        assert!(fs::read(&shared).unwrap() == written, "seed {seed}");
    }
}

/// The host's kernel: first and second part of its version.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// A buffer larger than what there is: the call comes back short, and what it says is there.
#[test]
fn a_call_into_more_than_there_is_comes_back_short() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(void) {
            int fd = open("/data/file", O_RDONLY);
            long *at = mmap(0, 24 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            long bytes = read(fd, at, 24 << 20), wrong = 0;
            for (long page = 0; page < bytes / 4096; page++) wrong += at[page * 512] != page + 1;
            munmap(at, 24 << 20);
            printf("%d %ld\n", bytes > 8 << 20 && bytes < 16 << 20, wrong);
            return 0;
        }"#;
    world.build("short", "musl-gcc", &[], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let pages = (1..=6144u64).flat_map(|page| [page.to_le_bytes().as_slice(), &[0; 4088]].concat());
    fs::write(data.join("file"), pages.collect::<Vec<u8>>()).unwrap();
    let grant = format!("{}:/data", data.display());
    let options = [&KVM[..], &["--memory", "16M", "--dir", &grant]].concat();
    let found = world.run("short", &options, &[]);
    assert_eq!(text(&found.stdout), "1 0\n", "{}", text(&found.stderr));
}

/// As a kernel does it: what a file has need not be kept.
#[test]
fn a_file_larger_than_memory_is_read_through_a_mapping() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/mman.h>
        int main(void) {
            int fd = open("/data/file", O_RDONLY);
            unsigned char *at = mmap(0, 40 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
            long sum = 0;
            at[4096] = 100;
            for (int round = 0; round < 2; round++)
                for (long byte = 0; byte < 40 << 20; byte += 4096) sum += at[byte];
            printf("%ld %d\n", sum, at[4096]);
            return 0;
        }"#;
    world.build("through", "musl-gcc", &[], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), vec![1; 40 << 20]).unwrap();
    let grant = format!("{}:/data", data.display());
    for way in WAYS {
        let options = [&way[..], &["--memory", "16M", "--dir", &grant]].concat();
        if way[1] == "process" {
            // There, what may be written counts when it is mapped.
            continue;
        }
        let found = world.run("through", &options, &[]);
        assert_eq!(
            text(&found.stdout),
            "20678 100\n",
            "{}",
            text(&found.stderr)
        );
    }
}

/// What a shared mapping shows is the file's, so it need not stay, written or not.
#[test]
fn a_file_larger_than_memory_is_changed_through_a_mapping() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        int main(int count, char **words) {
            int fd = open("/data/file", O_RDWR);
            long pages = 64 << 8, step = atol(words[1]), sum = 0;
            unsigned char *at = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (at == MAP_FAILED) { perror("mmap"); return 1; }
            for (long n = 0, page = 0; n < pages; n++, page = (page + step) % pages) at[page * 4096 + 9] += page % 251;
            for (long page = 0; page < pages; page++) sum += at[page * 4096 + 9] == page % 251;
            printf("%ld\n", sum);
            return 0;
        }"#;
    world.build("changed", "musl-gcc", &[], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    for way in [WAYS[0], WAYS[2]] {
        for step in ["1", "4097"] {
            fs::write(data.join("file"), vec![0; 64 << 20]).unwrap();
            let options = [&way[..], &["--memory", "16M", "--dir", &grant]].concat();
            let found = world.run("changed", &options, &[step]);
            let said = text(&found.stderr);
            assert_eq!(text(&found.stdout), "16384\n", "{way:?} {step}: {said}");
            let content = fs::read(data.join("file")).unwrap();
            let pages = content.chunks(4096).zip(0u64..);
            let wrong = pages.filter(|(page, number)| u64::from(page[9]) != number % 251);
            assert_eq!(wrong.count(), 0, "{way:?} {step}");
        }
    }
}

/// Somebody else changes the length of a file that a guest uses by a mapping, and by calls.
#[test]
fn a_file_may_become_shorter_at_any_time() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <setjmp.h>
        #include <signal.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static sigjmp_buf back;
        static long faults;
        static void fault(int signal) { faults++; siglongjmp(back, 1); }
        int main(void) {
            struct sigaction action = { .sa_handler = fault, .sa_flags = SA_NODEFER };
            sigaction(SIGBUS, &action, 0);
            int fd = open("/data/file", O_RDWR);
            volatile char *at = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            puts("ready");
            fflush(stdout);
            for (volatile long refused = 0; faults < 200 || refused < 200;) {
                if (!sigsetjmp(back, 0))
                    for (int page = 0; page < 64; page++) at[page * 4096] = 1;
                for (int page = 63; page >= 0; page--)
                    refused += syscall(SYS_fstat, fd, at + page * 4096 + 8) != 0;
            }
            puts("enough");
            return 0;
        }"#;
    world.build("shorter", "musl-gcc", &["-O1"], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    for way in [WAYS[0], WAYS[2]] {
        fs::write(data.join("file"), vec![0; 64 * 4096]).unwrap();
        let mut command =
            bounded(&world.vmm("shorter", &[&way[..], &["--dir", &grant]].concat(), &[]));
        let mut guest = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(guest.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready", "{way:?}");
        let file = fs::OpenOptions::new().write(true).open(data.join("file"));
        let file = file.unwrap();
        let mut length = 0;
        while guest.try_wait().unwrap().is_none() {
            length = (length + 17) % 65;
            file.set_len(length * 4096).unwrap();
        }
        assert_eq!(lines.next().unwrap().unwrap(), "enough", "{way:?}");
        assert!(guest.wait().unwrap().success(), "{way:?}");
    }
}

/// A mapping keeps its file by being one: closing a descriptor would drop the guest's record locks.
#[test]
fn record_locks_outlive_a_mapping_of_their_file() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(void) {
            int fd = open("/data/file", O_RDWR);
            struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
            if (fcntl(fd, F_SETLK, &lock)) return 1;
            char *at = mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
            munmap(at, *at ? 4096 : 0);
            puts("unmapped");
            fflush(stdout);
            return getchar() == EOF ? 0 : 1;
        }"#;
    world.build("locks", "musl-gcc", &[], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), "content").unwrap();
    let grant = format!("{}:/data", data.display());
    for way in WAYS {
        let mut guest = world
            .vmm("locks", &[&way[..], &["--dir", &grant]].concat(), &[])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = guest.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "unmapped\n");
        let file = fs::OpenOptions::new().write(true).open(data.join("file"));
        let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        let refused = rustix::fs::fcntl_lock(file.unwrap(), lock).unwrap_err();
        assert!(
            [rustix::io::Errno::AGAIN, rustix::io::Errno::ACCESS].contains(&refused),
            "{way:?}: {refused}"
        );
        drop(guest.stdin.take());
        assert!(guest.wait().unwrap().success(), "{way:?}");
    }
}

#[test]
fn arenas_are_cut_out_of_reservations() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let path = world.build("arenas", "gcc", &[], ARENAS);
    let native = Command::new(&path).output().unwrap();
    for way in WAYS {
        assert_same(
            &format!("{way:?}"),
            &world.run("arenas", &way, &[]),
            &native,
        );
    }
}

#[test]
fn pages_far_apart_cost_what_they_are() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("sparse", "musl-gcc", &[], SPARSE);
    let file = world.directory.path().join("report.json");
    let options = [
        &KVM[..],
        &["--memory", "16M", "--report", file.to_str().unwrap()],
    ]
    .concat();
    // 4 MiB and 1 GiB apart: a table for each page, and a directory.
    for (step, count) in [("4194304", "3000"), ("1073741824", "3000")] {
        let found = world.run("sparse", &options, &[step, count]);
        assert_eq!(text(&found.stdout), "ok\n", "{}", text(&found.stderr));
        let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let ram = report["mapped"]["ram_bytes"].as_u64().unwrap();
        assert!(ram <= 32 << 20, "{ram} bytes of RAM for 300 pages");
    }
}

#[test]
fn no_way_to_more_memory_passes_the_limit() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("limit", "musl-gcc", &[], MEMORY_LIMIT);
    let file = world.directory.path().join("report.json");
    let run = |way: &str, mib: u64| {
        let memory = format!("{mib}M");
        let options = ["--memory", &memory, "--report", file.to_str().unwrap()];
        let found = world.run("limit", &[&KVM[..], &options].concat(), &[way]);
        let said = text(&found.stdout);
        let numbers: Vec<u64> = said.lines().filter_map(|line| line.parse().ok()).collect();
        let had = *numbers.last().unwrap_or_else(|| {
            panic!("{way}: {said} {}", text(&found.stderr));
        });
        let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let peak = report["host"]["peak_rss_kib"].as_u64().unwrap();
        (had, peak, found)
    };
    let (_, floor, _) = run("none", 16);
    for way in [
        "mmap",
        "mprotect",
        "hidden",
        "fixed",
        "beside-the-stack",
        "brk",
        "mremap",
        "overcommitted",
        "shared",
        "call",
        "scattered",
    ] {
        for mib in [16, 48] {
            let (had, peak, found) = run(way, mib);
            // The program itself and its stack take less than one MiB. Page tables are free up to 2 MiB, and
            // forgotten rather than charged when there is no room for them.
            let most = if way == "scattered" { 2 * mib } else { mib };
            let ended = text(&found.stderr);
            assert!(
                (mib - 2..=most).contains(&had),
                "{way}: {had} of {mib} MiB, {ended}"
            );
            if way == "call" {
                let said = text(&found.stdout);
                assert!(said.ends_with("Out of memory\n"), "{said}");
                assert!(found.status.success());
            } else {
                assert_eq!(found.status.code(), Some(137), "{way}: {ended}");
                assert!(ended.contains("raise --memory"), "{way}: {ended}");
            }
            // What the monitor keeps to know of scattered pages is small beside them.
            let most = floor + (mib + 2) * 1024 + mib * 128;
            assert!(peak <= most, "{way}: {peak} KiB for {mib} MiB");
        }
    }
}

/// Batches may not cost a guest memory that it could have used: what it did not touch comes back.
#[test]
fn what_was_given_and_not_touched_is_taken_back_at_the_limit() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("touches", "musl-gcc", &[], TOUCHES);
    let options = [&KVM[..], &["--memory", "8M"]].concat();
    // Each stands alone, so that a batch comes with it: 1 200 pages, 75 MiB of batches.
    let found = world.run("touches", &options, &["1200", "17"]);
    assert_eq!(text(&found.stdout), "ok\n", "{}", text(&found.stderr));
}

#[test]
fn nothing_that_a_guest_chooses_makes_the_monitor_grow() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    world.build("growth", "musl-gcc", &[], GROWTH);
    let file = world.directory.path().join("report.json");
    let options = [&KVM[..], &["--report", file.to_str().unwrap()]].concat();
    let found = world.run("growth", &options, &[]);
    assert_eq!(
        text(&found.stdout),
        "1 1\n0\n0\n1 1\n",
        "{}",
        text(&found.stderr)
    );
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let unknown = report["unknown_calls"].as_object().unwrap();
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown["1024"], 100_000);
    let peak = report["host"]["peak_rss_kib"].as_u64().unwrap();
    assert!(peak < 16 << 10, "{peak} KiB");
}

#[test]
fn a_stack_is_executable_when_the_program_asks() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let nested = r#"
        #include <stdio.h>
        static __attribute__((noinline)) int apply(int (*f)(int), int x) { return f(x); }
        int main(int c, char **v) {
            int base = c + 40;
            int plus(int x) { return base + x; }
            printf("%d\n", apply(plus, 1));
            return 0;
        }"#;
    let path = world.build("nested", "gcc", &["-O0"], nested);
    let native = Command::new(&path).output().unwrap();
    assert_eq!(text(&native.stdout), "42\n");
    for way in WAYS {
        assert_same(
            &format!("{way:?}"),
            &world.run("nested", &way, &[]),
            &native,
        );
    }
    // And is not otherwise.
    let flags = ["-O0", "-Wl,-z,noexecstack"];
    world.build("nested-data", "gcc", &flags, nested);
    for way in WAYS {
        let found = world.run("nested-data", &way, &[]);
        assert_eq!(found.status.code(), Some(139), "{way:?}");
    }
}

#[test]
fn files_are_mapped_as_linux_maps_them() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #include <errno.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <unistd.h>
        static void try(const char *what, int protection, int flags, int fd, long offset) {
            char *at = mmap(0, 4096, protection, flags, fd, offset);
            printf("%s: %s\n", what, at == MAP_FAILED ? strerror(errno) : at);
        }
        int main(void) {
            int fd = open("/data/file", O_RDWR), to = open("/data/file", O_WRONLY), in = open("/data", O_RDONLY);
            try("private", PROT_READ, MAP_PRIVATE, fd, 0);
            char *copy = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
            copy[0] = 'X';
            try("unchanged", PROT_READ, MAP_PRIVATE, fd, 0);
            try("only writing", PROT_READ, MAP_PRIVATE, to, 0);
            try("a directory", PROT_READ, MAP_PRIVATE, in, 0);
            try("odd offset", PROT_READ, MAP_PRIVATE, fd, 1);
            try("no kind", PROT_READ, 0, fd, 0);
            try("closed", PROT_READ, MAP_PRIVATE, 77, 0);
            /* Shared with whom writes the file. */
            for (int protection = PROT_READ; protection <= (PROT_READ | PROT_WRITE); protection += PROT_WRITE) {
                char *shared = mmap(0, 4096, protection, MAP_SHARED, fd, 0);
                if (shared == MAP_FAILED) { puts(strerror(errno)); continue; }
                pwrite(fd, "new", 3, 0);
                puts(memcmp(shared, "new", 3) ? "stale" : "right");
                pwrite(fd, "old", 3, 0);
            }
            return 0;
        }"#;
    world.build("maps", "musl-gcc", &[], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), "old").unwrap();
    let grant = format!("{}:/data", data.display());
    let expected = "private: old\nunchanged: old\nonly writing: Permission denied\n\
                    a directory: No such device\nodd offset: Invalid argument\n\
                    no kind: Invalid argument\nclosed: Bad file descriptor\n\
                    right\nright\n";
    for way in WAYS {
        let found = world.run("maps", &[&way[..], &["--dir", &grant]].concat(), &[]);
        assert_eq!(text(&found.stdout), expected, "{way:?}");
        assert_eq!(fs::read(data.join("file")).unwrap(), b"old");
    }
}

#[test]
fn pages_of_files_and_images_that_are_given_up_are_not_zeros() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/mman.h>
        #include <unistd.h>
        static void try(const char *what, char *at, int advice, char right) {
            int done = madvise(at, 4096, advice);
            /* As Linux has it; FREE is refused for files. */
            int expected = advice == MADV_FREE ? -1 : 0;
            printf("%s: %s\n", what, done == expected && *at == right ? "right" : "wrong");
        }
        static char data[16384] __attribute__((aligned(4096))) = "data";
        int main(void) {
            int fd = open("/data/file", O_RDONLY);
            data[4096] = data[0] = 'X';
            try("image", data, MADV_DONTNEED, 'd');
            puts(data[4096] == 'X' ? "kept" : "lost");
            char *read_only = mmap(0, 8192, PROT_READ, MAP_PRIVATE, fd, 0);
            char *both = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
            char *none = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            try("read-only", read_only, MADV_DONTNEED, 'o');
            puts(*read_only == 'o' && read_only[4096] == 'p' ? "there" : "gone");
            try("free", read_only, MADV_FREE, 'o');
            puts(*read_only == 'o' ? "there" : "gone");
            try("not written", both, MADV_DONTNEED, 'o');
            both[4096] = 'X';
            try("written", both + 4096, MADV_DONTNEED, 'p');
            *none = 'X';
            try("anonymous", none, MADV_DONTNEED, 0);
            puts(*none ? "kept" : "zeros");
            return 0;
        }"#;
    world.build("given-up", "gcc", &["-D_GNU_SOURCE"], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(
        data.join("file"),
        ["o", "p"].map(|text| text.repeat(4096)).concat(),
    )
    .unwrap();
    let grant = format!("{}:/data", data.display());
    let expected = "image: right\nkept\nread-only: right\nthere\nfree: right\nthere\nnot written: right\n\
                    written: right\nanonymous: right\nzeros\n";
    for way in WAYS {
        if way[1] == "process" && way[3] == "copy" {
            // A copy of the image is anonymous memory there: zeros.
            continue;
        }
        let found = world.run("given-up", &[&way[..], &["--dir", &grant]].concat(), &[]);
        assert_eq!(text(&found.stdout), expected, "{way:?}");
    }
}

#[test]
fn files_are_read_when_they_are_touched_and_end_where_they_end() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(int count, char **arguments) {
            int fd = open("/data/file", O_RDWR);
            char *at = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
            /* Not yet touched: what is written now is seen. */
            pwrite(fd, "late", 4, 20 * 4096);
            close(fd);
            printf("%.4s %d %d\n", at + 20 * 4096, at[4096], at[39 * 4096 + 100]);
            at[4096] = 'X';
            char *moved = mremap(at, 64 * 4096, 80 * 4096, MREMAP_MAYMOVE);
            printf("%c %.4s\n", moved[4096], moved + 20 * 4096);
            /* For a call, too. */
            printf("%d\n", (int)write(1, moved + 45 * 4096, 10));
            fflush(stdout);
            if (count > 2) mprotect(moved, 4096, PROT_READ), moved[0] = 1;
            return count > 1 ? moved[41 * 4096] : 0;
        }"#;
    world.build("lazy", "gcc", &["-D_GNU_SOURCE"], source);
    let data = world.directory.path().join("data");
    fs::create_dir_all(&data).unwrap();
    let grant = format!("{}:/data", data.display());
    for way in WAYS {
        fs::write(data.join("file"), vec![7; 40 * 4096 - 10]).unwrap();
        let options = [&way[..], &["--dir", &grant]].concat();
        let found = world.run("lazy", &options, &[]);
        let expected = "late 7 7\nX late\n-1\n";
        assert_eq!(
            text(&found.stdout),
            expected,
            "{way:?} {}",
            text(&found.stderr)
        );
        let found = world.run("lazy", &options, &["touch"]);
        assert_eq!(text(&found.stdout), expected, "{way:?}");
        assert_eq!(found.status.code(), Some(128 + libc::SIGBUS), "{way:?}");
        let found = world.run("lazy", &options, &["write", "first"]);
        assert_eq!(found.status.code(), Some(128 + libc::SIGSEGV), "{way:?}");
    }
}

/// The monitor's pages lie in the window of the stack's end, and its entries beside the stack's.
#[test]
fn unmapping_what_lies_beside_the_stack_leaves_the_monitor() {
    if !needs(&["kvm"]) {
        return;
    }
    let mut world = World::new();
    let source = r"
        #include <string.h>
        #include <sys/mman.h>
        int main(void) {
            char here[200 << 10];
            unsigned long window = 2ul << 20, end = ((unsigned long)here | (window - 1)) + 1;
            unsigned long beyond = (1ul << 20) + (64ul << 10);
            munmap((void *)(end - beyond), beyond);
            mprotect((void *)(end - beyond), beyond, PROT_NONE);
            memset(here, 1, sizeof here);
            return here[sizeof here / 2] == 1 ? 5 : 1;
        }";
    world.build("unmaps", "musl-gcc", &["-w"], source);
    let found = world.run("unmaps", &KVM, &[]);
    assert_eq!(found.status.code(), Some(5), "{}", text(&found.stderr));
}
