//! What a path stands for, and what is said of it by calls that only look.

use rustix::io::Errno;

use super::super::grant::clean;
use super::{Device, FILES, Guest, Text, path_of};

/// What a path of the small world stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A file, and of `/proc/self` and its like, whose.
    File(&'static str, Whose),
    /// A link to the program.
    Program,
    /// An open descriptor, by its number.
    Descriptor(u64),
    /// The terminal that controls a process: a guest has none.
    Terminal,
    /// A device.
    Device(Device),
}

/// Which of the guest's threads a file is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// All: it has the number and the name of the first.
    Process,
    /// The one that asks.
    Caller,
    /// The one of this number, if there is one.
    Thread(i32),
}

impl Whose {
    /// The thread's number.
    pub(crate) fn thread(self, guest: &dyn Guest) -> i32 {
        match self {
            Self::Process => guest.process(),
            Self::Caller => guest.caller(),
            Self::Thread(number) => number,
        }
    }
}

impl Node {
    /// It is there, unless it is about a thread that is not.
    pub(crate) fn is_there(self, guest: &dyn Guest) -> bool {
        match self {
            Self::File(_, Whose::Thread(number)) => guest.threads().contains(&number),
            _ => true,
        }
    }
}

/// What `path`, absolute, is to the guest whose process has number `process`. Nothing below `granted`, which
/// are directories that the guest was given.
pub(crate) fn find(path: &[u8], process: i32, granted: &[Vec<u8>]) -> Option<Node> {
    let top = [&b"/proc/"[..], b"/sys/", b"/dev/", b"/etc/"];
    // Most paths are not.
    if path.first() != Some(&b'/') {
        return None;
    }
    let path = clean(path);
    if !top.iter().any(|top| path.starts_with(top)) {
        return None;
    }
    let below = |granted: &Vec<u8>| {
        path.strip_prefix(&granted[..])
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    if granted.iter().any(below) {
        return None;
    }
    let path = String::from_utf8(path).ok()?;
    let (path, whose) = own(&path, process);
    match &*path {
        "/dev/tty" => return Some(Node::Terminal),
        "/dev/stdin" => return Some(Node::Descriptor(0)),
        "/dev/stdout" => return Some(Node::Descriptor(1)),
        "/dev/stderr" => return Some(Node::Descriptor(2)),
        "/proc/self/exe" => return Some(Node::Program),
        _ => {}
    }
    let device = path.strip_prefix("/dev/").and_then(Device::named);
    if device.is_some() {
        return device.map(Node::Device);
    }
    let descriptor = ["/dev/fd/", "/proc/self/fd/"];
    let descriptor = descriptor
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix));
    if let Some(text) = descriptor {
        return number(text).map(|number| Node::Descriptor(number.unsigned_abs().into()));
    }
    let known = FILES.lines().find(|known| **known == *path)?;
    Some(Node::File(known, whose))
}

/// A number as the kernel writes it.
fn number(text: &str) -> Option<i32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| plain)?;
    (text.len() == 1 || !text.starts_with('0')).then_some(number)
}

/// `path` with `/proc/self` where it names the process or one of its threads in another way, and which.
fn own(path: &str, process: i32) -> (std::borrow::Cow<'_, str>, Whose) {
    let of_self = |rest: &str| format!("/proc/self/{rest}").into();
    if let Some(rest) = path.strip_prefix("/proc/thread-self/") {
        return (of_self(rest), Whose::Caller);
    }
    let by_number = format!("/proc/{process}/");
    let prefixes = ["/proc/self/", &by_number];
    let rest = prefixes.iter().find_map(|prefix| path.strip_prefix(prefix));
    let Some(rest) = rest else {
        return (path.into(), Whose::Process);
    };
    let task = rest.strip_prefix("task/");
    let task = task.and_then(|rest| rest.split_once('/'));
    match task.and_then(|(text, rest)| Some((number(text)?, rest))) {
        Some((thread, rest)) => (of_self(rest), Whose::Thread(thread)),
        None => (of_self(rest), Whose::Process),
    }
}

