//! Stops and ends of the guest's threads, in an order that gives each its turn.

use std::collections::VecDeque;
use std::io;

use rustix::process::Pid;

use crate::usage::HostUsage;

/// A stop of a thread, or its end.
pub(super) struct Event {
    pub(super) thread: Pid,
    pub(super) status: i32,
    pub(super) usage: HostUsage,
}

/// What has been collected and not been answered.
#[derive(Default)]
pub(super) struct Events {
    collected: VecDeque<Event>,
}

impl Events {
    /// The oldest.
    pub(super) fn next(&mut self) -> Option<Event> {
        self.collected.pop_front()
    }

    /// Is to be answered after those that there are.
    pub(super) fn add(&mut self, event: Event) {
        self.collected.push_back(event);
    }

    /// Collects all that have stopped or ended, where none is left; true if there were some. The kernel tells of them in
    /// its own order, so that of threads that stop over and over some would never have their turn if each were answered
    /// at once. `guest` has one thread alone, if `is_one`.
    pub(super) fn collect(&mut self, guest: Pid, is_one: bool) -> io::Result<bool> {
        while let Some(event) = wait_for(-1, libc::WNOHANG)? {
            let is_end = !libc::WIFSTOPPED(event.status);
            if is_end {
                // Its number may be another's from now on.
                self.collected.retain(|other| other.thread != event.thread);
            }
            let is_last = is_end && event.thread == guest;
            self.collected.push_back(event);
            // Nobody is left to wait for; and one alone stops no more before it was answered.
            if is_last || is_one {
                break;
            }
        }
        Ok(!self.collected.is_empty())
    }
}

/// The next event of thread `which`, or of any (-1), with `options` of `wait4`.
pub(super) fn wait_for(which: libc::pid_t, options: i32) -> io::Result<Option<Event>> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: the kernel fills both places; an all-zero `rusage` is valid.
        let (found, usage) = unsafe {
            let options = libc::__WALL | options;
            let found = libc::wait4(which, &raw mut status, options, usage.as_mut_ptr());
            (found, usage.assume_init())
        };
        if found < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            continue;
        }
        return Ok(Pid::from_raw(found).map(|thread| Event {
            thread,
            status,
            usage: usage.into(),
        }));
    }
}
