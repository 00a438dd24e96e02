//! What GNU ld makes of the inputs: which objects are in the program, and what each name means there.
//!
//! Pure, and decided before anything is shared: wherever a library's pages mean something else, the image
//! has pages of its own ([`super::relocate`]). Source: binutils, `bfd/linker.c` (`link_action`) and
//! `bfd/elflink.c` (`elf_link_add_object_symbols`, `elf_link_add_archive_symbols`).
//!
//! Licences are taken where ld would fail: an archive that it would have to be told of again, further right, is
//! found where it is, and one without a table of its symbols is searched. And of a section group that C++ has one
//! of in a program (its signature is a mangled name, or a reference to a function of the unwinder's), the copy of a
//! library counts before the application's: the language makes them the same.

use std::cmp::Ordering;

use super::args::Definition;
use super::asked::Asked;
use super::error::LinkError;
use super::files::Step;
use super::hash::{HashMap, HashSet, map_with_capacity};
use super::object::{Binding, Object, Place, Symbol};
use super::unit::{Beforehand, Groups, STRONG, SymbolId, Unit, is_one_by_language, precedence};

/// Sections, by unit, object and index.
pub(super) type Sections = HashSet<(usize, usize, usize)>;

/// The program.
#[derive(Debug, Default)]
pub(super) struct Resolution<'a> {
    /// By unit and object: when it came into the program, if it did.
    order: Vec<Vec<Option<usize>>>,
    /// What came into it, in order.
    events: Vec<Event>,
    /// Sections of live objects of which another object's copy counts.
    lost: HashSet<(usize, usize, usize)>,
    definitions: HashMap<&'a str, SymbolId>,
    /// Names that the program refers to and has nothing under.
    absent: HashSet<&'a str>,
    /// Those by which it means others.
    renamed: HashMap<&'a str, &'a str>,
    /// By unit: something of it is in the image.
    included: Vec<bool>,
    /// What is to be said of tentative definitions.
    commons: Vec<String>,
    /// Sections that nothing needs, and those of them that are left out.
    unneeded: Sections,
    removed: Sections,
}

/// What a step of the command line led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An object came into the program.
    Loaded { unit: usize, object: usize },
    /// A symbol of the command line was defined.
    Defined(usize),
}

/// What a file became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// These objects of the application: the first, and how many.
    Objects(usize, usize),
    /// This unit.
    Archive(usize),
}

