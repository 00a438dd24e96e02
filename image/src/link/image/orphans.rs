//! Sections of a program's own naming: arrays that are walked from end to end, between `__start_NAME` and
//! `__stop_NAME` or between symbols of the first and the last of them.
//!
//! All of one name lie together, in the order in which ld reads their objects, whoever they are of and whatever their
//! flags, as orphan sections do in an ordinary link (ld's manual, "Orphan Sections"). So they are the image's,
//! not a library's; but for data that is the only section of its name in a library: that has a place there, and
//! another in images that have more of the name, with pages of their own.

use std::collections::BTreeMap;

use super::{Cursor, Image, Span};
use crate::link::gathered::{Gathered, gathered};
use crate::link::object::Section;

/// The run of the application's pages that an orphan section lies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::link) enum Run {
    #[default]
    Constants,
    Code,
    Data,
}

/// All sections of a name.
#[derive(Clone, Debug, Default)]
pub(in crate::link) struct Orphan {
    pub(in crate::link) name: String,
    pub(in crate::link) run: Run,
    pub(in crate::link) span: Span,
    /// Each section, by unit, object and index, with its object's place in the order of ld.
    parts: Vec<(usize, (usize, usize, usize))>,
    is_code: bool,
    is_writable: bool,
    /// An ordinary link would keep one of several equal entries.
    is_mergeable: bool,
}

impl Orphan {
    pub(in crate::link) fn is_writable_code(&self) -> bool {
        self.is_code && self.is_writable
    }

    /// The first of its sections.
    pub(in crate::link) fn first(&self) -> Option<(usize, usize, usize)> {
        self.parts.first().map(|(_, at)| *at)
    }
}

impl Image<'_, '_> {
    /// Finds all orphan sections of the program.
    pub(in crate::link) fn find_orphans(&mut self) {
        let mut found: BTreeMap<&str, Orphan> = BTreeMap::new();
        for u in self.included() {
            let unit = &self.units[u];
            for (o, s, section) in unit.sections() {
                let is_orphan = gathered(section) == Some(Gathered::Orphan);
                if !is_orphan && !section.is_alone || !self.takes(u, o, s) {
                    continue;
                }
                let orphan = found.entry(section.name).or_default();
                orphan.is_code |= section.is_code();
                orphan.is_writable |= section.is_writable();
                orphan.is_mergeable |= section.is_mergeable();
                orphan.parts.push((self.program.order(u, o), (u, o, s)));
            }
        }
        let is_alone = |orphan: &Orphan| match orphan.parts[..] {
            [(_, (u, o, s))] => self.units[u].objects[o].sections[s].is_alone,
            _ => false,
        };
        found.retain(|_, orphan| !is_alone(orphan));
        let orphans = found.into_iter().map(|(name, mut orphan)| {
            orphan.name = name.to_owned();
            orphan.run = match orphan {
                _ if orphan.is_writable => Run::Data,
                _ if orphan.is_code => Run::Code,
                _ => Run::Constants,
            };
            orphan.parts.sort_by_key(|(order, _)| *order);
            orphan
        });
        self.orphans = orphans.collect();
    }

    /// Places those of one run from `end` on.
    pub(in crate::link) fn place_orphans(&mut self, run: Run, end: &mut Cursor) {
        let mut orphans = std::mem::take(&mut self.orphans);
        for orphan in orphans.iter_mut().filter(|orphan| orphan.run == run) {
            let section = |(u, o, s): (usize, usize, usize)| -> &Section<'_> {
                &self.units[u].objects[o].sections[s]
            };
            let alignments = orphan.parts.iter().map(|(_, at)| section(*at).alignment);
            let start = end.take(0, alignments.max().unwrap_or(1)).start;
            for (_, at) in &orphan.parts {
                let section = section(*at);
                let address = end.take(section.size, section.alignment).start;
                self.gathered_index.insert(*at, address);
            }
            orphan.span = Span {
                start,
                size: end.0 - start,
            };
        }
        self.orphans = orphans;
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
