//! Calls that change descriptors: their numbers, flags, locks and settings.

use std::os::fd::RawFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::dispatch::Arg;
use super::process::PID;
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, dispatch, host, process};
use crate::terminal;

/// How long a lock that somebody holds is left alone before it is tried again: the kernel tells only a
/// caller that sleeps when it is free.
const LOCK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(2);

/// Commands of `fcntl` that take a number.
const NUMBERS: [i32; 8] = [
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_GETPIPE_SZ,
    libc::F_GET_SEALS,
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_SETFL,
];
/// Length of `struct flock`.
const LOCK_BYTES: u16 = 32;
/// Where `l_pid` lies in it.
const LOCK_HOLDER: std::ops::Range<usize> = 24..28;

/// `ioctl` requests, and what lies at their argument.
const REQUESTS: [(u64, Arg); 20] = [
    (libc::TCGETS, Arg::Out(36)),
    (libc::TCSETS, Arg::In(36)),
    (libc::TCSETSW, Arg::In(36)),
    (libc::TCSETSF, Arg::In(36)),
    (libc::TCSBRK, Arg::Value),
    (libc::TCFLSH, Arg::Value),
    (libc::TIOCGWINSZ, Arg::Out(8)),
    (libc::TIOCGPGRP, Arg::Out(4)),
    (libc::TIOCOUTQ, Arg::Out(4)),
    (libc::FIONREAD, Arg::Out(4)),
    (libc::FIONBIO, Arg::In(4)),
    (libc::FIOCLEX, Arg::Value),
    (libc::FIONCLEX, Arg::Value),
    // The host's interfaces, for a guest that uses its network: a socket is needed to ask.
    (libc::SIOCGIFNAME, Arg::InOut(40)),
    (libc::SIOCGIFFLAGS, Arg::InOut(40)),
    (libc::SIOCGIFADDR, Arg::InOut(40)),
    (libc::SIOCGIFNETMASK, Arg::InOut(40)),
    (libc::SIOCGIFBRDADDR, Arg::InOut(40)),
    (libc::SIOCGIFMTU, Arg::InOut(40)),
    (libc::SIOCGIFINDEX, Arg::InOut(40)),
];

/// Requests about the host's interfaces, which any socket answers: `SIOCGIFNAME` to `SIOCGIFINDEX`
/// and their like (linux/sockios.h).
const INTERFACES: std::ops::Range<u64> = 0x8910..0x8950;

/// The requests of `ioctl` that there are for a guest that may use the host's network or not.
pub(crate) fn requests(network: bool) -> impl Iterator<Item = u32> {
    let served = move |&(request, _): &(u64, Arg)| {
        (network || !INTERFACES.contains(&request)).then_some(request as u32)
    };
    REQUESTS.iter().filter_map(served)
}

/// `close`.
pub(super) fn close(linux: &mut Linux, [fd, ..]: Arguments) -> Served {
    Ok(host::close(linux.descriptor(fd)?)?)
}

/// `close_range`, around the monitor's own.
pub(super) fn close_range(linux: &mut Linux, [first, last, flags, ..]: Arguments) -> Served {
    const UNSHARE: u32 = 2;
    const CLOSE_ON_EXEC: u32 = 4;
    let (first, last, flags) = (first as u32, last as u32, flags as u32);
    if first > last || flags & !(UNSHARE | CLOSE_ON_EXEC) != 0 {
        return Err(Errno::INVAL.into());
    }
    // Nobody shares the table outside of this process, and nothing in it may get a table of its own.
    let flags = u64::from(flags & CLOSE_ON_EXEC);
    let mut from = first;
    let own = linux.own.all().into_iter().map(RawFd::cast_unsigned);
    for number in own.chain([u32::MAX]) {
        let (low, high) = (from, last.min(number.saturating_sub(1)));
        from = from.max(number.saturating_add(1));
        if low <= high && low < number {
            host::close_range(low, high, flags)?;
        }
        if number >= last {
            break;
        }
    }
    Ok(0)
}

/// `dup2`.
pub(super) fn dup2(linux: &mut Linux, [old, new, ..]: Arguments) -> Served {
    Ok(host::dup2(linux.descriptor(old)?, linux.descriptor(new)?)?)
}

/// `dup3`.
pub(super) fn dup3(linux: &mut Linux, [old, new, flags, ..]: Arguments) -> Served {
    Ok(host::dup3(
        linux.descriptor(old)?,
        linux.descriptor(new)?,
        flags,
    )?)
}

