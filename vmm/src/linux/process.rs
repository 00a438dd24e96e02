//! Calls about the process itself: its number and its limits.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::record::Record;
use super::{Arguments, Linux, Served};

/// The guest is the only process of its machine.
pub(crate) const PID: u64 = 1;

/// The number of the guest's process, which is this one, on the host.
pub(super) fn number_on_host() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// What a guest is told of the host's process `number`, as a process in a PID namespace of its own is.
pub(super) fn number_for_guest(number: i32) -> i32 {
    if number == number_on_host() {
        PID as i32
    } else {
        0
    }
}

/// `getpid`, `getpgrp`.
pub(super) fn getpid(_: &mut Linux, _: Arguments) -> Served {
    Ok(PID)
}

/// `getppid`: nobody started it.
pub(super) fn getppid(_: &mut Linux, _: Arguments) -> Served {
    Ok(0)
}

/// `RLIMIT_NOFILE`.
const FILES: u64 = 7;
/// The monitor's own numbers, some dozens from [`crate::descriptors::FIRST`] on, count as well.
const LEAST_FILES: u64 = 128;

pub(super) fn limits(linux: &Linux, resource: u64) -> Result<(u64, u64), Errno> {
    const STACK: u64 = 3;
    const CORE: u64 = 4;
    match resource {
        STACK => Ok((linux.stack_size, linux.stack_size)),
        FILES => {
            let limit = rustix::process::getrlimit(Resource::Nofile);
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

/// `setrlimit`: the number of descriptors, which is the host's; the others only to what they are already,
/// as programs that raise their limits to the highest do.
pub(super) fn setrlimit(linux: &mut Linux, [resource, at, ..]: Arguments) -> Served {
    let current = limits(linux, resource)?;
    let soft: u64 = linux.memory.read_value(at)?;
    let hard: u64 = linux.memory.read_value(at.wrapping_add(8))?;
    if soft > hard {
        return Err(Errno::INVAL.into());
    }
    if resource == FILES && hard <= current.1 && current.1 >= LEAST_FILES {
        let limit = Rlimit {
            current: Some(soft.max(LEAST_FILES)),
            maximum: Some(hard.max(LEAST_FILES)),
        };
        rustix::process::setrlimit(Resource::Nofile, limit)?;
    } else if current != (soft, hard) {
        return Err(Errno::PERM.into());
    }
    Ok(0)
}

/// `prlimit64` of oneself.
pub(super) fn prlimit64(linux: &mut Linux, [pid, resource, new, old, ..]: Arguments) -> Served {
    if pid != 0 && pid != PID {
        return Err(Errno::SRCH.into());
    }
    let (soft, hard) = limits(linux, resource)?;
    if new != 0 {
        setrlimit(linux, [resource, new, 0, 0, 0, 0])?;
    }
    if old != 0 {
        let record = Record::default().u64(soft).u64(hard);
        linux.memory.write(old, record.bytes())?;
    }
    Ok(0)
}
