//! The KVM platform: a virtual machine of one processor at CPL 3, whose kernel is this process.
//!
//! Guest threads will be further vCPUs of the same machine, each run by a thread of this process
//! with [`crate::linux::Linux`] shared between them. Whole-system unikernels (`pvh`, `lxboot`)
//! will be further kinds of machine beside [`Machine`], with devices instead of system calls.

mod boot;
mod clock;
mod counter;
mod entry;
mod frame;
mod stats;
mod vcpu;
mod vm;

use std::io;

use pool_core::PAGE_SIZE;
use pool_core::address::USER_ADDRESS_END;
use thiserror::Error;

use self::boot::{CALL_PORT, FAULT_PORT, Monitor};
use self::clock::Clock;
use self::frame::Frame;
use self::stats::FaultCounter;
use self::vcpu::{Exit, Features, Vcpu};
use self::vm::Vm;
use crate::descriptors::Own;
use crate::fault::{Cause, Fault, Outcome};
use crate::linux::start::{Start, StartError};
use crate::linux::{Call, Linux, Reply};
use crate::memory::{Access, Backing, BuildError, GrowError, GuestMemory};
use crate::plan::Plan;
use crate::pool::Segments;

const PAGE_FAULT: u8 = 14;

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
    /// Signals of the host and the like.
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
        let vm = Vm::new()?;
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
        let mut vcpu = Vcpu::new(vm.create_vcpu()?, vm.cpuid(), monitor, memory.root())?;
        let clock = Clock::new(plan.rooms).filter(|_| vcpu.counter_is_hosts());
        let features = Features::of(vm.cpuid());
        let stack = start.build(plan, features.fsgsbase, clock.as_ref().map(Clock::address))?;
        memory
            .write(stack.pointer, &stack.bytes)
            .map_err(|_| StartError::TooLong)?;
        vcpu.start_at(plan.entry.0, stack.pointer);
        let mut machine = Self {
            vcpu,
            vm,
            linux: linux(memory),
            monitor,
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

    /// Says what the guest's calls pass on to: see [`Linux::settle`].
    pub fn settle(&mut self, own: Own, world: bool) {
        self.linux.settle(own, world);
    }

    /// Exits so far.
    pub fn exits(&self) -> ExitCounts {
        self.exits
    }

    /// Runs the guest to its end. `first_exit` is called once, after the first exit.
    pub fn run(&mut self, first_exit: impl FnOnce()) -> Result<Outcome, KvmError> {
        let mut first_exit = Some(first_exit);
        loop {
            let exit = self.vcpu.run()?;
            if let Some(first_exit) = first_exit.take() {
                first_exit();
            }
            let outcome = match exit {
                Exit::Port(CALL_PORT) if self.vcpu.is_at_call() => self.system_call()?,
                Exit::Port(FAULT_PORT) => self.fault()?,
                Exit::Port(_) | Exit::Device => Some(self.stop(Cause::Protection)),
                Exit::ReadOnlyStore { physical } => Some(self.stop(Cause::Machine(format!(
                    "store to read-only guest physical address {physical:#x}"
                )))),
                Exit::Interrupted => {
                    self.exits.interrupted += 1;
                    None
                }
                Exit::Failed(reason) => Some(self.stop(Cause::Machine(reason.to_owned()))),
            };
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
            self.synchronise()?;
        }
    }

    fn system_call(&mut self) -> Result<Option<Outcome>, KvmError> {
        self.exits.syscalls += 1;
        let registers = self.vcpu.registers();
        let call = Call {
            number: registers.rax,
            arguments: [
                registers.rdi,
                registers.rsi,
                registers.rdx,
                registers.r10,
                registers.r8,
                registers.r9,
            ],
        };
        let (rip, rsp) = (registers.rcx, registers.rsp);
        if rip >= USER_ADDRESS_END {
            return Ok(Some(Outcome::Fault(Fault {
                cause: Cause::Protection,
                instruction_pointer: rip,
                stack_pointer: rsp,
            })));
        }
        match self.linux.serve(&call) {
            Reply::Return(result) => {
                let thread_pointer = self.linux.take_thread_pointer();
                self.vcpu.return_from_call(result, thread_pointer)?;
                Ok(None)
            }
            Reply::End(outcome) => Ok(Some(outcome)),
            Reply::Fault(cause) => Ok(Some(Outcome::Fault(Fault {
                cause,
                instruction_pointer: rip,
                stack_pointer: rsp,
            }))),
        }
    }

    /// A processor exception: a page to be given, or the end.
    fn fault(&mut self) -> Result<Option<Outcome>, KvmError> {
        let registers = *self.vcpu.registers();
        let system = self.vcpu.system_registers()?;
        let privileged = system.cs.dpl == 0 && system.ss.dpl == 0;
        let Some(vector) = self.monitor.vector_at(registers.rip).filter(|_| privileged) else {
            return Ok(Some(self.stop(Cause::Protection)));
        };
        let Some(frame) = self.frame(vector, registers.rsp) else {
            return Ok(Some(self.stop(Cause::Machine(format!(
                "exception {vector} in the monitor's own code"
            )))));
        };
        let end = |cause| {
            Ok(Some(Outcome::Fault(Fault {
                cause,
                instruction_pointer: frame.rip,
                stack_pointer: frame.rsp,
            })))
        };
        if frame.code != boot::USER_CODE {
            let words = "the guest left 64-bit mode, which is not served";
            return end(Cause::Unserved(words.to_owned()));
        }
        let cause = match vector {
            PAGE_FAULT => {
                let address = system.cr2;
                let access = access_of(frame.error);
                if let Some(clock) = &mut self.clock
                    && clock.show(&self.vm, self.linux.memory_mut(), address, access)?
                {
                    self.exits.page_faults += 1;
                    self.vcpu.return_from_fault(&frame, &system);
                    return Ok(None);
                }
                match self.linux.memory_mut().resolve_fault(address, access) {
                    Ok(true) if frame.rip < USER_ADDRESS_END => {
                        self.exits.page_faults += 1;
                        self.vcpu.return_from_fault(&frame, &system);
                        return Ok(None);
                    }
                    Ok(_) => Cause::Memory {
                        address,
                        access: Some(access),
                        allowed: self.linux.memory().protection_at(address),
                    },
                    Err(error) => out_of_memory(&error),
                }
            }
            0 | 16 | 19 => Cause::Arithmetic,
            1 | 3 => Cause::Breakpoint,
            6 => Cause::UndefinedInstruction,
            11..=13 => Cause::Protection,
            other => Cause::Exception(other),
        };
        end(cause)
    }

    /// The frame of `vector`, if it lies at `rsp` as the processor puts it there, and is of code at
    /// CPL 3.
    fn frame(&self, vector: u8, rsp: u64) -> Option<Frame> {
        let length = Frame::bytes(vector);
        let below = self.monitor.stack().checked_sub(rsp)?;
        if below != length as u64 {
            return None;
        }
        let mut bytes = [0; Frame::MAX_BYTES];
        let bytes = &mut bytes[..length];
        let memory = self.linux.memory();
        memory.read_monitor(PAGE_SIZE - below, bytes).ok()?;
        let frame = Frame::parse(vector, bytes);
        (frame.code & 3 == 3).then_some(frame)
    }

    /// Tells the machine what the last exit changed in the guest's memory.
    fn synchronise(&mut self) -> Result<(), KvmError> {
        for slot in self.linux.memory_mut().take_slots() {
            self.vm.add_slot(&slot)?;
        }
        if self.linux.memory_mut().take_flush() {
            self.vm.flush(self.flush_page)?;
        }
        Ok(())
    }

    fn stop(&mut self, cause: Cause) -> Outcome {
        let registers = self.vcpu.registers();
        Outcome::Fault(Fault {
            cause,
            instruction_pointer: registers.rip,
            stack_pointer: registers.rsp,
        })
    }
}

fn access_of(error: u64) -> Access {
    if error & 1 << 4 != 0 {
        Access::Execute
    } else if error & 1 << 1 != 0 {
        Access::Write
    } else {
        Access::Read
    }
}

fn out_of_memory(error: &GrowError) -> Cause {
    Cause::OutOfMemory(error.to_string())
}
