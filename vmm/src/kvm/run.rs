//! Running a guest: the processor's exits, and how it goes on after each.

use pool_core::PAGE_SIZE;
use pool_core::address::USER_ADDRESS_END;

use super::boot::{self, CALL_PORT, FAULT_PORT};
use super::frame::Frame;
use super::turns::Left;
use super::vcpu::Exit;
use super::{KvmError, Machine, exception};
use crate::fault::{Cause, Fault, Outcome};
use crate::linux::{Call, ExtendedState};
use crate::memory::{Access, GrowError};

const PAGE_FAULT: u8 = 14;

impl Machine {
    /// Runs the guest to its end. `first_exit` is called once, after the first exit.
    pub fn run(&mut self, first_exit: impl FnOnce()) -> Result<Outcome, KvmError> {
        let mut first_exit = Some(first_exit);
        loop {
            let exit = self.vcpu.run()?;
            if let Some(first_exit) = first_exit.take() {
                first_exit();
            }
            let mut outcome = match exit {
                Exit::Port(CALL_PORT) if self.vcpu.is_at_call() => self.system_call()?,
                Exit::Port(FAULT_PORT) => self.fault()?,
                Exit::Port(_) | Exit::Device => Some(self.stop(Cause::Protection)),
                Exit::ReadOnlyStore { physical } => Some(self.stop(Cause::Machine(format!(
                    "store to read-only guest physical address {physical:#x}"
                )))),
                Exit::Interrupted => {
                    self.interrupted()?;
                    None
                }
                Exit::Unreachable => self.lost()?,
                Exit::Failed(reason) => Some(self.stop(Cause::Machine(reason.to_owned()))),
            };
            if outcome.is_none() {
                outcome = self.go_on()?;
            }
            if let Some(outcome) = outcome {
                self.linux.release_all();
                return Ok(outcome);
            }
            self.synchronise()?;
        }
    }

    /// The processor met a page that the host cannot provide: one of a file that has become shorter. The guest
    /// tries again, and faults.
    fn lost(&mut self) -> Result<Option<Outcome>, KvmError> {
        match self.linux.memory_mut().lose_pages() {
            Ok(true) => {
                self.interrupted()?;
                Ok(None)
            }
            Ok(false) => Ok(Some(self.stop(Cause::Machine(
                "KVM could not reach the host memory behind a guest page".to_owned(),
            )))),
            Err(error) => Ok(Some(self.stop(out_of_memory(&error)))),
        }
    }

    fn system_call(&mut self) -> Result<Option<Outcome>, KvmError> {
        self.exits.syscalls += 1;
        let registers = self.vcpu.registers();
        let call = Call {
            // As under Linux, where it is an `int`.
            number: u64::from(registers.rax as u32),
            arguments: [
                registers.rdi,
                registers.rsi,
                registers.rdx,
                registers.r10,
                registers.r8,
                registers.r9,
            ],
            stack_pointer: registers.rsp,
        };
        let (rip, rsp) = (registers.rcx, registers.rsp);
        if rip >= USER_ADDRESS_END {
            return Ok(Some(Outcome::Fault(Fault {
                cause: Cause::Protection,
                instruction_pointer: rip,
                stack_pointer: rsp,
            })));
        }
        self.turns.left = Left::Call;
        let reply = self.linux.serve(&call);
        self.answer(reply)
    }

    /// A processor exception: a page to be given, a signal, or the end.
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
        self.turns.left = Left::Fault(frame);
        let cause = match vector {
            PAGE_FAULT => {
                let address = system.cr2;
                let access = access_of(frame.error);
                if let Some(clock) = &mut self.clock
                    && clock.show(&self.vm, self.linux.memory_mut(), address, access)?
                {
                    self.exits.page_faults += 1;
                    return Ok(None);
                }
                match self.linux.memory_mut().resolve_fault(address, access) {
                    Ok(true) if frame.rip < USER_ADDRESS_END => {
                        self.exits.page_faults += 1;
                        return Ok(None);
                    }
                    Ok(false) if self.linux.memory().is_past_file(address, access) => {
                        Cause::PastFile { address }
                    }
                    Ok(_) => Cause::Memory {
                        address,
                        access: Some(access),
                        allowed: self.linux.memory().protection_at(address),
                    },
                    Err(error) => return end(out_of_memory(&error)),
                }
            }
            0 | 16 | 19 => Cause::Arithmetic,
            1 | 3 => Cause::Breakpoint,
            6 => Cause::UndefinedInstruction,
            // A descriptor that is not there: no table of the monitor's has one that only is not present.
            11 | 13 => Cause::Protection,
            other => Cause::Exception(other),
        };
        let raised = match vector {
            16 | 19 => exception::raised(vector, &self.vcpu.read()?),
            _ => 0,
        };
        let exception = exception::of(vector, &frame, system.cr2, &cause, raised);
        if self.handle(&exception)? {
            Ok(None)
        } else {
            end(cause)
        }
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
    pub(super) fn synchronise(&mut self) -> Result<(), KvmError> {
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
