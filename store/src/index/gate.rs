//! Readers and catch-ups of a secondary, kept apart.
//!
//! Any number of readers stand inside; a catch-up waits until none does, and keeps new ones out
//! while it runs. A waiting catch-up keeps nobody out, so a reader may enter twice.

use std::sync::{Condvar, Mutex, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Gate {
    readers: Mutex<usize>,
    left: Condvar,
}

/// A reader inside.
#[derive(Debug)]
pub(crate) struct Standstill<'a>(&'a Gate);

impl Gate {
    pub(super) fn enter(&self) -> Standstill<'_> {
        *self.readers.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Standstill(self)
    }

    /// Runs `work` with no reader inside.
    pub(super) fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        while *readers > 0 {
            readers = self
                .left
                .wait(readers)
                .unwrap_or_else(PoisonError::into_inner);
        }
        work()
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        let mut readers = self
            .0
            .readers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *readers -= 1;
        if *readers == 0 {
            self.0.left.notify_all();
        }
    }
}
