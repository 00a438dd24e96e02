//! Signals that somebody has sent to the guest: to the VMM, which passes them on, or to both, as whoever sends them to the whole process group
//! or to every process of a service does. Then there are two of one, and the guest is to have one.
//!
//! Its tracer sees what is about to be delivered. What the VMM passes on it owes to the guest, and the next of that signal that comes pays for it,
//! from whomever: the kernel keeps one of two that wait, and what is decided on has waited until then. (One that the guest has sent itself pays where
//! nothing of that signal waits beside it.) All else is dropped. What comes from its sender
//! is the second of what the VMM was told by the same one, or is about to be told. Where it is not, the sender named the guest's process, and the VMM
//! passes it on a moment later. So nothing is lost, but that who tells both and in the same moment the guest again has told it once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::process::Signal;

use crate::job::undone_by;

/// From what comes to one of both to what comes to the other, of who tells both, one after the other.
const PATIENCE: Duration = Duration::from_millis(100);
/// Signals without a second that are remembered, of each kind.
const MOST: usize = 64;

/// What the VMM's two threads know of signals that are sent.
#[derive(Debug)]
pub(super) struct Sent {
    heard: Mutex<Heard>,
    /// Readable once something came from its sender that is to be waited for.
    news: OwnedFd,
}

impl Sent {
    pub(super) fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            heard: Mutex::default(),
            news: rustix::event::eventfd(0, flags)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `act`, beside which nobody else passes anything on.
    pub(super) fn hold<T>(&self, act: impl FnOnce(&mut Heard) -> T) -> T {
        act(&mut self.lock())
    }

    /// Whether `signal` is delivered, which was passed on. Where one `waits` that was passed on since, that is.
    pub(super) fn arrives(&self, signal: i32, waits: impl FnOnce() -> bool) -> bool {
        let mut heard = self.lock();
        !heard.comes_again(signal, waits) && heard.arrives(signal)
    }

    /// The guest is told of `signal`: what that undoes, and came to it alone before, is not told later.
    pub(super) fn undoes(&self, signal: i32) {
        let mut heard = self.lock();
        heard
            .dropped
            .retain(|one| !undone_by(signal).contains(&one.signal));
    }

    /// `signal` is delivered, which the guest or the kernel has sent. What was passed on and does not wait, which `waits` says, was one with it.
    pub(super) fn meets(&self, signal: i32, waits: impl FnOnce() -> bool) {
        // What is passed on meanwhile would be owed and not wait yet.
        self.lock().meets(signal, waits);
    }

    /// Whether `signal`, which is delivered now, was passed on because it had come to the guest alone.
    pub(super) fn came_alone(&self, signal: i32) -> bool {
        self.lock().came_alone(signal)
    }

    /// Whether `signal` is delivered, which comes from its sender. One that was passed on is instead, where that `waits` and is to be delivered for it.
    pub(super) fn comes(&self, signal: i32, sender: i32, waits: impl FnOnce() -> bool) -> bool {
        let due = self.lock().comes(signal, sender, Instant::now(), waits);
        if !due {
            // Nothing but a full counter could be in its way, and this is one.
            let _ = rustix::io::write(&self.news, &1u64.to_ne_bytes());
        }
        due
    }

    /// When something is to be passed on that came to the guest alone.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let mut counter = [0; 8];
        // What it says is looked at now.
        let _ = rustix::io::read(&self.news, &mut counter);
        self.lock().deadline()
    }

    /// The next that came to the guest alone, so long ago.
    pub(super) fn late(&self) -> Option<Signal> {
        let signal = self.lock().late(Instant::now())?;
        Signal::from_named_raw(signal)
    }
}

impl AsFd for Sent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

/// What has come to one of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct One {
    signal: i32,
    sender: i32,
    at: Instant,
}

impl One {
    fn is_of(&self, signal: i32, sender: i32) -> bool {
        (self.signal, self.sender) == (signal, sender)
    }
}

