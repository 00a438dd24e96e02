//! The index at a size that a large host reaches: pages that nobody wrote, with their records as any other's.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pool_core::digest::{ObjectId, PageId};
use pool_core::name::{LibraryRef, Name};
use pool_core::page::PAGE_SIZE;
use pool_store::placement::Placement;
use pool_store::upload::{Target, UploadManifest, UploadObject};
use pool_store::{Store, StoreOptions, synthetic};
use serde::Serialize;

use crate::measure::cost::{Seconds, cost};
use crate::measure::memory;
use crate::{from_environment, write_result};

/// Pages on record, unless `POOL_INDEX_PAGES` says otherwise: 40 GB of pages.
const PAGES: u64 = 10_000_000;
/// Pages of an object, and of a question.
const OBJECT: u64 = 4096;
/// Questions whose median counts.
const QUESTIONS: u64 = 25;
/// Commits after which a service would have looked whether a checkpoint is due.
const BETWEEN_CHECKPOINTS: u64 = 64;
/// What the one who fills the store says when it can be killed.
const FILLED: &str = "filled";

#[derive(Debug, Serialize)]
struct IndexReport {
    pages: u64,
    /// Pages put on record a second.
    pages_a_second: f64,
    /// Seconds that the store takes to open after its writer was killed.
    open_after_a_crash: f64,
    /// The same once more, after it was closed.
    open_after_a_close: f64,
    /// Bytes of disk a page takes in the tables of pages, as the writer left them and merged.
    bytes_a_page: f64,
    bytes_a_page_merged: f64,
    /// Bytes of memory of the process, beyond what it had before, after opening and all look-ups.
    resident: u64,
    /// Microseconds that a page costs when 4096 are asked for: known ones, unknown ones, and BLAKE3 of one.
    hit: Seconds,
    miss: Seconds,
    blake3: Seconds,
    /// The first two once more, after the tables were merged.
    hit_merged: Seconds,
    miss_merged: Seconds,
}

/// Measures, and writes `index.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let pages = from_environment("POOL_INDEX_PAGES", PAGES)?;
    let directory = tempfile::tempdir_in(out).context("making a directory for a store")?;
    let report = measure(&directory.path().join("store"), pages)?;
    println!(
        "index: {pages} pages ({} GB of content)",
        pages * PAGE_SIZE / 1_000_000_000
    );
    for (name, value, unit) in [
        ("put on record", report.pages_a_second, "pages/s"),
        ("opened after a crash", report.open_after_a_crash, "s"),
        ("opened after a close", report.open_after_a_close, "s"),
        ("on disk", report.bytes_a_page, "bytes a page"),
        (
            "on disk, merged",
            report.bytes_a_page_merged,
            "bytes a page",
        ),
        (
            "resident",
            report.resident as f64 / f64::from(1 << 20),
            "MiB",
        ),
    ] {
        println!("  {name:<34}{value:>12.2} {unit}");
    }
    println!("index: us a page, of 4096 asked for, and of processor time (median of {QUESTIONS})");
    for (name, page) in [
        ("known page", report.hit),
        ("unknown page", report.miss),
        ("known page, tables merged", report.hit_merged),
        ("unknown page, tables merged", report.miss_merged),
        ("BLAKE3 of a page", report.blake3),
    ] {
        println!("  {name:<34}{:>12.2}{:>8.2}", page.time, page.processor);
    }
    write_result(out, "index", &serde_json::to_value(report)?)
}

/// Fills a new store, says so, and waits to be killed.
pub(crate) fn fill(directory: &Path, pages: u64) -> Result<()> {
    let store = open(directory, true)?;
    for (nth, first) in (0..pages).step_by(OBJECT as usize).enumerate() {
        synthetic::add(&store, first..pages.min(first + OBJECT))?;
        if (nth as u64).is_multiple_of(BETWEEN_CHECKPOINTS) {
            store.checkpoint_if_due()?;
        }
    }
    println!("{FILLED}");
    loop {
        std::thread::park();
    }
}

fn open(directory: &Path, create: bool) -> Result<Store> {
    let options = StoreOptions {
        create,
        ..StoreOptions::default()
    };
    Ok(Store::open(directory, options)?)
}

