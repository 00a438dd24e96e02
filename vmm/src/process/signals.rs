//! Signals to the VMM: they are for the guest, whom people mean when they name the process that they started.

use std::io;

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
pub(super) struct Signals(libc::sigset_t);

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
        // SAFETY: the set is initialised first; blocking signals and the default action for that of
        // children touch no memory of this program.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in PASSED_ON.into_iter().chain([libc::SIGCHLD]) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let set = set.assume_init();
            // A starter that ignores it would leave this process without news.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(set))
        }
    }

    /// Waits for the next.
    pub(super) fn next(&self) -> io::Result<News> {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        loop {
            // SAFETY: the kernel reads the set and fills the structure, of which all zeros are a value.
            let (signal, info) = unsafe {
                let signal = libc::sigwaitinfo(&raw const self.0, info.as_mut_ptr());
                (signal, info.assume_init())
            };
            match signal {
                libc::SIGCHLD => return Ok(News::Child),
                // A positive code is the kernel's: a terminal has told the guest, too.
                signal if signal > 0 && info.si_code <= 0 => return Ok(News::Sent(signal)),
                signal if signal > 0 => {}
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}
