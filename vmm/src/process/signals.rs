//! Signals to the VMM: they are for the guest, whom people mean when they name the process that they started.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::time::Timespec;

/// What is passed on. The terminal's own go to the guest anyway, which is in the same process group.
const PASSED_ON: [i32; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

/// The signals that this process waits for, blocked.
pub(super) struct Signals {
    set: libc::sigset_t,
    /// Readable while one is there.
    there: OwnedFd,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Something about a thread of the guest, perhaps.
    Child,
    /// Somebody sent this to the VMM.
    Sent(i32),
}

impl Signals {
    /// Blocks them: from now on they are waited for. The mask is this process's own; a child made before
    /// keeps that of its starter.
    pub(super) fn block() -> io::Result<Self> {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set is initialised first; blocking signals and the actions for two touch no memory of this
        // program. The descriptor was just made, and nobody else has it.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in PASSED_ON.into_iter().chain([libc::SIGCHLD]) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let set = set.assume_init();
            // A starter that ignores it would leave this process without news.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            // A file that becomes too large says so by the call's error.
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            let there = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC);
            if there < 0 {
                return Err(io::Error::last_os_error());
            }
            let there = OwnedFd::from_raw_fd(there);
            Ok(Self { set, there })
        }
    }

    /// Waits until one is there or somebody is at `listener`, which it says, or for `patience`.
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

    /// Waits for the next.
    pub(super) fn next(&self) -> io::Result<News> {
        self.within(None)
    }

    /// What is there by now.
    pub(super) fn sent(&self) -> io::Result<News> {
        self.within(Some(libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }))
    }

    /// Waits for the next, or for `patience`.
    fn within(&self, patience: Option<libc::timespec>) -> io::Result<News> {
        let patience = patience
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        loop {
            // SAFETY: the kernel reads the set and the time and fills the structure, of which all zeros are a value.
            let (signal, info) = unsafe {
                let set = &raw const self.set;
                let signal = libc::sigtimedwait(set, info.as_mut_ptr(), patience);
                (signal, info.assume_init())
            };
            match signal {
                libc::SIGCHLD => return Ok(News::Child),
                signal if signal > 0 && info.si_code <= 0 => return Ok(News::Sent(signal)),
                // The kernel's own: a terminal has told the guest, too.
                signal if signal > 0 => return Ok(News::Child),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error if error.kind() == io::ErrorKind::WouldBlock => return Ok(News::Child),
                    error => return Err(error),
                },
            }
        }
    }
}
