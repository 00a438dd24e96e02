//! The index: typed access to RocksDB, and the only place that names it.
//!
//! An [`Index`] is opened by the one process that writes (the *primary*) or by any number of
//! readers beside it (*secondaries*, which follow the primary's log when asked to). Before it is
//! opened for writing, which rewrites parts of it, it is *inspected* without changing a byte.
//!
//! Every batch counts: it comes after its frame in the journal ([`crate::journal`]), carries the
//! number of commits so far and a key of its own for its number, and is followed by the mark
//! ([`crate::mark`]). RocksDB recovers as many commits as it can and drops what follows a damaged
//! record of its log, which is right for a torn tail that nobody was told of, and silent where it is
//! not. The journal has what is missing, the mark tells without one, and the keys show a hole.

mod batch;
mod committing;
mod damage;
mod following;
mod gate;
mod inspection;
mod kept;
mod names;
mod options;
mod pending;
mod reader;
pub mod records;
mod reread;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod totals;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use pool_core::name::LibraryRef;
use rocksdb::{ColumnFamily, DB, SnapshotWithThreadMode, WriteOptions};

use crate::error::{Again, Result, StoreError};
use crate::journal::frame::Digest;
use crate::journal::{self, Journal};
use crate::mark::Mark;

pub(crate) use batch::{Batch, Changes, follow_segments};
pub(crate) use following::{CaughtUp, Wanted};
use gate::{Gate, Standstill};
pub(crate) use inspection::Inspection;
pub(crate) use kept::{Kept, Recorded};
pub(crate) use options::Followed;
use options::{
    LIBRARIES, MANIFESTS, META, OBJECTS, PAGES, REFERENCES, REGISTRY, ROOM, SEGMENTS, TAGS, TOKENS,
    WINDOWS, families, primary_options,
};
pub(crate) use pending::Pending;
pub use pending::Reads;
pub use reader::Reader;
pub(crate) use reader::shown;
pub(crate) use reread::{Reread, families_with_damaged_tables};
pub use totals::Totals;
use totals::{Course, TOTALS};

const EPOCH: &[u8] = b"epoch";
const NEXT_SEGMENT: &[u8] = b"next-segment";
const STORE: &[u8] = b"store";
const COMMITS: &[u8] = b"commits";
const FIRST_COMMIT: &[u8] = b"first-commit";
const COMMIT: &[u8] = b"commit/";
const FRAME: &[u8] = b"frame";
/// Before a library version: where in it everything is.
const PLACES: &[u8] = b"places/";

fn places_key(library: &LibraryRef) -> Vec<u8> {
    [PLACES, library.to_string().as_bytes()].concat()
}

/// Commits whose numbers are kept as keys, so that one that is missing among them is noticed. More
/// than a log of [`LOG`] bytes holds, unless all of them are tiny.
const COUNTED: u64 = 1 << 16;

/// The index of a store.
pub(crate) struct Index {
    path: PathBuf,
    role: Role,
}

/// What the index was opened for.
enum Role {
    /// To look at it once.
    Inspector(DB),
    /// To change it.
    Primary {
        db: DB,
        mark: Mark,
        /// Held while a commit is made durable.
        count: Box<Mutex<Count>>,
        /// There is a commit that the mark does not tell of.
        unmarked: AtomicBool,
        /// The journal has the room that it keeps for collections.
        room: AtomicBool,
        /// Held while a checkpoint is written.
        checkpointing: Mutex<()>,
    },
    /// To follow the process that changes it.
    Secondary {
        /// Replaced inside the gate, and only taken out of the lock to be used.
        db: RwLock<Arc<DB>>,
        gate: Gate,
        followed: Followed,
        scratch: PathBuf,
        /// What it has in memory hides newer tables: nothing is caught up with before it is opened
        /// anew, however often that fails.
        outdated: AtomicBool,
        /// Number of the oldest log that there was when it last caught up: where that has gone, following does not do.
        oldest_log: AtomicU64,
        /// One that was opened for that since.
        spare: Mutex<Option<Arc<DB>>>,
    },
}

/// Commits made, and how many of them the mark tells of.
struct Count {
    first: u64,
    commits: u64,
    marked: u64,
    /// Of the last one; `None` where it is not known.
    totals: Option<Totals>,
    /// Of all since it was opened.
    course: Course,
    /// Absent in an index in the making, and where none could be begun.
    journal: Option<Journal>,
}

