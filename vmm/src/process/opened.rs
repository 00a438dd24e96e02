//! The guest's open files, as its tracer gets at them.
//!
//! To close a file for the last time can take as long as the guest likes: the kernel has whoever lets go of a pipe wait for
//! whoever moves bytes into it, whatever signal comes, and a socket may linger. Another thread of the guest can see to it that
//! the tracer's would be the last. So the tracer looks at files where `/proc` has them, and pins them by descriptors
//! without a file (`O_PATH`), whose end runs nothing. What takes the file itself it takes where nothing else can be
//! meant by the call, and a guest that has put a pipe there meanwhile ends before that is let go of.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

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
        let path = path(tracee, number)?;
        rustix::fs::statat(&self.directory, path, AtFlags::empty()).map_err(|_| Errno::BADF)
    }

    /// What it may do with that, as the owner's rights of the link that `/proc` has for it.
    fn link(&self, tracee: Tracee, number: u64) -> Result<Stat, Errno> {
        let path = path(tracee, number)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(&self.directory, path, flags).map_err(|_| Errno::BADF)
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
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let path = path(tracee, number)?;
        let pinned = rustix::fs::openat(&self.directory, path, flags, Mode::empty());
        let pinned = pinned.map_err(|_| Errno::BADF)?;
        self.not_standard(&rustix::fs::fstat(&pinned)?)?;
        Ok(pinned)
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
            FileType::Fifo => Err(self.end(otherwise)),
            _ => Err(otherwise),
        }
    }

    /// Ends the guest, before it could have this process wait for it; fails with `error`.
    pub(super) fn end(&self, error: Errno) -> Errno {
        // Or it is gone already.
        let _ = rustix::process::kill_process(self.guest, Signal::KILL);
        error
    }

    /// The guest's process, to take from what is surely its own.
    pub(super) fn process(&self) -> impl AsFd + '_ {
        &self.process
    }
}

/// Where a thread's open file is in its process's directory. All threads have one table, and that of the first is gone when
/// it has left.
fn path(tracee: Tracee, number: u64) -> Result<String, Errno> {
    // Descriptors are of type `int`.
    let number = number as i32;
    if number < 0 {
        return Err(Errno::BADF);
    }
    Ok(format!("task/{}/fd/{number}", tracee.0.as_raw_nonzero()))
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}
