//! Following the process that writes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rocksdb::DB;

use super::gate::Gate;
use super::options::secondary;
use super::{COMMITS, Index, Role};
use crate::error::{self, Result, StoreError};

impl Index {
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
    /// index belongs to the store `identity` and counts. Waits for pins to end. `is_another` says that there may be another index by
    /// now, of which nothing is known yet.
    pub(crate) fn catch_up(
        &self,
        identity: Option<[u8; 16]>,
        least: u64,
        is_another: bool,
    ) -> Result<()> {
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
                if is_another || attempt > 1 || !follow(&current) {
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
