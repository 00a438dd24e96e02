use std::sync::atomic::{AtomicUsize, Ordering};

use pool_core::ObjectId;
use pool_core::image_map::ImageMap;

use super::*;
use crate::plan::Plan;
use crate::pool::Segments;

/// Free in the image below.
const PAGE: u64 = 0x1000_0000;

/// The memory of a guest whose image is one page of zeros.
fn memory() -> GuestMemory {
    let object = ObjectId::of(b"text");
    let json = format!(
        r#"{{"format": 2, "description": {{"format": 1,
            "image": {{"digest": "{object}", "length": 1}}, "abi": "linux", "layout": "own",
            "load_bias": 0, "entry": "0x400000", "program_headers": null, "libraries": [],
            "ranges": [{{"address": "0x400000", "length": 4096, "protection": "r-x",
                "kind": "shared", "source": {{"object": "{object}", "offset": 0}},
                "library": null}}]}},
            "objects": {{"{object}": {{"length": 4096, "extents": []}}}}}}"#
    );
    let map = ImageMap::from_json(json.as_bytes()).unwrap();
    let plan = Plan::new(&map, 16 << 20).unwrap();
    let monitor = [
        (MonitorPage::Tables, Vec::new()),
        (MonitorPage::Gates, Vec::new()),
        (MonitorPage::Entry, Vec::new()),
    ];
    GuestMemory::build(&plan, &Segments::default(), Backing::Pool, &monitor).unwrap()
}

/// A processor that remembers a page as read-only faults once on it after it has become writable.
#[test]
fn a_page_may_fault_once_after_each_change() {
    let mut memory = memory();
    memory
        .map_zero(PAGE, PAGE_SIZE, Protection::READ_WRITE)
        .unwrap();
    for _ in 0..3 {
        for protection in [Protection::READ, Protection::READ_WRITE] {
            let end = PAGE + PAGE_SIZE;
            memory.protect(PAGE, end, protection).unwrap().unwrap();
        }
        assert!(memory.resolve_fault(PAGE, Access::Write, true).unwrap());
    }
    let again = memory.resolve_fault(PAGE, Access::Write, true).unwrap();
    assert!(!again, "it would fault for ever");
}

/// Two processors that touch a page at once find that nothing is there, and neither has anything to forget.
#[test]
fn a_page_that_another_has_touched_meanwhile_is_not_taken_away_again() {
    let mut memory = memory();
    memory
        .map_zero(PAGE, 2 * PAGE_SIZE, Protection::READ_WRITE)
        .unwrap();
    touch(&mut memory, PAGE, 2).unwrap();
    let before = memory.revocations();
    assert!(memory.resolve_fault(PAGE, Access::Write, false).unwrap());
    assert_eq!(memory.revocations(), before);
    let other = PAGE + PAGE_SIZE;
    assert!(memory.resolve_fault(other, Access::Write, true).unwrap());
    assert_eq!(memory.revocations(), before + 1, "it remembers something");
}

fn touch(memory: &mut GuestMemory, start: u64, pages: u64) -> Result<(), BadAddress> {
    (0..pages).try_for_each(|page| memory.write(start + page * PAGE_SIZE, &[1]))
}

/// The machine need not forget everything for one page; that costs five times as much and more.
#[test]
fn withdrawing_a_right_flushes_pages_and_not_the_machine() {
    let mut memory = memory();
    let (start, end) = (PAGE, PAGE + 64 * PAGE_SIZE);
    memory
        .map_zero(start, end - start, Protection::READ_WRITE)
        .unwrap();
    touch(&mut memory, start, 64).unwrap();
    memory
        .protect(start, end, Protection::READ)
        .unwrap()
        .unwrap();
    memory.unmap(start, end).unwrap();
    assert!(!memory.take_flush());
}

/// A shadow pager goes on with what it made for an entry of 2 MiB.
#[test]
fn an_entry_that_changes_its_kind_or_place_flushes_the_machine() {
    let mut memory = memory();
    let pages = 2 * PAGES_PER_WINDOW;
    let length = pages * PAGE_SIZE;
    let map = |memory: &mut GuestMemory| memory.map_zero(PAGE, length, Protection::READ_WRITE);
    map(&mut memory).unwrap();
    touch(&mut memory, PAGE, pages).unwrap();
    assert_eq!(
        memory.counts().large_entries,
        1,
        "the second follows a full one"
    );
    let second = PAGE + WINDOW_SIZE;
    let (before, _) = memory.frame_of(second).unwrap();
    memory.unmap(PAGE, PAGE + length).unwrap();
    assert!(!memory.take_flush(), "the host takes the pages");
    // Its frames are another's when it comes back.
    memory
        .map_zero(PAGE + length, 8 * PAGE_SIZE, Protection::READ_WRITE)
        .unwrap();
    map(&mut memory).unwrap();
    touch(&mut memory, PAGE, pages).unwrap();
    let (after, _) = memory.frame_of(second).unwrap();
    assert_eq!(memory.take_flush(), after != before);
    let page = second + 7 * PAGE_SIZE;
    memory
        .protect(page, page + PAGE_SIZE, Protection::READ)
        .unwrap()
        .unwrap();
    assert!(memory.take_flush());
}

