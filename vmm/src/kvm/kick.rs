//! What makes the processor leave, or this process stop waiting: signals of the host and a timer.
//!
//! The signals are blocked in this process, except inside `KVM_RUN`, which returns when one comes and
//! leaves it pending, and looked for by a descriptor where this process waits. So none is lost in
//! between, no handler runs, and there is one place that takes them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};

use kvm_ioctls::VcpuFd;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::KvmError;
use crate::{descriptors, job};

/// Signals that are the guest's: what somebody sends to this process, and what the kernel sends it for the processor
/// time that the guest has bounded.
const PASSED_ON: [i32; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTERM,
    libc::SIGWINCH,
    libc::SIGXCPU,
    // It stops this process when it has stopped the guest, which may have a say in that.
    libc::SIGTSTP,
    libc::SIGCONT,
];
/// What the kernel sends when a file would become larger than the guest's limit: whose call that was is told by the
/// call's error.
const TOLD_BY_ERROR: i32 = libc::SIGXFSZ;
/// From here on signals have no meaning of their own, and the C library takes the first ones.
const FIRST_REALTIME: i32 = 32;
/// Bytes of a signal set of the kernel.
const SET_BYTES: u32 = 8;
/// Bytes of a `struct signalfd_siginfo`, which begins with the signal's number.
const RECORD: usize = 128;

/// What has a processor come, by its timer and from others. Nobody else sends it; and as it is no realtime signal the
/// kernel never refuses it, whatever waits for this user's processes (`RLIMIT_SIGPENDING`).
const TICK: i32 = libc::SIGSTKFLT;

/// Has a tick come for a thread of this process.
pub(super) fn tick_at(thread: i32) -> io::Result<()> {
    // SAFETY: sends a signal that all threads block, with no pointer.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, TICK) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Signals and a timer.
#[derive(Debug)]
pub(super) struct Kicks {
    /// Readable while one of the signals is pending.
    signals: File,
    timer: Timer,
    armed: Option<Timespec>,
}

/// What a process has of signals when it is started.
#[derive(Debug)]
pub(super) struct Inherited {
    /// Those that do nothing: `nohup` and shells without job control say so.
    pub(super) ignored: Vec<i32>,
    /// The set of those that wait until they are let through, as the kernel has it.
    pub(super) blocked: u64,
}

/// What has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Came {
    /// Signals that somebody sent for the guest.
    pub(super) signals: Vec<i32>,
    /// It is as late as the timer was set to.
    pub(super) tick: bool,
}

impl Kicks {
    /// Blocks the signals in this thread, and has `vcpu` leave when one comes.
    pub(super) fn new(vcpu: &VcpuFd) -> Result<Self, KvmError> {
        let failed = |what| move |error| KvmError::Call { what, error };
        let (set, before) = block().map_err(failed("blocking signals"))?;
        set_mask_inside(vcpu, before)
            .map_err(failed("setting the signals that stop a processor"))?;
        Ok(Self {
            signals: descriptor(&set).map_err(failed("taking signals by a descriptor"))?,
            timer: Timer::new().map_err(failed("making a timer"))?,
            armed: None,
        })
    }

    /// Has a tick come at `at` (monotonic time) or earlier.
    pub(super) fn arm(&mut self, at: Timespec) -> Result<(), KvmError> {
        if self.armed.is_some_and(|armed| armed <= at) {
            return Ok(());
        }
        self.armed = Some(at);
        self.timer.set(at).map_err(|error| KvmError::Call {
            what: "setting a timer",
            error,
        })
    }

    /// Takes what has come.
    pub(super) fn take(&mut self) -> Result<Came, KvmError> {
        let mut came = Came::default();
        let mut records = [0; 8 * RECORD];
        loop {
            let filled = match rustix::io::read(&self.signals, &mut records) {
                Ok(filled) => filled,
                Err(Errno::AGAIN) => return Ok(came),
                Err(Errno::INTR) => continue,
                Err(error) => {
                    return Err(KvmError::Call {
                        what: "taking signals",
                        error: error.into(),
                    });
                }
            };
            for record in records[..filled].chunks_exact(RECORD) {
                let signal = i32::from_le_bytes([record[0], record[1], record[2], record[3]]);
                if signal == TICK {
                    came.tick = true;
                    self.armed = None;
                } else {
                    came.signals.push(signal);
                }
            }
        }
    }

