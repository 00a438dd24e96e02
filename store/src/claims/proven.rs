//! What was found out before a commit, and for how long it is known.

use std::collections::HashMap;

use pool_core::digest::ObjectId;

use super::Piece;
use crate::look::{Look, Looked};
use crate::moment::Moment;

/// What was found out about an upload's objects before its commit.
#[derive(Debug, Default)]
pub(crate) struct Proven {
    /// Those that their pages make up, wherever they are listed: where in the announcement.
    pub(super) objects: HashMap<ObjectId, usize>,
    /// Where the pages were before that.
    pub(super) look: Option<Look>,
}

impl Proven {
    /// True when the pages of an object were found to make it up, wherever it is listed.
    pub(crate) fn has(&self, object: ObjectId) -> bool {
        self.objects.contains_key(&object)
    }

    /// What is still known at a later moment of where the pages of a piece are.
    pub(crate) fn looked(&self, later: &Moment, piece: &Piece<'_>) -> Vec<Looked> {
        let count = piece.pages.len();
        // Of an object that is listed in several ways, and not proven, numbers say nothing.
        let nth = self.objects.get(&piece.object);
        match (nth, &self.look) {
            (Some(nth), Some(look)) => look.at(later, *nth, piece.first_page, count),
            _ => vec![Looked::Not; count],
        }
    }
}
