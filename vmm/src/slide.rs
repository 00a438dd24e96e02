//! Where an image starts: elsewhere at each run, if that is asked for.
//!
//! Pure, but for the numbers that are drawn: an image's map and its record of what holds addresses
//! ([`pool_core::slide`]) go in, a map at other addresses comes out. Pages that hold addresses become the guest's own and
//! are written before it runs ([`Slides::writes`]); all others, and so all code, stay the pool's.

mod apart;

use std::io;

use pool_core::address::USER_ADDRESS_END;
use pool_core::description::{Description, Range, RangeKind, Slide};
use pool_core::image_map::ImageMap;
use pool_core::slide::{
    self, DirectReference, FieldKind, MAX_SLIDE_BYTES, OnePiece, SlideError, SlideRecord,
    UnwindTable,
};
use pool_core::{GuestAddress, ObjectId, PAGE_SIZE, WINDOW_SIZE};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use thiserror::Error;

use crate::options::Aslr;

/// Where images that slide lie: above all that is linked at registered or conventional addresses, and below what Linux
/// maps into this process (its program from two thirds of the address space on, everything else at the top, or from a third
/// on if its stack has no limit), so that a plain process can map it too. Of 2 MiB windows there are 2^24.
const LOWEST: u64 = 4 << 30;
const HIGHEST: u64 = 0x2a00_0000_0000;
/// Bytes behind an image for its heap, its stack and the monitor.
const ROOMS: u64 = 4 << 30;
/// Where the application and its libraries lie when each moves by itself: 32 bits reach from anywhere to anywhere, and
/// more GiB would cost each guest more page tables. There are 1024 places for each.
const ARENA: u64 = 2 << 30;

/// Why an image cannot start where it was asked to.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CannotSlide {
    /// Its linker says so.
    #[error("{why}")]
    Fixed {
        /// Why.
        why: String,
    },
    /// Nobody has recorded what holds addresses.
    #[error("it was not linked by this version of `pool link`, which records what holds addresses")]
    Unrecorded,
    /// It moves as a whole or not at all.
    #[error("it relocates itself, as a whole: --aslr image moves it")]
    Whole,
    /// Code refers to another unit without a slot.
    #[error("{0}, or take --aslr image")]
    Direct(DirectReference),
    /// The units are one.
    #[error("{0}; take --aslr image")]
    OnePiece(OnePiece),
    /// The record is wrong.
    #[error("its record of addresses is wrong: {0}; push the image again, or run `pool fsck`")]
    Record(#[from] SlideError),
    /// It is as large as the address space.
    #[error("it leaves no room to move in the address space")]
    NoRoom,
    /// No random numbers.
    #[error("reading random bytes: {0}")]
    Random(rustix::io::Errno),
}

/// Numbers that nobody can guess.
#[derive(Debug)]
pub struct Random(Vec<u64>);

impl Random {
    /// Draws `count` numbers.
    pub fn draw(count: usize) -> Result<Self, CannotSlide> {
        let mut bytes = vec![0; 8 * count];
        let mut done = 0;
        while done < bytes.len() {
            let rest = &mut bytes[done..];
            match getrandom(rest, GetRandomFlags::empty()) {
                Ok(0) => return Err(CannotSlide::Random(rustix::io::Errno::IO)),
                Ok(more) => done += more,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(CannotSlide::Random(error)),
            }
        }
        let words = bytes.chunks_exact(8).filter_map(<[u8]>::first_chunk);
        Ok(Self(words.map(|word| u64::from_le_bytes(*word)).collect()))
    }

    /// The next number, below `bound`; zero when none is left. Which is as likely as the others but for 2^-64 of `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        let number = self.0.pop().unwrap_or(0);
        ((u128::from(number) * u128::from(bound)) >> 64) as u64
    }
}

impl From<Vec<u64>> for Random {
    /// These numbers, the last one first: for tests.
    fn from(numbers: Vec<u64>) -> Self {
        Self(numbers)
    }
}

/// Addresses or distances that are written before the guest runs, one right behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Guest address of the first.
    pub address: u64,
    /// How many.
    pub count: u64,
    /// What they hold.
    pub kind: FieldKind,
    /// What is added to each.
    pub by: u64,
}

/// How far a part of an image was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// A library, or `application`.
    pub part: String,
    /// What to add to an address of the file.
    pub by: GuestAddress,
}

