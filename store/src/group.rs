//! Group commit: what several commits change is made durable as one.
//!
//! A commit is decided under the writer's lock, in the order of all others, and *joins* the group that is gathering there.
//! Then it lets go of the lock and waits. One of those who wait *leads*: it takes the group, syncs each segment that
//! was written to once, and makes one change of the index of all of them: one frame, one batch, one number. Whoever
//! comes meanwhile gathers for the next group. So a group is there whole or not at all, and costs what one commit does.
//!
//! Until then others do not see what a group changes, but for the commits that come after it: they
//! find it [pending](crate::index::Pending). When a group cannot be made durable so cannot those that built on it. Its
//! leader gets the error, unless that is about a segment which others have written to and it has not, or somebody was told
//! of it before; and the others try again, each to get its own or to be done.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use pool_core::extent::SegmentId;

use crate::error::StoreError;
use crate::index::{Changes, Index, Pending};
use crate::segment::Recorded;
use crate::steps::{Step, reached};
use crate::target::{Target, Unsynced, Written};

#[cfg(test)]
mod tests;

/// Bytes of changes from which on a group takes nobody else: a frame is made in memory, and has less than 4 GiB.
const MOST_BYTES: usize = 64 << 20;

/// Groups of commits on their way to the disk.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    state: Mutex<State>,
    /// A group has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    gathering: Group,
    /// What the group changes that is being made durable.
    leading: Option<Followed>,
    joined: u64,
    failed: u64,
}

/// What commits have joined to.
#[derive(Debug, Default)]
struct Group {
    /// Of each commit in turn.
    changes: Vec<Changes>,
    bytes: usize,
    /// What has to be durable first, each file once.
    written: Vec<(Arc<Target>, Written)>,
    recorded: Vec<Recorded>,
    followed: Followed,
}

/// What others look at of a group.
#[derive(Clone, Debug, Default)]
struct Followed {
    pending: Vec<Arc<Pending>>,
    outcome: Arc<Outcome>,
}

/// What became of a group.
#[derive(Debug, Default)]
struct Outcome(AtomicU8);

const OPEN: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

impl Outcome {
    fn get(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, is_done: bool) {
        let outcome = if is_done { DONE } else { FAILED };
        self.0.store(outcome, Ordering::Release);
    }
}

/// What is on its way, as of some moment under the writer's lock.
#[derive(Debug)]
pub(crate) struct Sight {
    pending: Vec<Arc<Pending>>,
    outcomes: Vec<Arc<Outcome>>,
    joined: u64,
    failed: u64,
}

impl Sight {
    pub(crate) fn pending(&self) -> Vec<Arc<Pending>> {
        self.pending.clone()
    }

    /// Groups that had come to nothing.
    pub(crate) fn failures(&self) -> u64 {
        self.failed
    }

    /// True when nothing is on its way.
    pub(crate) fn is_clear(&self) -> bool {
        self.pending.is_empty()
    }

    /// True when something on its way is moved or removed.
    pub(crate) fn removes(&self) -> bool {
        self.pending.iter().any(|pending| pending.removes())
    }

    /// Commits that had joined a group.
    pub(crate) fn joined(&self) -> u64 {
        self.joined
    }

    /// True when commits have joined between the two.
    pub(crate) fn is_before_others(&self, later: &Self) -> bool {
        self.joined != later.joined
    }

    /// True when something that this has seen, or could have, came to nothing before the other.
    pub(crate) fn is_void(&self, later: &Self) -> bool {
        self.failed != later.failed
    }
}

/// One commit's part of a group.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) changes: Changes,
    pub(crate) pending: Arc<Pending>,
    pub(crate) written: Vec<(Arc<Target>, Written)>,
    pub(crate) recorded: Vec<Recorded>,
}

/// A place in a group.
#[derive(Clone, Debug)]
#[must_use = "nothing is durable before it has been waited for"]
pub(crate) struct Place {
    outcome: Arc<Outcome>,
    /// Files that its part has written to.
    written: Vec<Arc<Target>>,
}

impl Place {
    /// True while nobody knows what becomes of its group.
    pub(crate) fn is_open(&self) -> bool {
        self.outcome.get() == OPEN
    }

    /// True when its group is durable.
    pub(crate) fn is_done(&self) -> bool {
        self.outcome.get() == DONE
    }

    /// What it is told that has led the group.
    fn told(&self, broken: Broken) -> Failed {
        match broken {
            Broken::Refused(error) => Failed::Itself(error),
            // Any of those who wrote there may have lost something.
            Broken::Unsynced(file, error)
                if self.written.iter().any(|target| Arc::ptr_eq(target, &file)) =>
            {
                Failed::Itself(error)
            }
            Broken::Unsynced(..) | Broken::Spoilt(_) => Failed::Other,
        }
    }
}

/// Why a group has come to nothing.
#[derive(Debug)]
enum Broken {
    /// The journal or the index has not taken it.
    Refused(StoreError),
    /// The file of a segment did not get to the disk.
    Unsynced(Arc<Target>, StoreError),
    /// It had not before, and somebody was told.
    Spoilt(SegmentId),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) | Self::Unsynced(_, error) => error.fmt(f),
            Self::Spoilt(id) => write!(
                f,
                "what was written to segment {id} did not all get to the disk"
            ),
        }
    }
}

/// Why a part of a group is not durable.
#[derive(Debug)]
pub(crate) enum Failed {
    /// What this one has tried.
    Itself(StoreError),
    /// What another one has tried: to be done again.
    Other,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Itself(error)
    }
}

impl Groups {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Groups that came to nothing so far.
    pub(crate) fn failed(&self) -> u64 {
        self.state().failed
    }

