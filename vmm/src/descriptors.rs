//! Numbers of descriptors. A guest's descriptor is the host's of the same number, so that the host's
//! kernel decides which is the lowest free one, what is shared after `dup`, and what `poll` says.
//! The VMM's own descriptors have to be out of its way and out of its reach: they lie from
//! [`FIRST`] on, and whoever serves a guest's call asks [`Own`] first.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use rustix::io::Errno;

/// The lowest number of a descriptor of the VMM. A process with none from 64 on needs no larger
/// table (`NR_OPEN_DEFAULT`, include/linux/fdtable.h).
pub const FIRST: RawFd = 40;
/// After so many free numbers in a row there is none in use.
const MOST_FREE: usize = 64;

/// Closes what was inherited beyond standard input, output and error, and has all that this process
/// opens from now on be numbered from [`FIRST`] on.
pub fn reserve() -> io::Result<()> {
    close(3, RawFd::MAX)?;
    loop {
        let taken = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let number = taken.as_raw_fd();
        if number >= FIRST {
            return Ok(());
        }
        // It is closed again by its number.
        std::mem::forget(taken);
        if number == FIRST - 1 {
            return Ok(());
        }
    }
}

fn close(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: the numbers from 3 on that are closed here belong to no value: `reserve` is the first thing
    // that this program does, and gives the numbers that it takes to nobody.
    let result = unsafe { libc::close_range(first.cast_unsigned(), last.cast_unsigned(), 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The VMM's own descriptors.
#[derive(Debug, Default)]
pub struct Own(BTreeSet<RawFd>);

impl Own {
    /// Gives the numbers below [`FIRST`] to the guest. All that this process has open from there
    /// on is its own.
    pub fn release(&mut self) -> io::Result<()> {
        close(3, FIRST - 1)?;
        let mut free = 0;
        for number in FIRST.. {
            // SAFETY: only asks whether the number is in use.
            let used = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
            if used {
                self.0.insert(number);
                free = 0;
            } else {
                free += 1;
            }
            if free == MOST_FREE {
                break;
            }
        }
        Ok(())
    }

    /// The guest's descriptor of this number, which may be closed.
    pub fn check(&self, number: u64) -> Result<RawFd, Errno> {
        let number = number as RawFd;
        if number < 0 || self.0.contains(&number) {
            Err(Errno::BADF)
        } else {
            Ok(number)
        }
    }

    /// The VMM's numbers, in order.
    pub fn all(&self) -> Vec<RawFd> {
        self.0.iter().copied().collect()
    }
}
