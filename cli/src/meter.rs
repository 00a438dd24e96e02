//! How far a long work has come, at what rate, and how long it takes yet; and keeping it to a rate.

use std::io::{self, IsTerminal as _};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pool_store::Progress;

/// Tells a person at a terminal, on standard error, how far a work has come.
#[derive(Debug)]
pub(crate) struct Meter {
    begun: Instant,
    bar: ProgressBar,
    /// Bytes a second that are read at most.
    rate: Option<NonZeroU64>,
    read: u64,
}

impl Meter {
    /// `quiet` where nobody wants to be told.
    pub(crate) fn new(rate: Option<NonZeroU64>, quiet: bool) -> Self {
        let bar = if io::stderr().is_terminal() && !quiet {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let style = "{bar:32} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Self {
            begun: Instant::now(),
            bar,
            rate,
            read: 0,
        }
    }

    /// Takes note of a step, and waits until the next one may be made.
    pub(crate) fn step(&mut self, progress: Progress) {
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
        self.read += progress.read;
        if let Some(rate) = self.rate {
            thread::sleep(due(self.read, rate).saturating_sub(self.begun.elapsed()));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// When `read` bytes may have been read at the earliest, at `rate` bytes a second.
fn due(read: u64, rate: NonZeroU64) -> Duration {
    let nanoseconds = u128::from(read) * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_all() {
        let rate = NonZeroU64::new(1 << 20).unwrap();
        assert_eq!(due(3 << 19, rate), Duration::from_millis(1500));
        let slow = NonZeroU64::new(1).unwrap();
        assert_eq!(due(u64::MAX, slow), Duration::from_nanos(u64::MAX));
    }
}
