//! What an image has one of, gathered from the sections of all units.

use goblin::elf::section_header::{
    SHT_FINI_ARRAY, SHT_INIT_ARRAY, SHT_NOBITS, SHT_PREINIT_ARRAY, SHT_PROGBITS,
};

use super::Section;

/// What an image has one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::link) enum Gathered {
    PreinitArray,
    InitArray,
    FiniArray,
    /// `.init`: one function, in pieces.
    InitCode,
    /// `.fini`.
    FiniCode,
    /// Sections of a name that the program chose: `orphans`.
    Orphan,
}

/// Names that have a place in an ordinary link (ld's default script), or that do with these and a suffix.
const PLACED: [&str; 22] = [
    ".text",
    ".rodata",
    ".data",
    ".bss",
    ".eh_frame",
    ".gcc_except_table",
    ".tdata",
    ".tbss",
    ".note",
    ".got",
    ".plt",
    ".lrodata",
    ".ldata",
    ".lbss",
    ".ltext",
    ".sdata",
    ".sbss",
    ".rodata1",
    ".data1",
    ".gnu",
    ".jcr",
    ".stapsdt",
];
/// Names that the C library keeps to itself: it alone has such sections and walks them, and what of them a
/// program does not need does no harm there. They are part of its pages.
const OF_C_LIBRARY: &str = "__libc_";

/// What the image gathers a section into, if it does, by what is said of the section.
pub(in crate::link) fn gathered(section: &Section<'_>) -> Option<Gathered> {
    if !section.is_loaded() || is_ordinary(section) {
        return None;
    }
    let is_named = |name: &str| {
        let rest = section.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match section.kind {
        SHT_PREINIT_ARRAY => Some(Gathered::PreinitArray),
        SHT_INIT_ARRAY => Some(Gathered::InitArray),
        SHT_FINI_ARRAY => Some(Gathered::FiniArray),
        _ if is_named(".preinit_array") => Some(Gathered::PreinitArray),
        _ if is_named(".init_array") || is_named(".ctors") => Some(Gathered::InitArray),
        _ if is_named(".fini_array") || is_named(".dtors") => Some(Gathered::FiniArray),
        _ if section.name == ".init" => Some(Gathered::InitCode),
        _ if section.name == ".fini" => Some(Gathered::FiniCode),
        _ if section.keeps_name && !section.is_thread_local() => Some(Gathered::Orphan),
        _ if PLACED.iter().any(|name| is_named(name)) => None,
        _ if section.is_thread_local() || section.name.starts_with(OF_C_LIBRARY) => None,
        _ if section.is_alone => None,
        _ => Some(Gathered::Orphan),
    }
}

/// Most are told at once.
fn is_ordinary(section: &Section<'_>) -> bool {
    !section.keeps_name
        && matches!(section.kind, SHT_PROGBITS | SHT_NOBITS)
        && matches!(
            section.name,
            ".text" | ".data" | ".bss" | ".eh_frame" | ".rodata"
        )
}

/// Section names that are C identifiers can be walked by `__start_NAME` and `__stop_NAME`.
pub(in crate::link) fn is_set_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
