//! Calls that wait for one of several descriptors: `poll`, `select`, `epoll_wait`.
//!
//! The host's kernel is asked what is ready now. If nothing is, the call waits as any other does.

use std::os::fd::RawFd;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::host::EPOLL_EVENT;
use super::wait::Wait;
use super::{Arguments, Call, Linux, Served, Stop, host, limits, time};

/// Bytes of a `struct pollfd`, and where in it the events are that were found.
const RECORD: usize = 8;
const FOUND: usize = 6;
/// Descriptors that a set of `select` may hold.
const SET: u64 = 1024;

/// How long a call may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// Not at all.
    Now,
    /// Until then.
    Until(Timespec),
    /// For ever.
    Never,
}

impl Linux {
    /// The limit of a call that may wait for `milliseconds`, for ever if negative.
    fn limit_of(&mut self, milliseconds: i32) -> Limit {
        match u64::try_from(milliseconds) {
            Err(_) => Limit::Never,
            Ok(0) => Limit::Now,
            Ok(milliseconds) => self.limit_in(std::time::Duration::from_millis(milliseconds)),
        }
    }

    fn limit_in(&mut self, duration: std::time::Duration) -> Limit {
        if duration.is_zero() {
            return Limit::Now;
        }
        let deadline = self.progress.deadline;
        let deadline = deadline.unwrap_or_else(|| time::from_now(duration));
        self.progress.deadline = Some(deadline);
        Limit::Until(deadline)
    }

    /// The limit that the `struct timespec` at `at` tells, or none if it is null.
    fn limit_at(&mut self, at: u64) -> Result<Limit, Stop> {
        if at == 0 {
            return Ok(Limit::Never);
        }
        let time = time::read_timespec(self, at)?;
        Ok(self.limit_in(time::duration(&time)))
    }

    /// A call has found nothing and may not wait: a signal that only its mask lets in ends it all the same.
    fn let_signals_in(&mut self) -> Result<(), Stop> {
        let tid = self.tid();
        if self.task().saved_mask.is_some() && self.settle_signals(tid) != 0 {
            self.progress.interrupted = true;
            return Err(Stop::Wait(Wait::Woken { deadline: None }));
        }
        Ok(())
    }
}

