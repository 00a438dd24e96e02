//! Calls about the process itself: identity, end, thread pointer, limits.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use rustix::io::Errno;
use rustix::thread::{
    ClockId, NanosleepRelativeResult, clock_nanosleep_absolute, clock_nanosleep_relative,
};

use super::record::Record;
use super::{Arguments, Linux, Served, Stop};
use crate::fault::Outcome;

/// The guest is the only process of its machine.
pub(super) const PID: u64 = 1;

/// `exit` and `exit_group`: there is one thread.
pub(super) fn exit(_: &mut Linux, [status, ..]: Arguments) -> Served {
    Err(Stop::End(Outcome::Exited(status as u8)))
}

/// `getpid`, `gettid`, `getpgrp`, `getsid`.
pub(super) fn getpid(_: &mut Linux, _: Arguments) -> Served {
    Ok(PID)
}

/// `getppid`: nobody started it.
pub(super) fn getppid(_: &mut Linux, _: Arguments) -> Served {
    Ok(0)
}

/// `getuid`.
pub(super) fn getuid(_: &mut Linux, _: Arguments) -> Served {
    Ok(rustix::process::getuid().as_raw().into())
}

/// `geteuid`.
pub(super) fn geteuid(_: &mut Linux, _: Arguments) -> Served {
    Ok(rustix::process::geteuid().as_raw().into())
}

/// `getgid`.
pub(super) fn getgid(_: &mut Linux, _: Arguments) -> Served {
    Ok(rustix::process::getgid().as_raw().into())
}

/// `getegid`.
pub(super) fn getegid(_: &mut Linux, _: Arguments) -> Served {
    Ok(rustix::process::getegid().as_raw().into())
}

/// `set_tid_address`: nobody waits for the only thread.
pub(super) fn set_tid_address(_: &mut Linux, _: Arguments) -> Served {
    Ok(PID)
}

/// `set_robust_list`: likewise.
pub(super) fn set_robust_list(_: &mut Linux, [_, size, ..]: Arguments) -> Served {
    if size == 24 {
        Ok(0)
    } else {
        Err(Errno::INVAL.into())
    }
}

/// `arch_prctl`: the thread pointer.
pub(super) fn arch_prctl(linux: &mut Linux, [code, address, ..]: Arguments) -> Served {
    const SET_FS: u64 = 0x1002;
    if code != SET_FS {
        return Err(Errno::INVAL.into());
    }
    if address >= pool_core::address::USER_ADDRESS_END {
        return Err(Errno::PERM.into());
    }
    linux.thread_pointer = Some(address);
    Ok(0)
}

/// `prctl`: the thread's name is accepted; nothing else is there to be set.
pub(super) fn prctl(_: &mut Linux, [option, ..]: Arguments) -> Served {
    const SET_NAME: u64 = 15;
    match option {
        SET_NAME => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }
}

/// `futex`: waking wakes nobody; waiting lasts until its time is over, and without one it would be
/// for ever, as there is no other thread.
pub(super) fn futex(
    linux: &mut Linux,
    [address, operation, value, timeout, ..]: Arguments,
) -> Served {
    const COMMAND: u64 = 0x7f;
    const CLOCK_REALTIME: u64 = 0x100;
    const WAIT: u64 = 0;
    const WAKE: u64 = 1;
    const WAIT_BITSET: u64 = 9;
    const WAKE_BITSET: u64 = 10;
    let command = operation & COMMAND;
    match command {
        WAIT | WAIT_BITSET => {
            if !address.is_multiple_of(4) {
                return Err(Errno::INVAL.into());
            }
            let found: u32 = linux.memory.read_value(address)?;
            if found != value as u32 {
                return Err(Errno::AGAIN.into());
            }
            if timeout == 0 {
                return Err(Errno::DEADLK.into());
            }
            let time = super::time::read_timespec(linux, timeout)?;
            let clock = if operation & CLOCK_REALTIME == 0 {
                ClockId::Monotonic
            } else {
                ClockId::Realtime
            };
            if command == WAIT {
                match clock_nanosleep_relative(clock, &time) {
                    NanosleepRelativeResult::Ok => {}
                    NanosleepRelativeResult::Interrupted(_) => return Err(Errno::INTR.into()),
                    NanosleepRelativeResult::Err(error) => return Err(error.into()),
                }
            } else {
                clock_nanosleep_absolute(clock, &time)?;
            }
            Err(Errno::TIMEDOUT.into())
        }
        WAKE | WAKE_BITSET => Ok(0),
        _ => Err(Errno::NOSYS.into()),
    }
}

fn limits(linux: &Linux, resource: u64) -> Result<(u64, u64), Errno> {
    const STACK: u64 = 3;
    const FILES: u64 = 7;
    const CORE: u64 = 4;
    match resource {
        STACK => Ok((linux.stack_size, linux.stack_size)),
        FILES => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
            let limits = [limit.current, limit.maximum].map(|limit| limit.unwrap_or(u64::MAX));
            Ok((limits[0], limits[1]))
        }
        CORE => Ok((0, 0)),
        0..=15 => Ok((u64::MAX, u64::MAX)),
        _ => Err(Errno::INVAL),
    }
}

/// `getrlimit`.
pub(super) fn getrlimit(linux: &mut Linux, [resource, at, ..]: Arguments) -> Served {
    let (soft, hard) = limits(linux, resource)?;
    let record = Record::default().u64(soft).u64(hard);
    linux.memory.write(at, record.bytes())?;
    Ok(0)
}

/// `prlimit64` of oneself; limits cannot be changed.
pub(super) fn prlimit64(linux: &mut Linux, [pid, resource, new, old, ..]: Arguments) -> Served {
    if pid != 0 && pid != PID {
        return Err(Errno::SRCH.into());
    }
    if new != 0 {
        return Err(Errno::PERM.into());
    }
    if old == 0 {
        limits(linux, resource)?;
        return Ok(0);
    }
    getrlimit(linux, [resource, old, 0, 0, 0, 0])
}
