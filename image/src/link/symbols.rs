//! What every symbol means, and which members of libraries an image needs.
//!
//! A library is *protected*: it uses its own definitions, then those of its dependencies, in
//! every image alike. What is left is an *import*, which only the image can settle: a symbol of
//! the application, of a library that is no dependency, or one that the linker provides.
//! The application uses its own definitions, then the libraries' in command-line order.
//!
//! A member is *needed* if an ordinary link would take it out of its archive; it is *reached* if
//! any reference leads to it, even one that takes nothing out of an archive (a weak reference, or
//! a weak definition that another member of the library overrides). What is not reached cannot
//! run. So only what is needed must have all its symbols, and only what is reached has its
//! constructors and resolvers called; a library of which nothing is reached stays out.

use std::collections::BTreeMap;

use super::library::Library;
use super::object::{Binding, Place, Symbol};
use super::unit::{SymbolId, Unit, UnitKind};

/// What a reference refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Target<'a> {
    /// A symbol with a place.
    Defined(SymbolId),
    /// A local symbol in a section that takes no part.
    Dropped,
    /// Settled by the image.
    Import(&'a str),
    /// The unit's own offset table (`_GLOBAL_OFFSET_TABLE_`).
    OffsetTable,
    /// The ELF header, at the same address in every image (`__ehdr_start`).
    Header,
    /// The first byte of the unit's sections of this name (`__start_NAME`).
    SetStart(&'a str),
    /// The byte after the last.
    SetEnd(&'a str),
}

/// Symbols by which start files (`crt1.o`, `crti.o`) tell a C library about the program, and which
/// C libraries define for the case that a start file does not. The start file's definition counts,
/// so a library's uses of them are imports even if it has a definition.
pub(super) const START_FILE_SYMBOLS: [&str; 3] = ["_dl_relocate_static_pie", "_fini", "_init"];

/// The meaning of all symbols of a unit, by object and symbol.
pub(super) type UnitTargets<'a> = Vec<Vec<Target<'a>>>;

/// Settles what the symbols of unit `own` mean. `libraries` are the units from 1 on.
pub(super) fn targets<'a>(
    units: &[Unit<'a>],
    libraries: &[Library],
    own: usize,
) -> UnitTargets<'a> {
    let unit = &units[own];
    let elsewhere = |symbol: &Symbol<'a>| -> Option<SymbolId> {
        match unit.kind {
            UnitKind::Application => {
                // A weak reference takes nothing out of an archive, so the image settles it.
                let is_weak = symbol.place == Place::Undefined && symbol.binding == Binding::Weak;
                (1..units.len())
                    .filter(|_| !is_weak)
                    .find_map(|l| defined_in(units, l, symbol.name))
            }
            UnitKind::Library => {
                let library = &libraries[own - 1];
                let supplier = library.suppliers.get(symbol.name);
                supplier
                    .into_iter()
                    .chain(&library.scope)
                    .find_map(|l| defined_in(units, l + 1, symbol.name))
            }
        }
    };
    unit.objects
        .iter()
        .enumerate()
        .map(|(o, object)| {
            let symbols = object.symbols.iter().enumerate();
            symbols
                .map(|(s, symbol)| {
                    let this = Target::Defined(SymbolId {
                        unit: own,
                        object: o,
                        symbol: s,
                    });
                    if symbol.is_local() || symbol.name.is_empty() {
                        return match symbol.place {
                            Place::Section(_) if !unit.defines(o, symbol) => Target::Dropped,
                            _ => this,
                        };
                    }
                    if unit.kind == UnitKind::Library && START_FILE_SYMBOLS.contains(&symbol.name) {
                        return Target::Import(symbol.name);
                    }
                    defined_in(units, own, symbol.name)
                        .or_else(|| elsewhere(symbol))
                        .map_or_else(|| own_meaning(unit, symbol.name), Target::Defined)
                })
                .collect()
        })
        .collect()
}