/// What has come. Signals are bits of sets.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Passed on, and not delivered.
    owed: u64,
    /// Passed on, as they had come to the guest alone.
    alone: u64,
    /// Those that stop, came to the VMM and wait for the tracer since, unless they were undone.
    marked: u64,
    /// Those that stop and waited for the VMM when the guest was told to go on: the guest may have lost them by that.
    overtaken: u64,
    /// Came to the VMM; the second has not come to the guest, or not by itself.
    passed_on: Vec<One>,
    /// Came to the guest and were dropped; the second has not come to the VMM.
    dropped: Vec<One>,
}

impl Heard {
    /// Passes `signal`, which `sender` has sent to this process, on to the process `guest`, which may be gone. Without a sender it came to
    /// that alone.
    pub(super) fn pass_on(&mut self, guest: BorrowedFd<'_>, signal: Signal, sender: Option<i32>) {
        self.passes(signal.as_raw(), sender, Instant::now());
        // Before anybody else hears of it.
        let _ = rustix::process::pidfd_send_signal(guest, signal);
    }

    /// Passes on what stops, waits for the tracer and was undone at the guest by what came before it.
    pub(super) fn pass_on_again(&mut self, guest: BorrowedFd<'_>, signal: Signal) {
        let signal_bit = bit(signal.as_raw());
        self.owed = self.owed & !bit(libc::SIGCONT) | signal_bit;
        self.marked |= signal_bit;
        self.overtaken &= !signal_bit;
        let _ = rustix::process::pidfd_send_signal(guest, signal);
    }

    /// `signal` came to the VMM from `sender`, and is about to be sent to the guest. What it undoes the kernel drops where it waits, and nobody has it come later.
    fn passes(&mut self, signal: i32, sender: Option<i32>, now: Instant) {
        for &undone in undone_by(signal) {
            self.owed &= !bit(undone);
            self.alone &= !bit(undone);
            self.marked &= !bit(undone);
            self.overtaken &= !bit(undone);
            self.dropped.retain(|one| one.signal != undone);
            self.passed_on.retain(|one| one.signal != undone);
        }
        self.owed |= bit(signal);
        let Some(sender) = sender else {
            self.alone |= bit(signal);
            return;
        };
        self.alone &= !bit(signal);
        let before = self.dropped.len();
        self.dropped.retain(|one| !one.is_of(signal, sender));
        if self.dropped.len() == before {
            self.forget_old(now);
            if self.passed_on.len() == MOST {
                self.passed_on.remove(0);
            }
            let at = now;
            self.passed_on.push(One { signal, sender, at });
        }
    }

    /// `signal`, which came to the VMM and stops, waits for the tracer from now on.
    pub(super) fn mark(&mut self, signal: i32) {
        self.marked |= bit(signal);
    }

    pub(super) fn is_marked(&self, signal: i32) -> bool {
        self.marked & bit(signal) != 0
    }

    /// `signal` stops, and waits for the VMM when the guest is told to go on.
    pub(super) fn overtake(&mut self, signal: i32) {
        self.overtaken |= bit(signal);
    }

    /// Whether it did, and is taken now.
    pub(super) fn take_overtaken(&mut self, signal: i32) -> bool {
        let is_overtaken = self.overtaken & bit(signal) != 0;
        self.overtaken &= !bit(signal);
        is_overtaken
    }

    /// Whether it has waited for the tracer, which sees to it now.
    pub(super) fn take_mark(&mut self, signal: i32) -> bool {
        let is_marked = self.is_marked(signal);
        self.marked &= !bit(signal);
        is_marked
    }

    /// What was passed on is about to be delivered: whether it is.
    fn arrives(&mut self, signal: i32) -> bool {
        let is_owed = self.owed & bit(signal) != 0;
        self.owed &= !bit(signal);
        is_owed
    }

    /// It has been passed on, and that `waits`.
    fn comes_again(&self, signal: i32, waits: impl FnOnce() -> bool) -> bool {
        self.owed & bit(signal) != 0 && waits()
    }

