//! Calls about signals.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use rustix::io::Errno;

use super::super::process::PID;
use super::super::scheduler::Tid;
use super::super::wait::Wait;
use super::super::{Arguments, Linux, Request, Served, Stop, time};
use super::send::{Target, named};
use super::{Action, Info, LAST, Signal, SignalStack, UNSTOPPABLE, bit};

/// Bytes of a signal set.
const SET: u64 = 8;

fn set_size(size: u64) -> Result<(), Errno> {
    if size == SET {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
}

/// `rt_sigaction`.
pub(in super::super) fn rt_sigaction(
    linux: &mut Linux,
    [signal, new, old, size, ..]: Arguments,
) -> Served {
    set_size(size)?;
    let signal = named(signal)?.ok_or(Errno::INVAL)?;
    let mut wanted = None;
    if new != 0 {
        let mut bytes = [0; Action::BYTES];
        linux.memory.read(new, &mut bytes)?;
        let mut action = Action::parse(&bytes);
        action.mask &= !UNSTOPPABLE;
        if bit(signal) & UNSTOPPABLE != 0 {
            return Err(Errno::INVAL.into());
        }
        wanted = Some(action);
    }
    let current = *linux.signals.action(signal);
    if let Some(action) = wanted {
        *linux.signals.action(signal) = action;
        if action.ignores(signal) {
            linux.forget_signals(bit(signal));
        }
    }
    if old != 0 {
        linux.memory.write(old, &current.bytes())?;
    }
    Ok(0)
}

/// `rt_sigprocmask`.
pub(in super::super) fn rt_sigprocmask(
    linux: &mut Linux,
    [how, new, old, size, ..]: Arguments,
) -> Served {
    set_size(size)?;
    let current = linux.task().mask;
    if new != 0 {
        let set: u64 = linux.memory.read_value(new)?;
        let mask = match how as i32 {
            libc::SIG_BLOCK => current | set,
            libc::SIG_UNBLOCK => current & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::INVAL.into()),
        };
        linux.task().mask = mask & !UNSTOPPABLE;
        linux.offer_shared();
    }
    if old != 0 {
        linux.memory.write_value(old, &current)?;
    }
    Ok(0)
}

/// `rt_sigpending`.
pub(in super::super) fn rt_sigpending(linux: &mut Linux, [at, size, ..]: Arguments) -> Served {
    if size > SET {
        return Err(Errno::INVAL.into());
    }
    let shared = linux.signals.shared.set();
    let task = linux.task();
    let pending = (shared | task.signals.set()) & task.mask;
    linux
        .memory
        .write(at, &pending.to_le_bytes()[..size as usize])?;
    Ok(0)
}

/// `rt_sigreturn`: the end of a handler.
pub(in super::super) fn rt_sigreturn(_: &mut Linux, _: Arguments) -> Served {
    Err(Stop::Request(Request::SignalReturn))
}

/// `sigaltstack`.
pub(in super::super) fn sigaltstack(linux: &mut Linux, [new, old, ..]: Arguments) -> Served {
    let stack_pointer = linux.stack_pointer;
    let current = linux.task().stack;
    if new != 0 {
        let mut bytes = [0; SignalStack::BYTES];
        linux.memory.read(new, &mut bytes)?;
        linux.set_signal_stack(&bytes, stack_pointer)?;
    }
    if old != 0 {
        linux.memory.write(old, &current.bytes(stack_pointer))?;
    }
    Ok(0)
}

/// `kill`, of the process itself.
pub(in super::super) fn kill(linux: &mut Linux, [pid, signal, ..]: Arguments) -> Served {
    // By its number, or by its group's. There is no other process, which -1 would mean.
    let own = is_own(pid) || pid as i32 == 0 || pid as i32 == -(PID as i32);
    send(linux, own.then_some(Target::Process), signal, libc::SI_USER)
}

/// `tkill`.
pub(in super::super) fn tkill(linux: &mut Linux, [thread, signal, ..]: Arguments) -> Served {
    let target = Target::Task(linux.task_named(thread)?);
    send(linux, Some(target), signal, libc::SI_TKILL)
}

/// `tgkill`.
pub(in super::super) fn tgkill(
    linux: &mut Linux,
    [group, thread, signal, ..]: Arguments,
) -> Served {
    let target = in_group(linux, group, thread)?;
    send(linux, Some(target), signal, libc::SI_TKILL)
}

fn is_own(pid: u64) -> bool {
    pid as i32 == PID as i32
}

fn in_group(linux: &Linux, group: u64, thread: u64) -> Result<Target, Errno> {
    if group as i32 <= 0 {
        return Err(Errno::INVAL);
    }
    let tid: Tid = linux.task_named(thread)?;
    if is_own(group) {
        Ok(Target::Task(tid))
    } else {
        Err(Errno::SRCH)
    }
}