/// How often others had to leave the guest.
#[derive(Debug, Default)]
struct Stops(AtomicUsize);

impl Processors for Stops {
    fn here(&self) -> usize {
        0
    }

    fn stop_others(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// They would meet entries that lead to memory which the machine does not have yet, or that a shadow pager takes for
/// what they were before.
#[test]
fn others_are_outside_until_the_machine_is_told() {
    let mut memory = memory();
    let stops = Arc::new(Stops::default());
    memory.set_processors(Arc::clone(&stops) as _);
    memory.take_slots();
    let (mut given, mut forgotten) = (0, 0);
    let mut look = |memory: &mut GuestMemory| {
        let (gives, forgets) = (!memory.take_slots().is_empty(), memory.take_flush());
        let stopped = stops.0.swap(0, Ordering::SeqCst) > 0;
        assert!(stopped || !(gives || forgets), "{gives} {forgets}");
        given += usize::from(gives);
        forgotten += usize::from(forgets);
    };
    let pages = 2 * PAGES_PER_WINDOW;
    let length = pages * PAGE_SIZE;
    // The second window is one entry, of other frames each time; then a table.
    for round in 0..3 {
        let beside = PAGE + length + round * WINDOW_SIZE;
        memory
            .map_zero(beside, 8 * PAGE_SIZE, Protection::READ_WRITE)
            .unwrap();
        look(&mut memory);
        memory
            .map_zero(PAGE, length, Protection::READ_WRITE)
            .unwrap();
        look(&mut memory);
        for page in 0..pages {
            memory.write(PAGE + page * PAGE_SIZE, &[1]).unwrap();
            look(&mut memory);
        }
        let page = PAGE + WINDOW_SIZE + 7 * PAGE_SIZE;
        let changed = memory.protect(page, page + PAGE_SIZE, Protection::READ);
        changed.unwrap().unwrap();
        look(&mut memory);
        memory.unmap(PAGE, PAGE + length).unwrap();
        look(&mut memory);
    }
    assert!(given > 0 && forgotten > 0, "{given} {forgotten}");
}

/// What was in the tables when a processor faulted for nothing is not there any more.
#[test]
fn a_fault_after_tables_started_again_is_no_repetition() {
    let mut memory = memory();
    let far = |nth: u64| PAGE + (nth << 30);
    for nth in 0..8 {
        memory
            .map_zero(far(nth), 64 * PAGE_SIZE, Protection::READ_WRITE)
            .unwrap();
    }
    assert!(memory.resolve_fault(PAGE, Access::Write, true).unwrap());
    for nth in 1..8 {
        memory.unmap(far(nth), far(nth) + 64 * PAGE_SIZE).unwrap();
    }
    assert!(memory.resolve_fault(PAGE, Access::Write, true).unwrap());
    memory.collect_from = 0;
    assert!(memory.collect_tables().unwrap());
    memory.write(PAGE + 63 * PAGE_SIZE, &[1]).unwrap();
    assert!(memory.resolve_fault(PAGE, Access::Write, true).unwrap());
}

#[test]
fn what_is_touched_is_charged_until_it_is_unmapped() {
    let mut memory = memory();
    let free = memory.free();
    let half_gib = 1 << 29;
    memory
        .map_zero(PAGE, half_gib, Protection::READ_WRITE)
        .unwrap();
    let most = free / PAGE_SIZE;
    assert!(
        free - memory.free() <= 16 * PAGE_SIZE,
        "what is mapped costs nothing"
    );
    // Each page far from the others, so that a batch comes with each until there are no more.
    let far = |page: u64| PAGE + page * 20 * PAGE_SIZE;
    for page in 0..most {
        memory.write(far(page), &page.to_le_bytes()).unwrap();
    }
    let refused = memory.write(far(most), &[1]).unwrap_err();
    assert!(refused.limit);
    let fault = memory.resolve_fault(far(most), Access::Write, false);
    assert!(matches!(fault, Err(GrowError::Refused(_))));
    for page in 0..most {
        assert_eq!(memory.read_value::<u64>(far(page)).unwrap(), page);
    }
    memory.unmap(far(3), far(4)).unwrap();
    memory.write(far(most), &[1]).unwrap();
    memory.unmap(PAGE, PAGE + half_gib).unwrap();
    assert_eq!(memory.free(), free);
}

/// An area is moved with its frames: nothing is copied, and nothing is charged twice.
#[test]
fn what_is_moved_keeps_its_frames() {
    let mut memory = memory();
    let (from, to) = (PAGE, PAGE + 100 * WINDOW_SIZE + 5 * PAGE_SIZE);
    let length = 700 * PAGE_SIZE;
    memory
        .map_zero(from, length, Protection::READ_WRITE)
        .unwrap();
    touch(&mut memory, from, 700).unwrap();
    let free = memory.free();
    let frames: Vec<_> = (0..700)
        .map(|page| memory.frame_of(from + page * PAGE_SIZE).unwrap().0)
        .collect();
    memory
        .relocate(from, from + length, to, length + PAGE_SIZE)
        .unwrap();
    let moved: Vec<_> = (0..700)
        .map(|page| memory.frame_of(to + page * PAGE_SIZE).unwrap().0)
        .collect();
    assert_eq!(moved, frames);
    assert_eq!(memory.free(), free);
    assert_eq!(memory.read_value::<u8>(to).unwrap(), 1);
    assert_eq!(memory.read_value::<u8>(to + length).unwrap(), 0);
    assert!(memory.read_value::<u8>(from).is_err());
}

/// Else two that need one page more than there is would take it from each other for ever.
#[test]
fn what_was_given_a_moment_ago_is_not_taken_back() {
    let mut memory = memory();
    let most = memory.free() / PAGE_SIZE;
    memory
        .map_zero(PAGE, 1 << 29, Protection::READ_WRITE)
        .unwrap();
    let far = |page: u64| PAGE + page * 20 * PAGE_SIZE;
    for page in 1..most {
        memory.write(far(page), &[1]).unwrap();
    }
    assert!(
        memory
            .resolve_fault(far(most), Access::Write, false)
            .unwrap()
    );
    let refused = memory.resolve_fault(far(most + 1), Access::Write, false);
    assert!(matches!(refused, Err(GrowError::Refused(_))));
}

/// All bytes of a call's buffer have places of their own, however little there is: what it has found is not
/// taken for untouched, and is no page table.
#[test]
fn a_call_never_has_a_page_twice() {
    let mut memory = memory();
    let length = 4 * memory.free();
    memory
        .map_zero(PAGE, length, Protection::READ_WRITE)
        .unwrap();
    // Near the limit, with pages that can be taken back.
    let far = PAGE + length + WINDOW_SIZE;
    memory
        .map_zero(far, 1 << 29, Protection::READ_WRITE)
        .unwrap();
    for page in 0..100 {
        memory.write(far + page * 20 * PAGE_SIZE, &[1]).unwrap();
    }
    let most = memory.limit();
    let reached = memory.slices_of(&[(PAGE, length)], Access::Write).unwrap();
    assert_eq!(reached.beyond, 0, "there is no more memory");
    let slices = reached.slices;
    let mut places: Vec<(usize, usize)> = slices
        .iter()
        .map(|slice| (slice.ptr_guard().as_ptr() as usize, slice.len()))
        .collect();
    places.sort_unstable();
    let found: usize = places.iter().map(|(_, length)| length).sum();
    assert!(found as u64 <= most && found as u64 > most / 2, "{found}");
    for pair in places.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "a page is there twice");
    }
    for slice in slices {
        slice.copy_from(&vec![7u8; slice.len()]);
    }
    let mut last = [0];
    memory.read(PAGE + found as u64 - 1, &mut last).unwrap();
    assert_eq!(last, [7], "no page has lost its frame");
    assert!(memory.held.is_empty());
}

