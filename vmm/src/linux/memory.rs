//! Calls about memory: `brk`, `mmap`, `munmap`, `mremap`, `mprotect`, `madvise`, `mincore`, `msync`, `mlock`.
//!
//! As under Linux's heuristic overcommit, what is mapped costs nothing until it is touched, and only a
//! call that asks for absurdly much at once fails for its size ([`affordable`]). `--memory` bounds what is
//! touched: beyond it the guest ends, as a process does whose cgroup is out of memory; a call that would
//! touch memory on its behalf fails with `ENOMEM`.

use pool_core::PAGE_SIZE;
use pool_core::address::{Protection, USER_ADDRESS_END};
use rustix::io::Errno;

use super::{Arguments, Linux, Served, Stop, host};
use crate::memory::space::{Area, Backing};
use crate::memory::{Access, GrowError, Unpopulated};
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
const MREMAP_MAYMOVE: u64 = 1;
const MREMAP_FIXED: u64 = 2;

const PROT_WRITE: u64 = 2;
const PROT_ALL: u64 = 7;
/// It may hold semaphores: nothing on x86-64.
const PROT_SEM: u64 = 8;
const PROT_GROWSDOWN: u64 = 0x0100_0000;
const PROT_GROWSUP: u64 = 0x0200_0000;

/// `start..end` of the pages that `length` bytes at `start` take, as the kernel computes it: `length` may wrap
/// to nothing. `start` must be a page's.
fn pages(start: u64, length: u64) -> Result<(u64, Option<u64>), Errno> {
    if !start.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::INVAL);
    }
    Ok((start, start.checked_add(aligned(length))))
}

