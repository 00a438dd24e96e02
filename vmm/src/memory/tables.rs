//! The guest's page tables in RAM window 0: four levels, allocated as they are needed.

use std::io;

use pool_core::{PAGE_SIZE, WINDOW_SIZE};
use vm_memory::{MmapRegion, VolatileMemory};

use super::paging::{FRAME, LARGE, PRESENT, TABLE, WindowEntries, is_stale};

/// Page tables of one guest. Frames are handed out upwards and never taken back.
#[derive(Debug)]
pub(super) struct Tables {
    root: u64,
    next: u64,
    end: u64,
}

/// What writing a window's entries did.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The window's table of 4 KiB entries.
    pub(super) table: Option<u64>,
    /// The processor may remember something that no longer holds.
    pub(super) stale: bool,
    /// A window that was one entry is a table now, or the other way round.
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
            end: WINDOW_SIZE,
        }
    }

    pub(super) fn root(&self) -> u64 {
        self.root
    }

    pub(super) fn pages(&self) -> u64 {
        (self.next - self.root) / PAGE_SIZE
    }

    /// Writes the entries of the window at `window`. A window that once had a table keeps it.
    pub(super) fn write(
        &mut self,
        ram: &MmapRegion,
        window: u64,
        table: Option<u64>,
        entries: WindowEntries,
    ) -> io::Result<Written> {
        let directory = self.directory(ram, window)?;
        let slot = directory + (window >> 21 & 511) * 8;
        let mut written = Written {
            table,
            ..Written::default()
        };
        match (entries, table) {
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

    /// Writes one 4 KiB entry of the window at `window`, which is the monitor's.
    pub(super) fn write_monitor_page(
        &mut self,
        ram: &MmapRegion,
        address: u64,
        entry: u64,
    ) -> io::Result<()> {
        let directory = self.directory(ram, address)?;
        let table = self.next_level(ram, directory + (address >> 21 & 511) * 8)?;
        store(ram, table + (address >> 12 & 511) * 8, entry)
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
        if self.next >= self.end {
            return Err(io::Error::other(
                "the guest uses more than 500 scattered 2 MiB windows: out of page tables",
            ));
        }
        let frame = self.next;
        self.next += PAGE_SIZE;
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
