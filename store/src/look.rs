//! What was found when an upload's pages were looked up, and for how long it is known.

#[cfg(test)]
use crate::Store;
use crate::format::Location;
use crate::moment::{Moment, Since};

/// Where pages of an upload's objects were, at one moment or a later one.
#[derive(Debug)]
pub(crate) struct Look {
    since: Since,
    /// Of each object, in the order in which they are announced, by number; nothing of those that the pool has, and of those
    /// with which there would be too much. An object may be listed twice, by different pages.
    found: Vec<Vec<Looked>>,
}

/// What is known of where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// Nothing.
    Not,
    /// It was there.
    Found(Location),
    /// It was not in the store.
    Nowhere,
}

impl Look {
    /// A look since some moment: what was found of each object.
    pub(crate) fn new(since: Since, found: Vec<Vec<Looked>>) -> Self {
        Self { since, found }
    }

    /// What is still known at a later moment of where `count` pages from `first` on of the `nth` object are.
    pub(crate) fn at(&self, later: &Moment, nth: usize, first: u64, count: usize) -> Vec<Looked> {
        if !self.since.keeps(later) {
            return vec![Looked::Not; count];
        }
        let mut looked = self.found(nth, first, count);
        if !self.since.adds_nothing(later) {
            // Others may have stored them since.
            for looked in &mut looked {
                if *looked == Looked::Nowhere {
                    *looked = Looked::Not;
                }
            }
        }
        looked
    }

    /// What was found of them, whatever has come since.
    pub(crate) fn found(&self, nth: usize, first: u64, count: usize) -> Vec<Looked> {
        let found = self.pages(nth, first, count);
        found.map_or_else(|| vec![Looked::Not; count], <[_]>::to_vec)
    }

    fn pages(&self, nth: usize, first: u64, count: usize) -> Option<&[Looked]> {
        let first = usize::try_from(first).ok()?;
        self.found.get(nth)?.get(first..)?.get(..count)
    }

    /// Nothing is known of the `nth` object any more.
    pub(crate) fn forget(&mut self, nth: usize) {
        if let Some(found) = self.found.get_mut(nth) {
            found.clear();
        }
    }
}

#[cfg(test)]
impl Look {
    /// The same look, with other places.
    pub(crate) fn with_found(&self, found: Vec<Vec<Looked>>) -> Self {
        Self {
            since: self.since,
            found,
        }
    }

    /// What another look has found, as if it were found now.
    pub(crate) fn since_now(store: &Store, look: Self) -> Self {
        let since = Moment::of(store, &store.joining()).since();
        Self { since, ..look }
    }
}
