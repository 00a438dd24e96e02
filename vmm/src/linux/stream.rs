//! Calls that move bytes between descriptors and memory, without a copy in between.
//!
//! None of them makes the monitor wait. What has a position never waits; of the rest the kernel is asked
//! for what it can do at once (`RWF_NOWAIT`), and where it cannot say, only once `poll` says so.

use std::os::fd::RawFd;

use rustix::event::PollFlags;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::host::{self, Direction};
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, signal};
use crate::memory::Access;

/// Most bytes that one call moves, as under Linux.
const MOST_BYTES: u64 = 0x7fff_f000;
/// `UIO_MAXIOV`.
const MOST_VECTORS: u64 = 1024;
/// Of the flags of `preadv2`, those that ask nothing of the monitor: HIPRI, DSYNC, SYNC, NOWAIT, APPEND.
const KNOWN_FLAGS: u64 = 0x1f;

impl Direction {
    fn access(self) -> Access {
        match self {
            Self::In => Access::Write,
            Self::Out => Access::Read,
        }
    }

    fn events(self) -> PollFlags {
        match self {
            Self::In => PollFlags::IN,
            Self::Out => PollFlags::OUT,
        }
    }
}

/// Of `ranges`, address and length each, what follows the first `skip` bytes.
pub(super) fn skip(ranges: &[(u64, u64)], mut skip: u64) -> Vec<(u64, u64)> {
    let mut rest = Vec::with_capacity(ranges.len());
    for &(at, length) in ranges {
        let skipped = skip.min(length);
        skip -= skipped;
        if length > skipped {
            rest.push((at.wrapping_add(skipped), length - skipped));
        }
    }
    rest
}

impl Linux {
    /// The guest's `iovec`s: address and length each.
    pub(super) fn vectors(&mut self, at: u64, count: u64) -> Result<Vec<(u64, u64)>, Stop> {
        if count > MOST_VECTORS {
            return Err(Errno::INVAL.into());
        }
        let mut raw = vec![0; count as usize * 16];
        self.memory.read(at, &mut raw)?;
        let mut left = MOST_BYTES;
        let mut list = Vec::with_capacity(count as usize);
        for pair in raw.chunks_exact(16) {
            let word = |from: usize| {
                let bytes = pair[from..from + 8].try_into();
                bytes.map_or(0, u64::from_le_bytes)
            };
            if i64::try_from(word(8)).is_err() {
                return Err(Errno::INVAL.into());
            }
            let length = word(8).min(left);
            left -= length;
            if length > 0 {
                list.push((word(0), length));
            }
        }
        Ok(list)
    }

    /// Waits for `descriptor` to be ready for `direction`, within the time that the socket itself allows.
    pub(super) fn wait_for(&mut self, descriptor: i32, direction: Direction) -> Stop {
        if self.progress.deadline.is_none() {
            let limit = host::time_limit(descriptor, direction);
            self.progress.deadline = limit.map(super::time::from_now);
        }
        let deadline = self.progress.deadline;
        if deadline.is_some_and(super::time::is_over) {
            return Errno::AGAIN.into();
        }
        Stop::Wait(Wait::Ready {
            descriptor,
            events: direction.events(),
            deadline,
        })
    }

    fn stream(
        &mut self,
        direction: Direction,
        descriptor: u64,
        ranges: &[(u64, u64)],
        flags: i32,
    ) -> Served {
        let descriptor = self.descriptor(descriptor)?;
        if host::is_seekable(descriptor) {
            let slices = self.memory.slices_of(ranges, direction.access())?;
            return Ok(host::transfer(direction, descriptor, &slices, None, flags)?);
        }
        loop {
            let rest = skip(ranges, self.progress.bytes);
            if rest.is_empty() && self.progress.bytes > 0 {
                return Ok(self.progress.bytes);
            }
            match self.try_stream(direction, descriptor, &rest, flags) {
                Ok(0) => return Ok(self.progress.bytes),
                // A reader takes what there is; a writer leaves when all is written.
                Ok(moved) if direction == Direction::In => return Ok(moved),
                Ok(moved) => {
                    self.progress.bytes += moved;
                    let wanted: u64 = rest.iter().map(|&(_, length)| length).sum();
                    if moved == wanted {
                        return Ok(self.progress.bytes);
                    }
                }
                Err(Stop::Error(_)) if self.progress.bytes > 0 => return Ok(self.progress.bytes),
                Err(stop) => return Err(stop),
            }
        }
    }

