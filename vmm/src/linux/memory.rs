//! Calls about memory: `brk`, `mmap`, `munmap`, `mremap`, `mprotect`.
//!
//! As under Linux's heuristic overcommit, what is mapped costs nothing until it is touched, and only a
//! call that asks for absurdly much at once fails for its size ([`affordable`]). `--memory` bounds what is
//! touched: beyond it the guest ends, as a process does whose cgroup is out of memory; a call that would
//! touch memory on its behalf fails with `ENOMEM`.

use pool_core::PAGE_SIZE;
use pool_core::address::{Protection, USER_ADDRESS_END};
use rustix::io::Errno;

use super::limits::{ADDRESSES, DATA};
use super::{Arguments, Heap, Linux, Remap, Served, host};
use crate::memory::GrowError;
use crate::memory::space::{Area, Backing};
use crate::plan::most_at_once;

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_32BIT: u64 = 0x40;
const MAP_LOCKED: u64 = 0x2000;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_POPULATE: u64 = 0x8000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
/// With `MAP_SHARED_VALIDATE` other flags are refused: `LEGACY_MAP_MASK` of the kernel.
const VALIDATED: u64 = MAP_TYPE
    | MAP_FIXED
    | MAP_32BIT
    | MAP_LOCKED
    | MAP_NORESERVE
    | MAP_POPULATE
    | MAP_FIXED_NOREPLACE
    // GROWSDOWN, DENYWRITE, EXECUTABLE, NONBLOCK, STACK, HUGETLB.
    | 0x7_1900;

const PROT_WRITE: u64 = 2;
const PROT_ALL: u64 = 7;
/// It may hold semaphores: nothing on x86-64.
const PROT_SEM: u64 = 8;
const PROT_GROWSDOWN: u64 = 0x0100_0000;
const PROT_GROWSUP: u64 = 0x0200_0000;

/// `start..end` of the pages that `length` bytes at `start` take, as the kernel computes it: `length` may wrap
/// to nothing. `start` must be a page's.
pub(super) fn pages(start: u64, length: u64) -> Result<(u64, Option<u64>), Errno> {
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL);
    }
    Ok((start, start.checked_add(aligned(length))))
}

/// `length` up to whole pages, as the kernel has it: nothing if that is too much for a number.
pub(crate) fn aligned(length: u64) -> u64 {
    length.checked_next_multiple_of(PAGE_SIZE).unwrap_or(0)
}

fn protection(bits: u64) -> Protection {
    // On x86-64 writable memory can always be read, and executable memory too.
    Protection {
        read: bits & PROT_ALL != 0,
        write: bits & PROT_WRITE != 0,
        execute: bits & 4 != 0,
    }
}

/// Refuses what no guest of this size could mean to use ([`most_at_once`]). Programs that reserve and those
/// that ask not to be counted may have more.
fn affordable(linux: &Linux, length: u64, bits: u64, flags: u64) -> Result<(), Errno> {
    let most = most_at_once(linux.memory.limit());
    if bits & PROT_ALL == 0 || flags & MAP_NORESERVE != 0 || length <= most {
        Ok(())
    } else {
        Err(Errno::NOMEM)
    }
}

/// Fails if the guest would have mapped more than its own limits let it: so many bytes more in all
/// (`RLIMIT_AS`), and so many that are private and writable (`RLIMIT_DATA`).
fn within_limits(linux: &Linux, all: Option<u64>, data: Option<u64>) -> Result<(), Errno> {
    let (space, limits) = (linux.memory.space(), &linux.limits);
    let fits = |had: u64, more: Option<u64>, most: u64| {
        more.is_none_or(|more| had + more <= most & !(PAGE_SIZE - 1))
    };
    let (soft, hard) = (limits.soft(DATA), limits.hard(DATA));
    // Linux has it so that no data at all means what can be had at most (mm/mmap.c, for Valgrind).
    let most = if soft == 0 { hard } else { soft };
    if fits(space.mapped(), all, limits.soft(ADDRESSES)) && fits(space.data(), data, most) {
        Ok(())
    } else {
        Err(Errno::NOMEM)
    }
}

