//! What became of each symbol of intermediate code: which definition counts, and whether anything but intermediate code
//! knows of it (binutils, `ld/plugin.c`, `get_symbols`).

use crate::link::args::LinkRequest;
use crate::link::hash::HashSet;
use crate::link::object::{Group, Object, Place, Symbol};
use crate::link::resolve::Resolution;
use crate::link::unit::{Unit, is_one_by_language};

/// `ld_plugin_symbol_resolution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) enum Answer {
    /// Nothing defines it.
    Undefined = 1,
    /// This definition counts, and others refer to it.
    Counts = 2,
    /// It counts, for intermediate code alone.
    CountsWithin = 3,
    /// One of machine code counts.
    ElsewhereInMachineCode = 4,
    /// One of other intermediate code does.
    ElsewhereInCode = 5,
    /// What is referred to is intermediate code.
    RefersToCode = 6,
    /// It is machine code.
    RefersToMachineCode = 7,
}

/// The program, as far as it matters to intermediate code.
pub(super) struct View<'v, 'a> {
    request: &'v LinkRequest,
    units: &'v [Unit<'a>],
    program: &'v Resolution<'a>,
    /// Names that something else has, refers to, or asks for.
    known: HashSet<&'v str>,
    /// The files, by unit and object.
    code: HashSet<(usize, usize)>,
    /// What libraries in the program have of groups that C++ has one of in a program.
    offered: HashSet<&'v str>,
    /// What intermediate code has in such groups, and is a library's therefore.
    left: HashSet<&'v str>,
}

