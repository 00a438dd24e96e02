//! seccomp policies: for the monitor, and for a guest that is a process.

use std::io;

use thiserror::Error;

use super::bpf::{Policy, Rule, Test, Verdict};
use super::seccomp;
use crate::linux::descriptor_requests;
use crate::linux::table::{CALLS, Process, Topic};

/// Why a filter cannot be installed.
#[derive(Debug, Error)]
#[error("confining system calls with seccomp: {0}; it needs CONFIG_SECCOMP_FILTER")]
pub struct FilterError(#[from] io::Error);

/// Calls of the monitor's run loop: what the allocator, the standard library and the handlers in
/// [`crate::linux`] need beside what they pass on, and the end. What they pass on is in [`CALLS`].
const MONITOR: [i64; 28] = [
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_sigaltstack,
    libc::SYS_futex,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_getrandom,
];
/// Only to read its limits.
const LIMITS: i64 = libc::SYS_prlimit64;

/// Requests to KVM.
const MONITOR_IOCTLS: [u32; 7] = [
    0xae80,      // KVM_RUN
    0x8138_ae83, // KVM_GET_SREGS
    0x4138_ae84, // KVM_SET_SREGS
    0x8040_ae9f, // KVM_GET_VCPU_EVENTS
    0x9000_aea4, // KVM_GET_XSAVE
    0x5000_aea5, // KVM_SET_XSAVE
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
];

/// Calls that take a path and do without: of an open descriptor, or of the working directory.
const OF_DESCRIPTORS: [&str; 4] = ["newfstatat", "statx", "getcwd", "umask"];

/// Set-user-ID and set-group-ID.
const SET_ID: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];
/// `ARCH_SET_GS`, `ARCH_SET_FS`, `ARCH_GET_FS`, `ARCH_GET_GS`: the others of `arch_prctl` map memory and
/// change the processor's behaviour.
const THREAD_POINTER: [u32; 4] = [0x1001, 0x1002, 0x1003, 0x1004];
/// `F_DUPFD` to `F_SETLKW`, locks of open files, `F_DUPFD_CLOEXEC`, sizes of pipes, and seals.
const DESCRIPTOR: [u32; 16] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    libc::F_OFD_GETLK as u32,
    libc::F_OFD_SETLK as u32,
    libc::F_OFD_SETLKW as u32,
    libc::F_DUPFD_CLOEXEC as u32,
    libc::F_SETPIPE_SZ as u32,
    libc::F_GETPIPE_SZ as u32,
    libc::F_ADD_SEALS as u32,
    libc::F_GET_SEALS as u32,
];
/// Of a `futex` operation: the command, without flags.
const FUTEX_COMMAND: u32 = 0x7f;
/// `WAIT`, `WAKE`, `WAIT_BITSET`, `WAKE_BITSET`.
const FUTEX: [u32; 4] = [0, 1, 9, 10];
/// Flags of `mmap` that take memory past `RLIMIT_DATA`: shared anonymous memory, areas that grow, huge
/// pages of the host's reserve.
const UNCOUNTED: [u32; 3] = [
    (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32,
    libc::MAP_GROWSDOWN as u32,
    libc::MAP_HUGETLB as u32,
];
/// Families of sockets: local, IPv4, IPv6.
const FAMILIES: [u32; 3] = [
    libc::AF_UNIX as u32,
    libc::AF_INET as u32,
    libc::AF_INET6 as u32,
];
const KEEP_OLD: u32 = libc::MREMAP_DONTUNMAP as u32;
/// What [`crate::linux`] takes too: normal to `WILLNEED`, `DONTNEED`, `FREE`, huge pages, core dumps,
/// `COLD` and `PAGEOUT`. Merging pages would tell guests of each other's.
const ADVICE: [u32; 12] = [0, 1, 2, 3, 4, 8, 14, 15, 16, 17, 20, 21];

/// Confines this process to a monitor's calls; any other ends it.
pub(super) fn monitor(files_granted: bool, network: bool) -> Result<(), FilterError> {
    Ok(seccomp::install(
        &monitor_policy(files_granted, network).program(),
    )?)
}

/// Confines this process, number `own`, to the calls of [`CALLS`] and what they say of it; any other
/// fails with `ENOSYS`, as under KVM.
pub(super) fn guest(files_granted: bool, network: bool, own: u32) -> Result<(), FilterError> {
    Ok(seccomp::install(
        &guest_policy(files_granted, network, own).program(),
    )?)
}

fn monitor_policy(files_granted: bool, network: bool) -> Policy {
    let mut policy = Policy::new(Verdict::Kill);
    for call in MONITOR {
        policy.set(call as u32, Verdict::Allow);
    }
    for call in CALLS {
        let passed_on = match call.topic {
            Topic::File => true,
            Topic::Path => files_granted || OF_DESCRIPTORS.contains(&call.name),
            Topic::Socket => call.name != "socket" || network,
            _ => false,
        };
        if passed_on {
            policy.set(call.number as u32, Verdict::Allow);
        }
    }
    policy.set(
        LIMITS as u32,
        Rule::from(Verdict::Kill).unless(&[Test::Null(2)], Verdict::Allow),
    );
    let requests = descriptor_requests().chain(MONITOR_IOCTLS);
    let requests = Rule::one_of(1, &requests.collect::<Vec<_>>(), Verdict::Kill);
    policy.set(libc::SYS_ioctl as u32, requests);
    // The monitor has no reason ever to make memory executable.
    let executable = Test::Masked(2, libc::PROT_EXEC as u32, libc::PROT_EXEC as u32);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let rule = Rule::from(Verdict::Allow).unless(&[executable], Verdict::Kill);
        policy.set(call as u32, rule);
    }
    policy
}