/// `brk`: moves the end of the heap; the old end is the answer to anything impossible.
pub(super) fn brk(linux: &mut Linux, [wanted, ..]: Arguments) -> Served {
    let space = linux.memory.space();
    let (rooms, current) = (*space.rooms(), space.heap_end());
    let start = rooms.heap.0;
    if wanted < start
        || wanted > USER_ADDRESS_END - PAGE_SIZE
        || Heap::exceeds(linux.limits.soft(DATA), start, wanted)
    {
        return Ok(current);
    }
    let done = match Heap::change(current, wanted) {
        Heap::Stays => Ok(()),
        Heap::Grows { from, to } => {
            // A page stays free behind it.
            let free = space.is_free(from, to + PAGE_SIZE) && to <= rooms.mmap_top.0;
            let growth = to - from;
            let granted = affordable(linux, growth, 1, 0).and(within_limits(
                linux,
                Some(growth),
                Some(growth),
            ));
            if !free || granted.is_err() {
                return Ok(current);
            }
            let writable = Protection::READ_WRITE;
            linux.memory.map_zero(from, growth, writable)
        }
        // What was unmapped otherwise is no heap's to lose.
        Heap::Shrinks { from, to } if space.over(from, to).next().is_none() => return Ok(current),
        Heap::Shrinks { from, to } => linux.memory.unmap(from, to),
    };
    match done {
        Err(GrowError::Refused(_)) => return Ok(current),
        done => done?,
    }
    linux.memory.set_heap_end(wanted);
    Ok(wanted)
}

