//! One relocatable object (x86-64 ELF), checked.
//!
//! Everything later stages rely on is established here: section contents lie in the file,
//! relocations lie in the section they patch, every index points at something. What fails is
//! refused with the file's name, so the rest of the linker needs no doubts about its input.

mod entries;
mod gathered;
mod read;

use std::cell::OnceCell;

use goblin::elf::reloc::{R_X86_64_32, R_X86_64_32S, R_X86_64_64};
use goblin::elf::section_header::{
    SHF_ALLOC, SHF_EXECINSTR, SHF_MERGE, SHF_STRINGS, SHF_TLS, SHF_WRITE, SHT_NOBITS,
};
use goblin::elf::sym::{STT_FUNC, STT_GNU_IFUNC, STT_SECTION, STT_TLS};

use super::error::LinkError;
pub(super) use gathered::{Gathered, gathered, is_set_name};
pub(super) use read::is_foreign;

const SHF_EXCLUDE: u32 = 0x8000_0000;

/// A relocatable object.
#[derive(Debug)]
pub(super) struct Object<'a> {
    /// For messages: the file, with the archive member in parentheses.
    pub(super) name: String,
    /// By section index; entry 0 and tables are there, but [`Section::is_content`] is false.
    pub(super) sections: Vec<Section<'a>>,
    /// By symbol index; entry 0 is the null symbol.
    pub(super) symbols: Vec<Symbol<'a>>,
    /// Groups of sections of which one link keeps one copy.
    pub(super) groups: Vec<Group<'a>>,
    /// By section index, of code: what leads into it, once somebody has asked.
    pub(super) entered: OnceCell<Vec<Entered>>,
}

/// Where code is entered from outside of its section, as far as its object knows. In order.
#[derive(Clone, Debug, Default)]
pub(super) struct Entered {
    /// Offsets of symbols.
    pub(super) symbols: Vec<u64>,
    /// Offsets whose addresses the object holds.
    pub(super) addresses: Vec<u64>,
    /// Offsets of functions, which are told to be such.
    pub(super) functions: Vec<u64>,
}

impl Entered {
    /// Of each section.
    fn of(sections: &[Section<'_>], symbols: &[Symbol<'_>]) -> Vec<Self> {
        let mut all = vec![Self::default(); sections.len()];
        for symbol in symbols {
            if let Place::Section(section) = symbol.place
                && sections[section].is_code()
            {
                all[section].symbols.push(symbol.value);
                if symbol.is_function() {
                    all[section].functions.push(symbol.value);
                }
            }
        }
        for relocation in sections.iter().flat_map(|section| &section.relocations) {
            let symbol = &symbols[relocation.symbol];
            if let Place::Section(section) = symbol.place
                && sections[section].is_code()
                && matches!(relocation.kind, R_X86_64_64 | R_X86_64_32 | R_X86_64_32S)
            {
                let offset = symbol.value.wrapping_add_signed(relocation.addend);
                all[section].addresses.push(offset);
            }
        }
        for of in &mut all {
            for offsets in [&mut of.symbols, &mut of.addresses, &mut of.functions] {
                offsets.sort_unstable();
                offsets.dedup();
            }
        }
        all
    }
}

impl<'a> Object<'a> {
    /// Adds a symbol that the object does not have itself, and says its index. Code is entered where it was.
    pub(super) fn add_symbol(&mut self, symbol: Symbol<'a>) -> usize {
        self.all_entered();
        self.symbols.push(symbol);
        self.symbols.len() - 1
    }

    /// What leads into the code of section `index`.
    pub(super) fn entered_in(&self, index: usize) -> &Entered {
        &self.all_entered()[index]
    }

    fn all_entered(&self) -> &[Entered] {
        self.entered
            .get_or_init(|| Entered::of(&self.sections, &self.symbols))
    }

    /// True when the compiler left its own intermediate code, and no machine code.
    pub(super) fn is_intermediate_code(&self) -> bool {
        let sections = || self.sections.iter();
        let has_lto = sections().any(|s| s.name.starts_with(".gnu.lto_"));
        let mut symbols = self.symbols.iter();
        let is_slim = symbols.any(|s| matches!(s.name, "__gnu_lto_slim" | "__gnu_slim_lto"));
        has_lto && (is_slim || !sections().any(|s| s.is_code() && s.size > 0))
    }

