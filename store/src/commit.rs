//! One commit of content: planned without the writer's lock, decided under it, made durable with others.
//!
//! A plan looks pages up and writes new ones. It stands for as long as nobody who could move or remove something has had the
//! lock since; otherwise it is made again, for which what was written is there already. With commits of others since it
//! stands as well, but may store what they have stored, so a small one is made again then, too.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, MutexGuard};

use pool_core::digest::ObjectId;

use crate::change::MOST_ROUNDS;
use crate::claims::{Given, PageReader, Proven};
use crate::error::Result;
use crate::format::{Location, ObjectRecord};
use crate::group::{Failed, Part};
use crate::intake::{Intake, Known, Planned};
use crate::moment::Moment;
use crate::precondition::Precondition;
use crate::prepared::{Hand, Prepared};
use crate::quota::Weighed;
use crate::steps::{Step, reached};
use crate::stored::Stored;
use crate::upload::{CommitSummary, Target, UploadManifest};
use crate::{Store, Writer, references};

/// How often a plan is made without the lock that something overtakes, before one is made under it.
const MOST_PLANS: u32 = 3;

/// Most pages of an upload whose plan is made again under the lock at once.
const FEW_PAGES: usize = 1024;

/// One attempt to commit.
struct Commit<'a, 'c> {
    store: &'a Store,
    manifest: &'c UploadManifest,
    given: Given<'c>,
    proven: &'c Proven,
    precondition: &'c Precondition,
    /// Nobody else commits meanwhile.
    is_alone: bool,
}

/// A plan, or why there is none.
type Attempt<'a> = std::result::Result<Planned<'a>, Failed>;

/// What the author is told, and what is to be done then.
struct Decided {
    summary: CommitSummary,
    objects: BTreeMap<ObjectId, ObjectRecord>,
    can_mend: bool,
    moves: bool,
    /// Slots of new pages and windows, if more may have been written.
    used: Option<HashSet<Location>>,
    weighed: Weighed,
}

impl Store {
    /// Places, writes and names everything, and answers once it is durable.
    pub(crate) fn take_in(
        &self,
        manifest: &UploadManifest,
        given: Given<'_>,
        proven: &Proven,
        precondition: &Precondition,
    ) -> Result<CommitSummary> {
        manifest.validate()?;
        let mut prepared = Prepared::new(self)?;
        self.view.index.reserve()?;
        let mut rounds = 0;
        loop {
            rounds += 1;
            let commit = Commit {
                store: self,
                manifest,
                given,
                proven,
                precondition,
                is_alone: rounds > MOST_ROUNDS,
            };
            match commit.run(&mut prepared) {
                Ok(done) => {
                    prepared.keep(done.used.as_ref());
                    let acknowledged = self.view.index.acknowledge();
                    if done.can_mend
                        && let Err(error) = self.mend()
                    {
                        // Not the author's business: it is done another time.
                        tracing::warn!(%error, "mending what was damaged");
                    }
                    return acknowledged.map(|()| done.summary);
                }
                Err(Failed::Itself(error)) => return Err(error),
                Err(Failed::Other) => {
                    // The doubt that another's failure may have left is over once this one can begin.
                    let is_spoilt = prepared.is_spoilt();
                    if is_spoilt {
                        drop(prepared);
                        prepared = Prepared::new(self)?;
                    } else {
                        self.joining().appender.begin()?;
                    }
                }
            }
        }
    }
}

