//! Mount options: the `a,b=c` lists of `-o`. Pure.
//!
//! mount(8) and mount.fuse(8) pass on whatever stands in /etc/fstab together with what they add
//! themselves, so the generic options are all taken, with what they ask for where it means
//! something on a read-only filesystem. What nobody knows is refused, with a list of what is
//! known.

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
pub struct Options {
    /// Who may use the mount.
    pub access: Access,
    /// Files cannot be executed.
    pub no_exec: bool,
    /// The kernel checks permissions by mode, as it does for other filesystems.
    pub default_permissions: bool,
    /// The source to show in /proc/mounts in place of the store's path.
    pub source_name: Option<String>,
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
    /// An option whose value is wrong or missing.
    #[error("mount option {0} needs {1}")]
    Value(&'static str, &'static str),
}

impl Options {
    /// Reads the lists of all `-o`, the last of contradictory options winning.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let all = lists.into_iter().flat_map(|list| list.split(','));
        for option in all.map(str::trim).filter(|option| !option.is_empty()) {
            options.apply(option)?;
        }
        Ok(options)
    }

    fn apply(&mut self, option: &str) -> Result<(), OptionError> {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        let path = |key, value: Option<&str>| match value {
            Some(value) if value.starts_with('/') => Ok(Some(PathBuf::from(value))),
            _ => Err(OptionError::Value(key, "an absolute path")),
        };
        match (key, value) {
            ("allow_other", None) => self.access = Access::Everybody,
            ("allow_root", None) => self.access = Access::OwnerAndRoot,
            ("default_permissions", None) => self.default_permissions = true,
            ("exec", None) => self.no_exec = false,
            ("noexec", None) => self.no_exec = true,
            ("nopassthrough", None) => self.no_passthrough = true,
            ("fsname", Some(name)) if !name.is_empty() => self.source_name = Some(name.into()),
            ("fsname", _) => return Err(OptionError::Value("fsname", "a name")),
            ("threads", value) => {
                let threads = value.and_then(|value| value.parse().ok());
                let threads = threads.filter(|threads| (1..=MAX_THREADS).contains(threads));
                let wanted = OptionError::Value("threads", "a number from 1 to 64");
                self.threads = Some(threads.ok_or(wanted)?);
            }
            ("log", value) => self.log = path("log", value)?,
            ("scratch", value) => self.scratch = path("scratch", value)?,
            _ if is_generic(key) => {}
            _ => return Err(OptionError::Unknown(option.into())),
        }
        Ok(())
    }
}

/// Options of mount(8), mount.fuse(8) and systemd that ask for nothing here: the mount is always
/// read-only, without devices and set-user-id programs.
fn is_generic(key: &str) -> bool {
    const GENERIC: [&str; 38] = [
        "rw",
        "ro",
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
        "iversion",
        "noiversion",
        "silent",
        "loud",
        "subtype",
        "comment",
        "nonempty",
    ];
    GENERIC.contains(&key)
        || ["x-", "X-", "user_id", "group_id", "rootmode"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mount_passes_on_is_taken() {
        let lists = [
            "rw,dev,suid",
            "defaults,_netdev,noauto,x-systemd.automount,x-systemd.requires=poolsvc.service",
            "ro,nodev,nosuid,user,subtype=poolfs,,comment=x",
        ];
        assert_eq!(Options::parse(lists), Ok(Options::default()));
    }

    #[test]
    fn own_options_are_read() {
        let options = Options::parse([
            "noexec,allow_other,default_permissions",
            "nopassthrough,threads=4,log=/l,scratch=/run,fsname=a=b",
        ])
        .unwrap();
        let expected = Options {
            access: Access::Everybody,
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
        let options = Options::parse(["noexec,exec", "allow_other,allow_root"]).unwrap();
        assert!(!options.no_exec);
        assert_eq!(options.access, Access::OwnerAndRoot);
    }

    #[test]
    fn wrong_ones_are_refused() {
        for bad in [
            "bogus",
            "allow_other=1",
            "threads",
            "threads=0",
            "threads=65",
            "threads=x",
            "log=relative",
            "scratch",
            "fsname=",
            "nonsense=1",
        ] {
            assert!(Options::parse([bad]).is_err(), "{bad}");
        }
        let text = Options::parse(["ro,bogus"]).unwrap_err().to_string();
        assert!(text.contains("\"bogus\"") && text.contains("allow_other"));
    }
}
