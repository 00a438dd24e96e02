//! Where everything in an image is: registered addresses of libraries, the application after
//! them, and what the image has one of.
//!
//! The application begins at [`APPLICATION_START`] with three runs of pages: constants (headers,
//! notes, arrays of constructors, the thread-local template), code, data.

use std::collections::BTreeMap;

use pool_core::page::PAGE_SIZE;
use pool_core::registry::{APPLICATION_START, Reservation, SHARED_START};

use super::args::{BuildId, LinkRequest, Undefined};
use super::borrowed::Borrowed;
use super::eh_frame;
use super::error::LinkError;
use super::hash::HashMap;
use super::object::{Gathered, Object, Section};
use super::plan::Plan;
use super::resolve::Resolution;
use super::tables::Tables;
use super::target::UnitTargets;
use super::unit::{SymbolId, Unit};

pub(super) mod loose;
pub(super) mod orphans;

use self::loose::LooseSections;
use self::orphans::{Orphan, Run};

/// Room for the ELF header.
pub(super) const ELF_HEADER_SIZE: u64 = 64;
/// Bytes of a program header.
pub(super) const PROGRAM_HEADER_SIZE: u64 = 56;
/// Bytes of a relocation with addend.
pub(super) const RELA_SIZE: u64 = 24;
/// Code that ends the program: what a library's reference leads to that nothing defines.
pub(super) const TRAP: [u8; 2] = [0x0f, 0x0b];

/// Addresses at which a unit's parts begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnitBase {
    pub(super) code: u64,
    pub(super) constant: u64,
    pub(super) bound: u64,
    pub(super) data: u64,
    /// Distance of the thread-local block below the thread pointer.
    pub(super) thread: u64,
}

/// Whose view of what is not the same in every image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// This image's.
    Image,
    /// That of all others.
    Elsewhere,
}

/// Bytes of each thread's memory that may lie unused between libraries' thread-local blocks.
const MOST_UNUSED: u64 = PAGE_SIZE;

/// What the thread pointer points to, and is aligned to: who sets up threads' memory by a script's symbols sees no other
/// alignment.
const THREAD_POINTER_SIZE: u64 = 8;

/// A run of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) size: u64,
}

impl Span {
    pub(super) fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// What the image has one of.
#[derive(Clone, Debug, Default)]
pub(super) struct Common {
    pub(super) constants: Span,
    pub(super) code: Span,
    /// In memory: orphan sections and the application's data, of which [`Plan::data_stored`] is in the
    /// file.
    pub(super) data: Span,
    pub(super) build_id: Span,
    pub(super) properties: Span,
    pub(super) arrays: BTreeMap<Gathered, Span>,
    pub(super) resolvers: Span,
    /// The template of thread-local variables: size in memory and in the file, alignment.
    pub(super) thread: Span,
    pub(super) thread_stored: u64,
    pub(super) thread_alignment: u64,
    pub(super) unwind_table: Span,
    pub(super) trap: u64,
}

/// An image with an address for everything.
#[derive(Debug)]
pub(super) struct Image<'i, 'a> {
    pub(super) units: &'i [Unit<'a>],
    pub(super) targets: &'i [UnitTargets<'a>],
    pub(super) plans: &'i [Plan<'a>],
    pub(super) program: &'i Resolution<'a>,
    borrowed: Borrowed,
    /// By unit; zero for a library that is in no way part of the image.
    pub(super) bases: Vec<UnitBase>,
    /// By unit: the distances of thread-local blocks that libraries have elsewhere.
    pub(super) registered_threads: Vec<u64>,
    pub(super) common: Common,
    /// Places of gathered sections, in order.
    pub(super) gathered: Vec<(Gathered, u64, (usize, usize, usize))>,
    pub(super) gathered_index: HashMap<(usize, usize, usize), u64>,
    pub(super) orphans: Vec<Orphan>,
    pub(super) tables: &'i Tables,
    /// Symbols that scripts define.
    pub(super) table_symbols: BTreeMap<&'i str, u64>,
    pub(super) loose: LooseSections,
    /// Functions whose implementation is chosen at start.
    pub(super) resolved: Vec<SymbolId>,
    /// The note of the program's properties.
    pub(super) property_note: Vec<u8>,
    /// The stack is.
    pub(super) executable_stack: bool,
    pub(super) unresolved: &'i Undefined,
}

