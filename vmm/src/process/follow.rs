//! Whether the VMM stops where its guest has.
//!
//! A guest is stopped thread by thread: each reports it, and is told to stay so. Whatever else one reports, it runs again, and so do all
//! others before long.

use std::io;

use rustix::process::Pid;

use super::events::{Event, Events, wait_for};
use super::ptrace::{Resume, Tracee};
use super::sent::Heard;
use crate::job::Stop;

/// What has come of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// There was nothing to do.
    Nothing,
    /// The guest runs, and this process has not stopped.
    Not,
    /// Somebody has had this process go on: after its stop, or before.
    GoesOn,
}

/// What is known of the stop that is in effect.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// The signal that a thread has reported it by.
    signal: i32,
    /// It is not the VMM's: somebody else undoes it.
    alone: bool,
    /// It has been seen to.
    done: bool,
}

impl Follow {
    /// One that stops is about to be delivered; `alone` if somebody has sent it to the guest's process by its number, who has that go on likewise.
    pub(super) fn delivers(&mut self, alone: bool) {
        self.alone = alone;
    }

    /// A thread has reported that it is stopped by `signal`, or something else.
    pub(super) fn reports(&mut self, stopped: Option<i32>) {
        match stopped {
            Some(signal) => self.signal = signal,
            None => self.done = false,
        }
    }

    /// The signal to stop by now that all threads stay stopped, once.
    fn due(&mut self) -> Option<i32> {
        if self.alone || self.done {
            return None;
        }
        self.done = true;
        Some(self.signal)
    }

    /// Stops this process, as all threads of its guest stay stopped, of which `one` is asked whether that still holds. Where there was something to do,
    /// there may be `events`, now that it goes on. What of all that was `heard` came to this process waits for this thread, unless somebody has had it go on since.
    pub(super) fn stop(
        &mut self,
        one: Pid,
        events: &mut Events,
        heard: &mut Heard,
    ) -> io::Result<Followed> {
        let Some(signal) = self.due() else {
            return Ok(Followed::Nothing);
        };
        let stop = if heard.take_mark(signal) {
            Stop::that_waits(signal)
        } else {
            Stop::prepare(signal)
        };
        let Some(stop) = stop else {
            return Ok(Followed::GoesOn);
        };
        // Somebody may have had the guest go on before that.
        match asked(Tracee(one))? {
            Some(event) if stopped_by(event.status).is_some() => {
                Tracee(one).resume(Resume::StayStopped);
                stop.let_through();
                Ok(Followed::GoesOn)
            }
            event => {
                stop.take_back();
                if let Some(event) = event {
                    events.add(event);
                }
                Ok(Followed::Not)
            }
        }
    }
}

/// What a thread reports that stays stopped and is asked to; none if it is gone.
fn asked(thread: Tracee) -> io::Result<Option<Event>> {
    if thread.interrupt().is_err() {
        return Ok(None);
    }
    wait_for(thread.0.as_raw_nonzero().get(), 0)
}

/// The signal by which a thread of this `status` is stopped with all others.
pub(super) fn stopped_by(status: i32) -> Option<i32> {
    let is_stop = libc::WIFSTOPPED(status) && status >> 16 == libc::PTRACE_EVENT_STOP;
    let signal = libc::WSTOPSIG(status);
    (is_stop && signal != libc::SIGTRAP).then_some(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_followed_once_and_none_that_somebody_else_is_to_undo() {
        let mut follow = Follow::default();
        let stop = |follow: &mut Follow, signal, alone| {
            follow.delivers(alone);
            follow.reports(Some(signal));
            follow.due()
        };
        let (stopped, tstp) = (libc::SIGSTOP, libc::SIGTSTP);
        assert_eq!(stop(&mut follow, tstp, false), Some(tstp));
        assert_eq!(follow.due(), None, "once");
        follow.reports(Some(tstp));
        assert_eq!(follow.due(), None, "another thread's");
        follow.reports(None);
        assert_eq!(stop(&mut follow, stopped, false), Some(stopped));
        follow.reports(None);
        assert_eq!(stop(&mut follow, stopped, true), None);
        // One that came before anybody looked.
        let mut follow = Follow::default();
        follow.reports(Some(tstp));
        assert_eq!(follow.due(), Some(tstp));
    }

    #[test]
    fn a_stop_of_all_is_told_from_other_reports() {
        let report = |event: i32, signal: i32| event << 16 | signal << 8 | 0x7f;
        let stop = libc::PTRACE_EVENT_STOP;
        let tstp = libc::SIGTSTP;
        assert_eq!(stopped_by(report(stop, tstp)), Some(tstp));
        assert_eq!(stopped_by(report(stop, libc::SIGTRAP)), None);
        assert_eq!(stopped_by(report(0, tstp)), None, "it is about to come");
        assert_eq!(stopped_by(tstp), None, "it has ended");
    }
}