    /// What is on its way. To be called under the writer's lock.
    pub(crate) fn sight(&self) -> Sight {
        let state = self.state();
        let groups = state.leading.iter().chain([&state.gathering.followed]);
        let groups: Vec<_> = groups.filter(|group| !group.pending.is_empty()).collect();
        let pending = groups
            .iter()
            .flat_map(|group| group.pending.iter().cloned());
        Sight {
            pending: pending.collect(),
            outcomes: groups
                .iter()
                .map(|group| Arc::clone(&group.outcome))
                .collect(),
            joined: state.joined,
            failed: state.failed,
        }
    }

    /// Joins the group that is gathering. To be called under the writer's lock, with what was seen under it. `None` when
    /// what this builds on has come to nothing since, or what it has written.
    pub(crate) fn join(&self, index: &Index, seen: &Sight, part: Part) -> Option<Place> {
        let mut state = self.state();
        while state.gathering.bytes > 0 && state.gathering.bytes + part.changes.len() > MOST_BYTES {
            state = self.step(index, state).0;
        }
        let is_lost = part.written.iter().any(|(target, _)| target.is_spoilt());
        if state.failed != seen.failed || is_lost {
            return None;
        }
        state.joined += 1;
        let files = part.written.iter().map(|(target, _)| Arc::clone(target));
        let files = files.collect();
        let group = &mut state.gathering;
        group.bytes += part.changes.len();
        group.changes.push(part.changes);
        group.recorded.extend(part.recorded);
        for (target, written) in part.written {
            let mut known = group.written.iter_mut();
            match known.find(|(known, _)| Arc::ptr_eq(known, &target)) {
                Some((_, known)) => *known = written.max(*known),
                None => group.written.push((target, written)),
            }
        }
        group.followed.pending.push(part.pending);
        Some(Place {
            outcome: Arc::clone(&group.followed.outcome),
            written: files,
        })
    }

    /// Waits until a place's group is durable, or sees to it. Not to be called under the writer's lock, but for those
    /// who want to keep others from joining.
    pub(crate) fn wait(&self, index: &Index, place: &Place) -> std::result::Result<(), Failed> {
        let mut state = self.state();
        loop {
            match place.outcome.get() {
                DONE => return Ok(()),
                FAILED => return Err(Failed::Other),
                _ => {}
            }
            let (next, led) = self.step(index, state);
            state = next;
            // Whoever leads while its place is open leads its own group.
            if let Some(broken) = led {
                return Err(place.told(broken));
            }
        }
    }

    /// Waits until all that was seen on its way has come to its end; true when all of it is durable.
    pub(crate) fn stands(&self, index: &Index, seen: &Sight) -> bool {
        let mut state = self.state();
        while seen.outcomes.iter().any(|outcome| outcome.get() == OPEN) {
            state = self.step(index, state).0;
        }
        seen.outcomes.iter().all(|outcome| outcome.get() == DONE)
    }

    /// Waits until nothing is on its way. To be called under the writer's lock, where nothing joins.
    pub(crate) fn drain(&self, index: &Index) {
        let mut state = self.state();
        while state.leading.is_some() || !state.gathering.followed.pending.is_empty() {
            state = self.step(index, state).0;
        }
    }

    /// Waits for the group that is being made durable, or makes the next one durable; answers with why it could not be.
    fn step<'a>(
        &'a self,
        index: &Index,
        mut state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, Option<Broken>) {
        if state.leading.is_some() {
            let state = self.ended.wait(state);
            return (state.unwrap_or_else(PoisonError::into_inner), None);
        }
        let group = std::mem::take(&mut state.gathering);
        state.leading = Some(group.followed.clone());
        drop(state);
        let mut leader = Leader {
            groups: self,
            outcome: Arc::clone(&group.followed.outcome),
            is_done: false,
        };
        let broken = group.make_durable(index).err();
        if let Some(error) = &broken {
            tracing::warn!(%error, "what was to be committed has come to nothing");
        }
        leader.is_done = broken.is_none();
        drop(leader);
        (self.state(), broken)
    }
}

/// While it lives nothing is made durable.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Halt<'a>(&'a Groups);

#[cfg(test)]
impl Drop for Halt<'_> {
    fn drop(&mut self) {
        self.0.state().leading = None;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
impl Groups {
    /// Keeps groups from being made durable.
    pub(crate) fn hold(&self) -> Halt<'_> {
        let mut state = self.state();
        assert!(state.leading.is_none(), "one is being made durable");
        state.leading = Some(Followed::default());
        Halt(self)
    }

    /// Commits that have joined so far.
    pub(crate) fn joined(&self) -> u64 {
        self.state().joined
    }
}

/// Tells everybody what became of a group, whatever became of its leader.
struct Leader<'a> {
    groups: &'a Groups,
    outcome: Arc<Outcome>,
    is_done: bool,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = self.groups.state();
        state.leading = None;
        self.outcome.set(self.is_done);
        if !self.is_done {
            state.failed += 1;
            // It builds on what is not there.
            let next = std::mem::take(&mut state.gathering);
            next.followed.outcome.set(false);
        }
        self.groups.ended.notify_all();
    }
}

impl Group {
    fn make_durable(self, index: &Index) -> std::result::Result<(), Broken> {
        reached(Step::Taken);
        for (target, written) in &self.written {
            target.sync(*written).map_err(|unsynced| match unsynced {
                Unsynced::Now(error) => Broken::Unsynced(Arc::clone(target), error),
                Unsynced::Before => Broken::Spoilt(target.id()),
            })?;
        }
        reached(Step::Synced);
        let mut batch = index.batch();
        for changes in &self.changes {
            batch.append(changes);
        }
        batch.commit().map_err(Broken::Refused)?;
        for recorded in &self.recorded {
            recorded.confirm();
        }
        Ok(())
    }
}
