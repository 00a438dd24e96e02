//! Carrying out a plan: reservation, overlays, monitor pages, first page tables.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use pool_core::{PAGE_SIZE, SegmentId, WINDOW_SIZE};
use thiserror::Error;
use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::access::Place;
use super::files::{FileId, Files, Kind};
use super::frames::Frames;
use super::paging::{ACCESSED, DIRTY, NO_EXECUTE, PRESENT, USER, WRITABLE};
use super::reservation::{Overlay, Reservation};
use super::runs::Run;
use super::space::{self, AddressSpace, Area, Refused};
use super::tables::Tables;
use super::{FREE_TABLES, GuestMemory, MemoryCounts, Others};
use crate::plan::{Content, Mapping, Plan, SHARED_BASE, Sharing};
use crate::pool::Segments;
use crate::slide::{self, CannotWrite};

/// Windows in the first memory slot beyond what the image fills: tables, stack and a heap or a mapping.
/// A slot costs 2.5 KiB a MiB in the kernel, a further slot 25 KiB.
const FIRST_SPARE: u64 = 1;

/// So much of an area of zeros in the image comes with it: it is about to be used.
const FIRST_ZEROS: u64 = 32 * PAGE_SIZE;

/// What a page of the monitor's is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorPage {
    /// Tables and a stack of a processor's: CPL 0 writes it.
    Tables,
    /// Code of CPL 0.
    Gates,
    /// Code that CPL 3 may execute.
    Entry,
}

/// How pool pages get into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backing {
    /// Mapped: shared with every other guest.
    Pool,
    /// Copied: private to this guest, as any other VMM would load them.
    Copy,
}

