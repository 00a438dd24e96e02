//! Whose scrub runs: one at a time, and the last one that was asked for.
//!
//! A scrub can take days, and whoever asked for it may have left, which a server is not told: a client may say that it has said all
//! and still wait (RFC 9112, 9.6). So who asks anew takes over, at the rate that is asked for then, and goes on where the other one
//! was. What the service does by itself takes over from nobody.

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
    is_taken: bool,
    /// Number of the last turn.
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

    /// The turn, if nobody has it.
    pub(crate) fn take_if_free(&self) -> Option<Turn<'_>> {
        let state = self.state();
        (!state.is_taken).then(|| self.take(state))
    }

    /// The turn once whoever has it has ended, which is asked for. One that was asked for later is over at once.
    pub(crate) fn take_over(&self) -> Turn<'_> {
        let mut state = self.state();
        state.last += 1;
        let number = state.last;
        self.changed.notify_all();
        let waited = self.changed.wait_while(state, |state| state.is_taken);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_taken = true;
        Turn {
            turns: self,
            number,
        }
    }

    fn take(&self, mut state: MutexGuard<'_, State>) -> Turn<'_> {
        state.last += 1;
        state.is_taken = true;
        Turn {
            turns: self,
            number: state.last,
        }
    }
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
        self.turns.state().is_taken = false;
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1_000_000);

    #[test]
    fn who_asks_last_takes_over_and_who_does_not_insist_waits() {
        let turns = Turns::default();
        let first = turns.take_if_free().unwrap();
        assert!(turns.take_if_free().is_none());
        assert!(!first.is_over_within(Duration::ZERO));
        let (has_begun, begun) = std::sync::mpsc::channel();
        std::thread::scope(|threads| {
            let second = threads.spawn(|| {
                let second = turns.take_over();
                assert!(!second.is_over_within(Duration::ZERO));
                has_begun.send(()).unwrap();
                second.is_over_within(LONG)
            });
            assert!(first.is_over_within(LONG));
            drop(first);
            // Who asks while it waits would be before it.
            begun.recv().unwrap();
            let third = turns.take_over();
            assert!(second.join().unwrap());
            assert!(!third.is_over_within(Duration::ZERO));
            turns.stop();
            assert!(third.is_over_within(LONG) && turns.is_stopped());
        });
        assert!(turns.take_if_free().unwrap().is_over_within(LONG));
    }
}