fn send(linux: &mut Linux, target: Option<Target>, signal: u64, code: i32) -> Served {
    // In the kernel's order.
    let target = target.ok_or(Errno::SRCH)?;
    if let Some(signal) = named(signal)? {
        linux.send(target, Info::from_guest(signal, code))?;
    }
    Ok(0)
}

/// `rt_sigqueueinfo`.
pub(in super::super) fn rt_sigqueueinfo(
    linux: &mut Linux,
    [pid, signal, info, ..]: Arguments,
) -> Served {
    let target = is_own(pid).then_some(Target::Process).ok_or(Errno::SRCH);
    queue(linux, target, signal, info)
}

/// `rt_tgsigqueueinfo`.
pub(in super::super) fn rt_tgsigqueueinfo(
    linux: &mut Linux,
    [group, thread, signal, info, ..]: Arguments,
) -> Served {
    let target = in_group(linux, group, thread);
    queue(linux, target, signal, info)
}

/// Any code is allowed of what the guest sends to itself. Others there are not, and who pretends to be the kernel to them is told so
/// first.
fn queue(linux: &mut Linux, target: Result<Target, Errno>, signal: u64, at: u64) -> Served {
    let mut bytes = [0; 48];
    linux.memory.read(at, &mut bytes)?;
    let code = i32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    let target = match target {
        Err(Errno::SRCH) if code >= 0 || code == libc::SI_TKILL => Err(Errno::PERM),
        target => target,
    }?;
    if let Some(signal) = named(signal)? {
        linux.send(target, Info::parse(signal, &bytes))?;
    }
    Ok(0)
}

/// `pause`: waits for a handler to have run.
pub(in super::super) fn pause(_: &mut Linux, _: Arguments) -> Served {
    Err(Stop::Wait(Wait::Woken { deadline: None }))
}

/// `rt_sigsuspend`: the same, with another mask.
pub(in super::super) fn rt_sigsuspend(linux: &mut Linux, [mask, size, ..]: Arguments) -> Served {
    set_size(size)?;
    linux.mask_for_wait(mask, size)?;
    pause(linux, [0; 6])
}

/// `rt_sigtimedwait`: takes a signal instead of having it delivered.
pub(in super::super) fn rt_sigtimedwait(
    linux: &mut Linux,
    [set, info, timeout, size, ..]: Arguments,
) -> Served {
    set_size(size)?;
    let tid = linux.tid();
    linux.task().awaited = 0;
    let [set] = linux.read_words_once(set)?;
    let set = set & !UNSTOPPABLE;
    if timeout != 0 && linux.progress.deadline.is_none() {
        let limit = time::read_timespec(linux, timeout)?;
        linux.progress.deadline = Some(time::from_now(time::duration(&limit)));
    }
    if let Some(taken) = linux.take_signal(tid, set) {
        if info != 0 {
            linux.memory.write(info, &taken.bytes())?;
        }
        return Ok(taken.signal.into());
    }
    let deadline = linux.progress.deadline;
    if deadline.is_some_and(time::is_over) {
        return Err(Errno::AGAIN.into());
    }
    if !linux.progress.interrupted {
        linux.task().awaited = set;
    }
    Err(Stop::Wait(Wait::Woken { deadline }))
}

impl Linux {
    /// The mask that a call waits with, at `at` if that is not null. What it was comes back when the
    /// call has returned, or after the handler that ends it.
    pub(in super::super) fn mask_for_wait(&mut self, at: u64, size: u64) -> Result<(), Stop> {
        if at == 0 {
            return Ok(());
        }
        set_size(size)?;
        if self.task().saved_mask.is_none() {
            let mask: u64 = self.memory.read_value(at)?;
            let task = self.task();
            task.saved_mask = Some(task.mask);
            task.mask = mask & !UNSTOPPABLE;
            self.offer_shared();
        }
        Ok(())
    }

    /// Sets the alternate stack of the running task, whose stack pointer is this.
    pub(super) fn set_signal_stack(
        &mut self,
        bytes: &[u8; SignalStack::BYTES],
        stack_pointer: u64,
    ) -> Result<(), Errno> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (start, flags, length) = (word(0), word(8) as u32, word(16));
        if self.task().stack.is_used(stack_pointer) {
            return Err(Errno::PERM);
        }
        let mode = flags & !SignalStack::DISARMS;
        let stack = match mode {
            SignalStack::DISABLED => SignalStack::default(),
            0 | SignalStack::ON if length < SignalStack::LEAST => return Err(Errno::NOMEM),
            0 | SignalStack::ON => SignalStack {
                start,
                length,
                disarms: flags & SignalStack::DISARMS != 0,
            },
            _ => return Err(Errno::INVAL),
        };
        self.task().stack = stack;
        Ok(())
    }
}

/// Every signal that a guest can name has a bit.
const _: () = assert!(LAST as Signal == 64);
