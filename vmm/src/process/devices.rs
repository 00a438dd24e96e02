//! Devices for a guest without a file system: its monitor has them open, and hands them over.
//!
//! A thread that opens one is made to make a call, [`MARK`], that the guest's filter leaves to whoever listens at it, and so
//! its monitor can give it a descriptor and let it go on. A guest that makes that call itself does not know what to
//! say, and is refused.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use rustix::time::Timespec;

use crate::sandbox::MARK;
use crate::sandbox::seccomp::{ADD, RECEIVE, SEND};
use crate::world::small::Device;

/// Looks for whether a thread that does not come has ended meanwhile.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

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

/// The devices, and where threads wait for them.
#[derive(Debug)]
pub(super) struct Devices {
    listener: OwnedFd,
    files: Vec<(Device, File)>,
}

impl Devices {
    /// For `guest`, which listens at its descriptor `number` itself so far.
    pub(super) fn new(guest: Pid, number: i32) -> io::Result<Self> {
        let process = rustix::process::pidfd_open(guest, PidfdFlags::empty())?;
        let flags = PidfdGetfdFlags::empty();
        let listener = rustix::process::pidfd_getfd(&process, number, flags)?;
        Ok(Self {
            listener,
            files: Device::open_all(),
        })
    }

    /// There is this one.
    pub(super) fn has(&self, device: Device) -> bool {
        self.file(device).is_some()
    }

    fn file(&self, device: Device) -> Option<BorrowedFd<'_>> {
        let found = self.files.iter().find(|(known, _)| *known == device);
        found.map(|(_, file)| file.as_fd())
    }

    /// Gives `device` to `thread`, which is on its way to wait for it, closed by `execve` or not. Until it has that, or
    /// has stopped or ended for something else.
    pub(super) fn hand_over(&self, thread: Pid, device: Device, closes: bool) {
        loop {
            let mut polls = [PollFd::new(&self.listener, PollFlags::IN)];
            let came = rustix::event::poll(&mut polls, Some(&PATIENCE));
            let is_there = came.is_ok_and(|count| count > 0);
            if !is_there {
                if has_news(thread) {
                    return;
                }
                continue;
            }
            let mut asked = Asked::default();
            // SAFETY: the kernel fills the structure, which is all zeros as it has to be.
            if !unsafe { self.request(RECEIVE, (&raw mut asked).cast()) } {
                // Who was there does not wait any more.
                if has_news(thread) {
                    return;
                }
                continue;
            }
            let is_it = asked.thread == thread.as_raw_nonzero().get().cast_unsigned()
                && asked.call[0] as u32 == MARK;
            if !is_it {
                // Another thread has found out what to say.
                self.refuse(asked.id, libc::ENOSYS);
                continue;
            }
            let file = self.file(device);
            if !file.is_some_and(|file| self.add(asked.id, file, closes)) {
                self.refuse(asked.id, libc::EMFILE);
            }
            return;
        }
    }

    /// The one that waits with `id` gets `file`, and goes on with its number.
    fn add(&self, id: u64, file: BorrowedFd<'_>, closes: bool) -> bool {
        const SENDS: u32 = 2;
        let mut added = Added {
            id,
            flags: SENDS,
            from: file.as_raw_fd().cast_unsigned(),
            to: 0,
            to_flags: if closes { libc::O_CLOEXEC as u32 } else { 0 },
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
        // SAFETY: the kernel reads the structure, and no more.
        unsafe { self.request(SEND, (&raw mut answer).cast()) };
    }

    /// # Safety
    /// `at` must be what `request` says, valid for what it reads or writes there.
    unsafe fn request(&self, request: u32, at: *mut libc::c_void) -> bool {
        // SAFETY: the caller's promise.
        unsafe { libc::ioctl(self.listener.as_raw_fd(), request.into(), at) >= 0 }
    }
}

/// `thread` has stopped or ended.
fn has_news(thread: Pid) -> bool {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let number = thread.as_raw_nonzero().get().cast_unsigned();
    // SAFETY: the kernel fills the structure, of which all zeros are a value.
    let (result, info) = unsafe {
        let result = libc::waitid(libc::P_PID, number, info.as_mut_ptr(), options);
        (result, info.assume_init())
    };
    // SAFETY: all zeros if there is nothing, and otherwise filled by the kernel.
    result < 0 || unsafe { info.si_pid() } != 0
}
