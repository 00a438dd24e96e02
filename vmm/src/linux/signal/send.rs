//! Sending: where a signal waits, and whom it wakes.

use rustix::io::Errno;
use rustix::time::Timespec;

use super::super::scheduler::{FIRST, Tid};
use super::super::task::Task;
use super::super::wait::ends_by_stop;
use super::super::{Linux, Stop};
use super::{Action, Info, LAST, MOST_WAITING, REALTIME, Signal, UNSTOPPABLE, bit};
use crate::job::{self, undone_by};
use crate::signals::{self, Set};

/// Later than any limit.
const NEVER: Timespec = Timespec {
    tv_sec: i64::MAX,
    tv_nsec: 0,
};

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Target {
    /// Any task that does not block it.
    Process,
    /// This one.
    Task(Tid),
}

/// Sends the running task a signal that its call brings about (a closed pipe). It is delivered when
/// the call returns.
pub(in super::super) fn raise(linux: &mut Linux, signal: u64) -> Result<(), Stop> {
    let target = Target::Task(linux.tid());
    let info = Info::from_guest(signal as Signal, libc::SI_USER);
    Ok(linux.send(target, info)?)
}

/// What the guest says a signal is; `None` for 0, which only asks whether one could be sent.
pub(super) fn named(signal: u64) -> Result<Option<Signal>, Errno> {
    match signal as i32 {
        0 => Ok(None),
        signal if (1..=i32::from(LAST)).contains(&signal) => Ok(Some(signal as Signal)),
        _ => Err(Errno::INVAL),
    }
}

impl Linux {
    /// Sends a signal. Fails when too many wait, which those of which one at a time waits cannot be.
    pub(in super::super) fn send(&mut self, target: Target, info: Info) -> Result<(), Errno> {
        let undone = undone_by(info.signal.into()).iter();
        let undone = undone.fold(0, |set, &undone| set | bit(undone as Signal));
        if undone != 0 {
            self.forget_signals(undone);
        }
        let bit = bit(info.signal);
        let has_left = |tid: Tid| self.tasks.get(tid).is_none() && self.tasks.known(tid).is_some();
        if matches!(target, Target::Task(tid) if has_left(tid)) {
            // Nobody takes it.
            return Ok(());
        }
        let blocked = match target {
            Target::Task(tid) => self
                .tasks
                .get(tid)
                .is_some_and(|t| (t.mask | t.awaited) & bit != 0),
            Target::Process => self
                .tasks
                .iter()
                .all(|(_, t)| (t.mask | t.awaited) & bit != 0),
        };
        if self.signals.action(info.signal).ignores(info.signal) && !blocked {
            return Ok(());
        }
        let queue = match target {
            Target::Process => Some(&mut self.signals.shared),
            Target::Task(tid) => self.tasks.get_mut(tid).map(|task| &mut task.signals),
        };
        let queue = queue.ok_or(Errno::SRCH)?;
        if info.signal >= REALTIME && self.signals.waiting >= MOST_WAITING {
            match info.code {
                // What `kill` sends is all the same: one is enough.
                libc::SI_USER if queue.set() & bit != 0 => return Ok(()),
                // Of a timer's one waits anyway.
                libc::SI_USER | libc::SI_TIMER => {}
                _ => return Err(Errno::AGAIN),
            }
        }
        if queue.push(info) {
            self.signals.waiting += 1;
        }
        self.wake_for(target, bit);
        Ok(())
    }

    /// Sends the signal of a timer that has expired so many times. One of each timer waits; how often it
    /// expired beside that.
    pub(in super::super) fn tell(&mut self, target: Target, info: Info, times: u64) -> i32 {
        let queue = match target {
            Target::Process => Some(&mut self.signals.shared),
            Target::Task(tid) => self.tasks.get_mut(tid).map(|task| &mut task.signals),
        };
        let more = |overrun: i32, times: u64| {
            i32::try_from(times).map_or(i32::MAX, |times| overrun.saturating_add(times))
        };
        if let Some(waiting) = queue.and_then(|queue| queue.find_timer(&info)) {
            let overrun = more(waiting.overrun(), times);
            *waiting = waiting.with_overrun(overrun);
            return overrun;
        }
        let overrun = more(0, times - 1);
        // Its task has ended: nobody is told.
        let _ = self.send(target, info.with_overrun(overrun));
        overrun
    }