/// How far each unit of an image moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slides {
    /// None: the image relocates itself, and moves as a whole.
    record: Option<SlideRecord>,
    /// By unit, modulo 2^64.
    by: Vec<u64>,
    /// Likewise, for people.
    moved: Vec<Moved>,
    /// Pages that are written, as runs (start, end) of addresses where they come to lie, sorted.
    pages: Vec<(u64, u64)>,
}

/// The guest's memory, as far as addresses are written to it before the guest runs.
pub trait Memory {
    /// Reads the bytes at a guest address.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes bytes to a guest address.
    fn write(&mut self, address: u64, bytes: &[u8]) -> io::Result<()>;
}

/// The page that is being written.
#[derive(Default)]
struct Page {
    address: u64,
    /// Nothing: none is.
    bytes: Vec<u8>,
}

impl Page {
    /// The bytes of a field, which lies on one page.
    fn field(&mut self, memory: &mut impl Memory, at: u64, width: usize) -> io::Result<&mut [u8]> {
        let address = at & !(PAGE_SIZE - 1);
        if self.bytes.is_empty() || self.address != address {
            self.put_back(memory)?;
            let mut bytes = vec![0; PAGE_SIZE as usize];
            memory.read(address, &mut bytes)?;
            *self = Self { address, bytes };
        }
        let start = (at - address) as usize;
        Ok(&mut self.bytes[start..start + width])
    }

    fn put_back(&mut self, memory: &mut impl Memory) -> io::Result<()> {
        if !self.bytes.is_empty() {
            memory.write(self.address, &self.bytes)?;
        }
        self.bytes.clear();
        Ok(())
    }
}

/// Why addresses cannot be written.
#[derive(Debug, Error)]
pub enum CannotWrite {
    /// The memory cannot be used.
    #[error("writing the addresses of the image, which starts elsewhere: {0}")]
    Memory(#[from] io::Error),
    /// A distance has become too large.
    #[error(
        "the image's record of addresses names a distance near {0:#x} that cannot become so large: push the image again"
    )]
    Reach(u64),
}

impl Slides {
    /// Pages that are written before the guest runs: start and end of each run, sorted.
    pub fn pages(&self) -> &[(u64, u64)] {
        &self.pages
    }

    /// Writes all addresses, and puts the unwinder's table in order again.
    pub fn carry_out(&self, memory: &mut impl Memory) -> Result<(), CannotWrite> {
        const LINE: usize = UnwindTable::PAIR as usize;
        let mut page = Page::default();
        for write in self.writes() {
            let width = write.kind.width() as usize;
            for nth in 0..write.count {
                let at = write.address + nth * width as u64;
                let reach = || CannotWrite::Reach(at);
                if at % PAGE_SIZE + width as u64 <= PAGE_SIZE {
                    let field = page.field(memory, at, width)?;
                    add(field, write.by, write.kind).ok_or_else(reach)?;
                } else {
                    page.put_back(memory)?;
                    let mut field = [0; 8];
                    let field = &mut field[..width];
                    memory.read(at, field)?;
                    add(field, write.by, write.kind).ok_or_else(reach)?;
                    memory.write(at, field)?;
                }
            }
        }
        page.put_back(memory)?;
        if let Some((start, end)) = self.lines().filter(|_| self.is_apart()) {
            let mut bytes = vec![0; (end - start) as usize];
            memory.read(start, &mut bytes)?;
            let lines = bytes.chunks_exact(LINE);
            let mut lines: Vec<[u8; LINE]> = lines
                .filter_map(|line| line.first_chunk().copied())
                .collect();
            let distance = |line: &[u8; 8]| {
                line.first_chunk()
                    .map(|distance| i32::from_le_bytes(*distance))
            };
            lines.sort_by_key(distance);
            memory.write(start, lines.as_flattened())?;
        }
        Ok(())
    }

    /// Units move by themselves.
    fn is_apart(&self) -> bool {
        self.by.iter().any(|by| *by != self.by[0])
    }

    /// Where the lines of the unwinder's table come to lie: start and end.
    fn lines(&self) -> Option<(u64, u64)> {
        let table = self.record.as_ref()?.table()?;
        let by = *self.by.first()?;
        let start = table.address + UnwindTable::HEADER;
        Some((start.wrapping_add(by), table.end().wrapping_add(by)))
    }

    /// How far each part was moved.
    pub fn moved(&self) -> &[Moved] {
        &self.moved
    }

