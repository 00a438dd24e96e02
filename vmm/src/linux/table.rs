//! Every system call that is served: its number, its handler, and what the process platform does.
//!
//! `SYSCALLS.md` is this table for people; a test keeps the two equal.

mod packed;

use std::fmt;

use self::packed::PACKED;
use super::dispatch::Arg;
use super::{
    Handler, advice, barrier, descriptor, futex, identity, limits, memory, poll, prctl, process,
    scheduling, signal, small, socket, socket_option, stream, system, thread, time, timer,
};

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Open descriptors.
    File,
    /// Names of files.
    Path,
    /// Memory.
    Memory,
    /// Sockets.
    Socket,
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
    /// As `Files`; without a grant the monitor knows of the small world alone.
    Look,
    /// As `Look`; without a grant the monitor serves an empty path, which means an open descriptor.
    FilesOrEmpty,
    /// As `Files`, but unknown without a grant: C libraries then use a call that is `FilesOrEmpty`.
    FilesOrUnserved,
    /// As `Files`, but the monitor looks for the small world first, grant or not; and what it makes cannot have a set-user-ID or set-group-ID bit.
    Create {
        /// Argument that holds the flags.
        flags: u32,
        /// Argument that holds the mode.
        mode: u32,
    },
    /// The same, where the flags are known.
    CreateAnew {
        /// Argument that holds the mode.
        mode: u32,
    },
    /// As `Files`, and no set-user-ID or set-group-ID bit in the argument of this number.
    PathMode(u32),
    /// As `PathMode`, of a file of any kind but a device.
    Node(u32),
    /// As `Files`, with no other flags (second) in the argument (first) than these.
    FileFlags(u32, u32),
    /// As `Files`; where an empty path or none stands for an open descriptor, as `Owner`; and a mode as
    /// `PathMode` has it.
    Change {
        /// Argument that holds the flags, if the call has some.
        flags: u32,
        /// Argument that holds the mode.
        mode: Option<u32>,
    },
    /// Only with `--net host`: local, IPv4 and IPv6 sockets.
    Network,
    /// Only with `--net host`, and asked about with `--bind`.
    Bind,
    /// Only with `--net host`, and asked about with `--connect`.
    Connect,
    /// The same if it names an address, at argument 4.
    Send,
    /// Asked about with `--connect`: whether it names an address lies in memory. Without `--net host` it opens no
    /// connection by that (`MSG_FASTOPEN`); its flags are in the argument of this number.
    SendMessage(u32),
    /// Only such sockets.
    SocketPair,
    /// Only the options of `socket_option`.
    SocketOption,
    /// Only if a directory was granted, and no set-user-ID or set-group-ID bit.
    Mode,
    /// Only if a directory was granted.
    Owner,
    /// Only the settings and the size of a terminal.
    Terminal,
    /// Only if its target is the guest itself.
    OwnProcess,
    /// The same, or its process group, which it is alone in.
    OwnGroup,
    /// One's own. That of core dumps is what the monitor says.
    GetLimit,
    /// The same. How far the stack grows the monitor sees to, since it is all there.
    SetLimit,
    /// Only one's own limits, by the number of any thread, as `GetLimit` and `SetLimit`.
    OwnLimits,
    /// Only if it is about a thread of the guest, of which the monitor knows: others would tell which
    /// processes there are.
    OwnThread,
    /// A clock of the machine, or of a thread of the guest.
    Clock,
    /// Only threads, as many as the monitor allows.
    Threads,
    /// Only FS and GS base.
    ThreadPointer,
    /// Only duplicates, flags and record locks: nothing that sends signals.
    Descriptor,
    /// In the one table of descriptors that all threads have.
    CloseRange,
    /// The host kernel serves it; of a guest with files, the monitor makes the lists of `/proc/self`.
    List,
    /// Every command.
    Wait,
    /// The monitor makes plain private memory of shared anonymous memory, areas that grow and huge
    /// pages: in one process it is the same, and it counts. It counts what the guest has before each but
    /// a reservation where the kernel likes.
    Mapping,
    /// The monitor notes how far it grows.
    Heap,
    /// The monitor counts what the guest has, and sees to it that pages of the pool stay where they are.
    Move,
    /// The monitor counts what the guest has.
    Protection,
    /// Only advice that the handlers know too.
    Advice,
    /// It fails with `ENOSYS`, and the VMM says at the guest's end that it asked to start a process.
    Starts,
    /// It fails with `ENOSYS`, on which C libraries make another call.
    Unserved,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { .. } | Self::CreateAnew { .. } => f.write_str("Create"),
            Self::PathMode(_) => f.write_str("PathMode"),
            Self::Node(_) => f.write_str("Node"),
            Self::SendMessage(_) => f.write_str("SendMessage"),
            Self::FileFlags(..) => f.write_str("FileFlags"),
            Self::Change { .. } => f.write_str("Change"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Who serves a call.
#[derive(Clone, Copy)]
pub(super) enum Server {
    /// The host's kernel, with these arguments.
    Host(&'static [Arg]),
    /// The same, once a disk has done something: other processors go on meanwhile. There are numbers and
    /// descriptors alone among the arguments.
    Disk(&'static [Arg]),
    /// The monitor.
    Monitor(Handler),
    /// The host's kernel, on the process platform alone.
    ProcessOnly,
}

/// A call that is served.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Its number on x86-64.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// Who serves it under KVM.
    pub(super) server: Server,
    /// What it is about.
    pub topic: Topic,
    /// What the process platform does.
    pub process: Process,
}

#[cfg(test)]
impl Entry {
    /// How many arguments the host's kernel gets, if it serves the call.
    pub(crate) fn host_arguments(&self) -> Option<usize> {
        match self.server {
            Server::Host(kinds) | Server::Disk(kinds) => Some(kinds.len()),
            _ => None,
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, self.number)
    }
}

const fn entry(
    number: u64,
    name: &'static str,
    server: Server,
    topic: Topic,
    process: Process,
) -> Entry {
    Entry {
        number,
        name,
        server,
        topic,
        process,
    }
}

/// A call that the monitor serves.
const fn call(
    number: u64,
    name: &'static str,
    handler: Handler,
    topic: Topic,
    process: Process,
) -> Entry {
    entry(number, name, Server::Monitor(handler), topic, process)
}

/// A call that the host's kernel serves.
const fn host(
    number: u64,
    name: &'static str,
    arguments: &'static [Arg],
    topic: Topic,
    process: Process,
) -> Entry {
    entry(number, name, Server::Host(arguments), topic, process)
}

/// A call that the host's kernel serves once a disk has done something.
const fn disk(
    number: u64,
    name: &'static str,
    arguments: &'static [Arg],
    topic: Topic,
    process: Process,
) -> Entry {
    entry(number, name, Server::Disk(arguments), topic, process)
}

/// A call that the monitor does not serve.
const fn process_only(number: u64, name: &'static str, topic: Topic, process: Process) -> Entry {
    entry(number, name, Server::ProcessOnly, topic, process)
}

/// `AT_SYMLINK_FOLLOW`: without a path's look-up, `AT_EMPTY_PATH` would name what a descriptor stands for.
const LINK: u32 = 0x400;
/// `RENAME_NOREPLACE` and `RENAME_EXCHANGE`: `RENAME_WHITEOUT` leaves a device.
const RENAME: u32 = 3;
const PIPE: u32 = (libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) as u32;

/// How many there are.
pub const COUNT: usize = LIST.len();

/// The calls, by number.
pub fn calls() -> impl ExactSizeIterator<Item = Entry> {
    PACKED.iter().map(|packed| packed.entry())
}

/// The call at position `at` of [`calls`], which is below [`COUNT`].
pub fn at(at: usize) -> Entry {
    PACKED[at].entry()
}

/// The calls, by number.
#[rustfmt::skip]
const LIST: &[Entry] = {
    use Arg::{Descriptor, Descriptors, Directory, Flags, Granted, In, InBytes, InOut, Mode, Node, Out, OutBytes,
        OutSized, OutText, Path, PathOrNull, PathToSee, Size, Text, Value};
    &[
    call(0, "read", stream::read, Topic::File, Process::Allowed),
    call(1, "write", stream::write, Topic::File, Process::Allowed),
    call(2, "open", descriptor::open, Topic::Path, Process::Create { flags: 1, mode: 2 }),
    call(3, "close", descriptor::close, Topic::File, Process::Allowed),
    host(4, "stat", &[Path, Out(144)], Topic::Path, Process::Look),
    host(5, "fstat", &[Descriptor, Out(144)], Topic::File, Process::Allowed),
    host(6, "lstat", &[Path, Out(144)], Topic::Path, Process::Look),
    call(7, "poll", poll::poll, Topic::File, Process::Allowed),
    host(8, "lseek", &[Descriptor, Value, Value], Topic::File, Process::Allowed),
    call(9, "mmap", memory::mmap, Topic::Memory, Process::Mapping),
    call(10, "mprotect", memory::mprotect, Topic::Memory, Process::Protection),
    call(11, "munmap", memory::munmap, Topic::Memory, Process::Allowed),
    call(12, "brk", memory::brk, Topic::Memory, Process::Heap),
    call(13, "rt_sigaction", signal::rt_sigaction, Topic::Signal, Process::Allowed),
    call(14, "rt_sigprocmask", signal::rt_sigprocmask, Topic::Signal, Process::Allowed),
    call(15, "rt_sigreturn", signal::rt_sigreturn, Topic::Signal, Process::Allowed),
    call(16, "ioctl", descriptor::ioctl, Topic::File, Process::Terminal),
    call(17, "pread64", stream::pread64, Topic::File, Process::Allowed),
    call(18, "pwrite64", stream::pwrite64, Topic::File, Process::Allowed),
    call(19, "readv", stream::readv, Topic::File, Process::Allowed),
    call(20, "writev", stream::writev, Topic::File, Process::Allowed),
    host(21, "access", &[Path, Value], Topic::Path, Process::Look),
    host(22, "pipe", &[Descriptors], Topic::File, Process::Allowed),
    call(23, "select", poll::select, Topic::File, Process::Allowed),
    call(24, "sched_yield", thread::sched_yield, Topic::System, Process::Allowed),
    call(25, "mremap", memory::mremap, Topic::Memory, Process::Move),
    call(26, "msync", advice::msync, Topic::Memory, Process::Allowed),
    call(27, "mincore", advice::mincore, Topic::Memory, Process::Allowed),
    call(28, "madvise", advice::madvise, Topic::Memory, Process::Advice),
    host(32, "dup", &[Descriptor], Topic::File, Process::Allowed),
    call(33, "dup2", descriptor::dup2, Topic::File, Process::Allowed),
    call(34, "pause", signal::pause, Topic::Signal, Process::Allowed),
    call(35, "nanosleep", time::nanosleep, Topic::Time, Process::Allowed),
    call(36, "getitimer", timer::getitimer, Topic::Time, Process::Allowed),
    call(37, "alarm", timer::alarm, Topic::Time, Process::Allowed),
    call(38, "setitimer", timer::setitimer, Topic::Time, Process::Allowed),
    call(39, "getpid", process::getpid, Topic::Process, Process::Allowed),
    call(40, "sendfile", stream::sendfile, Topic::File, Process::Allowed),
    call(41, "socket", socket::socket, Topic::Socket, Process::Network),
    call(42, "connect", socket::connect, Topic::Socket, Process::Connect),
    call(43, "accept", socket::accept, Topic::Socket, Process::Allowed),
    call(44, "sendto", socket::sendto, Topic::Socket, Process::Send),
    call(45, "recvfrom", socket::recvfrom, Topic::Socket, Process::Allowed),
    call(46, "sendmsg", socket::sendmsg, Topic::Socket, Process::SendMessage(2)),
    call(47, "recvmsg", socket::recvmsg, Topic::Socket, Process::Allowed),
    host(48, "shutdown", &[Descriptor, Value], Topic::Socket, Process::Allowed),
    call(49, "bind", socket::bind, Topic::Socket, Process::Bind),
    call(50, "listen", socket::listen, Topic::Socket, Process::Bind),
    host(51, "getsockname", &[Descriptor, OutSized(2), Size], Topic::Socket, Process::Allowed),
    host(52, "getpeername", &[Descriptor, OutSized(2), Size], Topic::Socket, Process::Allowed),
    call(53, "socketpair", socket::socketpair, Topic::Socket, Process::SocketPair),
    call(54, "setsockopt", socket_option::setsockopt, Topic::Socket, Process::SocketOption),
    call(55, "getsockopt", socket_option::getsockopt, Topic::Socket, Process::SocketOption),
    call(56, "clone", thread::clone, Topic::Process, Process::Threads),
    call(57, "fork", thread::fork, Topic::Process, Process::Starts),
    call(58, "vfork", thread::fork, Topic::Process, Process::Starts),
    call(59, "execve", thread::fork, Topic::Process, Process::Starts),
    call(60, "exit", thread::exit, Topic::Process, Process::Allowed),
    call(61, "wait4", process::wait4, Topic::Process, Process::Allowed),
    call(62, "kill", signal::kill, Topic::Signal, Process::OwnGroup),
    call(63, "uname", system::uname, Topic::System, Process::Monitor),
    call(72, "fcntl", descriptor::fcntl, Topic::File, Process::Descriptor),
    call(73, "flock", descriptor::flock, Topic::File, Process::Allowed),
    disk(74, "fsync", &[Descriptor], Topic::File, Process::Allowed),
    disk(75, "fdatasync", &[Descriptor], Topic::File, Process::Allowed),
    host(76, "truncate", &[Path, Value], Topic::Path, Process::Files),
    host(77, "ftruncate", &[Descriptor, Value], Topic::File, Process::Allowed),
    call(78, "getdents", small::getdents, Topic::File, Process::List),
    host(79, "getcwd", &[OutBytes(1), Value], Topic::Path, Process::Allowed),
    host(80, "chdir", &[Path], Topic::Path, Process::Files),
    call(81, "fchdir", descriptor::fchdir, Topic::Path, Process::Files),
    host(82, "rename", &[Path, Path], Topic::Path, Process::Files),
    host(83, "mkdir", &[Path, Value], Topic::Path, Process::Files),
    host(84, "rmdir", &[Path], Topic::Path, Process::Files),
    call(85, "creat", descriptor::creat, Topic::Path, Process::CreateAnew { mode: 1 }),
    host(86, "link", &[Path, Path], Topic::Path, Process::Files),
    host(87, "unlink", &[Path], Topic::Path, Process::Files),
    host(88, "symlink", &[Text, Path], Topic::Path, Process::Files),
    host(89, "readlink", &[Path, OutText(2), Value], Topic::Path, Process::Look),
    host(90, "chmod", &[Path, Mode], Topic::Path, Process::PathMode(1)),
    host(91, "fchmod", &[Granted, Mode], Topic::File, Process::Mode),
    host(92, "chown", &[Path, Value, Value], Topic::Path, Process::Files),
    host(93, "fchown", &[Granted, Value, Value], Topic::File, Process::Owner),
    host(94, "lchown", &[Path, Value, Value], Topic::Path, Process::Files),
    host(95, "umask", &[Value], Topic::Path, Process::Allowed),
    call(96, "gettimeofday", time::gettimeofday, Topic::Time, Process::Allowed),
    call(97, "getrlimit", limits::getrlimit, Topic::Process, Process::GetLimit),
    call(98, "getrusage", system::getrusage, Topic::System, Process::Allowed),
    call(99, "sysinfo", system::sysinfo, Topic::System, Process::Monitor),
    call(100, "times", time::times, Topic::Time, Process::Allowed),
    call(102, "getuid", identity::getuid, Topic::Process, Process::Allowed),
    call(104, "getgid", identity::getgid, Topic::Process, Process::Allowed),
    call(105, "setuid", identity::setuid, Topic::Process, Process::Allowed),
    call(106, "setgid", identity::setgid, Topic::Process, Process::Allowed),
    call(107, "geteuid", identity::getuid, Topic::Process, Process::Allowed),
    call(108, "getegid", identity::getgid, Topic::Process, Process::Allowed),
    call(109, "setpgid", process::setpgid, Topic::Process, Process::Monitor),
    call(110, "getppid", process::getppid, Topic::Process, Process::Allowed),
    call(111, "getpgrp", process::getpid, Topic::Process, Process::Monitor),
    call(112, "setsid", process::setsid, Topic::Process, Process::Monitor),
    call(113, "setreuid", identity::setreuid, Topic::Process, Process::Allowed),
    call(114, "setregid", identity::setregid, Topic::Process, Process::Allowed),
    call(115, "getgroups", identity::getgroups, Topic::Process, Process::Allowed),
    call(116, "setgroups", identity::setgroups, Topic::Process, Process::Monitor),
    call(117, "setresuid", identity::setresuid, Topic::Process, Process::Allowed),
    call(118, "getresuid", identity::getresuid, Topic::Process, Process::Allowed),
    call(119, "setresgid", identity::setresgid, Topic::Process, Process::Allowed),
    call(120, "getresgid", identity::getresgid, Topic::Process, Process::Allowed),
    call(121, "getpgid", process::getpgid, Topic::Process, Process::Monitor),
    call(122, "setfsuid", identity::setfsuid, Topic::Process, Process::Allowed),
    call(123, "setfsgid", identity::setfsgid, Topic::Process, Process::Allowed),
    call(124, "getsid", process::getpgid, Topic::Process, Process::Monitor),
    call(125, "capget", identity::capget, Topic::Process, Process::Monitor),
    call(126, "capset", identity::capset, Topic::Process, Process::Allowed),
    call(127, "rt_sigpending", signal::rt_sigpending, Topic::Signal, Process::Allowed),
    call(128, "rt_sigtimedwait", signal::rt_sigtimedwait, Topic::Signal, Process::Allowed),
    call(129, "rt_sigqueueinfo", signal::rt_sigqueueinfo, Topic::Signal, Process::OwnProcess),
    call(130, "rt_sigsuspend", signal::rt_sigsuspend, Topic::Signal, Process::Allowed),
    call(131, "sigaltstack", signal::sigaltstack, Topic::Signal, Process::Allowed),
    host(132, "utime", &[Path, In(16)], Topic::Path, Process::Files),
    host(133, "mknod", &[Path, Node, Value], Topic::Path, Process::Node(1)),
    host(137, "statfs", &[Path, Out(120)], Topic::Path, Process::Files),
    host(138, "fstatfs", &[Descriptor, Out(120)], Topic::File, Process::Allowed),
    call(140, "getpriority", scheduling::getpriority, Topic::System, Process::Monitor),
    call(141, "setpriority", scheduling::setpriority, Topic::System, Process::Monitor),
    call(142, "sched_setparam", scheduling::sched_setparam, Topic::System, Process::Monitor),
    call(143, "sched_getparam", scheduling::sched_getparam, Topic::System, Process::Monitor),
    call(144, "sched_setscheduler", scheduling::sched_setscheduler, Topic::System, Process::Monitor),
    call(145, "sched_getscheduler", scheduling::sched_getscheduler, Topic::System, Process::Monitor),
    call(146, "sched_get_priority_max", scheduling::sched_get_priority_max, Topic::System, Process::Allowed),
    call(147, "sched_get_priority_min", scheduling::sched_get_priority_min, Topic::System, Process::Allowed),
    call(149, "mlock", advice::mlock, Topic::Memory, Process::Allowed),
    call(150, "munlock", advice::munlock, Topic::Memory, Process::Allowed),
    call(151, "mlockall", advice::mlockall, Topic::Memory, Process::Allowed),
    call(152, "munlockall", advice::munlockall, Topic::Memory, Process::Allowed),
    call(157, "prctl", prctl::prctl, Topic::Process, Process::Monitor),
    call(158, "arch_prctl", thread::arch_prctl, Topic::Process, Process::ThreadPointer),
    call(160, "setrlimit", limits::setrlimit, Topic::Process, Process::SetLimit),
    call(186, "gettid", thread::gettid, Topic::Process, Process::Allowed),
    host(187, "readahead", &[Descriptor, Value, Value], Topic::File, Process::Allowed),
    host(188, "setxattr", &[Path, Text, InBytes(3), Value, Value], Topic::Path, Process::Files),
    host(189, "lsetxattr", &[Path, Text, InBytes(3), Value, Value], Topic::Path, Process::Files),
    host(190, "fsetxattr", &[Granted, Text, InBytes(3), Value, Value], Topic::File, Process::Owner),
    host(191, "getxattr", &[Path, Text, OutBytes(3), Value], Topic::Path, Process::Files),
    host(192, "lgetxattr", &[Path, Text, OutBytes(3), Value], Topic::Path, Process::Files),
    host(193, "fgetxattr", &[Descriptor, Text, OutBytes(3), Value], Topic::File, Process::Allowed),
    host(194, "listxattr", &[Path, OutBytes(2), Value], Topic::Path, Process::Files),
    host(195, "llistxattr", &[Path, OutBytes(2), Value], Topic::Path, Process::Files),
    host(196, "flistxattr", &[Descriptor, OutBytes(2), Value], Topic::File, Process::Allowed),
    host(197, "removexattr", &[Path, Text], Topic::Path, Process::Files),
    host(198, "lremovexattr", &[Path, Text], Topic::Path, Process::Files),
    host(199, "fremovexattr", &[Granted, Text], Topic::File, Process::Owner),
    call(200, "tkill", signal::tkill, Topic::Signal, Process::Monitor),
    call(201, "time", time::time, Topic::Time, Process::Allowed),
    call(202, "futex", futex::futex, Topic::Process, Process::Wait),
    call(203, "sched_setaffinity", scheduling::sched_setaffinity, Topic::System, Process::Monitor),
    call(204, "sched_getaffinity", scheduling::sched_getaffinity, Topic::System, Process::Monitor),
    host(213, "epoll_create", &[Value], Topic::File, Process::Allowed),
    call(217, "getdents64", small::getdents64, Topic::File, Process::List),
    call(218, "set_tid_address", thread::set_tid_address, Topic::Process, Process::Allowed),
    process_only(219, "restart_syscall", Topic::Time, Process::Allowed),
    host(221, "fadvise64", &[Descriptor, Value, Value, Value], Topic::File, Process::Allowed),
    call(222, "timer_create", timer::timer_create, Topic::Time, Process::Clock),
    call(223, "timer_settime", timer::timer_settime, Topic::Time, Process::Allowed),
    call(224, "timer_gettime", timer::timer_gettime, Topic::Time, Process::Allowed),
    call(225, "timer_getoverrun", timer::timer_getoverrun, Topic::Time, Process::Allowed),
    call(226, "timer_delete", timer::timer_delete, Topic::Time, Process::Allowed),
    call(228, "clock_gettime", time::clock_gettime, Topic::Time, Process::Clock),
    call(229, "clock_getres", time::clock_getres, Topic::Time, Process::Clock),
    call(230, "clock_nanosleep", time::clock_nanosleep, Topic::Time, Process::Clock),
    call(231, "exit_group", thread::exit_group, Topic::Process, Process::Allowed),
    call(232, "epoll_wait", poll::epoll_wait, Topic::File, Process::Allowed),
    host(233, "epoll_ctl", &[Descriptor, Value, Descriptor, In(12)], Topic::File, Process::Allowed),
    call(234, "tgkill", signal::tgkill, Topic::Signal, Process::OwnProcess),
    host(235, "utimes", &[Path, In(32)], Topic::Path, Process::Files),
    call(247, "waitid", process::waitid, Topic::Process, Process::Allowed),
    call(257, "openat", descriptor::openat, Topic::Path, Process::Create { flags: 2, mode: 3 }),
    host(258, "mkdirat", &[Directory, Path, Value], Topic::Path, Process::Files),
    host(259, "mknodat", &[Directory, Path, Node, Value], Topic::Path, Process::Node(2)),
    host(260, "fchownat", &[Directory, Path, Value, Value, Value], Topic::Path, Process::Change { flags: 4, mode: None }),
    host(261, "futimesat", &[Directory, PathOrNull, In(32)], Topic::Path, Process::Change { flags: 3, mode: None }),
    host(262, "newfstatat", &[Directory, PathToSee, Out(144), Value], Topic::Path, Process::FilesOrEmpty),
    host(263, "unlinkat", &[Directory, Path, Value], Topic::Path, Process::Files),
    host(264, "renameat", &[Directory, Path, Directory, Path], Topic::Path, Process::Files),
    host(265, "linkat", &[Directory, Path, Directory, Path, Flags(LINK)], Topic::Path, Process::FileFlags(4, LINK)),
    host(266, "symlinkat", &[Text, Directory, Path], Topic::Path, Process::Files),
    host(267, "readlinkat", &[Directory, Path, OutText(3), Value], Topic::Path, Process::Look),
    host(268, "fchmodat", &[Directory, Path, Mode], Topic::Path, Process::PathMode(2)),
    host(269, "faccessat", &[Directory, Path, Value], Topic::Path, Process::Look),
    call(270, "pselect6", poll::pselect6, Topic::File, Process::Allowed),
    call(271, "ppoll", poll::ppoll, Topic::File, Process::Allowed),
    call(273, "set_robust_list", thread::set_robust_list, Topic::Process, Process::Allowed),
    call(274, "get_robust_list", thread::get_robust_list, Topic::Process, Process::OwnThread),
    call(275, "splice", stream::splice, Topic::File, Process::Allowed),
    disk(277, "sync_file_range", &[Descriptor, Value, Value, Value], Topic::File, Process::Allowed),
    host(280, "utimensat", &[Directory, PathOrNull, In(32), Value], Topic::Path, Process::Change { flags: 3, mode: None }),
    call(281, "epoll_pwait", poll::epoll_pwait, Topic::File, Process::Allowed),
    host(283, "timerfd_create", &[Value, Value], Topic::File, Process::Allowed),
    host(284, "eventfd", &[Value], Topic::File, Process::Allowed),
    host(285, "fallocate", &[Granted, Value, Value, Value], Topic::File, Process::Allowed),
    host(286, "timerfd_settime", &[Descriptor, Value, In(32), Out(32)], Topic::File, Process::Allowed),
    host(287, "timerfd_gettime", &[Descriptor, Out(32)], Topic::File, Process::Allowed),
    call(288, "accept4", socket::accept4, Topic::Socket, Process::Allowed),
    host(290, "eventfd2", &[Value, Value], Topic::File, Process::Allowed),
    host(291, "epoll_create1", &[Value], Topic::File, Process::Allowed),
    call(292, "dup3", descriptor::dup3, Topic::File, Process::Allowed),
    host(293, "pipe2", &[Descriptors, Flags(PIPE)], Topic::File, Process::Allowed),
    call(295, "preadv", stream::preadv, Topic::File, Process::Allowed),
    call(296, "pwritev", stream::pwritev, Topic::File, Process::Allowed),
    call(297, "rt_tgsigqueueinfo", signal::rt_tgsigqueueinfo, Topic::Signal, Process::OwnProcess),
    call(299, "recvmmsg", socket::recvmmsg, Topic::Socket, Process::Allowed),
    call(302, "prlimit64", limits::prlimit64, Topic::Process, Process::OwnLimits),
    call(307, "sendmmsg", socket::sendmmsg, Topic::Socket, Process::SendMessage(3)),
    call(309, "getcpu", thread::getcpu, Topic::System, Process::Allowed),
    call(314, "sched_setattr", scheduling::sched_setattr, Topic::System, Process::Monitor),
    call(315, "sched_getattr", scheduling::sched_getattr, Topic::System, Process::Monitor),
    host(316, "renameat2", &[Directory, Path, Directory, Path, Flags(RENAME)], Topic::Path, Process::FileFlags(4, RENAME)),
    call(318, "getrandom", system::getrandom, Topic::System, Process::Allowed),
    call(322, "execveat", thread::fork, Topic::Process, Process::Starts),
    call(324, "membarrier", barrier::membarrier, Topic::Process, Process::Allowed),
    call(325, "mlock2", advice::mlock2, Topic::Memory, Process::Allowed),
    host(326, "copy_file_range", &[Descriptor, InOut(8), Descriptor, InOut(8), Value, Value], Topic::File, Process::Allowed),
    call(327, "preadv2", stream::preadv2, Topic::File, Process::Allowed),
    call(328, "pwritev2", stream::pwritev2, Topic::File, Process::Allowed),
    host(332, "statx", &[Directory, PathToSee, Value, Value, Out(256)], Topic::Path, Process::FilesOrUnserved),
    call(334, "rseq", system::rseq, Topic::Process, Process::Unserved),
    call(435, "clone3", thread::clone3, Topic::Process, Process::Unserved),
    call(436, "close_range", descriptor::close_range, Topic::File, Process::CloseRange),
    host(439, "faccessat2", &[Directory, PathToSee, Value, Value], Topic::Path, Process::Look),
    call(441, "epoll_pwait2", poll::epoll_pwait2, Topic::File, Process::Allowed),
    host(452, "fchmodat2", &[Directory, Path, Mode, Value], Topic::Path, Process::Change { flags: 3, mode: Some(2) }),
    ]
};

/// Position of call `number` in [`calls`].
pub fn find(number: u64) -> Option<usize> {
    let number = u16::try_from(number).ok()?;
    PACKED
        .binary_search_by_key(&number, |call| call.number)
        .ok()
}

#[cfg(test)]
mod tests;
