//! Which segments go: dead ones at once, mostly dead ones after what is live has moved out.

use pool_core::extent::SegmentId;
use pool_store::format::SegmentState;
use pool_store::{StoreError, StoreView};

use crate::mark::Mark;
use crate::{Result, during};

/// Segments that are emptied with one scan of the index.
pub const GROUP: usize = 16;

/// Segments that need not stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// No live slot.
    pub dead: Vec<SegmentId>,
    /// Sealed, nobody leases them, and the share of slots to keep is below the threshold.
    pub sparse: Vec<SegmentId>,
}

/// Chooses segments. Dead slots of a segment that is still appended to wait until it is sealed,
/// unless all of it is dead; moving out of a leased segment would free nothing yet.
pub fn plan(store: &StoreView, mark: &Mark, compact_below: f64) -> Result<Plan> {
    let mut plan = Plan::default();
    for (id, record) in during("listing segments", store.segments())? {
        let kept = mark.kept_slots(id);
        if record.state == SegmentState::Retired {
            continue;
        }
        if kept == 0 {
            plan.dead.push(id);
        } else if record.state == SegmentState::Sealed
            && (kept as f64) < compact_below * f64::from(record.used)
            && !is_leased(store, id)?
        {
            plan.sparse.push(id);
        }
    }
    Ok(plan)
}

/// Retired segments that can be unlinked, and the bytes of those that are leased.
pub(crate) fn retired(store: &StoreView) -> Result<(Vec<SegmentId>, u64)> {
    let mut reapable = Vec::new();
    let mut waiting = 0;
    for (id, record) in during("listing segments", store.segments())? {
        if record.state != SegmentState::Retired {
            continue;
        }
        if is_leased(store, id)? {
            waiting += disk_bytes(store, id)?;
        } else {
            reapable.push(id);
        }
    }
    Ok((reapable, waiting))
}

pub(crate) fn is_leased(store: &StoreView, id: SegmentId) -> Result<bool> {
    during("asking for leases", store.segment_is_leased(id))
}

/// Bytes of disk of a segment; one whose file is gone has none.
pub(crate) fn disk_bytes(store: &StoreView, id: SegmentId) -> Result<u64> {
    match store.segment_disk_usage(id) {
        Err(StoreError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        other => during("measuring segments", other),
    }
}