    /// As [`Sent::came_alone`].
    fn came_alone(&mut self, signal: i32) -> bool {
        let alone = self.alone & bit(signal) != 0;
        self.alone &= !bit(signal);
        alone
    }

    /// What nobody has sent to both is delivered: what is owed was one with it, unless it `waits`.
    fn meets(&mut self, signal: i32, waits: impl FnOnce() -> bool) {
        if self.owed & bit(signal) != 0 && !waits() {
            self.owed &= !bit(signal);
        }
    }

    /// What comes from its sender is about to be delivered: whether it is.
    fn comes(
        &mut self,
        signal: i32,
        sender: i32,
        now: Instant,
        waits: impl FnOnce() -> bool,
    ) -> bool {
        self.forget_old(now);
        let mut seconds = self.passed_on.iter();
        let first = seconds.position(|one| one.is_of(signal, sender));
        if let Some(first) = first {
            self.passed_on.remove(first);
        }
        if self.comes_again(signal, waits) {
            return false;
        }
        if self.arrives(signal) {
            return true;
        }
        let is_known = || self.dropped.iter().any(|one| one.is_of(signal, sender));
        if first.is_some() || is_known() {
            return false;
        }
        // Of so many senders nobody has more than two.
        let is_full = self.dropped.len() == MOST;
        if !is_full {
            let at = now;
            self.dropped.push(One { signal, sender, at });
        }
        is_full
    }

    fn forget_old(&mut self, now: Instant) {
        self.passed_on.retain(|one| now < one.at + PATIENCE);
    }

    fn deadline(&self) -> Option<Instant> {
        let first = self.dropped.iter().map(|one| one.at).min();
        first.map(|at| at + PATIENCE)
    }

    fn late(&mut self, now: Instant) -> Option<i32> {
        let is_late = |one: &One| one.at + PATIENCE <= now;
        let at = self.dropped.iter().position(is_late)?;
        Some(self.dropped.remove(at).signal)
    }
}

