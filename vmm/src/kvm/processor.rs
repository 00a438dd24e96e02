//! A processor and the thread that runs it: into the guest, out of it, and what all processors share in
//! between. One has that at a time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::PollFlags;
use rustix::time::Timespec;

use super::aside::{Aside, Turns};
use super::boot::Monitor;
use super::clock::Clock;
use super::kick::Kicks;
use super::seats::Seats;
use super::vcpu::Vcpu;
use super::vm::Vm;
use super::{ExitCounts, KvmError};
use crate::fault::Outcome;
use crate::linux::{DiskCall, Linux, Tid};

/// What each processor has of its own.
#[derive(Debug)]
pub(super) struct Processor {
    pub(super) number: usize,
    pub(super) vcpu: Vcpu,
    pub(super) monitor: Monitor,
    pub(super) kicks: Kicks,
    pub(super) turns: Turns,
    /// How often pages had been made to be forgotten when it entered the guest.
    pub(super) revocations: u64,
}

/// What they share. Fields drop in this order: the machine before the memory that it uses.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) vm: Vm,
    /// In a box, so that it is not moved, with pages of stack each time, until it is where it stays.
    pub(super) linux: Box<Linux>,
    pub(super) clock: Option<Clock>,
    pub(super) flush_page: u64,
    pub(super) exits: ExitCounts,
    /// Tasks whose registers no processor has.
    pub(super) aside: BTreeMap<Tid, Aside>,
    pub(super) seats: Arc<Seats>,
    /// Who waits for descriptors and time.
    watch: Option<Watch>,
    /// Processors in the guest whose tasks' turns have no end, as nothing else was ready: a bit each.
    endless: u64,
    /// The guest has ended, and how until that is told.
    over: bool,
    ended: Option<Result<Outcome, KvmError>>,
}

/// What one that rests watches.
#[derive(Clone, Copy, Debug)]
struct Watch {
    processor: usize,
    deadline: Option<Timespec>,
    /// How many waits for descriptors had begun.
    waits: Option<u64>,
}

impl Watch {
    /// True if something is to be watched that it does not.
    fn misses(&self, deadline: Option<Timespec>, waits: Option<u64>) -> bool {
        let sooner = deadline.is_some_and(|at| self.deadline.is_none_or(|before| at < before));
        sooner || (waits.is_some() && waits != self.waits)
    }
}

/// How a processor goes on.
#[derive(Debug)]
pub(super) enum Next {
    /// Into the guest.
    Enter,
    /// Nothing is to run: it waits, for what is to be watched if that is its business.
    Rest {
        /// Descriptors, and who waits for them.
        waits: Vec<(Tid, RawFd, PollFlags)>,
        /// When to come back in any case.
        deadline: Option<Timespec>,
    },
    /// It waits for a disk, which takes nothing of what they share.
    Disk(DiskCall),
    /// The guest has ended so.
    End(Outcome),
    /// It has ended, and that is told.
    Over,
}

/// A processor that has what they share.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) cpu: &'a mut Processor,
    pub(super) board: &'a mut Board,
}

/// What they share, for the one that waits to have it.
pub(super) fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    pub(super) fn new(
        vm: Vm,
        linux: Box<Linux>,
        clock: Option<Clock>,
        flush_page: u64,
        seats: Arc<Seats>,
    ) -> Self {
        Self {
            vm,
            linux,
            clock,
            flush_page,
            exits: ExitCounts::default(),
            aside: BTreeMap::new(),
            seats,
            watch: None,
            endless: 0,
            over: false,
            ended: None,
        }
    }

    /// The guest has ended: all processors come for that, and none goes on.
    fn end(&mut self, by: usize, ended: Result<Outcome, KvmError>) {
        if !self.over {
            self.over = true;
            self.ended = Some(ended);
        }
        self.seats.call_all(by);
    }
}

impl Processor {
    /// A processor for the calling thread.
    pub(super) fn new(
        number: usize,
        vcpu: Vcpu,
        monitor: Monitor,
        turns: Turns,
        seats: &Seats,
    ) -> Result<Self, KvmError> {
        let kicks = Kicks::new(vcpu.fd())?;
        seats.take(number);
        Ok(Self {
            number,
            vcpu,
            monitor,
            kicks,
            turns,
            revocations: 0,
        })
    }

    /// Runs the guest to its end, from `next` on. `first_exit` is called once, after the first exit.
    pub(super) fn run(
        &mut self,
        board: &Mutex<Board>,
        next: Next,
        first_exit: impl FnOnce(),
    ) -> Result<(), KvmError> {
        let seats = Arc::clone(&lock(board).seats);
        let alone = seats.count() == 1;
        let mut first_exit = Some(first_exit);
        let mut next = next;
        loop {
            next = match next {
                Next::Enter => {
                    let exit = self.vcpu.run();
                    seats.leave(self.number);
                    if let Some(first_exit) = first_exit.take() {
                        first_exit();
                    }
                    self.turn(board, |turn| turn.left(exit?))?
                }
                Next::Rest { waits, deadline } => {
                    let woken = self.kicks.wait(&waits, deadline, alone)?;
                    self.turn(board, |turn| turn.rested(woken.as_deref()))?
                }
                Next::Disk(call) => {
                    let result = call.make();
                    self.turn(board, |turn| turn.done_outside(result))?
                }
                Next::End(_) | Next::Over => return Ok(()),
            };
        }
    }

