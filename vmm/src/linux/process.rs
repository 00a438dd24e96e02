//! Calls about the process itself: its number, and the children that it has not.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use rustix::io::Errno;

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

/// Puts what a guest is told in place of the number that `bytes` begin with, which may be cut off.
pub(super) fn tell_number(bytes: &mut [u8]) {
    let length = bytes.len().min(size_of::<i32>());
    let is_own = bytes[..length] == number_on_host().to_le_bytes()[..length];
    let told = if is_own { PID as i32 } else { 0 };
    bytes[..length].copy_from_slice(&told.to_le_bytes()[..length]);
}

/// `getpid`, and `getpgrp`: the guest is alone in its group, which it leads, and so in its session.
pub(super) fn getpid(_: &mut Linux, _: Arguments) -> Served {
    Ok(PID)
}

/// `getppid`: nobody started it.
pub(super) fn getppid(_: &mut Linux, _: Arguments) -> Served {
    Ok(0)
}

/// The group and the session of thread `asked`, 0 for the caller, of a guest whose process is `own`, where `has` says which
/// threads it has. There is no other that could be asked for.
pub(crate) fn leader(own: i32, asked: u64, has: impl Fn(i32) -> bool) -> Result<i32, Errno> {
    match asked as i32 {
        0 => Ok(own),
        number if has(number) => Ok(own),
        _ => Err(Errno::SRCH),
    }
}

/// Why `setpgid` fails for thread `asked` and `group`, of the same guest, in the kernel's order (kernel/sys.c): who leads a session stays
/// in its group.
pub(crate) fn cannot_leave(own: i32, [asked, group]: [u64; 2], has: impl Fn(i32) -> bool) -> Errno {
    let asked = match asked as i32 {
        0 => own,
        asked => asked,
    };
    if (group as i32).is_negative() || group as i32 == 0 && asked < 0 {
        Errno::INVAL
    } else if !has(asked) {
        Errno::SRCH
    } else if asked == own {
        Errno::PERM
    } else {
        Errno::INVAL
    }
}

/// `getpgid`, `getsid`.
pub(super) fn getpgid(linux: &mut Linux, [asked, ..]: Arguments) -> Served {
    let has = |number: i32| linux.task_named(number as u64).is_ok();
    Ok(leader(PID as i32, asked, has)? as u64)
}

/// `setpgid`.
pub(super) fn setpgid(linux: &mut Linux, [asked, group, ..]: Arguments) -> Served {
    let has = |number: i32| linux.task_named(number as u64).is_ok();
    Err(cannot_leave(PID as i32, [asked, group], has).into())
}

/// `setsid`: who leads a group begins no session.
pub(super) fn setsid(_: &mut Linux, _: Arguments) -> Served {
    Err(Errno::PERM.into())
}

/// What any wait for children may be asked: `WNOHANG`, `WCONTINUED`, `__WNOTHREAD`, `__WALL`, `__WCLONE`.
const WAITS: u32 = 0x1 | 0x8 | 0x2000_0000 | 0x4000_0000 | 0x8000_0000;
/// `WUNTRACED`, which `waitid` has as `WSTOPPED`.
const STOPPED: u32 = 0x2;

/// `wait4`: a guest starts no process, so it has no child to wait for. It is not the host's kernel that says so: this
/// process may have inherited some.
pub(super) fn wait4(_: &mut Linux, [number, _, options, ..]: Arguments) -> Served {
    if options as u32 & !(WAITS | STOPPED) != 0 {
        return Err(Errno::INVAL.into());
    }
    // No process group has this number, which has no complement.
    if number as u32 == 1 << 31 {
        return Err(Errno::SRCH.into());
    }
    Err(Errno::CHILD.into())
}

/// `waitid`: the same. What it would tell is nothing, and told even so (kernel/exit.c).
pub(super) fn waitid(linux: &mut Linux, [kind, number, at, options, ..]: Arguments) -> Served {
    if at != 0 {
        // Signal, error and code; process, user and status: there are four bytes between them.
        for place in [at, at.wrapping_add(16)] {
            linux.memory.write(place, &[0; 12])?;
        }
    }
    Err(waited(kind as i32, number as i32, options as u32).into())
}

/// Why `waitid` has nothing to tell.
fn waited(kind: i32, number: i32, options: u32) -> Errno {
    const EXITED: u32 = 0x4;
    const CONTINUED: u32 = 0x8;
    const KEPT: u32 = 0x0100_0000;
    let ends = STOPPED | EXITED | CONTINUED;
    if options & !(WAITS | ends | KEPT) != 0 || options & ends == 0 {
        return Errno::INVAL;
    }
    match kind {
        // P_ALL, P_PID, P_PGID.
        0 => Errno::CHILD,
        1 if number > 0 => Errno::CHILD,
        2 if number >= 0 => Errno::CHILD,
        // P_PIDFD: nothing makes one.
        3 if number >= 0 => Errno::BADF,
        _ => Errno::INVAL,
    }
}
