//! Gives things their offsets, after those of a record.
//!
//! 1. Each thing is looked for among the record's lines: by name and identity, then by name alone (it changed), then by
//!    identity alone (it is called otherwise). Of equal ones the first of the things is the first of the lines.
//! 2. What is no larger than it was stays. Then what grew, if nothing is in its way.
//!    Where code lay that has moved, a jump to it stays, so that who calls it need not change.
//! 3. What is left goes, in the order that it has without a record, where there is room on pages that differ from the earlier
//!    version's in any case, because something there went, moved or changed; else behind everything.
//!
//! With the record of its own outcome every thing stays, so that whoever arranges a version after its own record has what its
//! author had.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use pool_core::page::PAGE_SIZE;

use super::record::{Line, Record};
use super::{Class, Space, Thing};

/// Room for a jump.
pub(in crate::link) const JUMP_SIZE: u64 = 8;

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::link) struct Arranged {
    /// By thing.
    pub(in crate::link) offsets: Vec<u64>,
    /// By thing: where a jump to it is, of [`JUMP_SIZE`] bytes.
    pub(in crate::link) jumps: Vec<Option<u64>>,
    /// Bytes of shared things that lie where they did, and are what they were.
    pub(in crate::link) kept: u64,
}

/// Arranges `things`, which are in the order that they have without a record.
pub(in crate::link) fn arrange(things: &[Thing], record: &Record) -> Arranged {
    let lines = lines_of(things, &record.lines);
    let mut rooms = Rooms::new(record);
    let mut offsets = vec![None; things.len()];
    for grown in [false, true] {
        for (at, thing) in things.iter().enumerate() {
            let Some(line) = lines[at].map(|line| &record.lines[line]) else {
                continue;
            };
            if offsets[at].is_none()
                && (thing.size > line.size) == grown
                && rooms.put(thing, line.offset)
            {
                offsets[at] = Some(line.offset);
            }
        }
    }
    let mut jumps = vec![None; things.len()];
    for (at, thing) in things.iter().enumerate() {
        let Some(line) = lines[at].map(|line| &record.lines[line]) else {
            continue;
        };
        if (thing.space, thing.class) != (Space::Shared, Class::Code) {
            continue;
        }
        let moved = offsets[at].is_none();
        let jump = line.jump.or(moved.then_some(line.offset));
        jumps[at] = jump.filter(|offset| rooms.put(&Thing::jump(*offset), *offset));
    }
    let is_kept = |at: usize, line: &Line| {
        offsets[at] == Some(line.offset) && things[at].identity == line.identity
    };
    let mut kept = 0;
    let mut missing: Vec<bool> = vec![true; record.lines.len()];
    for (at, line) in lines.iter().enumerate() {
        if let Some(line) = line.filter(|line| is_kept(at, &record.lines[*line])) {
            missing[line] = false;
            if things[at].space == Space::Shared {
                kept += things[at].size;
            }
        }
    }
    let went = record.lines.iter().zip(&missing).filter(|(_, m)| **m);
    for (line, _) in went.filter(|(line, _)| line.space == Space::Shared) {
        rooms.differs(line.offset, line.size);
    }
    let mut rest: Vec<usize> = (0..things.len())
        .filter(|at| offsets[*at].is_none())
        .collect();
    rest.sort_by_key(|at| things[*at].class);
    for at in rest {
        offsets[at] = Some(rooms.find(&things[at]));
    }
    Arranged {
        offsets: offsets.into_iter().map(Option::unwrap_or_default).collect(),
        jumps,
        kept,
    }
}

/// Of each thing its line, if it has one.
fn lines_of(things: &[Thing], lines: &[Line]) -> Vec<Option<usize>> {
    type Key = (Space, u32, u32);
    let ways: [fn(Space, u32, u32) -> Key; 3] = [
        |space, name, identity| (space, name, identity),
        |space, name, _| (space, name, 0),
        |space, _, identity| (space, 0, identity),
    ];
    let mut found = vec![None; things.len()];
    let mut is_taken = vec![false; lines.len()];
    for way in ways {
        let mut free: HashMap<Key, VecDeque<usize>> = HashMap::new();
        for (at, line) in lines.iter().enumerate() {
            if !is_taken[at] {
                let key = way(line.space, line.name, line.identity);
                free.entry(key).or_default().push_back(at);
            }
        }
        for (thing, found) in things.iter().zip(&mut found) {
            if found.is_some() || thing.size == 0 {
                continue;
            }
            let key = way(thing.space, thing.name, thing.identity);
            if let Some(line) = free.get_mut(&key).and_then(VecDeque::pop_front) {
                is_taken[line] = true;
                *found = Some(line);
            }
        }
    }
    found
}

