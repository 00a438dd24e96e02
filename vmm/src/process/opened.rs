//! The guest's open files, as its tracer gets at them.
//!
//! To close a file for the last time can take as long as the guest likes: the kernel has whoever lets go of a pipe wait for
//! whoever moves bytes into it, whatever signal comes, and a socket may linger. Another thread of the guest can see to it that
//! the tracer's would be the last. So the tracer looks at files where `/proc` has them, and pins them by descriptors
//! without a file (`O_PATH`), whose end runs nothing. What takes the file itself it takes where nothing else can be
//! meant by the call, and a guest that has put a pipe or a socket there meanwhile ends, and that is let go of when the tracer
//! ends, too: a socket may hold pipes that are on their way. (The kernel itself holds a file for the moment of a look, and whoever
//! looked may be the last then, too: it takes some thousands of tries, and ends with the guest's process alone.)

use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};

use super::ptrace::Tracee;
use crate::sandbox::THREAD;

/// `PIDFD_THREAD` of `linux/pidfd.h`.
const OF_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(THREAD);

/// Which file it is.
type Identity = (u64, u64);

/// Those of one guest.
#[derive(Debug)]
pub(super) struct Opened {
    guest: Pid,
    process: OwnedFd,
    /// `/proc/PID`.
    directory: OwnedFd,
    /// What the guest was given as standard input, output and error.
    standard: Vec<Identity>,
    /// A pipe is among them.
    pub(super) has_standard_pipe: bool,
}

