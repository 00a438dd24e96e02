//! The tracer's side: waits for the guest's threads, answers what their filter asks, and learns from the kernel where a
//! fault was.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};
use rustix::time::Timespec;

use super::StopCounts;
use super::calls::{Calls, Next};
use super::change::Change;
use super::events::{Event, Events};
use super::follow::{Follow, stopped_by};
use super::listener::Wanted;
use super::printer::Printer;
use super::ptrace::{Info, Registers, Resume, Stopped, Tracee};
use super::signals::{Children, PASSED_ON};
use super::taken::shared_file;
use super::threads::{Script, Threads};
use super::watch::Watch;
use crate::fault::{Cause, Fault, Outcome};
use crate::job::{STOPS, undone_by};
use crate::linux::table;
use crate::memory::Access;
use crate::plan::Plan;
use crate::unserved::Unserved;
use crate::usage::HostUsage;

/// `si_code` of a fault that the processor raised without an address.
const SI_KERNEL: i32 = 0x80;
/// `si_code` of a SIGBUS for an address that is not aligned (asm-generic/siginfo.h).
const BUS_ADRALN: i32 = 1;
/// What `PTRACE_O_TRACESYSGOOD` makes of the stop at a call's end.
const END_OF_CALL: i32 = libc::SIGTRAP | 0x80;

/// How a traced guest ended.
#[derive(Debug)]
pub(super) enum End {
    /// As a guest.
    Guest(Outcome, HostUsage, Noted),
    /// Before it was one: something of the VMM stayed mapped.
    Leaving,
}

/// What is noted for the report.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) stops: StopCounts,
    pub(super) unserved: Unserved,
}

/// The guest's tracer.
pub(super) struct Tracer<'a> {
    guest: Pid,
    plan: &'a Plan,
    /// What R15 holds where the guest's process cannot let go of this program.
    leaving: u64,
    calls: Calls,
    children: Children,
    watch: &'a Watch,
    /// This process.
    own: Pid,
    threads: Threads,
    events: Events,
    /// The thread in a call that must not overlap with others that are counted, and those that wait
    /// for its end, stopped.
    counted: Option<Pid>,
    waiting: VecDeque<Tracee>,
    /// For each thread the fault, with its signal, that was the last to be delivered to it, in order.
    faults: Vec<(Pid, i32, Fault)>,
    /// SIGSYS was on its way to a thread: it was sent. The filter ends a guest without.
    sent_sigsys: bool,
    follow: Follow,
    is_leaving: bool,
    noted: Noted,
    printer: Option<Printer>,
}

impl<'a> Tracer<'a> {
    /// Of `guest`, which is traced and has not begun.
    pub(super) fn new(
        guest: Pid,
        plan: &'a Plan,
        leaving: u64,
        calls: Calls,
        watch: &'a Watch,
    ) -> io::Result<Self> {
        Ok(Self {
            guest,
            plan,
            leaving,
            calls,
            children: Children::new()?,
            watch,
            own: rustix::process::getpid(),
            threads: Threads::new(guest),
            events: Events::default(),
            counted: None,
            waiting: VecDeque::new(),
            faults: Vec::new(),
            sent_sigsys: false,
            follow: Follow::default(),
            is_leaving: false,
            noted: Noted::default(),
            printer: None,
        })
    }

    /// Prints to `out` what the guest does, from its first instruction on.
    pub(super) fn print(&mut self, out: File) -> io::Result<()> {
        self.printer = Some(Printer::new(out));
        Tracee(self.guest).interrupt()
    }

    /// Lets a thread go on, to its next call if calls are printed.
    fn resume(&self, thread: Tracee, how: Resume) {
        thread.resume(match how {
            Resume::Run(signal) if self.printer.is_some() => Resume::ToCall(signal),
            how => how,
        });
    }

