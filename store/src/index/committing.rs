//! Commits: the frame in the journal, the batch in the index, the mark; and what a failed one leaves in doubt.

use std::sync::atomic::Ordering;
use std::sync::{PoisonError, TryLockError};

use super::{Batch, COMMITS, COUNTED, Count, FRAME, Index, Role, TOTALS, commit_key};
use crate::error::{Result, StoreError};
use crate::journal::{Checkpointer, Journal};
use crate::mark::Mark;
use crate::steps::{Step, reached};

impl Index {
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

    /// Writes a checkpoint of the journal, if one is due or `anyway`: then another thread that is at it is waited for, and a log
    /// is begun anew in any case. Others commit meanwhile. It is a copy of the index, unless `is_distrusted` answers that this is not to
    /// be gone by: then it is made of the journal. False when nothing was to be done.
    pub(crate) fn checkpoint(
        &self,
        anyway: bool,
        is_distrusted: impl FnOnce() -> bool,
    ) -> Result<bool> {
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
            Err(TryLockError::WouldBlock) if anyway => {
                checkpointing.lock().unwrap_or_else(PoisonError::into_inner)
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        // Whoever finds that out keeps checkpoints from being written meanwhile.
        let is_distrusted = is_distrusted();
        let count = || count.lock().unwrap_or_else(PoisonError::into_inner);
        let turned: Option<Checkpointer> = match &mut count().journal {
            // What is in doubt belongs to the log that it is in.
            Some(journal) if (anyway || journal.is_due()) && !journal.is_in_doubt() => {
                Some(journal.turn(anyway)?)
            }
            _ => None,
        };
        let Some(checkpointer) = turned else {
            return Ok(false);
        };
        let (commits, bytes) = if is_distrusted {
            checkpointer.merge().inspect_err(|_| {
                if let Some(journal) = &mut count().journal {
                    journal.put_off();
                }
            })?
        } else {
            checkpointer.write(&self.pinned())?
        };
        if let Some(journal) = &mut count().journal {
            journal.turned(bytes);
        }
        tracing::info!(commits, bytes, "wrote a checkpoint");
        Ok(true)
    }

    /// Begins a set of changes that becomes visible and durable as one.
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Writes a batch to the journal, then with its number to the index, then the mark.
    pub(super) fn commit(&self, batch: Batch<'_>) -> Result<()> {
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
        let grown = batch.grown();
        let totals = count.totals.and_then(|totals| totals.after(grown));
        if let Some(totals) = totals {
            batch.put_meta(TOTALS, totals.encode(number));
        }
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
        (count.commits, count.totals) = (number, totals);
        count.course.note(grown);
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
}

impl Batch<'_> {
    /// Notes that this is the commit `number`, where counting began at `first`.
    pub(super) fn count(&mut self, number: u64, first: u64) {
        self.note(COMMITS, number.to_le_bytes());
        self.note(commit_key(number), []);
        if let Some(old) = number.checked_sub(COUNTED)
            && old >= first
        {
            self.forget(commit_key(old));
        }
    }
}
