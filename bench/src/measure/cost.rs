//! What work costs: time, and time of processors, which is less at the mercy of whatever else the machine does.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::median;

/// What something took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) time: Duration,
    /// Of all threads of this process, so that it is more than `time` where several were at work.
    pub(crate) processor: Duration,
}

/// Seconds in the median.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Seconds {
    pub(crate) time: f64,
    pub(crate) processor: f64,
}

impl Seconds {
    /// Medians of each, times `scale`.
    pub(crate) fn median(costs: &[Cost], scale: f64) -> Self {
        let of = |part: fn(&Cost) -> Duration| {
            let seconds: Vec<_> = costs.iter().map(|cost| part(cost).as_secs_f64()).collect();
            median(&seconds) * scale
        };
        Self {
            time: of(|cost| cost.time),
            processor: of(|cost| cost.processor),
        }
    }
}

/// Does `work` and says what it took.
pub(crate) fn cost<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (before, since) = (processor_time(), Instant::now());
    let done = work();
    let time = since.elapsed();
    let processor = processor_time().saturating_sub(before);
    (done, Cost { time, processor })
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
