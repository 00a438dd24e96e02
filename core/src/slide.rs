//! The record of what in an image holds addresses, so that the image can start elsewhere than it was linked.
//!
//! An image is made of *units*: the application, and each library with its shared and its private pages. A unit
//! moves as a whole. What then has to change are *fields*: addresses themselves (64 bits), and distances between two
//! units. The linker, which wrote each of them, says where they are; nothing is guessed.
//!
//! # Format
//!
//! Integers are little-endian. Version 1:
//!
//! | offset | bytes | field |
//! |---:|---:|---|
//! | 0 | 8 | magic: `POOLSLID` |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | number of units, *n*; the first is the application |
//! | 16 | 8 | address of the unwinder's table (`PT_GNU_EH_FRAME`), zero without one |
//! | 24 | 4 | number of its entries |
//! | 28 | 4 | zero |
//! | 32 | 32 *n* | units: address and length in bytes of each of two runs of pages, unused ones zero |
//! | 32 + 32 *n* | to the end | fields |
//!
//! Fields are a sequence of numbers, 7 bits a byte, the lowest first, the highest bit set in all bytes but a number's
//! last (LEB128). The two lowest bits of a number say what the rest of it, *r*, means:
//!
//! | bits | meaning |
//! |---|---|
//! | 0 | a field begins *r* bytes after the last one's end (after address zero at first) |
//! | 1 | *r* further fields follow, each right behind the one before |
//! | 2 | fields from here on are of kind *r* mod 3 (0 an address, 1 a distance of 32 bits, 2 one of 64) and are about unit *r* div 3; at first 0 and 0 |
//!
//! A distance leads from the unit that its field is in.

use thiserror::Error;

use crate::address::{GuestAddress, USER_ADDRESS_END};
use crate::description::{Description, RangeKind};
use crate::page::{PAGE_SIZE, PageCount};
use crate::registry::AddressRange;

const MAGIC: [u8; 8] = *b"POOLSLID";
/// Version of the record; a reader refuses any other.
pub const SLIDE_VERSION: u32 = 1;
/// Longest record that is read. The largest programs have a few MiB.
pub const MAX_SLIDE_BYTES: u64 = 64 << 20;
/// Most units: an image has no more ranges.
const MAX_UNITS: u64 = crate::description::MAX_RANGES as u64;

/// Most pages of code that are written for units to move by themselves. Two sections of code are put together from those of
/// all units, and call what is theirs: `.init` and `.fini`, of a few bytes each.
const MAX_WRITTEN_CODE_PAGES: u64 = 2;

const HEADER_SIZE: usize = 32;
const UNIT_SIZE: usize = 32;

/// Why units of an image cannot move by themselves: the first place of which there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "its own code refers to libraries directly, as at {0}: link it with -Wl,--pool-aslr=library, compiled without -mcmodel=large"
)]
pub struct DirectReference(pub GuestAddress);

/// Why libraries of an image cannot move by themselves: its linker has made all of it one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "it asks where all that is loaded ends (_end), and so is in one piece: only without references to _end and end can \
     each library move by itself"
)]
pub struct OnePiece;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FieldKind {
    /// An address, of 64 bits.
    Address,
    /// A distance, of 32 bits with a sign, from the field's unit to another.
    Distance,
    /// The same, of 64 bits.
    LongDistance,
}

impl FieldKind {
    const ALL: [Self; 3] = [Self::Address, Self::Distance, Self::LongDistance];

    /// Bytes of such a field.
    pub fn width(self) -> u64 {
        match self {
            Self::Address | Self::LongDistance => 8,
            Self::Distance => 4,
        }
    }
}

/// A field, or several of one kind, one right behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Address of the first, as linked.
    pub address: u64,
    /// How many.
    pub count: u64,
    /// What they hold.
    pub kind: FieldKind,
    /// The unit that they are in.
    pub unit: usize,
    /// The unit that they are about.
    pub target: usize,
}

impl Fields {
    /// First address behind them.
    pub fn end(&self) -> u64 {
        self.address + self.count * self.kind.width()
    }
}

/// A field as its linker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    /// Its address.
    pub address: u64,
    /// What it holds.
    pub kind: FieldKind,
    /// The unit that it is about.
    pub target: usize,
}

/// The table by which an unwinder finds frames: pairs of distances from its own address, sorted by the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnwindTable {
    /// Address of its header.
    pub address: u64,
    /// How many pairs.
    pub entries: u32,
}

