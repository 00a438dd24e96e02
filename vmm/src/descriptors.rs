//! Numbers of descriptors. A guest's descriptor is the host's of the same number, so that the host's
//! kernel decides which is the lowest free one, what is shared after `dup`, and what `poll` says.
//! The VMM's own descriptors have to be out of its way and out of its reach: they lie from
//! [`FIRST`] on, and whoever serves a guest's call asks [`Own`] first.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The lowest number of a descriptor of the VMM: a guest that asks for few descriptors gets them all. From
/// 64 on the kernel keeps a larger table (`NR_OPEN_DEFAULT`, include/linux/fdtable.h), which takes one KiB up to 128.
pub const FIRST: RawFd = 64;
/// Descriptors that a guest may have, and the VMM beside it.
pub const MOST: RawFd = 16384;
/// What poolvmm takes of them at the least.
const LEAST: u64 = FIRST as u64 + 32;
/// Numbers that are looked at together, and a longer gap than anything that is closed before the guest runs
/// leaves: files of directories and terminals.
const AT_ONCE: usize = 256;

/// This process was started to ignore SIGPIPE, as a service of systemd is.
static IGNORED_BEFORE: AtomicBool = AtomicBool::new(false);

/// Whether whoever started this process ignores `signal`, of which `action` is what becomes of it now. Writing where nobody reads this
/// process has ignored itself ([`reserve`]).
pub(crate) fn was_ignored(signal: i32, action: libc::sighandler_t) -> bool {
    let is_own = signal == libc::SIGPIPE;
    action == libc::SIG_IGN && (!is_own || IGNORED_BEFORE.load(Ordering::Relaxed))
}

/// Closes what was inherited beyond standard input, output and error, and has all that this process
/// opens from now on be numbered from [`FIRST`] on, and below [`MOST`]. A standard stream that is closed leads to
/// `/dev/null` from now on, and writing where nobody reads is an error of that call.
///
/// To be called first, as the standard library would do its part of this.
pub fn reserve() -> io::Result<()> {
    close(3, RawFd::MAX)?;
    // SAFETY: nobody has set what becomes of this signal before.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    IGNORED_BEFORE.store(before == libc::SIG_IGN, Ordering::Relaxed);
    for stream in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        if rustix::io::fcntl_getfd(stream) == Err(Errno::BADF) {
            let nothing = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
            // It has the lowest number that was free, which is this stream's.
            std::mem::forget(nothing);
        }
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < LEAST {
        let words = format!("{limit} are allowed (ulimit -n), and it takes at least {LEAST}");
        return Err(io::Error::other(words));
    }
    bound(limit.min(MOST as u64))?;
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

/// Has all descriptors that are made from now on be numbered below `most`. Those that there are stay, and so
/// does how far this can be raised again.
pub fn bound(most: u64) -> Result<(), Errno> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map_or(most, |maximum| maximum.min(most));
    let limit = Rlimit {
        current: Some(most),
        ..limit
    };
    setrlimit(Resource::Nofile, limit)
}

