//! How slow a client may be. Whoever waits for it holds something meanwhile: a connection, an upload,
//! content that a collection must leave alone. So a client that does too little is let go.

use std::time::{Duration, Instant};

/// The least that a client must send of a body, or take of an answer: so many bytes a second, over
/// so long (curl's `--speed-limit` and `--speed-time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second. Even with 0 a client must do something in `time`.
    pub bytes_per_second: u64,
    /// Time that a client has for its first bytes, and again whenever it did enough. 0 is for ever.
    pub time: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            bytes_per_second: 1024,
            time: Duration::from_secs(60),
        }
    }
}

impl Pace {
    /// Bytes that must come within `time`.
    fn enough(self) -> u64 {
        self.bytes_per_second
            .saturating_mul(self.time.as_secs())
            .max(1)
    }
}

/// How a client does in one direction. Only time counts in which it is waited for: it is not to
/// blame for a slow disk.
#[derive(Debug)]
pub struct Progress {
    pace: Pace,
    waited: Duration,
    bytes: u64,
}

impl Progress {
    /// Nothing was done yet, and nothing waited for.
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// When the client is let go if it does nothing from `now` on; `None` is never.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.pace.time.is_zero() {
            return None;
        }
        now.checked_add(self.pace.time.saturating_sub(self.waited))
    }

    /// The client did `bytes` after it was `waited` for.
    pub fn note(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes >= self.pace.enough() {
            *self = Self::new(self.pace);
        }
    }

    /// What is wrong with a client that is let go.
    pub fn too_slow(&self) -> String {
        let Pace { time, .. } = self.pace;
        let enough = self.pace.enough();
        format!("fewer than {enough} bytes in {} seconds", time.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(bytes_per_second: u64, seconds: u64) -> Progress {
        Progress::new(Pace {
            bytes_per_second,
            time: Duration::from_secs(seconds),
        })
    }

    /// Seconds that the client still has.
    fn left(progress: &Progress) -> u64 {
        let now = Instant::now();
        (progress.deadline(now).unwrap() - now).as_secs()
    }

    #[test]
    fn enough_bytes_give_new_time_and_a_trickle_does_not() {
        let mut progress = progress(100, 10);
        assert_eq!(left(&progress), 10);
        progress.note(Duration::from_secs(4), 999);
        assert_eq!(left(&progress), 6);
        progress.note(Duration::from_secs(5), 1);
        assert_eq!(left(&progress), 10);
        for _ in 0..10 {
            progress.note(Duration::from_secs(1), 1);
        }
        assert_eq!(left(&progress), 0);
        progress.note(Duration::from_secs(1), 989);
        assert_eq!(left(&progress), 0);
    }

    #[test]
    fn what_is_not_waited_for_takes_no_time() {
        let mut progress = progress(100, 10);
        for _ in 0..1000 {
            progress.note(Duration::ZERO, 1);
        }
        assert_eq!(left(&progress), 10);
    }

    #[test]
    fn without_a_rate_any_byte_will_do_and_without_a_time_none_need_come() {
        let mut any = progress(0, 10);
        any.note(Duration::from_secs(9), 1);
        assert_eq!(left(&any), 10);
        let now = Instant::now();
        assert_eq!(progress(100, 0).deadline(now), None);
        assert_eq!(progress(u64::MAX, u64::MAX).deadline(now), None);
    }
}
