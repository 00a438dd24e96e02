//! seccomp policies for the VMM itself: the monitor of a virtual machine, and the tracer of a guest that is a
//! process. A call that is not theirs ends them.

use super::bpf::{Policy, Rule, Test, Verdict};
use super::filter::{Limited, STACK, families, socket_options};
use super::seccomp::{self, FilterError};
use crate::linux::descriptor_requests;
use crate::linux::table::{CALLS, Process, Topic};
use crate::network::INTERNET;

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
const TRACER_SOCKETS: [i64; 9] = [
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
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

/// Calls that make a socket or give it an address: it takes the network.
const OF_NETWORK: [&str; 4] = ["socket", "bind", "listen", "connect"];

/// Confines this process to a monitor's calls; any other ends it.
pub(super) fn monitor(files_granted: bool, network: bool) -> Result<(), FilterError> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let own = own.cast_unsigned();
    seccomp::install(&monitor_policy(files_granted, network, own).program())
}

/// Confines this process to what the tracer of `guest` does; any other call ends it.
pub(super) fn tracer(guest: u32, limited: Limited) -> Result<(), FilterError> {
    seccomp::install(&tracer_policy(guest, limited).program())
}

pub(super) fn monitor_policy(files_granted: bool, network: bool, own: u32) -> Policy {
    let mut policy = Policy::new(Verdict::Kill);
    for call in MONITOR {
        policy.set(call as u32, Verdict::Allow);
    }
    for call in CALLS {
        let passed_on = match call.topic {
            Topic::File => true,
            Topic::Path => files_granted || OF_DESCRIPTORS.contains(&call.name),
            Topic::Socket => network || !OF_NETWORK.contains(&call.name),
            _ => false,
        };
        if passed_on {
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
    let requests = descriptor_requests(network).chain(MONITOR_IOCTLS);
    let requests = Rule::one_of(1, &requests.collect::<Vec<_>>(), Verdict::Kill);
    policy.set(libc::SYS_ioctl as u32, requests);
    no_new_code(&mut policy);
    policy
}

pub(super) fn tracer_policy(guest: u32, limited: Limited) -> Policy {
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
