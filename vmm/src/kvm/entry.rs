//! How system calls enter the monitor, which depends on the host, and how that is found out.
//!
//! The processor's manuals say that SYSCALL arrives at CPL 0. A KVM without hardware support keeps
//! it at CPL 3. The two need different rights, and what a guest does must not decide which it gets:
//! so the machine runs the monitor's own code first. That is one SYSCALL at CPL 3, and the
//! privilege level at the exit it leads to is the answer, before anything of the guest has run.

use kvm_bindings::{kvm_regs, kvm_sregs};

use super::KvmError;
use super::boot::{self, CALL_PORT, Monitor};
use super::counter;
use super::msr::{self, Arrival};
use super::vcpu::{Blank, Exit, Features, Vcpu};

/// Prepares a processor of these `features`, with `root` as page tables, and finds out how its calls enter the
/// monitor, whose pages are in place.
pub(super) fn prepare(
    blank: Blank,
    features: Features,
    monitor: Monitor,
    root: u64,
) -> Result<Vcpu, KvmError> {
    let mut vcpu = Vcpu::new(blank, features, monitor, root)?;
    let (arrival, counter_is_hosts) = establish(&mut vcpu, monitor, features)?;
    vcpu.set_found(arrival, counter_is_hosts);
    Ok(vcpu)
}

/// Finds out how system calls arrive, and whether the guest's counter is the host's, and leaves the
/// processor with the rights that this takes and no others. To be called before anything of the guest
/// has run.
fn establish(
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
    let (exit, mut system) = loop {
        match vcpu.run_telling()? {
            (Exit::Interrupted, _) => {}
            left => break left,
        }
    };
    let registers = *vcpu.registers();
    let shared = counter::is_shared(before, registers.rax, registers.rdx);
    let called = exit == Exit::Port(CALL_PORT)
        && boot::has_left(monitor.unprivileged_call(), registers.rip)
        && registers.rcx == back;
    let arrival = arrival_at(&system)
        .filter(|_| called)
        .ok_or_else(|| KvmError::Entry {
            exit: format!("{exit:?}"),
            rip: registers.rip,
        })?;
    if arrival == Arrival::Privileged {
        msr::set_privileged(vcpu.fd(), monitor)?;
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
}
