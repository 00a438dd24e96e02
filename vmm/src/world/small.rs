//! The small world: files that programs look for, made by the VMM when they are looked at, the same on both platforms.
//!
//! They are found by their path alone, as it is written (without `.`, `..` and doubled slashes). So they cost nothing
//! before that, and are there without any file system, too. Where a guest has a file system of its own, entries without
//! content stand in it for most, to be listed and looked up, and what was granted comes first.
//! A file is opened as memory that nobody can change, with what was true at that moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::contents;
use pool_core::address::Protection;

/// The files, in order of their names.
const FILES: &str = "\
/etc/group
/etc/hostname
/etc/hosts
/etc/localtime
/etc/nsswitch.conf
/etc/passwd
/etc/protocols
/etc/services
/proc/cpuinfo
/proc/filesystems
/proc/loadavg
/proc/meminfo
/proc/mounts
/proc/self/auxv
/proc/self/cgroup
/proc/self/cmdline
/proc/self/comm
/proc/self/environ
/proc/self/limits
/proc/self/maps
/proc/self/mountinfo
/proc/self/mounts
/proc/self/oom_score
/proc/self/oom_score_adj
/proc/self/stat
/proc/self/statm
/proc/self/status
/proc/stat
/proc/sys/fs/file-max
/proc/sys/fs/nr_open
/proc/sys/kernel/cap_last_cap
/proc/sys/kernel/hostname
/proc/sys/kernel/ngroups_max
/proc/sys/kernel/osrelease
/proc/sys/kernel/ostype
/proc/sys/kernel/pid_max
/proc/sys/kernel/random/boot_id
/proc/sys/kernel/random/entropy_avail
/proc/sys/kernel/random/uuid
/proc/sys/kernel/threads-max
/proc/sys/kernel/version
/proc/sys/net/core/somaxconn
/proc/sys/net/ipv4/ip_local_port_range
/proc/sys/vm/max_map_count
/proc/sys/vm/overcommit_memory
/proc/uptime
/proc/version
/sys/devices/system/cpu/kernel_max
/sys/devices/system/cpu/online
/sys/devices/system/cpu/possible
/sys/devices/system/cpu/present
/sys/fs/cgroup/cgroup.controllers
/sys/fs/cgroup/cpu.max
/sys/fs/cgroup/memory.current
/sys/fs/cgroup/memory.high
/sys/fs/cgroup/memory.max
/sys/fs/cgroup/memory.swap.max
/sys/kernel/mm/transparent_hugepage/enabled
/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";

/// All of them.
pub(super) fn files() -> impl Iterator<Item = &'static str> {
    FILES.lines()
}

/// Whether a file has a place in a guest's own file system, to be listed and looked up there. The others are only
/// opened, and places take time when a guest starts.
pub(super) fn has_place(path: &str) -> bool {
    !path.starts_with("/proc/sys/") && !path.starts_with("/sys/")
}

/// An area of a guest's memory, as `/proc/self/maps` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) protection: Protection,
    pub(crate) shared: bool,
    pub(crate) offset: u64,
    pub(crate) name: String,
}

/// A part of what a guest was started with, in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    Arguments,
    Environment,
    Auxiliary,
}

/// What is to be known of a guest.
pub(crate) trait Guest {
    /// Bytes of memory that it may have, and that are left.
    fn memory(&self) -> u64;
    fn free(&mut self) -> u64;
    /// Bytes that it has.
    fn resident(&mut self) -> u64;
    /// Numbers of its process and of the thread that asks, and how many threads there are.
    fn process(&self) -> i32;
    fn thread(&self) -> i32;
    fn threads(&self) -> usize;
    /// The thread's name.
    fn name(&mut self) -> Vec<u8>;
    fn text(&mut self, which: Text) -> Vec<u8>;
    fn areas(&mut self) -> Vec<Area>;
    /// Nanoseconds that it has run.
    fn processor_time(&mut self) -> u64;
    /// When it was started, by the same clock as [`Guest::uptime`].
    fn started(&self) -> Timespec;
    /// Soft and hard limit of this number.
    fn limit(&mut self, number: u64) -> [u64; 2];
    /// A number for the time of its machine.
    fn boot(&mut self) -> [u8; 16];

