//! What of an image has to change when it starts elsewhere than it is linked: every address that a relocation wrote, and
//! every distance between units. Or why it can only run where it is linked.

use goblin::elf::header::EM_X86_64;
use goblin::elf::reloc::r_to_str;
use pool_core::page::PageCount;
use pool_core::registry::{APPLICATION_START, AddressRange, Reservation};
use pool_core::slide::{Field, FieldKind, SlideError, SlideRecord, UnwindTable};

use super::addresses::Import;
use super::checks::ENDS_OF_IMAGE;
use super::image::Image;
use super::object::{Place, Relocation};
use super::patch::{Value, Width};
use super::target::Target;
use super::unit::{SymbolId, UnitKind};

/// What has to change, by unit of the linker: 0 the application.
#[derive(Debug, Default)]
pub(super) struct Moves {
    fields: Vec<Field>,
    /// The unwinder's table.
    table: Option<UnwindTable>,
    /// The first place that cannot change, what it holds, and what to do about it.
    fixed: Option<(String, Fixed)>,
    /// How many there are.
    fixed_count: u64,
    /// The first of those that could if no other were there, which counts only then.
    fixed_besides: Option<(String, Fixed)>,
}

/// Why a place cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    /// It has no room for an address of 64 bits.
    Narrow,
    /// It is at a distance from what does not move.
    FromNumber,
}

impl Fixed {
    /// What to do about it.
    fn advice(self) -> &'static str {
        match self {
            Self::Narrow => "compile with -fPIE",
            Self::FromNumber => "take its address by the offset table, or from a variable",
        }
    }
}

/// What a field is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A place, which moves with this unit.
    Unit(usize),
    /// A number.
    Number,
    /// What is not there, for which zero stands.
    Absent,
}

/// A relocated field.
pub(super) struct Written {
    pub(super) address: u64,
    pub(super) width: Width,
    pub(super) value: Value,
    /// The unit that it is in.
    pub(super) unit: usize,
    pub(super) about: About,
}

impl Moves {
    /// An address of 64 bits at `address`, of something in `unit`.
    pub(super) fn address(&mut self, address: u64, unit: usize) {
        self.fields.push(Field {
            address,
            kind: FieldKind::Address,
            target: unit,
        });
    }

    /// The unwinder's table `bytes` at `address`: its lines are distances from itself.
    pub(super) fn unwind_table(&mut self, image: &Image<'_, '_>, address: u64, bytes: &[u8]) {
        /// Bytes before the lines, and where among them is the distance of the first frames from itself.
        const HEADER: usize = 12;
        const FIRST: usize = 4;
        let mut follow = |at: u64, from: u64, distance: &[u8]| {
            let distance = distance.first_chunk().map_or(0, |d| i32::from_le_bytes(*d));
            let to = from.wrapping_add_signed(distance.into());
            if let Some(target) = image.unit_holding(to).filter(|unit| *unit != 0) {
                self.fields.push(Field {
                    address: at,
                    kind: FieldKind::Distance,
                    target,
                });
            }
        };
        let Some((header, lines)) = bytes.split_at_checked(HEADER) else {
            return;
        };
        follow(
            address + FIRST as u64,
            address + FIRST as u64,
            &header[FIRST..],
        );
        let lines_at = address + HEADER as u64;
        for (at, distance) in (lines_at..).step_by(4).zip(lines.chunks_exact(4)) {
            follow(at, address, distance);
        }
        self.table = Some(UnwindTable {
            address,
            entries: (lines.len() / 8) as u32,
        });
    }

    /// How many fields there are so far.
    pub(super) fn count(&self) -> usize {
        self.fields.len()
    }

    /// Takes the fields from number `first` on, which are addresses that lie one after the other, in the reverse order.
    pub(super) fn reverse_from(&mut self, first: usize, start: u64, length: u64) {
        for field in &mut self.fields[first..] {
            field.address = start + (length - 8) - (field.address - start);
        }
    }

    /// A field that cannot change. `place` says where it is, `what` what it holds.
    pub(super) fn fix(
        &mut self,
        why: Fixed,
        place: impl FnOnce() -> String,
        what: impl FnOnce() -> String,
    ) {
        self.fixed_count += 1;
        if self.fixed.is_none() {
            self.fixed = Some((format!("{} holds {}", place(), what()), why));
        }
    }

