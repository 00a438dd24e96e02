//! Job control: where a guest is stopped, so is the VMM, which is what a shell or whoever started it knows of.

use std::mem::MaybeUninit;

/// Stops this process as `signal`, one that stops, does by default, until somebody has it go on. Whether that may be the kernel knows: where
/// nobody would have it go on, a terminal's signals stop nobody. The calling thread need not let it through.
pub(crate) fn stop(signal: i32) {
    let (mut set, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sends a signal to this thread, with no pointer; `sigemptyset` makes the set one, to which the signal is
    // added; the mask is put back as it was told to be, and is not touched if that failed.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal);
        // It is this thread's alone, and nobody else takes it meanwhile.
        if libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), before.as_mut_ptr()) == 0 {
            libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        }
    }
}
