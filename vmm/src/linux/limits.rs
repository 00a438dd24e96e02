//! What a guest may have of each resource (getrlimit(2)): its own table, whose entries are enforced where the
//! resource is handed out.
//!
//! | resource | who enforces it |
//! |---|---|
//! | `NOFILE` | the host's kernel, for this process: a guest's descriptors are the host's |
//! | `FSIZE` | the same, while a call is served, so that what the VMM itself writes is not meant |
//! | `CPU` | the same, by SIGXCPU; SIGKILL is the VMM's part |
//! | `AS`, `DATA` | [`super::memory`] |
//! | `STACK` | the areas of the stack |
//! | `NPROC` | [`super::thread`] |
//!
//! What the host's kernel keeps for this process is only ever the lower, soft limit, so that the VMM can
//! undo it.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::time::ClockId;

use super::record::Record;
use super::{Arguments, Linux, Served, Stop, process, signal};
use crate::descriptors;

const PROCESSOR_TIME: usize = 0;
const FILE_SIZE: usize = 1;
pub(super) const DATA: usize = 2;
const STACK: usize = 3;
const CORE: usize = 4;
pub(super) const THREADS: usize = 6;
pub(super) const FILES: usize = 7;
pub(super) const ADDRESSES: usize = 9;
const COUNT: usize = 16;
const UNLIMITED: u64 = u64::MAX;

/// The limits of a guest.
#[derive(Clone, Debug)]
pub(super) struct Limits([Limit; COUNT]);

/// What is enforced, and how far that can be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    soft: u64,
    hard: u64,
}

impl Limit {
    const NONE: Self = Self::both(UNLIMITED);

    const fn both(value: u64) -> Self {
        Self {
            soft: value,
            hard: value,
        }
    }

    /// That of this process, below `most`.
    fn of_host(resource: Resource, most: u64) -> Self {
        let found = rustix::process::getrlimit(resource);
        let value = |found: Option<u64>| found.unwrap_or(UNLIMITED).min(most);
        Self {
            soft: value(found.current),
            hard: value(found.maximum),
        }
    }
}

impl Limits {
    /// Those of a new guest with a stack of so many bytes: what this process is bounded by bounds it too.
    pub(super) fn new(stack: u64) -> Self {
        let mut limits = [Limit::NONE; COUNT];
        limits[STACK] = Limit::both(stack);
        limits[CORE] = Limit::both(0);
        limits[PROCESSOR_TIME] = Limit::of_host(Resource::Cpu, UNLIMITED);
        limits[FILE_SIZE] = Limit::of_host(Resource::Fsize, UNLIMITED);
        limits[FILES] = Limit::of_host(Resource::Nofile, descriptors::MOST as u64);
        Self(limits)
    }

    /// What is enforced.
    pub(super) fn soft(&self, resource: usize) -> u64 {
        self.0[resource].soft
    }

    /// How far that can be raised.
    pub(super) fn hard(&self, resource: usize) -> u64 {
        self.0[resource].hard
    }

    fn get(&self, resource: u64) -> Result<(usize, Limit), Errno> {
        let at = usize::try_from(resource as u32).map_err(|_| Errno::INVAL)?;
        let limit = self.0.get(at).ok_or(Errno::INVAL)?;
        Ok((at, *limit))
    }

    /// Sets the limit of a resource. The hard one is never raised: no guest has the privilege.
    fn set(&mut self, resource: usize, new: Limit) -> Result<(), Errno> {
        let old = &mut self.0[resource];
        if new.soft > new.hard {
            Err(Errno::INVAL)
        } else if new.hard > old.hard {
            Err(Errno::PERM)
        } else {
            *old = new;
            Ok(())
        }
    }
}

/// `getrlimit`.
pub(super) fn getrlimit(linux: &mut Linux, [resource, at, ..]: Arguments) -> Served {
    let (_, limit) = linux.limits.get(resource)?;
    tell(linux, at, limit)
}

/// `setrlimit`.
pub(super) fn setrlimit(linux: &mut Linux, [resource, at, ..]: Arguments) -> Served {
    let new = read(linux, at)?;
    let (resource, old) = linux.limits.get(resource)?;
    set(linux, resource, old, new)
}

