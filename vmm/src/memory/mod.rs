//! The guest's memory: reservation, page tables, and every access of the VMM to it.
//!
//! The plan is carried out by [`GuestMemory::build`]; afterwards the guest's own calls (`brk`,
//! `mmap`, ...) change [`space::AddressSpace`], and the page tables follow window by window. A
//! window of private memory gets its RAM when it is first touched, by the guest (a page fault) or
//! by the VMM (a system call's argument).
//!
//! The VMM reaches guest memory by guest *virtual* address, checked against the areas: what the
//! guest could not do itself, it cannot have the VMM do. Writes go to RAM only, so never to a
//! shared overlay.
//!
//! A snapshot will be taken here: the private windows that differ from their origin.

mod build;
pub mod paging;
mod reservation;
pub mod space;
mod tables;
pub mod transfer;

use std::collections::BTreeMap;
use std::io;

use pool_core::address::Protection;
use pool_core::{PAGE_SIZE, WINDOW_SIZE};
use thiserror::Error;
use vm_memory::{ByteValued, MmapRegion, VolatileMemory, VolatileSlice};

pub use self::build::{Backing, BuildError};
pub use self::reservation::{Overlay, Reservation};
use self::space::{AddressSpace, Area};
use self::tables::Tables;
use crate::plan::SHARED_BASE;

/// RAM is handed to the VM in slots; each further one is at least this large.
const LEAST_GROWTH: u64 = 8 << 20;
/// From this much RAM on, further windows are backed by 2 MiB host pages: touching one costs 1/300
/// of touching its pages, and at most an eighth of the guest's memory is wasted.
const HUGE_FROM: u64 = 16 << 20;

/// Why the VMM cannot use a guest address.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("guest address {0:#x} is not mapped for that access")]
pub struct BadAddress(pub u64);

/// Why a guest cannot have more memory.
#[derive(Debug, Error)]
pub enum GrowError {
    /// Its limit is reached.
    #[error("the guest's memory limit of {0} KiB is reached: raise --memory")]
    Limit(u64),
    /// The host refused.
    #[error("mapping guest memory: {0}")]
    Host(#[from] io::Error),
}

/// What the guest wants to do with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Fetch an instruction.
    Execute,
}

impl Access {
    /// True when `protection` allows it.
    pub fn allowed_by(self, protection: Protection) -> bool {
        match self {
            Self::Read => protection.read,
            Self::Write => protection.write,
            Self::Execute => protection.execute,
        }
    }
}

/// A run of guest physical memory that the VM must be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRequest {
    /// Slot number.
    pub slot: u32,
    /// Guest physical address.
    pub physical: u64,
    /// Host virtual address.
    pub host: u64,
    /// Bytes.
    pub length: u64,
    /// Writes leave to the VMM instead of reaching memory.
    pub read_only: bool,
}

/// How a window of guest virtual addresses is mapped at present.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// RAM window that holds its private pages.
    ram: Option<u64>,
    /// Table of 4 KiB entries (offset in RAM). Never given back: the shadow pager remembers
    /// what a table's frame was used for.
    table: Option<u64>,
}

/// Counts for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryCounts {
    /// 2 MiB page-table entries over shared windows at the start.
    pub shared_windows: u64,
    /// 4 KiB shared pages mapped at the start.
    pub shared_pages: u64,
    /// Private pages that come from the pool.
    pub private_pages: u64,
    /// Zero pages (bss and holes) at the start.
    pub zero_pages: u64,
    /// Page-table pages in use.
    pub table_pages: u64,
    /// Entries of 2 MiB written.
    pub large_entries: u64,
    /// Entries of 4 KiB written.
    pub small_entries: u64,
    /// Memory slots.
    pub slots: u64,
    /// Bytes of guest RAM in slots.
    pub ram_bytes: u64,
    /// Host mappings laid in.
    pub host_mappings: u64,
}

