//! Installs a seccomp filter.

use std::io;

use libc::{sock_filter, sock_fprog};
use thiserror::Error;

/// Why a filter cannot be installed.
#[derive(Debug, Error)]
#[error("confining system calls with seccomp: {0}; it needs CONFIG_SECCOMP_FILTER")]
pub struct FilterError(#[from] io::Error);

/// Confines this thread, and all that it starts, by `program`, for good. `PR_SET_NO_NEW_PRIVS`
/// must be set, or the process must be privileged.
pub(super) fn install(program: &[sock_filter]) -> Result<(), FilterError> {
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
            0,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error().into())
    }
}
