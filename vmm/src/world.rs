//! The file system that a guest sees: a mount namespace with the granted directories and a few
//! files that programs look for, and nothing else of the host.
//!
//! | what | is |
//! |---|---|
//! | `/dev/null`, `zero`, `full`, `random`, `urandom` | the host's |
//! | `/etc/passwd`, `group`, `hosts`, `nsswitch.conf`, `localtime`, ... | the same for every guest |
//! | `/proc`, `/sys` | places of files that the VMM makes when they are opened (`world/small.rs`) |
//! | `/etc/resolv.conf` | the host's, for a guest that uses the host's network |
//! | `/tmp`, `/dev/shm` | memory, gone with the guest |
//!
//! Whoever may not make a mount namespace makes one as the owner of a new user namespace.

mod contents;
mod grant;
mod guest;
pub(crate) mod small;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags,
};
use rustix::thread::UnshareFlags;
use thiserror::Error;

pub use self::grant::{Grant, GrantError};
use self::small::{Node, Place, Places};

/// Why the guest's file system cannot be made.
#[derive(Debug, Error)]
pub enum WorldError {
    /// Not allowed to make a mount namespace.
    #[error(
        "a guest with files needs a mount namespace of its own, which takes CAP_SYS_ADMIN or user \
         namespaces: run as root, or have them allowed (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
    )]
    NotPermitted,
    /// What was granted is not there any more.
    #[error("the directory {0} has changed while the guest was being started")]
    Changed(String),
    /// Something is mounted below a granted directory, which only root can leave out.
    #[error(
        "something is mounted below {0}, and only root can grant a directory without what is mounted \
         below it: grant directories that hold no mount"
    )]
    Mounts(String),
    /// No directory can lie where one is granted.
    #[error(
        "--dir: the guest can have no directory at {0:?}: {1}: there, or on the way, is a file, a link or a directory that is \
         read only; grant it at another place, such as HOST:/data"
    )]
    Place(String, Errno),
    /// Some step failed.
    #[error("making the guest's file system: {0}: {1}")]
    Step(&'static str, Errno),
}

fn step(what: &'static str) -> impl Fn(Errno) -> WorldError {
    move |error| WorldError::Step(what, error)
}

/// What a guest may do below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Look.
    Read,
    /// Look, and write what is there.
    Write,
    /// Everything.
    Change,
}

/// The guest's file system, which this process is in.
#[derive(Debug)]
pub struct World {
    directories: Vec<(OwnedFd, Rights)>,
    layout: Layout,
}

/// What a guest's kernel has to know of its file system.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The directories that it was given, as it names them.
    pub(crate) granted: Vec<Vec<u8>>,
    /// Where places of the small world are.
    pub(crate) places: Places,
}

const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// Where a guest may keep files in memory: of `/dev/shm` C libraries make shared memory and semaphores with names.
const IN_MEMORY: [&str; 2] = ["/tmp", "/dev/shm"];
/// Inodes that a guest may have in memory.
const MOST_INODES: &str = "65536";

