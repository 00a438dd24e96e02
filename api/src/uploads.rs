//! Uploads under way: kept in memory, forgotten when idle, bounded in number.
//!
//! A client that disappears leaves a session, which goes after a while, and with it the memory and the nameless
//! file that its pages were staged in; a service that dies leaves nothing at all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use pool_store::precondition::Precondition;
use pool_store::upload::Upload;
use tokio::sync::OwnedSemaphorePermit;

use crate::problem::{BUSY, Problem, Result};

/// An upload under way.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) upload: Upload,
    /// What must hold of its name when it is committed.
    pub(crate) precondition: Precondition,
    /// What its announcement takes up.
    _room: OwnedSemaphorePermit,
    /// Bytes of pages received.
    received: AtomicU64,
    last_used: Mutex<Instant>,
}

impl Session {
    pub(crate) fn note_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.touch();
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn touch(&self) {
        *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle(&self) -> Duration {
        let last_used = self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last_used.elapsed()
    }
}

/// All uploads under way, by their random names.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_id: Mutex<HashMap<String, Arc<Session>>>,
    most: usize,
    idle: Duration,
}

impl Sessions {
    pub(crate) fn new(most: usize, idle: Duration) -> Self {
        Self {
            by_id: Mutex::default(),
            most,
            idle,
        }
    }

    /// How long an upload may be idle.
    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Forgets what has been idle for too long.
    pub(crate) fn expire(&self) {
        let idle = self.idle;
        // A request that holds the session is using it, however slowly.
        let is_over = |_: &String, session: &mut Arc<Session>| {
            session.idle() >= idle && Arc::strong_count(session) == 1
        };
        let over: Vec<_> = self.lock().extract_if(is_over).collect();
        for (id, session) in over {
            tracing::info!(upload = %id, "forgetting an idle upload");
            let_go(session);
        }
    }

    /// Refuses early, before an announcement is even read.
    pub(crate) fn check_room(&self) -> Result<()> {
        self.expire();
        if self.count() < self.most {
            Ok(())
        } else {
            Err(self.full())
        }
    }

    /// Takes up a new upload and names it.
    pub(crate) fn insert(
        &self,
        upload: Upload,
        precondition: Precondition,
        room: OwnedSemaphorePermit,
    ) -> Result<(String, Arc<Session>)> {
        let id = crate::auth::random_hex::<16>()?;
        let session = Arc::new(Session {
            upload,
            precondition,
            _room: room,
            received: AtomicU64::new(0),
            last_used: Mutex::new(Instant::now()),
        });
        let mut sessions = self.lock();
        if sessions.len() >= self.most {
            return Err(self.full());
        }
        sessions.insert(id.clone(), Arc::clone(&session));
        Ok((id, session))
    }

    pub(crate) fn get(&self, id: &str) -> Result<Arc<Session>> {
        let sessions = self.lock();
        let session = sessions.get(id).ok_or_else(no_upload)?;
        session.touch();
        Ok(Arc::clone(session))
    }

    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let session = self.lock().remove(id).ok_or_else(no_upload)?;
        let_go(session);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> Problem {
        let what = format!("{} uploads are under way, the most allowed", self.most);
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, BUSY, what)
            .hint("try again when others have ended, or raise max-uploads")
    }
}

/// Lets go of an upload where nobody waits: what its pages were staged in may be gigabytes, which the kernel gives
/// back with the file's last descriptor.
fn let_go(session: Arc<Session>) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(session))),
        Err(_) => drop(session),
    }
}

fn no_upload() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no-upload",
        "there is no such upload: it was committed, given up, idle for too long, or the service \
         was restarted",
    )
    .hint("begin it again; what the pool has already is not sent twice")
}
