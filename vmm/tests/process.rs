//! What a guest of the process platform can reach, measured by guests that try.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pool_tests::requirements::needs;
use serde_json::Value;
use support::Placement;
use world::{World, text};

const PROCESS: [&str; 2] = ["--platform", "process"];
const KVM: [&str; 2] = ["--platform", "kvm"];
const COMPILERS: [&str; 2] = ["gcc", "musl-gcc"];

/// In the environment, the arguments and the paths of the VMM, and nowhere in a guest.
const MARKER: &str = "q7Zk-operators-secret-0fW2";

/// Looks for every mapping in the address space: where one cannot be made, something is. Then looks for
/// the first argument, which is written backwards, in all that can be read.
const SCAN: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
static const char *backwards;
static long length, hits;
static int readable(unsigned long at) {
    return syscall(SYS_rt_sigprocmask, 99, at, 0, 8) < 0 && errno != EFAULT;
}
static void look(unsigned long from, unsigned long to) {
    int can = readable(from);
    printf("%lx-%lx %s\n", from, to, can ? "r" : "-");
    if (!can) return;
    for (const char *p = (char *)from; p + length <= (char *)to; p++) {
        long i = 0;
        while (i < length && p[i] == backwards[length - 1 - i]) i++;
        hits += i == length;
    }
}
static unsigned long start, end;
static void found(unsigned long from, unsigned long to) {
    if (from != end || readable(from) != readable(start)) {
        if (end) look(start, end);
        start = from;
    }
    end = to;
}
static void search(unsigned long from, unsigned long to) {
    void *p = mmap((void *)from, to - from, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == (void *)from) { munmap(p, to - from); return; }
    if (p != MAP_FAILED) { puts("elsewhere"); _exit(9); }
    if (errno == ENOMEM) return;
    if (errno != EEXIST) { printf("errno %d\n", errno); _exit(9); }
    if (to - from == 4096) { found(from, to); return; }
    unsigned long middle = (from + (to - from) / 2) & ~4095ul;
    search(from, middle);
    search(middle, to);
}
int main(int c, char **v) {
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    backwards = v[1];
    length = strlen(backwards);
    for (volatile long spin = 0; spin < 200000000; spin++) ;
    search(0x10000, 0x7ffffffff000);
    look(start, end);
    printf("hits %ld\n", hits);
    return 0;
}"#;

/// Exits with a bit for each thing that a new program does not find in its registers.
const REGISTERS: &str = r#"
__asm__(".globl _start\n_start:\n"
        "sub $336, %rsp\n"
        "movups %xmm0, (%rsp)\n" "movups %xmm1, 16(%rsp)\n" "movups %xmm2, 32(%rsp)\n" "movups %xmm3, 48(%rsp)\n"
        "movups %xmm4, 64(%rsp)\n" "movups %xmm5, 80(%rsp)\n" "movups %xmm6, 96(%rsp)\n" "movups %xmm7, 112(%rsp)\n"
        "movups %xmm8, 128(%rsp)\n" "movups %xmm9, 144(%rsp)\n" "movups %xmm14, 160(%rsp)\n" "movups %xmm15, 176(%rsp)\n"
        "mov %rax, 192(%rsp)\n" "mov %rbx, 200(%rsp)\n" "mov %rcx, 208(%rsp)\n" "mov %rdx, 216(%rsp)\n"
        "mov %rsi, 224(%rsp)\n" "mov %rdi, 232(%rsp)\n" "mov %rbp, 240(%rsp)\n" "mov %r8, 248(%rsp)\n"
        "mov %r9, 256(%rsp)\n" "mov %r10, 264(%rsp)\n" "mov %r11, 272(%rsp)\n" "mov %r12, 280(%rsp)\n"
        "mov %r13, 288(%rsp)\n" "mov %r14, 296(%rsp)\n" "mov %r15, 304(%rsp)\n"
        "mov %rsp, %rdi\n" "call check\n");
