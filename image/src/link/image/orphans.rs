//! Sections of a program's own naming: arrays that are walked from end to end, between `__start_NAME` and
//! `__stop_NAME` or between symbols of the first and the last of them.
//!
//! All of one name lie together, in the order in which ld reads their objects, whoever they are of and whatever their
//! flags, as orphan sections do in an ordinary link (ld's manual, "Orphan Sections"). So they are the image's,
//! not a library's; but for data that is the only section of its name in a library: that has a place there, and
//! another in images that have more of the name, with pages of their own.

use std::collections::BTreeMap;

use super::{Cursor, Image, Span};
use crate::link::error::LinkError;
use crate::link::object::{Gathered, Section};
use crate::link::tables::{Chain, Link, Statement, Table};

/// The run of the application's pages that an orphan section lies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::link) enum Run {
    #[default]
    Constants,
    Code,
    Data,
}

/// Which statement of a script takes a section, its name where that one sorts by names, and its object's place in the
/// order of ld.
type Order = (usize, String, usize);

/// All sections of a name.
#[derive(Clone, Debug, Default)]
pub(in crate::link) struct Orphan {
    pub(in crate::link) name: String,
    pub(in crate::link) run: Run,
    pub(in crate::link) span: Span,
    /// Each section, by unit, object and index.
    parts: Vec<(Order, (usize, usize, usize))>,
    /// What a script says of it.
    table: Option<usize>,
    is_code: bool,
    is_writable: bool,
    /// An ordinary link would keep one of several equal entries.
    is_mergeable: bool,
}

impl Orphan {
    /// The run of pages that it lies in by itself.
    fn own_run(&self) -> Run {
        match self {
            _ if self.is_writable => Run::Data,
            _ if self.is_code => Run::Code,
            _ => Run::Constants,
        }
    }

    pub(in crate::link) fn is_writable_code(&self) -> bool {
        self.is_code && self.is_writable
    }

    /// The first of its sections.
    pub(in crate::link) fn first(&self) -> Option<(usize, usize, usize)> {
        self.parts.first().map(|(_, at)| *at)
    }
}

