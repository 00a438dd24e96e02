//! What is linked as one: the application's objects, or all members of one archive.
//!
//! Inside a unit the ordinary rules hold: one copy of each section group, a global definition
//! before a common one before a weak one. What a program of several
//! units means is `resolve`'s to say.

use super::attached::attached;
use super::error::LinkError;
use super::hash::{HashMap, HashSet, map_with_capacity};
use super::object::{
    Binding, Gathered, Group, Object, Place, Section, Symbol, gathered, is_set_name,
};

/// How the unit that is no library is called.
pub(super) const APPLICATION: &str = "the application";

/// A symbol of one of the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SymbolId {
    /// Index of the unit.
    pub(super) unit: usize,
    /// Index of the object in the unit.
    pub(super) object: usize,
    /// Index of the symbol in the object.
    pub(super) symbol: usize,
}

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnitKind {
    Application,
    /// Its pages are the same in every image, but for those that an image has of its own.
    Library,
    /// A library with an address of its own, whose pages hold what this program means: its references are direct, as the
    /// application's are ([`crate::layout::LayoutKind::Spacer`]).
    Aligned,
}

impl UnitKind {
    /// An archive with addresses of its own.
    pub(super) fn is_apart(self) -> bool {
        self != Self::Application
    }

    /// What it refers to outside of itself is written where it refers to it.
    pub(super) fn refers_directly(self) -> bool {
        self != Self::Library
    }
}

/// Objects that are linked as one.
#[derive(Debug)]
pub(super) struct Unit<'a> {
    pub(super) kind: UnitKind,
    /// For messages: the archive's path.
    pub(super) label: String,
    pub(super) objects: Vec<Object<'a>>,
    /// An application that reaches libraries through its offset table, so that they can move by themselves.
    pub(super) reaches_by_slots: bool,
    /// An application that can only run where it is linked, so that nothing is rewritten for it to follow.
    pub(super) stays: bool,
    /// Of each section, whether it takes no part in the link.
    dropped: Vec<Vec<bool>>,
    /// Of each name, the object and the symbol that define it.
    definitions: HashMap<&'a str, (usize, usize)>,
    /// Functions that programs are known to have of their own, and those that are there to be replaced: some member defines
    /// them weakly, and not as one of several copies.
    hooks: HashSet<&'a str>,
    /// Variables that one member defines weakly and another, too: which counts depends on who is in a program.
    defaults: HashSet<&'a str>,
    /// Sections of groups, and those of them that are the same wherever they are.
    grouped: HashSet<(usize, usize)>,
    copies: HashSet<(usize, usize)>,
    /// Signatures of groups of which not any copy will do, since they use something of their own object.
    attached: HashSet<&'a str>,
}

/// Which copy of each group of sections counts: the first, but for those that are kept for what a compiler made of
/// intermediate code, since that was told that its copy does. There it may be in no group any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups<'a> {
    held: HashSet<&'a str>,
    seen: HashSet<&'a str>,
}

impl<'a> Groups<'a> {
    pub(super) fn holding(held: HashSet<&'a str>) -> Self {
        Self {
            held,
            seen: HashSet::default(),
        }
    }

    /// The next copy comes. True if it counts.
    pub(super) fn takes(&mut self, signature: &'a str, is_made: bool) -> bool {
        let is_held = self.held.contains(signature);
        if is_made && is_held {
            self.held.remove(signature);
            self.seen.insert(signature);
            return true;
        }
        self.seen.insert(signature) && !is_held
    }
}

/// What of a program was compiled when it was already known.
#[derive(Clone, Debug, Default)]
pub(super) struct Beforehand<'a> {
    /// Members that are taken with their archive, by unit and object.
    pub(super) taken: HashSet<(usize, usize)>,
    /// Objects of the application that were made of intermediate code.
    pub(super) made: HashSet<usize>,
    pub(super) groups: Groups<'a>,
}