impl<'a> Resolution<'a> {
    /// Carries out `steps`, whose files became what `became` says.
    pub(super) fn new(
        units: &[Unit<'a>],
        steps: &[Step],
        became: &[Became],
        asked: &Asked<'a>,
    ) -> Result<Self, LinkError> {
        let mut resolver = Resolver::new(units, asked);
        for step in steps {
            resolver.step(step, became)?;
        }
        // Nothing is left for an ordinary link to do, but to fail for what is still wanted.
        resolver.completes = false;
        resolver.search(&(1..units.len()).collect::<Vec<_>>())?;
        Ok(Self::of(units, resolver.found))
    }

    /// The program again, whose objects are in other units now.
    pub(super) fn again(
        units: &[Unit<'a>],
        events: &[Event],
        asked: &Asked<'a>,
    ) -> Result<Self, LinkError> {
        let mut resolver = Resolver::new(units, asked);
        for event in events {
            match *event {
                Event::Loaded { unit, object } => resolver.load(unit, object)?,
                Event::Defined(definition) => resolver.define_here(definition),
            }
        }
        Ok(Self::of(units, resolver.found))
    }

    /// What was found, with what follows from it.
    fn of(units: &[Unit<'a>], mut found: Self) -> Self {
        let is_any_live = |order: &Vec<Option<usize>>| order.iter().any(Option::is_some);
        found.included = found.order.iter().map(is_any_live).collect();
        found.included[0] = true;
        for (unit, of) in units.iter().enumerate() {
            for (object, _, symbol) in of.symbols() {
                let refers = found.is_live(unit, object) && found.refers(unit, object, symbol);
                if symbol.is_local() || symbol.name.is_empty() || !refers {
                    continue;
                }
                let name = found.name(unit, object, symbol);
                if !found.definitions.contains_key(name) {
                    found.absent.insert(name);
                }
            }
        }
        found
    }

    /// What came into the program, in order.
    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    /// A thread-local variable has no address that code which knows nothing of threads could use (bfd,
    /// `_bfd_elf_merge_symbol`).
    pub(super) fn refuse_mismatch(&self, units: &[Unit<'a>]) -> Result<(), LinkError> {
        for (unit, of) in units.iter().enumerate() {
            for (object, _, symbol) in of.symbols() {
                if !self.is_live(unit, object) || symbol.is_local() {
                    continue;
                }
                let name = self.name(unit, object, symbol);
                let Some(id) = self.definitions.get(name) else {
                    continue;
                };
                let by = &units[id.unit].objects[id.object];
                if symbol.is_thread_local() == by.symbols[id.symbol].is_thread_local() {
                    continue;
                }
                let (one, other) = if symbol.is_thread_local() {
                    ("a thread-local variable", "no such")
                } else {
                    ("what is not thread-local", "a thread-local variable")
                };
                return Err(LinkError::input(
                    &of.objects[object].name,
                    format!(
                        "has {} as {one}, and {} as {other}: declare it alike in both (__thread, thread_local)",
                        symbol.name, by.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Settles which of the copies and tentative definitions that the units have places for counts.
    pub(super) fn settle(
        &mut self,
        units: &mut [Unit<'a>],
        may_repeat: bool,
    ) -> Result<(), LinkError> {
        let others: Vec<&Unit<'a>> = (1..units.len())
            .filter(|unit| self.included[*unit])
            .map(|unit| &units[unit])
            .collect();
        let mut dropped = units[0].copies_in(&others, is_one_by_language);
        let lost = self.lost.iter().filter(|(unit, ..)| *unit == 0);
        dropped.extend(lost.map(|(_, object, section)| (*object, *section)));
        units[0].drop_sections(&dropped, may_repeat)?;
        let mut settled = map_with_capacity(self.definitions.len());
        for (&name, &id) in &self.definitions {
            let owner = self.owner(units, name, id);
            let owner = owner.ok_or_else(|| LinkError::Copies {
                symbol: name.to_owned(),
                object: units[id.unit].objects[id.object].name.clone(),
            })?;
            settled.insert(name, owner);
        }
        for id in settled.values() {
            self.included[id.unit] = true;
        }
        self.definitions = settled;
        Ok(())
    }

    /// From now on these sections are needed by nothing, and of them these are left out.
    pub(super) fn leave_out(&mut self, unneeded: Sections, removed: Sections) {
        self.unneeded = unneeded;
        self.removed = removed;
    }

    /// True for a section that nothing needs, and that is not looked at.
    pub(super) fn is_unneeded(&self, unit: usize, object: usize, section: usize) -> bool {
        self.unneeded.contains(&(unit, object, section))
    }

    /// True for a section that is left out because nothing needs it.
    pub(super) fn is_removed(&self, unit: usize, object: usize, section: usize) -> bool {
        self.removed.contains(&(unit, object, section))
    }

    /// The symbol that has a place for what `id` defines.
    fn owner(&self, units: &[Unit<'a>], name: &str, id: SymbolId) -> Option<SymbolId> {
        let unit = &units[id.unit];
        let symbol = &unit.objects[id.object].symbols[id.symbol];
        let own = |unit: usize| {
            let (object, symbol) = units[unit].definition(name)?;
            Some(SymbolId {
                unit,
                object,
                symbol,
            })
        };
        if symbol.place == Place::Common {
            return own(id.unit);
        }
        if unit.defines(id.object, symbol) {
            return Some(id);
        }
        if id.unit == 0 {
            return (1..units.len())
                .filter(|unit| self.included[*unit])
                .find_map(own);
        }
        own(id.unit)
    }

    /// What is to be said of tentative definitions that met others.
    pub(super) fn commons(&self) -> &[String] {
        &self.commons
    }

    /// True when the object is in the program.
    pub(super) fn is_live(&self, unit: usize, object: usize) -> bool {
        self.order[unit][object].is_some()
    }

    /// Where a live object stands among all of them, in the order in which ld reads them: as the command line has objects,
    /// and members of archives as they are needed.
    pub(super) fn order(&self, unit: usize, object: usize) -> usize {
        self.order[unit][object].unwrap_or(usize::MAX)
    }

    /// True when the section of a live object is not in the program, since another's copy is.
    pub(super) fn is_lost(&self, unit: usize, object: usize, section: usize) -> bool {
        self.lost.contains(&(unit, object, section))
    }

    /// True when the program refers to `name` and has nothing under it.
    pub(super) fn is_absent(&self, name: &str) -> bool {
        self.absent.contains(name)
    }

    /// The program has the symbol `id` under `name`, whatever objects define.
    pub(super) fn define(&mut self, name: &'a str, id: SymbolId) {
        self.absent.remove(name);
        self.definitions.insert(name, id);
        self.included[id.unit] = true;
    }

    /// What undefined references mean by `name`.
    pub(super) fn renamed<'n>(&self, name: &'n str) -> &'n str
    where
        'a: 'n,
    {
        if self.renamed.is_empty() {
            return name;
        }
        self.renamed.get(name).copied().unwrap_or(name)
    }

    /// True when some references mean another name than theirs.
    pub(super) fn renames(&self) -> bool {
        !self.renamed.is_empty()
    }

    /// All names by which such references mean others, and these.
    pub(super) fn all_renamed(&self) -> impl Iterator<Item = &'a str> {
        self.renamed.iter().flat_map(|(from, to)| [*from, *to])
    }

    /// The name under which the program has what an object's symbol refers to, or defines.
    pub(super) fn name(&self, unit: usize, object: usize, symbol: &Symbol<'a>) -> &'a str {
        self.other_name(unit, object, symbol).unwrap_or(symbol.name)
    }

    /// That name, if it is another.
    pub(super) fn other_name(
        &self,
        unit: usize,
        object: usize,
        symbol: &Symbol<'a>,
    ) -> Option<&'a str> {
        if self.renamed.is_empty() {
            return None;
        }
        let name = self.renamed.get(symbol.name).copied()?;
        (!symbol.is_local() && self.refers(unit, object, symbol)).then_some(name)
    }

    /// All such names.
    pub(super) fn all_absent(&self) -> impl Iterator<Item = &'a str> {
        self.absent.iter().copied()
    }

    /// True when the unit takes part in the image.
    pub(super) fn includes(&self, unit: usize) -> bool {
        self.included[unit]
    }

    /// All that the program has under a name, in no order.
    pub(super) fn all_definitions(&self) -> impl Iterator<Item = SymbolId> {
        self.definitions.values().copied()
    }

    /// What the program has under `name`.
    pub(super) fn definition(&self, name: &str) -> Option<SymbolId> {
        self.definitions.get(name).copied()
    }

    /// True when a live object needs `symbol`, one of its own, to be defined elsewhere.
    pub(super) fn refers(&self, unit: usize, object: usize, symbol: &Symbol<'_>) -> bool {
        match symbol.place {
            Place::Undefined => true,
            Place::Section(section) => self.is_lost(unit, object, section),
            Place::Absolute | Place::Common => false,
        }
    }
}

/// It lies in a section that says something to the linker only.
fn is_told(object: &Object<'_>, symbol: &Symbol<'_>) -> bool {
    matches!(symbol.place, Place::Section(section) if !object.sections[section].takes_part())
}

struct Resolver<'r, 'a> {
    units: &'r [Unit<'a>],
    may_repeat: bool,
    warns_common: bool,
    definitions: &'a [Definition],
    beforehand: &'a Beforehand<'a>,
    /// Names that count as defined, whatever files are still to come.
    defined: HashSet<&'a str>,
    groups: Groups<'a>,
    /// Names that an archive's member is taken for.
    wanted: HashSet<&'a str>,
    /// A member is taken for a tentative definition, too.
    completes: bool,
    /// How many of these came.
    tentative: usize,
    found: Resolution<'a>,
}

impl<'r, 'a> Resolver<'r, 'a> {
    fn new(units: &'r [Unit<'a>], asked: &Asked<'a>) -> Self {
        Self {
            units,
            may_repeat: asked.may_repeat,
            warns_common: asked.warns_common,
            definitions: asked.definitions,
            beforehand: asked.beforehand,
            defined: HashSet::default(),
            groups: asked.beforehand.groups.clone(),
            wanted: asked.roots.iter().copied().collect(),
            completes: true,
            tentative: 0,
            found: Resolution {
                order: units.iter().map(|u| vec![None; u.objects.len()]).collect(),
                renamed: asked.renamed.clone(),
                ..Resolution::default()
            },
        }
    }

    fn step(&mut self, step: &Step, became: &[Became]) -> Result<(), LinkError> {
        match step {
            Step::Object(file) => match became[*file] {
                Became::Objects(first, count) => {
                    (first..first + count).try_for_each(|object| self.load(0, object))
                }
                Became::Archive(_) => Ok(()),
            },
            Step::Whole(file) => match became[*file] {
                Became::Archive(unit) if self.found.order[unit].iter().any(Option::is_some) => {
                    Err(LinkError::input(
                        &self.units[unit].label,
                        "what is to be in the program whole is there already, and would be there twice: name it once",
                    ))
                }
                Became::Archive(unit) => {
                    (0..self.units[unit].objects.len()).try_for_each(|o| self.load(unit, o))
                }
                Became::Objects(..) => Ok(()),
            },
            Step::Search(files) => {
                let units = files.iter().filter_map(|file| match became[*file] {
                    Became::Archive(unit) => Some(unit),
                    Became::Objects(..) => None,
                });
                self.search(&units.collect::<Vec<_>>())
            }
            Step::Define(definition) => {
                self.define_here(*definition);
                Ok(())
            }
        }
    }

    /// A symbol is defined here. What it is defined by is needed; until that is there, the symbol is so too if it was
    /// before.
    fn define_here(&mut self, definition: usize) {
        self.found.events.push(Event::Defined(definition));
        let definition = &self.definitions[definition];
        let mut names = Vec::new();
        definition.is.symbols(&mut names);
        let mut is_known = true;
        for name in names {
            let name = self.found.renamed(name);
            if !self.is_defined(name) {
                is_known = false;
                self.wanted.insert(name);
            }
        }
        let name = definition.name.as_str();
        if is_known {
            self.wanted.remove(name);
        }
        if is_known || !self.wanted.contains(name) {
            self.defined.insert(name);
        }
    }

    fn is_defined(&self, name: &str) -> bool {
        self.found.definitions.contains_key(name) || self.defined.contains(name)
    }

    /// Takes what is needed out of `units`, one after the other, until none of them has more.
    fn search(&mut self, units: &[usize]) -> Result<(), LinkError> {
        loop {
            let mut found = false;
            for &unit in units {
                while self.search_once(unit)? {
                    found = true;
                }
            }
            if !found || units.len() == 1 {
                return Ok(());
            }
        }
    }

    fn search_once(&mut self, unit: usize) -> Result<bool, LinkError> {
        let mut found = false;
        for object in 0..self.units[unit].objects.len() {
            if !self.found.is_live(unit, object) && self.is_needed(unit, object) {
                self.load(unit, object)?;
                found = true;
            }
        }
        Ok(found)
    }

    /// The member defines a name that is wanted, or a variable of which there is a tentative definition alone (bfd,
    /// `is_global_data_symbol_definition`).
    fn is_needed(&self, unit: usize, object: usize) -> bool {
        if self.beforehand.taken.contains(&(unit, object)) {
            return true;
        }
        let symbols = self.units[unit].objects[object].symbols.iter();
        let mut defined = symbols.filter(|symbol| {
            !symbol.is_local() && !symbol.name.is_empty() && symbol.place != Place::Undefined
        });
        defined.any(|symbol| {
            self.wanted.contains(symbol.name)
                || self.completes
                    && self.tentative > 0
                    && symbol.place != Place::Common
                    && symbol.binding == Binding::Global
                    && !symbol.is_function()
                    && self.is_tentative(symbol.name)
        })
    }

    fn is_tentative(&self, name: &str) -> bool {
        let known = self.found.definitions.get(name);
        known.is_some_and(|id| self.symbol(*id).place == Place::Common)
    }

    fn symbol(&self, id: SymbolId) -> &Symbol<'a> {
        &self.units[id.unit].objects[id.object].symbols[id.symbol]
    }

    /// The object is in the program.
    fn load(&mut self, unit: usize, object: usize) -> Result<(), LinkError> {
        if self.found.is_live(unit, object) {
            return Ok(());
        }
        let loaded = Event::Loaded { unit, object };
        self.found.order[unit][object] = Some(self.found.events.len());
        self.found.events.push(loaded);
        let units = self.units;
        let of = &units[unit].objects[object];
        let is_made = unit == 0 && self.beforehand.made.contains(&object);
        for group in &of.groups {
            if !self.groups.takes(group.signature, is_made) {
                let lost = group
                    .sections
                    .iter()
                    .map(|section| (unit, object, *section));
                self.found.lost.extend(lost);
            }
        }
        for (index, section) in of.sections.iter().enumerate() {
            if section.name.starts_with(".gnu.linkonce.")
                && !self.groups.takes(section.name, is_made)
            {
                self.found.lost.insert((unit, object, index));
            }
        }
        for (at, symbol) in of.symbols.iter().enumerate() {
            if symbol.is_local() || symbol.name.is_empty() || is_told(of, symbol) {
                continue;
            }
            if !self.found.refers(unit, object, symbol) {
                self.define(SymbolId {
                    unit,
                    object,
                    symbol: at,
                })?;
            } else if symbol.binding == Binding::Global {
                let name = self.found.name(unit, object, symbol);
                if !self.is_defined(name) {
                    self.wanted.insert(name);
                }
            }
        }
        Ok(())
    }

    fn define(&mut self, id: SymbolId) -> Result<(), LinkError> {
        let units = self.units;
        let symbol = &units[id.unit].objects[id.object].symbols[id.symbol];
        self.wanted.remove(symbol.name);
        self.tentative += usize::from(symbol.place == Place::Common);
        let Some(known) = self.found.definitions.get(symbol.name).copied() else {
            self.found.definitions.insert(symbol.name, id);
            return Ok(());
        };
        let (rank, before) = (precedence(symbol), precedence(self.symbol(known)));
        if rank.0 == STRONG && before.0 == STRONG && !self.may_repeat {
            let name = |id: SymbolId| units[id.unit].objects[id.object].name.clone();
            return Err(LinkError::Duplicate {
                symbol: symbol.name.to_owned(),
                first: name(known),
                second: name(id),
            });
        }
        if self.warns_common {
            let said = self.about_common(known, id);
            self.found.commons.extend(said);
        }
        if rank > before {
            self.found.definitions.insert(symbol.name, id);
        }
        Ok(())
    }

    /// What ld says where a tentative definition meets another definition (`multiple_common` in `ld/ldmain.c`).
    fn about_common(&self, known: SymbolId, new: SymbolId) -> Option<String> {
        let file = |id: SymbolId| &self.units[id.unit].objects[id.object].name;
        let (old, symbol) = (self.symbol(known), self.symbol(new));
        let (name, first, second) = (symbol.name, file(known), file(new));
        let is_common = |symbol: &Symbol<'_>| symbol.place == Place::Common;
        Some(match (is_common(old), is_common(symbol)) {
            (false, false) => return None,
            (true, false) => {
                format!("{second}: definition of {name} overriding common from {first}")
            }
            (false, true) => {
                format!("{second}: common of {name} overridden by definition from {first}")
            }
            (true, true) => match old.size.cmp(&symbol.size) {
                Ordering::Greater => {
                    format!("{second}: common of {name} overridden by larger common from {first}")
                }
                Ordering::Less => {
                    format!("{second}: common of {name} overriding smaller common from {first}")
                }
                Ordering::Equal => format!("{second} and {first}: multiple common of {name}"),
            },
        })
    }
}
