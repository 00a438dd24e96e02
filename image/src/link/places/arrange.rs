//! Gives things their offsets, after those of a record.
//!
//! After the record of an earlier version ([`arrange`]):
//!
//! 1. Each thing is looked for among the record's lines: by name and identity, then by name alone (it changed), then by
//!    identity alone (it is called otherwise). Of equal ones the first of the things is the first of the lines.
//! 2. What is no larger than it was stays. Then what grew, if nothing is in its way, and last what yields to that.
//!    Where code lay that has moved, a jump to it stays, so that who calls it need not change.
//! 3. What is left goes, in the order that it has without a record, where there is room on pages that differ from the earlier
//!    version's in any case, because something there went, moved or changed; else behind everything.
//!
//! After the record of the version itself ([`follow`]) each thing is where its line says, one after the other, and nothing is
//! looked for: names of members are no part of a version, so whoever links it again may have others.

use std::collections::{HashMap, VecDeque};

use super::record::{Line, Record};
use super::rooms::Rooms;
use super::{Space, Thing};

/// Room for a jump.
pub(in crate::link) const JUMP_SIZE: u64 = 8;

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::link) struct Arranged {
    /// By thing.
    pub(in crate::link) offsets: Vec<u64>,
    /// By thing: where a jump to it is, of [`JUMP_SIZE`] bytes.
    pub(in crate::link) jumps: Vec<Option<u64>>,
}

/// Arranges `things`, which are in the order that they have without a record. None if fewer than `least` bytes of the shared ones
/// would lie where they did and be what they were.
pub(in crate::link) fn arrange(things: &[Thing], record: &Record, least: u64) -> Option<Arranged> {
    let lines = lines_of(things, &record.lines);
    let line = |at: usize| lines[at].map(|line| &record.lines[line]);
    let sizes_of = |is_such: &dyn Fn(usize) -> bool| -> u64 {
        let all = things.iter().enumerate();
        let such = all.filter(|(at, thing)| thing.space == Space::Shared && is_such(*at));
        such.map(|(_, thing)| thing.size).sum()
    };
    // Before all that follows, which takes its time where everything is new.
    let is_same = |at: usize| line(at).is_some_and(|line| line.identity == things[at].identity);
    if sizes_of(&is_same) < least {
        return None;
    }
    let mut rooms = Rooms::new(record);
    let mut offsets = vec![None; things.len()];
    let turn = |thing: &Thing, line: &Line| {
        if thing.yields {
            2
        } else {
            u8::from(thing.size > line.size)
        }
    };
    for now in 0..3 {
        for (at, thing) in things.iter().enumerate() {
            if let Some(line) = line(at)
                && turn(thing, line) == now
                && rooms.put(thing, line.offset)
            {
                offsets[at] = Some(line.offset);
            }
        }
    }
    let mut jumps = vec![None; things.len()];
    for at in (0..things.len()).filter(|at| things[*at].is_called) {
        let Some(line) = line(at) else {
            continue;
        };
        let moved = offsets[at].is_none();
        let jump = line.jump.or(moved.then_some(line.offset));
        jumps[at] = jump.filter(|offset| rooms.put(&Thing::jump(*offset), *offset));
    }
    let stays = |at: usize| is_same(at) && offsets[at] == line(at).map(|line| line.offset);
    if sizes_of(&stays) < least {
        return None;
    }
    let mut differs = vec![true; record.lines.len()];
    for at in (0..things.len()).filter(|at| stays(*at)) {
        if let Some(line) = lines[at] {
            differs[line] = false;
        }
    }
    let differing = record.lines.iter().zip(differs).filter(|(_, d)| *d);
    rooms.find_gaps(differing.map(|(line, _)| line));
    let mut rest: Vec<usize> = (0..things.len())
        .filter(|at| offsets[*at].is_none())
        .collect();
    rest.sort_by_key(|at| things[*at].class);
    for at in rest {
        offsets[at] = Some(rooms.find(&things[at]));
    }
    Some(Arranged {
        offsets: offsets.into_iter().map(Option::unwrap_or_default).collect(),
        jumps,
    })
}

/// Puts `things` where the record of their own version has them, which has a line for each that is not empty. None if the
/// record cannot be theirs.
pub(in crate::link) fn follow(things: &[Thing], record: &Record) -> Option<Arranged> {
    let mut rooms = Rooms::new(record);
    let mut lines = record.lines.iter();
    let mut arranged = Arranged {
        offsets: Vec::with_capacity(things.len()),
        jumps: Vec::with_capacity(things.len()),
    };
    for thing in things {
        if thing.size == 0 {
            arranged.offsets.push(rooms.find(thing));
            arranged.jumps.push(None);
            continue;
        }
        let line = lines.next()?;
        let is_its = (line.space, line.size) == (thing.space, thing.size)
            && (line.jump.is_none() || thing.is_called);
        if !is_its || !rooms.put(thing, line.offset) {
            return None;
        }
        arranged.offsets.push(line.offset);
        arranged.jumps.push(line.jump);
    }
    let mut jumps = arranged.jumps.iter().flatten();
    let fit = jumps.all(|jump| rooms.put(&Thing::jump(*jump), *jump));
    (fit && lines.next().is_none()).then_some(arranged)
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

#[cfg(test)]
mod tests;
