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

    /// True when what was looked for in the index since this moment, and not found, is not there yet: there was nothing on
    /// its way, and nobody has joined before the other moment.
    pub(crate) fn adds_nothing(&self, later: &Self) -> bool {
        self.keeps(later) && self.sight.is_clear() && !self.sight.is_before_others(&later.sight)
    }
}
