//! How much memory a guest process may take, as limits of the host kernel.
//!
//! `RLIMIT_DATA` counts private writable memory when it is mapped, touched or not: what a guest may
//! write. The filter and the monitor ([`super::memory`]) see to it that there is no other memory to write
//! to. Two things it does not count, memory that was written and then made read-only, and page tables.
//! Before a call that could make more of them the monitor counts what there is, so that it is at most
//! as much again; it need not while all that was asked for since the last time would fit. What a guest may read and not write has a bound of its own, because one area needs as
//! many tables as it is long, and they come when it is read, not when it is mapped. Addresses that it
//! only keeps free cost nothing, so they are not bounded: runtimes reserve more than any host has.
//!
//! Where poolvmm was started in a control group that bounds memory, and to no more than such counting
//! would, the kernel counts all of it as it is touched, so the monitor does not, and calls about memory
//! do not stop ([`Limits::are_kept`]) but for `mremap` ([`super::pool_pages`]).

use pool_core::PAGE_SIZE;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::ptrace::Tracee;
use crate::plan::{Plan, Sharing};
use crate::vdso;

/// Addresses that a guest may read and not write, for each byte of memory: their page tables take a 512th
/// of them.
const READABLE: u64 = 128;

/// Limits of one guest, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// What was granted.
    pub(super) memory: u64,
    /// Private writable memory: the grant, and the stack whole.
    pub(super) data: u64,
    /// Memory that is not private and writable, and can be accessed.
    pub(super) readable: u64,
    /// The stack.
    stack: u64,
    /// What is left of `data` beside all that the image and the stack can take.
    pub(super) room: u64,
}

/// `length` bytes, wherever they lie, and the page tables to find them by: on each of three levels one
/// more at each end.
pub(super) fn with_tables(length: u64) -> u64 {
    length
        .saturating_add(length / 512)
        .saturating_add(6 * PAGE_SIZE)
}

/// Soft and hard limit of a stack of `length` bytes: all of it is there, so the guest's own can only be lower,
/// as that of this process may be.
pub(super) fn stack(length: u64) -> [u64; 2] {
    let found = getrlimit(Resource::Stack);
    [found.current, found.maximum].map(|found| found.map_or(length, |found| found.min(length)))
}

/// What a guest is told of its limit of core dumps, at `old`, and of one that it sets, which lies at `new`: there are none. The
/// limit that the kernel has of it says so to more programs, and stays.
pub(super) fn core(tracee: Tracee, new: Option<u64>, old: Option<u64>) -> Result<i64, Errno> {
    if let Some(at) = new {
        let mut words = [[0; 8]; 2];
        if tracee.read(at, words.as_flattened_mut()).ok() != Some(16) {
            return Err(Errno::FAULT);
        }
        let [soft, hard] = words.map(u64::from_le_bytes);
        if soft > hard {
            return Err(Errno::INVAL);
        }
        if hard > 0 {
            return Err(Errno::PERM);
        }
    }
    if let Some(at) = old {
        tracee.write(at, &[0; 16]).map_err(|_| Errno::FAULT)?;
    }
    Ok(0)
}

impl Limits {
    /// Those of `plan`.
    pub(super) fn new(plan: &Plan) -> Self {
        let stack = plan.rooms.stack_high.0 - plan.rooms.stack_low.0;
        let image: u64 = plan.mappings.iter().map(|mapping| mapping.length).sum();
        let data = plan.memory + stack;
        let taken: u64 = plan
            .mappings
            .iter()
            .map(|mapping| match mapping.sharing {
                Sharing::Shared => with_tables(mapping.length) - mapping.length,
                Sharing::Private => with_tables(mapping.length),
            })
            .sum();
        Self {
            memory: plan.memory,
            data,
            stack,
            room: data.saturating_sub(taken + with_tables(stack)),
            readable: image + vdso::MOST + plan.memory * READABLE,
        }
    }

    /// True where the kernel itself sees to it that the guest has no more than the monitor would let it have, since
    /// `group` bounds all that it is in to so many bytes.
    pub(super) fn are_kept(self, group: Option<u64>) -> bool {
        group.is_some_and(|most| most <= self.data.saturating_mul(2))
    }

    /// Sets what the kernel counts by itself for `guest`, a child of this process, for good. A limit that
    /// this process has already stays if it is lower. Whatever this process may, its guest does not come before others.
    pub(super) fn apply(self, guest: Pid) -> Result<(), Errno> {
        let found = getrlimit(Resource::Data);
        let lower =
            |found: Option<u64>| Some(found.map_or(self.data, |found| found.min(self.data)));
        let both = Rlimit {
            current: lower(found.current),
            maximum: lower(found.maximum),
        };
        prlimit(Some(guest), Resource::Data, both)?;
        let none = || Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        for resource in [Resource::Nice, Resource::Rtprio] {
            prlimit(Some(guest), resource, none())?;
        }
        let [current, maximum] = stack(self.stack).map(Some);
        prlimit(Some(guest), Resource::Stack, Rlimit { current, maximum }).map(drop)
    }
}
