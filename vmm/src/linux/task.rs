//! The guest's tasks: what each thread has of its own. What they share is [`Linux`] itself.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::time::Timespec;

use super::futex::Word;
use super::prctl;
use super::scheduler::{FIRST, Tid};
use super::scheduling::Scheduling;
use super::signal::{Queue, SignalStack};
use super::wait::Progress;
use super::{Call, Linux};

/// Tasks that a guest may have at a time.
const MOST: usize = 4096;
/// Numbers of tasks end here, as under Linux (`PID_MAX_LIMIT`).
const NUMBERS: Tid = 1 << 22;

/// A thread of the guest.
#[derive(Debug, Default)]
pub(super) struct Task {
    /// The call that waits.
    pub(super) pending: Option<Pending>,
    /// The word that it waits for.
    pub(super) futex: Option<Word>,
    /// Where to write zero when it ends, and wake who waits for that.
    pub(super) clear_at_end: u64,
    /// The list of its robust futexes.
    pub(super) robust_list: u64,
    /// As `prctl` has it.
    pub(super) name: [u8; 16],
    /// Signals that are not delivered now.
    pub(super) mask: u64,
    /// The mask to be had after a call that waits with another.
    pub(super) saved_mask: Option<u64>,
    /// Signals that `rt_sigtimedwait` waits for.
    pub(super) awaited: u64,
    /// Signals for this task alone.
    pub(super) signals: Queue,
    /// Its alternate stack.
    pub(super) stack: SignalStack,
    /// How it asked to be scheduled.
    pub(super) scheduling: Scheduling,
    /// What else `prctl` has of it.
    pub(super) attributes: prctl::OfThread,
    /// Processor time that it has had until it left a processor the last time.
    pub(super) used: Timespec,
}

/// A call that has to be served again.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) call: Call,
    pub(super) progress: Progress,
    /// All have been stopped since it waits: a handler that runs before it is asked again ends it, whatever has come meanwhile.
    pub(super) stopped: bool,
}

/// All tasks that have not ended.
#[derive(Debug)]
pub(super) struct Tasks {
    /// Boxed: a node of the map has room for eleven, and most guests have one.
    all: BTreeMap<Tid, Box<Task>>,
    /// What is left of the first once it has ended before others: its number stands for the process as long as that lasts.
    leader: Option<Box<Task>>,
    last: Tid,
}

impl Task {
    /// What can be asked of one that has ended.
    fn remains(&self) -> Self {
        Self {
            name: self.name,
            scheduling: self.scheduling,
            attributes: self.attributes,
            used: self.used,
            ..Self::default()
        }
    }
}

impl Tasks {
    /// Those of a new guest, the first of which is scheduled so.
    pub(super) fn of(scheduling: Scheduling) -> Self {
        let first = Task {
            scheduling,
            ..Task::default()
        };
        Self {
            all: BTreeMap::from([(FIRST, Box::new(first))]),
            leader: None,
            last: FIRST,
        }
    }

    /// Adds a task; its number.
    pub(super) fn add(&mut self, task: Task) -> Result<Tid, Errno> {
        if self.all.len() >= MOST {
            return Err(Errno::AGAIN);
        }
        loop {
            self.last = if self.last + 1 >= NUMBERS {
                FIRST + 1
            } else {
                self.last + 1
            };
            if !self.all.contains_key(&self.last) {
                break;
            }
        }
        self.all.insert(self.last, Box::new(task));
        Ok(self.last)
    }

    pub(super) fn remove(&mut self, tid: Tid) -> Option<Task> {
        let task = *self.all.remove(&tid)?;
        if tid == FIRST {
            self.leader = Some(Box::new(task.remains()));
        }
        Some(task)
    }

    /// The task of this number, or what is left of the first.
    pub(super) fn known(&self, tid: Tid) -> Option<&Task> {
        let leader = self.leader.as_deref().filter(|_| tid == FIRST);
        self.get(tid).or(leader)
    }

    /// The same.
    pub(super) fn known_mut(&mut self, tid: Tid) -> Option<&mut Task> {
        match self.all.get_mut(&tid) {
            Some(task) => Some(task),
            None => self.leader.as_deref_mut().filter(|_| tid == FIRST),
        }
    }

    pub(super) fn get(&self, tid: Tid) -> Option<&Task> {
        self.all.get(&tid).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, tid: Tid) -> Option<&mut Task> {
        self.all.get_mut(&tid).map(Box::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Tid, &Task)> {
        self.all.iter().map(|(&tid, task)| (tid, task.as_ref()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

impl Linux {
    /// Number of the task whose call is being served.
    pub(super) fn tid(&self) -> Tid {
        self.serving
    }

    /// The task whose call is being served.
    pub(super) fn task(&mut self) -> &mut Task {
        let tid = self.serving;
        self.tasks.all.entry(tid).or_default()
    }

    /// The number of a task that a guest names.
    pub(super) fn task_named(&self, number: u64) -> Result<Tid, Errno> {
        let number = number as i32;
        if number <= 0 {
            return Err(Errno::INVAL);
        }
        let tid = number as Tid;
        self.tasks.known(tid).map(|_| tid).ok_or(Errno::SRCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_not_used_twice_at_a_time_and_tasks_are_bounded() {
        let mut tasks = Tasks::of(Scheduling::default());
        assert_eq!(tasks.add(Task::default()), Ok(2));
        tasks.last = NUMBERS - 2;
        assert_eq!(tasks.add(Task::default()), Ok(NUMBERS - 1));
        assert_eq!(tasks.add(Task::default()), Ok(3), "1 and 2 are in use");
        while tasks.len() < MOST {
            tasks.add(Task::default()).unwrap();
        }
        assert_eq!(tasks.add(Task::default()), Err(Errno::AGAIN));
        tasks.remove(3);
        assert!(tasks.add(Task::default()).is_ok());
    }

    #[test]
    fn the_first_number_is_the_processes_as_long_as_that_lasts() {
        let mut tasks = Tasks::of(Scheduling::new(7));
        assert_eq!(tasks.add(Task::default()), Ok(2));
        assert!(tasks.remove(FIRST).is_some() && tasks.remove(2).is_some());
        assert!(tasks.get(FIRST).is_none() && tasks.is_empty());
        let left = tasks.known(FIRST).unwrap().scheduling;
        assert_eq!(left, Scheduling::new(7));
        assert!(tasks.known(2).is_none() && tasks.known_mut(2).is_none());
        tasks.known_mut(FIRST).unwrap().scheduling = Scheduling::new(9);
        assert_eq!(tasks.known(FIRST).unwrap().scheduling, Scheduling::new(9));
        tasks.last = NUMBERS - 1;
        assert_eq!(tasks.add(Task::default()), Ok(2), "1 is not used again");
    }
}
