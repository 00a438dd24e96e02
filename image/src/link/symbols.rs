//! What every symbol means to its unit.
//!
//! A library's pages are made as if it were alone: it uses its own definitions, in every image alike.
//! What is left is an *import*, which only the image can settle.
//! Where the program means something else ([`super::resolve`]), the image differs from that: see
//! [`super::relocate`]. The application's symbols mean what they mean in the program, and so do those of libraries that
//! refer to others directly.

use std::cell::OnceCell;

use super::hash::HashSet;
use super::object::{Binding, Object, Place, Symbol};
use super::resolve::Resolution;
use super::target::{Target, UnitTargets};
use super::unit::{SymbolId, Unit, UnitKind};

/// Symbols by which start files (`crt1.o`, `crti.o`) tell a C library about the program, and which
/// C libraries define for the case that a start file does not. The start file's definition counts,
/// so a library's uses of them are imports even if it has a definition.
pub(super) const START_FILE_SYMBOLS: [&str; 3] = ["_dl_relocate_static_pie", "_fini", "_init"];

/// What the symbols of unit `own` mean.
pub(super) fn targets<'a>(
    units: &[Unit<'a>],
    resolution: &Resolution<'a>,
    own: usize,
) -> UnitTargets<'a> {
    let unit = &units[own];
    let sets = OnceCell::new();
    let own_meaning = |name| own_meaning(unit, &sets, name);
    let named = |object: usize, symbol: &Symbol<'a>| -> Target<'a> {
        let found = match unit.kind {
            UnitKind::Application => {
                let name = resolution.name(own, object, symbol);
                let found = resolution.definition(name);
                return found.map_or_else(|| own_meaning(name), Target::Defined);
            }
            // Any address does as a handle for destructors: in a static executable there is one. This one moves with the
            // library.
            UnitKind::Library | UnitKind::Aligned if symbol.name == "__dso_handle" => {
                return Target::OffsetTable;
            }
            // A set of its own is there, however it is referred to.
            UnitKind::Library if is_for_the_image(symbol) => return own_meaning(symbol.name),
            UnitKind::Aligned => {
                let name = resolution.name(own, object, symbol);
                let found = resolution.definition(name);
                found.or_else(|| beside(units, resolution, (own, object), name))
            }
            UnitKind::Library if unit.is_default(symbol.name) => None,
            UnitKind::Library => defined_in(units, own, symbol.name),
        };
        found.map_or_else(|| own_meaning(symbol.name), Target::Defined)
    };
    let of_object = |(o, object): (usize, &Object<'a>)| {
        let symbols = object.symbols.iter().enumerate();
        symbols
            .map(|(s, symbol)| {
                if !symbol.is_local() && !symbol.name.is_empty() {
                    return named(o, symbol);
                }
                match symbol.place {
                    Place::Section(_) if !unit.defines(o, symbol) => Target::Dropped,
                    _ => Target::Defined(SymbolId {
                        unit: own,
                        object: o,
                        symbol: s,
                    }),
                }
            })
            .collect()
    };
    unit.objects.iter().enumerate().map(of_object).collect()
}

/// A library leaves it open: what start files tell it, and whether something is there to which it refers
/// weakly, which takes nothing out of an archive.
fn is_for_the_image(symbol: &Symbol<'_>) -> bool {
    START_FILE_SYMBOLS.contains(&symbol.name)
        || symbol.place == Place::Undefined && symbol.binding == Binding::Weak
}

/// What an object that is not in the program refers to, of what lies beside it all the same: its own library's, or the first that
/// has it. Which is what it means in a program that has that.
fn beside(
    units: &[Unit<'_>],
    resolution: &Resolution<'_>,
    (own, object): (usize, usize),
    name: &str,
) -> Option<SymbolId> {
    if resolution.is_live(own, object) {
        return None;
    }
    let others = (1..units.len()).filter(|unit| resolution.includes(*unit));
    std::iter::once(own)
        .chain(others)
        .find_map(|unit| defined_in(units, unit, name))
}

fn defined_in(units: &[Unit<'_>], unit: usize, name: &str) -> Option<SymbolId> {
    let (object, symbol) = units[unit].definition(name)?;
    Some(SymbolId {
        unit,
        object,
        symbol,
    })
}

/// The meaning of a symbol that no object defines: the unit's own, where that can be. `sets` are [`sets_of`] it, once that is asked.
fn own_meaning<'a>(
    unit: &Unit<'a>,
    sets: &OnceCell<HashSet<&'a str>>,
    name: &'a str,
) -> Target<'a> {
    let set = |prefix: &str| {
        let set = name.strip_prefix(prefix)?;
        let sets = sets.get_or_init(|| sets_of(unit));
        sets.contains(set).then_some(set)
    };
    if name == "_GLOBAL_OFFSET_TABLE_" {
        Target::OffsetTable
    } else if name == "_TLS_MODULE_BASE_" {
        Target::ThreadPointer
    } else if matches!(name, "__ehdr_start" | "__executable_start") {
        Target::Header
    } else if let Some(set) = set("__start_") {
        Target::SetStart(set)
    } else if let Some(set) = set("__stop_") {
        Target::SetEnd(set)
    } else {
        Target::Import(name)
    }
}

/// The names of the sections that a unit has at a place of its own.
fn sets_of<'a>(unit: &Unit<'a>) -> HashSet<&'a str> {
    let sections = unit.sections().map(|(_, _, section)| section);
    let placed = sections.filter(|section| section.is_loaded() && section.gathered.is_none());
    placed.map(|section| section.name).collect()
}
