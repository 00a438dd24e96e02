//! Carrying out a plan: reservation, overlays, monitor pages, first page tables.

use std::collections::BTreeMap;
use std::io;

use pool_core::{PAGE_SIZE, SegmentId, WINDOW_SIZE};
use thiserror::Error;

use super::access::Place;
use super::frames::{Backed, Frames};
use super::paging::{NO_EXECUTE, PRESENT, USED, USER, WRITABLE};
use super::reservation::{Overlay, Reservation};
use super::space::{self, AddressSpace, Area, Refused};
use super::tables::Tables;
use super::windows::most_windows;
use super::{GuestMemory, MemoryCounts, transfer};
use crate::plan::{Content, Mapping, Plan, SHARED_BASE, Sharing};
use crate::pool::Segments;

/// Windows in the first memory slot beyond what the image needs: pages of the stack and of a
/// heap or a mapping. A slot costs 2.5 KiB a MiB in the kernel, a further slot 25 KiB.
const FIRST_SPARE: u64 = 2;

/// Pages at the start of RAM window 0 that are the monitor's.
const MONITOR_PAGES: usize = 3;

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
    /// A mapping refers to a segment that is not open.
    #[error("segment {0} is not open")]
    Segment(SegmentId),
}

impl GuestMemory {
    /// Lays the plan's pages in and builds the guest's tables. `monitor` holds the first bytes
    /// of the monitor's pages: the tables and the gates, for CPL 0 alone, then the entry code,
    /// which CPL 3 may execute.
    pub fn build(
        plan: &Plan,
        segments: &Segments,
        backing: Backing,
        monitor: [&[u8]; MONITOR_PAGES],
    ) -> Result<Self, BuildError> {
        let shared_room = plan.shared_length.next_multiple_of(WINDOW_SIZE);
        let first_windows = plan.private_windows.len() as u64 + 1;
        let ram_room = (first_windows + most_windows(plan.memory)) * WINDOW_SIZE;
        let ram_room = ram_room.min(SHARED_BASE);
        let reservation = Reservation::new(ram_room + shared_room)?;
        let shared = match plan.shared_length {
            0 => None,
            length => Some(reservation.region(ram_room, length)?),
        };
        let mut memory = Self {
            ram: reservation.region(0, ram_room)?,
            shared,
            reservation,
            space: address_space(plan, backing)?,
            windows: BTreeMap::new(),
            tables: Tables::new(MONITOR_PAGES as u64 * PAGE_SIZE),
            frames: Frames::new(first_windows * WINDOW_SIZE, ram_room),
            committed: 0,
            slots: Vec::new(),
            next_slot: 0,
            flush: false,
            last_fault: None,
            counts: MemoryCounts::default(),
        };
        memory.commit_more((first_windows + FIRST_SPARE) * WINDOW_SIZE)?;
        memory.lay_in(plan, segments, backing, ram_room)?;
        memory.write_monitor(plan, monitor)?;
        memory.fill_tables(plan)?;
        memory.flush = false;
        Ok(memory)
    }

    fn lay_in(
        &mut self,
        plan: &Plan,
        segments: &Segments,
        backing: Backing,
        ram_room: u64,
    ) -> Result<(), BuildError> {
        if plan.shared_length > 0 {
            // Zero pages among the shared ones, or all of them for a private copy.
            let writable = backing == Backing::Copy;
            self.reservation
                .map_anonymous(ram_room, plan.shared_length, writable)?;
        }
        for mapping in &plan.mappings {
            let offset = match mapping.sharing {
                Sharing::Shared => ram_room + (mapping.physical - SHARED_BASE),
                Sharing::Private => mapping.physical,
            };
            match backing {
                Backing::Pool => self.map_one(mapping, segments, offset)?,
                Backing::Copy => self.copy_one(plan, mapping, segments, offset)?,
            }
            self.counts.add(mapping);
        }
        if plan.shared_length > 0 {
            self.request_slot(SHARED_BASE, ram_room, plan.shared_length, true)?;
        }
        Ok(())
    }

