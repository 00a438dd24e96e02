//! Mount options: the `a,b=c` lists of `-o`. Pure.
//!
//! mount(8) and mount.fuse(8) pass on whatever stands in /etc/fstab together with what they add
//! themselves, so the generic options are all taken, with what they ask for where it means
//! something on a read-only filesystem. What nobody knows is refused, with a list of what is
//! known.
//!
//! A backslash takes the comma or backslash after it for what it is, and three octal digits after
//! it are a byte: what libfuse reads (fuse_opt(3)). A path with a comma is thus `log=/a\,b`, or
//! `log=/a\054b`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use thiserror::Error;

/// Most threads that can be asked for.
const MAX_THREADS: usize = 64;

/// Who may use the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody when root mounts, the user who mounts otherwise.
    #[default]
    Default,
    /// Everybody.
    Everybody,
    /// The user who mounts, and root.
    OwnerAndRoot,
}

/// What the options of a mount say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
// The options are what they are, one by one.
#[allow(clippy::struct_excessive_bools)]
pub struct Options {
    /// Who may use the mount.
    pub access: Access,
    /// The last of `ro` and `rw` was `rw`, which a pool cannot be.
    pub asked_writable: bool,
    /// Files cannot be executed.
    pub no_exec: bool,
    /// The kernel checks permissions by mode, as it does for other filesystems.
    pub default_permissions: bool,
    /// The source to show in /proc/mounts in place of the store's path.
    pub source_name: Option<OsString>,
    /// Segments are read through this program even where the kernel could serve them.
    pub no_passthrough: bool,
    /// Threads that serve requests.
    pub threads: Option<usize>,
    /// File that a daemon logs to.
    pub log: Option<PathBuf>,
    /// Directory for the follower's scratch directory.
    pub scratch: Option<PathBuf>,
}

/// Why options are refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// An option that means nothing here.
    #[error(
        "unknown mount option {0:?}: poolfs knows allow_other, allow_root, default_permissions, \
         exec, noexec, nopassthrough, fsname=NAME, threads=N, log=FILE, scratch=DIR, and ignores \
         the generic options of mount(8)"
    )]
    Unknown(String),
    /// A change of what is mounted.
    #[error(
        "a mounted pool cannot be remounted: unmount it, and mount it again with the new options"
    )]
    Remount,
    /// An option whose value is wrong or missing.
    #[error("mount option {0} needs {1}")]
    Value(&'static str, &'static str),
}

impl Options {
    /// Reads the lists of all `-o`, the last of contradictory options winning.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a OsStr>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in lists.into_iter().flat_map(split) {
            options.apply(&option)?;
        }
        Ok(options)
    }

    /// The same, without what is unknown: mount(8)'s `-s`.
    pub fn parse_sloppily<'a>(
        lists: impl IntoIterator<Item = &'a OsStr>,
    ) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for option in lists.into_iter().flat_map(split) {
            match options.apply(&option) {
                Err(OptionError::Unknown(_)) => {}
                other => other?,
            }
        }
        Ok(options)
    }

    fn apply(&mut self, option: &OsStr) -> Result<(), OptionError> {
        let bytes = option.as_bytes();
        let (key, value) = match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
            None => (bytes, None),
        };
        let unknown = || OptionError::Unknown(option.to_string_lossy().into_owned());
        let key = std::str::from_utf8(key).map_err(|_| unknown())?;
        let path = |key, value: Option<&OsStr>| match value {
            Some(value) if value.as_bytes().starts_with(b"/") => Ok(Some(PathBuf::from(value))),
            _ => Err(OptionError::Value(key, "an absolute path")),
        };
        match (key, value) {
            ("allow_other", None) => self.access = Access::Everybody,
            ("allow_root", None) => self.access = Access::OwnerAndRoot,
            ("default_permissions", None) => self.default_permissions = true,
            ("ro", None) => self.asked_writable = false,
            ("rw", None) => self.asked_writable = true,
            ("exec", None) => self.no_exec = false,
            ("noexec", None) => self.no_exec = true,
            ("nopassthrough", None) => self.no_passthrough = true,
            ("remount", None) => return Err(OptionError::Remount),
            ("fsname", Some(name)) if !name.is_empty() => self.source_name = Some(name.into()),
            ("fsname", _) => return Err(OptionError::Value("fsname", "a name")),
            ("threads", value) => {
                let threads = value.and_then(OsStr::to_str);
                let threads = threads.and_then(|value| value.parse().ok());
                let threads = threads.filter(|threads| (1..=MAX_THREADS).contains(threads));
                let wanted = OptionError::Value("threads", "a number from 1 to 64");
                self.threads = Some(threads.ok_or(wanted)?);
            }
            ("log", value) => self.log = path("log", value)?,
            ("scratch", value) => self.scratch = path("scratch", value)?,
            _ if is_generic(key) => {}
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

/// The options of a list, their escapes undone.
fn split(list: &OsStr) -> Vec<OsString> {
    let mut options = vec![vec![]];
    let mut rest = list.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, after) = match (first, tail) {
            (b',', _) => {
                options.push(vec![]);
                rest = tail;
                continue;
            }
            (
                b'\\',
                [
                    high @ b'0'..=b'3',
                    middle @ b'0'..=b'7',
                    low @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                let digit = |digit: &u8| digit - b'0';
                let byte = (digit(high) << 6) | (digit(middle) << 3) | digit(low);
                (byte, after)
            }
            (b'\\', [escaped, after @ ..]) => (*escaped, after),
            _ => (*first, tail),
        };
        if let Some(option) = options.last_mut() {
            option.push(byte);
        }
        rest = after;
    }
    options.retain(|option| !option.is_empty());
    options.into_iter().map(OsString::from_vec).collect()
}

