//! Following the process that writes to a store.
//!
//! The mark tells that there was a commit. What it changed is read from the end of the journal, where that is followed: some microseconds, in which
//! the index itself could not even be asked whether it has changed. It catches up behind that, when nobody waits
//! ([`StoreView::settle`]); and at once where the journal does not tell.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::StoreView;
use crate::backend::Identity;
use crate::error::{Result, StoreError};
use crate::index::Index;
use crate::journal::Tail;

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
    /// Behind the last commit that is known.
    tail: Option<Tail>,
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
            place: Mutex::new(Place { seen, tail: None }),
        }
    }

    /// Makes what the mark says to be there visible, and runs `then` if there was something; `identity` is the store's, if its commits are
    /// counted.
    pub(crate) fn refresh(
        &self,
        index: &Index,
        identity: Option<[u8; 16]>,
        now: Seen,
        then: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.seen == Some(now) {
            return Ok(());
        }
        let before = place.seen.take();
        let is_another = before.is_none_or(|seen| seen.mark != now.mark);
        if is_another || !index.go_on(&mut place.tail, now.generation) {
            let caught_up = index.catch_up(identity, now.generation, is_another, &mut place.tail);
            caught_up.inspect_err(|_| place.tail = None)?;
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
        index.prepare()?;
        // Whoever lists much keeps the index as it is for as long, which others are not to wait for.
        index.wait_for_readers();
        {
            let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            // Otherwise the next who asks does.
            if place.tail.is_some() && place.seen.is_some() {
                let settled = index.catch_up(Some(identity), 0, false, &mut place.tail);
                let settled = settled.and_then(|()| then());
                settled.inspect_err(|_| *place = Place::default())?;
            }
            if place.tail.is_some() {
                return Ok(());
            }
        }
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
        let found = Tail::behind(journal, identity, commits, frame)
            .map_err(|error| StoreError::io("reading", journal, error))?;
        let Some(mut tail) = found else {
            return Ok(());
        };
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        // Others have gone on meanwhile, without the journal.
        let (commits, frame) = known()?;
        let is_there = tail.go_on(commits, |_, _, _| true);
        if is_there.is_ok_and(|is_there| is_there) && Some(tail.digest()) == frame {
            place.tail = Some(tail);
        }
        Ok(())
    }
}

impl StoreView {
    /// Has the index itself have what was learnt of the journal since the last time, so that there is not ever more of it to be
    /// looked at. To be called after commits, when nobody waits for an answer; readers wait only as long as it takes to read a log on.
    /// Does nothing where the journal is not [followed](Self::follow_closely).
    pub fn settle(&self) -> Result<()> {
        match self.follower() {
            Some(follower) => {
                let identity = self.superblock().identity;
                follower.settle(&self.index, identity, || self.look_at_damage())
            }
            None => Ok(()),
        }
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
