//! The collection as a whole, and its report.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pool_core::extent::SegmentId;
use pool_core::name::LibraryRef;
use pool_store::Store;
use serde::{Deserialize, Serialize};

use crate::{GcError, Result, compact, during, mark, sweep};

/// How to collect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CollectOptions {
    /// How long a library version stays after its last image went.
    pub grace: Duration,
    /// Report what would be done and do nothing.
    pub dry_run: bool,
    /// Sealed segments whose share of live slots is below this (0 to 1) are emptied.
    pub compact_below: f64,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(24 * 3600),
            dry_run: false,
            compact_below: 0.5,
        }
    }
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CollectReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// The collection's epoch; of a dry run, the last one's.
    pub epoch: u64,
    /// Library versions removed.
    pub libraries: Vec<LibraryRef>,
    /// Objects removed.
    pub objects: u64,
    /// Pages removed from the index.
    pub pages: u64,
    /// Dense windows removed from the index.
    pub windows: u64,
    /// Segments retired because nothing in them was live.
    pub segments_retired: Vec<SegmentId>,
    /// Segments emptied into others and retired.
    pub segments_evacuated: Vec<SegmentId>,
    /// Segments unlinked, in this collection or left over from others.
    pub segments_reaped: Vec<SegmentId>,
    /// Bytes of disk given back.
    pub freed_bytes: u64,
    /// Bytes of disk in retired segments that somebody still leases.
    pub waiting_bytes: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The longest that it kept commits waiting, in microseconds.
    pub longest_hold_us: u64,
}

/// Collects what nothing refers to.
pub fn collect(store: &Store, options: &CollectOptions) -> Result<CollectReport> {
    if !(0.0..=1.0).contains(&options.compact_below) {
        return Err(GcError::BadRatio(options.compact_below));
    }
    let since = Instant::now();
    let mut report = if options.dry_run {
        rehearse(store, options)?
    } else {
        perform(store, options)?
    };
    report.duration_us = since.elapsed().as_micros() as u64;
    tracing::info!(
        epoch = report.epoch,
        libraries = report.libraries.len(),
        objects = report.objects,
        pages = report.pages,
        freed_bytes = report.freed_bytes,
        waiting_bytes = report.waiting_bytes,
        dry_run = report.dry_run,
        "collected"
    );
    Ok(report)
}

/// Library versions unused since this time or earlier have outlived their grace.
fn unused_before(grace: Duration) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    now.saturating_sub(grace.as_secs())
}

fn rehearse(store: &Store, options: &CollectOptions) -> Result<CollectReport> {
    let snapshot = store.snapshot();
    let expired = sweep::expired_libraries(&snapshot, unused_before(options.grace))?;
    let mark = mark::mark(&snapshot, &expired)?;
    let garbage = sweep::garbage(&snapshot, &mark)?;
    drop(snapshot);
    let plan = compact::plan(store, &mark, options.compact_below)?;
    let (reapable, waiting_bytes) = compact::retired(store)?;
    let mut report = CollectReport {
        dry_run: true,
        epoch: during("reading the epoch", store.epoch())?,
        libraries: expired,
        objects: garbage.objects.len() as u64,
        pages: garbage.pages.len() as u64,
        windows: garbage.windows.len() as u64,
        segments_retired: plan.dead,
        segments_evacuated: plan.sparse,
        waiting_bytes,
        ..CollectReport::default()
    };
    let retired = report.segments_retired.iter();
    for id in retired.chain(&report.segments_evacuated).chain(&reapable) {
        let bytes = compact::disk_bytes(store, *id)?;
        if compact::is_leased(store, *id)? {
            report.waiting_bytes += bytes;
        } else {
            report.freed_bytes += bytes;
            report.segments_reaped.push(*id);
        }
    }
    report.segments_reaped.sort_unstable();
    Ok(report)
}

fn perform(store: &Store, options: &CollectOptions) -> Result<CollectReport> {
    let collection = during("beginning a collection", store.begin_collection())?;
    let unused_before = unused_before(options.grace);
    let mut report = CollectReport {
        epoch: collection.epoch(),
        ..CollectReport::default()
    };
    let snapshot = store.snapshot();
    let expired = sweep::expired_libraries(&snapshot, unused_before)?;
    // A look at everything before anything is removed: what cannot be read is found now.
    drop(mark::mark(&snapshot, &expired)?);
    drop(snapshot);
    report.libraries = during(
        "removing library versions",
        collection.delete_libraries(&expired, unused_before),
    )?;
    let snapshot = store.snapshot();
    let mark = mark::mark(&snapshot, &[])?;
    let garbage = sweep::garbage(&snapshot, &mark)?;
    drop(snapshot);
    report.objects = during(
        "removing objects",
        collection.delete_objects(&garbage.objects),
    )?;
    report.windows = during(
        "removing windows",
        collection.delete_windows(&garbage.windows),
    )?;
    report.pages = during("removing pages", collection.delete_pages(&garbage.pages))?;

    let plan = compact::plan(store, &mark, options.compact_below)?;
    report.segments_retired = during("retiring segments", collection.retire_segments(&plan.dead))?;
    for group in plan.sparse.chunks(compact::GROUP) {
        let evacuated = during("emptying segments", collection.evacuate(group))?;
        report.segments_evacuated.extend(evacuated.segments);
    }
    let reaped = during("unlinking segments", collection.reap())?;
    report.segments_reaped = reaped.segments;
    report.freed_bytes = reaped.bytes;
    (_, report.waiting_bytes) = compact::retired(store)?;
    report.longest_hold_us = collection.longest_hold().as_micros() as u64;
    Ok(report)
}
