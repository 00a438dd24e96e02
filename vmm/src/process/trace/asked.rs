//! Calls that the guest's filter asks about: what a thread does in place of one, and what it does after it.

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};

use super::super::calls::{Calls, Next};
use super::super::change::Change;
use super::super::listener::Wanted;
use super::super::ptrace::{Registers, Resume, Tracee};
use super::super::taken::shared_file;
use super::super::threads::{Looks, Script};
use super::Tracer;
use crate::linux::table;

impl Tracer<'_> {
    /// What a call that the filter asks about takes. A thread that is gone is noticed by a later wait.
    pub(super) fn asked(&mut self, thread: Tracee) -> Option<Resume> {
        let Ok(mut registers) = thread.registers() else {
            return Some(Resume::Run(0));
        };
        // The kernel, its filter among it, knows a call by the low half (`do_syscall_64`).
        registers.orig_rax &= u64::from(u32::MAX);
        // What the filter has decided, and wants noted.
        match thread.message() {
            Ok(0) => {}
            Ok(error) => {
                self.note_refused(&registers, error as i32);
                let failed = -i64::from(error as i32);
                return Some(finish(thread, registers, failed));
            }
            Err(_) => return Some(Resume::Run(0)),
        }
        if let Some((change, wanted)) = self.threads.stopped(thread.0).next_step() {
            if let Some(wanted) = wanted {
                self.threads.comes(thread.0, wanted);
            }
            return Some(self.change(thread, registers, change));
        }
        let counts = Calls::counts(registers.orig_rax);
        if counts && self.counted.is_some() {
            self.waiting.push_back(thread);
            return None;
        }
        let next = self.calls.next(thread, &registers, &mut self.threads);
        let counts =
            counts && !self.threads.is_one() && !matches!(next, Next::Done(_) | Next::Refused(_));
        if counts {
            self.counted = Some(thread.0);
            let shares = matches!(next, Next::Serve) && shared_file(&registers).is_some();
            self.threads.stopped(thread.0).looks = shares.then_some(Looks::Shared);
        }
        Some(match next {
            Next::Serve if counts => Resume::ToEndOfCall,
            Next::Serve => Resume::Run(0),
            Next::ServeAndSee(flags) => {
                self.threads.stopped(thread.0).opens = Some(flags);
                Resume::ToEndOfCall
            }
            Next::ServeAndSeeHeap => {
                self.threads.stopped(thread.0).looks = Some(Looks::Heap);
                Resume::ToEndOfCall
            }
            Next::ServeWith(change) => {
                if matches!(change, Change::Wait(_)) {
                    self.shield(thread);
                }
                self.change(thread, registers, change)
            }
            Next::Done(result) => finish(thread, registers, result),
            Next::Refused(error) => {
                self.note_refused(&registers, error.raw_os_error());
                finish(thread, registers, -i64::from(error.raw_os_error()))
            }
        })
    }

    /// Has `thread` make another call than it asked for.
    fn change(&mut self, thread: Tracee, registers: Registers, change: Change) -> Resume {
        // A failure leaves the call as it was, which the filter then asks about for ever: the
        // thread is gone.
        let _ = thread.set_registers(&change.of(registers));
        self.threads.stopped(thread.0).changed = Some(registers);
        Resume::ToEndOfCall
    }

    /// Looks at what the call that `thread` has come to the end of has done.
    pub(super) fn look(&mut self, thread: Tracee, looks: Option<Looks>) {
        match looks {
            Some(Looks::Heap) => {
                if let Ok(registers) = thread.registers() {
                    self.calls.heap_ends(registers.rax);
                }
            }
            Some(Looks::Shared) if self.calls.has_zeros() => {
                self.had_zeros = true;
                // Or it is gone already.
                let _ = rustix::process::kill_process(self.guest, Signal::KILL);
            }
            Some(Looks::Shared) | None => {}
        }
    }

    /// `thread` has come to the end of a call, and makes it once more to do something else. `left` it did not come for.
    pub(super) fn does_more(&mut self, thread: Tracee, left: Option<Wanted>) -> bool {
        let opened = self.threads.stopped(thread.0).opens.take();
        if let Some(flags) = opened {
            let script = self.script_for(thread, flags);
            self.threads.stopped(thread.0).script = script;
        }
        let state = self.threads.stopped(thread.0);
        let Some(script) = &mut state.script else {
            return false;
        };
        if left.is_some() {
            // All of the guest was told to stop before it was there.
            script.step = Some((Change::Wait(self.calls.secret), left));
        }
        if script.step.is_none() {
            if let Some(error) = script.fails {
                script.before.rax = (-i64::from(error.raw_os_error())).cast_unsigned();
                let _ = thread.set_registers(&script.before);
            }
            state.script = None;
            return false;
        }
        // Or it is gone.
        thread.set_registers(&script.again()).is_ok()
    }

    /// What `thread` is to do that has opened something with `flags`, if that is a place of the small world.
    fn script_for(&mut self, thread: Tracee, flags: OFlags) -> Option<Script> {
        let before = thread.registers().ok()?;
        let opened = u64::try_from(before.rax.cast_signed()).ok()?;
        let instead = (self.calls).instead(thread, opened, flags, &self.threads)?;
        self.shield(thread);
        let (step, fails) = match instead {
            Ok(step) => (step, None),
            Err(error) => ((Change::Close(opened), None), Some(error)),
        };
        Some(Script {
            step: Some(step),
            fails,
            before,
        })
    }

    /// Keeps signals from `thread` until it has come to the end of its call. Or it is gone.
    fn shield(&mut self, thread: Tracee) {
        if let Ok(mask) = thread.blocked()
            && thread.block(u64::MAX).is_ok()
        {
            self.threads.stopped(thread.0).mask = Some(mask);
        }
    }

    /// A call has been refused with `error`.
    fn note_refused(&mut self, registers: &Registers, error: i32) {
        let number = registers.orig_rax;
        let starts = matches!(
            number as i64,
            libc::SYS_fork | libc::SYS_vfork | libc::SYS_execve | libc::SYS_execveat
        );
        let unserved = &mut self.noted.unserved;
        if starts || number as i64 == libc::SYS_clone && error == libc::ENOSYS {
            unserved.process = true;
        } else if table::find(number).is_some() {
            let r = registers;
            unserved.refused(number, &[r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
        } else {
            unserved.unknown(number);
        }
    }

    /// `thread` is not in a call that is counted any more: the next may be.
    pub(super) fn not_counted(&mut self, thread: Pid) {
        if self.counted != Some(thread) {
            return;
        }
        self.counted = None;
        while self.counted.is_none()
            && let Some(next) = self.waiting.pop_front()
        {
            if let Some(resume) = self.asked(next) {
                self.resume(next, resume);
            }
        }
    }
}

/// Ends the call that `thread` has stopped in, with `result`.
fn finish(thread: Tracee, mut registers: Registers, result: i64) -> Resume {
    // No call: the kernel goes back to the guest with what RAX holds.
    registers.orig_rax = u64::MAX;
    registers.rax = result.cast_unsigned();
    let _ = thread.set_registers(&registers);
    Resume::Run(0)
}

/// At the end of a call whose registers were changed: the guest's own, and the result.
pub(super) fn put_back(guest: Tracee, before: &Registers) {
    if let Ok(now) = guest.registers() {
        let registers = Registers {
            rax: now.rax,
            ..*before
        };
        let _ = guest.set_registers(&registers);
    }
}
