//! The guest's virtual address space: areas that never overlap. Pure bookkeeping: what is mapped where,
//! with which protection; page tables and host memory follow from it, and memory is charged where it is
//! touched (`touch`). So an area costs nothing, whatever its size.
//!
//! Every change goes through `AddressSpace::replace`. Before that each kind of it is checked as Linux checks it
//! (`vm.max_map_count`), so that what one refuses for the number of areas, the other does. What is refused changes nothing, but for
//! `protect`, which changes area by area up to the one that is refused.

use std::collections::BTreeMap;

use pool_core::address::{Protection, USER_ADDRESS_END};
use pool_core::{PAGE_SIZE, WINDOW_SIZE};
use thiserror::Error;

use super::files::FileId;
use crate::plan::{MONITOR_SIZE, Rooms};

/// Addresses below this are never given out, so that a null pointer faults (as Linux's
/// `vm.mmap_min_addr`).
const LOWEST: u64 = 0x1_0000;
/// Most areas, as Linux's `vm.max_map_count`; what is mapped when there are so many is one more.
pub const MAX_AREAS: usize = 65_530;

/// What stands behind an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Read-only pages at consecutive guest physical addresses, the first given.
    Shared {
        /// Guest physical address of the area's first byte.
        physical: u64,
    },
    /// The guest's own RAM, zeros until they are written.
    Private,
    /// The same, as memory that is shared by name: advice does not take it away.
    Kept,
    /// The guest's own RAM, bytes of a file until they are written.
    File {
        /// The file.
        file: FileId,
        /// Where the area's first byte lies in it.
        offset: u64,
    },
    /// A file's own pages: what others write is seen, and what is written is the file's.
    Shown {
        /// The file.
        file: FileId,
        /// Where the area's first byte lies in it.
        offset: u64,
        /// It was opened for writing.
        writable: bool,
    },
}

/// A run of pages with one protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address past the area.
    pub end: u64,
    /// What the guest may do; nothing at all for a reservation (`PROT_NONE`).
    pub protection: Protection,
    /// What stands behind it.
    pub backing: Backing,
}

/// Why memory stays as it is.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// It would have touched more than its limit.
    #[error("the guest's memory limit of {0} KiB is reached: raise --memory")]
    Limit(u64),
    /// It would have more than [`MAX_AREAS`].
    #[error("the guest has {MAX_AREAS} separate memory areas, the most there may be")]
    Areas,
}

/// Why a protection is not changed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProtectError {
    /// A page is not mapped.
    #[error("a page of the range is not mapped")]
    Hole,
    /// A page of the image that is shared, or of a file that was not opened for writing, would become writable.
    #[error("shared pages are writable only if their file is")]
    Shared,
    /// A limit.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl Area {
    /// Anonymous memory up to `end`.
    pub fn anonymous(end: u64, protection: Protection) -> Self {
        Self {
            end,
            protection,
            backing: Backing::Private,
        }
    }

    /// The area without its first `bytes`.
    pub(super) fn without_first(self, bytes: u64) -> Self {
        let backing = match self.backing {
            Backing::Shared { physical } => Backing::Shared {
                physical: physical + bytes,
            },
            Backing::File { file, offset } => Backing::File {
                file,
                offset: offset + bytes,
            },
            Backing::Shown {
                file,
                offset,
                writable,
            } => Backing::Shown {
                file,
                offset: offset + bytes,
                writable,
            },
            Backing::Private | Backing::Kept => self.backing,
        };
        Self { backing, ..self }
    }

    /// True for memory that no file is behind, and no shared pages.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.backing, Backing::Private | Backing::Kept)
    }

    /// True when the guest may do anything there.
    pub fn accessible(&self) -> bool {
        let Protection {
            read,
            write,
            execute,
        } = self.protection;
        read || write || execute
    }
}

/// All areas of a guest, by start address.
#[derive(Clone, Debug)]
pub struct AddressSpace {
    areas: BTreeMap<u64, Area>,
    /// Bytes of each file that are mapped.
    files: BTreeMap<FileId, u64>,
    /// Files of which nothing is any more.
    hidden: Vec<FileId>,
    /// Bytes that are mapped, and those of them that are data.
    mapped: u64,
    data: u64,
    rooms: Rooms,
    /// Current end of the heap.
    heap_end: u64,
}

