//! The service behind the routes: the store, uploads under way, tokens, limits, counters.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use pool_gc::{CollectOptions, CollectReport};
use pool_store::Store;
use pool_store::format::STAGING_DIRECTORY;
use pool_store::stats::StoreStats;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::Gate;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::problem::{BUSY, Problem, Result};
use crate::uploads::Sessions;

/// What a client may ask for at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a file sent whole, and of the pages of one request.
    pub body: u64,
    /// Bytes of an announcement: 43 for each page of 4096, and the description.
    pub announcement: u64,
    /// Bytes of any other JSON body.
    pub json: u64,
    /// Bytes of the announcements of all uploads under way, and as many of other JSON bodies that
    /// are being read.
    pub json_at_once: usize,
    /// Uploads under way.
    pub uploads: usize,
    /// Time without a request after which an upload is forgotten.
    pub upload_idle: Duration,
    /// The least that it must send of a body, or take of an answer.
    pub pace: Pace,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 4 << 30,
            announcement: 64 << 20,
            json: 1 << 20,
            json_at_once: 256 << 20,
            uploads: 64,
            upload_idle: Duration::from_secs(600),
            pace: Pace::default(),
        }
    }
}

/// How a service is made.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// What a client may ask for at once.
    pub limits: Limits,
    /// How long a library version stays after its last user has gone, unless a request for a
    /// collection says otherwise.
    pub grace: Duration,
    /// What `poolsvc` was told about the placement of windows; shown in statistics.
    pub dense_from_pages: u32,
}

/// The service. Cloning it is cheap; all clones are one service.
#[derive(Clone, Debug)]
pub struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<Store>,
    options: ServiceOptions,
    gate: Gate,
    uploads: Sessions,
    json_room: Room,
    announced_room: Room,
    metrics: Metrics,
    stopping: AtomicBool,
    counted: Mutex<Option<Counted>>,
}

/// Memory that requests share.
#[derive(Debug)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Room for `bytes`, until the answer is dropped.
    pub(crate) fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.0);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        room.try_acquire_many_owned(bytes).map_err(|_| {
            let what = "too much is being announced at the same time";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, BUSY, what).hint("try again")
        })
    }
}

/// Statistics and when they were counted: counting visits every page of the index.
#[derive(Debug)]
struct Counted {
    generation: u64,
    at: Instant,
    stats: StoreStats,
}

impl Service {
    /// A service on an open store.
    pub fn new(store: Arc<Store>, gate: Gate, options: ServiceOptions) -> Self {
        Self(Arc::new(Inner {
            store,
            gate,
            uploads: Sessions::new(options.limits.uploads, options.limits.upload_idle),
            json_room: Room::of(options.limits.json_at_once),
            announced_room: Room::of(options.limits.json_at_once),
            options,
            metrics: Metrics::new(),
            stopping: AtomicBool::new(false),
            counted: Mutex::default(),
        }))
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    /// Who may do what.
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// How the service was made.
    pub fn options(&self) -> &ServiceOptions {
        &self.0.options
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn uploads(&self) -> &Sessions {
        &self.0.uploads
    }

    /// Room for JSON bodies that are being read.
    pub(crate) fn json_room(&self) -> &Room {
        &self.0.json_room
    }

    /// Room for announcements, which are kept until their uploads end.
    pub(crate) fn announced_room(&self) -> &Room {
        &self.0.announced_room
    }

    /// Forgets uploads that have been idle for too long. To be called now and then.
    pub fn expire_uploads(&self) {
        self.0.uploads.expire();
    }

    /// From now on the service says that it is not ready.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// Collects what nothing refers to, and counts it.
    pub async fn collect(&self, grace: Duration, dry_run: bool) -> Result<CollectReport> {
        let work = self.clone();
        self.with_store(move |store| {
            let options = CollectOptions {
                grace,
                dry_run,
                ..CollectOptions::default()
            };
            let report = pool_gc::collect(store, &options)?;
            if !dry_run {
                work.metrics().note_collection(&report);
            }
            Ok(report)
        })
        .await
    }

    /// Writes a checkpoint of the store's journal if one is due.
    pub async fn checkpoint_if_due(&self) -> Result<()> {
        self.with_store(|store| Ok(store.checkpoint_if_due().map(drop)?))
            .await
    }

    /// Runs `work` on the store, on a thread that may block.
    pub(crate) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(self.store());
        blocking(move || work(&store)).await
    }

    /// Statistics as of the last commit, or at most `max_age` old. Blocks.
    pub(crate) fn stats(&self, max_age: Duration) -> Result<StoreStats> {
        let generation = self.0.store.generation()?;
        // Held while counting: those who ask meanwhile get the same count.
        let mut counted = self
            .0
            .counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*counted
            && (known.generation == generation || known.at.elapsed() < max_age)
        {
            return Ok(known.stats.clone());
        }
        let stats = self.0.store.stats()?;
        *counted = Some(Counted {
            generation,
            at: Instant::now(),
            stats: stats.clone(),
        });
        Ok(stats)
    }

    /// A nameless file on the store's own disk, for a body that is sent whole. Blocks.
    pub(crate) fn spool_file(&self) -> Result<File> {
        let directory = self.0.store.directory().join(STAGING_DIRECTORY);
        tempfile::tempfile_in(directory)
            .map_err(|error| Problem::io("making a file for the upload", &error))
    }
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            if error.is_cancelled() {
                let what = "the service is shutting down";
                return Err(Problem::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "stopping",
                    what,
                ));
            }
            Err(Problem::internal(error))
        })
}
