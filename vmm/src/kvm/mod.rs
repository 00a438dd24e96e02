//! The KVM platform: a virtual machine of few processors at CPL 3, whose kernel is this process.
//!
//! Guest threads are tasks that take turns on them: [`crate::linux::Linux`] says which, here
//! their registers are put aside and brought back. Each processor has a thread of this process; what they
//! share one has at a time. Whole-system unikernels (`pvh`, `lxboot`) will be
//! further kinds of machine beside [`Machine`], with devices instead of system calls.

mod aside;
mod beginning;
mod boot;
mod clock;
mod counter;
mod entry;
mod exception;
mod frame;
mod kick;
mod msr;
mod pace;
mod port;
mod processor;
mod run;
mod seats;
mod shell;
mod state;
mod stats;
mod supported;
mod turns;
mod vcpu;
mod vm;

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use thiserror::Error;

use self::aside::Turns;
use self::beginning::beginning;
use self::boot::Monitor;
use self::clock::Clock;
use self::processor::{Board, Processor, lock};
use self::seats::Seats;
pub use self::shell::Shell;
use self::stats::FaultCounter;
use self::vcpu::Vcpu;
use crate::fault::Outcome;
use crate::linux::Linux;
use crate::linux::start::{Start, StartError};
use crate::memory::{Backing, BuildError, GuestMemory};
use crate::plan::Plan;
use crate::pool::Segments;
use crate::world::Layout;

/// Why a guest cannot be run under KVM.
#[derive(Debug, Error)]
pub enum KvmError {
    /// There is no `/dev/kvm`.
    #[error(
        "there is no /dev/kvm: load the kvm module, enable virtualisation in the firmware, or use \
         --platform process"
    )]
    NoDevice,
    /// This user may not use it.
    #[error(
        "no permission to use /dev/kvm: join its group (`usermod -aG kvm USER`) or use --platform \
         process"
    )]
    NotPermitted,
    /// The kernel's KVM lacks something.
    #[error("this kernel's KVM lacks {0}: use a newer kernel, or --platform process")]
    Capability(&'static str),
    /// The monitor's own first system call did not arrive as on any kind of host known.
    #[error(
        "system calls of guests do not arrive as expected under this kernel's KVM ({exit} at \
         {rip:#x}): use --platform process"
    )]
    Entry {
        /// What came instead.
        exit: String,
        /// Where the processor was.
        rip: u64,
    },
    /// An ioctl failed.
    #[error("{what}: {error}")]
    Call {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The image's memory could not be laid in.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The arguments do not fit.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl KvmError {
    fn call(what: &'static str, error: kvm_ioctls::Error) -> Self {
        Self::Call {
            what,
            error: io::Error::from_raw_os_error(error.errno()),
        }
    }
}

/// Lays `plan` in, for a machine of so many processors.
pub fn memory(
    plan: &Plan,
    segments: &Segments,
    backing: Backing,
    processors: u16,
) -> Result<GuestMemory, BuildError> {
    let pages = Monitor::pages(plan.rooms.monitor.0, processors.max(1));
    GuestMemory::build(plan, segments, backing, &pages)
}

/// Processors that a machine may have: as many as one word of a set of them names.
pub const MOST_PROCESSORS: u16 = 64;

/// A guest that is ready to run.
#[derive(Debug)]
pub struct Machine {
    first: Processor,
    /// Further processors, until they have threads.
    further: Vec<(Vcpu, Monitor)>,
    threads: Vec<JoinHandle<()>>,
    faults: Vec<FaultCounter>,
    board: Arc<Mutex<Board>>,
}

/// Guest exits by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ExitCounts {
    /// System calls.
    pub syscalls: u64,
    /// Page faults that gave the guest memory.
    pub page_faults: u64,
    /// Ends of turns, and signals of the host.
    pub interrupted: u64,
}

