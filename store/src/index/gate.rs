//! Readers and catch-ups of a secondary, kept apart.
//!
//! Any number of readers stand inside; a catch-up waits until none does, and keeps new ones out
//! while it runs. A waiting catch-up keeps nobody out, so a reader may enter twice.

use std::sync::{Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Gate {
    inside: Mutex<Inside>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Inside {
    readers: usize,
    /// Catch-ups that there were.
    state: u64,
}

/// A reader inside.
#[derive(Debug)]
pub(crate) struct Standstill<'a> {
    gate: &'a Gate,
    state: u64,
}

impl Gate {
    pub(super) fn enter(&self) -> Standstill<'_> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.readers += 1;
        Standstill {
            gate: self,
            state: inside.state,
        }
    }

    /// Runs `work` with no reader inside.
    pub(super) fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        while inside.readers > 0 {
            inside = self
                .left
                .wait(inside)
                .unwrap_or_else(PoisonError::into_inner);
        }
        inside.state += 1;
        work()
    }
}

impl Standstill<'_> {
    /// Which state stands still: all who were inside between the same two catch-ups have the same number.
    pub(super) fn state(&self) -> u64 {
        self.state
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        let inside = self.gate.inside.lock();
        let mut inside = inside.unwrap_or_else(PoisonError::into_inner);
        inside.readers -= 1;
        if inside.readers == 0 {
            self.gate.left.notify_all();
        }
    }
}
