//! What `--trace` prints of a guest in a virtual machine.

use super::signal::{Exception, Info};
use super::{Call, Linux, Reply, Request, Tid};
use crate::fault::Outcome;
use crate::memory::GuestMemory;
use crate::trace::{Peek, Told, Trace};

/// What the kernel returns to itself when a call may be made again after a signal.
const RESTART: i64 = -512;
const INTERRUPTED: i64 = -(libc::EINTR as i64);

impl Peek for GuestMemory {
    fn peek(&mut self, address: u64, into: &mut [u8]) -> usize {
        self.read(address, into).map_or(0, |()| into.len())
    }
}

impl Linux {
    /// Prints calls and signals to `out` from now on.
    pub fn start_trace(&mut self, out: std::fs::File) {
        self.trace = Some(Box::new(Trace::new(out)));
    }

    /// The running task makes `call`.
    pub(super) fn trace_call(&mut self, call: &Call) {
        if let Some(trace) = &mut self.trace {
            let thread = self.serving as i32;
            trace.call(thread, call.number, call.arguments, &mut self.memory);
        }
    }

    /// Its call has come to `reply`.
    pub(super) fn trace_reply(&mut self, call: &Call, reply: &Reply) {
        let Some(trace) = &mut self.trace else {
            return;
        };
        let thread = self.serving as i32;
        let result = match *reply {
            Reply::Return(value) => Some(value as i64),
            Reply::Interrupted { restart: Some(_) } => Some(RESTART),
            Reply::Interrupted { restart: None } => Some(INTERRUPTED),
            Reply::Request(Request::Spawn(spawn)) => Some(spawn.tid.into()),
            Reply::Request(Request::SetBase(..)) => Some(0),
            // They are told when the processor has done it.
            Reply::Waits
            | Reply::Request(Request::SignalReturn | Request::TellBase(..) | Request::Disk(_)) => {
                return;
            }
            Reply::End(_) | Reply::Fault(_) | Reply::Ended => None,
        };
        trace.returned(thread, result, &mut self.memory);
        match reply {
            Reply::Request(Request::Spawn(_)) => trace.several = true,
            Reply::Ended => {
                trace.ended(thread, Ok(i32::from(call.arguments[0] as u8)));
                trace.several = self.tasks.len() > 1;
            }
            _ => {}
        }
    }

    /// The processor has done what the running task's call asked for.
    pub fn trace_result(&mut self, value: u64) {
        if let Some(trace) = &mut self.trace {
            let thread = self.serving as i32;
            trace.returned(thread, Some(value as i64), &mut self.memory);
        }
    }

    /// `info` is delivered to `tid`.
    pub(super) fn trace_signal(&mut self, tid: Tid, info: &Info) {
        if let Some(trace) = &mut self.trace {
            let word = info.word();
            let told = Told {
                signal: info.signal.into(),
                code: info.code,
                address: word,
                // As the kernel lays a sender out.
                sender: (word as i32, (word >> 32) as u32),
            };
            trace.signal(tid as i32, told);
        }
    }

    /// The running task has brought about `exception`.
    pub(super) fn trace_exception(&mut self, exception: &Exception) {
        if let Some(trace) = &mut self.trace {
            let told = Told {
                signal: exception.signal,
                code: exception.code,
                address: exception.address,
                sender: (0, 0),
            };
            trace.signal(self.serving as i32, told);
        }
    }

    /// The guest has ended.
    pub fn trace_end(&mut self, outcome: &Outcome) {
        if let Some(trace) = &mut self.trace {
            let how = match outcome {
                Outcome::Exited(status) => Ok((*status).into()),
                Outcome::Signalled(signal) => Err(*signal),
                Outcome::Fault(fault) => Err(fault.cause.signal()),
            };
            trace.ended(self.serving as i32, how);
        }
    }
}
