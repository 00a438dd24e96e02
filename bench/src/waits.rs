//! What others wait for while a collection runs, and while a large file is pushed: small uploads over HTTP, and opens
//! through the mount, in a store of which half is garbage and whose segments are mapped throughout.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memmap2::{Mmap, MmapOptions};
use pool_core::page::PAGE_SIZE;
use pool_gc::CollectReport;
use pool_tests::host::Host;
use serde::Serialize;
use serde_json::json;

use crate::measure::pushing::{at_once, client, fresh, joined, push_library};
use crate::{from_environment, write_result};

/// Pages that the store is filled with, unless `POOL_WAITS_PAGES` says otherwise: 4 GB.
const PAGES: u64 = 1_000_000;
/// Bytes of the large file, unless `POOL_WAITS_UPLOAD` says otherwise.
const UPLOAD: u64 = 1 << 30;
/// Pages of a library: one dense window and half as much that lies wherever there is room.
const LIBRARY: u64 = 768;
/// Pages of a small upload.
const SMALL: u64 = 3;
/// Of a hundred libraries, those that become garbage: segments of which less than half is live are emptied.
const GARBAGE: u64 = 52;
/// One in so many of the libraries that stay is mapped all the time.
const MAPPED: u64 = 16;
/// How long is looked at waits that nothing causes, at least, before and after.
const QUIET: Duration = Duration::from_secs(10);
/// Between two questions of one kind.
const PAUSE: Duration = Duration::from_millis(2);
/// Threads that fill the store.
const WRITERS: u64 = 2;

/// Milliseconds that something waited for.
#[derive(Debug, Default, Serialize)]
struct Waits {
    times: usize,
    median: f64,
    /// The wait than which one in a hundred is longer.
    percentile_99: f64,
    longest: f64,
}

impl Waits {
    fn of(mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let at = |nth: usize| waits.get(nth).map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
        let last = waits.len().saturating_sub(1);
        Self {
            times: waits.len(),
            median: at(last / 2),
            percentile_99: at(last * 99 / 100),
            longest: at(last),
        }
    }
}

/// What was waited for while something else went on.
#[derive(Debug, Serialize)]
struct Phase {
    beside: &'static str,
    seconds: f64,
    uploads: Waits,
    opens: Waits,
}

/// Measures, and writes `waits.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let pages = from_environment("POOL_WAITS_PAGES", PAGES)?;
    let upload = from_environment("POOL_WAITS_UPLOAD", UPLOAD)?;
    let host = Host::start(&out.join("waits-pool"), &[])?;
    let measured = measure(&host, pages, upload);
    drop(host);
    fs::remove_dir_all(out.join("waits-pool")).context("removing the pool")?;
    let (phases, idle, collected) = measured?;
    println!("waits: {pages} pages, milliseconds: median, 99th percentile, longest (times)");
    for phase in &phases {
        println!("  beside {} ({:.0} s)", phase.beside, phase.seconds);
        for (what, waits) in [
            ("a small upload", &phase.uploads),
            ("an open and a read", &phase.opens),
        ] {
            println!(
                "    {what:<22}{:>8.2}{:>8.2}{:>8.2}  ({})",
                waits.median, waits.percentile_99, waits.longest, waits.times
            );
        }
    }
    println!(
        "  the collection kept commits waiting for {:.2} ms at most; it removed {} pages, emptied {} segments, retired {} and \
         took {:.1} s; one with nothing to do took {:.3} s",
        collected.longest_hold_us as f64 / 1e3,
        collected.pages,
        collected.segments_evacuated.len(),
        collected.segments_retired.len(),
        collected.duration_us as f64 / 1e6,
        idle.duration_us as f64 / 1e6,
    );
    let result = json!({ "pages": pages, "phases": phases, "idle": idle, "collection": collected });
    write_result(out, "waits", &result)
}

type Measured = (Vec<Phase>, CollectReport, CollectReport);

