//! Signals that a thread has stopped for: whether one is delivered, and what a fault's says of the guest.

use pool_core::address::Protection;
use rustix::process::Pid;

use super::super::ptrace::{Info, Tracee};
use super::super::signals::PASSED_ON;
use super::Tracer;
use crate::fault::{Allowed, Cause, Fault, Outcome};
use crate::job::{STOPS, undone_by};
use crate::memory::Access;

/// `si_code` of a fault that the processor raised without an address.
const SI_KERNEL: i32 = 0x80;
/// `si_code` of a SIGSEGV where nothing is mapped, and for what must not be done where something is, or not with the key that its
/// pages have (asm-generic/siginfo.h).
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const SEGV_PKUERR: i32 = 4;
/// Bytes of the longest instruction.
const LONGEST: u64 = 15;
/// `si_code` of a SIGBUS for an address that is not aligned (asm-generic/siginfo.h).
const BUS_ADRALN: i32 = 1;

impl Tracer<'_> {
    /// Whether `signal`, for which `thread` has stopped, is delivered: of what somebody sends to the VMM and the guest, one is.
    pub(super) fn is_due(&mut self, thread: Tracee, signal: i32) -> bool {
        let stops = STOPS.contains(&signal);
        if !PASSED_ON.contains(&signal) && !stops {
            return true;
        }
        let Ok(info) = thread.signal() else {
            return true;
        };
        let sent = self.watch.sent();
        let is_own = info.code() <= 0 && Pid::from_raw(info.sender().0) == Some(self.guest);
        if is_own {
            // The kernel has dropped what the guest has undone.
            for &undone in undone_by(signal) {
                sent.meets(undone, || self.calls.waits(undone));
            }
        }
        if PASSED_ON.contains(&signal) && !self.is_first(signal, &info) {
            return false;
        }
        if stops {
            self.watch.sent().undoes(signal);
            let alone = match signal {
                // The guest can have no say in it, nor this process.
                libc::SIGSTOP => !is_own,
                _ => self.watch.sent().came_alone(signal),
            };
            self.follow.delivers(alone);
        }
        true
    }

    /// Whether `signal`, one that is passed on, has not been delivered from another sender or by another way.
    fn is_first(&mut self, signal: i32, info: &Info) -> bool {
        let sent = self.watch.sent();
        let (sender, _) = info.sender();
        let calls = &mut self.calls;
        // Somebody may have had the guest go on since, which undoes what it has stopped to be told of: not what waits.
        let is_later = || STOPS.contains(&signal) && calls.surely_waits(signal);
        match (info.code(), Pid::from_raw(sender)) {
            (libc::SI_USER, Some(own)) if own == self.own => sent.arrives(signal, is_later),
            (libc::SI_USER, other) if other != Some(self.guest) => {
                sent.comes(signal, sender, is_later)
            }
            (code, _) => {
                sent.meets(signal, || self.calls.waits(signal));
                if code == libc::SI_KERNEL {
                    self.watch.terminal_tells(signal);
                }
                true
            }
        }
    }

    /// What the signal that is about to be delivered says of the guest, if it is a fault's.
    pub(super) fn fault_of(&mut self, guest: Tracee, signal: i32) -> Option<Fault> {
        let faults = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
        ];
        if !faults.contains(&signal) {
            return None;
        }
        let (info, registers) = (guest.signal().ok()?, guest.registers().ok()?);
        // A signal that a process sent is not a fault.
        if info.code() <= 0 {
            return None;
        }
        let cause = match signal {
            libc::SIGSEGV if info.code() == SI_KERNEL => Cause::Protection,
            libc::SIGSEGV => {
                let address = info.address();
                Cause::Memory {
                    address,
                    access: access(address, info.code(), registers.rip, || {
                        self.allowed_at(address, registers.rip)
                    }),
                    allowed: allowed(info.code()),
                }
            }
            libc::SIGILL => {
                self.is_leaving |= registers.r15 == self.leaving;
                Cause::UndefinedInstruction
            }
            libc::SIGFPE => Cause::Arithmetic,
            libc::SIGTRAP => Cause::Breakpoint,
            // What is left is SIGBUS: a stack's bad address, one that is not aligned, and pages that a file has not.
            _ if info.code() == SI_KERNEL => Cause::Exception(12),
            _ if info.code() == BUS_ADRALN => Cause::Exception(17),
            _ => Cause::PastFile {
                address: info.address(),
            },
        };
        Some(Fault {
            cause,
            instruction_pointer: registers.rip,
            stack_pointer: registers.rsp,
        })
    }

    /// What the guest may do at `address`, where an `instruction` failed, as it has it now: that may not be as it was loaded. None if another
    /// thread may have changed it since. But for jumps, nobody asks of memory that is not the image's: programs protect theirs to be
    /// told of its use, and often are.
    fn allowed_at(&self, address: u64, instruction: u64) -> Option<Protection> {
        let holds = |m: &crate::plan::Mapping| (m.address.0..m.end()).contains(&address);
        let is_asked = address == instruction || self.plan.mappings.iter().any(holds);
        if !is_asked || !self.threads.is_one() {
            return None;
        }
        self.calls.areas.at(address).map(|area| area.protection())
    }
}

