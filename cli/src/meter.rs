//! How far a long work has come, at what rate, and how long it takes yet; and keeping it to a rate.

use std::io::{self, IsTerminal as _};
use std::num::NonZeroU64;
use std::thread;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use pool_store::{Progress, time_of};

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
            thread::sleep(time_of(self.read, rate).saturating_sub(self.begun.elapsed()));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
