//! Whose turn it is at the writer's lock: commits and a collection take turns, however many commits there are and however soon
//! the collection comes again.
//!
//! The lock alone does not see to that: a thread that lets go of it and asks again has it before those that wait are awake.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who waits for a lock.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Times that somebody came to wait for the lock, and that somebody got it.
    arrived: u64,
    served: u64,
    /// Those before whom nobody else comes to wait.
    first: usize,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, waits: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.state(), |state| waits(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock as `take` does, which waits for it.
    pub(crate) fn pass<T>(&self, take: impl FnOnce() -> T) -> T {
        self.wait_while(|state| state.first > 0).arrived += 1;
        let taken = take();
        self.state().served += 1;
        self.changed.notify_all();
        taken
    }

    /// The same, before all who do not wait for it yet.
    pub(crate) fn pass_first<T>(&self, take: impl FnOnce() -> T) -> T {
        self.state().first += 1;
        let taken = take();
        self.state().first -= 1;
        self.changed.notify_all();
        taken
    }

    /// Waits until as many have had the lock as wait for it now. Not to be called by who has it.
    pub(crate) fn let_in(&self) {
        let before = self.state().arrived;
        drop(self.wait_while(|state| state.served < before));
    }

    /// True when somebody waits.
    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        let state = self.state();
        state.arrived > state.served
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn who_is_first_comes_before_those_who_come_then() {
        let (queue, lock) = (Queue::default(), Mutex::new(Vec::new()));
        thread::scope(|threads| {
            let held = queue.pass(|| lock.lock().unwrap());
            threads.spawn(|| queue.pass_first(|| lock.lock().unwrap()).push("first"));
            pool_tests::wait::until("it waits", || queue.state().first == 1);
            for _ in 0..3 {
                threads.spawn(|| queue.pass(|| lock.lock().unwrap()).push("other"));
            }
            drop(held);
        });
        assert_eq!(lock.into_inner().unwrap()[0], "first");
    }
}
