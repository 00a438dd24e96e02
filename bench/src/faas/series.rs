//! Memory of a fleet over time, while it grows and after.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::Mode;
use crate::fleet::Fleet;
use crate::measure::ksm::{self, Scanner};
use crate::measure::median;

/// From one start to the next.
const PACE: Duration = Duration::from_millis(250);
/// From one look at the memory to the next.
const LOOK: Duration = Duration::from_millis(250);
/// Memory holds still when it changed by less than [`STILL`] of itself for so long.
const QUIET: Duration = Duration::from_secs(20);
const STILL: f64 = 0.005;
/// No longer than that after the last start.
const PATIENCE: Duration = Duration::from_secs(240);

const MIB: f64 = (1 << 20) as f64;

/// Memory at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the first start.
    seconds: f64,
    instances: usize,
    mib: f64,
}

/// What was seen in one mode.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) mode: Mode,
    samples: Vec<Sample>,
    /// From starting `poolvmm` to the whole of its first answer.
    pub(super) first_response_ms: Vec<f64>,
    /// Processor time of the kernel's scanner.
    pub(super) scanner_seconds: Option<f64>,
}

impl Series {
    /// Starts `count` guests by `start`, which answers with the milliseconds to the first answer where there
    /// is one, and looks at their memory until that holds still. `shared` bytes, which the kernel charges to
    /// nobody in particular, are added to each sample.
    pub(super) fn measure(
        mode: Mode,
        count: usize,
        shared: u64,
        mut start: impl FnMut(&mut Fleet, usize) -> Result<Option<f64>>,
    ) -> Result<Self> {
        println!("  {} ...", mode.name);
        let mut fleet = Fleet::new()?;
        let scanner = mode.scanner.map(Scanner::start).transpose()?;
        let mut series = Self {
            mode,
            samples: Vec::new(),
            first_response_ms: Vec::new(),
            scanner_seconds: None,
        };
        let began = Instant::now();
        for instance in 0..count {
            let due = began + PACE * instance as u32;
            while Instant::now() < due {
                thread::sleep(due.saturating_duration_since(Instant::now()).min(LOOK));
                series.look(&fleet, began, instance, shared)?;
            }
            ksm::set_mergeable(mode.scanner.is_some())?;
            let took = start(&mut fleet, instance);
            ksm::set_mergeable(false)?;
            series.first_response_ms.extend(took?);
        }
        let all = Instant::now();
        while all.elapsed() < PATIENCE && !(all.elapsed() > QUIET && series.holds_still()) {
            thread::sleep(LOOK);
            series.look(&fleet, began, count, shared)?;
        }
        fleet.check()?;
        if let Some(scanner) = &scanner {
            series.scanner_seconds = Some(scanner.processor_time()?.as_secs_f64());
        }
        // The guests go first: parting their pages would take the scanner minutes.
        drop(fleet);
        drop(scanner);
        Ok(series)
    }

    fn look(&mut self, fleet: &Fleet, began: Instant, instances: usize, shared: u64) -> Result<()> {
        self.samples.push(Sample {
            seconds: began.elapsed().as_secs_f64(),
            instances,
            mib: (fleet.held()? + shared) as f64 / MIB,
        });
        Ok(())
    }

    fn holds_still(&self) -> bool {
        let since = self.seconds() - QUIET.as_secs_f64();
        let last = self.samples.iter().rev().take_while(|s| s.seconds > since);
        let (low, high) = last.fold((f64::MAX, 0.0_f64), |(low, high), s| {
            (low.min(s.mib), high.max(s.mib))
        });
        high - low < STILL * high
    }

    /// How many guests there were in the end.
    pub(super) fn instances(&self) -> usize {
        self.samples.last().map_or(0, |s| s.instances)
    }

    /// When it was looked at for the last time.
    pub(super) fn seconds(&self) -> f64 {
        self.samples.last().map_or(0.0, |s| s.seconds)
    }

    /// MiB at the end.
    pub(super) fn end(&self) -> f64 {
        self.samples.last().map_or(0.0, |s| s.mib)
    }

    /// MiB when that many guests ran, just before the next was started.
    pub(super) fn at_instances(&self, instances: usize) -> Option<f64> {
        let mut samples = self.samples.iter();
        if instances == self.instances() {
            samples.find(|s| s.instances == instances)
        } else {
            samples.rfind(|s| s.instances == instances)
        }
        .map(|s| s.mib)
    }

    fn at(&self, seconds: f64) -> Option<f64> {
        let later = self.samples.partition_point(|s| s.seconds < seconds);
        self.samples.get(later).map(|s| s.mib)
    }

    /// The largest ratio to another series at the same time, as long as that was looked at.
    pub(super) fn most_against_by_time(&self, other: &Self) -> f64 {
        let ratios = self
            .samples
            .iter()
            .filter_map(|s| other.at(s.seconds).map(|mib| s.mib / mib));
        ratios.fold(0.0, f64::max)
    }

    /// The largest ratio to another series with as many guests, while they were started.
    pub(super) fn most_against_by_instances(&self, other: &Self) -> f64 {
        let ratios = (1..=self.instances())
            .filter_map(|count| Some(self.at_instances(count)? / other.at_instances(count)?));
        ratios.fold(0.0, f64::max)
    }

    /// For a picture.
    pub(super) fn points(&self) -> Vec<(f64, f64)> {
        self.samples.iter().map(|s| (s.seconds, s.mib)).collect()
    }

    pub(super) fn to_json(&self) -> Value {
        let samples: Vec<_> = self
            .samples
            .iter()
            .map(|s| json!([s.seconds, s.instances, s.mib]))
            .collect();
        json!({
            "mode": self.mode.name,
            "first_response_ms": median(&self.first_response_ms),
            "first_responses_ms": self.first_response_ms,
            "ksmd_cpu_seconds": self.scanner_seconds,
            "end_mib": self.end(),
            "samples_seconds_instances_mib": samples,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faas::MODES;

    fn series(samples: &[(f64, usize, f64)]) -> Series {
        let samples = samples
            .iter()
            .map(|&(seconds, instances, mib)| Sample {
                seconds,
                instances,
                mib,
            })
            .collect();
        Series {
            mode: MODES[0],
            samples,
            first_response_ms: Vec::new(),
            scanner_seconds: None,
        }
    }

    #[test]
    fn series_are_compared_by_time_and_by_instances() {
        let ours = series(&[(0.0, 1, 2.0), (1.0, 1, 3.0), (2.0, 2, 4.0), (9.0, 2, 4.0)]);
        let other = series(&[(0.0, 1, 4.0), (1.1, 1, 4.0), (2.2, 2, 10.0), (3.0, 2, 5.0)]);
        assert_eq!(ours.instances(), 2);
        assert_eq!(ours.at_instances(1), Some(3.0));
        assert_eq!(ours.at_instances(2), Some(4.0));
        assert!((ours.most_against_by_time(&other) - 0.75).abs() < 1e-9);
        assert!((ours.most_against_by_instances(&other) - 0.75).abs() < 1e-9);
        assert!((ours.end() - 4.0).abs() < 1e-9);
    }

    #[test]
    fn what_changes_does_not_hold_still() {
        let mut samples = vec![(0.0, 1, 50.0)];
        samples.extend((100..200).map(|s| (f64::from(s), 1, 100.0)));
        assert!(series(&samples).holds_still());
        samples.push((200.0, 1, 99.0));
        assert!(!series(&samples).holds_still());
    }
}