/// `length` up to whole pages; nothing if that is too much for a number.
fn aligned(length: u64) -> u64 {
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

/// `brk`: moves the end of the heap; the old end is the answer to anything impossible.
pub(super) fn brk(linux: &mut Linux, [wanted, ..]: Arguments) -> Served {
    let space = linux.memory.space();
    let (rooms, current) = (*space.rooms(), space.heap_end());
    if wanted < rooms.heap.0 || wanted > USER_ADDRESS_END - PAGE_SIZE {
        return Ok(current);
    }
    let old_end = current.next_multiple_of(PAGE_SIZE);
    let new_end = wanted.next_multiple_of(PAGE_SIZE);
    if new_end > old_end {
        let free = space.is_free(old_end, new_end);
        let growth = new_end - old_end;
        if !free || new_end > rooms.mmap_top.0 || affordable(linux, growth, 1, 0).is_err() {
            return Ok(current);
        }
        let done = linux
            .memory
            .map_zero(old_end, growth, Protection::READ_WRITE);
        match done {
            Err(GrowError::Refused(_)) => return Ok(current),
            done => done?,
        }
    } else if new_end < old_end {
        match linux.memory.unmap(new_end, old_end) {
            Err(GrowError::Refused(_)) => return Ok(current),
            done => done?,
        }
    }
    linux.memory.set_heap_end(wanted);
    Ok(wanted)
}

/// `mmap`: anonymous memory, or a private copy of a file's pages, each as it is when it is first touched
/// (POSIX leaves open whether later changes of the file are seen).
///
/// A shared mapping of a file would have to show what others write to it, and to write through:
/// it is refused with `ENODEV`, as Linux refuses it for files that cannot be mapped so. An area that would
/// grow does not, and pages of the host's reserve are plain ones.
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
    let start = place(linux, address, length, flags)?;
    let protection = protection(bits);
    let backing = match (flags & MAP_TYPE, anonymous) {
        (MAP_PRIVATE, _) => Backing::Private,
        (MAP_SHARED, true) => Backing::Kept,
        (MAP_SHARED | MAP_SHARED_VALIDATE, false) => return Err(Stop::Refused(Errno::NODEV)),
        _ => return Err(Errno::INVAL.into()),
    };
    affordable(linux, length, bits, flags)?;
    if anonymous {
        let area = Area {
            end: start + length,
            protection,
            backing,
        };
        linux.memory.map_anonymous(start, area)?;
    } else {
        let file = host::borrow(linux.descriptor(fd)?);
        linux
            .memory
            .map_file(start, length, protection, file, offset)?;
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
    linux.memory.protect(start, end, protection(bits))??;
    Ok(0)
}

/// `mremap`: shrinks, grows in place, or moves private memory and reservations. Several areas move at once as
/// they are, with the gaps between them (Linux 6.17). `MREMAP_DONTUNMAP` is not served, and memory that is shared
/// by name is not had twice.
pub(super) fn mremap(
    linux: &mut Linux,
    [old, old_length, new_length, flags, new, _]: Arguments,
) -> Served {
    let fixed = flags & MREMAP_FIXED != 0;
    let may_move = flags & MREMAP_MAYMOVE != 0;
    let unknown = flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0;
    let (old, old_end) = pages(old, old_length)?;
    let (old_length, new_length) = (aligned(old_length), aligned(new_length));
    if unknown || new_length == 0 || new_length > USER_ADDRESS_END || (fixed && !may_move) {
        return Err(Errno::INVAL.into());
    }
    if fixed {
        let end = new.checked_add(new_length);
        let end = end.filter(|&end| new.is_multiple_of(PAGE_SIZE) && end <= USER_ADDRESS_END);
        let end = end.ok_or(Errno::INVAL)?;
        if old < end && new < old.wrapping_add(old_length) {
            return Err(Errno::INVAL.into());
        }
    }
    let space = linux.memory.space();
    let (_, area) = space.find(old).ok_or(Errno::FAULT)?;
    if !fixed && new_length <= old_length {
        return shrink(linux, (old, old_length), new_length);
    }
    if old_length == 0 {
        return Err(Errno::INVAL.into());
    }
    let old_end = old_end.ok_or(Errno::FAULT)?;
    let several = area.end < old_end;
    if several && (!fixed || new_length != old_length) {
        return Err(Errno::FAULT.into());
    }
    let shared = |area: &Area| matches!(area.backing, Backing::Shared { .. });
    if space.over(old, old_end).any(|(_, area)| shared(&area)) {
        return Err(Errno::FAULT.into());
    }
    if new_length > old_length {
        affordable(linux, new_length - old_length, 1, 0)?;
    }
    if !fixed && linux.memory.space().is_free(old_end, old + new_length) {
        linux.memory.extend(old, old_end, old + new_length)?;
        return Ok(old);
    }
    if !may_move {
        return Err(Errno::NOMEM.into());
    }
    let (wanted, placing) = if fixed { (new, MAP_FIXED) } else { (0, 0) };
    let target = place(linux, wanted, new_length, placing)?;
    if !several {
        linux.memory.relocate(old, old_end, target, new_length)?;
        return Ok(target);
    }
    let areas: Vec<(u64, Area)> = linux.memory.space().over(old, old_end).collect();
    for (at, area) in areas {
        let (at, end) = (at.max(old), area.end.min(old_end));
        let to = target + (at - old);
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

/// `madvise`: `DONTNEED` and `FREE` give pages back, `REMOVE` those of memory that is shared by name,
/// `POPULATE_READ` and `POPULATE_WRITE` take them; other advice is advice.
pub(super) fn madvise(linux: &mut Linux, [address, length, advice, ..]: Arguments) -> Served {
    const DONTNEED: u64 = 4;
    const FREE: u64 = 8;
    const REMOVE: u64 = 9;
    const WIPEONFORK: u64 = 18;
    const POPULATE_READ: u64 = 22;
    const POPULATE_WRITE: u64 = 23;
    const DONTNEED_LOCKED: u64 = 24;
    /// NORMAL to WILLNEED, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, KEEPONFORK, COLD, PAGEOUT, and DONTFORK,
    /// DOFORK: there is no `fork`.
    const HARMLESS: [u64; 13] = [0, 1, 2, 3, 10, 11, 14, 15, 16, 17, 19, 20, 21];
    const SERVED: [u64; 7] = [
        DONTNEED,
        FREE,
        REMOVE,
        WIPEONFORK,
        POPULATE_READ,
        POPULATE_WRITE,
        DONTNEED_LOCKED,
    ];
    if !HARMLESS.contains(&advice) && !SERVED.contains(&advice) {
        return Err(Errno::INVAL.into());
    }
    let (start, end) = pages(address, length)?;
    let end = end
        .filter(|_| length == 0 || aligned(length) > 0)
        .ok_or(Errno::INVAL)?;
    if start == end {
        return Ok(0);
    }
    let access = match advice {
        POPULATE_READ => Some(Access::Read),
        POPULATE_WRITE => Some(Access::Write),
        _ => None,
    };
    if access.is_some() {
        return match linux.memory.populate(start, end, access)? {
            Ok(()) => Ok(0),
            Err(Unpopulated::Hole) => Err(Errno::NOMEM.into()),
            Err(Unpopulated::Forbidden) => Err(Errno::INVAL.into()),
            Err(Unpopulated::PastFile) => Err(Errno::FAULT.into()),
        };
    }
    if HARMLESS.contains(&advice) {
        return mapped(linux, start, end);
    }
    // Area by area, until one is not of a kind that there is such advice for.
    let areas: Vec<(u64, Area)> = linux.memory.space().over(start, end).collect();
    for (at, area) in areas {
        let (from, to) = (at.max(start), end.min(area.end));
        match (advice, area.backing) {
            (DONTNEED | DONTNEED_LOCKED, _) | (FREE, Backing::Private) => {
                linux.memory.discard(from, to)?;
            }
            (REMOVE, Backing::Kept) => linux.memory.remove(from, to)?,
            (REMOVE, Backing::File { .. } | Backing::Shared { .. }) => {
                return Err(Errno::ACCESS.into());
            }
            (WIPEONFORK, Backing::Private) => {}
            _ => return Err(Errno::INVAL.into()),
        }
    }
    mapped(linux, start, end)
}

/// Zero, or `ENOMEM` if a page of `start..end` is not mapped.
fn mapped(linux: &Linux, start: u64, end: u64) -> Served {
    if linux.memory.space().has_hole(start, end) {
        Err(Errno::NOMEM.into())
    } else {
        Ok(0)
    }
}

/// `mincore`: pages that have been touched; what is shared is always there.
pub(super) fn mincore(linux: &mut Linux, [address, length, at, ..]: Arguments) -> Served {
    let (start, _) = pages(address, 0)?;
    let end = address
        .checked_add(length)
        .filter(|&end| end <= USER_ADDRESS_END);
    let end = end.ok_or(Errno::NOMEM)?.next_multiple_of(PAGE_SIZE);
    let bytes = (end - start) / PAGE_SIZE;
    if at
        .checked_add(bytes)
        .is_none_or(|end| end > USER_ADDRESS_END)
    {
        return Err(Errno::FAULT.into());
    }
    mapped(linux, start, end)?;
    let mut page = start;
    while page < end {
        let part = end.min(page + (PAGE_SIZE << 9));
        let there: Vec<u8> = (page..part)
            .step_by(PAGE_SIZE as usize)
            .map(|page| u8::from(linux.memory.is_there(page)))
            .collect();
        linux
            .memory
            .write(at + (page - start) / PAGE_SIZE, &there)?;
        page = part;
    }
    Ok(0)
}

/// `msync`: there are no shared mappings of files, so nothing is to be written.
pub(super) fn msync(linux: &mut Linux, [address, length, flags, ..]: Arguments) -> Served {
    const ASYNC: u64 = 1;
    const SYNC: u64 = 4;
    if flags & !7 != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
        return Err(Errno::INVAL.into());
    }
    let (start, end) = pages(address, length)?;
    mapped(linux, start, end.ok_or(Errno::NOMEM)?)
}

/// `mlock`: the pages are taken; a guest's memory may be swapped out by its host all the same.
pub(super) fn mlock(linux: &mut Linux, [address, length, ..]: Arguments) -> Served {
    let (start, end) = around(address, length)?;
    mapped(linux, start, end)?;
    match linux.memory.populate(start, end, None)? {
        Ok(()) => Ok(0),
        Err(_) => Err(Errno::NOMEM.into()),
    }
}

/// The pages that `length` bytes at `address` lie in.
fn around(address: u64, length: u64) -> Result<(u64, u64), Errno> {
    let start = address & !(PAGE_SIZE - 1);
    let length = aligned(length.wrapping_add(address - start));
    let end = start.checked_add(length).ok_or(Errno::INVAL)?;
    Ok((start, end))
}

/// `mlock2`: the same; with ONFAULT nothing is taken.
pub(super) fn mlock2(linux: &mut Linux, arguments: Arguments) -> Served {
    match arguments[2] {
        0 => mlock(linux, arguments),
        1 => munlock(linux, arguments),
        _ => Err(Errno::INVAL.into()),
    }
}

/// `munlock`.
pub(super) fn munlock(linux: &mut Linux, [address, length, ..]: Arguments) -> Served {
    let (start, end) = around(address, length)?;
    mapped(linux, start, end)
}

/// `mlockall`: areas that come later are not taken before they are touched.
pub(super) fn mlockall(_: &mut Linux, [flags, ..]: Arguments) -> Served {
    if flags == 0 || flags & !7 != 0 || flags == 4 {
        return Err(Errno::INVAL.into());
    }
    Ok(0)
}

/// `munlockall`.
#[expect(clippy::unnecessary_wraps, reason = "it is a handler like others")]
pub(super) fn munlockall(_: &mut Linux, _: Arguments) -> Served {
    Ok(0)
}
