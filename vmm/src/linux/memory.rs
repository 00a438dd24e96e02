//! Calls about memory: `brk`, `mmap`, `munmap`, `mremap`, `mprotect`, `madvise`, `mincore`, `msync`, `mlock`.
//!
//! As under Linux's heuristic overcommit, what is mapped costs nothing until it is touched, and only a
//! call that asks for absurdly much at once fails for its size ([`affordable`]). `--memory` bounds what is
//! touched: beyond it the guest ends, as a process does whose cgroup is out of memory; a call that would
//! touch memory on its behalf fails with `ENOMEM`.

use pool_core::PAGE_SIZE;
use pool_core::address::{Protection, USER_ADDRESS_END};
use rustix::io::Errno;

use super::{Arguments, Linux, Served, host};
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

/// Refuses what no guest of this size could mean to use ([`most_at_once`]). Programs that reserve and those
/// that ask not to be counted may have more.
fn affordable(linux: &Linux, length: u64, bits: u64, flags: u64) -> Result<(), Errno> {
    let most = most_at_once(linux.memory.limit());
    if bits == 0 || flags & MAP_NORESERVE != 0 || length <= most {
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
        linux.memory.unmap(new_end, old_end)?;
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
    affordable(linux, length, bits, flags)?;
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
    } else {
        let file = host::borrow(linux.descriptor(fd)?);
        linux
            .memory
            .map_file(start, length, protection, file, offset)?;
    }
    if flags & (MAP_POPULATE | MAP_LOCKED) != 0 && bits != 0 {
        match linux.memory.populate(start, start + length) {
            // As far as it goes: Linux does not fail for it either.
            Ok(()) | Err(GrowError::Refused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
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
    let movable = |area: &Area| !matches!(area.backing, Backing::Shared { .. });
    // Several areas move at once as they are, and are not resized (Linux 6.17).
    let several = area.end < old_end;
    let as_they_are = fixed && new_length == old_length;
    let space = linux.memory.space();
    let all = space.over(old, old_end).all(|(_, area)| movable(&area));
    let kept_together = !several || (as_they_are && !space.has_hole(old, old_end));
    if !all || old_length == 0 || !kept_together {
        return Err(Errno::FAULT.into());
    }
    if new_length > old_length {
        affordable(linux, new_length - old_length, 1, 0)?;
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

/// `madvise`: DONTNEED and FREE give pages back, POPULATE_READ and POPULATE_WRITE take them; other
/// advice is advice. FREE is for anonymous memory alone, as in Linux.
pub(super) fn madvise(linux: &mut Linux, [address, length, advice, ..]: Arguments) -> Served {
    const DONTNEED: u64 = 4;
    const FREE: u64 = 8;
    const POPULATE: [u64; 2] = [22, 23];
    /// NORMAL to WILLNEED, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, WIPEONFORK, KEEPONFORK, COLD, PAGEOUT, and
    /// DONTFORK, DOFORK: there is no `fork`.
    const HARMLESS: [u64; 14] = [0, 1, 2, 3, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21];
    let (start, end) = pages(address, length)?;
    match advice {
        DONTNEED | FREE => {
            let space = linux.memory.space();
            let anonymous = |area: Area| area.backing == Backing::Private;
            if advice == FREE && !space.over(start, end).all(|(_, area)| anonymous(area)) {
                return Err(Errno::INVAL.into());
            }
            linux.memory.discard(start, end)?;
        }
        _ if POPULATE.contains(&advice) => linux.memory.populate(start, end)?,
        other if HARMLESS.contains(&other) => {}
        _ => return Err(Errno::INVAL.into()),
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
    let (start, end) = pages(address, length)?;
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
    mapped(linux, start, end)
}

/// `mlock`: the pages are taken; a guest's memory may be swapped out by its host all the same.
pub(super) fn mlock(linux: &mut Linux, [address, length, ..]: Arguments) -> Served {
    let start = address & !(PAGE_SIZE - 1);
    let (start, end) =
        pages(start, length.saturating_add(address - start)).map_err(|_| Errno::NOMEM)?;
    mapped(linux, start, end)?;
    linux.memory.populate(start, end)?;
    Ok(0)
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
    let start = address & !(PAGE_SIZE - 1);
    let (start, end) =
        pages(start, length.saturating_add(address - start)).map_err(|_| Errno::NOMEM)?;
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
