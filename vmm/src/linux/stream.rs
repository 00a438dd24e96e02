//! Calls that move bytes between descriptors and memory, without a copy in between.
//!
//! None of them makes the monitor wait. Of files and directories bytes are there or not. Of all else the
//! kernel is asked for what it can do at once, and a call that would wait is asked again once `poll` says so.

use std::os::fd::RawFd;

use pool_core::PAGE_SIZE;
use pool_core::address::USER_ADDRESS_END;
use rustix::event::PollFlags;
use rustix::fs::FileType;
use rustix::io::Errno;
use vm_memory::VolatileSlice;

use super::host::{self, Direction, Late};
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, signal};
use crate::memory::{Access, Reached};

/// Most bytes that one call moves, as under Linux.
pub(super) const MOST_BYTES: u64 = 0x7fff_f000;
/// `UIO_MAXIOV`.
const MOST_VECTORS: u64 = 1024;
/// Of the flags of `preadv2`, those that ask nothing of the monitor: HIPRI, DSYNC, SYNC, NOWAIT, APPEND.
const KNOWN_FLAGS: i32 = 0x1f;

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

/// Of `pairs`, address and length each, what one call moves. Several are looked at as they are before they are cut, and one after it
/// (lib/iov_iter.c).
fn bounded(mut pairs: Vec<(u64, u64)>) -> Result<Vec<(u64, u64)>, Errno> {
    if pairs
        .iter()
        .any(|&(_, length)| i64::try_from(length).is_err())
    {
        return Err(Errno::INVAL);
    }
    if let [(_, length)] = &mut pairs[..] {
        *length = MOST_BYTES.min(*length);
    }
    if pairs.iter().any(|&pair| is_nowhere(pair)) {
        return Err(Errno::FAULT);
    }
    let mut left = MOST_BYTES;
    for (_, length) in &mut pairs {
        *length = left.min(*length);
        left -= *length;
    }
    pairs.retain(|&(_, length)| length > 0);
    Ok(pairs)
}

/// Bytes of `ranges`.
fn length_of(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|&(_, length)| length).sum()
}

/// True where no program has so many bytes.
fn is_nowhere((at, length): (u64, u64)) -> bool {
    at.checked_add(length)
        .is_none_or(|end| end > USER_ADDRESS_END)
}

impl Linux {
    /// The guest's `iovec`s, of which the kernel counts 32 bits: address and length each, none of them of nothing.
    pub(super) fn vectors(&mut self, at: u64, count: u64) -> Result<Vec<(u64, u64)>, Stop> {
        let count = u64::from(count as u32);
        if count > MOST_VECTORS {
            return Err(Errno::INVAL.into());
        }
        let mut raw = vec![0; count as usize * 16];
        self.read_once(at, &mut raw)?;
        let pairs = raw.chunks_exact(16).map(|pair| {
            let word = |from: usize| {
                let bytes = pair[from..from + 8].try_into();
                bytes.map_or(0, u64::from_le_bytes)
            };
            (word(0), word(8))
        });
        Ok(bounded(pairs.collect())?)
    }