    /// What is written there.
    pub fn writes(&self) -> impl Iterator<Item = Write> + '_ {
        let fields = self.record.iter().flat_map(SlideRecord::fields);
        fields.filter_map(|fields| {
            let by = self.change(&fields);
            (by != 0).then(|| Write {
                address: fields.address.wrapping_add(self.by[fields.unit]),
                count: fields.count,
                kind: fields.kind,
                by,
            })
        })
    }

    /// What is added to fields.
    fn change(&self, fields: &slide::Fields) -> u64 {
        let target = self.by[fields.target];
        match fields.kind {
            FieldKind::Address => target,
            FieldKind::Distance | FieldKind::LongDistance => {
                target.wrapping_sub(self.by[fields.unit])
            }
        }
    }

    /// The unit of a range that has not moved.
    fn unit(&self, range: &Range) -> Option<usize> {
        match &self.record {
            Some(record) => record.unit_of(range.address.0, range.end().0),
            None => Some(0),
        }
    }

    /// How far what is at `address`, as linked, moves.
    fn distance(&self, address: GuestAddress) -> u64 {
        let unit = match &self.record {
            Some(record) => record.unit_of(address.0, address.0),
            None => Some(0),
        };
        unit.map_or(0, |unit| self.by[unit])
    }
}

/// The record of an image, if it can slide; `read` gives its bytes.
pub fn record<E>(
    description: &Description,
    read: impl FnOnce(&ObjectId) -> Result<Vec<u8>, E>,
) -> Result<Result<Option<SlideRecord>, CannotSlide>, E> {
    let refused = match &description.slide {
        Some(Slide::Record { object, length }) => {
            if *length > MAX_SLIDE_BYTES {
                return Ok(Err(SlideError::TooLong(*length).into()));
            }
            let bytes = read(object)?;
            return Ok(checked(description, &bytes).map(Some).map_err(Into::into));
        }
        Some(Slide::Fixed { why }) => CannotSlide::Fixed { why: why.clone() },
        // It was loaded elsewhere than it was linked already, and relocates itself.
        None if description.load_bias != 0 => return Ok(Ok(None)),
        None => CannotSlide::Unrecorded,
    };
    Ok(Err(refused))
}

fn checked(description: &Description, bytes: &[u8]) -> Result<SlideRecord, SlideError> {
    let record = SlideRecord::parse(bytes)?;
    record.check(description)?;
    Ok(record)
}

/// Moves `map` as `aslr` says, by `record`.
pub fn slide(
    map: &mut ImageMap,
    record: Option<SlideRecord>,
    aslr: Aslr,
    random: &mut Random,
) -> Result<Slides, CannotSlide> {
    let description = &mut map.description;
    let units = record.as_ref().map_or(1, |record| record.units().len());
    let by = match aslr {
        Aslr::Off => vec![0; units],
        Aslr::Image => vec![together(description, random)?; units],
        Aslr::Library => match &record {
            Some(record) => apart::choose(record, description, random)?,
            None => return Err(CannotSlide::Whole),
        },
    };
    let mut slides = Slides {
        record,
        by,
        moved: Vec::new(),
        pages: Vec::new(),
    };
    slides.moved = moved(description, &slides);
    move_description(description, &mut slides)?;
    Ok(slides)
}

/// How far each unit of `description`, which has not moved yet, is from where its file has it.
fn moved(description: &Description, slides: &Slides) -> Vec<Moved> {
    let mut names = vec![None; slides.by.len()];
    for range in &description.ranges {
        if let Some(name) = slides.unit(range).and_then(|unit| names.get_mut(unit)) {
            name.get_or_insert(&range.library);
        }
    }
    let parts = names.iter().zip(&slides.by);
    parts
        .filter_map(|(name, by)| {
            let library = (*name)?.as_ref();
            Some(Moved {
                part: library.map_or_else(|| "application".to_owned(), ToString::to_string),
                by: GuestAddress(description.load_bias.wrapping_add(*by)),
            })
        })
        .collect()
}

/// How far the image moves as a whole.
fn together(description: &Description, random: &mut Random) -> Result<u64, CannotSlide> {
    let first = description
        .ranges
        .first()
        .map_or(0, |range| range.address.0);
    let last = description.ranges.last().map_or(0, |range| range.end().0);
    let lowest = LOWEST + first % WINDOW_SIZE;
    let windows = HIGHEST
        .checked_sub(lowest + (last - first) + ROOMS)
        .map(|room| room / WINDOW_SIZE)
        .filter(|windows| *windows > 0)
        .ok_or(CannotSlide::NoRoom)?;
    let start = lowest + random.below(windows) * WINDOW_SIZE;
    Ok(start.wrapping_sub(first))
}

