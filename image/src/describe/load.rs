//! Which pages a program's memory has at its start, and where their bytes come from.
//!
//! This follows Linux (`elf_load` in `fs/binfmt_elf.c`), because a page that equals a page of the
//! file is stored once for both:
//!
//! - a segment's bytes are mapped by whole file pages, so what surrounds them in its first and
//!   last page is what surrounds them in the file;
//! - past the bytes of a *writable* segment that has more memory than bytes, the rest of the last
//!   file page is cleared, and pages of zeros follow. Linux makes those writable whatever the
//!   segment asks for;
//! - where two segments share a page, the later one's page is what memory has.
//!
//! Linux refuses a segment whose offset and address differ modulo the page size. Such a file is
//! loaded *by copying*, byte for byte: pages are built from the segments' own bytes over zeros,
//! and a page that two segments share has the bytes and the access of both.

use std::borrow::Cow;

use pool_core::address::Protection;
use pool_core::page::{PAGE_SIZE, is_zero, round_down};

use super::content::Piece;
use crate::elf::{Executable, Segment};

/// Where a run's bytes come from.
#[derive(Clone, Debug)]
pub(super) enum Backing<'a> {
    /// Whole pages of the file, from this offset, a multiple of the page size.
    File(u64, &'a [u8]),
    /// Pages that the file does not hold in this form.
    Built(Vec<u8>),
    /// This many zeros.
    Zeros(u64),
}

/// Consecutive pages of memory with one access and one backing.
#[derive(Clone, Debug)]
pub(super) struct Run<'a> {
    pub(super) address: u64,
    pub(super) protection: Protection,
    pub(super) backing: Backing<'a>,
}

impl<'a> Run<'a> {
    pub(super) fn length(&self) -> u64 {
        match &self.backing {
            Backing::File(_, bytes) => bytes.len() as u64,
            Backing::Built(bytes) => bytes.len() as u64,
            Backing::Zeros(length) => *length,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.address + self.length()
    }

    pub(super) fn is_zero_filled(&self) -> bool {
        matches!(self.backing, Backing::Zeros(_))
    }

    /// The run's bytes.
    pub(super) fn into_piece(self) -> Piece<'a> {
        match self.backing {
            Backing::File(_, bytes) => Piece::Bytes(Cow::Borrowed(bytes)),
            Backing::Built(bytes) => Piece::Bytes(Cow::Owned(bytes)),
            Backing::Zeros(length) => Piece::Zeros(length),
        }
    }

    /// Cuts the run at a page border inside it and gives what lies behind.
    pub(super) fn split_off(&mut self, address: u64) -> Self {
        let at = address - self.address;
        let backing = match &mut self.backing {
            Backing::File(offset, bytes) => {
                let (head, tail) = bytes.split_at(at as usize);
                *bytes = head;
                Backing::File(*offset + at, tail)
            }
            Backing::Built(bytes) => Backing::Built(bytes.split_off(at as usize)),
            Backing::Zeros(length) => {
                let tail = *length - at;
                *length = at;
                Backing::Zeros(tail)
            }
        };
        Self {
            address,
            protection: self.protection,
            backing,
        }
    }
}

/// The runs of a program's memory at its start, sorted, without overlap.
pub(super) fn load<'a>(executable: &Executable<'a>) -> Vec<Run<'a>> {
    let has_bytes = |segment: &&Segment| segment.file_size > 0;
    let by_pages = executable
        .segments
        .iter()
        .filter(has_bytes)
        .all(Segment::is_page_congruent);
    let mut memory = Memory::default();
    for segment in &executable.segments {
        if segment.file_size == 0 {
            memory.keep_shared_page(segment);
        } else if by_pages {
            memory.map_file(executable.file, segment);
        } else {
            memory.copy_file(executable.file, segment);
        }
        memory.map_zeros(segment);
    }
    memory.runs
}

/// The runs placed so far. Segments come in address order and claim no byte twice, so a new one
/// meets at most the last page of what is there.
#[derive(Default)]
struct Memory<'a> {
    runs: Vec<Run<'a>>,
}

impl<'a> Memory<'a> {
    /// Places a run over what is there.
    fn place(&mut self, run: Run<'a>) {
        if run.length() == 0 {
            return;
        }
        self.clear_from(run.address);
        self.runs.push(run);
    }

    fn clear_from(&mut self, address: u64) {
        while let Some(last) = self.runs.last_mut() {
            if last.end() <= address {
                break;
            }
            if last.address < address {
                last.split_off(address);
            } else {
                self.runs.pop();
            }
        }
    }

