//! What the monitor may ask the kernel for, from which its programs are made.

use std::fmt::Write as _;

use libc::sock_filter;

use super::super::bpf::tests::answer;
use super::super::bpf::{Policy, Rule, Test, Verdict};
use super::super::filter::{families, socket_options};
use super::{LIMITS, PROCESS, Reach, no_new_code, program, programs};
use crate::job::ASKS;
use crate::linux::descriptor_requests;
use crate::linux::table::{self, Process, Topic};
use crate::network::INTERNET;

/// Calls of the monitor's run loop: what the allocator, the standard library and the handlers in
/// [`crate::linux`] need beside what they pass on, and the end. What they pass on is in [`table::calls`].
const MONITOR: [i64; 29] = [
    libc::SYS_memfd_create,
    libc::SYS_ppoll,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_sigaltstack,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_getrandom,
];
/// Requests to KVM. System registers are set by the first, which takes them along.
const MONITOR_IOCTLS: [u32; 6] = [
    0xae80,      // KVM_RUN
    0x8138_ae83, // KVM_GET_SREGS
    0x8040_ae9f, // KVM_GET_VCPU_EVENTS
    0x9000_aea4, // KVM_GET_XSAVE
    0x5000_aea5, // KVM_SET_XSAVE
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
];

/// Of the calls about files and sockets that the monitor serves by itself, those that it makes: its handlers do, or others of this program. For what is not
/// among them it makes another, as `preadv2` for all that reads.
const MADE: [&str; 31] = [
    "read",
    "write",
    "close",
    "pread64",
    "pwrite64",
    // What the C library says before it aborts.
    "writev",
    "dup2",
    "sendfile",
    "socket",
    "connect",
    "accept",
    "sendmsg",
    "recvmsg",
    "bind",
    "listen",
    "socketpair",
    "setsockopt",
    "getsockopt",
    "fcntl",
    "flock",
    "getdents",
    "fchdir",
    "getdents64",
    "epoll_wait",
    "openat",
    "splice",
    "accept4",
    "dup3",
    "preadv2",
    "pwritev2",
    "close_range",
];

/// Requests of `ioctl` that a guest makes and the monitor does not: it waits until a terminal has sent all, and then makes that which waits for nothing.
const WAITING: [u32; 2] = [libc::TCSETSW as u32, libc::TCSETSF as u32];

/// Calls that take a path and do without: of an open descriptor, or of the working directory.
const OF_DESCRIPTORS: [&str; 5] = ["newfstatat", "statx", "faccessat2", "getcwd", "umask"];

/// Calls that make a socket or give it an address: it takes the network.
const OF_NETWORK: [&str; 4] = ["socket", "bind", "listen", "connect"];

/// What process `own` may ask for that has `reach`.
pub(in crate::sandbox) fn policy(reach: Reach, own: u32) -> Policy {
    let (files_granted, network) = (reach != Reach::Nothing, reach == Reach::Network);
    let mut policy = Policy::new(Verdict::Kill);
    for call in MONITOR {
        policy.set(call as u32, Verdict::Allow);
    }
    for call in table::calls() {
        let passed_on = match call.topic {
            Topic::File => true,
            Topic::Path => files_granted || OF_DESCRIPTORS.contains(&call.name),
            Topic::Socket => network || !OF_NETWORK.contains(&call.name),
            _ => false,
        };
        if passed_on && (call.host_arguments().is_some() || MADE.contains(&call.name)) {
            let rule = match call.process {
                Process::SocketOption => socket_options(Verdict::Kill),
                Process::Network => INTERNET
                    .iter()
                    .fold(families(true, Verdict::Kill), |rule, &family| {
                        rule.unless(&[Test::Equals(0, family)], Verdict::Allow)
                    }),
                _ => Verdict::Allow.into(),
            };
            policy.set(call.number as u32, rule);
        }
    }
    let limits = [libc::RLIMIT_NOFILE, libc::RLIMIT_FSIZE, libc::RLIMIT_CPU];
    let limits = limits.iter().fold(
        Rule::from(Verdict::Kill).unless(&[Test::Null(2)], Verdict::Allow),
        |rule, &limit| {
            rule.unless(
                &[Test::Equals(0, 0), Test::Equals(1, limit)],
                Verdict::Allow,
            )
        },
    );
    policy.set(LIMITS as u32, limits);
    // Of this process alone: what a guest maps is read so.
    let reads = Rule::one_of(0, &[own], Verdict::Kill);
    policy.set(libc::SYS_process_vm_readv as u32, reads);
    // One processor's thread has another's come.
    let signals = Rule::one_of(0, &[own], Verdict::Kill);
    policy.set(libc::SYS_tgkill as u32, signals);
    // What becomes of a terminal's, while a guest uses that in its background.
    let asks = ASKS.map(i32::cast_unsigned);
    let actions = Rule::one_of(0, &asks, Verdict::Kill);
    policy.set(libc::SYS_rt_sigaction as u32, actions);
    let requests = descriptor_requests(network)
        .filter(|request| !WAITING.contains(request))
        .chain(MONITOR_IOCTLS);
    let requests = Rule::one_of(1, &requests.collect::<Vec<_>>(), Verdict::Kill);
    policy.set(libc::SYS_ioctl as u32, requests);
    no_new_code(&mut policy);
    policy
}

