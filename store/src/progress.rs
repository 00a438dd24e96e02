//! How far a work on all of a store has come, and keeping it to a rate.

use std::num::NonZeroU64;
use std::time::Duration;

/// How far a work that goes through segments has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of segments done.
    pub done: u64,
    /// Bytes of segments to do.
    pub total: u64,
    /// Bytes read since the last report.
    pub read: u64,
}

impl Progress {
    /// Nothing is done of `total` bytes.
    pub(crate) fn begin(total: u64) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// `bytes` more are done, of which `read` were read.
    pub(crate) fn step(&mut self, bytes: u64, read: u64) -> Self {
        self.done += bytes;
        Self { read, ..*self }
    }
}

/// How long reading `bytes` takes at `rate` bytes a second.
pub fn time_of(bytes: u64, rate: NonZeroU64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time() {
        let rate = NonZeroU64::new(1 << 20).unwrap();
        assert_eq!(time_of(3 << 19, rate), Duration::from_millis(1500));
        let slow = NonZeroU64::new(1).unwrap();
        assert_eq!(time_of(u64::MAX, slow), Duration::from_nanos(u64::MAX));
    }
}
