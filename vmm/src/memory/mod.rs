//! The guest's memory: reservation, page tables, and every access of the VMM to it.
//!
//! The plan is carried out by [`GuestMemory::build`]; afterwards the guest's own calls (`brk`,
//! `mmap`, ...) change [`space::AddressSpace`] (`change`), and what they map costs nothing. A page gets a
//! frame of RAM when it is first touched, by the guest (a page fault) or by the VMM (a system call's
//! argument), in batches (`touch`, `batch`). **A frame is what the guest is charged, and there is no
//! other place where it is charged**: when its limit has no frame left, what was given and not touched is
//! taken back (`reclaim`), and if there is none of that, it ends, as a process does whose cgroup is out
//! of memory. Page tables are a cache of all this (`windows`).
//!
//! The VMM reaches guest memory by guest *virtual* address, checked against the areas: what the
//! guest could not do itself, it cannot have the VMM do. Writes go to RAM only, so never to a
//! shared overlay.
//!
//! A snapshot will be taken here: the frames in use, and the files of those that were not written.

mod access;
mod batch;
mod build;
mod change;
mod files;
mod frames;
pub mod paging;
mod reclaim;
mod reservation;
mod runs;
mod shown;
pub mod space;
mod tables;
mod touch;
mod windows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use pool_core::address::Protection;
use pool_core::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use thiserror::Error;
use vm_memory::MmapRegion;

pub(crate) use self::access::MAX_RUNS;
pub use self::access::Reached;
pub use self::build::{Backing, BuildError, MonitorPage};
pub(crate) use self::change::STACK_AT_LEAST;
pub use self::files::FilePlace;
use self::files::Files;
use self::frames::Frames;
pub use self::reservation::{Overlay, Reservation};
use self::runs::Runs;
use self::space::{AddressSpace, Refused};
use self::tables::Tables;

/// Pages that one instruction touches at most: two each of code, of what it reads and of what it writes.
const MOST_AT_ONCE: usize = 6;

/// Page tables that a guest is not charged for: 2 MiB of them, with the monitor's pages.
const FREE_TABLES: u64 = PAGES_PER_WINDOW - 4;

/// Why the VMM cannot use a guest address.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("guest address {address:#x} cannot be used for that access")]
pub struct BadAddress {
    /// The address.
    pub address: u64,
    /// It may be used, but the guest's memory limit is reached.
    pub limit: bool,
}

impl BadAddress {
    fn at(address: u64) -> Self {
        Self {
            address,
            limit: false,
        }
    }
}

/// Why a guest's memory cannot be changed.
#[derive(Debug, Error)]
pub enum GrowError {
    /// One of its limits is reached.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The host refused.
    #[error("mapping guest memory: {0}")]
    Host(#[from] io::Error),
    /// The host does not map a file. Nothing has changed.
    #[error("mapping a file: {0}")]
    File(io::Error),
}

/// Why memory cannot be had before it is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpopulated {
    /// Nothing is mapped there.
    Hole,
    /// The guest may not do that there.
    Forbidden,
    /// The file has no such page.
    PastFile,
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

/// The processors that use the memory. One at a time changes it; others go on using it meanwhile.
pub trait Processors: Debug + Send + Sync {
    /// The number of the one that changes it.
    fn here(&self) -> usize;

    /// Has the others out of the guest, and whatever they wrote seen, until this one lets them in again. For
    /// changes that they must not meet half done.
    fn stop_others(&self);
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
    /// The frames of its pages.
    runs: Runs,
    /// Table of 4 KiB entries (offset in RAM). Given back only when all tables are
    /// (`forget_tables`): the shadow pager remembers what a table's frame was for.
    table: Option<u64>,
    /// One entry of 2 MiB maps it.
    large: bool,
    /// The tables say what the areas and the frames say.
    mapped: bool,
    /// The host was asked for a 2 MiB page.
    huge: bool,
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
    /// Pages that were copied and written, because they hold addresses of an image that slides.
    pub written_pages: u64,
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

/// The processors beside the one that changes the memory, if there are any.
#[derive(Debug, Default)]
struct Others(Option<Arc<dyn Processors>>);

impl Others {
    /// Has them out of the guest until this one goes on.
    fn stop(&self) {
        if let Some(processors) = &self.0 {
            processors.stop_others();
        }
    }