impl World {
    /// Leaves this process with the directories of `grants` and what the guest finds besides. What it
    /// keeps in memory as files is at most `memory` bytes. It is process `process` there, and its program is
    /// called `name`. All that other processes see stays as it was.
    pub fn enter(
        grants: &[Grant],
        network: bool,
        memory: u64,
        process: i32,
        name: &[u8],
    ) -> Result<Self, WorldError> {
        let resolvers = if network {
            std::fs::read("/etc/resolv.conf").ok()
        } else {
            None
        };
        let owner = unshare()?;
        // What the host unmounts goes from here, too, where it lies behind the new root: it is to be free, however long
        // the guest runs.
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
        )
        .map_err(step("leaving shared mounts"))?;
        // Taken in the new namespace, where every mount is a copy: the granted directory's descriptor says
        // whether the path still leads there.
        let trees: Result<Vec<_>, _> = grants
            .iter()
            .map(|grant| Ok((grant, tree(grant, owner)?)))
            .collect();
        let mut trees = trees?;
        let devices: Result<Vec<_>, _> = DEVICES
            .iter()
            .map(|path| Ok((path, take(CWD, path, "taking a device", false)?)))
            .collect();
        let devices = devices?;
        let root = empty_root(memory)?;
        attach(&root, "/")?;
        rustix::process::fchdir(&root).map_err(step("entering the new root"))?;
        rustix::process::chroot(".").map_err(step("entering the new root"))?;
        make_files(process, name)?;
        if let Some(resolvers) = resolvers {
            write(Path::new("/etc/resolv.conf"), &resolvers)?;
        }
        for (path, device) in &devices {
            write(Path::new(path), b"")?;
            attach(device, path)?;
            protect(Path::new(path), true, MountFlags::empty())?;
        }
        for path in IN_MEMORY {
            make_directories(Path::new(path))?;
            rustix::fs::chmod(path, Mode::from_raw_mode(0o1777))
                .map_err(step("making a directory in memory"))?;
        }
        let opened = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(step("opening a directory of the new root"))
        };
        let places = Places::look_up().map_err(step("looking at the new root"))?;
        let standard = (opened(Path::new(small::DESCRIPTORS))?, Rights::Write);
        // Outer directories first, so that inner ones are attached inside them.
        trees.sort_by_key(|(grant, _)| grant.guest.as_os_str().len());
        for (grant, tree) in &trees {
            let refused = |error| match error {
                WorldError::Step(_, error) => {
                    WorldError::Place(grant.guest.display().to_string(), error)
                }
                other => other,
            };
            make_directories(&grant.guest).map_err(refused)?;
            attach(tree, &grant.guest).map_err(refused)?;
            protect(&grant.guest, grant.read_only, MountFlags::NODEV)?;
        }
        rustix::process::chdir("/").map_err(step("entering the new root"))?;
        let own = [
            (Path::new("/"), Rights::Read),
            (Path::new("/dev"), Rights::Write),
            (Path::new(IN_MEMORY[0]), Rights::Change),
            (Path::new(IN_MEMORY[1]), Rights::Change),
        ];
        let granted = grants.iter().map(|grant| {
            let rights = if grant.read_only {
                Rights::Read
            } else {
                Rights::Change
            };
            (grant.guest.as_path(), rights)
        });
        let directories = own
            .into_iter()
            .chain(granted)
            .map(|(path, rights)| Ok((opened(path)?, rights)));
        let mut directories = directories.collect::<Result<Vec<_>, _>>()?;
        directories.push(standard);
        Ok(Self {
            directories,
            layout: Layout {
                granted: named(grants),
                places,
            },
        })
    }

    /// What the guest's kernel has to know of it.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Directories, and what may be done below each.
    pub fn directories(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Rights)> {
        let listed = self.directories.iter();
        listed.map(|(directory, rights)| (directory.as_fd(), *rights))
    }
}

/// The directories of `grants`, as the guest names them.
pub(crate) fn named(grants: &[Grant]) -> Vec<Vec<u8>> {
    let paths = grants
        .iter()
        .map(|grant| grant.guest.as_os_str().as_bytes());
    paths.map(<[u8]>::to_vec).collect()
}

/// Makes the small world's places, and what of it does not change.
fn make_files(process: i32, name: &[u8]) -> Result<(), WorldError> {
    let failed = step("making a file of the guest's file system");
    for path in small::files().filter(|path| path.starts_with("/etc/")) {
        let text = contents::fixed(path).unwrap_or_default();
        write(Path::new(path), text.as_bytes())?;
    }
    let mut parent = Path::new("");
    for (path, place) in small::places() {
        let path = Path::new(path);
        let directory = match place {
            Place::Listing(_) => path,
            Place::Node(_) => path.parent().unwrap_or(path),
        };
        if directory != parent {
            make_directories(directory)?;
            parent = directory;
        }
        let mode = match place {
            Place::Listing(_) => continue,
            // What is written goes to what the descriptor stands for.
            Place::Node(Node::Descriptor(_)) => 0o666,
            Place::Node(_) => 0o444,
        };
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::mknodat(CWD, path, FileType::RegularFile, mode, 0).map_err(&failed)?;
    }
    make_directories(Path::new("/dev"))?;
    let number = format!("/proc/{process}");
    let program = [b"/", name].concat();
    let links: [(&str, &[u8]); 7] = [
        ("/proc/self/exe", &program),
        (&number, b"self"),
        ("/proc/thread-self", b"self"),
        ("/dev/fd", b"/proc/self/fd"),
        ("/dev/stdin", b"/proc/self/fd/0"),
        ("/dev/stdout", b"/proc/self/fd/1"),
        ("/dev/stderr", b"/proc/self/fd/2"),
    ];
    for (path, target) in links {
        rustix::fs::symlink(target, path).map_err(&failed)?;
    }
    Ok(())
}

