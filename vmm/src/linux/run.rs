//! Serving calls, and which task goes on afterwards.

use std::os::fd::RawFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::time::Timespec;

use super::host::{DiskCall, failed};
use super::scheduler::Tid;
use super::table::{Server, Topic};
use super::task::Pending;
use super::wait::{Progress, Wait, is_made_again, restart};
use super::{Call, Linux, Reply, Request, Served, Stop, dispatch, poll, table};

impl Linux {
    /// Serves one call of the running task.
    pub fn serve(&mut self, call: &Call) -> Reply {
        if let Some((at, _)) = server(call.number) {
            self.counts[at] += 1;
        } else {
            self.unserved.unknown(call.number);
        }
        self.progress = Progress::default();
        self.trace_call(call);
        self.ask(call)
    }

    fn ask(&mut self, call: &Call) -> Reply {
        let reply = self.reply(call);
        self.answered(call, reply)
    }

    fn answered(&mut self, call: &Call, reply: Reply) -> Reply {
        if let Some(deadline) = self.progress.deadline
            && !matches!(reply, Reply::Waits)
        {
            poll::tell_time_left(self, call, deadline);
        }
        self.trace_reply(call, &reply);
        reply
    }

    fn reply(&mut self, call: &Call) -> Reply {
        self.stack_pointer = call.stack_pointer;
        match self.as_job(call, |linux| linux.served(call)) {
            Ok(value) => self.returned(value),
            Err(Stop::Error(error)) => self.returned(failed(error)),
            Err(Stop::Refused(error)) => {
                self.unserved.refused(call.number, &call.arguments);
                self.returned(failed(error))
            }
            Err(Stop::End(outcome)) => Reply::End(outcome),
            Err(Stop::Fault(cause)) => Reply::Fault(cause),
            Err(Stop::Ended) => Reply::Ended,
            Err(Stop::Request(request)) => Reply::Request(request),
            Err(Stop::Interrupted) => self.interrupt(call),
            Err(Stop::Wait(_)) if self.progress.interrupted => self.interrupt(call),
            Err(Stop::Wait(wait)) if !self.has_room(&wait) => {
                let moved = self.progress.moved().unwrap_or(failed(Errno::NOMEM));
                self.returned(moved)
            }
            Err(Stop::Wait(wait)) => {
                let progress = std::mem::take(&mut self.progress);
                self.kept.add(&progress.records);
                self.task().pending = Some(Pending {
                    call: *call,
                    progress,
                    stopped: false,
                });
                self.scheduler.wait(wait);
                // What it waits with may let in what was blocked before.
                if self.signals_due(self.serving) != 0 {
                    self.scheduler.wake(self.serving);
                }
                Reply::Waits
            }
        }
    }

    fn served(&mut self, call: &Call) -> Served {
        match server(call.number) {
            Some((at, Server::Host(kinds))) => self.with_limits(at, |linux| {
                dispatch::pass(linux, call.number, kinds, call.arguments)
            }),
            Some((_, Server::Disk(kinds))) => dispatch::numbers(self, kinds, call.arguments)
                .and_then(|raw| {
                    Err(Stop::Request(Request::Disk(DiskCall::new(
                        call.number,
                        raw,
                    ))))
                }),
            Some((at, Server::Monitor(handler))) => {
                self.with_limits(at, |linux| handler(linux, call.arguments))
            }
            Some((_, Server::ProcessOnly)) | None => Err(Errno::NOSYS.into()),
        }
    }

    /// The call has ended by itself, and with it the mask that it waited with. (One that a signal ends has
    /// its handler see to that.)
    fn returned(&mut self, value: u64) -> Reply {
        self.restore_mask();
        Reply::Return(value)
    }

    /// `call` waits no more: it has moved what it has moved, or a handler runs first.
    fn interrupt(&mut self, call: &Call) -> Reply {
        match self.progress.moved() {
            Some(moved) => Reply::Return(moved),
            None => Reply::Interrupted {
                restart: restart(call, self.progress.deadline),
            },
        }
    }

    /// There is room to remember `wait`, and what the call that waits has read.
    fn has_room(&self, wait: &Wait) -> bool {
        self.scheduler.has_room(wait) && self.kept.has_room(&self.progress.records)
    }

