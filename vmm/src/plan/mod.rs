//! The plan: what will be mapped where, decided before anything is mapped.
//!
//! Pure: an image's map goes in; mappings, guest physical addresses and the first address space
//! come out. Both platforms and both backings carry out the same plan.
//!
//! ```text
//! guest virtual                     guest physical                    host
//! 0x1000_0000 library text  ----->  SHARED_BASE + 0      2 MiB   -->  segment 7, window 3, shared
//! 0x0040_0000 program text  ----->  SHARED_BASE + 2 MiB  4 KiB   -->  segment 7, slot 9,  shared
//! 0x0041_0000 program data  ----->  a frame of RAM       4 KiB   -->  segment 8, slot 2,  private
//! 0x0041_2000 bss           ----->  a frame, when touched         -->  anonymous
//! ```
//!
//! *Shared* pages are packed one after the other from [`SHARED_BASE`], whole 2 MiB windows first,
//! and fill one read-only memory slot. *Private* pages get frames of RAM when they are laid in or
//! touched (`crate::memory`).
//!
//! An image that slides ([`crate::slide`]) is planned where it comes to lie; its pages that are written before the guest
//! runs are private.

mod pieces;
mod rooms;

use std::collections::BTreeMap;

use pool_core::address::Protection;
use pool_core::description::{Description, ProgramHeaders, RangeKind};
use pool_core::image_map::ImageMap;
use pool_core::{GuestAddress, SegmentId};
use thiserror::Error;

use crate::slide::{Random, Slides};

/// First guest physical address of shared pages; RAM begins at zero and stays below.
pub const SHARED_BASE: u64 = 1 << 36;
/// Most memory that a guest may be given.
pub const MAX_MEMORY: u64 = 16 << 30;
/// Room for the stack; pages are taken as they are touched.
pub const STACK_SIZE: u64 = 8 << 20;
/// Addresses that the monitor keeps for itself.
pub const MONITOR_SIZE: u64 = 1 << 20;
/// Most bytes that stay free at the stack's end when the image slides, as under Linux (`arch_align_stack`).
const MOST_STACK_GAP: u64 = 8 << 10;
/// What a guest must have beside its image's data to get anywhere: arguments, first frames.
const LEAST_REST: u64 = 256 << 10;

/// Why an image cannot be planned.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// The writable part alone is larger than the memory granted.
    #[error(
        "the image needs {needed} KiB of private memory before it starts, but --memory grants \
         {granted} KiB: raise --memory"
    )]
    NeedsMemory {
        /// KiB of data, and the least that a guest takes beside.
        needed: u64,
        /// KiB granted.
        granted: u64,
    },
    /// No gap in the address space is left for the stack and the monitor.
    #[error("the image leaves no room in its address space for a stack and a heap")]
    NoRoom,
    /// Shared pages do not fit the slot's arithmetic.
    #[error("the image's shared pages take {0} bytes, more than can be mapped")]
    TooLarge(u64),
}

/// Where the bytes of a mapping come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Consecutive bytes of a segment.
    Segment {
        /// The segment.
        segment: SegmentId,
        /// Byte offset in it, a multiple of the page size.
        offset: u64,
    },
    /// Zeros.
    Zero,
}

impl Content {
    fn advanced(self, bytes: u64) -> Self {
        match self {
            Self::Segment { segment, offset } => Self::Segment {
                segment,
                offset: offset + bytes,
            },
            Self::Zero => Self::Zero,
        }
    }
}

/// Whether writes are possible, and who sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Read-only, the same pages for every guest.
    Shared,
    /// Copied on first write.
    Private,
}

/// A run of pages with one origin, contiguous in virtual, physical and file addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Guest virtual address.
    pub address: GuestAddress,
    /// Guest physical address of shared pages; zero for private ones.
    pub physical: u64,
    /// Bytes.
    pub length: u64,
    /// Origin of the bytes.
    pub content: Content,
    /// Shared or private.
    pub sharing: Sharing,
    /// What the guest may do.
    pub protection: Protection,
    /// Made of whole 2 MiB windows, each for one page-table entry.
    pub windows: bool,
    /// Holds addresses of an image that starts elsewhere: copied, and written before the guest runs.
    pub written: bool,
}

impl Mapping {
    /// First guest virtual address past the mapping.
    pub fn end(&self) -> u64 {
        self.address.0 + self.length
    }

    /// True when `next` goes on where this mapping ends, in every respect.
    fn continues_into(&self, next: &Self) -> bool {
        self.end() == next.address.0
            && (self.sharing == Sharing::Private || self.physical + self.length == next.physical)
            && self.content.advanced(self.length) == next.content
            && (self.sharing, self.protection, self.windows, self.written)
                == (next.sharing, next.protection, next.windows, next.written)
    }
}

/// Parts of the guest's virtual address space that do not come from the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rooms {
    /// [`MONITOR_SIZE`] bytes for the monitor's pages (system call entry, fault entries, tables) and the vdso, in the
    /// window of the stack's end: one page table is enough for both.
    pub monitor: GuestAddress,
    /// Lowest address of the stack; below it lies an unmapped guard.
    pub stack_low: GuestAddress,
    /// First address past the stack.
    pub stack_high: GuestAddress,
    /// Where the heap (`brk`) begins.
    pub heap: GuestAddress,
    /// `mmap` looks for room from here downwards.
    pub mmap_top: GuestAddress,
}

