//! The virtual machine: its device, its memory slots.
//!
//! A pool of ready-made shells ([`super::shell`]) will be kept here: a recycled one reaches its first
//! exit in an eighth of the time of a fresh one.

use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::{CpuId, KVM_MEM_READONLY, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::{KvmError, supported};
use crate::memory::SlotRequest;

/// A slot number that memory never uses: making and unmaking it has the kernel forget every
/// translation.
const FLUSH_SLOT: u32 = 509;
/// Guest physical address of that slot; nothing else is there.
const FLUSH_ADDRESS: u64 = 1 << 37;
/// The slot of the kernel's vdso, and its guest physical address.
const VDSO_SLOT: u32 = 508;
pub(super) const VDSO_ADDRESS: u64 = FLUSH_ADDRESS + (1 << 20);
/// What must be there.
const CAPABILITIES: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
];

/// A virtual machine without memory.
#[derive(Debug)]
pub(super) struct Vm {
    fd: VmFd,
}

impl Vm {
    /// Opens `/dev/kvm` and makes a machine; with it comes what processor features guests are shown, which
    /// is much, and of no use once the processor is made.
    pub(super) fn new() -> Result<(Self, CpuId), KvmError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::NoDevice,
            libc::EACCES | libc::EPERM => KvmError::NotPermitted,
            _ => KvmError::call("opening /dev/kvm", error),
        })?;
        for (capability, name) in CAPABILITIES {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Capability(name));
            }
        }
        // More comes only with features that a process asks for, and this one does not.
        if kvm.check_extension_int(Cap::Xsave2) as usize > size_of::<kvm_xsave>() {
            return Err(KvmError::Capability("extended state of at most 4 KiB"));
        }
        let cpuid = supported::cpuid(&kvm)?;
        let fd = kvm
            .create_vm()
            .map_err(|error| KvmError::call("creating a virtual machine", error))?;
        Ok((Self { fd }, cpuid))
    }

    pub(super) fn create_vcpu(&self, number: u64) -> Result<VcpuFd, KvmError> {
        self.fd
            .create_vcpu(number)
            .map_err(|error| KvmError::call("creating a virtual processor", error))
    }

    /// Gives the machine a run of memory.
    pub(super) fn add_slot(&self, request: &SlotRequest) -> Result<(), KvmError> {
        self.set_slot(kvm_userspace_memory_region {
            slot: request.slot,
            flags: if request.read_only {
                KVM_MEM_READONLY
            } else {
                0
            },
            guest_phys_addr: request.physical,
            memory_size: request.length,
            userspace_addr: request.host,
        })
    }

    /// Shows the machine this process's vdso and its data, which lie at these addresses, at [`VDSO_ADDRESS`].
    pub(super) fn add_vdso(&self, pages: &Range<u64>) -> Result<(), KvmError> {
        self.set_slot(kvm_userspace_memory_region {
            slot: VDSO_SLOT,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: VDSO_ADDRESS,
            memory_size: pages.end - pages.start,
            userspace_addr: pages.start,
        })
    }

    /// Has the machine forget every translation of a guest address. `host` is a page of guest
    /// memory. Neither a reload of CR3 nor a write to the tables by the VMM does it when the
    /// kernel shadows the guest's tables: it trusts write protection, which the VMM's writes pass by.
    pub(super) fn flush(&self, host: u64) -> Result<(), KvmError> {
        let mut region = kvm_userspace_memory_region {
            slot: FLUSH_SLOT,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: FLUSH_ADDRESS,
            memory_size: pool_core::PAGE_SIZE,
            userspace_addr: host,
        };
        self.set_slot(region)?;
        region.memory_size = 0;
        self.set_slot(region)
    }

    fn set_slot(&self, region: kvm_userspace_memory_region) -> Result<(), KvmError> {
        // SAFETY: the host range is guest memory inside the reservation, which `Machine` keeps
        // mapped until after the machine is gone (its fields drop in order: vCPU, VM, memory), or
        // the vdso, which stays as long as this process and is read-only. The guest can reach
        // nothing else through it.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(|error| KvmError::call("giving memory to the virtual machine", error))
    }
}

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
