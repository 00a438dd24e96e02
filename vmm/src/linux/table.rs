//! Every system call that is served: its number, its handler, and what the process platform does.
//!
//! `SYSCALLS.md` is this table for people; a test keeps the two equal.

use std::fmt;

use super::{Handler, file, futex, memory, path, process, signal, system, thread, time, timer};

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Open descriptors.
    File,
    /// Names of files.
    Path,
    /// Memory.
    Memory,
    /// Signals.
    Signal,
    /// Time.
    Time,
    /// The process itself.
    Process,
    /// The machine.
    System,
}

/// What the process platform does with a call, so that it serves what the handlers serve. Its filter
/// decides by number and arguments; what it cannot tell, the monitor is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// The host kernel serves it.
    Allowed,
    /// The monitor answers as it does under KVM: the host's name and memory are not a guest's business.
    Monitor,
    /// The host kernel serves it if a directory was granted; otherwise no file exists.
    Files,
    /// As `Files`; without a grant the monitor serves an empty path, which means an open descriptor.
    FilesOrEmpty,
    /// As `Files`, but unknown without a grant: C libraries then use a call that is `FilesOrEmpty`.
    FilesOrUnserved,
    /// As `Files`, and what it makes cannot have a set-user-ID or set-group-ID bit.
    Create {
        /// Argument that holds the flags.
        flags: u32,
        /// Argument that holds the mode.
        mode: u32,
    },
    /// Only if a directory was granted, and no set-user-ID or set-group-ID bit.
    Mode,
    /// Only if a directory was granted.
    Owner,
    /// Only the settings and the size of a terminal.
    Terminal,
    /// Only if its target is the guest itself.
    OwnProcess,
    /// Only one's own limits, and only to read them.
    OwnLimits,
    /// Only one's own processors: others' would tell which processes there are.
    OwnAffinity,
    /// Only the name of the thread.
    ThreadName,
    /// Only FS and GS base.
    ThreadPointer,
    /// Only duplicates, flags and record locks: nothing that sends signals.
    Descriptor,
    /// Only waiting and waking.
    Wait,
    /// The monitor makes plain private memory of shared anonymous memory, areas that grow and huge
    /// pages: in one process it is the same, and it counts. It counts what the guest has before each but
    /// a reservation where the kernel likes.
    Mapping,
    /// The monitor counts what the guest has.
    Move,
    /// The monitor counts what the guest has.
    Protection,
    /// Only advice that the handlers know too.
    Advice,
    /// It fails with `ENOSYS`.
    Unserved,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { .. } => f.write_str("Create"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// A call that is served.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Its number on x86-64.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// `None` where only the process platform serves it.
    pub(super) handler: Option<Handler>,
    /// What it is about.
    pub topic: Topic,
    /// What the process platform does.
    pub process: Process,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, self.number)
    }
}

const fn call(
    number: u64,
    name: &'static str,
    handler: Handler,
    topic: Topic,
    process: Process,
) -> Entry {
    Entry {
        number,
        name,
        handler: Some(handler),
        topic,
        process,
    }
}

/// A call that the monitor does not serve.
const fn process_only(number: u64, name: &'static str, topic: Topic, process: Process) -> Entry {
    Entry {
        number,
        name,
        handler: None,
        topic,
        process,
    }
}

