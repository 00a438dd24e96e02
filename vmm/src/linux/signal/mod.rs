//! Signals: what a guest wants done about them, those that wait, and how they are sent.
//!
//! A signal is delivered at one place, when a task is about to run on ([`deliver`]). Until then it
//! waits in the task's queue or, sent to the process, in that of all tasks.

mod calls;
mod deliver;
mod frame;
mod send;

use std::collections::VecDeque;

use crate::job::STOPS;

pub(super) use self::calls::{
    kill, pause, rt_sigaction, rt_sigpending, rt_sigprocmask, rt_sigqueueinfo, rt_sigreturn,
    rt_sigsuspend, rt_sigtimedwait, rt_tgsigqueueinfo, sigaltstack, tgkill, tkill,
};
pub use self::deliver::{Exception, ExtendedState, StateError};
pub use self::frame::Shape;
pub(super) use self::send::{Target, raise};

/// Number of a signal: 1 to 64.
pub(super) type Signal = u8;
/// The highest number.
const LAST: Signal = 64;
/// The first of those of which several wait.
const REALTIME: Signal = 32;
/// Signals that wait, of all tasks together, from which on none is added to those of which several may.
const MOST_WAITING: usize = 4096;

/// The bit of `signal` in a set.
const fn bit(signal: Signal) -> u64 {
    1 << (signal - 1)
}

/// Those that cannot be blocked, caught or ignored.
const UNSTOPPABLE: u64 = bit(libc::SIGKILL as Signal) | bit(libc::SIGSTOP as Signal);
/// Those that an instruction brings about: they are delivered first.
const SYNCHRONOUS: u64 = bit(libc::SIGSEGV as Signal)
    | bit(libc::SIGBUS as Signal)
    | bit(libc::SIGILL as Signal)
    | bit(libc::SIGTRAP as Signal)
    | bit(libc::SIGFPE as Signal)
    | bit(libc::SIGSYS as Signal);
/// Those that do nothing by default.
const HARMLESS: u64 = bit(libc::SIGCHLD as Signal)
    | bit(libc::SIGURG as Signal)
    | bit(libc::SIGWINCH as Signal)
    | bit(libc::SIGCONT as Signal);

/// A signal and what is told of it (`siginfo_t`, as far as the kernel uses it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) signal: Signal,
    pub(super) code: i32,
    pub(super) error: i32,
    /// What depends on the code: sender, value, address.
    pub(super) fields: [u8; 32],
}

impl Info {
    /// Bytes of `siginfo_t`.
    pub(super) const BYTES: usize = 128;

    pub(super) fn new(signal: Signal, code: i32) -> Self {
        Self {
            signal,
            code,
            error: 0,
            fields: [0; 32],
        }
    }

    /// With `value` in the word of the fields number `at`.
    pub(super) fn with(mut self, at: usize, value: u64) -> Self {
        self.fields[at * 8..][..8].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// As `kill` and its like tell it: sent by the guest itself.
    pub(super) fn from_guest(signal: Signal, code: i32) -> Self {
        let user = u64::from(rustix::process::getuid().as_raw());
        Self::new(signal, code).with(0, super::process::PID | user << 32)
    }

    /// How often a timer expired more than it told.
    fn overrun(&self) -> i32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.fields[4..8]);
        i32::from_le_bytes(word)
    }

    fn with_overrun(mut self, overrun: i32) -> Self {
        self.fields[4..8].copy_from_slice(&overrun.to_le_bytes());
        self
    }

    /// The first word of the fields: an address, or a sender.
    pub(super) fn word(&self) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.fields[..8]);
        u64::from_le_bytes(word)
    }

    pub(super) fn bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&u32::from(self.signal).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.error.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.fields);
        bytes
    }

    /// What a guest hands over, as `signal`.
    fn parse(signal: Signal, bytes: &[u8; 48]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            i32::from_le_bytes(word)
        };
        let mut fields = [0; 32];
        fields.copy_from_slice(&bytes[16..]);
        Self {
            signal,
            error: word(4),
            code: word(8),
            fields,
        }
    }
}

/// Signals that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    set: u64,
    infos: VecDeque<Info>,
}

impl Queue {
    /// The signals that wait.
    pub(super) fn set(&self) -> u64 {
        self.set
    }

    /// Of those before [`REALTIME`] one at a time waits; false if that was so already.
    fn push(&mut self, info: Info) -> bool {
        let bit = bit(info.signal);
        if info.signal < REALTIME && self.set & bit != 0 {
            return false;
        }
        self.set |= bit;
        self.infos.push_back(info);
        true
    }

    /// Takes the signal of `among` that is next: one that an instruction brought about, or the lowest.
    fn take(&mut self, among: u64) -> Option<Info> {
        let there = self.set & among;
        let first = there & SYNCHRONOUS;
        let chosen = if first == 0 { there } else { first };
        if chosen == 0 {
            return None;
        }
        let signal = chosen.trailing_zeros() as Signal + 1;
        let at = self.infos.iter().position(|info| info.signal == signal)?;
        let info = self.infos.remove(at);
        if !self.infos.iter().any(|info| info.signal == signal) {
            self.set &= !bit(signal);
        }
        info
    }

    /// The signal of the timer that sends `info`, if it waits.
    fn find_timer(&mut self, info: &Info) -> Option<&mut Info> {
        let same = |other: &&mut Info| {
            other.code == libc::SI_TIMER
                && other.signal == info.signal
                && other.fields[..4] == info.fields[..4]
        };
        self.infos.iter_mut().find(same)
    }

