//! The registers that decide where SYSCALL arrives, and the two places where it may.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::KvmError;
use super::boot::{self, Monitor};

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

/// SYSCALL arrives at CPL 0 from now on.
pub(super) fn set_privileged(fd: &VcpuFd, monitor: Monitor) -> Result<(), KvmError> {
    set_msrs(fd, &[(MSR_LSTAR, monitor.privileged_call())])
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
    fn each_way_has_its_own_stub() {
        let monitor = Monitor {
            base: 0x3f40_0000,
            processor: 0,
        };
        assert_eq!(Arrival::Privileged.stub(monitor), 0x3f40_1200);
        assert_eq!(Arrival::Unprivileged.stub(monitor), 0x3f40_2000);
    }
}