    /// A field that could change if it were not for others, which people are told of instead.
    pub(super) fn fix_besides(&mut self, why: Fixed, place: impl FnOnce() -> String) {
        if self.fixed_besides.is_none() {
            self.fixed_besides = Some((place(), why));
        }
    }

    /// Notes what a relocation wrote, or says why it cannot change.
    pub(super) fn note(&mut self, written: &Written) -> Result<(), Fixed> {
        let Written {
            address,
            width,
            unit,
            about,
            ..
        } = *written;
        let bytes = width.bytes();
        let (kind, target) = match (written.value, about) {
            (
                Value::Nothing
                | Value::EntryOffset
                | Value::ThreadOffset
                | Value::BlockOffset
                | Value::Size,
                _,
            )
            // Whether something absent is there is asked before it is called.
            | (Value::Branch, About::Absent)
            | (Value::Address, About::Number | About::Absent) => return Ok(()),
            (Value::Address, About::Unit(target)) if bytes == 8 => (FieldKind::Address, target),
            (Value::Address, About::Unit(_)) => return Err(Fixed::Narrow),
            (_, About::Number | About::Absent) => return Err(Fixed::FromNumber),
            (_, About::Unit(target)) if target == unit => return Ok(()),
            (_, About::Unit(target)) => match bytes {
                4 => (FieldKind::Distance, target),
                8 => (FieldKind::LongDistance, target),
                _ => return Err(Fixed::Narrow),
            },
        };
        self.fields.push(Field {
            address,
            kind,
            target,
        });
        Ok(())
    }

    /// Why the image can only run where it is linked.
    pub(super) fn why_fixed(&self) -> Option<String> {
        let (first, why) = self.fixed.as_ref().or(self.fixed_besides.as_ref())?;
        let others = match self.fixed_count.saturating_sub(1) {
            0 => String::new(),
            others => format!(", and {others} more places do"),
        };
        Some(format!("{first}{others}: {}", why.advice()))
    }
}

/// What a relocation's field holds, for people.
pub(super) fn held(why: Fixed, relocation: &Relocation, symbol: &str) -> String {
    let kind = r_to_str(relocation.kind, EM_X86_64);
    match why {
        Fixed::Narrow => {
            format!("an address of {symbol} that reaches no further than it was linked (R_{kind})")
        }
        Fixed::FromNumber => {
            format!("the distance to {symbol}, which is a number and does not move (R_{kind})")
        }
    }
}

/// The record of `moves`, and of `headers`: where these have addresses, each with the address. The units of the record are those of the
/// image, in order; `units` says which.
pub(super) fn record(
    image: &Image<'_, '_>,
    reservations: &[Option<Reservation>],
    moves: &Moves,
    headers: &[(u64, u64)],
) -> Result<SlideRecord, SlideError> {
    let mut numbers = vec![0; image.units.len()];
    // Nothing is behind all units once each lies somewhere else: then they are one.
    let is_one = image.asks_for_its_end();
    let apart = |unit: &usize| image.units[*unit].kind == UnitKind::Library && !is_one;
    let follows = |unit: &usize| image.units[*unit].kind.is_apart() && !apart(unit);
    let mut units = vec![[application(image), range_of(image, reservations, &follows)]];
    for unit in image.included().filter(apart) {
        if let Some(Some(reservation)) = reservations.get(unit - 1) {
            numbers[unit] = units.len();
            units.push([reservation.shared, reservation.private]);
        }
    }
    let renumbered = |field: &Field| Field {
        target: numbers[field.target],
        ..*field
    };
    let units_only = SlideRecord::new(units.clone(), None, Vec::new())?;
    // What moves as one stays at its distance.
    let changes = |field: &Field| {
        field.kind == FieldKind::Address
            || units_only.unit_of(field.address, field.address) != Some(field.target)
    };
    let fields = moves.fields.iter().map(renumbered);
    let mut fields: Vec<Field> = fields.filter(changes).collect();
    for &(at, address) in headers {
        // What lies in none is a number.
        if let Some(target) = units_only.unit_of(address, address) {
            fields.push(Field {
                address: at,
                kind: FieldKind::Address,
                target,
            });
        }
    }
    SlideRecord::new(units, moves.table, fields)
}

