//! Changes of what there is already: names, and what a collection removes or moves. Each is decided under the writer's lock, in the
//! order of all commits, and made durable with others.

use std::cell::Cell;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::group::{Failed, Part, Place, Sight};
use crate::index::{Batch, Pending, Reader};
use crate::moment::Moment;
use crate::quota::Weighed;
use crate::segment::{Appender, Recorded, Room};
use crate::{Store, Writer};

#[cfg(test)]
mod tests;

/// How often a change is tried together with others, which may fail it, before it is made alone.
pub(crate) const MOST_ROUNDS: u32 = 8;

/// Who changes something.
#[derive(Clone, Copy)]
enum Author<'a> {
    /// Somebody who changes names: pages, objects and segments are where they were.
    Naming,
    /// A collection, which wants to know how long it has kept the lock at most.
    Collection(&'a Cell<Duration>),
}

/// What is decided under the writer's lock.
pub(crate) struct Turn<'t> {
    pub(crate) writer: &'t mut Writer,
    /// The index, with what is on its way to it.
    pub(crate) now: Reader<'t>,
    /// What this changes.
    pub(crate) batch: Batch<'t>,
    recorded: Vec<Recorded>,
}

impl Store {
    /// Changes names: `change` decides in the order of all commits, by what it is shown, and may be asked again. Answers
    /// once that is durable.
    pub(crate) fn change<T>(
        &self,
        mut change: impl FnMut(&Reader<'_>, &mut Batch<'_>) -> Result<T>,
    ) -> Result<T> {
        self.in_turn(
            Author::Naming,
            |_| Ok(()),
            |turn, ()| change(&turn.now, &mut turn.batch),
        )
    }

