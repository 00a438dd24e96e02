//! Signals that somebody has sent to the guest: by the VMM, which passes on its own, or by itself, as whoever sends them to the whole process
//! group or to every process of a service does. Then there are two of one, and the guest is to have one.
//!
//! The two come in either order, and one that comes while another waits is none, to the kernel. So the VMM passes on what the guest does not
//! have already: what waits there, or was seen by its tracer, from the same sender, a moment ago. What comes to the guest from
//! somebody for whom something was passed on a moment ago, the tracer drops.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// In `si_errno` of what is passed on, beside the lower half of its own `si_code`. A sender may say this, and has one signal less by it.
const MARK: i32 = 0x506f_0000;
const MARKED: i32 = !0xffff;
/// How long the second of two is waited for, on a host however busy.
const PATIENCE: Duration = Duration::from_secs(3);
/// Signals without a second that are remembered, of each kind.
const MOST: usize = 16;

/// What of `siginfo_t` is set where a process has sent the signal (`asm-generic/siginfo.h`, x86-64).
#[repr(C)]
#[derive(Clone, Copy)]
struct Fields {
    signal: i32,
    error: i32,
    code: i32,
    padding: i32,
    sender: i32,
    user: u32,
    value: u64,
}

/// What is told of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) signal: i32,
    pub(super) code: i32,
    pub(super) sender: i32,
}

impl Sent {
    /// What came to the VMM.
    pub(super) fn to_vmm(info: &libc::signalfd_siginfo) -> Self {
        Self {
            signal: info.ssi_signo.cast_signed(),
            code: info.ssi_code,
            sender: info.ssi_pid.cast_signed(),
        }
    }
}

/// What the guest is told of what this process was told by `info`. The kernel lets no process say that another has sent a signal but by
/// this code, which a guest sees that waits for signals, and not for handlers.
pub(super) fn passed_on(info: &libc::signalfd_siginfo) -> libc::siginfo_t {
    let fields = Fields {
        signal: info.ssi_signo.cast_signed(),
        error: MARK | info.ssi_code & !MARKED,
        code: libc::SI_QUEUE,
        padding: 0,
        sender: info.ssi_pid.cast_signed(),
        user: info.ssi_uid,
        value: info.ssi_ptr,
    };
    whole(fields)
}

fn whole(fields: Fields) -> libc::siginfo_t {
    // SAFETY: all zeros are such a structure, which is larger than the fields and aligned as they are.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        std::ptr::from_mut(&mut info).cast::<Fields>().write(fields);
        info
    }
}

/// What `info` is about, and whether it was passed on: then it becomes what the sender's own was.
pub(super) fn take(info: &mut libc::siginfo_t) -> (Sent, bool) {
    // SAFETY: the structure is larger than the fields and aligned as they are, which any bytes are values of.
    let mut fields = unsafe { std::ptr::from_ref(info).cast::<Fields>().read() };
    let passed_on = fields.code == libc::SI_QUEUE && fields.error & MARKED == MARK;
    if passed_on {
        fields.code = i32::from(fields.error as i16);
        fields.error = 0;
        *info = whole(fields);
    }
    let sent = Sent {
        signal: fields.signal,
        code: fields.code,
        sender: fields.sender,
    };
    (sent, passed_on)
}

/// Signals that may still come a second time, as the VMM's two threads know them.
#[derive(Debug, Default)]
pub(super) struct Twice(Mutex<Heard>);

