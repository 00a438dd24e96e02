//! The granted directories as the only files there are: a mount namespace with an empty root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags,
};
use rustix::thread::UnshareFlags;
use thiserror::Error;

use crate::linux::Grant;

/// Why the directories cannot be shown to the guest.
#[derive(Debug, Error)]
pub(super) enum FilesError {
    /// Not allowed to make a mount namespace.
    #[error(
        "granting directories to a guest process takes a mount namespace of its own, which takes \
         CAP_SYS_ADMIN: run as root, or use --platform kvm"
    )]
    NotPermitted,
    /// Some step failed.
    #[error("showing granted directories to the guest: {0}: {1}")]
    Step(&'static str, Errno),
}

fn step(what: &'static str) -> impl Fn(Errno) -> FilesError {
    move |error| FilesError::Step(what, error)
}

/// Leaves this process with the directories of `grants` and no other file. All that other
/// processes see stays as it was.
pub(super) fn enter(grants: &[Grant]) -> Result<(), FilesError> {
    // Taken while this process is in the namespace that their descriptors belong to.
    let trees: Result<Vec<_>, _> = grants
        .iter()
        .map(|grant| Ok((grant, tree(grant)?)))
        .collect();
    let mut trees = trees?;
    unshare()?;
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(step("leaving shared mounts"))?;
    let root = empty_root()?;
    attach(&root, "/")?;
    rustix::process::fchdir(&root).map_err(step("entering the new root"))?;
    rustix::process::chroot(".").map_err(step("entering the new root"))?;
    // Outer directories first, so that inner ones are attached inside them.
    trees.sort_by_key(|(grant, _)| grant.guest.as_os_str().len());
    for (grant, tree) in &trees {
        make_directories(&grant.guest)?;
        attach(tree, &grant.guest)?;
        let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
        if grant.read_only {
            flags |= MountFlags::RDONLY;
        }
        rustix::mount::mount_remount(&grant.guest, flags, "")
            .map_err(step("protecting a granted directory"))?;
    }
    rustix::process::chdir("/").map_err(step("entering the new root"))
}

fn unshare() -> Result<(), FilesError> {
    // SAFETY: a new mount namespace concerns path look-ups of this process alone; it owns no
    // descriptor table or memory that another thread could share.
    let done = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
    done.map_err(|error| match error {
        Errno::PERM => FilesError::NotPermitted,
        other => FilesError::Step("making a mount namespace", other),
    })
}

/// A detached copy of the mount at a granted directory.
fn tree(grant: &Grant) -> Result<OwnedFd, FilesError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(grant.directory(), "", flags).map_err(|error| match error {
        Errno::PERM => FilesError::NotPermitted,
        other => FilesError::Step("taking a granted directory", other),
    })
}

fn empty_root() -> Result<OwnedFd, FilesError> {
    let failed = step("making an empty root");
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(&failed)?;
    rustix::mount::fsconfig_create(context.as_fd()).map_err(&failed)?;
    rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID,
    )
    .map_err(&failed)
}

fn attach(tree: &OwnedFd, at: impl AsRef<Path>) -> Result<(), FilesError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", CWD, at.as_ref(), flags)
        .map_err(step("attaching a granted directory"))
}

fn make_directories(path: &Path) -> Result<(), FilesError> {
    let mut at = Path::new("/").to_owned();
    for part in path.components().skip(1) {
        at.push(part);
        match rustix::fs::mkdir(&at, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(FilesError::Step("making a directory", error)),
        }
    }
    Ok(())
}