    fn try_stream(
        &mut self,
        direction: Direction,
        descriptor: i32,
        ranges: &[(u64, u64)],
        flags: i32,
    ) -> Served {
        let slices = self.memory.slices_of(ranges, direction.access())?;
        match host::transfer(
            direction,
            descriptor,
            &slices,
            None,
            flags | libc::RWF_NOWAIT,
        ) {
            Err(Errno::AGAIN | Errno::OPNOTSUPP) => {}
            moved => return Ok(moved?),
        }
        if host::is_ready(descriptor, direction.events())?
            || flags & libc::RWF_NOWAIT != 0
            || host::is_nonblocking(descriptor)?
        {
            return Ok(host::transfer(direction, descriptor, &slices, None, flags)?);
        }
        Err(self.wait_for(descriptor, direction))
    }

    fn positioned(
        &mut self,
        direction: Direction,
        descriptor: u64,
        ranges: &[(u64, u64)],
        offset: u64,
        flags: i32,
    ) -> Served {
        let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
        let descriptor = self.descriptor(descriptor)?;
        let slices = self.memory.slices_of(ranges, direction.access())?;
        Ok(host::transfer(
            direction,
            descriptor,
            &slices,
            Some(offset),
            flags,
        )?)
    }

    /// A write to what nobody reads any more raises SIGPIPE.
    pub(super) fn written(&mut self, served: Served) -> Served {
        if let Err(Stop::Error(Errno::PIPE)) = served {
            signal::raise(self, libc::SIGPIPE as u64)?;
        }
        served
    }
}

fn one(at: u64, length: u64) -> [(u64, u64); 1] {
    [(at, length.min(MOST_BYTES))]
}

/// `read`.
pub(super) fn read(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    linux.stream(Direction::In, fd, &one(at, length), 0)
}

/// `write`.
pub(super) fn write(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    let served = linux.stream(Direction::Out, fd, &one(at, length), 0);
    linux.written(served)
}

/// `readv`.
pub(super) fn readv(linux: &mut Linux, [fd, at, count, ..]: Arguments) -> Served {
    let ranges = linux.vectors(at, count)?;
    linux.stream(Direction::In, fd, &ranges, 0)
}

/// `writev`.
pub(super) fn writev(linux: &mut Linux, [fd, at, count, ..]: Arguments) -> Served {
    let ranges = linux.vectors(at, count)?;
    let served = linux.stream(Direction::Out, fd, &ranges, 0);
    linux.written(served)
}

/// `pread64`.
pub(super) fn pread64(linux: &mut Linux, [fd, at, length, offset, ..]: Arguments) -> Served {
    linux.positioned(Direction::In, fd, &one(at, length), offset, 0)
}

/// `pwrite64`.
pub(super) fn pwrite64(linux: &mut Linux, [fd, at, length, offset, ..]: Arguments) -> Served {
    linux.positioned(Direction::Out, fd, &one(at, length), offset, 0)
}

/// `preadv`.
pub(super) fn preadv(linux: &mut Linux, [fd, at, count, offset, ..]: Arguments) -> Served {
    let ranges = linux.vectors(at, count)?;
    linux.positioned(Direction::In, fd, &ranges, offset, 0)
}

/// `pwritev`.
pub(super) fn pwritev(linux: &mut Linux, [fd, at, count, offset, ..]: Arguments) -> Served {
    let ranges = linux.vectors(at, count)?;
    linux.positioned(Direction::Out, fd, &ranges, offset, 0)
}

/// `preadv2`: at offset -1 as `readv`.
pub(super) fn preadv2(linux: &mut Linux, arguments: Arguments) -> Served {
    with_flags(linux, Direction::In, arguments)
}

/// `pwritev2`.
pub(super) fn pwritev2(linux: &mut Linux, arguments: Arguments) -> Served {
    let served = with_flags(linux, Direction::Out, arguments);
    linux.written(served)
}

