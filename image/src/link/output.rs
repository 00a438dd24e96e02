//! The executable file.
//!
//! Every run of pages in memory is a run of pages in the file at an offset that is a multiple of
//! the page size, so that a page of the file is a page of memory. The headers lie at the start of
//! the application's constants: start-up code finds the thread-local template through them.

use goblin::elf::header::EM_X86_64;
use goblin::elf::program_header::{
    PF_R, PF_W, PF_X, PT_GNU_EH_FRAME, PT_GNU_PROPERTY, PT_GNU_RELRO, PT_GNU_STACK, PT_LOAD,
    PT_NOTE, PT_TLS,
};
use goblin::elf::section_header::{
    SHF_ALLOC, SHF_COMPRESSED, SHF_EXECINSTR, SHF_INFO_LINK, SHF_TLS, SHF_WRITE, SHT_FINI_ARRAY,
    SHT_INIT_ARRAY, SHT_NOBITS, SHT_NOTE, SHT_PREINIT_ARRAY, SHT_PROGBITS, SHT_RELA, SHT_STRTAB,
    SHT_SYMTAB,
};
use pool_core::page::PAGE_SIZE;
use pool_core::registry::Reservation;

use super::args::{BuildId, Compression, LinkRequest, Strip};
use super::compressed;
use super::error::LinkError;
use super::image::loose::Loose;
use super::image::orphans::Run;
use super::image::{ELF_HEADER_SIZE, Image, PROGRAM_HEADER_SIZE, Span};
use super::moves;
use super::object::Gathered;
use super::relocate::Contents;
use super::sections::OutputSection;
use super::symtab::{self, SymbolTable};
use crate::layout::{ELSEWHERE_SECTION, LAYOUT_SECTION, LinkLayout, SLIDE_SECTION};

const PROPERTIES: &str = ".note.gnu.property";
/// Bytes of a section header.
const SECTION_HEADER_SIZE: u64 = 64;
/// File offset of `e_entry` in the ELF header.
const ENTRY_AT: u64 = 24;
/// File offset of `e_shoff` in the ELF header.
const SECTION_HEADERS_AT: usize = 40;

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

