//! Openings that were told `ESTALE` and come again.
//!
//! For a moment the kernel opens what it remembers of a name without asking. Where the name leads elsewhere by then it is told
//! `ESTALE`, and looks the whole path up once more for the same call (`do_filp_open`, fs/namei.c); a second `ESTALE` would be the
//! program's. Between that look-up and the opening after it the name may lead elsewhere again, and who opens by an open
//! descriptor (`/proc/self/fd`) comes back for the same file without a look-up. So a thread that was refused gets what it asks for
//! next, unless the look-up found nothing: then the call is over, and what the thread opens later is a call of its own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::tree::Place;

/// Threads remembered: many times what can be in the middle of opening.
const MOST_THREADS: usize = 4096;
/// How long the kernel may take to come again, on a machine that is very busy.
const LONGEST: Duration = Duration::from_secs(10);

/// Who was refused, and where, the last time.
#[derive(Debug, Default)]
pub(crate) struct Refused(Mutex<HashMap<Who, Refusal>>);

#[derive(Debug, PartialEq, Eq, Hash)]
enum Who {
    Thread(u32),
    /// Threads outside the namespace of our processes have no number here, so anybody may be who comes again.
    SomebodyAt(Place),
}

#[derive(Debug)]
struct Refusal {
    place: Place,
    since: Instant,
    /// Somebody looked for the place since, or for a directory above it, and it was not there. The kernel has one look-up of a
    /// name answer all who wait for it, so that may have been the thread's.
    is_gone: bool,
}

impl Refused {
    /// Notes that a thread, by its number in the FUSE request, was refused what is at `place`.
    pub(crate) fn note(&self, thread: u32, place: &Place) {
        let now = Instant::now();
        let mut threads = self.threads();
        if threads.len() >= MOST_THREADS {
            threads.retain(|_, refusal| now.duration_since(refusal.since) < LONGEST);
        }
        if threads.len() >= MOST_THREADS {
            threads.clear();
        }
        let refusal = Refusal {
            place: place.clone(),
            since: now,
            is_gone: false,
        };
        threads.insert(Who::new(thread, place), refusal);
    }

    /// Notes that a thread looked for `place` and nothing is there.
    pub(crate) fn found_nothing(&self, thread: u32, place: &Place) {
        let mut threads = self.threads();
        threads.remove(&Who::Thread(thread));
        for refusal in threads.values_mut() {
            refusal.is_gone |= refusal.place.is_in(place);
        }
    }

    /// True when a thread was refused what is at `place` a moment ago, and comes again for that. It is forgotten with that.
    /// `is_open` says whether somebody has it open, as who comes by a descriptor.
    pub(crate) fn take(&self, thread: u32, place: &Place, is_open: impl FnOnce() -> bool) -> bool {
        let who = Who::new(thread, place);
        let mut threads = self.threads();
        let Some(refusal) = threads.get(&who).filter(|refusal| refusal.place == *place) else {
            return false;
        };
        let comes_again = refusal.since.elapsed() < LONGEST && (!refusal.is_gone || is_open());
        if let Who::Thread(_) = who {
            threads.remove(&who);
        }
        comes_again
    }

    fn threads(&self) -> MutexGuard<'_, HashMap<Who, Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Who {
    fn new(thread: u32, place: &Place) -> Self {
        match thread {
            0 => Self::SomebodyAt(place.clone()),
            number => Self::Thread(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_OPEN: fn() -> bool = || false;

    #[test]
    fn who_was_refused_is_served_once_and_where_it_was() {
        let refused = Refused::default();
        let take = |thread, place: &Place| refused.take(thread, place, NOT_OPEN);
        assert!(!take(1, &Place::Root));
        refused.note(1, &Place::Root);
        assert!(!take(2, &Place::Root));
        assert!(!take(1, &Place::Objects));
        assert!(take(1, &Place::Root));
        assert!(!take(1, &Place::Root));
    }

    #[test]
    fn a_look_up_that_finds_nothing_ends_the_call() {
        let directory = Place::ImageName("i".parse().unwrap());
        let file = directory.child("t").and_then(|tag| tag.child("map"));
        let file = file.unwrap();
        let after = |thread, gone: &Place| {
            let refused = Refused::default();
            refused.note(1, &file);
            refused.found_nothing(thread, gone);
            let take = |is_open| refused.take(1, &file, || is_open);
            [take(true), take(true)]
        };
        // Its own ends it, wherever.
        assert_eq!(after(1, &Place::Libraries), [false, false]);
        // Somebody else's may have been its own, had it been above; who comes by a descriptor has it open.
        assert_eq!(after(2, &directory), [true, false]);
        assert_eq!(after(2, &Place::Libraries), [true, false]);
        for (gone, is_served) in [(&directory, false), (&file, false), (&Place::Objects, true)] {
            let refused = Refused::default();
            refused.note(1, &file);
            refused.found_nothing(2, gone);
            assert_eq!(refused.take(1, &file, NOT_OPEN), is_served, "{gone:?}");
        }
    }

    #[test]
    fn threads_without_a_number_are_told_apart_by_where_they_were() {
        let refused = Refused::default();
        refused.note(0, &Place::Root);
        refused.note(0, &Place::Objects);
        for place in [Place::Root, Place::Objects] {
            assert!(refused.take(0, &place, NOT_OPEN));
            assert!(refused.take(0, &place, NOT_OPEN), "another one");
            assert!(!refused.take(1, &place, NOT_OPEN));
        }
        refused.found_nothing(0, &Place::Objects);
        assert!(!refused.take(0, &Place::Objects, NOT_OPEN));
        assert!(refused.take(0, &Place::Root, NOT_OPEN));
    }

    #[test]
    fn threads_that_never_come_again_fill_no_memory() {
        let refused = Refused::default();
        for thread in 1..=MOST_THREADS as u32 + 1 {
            refused.note(thread, &Place::Root);
        }
        assert!(refused.0.lock().unwrap().len() <= MOST_THREADS);
        assert!(refused.take(MOST_THREADS as u32 + 1, &Place::Root, NOT_OPEN));
    }
}