/// What is taken, of each space: start and end.
struct Rooms<'r> {
    record: &'r Record,
    taken: [BTreeMap<u64, u64>; 4],
    /// Shared pages with code, and with constants that hold addresses.
    code: BTreeSet<u64>,
    held: BTreeSet<u64>,
    /// Shared pages that differ from the earlier version's.
    differ: BTreeSet<u64>,
    /// End of what is stored, by space.
    stored: [u64; 4],
}

impl<'r> Rooms<'r> {
    fn new(record: &'r Record) -> Self {
        Self {
            record,
            taken: Default::default(),
            code: BTreeSet::new(),
            held: BTreeSet::new(),
            differ: BTreeSet::new(),
            stored: [0; 4],
        }
    }

    fn differs(&mut self, offset: u64, size: u64) {
        self.differ.extend(pages(offset, size));
    }

    /// Puts a thing at `offset` if it can be there.
    fn put(&mut self, thing: &Thing, offset: u64) -> bool {
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
        // Sections of the output end at the borders, and constants count from the first.
        let crosses = |border: u64| offset < border && end > border;
        let is_in_code = end <= record.constants_at;
        !crosses(record.constants_at)
            && match thing.class {
                Class::Code => is_in_code || offset >= record.more_at,
                _ => !is_in_code || thing.size == 0,
            }
    }

    /// A thing that has had no place can be at `offset`: no page with code has constants that hold addresses.
    fn can_anew(&self, thing: &Thing, offset: u64) -> bool {
        let others = match thing.class {
            _ if thing.space != Space::Shared => return self.can(thing, offset),
            Class::Code => &self.held,
            Class::Held => &self.code,
            Class::Stored | Class::Zero => return self.can(thing, offset),
        };
        self.can(thing, offset) && pages(offset, thing.size).all(|page| !others.contains(&page))
    }

    fn take(&mut self, thing: &Thing, offset: u64) {
        let space = thing.space as usize;
        self.taken[space].insert(offset, offset + thing.size);
        if thing.class != Class::Zero {
            self.stored[space] = self.stored[space].max(offset + thing.size);
        }
        if thing.space == Space::Shared {
            match thing.class {
                Class::Code => self.code.extend(pages(offset, thing.size)),
                Class::Held => self.held.extend(pages(offset, thing.size)),
                Class::Stored | Class::Zero => {}
            }
        }
    }

    /// Puts a thing that has no place where there is room.
    fn find(&mut self, thing: &Thing) -> u64 {
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
        let space = thing.space as usize;
        let gap = self.gaps(thing).find(|offset| {
            self.can_anew(thing, *offset)
                && (thing.space != Space::Shared
                    || pages(*offset, thing.size).all(|page| self.differ.contains(&page)))
        });
        let offset = gap.unwrap_or_else(|| {
            let last = self.taken[space]
                .last_key_value()
                .map_or(0, |(_, end)| *end);
            let first = match thing.space {
                Space::Shared => self.record.more_at.max(last),
                _ => last,
            };
            let mut offset = first.next_multiple_of(thing.alignment);
            if !self.can_anew(thing, offset) {
                // The page has what may not be beside it.
                offset = offset.next_multiple_of(PAGE_SIZE.max(thing.alignment));
            }
            offset
        });
        self.take(thing, offset);
        offset
    }

    /// Starts of gaps between what is taken, aligned.
    fn gaps(&self, thing: &Thing) -> impl Iterator<Item = u64> {
        let space = thing.space as usize;
        let last = self.taken[space]
            .last_key_value()
            .map_or(0, |(_, end)| *end);
        // Zeros among what is stored would be stored.
        let first = match thing.class {
            Class::Zero => self.stored[space],
            _ if thing.space == Space::Shared && thing.class != Class::Code => {
                self.record.constants_at
            }
            _ => 0,
        };
        let alignment = thing.alignment;
        let ends = self.taken[space].values().copied();
        let starts = std::iter::once(first).chain(ends.filter(move |end| *end >= first));
        let starts = starts.map(move |start| start.next_multiple_of(alignment));
        let size = thing.size;
        starts.filter(move |start| start + size <= last)
    }
}

fn pages(offset: u64, size: u64) -> std::ops::RangeInclusive<u64> {
    offset / PAGE_SIZE..=(offset + size.max(1) - 1) / PAGE_SIZE
}

#[cfg(test)]
mod tests;