/// What keeps one state of the index readable.
enum Pin<'a> {
    /// A primary's: RocksDB keeps what it replaces.
    Snapshot(SnapshotWithThreadMode<'a, DB>),
    /// A secondary's, which has no snapshots: it does not catch up for as long.
    Standstill(Standstill<'a>),
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Index {
    /// Makes an empty index for the store `identity`. Refuses one that has something in it.
    pub(crate) fn create(path: &Path, identity: [u8; 16]) -> Result<()> {
        let index = Self::make(path)?;
        if index.inspect()?.commits > 0 {
            return Err(StoreError::Refused {
                path: path.parent().unwrap_or(path).into(),
                why: "it has no superblock, and its index is not empty: put the superblock back \
                      from a backup"
                    .into(),
            });
        }
        index.begin_counting(identity, 0, None)
    }

    /// Makes an index that is nobody's yet, to be filled.
    pub(crate) fn make(path: &Path) -> Result<Self> {
        let mut options = primary_options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, path, families())
            .map_err(|source| failed("creating", source))?;
        Ok(Self {
            path: path.into(),
            role: Role::Inspector(db),
        })
    }

    /// Notes whose index it is, and that it has `commits` commits, the last of which has this digest in the journal. Waits until
    /// that and all that was put before survive a power cut.
    pub(crate) fn begin_counting(
        &self,
        identity: [u8; 16],
        commits: u64,
        frame: Option<Digest>,
    ) -> Result<()> {
        let mut batch = self.batch();
        batch.note(STORE, identity);
        batch.note(FIRST_COMMIT, commits.to_le_bytes());
        batch.note(COMMITS, commits.to_le_bytes());
        batch.note(commit_key(commits), []);
        // Otherwise whoever opens it counts them.
        if let Ok(totals) = self.now().count_totals() {
            batch.note(TOTALS, totals.encode(commits));
        }
        if let Some(frame) = frame {
            batch.note(FRAME, frame);
        }
        self.write(&batch, true)
    }

    fn identity(&self) -> Result<Option<[u8; 16]>> {
        self.with_db(identity_in)
    }

    /// Opens the index for writing; only one process can.
    pub(crate) fn open_primary(path: &Path, mark: Mark) -> Result<Self> {
        match DB::open_cf_descriptors(&primary_options(), path, families()) {
            Ok(db) => {
                let marked = mark.read()?.unwrap_or(0);
                let count = Count {
                    first: 0,
                    commits: 0,
                    marked,
                    totals: None,
                    course: Course::default(),
                    journal: None,
                };
                let role = Role::Primary {
                    db,
                    mark,
                    count: Box::new(Mutex::new(count)),
                    unmarked: AtomicBool::new(false),
                    room: AtomicBool::new(false),
                    checkpointing: Mutex::default(),
                };
                let path = path.into();
                let index = Self { path, role };
                index.recount()?;
                Ok(index)
            }
            Err(error)
                if error.as_ref().contains("lock hold by")
                    || error.as_ref().contains("While lock file") =>
            {
                let path = path.parent().unwrap_or(path).into();
                Err(StoreError::Locked { path })
            }
            Err(source) => Err(failed("opening", source)),
        }
    }

    /// Bytes of the logs of the index at `path`, which an opening writes to tables; 0 where that cannot be told.
    pub(crate) fn logged_at(path: &Path) -> u64 {
        let entries = path.read_dir().into_iter().flatten().flatten();
        let logs = entries
            .filter(|entry| Path::new(&entry.file_name()).extension() == Some("log".as_ref()));
        logs.filter_map(|log| Some(log.metadata().ok()?.len()))
            .sum()
    }

    /// Reads the number of commits, and what they came to.
    fn recount(&self) -> Result<()> {
        let Role::Primary { count, .. } = &self.role else {
            return Ok(());
        };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.first = self.now().counter(FIRST_COMMIT)?;
        count.commits = self.now().counter(COMMITS)?;
        count.totals = self.now().totals()?;
        Ok(())
    }

    /// Brings the mark up to the number of commits: a stop may have come between. Waits until that survives a power cut.
    pub(crate) fn bring_mark_up(&self) -> Result<()> {
        let Role::Primary { mark, count, .. } = &self.role else {
            return Ok(());
        };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        if self.identity()?.is_some() && count.marked != count.commits {
            mark.advance(count.commits)?;
            count.marked = count.commits;
        }
        Ok(())
    }

    /// Makes an index of an old release the one of the store `identity`, and counts its commits
    /// from what the mark says.
    pub(crate) fn adopt(&self, identity: [u8; 16]) -> Result<()> {
        let Role::Primary { mark, count, .. } = &self.role else {
            return Ok(());
        };
        let commits = count.lock().unwrap_or_else(PoisonError::into_inner).marked;
        self.begin_counting(identity, commits, None)?;
        // There may have been none: its file is empty then.
        mark.advance(commits)?;
        self.recount()
    }

    /// Makes commits of the journal that the index lacks, which come one after the other: the number, the digest and the changes
    /// of each. Those that it has already are made again, to the same end.
    pub(crate) fn replay(&self, commits: &[(u64, Digest, Vec<u8>)]) -> Result<()> {
        for (nth, (number, digest, changes)) in commits.iter().enumerate() {
            // The last one makes all of them durable.
            self.replay_one(*number, digest, changes, nth + 1 == commits.len())?;
        }
        self.recount()
    }

    /// The same of the commits after `has`, up to `last`, which are read from `journal` one by one.
    pub(crate) fn replay_from(
        &self,
        journal: &Path,
        identity: [u8; 16],
        has: u64,
        last: u64,
    ) -> Result<()> {
        let mut result = Ok(());
        let read = journal::each_commit(journal, identity, last, |number, digest, changes| {
            if number > has && result.is_ok() {
                result = self.replay_one(number, digest, changes, number == last);
            }
        });
        result?;
        read.map_err(|flaw| {
            StoreError::Corrupt(format!(
                "the journal is not what it was a moment ago: {}",
                flaw.told()
            ))
        })?;
        self.recount()
    }

    fn replay_one(&self, number: u64, digest: &Digest, changes: &[u8], sync: bool) -> Result<()> {
        let mut batch = Batch::replayed(self, number, changes, true)?;
        let first = self.now().counter(FIRST_COMMIT)?;
        batch.count(number, first);
        batch.note(FRAME, digest);
        self.write(&batch, sync)
    }

    /// The index in the state that it is in now, for as long as the answer lives.
    pub(crate) fn pinned(&self) -> Reader<'_> {
        let pin = match &self.role {
            Role::Secondary { gate, .. } => Pin::Standstill(gate.enter()),
            Role::Primary { db, .. } | Role::Inspector(db) => Pin::Snapshot(db.snapshot()),
        };
        Reader::new(self, Some(pin))
    }

    /// The index as it is at each question: for a single one, or while nothing is [pending](Pending).
    pub(crate) fn now(&self) -> Reader<'_> {
        Reader::new(self, None)
    }

    /// The index as it will be with changes that are not durable yet, the last ones last: for who makes changes that
    /// come after them.
    pub(crate) fn ahead(&self, pending: Vec<Arc<Pending>>) -> Reader<'_> {
        Reader::ahead(self, pending)
    }

    /// Refuses what a follower does not have.
    fn check_has(&self, family: &'static str) -> Result<()> {
        match &self.role {
            Role::Secondary { followed, .. } if !followed.has(family) => {
                Err(StoreError::NotFollowed(family))
            }
            _ => Ok(()),
        }
    }

    /// It follows another process.
    fn is_follower(&self) -> bool {
        matches!(self.role, Role::Secondary { .. })
    }

    /// Runs `work` on the database.
    fn with_db<T>(&self, work: impl FnOnce(&DB) -> T) -> T {
        match &self.role {
            Role::Primary { db, .. } | Role::Inspector(db) => work(db),
            Role::Secondary { db, .. } => {
                let current = Arc::clone(&db.read().unwrap_or_else(PoisonError::into_inner));
                work(&current)
            }
        }
    }

    /// Writes a batch, and if `sync` waits until it and all before it survive a power cut.
    fn write(&self, batch: &Batch<'_>, sync: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let db = self.own_db();
        db.write_opt(batch.writes(db), &options)
            .map_err(|source| failed("writing", source))
    }

    /// The database of whoever does not follow another process.
    fn own_db(&self) -> &DB {
        match &self.role {
            Role::Primary { db, .. } | Role::Inspector(db) => db,
            Role::Secondary { .. } => unreachable!("a follower changes nothing"),
        }
    }
}

