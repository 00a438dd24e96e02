//! Installs a seccomp filter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::{sock_filter, sock_fprog};
use thiserror::Error;

/// Why a filter cannot be installed.
#[derive(Debug, Error)]
#[error("confining system calls with seccomp: {0}; it needs CONFIG_SECCOMP_FILTER")]
pub struct FilterError(#[from] io::Error);

/// Requests to a listener: `SECCOMP_IOCTL_NOTIF_RECV`, `_SEND` and `_ADDFD`.
pub(crate) const RECEIVE: u32 = 0xc050_2100;
pub(crate) const SEND: u32 = 0xc018_2101;
pub(crate) const ADD: u32 = 0x4018_2103;

/// Confines all threads of this process, and all that they start, by `program`, for good. `PR_SET_NO_NEW_PRIVS`
/// must be set, or the process must be privileged.
pub(super) fn install(program: &[sock_filter]) -> Result<(), FilterError> {
    match set(program, libc::SECCOMP_FILTER_FLAG_TSYNC)? {
        0 => Ok(()),
        thread => Err(io::Error::other(format!("thread {thread} has another filter")).into()),
    }
}

/// The same for this thread, and a descriptor to listen at for calls that wait. There is none where somebody listens at a
/// filter of this process already.
pub(super) fn install_listened(program: &[sock_filter]) -> Result<Option<OwnedFd>, FilterError> {
    match set(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => install(program).map(|()| None),
        // SAFETY: the kernel has made it for this call, and nobody else knows of it.
        made => Ok(Some(unsafe { OwnedFd::from_raw_fd(made? as i32) })),
    }
}

fn set(program: &[sock_filter], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    let program = sock_fprog {
        len: u16::try_from(program.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions from `filter`, checks and copies them, and writes
    // nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