    /// Takes away the page at `address`, the last one, if it is there.
    fn take_page(&mut self, address: u64) -> Option<Run<'a>> {
        let last = self.runs.last_mut().filter(|last| last.end() > address)?;
        if last.address < address {
            Some(last.split_off(address))
        } else {
            self.runs.pop()
        }
    }

    fn map_file(&mut self, file: &'a [u8], segment: &Segment) {
        let address = round_down(segment.address, PAGE_SIZE);
        let offset = round_down(segment.offset, PAGE_SIZE);
        let length = page_ceiling(segment.file_end()) - address;
        let available = &file[offset as usize..file.len().min((offset + length) as usize)];
        let run = |at: u64, backing| Run {
            address: address + at,
            protection: segment.protection,
            backing,
        };
        let last = length - PAGE_SIZE;
        let (whole, last_page) = available.split_at(last as usize);
        let kept = if segment.protection.write && segment.memory_size > segment.file_size {
            (segment.file_end() - address - last) as usize
        } else {
            last_page.len()
        };
        // A tail that is zeros already leaves the page what it is in the file.
        if last_page.len() == PAGE_SIZE as usize && is_zero(&last_page[kept..]) {
            self.place(run(0, Backing::File(offset, available)));
        } else {
            let mut page = last_page[..kept].to_vec();
            page.resize(PAGE_SIZE as usize, 0);
            self.place(run(0, Backing::File(offset, whole)));
            self.place(run(last, Backing::Built(page)));
        }
    }

    fn copy_file(&mut self, file: &'a [u8], segment: &Segment) {
        let mut address = round_down(segment.address, PAGE_SIZE);
        let skip = (segment.address - address) as usize;
        let mut bytes = vec![0; (page_ceiling(segment.file_end()) - address) as usize];
        let own = &file[segment.offset as usize..][..segment.file_size as usize];
        bytes[skip..skip + own.len()].copy_from_slice(own);
        if let Some(shared) = self.take_page(address) {
            let rest = bytes.split_off(PAGE_SIZE as usize);
            let below = shared.page();
            bytes[..skip].copy_from_slice(&below[..skip]);
            self.place(Run {
                address,
                protection: union(shared.protection, segment.protection),
                backing: Backing::Built(bytes),
            });
            address += PAGE_SIZE;
            bytes = rest;
        }
        self.place(Run {
            address,
            protection: segment.protection,
            backing: Backing::Built(bytes),
        });
    }

    /// A segment of zeros alone that begins within the last page there: that page keeps what lies
    /// before the segment.
    fn keep_shared_page(&mut self, segment: &Segment) {
        let address = round_down(segment.address, PAGE_SIZE);
        let skip = (segment.address - address) as usize;
        if let Some(shared) = self.take_page(address) {
            let mut page = shared.page();
            page[skip..].fill(0);
            self.place(Run {
                address,
                protection: union(shared.protection, zeros_protection(segment)),
                backing: if is_zero(&page) {
                    Backing::Zeros(PAGE_SIZE)
                } else {
                    Backing::Built(page)
                },
            });
        }
    }

    /// The whole pages of zeros behind a segment's bytes, or from its first page not yet placed.
    fn map_zeros(&mut self, segment: &Segment) {
        let end = page_ceiling(segment.end());
        let placed = self.runs.last().map_or(0, Run::end);
        let start = round_down(segment.address, PAGE_SIZE).max(placed);
        if start < end {
            self.place(Run {
                address: start,
                protection: zeros_protection(segment),
                backing: Backing::Zeros(end - start),
            });
        }
    }
}

impl Run<'_> {
    /// The bytes of a run of one page.
    fn page(&self) -> Vec<u8> {
        match &self.backing {
            Backing::File(_, bytes) => bytes.to_vec(),
            Backing::Built(bytes) => bytes.clone(),
            Backing::Zeros(length) => vec![0; *length as usize],
        }
    }
}

fn zeros_protection(segment: &Segment) -> Protection {
    Protection {
        execute: segment.protection.execute,
        ..Protection::READ_WRITE
    }
}

fn union(a: Protection, b: Protection) -> Protection {
    Protection {
        read: a.read || b.read,
        write: a.write || b.write,
        execute: a.execute || b.execute,
    }
}

/// The page border at or above an address that was checked to be a user address.
fn page_ceiling(address: u64) -> u64 {
    address.next_multiple_of(PAGE_SIZE)
}
