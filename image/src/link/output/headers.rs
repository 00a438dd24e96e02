//! Headers, which tell where all is, and the digest of the whole.

use goblin::elf::header::EM_X86_64;
use goblin::elf::section_header::SHT_STRTAB;

use super::{Segment, Writer};
use crate::link::args::{BuildId, LinkRequest};
use crate::link::image::{ELF_HEADER_SIZE, Image, PROGRAM_HEADER_SIZE};
use crate::link::sections::OutputSection;

/// Bytes of a section header.
const SECTION_HEADER_SIZE: u64 = 64;
/// File offset of `e_entry` in the ELF header.
pub(super) const ENTRY_AT: u64 = 24;
/// File offset of `e_shoff` in the ELF header.
const SECTION_HEADERS_AT: usize = 40;

impl Writer {
    pub(super) fn finish(
        mut self,
        image: &Image<'_, '_>,
        request: &LinkRequest,
        entry: u64,
    ) -> Vec<u8> {
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
