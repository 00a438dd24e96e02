//! What the guest's calls do to its memory: areas change first, then frames and entries follow.

use std::os::fd::BorrowedFd;

use pool_core::address::Protection;
use pool_core::{PAGE_SIZE, WINDOW_SIZE};

use super::runs::Run;
use super::space::{Area, Backing, ProtectError, Refused};
use super::{GrowError, GuestMemory};
use crate::memory::space::AddressSpace;

/// The first pages of a new mapping are given at once: a program that maps memory to write is about to use
/// it, most often from its beginning.
const FIRST: u64 = super::batch::ALONE as u64 * PAGE_SIZE;

impl GuestMemory {
    /// Maps `length` bytes of zeros at `start`, in place of what was there.
    pub fn map_zero(
        &mut self,
        start: u64,
        length: u64,
        protection: Protection,
    ) -> Result<(), GrowError> {
        let end = start + length;
        self.change(start, end, |space| {
            space.map(start, Area::anonymous(end, protection))
        })?;
        if protection.write {
            self.open_early(start, end.min(start + FIRST))?;
        }
        Ok(())
    }

    /// Maps `length` bytes of `file` from `offset` at `start`, in place of what was there: a page has what
    /// the file has when it is first touched.
    pub fn map_file(
        &mut self,
        start: u64,
        length: u64,
        protection: Protection,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<(), GrowError> {
        let file = self.files.keep(file).map_err(|_| Refused::Files)?;
        let area = Area {
            end: start + length,
            protection,
            backing: Backing::File { file, offset },
        };
        self.change(start, area.end, |space| space.map(start, area))
    }

    /// Removes what is mapped in `start..end`.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        self.change(start, end, |space| space.unmap(start, end))
    }

    /// Replaces what is mapped in `start..end` as `act` says, if it is not refused. Private
    /// memory there is untouched afterwards.
    fn change(
        &mut self,
        start: u64,
        end: u64,
        act: impl FnOnce(&mut AddressSpace) -> Result<(), Refused>,
    ) -> Result<(), GrowError> {
        let done = act(&mut self.space);
        let space = &self.space;
        self.files.retain(|file| space.shows(file));
        done?;
        self.close(start, end)
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
            self.update(start, end, false)?;
        }
        Ok(done)
    }

    /// Gives the private changes in `start..end` up: anonymous memory reads as zeros, others as their
    /// files.
    pub fn discard(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        let areas: Vec<(u64, Area)> = self.space.over(start, end).collect();
        for (at, area) in areas {
            let (from, to) = (at.max(start), area.end.min(end));
            match area.backing {
                // The frames stay: what is not touched again is taken back when it is needed.
                Backing::Private => self.each_run(from, to, |memory, run| {
                    memory.reservation.discard(run.physical(), run.bytes())
                })?,
                Backing::File { .. } => self.close(from, to)?,
                Backing::Shared { .. } => {}
            }
        }
        Ok(())
    }

    fn each_run(
        &self,
        start: u64,
        end: u64,
        act: impl Fn(&Self, Run) -> std::io::Result<()>,
    ) -> Result<(), GrowError> {
        let first = start & !(WINDOW_SIZE - 1);
        for (&window, state) in self.windows.range(first..end.max(first)) {
            let (from, to) = super::windows::pages_of(window, start, end);
            for run in state.runs.within(from, to) {
                act(self, run)?;
            }
        }
        Ok(())
    }

    /// Makes the area that ends at `end` with the page before it reach to `new_end`; what lies
    /// between is free. `start` is an address in it.
    pub fn extend(&mut self, start: u64, end: u64, new_end: u64) -> Result<(), GrowError> {
        let Some((at, area)) = self.space.find(start) else {
            return Ok(());
        };
        let more = Area {
            end: new_end,
            ..area.without_first(end - at)
        };
        self.change(end, new_end, |space| space.map(end, more))
    }

    /// Moves the private area `old..old_end` to `target`, where it gets `new_length` bytes; more than
    /// it had are untouched. What was at `target` goes. The two may not overlap.
    pub fn relocate(
        &mut self,
        old: u64,
        old_end: u64,
        target: u64,
        new_length: u64,
    ) -> Result<(), GrowError> {
        let Some((at, area)) = self.space.find(old) else {
            return Ok(());
        };
        let end = target + new_length;
        let moved = Area {
            end,
            ..area.without_first(old - at)
        };
        self.change(target, end, |space| space.map(target, moved))?;
        if let Err(refused) = self.space.unmap(old, old_end) {
            self.unmap(target, end)?;
            return Err(refused.into());
        }
        let kept = old + (old_end - old).min(new_length);
        let frames = self.detach(old, kept)?;
        self.close(old, old_end)?;
        let stale: Vec<(u64, u64)> = frames
            .iter()
            .flat_map(|(_, runs)| runs.iter().map(|run| (run.physical(), run.bytes())))
            .collect();
        self.revoke(&stale, false);
        for (window, runs) in frames {
            for run in runs {
                let from = window + u64::from(run.page) * PAGE_SIZE;
                self.attach(target + (from - old), run)?;
            }
        }
        Ok(())
    }

    /// Puts frames at `address`, where there are none.
    fn attach(&mut self, address: u64, run: Run) -> Result<(), GrowError> {
        let mut at = address;
        let end = address + run.bytes();
        while at < end {
            let window = at & !(WINDOW_SIZE - 1);
            let next = end.min(window + WINDOW_SIZE);
            let page = ((at - window) / PAGE_SIZE) as u16;
            let part = Run::at(
                page,
                (next - at) / PAGE_SIZE,
                run.physical() + (at - address),
            );
            self.insert(window, &[part]);
            if self.windows.get(&window).is_some_and(|state| state.mapped) {
                self.update(at, next, false)?;
            } else {
                self.map_window(window)?;
            }
            at = next;
        }
        Ok(())
    }

    /// Touches what of `start..end` may be accessed, until something cannot be had.
    pub fn populate(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        let areas: Vec<(u64, Area)> = self.space.over(start, end).collect();
        for (from, area) in areas {
            let mut at = from.max(start);
            let until = end.min(area.end);
            while at < until && area.accessible() {
                let next = until.min((at & !(WINDOW_SIZE - 1)) + WINDOW_SIZE);
                if let Some((physical, bytes)) = self.frame_of(at) {
                    let bytes = bytes.min(next - at);
                    self.reservation.populate(physical, bytes);
                    at += bytes;
                } else if matches!(area.backing, Backing::Shared { .. }) || !self.open(at, next)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// True when the page at `address` has been touched, as far as is known.
    pub fn is_there(&self, address: u64) -> bool {
        let shared = |(_, area): (u64, Area)| matches!(area.backing, Backing::Shared { .. });
        self.space.find(address).is_some_and(shared)
            || self.frame_of(address).is_some_and(|(physical, _)| {
                self.reservation.resident(physical, PAGE_SIZE) == [true]
            })
    }

    /// Records the end of the heap.
    pub fn set_heap_end(&mut self, end: u64) {
        self.space.set_heap_end(end);
    }
}