    fn map_one(
        &mut self,
        mapping: &Mapping,
        segments: &Segments,
        at: u64,
    ) -> Result<(), BuildError> {
        let Content::Segment { segment, offset } = mapping.content else {
            return Ok(());
        };
        let file = segments.get(segment).ok_or(BuildError::Segment(segment))?;
        let overlay = match mapping.sharing {
            Sharing::Shared => Overlay::Shared,
            Sharing::Private => Overlay::Private,
        };
        self.reservation
            .map_segment(at, mapping.length, file, offset, overlay)?;
        if mapping.windows {
            // Pages that were dropped come back as 2 MiB folios.
            self.reservation.advise_huge(at, mapping.length)?;
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
            transfer::fill(file, &region, offset + skipped)?;
        }
        Ok(())
    }

    fn write_monitor(
        &mut self,
        plan: &Plan,
        pages: [&[u8]; MONITOR_PAGES],
    ) -> Result<(), BuildError> {
        let protections = [WRITABLE | NO_EXECUTE, 0, USER];
        for (at, (page, protection)) in pages.into_iter().zip(protections).enumerate() {
            let physical = at as u64 * PAGE_SIZE;
            let slice = self.slice(Place::Ram(physical), PAGE_SIZE);
            slice
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?
                .copy_from(page);
            self.tables.map_monitor(
                &self.ram,
                plan.rooms.monitor.0 + physical,
                physical | PRESENT | USED | protection,
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
        let entry = physical | PRESENT | USED | protection;
        self.tables.map_monitor(&self.ram, address, entry)
    }

    /// Page tables of everything that the image maps.
    fn fill_tables(&mut self, plan: &Plan) -> Result<(), BuildError> {
        for (at, window) in (1..).zip(&plan.private_windows) {
            self.windows.entry(window.0).or_default().backed = Backed::Window {
                ram: at * WINDOW_SIZE,
                image: true,
                huge: false,
            };
        }
        let mut filled = None;
        for mapping in &plan.mappings {
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

/// The guest's address space before its first instruction: the image and the stack.
fn address_space(plan: &Plan, laid_in: Backing) -> Result<AddressSpace, Refused> {
    let rooms = plan.rooms;
    let mut space = AddressSpace::new(rooms, plan.memory);
    space.pin_tables(rooms.monitor.0, rooms.monitor.0 + PAGE_SIZE);
    for mapping in &plan.mappings {
        let backing = match mapping.sharing {
            Sharing::Shared => {
                space.pin_tables(mapping.address.0, mapping.end());
                space::Backing::Shared {
                    physical: mapping.physical,
                }
            }
            Sharing::Private => space::Backing::Private,
        };
        let content = matches!(mapping.content, Content::Segment { .. });
        let area = Area {
            end: mapping.end(),
            protection: mapping.protection,
            backing,
            copied: laid_in == Backing::Copy && content && backing == space::Backing::Private,
        };
        space.map(mapping.address.0, area)?;
    }
    let stack = Area {
        end: rooms.stack_high.0,
        protection: plan.stack_protection(),
        backing: space::Backing::Growing,
        copied: false,
    };
    space.map(rooms.stack_low.0, stack)?;
    Ok(space)
}

impl MemoryCounts {
    /// Counts the pages of a planned mapping.
    pub(crate) fn add(&mut self, mapping: &Mapping) {
        let pages = mapping.length / PAGE_SIZE;
        match (mapping.sharing, mapping.content) {
            (_, Content::Zero) => self.zero_pages += pages,
            (Sharing::Private, _) => self.private_pages += pages,
            (Sharing::Shared, _) if mapping.windows => {
                self.shared_windows += mapping.length / WINDOW_SIZE;
            }
            (Sharing::Shared, _) => self.shared_pages += pages,
        }
    }
}
