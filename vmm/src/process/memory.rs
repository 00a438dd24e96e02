//! Calls about memory: what is to be had by one is counted before the kernel serves it, as far as the kernel does not count it
//! ([`super::limits`]), and pages of the pool stay where they are ([`super::pool_pages`]).

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::areas::Area;
use super::calls::{Calls, Next, failed};
use super::change::Change;
use super::counts::{Tables, most, own_memory, readable, used};
use super::limits::with_tables;
use super::ptrace::{Registers, Tracee, arguments};
use super::taken::{most_taken, newly_readable, plain, private, shared_file};
use super::threads::Threads;
use crate::linux::{Heap, Remap, host};

impl Calls {
    /// `mmap` and `mprotect`, and `mremap` of what may be moved. What cannot be counted is not allowed.
    pub(super) fn memory(
        &mut self,
        tracee: Tracee,
        registers: &Registers,
        threads: &Threads,
    ) -> Next {
        let mut counted = *registers;
        if shared_file(registers).is_some_and(|file| self.is_zeros(tracee, file)) {
            counted.r10 = private(counted.r10);
        }
        if self.may_take(most_taken(&counted)) && self.may_read(&counted, threads) {
            memory(registers, plain(counted.r10))
        } else {
            failed(Errno::NOMEM)
        }
    }

    /// `mremap`. What is wrong in itself is not left to the kernel, which may have more addresses than a guest is told of
    /// (those of five levels of page tables), and would have it grow there.
    pub(super) fn remap(
        &mut self,
        tracee: Tracee,
        registers: &Registers,
        threads: &Threads,
    ) -> Next {
        let remap = match Remap::of(arguments(registers)) {
            Ok(remap) => remap,
            Err(error) => return failed(error),
        };
        if self.pool.would_move(&remap, &self.areas) {
            // A program's image is private to it, and such memory is not had twice.
            let is_twice = remap.old_length == 0;
            return failed(if is_twice { Errno::INVAL } else { Errno::FAULT });
        }
        if remap.shrinks_in_place() {
            return Next::Serve;
        }
        match self.memory(tracee, registers, threads) {
            refused if refused == failed(Errno::NOMEM) => {
                failed(not_moved(&remap, self.areas.at(remap.old)))
            }
            next => next,
        }
    }

    /// `brk`. `RLIMIT_DATA` bounds what is writable; what was made inaccessible since is counted as for any memory.
    pub(super) fn brk(&mut self, wanted: u64) -> Next {
        if wanted == 0 {
            return Next::Serve;
        }
        let more = match Heap::change(self.heap, wanted) {
            Heap::Grows { from, to } => to - from,
            Heap::Shrinks { .. } | Heap::Stays => 0,
        };
        if more > 0 && !self.may_take(with_tables(more)) {
            // No heap ends there: the answer is where it does.
            return Next::ServeWith(Change::First(0));
        }
        Next::ServeAndSeeHeap
    }

    /// The guest may take `more` bytes. It may if it has not more than it was granted; and while what it
    /// asked for since it was last counted cannot be more, nobody has to count.
    fn may_take(&mut self, more: u64) -> bool {
        /// Of calls that are counted, one in so many looks for room, too, which takes the longer the more
        /// areas there are.
        const PATIENCE: u32 = 16;
        if !self.counted {
            return true;
        }
        if more <= self.room {
            self.room -= more;
            return true;
        }
        self.room = 0;
        let Some(used) = self.used().filter(|&used| used <= self.limits.data) else {
            return false;
        };
        if self.patience > 0 {
            self.patience -= 1;
            return true;
        }
        if let Some(most) = self.areas.sum(most) {
            // Both, since the one alone is without what was written where nothing may be accessed now.
            let taken = most.saturating_add(used).saturating_add(more);
            self.room = self.limits.data.saturating_sub(taken);
        }
        if self.room == 0 {
            self.patience = PATIENCE;
        }
        true
    }

    /// The kernel has said where the heap ends.
    pub(super) fn heap_ends(&mut self, at: u64) {
        self.heap = at;
    }

