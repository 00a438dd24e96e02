//! What is not loaded: sections of objects, the layout, the record of addresses, symbols.

use goblin::elf::section_header::{SHF_COMPRESSED, SHT_PROGBITS, SHT_STRTAB, SHT_SYMTAB};
use pool_core::page::PAGE_SIZE;

use super::headers::ENTRY_AT;
use super::{Parts, Writer};
use crate::layout::{ELSEWHERE_SECTION, LAYOUT_SECTION, SLIDE_SECTION};
use crate::link::args::Compression;
use crate::link::error::LinkError;
use crate::link::image::loose::Loose;
use crate::link::image::{ELF_HEADER_SIZE, Image, PROGRAM_HEADER_SIZE};
use crate::link::relocate::Contents;
use crate::link::symtab::SymbolTable;
use crate::link::{compressed, moves, symtab};

impl Writer {
    /// Sections that are not loaded.
    pub(super) fn loose(
        &mut self,
        image: &Image<'_, '_>,
        contents: &Contents,
        compress: Option<Compression>,
    ) {
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
    pub(super) fn about_addresses(
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

    pub(super) fn symbol_table(&mut self, table: &SymbolTable) {
        self.append(".symtab", SHT_SYMTAB, &table.entries, 8);
        let index = self.sections.len();
        if let Some(section) = self.sections.last_mut() {
            section.link = index as u32;
            section.info = table.first_global;
            section.entry_size = symtab::ENTRY_SIZE;
        }
        self.append(".strtab", SHT_STRTAB, &table.names, 1);
    }
}
