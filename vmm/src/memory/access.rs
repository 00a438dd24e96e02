//! How the VMM itself reaches guest memory: by guest virtual address, with the guest's own rights.

use std::sync::atomic::{AtomicU32, Ordering};

use pool_core::address::USER_ADDRESS_END;
use pool_core::{PAGE_SIZE, WINDOW_SIZE};
use vm_memory::{ByteValued, VolatileMemory, VolatileSlice};

use super::{Access, BadAddress, GrowError, GuestMemory, files, space};
use crate::plan::SHARED_BASE;

/// Most runs that one call moves (the kernel's `UIO_MAXIOV`).
pub(crate) const MAX_RUNS: usize = 1024;

/// An offset in RAM or in the shared pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Ram(u64),
    Shared(u64),
}

impl Place {
    fn after(self, length: u64) -> Self {
        match self {
            Self::Ram(at) => Self::Ram(at + length),
            Self::Shared(at) => Self::Shared(at + length),
        }
    }
}

/// The host memory behind a guest's buffers.
#[derive(Debug)]
pub struct Reached<'a> {
    /// What the guest may use, one after the other.
    pub slices: Vec<VolatileSlice<'a>>,
    /// Bytes behind that, from the first on that it may not use.
    pub beyond: u64,
}

/// The same as places.
#[derive(Debug, Default)]
struct Runs {
    found: Vec<(Place, u64)>,
    beyond: u64,
}

