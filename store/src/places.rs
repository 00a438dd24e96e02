//! Where pages and windows are, found out from what is in segments.

use pool_core::digest::PageId;
use pool_core::extent::{SegmentId, Slot};

use crate::format::Location;
use crate::index::Batch;
use crate::placement::name_of_window;

/// Notes where the pages of one window are whose content was found to be `found`: those of `slots`, and if `is_window` the
/// window itself, which begins at slot `first`.
pub(crate) fn put_places(
    batch: &mut Batch<'_>,
    segment: SegmentId,
    first: u32,
    found: &[Option<PageId>],
    slots: impl Iterator<Item = u32>,
    is_window: bool,
) {
    for slot in slots {
        if let Some(page) = found[(slot - first) as usize] {
            let slot = Slot(slot);
            batch.note_page(page, Location { segment, slot });
        }
    }
    if is_window {
        let slot = Slot(first);
        batch.note_window(name_of_window(found), Location { segment, slot });
    }
}
