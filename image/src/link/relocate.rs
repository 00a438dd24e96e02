//! Fills the image: copies sections to their places and patches what refers to something.

use std::collections::{BTreeMap, BTreeSet};

use goblin::elf::reloc::R_X86_64_IRELATIVE;
use pool_core::page::PAGE_SIZE;

use super::detour_frames::{self, Framed};
use super::eh_frame;
use super::error::LinkError;
use super::image::{Image, RELA_SIZE, TRAP};
use super::moves::Moves;
use super::object::{Gathered, Section};
use super::plan::{Entry, Part, PlannedDetour};
use super::site::{Other, Site};
use super::unit::Unit;

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
    /// What of all that changes when the image starts elsewhere.
    pub(super) moves: Moves,
}

/// A page of a library's that the image has of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnPage {
    /// What it is in other images.
    pub(super) elsewhere: Vec<u8>,
    /// What is referred to there that is something else in this program.
    pub(super) because: BTreeSet<String>,
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
        loose: BTreeMap::new(),
        moves: Moves::default(),
    };
    for (name, loose) in &image.loose.by_name {
        let mut bytes = vec![0; loose.extent.size as usize];
        for merged in &loose.merged {
            let start = merged.offset as usize;
            bytes[start..start + merged.bytes.len()].copy_from_slice(&merged.bytes);
        }
        contents.loose.insert(name.clone(), bytes);
    }
    let note = (image.common.properties.start - image.common.constants.start) as usize;
    contents.constants[note..note + image.property_note.len()]
        .copy_from_slice(&image.property_note);
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

/// The bytes of a section that is loaded, relocated.
pub(super) fn section<'c>(
    image: &Image<'_, '_>,
    contents: &'c mut Contents,
    (u, o, s): (usize, usize, usize),
) -> Option<&'c [u8]> {
    let part = image.plans[u].placement(o, s).part;
    let address = image.section_address(u, o, s, 0)?;
    let size = image.units[u].objects[o].sections[s].bytes.len();
    bytes_at(image, contents, u, part, address)?.get(..size)
}

fn fill_unit(image: &Image<'_, '_>, u: usize, contents: &mut Contents) -> Result<(), LinkError> {
    let (unit, plan, base) = (&image.units[u], &image.plans[u], &image.bases[u]);
    let units: Vec<&Unit<'_>> = image.units.iter().collect();
    // What the program means otherwise, once all is as in every image.
    let mut others = Vec::new();
    for merged in &plan.merged {
        for (position, bytes) in merged.pieces() {
            let address = base.constant + merged.offset + position;
            if let Some(room) = bytes_at(image, contents, u, Part::Constant, address) {
                room[..bytes.len()].copy_from_slice(bytes);
            }
        }
    }
    for (o, s, section) in unit.sections() {
        let placement = plan.placement(o, s);
        let Some(address) = image.section_address(u, o, s, 0) else {
            continue;
        };
        let is_merged = placement.merged.is_some() || image.loose.is_merged((u, o, s));
        if section.is_zero() || is_merged || section.size == 0 {
            continue;
        }
        let part = match image.moved(u, o, s) {
            Some(_) => Part::Gathered(Gathered::Orphan),
            None => placement.part,
        };
        let mut moves = std::mem::take(&mut contents.moves);
        let room = match part {
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
            units: &units,
            speaks: image.speaks(u, o, s),
            unit: u,
            object: o,
            section: s,
            address,
            part,
        };
        let first = moves.count();
        let differs = site.relocate(room, &mut moves)?;
        if is_reversed(section) {
            reverse(room);
            moves.reverse_from(first, address, (room.len() / 8 * 8) as u64);
        }
        contents.moves = moves;
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
            Entry::Address(target, addend) => {
                let (address, unit) = image.entry_value(u, target);
                if let Some(unit) = unit {
                    let at = base.data + plan.entry_offset(index);
                    contents.moves.address(at, unit);
                }
                address.wrapping_add(*addend as u64)
            }
            Entry::ThreadOffset(target) => image.thread_entry_value(u, target),
            Entry::Resolved(_) => 0,
        };
        let at = plan.entry_offset(index) as usize;
        contents.data[u][at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let calls = plan.stubs.iter().map(|target| Entry::Address(*target, 0));
    let resolved = plan.resolved.iter().map(|id| Entry::Resolved(*id));
    for (index, entry) in calls.chain(resolved).enumerate() {
        let stub = base.code + plan.stub_offset(index);
        let slot = base.data + plan.entry(&entry).unwrap_or(0);
        if let Some(room) = bytes_at(image, contents, u, Part::Code, stub) {
            // jmp *slot(%rip); both lie in the low 2 GiB, or are as far from each other.
            room[..2].copy_from_slice(b"\xff\x25");
            room[2..6].copy_from_slice(&(slot.wrapping_sub(stub + 6) as u32).to_le_bytes());
            room[6..8].copy_from_slice(b"\x66\x90");
        }
    }
    for ((o, s), offset) in &plan.jumps {
        let to = image.section_address(u, *o, *s, 0).unwrap_or(0);
        let jump = base.code + offset;
        if let Some(room) = bytes_at(image, contents, u, Part::Code, jump) {
            // jmp to it; nopl (%rax). Both lie in the low 2 GiB.
            room[0] = 0xe9;
            room[1..5].copy_from_slice(&(to.wrapping_sub(jump + 5) as u32).to_le_bytes());
            room[5..8].copy_from_slice(b"\x0f\x1f\x00");
        }
    }
    for planned in &plan.detours {
        fill_detour(image, u, planned, contents);
    }
    let (offset, size) = plan.detour_frames;
    if size > 0 {
        let address = base.constant + offset;
        let frames = detour_frames::write(address, framed(image, u));
        if let Some(room) = bytes_at(image, contents, u, Part::Constant, address) {
            room[..frames.len()].copy_from_slice(&frames);
        }
    }
}

/// A library's stubs and detours, each run of stubs as one.
fn framed<'i>(image: &'i Image<'_, '_>, u: usize) -> impl Iterator<Item = Framed<'i>> {
    let (plan, base) = (&image.plans[u], &image.bases[u]);
    let runs = plan.stub_runs().into_iter();
    let stubs = runs.map(|(start, size)| Framed {
        start: base.code + start,
        size,
        returns: None,
    });
    let mut detours: Vec<&PlannedDetour<'_>> = plan.detours.iter().collect();
    detours.sort_by_key(|planned| planned.offset);
    let detours = detours.into_iter().map(move |planned| Framed {
        start: base.code + planned.offset,
        size: planned.detour.code.len() as u64,
        returns: planned.detour.back.map(|(_, next)| {
            let next = image.section_address(u, planned.object, planned.section, next);
            (&planned.detour, next.unwrap_or(0))
        }),
    });
    stubs.chain(detours)
}