/// A call that only looks at a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) kind: Kind,
    /// The argument that is the path; what is asked for follows.
    pub(crate) path: usize,
}

/// What a call that looks at a path wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Access,
    /// `stat`, and that of a link itself.
    Stat,
    StatOfLink,
    /// `statx`, whose flags say which.
    Extended,
    Link,
}

impl Look {
    /// Call `number` with these arguments, if it is one.
    pub(crate) fn of(number: u64, arguments: &[u64; 6]) -> Option<Self> {
        const NO_FOLLOW: u64 = libc::AT_SYMLINK_NOFOLLOW as u64;
        let (kind, path) = match number as i64 {
            libc::SYS_access => (Kind::Access, 0),
            libc::SYS_faccessat | libc::SYS_faccessat2 => (Kind::Access, 1),
            libc::SYS_stat => (Kind::Stat, 0),
            libc::SYS_lstat => (Kind::StatOfLink, 0),
            libc::SYS_newfstatat if arguments[3] & NO_FOLLOW == 0 => (Kind::Stat, 1),
            libc::SYS_newfstatat => (Kind::StatOfLink, 1),
            libc::SYS_statx => (Kind::Extended, 1),
            libc::SYS_readlink => (Kind::Link, 0),
            libc::SYS_readlinkat => (Kind::Link, 1),
            _ => return None,
        };
        Some(Self { kind, path })
    }
}

/// The number that a node is known by: that of its place.
fn inode(node: Node) -> u64 {
    let place = |path: &str| FILES.lines().position(|known| known == path).unwrap_or(0);
    match node {
        Node::File(path, _) => 16 + place(path) as u64,
        Node::Program => 1,
        Node::Terminal => 2,
        Node::Descriptor(_) => 3,
        Node::Device(device) => 4 + device as u64,
    }
}

/// `struct stat` of a node that no descriptor stands for: of what a link leads to, or of itself.
pub(crate) fn stat(node: Node, follows: bool) -> [u8; 144] {
    const FILE: u32 = libc::S_IFREG | 0o444;
    const PROGRAM: u32 = libc::S_IFREG | 0o555;
    const LINK: u32 = libc::S_IFLNK | 0o777;
    const DEVICE: u32 = libc::S_IFCHR | 0o666;
    let (mode, device) = match node {
        Node::File(..) => (FILE, 0),
        Node::Program if follows => (PROGRAM, 0),
        Node::Program | Node::Descriptor(_) => (LINK, 0),
        Node::Terminal => (DEVICE, rustix::fs::makedev(5, 0)),
        Node::Device(device) => (DEVICE, device.number()),
    };
    let mut bytes = [0; 144];
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(8, inode(node));
    put(16, 1);
    put(24, mode.into());
    put(40, device);
    put(56, 4096);
    bytes
}

/// `struct statx` of what has this `struct stat`.
pub(crate) fn statx(stat: &[u8; 144]) -> [u8; 256] {
    /// All but the time of its birth.
    const KNOWN: u32 = libc::STATX_BASIC_STATS;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&stat[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let mut bytes = [0; 256];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, &KNOWN.to_le_bytes());
    put(4, &stat[56..60]);
    put(16, &stat[16..20]);
    // Owner and group, then the mode.
    put(20, &stat[28..36]);
    put(28, &stat[24..26]);
    put(32, &stat[8..16]);
    put(40, &stat[48..56]);
    put(48, &stat[64..72]);
    // Of access, change and modification, seconds and nanoseconds.
    for (from, to) in [(72, 64), (104, 96), (88, 112)] {
        put(to, &stat[from..from + 12]);
    }
    for (device, to) in [(word(40), 128), (word(0), 136)] {
        put(to, &rustix::fs::major(device).to_le_bytes());
        put(to + 4, &rustix::fs::minor(device).to_le_bytes());
    }
    bytes
}

