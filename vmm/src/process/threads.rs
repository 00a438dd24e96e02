//! The guest's threads, as the tracer knows them.

use std::collections::{BTreeMap, BTreeSet};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Pid;

use super::change::Change;
use super::listener::Wanted;
use super::ptrace::{Registers, Resume};
use crate::linux::prctl;

/// Threads that a guest may have at once: each takes the host a stack in the kernel.
pub(super) const MOST: usize = 1024;

/// A call that a thread makes, and what it is to come for by it.
pub(super) type Step = (Change, Option<Wanted>);

/// A call that a thread makes after one that it has made, at the same instruction. No signal comes between them.
#[derive(Debug)]
pub(super) struct Script {
    /// It has still to be made.
    pub(super) step: Option<Step>,
    /// What both fail with in the end.
    pub(super) fails: Option<Errno>,
    /// The registers of the first when it had returned.
    pub(super) before: Registers,
}

/// What is looked at when a call has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    /// Where the heap ends.
    Heap,
    /// What was mapped: a file that is shared, which another thread may have put in the place of the one that was looked at.
    Shared,
}

/// What is known of one.
#[derive(Debug, Default)]
pub(super) struct Thread {
    /// What it has called itself.
    name: Option<Vec<u8>>,
    /// What else it has by `prctl`, and by `sched_setaffinity`: processors, a bit each, or none for all.
    pub(super) attributes: prctl::OfThread,
    pub(super) processors: u64,
    /// The flags with which it opens what is looked at when it has.
    pub(super) opens: Option<OFlags>,
    /// What is looked at when it has come to the end of its call.
    pub(super) looks: Option<Looks>,
    /// The signals that it had blocked before the call that it is in, where it has all blocked in that.
    pub(super) mask: Option<u64>,
    /// What it has still to do in a call.
    pub(super) script: Option<Script>,
    /// The registers with which it made the call that it is in, if they were changed.
    pub(super) changed: Option<Registers>,
    /// It was let into a call that starts a thread, and has not stopped since.
    starting: bool,
    /// The one that started it has told.
    told: bool,
    /// How it goes on once that has.
    held: Option<Resume>,
}

impl Thread {
    /// What it does next in place of its call.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        self.script.as_mut()?.step.take()
    }
}

impl Script {
    /// The registers to make the call with once more.
    pub(super) fn again(&self) -> Registers {
        /// Bytes of the instruction, behind which they are.
        const SYSCALL: u64 = 2;
        let mut registers = self.before;
        registers.rip -= SYSCALL;
        registers.rax = registers.orig_rax;
        // In no call, so that no signal has it made again.
        registers.orig_rax = u64::MAX;
        registers
    }
}