/// What to map for an image, and where the guest starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every mapping, sorted by guest virtual address.
    pub mappings: Vec<Mapping>,
    /// Guest virtual addresses (start, end) that the image itself fills, sorted: less than the
    /// mappings where a window is mapped whole.
    pub image_ranges: Vec<(u64, u64)>,
    /// Bytes of guest physical memory from [`SHARED_BASE`]; whole windows come first.
    pub shared_length: u64,
    /// Bytes of private memory granted to the guest.
    pub memory: u64,
    /// Stack, heap and monitor.
    pub rooms: Rooms,
    /// First instruction.
    pub entry: GuestAddress,
    /// For `AT_PHDR`.
    pub program_headers: Option<ProgramHeaders>,
    /// The guest may execute its stack.
    pub stack_executable: bool,
    /// Bytes at the stack's end that stay free, a multiple of 16.
    pub stack_gap: u64,
    /// What is written before the guest runs.
    pub slides: Option<Slides>,
}

impl Plan {
    /// Plans `map` for a guest that may use `memory` bytes (a multiple of the page size, at most
    /// [`MAX_MEMORY`]) of private memory.
    pub fn new(map: &ImageMap, memory: u64) -> Result<Self, PlanError> {
        Self::make(map, memory, None, None)
    }

    /// Plans `map`, which `slides` has moved; heap, mappings and stack lie where `random` says.
    pub fn slid(
        map: &ImageMap,
        memory: u64,
        slides: Slides,
        random: &mut Random,
    ) -> Result<Self, PlanError> {
        Self::make(map, memory, Some(slides), Some(random))
    }

    fn make(
        map: &ImageMap,
        memory: u64,
        slides: Option<Slides>,
        mut random: Option<&mut Random>,
    ) -> Result<Self, PlanError> {
        let description = &map.description;
        check_size(description, memory)?;
        let found = rooms::find(description, random.as_deref_mut());
        let rooms = found.ok_or(PlanError::NoRoom)?;
        let mut pieces = pieces::of(map, slides.as_ref().map_or(&[], Slides::pages));
        let shared_length = place_shared(&mut pieces);
        if shared_length > SHARED_BASE {
            return Err(PlanError::TooLarge(shared_length));
        }
        Ok(Self {
            mappings: merge(pieces),
            image_ranges: image_ranges(description),
            shared_length,
            memory,
            rooms,
            entry: description.entry,
            program_headers: description.program_headers,
            stack_executable: description.executable_stack,
            stack_gap: random.map_or(0, |random| random.below(MOST_STACK_GAP / 16) * 16),
            slides,
        })
    }

    /// The segments used, each with the first byte past what is used of it.
    pub fn segments(&self) -> BTreeMap<SegmentId, u64> {
        let mut needed = BTreeMap::new();
        for mapping in &self.mappings {
            if let Content::Segment { segment, offset } = mapping.content {
                let end: &mut u64 = needed.entry(segment).or_default();
                *end = (*end).max(offset + mapping.length);
            }
        }
        needed
    }

    /// What the guest may do with its stack.
    pub fn stack_protection(&self) -> Protection {
        Protection {
            execute: self.stack_executable,
            ..Protection::READ_WRITE
        }
    }

    /// The parts of `mapping` that the image itself fills: all of it, unless it is a window
    /// that is mapped whole.
    pub fn image_parts(&self, mapping: &Mapping) -> impl Iterator<Item = (u64, u64)> + '_ {
        let (from, to) = (mapping.address.0, mapping.end());
        let first = self.image_ranges.partition_point(|&(_, end)| end <= from);
        self.image_ranges[first..]
            .iter()
            .map(move |&(start, end)| (start.max(from), end.min(to)))
            .take_while(|(start, end)| start < end)
    }
}

/// Bytes that a guest of `memory` bytes may ask for at once: what is untouched costs nothing, but nobody means to
/// use more than sixteen times what can be had, and 4 GiB besides.
pub fn most_at_once(memory: u64) -> u64 {
    memory.saturating_mul(16).saturating_add(4 << 30)
}

/// Refuses an image that is too large, before it is gone through window by window: ranges may be as
/// long as the address space.
fn check_size(description: &Description, memory: u64) -> Result<(), PlanError> {
    let (mut shared, mut private, mut zeros) = (0, LEAST_REST, 0u64);
    for range in &description.ranges {
        match range.kind {
            RangeKind::Shared => shared += range.length,
            RangeKind::Private => private += range.length,
            // Zeros cost nothing until they are touched.
            RangeKind::Zero => zeros += range.length,
        }
    }
    let needs = |bytes: u64| PlanError::NeedsMemory {
        needed: bytes >> 10,
        granted: memory >> 10,
    };
    if private > memory {
        return Err(needs(private));
    }
    if zeros > most_at_once(memory) {
        return Err(needs(private + zeros));
    }
    if shared > SHARED_BASE {
        return Err(PlanError::TooLarge(shared));
    }
    Ok(())
}

/// Packs shared pieces from [`SHARED_BASE`]: windows first, so that all of them are aligned.
fn place_shared(pieces: &mut [Mapping]) -> u64 {
    let mut next = SHARED_BASE;
    for windows in [true, false] {
        for piece in pieces.iter_mut() {
            if piece.sharing == Sharing::Shared && piece.windows == windows {
                piece.physical = next;
                next += piece.length;
            }
        }
    }
    next - SHARED_BASE
}

/// Joins pieces that continue each other.
fn merge(pieces: Vec<Mapping>) -> Vec<Mapping> {
    let mut merged: Vec<Mapping> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match merged.last_mut() {
            Some(last) if last.continues_into(&piece) => last.length += piece.length,
            _ => merged.push(piece),
        }
    }
    merged
}

fn image_ranges(description: &Description) -> Vec<(u64, u64)> {
    let ends = |range: &pool_core::description::Range| (range.address.0, range.end().0);
    description.ranges.iter().map(ends).collect()
}

/// Highest address of the image's last range.
fn image_end(description: &Description) -> u64 {
    description.ranges.last().map_or(0, |range| range.end().0)
}

#[cfg(test)]
mod tests;
