//! Open files that the monitor has for its guest: those of the small world, finished, and devices.
//!
//! A thread that is to have one is made to make a call, `MARK` of the sandbox, that the guest's filter leaves to whoever
//! listens at it, and so its monitor can give it a descriptor and let it go on. No thread has the file before it is
//! sealed, or can put another in its place. A guest that makes that call itself does not know what to say, and is refused.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::sandbox::seccomp::{ADD, RECEIVE, SEND};

/// `struct seccomp_notif` of `linux/seccomp.h`: whose call it is, with what `struct seccomp_data` says.
#[repr(C)]
#[derive(Debug, Default)]
struct Asked {
    id: u64,
    thread: u32,
    flags: u32,
    call: [u64; 8],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
#[derive(Debug)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
#[derive(Debug)]
struct Added {
    id: u64,
    flags: u32,
    from: u32,
    to: u32,
    to_flags: u32,
}

/// What a thread comes for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) file: Rc<OwnedFd>,
    /// It is to be closed by `execve`.
    pub(super) closes: bool,
    /// The descriptor that it takes the place of. Otherwise it has the lowest number that is free.
    pub(super) instead_of: Option<u64>,
}

/// A thread that has come.
#[derive(Debug)]
pub(super) struct Came {
    id: u64,
    /// Its number.
    pub(super) thread: Pid,
}

/// Where threads come.
#[derive(Debug)]
pub(super) struct Listener(pub(super) OwnedFd);

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// The one that has come, unless it has ended meanwhile.
    pub(super) fn next(&self) -> Option<Came> {
        let mut asked = Asked::default();
        // SAFETY: the kernel fills the structure, which is all zeros as it has to be.
        let came = unsafe { self.request(RECEIVE, (&raw mut asked).cast()) };
        came.ok()?;
        Some(Came {
            id: asked.id,
            thread: Pid::from_raw(asked.thread.cast_signed())?,
        })
    }

    /// Gives the one that has come what it wants, and lets it go on. What it wants still, if it has left meanwhile.
    pub(super) fn answer(&self, came: &Came, wanted: Option<Wanted>) -> Option<Wanted> {
        let Some(wanted) = wanted else {
            // It has found out what to say.
            self.refuse(came.id, libc::ENOSYS);
            return None;
        };
        match self.add(came.id, &wanted) {
            Ok(()) => None,
            Err(Errno::NOENT | Errno::SRCH) => Some(wanted),
            Err(_) => {
                self.refuse(came.id, libc::EMFILE);
                None
            }
        }
    }

    fn add(&self, id: u64, wanted: &Wanted) -> Result<(), Errno> {
        const IN_PLACE: u32 = 1;
        const SENDS: u32 = 2;
        let in_place = wanted.instead_of.map_or(0, |_| IN_PLACE);
        let mut added = Added {
            id,
            flags: SENDS | in_place,
            from: wanted.file.as_raw_fd().cast_unsigned(),
            to: wanted.instead_of.unwrap_or(0) as u32,
            to_flags: if wanted.closes {
                libc::O_CLOEXEC as u32
            } else {
                0
            },
        };
        // SAFETY: the kernel reads the structure, and no more.
        unsafe { self.request(ADD, (&raw mut added).cast()) }
    }

    fn refuse(&self, id: u64, error: i32) {
        let mut answer = Answer {
            id,
            value: 0,
            error: -error,
            flags: 0,
        };
        // It may have left. SAFETY: the kernel reads the structure, and no more.
        let _ = unsafe { self.request(SEND, (&raw mut answer).cast()) };
    }

    /// # Safety
    /// `at` must be what `request` says, valid for what it reads or writes there.
    unsafe fn request(&self, request: u32, at: *mut libc::c_void) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), request.into(), at) } >= 0 {
            return Ok(());
        }
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}