fn guest_policy(files_granted: bool, network: bool, own: u32) -> Policy {
    let mut policy = Policy::new(Verdict::Errno(libc::ENOSYS));
    for call in CALLS {
        let rule = guest_rule(call.process, files_granted, network, own);
        policy.set(call.number as u32, rule);
    }
    policy
}

fn guest_rule(process: Process, files_granted: bool, network: bool, own: u32) -> Rule {
    let not_served = Verdict::Errno(libc::ENOSYS);
    let not_known = Verdict::Errno(libc::EINVAL);
    let files = |without| {
        if files_granted {
            Verdict::Allow
        } else {
            without
        }
    };
    let no_file = Verdict::Errno(libc::ENOENT);
    // A descriptor may be the guest's standard input or output, and that file is the operator's.
    let asked_of_files = if files_granted {
        Verdict::Trace
    } else {
        Verdict::Errno(libc::EPERM)
    };
    match process {
        Process::Allowed => Verdict::Allow.into(),
        Process::Monitor | Process::Protection => Verdict::Trace.into(),
        Process::Files => files(no_file).into(),
        Process::FilesOrEmpty => files(Verdict::Trace).into(),
        Process::FilesOrUnserved => files(not_served).into(),
        Process::Create { flags, mode } => created(files(no_file), flags, mode),
        Process::Mode => without_set_id(asked_of_files, 1),
        Process::Owner => asked_of_files.into(),
        Process::PathMode(mode) => without_set_id(files(no_file), mode),
        Process::Network if !network => Verdict::Errno(libc::EAFNOSUPPORT).into(),
        Process::Network | Process::SocketPair => {
            Rule::one_of(0, &FAMILIES, Verdict::Errno(libc::EAFNOSUPPORT))
        }
        Process::Terminal => {
            let requests: Vec<u32> = descriptor_requests().collect();
            Rule::one_of(1, &requests, Verdict::Errno(libc::ENOTTY))
        }
        Process::OwnProcess => Rule::one_of(0, &[own], Verdict::Errno(libc::ESRCH)),
        Process::OwnLimits => [0, own]
            .iter()
            .fold(not_served.into(), |rule: Rule, &target| {
                let tests = [Test::Equals(0, target), Test::Null(2)];
                rule.unless(&tests, Verdict::Allow)
            }),
        Process::OwnAffinity => Rule::one_of(0, &[0, own], Verdict::Errno(libc::ESRCH)),
        Process::ThreadName => Rule::one_of(0, &[libc::PR_SET_NAME as u32], not_known),
        Process::ThreadPointer => Rule::one_of(0, &THREAD_POINTER, not_known),
        Process::Descriptor => {
            let signals = [
                Test::Equals(1, libc::F_SETFL as u32),
                Test::Masked(2, libc::O_ASYNC as u32, libc::O_ASYNC as u32),
            ];
            DESCRIPTOR.iter().fold(
                Rule::from(not_known).unless(&signals, not_known),
                |rule, &command| rule.unless(&[Test::Equals(1, command)], Verdict::Allow),
            )
        }
        Process::Wait => FUTEX
            .iter()
            .fold(not_served.into(), |rule: Rule, &command| {
                rule.unless(&[Test::Masked(1, FUTEX_COMMAND, command)], Verdict::Allow)
            }),
        Process::Mapping => mapping(),
        Process::Move => {
            Rule::from(Verdict::Trace).unless(&[Test::Masked(3, KEEP_OLD, KEEP_OLD)], not_known)
        }
        Process::Advice => Rule::one_of(2, &ADVICE, not_known),
        Process::Unserved => not_served.into(),
    }
}

