//! How many pages and windows there are.
//!
//! To count them takes as long as there are many, so every commit says what it comes to, and of which commit that is. A program from before
//! leaves the record as it was: that is noticed, and they are counted once.

use std::ops::AddAssign;
use std::sync::PoisonError;

use super::{Index, META, PAGES, Reader, Role, WINDOWS};
use crate::error::{Result, StoreError};

pub(super) const TOTALS: &[u8] = b"totals";

/// Pages and windows of an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Distinct pages.
    pub pages: u64,
    /// Windows stored densely.
    pub windows: u64,
}

/// How many more there are after changes; fewer, where it is below zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grown {
    By {
        pages: i64,
        windows: i64,
    },
    /// Who made them did not look what there was.
    Unknown,
}

impl Default for Grown {
    fn default() -> Self {
        Self::By {
            pages: 0,
            windows: 0,
        }
    }
}

impl AddAssign for Grown {
    fn add_assign(&mut self, other: Self) {
        *self = match (*self, other) {
            (
                Self::By { pages, windows },
                Self::By {
                    pages: p,
                    windows: w,
                },
            ) => Self::By {
                pages: pages + p,
                windows: windows + w,
            },
            _ => Self::Unknown,
        };
    }
}

/// What commits have come to, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Course {
    pages: i64,
    windows: i64,
    /// Commits of which that is not known.
    unknown: u64,
}

impl Course {
    pub(super) fn note(&mut self, grown: Grown) {
        match grown {
            Grown::By { pages, windows } => {
                self.pages += pages;
                self.windows += windows;
            }
            Grown::Unknown => self.unknown += 1,
        }
    }

    /// What those have come to that were made since it was at `before`.
    fn since(self, before: Self) -> Grown {
        if self.unknown != before.unknown {
            return Grown::Unknown;
        }
        Grown::By {
            pages: self.pages - before.pages,
            windows: self.windows - before.windows,
        }
    }
}

impl Totals {
    /// What there is after changes; `None` where that is not known, or there cannot be so many.
    pub(super) fn after(self, grown: Grown) -> Option<Self> {
        let Grown::By { pages, windows } = grown else {
            return None;
        };
        Some(Self {
            pages: self.pages.checked_add_signed(pages)?,
            windows: self.windows.checked_add_signed(windows)?,
        })
    }

    /// The record of the commit `number`.
    pub(super) fn encode(self, number: u64) -> [u8; 24] {
        let mut bytes = [0; 24];
        for (place, value) in bytes
            .chunks_exact_mut(8)
            .zip([number, self.pages, self.windows])
        {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<(u64, Self)> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        let (values, _) = bytes.as_chunks::<8>();
        let [number, pages, windows] = [0, 1, 2].map(|nth| u64::from_le_bytes(values[nth]));
        Some((number, Self { pages, windows }))
    }
}

impl Reader<'_> {
    /// How many pages and windows there are, if the last commit says so.
    pub fn totals(&self) -> Result<Option<Totals>> {
        let Some(record) = self.get(META, TOTALS)? else {
            return Ok(None);
        };
        // What is no record is none of the last commit.
        let Some((number, totals)) = Totals::decode(&record) else {
            return Ok(None);
        };
        Ok((number == self.commits()?).then_some(totals))
    }

    /// Counts them.
    pub(super) fn count_totals(&self) -> Result<Totals> {
        let count = |family| {
            let mut count = 0;
            self.scan(family, &[], |_, _| {
                count += 1;
                Ok(())
            })?;
            Ok::<_, StoreError>(count)
        };
        Ok(Totals {
            pages: count(PAGES)?,
            windows: count(WINDOWS)?,
        })
    }
}

impl Index {
    /// What commits have said was found wrong: whoever asks next has pages and windows counted. Does nothing for who does not write.
    pub(crate) fn forget_totals(&self) -> Result<()> {
        let Role::Primary { count, .. } = &self.role else {
            return Ok(());
        };
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.totals = None;
        let mut batch = self.batch();
        batch.forget(TOTALS);
        self.write(&batch, false)
    }

