//! Where an image starts: elsewhere at each run, if that is asked for.
//!
//! Pure, but for the numbers that are drawn: an image's map and its record of what holds addresses
//! ([`pool_core::slide`]) go in, a map at other addresses comes out. Pages that hold addresses become the guest's own and
//! are written before it runs ([`Slides::writes`]); all others, and so all code, stay the pool's.

use pool_core::address::USER_ADDRESS_END;
use pool_core::description::{Description, Range, RangeKind, Slide};
use pool_core::image_map::ImageMap;
use pool_core::slide::{self, FieldKind, MAX_SLIDE_BYTES, SlideError, SlideRecord};
use pool_core::{GuestAddress, ObjectId, WINDOW_SIZE};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::Serialize;
use thiserror::Error;

use crate::options::Aslr;

/// Where images that slide lie: above all that is linked at registered or conventional addresses, and below what Linux
/// maps into this process (its program from two thirds of the address space on, everything else at the top), so that a
/// plain process can map it too. Of 2 MiB windows there are 2^25.
const LOWEST: u64 = 4 << 30;
const HIGHEST: u64 = 0x5000_0000_0000;
/// Bytes behind an image for its heap, its stack and the monitor.
const ROOMS: u64 = 4 << 30;

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
        (u128::from(number) * u128::from(bound) >> 64) as u64
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

impl Slides {
    /// Pages that are written before the guest runs: start and end of each run, sorted.
    pub fn pages(&self) -> &[(u64, u64)] {
        &self.pages
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
    let first = description.ranges.first().map_or(0, |range| range.address.0);
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
fn move_description(
    description: &mut Description,
    slides: &mut Slides,
) -> Result<(), CannotSlide> {
    let written = match &slides.record {
        Some(record) => {
            slide::pages_of(record.fields().filter(|fields| slides.change(fields) != 0))
        }
        None => Vec::new(),
    };
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