/// `poll`, which the kernel lets no process do with more descriptors than it may have: a guest may have
/// bounded those below what it has open, and the VMM's own come on top.
pub fn poll(
    polls: &mut [PollFd<'_>],
    timeout: Option<&rustix::time::Timespec>,
) -> Result<usize, Errno> {
    match rustix::event::poll(polls, timeout) {
        Err(Errno::INVAL) => unbounded(|| rustix::event::poll(polls, timeout)),
        found => found,
    }
}

/// The same for a thread beside which others make a guest's calls: the bound holds for them meanwhile. None where the
/// kernel refuses: then a moment has passed, or all of `timeout` if that is less, and nothing was looked at.
pub fn poll_within_bound(
    polls: &mut [PollFd<'_>],
    timeout: Option<&rustix::time::Timespec>,
) -> Result<Option<usize>, Errno> {
    const MOMENT: rustix::time::Timespec = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 2_000_000,
    };
    match rustix::event::poll(polls, timeout) {
        Err(Errno::INVAL) => {
            let moment = timeout.map_or(MOMENT, |&timeout| timeout.min(MOMENT));
            rustix::event::poll(&mut [], Some(&moment))?;
            Ok(None)
        }
        found => found.map(Some),
    }
}

/// Does what the bound that a guest has set would not allow. Nobody else makes calls of the guest's meanwhile.
fn unbounded<T>(act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    bound(u64::MAX)?;
    let done = act();
    bound(limit)?;
    done
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

/// The numbers in use from `first` on. The kernel gives the lowest free one, so they lie close together: what
/// was closed leaves gaps, but none of [`AT_ONCE`]. Were there one all the same, what lies behind it is closed,
/// so that no guest can name it.
fn open_from(first: RawFd) -> io::Result<BTreeSet<RawFd>> {
    // `poll` takes no more at once than the process may have.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let at_once = limit.clamp(1, AT_ONCE as u64) as usize;
    let mut open = BTreeSet::new();
    for first in (first..MOST).step_by(at_once) {
        let before = open.len();
        open.extend(used(first, at_once)?);
        if open.len() == before {
            close(first, RawFd::MAX)?;
            break;
        }
    }
    Ok(open)
}

/// Of `count` numbers from `first` on those that are in use.
fn used(first: RawFd, count: usize) -> Result<Vec<RawFd>, Errno> {
    let ask = |number| {
        // SAFETY: only asks whether the number is in use; it is not -1.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        PollFd::from_borrowed_fd(descriptor, PollFlags::empty())
    };
    let numbers = first..first + count as RawFd;
    let mut polls: Vec<_> = numbers.clone().map(ask).collect();
    poll(&mut polls, Some(&rustix::time::Timespec::default()))?;
    let used = numbers.zip(&polls);
    let used = used.filter(|(_, poll)| !poll.revents().contains(PollFlags::NVAL));
    Ok(used.map(|(number, _)| number).collect())
}

/// The VMM's own descriptors.
#[derive(Debug, Default)]
pub struct Own(BTreeSet<RawFd>);

impl Own {
    /// Gives the numbers below [`FIRST`] to the guest. All that this process has open from there
    /// on is its own.
    pub fn release(&mut self) -> io::Result<()> {
        close(3, FIRST - 1)?;
        self.0 = open_from(FIRST)?;
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

    /// Keeps what `file` is open for, out of the guest's reach.
    pub fn keep(&mut self, file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let kept = unbounded(|| rustix::io::fcntl_dupfd_cloexec(file, FIRST))?;
        self.0.insert(kept.as_raw_fd());
        Ok(kept)
    }

    /// What was kept is about to be closed.
    pub fn let_go(&mut self, kept: &OwnedFd) {
        self.0.remove(&kept.as_raw_fd());
    }

    /// The guest's open descriptors, in order.
    pub fn guests(&self) -> Result<Vec<RawFd>, Errno> {
        let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let at_once = most.clamp(1, 1024) as usize;
        let mut guests = Vec::new();
        for first in (0..MOST).step_by(at_once) {
            let open = used(first, at_once)?;
            guests.extend(open.iter().filter(|number| !self.0.contains(number)));
        }
        Ok(guests)
    }

    /// The VMM's numbers, in order.
    pub fn all(&self) -> Vec<RawFd> {
        self.0.iter().copied().collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    /// What is overlooked must not be a guest's.
    #[test]
    fn what_lies_behind_a_long_gap_is_closed() {
        let far = 400 + 2 * AT_ONCE as RawFd;
        let made = [400, 450, far].map(|number| {
            let made = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), number).unwrap();
            made.into_raw_fd()
        });
        assert_eq!(open_from(400).unwrap(), BTreeSet::from([made[0], made[1]]));
        // SAFETY: only asks.
        assert_eq!(unsafe { libc::fcntl(made[2], libc::F_GETFD) }, -1);
        close(400, RawFd::MAX).unwrap();
    }
}
