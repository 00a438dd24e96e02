//! How large the stack of a guest that is a process may grow.
//!
//! The plan's stack is mapped whole, so the kernel does not watch it grow as it does one of its own. What a
//! lower `RLIMIT_STACK` leaves out becomes inaccessible instead, by the guest's own call, which the monitor
//! changes to one that does that.

use std::fs::File;
use std::os::unix::fs::FileExt;

use pool_core::PAGE_SIZE;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::limits;
use crate::memory::STACK_AT_LEAST;
use crate::plan::Plan;

/// Of an entry of `/proc/PID/pagemap`: the page is in memory, or swapped out (pagemap.rst).
const THERE: u64 = 3 << 62;

/// The stack, and how much of it can be used.
#[derive(Debug)]
pub(super) struct Stack {
    lowest: u64,
    high: u64,
    /// Where what can be used begins.
    low: u64,
    protection: i32,
    /// Soft and hard limit.
    limit: [u64; 2],
    /// `/proc/PID/pagemap`.
    pages: File,
}

impl Stack {
    /// The stack of `guest`, of which all can be used.
    pub(super) fn new(guest: Pid, plan: &Plan) -> std::io::Result<Self> {
        let (lowest, high) = (plan.rooms.stack_low.0, plan.rooms.stack_high.0);
        let execute = if plan.stack_protection().execute {
            libc::PROT_EXEC
        } else {
            0
        };
        Ok(Self {
            lowest,
            high,
            low: lowest,
            protection: libc::PROT_READ | libc::PROT_WRITE | execute,
            limit: limits::stack(high - lowest),
            pages: File::open(format!("/proc/{}/pagemap", guest.as_raw_nonzero()))?,
        })
    }

    /// Sets the limit that `guest` reads; soft and hard one before.
    pub(super) fn set(&mut self, guest: Pid, soft: u64, hard: u64) -> Result<[u64; 2], Errno> {
        if soft > hard {
            return Err(Errno::INVAL);
        }
        if hard > self.limit[1] {
            return Err(Errno::PERM);
        }
        let both = Rlimit {
            current: Some(soft),
            maximum: Some(hard),
        };
        prlimit(Some(guest), Resource::Stack, both)?;
        Ok(std::mem::replace(&mut self.limit, [soft, hard]))
    }

    /// What is to be made so for the limit to hold: from, to, and the protection.
    pub(super) fn change(&mut self) -> Option<(u64, u64, i32)> {
        let most =
            (self.limit[0].max(STACK_AT_LEAST) & !(PAGE_SIZE - 1)).min(self.high - self.lowest);
        let low = (self.high - most).min(self.touched_from()?);
        let before = std::mem::replace(&mut self.low, low);
        match low {
            low if low < before => Some((low, before, self.protection)),
            low if low > before => Some((before, low, libc::PROT_NONE)),
            _ => None,
        }
    }

    /// The lowest page that was touched: what lies above it is there already.
    fn touched_from(&self) -> Option<u64> {
        let mut entries = vec![0; ((self.high - self.low) / PAGE_SIZE * 8) as usize];
        let at = self.low / PAGE_SIZE * 8;
        self.pages.read_exact_at(&mut entries, at).ok()?;
        let touched = entries.chunks_exact(8).position(|entry| {
            let entry = entry.try_into().map_or(0, u64::from_le_bytes);
            entry & THERE != 0
        });
        Some(touched.map_or(self.high, |nth| self.low + nth as u64 * PAGE_SIZE))
    }
}
