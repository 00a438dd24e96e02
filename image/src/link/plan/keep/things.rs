//! The things of a plan that have places of their own, and what each is told by.
//!
//! What compilers number (`.rodata.name.17`, `name.part.0`) is told without the numbers, since these change with whatever
//! stands before it. What a relocation refers to is part of what a section is: by the name of a symbol, or for one without,
//! by the section and the offset, or by the string that is there.

use std::collections::BTreeMap;

use crate::link::object::{Object, Place, Section, Symbol, is_set_name};
use crate::link::places::{Class, Space, Thing};
use crate::link::plan::{Entry, Part, Plan, STUB_SIZE};
use crate::link::target::Target;
use crate::link::unit::{SymbolId, Unit};

/// What a thing is in its plan.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// By object and index.
    Section(usize, usize),
    /// Sections that are walked from end to end: an index in [`Things::sets`].
    Set(usize),
    /// The next piece of a merged section.
    Piece(usize),
    Common(usize, usize),
    Entry(usize),
    Stub(usize),
    Detour(usize),
    DetourFrames,
}

/// The things of a plan, in an order that follows from the library alone.
pub(super) struct Things<'a> {
    pub(super) all: Vec<(What, Thing)>,
    /// Each with its sections, by object and index.
    pub(super) sets: Vec<(&'a str, Vec<(usize, usize)>)>,
}

impl<'a> Things<'a> {
    /// None if the sections of a set are of several kinds, so that it is no thing.
    pub(super) fn of(plan: &Plan<'a>, unit: &Unit<'a>) -> Option<Self> {
        let mut things = Self {
            all: Vec::new(),
            sets: Vec::new(),
        };
        let collector = Collector { plan, unit };
        collector.sections(&mut things)?;
        collector.pieces(&mut things);
        collector.commons(&mut things);
        collector.tables(&mut things);
        Some(things)
    }

    /// The things, without what they are.
    pub(super) fn plain(&self) -> Vec<Thing> {
        self.all.iter().map(|(_, thing)| *thing).collect()
    }

    /// Gives the frames of stubs, which lie at `offset` if there were none, their size. True if it was another.
    pub(super) fn sizes_frames(&mut self, size: u64, offset: u64) -> bool {
        let mut all = self.all.iter_mut();
        match all.find(|(what, _)| matches!(what, What::DetourFrames)) {
            Some((_, thing)) => {
                let before = std::mem::replace(thing, frames(size, thing.offset));
                before.size != size
            }
            None if size > 0 => {
                self.all.push((What::DetourFrames, frames(size, offset)));
                true
            }
            None => false,
        }
    }

    pub(super) fn frames_size(&self) -> u64 {
        let mut all = self.all.iter();
        let frames = all.find(|(what, _)| matches!(what, What::DetourFrames));
        frames.map_or(0, |(_, thing)| thing.size)
    }
}

/// Frames of stubs and detours. They are other ones when their size is, and not in the way of frames before them, which are
/// large: of an object with one function more they grow.
fn frames(size: u64, offset: u64) -> Thing {
    let name = Digest::of("frames").number(size).finish();
    Thing {
        space: Space::Shared,
        class: Class::Stored,
        name,
        identity: name,
        size,
        alignment: 8,
        offset,
        is_called: false,
        yields: true,
    }
}

struct Collector<'c, 'a> {
    plan: &'c Plan<'a>,
    unit: &'c Unit<'a>,
}

