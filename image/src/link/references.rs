//! What the relocations of a section do: each with its target and its patch.

use super::error::LinkError;
use super::gathered::gathered;
use super::object::{Place, Relocation, Section, Symbol};
use super::patch::{self, Patch, Settled, TargetFacts, Value};
use super::symbols::{Target, UnitTargets};
use super::unit::{Unit, UnitKind};

/// A relocation and what it does.
pub(super) struct Patched<'p, 'a> {
    pub(super) relocation: &'p Relocation,
    pub(super) target: Target<'a>,
    pub(super) facts: TargetFacts,
    pub(super) patch: Patch,
}

impl Patched<'_, '_> {
    /// A call gets there by a stub and the offset table.
    pub(super) fn takes_stub(&self) -> bool {
        self.patch.value == Value::Branch && self.facts.settled != Settled::ByUnit
    }
}

/// What the relocations of a section of unit `own` do, without those that another one makes
/// superfluous.
pub(super) fn patches<'p, 'a>(
    units: &[&'p Unit<'a>],
    own: usize,
    targets: &UnitTargets<'a>,
    (object, index): (usize, usize),
) -> Result<Vec<Patched<'p, 'a>>, LinkError> {
    let unit = units[own];
    let section = &unit.objects[object].sections[index];
    let mut patches = Vec::with_capacity(section.relocations.len());
    let mut skip = false;
    for relocation in &section.relocations {
        if std::mem::take(&mut skip) {
            continue;
        }
        let target = targets[object][relocation.symbol];
        let symbol = &unit.objects[object].symbols[relocation.symbol];
        let facts = facts(units, own, &target, section, symbol);
        let (kind, addend) = (relocation.kind, relocation.addend);
        let patch = patch::patch(kind, addend, section.bytes, relocation.offset, facts).map_err(
            |problem| LinkError::Relocation {
                place: place(unit, object, index, relocation.offset),
                problem,
            },
        )?;
        skip = patch.takes_next;
        patches.push(Patched {
            relocation,
            target,
            facts,
            patch,
        });
    }
    Ok(patches)
}

/// What a relocation's target is to the unit that refers to it.
fn facts(
    units: &[&Unit<'_>],
    own: usize,
    target: &Target<'_>,
    section: &Section<'_>,
    symbol: &Symbol<'_>,
) -> TargetFacts {
    let is_application = units[own].kind == UnitKind::Application;
    let mut facts = TargetFacts {
        settled: Settled::ByUnit,
        is_number: false,
        is_loaded: section.is_loaded(),
    };
    match target {
        Target::Import(_) if !is_application => facts.settled = Settled::ByImage,
        Target::Defined(id) => {
            let object = &units[id.unit].objects[id.object];
            if !is_application && !symbol.is_local() && units[id.unit].is_replaceable(symbol.name) {
                facts.settled = Settled::Replaceable;
            }
            match object.symbols[id.symbol].place {
                Place::Section(s) => {
                    if !is_application && gathered(&object.sections[s]).is_some() {
                        facts.settled = Settled::ByImage;
                    }
                }
                Place::Absolute => facts.is_number = true,
                Place::Undefined | Place::Common => {}
            }
        }
        _ => {}
    }
    facts
}

/// `libz.a(adler32.o): .text+0x12`, for messages.
pub(super) fn place(unit: &Unit<'_>, object: usize, section: usize, offset: u64) -> String {
    let object = &unit.objects[object];
    format!(
        "{}: {}+{offset:#x}",
        object.name, object.sections[section].name
    )
}
