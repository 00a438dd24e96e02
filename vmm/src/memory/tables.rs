//! The guest's page tables in RAM window 0: four levels, allocated as they are needed.

use std::io;

use pool_core::{PAGE_SIZE, WINDOW_SIZE};
use vm_memory::{MmapRegion, VolatileMemory};

use super::paging::{FRAME, LARGE, PRESENT, TABLE, WindowEntries, is_stale};

/// Page tables of one guest: first in RAM window 0, then wherever RAM was given for them. They are
/// taken back all at once ([`Tables::clear`]): a frame that changes its use alone would leave the
/// kernel's shadow of it behind.
#[derive(Debug)]
pub(super) struct Tables {
    root: u64,
    next: u64,
    /// Frames outside of RAM window 0, and how many of them are in use.
    more: Vec<u64>,
    more_used: usize,
    /// The monitor's pages: guest virtual address and entry.
    monitor: Vec<(u64, u64)>,
}

/// What writing a window's entries did.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The window's table of 4 KiB entries.
    pub(super) table: Option<u64>,
    /// Something is mapped there.
    pub(super) mapped: bool,
    /// The processor may remember something that no longer holds.
    pub(super) stale: bool,
    /// A window that was one entry is a table now.
    pub(super) restructured: bool,
    /// 2 MiB entries written.
    pub(super) large: u64,
    /// Present 4 KiB entries written.
    pub(super) small: u64,
}

impl Tables {
    /// Tables in the RAM from `first` (a page) to the end of RAM window 0.
    pub(super) fn new(first: u64) -> Self {
        Self {
            root: first,
            next: first + PAGE_SIZE,
            more: Vec::new(),
            more_used: 0,
            monitor: Vec::new(),
        }
    }

    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// Pages in use, the top-level table among them.
    pub(super) fn pages(&self) -> u64 {
        (self.next - self.root) / PAGE_SIZE + self.more_used as u64
    }

    /// Pages that can still be used.
    pub(super) fn left(&self) -> u64 {
        (WINDOW_SIZE - self.next) / PAGE_SIZE + (self.more.len() - self.more_used) as u64
    }

    /// Gives one more page for tables, which reads as zeros.
    pub(super) fn add(&mut self, frame: u64) {
        self.more.push(frame);
    }

    /// Takes every page out of use, and those outside of RAM window 0 back. The caller clears
    /// them all, the top-level table too, before [`Self::write_monitor`].
    pub(super) fn clear(&mut self) -> Vec<u64> {
        self.next = self.root + PAGE_SIZE;
        self.more_used = 0;
        std::mem::take(&mut self.more)
    }

    /// Writes the entries of the window at `window`. A window that once had a table keeps it.
    pub(super) fn write(
        &mut self,
        ram: &MmapRegion,
        window: u64,
        table: Option<u64>,
        entries: WindowEntries,
    ) -> io::Result<Written> {
        let mut written = Written {
            table,
            mapped: entries != WindowEntries::Nothing || table.is_some(),
            ..Written::default()
        };
        if entries == WindowEntries::Nothing && table.is_none() {
            // One entry of 2 MiB at most, and no table is needed to take it away.
            if let Some(slot) = self.find_slot(ram, window)? {
                written.stale = load(ram, slot)? & PRESENT != 0;
                store(ram, slot, 0)?;
            }
            return Ok(written);
        }
        let directory = self.directory(ram, window)?;
        let slot = directory + (window >> 21 & 511) * 8;
        match (entries, table) {
            (WindowEntries::Nothing, table) => {
                for page in (0..512).filter(|_| table.is_some()) {
                    written.put(ram, table.unwrap_or_default() + page * 8, 0)?;
                }
            }
            (WindowEntries::Large(entry), None) => {
                written.stale = is_stale(load(ram, slot)?, entry);
                written.large = 1;
                store(ram, slot, entry)?;
            }
            (WindowEntries::Large(entry), Some(table)) => {
                for page in 0..512 {
                    let entry = (entry & !LARGE) + page * PAGE_SIZE;
                    written.put(ram, table + page * 8, entry)?;
                }
            }
            (WindowEntries::Small(entries), table) => {
                let fresh = table.is_none();
                let table = match table {
                    Some(table) => table,
                    None => self.frame()?,
                };
                for (page, &entry) in entries.iter().enumerate() {
                    // A fresh frame reads as zeros: leave its untouched parts untouched.
                    if !(fresh && entry == 0) {
                        written.put(ram, table + page as u64 * 8, entry)?;
                    }
                }
                if fresh {
                    written.restructured = load(ram, slot)? & PRESENT != 0;
                    store(ram, slot, table | TABLE)?;
                }
                written.table = Some(table);
            }
        }
        Ok(written)
    }

