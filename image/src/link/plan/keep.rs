//! A plan that keeps the places of an earlier version of its library, or has those that are on record of its own.

mod things;

use std::collections::BTreeMap;

use pool_core::page::PAGE_SIZE;

use super::{Kept, Part, Plan, runs};
use crate::link::detour_frames;
use crate::link::places::arrange::{Arranged, JUMP_SIZE, arrange, follow};
use crate::link::places::record::{Line, Record};
use crate::link::places::{Class, Space, Thing};
use crate::link::unit::Unit;
use things::{Things, What};

/// How often frames are looked at again, whose size follows from where stubs are.
const ATTEMPTS: usize = 4;
/// Most bytes of zeros that are in a file because of data behind them.
const MOST_ZEROS: u64 = 1 << 20;

impl<'a> Plan<'a> {
    /// What is to be on record of the plan, which is that of the library `unit`. None for one whose things cannot be told
    /// apart.
    pub(in crate::link) fn record(&self, unit: &Unit<'a>) -> Option<Record> {
        let things = Things::of(self, unit)?;
        let sized = things.all.iter().filter(|(_, thing)| thing.size > 0);
        let lines = sized.map(|(what, thing)| Line {
            space: thing.space,
            name: thing.name,
            identity: thing.identity,
            offset: thing.offset,
            size: thing.size,
            jump: match what {
                What::Section(o, s) => self.jump(*o, *s),
                _ => None,
            },
        });
        Some(Record {
            constants_at: self.constants_at(),
            more_at: self.kept.map_or_else(
                || self.shared_size().max(self.constants_at()),
                |kept| kept.more.0,
            ),
            bound: self.bound_room(),
            lines: lines.collect(),
        })
    }

    /// Moves whatever an earlier version had, too, to where that one's `record` has it, if much stays then and little room is
    /// lost. False if nothing was moved.
    pub(in crate::link) fn keep(&mut self, unit: &Unit<'a>, record: &Record) -> bool {
        let Some(mut things) = Things::of(self, unit) else {
            return false;
        };
        let shared = things.all.iter().map(|(_, thing)| thing);
        let shared = shared.filter(|thing| thing.space == Space::Shared);
        let least = (shared.map(|thing| thing.size).sum::<u64>() / 4).max(1);
        for _ in 0..ATTEMPTS {
            let all = things.plain();
            let Some(arranged) = arrange(&all, record, least) else {
                return false;
            };
            let placed = things.all.iter().zip(&arranged.offsets);
            let stubs = placed.filter(|((what, _), _)| matches!(what, What::Stub(_)));
            let stubs = stubs.map(|(_, offset)| *offset);
            let jumps = arranged.jumps.iter().flatten().copied();
            let size = self.size_of_frames(stubs.chain(jumps));
            if things.sizes_frames(size, self.shared_size()) {
                continue;
            }
            let outcome = Outcome {
                things: &all,
                offsets: &arranged.offsets,
            };
            if !outcome.is_worth(record) {
                return false;
            }
            self.put(unit, &things, &arranged, record);
            return true;
        }
        false
    }

    /// Moves everything to where `record` has it, which is that of the version itself. False, with nothing moved, if it
    /// cannot be that.
    pub(in crate::link) fn follow(&mut self, unit: &Unit<'a>, record: &Record) -> bool {
        let Some(mut things) = Things::of(self, unit) else {
            return false;
        };
        // The frames of stubs are the last, and all others have the sizes that they have without a record.
        let sized = things.all.iter().filter(|(_, thing)| thing.size > 0);
        let placed = sized.zip(&record.lines);
        let stubs = placed.filter(|((what, _), _)| matches!(what, What::Stub(_)));
        let stubs = stubs.map(|(_, line)| line.offset);
        let jumps = record.lines.iter().filter_map(|line| line.jump);
        let size = self.size_of_frames(stubs.chain(jumps));
        things.sizes_frames(size, self.shared_size());
        let arranged = follow(&things.plain(), record);
        if let Some(arranged) = &arranged {
            self.put(unit, &things, arranged, record);
        }
        arranged.is_some()
    }

    /// Bytes of the frames of stubs and detours, with stubs, and jumps, at `offsets`.
    fn size_of_frames(&self, offsets: impl Iterator<Item = u64>) -> u64 {
        let runs = runs(offsets.collect()).len();
        let detours = self.detours.iter().map(|planned| &planned.detour);
        detour_frames::size(runs, detours)
    }