fn family<'a>(db: &'a DB, name: &'static str) -> &'a ColumnFamily {
    db.cf_handle(name)
        .expect("every family that is asked is opened or created with the database")
}

/// Whose index a database is.
fn identity_in(db: &DB) -> Result<Option<[u8; 16]>> {
    let found = db.get_cf(family(db, META), STORE);
    let Some(value) = found.map_err(|source| failed("reading", source))? else {
        return Ok(None);
    };
    let identity = value.as_slice().try_into();
    let identity = identity
        .map_err(|_| StoreError::Corrupt("the index's note of its store is not 16 bytes".into()))?;
    Ok(Some(identity))
}

fn commit_key(number: u64) -> Vec<u8> {
    [COMMIT, &number.to_be_bytes()].concat()
}

/// Wraps an error of RocksDB, telling a full disk from all else: it has words alone.
fn failed(doing: &'static str, error: rocksdb::Error) -> StoreError {
    let again = if error.as_ref().contains("No space left on device") {
        Again::WithRoom(ROOM)
    } else if error.as_ref().contains("Disk quota exceeded") {
        // To RocksDB that is a failed disk, which it does not look at again.
        Again::Opened
    } else {
        return StoreError::Index { doing, error };
    };
    StoreError::NoSpace {
        doing,
        path: PathBuf::from("the index"),
        again,
    }
}