    /// How long its machine has been up.
    fn uptime(&self) -> Timespec {
        rustix::time::clock_gettime(rustix::time::ClockId::Boottime)
    }

    /// A number that nobody had before.
    fn random(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // Without, it is one that somebody had.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        bytes
    }
}

/// What a path of the small world stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// A file.
    File(&'static str),
    /// A link to the program.
    Program,
    /// An open descriptor, by its number.
    Descriptor(u64),
    /// The terminal that controls a process: a guest has none.
    Terminal,
}

/// What `path`, absolute, is to the guest whose process has number `process`. Nothing below `granted`, which
/// are directories that the guest was given.
pub(crate) fn find(path: &[u8], process: i32, granted: &[Vec<u8>]) -> Option<Node> {
    let top = [&b"/proc/"[..], b"/sys/", b"/dev/", b"/etc/"];
    // Most paths are not.
    if path.first() != Some(&b'/') {
        return None;
    }
    let path = crate::linux::clean(path);
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
    let path = own(&path, process);
    match &*path {
        "/dev/tty" => return Some(Node::Terminal),
        "/dev/stdin" => return Some(Node::Descriptor(0)),
        "/dev/stdout" => return Some(Node::Descriptor(1)),
        "/dev/stderr" => return Some(Node::Descriptor(2)),
        "/proc/self/exe" => return Some(Node::Program),
        _ => {}
    }
    let descriptor = ["/dev/fd/", "/proc/self/fd/"];
    let number = descriptor
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix));
    if let Some(number) = number {
        let plain = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse::<u64>().ok().filter(|_| plain);
        return number
            .filter(|&number| number < 1 << 31)
            .map(Node::Descriptor);
    }
    FILES.lines().find(|known| **known == *path).map(Node::File)
}

/// `path` with `/proc/self` where it names the process, or the calling thread, in another way.
fn own(path: &str, process: i32) -> std::borrow::Cow<'_, str> {
    let ways = [
        "/proc/thread-self/".to_owned(),
        format!("/proc/self/task/{process}/"),
        format!("/proc/{process}/task/{process}/"),
        format!("/proc/{process}/"),
    ];
    let rest = ways.iter().find_map(|way| path.strip_prefix(&way[..]));
    match rest {
        Some(rest) => format!("/proc/self/{rest}").into(),
        None => path.into(),
    }
}

/// Whether a file may be opened with `flags`: it is there, and only to be read.
pub(crate) fn may_open(flags: OFlags) -> Result<(), Errno> {
    if flags.contains(OFlags::CREATE | OFlags::EXCL) {
        Err(Errno::EXIST)
    } else if flags.contains(OFlags::DIRECTORY) {
        Err(Errno::NOTDIR)
    } else if flags & OFlags::ACCMODE != OFlags::RDONLY {
        Err(Errno::ACCESS)
    } else {
        Ok(())
    }
}

/// What the file `path` says now.
pub(crate) fn content(path: &str, guest: &mut dyn Guest) -> Vec<u8> {
    contents::of(path, guest).unwrap_or_default()
}

/// A new file with `content`, which has the lowest number that is free.
pub(crate) fn open(content: &[u8], close_on_exec: bool) -> Result<OwnedFd, Errno> {
    let mut flags = MemfdFlags::ALLOW_SEALING;
    if close_on_exec {
        flags |= MemfdFlags::CLOEXEC;
    }
    let file = rustix::fs::memfd_create(c"file", flags)?;
    fill(file.as_fd(), content)?;
    Ok(file)
}

/// Makes `file` one with `content` that cannot be changed. Somebody may do so meanwhile: it does not
/// become larger.
pub(crate) fn fill(file: BorrowedFd<'_>, content: &[u8]) -> Result<(), Errno> {
    let length = content.len() as u64;
    rustix::fs::ftruncate(file, length)?;
    rustix::fs::fcntl_add_seals(file, SealFlags::GROW)?;
    if rustix::fs::fstat(file)?.st_size as u64 > length {
        rustix::fs::ftruncate(file, length)?;
    }
    let mut done = 0;
    while done < content.len() {
        match rustix::io::pwrite(file, &content[done..], done as u64)? {
            0 => break,
            written => done += written,
        }
    }
    rustix::fs::fcntl_add_seals(file, SealFlags::SHRINK | SealFlags::WRITE | SealFlags::SEAL)
}

