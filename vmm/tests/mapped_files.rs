//! Files that guests map: what is in them, whose they are, and what they cost.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use world::{WAYS, World, kernel, text};

const KVM: [&str; 4] = WAYS[0];

/// As a kernel does it: what a file has need not be kept.
#[test]
fn a_file_larger_than_memory_is_read_through_a_mapping() {
    if !needs(&["kvm"]) {
        return;
    }
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
    let world = World::of("through", "musl-gcc", &[], source);
    fs::write(world.data().join("file"), vec![1; 40 << 20]).unwrap();
    // As a process, what may be written counts when it is mapped.
    for way in &WAYS[..2] {
        let options = [&way[..], &["--memory", "16M"]].concat();
        let found = world.granted("through", &options, &[]).output().unwrap();
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
    let world = World::of("changed", "musl-gcc", &[], source);
    let file = world.data().join("file");
    for way in [WAYS[0], WAYS[2]] {
        for step in ["1", "4097"] {
            fs::write(&file, vec![0; 64 << 20]).unwrap();
            let options = [&way[..], &["--memory", "16M"]].concat();
            let found = world
                .granted("changed", &options, &[step])
                .output()
                .unwrap();
            let said = text(&found.stderr);
            assert_eq!(text(&found.stdout), "16384\n", "{way:?} {step}: {said}");
            let content = fs::read(&file).unwrap();
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
    let world = World::of("shorter", "musl-gcc", &["-O1"], source);
    let file = world.data().join("file");
    for way in [WAYS[0], WAYS[2]] {
        fs::write(&file, vec![0; 64 * 4096]).unwrap();
        let mut command = bounded(&world.granted("shorter", &way, &[]));
        let mut guest = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(guest.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready", "{way:?}");
        let file = fs::OpenOptions::new().write(true).open(&file).unwrap();
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
    let world = World::of("locks", "musl-gcc", &[], source);
    let file = world.data().join("file");
    fs::write(&file, "content").unwrap();
    for way in WAYS {
        let mut guest = world
            .granted("locks", &way, &[])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = guest.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "unmapped\n");
        let file = fs::OpenOptions::new().write(true).open(&file);
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
fn files_are_mapped_as_linux_maps_them() {
    if !needs(&["kvm"]) {
        return;
    }
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
    let world = World::of("maps", "musl-gcc", &[], source);
    let file = world.data().join("file");
    fs::write(&file, "old").unwrap();
    let expected = "private: old\nunchanged: old\nonly writing: Permission denied\n\
                    a directory: No such device\nodd offset: Invalid argument\n\
                    no kind: Invalid argument\nclosed: Bad file descriptor\n\
                    right\nright\n";
    for way in WAYS {
        let found = world.granted("maps", &way, &[]).output().unwrap();
        assert_eq!(text(&found.stdout), expected, "{way:?}");
        assert_eq!(fs::read(&file).unwrap(), b"old");
    }
}

#[test]
fn pages_of_files_and_images_that_are_given_up_are_not_zeros() {
    if !needs(&["kvm"]) {
        return;
    }
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
    let world = World::of("given-up", "gcc", &["-D_GNU_SOURCE"], source);
    let content = ["o", "p"].map(|text| text.repeat(4096)).concat();
    fs::write(world.data().join("file"), content).unwrap();
    let expected = "image: right\nkept\nread-only: right\nthere\nfree: right\nthere\nnot written: right\n\
                    written: right\nanonymous: right\nzeros\n";
    for way in WAYS {
        if way[1] == "process" && way[3] == "copy" {
            // A copy of the image is anonymous memory there: zeros.
            continue;
        }
        let found = world.granted("given-up", &way, &[]).output().unwrap();
        assert_eq!(text(&found.stdout), expected, "{way:?}");
    }
}

#[test]
fn files_are_read_when_they_are_touched_and_end_where_they_end() {
    if !needs(&["kvm"]) {
        return;
    }
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
    let world = World::of("lazy", "gcc", &["-D_GNU_SOURCE"], source);
    for way in WAYS {
        fs::write(world.data().join("file"), vec![7; 40 * 4096 - 10]).unwrap();
        let run = |arguments: &[&str]| world.granted("lazy", &way, arguments).output().unwrap();
        let found = run(&[]);
        let expected = "late 7 7\nX late\n-1\n";
        assert_eq!(
            text(&found.stdout),
            expected,
            "{way:?} {}",
            text(&found.stderr)
        );
        let found = run(&["touch"]);
        assert_eq!(text(&found.stdout), expected, "{way:?}");
        assert_eq!(found.status.code(), Some(128 + libc::SIGBUS), "{way:?}");
        let found = run(&["write", "first"]);
        assert_eq!(found.status.code(), Some(128 + libc::SIGSEGV), "{way:?}");
    }
}

/// A number of KiB in `/proc/PID/status` of the VMM that timeout(1) runs.
fn status(timeout: &Child, field: &str) -> u64 {
    let timeout = timeout.id();
    let children = fs::read_to_string(format!("/proc/{timeout}/task/{timeout}/children")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", children.trim())).unwrap();
    assert!(status.starts_with("Name:\tpoolvmm\n"), "{status}");
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

/// What a file's pages were looked at through is not charged, so nothing of that may stay.
#[test]
fn pages_of_a_file_far_apart_leave_nothing_behind() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(int count, char **words) {
            int fd = open("/data/file", O_RDWR | O_CREAT, 0600);
            long pages = 2000, sum = 0;
            for (long page = 0; page < pages; page++) pwrite(fd, "x", 1, page << 21);
            unsigned char *at = mmap(0, pages << 21, PROT_READ, atoi(words[1]) | MAP_NORESERVE, fd, 0);
            if (at == MAP_FAILED) { perror("mmap"); return 1; }
            for (long page = 0; page < pages; page++) sum += at[page << 21];
            printf("%ld\n", sum);
            fflush(stdout);
            return getchar() == EOF ? 0 : 1;
        }"#;
    let world = World::of("apart", "musl-gcc", &[], source);
    for (kind, name) in [(libc::MAP_SHARED, "shared"), (libc::MAP_PRIVATE, "private")] {
        let kind = kind.to_string();
        let options = [&KVM[..], &["--memory", "16M"]].concat();
        let mut guest = bounded(&world.granted("apart", &options, &[&kind]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(guest.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "240000", "{name}");
        let tables = status(&guest, "VmPTE:");
        let resident = status(&guest, "VmRSS:");
        drop(guest.stdin.take());
        assert!(guest.wait().unwrap().success(), "{name}");
        // Before Linux 6.14 page tables stay though nothing is in them.
        let given_back = name == "shared" || kernel() >= (6, 14);
        assert!(
            tables < 2048 || !given_back,
            "{name}: {tables} KiB of tables"
        );
        assert!(resident < 32 << 10, "{name}: {resident} KiB");
    }
}

/// The VMM has addresses left for itself.
#[test]
fn a_guest_does_not_take_all_of_the_monitors_addresses() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #include <errno.h>
        #include <fcntl.h>
        #include <poll.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/mman.h>
        int main(int count, char **words) {
            static struct pollfd polls[16384];
            int fd = open("/data/file", O_RDWR), error = 0;
            for (long size = 1l << 46; size >= 4096; size >>= 1)
                while (mmap(0, size, PROT_READ, atoi(words[1]) | MAP_NORESERVE, fd, 0) != MAP_FAILED) ;
            error = errno;
            for (int n = 0; n < 16384; n++) polls[n] = (struct pollfd){1, POLLOUT};
            printf("%s, %d ready\n", strerror(error), poll(polls, 16384, -1));
            return 0;
        }"#;
    let world = World::of("addresses", "musl-gcc", &[], source);
    fs::write(world.data().join("file"), "content").unwrap();
    for kind in [libc::MAP_SHARED, libc::MAP_PRIVATE] {
        let kind = kind.to_string();
        let found = world.granted("addresses", &KVM, &[&kind]).output().unwrap();
        let said = text(&found.stdout);
        assert_eq!(
            said,
            "Out of memory, 16384 ready\n",
            "{}",
            text(&found.stderr)
        );
    }
}

/// Whoever maps the file next is told: it may be another guest.
#[test]
fn a_robust_lock_in_a_file_outlives_its_owner() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #include <errno.h>
        #include <fcntl.h>
        #include <pthread.h>
        #include <signal.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/mman.h>
        #include <unistd.h>
        static pthread_mutex_t *mutexes;
        static void *holds(void *number) {
            pthread_mutex_lock(&mutexes[(long)number]);
            pause();
            return 0;
        }
        int main(int count, char **words) {
            int fd = open("/data/file", O_RDWR), signal = atoi(words[1]);
            mutexes = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (signal < 0) {
                for (int n = 0; n < 3; n++) printf("%d ", pthread_mutex_trylock(&mutexes[n]) == EOWNERDEAD);
                puts("");
                return 0;
            }
            pthread_mutexattr_t kind;
            pthread_mutexattr_init(&kind);
            pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
            pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
            for (int n = 0; n < 3; n++) {
                if (n == 2) pthread_mutexattr_setprotocol(&kind, PTHREAD_PRIO_INHERIT);
                pthread_mutex_init(&mutexes[n], &kind);
            }
            pthread_t other;
            pthread_create(&other, 0, holds, (void *)1);
            pthread_mutex_lock(&mutexes[0]);
            pthread_mutex_lock(&mutexes[2]);
            while (!*(volatile int *)&mutexes[1]) usleep(1000);
            if (signal) raise(signal);
            return 0;
        }"#;
    let world = World::of("robust", "gcc", &["-pthread"], source);
    for way in [WAYS[0], WAYS[2]] {
        for signal in [0, libc::SIGKILL, libc::SIGTERM] {
            fs::write(world.data().join("file"), vec![0; 4096]).unwrap();
            let run = |argument: &str| {
                let found = world.granted("robust", &way, &[argument]).output();
                found.unwrap()
            };
            let ended = run(&signal.to_string()).status.code();
            let expected = if signal == 0 { 0 } else { 128 + signal };
            assert_eq!(ended, Some(expected), "{way:?}");
            let found = run("-1");
            assert_eq!(text(&found.stdout), "1 1 1 \n", "{way:?} {signal}");
        }
    }
}

/// Linux wants the file to be writable, not the mapping (from 6.7 on).
#[test]
fn holes_are_made_through_a_mapping_that_is_only_read() {
    if !needs(&["kvm"]) {
        return;
    }
    let source = r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/mman.h>
        int main(void) {
            for (int mode = O_RDONLY; mode <= O_RDWR; mode += O_RDWR) {
                int fd = open("/data/file", mode);
                char *at = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
                int made = madvise(at, 4096, MADV_REMOVE);
                printf("%s, %d\n", made ? strerror(errno) : "made", at[0]);
            }
            return 0;
        }"#;
    let world = World::of("holes", "musl-gcc", &[], source);
    fs::write(world.data().join("file"), [7; 4096]).unwrap();
    let found = world.granted("holes", &KVM, &[]).output().unwrap();
    assert_eq!(text(&found.stdout), "Permission denied, 7\nmade, 0\n");
}
