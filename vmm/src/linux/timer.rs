//! Timers that send signals: `alarm`, `setitimer`, `timer_create` and its like.
//!
//! They count real time. Timers of processor time are refused with `EINVAL`: what a guest takes
//! cannot be told apart from what its monitor does for it.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use super::record::Record;
use super::signal::{Info, Signal, Target};
use super::{Arguments, Linux, Served, Stop, time};

/// Timers that a guest may have made.
const MOST: usize = 256;
/// Periods are not shorter than this, so that a guest gets something done between two.
const SHORTEST: Duration = Duration::from_micros(100);
const ALARM: Signal = libc::SIGALRM as Signal;

/// A timer that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Armed {
    /// When it expires next: monotonic time.
    at: Timespec,
    /// From one time to the next; zero for one that expires once.
    period: Duration,
}

impl Armed {
    /// What it is after `now`, and how often it has expired; `None` if it has not.
    fn expire(self, now: Timespec) -> Option<(Option<Self>, u64)> {
        let late = now.checked_sub(self.at).filter(|_| now >= self.at)?;
        if self.period.is_zero() {
            return Some((None, 1));
        }
        let periods = time::duration(&late).as_nanos() / self.period.as_nanos();
        let periods = u64::try_from(periods).unwrap_or(u64::MAX) + 1;
        let step = self.period.as_nanos().saturating_mul(periods.into());
        let step = Duration::from_nanos(u64::try_from(step).unwrap_or(u64::MAX));
        let next = Timespec::try_from(step)
            .ok()
            .and_then(|step| self.at.checked_add(step));
        let next = next.map(|at| Self { at, ..self });
        Some((next, periods))
    }

    /// Time left and period, as the guest is told: never zero while it runs.
    fn left(armed: Option<Self>) -> (Duration, Duration) {
        let Some(armed) = armed else {
            return (Duration::ZERO, Duration::ZERO);
        };
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        let left = match armed.at.checked_sub(now) {
            Some(left) if armed.at > now => time::duration(&left),
            _ => Duration::from_nanos(1),
        };
        (left, armed.period)
    }
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// Its number.
    clock: i32,
    /// Whom it tells, and by what; `None` for nobody.
    tells: Option<(Target, Info)>,
    armed: Option<Armed>,
    /// How often more it expired than it told.
    overrun: i32,
}

/// All timers of a guest.
#[derive(Debug, Default)]
pub(super) struct Timers {
    alarm: Option<Armed>,
    made: BTreeMap<i32, Timer>,
    next: Option<Timespec>,
}

impl Timers {
    /// When the first expires.
    pub(super) fn deadline(&self) -> Option<Timespec> {
        self.next
    }

    fn changed(&mut self) {
        let armed = self.made.values().filter_map(|timer| timer.armed);
        self.next = armed.chain(self.alarm).map(|armed| armed.at).min();
    }
}

impl Linux {
    /// Sends the signals of all timers that have expired at `now`.
    pub(super) fn expire_timers(&mut self, now: Timespec) {
        if self.timers.next.is_none_or(|next| next > now) {
            return;
        }
        if let Some((next, _)) = self.timers.alarm.and_then(|alarm| alarm.expire(now)) {
            self.timers.alarm = next;
            // One waits already: nothing more is to be told.
            let _ = self.send(Target::Process, Info::new(ALARM, libc::SI_KERNEL));
        }
        let mut sent = Vec::new();
        for (&id, timer) in &mut self.timers.made {
            if let Some((next, times)) = timer.armed.and_then(|armed| armed.expire(now)) {
                timer.armed = next;
                sent.push((id, timer.tells, times));
            }
        }
        for (id, tells, times) in sent {
            if let Some((target, info)) = tells {
                let overrun = self.tell(target, info, times);
                if let Some(timer) = self.timers.made.get_mut(&id) {
                    timer.overrun = overrun;
                }
            }
        }
        self.timers.changed();
    }
}

fn itimerval(period: Duration, left: Duration) -> Record {
    [period, left].iter().fold(Record::default(), |record, d| {
        record.u64(d.as_secs()).u64(d.subsec_micros().into())
    })
}

fn interval([seconds, microseconds]: [i64; 2]) -> Result<Duration, Errno> {
    if seconds < 0 || !(0..1_000_000).contains(&microseconds) {
        return Err(Errno::INVAL);
    }
    Ok(Duration::new(seconds as u64, microseconds as u32 * 1000))
}

fn arm(after: Duration, period: Duration) -> Option<Armed> {
    let period = if period.is_zero() {
        period
    } else {
        period.max(SHORTEST)
    };
    (!after.is_zero()).then(|| Armed {
        at: time::from_now(after),
        period,
    })
}

/// `alarm`.
pub(super) fn alarm(linux: &mut Linux, [seconds, ..]: Arguments) -> Served {
    let (left, _) = Armed::left(linux.timers.alarm);
    linux.timers.alarm = arm(Duration::from_secs(seconds as u32 as u64), Duration::ZERO);
    linux.timers.changed();
    // Rounded, but not to nothing.
    let rounded = left.as_secs() + u64::from(left.subsec_nanos() >= 500_000_000);
    Ok(if left.is_zero() { 0 } else { rounded.max(1) })
}

fn real(which: u64) -> Result<(), Stop> {
    match which as i32 {
        libc::ITIMER_REAL => Ok(()),
        libc::ITIMER_VIRTUAL | libc::ITIMER_PROF => Err(Stop::Refused(Errno::INVAL)),
        _ => Err(Errno::INVAL.into()),
    }
}

