//! One state of the index, and everything that can be asked of it.
//!
//! What one commit changed is seen whole or not at all: a tag has its manifest, a manifest its
//! objects, an object its segments.

use std::ops::Deref;

use crate::StoreView;
use crate::index::Reader;

/// One state of the index; see [`StoreView::snapshot`].
#[derive(Debug)]
pub struct Snapshot<'a> {
    view: &'a StoreView,
    index: Reader<'a>,
}

impl<'a> Deref for Snapshot<'a> {
    type Target = Reader<'a>;
    fn deref(&self) -> &Reader<'a> {
        &self.index
    }
}

impl<'a> Snapshot<'a> {
    pub(crate) fn new(view: &'a StoreView) -> Self {
        Self {
            view,
            index: view.index.pinned(),
        }
    }

    /// The store, to read contents and to ask for leases. Not to be refreshed.
    pub fn view(&self) -> &'a StoreView {
        self.view
    }
}
