//! What is asked of terminals: their settings, what they have still to send, and who uses them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Bytes of the kernel's `struct termios` (asm-generic/termbits.h).
pub(crate) const BYTES: usize = 36;
/// Settings of a terminal, as the kernel has them.
pub(crate) type Settings = [u8; BYTES];

/// The settings of a terminal; of another file, what the kernel says of it.
pub(crate) fn settings(terminal: BorrowedFd<'_>) -> Result<Settings, Errno> {
    let mut settings = [0; BYTES];
    // SAFETY: the kernel writes a `struct termios`.
    result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TCGETS, settings.as_mut_ptr()) })?;
    Ok(settings)
}

/// Sets them at once.
pub(crate) fn set(terminal: BorrowedFd<'_>, settings: &Settings) -> Result<(), Errno> {
    // SAFETY: the kernel reads a `struct termios`.
    result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TCSETS, settings.as_ptr()) })
}

/// Bytes that it has still to send.
pub(crate) fn unsent(terminal: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut count = 0;
    // SAFETY: the kernel writes an `int`.
    result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) })?;
    Ok(count)
}

/// The process group in its foreground, or 0 for one that this process has no number for. None but the terminal of this process says.
pub(crate) fn foreground(terminal: BorrowedFd<'_>) -> Result<i32, Errno> {
    let mut group = 0;
    // SAFETY: the kernel writes an `int`.
    result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGPGRP, &raw mut group) })?;
    Ok(group)
}

/// Drops what it has received and nobody has read.
pub(crate) fn drop_input(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the argument is a number.
    result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TCFLSH, libc::TCIFLUSH) })
}

/// Waits until it has sent all.
pub(crate) fn drain(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the argument is a number; no break is sent for one that is not 0.
    result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TCSBRK, 1) })
}

/// How long a reader waits for a byte before there is none, in milliseconds: termios(3), the case of
/// MIN == 0 and TIME > 0.
pub(crate) fn patience(settings: &Settings) -> Option<u64> {
    const LOCAL_FLAGS: usize = 12;
    const CHARACTERS: usize = 17;
    let by_line = u32::from(settings[LOCAL_FLAGS]) & libc::ICANON != 0;
    let [least, tenths] = [libc::VMIN, libc::VTIME].map(|at| settings[CHARACTERS + at]);
    (!by_line && least == 0 && tenths > 0).then_some(u64::from(tenths) * 100)
}

fn result(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(())
    }
}
