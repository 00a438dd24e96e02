//! What the guest's calls do to its memory: areas change first, then frames and entries follow.

use std::os::fd::BorrowedFd;

use pool_core::address::Protection;
use pool_core::{PAGE_SIZE, WINDOW_SIZE};

use super::files::{FileId, Kind};
use super::runs::Run;
use super::shown::Piece;
use super::space::{Area, Backing, ProtectError, Refused};
use super::{Access, GrowError, GuestMemory, Unpopulated};
use crate::memory::space::AddressSpace;

/// The first pages of a new mapping are given at once: a program that maps memory to write is about to use
/// it, most often from its beginning.
const FIRST: u64 = super::batch::ALONE as u64 * PAGE_SIZE;
/// Bytes of a stack that are there whatever its limit, as Linux maps them at the start (`setup_arg_pages`).
pub(crate) const STACK_AT_LEAST: u64 = 132 << 10;

impl GuestMemory {
    /// Maps `length` bytes of zeros at `start`, in place of what was there.
    pub fn map_zero(
        &mut self,
        start: u64,
        length: u64,
        protection: Protection,
    ) -> Result<(), GrowError> {
        self.map_anonymous(start, Area::anonymous(start + length, protection))
    }

    /// Maps `area`, which is anonymous, at `start`, in place of what was there.
    pub fn map_anonymous(&mut self, start: u64, area: Area) -> Result<(), GrowError> {
        let (end, protection) = (area.end, area.protection);
        self.change(start, end, |space| space.map(start, area))?;
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
        let kept = self.files.keep(file, offset, length, Kind::Copies);
        let file = kept.map_err(GrowError::File)?;
        let area = Area {
            end: start + length,
            protection,
            backing: Backing::File { file, offset },
        };
        self.map_kept(start, area, file)
    }

    /// Maps `area` at `start`, which is the first to show `file`.
    pub(super) fn map_kept(
        &mut self,
        start: u64,
        area: Area,
        file: FileId,
    ) -> Result<(), GrowError> {
        let done = self.change(start, area.end, |space| space.map(start, area));
        if !self.space.shows(file) {
            self.files.release(file);
        }
        done
    }

    /// Removes what is mapped in `start..end`.
    pub fn unmap(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        self.change(start, end, |space| space.unmap(start, end))
    }

    /// Replaces what is mapped in `start..end` as `act` says, if it is not refused. Private
    /// memory there is untouched afterwards.
    pub(super) fn change(
        &mut self,
        start: u64,
        end: u64,
        act: impl FnOnce(&mut AddressSpace) -> Result<(), Refused>,
    ) -> Result<(), GrowError> {
        act(&mut self.space)?;
        for file in self.space.take_hidden() {
            self.files.release(file);
        }
        self.close(start, end)
    }

    /// Changes the protection of `start..end`, as far as it can; the outer error is the host's.
    pub fn protect(
        &mut self,
        start: u64,
        end: u64,
        protection: Protection,
    ) -> Result<Result<(), ProtectError>, GrowError> {
        let (changed, done) = self.space.protect(start, end, protection);
        self.update(start, changed, false)?;
        Ok(done)
    }

    /// Gives the private changes in `start..end` up: private memory reads as zeros, a file's pages as the
    /// file.
    pub fn discard(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        self.clear(start, end, |backing| backing == Backing::Private)?;
        let files: Vec<(u64, u64)> = self
            .space
            .over(start, end)
            .filter(|(_, area)| {
                matches!(area.backing, Backing::File { .. } | Backing::Shown { .. })
            })
            .map(|(at, area)| (at.max(start), area.end.min(end)))
            .collect();
        files
            .iter()
            .try_for_each(|&(from, to)| self.close(from, to))
    }

    /// Has memory that is shared by name in `start..end` read as zeros.
    pub fn remove(&mut self, start: u64, end: u64) -> Result<(), GrowError> {
        self.clear(start, end, |backing| backing == Backing::Kept)
    }

