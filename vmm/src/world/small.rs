//! The small world: files that programs look for, made by the VMM when they are looked at, the same on both platforms.
//!
//! They are found by their path, as it is written (without `.`, `..` and doubled slashes). So they cost nothing
//! before that, and are there without any file system, too. Where a guest has a file system of its own, places without
//! content stand in it for most, to be listed and looked up, and to be known by however a path leads there
//! (`places`); and what was granted comes first.
//! A file is opened as memory that nobody can change, with what was true at that moment (`file`).

mod device;
mod file;
mod node;
mod places;

pub(crate) use self::device::Device;
pub(crate) use self::file::{Large, may_open, may_open_device, open};
pub(crate) use self::node::{Kind, Look, Node, Whose, access, find, link, stat, statx};
pub(crate) use self::places::{DESCRIPTORS, Listing, Place, Places, all as places, list};
use super::contents;
pub(crate) use super::guest::{Area, Guest, Text};

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

/// What the file `path` says now, of the thread that it is about.
pub(crate) fn content(path: &str, whose: Whose, guest: &mut dyn Guest) -> Vec<u8> {
    let thread = whose.thread(guest);
    contents::of(path, thread, guest).unwrap_or_default()
}

/// A guest's own file system has it: files that programs map, and devices.
pub(crate) fn is_kept(node: Node) -> bool {
    match node {
        Node::File(path, _) => path.starts_with("/etc/"),
        Node::Device(_) => true,
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use pool_core::address::Protection;
    use rustix::time::Timespec;

    use super::*;

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
        fn caller(&self) -> i32 {
            8
        }
        fn parent(&self) -> i32 {
            3
        }
        fn threads(&self) -> Vec<i32> {
            vec![7, 8]
        }
        fn name(&mut self, thread: i32) -> Vec<u8> {
            match thread {
                7 => b"nobody".to_vec(),
                _ => b"nobody-2".to_vec(),
            }
        }
        fn nice(&self, thread: i32) -> i32 {
            thread - 8
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
        fn processors(&self) -> usize {
            3
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
        String::from_utf8(content(path, Whose::Process, &mut Nobody)).unwrap()
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
        // Priority and nice value, processor time, size and pages of memory: fields 18, 19, 14, 23 and 24 of proc(5).
        assert_eq!(fields[..4], ["7", "(nobody)", "R", "3"]);
        assert_eq!(fields[17..19], ["19", "-1"]);
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
        let of = |whose| content("/proc/self/comm", whose, &mut Nobody);
        assert_eq!(of(Whose::Process), b"nobody\n");
        assert_eq!(of(Whose::Caller), b"nobody-2\n");
        assert_eq!(of(Whose::Thread(7)), b"nobody\n");
        assert_eq!(said("/proc/self/statm"), "256 4096 0 0 0 4096 0\n");
        assert_eq!(path_of(b"/bin/nobody\0"), b"/nobody");
        assert_eq!(program(b"a-name-that-is-long\0"), b"a-name-that-is-");
    }
}