impl Opened {
    /// Of `guest`, whose standard files are this process's.
    pub(super) fn new(guest: Pid) -> io::Result<Self> {
        let standard = [
            rustix::fs::fstat(rustix::stdio::stdin())?,
            rustix::fs::fstat(rustix::stdio::stdout())?,
            rustix::fs::fstat(rustix::stdio::stderr())?,
        ];
        let directory = format!("/proc/{}", guest.as_raw_nonzero());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            guest,
            process: rustix::process::pidfd_open(guest, PidfdFlags::empty())?,
            directory: rustix::fs::openat(CWD, directory, flags, Mode::empty())?,
            has_standard_pipe: standard.iter().any(|stat| kind(stat) == FileType::Fifo),
            standard: standard.iter().map(identity).collect(),
        })
    }

    /// What `tracee` has open as `number` is like.
    pub(super) fn stat(&self, tracee: Tracee, number: u64) -> Result<Stat, Errno> {
        let directory = &self.directory;
        at(tracee, number, |path| {
            rustix::fs::statat(directory, path, AtFlags::empty())
        })
    }

    /// What it may do with that, as the owner's rights of the link that `/proc` has for it.
    fn link(&self, tracee: Tracee, number: u64) -> Result<Stat, Errno> {
        let (directory, flags) = (&self.directory, AtFlags::SYMLINK_NOFOLLOW);
        at(tracee, number, |path| {
            rustix::fs::statat(directory, path, flags)
        })
    }

    /// What it has open as `number` is an open file: of others (`O_PATH`) nothing can be changed but by an empty path.
    pub(super) fn is_file(&self, tracee: Tracee, number: u64) -> Result<(), Errno> {
        if self.link(tracee, number)?.st_mode & 0o600 == 0 {
            return Err(Errno::BADF);
        }
        Ok(())
    }

    /// It has something open as `number`.
    pub(super) fn is_there(&self, tracee: Tracee, number: u64) -> bool {
        self.link(tracee, number).is_ok()
    }

    /// That is zeros, which would be memory that nobody counts where they are mapped shared, and may be written.
    pub(super) fn is_zeros(&self, tracee: Tracee, number: u64) -> bool {
        let is_zeros = self.stat(tracee, number).is_ok_and(|stat| {
            kind(&stat) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 5)
        });
        let may_write = |link: Stat| link.st_mode & 0o600 == 0o600;
        is_zeros && self.link(tracee, number).is_ok_and(may_write)
    }

    /// The file that it has open as `number`, pinned: no other thread can put another in its place. None of its standard files.
    pub(super) fn pinned(&self, tracee: Tracee, number: u64) -> Result<OwnedFd, Errno> {
        let (directory, flags) = (&self.directory, OFlags::PATH | OFlags::CLOEXEC);
        let pinned = at(tracee, number, |path| {
            rustix::fs::openat(directory, path, flags, Mode::empty())
        })?;
        self.not_standard(&rustix::fs::fstat(&pinned)?)?;
        Ok(pinned)
    }

    /// The same for a call that takes an open file: it has none where it has a place alone (`O_PATH`).
    pub(super) fn pinned_file(&self, tracee: Tracee, number: u64) -> Result<OwnedFd, Errno> {
        let link = self.link(tracee, number)?;
        if link.st_mode & 0o600 == 0 {
            return Err(Errno::BADF);
        }
        self.pinned(tracee, number)
    }

    /// This process may do no more to standard files than the guest.
    pub(super) fn not_standard(&self, stat: &Stat) -> Result<(), Errno> {
        if self.standard.contains(&identity(stat)) {
            return Err(Errno::PERM);
        }
        Ok(())
    }

    /// The open file itself, if it is of one of these `kinds`; it fails with `otherwise` if not.
    pub(super) fn taken(
        &self,
        tracee: Tracee,
        number: u64,
        kinds: &[FileType],
        otherwise: Errno,
    ) -> Result<OwnedFd, Errno> {
        if !kinds.contains(&kind(&self.stat(tracee, number)?)) {
            return Err(otherwise);
        }
        let of = |process: &OwnedFd| {
            rustix::process::pidfd_getfd(process, number as i32, PidfdGetfdFlags::empty())
        };
        // A process has none once its first thread has left, and its threads have what they have had. Those have
        // descriptors of their own since Linux 6.9.
        let file = of(&self.process)
            .or_else(|_| of(&rustix::process::pidfd_open(tracee.0, OF_THREAD)?))
            .map_err(|_| Errno::BADF)?;
        match kind(&rustix::fs::fstat(&file)?) {
            found if kinds.contains(&found) => Ok(file),
            FileType::Fifo | FileType::Socket => Err(self.end(file, otherwise)),
            _ => Err(otherwise),
        }
    }

    /// Ends the guest, which could have this process wait for the end of `file`; fails with `error`.
    pub(super) fn end(&self, file: OwnedFd, error: Errno) -> Errno {
        // Or it is gone already.
        let _ = rustix::process::kill_process(self.guest, Signal::KILL);
        // Closed when this process ends, as who does waits for no socket, and nobody is left who holds a pipe.
        let _ = file.into_raw_fd();
        error
    }

    /// The guest's process, to take from what is surely its own.
    pub(super) fn process(&self) -> impl AsFd + '_ {
        &self.process
    }
}

/// What `look` finds where a thread's open file is in its process's directory, if it is there. All threads have one table, and
/// what was looked up in it the kernel keeps in mind: it does so once, not once for each thread. Only when the first has left
/// is that table the thread's alone.
fn at<T>(tracee: Tracee, number: u64, look: impl Fn(&str) -> Result<T, Errno>) -> Result<T, Errno> {
    // Descriptors are of type `int`.
    let number = number as i32;
    if number < 0 {
        return Err(Errno::BADF);
    }
    let of_thread = || format!("task/{}/fd/{number}", tracee.0.as_raw_nonzero());
    look(&format!("fd/{number}"))
        .or_else(|_| look(&of_thread()))
        .map_err(|_| Errno::BADF)
}

/// Whether `/proc` knows processes by the numbers that this one knows them by. Otherwise it would look at somebody else.
pub(super) fn has_own_numbers() -> bool {
    let own = rustix::process::getpid().as_raw_nonzero();
    let found = std::fs::read_link("/proc/self");
    found.is_ok_and(|found| found.as_os_str() == own.to_string().as_str())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}