/// Why a plan could not be carried out.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The host refused a mapping.
    #[error("mapping the image's memory: {0}; check vm.max_map_count and memory limits")]
    Map(#[from] io::Error),
    /// The guest's memory limit.
    #[error(transparent)]
    Grow(#[from] super::GrowError),
    /// The image alone reaches a limit.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The addresses of an image that starts elsewhere.
    #[error(transparent)]
    Addresses(#[from] CannotWrite),
    /// A mapping refers to a segment that is not open.
    #[error("segment {0} is not open")]
    Segment(SegmentId),
}

impl GuestMemory {
    /// Lays the plan's pages in and builds the guest's tables. `monitor` holds the first bytes
    /// of the monitor's pages, which come first in RAM, and what may be done with each.
    pub fn build(
        plan: &Plan,
        segments: &Segments,
        backing: Backing,
        monitor: &[(MonitorPage, Vec<u8>)],
    ) -> Result<Self, BuildError> {
        let monitor_pages = monitor.len() as u64 + 1;
        let shared_room = plan.shared_length.next_multiple_of(WINDOW_SIZE);
        let apart = (monitor_pages + FREE_TABLES) * PAGE_SIZE;
        let ram_room = (plan.memory + apart).next_multiple_of(WINDOW_SIZE);
        let ram_room = ram_room.min(SHARED_BASE);
        let reservation = Reservation::new(ram_room + shared_room)?;
        let shared = match plan.shared_length {
            0 => None,
            length => Some(reservation.region(ram_room, length)?),
        };
        let mut frames = Frames::new(ram_room);
        let (first, _) = frames.take_pages(monitor_pages).unwrap_or_default();
        let root = first + monitor.len() as u64 * PAGE_SIZE;
        let mut files = Files::default();
        let ids = keep_segments(plan, segments, &mut files)?;
        let mut memory = Self {
            ram: reservation.region(0, ram_room)?,
            shared,
            reservation,
            space: address_space(plan, &ids)?,
            files,
            windows: BTreeMap::new(),
            tables: Tables::new(root),
            frames,
            limit: plan.memory,
            used: 0,
            overlaid: 0..0,
            committed: 0,
            slots: Vec::new(),
            next_slot: 0,
            flush: false,
            remembered: BTreeMap::new(),
            collect_from: FREE_TABLES,
            last_fault: None,
            revocations: 0,
            others: Others::default(),
            shown: BTreeSet::new(),
            laid: 0,
            held: Vec::new(),
            given: BTreeMap::new(),
            counts: MemoryCounts::default(),
        };
        let image = memory.take_image(plan)?;
        let first_slot = memory.frames.reached() + FIRST_SPARE * WINDOW_SIZE;
        memory.commit_more(first_slot.min(ram_room))?;
        memory.lay_in(plan, segments, backing, &image)?;
        if let Some(slides) = &plan.slides {
            slides.carry_out(&mut memory)?;
        }
        memory.write_monitor(plan, monitor)?;
        memory.fill_tables(plan)?;
        memory.flush = false;
        Ok(memory)
    }

    /// Frames for the image's private pages, one after the other: each piece's frames and the mapping
    /// it is of, with where it begins there.
    fn take_image(&mut self, plan: &Plan) -> Result<Vec<Piece>, BuildError> {
        let mut pieces = Vec::new();
        for (nth, mapping) in plan.mappings.iter().enumerate() {
            let is_filled = mapping.written || mapping.content != Content::Zero;
            if mapping.sharing == Sharing::Shared || !is_filled {
                continue;
            }
            let mut done = 0;
            while done < mapping.length {
                let address = mapping.address.0 + done;
                let window = address & !(WINDOW_SIZE - 1);
                let most = (mapping.length - done).min(window + WINDOW_SIZE - address);
                let taken = self.frames.take_pages(most / PAGE_SIZE);
                let (physical, count) = taken.ok_or(Refused::Limit(self.limit >> 10))?;
                let page = ((address - window) / PAGE_SIZE) as u16;
                self.insert(window, &[Run::at(page, count, physical)]);
                self.used += count;
                let length = count * PAGE_SIZE;
                pieces.push(Piece {
                    mapping: nth,
                    skipped: done,
                    physical,
                    length,
                });
                self.overlaid.end = physical + length;
                done += length;
            }
        }
        self.overlaid.start = pieces
            .first()
            .map_or(self.overlaid.end, |piece| piece.physical);
        Ok(pieces)
    }

    fn lay_in(
        &mut self,
        plan: &Plan,
        segments: &Segments,
        backing: Backing,
        image: &[Piece],
    ) -> Result<(), BuildError> {
        let ram_room = self.ram.size() as u64;
        if plan.shared_length > 0 {
            // Zero pages among the shared ones, or all of them for a private copy.
            let writable = backing == Backing::Copy;
            self.reservation
                .map_anonymous(ram_room, plan.shared_length, writable)?;
        }
        for mapping in &plan.mappings {
            self.counts.add(mapping);
            if mapping.sharing == Sharing::Private {
                continue;
            }
            let offset = ram_room + (mapping.physical - SHARED_BASE);
            match backing {
                Backing::Pool => {
                    self.map_one(
                        mapping,
                        segments,
                        (0, mapping.length),
                        offset,
                        Overlay::Shared,
                    )?;
                }
                Backing::Copy => self.copy_one(plan, mapping, segments, offset)?,
            }
            if mapping.windows && backing == Backing::Pool {
                // Pages that were dropped come back as 2 MiB folios.
                self.reservation.advise_huge(offset, mapping.length)?;
            }
        }
        for piece in image {
            let mapping = &plan.mappings[piece.mapping];
            let part = (piece.skipped, piece.length);
            match backing {
                Backing::Pool if !mapping.written => {
                    self.map_one(mapping, segments, part, piece.physical, Overlay::Private)?;
                }
                Backing::Pool | Backing::Copy => {
                    // Frames are zeros that nothing has been written to.
                    let Content::Segment { segment, offset } = mapping.content else {
                        continue;
                    };
                    let file = segments.get(segment).ok_or(BuildError::Segment(segment))?;
                    let region = self.reservation.region(piece.physical, piece.length)?;
                    fill(file, &region, offset + piece.skipped)?;
                }
            }
        }
        if backing == Backing::Copy {
            // Nothing of a segment lies there.
            self.overlaid = 0..0;
        }
        if plan.shared_length > 0 {
            self.request_slot(SHARED_BASE, ram_room, plan.shared_length, true)?;
        }
        Ok(())
    }

    /// Calls `act` for each part of the `length` bytes at `address` that lies on one page.
    fn each_page(
        &self,
        address: u64,
        length: usize,
        mut act: impl FnMut(VolatileSlice<'_>, Range<usize>),
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let at = address + done as u64;
            let rest = (PAGE_SIZE - at % PAGE_SIZE).min((length - done) as u64);
            let (physical, _) = self.frame_of(at).ok_or(io::ErrorKind::InvalidInput)?;
            let slice = self.slice(Place::Ram(physical), rest);
            act(
                slice.ok_or(io::ErrorKind::InvalidInput)?,
                done..done + rest as usize,
            );
            done += rest as usize;
        }
        Ok(())
    }

    /// Lays `length` bytes of `mapping`, without its first `skipped`, in at `at`.
    fn map_one(
        &mut self,
        mapping: &Mapping,
        segments: &Segments,
        (skipped, length): (u64, u64),
        at: u64,
        overlay: Overlay,
    ) -> Result<(), BuildError> {
        let Content::Segment { segment, offset } = mapping.content else {
            return Ok(());
        };
        let file = segments.get(segment).ok_or(BuildError::Segment(segment))?;
        self.reservation
            .map_segment(at, length, file, offset + skipped, overlay)?;
        if !mapping.windows && length <= WINDOW_SIZE {
            // Were it left to the first touch, the kernel would read what lies around in the segment, on some disks
            // megabytes of it: others' pages, and all charged to this guest.
            self.reservation.read_ahead(at, length);
        }
        self.counts.host_mappings += 1;
        Ok(())
    }

    /// Copies what the image itself has of a mapping, so that a window's unused rest costs the
    /// baseline nothing.
    fn copy_one(
        &mut self,
        plan: &Plan,
        mapping: &Mapping,
        segments: &Segments,
        at: u64,
    ) -> Result<(), BuildError> {
        let Content::Segment { segment, offset } = mapping.content else {
            return Ok(());
        };
        let file = segments.get(segment).ok_or(BuildError::Segment(segment))?;
        for (start, end) in plan.image_parts(mapping) {
            let skipped = start - mapping.address.0;
            let region = self.reservation.region(at + skipped, end - start)?;
            fill(file, &region, offset + skipped)?;
        }
        Ok(())
    }

    fn write_monitor(
        &mut self,
        plan: &Plan,
        pages: &[(MonitorPage, Vec<u8>)],
    ) -> Result<(), BuildError> {
        self.take_tables()?;
        for (at, (kind, page)) in pages.iter().enumerate() {
            let protection = match kind {
                MonitorPage::Tables => WRITABLE | NO_EXECUTE,
                MonitorPage::Gates => 0,
                MonitorPage::Entry => USER,
            };
            let physical = at as u64 * PAGE_SIZE;
            let slice = self.slice(Place::Ram(physical), PAGE_SIZE);
            slice
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?
                .copy_from(page);
            self.tables.map_monitor(
                &self.ram,
                plan.rooms.monitor.0 + physical,
                physical | PRESENT | ACCESSED | DIRTY | protection,
            )?;
        }
        Ok(())
    }

    /// Shows the guest a page at `address`, in the monitor's window, whose guest physical address is
    /// `physical`: to read, and to execute if it may.
    pub fn map_host_page(
        &mut self,
        address: u64,
        physical: u64,
        executable: bool,
    ) -> io::Result<()> {
        let protection = if executable { USER } else { USER | NO_EXECUTE };
        let entry = physical | PRESENT | ACCESSED | DIRTY | protection;
        self.tables.map_monitor(&self.ram, address, entry)
    }

    /// Page tables of everything that the image maps.
    fn fill_tables(&mut self, plan: &Plan) -> Result<(), BuildError> {
        let mut filled = None;
        for mapping in &plan.mappings {
            let zeros = mapping.content == Content::Zero && mapping.sharing == Sharing::Private;
            if zeros && !mapping.written {
                let end = mapping.end().min(mapping.address.0 + FIRST_ZEROS);
                self.open_early(mapping.address.0, end)?;
                continue;
            }
            let mut window = mapping.address.window().0;
            while window < mapping.end() {
                if filled != Some(window) {
                    self.map_window(window)?;
                    filled = Some(window);
                }
                window += WINDOW_SIZE;
            }
        }
        Ok(())
    }
}

impl slide::Memory for GuestMemory {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.each_page(address, bytes.len(), |slice, part| {
            slice.copy_to(&mut bytes[part]);
        })
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.each_page(address, bytes.len(), |slice, part| {
            slice.copy_from(&bytes[part]);
        })
    }
}

/// Frames of a part of the image's private pages.
#[derive(Debug)]
struct Piece {
    /// Which mapping of the plan, and what of it lies before the part.
    mapping: usize,
    skipped: u64,
    physical: u64,
    length: u64,
}

/// Fills the whole of `region` from `offset` of `file`.
fn fill(file: BorrowedFd<'_>, region: &MmapRegion, offset: u64) -> io::Result<()> {
    let whole = region
        .get_slice(0, region.size())
        .map_err(io::Error::other)?;
    let mut done = 0;
    while done < region.size() {
        let rest = whole.offset(done).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most the bytes of `rest`, which the region vouches for.
        let moved = unsafe {
            libc::pread(
                file.as_raw_fd(),
                rest.ptr_guard_mut().as_ptr().cast(),
                rest.len(),
                (offset + done as u64) as libc::off_t,
            )
        };
        match usize::try_from(moved) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => done += moved,
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

/// Keeps the segments of private pages open, so that the pages can be had again.
fn keep_segments(
    plan: &Plan,
    segments: &Segments,
    files: &mut Files,
) -> Result<BTreeMap<SegmentId, FileId>, BuildError> {
    let mut ends: BTreeMap<SegmentId, u64> = BTreeMap::new();
    for mapping in &plan.mappings {
        if let (Sharing::Private, Content::Segment { segment, offset }) =
            (mapping.sharing, mapping.content)
            && !mapping.written
        {
            let end = ends.entry(segment).or_default();
            *end = (*end).max(offset + mapping.length);
        }
    }
    let mut ids = BTreeMap::new();
    for (segment, end) in ends {
        let file = segments.get(segment).ok_or(BuildError::Segment(segment))?;
        ids.insert(segment, files.keep(file, 0, end, Kind::Segment)?);
    }
    Ok(ids)
}

/// The guest's address space before its first instruction: the image and the stack.
fn address_space(
    plan: &Plan,
    files: &BTreeMap<SegmentId, FileId>,
) -> Result<AddressSpace, BuildError> {
    let rooms = plan.rooms;
    let mut space = AddressSpace::new(rooms);
    for mapping in &plan.mappings {
        let backing = match (mapping.sharing, mapping.content) {
            (Sharing::Shared, _) => space::Backing::Shared {
                physical: mapping.physical,
            },
            // What was written is nowhere else.
            (Sharing::Private, _) if mapping.written => space::Backing::Private,
            (Sharing::Private, Content::Segment { segment, offset }) => space::Backing::File {
                file: *files.get(&segment).ok_or(BuildError::Segment(segment))?,
                offset,
            },
            (Sharing::Private, Content::Zero) => space::Backing::Private,
        };
        let area = Area {
            end: mapping.end(),
            protection: mapping.protection,
            backing,
        };
        space.map(mapping.address.0, area)?;
    }
    let stack = Area::anonymous(rooms.stack_high.0, plan.stack_protection());
    space.map(rooms.stack_low.0, stack)?;
    Ok(space)
}

impl MemoryCounts {
    /// Counts the pages of a planned mapping.
    pub(crate) fn add(&mut self, mapping: &Mapping) {
        let pages = mapping.length / PAGE_SIZE;
        match (mapping.sharing, mapping.content) {
            _ if mapping.written => self.written_pages += pages,
            (_, Content::Zero) => self.zero_pages += pages,
            (Sharing::Private, _) => self.private_pages += pages,
            (Sharing::Shared, _) if mapping.windows => {
                self.shared_windows += mapping.length / WINDOW_SIZE;
            }
            (Sharing::Shared, _) => self.shared_pages += pages,
        }
    }
}
