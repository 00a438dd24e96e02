//! The calls that the guest's filter asks its monitor about: those that the host kernel would answer with
//! what concerns the host, or serve without counting.
//!
//! The filter has read numbers and arguments; here the rest is read from registers and memory of the
//! stopped guest. Whatever the kernel is to go on with lies in registers, never in memory that somebody
//! could change meanwhile.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::limits::Limits;
use super::ptrace::{Registers, Tracee};
use crate::linux::system;

/// Longer than `/proc/PID/status` of somebody in very many groups.
const MOST_STATUS: usize = 64 << 10;

/// What happens next in a call that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The kernel serves it as it is.
    Serve,
    /// The kernel serves it with other registers; the guest's are put back at its end.
    ServeWith(Change),
    /// It is over: this is the result.
    Done(i64),
}

/// Another call than the guest's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// `fstat` of a descriptor to an address.
    Fstat(u64, u64),
    /// The same with other flags in its fourth argument.
    Flags(u64),
}

impl Change {
    /// `registers` of the call that is made instead.
    pub(super) fn of(self, mut registers: Registers) -> Registers {
        match self {
            Self::Fstat(descriptor, at) => {
                registers.orig_rax = libc::SYS_fstat as u64;
                registers.rdi = descriptor;
                registers.rsi = at;
            }
            Self::Flags(flags) => registers.r10 = flags,
        }
        registers
    }
}

/// Answers for one guest.
#[derive(Debug)]
pub(super) struct Calls {
    limits: Limits,
    /// No less than the bytes that the guest may access and that `RLIMIT_DATA` does not count.
    readable: u64,
    /// `/proc/PID/status`, and room for it, once they are needed.
    status: Option<(File, Vec<u8>)>,
}

impl Calls {
    /// For a guest within `limits`.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            // Nobody counted the image: the first call does.
            readable: limits.readable,
            status: None,
        }
    }

    /// What becomes of the call that `tracee` stopped in.
    pub(super) fn next(&mut self, tracee: Tracee, registers: &Registers) -> Next {
        match registers.orig_rax as i64 {
            libc::SYS_uname => written(tracee, registers.rdi, &system::identity()),
            libc::SYS_sysinfo => {
                let used = self.used(tracee).unwrap_or(self.limits.memory);
                let free = self.limits.memory.saturating_sub(used);
                let machine = system::machine(self.limits.memory, free);
                written(tracee, registers.rdi, &machine)
            }
            libc::SYS_newfstatat => match tracee.byte(registers.rsi) {
                Ok(0) => Next::ServeWith(Change::Fstat(registers.rdi, registers.rdx)),
                Ok(_) => Next::Done(-i64::from(libc::ENOENT)),
                Err(_) => Next::Done(-i64::from(libc::EFAULT)),
            },
            libc::SYS_fchmod | libc::SYS_fchown => {
                match is_standard(tracee, registers.rdi as u32) {
                    Ok(false) => Next::Serve,
                    Ok(true) => Next::Done(-i64::from(libc::EPERM)),
                    Err(_) => Next::Done(-i64::from(libc::EBADF)),
                }
            }
            // What cannot be counted is not allowed.
            libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_mremap => match self.used(tracee) {
                Some(used) if used <= self.limits.data && self.may_read(tracee, registers) => {
                    memory(registers)
                }
                _ => Next::Done(-i64::from(libc::ENOMEM)),
            },
            _ => Next::Done(-i64::from(libc::ENOSYS)),
        }
    }

    /// There is room for what a call about memory lets the guest read. Counting takes the longer the more
    /// areas there are, so it is done once what was asked for since the last time could be too much.
    fn may_read(&mut self, tracee: Tracee, registers: &Registers) -> bool {
        let more = newly_readable(registers);
        if more == 0 {
            return true;
        }
        let most = self.limits.readable;
        if self.readable.saturating_add(more) > most {
            match readable_of(tracee) {
                Some(now) if now.saturating_add(more) <= most => self.readable = now,
                _ => return false,
            }
        }
        self.readable += more;
        true
    }

    /// Bytes of memory that are the guest's own: in RAM, swapped out, and the tables to find them by.
    fn used(&mut self, tracee: Tracee) -> Option<u64> {
        let (status, text) = match &mut self.status {
            Some(status) => status,
            none => {
                let pid = tracee.0.as_raw_nonzero();
                let status = File::open(format!("/proc/{pid}/status")).ok()?;
                none.insert((status, vec![0; MOST_STATUS]))
            }
        };
        let length = status.read_at(text, 0).ok()?;
        used(std::str::from_utf8(&text[..length]).ok()?)
    }
}

/// The most bytes that become accessible by this call without counting as private writable memory.
fn newly_readable(registers: &Registers) -> u64 {
    let protection = registers.rdx as i32;
    let writable = protection & libc::PROT_WRITE != 0;
    let private = plain(registers.r10) & libc::MAP_TYPE as u64 == libc::MAP_PRIVATE as u64;
    match registers.orig_rax as i64 {
        libc::SYS_mremap => registers.rdx.saturating_sub(registers.rsi),
        _ if protection == libc::PROT_NONE => 0,
        libc::SYS_mmap if writable && private => 0,
        _ => registers.rsi,
    }
}

/// Counts the same of the areas that `tracee` has.
fn readable_of(tracee: Tracee) -> Option<u64> {
    let pid = tracee.0.as_raw_nonzero();
    readable(&std::fs::read(format!("/proc/{pid}/maps")).ok()?)
}

