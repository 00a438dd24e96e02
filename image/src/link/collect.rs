//! Sections that nothing needs (`--gc-sections`), as GNU ld tells them (binutils, `bfd/elflink.c`,
//! `bfd_elf_gc_sections`): all that cannot be reached from the entry, from symbols that the command line asks for and
//! from what ld's default script keeps (`KEEP`).
//!
//! The application's go, and those of libraries that lie in a set of the image. The rest of a library stays: its
//! pages are the same in every image. What its collected sections refer to may be undefined.

use goblin::elf::section_header::{SHT_FINI_ARRAY, SHT_INIT_ARRAY, SHT_NOTE, SHT_PREINIT_ARRAY};

use super::args::LinkRequest;
use super::eh_frame;
use super::error::LinkError;
use super::hash::{HashMap, HashSet};
use super::object::{Gathered, Object, Place, Section, Symbol, is_set_name};
use super::resolve::{Resolution, Sections};
use super::tables::Tables;
use super::unit::Unit;

const SHF_GNU_RETAIN: u64 = 0x20_0000;

/// What ld's default script keeps.
const KEPT: [&str; 5] = [".init", ".fini", ".preinit_array", ".jcr", FRAMES];
/// That, and these with a suffix, too.
const KEPT_WITH_SUFFIX: [&str; 4] = [".init_array", ".fini_array", ".ctors", ".dtors"];
const FRAMES: &str = ".eh_frame";

/// Unit, object, section.
type At = (usize, usize, usize);

/// Has the program do without what nothing needs, if it is asked for. Says what that is, in ld's words.
pub(super) fn collect<'a>(
    request: &LinkRequest,
    tables: &Tables,
    units: &mut [Unit<'a>],
    program: &mut Resolution<'a>,
) -> Result<Vec<String>, LinkError> {
    if !request.collects() {
        return Ok(Vec::new());
    }
    let unneeded = unneeded(request, tables, units, program);
    let removed = removable(units, &unneeded);
    let told = told(units, program, &removed);
    let of_application = removed.iter().filter(|(unit, ..)| *unit == 0);
    let dropped: Vec<_> = of_application
        .map(|(_, object, section)| (*object, *section))
        .collect();
    program.leave_out(unneeded, removed);
    units[0].drop_sections(&dropped, request.allow_multiple_definition)?;
    Ok(told)
}

/// The sections of the program that nothing needs, of those that are loaded.
fn unneeded<'a>(
    request: &LinkRequest,
    tables: &Tables,
    units: &[Unit<'a>],
    program: &Resolution<'a>,
) -> Sections {
    let mut search = Search {
        tables,
        units,
        program,
        reached: HashSet::default(),
        open: Vec::new(),
        groups: HashMap::default(),
        sets: HashMap::default(),
        frames: HashMap::default(),
    };
    search.index(request.collects_sets);
    search.roots(request);
    search.walk();
    let reached = search.reached;
    let live = live_sections(units, program);
    live.filter(|(at, section)| section.is_loaded() && !reached.contains(at))
        .map(|(at, _)| at)
        .collect()
}

/// Those of them that the image can do without.
fn removable(units: &[Unit<'_>], unneeded: &Sections) -> Sections {
    let is_removable = |(unit, object, section): &At| {
        let section = &units[*unit].objects[*object].sections[*section];
        *unit == 0 || section.gathered == Some(Gathered::Orphan)
    };
    unneeded.iter().copied().filter(is_removable).collect()
}

/// ld's words for each of them, in the order in which it reads objects.
fn told(units: &[Unit<'_>], program: &Resolution<'_>, removed: &Sections) -> Vec<String> {
    let is_empty =
        |(unit, object, section): &At| units[*unit].objects[*object].sections[*section].size == 0;
    let mut all: Vec<&At> = removed.iter().filter(|at| !is_empty(at)).collect();
    all.sort_unstable_by_key(|(unit, object, section)| (program.order(*unit, *object), *section));
    let line = |(unit, object, section): &At| {
        let object = &units[*unit].objects[*object];
        format!(
            "removing unused section '{}' in file '{}'",
            object.sections[*section].name, object.name
        )
    };
    all.into_iter().map(line).collect()
}

fn live_sections<'u, 'a>(
    units: &'u [Unit<'a>],
    program: &'u Resolution<'a>,
) -> impl Iterator<Item = (At, &'u Section<'a>)> {
    units.iter().enumerate().flat_map(move |(u, unit)| {
        unit.sections().filter_map(move |(o, s, section)| {
            let is_there = program.is_live(u, o) && !program.is_lost(u, o, s);
            is_there.then_some(((u, o, s), section))
        })
    })
}

struct Search<'s, 'a> {
    tables: &'s Tables,
    units: &'s [Unit<'a>],
    program: &'s Resolution<'a>,
    reached: HashSet<At>,
    open: Vec<At>,
    /// The sections of each one's group.
    groups: HashMap<At, &'s [usize]>,
    /// By name, the sections that `__start_NAME` needs.
    sets: HashMap<&'a str, Vec<At>>,
    /// By unit and object, what [`frames_of`] says.
    frames: HashMap<(usize, usize), HashMap<usize, Vec<usize>>>,
}

