//! Moments on the host's monotonic clock.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// A moment on the host's monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// Now, asked of the kernel by a system call: for a process that has no vdso where it had one.
    pub fn by_call() -> Self {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the kernel writes the structure, which lives.
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) };
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// Microseconds since `start`; none if that is later.
    pub fn since(self, start: Self) -> f64 {
        self.0.saturating_sub(start.0) as f64 / 1000.0
    }
}
