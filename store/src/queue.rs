//! Who waits for the writer's lock gets it before somebody who has just had it.
//!
//! The lock alone does not see to that: a thread that lets go of it and asks again has it before those that wait are awake.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who waits for a lock.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    served: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Times that somebody asked for the lock, and that somebody got it.
    arrived: u64,
    served: u64,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock as `take` does, which waits for it.
    pub(crate) fn pass<T>(&self, take: impl FnOnce() -> T) -> T {
        self.state().arrived += 1;
        let taken = take();
        self.state().served += 1;
        self.served.notify_all();
        taken
    }

    /// Waits until as many have had the lock as wait for it now. Not to be called by who has it.
    pub(crate) fn let_in(&self) {
        let state = self.state();
        let before = state.arrived;
        let waited = self.served.wait_while(state, |state| state.served < before);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// True when somebody waits.
    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        let state = self.state();
        state.arrived > state.served
    }
}
