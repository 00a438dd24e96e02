//! The threads that have the processors: where each is, and how one makes another leave the guest.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::thread;

use rustix::thread::futex;

use super::kick;
use crate::memory::Processors;

/// A processor is outside of the guest.
const OUTSIDE: u32 = 0;
/// It is in the guest or about to enter it.
const INSIDE: u32 = 1;
/// The same, and another waits until it has left.
const AWAITED: u32 = 2;

/// What is known of each processor's thread.
#[derive(Debug, Default)]
struct Seat {
    /// Its number for the kernel, once it has begun.
    thread: AtomicI32,
    /// Where it is: [`OUTSIDE`] and its like.
    place: AtomicU32,
    /// It waits for something to do.
    resting: AtomicBool,
    /// It was called and has not come yet.
    called: AtomicBool,
}

impl Seat {
    fn leave(&self) {
        if self.place.swap(OUTSIDE, Ordering::SeqCst) == AWAITED {
            // It fails in no way for a word that is there; and one that waits looks again.
            let _ = futex::wake(&self.place, futex::Flags::PRIVATE, 1);
        }
    }

    /// Waits until it has left: that takes some 10 us, but a disk that it waits for in the host may take seconds.
    fn await_leaving(&self) {
        /// Looks before the kernel is asked to tell.
        const LOOKS: usize = 64;
        for _ in 0..LOOKS {
            if self.place.load(Ordering::SeqCst) == OUTSIDE {
                return;
            }
            thread::yield_now();
        }
        let (from, to) = (INSIDE, AWAITED);
        let order = Ordering::SeqCst;
        let _ = self.place.compare_exchange(from, to, order, order);
        while self.place.load(Ordering::SeqCst) == AWAITED {
            // It returns at once if that has changed, and may return for nothing.
            let _ = futex::wait(&self.place, futex::Flags::PRIVATE, AWAITED, None);
        }
    }
}

/// The threads of all processors.
#[derive(Debug)]
pub(super) struct Seats {
    seats: Box<[Seat]>,
    /// Whose turn it is to use what they share.
    here: AtomicUsize,
}

impl Seats {
    pub(super) fn new(processors: usize) -> Self {
        Self {
            seats: (0..processors).map(|_| Seat::default()).collect(),
            here: AtomicUsize::new(0),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.seats.len()
    }

    /// The calling thread has `processor`.
    pub(super) fn take(&self, processor: usize) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.seats[processor].thread.store(thread, Ordering::SeqCst);
    }

    /// `processor` has come, and what they share is its own for now.
    pub(super) fn begin(&self, processor: usize) {
        self.here.store(processor, Ordering::SeqCst);
        let seat = &self.seats[processor];
        seat.called.store(false, Ordering::SeqCst);
        seat.resting.store(false, Ordering::SeqCst);
    }

    /// `processor` lets go of what they share, to enter the guest.
    pub(super) fn enter(&self, processor: usize) {
        self.seats[processor].place.store(INSIDE, Ordering::SeqCst);
    }

    /// `processor` has left the guest.
    pub(super) fn leave(&self, processor: usize) {
        self.seats[processor].leave();
    }

    /// `processor` lets go of what they share, to wait.
    pub(super) fn rest(&self, processor: usize) {
        self.seats[processor].resting.store(true, Ordering::SeqCst);
    }

    /// A processor other than `processor` that waits.
    pub(super) fn resting_beside(&self, processor: usize) -> Option<usize> {
        let resting = |seat: &Seat| seat.resting.load(Ordering::SeqCst);
        let mut seats = self.seats.iter().enumerate();
        seats
            .find(|&(number, seat)| number != processor && resting(seat))
            .map(|(number, _)| number)
    }

    /// Has `processor` come. A signal is pending for its thread then, so it comes even if it is about to enter
    /// the guest or to wait.
    pub(super) fn call(&self, processor: usize) {
        let seat = &self.seats[processor];
        let thread = seat.thread.load(Ordering::SeqCst);
        if thread == 0 || seat.called.swap(true, Ordering::SeqCst) {
            return;
        }
        // It fails for one that has ended, which it does when the guest has.
        let _ = kick::tick_at(thread);
    }

    /// Has all others come.
    pub(super) fn call_all(&self, but: usize) {
        for processor in (0..self.count()).filter(|&processor| processor != but) {
            self.call(processor);
        }
    }
}

impl Processors for Seats {
    fn here(&self) -> usize {
        self.here.load(Ordering::SeqCst)
    }

    fn stop_others(&self) {
        let here = self.here();
        let others = || self.seats.iter().enumerate().filter(|&(at, _)| at != here);
        let inside = |seat: &Seat| seat.place.load(Ordering::SeqCst) != OUTSIDE;
        for (processor, _) in others().filter(|(_, seat)| inside(seat)) {
            self.call(processor);
        }
        // They wait for this one now, or are about to.
        for (_, seat) in others() {
            seat.await_leaving();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn whoever_rests_is_known() {
        let seats = Seats::new(3);
        assert_eq!(seats.resting_beside(0), None);
        seats.rest(0);
        assert_eq!(seats.resting_beside(0), None);
        seats.rest(2);
        assert_eq!(seats.resting_beside(0), Some(2));
        assert_eq!(seats.resting_beside(2), Some(0));
        seats.begin(2);
        assert_eq!(seats.resting_beside(0), None);
        assert_eq!(seats.here(), 2);
    }

    #[test]
    fn nobody_is_waited_for_who_is_outside() {
        let seats = Seats::new(2);
        seats.begin(0);
        seats.enter(1);
        seats.leave(1);
        seats.stop_others();
    }

    /// One that waits for long takes no processor of the host's.
    #[test]
    fn whoever_waits_for_others_sleeps() {
        let seats = Seats::new(2);
        seats.begin(0);
        seats.enter(1);
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                tell.send(rustix::thread::gettid()).unwrap();
                seats.stop_others();
            });
            let thread = told.recv().unwrap().as_raw_nonzero();
            let sleeps = || {
                let state = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
                state.rsplit_once(") ").unwrap().1.starts_with('S')
            };
            let slept = (0..100_000).any(|_| sleeps());
            assert!(!waiting.is_finished());
            seats.leave(1);
            waiting.join().unwrap();
            assert!(slept);
        });
    }
}
