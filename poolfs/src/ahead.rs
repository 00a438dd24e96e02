//! Commits that are caught up with before anybody asks.
//!
//! Whoever asks first after a commit has the store caught up with, and waits for that: a start would, which comes right after the push
//! that it is for. So a thread watches the file that counts commits (inotify(7)) and asks for it. A while later it has the index itself
//! catch up, which takes longer than to read what the journal says. It is a help alone: every request asks for itself whether there was a
//! commit.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pool_store::format::GENERATION_FILE;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::contents::Contents;

/// The time from one catching up to that of the index itself, and so the least time to the next: what many commits in a row cost.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: Duration::from_millis(20).as_nanos() as i64,
};
/// Room for events; what has none comes with the next reading.
const EVENTS: usize = 4096;

/// A thread that catches up, until this value is dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Begins to catch up. `None` where that is not possible, which is said in the log.
    pub(crate) fn of(contents: &Arc<Contents>) -> Option<Self> {
        let begun = Self::begin(Arc::clone(contents));
        begun
            .inspect_err(
                |error| tracing::warn!(%error, "commits are caught up with when somebody asks"),
            )
            .ok()
    }

    fn begin(contents: Arc<Contents>) -> io::Result<Self> {
        // The directory, as somebody may put another file in the place of that one.
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&events, contents.view().directory(), changes)?;
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let ends = Arc::clone(&end);
        let thread = thread::Builder::new().name("ahead".into()).spawn(move || {
            if let Err(error) = follow(&contents, &events, &ends) {
                tracing::warn!(%error, "commits are caught up with when somebody asks");
            }
        })?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Nothing but a full counter could be in its way, and this is one.
        let _ = rustix::io::write(&*self.end, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // What it has to say of a panic it has said.
            let _ = thread.join();
        }
    }
}

fn follow(contents: &Contents, events: &OwnedFd, end: &OwnedFd) -> io::Result<()> {
    loop {
        if is_over([end, events], None)? {
            return Ok(());
        }
        if !tells_of_a_commit(events)? {
            continue;
        }
        // Who asks is told.
        let told = |error| tracing::debug!(%error, "catching up with commits");
        let view = contents.view();
        loop {
            view.prepare();
            view.refresh().unwrap_or_else(told);
            if is_over([end], Some(&PAUSE))? {
                return Ok(());
            }
            // While commits follow each other one is on its way, which the index would have before it counts.
            if !tells_of_a_commit(events)? || view.is_behind() {
                break;
            }
        }
        view.settle().unwrap_or_else(told);
    }
}

/// Waits for any of these; true when the first, the end, has come.
fn is_over<const N: usize>(any: [&OwnedFd; N], longest: Option<&Timespec>) -> io::Result<bool> {
    let mut any = any.map(|one| PollFd::new(one, PollFlags::IN));
    match poll(&mut any, longest) {
        Ok(_) => Ok(any[0].revents().contains(PollFlags::IN)),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes what events there are; true when one is of the count of commits, or some were lost.
fn tells_of_a_commit(events: impl AsFd) -> io::Result<bool> {
    let mut room = [MaybeUninit::uninit(); EVENTS];
    let mut reader = inotify::Reader::new(events, &mut room);
    let mut tells = false;
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(std::ffi::CStr::to_bytes);
                tells |= name.is_none_or(|name| name == GENERATION_FILE.as_bytes());
            }
            Err(Errno::WOULDBLOCK) => return Ok(tells),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pool_core::digest::ObjectId;
    use pool_store::manifest::TokenScope;
    use pool_store::{Store, StoreOptions, StoreView};
    use pool_tests::wait;

    use super::*;
    use crate::passthrough::Decision;

    #[test]
    fn commits_are_caught_up_with_though_nobody_asks() {
        let directory = tempfile::tempdir().unwrap();
        let (path, notes) = (
            directory.path().join("store"),
            directory.path().join("notes"),
        );
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let store = Store::open(&path, options).unwrap();
        let view = StoreView::follow_closely(&path, &notes).unwrap();
        let contents = Arc::new(Contents::new(view, Decision::default()));
        let caught_up = || contents.view().snapshot().commits().unwrap();
        let commit = |name: &str| {
            let secret = ObjectId::of(name.as_bytes());
            store.add_token(name, secret, TokenScope::Read).unwrap();
            store.generation().unwrap()
        };
        let ahead = Ahead::of(&contents).unwrap();
        for name in ["one", "two", "three"] {
            let commits = commit(name);
            wait::until("it is caught up with", || caught_up() == commits);
        }
        // What nobody settles would be on top of the index for good.
        for nth in 0..60 {
            commit(&format!("many{nth}"));
            contents.view().refresh().unwrap();
        }
        wait::until("the index has them, too", || !contents.view().is_behind());
        drop(ahead);
        let before = caught_up();
        assert!(commit("four") > before);
        assert_eq!((caught_up(), Arc::strong_count(&contents)), (before, 1));
    }
}