impl AddressSpace {
    /// An empty address space.
    pub fn new(rooms: Rooms) -> Self {
        Self {
            areas: BTreeMap::new(),
            files: BTreeMap::new(),
            hidden: Vec::new(),
            mapped: 0,
            data: 0,
            rooms,
            heap_end: rooms.heap.0,
        }
    }

    /// Stack, heap and monitor.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// True when an area shows `file`.
    pub(super) fn shows(&self, file: FileId) -> bool {
        self.files.contains_key(&file)
    }

    /// The files of which areas have shown something since this was asked for the last time, and none does now.
    pub(super) fn take_hidden(&mut self) -> Vec<FileId> {
        let mut hidden = std::mem::take(&mut self.hidden);
        hidden.retain(|&file| !self.shows(file));
        hidden
    }

    /// Bytes that are mapped, as Linux counts them for `RLIMIT_AS`.
    pub fn mapped(&self) -> u64 {
        self.mapped
    }

    /// Those of them that are private and writable, but for the stack: what Linux counts for `RLIMIT_DATA`.
    pub fn data(&self) -> u64 {
        self.data
    }

    /// Bytes of `start..end` that are mapped.
    pub fn mapped_in(&self, start: u64, end: u64) -> u64 {
        let areas = self.over(start, end);
        areas
            .map(|(at, area)| area.end.min(end) - at.max(start))
            .sum()
    }

    /// Bytes that would become data if all of `start..end` could be written.
    pub fn data_if_writable(&self, start: u64, end: u64) -> u64 {
        let areas = self.over(start, end);
        let gained = areas.map(|(at, area)| {
            let writable = Area {
                end: area.end.min(end),
                protection: Protection::READ_WRITE,
                ..area
            };
            let (at, now) = (at.max(start), area.protection.write);
            if now { 0 } else { self.data_of(at, &writable) }
        });
        gained.sum()
    }

    /// Of an area at `at`: bytes of data.
    fn data_of(&self, at: u64, area: &Area) -> u64 {
        let private = matches!(area.backing, Backing::Private | Backing::File { .. });
        let stack = self.rooms.stack_low.0..self.rooms.stack_high.0;
        if private && area.protection.write && !stack.contains(&at) {
            area.end - at
        } else {
            0
        }
    }

    /// Current end of the heap (`brk`).
    pub fn heap_end(&self) -> u64 {
        self.heap_end
    }

    /// Records a new end of the heap.
    pub fn set_heap_end(&mut self, end: u64) {
        self.heap_end = end;
    }

    /// True while something may be mapped, whatever is there (`do_mmap`, mm/mmap.c).
    pub fn has_room_to_map(&self) -> bool {
        self.areas.len() <= MAX_AREAS
    }

    /// True while what moves to another place cannot be refused on the way for the number of areas (`prep_move_vma`, mm/mremap.c).
    pub fn has_room_to_move(&self) -> bool {
        self.areas.len() < MAX_AREAS - 3
    }

    /// The same for what moves to a place that it names: what it leaves and what it comes upon may be cut in three each, which
    /// is asked before anything else (`check_mremap_params`).
    pub fn has_room_to_replace(&self) -> bool {
        self.areas.len() + 2 < MAX_AREAS - 3
    }

    /// Puts an area at `start`, in place of whatever was there.
    pub fn map(&mut self, start: u64, area: Area) -> Result<(), Refused> {
        if !self.has_room_to_map() {
            return Err(Refused::Areas);
        }
        self.check_hole(start, area.end)?;
        self.replace(start, area.end, &[(start, area)]);
        Ok(())
    }

