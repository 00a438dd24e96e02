//! Job control: where a guest is stopped, so is the VMM, which is what a shell or whoever started it knows of.
//!
//! A process that stops must not lose the signal by which somebody has it go on. Two rules of the kernel's see to that: one that stops, once sent,
//! takes one that waits to go on away, and the other way round. So the VMM sends itself a stop that waits, which whoever has it go on from then on takes
//! away, makes sure that its guest is stopped, and lets it through.

use std::mem::MaybeUninit;

/// Signals that stop a process unless it has other plans.
pub(crate) const STOPS: [i32; 4] = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// What undoes the other: `signal` stops or goes on, and of these one that waits is no more once it is sent.
pub(crate) fn undone_by(signal: i32) -> &'static [i32] {
    match signal {
        libc::SIGCONT => &STOPS,
        signal if STOPS.contains(&signal) => &[libc::SIGCONT],
        _ => &[],
    }
}

/// A stop of this process that waits.
#[derive(Debug)]
pub(crate) struct Stop {
    signal: i32,
    /// What the calling thread had blocked before.
    before: libc::sigset_t,
    process: i32,
    thread: i32,
}

impl Stop {
    /// Of this process by `signal`. None if somebody has it go on, which has not been taken note of. (Who does so between these two calls is not heard, as it
    /// is not by a program that stops itself; whoever has seen it stop comes later.)
    pub(crate) fn prepare(signal: i32) -> Option<Self> {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let process = rustix::process::getpid().as_raw_nonzero().get();
        let before = mask(libc::SIG_BLOCK, &set(signal));
        let stop = Self {
            signal,
            before,
            process,
            thread,
        };
        if waits(libc::SIGCONT) {
            mask(libc::SIG_SETMASK, &stop.before);
            return None;
        }
        // One that cannot be blocked does not wait, and comes when all else is done.
        if signal != libc::SIGSTOP {
            stop.send();
        }
        Some(stop)
    }

    /// Stops, unless somebody has had this process go on since. It goes on here. Whether it may stop at all the kernel knows: where nobody
    /// would have it go on, a terminal's signals stop nobody.
    pub(crate) fn let_through(self) {
        if self.signal == libc::SIGSTOP && !waits(libc::SIGCONT) {
            self.send();
        }
        mask(libc::SIG_UNBLOCK, &set(self.signal));
        mask(libc::SIG_SETMASK, &self.before);
    }

    /// Does not stop.
    pub(crate) fn take_back(self) {
        let (set, now) = (
            set(self.signal),
            libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
        );
        // SAFETY: set and time are read. That none waits any more is as well.
        unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const now) };
        mask(libc::SIG_SETMASK, &self.before);
    }

    fn send(&self) {
        // SAFETY: sends a signal to this thread, with no pointer. What it does by default becomes of this program, which has no handler for it.
        unsafe { libc::syscall(libc::SYS_tgkill, self.process, self.thread, self.signal) };
    }
}

/// Has the signal by which a terminal stops a job stop this process, whatever it was started with, where it sends that to itself.
pub(crate) fn stops_by_default() {
    // SAFETY: an action that touches no memory of this program, for a signal that has no handler.
    unsafe { libc::signal(libc::SIGTSTP, libc::SIG_DFL) };
}

/// Whether `signal` waits for this thread, which blocks it.
fn waits(signal: i32) -> bool {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: the set is filled; it would stay one of none.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        libc::sigismember(set.as_ptr(), signal) == 1
    }
}

/// Changes what the calling thread has blocked; what it was.
fn mask(how: i32, set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = MaybeUninit::zeroed();
    // SAFETY: the set is one and is read; the other is filled, for `how` is one of three.
    unsafe {
        libc::pthread_sigmask(how, set, before.as_mut_ptr());
        before.assume_init()
    }
}

fn set(signal: i32) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is initialised first.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_oneself(signal: i32) {
        // SAFETY: sends a signal to this thread.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
    }

    fn block(signal: i32) {
        mask(libc::SIG_BLOCK, &set(signal));
    }

    /// The stop of a thread is the process's: none is let through here but what would come to nothing.
    #[test]
    fn who_has_it_go_on_is_heard_before_and_after() {
        block(libc::SIGCONT);
        to_oneself(libc::SIGCONT);
        assert!(Stop::prepare(libc::SIGTSTP).is_none(), "before");
        let stop = || {
            // What waits is taken away by it.
            block(libc::SIGTSTP);
            to_oneself(libc::SIGTSTP);
            let stop = Stop::prepare(libc::SIGTSTP).unwrap();
            assert!(waits(libc::SIGTSTP) && !waits(libc::SIGCONT));
            stop
        };
        stop().take_back();
        assert!(!waits(libc::SIGTSTP));
        let stop = stop();
        to_oneself(libc::SIGCONT);
        assert!(!waits(libc::SIGTSTP));
        stop.let_through();
        assert!(waits(libc::SIGCONT), "it is for others to take");
    }

    #[test]
    fn stopping_and_going_on_undo_each_other() {
        assert_eq!(undone_by(libc::SIGTSTP), [libc::SIGCONT]);
        assert_eq!(undone_by(libc::SIGCONT), STOPS);
        assert!(undone_by(libc::SIGTERM).is_empty());
    }
}