/// Sums the areas of `/proc/PID/maps` that can be accessed and are not private and writable, in bytes.
fn readable(maps: &[u8]) -> Option<u64> {
    let mut sum = 0;
    // The kernel writes a line's end in a file's name as `\012`.
    for line in maps
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let mut fields = line.split(|&byte| byte == b' ');
        let range = std::str::from_utf8(fields.next()?).ok()?;
        let (start, end) = range.split_once('-')?;
        let length = u64::from_str_radix(end, 16).ok()? - u64::from_str_radix(start, 16).ok()?;
        let counted = match fields.next()? {
            [b'-', b'-', b'-', _] | [_, b'w', _, b'p'] => 0,
            _ => length,
        };
        sum += counted;
    }
    Some(sum)
}

/// Sums what `/proc/PID/status` says of private memory, in bytes.
fn used(status: &str) -> Option<u64> {
    const OWN: [&str; 4] = ["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:"];
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let kib = |key| -> Option<u64> { line(key)?.trim().strip_suffix(" kB")?.parse().ok() };
    OWN.iter().map(|key| kib(key).map(|kib| kib << 10)).sum()
}

/// A call about memory that there is room for.
fn memory(registers: &Registers) -> Next {
    let flags = plain(registers.r10);
    if registers.orig_rax == libc::SYS_mmap as u64 && flags != registers.r10 {
        Next::ServeWith(Change::Flags(flags))
    } else {
        Next::Serve
    }
}

/// Whether the guest's `descriptor` is of one of the files that it was given as its standard input,
/// output and error. They are not in a grant: the guest may use them, and not change what they are.
fn is_standard(tracee: Tracee, descriptor: u32) -> std::io::Result<bool> {
    let identity = |pid: i32, descriptor: u32| -> std::io::Result<(u64, u64)> {
        let file = std::fs::metadata(format!("/proc/{pid}/fd/{descriptor}"))?;
        Ok((file.dev(), file.ino()))
    };
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let found = identity(tracee.0.as_raw_nonzero().get(), descriptor)?;
    Ok((0..3).any(|standard| identity(own, standard).is_ok_and(|given| given == found)))
}

fn written(tracee: Tracee, at: u64, bytes: &[u8]) -> Next {
    match tracee.write(at, bytes) {
        Ok(()) => Next::Done(0),
        Err(_) => Next::Done(-i64::from(libc::EFAULT)),
    }
}

/// `mmap` flags that mean the same to the only thread of the only process, and count against its limit.
fn plain(flags: u64) -> u64 {
    const ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;
    const TYPE: u64 = libc::MAP_TYPE as u64;
    const HUGE: u64 = libc::MAP_HUGETLB as u64 | 0x3f << libc::MAP_HUGE_SHIFT;
    let mut plain = flags & !(libc::MAP_GROWSDOWN as u64);
    if plain & libc::MAP_HUGETLB as u64 != 0 {
        plain &= !HUGE;
    }
    if plain & ANONYMOUS != 0 && plain & TYPE == libc::MAP_SHARED as u64 {
        plain = plain & !TYPE | libc::MAP_PRIVATE as u64;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_count_becomes_what_does() {
        for (flags, expected) in [
            (0x21, 0x22),
            // `MAP_SHARED_VALIDATE`, which the kernel does not take for anonymous memory.
            (0x23, 0x23),
            (0x31, 0x32),
            (0x122, 0x22),
            (0x4_0022, 0x22),
            (0x5404_0121, 0x22),
            (0x4_0001, 0x1),
            (0x22, 0x22),
        ] {
            assert_eq!(plain(flags), expected, "{flags:#x}");
        }
    }

    #[test]
    fn what_can_be_read_and_does_not_count_is_summed() {
        let maps = b"00400000-00402000 r-xp 00000000 00:21 7    /pool/\xff\\012\n\
                     00402000-00403000 rw-p 00000000 00:00 0 \n\
                     00403000-00404000 rw-s 00000000 00:21 8    /data/x\n\
                     00500000-50500000 ---p 00000000 00:00 0 \n\
                     ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]\n";
        assert_eq!(readable(maps), Some(0x4000));
        assert_eq!(readable(b"nothing of the kind\n"), None);
    }

    #[test]
    fn what_a_call_makes_readable() {
        // SAFETY: all zeros are a valid value of it.
        let mut registers: Registers = unsafe { std::mem::zeroed() };
        for (call, [rsi, rdx, r10], expected) in [
            (libc::SYS_mmap, [1 << 40, 0, 0x22], 0),
            (libc::SYS_mmap, [1 << 40, 1, 0x22], 1 << 40),
            (libc::SYS_mmap, [1 << 40, 3, 0x22], 0),
            (libc::SYS_mmap, [1 << 40, 3, 0x21], 0),
            (libc::SYS_mmap, [1 << 40, 3, 0x01], 1 << 40),
            (libc::SYS_mprotect, [1 << 40, 0, 0], 0),
            (libc::SYS_mprotect, [1 << 40, 3, 0], 1 << 40),
            (libc::SYS_mremap, [4096, 1 << 40, 1], (1 << 40) - 4096),
            (libc::SYS_mremap, [1 << 40, 4096, 1], 0),
        ] {
            (registers.orig_rax, registers.rsi) = (call as u64, rsi);
            (registers.rdx, registers.r10) = (rdx, r10);
            assert_eq!(
                newly_readable(&registers),
                expected,
                "{call} {rsi:#x} {rdx:#x}"
            );
        }
    }

    #[test]
    fn own_memory_is_summed() {
        let status = "Name:\tpoolvmm\nVmPTE:\t      44 kB\nRssAnon:\t     100 kB\n\
                      RssFile:\t  9 kB\nRssShmem:\t 2 kB\nVmSwap:\t       1 kB\n";
        assert_eq!(used(status), Some(147 << 10));
        assert_eq!(used("Name:\tpoolvmm\n"), None);
    }
}