/// Options of mount(8), mount.fuse(8) and systemd that ask for nothing here: the mount is always
/// read-only, without devices and set-user-id programs.
fn is_generic(key: &str) -> bool {
    const GENERIC: [&str; 41] = [
        "defaults",
        "dev",
        "nodev",
        "suid",
        "nosuid",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "_netdev",
        "nofail",
        "async",
        "sync",
        "dirsync",
        "atime",
        "noatime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "diratime",
        "nodiratime",
        "mand",
        "nomand",
        "symfollow",
        "nosymfollow",
        "iversion",
        "noiversion",
        "silent",
        "loud",
        "subtype",
        "comment",
        "nonempty",
        "user_id",
        "group_id",
        "rootmode",
    ];
    GENERIC.contains(&key) || key.starts_with("x-") || key.starts_with("X-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Options, OptionError> {
        Options::parse(lists.into_iter().map(OsStr::new))
    }

    #[test]
    fn what_mount_passes_on_is_taken() {
        let lists = [
            "dev,suid",
            "defaults,_netdev,noauto,x-systemd.automount,x-systemd.requires=poolsvc.service",
            "ro,nodev,nosuid,user,user=me,subtype=poolfs,,comment=x",
        ];
        assert_eq!(parse(lists), Ok(Options::default()));
    }

    #[test]
    fn own_options_are_read() {
        let options = parse([
            "noexec,allow_other,default_permissions,rw",
            "nopassthrough,threads=4,log=/l,scratch=/run,fsname=a=b",
        ])
        .unwrap();
        let expected = Options {
            access: Access::Everybody,
            asked_writable: true,
            no_exec: true,
            default_permissions: true,
            source_name: Some("a=b".into()),
            no_passthrough: true,
            threads: Some(4),
            log: Some("/l".into()),
            scratch: Some("/run".into()),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn the_last_one_wins() {
        let options = parse(["noexec,exec,rw", "allow_other,ro,allow_root"]).unwrap();
        assert!(!options.no_exec && !options.asked_writable);
        assert_eq!(options.access, Access::OwnerAndRoot);
    }

    #[test]
    fn values_may_have_every_byte() {
        for (list, name) in [
            (r"fsname=a\,rw,noexec", "a,rw"),
            (r"fsname=a\054rw,noexec", "a,rw"),
            (r"noexec,fsname=\\,", r"\"),
            (r"noexec,fsname=\\\,x", r"\,x"),
            (r"noexec,fsname=\040a b\", r" a b\"),
            (r"noexec,fsname=\8\400\07", "840007"),
            ("noexec,fsname=a\nb \"'#", "a\nb \"'#"),
        ] {
            let options = parse([list]).unwrap();
            assert_eq!(options.source_name.unwrap(), OsStr::new(name), "{list}");
            assert!(options.no_exec && !options.asked_writable, "{list}");
        }
        let options = Options::parse([OsStr::from_bytes(b"log=/\xff\\377")]).unwrap();
        assert_eq!(options.log.unwrap().as_os_str().as_bytes(), b"/\xff\xff");
    }

    #[test]
    fn wrong_ones_are_refused() {
        for bad in [
            "bogus",
            "allow_other=1",
            "rw=1",
            "threads",
            "threads=0",
            "threads=65",
            "threads=x",
            "log=relative",
            "scratch",
            "fsname=",
            "nonsense=1",
            "remount",
            "fd=3",
            "user_identity",
            " ro",
            r"ro\,nodev",
        ] {
            assert!(parse([bad]).is_err(), "{bad}");
        }
        let text = parse(["ro,bogus"]).unwrap_err().to_string();
        assert!(text.contains("\"bogus\"") && text.contains("allow_other"));
        let text = parse(["remount,ro"]).unwrap_err().to_string();
        assert!(text.contains("unmount"), "{text}");
    }

    #[test]
    fn sloppy_reading_leaves_out_what_is_unknown_and_nothing_else() {
        let read = |list| Options::parse_sloppily([OsStr::new(list)]);
        let options = read("noexec,whatever,threads=2").unwrap();
        assert!(options.no_exec && options.threads == Some(2));
        assert!(read("whatever,threads=x").is_err());
        assert_eq!(read("remount"), Err(OptionError::Remount));
    }
}
