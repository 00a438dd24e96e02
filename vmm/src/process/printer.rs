//! What `--trace` prints of a guest that is a process.

use std::fs::File;

use rustix::process::Pid;

use super::ptrace::{Stopped, Tracee};
use crate::plan::Plan;
use crate::trace::{Told, Trace};

/// Prints from the guest's first instruction on.
pub(super) struct Printer {
    trace: Trace,
    progress: Progress,
}

/// How far the process is on its way to being the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is this program.
    Preparing,
    /// It has come to the code that lets go of this program.
    Leaving,
    Guest,
}

impl Printer {
    pub(super) fn new(out: File) -> Self {
        Self {
            trace: Trace::new(out),
            progress: Progress::Preparing,
        }
    }

    /// There is more than one thread.
    pub(super) fn several(&mut self, several: bool) {
        self.trace.several = several;
    }

    /// `thread` makes a call, or has come back from one.
    pub(super) fn stopped(&mut self, mut thread: Tracee, call: &Stopped, plan: &Plan) {
        let number = number(thread.0);
        match *call {
            Stopped::AtCall {
                number: call,
                arguments,
                instruction,
            } => {
                self.come_to(instruction, plan);
                if self.progress == Progress::Guest {
                    self.trace.call(number, call, arguments, &mut thread);
                }
            }
            Stopped::Returned(result) => self.trace.returned(number, Some(result), &mut thread),
        }
    }

    /// A call is made at `instruction`.
    fn come_to(&mut self, instruction: u64, plan: &Plan) {
        let monitor = plan.rooms.monitor.0;
        self.progress = match self.progress {
            Progress::Preparing
                if (monitor..monitor + pool_core::PAGE_SIZE).contains(&instruction) =>
            {
                Progress::Leaving
            }
            Progress::Leaving if is_of_image(instruction, plan) => Progress::Guest,
            progress => progress,
        };
    }

    /// A signal is about to be delivered to `thread`.
    pub(super) fn signal(&mut self, thread: Tracee) {
        let Some(info) = thread
            .signal()
            .ok()
            .filter(|_| self.progress == Progress::Guest)
        else {
            return;
        };
        let told = Told {
            signal: info.signal(),
            code: info.code(),
            address: info.address(),
            sender: info.sender(),
        };
        self.trace.signal(number(thread.0), told);
    }

    /// `thread` has ended, with `status` of `wait4`.
    pub(super) fn ended(&mut self, thread: Pid, status: i32) {
        let how = if libc::WIFEXITED(status) {
            Ok(libc::WEXITSTATUS(status))
        } else {
            Err(libc::WTERMSIG(status))
        };
        self.trace.ended(number(thread), how);
    }
}

fn number(thread: Pid) -> i32 {
    thread.as_raw_nonzero().get()
}

/// An instruction of the image ends at `end`.
fn is_of_image(end: u64, plan: &Plan) -> bool {
    let holds = |m: &crate::plan::Mapping| (m.address.0..m.end()).contains(&(end - 1));
    end > 0 && plan.mappings.iter().any(holds)
}