fn with_flags(
    linux: &mut Linux,
    direction: Direction,
    [fd, at, count, offset, _, flags]: Arguments,
) -> Served {
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    let ranges = linux.vectors(at, count)?;
    if offset == u64::MAX {
        linux.stream(direction, fd, &ranges, flags as i32)
    } else {
        linux.positioned(direction, fd, &ranges, offset, flags as i32)
    }
}

/// `sendfile`: what does not wait at its source, which has to be a file; it waits for its target.
pub(super) fn sendfile(linux: &mut Linux, [out, from, at, count, ..]: Arguments) -> Served {
    let target = linux.descriptor(out)?;
    let source = linux.descriptor(from)?;
    let mut count = count;
    if matches!(kind(target)?, FileType::Socket | FileType::Fifo) && !host::is_nonblocking(target)?
    {
        if !host::is_ready(target, PollFlags::OUT)? {
            return Err(linux.wait_for(target, Direction::Out));
        }
        // What is ready has room for a page at least; more could wait.
        count = count.min(pool_core::PAGE_SIZE);
    }
    let mut offset: i64 = if at == 0 {
        0
    } else {
        linux.memory.read_value(at)?
    };
    let position = (at != 0).then_some(&mut offset);
    let sent = host::sendfile(target, source, position, count);
    let sent = linux.written(sent.map_err(Stop::from))?;
    if at != 0 {
        linux.memory.write_value(at, &offset)?;
    }
    Ok(sent)
}

fn kind(descriptor: RawFd) -> Result<FileType, Errno> {
    let stat = rustix::fs::fstat(host::borrow(descriptor))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// One of both is a pipe, no pipe has a position, the source can be read and the target written.
fn is_spliceable(ends: &[(RawFd, u64, Direction); 2]) -> Result<bool, Errno> {
    let mut pipe = false;
    for &(descriptor, position, direction) in ends {
        let is_pipe = kind(descriptor)? == FileType::Fifo;
        let mode = rustix::fs::fcntl_getfl(host::borrow(descriptor))? & OFlags::ACCMODE;
        let wrong = match direction {
            Direction::In => OFlags::WRONLY,
            Direction::Out => OFlags::RDONLY,
        };
        if mode == wrong || (is_pipe && position != 0) {
            return Ok(false);
        }
        pipe |= is_pipe;
    }
    Ok(pipe)
}

/// `splice`, between a pipe and anything.
pub(super) fn splice(linux: &mut Linux, arguments: Arguments) -> Served {
    use super::dispatch::{Arg, pass};
    const NONBLOCK: u64 = libc::SPLICE_F_NONBLOCK as u64;
    let kinds = [
        Arg::Descriptor,
        Arg::InOut(8),
        Arg::Descriptor,
        Arg::InOut(8),
        Arg::Value,
        Arg::Value,
    ];
    let [from, from_at, to, to_at, count, flags] = arguments;
    let (source, target) = (linux.descriptor(from)?, linux.descriptor(to)?);
    let ends = [
        (source, from_at, Direction::In),
        (target, to_at, Direction::Out),
    ];
    // What the kernel refuses it refuses at once.
    if count > 0 && is_spliceable(&ends)? {
        for (descriptor, _, direction) in ends {
            // A socket goes by its own flag alone, a pipe by the call's too.
            let may_wait = match kind(descriptor)? {
                FileType::Socket => true,
                FileType::Fifo => flags & NONBLOCK == 0,
                _ => false,
            };
            if may_wait
                && !host::is_nonblocking(descriptor)?
                && !host::is_ready(descriptor, direction.events())?
            {
                return Err(linux.wait_for(descriptor, direction));
            }
        }
    }
    let arguments = [from, from_at, to, to_at, count, flags | NONBLOCK];
    let moved = pass(linux, libc::SYS_splice as u64, &kinds, arguments);
    linux.written(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_moved_is_left_out() {
        let ranges = [(0x1000, 10), (0x2000, 5), (0x3000, 1)];
        assert_eq!(skip(&ranges, 0), ranges);
        assert_eq!(skip(&ranges, 4), [(0x1004, 6), (0x2000, 5), (0x3000, 1)]);
        assert_eq!(skip(&ranges, 10), [(0x2000, 5), (0x3000, 1)]);
        assert_eq!(skip(&ranges, 15), [(0x3000, 1)]);
        assert!(skip(&ranges, 16).is_empty());
    }
}
