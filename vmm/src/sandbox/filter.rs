//! The seccomp policy of a guest that is a process.

use std::os::fd::OwnedFd;

use super::bpf::{Policy, Rule, Test, Verdict};
use super::seccomp::{self, FilterError};
use crate::linux::table::{self, Process};
use crate::linux::{SOCKET_OPTIONS, descriptor_requests};
use crate::network::{INTERNET, KIND, LOCAL, Limits, OTHER_KINDS, PROTOCOLS};

/// The call by which a thread comes to the listener: none that a guest has, `pidfd_getfd`.
pub(crate) const MARK: u32 = libc::SYS_pidfd_getfd as u32;

/// The limit that the kernel does not keep for a guest.
pub(super) const STACK: u32 = libc::RLIMIT_STACK;
/// The limit that is another than a guest is told.
const CORE: u32 = libc::RLIMIT_CORE;
/// Set-user-ID and set-group-ID.
const SET_ID: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];
/// What makes a file one of a device.
const DEVICES: [u32; 2] = [libc::S_IFCHR, libc::S_IFBLK];
/// The request for the process group that a terminal is in the foreground of.
const GROUP: u32 = libc::TIOCGPGRP as u32;
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
/// The sign of a clock's number: it is that of a process or a thread. That of a process's number.
const OF_PROCESS: u32 = 1 << 31;
const LESS_THAN_NONE: u32 = 1 << 31;
/// A message opens a connection to the address that it names.
const OPENS: u32 = libc::MSG_FASTOPEN as u32;
/// Of `close_range`: in a table of descriptors of one's own, where the tracer knows one alone (`CLOSE_RANGE_UNSHARE`).
pub(crate) const UNSHARE: u32 = 2;
/// Connected for good: an address given to `sendto` names nobody.
const CONNECTED: [u32; 2] = [libc::SOCK_STREAM as u32, libc::SOCK_SEQPACKET as u32];
/// Flags of `mmap` that take memory past `RLIMIT_DATA`: shared anonymous memory, areas that grow, huge
/// pages of the host's reserve.
const UNCOUNTED: [u32; 3] = [
    (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32,
    libc::MAP_GROWSDOWN as u32,
    libc::MAP_HUGETLB as u32,
];
/// What is mapped may be memory that nobody counts: `/dev/zero`.
const SHARED: u32 = libc::MAP_SHARED as u32;
const KEEP_OLD: u32 = libc::MREMAP_DONTUNMAP as u32;
/// What [`crate::linux`] takes too: normal to `WILLNEED`, `DONTNEED`, `FREE`, `REMOVE`, for `fork`, huge pages, core dumps,
/// `COLD`, `PAGEOUT`, `POPULATE`. Merging pages would tell guests of each other's.
const ADVICE: [u32; 20] = [
    0, 1, 2, 3, 4, 8, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
];

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

    pub(super) fn any(self) -> bool {
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
    /// What becomes of calls that take memory: allowed where the tracer need not count it.
    pub(super) memory: Verdict,
    /// What it does not know, and says with [`MARK`] where its tracer has it do so.
    pub(super) secret: [u32; 2],
}

/// Confines this process to the calls of [`table::calls`] and what they say of it; any other fails with `ENOSYS`,
/// as under KVM. Where to listen for who comes, unless somebody listens at this process's filters already.
pub(super) fn guest(given: Given) -> Result<Option<OwnedFd>, FilterError> {
    seccomp::install_listened(&guest_policy(given).program())
}

fn guest_policy(given: Given) -> Policy {
    let mut policy = Policy::new(Verdict::Refused(libc::ENOSYS));
    for call in table::calls() {
        policy.set(call.number as u32, guest_rule(call.process, given));
    }
    let [first, second] = given.secret;
    let said = [Test::Equals(0, first), Test::Equals(1, second)];
    let rule = Rule::from(Verdict::Refused(libc::ENOSYS)).unless(&said, Verdict::Wait);
    policy.set(MARK, rule);
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
    let no_network = Verdict::Errno(libc::EACCES);
    // A descriptor may be the guest's standard input or output, and that file is the operator's.
    let asked_of_files = if given.files {
        Verdict::Trace
    } else {
        Verdict::Errno(libc::EPERM)
    };
    match process {
        Process::Monitor => Verdict::Trace.into(),
        Process::Protection | Process::Heap => given.memory.into(),
        Process::Files => files(no_file).into(),
        Process::Look | Process::FilesOrEmpty => files(Verdict::Trace).into(),
        // C libraries know what to do instead.
        Process::FilesOrUnserved => files(Verdict::Errno(libc::ENOSYS)).into(),
        // The small world is told by the path.
        Process::Create { flags, mode } => created(Verdict::Trace, flags, mode),
        Process::CreateAnew { mode } => without_set_id(Verdict::Trace, mode),
        Process::List if given.files => Verdict::Trace.into(),
        Process::Allowed | Process::List => Verdict::Allow.into(),
        Process::Mode => without_set_id(asked_of_files, 1),
        Process::Owner => asked_of_files.into(),
        Process::PathMode(mode) => without_set_id(files(no_file), mode),
        Process::Node(mode) => {
            let rule = without_set_id(files(no_file), mode);
            DEVICES.iter().fold(rule, |rule, &kind| {
                let device = Test::Masked(mode, libc::S_IFMT, kind);
                rule.unless(&[device], Verdict::Errno(libc::EPERM))
            })
        }
        Process::FileFlags(argument, known) => {
            Rule::from(not_known).unless(&[Test::Masked(argument, !known, 0)], files(no_file))
        }
        Process::Change { flags, mode } => changed(given.files, no_file, flags, mode),
        Process::Network => sockets(given),
        // A guest may have been started with a socket.
        Process::Bind | Process::Connect if !given.network => no_network.into(),
        Process::Send if !given.network => {
            Rule::from(no_network).unless(&[Test::Null(4)], Verdict::Allow)
        }
        // Other addresses say nothing to the sockets that there are without one.
        Process::SendMessage(flags) if !given.network => {
            Rule::from(Verdict::Allow).unless(&[Test::Masked(flags, OPENS, OPENS)], no_network)
        }
        Process::Bind if given.limited.bind => Verdict::Trace.into(),
        Process::Connect | Process::SendMessage(_) if given.limited.connect => {
            Verdict::Trace.into()
        }
        Process::Send if given.limited.connect => {
            Rule::from(Verdict::Trace).unless(&[Test::Null(4)], Verdict::Allow)
        }
        Process::Bind | Process::Connect | Process::Send | Process::SendMessage(_) => {
            Verdict::Allow.into()
        }
        Process::CloseRange => {
            Rule::from(Verdict::Allow).unless(&[Test::Masked(2, UNSHARE, UNSHARE)], Verdict::Trace)
        }
        Process::SocketPair => pairs(given),
        Process::SocketOption => socket_options(Verdict::Refused(libc::ENOPROTOOPT)),
        Process::Terminal => {
            // Whose terminal it is, the guest knows by another number.
            let requests = descriptor_requests(given.network).filter(|&request| request != GROUP);
            Rule::one_of(
                1,
                &requests.collect::<Vec<_>>(),
                Verdict::Refused(libc::ENOTTY),
            )
            .unless(&[Test::Equals(1, GROUP)], Verdict::Trace)
        }
        // None and less than none the kernel knows as wrong, or as nobody.
        Process::OwnProcess => Rule::one_of(0, &[own, 0], Verdict::Errno(libc::ESRCH)).unless(
            &[Test::Masked(0, LESS_THAN_NONE, LESS_THAN_NONE)],
            Verdict::Allow,
        ),
        Process::OwnGroup => [0, own.wrapping_neg()].iter().fold(
            Rule::one_of(0, &[own], Verdict::Errno(libc::ESRCH)),
            |rule, &group| rule.unless(&[Test::Equals(0, group)], Verdict::Trace),
        ),
        Process::GetLimit => {
            Rule::from(Verdict::Allow).unless(&[Test::Equals(0, CORE)], Verdict::Trace)
        }
        Process::SetLimit => [STACK, CORE]
            .iter()
            .fold(Verdict::Allow.into(), |rule: Rule, &limit| {
                rule.unless(&[Test::Equals(0, limit)], Verdict::Trace)
            }),
        Process::OwnLimits => {
            // It may be a thread's number.
            [0, own]
                .iter()
                .fold(Verdict::Trace.into(), |rule: Rule, &target| {
                    let of = Test::Equals(0, target);
                    rule.unless(&[of, Test::Equals(1, CORE)], Verdict::Trace)
                        .unless(&[of, Test::Null(2)], Verdict::Allow)
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
        Process::Mapping => mapping(given.memory),
        // Pages of the pool stay where they are.
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
    if !given.network {
        return none.into();
    }
    let no_kind = Verdict::Refused(libc::ESOCKTNOSUPPORT);
    let no_protocol = Verdict::Refused(libc::EPROTONOSUPPORT);
    // A local socket's path is the guest's own, and its tracer would find another file there.
    let local = given.scoped && !given.limited.any();
    INTERNET
        .iter()
        .fold(families(local, none), |rule, &family| {
            let of = Test::Equals(0, family);
            let rule = OTHER_KINDS.iter().fold(rule, |rule, &kind| {
                rule.unless(&[of, Test::Masked(1, KIND, kind)], no_kind)
            });
            let rule = PROTOCOLS.iter().fold(rule, |rule, &protocol| {
                rule.unless(&[of, Test::Equals(2, protocol)], Verdict::Allow)
            });
            rule.unless(&[of], no_protocol)
        })
}

/// Local sockets, if there are some, and netlink as far as it lists interfaces and addresses (changing them takes
/// capabilities) are allowed; others are `otherwise`.
pub(super) fn families(local: bool, otherwise: Verdict) -> Rule {
    let lists = [
        Test::Equals(0, libc::AF_NETLINK as u32),
        Test::Equals(2, libc::NETLINK_ROUTE as u32),
    ];
    let rule = Rule::from(otherwise).unless(&lists, Verdict::Allow);
    if local {
        rule.unless(&[Test::Equals(0, LOCAL)], Verdict::Allow)
    } else {
        rule
    }
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
            rule.unless(&[local, Test::Masked(1, KIND, kind)], Verdict::Allow)
        })
        .unless(&[local], Verdict::Refused(libc::ESOCKTNOSUPPORT))
}

/// The options of sockets that there are, or `otherwise`.
pub(super) fn socket_options(otherwise: Verdict) -> Rule {
    let rule = |rule: Rule, &(level, first, last): &(u32, u32, u32)| {
        let tests = [Test::Equals(1, level), Test::Between(2, first, last)];
        rule.unless(&tests, Verdict::Allow)
    };
    let options = SOCKET_OPTIONS.iter();
    options.fold(Rule::with_room(otherwise, SOCKET_OPTIONS.len(), 2), rule)
}

/// `mmap`: addresses to be kept free, where the kernel likes, cost nothing. All else is `memory`, and counted
/// unless somebody else does: even memory that counts by itself needs page tables, and the guest shapes the gaps that the kernel puts it in.
fn mapping(memory: Verdict) -> Rule {
    UNCOUNTED
        .iter()
        .fold(memory.into(), |rule: Rule, &flags| {
            rule.unless(&[Test::Masked(3, flags, flags)], Verdict::Trace)
        })
        .unless(&[Test::Masked(3, SHARED, SHARED)], memory)
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
