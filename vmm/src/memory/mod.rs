//! The guest's memory: reservation, page tables, and every access of the VMM to it.
//!
//! The plan is carried out by [`GuestMemory::build`]; afterwards the guest's own calls (`brk`,
//! `mmap`, ...) change [`space::AddressSpace`], and the page tables follow window by window. A
//! window of private memory gets its RAM when it is first touched, by the guest (a page fault) or
//! by the VMM (a system call's argument): a window of it where all pages are charged, single pages
//! elsewhere (`frames`). What is charged, and that it can always be had, is said in [`charge`].
//!
//! The VMM reaches guest memory by guest *virtual* address, checked against the areas: what the
//! guest could not do itself, it cannot have the VMM do. Writes go to RAM only, so never to a
//! shared overlay.
//!
//! A snapshot will be taken here: the private windows that differ from their origin.

mod access;
mod build;
pub mod charge;
mod frames;
pub mod paging;
mod reservation;
pub mod space;
mod tables;
pub mod transfer;
mod windows;

use std::collections::BTreeMap;
use std::io;

use pool_core::PAGE_SIZE;
use pool_core::WINDOW_SIZE;
use pool_core::address::Protection;
use thiserror::Error;
use vm_memory::MmapRegion;

pub use self::build::{Backing, BuildError};
use self::frames::{Backed, Frames};
pub use self::reservation::{Overlay, Reservation};
use self::space::{AddressSpace, Area, ProtectError, Refused};
use self::tables::Tables;

/// Why the VMM cannot use a guest address.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("guest address {0:#x} is not mapped for that access")]
pub struct BadAddress(pub u64);

/// Why a guest's memory cannot be changed.
#[derive(Debug, Error)]
pub enum GrowError {
    /// One of its limits is reached.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// RAM is at its end. What is charged can be had, so this does not happen.
    #[error("the guest's RAM is used up: this is a defect of poolvmm")]
    Exhausted,
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
#[derive(Clone, Debug, Default)]
struct Window {
    /// The RAM of its private pages.
    backed: Backed,
    /// Table of 4 KiB entries (offset in RAM). Given back only when all tables are
    /// ([`GuestMemory::forget_tables`]): the shadow pager remembers what a table's frame was for.
    table: Option<u64>,
    /// The tables lead to its pages.
    mapped: bool,
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
    frames: Frames,
    committed: u64,
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

    /// Maps `length` bytes of zeros at `start`, in place of what was there; only reserves them
    /// when nothing may be done there.
    pub fn map_zero(
        &mut self,
        start: u64,
        length: u64,
        protection: Protection,
    ) -> Result<(), GrowError> {
        let end = start + length;
        self.change(start, end, |space| {
            space.map(start, Area::anonymous(end, protection))
        })
    }

    /// The same for bytes that are about to be copied from a file.
    pub fn map_copied(&mut self, start: u64, length: u64) -> Result<(), GrowError> {
        let end = start + length;
        let area = Area {
            copied: true,
            ..Area::anonymous(end, Protection::READ_WRITE)
        };
        self.change(start, end, |space| space.map(start, area))
    }

    /// Removes what is mapped in `start..end`.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        self.change(start, end, |space| space.unmap(start, end))
    }

    /// Replaces what is mapped in `start..end` as `act` says, if it is not refused. Private
    /// memory there is zeros afterwards.
    fn change(
        &mut self,
        start: u64,
        end: u64,
        act: impl FnOnce(&mut AddressSpace) -> Result<(), Refused>,
    ) -> Result<(), GrowError> {
        let shared = |(_, area): (u64, Area)| matches!(area.backing, space::Backing::Shared { .. });
        let forgotten = if self.space.over(start, end).any(shared) {
            Forgotten::Nothing
        } else {
            Forgotten::All
        };
        act(&mut self.space)?;
        self.reset(start, end)?;
        self.update(start, end, forgotten)
    }

    /// Changes the protection of `start..end`, or nothing; the outer error is the host's.
    pub fn protect(
        &mut self,
        start: u64,
        end: u64,
        protection: Protection,
    ) -> Result<Result<(), ProtectError>, GrowError> {
        let done = self.space.protect(start, end, protection);
        if done.is_ok() {
            self.update(start, end, Forgotten::Nothing)?;
        }
        Ok(done)
    }

    /// Gives the private changes in `start..end` back: anonymous memory reads as zeros, the
    /// image's data as at the start. What was copied from a file stays.
    pub fn discard(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        for (at, area) in self.space.over(start, end).filter(|(_, area)| !area.copied) {
            let (from, to) = (at.max(start), area.end.min(end));
            self.each_run(from, to, |memory, physical, length, _| {
                memory.reservation.discard(physical, length)
            })?;
        }
        Ok(())
    }

    /// Makes the area that ends at `end` with the page before it reach to `new_end`; what lies
    /// between is free. `start` is an address in it.
    pub fn extend(&mut self, start: u64, end: u64, new_end: u64) -> Result<(), GrowError> {
        let Some((_, area)) = self.space.find(start) else {
            return Ok(());
        };
        let more = Area {
            end: new_end,
            ..area
        };
        self.change(end, new_end, |space| space.map(end, more))
    }

    /// Moves the private area or the reservation `old..old_end` to `target`, where it gets
    /// `new_length` bytes; more than it had are zeros. What was at `target` goes. The two may not
    /// overlap.
    ///
    /// It is charged once: pages are copied a window at a time, and leave the old place as they
    /// come to the new one.
    pub fn relocate(
        &mut self,
        old: u64,
        old_end: u64,
        target: u64,
        new_length: u64,
    ) -> Result<(), GrowError> {
        let Some((_, area)) = self.space.find(old) else {
            return Ok(());
        };
        let end = target + new_length;
        let moved = (old_end - old).min(new_length);
        let tables = 2 * ((old_end - old) / WINDOW_SIZE + 4) * PAGE_SIZE;
        let allowance = old_end - old + tables;
        self.change(target, end, |space| {
            space.map_beyond(target, Area { end, ..area }, allowance)
        })?;
        let mut done = 0;
        while done < moved {
            let part = (moved - done).min(WINDOW_SIZE - (old + done) % WINDOW_SIZE);
            self.copy_pages(old + done, target + done, part)?;
            self.unmap(old + done, old + done + part)?;
            done += part;
        }
        self.unmap(old + moved, old_end)
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
        let grown = self.grow(address)?;
        let window = address & !(WINDOW_SIZE - 1);
        let mapped = self.windows.get(&window).is_some_and(|w| w.mapped);
        if mapped && !grown {
            // The entry was there already: a processor may fault once more on what it remembers.
            self.flush = true;
            return Ok(self.last_fault.replace(address) != Some(address));
        }
        self.last_fault = None;
        self.map_window(window)?;
        Ok(true)
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

#[cfg(test)]
mod tests;
