//! Openings that were told `ESTALE` and come again.
//!
//! For a moment the kernel opens what it remembers of a name without asking. Where the name leads elsewhere by then it is told
//! `ESTALE`, and looks the whole path up once more for the same call (`do_filp_open`, fs/namei.c); a second `ESTALE` would be the
//! program's. Between that look-up and the opening after it the name may lead elsewhere again, and who opens by an open
//! descriptor (`/proc/self/fd`) comes back for the same file. So a thread that was refused gets what it asks for next.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::tree::Place;

/// Threads remembered: many times what can be in the middle of opening.
const MOST_THREADS: usize = 4096;
/// How long the kernel may take to come again, on a machine that is very busy.
const LONGEST: Duration = Duration::from_secs(10);

/// Who was refused, and where, the last time.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<HashMap<u32, (Place, Instant)>>);

impl Refused {
    /// Notes that a thread, by its number in the FUSE request, was refused what is at `place`.
    pub(crate) fn note(&self, thread: u32, place: &Place) {
        let now = Instant::now();
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.len() >= MOST_THREADS {
            threads.retain(|_, (_, since)| now.duration_since(*since) < LONGEST);
        }
        if threads.len() >= MOST_THREADS {
            threads.clear();
        }
        threads.insert(thread, (place.clone(), now));
    }

    /// True when a thread was refused what is at `place` a moment ago. It is forgotten with that.
    pub(crate) fn take(&self, thread: u32, place: &Place) -> bool {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = threads.get(&thread).is_some_and(|(at, _)| at == place);
        is_it
            && threads
                .remove(&thread)
                .is_some_and(|(_, since)| since.elapsed() < LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_refused_is_served_once_and_where_it_was() {
        let refused = Refused::default();
        assert!(!refused.take(1, &Place::Root));
        refused.note(1, &Place::Root);
        assert!(!refused.take(2, &Place::Root));
        assert!(!refused.take(1, &Place::Objects));
        assert!(refused.take(1, &Place::Root));
        assert!(!refused.take(1, &Place::Root));
    }

    #[test]
    fn threads_that_never_come_again_fill_no_memory() {
        let refused = Refused::default();
        for thread in 0..=MOST_THREADS as u32 {
            refused.note(thread, &Place::Root);
        }
        assert!(refused.0.lock().unwrap().len() <= MOST_THREADS);
        assert!(refused.take(MOST_THREADS as u32, &Place::Root));
    }
}