/// `fcntl`: duplicates, flags, locks and pipes; nothing that sends signals. No file of a guest can be sealed.
pub(super) fn fcntl(linux: &mut Linux, [fd, command, argument, ..]: Arguments) -> Served {
    const CALL: u64 = libc::SYS_fcntl as u64;
    let arguments = [fd, command, argument, 0, 0, 0];
    match command as i32 {
        libc::F_SETFL if argument & libc::O_ASYNC as u64 != 0 => Err(Stop::Refused(Errno::INVAL)),
        number if NUMBERS.contains(&number) => {
            let kinds = [Arg::Descriptor, Arg::Value, Arg::Value];
            dispatch::pass(linux, CALL, &kinds, arguments)
        }
        libc::F_SETPIPE_SZ => {
            let kinds = [Arg::Granted, Arg::Value, Arg::Value];
            dispatch::pass(linux, CALL, &kinds, arguments)
        }
        libc::F_GETLK | libc::F_OFD_GETLK | libc::F_SETLK | libc::F_OFD_SETLK => {
            lock(linux, arguments)
        }
        libc::F_SETLKW | libc::F_OFD_SETLKW => {
            let at_once = match command as i32 {
                libc::F_SETLKW => libc::F_SETLK,
                _ => libc::F_OFD_SETLK,
            };
            match lock(linux, [fd, at_once as u64, argument, 0, 0, 0]) {
                Err(Stop::Error(Errno::AGAIN | Errno::ACCESS)) => Err(later()),
                served => served,
            }
        }
        _ => Err(Stop::Refused(Errno::INVAL)),
    }
}

/// Record locks are the host's, of granted files alone.
fn lock(linux: &mut Linux, arguments: Arguments) -> Served {
    linux.granted(arguments[0]).map_err(|error| match error {
        Errno::PERM => Errno::INVAL,
        other => other,
    })?;
    let kinds = [Arg::Granted, Arg::Value, Arg::InOut(LOCK_BYTES)];
    let asks = [libc::F_GETLK, libc::F_OFD_GETLK].contains(&(arguments[1] as i32));
    let change = |bytes: &mut [u8]| {
        let is_free = bytes.starts_with(&(libc::F_UNLCK as u16).to_le_bytes());
        // Who holds it may be another process of the host; -1 is an open file.
        let holder = bytes.get_mut(LOCK_HOLDER).filter(|_| asks && !is_free);
        if let Some(holder) = holder.filter(|holder| **holder != [0xff; 4]) {
            process::tell_number(holder);
        }
    };
    let number = libc::SYS_fcntl as u64;
    dispatch::pass_changed(linux, number, &kinds, arguments, (2, change))
}

/// `flock`, of granted files.
pub(super) fn flock(linux: &mut Linux, [fd, operation, ..]: Arguments) -> Served {
    let waits = operation & libc::LOCK_NB as u64 == 0;
    let arguments = [fd, operation | libc::LOCK_NB as u64, 0, 0, 0, 0];
    let kinds = [Arg::Granted, Arg::Value];
    match dispatch::pass(linux, libc::SYS_flock as u64, &kinds, arguments) {
        Err(Stop::Error(Errno::AGAIN)) if waits => Err(later()),
        Err(Stop::Error(Errno::PERM)) => Err(Errno::INVAL.into()),
        served => served,
    }
}

fn later() -> Stop {
    Stop::Wait(Wait::Until(super::time::from_now(LOCK_INTERVAL)))
}

/// `ioctl`: the requests of [`REQUESTS`]; no other is known.
pub(super) fn ioctl(linux: &mut Linux, [fd, request, at, ..]: Arguments) -> Served {
    let request = u64::from(request as u32);
    let known = REQUESTS.iter().find(|(known, _)| *known == request);
    let known = known.filter(|_| linux.reach.network || !INTERFACES.contains(&request));
    let Some((_, argument)) = known else {
        rustix::io::fcntl_getfd(host::borrow(linux.descriptor(fd)?))?;
        return Err(Stop::Refused(Errno::NOTTY));
    };
    if at == 0 && *argument != Arg::Value {
        return Err(Errno::FAULT.into());
    }
    let request = match request {
        libc::TCSETSW | libc::TCSETSF | libc::TCSBRK => {
            let line = host::borrow(linux.descriptor(fd)?);
            terminal::settings(line)?;
            if terminal::unsent(line)? > 0 {
                return Err(later());
            }
            match (request, at) {
                // A break takes its time, and no guest has a line to send one on.
                (libc::TCSBRK, 0) => return Err(Errno::NOTTY.into()),
                // All is sent; whether this may be asked for here the terminal says.
                (libc::TCSBRK, _) => {
                    terminal::drain(line)?;
                    return Ok(0);
                }
                (libc::TCSETSF, _) => terminal::drop_input(line)?,
                _ => {}
            }
            libc::TCSETS
        }
        request => request,
    };
    let kinds = [Arg::Descriptor, Arg::Value, *argument];
    let arguments = [fd, request, at, 0, 0, 0];
    let group = linux.group;
    let change = |bytes: &mut [u8]| {
        if request == libc::TIOCGPGRP {
            // Another is a group of the host's processes.
            let is_own = bytes == group.to_le_bytes();
            let told = if is_own { PID as i32 } else { 0 };
            bytes.copy_from_slice(&told.to_le_bytes());
        }
    };
    let number = libc::SYS_ioctl as u64;
    dispatch::pass_changed(linux, number, &kinds, arguments, (2, change))
}

