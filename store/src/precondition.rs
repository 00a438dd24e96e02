//! Changes that are made only if a name is what their author thinks it is.
//!
//! Two who push the same tag at once both look first and change then. So what they expect goes
//! with the change ([`Store::when`]) and is looked at under the writer's lock, where nothing can
//! come between the look and the change.

use pool_core::digest::ObjectId;
use pool_core::name::Named;

use crate::error::{Result, StoreError};
use crate::manifest::Revision;
use crate::{Reader, Store, StoreView};

/// States that a name may be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revisions {
    /// Whichever, as long as the name exists.
    Any,
    /// One of these.
    Listed(Vec<Revision>),
}

impl Revisions {
    fn hold(&self, current: Option<Revision>) -> bool {
        current.is_some_and(|current| match self {
            Self::Any => true,
            Self::Listed(list) => list.contains(&current),
        })
    }
}

/// What must hold of a name for a change to be made; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    among: Vec<Revisions>,
    outside: Vec<Revisions>,
}

impl Precondition {
    /// The name does not exist.
    pub fn absent() -> Self {
        Self::default().outside(Revisions::Any)
    }

    /// And the name is one of `revisions`.
    #[must_use]
    pub fn among(mut self, revisions: Revisions) -> Self {
        self.among.push(revisions);
        self
    }

    /// And the name is none of `revisions`.
    #[must_use]
    pub fn outside(mut self, revisions: Revisions) -> Self {
        self.outside.push(revisions);
        self
    }

    /// And all that `other` asks for.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.among.extend_from_slice(&other.among);
        self.outside.extend_from_slice(&other.outside);
        self
    }

    /// True when nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.among.is_empty() && self.outside.is_empty()
    }

    /// Refuses unless it holds of `name`.
    pub(crate) fn check(&self, index: &Reader<'_>, name: &Named) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let current = index.revision(name)?;
        if self.holds(current) {
            return Ok(());
        }
        Err(StoreError::PreconditionFailed {
            what: name.to_string(),
            found: current,
        })
    }

    /// Compares with the state of a name, `None` when it does not exist.
    pub fn holds(&self, current: Option<Revision>) -> bool {
        self.among.iter().all(|expected| expected.hold(current))
            && !self.outside.iter().any(|excluded| excluded.hold(current))
    }
}

impl Reader<'_> {
    /// The state of a name, `None` when it does not exist.
    pub fn revision(&self, name: &Named) -> Result<Option<Revision>> {
        Ok(match name {
            Named::Image(image) => self.image(image)?.map(|(tag, manifest)| {
                digest(&(tag, manifest.file, manifest.data, manifest.created_at))
            }),
            Named::Library(library) => match self.library(library)? {
                Some(record) => Some(digest(&(record, self.library_users(library)?))),
                None => None,
            },
        })
    }
}

impl StoreView {
    /// See [`Reader::revision`].
    pub fn revision(&self, name: &Named) -> Result<Option<Revision>> {
        self.snapshot().revision(name)
    }

    /// Refuses unless `precondition` holds of `name` now. Alone it promises nothing about a later
    /// change: that is what [`Store::when`] is for.
    pub fn check(&self, name: &Named, precondition: &Precondition) -> Result<()> {
        precondition.check(&self.snapshot(), name)
    }
}

fn digest(state: &impl serde::Serialize) -> Revision {
    let json = serde_json::to_vec(state).expect("records have only string keys");
    Revision(ObjectId::of(&json))
}

/// A store whose changes are made only if a precondition holds of the name that they are about.
#[derive(Clone, Copy, Debug)]
pub struct Conditional<'a> {
    pub(crate) store: &'a Store,
    pub(crate) precondition: &'a Precondition,
}

impl Store {
    /// Changes that are made only if `precondition` holds, looked at under the same lock.
    pub fn when<'a>(&'a self, precondition: &'a Precondition) -> Conditional<'a> {
        Conditional {
            store: self,
            precondition,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_compare_with_what_is_there() {
        let [one, two] = [b"1", b"2"].map(|text| Revision(ObjectId::of(text)));
        let listed = |revisions: &[Revision]| Revisions::Listed(revisions.to_vec());
        let is = |revisions| Precondition::default().among(revisions);
        let is_not = |revisions| Precondition::default().outside(revisions);
        for (precondition, absent, at_one, at_two) in [
            (Precondition::default(), true, true, true),
            (Precondition::absent(), true, false, false),
            (is(Revisions::Any), false, true, true),
            (is(listed(&[one])), false, true, false),
            (is(listed(&[two, one])), false, true, true),
            (is(listed(&[])), false, false, false),
            (is_not(listed(&[one])), true, false, true),
            (is_not(listed(&[])), true, true, true),
            (
                is(Revisions::Any).and(&is_not(listed(&[two]))),
                false,
                true,
                false,
            ),
            (
                is(listed(&[one])).and(&Precondition::absent()),
                false,
                false,
                false,
            ),
        ] {
            assert_eq!(precondition.holds(None), absent, "{precondition:?}");
            assert_eq!(precondition.holds(Some(one)), at_one, "{precondition:?}");
            assert_eq!(precondition.holds(Some(two)), at_two, "{precondition:?}");
        }
    }

    #[test]
    fn revisions_are_written_and_read_back() {
        let revision = Revision(ObjectId::of(b"state"));
        assert_eq!(revision.to_string().parse(), Ok(revision));
        assert!("state".parse::<Revision>().is_err());
    }
}
