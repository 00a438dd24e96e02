//! What an upload claims of its objects: that the pages it lists make them up.
//!
//! Whether they do takes a look at every byte, which nobody else should have to wait for. So it is found out before the
//! writer's lock is taken: what is true of a list of digests stays true, wherever the pages are by then. Pages that the
//! store has are read where the object will refer to them. One which the disk has changed is not taken for what its
//! digest says: it is remembered as damaged, so that it counts as missing, and is sent, or written from what is at hand.

mod claim;
mod look_up;
mod proven;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::SegmentId;
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW};

pub(crate) use self::claim::Claim;
pub(crate) use self::proven::Proven;
pub(crate) use self::reader::PageReader;
use crate::error::Result;
use crate::look::Look;
use crate::placement::{Placement, WindowPlan};
use crate::upload::{Upload, UploadObject};
use crate::{Store, may_lack_file};

/// Where the bytes of an upload are that the store lacks.
#[derive(Clone, Copy)]
pub(crate) enum Given<'a> {
    /// Pages that were staged; the objects' digests are somebody else's claim.
    Sent(&'a Upload),
    /// Whole objects in memory, hashed here.
    AtHand(&'a HashMap<ObjectId, &'a [u8]>),
}

impl<'a> Given<'a> {
    fn is_at_hand(self) -> bool {
        matches!(self, Self::AtHand(_))
    }

    /// Those bytes of an object that are at hand, from a page on.
    fn bytes_at_hand(self, object: ObjectId, first_page: u64) -> Option<&'a [u8]> {
        match self {
            Self::Sent(_) => None,
            Self::AtHand(objects) => objects
                .get(&object)?
                .get((first_page * PAGE_SIZE) as usize..),
        }
    }
}

/// Up to 512 consecutive pages of an object.
pub(crate) struct Piece<'a> {
    pub(crate) object: ObjectId,
    /// Number of the first in the object.
    pub(crate) first_page: u64,
    pub(crate) pages: &'a [Option<PageId>],
}

impl<'a> Piece<'a> {
    /// The same in pieces of up to so many pages.
    fn split(&self, pages: usize) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let (object, firsts) = (self.object, (self.first_page..).step_by(pages));
        self.pages
            .chunks(pages)
            .zip(firsts)
            .map(move |(pages, first_page)| Piece {
                object,
                first_page,
                pages,
            })
    }
}

/// What an object has in one part of its plan, a window's worth at a time, which bounds the memory that a large object
/// takes.
pub(crate) fn pieces<'a>(
    object: &'a UploadObject,
    part: &WindowPlan,
) -> impl Iterator<Item = Piece<'a>> + use<'a> {
    let (first_page, count) = (part.first_page, part.count);
    let pages = &object.pages[first_page as usize..][..count as usize];
    let pieces = pages.chunks(PAGES_PER_WINDOW as usize);
    let firsts = (first_page..).step_by(PAGES_PER_WINDOW as usize);
    pieces.zip(firsts).map(|(pages, first_page)| Piece {
        object: object.id,
        first_page,
        pages,
    })
}

impl Store {
    /// Those of `objects`, which were looked up, that their pages were found to make up; an object of which they make up
    /// another one is refused. Nothing is said of objects that the pool has, and of those with pages that are missing, or that
    /// a collection takes meanwhile.
    pub(crate) fn proven(
        &self,
        objects: &[UploadObject],
        given: Given<'_>,
        mut look: Look,
    ) -> Result<Proven> {
        let mut reader = PageReader::new(self, given);
        let (mut proven, mut open) = (HashMap::new(), HashSet::new());
        for (nth, object) in objects.iter().enumerate() {
            let is_known = self.whole_object(object.id)?.is_some();
            if !is_known && reader.prove(nth, object, &mut look)? {
                proven.insert(object.id, nth);
            } else {
                open.insert(object.id);
            }
        }
        proven.retain(|id, _| !open.contains(id));
        Ok(Proven {
            objects: proven,
            look: Some(look),
        })
    }

    /// How an object is to lie. One that is known and damaged keeps its windows: others map it by them.
    pub(crate) fn placement_of(&self, object: &UploadObject) -> Result<Placement> {
        let known = self.object(object.id)?;
        let known = known.filter(|known| known.map.extents().iter().any(|extent| extent.dense));
        Ok(known.map_or(object.placement, |known| Placement::Windows {
            phase: known.phase,
        }))
    }

    /// True when a segment that should have a file has none.
    fn is_lost(&self, id: SegmentId) -> Result<bool> {
        let record = self.segment(id)?;
        Ok(record.is_some_and(|record| !may_lack_file(record)))
    }
}