/// A signal in a set of them.
pub(super) fn bit(signal: i32) -> u64 {
    1 << (signal.clamp(1, 64) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: i32 = libc::SIGTERM;
    const SENDER: i32 = 7;

    /// The guest's side: what waits there, which is one of a kind, and what was delivered.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Waits {
        Nothing,
        FromSender,
        PassedOn,
    }

    /// All that happens when somebody tells both.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Step {
        /// The guest is told.
        Comes,
        /// The VMM passes it on.
        Passes,
        /// The guest's thread stops for what waits.
        Stops,
        /// The tracer decides on what a thread has stopped for.
        Decides,
    }

    /// How often a signal that somebody sent to both, in this order of all that happens, was delivered; `None` if that order cannot be.
    fn delivered(steps: &[Step], now: Instant) -> Option<u32> {
        let mut heard = Heard::default();
        let (mut waits, mut stopped, mut count) = (Waits::Nothing, Waits::Nothing, 0);
        for step in steps {
            match step {
                Step::Comes if waits == Waits::Nothing => waits = Waits::FromSender,
                Step::Comes => {}
                Step::Passes => {
                    heard.passes(TERM, Some(SENDER), now);
                    if waits == Waits::Nothing {
                        waits = Waits::PassedOn;
                    }
                }
                Step::Stops if stopped != Waits::Nothing || waits == Waits::Nothing => return None,
                Step::Stops => (stopped, waits) = (waits, Waits::Nothing),
                Step::Decides => {
                    let due = match stopped {
                        Waits::Nothing => return None,
                        Waits::FromSender => heard.comes(TERM, SENDER, now, || false),
                        Waits::PassedOn => heard.arrives(TERM),
                    };
                    stopped = Waits::Nothing;
                    count += u32::from(due);
                }
            }
        }
        let settled = (waits, stopped) == (Waits::Nothing, Waits::Nothing);
        settled.then(|| count + u32::from(heard.late(now + PATIENCE).is_some()))
    }

    /// Every order of these steps.
    fn orders(steps: &[Step]) -> Vec<Vec<Step>> {
        if steps.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for at in 0..steps.len() {
            if steps[..at].contains(&steps[at]) {
                continue;
            }
            let mut rest = steps.to_vec();
            let first = rest.remove(at);
            for mut order in orders(&rest) {
                order.insert(0, first);
                all.push(order);
            }
        }
        all
    }

    #[test]
    fn what_comes_to_both_is_delivered_once_in_every_order() {
        let now = Instant::now();
        let both = [Step::Comes, Step::Passes];
        let twice = [Step::Stops, Step::Decides, Step::Stops, Step::Decides];
        let mut tried = 0;
        for deliveries in [&twice[..2], &twice] {
            for order in orders(&[&both[..], deliveries].concat()) {
                if let Some(count) = delivered(&order, now) {
                    assert_eq!(count, 1, "{order:?}");
                    tried += 1;
                }
            }
        }
        assert!(tried >= 6, "{tried}");
    }

    #[test]
    fn nothing_is_lost_where_it_is_sent_again_at_once() {
        let now = Instant::now();
        let both = [Step::Comes, Step::Passes, Step::Comes, Step::Passes];
        let often = [Step::Stops, Step::Decides].repeat(4);
        for count in 1..=3 {
            for order in orders(&[&both[..], &often[..2 * count]].concat()) {
                let found = delivered(&order, now);
                let is_right = |count| (1..=2).contains(&count);
                assert!(found.is_none_or(is_right), "{order:?}: {found:?}");
            }
        }
    }

    #[test]
    fn what_comes_to_the_guest_alone_is_late() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        assert!(!heard.comes(TERM, SENDER, now, || false));
        assert!(
            !heard.comes(TERM, SENDER, now + PATIENCE / 2, || false),
            "one waits"
        );
        assert_eq!(heard.deadline(), Some(now + PATIENCE));
        assert_eq!(heard.late(now), None);
        heard.passes(TERM, Some(8), now);
        assert!(heard.arrives(TERM), "somebody else's");
        assert_eq!(heard.late(now + PATIENCE), Some(TERM));
        assert_eq!((heard.late(now + PATIENCE), heard.deadline()), (None, None));
        heard.passes(TERM, None, now);
        assert!(heard.arrives(TERM));
        assert!(
            heard.came_alone(TERM) && !heard.came_alone(TERM),
            "told once"
        );
        heard.passes(TERM, None, now);
        heard.passes(TERM, Some(9), now);
        assert!(!heard.came_alone(TERM), "and to the VMM");
        assert!(heard.arrives(TERM));
        assert!(!heard.comes(TERM, SENDER, now, || false), "and again");
        assert!(heard.deadline().is_some());
    }

    #[test]
    fn what_comes_to_the_vmm_alone_is_delivered_each_time() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        for _ in 0..3 {
            heard.passes(TERM, Some(SENDER), now);
            assert!(heard.arrives(TERM));
        }
        // The next two meet where they wait.
        heard.passes(TERM, Some(SENDER), now);
        heard.passes(TERM, Some(SENDER), now);
        assert!(heard.arrives(TERM));
        // The second pays for the first, which comes then.
        heard.passes(TERM, Some(SENDER), now);
        assert!(heard.comes(TERM, SENDER, now, || false));
        assert!(!heard.arrives(TERM));
        heard.passes(TERM, Some(SENDER), now);
        assert!(heard.arrives(TERM), "another one");
        let later = now + PATIENCE;
        assert!(
            !heard.comes(TERM, SENDER, later, || false),
            "a second of none"
        );
        assert_eq!(heard.late(later + PATIENCE), Some(TERM));
    }

    #[test]
    fn what_meets_one_of_the_guests_own_is_paid_for() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        // It waits beside a thread's own.
        heard.passes(TERM, Some(SENDER), now);
        heard.meets(TERM, || true);
        assert!(heard.arrives(TERM));
        // The kernel has kept the guest's, which was blocked.
        heard.passes(TERM, Some(SENDER), now);
        heard.meets(libc::SIGHUP, || panic!("nothing is owed of it"));
        heard.meets(TERM, || false);
        assert!(
            !heard.comes(TERM, SENDER, now, || false),
            "the second of that"
        );
        heard.passes(TERM, Some(8), now);
        assert!(heard.arrives(TERM), "another one");
        assert_eq!(heard.late(now + PATIENCE), None);
    }

    /// The kernel drops what waits and was undone.
    #[test]
    fn what_was_undone_neither_comes_later_nor_is_paid_for() {
        const TSTP: i32 = libc::SIGTSTP;
        const CONT: i32 = libc::SIGCONT;
        let (mut heard, now) = (Heard::default(), Instant::now());
        // It came to the guest, and was taken from the VMM by what came next.
        assert!(!heard.comes(TSTP, SENDER, now, || false));
        heard.passes(CONT, Some(SENDER), now);
        assert_eq!(heard.late(now + PATIENCE), None);
        assert!(heard.arrives(CONT));
        // It was passed on, and dropped there.
        heard.passes(TSTP, Some(SENDER), now);
        heard.passes(CONT, Some(SENDER), now);
        assert!(!heard.arrives(TSTP));
        heard.passes(TSTP, Some(SENDER), now);
        assert!(!heard.arrives(CONT) && heard.comes(TSTP, SENDER, now, || false));
        assert!(!heard.arrives(TSTP), "once");
    }

    /// The guest has stopped to be told of the first, which somebody undoes by having it go on late: the second is good.
    #[test]
    fn of_two_that_come_to_both_the_one_that_waits_is_delivered() {
        const TSTP: i32 = libc::SIGTSTP;
        let (mut heard, now) = (Heard::default(), Instant::now());
        heard.passes(TSTP, Some(SENDER), now);
        assert!(!heard.comes(TSTP, SENDER, now, || true));
        assert!(heard.arrives(TSTP));
        assert_eq!(heard.late(now + PATIENCE), None, "it was no other one");
        let is_due = heard.comes(TSTP, SENDER, now, || panic!("nothing is owed of it"));
        assert!(!is_due, "another one");
        assert_eq!(heard.late(now + PATIENCE), Some(TSTP));
    }

    #[test]
    fn what_the_guest_may_have_lost_is_told_once() {
        const TSTP: i32 = libc::SIGTSTP;
        let (mut heard, now) = (Heard::default(), Instant::now());
        assert!(!heard.take_overtaken(TSTP));
        heard.overtake(TSTP);
        assert!(!heard.take_overtaken(libc::SIGTTIN));
        assert!(heard.take_overtaken(TSTP) && !heard.take_overtaken(TSTP));
        heard.overtake(TSTP);
        heard.passes(libc::SIGCONT, None, now);
        assert!(!heard.take_overtaken(TSTP), "it does not wait any more");
    }

    #[test]
    fn a_mark_is_good_for_one_stop_and_none_that_was_undone() {
        const TSTP: i32 = libc::SIGTSTP;
        let (mut heard, now) = (Heard::default(), Instant::now());
        assert!(!heard.take_mark(TSTP));
        heard.mark(TSTP);
        assert!(!heard.take_mark(libc::SIGTTIN));
        assert!(heard.take_mark(TSTP) && !heard.take_mark(TSTP));
        heard.mark(TSTP);
        heard.passes(libc::SIGCONT, None, now);
        assert!(!heard.take_mark(TSTP));
    }

    #[test]
    fn what_has_no_second_is_bounded_and_not_lost() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        for sender in 0..1000 {
            heard.passes(TERM, Some(sender), now);
            assert!(heard.arrives(TERM));
            let due = heard.comes(libc::SIGHUP, sender, now, || false);
            assert_eq!(due, sender as usize >= MOST);
        }
        assert_eq!((heard.passed_on.len(), heard.dropped.len()), (MOST, MOST));
    }
}
