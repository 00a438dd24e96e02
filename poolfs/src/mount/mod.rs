//! Putting a store at a mount point, and taking it away.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::mem::ManuallyDrop;
use std::num::NonZero;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use pool_store::format::SUPERBLOCK_FILE;
use pool_store::{StoreError, StoreView};
use rustix::mount::UnmountFlags;
use thiserror::Error;

use crate::contents::Contents;
use crate::fs::PoolFs;
use crate::options::{Access, Options};
use crate::passthrough::{self, Decision};

/// The filesystem's type as /proc/mounts shows it, without `fuse.` before it.
pub const SUBTYPE: &str = "poolfs";
const DEVICE: &str = "/dev/fuse";
/// Threads when the options say nothing: at most this many.
const DEFAULT_THREADS: usize = 8;

/// Why a mount fails.
#[derive(Debug, Error)]
pub enum MountError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No mount point.
    #[error("the mount point {0} does not exist: create it (mkdir -p {0})")]
    NoMountPoint(PathBuf),
    /// A file.
    #[error("the mount point {0} is not a directory: name a directory")]
    NotADirectory(PathBuf),
    /// A poolfs that works.
    #[error("a pool is mounted at {0} already: unmount it first (umount {0})")]
    AlreadyMounted(PathBuf),
    /// A poolfs whose daemon is dead.
    #[error("a FUSE filesystem whose daemon has died is mounted at {0}: unmount it (umount {0})")]
    DeadMount(PathBuf),
    /// The mount point cannot be used.
    #[error("using the mount point {0}: {1}")]
    MountPoint(PathBuf, io::Error),
    /// No FUSE.
    #[error("there is no {DEVICE}: load the kernel's FUSE module (modprobe fuse)")]
    NoFuse,
    /// The kernel or fusermount3 refuses.
    #[error(
        "mounting at {0}: {1}; mount as root, or install fuse3 for its fusermount3 (and set \
         user_allow_other in /etc/fuse.conf for allow_other)"
    )]
    Refused(PathBuf, io::Error),
    /// No thread.
    #[error("starting to serve {0}: {1}")]
    Start(PathBuf, io::Error),
    /// It cannot be unmounted.
    #[error("unmounting {0}: {1}")]
    Unmount(PathBuf, io::Error),
    /// Serving ended otherwise than by an unmount.
    #[error("serving {0} ended: {1}")]
    Serve(PathBuf, io::Error),
}

/// A mounted store. Dropping it does not unmount: see [`Mounted::unmounter`].
#[derive(Debug)]
pub struct Mounted {
    /// Kept from being dropped: it would unmount by path, and by then something else may be
    /// mounted there.
    session: ManuallyDrop<BackgroundSession>,
    ended: Receiver<()>,
    mount_point: PathBuf,
    passthrough: Result<(), String>,
}

/// Takes a mount away, from whatever thread.
#[derive(Clone, Debug)]
pub struct Unmounter {
    mount_point: PathBuf,
}

/// Mounts the store at `store` on the directory `mount_point`; requests are served from the
/// return on. `scratch` is a new directory that lasts as long as the mount.
pub fn mount(
    store: &Path,
    mount_point: &Path,
    scratch: &Path,
    options: &Options,
) -> Result<Mounted, MountError> {
    let mount_point = check_mount_point(mount_point)?;
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoFuse);
    }
    let view = StoreView::follow(store, scratch)?;
    let superblock = store.join(SUPERBLOCK_FILE);
    let decision = Decision::default();
    if options.no_passthrough {
        decision.decide(false);
    }
    let contents = Contents::new(view, decision.clone());
    let (alive, ended) = mpsc::channel();
    let filesystem = PoolFs::new(contents, decision.clone(), alive);

    let session = Session::new(filesystem, &mount_point, &configuration(store, options))
        .map_err(|error| MountError::Refused(mount_point.clone(), error))?;
    let passthrough = if options.no_passthrough {
        Err("the option nopassthrough turns it off".into())
    } else {
        try_passthrough(&session, &superblock, &decision)
    };
    let session = session
        .spawn()
        .map_err(|error| MountError::Start(mount_point.clone(), error))?;
    Ok(Mounted {
        session: ManuallyDrop::new(session),
        ended,
        mount_point,
        passthrough,
    })
}

impl Mounted {
    /// Whether the kernel serves segments by itself; if not, why and what to do.
    pub fn passthrough(&self) -> Result<(), &str> {
        self.passthrough.as_ref().copied().map_err(String::as_str)
    }

    /// What can take the mount away while [`Mounted::wait`] waits.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter {
            mount_point: self.mount_point.clone(),
        }
    }

    /// Waits until the mount is gone, by whomever, and nothing that was opened in it is open any
    /// more. Then the store is closed and the scratch directory removed.
    pub fn wait(mut self) -> Result<(), MountError> {
        // Nothing is ever sent: this returns when the filesystem has been dropped.
        let _ = self.ended.recv();
        let nothing = thread::spawn(|| Ok(()));
        let served = std::mem::replace(&mut self.session.guard, nothing).join();
        let result = served.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        result.map_err(|error| MountError::Serve(self.mount_point, error))
    }
}