    /// Removes or moves something. `plan` looks without the lock at what there is, and is asked again if that may have been moved
    /// or removed by the time that `change` decides under it, as that of [`Store::change`] does. What both do beyond the batch has to be
    /// right whatever comes of that.
    pub(crate) fn step<P, T>(
        &self,
        longest_hold: &Cell<Duration>,
        plan: impl FnMut(&Reader<'_>) -> Result<P>,
        change: impl FnMut(&mut Turn<'_>, P) -> Result<T>,
    ) -> Result<T> {
        self.in_turn(Author::Collection(longest_hold), plan, change)
    }

    /// A step that takes slots and has them on record with the rest: `take` hands them out once, however often `change` is asked.
    pub(crate) fn step_with_slots<T>(
        &self,
        longest_hold: &Cell<Duration>,
        take: impl Fn(&mut Appender) -> Result<Vec<Room>>,
        mut change: impl FnMut(&mut Turn<'_>, &[Room]) -> Result<T>,
    ) -> Result<T> {
        let mut holding = Holding::of(self)?;
        let mut taken = None;
        let take_and_change = |turn: &mut Turn<'_>, ()| {
            let appender = &mut turn.writer.appender;
            appender.begin()?;
            // Nobody else gets them as long as they are held.
            let room: Vec<Room> = match taken.take() {
                Some(room) => room,
                None => take(appender)?,
            };
            let room = taken.insert(room);
            if !room.is_empty() {
                turn.recorded = turn.writer.appender.record(&mut turn.batch);
            }
            change(turn, room)
        };
        let answer = self.step(longest_hold, |_| Ok(()), take_and_change)?;
        holding.are_recorded = true;
        Ok(answer)
    }

    fn in_turn<P, T>(
        &self,
        author: Author<'_>,
        mut plan: impl FnMut(&Reader<'_>) -> Result<P>,
        mut change: impl FnMut(&mut Turn<'_>, P) -> Result<T>,
    ) -> Result<T> {
        let index = &self.view.index;
        let mut rounds = 0;
        loop {
            rounds += 1;
            let is_alone = rounds > MOST_ROUNDS;
            let before = matches!(author, Author::Collection(_)).then(|| {
                let before = Moment::of(self, &self.joining());
                let planned = plan(&index.ahead(before.sight.pending()));
                (before, planned)
            });
            let mut held = self.hold(author, is_alone);
            let now = Moment::of(self, &held.writer);
            let stands = |before: &Moment| before.keeps(&now) && !before.sight.is_void(&now.sight);
            let planned = match before {
                Some((before, planned)) if stands(&before) => planned,
                _ => plan(&index.ahead(now.sight.pending())),
            };
            let sight = now.sight;
            let made = planned
                .and_then(|plan| self.decide(author, &mut held.writer, &sight, plan, &mut change));
            let (answer, part, weighed) = match made {
                Ok((answer, part, weighed)) if !part.changes.is_empty() => (answer, part, weighed),
                made => {
                    drop(held);
                    if self.groups.stands(index, &sight) {
                        let (answer, ..) = made?;
                        index.acknowledge()?;
                        return Ok(answer);
                    }
                    continue;
                }
            };
            if matches!(author, Author::Collection(_)) {
                held.writer.sections += 1;
            }
            let place = self.groups.join(index, &sight, part);
            if place.is_some() {
                self.quotas.note(weighed);
            }
            match self.wait(held, is_alone, place) {
                Ok(()) => {
                    index.acknowledge()?;
                    return Ok(answer);
                }
                Err(Failed::Itself(error)) => return Err(error),
                Err(Failed::Other) => {}
            }
        }
    }

    /// Asks `change`, and makes what it answers a part of a group.
    fn decide<P, T>(
        &self,
        author: Author<'_>,
        writer: &mut Writer,
        sight: &Sight,
        plan: P,
        change: &mut impl FnMut(&mut Turn<'_>, P) -> Result<T>,
    ) -> Result<(T, Part, Weighed)> {
        let index = &self.view.index;
        let mut turn = Turn {
            writer,
            now: index.ahead(sight.pending()),
            batch: index.batch(),
            recorded: Vec::new(),
        };
        let answer = change(&mut turn, plan)?;
        let changes = turn.batch.changes();
        let pending = Arc::new(match author {
            Author::Naming => Pending::of_names(changes),
            Author::Collection(_) => Pending::of_removals(changes)?,
        });
        let weighed = self.quotas.weigh(index, sight, &pending)?;
        let part = Part {
            changes: turn.batch.into_changes(),
            pending,
            written: Vec::new(),
            recorded: turn.recorded,
        };
        Ok((answer, part, weighed))
    }

    fn hold<'a>(&'a self, author: Author<'a>, is_alone: bool) -> Hold<'a> {
        match author {
            Author::Naming => Hold {
                writer: self.to_commit(is_alone),
                since: Instant::now(),
                longest: None,
            },
            Author::Collection(longest) => {
                let hold = Hold {
                    writer: self.stepping(),
                    since: Instant::now(),
                    longest: Some(longest),
                };
                if is_alone { hold.alone(self) } else { hold }
            }
        }
    }

    /// The writer's lock for what a collection does alone: all that has joined a group has come to its end.
    pub(crate) fn hold_alone<'a>(&'a self, longest_hold: &'a Cell<Duration>) -> Hold<'a> {
        self.hold(Author::Collection(longest_hold), true)
    }

    /// The writer's lock for a change that joins a group, or one that is made alone.
    pub(crate) fn to_commit(&self, is_alone: bool) -> MutexGuard<'_, Writer> {
        if is_alone {
            self.writer()
        } else {
            self.joining()
        }
    }

    /// Lets go of the writer's lock, unless this is to be made alone, and waits until a place's group is durable. That is
    /// still to be [acknowledged](crate::index::Index::acknowledge).
    pub(crate) fn wait<G>(
        &self,
        writer: G,
        is_alone: bool,
        place: Option<Place>,
    ) -> std::result::Result<(), Failed> {
        let _alone = is_alone.then_some(writer);
        let place = place.ok_or(Failed::Other)?;
        self.groups.wait(&self.view.index, &place)
    }
}

/// The writer's lock, and how long it is held.
pub(crate) struct Hold<'a> {
    pub(crate) writer: MutexGuard<'a, Writer>,
    since: Instant,
    longest: Option<&'a Cell<Duration>>,
}

impl Hold<'_> {
    /// Waits for all that is on its way, and keeps others from joining.
    fn alone(mut self, store: &Store) -> Self {
        store.drain(&mut self.writer);
        self
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(longest) = self.longest {
            longest.set(longest.get().max(self.since.elapsed()));
        }
    }
}

/// Keeps slots that were handed out from being handed out again before they are on record.
struct Holding<'a> {
    store: &'a Store,
    are_recorded: bool,
}

impl<'a> Holding<'a> {
    fn of(store: &'a Store) -> Result<Self> {
        store.joining().appender.hold()?;
        Ok(Self {
            store,
            are_recorded: false,
        })
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        let appender = &mut self.store.joining().appender;
        appender.release(&[]);
        if !self.are_recorded
            && appender.holders() == 0
            && let Err(error) = appender.rollback()
        {
            tracing::error!(%error, "forgetting slots that a step has not put on record");
        }
    }
}
