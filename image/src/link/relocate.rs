//! Fills the image: copies sections to their places and patches what refers to something.

use std::collections::{BTreeMap, BTreeSet};

use goblin::elf::header::EM_X86_64;
use goblin::elf::reloc::{R_X86_64_IRELATIVE, r_to_str};
use pool_core::page::PAGE_SIZE;

use super::eh_frame;
use super::error::LinkError;
use super::gathered::Gathered;
use super::image::{Image, Import, RELA_SIZE, TRAP};
use super::object::{Binding, Place, Relocation, Section};
use super::patch::{self, Value, Width};
use super::plan::{Entry, Part, STUB_SIZE};
use super::references::{Patched, patches};
use super::symbols::Target;
use super::unit::{Unit, UnitKind};

/// The bytes of an image, before they are put into a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// By unit: code and constants of a library; nothing for the application.
    pub(super) shared: Vec<Vec<u8>>,
    /// By unit: pages of those that the image has of its own, by number.
    pub(super) own: Vec<BTreeMap<usize, OwnPage>>,
    /// By unit: bound sections.
    pub(super) bound: Vec<Vec<u8>>,
    /// By unit: data as far as it is in the file.
    pub(super) data: Vec<Vec<u8>>,
    /// Orphan sections that can be written, up to the application's data.
    pub(super) orphans: Vec<u8>,
    /// The application's constants, with room for headers at the start.
    pub(super) constants: Vec<u8>,
    /// The application's code.
    pub(super) code: Vec<u8>,
    /// Sections that are not loaded.
    pub(super) loose: BTreeMap<String, Vec<u8>>,
}

/// A page of a library's that the image has of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnPage {
    /// What it is in other images.
    pub(super) elsewhere: Vec<u8>,
    /// What is referred to there that is something else in this program.
    pub(super) because: BTreeSet<String>,
}

/// A field that is something else in this program.
struct Other {
    /// Offset in the section.
    at: usize,
    bytes: Vec<u8>,
    symbol: String,
}

/// Fills `image`.
pub(super) fn fill(image: &Image<'_, '_>) -> Result<Contents, LinkError> {
    let mut contents = empty(image);
    for unit in image.included() {
        fill_unit(image, unit, &mut contents)?;
    }
    fill_resolvers(image, &mut contents);
    fill_unwind_table(image, &mut contents);
    Ok(contents)
}

fn empty(image: &Image<'_, '_>) -> Contents {
    let by_unit = |size: &dyn Fn(usize) -> u64| -> Vec<Vec<u8>> {
        (0..image.units.len())
            .map(|unit| {
                let is_there = image.program.includes(unit);
                vec![0; if is_there { size(unit) as usize } else { 0 }]
            })
            .collect()
    };
    let mut contents = Contents {
        own: vec![BTreeMap::new(); image.units.len()],
        shared: by_unit(&|u| {
            if u == 0 {
                0
            } else {
                image.plans[u].shared_size()
            }
        }),
        bound: by_unit(&|u| image.plans[u].bound.size),
        data: by_unit(&|u| image.plans[u].data_stored),
        orphans: vec![0; (image.bases[0].data - image.common.data.start) as usize],
        constants: vec![0; image.common.constants.size as usize],
        code: vec![0; image.common.code.size as usize],
        loose: image
            .loose
            .iter()
            .map(|(name, extent)| (name.clone(), vec![0; extent.size as usize]))
            .collect(),
    };
    let trap = (image.common.trap - image.common.code.start) as usize;
    contents.code[trap..trap + TRAP.len()].copy_from_slice(&TRAP);
    contents
}

/// The bytes from `address` on, in the part that holds it.
fn bytes_at<'c>(
    image: &Image<'_, '_>,
    contents: &'c mut Contents,
    unit: usize,
    part: Part,
    address: u64,
) -> Option<&'c mut [u8]> {
    let base = &image.bases[unit];
    let (buffer, start) = match (part, unit) {
        (Part::Thread, _) | (Part::Constant, 0) => {
            (&mut contents.constants, image.common.constants.start)
        }
        (Part::Gathered(Gathered::InitCode | Gathered::FiniCode), _) | (Part::Code, 0) => {
            (&mut contents.code, image.common.code.start)
        }
        (Part::Gathered(_), _) if address >= image.common.data.start => {
            (&mut contents.orphans, image.common.data.start)
        }
        (Part::Gathered(_), _) if address >= image.common.code.start => {
            (&mut contents.code, image.common.code.start)
        }
        (Part::Gathered(_), _) => (&mut contents.constants, image.common.constants.start),
        (Part::Code | Part::Constant, _) => (&mut contents.shared[unit], base.code),
        (Part::Bound, _) => (&mut contents.bound[unit], base.bound),
        (Part::Data, _) => (&mut contents.data[unit], base.data),
        (Part::Loose | Part::Dropped, _) => return None,
    };
    let offset = usize::try_from(address.checked_sub(start)?).ok()?;
    buffer.get_mut(offset..)
}

