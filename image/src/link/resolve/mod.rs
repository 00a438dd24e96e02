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

mod resolver;

use super::asked::Asked;
use super::error::LinkError;
use super::files::Step;
use super::hash::{HashMap, HashSet, map_with_capacity};
use super::object::{Object, Place, Symbol};
use super::unit::{SymbolId, Unit, is_one_by_language};
use resolver::Resolver;

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
