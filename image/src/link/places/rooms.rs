//! What is taken of each space, and what is free.

use std::collections::{BTreeMap, BTreeSet};

use pool_core::page::PAGE_SIZE;

use super::record::{Line, Record};
use super::{Class, Space, Thing};

/// How many gaps are looked at for a thing: alignment, or what else is on the page, may be against the first ones.
const TRIES: usize = 32;

/// What is taken and what is free where a record is followed.
pub(super) struct Rooms<'r> {
    record: &'r Record,
    /// By space: start and end.
    taken: [BTreeMap<u64, u64>; 4],
    /// Shared pages with code, and with constants that hold addresses.
    code: BTreeSet<u64>,
    held: BTreeSet<u64>,
    /// By space and zone, once they were looked for.
    gaps: BTreeMap<(Space, Zone), Gaps>,
    /// End of what is stored, by space.
    stored: [u64; 4],
}

/// Parts of a space that are for different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Zone {
    /// Shared: before the constants.
    Code,
    /// Shared: before what found no room among code or constants. Else: up to the end of what is stored.
    Stored,
    /// Shared: behind that, code or constants.
    More,
    /// Else: behind what is stored.
    Zero,
}

/// Free ranges.
#[derive(Default)]
struct Gaps {
    /// Size and start.
    by_size: BTreeSet<(u64, u64)>,
    /// Start and size.
    by_start: BTreeSet<(u64, u64)>,
}

impl Gaps {
    fn add(&mut self, start: u64, end: u64) {
        if end > start {
            self.by_size.insert((end - start, start));
            self.by_start.insert((start, end - start));
        }
    }

    fn remove(&mut self, start: u64, size: u64) {
        self.by_size.remove(&(size, start));
        self.by_start.remove(&(start, size));
    }
}

impl<'r> Rooms<'r> {
    pub(super) fn new(record: &'r Record) -> Self {
        Self {
            record,
            taken: Default::default(),
            code: BTreeSet::new(),
            held: BTreeSet::new(),
            gaps: BTreeMap::new(),
            stored: [0; 4],
        }
    }

    /// Puts a thing at `offset` if it can be there.
    pub(super) fn put(&mut self, thing: &Thing, offset: u64) -> bool {
        let can = self.can(thing, offset);
        if can {
            self.take(thing, offset);
        }
        can
    }

    fn can(&self, thing: &Thing, offset: u64) -> bool {
        let end = offset + thing.size;
        let record = self.record;
        if !offset.is_multiple_of(thing.alignment) {
            return false;
        }
        let before = self.taken[thing.space as usize].range(..end).next_back();
        if before.is_some_and(|(_, taken)| *taken > offset) {
            return false;
        }
        if thing.space != Space::Shared {
            return true;
        }
        // Sections of the output end at the border, and constants count from it.
        let is_in_code = end <= record.constants_at;
        let is_behind = offset >= record.constants_at;
        // No page with code has constants that hold addresses.
        let is_without = |others: &BTreeSet<u64>| {
            let (first, last) = pages(offset, thing.size);
            others.range(first..=last).next().is_none()
        };
        match thing.class {
            Class::Code => (is_in_code || offset >= record.more_at) && is_without(&self.held),
            Class::Held => is_behind && is_without(&self.code),
            Class::Stored | Class::Zero => is_behind,
        }
    }

    fn take(&mut self, thing: &Thing, offset: u64) {
        let space = thing.space as usize;
        self.taken[space].insert(offset, offset + thing.size);
        if thing.class != Class::Zero {
            self.stored[space] = self.stored[space].max(offset + thing.size);
        }
        if thing.space == Space::Shared {
            let (first, last) = pages(offset, thing.size);
            match thing.class {
                Class::Code => self.code.extend(first..=last),
                Class::Held => self.held.extend(first..=last),
                Class::Stored | Class::Zero => {}
            }
        }
    }

