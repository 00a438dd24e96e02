//! The collection as a whole, and its report.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pool_core::digest::PageId;
use pool_core::extent::SegmentId;
use pool_core::name::LibraryRef;
use pool_store::collection::{Collection, MAX_BATCH, SkipReason, Skipped, Watch};
use pool_store::format::Location;
use pool_store::{Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::{GcError, Result, compact, during, mark, sweep};

/// Batches of pages that go between two looks at whether the journal has room for more: a quarter of what it keeps for
/// that.
const BETWEEN_LOOKS: usize = 16;

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
    /// It was stopped before its end: the next one does the rest.
    #[serde(default)]
    pub stopped: bool,
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
    /// Segments that go once nobody leases them: retired ones, and mostly dead ones that a later
    /// collection empties.
    pub segments_waiting: Vec<SegmentId>,
    /// Segments that should have gone and stay, and why. Nothing in them is lost or changed.
    pub segments_skipped: Vec<Skipped>,
    /// Bytes of disk given back.
    pub freed_bytes: u64,
    /// Bytes of disk that `segments_waiting` give back then.
    pub waiting_bytes: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The longest that it kept commits waiting, in microseconds.
    pub longest_hold_us: u64,
}

impl CollectReport {
    /// Puts lists of segments in order of number, each named once.
    fn sort(&mut self) {
        for list in [
            &mut self.segments_retired,
            &mut self.segments_evacuated,
            &mut self.segments_reaped,
            &mut self.segments_waiting,
        ] {
            list.sort_unstable();
            list.dedup();
        }
        self.segments_skipped.sort_unstable();
        self.segments_skipped.dedup();
    }
}

/// Collects what nothing refers to.
pub fn collect(store: &Store, options: &CollectOptions) -> Result<CollectReport> {
    collect_watched(store, options, &|| ControlFlow::Continue(()))
}

