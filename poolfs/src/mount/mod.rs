//! Putting a store at a mount point, and taking it away.

mod attach;
mod statmount;
mod table;

use std::fs::{self, File};
use std::io;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use pool_store::format::SUPERBLOCK_FILE;
use pool_store::{StoreError, StoreView};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use thiserror::Error;

use crate::contents::Contents;
use crate::fs::PoolFs;
use crate::handles::Handles;
use crate::options::{Access, Options};
use crate::passthrough::{self, Decision};
use attach::{Attachment, DEVICE, FUSERMOUNT};
use table::Whereabouts;

pub use attach::AttachError;

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
    /// What the daemon would look up in its own mount, and wait for itself.
    #[error(
        "a mount at {mount_point} would hide {hidden}, which poolfs needs: mount elsewhere, or \
         name another directory"
    )]
    Hides {
        /// Where to mount.
        mount_point: PathBuf,
        /// The store, or the scratch directory.
        hidden: PathBuf,
    },
    /// No FUSE.
    #[error("there is no {DEVICE}: load the kernel's FUSE module (modprobe fuse)")]
    NoFuse,
    /// The kernel or fusermount3 refuses.
    #[error("mounting at {0}: {1}")]
    Refused(PathBuf, AttachError),
    /// No thread.
    #[error("starting to serve {0}: {1}")]
    Start(PathBuf, io::Error),
    /// Others are on top, and nothing but the topmost mount can be unmounted.
    #[error(
        "the pool at {0} lies under another mount, and cannot be unmounted before that: unmount \
         both (umount {0})"
    )]
    Covered(PathBuf),
    /// Others are inside, and would go with it.
    #[error(
        "something is mounted in the pool at {0}, which cannot be unmounted before that (findmnt \
         --submounts {0})"
    )]
    Occupied(PathBuf),
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
    session: BackgroundSession,
    ended: Receiver<MountError>,
    unmounter: Unmounter,
    passthrough: Result<(), String>,
}

/// Takes a mount away, from whatever thread, and nothing else that may be mounted at its place by
/// then.
#[derive(Clone, Debug)]
pub struct Unmounter {
    mount_point: PathBuf,
    /// Absent where nothing tells.
    identity: Option<table::Identity>,
    /// What is open.
    handles: Arc<Handles>,
    /// Ends [`Mounted::wait`], while the filesystem is there.
    end: Weak<Sender<MountError>>,
}

/// Mounts the store at `store` on the directory `mount_point`; requests are served from the
/// return on. `scratch` is a new directory that lasts as long as the mount. When anything fails,
/// nothing stays mounted. `None` when somebody has unmounted it before anything could be served.
pub fn mount(
    store: &Path,
    mount_point: &Path,
    scratch: &Path,
    options: &Options,
) -> Result<Option<Mounted>, MountError> {
    let mount_point = check_mount_point(mount_point)?;
    check_that_none_is_hidden(&mount_point, store, scratch)?;
    if !Path::new(DEVICE).exists() {
        return Err(MountError::NoFuse);
    }
    let view = StoreView::follow_closely(store, scratch)?;
    let superblock = store.join(SUPERBLOCK_FILE);
    let decision = Decision::default();
    if options.no_passthrough {
        decision.decide(false);
    }
    let contents = Contents::new(view, decision.clone());
    let (end, ended) = mpsc::channel();
    let end = Arc::new(end);
    let weak_end = Arc::downgrade(&end);
    let handles = Arc::new(Handles::default());
    let filesystem = PoolFs::new(contents, decision.clone(), Arc::clone(&handles), end);

    let acl = access(options);
    let attachment = Attachment {
        source: options.source_name.as_deref().unwrap_or(store.as_os_str()),
        no_exec: options.no_exec,
        default_permissions: options.default_permissions,
        allow_other: acl != SessionACL::Owner,
    };
    let connection = attach::attach(&mount_point, &attachment)
        .map_err(|error| MountError::Refused(mount_point.clone(), error))?;
    let unmounter = Unmounter {
        identity: table::identity_at(&mount_point),
        mount_point,
        handles,
        end: weak_end,
    };
    let serve = || {
        let session = Session::from_fd(filesystem, connection, acl, configuration(options))?;
        let passthrough = if options.no_passthrough {
            Err("the option nopassthrough turns it off".into())
        } else {
            try_passthrough(&session, &superblock, &decision)
        };
        Ok((session.spawn()?, passthrough))
    };
    match serve() {
        Ok((session, passthrough)) => Ok(Some(Mounted {
            session,
            ended,
            unmounter,
            passthrough,
        })),
        Err(_) if matches!(unmounter.whereabouts(), Ok(Whereabouts::Gone)) => Ok(None),
        Err(error) => {
            // Why it does not serve is the better news.
            let _ = unmounter.unmount();
            Err(MountError::Start(unmounter.mount_point, error))
        }
    }
}

impl Mounted {
    /// Whether the kernel serves segments by itself; if not, why and what to do.
    pub fn passthrough(&self) -> Result<(), &str> {
        self.passthrough.as_ref().copied().map_err(String::as_str)
    }

    /// What can take the mount away while [`Mounted::wait`] waits.
    pub fn unmounter(&self) -> Unmounter {
        self.unmounter.clone()
    }

