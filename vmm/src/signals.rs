//! Signals of this process, as safe functions: sets of them, what a thread blocks, what waits for it, and what becomes of one.
//!
//! Nothing here runs on a signal but a handler that somebody hands in, which must be made for that.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct Set(libc::sigset_t);

/// A signal that was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) signal: i32,
    /// Why it was sent (`si_code`): above zero by the kernel.
    pub(crate) code: i32,
    /// Number of the process that sent it, where one did.
    pub(crate) sender: i32,
}

impl Set {
    /// Of these, each a number that there is.
    pub(crate) fn of(signals: &[i32]) -> Self {
        let mut set = MaybeUninit::zeroed();
        // SAFETY: the set is made one before signals are added; all zeros are one, too.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), *signal);
            }
            Self(set.assume_init())
        }
    }

    pub(crate) fn has(&self, signal: i32) -> bool {
        // SAFETY: the set is one, and is only read.
        unsafe { libc::sigismember(&raw const self.0, signal) == 1 }
    }

    /// As the kernel has it: a bit each, from the lowest on.
    pub(crate) fn word(&self) -> u64 {
        let has = |signal: &i32| self.has(*signal);
        (1..=64)
            .filter(has)
            .fold(0, |word, signal| word | bit(signal))
    }
}

impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Set({:#x})", self.word())
    }
}

/// A signal in the kernel's form of a set.
pub(crate) const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Blocks these too, in the calling thread and those that it starts; what it blocked before.
pub(crate) fn block(set: &Set) -> Set {
    mask(libc::SIG_BLOCK, Some(set))
}

/// Lets these through; what the calling thread blocked before.
pub(crate) fn unblock(set: &Set) -> Set {
    mask(libc::SIG_UNBLOCK, Some(set))
}

/// Blocks these and no others.
pub(crate) fn block_only(set: &Set) {
    mask(libc::SIG_SETMASK, Some(set));
}

/// What the calling thread blocks.
pub(crate) fn blocked() -> Set {
    mask(libc::SIG_BLOCK, None)
}

fn mask(how: i32, set: Option<&Set>) -> Set {
    let set = set.map_or(std::ptr::null(), |set| &raw const set.0);
    let mut before = MaybeUninit::zeroed();
    // SAFETY: the set is one that is read, or none; the other is filled. It fails for another `how` alone.
    unsafe {
        libc::pthread_sigmask(how, set, before.as_mut_ptr());
        Set(before.assume_init())
    }
}

/// Those that wait for the calling thread, which blocks them: sent to it, or to this process.
pub(crate) fn waiting() -> Set {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: the set is filled.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        Set(set.assume_init())
    }
}

/// Takes one of `set` that waits for the calling thread, which blocks them, if there is one.
pub(crate) fn take(set: &Set) -> Option<Taken> {
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: set and time are read; the structure is filled, or stays zeros, which are a value. Any bytes are a number.
    let (signal, code, sender) = unsafe {
        let signal = libc::sigtimedwait(&raw const set.0, info.as_mut_ptr(), &raw const now);
        let info = info.assume_init();
        (signal, info.si_code, info.si_pid())
    };
    (signal > 0).then_some(Taken {
        signal,
        code,
        sender,
    })
}

/// Waits until one of `set` comes for the calling thread, which blocks them, and takes it; or until something else does.
pub(crate) fn wait(set: &Set) -> io::Result<()> {
    // SAFETY: the set is read.
    if unsafe { libc::sigwaitinfo(&raw const set.0, std::ptr::null_mut()) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

/// A descriptor that is readable while one of `set` waits for whoever asks, and gives it without waiting.
pub(crate) fn descriptor(set: &Set) -> io::Result<OwnedFd> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is read. The descriptor was just made, and nobody else has it.
    unsafe {
        let made = libc::signalfd(-1, &raw const set.0, flags);
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(made))
    }
}

/// Sends `signal` to a thread of this process.
pub(crate) fn send_to(thread: i32, signal: i32) -> io::Result<()> {
    // SAFETY: it takes numbers alone.
    if unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The number of the calling thread.
pub(crate) fn own_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// What becomes of `signal`: `SIG_DFL`, `SIG_IGN` or a handler's address.
pub(crate) fn action(signal: i32) -> libc::sighandler_t {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks; the structure is filled, or stays zeros, which are a value.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    }
}

/// Has `signal`, which this program has no handler for that anything relies on, do what it does by default.
pub(crate) fn by_default(signal: i32) {
    // SAFETY: an action that touches no memory of this program.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Has it do nothing.
pub(crate) fn ignore(signal: i32) {
    // SAFETY: likewise.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Has it run `handler`, and end what it interrupts.
///
/// # Safety
///
/// `handler` does what may be done at any moment (signal-safety(7)).
pub(crate) unsafe fn handle(signal: i32, handler: extern "C" fn(i32)) -> io::Result<()> {
    // SAFETY: all zeros are a value of the structure, which asks for no call to be made again; the handler is as the caller says.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_it_is_of() {
        let set = Set::of(&[libc::SIGHUP, libc::SIGTERM, 64]);
        assert!(set.has(libc::SIGTERM) && set.has(64) && !set.has(libc::SIGINT));
        assert_eq!(set.word(), 1 | 1 << 14 | 1 << 63);
        assert_eq!(format!("{:?}", Set::of(&[])), "Set(0x0)");
    }

    #[test]
    fn what_is_blocked_waits_and_is_taken_once() {
        let usr = Set::of(&[libc::SIGUSR2]);
        let before = block(&usr);
        assert!(blocked().has(libc::SIGUSR2) && take(&usr).is_none());
        send_to(own_thread(), libc::SIGUSR2).unwrap();
        assert!(waiting().has(libc::SIGUSR2));
        let taken = take(&usr).unwrap();
        assert_eq!(taken.signal, libc::SIGUSR2);
        assert!(taken.code <= 0, "it was sent");
        assert_eq!(taken.sender, std::process::id().cast_signed());
        assert!(take(&usr).is_none() && !waiting().has(libc::SIGUSR2));
        block_only(&before);
        assert!(!blocked().has(libc::SIGUSR2));
    }

    #[test]
    fn a_thread_that_there_is_none_of_gets_nothing() {
        assert!(send_to(i32::MAX, libc::SIGUSR2).is_err());
    }
}