    /// Waits for the end of the guest.
    pub(super) fn wait(mut self) -> io::Result<End> {
        loop {
            let Event {
                thread,
                status,
                usage,
            } = self.event()?;
            if libc::WIFSTOPPED(status) {
                let next = self.stopped(Tracee(thread), status);
                if let Some(next) = next {
                    self.resume(Tracee(thread), next);
                }
            } else if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                if let Some(printer) = &mut self.printer {
                    printer.ended(thread, status);
                }
                // The kernel tells of the first thread's end when no other is left.
                if thread == self.guest {
                    return Ok(self.end(status, usage));
                }
                self.threads.ended(thread);
                if libc::WIFEXITED(status) {
                    self.faults.retain(|(faulted, ..)| *faulted != thread);
                }
                self.waiting.retain(|waiting| waiting.0 != thread);
                self.not_counted(thread);
            }
        }
    }

    fn event(&mut self) -> io::Result<Event> {
        loop {
            // Who comes does not wait until all others rest.
            if self.served_one(Some(&Timespec::default()))? {
                continue;
            }
            if let Some(event) = self.events.next() {
                return Ok(event);
            }
            if self.events.collect(self.guest, self.threads.is_one())? || self.follow_stop()? {
                continue;
            }
            if self.served_one(None)? {
                continue;
            }
            self.watch.pulse().rest(|| self.children.wait())?;
        }
    }

    /// Stops with the guest, where all of it has, and goes on with it. False if there was nothing to do.
    fn follow_stop(&mut self) -> io::Result<bool> {
        let calls = &mut self.calls;
        let one = (self.threads).all_stay(self.guest, || calls.has_first_left());
        let Some(one) = one else {
            return Ok(false);
        };
        let watch = self.watch;
        watch.hold(|heard| self.follow.stop(one, &mut self.events, heard))
    }

    /// Gives a thread what it has come for, if one is on its way and comes before another tells something and within `patience`.
    fn served_one(&mut self, patience: Option<&Timespec>) -> io::Result<bool> {
        let Some(listener) = (self.calls.listener.as_ref()).filter(|_| self.threads.any_comes())
        else {
            return Ok(false);
        };
        let (children, asked) = (&self.children, listener.as_fd());
        let pulse = self.watch.pulse();
        let is_there = pulse.rest(|| children.or_asked(asked, patience))?;
        if is_there && let Some(came) = listener.next() {
            let wanted = self.threads.came(came.thread);
            if let Some(wanted) = listener.answer(&came, wanted) {
                self.threads.comes(came.thread, wanted);
            }
        }
        Ok(is_there)
    }

    fn end(mut self, status: i32, usage: HostUsage) -> End {
        if self.is_leaving {
            return End::Leaving;
        }
        self.noted.unserved.unheard = self.calls.unheard;
        let outcome = if libc::WIFEXITED(status) {
            Outcome::Exited(libc::WEXITSTATUS(status) as u8)
        } else {
            let signal = libc::WTERMSIG(status);
            let last = self.faults.iter().rev().find(|fault| fault.1 == signal);
            match last {
                Some((.., fault)) => Outcome::Fault(fault.clone()),
                None => killed(signal, self.sent_sigsys),
            }
        };
        End::Guest(outcome, usage, self.noted)
    }

    /// What a thread does that has stopped; `None` if it is to stay so for now.
    fn stopped(&mut self, thread: Tracee, status: i32) -> Option<Resume> {
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16;
        let stops_with_all = stopped_by(status);
        self.follow.reports(stops_with_all);
        self.threads.stays(thread.0, false);
        if event == libc::PTRACE_EVENT_CLONE
            && let Ok(started) = thread.message()
        {
            let number = started as i32;
            let goes_on = self.threads.started(thread.0, number);
            if let (Some(how), Some(new)) = (goes_on, Pid::from_raw(number)) {
                self.threads.stays(new, how == Resume::StayStopped);
                self.resume(Tracee(new), how);
            }
            self.noted.stops.threads += 1;
        }
        let several = !self.threads.is_one();
        if let Some(printer) = &mut self.printer {
            printer.several(several);
        }
        match (event, signal) {
            (libc::PTRACE_EVENT_SECCOMP, _) => {
                self.noted.stops.asked += 1;
                self.asked(thread)
            }
            (libc::PTRACE_EVENT_CLONE, _) => Some(Resume::Run(0)),
            (libc::PTRACE_EVENT_STOP, _) => {
                let how = match stops_with_all {
                    None => Resume::Run(0),
                    Some(_) => Resume::StayStopped,
                };
                let goes_on = !self.threads.holds(thread.0, how);
                let stays = goes_on && how == Resume::StayStopped;
                self.threads.stays(thread.0, stays);
                goes_on.then_some(how)
            }
            (_, END_OF_CALL) => {
                self.noted.stops.calls += 1;
                let call = self.printer.as_ref().map(|_| thread.call());
                // What it does in place of a call is no call of its own.
                let goes_on = self.threads.stopped(thread.0).script.is_some();
                if let (Some(printer), Some(Ok(call @ Stopped::AtCall { .. }))) =
                    (&mut self.printer, &call)
                {
                    if !goes_on {
                        printer.stopped(thread, call, self.plan);
                    }
                    return Some(Resume::Run(0));
                }
                if let Some(before) = self.threads.stopped(thread.0).changed.take() {
                    put_back(thread, &before);
                }
                if std::mem::take(&mut self.threads.stopped(thread.0).shares)
                    && self.calls.has_zeros()
                {
                    // Or it is gone already.
                    let _ = rustix::process::kill_process(self.guest, Signal::KILL);
                }
                let left = self.threads.came(thread.0);
                self.not_counted(thread.0);
                if self.does_more(thread, left) {
                    return Some(Resume::Run(0));
                }
                if let Some(mask) = self.threads.stopped(thread.0).mask.take() {
                    let _ = thread.block(mask);
                }
                if let (Some(printer), Some(Ok(call))) = (&mut self.printer, &call) {
                    printer.stopped(thread, call, self.plan);
                }
                Some(Resume::Run(0))
            }
            _ => {
                self.noted.stops.signals += 1;
                if !self.is_due(thread, signal) {
                    return Some(Resume::Run(0));
                }
                if let Some(printer) = &mut self.printer {
                    printer.signal(thread);
                }
                // If the guest has no handler for it, it dies of this signal.
                self.faults.retain(|(faulted, ..)| *faulted != thread.0);
                self.sent_sigsys |= signal == libc::SIGSYS;
                if let Some(fault) = self.fault_of(thread, signal) {
                    self.faults.push((thread.0, signal, fault));
                }
                Some(Resume::Run(signal))
            }
        }
    }

    /// What a call that the filter asks about takes. A thread that is gone is noticed by a later wait.
    fn asked(&mut self, thread: Tracee) -> Option<Resume> {
        let Ok(registers) = thread.registers() else {
            return Some(Resume::Run(0));
        };
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
            self.threads.stopped(thread.0).shares = shares;
        }
        Some(match next {
            Next::Serve if counts => Resume::ToEndOfCall,
            Next::Serve => Resume::Run(0),
            Next::ServeAndSee(flags) => {
                self.threads.stopped(thread.0).opens = Some(flags);
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

    /// `thread` has come to the end of a call, and makes it once more to do something else. `left` it did not come for.
    fn does_more(&mut self, thread: Tracee, left: Option<Wanted>) -> bool {
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
    fn not_counted(&mut self, thread: Pid) {
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

    /// Whether `signal`, for which `thread` has stopped, is delivered: of what somebody sends to the VMM and the guest, one is.
    fn is_due(&mut self, thread: Tracee, signal: i32) -> bool {
        let stops = STOPS.contains(&signal);
        if !PASSED_ON.contains(&signal) && !stops {
            return true;
        }
        let Ok(info) = thread.signal() else {
            return true;
        };
        let sent = self.watch.sent();
        let is_own = info.code() <= 0 && Pid::from_raw(info.sender().0) == Some(self.guest);
        if is_own {
            // The kernel has dropped what the guest has undone.
            for &undone in undone_by(signal) {
                sent.meets(undone, || self.calls.waits(undone));
            }
        }
        if PASSED_ON.contains(&signal) && !self.is_first(signal, &info) {
            return false;
        }
        if stops {
            let alone = match signal {
                // The guest can have no say in it, nor this process.
                libc::SIGSTOP => !is_own,
                _ => self.watch.sent().came_alone(signal),
            };
            self.follow.delivers(alone);
        }
        true
    }

    /// Whether `signal`, one that is passed on, has not been delivered from another sender or by another way.
    fn is_first(&mut self, signal: i32, info: &Info) -> bool {
        let sent = self.watch.sent();
        let (sender, _) = info.sender();
        match (info.code(), Pid::from_raw(sender)) {
            (libc::SI_USER, Some(own)) if own == self.own => sent.arrives(signal),
            (libc::SI_USER, other) if other != Some(self.guest) => sent.comes(signal, sender),
            (code, _) => {
                sent.meets(signal, || self.calls.waits(signal));
                if code == libc::SI_KERNEL {
                    self.watch.terminal_tells(signal);
                }
                true
            }
        }
    }

    /// What the signal that is about to be delivered says of the guest, if it is a fault's.
    fn fault_of(&mut self, guest: Tracee, signal: i32) -> Option<Fault> {
        let faults = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
        ];
        if !faults.contains(&signal) {
            return None;
        }
        let (info, registers) = (guest.signal().ok()?, guest.registers().ok()?);
        // A signal that a process sent is not a fault.
        if info.code() <= 0 {
            return None;
        }
        let cause = match signal {
            libc::SIGSEGV if info.code() == SI_KERNEL => Cause::Protection,
            libc::SIGSEGV => {
                let address = info.address();
                Cause::Memory {
                    address,
                    access: access(address, registers.rip, self.plan),
                    allowed: None,
                }
            }
            libc::SIGILL => {
                self.is_leaving |= registers.r15 == self.leaving;
                Cause::UndefinedInstruction
            }
            libc::SIGFPE => Cause::Arithmetic,
            libc::SIGTRAP => Cause::Breakpoint,
            // What is left is SIGBUS: a stack's bad address, one that is not aligned, and pages that a file has not.
            _ if info.code() == SI_KERNEL => Cause::Exception(12),
            _ if info.code() == BUS_ADRALN => Cause::Exception(17),
            _ => Cause::PastFile {
                address: info.address(),
            },
        };
        Some(Fault {
            cause,
            instruction_pointer: registers.rip,
            stack_pointer: registers.rsp,
        })
    }
}

/// A guest has ended by `signal`, which was no fault of its own. Of two that no thread stops for it is said in words what
/// they mean: nobody else would know.
pub(super) fn killed(signal: i32, sent: bool) -> Outcome {
    let words = match signal {
        libc::SIGKILL => {
            "killed (SIGKILL): by itself, by another program, at a limit of processor time, or by the host for lack of memory"
        }
        libc::SIGSYS if !sent => {
            "a system call of 32-bit code (int 0x80), which is not served (SIGSYS)"
        }
        _ => return Outcome::Signalled(signal),
    };
    Outcome::Fault(Fault {
        cause: Cause::Killed(signal, words),
        instruction_pointer: 0,
        stack_pointer: 0,
    })
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
fn put_back(guest: Tracee, before: &Registers) {
    if let Ok(now) = guest.registers() {
        let registers = Registers {
            rax: now.rax,
            ..*before
        };
        let _ = guest.set_registers(&registers);
    }
}

/// What the guest tried: the kernel does not tell, but often only one thing can be.
fn access(address: u64, instruction: u64, plan: &Plan) -> Option<Access> {
    if address == instruction {
        return Some(Access::Execute);
    }
    let holds = |m: &&crate::plan::Mapping| (m.address.0..m.end()).contains(&address);
    let mapping = plan.mappings.iter().find(holds)?;
    let only_reads = mapping.protection.read && !mapping.protection.write;
    only_reads.then_some(Access::Write)
}
