//! Relocating a section in its place: as it is in every image, and where the program means something else.

use goblin::elf::header::EM_X86_64;
use goblin::elf::reloc::r_to_str;

use super::error::LinkError;
use super::image::{Image, View};
use super::moves::{self, About, Fixed, Moves, Written};
use super::object::{Place, Relocation, Symbol};
use super::patch::{self, Value, Width};
use super::plan::{Entry, Part};
use super::references::{self, Patched, patches};
use super::target::Target;
use super::unit::{Unit, UnitKind};

/// What compilers call the pointers by which tables for unwinding refer to what may be far away. Any copy will do.
const REFERENCES: &str = "DW.ref.";

/// A field that is something else in this program.
pub(super) struct Other {
    /// Offset in the section.
    pub(super) at: usize,
    pub(super) bytes: Vec<u8>,
    pub(super) symbol: String,
}

/// A section in its place.
pub(super) struct Site<'i, 'a> {
    pub(super) image: &'i Image<'i, 'a>,
    /// Those of the image.
    pub(super) units: &'i [&'i Unit<'a>],
    /// What it refers to is what the program means by it.
    pub(super) speaks: bool,
    pub(super) unit: usize,
    pub(super) object: usize,
    pub(super) section: usize,
    pub(super) address: u64,
    pub(super) part: Part,
}