impl UnwindTable {
    /// Bytes before the pairs, and of a pair.
    pub const HEADER: u64 = 12;
    /// See [`Self::HEADER`].
    pub const PAIR: u64 = 8;

    /// First address behind it. Cannot overflow in user addresses.
    pub fn end(&self) -> u64 {
        self.address + Self::HEADER + Self::PAIR * u64::from(self.entries)
    }
}

/// Why a record is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SlideError {
    /// Cut short, or something else altogether.
    #[error("it is no record of addresses, or is cut short")]
    Form,
    /// A newer form.
    #[error("it has version {0}, this program reads {SLIDE_VERSION}: update it")]
    Version(u32),
    /// Longer than any program's.
    #[error("it has {0} bytes, the limit is {MAX_SLIDE_BYTES}")]
    TooLong(u64),
    /// A unit's addresses are none, are not pages, or are another's as well.
    #[error("unit {0} is not made of pages of its own in user addresses")]
    Unit(usize),
    /// A number is too large, or means nothing.
    #[error("its fields are damaged at byte {0}")]
    Number(usize),
    /// A field is in no unit, or reaches past its end.
    #[error("the field at {0:#x} lies in no unit")]
    Outside(u64),
    /// A field is about a unit that is none.
    #[error("the field at {0:#x} is about unit {1}, which there is not")]
    Target(u64, usize),
    /// Two fields claim a byte.
    #[error("the field at {0:#x} begins within another")]
    Overlap(u64),
    /// The unwinder's table is not the application's.
    #[error("the unwinder's table at {0:#x} does not lie in the application")]
    Table(u64),
    /// A range of the image lies in no unit.
    #[error("the range at {0} lies in no unit")]
    Range(GuestAddress),
    /// A field, or a part of the unwinder's table, is where the image has no bytes.
    #[error("it is about {0:#x}, where the image has no bytes")]
    NoBytes(u64),
}

/// What in an image holds addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlideRecord {
    units: Vec<[AddressRange; 2]>,
    /// Start, end and unit of each run of pages, sorted.
    runs: Vec<(u64, u64, usize)>,
    table: Option<UnwindTable>,
    fields: Vec<u8>,
}

impl SlideRecord {
    /// The record of `fields`, in any order, in `units`.
    pub fn new(
        units: Vec<[AddressRange; 2]>,
        table: Option<UnwindTable>,
        mut fields: Vec<Field>,
    ) -> Result<Self, SlideError> {
        fields.sort_unstable();
        let mut record = Self {
            runs: runs(&units)?,
            units,
            table,
            fields: encode(&fields)?,
        };
        record.check_fields()?;
        record.fields.shrink_to_fit();
        Ok(record)
    }

    /// Reads a record and checks all of it that can be checked without the image.
    pub fn parse(bytes: &[u8]) -> Result<Self, SlideError> {
        if bytes.len() as u64 > MAX_SLIDE_BYTES {
            return Err(SlideError::TooLong(bytes.len() as u64));
        }
        let (header, rest) = bytes
            .split_at_checked(HEADER_SIZE)
            .ok_or(SlideError::Form)?;
        if header[..8] != MAGIC {
            return Err(SlideError::Form);
        }
        let number = |at: usize| word(header, at) & u64::from(u32::MAX);
        if number(8) != u64::from(SLIDE_VERSION) {
            return Err(SlideError::Version(number(8) as u32));
        }
        let count = number(12);
        if count == 0 || count > MAX_UNITS || word(header, 24) >> 32 != 0 {
            return Err(SlideError::Form);
        }
        let (units, fields) = rest
            .split_at_checked(count as usize * UNIT_SIZE)
            .ok_or(SlideError::Form)?;
        let unit = |(at, unit): (usize, &[u8])| -> Result<[AddressRange; 2], SlideError> {
            let run = |start: usize| {
                let length = word(unit, start + 8);
                length.is_multiple_of(PAGE_SIZE).then(|| AddressRange {
                    start: GuestAddress(word(unit, start)),
                    pages: PageCount::covering(length),
                })
            };
            let both = run(0).zip(run(16)).ok_or(SlideError::Unit(at))?;
            Ok(both.into())
        };
        let units: Vec<_> = units
            .chunks_exact(UNIT_SIZE)
            .enumerate()
            .map(unit)
            .collect::<Result<_, _>>()?;
        let table = (word(header, 16) != 0).then(|| UnwindTable {
            address: word(header, 16),
            entries: number(24) as u32,
        });
        let record = Self {
            runs: runs(&units)?,
            units,
            table,
            fields: fields.to_vec(),
        };
        record.check_fields()?;
        Ok(record)
    }