/// `prlimit64` of oneself, by whatever thread.
pub(super) fn prlimit64(linux: &mut Linux, [pid, resource, new, old, ..]: Arguments) -> Served {
    let new = match new {
        0 => None,
        at => Some(read(linux, at)?),
    };
    let is_own = [0, process::PID].contains(&u64::from(pid as u32));
    if !is_own && linux.task_named(pid).is_err() {
        return Err(Errno::SRCH.into());
    }
    let (resource, found) = linux.limits.get(resource)?;
    if let Some(new) = new {
        set(linux, resource, found, new)?;
    }
    if old != 0 {
        tell(linux, old, found)?;
    }
    Ok(0)
}

fn read(linux: &mut Linux, at: u64) -> Result<Limit, Stop> {
    Ok(Limit {
        soft: linux.memory.read_value(at)?,
        hard: linux.memory.read_value(at.wrapping_add(8))?,
    })
}

fn tell(linux: &mut Linux, at: u64, limit: Limit) -> Served {
    let record = Record::default().u64(limit.soft).u64(limit.hard);
    linux.memory.write(at, record.bytes())?;
    Ok(0)
}

fn set(linux: &mut Linux, resource: usize, old: Limit, new: Limit) -> Served {
    linux.limits.set(resource, new)?;
    let done = match resource {
        _ if new.soft == old.soft => Ok(()),
        FILES => descriptors::bound(new.soft).map_err(Stop::from),
        PROCESSOR_TIME => bound(Resource::Cpu, new.soft).map_err(Stop::from),
        // Between calls there is none.
        FILE_SIZE => bound(Resource::Fsize, UNLIMITED).map_err(Stop::from),
        STACK => linux.memory.bound_stack(new.soft).map_err(Stop::from),
        _ => Ok(()),
    };
    if done.is_err() {
        linux.limits.0[resource] = old;
    }
    done.map(|()| 0)
}

/// Has the host's kernel bound this process so, as far as it may.
fn bound(resource: Resource, soft: u64) -> Result<(), Errno> {
    let found = rustix::process::getrlimit(resource);
    let soft = found.maximum.map_or(soft, |maximum| maximum.min(soft));
    let current = (soft != UNLIMITED).then_some(soft);
    rustix::process::setrlimit(resource, Rlimit { current, ..found })
}

/// Has what this process writes itself be no larger than it may be at all. A guest's limit holds while it is served.
pub(crate) fn unbound_files() -> Result<(), Errno> {
    bound(Resource::Fsize, UNLIMITED)
}

impl Linux {
    /// Serves a call that may write to a file, within the size that one may have.
    pub(super) fn within_file_size(&mut self, serve: impl FnOnce(&mut Self) -> Served) -> Served {
        let most = self.limits.soft(FILE_SIZE);
        if most == UNLIMITED {
            return serve(self);
        }
        bound(Resource::Fsize, most)?;
        let served = serve(self);
        bound(Resource::Fsize, UNLIMITED)?;
        if matches!(served, Err(Stop::Error(Errno::FBIG))) {
            // The kernel has sent it to this process, which ignores it.
            signal::raise(self, libc::SIGXFSZ as u64)?;
        }
        served
    }

    /// The kernel says that this process has had the processor time of the guest's soft limit: SIGXCPU is the
    /// guest's, and SIGKILL at the hard limit.
    pub(super) fn out_of_time(&self) -> bool {
        let used = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
        used.tv_sec.cast_unsigned() >= self.limits.hard(PROCESSOR_TIME)
    }

    /// The guest has as many threads as it may. As under Linux that does not hold for root.
    pub(super) fn has_all_threads(&self) -> bool {
        self.tasks.iter().count() as u64 >= self.limits.soft(THREADS)
            && !rustix::process::getuid().is_root()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_limits_only_fall() {
        let mut limits = Limits::new(8 << 20);
        let limit = |soft, hard| Limit { soft, hard };
        assert_eq!(limits.get(3), Ok((STACK, Limit::both(8 << 20))));
        assert_eq!(limits.get(16), Err(Errno::INVAL));
        assert_eq!(limits.set(STACK, limit(1, 9 << 20)), Err(Errno::PERM));
        assert_eq!(limits.set(STACK, limit(2, 1)), Err(Errno::INVAL));
        assert_eq!(limits.set(STACK, limit(1, 7)), Ok(()));
        assert_eq!(limits.set(STACK, limit(7, 7)), Ok(()));
        assert_eq!(limits.set(STACK, limit(7, 8)), Err(Errno::PERM));
        assert_eq!((limits.soft(STACK), limits.hard(STACK)), (7, 7));
    }
}