    fn turn(
        &mut self,
        board: &Mutex<Board>,
        act: impl FnOnce(&mut Turn<'_>) -> Result<Next, KvmError>,
    ) -> Result<Next, KvmError> {
        let mut board = lock(board);
        let mut turn = Turn {
            cpu: self,
            board: &mut board,
        };
        if !turn.begin() {
            return Ok(Next::Over);
        }
        let next = act(&mut turn)?;
        turn.end(next)
    }
}

impl Turn<'_> {
    /// False if the guest has ended.
    fn begin(&mut self) -> bool {
        let number = self.cpu.number;
        self.board.seats.begin(number);
        self.board.linux.turn_to(number);
        self.board.endless &= !(1 << number);
        if self
            .board
            .watch
            .is_some_and(|watch| watch.processor == number)
        {
            self.board.watch = None;
        }
        !self.board.over
    }

    /// Lets others go on, and have what they do told to them.
    fn end(&mut self, next: Next) -> Result<Next, KvmError> {
        let number = self.cpu.number;
        match &next {
            Next::Enter => {
                self.synchronise()?;
                self.cpu.revocations = self.board.linux.memory().revocations();
                let endless = !self.board.linux.has_ready();
                self.board.endless |= u64::from(endless) << number;
                self.board.seats.enter(number);
            }
            Next::Disk(_) => self.synchronise()?,
            Next::Rest { .. } => {
                // Others are about to go on with what this one changed.
                self.synchronise()?;
                self.board.seats.rest(number);
            }
            Next::End(outcome) => {
                self.board.linux.memory().stop_others();
                self.board.linux.release_all();
                self.board.end(number, Ok(outcome.clone()));
                return Ok(Next::Over);
            }
            Next::Over => {}
        }
        self.call_others();
        Ok(next)
    }

    /// What is to be waited for here: everything, unless another does.
    pub(super) fn rest(&mut self) -> Next {
        if self.board.watch.is_some() {
            return Next::Rest {
                waits: Vec::new(),
                deadline: None,
            };
        }
        let linux = &self.board.linux;
        let deadline = linux.deadline();
        self.board.watch = Some(Watch {
            processor: self.cpu.number,
            deadline,
            waits: linux.descriptor_waits(),
        });
        Next::Rest {
            waits: linux.descriptors().collect(),
            deadline,
        }
    }

    /// Another waits for descriptors and time.
    pub(super) fn is_watched(&self) -> bool {
        self.board.watch.is_some()
    }

    /// Has those come that have something to do now.
    fn call_others(&mut self) {
        let Board {
            seats,
            linux,
            watch,
            endless,
            ..
        } = &*self.board;
        if seats.count() == 1 {
            return;
        }
        for processor in linux.called() {
            seats.call(processor);
        }
        if *endless != 0 && linux.is_crowded() {
            let endless = |processor: &usize| endless >> processor & 1 != 0;
            for processor in (0..seats.count()).filter(endless) {
                seats.call(processor);
            }
        }
        let (deadline, waits) = (linux.deadline(), linux.descriptor_waits());
        match watch {
            Some(watch) if watch.misses(deadline, waits) => seats.call(watch.processor),
            None if deadline.is_some() || waits.is_some() => {
                if let Some(resting) = seats.resting_beside(self.cpu.number) {
                    seats.call(resting);
                }
            }
            _ => {}
        }
    }
}

fn failed() -> KvmError {
    KvmError::Call {
        what: "running a processor",
        error: io::Error::other("its thread has ended"),
    }
}

/// Has the guest end with the thread of a processor, however that does.
struct Ending<'a> {
    board: &'a Mutex<Board>,
    number: usize,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        lock(self.board).end(self.number, Err(failed()));
    }
}

/// Runs the first processor until the guest has ended.
pub(super) fn run_first(
    first: &mut Processor,
    board: &Mutex<Board>,
    first_exit: impl FnOnce(),
) -> Result<Outcome, KvmError> {
    {
        let board = lock(board);
        first.revocations = board.linux.memory().revocations();
        board.seats.enter(first.number);
    }
    run(first, board, Next::Enter, first_exit);
    lock(board).ended.take().unwrap_or_else(|| Err(failed()))
}

/// Runs a further one until then.
pub(super) fn run_further(mut processor: Processor, board: &Mutex<Board>) {
    let rest = Next::Rest {
        waits: Vec::new(),
        deadline: None,
    };
    lock(board).seats.rest(processor.number);
    run(&mut processor, board, rest, || ());
}

fn run(processor: &mut Processor, board: &Mutex<Board>, next: Next, first_exit: impl FnOnce()) {
    let number = processor.number;
    let ending = Ending { board, number };
    if let Err(error) = processor.run(board, next, first_exit) {
        lock(board).end(number, Err(error));
    }
    drop(ending);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_watches_is_told_of_what_it_misses() {
        let at = |seconds| {
            Some(Timespec {
                tv_sec: seconds,
                tv_nsec: 0,
            })
        };
        let watch = Watch {
            processor: 1,
            deadline: at(5),
            waits: Some(3),
        };
        assert!(!watch.misses(at(5), Some(3)) && !watch.misses(at(6), None));
        assert!(!watch.misses(None, Some(3)));
        assert!(watch.misses(at(4), Some(3)));
        assert!(watch.misses(at(5), Some(4)));
        let nothing = Watch {
            deadline: None,
            waits: None,
            ..watch
        };
        assert!(nothing.misses(at(9), None) && nothing.misses(None, Some(1)));
    }
}
