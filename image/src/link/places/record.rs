//! What is on record of the places in a version of a library.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | `PLACES`, 0, 1 |
//! | number | offset of the constants in the shared range |
//! | number | offset of what is behind all that was kept, not before the constants |
//! | number | bytes for bound sections, a multiple of the page size |
//! | number | lines |
//!
//! and for each line
//!
//! | bytes | field |
//! |---|---|
//! | 1 | bits 0 and 1: the space (shared, bound, data, thread-local); bit 2: the identity is the name; bit 3: below |
//! | 4 | name |
//! | 4 or 0 | identity |
//! | number | offset, less the end of the line before in that space, as a signed number (zigzag) |
//! | number | bytes |
//!
//! With bit 3 set, a jump to the code that has moved follows at the end of the line: a number, its offset in the shared range.
//!
//! Numbers are in base 128, little end first, as in DWARF. Names and identities are the first 4 bytes of digests: equal ones
//! cost pages at most.

use pool_core::page::PAGE_SIZE;

use super::Space;

const MAGIC: &[u8; 8] = b"PLACES\0\x01";
/// All offsets and sizes are below this: libraries lie in the low 2 GiB.
const LIMIT: u64 = 1 << 31;
const IS_NAME: u8 = 4;
const HAS_JUMP: u8 = 8;

/// What is on record of a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::link) struct Record {
    /// Offset of the constants in the shared range.
    pub(in crate::link) constants_at: u64,
    /// Offset in the shared range behind all that lies as if nothing had been on record.
    pub(in crate::link) more_at: u64,
    /// Room for bound sections, whole pages.
    pub(in crate::link) bound: u64,
    pub(in crate::link) lines: Vec<Line>,
}

/// Where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::link) struct Line {
    pub(in crate::link) space: Space,
    pub(in crate::link) name: u32,
    pub(in crate::link) identity: u32,
    pub(in crate::link) offset: u64,
    pub(in crate::link) size: u64,
    /// Where a jump to it is, for code that lay there in an earlier version.
    pub(in crate::link) jump: Option<u64>,
}

impl Record {
    pub(in crate::link) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for value in [
            self.constants_at,
            self.more_at,
            self.bound,
            self.lines.len() as u64,
        ] {
            put(&mut bytes, value);
        }
        let mut ends = [0u64; 4];
        for line in &self.lines {
            let space = line.space as usize;
            let is_name = line.name == line.identity;
            let is_name_bit = if is_name { IS_NAME } else { 0 };
            let jump_bit = line.jump.map_or(0, |_| HAS_JUMP);
            bytes.push(space as u8 | is_name_bit | jump_bit);
            bytes.extend(line.name.to_le_bytes());
            if !is_name {
                bytes.extend(line.identity.to_le_bytes());
            }
            let distance = line.offset.wrapping_sub(ends[space]) as i64;
            put(&mut bytes, ((distance << 1) ^ (distance >> 63)) as u64);
            put(&mut bytes, line.size);
            if let Some(jump) = line.jump {
                put(&mut bytes, jump);
            }
            ends[space] = line.offset + line.size;
        }
        bytes
    }

    /// None for what is no record, or not of a library that fits where libraries lie. Lines may overlap: who arranges after an
    /// earlier version's looks at each.
    pub(in crate::link) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut record = Self {
            constants_at: take(&mut rest)?,
            more_at: take(&mut rest)?,
            bound: take(&mut rest)?,
            lines: Vec::new(),
        };
        let count = take(&mut rest)?;
        let mut ends = [0u64; 4];
        let mut sizes = 0u64;
        for _ in 0..count {
            let (kind, behind) = rest.split_first()?;
            let space = *Space::ALL.get(usize::from(kind & 3))?;
            let (name, mut behind) = behind.split_first_chunk()?;
            let name = u32::from_le_bytes(*name);
            let mut identity = name;
            if kind & IS_NAME == 0 {
                let (own, further) = behind.split_first_chunk()?;
                identity = u32::from_le_bytes(*own);
                behind = further;
            }
            if kind & !(HAS_JUMP | IS_NAME | 3) != 0 {
                return None;
            }
            rest = behind;
            let distance = take(&mut rest)?;
            let distance = (distance >> 1) as i64 ^ -((distance & 1) as i64);
            let end = &mut ends[space as usize];
            let offset = end.checked_add_signed(distance)?;
            let size = take(&mut rest)?;
            *end = offset.checked_add(size).filter(|end| *end < LIMIT)?;
            sizes += size;
            let jump = match kind & HAS_JUMP {
                0 => None,
                _ => Some(take(&mut rest).filter(|jump| *jump < LIMIT)?),
            };
            record.lines.push(Line {
                space,
                name,
                identity,
                offset,
                size,
                jump,
            });
        }
        let fits = record.constants_at <= record.more_at
            && record.more_at < LIMIT
            && record.bound < LIMIT
            && record.bound.is_multiple_of(PAGE_SIZE)
            // They lie beside each other, in four spaces.
            && sizes < 4 * LIMIT;
        (rest.is_empty() && fits).then_some(record)
    }
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Takes a number of at most 63 bits.
fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let (digit, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(digit & 0x7f) << shift;
        if digit & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line() -> impl Strategy<Value = Line> {
        let hashes = (any::<u32>(), any::<u32>(), any::<bool>());
        (0usize..4, hashes, 0u64..1 << 30, 0u64..1 << 20).prop_map(
            |(space, (name, other, is_name), offset, size)| Line {
                space: Space::ALL[space],
                name,
                identity: if is_name { name } else { other },
                offset,
                size,
                jump: (is_name && size > 1000).then_some(offset / 2),
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_reads_back(lines in prop::collection::vec(line(), 0..40), at in 0u64..1 << 30) {
            let record = Record { constants_at: at, more_at: at + 7, bound: 4096, lines };
            let bytes = record.to_bytes();
            prop_assert_eq!(Record::parse(&bytes), Some(record));
            for length in 0..bytes.len() {
                prop_assert_eq!(Record::parse(&bytes[..length]), None);
            }
        }

        #[test]
        fn borders_that_no_version_has_are_none(constants in 0u64..1 << 32, more in 0u64..1 << 32, bound in 0u64..1 << 32) {
            let record = Record { constants_at: constants, more_at: more, bound, lines: Vec::new() };
            let is_one = constants <= more && more < LIMIT && bound < LIMIT && bound % PAGE_SIZE == 0;
            prop_assert_eq!(Record::parse(&record.to_bytes()).is_some(), is_one);
        }

        #[test]
        fn nonsense_is_none_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Record::parse(&bytes), None);
            let _ = Record::parse(&[MAGIC, &bytes[..]].concat());
        }
    }
}
