//! The calls that the guest's filter asks its monitor about: those that the host kernel would answer with
//! what concerns the host, or serve without counting.
//!
//! The filter has read numbers and arguments; here the rest is read from registers and memory of the
//! stopped thread. Its other threads run meanwhile: they may write to its memory and replace its descriptors.
//! So whatever the kernel is to go on with lies in registers, what a decision was made about is a
//! descriptor that this process holds itself, and of the calls that are counted one is served at a time
//! ([`super::trace`]).

use std::borrow::Cow;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::areas::Areas;
use super::begin::Begin;
use super::change::Change;
use super::limits::{Limits, core};
use super::listener::Listener;
use super::pool_pages::PoolPages;
use super::ptrace::{Registers, Tracee, arguments};
use super::sent::bit;
use super::stack::Stack;
use super::threads::Threads;
use crate::linux::{host, identity, prctl, system};
use crate::network;
use crate::plan::Plan;
use crate::sandbox::{THREAD, UNSHARE};
use crate::world::small::{Device, Large, Look};

/// Longer than `/proc/PID/status` of somebody in very many groups.
const MOST_STATUS: usize = 64 << 10;

/// `PIDFD_THREAD` of `linux/pidfd.h`.
const OF_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(THREAD);

/// What happens next in a call that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The kernel serves it as it is.
    Serve,
    /// The kernel serves it as it is; what it has opened, with these flags, is looked at then.
    ServeAndSee(OFlags),
    /// The kernel serves it as it is, and answers with where the heap ends.
    ServeAndSeeHeap,
    /// The kernel serves it with other registers; the guest's are put back at its end.
    ServeWith(Change),
    /// It is over: this is the result.
    Done(i64),
    /// The same, of a call that is not served with these arguments.
    Refused(Errno),
}

/// Which file it is.
type Identity = (u64, u64);

/// Answers for one guest.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) network: network::Limits,
    pub(super) limits: Limits,
    /// What it takes is counted here. Otherwise the kernel counts it.
    pub(super) counted: bool,
    pub(super) pool: PoolPages,
    pub(super) begin: Begin,
    /// No less than the bytes that the guest may access and that `RLIMIT_DATA` does not count.
    pub(super) readable: u64,
    /// Bytes that the guest may take before anybody has to count what it has.
    pub(super) room: u64,
    /// Calls before it is worth while to look for room again, of a guest that has taken nearly all.
    pub(super) patience: u32,
    /// Where the heap ends.
    pub(super) heap: u64,
    stack: Stack,
    pub(super) guest: Pid,
    /// What it has by `prctl`.
    attributes: prctl::OfProcess,
    pub(super) process: OwnedFd,
    /// What the guest was given as standard input, output and error.
    standard: Vec<Identity>,
    /// A pipe is among them.
    pub(super) standard_pipe: bool,
    /// `/proc/PID/status` and `maps`, opened while this process may open files.
    status: File,
    pub(super) areas: Areas,
    /// `smaps_rollup`, which tells of the memory of a process whose first thread has ended, and takes longer.
    pub(super) rollup: File,
    pub(super) text: Vec<u8>,
    /// `/proc/PID/fd`, of a guest with a file system of its own.
    pub(super) descriptors: Option<File>,
    pub(super) large: Large,
    /// Devices, of a guest without one.
    pub(super) devices: Vec<(Device, Rc<OwnedFd>)>,
    /// Where its threads come for files, and what has them come.
    pub(super) listener: Option<Listener>,
    pub(super) secret: [u32; 2],
    /// They would have come, and somebody else listens.
    pub(super) unheard: bool,
}

impl Calls {
    /// For the guest that `guest` is about to be, within `limits`, which are to be seen to here if that is `counted`.
    pub(super) fn new(
        guest: Pid,
        (limits, counted): (Limits, bool),
        plan: &Plan,
        begin: Begin,
        network: network::Limits,
    ) -> std::io::Result<Self> {
        let heap = plan.rooms.heap.0;
        let open = |name: &str| File::open(format!("/proc/{}/{name}", guest.as_raw_nonzero()));
        let descriptors = begin.has_world().then(|| open("fd"));
        let devices = if begin.has_world() {
            Vec::new()
        } else {
            Device::open_all()
        };
        let devices = devices
            .into_iter()
            .map(|(device, file)| (device, Rc::new(file.into())));
        let standard = [
            rustix::fs::fstat(rustix::stdio::stdin())?,
            rustix::fs::fstat(rustix::stdio::stdout())?,
            rustix::fs::fstat(rustix::stdio::stderr())?,
        ];
        Ok(Self {
            network,
            limits,
            counted,
            pool: PoolPages::of(plan),
            begin,
            // Nobody counted the image: the first call does.
            readable: limits.readable,
            room: limits.room,
            patience: 0,
            heap,
            stack: Stack::new(guest, plan)?,
            guest,
            attributes: prctl::OfProcess::default(),
            process: rustix::process::pidfd_open(guest, PidfdFlags::empty())?,
            standard_pipe: standard
                .iter()
                .any(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo),
            standard: standard.map(|stat| (stat.st_dev, stat.st_ino)).to_vec(),
            status: open("status")?,
            areas: Areas::of(guest)?,
            rollup: open("smaps_rollup")?,
            text: vec![0; MOST_STATUS],
            descriptors: descriptors.transpose()?,
            large: Large::default(),
            devices: devices.collect(),
            listener: None,
            secret: [0; 2],
            unheard: false,
        })
    }