/// The programs, by their names in the file and in words.
const PROGRAMS: [(Reach, &str, &str); 3] = [
    (Reach::Nothing, "NOTHING", "Nothing but what is open."),
    (Reach::Files, "FILES", "Files."),
    (Reach::Network, "NETWORK", "Files and the network."),
];

/// The instructions of a policy, a word each.
fn words(policy: &Policy) -> Vec<u64> {
    words_of(&policy.program())
}

fn words_of(program: &[sock_filter]) -> Vec<u64> {
    let word = |instruction: &sock_filter| {
        u64::from(instruction.k) << 32
            | u64::from(instruction.jf) << 24
            | u64::from(instruction.jt) << 16
            | u64::from(instruction.code)
    };
    program.iter().map(word).collect()
}

/// `POOL_BLESS=1` writes them into the file.
#[test]
fn the_programs_are_those_of_the_policy() {
    let path = pool_tests::source_directory().join("vmm/src/sandbox/own/programs.rs");
    let found = std::fs::read_to_string(&path).unwrap();
    let head = found.find("\n///").map_or(&found[..], |at| &found[..at]);
    let mut file = head.to_owned();
    for (reach, name, what) in PROGRAMS {
        let words = words(&policy(reach, PROCESS));
        let length = words.len();
        write!(
            file,
            "\n/// {what}\n#[rustfmt::skip]\npub(super) static {name}: [u64; {length}] = [\n"
        )
        .unwrap();
        for line in words.chunks(4) {
            let words = line.iter().map(|word| {
                let part = |at: u32| word >> at & 0xffff;
                format!(
                    " 0x{:04x}_{:04x}_{:04x}_{:04x},",
                    part(48),
                    part(32),
                    part(16),
                    part(0)
                )
            });
            writeln!(file, "   {}", words.collect::<String>()).unwrap();
        }
        file.push_str("];\n");
    }
    if found != file && std::env::var_os("POOL_BLESS").is_some() {
        std::fs::write(path, file).unwrap();
    } else {
        assert!(found == file, "run this test with POOL_BLESS=1");
    }
}

/// What the kernel does for guests and not for their monitor.
#[test]
fn nothing_is_allowed_that_nobody_asks_for() {
    for (reach, name, _) in PROGRAMS {
        let program = policy(reach, 1).program();
        let ask = |call: &str, arguments| {
            let call = table::calls().find(|known| known.name == call).unwrap();
            answer(&program, call.number as u32, arguments)
        };
        for call in [
            "open",
            "poll",
            "readv",
            "select",
            "sendto",
            "recvfrom",
            "creat",
            "geteuid",
            "getegid",
            "clock_nanosleep",
            "pselect6",
            "epoll_pwait",
            "preadv",
            "pwritev",
            "recvmmsg",
            "sendmmsg",
            "epoll_pwait2",
        ] {
            assert_eq!(ask(call, [0; 6]), Verdict::Kill, "{name} {call}");
        }
        let request = |request: u64| ask("ioctl", [0, request, 0, 0, 0, 0]);
        let set_registers = 0x4138_ae84;
        for killed in [set_registers, libc::TCSETSW, libc::TCSETSF] {
            assert_eq!(request(killed), Verdict::Kill, "{name} {killed:#x}");
        }
        assert_eq!(request(libc::TCSETS), Verdict::Allow, "{name}");
    }
}

/// Each is a call that there is, and none of those that the kernel is passed by itself.
#[test]
fn what_the_monitor_makes_is_what_it_serves() {
    for name in MADE {
        let call = table::calls().find(|call| call.name == name).unwrap();
        assert_eq!(call.host_arguments(), None, "{name}");
    }
}

/// What a process has its filter made of: its own number is where one stands for it, and nowhere else.
#[test]
fn a_program_is_about_the_process_that_has_it() {
    for (reach, name, _) in PROGRAMS {
        for own in [1, 4711, 1 << 22] {
            let meant = words(&policy(reach, own));
            let program = program(reach, own);
            let found = words_of(&program);
            assert!(found == meant, "{name} {own}");
        }
    }
    let stands = |word: &&u64| **word >> 32 == u64::from(PROCESS);
    assert_eq!(programs::NOTHING.iter().filter(stands).count(), 2);
}
