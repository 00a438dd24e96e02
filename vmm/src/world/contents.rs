//! What the files of [`super::small`] say, made when one is opened: of a machine with the guest's processors and
//! memory, and of the guest's only process. The forms are those of proc(5) and sysfs(5).

use std::fmt::Write as _;

use super::guest::{Guest, Text};

const PAGE: u64 = 4096;
/// Ticks of a clock in a second that programs are told of (`sysconf(_SC_CLK_TCK)`).
const TICKS: u64 = 100;
const RELEASE: &str = "6.1.0";
const VERSION: &str = "#1 poolvmm";

/// What the file at `path`, of [`super::small::FILES`], says, of `thread` if it is about one.
pub(super) fn of(path: &str, thread: i32, guest: &mut dyn Guest) -> Option<Vec<u8>> {
    if let Some(text) = fixed(path) {
        return Some(text.into_bytes());
    }
    let processors = guest.processors();
    let text = match path {
        "/proc/cpuinfo" => cpuinfo(processors),
        "/sys/devices/system/cpu/online"
        | "/sys/devices/system/cpu/possible"
        | "/sys/devices/system/cpu/present" => format!("{}\n", all(processors)),
        "/sys/devices/system/cpu/kernel_max" => format!("{}\n", processors - 1),
        "/sys/fs/cgroup/cpu.max" => format!("{} 100000\n", 100_000 * processors),
        "/proc/uptime" => uptime(guest),
        "/proc/loadavg" => {
            let threads = guest.threads();
            let last = threads.last().copied().unwrap_or(guest.process());
            format!("0.00 0.00 0.00 1/{} {last}\n", threads.len())
        }
        "/proc/meminfo" => meminfo(guest),
        "/proc/stat" => machine(guest),
        "/proc/sys/kernel/random/uuid" => format!("{}\n", uuid(guest.random())),
        "/proc/sys/kernel/random/boot_id" => format!("{}\n", uuid(guest.boot())),
        "/proc/self/maps" => maps(guest),
        "/proc/self/status" => status(thread, guest),
        "/proc/self/stat" => process(thread, guest),
        "/proc/self/statm" => {
            let (size, resident) = (size(guest) / PAGE, guest.resident() / PAGE);
            format!("{size} {resident} 0 0 0 {resident} 0\n")
        }
        "/proc/self/limits" => limits(guest),
        "/proc/self/comm" => return Some([&guest.name(thread)[..], b"\n"].concat()),
        "/proc/self/cmdline" => return Some(guest.text(Text::Arguments)),
        "/proc/self/environ" => return Some(guest.text(Text::Environment)),
        "/proc/self/auxv" => return Some(guest.text(Text::Auxiliary)),
        "/sys/fs/cgroup/memory.max" => format!("{}\n", guest.memory()),
        "/sys/fs/cgroup/memory.current" => format!("{}\n", guest.memory() - guest.free()),
        _ => return None,
    };
    Some(text.into_bytes())
}