impl<'a> Collector<'_, 'a> {
    fn sections(&self, things: &mut Things<'a>) -> Option<()> {
        let mut sets: BTreeMap<&'a str, Vec<(usize, usize)>> = BTreeMap::new();
        for (o, s, section) in self.unit.sections() {
            let placement = self.plan.placement(o, s);
            let Some((space, class)) = kind(placement.part, section) else {
                continue;
            };
            if placement.merged.is_some() {
                continue;
            }
            if is_set_name(section.name) {
                sets.entry(section.name).or_default().push((o, s));
                continue;
            }
            let offset = self.shared(placement.part, placement.offset);
            let thing = Thing {
                space,
                class,
                name: self.name(o, section, class),
                identity: self.identity(o, section),
                size: section.size,
                alignment: section.alignment,
                offset,
                is_called: placement.part == Part::Code,
                yields: false,
            };
            things.all.push((What::Section(o, s), thing));
        }
        for (name, sections) in sets {
            let thing = self.set(name, &sections)?;
            things.all.push((What::Set(things.sets.len()), thing));
            things.sets.push((name, sections));
        }
        Some(())
    }

    fn set(&self, name: &str, sections: &[(usize, usize)]) -> Option<Thing> {
        let mut identity = Digest::of("set");
        let (mut found, mut alignment, mut size) = (None, 1, 0u64);
        let mut start = u64::MAX;
        for (o, s) in sections {
            let section = &self.unit.objects[*o].sections[*s];
            let placement = self.plan.placement(*o, *s);
            let kind = kind(placement.part, section)?;
            if found.is_some_and(|found| found != (placement.part, kind)) {
                return None;
            }
            found = Some((placement.part, kind));
            start = start.min(self.shared(placement.part, placement.offset));
            alignment = section.alignment.max(alignment);
            size = size.next_multiple_of(section.alignment) + section.size;
            identity.number(self.identity(*o, section).into());
        }
        let (_, (space, class)) = found?;
        Some(Thing {
            space,
            class,
            name: Digest::of("set").text(name).number(class as u64).finish(),
            identity: identity.finish(),
            size,
            alignment,
            offset: start,
            is_called: false,
            yields: false,
        })
    }

    fn pieces(&self, things: &mut Things<'a>) {
        for (index, merged) in self.plan.merged.iter().enumerate() {
            for (position, bytes) in merged.pieces() {
                let mut digest = Digest::of("piece");
                let name = digest.number(merged.alignment).bytes(bytes).finish();
                let thing = Thing {
                    space: Space::Shared,
                    class: Class::Stored,
                    name,
                    identity: name,
                    size: bytes.len() as u64,
                    alignment: merged.alignment,
                    offset: self.shared(Part::Constant, merged.offset + position),
                    is_called: false,
                    yields: false,
                };
                things.all.push((What::Piece(index), thing));
            }
        }
    }

    fn commons(&self, things: &mut Things<'a>) {
        for (o, s, symbol) in self.unit.symbols() {
            let Some(offset) = self.plan.common(o, s) else {
                continue;
            };
            let space = if symbol.is_thread_local() {
                Space::Thread
            } else {
                Space::Data
            };
            let name = Digest::of("common").text(symbol.name).finish();
            let thing = Thing {
                space,
                class: Class::Zero,
                name,
                identity: name,
                size: symbol.size,
                alignment: symbol.value.max(1),
                offset,
                is_called: false,
                yields: false,
            };
            things.all.push((What::Common(o, s), thing));
        }
    }

    /// The offset table, stubs and detours.
    fn tables(&self, things: &mut Things<'a>) {
        let plan = self.plan;
        let thing = |space: Space, class: Class, digest: &Digest, size: u64, offset: u64| Thing {
            space,
            class,
            name: digest.finish(),
            identity: digest.finish(),
            size,
            alignment: if space == Space::Data { 8 } else { 1 },
            offset,
            is_called: false,
            yields: false,
        };
        for (index, entry) in plan.entries.iter().enumerate() {
            let digest = self.entry(Digest::of("entry"), entry);
            let offset = plan.entry_offset(index);
            let thing = thing(Space::Data, Class::Stored, &digest, 8, offset);
            things.all.push((What::Entry(index), thing));
        }
        let calls = plan.stubs.iter().map(|target| Entry::Address(*target, 0));
        let resolved = plan.resolved.iter().map(|id| Entry::Resolved(*id));
        for (index, entry) in calls.chain(resolved).enumerate() {
            let digest = self.entry(Digest::of("stub"), &entry);
            let offset = plan.stub_offset(index);
            let mut thing = thing(Space::Shared, Class::Code, &digest, STUB_SIZE, offset);
            thing.alignment = STUB_SIZE;
            things.all.push((What::Stub(index), thing));
        }
        for (index, planned) in plan.detours.iter().enumerate() {
            let section = &self.unit.objects[planned.object].sections[planned.section];
            let name = self.name(planned.object, section, Class::Code);
            let mut digest = Digest::of("detour");
            digest.number(name.into()).bytes(&planned.detour.code);
            let digest = self.entry(digest, &planned.entry);
            let size = planned.detour.code.len() as u64;
            let thing = thing(Space::Shared, Class::Code, &digest, size, planned.offset);
            things.all.push((What::Detour(index), thing));
        }
        let (offset, size) = plan.detour_frames;
        if size > 0 {
            let thing = frames(size, self.shared(Part::Constant, offset));
            things.all.push((What::DetourFrames, thing));
        }
    }

    /// An offset from where the space starts.
    fn shared(&self, part: Part, offset: u64) -> u64 {
        match part {
            Part::Constant => self.plan.constants_at() + offset,
            _ => offset,
        }
    }

    fn name(&self, object: usize, section: &Section<'_>, class: Class) -> u32 {
        let mut digest = Digest::of("section");
        digest.number(class as u64);
        digest.text(member(&self.unit.objects[object]));
        digest.stem(section.name).finish()
    }

    fn identity(&self, object: usize, section: &Section<'_>) -> u32 {
        let mut digest = Digest::of("bytes");
        digest.number(section.size);
        if section.is_zero() {
            return digest.stem(section.name).finish();
        }
        digest.bytes(section.bytes);
        for relocation in &section.relocations {
            let symbol = &self.unit.objects[object].symbols[relocation.symbol];
            digest.number(relocation.offset);
            digest.number(relocation.kind.into());
            self.symbol(&mut digest, object, symbol, relocation.addend);
        }
        digest.finish()
    }

    /// What a symbol with an addend stands for.
    fn symbol(&self, digest: &mut Digest, object: usize, symbol: &Symbol<'_>, addend: i64) {
        let of_object = &self.unit.objects[object];
        if let Place::Section(s) = symbol.place {
            let section = &of_object.sections[s];
            let merged = self.plan.placement(object, s).merged;
            if merged.is_some() && section.entry_size > 0 {
                let at = if symbol.is_section() {
                    symbol.value.wrapping_add_signed(addend)
                } else {
                    symbol.value
                };
                digest.bytes(entry_at(section, at));
                return;
            }
            if symbol.is_local() {
                digest.stem(section.name);
                digest.number(symbol.value.wrapping_add_signed(addend));
                return;
            }
        }
        digest.text(symbol.name);
        digest.number(addend as u64);
    }

    fn entry(&self, mut digest: Digest, entry: &Entry<'a>) -> Digest {
        match entry {
            Entry::Address(target, addend) => {
                digest.text("address");
                digest.number(*addend as u64);
                self.target(&mut digest, target);
            }
            Entry::ThreadOffset(target) => {
                digest.text("thread");
                self.target(&mut digest, target);
            }
            Entry::Resolved(id) => {
                digest.text("resolved");
                self.defined(&mut digest, *id);
            }
        }
        digest
    }

    fn target(&self, digest: &mut Digest, target: &Target<'a>) {
        match target {
            Target::Defined(id) => self.defined(digest, *id),
            Target::Import(name) => {
                digest.text("import").text(name);
            }
            Target::SetStart(name) => {
                digest.text("start").text(name);
            }
            Target::SetEnd(name) => {
                digest.text("end").text(name);
            }
            Target::Dropped | Target::OffsetTable | Target::ThreadPointer | Target::Header => {
                digest.text(&format!("{target:?}"));
            }
        }
    }

    fn defined(&self, digest: &mut Digest, id: SymbolId) {
        let object = &self.unit.objects[id.object];
        let symbol = &object.symbols[id.symbol];
        if symbol.is_local() {
            digest.text(member(object));
            self.symbol(digest, id.object, symbol, 0);
        }
        digest.stem(symbol.name);
    }
}

