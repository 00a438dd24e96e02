//! A program's own use of the port of system calls, where CPL 3 may have it ([`super::boot`]). It is a fault all the
//! same, as that of any other port is.

use kvm_bindings::kvm_regs;

use super::aside::Left;
use super::boot::{CALL_PORT, OUT, USER_CODE};
use super::frame::{Frame, user_flags};
use super::processor::Turn;
use super::vcpu::Exit;
use super::{KvmError, exception};
use crate::fault::{Cause, Fault, Outcome};

const GENERAL_PROTECTION: u8 = 13;
/// `out %al, %dx`.
const OUT_DX: u8 = 0xee;
/// `outsb`.
const OUTS: u8 = 0x6e;
/// Prefixes that have it done RCX times.
const REPEATED: [u8; 2] = [0xf2, 0xf3];
const DIRECTION_FLAG: u64 = 1 << 10;

impl Turn<'_> {
    /// The processor has left by `exit` at a port, and not by the monitor's code.
    pub(super) fn refuse_port(&mut self, exit: Exit) -> Result<Option<Outcome>, KvmError> {
        let system = self.cpu.vcpu.system_registers()?;
        if system.cs.dpl != 3 {
            return Ok(Some(self.stop(Cause::Protection)));
        }
        let moved = self.cpu.vcpu.finish_access()?;
        if exit == Exit::Port(CALL_PORT) && moved == Some(false) {
            let rip = self.cpu.vcpu.registers().rip;
            let code = self.code_around(rip);
            take_back(self.cpu.vcpu.registers(), code);
        }
        let registers = *self.cpu.vcpu.registers();
        let fault = Fault {
            cause: Cause::Protection,
            instruction_pointer: registers.rip,
            stack_pointer: registers.rsp,
        };
        if moved.is_none() {
            return Ok(Some(Outcome::Fault(fault)));
        }
        let frame = Frame {
            error: 0,
            rip: registers.rip,
            code: USER_CODE,
            rflags: user_flags(registers.rflags),
            rsp: registers.rsp,
        };
        self.cpu.turns.left = Left::Fault(frame);
        let exception = exception::of(GENERAL_PROTECTION, &frame, system.cr2, &fault.cause, 0);
        self.handle(&exception, fault)
    }

    /// Two bytes before `rip` and two from there on; zero where there are none.
    fn code_around(&mut self, rip: u64) -> [u8; 4] {
        let memory = self.board.linux.memory_mut();
        let first = rip.wrapping_sub(2);
        [0, 1, 2, 3].map(|at| {
            memory
                .read_value(first.wrapping_add(at))
                .unwrap_or_default()
        })
    }
}

/// Undoes what KVM's emulator has done of an OUT of one byte: RIP is behind it, or still at it where it is to be
/// repeated, and RSI is behind the byte. The code around RIP tells which it was; prefixes that do nothing are not
/// looked for.
fn take_back(registers: &mut kvm_regs, [second, last, next, after]: [u8; 4]) {
    let repeats = REPEATED.contains(&next) && after == OUTS;
    if repeats {
        registers.rcx = registers.rcx.wrapping_add(1);
    } else if (second, last) == (OUT, CALL_PORT as u8) {
        registers.rip = registers.rip.wrapping_sub(2);
    } else if matches!(last, OUT_DX | OUTS) {
        registers.rip = registers.rip.wrapping_sub(1);
    }
    if repeats || last == OUTS {
        registers.rsi = if registers.rflags & DIRECTION_FLAG == 0 {
            registers.rsi.wrapping_sub(1)
        } else {
            registers.rsi.wrapping_add(1)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RIP, RCX and RSI after all is undone, of 100 each.
    fn undone(code: [u8; 4], rflags: u64) -> (u64, u64, u64) {
        let mut registers = kvm_regs {
            rip: 100,
            rcx: 100,
            rsi: 100,
            rflags,
            ..Default::default()
        };
        take_back(&mut registers, code);
        (registers.rip, registers.rcx, registers.rsi)
    }

    #[test]
    fn what_was_done_of_an_out_is_undone() {
        let port = CALL_PORT as u8;
        assert_eq!(undone([OUT, port, 0x90, 0x90], 2), (98, 100, 100));
        assert_eq!(undone([0x90, OUT_DX, 0x90, 0x90], 2), (99, 100, 100));
        assert_eq!(undone([0x90, OUTS, 0x90, 0x90], 2), (99, 100, 99));
        assert_eq!(undone([0x90, OUTS, 0x90, 0x90], 0x402), (99, 100, 101));
        assert_eq!(undone([0x89, 0xee, 0xf3, OUTS], 2), (100, 101, 99));
        assert_eq!(undone([0x90, 0x90, 0xf2, OUTS], 0x402), (100, 101, 101));
        assert_eq!(undone([OUT, 0x7d, 0x90, 0x90], 2), (100, 100, 100));
    }
}
