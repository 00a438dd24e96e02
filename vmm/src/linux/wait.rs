//! What a call waits for. A handler never blocks the monitor: it tries, says what it waits for, and
//! is asked again when that has come. What it did so far is its [`Progress`].

use std::os::fd::RawFd;

use rustix::event::PollFlags;
use rustix::fs::FileType;
use rustix::time::Timespec;

use super::records::Records;
use super::table::{self, Topic};
use super::{Call, Restart, host};

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
    /// What another task does (it wakes a futex), or a signal.
    Woken {
        /// When to ask again in any case.
        deadline: Option<Timespec>,
    },
}

/// What a call has done before it had to wait. Nothing at its first try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes that were moved.
    pub(crate) bytes: u64,
    /// When its time is over, by the monotonic clock, once it was reckoned from a duration.
    pub(crate) deadline: Option<Timespec>,
    /// What it asks for is under way: asking again, once the wait is over, says how that ended.
    pub(crate) started: bool,
    /// How often it has waited for a descriptor to be ready.
    pub(crate) waits: u32,
    /// Messages that were moved, and when no further one is to be moved.
    pub(crate) messages: u64,
    pub(crate) last: Option<Timespec>,
    /// Bytes that were looked at, where all are wanted (`MSG_PEEK`).
    pub(crate) peeked: u64,
    /// What it has read of what the guest asks for.
    pub(crate) records: Records,
    /// Another task has woken it.
    pub(crate) woken: bool,
    /// A signal is about to be delivered to its task, or all have been stopped: if it would still wait, it ends here.
    pub(crate) interrupted: bool,
}

impl Progress {
    /// What a call returns that ends before all is moved, if something was.
    pub(super) fn moved(&self) -> Option<u64> {
        let moved = if self.messages > 0 {
            self.messages
        } else {
            self.bytes
        };
        (moved > 0).then_some(moved)
    }
}

impl Wait {
    /// When to ask again in any case.
    pub(super) fn deadline(&self) -> Option<Timespec> {
        match self {
            Self::Ready { deadline, .. }
            | Self::AnyReady { deadline, .. }
            | Self::Woken { deadline } => *deadline,
            Self::Until(deadline) => Some(*deadline),
        }
    }

    /// The descriptors whose readiness ends it.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (RawFd, PollFlags)> {
        let (one, several) = match self {
            Self::Ready {
                descriptor, events, ..
            } => (Some((*descriptor, *events)), &[][..]),
            Self::AnyReady { descriptors, .. } => (None, &descriptors[..]),
            Self::Until(_) | Self::Woken { .. } => (None, &[][..]),
        };
        one.into_iter().chain(several.iter().copied())
    }
}

/// How a call goes on that a signal's handler interrupts. `None`: it ends with `EINTR` even where the handler was
/// installed with `SA_RESTART` (signal(7), "Interruption of system calls and library functions by signal handlers").
pub(super) fn restart(call: &Call, deadline: Option<Timespec>) -> Option<Restart> {
    const NEVER: [i64; 14] = [
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_select,
        libc::SYS_pselect6,
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_pause,
        libc::SYS_rt_sigsuspend,
        libc::SYS_rt_sigtimedwait,
        libc::SYS_semop,
        libc::SYS_msgrcv,
    ];
    let number = call.number;
    let always = number == libc::SYS_futex as u64 && waits_to_own(call.arguments[1]);
    let never = deadline.is_some() || NEVER.contains(&(number as i64));
    (always || !never).then_some(Restart { number, always })
}

/// Whether a stop of the process ends `call`, which waits and has come so far: with `EINTR`, where that is what the kernel returns of a wait that
/// anything ends (signal(7), "Interruption of system calls and library functions by stop signals"), or with what it has moved.
pub(super) fn ends_by_stop(call: &Call, progress: &Progress) -> bool {
    let waits_for_socket = || {
        let is_stream = STREAMS.contains(&(call.number as i64));
        let is_about_sockets =
            || table::find(call.number).is_some_and(|at| table::at(at).topic == Topic::Socket);
        let is_socket = || host::kind(call.arguments[0] as RawFd) == Ok(FileType::Socket);
        is_stream && is_socket() || is_about_sockets()
    };
    match call.number as i64 {
        libc::SYS_epoll_wait
        | libc::SYS_epoll_pwait
        | libc::SYS_epoll_pwait2
        | libc::SYS_rt_sigtimedwait => true,
        _ if progress.moved().is_some() => true,
        // Its own limit (`SO_RCVTIMEO`, `SO_SNDTIMEO`).
        _ => progress.deadline.is_some() && waits_for_socket(),
    }
}

/// Whether a handler that runs when all go on after a stop ends `call`, which waited: it waits no more then, and is made again otherwise. Of others that
/// wait something may have come that is lost with them, as who is woken is.
pub(super) fn is_made_again(call: &Call, progress: &Progress) -> bool {
    STREAMS.contains(&(call.number as i64)) && progress.moved().is_none()
}

/// Calls that move bytes between memory and any file.
pub(super) const STREAMS: [i64; 6] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
];

/// True for an operation of `futex` that waits to own a word. When a handler interrupts it, it goes on
/// (`ERESTARTNOINTR`): C libraries take their mutex to be locked then.
fn waits_to_own(operation: u64) -> bool {
    const HOW: i32 = libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME;
    matches!(
        operation as i32 & !HOW,
        libc::FUTEX_LOCK_PI | libc::FUTEX_LOCK_PI2
    )
}
