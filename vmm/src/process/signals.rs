//! Signals to the VMM: they are for the guest, whom people mean when they name the process that they started. And that
//! which says that something has become of a thread of the guest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use rustix::time::Timespec;

use crate::job;
use crate::signals::{self, Set};

/// What is passed on. The terminal's own go to the guest anyway, which is in the same process group; so do those that somebody sends to
/// that group ([`super::sent`]). Where one that stops has stopped it, this process stops too, and whoever has it go on names this one, and does so after
/// SIGTERM, too.
pub(super) const PASSED_ON: [i32; 11] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCONT,
];
/// What ends a wait of the tracer's. Nothing else is said by it to a program that does not ask for it, and it is ignored
/// otherwise.
const INTERRUPTS: i32 = libc::SIGURG;

/// Where signals for the guest come.
#[derive(Debug)]
pub(super) struct Operator {
    /// Those that are taken by their turn: all that do not stop.
    others: Set,
    /// Readable while one is there.
    there: OwnedFd,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) signal: Signal,
    pub(super) sender: i32,
    /// To this process. The kernel's own are a terminal's, which has told the guest, too.
    pub(super) is_sent: bool,
}

impl Came {
    /// A thread of this process has sent it.
    pub(super) fn is_own(self) -> bool {
        self.is_sent && self.sender == rustix::process::getpid().as_raw_nonzero().get()
    }
}

/// Where it is told that something has become of a thread of the guest.
pub(super) struct Children {
    set: Set,
    /// Readable while that is so.
    there: OwnedFd,
}

impl Operator {
    /// Blocks all signals that are waited for, in this thread and in those that it starts. The mask is this process's own; a
    /// child made before keeps that of its starter.
    pub(super) fn new() -> io::Result<Self> {
        extern "C" fn nothing(_: i32) {}
        job::stops_by_default();
        // SAFETY: the handler does nothing.
        unsafe { signals::handle(INTERRUPTS, nothing)? };
        // A starter that ignores it would leave this process without news.
        signals::by_default(libc::SIGCHLD);
        // A file that becomes too large says so by the call's error.
        signals::ignore(libc::SIGXFSZ);
        let set = Set::of(&PASSED_ON);
        signals::block(&set);
        signals::block(&Set::of(&[libc::SIGCHLD]));
        signals::unblock(&Set::of(&[INTERRUPTS]));
        let there = signals::descriptor(&set)?;
        let mut others = PASSED_ON.to_vec();
        others.retain(|signal| !job::ASKS.contains(signal));
        let others = Set::of(&others);
        Ok(Self { others, there })
    }

    /// The next that does not stop, if one is there.
    pub(super) fn next(&self) -> Option<Came> {
        came(&self.others)
    }
}

impl AsFd for Operator {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.there.as_fd()
    }
}

impl Children {
    /// Of a thread that was started when the signal was blocked.
    pub(super) fn new() -> io::Result<Self> {
        let set = Set::of(&[libc::SIGCHLD]);
        let there = signals::descriptor(&set)?;
        Ok(Self { set, there })
    }

    /// Waits until one tells, perhaps.
    pub(super) fn wait(&self) -> io::Result<()> {
        signals::wait(&self.set)
    }

    /// Waits until one tells or somebody is at `listener`, which it says, or for `patience`.
    pub(super) fn or_asked(
        &self,
        listener: BorrowedFd<'_>,
        patience: Option<&Timespec>,
    ) -> io::Result<bool> {
        let mut polls = [
            PollFd::new(&self.there, PollFlags::IN),
            PollFd::from_borrowed_fd(listener, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, patience))?;
        Ok(polls[1].revents().contains(PollFlags::IN))
    }
}

/// Takes `signal`, which this thread blocks, if it has come.
pub(super) fn take(signal: i32) -> Option<Came> {
    came(&Set::of(&[signal]))
}

fn came(set: &Set) -> Option<Came> {
    let taken = signals::take(set)?;
    Some(Came {
        signal: Signal::from_named_raw(taken.signal)?,
        sender: taken.sender,
        is_sent: taken.code <= 0,
    })
}

/// Ends a wait of thread `thread` of this process, if there is one.
pub(super) fn interrupt(thread: i32) {
    if thread != 0 {
        // Or it is gone.
        let _ = signals::send_to(thread, INTERRUPTS);
    }
}
