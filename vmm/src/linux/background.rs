//! The terminal of the job that the VMM is. A guest that uses it in its background is stopped, or told, as any program is (`__tty_check_change` of
//! drivers/tty/tty_jobctrl.c): by the host's kernel, which asks what becomes of the signals of whoever calls it.

use std::os::fd::RawFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::signal::{Info, Signal, Target};
use super::wait::STREAMS;
use super::{Call, Linux, Served, Stop, host};
use crate::{job, signals, terminal};

/// What a terminal sends to who reads from it, and to who changes it or writes to it where it does not like that (`TOSTOP`).
const ASKS: [i32; 2] = [libc::SIGTTIN, libc::SIGTTOU];
/// Which arguments of a call are files that it uses as their terminal may not like.
fn used(number: i64) -> &'static [usize] {
    match number {
        libc::SYS_ioctl => &[0],
        libc::SYS_sendfile => &[0, 1],
        libc::SYS_splice => &[0, 2],
        number if STREAMS.contains(&number) => &[0],
        _ => &[],
    }
}

impl Linux {
    /// Serves `call` by `serve`, as the host's kernel would have it of a program that the terminal may stop. What that sends is the guest's.
    pub(super) fn as_job(
        &mut self,
        call: &Call,
        serve: impl FnOnce(&mut Self) -> Served,
    ) -> Served {
        if !self.uses_terminal(call) {
            return serve(self);
        }
        let asks: Vec<i32> = ASKS.into_iter().filter(|&ask| self.hears(ask)).collect();
        let (served, came) = job::at_terminal(&asks, || serve(self));
        for ask in asks {
            if came & signals::bit(ask) != 0 {
                let info = Info::new(ask as Signal, libc::SI_KERNEL);
                // Of each there is room for one.
                let _ = self.send(Target::Process, info);
            }
        }
        match served {
            Err(Stop::Error(Errno::INTR)) if came != 0 => Err(Stop::Interrupted),
            served => served,
        }
    }

    /// `call` is about the terminal, in whose background this process is.
    pub(super) fn uses_terminal(&self, call: &Call) -> bool {
        let is_elsewhere = |&at: &usize| {
            let file = self.descriptor(call.arguments[at]).ok();
            let foreground = file.and_then(foreground);
            foreground.is_some_and(|group| group != self.group)
        };
        self.at_terminal && used(call.number as i64).iter().any(is_elsewhere)
    }
}

/// One of the standard files is the terminal of this process.
pub(super) fn has_terminal() -> bool {
    (0..3).any(|file| foreground(file).is_some())
}

/// The process group in the foreground of `file`, if it is the terminal of this process. Others are not asked: they might take it for something else.
fn foreground(file: RawFd) -> Option<i32> {
    let may_be_terminal = host::kind(file) == Ok(FileType::CharacterDevice);
    let foreground = may_be_terminal.then(|| terminal::foreground(host::borrow(file)));
    foreground?.ok()
}
