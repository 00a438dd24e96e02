//! What a collection must leave alone, whatever it found before.

use std::collections::{HashMap, HashSet};

use pool_core::digest::ObjectId;
use pool_core::extent::{Extent, ExtentMap, SegmentId, Slot};
use pool_core::page::PAGES_PER_WINDOW;

use crate::format::Location;

/// What commits have referred to since a collection began.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    objects: HashSet<ObjectId>,
    /// Slots of each segment, and segments that were appended to without any.
    slots: HashMap<SegmentId, HashSet<Slot>>,
    /// Objects that have been removed, and are put back if somebody has come to lease them meanwhile.
    pub(crate) limbo: Vec<ExtentMap>,
}

impl Barrier {
    /// Notes that a commit refers to an object and to where its pages are.
    pub(crate) fn protect(&mut self, id: ObjectId, extents: &[Extent]) {
        self.objects.insert(id);
        for extent in extents {
            let slots = (0..extent.count).map(|nth| Slot(extent.slot.0 + nth));
            self.slots.entry(extent.segment).or_default().extend(slots);
        }
    }

    /// True when a commit refers to an object.
    pub(crate) fn protects_object(&self, id: ObjectId) -> bool {
        self.objects.contains(&id)
    }

    /// True when a commit refers to anything in a segment, or appended to it.
    pub(crate) fn protects_any_of(&self, id: SegmentId) -> bool {
        self.slots.contains_key(&id)
    }

    /// Notes that slots of a segment were handed out.
    pub(crate) fn protect_segment(&mut self, id: SegmentId) {
        self.slots.entry(id).or_default();
    }

    /// True when a commit refers to a slot.
    pub(crate) fn protects(&self, at: Location) -> bool {
        let slots = self.slots.get(&at.segment);
        slots.is_some_and(|slots| slots.contains(&at.slot))
    }

    /// True when a commit refers to a slot of the window that begins at `window`.
    pub(crate) fn protects_window(&self, window: Location) -> bool {
        // A spoilt entry may begin at the last slots there can be.
        let slots = (0..PAGES_PER_WINDOW as u32).map_while(|nth| window.slot.0.checked_add(nth));
        slots
            .map(Slot)
            .any(|slot| self.protects(Location { slot, ..window }))
    }

    /// Protects a segment no more.
    pub(crate) fn let_go(&mut self, id: SegmentId) {
        self.slots.remove(&id);
    }
}
