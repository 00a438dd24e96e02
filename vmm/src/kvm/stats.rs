//! What KVM counts of a processor: page faults that it served without an exit.
//!
//! KVM describes its statistics itself ("The KVM_GET_STATS_FD ioctl" in the kernel's
//! `Documentation/virt/kvm/api.rst`): a header, descriptors with names, values.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;

const HEADER_BYTES: usize = 24;
/// Bytes of a descriptor before its name: flags, exponent, size, offset, bucket size.
const DESCRIPTOR_BYTES: u32 = 16;
/// Faults on guest memory that KVM answered by a translation, on shadow and on nested tables.
const FAULTS: &[u8] = b"pf_fixed";

/// The counter of page faults of one processor.
#[derive(Debug)]
pub(super) struct FaultCounter(File);

impl FaultCounter {
    /// The counter, if the kernel has one: older ones do not, which is not a reason not to run a guest. Where it is
    /// in the file is looked for when it is read: a guest that starts has no time for it.
    pub(super) fn of(vcpu: &VcpuFd) -> Option<Self> {
        statistics(vcpu).map(Self)
    }

    /// Page faults served so far. Works under the monitor's filter.
    pub(super) fn read(&self) -> Option<u64> {
        let offset = find(&self.0, FAULTS).ok()??;
        let mut value = [0; 8];
        self.0.read_exact_at(&mut value, offset).ok()?;
        Some(u64::from_le_bytes(value))
    }
}

/// Where the value named `name` is in the file.
fn find(statistics: &File, name: &[u8]) -> io::Result<Option<u64>> {
    let word = |bytes: &[u8], at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(word)
    };
    let mut header = [0; HEADER_BYTES];
    statistics.read_exact_at(&mut header, 0)?;
    let [name_size, count, descriptors, data] = [4, 8, 16, 20].map(|offset| word(&header, offset));
    if name_size > 256 || count > 4096 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let size = (DESCRIPTOR_BYTES + name_size) as usize;
    let mut all = vec![0; size * count as usize];
    statistics.read_exact_at(&mut all, descriptors.into())?;
    for descriptor in all.chunks_exact(size) {
        let found = descriptor[DESCRIPTOR_BYTES as usize..]
            .split(|byte| *byte == 0)
            .next();
        if found == Some(name) {
            return Ok(Some(u64::from(data) + u64::from(word(descriptor, 8))));
        }
    }
    Ok(None)
}

/// The one request that the KVM bindings lack.
fn statistics(vcpu: &VcpuFd) -> Option<File> {
    use std::os::fd::{AsRawFd, FromRawFd};

    /// `_IO(KVMIO, 0xce)` of `linux/kvm.h`.
    const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
    // SAFETY: the request takes no argument and touches no memory of this process; the descriptor
    // is open for as long as `vcpu` is borrowed.
    let fd = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD as _, 0) };
    // SAFETY: a descriptor that is not negative was just made for this call, and nobody else has it.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}