/// The calls, by number.
#[rustfmt::skip]
pub const CALLS: [Entry; 117] = [
    call(0, "read", file::read, Topic::File, Process::Allowed),
    call(1, "write", file::write, Topic::File, Process::Allowed),
    call(2, "open", path::open, Topic::Path, Process::Create { flags: 1, mode: 2 }),
    call(3, "close", file::close, Topic::File, Process::Allowed),
    call(4, "stat", path::stat, Topic::Path, Process::Files),
    call(5, "fstat", file::fstat, Topic::File, Process::Allowed),
    call(6, "lstat", path::lstat, Topic::Path, Process::Files),
    call(7, "poll", file::poll, Topic::File, Process::Allowed),
    call(8, "lseek", file::lseek, Topic::File, Process::Allowed),
    call(9, "mmap", memory::mmap, Topic::Memory, Process::Mapping),
    call(10, "mprotect", memory::mprotect, Topic::Memory, Process::Protection),
    call(11, "munmap", memory::munmap, Topic::Memory, Process::Allowed),
    call(12, "brk", memory::brk, Topic::Memory, Process::Allowed),
    call(13, "rt_sigaction", signal::rt_sigaction, Topic::Signal, Process::Allowed),
    call(14, "rt_sigprocmask", signal::rt_sigprocmask, Topic::Signal, Process::Allowed),
    call(15, "rt_sigreturn", signal::rt_sigreturn, Topic::Signal, Process::Allowed),
    call(16, "ioctl", file::ioctl, Topic::File, Process::Terminal),
    call(17, "pread64", file::pread64, Topic::File, Process::Allowed),
    call(18, "pwrite64", file::pwrite64, Topic::File, Process::Allowed),
    call(19, "readv", file::readv, Topic::File, Process::Allowed),
    call(20, "writev", file::writev, Topic::File, Process::Allowed),
    call(21, "access", path::access, Topic::Path, Process::Files),
    call(24, "sched_yield", thread::sched_yield, Topic::System, Process::Allowed),
    call(25, "mremap", memory::mremap, Topic::Memory, Process::Move),
    call(28, "madvise", memory::madvise, Topic::Memory, Process::Advice),
    call(32, "dup", file::dup, Topic::File, Process::Allowed),
    call(33, "dup2", file::dup2, Topic::File, Process::Allowed),
    call(34, "pause", signal::pause, Topic::Signal, Process::Allowed),
    call(35, "nanosleep", time::nanosleep, Topic::Time, Process::Allowed),
    call(36, "getitimer", timer::getitimer, Topic::Time, Process::Unserved),
    call(37, "alarm", timer::alarm, Topic::Time, Process::Unserved),
    call(38, "setitimer", timer::setitimer, Topic::Time, Process::Unserved),
    call(39, "getpid", process::getpid, Topic::Process, Process::Allowed),
    call(56, "clone", thread::clone, Topic::Process, Process::Unserved),
    call(57, "fork", thread::fork, Topic::Process, Process::Unserved),
    call(58, "vfork", thread::fork, Topic::Process, Process::Unserved),
    call(59, "execve", thread::fork, Topic::Process, Process::Unserved),
    call(60, "exit", thread::exit, Topic::Process, Process::Allowed),
    call(62, "kill", signal::kill, Topic::Signal, Process::OwnProcess),
    call(63, "uname", system::uname, Topic::System, Process::Monitor),
    call(72, "fcntl", file::fcntl, Topic::File, Process::Descriptor),
    call(73, "flock", file::flock, Topic::File, Process::Allowed),
    call(74, "fsync", file::fsync, Topic::File, Process::Allowed),
    call(75, "fdatasync", file::fdatasync, Topic::File, Process::Allowed),
    call(76, "truncate", path::truncate, Topic::Path, Process::Files),
    call(77, "ftruncate", file::ftruncate, Topic::File, Process::Allowed),
    call(79, "getcwd", path::getcwd, Topic::Path, Process::Allowed),
    call(80, "chdir", path::chdir, Topic::Path, Process::Files),
    call(82, "rename", path::rename, Topic::Path, Process::Files),
    call(83, "mkdir", path::mkdir, Topic::Path, Process::Files),
    call(84, "rmdir", path::rmdir, Topic::Path, Process::Files),
    call(87, "unlink", path::unlink, Topic::Path, Process::Files),
    call(89, "readlink", path::readlink, Topic::Path, Process::Files),
    call(91, "fchmod", file::fchmod, Topic::File, Process::Mode),
    call(93, "fchown", file::fchown, Topic::File, Process::Owner),
    call(95, "umask", system::umask, Topic::System, Process::Allowed),
    call(96, "gettimeofday", time::gettimeofday, Topic::Time, Process::Allowed),
    call(97, "getrlimit", process::getrlimit, Topic::Process, Process::Allowed),
    call(98, "getrusage", system::getrusage, Topic::System, Process::Allowed),
    call(99, "sysinfo", system::sysinfo, Topic::System, Process::Monitor),
    call(100, "times", time::times, Topic::Time, Process::Allowed),
    call(102, "getuid", process::getuid, Topic::Process, Process::Allowed),
    call(104, "getgid", process::getgid, Topic::Process, Process::Allowed),
    call(107, "geteuid", process::geteuid, Topic::Process, Process::Allowed),
    call(108, "getegid", process::getegid, Topic::Process, Process::Allowed),
    call(110, "getppid", process::getppid, Topic::Process, Process::Allowed),
    call(111, "getpgrp", process::getpid, Topic::Process, Process::Allowed),
    call(127, "rt_sigpending", signal::rt_sigpending, Topic::Signal, Process::Unserved),
    call(128, "rt_sigtimedwait", signal::rt_sigtimedwait, Topic::Signal, Process::Unserved),
    call(129, "rt_sigqueueinfo", signal::rt_sigqueueinfo, Topic::Signal, Process::Unserved),
    call(130, "rt_sigsuspend", signal::rt_sigsuspend, Topic::Signal, Process::Unserved),
    call(131, "sigaltstack", signal::sigaltstack, Topic::Signal, Process::Allowed),
    call(157, "prctl", thread::prctl, Topic::Process, Process::ThreadName),
    call(158, "arch_prctl", thread::arch_prctl, Topic::Process, Process::ThreadPointer),
    call(160, "setrlimit", process::setrlimit, Topic::Process, Process::Unserved),
    call(186, "gettid", thread::gettid, Topic::Process, Process::Allowed),
    call(200, "tkill", signal::tkill, Topic::Signal, Process::OwnProcess),
    call(201, "time", time::time, Topic::Time, Process::Allowed),
    call(202, "futex", futex::futex, Topic::Process, Process::Wait),
    call(204, "sched_getaffinity", system::sched_getaffinity, Topic::System, Process::OwnAffinity),
    call(217, "getdents64", file::getdents64, Topic::File, Process::Allowed),
    call(218, "set_tid_address", thread::set_tid_address, Topic::Process, Process::Allowed),
    process_only(219, "restart_syscall", Topic::Time, Process::Allowed),
    call(222, "timer_create", timer::timer_create, Topic::Time, Process::Unserved),
    call(223, "timer_settime", timer::timer_settime, Topic::Time, Process::Unserved),
    call(224, "timer_gettime", timer::timer_gettime, Topic::Time, Process::Unserved),
    call(225, "timer_getoverrun", timer::timer_getoverrun, Topic::Time, Process::Unserved),
    call(226, "timer_delete", timer::timer_delete, Topic::Time, Process::Unserved),
    call(228, "clock_gettime", time::clock_gettime, Topic::Time, Process::Allowed),
    call(229, "clock_getres", time::clock_getres, Topic::Time, Process::Allowed),
    call(230, "clock_nanosleep", time::clock_nanosleep, Topic::Time, Process::Allowed),
    call(231, "exit_group", thread::exit_group, Topic::Process, Process::Allowed),
    call(234, "tgkill", signal::tgkill, Topic::Signal, Process::OwnProcess),
    call(257, "openat", path::openat, Topic::Path, Process::Create { flags: 2, mode: 3 }),
    call(258, "mkdirat", path::mkdirat, Topic::Path, Process::Files),
    call(262, "newfstatat", path::newfstatat, Topic::Path, Process::FilesOrEmpty),
    call(263, "unlinkat", path::unlinkat, Topic::Path, Process::Files),
    call(264, "renameat", path::renameat, Topic::Path, Process::Files),
    call(267, "readlinkat", path::readlinkat, Topic::Path, Process::Files),
    call(269, "faccessat", path::faccessat, Topic::Path, Process::Files),
    call(271, "ppoll", file::ppoll, Topic::File, Process::Allowed),
    call(273, "set_robust_list", thread::set_robust_list, Topic::Process, Process::Allowed),
    call(274, "get_robust_list", thread::get_robust_list, Topic::Process, Process::Unserved),
    call(280, "utimensat", path::utimensat, Topic::Path, Process::Files),
    call(285, "fallocate", file::fallocate, Topic::File, Process::Allowed),
    call(292, "dup3", file::dup3, Topic::File, Process::Allowed),
    call(297, "rt_tgsigqueueinfo", signal::rt_tgsigqueueinfo, Topic::Signal, Process::Unserved),
    call(302, "prlimit64", process::prlimit64, Topic::Process, Process::OwnLimits),
    call(309, "getcpu", thread::getcpu, Topic::System, Process::Unserved),
    call(316, "renameat2", path::renameat2, Topic::Path, Process::Files),
    call(318, "getrandom", system::getrandom, Topic::System, Process::Allowed),
    call(322, "execveat", thread::fork, Topic::Process, Process::Unserved),
    call(324, "membarrier", thread::membarrier, Topic::Process, Process::Unserved),
    call(332, "statx", path::statx, Topic::Path, Process::FilesOrUnserved),
    call(435, "clone3", thread::clone3, Topic::Process, Process::Unserved),
    call(436, "close_range", file::close_range, Topic::File, Process::Allowed),
    call(439, "faccessat2", path::faccessat2, Topic::Path, Process::Files),
];

/// Position of call `number` in [`CALLS`].
pub fn find(number: u64) -> Option<usize> {
    CALLS.binary_search_by_key(&number, |call| call.number).ok()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn calls_are_sorted_so_that_they_can_be_found() {
        assert!(CALLS.is_sorted_by(|a, b| a.number < b.number));
        for (at, call) in CALLS.iter().enumerate() {
            assert_eq!(find(call.number), Some(at));
        }
        assert_eq!(find(335), None);
    }

    #[test]
    fn the_document_lists_exactly_these_calls() {
        let document = include_str!("../../SYSCALLS.md");
        let mut table = String::new();
        for call in CALLS {
            let (number, name) = (call.number, call.name);
            let (topic, process) = (call.topic, call.process);
            let only = if call.handler.is_none() {
                ", not under KVM"
            } else {
                ""
            };
            writeln!(
                table,
                "| {number} | `{name}` | {topic:?} | {process}{only} |"
            )
            .unwrap();
        }
        assert!(
            document.contains(&table),
            "SYSCALLS.md should hold:\n{table}"
        );
    }
}