/// `mmap`: anonymous memory, or a file's pages. Private ones are as the file is when they are first touched (POSIX
/// leaves open whether later changes of it are seen).
///
/// A shared mapping is the file's own pages; of what is no regular file, there is `/dev/zero` alone. An area that
/// would grow does not, and pages of the host's reserve are plain ones.
pub(super) fn mmap(
    linux: &mut Linux,
    [address, length, bits, flags, fd, offset]: Arguments,
) -> Served {
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL.into());
    }
    let anonymous = flags & MAP_ANONYMOUS != 0;
    if !anonymous {
        linux.open_file(fd)?;
    }
    let length = match (length, aligned(length)) {
        (0, _) => return Err(Errno::INVAL.into()),
        (_, length @ 1..=USER_ADDRESS_END) => length,
        _ => return Err(Errno::NOMEM.into()),
    };
    if !linux.memory.space().has_room_to_map() {
        return Err(Errno::NOMEM.into());
    }
    let start = place(linux, address, length, flags)?;
    let protection = protection(bits);
    let (mut anonymous, mut writable) = (anonymous, false);
    let backing = match (flags & MAP_TYPE, anonymous) {
        (MAP_PRIVATE, _) => Backing::Private,
        (MAP_SHARED, true) => Backing::Kept,
        (MAP_SHARED_VALIDATE, false) if flags & !VALIDATED != 0 => {
            return Err(Errno::OPNOTSUPP.into());
        }
        (MAP_SHARED | MAP_SHARED_VALIDATE, false) => {
            let file = linux.descriptor(fd)?;
            writable = host::is_writable(file)?;
            if protection.write && !writable {
                return Err(Errno::ACCESS.into());
            }
            anonymous = host::is_zeros(file)?;
            Backing::Kept
        }
        _ => return Err(Errno::INVAL.into()),
    };
    affordable(linux, length, bits, flags)?;
    let replaced = linux.memory.space().mapped_in(start, start + length);
    let more = length - replaced;
    let data = protection.write && flags & MAP_TYPE == MAP_PRIVATE;
    within_limits(linux, Some(more), data.then_some(more))?;
    if anonymous {
        let area = Area {
            end: start + length,
            protection,
            backing,
        };
        linux.memory.map_anonymous(start, area)?;
    } else {
        let file = host::borrow(linux.descriptor(fd)?);
        let memory = &mut linux.memory;
        match backing {
            Backing::Private => memory.map_file(start, length, protection, file, offset)?,
            _ => memory.map_shared(start, length, protection, file, offset, writable)?,
        }
    }
    if flags & (MAP_POPULATE | MAP_LOCKED) != 0 {
        match linux.memory.populate(start, start + length, None) {
            // As far as it goes: Linux does not fail for it either.
            Ok(_) | Err(GrowError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(start)
}

fn place(linux: &Linux, address: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    let space = linux.memory.space();
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        let end = address.checked_add(length);
        let end = end
            .filter(|&end| end <= USER_ADDRESS_END)
            .ok_or(Errno::NOMEM)?;
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        if address < PAGE_SIZE || space.is_monitors(address, end) {
            return Err(Errno::PERM);
        }
        if flags & MAP_FIXED_NOREPLACE != 0 && space.over(address, end).next().is_some() {
            return Err(Errno::EXIST);
        }
        return Ok(address);
    }
    let hint = address & !(PAGE_SIZE - 1);
    match hint.checked_add(length) {
        Some(end) if hint != 0 && space.is_free(hint, end) => Ok(hint),
        _ => {
            let found = space.find_gap(length).ok_or(Errno::NOMEM)?;
            let low = found + length <= 1 << 31;
            if flags & MAP_32BIT != 0 && !low {
                return Err(Errno::NOMEM);
            }
            Ok(found)
        }
    }
}

/// `munmap`.
pub(super) fn munmap(linux: &mut Linux, [address, length, ..]: Arguments) -> Served {
    match pages(address, length)? {
        (start, Some(end)) if start < end && end <= USER_ADDRESS_END => {
            linux.memory.unmap(start, end)?;
            Ok(0)
        }
        _ => Err(Errno::INVAL.into()),
    }
}

/// `mprotect`. The stack is the one area that grows, if only by name: all of it is there.
pub(super) fn mprotect(linux: &mut Linux, [address, length, bits, ..]: Arguments) -> Served {
    const GROWS: u64 = PROT_GROWSDOWN | PROT_GROWSUP;
    if bits & GROWS == GROWS {
        return Err(Errno::INVAL.into());
    }
    let (mut start, end) = pages(address, length)?;
    if length == 0 {
        return Ok(0);
    }
    let end = end.filter(|&end| end > start).ok_or(Errno::NOMEM)?;
    if bits & !(PROT_ALL | PROT_SEM | GROWS) != 0 {
        return Err(Errno::INVAL.into());
    }
    if bits & GROWS != 0 {
        let space = linux.memory.space();
        let (at, _) = space.over(start, end).next().ok_or(Errno::NOMEM)?;
        if bits & PROT_GROWSUP != 0
            || at < space.rooms().stack_low.0
            || at >= space.rooms().stack_high.0
        {
            return Err(Errno::INVAL.into());
        }
        start = at;
    }
    let until = match bits & PROT_WRITE {
        0 => end,
        _ => writable_until(linux, start, end),
    };
    linux.memory.protect(start, until, protection(bits))??;
    if until < end {
        return Err(Errno::NOMEM.into());
    }
    Ok(0)
}

/// As far as `start..end` may become writable within the guest's own limits, which are asked area by area (`mprotect_fixup`,
/// mm/mprotect.c).
fn writable_until(linux: &Linux, start: u64, end: u64) -> u64 {
    let space = linux.memory.space();
    let mut data = 0;
    for (at, area) in space.over(start, end) {
        let at = at.max(start);
        let more = space.data_if_writable(at, area.end.min(end));
        data += more;
        if more > 0 && within_limits(linux, None, Some(data)).is_err() {
            return at;
        }
    }
    end
}

/// `mremap`: shrinks, grows in place, or moves whatever is mapped. Several areas move at once as
/// they are, with the gaps between them (Linux 6.17). `MREMAP_DONTUNMAP` is not served, memory that is shared
/// by name is not had twice, and pages of the image stay where they are.
pub(super) fn mremap(linux: &mut Linux, arguments: Arguments) -> Served {
    let remap = Remap::of(arguments)?;
    let Remap {
        old,
        old_length,
        new_length,
        ..
    } = remap;
    let space = linux.memory.space();
    if remap.fixed.is_some() && !space.has_room_to_replace() {
        return Err(Errno::NOMEM.into());
    }
    let (_, area) = space.find(old).ok_or(Errno::FAULT)?;
    if remap.shrinks_in_place() {
        return shrink(linux, (old, old_length), new_length);
    }
    if old_length == 0 {
        return Err(Errno::INVAL.into());
    }
    // Of however many areas the rest is that goes: what is moved is of one then (`check_prep_vma`, mm/mremap.c).
    let shrinks = new_length < old_length;
    let moved = old_length.min(new_length);
    let old_end = old.checked_add(moved).ok_or(Errno::FAULT)?;
    let several = area.end < old_end;
    if several && (remap.fixed.is_none() || new_length != old_length) {
        return Err(Errno::FAULT.into());
    }
    if linux.memory.shows_pool(old, old_end) {
        return Err(Errno::FAULT.into());
    }
    let more = remap.growth();
    if more > 0 {
        affordable(linux, more, area.accessible().into(), 0)?;
        let private = matches!(area.backing, Backing::Private | Backing::File { .. });
        let data = private && area.protection.write;
        within_limits(linux, Some(more), data.then_some(more))?;
    }
    if remap.fixed.is_none() && linux.memory.space().is_free(old_end, old + new_length) {
        linux.memory.extend(old, old_end, old + new_length)?;
        return Ok(old);
    }
    if !remap.may_move {
        return Err(Errno::NOMEM.into());
    }
    let target = match remap.fixed {
        Some(new) => place(linux, new, new_length, MAP_FIXED)?,
        None => place(linux, 0, new_length, 0)?,
    };
    if !linux.memory.space().has_room_to_move() {
        return Err(Errno::NOMEM.into());
    }
    if shrinks {
        // As in Linux, what lay there is gone, too, if the rest reaches beyond all addresses; otherwise what is refused has lost nothing.
        linux.memory.unmap(target, target + new_length)?;
        if linux.memory.space().find(old).is_none() {
            // What goes beyond all addresses has its end before it begins, and is not seen to lie where it is to come.
            return Err(Errno::FAULT.into());
        }
        shrink(linux, (old, old_length), new_length)?;
    }
    if !several {
        linux.memory.relocate(old, old_end, target, new_length)?;
        return Ok(target);
    }
    let areas: Vec<(u64, Area)> = linux.memory.space().over(old, old_end).collect();
    for (at, area) in areas {
        let (at, end) = (at.max(old), area.end.min(old_end));
        let to = target + (at - old);
        // One after the other, as in Linux: what lies there goes, and may be two then.
        linux.memory.unmap(to, to + (end - at))?;
        if !linux.memory.space().has_room_to_move() {
            return Err(Errno::NOMEM.into());
        }
        linux.memory.relocate(at, end, to, end - at)?;
    }
    Ok(target)
}

/// `mremap` to what is no longer: the rest goes, whatever it is.
fn shrink(linux: &mut Linux, (old, old_length): (u64, u64), length: u64) -> Served {
    if length < old_length {
        let end = old.checked_add(old_length);
        let end = end.filter(|&end| end <= USER_ADDRESS_END);
        linux.memory.unmap(old + length, end.ok_or(Errno::INVAL)?)?;
    }
    Ok(old)
}
