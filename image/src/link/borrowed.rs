//! What of members that are not in the program is used for the sake of a copy in it: of a section group that C++ has one
//! of in a program, the copy that counts may be that of such a member, and a library's members use the first of their
//! library as their own. With it comes what it refers to in its own object and others have no name for: constants, and
//! functions of the object's own.

use super::hash::HashSet;
use super::object::Place;
use super::resolve::Resolution;
use super::target::{Target, UnitTargets};
use super::unit::{SymbolId, Unit};

/// Sections of members that are not in the program.
#[derive(Debug, Default)]
pub(super) struct Borrowed {
    sections: HashSet<(usize, usize, usize)>,
    objects: HashSet<(usize, usize)>,
}

impl Borrowed {
    /// Finds them, now that it is known what symbols mean to their units.
    pub(super) fn of<'a>(
        units: &[Unit<'a>],
        targets: &[UnitTargets<'a>],
        program: &Resolution<'a>,
    ) -> Self {
        let dead = |id: SymbolId| {
            if id.unit == 0 || program.is_live(id.unit, id.object) {
                return None;
            }
            match units[id.unit].objects[id.object].symbols[id.symbol].place {
                Place::Section(section) => Some((id.unit, id.object, section)),
                _ => None,
            }
        };
        let used_by = |(unit, object, index): (usize, usize, usize), open: &mut Vec<_>| {
            let of = &units[unit].objects[object];
            for relocation in &of.sections[index].relocations {
                if let Target::Defined(id) = targets[unit][object][relocation.symbol]
                    && let Some(next) = dead(id)
                    && (units[next.0].is_copy(next.1, next.2)
                        || of.symbols[relocation.symbol].is_local())
                {
                    open.push(next);
                }
            }
        };
        let mut open: Vec<_> = program.all_definitions().filter_map(dead).collect();
        for (u, unit) in units.iter().enumerate().skip(1) {
            for (o, s, section) in unit.sections() {
                if section.is_loaded() && program.is_live(u, o) {
                    used_by((u, o, s), &mut open);
                }
            }
        }
        let mut found = Self::default();
        while let Some(at) = open.pop() {
            if found.sections.insert(at) {
                found.objects.insert((at.0, at.1));
                used_by(at, &mut open);
            }
        }
        found
    }

    /// The section is used.
    pub(super) fn has(&self, at: (usize, usize, usize)) -> bool {
        self.sections.contains(&at)
    }

    /// Something of the object is.
    pub(super) fn has_of(&self, unit: usize, object: usize) -> bool {
        self.objects.contains(&(unit, object))
    }
}
