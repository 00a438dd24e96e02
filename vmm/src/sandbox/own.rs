//! The seccomp policy of the VMM itself where it is the monitor of a virtual machine. A call that is not its own ends
//! it.

use super::bpf::{Policy, Rule, Test, Verdict};
use super::filter::{families, socket_options};
use super::seccomp::{self, FilterError};
use crate::linux::descriptor_requests;
use crate::linux::table::{self, Process, Topic};
use crate::network::INTERNET;

/// Calls of the monitor's run loop: what the allocator, the standard library and the handlers in
/// [`crate::linux`] need beside what they pass on, and the end. What they pass on is in [`table::calls`].
const MONITOR: [i64; 32] = [
    libc::SYS_memfd_create,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigpending,
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
/// To read its limits, and to set those that the kernel keeps for a guest.
pub(super) const LIMITS: i64 = libc::SYS_prlimit64;

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
const OF_DESCRIPTORS: [&str; 5] = ["newfstatat", "statx", "faccessat2", "getcwd", "umask"];

/// Calls that make a socket or give it an address: it takes the network.
const OF_NETWORK: [&str; 4] = ["socket", "bind", "listen", "connect"];

/// Confines this process to a monitor's calls; any other ends it.
pub(super) fn confine(files_granted: bool, network: bool) -> Result<(), FilterError> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let own = own.cast_unsigned();
    seccomp::install(&policy(files_granted, network, own).program())
}

pub(super) fn policy(files_granted: bool, network: bool, own: u32) -> Policy {
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
    // One processor's thread has another's come.
    let signals = Rule::one_of(0, &[own], Verdict::Kill);
    policy.set(libc::SYS_tgkill as u32, signals);
    let requests = descriptor_requests(network).chain(MONITOR_IOCTLS);
    let requests = Rule::one_of(1, &requests.collect::<Vec<_>>(), Verdict::Kill);
    policy.set(libc::SYS_ioctl as u32, requests);
    no_new_code(&mut policy);
    policy
}

/// This program has no reason ever to make memory executable.
pub(super) fn no_new_code(policy: &mut Policy) {
    let executable = Test::Masked(2, libc::PROT_EXEC as u32, libc::PROT_EXEC as u32);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let rule = Rule::from(Verdict::Allow).unless(&[executable], Verdict::Kill);
        policy.set(call as u32, rule);
    }
}