static long call(long n, long a, long b) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return r;
}
void check(const unsigned long *saved) {
    long wrong = 0;
    for (int i = 0; i < 24; i++) if (saved[i]) wrong |= 1;
    for (int i = 24; i < 39; i++) if (saved[i]) wrong |= 2;
    unsigned sse; unsigned short x87;
    __asm__ volatile("stmxcsr %0" : "=m"(sse));
    __asm__ volatile("fnstcw %0" : "=m"(x87));
    if (sse != 0x1f80) wrong |= 4;
    if (x87 != 0x37f) wrong |= 8;
    unsigned long base = 1;
    if (call(158, 0x1003, (long)&base) || base) wrong |= 16;
    base = 1;
    if (call(158, 0x1004, (long)&base) || base) wrong |= 32;
    call(231, wrong, 0);
}"#;

const FACTS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>
extern char end[];
static const char *said(long result) { return result < 0 ? strerror(errno) : "ok"; }
int main(void) {
    struct utsname u;
    uname(&u);
    printf("%s %s %s %s %s\n", u.sysname, u.nodename, u.release, u.version, u.machine);
    static char room[4096];
    struct sysinfo *s = (void *)room;
    int r = sysinfo(s);
    printf("sysinfo %d: %lu MiB, %s, %d processes\n", r, s->totalram >> 20,
           s->freeram > 0 && s->freeram < s->totalram ? "some free" : "odd", s->procs);
    printf("uname into nowhere: %s\n", said(uname((void *)8)));
    char path[4096];
    printf("cwd %s\n", getcwd(path, sizeof path) ? path : strerror(errno));
    struct stat st;
    printf("/etc/passwd: %s", said(stat("/etc/passwd", &st)));
    printf(", %s", said(fstatat(AT_FDCWD, "/etc/passwd", &st, AT_EMPTY_PATH)));
    printf(", %s\n", said(open("/etc/passwd", O_RDONLY)));
    printf("stdin: %s", said(fstatat(0, "", &st, AT_EMPTY_PATH)));
    printf(" %d\n", S_ISCHR(st.st_mode));
    printf("mode of stdout: %s\n", said(fchmod(1, 04755)));
    const char *path_at = "";
    long result;
    register long flags __asm__("r10") = AT_EMPTY_PATH;
    __asm__ volatile("syscall" : "=a"(result), "+S"(path_at), "+r"(flags)
                     : "a"(SYS_newfstatat), "D"(0l), "d"(&st) : "rcx", "r11", "memory");
    printf("argument registers survive: %d\n", result == 0 && *path_at == 0 && flags == AT_EMPTY_PATH);
    int open = 0;
    for (int fd = 3; fd < 1100; fd++) open += fcntl(fd, F_GETFD) >= 0;
    printf("other descriptors: %d\n", open);
    long brk = syscall(SYS_brk, 0), grown = syscall(SYS_brk, brk + (1 << 20));
    memset((char *)brk, 1, 1 << 20);
    printf("heap at %#lx, grows by %#lx, ", brk - (((long)end + 4095) & -4096), grown - brk);
    printf("shrinks to %#lx\n", syscall(SYS_brk, brk) - brk);
    return 0;
}"#;

const SIGNALS: &str = r#"
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static volatile int count;
static sigjmp_buf back;
static char stack[1 << 16];
static void plain(int s) { count += s; }
static void info(int s, siginfo_t *i, void *c) {
    printf("signal %d code %d from %s\n", s, i->si_code, i->si_pid == getpid() ? "itself" : "another");
}
static void on_stack(int s) {
    char here;
    printf("on its own stack: %d\n", &here >= stack && &here < stack + sizeof stack);
}
static void fault(int s, siginfo_t *i, void *c) {
    printf("fault %d at %p\n", s, s == SIGFPE ? 0 : i->si_addr);
    siglongjmp(back, 1);
}
static void mend(int s, siginfo_t *i, void *c) {
    mprotect((void *)((long)i->si_addr & -4096), 4096, PROT_READ | PROT_WRITE);
}
static void handle(int signal, void *handler, int flags) {
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_sigaction = handler;
    a.sa_flags = flags;
    sigaction(signal, &a, 0);
}
int main(int c, char **v) {
    handle(SIGUSR1, plain, 0);
    kill(getpid(), SIGUSR1);
    raise(SIGUSR1);
    printf("handled %d\n", count);
    handle(SIGUSR2, info, SA_SIGINFO);
    kill(getpid(), SIGUSR2);
    raise(SIGUSR2);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    kill(getpid(), SIGUSR1);
    printf("blocked %d\n", count);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    printf("unblocked %d\n", count);
    stack_t own = { .ss_sp = stack, .ss_size = sizeof stack };
    sigaltstack(&own, 0);
    handle(SIGTERM, on_stack, SA_ONSTACK);
    raise(SIGTERM);
    handle(SIGSEGV, fault, SA_SIGINFO);
    handle(SIGFPE, fault, SA_SIGINFO);
    for (int i = 0; i < 3; i++)
        if (!sigsetjmp(back, 1)) *(volatile int *)(0x100l + i) = 1;
    if (!sigsetjmp(back, 1)) { volatile int zero = 0; printf("%d\n", 1 / zero); }
    if (!sigsetjmp(back, 1)) *(volatile char *)(void *)main = 1; else puts("text is read-only");
    handle(SIGSEGV, mend, SA_SIGINFO);
    char *page = mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page[7] = 7;
    printf("mended %d\n", page[7]);
    fflush(stdout);
    if (c > 1) { signal(atoi(v[1]), SIG_DFL); raise(atoi(v[1])); }
    return 3;
}"#;