impl Unmounter {
    /// Takes the mount away. When it is in use it goes from the tree at once, and ends when the
    /// last user closes: guests that run from it run on.
    pub fn unmount(&self) -> Result<(), MountError> {
        let unmount = |flags| rustix::mount::unmount(&self.mount_point, flags);
        match unmount(UnmountFlags::empty()) {
            Err(rustix::io::Errno::BUSY) => unmount(UnmountFlags::DETACH),
            // Gone already.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(rustix::io::Errno::PERM) => return self.unmount_as_user(),
            other => other,
        }
        .map_err(|errno| MountError::Unmount(self.mount_point.clone(), errno.into()))
    }

    /// Only root may unmount by itself; fusermount3 does it for others.
    fn unmount_as_user(&self) -> Result<(), MountError> {
        let failed = |error| MountError::Unmount(self.mount_point.clone(), error);
        let status = std::process::Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(&self.mount_point)
            .status()
            .map_err(failed)?;
        if status.success() {
            Ok(())
        } else {
            Err(failed(io::Error::other(format!("fusermount3: {status}"))))
        }
    }
}

/// Checks that something can be mounted there, and makes the path absolute.
fn check_mount_point(path: &Path) -> Result<PathBuf, MountError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let absolute = match path.canonicalize() {
        Ok(absolute) => absolute,
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(MountError::DeadMount(path.into()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::NoMountPoint(path.into()));
        }
        Err(error) => return Err(MountError::MountPoint(path.into(), error)),
    };
    if filesystem_at(&mounts, &absolute).is_some_and(|kind| kind == format!("fuse.{SUBTYPE}")) {
        return Err(match fs::read_dir(&absolute) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
                MountError::DeadMount(absolute)
            }
            _ => MountError::AlreadyMounted(absolute),
        });
    }
    match fs::metadata(&absolute) {
        Ok(metadata) if metadata.is_dir() => Ok(absolute),
        Ok(_) => Err(MountError::NotADirectory(absolute)),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            Err(MountError::DeadMount(absolute))
        }
        Err(error) => Err(MountError::MountPoint(absolute, error)),
    }
}

/// The type of the filesystem that is mounted at exactly `path`, the topmost if there are several
/// (proc_pid_mountinfo(5): fields 5 and, past the dash, 9).
fn filesystem_at<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a str> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let at = unescape(mount.split(' ').nth(4)?);
            (Path::new(&at) == path).then(|| filesystem.split(' ').next())?
        })
        .next_back()
}

/// Undoes the octal escapes of mountinfo's paths.
fn unescape(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

fn configuration(store: &Path, options: &Options) -> Config {
    let name = options.source_name.clone();
    let name = name.unwrap_or_else(|| store.display().to_string());
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::FSName(name),
        // Not `Subtype`, which goes to fusermount3 alone: this one goes to the kernel too.
        MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
    ];
    if options.no_exec {
        config.mount_options.push(MountOption::NoExec);
    }
    if options.default_permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = match options.access {
        Access::Everybody => SessionACL::All,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Default if rustix::process::geteuid().is_root() => SessionACL::All,
        Access::Default => SessionACL::Owner,
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    // At least two, so that one slow answer does not stop all others.
    let threads = options
        .threads
        .unwrap_or(processors.clamp(2, DEFAULT_THREADS));
    config.n_threads = Some(threads);
    config.clone_fd = true;
    config
}

/// Decides about passthrough, on a connection that serves nothing yet.
fn try_passthrough(
    session: &Session<PoolFs>,
    superblock: &Path,
    decision: &Decision,
) -> Result<(), String> {
    if decision.made() == Some(false) {
        return Err("this kernel does not have it; it needs Linux 6.9 or later".into());
    }
    let tried = File::open(superblock).and_then(|file| passthrough::probe(session, &file));
    decision.decide(tried.is_ok());
    tried.map_err(|error| passthrough::explain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_at_a_path_counts() {
        let mountinfo = "\
            22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            90 22 0:50 / /pool ro,nosuid - fuse.poolfs /var/lib/pool ro,user_id=0\n\
            91 22 0:51 / /mnt/a\\040b rw master:2 - tmpfs tmpfs rw\n\
            92 22 0:52 / /mnt/a\\040b rw - fuse.other x rw\n";
        let kind = |path: &str| filesystem_at(mountinfo, Path::new(path));
        assert_eq!(kind("/pool"), Some("fuse.poolfs"));
        assert_eq!(kind("/"), Some("ext4"));
        assert_eq!(kind("/mnt/a b"), Some("fuse.other"));
        assert_eq!(kind("/pool/libs"), None);
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape("a\\134b\\"), OsString::from("a\\b\\"));
        assert_eq!(unescape("\\9z"), OsString::from("\\9z"));
    }
}
