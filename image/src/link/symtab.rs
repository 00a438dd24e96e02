//! The symbol table of the executable, for debuggers and profilers.

use std::collections::BTreeMap;

use goblin::elf::section_header::{SHF_ALLOC, SHF_TLS, SHN_ABS};
use goblin::elf::sym::{
    STB_GLOBAL, STB_LOCAL, STB_WEAK, STT_FILE, STT_FUNC, STT_NOTYPE, STT_SECTION,
};

use super::addresses::Import;
use super::args::Discard;
use super::image::Image;
use super::object::{Binding, Place, Symbol};
use super::plan::Part;
use super::sections::OutputSection;
use super::target::Target;
use super::unit::{SymbolId, Unit};

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

/// All named symbols of the program: local ones first, as the format asks for. Of a library's members that are not in
/// the program, none.
pub(super) fn build(
    image: &Image<'_, '_>,
    sections: &[OutputSection],
    discard: Discard,
) -> SymbolTable {
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
            let symbols = image.units[u].symbols();
            let told =
                symbols.filter(|(.., symbol)| symbol.is_local() == locals && is_told(symbol));
            for (o, s, symbol) in told {
                let id = SymbolId {
                    unit: u,
                    object: o,
                    symbol: s,
                };
                let counts = image.targets[u][o][s] == Target::Defined(id)
                    && (image.runs(u, o) || image.program.definition(symbol.name) == Some(id));
                if counts && !is_discarded(&image.units[u], o, symbol, discard) {
                    add(image, &index, id, symbol, &mut table);
                }
            }
        }
    }
    for (name, address) in provided(image) {
        let section = index.find(address, false);
        table.push(name, STB_GLOBAL << 4 | STT_NOTYPE, 0, section, address, 0);
    }
    table
}

/// What the linker itself defines, with its address: the ends of data, and what else the program refers to.
fn provided<'n>(image: &'n Image<'_, '_>) -> BTreeMap<&'n str, u64> {
    let always = ["__bss_start", "_edata", "_end"].into_iter();
    let of_tables = image.tables.symbols().map(|(name, _)| name);
    let names = always.chain(of_tables).chain(image.program.all_absent());
    let found = names.filter_map(|name| match image.import(name)? {
        Import::Address(address) => Some((name, address)),
        Import::Symbol(_) => None,
    });
    found.collect()
}

impl SymbolTable {
    fn push(&mut self, name: &str, info: u8, other: u8, section: u16, value: u64, size: u64) {
        let at = self.names.len() as u32;
        self.names.extend_from_slice(name.as_bytes());
        self.names.push(0);
        self.entries.extend(at.to_le_bytes());
        self.entries.extend([info, other]);
        self.entries.extend(section.to_le_bytes());
        self.entries.extend(value.to_le_bytes());
        self.entries.extend(size.to_le_bytes());
    }
}

fn is_told(symbol: &Symbol<'_>) -> bool {
    !symbol.name.is_empty()
        && symbol.kind != STT_SECTION
        && symbol.kind != STT_FILE
        && symbol.place != Place::Undefined
}

fn is_discarded(unit: &Unit<'_>, object: usize, symbol: &Symbol<'_>, discard: Discard) -> bool {
    let is_temporary = symbol.name.starts_with(".L");
    let is_merged = match symbol.place {
        Place::Section(section) => unit.objects[object].sections[section].is_mergeable(),
        _ => false,
    };
    symbol.is_local()
        && match discard {
            Discard::Nothing => false,
            Discard::Merged => is_temporary && is_merged,
            Discard::Temporary => is_temporary,
            Discard::Locals => true,
        }
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
    let info = binding << 4 | kind & 0xf;
    table.push(
        symbol.name,
        info,
        symbol.visibility,
        section,
        value,
        symbol.size,
    );
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
