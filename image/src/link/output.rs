//! The executable file.
//!
//! Every run of pages in memory is a run of pages in the file at an offset that is a multiple of
//! the page size, so that a page of the file is a page of memory. The headers lie at the start of
//! the application's constants: start-up code finds the thread-local template through them.

use goblin::elf::header::EM_X86_64;
use goblin::elf::program_header::{
    PF_R, PF_W, PF_X, PT_GNU_EH_FRAME, PT_GNU_STACK, PT_LOAD, PT_NOTE, PT_TLS,
};
use goblin::elf::section_header::{
    SHF_ALLOC, SHF_EXECINSTR, SHF_INFO_LINK, SHF_TLS, SHF_WRITE, SHT_FINI_ARRAY, SHT_INIT_ARRAY,
    SHT_NOBITS, SHT_NOTE, SHT_PREINIT_ARRAY, SHT_PROGBITS, SHT_RELA, SHT_STRTAB, SHT_SYMTAB,
};
use pool_core::page::PAGE_SIZE;

use super::args::{BuildId, LinkRequest, Strip};
use super::gathered::Gathered;
use super::image::{ELF_HEADER_SIZE, Image, PROGRAM_HEADER_SIZE, Span};
use super::relocate::Contents;
use super::sections::OutputSection;
use super::symtab::{self, SymbolTable};
use crate::layout::LAYOUT_SECTION;

/// Bytes of a section header.
const SECTION_HEADER_SIZE: u64 = 64;
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

/// Writes the executable. `names` are those of the units, `layout` is the layout's text.
pub(super) fn write(
    image: &Image<'_, '_>,
    contents: &Contents,
    request: &LinkRequest,
    names: &[String],
    entry: u64,
    layout: &[u8],
) -> Vec<u8> {
    let mut file = Writer {
        bytes: vec![0; ELF_HEADER_SIZE as usize],
        segments: Vec::new(),
        sections: vec![OutputSection::default()],
    };
    file.application(image, contents);
    for unit in image.included().filter(|unit| *unit != 0) {
        file.library(image, contents, unit, &names[unit]);
    }
    file.describe_thread_template(image);
    file.segments.push(Segment {
        kind: PT_GNU_STACK,
        flags: PF_R | PF_W | if request.executable_stack { PF_X } else { 0 },
        offset: 0,
        address: 0,
        stored: 0,
        size: 0,
        alignment: 16,
    });
    file.loose(contents, layout);
    if request.strip != Strip::Everything {
        let table = symtab::build(image, &file.sections);
        file.symbol_table(&table);
    }
    file.finish(image, request, entry)
}

struct Writer {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    sections: Vec<OutputSection>,
}

impl Writer {
    fn align(&mut self, alignment: u64) -> u64 {
        let offset = (self.bytes.len() as u64).next_multiple_of(alignment);
        self.bytes.resize(offset as usize, 0);
        offset
    }