/// `mmap`: addresses to be kept free, where the kernel likes, cost nothing. All else is counted: even
/// memory that counts by itself needs page tables, and the guest shapes the gaps that the kernel puts it in.
fn mapping() -> Rule {
    UNCOUNTED
        .iter()
        .fold(Verdict::Trace.into(), |rule: Rule, &flags| {
            rule.unless(&[Test::Masked(3, flags, flags)], Verdict::Trace)
        })
        .unless(
            &[Test::Null(0), Test::Equals(2, libc::PROT_NONE as u32)],
            Verdict::Allow,
        )
}

/// `verdict`, unless the mode at `mode` would let a file run as its owner or its group: what a guest
/// leaves in a granted directory lies in the host's file system.
fn without_set_id(verdict: Verdict, mode: u32) -> Rule {
    SET_ID.iter().fold(verdict.into(), |rule: Rule, &bit| {
        rule.unless(&[Test::Masked(mode, bit, bit)], Verdict::Errno(libc::EPERM))
    })
}

/// The same for a file that a call may make: the mode counts only where flags say so.
fn created(verdict: Verdict, flags: u32, mode: u32) -> Rule {
    /// `O_CREAT`, and the bit that `O_TMPFILE` adds to `O_DIRECTORY`.
    const CREATES: [u32; 2] = [libc::O_CREAT as u32, 0o20_000_000];
    let refused = Verdict::Errno(libc::EPERM);
    let both = CREATES.iter().flat_map(|&c| SET_ID.map(|bit| (c, bit)));
    let rule = |rule: Rule, (creates, bit)| {
        let tests = [
            Test::Masked(flags, creates, creates),
            Test::Masked(mode, bit, bit),
        ];
        rule.unless(&tests, refused)
    };
    both.fold(verdict.into(), rule)
}

#[cfg(test)]
mod tests {
    use super::super::bpf::tests::answer;
    use super::*;

    const OWN: u32 = 4711;

    fn asked(files: bool, name: &str, arguments: [u64; 6]) -> Verdict {
        let call = CALLS.iter().find(|call| call.name == name).unwrap();
        let program = guest_policy(files, false, OWN).program();
        answer(&program, call.number as u32, arguments)
    }

