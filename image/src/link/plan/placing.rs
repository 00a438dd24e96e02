//! Makes a unit's plan: decides each section's part and order, and fills the tables.

use std::collections::BTreeMap;

use goblin::elf::section_header::SHT_NOTE;
use pool_core::page::PAGE_SIZE;

use super::{Entry, Extent, Part, Placement, Plan, STUB_SIZE};
use crate::link::args::{LinkRequest, Strip};
use crate::link::detour_frames;
use crate::link::error::LinkError;
use crate::link::hash::HashSet;
use crate::link::merge::{self, MergeKey};
use crate::link::object::{Binding, Place, Section, is_set_name};
use crate::link::patch::Value;
use crate::link::references::{Patched, are_plain, patches};
use crate::link::target::{Target, UnitTargets};
use crate::link::unit::{SymbolId, Unit, UnitKind};

/// Plans the unit whose index is `own`.
pub(super) fn plan<'a>(
    units: &[&Unit<'a>],
    own: usize,
    targets: &UnitTargets<'a>,
    request: &LinkRequest,
) -> Result<Plan<'a>, LinkError> {
    let mut planner = Planner {
        units,
        unit: units[own],
        own,
        targets,
        plan: Plan::empty(units[own]),
        protects: false,
    };
    let bound = planner.tables()?;
    planner.protects = request.protects && planner.unit.kind == UnitKind::Application;
    planner.place(&bound, request.strip)?;
    Ok(planner.plan)
}

struct Planner<'p, 'a> {
    unit: &'p Unit<'a>,
    own: usize,
    targets: &'p UnitTargets<'a>,
    units: &'p [&'p Unit<'a>],
    plan: Plan<'a>,
    /// What is placed now of the data is constant after the start.
    protects: bool,
}