    /// Wakes a task that takes the signal of `bit` now, if it waits.
    fn wake_for(&mut self, target: Target, bit: u64) {
        let takes = |tid: Tid| {
            let task = self.tasks.get(tid);
            task.is_some_and(|task| (task.awaited | !task.mask) & bit != 0)
        };
        let chosen = match target {
            Target::Task(tid) => Some(tid).filter(|&tid| takes(tid)),
            Target::Process => {
                let all = || {
                    self.tasks
                        .iter()
                        .map(|(tid, _)| tid)
                        .filter(|&tid| takes(tid))
                };
                let runs = |&tid: &Tid| !self.scheduler.is_waiting(tid);
                all().find(runs).or_else(|| all().next())
            }
        };
        if let Some(tid) = chosen {
            self.scheduler.wake(tid);
        }
    }

    /// A signal that was sent to the VMM, for the guest.
    pub fn pass_on(&mut self, signal: i32) {
        let signal = match signal {
            libc::SIGXCPU if self.out_of_time() => libc::SIGKILL,
            other => other,
        };
        let info = Info::new(signal as Signal, libc::SI_USER);
        // Of each of these there is room for one.
        let _ = self.send(Target::Process, info);
    }

    /// The same of one that stops who has no other plans, and waits for this process (SIGTSTP, SIGTTIN, SIGTTOU). Where it stops the guest, that is left to the
    /// host's kernel: somebody may have this process go on before it is stopped.
    pub fn pass_on_stop(&mut self, signal: i32) {
        let named = signal as Signal;
        let bit = bit(named);
        let stops =
            self.stops_at_once(named) && self.tasks.iter().all(|(_, t)| t.awaited & bit == 0);
        let taker = self.tasks.iter().find(|(_, task)| task.mask & bit == 0);
        let Some(tid) = taker.map(|(tid, _)| tid).filter(|_| stops) else {
            if signals::take(&Set::of(&[signal])).is_some() {
                self.pass_on(signal);
            }
            return;
        };
        self.trace_signal(tid, &Info::new(named, libc::SI_USER));
        self.forget_signals(super::bit(libc::SIGCONT as Signal));
        job::stops_by(signal);
        self.goes_on_after_stop();
    }

    /// The running task neither blocks nor ignores `signal`.
    pub(in super::super) fn hears(&mut self, signal: i32) -> bool {
        let signal = signal as Signal;
        self.task().mask & bit(signal) == 0 && self.signals.action(signal).handler != Action::IGNORE
    }

    /// `signal` stops the guest, and none is on its way that ends it.
    fn stops_at_once(&mut self, signal: Signal) -> bool {
        let shared = self.signals.shared.set();
        let mut waiting = (1..=LAST).filter(|&other| shared & bit(other) != 0);
        let ends = waiting.any(|other| self.signals.actions[usize::from(other) - 1].ends(other));
        !ends && self.signals.action(signal).stops(signal)
    }

    /// Stops this process, by `signal` of the guest's.
    pub(super) fn stop(&mut self, signal: Signal) {
        if let Some(stop) = job::Stop::prepare(signal.into()) {
            stop.let_through();
        }
        self.goes_on_after_stop();
    }

