//! How much memory a guest process may take, as limits of the host kernel.
//!
//! `RLIMIT_DATA` counts private writable memory when it is mapped, touched or not: what a guest may
//! write. The filter and the monitor ([`super::calls`]) see to it that there is no other memory to write
//! to. Two things it does not count, memory that was written and then made read-only, and page tables.
//! Before each call that could make more of them the monitor counts what there is, so that it is at most
//! as much again. `RLIMIT_AS` bounds the addresses, and so the tables that one reservation can need.
//!
//! A harder bound is a memory cgroup around poolvmm.

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::plan::Plan;

/// Addresses that a guest may reserve, for each byte of memory: their page tables take a 512th of them.
const RESERVED: u64 = 128;

/// Limits of one guest, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// What was granted.
    pub(super) memory: u64,
    /// Private writable memory: the grant, and the stack whole.
    pub(super) data: u64,
    /// Addresses.
    addresses: u64,
}

impl Limits {
    /// Those of `plan`.
    pub(super) fn new(plan: &Plan) -> Self {
        let stack = plan.rooms.stack_high.0 - plan.rooms.stack_low.0;
        let image: u64 = plan.mappings.iter().map(|mapping| mapping.length).sum();
        Self {
            memory: plan.memory,
            data: plan.memory + stack,
            addresses: image + stack + plan.memory * RESERVED,
        }
    }

    /// Sets them for `guest`, for good.
    pub(super) fn apply(self, guest: Pid) -> Result<(), Errno> {
        for (resource, most) in [(Resource::Data, self.data), (Resource::As, self.addresses)] {
            let both = Rlimit {
                current: Some(most),
                maximum: Some(most),
            };
            prlimit(Some(guest), resource, both)?;
        }
        Ok(())
    }
}