    /// The task that runs on: the one that did until its turn is over, or the next that is ready. With
    /// it comes the answer to the call that it waited in. `None` when all wait.
    pub fn next_task(&mut self) -> Option<(Tid, Option<Reply>)> {
        loop {
            let tid = self.scheduler.next()?;
            self.serving = tid;
            if self.task().pending.is_none() {
                return Some((tid, None));
            }
            // It may be stopped by that while it waits.
            let is_due = self.settle_signals(tid) != 0;
            let Some(pending) = self.task().pending.take() else {
                return Some((tid, None));
            };
            self.kept.remove(&pending.progress.records);
            self.progress = pending.progress;
            self.progress.interrupted |= is_due;
            let reply = if pending.stopped && is_due && is_made_again(&pending.call, &self.progress)
            {
                let reply = self.interrupt(&pending.call);
                self.answered(&pending.call, reply)
            } else {
                self.ask(&pending.call)
            };
            match reply {
                Reply::Waits => {}
                reply => return Some((tid, Some(reply))),
            }
        }
    }

    /// It is `processor` that calls from now on.
    pub fn turn_to(&mut self, processor: usize) {
        if let Some(tid) = self.scheduler.turn_to(processor) {
            self.serving = tid;
        }
    }

    /// How many processors there are.
    pub fn processors(&self) -> usize {
        self.scheduler.processors()
    }

    /// Other processors that have something to do: a task to run, or a signal to deliver.
    pub fn called(&self) -> Vec<usize> {
        let mut called = self.scheduler.called();
        let signalled = |&(_, tid): &(usize, Tid)| self.signals_due(tid) != 0;
        let running = self.scheduler.elsewhere().filter(signalled);
        called.extend(running.map(|(processor, _)| processor));
        called
    }

    /// True when more is ready than the other processors that run nothing will take.
    pub fn is_crowded(&self) -> bool {
        self.scheduler.is_crowded()
    }

    /// True when the running task goes on.
    pub fn goes_on(&self) -> bool {
        self.scheduler.goes_on()
    }

    /// The running task has had its turn.
    pub fn end_turn(&mut self) {
        self.scheduler.end_turn();
    }

    /// It is `now`: whoever waited for that is woken.
    pub fn pass(&mut self, now: Timespec) {
        self.expire_timers(now);
        self.scheduler.pass(now);
    }

    /// What `tid` waited for at a descriptor has come.
    pub fn wake(&mut self, tid: Tid) {
        self.scheduler.wake(tid);
    }

    /// The first moment at which something is to be done in any case.
    pub fn deadline(&self) -> Option<Timespec> {
        let deadlines = [self.scheduler.deadline(), self.timers.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// The tasks that could run beside the running one, in turn.
    pub fn ready(&self) -> impl Iterator<Item = Tid> {
        self.scheduler.ready()
    }

    /// True when there is one.
    pub fn has_ready(&self) -> bool {
        self.scheduler.ready().next().is_some()
    }

    /// How many waits for descriptors have begun, if one lasts.
    pub fn descriptor_waits(&self) -> Option<u64> {
        self.scheduler.descriptor_waits()
    }

    /// What is waited for at descriptors, and by whom.
    pub fn descriptors(&self) -> impl Iterator<Item = (Tid, RawFd, PollFlags)> {
        self.scheduler.descriptors()
    }
}

impl Linux {
    /// What a call returns that writes `value` to `at`.
    pub fn write_result(&mut self, at: u64, value: u64) -> u64 {
        let result = match self.memory.write_value(at, &value) {
            Ok(()) => 0,
            Err(_) => failed(Errno::FAULT),
        };
        self.trace_result(result);
        result
    }
}

impl Linux {
    /// Serves the call at `at` of the table within the limits that the host's kernel keeps for a call alone.
    fn with_limits(&mut self, at: usize, serve: impl FnOnce(&mut Self) -> Served) -> Served {
        match table::at(at).topic {
            Topic::File | Topic::Path => self.within_file_size(serve),
            _ => serve(self),
        }
    }
}

/// Who serves call `number`, and where it is in the table.
fn server(number: u64) -> Option<(usize, Server)> {
    let at = table::find(number)?;
    let server = table::at(at).server;
    (!matches!(server, Server::ProcessOnly)).then_some((at, server))
}
