//! A FUSE connection, and its place in the tree: by mount(2) for those who may, by fusermount3 for
//! all others.
//!
//! The store's path never becomes part of a list of options. mount(2) takes the source apart from
//! them, and what stands in its list is made here; fusermount3 has only the list, and undoes
//! escapes in `fsname`.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use thiserror::Error;

/// Where FUSE connections are made.
pub(super) const DEVICE: &str = "/dev/fuse";
/// The filesystem's type as /proc/mounts shows it, without `fuse.` before it.
const SUBTYPE: &str = "poolfs";
/// mount(8)'s counterpart for those who are not root.
pub(super) const FUSERMOUNT: &str = "fusermount3";

/// Why nothing is attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] io::Error),
    /// Only root may mount by itself, and there is nobody else to ask.
    #[error(
        "only root may mount without {FUSERMOUNT}, which is missing: install fuse3, or mount as root"
    )]
    NoFusermount,
    /// fusermount3 refuses, in its own words.
    #[error("{0}")]
    Fusermount(String),
}

/// What to attach.
#[derive(Debug)]
pub(super) struct Attachment<'a> {
    /// What /proc/mounts shows as the source.
    pub(super) source: &'a OsStr,
    /// Nothing can be executed from it.
    pub(super) no_exec: bool,
    /// The kernel checks permissions by mode.
    pub(super) default_permissions: bool,
    /// Others than the user who mounts may use it.
    pub(super) allow_other: bool,
}

/// The type that such a mount has in /proc/mounts.
pub(super) fn mounted_type() -> String {
    format!("fuse.{SUBTYPE}")
}

/// Mounts at `mount_point`; the answer is the connection, whose first request is `INIT`.
pub(super) fn attach(mount_point: &Path, what: &Attachment<'_>) -> Result<OwnedFd, AttachError> {
    match attach_by_kernel(mount_point, what) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            attach_by_fusermount(mount_point, what)
        }
        other => Ok(other?),
    }
}

fn attach_by_kernel(mount_point: &Path, what: &Attachment<'_>) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    let mut flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    flags.set(MountFlags::NOEXEC, what.no_exec);
    // A directory by its mode (`rootmode`, octal): Documentation/filesystems/fuse.rst.
    let mut options = format!(
        "fd={},rootmode={:o},user_id={},group_id={}",
        device.as_raw_fd(),
        libc::S_IFDIR,
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    for option in flag_options(what) {
        options.push(',');
        options.push_str(option);
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(
        what.source,
        mount_point,
        mounted_type(),
        flags,
        options.as_c_str(),
    )?;
    Ok(device.into())
}

/// The options that are words alone.
fn flag_options(what: &Attachment<'_>) -> impl Iterator<Item = &'static str> {
    let permissions = what.default_permissions.then_some("default_permissions");
    let others = what.allow_other.then_some("allow_other");
    permissions.into_iter().chain(others)
}

/// fusermount3 mounts, and sends the connection over the socket whose number an environment
/// variable names (libfuse's lib/mount.c): its standard input.
fn attach_by_fusermount(mount_point: &Path, what: &Attachment<'_>) -> Result<OwnedFd, AttachError> {
    let (ours, theirs) = UnixStream::pair()?;
    let output = Command::new(FUSERMOUNT)
        .arg("-o")
        .arg(fusermount_options(what))
        .arg("--")
        .arg(mount_point)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => AttachError::NoFusermount,
            _ => AttachError::Fusermount(format!("running {FUSERMOUNT}: {error}")),
        })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(AttachError::Fusermount(match message.trim() {
            "" => format!("{FUSERMOUNT}: {}", output.status),
            message => message.to_owned(),
        }));
    }
    Ok(receive_descriptor(&ours)?)
}

fn fusermount_options(what: &Attachment<'_>) -> OsString {
    let mut options = b"ro,nodev,nosuid".to_vec();
    let no_exec = what.no_exec.then_some("noexec");
    for option in no_exec.into_iter().chain(flag_options(what)) {
        options.push(b',');
        options.extend(option.bytes());
    }
    options.extend(format!(",subtype={SUBTYPE},fsname=").bytes());
    for byte in what.source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
    OsString::from_vec(options)
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let none = || io::Error::other(format!("{FUSERMOUNT} sent no connection"));
    descriptors.last().ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_of_a_path_is_an_option_of_fusermount() {
        let plain = |source: &[u8]| {
            fusermount_options(&Attachment {
                source: OsStr::from_bytes(source),
                no_exec: false,
                default_permissions: false,
                allow_other: false,
            })
            .into_vec()
        };
        let before = &b"ro,nodev,nosuid,subtype=poolfs,fsname="[..];
        for (source, escaped) in [
            (&b"/a b"[..], &b"/a b"[..]),
            (b"/a,rw", b"/a\\,rw"),
            (b"/a\\,rw\\", b"/a\\\\\\,rw\\\\"),
            (b"/a\n\xff'\"#", b"/a\n\xff'\"#"),
        ] {
            assert_eq!(plain(source), [before, escaped].concat());
        }
        let options = fusermount_options(&Attachment {
            source: OsStr::new("/s"),
            no_exec: true,
            default_permissions: true,
            allow_other: true,
        });
        assert_eq!(
            options,
            "ro,nodev,nosuid,noexec,default_permissions,allow_other,subtype=poolfs,fsname=/s"
        );
    }
}
