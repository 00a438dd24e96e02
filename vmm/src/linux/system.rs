//! Calls about the machine: `uname`, `sysinfo`, `getrandom`, `getrusage`.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use pool_core::PAGE_SIZE;
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;
use rustix::time::{ClockId, Timespec};

use super::record::Record;
use super::{Arguments, Linux, Served};

/// `struct utsname` of every guest: a Linux whose calls are those of SYSCALLS.md.
pub(crate) fn identity() -> Vec<u8> {
    const WIDTH: usize = 65;
    let record = Record::default()
        .text(b"Linux", WIDTH)
        .text(b"poolvmm", WIDTH)
        .text(b"6.1.0", WIDTH)
        .text(b"#1 poolvmm", WIDTH)
        .text(b"x86_64", WIDTH)
        .text(b"(none)", WIDTH);
    record.bytes().to_vec()
}

/// `struct sysinfo` of a guest that may use `total` bytes of memory and has `free` left: one process.
pub(crate) fn machine(total: u64, free: u64) -> Vec<u8> {
    let uptime = rustix::time::clock_gettime(ClockId::Boottime).tv_sec as u64;
    let record = Record::default()
        .u64(uptime)
        .zeros(24)
        .u64(total)
        .u64(free)
        .zeros(32)
        .u16(1)
        .zeros(22)
        .u32(1)
        .zeros(4);
    record.bytes().to_vec()
}

/// `rseq`: C libraries do without, as with a kernel that has none.
pub(super) fn rseq(_: &mut Linux, _: Arguments) -> Served {
    Err(Errno::NOSYS.into())
}

/// `uname`.
pub(super) fn uname(linux: &mut Linux, [at, ..]: Arguments) -> Served {
    linux.memory.write(at, &identity())?;
    Ok(0)
}

/// `sysinfo`.
pub(super) fn sysinfo(linux: &mut Linux, [at, ..]: Arguments) -> Served {
    let (total, free) = (linux.memory.limit(), linux.memory.free());
    linux.memory.write(at, &machine(total, free))?;
    Ok(0)
}

/// `getrandom`, from the host, as many bytes as Linux gives at once.
pub(super) fn getrandom(linux: &mut Linux, [at, length, flags, ..]: Arguments) -> Served {
    const MOST: u64 = (32 << 20) - 1;
    let length = length.min(MOST);
    let flags = GetRandomFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
    let mut chunk = [0; PAGE_SIZE as usize];
    let mut done = 0;
    while done < length {
        let target = at.checked_add(done).ok_or(Errno::FAULT)?;
        // A page at a time: one that cannot be written does not undo those before it.
        let wanted = (length - done).min(PAGE_SIZE - target % PAGE_SIZE) as usize;
        let filled = match rustix::rand::getrandom(&mut chunk[..wanted], flags) {
            Err(_) if done > 0 => break,
            filled => filled?,
        };
        match linux.memory.write(target, &chunk[..filled]) {
            Err(_) if done > 0 => break,
            written => written?,
        }
        done += filled as u64;
    }
    Ok(done)
}

/// `getrusage`: processor time of this process or of the calling thread. There are no children that would have any.
pub(super) fn getrusage(linux: &mut Linux, [who, at, ..]: Arguments) -> Served {
    let used = match who as i32 {
        libc::RUSAGE_SELF => rustix::time::clock_gettime(ClockId::ProcessCPUTime),
        libc::RUSAGE_CHILDREN => Timespec::default(),
        libc::RUSAGE_THREAD => linux.own_time(),
        _ => return Err(Errno::INVAL.into()),
    };
    let record = Record::default()
        .u64(used.tv_sec as u64)
        .u64((used.tv_nsec / 1000) as u64)
        .zeros(128);
    linux.memory.write(at, record.bytes())?;
    Ok(0)
}