    /// All threads of the guest have been stopped, and go on: calls end by that which do not wait any more then, and those that use the terminal ask it once
    /// more whether they may. Before that, a handler hears of who had them go on.
    fn goes_on_after_stop(&mut self) {
        let waiting = |(tid, task): (Tid, &Task)| Some((tid, task.pending.as_ref()?.call));
        let waiting: Vec<_> = self.tasks.iter().filter_map(waiting).collect();
        for (tid, call) in waiting {
            let asks = self.uses_terminal(&call);
            let pending = self.tasks.get_mut(tid).map(|task| &mut task.pending);
            let Some(Some(pending)) = pending else {
                continue;
            };
            let ends = ends_by_stop(&call, &pending.progress);
            pending.stopped = true;
            let progress = &mut pending.progress;
            if ends {
                progress.interrupted = true;
                // The stop came before its limit, however long it lasted.
                progress.deadline = progress.deadline.map(|_| NEVER);
            } else if asks {
                // It begins anew.
                (progress.deadline, progress.waits) = (None, 0);
            }
            if ends || asks {
                self.scheduler.wake(tid);
            }
        }
        if signals::take(&Set::of(&[libc::SIGCONT])).is_some() {
            self.pass_on(libc::SIGCONT);
        }
    }

    /// The guest starts out as the VMM was told to: signals that it ignores, and a set of those that it blocks.
    pub fn inherit_signals(&mut self, ignored: &[i32], blocked: u64) {
        for &signal in ignored {
            self.signals.action(signal as Signal).handler = Action::IGNORE;
        }
        if let Some(first) = self.tasks.get_mut(FIRST) {
            first.mask = blocked & !UNSTOPPABLE;
        }
    }

    /// Signals that task `tid` has to look at now.
    pub(in super::super) fn signals_due(&self, tid: Tid) -> u64 {
        let shared = self.signals.shared.set();
        let of_task = |task: &Task| (shared | task.signals.set()) & !task.mask;
        self.tasks.get(tid).map_or(0, of_task)
    }

    /// Does what is to be done without task `tid`: drops what that would look at and ignore, and stops if it has been sent nothing else. The rest is
    /// [`Linux::signals_due`].
    pub(in super::super) fn settle_signals(&mut self, tid: Tid) -> u64 {
        loop {
            let mut kept = self.signals_due(tid);
            for signal in 1..=LAST {
                if kept & bit(signal) != 0 && self.signals.action(signal).ignores(signal) {
                    while self.take_signal(tid, bit(signal)).is_some() {}
                    kept &= !bit(signal);
                }
            }
            let mut among = (1..=LAST).filter(|&signal| kept & bit(signal) != 0);
            if kept == 0 || !among.all(|signal| self.signals.action(signal).stops(signal)) {
                return kept;
            }
            // Once it goes on, there may be others.
            while let Some(info) = self.take_signal(tid, kept) {
                self.trace_signal(tid, &info);
                self.stop(info.signal);
            }
        }
    }

    /// Sees that some task takes each signal that was sent to all, now that one may not any more.
    pub(in super::super) fn offer_shared(&mut self) {
        let shared = self.signals.shared.set();
        for signal in (1..=LAST).filter(|&signal| shared & bit(signal) != 0) {
            self.wake_for(Target::Process, bit(signal));
        }
    }

    /// The mask that the running task's call waited with is no more.
    pub(in super::super) fn restore_mask(&mut self) {
        if let Some(mask) = self.task().saved_mask.take() {
            self.task().mask = mask;
            self.offer_shared();
        }
    }

    /// What was sent to a task alone is lost when it ends.
    pub(in super::super) fn forget_task(&mut self, task: &Task) {
        self.signals.waiting -= task.signals.len();
        self.offer_shared();
    }

    /// Takes the next of `among` from the queues of task `tid`.
    pub(super) fn take_signal(&mut self, tid: Tid, among: u64) -> Option<Info> {
        let own = self
            .tasks
            .get_mut(tid)
            .and_then(|task| task.signals.take(among));
        let info = own.or_else(|| self.signals.shared.take(among))?;
        self.signals.waiting -= 1;
        Some(info)
    }

    /// Drops all that wait of these: they are ignored from now on, or have been undone.
    pub(super) fn forget_signals(&mut self, signals: u64) {
        let tids: Vec<Tid> = self.tasks.iter().map(|(tid, _)| tid).collect();
        self.signals.shared.remove(signals);
        let mut waiting = self.signals.shared.len();
        for tid in tids {
            if let Some(task) = self.tasks.get_mut(tid) {
                task.signals.remove(signals);
                waiting += task.signals.len();
            }
        }
        self.signals.waiting = waiting;
    }
}
