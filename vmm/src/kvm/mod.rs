//! The KVM platform: a virtual machine of one processor at CPL 3, whose kernel is this process.
//!
//! Guest threads are tasks that take turns on that processor: [`crate::linux::Linux`] says which, here
//! their registers are put aside and brought back. Whole-system unikernels (`pvh`, `lxboot`) will be
//! further kinds of machine beside [`Machine`], with devices instead of system calls.

mod boot;
mod clock;
mod counter;
mod entry;
mod exception;
mod extended;
mod frame;
mod kick;
mod pace;
mod run;
mod stats;
mod turns;
mod vcpu;
mod vm;

use std::fs::File;
use std::io;

use thiserror::Error;

use self::boot::Monitor;
use self::clock::Clock;
use self::kick::Kicks;
use self::stats::FaultCounter;
use self::turns::Turns;
use self::vcpu::{Features, Vcpu};
use self::vm::Vm;
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

/// A guest that is ready to run. Fields drop in this order: the processor, the machine, and only
/// then the memory that they use.
#[derive(Debug)]
pub struct Machine {
    vcpu: Vcpu,
    vm: Vm,
    linux: Linux,
    monitor: Monitor,
    kicks: Kicks,
    turns: Turns,
    clock: Option<Clock>,
    flush_page: u64,
    exits: ExitCounts,
    faults: Option<FaultCounter>,
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
    /// Makes a machine, lays `plan` in and sets the processor to the image's first instruction.
    pub fn new(
        plan: &Plan,
        segments: &Segments,
        backing: Backing,
        start: &Start,
        linux: impl FnOnce(GuestMemory) -> Linux,
    ) -> Result<Self, KvmError> {
        let (vm, cpuid) = Vm::new()?;
        let monitor = Monitor {
            base: plan.rooms.monitor.0,
        };
        let pages = monitor.pages();
        let pages = pages.each_ref().map(Vec::as_slice);
        let mut memory = GuestMemory::build(plan, segments, backing, pages)?;
        let slots = memory.take_slots();
        let flush_page = slots.first().map_or(0, |slot| slot.host);
        for slot in slots {
            vm.add_slot(&slot)?;
        }
        let mut vcpu = Vcpu::new(vm.create_vcpu()?, &cpuid, monitor, memory.root())?;
        let clock = Clock::new(plan.rooms).filter(|_| vcpu.counter_is_hosts());
        let features = Features::of(&cpuid);
        drop(cpuid);
        let stack = start.build(plan, features.fsgsbase, clock.as_ref().map(Clock::address))?;
        memory
            .write(stack.pointer, &stack.bytes)
            .map_err(|_| StartError::TooLong)?;
        vcpu.start_at(plan.entry.0, stack.pointer);
        let kicks = Kicks::new(vcpu.fd())?;
        let mut linux = linux(memory);
        linux.started_with([stack.arguments, stack.environment, stack.auxiliary]);
        for &signal in kicks.ignored() {
            linux.ignore(signal);
        }
        let mut machine = Self {
            vcpu,
            vm,
            linux,
            monitor,
            kicks,
            turns: Turns::default(),
            clock,
            flush_page,
            exits: ExitCounts::default(),
            faults: None,
        };
        machine.synchronise()?;
        Ok(machine)
    }

    /// Has KVM's count of page faults kept for the report. To be called before the process is
    /// confined.
    pub fn count_faults(&mut self) -> Result<(), KvmError> {
        self.faults = self.vcpu.fault_counter()?;
        Ok(())
    }

    /// Page faults that KVM served by itself, if they were counted and the kernel counts them.
    pub fn guest_faults(&self) -> Option<u64> {
        self.faults.as_ref().and_then(FaultCounter::read)
    }

    /// The guest's kernel state, for the report.
    pub fn linux(&self) -> &Linux {
        &self.linux
    }

    /// Opens devices for a guest without files: see [`Linux::open_devices`].
    pub fn open_devices(&mut self) {
        self.linux.open_devices();
    }

    /// Says what the guest's calls pass on to: see [`Linux::settle`].
    pub fn settle(&mut self, layout: Option<Layout>) -> io::Result<()> {
        self.linux.settle(layout)
    }

    /// Prints the guest's calls and signals to `out`.
    pub fn trace(&mut self, out: File) {
        self.linux.start_trace(out);
    }

    /// Says how the guest has ended.
    pub fn trace_end(&mut self, outcome: &Outcome) {
        self.linux.trace_end(outcome);
    }

    /// Exits so far.
    pub fn exits(&self) -> ExitCounts {
        self.exits
    }
}