impl<'a> Planner<'_, 'a> {
    /// Fills the offset table and the lists of stubs, in the order of the references. Answers with the library's sections
    /// that hold an import's address themselves, and are smaller than the pages that an image would have of its own for it.
    fn tables(&mut self) -> Result<HashSet<(usize, usize)>, LinkError> {
        let unit = self.unit;
        for (o, s, symbol) in unit.symbols() {
            if let (true, Place::Section(section)) = (symbol.is_indirect_function(), symbol.place)
                && unit.defines(o, symbol)
            {
                let id = SymbolId {
                    unit: self.own,
                    object: o,
                    symbol: s,
                };
                let key = (o, section, symbol.value);
                if !self.plan.resolved_index.contains_key(&key) {
                    self.plan
                        .resolved_index
                        .insert(key, self.plan.resolved.len());
                    self.plan.resolved.push(id);
                    self.plan.add_entry(Entry::Resolved(id));
                }
            }
            if let Target::Import(name) = self.targets[o][s]
                && symbol.binding == Binding::Weak
                && symbol.place == Place::Undefined
            {
                self.plan.weak_imports.insert(name);
            }
        }
        let mut bound = HashSet::default();
        for (o, s, section) in unit.sections() {
            if !section.is_loaded() || are_plain(self.units, self.own, self.targets, (o, s)) {
                continue;
            }
            let plan = &mut self.plan;
            let patches = patches(self.units, self.own, self.targets, (o, s))?;
            if self.unit.kind == UnitKind::Library && is_bound(section, &patches) {
                bound.insert((o, s));
            }
            for patched in patches {
                let target = patched.target;
                match patched.patch.value {
                    Value::EntryDistance | Value::EntryOffset => {
                        plan.add_entry(Entry::Address(target, patched.patch.entry));
                    }
                    Value::Detour => {
                        let at = (o, s, patched.relocation.offset);
                        let entry = Entry::Address(target, patched.patch.entry);
                        let detour = patched.rewritten.and_then(|rewritten| rewritten.detour);
                        if let Some(detour) = detour {
                            plan.add_detour(at, detour, entry);
                        }
                    }
                    Value::ThreadEntryDistance => plan.add_entry(Entry::ThreadOffset(target)),
                    Value::Branch if patched.takes_stub() => {
                        plan.add_entry(Entry::Address(target, 0));
                        if !plan.stub_index.contains_key(&target) {
                            plan.stub_index.insert(target, plan.stubs.len());
                            plan.stubs.push(target);
                        }
                    }
                    _ => {}
                }
            }
        }
        let of = |(o, s): &(usize, usize)| self.unit.objects[*o].sections[*s].name;
        let bound_sets: HashSet<&str> = bound.iter().map(of).collect();
        // A set of sections that is walked from end to end stays together.
        for (o, s, section) in unit.sections() {
            if is_set_name(section.name) && bound_sets.contains(section.name) {
                bound.insert((o, s));
            }
        }
        Ok(bound)
    }

    fn place(&mut self, bound: &HashSet<(usize, usize)>, strip: Strip) -> Result<(), LinkError> {
        let unit = self.unit;
        // Those of one part and rank stay in the order of the command line.
        let mut order: BTreeMap<(Part, Rank<'a>), Vec<(usize, usize)>> = BTreeMap::new();
        let mut mergeable: BTreeMap<MergeKey, Vec<(usize, usize)>> = BTreeMap::new();
        for (o, s, section) in unit.sections() {
            let part = self.part(o, s, section, bound, strip)?;
            if let (Part::Constant, Some(key)) = (part, merge::key(section)) {
                mergeable.entry(key).or_default().push((o, s));
            } else {
                let rank = Rank::of(part, section);
                order.entry((part, rank)).or_default().push((o, s));
            }
        }

        let tables = self.plan.table_size();
        self.plan.data.take(tables, 16);
        self.plan.data_stored = tables;
        let order = order.into_iter().flat_map(|((part, rank), sections)| {
            let sections = sections.into_iter();
            sections.map(move |(o, s)| (part, rank, o, s))
        });
        let (before, after): (Vec<_>, Vec<_>) =
            order.partition(|(part, rank, ..)| *part != Part::Constant || *rank <= Rank::FIRST);
        for (part, rank, o, s) in before {
            if part == Part::Data && rank > Rank::FIRST {
                self.end_protected();
            }
            self.place_section(part, o, s);
            if part == Part::Constant {
                self.plan.notes = self.plan.constant.size;
            }
        }
        for (key, sections) in mergeable {
            self.place_merged(key, &sections);
        }
        for (part, _, o, s) in after {
            self.place_section(part, o, s);
        }
        self.place_stubs();
        self.place_commons();
        if self.protects && self.plan.data.size > 0 {
            self.protect();
        }
        Ok(())
    }

    fn part(
        &self,
        object: usize,
        index: usize,
        section: &Section<'a>,
        bound: &HashSet<(usize, usize)>,
        strip: Strip,
    ) -> Result<Part, LinkError> {
        let name = &self.unit.objects[object].name;
        if !section.is_loaded() {
            let debugging = section.name.starts_with(".debug") || section.name.starts_with(".stab");
            let unwanted = (debugging && strip != Strip::Nothing) || section.is_zero();
            return Ok(if unwanted { Part::Dropped } else { Part::Loose });
        }
        if section.is_writable() && section.is_code() {
            return Err(LinkError::input(
                name,
                format!(
                    "section {} is writable and executable: make it one or the other",
                    section.name
                ),
            ));
        }
        if let Some(gathered) = section.gathered {
            return Ok(Part::Gathered(gathered));
        }
        Ok(if section.is_thread_local() {
            Part::Thread
        } else if section.is_zero() || section.is_writable() && !is_constant(section) {
            Part::Data
        } else if bound.contains(&(object, index)) {
            Part::Bound
        } else if section.is_code() {
            Part::Code
        } else {
            Part::Constant
        })
    }

    fn place_section(&mut self, part: Part, object: usize, index: usize) {
        let section = &self.unit.objects[object].sections[index];
        let plan = &mut self.plan;
        let extent = match part {
            Part::Code => &mut plan.code,
            Part::Constant => &mut plan.constant,
            Part::Bound => &mut plan.bound,
            Part::Data => &mut plan.data,
            Part::Thread => &mut plan.thread,
            Part::Gathered(_) | Part::Loose | Part::Dropped => &mut Extent::default(),
        };
        let offset = extent.take(section.size, section.alignment);
        // Writable only so that they can be relocated.
        plan.holds_addresses |= part == Part::Constant && section.is_writable();
        if part == Part::Constant && section.name == ".eh_frame" {
            plan.frames.get_or_insert(offset);
        }
        if !section.is_zero() {
            match part {
                Part::Data => plan.data_stored = plan.data.size,
                Part::Thread => plan.thread_stored = plan.thread.size,
                _ => {}
            }
        }
        plan.placements[object][index] = Placement {
            part,
            offset,
            merged: None,
        };
        if is_set_name(section.name) && section.is_loaded() {
            let end = offset + section.size;
            let set = plan.sets.entry(section.name).or_insert((part, offset, end));
            set.2 = end;
        }
    }

    fn place_merged(&mut self, key: MergeKey, sections: &[(usize, usize)]) {
        let objects = &self.unit.objects;
        let mut merged = merge::merge(
            key,
            sections
                .iter()
                .map(|(o, s)| ((self.own, *o, *s), &objects[*o].sections[*s])),
        );
        let size = merged.bytes.len() as u64;
        merged.offset = self.plan.constant.take(size, merged.alignment);
        for (object, section) in sections {
            self.plan.placements[*object][*section] = Placement {
                part: Part::Constant,
                offset: merged.offset,
                merged: Some(self.plan.merged.len()),
            };
        }
        self.plan.merged.push(merged);
    }

    /// What follows of the data is written after the start.
    fn end_protected(&mut self) {
        if std::mem::take(&mut self.protects) && self.plan.data.size > 0 {
            self.protect();
            self.plan.data.take(0, PAGE_SIZE);
        }
    }

    fn protect(&mut self) {
        let data = &mut self.plan.data;
        self.plan.constant_after_start = data.size;
        data.alignment = data.alignment.max(PAGE_SIZE);
    }

    fn place_stubs(&mut self) {
        let plan = &mut self.plan;
        let count = plan.stub_count();
        let stubs = plan.code.take(count * STUB_SIZE, 16);
        plan.stub_offsets = (0..count).map(|index| stubs + index * STUB_SIZE).collect();
        let detours = plan.code.take(plan.detours_size, 16);
        for planned in &mut plan.detours {
            planned.offset += detours;
        }
        if self.unit.kind == UnitKind::Application
            && !self.unit.reaches_by_slots
            && plan.detours.is_empty()
        {
            return;
        }
        let detours = plan.detours.iter().map(|planned| &planned.detour);
        let size = detour_frames::size(usize::from(count > 0), detours);
        if size > 0 {
            let offset = plan.constant.take(size, 8);
            plan.detour_frames = (offset, size);
            plan.frames.get_or_insert(offset);
        }
    }

    fn place_commons(&mut self) {
        for (o, s, symbol) in self.unit.symbols() {
            let id = SymbolId {
                unit: self.own,
                object: o,
                symbol: s,
            };
            // What a library leaves open (a variable that has defaults) may still be this.
            let counts = self.targets[o][s] == Target::Defined(id)
                || self.unit.definition(symbol.name) == Some((o, s));
            if symbol.place == Place::Common && counts {
                if !symbol.is_thread_local() {
                    self.end_protected();
                }
                let extent = if symbol.is_thread_local() {
                    &mut self.plan.thread
                } else {
                    &mut self.plan.data
                };
                let offset = extent.take(symbol.size, symbol.value.max(1));
                self.plan.commons.insert((o, s), offset);
            }
        }
    }
}

