//! Changes of what a file is like: its mode, owner, times and attributes. Of an open file the monitor makes them itself, so
//! that no other thread can put another in its place.

use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::calls::{Calls, Next, failed, finished};
use super::change::Change;
use super::ptrace::{Registers, Tracee};
use super::threads::Threads;
use crate::linux::host;

impl Calls {
    /// Changes what an open file is like, for the guest; what the call returns.
    pub(super) fn change_file(&self, tracee: Tracee, registers: &Registers) -> Result<i64, Errno> {
        const LARGEST_VALUE: u64 = 64 << 10;
        let file = || self.granted(tracee, registers.rdi);
        match registers.orig_rax as i64 {
            libc::SYS_fchmod => rustix::fs::fchmod(file()?, mode_of(registers.rsi))?,
            libc::SYS_fchown => {
                let (user, group) = owners(registers.rsi, registers.rdx);
                rustix::fs::fchown(file()?, user, group)?;
            }
            libc::SYS_fremovexattr => {
                let name = attribute(tracee, registers.rsi)?;
                rustix::fs::fremovexattr(file()?, name)?;
            }
            // What is wrong is said in the kernel's order.
            _ => {
                let flags = XattrFlags::from_bits_retain(registers.r8 as u32);
                if !(XattrFlags::CREATE | XattrFlags::REPLACE).contains(flags) {
                    return Err(Errno::INVAL);
                }
                let name = attribute(tracee, registers.rsi)?;
                if registers.r10 > LARGEST_VALUE {
                    return Err(Errno::TOOBIG);
                }
                let mut value = vec![0; registers.r10 as usize];
                if tracee.read(registers.rdx, &mut value).ok() != Some(value.len()) {
                    return Err(Errno::FAULT);
                }
                rustix::fs::fsetxattr(file()?, name, &value, flags)?;
            }
        }
        Ok(0)
    }

    /// A change of a pipe's size. The guest's thread makes it, since it waits for whoever holds the pipe: this process
    /// would do so whatever signal came. Unless another thread could put a pipe of the operator's in its place meanwhile.
    pub(super) fn size_pipe(
        &self,
        tracee: Tracee,
        registers: &Registers,
        threads: &Threads,
    ) -> Next {
        if !self.standard_pipe {
            return Next::Serve;
        }
        if !threads.is_one() {
            return failed(Errno::PERM);
        }
        match self.granted(tracee, registers.rdi) {
            Ok(_) => Next::Serve,
            Err(error) => failed(error),
        }
    }

    /// A change of a file by its path, or of an open one where the path is empty or null. What the kernel is
    /// to serve does not mean an open one any more, whatever another thread makes of the path meanwhile.
    pub(super) fn change_named(&self, tracee: Tracee, registers: &Registers) -> Next {
        const EMPTY: u64 = libc::AT_EMPTY_PATH as u64;
        const KNOWN: u32 = (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as u32;
        let call = registers.orig_rax as i64;
        let of_times = matches!(call, libc::SYS_utimensat | libc::SYS_futimesat);
        let flags = match call {
            libc::SYS_futimesat => 0,
            libc::SYS_fchownat => registers.r8,
            _ => registers.r10,
        };
        if flags as u32 & !KNOWN != 0 {
            return failed(Errno::INVAL);
        }
        let is_open = if registers.rsi == 0 {
            // No path has nothing to say of how it is looked up.
            if of_times && flags as i32 != 0 && registers.rdi as i32 != libc::AT_FDCWD {
                return failed(Errno::INVAL);
            }
            of_times
        } else {
            let mut path = [0];
            match tracee.read(registers.rsi, &mut path) {
                Ok(1) => flags & EMPTY != 0 && path == [0],
                _ => return failed(Errno::FAULT),
            }
        };
        // The working directory is no standard file.
        if !is_open || registers.rdi as i32 == libc::AT_FDCWD {
            return match call {
                _ if registers.rdi as i32 == libc::AT_FDCWD || flags & EMPTY == 0 => Next::Serve,
                libc::SYS_fchownat => Next::ServeWith(Change::FifthFlags(flags & !EMPTY)),
                _ => Next::ServeWith(Change::Flags(flags & !EMPTY)),
            };
        }
        let file = self.granted(tracee, registers.rdi);
        // Where a path is empty, and not null, a descriptor without a file (`O_PATH`) does as well.
        let flags = AtFlags::EMPTY_PATH;
        let changed = file.and_then(|file| match call {
            libc::SYS_fchmodat2 => host::change_mode(file.as_raw_fd(), mode_of(registers.rdx)),
            libc::SYS_fchownat => {
                let (user, group) = owners(registers.rdx, registers.r10);
                rustix::fs::chownat(file, c"", user, group, flags)
            }
            _ if registers.rsi == 0 => rustix::fs::futimens(file, &times_of(tracee, registers)?),
            _ => rustix::fs::utimensat(file, c"", &times_of(tracee, registers)?, flags),
        });
        finished(changed.map(|()| 0))
    }
}

/// The name of an attribute, which is not empty.
fn attribute(tracee: Tracee, at: u64) -> Result<CString, Errno> {
    const LONGEST: usize = 256;
    let mut name = [0; LONGEST];
    let length = tracee.read(at, &mut name).map_err(|_| Errno::FAULT)?;
    match CStr::from_bytes_until_nul(&name[..length]) {
        Ok(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(Errno::RANGE),
    }
}

fn mode_of(word: u64) -> Mode {
    Mode::from_raw_mode(word as u32 & 0o1777)
}

/// Those that are to be others.
fn owners(user: u64, group: u64) -> (Option<Uid>, Option<Gid>) {
    let id = |word: u64| Some(word as u32).filter(|&id| id != u32::MAX);
    (id(user).map(Uid::from_raw), id(group).map(Gid::from_raw))
}

/// The times at the third argument: now, if it is null.
fn times_of(tracee: Tracee, registers: &Registers) -> Result<Timestamps, Errno> {
    const NOW: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: libc::UTIME_NOW,
    };
    let mut words = [[0; 8]; 4];
    if registers.rdx == 0 {
        return Ok(Timestamps {
            last_access: NOW,
            last_modification: NOW,
        });
    }
    if tracee.read(registers.rdx, words.as_flattened_mut()).ok() != Some(32) {
        return Err(Errno::FAULT);
    }
    let [access, access_part, change, change_part] = words.map(i64::from_le_bytes);
    let part = |part: i64| match registers.orig_rax as i64 {
        // Microseconds.
        libc::SYS_futimesat if (0..1_000_000).contains(&part) => Ok(part * 1000),
        libc::SYS_futimesat => Err(Errno::INVAL),
        _ => Ok(part),
    };
    Ok(Timestamps {
        last_access: Timespec {
            tv_sec: access,
            tv_nsec: part(access_part)?,
        },
        last_modification: Timespec {
            tv_sec: change,
            tv_nsec: part(change_part)?,
        },
    })
}
