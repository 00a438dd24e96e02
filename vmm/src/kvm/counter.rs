//! The processor's counter (TSC), which the kernel's vdso reads. A guest may have the vdso only if its
//! counter is the host's, which is asked for and then looked at.

use std::arch::x86_64::_rdtsc;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::VcpuFd;

/// `KVM_SET_DEVICE_ATTR`; kvm-ioctls has it for processors on other architectures alone.
const KVM_SET_DEVICE_ATTR: u64 = 0x4018_aee1;

/// The host's counter now.
pub(super) fn read() -> u64 {
    // SAFETY: the kernel lets every program read it unless that program asked it not to.
    unsafe { _rdtsc() }
}

/// Asks for a counter that is the host's. A kernel before 5.16 does not know the question, and a guest of
/// its has no vdso.
pub(super) fn share(fd: &VcpuFd) {
    let offset = 0_u64;
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: &raw const offset as u64,
    };
    // SAFETY: the kernel reads the structure and the number that it points to, which both live.
    unsafe {
        libc::ioctl(
            fd.as_raw_fd(),
            KVM_SET_DEVICE_ATTR as _,
            &raw const attribute,
        )
    };
}

/// True if a guest that read `low` and `high` (registers EAX and EDX) between `before` and now reads the
/// host's counter.
pub(super) fn is_shared(before: u64, low: u64, high: u64) -> bool {
    let half = |register: u64| register & u64::from(u32::MAX);
    (before..=read()).contains(&(half(high) << 32 | half(low)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_of_its_own_is_told_apart() {
        let before = read();
        let now = read();
        assert!(is_shared(before, now, now >> 32));
        assert!(is_shared(before, now | 7 << 32, now >> 32));
        for other in [0, before - 1, now + (1 << 40)] {
            assert!(!is_shared(before, other, other >> 32), "{other}");
        }
    }
}
