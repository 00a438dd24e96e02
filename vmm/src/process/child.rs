//! The child's side: from a copy of this program to the guest.

use std::ffi::CString;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;

use pool_core::WINDOW_SIZE;
use pool_core::address::Protection;

use super::system::{self, Behind};
use super::{FAILED, Guest, READY, Secrets, leave};
use crate::linux::start::Stack;
use crate::memory::Backing;
use crate::plan::{Content, Mapping, Sharing};
use crate::sandbox::Confinement;
use crate::slide::{self, CannotWrite};
use crate::stamp::Stamp;
use crate::vdso::Moved;
use crate::world::{World, small};

/// What becomes the guest.
pub(super) struct Child<'a> {
    pub(super) guest: &'a Guest<'a>,
    pub(super) stack: &'a Stack,
    pub(super) vdso: Option<&'a Moved>,
    pub(super) secrets: Secrets,
    /// The monitor counts what the guest takes.
    pub(super) counted: bool,
}

impl Child<'_> {
    /// Prepares, waits for the parent, and becomes the guest; or tells the parent why not and ends.
    pub(super) fn become_guest(&self, mut go: PipeReader, mut to_parent: PipeWriter) -> ! {
        let prepared = self.prepare(&mut to_parent);
        let ready = prepared.and_then(|()| {
            let mut word = [0];
            go.read_exact(&mut word)
                .map_err(|error| format!("waiting for the parent: {error}"))?;
            let now = Stamp::by_call().0.to_le_bytes();
            to_parent
                .write_all(&now)
                .map_err(|error| format!("telling the parent: {error}"))
        });
        if let Err(why) = ready {
            let _ = to_parent.write_all(&[&[FAILED], why.as_bytes()].concat());
            std::process::exit(1);
        }
        // SAFETY: nothing of this program runs after the jump, so no descriptor is used again; `map_all`
        // mapped the plan and filled its stack, and `map_leave` the code.
        unsafe {
            system::close_all();
            system::jump(self.guest.plan.rooms.monitor.0, self.secrets.leaving)
        }
    }

    fn prepare(&self, to_parent: &mut PipeWriter) -> Result<(), String> {
        let Self {
            guest, stack, vdso, ..
        } = *self;
        system::forget_program().map_err(|error| format!("resetting signals: {error}"))?;
        let name = guest.start.arguments.first().map_or(&[][..], Vec::as_slice);
        let cut = CString::new(small::program(name)).unwrap_or_default();
        rustix::thread::set_name(&cut)
            .map_err(|error| format!("naming the guest's thread: {error}"))?;
        map_all(guest, stack)?;
        map_leave(guest, stack, vdso)
            .map_err(|error| format!("mapping the way out of poolvmm: {error}"))?;
        let mapped = Stamp::now().0.to_le_bytes();
        let world = if guest.has_world() {
            let number = rustix::process::getpid().as_raw_nonzero().get();
            let memory = guest.plan.memory;
            let world = World::enter(guest.grants, guest.network, memory, number, name);
            Some(world.map_err(|error| error.to_string())?)
        } else {
            // Where poolvmm was started is not the guest's business.
            rustix::process::chdir("/").map_err(|error| format!("entering /: {error}"))?;
            None
        };
        describe(guest, stack).map_err(|error| {
            format!(
                "giving the guest a heap of its own: {error}; it takes a kernel with \
             CONFIG_CHECKPOINT_RESTORE, or use --platform kvm"
            )
        })?;
        if let Some(vdso) = vdso {
            system::move_vdso(vdso).map_err(|error| {
            format!(
                "giving the guest the kernel's vdso: {error}; does the kernel seal system mappings? Use \
                 --platform kvm"
            )
        })?;
        }
        let listener = Confinement::prepare(world.as_ref(), guest.network, guest.limits)
            .and_then(|confinement| confinement.enter_guest(self.secrets.waiting, self.counted))
            .map_err(|error| error.to_string())?;
        // The parent takes it before it is closed, with all others.
        let listener = listener.map_or(-1, IntoRawFd::into_raw_fd).to_le_bytes();
        let places = world.map_or_else(Vec::new, |world| world.layout().places.bytes());
        to_parent
            .write_all(&[&[READY], &mapped[..], &listener, &places].concat())
            .map_err(|error| format!("telling the parent: {error}"))
    }
}

fn map_all(guest: &Guest<'_>, stack: &Stack) -> Result<(), String> {
    for mapping in &guest.plan.mappings {
        let done = match guest.backing {
            _ if mapping.written => copy(guest, mapping),
            Backing::Pool => map_shared(guest, mapping),
            Backing::Copy => copy(guest, mapping).and_then(|()| protect(mapping)),
        };
        done.map_err(|error| {
            format!(
                "mapping {} bytes at the image's address {}: {error}; \
                 if it is in use, --platform kvm has the whole address space",
                mapping.length, mapping.address
            )
        })?;
    }
    write_addresses(guest).map_err(|error| error.to_string())?;
    let rooms = guest.plan.rooms;
    let length = rooms.stack_high.0 - rooms.stack_low.0;
    let protection = bits(guest.plan.stack_protection());
    system::map_at(rooms.stack_low.0, length, protection, Behind::Nothing)
        .map_err(|error| format!("mapping the stack: {error}"))?;
    // SAFETY: the stack was just mapped, and its bytes end where it ends.
    let top = unsafe { system::bytes(stack.pointer, stack.bytes.len() as u64) };
    top.copy_from_slice(&stack.bytes);
    Ok(())
}