/// `getitimer`: `ITIMER_REAL`.
pub(super) fn getitimer(linux: &mut Linux, [which, at, ..]: Arguments) -> Served {
    real(which)?;
    let (left, period) = Armed::left(linux.timers.alarm);
    linux.memory.write(at, itimerval(period, left).bytes())?;
    Ok(0)
}

/// `setitimer`: `ITIMER_REAL`.
pub(super) fn setitimer(linux: &mut Linux, [which, new, old, ..]: Arguments) -> Served {
    let mut armed = None;
    if new != 0 {
        let [every, after] = time::read_pairs(linux, new)?;
        let (every, after) = (interval(every)?, interval(after)?);
        armed = arm(after, every);
    }
    real(which)?;
    let (left, period) = Armed::left(linux.timers.alarm);
    linux.timers.alarm = armed;
    linux.timers.changed();
    if old != 0 {
        linux.memory.write(old, itimerval(period, left).bytes())?;
    }
    Ok(0)
}

/// `timer_create`.
pub(super) fn timer_create(linux: &mut Linux, [clock, event, at, ..]: Arguments) -> Served {
    const SIGNAL: i32 = 0;
    const NONE: i32 = 1;
    /// A C library's, which makes it a signal: so does the kernel.
    const FUNCTION: i32 = 2;
    const THREAD: i32 = 4;
    let mut bytes = [0; 64];
    if event != 0 {
        linux.memory.read(event, &mut bytes)?;
    }
    let clock = time::waiting_clock(clock)?;
    if linux.timers.made.len() >= MOST {
        return Err(Errno::AGAIN.into());
    }
    let mut id = 0;
    while linux.timers.made.contains_key(&id) {
        id += 1;
    }
    let (mut value, mut signal, mut notify, mut thread) = (id as u64, i32::from(ALARM), SIGNAL, 0);
    if event != 0 {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            i32::from_le_bytes(word)
        };
        value = u64::from(word(0).cast_unsigned()) | u64::from(word(4).cast_unsigned()) << 32;
        (signal, notify, thread) = (word(8), word(12), word(16));
    }
    let target = match notify {
        NONE => None,
        SIGNAL | FUNCTION => Some(Target::Process),
        THREAD => {
            let tid = linux.task_named(thread as u64).map_err(|_| Errno::INVAL)?;
            Some(Target::Task(tid))
        }
        _ => return Err(Errno::INVAL.into()),
    };
    if target.is_some() && !(1..=64).contains(&signal) {
        return Err(Errno::INVAL.into());
    }
    linux.memory.write_value(at, &id)?;
    let info = Info::new(signal as Signal, libc::SI_TIMER);
    let info = info.with(0, id as u64).with(1, value);
    let timer = Timer {
        clock,
        tells: target.map(|target| (target, info)),
        armed: None,
        overrun: 0,
    };
    linux.timers.made.insert(id, timer);
    Ok(0)
}

fn find(linux: &mut Linux, id: u64) -> Result<&mut Timer, Errno> {
    linux.timers.made.get_mut(&(id as i32)).ok_or(Errno::INVAL)
}

fn itimerspec((left, period): (Duration, Duration)) -> Record {
    [period, left].iter().fold(Record::default(), |record, d| {
        record.u64(d.as_secs()).u64(d.subsec_nanos().into())
    })
}

/// `timer_settime`.
pub(super) fn timer_settime(linux: &mut Linux, [id, flags, new, old, ..]: Arguments) -> Served {
    const ABSOLUTE: u64 = 1;
    if new == 0 {
        return Err(Errno::INVAL.into());
    }
    let [period, first] = time::read_timespecs(linux, new)?;
    let timer = *find(linux, id)?;
    let before = itimerspec(Armed::left(timer.armed));
    let (first_in, period) = (time::duration(&first), time::duration(&period));
    let mut armed = arm(first_in, period);
    if flags & ABSOLUTE != 0
        && let Some(armed) = &mut armed
    {
        armed.at = time::monotonic(timer.clock, first);
    }
    let timer = find(linux, id)?;
    timer.armed = armed;
    timer.overrun = 0;
    linux.timers.changed();
    if old != 0 {
        linux.memory.write(old, before.bytes())?;
    }
    Ok(0)
}

/// `timer_gettime`.
pub(super) fn timer_gettime(linux: &mut Linux, [id, at, ..]: Arguments) -> Served {
    let timer = *find(linux, id)?;
    linux
        .memory
        .write(at, itimerspec(Armed::left(timer.armed)).bytes())?;
    Ok(0)
}

/// `timer_getoverrun`.
pub(super) fn timer_getoverrun(linux: &mut Linux, [id, ..]: Arguments) -> Served {
    Ok(find(linux, id)?.overrun as u64)
}

/// `timer_delete`.
pub(super) fn timer_delete(linux: &mut Linux, [id, ..]: Arguments) -> Served {
    find(linux, id)?;
    linux.timers.made.remove(&(id as i32));
    linux.timers.changed();
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tv_sec: i64) -> Timespec {
        Timespec { tv_sec, tv_nsec: 0 }
    }

    #[test]
    fn a_timer_expires_as_often_as_its_periods_have_passed() {
        let once = Armed {
            at: at(10),
            period: Duration::ZERO,
        };
        assert_eq!(once.expire(at(9)), None);
        assert_eq!(once.expire(at(12)), Some((None, 1)));
        let every = Armed {
            at: at(10),
            period: Duration::from_secs(2),
        };
        let next = |seconds| {
            Some(Armed {
                at: at(seconds),
                ..every
            })
        };
        assert_eq!(every.expire(at(10)), Some((next(12), 1)));
        assert_eq!(every.expire(at(15)), Some((next(16), 3)));
    }
}
