//! What is loaded: runs of pages, and the sections and program headers that describe them.

use goblin::elf::program_header::{
    PF_R, PF_W, PF_X, PT_GNU_EH_FRAME, PT_GNU_PROPERTY, PT_GNU_RELRO, PT_NOTE, PT_TLS,
};
use goblin::elf::section_header::{
    SHF_ALLOC, SHF_EXECINSTR, SHF_INFO_LINK, SHF_TLS, SHF_WRITE, SHT_FINI_ARRAY, SHT_INIT_ARRAY,
    SHT_NOBITS, SHT_NOTE, SHT_PREINIT_ARRAY, SHT_PROGBITS, SHT_RELA,
};
use pool_core::page::PAGE_SIZE;

use super::{PageRun, Segment, Writer};
use crate::link::image::orphans::Run;
use crate::link::image::{Image, RELA_SIZE, Span};
use crate::link::object::Gathered;
use crate::link::relocate::Contents;

const PROPERTIES: &str = ".note.gnu.property";

impl Writer {
    pub(super) fn application(&mut self, image: &Image<'_, '_>, contents: &Contents) {
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
            section.entry_size = RELA_SIZE;
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

    pub(super) fn library(
        &mut self,
        image: &Image<'_, '_>,
        contents: &Contents,
        unit: usize,
        name: &str,
    ) {
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

    pub(super) fn describe_thread_template(&mut self, image: &Image<'_, '_>) {
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
}

fn span(start: u64, size: u64) -> Span {
    Span { start, size }
}
