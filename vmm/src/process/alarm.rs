//! What ends the waiting of a process that is not to wait.

use std::io;

/// What interrupts: nothing else is said by it to a program that does not ask for it, and its default is to be ignored.
const SIGNAL: i32 = libc::SIGURG;
/// How long it lets the process wait, in nanoseconds: longer than any call takes that does not.
const PATIENCE: i64 = 20_000_000;

/// A timer that interrupts this process over and over while it is set.
#[derive(Debug)]
pub(super) struct Alarm(libc::timer_t);

impl Alarm {
    /// Not set.
    pub(super) fn new() -> io::Result<Self> {
        extern "C" fn nothing(_: i32) {}
        let mut timer = std::ptr::null_mut();
        // SAFETY: the handler does nothing, and interrupts calls (no `SA_RESTART`); all structures are whole, of which all
        // zeros are values; the kernel writes the timer's number.
        let made = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = SIGNAL;
            if libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            // A starter may have blocked it.
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, SIGNAL);
            if libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
        };
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(timer))
    }

    /// Does `act`, in which no call waits for long: it fails with `EINTR` instead, or ends without.
    pub(super) fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        self.set(PATIENCE);
        let done = act();
        self.set(0);
        done
    }

    fn set(&self, nanoseconds: i64) {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: nanoseconds,
        };
        let times = libc::itimerspec {
            it_interval: time,
            it_value: time,
        };
        // It is a timer of this process, and these are times: it does not fail. SAFETY: the kernel reads the times.
        unsafe { libc::timer_settime(self.0, 0, &raw const times, std::ptr::null_mut()) };
    }
}
