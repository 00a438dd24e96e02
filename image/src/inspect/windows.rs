//! Counting the 2 MiB windows that one large page-table entry could map.

use std::collections::BTreeMap;

use pool_core::ObjectId;
use pool_core::description::{Description, Range, RangeKind};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use serde::Serialize;

/// Windows of an image's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WindowReport {
    /// Windows in which anything lies.
    pub touched: u64,
    /// Windows in which shared pages lie.
    pub shared: u64,
    /// Windows in which nothing but shared pages of one object lie: when the pool places that
    /// object densely, one entry maps all of them.
    pub whole: u64,
}

pub(super) fn count(description: &Description) -> WindowReport {
    let ranges = &description.ranges;
    // Zero ranges may be huge, so windows are counted from borders; the windows of shared ranges
    // are listed, as their bytes were in the file.
    let mut touched = 0;
    let mut next = 0;
    for range in ranges {
        let first = (range.address.0 / WINDOW_SIZE).max(next);
        let end = range.end().0.div_ceil(WINDOW_SIZE);
        touched += end.saturating_sub(first);
        next = next.max(end);
    }
    let phases = description.objects();
    let mut whole: BTreeMap<u64, bool> = BTreeMap::new();
    for (at, range) in ranges.iter().enumerate() {
        let Some(object) = shared_object(range) else {
            continue;
        };
        let end = range.end().0.div_ceil(WINDOW_SIZE);
        for window in range.address.0 / WINDOW_SIZE..end {
            let alone = in_phase(range, phases[&object])
                && neighbours(ranges, at, window)
                    .all(|other| shared_object(other) == Some(object) && continues(range, other));
            *whole.entry(window).or_insert(true) &= alone;
        }
    }
    WindowReport {
        touched,
        shared: whole.len() as u64,
        whole: whole.values().filter(|whole| **whole).count() as u64,
    }
}

fn shared_object(range: &Range) -> Option<ObjectId> {
    let source = range.source.filter(|_| range.kind == RangeKind::Shared)?;
    Some(source.object)
}

/// Where the object would begin in memory, if all of it were mapped as the range is.
fn origin(range: &Range) -> u64 {
    let offset = range.source.map_or(0, |source| source.offset);
    range.address.0.wrapping_sub(offset)
}

fn in_phase(range: &Range, phase: u64) -> bool {
    origin(range) / PAGE_SIZE % PAGES_PER_WINDOW == phase
}

fn continues(range: &Range, other: &Range) -> bool {
    origin(range) == origin(other)
}

/// The next range on either side, where it lies in the window. Looking one step is enough: every
/// shared range of the window is looked at in turn.
fn neighbours(ranges: &[Range], at: usize, window: u64) -> impl Iterator<Item = &Range> {
    let before = at.checked_sub(1).and_then(|before| ranges.get(before));
    let after = ranges.get(at + 1);
    let start = window * WINDOW_SIZE;
    before
        .into_iter()
        .chain(after)
        .filter(move |range| range.address.0 < start + WINDOW_SIZE && range.end().0 > start)
}
