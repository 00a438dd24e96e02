//! Files of intermediate code, as the resolution sees them: symbols without contents.

use std::cell::OnceCell;

use goblin::elf::section_header::{SHF_ALLOC, SHT_PROGBITS};

use super::hash::HashMap;
use super::object::{Binding, Group, Object, Place, Section, Symbol};

/// How sections of GCC's code are called.
const GCC: &[u8] = b".gnu.lto_";
/// How LLVM's bitcode begins, bare and with a header.
const LLVM: [&[u8]; 2] = [b"BC\xc0\xde", b"\xde\xc0\x17\x0b"];

/// A symbol of intermediate code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CodeSymbol {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// `STT_*`.
    pub(super) of: u8,
    /// `STV_*`.
    pub(super) visibility: u8,
    pub(super) size: u64,
    /// It is one of several copies, which have this in common.
    pub(super) comdat_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Defined,
    WeaklyDefined,
    Undefined,
    WeaklyUndefined,
    Common,
}

/// True for an object with intermediate code, whatever else it has.
pub(super) fn is_held_by(bytes: &[u8]) -> bool {
    is_bitcode(bytes) || section_names(bytes).is_some_and(|names| has(names, GCC))
}

pub(super) fn is_bitcode(bytes: &[u8]) -> bool {
    LLVM.iter().any(|start| bytes.starts_with(start))
}

/// The names of the sections of an object, one behind the other.
fn section_names(bytes: &[u8]) -> Option<&[u8]> {
    let number = |at: usize, size: usize| -> Option<usize> {
        let mut word = [0; 8];
        word[..size].copy_from_slice(bytes.get(at..at.checked_add(size)?)?);
        usize::try_from(u64::from_le_bytes(word)).ok()
    };
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let headers = number(40, 8)?;
    let header = |index: usize| headers.checked_add(index.checked_mul(64)?);
    let index = match number(62, 2)? {
        // More than the field can say.
        0xffff => number(header(0)?.checked_add(40)?, 4)?,
        index => index,
    };
    let at = header(index)?;
    let (start, size) = (
        number(at.checked_add(24)?, 8)?,
        number(at.checked_add(32)?, 8)?,
    );
    bytes.get(start..start.checked_add(size)?)
}

fn has(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

/// What stands for a file of intermediate code until it is compiled. No section of it has contents; each group of copies
/// has one of its own.
pub(super) fn object<'a>(name: &str, symbols: &'a [CodeSymbol]) -> Object<'a> {
    let section = |is_content: bool| Section {
        name: ".text",
        kind: SHT_PROGBITS,
        flags: u64::from(SHF_ALLOC),
        alignment: 1,
        is_content,
        ..Section::default()
    };
    let mut sections = vec![section(false), section(true)];
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut by_key: HashMap<&str, usize> = HashMap::default();
    let symbols = symbols.iter().map(|symbol| {
        let own = match &symbol.comdat_key {
            None => 1,
            Some(key) => *by_key.entry(key).or_insert_with(|| {
                sections.push(section(true));
                groups.push(Group {
                    signature: key,
                    sections: vec![sections.len() - 1],
                });
                sections.len() - 1
            }),
        };
        let (binding, place) = match symbol.kind {
            Kind::Defined => (Binding::Global, Place::Section(own)),
            Kind::WeaklyDefined => (Binding::Weak, Place::Section(own)),
            Kind::Undefined => (Binding::Global, Place::Undefined),
            Kind::WeaklyUndefined => (Binding::Weak, Place::Undefined),
            Kind::Common => (Binding::Global, Place::Common),
        };
        Symbol {
            name: symbol
                .name
                .split_once("@@")
                .map_or(&symbol.name, |(name, _)| name),
            value: u64::from(place == Place::Common),
            size: symbol.size,
            binding,
            kind: symbol.of,
            visibility: symbol.visibility,
            place,
        }
    });
    let symbols = symbols.collect();
    Object {
        name: name.to_owned(),
        sections,
        symbols,
        entered: OnceCell::new(),
        groups,
    }
}