pub(super) fn defined_in(units: &[Unit<'_>], unit: usize, name: &str) -> Option<SymbolId> {
    let (object, symbol) = units[unit].definition(name)?;
    Some(SymbolId {
        unit,
        object,
        symbol,
    })
}

/// The meaning of a symbol that no object defines: the unit's own, where that can be.
fn own_meaning<'a>(unit: &Unit<'a>, name: &'a str) -> Target<'a> {
    let set = |prefix: &str| {
        name.strip_prefix(prefix).filter(|set| {
            unit.sections()
                .any(|(_, _, s)| s.is_loaded() && s.name == *set)
        })
    };
    if name == "_GLOBAL_OFFSET_TABLE_" {
        Target::OffsetTable
    } else if matches!(name, "__ehdr_start" | "__executable_start")
        || (name == "__dso_handle" && unit.kind == UnitKind::Library)
    {
        // Any address does as a handle for destructors: in a static executable there is one.
        Target::Header
    } else if let Some(set) = set("__start_") {
        Target::SetStart(set)
    } else if let Some(set) = set("__stop_") {
        Target::SetEnd(set)
    } else {
        Target::Import(name)
    }
}

/// Where imports lead, and what is needed and reached.
#[derive(Debug)]
pub(super) struct Reach {
    /// By unit and object.
    needed: Vec<Vec<bool>>,
    reached: Vec<Vec<bool>>,
}

impl Reach {
    /// Follows references from the application and from the symbols `roots`.
    pub(super) fn from_application(
        units: &[Unit<'_>],
        targets: &[UnitTargets<'_>],
        roots: &[&str],
    ) -> Self {
        let nothing =
            || -> Vec<Vec<bool>> { units.iter().map(|u| vec![false; u.objects.len()]).collect() };
        let mut reach = Self {
            needed: nothing(),
            reached: nothing(),
        };
        let application = (0..units[0].objects.len()).map(|o| (0, o));
        let roots = roots.iter().filter_map(|name| find(units, name));
        let start: Vec<(usize, usize)> = application
            .chain(roots.map(|id| (id.unit, id.object)))
            .collect();
        let sets = set_members(units);
        follow(&mut reach.needed, start.clone(), |at| {
            references(units, targets, &sets, at, false)
        });
        follow(&mut reach.reached, start, |at| {
            references(units, targets, &sets, at, true)
        });
        reach
    }

    /// True when an ordinary link would take the object.
    pub(super) fn is_needed(&self, unit: usize, object: usize) -> bool {
        self.needed[unit][object]
    }

    /// True when a reference leads to the object.
    pub(super) fn is_reached(&self, unit: usize, object: usize) -> bool {
        self.reached[unit][object]
    }

    /// True when the unit takes part in the image.
    pub(super) fn includes(&self, unit: usize) -> bool {
        unit == 0 || self.reached[unit].contains(&true)
    }

    /// What the image has under `name`: the application's symbol, or that of a library member
    /// which is reached.
    pub(super) fn definition(&self, units: &[Unit<'_>], name: &str) -> Option<SymbolId> {
        (0..units.len())
            .filter_map(|unit| defined_in(units, unit, name))
            .find(|id| self.is_reached(id.unit, id.object))
    }
}

fn find(units: &[Unit<'_>], name: &str) -> Option<SymbolId> {
    (0..units.len()).find_map(|unit| defined_in(units, unit, name))
}

fn follow(
    seen: &mut [Vec<bool>],
    mut open: Vec<(usize, usize)>,
    next: impl Fn((usize, usize)) -> Vec<(usize, usize)>,
) {
    while let Some(at) = open.pop() {
        if !std::mem::replace(&mut seen[at.0][at.1], true) {
            open.extend(next(at));
        }
    }
}

type Sets<'a> = BTreeMap<(usize, &'a str), Vec<usize>>;

/// Of each unit and section name that can be walked by `__start_NAME`, the objects with a part.
fn set_members<'a>(units: &[Unit<'a>]) -> Sets<'a> {
    let mut sets: Sets<'a> = BTreeMap::new();
    for (u, unit) in units.iter().enumerate() {
        for (o, _, section) in unit.sections() {
            if section.is_loaded() && is_set_name(section.name) {
                sets.entry((u, section.name)).or_default().push(o);
            }
        }
    }
    sets
}

/// Section names that are C identifiers can be walked by `__start_NAME` and `__stop_NAME`.
pub(super) fn is_set_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The objects to which an object's symbols lead: all of them, or those only that an ordinary
/// link would follow.
fn references(
    units: &[Unit<'_>],
    targets: &[UnitTargets<'_>],
    sets: &Sets<'_>,
    (unit, object): (usize, usize),
    all: bool,
) -> Vec<(usize, usize)> {
    let symbols = &units[unit].objects[object].symbols;
    let mut next = Vec::new();
    for (symbol, target) in symbols.iter().zip(&targets[unit][object]) {
        // A symbol of a section that takes no part (another copy counts) is needed like an
        // undefined one.
        let is_needed = match symbol.place {
            Place::Undefined => symbol.binding == Binding::Global,
            _ => !units[unit].defines(object, symbol),
        };
        match target {
            Target::Defined(id) if all || is_needed => next.push((id.unit, id.object)),
            Target::Import(name) if is_needed => {
                next.extend(find(units, name).map(|id| (id.unit, id.object)));
            }
            Target::SetStart(set) | Target::SetEnd(set) => {
                if let Some(members) = sets.get(&(unit, *set)) {
                    next.extend(members.iter().map(|o| (unit, *o)));
                }
            }
            _ => {}
        }
    }
    next
}
