//! Whether a thread has begun, told to the one that has started it.
//!
//! A channel of the standard library would do, and bring what the loader relocates in each instance: a page's third, for one word.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};

use super::KvmError;

type Told = Arc<Mutex<Option<Result<(), KvmError>>>>;

/// For the thread that begins.
pub(super) struct Telling {
    told: Told,
    waits: Thread,
}

/// For the one that waits for it, which has made this.
pub(super) struct Begun(Told);

/// Both ends.
pub(super) fn beginning() -> (Telling, Begun) {
    let told = Told::default();
    let telling = Telling {
        told: Arc::clone(&told),
        waits: thread::current(),
    };
    (telling, Begun(told))
}

impl Telling {
    /// Says how it has begun.
    pub(super) fn tell(self, begun: Result<(), KvmError>) {
        self.put(begun);
    }

    fn put(&self, begun: Result<(), KvmError>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get_or_insert(begun);
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // If nothing was said, because of a panic.
        self.put(Err(KvmError::Call {
            what: "starting the thread of a processor",
            error: io::Error::other("it has ended"),
        }));
        self.waits.unpark();
    }
}

impl Begun {
    /// Waits until that is known.
    pub(super) fn wait(self) -> Result<(), KvmError> {
        loop {
            let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(begun) = told {
                return begun;
            }
            thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_whatever_happens() {
        let begin = |work: fn(Telling)| {
            let (telling, begun) = beginning();
            let thread = thread::spawn(move || work(telling));
            let begun = begun.wait();
            let _ = thread.join();
            begun
        };
        for _ in 0..100 {
            begin(|telling| telling.tell(Ok(()))).unwrap();
            begin(|telling| telling.tell(Err(KvmError::NoDevice))).unwrap_err();
        }
        let error = begin(drop).unwrap_err();
        assert!(error.to_string().contains("it has ended"), "{error}");
    }
}
