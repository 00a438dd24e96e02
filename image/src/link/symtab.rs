//! The symbol table of the executable, for debuggers and profilers.

use goblin::elf::section_header::{SHF_ALLOC, SHF_TLS, SHN_ABS};
use goblin::elf::sym::{STB_GLOBAL, STB_LOCAL, STB_WEAK, STT_FILE, STT_FUNC, STT_SECTION};

use super::image::Image;
use super::object::{Binding, Place, Symbol};
use super::plan::Part;
use super::sections::OutputSection;
use super::symbols::Target;
use super::unit::SymbolId;

/// Bytes of a symbol.
pub(super) const ENTRY_SIZE: u64 = 24;

/// The sections `.symtab` and `.strtab`.
#[derive(Debug, Default)]
pub(super) struct SymbolTable {
    pub(super) entries: Vec<u8>,
    pub(super) names: Vec<u8>,
    /// Index of the first symbol that is not local.
    pub(super) first_global: u32,
}

/// All named symbols of the image: local ones first, as the format asks for.
pub(super) fn build(image: &Image<'_, '_>, sections: &[OutputSection]) -> SymbolTable {
    let mut table = SymbolTable {
        entries: vec![0; ENTRY_SIZE as usize],
        names: vec![0],
        first_global: 0,
    };
    let index = SectionIndex::new(sections);
    for locals in [true, false] {
        if !locals {
            table.first_global = (table.entries.len() as u64 / ENTRY_SIZE) as u32;
        }
        for u in image.included() {
            for (o, s, symbol) in image.units[u].symbols() {
                let id = SymbolId {
                    unit: u,
                    object: o,
                    symbol: s,
                };
                let counts = image.targets[u][o][s] == Target::Defined(id);
                if counts && is_told(symbol) && symbol.is_local() == locals {
                    add(image, &index, id, symbol, &mut table);
                }
            }
        }
    }
    table
}

fn is_told(symbol: &Symbol<'_>) -> bool {
    !symbol.name.is_empty()
        && !symbol.name.starts_with(".L")
        && symbol.kind != STT_SECTION
        && symbol.kind != STT_FILE
        && symbol.place != Place::Undefined
}

fn add(
    image: &Image<'_, '_>,
    index: &SectionIndex,
    id: SymbolId,
    symbol: &Symbol<'_>,
    table: &mut SymbolTable,
) {
    let Some(address) = image.symbol_address(id) else {
        return;
    };
    let (section, value) = match symbol.place {
        Place::Absolute => (SHN_ABS as u16, address),
        Place::Section(s) if image.plans[id.unit].placement(id.object, s).part == Part::Loose => {
            return;
        }
        _ if symbol.is_thread_local() => {
            // Relative to the template.
            let Some(value) = address.checked_sub(image.common.thread.start) else {
                return;
            };
            (index.find(address, true), value)
        }
        _ => (index.find(address, false), address),
    };
    let binding = match symbol.binding {
        Binding::Local => STB_LOCAL,
        Binding::Global => STB_GLOBAL,
        Binding::Weak => STB_WEAK,
    };
    // The address of a function that chooses its implementation is that of its stub.
    let kind = if symbol.is_indirect_function() {
        STT_FUNC
    } else {
        symbol.kind
    };
    let name = table.names.len() as u32;
    table.names.extend_from_slice(symbol.name.as_bytes());
    table.names.push(0);
    table.entries.extend(name.to_le_bytes());
    table.entries.push(binding << 4 | kind & 0xf);
    table.entries.push(symbol.visibility);
    table.entries.extend(section.to_le_bytes());
    table.entries.extend(value.to_le_bytes());
    table.entries.extend(symbol.size.to_le_bytes());
}

/// Finds the output section of an address.
struct SectionIndex {
    /// Start, end, index; sorted. Thread-local zeros overlap what follows and are kept apart.
    plain: Vec<(u64, u64, u16)>,
    thread: Vec<(u64, u64, u16)>,
}

impl SectionIndex {
    fn new(sections: &[OutputSection]) -> Self {
        let mut index = Self {
            plain: Vec::new(),
            thread: Vec::new(),
        };
        for (at, section) in sections.iter().enumerate() {
            if section.flags & u64::from(SHF_ALLOC) == 0 {
                continue;
            }
            let range = (section.address, section.address + section.size, at as u16);
            if section.flags & u64::from(SHF_TLS) != 0 {
                index.thread.push(range);
            } else {
                index.plain.push(range);
            }
        }
        index.plain.sort_unstable();
        index.thread.sort_unstable();
        index
    }

    /// The section that holds `address`, or ends there; else the symbol is absolute.
    fn find(&self, address: u64, thread: bool) -> u16 {
        let ranges = if thread { &self.thread } else { &self.plain };
        let next = ranges.partition_point(|(start, ..)| *start <= address);
        match next.checked_sub(1).and_then(|at| ranges.get(at)) {
            Some((_, end, section)) if address <= *end => *section,
            _ => SHN_ABS as u16,
        }
    }
}