    /// The guest listens at its descriptor `number` so far, and this process from now on; whoever says `secret` comes there.
    pub(super) fn with_listener(self, number: i32, secret: [u32; 2]) -> std::io::Result<Self> {
        let flags = PidfdGetfdFlags::empty();
        let listener = rustix::process::pidfd_getfd(&self.process, number, flags)?;
        Ok(Self {
            listener: Some(Listener(listener)),
            secret,
            ..self
        })
    }

    /// Whether calls of this number must not overlap, since each is let through for what there is.
    pub(super) fn counts(number: u64) -> bool {
        matches!(
            number as i64,
            libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_mremap | libc::SYS_brk
        )
    }

    /// What becomes of the call that `tracee`, one of `threads`, stopped in.
    pub(super) fn next(
        &mut self,
        tracee: Tracee,
        registers: &Registers,
        threads: &mut Threads,
    ) -> Next {
        let [first, second, third] = [registers.rdi, registers.rsi, registers.rdx];
        match registers.orig_rax as i64 {
            libc::SYS_uname => written(tracee, first, &system::identity()),
            libc::SYS_sysinfo => {
                let used = self.used().unwrap_or(self.limits.memory);
                let free = self.limits.memory.saturating_sub(used);
                let machine = system::machine(self.limits.memory, free);
                written(tracee, first, &machine)
            }
            // Otherwise it is the working directory's, or a path that is none.
            libc::SYS_newfstatat
                if registers.r10 & libc::AT_EMPTY_PATH as u64 != 0
                    && first as i32 != libc::AT_FDCWD
                    && (second == 0 || tracee.byte(second) == Some(0)) =>
            {
                Next::ServeWith(Change::Fstat(first, third))
            }
            libc::SYS_fchmod | libc::SYS_fchown | libc::SYS_fsetxattr | libc::SYS_fremovexattr => {
                finished(self.change_file(tracee, registers))
            }
            libc::SYS_fcntl => self.size_pipe(tracee, registers, threads),
            libc::SYS_fchmodat2
            | libc::SYS_fchownat
            | libc::SYS_utimensat
            | libc::SYS_futimesat => self.change_named(tracee, registers),
            libc::SYS_bind
            | libc::SYS_listen
            | libc::SYS_connect
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_sendmmsg => self.named_socket(tracee, registers).unwrap_or_else(failed),
            libc::SYS_open | libc::SYS_openat | libc::SYS_creat => {
                self.open(tracee, registers, threads)
            }
            libc::SYS_getdents | libc::SYS_getdents64 => self.list(tracee, registers, threads),
            libc::SYS_prctl => self.prctl(tracee, registers, threads),
            libc::SYS_faccessat2
                if registers.r10 & libc::AT_EMPTY_PATH as u64 != 0
                    && first as i32 != libc::AT_FDCWD
                    && tracee.byte(second) == Some(0) =>
            {
                finished(self.may_access(tracee, registers))
            }
            libc::SYS_ioctl => finished(self.foreground(tracee, registers)),
            libc::SYS_setgroups => finished(set_groups(tracee, registers)),
            libc::SYS_capget => finished(capabilities(tracee, registers, threads)),
            libc::SYS_mmap | libc::SYS_mprotect => self.memory(tracee, registers, threads),
            libc::SYS_mremap => self.remap(tracee, registers, threads),
            libc::SYS_brk => self.brk(first),
            libc::SYS_getrlimit => finished(core(tracee, None, Some(second))),
            libc::SYS_setrlimit if first as u32 == libc::RLIMIT_CORE => {
                finished(core(tracee, Some(second), None))
            }
            libc::SYS_setrlimit => self.bound_stack(tracee, second, 0),
            libc::SYS_prlimit64 => {
                let number = first as i32;
                let is_own = number == self.guest.as_raw_nonzero().get();
                match own(threads, if is_own { 0 } else { number }, Errno::SRCH) {
                    Next::Serve if second as u32 == libc::RLIMIT_CORE => {
                        let [new, old] = [third, registers.r10].map(|at| (at != 0).then_some(at));
                        finished(core(tracee, new, old))
                    }
                    Next::Serve if third != 0 && second as u32 == libc::RLIMIT_STACK => {
                        self.bound_stack(tracee, third, registers.r10)
                    }
                    next => next,
                }
            }
            libc::SYS_clone => {
                if threads.start(tracee.0) {
                    Next::Serve
                } else {
                    failed(Errno::AGAIN)
                }
            }
            // All threads have one table.
            libc::SYS_close_range => {
                Next::ServeWith(Change::ThirdFlags(third & !u64::from(UNSHARE)))
            }
            // Its group is it alone, to the guest.
            libc::SYS_kill => {
                Next::ServeWith(Change::First(self.guest.as_raw_nonzero().get() as u64))
            }
            // The kernel finds no thread of another process by this.
            libc::SYS_tkill => Next::ServeWith(Change::Signal(self.guest, first, second)),
            libc::SYS_sched_getaffinity => finished(self.affinity(tracee, registers, threads)),
            libc::SYS_sched_setaffinity => finished(self.set_affinity(tracee, registers, threads)),
            libc::SYS_sched_getscheduler
            | libc::SYS_sched_setscheduler
            | libc::SYS_sched_getparam
            | libc::SYS_sched_setparam
            | libc::SYS_sched_getattr
            | libc::SYS_sched_setattr => Self::policy(registers, threads),
            libc::SYS_getpriority | libc::SYS_setpriority => self.nice(registers, threads),
            libc::SYS_getpgrp
            | libc::SYS_getpgid
            | libc::SYS_getsid
            | libc::SYS_setpgid
            | libc::SYS_setsid => self.group(registers, threads),
            libc::SYS_get_robust_list => own(threads, first as i32, Errno::SRCH),
            // Processor clocks: the complement of a thread's or process's number, and three bits.
            libc::SYS_clock_gettime
            | libc::SYS_clock_getres
            | libc::SYS_clock_nanosleep
            | libc::SYS_timer_create => own(threads, !(first as i32 >> 3), Errno::INVAL),
            _ => match Look::of(registers.orig_rax, &arguments(registers)) {
                Some(look) => self.look(look, tracee, registers, threads),
                None => failed(Errno::NOSYS),
            },
        }
    }

