//! What the first thread of this process does while another one traces the guest: next to nothing, so that it is always
//! there.
//!
//! The tracer uses the guest's own files, if only to look at them, and may be the last to let go of one. The kernel has
//! whoever lets go of a pipe wait for whoever moves bytes into it, whatever signal comes; it lets a socket linger; it asks a
//! file system in user space, which may be silent. A guest can see to that, and to a connection that the tracer makes and
//! waits for. So whoever wants to end it must not need the tracer. The guest is this thread's child and is told to die with it (`PR_SET_PDEATHSIG`): a killed poolvmm takes
//! it along, and with it all that the tracer could wait for. And signals that are for the guest are passed on from here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::Timespec;

use super::signals::{self, Operator};

/// Nanoseconds between a signal and the first interrupt, and between two.
const PATIENCE: i64 = 50_000_000;
/// How often a tracer is interrupted that does nothing else, until its guest is killed: in five seconds.
const INTERRUPTS: u32 = 100;
/// Signals by which somebody asks the guest to end.
const ENDS: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];

/// The first thread's view of a guest that is traced.
#[derive(Debug)]
pub(super) struct Watch {
    guest: OwnedFd,
    operator: Operator,
    /// Readable once the tracer has ended.
    end: OwnedFd,
    /// The tracer's thread, once it is there.
    tracer: AtomicI32,
    pulse: Pulse,
}

/// Whether the tracer does anything.
#[derive(Debug, Default)]
pub(super) struct Pulse(AtomicU32);

impl Pulse {
    /// Does `wait`, in which there is nothing to do.
    pub(super) fn rest<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::Relaxed);
        let waited = wait();
        self.0.fetch_add(1, Ordering::Relaxed);
        waited
    }

    /// A number that stays what it is while the tracer does one thing; `None` while it rests.
    fn now(&self) -> Option<u32> {
        let now = self.0.load(Ordering::Relaxed);
        now.is_multiple_of(2).then_some(now)
    }
}

/// Says that the tracer has ended, when it is dropped.
pub(super) struct Ends<'w>(&'w Watch);

impl Watch {
    /// Of `guest`. From now on signals are waited for, by threads that start from here as well.
    pub(super) fn new(guest: Pid) -> io::Result<Self> {
        Ok(Self {
            guest: rustix::process::pidfd_open(guest, PidfdFlags::empty())?,
            operator: Operator::new()?,
            end: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
            tracer: AtomicI32::new(0),
            pulse: Pulse::default(),
        })
    }

    /// The thread that calls this is the tracer.
    pub(super) fn of_tracer(&self) -> Ends<'_> {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        self.tracer.store(own, Ordering::Release);
        Ends(self)
    }

    /// What the tracer shows that it is at work by.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Passes signals on to the guest until its tracer has ended. Whatever the tracer waits in then is interrupted. Without it
    /// the guest would not get them: where it does nothing else for a while, a guest that is to end is killed.
    pub(super) fn wait(&self) -> io::Result<()> {
        let (mut interrupts, mut since) = (0, None);
        loop {
            let mut polls = [
                PollFd::new(&self.end, PollFlags::IN),
                PollFd::from_borrowed_fd(self.operator.as_fd(), PollFlags::IN),
            ];
            let patience = Timespec {
                tv_sec: 0,
                tv_nsec: PATIENCE,
            };
            let patience = (interrupts > 0).then_some(&patience);
            let came = match rustix::event::poll(&mut polls, patience) {
                Err(Errno::INTR) => continue,
                came => came?,
            };
            let is_there = |poll: &PollFd<'_>| !poll.revents().is_empty();
            if is_there(&polls[0]) {
                return Ok(());
            }
            if is_there(&polls[1])
                && let Some(signal) = self.operator.next()
            {
                // It may be gone.
                let _ = rustix::process::pidfd_send_signal(&self.guest, signal);
                if ENDS.contains(&signal) {
                    (interrupts, since) = (INTERRUPTS, self.pulse.now());
                }
            }
            if came == 0 {
                interrupts -= 1;
                signals::interrupt(self.tracer.load(Ordering::Acquire));
                if since.is_none() || since != self.pulse.now() {
                    interrupts = 0;
                } else if interrupts == 0 {
                    let _ = rustix::process::pidfd_send_signal(&self.guest, Signal::KILL);
                }
            }
        }
    }

    /// The descriptor that signals are sent by.
    pub(super) fn guest(&self) -> i32 {
        self.guest.as_fd().as_raw_fd()
    }
}

/// Does `trace` in a thread of its own, while this one watches. What it has come to.
pub(super) fn beside<T: Send>(watch: &Watch, trace: impl FnOnce() -> T + Send) -> io::Result<T> {
    /// What answering a call takes, several times.
    const STACK: usize = 512 << 10;
    // SAFETY: the call takes two numbers. Another heap for a second thread would be memory that no guest needs.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    thread::scope(|scope| {
        let builder = thread::Builder::new().stack_size(STACK);
        let tracer = builder.spawn_scoped(scope, trace)?;
        watch.wait()?;
        tracer
            .join()
            .map_err(|panic| std::panic::resume_unwind(panic))
    })
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        // Nothing but a full counter could be in its way, and this is one.
        let _ = rustix::io::write(&self.0.end, &1u64.to_ne_bytes());
    }
}