fn fill_unit(image: &Image<'_, '_>, u: usize, contents: &mut Contents) -> Result<(), LinkError> {
    let (unit, plan, base) = (&image.units[u], &image.plans[u], &image.bases[u]);
    // What the program means otherwise, once all is as in every image.
    let mut others = Vec::new();
    for merged in &plan.merged {
        let address = base.constant + merged.offset;
        if let Some(room) = bytes_at(image, contents, u, Part::Constant, address) {
            room[..merged.bytes.len()].copy_from_slice(&merged.bytes);
        }
    }
    for (o, s, section) in unit.sections() {
        let placement = plan.placement(o, s);
        let Some(address) = image.section_address(u, o, s, 0) else {
            continue;
        };
        if section.is_zero() || placement.merged.is_some() || section.size == 0 {
            continue;
        }
        let room = match placement.part {
            Part::Loose => contents
                .loose
                .get_mut(section.name)
                .and_then(|bytes| bytes.get_mut(address as usize..)),
            part => bytes_at(image, contents, u, part, address),
        };
        let Some(room) = room.and_then(|room| room.get_mut(..section.bytes.len())) else {
            return Err(LinkError::Relocation {
                place: image.place((u, o, s), 0),
                problem: "the section was given no room: please report this".to_owned(),
            });
        };
        room.copy_from_slice(section.bytes);
        let site = Site {
            image,
            unit: u,
            object: o,
            section: s,
            address,
            part: placement.part,
        };
        let differs = site.relocate(room)?;
        if is_reversed(section) {
            reverse(room);
        }
        let start = address.wrapping_sub(base.code) as usize;
        others.extend(differs.into_iter().map(|other| (start, other)));
    }
    fill_tables(image, u, contents);
    for (start, other) in others {
        contents.differ(u, start + other.at, &other);
    }
    Ok(())
}