/// The memory of one guest.
#[derive(Debug)]
pub struct GuestMemory {
    // Regions point into the reservation: they are declared first so that they go first.
    ram: MmapRegion,
    shared: Option<MmapRegion>,
    reservation: Reservation,
    space: AddressSpace,
    windows: BTreeMap<u64, Window>,
    tables: Tables,
    free_ram: Vec<u64>,
    next_ram: u64,
    committed: u64,
    limit: u64,
    slots: Vec<SlotRequest>,
    next_slot: u32,
    flush: bool,
    last_fault: Option<u64>,
    counts: MemoryCounts,
}

impl GuestMemory {
    /// The guest's areas.
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// Bytes of private memory that the guest may use.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What was mapped, for the report.
    pub fn counts(&self) -> MemoryCounts {
        MemoryCounts {
            table_pages: self.tables.pages(),
            slots: self.next_slot.into(),
            ram_bytes: self.committed,
            ..self.counts
        }
    }

    /// What the guest may do at `address`, if anything is mapped there.
    pub fn protection_at(&self, address: u64) -> Option<Protection> {
        self.space.find(address).map(|(_, area)| area.protection)
    }

    /// Guest physical address of the top-level page table.
    pub fn root(&self) -> u64 {
        self.tables.root()
    }

    /// Memory slots that the VM does not have yet.
    pub fn take_slots(&mut self) -> Vec<SlotRequest> {
        std::mem::take(&mut self.slots)
    }

    /// True, once, when an entry was withdrawn since the last call: the vCPU must forget its
    /// translations before it goes on.
    pub fn take_flush(&mut self) -> bool {
        std::mem::take(&mut self.flush)
    }

    /// Maps `length` bytes of zeros at `start`, in place of what was there.
    pub fn map_zero(
        &mut self,
        start: u64,
        length: u64,
        protection: Protection,
    ) -> Result<(), GrowError> {
        let end = start + length;
        let forgotten = self.reset(start, end)?;
        let backing = space::Backing::Private;
        self.space.map(
            start,
            Area {
                end,
                protection,
                backing,
            },
        );
        let more = self.space.private_bytes();
        if more > self.limit {
            self.space.unmap(start, end);
            self.update(start, end, forgotten)?;
            return Err(GrowError::Limit(self.limit >> 10));
        }
        self.update(start, end, forgotten)
    }