/// The frames of a library's stubs and detours, and their address.
pub(super) fn detour_frames<'c>(
    image: &Image<'_, '_>,
    contents: &'c mut Contents,
    u: usize,
) -> Option<(&'c [u8], u64)> {
    let (offset, size) = image.plans[u].detour_frames;
    let address = image.bases[u].constant + offset;
    let bytes = bytes_at(image, contents, u, Part::Constant, address)?;
    Some((bytes.get(..size as usize)?, address))
}

fn fill_detour(
    image: &Image<'_, '_>,
    u: usize,
    planned: &PlannedDetour<'_>,
    contents: &mut Contents,
) {
    let (plan, base) = (&image.plans[u], &image.bases[u]);
    let detour = &planned.detour;
    let start = base.code + planned.offset;
    let slot = base.data + plan.entry(&planned.entry).unwrap_or(0);
    let back = detour.back.and_then(|(at, next)| {
        let next = image.section_address(u, planned.object, planned.section, next)?;
        Some((at, next))
    });
    let Some(room) = bytes_at(image, contents, u, Part::Code, start) else {
        return;
    };
    room[..detour.code.len()].copy_from_slice(&detour.code);
    for (at, to) in [(detour.slot_at, slot)].into_iter().chain(back) {
        // All addresses are below 2 GiB.
        let distance = to.wrapping_sub(start + at as u64 + 4) as u32;
        room[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }
}

/// The relocations that the program's start-up code carries out: one for each function that
/// chooses its implementation.
fn fill_resolvers(image: &Image<'_, '_>, contents: &mut Contents) {
    let start = (image.common.resolvers.start - image.common.constants.start) as usize;
    let lines = contents.constants[start..].chunks_exact_mut(RELA_SIZE as usize);
    let addresses = (image.common.resolvers.start..).step_by(RELA_SIZE as usize);
    for ((line, id), address) in lines.zip(&image.resolved).zip(addresses) {
        let slot = image
            .entry_address(id.unit, &Entry::Resolved(*id))
            .unwrap_or(0);
        let resolver = image.own_address(*id).unwrap_or(0);
        line[..8].copy_from_slice(&slot.to_le_bytes());
        line[8..16].copy_from_slice(&u64::from(R_X86_64_IRELATIVE).to_le_bytes());
        line[16..24].copy_from_slice(&resolver.to_le_bytes());
        contents.moves.address(address, id.unit);
        if let Some(unit) = image.symbol_moves_with(*id) {
            contents.moves.address(address + 16, unit);
        }
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
            let Some(address) = image.section_address(u, o, s, 0) else {
                continue;
            };
            if let Some(bytes) = self::section(image, contents, (u, o, s)) {
                first.get_or_insert(address);
                frames.extend(eh_frame::frames(bytes, address));
            }
        }
        if let Some((bytes, address)) = detour_frames(image, contents, u) {
            frames.extend(eh_frame::frames(bytes, address));
        }
    }
    // All addresses are below 2 GiB, so that the table can always be made.
    if let Some(table) = eh_frame::table(span.start, first.unwrap_or(0), &frames) {
        let start = (span.start - image.common.constants.start) as usize;
        contents.constants[start..start + table.len()].copy_from_slice(&table);
        contents.moves.unwind_table(image, span.start, &table);
    }
}