impl Twice {
    pub(super) fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Twice`].
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// What the guest has had from a sender, and not from the VMM.
    had: VecDeque<(Sent, Duration)>,
    /// The other way.
    passed_on: VecDeque<(Sent, Duration)>,
    /// What waited for the guest when its second came to the VMM.
    waits: u64,
}

impl Heard {
    /// Whether `sent`, which came to the VMM, is to be passed on `now`. It waits for the guest already: `waits`.
    pub(super) fn passes(&mut self, sent: Sent, waits: bool, now: Duration) -> bool {
        let bit = bit(sent.signal);
        forget_old(&mut self.had, now);
        let has_had = self.had.iter().any(|&(had, _)| had == sent);
        // All that has come of it until now came to the VMM as this one.
        self.had.retain(|(had, _)| had.signal != sent.signal);
        if waits {
            self.waits |= bit;
            self.passed_on.retain(|&(passed_on, _)| passed_on != sent);
            return false;
        }
        self.waits &= !bit;
        if !has_had {
            remember(&mut self.passed_on, sent, now);
        }
        !has_had
    }

    /// What was passed on is about to be delivered.
    pub(super) fn arrives(&mut self, sent: Sent) {
        self.waits &= !bit(sent.signal);
    }

    /// Whether `sent`, which comes to the guest from its sender `now`, has come by the VMM.
    pub(super) fn is_second(&mut self, sent: Sent, now: Duration) -> bool {
        let waited = self.waits & bit(sent.signal) != 0;
        self.waits &= !bit(sent.signal);
        if waited {
            return false;
        }
        forget_old(&mut self.passed_on, now);
        // One of them.
        let mut found = false;
        self.passed_on.retain(|&(passed_on, _)| {
            let is_first = !found && passed_on == sent;
            found |= is_first;
            !is_first
        });
        if !found {
            remember(&mut self.had, sent, now);
        }
        found
    }
}

/// The monotonic clock.
pub(super) fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

fn bit(signal: i32) -> u64 {
    1 << (signal.clamp(1, 64) - 1)
}

fn forget_old(list: &mut VecDeque<(Sent, Duration)>, now: Duration) {
    list.retain(|&(_, at)| now.saturating_sub(at) < PATIENCE);
}

fn remember(list: &mut VecDeque<(Sent, Duration)>, sent: Sent, now: Duration) {
    if list.len() == MOST {
        list.pop_front();
    }
    list.push_back((sent, now));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const TERM: Sent = Sent {
        signal: libc::SIGTERM,
        code: libc::SI_USER,
        sender: 7,
    };

    #[test]
    fn what_comes_to_both_counts_once() {
        let mut heard = Heard::default();
        assert!(!heard.is_second(TERM, NOW), "the guest first");
        assert!(!heard.passes(TERM, false, NOW));
        assert!(heard.passes(TERM, false, NOW), "sent again, to the VMM");
        assert!(heard.passes(TERM, false, NOW), "and again");
        assert!(heard.is_second(TERM, NOW), "and to the guest");
        let others = Sent { sender: 8, ..TERM };
        assert!(!heard.is_second(others, NOW), "somebody else's");
        let other = Sent {
            signal: libc::SIGINT,
            ..TERM
        };
        assert!(!heard.is_second(other, NOW), "another");
        assert!(heard.passes(other, false, NOW + PATIENCE), "later");
    }

    #[test]
    fn what_waits_is_not_sent_and_comes() {
        let mut heard = Heard::default();
        assert!(heard.passes(TERM, false, NOW));
        // Its second came while it waited itself, so there was none.
        assert!(!heard.passes(TERM, true, NOW), "again, to both");
        assert!(!heard.is_second(TERM, NOW), "the one that waited");
        assert!(heard.passes(TERM, false, NOW), "it has no second");
        heard.arrives(TERM);
        assert!(heard.is_second(TERM, NOW));
    }

    #[test]
    fn of_several_that_come_to_the_vmm_as_one_all_have_come() {
        let mut heard = Heard::default();
        assert!(!heard.is_second(TERM, NOW));
        assert!(!heard.is_second(TERM, NOW));
        assert!(!heard.passes(TERM, false, NOW));
        assert!(heard.passes(TERM, false, NOW));
    }

    #[test]
    fn what_has_no_second_is_forgotten() {
        let mut heard = Heard::default();
        for sender in 0..1000 {
            assert!(!heard.is_second(Sent { sender, ..TERM }, NOW));
            let other = Sent {
                sender: sender + 1000,
                ..TERM
            };
            assert!(heard.passes(other, false, NOW));
        }
        assert_eq!(heard.passed_on.len(), MOST);
        assert!(heard.had.len() <= MOST);
    }

    #[test]
    fn what_is_passed_on_is_what_was_sent() {
        // SAFETY: all zeros are such a structure.
        let mut told: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        (told.ssi_signo, told.ssi_pid, told.ssi_uid) = (15, 7, 1000);
        (told.ssi_code, told.ssi_ptr) = (libc::SI_TKILL, 42);
        let expected = Sent {
            code: libc::SI_TKILL,
            ..TERM
        };
        assert_eq!(Sent::to_vmm(&told), expected);
        let mut info = passed_on(&told);
        assert_eq!(take(&mut info), (expected, true));
        // SAFETY: the fields of such a signal are set.
        let (sender, value) = unsafe { (info.si_pid(), info.si_value().sival_ptr as u64) };
        assert_eq!((info.si_errno, info.si_code), (0, libc::SI_TKILL));
        assert_eq!((sender, value), (7, 42));
        assert_eq!(take(&mut info), (expected, false));
    }
}