/// What a guest may not use is for the kernel to say, and what no program has is wrong at once.
#[test]
fn what_lies_behind_a_bad_address_is_told() {
    let mut memory = memory();
    memory
        .map_zero(PAGE, 2 * PAGE_SIZE, Protection::READ_WRITE)
        .unwrap();
    let mut beyond = |ranges: &[(u64, u64)]| {
        let reached = memory.slices_of(ranges, Access::Write);
        let of = |reached: Reached<'_>| {
            let found: usize = reached
                .slices
                .iter()
                .map(vm_memory::VolatileSlice::len)
                .sum();
            (found, reached.beyond)
        };
        reached.map(of).map_err(|bad| bad.address)
    };
    let end = PAGE + 2 * PAGE_SIZE;
    assert_eq!(beyond(&[(end - 4, 4)]), Ok((4, 0)));
    assert_eq!(beyond(&[(end - 4, 10)]), Ok((4, 6)));
    assert_eq!(beyond(&[(PAGE, 2), (16, 3), (PAGE, 2)]), Ok((2, 5)));
    assert_eq!(beyond(&[(16, 3)]), Ok((0, 3)));
    assert_eq!(beyond(&[(PAGE, 2), (u64::MAX, 3)]), Err(u64::MAX));
    assert_eq!(beyond(&[(1 << 47, 3)]), Err(1 << 47));
}

