//! What there was at one moment under the writer's lock, and what still holds at a later one.

use crate::group::Sight;
use crate::{Store, Writer};

/// One moment under the writer's lock.
#[derive(Debug)]
pub(crate) struct Moment {
    /// See [`Writer::sections`].
    sections: u64,
    pub(crate) sight: Sight,
}

impl Moment {
    pub(crate) fn of(store: &Store, writer: &Writer) -> Self {
        Self {
            sections: writer.sections,
            sight: store.groups.sight(),
        }
    }

    /// True when what was found since this moment is where it was: nobody who may move or remove something has had the
    /// lock before the other.
    pub(crate) fn keeps(&self, later: &Self) -> bool {
        self.sections == later.sections
    }

    /// What is to be remembered of it.
    pub(crate) fn since(&self) -> Since {
        Since {
            sections: (!self.sight.removes()).then_some(self.sections),
            commits: self.sight.is_clear().then(|| self.sight.joined()),
        }
    }
}

/// A moment since which something was looked for in the index. It keeps nothing that was on its way then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since {
    /// None when something was on its way that moves or removes what was found: it may not have been seen.
    sections: Option<u64>,
    /// How many commits there had been, if nothing was on its way.
    commits: Option<u64>,
}

impl Since {
    /// True when what was found is where it was, as with [`Moment::keeps`].
    pub(crate) fn keeps(self, later: &Moment) -> bool {
        self.sections == Some(later.sections)
    }

    /// True when what was not found is not there yet: there was nothing on its way, and nobody has joined before the other
    /// moment.
    pub(crate) fn adds_nothing(self, later: &Moment) -> bool {
        self.keeps(later) && self.commits == Some(later.sight.joined())
    }
}