/// Lists the signals that it ignores.
const IGNORED: &str = r#"
#include <signal.h>
#include <stdio.h>
int main(void) {
    for (int s = 1; s < 32; s++) {
        struct sigaction a;
        if (!sigaction(s, 0, &a) && a.sa_handler == SIG_IGN) printf("%d\n", s);
    }
    return 0;
}"#;

const SLEEP: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int main(void) {
    struct timespec second = { 1, 0 }, a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    int r = syscall(SYS_nanosleep, &second, 0);
    int e = r ? errno : 0;
    clock_gettime(CLOCK_MONOTONIC, &b);
    long slept = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
    printf("%s, %s\n", r ? strerror(e) : "slept", slept >= 1000 ? "long enough" : "too short");
    return 0;
}"#;

/// Takes memory in one of many ways until it is refused; says how much of it was written, in MiB.
const TAKE: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define STEP (4l << 20)
#define MOST (1l << 30)
static char *map(int protection, int flags) {
    char *p = mmap(0, STEP, protection, flags | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? 0 : p;
}
static char *take(const char *how, long done) {
    static char *last;
    char *p;
    if (!strcmp(how, "private")) return map(3, MAP_PRIVATE);
    if (!strcmp(how, "shared")) return map(3, MAP_SHARED);
    if (!strcmp(how, "growing")) return map(3, MAP_PRIVATE | MAP_GROWSDOWN);
    if (!strcmp(how, "shared-none")) return (p = map(0, MAP_SHARED)) && !mprotect(p, STEP, 3) ? p : 0;
    if (!strcmp(how, "promised")) return (p = map(0, MAP_PRIVATE | MAP_NORESERVE)) && !mprotect(p, STEP, 3) ? p : 0;
    if (!strcmp(how, "heap")) return (p = sbrk(STEP)) == (void *)-1 ? 0 : p;
    if (!strcmp(how, "moved")) {
        p = done ? mremap(last, done, done + STEP, MREMAP_MAYMOVE) : map(3, MAP_PRIVATE);
        if (p == MAP_FAILED || !p) return 0;
        last = p;
        return p + done;
    }
    if (!strncmp(how, "given-up", 8)) {
        if (last && mprotect(last, STEP, how[8] ? PROT_NONE : PROT_READ)) return 0;
        return last = map(3, MAP_PRIVATE);
    }
    return 0;
}
int main(int c, char **v) {
    long done = 0;
    char *p;
    while (done < MOST && (p = take(v[1], done))) {
        memset(p, 1, STEP);
        done += STEP;
    }
    printf("%ld\n", done >> 20);
    return 0;
}"#;

const SPARSE: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
int main(void) {
    const long step = 4l << 20, n = 300;
    char *p = mmap(0, step * n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { puts("the reservation was refused"); return 1; }
    for (long tib = 1; tib <= 32; tib *= 2)
        if (mmap(0, tib << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
            { printf("%ld TiB were refused\n", tib); return 1; }
    for (long i = 0; i < n; i++) {
        if (mprotect(p + i * step, 4096, PROT_READ | PROT_WRITE)) { printf("refused after %ld pages\n", i); return 1; }
        p[i * step] = 1;
    }
    long most = 0;
    const long gib = 1l << 30;
    char *last = 0, *read;
    while (most < 64 && (read = mmap(0, gib, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) != MAP_FAILED) {
        last = read;
        most++;
    }
    printf("%ld GiB to read\n", most);
    char *none = mmap(0, 64 * gib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int more = !mprotect(none, 64 * gib, PROT_READ);
    char *one = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    more |= mremap(one, 4096, 64 * gib, MREMAP_MAYMOVE) != MAP_FAILED;
    printf("more by other calls: %d\n", more);
    munmap(last, gib);
    // What was let go can be had again, as often as one likes.
    for (long i = 0; i < 100; i++) {
        char *p = mmap(0, gib / 2, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) { printf("refused in round %ld\n", i); return 1; }
        munmap(p, gib / 2);
    }
    return 0;
}"#;

/// Makes the kernel need page tables until it is refused, and stays.
const TABLES: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define FAR(i) ((void *)(((i) + 2) << 30))
static volatile char sum;
static char *map(void *at, long length, int protection, int fixed) {
    return mmap(at, length, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
}
int main(int c, char **v) {
    char *p = MAP_FAILED, *area = map(0, 1l << 30, PROT_READ, 0);
    for (long i = 0; i < 66000; i++) {
        if (!strcmp(v[1], "read")) p = map(FAR(i), 4096, PROT_READ, MAP_FIXED_NOREPLACE);
        if (!strcmp(v[1], "hint")) p = map(FAR(i), 4096, PROT_READ, 0);
        if (!strcmp(v[1], "write")) p = map(FAR(i), 4096, PROT_READ | PROT_WRITE, MAP_FIXED);
        if (!strcmp(v[1], "move")) p = mremap(area + i * 4096, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, FAR(i));
        if (!strcmp(v[1], "spread") || !strcmp(v[1], "grow")) {
            // One page to write, or to read and moved as it grows, at the lower end of what was reserved.
            long far = 7l << 30;
            char *low = map(0, far, PROT_NONE, 0);
            p = low;
            if (p != MAP_FAILED && v[1][0] == 's' && mprotect(p, 4096, PROT_READ | PROT_WRITE)) p = MAP_FAILED;
            if (p != MAP_FAILED && v[1][0] == 's') *p = 1;
            if (p != MAP_FAILED && v[1][0] == 'g') {
                munmap(low, 8192);
                p = mremap(area + i * 8192, 4096, 8192, MREMAP_MAYMOVE);
                if (p != MAP_FAILED) sum += *p;
            }
            if (v[1][0] == 's') munmap(low + 4096, far - 4096);
        }
        if (!strcmp(v[1], "leave")) {
            p = map(0, 2 << 20, PROT_READ, 0);
            if (p != MAP_FAILED) { sum += *p; munmap(p + 4096, (2 << 20) - 4096); }
        }
        if (p == MAP_FAILED) break;
        sum += *p;
    }
    pause();
    return 0;
}"#;

const FILES: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int c, char **v) {
    for (int i = 1; i < c; i++) {
        int fd = v[i][0] == '+' ? open(v[i] + 1, O_CREAT | O_WRONLY, 06755) : open(v[i], O_RDONLY);
        printf("%s: %s\n", v[i], fd < 0 ? strerror(errno) : "open");
        if (fd >= 0 && v[i][0] == '+') fchmod(fd, 06755);
    }
    return 0;
}"#;

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

/// Asks until there is an answer.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A VMM with a guest process, ended with the value.
struct Running(Child);

impl Running {
    /// The guest's process, once it is the guest: in a call of this number.
    fn guest_in_call(&mut self, number: u32) -> u32 {
        let vmm = self.0.id();
        wait_for("the guest's process", || {
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
        let absent = format!("/etc/passwd: {none}, {none}, {none}\n");
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
    wait_for("the guest stops", || {
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
        // A mode that would make it run as its owner is refused, or taken without that.
        let made = if platform == KVM {
            "open"
        } else {
            "Operation not permitted"
        };
        let expected = format!(
            "/data/file: open\n\
             /data/null: Permission denied\n\
             /data/zero: Permission denied\n\
             /data/below/self/mem: No such file or directory\n\
             /data/below/version: No such file or directory\n\
             +/data/new: {made}\n"
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