    /// Counts pages and windows if no commit has said how many there are, and has the index say so. Others commit meanwhile. What cannot be read,
    /// or a commit of which nobody knows what it comes to, keeps them from being known, and nothing else.
    pub(crate) fn know_totals(&self) {
        let Role::Primary { count, .. } = &self.role else {
            return;
        };
        let count = || count.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, before) = {
            let count = count();
            if count.totals.is_some() {
                return;
            }
            // While no commit is made.
            (self.pinned(), count.course)
        };
        let counted = state.count_totals();
        drop(state);
        let mut count = count();
        let known = counted.and_then(|counted| {
            let Some(totals) = counted.after(count.course.since(before)) else {
                return Ok(());
            };
            count.totals = Some(totals);
            let mut batch = self.batch();
            batch.note(TOTALS, totals.encode(count.commits));
            self.write(&batch, false)
        });
        if let Err(error) = known {
            tracing::warn!(%error, "pages are counted whenever somebody asks");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::Store;
    use crate::steps::{self, Step};
    use crate::testing::{content, open, push};

    #[test]
    fn totals_are_read_as_they_were_written() {
        let totals = Totals {
            pages: u64::MAX,
            windows: 7,
        };
        assert_eq!(Totals::decode(&totals.encode(9)), Some((9, totals)));
        for length in [0, 23, 25] {
            assert_eq!(Totals::decode(&vec![0; length]), None);
        }
    }

    /// What a program leaves that does not know of the record, or one that could not read everything.
    #[test]
    fn a_record_of_another_commit_tells_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        push(&store, "a@1", &content(1, 20)).unwrap();
        let told = |store: &Store| store.snapshot().totals().unwrap();
        let pages = Some(20);
        assert_eq!(told(&store).map(|totals| totals.pages), pages);
        let stats = store.stats().unwrap();
        let index = &store.view.index;
        let commits = store.snapshot().commits().unwrap();
        let mut batch = index.batch();
        batch.note(TOTALS, Totals::default().encode(commits - 1));
        index.write(&batch, true).unwrap();
        assert_eq!((told(&store), store.stats().unwrap()), (None, stats));
        drop(store);
        let store = open(directory.path());
        assert_eq!(
            told(&store).map(|totals| totals.pages),
            pages,
            "they were counted"
        );
        push(&store, "b@1", &content(2, 10)).unwrap();
        assert_eq!(told(&store).map(|totals| totals.pages), Some(30));
    }

    #[test]
    fn pages_that_others_have_brought_meanwhile_are_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(open(directory.path()));
        let bytes = content(1, 1500);
        // Each time that it is planned others are quicker, and in the end with pages of its own.
        let (others, first) = (Arc::clone(&store), bytes[..40 * 4096].to_vec());
        let mut plans = 0;
        steps::at_each(move |step| {
            if step == Step::Planned {
                plans += 1;
                let store = &others;
                let bytes = match plans {
                    1 | 2 => content(100 + plans, 1),
                    _ => first.clone(),
                };
                let name = format!("other{plans}@1");
                let pushed = || push(store, &name, &bytes).unwrap();
                thread::scope(|scope| scope.spawn(pushed).join().unwrap());
            }
        });
        push(&store, "large@1", &bytes).unwrap();
        steps::at_each(|_| ());
        let shown = store.snapshot();
        let counted = shown.count_totals().unwrap();
        assert_eq!(counted.pages, 1502);
        // It is not known before somebody asks.
        assert_eq!(shown.totals().unwrap(), None);
        drop(shown);
        assert_eq!(store.stats().unwrap().stored_pages.0, 1502);
        assert_eq!(store.snapshot().totals().unwrap(), Some(counted));
        push(&store, "last@1", &content(9, 3)).unwrap();
        let pages = store.snapshot().totals().unwrap().unwrap().pages;
        assert_eq!(pages, 1505);
    }

    #[test]
    fn what_was_found_wrong_is_counted_anew() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        push(&store, "a@1", &content(1, 20)).unwrap();
        let index = &store.view.index;
        let commits = store.snapshot().commits().unwrap();
        let told = || store.snapshot().totals().unwrap();
        for wrong in [&Totals::default().encode(commits)[..], b"no record"] {
            let mut batch = index.batch();
            batch.note(TOTALS, wrong);
            index.write(&batch, true).unwrap();
            assert_ne!(told().map(|totals| totals.pages), Some(20));
            store.forget_totals().unwrap();
            assert_eq!(told(), None);
            assert_eq!(store.stats().unwrap().stored_pages.0, 20);
            assert_eq!(told().map(|totals| totals.pages), Some(20));
        }
    }

    #[test]
    fn what_cannot_be_is_not_known() {
        let of = |pages, windows| Totals { pages, windows };
        let grown = |pages, windows| Grown::By { pages, windows };
        assert_eq!(of(5, 1).after(grown(-5, 2)), Some(of(0, 3)));
        assert_eq!(of(5, 1).after(grown(-6, 0)), None);
        assert_eq!(of(5, 1).after(grown(0, -2)), None);
        assert_eq!(of(u64::MAX, 0).after(grown(1, 0)), None);
        let mut sum = grown(2, -1);
        sum += grown(3, 4);
        assert_eq!(sum, grown(5, 3));
        sum += Grown::Unknown;
        assert_eq!((sum, of(5, 1).after(sum)), (Grown::Unknown, None));
        sum += grown(1, 1);
        assert_eq!(sum, Grown::Unknown);
    }

    #[test]
    fn what_was_made_meanwhile_is_added_to_what_was_counted() {
        let grown = |pages, windows| Grown::By { pages, windows };
        let mut course = Course::default();
        course.note(grown(100, 5));
        let before = course;
        assert_eq!(course.since(before), grown(0, 0));
        course.note(grown(3, 0));
        course.note(grown(-10, 1));
        assert_eq!(course.since(before), grown(-7, 1));
        course.note(Grown::Unknown);
        assert_eq!(course.since(before), Grown::Unknown);
        let before = course;
        course.note(grown(1, 0));
        assert_eq!(course.since(before), grown(1, 0));
    }
}