    /// Maps a monitor page at `address` by `entry`.
    pub(super) fn map_monitor(
        &mut self,
        ram: &MmapRegion,
        address: u64,
        entry: u64,
    ) -> io::Result<()> {
        self.monitor.push((address, entry));
        self.write_monitor(ram)
    }

    /// Writes the entries of all monitor pages.
    pub(super) fn write_monitor(&mut self, ram: &MmapRegion) -> io::Result<()> {
        for (address, entry) in self.monitor.clone() {
            let directory = self.directory(ram, address)?;
            let table = self.next_level(ram, directory + (address >> 21 & 511) * 8)?;
            store(ram, table + (address >> 12 & 511) * 8, entry)?;
        }
        Ok(())
    }

    /// The place of the 2 MiB entry that covers `address`, if there is a directory for it.
    fn find_slot(&self, ram: &MmapRegion, address: u64) -> io::Result<Option<u64>> {
        let mut table = self.root;
        for shift in [39, 30] {
            let entry = load(ram, table + (address >> shift & 511) * 8)?;
            if entry & PRESENT == 0 {
                return Ok(None);
            }
            table = entry & FRAME;
        }
        Ok(Some(table + (address >> 21 & 511) * 8))
    }

    /// The page directory that covers `address`.
    fn directory(&mut self, ram: &MmapRegion, address: u64) -> io::Result<u64> {
        let pointers = self.next_level(ram, self.root + (address >> 39 & 511) * 8)?;
        self.next_level(ram, pointers + (address >> 30 & 511) * 8)
    }

    fn next_level(&mut self, ram: &MmapRegion, slot: u64) -> io::Result<u64> {
        let entry = load(ram, slot)?;
        if entry & PRESENT != 0 {
            return Ok(entry & FRAME);
        }
        let frame = self.frame()?;
        store(ram, slot, frame | TABLE)?;
        Ok(frame)
    }

    fn frame(&mut self) -> io::Result<u64> {
        if self.next < WINDOW_SIZE {
            let frame = self.next;
            self.next += PAGE_SIZE;
            return Ok(frame);
        }
        let frame = self.more.get(self.more_used).copied();
        let frame = frame.ok_or_else(|| io::Error::other("no page is left for page tables"))?;
        self.more_used += 1;
        Ok(frame)
    }
}

impl Written {
    fn put(&mut self, ram: &MmapRegion, at: u64, entry: u64) -> io::Result<()> {
        let old = load(ram, at)?;
        if old != entry {
            self.stale |= is_stale(old, entry);
            store(ram, at, entry)?;
        }
        self.small += entry & PRESENT;
        Ok(())
    }
}

fn load(ram: &MmapRegion, at: u64) -> io::Result<u64> {
    let entry = ram.get_ref::<u64>(at as usize).map_err(io::Error::other)?;
    Ok(entry.load())
}

fn store(ram: &MmapRegion, at: u64, entry: u64) -> io::Result<()> {
    let place = ram.get_ref::<u64>(at as usize).map_err(io::Error::other)?;
    place.store(entry);
    Ok(())
}