impl Machine {
    /// Makes a machine of `shell`, with what [`memory`] has made of `plan`, and sets the first processor to the image's
    /// first instruction.
    pub fn new(
        shell: Shell,
        mut memory: GuestMemory,
        plan: &Plan,
        start: &Start,
        linux: impl FnOnce(GuestMemory) -> Linux,
    ) -> Result<Self, KvmError> {
        let Shell {
            vm,
            features,
            first,
            further,
        } = shell;
        let processors = 1 + further.len() as u16;
        let base = plan.rooms.monitor.0;
        let slots = memory.take_slots();
        let flush_page = slots.first().map_or(0, |slot| slot.host);
        for slot in slots {
            vm.add_slot(&slot)?;
        }
        let root = memory.root();
        let prepared = |(processor, blank)| {
            let monitor = Monitor { base, processor };
            let vcpu = entry::prepare(blank, features, monitor, root)?;
            Ok::<_, KvmError>((vcpu, monitor))
        };
        let (mut first, monitor) = prepared((0, first))?;
        let further = (1..).zip(further).map(prepared);
        let further = further.collect::<Result<Vec<_>, _>>()?;
        let mut vcpus = std::iter::once(&first).chain(further.iter().map(|(vcpu, _)| vcpu));
        let clock = Clock::new(plan.rooms).filter(|_| vcpus.all(Vcpu::counter_is_hosts));
        drop(vcpus);
        let stack = start.build(plan, features.fsgsbase, clock.as_ref().map(Clock::address))?;
        memory
            .write(stack.pointer, &stack.bytes)
            .map_err(|_| StartError::TooLong)?;
        first.start_at(plan.entry.0, stack.pointer);
        let inherited = kick::inherited();
        let seats = Arc::new(Seats::new(processors.into()));
        if processors > 1 {
            memory.set_processors(Arc::clone(&seats) as _);
        }
        let first = Processor::new(0, first, monitor, Turns::first(), &seats)?;
        let mut linux = Box::new(linux(memory));
        linux.started_with([stack.arguments, stack.environment, stack.auxiliary]);
        linux.inherit_signals(&inherited.ignored, inherited.blocked);
        for slot in linux.memory_mut().take_slots() {
            vm.add_slot(&slot)?;
        }
        if linux.memory_mut().take_flush() {
            vm.flush(flush_page)?;
        }
        let board = Board::new(vm, linux, clock, flush_page, seats);
        Ok(Self {
            first,
            further,
            threads: Vec::new(),
            faults: Vec::new(),
            board: Arc::new(Mutex::new(board)),
        })
    }

    /// Has KVM's count of page faults kept for the report. To be called before the process is
    /// confined.
    pub fn count_faults(&mut self) {
        let vcpus = self.further.iter().map(|(vcpu, _)| vcpu);
        let vcpus = std::iter::once(&self.first.vcpu).chain(vcpus);
        self.faults.extend(vcpus.filter_map(Vcpu::fault_counter));
    }

    /// Gives further processors their threads, which are confined as this one is from here on. To be called
    /// before anything of the guest runs.
    pub fn start_threads(&mut self) -> Result<(), KvmError> {
        /// What serving a call takes, several times.
        const STACK: usize = 512 << 10;
        let failed = |error| KvmError::Call {
            what: "starting the thread of a processor",
            error,
        };
        if self.further.is_empty() {
            return Ok(());
        }
        // Another heap a thread would be made when calls that make one are refused.
        // SAFETY: the call takes two numbers.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        let seats = Arc::clone(&lock(&self.board).seats);
        for (number, (vcpu, monitor)) in (1..).zip(std::mem::take(&mut self.further)) {
            let (board, seats) = (Arc::clone(&self.board), Arc::clone(&seats));
            let (telling, begun) = beginning();
            let body = move || {
                let made = Processor::new(number, vcpu, monitor, Turns::further(), &seats);
                match made {
                    Ok(processor) => {
                        telling.tell(Ok(()));
                        processor::run_further(processor, &board);
                    }
                    Err(error) => telling.tell(Err(error)),
                }
            };
            let builder = thread::Builder::new().stack_size(STACK);
            self.threads.push(builder.spawn(body).map_err(failed)?);
            begun.wait()?;
        }
        Ok(())
    }

    /// Runs the guest to its end. `first_exit` is called once, after the first exit.
    pub fn run(&mut self, first_exit: impl FnOnce()) -> Result<Outcome, KvmError> {
        let outcome = processor::run_first(&mut self.first, &self.board, first_exit);
        for thread in self.threads.drain(..) {
            // One that panicked has had the first one fail.
            let _ = thread.join();
        }
        outcome
    }

    /// Page faults that KVM served by itself, if they were counted and the kernel counts them.
    pub fn guest_faults(&self) -> Option<u64> {
        let counts = self.faults.iter().map(FaultCounter::read);
        let all: Option<u64> = counts.sum();
        all.filter(|_| !self.faults.is_empty())
    }

    /// Looks at the guest's kernel state, for the report.
    pub fn look<T>(&self, look: impl FnOnce(&Linux) -> T) -> T {
        look(&lock(&self.board).linux)
    }

    /// Opens devices for a guest without files: see [`Linux::open_devices`].
    pub fn open_devices(&mut self) {
        lock(&self.board).linux.open_devices();
    }

    /// Says what the guest's calls pass on to: see [`Linux::settle`].
    pub fn settle(&mut self, layout: Option<Layout>) -> io::Result<()> {
        lock(&self.board).linux.settle(layout)
    }

    /// Prints the guest's calls and signals to `out`.
    pub fn trace(&mut self, out: File) {
        lock(&self.board).linux.start_trace(out);
    }

    /// Says how the guest has ended.
    pub fn trace_end(&mut self, outcome: &Outcome) {
        lock(&self.board).linux.trace_end(outcome);
    }

    /// Exits so far.
    pub fn exits(&self) -> ExitCounts {
        lock(&self.board).exits
    }
}
