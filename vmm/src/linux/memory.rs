//! Calls about memory: `brk`, `mmap`, `munmap`, `mremap`, `mprotect`, `madvise`, `mincore`-like
//! calls that programs can do without are not served.

use pool_core::PAGE_SIZE;
use pool_core::address::{Protection, USER_ADDRESS_END};
use rustix::io::Errno;

use super::{Arguments, Linux, Served, host};
use crate::memory::space::{Area, Backing};
use crate::memory::transfer::{self, Position};
use crate::memory::{Access, GrowError};

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const MREMAP_MAYMOVE: u64 = 1;
const MREMAP_FIXED: u64 = 2;

/// Page-aligned `start..end` of `length` bytes at `start`.
fn pages(start: u64, length: u64) -> Result<(u64, u64), Errno> {
    let end = start
        .checked_add(length)
        .and_then(|end| end.checked_next_multiple_of(PAGE_SIZE))
        .filter(|&end| end <= USER_ADDRESS_END)
        .ok_or(Errno::NOMEM)?;
    if start.is_multiple_of(PAGE_SIZE) {
        Ok((start, end))
    } else {
        Err(Errno::INVAL)
    }
}

fn protection(bits: u64) -> Result<Protection, Errno> {
    // PROT_GROWSDOWN and PROT_GROWSUP concern only areas that grow; there are none.
    if bits & !7 != 0 {
        return Err(Errno::INVAL);
    }
    // On x86-64 writable memory can always be read, and executable memory too.
    Ok(Protection {
        read: bits != 0,
        write: bits & 2 != 0,
        execute: bits & 4 != 0,
    })
}

/// `brk`: moves the end of the heap; the old end is the answer to anything impossible.
pub(super) fn brk(linux: &mut Linux, [wanted, ..]: Arguments) -> Served {
    let memory = &mut linux.memory;
    let start = memory.space().rooms().heap.0;
    let current = memory.space().heap_end();
    if wanted < start || wanted > USER_ADDRESS_END - PAGE_SIZE {
        return Ok(current);
    }
    let old_end = current.next_multiple_of(PAGE_SIZE);
    let new_end = wanted.next_multiple_of(PAGE_SIZE);
    if new_end > old_end {
        let free = memory.space().is_free(old_end, new_end);
        let room = new_end <= memory.space().rooms().mmap_top.0;
        let growth = new_end - old_end;
        if !free || !room {
            return Ok(current);
        }
        match memory.map_zero(old_end, growth, Protection::READ_WRITE) {
            Err(GrowError::Refused(_)) => return Ok(current),
            done => done?,
        }
    } else if new_end < old_end {
        memory.unmap(new_end, old_end)?;
    }
    memory.set_heap_end(wanted);
    Ok(wanted)
}

/// `mmap`: anonymous memory, or a private copy of a file's bytes as they are now (POSIX leaves
/// open whether later changes of the file are seen).
///
/// A shared mapping of a file would have to show what others write to it, and to write through:
/// it is refused with `ENODEV`, as Linux refuses it for files that cannot be mapped so.
pub(super) fn mmap(
    linux: &mut Linux,
    [address, length, bits, flags, fd, offset]: Arguments,
) -> Served {
    let (_, length) = match length {
        0 => return Err(Errno::INVAL.into()),
        _ => pages(0, length)?,
    };
    let protection = protection(bits)?;
    let anonymous = flags & MAP_ANONYMOUS != 0;
    match flags & MAP_TYPE {
        MAP_PRIVATE => {}
        MAP_SHARED | MAP_SHARED_VALIDATE if anonymous => {}
        MAP_SHARED | MAP_SHARED_VALIDATE => return Err(Errno::NODEV.into()),
        _ => return Err(Errno::INVAL.into()),
    }
    if !anonymous {
        if !offset.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL.into());
        }
        offset
            .checked_add(length)
            .and_then(|end| i64::try_from(end).ok())
            .ok_or(Errno::OVERFLOW)?;
        linux.mappable(fd)?;
    }
    let start = place(linux, address, length, flags)?;
    if anonymous {
        linux.memory.map_zero(start, length, protection)?;
        return Ok(start);
    }
    linux.memory.map_copied(start, length)?;
    fill_from_file(linux, start, length, fd, offset)?;
    linux.memory.protect(start, start + length, protection)??;
    Ok(start)
}

fn place(linux: &Linux, address: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    let space = linux.memory.space();
    if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
        let (start, end) = pages(address, length)?;
        let monitor = space.rooms().monitor.0;
        if start < PAGE_SIZE || (start < monitor + pool_core::WINDOW_SIZE && end > monitor) {
            return Err(Errno::PERM);
        }
        if flags & MAP_FIXED_NOREPLACE != 0 && !space.is_free(start, end) {
            return Err(Errno::EXIST);
        }
        return Ok(start);
    }
    let hint = address & !(PAGE_SIZE - 1);
    match hint.checked_add(length) {
        Some(end) if hint != 0 && space.is_free(hint, end) => Ok(hint),
        _ => space.find_gap(length).ok_or(Errno::NOMEM),
    }
}

