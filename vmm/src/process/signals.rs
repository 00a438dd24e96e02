//! Signals to the VMM: they are for the guest, whom people mean when they name the process that they started. And that
//! which says that something has become of a thread of the guest.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use rustix::time::Timespec;

use crate::job;

/// What is passed on. The terminal's own go to the guest anyway, which is in the same process group; so do those that somebody sends to
/// that group ([`super::sent`]). Where SIGTSTP has stopped it, this process stops too, and whoever has it go on names this one, and does so after SIGTERM, too. SIGTTIN and SIGTTOU, which
/// a terminal sends to who uses it in the background, stop this process as well as the guest.
pub(super) const PASSED_ON: [i32; 9] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGTSTP,
    libc::SIGCONT,
];
/// What ends a wait of the tracer's. Nothing else is said by it to a program that does not ask for it, and it is ignored
/// otherwise.
const INTERRUPTS: i32 = libc::SIGURG;

/// Where signals for the guest come.
#[derive(Debug)]
pub(super) struct Operator(OwnedFd);

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) signal: Signal,
    pub(super) sender: i32,
    /// To this process. The kernel's own are a terminal's, which has told the guest, too.
    pub(super) is_sent: bool,
}

/// Where it is told that something has become of a thread of the guest.
pub(super) struct Children {
    set: libc::sigset_t,
    /// Readable while that is so.
    there: OwnedFd,
}

impl Operator {
    /// Blocks all signals that are waited for, in this thread and in those that it starts. The mask is this process's own; a
    /// child made before keeps that of its starter.
    pub(super) fn new() -> io::Result<Self> {
        extern "C" fn nothing(_: i32) {}
        job::stops_by_default();
        let mut all = PASSED_ON.to_vec();
        all.push(libc::SIGCHLD);
        let (all, interrupts) = (set(&all), set(&[INTERRUPTS]));
        // SAFETY: sets that are whole; a handler that does nothing, and restarts no call (all zeros are a value of the
        // structure otherwise); the actions for two signals touch no memory of this program.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            if libc::sigaction(INTERRUPTS, &raw const action, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            // A starter that ignores it would leave this process without news.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            // A file that becomes too large says so by the call's error.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            for (how, set) in [(libc::SIG_BLOCK, all), (libc::SIG_UNBLOCK, interrupts)] {
                if libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) != 0 {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
        }
        Ok(Self(descriptor(&PASSED_ON)?))
    }

    /// The next, if one is there.
    pub(super) fn next(&self) -> Option<Came> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        // SAFETY: the kernel fills the structure, or nothing of it; all zeros are a value.
        let info = unsafe {
            let length = size_of::<libc::signalfd_siginfo>();
            libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), length);
            info.assume_init()
        };
        Some(Came {
            signal: Signal::from_named_raw(info.ssi_signo.cast_signed())?,
            sender: info.ssi_pid.cast_signed(),
            is_sent: info.ssi_code <= 0,
        })
    }
}

impl AsFd for Operator {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Children {
    /// Of a thread that was started when the signal was blocked.
    pub(super) fn new() -> io::Result<Self> {
        let all = [libc::SIGCHLD];
        Ok(Self {
            set: set(&all),
            there: descriptor(&all)?,
        })
    }

    /// Waits until one tells, perhaps.
    pub(super) fn wait(&self) -> io::Result<()> {
        // SAFETY: the kernel reads the set.
        if unsafe { libc::sigwaitinfo(&raw const self.set, std::ptr::null_mut()) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits until one tells or somebody is at `listener`, which it says, or for `patience`.
    pub(super) fn or_asked(
        &self,
        listener: BorrowedFd<'_>,
        patience: Option<&Timespec>,
    ) -> io::Result<bool> {
        let mut polls = [
            PollFd::new(&self.there, PollFlags::IN),
            PollFd::from_borrowed_fd(listener, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, patience))?;
        Ok(polls[1].revents().contains(PollFlags::IN))
    }
}

/// Takes `signal`, which this thread blocks, if it has come.
pub(super) fn take(signal: i32) -> Option<Came> {
    let set = set(&[signal]);
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: set and time are read; the structure is filled, or stays zeros, which are a value.
    let (taken, info) = unsafe {
        let taken = libc::sigtimedwait(&raw const set, info.as_mut_ptr(), &raw const now);
        (taken, info.assume_init())
    };
    Some(Came {
        signal: Signal::from_named_raw(taken)?,
        // SAFETY: any bytes are a number.
        sender: unsafe { info.si_pid() },
        is_sent: info.si_code <= 0,
    })
}

/// Ends a wait of thread `thread` of this process, if there is one.
pub(super) fn interrupt(thread: i32) {
    if thread != 0 {
        // SAFETY: sends a signal whose handler does nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, INTERRUPTS) };
    }
}

fn set(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialised first.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Readable while one of `signals` is there, without waiting.
fn descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set(signals);
    // SAFETY: the kernel reads the set. The descriptor was just made, and nobody else has it.
    unsafe {
        let made = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(made))
    }
}