fn measure(host: &Host, pages: u64, upload: u64) -> Result<Measured> {
    let libraries = pages.div_ceil(LIBRARY);
    fill(host, libraries)?;
    let client = client(host)?;
    // Whatever else there was to do after that is done.
    client.collect(false, None)?;
    let idle = client.collect(false, None)?;
    let stays = |nth: &u64| !is_garbage(*nth);
    let _mapped: Vec<Mmap> = (0..libraries)
        .filter(stays)
        .step_by(MAPPED as usize)
        .map(|nth| map(host, nth))
        .collect::<Result<_>>()?;
    for nth in (0..libraries).filter(|nth| is_garbage(*nth)) {
        client.delete_library(&library(nth).parse()?)?;
    }
    let mut probes = Probes {
        host,
        libraries,
        round: 0,
    };
    let quiet = |least| {
        move || {
            thread::sleep(least);
            Ok(())
        }
    };
    let (before, ()) = probes.beside("nothing", quiet(QUIET))?;
    let (during, collected) = probes.beside("a collection", || Ok(client.collect(false, None)?))?;
    ensure!(collected.pages > 0, "the collection removed no pages");
    let as_long = QUIET.max(Duration::from_micros(collected.duration_us));
    let (after, ()) = probes.beside("nothing", quiet(as_long))?;
    let content = content(&[2], upload / PAGE_SIZE);
    let push = || push_library(&client, &content, "large@1");
    let (large, ()) = probes.beside("a large upload", push)?;
    Ok((vec![before, during, after, large], idle, collected))
}

/// What a library is called in the pool.
fn library(nth: u64) -> String {
    format!("library-{nth}@1")
}

fn content(seed: &[u64], pages: u64) -> Vec<u8> {
    let mut content = vec![0; (pages * PAGE_SIZE) as usize];
    fresh(seed, &mut content);
    content
}

/// Pushes the libraries that the store is full of.
fn fill(host: &Host, libraries: u64) -> Result<()> {
    at_once(WRITERS, |first| {
        let client = client(host)?;
        for nth in (first..libraries).step_by(WRITERS as usize) {
            push_library(&client, &content(&[0, nth], LIBRARY), &library(nth))?;
        }
        Ok(())
    })
}

/// Whether a library is to become garbage: any of them, all over the segments.
fn is_garbage(nth: u64) -> bool {
    let digest = blake3::hash(&nth.to_le_bytes());
    u64::from(digest.as_bytes()[0]) * 100 / 256 < GARBAGE
}

fn open(host: &Host, nth: u64) -> Result<File> {
    let path = format!("libs/library-{nth}/1/content");
    let path = host.mount_point().join(path);
    File::open(&path).with_context(|| format!("opening {}", path.display()))
}

fn map(host: &Host, nth: u64) -> Result<Mmap> {
    // SAFETY: content that is mounted never changes, and nothing looks at this map.
    let map = unsafe { MmapOptions::new().map(&open(host, nth)?) };
    map.with_context(|| format!("mapping library {nth}"))
}

/// What is asked all the time.
struct Probes<'a> {
    host: &'a Host,
    libraries: u64,
    /// Names of small uploads differ by it.
    round: u64,
}

impl Probes<'_> {
    /// Looks at what has to be waited for while `work` goes on.
    fn beside<T: Send>(
        &mut self,
        what: &'static str,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(Phase, T)> {
        self.round += 1;
        let (is_over, since) = (AtomicBool::new(false), Instant::now());
        let probes = &*self;
        let (uploads, opens, done) = thread::scope(|scope| {
            let uploads = scope.spawn(|| probes.uploads(&is_over));
            let opens = scope.spawn(|| probes.opens(&is_over));
            let done = work();
            is_over.store(true, Ordering::Relaxed);
            (joined(uploads), joined(opens), done)
        });
        let phase = Phase {
            beside: what,
            seconds: since.elapsed().as_secs_f64(),
            uploads: Waits::of(uploads?),
            opens: Waits::of(opens?),
        };
        Ok((phase, done?))
    }

    fn uploads(&self, is_over: &AtomicBool) -> Result<Vec<Duration>> {
        let client = client(self.host)?;
        let once = |nth| {
            let content = content(&[1, self.round, nth], SMALL);
            let name = format!("small-{}-{nth}@1", self.round);
            timed(|| push_library(&client, &content, &name))
        };
        repeated(is_over, once)
    }

    fn opens(&self, is_over: &AtomicBool) -> Result<Vec<Duration>> {
        let staying = (0..self.libraries).filter(|nth| !is_garbage(*nth));
        let staying: Vec<u64> = staying.collect();
        ensure!(!staying.is_empty(), "there are no libraries to open");
        let mut page = [0; PAGE_SIZE as usize];
        repeated(is_over, |nth| {
            let nth = staying[(nth * 7919 % staying.len() as u64) as usize];
            timed(|| Ok(open(self.host, nth)?.read_exact(&mut page)?))
        })
    }
}

fn repeated(
    is_over: &AtomicBool,
    mut once: impl FnMut(u64) -> Result<Duration>,
) -> Result<Vec<Duration>> {
    let mut waits = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        waits.push(once(waits.len() as u64)?);
        thread::sleep(PAUSE);
    }
    Ok(waits)
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let since = Instant::now();
    work()?;
    Ok(since.elapsed())
}
