//! Following the process that writes.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rocksdb::DB;

use super::gate::Gate;
use super::options::{META, secondary};
use super::pending::Pending;
use super::{COMMITS, Index, Role, failed};
use crate::error::{self, Result, StoreError};
use crate::journal::Tail;

impl Index {
    /// Opens the index for reading beside a primary. `scratch` is a directory of this process for
    /// the reader's own log.
    pub(crate) fn open_secondary(path: &Path, scratch: &Path) -> Result<Self> {
        // Before it is opened: one that goes meanwhile is noticed.
        let oldest = oldest_log_in(path);
        Ok(Self {
            path: path.into(),
            role: Role::Secondary {
                db: RwLock::new(Arc::new(secondary(path, scratch)?)),
                gate: Gate::default(),
                scratch: scratch.into(),
                outdated: AtomicBool::new(false),
                oldest_log: AtomicU64::new(oldest),
                spare: Mutex::default(),
            },
        })
    }

    /// Opens the index anew beside the one that is read, if that has to be before it can catch up: readers would have to wait for it then.
    pub(crate) fn prepare(&self) -> Result<()> {
        let Role::Secondary {
            scratch,
            oldest_log,
            spare,
            ..
        } = &self.role
        else {
            return Ok(());
        };
        let there = oldest_log_in(&self.path);
        if oldest_log.swap(there, Ordering::Relaxed) != there {
            let fresh = Arc::new(secondary(&self.path, scratch)?);
            *spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
        }
        Ok(())
    }

    /// Waits until nobody reads. Somebody may begin right after.
    pub(crate) fn wait_for_readers(&self) {
        if let Role::Secondary { gate, .. } = &self.role {
            gate.wait_until_empty();
        }
    }

    /// Has what `tail` finds in the journal, up to the commit `to`, come on top of what the database has. False when it does not, because
    /// the database is to catch up first, or because the journal does not tell: then there is no place in it any more.
    pub(crate) fn go_on(&self, tail: &mut Option<Tail>, to: u64) -> bool {
        let (Role::Secondary { gate, .. }, Some(place)) = (&self.role, tail.as_mut()) else {
            return false;
        };
        if gate.is_full() {
            return false;
        }
        if let Some(steps) = steps_to(place, to) {
            gate.push(steps);
        } else {
            *tail = None;
        }
        tail.is_some()
    }

    /// Lets a secondary see what the primary has committed since, `least` commits or more if the
    /// index belongs to the store `identity` and counts. Waits for pins to end. `is_another` says that there may be another index by
    /// now, of which nothing is known yet. The `tail` of the journal comes along, where it can.
    pub(crate) fn catch_up(
        &self,
        identity: Option<[u8; 16]>,
        least: u64,
        is_another: bool,
        tail: &mut Option<Tail>,
    ) -> Result<()> {
        /// The primary may take a file away that is about to be read; the next attempt finds what
        /// was in it elsewhere.
        const ATTEMPTS: u32 = 20;
        let Role::Secondary {
            db,
            gate,
            scratch,
            outdated,
            spare,
            ..
        } = &self.role
        else {
            return Ok(());
        };
        if is_another {
            *tail = None;
        }
        let current = || Arc::clone(&db.read().unwrap_or_else(PoisonError::into_inner));
        let replace = |fresh: Arc<DB>| {
            *db.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        };
        self.prepare()?;
        let mut fresh = spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let told = tail.as_ref().map_or(0, Tail::last);
        let mut attempt = 1;
        loop {
            let caught_up = gate.alone(|state| {
                if let Some(fresh) = fresh.take() {
                    replace(fresh);
                }
                if is_another || attempt > 1 || !follow(&current()) {
                    outdated.store(true, Ordering::Relaxed);
                }
                // In the gate, which orders what others see.
                if outdated.load(Ordering::Relaxed) {
                    replace(Arc::new(secondary(&self.path, scratch)?));
                    outdated.store(false, Ordering::Relaxed);
                }
                let commits = commits_in(&current())?;
                // Otherwise readers were told of more than it has, which stays on top until it has that.
                if commits >= told {
                    if let Some(steps) = tail.as_mut().and_then(|tail| steps_to(tail, commits)) {
                        for step in steps {
                            state.push(step);
                        }
                        state.settle();
                    } else {
                        *tail = None;
                        state.lose_track();
                    }
                }
                Ok(commits)
            });
            let result =
                caught_up.and_then(|commits| self.check(identity, commits, least.max(told)));
            if result.is_ok() || attempt == ATTEMPTS || self.is_of_another(identity) {
                return result;
            }
            std::thread::sleep(Duration::from_millis(attempt.into()));
            attempt += 1;
        }
    }

    /// True when it is known to be another store's: what is tried again does not change that.
    fn is_of_another(&self, identity: Option<[u8; 16]>) -> bool {
        identity.is_some() && self.identity().is_ok_and(|found| found != identity)
    }

    fn check(&self, identity: Option<[u8; 16]>, commits: u64, least: u64) -> Result<()> {
        let Some(identity) = identity else {
            return Ok(());
        };
        let refused = |why: String| StoreError::Refused {
            path: self.path.parent().unwrap_or(&self.path).into(),
            why,
        };
        if self.identity()? != Some(identity) {
            return Err(refused(error::another_store()));
        }
        if commits < least {
            return Err(refused(error::older("its index knows", commits, least)));
        }
        Ok(())
    }
}

/// Reads on. False when that failed, or may have missed something: records of a log that went before they were read are in tables
/// now, and what a secondary has in memory of the same keys, older as it is, hides them.
fn follow(db: &DB) -> bool {
    let log = oldest_log(db);
    db.try_catch_up_with_primary().is_ok() && oldest_log(db) == log
}

/// Number of the oldest log that has something in it which is in no table.
fn oldest_log(db: &DB) -> Option<u64> {
    db.property_int_value("rocksdb.min-log-number-to-keep")
        .ok()
        .flatten()
}

/// Number of the oldest log of the index at `path`; 0 where that cannot be told.
fn oldest_log_in(path: &Path) -> u64 {
    let entries = path.read_dir().into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()?.strip_suffix(".log")?.parse().ok()
    };
    entries.filter_map(number).min().unwrap_or(0)
}

/// Commits that the database has; 0 where they are not counted.
fn commits_in(db: &DB) -> Result<u64> {
    let found = db.get_cf(super::family(db, META), COMMITS);
    let found = found.map_err(|source| failed("reading", source))?;
    let bytes = found.map(|found| found.as_slice().try_into());
    bytes
        .transpose()
        .map(|bytes| bytes.map_or(0, u64::from_le_bytes))
        .map_err(|_| StoreError::Corrupt("the count of commits is not 8 bytes".into()))
}

/// What the commits up to `to` have changed; `None` where the journal does not tell.
fn steps_to(tail: &mut Tail, to: u64) -> Option<Vec<Arc<Pending>>> {
    let mut steps = Vec::new();
    let told = tail.go_on(to, |number, digest, changes| {
        let step = Pending::of_commit(number, digest, changes);
        let is_right = step.is_some();
        steps.extend(step.map(Arc::new));
        is_right
    });
    match told {
        Ok(true) => Some(steps),
        Ok(false) => None,
        Err(error) => {
            tracing::debug!(%error, "reading the end of the journal");
            None
        }
    }
}
