//! The guest ABI `linux`: system calls of static x86-64 programs, served by the VMM.
//!
//! [`table`] lists every call that is served, with its handler and what the process platform does
//! about it; the handlers lie in one file a topic. A call that is in no table fails with `ENOSYS`
//! and is counted. A guest sees no file and no network unless it was granted.
//!
//! The guest's threads are tasks that take turns on its processors (`task`, `scheduler`). All of this is one
//! processor's at a time: between two instructions of one task the monitor serves calls, delivers signals and
//! picks the task that goes on, while tasks on other processors run. A handler that would wait says so and is asked again later (`wait`).

mod advice;
mod background;
mod barrier;
mod descriptor;
mod dispatch;
mod futex;
mod heap;
pub(crate) mod host;
pub(crate) mod identity;
mod limits;
mod memory;
pub(crate) mod message;
mod poll;
pub(crate) mod prctl;
pub(crate) mod process;
mod processor_time;
mod record;
mod records;
mod remap;
mod run;
mod scheduler;
pub(crate) mod scheduling;
mod signal;
mod small;
mod socket;
mod socket_option;
pub mod start;
mod stream;
pub(crate) mod system;
pub mod table;
mod task;
mod thread;
mod time;
mod timer;
mod traced;
pub(crate) mod wait;

use std::collections::BTreeMap;
use std::fs::File;

use rustix::io::Errno;

use self::barrier::Registered;
pub(crate) use self::descriptor::requests as descriptor_requests;
use self::futex::Futexes;
pub(crate) use self::heap::Heap;
pub use self::host::DiskCall;
use self::limits::Limits;
pub(crate) use self::limits::unbound_files;
pub(crate) use self::memory::aligned;
pub(crate) use self::process::PID;
use self::processor_time::Meter;
use self::records::Kept;
pub(crate) use self::remap::Remap;
pub use self::scheduler::FIRST as FIRST_TASK;
use self::scheduler::Scheduler;
pub use self::scheduler::Tid;
use self::scheduling::Scheduling;
use self::signal::Signals;
pub use self::signal::{Exception, ExtendedState, Shape, StateError};
pub(crate) use self::socket_option::OPTIONS as SOCKET_OPTIONS;
use self::task::Tasks;
pub use self::thread::{Base, Spawn};
use self::timer::Timers;
use self::wait::{Progress, Wait};
use crate::descriptors::Own;
use crate::fault::{Cause, Outcome};
use crate::memory::space::ProtectError;
use crate::memory::{BadAddress, GrowError, GuestMemory};
use crate::network;
use crate::trace::Trace;
use crate::unserved::Unserved;
use crate::world::Layout;
use crate::world::small::{Device, Large};

/// A system call as the guest made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// RAX.
    pub number: u64,
    /// RDI, RSI, RDX, R10, R8, R9.
    pub arguments: [u64; 6],
    /// RSP.
    pub stack_pointer: u64,
}

/// The general registers of a task, with instruction pointer and flags.
pub use kvm_bindings::kvm_regs as Registers;

/// What follows a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The guest goes on with this in RAX.
    Return(u64),
    /// The guest has ended.
    End(Outcome),
    /// The guest cannot go on.
    Fault(Cause),
    /// The task waits. Another is to run.
    Waits,
    /// A signal is to be delivered, and the call does not wait for what it waited for.
    Interrupted {
        /// If it can be made again.
        restart: Option<Restart>,
    },
    /// The task has ended. Another is to run.
    Ended,
    /// The processor has to do something.
    Request(Request),
}

/// A call that is made again when the handler of a signal has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Its number.
    pub number: u64,
    /// It is, whatever the handler asks for (`SA_RESTART`).
    pub always: bool,
}

/// What a call wants of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A copy of the task is to be made; the call returns its number.
    Spawn(Spawn),
    /// The end of a signal's handler: the registers are to be what they were.
    SignalReturn,
    /// The base of a segment is to be this.
    SetBase(Base, u64),
    /// The base of a segment is to be written to this address.
    TellBase(Base, u64),
    /// This is to be waited for, while others go on; the call returns what it does.
    Disk(DiskCall),
}

/// Why a handler does not return a value.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The call fails.
    Error(Errno),
    /// It fails because it is not served with these arguments.
    Refused(Errno),
    /// The guest has ended.
    End(Outcome),
    /// The guest cannot go on.
    Fault(Cause),
    /// The call is to be served again when this has come.
    Wait(Wait),
    /// A signal has ended the call, which is to be delivered.
    Interrupted,
    /// The task has ended.
    Ended,
    /// The processor has to do it.
    Request(Request),
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
            GrowError::File(error) => error.into(),
            // The areas have changed already, and the pages did not follow: a guest that went on
            // would find what it had unmapped.
            GrowError::Host(_) => Self::Fault(Cause::OutOfMemory(error.to_string())),
        }
    }
}

