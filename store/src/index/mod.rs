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
mod damage;
mod gate;
mod inspection;
mod kept;
mod names;
mod options;
mod pending;
mod reader;
pub mod records;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::Duration;

use pool_core::name::LibraryRef;
use rocksdb::{ColumnFamily, DB, SnapshotWithThreadMode, WriteOptions};

use crate::error::{self, Again, Result, StoreError};
use crate::journal::frame::Digest;
use crate::journal::{Checkpointer, Journal};
use crate::mark::Mark;
use crate::steps::{Step, reached};

pub(crate) use batch::{Batch, follow_segments};
use gate::{Gate, Standstill};
pub(crate) use inspection::Inspection;
pub(crate) use kept::Kept;
use options::{
    LIBRARIES, MANIFESTS, META, OBJECTS, PAGES, REFERENCES, REGISTRY, ROOM, SEGMENTS, TAGS, TOKENS,
    WINDOWS, families, primary_options, secondary,
};
pub(crate) use pending::Pending;
pub use reader::Reader;

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
        scratch: PathBuf,
        /// What it has in memory hides newer tables: nothing is caught up with before it is opened
        /// anew, however often that fails.
        outdated: AtomicBool,
    },
}

/// Commits made, and how many of them the mark tells of.
struct Count {
    first: u64,
    commits: u64,
    marked: u64,
    /// Absent in an index in the making, and where none could be begun.
    journal: Option<Journal>,
}

