//! Where stack, heap and monitor go: gaps that the image leaves, close to it, so that they share
//! its page tables (each further GiB of addresses costs two table pages a guest).

use pool_core::address::USER_ADDRESS_END;
use pool_core::description::{Description, RangeKind};
use pool_core::{GuestAddress, WINDOW_SIZE};

use super::{MONITOR_SIZE, Rooms, STACK_SIZE, image_end};

const GIB: u64 = 1 << 30;
/// Guard, stack, a small guard, monitor.
const TOP: u64 = STACK_SIZE + 2 * WINDOW_SIZE;
/// Between the stack and the monitor.
const STACK_GUARD: u64 = 64 << 10;
/// Least room for heap and mappings between the image and the monitor.
const LEAST_HEAP: u64 = 64 << 20;

/// The rooms of an image, or `None` when it fills the address space.
pub(super) fn find(description: &Description) -> Option<Rooms> {
    let end = image_end(description);
    let writable_end = description
        .ranges
        .iter()
        .filter(|range| range.kind != RangeKind::Shared)
        .map(|range| range.end().0)
        .next_back()
        .or_else(|| end.checked_next_multiple_of(WINDOW_SIZE))?;
    // The top of the GiB that holds the image's last byte, or of a later one.
    let mut high = end.checked_next_multiple_of(GIB)?;
    while high - end < TOP + LEAST_HEAP {
        high = high.checked_add(GIB)?;
    }
    if high > USER_ADDRESS_END {
        return None;
    }
    let monitor = high - MONITOR_SIZE;
    let stack_high = monitor - STACK_GUARD;
    Some(Rooms {
        monitor: GuestAddress(monitor),
        stack_low: GuestAddress(stack_high - STACK_SIZE),
        stack_high: GuestAddress(stack_high),
        heap: GuestAddress(writable_end),
        mmap_top: GuestAddress(high - TOP),
    })
}
