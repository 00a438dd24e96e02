//! Following the process that writes to a store.
//!
//! The mark tells that there was a commit. What it changed is read from the end of the journal, where that is followed: some microseconds, in which
//! the index itself could not even be asked whether it has changed. It catches up behind that, when nobody waits
//! ([`StoreView::settle`]); and at once where the journal does not tell.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::StoreView;
use crate::backend::Identity;
use crate::error::{Result, StoreError};
use crate::index::{CaughtUp, Index, Wanted};
use crate::journal::Tail;
use crate::journal::frame::Digest;

/// The least time between two looks at what does not count.
const PAUSE: Duration = Duration::from_millis(20);

/// How far a follower has come.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    /// The journal, if it is to be followed.
    journal: Option<PathBuf>,
    /// Held while catching up, which is done once for all who ask meanwhile.
    place: Mutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    /// What the mark said when it was last caught up with, unless the last attempt at that failed.
    seen: Option<Seen>,
    /// Behind the last commit that counts.
    tail: Option<Tail>,
    /// The index has more than counts.
    beyond: Option<Beyond>,
}

/// A commit that the index has and that does not count: it is about to, or to be taken back.
#[derive(Clone, Copy, Debug)]
struct Beyond {
    number: u64,
    /// What its frame comes to.
    frame: Digest,
    /// When it was last found there.
    found: Instant,
}

/// What the mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mark: Option<Identity>,
    pub(crate) generation: u64,
}

impl Follower {
    /// Of a store whose mark was this when its index was opened.
    pub(crate) fn new(opened: Seen, journal: Option<PathBuf>) -> Self {
        let seen = Some(Seen {
            generation: u64::MAX,
            ..opened
        });
        Self {
            journal,
            place: Mutex::new(Place {
                seen,
                ..Place::default()
            }),
        }
    }

    /// Makes what the mark says to be there visible, which `look` reads, and runs `then` if there was something; `identity` is the store's, if its
    /// commits are counted.
    pub(crate) fn refresh(
        &self,
        index: &Index,
        identity: Option<[u8; 16]>,
        look: impl FnOnce() -> Result<Seen>,
        then: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        // Before catching up: a commit in between is then seen twice rather than never. And one at a time: if there are fewer commits than there
        // were, somebody has put an older copy in place of the store.
        let now = look()?;
        // What is there and does not count is looked at until it does, or has gone.
        let is_due = |beyond: Beyond| beyond.found.elapsed() >= PAUSE;
        if place.seen == Some(now) && !place.beyond.is_some_and(is_due) {
            return Ok(());
        }
        let before = place.seen.take();
        let is_another = before.is_none_or(|seen| {
            let has_fewer = now.generation < seen.generation && seen.generation != u64::MAX;
            seen.mark != now.mark || has_fewer
        });
        let place = &mut *place;
        let beyond = place.beyond.map(|beyond| (beyond.number, beyond.frame));
        if !is_another && index.go_on(place.tail.as_mut(), now.generation, beyond) {
            place.beyond = None;
        } else {
            let wanted = Wanted {
                identity,
                marked: now.generation,
                is_another,
                was_beyond: beyond.is_some(),
                // What does not count yet is looked at again soon: nobody is kept waiting for it.
                waits: before != Some(now),
            };
            place.catch_up(index, &wanted)?;
        }
        then()?;
        place.seen = Some(now);
        Ok(())
    }

    /// Has the index catch up with what was read of the journal, and finds the journal's end if that is not known.
    fn settle(
        &self,
        index: &Index,
        identity: [u8; 16],
        then: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        index.prepare();
        // Whoever lists much keeps the index as it is for as long, which others are not to wait for.
        index.wait_for_readers();
        let marked = {
            let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            // Otherwise the next who asks does.
            let Some(seen) = place.seen else {
                return Ok(());
            };
            if place.tail.is_some() {
                let wanted = Wanted {
                    identity: Some(identity),
                    marked: seen.generation,
                    is_another: false,
                    was_beyond: place.beyond.is_some(),
                    waits: false,
                };
                let settled = place.catch_up(index, &wanted).and_then(|()| then());
                settled.inspect_err(|_| *place = Place::default())?;
                if place.tail.is_some() {
                    return Ok(());
                }
            }
            seen.generation
        };
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let known = || {
            let reader = index.pinned();
            Ok((reader.commits()?, reader.last_frame()?))
        };
        let (commits, Some(frame)) = known()? else {
            return Ok(());
        };
        // What does not count may be taken back.
        if commits > marked {
            return Ok(());
        }
        let found = Tail::behind(journal, identity, commits, frame)
            .map_err(|error| StoreError::io("reading", journal, error))?;
        let Some(mut tail) = found else {
            return Ok(());
        };
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        // Others have gone on meanwhile, without the journal.
        let (commits, frame) = known()?;
        if place.seen.is_some_and(|seen| seen.generation == commits)
            && tail.skip(commits).unwrap_or(false)
            && Some(tail.digest()) == frame
        {
            place.tail = Some(tail);
        }
        Ok(())
    }

    /// There is much to settle, or the journal's end to be found.
    fn is_behind(&self, index: &Index) -> bool {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        self.journal.is_some() && (place.tail.is_none() || index.is_behind())
    }
}

impl Place {
    /// Has the index catch up.
    fn catch_up(&mut self, index: &Index, wanted: &Wanted) -> Result<()> {
        let caught_up = index.catch_up(wanted, &mut self.tail);
        match caught_up.inspect_err(|_| (self.tail, self.beyond) = (None, None))? {
            CaughtUp::NotAtAll => {}
            CaughtUp::Exactly => self.beyond = None,
            CaughtUp::Beyond(number, frame) => {
                let found = Instant::now();
                self.beyond = Some(Beyond {
                    number,
                    frame,
                    found,
                });
            }
        }
        Ok(())
    }
}

impl StoreView {
    /// Has the index itself have what was learnt of the journal since the last time, so that there is not ever more of it to be
    /// looked at. To be called a while after commits, when nobody waits for an answer and no other commit is on its way; readers wait only as
    /// long as it takes to read a log on, and are waited for. Does nothing where the journal is not [followed](Self::follow_closely).
    pub fn settle(&self) -> Result<()> {
        self.refresh()?;
        match self.follower() {
            Some(follower) => {
                let identity = self.superblock().identity;
                follower.settle(&self.index, identity, || self.look_at_damage())
            }
            None => Ok(()),
        }
    }

    /// Opens the index anew beside the one that is read, if it has to be, so that nobody waits for that who asks.
    pub fn prepare(&self) {
        self.index.prepare();
    }

    /// There is much to [settle](Self::settle), whatever is on its way.
    pub fn is_behind(&self) -> bool {
        let follower = self.follower();
        follower.is_some_and(|follower| follower.is_behind(&self.index))
    }

    /// The end of the journal is known: commits are learnt from there.
    #[cfg(test)]
    pub(crate) fn knows_the_journal(&self) -> bool {
        self.follower().is_some_and(|follower| {
            let place = follower.place.lock();
            place.unwrap_or_else(PoisonError::into_inner).tail.is_some()
        })
    }
}
