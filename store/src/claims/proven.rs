//! What was found out before a commit, and for how long it is known.

use std::collections::{HashMap, HashSet};

use pool_core::digest::ObjectId;

use super::Piece;
use crate::format::Location;
use crate::moment::Moment;

/// What was found out about an upload's objects before its commit.
#[derive(Debug, Default)]
pub(crate) struct Proven {
    pub(super) objects: HashSet<ObjectId>,
    /// When that began.
    pub(super) since: Option<Moment>,
    /// Where pages of each object were, by number.
    pub(super) found: HashMap<ObjectId, Vec<Looked>>,
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

impl Proven {
    /// True when the pages of an object were found to make it up, wherever it is listed.
    pub(crate) fn has(&self, object: ObjectId) -> bool {
        self.objects.contains(&object)
    }

    /// What is still known at a later moment of where the pages of a piece are.
    pub(crate) fn looked(&self, later: &Moment, piece: &Piece<'_>) -> Vec<Looked> {
        let nothing = || vec![Looked::Not; piece.pages.len()];
        // Of an object that is listed in several ways, and not proven, numbers say nothing.
        let found = self.found.get(&piece.object);
        let found = found.filter(|_| self.has(piece.object));
        let (Some(found), Some(since)) = (found, &self.since) else {
            return nothing();
        };
        if !since.keeps(later) {
            return nothing();
        }
        let pages = found.get(piece.first_page as usize..);
        let Some(pages) = pages.and_then(|pages| pages.get(..piece.pages.len())) else {
            return nothing();
        };
        let mut looked = pages.to_vec();
        if !since.adds_nothing(later) {
            // Others may have stored them since.
            for looked in &mut looked {
                if *looked == Looked::Nowhere {
                    *looked = Looked::Not;
                }
            }
        }
        looked
    }
}
