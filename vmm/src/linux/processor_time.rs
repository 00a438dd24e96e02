//! How much processor time each of the guest's threads has had.
//!
//! Tasks take turns on threads of the VMM, whose time the host's kernel counts. A task has what such a thread uses from
//! when the task comes to its processor until the next one does, calls that are served for it included.

use rustix::time::{ClockId, Timespec};

use super::process::PID;
use super::scheduler::Tid;
use super::{Linux, host};

/// The thread of a processor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    /// Its number on the host.
    thread: i32,
    /// What it had used when the task came that it has now.
    since: Timespec,
}

impl Meter {
    /// Of the thread that calls this.
    pub(super) fn of_caller() -> Self {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        Self {
            thread,
            since: host::thread_time(thread),
        }
    }

    /// What it has used since.
    fn used(self) -> Timespec {
        host::thread_time(self.thread) - self.since
    }
}

impl Linux {
    /// The processor, whose thread calls this, has the registers of this task now, or of none.
    pub fn reside(&mut self, task: Option<Tid>) {
        let here = self.scheduler.here();
        let before = self.scheduler.reside(task);
        let Some(meter) = &mut self.meters[here] else {
            self.meters[here] = Some(Meter::of_caller());
            return;
        };
        let used = meter.used();
        meter.since += used;
        if let Some(task) = before.and_then(|before| self.tasks.get_mut(before)) {
            task.used += used;
        }
    }

    /// Processor time that `task` has had; `None` if there is no such one.
    fn time_of(&self, task: Tid) -> Option<Timespec> {
        let used = self.tasks.known(task)?.used;
        let meter = self.scheduler.home(task).and_then(|at| self.meters[at]);
        Some(meter.map_or(used, |meter| used + meter.used()))
    }

    /// Processor time of the running task.
    pub(super) fn own_time(&self) -> Timespec {
        self.time_of(self.serving).unwrap_or_default()
    }

    /// What a clock shows that is of a process or a thread: the complement of its number, or of zero for one's own, and
    /// three bits (linux/posix-timers.h). `None` if there is none like that.
    pub(super) fn processor_clock(&self, id: i32) -> Option<Timespec> {
        const OF_THREAD: i32 = 4;
        const KIND: i32 = 3;
        let number = !(id >> 3);
        // In the program and for it, in the program alone, both in nanoseconds: here all is the same. The fourth is no
        // clock of a process.
        if id >= 0 || id & KIND == KIND {
            return None;
        }
        match (id & OF_THREAD != 0, number) {
            (false, number) if number == 0 || number == PID as i32 => {
                Some(rustix::time::clock_gettime(ClockId::ProcessCPUTime))
            }
            (false, _) => None,
            (true, 0) => Some(self.own_time()),
            (true, number) => self.time_of(Tid::try_from(number).ok()?),
        }
    }
}
