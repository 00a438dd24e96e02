//! Sections that are not loaded: debugging information, comments, notes. All of one name become one, and of equal
//! strings in them one is kept, as in an ordinary link.

use std::collections::BTreeMap;

use goblin::elf::section_header::{SHF_MERGE, SHF_STRINGS, SHT_PROGBITS};

use super::Image;
use crate::link::hash::HashMap;
use crate::link::merge::{self, At, MergeKey, Merged};
use crate::link::object::Section;
use crate::link::plan::{Extent, Part};

/// The sections of one name.
#[derive(Debug)]
pub(in crate::link) struct Loose {
    pub(in crate::link) extent: Extent,
    /// `sh_type`.
    pub(in crate::link) kind: u32,
    /// `sh_flags` and `sh_entsize`, which tell of strings that were merged.
    pub(in crate::link) flags: u64,
    pub(in crate::link) entry_size: u64,
    pub(in crate::link) merged: Vec<Merged>,
}

impl Default for Loose {
    fn default() -> Self {
        Self {
            extent: Extent::default(),
            kind: SHT_PROGBITS,
            flags: 0,
            entry_size: 0,
            merged: Vec::new(),
        }
    }
}

/// Where a section went in that of its name.
#[derive(Clone, Copy, Debug)]
enum Went {
    To(u64),
    /// Into the merged one of this index.
    Into(usize),
}

/// All of them.
#[derive(Debug, Default)]
pub(in crate::link) struct LooseSections {
    pub(in crate::link) by_name: BTreeMap<String, Loose>,
    went: HashMap<At, Went>,
}

impl LooseSections {
    /// Of a byte of a section called `name`, its offset in the output.
    pub(in crate::link) fn offset(&self, name: &str, at: At, offset: u64) -> Option<u64> {
        Some(match self.went.get(&at)? {
            Went::To(start) => start.wrapping_add(offset),
            Went::Into(index) => {
                let merged = self.by_name.get(name)?.merged.get(*index)?;
                merged.offset.wrapping_add(merged.position(at, offset))
            }
        })
    }

    /// The section is not there as it was.
    pub(in crate::link) fn is_merged(&self, at: At) -> bool {
        matches!(self.went.get(&at), Some(Went::Into(_)))
    }
}

impl Image<'_, '_> {
    pub(in crate::link) fn place_loose(&mut self) {
        let mut found: BTreeMap<&str, Vec<At>> = BTreeMap::new();
        for u in (0..self.units.len()).filter(|unit| self.program.includes(*unit)) {
            for (o, s, section) in self.units[u].sections() {
                let is_loose = self.plans[u].placement(o, s).part == Part::Loose;
                if is_loose && section.size > 0 {
                    found.entry(section.name).or_default().push((u, o, s));
                }
            }
        }
        let units = self.units;
        let section = |(u, o, s): At| -> &Section<'_> { &units[u].objects[o].sections[s] };
        let mut loose = LooseSections::default();
        for (name, all) in found {
            let mut own = Loose {
                kind: all.first().map_or(SHT_PROGBITS, |at| section(*at).kind),
                ..Loose::default()
            };
            // In the order in which the first of each kind stands.
            let mut kinds: Vec<(Option<MergeKey>, Vec<At>)> = Vec::new();
            for at in all {
                let section = section(at);
                let key = merge::key(section);
                match kinds.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, sections)) => sections.push(at),
                    None => kinds.push((key, vec![at])),
                }
            }
            if let [(Some(key), _)] = kinds.as_slice() {
                own.flags = u64::from(SHF_MERGE | if key.strings { SHF_STRINGS } else { 0 });
                own.entry_size = key.entry_size;
            }
            for (key, sections) in kinds {
                let Some(key) = key else {
                    for at in sections {
                        let section = section(at);
                        let offset = own.extent.take(section.size, section.alignment);
                        loose.went.insert(at, Went::To(offset));
                    }
                    continue;
                };
                let parts = sections.iter().map(|at| (*at, section(*at)));
                let mut merged = merge::merge(key, parts);
                merged.offset = own.extent.take(merged.bytes.len() as u64, merged.alignment);
                let index = Went::Into(own.merged.len());
                loose
                    .went
                    .extend(sections.into_iter().map(|at| (at, index)));
                own.merged.push(merged);
            }
            loose.by_name.insert(name.to_owned(), own);
        }
        self.loose = loose;
    }
}
