//! Calls about signals. Dispositions and masks are kept, and a signal that a guest sends itself
//! (`abort`, `raise`) or that a call raises (a closed pipe) ends it as it would under Linux.
//! Handlers are not entered yet: a guest that raises a signal it has a handler for is stopped
//! with a message rather than left to go on without it.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::record::Record;
use super::{Arguments, Linux, Served, Stop};
use crate::fault::{Cause, Outcome};

const DEFAULT: u64 = 0;
const IGNORE: u64 = 1;
/// Size of the kernel's `sigaction` on x86-64: handler, flags, restorer, mask.
const ACTION_SIZE: usize = 32;

/// Dispositions and the mask.
#[derive(Debug, Default)]
pub(super) struct Signals {
    actions: BTreeMap<u64, [u8; ACTION_SIZE]>,
    mask: u64,
    /// Raised while blocked.
    pending: u64,
    stack: Option<[u8; 24]>,
}

impl Signals {
    fn handler(&self, signal: u64) -> u64 {
        self.actions.get(&signal).map_or(DEFAULT, |action| {
            let mut handler = [0; 8];
            handler.copy_from_slice(&action[..8]);
            u64::from_le_bytes(handler)
        })
    }
}

/// Sends a signal: nothing happens, or it waits until it is unblocked, or the guest ends.
pub(super) fn raise(linux: &mut Linux, signal: u64) -> Result<(), Stop> {
    let bit = 1 << (signal - 1);
    if linux.signals.mask & bit != 0 && signal != libc::SIGKILL as u64 {
        linux.signals.pending |= bit;
        return Ok(());
    }
    deliver(linux, signal)
}

fn deliver(linux: &Linux, signal: u64) -> Result<(), Stop> {
    const IGNORED_BY_DEFAULT: [i32; 4] =
        [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT];
    let number = signal as i32;
    match linux.signals.handler(signal) {
        IGNORE if number != libc::SIGKILL => Ok(()),
        DEFAULT if IGNORED_BY_DEFAULT.contains(&number) => Ok(()),
        DEFAULT | IGNORE => Err(Stop::End(Outcome::Signalled(number))),
        _ if number == libc::SIGKILL => Err(Stop::End(Outcome::Signalled(number))),
        _ => Err(Stop::Fault(Cause::Unserved(format!(
            "signal {signal} was raised and has a handler; handlers are not served yet"
        )))),
    }
}

/// Delivers what waited and is blocked no more.
fn deliver_pending(linux: &mut Linux) -> Result<(), Stop> {
    loop {
        let ready = linux.signals.pending & !linux.signals.mask;
        if ready == 0 {
            return Ok(());
        }
        let signal = u64::from(ready.trailing_zeros()) + 1;
        linux.signals.pending &= !(1 << (signal - 1));
        deliver(linux, signal)?;
    }
}

/// `rt_sigaction`.
pub(super) fn rt_sigaction(linux: &mut Linux, [signal, new, old, size, ..]: Arguments) -> Served {
    if size != 8 || !(1..=64).contains(&signal) {
        return Err(Errno::INVAL.into());
    }
    let current = linux.signals.actions.get(&signal).copied();
    let action = if new == 0 {
        None
    } else {
        let mut action = [0; ACTION_SIZE];
        linux.memory.read(new, &mut action)?;
        Some(action)
    };
    if old != 0 {
        linux.memory.write(old, &current.unwrap_or_default())?;
    }
    if let Some(action) = action {
        if signal == libc::SIGKILL as u64 || signal == libc::SIGSTOP as u64 {
            return Err(Errno::INVAL.into());
        }
        linux.signals.actions.insert(signal, action);
    }
    Ok(0)
}

/// `rt_sigprocmask`.
pub(super) fn rt_sigprocmask(linux: &mut Linux, [how, new, old, size, ..]: Arguments) -> Served {
    if size != 8 {
        return Err(Errno::INVAL.into());
    }
    let current = linux.signals.mask;
    if new != 0 {
        let set: u64 = linux.memory.read_value(new)?;
        linux.signals.mask = match how {
            0 => current | set,
            1 => current & !set,
            2 => set,
            _ => return Err(Errno::INVAL.into()),
        };
    }
    if old != 0 {
        linux.memory.write(old, &current.to_le_bytes())?;
    }
    deliver_pending(linux)?;
    Ok(0)
}

impl Linux {
    /// The mask that a call waits with, at `at` if that is not null. It has no effect, as no handler would
    /// run.
    pub(super) fn mask_for_wait(&mut self, at: u64, size: u64) -> Result<(), Stop> {
        if at == 0 {
            return Ok(());
        }
        if size != 8 {
            return Err(Errno::INVAL.into());
        }
        let _: u64 = self.memory.read_value(at)?;
        Ok(())
    }
}

/// `sigaltstack`.
pub(super) fn sigaltstack(linux: &mut Linux, [new, old, ..]: Arguments) -> Served {
    const DISABLED: u32 = 2;
    if old != 0 {
        let none = Record::default().u64(0).u32(DISABLED).zeros(12);
        match linux.signals.stack {
            Some(stack) => linux.memory.write(old, &stack)?,
            None => linux.memory.write(old, none.bytes())?,
        }
    }
    if new != 0 {
        let mut stack = [0; 24];
        linux.memory.read(new, &mut stack)?;
        let disabled = stack[8] & DISABLED as u8 != 0;
        linux.signals.stack = (!disabled).then_some(stack);
    }
    Ok(0)
}

/// `kill`, to oneself.
pub(super) fn kill(linux: &mut Linux, [pid, signal, ..]: Arguments) -> Served {
    send(linux, pid, signal)
}

/// `tkill`, to oneself.
pub(super) fn tkill(linux: &mut Linux, [thread, signal, ..]: Arguments) -> Served {
    send(linux, thread, signal)
}

/// `tgkill`, to oneself.
pub(super) fn tgkill(linux: &mut Linux, [group, thread, signal, ..]: Arguments) -> Served {
    if group != super::process::PID {
        return Err(Errno::SRCH.into());
    }
    send(linux, thread, signal)
}

fn send(linux: &mut Linux, target: u64, signal: u64) -> Served {
    if target != super::process::PID && target != 0 {
        return Err(Errno::SRCH.into());
    }
    match signal {
        0 => {}
        1..=64 => raise(linux, signal)?,
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}

/// `pause`: sleeps until a signal ends the guest from outside.
pub(super) fn pause(_: &mut Linux, _: Arguments) -> Served {
    loop {
        std::thread::park();
    }
}