fn span(start: u64, size: u64) -> Span {
    Span { start, size }
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

    fn application(&mut self, image: &Image<'_, '_>, contents: &Contents) {
        self.constants(image, contents);
        self.code(image, contents);
        self.data(image, contents, 0, "");
    }

    /// The application's constants, behind the headers at the start of the file.
    fn constants(&mut self, image: &Image<'_, '_>, contents: &Contents) {
        let (common, plan, base) = (&image.common, &image.plans[0], &image.bases[0]);
        self.bytes.clear();
        let all = common.constants;
        let run = self.pages(PF_R, all.start, &contents.constants, all.size, false);
        let read = SHF_ALLOC;
        let notes = span(base.constant, plan.notes);
        for (name, notes, alignment) in [
            (".note.gnu.build-id", common.build_id, 4),
            (PROPERTIES, common.properties, 8),
            (".note.app", notes, 4),
        ] {
            self.section(name, SHT_NOTE, read, notes, run);
            if let Some(section) = self.sections.last_mut().filter(|_| notes.size > 0) {
                section.alignment = alignment;
            }
            self.pointer(PT_NOTE, notes, alignment, run);
        }
        self.pointer(PT_GNU_PROPERTY, common.properties, 8, run);
        let frames = plan.frames_at();
        let constants = span(base.constant + plan.notes, frames - plan.notes);
        self.section(".rodata", SHT_PROGBITS, read, constants, run);
        let frames = span(base.constant + frames, plan.constant.size - frames);
        self.section(".eh_frame", SHT_PROGBITS, read, frames, run);
        for (kind, name, section_kind) in [
            (Gathered::PreinitArray, ".preinit_array", SHT_PREINIT_ARRAY),
            (Gathered::InitArray, ".init_array", SHT_INIT_ARRAY),
            (Gathered::FiniArray, ".fini_array", SHT_FINI_ARRAY),
        ] {
            let span = common.arrays.get(&kind).copied().unwrap_or_default();
            self.section(name, section_kind, read, span, run);
        }
        self.orphans(image, Run::Constants, read, run);
        self.section(".rela.plt", SHT_RELA, read, common.resolvers, run);
        if let Some(section) = self.sections.last_mut().filter(|s| s.kind == SHT_RELA) {
            section.entry_size = super::image::RELA_SIZE;
            section.flags |= u64::from(SHF_INFO_LINK);
        }
        let (thread, stored) = (common.thread, common.thread_stored);
        let template = span(thread.start, stored);
        self.section(".tdata", SHT_PROGBITS, read | SHF_TLS, template, run);
        let zeros = span(thread.start + stored, thread.size - stored);
        let flags = read | SHF_WRITE | SHF_TLS;
        self.section(".tbss", SHT_NOBITS, flags, zeros, run);
        let table = common.unwind_table;
        self.section(".eh_frame_hdr", SHT_PROGBITS, read, table, run);
        self.pointer(PT_GNU_EH_FRAME, table, 4, run);
    }

    /// The application's code, and what the image has one of.
    fn code(&mut self, image: &Image<'_, '_>, contents: &Contents) {
        let (common, plan, base) = (&image.common, &image.plans[0], &image.bases[0]);
        let all = common.code;
        let run = self.pages(PF_R | PF_X, all.start, &contents.code, all.size, false);
        let gathered = |kind| common.arrays.get(&kind).copied().unwrap_or_default();
        for (name, part) in [
            (".init", gathered(Gathered::InitCode)),
            (".text", span(base.code, plan.code.size)),
            (".fini", gathered(Gathered::FiniCode)),
            (".text.trap", span(common.trap, all.end() - common.trap)),
        ] {
            self.section(name, SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, part, run);
        }
        self.orphans(image, Run::Code, SHF_ALLOC | SHF_EXECINSTR, run);
    }

    fn library(&mut self, image: &Image<'_, '_>, contents: &Contents, unit: usize, name: &str) {
        let (plan, base) = (&image.plans[unit], &image.bases[unit]);
        let code = SHF_ALLOC | SHF_EXECINSTR;
        let shared = &contents.shared[unit];
        if !shared.is_empty() {
            let size = shared.len() as u64;
            let run = self.pages(PF_R | PF_X, base.code, shared, size, true);
            let frames = plan.frames_at();
            for (section, flags, part) in [
                (".text", code, span(base.code, plan.code.size)),
                (".rodata", SHF_ALLOC, span(base.constant, frames)),
                (
                    ".eh_frame",
                    SHF_ALLOC,
                    span(base.constant + frames, plan.constant.size - frames),
                ),
            ] {
                let section = format!("{section}.{name}");
                self.section(&section, SHT_PROGBITS, flags, part, run);
            }
            let (start, size) = plan.more();
            let more = span(base.code + start, size);
            self.section(&format!(".text.more.{name}"), SHT_PROGBITS, code, more, run);
        }
        let bound = &contents.bound[unit];
        if !bound.is_empty() {
            let size = bound.len() as u64;
            let run = self.pages(PF_R | PF_X, base.bound, bound, size, false);
            let bound = span(base.bound, plan.bound.size);
            self.section(&format!(".bound.{name}"), SHT_PROGBITS, code, bound, run);
        }
        self.data(image, contents, unit, name);
    }

    fn data(&mut self, image: &Image<'_, '_>, contents: &Contents, unit: usize, name: &str) {
        let (plan, start) = (&image.plans[unit], image.bases[unit].data);
        let own: &[u8] = if unit == 0 { &contents.orphans } else { &[] };
        let first = start - own.len() as u64;
        let (size, stored) = (plan.data.size, plan.data_stored);
        if size + own.len() as u64 == 0 {
            return;
        }
        let bytes = [own, contents.data[unit].as_slice()].concat();
        let run = self.pages(PF_R | PF_W, first, &bytes, start + size - first, false);
        let named = |section: &str| {
            if name.is_empty() {
                section.to_owned()
            } else {
                format!("{section}.{name}")
            }
        };
        let flags = SHF_ALLOC | SHF_WRITE;
        if unit == 0 {
            self.orphans(image, Run::Data, flags, run);
        }
        // Up to the end of the page: nothing else is on it.
        let protected = plan.constant_after_start.next_multiple_of(PAGE_SIZE);
        if unit == 0 && self.protects {
            // There may be nothing, as constants are on pages of their own. Who checks for it finds it all the same.
            self.segments.push(Segment {
                kind: PT_GNU_RELRO,
                flags: PF_R,
                offset: run.offset_of(start),
                address: start,
                stored: protected,
                size: protected,
                alignment: 1,
            });
        }
        let table = plan.constant_after_start.min(plan.table_size());
        let rest = plan.constant_after_start - table;
        self.section(".got", SHT_PROGBITS, flags, span(start, table), run);
        let rest = span(start + table, rest);
        self.section(".data.rel.ro", SHT_PROGBITS, flags, rest, run);
        let first = protected.min(size);
        let data = span(start + first, stored.saturating_sub(first));
        self.section(&named(".data"), SHT_PROGBITS, flags, data, run);
        let stored = stored.max(first);
        let zeros = span(start + stored, size - stored);
        self.section(&named(".bss"), SHT_NOBITS, flags, zeros, run);
    }

    /// Describes the orphan sections of a run of pages.
    fn orphans(&mut self, image: &Image<'_, '_>, of: Run, flags: u32, run: PageRun) {
        let all = image.orphans.iter();
        let mut all: Vec<_> = all.filter(|orphan| orphan.run == of).collect();
        all.sort_by_key(|orphan| orphan.span.start);
        for orphan in all {
            self.section(&orphan.name, SHT_PROGBITS, flags, orphan.span, run);
        }
    }

    fn describe_thread_template(&mut self, image: &Image<'_, '_>) {
        let common = &image.common;
        if common.thread.size == 0 {
            return;
        }
        self.segments.push(Segment {
            kind: PT_TLS,
            flags: PF_R,
            // The constants are at the start of the file.
            offset: common.thread.start - common.constants.start,
            address: common.thread.start,
            stored: common.thread_stored,
            size: common.thread.size,
            alignment: common.thread_alignment,
        });
    }

    /// Sections that are not loaded.
    fn loose(&mut self, image: &Image<'_, '_>, contents: &Contents, compress: Option<Compression>) {
        for (name, bytes) in &contents.loose {
            let made_here = Loose::default();
            let loose = image.loose.by_name.get(name).unwrap_or(&made_here);
            let alignment = loose.extent.alignment;
            let compressed = compress
                .filter(|_| name.starts_with(".debug"))
                .and_then(|kind| compressed::of(kind, bytes, alignment));
            match &compressed {
                Some(bytes) => {
                    self.append(name, loose.kind, bytes, compressed::ALIGNMENT_COMPRESSED);
                }
                None => self.append(name, loose.kind, bytes, alignment),
            }
            if let Some(section) = self.sections.last_mut() {
                section.flags = loose.flags;
                section.entry_size = loose.entry_size;
                if compressed.is_some() {
                    section.flags |= u64::from(SHF_COMPRESSED);
                }
            }
        }
    }

    /// The layout, and what belongs to it.
    fn about_addresses(
        &mut self,
        image: &Image<'_, '_>,
        contents: &Contents,
        parts: &Parts<'_>,
    ) -> Result<(), LinkError> {
        let layout = serde_json::to_vec(parts.layout).unwrap_or_default();
        self.append(LAYOUT_SECTION, SHT_PROGBITS, &layout, 1);
        let elsewhere: Vec<&[u8]> = contents
            .own
            .iter()
            .flat_map(|pages| pages.values().map(|page| page.elsewhere.as_slice()))
            .collect();
        if !elsewhere.is_empty() {
            self.append(
                ELSEWHERE_SECTION,
                SHT_PROGBITS,
                &elsewhere.concat(),
                PAGE_SIZE,
            );
        }
        if parts.layout.fixed.is_none() {
            let mut addresses = self.program_header_addresses(image);
            addresses.push((image.common.constants.start + ENTRY_AT, parts.entry));
            let record = moves::record(image, parts.reservations, &contents.moves, &addresses);
            let record = record.map_err(LinkError::Slide)?.to_bytes();
            // On pages of its own, which are those of the object that it becomes.
            self.append(SLIDE_SECTION, SHT_PROGBITS, &record, PAGE_SIZE);
            self.align(PAGE_SIZE);
        }
        Ok(())
    }

    /// Where program headers hold addresses, in memory, each with the address: start-up code finds the template of
    /// thread-local variables and frames for unwinding by them.
    fn program_header_addresses(&self, image: &Image<'_, '_>) -> Vec<(u64, u64)> {
        /// Offsets of a header's two addresses.
        const ADDRESSES: [u64; 2] = [16, 24];
        let first = image.common.constants.start + ELF_HEADER_SIZE;
        let headers = (first..).step_by(PROGRAM_HEADER_SIZE as usize);
        let of_parts = self.segments.iter().zip(headers);
        of_parts
            .filter(|(segment, _)| segment.address != 0)
            .flat_map(|(segment, at)| ADDRESSES.map(|field| (at + field, segment.address)))
            .collect()
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

    fn symbol_table(&mut self, table: &SymbolTable) {
        self.append(".symtab", SHT_SYMTAB, &table.entries, 8);
        let index = self.sections.len();
        if let Some(section) = self.sections.last_mut() {
            section.link = index as u32;
            section.info = table.first_global;
            section.entry_size = symtab::ENTRY_SIZE;
        }
        self.append(".strtab", SHT_STRTAB, &table.names, 1);
    }

    fn finish(mut self, image: &Image<'_, '_>, request: &LinkRequest, entry: u64) -> Vec<u8> {
        let mut names = vec![0];
        let mut offsets = Vec::new();
        let own_name = ".shstrtab";
        for name in self
            .sections
            .iter()
            .map(|s| s.name.as_str())
            .chain([own_name])
        {
            offsets.push(if name.is_empty() {
                0
            } else {
                names.len() as u32
            });
            if !name.is_empty() {
                names.extend_from_slice(name.as_bytes());
                names.push(0);
            }
        }
        self.append(own_name, SHT_STRTAB, &names, 1);
        let headers_at = self.align(8);
        for (section, name) in self.sections.iter().zip(offsets) {
            self.bytes.extend(section_header(section, name));
        }
        let mut at = ELF_HEADER_SIZE as usize;
        for segment in &self.segments {
            self.bytes[at..at + PROGRAM_HEADER_SIZE as usize]
                .copy_from_slice(&program_header(segment));
            at += PROGRAM_HEADER_SIZE as usize;
        }
        let header = elf_header(entry, self.segments.len(), self.sections.len());
        self.bytes[..header.len()].copy_from_slice(&header);
        self.bytes[SECTION_HEADERS_AT..SECTION_HEADERS_AT + 8]
            .copy_from_slice(&headers_at.to_le_bytes());
        write_build_id(image, request, &mut self.bytes);
        self.bytes
    }
}

/// The note's digest covers the whole file, with zeros in its own place.
fn write_build_id(image: &Image<'_, '_>, request: &LinkRequest, file: &mut [u8]) {
    const NT_GNU_BUILD_ID: u32 = 3;
    let id = match &request.build_id {
        BuildId::None => return,
        BuildId::Digest(size) => blake3::hash(file).as_bytes()[..(*size).min(32)].to_vec(),
        BuildId::Given(bytes) => bytes.clone(),
    };
    let start = (image.common.build_id.start - image.common.constants.start) as usize;
    let note = &mut file[start..start + image.common.build_id.size as usize];
    note[..4].copy_from_slice(&4u32.to_le_bytes());
    note[4..8].copy_from_slice(&(id.len() as u32).to_le_bytes());
    note[8..12].copy_from_slice(&NT_GNU_BUILD_ID.to_le_bytes());
    note[12..16].copy_from_slice(b"GNU\0");
    note[16..16 + id.len()].copy_from_slice(&id);
}

fn elf_header(entry: u64, segments: usize, sections: usize) -> Vec<u8> {
    const ET_EXEC: u16 = 2;
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
    bytes.resize(16, 0);
    bytes.extend(ET_EXEC.to_le_bytes());
    bytes.extend(EM_X86_64.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(entry.to_le_bytes());
    bytes.extend(ELF_HEADER_SIZE.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend((ELF_HEADER_SIZE as u16).to_le_bytes());
    bytes.extend((PROGRAM_HEADER_SIZE as u16).to_le_bytes());
    bytes.extend((segments as u16).to_le_bytes());
    bytes.extend((SECTION_HEADER_SIZE as u16).to_le_bytes());
    bytes.extend((sections as u16).to_le_bytes());
    bytes.extend((sections as u16 - 1).to_le_bytes());
    bytes
}

fn program_header(segment: &Segment) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PROGRAM_HEADER_SIZE as usize);
    bytes.extend(segment.kind.to_le_bytes());
    bytes.extend(segment.flags.to_le_bytes());
    for value in [
        segment.offset,
        segment.address,
        segment.address,
        segment.stored,
        segment.size,
        segment.alignment,
    ] {
        bytes.extend(value.to_le_bytes());
    }
    bytes
}

fn section_header(section: &OutputSection, name: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SECTION_HEADER_SIZE as usize);
    bytes.extend(name.to_le_bytes());
    bytes.extend(section.kind.to_le_bytes());
    for value in [section.flags, section.address, section.offset, section.size] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(section.link.to_le_bytes());
    bytes.extend(section.info.to_le_bytes());
    bytes.extend(section.alignment.to_le_bytes());
    bytes.extend(section.entry_size.to_le_bytes());
    bytes
}
