//! The parent's side: waits for the guest, answers what its filter asks, and learns from the kernel where
//! a fault was.

use std::io;

use rustix::process::Pid;

use super::calls::{Calls, Next};
use super::limits::Limits;
use super::ptrace::{Registers, Resume, Tracee};
use crate::fault::{Cause, Fault, Outcome};
use crate::memory::Access;
use crate::plan::Plan;
use crate::report::HostUsage;

/// `si_code` of a fault that the processor raised without an address.
const SI_KERNEL: i32 = 0x80;
/// What `PTRACE_O_TRACESYSGOOD` makes of the stop at a call's end.
const END_OF_CALL: i32 = libc::SIGTRAP | 0x80;

/// Waits for a child that did not become a guest.
pub(super) fn reap(child: Pid) {
    // The status does not matter: the child has told why it ended.
    let _ = wait_once(child);
}

/// Waits for the end of the guest, which is traced.
pub(super) fn wait(guest: Tracee, plan: &Plan) -> io::Result<(Outcome, HostUsage)> {
    let mut calls = Calls::new(Limits::new(plan));
    let mut fault = None;
    // The registers with which the guest made the call that it is in, if they were changed.
    let mut changed: Option<Registers> = None;
    loop {
        let (status, usage) = wait_once(guest.0)?;
        if libc::WIFEXITED(status) {
            return Ok((Outcome::Exited(libc::WEXITSTATUS(status) as u8), usage));
        }
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            let outcome = match fault {
                Some((found, fault)) if found == signal => Outcome::Fault(fault),
                _ => Outcome::Signalled(signal),
            };
            return Ok((outcome, usage));
        }
        if !libc::WIFSTOPPED(status) {
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let next = match (status >> 16, signal) {
            (libc::PTRACE_EVENT_SECCOMP, _) => asked(guest, &mut calls, &mut changed),
            (libc::PTRACE_EVENT_STOP, libc::SIGTRAP) => Resume::Run(0),
            (libc::PTRACE_EVENT_STOP, _) => Resume::StayStopped,
            (_, END_OF_CALL) => {
                if let Some(before) = changed.take() {
                    put_back(guest, &before);
                }
                Resume::Run(0)
            }
            _ => {
                // If the guest has no handler for it, it dies of this signal: the last one counts.
                fault = fault_of(guest, signal, plan).map(|fault| (signal, fault));
                Resume::Run(signal)
            }
        };
        guest.resume(next);
    }
}

/// Does what a call that the filter asks about takes. A guest that is gone is noticed by the next wait.
fn asked(guest: Tracee, calls: &mut Calls, changed: &mut Option<Registers>) -> Resume {
    let Ok(registers) = guest.registers() else {
        return Resume::Run(0);
    };
    match calls.next(guest, &registers) {
        Next::Serve => Resume::Run(0),
        Next::ServeWith(change) => {
            // A failure leaves the call as it was, which the filter then asks about for ever: the guest
            // is gone.
            let _ = guest.set_registers(&change.of(registers));
            *changed = Some(registers);
            Resume::ToEndOfCall
        }
        Next::Done(result) => {
            let mut registers = registers;
            // No call: the kernel goes back to the guest with what RAX holds.
            registers.orig_rax = u64::MAX;
            registers.rax = result.cast_unsigned();
            let _ = guest.set_registers(&registers);
            Resume::Run(0)
        }
    }
}

/// At the end of a call whose registers were changed: the guest's own, and the result.
fn put_back(guest: Tracee, before: &Registers) {
    if let Ok(now) = guest.registers() {
        let registers = Registers {
            rax: now.rax,
            ..*before
        };
        let _ = guest.set_registers(&registers);
    }
}

fn wait_once(child: Pid) -> io::Result<(i32, HostUsage)> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    loop {
        let pid = child.as_raw_nonzero().get();
        // SAFETY: the kernel fills both places; an all-zero `rusage` is valid.
        let (found, usage) = unsafe {
            let found = libc::wait4(pid, &raw mut status, libc::__WALL, usage.as_mut_ptr());
            (found, usage.assume_init())
        };
        if found == pid {
            return Ok((status, usage.into()));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What the signal that is about to be delivered says of the guest, if it is a fault's.
fn fault_of(guest: Tracee, signal: i32, plan: &Plan) -> Option<Fault> {
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
    if info.si_code <= 0 {
        return None;
    }
    let cause = match signal {
        libc::SIGSEGV if info.si_code == SI_KERNEL => Cause::Protection,
        libc::SIGSEGV => {
            // SAFETY: for this signal the kernel set the address.
            let address = unsafe { info.si_addr() } as u64;
            Cause::Memory {
                address,
                access: access(address, registers.rip, plan),
                allowed: None,
            }
        }
        libc::SIGILL => Cause::UndefinedInstruction,
        libc::SIGFPE => Cause::Arithmetic,
        libc::SIGTRAP => Cause::Breakpoint,
        _ => Cause::Exception(17),
    };
    Some(Fault {
        cause,
        instruction_pointer: registers.rip,
        stack_pointer: registers.rsp,
    })
}

/// What the guest tried: the kernel does not tell, but often only one thing can be.
fn access(address: u64, instruction: u64, plan: &Plan) -> Option<Access> {
    if address == instruction {
        return Some(Access::Execute);
    }
    let holds = |m: &&crate::plan::Mapping| (m.address.0..m.end()).contains(&address);
    let mapping = plan.mappings.iter().find(holds)?;
    let only_reads = mapping.protection.read && !mapping.protection.write;
    only_reads.then_some(Access::Write)
}