impl<'a> Site<'_, 'a> {
    fn unit(&self) -> &Unit<'a> {
        &self.image.units[self.unit]
    }

    /// Relocates the section as it is in every image, and says what is something else in this program. What holds
    /// addresses is added to `moves`.
    pub(super) fn relocate(
        &self,
        bytes: &mut [u8],
        moves: &mut Moves,
    ) -> Result<Vec<Other>, LinkError> {
        let targets = &self.image.targets[self.unit];
        let at = (self.object, self.section);
        let mut others = Vec::new();
        for patched in patches(self.units, self.unit, targets, at)? {
            others.extend(self.apply(bytes, &patched, moves)?);
        }
        Ok(others)
    }

    /// The bytes are the same in every image.
    fn is_shared(&self) -> bool {
        matches!(self.part, Part::Code | Part::Constant) && self.unit().kind == UnitKind::Library
    }

    fn fault(&self, relocation: &Relocation, problem: String) -> LinkError {
        let at = (self.unit, self.object, self.section);
        LinkError::Relocation {
            place: self.image.place(at, relocation.offset),
            problem,
        }
    }

    /// Does what a relocation says. What the field is where it means something else to the program.
    fn apply(
        &self,
        bytes: &mut [u8],
        patched: &Patched<'_, 'a>,
        moves: &mut Moves,
    ) -> Result<Option<Other>, LinkError> {
        let Patched {
            relocation, patch, ..
        } = patched;
        let outside = || self.fault(relocation, "the relocation reaches past its section".into());
        if let Some(rewritten) = &patched.rewritten {
            let start = usize::try_from(rewritten.start).map_err(|_| outside())?;
            bytes
                .get_mut(start..start + rewritten.bytes.len())
                .ok_or_else(outside)?
                .copy_from_slice(&rewritten.bytes);
        }
        for (at, replacement) in &patch.edits {
            let start = usize::try_from(relocation.offset as i64 + at).map_err(|_| outside())?;
            bytes
                .get_mut(start..start + replacement.len())
                .ok_or_else(outside)?
                .copy_from_slice(replacement);
        }
        if patch.width == Width::None {
            return Ok(None);
        }
        let at = relocation.offset as i64 + patch.field;
        let start = usize::try_from(at).map_err(|_| outside())?;
        let field = start..start + patch.width.bytes();
        let field = bytes.get_mut(field).ok_or_else(outside)?;
        if self.is_shared() && patched.holds_import() {
            // Elsewhere nothing is there; the image has the page of its own.
            if !self.speaks {
                return Ok(None);
            }
            let mut other = field.to_vec();
            let target = self.meant(patched).unwrap_or(patched.target);
            let value = self.value(patched, at, &target, View::Image)?;
            self.note(patched, at, &target, moves);
            self.store(&mut other, patched, value)?;
            return Ok(Some(Other {
                at: start,
                bytes: other,
                symbol: self.name(relocation),
            }));
        }
        let value = self.value(patched, at, &patched.target, View::Elsewhere)?;
        let meant = if self.speaks || !self.is_shared() {
            let target = self.meant(patched).unwrap_or(patched.target);
            self.note(patched, at, &target, moves);
            if target == patched.target && self.is_same_elsewhere(patched) {
                value
            } else {
                self.value(patched, at, &target, View::Image)?
            }
        } else {
            value
        };
        if !self.is_shared() {
            self.store(field, patched, meant)?;
            return Ok(None);
        }
        self.store(field, patched, value)?;
        if value == meant {
            return Ok(None);
        }
        let mut other = field.to_vec();
        self.store(&mut other, patched, meant)?;
        Ok(Some(Other {
            at: start,
            bytes: other,
            symbol: self.name(relocation),
        }))
    }

    /// Notes what the field at `at` holds when it is about `target`. What is not run may hold what it likes.
    fn note(&self, patched: &Patched<'_, 'a>, at: i64, target: &Target<'a>, moves: &mut Moves) {
        if self.part == Part::Loose || !self.speaks {
            return;
        }
        let patch = &patched.patch;
        if self.is_within(patched, target) {
            return;
        }
        let past_wrapper = self.is_past_wrapper(patched, View::Image);
        let about = match patch.value {
            Value::Branch if patched.takes_stub() && !past_wrapper => About::Unit(self.unit),
            Value::EntryDistance
            | Value::ThreadEntryDistance
            | Value::Detour
            | Value::TableDistance => About::Unit(self.unit),
            _ => {
                let symbol = self.symbol_of(patched);
                let address = self.image.address(self.unit, target, Some(symbol.binding));
                // Of what is not in the image nothing is written.
                let Some(address) = address else {
                    return;
                };
                match self.image.moves_with(self.unit, target) {
                    _ if address == 0 => About::Absent,
                    Some(unit) => About::Unit(unit),
                    None => About::Number,
                }
            }
        };
        let unit = match self.part {
            Part::Gathered(_) | Part::Thread => 0,
            _ => self.unit,
        };
        let written = Written {
            address: self.address.wrapping_add_signed(at),
            width: patch.width,
            value: patch.value,
            // Distances from the offset table are the same wherever they are written.
            unit: if patch.value == Value::TableOffset {
                self.unit
            } else {
                unit
            },
            about,
        };
        let is_cut = patched.rewritten.as_ref().is_some_and(|of| of.is_cut);
        let noted = if is_cut {
            Err(Fixed::Narrow)
        } else {
            moves.note(&written)
        };
        if let Err(why) = noted {
            let (o, s) = (self.object, self.section);
            let relocation = patched.relocation;
            let place = || self.image.place((self.unit, o, s), relocation.offset);
            let held = || moves::held(why, relocation, &self.name(relocation));
            let unit = self.unit();
            if unit.stays && references::is_loaded_to_slide(unit, (o, s), relocation) {
                moves.fix_besides(why, || format!("{} holds {}", place(), held()));
            } else {
                moves.fix(why, place, held);
            }
        }
    }

    /// It is a distance within the library, which never changes: what most references are.
    fn is_within(&self, patched: &Patched<'_, 'a>, target: &Target<'a>) -> bool {
        let is_distance = matches!(patched.patch.value, Value::Distance | Value::Branch);
        is_distance
            && patched.rewritten.is_none()
            && self.is_shared()
            && matches!(target, Target::Defined(id) if id.unit == self.unit)
            && self.image.moves_with(self.unit, target) == Some(self.unit)
    }

    /// The target, if it is what the program means, is to this image what it is to all others.
    fn is_same_elsewhere(&self, patched: &Patched<'_, 'a>) -> bool {
        let is_of_thread = matches!(
            patched.patch.value,
            Value::ThreadOffset | Value::BlockOffset
        );
        !is_of_thread
            && !self.image.program.renames()
            && self.image.address_elsewhere(&patched.target).is_none()
    }

    fn symbol_of(&self, patched: &Patched<'_, 'a>) -> &Symbol<'a> {
        &self.unit().objects[self.object].symbols[patched.relocation.symbol]
    }

    /// It is an object's own definition, where the unit's entry is for those who mean another by the name.
    fn is_past_wrapper(&self, patched: &Patched<'_, 'a>, view: View) -> bool {
        let is_own = view == View::Image
            && !self.unit().kind.refers_directly()
            && self.image.other_name(&patched.target).is_some();
        let symbol = self.symbol_of(patched);
        is_own && !self.image.program.refers(self.unit, self.object, symbol)
    }

    /// What the relocation's target is in the program, if the section is in it and refers by name.
    fn meant(&self, patched: &Patched<'_, 'a>) -> Option<Target<'a>> {
        let symbol = &self.unit().objects[self.object].symbols[patched.relocation.symbol];
        let image = self.image;
        if symbol.is_local() || symbol.name.is_empty() || !self.speaks {
            return None;
        }
        if let Some(name) = image.program.other_name(self.unit, self.object, symbol) {
            return Some(image.named(name));
        }
        let meant = image.meant(&patched.target);
        if meant == patched.target && !image.is_absent(&meant) {
            return None;
        }
        let any_will_do =
            patched.patch.value == Value::Branch || symbol.name.starts_with(REFERENCES);
        if any_will_do && self.is_copy(&patched.target) {
            return None;
        }
        if image.is_absent(&patched.target) {
            return Some(Target::Import(symbol.name));
        }
        Some(meant)
    }

    /// It is one of several copies in a program.
    fn is_copy(&self, target: &Target<'a>) -> bool {
        let Target::Defined(id) = target else {
            return false;
        };
        match self.image.symbol(*id).place {
            Place::Section(section) => self.image.units[id.unit].is_copy(id.object, section),
            _ => false,
        }
    }

    fn store(
        &self,
        field: &mut [u8],
        patched: &Patched<'_, 'a>,
        value: i128,
    ) -> Result<(), LinkError> {
        let relocation = patched.relocation;
        patch::store(field, patched.patch.width, value).map_err(|()| LinkError::Overflow {
            place: self
                .image
                .place((self.unit, self.object, self.section), relocation.offset),
            symbol: self.name(relocation),
            relocation: format!("R_{}", r_to_str(relocation.kind, EM_X86_64)),
            value,
        })
    }

    /// The field's value where the target is `meant`. The offset table has entries for what it is to the unit.
    fn value(
        &self,
        patched: &Patched<'_, 'a>,
        at: i64,
        meant: &Target<'a>,
        view: View,
    ) -> Result<i128, LinkError> {
        let Patched {
            relocation,
            target,
            patch,
            ..
        } = patched;
        let image = self.image;
        let symbol = &self.unit().objects[self.object].symbols[relocation.symbol];
        let addend = i128::from(patch.addend);
        let place = i128::from(self.address) + i128::from(at);
        let table = i128::from(image.bases[self.unit].data);
        let no_entry = || {
            let section = &self.unit().objects[self.object].sections[self.section];
            let problem = if section.is_loaded() {
                "its table has no entry: please report this"
            } else {
                "it asks for an offset table, and the section is not loaded: compile it again"
            };
            self.fault(relocation, problem.into())
        };
        let direct = || -> Option<i128> {
            let address = if symbol.is_section() && self.is_merged(symbol.place) {
                // The addend says which entry of a mergeable section is meant.
                let Place::Section(section) = symbol.place else {
                    return None;
                };
                let offset = (symbol.value as i64).checked_add(patch.addend)?;
                let offset = u64::try_from(offset).ok()?;
                let address = image.section_address(self.unit, self.object, section, offset)?;
                i128::from(address) - addend
            } else {
                let moved = match view {
                    View::Elsewhere => image.address_elsewhere(meant),
                    View::Image => None,
                };
                let address =
                    moved.or_else(|| image.address(self.unit, meant, Some(symbol.binding)));
                // Numbers may be negative.
                i128::from(address? as i64)
            };
            Some(address + addend)
        };
        let entry = |entry: Entry<'a>| -> Result<i128, LinkError> {
            let address = image
                .entry_address(self.unit, &entry)
                .ok_or_else(no_entry)?;
            Ok(i128::from(address) + addend)
        };
        let past_wrapper = self.is_past_wrapper(patched, view);
        let takes_entry = matches!(
            patch.value,
            Value::EntryDistance | Value::EntryOffset | Value::ThreadEntryDistance | Value::Detour
        );
        if past_wrapper && takes_entry {
            return Err(self.fault(
                relocation,
                format!(
                    "{} is wrapped, and refers to its own definition through the offset table: compile it without -fPIC",
                    self.name(relocation)
                ),
            ));
        }
        Ok(match patch.value {
            Value::Nothing => 0,
            // A reference into what is not in the image: consumers skip zero, which ends a list of ranges.
            Value::Address => direct().unwrap_or_else(|| i128::from(self.is_ranges())),
            Value::Distance => direct().map_or(0, |value| value - place),
            Value::Branch if patched.takes_stub() && !past_wrapper => {
                let stub = image.stub_address(self.unit, target);
                let stub = stub.ok_or_else(no_entry)?;
                i128::from(stub) + addend - place
            }
            Value::Branch => match image.jump(meant).filter(|_| patch.addend == -4) {
                Some(jump) => i128::from(jump) + addend - place,
                None => direct().map_or(0, |value| value - place),
            },
            Value::EntryDistance => entry(Entry::Address(*target, patch.entry))? - place,
            Value::EntryOffset => entry(Entry::Address(*target, patch.entry))? - table,
            Value::Detour => {
                let at = (self.object, self.section, relocation.offset);
                let detour = image.plans[self.unit].detour(at.0, at.1, at.2);
                let detour = image.bases[self.unit].code + detour.ok_or_else(no_entry)?;
                i128::from(detour) + addend - place
            }
            Value::ThreadEntryDistance => entry(Entry::ThreadOffset(*target))? - place,
            Value::TableDistance => table + addend - place,
            Value::TableOffset => direct().unwrap_or(table) - table,
            Value::ThreadOffset => image.thread_value(meant, view) + addend,
            Value::BlockOffset => {
                let offset = image.thread_value(meant, view);
                offset + i128::from(image.common.thread.size) + addend
            }
            Value::Size => i128::from(image.size(meant)) + addend,
        })
    }

    fn is_ranges(&self) -> bool {
        self.unit().objects[self.object].sections[self.section].name == ".debug_ranges"
    }

    fn is_merged(&self, place: Place) -> bool {
        match place {
            Place::Section(section) => {
                let placement = self.image.plans[self.unit].placement(self.object, section);
                let at = (self.unit, self.object, section);
                placement.merged.is_some() || self.image.loose.is_merged(at)
            }
            _ => false,
        }
    }

    fn name(&self, relocation: &Relocation) -> String {
        let object = &self.unit().objects[self.object];
        let symbol = &object.symbols[relocation.symbol];
        match (symbol.name, symbol.place) {
            ("", Place::Section(section)) => object.sections[section].name.to_owned(),
            (name, _) => name.to_owned(),
        }
    }
}
