//! What a call waits for. A handler never blocks the monitor: it tries, says what it waits for, and
//! is asked again when that has come. What it did so far is its [`Progress`].

use std::os::fd::RawFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::host;

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
    /// One of the events at one of several descriptors.
    AnyReady {
        /// Each with what it is waited for.
        descriptors: Vec<(RawFd, PollFlags)>,
        /// When to ask again in any case.
        deadline: Option<Timespec>,
    },
    /// A moment of monotonic time.
    Until(Timespec),
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
        let one;
        let (descriptors, deadline) = match self {
            Self::Ready {
                descriptor,
                events,
                deadline,
            } => {
                one = [(*descriptor, *events)];
                (&one[..], *deadline)
            }
            Self::AnyReady {
                descriptors,
                deadline,
            } => (&descriptors[..], *deadline),
            Self::Until(deadline) => (&[][..], Some(*deadline)),
        };
        let left = deadline.map(|deadline| {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            if deadline > now {
                deadline - now
            } else {
                Timespec::default()
            }
        });
        let poll = |&(fd, events): &(RawFd, _)| PollFd::from_borrowed_fd(host::borrow(fd), events);
        let mut polls: Vec<_> = descriptors.iter().map(poll).collect();
        rustix::event::poll(&mut polls, left.as_ref())?;
        Ok(())
    }
}