fn fill_from_file(
    linux: &mut Linux,
    start: u64,
    length: u64,
    fd: u64,
    offset: u64,
) -> Result<(), super::Stop> {
    let mut done = 0;
    while done < length {
        let file = host::borrow(linux.descriptor(fd)?);
        let slices = linux
            .memory
            .slices(start + done, length - done, Access::Write)?;
        let at = Position::At((offset + done) as i64);
        match transfer::read(file, &slices, at)? {
            0 => break,
            moved => done += moved as u64,
        }
    }
    Ok(())
}

/// `munmap`.
pub(super) fn munmap(linux: &mut Linux, [address, length, ..]: Arguments) -> Served {
    if length == 0 {
        return Err(Errno::INVAL.into());
    }
    let (start, end) = pages(address, length).map_err(|_| Errno::INVAL)?;
    linux.memory.unmap(start, end)?;
    Ok(0)
}

/// `mprotect`.
pub(super) fn mprotect(linux: &mut Linux, [address, length, bits, ..]: Arguments) -> Served {
    let (start, end) = pages(address, length)?;
    let protection = protection(bits)?;
    if start == end {
        return Ok(0);
    }
    linux.memory.protect(start, end, protection)??;
    Ok(0)
}

/// `mremap`: shrinks, grows in place, or moves private memory and reservations.
pub(super) fn mremap(
    linux: &mut Linux,
    [old, old_length, new_length, flags, new, _]: Arguments,
) -> Served {
    let fixed = flags & MREMAP_FIXED != 0;
    let may_move = flags & MREMAP_MAYMOVE != 0;
    let unknown = flags & !(MREMAP_MAYMOVE | MREMAP_FIXED) != 0;
    if new_length == 0 || unknown || (fixed && !may_move) {
        return Err(Errno::INVAL.into());
    }
    let (old, old_end) = pages(old, old_length)?;
    let (_, new_length) = pages(0, new_length)?;
    let old_length = old_end - old;
    let (_, area) = linux.memory.space().find(old).ok_or(Errno::FAULT)?;
    let movable = |area: &Area| matches!(area.backing, Backing::Private | Backing::Reserved);
    // Several areas move at once as they are, and are not resized (Linux 6.17).
    let several = area.end < old_end;
    let as_they_are = fixed && new_length == old_length;
    let space = linux.memory.space();
    let all = space.over(old, old_end).all(|(_, area)| movable(&area));
    let kept_together = !several || (as_they_are && !space.has_hole(old, old_end));
    if !all || old_length == 0 || !kept_together {
        return Err(Errno::FAULT.into());
    }
    if !fixed && new_length <= old_length {
        linux.memory.unmap(old + new_length, old_end)?;
        return Ok(old);
    }
    if !fixed && linux.memory.space().is_free(old_end, old + new_length) {
        linux.memory.extend(old, old_end, old + new_length)?;
        return Ok(old);
    }
    if !may_move {
        return Err(Errno::NOMEM.into());
    }
    let placing = if fixed { MAP_FIXED } else { 0 };
    let target = place(linux, if fixed { new } else { 0 }, new_length, placing)?;
    if target < old_end && old < target + new_length {
        return Err(Errno::INVAL.into());
    }
    if !several {
        linux.memory.relocate(old, old_end, target, new_length)?;
        return Ok(target);
    }
    let mut at = old;
    while let Some((_, area)) = linux.memory.space().find(at).filter(|_| at < old_end) {
        let end = area.end.min(old_end);
        let to = target + (at - old);
        linux.memory.relocate(at, end, to, end - at)?;
        at = end;
    }
    Ok(target)
}

/// `madvise`: DONTNEED gives pages back; other advice is advice.
///
/// Pages of a private mapping of a file would have to show the file again. They are kept instead:
/// that is the same unless they were written, so where they can be, the advice is refused. FREE is
/// for anonymous memory alone, as in Linux.
pub(super) fn madvise(linux: &mut Linux, [address, length, advice, ..]: Arguments) -> Served {
    const DONTNEED: u64 = 4;
    const FREE: u64 = 8;
    /// NORMAL to WILLNEED, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, COLD, PAGEOUT.
    const HARMLESS: [u64; 10] = [0, 1, 2, 3, 14, 15, 16, 17, 20, 21];
    let (start, end) = pages(address, length)?;
    match advice {
        DONTNEED | FREE => {
            let kept = |area: Area| area.copied && (advice == FREE || area.protection.write);
            let mut areas = linux.memory.space().over(start, end);
            if areas.any(|(_, area)| kept(area)) {
                return Err(Errno::INVAL.into());
            }
            drop(areas);
            linux.memory.discard(start, end)?;
            if linux.memory.space().has_hole(start, end) {
                return Err(Errno::NOMEM.into());
            }
        }
        other if HARMLESS.contains(&other) => {}
        _ => return Err(Errno::INVAL.into()),
    }
    Ok(0)
}