    /// Removes whatever is mapped in `start..end`. Cutting an area in two can be refused.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), Refused> {
        self.check_hole(start, end)?;
        self.replace(start, end, &[]);
        Ok(())
    }

    /// Has the area that ends at `end` reach to `new_end`; what lies between is free. It stays one area, however many there are.
    pub fn extend(&mut self, end: u64, new_end: u64) {
        if let Some((at, area)) = self.find(end - 1) {
            let more = Area {
                end: new_end,
                ..area.without_first(end - at)
            };
            self.replace(end, new_end, &[(end, more)]);
        }
    }

    /// Refused if `start..end` lies within one area and there are too many for it to be two (`vms_gather_munmap_vmas`, mm/vma.c).
    fn check_hole(&self, start: u64, end: u64) -> Result<(), Refused> {
        let holds = |(at, area): (u64, Area)| at < start && end < area.end;
        let cuts = start < end && self.find(start).is_some_and(holds);
        if cuts && self.areas.len() >= MAX_AREAS {
            return Err(Refused::Areas);
        }
        Ok(())
    }

    /// Changes the protection of `start..end`, as far as it can: up to a page that is not mapped, or may not
    /// be written. Past the last address that has changed, and why it was the last.
    pub fn protect(
        &mut self,
        start: u64,
        end: u64,
        protection: Protection,
    ) -> (u64, Result<(), ProtectError>) {
        let mut next = start;
        while next < end {
            let Some((at, area)) = self.find(next) else {
                return (next, Err(ProtectError::Hole));
            };
            let read_only = matches!(
                area.backing,
                Backing::Shared { .. }
                    | Backing::Shown {
                        writable: false,
                        ..
                    }
            );
            if protection.write && read_only {
                return (next, Err(ProtectError::Shared));
            }
            let changed = Area {
                end: area.end.min(end),
                protection,
                ..area.without_first(next - at)
            };
            if area.protection != protection {
                if let Err(refused) = self.check_change((at, &area), (next, &changed)) {
                    return (next, Err(refused.into()));
                }
                self.replace(next, changed.end, &[(next, changed)]);
            }
            next = changed.end;
        }
        (next, Ok(()))
    }

    /// Refused if there are too many areas for a part of one, `changed`, to be another. One that joins its neighbour takes no more
    /// (`vma_modify`, mm/vma.c). Linux has cut the one end when it refuses the other, and counts two from then on; here they are one again.
    fn check_change(
        &self,
        (at, area): (u64, &Area),
        (start, changed): (u64, &Area),
    ) -> Result<(), Refused> {
        let before = self.areas.range(..at).next_back();
        let joins_before = at == start
            && before.is_some_and(|(&before_at, before)| joins(before_at, before, start, changed));
        let joins_after = area.end == changed.end
            && (self.areas.get(&area.end))
                .is_some_and(|after| joins(start, changed, area.end, after));
        let cuts = usize::from(at < start) + usize::from(changed.end < area.end);
        if !joins_before && !joins_after && cuts > 0 && self.areas.len() + cuts > MAX_AREAS {
            return Err(Refused::Areas);
        }
        Ok(())
    }

    /// The area that holds `address`, with its start.
    pub fn find(&self, address: u64) -> Option<(u64, Area)> {
        let (&at, area) = self.areas.range(..=address).next_back()?;
        (address < area.end).then_some((at, *area))
    }

    /// The areas that reach into `start..end`, with their starts, uncut.
    pub fn over(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, Area)> + '_ {
        let first = self.find(start).map_or(start, |(at, _)| at);
        self.areas
            .range(first..)
            .take_while(move |&(&at, _)| at < end)
            .map(|(&at, area)| (at, *area))
    }

    /// The same, cut at `start` and `end`.
    fn clipped(&self, start: u64, end: u64) -> Vec<(u64, Area)> {
        self.over(start, end)
            .map(|(at, area)| {
                let from = at.max(start);
                let mut area = area.without_first(from - at);
                area.end = area.end.min(end);
                (from, area)
            })
            .collect()
    }

    /// True when a page of `start..end` is not mapped.
    pub fn has_hole(&self, start: u64, end: u64) -> bool {
        let mut next = start;
        for (at, area) in self.over(start, end) {
            if at > next {
                return true;
            }
            next = area.end;
        }
        next < end
    }

    /// True when some of `start..end` is the monitor's.
    pub fn is_monitors(&self, start: u64, end: u64) -> bool {
        let monitor = self.rooms.monitor.0;
        start < monitor + MONITOR_SIZE && end > monitor
    }

    /// True when nothing is mapped in `start..end`, and it lies where guests may map.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        start < end
            && start >= LOWEST
            && end <= USER_ADDRESS_END
            && !self.is_monitors(start, end)
            && self.over(start, end).next().is_none()
    }

    /// A free place for `length` bytes (a multiple of the page size): the highest below the
    /// stack's guard, else the lowest above the stack. Large mappings begin on a 2 MiB boundary,
    /// so that one page-table entry can map each of their windows.
    pub fn find_gap(&self, length: u64) -> Option<u64> {
        let granule = if length >= WINDOW_SIZE {
            WINDOW_SIZE
        } else {
            PAGE_SIZE
        };
        let lowest = self.heap_end.checked_next_multiple_of(WINDOW_SIZE)?;
        let fits_below = |end: u64| {
            let start = end.checked_sub(length)? & !(granule - 1);
            (start >= lowest).then_some(start)
        };
        let mut end = self.rooms.mmap_top.0;
        for (&at, area) in self.areas.range(..self.rooms.mmap_top.0).rev() {
            match fits_below(end) {
                Some(start) if start >= area.end => return Some(start),
                _ => end = end.min(at),
            }
        }
        fits_below(end).or_else(|| self.find_gap_above(length))
    }

    fn find_gap_above(&self, length: u64) -> Option<u64> {
        let above = self
            .rooms
            .stack_high
            .0
            .checked_next_multiple_of(WINDOW_SIZE)?;
        let mut start = above.checked_add(WINDOW_SIZE)?;
        for (at, area) in self.over(start, USER_ADDRESS_END) {
            if at.saturating_sub(start) >= length {
                break;
            }
            start = start.max(area.end.checked_next_multiple_of(WINDOW_SIZE)?);
        }
        let end = start.checked_add(length)?;
        (end <= USER_ADDRESS_END).then_some(start)
    }

    /// Puts `new`, which lies in `start..end`, in place of what is there.
    fn replace(&mut self, start: u64, end: u64, new: &[(u64, Area)]) {
        if start >= end {
            return;
        }
        let old = self.clipped(start, end);
        self.count(&old, new);
        self.split(start);
        self.split(end);
        for (at, _) in old {
            self.areas.remove(&at);
        }
        self.areas.extend(new.iter().copied());
        self.join(start, end);
    }

    fn count(&mut self, old: &[(u64, Area)], new: &[(u64, Area)]) {
        let counts = |areas: &[(u64, Area)]| {
            let bytes = areas.iter().map(|(at, area)| area.end - at);
            let data = areas.iter().map(|(at, area)| self.data_of(*at, area));
            (bytes.sum::<u64>(), data.sum::<u64>())
        };
        let (gone, come) = (counts(old), counts(new));
        self.mapped = self.mapped + come.0 - gone.0;
        self.data = self.data + come.1 - gone.1;
        for (file, bytes) in of_files(new) {
            *self.files.entry(file).or_default() += bytes;
        }
        for (file, bytes) in of_files(old) {
            let left = self
                .files
                .get(&file)
                .map_or(0, |had| had.saturating_sub(bytes));
            if left > 0 {
                self.files.insert(file, left);
            } else {
                self.files.remove(&file);
                self.hidden.push(file);
            }
        }
    }

    /// Joins areas that became alike in `start..end` and at its two ends.
    fn join(&mut self, start: u64, end: u64) {
        let before = self.areas.range(..start).next_back();
        let Some((&first, _)) = before.or_else(|| self.areas.range(start..).next()) else {
            return;
        };
        let mut at = first;
        while at < end {
            let Some((&next, &area)) = self.areas.range(at + 1..).next() else {
                return;
            };
            match self.areas.get_mut(&at) {
                Some(previous) if joins(at, previous, next, &area) => {
                    previous.end = area.end;
                    self.areas.remove(&next);
                }
                _ => at = next,
            }
        }
    }

    fn split(&mut self, address: u64) {
        if let Some((at, area)) = self.find(address)
            && at < address
        {
            let head = Area {
                end: address,
                ..area
            };
            self.areas.insert(at, head);
            self.areas.insert(address, area.without_first(address - at));
        }
    }
}

/// Bytes of files in `areas`.
fn of_files(areas: &[(u64, Area)]) -> impl Iterator<Item = (FileId, u64)> + '_ {
    areas.iter().filter_map(|(at, area)| match area.backing {
        Backing::File { file, .. } | Backing::Shown { file, .. } => Some((file, area.end - at)),
        Backing::Private | Backing::Kept | Backing::Shared { .. } => None,
    })
}

fn joins(at: u64, before: &Area, next: u64, after: &Area) -> bool {
    before.end == next
        && before.protection == after.protection
        && before.without_first(next - at).backing == after.backing
}

#[cfg(test)]
mod tests;
