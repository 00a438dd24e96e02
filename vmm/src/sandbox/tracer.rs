//! What the tracer of a guest that is a process may do.

use super::bpf::{Policy, Rule, Test, Verdict};
use super::filter::{Limited, STACK};
use super::own::{LIMITS, no_new_code};
use super::seccomp::{self, FilterError};

/// Calls of the tracer of a guest that is a process: waiting, looking, answering, printing, and the end. It opens
/// nothing any more but memory.
const CALLS: [i64; 43] = [
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pwrite64,
    libc::SYS_wait4,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigpending,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_fstat,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_getgroups,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_getpgrp,
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

/// Of `pidfd_open`: a descriptor of a thread (`PIDFD_THREAD` of `linux/pidfd.h`).
pub(crate) const THREAD: u32 = libc::O_EXCL as u32;

/// What it asks of a thread that it traces.
const REQUESTS: [u32; 11] = [
    // `PTRACE_GETSIGMASK` and `PTRACE_SETSIGMASK`.
    0x420a,
    0x420b,
    libc::PTRACE_CONT,
    libc::PTRACE_SYSCALL,
    libc::PTRACE_LISTEN,
    libc::PTRACE_INTERRUPT,
    libc::PTRACE_GETREGS,
    libc::PTRACE_SETREGS,
    libc::PTRACE_GETSIGINFO,
    libc::PTRACE_GETEVENTMSG,
    libc::PTRACE_GET_SYSCALL_INFO,
];

/// What it calls beside them where it looks at addresses.
const SOCKETS: [i64; 7] = [
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
];

/// What the tracer's calls name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    /// The guest's process.
    pub(super) guest: u32,
    /// A descriptor of it.
    pub(super) watched: u32,
    /// The tracer's own process.
    pub(super) own: u32,
}

/// Confines this process to what a guest's tracer does; any other call ends it.
pub(super) fn confine(process: Numbers, limited: Limited) -> Result<(), FilterError> {
    seccomp::install(&policy(process, limited).program())
}

pub(super) fn policy(process: Numbers, limited: Limited) -> Policy {
    let guest = process.guest;
    let mut policy = Policy::new(Verdict::Kill);
    for call in CALLS {
        policy.set(call as u32, Verdict::Allow);
    }
    let requests = Rule::one_of(0, &REQUESTS, Verdict::Kill);
    policy.set(libc::SYS_ptrace as u32, requests);
    let of_threads = Rule::one_of(0, &[libc::PRIO_PROCESS], Verdict::Kill);
    policy.set(libc::SYS_getpriority as u32, of_threads);
    let signals = Rule::one_of(0, &[guest], Verdict::Kill);
    policy.set(libc::SYS_kill as u32, signals);
    let signals = Rule::one_of(0, &[process.watched], Verdict::Kill);
    policy.set(libc::SYS_pidfd_send_signal as u32, signals);
    // One thread ends what another waits in.
    let signals = Rule::one_of(0, &[process.own], Verdict::Kill);
    policy.set(libc::SYS_tgkill as u32, signals);
    // Of the guest alone: reading, and the limit of its stack.
    let reads = [Test::Equals(0, guest), Test::Null(2)];
    let stack = [Test::Equals(0, guest), Test::Equals(1, STACK)];
    let limits = Rule::from(Verdict::Kill)
        .unless(&reads, Verdict::Allow)
        .unless(&stack, Verdict::Allow);
    policy.set(LIMITS as u32, limits);
    // Of threads alone. It fetches from those that it traces; what it could reach of others, it reads and writes anyway.
    let threads = Rule::one_of(1, &[THREAD], Verdict::Kill);
    policy.set(libc::SYS_pidfd_open as u32, threads);
    // Of an open file.
    let empty = |flags| Rule::one_of(flags, &[libc::AT_EMPTY_PATH as u32], Verdict::Kill);
    policy.set(libc::SYS_fchmodat2 as u32, empty(3));
    policy.set(libc::SYS_faccessat2 as u32, empty(3));
    policy.set(libc::SYS_fchownat as u32, empty(4));
    let times = empty(3).unless(&[Test::Null(1)], Verdict::Allow);
    policy.set(libc::SYS_utimensat as u32, times);
    let flags = [
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
        libc::F_ADD_SEALS,
    ]
    .map(|command| command as u32);
    policy.set(
        libc::SYS_fcntl as u32,
        Rule::one_of(1, &flags, Verdict::Kill),
    );
    let mut requests = vec![
        libc::TCGETS as u32,
        libc::TCSETS as u32,
        libc::TIOCGPGRP as u32,
    ];
    requests.extend([seccomp::RECEIVE, seccomp::SEND, seccomp::ADD]);
    if limited.any() {
        requests.push(libc::FIONBIO as u32);
        for call in SOCKETS {
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
