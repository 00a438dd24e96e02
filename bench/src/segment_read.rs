//! Reading a segment through the mount, by mmap, against its backing file.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use memmap2::MmapOptions;
use pool_tests::guests;
use pool_tests::host::Host;
use serde_json::json;

use crate::measure::{median, ratio};
use crate::write_result;

const RUNS: usize = 101;

/// Measures, and writes `segment-read.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let host = Host::start(&out.join("segment-pool"), &[])?;
    guests::push(&host, &out.join("guests"), guests::TOUCH)?;
    let (mounted, backing) = largest_segment(&host)?;
    let (mut through, mut direct) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        // Alternating, so that both see the same machine.
        through.push(read_ns_per_page(&mounted)?);
        direct.push(read_ns_per_page(&backing)?);
    }
    let (through, direct) = (median(&through), median(&direct));
    let result = json!({
        "mount_ns_per_page": through,
        "file_ns_per_page": direct,
        "ratio": ratio(through, direct),
        "runs": RUNS,
    });
    println!("segment-read: map a segment and read every page of it (median of {RUNS})");
    println!(
        "  through /pool {through:.1} ns a page, backing file {direct:.1} ns: {:.2}",
        ratio(through, direct)
    );
    write_result(out, "segment-read", &result)
}

/// The segment that takes up most disk, as mounted and as stored.
fn largest_segment(host: &Host) -> Result<(std::path::PathBuf, std::path::PathBuf)> {
    use std::os::unix::fs::MetadataExt;
    let mut largest = None;
    for segment in host.segments()? {
        largest = largest.max(Some((segment.metadata()?.blocks(), segment)));
    }
    let (_, backing) = largest.context("the store has no segments")?;
    let id = backing.file_stem().context("a segment without a name")?;
    Ok((host.mount_point().join("segments").join(id), backing))
}

fn read_ns_per_page(path: &Path) -> Result<f64> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let begin = Instant::now();
    // SAFETY: segments are never truncated, and this one is only read; what a concurrent append
    // changes lies in slots whose bytes are summed up and forgotten.
    let map = unsafe { MmapOptions::new().map(&file) }
        .with_context(|| format!("mapping {}", path.display()))?;
    let sum: u64 = map.iter().step_by(4096).map(|byte| u64::from(*byte)).sum();
    std::hint::black_box(sum);
    Ok(begin.elapsed().as_nanos() as f64 / (map.len() as f64 / 4096.0))
}
