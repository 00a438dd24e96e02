//! Which tasks run: one on each processor, those that are ready follow in turn, the others wait. Pure: the
//! platform asks for what to wait, waits, and says what has come.
//!
//! Between two turns a task's registers stay in the processor that it ran on until another takes its place
//! there. A task that is ready again meanwhile runs on that one alone, which has nothing else to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::RawFd;

use rustix::event::PollFlags;
use rustix::time::Timespec;

use super::wait::Wait;

/// Descriptors that tasks may wait for together, beside one each.
const MOST_AWAITED: usize = 1 << 16;

/// Number of a task.
pub type Tid = u32;

/// The first task, which also is the number of the process: the guest is alone in its machine.
pub const FIRST: Tid = 1;

/// What a processor does.
#[derive(Clone, Debug, Default)]
struct Processor {
    running: Option<Tid>,
    /// The task whose registers it has.
    resident: Option<Tid>,
    turn_over: bool,
}

/// The tasks of a guest, by what they do.
#[derive(Debug)]
pub(super) struct Scheduler {
    processors: Vec<Processor>,
    /// The one that asks.
    here: usize,
    ready: VecDeque<Tid>,
    waiting: BTreeMap<Tid, Wait>,
    /// Of those that wait, and only until then.
    deadlines: BTreeSet<(Timespec, Tid)>,
    /// Descriptors that they wait for, all together.
    awaited: usize,
    /// How often one of them began to wait for some.
    waits: u64,
}

impl Scheduler {
    /// For so many processors, at least one.
    pub(super) fn new(processors: usize) -> Self {
        Self {
            processors: vec![Processor::default(); processors.max(1)],
            here: 0,
            ready: VecDeque::new(),
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            awaited: 0,
            waits: 0,
        }
    }

    /// How many processors there are.
    pub(super) fn processors(&self) -> usize {
        self.processors.len()
    }

    /// The processor that asks.
    pub(super) fn here(&self) -> usize {
        self.here
    }

    /// From now on it is `processor` that asks. The task that runs there.
    pub(super) fn turn_to(&mut self, processor: usize) -> Option<Tid> {
        self.here = processor.min(self.processors.len() - 1);
        self.at().running
    }

    fn at(&self) -> &Processor {
        &self.processors[self.here]
    }

    fn at_mut(&mut self) -> &mut Processor {
        &mut self.processors[self.here]
    }

    /// The processor has the registers of `task` now, or of none. Those that it had before.
    pub(super) fn reside(&mut self, task: Option<Tid>) -> Option<Tid> {
        std::mem::replace(&mut self.at_mut().resident, task)
    }

    /// A new task is ready to run.
    pub(super) fn add(&mut self, task: Tid) {
        self.ready.push_back(task);
    }

    /// There is room to remember `wait`: its length is the guest's choice.
    pub(super) fn has_room(&self, wait: &Wait) -> bool {
        let descriptors = wait.descriptors().count();
        descriptors <= 1 || self.awaited + descriptors <= MOST_AWAITED
    }

    /// The running task waits.
    pub(super) fn wait(&mut self, wait: Wait) {
        let Some(task) = self.at_mut().running.take() else {
            return;
        };
        if let Some(deadline) = wait.deadline() {
            self.deadlines.insert((deadline, task));
        }
        let descriptors = wait.descriptors().count();
        self.awaited += descriptors;
        self.waits += u64::from(descriptors > 0);
        self.waiting.insert(task, wait);
    }

    /// The running task has ended.
    pub(super) fn end(&mut self) {
        self.at_mut().running = None;
    }

    /// What `task` waited for has come: it is ready. False if it does not wait.
    pub(super) fn wake(&mut self, task: Tid) -> bool {
        let Some(wait) = self.waiting.remove(&task) else {
            return false;
        };
        if let Some(deadline) = wait.deadline() {
            self.deadlines.remove(&(deadline, task));
        }
        self.awaited -= wait.descriptors().count();
        self.ready.push_back(task);
        true
    }

    /// True if `task` waits.
    pub(super) fn is_waiting(&self, task: Tid) -> bool {
        self.waiting.contains_key(&task)
    }

    /// Wakes all whose deadline has come at `now`.
    pub(super) fn pass(&mut self, now: Timespec) {
        while let Some(&(deadline, task)) = self.deadlines.first()
            && deadline <= now
        {
            self.wake(task);
        }
    }

    /// The running task has had its turn, if another is ready.
    pub(super) fn end_turn(&mut self) {
        self.at_mut().turn_over = true;
    }

    /// True when the running task is to go on running.
    pub(super) fn goes_on(&self) -> bool {
        let at = self.at();
        at.running.is_some() && (!at.turn_over || self.ready().next().is_none())
    }

    /// The task to run now, if any is ready: the running one until its turn is over.
    pub(super) fn next(&mut self) -> Option<Tid> {
        if !self.goes_on() {
            let running = self.at_mut().running.take();
            self.ready.extend(running);
            let first = self.ready.iter().position(|&task| self.may_run(task));
            self.at_mut().running = first.and_then(|first| self.ready.remove(first));
        }
        self.at_mut().turn_over = false;
        self.at().running
    }

