//! Becoming a daemon: a fork whose parent waits for the news, and signals as messages.

use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;

/// What the parent of a daemon is told first when all is well; anything else is an error message.
const READY: u8 = 0;

/// Which side of the fork this is.
#[derive(Debug)]
pub(crate) enum Side {
    /// The process that was started, which waits for the daemon.
    Parent(Waiter),
    /// The daemon to be.
    Daemon(Reporter),
}

/// The parent's end of the news.
#[derive(Debug)]
pub(crate) struct Waiter(PipeReader);

/// The daemon's end of the news.
#[derive(Debug)]
pub(crate) struct Reporter(PipeWriter);

/// Splits in two. Must come before anything that makes a thread or opens a file: threads stay
/// behind, and all descriptors but the standard ones are closed. Somebody waits for the end of what
/// they lead to (a pipe of a shell's or of CI's), and a daemon has none.
pub(crate) fn fork() -> io::Result<Side> {
    close_inherited();
    let (reader, writer) = io::pipe()?;
    // SAFETY: no thread but this one exists yet (the caller's duty, and `main` calls this first),
    // so the child may do anything that this process may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(reader);
            rustix::process::setsid()?;
            Ok(Side::Daemon(Reporter(writer)))
        }
        _ => {
            drop(writer);
            Ok(Side::Parent(Waiter(reader)))
        }
    }
}

fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet (the caller's duty).
    // Linux before 5.9 does not have the call: there they stay, which harms nobody else.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

impl Waiter {
    /// Waits until the daemon serves or has failed; `Err` is its message.
    pub(crate) fn wait(mut self) -> Result<(), String> {
        let mut news = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut news) {
            return Err(format!("waiting for the daemon: {error}"));
        }
        match news.split_first() {
            Some((&READY, _)) => Ok(()),
            Some(_) => Err(String::from_utf8_lossy(&news).into_owned()),
            None => Err("the daemon ended before it had mounted anything".into()),
        }
    }
}

impl Reporter {
    /// Lets the parent go, and leaves its directory and its terminal.
    pub(crate) fn ready(mut self) -> io::Result<()> {
        rustix::process::chdir("/")?;
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        for standard in 0..=2 {
            // SAFETY: replaces descriptors 0 to 2, which only the standard streams own.
            if unsafe { libc::dup2(null.as_raw_fd(), standard) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        self.0.write_all(&[READY])
    }

    /// Tells the parent why there will be no daemon.
    pub(crate) fn failed(mut self, message: &str) {
        // Without a parent there is nobody to tell.
        let _ = self.0.write_all(message.as_bytes());
    }
}

/// Signals that end the mount, blocked in every thread and waited for in one.
pub(crate) struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// Blocks SIGTERM, SIGINT and SIGHUP from here on: threads made later inherit it.
    pub(crate) fn block() -> io::Result<Self> {
        // SAFETY: sigset_t is plain data that sigemptyset initialises; all pointers are to a
        // local, and each call only reads or writes it.
        let (status, set) = unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            let status =
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            (status, set)
        };
        if status == 0 {
            Ok(Self(set))
        } else {
            Err(io::Error::from_raw_os_error(status))
        }
    }

    /// Waits for one.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut signal = 0;
        // SAFETY: the set was initialised by `block`, and `signal` is a local to write to.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}
