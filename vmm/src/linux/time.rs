//! Calls about time.

use rustix::io::Errno;
use rustix::time::{ClockId, Timespec};

use super::record::Record;
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, host};

const NANOSECONDS: i64 = 1_000_000_000;

/// Whether there is a clock of this number, of the machine or of the process.
fn is_clock(id: i32) -> bool {
    matches!(
        id,
        libc::CLOCK_REALTIME
            | libc::CLOCK_MONOTONIC
            | libc::CLOCK_PROCESS_CPUTIME_ID
            | libc::CLOCK_MONOTONIC_RAW
            | libc::CLOCK_REALTIME_COARSE
            | libc::CLOCK_MONOTONIC_COARSE
            | libc::CLOCK_BOOTTIME
            | libc::CLOCK_TAI
    )
}

/// The number of a clock that can be waited for. Those of processor time can't; others that there are show no more than
/// the time (`EOPNOTSUPP`).
pub(super) fn waiting_clock(id: u64) -> Result<i32, Stop> {
    match id as i32 {
        id @ (libc::CLOCK_REALTIME
        | libc::CLOCK_MONOTONIC
        | libc::CLOCK_BOOTTIME
        | libc::CLOCK_TAI) => Ok(id),
        libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_REALTIME_COARSE | libc::CLOCK_MONOTONIC_COARSE => {
            Err(Errno::OPNOTSUPP.into())
        }
        libc::CLOCK_PROCESS_CPUTIME_ID | OWN_THREAD => Err(Stop::Refused(Errno::INVAL)),
        _ => Err(Errno::INVAL.into()),
    }
}

/// The number of the calling thread's own clock.
const OWN_THREAD: i32 = libc::CLOCK_THREAD_CPUTIME_ID;

fn write_time(linux: &mut Linux, at: u64, seconds: i64, fraction: i64) -> Served {
    let record = Record::default().u64(seconds as u64).u64(fraction as u64);
    linux.memory.write(at, record.bytes())?;
    Ok(0)
}

pub(super) fn read_timespec(linux: &mut Linux, at: u64) -> Result<Timespec, Stop> {
    let [time] = read_timespecs(linux, at)?;
    Ok(time)
}

/// Several, one after the other. All are read before one is looked at, as by the kernel.
pub(super) fn read_timespecs<const N: usize>(
    linux: &mut Linux,
    at: u64,
) -> Result<[Timespec; N], Stop> {
    let of = |[seconds, nanoseconds]: [i64; 2]| {
        let is_time = seconds >= 0 && (0..NANOSECONDS).contains(&nanoseconds);
        is_time.then_some(Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        })
    };
    let mut times = [Timespec::default(); N];
    for (time, words) in times.iter_mut().zip(read_pairs::<N>(linux, at)?) {
        *time = of(words).ok_or(Errno::INVAL)?;
    }
    Ok(times)
}

/// So many pairs of words, such as times are.
pub(super) fn read_pairs<const N: usize>(
    linux: &mut Linux,
    at: u64,
) -> Result<[[i64; 2]; N], Stop> {
    let mut bytes = [[[0; 8]; 2]; N];
    let all = bytes.as_flattened_mut().as_flattened_mut();
    linux.read_once(at, all)?;
    Ok(bytes.map(|pair| pair.map(i64::from_le_bytes)))
}

/// The last moment of monotonic time.
const LAST: Timespec = Timespec {
    tv_sec: i64::MAX,
    tv_nsec: 0,
};

/// The moment of monotonic time that `duration` from now is; the last there is for one too long.
pub(super) fn from_now(duration: std::time::Duration) -> Timespec {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let duration = Timespec::try_from(duration).ok();
    duration.and_then(|d| now.checked_add(d)).unwrap_or(LAST)
}

/// The moment of monotonic time at which `clock` shows `time`, if nobody sets it until then.
pub(super) fn monotonic(clock: i32, time: Timespec) -> Timespec {
    let now = host::time(clock);
    match time.checked_sub(now) {
        Some(left) if time > now => from_now(duration(&left)),
        _ => rustix::time::clock_gettime(ClockId::Monotonic),
    }
}

