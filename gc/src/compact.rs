//! Which segments go: dead ones at once, mostly dead ones after what is live has moved out.

use std::mem;

use pool_core::extent::SegmentId;
use pool_core::page::PAGE_SIZE;
use pool_store::collection::{Collection, SkipReason, Skipped};
use pool_store::evacuate::Evacuated;
use pool_store::format::SegmentState;
use pool_store::{StoreError, StoreView};

use crate::mark::Mark;
use crate::{Result, during};

/// Most segments that are emptied with one scan of the index.
pub const GROUP: usize = 16;

/// Their bytes together: what is known of every page meanwhile is in memory.
const GROUP_BYTES: u64 = 2 << 30;

/// Segments of so many bytes that are emptied with one scan of the index.
fn group(segment_bytes: u64) -> usize {
    (GROUP_BYTES / segment_bytes).clamp(1, GROUP as u64) as usize
}

/// Segments that need not stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// No live slot.
    pub dead: Vec<SegmentId>,
    /// Sealed, nobody leases them, and the share of slots to keep is below the threshold. Those
    /// with the least to keep come first: on a nearly full disk they make room for the others.
    pub sparse: Vec<SegmentId>,
    /// As `sparse`, but leased: moving out would free nothing before the lease ends.
    pub leased: Vec<SegmentId>,
    /// Bytes of disk that `leased` would give back.
    pub leased_bytes: u64,
    /// Their records cannot be read, and nothing live is in them. They stay.
    pub unreadable: Vec<Skipped>,
}

/// Chooses segments. Dead slots of a segment that is still appended to wait until it is sealed,
/// unless all of it is dead.
pub fn plan(store: &StoreView, mark: &Mark, compact_below: f64) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut sparse = Vec::new();
    for (id, record) in during("listing segments", store.segments_one_by_one())? {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                plan.unreadable.push(Skipped::unreadable(id, &error));
                continue;
            }
        };
        let kept = mark.kept_slots(id);
        if record.state == SegmentState::Retired {
            continue;
        }
        if record.state == SegmentState::Open && record.used == 0 && disk_bytes(store, id)? == 0 {
            // The next segment to be appended to: there is nothing to give back.
            continue;
        }
        if kept == 0 {
            plan.dead.push(id);
        } else if record.state == SegmentState::Sealed
            && (kept as f64) < compact_below * f64::from(record.used)
        {
            if is_leased(store, id)? {
                plan.leased.push(id);
                plan.leased_bytes += disk_bytes(store, id)?.saturating_sub(kept * PAGE_SIZE);
            } else {
                sparse.push((kept, id));
            }
        }
    }
    sparse.sort_unstable();
    plan.sparse = sparse.into_iter().map(|(_, id)| id).collect();
    Ok(plan)
}

/// What became of the segments that were to be emptied.
#[derive(Debug, Default)]
pub(crate) struct Emptied {
    pub(crate) segments: Vec<SegmentId>,
    pub(crate) skipped: Vec<Skipped>,
}

/// Empties segments, at most [`GROUP`] at a time, and lets `reap` give their disk back after each group. A
/// segment that the disk had no room to copy is tried again as long as others went.
pub(crate) fn empty(
    collection: &Collection<'_>,
    sparse: &[SegmentId],
    mut reap: impl FnMut() -> Result<()>,
) -> Result<Emptied> {
    let most = group(collection.store().superblock().segment_bytes);
    in_groups(sparse, most, |group| {
        let done = match collection.evacuate(group) {
            // The index itself is out of room. What was begun stays whole in either place.
            Err(error @ StoreError::NoSpace { .. }) => {
                let mut done = Evacuated::default();
                let retired = retired(collection.store())?;
                for segment in group {
                    if retired.contains(segment) {
                        done.segments.push(*segment);
                        continue;
                    }
                    done.skipped.push(Skipped {
                        segment: *segment,
                        reason: SkipReason::NoRoom,
                        why: error.to_string(),
                    });
                }
                done
            }
            other => during("emptying segments", other)?,
        };
        reap()?;
        Ok(done)
    })
}

