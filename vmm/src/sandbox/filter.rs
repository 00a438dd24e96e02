//! seccomp filters: for the monitor, and for a guest that is a process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use thiserror::Error;

use crate::linux::table::{CALLS, Process};

/// Why a filter cannot be made or installed.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The kernel refused, or the filter is wrong.
    #[error("confining system calls with seccomp: {0}; it needs CONFIG_SECCOMP_FILTER")]
    Install(#[from] seccompiler::Error),
    /// The filter is wrong.
    #[error("making the seccomp filter: {0}")]
    Make(#[from] seccompiler::BackendError),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Calls of the monitor's run loop: what the handlers in [`crate::linux`] make, what the allocator
/// and the standard library need, and the end. The kernel tries every call against the filter when it
/// is installed, one rule after the other, so a short list starts sooner.
const MONITOR: [i64; 38] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_lseek,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_sched_yield,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
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
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_getrandom,
    libc::SYS_statx,
];

/// What the handlers need besides if directories were granted.
const MONITOR_FILES: [i64; 12] = [
    libc::SYS_flock,
    libc::SYS_readlinkat,
    libc::SYS_fchmod,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_utimensat,
    libc::SYS_fallocate,
    libc::SYS_openat2,
];

/// Requests to KVM and to a terminal; `KVM_RUN` first, as the filter tries them in order.
const MONITOR_IOCTLS: [u64; 6] = [
    0xae80,      // KVM_RUN
    0x8138_ae83, // KVM_GET_SREGS
    0x4138_ae84, // KVM_SET_SREGS
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
    libc::TCGETS,
    libc::TIOCGWINSZ,
];

/// Confines this process to a monitor's calls; any other ends it.
pub(super) fn monitor(files_granted: bool) -> Result<(), FilterError> {
    let files = if files_granted {
        &MONITOR_FILES[..]
    } else {
        &[]
    };
    let calls = MONITOR.iter().chain(files);
    let mut rules: Rules = calls.map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_ioctl, any_of(1, &MONITOR_IOCTLS)?);
    // The monitor has no reason ever to make memory executable.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not_executable = condition(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![not_executable])?]);
    }
    install(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// Confines this process to the calls of [`CALLS`]; any other fails with `ENOSYS`, as under KVM.
pub(super) fn guest(files_granted: bool) -> Result<(), FilterError> {
    if !files_granted {
        install(without_files()?, SeccompAction::Allow, errno(libc::ENOENT))?;
    }
    install(other_requests()?, SeccompAction::Allow, errno(libc::ENOTTY))?;
    let own = rustix::process::getpid().as_raw_nonzero().get() as u64;
    let mut rules = Rules::new();
    for call in CALLS {
        let conditions = match call.process {
            Process::Allowed | Process::Files | Process::FilesOrEmpty | Process::Terminal => {
                Vec::new()
            }
            Process::OwnProcess => any_of(0, &[own])?,
            Process::OwnLimits => {
                let target = |pid| condition(0, SeccompCmpOp::Eq, pid);
                let unchanged = || condition(2, SeccompCmpOp::Eq, 0);
                vec![
                    SeccompRule::new(vec![target(0)?, unchanged()?])?,
                    SeccompRule::new(vec![target(own)?, unchanged()?])?,
                ]
            }
            Process::ThreadName => any_of(0, &[libc::PR_SET_NAME as u64])?,
            Process::Descriptor => any_of(1, &[0, 1, 2, 3, 4, 5, 6, 7, 1030])?,
        };
        rules.insert(call.number as i64, conditions);
    }
    install(rules, errno(libc::ENOSYS), SeccompAction::Allow)
}

/// Calls that name files, when there are none.
fn without_files() -> Result<Rules, FilterError> {
    const EMPTY_PATH: u64 = libc::AT_EMPTY_PATH as u64;
    let mut rules = Rules::new();
    for call in CALLS {
        let conditions = match (call.process, call.name) {
            (Process::Files, _) => Vec::new(),
            (Process::FilesOrEmpty, name) => {
                let flags = if name == "statx" { 2 } else { 3 };
                let named = condition(flags, SeccompCmpOp::MaskedEq(EMPTY_PATH), 0)?;
                vec![SeccompRule::new(vec![named])?]
            }
            _ => continue,
        };
        rules.insert(call.number as i64, conditions);
    }
    Ok(rules)
}

/// `ioctl`s that are not about a terminal's settings and size.
fn other_requests() -> Result<Rules, FilterError> {
    let neither = [libc::TCGETS, libc::TIOCGWINSZ]
        .iter()
        .map(|&request| condition(1, SeccompCmpOp::Ne, request))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Rules::from([(
        libc::SYS_ioctl,
        vec![SeccompRule::new(neither)?],
    )]))
}

fn errno(error: i32) -> SeccompAction {
    SeccompAction::Errno(error as u32)
}

/// Argument `index` compared by its lower half, as the kernel reads it.
fn condition(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, FilterError> {
    Ok(SeccompCondition::new(
        index,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?)
}

fn any_of(index: u8, values: &[u64]) -> Result<Vec<SeccompRule>, FilterError> {
    values
        .iter()
        .map(|&value| {
            Ok(SeccompRule::new(vec![condition(
                index,
                SeccompCmpOp::Eq,
                value,
            )?])?)
        })
        .collect()
}

fn install(
    rules: Rules,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Result<(), FilterError> {
    let filter = SeccompFilter::new(rules, mismatch, matched, TargetArch::x86_64)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