/// The same, if it is so for every guest.
#[expect(clippy::match_same_arms, reason = "each file has its line")]
pub(super) fn fixed(path: &str) -> Option<String> {
    Some(match path {
        "/proc/version" => format!("Linux version {RELEASE} (poolvmm) {VERSION}\n"),
        "/proc/filesystems" => "nodev\tproc\nnodev\tsysfs\nnodev\ttmpfs\n".to_owned(),
        "/proc/mounts" | "/proc/self/mounts" => MOUNTS.to_owned(),
        "/proc/self/mountinfo" => MOUNT_INFORMATION.to_owned(),
        "/proc/sys/kernel/ostype" => "Linux\n".to_owned(),
        "/proc/sys/kernel/osrelease" => format!("{RELEASE}\n"),
        "/proc/sys/kernel/version" => format!("{VERSION}\n"),
        "/proc/sys/kernel/hostname" => "poolvmm\n".to_owned(),
        "/proc/sys/kernel/pid_max" => "4194304\n".to_owned(),
        "/proc/sys/kernel/threads-max" => "4096\n".to_owned(),
        "/proc/sys/kernel/ngroups_max" => "65536\n".to_owned(),
        "/proc/sys/kernel/cap_last_cap" => "40\n".to_owned(),
        "/proc/sys/kernel/random/entropy_avail" => "256\n".to_owned(),
        "/proc/sys/vm/overcommit_memory" => "0\n".to_owned(),
        "/proc/sys/vm/max_map_count" => "65530\n".to_owned(),
        "/proc/sys/net/core/somaxconn" => "4096\n".to_owned(),
        "/proc/sys/net/ipv4/ip_local_port_range" => "32768\t60999\n".to_owned(),
        "/proc/sys/fs/file-max" | "/proc/sys/fs/nr_open" => {
            format!("{}\n", crate::descriptors::MOST)
        }
        "/proc/self/cgroup" => "0::/\n".to_owned(),
        "/proc/self/oom_score_adj" | "/proc/self/oom_score" => "0\n".to_owned(),
        "/sys/kernel/mm/transparent_hugepage/enabled" => "always [madvise] never\n".to_owned(),
        "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size" => "2097152\n".to_owned(),
        "/sys/fs/cgroup/cgroup.controllers" => "cpu memory\n".to_owned(),
        "/sys/fs/cgroup/memory.high" => "max\n".to_owned(),
        "/sys/fs/cgroup/memory.swap.max" => "0\n".to_owned(),
        "/etc/passwd" => passwd(),
        "/etc/group" => group(),
        "/etc/hostname" => "poolvmm\n".to_owned(),
        "/etc/hosts" => "127.0.0.1 localhost poolvmm\n::1 localhost\n".to_owned(),
        "/etc/nsswitch.conf" => {
            "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"
                .to_owned()
        }
        "/etc/services" => SERVICES.to_owned(),
        "/etc/protocols" => PROTOCOLS.to_owned(),
        "/etc/localtime" => UTC.to_owned(),
        _ => return None,
    })
}

const MOUNTS: &str = "none / tmpfs rw,nosuid,nodev 0 0\n\
proc /proc proc ro,nosuid,nodev,noexec 0 0\n\
sysfs /sys sysfs ro,nosuid,nodev,noexec 0 0\n\
cgroup2 /sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec 0 0\n";

const MOUNT_INFORMATION: &str = "1 0 0:1 / / rw,nosuid,nodev - tmpfs none rw\n\
2 1 0:2 / /proc ro,nosuid,nodev,noexec - proc proc ro\n\
3 1 0:3 / /sys ro,nosuid,nodev,noexec - sysfs sysfs ro\n\
4 3 0:4 / /sys/fs/cgroup ro,nosuid,nodev,noexec - cgroup2 cgroup2 ro\n";

const SERVICES: &str = "ftp-data 20/tcp\nftp 21/tcp\nssh 22/tcp\ntelnet 23/tcp\nsmtp 25/tcp\ndomain 53/tcp\n\
domain 53/udp\nbootps 67/udp\nbootpc 68/udp\ntftp 69/udp\nhttp 80/tcp www\nntp 123/udp\nimap2 143/tcp imap\n\
snmp 161/udp\nldap 389/tcp\nhttps 443/tcp\nhttps 443/udp\nsyslog 514/udp\nsubmission 587/tcp\nimaps 993/tcp\n\
mysql 3306/tcp\npostgresql 5432/tcp\nredis 6379/tcp\n";

const PROTOCOLS: &str =
    "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6 41 IPv6\nipv6-icmp 58 IPv6-ICMP\n";

/// The time zone file (RFC 9636) of UTC: twice a header that counts one type of local time and a name of
/// four bytes, the type, and the name; and the rule for all times.
const UTC: &str = "TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\
\0\0\0\0\0\0UTC\0\
TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\
\0\0\0\0\0\0UTC\0\
\nUTC0\n";

