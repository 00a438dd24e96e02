//! Collections of a service: one at a time, which can be kept waiting or stopped, and what the last ones did.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use pool_gc::{Cause, CollectReport, Collected, History};
use pool_store::manifest::Timestamp;
use pool_store::{StoreError, now};

use crate::problem::{Problem, Result};
use crate::types::{Collections, Running};

/// The word for a collection that is not begun because collections are to wait.
const PAUSED: &str = "collections-paused";

/// How long a collection that has begun waits at most while collections are paused. Then it ends, since until it ends it
/// remembers all that commits refer to, and whoever has asked for it waits.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Collector {
    /// Of the store.
    directory: PathBuf,
    /// Nobody waits for a disk with it: it is asked for on threads that serve others, too.
    state: Mutex<State>,
    /// Held while the file is written.
    writing: Mutex<()>,
    /// The one that is running may go on, or is to end.
    changed: Condvar,
    /// How long it waits at most.
    patience: Duration,
}

#[derive(Debug)]
struct State {
    history: History,
    running: Option<(Timestamp, Cause)>,
    /// The one that is running is to end.
    is_stopped: bool,
    /// So are all others.
    is_over: bool,
}

impl Collector {
    /// That of the store in a directory, which goes on as the last one was told to.
    pub(crate) fn new(directory: PathBuf) -> Self {
        let state = State {
            history: History::read(&directory),
            running: None,
            is_stopped: false,
            is_over: false,
        };
        Self {
            directory,
            state: Mutex::new(state),
            writing: Mutex::default(),
            changed: Condvar::new(),
            patience: MOST_PATIENCE,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to know.
    pub(crate) fn collections(&self) -> Collections {
        let state = self.state();
        Collections {
            paused: state.history.paused,
            running: state
                .running
                .map(|(begun_at, cause)| Running { begun_at, cause }),
            last: state.history.last.clone(),
        }
    }

    /// Puts what there is to remember into its file.
    fn write(&self) -> pool_gc::Result<()> {
        // One after the other, so that what is there in the end is the newest.
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let history = self.state().history.clone();
        history.write(&self.directory)
    }

    /// Has collections wait, the one that is running, too, or go on.
    pub(crate) fn pause(&self, paused: bool) -> Result<Collections> {
        self.state().history.paused = paused;
        self.changed.notify_all();
        self.write()?;
        Ok(self.collections())
    }

    /// Ends the collection that is running, if one is, before its next change.
    pub(crate) fn stop(&self) -> Collections {
        let mut state = self.state();
        state.is_stopped |= state.running.is_some();
        drop(state);
        self.changed.notify_all();
        self.collections()
    }

    /// Ends the collection that is running, and lets no other begin.
    pub(crate) fn end(&self) {
        self.state().is_over = true;
        self.changed.notify_all();
    }

    /// Runs `work` as the one collection, which asks before each change whether it may go on, and remembers what it came to.
    pub(crate) fn run(
        &self,
        cause: Cause,
        work: impl FnOnce(&dyn Fn() -> ControlFlow<()>) -> pool_gc::Result<CollectReport>,
    ) -> Result<CollectReport> {
        let begun_at = now();
        {
            let mut state = self.state();
            if state.is_over {
                return Err(StoreError::CollectionStopped.into());
            }
            if state.running.is_some() {
                return Err(StoreError::CollectionRunning.into());
            }
            if state.history.paused {
                let what = "collections are paused";
                return Err(Problem::new(StatusCode::CONFLICT, PAUSED, what)
                    .hint("let them go on first: pool gc --resume"));
            }
            state.running = Some((begun_at, cause));
            state.is_stopped = false;
        }
        let running = Run(self);
        let result = work(&|| self.watch());
        drop(running);
        let told = match &result {
            Ok(report) => Ok(report.clone()),
            Err(error) => Err(error.to_string()),
        };
        let collected = Collected::of(begun_at, cause, &told);
        self.state().history.add(collected);
        if let Err(error) = self.write() {
            tracing::warn!(%error, "what a collection did is forgotten with the next restart");
        }
        Ok(result?)
    }

    /// Waits while collections are to wait, and ends the one that is running when that is long.
    fn watch(&self) -> ControlFlow<()> {
        let waits = |state: &mut State| state.history.paused && !state.is_stopped && !state.is_over;
        let waited = self
            .changed
            .wait_timeout_while(self.state(), self.patience, waits);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            tracing::info!("a collection that was paused has ended: the next one does the rest");
            state.is_stopped = true;
        }
        if state.is_stopped || state.is_over {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// The collection that is running, until it has ended, however that is.
struct Run<'a>(&'a Collector);

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.0.state().running = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use pool_gc::history::Outcome;

    use super::*;

    fn report(stopped: bool) -> CollectReport {
        CollectReport {
            stopped,
            ..CollectReport::default()
        }
    }

    #[test]
    fn one_that_would_wait_for_long_ends() {
        let directory = tempfile::tempdir().unwrap();
        let collector = Collector {
            patience: Duration::ZERO,
            ..Collector::new(directory.path().into())
        };
        let ended = collector.run(Cause::Asked, |watch| {
            assert!(watch().is_continue());
            collector.pause(true).unwrap();
            assert!(watch().is_break());
            // However late somebody lets it go on.
            collector.pause(false).unwrap();
            Ok(report(watch().is_break()))
        });
        assert!(ended.unwrap().stopped);
        let next = collector.run(Cause::Asked, |watch| Ok(report(watch().is_break())));
        assert!(!next.unwrap().stopped);
    }

    #[test]
    fn nobody_who_asks_waits_for_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let collector = Collector::new(directory.path().into());
        thread::scope(|scope| {
            // As somebody who waits for a disk that hangs.
            let writing = collector.writing.lock().unwrap();
            let pausing = scope.spawn(|| collector.pause(true).unwrap());
            while !collector.collections().paused {
                thread::yield_now();
            }
            assert!(collector.stop().running.is_none());
            assert!(!directory.path().join("collections").exists());
            drop(writing);
            assert!(pausing.join().unwrap().paused);
        });
        assert!(History::read(directory.path()).paused);
    }

    #[test]
    fn one_waits_while_it_is_paused_and_ends_when_it_is_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let collector = Collector::new(directory.path().into());
        let (asks, asked) = mpsc::channel();
        thread::scope(|scope| {
            let (next, turn) = mpsc::channel();
            let collector = &collector;
            let running = scope.spawn(move || {
                collector.run(Cause::Asked, |watch| {
                    while turn.recv().is_ok() {
                        asks.send(None).unwrap();
                        let flow = watch();
                        asks.send(Some((flow, collector.collections().paused)))
                            .unwrap();
                        if flow.is_break() {
                            return Ok(report(true));
                        }
                    }
                    Ok(report(false))
                })
            });
            let begin = || {
                next.send(()).unwrap();
                assert_eq!(asked.recv().unwrap(), None);
            };
            let end = || asked.recv().unwrap().unwrap();
            begin();
            assert_eq!(end(), (ControlFlow::Continue(()), false));
            let told = collector.collections();
            assert_eq!(
                told.running.map(|running| running.cause),
                Some(Cause::Asked)
            );
            let other = collector.run(Cause::Scheduled, |_| unreachable!("one is running"));
            assert_eq!(other.unwrap_err().body.error, "collection-running");
            assert!(collector.pause(true).unwrap().paused);
            begin();
            collector.pause(false).unwrap();
            // It says nothing before it may go on.
            assert_eq!(end(), (ControlFlow::Continue(()), false));
            collector.pause(true).unwrap();
            begin();
            collector.stop();
            assert_eq!(end(), (ControlFlow::Break(()), true));
            assert!(running.join().unwrap().unwrap().stopped);
        });
        let paused = collector.run(Cause::Scheduled, |_| unreachable!("they are to wait"));
        assert_eq!(paused.unwrap_err().body.error, PAUSED);
        // A restart changes nothing of that.
        let collector = Collector::new(directory.path().into());
        let told = collector.collections();
        assert!(told.paused && told.running.is_none());
        assert_eq!(told.last.len(), 1);
        assert_eq!(told.last[0].outcome, Outcome::Stopped);
        collector.pause(false).unwrap();
        // What stopped the last one does not stop the next.
        let next = collector.run(Cause::Asked, |watch| Ok(report(watch().is_break())));
        assert!(!next.unwrap().stopped);
        let last = collector.run(Cause::Asked, |watch| {
            collector.end();
            Ok(report(watch().is_break()))
        });
        assert!(last.unwrap().stopped);
        let none = collector.run(Cause::Asked, |_| unreachable!("the service is to end"));
        assert_eq!(none.unwrap_err().body.error, "collection-stopped");
    }
}