    /// Removes what is mapped in `start..end`.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        let forgotten = self.reset(start, end)?;
        self.space.unmap(start, end);
        self.update(start, end, forgotten)
    }

    /// Changes the protection of `start..end`; false when that is refused.
    pub fn protect(
        &mut self,
        start: u64,
        end: u64,
        protection: Protection,
    ) -> Result<bool, GrowError> {
        let allowed = self.space.protect(start, end, protection);
        if allowed {
            self.update(start, end, Forgotten::Nothing)?;
        }
        Ok(allowed)
    }

    /// Gives the private changes in `start..end` back.
    pub fn discard(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        self.each_private(start, end, |reservation, at, length| {
            reservation.discard(at, length)
        })
    }

    /// Records the end of the heap.
    pub fn set_heap_end(&mut self, end: u64) {
        self.space.set_heap_end(end);
    }

    /// Makes an access at `address` possible, if the guest's areas allow it. False means that the
    /// guest made a mistake.
    pub fn resolve_fault(&mut self, address: u64, access: Access) -> Result<bool, GrowError> {
        let allowed = match self.space.find(address) {
            Some((_, area)) => access.allowed_by(area.protection),
            None => false,
        };
        if !allowed {
            return Ok(false);
        }
        let window = address & !(WINDOW_SIZE - 1);
        if self.windows.contains_key(&window) {
            // The entry was there already: a processor may fault once more on what it remembers.
            self.flush = true;
            return Ok(self.last_fault.replace(address) != Some(address));
        }
        self.last_fault = None;
        self.update_window(window, Forgotten::Nothing)?;
        Ok(true)
    }

    /// The host memory behind `length` bytes at `address`, in one or more runs, if the guest may
    /// itself do `access` to all of it.
    pub fn slices(
        &mut self,
        address: u64,
        length: u64,
        access: Access,
    ) -> Result<Vec<VolatileSlice<'_>>, BadAddress> {
        let end = address.checked_add(length).ok_or(BadAddress(address))?;
        let mut runs = Vec::with_capacity(1);
        let mut at = address;
        while at < end {
            let (run, next) = self.locate(at, end, access)?;
            runs.push((run, next - at));
            at = next;
        }
        runs.into_iter()
            .map(|(place, length)| self.slice(place, length).ok_or(BadAddress(address)))
            .collect()
    }

    /// Fills `into` from guest address `address`.
    pub fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        let mut done = 0;
        for slice in self.slices(address, into.len() as u64, Access::Read)? {
            done += slice.copy_to(&mut into[done..]);
        }
        Ok(())
    }

    /// Puts `from` at guest address `address`.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), BadAddress> {
        let mut done = 0;
        for slice in self.slices(address, from.len() as u64, Access::Write)? {
            slice.copy_from(&from[done..]);
            done += slice.len();
        }
        Ok(())
    }

    /// Reads a value at `address`.
    pub fn read_value<T: ByteValued + Default>(&mut self, address: u64) -> Result<T, BadAddress> {
        let mut value = T::default();
        self.read(address, value.as_mut_slice())?;
        Ok(value)
    }

    /// Writes a value at `address`.
    pub fn write_value<T: ByteValued>(
        &mut self,
        address: u64,
        value: &T,
    ) -> Result<(), BadAddress> {
        self.write(address, value.as_slice())
    }

    /// Reads a string that ends with NUL, of at most `limit` bytes; `None` when it is longer.
    pub fn read_string(
        &mut self,
        address: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, BadAddress> {
        let mut text = Vec::new();
        let mut at = address;
        while text.len() <= limit {
            let to_page_end = PAGE_SIZE - at % PAGE_SIZE;
            let mut part = vec![0; to_page_end as usize];
            self.read(at, &mut part)?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&part[..end]);
                return Ok((text.len() <= limit).then_some(text));
            }
            text.extend_from_slice(&part);
            at += to_page_end;
        }
        Ok(None)
    }

    /// Reads a monitor page (RAM window 0), which no guest address reaches.
    pub fn read_monitor(&self, physical: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        let length = into.len() as u64;
        let inside = physical
            .checked_add(length)
            .is_some_and(|end| end <= WINDOW_SIZE);
        let slice = self.slice(Place::Ram(physical), length).filter(|_| inside);
        slice.ok_or(BadAddress(physical))?.copy_to(into);
        Ok(())
    }

    fn locate(&mut self, at: u64, end: u64, access: Access) -> Result<(Place, u64), BadAddress> {
        let (start, area) = self.space.find(at).ok_or(BadAddress(at))?;
        if !access.allowed_by(area.protection) {
            return Err(BadAddress(at));
        }
        match area.backing {
            space::Backing::Shared { physical } => {
                let place = Place::Shared(physical - SHARED_BASE + (at - start));
                Ok((place, area.end.min(end)))
            }
            space::Backing::Private => {
                let window = at & !(WINDOW_SIZE - 1);
                if self.windows.get(&window).is_none_or(|w| w.ram.is_none()) {
                    self.update_window(window, Forgotten::Nothing)
                        .map_err(|_| BadAddress(at))?;
                }
                let ram = self.windows.get(&window).and_then(|window| window.ram);
                let place = Place::Ram(ram.ok_or(BadAddress(at))? + (at - window));
                Ok((place, area.end.min(end).min(window + WINDOW_SIZE)))
            }
        }
    }

    fn slice(&self, place: Place, length: u64) -> Option<VolatileSlice<'_>> {
        let (region, offset) = match place {
            Place::Ram(offset) => (&self.ram, offset),
            Place::Shared(offset) => (self.shared.as_ref()?, offset),
        };
        if matches!(place, Place::Ram(_)) && offset + length > self.committed {
            return None;
        }
        region.get_slice(offset as usize, length as usize).ok()
    }

    /// Replaces the private memory of `start..end` by untouched zeros. As the host's mapping is
    /// replaced, its kernel forgets every translation to what was there.
    fn reset(&mut self, start: u64, end: u64) -> Result<Forgotten, GrowError> {
        self.each_private(start, end, |reservation, at, length| {
            reservation.map_anonymous(at, length, true)
        })?;
        let private = |(_, area): (u64, Area)| area.backing == space::Backing::Private;
        Ok(if self.space.over(start, end).all(private) {
            Forgotten::All
        } else {
            Forgotten::Nothing
        })
    }

    fn each_private(
        &mut self,
        start: u64,
        end: u64,
        act: impl Fn(&Reservation, u64, u64) -> io::Result<()>,
    ) -> Result<(), GrowError> {
        let areas: Vec<(u64, Area)> = self.space.over(start, end).collect();
        for (at, area) in areas {
            if area.backing != space::Backing::Private {
                continue;
            }
            let (from, to) = (at.max(start), area.end.min(end));
            let first = from & !(WINDOW_SIZE - 1);
            for (&window, state) in self.windows.range(first..to) {
                let Some(ram) = state.ram else { continue };
                let (low, high) = (from.max(window), to.min(window + WINDOW_SIZE));
                act(&self.reservation, ram + (low - window), high - low)?;
            }
        }
        Ok(())
    }

    /// Brings the tables of every window in `start..end` that has been touched up to date.
    fn update(&mut self, start: u64, end: u64, forgotten: Forgotten) -> Result<(), GrowError> {
        let first = start & !(WINDOW_SIZE - 1);
        let touched: Vec<u64> = self.windows.range(first..end).map(|(&w, _)| w).collect();
        touched
            .into_iter()
            .try_for_each(|window| self.update_window(window, forgotten))
    }

    fn update_window(&mut self, window: u64, forgotten: Forgotten) -> Result<(), GrowError> {
        let mut state = self.windows.get(&window).copied().unwrap_or_default();
        let private = self
            .space
            .over(window, window + WINDOW_SIZE)
            .any(|(_, area)| area.backing == space::Backing::Private);
        match (private, state.ram) {
            (true, None) => state.ram = Some(self.take_ram()?),
            (false, Some(ram)) => {
                self.free_ram.push(ram);
                state.ram = None;
            }
            _ => {}
        }
        let entries = paging::window_entries(&self.space, window, state.ram);
        let written = self.tables.write(&self.ram, window, state.table, entries)?;
        state.table = written.table;
        let remembered = written.stale && forgotten == Forgotten::Nothing;
        self.flush |= remembered || written.restructured;
        self.counts.large_entries += written.large;
        self.counts.small_entries += written.small;
        self.windows.insert(window, state);
        Ok(())
    }

    fn take_ram(&mut self) -> Result<u64, GrowError> {
        if let Some(ram) = self.free_ram.pop() {
            return Ok(ram);
        }
        let ram = self.next_ram;
        let end = ram + WINDOW_SIZE;
        if end > self.committed {
            let wanted = LEAST_GROWTH.max(self.committed);
            let growth = wanted.min(self.ram.size() as u64 - self.committed);
            if growth == 0 {
                return Err(GrowError::Limit(self.limit >> 10));
            }
            self.commit(growth)?;
        }
        self.next_ram = end;
        Ok(ram)
    }

    fn commit(&mut self, length: u64) -> io::Result<()> {
        let at = self.committed;
        self.reservation.map_anonymous(at, length, true)?;
        if at >= HUGE_FROM {
            self.reservation.advise_huge(at, length)?;
        }
        self.request_slot(at, at, length, false)?;
        self.committed += length;
        Ok(())
    }

    fn request_slot(
        &mut self,
        physical: u64,
        offset: u64,
        length: u64,
        read_only: bool,
    ) -> io::Result<()> {
        let host = self.reservation.host_address(offset, length)?;
        self.slots.push(SlotRequest {
            slot: self.next_slot,
            physical,
            host,
            length,
            read_only,
        });
        self.next_slot += 1;
        Ok(())
    }
}

/// What the kernel has forgotten already of the translations that are being withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgotten {
    Nothing,
    All,
}

/// Gives the heap's free pages back to the host: planning and confinement needed them, running the
/// guest does not.
pub(crate) fn give_back_heap() {
    // SAFETY: the allocator's own call, without arguments that could be wrong.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// An offset in RAM or in the shared pages.
#[derive(Clone, Copy, Debug)]
enum Place {
    Ram(u64),
    Shared(u64),
}
