//! The tracer's side: waits for the guest's threads, answers what their filter asks ([`asked`]), and learns from the kernel where a
//! fault was ([`signalled`]).

mod asked;
mod signalled;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::process::Pid;
use rustix::time::Timespec;

use self::asked::put_back;
pub(super) use self::signalled::killed;
use super::StopCounts;
use super::calls::Calls;
use super::events::{Event, Events};
use super::follow::{Follow, Followed, stopped_by};
use super::printer::Printer;
use super::ptrace::{Resume, Stopped, Tracee};
use super::signals::Children;
use super::threads::Threads;
use super::watch::Watch;
use crate::fault::{Fault, Outcome};
use crate::plan::Plan;
use crate::unserved::Unserved;
use crate::usage::HostUsage;

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
    /// It was ended for memory that nobody counts.
    had_zeros: bool,
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
            had_zeros: false,
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
        let followed = watch.follow(|heard| self.follow.stop(one, &mut self.events, heard))?;
        Ok(followed != Followed::Nothing)
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
                None => killed(signal, self.sent_sigsys, self.had_zeros),
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
                let looks = self.threads.stopped(thread.0).looks.take();
                self.look(thread, looks);
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
}