    pub(super) fn refuse_intermediate_code(&self) -> Result<(), LinkError> {
        if self.is_intermediate_code() {
            return Err(LinkError::input(
                &self.name,
                "holds compiler intermediate code (LTO), not machine code: let the compiler that made it link (it names \
                 its -plugin), or compile it without -flto or with -ffat-lto-objects",
            ));
        }
        Ok(())
    }
}

/// A section of an object.
#[derive(Debug, Default)]
pub(super) struct Section<'a> {
    pub(super) name: &'a str,
    /// `sh_type`.
    pub(super) kind: u32,
    /// `sh_flags`.
    pub(super) flags: u64,
    /// A power of two.
    pub(super) alignment: u64,
    /// Bytes in memory.
    pub(super) size: u64,
    /// Bytes of one entry of a mergeable section.
    pub(super) entry_size: u64,
    /// Contents; empty for `SHT_NOBITS`.
    pub(super) bytes: &'a [u8],
    pub(super) relocations: Vec<Relocation>,
    /// The section that this one is about, and goes with (`SHF_LINK_ORDER`).
    pub(super) about: Option<usize>,
    /// False for tables that describe the object itself.
    pub(super) is_content: bool,
    /// It is one of the application's that is to have its name in the output.
    pub(super) keeps_name: bool,
    /// It is data with a name of the program's that no other of its library has.
    pub(super) is_alone: bool,
    /// What the image gathers it into, once it belongs to a unit.
    pub(super) gathered: Option<Gathered>,
}

impl Section<'_> {
    pub(super) fn is_loaded(&self) -> bool {
        self.has(SHF_ALLOC)
    }
    pub(super) fn is_writable(&self) -> bool {
        self.has(SHF_WRITE)
    }
    pub(super) fn is_code(&self) -> bool {
        self.has(SHF_EXECINSTR)
    }
    pub(super) fn is_thread_local(&self) -> bool {
        self.has(SHF_TLS)
    }
    pub(super) fn is_mergeable(&self) -> bool {
        self.has(SHF_MERGE) && self.entry_size != 0 && self.relocations.is_empty()
    }
    pub(super) fn holds_strings(&self) -> bool {
        self.has(SHF_STRINGS)
    }
    pub(super) fn is_zero(&self) -> bool {
        self.kind == SHT_NOBITS
    }
    /// False for sections that say something to the linker only, or that hold for one object and not
    /// for a program.
    pub(super) fn takes_part(&self) -> bool {
        const TOLD: [&str; 5] = [
            ".note.GNU-stack",
            ".note.gnu.property",
            ".gnu.warning",
            ".gnu.lto_",
            ".llvm",
        ];
        self.is_content
            && !self.has(SHF_EXCLUDE)
            && !TOLD.iter().any(|name| self.name.starts_with(name))
    }
    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }
}

/// A relocation with addend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relocation {
    /// Byte offset in the section, inside it.
    pub(super) offset: u64,
    /// `R_X86_64_*`.
    pub(super) kind: u32,
    /// Index of a symbol that exists.
    pub(super) symbol: usize,
    pub(super) addend: i64,
}

/// A symbol of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol<'a> {
    /// Empty for section symbols.
    pub(super) name: &'a str,
    pub(super) value: u64,
    pub(super) size: u64,
    pub(super) binding: Binding,
    /// `STT_*`.
    pub(super) kind: u8,
    /// `STV_*`.
    pub(super) visibility: u8,
    pub(super) place: Place,
}

impl Symbol<'_> {
    pub(super) fn is_section(&self) -> bool {
        self.kind == STT_SECTION
    }
    pub(super) fn is_indirect_function(&self) -> bool {
        self.kind == STT_GNU_IFUNC && self.place != Place::Undefined
    }
    pub(super) fn is_thread_local(&self) -> bool {
        self.kind == STT_TLS
    }
    pub(super) fn is_function(&self) -> bool {
        matches!(self.kind, STT_FUNC | STT_GNU_IFUNC)
    }
    pub(super) fn is_local(&self) -> bool {
        self.binding == Binding::Local
    }
}

/// How a symbol competes with others of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    Local,
    Global,
    Weak,
}

/// Where a symbol is defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Undefined,
    Absolute,
    /// Tentative; the symbol's value is the alignment.
    Common,
    /// In the section of this index, which exists.
    Section(usize),
}

/// A section group (`SHT_GROUP`).
#[derive(Debug)]
pub(super) struct Group<'a> {
    /// Groups of one signature are copies of each other.
    pub(super) signature: &'a str,
    /// Indices of its sections.
    pub(super) sections: Vec<usize>,
}