    /// Appends pages at `address`, the last one filled up with zeros if `whole`.
    fn pages(&mut self, flags: u32, address: u64, bytes: &[u8], size: u64, whole: bool) -> u64 {
        let offset = self.align(PAGE_SIZE);
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
            alignment: PAGE_SIZE,
        });
        offset
    }

    /// Describes a part of a run of pages that begins at `run` in memory and `offset` in the file.
    fn section(&mut self, name: &str, kind: u32, flags: u32, span: Span, run: u64, offset: u64) {
        if span.size == 0 {
            return;
        }
        self.sections.push(OutputSection {
            name: name.to_owned(),
            kind,
            flags: u64::from(flags),
            address: span.start,
            offset: offset + (span.start - run),
            size: span.size,
            alignment: match kind {
                SHT_NOTE => 4,
                _ => 1 << span.start.trailing_zeros().min(4),
            },
            ..OutputSection::default()
        });
    }

    fn application(&mut self, image: &Image<'_, '_>, contents: &Contents) {
        let (common, plan, base) = (&image.common, &image.plans[0], &image.bases[0]);
        // The run of constants begins with the headers, at the start of the file.
        self.bytes.clear();
        let run = common.constants.start;
        let offset = self.pages(PF_R, run, &contents.constants, common.constants.size, false);
        let read = SHF_ALLOC;
        let span = |start, size| Span { start, size };
        let notes = span(base.constant, plan.notes);
        for (name, notes) in [
            (".note.gnu.build-id", common.build_id),
            (".note.app", notes),
        ] {
            self.section(name, SHT_NOTE, read, notes, run, offset);
            if notes.size > 0 {
                self.segments.push(Segment {
                    kind: PT_NOTE,
                    flags: PF_R,
                    offset: offset + (notes.start - run),
                    address: notes.start,
                    stored: notes.size,
                    size: notes.size,
                    alignment: 4,
                });
            }
        }
        let frames = plan.frames_at();
        let constants = span(base.constant + plan.notes, frames - plan.notes);
        self.section(".rodata", SHT_PROGBITS, read, constants, run, offset);
        let frames = span(base.constant + frames, plan.constant.size - frames);
        self.section(".eh_frame", SHT_PROGBITS, read, frames, run, offset);
        for (kind, name, section_kind) in [
            (Gathered::PreinitArray, ".preinit_array", SHT_PREINIT_ARRAY),
            (Gathered::InitArray, ".init_array", SHT_INIT_ARRAY),
            (Gathered::FiniArray, ".fini_array", SHT_FINI_ARRAY),
        ] {
            let span = common.arrays.get(&kind).copied().unwrap_or_default();
            self.section(name, section_kind, read, span, run, offset);
        }
        self.section(".rela.plt", SHT_RELA, read, common.resolvers, run, offset);
        if let Some(section) = self.sections.last_mut().filter(|s| s.kind == SHT_RELA) {
            section.entry_size = super::image::RELA_SIZE;
            section.flags |= u64::from(SHF_INFO_LINK);
        }
        let template = span(common.thread.start, common.thread_stored);
        self.section(
            ".tdata",
            SHT_PROGBITS,
            read | SHF_TLS,
            template,
            run,
            offset,
        );
        let zeros = span(
            common.thread.start + common.thread_stored,
            common.thread.size - common.thread_stored,
        );
        self.section(
            ".tbss",
            SHT_NOBITS,
            read | SHF_WRITE | SHF_TLS,
            zeros,
            run,
            offset,
        );
        let table = common.unwind_table;
        self.section(".eh_frame_hdr", SHT_PROGBITS, read, table, run, offset);
        if table.size > 0 {
            self.segments.push(Segment {
                kind: PT_GNU_EH_FRAME,
                flags: PF_R,
                offset: offset + (table.start - run),
                address: table.start,
                stored: table.size,
                size: table.size,
                alignment: 4,
            });
        }

        let run = common.code.start;
        let offset = self.pages(PF_R | PF_X, run, &contents.code, common.code.size, false);
        let flags = SHF_ALLOC | SHF_EXECINSTR;
        let gathered = |kind| common.arrays.get(&kind).copied().unwrap_or_default();
        let init = gathered(Gathered::InitCode);
        let fini = gathered(Gathered::FiniCode);
        self.section(".init", SHT_PROGBITS, flags, init, run, offset);
        let text = span(base.code, plan.code.size);
        self.section(".text", SHT_PROGBITS, flags, text, run, offset);
        self.section(".fini", SHT_PROGBITS, flags, fini, run, offset);
        let trap = span(common.trap, common.code.end() - common.trap);
        self.section(".text.trap", SHT_PROGBITS, flags, trap, run, offset);
        self.data(image, contents, 0, "");
    }

    fn library(&mut self, image: &Image<'_, '_>, contents: &Contents, unit: usize, name: &str) {
        let (plan, base) = (&image.plans[unit], &image.bases[unit]);
        let span = |start, size| Span { start, size };
        let shared = &contents.shared[unit];
        let code = SHF_ALLOC | SHF_EXECINSTR;
        if !shared.is_empty() {
            let size = shared.len() as u64;
            let offset = self.pages(PF_R | PF_X, base.code, shared, size, true);
            let text = span(base.code, plan.code.size);
            let section = format!(".text.{name}");
            self.section(&section, SHT_PROGBITS, code, text, base.code, offset);
            let frames = plan.frames_at();
            let constants = span(base.constant, frames);
            let section = format!(".rodata.{name}");
            self.section(
                &section,
                SHT_PROGBITS,
                SHF_ALLOC,
                constants,
                base.code,
                offset,
            );
            let frames = span(base.constant + frames, plan.constant.size - frames);
            let section = format!(".eh_frame.{name}");
            self.section(&section, SHT_PROGBITS, SHF_ALLOC, frames, base.code, offset);
        }
        let bound = &contents.bound[unit];
        if !bound.is_empty() {
            let size = bound.len() as u64;
            let offset = self.pages(PF_R | PF_X, base.bound, bound, size, false);
            let bound = span(base.bound, plan.bound.size);
            let section = format!(".bound.{name}");
            self.section(&section, SHT_PROGBITS, code, bound, base.bound, offset);
        }
        self.data(image, contents, unit, name);
    }

    fn data(&mut self, image: &Image<'_, '_>, contents: &Contents, unit: usize, name: &str) {
        let (plan, start) = (&image.plans[unit], image.bases[unit].data);
        if plan.data.size == 0 {
            return;
        }
        let offset = self.pages(
            PF_R | PF_W,
            start,
            &contents.data[unit],
            plan.data.size,
            false,
        );
        let named = |section: &str| {
            if name.is_empty() {
                section.to_owned()
            } else {
                format!("{section}.{name}")
            }
        };
        let flags = SHF_ALLOC | SHF_WRITE;
        let stored = plan.data_stored;
        let data = Span {
            start,
            size: stored,
        };
        self.section(&named(".data"), SHT_PROGBITS, flags, data, start, offset);
        let zeros = Span {
            start: start + stored,
            size: plan.data.size - stored,
        };
        self.section(&named(".bss"), SHT_NOBITS, flags, zeros, start, offset);
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

    /// Sections that are not loaded, and the layout.
    fn loose(&mut self, contents: &Contents, layout: &[u8]) {
        for (name, bytes) in &contents.loose {
            self.append(name, SHT_PROGBITS, bytes, 1);
        }
        self.append(LAYOUT_SECTION, SHT_PROGBITS, layout, 1);
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
        self.segments.sort_by_key(|s| match s.kind {
            PT_LOAD => (0, s.address),
            kind => (1, u64::from(kind)),
        });
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