    /// Forgets those of `set`.
    fn remove(&mut self, set: u64) {
        self.set &= !set;
        self.infos.retain(|info| bit(info.signal) & set == 0);
    }

    fn len(&self) -> usize {
        self.infos.len()
    }
}

/// What is done about a signal: the kernel's `struct sigaction` on x86-64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Action {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

impl Action {
    const BYTES: usize = 32;
    const DEFAULT: u64 = 0;
    const IGNORE: u64 = 1;

    fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        /// Flags that Linux knows; it forgets others, by which programs learn what it knows.
        const KNOWN: u64 = 0xdc00_0807;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at * 8..][..8]);
            u64::from_le_bytes(word)
        };
        Self {
            handler: word(0),
            flags: word(1) & KNOWN,
            restorer: word(2),
            mask: word(3),
        }
    }

    fn bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.handler, self.flags, self.restorer, self.mask];
        for (at, word) in words.into_iter().enumerate() {
            bytes[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn has(&self, flag: i32) -> bool {
        self.flags & u64::from(flag.cast_unsigned()) != 0
    }

    fn is_handler(&self) -> bool {
        !matches!(self.handler, Self::DEFAULT | Self::IGNORE)
    }

    /// True if `signal` stops the process.
    fn stops(&self, signal: Signal) -> bool {
        self.handler == Self::DEFAULT && STOPS.contains(&signal.into())
    }

    /// True if `signal` ends the process.
    fn ends(&self, signal: Signal) -> bool {
        self.handler == Self::DEFAULT && !self.stops(signal) && !self.ignores(signal)
    }

    /// True if nothing is done about `signal`.
    fn ignores(&self, signal: Signal) -> bool {
        self.handler == Self::IGNORE
            || (self.handler == Self::DEFAULT && HARMLESS & bit(signal) != 0)
    }
}

/// What all tasks share.
#[derive(Debug)]
pub(super) struct Signals {
    actions: [Action; LAST as usize],
    /// Sent to the process.
    shared: Queue,
    /// How many wait, of tasks too.
    waiting: usize,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            actions: [Action::default(); LAST as usize],
            shared: Queue::default(),
            waiting: 0,
        }
    }
}

impl Signals {
    fn action(&mut self, signal: Signal) -> &mut Action {
        &mut self.actions[usize::from(signal) - 1]
    }
}

/// The alternate stack of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SignalStack {
    start: u64,
    length: u64,
    disarms: bool,
}

impl SignalStack {
    const ON: u32 = 1;
    const DISABLED: u32 = 2;
    const DISARMS: u32 = 1 << 31;
    const BYTES: usize = 24;
    /// Less cannot hold a frame (`MINSIGSTKSZ`).
    const LEAST: u64 = 2048;

    fn is_set(&self) -> bool {
        self.length != 0
    }

    fn holds(&self, stack_pointer: u64) -> bool {
        stack_pointer > self.start && stack_pointer - self.start <= self.length
    }

    /// True while a handler runs on it, as far as can be told.
    fn is_used(&self, stack_pointer: u64) -> bool {
        !self.disarms && self.holds(stack_pointer)
    }

    fn bytes(&self, stack_pointer: u64) -> [u8; Self::BYTES] {
        let mut flags = if !self.is_set() {
            Self::DISABLED
        } else if self.is_used(stack_pointer) {
            Self::ON
        } else {
            0
        };
        if self.disarms {
            flags |= Self::DISARMS;
        }
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        bytes[16..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_waits_and_several_of_the_realtime_ones() {
        let mut queue = Queue::default();
        let with = |signal, value| Info::new(signal, 0).with(0, value);
        assert!(queue.push(with(10, 1)) && !queue.push(with(10, 2)));
        assert!(queue.push(with(40, 1)) && queue.push(with(40, 2)));
        assert_eq!(queue.take(!bit(10)), Some(with(40, 1)));
        assert_eq!(queue.set(), bit(10) | bit(40));
        assert_eq!(queue.take(u64::MAX), Some(with(10, 1)));
        assert_eq!(queue.take(u64::MAX), Some(with(40, 2)));
        assert_eq!((queue.take(u64::MAX), queue.set()), (None, 0));
    }

    #[test]
    fn what_an_instruction_did_comes_first() {
        let mut queue = Queue::default();
        for signal in [1, 11, 5] {
            queue.push(Info::new(signal, 0));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.take(u64::MAX)).collect();
        let order: Vec<_> = order.iter().map(|info| info.signal).collect();
        assert_eq!(order, [5, 11, 1]);
    }

    #[test]
    fn information_is_laid_out_as_the_kernel_does() {
        let info = Info::new(11, 1).with(0, 0x1234_5678_9abc);
        let bytes = info.bytes();
        assert_eq!(
            bytes[..16],
            [11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(bytes[16..24], 0x1234_5678_9abcu64.to_le_bytes());
        let mut head = [0; 48];
        head.copy_from_slice(&bytes[..48]);
        assert_eq!(Info::parse(11, &head), info);
    }

    #[test]
    fn an_alternate_stack_is_in_use_while_the_stack_pointer_is_in_it() {
        let stack = SignalStack {
            start: 0x1000,
            length: 0x1000,
            disarms: false,
        };
        let flags = |stack: SignalStack, at| stack.bytes(at)[8];
        assert_eq!(flags(stack, 0x1000), 0);
        assert_eq!(flags(stack, 0x2000), 1);
        assert_eq!(flags(stack, 0x2001), 0);
        assert_eq!(flags(SignalStack::default(), 0), 2);
    }
}