    /// Has memory with such a backing in `start..end` read as zeros. The frames stay: what is not touched
    /// again is taken back when it is needed.
    fn clear(&self, start: u64, end: u64, such: impl Fn(Backing) -> bool) -> Result<(), GrowError> {
        let areas = self.space.over(start, end);
        for (at, area) in areas.filter(|(_, area)| such(area.backing)) {
            let (from, to) = (at.max(start), area.end.min(end));
            self.each_run(from, to, |memory, run| {
                memory.reservation.discard(run.physical(), run.bytes())
            })?;
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
        self.reach(at, area, new_end)?;
        self.change(end, new_end, |space| {
            space.extend(end, new_end);
            Ok(())
        })
    }

    /// Has the file of the area at `at`, if it shows one, be there as far as address `end` would show it.
    fn reach(&mut self, at: u64, area: Area, end: u64) -> Result<(), GrowError> {
        let (Backing::File { file, offset } | Backing::Shown { file, offset, .. }) = area.backing
        else {
            return Ok(());
        };
        let reached = self.files.reach(file, offset.saturating_add(end - at));
        reached.map_err(GrowError::File)
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
        self.reach(at, area, old.saturating_add(new_length))?;
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

    /// Has the stack be `most` bytes at most, or what Linux maps at the start, and all that if it was less; what lies
    /// below and was touched is kept, with what lies above it.
    pub fn bound_stack(&mut self, most: u64) -> Result<(), GrowError> {
        let rooms = self.space.rooms();
        let (lowest, high) = (rooms.stack_low.0, rooms.stack_high.0);
        // What ends where the stack does: there may be something else below it.
        let (mut bottom, mut end) = (None, lowest);
        let mut protection = Protection::READ_WRITE;
        for (at, area) in self.space.over(lowest, high) {
            if at > end || bottom.is_none() {
                bottom = Some(at);
            }
            (end, protection) = (area.end, area.protection);
        }
        let Some(low) = bottom.filter(|_| end == high) else {
            return Ok(());
        };
        let most = (most.max(STACK_AT_LEAST) & !(PAGE_SIZE - 1)).min(high - lowest);
        let wanted = (high - most).min(self.touched_from(low, high));
        if wanted >= low {
            return self.unmap(low, wanted);
        }
        let more = Area::anonymous(low, protection);
        if self.space.is_free(wanted, low) {
            self.change(wanted, low, |space| space.map(wanted, more))?;
        }
        Ok(())
    }

    /// The first page of `start..end` that was touched; `end` if none was.
    fn touched_from(&self, start: u64, end: u64) -> u64 {
        let first = start & !(WINDOW_SIZE - 1);
        for (&window, state) in self.windows.range(first..end) {
            let (from, to) = super::windows::pages_of(window, start, end);
            for run in state.runs.within(from, to) {
                let there = self.reservation.resident(run.physical(), run.bytes());
                if let Some(nth) = there.iter().position(|&there| there) {
                    return window + (u64::from(run.page) + nth as u64) * PAGE_SIZE;
                }
            }
        }
        end
    }

    /// Takes the pages of `start..end` before they are touched, for `access` or for whatever the guest may
    /// do there, until one cannot be had so.
    pub fn populate(
        &mut self,
        start: u64,
        end: u64,
        access: Option<Access>,
    ) -> Result<Result<(), Unpopulated>, GrowError> {
        let mut at = start;
        while at < end {
            let Some((start_of, area)) = self.space.find(at) else {
                return Ok(Err(Unpopulated::Hole));
            };
            let may = |access: Access| access.allowed_by(area.protection);
            if !access.map_or_else(|| area.accessible(), may) {
                return Ok(Err(Unpopulated::Forbidden));
            }
            let until = end.min(area.end);
            if matches!(area.backing, Backing::Shared { .. }) {
                at = until;
            } else if let Some((physical, bytes)) = self.frame_of(at) {
                let bytes = bytes.min(until - at);
                let is_there = match (Piece::of(start_of, &area), access) {
                    (None, _) => {
                        self.reservation.populate(physical, bytes);
                        true
                    }
                    (Some(_), Some(Access::Write)) => self.reservation.can_write(physical, bytes),
                    (Some(_), _) => self.reservation.can_read(physical, bytes),
                };
                if !is_there {
                    return Ok(Err(Unpopulated::PastFile));
                }
                at += bytes;
            } else if !self.open(at, until)? {
                return Ok(Err(Unpopulated::PastFile));
            }
        }
        Ok(Ok(()))
    }

    /// True when the page at `address` has been touched, as far as is known.
    pub fn is_there(&self, address: u64) -> bool {
        let there = |(at, area): (u64, Area)| match Piece::of(at, &area) {
            None => matches!(area.backing, Backing::Shared { .. }),
            Some(piece) => self.files.present(piece.file, piece.offset_of(address), 1) == [true],
        };
        self.space.find(address).is_some_and(there)
            || self.frame_of(address).is_some_and(|(physical, _)| {
                self.reservation.resident(physical, PAGE_SIZE) == [true]
            })
    }

    /// Records the end of the heap.
    pub fn set_heap_end(&mut self, end: u64) {
        self.space.set_heap_end(end);
    }
}