fn measure(directory: &Path, pages: u64) -> Result<IndexReport> {
    let since = Instant::now();
    let own = std::env::current_exe().context("finding this program")?;
    let mut writer = Command::new(own)
        .arg("index-fill")
        .arg(directory)
        .arg(pages.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the one who fills the store")?;
    let mut said = String::new();
    let output = writer.stdout.take().context("it has no standard output")?;
    BufReader::new(output).read_line(&mut said)?;
    let filled = since.elapsed();
    writer.kill()?;
    writer.wait()?;
    ensure!(said.trim_end() == FILLED, "the store could not be filled");

    let resident = || anyhow::Ok(memory::of_process(std::process::id())?.pss);
    let before = resident()?;
    let (store, open_after_a_crash) = timed(|| open(directory, false))?;
    let bytes = synthetic::table_bytes(&store)?;
    let (known, unknown) = (asked(0, pages), asked(pages, pages));
    let (hit, miss) = (
        look_up(&store, &known, 0)?,
        look_up(&store, &unknown, OBJECT)?,
    );
    let resident = resident()?.saturating_sub(before);
    let merged = synthetic::compact(&store)?;
    let (hit_merged, miss_merged) = (
        look_up(&store, &known, 0)?,
        look_up(&store, &unknown, OBJECT)?,
    );
    drop(store);
    let (_store, open_after_a_close) = timed(|| open(directory, false))?;
    Ok(IndexReport {
        pages,
        pages_a_second: pages as f64 / filled.as_secs_f64(),
        open_after_a_crash: open_after_a_crash.as_secs_f64(),
        open_after_a_close: open_after_a_close.as_secs_f64(),
        bytes_a_page: bytes as f64 / pages as f64,
        bytes_a_page_merged: merged as f64 / pages as f64,
        resident,
        hit,
        miss,
        blake3: blake3_of_a_page(),
        hit_merged,
        miss_merged,
    })
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let since = Instant::now();
    let done = work()?;
    Ok((done, since.elapsed()))
}

/// Questions for pages from all over `first..first + pages`: none is asked for twice, if there are enough.
fn asked(first: u64, pages: u64) -> Vec<Vec<PageId>> {
    let question = |nth: u64| {
        let numbers = (0..OBJECT).map(|at| (nth + at * QUESTIONS) * 7919 % pages.max(1));
        numbers
            .map(|number| synthetic::page(first + number))
            .collect()
    };
    (0..QUESTIONS).map(question).collect()
}

/// Seconds to microseconds of a page of a question.
const PAGE: f64 = 1e6 / OBJECT as f64;

/// Microseconds a page in the median question, each of which is to find so many pages missing.
fn look_up(store: &Store, questions: &[Vec<PageId>], missing: u64) -> Result<Seconds> {
    let mut costs = Vec::new();
    for (nth, pages) in questions.iter().enumerate() {
        // Of an object that nobody has, so that its pages are looked at.
        let object = UploadObject {
            id: ObjectId::of(format!("question {missing} {nth}").as_bytes()),
            length: pages.len() as u64 * PAGE_SIZE,
            placement: Placement::Sparse,
            pages: pages.iter().copied().map(Some).collect(),
        };
        let library = LibraryRef {
            name: Name::new("question")?,
            version: Name::new("1")?,
        };
        let upload = store.begin_upload(UploadManifest {
            target: Target::Library {
                library,
                object: object.id,
            },
            objects: vec![object],
        })?;
        let (found, cost) = cost(|| store.missing_pages(&upload));
        let found = found?.len() as u64;
        ensure!(found == missing, "{found} pages are missing, not {missing}");
        costs.push(cost);
    }
    Ok(Seconds::median(&costs, PAGE))
}

fn blake3_of_a_page() -> Seconds {
    let pages = vec![0x5a_u8; (OBJECT * PAGE_SIZE) as usize];
    let hash = || {
        for page in pages.chunks(PAGE_SIZE as usize) {
            std::hint::black_box(PageId::of(page));
        }
    };
    let costs: Vec<_> = (0..QUESTIONS).map(|_| cost(hash).1).collect();
    Seconds::median(&costs, PAGE)
}
