//! How system calls enter the monitor, which depends on the host, and how that is found out.
//!
//! The processor's manuals say that SYSCALL arrives at CPL 0. A KVM without hardware support keeps
//! it at CPL 3. The two need different rights, and what a guest does must not decide which it gets:
//! so the machine runs the monitor's own code first. That is one SYSCALL at CPL 3, and the
//! privilege level at the exit it leads to is the answer, before anything of the guest has run.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::KvmError;
use super::boot::{self, CALL_PORT, Monitor};
use super::counter;
use super::vcpu::{Exit, Features, Vcpu};

const MSR_SYSENTER_CS: u32 = 0x174;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
/// What RDPID and RDTSCP tell.
const MSR_TSC_AUX: u32 = 0xc000_0103;
/// RFLAGS cleared on SYSCALL: trap, interrupt, direction, I/O privilege, nested task, alignment.
const SYSCALL_MASK: u64 = 0x4_7700;

/// At which privilege level SYSCALL arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// CPL 0, as the manuals say: AMD-V, VT-x.
    Privileged,
    /// CPL 3: shadow page tables without hardware support.
    Unprivileged,
}

impl Arrival {
    /// The OUT instruction that a system call leaves by.
    pub(super) fn stub(self, monitor: Monitor) -> u64 {
        match self {
            Self::Privileged => monitor.privileged_call(),
            Self::Unprivileged => monitor.unprivileged_call(),
        }
    }
}

/// Sets the registers that decide where SYSCALL and its relatives arrive: at CPL 3 code, which
/// every kind of host can execute; no place for SYSENTER; an invalid instruction for 32-bit code.
pub(super) fn set_registers(fd: &VcpuFd, monitor: Monitor) -> Result<(), KvmError> {
    // SYSRET's base: CPL 3 data is 8 above it, CPL 3 code 16.
    let star = u64::from(boot::USER_DATA - 8) << 48 | u64::from(boot::KERNEL_CODE) << 32;
    set_msrs(
        fd,
        &[
            (MSR_STAR, star),
            (MSR_LSTAR, monitor.unprivileged_call()),
            (MSR_CSTAR, monitor.compatibility_call()),
            (MSR_SYSCALL_MASK, SYSCALL_MASK),
            (MSR_SYSENTER_CS, 0),
        ],
    )?;
    if monitor.processor > 0 {
        // The kernel's vdso asks by RDPID which processor it is on, where there is that instruction. A host that has no
        // such register has none.
        let _ = set_msrs(fd, &[(MSR_TSC_AUX, monitor.processor.into())]);
    }
    Ok(())
}

/// Finds out how system calls arrive, and whether the guest's counter is the host's, and leaves the
/// processor with the rights that this takes and no others. To be called before anything of the guest
/// has run.
pub(super) fn establish(
    vcpu: &mut Vcpu,
    monitor: Monitor,
    features: Features,
) -> Result<(Arrival, bool), KvmError> {
    let (probe, back) = monitor.probe();
    *vcpu.registers() = kvm_regs {
        rip: probe,
        rsp: monitor.stack(),
        rflags: 2,
        ..Default::default()
    };
    let before = counter::read();
    let exit = loop {
        match vcpu.run()? {
            Exit::Interrupted => {}
            exit => break exit,
        }
    };
    let registers = *vcpu.registers();
    let shared = counter::is_shared(before, registers.rax, registers.rdx);
    let called = exit == Exit::Port(CALL_PORT)
        && boot::has_left(monitor.unprivileged_call(), registers.rip)
        && registers.rcx == back;
    let mut system = vcpu.system_registers()?;
    let arrival = arrival_at(&system)
        .filter(|_| called)
        .ok_or_else(|| KvmError::Entry {
            exit: format!("{exit:?}"),
            rip: registers.rip,
        })?;
    if arrival == Arrival::Privileged {
        set_msrs(vcpu.fd(), &[(MSR_LSTAR, monitor.privileged_call())])?;
        system.tr.limit = boot::TSS_LIMIT_NO_PORTS;
        // The gates page is the only one that CPL 0 ever executes; the probe was another.
        system.cr4 |= features.execution_prevention();
        vcpu.enter_user(&system);
    }
    Ok((arrival, shared))
}

fn arrival_at(system: &kvm_sregs) -> Option<Arrival> {
    match (system.cs.dpl, system.ss.dpl) {
        (0, 0) => Some(Arrival::Privileged),
        (3, 3) => Some(Arrival::Unprivileged),
        _ => None,
    }
}

fn set_msrs(fd: &VcpuFd, values: &[(u32, u64)]) -> Result<(), KvmError> {
    let entries: Vec<kvm_msr_entry> = values
        .iter()
        .map(|&(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::Capability("KVM_SET_MSRS"))?;
    match fd.set_msrs(&msrs) {
        Ok(set) if set == entries.len() => Ok(()),
        Ok(_) => Err(KvmError::Capability("the SYSCALL registers")),
        Err(error) => Err(KvmError::call("setting the SYSCALL registers", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_ways_of_arrival_are_believed() {
        let at = |code, stack| {
            let mut system = kvm_sregs::default();
            system.cs.dpl = code;
            system.ss.dpl = stack;
            arrival_at(&system)
        };
        assert_eq!(at(0, 0), Some(Arrival::Privileged));
        assert_eq!(at(3, 3), Some(Arrival::Unprivileged));
        assert_eq!(at(0, 3), None);
        assert_eq!(at(3, 0), None);
        assert_eq!(at(1, 1), None);
    }

    #[test]
    fn each_way_has_its_own_stub() {
        let monitor = Monitor {
            base: 0x3f40_0000,
            processor: 0,
        };
        assert_eq!(Arrival::Privileged.stub(monitor), 0x3f40_1200);
        assert_eq!(Arrival::Unprivileged.stub(monitor), 0x3f40_2000);
    }
}
