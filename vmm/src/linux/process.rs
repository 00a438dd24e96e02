//! Calls about the process itself: its number.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

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

/// `getpid`, `getpgrp`.
pub(super) fn getpid(_: &mut Linux, _: Arguments) -> Served {
    Ok(PID)
}

/// `getppid`: nobody started it.
pub(super) fn getppid(_: &mut Linux, _: Arguments) -> Served {
    Ok(0)
}
