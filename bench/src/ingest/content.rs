//! Content of many pages: known ones against BLAKE3 over the same bytes, new ones against writing them to a file and
//! waiting for the disk.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pool_store::placement::Placement;
use serde::Serialize;

use super::{fresh, new_store, push};

/// Bytes of the content pushed.
const BYTES: usize = 64 << 20;
/// How often each case is measured; the median counts.
const ROUNDS: u32 = 9;

/// Speeds in MiB a second, and their ratios to what the bytes cost anyway.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Speeds {
    /// BLAKE3 of the whole content, one thread.
    blake3: f64,
    /// A known object under another name.
    known_object: f64,
    /// A new object, every page of which is known, to lie in dense windows.
    known_pages_dense: f64,
    /// The same, to lie anywhere.
    known_pages_sparse: f64,
    /// Slowest of the ratios known / `blake3`; to be at least 0.8.
    known_ratio: f64,
    /// `write` and `fdatasync` of a new file.
    written: f64,
    /// A new object of new pages, to lie in dense windows.
    new_pages_dense: f64,
    /// The same, to lie anywhere.
    new_pages_sparse: f64,
    /// Slower of the ratios new / `written`; to be at least 0.6.
    new_ratio: f64,
}

impl Speeds {
    pub(super) fn print(&self) {
        println!(
            "ingest: content of {} MiB, MiB/s (median of {ROUNDS})",
            BYTES >> 20
        );
        let Self {
            blake3, written, ..
        } = *self;
        for (name, speed, against) in [
            ("BLAKE3 alone, one thread", blake3, blake3),
            ("a known object", self.known_object, blake3),
            ("known pages, dense windows", self.known_pages_dense, blake3),
            ("known pages, sparse", self.known_pages_sparse, blake3),
            ("write and fdatasync alone", written, written),
            ("new pages, dense windows", self.new_pages_dense, written),
            ("new pages, sparse", self.new_pages_sparse, written),
        ] {
            println!("  {name:<28}{speed:>8.0}{:>8.2}", speed / against);
        }
    }
}

/// Measures in `directory`, where it leaves a store and a file.
pub(super) fn measure(directory: &Path) -> Result<Speeds> {
    let store = new_store(&directory.join("content"))?;
    let mut bytes = vec![0; BYTES];
    fresh(&[0], &mut bytes);
    push(&store, "dense", 0, &bytes, Placement::Windows { phase: 0 })?;

    let window = Placement::Windows { phase: 0 };
    let mut new = vec![0; BYTES];
    let mut times: [Vec<Duration>; 7] = Default::default();
    for round in 0..ROUNDS {
        let since = Instant::now();
        std::hint::black_box(blake3::hash(&bytes));
        times[0].push(since.elapsed());

        times[1].push(push(&store, "again", round, &bytes, Placement::Sparse)?);
        // Without its first windows it is an object that the pool does not have, of known pages.
        let dense = &bytes[(round as usize + 1) << 21..];
        times[2].push(scaled(push(&store, "cut", round, dense, window)?, dense));
        let sparse = &bytes[(round as usize + 1) << 12..];
        let time = push(&store, "shifted", round, sparse, Placement::Sparse)?;
        times[3].push(scaled(time, sparse));

        fresh(&[1, round.into()], &mut new);
        times[4].push(write(&directory.join("file"), &new)?);
        fresh(&[2, round.into()], &mut new);
        times[5].push(push(&store, "new-dense", round, &new, window)?);
        fresh(&[3, round.into()], &mut new);
        times[6].push(push(&store, "new-sparse", round, &new, Placement::Sparse)?);
    }
    let [
        blake3,
        known_object,
        known_pages_dense,
        known_pages_sparse,
        written,
        new_pages_dense,
        new_pages_sparse,
    ] = times.map(speed);
    let slowest = known_object.min(known_pages_dense).min(known_pages_sparse);
    Ok(Speeds {
        blake3,
        known_object,
        known_pages_dense,
        known_pages_sparse,
        known_ratio: slowest / blake3,
        written,
        new_pages_dense,
        new_pages_sparse,
        new_ratio: new_pages_dense.min(new_pages_sparse) / written,
    })
}

/// Writes `bytes` to a new file, and says how long it took until they were on the disk.
fn write(path: &Path, bytes: &[u8]) -> Result<Duration> {
    let doing = || format!("writing {}", path.display());
    let since = Instant::now();
    let mut file = File::create(path).with_context(doing)?;
    file.write_all(bytes).with_context(doing)?;
    file.sync_data().with_context(doing)?;
    Ok(since.elapsed())
}

/// The time as if [`BYTES`] had been pushed.
fn scaled(time: Duration, bytes: &[u8]) -> Duration {
    time.mul_f64(BYTES as f64 / bytes.len() as f64)
}

/// MiB a second in the median round.
fn speed(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    (BYTES >> 20) as f64 / times[times.len() / 2].as_secs_f64()
}