/// The first of such pointers is called last, and in the array that they become part of it is the first that is
/// called first (binutils, `SEC_ELF_REVERSE_COPY`).
fn is_reversed(section: &Section<'_>) -> bool {
    let is_named = |name: &str| {
        let rest = section.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    is_named(".ctors") || is_named(".dtors")
}

fn reverse(pointers: &mut [u8]) {
    let reversed: Vec<u8> = pointers.chunks_exact(8).rev().flatten().copied().collect();
    pointers[..reversed.len()].copy_from_slice(&reversed);
}

impl Contents {
    /// The image has `other` at `at` in the shared pages of library `unit`, which elsewhere are as they are now.
    fn differ(&mut self, unit: usize, at: usize, other: &Other) {
        const PAGE: usize = PAGE_SIZE as usize;
        let shared = &mut self.shared[unit];
        let end = at + other.bytes.len();
        for page in at / PAGE..=(end - 1) / PAGE {
            let own = self.own[unit].entry(page).or_insert_with(|| {
                let end = shared.len().min((page + 1) * PAGE);
                let mut elsewhere = shared[page * PAGE..end].to_vec();
                elsewhere.resize(PAGE, 0);
                let because = BTreeSet::new();
                OwnPage { elsewhere, because }
            });
            own.because.insert(other.symbol.clone());
        }
        shared[at..end].copy_from_slice(&other.bytes);
    }
}

/// The unit's offset table and stubs.
fn fill_tables(image: &Image<'_, '_>, u: usize, contents: &mut Contents) {
    let (plan, base) = (&image.plans[u], &image.bases[u]);
    for (index, entry) in plan.entries.iter().enumerate() {
        let value = match entry {
            Entry::Address(target) => image.entry_value(u, target),
            Entry::ThreadOffset(target) => image.thread_value(&image.meant(target)) as u64,
            Entry::Resolved(_) => 0,
        };
        contents.data[u][index * 8..index * 8 + 8].copy_from_slice(&value.to_le_bytes());
    }
    let calls = plan.stubs.iter().map(|target| Entry::Address(*target));
    let resolved = plan.resolved.iter().map(|id| Entry::Resolved(*id));
    for (index, entry) in calls.chain(resolved).enumerate() {
        let stub = base.code + plan.stubs_at + index as u64 * STUB_SIZE;
        let slot = base.data + plan.entry(&entry).unwrap_or(0);
        if let Some(room) = bytes_at(image, contents, u, Part::Code, stub) {
            // jmp *slot(%rip); both lie in the low 2 GiB.
            room[..2].copy_from_slice(b"\xff\x25");
            room[2..6].copy_from_slice(&(slot.wrapping_sub(stub + 6) as u32).to_le_bytes());
            room[6..8].copy_from_slice(b"\x66\x90");
        }
    }
}

/// The relocations that the program's start-up code carries out: one for each function that
/// chooses its implementation.
fn fill_resolvers(image: &Image<'_, '_>, contents: &mut Contents) {
    let start = (image.common.resolvers.start - image.common.constants.start) as usize;
    let lines = contents.constants[start..].chunks_exact_mut(RELA_SIZE as usize);
    for (line, id) in lines.zip(&image.resolved) {
        let slot = image
            .entry_address(id.unit, &Entry::Resolved(*id))
            .unwrap_or(0);
        let resolver = image.own_address(*id).unwrap_or(0);
        line[..8].copy_from_slice(&slot.to_le_bytes());
        line[8..16].copy_from_slice(&u64::from(R_X86_64_IRELATIVE).to_le_bytes());
        line[16..24].copy_from_slice(&resolver.to_le_bytes());
    }
}

fn fill_unwind_table(image: &Image<'_, '_>, contents: &mut Contents) {
    let span = image.common.unwind_table;
    if span.size == 0 {
        return;
    }
    let mut frames = Vec::new();
    let mut first = None;
    for u in image.included() {
        for (o, s, section) in image.units[u].sections() {
            if !section.is_loaded() || section.name != ".eh_frame" {
                continue;
            }
            let part = image.plans[u].placement(o, s).part;
            let Some(address) = image.section_address(u, o, s, 0) else {
                continue;
            };
            if let Some(bytes) = bytes_at(image, contents, u, part, address)
                && let Some(bytes) = bytes.get(..section.bytes.len())
            {
                first.get_or_insert(address);
                frames.extend(eh_frame::frames(bytes, address));
            }
        }
    }
    // All addresses are below 2 GiB, so that the table can always be made.
    if let Some(table) = eh_frame::table(span.start, first.unwrap_or(0), &frames) {
        let start = (span.start - image.common.constants.start) as usize;
        contents.constants[start..start + table.len()].copy_from_slice(&table);
    }
}

impl<'a> Image<'_, 'a> {
    /// The address of a target as seen from a unit. `None`: it takes no part in the image.
    /// `binding` is that of the reference; without one the unit's weakest counts.
    fn address(&self, unit: usize, target: &Target<'a>, binding: Option<Binding>) -> Option<u64> {
        match target {
            Target::Defined(id) => self.symbol_address(*id),
            Target::Dropped | Target::ThreadPointer => None,
            Target::OffsetTable => Some(self.bases[unit].data),
            Target::Header => Some(self.common.constants.start),
            Target::SetStart(set) => self.own_set_border(unit, set, true),
            Target::SetEnd(set) => self.own_set_border(unit, set, false),
            Target::Import(name) => Some(match self.import(name) {
                Some(Import::Symbol(id)) => self.symbol_address(id)?,
                Some(Import::Address(address)) => address,
                None => {
                    let may_be_absent = match binding {
                        Some(binding) => binding == Binding::Weak,
                        None => self.plans[unit].weak_imports.contains(name),
                    };
                    if may_be_absent { 0 } else { self.common.trap }
                }
            }),
        }
    }

    /// What `target` means to the program: what a library has under a name need not be what counts.
    fn meant(&self, target: &Target<'a>) -> Target<'a> {
        match target {
            Target::Defined(id) => {
                let symbol = self.symbol(*id);
                if symbol.is_local() || symbol.name.is_empty() {
                    return *target;
                }
                let counts = self.program.definition(symbol.name);
                counts.map_or(*target, Target::Defined)
            }
            other => *other,
        }
    }

    /// What an entry for `target` in the offset table of `unit` holds.
    fn entry_value(&self, unit: usize, target: &Target<'a>) -> u64 {
        let address = if self.is_absent(target) {
            Some(0)
        } else {
            self.address(unit, &self.meant(target), None)
        };
        address.unwrap_or(0)
    }

    /// The program refers to it by weak references alone, and has no definition: what a library has under the
    /// name is not in the program.
    fn is_absent(&self, target: &Target<'a>) -> bool {
        match target {
            Target::Defined(id) => self.program.is_absent(self.symbol(*id).name),
            _ => false,
        }
    }

    /// True when the program has something under `name`, which is `target` to the unit that refers to it.
    pub(super) fn means(&self, unit: usize, target: &Target<'a>, name: &str) -> bool {
        match target {
            Target::Import(_) | Target::Defined(_) => self.import(name).is_some(),
            Target::Dropped => false,
            Target::OffsetTable | Target::Header | Target::ThreadPointer => true,
            Target::SetStart(set) | Target::SetEnd(set) => {
                self.own_set_border(unit, set, true).is_some()
            }
        }
    }

    fn thread_value(&self, target: &Target<'a>) -> i128 {
        match target {
            Target::Defined(id) => self.thread_offset(*id),
            Target::Import(name) => match self.import(name) {
                Some(Import::Symbol(id)) => self.thread_offset(id),
                _ => 0,
            },
            _ => 0,
        }
    }

    fn size(&self, target: &Target<'a>) -> u64 {
        match target {
            Target::Defined(id) => self.symbol(*id).size,
            Target::Import(name) => match self.import(name) {
                Some(Import::Symbol(id)) => self.symbol(id).size,
                _ => 0,
            },
            _ => 0,
        }
    }
}

/// A section in its place.
struct Site<'i, 'a> {
    image: &'i Image<'i, 'a>,
    unit: usize,
    object: usize,
    section: usize,
    address: u64,
    part: Part,
}

impl<'a> Site<'_, 'a> {
    fn unit(&self) -> &Unit<'a> {
        &self.image.units[self.unit]
    }

    /// Relocates the section as it is in every image, and says what is something else in this program.
    fn relocate(&self, bytes: &mut [u8]) -> Result<Vec<Other>, LinkError> {
        let units: Vec<&Unit<'a>> = self.image.units.iter().collect();
        let targets = &self.image.targets[self.unit];
        let at = (self.object, self.section);
        let mut others = Vec::new();
        for patched in patches(&units, self.unit, targets, at)? {
            others.extend(self.apply(bytes, &patched)?);
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
    ) -> Result<Option<Other>, LinkError> {
        let Patched {
            relocation, patch, ..
        } = patched;
        let outside = || self.fault(relocation, "the relocation reaches past its section".into());
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
        if self.is_shared() && !patched.facts.is_known() && patch.value.is_direct() {
            return Err(self.fault(
                relocation,
                "a shared page would depend on the image: please report this".into(),
            ));
        }
        let at = relocation.offset as i64 + patch.field;
        let start = usize::try_from(at).map_err(|_| outside())?;
        let field = start..start + patch.width.bytes();
        let field = bytes.get_mut(field).ok_or_else(outside)?;
        let value = self.value(patched, at, &patched.target)?;
        let meant = match self.meant(patched) {
            Some(target) => self.value(patched, at, &target)?,
            None => value,
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

    /// What the relocation's target is in the program, if the section is in it and refers by name.
    fn meant(&self, patched: &Patched<'_, 'a>) -> Option<Target<'a>> {
        let symbol = &self.unit().objects[self.object].symbols[patched.relocation.symbol];
        let image = self.image;
        if symbol.is_local()
            || symbol.name.is_empty()
            || !image.program.speaks(self.unit, self.object, self.section)
            || patched.patch.value == Value::Branch && self.calls_copy(&patched.target)
        {
            return None;
        }
        if image.is_absent(&patched.target) {
            return Some(Target::Import(symbol.name));
        }
        Some(image.meant(&patched.target))
    }

    /// It is a function of which any copy will do.
    fn calls_copy(&self, target: &Target<'a>) -> bool {
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
            self.fault(
                relocation,
                "its table has no entry: please report this".into(),
            )
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
                i128::from(image.address(self.unit, meant, Some(symbol.binding))?)
            };
            Some(address + addend)
        };
        let entry = |entry: Entry<'a>| -> Result<i128, LinkError> {
            let address = image
                .entry_address(self.unit, &entry)
                .ok_or_else(no_entry)?;
            Ok(i128::from(address) + addend)
        };
        Ok(match patch.value {
            Value::Nothing => 0,
            // A reference into what is not in the image: consumers skip zero.
            Value::Address => direct().unwrap_or(0),
            Value::Distance => direct().map_or(0, |value| value - place),
            Value::Branch if patched.takes_stub() && self.unit != 0 => {
                let stub = image.stub_address(self.unit, target);
                let stub = stub.ok_or_else(no_entry)?;
                i128::from(stub) + addend - place
            }
            Value::Branch => direct().map_or(0, |value| value - place),
            Value::EntryDistance => entry(Entry::Address(*target))? - place,
            Value::EntryOffset => entry(Entry::Address(*target))? - table,
            Value::ThreadEntryDistance => entry(Entry::ThreadOffset(*target))? - place,
            Value::TableDistance => table + addend - place,
            Value::TableOffset => direct().unwrap_or(table) - table,
            Value::ThreadOffset => image.thread_value(meant) + addend,
            Value::BlockOffset => {
                image.thread_value(meant) + i128::from(image.common.thread.size) + addend
            }
            Value::Size => i128::from(image.size(meant)) + addend,
        })
    }

    fn is_merged(&self, place: Place) -> bool {
        match place {
            Place::Section(section) => self.image.plans[self.unit]
                .placement(self.object, section)
                .merged
                .is_some(),
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