/// Functions that programs replace in whole, and that libraries are to call then: the allocator's (ISO C, POSIX,
/// glibc's manual, "Replacing malloc"). Those of C++ (its standard's "replacement functions") are told by how
/// their names begin.
const REPLACED: [&str; 13] = [
    "aligned_alloc",
    "calloc",
    "cfree",
    "free",
    "malloc",
    "malloc_usable_size",
    "memalign",
    "posix_memalign",
    "pvalloc",
    "realloc",
    "reallocarray",
    "valloc",
    "__libc_memalign",
];
/// How the names of sections begin that Unikraft's scripts gather in every image.
const TABLES_OF_UNIKRAFT: &str = ".uk_";

/// `operator new` and `delete`, of one and of several.
const REPLACED_OF_CXX: [&str; 4] = ["_Znw", "_Zna", "_Zdl", "_Zda"];

impl<'a> Unit<'a> {
    /// Makes a unit and settles which copies and definitions count in it.
    /// `may_repeat`: the first of several definitions counts, as in an archive, where an ordinary
    /// link would have taken the first member that defines a symbol.
    pub(super) fn new(
        kind: UnitKind,
        label: String,
        objects: Vec<Object<'a>>,
        may_repeat: bool,
        beforehand: &Beforehand<'a>,
    ) -> Result<Self, LinkError> {
        let dropped = objects
            .iter()
            .map(|o| o.sections.iter().map(|s| !s.takes_part()).collect())
            .collect();
        let mut unit = Self {
            kind,
            label,
            objects,
            reaches_by_slots: false,
            stays: false,
            dropped,
            definitions: HashMap::default(),
            hooks: HashSet::default(),
            defaults: HashSet::default(),
            grouped: HashSet::default(),
            copies: HashSet::default(),
            attached: HashSet::default(),
        };
        unit.attached = unit.objects.iter().flat_map(attached).collect();
        unit.collect_groups();
        unit.collect_hooks();
        unit.keep_one_copy_of_each_group(beforehand);
        if kind.is_apart() {
            unit.mark_alone();
        }
        let sections = unit
            .objects
            .iter_mut()
            .flat_map(|object| &mut object.sections);
        for section in sections {
            section.gathered = gathered(section);
        }
        unit.collect_definitions(may_repeat)?;
        let names = unit.definitions.keys().copied();
        unit.hooks.extend(names.filter(|name| is_replaced(name)));
        Ok(unit)
    }

    /// The object and symbol that define `name`.
    pub(super) fn definition(&self, name: &str) -> Option<(usize, usize)> {
        self.definitions.get(name).copied()
    }

    /// True for a function of the unit that programs are known to have of their own.
    pub(super) fn is_replaceable(&self, name: &str) -> bool {
        self.hooks.contains(name)
    }

    /// True for a variable of which there is a default.
    pub(super) fn is_default(&self, name: &str) -> bool {
        self.defaults.contains(name)
    }

    /// True for a section of a group that is the same in all of a program by the rules of C++.
    pub(super) fn is_copy(&self, object: usize, section: usize) -> bool {
        self.copies.contains(&(object, section))
    }

    fn collect_groups(&mut self) {
        for (o, object) in self.objects.iter().enumerate() {
            for group in &object.groups {
                let sections = || group.sections.iter().map(|section| (o, *section));
                self.grouped.extend(sections());
                if is_one_by_language(group.signature) && !self.is_attached(group.signature) {
                    self.copies.extend(sections());
                }
            }
        }
    }

    /// True where the copy that counts is the program's to say.
    fn is_attached(&self, signature: &str) -> bool {
        self.attached.contains(signature)
    }

    fn collect_hooks(&mut self) {
        self.hooks = self.names_of_attached();
        let mut variables: HashMap<&'a str, (usize, bool)> = HashMap::default();
        for (o, object) in self.objects.iter().enumerate() {
            for symbol in object.symbols.iter().filter(|symbol| !symbol.is_local()) {
                let Place::Section(section) = symbol.place else {
                    continue;
                };
                if self.is_grouped(o, section) || symbol.is_thread_local() {
                    continue;
                }
                let is_weak = symbol.binding == Binding::Weak;
                if !object.sections[section].is_code() {
                    let (count, any_weak) = variables.entry(symbol.name).or_default();
                    *count += 1;
                    *any_weak |= is_weak;
                } else if is_weak {
                    self.hooks.insert(symbol.name);
                }
            }
        }
        let several = variables
            .into_iter()
            .filter(|(_, (count, any_weak))| *count > 1 && *any_weak);
        self.defaults = several.map(|(name, _)| name).collect();
    }