    #[test]
    fn no_call_outside_the_table_passes() {
        for files in [true, false] {
            let program = guest_policy(files, false, OWN).program();
            for number in (0..1000).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                let known = CALLS.iter().any(|call| call.number == u64::from(number));
                let found = answer(&program, number, [0; 6]);
                assert!(
                    known || found == Verdict::Errno(libc::ENOSYS),
                    "{number}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn without_a_grant_no_call_takes_a_path_to_the_kernel() {
        for call in CALLS {
            use Process::{Create, Files, FilesOrEmpty, FilesOrUnserved, PathMode};
            let names_files = matches!(
                call.process,
                Files | FilesOrEmpty | FilesOrUnserved | PathMode(_) | Create { .. }
            );
            if names_files {
                // `AT_EMPTY_PATH` lets a path that is not empty through as well.
                for flags in [0, libc::AT_EMPTY_PATH as u64] {
                    let found = asked(false, call.name, [0, 1, flags, flags, flags, 0]);
                    assert_ne!(found, Verdict::Allow, "{call:?}");
                }
            }
        }
    }

    #[test]
    fn arguments_are_looked_at() {
        let allow = Verdict::Allow;
        let error = Verdict::Errno;
        let own = u64::from(OWN);
        for (name, arguments, expected) in [
            ("kill", [own, 9, 0, 0, 0, 0], allow),
            ("kill", [1, 9, 0, 0, 0, 0], error(libc::ESRCH)),
            ("kill", [0, 9, 0, 0, 0, 0], error(libc::ESRCH)),
            ("kill", [u64::MAX, 9, 0, 0, 0, 0], error(libc::ESRCH)),
            ("prlimit64", [0, 2, 0, 1, 0, 0], allow),
            ("prlimit64", [own, 2, 0, 1, 0, 0], allow),
            ("prlimit64", [1, 2, 0, 1, 0, 0], error(libc::ENOSYS)),
            ("prlimit64", [0, 2, 1 << 32, 0, 0, 0], error(libc::ENOSYS)),
            ("mmap", [0, 1, 3, 0x22, 0, 0], Verdict::Trace),
            ("mmap", [0, 1, 3, 1, 0, 0], Verdict::Trace),
            ("mmap", [0, 1, 0, 0x22, 0, 0], allow),
            ("mmap", [0, 1, 1, 0x22, 0, 0], Verdict::Trace),
            ("mmap", [0, 1, 5, 2, 0, 0], Verdict::Trace),
            ("mmap", [1 << 32, 1, 3, 0x22, 0, 0], Verdict::Trace),
            ("mremap", [0, 1, 2, 1, 0, 0], Verdict::Trace),
            ("mremap", [0, 1, 2, 3, 0, 0], Verdict::Trace),
            ("mremap", [0, 1, 2, 5, 0, 0], error(libc::EINVAL)),
            ("mmap", [0, 1, 3, 0x21, 0, 0], Verdict::Trace),
            ("mmap", [0, 1, 3, 0x23, 0, 0], Verdict::Trace),
            ("mmap", [0, 1, 3, 0x122, 0, 0], Verdict::Trace),
            ("mmap", [0, 1, 3, 0x4_0022, 0, 0], Verdict::Trace),
            ("mprotect", [0, 1, 3, 0, 0, 0], Verdict::Trace),
            ("mprotect", [0, 1, 5, 0, 0, 0], Verdict::Trace),
            ("mprotect", [0, 1, 0, 0, 0, 0], Verdict::Trace),
            ("madvise", [0, 1, 4, 0, 0, 0], allow),
            ("madvise", [0, 1, 12, 0, 0, 0], error(libc::EINVAL)),
            ("futex", [0, 0x189, 0, 0, 0, 0], allow),
            ("futex", [0, 0x86, 0, 0, 0, 0], error(libc::ENOSYS)),
            ("arch_prctl", [0x1002, 0, 0, 0, 0, 0], allow),
            ("arch_prctl", [0x5001, 0, 0, 0, 0, 0], error(libc::EINVAL)),
            ("prctl", [15, 0, 0, 0, 0, 0], allow),
            ("prctl", [4, 1, 0, 0, 0, 0], error(libc::EINVAL)),
            ("fcntl", [0, 8, 0, 0, 0, 0], error(libc::EINVAL)),
            ("fcntl", [0, 4, 0o2000, 0, 0, 0], allow),
            ("fcntl", [0, 4, 0o22000, 0, 0, 0], error(libc::EINVAL)),
            ("fcntl", [0, 3, 0o22000, 0, 0, 0], allow),
            ("sched_getaffinity", [0; 6], allow),
            ("sched_getaffinity", [own, 8, 1, 0, 0, 0], allow),
            ("sched_getaffinity", [1, 8, 1, 0, 0, 0], error(libc::ESRCH)),
            ("ioctl", [0, libc::TIOCSTI, 0, 0, 0, 0], error(libc::ENOTTY)),
            ("open", [0, 0o102, 0o644, 0, 0, 0], allow),
            ("open", [0, 0o102, 0o4755, 0, 0, 0], error(libc::EPERM)),
            ("open", [0, 2, 0o4755, 0, 0, 0], allow),
            ("openat", [0, 0, 0o100, 0o2755, 0, 0], error(libc::EPERM)),
            (
                "openat",
                [0, 0, 0o20_200_001, 0o4700, 0, 0],
                error(libc::EPERM),
            ),
            ("fchmod", [3, 0o755, 0, 0, 0, 0], Verdict::Trace),
            ("fchmod", [3, 0o4755, 0, 0, 0, 0], error(libc::EPERM)),
            ("uname", [0; 6], Verdict::Trace),
        ] {
            let found = asked(true, name, arguments);
            assert_eq!(found, expected, "{name} {arguments:x?}");
        }
        assert_eq!(
            asked(false, "fchmod", [1, 0o755, 0, 0, 0, 0]),
            error(libc::EPERM)
        );
    }

    #[test]
    fn the_monitor_makes_no_memory_executable() {
        for files in [true, false] {
            let program = monitor_policy(files, false).program();
            let ask = |call: i64, arguments| answer(&program, call as u32, arguments);
            assert_eq!(ask(libc::SYS_mmap, [0, 1, 3, 0x22, 0, 0]), Verdict::Allow);
            assert_eq!(ask(libc::SYS_mmap, [0, 1, 7, 0x22, 0, 0]), Verdict::Kill);
            assert_eq!(ask(libc::SYS_mprotect, [0, 1, 4, 0, 0, 0]), Verdict::Kill);
            assert_eq!(
                ask(libc::SYS_ioctl, [0, 0xae80, 0, 0, 0, 0]),
                Verdict::Allow
            );
            assert_eq!(ask(libc::SYS_ioctl, [0, 0xae41, 0, 0, 0, 0]), Verdict::Kill);
            assert_eq!(ask(libc::SYS_execve, [0; 6]), Verdict::Kill);
            let opens = ask(libc::SYS_openat, [0; 6]);
            assert_eq!(opens == Verdict::Allow, files);
            assert_eq!(ask(libc::SYS_socket, [1, 1, 0, 0, 0, 0]), Verdict::Kill);
            assert_eq!(ask(libc::SYS_prlimit64, [0, 7, 1, 0, 0, 0]), Verdict::Kill);
        }
    }
}
