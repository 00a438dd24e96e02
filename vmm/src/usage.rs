//! What a run costs the host, by its own count.

use serde::Serialize;

/// Faults and memory of the host's side.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HostUsage {
    /// Page faults served without I/O.
    pub minor_faults: i64,
    /// Page faults that read from disk.
    pub major_faults: i64,
    /// Largest resident set, KiB.
    pub peak_rss_kib: i64,
}

impl HostUsage {
    /// Of this process so far.
    pub(crate) fn of_this_process() -> Self {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the kernel fills the structure, which has no invalid bit patterns; if it does
        // not, the zeros stay.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        Self::from(usage)
    }
}

impl From<libc::rusage> for HostUsage {
    fn from(usage: libc::rusage) -> Self {
        Self {
            minor_faults: usage.ru_minflt,
            major_faults: usage.ru_majflt,
            peak_rss_kib: usage.ru_maxrss,
        }
    }
}