/// Who a guest is has a name, whoever runs the VMM.
fn passwd() -> String {
    let mut text = String::from(
        "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    );
    let (user, group) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if ![0, 65534].contains(&user) {
        let _ = writeln!(text, "guest:x:{user}:{group}:guest:/:/sbin/nologin");
    }
    text
}

fn group() -> String {
    let mut text = String::from("root:x:0:\nnogroup:x:65534:\n");
    let group = rustix::process::getgid().as_raw();
    if ![0, 65534].contains(&group) {
        let _ = writeln!(text, "guest:x:{group}:");
    }
    text
}

fn uptime(guest: &mut dyn Guest) -> String {
    let up = guest.uptime();
    let hundredths = up.tv_nsec / 10_000_000;
    format!("{0}.{1:02} {0}.{1:02}\n", up.tv_sec, hundredths)
}

fn meminfo(guest: &mut dyn Guest) -> String {
    let (total, free) = (guest.memory() >> 10, guest.free() >> 10);
    let used = total - free;
    let mut text = String::new();
    for (name, amount) in [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
        ("Hugepagesize", 2048),
    ] {
        let _ = writeln!(text, "{:<16}{amount:>8} kB", format!("{name}:"));
    }
    text
}

/// So many processors, as a list of them is written.
fn all(processors: usize) -> String {
    match processors {
        1 => "0".to_owned(),
        several => format!("0-{}", several - 1),
    }
}

/// The processors by CPUID, as a guest finds them itself.
fn cpuinfo(processors: usize) -> String {
    let leaf = std::arch::x86_64::__cpuid;
    let zero = leaf(0);
    let vendor = [zero.ebx, zero.edx, zero.ecx].map(u32::to_le_bytes);
    let one = leaf(1);
    let base_family = one.eax >> 8 & 15;
    let family = match base_family {
        15 => base_family + (one.eax >> 20 & 0xff),
        _ => base_family,
    };
    let model = match base_family {
        6 | 15 => (one.eax >> 4 & 15) | (one.eax >> 12 & 0xf0),
        _ => one.eax >> 4 & 15,
    };
    let mut name = Vec::new();
    if leaf(0x8000_0000).eax >= 0x8000_0004 {
        for number in 0x8000_0002..=0x8000_0004 {
            let part = leaf(number);
            let words = [part.eax, part.ebx, part.ecx, part.edx].map(u32::to_le_bytes);
            name.extend_from_slice(words.as_flattened());
        }
    }
    let name = String::from_utf8_lossy(&name);
    let of = |number| {
        format!(
            "processor\t: {number}\nvendor_id\t: {}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {}\n\
             stepping\t: {}\nphysical id\t: 0\nsiblings\t: {processors}\ncore id\t\t: {number}\n\
             cpu cores\t: {processors}\nflags\t\t:{}\n\n",
            String::from_utf8_lossy(vendor.as_flattened()),
            name.trim_matches(['\0', ' ']),
            one.eax & 15,
            flags([one.edx, one.ecx]),
        )
    };
    (0..processors).map(of).collect()
}

/// Those that programs ask for by name.
fn flags([edx, ecx]: [u32; 2]) -> String {
    const EDX: [(u32, &str); 6] = [
        (0, "fpu"),
        (4, "tsc"),
        (8, "cx8"),
        (15, "cmov"),
        (25, "sse"),
        (26, "sse2"),
    ];
    const ECX: [(u32, &str); 9] = [
        (0, "pni"),
        (1, "pclmulqdq"),
        (9, "ssse3"),
        (12, "fma"),
        (19, "sse4_1"),
        (20, "sse4_2"),
        (23, "popcnt"),
        (25, "aes"),
        (28, "avx"),
    ];
    let edx = EDX.iter().filter(|(bit, _)| edx >> bit & 1 != 0);
    let ecx = ECX.iter().filter(|(bit, _)| ecx >> bit & 1 != 0);
    edx.chain(ecx).flat_map(|(_, name)| [" ", *name]).collect()
}

fn machine(guest: &mut dyn Guest) -> String {
    let (user, system) = ticks(guest);
    let up = guest.uptime();
    let all = up.tv_sec as u64 * TICKS + up.tv_nsec as u64 / 10_000_000;
    let processors = guest.processors();
    let idle = (all * processors as u64).saturating_sub(user + system);
    // Which of them it ran on nobody counts: the first.
    let mut each = format!(
        "cpu0 {user} 0 {system} {} 0 0 0 0 0 0\n",
        all.saturating_sub(user + system)
    );
    for number in 1..processors {
        let _ = writeln!(each, "cpu{number} 0 0 0 {all} 0 0 0 0 0 0");
    }
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    format!(
        "cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n{each}intr 0\nctxt 0\n\
         btime {}\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n",
        now - up.tv_sec
    )
}

/// Processor time of the guest: of itself, and of its kernel.
fn ticks(guest: &mut dyn Guest) -> (u64, u64) {
    let nanoseconds = guest.processor_time();
    (nanoseconds / (1_000_000_000 / TICKS), 0)
}

fn size(guest: &mut dyn Guest) -> u64 {
    guest.areas().iter().map(|area| area.end - area.start).sum()
}

fn maps(guest: &mut dyn Guest) -> String {
    let mut text = String::new();
    for area in guest.areas() {
        let right = |allowed, letter| if allowed { letter } else { '-' };
        let p = area.protection;
        let line = format!(
            "{:08x}-{:08x} {}{}{}{} {:08x} 00:00 0 ",
            area.start,
            area.end,
            right(p.read, 'r'),
            right(p.write, 'w'),
            right(p.execute, 'x'),
            if area.shared { 's' } else { 'p' },
            area.offset,
        );
        if area.name.is_empty() {
            let _ = writeln!(text, "{line}");
        } else {
            let _ = writeln!(text, "{line:<72} {}", area.name);
        }
    }
    text
}

fn status(thread: i32, guest: &mut dyn Guest) -> String {
    let kib = |bytes: u64| format!("{:>8} kB", bytes >> 10);
    let (size, resident) = (kib(size(guest)), kib(guest.resident()));
    let name = String::from_utf8_lossy(&guest.name(thread)).into_owned();
    let (process, threads) = (guest.process(), guest.threads().len());
    let parent = guest.parent();
    let user = rustix::process::getuid().as_raw();
    let group = rustix::process::getgid().as_raw();
    let none = "0000000000000000";
    let processors = guest.processors();
    let (mask, list) = (u64::MAX >> (64 - processors), all(processors));
    format!(
        "Name:\t{name}\nUmask:\t0022\nState:\tR (running)\nTgid:\t{process}\nNgid:\t0\nPid:\t{thread}\n\
         PPid:\t{parent}\nTracerPid:\t0\nUid:\t{user}\t{user}\t{user}\t{user}\nGid:\t{group}\t{group}\t{group}\t{group}\n\
         FDSize:\t64\nGroups:\t \nVmPeak:\t{size}\nVmSize:\t{size}\nVmLck:\t{0}\nVmPin:\t{0}\nVmHWM:\t{resident}\n\
         VmRSS:\t{resident}\nRssAnon:\t{resident}\nRssFile:\t{0}\nRssShmem:\t{0}\nVmSwap:\t{0}\n\
         Threads:\t{threads}\nCapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nCapAmb:\t{none}\n\
         NoNewPrivs:\t1\nSeccomp:\t0\nCpus_allowed:\t{mask:x}\nCpus_allowed_list:\t{list}\nMems_allowed:\t1\n\
         Mems_allowed_list:\t0\n",
        kib(0)
    )
}

/// `/proc/self/stat`: 52 fields.
fn process(thread: i32, guest: &mut dyn Guest) -> String {
    let name = String::from_utf8_lossy(&guest.name(thread)).into_owned();
    let (user, system) = ticks(guest);
    let (process, threads) = (guest.process(), guest.threads().len());
    let (size, resident) = (size(guest), guest.resident() / PAGE);
    let started = guest.started();
    let started = started.tv_sec as u64 * TICKS + started.tv_nsec as u64 / 10_000_000;
    let (parent, nice) = (guest.parent(), guest.nice(thread));
    let priority = 20 + nice;
    format!(
        "{thread} ({name}) R {parent} {process} {process} 0 -1 4194304 0 0 0 0 {user} {system} 0 0 {priority} {nice} {threads} 0 \
         {started} {size} {resident} {limit} 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        limit = u64::MAX
    )
}

fn limits(guest: &mut dyn Guest) -> String {
    const NAMES: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let mut text = format!(
        "{:<25} {:<20} {:<20} {:<10}\n",
        "Limit", "Soft Limit", "Hard Limit", "Units"
    );
    for (number, (name, unit)) in NAMES.iter().enumerate() {
        let [soft, hard] = guest.limit(number as u64).map(|limit| match limit {
            u64::MAX => "unlimited".to_owned(),
            limit => limit.to_string(),
        });
        let _ = writeln!(text, "{name:<25} {soft:<20} {hard:<20} {unit:<10}");
    }
    text
}

/// Version 4 of RFC 9562.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_zone_has_the_form_of_its_counts() {
        const HEADER: usize = 44;
        let block = HEADER + 6 + "UTC\0".len();
        for start in [0, block] {
            let header = &UTC.as_bytes()[start..start + HEADER];
            assert_eq!(&header[..5], b"TZif2");
            let counts: Vec<u32> = header[20..]
                .chunks(4)
                .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
                .collect();
            assert_eq!(counts, [0, 0, 0, 0, 1, 4]);
        }
        assert_eq!(&UTC[2 * block..], "\nUTC0\n");
    }

    #[test]
    fn identifiers_have_their_form() {
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    }
}