/// What `access` says of a node.
pub(crate) fn access(node: Node, mode: u64) -> Result<(), Errno> {
    const EXECUTE: u64 = libc::X_OK as u64;
    const WRITE: u64 = libc::W_OK as u64;
    match node {
        Node::File(..) if mode & (EXECUTE | WRITE) != 0 => Err(Errno::ACCESS),
        Node::Device(_) if mode & EXECUTE != 0 => Err(Errno::ACCESS),
        _ => Ok(()),
    }
}

/// What `readlink` says of a node: of a descriptor nothing is known by its name.
pub(crate) fn link(node: Node, guest: &mut dyn Guest) -> Result<Vec<u8>, Errno> {
    match node {
        Node::Program => Ok(path_of(&guest.text(Text::Arguments))),
        Node::File(..) | Node::Terminal | Node::Device(_) => Err(Errno::INVAL),
        Node::Descriptor(_) => Err(Errno::NOENT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_as_they_are_written() {
        let find = |path: &str| {
            find(
                path.as_bytes(),
                7,
                &[b"/sys/granted".to_vec(), b"/etc".to_vec()],
            )
        };
        let file = |path, whose| Some(Node::File(path, whose));
        for (path, node) in [
            ("/proc/self/maps", file("/proc/self/maps", Whose::Process)),
            (
                "//proc/./self/../7/maps",
                file("/proc/self/maps", Whose::Process),
            ),
            (
                "/proc/thread-self/comm",
                file("/proc/self/comm", Whose::Caller),
            ),
            (
                "/proc/self/task/7/stat",
                file("/proc/self/stat", Whose::Thread(7)),
            ),
            (
                "/proc/7/task/12/stat",
                file("/proc/self/stat", Whose::Thread(12)),
            ),
            ("/proc/self/task/07/stat", None),
            ("/proc/self/task/x/stat", None),
            ("/proc/self/task/7", None),
            ("/proc/8/maps", None),
            ("/proc/self/exe", Some(Node::Program)),
            ("/dev/stdout", Some(Node::Descriptor(1))),
            ("/dev/fd/12", Some(Node::Descriptor(12))),
            ("/proc/self/fd/0", Some(Node::Descriptor(0))),
            ("/proc/self/fd/+1", None),
            ("/proc/self/fd/01", None),
            ("/proc/self/fd/", None),
            ("/proc/self/fd/4294967296", None),
            ("/dev/tty", Some(Node::Terminal)),
            ("/dev/zero", Some(Node::Device(Device::Zero))),
            ("/dev/random", Some(Node::Device(Device::Random))),
            ("/dev/mem", None),
            (
                "/sys/devices/system/cpu/online",
                file("/sys/devices/system/cpu/online", Whose::Process),
            ),
            ("/sys/granted/x", None),
            ("/etc/passwd", None),
            ("proc/self/maps", None),
            ("/home", None),
            ("", None),
        ] {
            assert_eq!(find(path), node, "{path}");
        }
    }

    /// As the kernel says it of a file.
    #[test]
    fn statx_says_what_stat_says() {
        let mut plain = [0u8; 144];
        let mut extended = [0u8; 256];
        // SAFETY: the kernel fills a `struct stat` and a `struct statx`, which have these sizes.
        unsafe {
            let path = c"/dev/null".as_ptr();
            let stat = plain.as_mut_ptr();
            assert_eq!(libc::syscall(libc::SYS_stat, path, stat), 0);
            let [directory, flags, mask] = [libc::AT_FDCWD, 0, libc::STATX_BASIC_STATS as i32];
            let statx = extended.as_mut_ptr();
            let done = libc::syscall(libc::SYS_statx, directory, path, flags, mask, statx);
            assert_eq!(done, 0);
        }
        let said = statx(&plain);
        // What else the kernel knows: attributes, the time of its birth, its mount.
        for (from, to) in [(4, 8), (16, 56), (64, 80), (96, 144)] {
            assert_eq!(said[from..to], extended[from..to], "{from}");
        }
    }
}