/// All that have not ended. A thread may stop, and even end, before the one that started it tells; it does nothing before, so that it
/// has what it inherits.
#[derive(Debug)]
pub(super) struct Threads {
    known: BTreeMap<i32, Thread>,
    /// Ended before they were told of.
    ended: BTreeSet<i32>,
    /// On their way to the listener, and what for.
    coming: BTreeMap<i32, Wanted>,
    /// They stay stopped with all others.
    staying: BTreeSet<i32>,
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
            coming: BTreeMap::new(),
            staying: BTreeSet::new(),
        }
    }

    /// The one of this number, which has stopped.
    pub(super) fn stopped(&mut self, pid: Pid) -> &mut Thread {
        let thread = self.known.entry(pid.as_raw_nonzero().get()).or_default();
        thread.starting = false;
        thread
    }

    /// `parent` has stopped to tell that it started `number`, which has what threads inherit; how that goes on, if it waits for it.
    pub(super) fn started(&mut self, parent: Pid, number: i32) -> Option<Resume> {
        if self.ended.remove(&number) {
            return None;
        }
        let parent = self.known.get(&parent.as_raw_nonzero().get());
        let name = parent.and_then(|parent| parent.name.clone());
        let had = parent.map(|parent| (parent.attributes.inherited(), parent.processors));
        let thread = self.known.entry(number).or_default();
        thread.told = true;
        thread.name = name;
        (thread.attributes, thread.processors) = had.unwrap_or_default();
        thread.held.take()
    }

    /// `pid` has stopped, as it does when it begins, and is to go on so: whether it has to wait until the one that started it tells.
    pub(super) fn holds(&mut self, pid: Pid, how: Resume) -> bool {
        let thread = self.stopped(pid);
        if !thread.told {
            thread.held = Some(how);
        }
        !thread.told
    }

    /// `pid` has stopped, and is to stay so, or goes on.
    pub(super) fn stays(&mut self, pid: Pid, stays: bool) {
        self.stopped(pid);
        let number = pid.as_raw_nonzero().get();
        if stays {
            self.staying.insert(number);
        } else {
            self.staying.remove(&number);
        }
    }

    /// One of those that stay stopped, where all do; or all but the `first`, which is gone, as `is_gone` says. The end of that is told of when all others
    /// have been seen off, so that it is another one if there is one.
    pub(super) fn all_stay(&self, first: Pid, is_gone: impl FnOnce() -> bool) -> Option<Pid> {
        let first = first.as_raw_nonzero().get();
        let mut others = self.known.iter().filter(|(number, _)| **number != first);
        let stays =
            |(number, thread): (&i32, &Thread)| thread.told && self.staying.contains(number);
        if !others.clone().all(stays) {
            return None;
        }
        let other = others.next().map(|(number, _)| *number);
        if !self.staying.contains(&first) && (other.is_none() || !is_gone()) {
            return None;
        }
        Pid::from_raw(other.unwrap_or(first))
    }

    /// `pid` calls itself `name`, which ends with NUL or where there is no more room.
    pub(super) fn name(&mut self, pid: Pid, name: &[u8; 15]) {
        let length = name.iter().position(|&byte| byte == 0);
        self.stopped(pid).name = Some(name[..length.unwrap_or(name.len())].to_vec());
    }

    /// What that one of this number has called itself, or whoever started it.
    pub(super) fn name_of(&self, number: i32) -> Option<&[u8]> {
        self.known.get(&number)?.name.as_deref()
    }

    /// It has ended.
    pub(super) fn ended(&mut self, pid: Pid) {
        let number = pid.as_raw_nonzero().get();
        self.coming.remove(&number);
        self.staying.remove(&number);
        if self
            .known
            .remove(&number)
            .is_some_and(|thread| !thread.told)
        {
            self.ended.insert(number);
        }
    }

    /// The one of this number, 0 for `caller`, which asks for what threads inherit.
    pub(super) fn asked(&mut self, caller: Pid, number: i32) -> Option<&mut Thread> {
        let number = match number {
            0 => caller.as_raw_nonzero().get(),
            number => number,
        };
        self.known.get_mut(&number)
    }

    /// Whether `number` is one of the guest's.
    pub(super) fn has(&self, number: i32) -> bool {
        self.known.contains_key(&number)
    }

    /// `pid` is about to come to the listener.
    pub(super) fn comes(&mut self, pid: Pid, wanted: Wanted) {
        self.coming.insert(pid.as_raw_nonzero().get(), wanted);
    }

    /// Somebody is about to.
    pub(super) fn any_comes(&self) -> bool {
        !self.coming.is_empty()
    }

    /// What `pid` has come for; or what it did not come for, and is not on its way to any more.
    pub(super) fn came(&mut self, pid: Pid) -> Option<Wanted> {
        self.coming.remove(&pid.as_raw_nonzero().get())
    }

    /// Their numbers, in order.
    pub(super) fn numbers(&self) -> Vec<i32> {
        self.known.keys().copied().collect()
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
            threads.started(pid(1), number);
        }
        assert!(threads.start(pid(1)), "one more");
        assert!(!threads.start(pid(2)), "it would be one too many");
        threads.stopped(pid(1));
        assert!(threads.start(pid(2)), "the first came to nothing");
        threads.stopped(pid(2));
        threads.started(pid(2), 5000);
        assert!(!threads.start(pid(2)), "it came to something");
        threads.ended(pid(2));
        assert!(!threads.has(2) && threads.has(3));
        assert!(threads.start(pid(3)));
    }

    #[test]
    fn a_thread_has_the_name_of_who_started_it_until_it_has_its_own() {
        let mut threads = Threads::new(pid(1));
        assert_eq!(threads.name_of(1), None);
        threads.name(pid(1), b"first\0hidden-wa");
        threads.started(pid(1), 2);
        threads.started(pid(1), 3);
        threads.name(pid(3), b"a-name-that-is-");
        threads.name(pid(1), b"other\0hidden-wa");
        let names = [1, 2, 3].map(|number| threads.name_of(number).unwrap());
        assert_eq!(names, [&b"other"[..], b"first", b"a-name-that-is-"]);
        assert_eq!(threads.numbers(), [1, 2, 3]);
    }

    #[test]
    fn a_thread_waits_for_what_it_inherits() {
        let mut threads = Threads::new(pid(1));
        threads.stopped(pid(1)).processors = 5;
        assert!(!threads.holds(pid(1), Resume::Run(0)));
        assert!(threads.holds(pid(2), Resume::StayStopped));
        let goes_on = threads.started(pid(1), 2);
        assert_eq!(goes_on, Some(Resume::StayStopped));
        assert_eq!(threads.stopped(pid(2)).processors, 5);
        assert!(!threads.holds(pid(2), Resume::Run(0)));
        assert_eq!(threads.started(pid(1), 3), None, "it has not stopped yet");
        assert!(!threads.holds(pid(3), Resume::Run(0)));
    }

    #[test]
    fn all_are_stopped_once_each_that_there_is_stays_so() {
        let mut threads = Threads::new(pid(1));
        let all = |threads: &Threads, gone| threads.all_stay(pid(1), || gone);
        assert_eq!(all(&threads, true), None, "it is the only one");
        threads.stays(pid(1), true);
        assert_eq!(all(&threads, false), Some(pid(1)));
        threads.started(pid(1), 2);
        assert_eq!(all(&threads, false), None);
        threads.stays(pid(2), true);
        assert_eq!(all(&threads, false), Some(pid(2)), "not the first");
        threads.stays(pid(3), true);
        assert_eq!(all(&threads, false), None, "who started it is to tell");
        threads.started(pid(2), 3);
        threads.stays(pid(1), false);
        assert_eq!(all(&threads, false), None);
        assert_eq!(all(&threads, true), Some(pid(2)));
    }

    #[test]
    fn a_thread_may_be_gone_before_it_is_told_of() {
        let mut threads = Threads::new(pid(1));
        threads.stopped(pid(2));
        assert!(!threads.is_one());
        threads.ended(pid(2));
        threads.started(pid(1), 2);
        assert!(threads.is_one() && !threads.has(2));
        threads.started(pid(1), 2);
        assert!(threads.has(2), "its number came again");
    }
}
