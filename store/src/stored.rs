//! What a commit finds: the index with what is on its way to it, and without what is known to be damaged.

use std::sync::Arc;

use pool_core::digest::{ObjectId, PageId, WindowId};
use pool_core::page::PAGES_PER_WINDOW;

use crate::damage::DamagedSlots;
use crate::error::Result;
use crate::format::{Location, ObjectRecord};
use crate::index::Reader;

/// Pages, windows and objects as a commit may refer to them.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    index: Reader<'a>,
    damage: Arc<DamagedSlots>,
}

impl<'a> Stored<'a> {
    pub(crate) fn new(index: Reader<'a>, damage: Arc<DamagedSlots>) -> Self {
        Self { index, damage }
    }

    pub(crate) fn damage(&self) -> &DamagedSlots {
        &self.damage
    }

    /// The record of an object, damaged or not.
    pub(crate) fn object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        self.index.object(id)
    }

    /// The record of an object of which nothing is known to be damaged.
    pub(crate) fn whole_object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        let record = self.index.object(id)?;
        Ok(record.filter(|record| !self.damage.touch(&record.map)))
    }

    /// Where pages are, in the order of `ids`; `None` for those that count as missing.
    pub(crate) fn pages(&self, ids: &[PageId]) -> Result<Vec<Option<Location>>> {
        let mut found = self.index.pages(ids)?;
        if !self.damage.is_empty() {
            for at in &mut found {
                *at = at.and_then(|at| self.unless_damaged(at));
            }
        }
        Ok(found)
    }

    /// Where a page was found, unless it counts as missing.
    pub(crate) fn unless_damaged(&self, at: Location) -> Option<Location> {
        self.damage.get(at).is_none().then_some(at)
    }

    /// True when a page that counts as missing is on record nevertheless, damaged as it is.
    pub(crate) fn has_page(&self, missing: &PageId) -> Result<bool> {
        Ok(!self.damage.is_empty() && self.index.page(missing)?.is_some())
    }

    /// The same of a window.
    pub(crate) fn has_window(&self, missing: &WindowId) -> Result<bool> {
        Ok(!self.damage.is_empty() && self.index.window(missing)?.is_some())
    }

    /// Where a densely stored window begins, likewise.
    pub(crate) fn window(&self, id: &WindowId) -> Result<Option<Location>> {
        let found = self.index.window(id)?;
        Ok(found.filter(|first| {
            let mut damaged = self.damage.among(*first, PAGES_PER_WINDOW as u32);
            damaged.next().is_none()
        }))
    }
}
