//! Whose scrub runs: one at a time, and the last one that was asked for.
//!
//! A scrub can take days, and whoever asked for it may have left, which a server is not told: a client may say that it has said all
//! and still wait (RFC 9112, 9.6). So who asks anew takes over, at the rate that is asked for then, and goes on where the other one
//! was. What the service does by itself takes over from those alone that are slower: who has left may have asked for a rate at which
//! no scrub comes to its end.

use std::num::NonZeroU64;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Hands the turn to scrub on.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Nobody is to go on.
    is_stopped: bool,
    /// Bytes a second of who has the turn.
    taken: Option<u64>,
    /// How many wait to take over.
    waiting: usize,
    /// Number of the last turn that was asked for.
    last: u64,
}

/// The turn to scrub; it ends with the value.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every turn is over.
    pub(crate) fn stop(&self) {
        self.state().is_stopped = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state().is_stopped
    }

    /// The turn to read at this rate (`None` is as fast as can be), unless somebody waits for it or has it for the same or a higher
    /// one. Who has it for a lower one is taken over from.
    pub(crate) fn take_from_slower(&self, rate: Option<NonZeroU64>) -> Option<Turn<'_>> {
        let state = self.state();
        if state.waiting > 0 || state.taken.is_some_and(|taken| taken >= bytes(rate)) {
            return None;
        }
        self.wait(state, rate)
    }

    /// The turn once whoever has it has ended, which is asked for. `None` as soon as somebody asks for one later.
    pub(crate) fn take_over(&self, rate: Option<NonZeroU64>) -> Option<Turn<'_>> {
        self.wait(self.state(), rate)
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, rate: Option<NonZeroU64>) -> Option<Turn<'_>> {
        state.last += 1;
        let number = state.last;
        self.changed.notify_all();
        state.waiting += 1;
        let waits = |state: &mut State| state.taken.is_some() && state.last == number;
        let waited = self.changed.wait_while(state, waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        (state.last == number).then(|| self.take(&mut state, rate))
    }

    /// The last turn that was asked for, which nobody has.
    fn take(&self, state: &mut State, rate: Option<NonZeroU64>) -> Turn<'_> {
        state.taken = Some(bytes(rate));
        Turn {
            turns: self,
            number: state.last,
        }
    }
}

fn bytes(rate: Option<NonZeroU64>) -> u64 {
    rate.map_or(u64::MAX, NonZeroU64::get)
}

impl Turn<'_> {
    /// Waits until the turn is over, and not for longer than `most`; true when it is over.
    pub(crate) fn is_over_within(&self, most: Duration) -> bool {
        let goes_on = |state: &mut State| !state.is_stopped && state.last == self.number;
        let state = self.turns.state();
        let waited = self.turns.changed.wait_timeout_while(state, most, goes_on);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !goes_on(&mut state)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.state().taken = None;
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1_000_000);

    fn until(turns: &Turns, is_so: impl Fn(&State) -> bool) {
        while !is_so(&turns.state()) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_asks_last_takes_over_and_nobody_passes_who_waits() {
        let turns = &Turns::default();
        let first = turns.take_from_slower(None).unwrap();
        assert!(turns.take_from_slower(None).is_none());
        assert!(!first.is_over_within(Duration::ZERO));
        std::thread::scope(|threads| {
            let second = threads.spawn(|| turns.take_over(None).is_none());
            until(turns, |state| state.waiting == 1);
            assert!(first.is_over_within(LONG));
            let (ends, ended) = std::sync::mpsc::channel::<()>();
            let third = threads.spawn(move || {
                let third = turns.take_over(None).unwrap();
                let is_over = third.is_over_within(Duration::ZERO);
                let _ = ended.recv();
                is_over
            });
            // However long the first one takes.
            assert!(second.join().unwrap());
            until(turns, |state| state.waiting == 1 && state.last == 3);
            drop(first);
            // Whether it is awake already or not.
            assert!(turns.take_from_slower(None).is_none());
            drop(ends);
            assert!(!third.join().unwrap());
        });
        let last = turns.take_over(None).unwrap();
        assert!(!last.is_over_within(Duration::ZERO));
        turns.stop();
        assert!(last.is_over_within(LONG) && turns.is_stopped());
        drop(last);
        let after = turns.take_from_slower(None).unwrap();
        assert!(after.is_over_within(LONG));
    }

    #[test]
    fn who_is_slower_is_taken_over_from_and_nobody_else() {
        let turns = &Turns::default();
        let rate = |bytes| NonZeroU64::new(bytes);
        let slow = turns.take_over(rate(1)).unwrap();
        assert!(turns.take_from_slower(rate(1)).is_none());
        assert!(!slow.is_over_within(Duration::ZERO));
        std::thread::scope(|threads| {
            let faster = threads.spawn(move || turns.take_from_slower(rate(2)));
            assert!(slow.is_over_within(LONG));
            drop(slow);
            let faster = faster.join().unwrap().unwrap();
            for bytes in [1, 2] {
                assert!(turns.take_from_slower(rate(bytes)).is_none());
            }
            assert!(!faster.is_over_within(Duration::ZERO));
        });
        let unlimited = turns.take_from_slower(None).unwrap();
        assert!(turns.take_from_slower(rate(u64::MAX)).is_none());
        assert!(!unlimited.is_over_within(Duration::ZERO));
    }
}
