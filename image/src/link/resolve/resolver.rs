//! Following the command line, step by step: which members of archives are needed, and which definition of a name
//! counts.

use std::cmp::Ordering;

use super::{Became, Event, Resolution, is_told};
use crate::link::args::Definition;
use crate::link::asked::Asked;
use crate::link::error::LinkError;
use crate::link::files::Step;
use crate::link::hash::HashSet;
use crate::link::object::{Binding, Place, Symbol};
use crate::link::unit::{Beforehand, Groups, STRONG, SymbolId, Unit, precedence};

pub(super) struct Resolver<'r, 'a> {
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
    pub(super) completes: bool,
    /// How many of these came.
    tentative: usize,
    pub(super) found: Resolution<'a>,
}

impl<'r, 'a> Resolver<'r, 'a> {
    pub(super) fn new(units: &'r [Unit<'a>], asked: &Asked<'a>) -> Self {
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

    pub(super) fn step(&mut self, step: &Step, became: &[Became]) -> Result<(), LinkError> {
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
    pub(super) fn define_here(&mut self, definition: usize) {
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
    pub(super) fn search(&mut self, units: &[usize]) -> Result<(), LinkError> {
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
    pub(super) fn load(&mut self, unit: usize, object: usize) -> Result<(), LinkError> {
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
