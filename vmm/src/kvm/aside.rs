//! What a processor knows of the task that it runs, and what is kept of those that do not run.

use kvm_bindings::kvm_regs;
use rustix::time::Timespec;

use super::frame::Frame;
use super::pace::Pace;
use crate::extended::Stored;
use crate::linux::{DiskCall, FIRST_TASK, Restart, Tid};

/// Where the processor has left the running task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// In a system call.
    Call,
    /// At an instruction that faulted.
    Fault(Frame),
    /// Between two instructions: the processor has the program's registers.
    Program,
    /// In the monitor's code, on the way into it or out of it: it can only go on.
    Monitor,
}

/// A task that does not run.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) registers: kvm_regs,
    pub(super) bases: [u64; 2],
    pub(super) extended: Stored,
    /// How long it ran before.
    pub(super) ran: Timespec,
}

/// Who runs, and who does not.
#[derive(Debug)]
pub(super) struct Turns {
    /// The task whose registers the processor has, unless it has ended.
    pub(super) inside: Option<Tid>,
    pub(super) left: Left,
    /// What its call returns.
    pub(super) result: Option<u64>,
    /// What its call waits for outside.
    pub(super) outside: Option<DiskCall>,
    /// Its call was interrupted: the handler that now runs may have it made again.
    pub(super) restart: Option<Restart>,
    pub(super) pace: Pace,
}

impl Turns {
    /// Of the processor that has the first task's registers.
    pub(super) fn first() -> Self {
        Self {
            inside: Some(FIRST_TASK),
            ..Self::further()
        }
    }

    /// Of one that has nobody's.
    pub(super) fn further() -> Self {
        Self {
            inside: None,
            left: Left::Program,
            result: None,
            outside: None,
            restart: None,
            pace: Pace::default(),
        }
    }
}