/// As [`collect`]. `watch` is asked before each change, may take its time, and may stop it; the report tells what was done by
/// then.
pub fn collect_watched(
    store: &Store,
    options: &CollectOptions,
    watch: Watch<'_>,
) -> Result<CollectReport> {
    if !(0.0..=1.0).contains(&options.compact_below) {
        return Err(GcError::BadRatio(options.compact_below));
    }
    let since = Instant::now();
    during("looking for garbage", store.check_trusted())?;
    let mut report = if options.dry_run {
        rehearse(store, options)?
    } else {
        let mut report = CollectReport::default();
        match perform(store, options, watch, &mut report) {
            Err(GcError::Store {
                source: StoreError::CollectionStopped,
                ..
            }) => report.stopped = true,
            other => other?,
        }
        report.sort();
        // What was damaged may have gone with it.
        if let Err(error) = store.mend() {
            tracing::warn!(%error, "forgetting what was damaged");
        }
        report
    };
    if !options.dry_run
        && let Err(error) = store.checkpoint_if_due()
    {
        tracing::warn!(%error, "writing a checkpoint; the next collection or opening tries again");
    }
    report.duration_us = since.elapsed().as_micros() as u64;
    for skipped in &report.segments_skipped {
        let Skipped {
            segment,
            reason,
            why,
        } = skipped;
        tracing::warn!(%segment, reason = reason.name(), why, "a segment stays");
    }
    tracing::info!(
        epoch = report.epoch,
        libraries = report.libraries.len(),
        objects = report.objects,
        pages = report.pages,
        freed_bytes = report.freed_bytes,
        waiting_bytes = report.waiting_bytes,
        skipped = report.segments_skipped.len(),
        dry_run = report.dry_run,
        stopped = report.stopped,
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
    let retired = compact::retired(store)?;
    let mut report = CollectReport {
        dry_run: true,
        epoch: during("reading the epoch", store.epoch())?,
        libraries: expired,
        objects: garbage.objects.len() as u64,
        pages: garbage.pages.len() as u64,
        windows: garbage.windows.len() as u64,
        segments_retired: plan.dead,
        segments_evacuated: plan.sparse,
        segments_waiting: plan.leased,
        segments_skipped: plan.unreadable,
        waiting_bytes: plan.leased_bytes,
        ..CollectReport::default()
    };
    let gone = report.segments_retired.iter();
    for id in gone.chain(&report.segments_evacuated).chain(&retired) {
        let bytes = compact::disk_bytes(store, *id)?;
        if compact::is_leased(store, *id)? {
            report.waiting_bytes += bytes;
            report.segments_waiting.push(*id);
        } else {
            report.freed_bytes += bytes;
            report.segments_reaped.push(*id);
        }
    }
    report.sort();
    Ok(report)
}

fn perform(
    store: &Store,
    options: &CollectOptions,
    watch: Watch<'_>,
    report: &mut CollectReport,
) -> Result<()> {
    // First of all, and before anything is written: nothing refers to what was retired, whatever
    // cannot be read of the rest, and a full disk needs its room.
    reap(store, report)?;
    let begun = store.begin_watched_collection(watch);
    let collection = during("beginning a collection", begun)?;
    report.epoch = collection.epoch();
    let unused_before = unused_before(options.grace);
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
    let plan = compact::plan(store, &mark, options.compact_below)?;
    report.pages = delete_pages(&collection, garbage.pages, &plan.dead, report)?;
    let retired = during("retiring segments", collection.retire_segments(&plan.dead))?;
    report.segments_retired.extend(retired);
    // Before anything is copied: the copies may need the room.
    reap(store, report)?;
    let emptied = compact::empty(&collection, &plan.sparse, || reap(store, report))?;
    report.segments_evacuated = emptied.segments;
    report.segments_skipped.extend(plan.unreadable);
    report.segments_skipped.extend(emptied.skipped);
    reap(store, report)?;
    report.waiting_bytes = plan.leased_bytes;
    report.segments_waiting = plan.leased;
    for id in compact::retired(store)? {
        // What could not be unlinked waits for nobody.
        if compact::is_leased(store, id)? {
            report.waiting_bytes += compact::disk_bytes(store, id)?;
            report.segments_waiting.push(id);
        }
    }
    report.longest_hold_us = collection.longest_hold().as_micros() as u64;
    Ok(())
}

/// Removes pages, those of `dead` segments first and one segment after the other: each removal takes up disk, in the journal,
/// and on a full one that has to come from segments whose pages are all removed.
fn delete_pages(
    collection: &Collection<'_>,
    mut pages: Vec<(PageId, Location)>,
    dead: &[SegmentId],
    report: &mut CollectReport,
) -> Result<u64> {
    let dead_ones: HashSet<_> = dead.iter().collect();
    pages.sort_unstable_by_key(|(_, at)| (!dead_ones.contains(&at.segment), *at));
    let mut deleted = 0;
    for (nth, some) in pages.chunks(MAX_BATCH).enumerate() {
        if nth % BETWEEN_LOOKS == BETWEEN_LOOKS - 1 && !collection.has_room() {
            make_room(collection, dead, report)?;
        }
        let removed = match collection.delete_pages(some) {
            Err(StoreError::NoSpace { .. }) if make_room(collection, dead, report)? => {
                collection.delete_pages(some)
            }
            other => other,
        };
        deleted += during("removing pages", removed)?;
    }
    Ok(deleted)
}

/// Gives the disk of those of `dead` segments back to which nothing refers any more. False when that is none.
fn make_room(
    collection: &Collection<'_>,
    dead: &[SegmentId],
    report: &mut CollectReport,
) -> Result<bool> {
    match collection.retire_segments(dead) {
        Ok(retired) => report.segments_retired.extend(retired),
        // Those that were retired before that can go.
        Err(StoreError::NoSpace { .. }) => {}
        other => drop(during("retiring segments", other)?),
    }
    let before = report.freed_bytes;
    reap(collection.store(), report)?;
    Ok(report.freed_bytes > before)
}

/// Gives the disk of retired segments back and adds them to the report.
fn reap(store: &Store, report: &mut CollectReport) -> Result<()> {
    let reaped = during("unlinking segments", store.reap())?;
    report.segments_reaped.extend(reaped.segments);
    report.freed_bytes += reaped.bytes;
    // Asked for more than once, named once.
    report
        .segments_skipped
        .retain(|skipped| skipped.reason != SkipReason::NotRemoved);
    report.segments_skipped.extend(reaped.skipped);
    Ok(())
}
