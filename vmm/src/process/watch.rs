//! What the first thread of this process does while another one traces the guest: next to nothing, so that it is always
//! there.
//!
//! The tracer uses the guest's own files, if only to look at them, and may be the last to let go of one. The kernel has
//! whoever lets go of a pipe wait for whoever moves bytes into it, whatever signal comes; it lets a socket linger; it asks a
//! file system in user space, which may be silent. A guest can see to that, and to a connection that the tracer makes and
//! waits for. So whoever wants to end it must not need the tracer. The guest is this thread's child and is told to die
//! with it (`PR_SET_PDEATHSIG`): a killed poolvmm takes it along, and with it all that the tracer could wait for. And
//! signals that are for the guest are passed on from here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::Timespec;

use super::follow::Followed;
use super::sent::{Heard, Sent};
use super::signals::{self, Came, Operator};
use crate::job::ASKS;

/// From a signal to the first interrupt, and between two.
const PATIENCE: Duration = Duration::from_millis(50);
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
    sent: Sent,
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

/// Somebody asked the guest to end while the tracer was at work.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// The tracer's pulse then.
    at: u32,
    interrupts: u32,
    /// When the tracer is interrupted next.
    next: Instant,
}

impl Asked {
    fn now(at: u32) -> Self {
        Self {
            at,
            interrupts: 0,
            next: Instant::now() + PATIENCE,
        }
    }