    /// The number of this one.
    fn here(&self) -> usize {
        self.0.as_ref().map_or(0, |processors| processors.here())
    }
}

/// The memory of one guest.
#[derive(Debug)]
pub struct GuestMemory {
    // Regions point into the reservation: they are declared first so that they go first.
    ram: MmapRegion,
    shared: Option<MmapRegion>,
    reservation: Reservation,
    space: AddressSpace,
    files: Files,
    windows: BTreeMap<u64, Window>,
    tables: Tables,
    frames: Frames,
    /// Bytes that may be charged.
    limit: u64,
    /// Frames that are charged.
    used: u64,
    /// RAM with segments laid in.
    overlaid: Range<u64>,
    committed: u64,
    slots: Vec<SlotRequest>,
    next_slot: u32,
    flush: bool,
    /// Windows that one entry mapped since the last flush, with where it led.
    remembered: BTreeMap<u64, u64>,
    /// From so many page tables on, those that lead nowhere are looked for.
    collect_from: u64,
    /// Where a processor faulted for nothing, and which.
    last_fault: Option<(u64, usize)>,
    /// How often pages were made to be forgotten: a processor may have met them gone for a moment.
    revocations: u64,
    others: Others,
    /// Frames that are a file's own pages, and how often such were laid in.
    shown: BTreeSet<u32>,
    laid: u32,
    /// RAM that a call is about to use.
    held: Vec<Range<u64>>,
    /// The pages that each processor was given last, the newest at the end.
    given: BTreeMap<usize, VecDeque<u64>>,
    counts: MemoryCounts,
}

impl GuestMemory {
    /// The guest's areas.
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// Bytes that the guest may be charged.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that it could still touch.
    pub fn free(&self) -> u64 {
        self.left() * PAGE_SIZE
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

    /// Says that several processors use it.
    pub fn set_processors(&mut self, processors: Arc<dyn Processors>) {
        self.others = Others(Some(processors));
    }

    /// Has other processors out of the guest until this one goes on.
    pub fn stop_others(&self) {
        self.others.stop();
    }

    /// How often pages were made to be forgotten so far, and with that were gone for a moment.
    pub fn revocations(&self) -> u64 {
        self.revocations
    }

    /// Memory slots that the VM does not have yet.
    pub fn take_slots(&mut self) -> Vec<SlotRequest> {
        std::mem::take(&mut self.slots)
    }

    /// True, once, when the machine must forget every translation before the guest goes on.
    pub fn take_flush(&mut self) -> bool {
        if self.flush {
            let windows = &self.windows;
            let large = |window: &u64| windows.get(window).is_some_and(|state| state.large);
            self.remembered.retain(|window, _| large(window));
        }
        std::mem::take(&mut self.flush)
    }

    /// Makes an access at `address` possible, if the guest's areas allow it. False means that the
    /// guest made a mistake. `present`: the processor has found the page, but not the right to do that.
    pub fn resolve_fault(
        &mut self,
        address: u64,
        access: Access,
        present: bool,
    ) -> Result<bool, GrowError> {
        let found = self.space.find(address);
        let Some((start, area)) = found.filter(|(_, area)| access.allowed_by(area.protection))
        else {
            return Ok(false);
        };
        let page = address & !(PAGE_SIZE - 1);
        let physical = match area.backing {
            space::Backing::Shared { physical } => Some(physical + (page - start)),
            _ => self.frame_of(page).map(|(physical, _)| physical),
        };
        let window = self.windows.get(&(address & !(WINDOW_SIZE - 1)));
        if let Some(physical) = physical
            && window.is_some_and(|window| window.mapped)
        {
            // The entry was there already: a processor may fault once more on what it remembers. That nothing is
            // there none remembers: another processor has touched the page meanwhile.
            if present {
                self.revoke(&[(physical, PAGE_SIZE)], false);
            }
            let here = (address, self.others.here());
            return Ok(self.last_fault.replace(here) != Some(here));
        }
        self.last_fault = None;
        let there = self.open(address, address + 1)?;
        if there && access == Access::Write && self.is_unwritable(address) {
            self.close(page, page + PAGE_SIZE)?;
            return Ok(false);
        }
        if let Some((physical, _)) = self.frame_of(page) {
            let given = self.given.entry(self.others.here()).or_default();
            given.push_back(physical);
            if given.len() > MOST_AT_ONCE {
                given.pop_front();
            }
        }
        Ok(there)
    }

    /// True where `start..end` has pages of the image as the pool has them, shared or copied when they are touched. What
    /// follows them in their segment is others', so no such memory may grow.
    pub fn shows_pool(&self, start: u64, end: u64) -> bool {
        let mut areas = self.space.over(start, end);
        areas.any(|(_, area)| match area.backing {
            space::Backing::Shared { .. } => true,
            space::Backing::File { file, .. } => self.files.is_segment(file),
            _ => false,
        })
    }

    /// True when `access` at `address` is allowed, but the page is one that the mapped file does not have, or
    /// has no room for: Linux sends SIGBUS.
    pub fn is_past_file(&self, address: u64, access: Access) -> bool {
        let file = |area: space::Area| {
            use space::Backing::{File, Shown};
            let of_file = matches!(area.backing, File { .. } | Shown { .. });
            of_file && access.allowed_by(area.protection)
        };
        self.space.find(address).is_some_and(|(_, area)| file(area))
            && self.frame_of(address).is_none()
    }
}

/// Gives back to the host what planning and confinement needed and running the guest does not: the heap's
/// free pages, and those of the stack below this function.
#[inline(never)]
pub(crate) fn give_back() {
    /// More than what lies below `here` while this function runs.
    const IN_USE: usize = 1024;
    /// The most that is given back: as much as the kernel maps for a stack at first, and an eighth of the gap
    /// that it keeps free below one.
    const MOST: usize = 128 << 10;
    let here = 0u8;
    let end = std::ptr::from_ref(&here).addr().saturating_sub(IN_USE) & !(PAGE_SIZE as usize - 1);
    // SAFETY: the first is the allocator's own call, without arguments that could be wrong. Of the second
    // nothing in use lies in the range: it ends below this frame, and a stack grows downwards.
    unsafe {
        libc::malloc_trim(0);
        libc::madvise(
            std::ptr::without_provenance_mut(end - MOST),
            MOST,
            libc::MADV_DONTNEED,
        );
    }
}

#[cfg(test)]
mod tests;
