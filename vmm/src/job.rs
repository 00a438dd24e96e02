//! Job control: where a guest is stopped, so is the VMM, which is what a shell or whoever started it knows of.
//!
//! A process that stops must not lose the signal by which somebody has it go on. Two rules of the kernel's see to that: one that stops, once sent,
//! takes one that waits to go on away, and the other way round. So what somebody sends to stop this process is left to the kernel where it stops the
//! guest ([`stops_by`]): until it is let through, whoever has it go on takes it away. Where it must be taken to be passed on, one more waits before it is
//! ([`Stop::that_waits`]). What the guest itself stops by the VMM sends itself ([`Stop::prepare`]): it waits, and from then on whoever has this process go on takes it
//! away. The VMM makes sure that its guest is stopped, and lets it through.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::signals::{self, Set};

/// Signals that stop a process unless it has other plans.
pub(crate) const STOPS: [i32; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
/// Those of them that it may have other plans for: a terminal sends them.
pub(crate) const ASKS: [i32; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// What undoes the other: `signal` stops or goes on, and of these one that waits is no more once it is sent.
pub(crate) fn undone_by(signal: i32) -> &'static [i32] {
    match signal {
        libc::SIGCONT => &STOPS,
        signal if STOPS.contains(&signal) => &[libc::SIGCONT],
        _ => &[],
    }
}

/// Has what a terminal stops a job by stop this process where that is let through, whatever it was started with.
pub(crate) fn stops_by_default() {
    ASKS.into_iter().for_each(signals::by_default);
}

/// Stops this process by `signal`, one of [`ASKS`], if it still waits. It goes on here. Whether it may stop at all the kernel knows: where nobody would have
/// it go on, a terminal's signals stop nobody.
pub(crate) fn stops_by(signal: i32) {
    let before = signals::unblock(&Set::of(&[signal]));
    signals::block_only(&before);
}

/// A stop of this process that waits.
#[derive(Debug)]
pub(crate) struct Stop {
    signal: i32,
    /// What the calling thread had blocked before.
    before: Set,
}

impl Stop {
    /// Of this process by `signal`. None if somebody has it go on, which has not been taken note of. (Who does so between these two calls is not heard, as it
    /// is not by a program that stops itself; whoever has seen it stop comes later.)
    pub(crate) fn prepare(signal: i32) -> Option<Self> {
        let before = signals::block(&Set::of(&[signal]));
        let stop = Self { signal, before };
        if signals::waiting().has(libc::SIGCONT) {
            signals::block_only(&stop.before);
            return None;
        }
        // One that cannot be blocked does not wait, and comes when all else is done.
        if signal != libc::SIGSTOP {
            stop.send();
        }
        Some(stop)
    }

    /// Of this process by `signal`, one of [`ASKS`], that has waited for the calling thread, if it still does: somebody has this process go on otherwise.
    pub(crate) fn that_waits(signal: i32) -> Option<Self> {
        let before = signals::block(&Set::of(&[signal]));
        let stop = Self { signal, before };
        if signals::waiting().has(signal) {
            return Some(stop);
        }
        signals::block_only(&stop.before);
        None
    }

    /// Stops, unless somebody has had this process go on since. It goes on here.
    pub(crate) fn let_through(self) {
        if self.signal == libc::SIGSTOP && !signals::waiting().has(libc::SIGCONT) {
            self.send();
        }
        signals::unblock(&Set::of(&[self.signal]));
        signals::block_only(&self.before);
    }

    /// Does not stop.
    pub(crate) fn take_back(self) {
        // That it does not wait any more is as well.
        signals::take(&Set::of(&[self.signal]));
        signals::block_only(&self.before);
    }

    /// To the calling thread, which there is.
    fn send(&self) {
        let _ = signals::send_to(signals::own_thread(), self.signal);
    }
}

/// Does `act` as a program does that its terminal may stop by `asks`, some of [`ASKS`], for using it in its background: a call that it makes ends with `EINTR`
/// then. Which of them came, a bit each. One thread does so at a time.
pub(crate) fn at_terminal<T>(asks: &[i32], act: impl FnOnce() -> T) -> (T, u64) {
    static CAME: AtomicU64 = AtomicU64::new(0);
    extern "C" fn note(signal: i32) {
        CAME.fetch_or(signals::bit(signal), Ordering::Relaxed);
    }
    CAME.store(0, Ordering::Relaxed);
    for &signal in asks {
        // SAFETY: the handler sets bits of a number, at once. It fails for signals that have none.
        let _ = unsafe { signals::handle(signal, note) };
    }
    let before = signals::unblock(&Set::of(asks));
    let done = act();
    signals::block_only(&before);
    stops_by_default();
    (done, CAME.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_oneself(signal: i32) {
        signals::send_to(signals::own_thread(), signal).unwrap();
    }

    fn block(signal: i32) {
        signals::block(&Set::of(&[signal]));
    }

    fn waits(signal: i32) -> bool {
        signals::waiting().has(signal)
    }

    /// The stop of a thread is the process's: none is let through here but what would come to nothing.
    #[test]
    fn who_has_it_go_on_is_heard_before_and_after() {
        block(libc::SIGCONT);
        to_oneself(libc::SIGCONT);
        assert!(Stop::prepare(libc::SIGTSTP).is_none(), "before");
        let stop = || {
            // What waits is taken away by it.
            block(libc::SIGTSTP);
            to_oneself(libc::SIGTSTP);
            let stop = Stop::prepare(libc::SIGTSTP).unwrap();
            assert!(waits(libc::SIGTSTP) && !waits(libc::SIGCONT));
            stop
        };
        stop().take_back();
        assert!(!waits(libc::SIGTSTP));
        let stop = stop();
        to_oneself(libc::SIGCONT);
        assert!(!waits(libc::SIGTSTP));
        stop.let_through();
        assert!(waits(libc::SIGCONT), "it is for others to take");
        // What has waited is let through or taken away.
        assert!(Stop::that_waits(libc::SIGTSTP).is_none());
        to_oneself(libc::SIGTSTP);
        Stop::that_waits(libc::SIGTSTP).unwrap().take_back();
        to_oneself(libc::SIGTSTP);
        let stop = Stop::that_waits(libc::SIGTSTP).unwrap();
        to_oneself(libc::SIGCONT);
        assert!(!waits(libc::SIGTSTP));
        stop.let_through();
        // What somebody sends is taken away as well.
        to_oneself(libc::SIGTSTP);
        to_oneself(libc::SIGCONT);
        stops_by(libc::SIGTSTP);
        assert!(signals::blocked().has(libc::SIGTSTP) && waits(libc::SIGCONT));
    }

    #[test]
    fn a_terminal_is_heard_while_it_is_used() {
        ASKS.into_iter().for_each(block);
        let ((), came) = at_terminal(&ASKS, || to_oneself(libc::SIGTTIN));
        assert_eq!(came, signals::bit(libc::SIGTTIN));
        let asks = [libc::SIGTTOU];
        let ((), came) = at_terminal(&asks, || to_oneself(libc::SIGTTIN));
        assert!(came == 0 && waits(libc::SIGTTIN), "it is blocked");
        assert_eq!(signals::action(libc::SIGTTIN), libc::SIG_DFL);
        assert!(ASKS.iter().all(|&signal| signals::blocked().has(signal)));
    }

    #[test]
    fn stopping_and_going_on_undo_each_other() {
        assert_eq!(undone_by(libc::SIGTSTP), [libc::SIGCONT]);
        assert_eq!(undone_by(libc::SIGCONT), STOPS);
        assert!(undone_by(libc::SIGTERM).is_empty());
    }
}
