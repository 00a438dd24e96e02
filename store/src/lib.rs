//! The on-disk store: pages in segments, and an index that says what they make up.
//!
//! [`Store`] is the writing side, held by one process; [`StoreView`] is the reading side, which
//! any process can open beside it. FORMAT.md describes every byte. The order of durability is
//! always the same: segment data, `fdatasync`, one synced frame of the journal, one synced batch of
//! index changes, the answer.
//!
//! A page's way through the modules: `ingest` finds out which pages are missing and takes them
//! in, [`placement`] decides how they will lie, `segment` writes them, `index` records them, and
//! before it `journal`, from which [`repair`] makes an index anew,
//! [`references`] names what they make up, [`lease`] keeps them for whoever maps them, and
//! [`collection`] lets a collector take away what nothing refers to.

pub mod audit;
pub mod backend;
pub mod backup;
mod barrier;
mod catalogue;
mod change;
mod claims;
pub mod collection;
mod commit;
mod creation;
mod damage;
pub mod descriptors;
mod directory;
mod distrust;
mod error;
pub mod evacuate;
mod following;
pub mod format;
mod freeing;
mod group;
pub mod holders;
mod index;
mod ingest;
mod intake;
mod journal;
pub mod lease;
mod look;
pub mod manifest;
mod mark;
mod mend;
mod moment;
mod object_digest;
mod open_segments;
mod opening;
mod owner;
mod page_digest;
mod parallel;
pub mod placement;
mod places;
pub mod precondition;
mod prepared;
mod progress;
mod proof;
mod queue;
pub mod quota;
pub mod references;
pub mod repair;
mod room;
pub mod scrub;
mod segment;
mod slots;
pub mod small_file;
mod snapshot;
mod spool;
mod staging;
pub mod stats;
mod steps;
mod stored;
pub mod superblock;
#[doc(hidden)]
pub mod synthetic;
mod target;
#[cfg(test)]
mod testing;
pub mod upload;
mod used;
mod view;

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use damage::Compared;
pub use error::{Again, Result, StoreError};
pub use format::Reference;
pub use index::{Reader, Reads, Totals, records};
pub use open_segments::OpenSegments;
pub use opening::may_lack_file;
pub use progress::{Progress, time_of};
pub use snapshot::Snapshot;
pub use spool::Spool;
pub use view::{Held, StoreView};

use barrier::Barrier;
use group::Groups;
use manifest::Timestamp;
use placement::PlacementPolicy;
use queue::Queue;
use quota::Quotas;
use room::Promised;
use segment::Appender;
use staging::Memory;
use superblock::Superblock;

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Make a new store in a directory that is absent or empty, or holds what a creation that was
    /// cut short left.
    pub create: bool,
    /// Bytes of a segment of a new store, a multiple of 2 MiB.
    pub segment_bytes: u64,
    /// Which windows are stored densely from now on.
    pub placement: PlacementPolicy,
    /// Bytes of memory for pages of uploads under way and for [files that come whole](Store::spool), of which one has a quarter at
    /// most. What has no room waits for its commit in files.
    pub upload_memory: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            create: false,
            segment_bytes: 64 << 20,
            placement: PlacementPolicy::default(),
            upload_memory: 128 << 20,
        }
    }
}

/// A store opened for writing.
#[derive(Debug)]
pub struct Store {
    view: StoreView,
    policy: PlacementPolicy,
    writer: Mutex<Writer>,
    /// Who waits for that.
    queue: Queue,
    groups: Arc<Groups>,
    quotas: Quotas,
    upload_memory: Arc<Memory>,
    /// Disk that uploads are about to write to.
    promised: Arc<Promised>,
    /// Keeps other writers away.
    _lock: (File, Option<File>),
}

/// What changes under the writer's lock. Commits hold it for moments, to be handed slots and to be decided one after the
/// other; a collection to decide one bounded batch at a time, between which it lets in who waits.
#[derive(Debug)]
struct Writer {
    appender: Appender,
    /// What was committed since the running collection began; absent when none runs.
    barrier: Option<Barrier>,
    /// Times that somebody had the lock who may move or remove what commits have found.
    sections: u64,
}

impl Deref for Store {
    type Target = StoreView;
    fn deref(&self) -> &StoreView {
        &self.view
    }
}