impl<'i, 'a> Image<'i, 'a> {
    /// Gives everything an address. `reservations` are by library, i.e. by unit from 1 on.
    pub(super) fn new(
        request: &'i LinkRequest,
        tables: &'i Tables,
        units: &'i [Unit<'a>],
        targets: &'i [UnitTargets<'a>],
        plans: &'i [Plan<'a>],
        program: &'i Resolution<'a>,
        reservations: &[Option<Reservation>],
    ) -> Result<Self, LinkError> {
        let mut bases = vec![UnitBase::default()];
        for (reservation, plan) in reservations.iter().zip(&plans[1..]) {
            bases.push(reservation.as_ref().map_or_else(UnitBase::default, |r| {
                let shared = r.shared.start.0;
                let (bound, data) = plan.private_at(r.private.start.0);
                UnitBase {
                    code: shared,
                    constant: shared + plan.constants_at(),
                    bound,
                    data,
                    thread: r.tls.offset,
                }
            }));
        }
        let mut image = Self {
            units,
            targets,
            plans,
            program,
            borrowed: Borrowed::of(units, targets, program),
            registered_threads: bases.iter().map(|base| base.thread).collect(),
            bases,
            common: Common::default(),
            gathered: Vec::new(),
            gathered_index: HashMap::default(),
            orphans: Vec::new(),
            tables,
            table_symbols: BTreeMap::new(),
            loose: LooseSections::default(),
            resolved: Vec::new(),
            property_note: Vec::new(),
            executable_stack: false,
            unresolved: &request.unresolved,
        };
        let asked = image.asks_for_executable_stack().is_some();
        image.executable_stack = request.executable_stack.unwrap_or(asked);
        image.property_note = image.property_note(&request.properties);
        image.place_application(request)?;
        image.place_loose();
        Ok(image)
    }

    /// True when the section is one of the program's.
    pub(super) fn takes(&self, unit: usize, object: usize, section: usize) -> bool {
        self.program.is_live(unit, object)
            && !self.program.is_lost(unit, object, section)
            && !self.program.is_removed(unit, object, section)
    }

    /// True when what the section refers to is what the program means by it.
    pub(super) fn speaks(&self, unit: usize, object: usize, section: usize) -> bool {
        self.program.is_live(unit, object) || self.borrowed.has((unit, object, section))
    }

    /// True when something of the object is in the program, if only for the sake of a copy.
    pub(super) fn runs(&self, unit: usize, object: usize) -> bool {
        self.program.is_live(unit, object) || self.borrowed.has_of(unit, object)
    }

    /// True when libraries have data, far from the application's.
    pub(super) fn has_data_apart(&self) -> bool {
        let mut libraries = self.included().filter(|unit| *unit != 0);
        libraries.any(|unit| self.plans[unit].data.size > 0)
    }

    /// An object of the program that needs a stack that it may execute: its note says so, or it has none
    /// (binutils, `bfd_elf_size_dynamic_sections`).
    pub(super) fn asks_for_executable_stack(&self) -> Option<&str> {
        let objects = self.included().flat_map(|u| {
            let objects = self.units[u].objects.iter().enumerate();
            objects.filter(move |(o, _)| self.program.is_live(u, *o))
        });
        let mut objects = objects.map(|(_, object)| object);
        let asks = |object: &&Object<'_>| {
            let mut sections = object.sections.iter();
            let note = sections.find(|section| section.name == ".note.GNU-stack");
            note.is_none_or(Section::is_code)
        };
        objects.find(asks).map(|object| object.name.as_str())
    }

    /// Units that are part of the image.
    pub(super) fn included(&self) -> impl Iterator<Item = usize> {
        (0..self.units.len()).filter(|unit| self.program.includes(*unit))
    }

    fn place_application(&mut self, request: &LinkRequest) -> Result<(), LinkError> {
        self.find_orphans()?;
        let plan = &self.plans[0];
        let start = APPLICATION_START.0;
        let included = self.included().count() as u64;
        let mut end = Cursor(start);

        // Constants. There may be fewer program headers than there is room for.
        end.take(
            ELF_HEADER_SIZE + (3 * included + 10) * PROGRAM_HEADER_SIZE,
            1,
        );
        let id_size = match &request.build_id {
            BuildId::None => 0,
            BuildId::Digest(size) => 16 + *size as u64,
            BuildId::Given(bytes) => 16 + (bytes.len() as u64).next_multiple_of(4),
        };
        self.common.build_id = end.take(id_size, 4);
        self.common.properties = end.take(self.property_note.len() as u64, 8);
        self.bases[0].constant = end.take(plan.constant.size, plan.constant.alignment).start;
        let mut gathered = self.find_gathered();
        for kind in [
            Gathered::PreinitArray,
            Gathered::InitArray,
            Gathered::FiniArray,
        ] {
            self.gather(kind, &mut gathered, &mut end);
        }
        self.place_orphans(Run::Constants, &mut end);
        self.resolved = self
            .included()
            .flat_map(|unit| self.plans[unit].resolved.iter().copied())
            .filter(|id| self.program.is_live(id.unit, id.object))
            .collect();
        self.common.resolvers = end.take(self.resolved.len() as u64 * RELA_SIZE, 8);
        self.place_thread_template(&mut end);
        let entries = self.unwind_entries(request);
        self.common.unwind_table = end.take(eh_frame::table_size(entries), 4);
        self.common.constants = Span {
            start,
            size: end.0 - start,
        };

        // Code.
        let mut end = end.next_run(plan.code.alignment.max(request.max_page_size));
        let code = end.0;
        self.gather(Gathered::InitCode, &mut gathered, &mut end);
        self.bases[0].code = end.take(plan.code.size, plan.code.alignment).start;
        self.gather(Gathered::FiniCode, &mut gathered, &mut end);
        self.place_orphans(Run::Code, &mut end);
        self.common.trap = end.take(TRAP.len() as u64, 16).start;
        self.common.code = Span {
            start: code,
            size: end.0 - code,
        };

        // Data.
        let mut end = end.next_run(plan.data.alignment.max(request.max_page_size));
        let start = end.0;
        self.place_orphans(Run::Data, &mut end);
        self.bases[0].data = end.take(plan.data.size, plan.data.alignment).start;
        self.common.data = Span {
            start,
            size: end.0 - start,
        };
        if end.0 > SHARED_START.0 {
            return Err(LinkError::ApplicationTooLarge {
                end: end.0,
                limit: SHARED_START.0,
            });
        }
        Ok(())
    }

    /// What of the program is gathered, by kind, in the order of the units.
    fn find_gathered(&self) -> ByKind {
        let mut found = ByKind::default();
        for u in self.included() {
            for (o, s, section) in self.units[u].sections() {
                if let Some(kind) = section.gathered
                    && self.takes(u, o, s)
                {
                    found.entry(kind).or_default().push((u, o, s));
                }
            }
        }
        found
    }

    /// Places the sections of one kind one after the other, in the order of an ordinary link:
    /// by priority (the number at the end of the name), then as ld reads their objects.
    fn gather(&mut self, kind: Gathered, gathered: &mut ByKind, end: &mut Cursor) {
        let of_kind = gathered.remove(&kind).unwrap_or_default().into_iter();
        let in_order = of_kind.map(|(u, o, s)| {
            let name = self.units[u].objects[o].sections[s].name;
            ((priority(name), self.program.order(u, o)), (u, o, s))
        });
        let mut found: Vec<_> = in_order.collect();
        found.sort_by_key(|(order, _)| *order);
        let start = end.take(0, 16).start;
        for (_, at) in found {
            let section = &self.units[at.0].objects[at.1].sections[at.2];
            let address = end.take(section.size, section.alignment).start;
            self.gathered.push((kind, address, at));
            self.gathered_index.insert(at, address);
        }
        self.common.arrays.insert(
            kind,
            Span {
                start,
                size: end.0 - start,
            },
        );
    }

    /// All blocks of thread-local variables lie below the thread pointer: those of libraries at
    /// their registered distances, the application's below the furthest of them. Unless that would leave
    /// more than [`MOST_UNUSED`] of every thread's memory unused, because libraries of other programs lie in
    /// between: then the blocks of the image lie together, at the price of pages of its own.
    fn place_thread_template(&mut self, end: &mut Cursor) {
        let included: Vec<usize> = self
            .included()
            .filter(|unit| self.plans[*unit].thread.size > 0)
            .collect();
        let application = self.plans[0].thread;
        let libraries = || included.iter().copied().filter(|unit| *unit != 0);
        let registered = libraries().map(|u| self.bases[u].thread).max();
        let mut together = 0;
        let distances: Vec<(usize, u64)> = libraries()
            .map(|unit| {
                let thread = self.plans[unit].thread;
                together = (together + thread.size).next_multiple_of(thread.alignment);
                (unit, together)
            })
            .collect();
        let mut furthest = registered.unwrap_or(0);
        if furthest > together + MOST_UNUSED {
            furthest = together;
            for (unit, distance) in distances {
                self.bases[unit].thread = distance;
            }
        }
        if application.size > 0 {
            self.bases[0].thread =
                (furthest + application.size).next_multiple_of(application.alignment);
        }
        let alignments = included.iter().map(|u| self.plans[*u].thread.alignment);
        let least = if self.tables.have_thread_borders() {
            THREAD_POINTER_SIZE
        } else {
            1
        };
        let alignment = alignments.max().unwrap_or(1).max(least);
        let total = included.iter().map(|u| self.bases[*u].thread).max();
        let total = total.unwrap_or(0).next_multiple_of(alignment);
        let stored = included
            .iter()
            .filter(|u| self.plans[**u].thread_stored > 0)
            .map(|u| total - self.bases[*u].thread + self.plans[*u].thread_stored)
            .max();
        self.common.thread_stored = stored.unwrap_or(0);
        self.common.thread_alignment = alignment;
        // Only where it lies: a program's variables are as far from the thread pointer as without it.
        let at = alignment.max(self.tables.thread_start_alignment());
        let start = end.take(self.common.thread_stored, at).start;
        self.common.thread = Span { start, size: total };
    }

    /// Entries of the table by which an unwinder finds the frame of an address; none when nothing
    /// that is linked unwinds.
    fn unwind_entries(&self, request: &LinkRequest) -> u64 {
        let unwinds = self.program.definition("_Unwind_Find_FDE").is_some();
        if !unwinds && !request.unwind_table {
            return 0;
        }
        let of_sections = self
            .included()
            .flat_map(|unit| self.units[unit].sections())
            .filter(|(_, _, section)| section.is_loaded() && section.name == ".eh_frame")
            .map(|(_, _, section)| eh_frame::count_frames(section.bytes));
        let of_detours = self
            .included()
            .map(|unit| self.plans[unit].detour_frame_count());
        of_sections.chain(of_detours).sum()
    }
}

/// Sections that are gathered: unit, object, section.
type ByKind = HashMap<Gathered, Vec<(usize, usize, usize)>>;

/// The next free address.
pub(super) struct Cursor(pub(super) u64);

impl Cursor {
    pub(super) fn take(&mut self, size: u64, alignment: u64) -> Span {
        let start = self.0.next_multiple_of(alignment);
        self.0 = start + size;
        Span { start, size }
    }

    /// The start of the next run of pages.
    fn next_run(&self, alignment: u64) -> Self {
        Self(self.0.next_multiple_of(PAGE_SIZE.max(alignment)))
    }
}

/// Order of constructors: `.init_array.N` by N, then those without a number. `.ctors.N` count
/// backwards.
fn priority(name: &str) -> u32 {
    let number = |prefix: &str| -> Option<u32> { name.strip_prefix(prefix)?.parse().ok() };
    for prefix in [".init_array.", ".fini_array.", ".preinit_array."] {
        if let Some(priority) = number(prefix) {
            return priority.min(65_535);
        }
    }
    for prefix in [".ctors.", ".dtors."] {
        if let Some(priority) = number(prefix) {
            return 65_535u32.saturating_sub(priority);
        }
    }
    65_536
}