    /// Waits for `descriptor` to be ready for `direction`, within the time that the file itself allows.
    pub(super) fn wait_for(&mut self, descriptor: RawFd, direction: Direction) -> Stop {
        /// When to ask again where `poll` cannot say: a datagram's receiver has no room, say.
        const SOON: std::time::Duration = std::time::Duration::from_millis(2);
        if self.progress.deadline.is_none() {
            let limit = host::time_limit(descriptor, direction);
            self.progress.deadline = limit.map(|(limit, _)| super::time::from_now(limit));
        }
        let deadline = self.progress.deadline;
        if deadline.is_some_and(super::time::is_over) {
            return Errno::AGAIN.into();
        }
        let events = direction.events();
        if self.progress.waits > 0 {
            match host::is_ready(descriptor, events) {
                Ok(true) => {
                    let soon = super::time::from_now(SOON);
                    let first = deadline.map_or(soon, |deadline| deadline.min(soon));
                    return Stop::Wait(Wait::Until(first));
                }
                Ok(false) => {}
                Err(error) => return error.into(),
            }
        }
        self.progress.waits = self.progress.waits.saturating_add(1);
        Stop::Wait(Wait::Ready {
            descriptor,
            events,
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
        let kind = host::kind(descriptor)?;
        if host::never_waits(kind) {
            let buffers = self.memory.slices_of(ranges, direction.access())?;
            return Ok(host::transfer(
                direction, descriptor, &buffers, None, flags,
            )?);
        }
        if is_nothing(ranges) {
            let moved = host::at_once(&[descriptor], || host::nothing(direction, descriptor, None));
            return self.or_wait(direction, descriptor, flags, moved);
        }
        loop {
            let rest = skip(ranges, self.progress.bytes);
            if rest.is_empty() && self.progress.bytes > 0 {
                return Ok(self.progress.bytes);
            }
            let records = host::has_records(kind);
            match self.try_once(direction, descriptor, &rest, flags, records) {
                // Who waits is told so when it happens, and whoever comes later finds the end.
                Ok(0) if self.progress.waits > 0 && host::is_abandoned(descriptor)? => {
                    return Err(Errno::IO.into());
                }
                Ok(0) => return Ok(self.progress.bytes),
                // A reader takes what there is; a writer leaves when all is written.
                Ok(moved) if direction == Direction::In => return Ok(moved),
                Ok(moved) => {
                    self.progress.bytes += moved;
                    if moved == length_of(&rest) {
                        return Ok(self.progress.bytes);
                    }
                }
                Err(Stop::Error(_)) if self.progress.bytes > 0 => return Ok(self.progress.bytes),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Moves what can be moved at once. That `poll` says ready is not enough to ask for more: others may share the file, and have had what there was.
    /// Of a file that has `records`, such as a counter's or a timer's, each is in one piece to the kernel, which frames of the guest's memory need
    /// not be. To write to one takes a call for each of `ranges`, as the kernel does it itself.
    fn try_once(
        &mut self,
        direction: Direction,
        descriptor: RawFd,
        ranges: &[(u64, u64)],
        flags: i32,
        records: bool,
    ) -> Served {
        let writes_record = records && direction == Direction::Out;
        let ranges = if writes_record {
            ranges.get(..1).unwrap_or_default()
        } else {
            ranges
        };
        let mut buffers = self.memory.slices_of(ranges, direction.access())?;
        if writes_record && buffers.beyond > 0 {
            // A part of one is none.
            buffers.slices.clear();
            buffers.beyond = length_of(ranges);
        }
        let in_pieces = records && buffers.beyond == 0 && buffers.slices.len() > 1;
        let moved = if in_pieces {
            self.move_record(direction, descriptor, ranges, flags)?
        } else {
            now(direction, descriptor, &buffers, flags)
        };
        self.or_wait(direction, descriptor, flags, moved)
    }

    /// Moves a record by way of a copy, from the first of `ranges` or to all of them.
    fn move_record(
        &mut self,
        direction: Direction,
        descriptor: RawFd,
        ranges: &[(u64, u64)],
        flags: i32,
    ) -> Result<Result<u64, Errno>, Stop> {
        // None is longer.
        let mut record = vec![0; length_of(ranges).min(PAGE_SIZE) as usize];
        if let (Direction::Out, Some(&(at, _))) = (direction, ranges.first()) {
            self.memory.read(at, &mut record)?;
        }
        let one = Reached {
            slices: vec![VolatileSlice::from(&mut record[..])],
            beyond: 0,
        };
        let moved = now(direction, descriptor, &one, flags);
        if let (Direction::In, Ok(moved)) = (direction, moved) {
            let mut rest = &record[..moved as usize];
            for &(at, length) in ranges {
                let here;
                (here, rest) = rest.split_at(rest.len().min(length as usize));
                self.memory.write(at, here)?;
            }
        }
        Ok(moved)
    }

    /// What a call with `flags` returns that has `moved` so much; or it waits, where it may.
    fn or_wait(
        &mut self,
        direction: Direction,
        descriptor: RawFd,
        flags: i32,
        moved: Result<u64, Errno>,
    ) -> Served {
        let waits = moved == Err(Errno::AGAIN) && flags & libc::RWF_NOWAIT == 0;
        if !waits || host::is_nonblocking(descriptor)? {
            return Ok(moved?);
        }
        let stop = self.wait_for(descriptor, direction);
        let is_late = matches!(stop, Stop::Error(Errno::AGAIN));
        match host::time_limit(descriptor, direction) {
            Some((_, Late::Nothing)) if is_late => Ok(0),
            _ => Err(stop),
        }
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
        if is_nothing(ranges) {
            return Ok(host::nothing(direction, descriptor, Some(offset))?);
        }
        let buffers = self.memory.slices_of(ranges, direction.access())?;
        Ok(host::transfer(
            direction,
            descriptor,
            &buffers,
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

/// Moves what can be moved at once, where a call would wait for more.
fn now(
    direction: Direction,
    descriptor: RawFd,
    buffers: &Reached<'_>,
    flags: i32,
) -> Result<u64, Errno> {
    let now = flags | libc::RWF_NOWAIT;
    match host::transfer(direction, descriptor, buffers, None, now) {
        // Terminals and timers go by the open file's flag alone.
        Err(Errno::OPNOTSUPP) => host::at_once(&[descriptor], || {
            host::transfer(direction, descriptor, buffers, None, flags)
        }),
        moved => moved,
    }
}

/// True for a buffer of no bytes, which makes a call of one that has nothing to move: the file is asked all the same. (A list of buffers
/// has none such, [`Linux::vectors`]: the kernel returns at once where it comes to nothing.)
fn is_nothing(ranges: &[(u64, u64)]) -> bool {
    matches!(ranges, [(_, 0)])
}

/// A buffer as it is named. Where the whole of it would end is looked at before as much is moved as is at most.
fn one(at: u64, length: u64) -> [(u64, u64); 1] {
    if is_nowhere((at, length)) {
        [(u64::MAX, 1)]
    } else {
        [(at, length.min(MOST_BYTES))]
    }
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
    let flags = flags as i32;
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Errno::OPNOTSUPP.into());
    }
    let ranges = linux.vectors(at, count)?;
    if offset == u64::MAX {
        linux.stream(direction, fd, &ranges, flags)
    } else {
        linux.positioned(direction, fd, &ranges, offset, flags)
    }
}

/// A file that bytes are moved to or from without a detour by the guest's memory.
#[derive(Clone, Copy, Debug)]
struct End {
    descriptor: RawFd,
    direction: Direction,
    /// A call waits at it.
    waits: bool,
}

impl End {
    fn new(descriptor: RawFd, direction: Direction) -> Result<Self, Errno> {
        let waits =
            !host::never_waits(host::kind(descriptor)?) && !host::is_nonblocking(descriptor)?;
        Ok(Self {
            descriptor,
            direction,
            waits,
        })
    }
}

impl Linux {
    /// What follows when nothing can be moved between `ends` at once: the first that is not ready is waited
    /// for, if one may wait there.
    fn wait_for_end(&mut self, ends: &[End; 2]) -> Result<Stop, Errno> {
        let mut held_up = ends.iter().rfind(|end| end.waits);
        for end in ends {
            if !host::is_ready(end.descriptor, end.direction.events())? {
                held_up = Some(end).filter(|end| end.waits);
                break;
            }
        }
        Ok(match held_up {
            Some(end) => self.wait_for(end.descriptor, end.direction),
            None => Errno::AGAIN.into(),
        })
    }
}

/// `sendfile`. All of a file goes, as far as it reaches; of what has no end to wait for, what is there.
pub(super) fn sendfile(linux: &mut Linux, [out, from, at, count, ..]: Arguments) -> Served {
    let target = linux.descriptor(out)?;
    let source = linux.descriptor(from)?;
    let ends = [
        End::new(source, Direction::In)?,
        End::new(target, Direction::Out)?,
    ];
    let is_file = host::never_waits(host::kind(source)?);
    loop {
        let left = count.min(MOST_BYTES).saturating_sub(linux.progress.bytes);
        let mut offset = if at == 0 {
            0
        } else {
            let [first] = linux.read_words_once(at)?;
            first.wrapping_add(linux.progress.bytes).cast_signed()
        };
        let position = (at != 0).then_some(&mut offset);
        let sent = host::at_once(&[source, target], || {
            host::sendfile(target, source, position, left)
        });
        let done = linux.progress.bytes;
        match sent {
            Ok(sent) => {
                if at != 0 {
                    linux.memory.write_value(at, &offset)?;
                }
                linux.progress.bytes += sent;
                if sent == 0 || sent == left || !is_file || !ends[1].waits {
                    return Ok(linux.progress.bytes);
                }
            }
            Err(Errno::AGAIN) => match linux.wait_for_end(&ends)? {
                Stop::Error(_) if done > 0 => return Ok(done),
                stop => return Err(stop),
            },
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return linux.written(Err(error.into())),
        }
    }
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
    let mut ends = [
        End::new(source, Direction::In)?,
        End::new(target, Direction::Out)?,
    ];
    // A pipe goes by the call's flag too.
    for end in &mut ends {
        if flags & NONBLOCK != 0 && host::kind(end.descriptor)? == FileType::Fifo {
            end.waits = false;
        }
    }
    let arguments = [from, from_at, to, to_at, count, flags | NONBLOCK];
    let moved = host::at_once(&[source, target], || {
        pass(linux, libc::SYS_splice as u64, &kinds, arguments)
    });
    match moved {
        Err(Stop::Error(Errno::AGAIN)) => Err(linux.wait_for_end(&ends)?),
        moved => linux.written(moved),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_buffers_are_looked_at_before_they_are_cut() {
        let most = MOST_BYTES;
        let end = USER_ADDRESS_END;
        assert_eq!(bounded(vec![]), Ok(vec![]));
        let several = vec![(0x1000, 10), (0x2000, 0), (0x3000, most), (0x4000, 1)];
        assert_eq!(
            bounded(several),
            Ok(vec![(0x1000, 10), (0x3000, most - 10)])
        );
        assert_eq!(
            bounded(vec![(0x1000, end - 0x1000)]),
            Ok(vec![(0x1000, most)])
        );
        assert_eq!(bounded(vec![(0x1000, end)]), Ok(vec![(0x1000, most)]));
        for wrong in [(0x1000, end), (end + 1, 0), (u64::MAX, 0)] {
            let all = vec![(0x1000, most), wrong];
            assert_eq!(bounded(all), Err(Errno::FAULT), "{wrong:x?}");
        }
        let negative = vec![(u64::MAX, 0), (0x1000, 1 << 63)];
        assert_eq!(bounded(negative), Err(Errno::INVAL));
    }

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