/// Moves the ranges, and all else that is an address; pages that are written become ranges of their own.
fn move_description(description: &mut Description, slides: &mut Slides) -> Result<(), CannotSlide> {
    let written = match &slides.record {
        Some(record) => {
            slide::pages_of(record.fields().filter(|fields| slides.change(fields) != 0))
        }
        None => Vec::new(),
    };
    let written = with_table(written, slides);
    let mut moved = Vec::with_capacity(description.ranges.len());
    let mut pages = Vec::with_capacity(written.len());
    for range in &description.ranges {
        let unit = slides.unit(range).ok_or(SlideError::Range(range.address))?;
        let by = slides.by[unit];
        for (part, is_written) in parts(range, &written) {
            let address = part.address.0.wrapping_add(by);
            let end = address.checked_add(part.length);
            if end.is_none_or(|end| end > USER_ADDRESS_END) {
                return Err(CannotSlide::NoRoom);
            }
            if is_written {
                pages.push((address, address + part.length));
            }
            moved.push(Range {
                address: GuestAddress(address),
                ..part
            });
        }
    }
    moved.sort_unstable_by_key(|range| range.address);
    if moved.windows(2).any(|pair| pair[1].address < pair[0].end()) {
        return Err(CannotSlide::NoRoom);
    }
    let follow =
        |address: GuestAddress| GuestAddress(address.0.wrapping_add(slides.distance(address)));
    description.entry = follow(description.entry);
    if let Some(headers) = &mut description.program_headers {
        headers.address = follow(headers.address);
    }
    for library in &mut description.libraries {
        library.address = follow(library.address);
    }
    description.ranges = moved;
    pages.sort_unstable();
    slides.pages = pages;
    Ok(())
}

/// `written` and the pages of the unwinder's table, where those are put in order again.
fn with_table(mut written: Vec<(u64, u64)>, slides: &Slides) -> Vec<(u64, u64)> {
    let Some((start, end)) = slides.lines().filter(|_| slides.is_apart()) else {
        return written;
    };
    let by = slides.by.first().copied().unwrap_or(0);
    let start = start.wrapping_sub(by) & !(PAGE_SIZE - 1);
    let end = end.wrapping_sub(by).next_multiple_of(PAGE_SIZE);
    written.push((start, end));
    written.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(written.len());
    for (start, end) in written {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// Adds `by` to a field; none if a distance becomes too large for it.
fn add(field: &mut [u8], by: u64, kind: FieldKind) -> Option<()> {
    match kind {
        FieldKind::Address | FieldKind::LongDistance => {
            let word = u64::from_le_bytes(*field.first_chunk()?).wrapping_add(by);
            field.copy_from_slice(&word.to_le_bytes());
        }
        FieldKind::Distance => {
            let distance = i64::from(i32::from_le_bytes(*field.first_chunk()?));
            let distance = i32::try_from(distance.wrapping_add(by as i64)).ok()?;
            field.copy_from_slice(&distance.to_le_bytes());
        }
    }
    Some(())
}

/// The parts of `range` that are written, and those that are not. `written` are runs of pages, sorted.
fn parts(range: &Range, written: &[(u64, u64)]) -> Vec<(Range, bool)> {
    let mut parts = Vec::new();
    let (mut at, end) = (range.address.0, range.end().0);
    let mut add = |from: u64, to: u64, is_written: bool| {
        if from >= to {
            return;
        }
        let skipped = from - range.address.0;
        let mut part = Range {
            address: GuestAddress(from),
            length: to - from,
            ..range.clone()
        };
        if let Some(source) = &mut part.source {
            source.offset += skipped;
        }
        if is_written {
            part.kind = RangeKind::Private;
        }
        parts.push((part, is_written));
    };
    let first = written.partition_point(|(_, until)| *until <= at);
    for &(from, until) in written[first..].iter().take_while(|(from, _)| *from < end) {
        add(at, from.max(at), false);
        add(from.max(at), until.min(end), true);
        at = until.min(end);
    }
    add(at, end, false);
    parts
}

#[cfg(test)]
mod tests;
