//! Standard input, output and error. They are the operator's: a guest uses them, and its changes end with it.
//!
//! Flags of an open file, such as whether reading waits, are shared with everybody who was given it, and so are a
//! terminal's settings. So a guest gets pipes and terminals opened anew, with flags of its own; what cannot be opened
//! anew (a socket) or must not be (a file, whose position is shared on purpose) has its flags put back at the
//! end, and a terminal its settings. A socket is what it is connected to, and for a guest without a network it stays
//! that: calls that would connect it elsewhere are refused, and datagrams, which go anywhere, are none of its own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::descriptors::FIRST;
use crate::signals::{self, Set};
use crate::terminal::{self, Settings};

/// The three, as they were before the guest.
#[derive(Debug)]
pub(crate) struct Standard {
    kept: Vec<Kept>,
    /// Where this program says what went wrong.
    error: OwnedFd,
}

/// A file that is put back.
#[derive(Debug)]
struct Kept {
    file: OwnedFd,
    flags: OFlags,
    settings: Option<Settings>,
}

impl Standard {
    /// Makes them what a guest may have that has the host's `network`, or not. A directory among them would be one that
    /// was not granted.
    pub(crate) fn prepare(network: bool) -> io::Result<Self> {
        let files = [
            rustix::stdio::stdin(),
            rustix::stdio::stdout(),
            rustix::stdio::stderr(),
        ];
        let error = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), FIRST)?;
        let mut kept = Vec::new();
        for file in files {
            let stat = rustix::fs::fstat(file)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                return Err(io::Error::other(
                    "one of them is a directory, which is granted with --dir",
                ));
            }
            if kind == FileType::Socket && !network && is_datagrams(file)? {
                return Err(io::Error::other(
                    "one of them is a socket of datagrams, which reaches any address: that takes --net host",
                ));
            }
            let flags = rustix::fs::fcntl_getfl(file)?;
            let settings = match kind {
                FileType::CharacterDevice => terminal::settings(file).ok(),
                _ => None,
            };
            let may_be_anew =
                kind == FileType::Fifo || settings.is_some() && !is_maker(stat.st_rdev);
            let anew = may_be_anew && open_anew(file, flags).is_ok();
            // Whoever reads a pipe is to see when the guest has closed it.
            if kind != FileType::Fifo || !anew {
                kept.push(Kept {
                    file: rustix::io::fcntl_dupfd_cloexec(file, FIRST)?,
                    flags,
                    settings,
                });
            }
        }
        Ok(Self { kept, error })
    }

    /// Standard error as it was: not the guest's, where that could be opened anew.
    pub(crate) fn error(&self) -> io::Result<File> {
        let error = rustix::io::fcntl_dupfd_cloexec(&self.error, FIRST)?;
        Ok(error.into())
    }

    /// Has this program's messages go where they went, and puts back what the guest has changed.
    pub(crate) fn give_back(&self) -> io::Result<()> {
        rustix::stdio::dup2_stderr(&self.error)?;
        self.restore()
    }

    /// Puts back what the guest has changed.
    pub(crate) fn restore(&self) -> io::Result<()> {
        for kept in &self.kept {
            if rustix::fs::fcntl_getfl(&kept.file)? != kept.flags {
                rustix::fs::fcntl_setfl(&kept.file, kept.flags)?;
            }
            // A terminal that is gone has no settings.
            if let Some(settings) = &kept.settings
                && terminal::settings(kept.file.as_fd()).is_ok_and(|found| found != *settings)
            {
                in_the_background(|| terminal::set(kept.file.as_fd(), settings))?;
            }
        }
        Ok(())
    }
}

/// Leaves input and output to the guest's process, so that their other ends see when it has closed them.
pub(crate) fn leave() -> io::Result<()> {
    let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok(())
}

/// A socket that sends to whatever address it is told.
fn is_datagrams(socket: BorrowedFd<'_>) -> Result<bool, Errno> {
    let kind = sockopt::socket_type(socket)?;
    let connected = kind == SocketType::STREAM
        || kind == SocketType::SEQPACKET && sockopt::socket_domain(socket)? == AddressFamily::UNIX;
    Ok(!connected)
}

/// `/dev/ptmx`, where each opening makes a new terminal.
fn is_maker(device: u64) -> bool {
    (rustix::fs::major(device), rustix::fs::minor(device)) == (5, 2)
}

/// Replaces `file` by itself opened once more, with the same flags.
fn open_anew(file: BorrowedFd<'_>, flags: OFlags) -> io::Result<()> {
    let number = file.as_raw_fd();
    let how = flags & OFlags::ACCMODE | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let anew = rustix::fs::open(format!("/proc/self/fd/{number}"), how, Mode::empty())?;
    rustix::fs::fcntl_setfl(&anew, flags)?;
    match number {
        0 => rustix::stdio::dup2_stdin(&anew)?,
        1 => rustix::stdio::dup2_stdout(&anew)?,
        _ => rustix::stdio::dup2_stderr(&anew)?,
    }
    Ok(())
}

/// Does what would stop a process in the background of its terminal.
fn in_the_background<T>(act: impl FnOnce() -> T) -> T {
    let before = signals::block(&Set::of(&[libc::SIGTTOU]));
    let done = act();
    signals::block_only(&before);
    done
}
