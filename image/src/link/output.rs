//! The executable file.
//!
//! Every run of pages in memory is a run of pages in the file at an offset that is a multiple of
//! the page size, so that a page of the file is a page of memory. The headers lie at the start of
//! the application's constants: start-up code finds the thread-local template through them.

mod headers;
mod loaded;
mod unloaded;

use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_GNU_STACK, PT_LOAD};
use pool_core::page::PAGE_SIZE;
use pool_core::registry::Reservation;

use super::args::{LinkRequest, Strip};
use super::error::LinkError;
use super::image::{ELF_HEADER_SIZE, Image, Span};
use super::relocate::Contents;
use super::sections::OutputSection;
use super::symtab;
use crate::layout::LinkLayout;

/// A program header.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    stored: u64,
    size: u64,
    alignment: u64,
}

/// Where a run of pages begins, in memory and in the file.
#[derive(Clone, Copy, Debug)]
struct PageRun {
    address: u64,
    offset: u64,
}

impl PageRun {
    /// Place in the file of an address of the run.
    fn offset_of(self, address: u64) -> u64 {
        self.offset + (address - self.address)
    }
}

/// What the file has beside the image's bytes.
pub(super) struct Parts<'p> {
    /// Of the units.
    pub(super) names: &'p [String],
    /// Address of the first instruction.
    pub(super) entry: u64,
    pub(super) layout: &'p LinkLayout,
    /// By library.
    pub(super) reservations: &'p [Option<Reservation>],
}

/// Writes the executable.
pub(super) fn write(
    image: &Image<'_, '_>,
    contents: &Contents,
    request: &LinkRequest,
    parts: &Parts<'_>,
) -> Result<Vec<u8>, LinkError> {
    let mut file = Writer {
        bytes: vec![0; ELF_HEADER_SIZE as usize],
        segments: Vec::new(),
        sections: vec![OutputSection::default()],
        alignment: request.max_page_size,
        protects: request.protects,
    };
    file.application(image, contents);
    // Libraries lie where they are registered.
    file.alignment = PAGE_SIZE;
    for unit in image.included().filter(|unit| *unit != 0) {
        file.library(image, contents, unit, &parts.names[unit]);
    }
    file.describe_thread_template(image);
    file.segments.push(Segment {
        kind: PT_GNU_STACK,
        flags: PF_R | PF_W | if image.executable_stack { PF_X } else { 0 },
        offset: 0,
        address: 0,
        stored: 0,
        size: request.stack_size,
        alignment: 16,
    });
    file.segments.sort_by_key(|s| match s.kind {
        PT_LOAD => (0, s.address),
        kind => (1, u64::from(kind)),
    });
    file.loose(image, contents, request.compress);
    file.about_addresses(image, contents, parts)?;
    if request.strip != Strip::Everything {
        let table = symtab::build(image, &file.sections, request.discard);
        file.symbol_table(&table);
    }
    Ok(file.finish(image, request, parts.entry))
}

struct Writer {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    sections: Vec<OutputSection>,
    /// Of runs of pages: what their address and their offset are the same in.
    alignment: u64,
    protects: bool,
}

impl Writer {
    fn align(&mut self, alignment: u64) -> u64 {
        let offset = (self.bytes.len() as u64).next_multiple_of(alignment);
        self.bytes.resize(offset as usize, 0);
        offset
    }

    /// Appends pages at `address`, the last one filled up with zeros if `whole`.
    fn pages(&mut self, flags: u32, address: u64, bytes: &[u8], size: u64, whole: bool) -> PageRun {
        let offset = self.align(PAGE_SIZE);
        let offset = offset + (address.wrapping_sub(offset) & (self.alignment - 1));
        self.bytes.resize(offset as usize, 0);
        self.bytes.extend_from_slice(bytes);
        let mut stored = bytes.len() as u64;
        let mut size = size;
        if whole {
            self.align(PAGE_SIZE);
            stored = stored.next_multiple_of(PAGE_SIZE);
            size = stored;
        }
        self.segments.push(Segment {
            kind: PT_LOAD,
            flags,
            offset,
            address,
            stored,
            size,
            alignment: self.alignment,
        });
        PageRun { address, offset }
    }

    /// Describes a part of a run of pages, if there is one.
    fn section(&mut self, name: &str, kind: u32, flags: u32, span: Span, run: PageRun) {
        if span.size == 0 {
            return;
        }
        self.sections.push(OutputSection {
            name: name.to_owned(),
            kind,
            flags: u64::from(flags),
            address: span.start,
            offset: run.offset_of(span.start),
            size: span.size,
            alignment: 1 << span.start.trailing_zeros().min(4),
            ..OutputSection::default()
        });
    }

    /// Points a program header at a part of a run of pages, if there is one.
    fn pointer(&mut self, kind: u32, span: Span, alignment: u64, run: PageRun) {
        if span.size == 0 {
            return;
        }
        self.segments.push(Segment {
            kind,
            flags: PF_R,
            offset: run.offset_of(span.start),
            address: span.start,
            stored: span.size,
            size: span.size,
            alignment,
        });
    }

    fn append(&mut self, name: &str, kind: u32, bytes: &[u8], alignment: u64) {
        let offset = self.align(alignment.max(8));
        self.bytes.extend_from_slice(bytes);
        self.sections.push(OutputSection {
            name: name.to_owned(),
            kind,
            offset,
            size: bytes.len() as u64,
            alignment,
            ..OutputSection::default()
        });
    }
}
