//! seccomp policies: for the monitor, and for a guest that is a process.

use std::io;

use thiserror::Error;

use super::bpf::{Policy, Rule, Test, Verdict};
use super::seccomp;
use crate::linux::table::{CALLS, Process, Topic};
use crate::linux::{SOCKET_OPTIONS, descriptor_requests};
use crate::network::Limits;

/// Why a filter cannot be installed.
#[derive(Debug, Error)]
#[error("confining system calls with seccomp: {0}; it needs CONFIG_SECCOMP_FILTER")]
pub struct FilterError(#[from] io::Error);

/// Calls of the monitor's run loop: what the allocator, the standard library and the handlers in
/// [`crate::linux`] need beside what they pass on, and the end. What they pass on is in [`CALLS`].
const MONITOR: [i64; 31] = [
    libc::SYS_memfd_create,
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
    libc::SYS_msync,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
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
/// What it calls beside them where it looks at addresses.
const TRACER_SOCKETS: [i64; 8] = [
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
];
/// Calls of the tracer of a guest that is a process: waiting, looking, answering, and the end. It opens
/// nothing any more.
const TRACER: [i64; 35] = [
    libc::SYS_ftruncate,
    libc::SYS_pwrite64,
    libc::SYS_wait4,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_fstat,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fsetxattr,
    libc::SYS_getgroups,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
/// What it asks of a thread that it traces.
const TRACER_REQUESTS: [u32; 8] = [
    libc::PTRACE_CONT,
    libc::PTRACE_SYSCALL,
    libc::PTRACE_LISTEN,
    libc::PTRACE_GETREGS,
    libc::PTRACE_SETREGS,
    libc::PTRACE_GETSIGINFO,
    libc::PTRACE_GETEVENTMSG,
    libc::PTRACE_GET_SYSCALL_INFO,
];
/// To read its limits, and to set those that the kernel keeps for a guest.
const LIMITS: i64 = libc::SYS_prlimit64;
const STACK: u32 = libc::RLIMIT_STACK;

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
/// `F_DUPFD` to `F_SETLKW`, locks of open files, `F_DUPFD_CLOEXEC`, the size of a pipe, and seals.
const DESCRIPTOR: [u32; 14] = [
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
    libc::F_GETPIPE_SZ as u32,
    libc::F_GET_SEALS as u32,
];
/// Of a `futex` operation: the command, without flags.
const FUTEX_COMMAND: u32 = 0x7f;
/// All but `FD`, which Linux has no more: waiting, waking, moving waiters, locks that lend their owner
/// a priority.
const FUTEX: [u32; 13] = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
/// What a thread shares with the others of its process.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD) as u32;
/// What else `clone` may be asked for: a thread pointer, places for its number, and what makes no
/// difference to a thread. Not among them: being left untraced, namespaces, a signal at its end.
const OF_THREADS: u32 = (libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED) as u32;
/// The sign of a clock's number: it is that of a process or a thread.
const OF_PROCESS: u32 = 1 << 31;
/// Of a socket's type: without flags.
const SOCKET_TYPE: u32 = 0xf;
/// Connected for good: an address given to `sendto` names nobody.
const CONNECTED: [u32; 2] = [libc::SOCK_STREAM as u32, libc::SOCK_SEQPACKET as u32];
/// Flags of `mmap` that take memory past `RLIMIT_DATA`: shared anonymous memory, areas that grow, huge
/// pages of the host's reserve.
const UNCOUNTED: [u32; 3] = [
    (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32,
    libc::MAP_GROWSDOWN as u32,
    libc::MAP_HUGETLB as u32,
];
const LOCAL: u32 = libc::AF_UNIX as u32;
const INTERNET: [u32; 2] = [libc::AF_INET as u32, libc::AF_INET6 as u32];
const KEEP_OLD: u32 = libc::MREMAP_DONTUNMAP as u32;
/// What [`crate::linux`] takes too: normal to `WILLNEED`, `DONTNEED`, `FREE`, `REMOVE`, for `fork`, huge pages, core dumps,
/// `COLD`, `PAGEOUT`, `POPULATE`. Merging pages would tell guests of each other's.
const ADVICE: [u32; 20] = [
    0, 1, 2, 3, 4, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
];

/// Confines this process to a monitor's calls; any other ends it.
pub(super) fn monitor(files_granted: bool, network: bool) -> Result<(), FilterError> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let own = own.cast_unsigned();
    Ok(seccomp::install(
        &monitor_policy(files_granted, network, own).program(),
    )?)
}

/// Confines this process to what the tracer of `guest` does; any other call ends it.
pub(super) fn tracer(guest: u32, limited: Limited) -> Result<(), FilterError> {
    Ok(seccomp::install(&tracer_policy(guest, limited).program())?)
}

/// Which addresses of the host's network are looked at before they are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limited {
    /// Those that a socket is given.
    pub(super) bind: bool,
    /// Those that it is connected with.
    pub(super) connect: bool,
}

impl Limited {
    pub(super) fn by(limits: &Limits) -> Self {
        Self {
            bind: limits.bind.is_some(),
            connect: limits.connect.is_some(),
        }
    }

    fn any(self) -> bool {
        self.bind || self.connect
    }
}

/// What a guest that is a process was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// A file system of its own.
    pub(super) files: bool,
    /// The host's network.
    pub(super) network: bool,
    /// Of it, not all addresses.
    pub(super) limited: Limited,
    /// The kernel keeps the host's local sockets with abstract names from it.
    pub(super) scoped: bool,
    /// Its process's number.
    pub(super) own: u32,
}

/// Confines this process to the calls of [`CALLS`] and what they say of it; any other fails with `ENOSYS`,
/// as under KVM.
pub(super) fn guest(given: Given) -> Result<(), FilterError> {
    Ok(seccomp::install(&guest_policy(given).program())?)
}

fn monitor_policy(files_granted: bool, network: bool, own: u32) -> Policy {
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
            let rule = match call.process {
                Process::SocketOption => socket_options(Verdict::Kill),
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
    let requests = descriptor_requests(network).chain(MONITOR_IOCTLS);
    let requests = Rule::one_of(1, &requests.collect::<Vec<_>>(), Verdict::Kill);
    policy.set(libc::SYS_ioctl as u32, requests);
    no_new_code(&mut policy);
    policy
}

fn tracer_policy(guest: u32, limited: Limited) -> Policy {
    let mut policy = Policy::new(Verdict::Kill);
    for call in TRACER {
        policy.set(call as u32, Verdict::Allow);
    }
    let requests = Rule::one_of(0, &TRACER_REQUESTS, Verdict::Kill);
    policy.set(libc::SYS_ptrace as u32, requests);
    let signals = Rule::one_of(0, &[guest], Verdict::Kill);
    policy.set(libc::SYS_kill as u32, signals);
    // Of the guest alone: reading, and the limit of its stack.
    let reads = [Test::Equals(0, guest), Test::Null(2)];
    let stack = [Test::Equals(0, guest), Test::Equals(1, STACK)];
    let limits = Rule::from(Verdict::Kill)
        .unless(&reads, Verdict::Allow)
        .unless(&stack, Verdict::Allow);
    policy.set(LIMITS as u32, limits);
    // Times of an open file.
    let times = Rule::from(Verdict::Kill).unless(&[Test::Null(1)], Verdict::Allow);
    policy.set(libc::SYS_utimensat as u32, times);
    let flags = [
        libc::F_SETPIPE_SZ,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_GET_SEALS,
        libc::F_ADD_SEALS,
    ]
    .map(|command| command as u32);
    policy.set(
        libc::SYS_fcntl as u32,
        Rule::one_of(1, &flags, Verdict::Kill),
    );
    let mut requests = vec![libc::TCGETS as u32, libc::TCSETS as u32];
    if limited.any() {
        requests.push(libc::FIONBIO as u32);
        for call in TRACER_SOCKETS {
            policy.set(call as u32, Verdict::Allow);
        }
    }
    policy.set(
        libc::SYS_ioctl as u32,
        Rule::one_of(1, &requests, Verdict::Kill),
    );
    no_new_code(&mut policy);
    policy
}

/// This program has no reason ever to make memory executable.
fn no_new_code(policy: &mut Policy) {
    let executable = Test::Masked(2, libc::PROT_EXEC as u32, libc::PROT_EXEC as u32);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let rule = Rule::from(Verdict::Allow).unless(&[executable], Verdict::Kill);
        policy.set(call as u32, rule);
    }
}

fn guest_policy(given: Given) -> Policy {
    let mut policy = Policy::new(Verdict::Refused(libc::ENOSYS));
    for call in CALLS {
        policy.set(call.number as u32, guest_rule(call.process, given));
    }
    policy
}

fn guest_rule(process: Process, given: Given) -> Rule {
    let own = given.own;
    let not_served = Verdict::Refused(libc::ENOSYS);
    let not_known = Verdict::Refused(libc::EINVAL);
    let files = |without| {
        if given.files { Verdict::Allow } else { without }
    };
    let no_file = Verdict::Errno(libc::ENOENT);
    // A descriptor may be the guest's standard input or output, and that file is the operator's.
    let asked_of_files = if given.files {
        Verdict::Trace
    } else {
        Verdict::Errno(libc::EPERM)
    };
    match process {
        Process::Allowed => Verdict::Allow.into(),
        Process::Monitor | Process::Protection | Process::Heap => Verdict::Trace.into(),
        Process::Files => files(no_file).into(),
        Process::Look | Process::FilesOrEmpty => files(Verdict::Trace).into(),
        // C libraries know what to do instead.
        Process::FilesOrUnserved => files(Verdict::Errno(libc::ENOSYS)).into(),
        // The small world is told by the path.
        Process::Create { flags, mode } => created(Verdict::Trace, flags, mode),
        Process::Mode => without_set_id(asked_of_files, 1),
        Process::Owner => asked_of_files.into(),
        Process::PathMode(mode) => without_set_id(files(no_file), mode),
        Process::FileFlags(argument, known) => {
            Rule::from(not_known).unless(&[Test::Masked(argument, !known, 0)], files(no_file))
        }
        Process::Change { flags, mode } => changed(given.files, no_file, flags, mode),
        Process::Network => sockets(given),
        Process::Bind if given.limited.bind => Verdict::Trace.into(),
        Process::Connect if given.limited.connect => Verdict::Trace.into(),
        Process::Send if given.limited.connect => {
            Rule::from(Verdict::Trace).unless(&[Test::Null(4)], Verdict::Allow)
        }
        Process::SendMessage if given.limited.connect => not_served.into(),
        Process::Bind | Process::Connect | Process::Send | Process::SendMessage => {
            Verdict::Allow.into()
        }
        Process::SocketPair => pairs(given),
        Process::SocketOption => socket_options(Verdict::Refused(libc::ENOPROTOOPT)),
        Process::Terminal => {
            let requests: Vec<u32> = descriptor_requests(given.network).collect();
            Rule::one_of(1, &requests, Verdict::Refused(libc::ENOTTY))
        }
        Process::OwnProcess => Rule::one_of(0, &[own], Verdict::Errno(libc::ESRCH)),
        Process::SetLimit => {
            Rule::from(Verdict::Allow).unless(&[Test::Equals(0, STACK)], Verdict::Trace)
        }
        Process::OwnLimits => {
            // It may be a thread's number.
            [0, own]
                .iter()
                .fold(Verdict::Trace.into(), |rule: Rule, &target| {
                    let of = Test::Equals(0, target);
                    rule.unless(&[of, Test::Null(2)], Verdict::Allow)
                        .unless(&[of, Test::Equals(1, STACK)], Verdict::Trace)
                        .unless(&[of], Verdict::Allow)
                })
        }
        Process::OwnThread => Rule::one_of(0, &[0, own], Verdict::Trace),
        Process::Clock => {
            Rule::from(Verdict::Trace).unless(&[Test::Masked(0, OF_PROCESS, 0)], Verdict::Allow)
        }
        Process::Threads => Rule::from(not_known)
            .unless(&[Test::Masked(0, libc::CLONE_THREAD as u32, 0)], not_served)
            .unless(&[Test::Masked(0, !OF_THREADS, THREAD)], Verdict::Trace),
        Process::ThreadName => Rule::one_of(0, &[libc::PR_SET_NAME as u32], not_known),
        Process::ThreadPointer => Rule::one_of(0, &THREAD_POINTER, not_known),
        Process::Descriptor => {
            let signals = [
                Test::Equals(1, libc::F_SETFL as u32),
                Test::Masked(2, libc::O_ASYNC as u32, libc::O_ASYNC as u32),
            ];
            let size = [Test::Equals(1, libc::F_SETPIPE_SZ as u32)];
            DESCRIPTOR.iter().fold(
                Rule::from(not_known)
                    .unless(&signals, not_known)
                    .unless(&size, Verdict::Trace),
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
        Process::Starts => not_served.into(),
        Process::Unserved => Verdict::Errno(libc::ENOSYS).into(),
    }
}

/// With the host's network: IPv4 and IPv6, and local sockets where the kernel keeps those of the host
/// with abstract names from the guest. Those with a path lie in its own file system.
fn sockets(given: Given) -> Rule {
    let none = Verdict::Refused(libc::EAFNOSUPPORT);
    // Netlink lists interfaces and addresses; changing them takes capabilities.
    let lists = [
        Test::Equals(0, libc::AF_NETLINK as u32),
        Test::Equals(2, libc::NETLINK_ROUTE as u32),
    ];
    // A local socket's path is the guest's own, and its tracer would find another file there.
    let local = given.scoped && !given.limited.any();
    let rule = match (given.network, local) {
        (false, _) => return none.into(),
        (true, false) => Rule::one_of(0, &INTERNET, none),
        (true, true) => Rule::one_of(0, &[LOCAL, INTERNET[0], INTERNET[1]], none),
    };
    rule.unless(&lists, Verdict::Allow)
}

/// Pairs of local sockets. A datagram can be sent from one of a pair to any name, so there are none where
/// that would be one of the host's.
fn pairs(given: Given) -> Rule {
    let others = Verdict::Refused(libc::EAFNOSUPPORT);
    let local = Test::Equals(0, LOCAL);
    if given.network && given.scoped && !given.limited.any() {
        return Rule::from(others).unless(&[local], Verdict::Allow);
    }
    CONNECTED
        .iter()
        .fold(others.into(), |rule: Rule, &kind| {
            rule.unless(&[local, Test::Masked(1, SOCKET_TYPE, kind)], Verdict::Allow)
        })
        .unless(&[local], Verdict::Refused(libc::ESOCKTNOSUPPORT))
}

/// The options of sockets that there are, or `otherwise`.
fn socket_options(otherwise: Verdict) -> Rule {
    let rule = |rule: Rule, &(level, first, last): &(u32, u32, u32)| {
        let tests = [Test::Equals(1, level), Test::Between(2, first, last)];
        rule.unless(&tests, Verdict::Allow)
    };
    let options = SOCKET_OPTIONS.iter();
    options.fold(Rule::with_room(otherwise, SOCKET_OPTIONS.len(), 2), rule)
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

/// What changes a file by a path at argument 1, which may stand for an open descriptor.
fn changed(files: bool, no_file: Verdict, flags: u32, mode: Option<u32>) -> Rule {
    const EMPTY: u32 = libc::AT_EMPTY_PATH as u32;
    if !files {
        return no_file.into();
    }
    let rule = match mode {
        Some(mode) => without_set_id(Verdict::Allow, mode),
        None => Verdict::Allow.into(),
    };
    rule.unless(&[Test::Null(1)], Verdict::Trace)
        .unless(&[Test::Masked(flags, EMPTY, EMPTY)], Verdict::Trace)
}

/// `verdict`, unless the mode at `mode` would let a file run as its owner or its group: what a guest
/// leaves in a granted directory lies in the host's file system.
fn without_set_id(verdict: Verdict, mode: u32) -> Rule {
    SET_ID.iter().fold(verdict.into(), |rule: Rule, &bit| {
        rule.unless(
            &[Test::Masked(mode, bit, bit)],
            Verdict::Refused(libc::EPERM),
        )
    })
}

/// The same for a file that a call may make: the mode counts only where flags say so.
fn created(verdict: Verdict, flags: u32, mode: u32) -> Rule {
    /// `O_CREAT`, and the bit that `O_TMPFILE` adds to `O_DIRECTORY`.
    const CREATES: [u32; 2] = [libc::O_CREAT as u32, 0o20_000_000];
    let refused = Verdict::Refused(libc::EPERM);
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
mod tests;