fn map_shared(guest: &Guest<'_>, mapping: &Mapping) -> std::io::Result<()> {
    let behind = match mapping.content {
        Content::Zero => Behind::Nothing,
        Content::Segment { segment, offset } => {
            let file = guest
                .segments
                .get(segment)
                .ok_or(std::io::ErrorKind::NotFound)?;
            match mapping.sharing {
                Sharing::Shared => Behind::Shared(file, offset),
                Sharing::Private => Behind::Private(file, offset),
            }
        }
    };
    let protection = bits(mapping.protection);
    system::map_at(mapping.address.0, mapping.length, protection, behind)?;
    let advice = match mapping.content {
        _ if mapping.windows => libc::MADV_HUGEPAGE,
        // As under KVM: else the first touch would read what lies around in the segment.
        Content::Segment { .. } if mapping.length <= WINDOW_SIZE => libc::MADV_WILLNEED,
        _ => return Ok(()),
    };
    // SAFETY: just mapped; neither takes content.
    unsafe { system::advise(mapping.address.0, mapping.length, advice) };
    Ok(())
}

/// Writes the addresses of an image that starts elsewhere than it was linked, and protects their pages.
fn write_addresses(guest: &Guest<'_>) -> Result<(), CannotWrite> {
    if let Some(slides) = &guest.plan.slides {
        slides.carry_out(&mut Copies)?;
    }
    let written = guest.plan.mappings.iter().filter(|mapping| mapping.written);
    written
        .map(protect)
        .try_for_each(|done| done.map_err(Into::into))
}

/// What [`copy`] mapped: of what is written, `Slides::pages` has all pages.
struct Copies;

impl slide::Memory for Copies {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        // SAFETY: mapped by `copy` and writable; no other view of it exists.
        bytes.copy_from_slice(unsafe { system::bytes(address, bytes.len() as u64) });
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> std::io::Result<()> {
        // SAFETY: as above.
        unsafe { system::bytes(address, bytes.len() as u64) }.copy_from_slice(bytes);
        Ok(())
    }
}

/// Maps a copy, writable for now.
fn copy(guest: &Guest<'_>, mapping: &Mapping) -> std::io::Result<()> {
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    system::map_at(mapping.address.0, mapping.length, writable, Behind::Nothing)?;
    if let Content::Segment { segment, offset } = mapping.content {
        let file = guest
            .segments
            .file(segment)
            .ok_or(std::io::ErrorKind::NotFound)?;
        for (start, end) in guest.plan.image_parts(mapping) {
            // SAFETY: part of what was just mapped, writable.
            let part = unsafe { system::bytes(start, end - start) };
            file.read_exact_at(part, offset + (start - mapping.address.0))?;
        }
    }
    Ok(())
}

/// Lets the guest do with a copy what it may.
fn protect(mapping: &Mapping) -> std::io::Result<()> {
    // SAFETY: mapped by `copy`, and no view of it is left.
    unsafe { system::protect(mapping.address.0, mapping.length, bits(mapping.protection)) }
}

fn bits(protection: Protection) -> i32 {
    let bit = |allowed, bit| if allowed { bit } else { 0 };
    bit(protection.read, libc::PROT_READ)
        | bit(protection.write, libc::PROT_WRITE)
        | bit(protection.execute, libc::PROT_EXEC)
}

/// Maps the code that [`super::leave`] makes: the last that runs before the guest.
fn map_leave(guest: &Guest<'_>, stack: &Stack, vdso: Option<&Moved>) -> std::io::Result<()> {
    let page = leave::page(guest.plan, stack.pointer, vdso);
    let (address, length) = (guest.plan.rooms.monitor.0, page.len() as u64);
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    system::map_at(address, length, writable, Behind::Nothing)?;
    // SAFETY: just mapped, writable.
    unsafe { system::bytes(address, length) }.copy_from_slice(&page);
    // SAFETY: just mapped, and no view of it is left.
    unsafe { system::protect(address, length, libc::PROT_READ | libc::PROT_EXEC) }
}

/// Tells the kernel where the guest's heap begins, and what `ps` shows: the guest's arguments.
fn describe(guest: &Guest<'_>, stack: &Stack) -> std::io::Result<()> {
    let plan = guest.plan;
    let ends = |range: &std::ops::Range<u64>| [range.start, range.end];
    let heap = plan.rooms.heap.0;
    let entry = plan.entry.0;
    let text = plan
        .mappings
        .iter()
        .find(|m| (m.address.0..m.end()).contains(&entry));
    system::describe(&system::Parts {
        code: text.map_or([entry, entry + 1], |m| [m.address.0, m.end()]),
        // The kernel counts it against the limit for data, where the plan's mappings count already.
        data: [heap, heap],
        heap: [heap, heap],
        stack: stack.pointer,
        arguments: ends(&stack.arguments),
        environment: ends(&stack.environment),
        auxiliary: stack.auxiliary.start,
        auxiliary_length: (stack.auxiliary.end - stack.auxiliary.start) as u32,
        executable: system::SAME_EXECUTABLE,
    })
}