/// From the first to the last page of libraries that move with the application, which `follows` tells: they are referred to
/// directly, or the image is one piece.
fn range_of(
    image: &Image<'_, '_>,
    reservations: &[Option<Reservation>],
    follows: &impl Fn(&usize) -> bool,
) -> AddressRange {
    let units = image.included().filter(follows);
    let reserved = units.filter_map(|unit| reservations.get(unit - 1)?.as_ref());
    let ranges: Vec<AddressRange> = reserved
        .flat_map(|reservation| [reservation.shared, reservation.private])
        .filter(|range| range.pages.0 > 0)
        .collect();
    let start = ranges.iter().map(|range| range.start).min();
    let end = ranges.iter().map(|range| range.end().0).max();
    let (Some(start), Some(end)) = (start, end) else {
        return AddressRange::default();
    };
    AddressRange {
        start,
        pages: PageCount::covering(end - start.0),
    }
}

/// The application's pages.
fn application(image: &Image<'_, '_>) -> AddressRange {
    let common = &image.common;
    let end = common
        .data
        .end()
        .max(common.code.end())
        .max(common.constants.end());
    AddressRange {
        start: APPLICATION_START,
        pages: PageCount::covering(end - APPLICATION_START.0),
    }
}

impl<'a> Image<'_, 'a> {
    /// A kernel asks for the end of all that is loaded.
    fn asks_for_its_end(&self) -> bool {
        let is_open = |name: &&str| self.program.definition(name).is_none();
        let names: Vec<&str> = ENDS_OF_IMAGE.into_iter().filter(is_open).collect();
        let objects = |unit: usize| self.units[unit].objects.iter();
        self.tables.are_of_unikraft()
            && self.included().flat_map(objects).any(|object| {
                let mut symbols = object.symbols.iter();
                symbols.any(|of| of.place == Place::Undefined && names.contains(&of.name))
            })
    }

    /// The unit with which what `target` is to `unit` moves; none for numbers, and for what is not there.
    pub(super) fn moves_with(&self, unit: usize, target: &Target<'a>) -> Option<usize> {
        match target {
            Target::Defined(id) => self.symbol_moves_with(*id),
            Target::Dropped | Target::ThreadPointer => None,
            Target::OffsetTable | Target::SetStart(_) | Target::SetEnd(_) => Some(unit),
            Target::Header => Some(0),
            Target::Import(name) => match self.import(name) {
                Some(Import::Symbol(id)) => self.symbol_moves_with(id),
                // The application's, or the end of all.
                Some(Import::Address(address)) => {
                    Some(self.unit_holding(address.saturating_sub(1)).unwrap_or(0))
                }
                // What ends the program, or nothing.
                None => (self.address(unit, target, None) != Some(0)).then_some(0),
            },
        }
    }

    /// The unit that has something at `address`.
    fn unit_holding(&self, address: u64) -> Option<usize> {
        let mut units = self.included();
        units.find(|unit| {
            let (base, plan) = (&self.bases[*unit], &self.plans[*unit]);
            let holds = |start: u64, size: u64| (start..start + size).contains(&address);
            match unit {
                0 => {
                    let all = application(self);
                    holds(all.start.0, all.pages.bytes())
                }
                _ => {
                    holds(base.code, plan.shared_size())
                        || holds(base.bound, plan.bound.size)
                        || holds(base.data, plan.data.size)
                }
            }
        })
    }

    /// The unit with which a symbol moves.
    pub(super) fn symbol_moves_with(&self, id: SymbolId) -> Option<usize> {
        let symbol = self.symbol(id);
        match symbol.place {
            Place::Undefined | Place::Absolute => None,
            Place::Common if symbol.is_thread_local() => Some(0),
            Place::Common => Some(id.unit),
            Place::Section(section) => {
                let of = &self.units[id.unit].objects[id.object].sections[section];
                let lies_apart = of.gathered.is_some()
                    || of.is_thread_local()
                    || self.moved(id.unit, id.object, section).is_some();
                Some(if lies_apart { 0 } else { id.unit })
            }
        }
    }
}
