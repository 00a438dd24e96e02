//! The service behind the routes: the store, uploads under way, tokens, limits, counters.

use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use pool_core::digest::ObjectId;
use pool_gc::{Cause, CollectOptions, CollectReport, Scrubbed};
use pool_store::scrub::State as ScrubState;
use pool_store::stats::StoreStats;
use pool_store::{Progress, Spool, Store, now, time_of};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::auth::Gate;
use crate::collector::Collector;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::problem::{BUSY, Problem, Result};
use crate::scrubs::{Turn, Turns};
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
    collector: Collector,
    scrubs: Turns,
    /// Held while it is looked into what somebody could not read.
    noting: Mutex<()>,
    counted: Mutex<Option<Counted>>,
    full_disk: Notify,
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

/// Statistics and when they were counted: counting visits most records of the index.
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
            collector: Collector::new(store.directory().into()),
            store,
            gate,
            uploads: Sessions::new(options.limits.uploads, options.limits.upload_idle),
            json_room: Room::of(options.limits.json_at_once),
            announced_room: Room::of(options.limits.json_at_once),
            options,
            metrics: Metrics::new(),
            scrubs: Turns::default(),
            noting: Mutex::default(),
            counted: Mutex::default(),
            full_disk: Notify::new(),
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
        self.0.scrubs.stop();
        self.collector().end();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.0.scrubs.is_stopped()
    }

    /// Says what a collection would do.
    pub async fn rehearse(&self, grace: Duration) -> Result<CollectReport> {
        let options = CollectOptions {
            grace,
            dry_run: true,
            ..CollectOptions::default()
        };
        self.with_store(move |store| Ok(pool_gc::collect(store, &options)?))
            .await
    }

    /// Collects what nothing refers to, counts it and remembers it. It can be paused and stopped meanwhile, and ends early
    /// when the service is told to stop.
    pub async fn collect(&self, grace: Duration, cause: Cause) -> Result<CollectReport> {
        let work = self.clone();
        self.with_store(move |store| {
            let options = CollectOptions {
                grace,
                ..CollectOptions::default()
            };
            let report = work.collector().run(cause, |watch| {
                pool_gc::collect_watched(store, &options, watch)
            })?;
            work.metrics().note_collection(&report);
            Ok(report)
        })
        .await
    }

    /// A request was refused for want of room on the disk.
    pub(crate) fn note_full_disk(&self) {
        self.0.full_disk.notify_one();
    }

    /// Ends once a request has been refused for want of room on the disk since this ended last. One waits at a time.
    pub async fn full_disk(&self) {
        self.0.full_disk.notified().await;
    }

    /// Collections, one at a time.
    pub(crate) fn collector(&self) -> &Collector {
        &self.0.collector
    }

    /// True when no collection is to begin by itself.
    pub fn collections_are_paused(&self) -> bool {
        self.collector().collections().paused
    }

    /// Writes a checkpoint of the store's journal if one is due.
    pub async fn checkpoint_if_due(&self) -> Result<()> {
        self.with_store(|store| Ok(store.checkpoint_if_due().map(drop)?))
            .await
    }

    /// Goes on with the scrub that was interrupted last, or begins one, reading at most `rate` bytes a second. One that runs is
    /// ended for that, and this one ends early when the service is told to stop, or somebody asks for another one.
    pub async fn scrub(&self, rate: Option<NonZeroU64>) -> Result<Scrubbed> {
        let service = self.clone();
        blocking(move || match service.0.scrubs.take_over(rate) {
            Some(turn) => service.scrub_in_turn(&turn, rate),
            None => Ok(Scrubbed {
                is_complete: false,
                report: service.scrub_state().pass.unwrap_or_default().found,
            }),
        })
        .await
    }

    /// The same, unless one runs that is as fast: one that a client has left at a low rate would otherwise be the last one.
    pub async fn scrub_unless_as_fast(&self, rate: Option<NonZeroU64>) -> Result<Option<Scrubbed>> {
        let service = self.clone();
        blocking(move || {
            let turn = service.0.scrubs.take_from_slower(rate);
            let scrubbed = turn.map(|turn| service.scrub_in_turn(&turn, rate));
            scrubbed.transpose()
        })
        .await
    }

    fn scrub_in_turn(&self, turn: &Turn<'_>, rate: Option<NonZeroU64>) -> Result<Scrubbed> {
        let mut last = Instant::now();
        // Each step for itself: what took longer than it should is not made up for.
        let mut step = |progress: Progress| {
            self.metrics().note_scrub_step(progress.read);
            let due = rate.map_or(Duration::ZERO, |rate| time_of(progress.read, rate));
            let is_over = turn.is_over_within(due.saturating_sub(last.elapsed()));
            last = Instant::now();
            if is_over {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let scrubbed = pool_gc::scrub(self.store(), &mut step)?;
        self.metrics().note_scrub(&scrubbed);
        Ok(scrubbed)
    }

    /// How far scrubs of the store have come. Blocks.
    pub fn scrub_state(&self) -> ScrubState {
        ScrubState::read(self.0.store.directory(), now())
    }

    /// Takes note of objects that were found not to be what their digests say, so that the next push of them is taken for
    /// one of something new. Blocks.
    pub fn note_damaged(&self, objects: &[ObjectId]) {
        if let Err(error) = self.0.store.note_damaged(objects) {
            tracing::error!(%error, "taking note of damage");
        }
    }

    /// Takes note of an object that could not be read, or not as what its digest says. That looks at all of the index, and
    /// clients may ask as often as they like: so it is done for one at a time, the others being found by the next read, and not
    /// for one that is known to be damaged, of which a push finds the rest. Blocks.
    pub(crate) fn note_unread(&self, object: ObjectId) {
        let _alone = match self.0.noting.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(alone)) => alone.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if !matches!(self.0.store.whole_object(object), Ok(None)) {
            self.note_damaged(&[object]);
        }
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

    /// A nameless file, in memory or on the store's own disk, for a body of so many bytes that is sent whole. Blocks.
    pub(crate) fn spool(&self, expected: u64) -> Result<Spool> {
        Ok(self.0.store.spool(expected)?)
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
