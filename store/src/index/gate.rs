//! Readers and catch-ups of a secondary, kept apart.
//!
//! Any number of readers stand inside; a catch-up waits until none does, and keeps new ones out
//! while it runs. A waiting catch-up keeps nobody out, so a reader may enter twice. What comes on top of the database
//! waits for nobody: who is inside goes on with what there was.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::pending::Pending;
use super::state::State;

#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<Inside>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    readers: usize,
    state: Arc<State>,
}

/// A reader inside.
#[derive(Debug)]
pub(crate) struct Standstill<'a> {
    gate: &'a Gate,
    state: Arc<State>,
}

impl Gate {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self) -> Standstill<'_> {
        let mut inside = self.inside();
        inside.readers += 1;
        Standstill {
            gate: self,
            state: Arc::clone(&inside.state),
        }
    }

    /// The state that who enters now is in.
    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.inside().state)
    }

    /// What commits have changed comes on top of the database, in their order.
    pub(super) fn push(&self, steps: Vec<Arc<Pending>>) {
        let mut inside = self.inside();
        let state = Arc::make_mut(&mut inside.state);
        for step in steps {
            state.push(step);
        }
    }

    /// Runs `work`, which changes the database and says what becomes of the state, with no reader inside. `None` if there is one, unless it
    /// `waits` for that.
    pub(super) fn alone<T>(&self, waits: bool, work: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut inside = if waits { self.empty() } else { self.inside() };
        (inside.readers == 0).then(|| work(Arc::make_mut(&mut inside.state)))
    }

    /// Waits until no reader is inside. One may enter right after.
    pub(super) fn wait_until_empty(&self) {
        drop(self.empty());
    }

    fn empty(&self) -> MutexGuard<'_, Inside> {
        let mut inside = self.inside();
        while inside.readers > 0 {
            inside = self
                .left
                .wait(inside)
                .unwrap_or_else(PoisonError::into_inner);
        }
        inside
    }
}

impl Standstill<'_> {
    /// Which state stands still.
    pub(super) fn state(&self) -> &State {
        &self.state
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        let mut inside = self.gate.inside();
        inside.readers -= 1;
        if inside.readers == 0 {
            self.gate.left.notify_all();
        }
    }
}
