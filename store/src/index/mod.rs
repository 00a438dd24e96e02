//! The index: typed access to RocksDB, and the only place that names it.
//!
//! An [`Index`] is opened by the one process that writes (the *primary*) or by any number of
//! readers beside it (*secondaries*, which follow the primary's log when asked to). Before it is
//! opened for writing, which rewrites parts of it, it is *inspected* without changing a byte.
//!
//! Every batch counts: it carries the number of commits so far, a key of its own for its number,
//! and is followed by the mark ([`crate::mark`]). RocksDB recovers as many commits as it can and
//! drops what follows a damaged record of its log, which is right for a torn tail that nobody was
//! told of, and silent where it is not. The mark tells the two apart, and the keys show a hole.

mod batch;
mod damage;
mod gate;
mod inspection;
mod kept;
mod names;
mod options;
mod reader;
pub mod records;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use pool_core::name::LibraryRef;
use rocksdb::{ColumnFamily, DB, SnapshotWithThreadMode, WriteOptions};

use crate::error::{self, Again, Result, StoreError};
use crate::mark::Mark;

pub(crate) use batch::Batch;
use gate::{Gate, Standstill};
pub(crate) use inspection::Inspection;
pub(crate) use kept::Kept;
use options::{
    LIBRARIES, MANIFESTS, META, OBJECTS, PAGES, REFERENCES, REGISTRY, ROOM, SEGMENTS, TAGS, TOKENS,
    WINDOWS, families, primary_options, secondary,
};
pub use reader::Reader;

const EPOCH: &[u8] = b"epoch";
const NEXT_SEGMENT: &[u8] = b"next-segment";
const STORE: &[u8] = b"store";
const COMMITS: &[u8] = b"commits";
const FIRST_COMMIT: &[u8] = b"first-commit";
const COMMIT: &[u8] = b"commit/";
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
        count: Mutex<Count>,
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
        let mut options = primary_options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, path, families())
            .map_err(|source| failed("creating", source))?;
        let index = Self {
            path: path.into(),
            role: Role::Inspector(db),
        };
        if index.inspect()?.commits > 0 {
            return Err(StoreError::Refused {
                path: path.parent().unwrap_or(path).into(),
                why: "it has no superblock, and its index is not empty: put the superblock back \
                      from a backup"
                    .into(),
            });
        }
        let mut batch = index.batch();
        batch.put_meta(STORE, identity);
        batch.put_meta(FIRST_COMMIT, 0u64.to_le_bytes());
        batch.put_meta(COMMITS, 0u64.to_le_bytes());
        batch.put_meta(commit_key(0), []);
        index.write(batch)
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
                };
                let count = Mutex::new(count);
                let path = path.into();
                let role = Role::Primary { db, mark, count };
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

    /// Reads the number of commits, and brings the mark up to it: a stop may have come between.
    fn recount(&self) -> Result<()> {
        let Role::Primary { mark, count, .. } = &self.role else {
            return Ok(());
        };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.first = self.now().counter(FIRST_COMMIT)?;
        count.commits = self.now().counter(COMMITS)?;
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
        let mut batch = self.batch();
        batch.put_meta(STORE, identity);
        batch.put_meta(FIRST_COMMIT, commits.to_le_bytes());
        batch.put_meta(COMMITS, commits.to_le_bytes());
        batch.put_meta(commit_key(commits), []);
        self.write(batch)?;
        // There may have been none: its file is empty then.
        mark.advance(commits)?;
        self.recount()
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
            return Err(refused(error::older(commits, least)));
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

    /// The index as it is at each question: for a single one, or under the writer's lock.
    pub(crate) fn now(&self) -> Reader<'_> {
        Reader::new(self, None)
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
        Batch::new(self, self.own_db())
    }

    /// Writes a batch and its number, then the mark.
    fn commit(&self, mut batch: Batch<'_>) -> Result<()> {
        let Role::Primary { mark, count, .. } = &self.role else {
            return Err(StoreError::Corrupt("only a writer can commit".into()));
        };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        if count.marked != count.commits {
            mark.advance(count.commits)?;
            count.marked = count.commits;
        }
        let number = count.commits + 1;
        batch.put_meta(COMMITS, number.to_le_bytes());
        batch.put_meta(commit_key(number), []);
        if let Some(old) = number.checked_sub(COUNTED)
            && old >= count.first
        {
            batch.delete_meta(commit_key(old));
        }
        self.write(batch)?;
        count.commits = number;
        match mark.advance(number) {
            Ok(()) => count.marked = number,
            // The change is made, and whoever made it has to go by that. Who asked for it is told
            // by `acknowledge`, and the next one is refused unless the mark can be written by then.
            Err(error) => tracing::error!(%error, "noting a commit"),
        }
        Ok(())
    }

    /// To be called before a change is answered for, under the writer's lock: an error when there
    /// is a commit that the mark does not tell of and cannot be made to.
    pub(crate) fn acknowledge(&self) -> Result<()> {
        let Role::Primary { mark, count, .. } = &self.role else {
            return Ok(());
        };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        if count.marked != count.commits {
            mark.acknowledge(count.commits)?;
            count.marked = count.commits;
        }
        Ok(())
    }

    fn write(&self, batch: Batch<'_>) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.own_db()
            .write_opt(batch.writes, &options)
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
