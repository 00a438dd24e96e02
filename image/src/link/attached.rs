//! Groups of sections of which not any copy will do.
//!
//! C++ has all copies of an inline function be the same, so a library uses the first that one of its members has. But many a header
//! has something that each object has for itself (`static const std::string prefix`, `static const int tag`), and an inline
//! function that uses it does so with that of the object which it was compiled in. Of such a group the copy that counts is
//! the program's to say.

use goblin::elf::reloc as r;

use super::hash::HashSet;
use super::object::{Object, Place, Relocation, Section};

/// Texts that compilers keep for a function, which nobody compares.
const OF_FUNCTIONS: [&str; 3] = ["__PRETTY_FUNCTION__", "__FUNCTION__", "__func__"];

/// Signatures of an object's groups from which its own references lead to what is in no group and is the object's own: data
/// that change, and what has a name and of which an address is held, since programs compare addresses. What is
/// only read or called is the same in every object.
pub(super) fn attached<'a>(object: &Object<'a>) -> HashSet<&'a str> {
    if object.groups.is_empty() {
        return HashSet::default();
    }
    let mut is_grouped = vec![false; object.sections.len()];
    let of_groups = object.groups.iter().flat_map(|group| &group.sections);
    for section in of_groups {
        is_grouped[*section] = true;
    }
    let named = named(object, &is_grouped);
    let sections = object.sections.iter().enumerate();
    let changing = sections
        .filter(|(index, section)| !is_grouped[*index] && section.size > 0 && changes(section));
    let mut open: Vec<usize> = changing.map(|(index, _)| index).collect();
    // Backwards, from the data, and from who holds an address, to who refers to it.
    let mut referring = vec![Vec::new(); object.sections.len()];
    for (from, section) in object.sections.iter().enumerate() {
        if !section.is_loaded() || section.name == ".eh_frame" {
            continue;
        }
        for relocation in &section.relocations {
            let symbol = &object.symbols[relocation.symbol];
            let (true, Place::Section(to)) = (symbol.is_local(), symbol.place) else {
                continue;
            };
            referring[to].push(from);
            let address = address_in(section, relocation);
            let address = address.map(|addend| symbol.value.wrapping_add_signed(addend));
            if address.is_some_and(|address| is_of(&named[to], address)) {
                open.push(from);
            }
        }
    }
    let mut reaches = vec![false; object.sections.len()];
    while let Some(index) = open.pop() {
        if !std::mem::replace(&mut reaches[index], true) {
            open.append(&mut referring[index]);
        }
    }
    let groups = object.groups.iter();
    let attached = groups.filter(|group| group.sections.iter().any(|section| reaches[*section]));
    attached.map(|group| group.signature).collect()
}

/// It holds data that the program changes: what is constant, if only after the start, is no such.
fn changes(section: &Section<'_>) -> bool {
    section.takes_part()
        && section.is_loaded()
        && section.is_writable()
        && !section.name.starts_with(".data.rel.ro")
}

/// Of each section that is in no group what has a name in it, of the object's own: start and end, in order. Of
/// functions only the starts.
fn named(object: &Object<'_>, is_grouped: &[bool]) -> Vec<Vec<(u64, u64)>> {
    let mut named = vec![Vec::new(); object.sections.len()];
    for symbol in object.symbols.iter().filter(|symbol| symbol.is_local()) {
        let Place::Section(index) = symbol.place else {
            continue;
        };
        let section = &object.sections[index];
        let has_name = is_of_source(symbol.name);
        if has_name && !is_grouped[index] && section.is_loaded() && !section.is_mergeable() {
            let size = if section.is_code() {
                1
            } else {
                symbol.size.max(1)
            };
            named[index].push((symbol.value, symbol.value.saturating_add(size)));
        }
    }
    for of in &mut named {
        of.sort_unstable();
    }
    named
}

/// True for a name that is the program's, and none that the compiler gave to a table or a constant of its own (`CSWTCH.7`, `.LC0`).
fn is_of_source(name: &str) -> bool {
    !name.is_empty() && !name.contains('.') && !OF_FUNCTIONS.iter().any(|of| name.contains(of))
}

fn is_of(named: &[(u64, u64)], address: u64) -> bool {
    let next = named.partition_point(|(start, _)| *start <= address);
    let last = next.checked_sub(1).and_then(|last| named.get(last));
    last.is_some_and(|(_, end)| address < *end)
}

/// What is added to the symbol, if the relocation has the program hold its address, and neither a distance at which it is called nor
/// one at which it is read.
fn address_in(section: &Section<'_>, relocation: &Relocation) -> Option<i64> {
    /// `lea`, before the byte that says from where and the distance.
    const LEA: u8 = 0x8d;
    /// From the field to the end of the instruction.
    const FIELD: i64 = 4;
    let addend = relocation.addend;
    match relocation.kind {
        r::R_X86_64_PLT32 => None,
        r::R_X86_64_PC32 if section.is_code() => {
            let opcode = usize::try_from(relocation.offset).ok()?.checked_sub(2)?;
            (section.bytes.get(opcode) == Some(&LEA)).then(|| addend.wrapping_add(FIELD))
        }
        r::R_X86_64_GOTPCREL | r::R_X86_64_GOTPCRELX | r::R_X86_64_REX_GOTPCRELX => {
            Some(addend.wrapping_add(FIELD))
        }
        _ => Some(addend),
    }
}
