//! The guest ABI `linux`: system calls of static x86-64 programs, served by the VMM.
//!
//! [`table`] lists every call that is served, with its handler and what the process platform does
//! about it; the handlers lie in one file a topic. A call that is in no table fails with `ENOSYS`
//! and is counted. A guest sees no file and no network unless it was granted.
//!
//! Sockets will be a topic of their own (`socket`), granted by `--net host`. Threads will share a
//! [`Linux`] behind a lock; `futex` then waits in the host.

mod descriptor;
mod dispatch;
mod grant;
mod host;
mod memory;
mod poll;
mod process;
mod record;
mod signal;
mod socket;
pub mod start;
mod stream;
pub(crate) mod system;
pub mod table;
mod time;
pub(crate) mod wait;

use std::collections::BTreeMap;

use rustix::io::Errno;

pub(crate) use self::descriptor::requests as descriptor_requests;
pub use self::grant::{Grant, GrantError};
use self::signal::Signals;
use self::table::Server;
use self::wait::{Progress, Wait};
use crate::descriptors::Own;
use crate::fault::{Cause, Outcome};
use crate::memory::space::ProtectError;
use crate::memory::{BadAddress, GrowError, GuestMemory};

/// A system call as the guest made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// RAX.
    pub number: u64,
    /// RDI, RSI, RDX, R10, R8, R9.
    pub arguments: [u64; 6],
}

/// What follows a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The guest goes on with this in RAX.
    Return(u64),
    /// The guest has ended.
    End(Outcome),
    /// The guest cannot go on.
    Fault(Cause),
}