/// Of a read-only section of a library, by what its relocations do.
fn is_bound(section: &Section<'_>, patches: &[Patched<'_, '_>]) -> bool {
    if section.is_writable() && !is_constant(section) {
        return false;
    }
    let imports = patches.iter().filter(|patched| patched.holds_import());
    let pages = imports.map(|patched| patched.relocation.offset / PAGE_SIZE);
    let pages: HashSet<u64> = pages.collect();
    !pages.is_empty() && section.size <= pages.len() as u64 * PAGE_SIZE
}

/// Writable only so that a dynamic linker could relocate it. Compilers name such sections with a
/// suffix; the name without one is also given by hand to variables that the program writes at
/// start and then protects.
fn is_constant(section: &Section<'_>) -> bool {
    section.name.starts_with(".data.rel.ro.") && !section.is_zero()
}

/// The order of sections in a part. Parts of one kind keep the order of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a>(u8, Option<&'a str>);

impl<'a> Rank<'a> {
    /// Constants up to this rank come before merged ones.
    const FIRST: Self = Self(0, None);

    fn of(part: Part, section: &Section<'a>) -> Self {
        let name = section.name;
        let set = is_set_name(name).then_some(name);
        let is = |prefix: &str| name.starts_with(prefix);
        let rank = match part {
            // Code that runs together lies together.
            Part::Code if is(".text.hot") => 0,
            Part::Code if is(".text.startup") => 2,
            Part::Code if is(".text.exit") => 3,
            Part::Code if is(".text.unlikely") => 4,
            Part::Constant if section.kind == SHT_NOTE => 0,
            Part::Constant if is(".eh_frame") => 4,
            Part::Constant if is(".gcc_except_table") => 3,
            Part::Constant if section.is_writable() => 2,
            Part::Code | Part::Constant => 1,
            Part::Data if section.is_zero() && set.is_none() => 5,
            Part::Data if section.is_zero() => 4,
            Part::Data if is(".data.rel.ro") => 0,
            Part::Data if set.is_none() => 1,
            Part::Data => 2,
            Part::Thread if section.is_zero() => 1,
            _ => 0,
        };
        Self(rank, set)
    }
}
