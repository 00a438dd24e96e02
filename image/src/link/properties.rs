//! `.note.gnu.property`: what the program needs of a processor, and what all of its code is made for.
//!
//! Sources: Linux Extensions to gABI, "Program Property"; x86-64 psABI, the same; binutils,
//! `bfd/elf-properties.c` and `bfd/elfxx-x86.c`.

use std::collections::BTreeMap;

use super::image::Image;
use super::object::Object;

const NT_GNU_PROPERTY_TYPE_0: u32 = 5;
/// Properties of which all objects must have a bit (`FEATURE_1_AND` of x86 is one of them).
const OF_ALL: [(u32, u32); 2] = [(0xb000_0000, 0xb000_7fff), (0xc000_0002, 0xc000_7fff)];
/// Properties of which one object must have a bit (`ISA_1_NEEDED`).
const OF_ANY: [(u32, u32); 2] = [(0xb000_8000, 0xb000_ffff), (0xc000_8000, 0xc000_ffff)];
/// The same, but all objects must have the property (`ISA_1_USED`).
const OF_ANY_IF_ALL_TELL: (u32, u32) = (0xc001_0000, 0xc001_7fff);

/// `GNU_PROPERTY_X86_FEATURE_1_AND`.
pub(super) const FEATURES: u32 = 0xc000_0002;
/// `GNU_PROPERTY_X86_ISA_1_NEEDED`.
pub(super) const LEVEL_NEEDED: u32 = 0xc000_8002;

/// Bits of properties, by their types.
type Properties = BTreeMap<u32, u32>;

impl Image<'_, '_> {
    /// The note for the objects of the program, with what the command line adds; empty if there is nothing to say.
    pub(super) fn property_note(&self, added: &[(u32, u32)]) -> Vec<u8> {
        let objects = self.included().flat_map(|u| {
            let objects = self.units[u].objects.iter().enumerate();
            objects.filter(move |(o, _)| self.program.is_live(u, *o))
        });
        let all: Vec<Properties> = objects.map(|(_, object)| properties(object)).collect();
        let mut merged = merged(&all);
        for (kind, bits) in added {
            *merged.entry(*kind).or_default() |= bits;
        }
        note(&merged)
    }
}

fn merged(all: &[Properties]) -> Properties {
    let is_in = |(first, last): (u32, u32), kind: u32| (first..=last).contains(&kind);
    let mut merged = Properties::new();
    let kinds = all.iter().flat_map(|of| of.keys().copied());
    for kind in kinds {
        let values = || all.iter().filter_map(move |of| of.get(&kind));
        let all_tell = all.iter().all(|of| of.contains_key(&kind));
        let any = values().fold(0, |bits, value| bits | value);
        let bits = if OF_ALL.iter().any(|range| is_in(*range, kind)) {
            let common = values().fold(u32::MAX, |bits, value| bits & value);
            if all_tell { common } else { 0 }
        } else if OF_ANY.iter().any(|range| is_in(*range, kind))
            || is_in(OF_ANY_IF_ALL_TELL, kind) && all_tell
        {
            any
        } else {
            0
        };
        if bits != 0 {
            merged.insert(kind, bits);
        }
    }
    merged
}

/// Those of an object, as far as they are numbers of 32 bits.
fn properties(object: &Object<'_>) -> Properties {
    let mut found = Properties::new();
    for section in &object.sections {
        if section.name == ".note.gnu.property" {
            read(section.bytes, &mut found);
        }
    }
    found
}

fn read(notes: &[u8], found: &mut Properties) -> Option<()> {
    let mut rest = notes;
    loop {
        let (name, size, kind) = (word(rest, 0)?, word(rest, 4)? as usize, word(rest, 8)?);
        let description = rest.get(16..16usize.checked_add(size)?)?;
        if name == 4 && kind == NT_GNU_PROPERTY_TYPE_0 && rest.get(12..16)? == b"GNU\0" {
            let mut at = 0;
            while let (Some(kind), Some(size)) = (word(description, at), word(description, at + 4))
            {
                if size == 4 {
                    *found.entry(kind).or_default() |= word(description, at + 8)?;
                }
                at = (at + 8).checked_add(size as usize)?.next_multiple_of(8);
            }
        }
        rest = rest.get((16 + size).next_multiple_of(8)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn note(properties: &Properties) -> Vec<u8> {
    if properties.is_empty() {
        return Vec::new();
    }
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let size = 16 * properties.len() as u32;
    let mut note = words(&[4, size, NT_GNU_PROPERTY_TYPE_0]);
    note.extend(b"GNU\0");
    for (kind, bits) in properties {
        note.extend(words(&[*kind, 4, *bits, 0]));
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_holds_for_all_or_for_any() {
        let of = |pairs: &[(u32, u32)]| -> Properties { pairs.iter().copied().collect() };
        let used = 0xc001_0002;
        let first = of(&[(FEATURES, 3), (LEVEL_NEEDED, 1), (used, 1)]);
        let second = of(&[(FEATURES, 2), (LEVEL_NEEDED, 4), (used, 2)]);
        let both = merged(&[first.clone(), second]);
        assert_eq!(both, of(&[(FEATURES, 2), (LEVEL_NEEDED, 5), (used, 3)]));
        assert_eq!(
            merged(&[first, Properties::new()]),
            of(&[(LEVEL_NEEDED, 1)])
        );
        let mut found = Properties::new();
        read(&note(&both), &mut found);
        assert_eq!(found, both);
    }
}
