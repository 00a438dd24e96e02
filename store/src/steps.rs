//! What happens between a commit's decision and its answer, in a collection, and when an index is opened anew, step by step: tests
//! stop there.

/// What has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A commit was planned, without the writer's lock.
    Planned,
    /// A group was taken to be made durable.
    Taken,
    /// The segments that it wrote to were synced.
    Synced,
    /// Its frame is in the journal.
    Framed,
    /// Its batch is in the index.
    Put,
    /// The mark tells of it.
    Marked,
    /// A collection has removed objects, and has not looked whether somebody leases one of them now.
    Removed,
    /// A follower has opened the index anew, and not looked at it.
    Reopened,
}

/// Lets a test do what it likes.
#[cfg(not(test))]
pub(crate) fn reached(_: Step) {}

#[cfg(test)]
pub(crate) use testing::{at_each, reached};

#[cfg(test)]
mod testing {
    use std::cell::RefCell;

    use super::Step;

    type Stop = Box<dyn FnMut(Step)>;

    thread_local! {
        static STOP: RefCell<Option<Stop>> = const { RefCell::new(None) };
    }

    /// Has `stop` called at each step of what this thread makes durable, or opens, from now on.
    pub(crate) fn at_each(stop: impl FnMut(Step) + 'static) {
        STOP.set(Some(Box::new(stop)));
    }

    pub(crate) fn reached(step: Step) {
        STOP.with_borrow_mut(|stop| {
            if let Some(stop) = stop {
                stop(step);
            }
        });
    }
}