    /// There is room for what a call about memory lets the guest read. Counting takes the longer the more
    /// areas there are, so it is done once what was asked for since the last time could be too much.
    fn may_read(&mut self, registers: &Registers, threads: &Threads) -> bool {
        let more = newly_readable(registers);
        if more == 0 || !self.counted {
            return true;
        }
        let most = self.limits.readable;
        if self.readable.saturating_add(more) > most {
            // Another thread may have been allowed to make it accessible, and not have done so yet.
            if threads.is_one() && self.grows_reservation(registers) {
                return true;
            }
            match self.areas.sum(readable) {
                Some(now) if now.saturating_add(more) <= most => self.readable = now,
                _ => return false,
            }
        }
        self.readable += more;
        true
    }

    /// By `mremap`, which makes one area larger, there is more that nothing can be done with.
    fn grows_reservation(&self, registers: &Registers) -> bool {
        registers.orig_rax == libc::SYS_mremap as u64
            && (self.areas.at(registers.rdi)).is_some_and(|area| !area.is_accessible())
    }

    /// The guest's descriptor `number` is of zeros that would be memory where they are mapped shared, which nobody counts.
    fn is_zeros(&self, tracee: Tracee, number: u64) -> bool {
        let Ok(file) = self.file(tracee, number) else {
            return false;
        };
        let file = file.as_raw_fd();
        host::is_zeros(file) == Ok(true) && host::is_writable(file) == Ok(true)
    }

    /// The guest has mapped such memory.
    pub(super) fn has_zeros(&self) -> bool {
        self.areas.any(|area| area.is_zeros).unwrap_or(true)
    }

    /// Bytes of memory that are the guest's own: in RAM, swapped out, and the tables to find them by.
    pub(super) fn used(&mut self) -> Option<u64> {
        if let Some(used) = used(&self.status_text()?) {
            return Some(used);
        }
        // Of a process whose first thread has ended it does not tell.
        let length = self.rollup.read_at(&mut self.text, 0).ok()?;
        let own = own_memory(&String::from_utf8_lossy(&self.text[..length]))?;
        Some(Tables::of(&self.areas)?.with(own))
    }
}

/// A call about memory that there is room for, where it is `mmap` with these flags.
fn memory(registers: &Registers, flags: u64) -> Next {
    if registers.orig_rax == libc::SYS_mmap as u64 && flags != registers.r10 {
        Next::ServeWith(Change::Flags(flags))
    } else {
        Next::Serve
    }
}

/// What the kernel would say of a call that there is no room for, by the `area` that holds what is to be moved: it looks at that
/// first (`check_prep_vma`, mm/mremap.c).
fn not_moved(remap: &Remap, area: Option<Area>) -> Errno {
    let Some(area) = area else {
        return Errno::FAULT;
    };
    if remap.old_length == 0 && area.has(b'p') {
        return Errno::INVAL;
    }
    if remap.growth() > 0 && remap.old_length > area.end - remap.old {
        return Errno::FAULT;
    }
    Errno::NOMEM
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::areas::of_text;

    #[test]
    fn what_the_kernel_looks_at_first_is_said_first() {
        let area = |rights: &str| {
            let text = format!("00400000-00402000 {rights} 00000000 00:21 7 /x\n");
            of_text(text.as_bytes()).unwrap().pop()
        };
        let [private, shared] = ["r--p", "r--s"].map(area);
        for (area, [length, new_length], expected) in [
            (None, [0x1000, 0x2000], Errno::FAULT),
            (None, [0, 0x2000], Errno::FAULT),
            (private, [0x1000, 0x2000], Errno::NOMEM),
            (private, [0x2000, 0x3000], Errno::NOMEM),
            (private, [0x2001, 0x4000], Errno::FAULT),
            // Several may be moved at once, as they are.
            (private, [0x3000, 0x3000], Errno::NOMEM),
            (private, [0, 0x1000], Errno::INVAL),
            (private, [u64::MAX, 0x1000], Errno::INVAL),
            (shared, [0, 0x1000], Errno::NOMEM),
        ] {
            let arguments = [0x40_0000, length, new_length, 3, 0x7000_0000, 0];
            let remap = Remap::of(arguments).unwrap();
            let found = not_moved(&remap, area);
            assert_eq!(found, expected, "{length:#x} {new_length:#x}");
        }
    }
}
