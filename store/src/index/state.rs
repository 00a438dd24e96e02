//! States of a follower's index: what its database has, and what commits after that have changed. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use super::pending::{Pending, Reads};

/// Commits that the database need not have yet: each question looks at all of them.
const MOST_ABOVE: usize = 64;
/// Commits that are remembered, to say what has not changed.
pub(super) const MOST_STEPS: usize = 256;
/// Bytes of changes of all that are remembered.
pub(super) const MOST_BYTES: usize = 4 << 20;

/// One state, and how it came to be.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Grows by one with every step.
    number: u64,
    /// The last steps that led here, one a commit, the last one last.
    steps: VecDeque<Arc<Pending>>,
    /// So many of them, the last ones, the database does not have.
    above: usize,
    /// Bytes of changes of all steps.
    bytes: usize,
}

impl State {
    /// Tells it from every other one of this follower.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What the database does not have, the last changes last.
    pub(super) fn above(&self) -> impl Iterator<Item = &Arc<Pending>> {
        self.steps.range(self.steps.len() - self.above..)
    }

    /// The database should catch up before there is more.
    pub(super) fn is_full(&self) -> bool {
        self.room() == 0 || self.bytes >= MOST_BYTES && self.above > 0
    }

    /// So many commits may come on top of what the database has.
    pub(super) fn room(&self) -> usize {
        MOST_ABOVE.saturating_sub(self.above)
    }

    /// The database should catch up, the sooner the better.
    pub(super) fn is_half_full(&self) -> bool {
        2 * self.above >= MOST_ABOVE || 2 * self.bytes >= MOST_BYTES && self.above > 0
    }

    /// The state after one more commit, which the database does not have.
    pub(super) fn push(&mut self, step: Arc<Pending>) {
        self.number += 1;
        self.above += 1;
        self.bytes += step.bytes();
        self.steps.push_back(step);
        self.forget();
    }

    /// The database has everything.
    pub(super) fn settle(&mut self) {
        self.above = 0;
        self.forget();
    }

    /// The database has everything, and nobody knows what was changed.
    pub(super) fn lose_track(&mut self) {
        *self = Self {
            number: self.number + 1,
            ..Self::default()
        };
    }

    /// True if none of `reads` has changed since the state of the number `since`, as far as is known.
    pub(super) fn keeps(&self, reads: &Reads, since: u64) -> bool {
        let steps = self.number.checked_sub(since);
        let steps = steps.and_then(|steps| usize::try_from(steps).ok());
        let Some(first) = steps.and_then(|steps| self.steps.len().checked_sub(steps)) else {
            return false;
        };
        !self.steps.range(first..).any(|step| step.changes(reads))
    }

    fn forget(&mut self) {
        while self.steps.len() > self.above
            && (self.steps.len() > MOST_STEPS || self.bytes > MOST_BYTES)
            && let Some(step) = self.steps.pop_front()
        {
            self.bytes -= step.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(key: &str, length: usize) -> Arc<Pending> {
        Arc::new(Pending::of_pairs("f", &[(key, Some(&"v".repeat(length)))]))
    }

    fn reads(key: &str, prefix: &str) -> Reads {
        let mut reads = Reads::default();
        reads.add_key("f", key.as_bytes());
        reads.add_prefix("g", b"");
        reads.add_prefix("f", prefix.as_bytes());
        reads
    }

    #[test]
    fn what_was_read_is_as_it_was_until_a_step_changes_it() {
        let mut state = State::default();
        let since = state.number();
        let [a, all, none] = [reads("a", "x"), reads("none", "a"), reads("none", "x")];
        assert!(state.keeps(&a, since));
        state.push(step("b", 1));
        assert!(state.keeps(&a, since) && state.keeps(&all, since));
        state.push(step("ab", 1));
        assert!(state.keeps(&a, since) && !state.keeps(&all, since));
        assert!(state.keeps(&all, state.number()));
        assert_eq!(state.above().count(), 2);
        state.settle();
        assert_eq!((state.above().count(), state.number()), (0, since + 2));
        assert!(state.keeps(&a, since));
        state.push(step("a", 1));
        assert!(!state.keeps(&a, since) && state.keeps(&none, since));
        let before = state.number();
        state.lose_track();
        assert!(!state.keeps(&none, before) && state.keeps(&none, state.number()));
        assert!(
            !state.keeps(&none, state.number() + 1),
            "there is none such yet"
        );
    }

    #[test]
    fn neither_many_steps_nor_large_ones_fill_the_memory() {
        let mut state = State::default();
        for nth in 0..MOST_ABOVE {
            assert!(!state.is_full(), "{nth}");
            state.push(step("a", 1));
        }
        assert!(state.is_full());
        state.settle();
        assert!(!state.is_full());
        for _ in 0..2 * MOST_STEPS {
            state.push(step("a", 1));
            state.settle();
        }
        assert_eq!(state.steps.len(), MOST_STEPS);
        let before = state.number();
        for nth in 0..3 {
            state.push(step("a", MOST_BYTES / 2));
            assert_eq!(state.is_full(), nth > 0, "{nth}");
            assert_eq!(state.above().count(), nth + 1, "none of these is forgotten");
        }
        state.settle();
        assert!(state.bytes <= MOST_BYTES);
        let bytes: usize = state.steps.iter().map(|step| step.bytes()).sum();
        assert_eq!(state.bytes, bytes);
        assert!(!state.keeps(&reads("b", "b"), before));
    }
}
