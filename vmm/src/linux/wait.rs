//! What a call waits for. A handler never blocks the monitor: it tries, says what it waits for, and
//! is asked again when that has come. What it did so far is its [`Progress`].

use std::os::fd::{BorrowedFd, RawFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

/// What has to come before a call is served again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// One of `events` at a descriptor of this process.
    Ready {
        /// The descriptor. Whoever serves the call again finds out whether it is still open.
        descriptor: RawFd,
        /// As `poll` has them.
        events: PollFlags,
        /// When to ask again in any case: monotonic time.
        deadline: Option<Timespec>,
    },
}

/// What a call has done before it had to wait. Nothing at its first try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that were moved.
    pub(crate) bytes: u64,
    /// When its time is over, by the monotonic clock, once it was reckoned from a duration.
    pub(crate) deadline: Option<Timespec>,
}

impl Wait {
    /// Waits in the host: there is no other task to run.
    pub(super) fn block(&self) -> Result<(), Errno> {
        let Self::Ready {
            descriptor,
            events,
            deadline,
        } = self;
        // SAFETY: the descriptor was open a moment ago, and nothing else runs in this process; were it
        // closed, `poll` would say so.
        let descriptor = unsafe { BorrowedFd::borrow_raw(*descriptor) };
        let left = deadline.map(|deadline| {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            if deadline > now { deadline - now } else { Timespec::default() }
        });
        rustix::event::poll(&mut [PollFd::from_borrowed_fd(descriptor, *events)], left.as_ref())?;
        Ok(())
    }
}