/// A guest has ended by `signal`, which was no fault of its own. Of two that no thread stops for it is said in words what
/// they mean: nobody else would know. SIGSYS was `sent`; it had shared `zeros`, for which this program ends a guest.
pub(in super::super) fn killed(signal: i32, sent: bool, zeros: bool) -> Outcome {
    let words = match signal {
        libc::SIGKILL if zeros => {
            "killed (SIGKILL) by poolvmm: it put /dev/zero in the place of a file that another thread was mapping shared, which is memory that --memory does not bound"
        }
        libc::SIGKILL => {
            "killed (SIGKILL): by itself, by another program, at a limit of processor time, or by the host for lack of memory"
        }
        libc::SIGSYS if !sent => {
            "a system call of 32-bit code (int 0x80), which is not served (SIGSYS)"
        }
        _ => return Outcome::Signalled(signal),
    };
    Outcome::Fault(Fault {
        cause: Cause::Killed(signal, words),
        instruction_pointer: 0,
        stack_pointer: 0,
    })
}

/// What the kernel tells of what is there. What may be done there would take a look that is late.
fn allowed(code: i32) -> Allowed {
    match code {
        SEGV_ACCERR | SEGV_PKUERR => Allowed::Less,
        _ => Allowed::Unmapped,
    }
}

/// What the guest tried, where that is sure: the kernel does not tell. `allowed` is what it may do at the address, if that is
/// sure.
fn access(
    address: u64,
    code: i32,
    instruction: u64,
    allowed: impl FnOnce() -> Option<Protection>,
) -> Option<Access> {
    match code {
        // Where no instruction is, none has done anything.
        SEGV_MAPERR => (address == instruction).then_some(Access::Execute),
        SEGV_ACCERR => {
            let allowed = allowed()?;
            // An instruction may begin where it may be executed, and not end there.
            // (Nor need both be of one fault: a guest may have sent itself what looks like one.)
            let may_fetch = !allowed.execute && address.wrapping_sub(instruction) < LONGEST;
            match may_fetch {
                true if address == instruction => Some(Access::Execute),
                false if allowed.read && !allowed.write => Some(Access::Write),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_is_not_said_to_be_missing() {
        assert_eq!(allowed(SEGV_MAPERR), Allowed::Unmapped);
        assert_eq!(allowed(SEGV_ACCERR), Allowed::Less);
        // Of memory that may be executed alone.
        assert_eq!(allowed(SEGV_PKUERR), Allowed::Less);
    }

    #[test]
    fn what_was_tried_is_said_where_nothing_else_can_be() {
        const AT: u64 = 0x40_5000;
        let told = |code, instruction, allowed: &str| {
            let has = |right| allowed.contains(right);
            let protection = Protection {
                read: has('r'),
                write: has('w'),
                execute: has('x'),
            };
            access(AT, code, instruction, || {
                (!allowed.is_empty()).then_some(protection)
            })
        };
        let (far, ends_there) = (0x40_1000, AT - 3);
        for (instruction, allowed, expected) in [
            (far, "r--", Some(Access::Write)),
            (far, "r-x", Some(Access::Write)),
            // It writes to itself.
            (AT, "r-x", Some(Access::Write)),
            (AT, "r--", Some(Access::Execute)),
            (AT, "rw-", Some(Access::Execute)),
            (AT, "---", Some(Access::Execute)),
            // A read, or a write.
            (far, "---", None),
            (far, "--x", None),
            // The end of an instruction, or what it writes.
            (ends_there, "r--", None),
            (AT - 15, "r--", Some(Access::Write)),
            (ends_there, "r-x", Some(Access::Write)),
            // Who knows why.
            (far, "rw-", None),
            (far, "", None),
            (AT, "", None),
            // There is no memory for an instruction that long.
            (u64::MAX, "r--", Some(Access::Write)),
        ] {
            let found = told(SEGV_ACCERR, instruction, allowed);
            assert_eq!(found, expected, "{instruction:#x} {allowed}");
        }
        assert_eq!(told(SEGV_MAPERR, AT, ""), Some(Access::Execute));
        assert_eq!(told(SEGV_MAPERR, ends_there, ""), None);
        assert_eq!(told(SEGV_MAPERR, far, "r--"), None);
        assert_eq!(told(SEGV_PKUERR, AT, "r--"), None);
    }
}