/// Asks for the events of `polls` at once; the number of descriptors that have some.
fn look(polls: &mut [PollFd<'_>]) -> Result<usize, Errno> {
    crate::descriptors::poll(polls, Some(&Timespec::default()))
}

/// What follows when none of `waiting` is ready.
fn until(limit: Limit, waiting: Vec<(RawFd, PollFlags)>) -> Served {
    let deadline = match limit {
        Limit::Now => return Ok(0),
        Limit::Until(deadline) if time::is_over(deadline) => return Ok(0),
        Limit::Until(deadline) => Some(deadline),
        Limit::Never => None,
    };
    Err(Stop::Wait(Wait::AnyReady {
        descriptors: waiting,
        deadline,
    }))
}

/// `poll`.
pub(super) fn poll(linux: &mut Linux, [at, count, timeout, ..]: Arguments) -> Served {
    let limit = linux.limit_of(timeout as i32);
    poll_until(linux, at, count, limit)
}

/// `ppoll`.
pub(super) fn ppoll(linux: &mut Linux, [at, count, timeout, mask, size, _]: Arguments) -> Served {
    linux.mask_for_wait(mask, size)?;
    let limit = linux.limit_at(timeout)?;
    poll_until(linux, at, count, limit)
}

fn poll_until(linux: &mut Linux, at: u64, count: u64, limit: Limit) -> Served {
    let count = u64::from(count as u32);
    if count > linux.limits.soft(limits::FILES) {
        return Err(Errno::INVAL.into());
    }
    let mut raw = vec![0u8; count as usize * RECORD];
    linux.read_once(at, &mut raw)?;
    let mut polls = Vec::with_capacity(count as usize);
    let mut places = Vec::with_capacity(count as usize);
    let mut ready = 0;
    for (place, record) in raw.chunks_exact_mut(RECORD).enumerate() {
        let number = i32::from_le_bytes([record[0], record[1], record[2], record[3]]);
        let events = PollFlags::from_bits_retain(u16::from_le_bytes([record[4], record[5]]));
        record[FOUND..].fill(0);
        if number < 0 {
            continue;
        }
        if let Ok(descriptor) = linux.descriptor(number as u64) {
            polls.push(PollFd::from_borrowed_fd(host::borrow(descriptor), events));
            places.push((place, descriptor, events));
        } else {
            record[FOUND..].copy_from_slice(&PollFlags::NVAL.bits().to_le_bytes());
            ready += 1;
        }
    }
    ready += look(&mut polls)? as u64;
    if ready == 0 && limit == Limit::Now {
        linux.let_signals_in()?;
    } else if ready == 0 {
        let waiting = places
            .iter()
            .map(|&(_, descriptor, events)| (descriptor, events));
        until(limit, waiting.collect())?;
    }
    for (poll, (place, ..)) in polls.iter().zip(places) {
        let events = poll.revents().bits();
        raw[place * RECORD + FOUND..][..2].copy_from_slice(&events.to_le_bytes());
    }
    // What is asked for may be about to be changed by another processor.
    for (record, place) in raw.chunks_exact(RECORD).zip((at..).step_by(RECORD)) {
        linux.memory.write(place + FOUND as u64, &record[FOUND..])?;
    }
    Ok(ready)
}

/// The events that `select` means by its sets (fs/select.c: `POLLIN_SET` and others), in their order.
const SETS: [(PollFlags, PollFlags); 3] = [
    (
        PollFlags::IN,
        PollFlags::from_bits_retain(
            PollFlags::IN.bits()
                | PollFlags::RDNORM.bits()
                | PollFlags::RDBAND.bits()
                | PollFlags::HUP.bits()
                | PollFlags::ERR.bits(),
        ),
    ),
    (
        PollFlags::OUT,
        PollFlags::from_bits_retain(
            PollFlags::OUT.bits()
                | PollFlags::WRNORM.bits()
                | PollFlags::WRBAND.bits()
                | PollFlags::ERR.bits(),
        ),
    ),
    (PollFlags::PRI, PollFlags::PRI),
];

/// `call` ends, which waited until `deadline` at the most: writes what is left of its time to where that was read, if it
/// is one that does. As under Linux (fs/select.c, `poll_select_finish`) it is no error where that cannot be written.
pub(super) fn tell_time_left(linux: &mut Linux, call: &Call, deadline: Timespec) {
    const MICROSECOND: i64 = 1000;
    let [_, _, third, _, fifth, _] = call.arguments;
    let (at, unit) = match call.number as i64 {
        libc::SYS_select => (fifth, MICROSECOND),
        libc::SYS_pselect6 => (fifth, 1),
        libc::SYS_ppoll => (third, 1),
        _ => return,
    };
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let left = deadline.checked_sub(now).filter(|_| deadline > now);
    let left = left.unwrap_or_default();
    let words = [left.tv_sec, left.tv_nsec / unit].map(i64::to_le_bytes);
    let _ = linux.memory.write(at, words.as_flattened());
}

/// `select`.
pub(super) fn select(linux: &mut Linux, [count, read, write, except, at, _]: Arguments) -> Served {
    let limit = if at == 0 {
        Limit::Never
    } else {
        let time = linux.read_words_once(at)?.map(u64::cast_signed);
        let [whole, part] = time.map(u64::try_from);
        let (whole, part) = whole
            .and_then(|whole| Ok((whole, part?)))
            .map_err(|_| Errno::INVAL)?;
        let time = std::time::Duration::from_secs(whole)
            .saturating_add(std::time::Duration::from_micros(part));
        linux.limit_in(time)
    };
    select_until(linux, count, [read, write, except], limit)
}

/// `pselect6`: its last argument is the address of a mask's address and size.
pub(super) fn pselect6(
    linux: &mut Linux,
    [count, read, write, except, timeout, mask]: Arguments,
) -> Served {
    if mask != 0 {
        let [at, size] = linux.read_words_once(mask)?;
        linux.mask_for_wait(at, size)?;
    }
    let limit = linux.limit_at(timeout)?;
    select_until(linux, count, [read, write, except], limit)
}

fn select_until(linux: &mut Linux, count: u64, sets: [u64; 3], limit: Limit) -> Served {
    let count = u64::try_from(count as i32).map_err(|_| Errno::INVAL)?;
    let count = count.min(SET);
    let bytes = count.div_ceil(64) as usize * 8;
    let mut asked: [Vec<u8>; 3] = std::array::from_fn(|_| vec![0; bytes]);
    for (at, set) in sets.iter().zip(&mut asked) {
        if *at != 0 {
            linux.read_once(*at, set)?;
        }
    }
    let mut waiting: Vec<(RawFd, PollFlags)> = Vec::new();
    for number in 0..count {
        let (byte, bit) = (number as usize / 8, 1 << (number % 8));
        let mut events = PollFlags::empty();
        for (set, (events_of_set, _)) in asked.iter().zip(SETS) {
            if set[byte] & bit != 0 {
                events |= events_of_set;
            }
        }
        if !events.is_empty() {
            waiting.push((linux.descriptor(number)?, events));
        }
    }
    let poll = |&(fd, events): &(RawFd, _)| PollFd::from_borrowed_fd(host::borrow(fd), events);
    let mut polls: Vec<PollFd<'_>> = waiting.iter().map(poll).collect();
    let ready = look(&mut polls)?;
    if polls
        .iter()
        .any(|poll| poll.revents().contains(PollFlags::NVAL))
    {
        return Err(Errno::BADF.into());
    }
    if ready == 0 && limit == Limit::Now {
        linux.let_signals_in()?;
    } else if ready == 0 {
        until(limit, waiting.clone())?;
    }
    let mut answer: [Vec<u8>; 3] = std::array::from_fn(|_| vec![0; bytes]);
    let mut found = 0;
    for (poll, &(number, _)) in polls.iter().zip(&waiting) {
        let (byte, bit) = (number as usize / 8, 1 << (number % 8));
        for (at, (_, meant)) in SETS.into_iter().enumerate() {
            if asked[at][byte] & bit != 0 && poll.revents().intersects(meant) {
                answer[at][byte] |= bit;
                found += 1;
            }
        }
    }
    for (at, set) in sets.iter().zip(&answer) {
        if *at != 0 {
            linux.memory.write(*at, set)?;
        }
    }
    Ok(found)
}

/// `epoll_wait`.
pub(super) fn epoll_wait(linux: &mut Linux, [fd, at, count, timeout, ..]: Arguments) -> Served {
    let limit = linux.limit_of(timeout as i32);
    epoll_until(linux, fd, at, count, limit)
}

/// `epoll_pwait`.
pub(super) fn epoll_pwait(
    linux: &mut Linux,
    [fd, at, count, timeout, mask, size]: Arguments,
) -> Served {
    linux.mask_for_wait(mask, size)?;
    epoll_wait(linux, [fd, at, count, timeout, 0, 0])
}

/// `epoll_pwait2`.
pub(super) fn epoll_pwait2(
    linux: &mut Linux,
    [fd, at, count, timeout, mask, size]: Arguments,
) -> Served {
    linux.mask_for_wait(mask, size)?;
    let limit = linux.limit_at(timeout)?;
    epoll_until(linux, fd, at, count, limit)
}

fn epoll_until(linux: &mut Linux, fd: u64, at: u64, count: u64, limit: Limit) -> Served {
    const MOST_EVENTS: usize = 4096;
    let descriptor = linux.descriptor(fd)?;
    let count = usize::try_from(count as i32).map_err(|_| Errno::INVAL)?;
    let mut events = vec![0u8; count.min(MOST_EVENTS) * EPOLL_EVENT];
    let ready = host::epoll_events(descriptor, &mut events)?;
    if ready == 0 {
        return until(limit, vec![(descriptor, PollFlags::IN)]);
    }
    linux
        .memory
        .write(at, &events[..ready as usize * EPOLL_EVENT])?;
    Ok(ready)
}
