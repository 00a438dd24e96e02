//! Mergeable sections: equal strings and constants of one unit are kept once.
//!
//! What is loaded, only within a unit: a library's shared pages must not depend on what else is in an image.

use super::hash::{HashMap, map_with_capacity};
use super::object::Section;

/// A section: unit, object, index.
pub(super) type At = (usize, usize, usize);

/// Sections with the same kind of entries, merged.
#[derive(Debug)]
pub(super) struct Merged {
    /// Where it begins in what it is part of.
    pub(super) offset: u64,
    pub(super) alignment: u64,
    pub(super) bytes: Vec<u8>,
    /// The entries, each once, in order.
    pub(super) pieces: Vec<Piece>,
    /// Of each section, where each of its entries begins and where it went.
    entries: HashMap<At, Vec<(u64, u64)>>,
}

/// An entry: a part of [`Merged::bytes`], and where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: usize,
    pub(super) size: usize,
    /// From [`Merged::offset`].
    pub(super) position: u64,
}

impl Merged {
    /// The pieces with their bytes.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let piece = |piece: &Piece| (piece.position, &self.bytes[piece.at..piece.at + piece.size]);
        self.pieces.iter().map(piece)
    }

    /// Moves each piece to its position, of `positions` from `offset`.
    pub(super) fn move_pieces(&mut self, offset: u64, positions: &[u64]) {
        let mut moved = map_with_capacity(positions.len());
        for (piece, position) in self.pieces.iter_mut().zip(positions) {
            moved.insert(piece.position, *position);
            piece.position = *position;
        }
        self.offset = offset;
        for (_, position) in self.entries.values_mut().flatten() {
            *position = moved.get(position).copied().unwrap_or(*position);
        }
    }

    /// Where the byte at `offset` of a merged section went, from the start of the merged bytes.
    pub(super) fn position(&self, at: At, offset: u64) -> u64 {
        let Some(entries) = self.entries.get(&at) else {
            return 0;
        };
        let next = entries.partition_point(|(start, _)| *start <= offset);
        match next.checked_sub(1).and_then(|at| entries.get(at)) {
            Some((start, position)) => position.wrapping_add(offset - start),
            None => 0,
        }
    }
}

/// What sections must have in common to be merged with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct MergeKey {
    pub(super) entry_size: u64,
    alignment: u64,
    pub(super) strings: bool,
}

/// The key of a section that can be merged: whole entries, strings that end.
pub(super) fn key(section: &Section<'_>) -> Option<MergeKey> {
    let entry = section.entry_size;
    let is_data = !section.is_writable() && !section.is_code() && !section.is_zero();
    let is_whole =
        section.size > 0 && (1..=64).contains(&entry) && section.size.is_multiple_of(entry);
    if !section.is_mergeable() || !is_data || !is_whole {
        return None;
    }
    let strings = section.holds_strings();
    let last = section.bytes.rchunks(entry as usize).next();
    let ends = !strings || last.is_some_and(|last| last.iter().all(|b| *b == 0));
    ends.then_some(MergeKey {
        entry_size: entry,
        alignment: section.alignment,
        strings,
    })
}

/// Merges sections of one key, given in order.
pub(super) fn merge<'s, 'a: 's>(
    key: MergeKey,
    sections: impl Iterator<Item = (At, &'s Section<'a>)>,
) -> Merged {
    let mut bytes: Vec<u8> = Vec::new();
    let mut known: HashMap<&'a [u8], u64> = HashMap::default();
    let mut entries = HashMap::default();
    let mut pieces = Vec::new();
    for (at, section) in sections {
        let mut moved = Vec::new();
        let mut start = 0u64;
        for entry in split(key, section.bytes) {
            let position = *known.entry(entry).or_insert_with(|| {
                let position = (bytes.len() as u64).next_multiple_of(key.alignment);
                bytes.resize(position as usize, 0);
                bytes.extend_from_slice(entry);
                pieces.push(Piece {
                    at: position as usize,
                    size: entry.len(),
                    position,
                });
                position
            });
            moved.push((start, position));
            start += entry.len() as u64;
        }
        entries.insert(at, moved);
    }
    Merged {
        offset: 0,
        alignment: key.alignment,
        bytes,
        pieces,
        entries,
    }
}

fn split(key: MergeKey, bytes: &[u8]) -> Vec<&[u8]> {
    let size = key.entry_size as usize;
    if !key.strings {
        return bytes.chunks(size).collect();
    }
    let mut strings = Vec::new();
    let mut start = 0;
    for (at, unit) in bytes.chunks(size).enumerate() {
        if unit.iter().all(|b| *b == 0) {
            let end = (at + 1) * size;
            strings.push(&bytes[start..end]);
            start = end;
        }
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(bytes: &'static [u8]) -> Section<'static> {
        Section {
            name: ".rodata.str1.1",
            flags: 0x32,
            alignment: 1,
            size: bytes.len() as u64,
            entry_size: 1,
            bytes,
            kind: 1,
            is_content: true,
            ..Section::default()
        }
    }

    #[test]
    fn equal_strings_are_kept_once_and_found_from_inside() {
        let parts = [strings(b"one\0two\0"), strings(b"two\0three\0one\0")];
        let key = key(&parts[0]).unwrap();
        let merged = merge(key, parts.iter().enumerate().map(|(o, s)| ((0, o, 0), s)));
        assert_eq!(merged.bytes, b"one\0two\0three\0");
        assert_eq!(merged.position((0, 1, 0), 0), merged.position((0, 0, 0), 4));
        assert_eq!(merged.position((0, 1, 0), 11), 1);
        assert_eq!(merged.position((0, 1, 0), 6), 10);
    }

    #[test]
    fn what_is_not_made_of_entries_stays_as_it_is() {
        assert!(key(&strings(b"open")).is_none());
        let mut odd = strings(b"abc");
        odd.flags = 0x12;
        odd.entry_size = 2;
        assert!(key(&odd).is_none());
        odd.entry_size = 0;
        assert!(key(&odd).is_none());
    }
}
