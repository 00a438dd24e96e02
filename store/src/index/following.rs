//! Following the process that writes.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rocksdb::DB;

use super::gate::Gate;
use super::options::{Followed, META, secondary};
use super::pending::Pending;
use super::state::{MOST_BYTES, MOST_STEPS, State};
use super::{COMMITS, FRAME, Index, Role, failed};
use crate::error::{self, Result, StoreError};
use crate::journal::Tail;
use crate::journal::frame::Digest;
use crate::steps::{Step, reached};

/// How a follower's index is to catch up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The store's, if its commits are counted.
    pub(crate) identity: Option<[u8; 16]>,
    /// Commits that the mark tells of.
    pub(crate) marked: u64,
    /// There may be another index by now, of which nothing is known yet.
    pub(crate) is_another: bool,
    /// It has had more than counts, which may have been taken back.
    pub(crate) was_beyond: bool,
    /// Readers are waited for.
    pub(crate) waits: bool,
}

/// How far it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaughtUp {
    /// Not, since somebody reads.
    NotAtAll,
    /// To what counts.
    Exactly,
    /// To this commit, whose frame comes to this digest: it is about to count, or to be taken back.
    Beyond(u64, Digest),
}

impl Index {
    /// Opens what is `followed` of the index for reading beside a primary. `scratch` is a directory of this process for
    /// the reader's own log.
    pub(crate) fn open_secondary(path: &Path, scratch: &Path, followed: Followed) -> Result<Self> {
        // Before it is opened: one that goes meanwhile is noticed.
        let oldest = oldest_log_in(path);
        Ok(Self {
            path: path.into(),
            role: Role::Secondary {
                db: RwLock::new(Arc::new(secondary(path, scratch, followed)?)),
                gate: Gate::default(),
                followed,
                scratch: scratch.into(),
                outdated: AtomicBool::new(false),
                oldest_log: AtomicU64::new(oldest),
                spare: Mutex::default(),
            },
        })
    }

    /// Opens the index anew beside the one that is read, if that has to be before it can catch up: readers would have to wait for it then.
    pub(crate) fn prepare(&self) {
        let Role::Secondary {
            followed,
            scratch,
            oldest_log,
            spare,
            ..
        } = &self.role
        else {
            return;
        };
        // Whoever else needs it waits for that, too.
        let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
        let there = oldest_log_in(&self.path);
        let before = oldest_log.swap(there, Ordering::Relaxed);
        if before == there {
            return;
        }
        match secondary(&self.path, scratch, *followed) {
            Ok(fresh) => *spare = Some(Arc::new(fresh)),
            Err(error) => {
                // The primary may have taken away what it was about to read.
                tracing::debug!(%error, "opening the index anew");
                oldest_log.store(before, Ordering::Relaxed);
            }
        }
    }

    /// Waits until nobody reads. Somebody may begin right after.
    pub(crate) fn wait_for_readers(&self) {
        if let Role::Secondary { gate, .. } = &self.role {
            gate.wait_until_empty();
        }
    }

    /// The database should catch up soon: there is much on top of it.
    pub(crate) fn is_behind(&self) -> bool {
        match &self.role {
            Role::Secondary { gate, .. } => gate.state().is_half_full(),
            _ => false,
        }
    }

    /// Has what `tail` finds in the journal, up to the commit `to`, come on top of what the database has. False when it does not, because
    /// the database is to catch up first, or because the journal does not tell. The latter also where a commit that the database has `beyond` what
    /// counted turns out to be another one.
    pub(crate) fn go_on(
        &self,
        tail: Option<&mut Tail>,
        to: u64,
        beyond: Option<(u64, Digest)>,
    ) -> bool {
        let (Role::Secondary { gate, .. }, Some(place)) = (&self.role, tail) else {
            return false;
        };
        let state = gate.state();
        let more = to.saturating_sub(place.last());
        let has_room = !state.is_full() && more <= state.room() as u64;
        if !has_room || beyond.is_some_and(|(commits, _)| commits > to) {
            return false;
        }
        let steps = steps_to(place, to, beyond);
        let told = steps.is_some();
        gate.push(steps.unwrap_or_default());
        told
    }

