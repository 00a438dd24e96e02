//! The end of a child that has not become a guest.
//!
//! Whoever ends poolvmm may do so while the child prepares itself: what is passed on to it then, and what goes to all of a process group, ends
//! it as it would any process. Nothing of what is to be done with it works any more, and how that fails says nothing.

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::events::{Event, wait_for};
use super::trace::{End, Noted, killed};
use crate::fault::Outcome;

/// Waits for `child`, which is about to end. How it has, if that says more than how it was noticed: by a signal.
pub(super) fn ended(child: Pid) -> Option<End> {
    let event = end_of(child, 0)?;
    let outcome = by_signal(event.status, None)?;
    Some(End::Guest(outcome, event.usage, Noted::default()))
}

/// The same of one that perhaps lives: it ends here.
pub(super) fn ended_or_killed(child: Pid) -> Option<End> {
    let (event, own) = if let Some(event) = end_of(child, libc::WNOHANG) {
        (event, None)
    } else {
        // Its number is its own until it has been waited for.
        match rustix::process::kill_process(child, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(_) => return None,
        }
        (end_of(child, 0)?, Some(libc::SIGKILL))
    };
    let outcome = by_signal(event.status, own)?;
    Some(End::Guest(outcome, event.usage, Noted::default()))
}

/// The end of `child`, with `options` of `wait4`.
fn end_of(child: Pid, options: i32) -> Option<Event> {
    loop {
        let event = wait_for(child.as_raw_nonzero().get(), options).ok()??;
        // A traced one stops for what is sent to it.
        if !libc::WIFSTOPPED(event.status) {
            return Some(event);
        }
    }
}

/// How a child has ended whose `status` this is, if a signal has ended it, other than the `own` one that it was sent for that.
fn by_signal(status: i32, own: Option<i32>) -> Option<Outcome> {
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))?;
    (own != Some(signal)).then(|| killed(signal, true, false))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::process::{WaitId, WaitIdOptions};

    use super::super::ptrace::Tracee;
    use super::*;

    /// A child that waits until it is told to end, and its number.
    fn child() -> (Child, Pid) {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let number = Pid::from_child(&child);
        (child, number)
    }

    /// It has ended, and not been waited for.
    fn sent(child: Pid, signal: Signal) {
        rustix::process::kill_process(child, signal).unwrap();
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pid(child), ended).unwrap();
    }

    fn outcome(end: Option<End>) -> Option<Outcome> {
        match end? {
            End::Guest(outcome, ..) => Some(outcome),
            End::Leaving => None,
        }
    }

    #[test]
    fn who_cannot_be_traced_because_it_was_ended_has_ended_so() {
        for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
            let (_input, number) = child();
            sent(number, signal);
            assert!(Tracee(number).seize().is_err(), "it is there no more");
            let found = outcome(ended_or_killed(number));
            assert_eq!(found, Some(killed(signal.as_raw(), true, false)));
            assert_eq!(found.unwrap().status(), 128 + signal.as_raw() as u8);
        }
        let (_input, number) = child();
        sent(number, Signal::HUP);
        let found = outcome(ended(number));
        assert_eq!(found, Some(Outcome::Signalled(libc::SIGHUP)));
    }

    #[test]
    fn who_lives_is_ended_and_who_ended_by_itself_says_nothing() {
        let (_input, number) = child();
        assert!(ended_or_killed(number).is_none());
        let gone = rustix::process::test_kill_process(number);
        assert_eq!(gone, Err(Errno::SRCH), "it was waited for");
        let (mut by_itself, number) = child();
        drop(by_itself.stdin.take());
        assert!(ended(number).is_none());
    }

    #[test]
    fn a_signal_of_ones_own_is_not_why() {
        let (exited, term, kill) = (1 << 8, libc::SIGTERM, libc::SIGKILL);
        assert_eq!(by_signal(exited, None), None);
        assert_eq!(by_signal(kill, Some(kill)), None);
        assert_eq!(by_signal(kill, None), Some(killed(kill, true, false)));
        let core = term | 0x80;
        for status in [term, core] {
            let found = by_signal(status, Some(kill));
            assert_eq!(found, Some(Outcome::Signalled(term)));
        }
    }
}