    fn put(&mut self, unit: &Unit<'a>, things: &Things<'a>, arranged: &Arranged, record: &Record) {
        let plain = things.plain();
        let outcome = Outcome {
            things: &plain,
            offsets: &arranged.offsets,
        };
        let constants_at = record.constants_at;
        let from_start = |part: Part, offset: u64| match part {
            Part::Constant => offset - constants_at,
            _ => offset,
        };
        let mut pieces: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        let mut frames: Option<u64> = None;
        self.jumps.clear();
        for ((what, _), jump) in things.all.iter().zip(&arranged.jumps) {
            if let (What::Section(o, s), Some(jump)) = (what, jump) {
                self.jumps.insert((*o, *s), *jump);
            }
        }
        for ((what, _), offset) in things.all.iter().zip(outcome.offsets) {
            match *what {
                What::Section(o, s) => {
                    let placement = &mut self.placements[o][s];
                    placement.offset = from_start(placement.part, *offset);
                    let is_frames = unit.objects[o].sections[s].name == ".eh_frame";
                    if is_frames && placement.part == Part::Constant && *offset < record.more_at {
                        let first = frames.get_or_insert(placement.offset);
                        *first = placement.offset.min(*first);
                    }
                }
                What::Set(set) => {
                    self.put_set(unit, &things.sets[set], |part| from_start(part, *offset));
                }
                What::Piece(merged) => {
                    let positions = pieces.entry(merged).or_default();
                    positions.push(offset - constants_at);
                }
                What::Common(o, s) => {
                    self.commons.insert((o, s), *offset);
                }
                What::Entry(index) => self.entry_offsets[index] = *offset,
                What::Stub(index) => self.stub_offsets[index] = *offset,
                What::Detour(index) => self.detours[index].offset = *offset,
                What::DetourFrames => self.detour_frames.0 = offset - constants_at,
            }
        }
        for (merged, positions) in pieces {
            self.merged[merged].move_pieces(0, &positions);
        }
        for placement in self.placements.iter_mut().flatten() {
            if placement.merged.is_some() {
                placement.offset = 0;
            }
        }
        self.detour_frames.1 = things.frames_size();
        // A jump in the place of the last code is before the constants, too.
        self.code.size = if outcome.things.iter().any(is_code) {
            constants_at
        } else {
            0
        };
        let constants = outcome.end(|thing, end| {
            thing.space == Space::Shared
                && thing.class != Class::Code
                && end - thing.size < record.more_at
        });
        self.constant.size = constants.saturating_sub(constants_at);
        self.frames = frames;
        self.bound.size = outcome.end(|thing, _| thing.space == Space::Bound);
        self.data.size = outcome.end(|thing, _| thing.space == Space::Data);
        self.data_stored = outcome.end(|thing, _| is_stored(thing, Space::Data));
        self.thread.size = outcome.end(|thing, _| thing.space == Space::Thread);
        self.thread_stored = outcome.end(|thing, _| is_stored(thing, Space::Thread));
        let end = outcome.end(|thing, _| thing.space == Space::Shared);
        let jumps = self.jumps.values().map(|jump| jump + JUMP_SIZE);
        let end = jumps.fold(end, u64::max);
        self.kept = Some(Kept {
            constants_at,
            more: (record.more_at.max(constants), end.max(record.more_at)),
            bound: self
                .bound
                .size
                .next_multiple_of(PAGE_SIZE)
                .max(record.bound),
        });
    }

    /// Puts the sections of a set one after the other.
    fn put_set(
        &mut self,
        unit: &Unit<'a>,
        (name, sections): &(&'a str, Vec<(usize, usize)>),
        start: impl Fn(Part) -> u64,
    ) {
        let mut end = 0u64;
        for (o, s) in sections {
            let section = &unit.objects[*o].sections[*s];
            let inside = end.next_multiple_of(section.alignment);
            end = inside + section.size;
            let placement = &mut self.placements[*o][*s];
            placement.offset = start(placement.part) + inside;
        }
        if let Some((part, first, last)) = self.sets.get_mut(name) {
            *first = start(*part);
            *last = *first + end;
        }
    }
}

fn is_code(thing: &Thing) -> bool {
    thing.space == Space::Shared && thing.class == Class::Code
}

fn is_stored(thing: &Thing, space: Space) -> bool {
    thing.space == space && thing.class != Class::Zero
}

/// Things at other offsets.
struct Outcome<'o> {
    things: &'o [Thing],
    offsets: &'o [u64],
}

impl Outcome<'_> {
    /// The end of those that are `of` it, given each with its end.
    fn end(&self, of: impl Fn(&Thing, u64) -> bool) -> u64 {
        let ends = self.things.iter().zip(self.offsets);
        let ends = ends.map(|(thing, offset)| (thing, offset + thing.size));
        let ends = ends.filter(|(thing, end)| of(thing, *end));
        ends.map(|(_, end)| end).max().unwrap_or(0)
    }

    /// No range is much larger than it would be otherwise. The data must not move, so that what is bound fits into the room
    /// before them. Data that are new and found no room lie behind the zeros, which are then in the file: a pool keeps no
    /// pages of them.
    fn is_worth(&self, record: &Record) -> bool {
        let plain: Vec<u64> = self.things.iter().map(|thing| thing.offset).collect();
        let plain = Outcome {
            things: self.things,
            offsets: &plain,
        };
        let is_small = |more: u64, of: fn(&Thing, u64) -> bool| {
            let before = plain.end(of);
            self.end(of) <= before + before / 4 + more
        };
        let bound = plain.end(|thing, _| thing.space == Space::Bound);
        self.end(|thing, _| thing.space == Space::Bound) <= record.bound
            && record.bound <= bound + bound / 4 + 2 * PAGE_SIZE
            && is_small(2 * PAGE_SIZE, |thing, _| thing.space == Space::Shared)
            && is_small(2 * PAGE_SIZE, |thing, _| thing.space == Space::Data)
            && is_small(MOST_ZEROS, |thing, _| is_stored(thing, Space::Data))
            && is_small(64, |thing, _| thing.space == Space::Thread)
    }
}