    /// The bytes of the record.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(SLIDE_VERSION.to_le_bytes());
        bytes.extend((self.units.len() as u32).to_le_bytes());
        bytes.extend(self.table.map_or(0, |table| table.address).to_le_bytes());
        let entries = self.table.map_or(0, |table| table.entries);
        bytes.extend(u64::from(entries).to_le_bytes());
        for run in self.units.iter().flatten() {
            bytes.extend(run.start.0.to_le_bytes());
            bytes.extend(run.pages.bytes().to_le_bytes());
        }
        bytes.extend(&self.fields);
        bytes
    }

    /// The units' addresses: of the application first, then of each library.
    pub fn units(&self) -> &[[AddressRange; 2]] {
        &self.units
    }

    /// The unwinder's table, if the image has one.
    pub fn table(&self) -> Option<UnwindTable> {
        self.table
    }

    /// The unit whose pages hold `start..end`.
    pub fn unit_of(&self, start: u64, end: u64) -> Option<usize> {
        let next = self.runs.partition_point(|(from, ..)| *from <= start);
        let (from, to, unit) = *self.runs.get(next.checked_sub(1)?)?;
        (from <= start && end <= to).then_some(unit)
    }

    /// The fields, sorted by address.
    pub fn fields(&self) -> impl Iterator<Item = Fields> + '_ {
        // All of it was checked.
        self.walk().map_while(Result::ok)
    }

    fn walk(&self) -> Walk<'_> {
        Walk {
            record: self,
            at: 0,
            position: 0,
            kind: FieldKind::Address,
            target: 0,
            begun: false,
        }
    }

    fn check_fields(&self) -> Result<(), SlideError> {
        let is_beside = |table: &UnwindTable| {
            table.address > USER_ADDRESS_END || self.unit_of(table.address, table.end()) != Some(0)
        };
        if let Some(table) = self.table.filter(is_beside) {
            return Err(SlideError::Table(table.address));
        }
        self.walk().try_for_each(|fields| fields.map(drop))
    }

    /// Whether the image of `description` has libraries that are not units of their own.
    pub fn one_piece(&self, description: &Description) -> Option<OnePiece> {
        (self.units.len() == 1 && !description.libraries.is_empty()).then_some(OnePiece)
    }

    /// Where code of the application leads to another unit without a slot in between, if it does on more than two pages:
    /// then its code would have to be written for units to move by themselves.
    pub fn direct_reference(&self, description: &Description) -> Option<DirectReference> {
        let ranges = &description.ranges;
        let is_in_code = |fields: &Fields| {
            let at = ranges.partition_point(|range| range.end().0 <= fields.address);
            let range = ranges.get(at);
            range.is_some_and(|range| range.kind == RangeKind::Shared && range.protection.execute)
        };
        let distances = self
            .fields()
            .filter(|fields| fields.unit == 0 && fields.kind != FieldKind::Address);
        let mut in_code = distances.filter(is_in_code).peekable();
        let first = in_code.peek()?.address;
        let written = pages_of(in_code);
        let bytes: u64 = written.iter().map(|(start, end)| end - start).sum();
        (bytes > MAX_WRITTEN_CODE_PAGES * PAGE_SIZE).then_some(DirectReference(GuestAddress(first)))
    }

    /// Checks that this is about the image of `description`: its ranges lie in units, each in one, and all
    /// fields and the unwinder's table where it has bytes.
    pub fn check(&self, description: &Description) -> Result<(), SlideError> {
        let ranges = &description.ranges;
        for range in ranges {
            if self.unit_of(range.address.0, range.end().0).is_none() {
                return Err(SlideError::Range(range.address));
            }
        }
        let table = self.table.map(|table| (table.address, table.end()));
        let fields = self.fields().map(|fields| (fields.address, fields.end()));
        for (mut at, end) in fields.chain(table) {
            let first = ranges.partition_point(|range| range.end().0 <= at);
            for range in &ranges[first..] {
                if at >= end || range.address.0 > at || range.kind == RangeKind::Zero {
                    break;
                }
                at = range.end().0;
            }
            if at < end {
                return Err(SlideError::NoBytes(at));
            }
        }
        Ok(())
    }
}

/// A word of a header that is known to be long enough.
fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    // The last field of a header may have four bytes.
    word.map_or(0, |word| u64::from_le_bytes(*word))
}