/// Makes the namespace; true when that took a user namespace.
fn unshare() -> Result<bool, WorldError> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let failed = |error| match error {
        Errno::PERM | Errno::NOSPC | Errno::USERS | Errno::INVAL => WorldError::NotPermitted,
        other => WorldError::Step("making a mount namespace", other),
    };
    // SAFETY: a new mount namespace concerns path look-ups of this process alone; it owns no
    // descriptor table or memory that another thread could share.
    match unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) } {
        Ok(()) => return Ok(false),
        Err(Errno::PERM) => {}
        Err(error) => return Err(failed(error)),
    }
    // SAFETY: as above; the kernel refuses a user namespace to a process of several threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWUSER) }
        .map_err(failed)?;
    let write = |path: &str, text: String| {
        std::fs::write(path, text).map_err(|error| {
            let error = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            WorldError::Step("naming the user of a user namespace", error)
        })
    };
    let (user, group) = (user.as_raw(), group.as_raw());
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    Ok(true)
}

/// A detached copy of the mount at a granted directory, without what is mounted below it.
fn tree(grant: &Grant, owner: bool) -> Result<OwnedFd, WorldError> {
    let tree = take(CWD, &grant.host, "taking a granted directory", owner)?;
    let found = rustix::fs::fstat(&tree).map_err(step("looking at a granted directory"))?;
    let granted =
        rustix::fs::fstat(grant.directory()).map_err(step("looking at a granted directory"))?;
    if (found.st_dev, found.st_ino) == (granted.st_dev, granted.st_ino) {
        Ok(tree)
    } else {
        Err(WorldError::Changed(grant.host.display().to_string()))
    }
}

fn take(
    base: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    what: &'static str,
    owner: bool,
) -> Result<OwnedFd, WorldError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(base, path.as_ref(), flags).map_err(|error| match error {
        Errno::PERM => WorldError::NotPermitted,
        // The kernel does not uncover to a user namespace what a mount covers.
        Errno::INVAL if owner => WorldError::Mounts(path.as_ref().display().to_string()),
        other => WorldError::Step(what, other),
    })
}

fn empty_root(memory: u64) -> Result<OwnedFd, WorldError> {
    let failed = step("making an empty root");
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(&failed)?;
    let settings = [
        ("size", memory.to_string()),
        ("nr_inodes", MOST_INODES.to_owned()),
    ];
    for (key, value) in settings {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value).map_err(&failed)?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).map_err(&failed)?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID,
    )
    .map_err(&failed)
}

fn attach(tree: &OwnedFd, at: impl AsRef<Path>) -> Result<(), WorldError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", CWD, at.as_ref(), flags)
        .map_err(step("attaching a granted directory"))
}

/// Takes set-user-ID away from a mount of the host, what `without` says, and writing if it is to be read
/// only. What the host mounts there later is not the guest's. A device that is read only can be written to, but not changed: who owns it might, and the guest may
/// have the same number.
fn protect(at: &Path, read_only: bool, without: MountFlags) -> Result<(), WorldError> {
    let failed = step("protecting what is the host's");
    // What the mount forbids already stays forbidden: a user namespace may not allow it.
    let had = rustix::fs::statvfs(at).map_err(&failed)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | without;
    let kept = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    for (found, flag) in kept {
        if had.contains(found) {
            flags |= flag;
        }
    }
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount_remount(at, flags, "").map_err(&failed)?;
    rustix::mount::mount_change(at, MountPropagationFlags::PRIVATE).map_err(&failed)
}

fn write(path: &Path, text: &[u8]) -> Result<(), WorldError> {
    make_directories(path.parent().unwrap_or(path))?;
    std::fs::write(path, text).map_err(|error| {
        let error = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        WorldError::Step("writing a file of the guest's file system", error)
    })
}

fn make_directories(path: &Path) -> Result<(), WorldError> {
    let mut at = Path::new("/").to_owned();
    for part in path.components().skip(1) {
        at.push(part);
        match rustix::fs::mkdir(&at, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(WorldError::Step("making a directory", error)),
        }
    }
    Ok(())
}