/// What a guest has put in its stack's place is not what the stack grows by.
#[test]
fn a_stack_grows_by_plain_memory() {
    let mut memory = memory();
    let high = memory.space().rooms().stack_high.0;
    let least = 256 << 10;
    memory.bound_stack(least).unwrap();
    let low = high - least;
    assert!(memory.space().find(low - 1).is_none());
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * PAGE_SIZE).unwrap();
    let kept = std::os::fd::AsFd::as_fd(&file);
    memory
        .map_file(low, PAGE_SIZE, Protection::READ, kept, PAGE_SIZE)
        .unwrap();
    memory.bound_stack(2 * least).unwrap();
    let (_, area) = memory.space().find(low - 1).unwrap();
    assert!(area.is_anonymous());
    assert!(
        memory.write(low - PAGE_SIZE, &[1]).is_ok(),
        "as the rest of it"
    );
}

/// What a file has need not be kept; what was written must be.
#[test]
fn pages_of_files_that_were_not_written_are_taken_back() {
    use std::io::Write;
    let mut memory = memory();
    let pages = 2 * memory.limit() / PAGE_SIZE;
    let mut file = tempfile::tempfile().unwrap();
    for page in 0..pages {
        let mut bytes = vec![0; PAGE_SIZE as usize];
        bytes[..8].copy_from_slice(&page.to_le_bytes());
        file.write_all(&bytes).unwrap();
    }
    let kept = std::os::fd::AsFd::as_fd(&file);
    let length = pages * PAGE_SIZE;
    memory
        .map_file(PAGE, length, Protection::READ_WRITE, kept, 0)
        .unwrap();
    drop(file);
    memory.write(PAGE + 5 * PAGE_SIZE, &[9; 8]).unwrap();
    for page in 0..pages {
        let found: u64 = memory.read_value(PAGE + page * PAGE_SIZE).unwrap();
        let expected = if page == 5 {
            0x0909_0909_0909_0909
        } else {
            page
        };
        assert_eq!(found, expected);
    }
    let found: u64 = memory.read_value(PAGE + 5 * PAGE_SIZE).unwrap();
    assert_eq!(found, 0x0909_0909_0909_0909);
    memory.unmap(PAGE, PAGE + length).unwrap();
}

/// Every way that charges takes its charge back, in any order.
#[test]
fn nothing_stays_charged_after_long_sequences() {
    let mut memory = memory();
    let free = memory.free();
    let file = tempfile::tempfile().unwrap();
    file.set_len(300 * PAGE_SIZE).unwrap();
    let kept = std::os::fd::AsFd::as_fd(&file);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |most: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % most
    };
    for _ in 0..3000 {
        let (from, pages) = (next(2000), 1 + next(300));
        let (start, end) = (PAGE + from * PAGE_SIZE, PAGE + (from + pages) * PAGE_SIZE);
        let length = end - start;
        match next(11) {
            8 => memory
                .map_shared(start, length, Protection::READ_WRITE, kept, 0, true)
                .unwrap(),
            // Shown pages that the file has no more are touched by calls alone.
            9 => file.set_len(next(301) * PAGE_SIZE).unwrap(),
            10 => drop(memory.lose_pages().unwrap()),
            0 => memory
                .map_zero(start, length, Protection::READ_WRITE)
                .unwrap(),
            1 => memory
                .map_file(start, length, Protection::READ_WRITE, kept, 0)
                .unwrap(),
            2 => memory.unmap(start, end).unwrap(),
            3 => memory.discard(start, end).unwrap(),
            4 => drop(memory.protect(start, end, Protection::READ).unwrap()),
            5 => drop(memory.populate(start, end, None).unwrap()),
            6 => {
                let area = memory.space().find(start);
                if let Some((_, area)) = area {
                    let to = PAGE + (4000 + next(1000)) * PAGE_SIZE;
                    let end = end.min(area.end);
                    memory.relocate(start, end, to, 2 * length).unwrap();
                }
            }
            _ => drop(memory.write(start, &vec![1; 3 * PAGE_SIZE as usize])),
        }
    }
    memory.unmap(PAGE, PAGE + 8000 * PAGE_SIZE).unwrap();
    assert_eq!(memory.free(), free);
    assert!(memory.space().find(PAGE).is_none());
    assert!(memory.shown.is_empty());
    assert_eq!(memory.files.bytes(), 0);
}