impl<'a> Search<'_, 'a> {
    fn index(&mut self, collects_sets: bool) {
        for (u, unit) in self.units.iter().enumerate() {
            for (o, object) in unit.objects.iter().enumerate() {
                for group in &object.groups {
                    for section in &group.sections {
                        self.groups.insert((u, o, *section), &group.sections);
                    }
                }
            }
        }
        for (at, section) in live_sections(self.units, self.program) {
            if is_set_name(section.name) && !collects_sets {
                self.sets.entry(section.name).or_default().push(at);
            }
        }
    }

    fn roots(&mut self, request: &LinkRequest) {
        let asked = request.undefined.iter().chain(&request.required);
        for name in asked.chain([&request.entry]) {
            self.reach_name(name);
        }
        let live = live_sections(self.units, self.program);
        let kept = live.filter(|(at, section)| {
            let placed = self.tables.place(section.name);
            is_kept(section)
                || placed.is_some_and(|placed| placed.keeps)
                || section.kind == SHT_NOTE && !self.groups.contains_key(at)
        });
        let kept: Vec<At> = kept.map(|(at, _)| at).collect();
        for at in kept {
            self.reach(at);
        }
    }

    fn walk(&mut self) {
        loop {
            while let Some(at) = self.open.pop() {
                self.follow(at);
            }
            // What is about a section is there when it is.
            let live = live_sections(self.units, self.program);
            let about: Vec<At> = live
                .filter(|((u, o, s), section)| {
                    let of = section.about.map(|of| (*u, *o, of));
                    of.is_some_and(|of| self.reached.contains(&of))
                        && !self.reached.contains(&(*u, *o, *s))
                })
                .map(|(at, _)| at)
                .collect();
            if about.is_empty() {
                return;
            }
            for at in about {
                self.reach(at);
            }
        }
    }

    fn reach(&mut self, at: At) {
        if self.reached.insert(at) {
            self.open.push(at);
        }
    }

    fn reach_name(&mut self, name: &str) {
        let Some(id) = self.program.definition(name) else {
            let set = name
                .strip_prefix("__start_")
                .or(name.strip_prefix("__stop_"));
            for at in set
                .and_then(|set| self.sets.remove(set))
                .into_iter()
                .flatten()
            {
                self.reach(at);
            }
            return;
        };
        let symbol = &self.units[id.unit].objects[id.object].symbols[id.symbol];
        if let Place::Section(section) = symbol.place {
            self.reach((id.unit, id.object, section));
        }
    }

    fn reach_symbol(&mut self, (unit, object, _): At, symbol: &Symbol<'a>) {
        if !symbol.is_local() && !symbol.name.is_empty() {
            self.reach_name(self.program.name(unit, object, symbol));
        } else if let Place::Section(section) = symbol.place
            && !self.program.is_lost(unit, object, section)
        {
            self.reach((unit, object, section));
        }
    }

    /// Reaches what a section needs.
    fn follow(&mut self, at: At) {
        let (unit, object, section) = at;
        for other in self.groups.get(&at).copied().unwrap_or_default() {
            self.reach((unit, object, *other));
        }
        let units = self.units;
        let of = &units[unit].objects[object];
        // Of frames, those of the functions that are reached.
        if of.sections[section].name != FRAMES {
            for relocation in &of.sections[section].relocations {
                self.reach_symbol(at, &of.symbols[relocation.symbol]);
            }
            self.follow_frames(at);
        }
    }

    /// What the frames of a section's functions need: tables for its exceptions, and who reads them.
    fn follow_frames(&mut self, at: At) {
        let (unit, object, section) = at;
        let of = &self.units[unit].objects[object];
        if !of.sections[section].is_code() {
            return;
        }
        let frames = self.frames.entry((unit, object));
        let frames = frames.or_insert_with(|| frames_of(of));
        for symbol in frames.remove(&section).unwrap_or_default() {
            self.reach_symbol(at, &of.symbols[symbol]);
        }
    }
}

/// By section of code, the symbols that frames of its functions need.
fn frames_of(object: &Object<'_>) -> HashMap<usize, Vec<usize>> {
    let mut needs: HashMap<usize, Vec<usize>> = HashMap::default();
    for frames in object.sections.iter().filter(|s| s.name == FRAMES) {
        for (function, needed) in eh_frame::needs(frames) {
            if let Place::Section(section) = object.symbols[function].place {
                needs.entry(section).or_default().extend(needed);
            }
        }
    }
    needs
}

fn is_kept(section: &Section<'_>) -> bool {
    let is_named = |name: &str| {
        let rest = section.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    section.flags & SHF_GNU_RETAIN != 0
        || matches!(
            section.kind,
            SHT_PREINIT_ARRAY | SHT_INIT_ARRAY | SHT_FINI_ARRAY
        )
        || KEPT.contains(&section.name)
        || KEPT_WITH_SUFFIX.iter().any(|name| is_named(name))
}