impl<'a> Commit<'a, '_> {
    /// Commits, and waits until it is durable.
    fn run(&self, prepared: &mut Prepared<'a>) -> std::result::Result<Decided, Failed> {
        let store = self.store;
        // Of an attempt that came to nothing.
        let mut may_have_more = prepared.has_any();
        let mut plans = 0;
        let (mut writer, moment, planned) = self.plan(prepared, &mut plans);
        may_have_more |= plans > 1;
        let decided = planned.and_then(|planned| {
            // Those before it may have used the room up.
            store.view.index.reserve()?;
            Ok(self.decide(&moment, &mut writer, planned, prepared, may_have_more)?)
        });
        let (part, mut decided) = match decided {
            Ok(decided) => decided,
            Err(failed) => {
                drop(writer);
                // What it was refused for may come to nothing yet.
                let stands = store.groups.stands(&store.view.index, &moment.sight);
                return Err(if stands { failed } else { Failed::Other });
            }
        };
        let place = store.groups.join(&store.view.index, &moment.sight, part);
        if let Some(place) = &place {
            prepared.joined(place);
            store.quotas.note(std::mem::take(&mut decided.weighed));
            writer.sections += u64::from(decided.moves);
            if let Some(barrier) = &mut writer.barrier {
                for (id, record) in &decided.objects {
                    barrier.protect(*id, record.map.extents());
                }
            }
        }
        store.wait(writer, self.is_alone, place)?;
        Ok(decided)
    }

    /// Makes a plan that stands, and keeps the lock under which it does. Counts how often it was made.
    fn plan(
        &self,
        prepared: &mut Prepared<'a>,
        plans: &mut u32,
    ) -> (MutexGuard<'a, Writer>, Moment, Attempt<'a>) {
        let store = self.store;
        let pages: usize = self
            .manifest
            .objects
            .iter()
            .map(|object| object.pages.len())
            .sum();
        while !self.is_alone && *plans < MOST_PLANS {
            *plans += 1;
            let before = Moment::of(store, &store.joining());
            let planned = self.take_in(&before, Hand::Free, prepared);
            let planned = planned.and_then(|planned| {
                prepared.sync_much()?;
                Ok(planned)
            });
            reached(Step::Planned);
            let writer = store.joining();
            let now = Moment::of(store, &writer);
            if matches!(planned, Err(Failed::Other)) {
                return (writer, now, planned);
            }
            let stands = before.keeps(&now) && !before.sight.is_void(&now.sight);
            let is_first = !before.sight.is_before_others(&now.sight);
            let is_new = planned.as_ref().is_ok_and(Planned::is_new);
            if stands && (is_first || !is_new) {
                return (writer, now, planned);
            }
            if stands && *plans == MOST_PLANS {
                return (writer, now, planned.map(Planned::overtaken));
            }
            if pages <= FEW_PAGES {
                return self.plan_under(writer, prepared, plans);
            }
        }
        self.plan_under(store.to_commit(self.is_alone), prepared, plans)
    }

    /// Makes a plan under the lock, where nothing can overtake it.
    fn plan_under(
        &self,
        mut writer: MutexGuard<'a, Writer>,
        prepared: &mut Prepared<'a>,
        plans: &mut u32,
    ) -> (MutexGuard<'a, Writer>, Moment, Attempt<'a>) {
        *plans += 1;
        let moment = Moment::of(self.store, &writer);
        let planned = self.take_in(&moment, Hand::Held(&mut writer), prepared);
        (writer, moment, planned)
    }

    fn take_in(&self, moment: &Moment, hand: Hand<'_>, prepared: &mut Prepared<'a>) -> Attempt<'a> {
        let store = self.store;
        let index = store.view.index.ahead(moment.sight.pending());
        let stored = Stored::new(index, store.damage());
        let reader = PageReader::new(store, self.given);
        let known = Known {
            proven: self.proven,
            moment,
        };
        let intake = Intake::new(store, &stored, hand, prepared, reader, known);
        Ok(intake.run(self.manifest)?)
    }

    /// Decides about the name, and makes all of it a part of a group.
    fn decide(
        &self,
        moment: &Moment,
        writer: &mut Writer,
        planned: Planned<'a>,
        prepared: &Prepared<'a>,
        may_have_more: bool,
    ) -> Result<(Part, Decided)> {
        let Planned {
            mut batch,
            mut pending,
            objects,
            can_mend,
            moves,
            mut summary,
        } = planned;
        let index = &self.store.view.index;
        let now = index.ahead(moment.sight.pending());
        let target = &self.manifest.target;
        self.precondition.check(&now, &target.name())?;
        summary.created = match target {
            Target::Image { image, .. } => now.tag(image)?.is_none(),
            Target::Library { library, .. } => now.library(library)?.is_none(),
        };
        let mut names = index.batch();
        references::name_target(&now, &mut names, target)?;
        pending.add(names.changes());
        batch.append(&names.into_changes());
        // What it was handed before the index was found to be wrong does not count.
        writer.appender.look_at_trust()?;
        let pending = Arc::new(pending);
        let weighed = self.store.quotas.weigh(index, &moment.sight, &pending)?;
        let recorded = writer.appender.record(&mut batch);
        let used = may_have_more.then(|| pending.locations().collect());
        let part = Part {
            changes: batch.into_changes(),
            pending,
            written: prepared.written(),
            recorded,
        };
        let decided = Decided {
            summary,
            objects,
            can_mend,
            moves,
            used,
            weighed,
        };
        Ok((part, decided))
    }
}