/// Where a section's things are, if its library has a place for it.
fn kind(part: Part, section: &Section<'_>) -> Option<(Space, Class)> {
    let by_bytes = if section.is_zero() {
        Class::Zero
    } else {
        Class::Stored
    };
    Some(match part {
        Part::Code => (Space::Shared, Class::Code),
        Part::Constant if section.is_writable() => (Space::Shared, Class::Held),
        Part::Constant => (Space::Shared, Class::Stored),
        Part::Bound => (Space::Bound, Class::Stored),
        Part::Data => (Space::Data, by_bytes),
        Part::Thread => (Space::Thread, by_bytes),
        Part::Gathered(_) | Part::Loose | Part::Dropped => return None,
    })
}

/// The name of an archive's member, without its archive; of an object that is a library, without its folder.
fn member<'o>(object: &'o Object<'_>) -> &'o str {
    member_named(&object.name)
}

fn member_named(name: &str) -> &str {
    let of_archive = name
        .strip_suffix(')')
        .and_then(|name| name.rsplit_once('('));
    match of_archive {
        Some((_, member)) => member,
        None => name.rsplit_once('/').map_or(name, |(_, file)| file),
    }
}

/// The string, or the constant, at `at` of a mergeable section.
fn entry_at<'b>(section: &Section<'b>, at: u64) -> &'b [u8] {
    let from = usize::try_from(at)
        .ok()
        .and_then(|at| section.bytes.get(at..));
    let bytes = from.unwrap_or_default();
    let size = section.entry_size as usize;
    let end = if section.holds_strings() {
        let mut units = bytes.chunks(size);
        units.position(|unit| unit.iter().all(|byte| *byte == 0))
    } else {
        Some(1)
    };
    let end = end.map_or(bytes.len(), |end| end * size);
    &bytes[..end.min(bytes.len())]
}

/// The first bytes of a digest over a sequence of texts and numbers.
struct Digest(blake3::Hasher);

impl Digest {
    fn of(kind: &str) -> Self {
        let mut digest = Self(blake3::Hasher::new());
        digest.text(kind);
        digest
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    /// A name without the numbers that compilers give.
    fn stem(&mut self, name: &str) -> &mut Self {
        for part in name.split('.') {
            if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                self.text(part);
            }
        }
        self.text("")
    }

    fn finish(&self) -> u32 {
        let digest = self.0.finalize();
        let first = digest.as_bytes().first_chunk();
        first.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::member_named;

    /// Builds of one library lie in folders of their own.
    #[test]
    fn where_a_member_lies_is_no_part_of_its_name() {
        for (name, expected) in [
            ("libz.a(adler32.o)", "adler32.o"),
            ("/usr/lib/libz.a(adler32.o)", "adler32.o"),
            ("/one/build/libmusl.o", "libmusl.o"),
            ("../other (2)/build/libmusl.o", "libmusl.o"),
            ("libmusl.o", "libmusl.o"),
        ] {
            assert_eq!(member_named(name), expected, "{name}");
        }
    }
}
