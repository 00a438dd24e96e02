//! How fast content that the pool knows is taken in, against BLAKE3 over the same bytes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pool_core::name::{LibraryRef, Name};
use pool_store::placement::Placement;
use pool_store::upload::{Content, Target};
use pool_store::{Store, StoreOptions};
use serde::Serialize;

use crate::write_result;

/// Bytes of the content pushed.
const BYTES: usize = 64 << 20;
/// How often each case is measured; the median counts.
const ROUNDS: u32 = 9;

/// Speeds in MiB a second, and their ratios to `blake3`.
#[derive(Clone, Copy, Debug, Serialize)]
struct IngestReport {
    /// BLAKE3 of the whole content, one thread.
    blake3: f64,
    /// A known object under another name.
    known_object: f64,
    /// A new object, every page of which is known, to lie in dense windows.
    known_pages_dense: f64,
    /// The same, to lie anywhere.
    known_pages_sparse: f64,
    /// Slowest of the ratios known / `blake3`; to be at least 0.5.
    ratio: f64,
}

/// Measures, and writes `ingest.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let directory = tempfile::tempdir_in(out).context("making a directory for a store")?;
    let report = measure(&directory.path().join("store"))?;
    println!("ingest: content that the pool knows, MiB/s, and against BLAKE3 (median of {ROUNDS})");
    for (name, speed) in [
        ("BLAKE3 alone, one thread", report.blake3),
        ("a known object", report.known_object),
        ("known pages, dense windows", report.known_pages_dense),
        ("known pages, sparse", report.known_pages_sparse),
    ] {
        println!("  {name:<28}{speed:>8.0}{:>8.2}", speed / report.blake3);
    }
    write_result(out, "ingest", &serde_json::to_value(report)?)
}

/// Measures in a new store in `directory`, which it leaves there.
fn measure(directory: &Path) -> Result<IngestReport> {
    let options = StoreOptions {
        create: true,
        ..StoreOptions::default()
    };
    let store = Store::open(directory, options)?;
    let mut bytes = vec![0; BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    push(&store, "dense", 0, &bytes, Placement::Windows { phase: 0 })?;

    let mut times: [Vec<Duration>; 4] = Default::default();
    for round in 0..ROUNDS {
        let since = Instant::now();
        std::hint::black_box(blake3::hash(&bytes));
        times[0].push(since.elapsed());

        times[1].push(push(&store, "again", round, &bytes, Placement::Sparse)?);
        // Without its first windows it is an object that the pool does not have, of known pages.
        let dense = &bytes[(round as usize + 1) << 21..];
        let window = Placement::Windows { phase: 0 };
        times[2].push(scaled(push(&store, "cut", round, dense, window)?, dense));
        let sparse = &bytes[(round as usize + 1) << 12..];
        let time = push(&store, "shifted", round, sparse, Placement::Sparse)?;
        times[3].push(scaled(time, sparse));
    }
    let [blake3, known_object, known_pages_dense, known_pages_sparse] = times.map(speed);
    let slowest = known_object.min(known_pages_dense).min(known_pages_sparse);
    Ok(IngestReport {
        blake3,
        known_object,
        known_pages_dense,
        known_pages_sparse,
        ratio: slowest / blake3,
    })
}

/// Pushes `bytes` as a library version and says how long it took, hashing included.
fn push(
    store: &Store,
    name: &str,
    version: u32,
    bytes: &[u8],
    placement: Placement,
) -> Result<Duration> {
    let library = LibraryRef {
        name: Name::new(name)?,
        version: Name::new(version.to_string())?,
    };
    let since = Instant::now();
    let content = Content::of(bytes, placement);
    let object = content.id();
    store.ingest(Target::Library { library, object }, &[content])?;
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
