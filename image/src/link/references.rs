//! What the relocations of a section do: each with its target, its patch, and what it makes of the instruction.

use goblin::elf::reloc as r;

use super::error::LinkError;
use super::instructions::Instructions;
use super::merge;
use super::object::{Binding, Object, Place, Relocation, Section, Symbol};
use super::patch::{self, Patch, Referrer, Settled, TargetFacts, Value};
use super::slots::{self, Rewritten};
use super::target::{Target, UnitTargets};
use super::unit::{Unit, UnitKind};

/// An object of the application whose code has no more addresses of 32 bits than this loads them from the offset table, so
/// that the image can start anywhere. The start files of a compiler for static programs have 13.
const FEW_ADDRESSES: usize = 32;

/// A relocation and what it does.
pub(super) struct Patched<'p, 'a> {
    pub(super) relocation: &'p Relocation,
    pub(super) target: Target<'a>,
    pub(super) facts: TargetFacts,
    pub(super) patch: Patch,
    /// Another instruction in place of the section's own, of which [`Patched::patch`] is a copy. Few are.
    pub(super) rewritten: Option<Box<Rewritten>>,
}

impl Patched<'_, '_> {
    /// A call gets there by a stub and the offset table.
    pub(super) fn takes_stub(&self) -> bool {
        self.patch.value == Value::Branch
            && matches!(self.facts.settled, Settled::ByImage | Settled::Replaceable)
    }

    /// Where the target is goes into the section itself, though the unit does not know it.
    pub(super) fn holds_import(&self) -> bool {
        !self.facts.is_known() && self.patch.value.is_direct()
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
    let mut instructions = None;
    let mut relocations = section.relocations.iter();
    while let Some(relocation) = relocations.next() {
        let target = targets[object][relocation.symbol];
        let symbol = &unit.objects[object].symbols[relocation.symbol];
        let facts = facts(units, own, &target, section, symbol);
        let (kind, addend) = (relocation.kind, relocation.addend);
        let fault = |problem| LinkError::Relocation {
            place: place(unit, object, index, relocation.offset),
            problem,
        };
        let patch =
            patch::patch(kind, addend, section.bytes, relocation.offset, facts).map_err(fault)?;
        if let Some(call) = patch.takes_next {
            let next = relocations.next().filter(|next| {
                let called = unit.objects[object].symbols[next.symbol].name;
                relocation.offset.checked_add_signed(call) == Some(next.offset)
                    && called == "__tls_get_addr"
            });
            if next.is_none() {
                return Err(fault(patch::unknown_sequence("dynamic")));
            }
        }
        let mut patched = Patched {
            relocation,
            target,
            facts,
            patch,
            rewritten: None,
        };
        let takes_slot = facts.has_table() && facts.settled != Settled::ByUnit;
        let slides = takes_slot_to_slide(unit, (object, section), facts, &patched);
        if (takes_slot || slides) && patched.patch.value.is_direct() {
            let instructions = instructions
                .get_or_insert_with(|| Instructions::read(&unit.objects[object], index));
            let addresses = !slides && facts.settled != Settled::ByImage;
            // Only to slide nothing is rewritten that might be data after all.
            let is_certain = |code: &&Instructions<'_>| {
                takes_slot
                    || relocation.kind == r::R_X86_64_PC32
                    || code.is_reached(relocation.offset)
            };
            let rewritten = instructions
                .as_ref()
                .filter(is_certain)
                .and_then(|code| slots::through_slot(code, relocation, addresses));
            if let Some(rewritten) = rewritten {
                patched.patch = rewritten.patch.clone();
                patched.rewritten = Some(Box::new(rewritten));
            }
        }
        patches.push(patched);
    }
    Ok(patches)
}