    /// True unless the registers of `task` are in another processor.
    fn may_run(&self, task: Tid) -> bool {
        let home = self.home(task);
        home.is_none_or(|home| home == self.here)
    }

    /// The processor that has the registers of `task`.
    pub(super) fn home(&self, task: Tid) -> Option<usize> {
        let mut processors = self.processors.iter();
        processors.position(|processor| processor.resident == Some(task))
    }

    /// The tasks that could run here beside the running one, in turn.
    pub(super) fn ready(&self) -> impl Iterator<Item = Tid> {
        let ready = self.ready.iter().copied();
        ready.filter(|&task| self.may_run(task))
    }

    /// Other processors and the tasks that run there.
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = (usize, Tid)> {
        let processors = self.processors.iter().enumerate();
        let others = processors.filter(|&(number, _)| number != self.here);
        others.filter_map(|(number, processor)| Some((number, processor.running?)))
    }

    /// Other processors that run nothing, and for which something is ready.
    pub(super) fn called(&self) -> Vec<usize> {
        let mut called = BTreeSet::new();
        let mut anywhere = 0;
        for &task in &self.ready {
            match self.home(task) {
                Some(home) => drop(called.insert(home)),
                None => anywhere += 1,
            }
        }
        let is_idle = |&number: &usize| self.processors[number].running.is_none();
        called.remove(&self.here);
        let others = (0..self.processors.len()).filter(|&number| number != self.here);
        let free: Vec<_> = others
            .filter(is_idle)
            .filter(|number| !called.contains(number))
            .collect();
        called.extend(free.into_iter().take(anywhere));
        called.into_iter().filter(is_idle).collect()
    }

    /// True when more is ready than the other processors that run nothing will take.
    pub(super) fn is_crowded(&self) -> bool {
        let anywhere = self.ready.iter().filter(|&&task| self.home(task).is_none());
        let idle = |&(number, processor): &(usize, &Processor)| {
            number != self.here && processor.running.is_none()
        };
        anywhere.count() > self.processors.iter().enumerate().filter(idle).count()
    }

    /// How many waits for descriptors have begun, if one lasts.
    pub(super) fn descriptor_waits(&self) -> Option<u64> {
        (self.awaited > 0).then_some(self.waits)
    }