/// Why a handler does not return a value.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The call fails.
    Error(Errno),
    /// The guest has ended.
    End(Outcome),
    /// The guest cannot go on.
    Fault(Cause),
    /// The call is to be served again when this has come.
    Wait(Wait),
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Self {
        Self::Error(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Error(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl From<BadAddress> for Stop {
    fn from(bad: BadAddress) -> Self {
        Self::Error(if bad.limit {
            Errno::NOMEM
        } else {
            Errno::FAULT
        })
    }
}

impl From<ProtectError> for Stop {
    fn from(error: ProtectError) -> Self {
        Self::Error(match error {
            ProtectError::Hole | ProtectError::Refused(_) => Errno::NOMEM,
            ProtectError::Shared => Errno::ACCESS,
        })
    }
}

impl From<GrowError> for Stop {
    fn from(error: GrowError) -> Self {
        match error {
            GrowError::Refused(_) => Self::Error(Errno::NOMEM),
            // The areas have changed already, and the pages did not follow: a guest that went on
            // would find what it had unmapped.
            GrowError::Host(_) => Self::Fault(Cause::OutOfMemory(error.to_string())),
        }
    }
}

pub(crate) type Arguments = [u64; 6];
pub(crate) type Served = Result<u64, Stop>;
pub(crate) type Handler = fn(&mut Linux, Arguments) -> Served;

/// Numbers of unknown calls are counted apart below this, where Linux's lie with room to spare.
/// A guest chooses the numbers, and may not make the monitor grow by them.
const COUNTED_APART: u64 = 1024;

/// The kernel of one guest.
#[derive(Debug)]
pub struct Linux {
    memory: GuestMemory,
    own: Own,
    standard: Vec<(u64, u64)>,
    world: bool,
    network: bool,
    signals: Signals,
    thread_pointer: Option<u64>,
    stack_size: u64,
    counts: [u64; table::CALLS.len()],
    unknown: BTreeMap<u64, u64>,
    trace: bool,
    /// Of the call that is being served.
    progress: Progress,
}

/// What a guest is started with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// It may use the host's network.
    pub network: bool,
    /// Print every call to standard error.
    pub trace: bool,
}

impl Linux {
    /// A kernel for the guest in `memory`.
    pub fn new(memory: GuestMemory, settings: Settings) -> Self {
        let rooms = memory.space().rooms();
        let stack_size = rooms.stack_high.0 - rooms.stack_low.0;
        Self {
            own: memory.own().clone(),
            memory,
            standard: standard_files(),
            world: false,
            network: settings.network,
            signals: Signals::default(),
            thread_pointer: None,
            stack_size,
            counts: [0; table::CALLS.len()],
            unknown: BTreeMap::new(),
            trace: settings.trace,
            progress: Progress::default(),
        }
    }

    /// Says what the guest's calls pass on to from now on: the descriptors of this process but those that
    /// are open now, and if `world` is set the file system that this process is in. Without, there is no
    /// file.
    pub fn settle(&mut self, world: bool) -> std::io::Result<()> {
        self.world = world;
        self.own.release()
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The guest's memory.
    pub fn memory_mut(&mut self) -> &mut GuestMemory {
        &mut self.memory
    }

    /// A new thread pointer (FS base) for the processor, once.
    pub fn take_thread_pointer(&mut self) -> Option<u64> {
        self.thread_pointer.take()
    }

    /// Calls served so far, by name.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counted = table::CALLS.iter().zip(self.counts);
        counted
            .filter(|(_, count)| *count > 0)
            .map(|(call, count)| (call.name, count))
            .collect()
    }

    /// Calls that are not served, by number; all numbers from 1024 on are counted as 1024.
    pub fn unknown(&self) -> &BTreeMap<u64, u64> {
        &self.unknown
    }

    /// Serves one call.
    pub fn serve(&mut self, call: &Call) -> Reply {
        let known = table::find(call.number);
        let server = known.map(|at| (at, table::CALLS[at].server));
        let server = server.filter(|(_, server)| !matches!(server, Server::ProcessOnly));
        let served = if let Some((at, server)) = server {
            self.counts[at] += 1;
            self.progress = Progress::default();
            self.serve_with(call, server)
        } else {
            let number = call.number.min(COUNTED_APART);
            *self.unknown.entry(number).or_default() += 1;
            Err(Errno::NOSYS.into())
        };
        if self.trace {
            trace(call, &served);
        }
        match served {
            Ok(value) => Reply::Return(value),
            Err(Stop::Error(error)) => Reply::Return((-i64::from(error.raw_os_error())) as u64),
            Err(Stop::End(outcome)) => Reply::End(outcome),
            Err(Stop::Fault(cause)) => Reply::Fault(cause),
            Err(Stop::Wait(_)) => Reply::Fault(Cause::Machine("a call that never ends".into())),
        }
    }

    /// Asks `server` until it has an answer.
    fn serve_with(&mut self, call: &Call, server: Server) -> Served {
        let (number, arguments) = (call.number, call.arguments);
        loop {
            let served = match server {
                Server::Host(kinds) => dispatch::pass(self, number, kinds, arguments),
                Server::Monitor(handler) => handler(self, arguments),
                Server::ProcessOnly => Err(Errno::NOSYS.into()),
            };
            match served {
                Err(Stop::Wait(wait)) => wait.block()?,
                served => return served,
            }
        }
    }
}

/// Device and inode of the guest's standard input, output and error.
fn standard_files() -> Vec<(u64, u64)> {
    let files = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let stats = files
        .into_iter()
        .filter_map(|file| rustix::fs::fstat(file).ok());
    stats.map(|stat| (stat.st_dev, stat.st_ino)).collect()
}

/// One line a call on standard error; failure to print is no reason to stop a guest.
fn trace(call: &Call, served: &Served) {
    use std::io::Write;
    let name = table::find(call.number).map_or("unknown", |at| table::CALLS[at].name);
    let [a, b, c, d, ..] = call.arguments;
    let number = call.number;
    let line = format!("{name}[{number}]({a:#x}, {b:#x}, {c:#x}, {d:#x}) = {served:x?}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::space::Refused;

    /// The guest may go on only where nothing has changed.
    #[test]
    fn a_host_that_refuses_memory_ends_the_guest() {
        let refused = GrowError::Refused(Refused::Limit(64)).into();
        assert!(matches!(refused, Stop::Error(Errno::NOMEM)));
        let half_done = GrowError::Host(std::io::ErrorKind::OutOfMemory.into());
        let words = half_done.to_string();
        let stop = half_done.into();
        assert!(matches!(stop, Stop::Fault(Cause::OutOfMemory(said)) if said == words));
    }
}
