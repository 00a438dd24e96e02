//! The filter of the VMM itself where it is the monitor of a virtual machine. A call that is not its own ends it.
//!
//! Making a program of a policy takes half as long as the kernel takes to check it, and some 30 KiB of heap; each
//! instance would. So there are the finished ones ([`programs`]), and a test that makes them of the policy once more.

#[cfg(test)]
pub(super) mod policy;
mod programs;

use libc::sock_filter;

use super::bpf::{Policy, Rule, Test, Verdict};
use super::seccomp::{self, FilterError};

/// To read its limits, and to set those that the kernel keeps for a guest.
pub(super) const LIMITS: i64 = libc::SYS_prlimit64;
/// Stands for the process's own number in [`programs`]; none is as high (`PID_MAX_LIMIT`).
const PROCESS: u32 = 0xffff_fff0;

/// What a monitor serves its guest with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// What is open.
    Nothing,
    /// Files, too.
    Files,
    /// Files and the host's network.
    Network,
}

/// Confines this process to a monitor's calls; any other ends it.
pub(super) fn confine(reach: Reach) -> Result<(), FilterError> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    seccomp::install(&program(reach, own.cast_unsigned()))
}

/// The program for process `own`.
fn program(reach: Reach, own: u32) -> Vec<sock_filter> {
    let words: &[u64] = match reach {
        Reach::Nothing => &programs::NOTHING,
        Reach::Files => &programs::FILES,
        Reach::Network => &programs::NETWORK,
    };
    let instruction = |&word: &u64| sock_filter {
        code: word as u16,
        jt: (word >> 16) as u8,
        jf: (word >> 24) as u8,
        k: match (word >> 32) as u32 {
            PROCESS => own,
            k => k,
        },
    };
    words.iter().map(instruction).collect()
}

/// This program has no reason ever to make memory executable.
pub(super) fn no_new_code(policy: &mut Policy) {
    let executable = Test::Masked(2, libc::PROT_EXEC as u32, libc::PROT_EXEC as u32);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let rule = Rule::from(Verdict::Allow).unless(&[executable], Verdict::Kill);
        policy.set(call as u32, rule);
    }
}
