//! Where everything in a unit goes, relative to the unit's start addresses.
//!
//! Pure: a function of the unit and of what its symbols mean, not of any address. So the sizes
//! that a reservation asks for are known before the reservation, and a library's plan is the same
//! in every image.
//!
//! A library has two ranges. The *shared* one holds code and constants, whose bytes are the same
//! everywhere, but for the pages that an image has of its own: references out of it lead to the library itself, or
//! through its private range. The *private* one holds, in this order:
//!
//! - *bound* sections: constants, and the rare code, that hold an import's address themselves. Their addresses are
//!   the same in every image, their bytes are not. On pages of their own, read-only. Of a large one with few such addresses
//!   the image has pages of its own instead, where it lies among the shared ones;
//! - the offset table, initialised data, zeros.
//!
//! Calls of imports go through a stub in the shared range and an entry of the offset table, as do
//! calls of functions that choose their implementation at start (`STT_GNU_IFUNC`), whose stub is
//! their address. Other instructions find imports through entries, too (`slots`), if need be by a detour behind the
//! code.

mod keep;
mod placing;

use std::collections::BTreeMap;

use pool_core::page::PAGE_SIZE;

use super::args::LinkRequest;
use super::error::LinkError;
use super::hash::{HashMap, HashSet};
use super::merge::Merged;
use super::object::{Gathered, Place, Symbol};
use super::slots::Detour;
use super::target::{Target, UnitTargets};
use super::unit::{SymbolId, Unit};

/// Bytes of a stub: an indirect jump, padded. As many as of a jump that stands where code has moved from.
pub(super) const STUB_SIZE: u64 = super::places::arrange::JUMP_SIZE;

/// Where a section goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Part {
    /// Code whose bytes depend on the unit alone.
    Code,
    /// Constants whose bytes depend on the unit alone.
    Constant,
    /// Code and constants of a library that hold the address of an import.
    Bound,
    /// Writable data.
    Data,
    /// The template of thread-local variables.
    Thread,
    /// Gathered from all units into one place of the image.
    Gathered(Gathered),
    /// Not loaded.
    Loose,
    /// Not in the image.
    Dropped,
}

/// The place of a section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub(super) part: Part,
    /// From the start of the part; unused for what the image gathers.
    pub(super) offset: u64,
    /// Index in [`Plan::merged`], when the section was merged.
    pub(super) merged: Option<usize>,
}

/// An entry of a unit's offset table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry<'a> {
    /// The target's address and what is added to it.
    Address(Target<'a>, i64),
    /// The target's distance from the thread pointer.
    ThreadOffset(Target<'a>),
    /// What the resolver returns, filled in by the program's start-up code.
    Resolved(SymbolId),
}

/// A detour, and the instruction that takes it.
#[derive(Clone, Debug)]
pub(super) struct PlannedDetour<'a> {
    pub(super) detour: Detour,
    pub(super) object: usize,
    pub(super) section: usize,
    pub(super) entry: Entry<'a>,
    /// Offset in the code.
    pub(super) offset: u64,
}

/// Bytes and alignment of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) size: u64,
    pub(super) alignment: u64,
}

impl Default for Extent {
    fn default() -> Self {
        Self {
            size: 0,
            alignment: 1,
        }
    }
}

impl Extent {
    /// Makes room for `size` bytes and says where.
    pub(super) fn take(&mut self, size: u64, alignment: u64) -> u64 {
        let offset = self.size.next_multiple_of(alignment);
        self.size = offset + size;
        self.alignment = self.alignment.max(alignment);
        offset
    }
}