/// Passes `segments` to `evacuate` in groups of at most `most`, and those again that found no room, as long as a
/// group has made some.
fn in_groups(
    segments: &[SegmentId],
    most: usize,
    mut evacuate: impl FnMut(&[SegmentId]) -> Result<Evacuated>,
) -> Result<Emptied> {
    let mut emptied = Emptied::default();
    let mut left = segments.to_vec();
    while !left.is_empty() {
        let after = left.split_off(left.len().min(most));
        let group = mem::replace(&mut left, after);
        let done = evacuate(&group)?;
        let made_room = !done.segments.is_empty();
        emptied.segments.extend(done.segments);
        for skipped in done.skipped {
            if made_room && skipped.reason == SkipReason::NoRoom {
                left.push(skipped.segment);
            } else {
                emptied.skipped.push(skipped);
            }
        }
    }
    Ok(emptied)
}

/// Segments that were retired and still have a record.
pub(crate) fn retired(store: &StoreView) -> Result<Vec<SegmentId>> {
    let segments = during("listing segments", store.segments_one_by_one())?;
    let retired = segments.into_iter().filter(|(_, record)| {
        let state = record.as_ref().map(|record| record.state);
        state.is_ok_and(|state| state == SegmentState::Retired)
    });
    Ok(retired.map(|(id, _)| id).collect())
}

pub(crate) fn is_leased(store: &StoreView, id: SegmentId) -> Result<bool> {
    during("asking for leases", store.segment_is_leased(id))
}

/// Bytes of disk of a segment; one whose file is gone has none.
pub(crate) fn disk_bytes(store: &StoreView, id: SegmentId) -> Result<u64> {
    match store.segment_disk_usage(id) {
        Err(StoreError::NoSegment(_)) => Ok(0),
        other => during("measuring segments", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Empties 40 segments on a disk with room for `free` of them at a time, each giving back
    /// `gain` times that; number 7 is damaged.
    fn run(mut free: usize, gain: usize) -> (Emptied, Vec<usize>) {
        let segments: Vec<_> = (0..40).map(SegmentId).collect();
        let mut groups = Vec::new();
        let emptied = in_groups(&segments, GROUP, |group| {
            groups.push(group.len());
            let mut done = Evacuated::default();
            let mut gained = 0;
            for segment in group {
                let reason = if segment.0 == 7 {
                    SkipReason::Damaged
                } else if free == 0 {
                    SkipReason::NoRoom
                } else {
                    free -= 1;
                    gained += gain;
                    done.segments.push(*segment);
                    continue;
                };
                done.skipped.push(Skipped {
                    segment: *segment,
                    reason,
                    why: String::new(),
                });
            }
            free += gained;
            Ok(done)
        });
        (emptied.unwrap(), groups)
    }

    #[test]
    fn a_group_is_no_larger_than_what_memory_is_for() {
        let groups = [2 << 20, 64 << 20, 512 << 20, 16 << 30].map(group);
        assert_eq!(groups, [16, 16, 4, 1]);
    }

    #[test]
    fn with_room_every_segment_is_tried_once() {
        let (emptied, groups) = run(1000, 0);
        assert_eq!(groups, [16, 16, 8]);
        assert_eq!((emptied.segments.len(), emptied.skipped.len()), (39, 1));
    }

    #[test]
    fn room_for_one_is_enough_for_all() {
        let (emptied, groups) = run(1, 2);
        assert_eq!(emptied.segments.len(), 39);
        assert_eq!(emptied.skipped.len(), 1);
        assert_eq!(emptied.skipped[0].segment, SegmentId(7));
        assert!(groups.len() < 10, "{groups:?}");
    }

    #[test]
    fn without_room_each_is_named_once() {
        let (emptied, groups) = run(0, 2);
        assert_eq!(groups, [16, 16, 8]);
        assert_eq!((emptied.segments.len(), emptied.skipped.len()), (0, 40));
        // What is gone for good is not tried for ever.
        let (emptied, _) = run(3, 0);
        assert_eq!((emptied.segments.len(), emptied.skipped.len()), (3, 37));
    }
}