impl GuestMemory {
    /// The host memory behind `ranges`, address and length each, one after the other, as far as the guest may
    /// itself do `access` there, in at most `MAX_RUNS` runs: a call that moves bytes comes back short
    /// where these are all. What the guest may not use is for the kernel to come to, which may never do so. Fails where no
    /// program has memory, which the kernel sees before it does anything, and where there is none left for the first byte.
    pub fn slices_of(
        &mut self,
        ranges: &[(u64, u64)],
        access: Access,
    ) -> Result<Reached<'_>, BadAddress> {
        let nowhere = |&&(at, length): &&(u64, u64)| {
            at.checked_add(length)
                .is_none_or(|end| end > USER_ADDRESS_END)
        };
        if let Some(&(at, _)) = ranges.iter().find(nowhere) {
            return Err(BadAddress::at(at));
        }
        let runs = self.runs_of(ranges, access);
        self.held.clear();
        let runs = runs?;
        let slices = runs.found.into_iter().map(|(place, length)| {
            let bad = match place {
                Place::Ram(at) | Place::Shared(at) => BadAddress::at(at),
            };
            self.slice(place, length).ok_or(bad)
        });
        Ok(Reached {
            slices: slices.collect::<Result<_, _>>()?,
            beyond: runs.beyond,
        })
    }

    /// Where the bytes of `ranges` lie. What has been found is held: it is not written before all of it is
    /// found, so that it may look untouched.
    fn runs_of(&mut self, ranges: &[(u64, u64)], access: Access) -> Result<Runs, BadAddress> {
        let mut runs = Runs {
            found: Vec::with_capacity(ranges.len()),
            beyond: 0,
        };
        let mut left: u64 = ranges.iter().map(|&(_, length)| length).sum();
        for &(address, length) in ranges {
            let end = address.saturating_add(length);
            let mut at = address;
            while at < end {
                let full = runs.found.len() == MAX_RUNS;
                let (place, next) = match self.locate(at, end, access) {
                    Ok(run) => run,
                    Err(bad) if bad.limit && runs.found.is_empty() => return Err(bad),
                    Err(bad) => {
                        let is_told = !bad.limit && !full;
                        runs.beyond = if is_told { left } else { 0 };
                        return Ok(runs);
                    }
                };
                match runs.found.last_mut() {
                    Some((last, bytes)) if last.after(*bytes) == place => *bytes += next - at,
                    _ if full => return Ok(runs),
                    _ => runs.found.push((place, next - at)),
                }
                left -= next - at;
                if let Place::Ram(physical) = place {
                    self.hold(physical, next - at);
                }
                at = next;
            }
        }
        Ok(runs)
    }

    fn hold(&mut self, physical: u64, length: u64) {
        match self.held.last_mut() {
            Some(last) if last.end == physical => last.end += length,
            _ => self.held.push(physical..physical + length),
        }
    }

    /// Fills `into` from guest address `address`.
    pub fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        self.each_slice(address, into.len(), Access::Read, |slice, at, shown| {
            let into = &mut into[at..][..slice.len()];
            if shown {
                // SAFETY: both are mappings of so many bytes; others may share the one.
                return unsafe {
                    files::copy(into.as_mut_ptr(), slice.ptr_guard().as_ptr(), into.len())
                } == into.len();
            }
            slice.copy_to(into);
            true
        })
    }

    /// Puts `from` at guest address `address`. What lies before an address that is out of reach
    /// is written all the same.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), BadAddress> {
        self.each_slice(address, from.len(), Access::Write, |slice, at, shown| {
            let from = &from[at..][..slice.len()];
            if shown {
                // SAFETY: both are mappings of so many bytes; others may share the one.
                return unsafe {
                    files::copy(slice.ptr_guard_mut().as_ptr(), from.as_ptr(), from.len())
                } == from.len();
            }
            slice.copy_from(from);
            true
        })
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

    /// Puts `new` at `address` if the word there is `old`: what it was. Other processors see all of it or
    /// nothing.
    pub fn exchange(&mut self, address: u64, old: u32, new: u32) -> Result<u32, BadAddress> {
        let bad = BadAddress::at(address);
        let (place, _) = self.locate(address, address + 4, Access::Write)?;
        if matches!(place, Place::Ram(physical) if self.is_shown(physical)) {
            // A file's own page may be gone, which an instruction here must not meet.
            self.stop_others();
            let found = self.read_value(address)?;
            if found == old {
                self.write_value(address, &new)?;
            }
            return Ok(found);
        }
        let slice = self.slice(place, 4).ok_or(bad)?;
        let word = slice.get_atomic_ref::<AtomicU32>(0).map_err(|_| bad)?;
        let order = Ordering::SeqCst;
        Ok(word
            .compare_exchange(old, new, order, order)
            .unwrap_or_else(|found| found))
    }

    /// Reads a string that ends with NUL, of at most `limit` bytes; `None` when it is longer.
    pub fn read_string(
        &mut self,
        address: u64,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, BadAddress> {
        let mut text = Vec::new();
        let mut at = address;
        let mut page = [0; PAGE_SIZE as usize];
        while text.len() <= limit {
            let to_page_end = PAGE_SIZE - at % PAGE_SIZE;
            let part = &mut page[..to_page_end as usize];
            self.read(at, part)?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&part[..end]);
                return Ok((text.len() <= limit).then_some(text));
            }
            text.extend_from_slice(part);
            at += to_page_end;
        }
        Ok(None)
    }

    /// Reads a monitor page (the first of RAM), which no guest address reaches.
    pub fn read_monitor(&self, physical: u64, into: &mut [u8]) -> Result<(), BadAddress> {
        let length = into.len() as u64;
        let inside = physical
            .checked_add(length)
            .is_some_and(|end| end <= WINDOW_SIZE);
        let slice = self.slice(Place::Ram(physical), length).filter(|_| inside);
        slice.ok_or(BadAddress::at(physical))?.copy_to(into);
        Ok(())
    }

    /// Has `act` do something to each piece of `length` bytes at `address`: where the piece begins there, and
    /// whether it is a file's own, which may be gone. False ends it.
    fn each_slice(
        &mut self,
        address: u64,
        length: usize,
        access: Access,
        mut act: impl FnMut(VolatileSlice<'_>, usize, bool) -> bool,
    ) -> Result<(), BadAddress> {
        let end = address
            .checked_add(length as u64)
            .ok_or(BadAddress::at(address))?;
        let mut at = address;
        while at < end {
            let (place, next) = self.locate(at, end, access)?;
            let slice = self.slice(place, next - at).ok_or(BadAddress::at(at))?;
            let shown = matches!(place, Place::Ram(physical) if self.is_shown(physical));
            if !act(slice, (at - address) as usize, shown) {
                return Err(BadAddress::at(at));
            }
            at = next;
        }
        Ok(())
    }

    /// Where `at` lies, and the end of what follows it there, at most `end`.
    fn locate(&mut self, at: u64, end: u64, access: Access) -> Result<(Place, u64), BadAddress> {
        let bad = BadAddress::at(at);
        let (start, area) = self.space.find(at).ok_or(bad)?;
        if !access.allowed_by(area.protection) {
            return Err(bad);
        }
        let end = area.end.min(end);
        if let space::Backing::Shared { physical } = area.backing {
            let place = Place::Shared(physical - SHARED_BASE + (at - start));
            return Ok((place, end));
        }
        let found = match self.frame_of(at) {
            Some(found) => Some(found),
            None => match self.open(at, end) {
                Ok(true) => self.frame_of(at),
                Err(GrowError::Refused(_)) => return Err(BadAddress { limit: true, ..bad }),
                Ok(false) | Err(_) => None,
            },
        };
        let (physical, bytes) = found.ok_or(bad)?;
        Ok((Place::Ram(physical), end.min(at + bytes)))
    }

    /// Guest physical address of `address`, if its page has a frame, and bytes that follow there.
    pub(super) fn frame_of(&self, address: u64) -> Option<(u64, u64)> {
        let window = address & !(WINDOW_SIZE - 1);
        let page = ((address - window) / PAGE_SIZE) as u16;
        let (physical, pages) = self.windows.get(&window)?.runs.physical(page)?;
        let skip = address % PAGE_SIZE;
        Some((physical + skip, u64::from(pages) * PAGE_SIZE - skip))
    }

    pub(super) fn slice(&self, place: Place, length: u64) -> Option<VolatileSlice<'_>> {
        let (region, offset) = match place {
            Place::Ram(offset) => (&self.ram, offset),
            Place::Shared(offset) => (self.shared.as_ref()?, offset),
        };
        if matches!(place, Place::Ram(_)) && offset + length > self.committed {
            return None;
        }
        region.get_slice(offset as usize, length as usize).ok()
    }
}