/// The plan of a unit.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    placements: Vec<Vec<Placement>>,
    /// Offsets in the data, or in the thread-local template, of common symbols, by object and symbol.
    commons: HashMap<(usize, usize), u64>,
    pub(super) merged: Vec<Merged>,
    pub(super) code: Extent,
    pub(super) constant: Extent,
    pub(super) bound: Extent,
    pub(super) data: Extent,
    /// Bytes of the data that are in the file; the rest is zero.
    pub(super) data_stored: u64,
    /// Bytes at the start of the application's data that nobody writes after the start: up to the end of a page, where
    /// other data follow.
    pub(super) constant_after_start: u64,
    pub(super) thread: Extent,
    pub(super) thread_stored: u64,
    /// Offset of the notes' end in the constants, which begin with them.
    pub(super) notes: u64,
    /// There are constants that hold addresses.
    holds_addresses: bool,
    /// Offset in the constants of the first `.eh_frame` section.
    frames: Option<u64>,
    /// The offset table is at the start of the data.
    pub(super) entries: Vec<Entry<'a>>,
    entry_index: HashMap<Entry<'a>, usize>,
    /// By index of the entry: its offset in the data.
    entry_offsets: Vec<u64>,
    /// Targets of calls through stubs.
    pub(super) stubs: Vec<Target<'a>>,
    stub_index: HashMap<Target<'a>, usize>,
    /// Offsets in the code of the stubs, those of [`Plan::resolved`] behind the others.
    stub_offsets: Vec<u64>,
    /// Functions that choose their implementation at start, each with a stub.
    pub(super) resolved: Vec<SymbolId>,
    resolved_index: HashMap<(usize, usize, u64), usize>,
    pub(super) detours: Vec<PlannedDetour<'a>>,
    /// By object, section, and the relocation's offset.
    detour_index: HashMap<(usize, usize, u64), usize>,
    detours_size: u64,
    /// Offset in the constants of the frames of stubs and detours, and their bytes.
    pub(super) detour_frames: (u64, u64),
    /// Part and range of the sections that `__start_NAME` walks.
    pub(super) sets: BTreeMap<&'a str, (Part, u64, u64)>,
    /// Imports to which a weak reference exists, so that they may be absent.
    pub(super) weak_imports: HashSet<&'a str>,
    /// Where the constants of a library begin that keeps what an earlier version had, and where begins what is there
    /// beside that and was given room behind all of it.
    kept: Option<Kept>,
    /// Where jumps are to code that has moved since an earlier version: by object and section, their offsets in the code.
    pub(super) jumps: BTreeMap<(usize, usize), u64>,
}

/// Borders in the shared range of a library that keeps the places of an earlier version.
#[derive(Clone, Copy, Debug)]
struct Kept {
    constants_at: u64,
    /// Where new code and constants begin that found no room among the others, and where they end.
    more: (u64, u64),
    /// Bytes before the data, for bound sections.
    bound: u64,
}

