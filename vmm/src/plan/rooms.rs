//! Where stack, heap and monitor go: gaps that the image leaves, close to it, so that they share
//! its page tables (each further GiB of addresses costs two table pages a guest).

use pool_core::address::USER_ADDRESS_END;
use pool_core::description::{Description, RangeKind};
use pool_core::{GuestAddress, PAGE_SIZE, WINDOW_SIZE};

use super::{MONITOR_SIZE, Rooms, STACK_SIZE, image_end};
use crate::slide::Random;

const GIB: u64 = 1 << 30;
/// Guard, stack, a small guard, monitor.
const TOP: u64 = STACK_SIZE + 2 * WINDOW_SIZE;
/// Between the stack and the monitor.
const STACK_GUARD: u64 = 64 << 10;
/// Least room for heap and mappings between the image and the monitor.
const LEAST_HEAP: u64 = 64 << 20;

/// Most bytes by which the rooms of an image that slides lie further from it, and from one another: all of them, the
/// stack, mappings, and the heap (which Linux moves as far, `arch_randomize_brk`).
const MOST_DOWN: u64 = 128 << 20;
const MOST_STACK: u64 = 512 << 10;
const MOST_MAPPINGS: u64 = 16 << 20;
const MOST_HEAP: u64 = 32 << 20;

/// The rooms of an image, or `None` when it fills the address space. With `random` they are not where one would guess.
pub(super) fn find(description: &Description, random: Option<&mut Random>) -> Option<Rooms> {
    let end = image_end(description);
    let Some(random) = random else {
        return at_their_places(description, end);
    };
    let least = TOP + LEAST_HEAP + MOST_DOWN + MOST_MAPPINGS + MOST_HEAP;
    let high = top(end, least)? - random.below(MOST_DOWN / WINDOW_SIZE) * WINDOW_SIZE;
    let usual = below(high, end);
    let lower = random.below(MOST_STACK / PAGE_SIZE) * PAGE_SIZE;
    Some(Rooms {
        stack_low: GuestAddress(usual.stack_low.0 - lower),
        stack_high: GuestAddress(usual.stack_high.0 - lower),
        heap: GuestAddress(end + random.below(MOST_HEAP / PAGE_SIZE) * PAGE_SIZE),
        mmap_top: GuestAddress(high - TOP - random.below(MOST_MAPPINGS / PAGE_SIZE) * PAGE_SIZE),
        ..usual
    })
}

fn at_their_places(description: &Description, end: u64) -> Option<Rooms> {
    let writable_end = description
        .ranges
        .iter()
        .filter(|range| range.kind != RangeKind::Shared)
        .map(|range| range.end().0)
        .next_back()
        .or_else(|| end.checked_next_multiple_of(WINDOW_SIZE))?;
    Some(below(top(end, TOP + LEAST_HEAP)?, writable_end))
}

/// The top of the GiB that holds the image's last byte, or of a later one, so that there are `least` bytes between.
fn top(end: u64, least: u64) -> Option<u64> {
    let mut high = end.checked_next_multiple_of(GIB)?;
    while high - end < least {
        high = high.checked_add(GIB)?;
    }
    (high <= USER_ADDRESS_END).then_some(high)
}

/// The rooms below `high`, with the heap at `heap`.
fn below(high: u64, heap: u64) -> Rooms {
    let monitor = high - MONITOR_SIZE;
    let stack_high = monitor - STACK_GUARD;
    Rooms {
        monitor: GuestAddress(monitor),
        stack_low: GuestAddress(stack_high - STACK_SIZE),
        stack_high: GuestAddress(stack_high),
        heap: GuestAddress(heap),
        mmap_top: GuestAddress(high - TOP),
    }
}
