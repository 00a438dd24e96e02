//! Calls about pages that are mapped: `madvise`, `mincore`, `msync`, `mlock`.

use pool_core::PAGE_SIZE;
use pool_core::address::USER_ADDRESS_END;
use rustix::io::Errno;

use super::memory::{aligned, pages};
use super::{Arguments, Linux, Served};
use crate::memory::space::{Area, Backing};
use crate::memory::{Access, Unpopulated};

/// `madvise`: `DONTNEED` and `FREE` give pages back, `REMOVE` those of memory that is shared by name,
/// `POPULATE_READ` and `POPULATE_WRITE` take them; other advice is advice.
pub(super) fn madvise(linux: &mut Linux, [address, length, advice, ..]: Arguments) -> Served {
    const DONTNEED: u32 = 4;
    const FREE: u32 = 8;
    const REMOVE: u32 = 9;
    const WIPEONFORK: u32 = 18;
    const POPULATE_READ: u32 = 22;
    const POPULATE_WRITE: u32 = 23;
    const DONTNEED_LOCKED: u32 = 24;
    /// NORMAL to WILLNEED, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, KEEPONFORK, COLD, PAGEOUT, and DONTFORK,
    /// DOFORK: there is no `fork`.
    const HARMLESS: [u32; 13] = [0, 1, 2, 3, 10, 11, 14, 15, 16, 17, 19, 20, 21];
    const SERVED: [u32; 7] = [
        DONTNEED,
        FREE,
        REMOVE,
        WIPEONFORK,
        POPULATE_READ,
        POPULATE_WRITE,
        DONTNEED_LOCKED,
    ];
    let advice = advice as u32;
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
            (REMOVE, Backing::Shown { writable: true, .. }) => {
                linux.memory.make_holes(from, to)?;
            }
            (REMOVE, Backing::File { .. } | Backing::Shared { .. } | Backing::Shown { .. }) => {
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

/// `msync`: what was written is the file's already, and is to be where it is kept for `MS_SYNC`.
pub(super) fn msync(linux: &mut Linux, [address, length, flags, ..]: Arguments) -> Served {
    const ASYNC: u32 = 1;
    const SYNC: u32 = 4;
    let flags = flags as u32;
    if flags & !7 != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
        return Err(Errno::INVAL.into());
    }
    let (start, end) = pages(address, length)?;
    let end = end.ok_or(Errno::NOMEM)?;
    if flags & SYNC != 0 {
        linux.memory.sync(start, end)?;
    }
    mapped(linux, start, end)
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
    match arguments[2] as i32 {
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
    if !matches!(flags as u32, 1..=3 | 5..=7) {
        return Err(Errno::INVAL.into());
    }
    Ok(0)
}

/// `munlockall`.
#[expect(clippy::unnecessary_wraps, reason = "it is a handler like others")]
pub(super) fn munlockall(_: &mut Linux, _: Arguments) -> Served {
    Ok(0)
}