    /// What is open when it was interrupted once more, unless that was often enough.
    fn again(self) -> Option<Self> {
        let interrupts = self.interrupts + 1;
        (interrupts < INTERRUPTS).then(|| Self {
            interrupts,
            next: Instant::now() + PATIENCE,
            ..self
        })
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
            sent: Sent::new()?,
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

    /// Signals that somebody sends to the guest.
    pub(super) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// Passes signals on to the guest until its tracer has ended. Whatever the tracer waits in then is interrupted. Without it
    /// the guest would not get them: where it does nothing else for a while, a guest that is to end is killed.
    pub(super) fn wait(&self) -> io::Result<()> {
        let mut asked: Option<Asked> = None;
        loop {
            let mut polls = [
                PollFd::new(&self.end, PollFlags::IN),
                PollFd::from_borrowed_fd(self.operator.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.sent.as_fd(), PollFlags::IN),
            ];
            let next = asked.map(|asked| asked.next);
            let next = next.into_iter().chain(self.sent.deadline()).min();
            let left = next.map(|next| next.saturating_duration_since(Instant::now()));
            let patience = left.and_then(|left| Timespec::try_from(left).ok());
            match rustix::event::poll(&mut polls, patience.as_ref()) {
                Err(Errno::INTR) => continue,
                came => came?,
            };
            let is_there = |poll: &PollFd<'_>| !poll.revents().is_empty();
            if is_there(&polls[0]) {
                return Ok(());
            }
            // What comes to both is here, as far as the kernel told both at once.
            while let Some(signal) = self.sent.hold(|heard| self.next(heard)) {
                asked = self.asked_by(signal, asked);
            }
            while let Some(signal) = self.sent.late() {
                self.sent.hold(|heard| self.send(heard, signal, None));
                asked = self.asked_by(signal, asked);
            }
            if let Some(open) = asked.filter(|asked| asked.next <= Instant::now()) {
                signals::interrupt(self.tracer.load(Ordering::Acquire));
                asked = open.again().filter(|_| self.is_at(open));
                if asked.is_none() && self.is_at(open) {
                    let _ = rustix::process::pidfd_send_signal(&self.guest, Signal::KILL);
                }
            }
        }
    }

    /// The next that came, and has been passed on. One that stops waits for the tracer, too, from before it is taken until the tracer stops this process by it
    /// or has no use for it: whoever has this process go on takes it away.
    fn next(&self, heard: &mut Heard) -> Option<Signal> {
        let waiting = crate::signals::waiting();
        for stops in ASKS.into_iter().filter(|&signal| waiting.has(signal)) {
            let is_marked = self.mark(heard, stops);
            if let Some(came) = signals::take(stops) {
                self.pass_on(heard, came);
                return Some(came.signal);
            }
            // Somebody has had this process go on meanwhile. If that does not wait, the mark has taken it away.
            if is_marked && !crate::signals::waiting().has(libc::SIGCONT) {
                self.send(heard, Signal::CONT, None);
                return Some(Signal::CONT);
            }
        }
        let came = self.operator.next()?;
        self.pass_on(heard, came);
        Some(came.signal)
    }

    /// Has `signal` wait for the tracer, which blocks it, if that is there.
    fn mark(&self, heard: &mut Heard, signal: i32) -> bool {
        let tracer = self.tracer.load(Ordering::Acquire);
        let is_marked = tracer != 0 && crate::signals::send_to(tracer, signal).is_ok();
        if is_marked {
            heard.mark(signal);
        }
        is_marked
    }

    /// Passes on what `came`, unless a terminal has told the guest as well, and that holds.
    fn pass_on(&self, heard: &mut Heard, came: Came) {
        let is_lost = heard.take_overtaken(came.signal.as_raw());
        if came.is_sent || is_lost {
            self.send(heard, came.signal, Some(came.sender));
        }
    }

    /// Sends `signal` to the guest, for `sender` if there is one.
    fn send(&self, heard: &mut Heard, signal: Signal, sender: Option<i32>) {
        heard.pass_on(self.guest.as_fd(), signal, sender);
        if signal == Signal::CONT {
            // What stops and has come to both meanwhile, it has taken away from the guest.
            let waiting = crate::signals::waiting();
            let meanwhile = ASKS.into_iter().filter(|&stops| waiting.has(stops));
            meanwhile.for_each(|stops| heard.overtake(stops));
        }
    }

    /// Has the guest go on, as somebody had this process go on, which what stops and was sent next has taken away. Of that, what has been passed on
    /// already comes once more. The tracer alone may ask for it, for whom that waits.
    fn goes_on(&self, heard: &mut Heard) {
        let waiting = crate::signals::waiting();
        let is_later = |&signal: &i32| heard.is_marked(signal) && waiting.has(signal);
        let later: Vec<i32> = ASKS.into_iter().filter(is_later).collect();
        self.send(heard, Signal::CONT, None);
        for signal in later.into_iter().filter_map(Signal::from_named_raw) {
            heard.pass_on_again(self.guest.as_fd(), signal);
        }
    }

    /// Does `stop`, beside which nothing is passed on; and then, where somebody has had this process go on, has the guest go on before it does anything.
    pub(super) fn follow(
        &self,
        stop: impl FnOnce(&mut Heard) -> io::Result<Followed>,
    ) -> io::Result<Followed> {
        self.sent.hold(|heard| {
            let followed = stop(heard)?;
            let has_come = self.take(heard, libc::SIGCONT);
            if !has_come && followed == Followed::GoesOn {
                self.goes_on(heard);
            }
            Ok(followed)
        })
    }

    /// A terminal has told the guest of `signal`, and with it this process, where the kernel would keep one of what waits of that, and what somebody sends.
    pub(super) fn terminal_tells(&self, signal: i32) {
        self.sent.hold(|heard| self.take(heard, signal));
    }

    /// Passes on what waits of `signal`, in the place of the first thread. Whether there was some.
    fn take(&self, heard: &mut Heard, signal: i32) -> bool {
        let mut came = signals::take(signal);
        // Its mark comes first.
        if came.is_some_and(Came::is_own) {
            heard.take_mark(signal);
            came = signals::take(signal);
        }
        if let Some(came) = came {
            self.pass_on(heard, came);
        }
        came.is_some()
    }

    /// What is open once `signal` has been passed on. Who asks again does not have the guest wait for longer.
    fn asked_by(&self, signal: Signal, asked: Option<Asked>) -> Option<Asked> {
        if !ENDS.contains(&signal) || asked.is_some_and(|asked| self.is_at(asked)) {
            return asked;
        }
        self.pulse.now().map(Asked::now)
    }

    /// The tracer does what it did then.
    fn is_at(&self, asked: Asked) -> bool {
        self.pulse.now() == Some(asked.at)
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
