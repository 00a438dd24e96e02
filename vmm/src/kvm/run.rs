//! Running a guest: the processor's exits, and how it goes on after each.

use pool_core::address::USER_ADDRESS_END;

use super::aside::Left;
use super::boot::{self, CALL_PORT, FAULT_PORT};
use super::frame::Frame;
use super::processor::{Next, Turn};
use super::vcpu::Exit;
use super::{KvmError, exception};
use crate::fault::{Allowed, Cause, Fault, Outcome};
use crate::linux::{Call, ExtendedState};
use crate::memory::{Access, GrowError};

const PAGE_FAULT: u8 = 14;

impl Turn<'_> {
    /// The processor has left the guest by `exit`.
    pub(super) fn left(&mut self, exit: Exit) -> Result<Next, KvmError> {
        let outcome = match exit {
            Exit::Port(CALL_PORT) if self.cpu.vcpu.is_at_call() => self.system_call()?,
            Exit::Port(FAULT_PORT) => self.fault()?,
            Exit::Port(_) | Exit::Device => self.refuse_port(exit)?,
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
        match outcome {
            Some(outcome) => Ok(Next::End(outcome)),
            None => self.go_on(),
        }
    }

    /// The processor met a page that the host cannot provide: one of a file that has become shorter. The guest
    /// tries again, and faults. Or one that was gone for a moment, while another processor had it forgotten.
    fn lost(&mut self) -> Result<Option<Outcome>, KvmError> {
        if self.cpu.revocations != self.board.linux.memory().revocations() {
            self.interrupted()?;
            return Ok(None);
        }
        match self.board.linux.memory_mut().lose_pages() {
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
        self.board.exits.syscalls += 1;
        let registers = self.cpu.vcpu.registers();
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
        self.cpu.turns.left = Left::Call;
        let reply = self.board.linux.serve(&call);
        self.answer(reply)
    }

    /// A processor exception: a page to be given, a signal, or the end.
    fn fault(&mut self) -> Result<Option<Outcome>, KvmError> {
        let registers = *self.cpu.vcpu.registers();
        let system = self.cpu.vcpu.system_registers()?;
        let privileged = system.cs.dpl == 0 && system.ss.dpl == 0;
        let Some(vector) = self
            .cpu
            .monitor
            .vector_at(registers.rip)
            .filter(|_| privileged)
        else {
            return Ok(Some(self.stop(Cause::Protection)));
        };
        let Some(frame) = self.frame(vector, registers.rsp) else {
            return Ok(Some(self.stop(Cause::Machine(format!(
                "exception {vector} in the monitor's own code"
            )))));
        };
        let stopped = |cause| Fault {
            cause,
            instruction_pointer: frame.rip,
            stack_pointer: frame.rsp,
        };
        let end = |cause| Ok(Some(Outcome::Fault(stopped(cause))));
        if frame.code != boot::USER_CODE {
            let words = "the guest left 64-bit mode, which is not served";
            return end(Cause::Unserved(words.to_owned()));
        }
        self.cpu.turns.left = Left::Fault(frame);
        let cause = match vector {
            PAGE_FAULT => {
                let address = system.cr2;
                let access = access_of(frame.error);
                if let Some(clock) = &mut self.board.clock
                    && clock.show(
                        self.cpu.number,
                        &self.board.vm,
                        self.board.linux.memory_mut(),
                        address,
                        access,
                    )?
                {
                    self.board.exits.page_faults += 1;
                    return Ok(None);
                }
                let memory = self.board.linux.memory_mut();
                match memory.resolve_fault(address, access, frame.error & 1 != 0) {
                    Ok(true) if frame.rip < USER_ADDRESS_END => {
                        self.board.exits.page_faults += 1;
                        return Ok(None);
                    }
                    Ok(false) if self.board.linux.memory().is_past_file(address, access) => {
                        Cause::PastFile { address }
                    }
                    Ok(_) => Cause::Memory {
                        address,
                        access: Some(access),
                        allowed: (self.board.linux.memory().protection_at(address))
                            .map_or(Allowed::Unmapped, Allowed::Only),
                    },
                    Err(error) => return end(out_of_memory(&error)),
                }
            }
            0 | 16 | 19 => Cause::Arithmetic,
            1 | 3 => Cause::Breakpoint,
            6 => Cause::UndefinedInstruction,
            // A descriptor that is not there: no table of the monitor's has one that only is not present.
            // The first is `INT 4`, which Linux tells of as of these.
            4 | 11 | 13 => Cause::Protection,
            other => Cause::Exception(other),
        };
        let raised = match vector {
            16 | 19 => exception::raised(vector, &self.cpu.vcpu.read()?),
            _ => 0,
        };
        let exception = exception::of(vector, &frame, system.cr2, &cause, raised);
        self.handle(&exception, stopped(cause))
    }

    /// The frame of `vector`, if it lies at `rsp` as the processor puts it there, and is of code at
    /// CPL 3.
    fn frame(&self, vector: u8, rsp: u64) -> Option<Frame> {
        let length = Frame::bytes(vector);
        let below = self.cpu.monitor.stack().checked_sub(rsp)?;
        if below != length as u64 {
            return None;
        }
        let mut bytes = [0; Frame::MAX_BYTES];
        let bytes = &mut bytes[..length];
        let memory = self.board.linux.memory();
        memory
            .read_monitor(self.cpu.monitor.physical_stack() - below, bytes)
            .ok()?;
        let frame = Frame::parse(vector, bytes);
        (frame.code & 3 == 3).then_some(frame)
    }

    /// Tells the machine what the last exit changed in the guest's memory.
    pub(super) fn synchronise(&mut self) -> Result<(), KvmError> {
        for slot in self.board.linux.memory_mut().take_slots() {
            self.board.vm.add_slot(&slot)?;
        }
        if self.board.linux.memory_mut().take_flush() {
            self.board.vm.flush(self.board.flush_page)?;
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, cause: Cause) -> Outcome {
        let registers = self.cpu.vcpu.registers();
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
