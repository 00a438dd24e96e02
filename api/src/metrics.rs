//! Counters for Prometheus.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pool_store::quota::QuotaUse;
use pool_store::scrub::State as ScrubState;
use pool_store::stats::StoreStats;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the duration histograms in seconds: from a look-up to a collection.
const BUCKETS: [f64; 10] = [0.000_5, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 20.0, 60.0, 300.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    /// The route's pattern, so that names do not become time series.
    route: String,
    status: u16,
}

/// Quotas are configured, so they are few.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuotaLabels {
    prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// All counters of a service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    received_bytes: Counter,
    commits: Counter,
    pushed_pages: Counter,
    new_pages: Counter,
    written_pages: Counter,
    collections: Counter,
    collected_bytes: Counter,
    skipped_segments: Counter,
    collection_seconds: Histogram,
    collection_hold_seconds: Histogram,
    uploads: Gauge<u64, AtomicU64>,
    upload_memory_bytes: StoreGauge,
    scrubs: Scrubs,
    store: StoreGauges,
    quota_bytes: Family<QuotaLabels, StoreGauge>,
    quota_used_bytes: Family<QuotaLabels, StoreGauge>,
}

type StoreGauge = Gauge<u64, AtomicU64>;

/// What scrubs did.
#[derive(Debug, Default)]
struct Scrubs {
    read_bytes: Counter,
    passes: Counter,
    completed_at: StoreGauge,
    damaged_objects: StoreGauge,
    damaged_files: StoreGauge,
}

impl Scrubs {
    fn register(registry: &mut Registry) -> Self {
        let scrubs = Self::default();
        let Self {
            read_bytes,
            passes,
            completed_at,
            damaged_objects,
            damaged_files,
        } = &scrubs;
        for (name, help, counter) in [
            (
                "scrub_read_bytes",
                "Bytes of segments that scrubs have read",
                read_bytes,
            ),
            ("scrubs", "Scrubs that came to the store's end", passes),
        ] {
            registry.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            (
                "scrub_completed_timestamp_seconds",
                "When the last scrub came to the store's end, since 1970; 0 is never",
                completed_at,
            ),
            (
                "scrub_damaged_objects",
                "Objects that it found damaged, or that the one under way has found so far",
                damaged_objects,
            ),
            (
                "scrub_damaged_files",
                "Files of superblock, mark, index and journal that it found damaged and that were not written anew",
                damaged_files,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        scrubs
    }
}

#[derive(Debug, Default)]
struct StoreGauges {
    tags: StoreGauge,
    libraries: StoreGauge,
    unused_libraries: StoreGauge,
    objects: StoreGauge,
    object_bytes: StoreGauge,
    referenced_pages: StoreGauge,
    stored_pages: StoreGauge,
    dense_windows: StoreGauge,
    segments: StoreGauge,
    retired_segments: StoreGauge,
    disk_bytes: StoreGauge,
    not_counted: StoreGauge,
    damaged_pages: StoreGauge,
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("pool");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered", requests.clone());
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's headers to its answer's headers",
            Unit::Seconds,
            durations.clone(),
        );
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let r = &mut registry;
        let received_bytes = counter(r, "received_bytes", "Bytes of pages and files received");
        let commits = counter(r, "commits", "Uploads committed");
        let pushed_pages = counter(r, "pushed_pages", "Pages of all objects of all commits");
        let new_pages = counter(r, "new_pages", "Pages that the pool did not have");
        let written_pages = counter(r, "written_pages", "Pages written to segments by commits");
        let collections = counter(r, "collections", "Collections run");
        let collected_bytes = counter(r, "collected_bytes", "Bytes of disk freed by collections");
        let skipped_segments = counter(
            r,
            "skipped_segments",
            "Segments that collections left because of damage or for want of room",
        );
        let collection_seconds = histogram();
        r.register_with_unit(
            "collection_duration",
            "Time that collections took",
            Unit::Seconds,
            collection_seconds.clone(),
        );
        let collection_hold_seconds = histogram();
        r.register_with_unit(
            "collection_hold",
            "The longest that each collection kept commits waiting",
            Unit::Seconds,
            collection_hold_seconds.clone(),
        );
        let uploads = Gauge::default();
        r.register("uploads", "Uploads under way", uploads.clone());
        let upload_memory_bytes = StoreGauge::default();
        r.register(
            "upload_memory_bytes",
            "Memory that pages and files take up which are under way",
            upload_memory_bytes.clone(),
        );
        let quota_bytes = Family::default();
        let help = "Bytes that files may have under names that begin with a prefix";
        r.register("quota_bytes", help, quota_bytes.clone());
        let quota_used_bytes = Family::default();
        let help = "Bytes that they have";
        r.register("quota_used_bytes", help, quota_used_bytes.clone());
        Self {
            scrubs: Scrubs::register(r),
            store: StoreGauges::register(r),
            registry,
            requests,
            durations,
            received_bytes,
            commits,
            pushed_pages,
            new_pages,
            written_pages,
            collections,
            collected_bytes,
            skipped_segments,
            collection_seconds,
            collection_hold_seconds,
            uploads,
            upload_memory_bytes,
            quota_bytes,
            quota_used_bytes,
        }
    }

