//! A directory that was granted with `--dir`, and how paths lie to it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

/// A directory that a guest may use.
#[derive(Debug)]
pub struct Grant {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where the guest sees it: absolute, clean.
    pub guest: PathBuf,
    /// No changes.
    pub read_only: bool,
    directory: OwnedFd,
}

/// Why a directory cannot be granted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GrantError {
    /// Not of the form `HOST:GUEST[:ro]`.
    #[error("--dir {0:?}: write it as HOST:GUEST or HOST:GUEST:ro, GUEST being an absolute path")]
    Form(String),
    /// Where the guest finds what the VMM makes.
    #[error(
        "--dir {0:?}: {1} holds what every guest finds there (/dev/null, /proc/self, /etc, /tmp), which the grant would \
         cover or be covered by: grant it as another directory, such as HOST:/data"
    )]
    Taken(String, &'static str),
    /// Two grants in one place.
    #[error(
        "--dir {0:?}: there is another directory at that place already, which would not be seen any more"
    )]
    Twice(String),
    /// The host directory cannot be opened.
    #[error("--dir {0:?}: the host directory cannot be opened: {1}")]
    Open(String, Errno),
    /// The host directory shows the kernel's own state.
    #[error(
        "--dir {0:?}: the host directory is on {1}, where files are the host kernel itself and not \
         data: grant a directory of a file system that stores files"
    )]
    Kernel(String, &'static str),
}

/// File systems whose files are the kernel, by their magic number (`linux/magic.h`): procfs alone would
/// hand over the memory of the monitor, and the others what an operator did not mean to give.
const KERNEL_FILE_SYSTEMS: [(i64, &str); 17] = [
    (0x9fa0, "procfs"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0xcafe_4a11, "bpf"),
    (0x6265_6570, "configfs"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6573_5543, "fusectl"),
    (0x6e73_6673, "nsfs"),
    (0x1cd1, "devpts"),
];

/// Where nothing can be granted: no path leads to what is mounted over the root, and there is no `/dev/null` in
/// another `/dev`.
const TAKEN: [&str; 2] = ["/", "/dev"];

impl Grant {
    /// Reads each of `texts`, as [`Grant::parse`], none of which may cover another.
    pub fn parse_all(texts: &[String]) -> Result<Vec<Self>, GrantError> {
        let mut grants: Vec<Self> = Vec::with_capacity(texts.len());
        for text in texts {
            let grant = Self::parse(text)?;
            if grants.iter().any(|other| other.guest == grant.guest) {
                return Err(GrantError::Twice(text.clone()));
            }
            grants.push(grant);
        }
        Ok(grants)
    }

    /// Reads `HOST:GUEST` or `HOST:GUEST:ro` and opens the host directory.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let wrong = || GrantError::Form(text.to_owned());
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (host, guest) = rest.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty() || !guest.starts_with('/') {
            return Err(wrong());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(host, flags, Mode::empty())
            .map_err(|error| GrantError::Open(text.to_owned(), error))?;
        let kind = rustix::fs::fstatfs(&directory)
            .map_err(|error| GrantError::Open(text.to_owned(), error))?
            .f_type;
        if let Some((_, name)) = KERNEL_FILE_SYSTEMS.iter().find(|(magic, _)| *magic == kind) {
            return Err(GrantError::Kernel(text.to_owned(), name));
        }
        let guest = clean(guest.as_bytes());
        if let Some(taken) = TAKEN.iter().find(|taken| guest == taken.as_bytes()) {
            return Err(GrantError::Taken(text.to_owned(), taken));
        }
        Ok(Self {
            host: PathBuf::from(host),
            guest: Path::new(std::ffi::OsStr::new(
                std::str::from_utf8(&guest).map_err(|_| wrong())?,
            ))
            .to_owned(),
            read_only,
            directory,
        })
    }
}

impl Grant {
    /// The host directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// `path` without `.`, `..` and doubled slashes; absolute.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let mut cleaned = vec![b'/'];
    cleaned.extend_from_slice(&parts.join(&b'/'));
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_text() {
        for (path, cleaned) in [
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../../etc", "/etc"),
        ] {
            assert_eq!(clean(path.as_bytes()), cleaned.as_bytes(), "{path}");
        }
    }

    #[test]
    fn grants_are_read() {
        let grant = Grant::parse("/tmp:/data/:ro").unwrap();
        assert!(grant.read_only);
        assert_eq!(grant.guest, Path::new("/data"));
        for bad in [
            "/tmp",
            "/tmp:data",
            ":/data",
            "/nonexistent-directory:/data",
        ] {
            assert!(Grant::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_grant_covers_what_every_guest_finds_or_another_grant() {
        for (text, taken) in [
            ("/tmp:/", "/"),
            ("/tmp:/a/..:ro", "/"),
            ("/tmp:/dev/", "/dev"),
        ] {
            let refused = Grant::parse(text).unwrap_err();
            assert_eq!(refused, GrantError::Taken(text.to_owned(), taken));
        }
        let all = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            Grant::parse_all(&texts).map(|grants| grants.len())
        };
        assert_eq!(all(&["/tmp:/a", "/tmp:/a/b", "/tmp:/dev/shm"]), Ok(3));
        let twice = GrantError::Twice("/:/a/:ro".to_owned());
        assert_eq!(all(&["/tmp:/a", "/tmp:/b", "/:/a/:ro"]), Err(twice));
    }

    #[test]
    fn the_kernel_itself_is_not_granted() {
        for (bad, kind) in [
            ("/proc:/data", "procfs"),
            ("/proc/self:/data:ro", "procfs"),
            ("/proc/self/fd:/data", "procfs"),
            ("/sys:/data", "sysfs"),
        ] {
            let refused = Grant::parse(bad).unwrap_err();
            assert_eq!(refused, GrantError::Kernel(bad.to_owned(), kind));
        }
    }
}