/// True when relocations of a section of a library only lead to what the library itself settles, directly: its offset table has
/// nothing for them.
pub(super) fn are_plain(
    units: &[&Unit<'_>],
    own: usize,
    targets: &UnitTargets<'_>,
    (object, index): (usize, usize),
) -> bool {
    let of = &units[own].objects[object];
    let section = &of.sections[index];
    let is_direct = |kind: u32| {
        matches!(
            kind,
            r::R_X86_64_64
                | r::R_X86_64_32
                | r::R_X86_64_32S
                | r::R_X86_64_PC32
                | r::R_X86_64_PLT32
        )
    };
    units[own].kind == UnitKind::Library
        && section.relocations.iter().all(|relocation| {
            let symbol = &of.symbols[relocation.symbol];
            let target = &targets[object][relocation.symbol];
            is_direct(relocation.kind)
                && facts(units, own, target, section, symbol).settled == Settled::ByUnit
        })
}

/// An instruction of the application that could not follow when the image starts elsewhere.
fn takes_slot_to_slide(
    unit: &Unit<'_>,
    (object, section): (usize, &Section<'_>),
    facts: TargetFacts,
    patched: &Patched<'_, '_>,
) -> bool {
    let is_code = section.is_loaded() && section.is_code() && section.gathered.is_none();
    if unit.kind != UnitKind::Application || !is_code {
        return false;
    }
    match patched.relocation.kind {
        r::R_X86_64_32 | r::R_X86_64_32S if !facts.is_number => {
            !unit.stays && may_load_address(&unit.objects[object], patched.relocation)
        }
        r::R_X86_64_PC32 => {
            let stays = facts.may_be_absent || facts.is_number;
            stays && patched.patch.value == Value::Distance
        }
        _ => false,
    }
}

/// True when an address of 32 bits is of those that the application's code loads from slots, so that the image can start anywhere.
pub(super) fn is_loaded_to_slide(
    unit: &Unit<'_>,
    (object, section): (usize, usize),
    relocation: &Relocation,
) -> bool {
    let object = &unit.objects[object];
    let section = &object.sections[section];
    let is_code = section.is_loaded() && section.is_code() && section.gathered.is_none();
    unit.kind == UnitKind::Application
        && is_code
        && is_narrow(relocation)
        && may_load_address(object, relocation)
}

/// True when the application has addresses of 32 bits that are not loaded from slots, so that the image can only run where it is
/// linked, whatever becomes of others.
pub(super) fn stays(units: &[Unit<'_>], targets: &UnitTargets<'_>) -> bool {
    let unit = &units[0];
    let moves = |target: &Target<'_>| {
        let Target::Defined(id) = target else {
            return false;
        };
        let of = &units[id.unit];
        let symbol = &of.objects[id.object].symbols[id.symbol];
        matches!(symbol.place, Place::Section(_) | Place::Common)
            && of.defines(id.object, symbol)
            && !symbol.is_thread_local()
    };
    // What is to reach libraries by slots has fewer such than its relocations say.
    !unit.reaches_by_slots
        && unit.sections().any(|(o, s, section)| {
            let mut narrow = section.relocations.iter().filter(|r| is_narrow(r));
            section.is_loaded()
                && narrow.any(|relocation| {
                    moves(&targets[o][relocation.symbol])
                        && !is_loaded_to_slide(unit, (o, s), relocation)
                })
        })
}

/// It writes an address of 32 bits.
fn is_narrow(relocation: &Relocation) -> bool {
    matches!(relocation.kind, r::R_X86_64_32 | r::R_X86_64_32S)
}

fn may_load_address(object: &Object<'_>, relocation: &Relocation) -> bool {
    let symbol = &object.symbols[relocation.symbol];
    // Which of the merged is meant the addend says.
    let is_merged =
        matches!(symbol.place, Place::Section(s) if merge::key(&object.sections[s]).is_some());
    !is_merged && has_few_addresses(object)
}

fn has_few_addresses(object: &Object<'_>) -> bool {
    let code = object.sections.iter().filter(|section| section.is_code());
    let mut relocations = code.flat_map(|section| &section.relocations);
    relocations
        .by_ref()
        .filter(|relocation| is_narrow(relocation))
        .nth(FEW_ADDRESSES)
        .is_none()
}

/// What a relocation's target is to the unit that refers to it.
fn facts(
    units: &[&Unit<'_>],
    own: usize,
    target: &Target<'_>,
    section: &Section<'_>,
    symbol: &Symbol<'_>,
) -> TargetFacts {
    let is_direct = units[own].kind.refers_directly();
    let has_slots = !is_direct || units[own].reaches_by_slots;
    let mut facts = TargetFacts {
        settled: Settled::ByUnit,
        is_number: false,
        may_be_absent: is_direct
            && matches!(target, Target::Import(_))
            && symbol.binding == Binding::Weak,
        place: match section.is_code() {
            true if has_slots && section.is_loaded() && section.gathered.is_none() => {
                Referrer::CodeWithTable
            }
            true => Referrer::Code,
            false => Referrer::Data,
        },
    };
    match target {
        // What is not loaded has neither stubs nor slots.
        _ if !section.is_loaded() => {}
        // The header is at the same address in every image, but not if it moves and the library does otherwise.
        Target::Import(_) | Target::Header if !is_direct => {
            facts.settled = Settled::ByImage;
        }
        Target::Defined(id) => {
            let object = &units[id.unit].objects[id.object];
            if !is_direct && !symbol.is_local() && units[id.unit].is_replaceable(symbol.name) {
                facts.settled = Settled::Replaceable;
            }
            let is_elsewhere = has_slots && is_direct && id.unit != own;
            let is_thread_local = object.symbols[id.symbol].is_thread_local();
            match object.symbols[id.symbol].place {
                Place::Section(s)
                    if is_elsewhere
                        && !is_thread_local
                        && object.sections[s].gathered.is_none() =>
                {
                    facts.settled = Settled::ByImage;
                }
                Place::Common if is_elsewhere && !is_thread_local => {
                    facts.settled = Settled::ByImage;
                }
                Place::Section(_) if is_direct => {}
                Place::Section(s) => {
                    if object.sections[s].gathered.is_some() {
                        facts.settled = Settled::ByImage;
                    } else if facts.settled == Settled::ByUnit
                        && !symbol.is_local()
                        && units[id.unit].is_copy(id.object, s)
                    {
                        facts.settled = Settled::Copy;
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