    pub(crate) fn note_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels {
            method: method.into(),
            route: route.into(),
            status,
        };
        self.requests.get_or_create(&labels).inc();
        let route = RouteLabels {
            route: route.into(),
        };
        let duration = self.durations.get_or_create(&route);
        duration.observe(took.as_secs_f64());
    }

    pub(crate) fn note_received(&self, bytes: u64) {
        self.received_bytes.inc_by(bytes);
    }

    pub(crate) fn note_commit(&self, summary: &pool_store::upload::CommitSummary) {
        self.commits.inc();
        self.pushed_pages.inc_by(summary.pages.0);
        self.new_pages.inc_by(summary.new_pages.0);
        self.written_pages.inc_by(summary.written_pages.0);
    }

    /// Counts a collection, whoever started it.
    pub fn note_collection(&self, report: &pool_gc::CollectReport) {
        self.collections.inc();
        self.collected_bytes.inc_by(report.freed_bytes);
        self.skipped_segments
            .inc_by(report.segments_skipped.len() as u64);
        let took = Duration::from_micros(report.duration_us);
        self.collection_seconds.observe(took.as_secs_f64());
        let held = Duration::from_micros(report.longest_hold_us);
        self.collection_hold_seconds.observe(held.as_secs_f64());
    }

    /// Counts what a scrub reads.
    pub(crate) fn note_scrub_step(&self, read: u64) {
        self.scrubs.read_bytes.inc_by(read);
    }

    /// Counts a scrub that ended, or was ended.
    pub(crate) fn note_scrub(&self, scrubbed: &pool_gc::Scrubbed) {
        self.scrubs.passes.inc_by(scrubbed.is_complete.into());
    }

    /// How much memory pages of uploads take up.
    pub(crate) fn note_upload_memory(&self, bytes: u64) {
        self.upload_memory_bytes.set(bytes);
    }

    /// How much of quotas is used.
    pub(crate) fn note_quotas(&self, quotas: &[QuotaUse]) {
        for quota in quotas {
            let labels = QuotaLabels {
                prefix: quota.prefix.clone(),
            };
            self.quota_bytes.get_or_create(&labels).set(quota.bytes);
            if let Some(bytes) = quota.used_bytes {
                self.quota_used_bytes.get_or_create(&labels).set(bytes);
            } else {
                // Better none than one that is not true any more.
                self.quota_used_bytes.remove(&labels);
            }
        }
    }

    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    pub(crate) fn encode(
        &self,
        stats: &StoreStats,
        uploads: u64,
        damaged_pages: u64,
        scrubbed: &ScrubState,
    ) -> Result<String, std::fmt::Error> {
        self.uploads.set(uploads);
        self.store.set(stats);
        self.store.damaged_pages.set(damaged_pages);
        self.scrubs
            .completed_at
            .set(scrubbed.completed_at.unwrap_or(0));
        let under_way = scrubbed.pass.as_ref().map(|pass| &pass.found);
        let found = under_way.or(scrubbed.last.as_ref());
        let damaged = found.map_or(0, |found| found.damaged_objects.len() as u64);
        self.scrubs.damaged_objects.set(damaged);
        let files = found.map_or(&[][..], |found| &found.damaged_files);
        let left = files.iter().filter(|file| !file.mended).count();
        self.scrubs.damaged_files.set(left as u64);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl StoreGauges {
    fn register(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        for (name, help, gauge) in [
            ("store_tags", "Tags", &gauges.tags),
            ("store_libraries", "Library versions", &gauges.libraries),
            (
                "store_unused_libraries",
                "Library versions that no image uses",
                &gauges.unused_libraries,
            ),
            ("store_objects", "Objects", &gauges.objects),
            (
                "store_object_bytes",
                "Bytes of all objects as if each were kept whole",
                &gauges.object_bytes,
            ),
            (
                "store_referenced_pages",
                "Pages that objects refer to, zero pages left out",
                &gauges.referenced_pages,
            ),
            (
                "store_stored_pages",
                "Distinct pages in the index",
                &gauges.stored_pages,
            ),
            (
                "store_dense_windows",
                "2 MiB windows stored densely",
                &gauges.dense_windows,
            ),
            (
                "store_segments",
                "Segments that can be mapped",
                &gauges.segments,
            ),
            (
                "store_retired_segments",
                "Segments that wait for their last lease to end",
                &gauges.retired_segments,
            ),
            (
                "store_disk_bytes",
                "Bytes of disk that segments take up",
                &gauges.disk_bytes,
            ),
            (
                "store_not_counted",
                "Kinds of records of which some cannot be read, and so are in no number",
                &gauges.not_counted,
            ),
            (
                "store_damaged_pages",
                "Pages that are known to be damaged, and wait for a push of what has them",
                &gauges.damaged_pages,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        gauges
    }

    fn set(&self, stats: &StoreStats) {
        self.tags.set(stats.tags);
        self.libraries.set(stats.libraries);
        self.unused_libraries.set(stats.unused_libraries);
        self.objects.set(stats.objects);
        self.object_bytes.set(stats.object_bytes);
        self.referenced_pages.set(stats.referenced_pages.0);
        self.stored_pages.set(stats.stored_pages.0);
        self.dense_windows.set(stats.dense_windows);
        self.segments.set(stats.segments);
        self.retired_segments.set(stats.retired_segments);
        self.disk_bytes.set(stats.disk_bytes);
        self.not_counted.set(stats.not_counted.len() as u64);
    }
}
