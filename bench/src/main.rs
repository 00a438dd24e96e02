//! Measurements of the pool, and the demo.
//!
//! Every figure is measured beside its baseline in the same run, since absolute times drift from
//! run to run on shared machines; the ratios hold. Nothing here is a test: a slow machine prints
//! slow figures.

mod apps;
mod archivers;
mod clock;
mod demo;
mod faas;
mod fleet;
mod index;
mod ingest;
mod layouts;
mod maps;
mod measure;
mod memory;
mod plot;
mod programs;
mod requests;
mod segment_read;
mod servers;
mod start;
mod touch;
mod waits;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Measures the pool against its baselines and writes what it found as JSON.
#[derive(Debug, Parser)]
#[command(name = "pool-bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Directory for results and pictures.
    #[arg(long, global = true, default_value = "target/bench")]
    out: PathBuf,
}

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum What {
    /// The whole job once: link, push, mount, run, measure, collect.
    Demo,
    /// Every measurement but the demo, `apps`, `archivers`, `faas`, `index`, `layouts`, `maps`, `requests` and
    /// `waits`.
    All,
    /// Start-up time and memory of an instance that touches an 8 MiB library, and of 64.
    Start,
    /// First touch of a library's pages in a guest: 2 MiB windows against 4 KiB pages.
    Touch,
    /// First touch, mapping and protecting memory in a guest: under KVM against native.
    Memory,
    /// Reading a segment through the mount against reading its backing file.
    SegmentRead,
    /// Programs that compute, in a guest against natively.
    Apps,
    /// 128 instances of a function and 20 different programs: memory at every moment, for copies, for copies
    /// that KSM merges, and for the pool. Not part of `all`: it takes some 20 minutes and sets the host's KSM.
    Faas,
    /// 20 programs added one by one, linked in each layout of `pool link --pool-layout`: distinct pages, and what is in memory with
    /// one of each running. Not part of `all`: it builds the programs, which takes minutes.
    Layouts,
    /// Exits that a request costs nginx and Redis, against their system calls natively (ab, redis-benchmark
    /// and strace are needed). Not part of `all`.
    Requests,
    /// Taking content in: known pages against BLAKE3 alone, new ones against write and fdatasync, and small commits by
    /// 1, 4 and 16 writers.
    Ingest,
    /// The same files taken in by `pool push`, borg, restic and casync. Not part of `all`.
    Archivers,
    /// An index of `POOL_INDEX_PAGES` pages, 10 million if that is not set: what they take up, how fast it opens and
    /// answers. Not part of `all`: 100 million take an hour and 15 GB of disk.
    Index,
    /// Opening and reading an image's map through the mount, warm and right after a commit, with one tag and with
    /// `POOL_MAPS_TAGS`, 10 000 if that is not set. Not part of `all`.
    Maps,
    /// What small uploads and opens through the mount wait for beside a collection of a store of `POOL_WAITS_PAGES` pages, half
    /// of them garbage, and beside a push of `POOL_WAITS_UPLOAD` bytes. Not part of `all`: by default it takes 8 GB of disk.
    Waits,
    /// Fills a store for `index`.
    #[command(hide = true)]
    IndexFill { directory: PathBuf, pages: u64 },
    /// Reading the clock in a guest against reading it natively.
    Clock,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(arguments.what, &arguments.out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pool-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(what: What, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let out = &out.canonicalize()?;
    match what {
        What::Demo => demo::demo(out),
        What::All => [
            What::Start,
            What::Touch,
            What::Memory,
            What::SegmentRead,
            What::Ingest,
            What::Clock,
        ]
        .into_iter()
        .try_for_each(|what| measure(what, out)),
        What::Start => start::run_all(out),
        What::Touch => touch::run_all(out),
        What::Memory => memory::run_all(out),
        What::SegmentRead => segment_read::run_all(out),
        What::Apps => apps::run_all(out),
        What::Archivers => archivers::run_all(out),
        What::Faas => faas::run_all(out),
        What::Layouts => layouts::run_all(out),
        What::Requests => requests::run_all(out),
        What::Ingest => ingest::run_all(out),
        What::Index => index::run_all(out),
        What::IndexFill { directory, pages } => index::fill(&directory, pages),
        What::Clock => clock::run_all(out),
        What::Maps => maps::run_all(out),
        What::Waits => waits::run_all(out),
    }
}

/// Writes a result next to the others.
fn write_result(out: &Path, name: &str, result: &Value) -> Result<()> {
    let path = out.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_vec_pretty(result)?)
        .with_context(|| format!("writing {}", path.display()))?;
    println!("    -> {}", path.display());
    Ok(())
}

/// The number that the environment variable `name` has, or `otherwise`.
fn from_environment(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number")),
        Err(_) => Ok(otherwise),
    }
}