    /// The guest's open file `number`, asked for by `tracee`: no other thread can put another in its place.
    pub(super) fn file(&self, tracee: Tracee, number: u64) -> Result<OwnedFd, Errno> {
        let of = |process: &OwnedFd| {
            rustix::process::pidfd_getfd(process, number as i32, PidfdGetfdFlags::empty())
        };
        // A process has none once its first thread has left, and its threads have what they have had. Those have
        // descriptors of their own since Linux 6.9.
        of(&self.process)
            .or_else(|_| of(&rustix::process::pidfd_open(tracee.0, OF_THREAD)?))
            .map_err(|_| Errno::BADF)
    }

    /// The same, unless it is one of its standard files. This process may do no more to it than the guest.
    pub(super) fn granted(&self, tracee: Tracee, number: u64) -> Result<OwnedFd, Errno> {
        let file = self.file(tracee, number)?;
        let stat = rustix::fs::fstat(&file)?;
        if self.standard.contains(&(stat.st_dev, stat.st_ino)) {
            return Err(Errno::PERM);
        }
        Ok(file)
    }

    /// `prctl`. The kernel serves what it has of threads anyway.
    fn prctl(&mut self, tracee: Tracee, registers: &Registers, threads: &mut Threads) -> Next {
        let arguments = arguments(registers);
        let second = arguments[1];
        let Some(thread) = threads.asked(tracee.0, 0) else {
            return failed(Errno::SRCH);
        };
        match prctl::answer(&mut self.attributes, &mut thread.attributes, arguments) {
            prctl::Answer::Is(value) => Next::Done(value as i64),
            prctl::Answer::Tells(number) => written(tracee, second, &number.to_le_bytes()),
            prctl::Answer::Fails(error) => failed(error),
            prctl::Answer::OfPlatform => {
                if registers.rdi as i32 == libc::PR_SET_NAME {
                    let mut name = [0; 15];
                    let read = tracee.read(second, &mut name).unwrap_or(0);
                    // One that cannot be read to its end is for the kernel to refuse.
                    if read == name.len() || name[..read].contains(&0) {
                        threads.name(tracee.0, &name);
                    }
                }
                Next::Serve
            }
            prctl::Answer::Unknown => Next::Refused(Errno::INVAL),
        }
    }