    /// Lets a secondary see what the primary has committed since, all that the mark tells of or more. The `tail` of the journal comes along,
    /// where it can. Where it is not `wanted` that readers are waited for and there are some, nothing is done.
    pub(crate) fn catch_up(&self, wanted: &Wanted, tail: &mut Option<Tail>) -> Result<CaughtUp> {
        /// The primary may take a file away that is about to be read; the next attempt finds what
        /// was in it elsewhere.
        const ATTEMPTS: u32 = 20;
        let Role::Secondary {
            db,
            gate,
            followed,
            scratch,
            outdated,
            spare,
            ..
        } = &self.role
        else {
            return Ok(CaughtUp::Exactly);
        };
        let &Wanted {
            identity,
            marked,
            is_another,
            was_beyond,
            waits,
        } = wanted;
        if is_another {
            *tail = None;
        }
        let current = || Arc::clone(&db.read().unwrap_or_else(PoisonError::into_inner));
        self.prepare();
        let spare = || spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (mut attempt, mut failure) = (1, None);
        let mut is_of_another = false;
        loop {
            // In the gate, which orders what others see.
            let caught_up = gate.alone(waits, |state| {
                let caught_up = (|| {
                    let mut fresh = spare();
                    let mut caught_up = fresh.clone().unwrap_or_else(current);
                    if is_another || attempt > 1 || !follow(&caught_up) {
                        outdated.store(true, Ordering::Relaxed);
                    }
                    if outdated.load(Ordering::Relaxed) {
                        caught_up = Arc::new(secondary(&self.path, scratch, *followed)?);
                        reached(Step::Reopened);
                        // A table that went while it was opened is taken for none (RocksDB opens what there is), and is there no more in the
                        // list of tables that is read now.
                        follow(&caught_up);
                        fresh = Some(Arc::clone(&caught_up));
                    }
                    let found = last_commit(&caught_up)?;
                    // Nobody is shown what is another store's, or lacks what counts.
                    if let Some(identity) = identity {
                        let whose = super::identity_in(&caught_up)?;
                        is_of_another = whose.is_some_and(|whose| whose != identity);
                        self.check(identity, whose, found.0, marked)?;
                    }
                    if let Some(fresh) = fresh {
                        *db.write().unwrap_or_else(PoisonError::into_inner) = fresh;
                        outdated.store(false, Ordering::Relaxed);
                    }
                    Ok(found)
                })();
                match caught_up {
                    Ok(found) if !was_beyond && take_along(state, tail, marked, found) => {}
                    Ok((commits, frame)) => {
                        // What comes after what counts may be taken back, and is the journal's to tell once it counts.
                        let is_right = commits > marked || tail_at(tail, marked) == frame;
                        tail.take_if(|_| !is_right);
                        state.lose_track();
                    }
                    // The same.
                    Err(_) if last_commit(&current()).is_ok_and(|(has, _)| has < marked) => {}
                    Err(_) => {
                        *tail = None;
                        state.lose_track();
                    }
                }
                caught_up
            });
            let Some(caught_up) = caught_up else {
                // Not because somebody reads, if there was an attempt.
                return failure.map_or(Ok(CaughtUp::NotAtAll), Err);
            };
            let result = caught_up.map(|(commits, frame)| match frame {
                Some(frame) if identity.is_some() && commits > marked => {
                    CaughtUp::Beyond(commits, frame)
                }
                _ => CaughtUp::Exactly,
            });
            // What is tried again does not change whose it is.
            if result.is_ok() || attempt == ATTEMPTS || is_of_another {
                return result;
            }
            failure = result.err();
            std::thread::sleep(Duration::from_millis(attempt.into()));
            attempt += 1;
        }
    }

    /// Refuses what is not the index of the store `identity`, or has less than `least` commits.
    fn check(
        &self,
        identity: [u8; 16],
        whose: Option<[u8; 16]>,
        commits: u64,
        least: u64,
    ) -> Result<()> {
        let why = match whose {
            None => error::lacks_tables(),
            Some(whose) if whose != identity => error::another_store(),
            Some(_) if commits < least => error::older("its index knows", commits, least),
            Some(_) => return Ok(()),
        };
        Err(StoreError::Refused {
            path: self.path.parent().unwrap_or(&self.path).into(),
            why,
        })
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

/// Number of the last commit that the database has, 0 where they are not counted, and the digest of its frame.
fn last_commit(db: &DB) -> Result<(u64, Option<Digest>)> {
    let get = |key| {
        let found = db.get_cf(super::family(db, META), key);
        found.map_err(|source| failed("reading", source))
    };
    let bad = |what| StoreError::Corrupt(format!("{what} is not as long as it should be"));
    let number = get(COMMITS)?.map(|found| found.as_slice().try_into());
    let number = number
        .transpose()
        .map_err(|_| bad("the count of commits"))?;
    let frame = get(FRAME)?.map(|found| found.as_slice().try_into());
    let frame = frame
        .transpose()
        .map_err(|_| bad("the index's note of its journal"))?;
    Ok((number.map_or(0, u64::from_le_bytes), frame))
}

/// The state with the steps to what `found` says that the database has, if that is what counts and the journal tells.
fn take_along(
    state: &mut State,
    tail: &mut Option<Tail>,
    marked: u64,
    (commits, frame): (u64, Option<Digest>),
) -> bool {
    let steps = tail
        .as_mut()
        .filter(|tail| commits == marked && is_near(tail, marked))
        .and_then(|tail| steps_to(tail, marked, None));
    let Some(steps) = steps.filter(|_| tail.as_ref().map(Tail::digest) == frame) else {
        return false;
    };
    for step in steps {
        state.push(step);
    }
    state.settle();
    true
}

/// Not many commits lie between: readers may wait until their heads are read.
fn is_near(tail: &Tail, to: u64) -> bool {
    to.saturating_sub(tail.last()) <= MOST_STEPS as u64
}

/// The digest of the commit `marked`, where the journal tells; `tail` is behind that then.
fn tail_at(tail: &mut Option<Tail>, marked: u64) -> Option<Digest> {
    let tail = tail.as_mut().filter(|tail| is_near(tail, marked))?;
    let is_there = tail.skip(marked).unwrap_or(false);
    is_there.then(|| tail.digest())
}

/// What the commits up to `to` have changed; `None` where the journal does not tell, where it is too much, and where the one
/// that is there `beyond` what counts is another one.
fn steps_to(tail: &mut Tail, to: u64, beyond: Option<(u64, Digest)>) -> Option<Vec<Arc<Pending>>> {
    let mut steps = Vec::new();
    let mut bytes = 0;
    let told = tail.go_on(to, |number, digest, changes| {
        bytes += changes.len();
        let is_another =
            beyond.is_some_and(|(commits, frame)| commits == number && frame != *digest);
        if is_another || bytes > MOST_BYTES || steps.len() >= MOST_STEPS {
            return false;
        }
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
