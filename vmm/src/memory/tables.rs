//! The guest's page tables: four levels, in frames as they are needed.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use pool_core::{PAGE_SIZE, WINDOW_SIZE};
use vm_memory::{MmapRegion, VolatileMemory};

use super::paging::{self, Entries, FRAME, LARGE, PRESENT, TABLE, is_stale};

/// Page tables of one guest, in frames that the caller provides. They are taken back all at once
/// ([`Tables::clear`]): a frame that changes its use alone would leave the kernel's shadow of it behind.
#[derive(Debug)]
pub(super) struct Tables {
    root: u64,
    /// Frames below the top-level table, the first `used` of them in use.
    frames: Vec<u64>,
    used: usize,
    /// The monitor's pages: guest virtual address and entry.
    monitor: Vec<(u64, u64)>,
}

/// What writing entries did.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Guest physical addresses and lengths of what a processor may remember with rights that it no longer
    /// has.
    pub(super) stale: Vec<(u64, u64)>,
    /// Present entries written.
    pub(super) entries: u64,
}

impl Tables {
    /// Tables whose top-level one is the page at `root`, which reads as zeros, as every frame here.
    pub(super) fn new(root: u64) -> Self {
        Self {
            root,
            frames: Vec::new(),
            used: 0,
            monitor: Vec::new(),
        }
    }

    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// Pages in use, the top-level table among them.
    pub(super) fn pages(&self) -> u64 {
        self.used as u64 + 1
    }

    /// Frames below the top-level one, used or not.
    pub(super) fn frames(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Frames that can still be used.
    pub(super) fn left(&self) -> u64 {
        (self.frames.len() - self.used) as u64
    }

    /// Gives one more frame.
    pub(super) fn add(&mut self, frame: u64) {
        self.frames.push(frame);
    }

    /// Takes every frame back. The caller clears the top-level table and provides frames before
    /// [`Self::write_monitor`].
    pub(super) fn clear(&mut self) -> Vec<u64> {
        self.used = 0;
        std::mem::take(&mut self.frames)
    }

    /// A table of 4 KiB entries without any; it is linked by [`Self::link`].
    pub(super) fn make(&mut self, ram: &MmapRegion) -> io::Result<u64> {
        self.frame(ram)
    }

    /// Has the window at `window` be mapped by `table`.
    pub(super) fn link(&mut self, ram: &MmapRegion, window: u64, table: u64) -> io::Result<()> {
        let slot = self.directory(ram, window)? + (window >> 21 & 511) * 8;
        store(ram, slot, table | TABLE)
    }

    /// Writes the entries of pages from `from` on to `table`.
    pub(super) fn write_small(
        ram: &MmapRegion,
        table: u64,
        from: u16,
        entries: &[u64],
    ) -> io::Result<Written> {
        let mut written = Written::default();
        let pages = (u64::from(from)..).zip(entries);
        for (page, &entry) in pages {
            written.put(ram, table + page * 8, entry, PAGE_SIZE)?;
        }
        Ok(written)
    }

    /// True when `table`'s entry of `page` says that the page was written.
    pub(super) fn was_written(ram: &MmapRegion, table: u64, page: u16) -> bool {
        load(ram, table + u64::from(page) * 8).is_ok_and(|entry| entry & paging::DIRTY != 0)
    }

    /// Maps the window at `window`, which has no table, by one entry, or by none (zero).
    pub(super) fn write_large(
        &mut self,
        ram: &MmapRegion,
        window: u64,
        entry: u64,
    ) -> io::Result<Written> {
        let mut written = Written::default();
        let slot = if entry == 0 {
            self.find_slot(ram, window)?
        } else {
            Some(self.directory(ram, window)? + (window >> 21 & 511) * 8)
        };
        if let Some(slot) = slot {
            written.put(ram, slot, entry, pool_core::WINDOW_SIZE)?;
        }
        Ok(written)
    }

    /// The table of 4 KiB entries of the window at `window`, if there is one: the monitor's pages may have
    /// made it.
    pub(super) fn linked(&self, ram: &MmapRegion, window: u64) -> io::Result<Option<u64>> {
        let Some(slot) = self.find_slot(ram, window)? else {
            return Ok(None);
        };
        let entry = load(ram, slot)?;
        let is_table = entry & (PRESENT | LARGE) == PRESENT;
        Ok(is_table.then_some(entry & FRAME))
    }

    /// Puts the monitor's pages among the entries of the window at `window`. True if there are any.
    pub(super) fn add_monitor(&self, window: u64, entries: &mut Entries) -> bool {
        let mut any = false;
        for &(address, entry) in &self.monitor {
            if address & !(WINDOW_SIZE - 1) == window {
                entries[(address >> 12 & 511) as usize] = entry;
                any = true;
            }
        }
        any
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
        let frame = self.frame(ram)?;
        store(ram, slot, frame | TABLE)?;
        Ok(frame)
    }

    /// A fresh frame. It is written before it is read, or the host would give it a page of zeros first.
    fn frame(&mut self, ram: &MmapRegion) -> io::Result<u64> {
        let frame = self.frames.get(self.used).copied();
        let frame = frame.ok_or_else(|| io::Error::other("no page is left for page tables"))?;
        self.used += 1;
        store(ram, frame, 0)?;
        Ok(frame)
    }
}

impl Written {
    fn put(&mut self, ram: &MmapRegion, at: u64, entry: u64, length: u64) -> io::Result<()> {
        let old = load(ram, at)?;
        let entry = paging::keeping_use(old, entry);
        self.entries += entry & PRESENT;
        if old == entry {
            return Ok(());
        }
        if old & PRESENT == 0 {
            // A fresh frame reads as zeros: its untouched parts stay untouched.
            return store(ram, at, entry);
        }
        // A processor may write through what it finds there, and note that, until it is gone.
        let place = ram.get_atomic_ref::<AtomicU64>(at as usize);
        let place = place.map_err(io::Error::other)?;
        let old = place.swap(entry, Ordering::SeqCst);
        place.fetch_or(paging::keeping_use(old, entry) & !entry, Ordering::SeqCst);
        if is_stale(old, entry) {
            let physical = old & FRAME & !(length - 1);
            match self.stale.last_mut() {
                Some((last, bytes)) if *last + *bytes == physical => *bytes += length,
                _ => self.stale.push((physical, length)),
            }
        }
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
