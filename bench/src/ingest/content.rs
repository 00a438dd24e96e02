//! Content of many pages: known ones against BLAKE3 over the same bytes, new ones against writing them to a file and
//! waiting for the disk.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use pool_store::placement::Placement;
use serde::Serialize;

use super::{new_store, push};
use crate::measure::cost::{Cost, Seconds, cost};
use crate::measure::pushing::fresh;
use crate::measure::ratio;

/// Bytes of the content pushed.
const BYTES: usize = 64 << 20;
/// How often each case is measured; the median counts.
const ROUNDS: u32 = 9;

/// What is measured, and which of them is what its bytes cost anyway.
const CASES: [(&str, usize); 7] = [
    ("BLAKE3 alone, one thread", 0),
    ("a known object", 0),
    ("known pages, dense windows", 0),
    ("known pages, sparse", 0),
    ("write and fdatasync alone", 4),
    ("new pages, dense windows", 4),
    ("new pages, sparse", 4),
];

/// One case.
#[derive(Clone, Copy, Debug, Serialize)]
struct Speed {
    case: &'static str,
    /// MiB a second.
    mib: f64,
    /// Against what the bytes cost anyway: to be at least 0.8 for what is known, 0.6 for what is new.
    ratio: f64,
    /// The same of processor time, which is less at the mercy of whatever else the machine does: of all threads, where
    /// several work at a time.
    processor_ratio: f64,
}

/// Every case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Speeds {
    cases: Vec<Speed>,
    /// Slowest of the ratios of what is known, and of what is new.
    known_ratio: f64,
    new_ratio: f64,
}

impl Speeds {
    pub(super) fn print(&self) {
        println!(
            "ingest: content of {} MiB, MiB/s, against what it costs anyway, and that in processor time (median of {ROUNDS})",
            BYTES >> 20
        );
        for speed in &self.cases {
            println!(
                "  {:<28}{:>8.0}{:>8.2}{:>8.2}",
                speed.case, speed.mib, speed.ratio, speed.processor_ratio
            );
        }
    }
}

/// Measures in `directory`, where it leaves a store and files.
pub(super) fn measure(directory: &Path) -> Result<Speeds> {
    let store = new_store(&directory.join("content"))?;
    let mut bytes = vec![0; BYTES];
    fresh(&[0], &mut bytes);
    push(&store, "dense", 0, &bytes, Placement::Windows { phase: 0 })?;

    let window = Placement::Windows { phase: 0 };
    let mut new = vec![0; BYTES];
    let mut costs: [Vec<Cost>; CASES.len()] = Default::default();
    for round in 0..ROUNDS {
        let hash = || {
            std::hint::black_box(blake3::hash(&bytes));
            Ok(())
        };
        costs[0].push(scaled(BYTES, hash)?);

        let known = |name, bytes: &[u8], placement| {
            scaled(bytes.len(), || push(&store, name, round, bytes, placement))
        };
        costs[1].push(known("again", &bytes, Placement::Sparse)?);
        // Without its first windows it is an object that the pool does not have, of known pages.
        costs[2].push(known("cut", &bytes[(round as usize + 1) << 21..], window)?);
        let shifted = &bytes[(round as usize + 1) << 12..];
        costs[3].push(known("shifted", shifted, Placement::Sparse)?);

        fresh(&[1, round.into()], &mut new);
        // One more file each time, as segments are: the memory of one that goes would be had for nothing.
        let path = directory.join(format!("file-{round}"));
        costs[4].push(scaled(BYTES, || write(&path, &new))?);
        for (nth, placement) in [(5, window), (6, Placement::Sparse)] {
            fresh(&[nth as u64, round.into()], &mut new);
            let name = format!("new-{nth}");
            let pushed = scaled(BYTES, || push(&store, &name, round, &new, placement))?;
            costs[nth].push(pushed);
        }
    }
    let medians = costs.map(|costs| Seconds::median(&costs, 1.0));
    let cases = CASES.into_iter().zip(medians);
    let cases: Vec<_> = cases
        .map(|((case, anyway), seconds)| Speed {
            case,
            mib: (BYTES >> 20) as f64 / seconds.time,
            ratio: ratio(medians[anyway].time, seconds.time),
            processor_ratio: ratio(medians[anyway].processor, seconds.processor),
        })
        .collect();
    let slowest = |cases: &[Speed]| cases.iter().map(|case| case.ratio).fold(f64::MAX, f64::min);
    Ok(Speeds {
        known_ratio: slowest(&cases[1..4]),
        new_ratio: slowest(&cases[5..]),
        cases,
    })
}

/// What `work` on so many bytes takes, as if they were [`BYTES`].
fn scaled(bytes: usize, work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let (done, cost) = cost(work);
    done?;
    let scale = BYTES as f64 / bytes as f64;
    Ok(Cost {
        time: cost.time.mul_f64(scale),
        processor: cost.processor.mul_f64(scale),
    })
}

/// Writes `bytes` to a new file, and waits until they are on the disk.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let mut file = File::create(path).with_context(doing)?;
    file.write_all(bytes).with_context(doing)?;
    file.sync_data().with_context(doing)
}
