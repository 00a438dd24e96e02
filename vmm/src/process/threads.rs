//! The guest's threads, as the tracer knows them.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Pid;

use super::ptrace::Registers;

/// Threads that a guest may have at once: each takes the host a stack in the kernel.
pub(super) const MOST: usize = 1024;

/// What is known of one.
#[derive(Debug, Default)]
pub(super) struct Thread {
    /// The registers with which it made the call that it is in, if they were changed.
    pub(super) changed: Option<Registers>,
    /// What the file is to hold that it is about to have opened.
    pub(super) content: Option<Vec<u8>>,
    /// It was let into a call that starts a thread, and has not stopped since.
    starting: bool,
    /// The one that started it has told.
    told: bool,
}

/// All that have not ended. A thread may stop, and even end, before the one that started it tells.
#[derive(Debug)]
pub(super) struct Threads {
    known: BTreeMap<i32, Thread>,
    /// Ended before they were told of.
    ended: BTreeSet<i32>,
}

impl Threads {
    /// The first, `guest`.
    pub(super) fn new(guest: Pid) -> Self {
        let first = Thread {
            told: true,
            ..Thread::default()
        };
        Self {
            known: BTreeMap::from([(guest.as_raw_nonzero().get(), first)]),
            ended: BTreeSet::new(),
        }
    }

    /// The one of this number, which has stopped.
    pub(super) fn stopped(&mut self, pid: Pid) -> &mut Thread {
        let thread = self.known.entry(pid.as_raw_nonzero().get()).or_default();
        thread.starting = false;
        thread
    }

    /// A thread has stopped to tell that it started `number`.
    pub(super) fn started(&mut self, number: i32) {
        if !self.ended.remove(&number) {
            self.known.entry(number).or_default().told = true;
        }
    }

    /// It has ended.
    pub(super) fn ended(&mut self, pid: Pid) {
        let number = pid.as_raw_nonzero().get();
        if self
            .known
            .remove(&number)
            .is_some_and(|thread| !thread.told)
        {
            self.ended.insert(number);
        }
    }

    /// Whether `number` is one of the guest's.
    pub(super) fn has(&self, number: i32) -> bool {
        self.known.contains_key(&number)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// There is one alone.
    pub(super) fn is_one(&self) -> bool {
        self.known.len() <= 1
    }

    /// Lets `pid` start one more, if there is room.
    pub(super) fn start(&mut self, pid: Pid) -> bool {
        let starting = self.known.values().filter(|thread| thread.starting).count();
        if self.known.len() + starting >= MOST {
            return false;
        }
        self.stopped(pid).starting = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn threads_that_are_being_started_count() {
        let mut threads = Threads::new(pid(1));
        for number in 2..MOST as i32 {
            threads.started(number);
        }
        assert!(threads.start(pid(1)), "one more");
        assert!(!threads.start(pid(2)), "it would be one too many");
        threads.stopped(pid(1));
        assert!(threads.start(pid(2)), "the first came to nothing");
        threads.stopped(pid(2));
        threads.started(5000);
        assert!(!threads.start(pid(2)), "it came to something");
        threads.ended(pid(2));
        assert!(!threads.has(2) && threads.has(3));
        assert!(threads.start(pid(3)));
    }

    #[test]
    fn a_thread_may_be_gone_before_it_is_told_of() {
        let mut threads = Threads::new(pid(1));
        threads.stopped(pid(2));
        assert!(!threads.is_one());
        threads.ended(pid(2));
        threads.started(2);
        assert!(threads.is_one() && !threads.has(2));
        threads.started(2);
        assert!(threads.has(2), "its number came again");
    }
}