    /// Waits until something has come, one of `waits` (who, for what descriptor, for which of its events) is
    /// over, or it is `deadline`. Whose are over; none if that is to be found out by [`Self::look`], as there are too
    /// many for a thread that is not `alone` with the guest's descriptors.
    pub(super) fn wait<T: Copy>(
        &self,
        waits: &[(T, RawFd, PollFlags)],
        deadline: Option<Timespec>,
        alone: bool,
    ) -> Result<Option<Vec<T>>, KvmError> {
        let left = deadline.map(|deadline| {
            let now = now();
            if deadline > now {
                deadline - now
            } else {
                Timespec::default()
            }
        });
        self.poll(waits, |polls| {
            if alone {
                descriptors::poll(polls, left.as_ref()).map(Some)
            } else {
                descriptors::poll_within_bound(polls, left.as_ref())
            }
        })
    }

    /// Whose of `waits` are over now.
    pub(super) fn look<T: Copy>(
        &self,
        waits: &[(T, RawFd, PollFlags)],
    ) -> Result<Vec<T>, KvmError> {
        let now = Timespec::default();
        let over = self.poll(waits, |polls| {
            descriptors::poll(polls, Some(&now)).map(Some)
        })?;
        Ok(over.unwrap_or_default())
    }

    /// Whose of `waits` are over, by what `ask` finds.
    fn poll<T: Copy>(
        &self,
        waits: &[(T, RawFd, PollFlags)],
        ask: impl FnOnce(&mut [PollFd<'_>]) -> Result<Option<usize>, Errno>,
    ) -> Result<Option<Vec<T>>, KvmError> {
        /// What the kernel tells unasked.
        const ALWAYS: PollFlags = PollFlags::ERR.union(PollFlags::HUP).union(PollFlags::NVAL);
        // Once each.
        let mut wanted: BTreeMap<RawFd, PollFlags> = BTreeMap::new();
        for &(_, descriptor, events) in waits {
            let all = wanted.entry(descriptor).or_insert(PollFlags::empty());
            *all |= events;
        }
        let own = PollFd::new(&self.signals, PollFlags::IN);
        let others = wanted.iter().map(|(&descriptor, &events)| {
            // SAFETY: the number is a guest's and not -1. It may stand for nothing, which `poll`
            // answers; it is used for this call alone.
            let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
            PollFd::from_borrowed_fd(descriptor, events)
        });
        let mut polls: Vec<_> = std::iter::once(own).chain(others).collect();
        match ask(&mut polls) {
            Ok(None) => return Ok(None),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Err(error) => {
                return Err(KvmError::Call {
                    what: "waiting",
                    error: error.into(),
                });
            }
        }
        for ((_, events), poll) in wanted.iter_mut().zip(&polls[1..]) {
            *events = poll.revents();
        }
        let over = |&&(_, descriptor, events): &&(T, RawFd, PollFlags)| {
            let found = wanted.get(&descriptor);
            found.is_some_and(|found| found.intersects(events | ALWAYS))
        };
        let over = waits.iter().filter(over).map(|&(who, ..)| who);
        Ok(Some(over.collect()))
    }
}

/// The monotonic clock.
pub(super) fn now() -> Timespec {
    rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Blocks the signals; they, and what this thread blocked before.
fn block() -> io::Result<(libc::sigset_t, libc::sigset_t)> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` makes the set one, to which signals are added; `pthread_sigmask` reads it
    // and fills the other.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in PASSED_ON.into_iter().chain([TICK]) {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok((set.assume_init(), before.assume_init()))
    }
}

/// What this process was started with, for the guest to start with. To be asked before any [`Kicks`]. This process
/// ignores [`TOLD_BY_ERROR`] from now on.
pub(super) fn inherited() -> Result<Inherited, KvmError> {
    let ignored = |signal: &i32| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: only asks; the structure is filled, or stays zeros, which it may be.
        let action = unsafe {
            libc::sigaction(*signal, std::ptr::null(), action.as_mut_ptr());
            action.assume_init()
        };
        descriptors::was_ignored(*signal, action.sa_sigaction)
    };
    let ignored = (1..FIRST_REALTIME).filter(ignored).collect();
    // SAFETY: it has the action that this process was started with, which nothing here relies on.
    unsafe { libc::signal(TOLD_BY_ERROR, libc::SIG_IGN) };
    job::stops_by_default();
    let mut blocked = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: only asks; the set is filled.
    let blocked = unsafe {
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), blocked.as_mut_ptr());
        if error != 0 {
            return Err(KvmError::Call {
                what: "asking for the blocked signals",
                error: io::Error::from_raw_os_error(error),
            });
        }
        blocked.assume_init()
    };
    Ok(Inherited {
        ignored,
        blocked: word(&blocked),
    })
}

/// A set as the kernel has it.
fn word(set: &libc::sigset_t) -> u64 {
    // SAFETY: the set is one, and is only read.
    let has = |signal: &i32| unsafe { libc::sigismember(set, *signal) } == 1;
    (1..=64)
        .filter(has)
        .fold(0, |word, signal| word | bit(signal))
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

fn descriptor(set: &libc::sigset_t) -> io::Result<File> {
    let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
    // SAFETY: the set is one, and is only read.
    let descriptor = check(unsafe { libc::signalfd(-1, set, flags) })?;
    // SAFETY: the descriptor was just made for this call, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// Has `vcpu` run with `mask`: the one request of this kind that the KVM bindings lack.
fn set_mask_inside(vcpu: &VcpuFd, mask: libc::sigset_t) -> io::Result<()> {
    /// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)` of `linux/kvm.h`.
    const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    #[repr(C)]
    struct SignalMask {
        length: u32,
        set: [u8; SET_BYTES as usize],
    }
    let ours = PASSED_ON.into_iter().chain([TICK]);
    let set = ours.fold(word(&mask), |set, signal| set & !bit(signal));
    let request = SignalMask {
        length: SET_BYTES,
        set: set.to_le_bytes(),
    };
    // SAFETY: the request reads the structure: a length, and as many bytes.
    let result = unsafe {
        libc::ioctl(
            vcpu.as_raw_fd(),
            KVM_SET_SIGNAL_MASK as _,
            &raw const request,
        )
    };
    check(result).map(|_| ())
}

/// A timer of the kernel.
#[derive(Debug)]
struct Timer(libc::timer_t);

impl Timer {
    fn new() -> io::Result<Self> {
        let mut id = MaybeUninit::<libc::timer_t>::uninit();
        // SAFETY: all zeros are such a structure.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = TICK;
        // SAFETY: asks for this thread's number.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        // SAFETY: the structure is read and the number filled in.
        check(unsafe {
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, id.as_mut_ptr())
        })?;
        // SAFETY: the call has filled it.
        Ok(Self(unsafe { id.assume_init() }))
    }

    fn set(&self, at: Timespec) -> io::Result<()> {
        // All zeros would disarm it.
        let (seconds, nanoseconds) = (at.tv_sec, at.tv_nsec.max(1));
        let value = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: seconds,
                tv_nsec: nanoseconds,
            },
        };
        // SAFETY: the timer is this value's own; the structure is only read.
        check(unsafe {
            libc::timer_settime(
                self.0,
                libc::TIMER_ABSTIME,
                &raw const value,
                std::ptr::null_mut(),
            )
        })
        .map(|_| ())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's own, and is gone with it.
        unsafe {
            libc::timer_delete(self.0);
        }
    }
}
