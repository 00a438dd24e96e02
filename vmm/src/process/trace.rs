//! The parent's side: waits for the guest, and learns from the kernel where a fault was.

use std::io;

use rustix::process::Pid;

use crate::fault::{Cause, Fault, Outcome};
use crate::memory::Access;
use crate::plan::Plan;
use crate::report::HostUsage;

/// `si_code` of a fault that the processor raised without an address.
const SI_KERNEL: i32 = 0x80;

/// Becomes the tracer of `child`, which then dies with this process. Where tracing is forbidden
/// the guest runs all the same; only its faults are reported without their place.
pub(super) fn attach(child: Pid) {
    let options = libc::PTRACE_O_EXITKILL;
    // SAFETY: PTRACE_SEIZE reads no memory of ours; a failure changes nothing.
    unsafe {
        libc::ptrace(
            libc::PTRACE_SEIZE,
            child.as_raw_nonzero().get(),
            std::ptr::null_mut::<libc::c_void>(),
            options as usize as *mut libc::c_void,
        );
    }
}

/// Waits for a child that did not become a guest.
pub(super) fn reap(child: Pid) {
    // The status does not matter: the child has told why it ended.
    let _ = wait_once(child);
}

/// Waits for the guest's end.
pub(super) fn wait(child: Pid, plan: &Plan) -> io::Result<(Outcome, HostUsage)> {
    let mut fault = None;
    loop {
        let (status, usage) = wait_once(child)?;
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
        if status >> 16 == libc::PTRACE_EVENT_STOP {
            let stopped = signal != libc::SIGTRAP;
            resume(
                child,
                if stopped {
                    libc::PTRACE_LISTEN
                } else {
                    libc::PTRACE_CONT
                },
                0,
            );
        } else {
            fault = fault_of(child, signal, plan).map(|fault| (signal, fault));
            resume(child, libc::PTRACE_CONT, signal);
        }
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

fn resume(child: Pid, request: libc::c_uint, signal: i32) {
    // SAFETY: no memory of ours is read; if the guest is gone, the next wait says so.
    unsafe {
        libc::ptrace(
            request,
            child.as_raw_nonzero().get(),
            std::ptr::null_mut::<libc::c_void>(),
            signal as usize as *mut libc::c_void,
        );
    }
}

/// What the signal that is about to be delivered says of the guest, if it is a fault's.
fn fault_of(child: Pid, signal: i32, plan: &Plan) -> Option<Fault> {
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
    let pid = child.as_raw_nonzero().get();
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut registers = std::mem::MaybeUninit::<libc::user_regs_struct>::zeroed();
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: each request fills the structure it is given; all-zero values of both are valid.
    let (info, registers, failed) = unsafe {
        let one = libc::ptrace(libc::PTRACE_GETSIGINFO, pid, none, info.as_mut_ptr());
        let two = libc::ptrace(libc::PTRACE_GETREGS, pid, none, registers.as_mut_ptr());
        (
            info.assume_init(),
            registers.assume_init(),
            one < 0 || two < 0,
        )
    };
    // A signal that a process sent is not a fault.
    if failed || info.si_code <= 0 {
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
