//! How a guest's threads are scheduled, and of which group and session they are. The host's kernel serves what is about a
//! thread of the guest: a thread can only be nicer by it, as its limits allow no more. What is about the host is told by the guest's own numbers.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::calls::{Calls, Next, failed, finished};
use super::change::Change;
use super::ptrace::{Registers, Tracee};
use super::threads::Threads;
use crate::linux::{host, process, scheduling};
use crate::terminal;

/// A number that no thread has (`PID_MAX_LIMIT`): the kernel says so in its order.
const NOBODY: u64 = i32::MAX as u64;
/// Whose nice values a call is about: a thread's, a process group's, a user's.
const OF_THREAD: u32 = 0;
const OF_GROUP: u32 = 1;
const OF_USER: u32 = 2;

impl Calls {
    fn own_number(&self) -> i32 {
        self.guest.as_raw_nonzero().get()
    }

    /// A call about a thread's policy.
    pub(super) fn policy(registers: &Registers, threads: &Threads) -> Next {
        let number = registers.rdi as i32;
        // Less than nothing is none, and wrong, to the kernel.
        if number <= 0 || threads.has(number) {
            Next::Serve
        } else {
            Next::ServeWith(Change::First(NOBODY))
        }
    }

    /// A call about nice values. That of its group or its user is the caller's to the guest.
    pub(super) fn nice(&self, registers: &Registers, threads: &Threads) -> Next {
        let (which, who) = (registers.rdi as u32, registers.rsi as u32);
        let number = who.cast_signed();
        let is_own = match which {
            OF_THREAD if number == 0 || threads.has(number) => return Next::Serve,
            OF_THREAD => false,
            OF_GROUP => number == 0 || number == self.own_number(),
            OF_USER => who == 0 || who == rustix::process::getuid().as_raw(),
            _ => return failed(Errno::INVAL),
        };
        let whose = if is_own { 0 } else { NOBODY };
        Next::ServeWith(Change::FirstTwo(OF_THREAD.into(), whose))
    }

    /// `sched_setaffinity`, which is kept: it is the host's matter what runs where.
    pub(super) fn set_affinity(
        &self,
        tracee: Tracee,
        registers: &Registers,
        threads: &mut Threads,
    ) -> Result<i64, Errno> {
        let mut wanted = [0; 8];
        let given = wanted.len().min(registers.rsi as u32 as usize);
        let into = wanted.get_mut(..given).unwrap_or_default();
        if given > 0 && tracee.read(registers.rdx, into).ok() != Some(given) {
            return Err(Errno::FAULT);
        }
        let thread = threads.asked(tracee.0, registers.rdi as i32);
        let thread = thread.ok_or(Errno::SRCH)?;
        let all = self.begin.processors.into();
        thread.processors = scheduling::affinity(u64::from_le_bytes(wanted), all)?;
        Ok(0)
    }

    /// `sched_getaffinity`: all, in a word, unless the thread asked for some.
    pub(super) fn affinity(
        &self,
        tracee: Tracee,
        registers: &Registers,
        threads: &mut Threads,
    ) -> Result<i64, Errno> {
        if (registers.rsi as u32) < 8 || !registers.rsi.is_multiple_of(8) {
            return Err(Errno::INVAL);
        }
        let thread = threads.asked(tracee.0, registers.rdi as i32);
        let processors = match thread.ok_or(Errno::SRCH)?.processors {
            0 => scheduling::all(self.begin.processors.into()),
            some => some,
        };
        let written = tracee.write(registers.rdx, &processors.to_le_bytes());
        written.map(|()| 8).map_err(|_| Errno::FAULT)
    }

    /// A call about process groups and sessions: the guest leads its own, and is alone.
    pub(super) fn group(&self, registers: &Registers, threads: &Threads) -> Next {
        let (own, first) = (self.own_number(), registers.rdi);
        let has = |number| threads.has(number);
        match registers.orig_rax as i64 {
            libc::SYS_getpgrp => Next::Done(own.into()),
            libc::SYS_setsid => failed(Errno::PERM),
            libc::SYS_setpgid => failed(process::cannot_leave(own, [first, registers.rsi], has)),
            _ => finished(process::leader(own, first, has).map(i64::from)),
        }
    }

    /// The process group that a terminal is in the foreground of: the guest's, or another of the host's.
    pub(super) fn foreground(&self, tracee: Tracee, registers: &Registers) -> Result<i64, Errno> {
        let file = self.file(tracee, registers.rdi)?;
        // Others are no terminals, and might have whoever asks wait.
        if host::kind(file.as_raw_fd())? != FileType::CharacterDevice {
            return Err(Errno::NOTTY);
        }
        let found = terminal::foreground(file.as_fd())?;
        let is_own = found == rustix::process::getpgrp().as_raw_nonzero().get();
        let told = if is_own { self.own_number() } else { 0 };
        let written = tracee.write(registers.rdx, &told.to_le_bytes());
        written.map(|()| 0).map_err(|_| Errno::FAULT)
    }
}