    /// What attached groups define, to be found through slots.
    fn names_of_attached(&self) -> HashSet<&'a str> {
        let mut names = HashSet::default();
        for object in &self.objects {
            let groups = object.groups.iter();
            let attached: Vec<&Group<'a>> = groups
                .filter(|group| self.is_attached(group.signature))
                .collect();
            let of = members(object, &attached);
            let defined = object.symbols.iter().filter(|symbol| {
                matches!(symbol.place, Place::Section(section) if of[section].is_some())
                    && !symbol.is_local()
                    && !symbol.is_thread_local()
            });
            names.extend(defined.map(|symbol| symbol.name));
        }
        names
    }

    fn is_grouped(&self, object: usize, section: usize) -> bool {
        self.grouped.contains(&(object, section))
    }

    /// Sections that take part, in order, as (object, section, the section).
    pub(super) fn sections(&self) -> impl Iterator<Item = (usize, usize, &Section<'a>)> {
        self.objects
            .iter()
            .enumerate()
            .flat_map(move |(o, object)| {
                let sections = object.sections.iter().enumerate();
                sections.filter_map(move |(s, section)| {
                    (!self.dropped[o][s]).then_some((o, s, section))
                })
            })
    }

    /// All symbols in order, as (object, symbol, the symbol).
    pub(super) fn symbols(&self) -> impl Iterator<Item = (usize, usize, &Symbol<'a>)> {
        self.objects.iter().enumerate().flat_map(|(o, object)| {
            let symbols = object.symbols.iter().enumerate();
            symbols.map(move |(s, symbol)| (o, s, symbol))
        })
    }

    /// True when the symbol has a place in this unit (a section that takes part, for one).
    pub(super) fn defines(&self, object: usize, symbol: &Symbol<'_>) -> bool {
        match symbol.place {
            Place::Undefined => false,
            Place::Absolute | Place::Common => true,
            Place::Section(section) => !self.dropped[object][section],
        }
    }

    /// Sections (by object and section) of groups of which one of `others` has a copy that
    /// defines at least the same symbols, whose signature `counts`, and that are attached to no object.
    pub(super) fn copies_in(
        &self,
        others: &[&Unit<'a>],
        counts: impl Fn(&str) -> bool,
    ) -> Vec<(usize, usize)> {
        let groups = others.iter().flat_map(|unit| &unit.objects);
        let available: HashSet<&str> = groups
            .flat_map(|object| object.groups.iter().map(|g| g.signature))
            .collect();
        let is_elsewhere = |name: &str| others.iter().any(|u| u.definition(name).is_some());
        let units = others.iter().copied().chain([self]);
        let attached: HashSet<&str> = units.flat_map(|unit| &unit.attached).copied().collect();
        let mut copies = Vec::new();
        for (o, object) in self.objects.iter().enumerate() {
            let groups = object.groups.iter().filter(|group| {
                available.contains(group.signature)
                    && counts(group.signature)
                    && !attached.contains(group.signature)
            });
            let groups: Vec<&Group<'a>> = groups.collect();
            let of = members(object, &groups);
            let mut all_elsewhere = vec![true; groups.len()];
            for symbol in object.symbols.iter().filter(|symbol| !symbol.is_local()) {
                if let Place::Section(section) = symbol.place
                    && let Some(group) = of[section]
                    && !is_elsewhere(symbol.name)
                {
                    all_elsewhere[group] = false;
                }
            }
            for (group, _) in groups.iter().zip(all_elsewhere).filter(|(_, all)| *all) {
                copies.extend(group.sections.iter().map(|section| (o, *section)));
            }
        }
        copies
    }

    /// Leaves sections out of the link, so that another unit's copies of them count.
    pub(super) fn drop_sections(
        &mut self,
        sections: &[(usize, usize)],
        may_repeat: bool,
    ) -> Result<(), LinkError> {
        if sections.is_empty() {
            return Ok(());
        }
        for (object, section) in sections {
            self.dropped[*object][*section] = true;
        }
        self.collect_definitions(may_repeat)
    }

    fn keep_one_copy_of_each_group(&mut self, beforehand: &Beforehand<'a>) {
        let mut groups = beforehand.groups.clone();
        // In a library each member has its own of those that are attached to it: which counts depends on who is in a program.
        let is_library = self.kind.is_apart();
        for (o, (object, dropped)) in self.objects.iter().zip(&mut self.dropped).enumerate() {
            let is_made = beforehand.made.contains(&o);
            for group in &object.groups {
                if is_library && self.attached.contains(group.signature) {
                    continue;
                }
                if !groups.takes(group.signature, is_made) {
                    for section in &group.sections {
                        dropped[*section] = true;
                    }
                }
            }
            for (section, dropped) in object.sections.iter().zip(dropped) {
                if section.name.starts_with(".gnu.linkonce.")
                    && !groups.takes(section.name, is_made)
                {
                    *dropped = true;
                }
            }
        }
    }

    /// Marks data that is nobody's set but by its name, so that a library has its variables at hand. Should a program
    /// have another section of the name, the image moves it there (`orphans`).
    fn mark_alone(&mut self) {
        let mut named: HashMap<&'a str, Vec<(usize, usize)>> = HashMap::default();
        for (o, s, section) in self.sections() {
            if gathered(section) == Some(Gathered::Orphan) {
                named.entry(section.name).or_default().push((o, s));
            }
        }
        for (name, places) in named {
            if let [(o, s)] = places[..] {
                let section = &mut self.objects[o].sections[s];
                section.is_alone = !name.starts_with(TABLES_OF_UNIKRAFT)
                    && section.is_writable()
                    && !section.is_code()
                    && !section.is_mergeable()
                    && section.size > 0
                    && !is_set_name(name);
            }
        }
    }

    fn collect_definitions(&mut self, may_repeat: bool) -> Result<(), LinkError> {
        let symbols = self.objects.iter().flat_map(|object| &object.symbols);
        let most = symbols.filter(|symbol| !symbol.is_local() && symbol.place != Place::Undefined);
        let mut definitions = map_with_capacity(most.count());
        for (o, object) in self.objects.iter().enumerate() {
            for (s, symbol) in object.symbols.iter().enumerate() {
                if symbol.is_local() || symbol.name.is_empty() || !self.defines(o, symbol) {
                    continue;
                }
                let Some((other, index)) = definitions.get(symbol.name).copied() else {
                    definitions.insert(symbol.name, (o, s));
                    continue;
                };
                let known = &self.objects[other].symbols[index];
                let (rank, known_rank) = (precedence(symbol), precedence(known));
                if rank == known_rank && rank.0 == STRONG && !may_repeat {
                    return Err(LinkError::Duplicate {
                        symbol: symbol.name.to_owned(),
                        first: self.objects[other].name.clone(),
                        second: object.name.clone(),
                    });
                }
                if rank > known_rank {
                    definitions.insert(symbol.name, (o, s));
                }
            }
        }
        self.definitions = definitions;
        Ok(())
    }
}

fn is_replaced(name: &str) -> bool {
    REPLACED.contains(&name) || REPLACED_OF_CXX.iter().any(|begin| name.starts_with(begin))
}

/// Of each of an object's sections which of `groups` it is in.
fn members(object: &Object<'_>, groups: &[&Group<'_>]) -> Vec<Option<usize>> {
    let mut of = vec![None; object.sections.len()];
    for (number, group) in groups.iter().enumerate() {
        for section in &group.sections {
            of[*section] = Some(number);
        }
    }
    of
}

/// A section group with this signature is the same in all of a program by the rules of C++.
pub(super) fn is_one_by_language(signature: &str) -> bool {
    signature.starts_with("_Z") || signature.starts_with("DW.ref.")
}

/// Rank of a definition that there may be one of.
pub(super) const STRONG: u8 = 2;

/// Of several definitions the greatest counts, the first among equals. Common symbols compete by
/// size.
pub(super) fn precedence(symbol: &Symbol<'_>) -> (u8, u64) {
    match (symbol.place, symbol.binding) {
        (Place::Common, _) => (1, symbol.size),
        (_, Binding::Weak) => (0, 0),
        _ => (STRONG, 0),
    }
}