    /// `faccessat2` of an open file, of which no path is looked up.
    fn may_access(&self, tracee: Tracee, registers: &Registers) -> Result<i64, Errno> {
        const KNOWN: i32 = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EACCESS;
        let (mode, flags) = (registers.rdx, registers.r10);
        if mode as u32 & !7 != 0 || flags as i32 & !KNOWN != 0 {
            return Err(Errno::INVAL);
        }
        let file = self.file(tracee, registers.rdi)?;
        host::may_access(file.as_raw_fd(), mode).map(|()| 0)
    }

    /// Sets how large the stack may grow, to what lies at `new`, and writes what it was to `old`, if that is
    /// an address.
    fn bound_stack(&mut self, tracee: Tracee, new: u64, old: u64) -> Next {
        let mut words = [[0; 8]; 2];
        if tracee.read(new, words.as_flattened_mut()).ok() != Some(16) {
            return failed(Errno::FAULT);
        }
        let [soft, hard] = words.map(u64::from_le_bytes);
        let before = match self.stack.set(self.guest, soft, hard) {
            Ok(before) => before,
            Err(error) => return failed(error),
        };
        let bytes = before.map(u64::to_le_bytes);
        if old != 0 && tracee.write(old, bytes.as_flattened()).is_err() {
            return failed(Errno::FAULT);
        }
        match self.stack.change() {
            Some((from, to, protection)) => Next::ServeWith(Change::Protect(from, to, protection)),
            None => Next::Done(0),
        }
    }

    /// What the kernel says of the guest. Its name need not be text.
    pub(super) fn status_text(&mut self) -> Option<Cow<'_, str>> {
        let length = self.status.read_at(&mut self.text, 0).ok()?;
        Some(String::from_utf8_lossy(&self.text[..length]))
    }

    /// Whether `signal`, sent to the guest's process, waits for one of its threads; if that cannot be known, it may.
    pub(super) fn waits(&mut self, signal: i32) -> bool {
        self.waiting().is_none_or(|set| set & bit(signal) != 0)
    }

    /// The same; if that cannot be known, not.
    pub(super) fn surely_waits(&mut self, signal: i32) -> bool {
        self.waiting().is_some_and(|set| set & bit(signal) != 0)
    }

    /// The signals that were sent to the guest's process and wait.
    fn waiting(&mut self) -> Option<u64> {
        let text = self.status_text()?;
        let line = text.lines().find_map(|line| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    }

    /// The guest's first thread has ended, and others have not.
    pub(super) fn has_first_left(&mut self) -> bool {
        let text = self.status_text();
        text.is_some_and(|text| text.lines().any(|line| line.starts_with("State:\tZ")))
    }
}

pub(super) fn finished(result: Result<i64, Errno>) -> Next {
    result.map_or_else(failed, Next::Done)
}

/// `setgroups`: to those that there are.
fn set_groups(tracee: Tracee, registers: &Registers) -> Result<i64, Errno> {
    let mut list = vec![0; identity::group_bytes(registers.rdi)?];
    if !list.is_empty() && tracee.read(registers.rsi, &mut list).ok() != Some(list.len()) {
        return Err(Errno::FAULT);
    }
    identity::set_groups(&list).map(|()| 0)
}

/// `capget`: none, of any thread of the guest. The kernel would say of others whether they are there.
fn capabilities(tracee: Tracee, registers: &Registers, threads: &Threads) -> Result<i64, Errno> {
    let (header, data) = (registers.rdi, registers.rsi);
    let mut words = [[0; 4]; 2];
    if tracee.read(header, words.as_flattened_mut()).ok() != Some(8) {
        return Err(Errno::FAULT);
    }
    let [version, number] = words.map(i32::from_le_bytes);
    let bad = |_| Errno::FAULT;
    let Some(bytes) = identity::capability_bytes(version.cast_unsigned()) else {
        let known = identity::CAPABILITY_VERSION.to_le_bytes();
        tracee.write(header, &known).map_err(bad)?;
        return if data == 0 { Ok(0) } else { Err(Errno::INVAL) };
    };
    if data == 0 {
        return Ok(0);
    }
    if number < 0 {
        return Err(Errno::INVAL);
    }
    if number != 0 && !threads.has(number) {
        return Err(Errno::SRCH);
    }
    tracee.write(data, &vec![0; bytes]).map_err(bad)?;
    Ok(0)
}

pub(super) fn failed(error: Errno) -> Next {
    Next::Done(-i64::from(error.raw_os_error()))
}

/// Served if `number` is zero, for the caller, or one of `threads`.
fn own(threads: &Threads, number: i32, otherwise: Errno) -> Next {
    if number == 0 || threads.has(number) {
        Next::Serve
    } else {
        failed(otherwise)
    }
}

fn written(tracee: Tracee, at: u64, bytes: &[u8]) -> Next {
    match tracee.write(at, bytes) {
        Ok(()) => Next::Done(0),
        Err(_) => failed(Errno::FAULT),
    }
}