/// What keeps one state of the index readable.
enum Pin<'a> {
    /// A primary's: RocksDB keeps what it replaces.
    Snapshot(SnapshotWithThreadMode<'a, DB>),
    /// A secondary's, which has no snapshots: it does not catch up for as long.
    Standstill(#[expect(dead_code, reason = "lives")] Standstill<'a>),
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
        if let Some(frame) = frame {
            batch.note(FRAME, frame);
        }
        self.write(&batch, true)
    }

    fn identity(&self) -> Result<Option<[u8; 16]>> {
        let Some(value) = self.now().get(META, STORE)? else {
            return Ok(None);
        };
        let identity = value.as_slice().try_into().map_err(|_| {
            StoreError::Corrupt("the index's note of its store is not 16 bytes".into())
        })?;
        Ok(Some(identity))
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

    /// Reads the number of commits.
    fn recount(&self) -> Result<()> {
        let Role::Primary { count, .. } = &self.role else {
            return Ok(());
        };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.first = self.now().counter(FIRST_COMMIT)?;
        count.commits = self.now().counter(COMMITS)?;
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
            let mut batch = Batch::replayed(self, *number, changes, true)?;
            let first = self.now().counter(FIRST_COMMIT)?;
            batch.count(*number, first);
            batch.note(FRAME, digest);
            // The last one makes all of them durable.
            self.write(&batch, nth + 1 == commits.len())?;
        }
        self.recount()
    }

    /// From now on every commit goes to the journal first.
    pub(crate) fn keep(&self, journal: Journal) {
        if let Role::Primary { count, .. } = &self.role {
            let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
            count.journal = Some(journal);
        }
    }

    /// True when a change that was refused may be there at the next opening.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let Role::Primary { count, .. } = &self.role else {
            return false;
        };
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing tells without a journal.
        count.journal.as_ref().is_none_or(Journal::is_in_doubt)
    }

    /// Refuses when the journal has no room for what a collection would have to write. Nearly always the last commit has
    /// seen to it that there is, and then nothing is waited for.
    pub(crate) fn reserve(&self) -> Result<()> {
        let Role::Primary { count, room, .. } = &self.role else {
            return Ok(());
        };
        if room.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.journal.as_mut().map_or(Ok(()), Journal::reserve)
    }

    /// Writes a checkpoint of the journal, if one is due or `anyway`. Others commit meanwhile. False when nothing was to be done,
    /// or another thread is at it.
    pub(crate) fn checkpoint(&self, anyway: bool) -> Result<bool> {
        let Role::Primary {
            count,
            checkpointing,
            ..
        } = &self.role
        else {
            return Ok(false);
        };
        let _alone = match checkpointing.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(alone)) => alone.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        let count = || count.lock().unwrap_or_else(PoisonError::into_inner);
        let turned: Option<Checkpointer> = match &mut count().journal {
            // What is in doubt belongs to the log that it is in.
            Some(journal) if (anyway || journal.is_due()) && !journal.is_in_doubt() => {
                Some(journal.turn()?)
            }
            _ => None,
        };
        let Some(checkpointer) = turned else {
            return Ok(false);
        };
        let (commits, bytes) = checkpointer.write(&self.pinned())?;
        if let Some(journal) = &mut count().journal {
            journal.turned(bytes);
        }
        tracing::info!(commits, bytes, "wrote a checkpoint");
        Ok(true)
    }

    /// Opens the index for reading beside a primary. `scratch` is a directory of this process for
    /// the reader's own log.
    pub(crate) fn open_secondary(path: &Path, scratch: &Path) -> Result<Self> {
        Ok(Self {
            path: path.into(),
            role: Role::Secondary {
                db: RwLock::new(Arc::new(secondary(path, scratch)?)),
                gate: Gate::default(),
                scratch: scratch.into(),
                outdated: AtomicBool::new(false),
            },
        })
    }

    /// Lets a secondary see what the primary has committed since, `least` commits or more if the
    /// index belongs to the store `identity` and counts. Waits for pins to end.
    pub(crate) fn catch_up(&self, identity: Option<[u8; 16]>, least: u64) -> Result<()> {
        /// The primary may take a file away that is about to be read; the next attempt finds what
        /// was in it elsewhere.
        const ATTEMPTS: u32 = 20;
        let Role::Secondary {
            db,
            gate,
            scratch,
            outdated,
        } = &self.role
        else {
            return Ok(());
        };
        let mut attempt = 1;
        loop {
            let caught_up = gate.alone(|| {
                let current = Arc::clone(&db.read().unwrap_or_else(PoisonError::into_inner));
                let log = oldest_log(&current);
                let followed = current.try_catch_up_with_primary();
                // Records of a log that went before they were read are in tables now, and what a
                // secondary has in memory of the same keys, older as it is, hides them.
                if followed.is_err() || attempt > 1 || oldest_log(&current) != log {
                    outdated.store(true, Ordering::Relaxed);
                }
                // In the gate, which orders what others see.
                if outdated.load(Ordering::Relaxed) {
                    let fresh = Arc::new(secondary(&self.path, scratch)?);
                    *db.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                    outdated.store(false, Ordering::Relaxed);
                }
                Ok(())
            });
            let result = caught_up.and_then(|()| self.check(identity, least));
            if result.is_ok() || attempt == ATTEMPTS {
                return result;
            }
            std::thread::sleep(Duration::from_millis(attempt.into()));
            attempt += 1;
        }
    }

    fn check(&self, identity: Option<[u8; 16]>, least: u64) -> Result<()> {
        let Some(identity) = identity else {
            return Ok(());
        };
        let refused = |why: String| StoreError::Refused {
            path: self.path.parent().unwrap_or(&self.path).into(),
            why,
        };
        let commits = self.now().counter(COMMITS)?;
        if self.identity()? != Some(identity) {
            return Err(refused(error::another_store()));
        }
        if commits < least {
            return Err(refused(error::older("its index knows", commits, least)));
        }
        Ok(())
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

    /// Begins a set of changes that becomes visible and durable as one.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Writes a batch to the journal, then with its number to the index, then the mark.
    fn commit(&self, batch: Batch<'_>) -> Result<()> {
        let Role::Primary {
            mark,
            count,
            unmarked,
            room,
            ..
        } = &self.role
        else {
            return Err(StoreError::Corrupt("only a writer can commit".into()));
        };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let committed = self.commit_counted(mark, &mut count, batch);
        unmarked.store(count.marked != count.commits, Ordering::Release);
        let has_room = count.journal.as_ref().is_none_or(Journal::has_room);
        room.store(committed.is_ok() && has_room, Ordering::Release);
        committed
    }

    fn commit_counted(&self, mark: &Mark, count: &mut Count, mut batch: Batch<'_>) -> Result<()> {
        if count.marked != count.commits {
            mark.advance(count.commits)?;
            count.marked = count.commits;
        }
        let number = count.commits + 1;
        if let Some(journal) = &mut count.journal {
            self.settle(journal, count.commits)?;
            batch.note(FRAME, journal.append(number, batch.changes())?);
            reached(Step::Framed);
        }
        batch.count(number, count.first);
        // If this fails the frame stays, and with it the doubt: both of them may be there at the next opening, or the
        // frame alone, and then it is replayed.
        self.write(&batch, true)?;
        reached(Step::Put);
        count.commits = number;
        let marked = match &mut count.journal {
            Some(journal) => {
                journal.confirm();
                mark.note(number)
            }
            None => mark.advance(number),
        };
        match marked {
            Ok(()) => count.marked = number,
            // The change is made, and whoever made it has to go by that. Who asked for it is told
            // by `acknowledge`, and the next one is refused unless the mark can be written by then.
            Err(error) => tracing::error!(%error, "noting a commit"),
        }
        reached(Step::Marked);
        Ok(())
    }

    /// Ends the doubt that an earlier commit left in the journal, for good or not at all.
    fn settle(&self, journal: &mut Journal, commits: u64) -> Result<()> {
        if journal.was_refused() {
            // RocksDB takes no write after a failed one before it has written out all that was committed and begun another
            // log. So once it takes one, what it refused is not there at the next opening, and may go from the journal; before
            // that the index could have a commit that the journal has not.
            let mut batch = self.batch();
            batch.note(COMMITS, commits.to_le_bytes());
            self.write(&batch, true)?;
        }
        if journal.is_in_doubt() {
            journal.take_back()?;
        }
        Ok(())
    }

    /// To be called before a change is answered for: an error when there is a commit that the mark does not tell of and
    /// cannot be made to. Nearly always there is none, and then nothing is waited for.
    pub(crate) fn acknowledge(&self) -> Result<()> {
        let Role::Primary {
            mark,
            count,
            unmarked,
            ..
        } = &self.role
        else {
            return Ok(());
        };
        if !unmarked.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        if count.marked != count.commits {
            mark.acknowledge(count.commits)?;
            count.marked = count.commits;
        }
        unmarked.store(false, Ordering::Release);
        Ok(())
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
        .expect("every family is opened or created with the database")
}

/// Number of the oldest log that has something in it which is in no table.
fn oldest_log(db: &DB) -> Option<u64> {
    db.property_int_value("rocksdb.min-log-number-to-keep")
        .ok()
        .flatten()
}

impl Batch<'_> {
    /// Notes that this is the commit `number`, where counting began at `first`.
    fn count(&mut self, number: u64, first: u64) {
        self.note(COMMITS, number.to_le_bytes());
        self.note(commit_key(number), []);
        if let Some(old) = number.checked_sub(COUNTED)
            && old >= first
        {
            self.forget(commit_key(old));
        }
    }
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