/// The file's place in a guest's own file system holds its content: programs map such files.
pub(crate) fn is_kept(node: Node) -> bool {
    matches!(node, Node::File(path) if path.starts_with("/etc/"))
}

/// The name of the program whose arguments are these, as the kernel cuts it.
pub(crate) fn program(arguments: &[u8]) -> Vec<u8> {
    const LONGEST: usize = 15;
    let mut name = path_of(arguments).split_off(1);
    name.truncate(LONGEST);
    name
}

/// Where it would lie.
pub(crate) fn path_of(arguments: &[u8]) -> Vec<u8> {
    let name = arguments
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default();
    let name = name.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    [b"/", name].concat()
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
    Stat,
    Extended,
    Link,
}

impl Look {
    /// Call `number`, if it is one.
    pub(crate) fn of(number: u64) -> Option<Self> {
        let (kind, path) = match number as i64 {
            libc::SYS_access => (Kind::Access, 0),
            libc::SYS_faccessat | libc::SYS_faccessat2 => (Kind::Access, 1),
            libc::SYS_stat | libc::SYS_lstat => (Kind::Stat, 0),
            libc::SYS_newfstatat => (Kind::Stat, 1),
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
        Node::File(path) => 16 + place(path) as u64,
        Node::Program => 1,
        Node::Terminal => 2,
        Node::Descriptor(_) => 3,
    }
}

/// `struct stat` of a node that no descriptor stands for.
pub(crate) fn stat(node: Node) -> [u8; 144] {
    const FILE: u32 = libc::S_IFREG | 0o444;
    const LINK: u32 = libc::S_IFLNK | 0o777;
    const DEVICE: u32 = libc::S_IFCHR | 0o666;
    let (mode, device) = match node {
        Node::File(_) => (FILE, 0u64),
        Node::Program | Node::Descriptor(_) => (LINK, 0),
        Node::Terminal => (DEVICE, 5 << 8),
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

/// `struct statx` of it.
pub(crate) fn statx(node: Node) -> [u8; 256] {
    /// Kind, mode, links, owner, inode, size and blocks.
    const KNOWN: u32 = 0x71f;
    let stat = stat(node);
    let mut bytes = [0; 256];
    bytes[0..4].copy_from_slice(&KNOWN.to_le_bytes());
    bytes[4..8].copy_from_slice(&4096u32.to_le_bytes());
    bytes[16..20].copy_from_slice(&stat[16..20]);
    bytes[28..30].copy_from_slice(&stat[24..26]);
    bytes[32..40].copy_from_slice(&stat[8..16]);
    if node == Node::Terminal {
        bytes[128..132].copy_from_slice(&5u32.to_le_bytes());
    }
    bytes
}

/// What `access` says of a node.
pub(crate) fn access(node: Node, mode: u64) -> Result<(), Errno> {
    const EXECUTE: u64 = libc::X_OK as u64;
    const WRITE: u64 = libc::W_OK as u64;
    match node {
        Node::File(_) if mode & (EXECUTE | WRITE) != 0 => Err(Errno::ACCESS),
        _ => Ok(()),
    }
}

/// What `readlink` says of a node: of a descriptor nothing is known by its name.
pub(crate) fn link(node: Node, guest: &mut dyn Guest) -> Result<Vec<u8>, Errno> {
    match node {
        Node::Program => Ok(path_of(&guest.text(Text::Arguments))),
        Node::File(_) | Node::Terminal => Err(Errno::INVAL),
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
        for (path, node) in [
            ("/proc/self/maps", Some(Node::File("/proc/self/maps"))),
            (
                "//proc/./self/../7/maps",
                Some(Node::File("/proc/self/maps")),
            ),
            (
                "/proc/thread-self/comm",
                Some(Node::File("/proc/self/comm")),
            ),
            (
                "/proc/self/task/7/stat",
                Some(Node::File("/proc/self/stat")),
            ),
            ("/proc/8/maps", None),
            ("/proc/self/exe", Some(Node::Program)),
            ("/dev/stdout", Some(Node::Descriptor(1))),
            ("/dev/fd/12", Some(Node::Descriptor(12))),
            ("/proc/self/fd/+1", None),
            ("/proc/self/fd/4294967296", None),
            ("/dev/tty", Some(Node::Terminal)),
            (
                "/sys/devices/system/cpu/online",
                Some(Node::File("/sys/devices/system/cpu/online")),
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

    #[test]
    fn files_can_be_read_alone() {
        assert_eq!(may_open(OFlags::RDONLY | OFlags::CLOEXEC), Ok(()));
        assert_eq!(may_open(OFlags::RDONLY | OFlags::CREATE), Ok(()));
        assert_eq!(may_open(OFlags::RDWR), Err(Errno::ACCESS));
        assert_eq!(may_open(OFlags::CREATE | OFlags::EXCL), Err(Errno::EXIST));
        assert_eq!(may_open(OFlags::DIRECTORY), Err(Errno::NOTDIR));
        let file = open(b"said\n", true).unwrap();
        assert_eq!(rustix::io::write(&file, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 9), Err(Errno::PERM));
        let mut read = [0; 9];
        assert_eq!(rustix::io::read(&file, &mut read), Ok(5));
        assert_eq!(&read[..5], b"said\n");
    }

    /// A guest of which everything is zero.
    struct Nobody;

    impl Guest for Nobody {
        fn memory(&self) -> u64 {
            64 << 20
        }
        fn free(&mut self) -> u64 {
            48 << 20
        }
        fn resident(&mut self) -> u64 {
            16 << 20
        }
        fn process(&self) -> i32 {
            7
        }
        fn thread(&self) -> i32 {
            7
        }
        fn threads(&self) -> usize {
            1
        }
        fn name(&mut self) -> Vec<u8> {
            b"nobody".to_vec()
        }
        fn text(&mut self, _: Text) -> Vec<u8> {
            b"/bin/nobody\0-x\0".to_vec()
        }
        fn areas(&mut self) -> Vec<Area> {
            vec![Area {
                start: 0x40_0000,
                end: 0x50_0000,
                protection: Protection {
                    read: true,
                    write: false,
                    execute: true,
                },
                shared: false,
                offset: 0,
                name: "/nobody".to_owned(),
            }]
        }
        fn processor_time(&mut self) -> u64 {
            1_500_000_000
        }
        fn started(&self) -> Timespec {
            Timespec::default()
        }
        fn limit(&mut self, _: u64) -> [u64; 2] {
            [8 << 20, u64::MAX]
        }
        fn boot(&mut self) -> [u8; 16] {
            [7; 16]
        }
    }

    fn said(path: &str) -> String {
        String::from_utf8(content(path, &mut Nobody)).unwrap()
    }

    #[test]
    fn every_file_says_something_and_the_list_is_in_order() {
        assert!(FILES.lines().is_sorted());
        for path in files() {
            assert!(!said(path).is_empty(), "{path}");
        }
    }

    #[test]
    fn files_have_the_forms_that_programs_read() {
        let stat = said("/proc/self/stat");
        let fields: Vec<_> = stat.trim().split(' ').collect();
        assert_eq!(fields.len(), 52);
        // Processor time, size and pages of memory: fields 14, 23 and 24 of proc(5).
        assert_eq!(fields[..4], ["7", "(nobody)", "R", "0"]);
        assert_eq!(
            [fields[13], fields[22], fields[23]],
            ["150", "1048576", "4096"]
        );
        let maps = said("/proc/self/maps");
        assert!(
            maps.starts_with("00400000-00500000 r-xp 00000000 00:00 0 "),
            "{maps}"
        );
        assert_eq!(maps.trim_end().rfind("/nobody"), Some(73), "{maps}");
        let status = said("/proc/self/status");
        assert!(status.contains("\nVmRSS:\t   16384 kB\n"), "{status}");
        let memory = said("/proc/meminfo");
        assert!(
            memory.starts_with("MemTotal:          65536 kB\nMemFree:           49152 kB\n"),
            "{memory}"
        );
        let limits = said("/proc/self/limits");
        assert!(
            limits.contains(
                "Max stack size            8388608              unlimited            bytes"
            ),
            "{limits}"
        );
        assert_eq!(said("/proc/self/statm"), "256 4096 0 0 0 4096 0\n");
        assert_eq!(path_of(b"/bin/nobody\0"), b"/nobody");
        assert_eq!(program(b"a-name-that-is-long\0"), b"a-name-that-is-");
    }
}