impl Store {
    /// Opens the store in `directory`; only one process can at a time.
    pub fn open(directory: &Path, options: StoreOptions) -> Result<Self> {
        let open = || {
            if Self::is_to_be_made(directory, options)? {
                creation::create(directory, options)?;
            }
            Self::assemble(directory, options, opening::open(directory)?)
        };
        open().map_err(|error| opening::no_room(directory, error))
    }

    fn assemble(directory: &Path, options: StoreOptions, opened: opening::Opened) -> Result<Self> {
        let opening::Opened {
            superblock,
            index,
            backend,
            lock,
            is_distrusted,
        } = opened;
        let view = StoreView::assemble(directory, superblock, index, backend)?;
        if is_distrusted {
            view.set_distrust(true);
        }
        view.set_damage(view.index.now().damaged()?);
        let (groups, promised) = (Arc::default(), Arc::default());
        let appender = Appender::open(
            Arc::clone(&view.backend),
            &view.index,
            &groups,
            &view.distrust,
            &promised,
            superblock.segment_bytes,
        )?;
        let store = Self {
            view,
            policy: options.placement,
            writer: Mutex::new(Writer {
                appender,
                barrier: None,
                sections: 0,
            }),
            queue: Queue::default(),
            groups,
            quotas: Quotas::default(),
            upload_memory: Memory::of(options.upload_memory),
            promised,
            _lock: lock,
        };
        if let Err(error) = store.checkpoint_if_due() {
            tracing::warn!(%error, "writing a checkpoint; the next opening or collection tries again");
        }
        Ok(store)
    }

    /// True when [`Store::open`] would make a new store in `directory`.
    pub fn is_to_be_made(directory: &Path, options: StoreOptions) -> Result<bool> {
        Ok(options.create && directory::is_vacant(directory)?)
    }

    /// Makes an empty store in a directory that is absent or empty, and does not open it.
    /// `options.create` is taken for true.
    pub fn create(directory: &Path, options: StoreOptions) -> Result<Superblock> {
        if directory::is_vacant(directory)? {
            return creation::create(directory, options)
                .map_err(|error| opening::no_room(directory, error));
        }
        Err(creation::not_vacant(directory))
    }

    /// Writes a checkpoint of the journal if one is due: what opening the store reads, and what the journal takes up, stay bounded
    /// by that. To be called now and then, and beside anything else. False when none is due or another thread writes one. While the
    /// index is not [trusted](StoreView::distrusts_index) it is made of the journal alone: a copy of the index would have what is wrong
    /// with it, and the logs that have what is right would go.
    pub fn checkpoint_if_due(&self) -> Result<bool> {
        self.view
            .index
            .checkpoint(false, || self.view.distrusts_index())
    }

    /// Writes a checkpoint of the journal, and begins a log anew. False when a change is in doubt, which belongs to the log that it
    /// is in.
    pub fn checkpoint(&self) -> Result<bool> {
        self.view
            .index
            .checkpoint(true, || self.view.distrusts_index())
    }

    /// The writer's lock, for whatever is not a commit: all that has joined a group has come to its end, and plans
    /// of commits are made again.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        let mut writer = self.joining();
        self.drain(&mut writer);
        writer
    }

    /// The same, for who has the lock already.
    fn drain(&self, writer: &mut Writer) {
        self.groups.drain(&self.view.index);
        writer.sections += 1;
    }

    /// Waits until all that has joined a group by now has come to its end.
    fn settled(&self) {
        let sight = {
            let _writer = self.joining();
            self.groups.sight()
        };
        self.groups.stands(&self.view.index, &sight);
    }

    /// The writer's lock, for a commit, which sees what is on its way ([`Groups::sight`]) and joins it.
    fn joining(&self) -> MutexGuard<'_, Writer> {
        self.queue.pass(|| self.locked())
    }

    /// The writer's lock, for a step of a collection: commits that wait when one ends come before the next, and that before commits
    /// that come then.
    fn stepping(&self) -> MutexGuard<'_, Writer> {
        self.queue.let_in();
        self.queue.pass_first(|| self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, Writer> {
        // A panic under the lock leaves at most slots that were handed out and not recorded.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
pub fn now() -> Timestamp {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