impl<'v, 'a> View<'v, 'a> {
    /// `places` are those of the files, by unit and object.
    pub(super) fn new(
        request: &'v LinkRequest,
        units: &'v [Unit<'a>],
        program: &'v Resolution<'a>,
        places: &[Option<(usize, usize)>],
    ) -> Self {
        let code: HashSet<(usize, usize)> = places.iter().flatten().copied().collect();
        let mut view = Self {
            request,
            units,
            program,
            known: HashSet::default(),
            offered: HashSet::default(),
            left: HashSet::default(),
            code,
        };
        view.find_known();
        view.find_offered();
        view.find_left();
        view
    }

    /// The answers for the files at `places`, none for one that is not in the program.
    pub(super) fn answers(&self, places: &[Option<(usize, usize)>]) -> Vec<Option<Vec<Answer>>> {
        let of_place = |place: &Option<(usize, usize)>| {
            let at = place.filter(|(unit, object)| self.program.is_live(*unit, *object))?;
            Some(self.of_object(at))
        };
        places.iter().map(of_place).collect()
    }

    /// Signatures of groups of which the intermediate code's copy counts.
    pub(super) fn held(&self) -> HashSet<String> {
        let mut held = HashSet::default();
        for &(unit, object) in &self.code {
            if !self.program.is_live(unit, object) {
                continue;
            }
            let of = &self.units[unit].objects[object];
            for group in &of.groups {
                let is_lost = |section: &usize| self.program.is_lost(unit, object, *section);
                if !group.sections.iter().any(is_lost) && !self.is_offered(of, group) {
                    held.insert(group.signature.to_owned());
                }
            }
        }
        held
    }

    fn find_known(&mut self) {
        let request = self.request;
        let asked = request.undefined.iter().chain(&request.required);
        self.known
            .extend(asked.chain([&request.entry]).map(String::as_str));
        for definition in &request.definitions {
            let mut names = vec![definition.name.as_str()];
            definition.is.symbols(&mut names);
            self.known.extend(names);
        }
        self.known.extend(self.program.all_renamed());
        for (u, unit) in self.units.iter().enumerate() {
            for (o, _, symbol) in unit.symbols() {
                if symbol.is_local() || symbol.name.is_empty() || self.code.contains(&(u, o)) {
                    continue;
                }
                // Members may be taken yet, for what compiled code calls. One more copy of a function does no harm.
                let is_copy = || {
                    let place = symbol.place;
                    symbol.is_function()
                        && matches!(place, Place::Section(section) if unit.is_copy(o, section))
                };
                if self.program.is_live(u, o) || !is_copy() {
                    self.known.insert(self.program.name(u, o, symbol));
                }
            }
        }
    }

    fn find_offered(&mut self) {
        for (u, unit) in self.units.iter().enumerate().skip(1) {
            for (o, _, symbol) in unit.symbols() {
                if let Place::Section(section) = symbol.place
                    && !symbol.is_local()
                    && self.program.is_live(u, o)
                    && !self.code.contains(&(u, o))
                    && unit.is_copy(o, section)
                {
                    self.offered.insert(symbol.name);
                }
            }
        }
    }

    /// A library in the program has all that the group has. Its copy counts before the application's.
    fn is_offered(&self, object: &Object<'a>, group: &Group<'a>) -> bool {
        let is_inside = |symbol: &&Symbol<'a>| matches!(symbol.place, Place::Section(section) if group.sections.contains(&section));
        is_one_by_language(group.signature)
            && object
                .symbols
                .iter()
                .filter(is_inside)
                .all(|symbol| self.offered.contains(symbol.name))
    }

    fn find_left(&mut self) {
        let units = self.units;
        let mut left = HashSet::default();
        for &(unit, object) in &self.code {
            let of = &units[unit].objects[object];
            for group in of.groups.iter().filter(|group| self.is_offered(of, group)) {
                let inside = of.symbols.iter().filter(|symbol| is_inside(group, symbol));
                left.extend(inside.map(|symbol| symbol.name));
            }
        }
        self.left = left;
    }

    fn of_object(&self, at: (usize, usize)) -> Vec<Answer> {
        let symbols = &self.units[at.0].objects[at.1].symbols;
        symbols
            .iter()
            .map(|symbol| self.answer(at, symbol))
            .collect()
    }

    fn answer(&self, at: (usize, usize), symbol: &Symbol<'a>) -> Answer {
        // A copy that does not count is a definition all the same.
        let refers = symbol.place == Place::Undefined;
        let name = if refers {
            self.program.renamed(symbol.name)
        } else {
            symbol.name
        };
        let mut by_command_line = self.request.definitions.iter();
        let by_command_line = by_command_line.any(|definition| definition.name == name);
        let may_refer = refers || symbol.place == Place::Common;
        match self.program.definition(name) {
            _ if by_command_line && refers => Answer::RefersToMachineCode,
            _ if by_command_line => Answer::ElsewhereInMachineCode,
            Some(_) if self.left.contains(name) => {
                if refers {
                    Answer::RefersToMachineCode
                } else {
                    Answer::ElsewhereInMachineCode
                }
            }
            None => Answer::Undefined,
            Some(id) if (id.unit, id.object) == at => {
                if self.known.contains(name) {
                    Answer::Counts
                } else {
                    Answer::CountsWithin
                }
            }
            Some(id) => match (may_refer, self.code.contains(&(id.unit, id.object))) {
                (true, true) => Answer::RefersToCode,
                (true, false) => Answer::RefersToMachineCode,
                (false, true) => Answer::ElsewhereInCode,
                (false, false) => Answer::ElsewhereInMachineCode,
            },
        }
    }
}

