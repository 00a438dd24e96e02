//! The few things that section headers are read for: none of them is needed to load a program.

use goblin::elf::header::Header;
use goblin::elf::section_header::{
    SHF_ALLOC, SHF_TLS, SHT_NOBITS, SHT_PROGBITS, SHT_SYMTAB, SectionHeader,
};

use super::kernel::UNIKRAFT_BOOT_INFORMATION;
use super::{CTX, ElfError, check_within};
use crate::layout::{ELSEWHERE_SECTION, LAYOUT_SECTION, SLIDE_SECTION};

const SECTION_HEADER_SIZE: u64 = 64;

/// What the section headers say.
pub(super) struct Sections<'a> {
    /// No symbol table.
    pub(super) stripped: bool,
    /// Contents of the layout section.
    pub(super) layout: Option<&'a [u8]>,
    /// Contents of the section beside it: pages as they are in other images.
    pub(super) elsewhere: Option<&'a [u8]>,
    /// Contents of the section beside it: the record of addresses.
    pub(super) slide: Option<&'a [u8]>,
    /// There is what Unikraft's boot code reads.
    pub(super) boot_information: bool,
}

/// Reads the section headers, if there are any. A table past the end of the file means that the
/// file was cut short, since linkers write it last; that is worth refusing even though such a
/// file might run.
pub(super) fn read<'a>(file: &'a [u8], header: &Header) -> Result<Sections<'a>, ElfError> {
    let sections = table(file, header)?;
    let holds_entry = |section: &SectionHeader| {
        let end = section.sh_addr.saturating_add(section.sh_size);
        (section.sh_addr..end).contains(&header.e_entry)
    };
    // `.tbss` takes no addresses: what follows it begins where it does, code as well (gABI, "Thread-Local
    // Storage").
    let is_left_out = |section: &SectionHeader| {
        section.sh_type == SHT_NOBITS
            && has_flag(section, SHF_ALLOC)
            && !has_flag(section, SHF_TLS)
            && holds_entry(section)
    };
    if sections.iter().any(is_left_out) {
        return Err(ElfError::DebugOnly);
    }
    let stripped = sections.iter().all(|s| s.sh_type != SHT_SYMTAB);
    let names = sections
        .get(header.e_shstrndx as usize)
        .and_then(|names| contents(file, names))
        .unwrap_or_default();
    let named = |wanted: &str, what: &'static str| {
        let is_wanted = |section: &&SectionHeader| {
            section.sh_type == SHT_PROGBITS
                && !has_flag(section, SHF_ALLOC)
                && name(names, section) == Some(wanted.as_bytes())
        };
        let found = sections.iter().find(is_wanted);
        let bytes =
            |section: &SectionHeader| check_within(file, what, section.sh_offset, section.sh_size);
        found.map(bytes).transpose()
    };
    let layout = named(LAYOUT_SECTION, "the .pool.layout section's bytes")?;
    let elsewhere = named(ELSEWHERE_SECTION, "the .pool.elsewhere section's bytes")?;
    let slide = named(SLIDE_SECTION, "the .pool.slide section's bytes")?;
    let boot_information = sections
        .iter()
        .any(|section| name(names, section) == Some(UNIKRAFT_BOOT_INFORMATION));
    Ok(Sections {
        stripped,
        layout,
        elsewhere,
        slide,
        boot_information,
    })
}

fn has_flag(section: &SectionHeader, flag: u32) -> bool {
    section.sh_flags & u64::from(flag) != 0
}

fn table(file: &[u8], header: &Header) -> Result<Vec<SectionHeader>, ElfError> {
    if header.e_shoff == 0 || u64::from(header.e_shentsize) != SECTION_HEADER_SIZE {
        return Ok(Vec::new());
    }
    let what = "the section headers";
    let read = |count: u64| {
        let size = count.saturating_mul(SECTION_HEADER_SIZE);
        let bytes = check_within(file, what, header.e_shoff, size)?;
        SectionHeader::parse_from(bytes, 0, count as usize, CTX).map_err(|_| ElfError::Truncated {
            what,
            end: header.e_shoff.saturating_add(size),
            length: file.len() as u64,
        })
    };
    if header.e_shnum != 0 {
        return read(u64::from(header.e_shnum));
    }
    // With 0xff00 sections or more their number is the first one's size (gABI, "ELF Header").
    match read(1)?.first() {
        Some(first) if first.sh_size != 0 => read(first.sh_size),
        _ => Ok(Vec::new()),
    }
}

fn contents<'a>(file: &'a [u8], section: &SectionHeader) -> Option<&'a [u8]> {
    let end = section.sh_offset.checked_add(section.sh_size)?;
    file.get(section.sh_offset as usize..end as usize)
}

fn name<'a>(names: &'a [u8], section: &SectionHeader) -> Option<&'a [u8]> {
    names.get(section.sh_name..)?.split(|b| *b == 0).next()
}
