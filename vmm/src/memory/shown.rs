//! Files that a guest maps shared: their own pages, not copies.
//!
//! A page that is touched gets a frame as any other does, and the host's mapping of the file is laid over the
//! frame's place in the reservation. So what `read`, `write`, other mappings and other processes do to the file
//! is seen through the host's page cache, and writes are the file's at once. The frame is charged; as what
//! the page holds is the file's, it can be taken back whenever frames are short.
//!
//! A file may become shorter at any time, and a disk full. Where the machine then meets a page that there is no more,
//! or no room for, KVM comes back with `EFAULT`: all pages of files lose their frames
//! ([`GuestMemory::lose_pages`]), and the guest's next try is an ordinary page fault, which asks the file. This
//! program itself never touches such a page but by a call, which fails instead ([`files::copy`]).

use std::ops::Range;
use std::os::fd::BorrowedFd;

use pool_core::address::Protection;
use pool_core::{PAGE_SIZE, WINDOW_SIZE};

use super::batch::Batch;
use super::files::{self, FileId, FilePlace};
use super::runs::{Run, Runs};
use super::space::{Area, Backing};
use super::windows::pages_of;
use super::{GrowError, GuestMemory};

/// Pages of a batch, if the host has them in memory: four times the kernel's fault-around.
const AROUND: u16 = 64;
/// Mappings laid in before all of them are taken back: each splits one of this process in three.
const MOST_LAID: u32 = 8192;

/// An area of a file's own pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Where the area begins.
    pub(super) start: u64,
    pub(super) file: FileId,
    /// Where its first byte lies in the file.
    pub(super) offset: u64,
}

impl Piece {
    /// The area at `start`, if it is one.
    pub(super) fn of(start: u64, area: &Area) -> Option<Self> {
        match area.backing {
            Backing::Shown { file, offset, .. } => Some(Self {
                start,
                file,
                offset,
            }),
            _ => None,
        }
    }

    /// Where in the file `address` lies.
    pub(super) fn offset_of(&self, address: u64) -> u64 {
        self.offset + (address - self.start)
    }
}

impl GuestMemory {
    /// Maps `length` bytes of `file` itself from `offset` at `start`, in place of what was there. `writable`: it was
    /// opened for that, as it must be if `protection` says so.
    pub fn map_shared(
        &mut self,
        start: u64,
        length: u64,
        protection: Protection,
        file: BorrowedFd<'_>,
        offset: u64,
        mut writable: bool,
    ) -> Result<(), GrowError> {
        let kind = if writable {
            files::Kind::Writable
        } else {
            files::Kind::Shared
        };
        let mut kept = self.files.keep(file, offset, length, kind);
        if kept.is_err() && writable && !protection.write {
            // Sealed, say: it can be read all the same.
            writable = false;
            kept = self.files.keep(file, offset, length, files::Kind::Shared);
        }
        let file = kept.map_err(GrowError::File)?;
        let area = Area {
            end: start + length,
            protection,
            backing: Backing::Shown {
                file,
                offset,
                writable,
            },
        };
        self.map_kept(start, area, file)
    }

    /// Shows the page `page` of the window at `window`, those up to `demanded`, and those around that the host
    /// has in memory. The pages that were given frames, or `None` if the file has no such page.
    pub(super) fn show(
        &mut self,
        window: u64,
        (start, area): (u64, Area),
        page: u16,
        demanded: u16,
    ) -> Result<Option<(u16, u16)>, GrowError> {
        let Some(piece) = Piece::of(start, &area) else {
            return Ok(None);
        };
        if self.laid >= MOST_LAID {
            self.hide_all()?;
        }
        let offset = |page: u16| piece.offset_of(window + u64::from(page) * PAGE_SIZE);
        let room = pages_of(window, start, area.end);
        let (mut from, mut to) = self.around(window, page, room, |from, count| {
            self.files.present(piece.file, offset(from), count.into())
        });
        let none = Runs::default();
        let runs = self.windows.get(&window).map_or(&none, |state| &state.runs);
        to = to.max(demanded.min(runs.gap_end(page, room.1)));
        if self.left() < u64::from(to - from) {
            // Just what is needed.
            (from, to) = (page, page + 1);
        }
        let batch = Batch {
            from,
            to,
            follows: 0,
        };
        let runs = self.take_runs(batch, page)?;
        let laid = runs
            .iter()
            .try_for_each(|&run| self.lay(run, piece.file, offset(run.page)));
        let mut end = from;
        if laid.is_ok() {
            end += self.reservation.readable(&runs);
        }
        // Without the page that was asked for the others are of no use.
        let end = if page < end { end } else { from };
        for run in &runs {
            if let Some(rest) = run.within(end, u16::MAX) {
                self.give_back(rest)?;
            }
        }
        laid?;
        let kept: Vec<Run> = runs.iter().filter_map(|run| run.within(0, end)).collect();
        self.insert(window, &kept);
        Ok((page < end).then_some((from, end)))
    }