/// The runs of pages of `units`, sorted, if they are pages of user addresses and disjoint.
fn runs(units: &[[AddressRange; 2]]) -> Result<Vec<(u64, u64, usize)>, SlideError> {
    let mut runs = Vec::with_capacity(2 * units.len());
    for (unit, of) in units.iter().enumerate() {
        for run in of.iter().filter(|run| run.pages.0 > 0) {
            let end = run
                .pages
                .checked_bytes()
                .and_then(|bytes| run.start.0.checked_add(bytes))
                .filter(|end| *end <= USER_ADDRESS_END && run.start.0.is_multiple_of(PAGE_SIZE));
            runs.push((run.start.0, end.ok_or(SlideError::Unit(unit))?, unit));
        }
    }
    runs.sort_unstable();
    match runs.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(SlideError::Unit(pair[1].2)),
        None => Ok(runs),
    }
}

/// The fields as numbers; `fields` are sorted.
fn encode(fields: &[Field]) -> Result<Vec<u8>, SlideError> {
    let mut bytes = Vec::new();
    let mut put = |mut number: u64| {
        while number > 0x7f {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
    };
    let (mut end, mut state, mut further) = (0, (FieldKind::Address, 0), 0);
    for (nth, field) in fields.iter().enumerate() {
        let after = field
            .address
            .checked_sub(end)
            .ok_or(SlideError::Overlap(field.address))?;
        if (field.kind, field.target) == state && after == 0 && nth > 0 {
            further += 1;
        } else {
            if further > 0 {
                put(further << 2 | 1);
            }
            further = 0;
            if (field.kind, field.target) != state {
                state = (field.kind, field.target);
                put((field.target as u64 * 3 + field.kind as u64) << 2 | 2);
            }
            if after >> 62 != 0 {
                return Err(SlideError::Outside(field.address));
            }
            put(after << 2);
        }
        end = field
            .address
            .checked_add(field.kind.width())
            .ok_or(SlideError::Outside(field.address))?;
    }
    if further > 0 {
        put(further << 2 | 1);
    }
    Ok(bytes)
}

/// A way through the fields of a record that may be anything.
struct Walk<'r> {
    record: &'r SlideRecord,
    at: usize,
    /// Where the last field ends.
    position: u64,
    kind: FieldKind,
    target: usize,
    /// There was a field.
    begun: bool,
}

impl Walk<'_> {
    fn number(&mut self) -> Result<u64, SlideError> {
        let start = self.at;
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.record.fields.get(self.at);
            let byte = *byte.ok_or(SlideError::Number(start))?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(SlideError::Number(start))
    }

    fn step(&mut self) -> Result<Option<Fields>, SlideError> {
        let start = self.at;
        let damaged = || SlideError::Number(start);
        let number = self.number()?;
        let rest = number >> 2;
        let (address, count) = match number & 3 {
            0 => {
                let address = self.position.checked_add(rest).ok_or_else(damaged)?;
                (address, 1)
            }
            1 if rest > 0 && self.begun => (self.position, rest),
            2 => {
                self.kind = FieldKind::ALL[(rest % 3) as usize];
                self.target = (rest / 3) as usize;
                return Ok(None);
            }
            _ => return Err(damaged()),
        };
        let length = self.kind.width().checked_mul(count).ok_or_else(damaged)?;
        let end = address.checked_add(length).ok_or_else(damaged)?;
        let unit = self.record.unit_of(address, end);
        let unit = unit.ok_or(SlideError::Outside(address))?;
        if self.target >= self.record.units.len() {
            return Err(SlideError::Target(address, self.target));
        }
        self.position = end;
        self.begun = true;
        Ok(Some(Fields {
            address,
            count,
            kind: self.kind,
            unit,
            target: self.target,
        }))
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Fields, SlideError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.record.fields.len() {
            match self.step() {
                Ok(None) => {}
                Ok(Some(fields)) => return Some(Ok(fields)),
                Err(error) => {
                    self.at = self.record.fields.len();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Pages that hold fields, as runs: the first address of each, and the first behind it.
pub fn pages_of(fields: impl Iterator<Item = Fields>) -> Vec<(u64, u64)> {
    let mut pages: Vec<(u64, u64)> = Vec::new();
    for fields in fields {
        let start = fields.address & !(PAGE_SIZE - 1);
        let end = fields.end().next_multiple_of(PAGE_SIZE);
        match pages.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => pages.push((start, end)),
        }
    }
    pages
}

#[cfg(test)]
mod tests;