impl<'a> Plan<'a> {
    /// Plans the unit whose index is `own`.
    pub(super) fn new(
        units: &[&Unit<'a>],
        own: usize,
        targets: &UnitTargets<'a>,
        request: &LinkRequest,
    ) -> Result<Self, LinkError> {
        placing::plan(units, own, targets, request)
    }

    fn empty(unit: &Unit<'a>) -> Self {
        let nowhere = Placement {
            part: Part::Dropped,
            offset: 0,
            merged: None,
        };
        let placements = unit.objects.iter();
        Self {
            placements: placements
                .map(|o| vec![nowhere; o.sections.len()])
                .collect(),
            commons: HashMap::default(),
            merged: Vec::new(),
            code: Extent::default(),
            constant: Extent::default(),
            bound: Extent::default(),
            data: Extent::default(),
            data_stored: 0,
            constant_after_start: 0,
            thread: Extent::default(),
            thread_stored: 0,
            notes: 0,
            holds_addresses: false,
            frames: None,
            entries: Vec::new(),
            entry_index: HashMap::default(),
            entry_offsets: Vec::new(),
            stubs: Vec::new(),
            stub_index: HashMap::default(),
            stub_offsets: Vec::new(),
            resolved: Vec::new(),
            resolved_index: HashMap::default(),
            detours: Vec::new(),
            detour_index: HashMap::default(),
            detours_size: 0,
            detour_frames: (0, 0),
            sets: BTreeMap::new(),
            weak_imports: HashSet::default(),
            kept: None,
            jumps: BTreeMap::new(),
        }
    }

    pub(super) fn placement(&self, object: usize, section: usize) -> Placement {
        self.placements[object][section]
    }

    /// Offset in the data, or in the thread-local template, of a common symbol that counts.
    pub(super) fn common(&self, object: usize, symbol: usize) -> Option<u64> {
        self.commons.get(&(object, symbol)).copied()
    }

    /// Offset from the start of the offset table.
    pub(super) fn entry(&self, entry: &Entry<'a>) -> Option<u64> {
        let index = self.entry_index.get(entry)?;
        Some(self.entry_offset(*index))
    }

    /// Offset from the start of the data of the entry with this index.
    pub(super) fn entry_offset(&self, index: usize) -> u64 {
        self.entry_offsets[index]
    }

    /// Offset in the code of the stub for calls of an import.
    pub(super) fn stub(&self, target: &Target<'a>) -> Option<u64> {
        let index = self.stub_index.get(target)?;
        Some(self.stub_offset(*index))
    }

    /// Offset in the code of the stub with this index; those of [`Plan::resolved`] follow the others.
    pub(super) fn stub_offset(&self, index: usize) -> u64 {
        self.stub_offsets[index]
    }

    /// Stubs and jumps as runs that lie one after the other: offset in the code, and bytes.
    pub(super) fn stub_runs(&self) -> Vec<(u64, u64)> {
        let jumps = self.jumps.values();
        runs(self.stub_offsets.iter().chain(jumps).copied().collect())
    }

    /// Offset in the code of the stub that is the address of a function which chooses its
    /// implementation at start.
    pub(super) fn resolved_stub(&self, object: usize, symbol: &Symbol<'_>) -> Option<u64> {
        let Place::Section(section) = symbol.place else {
            return None;
        };
        let index = self.resolved_index.get(&(object, section, symbol.value))?;
        Some(self.stub_offset(self.stubs.len() + index))
    }

    /// Offset in the code of the detour for a relocation.
    pub(super) fn detour(&self, object: usize, section: usize, offset: u64) -> Option<u64> {
        let index = self.detour_index.get(&(object, section, offset))?;
        Some(self.detours[*index].offset)
    }

    /// Number of stubs, those of functions that choose their implementation among them.
    pub(super) fn stub_count(&self) -> u64 {
        (self.stubs.len() + self.resolved.len()) as u64
    }

    /// Number of frames of stubs and detours.
    pub(super) fn detour_frame_count(&self) -> u64 {
        match self.detour_frames {
            (_, 0) => 0,
            _ => (self.stub_runs().len() + self.detours.len()) as u64,
        }
    }

    /// Offset in the constants of the frames for unwinding, which are the last of them.
    pub(super) fn frames_at(&self) -> u64 {
        self.frames.unwrap_or(self.constant.size)
    }

    /// Offset in the shared range of the constants, which follow the code. What holds addresses is written when an image
    /// starts elsewhere, and so is on no page with code, which stays shared.
    pub(super) fn constants_at(&self) -> u64 {
        let apart = if self.holds_addresses { PAGE_SIZE } else { 64 };
        let after_code = self.code.size;
        self.kept.map_or_else(
            || after_code.next_multiple_of(self.constant.alignment.max(apart)),
            |kept| kept.constants_at,
        )
    }

    /// Offset in the shared range, and bytes, of what a version that keeps places has behind all that it keeps.
    pub(super) fn more(&self) -> (u64, u64) {
        self.kept
            .map_or((0, 0), |kept| (kept.more.0, kept.more.1 - kept.more.0))
    }

    /// Bytes of the offset table, with which the data begin.
    pub(super) fn table_size(&self) -> u64 {
        self.entries.len() as u64 * 8
    }

    /// Bytes of a library's shared range.
    pub(super) fn shared_size(&self) -> u64 {
        let (start, size) = self.more();
        if size > 0 {
            start + size
        } else if self.constant.size == 0 {
            self.code.size
        } else {
            self.constants_at() + self.constant.size
        }
    }

    /// Bytes to which a library's shared range is aligned: pages at least.
    pub(super) fn shared_alignment(&self) -> u64 {
        let alignment = self.code.alignment.max(self.constant.alignment);
        alignment.max(PAGE_SIZE)
    }

    /// Where bound sections and data begin in a library's private range at `private`: on pages of their own.
    pub(super) fn private_at(&self, private: u64) -> (u64, u64) {
        let bound = private.next_multiple_of(self.bound.alignment);
        let pages = self.bound_room();
        (bound, (bound + pages).next_multiple_of(self.data.alignment))
    }

    /// Bytes from the start of the bound sections to the data, both aligned to a page.
    fn bound_room(&self) -> u64 {
        let pages = self.bound.size.next_multiple_of(PAGE_SIZE);
        self.kept.map_or(pages, |kept| kept.bound)
    }

    /// Bytes of a library's private range, wherever that begins.
    pub(super) fn private_size(&self) -> u64 {
        // The range begins at a page.
        let unused = |extent: Extent| extent.alignment.saturating_sub(PAGE_SIZE);
        let pages = self.bound_room();
        unused(self.bound) + pages + unused(self.data) + self.data.size
    }

    /// Offset in the code of the jump that calls of a section's start take.
    pub(super) fn jump(&self, object: usize, section: usize) -> Option<u64> {
        self.jumps.get(&(object, section)).copied()
    }

    fn add_detour(&mut self, at: (usize, usize, u64), detour: Detour, entry: Entry<'a>) {
        self.add_entry(entry);
        let offset = self.detours_size;
        self.detours_size += detour.code.len() as u64;
        self.detour_index.insert(at, self.detours.len());
        self.detours.push(PlannedDetour {
            detour,
            object: at.0,
            section: at.1,
            entry,
            offset,
        });
    }

    fn add_entry(&mut self, entry: Entry<'a>) {
        if !self.entry_index.contains_key(&entry) {
            self.entry_index.insert(entry, self.entries.len());
            self.entry_offsets.push(self.table_size());
            self.entries.push(entry);
        }
    }
}

/// Stubs at `offsets` as runs that lie one after the other: start, and bytes.
fn runs(mut offsets: Vec<u64>) -> Vec<(u64, u64)> {
    offsets.sort_unstable();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for offset in offsets {
        match runs
            .last_mut()
            .filter(|(start, size)| start + *size == offset)
        {
            Some((_, size)) => *size += STUB_SIZE,
            None => runs.push((offset, STUB_SIZE)),
        }
    }
    runs
}