    /// Waits until the mount is gone, by whomever, and nothing that was opened in it is open any
    /// more. Then the store is closed. An error when [`Unmounter::end`] could not unmount: the
    /// caller ends the process then, and with it the connection.
    pub fn wait(self) -> Result<(), MountError> {
        // Hung up when the filesystem has been dropped.
        if let Ok(error) = self.ended.recv() {
            return Err(error);
        }
        let served = self.session.join();
        self.unmounter.unmount_dead()?;
        how_it_ended(served).map_err(|error| MountError::Serve(self.unmounter.mount_point, error))
    }
}

/// A reader that has a request in its hands when the filesystem goes is told of an abort
/// (`fuse_dev_do_read` in the kernel's fs/fuse/dev.c): an end like any other.
fn how_it_ended(served: io::Result<()>) -> io::Result<()> {
    match served {
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        other => other,
    }
}

impl Unmounter {
    /// Takes the mount away. When it is in use it goes from the tree at once, and ends when the
    /// last user closes: guests that run from it run on. Does nothing when it is gone already.
    pub fn unmount(&self) -> Result<(), MountError> {
        match self.whereabouts()? {
            Whereabouts::Gone => Ok(()),
            Whereabouts::At(path) => unmount_at(&path),
            Whereabouts::Covered(path) => Err(MountError::Covered(path)),
        }
    }

    /// The same for a process that is told to end: when the mount cannot be taken away,
    /// [`Mounted::wait`] returns the reason as soon as nothing is open any more. May be called
    /// again.
    pub fn end(&self) {
        let Err(error) = self.unmount() else {
            return;
        };
        tracing::error!("{error}");
        let unmounter = self.clone();
        let wait = move || {
            unmounter.handles.wait_until_idle();
            // What was in the way may have gone.
            if let Err(error) = unmounter.unmount()
                && let Some(end) = unmounter.end.upgrade()
            {
                // Whoever waited may have returned by now.
                let _ = end.send(error);
            }
        };
        if let Err(error) = thread::Builder::new().name("end".into()).spawn(wait) {
            tracing::error!("waiting for what is open: {error}");
        }
    }

    fn whereabouts(&self) -> Result<Whereabouts, MountError> {
        match &self.identity {
            None => Ok(Whereabouts::At(self.mount_point.clone())),
            Some(identity) => identity
                .find()
                .map_err(|error| MountError::Unmount(self.mount_point.clone(), error)),
        }
    }

    /// Takes the mount away if it is still there and nobody serves it any more: a connection that
    /// was aborted (fusectl) leaves it so.
    fn unmount_dead(&self) -> Result<(), MountError> {
        if self.identity.is_none() {
            return Ok(());
        }
        match self.whereabouts()? {
            Whereabouts::At(path) if rustix::fs::statfs(&path).err() != Some(Errno::NOTCONN) => {
                Ok(())
            }
            _ => self.unmount(),
        }
    }
}

fn unmount_at(path: &Path) -> Result<(), MountError> {
    let unmount = |flags| rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW);
    match unmount(UnmountFlags::empty()) {
        // Detaching would take along what is inside.
        Err(Errno::BUSY | Errno::PERM) if table::holds_others(path) => {
            return Err(MountError::Occupied(path.into()));
        }
        Err(Errno::BUSY) => unmount(UnmountFlags::DETACH),
        // Gone in between.
        Err(Errno::INVAL) => Ok(()),
        Err(Errno::PERM) => return unmount_as_user(path),
        other => other,
    }
    .map_err(|errno| MountError::Unmount(path.into(), errno.into()))
}

/// Only root may unmount by itself; fusermount3 does it for others.
fn unmount_as_user(path: &Path) -> Result<(), MountError> {
    let failed = |error| MountError::Unmount(path.into(), error);
    let status = std::process::Command::new(FUSERMOUNT)
        .args(["-u", "-z", "--"])
        .arg(path)
        .status()
        .map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(io::Error::other(format!("{FUSERMOUNT}: {status}"))))
    }
}

/// Checks that something can be mounted there, and makes the path absolute.
fn check_mount_point(path: &Path) -> Result<PathBuf, MountError> {
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
    let there = table::mounted_at(&absolute);
    if there.is_some_and(|entry| entry.kind == *attach::mounted_type()) {
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

/// Checks that the mount point is neither above nor in what this program looks up by its path.
fn check_that_none_is_hidden(
    mount_point: &Path,
    store: &Path,
    scratch: &Path,
) -> Result<(), MountError> {
    // What is not there is explained where it is opened.
    let there = [Some(store), scratch.parent()].into_iter().flatten();
    let there = there.filter_map(|path| path.canonicalize().ok());
    for hidden in there {
        if hidden.starts_with(mount_point) || mount_point.starts_with(&hidden) {
            return Err(MountError::Hides {
                mount_point: mount_point.into(),
                hidden,
            });
        }
    }
    Ok(())
}

/// Who may use the mount.
fn access(options: &Options) -> SessionACL {
    match options.access {
        Access::Everybody => SessionACL::All,
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        Access::Default if rustix::process::geteuid().is_root() => SessionACL::All,
        Access::Default => SessionACL::Owner,
    }
}

fn configuration(options: &Options) -> Config {
    let mut config = Config::default();
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
    fn a_last_request_that_is_cut_off_is_no_failure() {
        let ended = |errno| how_it_ended(Err(io::Error::from_raw_os_error(errno)));
        assert!(ended(libc::ECONNABORTED).is_ok());
        assert!(ended(libc::EIO).is_err());
        assert!(how_it_ended(Ok(())).is_ok());
    }
}