    /// The first moment at which a task is woken in any case.
    pub(super) fn deadline(&self) -> Option<Timespec> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// What is waited for at descriptors, and by whom.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (Tid, RawFd, PollFlags)> {
        self.waiting.iter().flat_map(|(&task, wait)| {
            let descriptors = wait.descriptors();
            descriptors.map(move |(descriptor, events)| (task, descriptor, events))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tv_sec: i64) -> Timespec {
        Timespec { tv_sec, tv_nsec: 0 }
    }

    fn with(tasks: &[Tid]) -> Scheduler {
        let mut scheduler = Scheduler::new(1);
        for &task in tasks {
            scheduler.add(task);
        }
        scheduler
    }

    #[test]
    fn a_task_runs_until_its_turn_is_over_and_all_have_turns() {
        let mut scheduler = with(&[1, 2, 3]);
        let mut order = Vec::new();
        for _ in 0..3 {
            for _ in 0..2 {
                order.extend(scheduler.next());
            }
            scheduler.end_turn();
        }
        order.extend(scheduler.next());
        assert_eq!(order, [1, 1, 2, 2, 3, 3, 1]);
    }

    #[test]
    fn a_task_alone_goes_on_when_its_turn_is_over() {
        let mut scheduler = with(&[1]);
        scheduler.next();
        scheduler.end_turn();
        assert!(scheduler.goes_on());
        assert_eq!(scheduler.next(), Some(1));
    }

    #[test]
    fn a_task_that_waits_lets_others_run_until_it_is_woken() {
        let mut scheduler = with(&[1, 2]);
        scheduler.next();
        scheduler.wait(Wait::Woken { deadline: None });
        assert_eq!(scheduler.next(), Some(2));
        scheduler.wait(Wait::Woken { deadline: None });
        assert_eq!(scheduler.next(), None, "nobody is left to run");
        assert_eq!(scheduler.deadline(), None, "and nothing ends that");
        assert!(scheduler.wake(1) && !scheduler.wake(1));
        assert_eq!(scheduler.next(), Some(1));
        assert!(scheduler.is_waiting(2));
    }

    #[test]
    fn deadlines_wake_in_order_and_only_when_they_have_come() {
        let mut scheduler = with(&[1, 2, 3]);
        for seconds in [30, 10, 20] {
            scheduler.next();
            scheduler.wait(Wait::Until(at(seconds)));
        }
        assert_eq!(scheduler.deadline(), Some(at(10)));
        scheduler.pass(at(9));
        assert_eq!(scheduler.next(), None);
        scheduler.pass(at(25));
        assert_eq!(scheduler.next(), Some(2));
        scheduler.end();
        assert_eq!(scheduler.next(), Some(3));
        assert_eq!(scheduler.deadline(), Some(at(30)));
        scheduler.wake(1);
        assert_eq!(scheduler.deadline(), None, "woken before its time");
    }

    #[test]
    fn several_descriptors_of_one_task_are_waited_for() {
        let mut scheduler = with(&[1, 2]);
        let (read, write) = (PollFlags::IN, PollFlags::OUT);
        scheduler.next();
        scheduler.wait(Wait::AnyReady {
            descriptors: vec![(5, read), (6, write)],
            deadline: None,
        });
        scheduler.next();
        scheduler.wait(Wait::Ready {
            descriptor: 5,
            events: write,
            deadline: Some(at(4)),
        });
        let all: Vec<_> = scheduler.descriptors().collect();
        assert_eq!(all, [(1, 5, read), (1, 6, write), (2, 5, write)]);
        scheduler.wake(1);
        assert_eq!(scheduler.descriptor_waits(), Some(2));
        scheduler.pass(at(4));
        assert_eq!(scheduler.descriptor_waits(), None);
        assert_eq!(scheduler.next(), Some(1));
    }

    #[test]
    fn what_is_waited_for_is_bounded() {
        let mut scheduler = with(&[1, 2]);
        let wait = |descriptor: usize| Wait::AnyReady {
            descriptors: (0..descriptor as RawFd)
                .map(|d| (d, PollFlags::IN))
                .collect(),
            deadline: None,
        };
        scheduler.next();
        assert!(scheduler.has_room(&wait(MOST_AWAITED)));
        scheduler.wait(wait(MOST_AWAITED));
        scheduler.next();
        assert!(scheduler.has_room(&wait(1)) && !scheduler.has_room(&wait(2)));
        scheduler.wake(1);
        assert!(scheduler.has_room(&wait(2)));
    }

    #[test]
    fn whoever_waits_for_no_descriptor_leaves_none() {
        let mut scheduler = with(&[1]);
        scheduler.next();
        scheduler.wait(Wait::Until(at(1)));
        assert_eq!(scheduler.descriptor_waits(), None);
        assert_eq!(scheduler.descriptors().count(), 0);
    }

    /// Runs what is next on `processor`, as the platform does.
    fn run(scheduler: &mut Scheduler, processor: usize) -> Option<Tid> {
        scheduler.turn_to(processor);
        let next = scheduler.next();
        if next.is_some() {
            scheduler.reside(next);
        }
        next
    }

    #[test]
    fn each_processor_runs_a_task_of_its_own() {
        let mut scheduler = Scheduler::new(2);
        for task in [1, 2, 3] {
            scheduler.add(task);
        }
        assert_eq!(run(&mut scheduler, 0), Some(1));
        assert_eq!(scheduler.called(), [1], "the other has nothing to do");
        assert_eq!(run(&mut scheduler, 1), Some(2));
        assert!(scheduler.called().is_empty());
        assert_eq!(scheduler.elsewhere().collect::<Vec<_>>(), [(0, 1)]);
        scheduler.end_turn();
        assert_eq!(run(&mut scheduler, 1), Some(3));
        scheduler.end();
        scheduler.reside(None);
        assert_eq!(run(&mut scheduler, 1), Some(2));
    }

    #[test]
    fn others_are_needed_when_more_is_ready_than_idle_ones_take() {
        let mut scheduler = Scheduler::new(3);
        for task in [1, 2, 3] {
            scheduler.add(task);
        }
        run(&mut scheduler, 1);
        run(&mut scheduler, 0);
        assert!(
            !scheduler.is_crowded(),
            "the third processor takes the third"
        );
        scheduler.add(4);
        assert!(scheduler.is_crowded());
        run(&mut scheduler, 2);
        assert!(scheduler.is_crowded());
    }

    /// Its registers are there.
    #[test]
    fn a_task_that_wakes_goes_on_where_it_waited() {
        let mut scheduler = Scheduler::new(2);
        for task in [1, 2] {
            scheduler.add(task);
        }
        run(&mut scheduler, 0);
        run(&mut scheduler, 1);
        scheduler.wait(Wait::Woken { deadline: None });
        assert_eq!(run(&mut scheduler, 1), None);
        scheduler.turn_to(0);
        scheduler.wake(2);
        assert_eq!(scheduler.called(), [1]);
        scheduler.end_turn();
        assert_eq!(
            run(&mut scheduler, 0),
            Some(1),
            "the other is not to be had here"
        );
        assert!(scheduler.goes_on());
        assert_eq!(run(&mut scheduler, 1), Some(2));
        // Once another has taken its place it may go on anywhere.
        scheduler.add(3);
        scheduler.end_turn();
        assert_eq!(run(&mut scheduler, 1), Some(3));
        scheduler.turn_to(0);
        scheduler.end();
        scheduler.reside(None);
        assert_eq!(run(&mut scheduler, 0), Some(2));
    }
}