    /// `page` and the pages around it that have no frame and that are `present`, first and past the last.
    fn around(
        &self,
        window: u64,
        page: u16,
        room: (u16, u16),
        present: impl Fn(u16, u16) -> Vec<bool>,
    ) -> (u16, u16) {
        let none = Runs::default();
        let runs = self.windows.get(&window).map_or(&none, |state| &state.runs);
        let first = page & !(AROUND - 1);
        let low = first.max(runs.gap_start(page, room.0));
        let high = (first + AROUND).min(runs.gap_end(page, room.1));
        let there = present(low, high - low);
        let nth = usize::from(page - low);
        let before = there[..nth].iter().rev().take_while(|there| **there);
        let after = there[nth + 1..].iter().take_while(|there| **there);
        let (before, after) = (before.count() as u16, after.count() as u16);
        (page - before, page + 1 + after)
    }

    /// Has the frames of `run` be the file's pages from `offset` on.
    fn lay(&mut self, run: Run, file: FileId, offset: u64) -> Result<(), GrowError> {
        let view = self.files.at(file, offset);
        let view = view.filter(|&(_, room)| run.bytes() <= room);
        let (from, _) = view.ok_or_else(|| {
            let error = std::io::ErrorKind::InvalidInput;
            GrowError::Host(error.into())
        })?;
        self.reservation.lay(run.physical(), run.bytes(), from)?;
        self.shown
            .extend(run.frame..run.frame + u32::from(run.count));
        self.laid += 1;
        Ok(())
    }

    /// The frames of `run` are not a file's pages any more; true if one was.
    pub(super) fn unlay(&mut self, run: Run) -> bool {
        let before = self.shown.len();
        if before > 0 {
            for frame in run.frame..run.frame + u32::from(run.count) {
                self.shown.remove(&frame);
            }
        }
        self.shown.len() < before
    }

    /// True if the frame at `physical` is a file's own page.
    pub(super) fn is_shown(&self, physical: u64) -> bool {
        !self.shown.is_empty() && self.shown.contains(&((physical / PAGE_SIZE) as u32))
    }

    /// Takes all frames of files' own pages back but those that a call is about to use.
    fn hide_all(&mut self) -> Result<(), GrowError> {
        let mut all = Vec::new();
        for (&window, state) in &self.windows {
            for (at, area) in self.space.over(window, window + WINDOW_SIZE) {
                if Piece::of(at, &area).is_some() {
                    let (from, to) = pages_of(window, at, area.end);
                    all.extend(state.runs.within(from, to).map(|run| (window, run)));
                }
            }
        }
        for (window, run) in all {
            let (first, end) = (run.physical(), run.physical() + run.bytes());
            let is_held = |held: &Range<u64>| held.start < end && first < held.end;
            if !self.held.iter().any(is_held) {
                let from = window + u64::from(run.page) * PAGE_SIZE;
                self.close(from, from + run.bytes())?;
            }
        }
        self.laid = 0;
        Ok(())
    }

    /// The machine could not reach a page: takes the frames of files' own pages back, so that the next use of each
    /// is a page fault, which asks the file. False if there are none, so that it was another page.
    pub fn lose_pages(&mut self) -> Result<bool, GrowError> {
        // No call is being served.
        self.held.clear();
        let any = !self.shown.is_empty();
        self.hide_all()?;
        Ok(any)
    }

    /// True if the page at `address` is a file's own that cannot be written: there is no room for it.
    pub(super) fn is_unwritable(&self, address: u64) -> bool {
        let page = address & !(PAGE_SIZE - 1);
        self.frame_of(page).is_some_and(|(physical, _)| {
            self.is_shown(physical) && !self.reservation.can_write(physical, PAGE_SIZE)
        })
    }

    /// Where `address` lies in a file, if it shows a file's own page.
    pub fn file_place(&self, address: u64) -> Option<FilePlace> {
        let (start, area) = self.space.find(address)?;
        let piece = Piece::of(start, &area)?;
        self.files.place(piece.file, piece.offset_of(address))
    }

    /// Has what was written to files' own pages in `start..end` be where they are kept.
    pub fn sync(&mut self, start: u64, end: u64) -> std::io::Result<()> {
        self.each_piece(start, end, |files, piece, from, length| {
            files.sync(piece.file, piece.offset_of(from), length)
        })
    }

    /// Makes holes in the files that `start..end` shows.
    pub fn make_holes(&mut self, start: u64, end: u64) -> std::io::Result<()> {
        self.each_piece(start, end, |files, piece, from, length| {
            files.remove(piece.file, piece.offset_of(from), length)
        })
    }

    fn each_piece(
        &self,
        start: u64,
        end: u64,
        act: impl Fn(&files::Files, Piece, u64, u64) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        for (at, area) in self.space.over(start, end) {
            if let Some(piece) = Piece::of(at, &area) {
                let from = at.max(start);
                act(&self.files, piece, from, area.end.min(end) - from)?;
            }
        }
        Ok(())
    }
}