/// True once that moment of monotonic time has come.
pub(super) fn is_over(deadline: Timespec) -> bool {
    rustix::time::clock_gettime(ClockId::Monotonic) >= deadline
}

/// A time that [`read_timespec`] has found valid.
pub(super) fn duration(time: &Timespec) -> std::time::Duration {
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// `clock_gettime`.
pub(super) fn clock_gettime(linux: &mut Linux, [id, at, ..]: Arguments) -> Served {
    let now = match id as i32 {
        OWN_THREAD => linux.own_time(),
        id if id < 0 => linux.processor_clock(id).ok_or(Errno::INVAL)?,
        id if is_clock(id) => host::time(id),
        _ => return Err(Errno::INVAL.into()),
    };
    write_time(linux, at, now.tv_sec, now.tv_nsec)
}

/// `clock_getres`.
pub(super) fn clock_getres(linux: &mut Linux, [id, at, ..]: Arguments) -> Served {
    let resolution = match id as i32 {
        // That of this process is as fine as any other's.
        id if id < 0 && linux.processor_clock(id).is_some() => host::resolution(!0 << 3 | id & 7),
        id if id == OWN_THREAD || is_clock(id) => host::resolution(id),
        _ => return Err(Errno::INVAL.into()),
    };
    if at == 0 {
        return Ok(0);
    }
    write_time(linux, at, resolution.tv_sec, resolution.tv_nsec)
}

/// `gettimeofday`.
pub(super) fn gettimeofday(linux: &mut Linux, [at, zone, ..]: Arguments) -> Served {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    if at != 0 {
        write_time(linux, at, now.tv_sec, now.tv_nsec / 1000)?;
    }
    if zone != 0 {
        linux.memory.write(zone, &[0; 8])?;
    }
    Ok(0)
}

/// `time`.
pub(super) fn time(linux: &mut Linux, [at, ..]: Arguments) -> Served {
    let now = rustix::time::clock_gettime(ClockId::Realtime).tv_sec;
    if at != 0 {
        linux.memory.write(at, &now.to_le_bytes())?;
    }
    Ok(now as u64)
}

/// `times`: processor time of this process, in 1/100 s.
pub(super) fn times(linux: &mut Linux, [at, ..]: Arguments) -> Served {
    let ticks = |time: Timespec| (time.tv_sec * 100 + time.tv_nsec / 10_000_000) as u64;
    let used = ticks(rustix::time::clock_gettime(ClockId::ProcessCPUTime));
    if at != 0 {
        let record = Record::default().u64(used).zeros(24);
        linux.memory.write(at, record.bytes())?;
    }
    Ok(ticks(rustix::time::clock_gettime(ClockId::Monotonic)))
}

/// `nanosleep`.
pub(super) fn nanosleep(linux: &mut Linux, [request, remaining, ..]: Arguments) -> Served {
    sleep_for(linux, request, remaining)
}

/// `clock_nanosleep`, relative or until a time.
pub(super) fn clock_nanosleep(
    linux: &mut Linux,
    [id, flags, request, remaining, ..]: Arguments,
) -> Served {
    const ABSOLUTE: u64 = 1;
    if id as i32 == OWN_THREAD {
        // Who sleeps takes none of it.
        return Err(Errno::OPNOTSUPP.into());
    }
    let clock = waiting_clock(id)?;
    if flags & ABSOLUTE == 0 {
        return sleep_for(linux, request, remaining);
    }
    let until = read_timespec(linux, request)?;
    let deadline = monotonic(clock, until);
    if is_over(deadline) {
        return Ok(0);
    }
    Err(Stop::Wait(Wait::Until(deadline)))
}

fn sleep_for(linux: &mut Linux, request: u64, remaining: u64) -> Served {
    let deadline = match linux.progress.deadline {
        Some(deadline) => deadline,
        None => from_now(duration(&read_timespec(linux, request)?)),
    };
    linux.progress.deadline = Some(deadline);
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    if now >= deadline {
        return Ok(0);
    }
    if linux.progress.interrupted && remaining != 0 {
        let left = deadline - now;
        write_time(linux, remaining, left.tv_sec, left.tv_nsec)?;
    }
    Err(Stop::Wait(Wait::Until(deadline)))
}
