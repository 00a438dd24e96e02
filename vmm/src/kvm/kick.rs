//! What makes the processor leave, or this process stop waiting: signals of the host and a timer.
//!
//! The signals are blocked in this process, except inside `KVM_RUN`, which returns when one comes and
//! leaves it pending, and looked for by a descriptor where this process waits. So none is lost in
//! between, no handler runs (but a terminal's, [`crate::job::at_terminal`]), and there is one place that takes them.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use kvm_ioctls::VcpuFd;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use super::KvmError;
use crate::descriptors;
use crate::job::ASKS;
use crate::signals::{self, Set};

/// Signals that are the guest's: what somebody sends to this process, and what the kernel sends it for the processor
/// time that the guest has bounded.
const PASSED_ON: [i32; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTERM,
    libc::SIGWINCH,
    libc::SIGXCPU,
    // They stop this process where they stop the guest, which may have a say in that.
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGCONT,
];
/// What the kernel sends when a file would become larger than the guest's limit: whose call that was is told by the
/// call's error.
const TOLD_BY_ERROR: i32 = libc::SIGXFSZ;
/// From here on signals have no meaning of their own, and the C library takes the first ones.
const FIRST_REALTIME: i32 = 32;
/// Bytes of a signal set of the kernel.
const SET_BYTES: u32 = 8;

/// What has a processor come, by its timer and from others. Nobody else sends it; and as it is no realtime signal the
/// kernel never refuses it, whatever waits for this user's processes (`RLIMIT_SIGPENDING`).
const TICK: i32 = libc::SIGSTKFLT;

/// Has a tick come for a thread of this process.
pub(super) fn tick_at(thread: i32) -> io::Result<()> {
    signals::send_to(thread, TICK)
}

/// Signals and a timer.
#[derive(Debug)]
pub(super) struct Kicks {
    /// Readable while one of the signals is pending.
    signals: OwnedFd,
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
    /// Likewise, and they stop who has no other plans. They have not been taken.
    pub(super) stops: Vec<i32>,
    /// It is as late as the timer was set to.
    pub(super) tick: bool,
}

impl Kicks {
    /// Blocks the signals in this thread, and has `vcpu` leave when one comes.
    pub(super) fn new(vcpu: &VcpuFd) -> Result<Self, KvmError> {
        let failed = |what| move |error| KvmError::Call { what, error };
        let set = Set::of(&[&PASSED_ON[..], &[TICK]].concat());
        let before = signals::block(&set);
        set_mask_inside(vcpu, before.word() & !set.word())
            .map_err(failed("setting the signals that stop a processor"))?;
        Ok(Self {
            signals: signals::descriptor(&set).map_err(failed("taking signals by a descriptor"))?,
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

    /// Takes what has come. Nobody else takes signals of this process meanwhile.
    pub(super) fn take(&mut self) -> Came {
        let waiting = signals::waiting();
        let mut came = Came::default();
        if waiting.has(TICK) && signals::take(&Set::of(&[TICK])).is_some() {
            came.tick = true;
            self.armed = None;
        }
        for signal in PASSED_ON {
            if !waiting.has(signal) {
                continue;
            }
            if ASKS.contains(&signal) {
                came.stops.push(signal);
            } else if signals::take(&Set::of(&[signal])).is_some() {
                came.signals.push(signal);
            }
        }
        came
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

/// What this process was started with, for the guest to start with. To be asked before any [`Kicks`]. This process
/// ignores [`TOLD_BY_ERROR`] from now on.
pub(super) fn inherited() -> Inherited {
    let ignored = |signal: &i32| descriptors::was_ignored(*signal, signals::action(*signal));
    let ignored: Vec<i32> = (1..FIRST_REALTIME).filter(ignored).collect();
    signals::ignore(TOLD_BY_ERROR);
    // What a terminal stops a job by stops this process where that is let through. The others do so as it is.
    let stop_nobody = ASKS.into_iter().filter(|signal| ignored.contains(signal));
    stop_nobody.for_each(signals::by_default);
    Inherited {
        ignored,
        blocked: signals::blocked().word(),
    }
}

/// Has `vcpu` run with these blocked: the one request of this kind that the KVM bindings lack.
fn set_mask_inside(vcpu: &VcpuFd, set: u64) -> io::Result<()> {
    /// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)` of `linux/kvm.h`.
    const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;
    #[repr(C)]
    struct SignalMask {
        length: u32,
        set: [u8; SET_BYTES as usize],
    }
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