pub(crate) type Arguments = [u64; 6];
pub(crate) type Served = Result<u64, Stop>;
pub(crate) type Handler = fn(&mut Linux, Arguments) -> Served;

/// What of the host there is for a guest.
#[derive(Clone, Debug)]
struct Reach {
    /// A file system of its own, which this process is in.
    world: bool,
    /// The network.
    network: bool,
    /// Of it, which addresses.
    limits: network::Limits,
}

/// The kernel of one guest.
#[derive(Debug)]
pub struct Linux {
    memory: GuestMemory,
    own: Own,
    standard: Vec<(u64, u64)>,
    /// The process group of this process, which the guest knows by another number.
    group: i32,
    /// One of the standard files is this process's terminal.
    at_terminal: bool,
    reach: Reach,
    signals: Signals,
    tasks: Tasks,
    scheduler: Scheduler,
    /// For each processor, once its thread has had a task.
    meters: Vec<Option<Meter>>,
    futexes: Futexes,
    timers: Timers,
    /// The task whose call is being served.
    serving: Tid,
    /// Its stack pointer.
    stack_pointer: u64,
    limits: Limits,
    attributes: prctl::OfProcess,
    registered: Registered,
    counts: [u64; table::COUNT],
    unserved: Unserved,
    trace: Option<Box<Trace>>,
    begin: small::Begin,
    /// What there is in its file system.
    layout: Layout,
    large: Large,
    /// Devices, where it has none.
    devices: Vec<(Device, File)>,
    /// Of the call that is being served.
    progress: Progress,
    kept: Kept,
}

/// What a guest is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// It may use the host's network.
    pub network: bool,
    /// Of it, which addresses.
    pub limits: network::Limits,
    /// How many processors there are, at least one.
    pub processors: usize,
}

impl Linux {
    /// A kernel for the guest in `memory`.
    pub fn new(memory: GuestMemory, settings: Settings) -> Self {
        let rooms = *memory.space().rooms();
        let mut scheduler = Scheduler::new(settings.processors);
        scheduler.add(FIRST_TASK);
        scheduler.next();
        scheduler.reside(Some(FIRST_TASK));
        let mut meters = vec![None; settings.processors];
        meters[0] = Some(Meter::of_caller());
        let nice = rustix::process::getpriority_process(None).unwrap_or(0);
        let tasks = Tasks::of(Scheduling::new(nice));
        Self {
            own: Own::default(),
            memory,
            standard: standard_files(),
            group: rustix::process::getpgrp().as_raw_nonzero().get(),
            at_terminal: background::has_terminal(),
            reach: Reach {
                world: false,
                network: settings.network,
                limits: settings.limits,
            },
            signals: Signals::default(),
            tasks,
            meters,
            scheduler,
            futexes: Futexes::default(),
            timers: Timers::default(),
            serving: FIRST_TASK,
            stack_pointer: 0,
            limits: Limits::new(rooms.stack_high.0 - rooms.stack_low.0),
            attributes: prctl::OfProcess::default(),
            registered: Registered::default(),
            counts: [0; table::COUNT],
            unserved: Unserved::default(),
            trace: None,
            begin: small::Begin::default(),
            layout: Layout::default(),
            large: Large::default(),
            devices: Vec::new(),
            progress: Progress::default(),
            kept: Kept::default(),
        }
    }

    /// Says what the guest's calls pass on to from now on: the descriptors of this process but those that
    /// are open now, and if it has one (`layout`) the file system that this process is in.
    /// Without, there is no file but the small world's.
    pub fn settle(&mut self, layout: Option<Layout>) -> std::io::Result<()> {
        self.reach.world = layout.is_some();
        self.layout = layout.unwrap_or_default();
        unbound_files()?;
        self.own.release()
    }

    /// Opens devices for a guest without a file system of its own. To be called before this process is confined.
    pub fn open_devices(&mut self) {
        self.devices = Device::open_all();
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The guest's memory.
    pub fn memory_mut(&mut self) -> &mut GuestMemory {
        &mut self.memory
    }

    /// Calls served so far, by name.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counted = table::calls().zip(self.counts);
        counted
            .filter(|(_, count)| *count > 0)
            .map(|(call, count)| (call.name, count))
            .collect()
    }

    /// Calls that were not served.
    pub fn unserved(&self) -> &Unserved {
        &self.unserved
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
