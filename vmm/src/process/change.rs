//! Calls that a guest's thread makes instead of its own.

use rustix::process::Pid;

use super::ptrace::Registers;
use crate::sandbox::MARK;

/// Another call than the guest's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// `fstat` of a descriptor to an address.
    Fstat(u64, u64),
    /// The same with other flags in its fourth argument.
    Flags(u64),
    /// In its fifth.
    FifthFlags(u64),
    /// In its third.
    ThirdFlags(u64),
    /// The same with another first argument.
    First(u64),
    /// The same with both of these.
    FirstTwo(u64, u64),
    /// `sendto` of nothing: it waits until a descriptor's connection is made, and returns what `connect` would.
    Connected(u64),
    /// `sendto` to whom the socket is connected to, of bytes at an address, so many, with these flags.
    Send(u64, u64, u64),
    /// A duplicate of a descriptor, closed by `execve` or not.
    Duplicate(u64, bool),
    /// A duplicate of a descriptor in the place of another, closed by `execve` or not.
    Replace(u64, u64, bool),
    /// `close` of a descriptor.
    Close(u64),
    /// [`MARK`], with what the filter knows it by: it comes to the listener.
    Wait([u32; 2]),
    /// `tgkill` of a thread of this process, of a signal.
    Signal(Pid, u64, u64),
    /// `mprotect` from one address to another, so.
    Protect(u64, u64, i32),
}

impl Change {
    /// `registers` of the call that is made instead.
    pub(super) fn of(self, mut registers: Registers) -> Registers {
        match self {
            Self::Fstat(descriptor, at) => {
                registers.orig_rax = libc::SYS_fstat as u64;
                registers.rdi = descriptor;
                registers.rsi = at;
            }
            Self::Flags(flags) => registers.r10 = flags,
            Self::FifthFlags(flags) => registers.r8 = flags,
            Self::ThirdFlags(flags) => registers.rdx = flags,
            Self::First(first) => registers.rdi = first,
            Self::FirstTwo(first, second) => [registers.rdi, registers.rsi] = [first, second],
            Self::Connected(descriptor) => {
                registers.orig_rax = libc::SYS_sendto as u64;
                registers.rdi = descriptor;
                [registers.rsi, registers.rdx] = [0, 0];
                registers.r10 = libc::MSG_NOSIGNAL as u64;
                [registers.r8, registers.r9] = [0, 0];
            }
            Self::Send(at, length, flags) => {
                registers.orig_rax = libc::SYS_sendto as u64;
                [registers.rsi, registers.rdx] = [at, length];
                registers.r10 = flags;
                [registers.r8, registers.r9] = [0, 0];
            }
            Self::Duplicate(descriptor, closes) => {
                registers.orig_rax = libc::SYS_fcntl as u64;
                registers.rdi = descriptor;
                let command = if closes {
                    libc::F_DUPFD_CLOEXEC
                } else {
                    libc::F_DUPFD
                };
                registers.rsi = command as u64;
                registers.rdx = 0;
            }
            Self::Replace(descriptor, other, closes) => {
                registers.orig_rax = libc::SYS_dup3 as u64;
                registers.rdi = descriptor;
                registers.rsi = other;
                registers.rdx = if closes { libc::O_CLOEXEC as u64 } else { 0 };
            }
            Self::Close(descriptor) => {
                registers.orig_rax = libc::SYS_close as u64;
                registers.rdi = descriptor;
            }
            Self::Wait(secret) => {
                registers.orig_rax = MARK.into();
                [registers.rdi, registers.rsi] = secret.map(u64::from);
            }
            Self::Signal(process, thread, signal) => {
                registers.orig_rax = libc::SYS_tgkill as u64;
                registers.rdi = process.as_raw_nonzero().get() as u64;
                registers.rsi = thread;
                registers.rdx = signal;
            }
            Self::Protect(start, end, protection) => {
                registers.orig_rax = libc::SYS_mprotect as u64;
                registers.rdi = start;
                registers.rsi = end - start;
                registers.rdx = protection as u64;
            }
        }
        registers
    }
}