    /// Looks for what is free between what is taken: of the shared pages on those that differ from the earlier version's, where
    /// the lines `differing` were.
    pub(super) fn find_gaps<'l>(&mut self, differing: impl Iterator<Item = &'l Line>) {
        let mut differ = BTreeSet::new();
        for line in differing.filter(|line| line.space == Space::Shared) {
            let (first, last) = pages(line.offset, line.size);
            differ.extend(first..=last);
        }
        for space in Space::ALL {
            let mut free: Vec<(u64, u64)> = Vec::new();
            let mut end = 0;
            for (start, behind) in &self.taken[space as usize] {
                free.push((end, *start));
                end = *behind;
            }
            for (start, end) in free {
                let parts = match space {
                    Space::Shared => self.parts_that_differ(start, end, &differ),
                    _ => vec![(self.zone_of(space, start), start, end)],
                };
                for (zone, start, end) in parts {
                    self.gaps.entry((space, zone)).or_default().add(start, end);
                }
            }
        }
    }

    /// The parts of a free range of shared pages that are on such pages, each in one zone.
    fn parts_that_differ(
        &self,
        start: u64,
        end: u64,
        differ: &BTreeSet<u64>,
    ) -> Vec<(Zone, u64, u64)> {
        let mut parts: Vec<(Zone, u64, u64)> = Vec::new();
        if start >= end {
            return parts;
        }
        let (first, last) = pages(start, end - start);
        for page in differ.range(first..=last) {
            let (from, to) = (start.max(page * PAGE_SIZE), end.min((page + 1) * PAGE_SIZE));
            let borders = [self.record.constants_at, self.record.more_at];
            let borders = borders.map(|border| border.clamp(from, to));
            for two in [from, borders[0], borders[1], to].windows(2) {
                let zone = self.zone_of(Space::Shared, two[0]);
                match parts.last_mut() {
                    _ if two[0] == two[1] => {}
                    Some((of, _, behind)) if (*of, *behind) == (zone, two[0]) => *behind = two[1],
                    _ => parts.push((zone, two[0], two[1])),
                }
            }
        }
        parts
    }

    fn zone_of(&self, space: Space, offset: u64) -> Zone {
        match space {
            Space::Shared if offset < self.record.constants_at => Zone::Code,
            Space::Shared if offset < self.record.more_at => Zone::Stored,
            Space::Shared => Zone::More,
            _ if offset <= self.stored[space as usize] => Zone::Stored,
            _ => Zone::Zero,
        }
    }

    /// Puts a thing that has no place where there is room.
    pub(super) fn find(&mut self, thing: &Thing) -> u64 {
        // Nothing is there, so any place will do.
        if thing.size == 0 {
            return match thing.class {
                Class::Code => 0,
                _ if thing.space == Space::Shared => {
                    self.record.constants_at.next_multiple_of(thing.alignment)
                }
                _ => 0,
            };
        }
        let zones: &[Zone] = match thing.class {
            Class::Code => &[Zone::Code, Zone::More],
            _ if thing.space == Space::Shared => &[Zone::Stored, Zone::More],
            Class::Zero => &[Zone::Zero],
            _ => &[Zone::Stored, Zone::Zero],
        };
        let gap = zones.iter().find_map(|zone| self.find_gap(thing, *zone));
        let offset = gap.unwrap_or_else(|| self.behind(thing));
        self.take(thing, offset);
        offset
    }

    /// Takes room for a thing from a gap.
    fn find_gap(&mut self, thing: &Thing, zone: Zone) -> Option<u64> {
        let gaps = self.gaps.get(&(thing.space, zone))?;
        let fits = |start: u64, size: u64| {
            let offset = start.next_multiple_of(thing.alignment);
            (offset + thing.size <= start + size && self.can(thing, offset))
                .then_some((start, size, offset))
        };
        let (start, size, offset) = if zone == Zone::Zero && thing.class != Class::Zero {
            // What lies before it will be stored, so as early as possible.
            let mut early = gaps.by_start.iter().take(TRIES);
            early.find_map(|(start, size)| fits(*start, *size))?
        } else {
            let mut small = gaps.by_size.range((thing.size, 0)..).take(TRIES);
            small.find_map(|(size, start)| fits(*start, *size))?
        };
        let gaps = self.gaps.entry((thing.space, zone)).or_default();
        gaps.remove(start, size);
        gaps.add(start, offset);
        gaps.add(offset + thing.size, start + size);
        Some(offset)
    }

    /// An offset for a thing behind everything in its space.
    fn behind(&self, thing: &Thing) -> u64 {
        let taken = &self.taken[thing.space as usize];
        let last = taken.last_key_value().map_or(0, |(_, end)| *end);
        let first = match thing.space {
            Space::Shared => self.record.more_at.max(last),
            _ => last,
        };
        let offset = first.next_multiple_of(thing.alignment);
        if self.can(thing, offset) {
            offset
        } else {
            // The page has what may not be beside it.
            offset.next_multiple_of(PAGE_SIZE.max(thing.alignment))
        }
    }
}

/// The first and the last page of a range.
fn pages(offset: u64, size: u64) -> (u64, u64) {
    (offset / PAGE_SIZE, (offset + size.max(1) - 1) / PAGE_SIZE)
}