fn is_inside(group: &Group<'_>, symbol: &Symbol<'_>) -> bool {
    matches!(symbol.place, Place::Section(section) if group.sections.contains(&section))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::asked::Asked;
    use crate::link::files::Step;
    use crate::link::intermediate::{CodeSymbol, object};
    use crate::link::lto::abi;
    use crate::link::lto::host::code_symbol;
    use crate::link::resolve::Became;
    use crate::link::unit::{Beforehand, UnitKind};

    /// `+name` is defined, `~name` weakly, `-name` referred to, `=name` tentative; `name:key` is one of several copies.
    fn symbols(words: &str) -> Vec<CodeSymbol> {
        let read = |word: &str| {
            let (name, key) = word[1..].split_once(':').unwrap_or((&word[1..], ""));
            let from = abi::Symbol {
                name: std::ptr::null_mut(),
                version: std::ptr::null_mut(),
                kind: "+~-?=".find(&word[..1]).unwrap() as u8,
                of: 1,
                section_kind: 0,
                unused: 0,
                visibility: 0,
                size: 4,
                comdat_key: std::ptr::null_mut(),
                resolution: 0,
            };
            code_symbol(name.to_owned(), Some(key.to_owned()), &from)
        };
        words.split_whitespace().map(read).collect()
    }

    /// What is said of the code, beside machine code of the application and of an archive, each member a line.
    fn said(
        code: &[&str],
        machine: &[&str],
        archive: &[&str],
    ) -> (Vec<Option<Vec<Answer>>>, Vec<String>) {
        let all: Vec<Vec<CodeSymbol>> = [code, machine, archive]
            .concat()
            .iter()
            .map(|w| symbols(w))
            .collect();
        let objects = |range: std::ops::Range<usize>| {
            all[range]
                .iter()
                .map(|s| object("x.o", s))
                .collect::<Vec<_>>()
        };
        let (own, count) = (code.len() + machine.len(), all.len());
        let unit = |kind, range: std::ops::Range<usize>, repeats| {
            let objects = objects(range);
            Unit::new(
                kind,
                String::new(),
                objects,
                repeats,
                &Beforehand::default(),
            )
            .unwrap()
        };
        let units = [
            unit(UnitKind::Application, 0..own, false),
            unit(UnitKind::Library, own..count, true),
        ];
        let request = LinkRequest {
            entry: "begin".to_owned(),
            ..LinkRequest::default()
        };
        let beforehand = Beforehand::default();
        let asked = Asked {
            roots: vec!["begin"],
            may_repeat: false,
            warns_common: false,
            renamed: std::iter::once(("wrapped", "__wrap_wrapped")).collect(),
            definitions: &[],
            beforehand: &beforehand,
        };
        let steps = [Step::Object(0), Step::Search(vec![1])];
        let became = [Became::Objects(0, own), Became::Archive(1)];
        let program = Resolution::new(&units, &steps, &became, &asked).unwrap();
        let places: Vec<_> = (0..code.len()).map(|object| Some((0, object))).collect();
        let view = View::new(&request, &units, &program, &places);
        let mut held: Vec<String> = view.held().into_iter().collect();
        held.sort();
        (view.answers(&places), held)
    }

    #[test]
    fn code_is_told_who_counts() {
        use Answer::{
            Counts, CountsWithin, ElsewhereInCode, ElsewhereInMachineCode, RefersToCode,
            RefersToMachineCode, Undefined,
        };
        let (answers, _) = said(
            &[
                "+begin -used +own -member -absent ~weak =tentative -wrapped",
                "+used -own ~weak",
            ],
            &["-used +__wrap_wrapped +tentative"],
            &["+member -late", "+unneeded -own"],
        );
        let mut found = answers.into_iter().map(Option::unwrap);
        let expected = [
            // Asked for; defined by the other; known to a member that may be taken yet.
            Counts,
            RefersToCode,
            Counts,
            RefersToMachineCode,
            Undefined,
            CountsWithin,
            RefersToMachineCode,
            RefersToMachineCode,
        ];
        assert_eq!(found.next().unwrap(), expected);
        assert_eq!(
            found.next().unwrap(),
            [Counts, RefersToCode, ElsewhereInCode]
        );
        let (answers, _) = said(&["~both +begin"], &["+both"], &[]);
        assert_eq!(
            answers[0].as_ref().unwrap(),
            &[ElsewhereInMachineCode, Counts]
        );
    }

    #[test]
    fn copies_are_a_librarys_where_it_has_them() {
        let code = [
            "+begin ~_Z1f:_Z1f ~_Z1g:_Z1g -_Z1h -member",
            "~_Z1f:_Z1f ~_Z1h:_Z1h",
        ];
        let (answers, held) = said(&code, &[], &["+member ~_Z1f:_Z1f", "+unneeded ~_Z1g:_Z1g"]);
        let (first, second) = (answers[0].as_ref().unwrap(), answers[1].as_ref().unwrap());
        assert_eq!(first[1], Answer::ElsewhereInMachineCode);
        assert_eq!(second[0], Answer::ElsewhereInMachineCode);
        assert_eq!(
            (first[2], first[3]),
            (Answer::CountsWithin, Answer::RefersToCode)
        );
        assert_eq!(held, ["_Z1g", "_Z1h"]);
    }
}