/// `open`.
pub(super) fn open(linux: &mut Linux, [path, flags, mode, ..]: Arguments) -> Served {
    openat(linux, [libc::AT_FDCWD as u64, path, flags, mode, 0, 0])
}

/// `creat`.
pub(super) fn creat(linux: &mut Linux, [path, mode, ..]: Arguments) -> Served {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    open(linux, [path, flags as u64, mode, 0, 0, 0])
}

/// `openat`. What waits until somebody opens its other end is refused: a pipe with a name.
pub(super) fn openat(linux: &mut Linux, [directory, path, flags, mode, ..]: Arguments) -> Served {
    let wanted = OFlags::from_bits_retain(flags as u32);
    let makes = wanted.contains(OFlags::CREATE) || wanted.contains(OFlags::TMPFILE);
    if flags & libc::O_ASYNC as u64 != 0 {
        return Err(Errno::INVAL.into());
    }
    let mode_kind = if makes { Arg::Mode } else { Arg::Value };
    let kinds = [Arg::Directory, Arg::Path, Arg::Value, mode_kind];
    let careful = wanted | OFlags::NONBLOCK | OFlags::NOCTTY;
    let asked = if wanted.contains(OFlags::PATH) {
        wanted
    } else {
        careful
    };
    let arguments = [directory, path, u64::from(asked.bits()), mode, 0, 0];
    if let Some(opened) = linux.open_small(path, wanted)? {
        return Ok(opened);
    }
    if linux.is_pipe(directory, path, wanted)? {
        return Err(Errno::ACCESS.into());
    }
    let opened = dispatch::pass(linux, libc::SYS_openat as u64, &kinds, arguments)?;
    if !wanted.contains(OFlags::PATH)
        && let Some(instead) = linux.instead(opened, wanted)?
    {
        return Ok(instead);
    }
    if wanted.contains(OFlags::NONBLOCK) || wanted.contains(OFlags::PATH) {
        return Ok(opened);
    }
    let file = host::borrow(opened as RawFd);
    // It was something else before.
    if !wanted.contains(OFlags::RDWR) && host::kind(opened as RawFd)? == FileType::Fifo {
        host::close(opened as RawFd)?;
        return Err(Errno::ACCESS.into());
    }
    let flags = rustix::fs::fcntl_getfl(file)? - OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(file, flags)?;
    Ok(opened)
}

impl Linux {
    /// What `openat` would find and wait at is a pipe with a name. Opening it already wakes who waits at its other end.
    fn is_pipe(&mut self, directory: u64, path: u64, wanted: OFlags) -> Result<bool, Stop> {
        let new = OFlags::CREATE | OFlags::EXCL;
        // Who opens both ends waits for nobody.
        let never = [
            OFlags::NONBLOCK,
            OFlags::PATH,
            OFlags::DIRECTORY,
            OFlags::RDWR,
            new,
        ];
        if !self.reach.world || never.iter().any(|flags| wanted.contains(*flags)) {
            return Ok(false);
        }
        let text = self.text(path)?;
        let directory = match directory as RawFd {
            libc::AT_FDCWD => libc::AT_FDCWD,
            _ => self.descriptor(directory).unwrap_or(-1),
        };
        let flags = if wanted.contains(OFlags::NOFOLLOW) {
            libc::AT_SYMLINK_NOFOLLOW
        } else {
            0
        };
        // What is wrong with the path is for the opening to say.
        Ok(host::kind_at(directory, &text, flags) == Ok(FileType::Fifo))
    }

    /// Fails unless `number` is of an open file, not of a mere place in the file system.
    pub(super) fn open_file(&self, number: u64) -> Result<(), Errno> {
        let file = host::borrow(self.descriptor(number)?);
        match rustix::fs::fcntl_getfl(file)? {
            flags if flags.contains(OFlags::PATH) => Err(Errno::BADF),
            _ => Ok(()),
        }
    }
}

/// `chdir` and `fchdir` change what the monitor's relative paths mean; it has none.
pub(super) fn fchdir(linux: &mut Linux, [fd, ..]: Arguments) -> Served {
    if !linux.reach.world {
        linux.descriptor(fd)?;
        return Err(Errno::NOTDIR.into());
    }
    dispatch::pass(
        linux,
        libc::SYS_fchdir as u64,
        &[Arg::Descriptor],
        [fd, 0, 0, 0, 0, 0],
    )
}