impl<'i> Image<'i, '_> {
    /// Finds all orphan sections of the program, and what scripts gather.
    pub(in crate::link) fn find_orphans(&mut self) -> Result<(), LinkError> {
        let tables = self.tables;
        let mut found: BTreeMap<&str, Orphan> = BTreeMap::new();
        for (index, table) in tables.all.iter().enumerate() {
            found.entry(&table.name).or_default().table = Some(index);
        }
        for u in self.included() {
            let unit = &self.units[u];
            for (o, s, section) in unit.sections() {
                let placed = tables.place(section.name).filter(|_| section.is_loaded());
                let is_orphan = section.gathered == Some(Gathered::Orphan);
                let is_one = is_orphan || section.is_alone;
                if !is_one && placed.is_none() || !self.takes(u, o, s) {
                    continue;
                }
                let name = placed.map_or(section.name, |placed| {
                    tables.all[placed.table].name.as_str()
                });
                if !is_one {
                    return Err(self.not_gathered((u, o, s), name));
                }
                if placed.is_some() && section.is_mergeable() {
                    return Err(self.not_merged((u, o, s), name));
                }
                let orphan = found.entry(name).or_default();
                orphan.is_code |= section.is_code();
                orphan.is_writable |= section.is_writable();
                orphan.is_mergeable |= section.is_mergeable();
                // What a script does not name, though it is called as its table, is last.
                let rule = placed.map_or(usize::MAX, |placed| placed.statement);
                let is_sorted = placed.is_some_and(|placed| placed.is_sorted);
                let name = if is_sorted { section.name } else { "" };
                let order = (rule, name.to_owned(), self.program.order(u, o));
                orphan.parts.push((order, (u, o, s)));
            }
        }
        let is_alone = |orphan: &Orphan| match orphan.parts[..] {
            [(_, (u, o, s))] => self.units[u].objects[o].sections[s].is_alone,
            _ => false,
        };
        found.retain(|_, orphan| orphan.table.is_some() || !is_alone(orphan));
        let orphans = found.into_iter().map(|(name, mut orphan)| {
            orphan.name = name.to_owned();
            orphan.run = orphan.own_run();
            orphan.parts.sort();
            orphan
        });
        self.orphans = orphans.collect();
        for chain in &tables.chains {
            self.settle_run(chain)?;
        }
        Ok(())
    }

    /// Tables that lie one behind the other lie in one run of pages.
    fn settle_run(&mut self, chain: &Chain) -> Result<(), LinkError> {
        let members = |orphan: &&mut Orphan| {
            let mut links = chain.links.iter();
            links.any(|link| matches!(link, Link::Table(table) if orphan.table == Some(*table)))
        };
        let mut all: Vec<&mut Orphan> = self.orphans.iter_mut().filter(members).collect();
        let of_run = |run: Run| all.iter().find(|orphan| orphan.run == run);
        if let (Some(code), Some(data)) = (of_run(Run::Code), of_run(Run::Data)) {
            return Err(LinkError::input(
                &chain.file,
                format!(
                    "places {}, which is code, and {}, which can be written, one behind the other: give each an INSERT of its \
                     own",
                    code.name, data.name
                ),
            ));
        }
        let runs = [Run::Data, Run::Code, Run::Constants];
        let run = runs.into_iter().find(|run| of_run(*run).is_some());
        for orphan in &mut all {
            orphan.run = run.unwrap_or_default();
        }
        Ok(())
    }

    fn not_gathered(&self, at: (usize, usize, usize), table: &str) -> LinkError {
        let whose = match at.0 {
            0 => "has a place of its own in every program",
            _ => "lies in its library's pages, which are the same in all programs",
        };
        LinkError::input(
            self.place(at, 0),
            format!(
                "the script wants it in {table}, but it {whose}: give the section a name of its own"
            ),
        )
    }

    fn not_merged(&self, at: (usize, usize, usize), table: &str) -> LinkError {
        LinkError::input(
            self.place(at, 0),
            format!(
                "equal entries of what the script wants in {table} are to be merged, which is not done: compile it without \
                 -fmerge-constants (flag M of the section)"
            ),
        )
    }

    /// Places those of one run from `end` on.
    pub(in crate::link) fn place_orphans(&mut self, run: Run, end: &mut Cursor) {
        let mut orphans = std::mem::take(&mut self.orphans);
        let tables = self.tables;
        for chain in &tables.chains {
            self.place_chain(chain, run, &mut orphans, end);
        }
        let others = orphans.iter_mut().filter(|orphan| orphan.table.is_none());
        for orphan in others.filter(|orphan| orphan.run == run) {
            let start = end.take(0, self.alignment(orphan, None)).start;
            self.place_parts(orphan, None, end);
            orphan.span = Span {
                start,
                size: end.0 - start,
            };
        }
        self.orphans = orphans;
    }

    /// Places tables that lie one behind the other, and the symbols between them.
    fn place_chain(
        &mut self,
        chain: &'i Chain,
        run: Run,
        orphans: &mut [Orphan],
        end: &mut Cursor,
    ) {
        let tables = self.tables;
        let table = |index: usize| &tables.all[index];
        let place = |orphans: &[Orphan], index: usize| {
            let mut places = orphans.iter();
            places.position(|orphan| orphan.table == Some(index) && orphan.run == run)
        };
        // All of them are in one run, or none is.
        let first = chain.links.iter().find_map(|link| match link {
            Link::Table(index) => Some(*index),
            _ => None,
        });
        if first.and_then(|first| place(orphans, first)).is_none() {
            return;
        }
        // A symbol before a table is its start, so what lies there is aligned for all.
        let alignments = chain.links.iter().map(|link| match link {
            Link::Align(alignment) => *alignment,
            Link::Symbol(_) => 1,
            Link::Table(index) => place(orphans, *index)
                .map_or(1, |at| self.alignment(&orphans[at], Some(table(*index)))),
        });
        let alignment = alignments.max().unwrap_or(1);
        end.take(0, alignment);
        for link in &chain.links {
            match link {
                Link::Align(alignment) => {
                    end.take(0, *alignment);
                }
                Link::Symbol(symbol) => {
                    self.table_symbols.insert(&symbol.name, end.0);
                }
                Link::Table(index) => {
                    let Some(at) = place(orphans, *index) else {
                        continue;
                    };
                    let alignment = self.alignment(&orphans[at], Some(table(*index)));
                    let start = end.take(0, alignment).start;
                    self.place_parts(&orphans[at], Some(table(*index)), end);
                    orphans[at].span = Span {
                        start,
                        size: end.0 - start,
                    };
                }
            }
        }
    }

    /// What the first byte of a table is aligned to.
    fn alignment(&self, orphan: &Orphan, table: Option<&Table>) -> u64 {
        let parts = orphan.parts.iter().map(|(_, (u, o, s))| {
            let section: &Section<'_> = &self.units[*u].objects[*o].sections[*s];
            section.alignment
        });
        let own = table.map_or(1, |table| table.alignment);
        parts.max().unwrap_or(1).max(own)
    }

    /// Places the sections of one name, or of a table with its symbols.
    fn place_parts(&mut self, orphan: &Orphan, table: Option<&'i Table>, end: &mut Cursor) {
        let units = self.units;
        let index = &mut self.gathered_index;
        let mut parts = orphan.parts.iter().peekable();
        let mut place = |rule: usize, end: &mut Cursor| {
            while let Some((_, at)) = parts.next_if(|((of, ..), _)| *of == rule) {
                let section = &units[at.0].objects[at.1].sections[at.2];
                let address = end.take(section.size, section.alignment).start;
                index.insert(*at, address);
            }
        };
        let statements = table.map_or(&[][..], |table| &table.statements);
        for (rule, statement) in statements.iter().enumerate() {
            match statement {
                Statement::Align(alignment) => {
                    end.take(0, *alignment);
                }
                Statement::Symbol(symbol) => {
                    self.table_symbols.insert(&symbol.name, end.0);
                }
                Statement::Sections { .. } => place(rule, end),
            }
        }
        place(usize::MAX, end);
    }

    /// `__start_NAME` and `__stop_NAME`.
    pub(in crate::link) fn orphan_border(&self, name: &str) -> Option<u64> {
        let (orphan, is_start) = self.orphan_of_border(name)?;
        Some(if is_start {
            orphan.span.start
        } else {
            orphan.span.end()
        })
    }

    /// True for a border of entries of which an ordinary link would keep one of several equal ones.
    pub(in crate::link) fn is_border_of_merged(&self, name: &str) -> bool {
        let orphan = self.orphan_of_border(name);
        orphan.is_some_and(|(orphan, _)| orphan.is_mergeable)
    }

    fn orphan_of_border(&self, name: &str) -> Option<(&Orphan, bool)> {
        let (name, is_start) = match name.strip_prefix("__start_") {
            Some(name) => (name, true),
            None => (name.strip_prefix("__stop_")?, false),
        };
        let orphan = self.orphans.iter().find(|orphan| orphan.name == name)?;
        Some((orphan, is_start))
    }
}
