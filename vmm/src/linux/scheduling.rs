//! How threads ask to be scheduled: policies, nice values, and processors that they would rather run on.
//!
//! What a guest asks for is kept, thread by thread, and read back; it has no effect on the host. Of rights it has what
//! a user without privileges and with no limit raised has: it can be nicer than it is, and never the other way; and the policies that
//! come before others' threads are not for it (sched(7)).

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use rustix::io::Errno;

use super::record::Record;
use super::scheduler::Tid;
use super::{Arguments, Linux, Served, Stop, process};

/// Policies (`linux/sched.h`).
const IDLE: u8 = libc::SCHED_IDLE as u8;
const DEADLINE: u8 = 6;
/// `SCHED_RESET_ON_FORK`, in a policy.
const RESETS: i32 = 0x4000_0000;
/// Bytes of `struct sched_attr`: in its first version, and now.
const FIRST_ATTRIBUTES: u32 = 48;
const ATTRIBUTES: u32 = 56;
/// Its flags: what is reset by a fork, what is kept, and hints of how much is used, which a kernel need not know.
const FLAG_RESETS: u64 = 0x1;
const FLAG_KEEPS_POLICY: u64 = 0x8;
const FLAG_KEEPS_PARAMETERS: u64 = 0x10;
const FLAG_HINTS: u64 = 0x60;
const FLAGS: u64 = 0x7f;
/// Nanoseconds that a deadline's runtime has at least, and its period at least and at most (kernel/sched/deadline.c).
const LEAST_RUNTIME: u64 = 1 << 10;
const PERIODS: std::ops::RangeInclusive<u64> = 100_000..=(1 << 22) * 1000;
/// Whose nice values a call is about: a thread's, a process group's, a user's.
const OF_THREAD: i32 = 0;
const OF_GROUP: i32 = 1;
const OF_USER: i32 = 2;

/// What a thread has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scheduling {
    policy: u8,
    nice: i8,
    resets: bool,
    /// A bit for each processor; none means all.
    processors: u64,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    /// `None` as it is.
    policy: Option<i32>,
    priority: i32,
    nice: i32,
    /// As `sched_setattr` has them.
    flags: u64,
    /// The runtime, the deadline and the period of one who has any.
    times: [u64; 3],
}

impl Wanted {
    fn has(self, flags: u64) -> bool {
        self.flags & flags != 0
    }

    fn is_deadline(self) -> bool {
        let [runtime, deadline, period] = self.times;
        let period = if period == 0 { deadline } else { period };
        runtime >= LEAST_RUNTIME
            && runtime <= deadline
            && deadline <= period
            && PERIODS.contains(&period)
    }
}

impl Scheduling {
    /// Of a guest whose first thread has this nice value.
    pub(super) fn new(nice: i32) -> Self {
        Self {
            nice: nice.clamp(-20, 19) as i8,
            ..Self::default()
        }
    }

    /// How nice it is.
    pub(super) fn nice(self) -> i32 {
        self.nice.into()
    }

    /// Of a thread that one with this starts.
    pub(super) fn inherited(self) -> Self {
        if !self.resets {
            return self;
        }
        Self {
            nice: self.nice.max(0),
            resets: false,
            ..self
        }
    }

    /// Sets what is `wanted`; what is wrong with it, in the kernel's order (kernel/sched/syscalls.c).
    fn set(&mut self, wanted: Wanted) -> Result<(), Errno> {
        let policy = wanted.policy.unwrap_or(self.policy.into());
        let resets = if wanted.policy.is_some() {
            wanted.has(FLAG_RESETS)
        } else {
            self.resets
        };
        let comes_first = match policy {
            libc::SCHED_FIFO | libc::SCHED_RR => true,
            0 | 3 | 5..=7 => false,
            _ => return Err(Errno::INVAL),
        };
        if wanted.has(!FLAGS) || !(0..=99).contains(&wanted.priority) {
            return Err(Errno::INVAL);
        }
        let policy = policy as u8;
        let has_deadline = policy == DEADLINE;
        if has_deadline && !wanted.is_deadline() || comes_first != (wanted.priority != 0) {
            return Err(Errno::INVAL);
        }
        let nicer = wanted.nice >= self.nice.into() || policy == IDLE;
        let leaves_idle = self.policy == IDLE && policy != IDLE;
        let comes_first = comes_first || has_deadline;
        if comes_first || !nicer || leaves_idle || self.resets && !resets {
            return Err(Errno::PERM);
        }
        if wanted.has(FLAG_HINTS) {
            return Err(Errno::OPNOTSUPP);
        }
        self.resets = resets;
        if wanted.has(FLAG_KEEPS_PARAMETERS) {
            return Ok(());
        }
        if policy != IDLE {
            self.nice = wanted.nice as i8;
        }
        self.policy = policy;
        Ok(())
    }

    /// Sets the nice value.
    fn be(&mut self, nice: i32) -> Result<(), Errno> {
        let nice = nice.clamp(-20, 19);
        if nice < self.nice.into() {
            return Err(Errno::ACCESS);
        }
        self.nice = nice as i8;
        Ok(())
    }
}

/// Those of `wanted` that a machine with so many processors has.
pub(crate) fn affinity(wanted: u64, processors: usize) -> Result<u64, Errno> {
    match wanted & all(processors) {
        0 => Err(Errno::INVAL),
        some => Ok(some),
    }
}

/// All of so many processors, at least one.
pub(crate) fn all(processors: usize) -> u64 {
    u64::MAX >> (64 - processors)
}

impl Linux {
    /// The task of this number, or for zero the one that asks.
    fn scheduled(&self, number: u64) -> Result<Tid, Errno> {
        match number as i32 {
            0 => Ok(self.tid()),
            number if number < 0 => Err(Errno::INVAL),
            _ => self.task_named(number),
        }
    }

    /// What a task that there is has asked for.
    fn scheduling(&mut self, tid: Tid) -> Result<&mut Scheduling, Errno> {
        let task = self.tasks.known_mut(tid).ok_or(Errno::SRCH)?;
        Ok(&mut task.scheduling)
    }

    /// The tasks that a nice value is about.
    fn nice_of(&self, which: u64, who: u64) -> Result<Vec<Tid>, Errno> {
        let who = who as u32;
        let is_one = match which as i32 {
            OF_THREAD => {
                let tid = if who == 0 { self.tid() } else { who };
                let there = self.tasks.known(tid).map(|_| vec![tid]);
                return there.ok_or(Errno::SRCH);
            }
            OF_GROUP => u64::from(who) == process::PID,
            OF_USER => who == rustix::process::getuid().as_raw(),
            _ => return Err(Errno::INVAL),
        };
        if who != 0 && !is_one {
            return Err(Errno::SRCH);
        }
        Ok(self.tasks.iter().map(|(tid, _)| tid).collect())
    }
}

/// `getpriority`, which is the larger the less nice a thread is, and never negative.
pub(super) fn getpriority(linux: &mut Linux, [which, who, ..]: Arguments) -> Served {
    let tasks = linux.nice_of(which, who)?;
    let nice = |&tid: &Tid| Some(linux.tasks.known(tid)?.scheduling.nice);
    let least = tasks.iter().filter_map(nice).min().ok_or(Errno::SRCH)?;
    Ok((20 - i64::from(least)) as u64)
}

/// `setpriority`.
pub(super) fn setpriority(linux: &mut Linux, [which, who, nice, ..]: Arguments) -> Served {
    let mut done = Ok(());
    for tid in linux.nice_of(which, who)? {
        done = linux.scheduling(tid)?.be(nice as i32).and(done);
    }
    done?;
    Ok(0)
}

/// `sched_setscheduler`.
pub(super) fn sched_setscheduler(linux: &mut Linux, [number, policy, at, ..]: Arguments) -> Served {
    match policy as i32 {
        policy if policy < 0 => Err(Errno::INVAL.into()),
        policy => set_parameters(linux, [number, at], Some(policy)),
    }
}

/// `sched_setparam`.
pub(super) fn sched_setparam(linux: &mut Linux, [number, at, ..]: Arguments) -> Served {
    set_parameters(linux, [number, at], None)
}

fn set_parameters(linux: &mut Linux, [number, at]: [u64; 2], policy: Option<i32>) -> Served {
    if at == 0 || (number as i32).is_negative() {
        return Err(Errno::INVAL.into());
    }
    let priority = linux.memory.read_value(at)?;
    let tid = linux.scheduled(number)?;
    let scheduling = linux.scheduling(tid)?;
    scheduling.set(Wanted {
        policy: policy.map(|policy| policy & !RESETS),
        priority,
        nice: scheduling.nice.into(),
        flags: match policy {
            Some(policy) if policy & RESETS != 0 => FLAG_RESETS,
            _ => 0,
        },
        ..Wanted::default()
    })?;
    Ok(0)
}

/// `sched_getscheduler`.
pub(super) fn sched_getscheduler(linux: &mut Linux, [number, ..]: Arguments) -> Served {
    let tid = linux.scheduled(number)?;
    let found = *linux.scheduling(tid)?;
    let resets = if found.resets { RESETS } else { 0 };
    Ok((i32::from(found.policy) | resets) as u64)
}

/// `sched_getparam`: no priority.
pub(super) fn sched_getparam(linux: &mut Linux, [number, at, ..]: Arguments) -> Served {
    if at == 0 {
        return Err(Errno::INVAL.into());
    }
    linux.scheduled(number)?;
    linux.memory.write_value(at, &0u32)?;
    Ok(0)
}

/// `sched_setattr`.
pub(super) fn sched_setattr(linux: &mut Linux, [number, at, flags, ..]: Arguments) -> Served {
    if at == 0 || (number as i32).is_negative() || flags as u32 != 0 {
        return Err(Errno::INVAL.into());
    }
    let bytes = read_attributes(linux, at)?;
    let word = |at: usize| {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
        word.map_or(0, |word| i32::from_le_bytes(*word))
    };
    let long = |at: usize| {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
        word.map_or(0, |word| u64::from_le_bytes(*word))
    };
    let (flags, times) = (long(8), [24, 32, 40].map(long));
    let (policy, nice, priority) = (word(4), word(16), word(20));
    if flags & FLAG_HINTS != 0 && bytes.len() < ATTRIBUTES as usize || policy < 0 {
        return Err(Errno::INVAL.into());
    }
    let tid = linux.scheduled(number)?;
    let scheduling = linux.scheduling(tid)?;
    let kept = flags & FLAG_KEEPS_PARAMETERS != 0;
    let wanted = Wanted {
        policy: (flags & FLAG_KEEPS_POLICY == 0).then_some(policy),
        priority,
        nice: if kept {
            scheduling.nice.into()
        } else {
            nice.clamp(-20, 19)
        },
        flags,
        times,
    };
    scheduling.set(wanted)?;
    Ok(0)
}

/// `struct sched_attr` at `at`, which says how long it is; what is longer than is known has to be zeros there.
fn read_attributes(linux: &mut Linux, at: u64) -> Result<Vec<u8>, Stop> {
    let size = match linux.memory.read_value::<u32>(at)? {
        0 => FIRST_ATTRIBUTES,
        size => size,
    };
    let mut bytes = Vec::new();
    let fits = (FIRST_ATTRIBUTES..=pool_core::PAGE_SIZE as u32).contains(&size);
    if fits {
        bytes.resize(size as usize, 0);
        linux.memory.read(at, &mut bytes)?;
    }
    let known = bytes.len().min(ATTRIBUTES as usize);
    if !fits || bytes.iter().skip(known).any(|&byte| byte != 0) {
        // Who cannot be told is told that much.
        let _ = linux.memory.write_value(at, &ATTRIBUTES);
        return Err(Errno::TOOBIG.into());
    }
    Ok(bytes)
}

/// `sched_getattr`.
pub(super) fn sched_getattr(linux: &mut Linux, [number, at, size, flags, ..]: Arguments) -> Served {
    let size = size as u32;
    let fits = (FIRST_ATTRIBUTES..=pool_core::PAGE_SIZE as u32).contains(&size);
    if at == 0 || (number as i32).is_negative() || !fits || flags as u32 != 0 {
        return Err(Errno::INVAL.into());
    }
    let tid = linux.scheduled(number)?;
    let found = *linux.scheduling(tid)?;
    let record = Record::default()
        .u32(size.min(ATTRIBUTES))
        .u32(found.policy.into())
        .u64(if found.resets { FLAG_RESETS } else { 0 })
        .u32(i32::from(found.nice).cast_unsigned())
        .zeros(size as usize - 20);
    linux.memory.write(at, record.bytes())?;
    Ok(0)
}

/// `sched_setaffinity`: which task runs where is the scheduler's matter all the same.
pub(super) fn sched_setaffinity(linux: &mut Linux, [number, size, at, ..]: Arguments) -> Served {
    let mut wanted = [0; 8];
    let given = wanted.len().min(size as u32 as usize);
    let given = wanted.get_mut(..given).unwrap_or_default();
    linux.memory.read(at, given)?;
    let tid = linux.scheduled(number).map_err(|_| Errno::SRCH)?;
    let processors = affinity(u64::from_le_bytes(wanted), linux.processors())?;
    linux.scheduling(tid)?.processors = processors;
    Ok(0)
}

/// `sched_getaffinity`: all that there are, unless the task has asked for some.
pub(super) fn sched_getaffinity(linux: &mut Linux, [number, size, at, ..]: Arguments) -> Served {
    if (size as u32) < 8 || !size.is_multiple_of(8) {
        return Err(Errno::INVAL.into());
    }
    let tid = linux.scheduled(number).map_err(|_| Errno::SRCH)?;
    let processors = match linux.scheduling(tid)?.processors {
        0 => all(linux.processors()),
        some => some,
    };
    linux.memory.write(at, &processors.to_le_bytes())?;
    Ok(8)
}

/// `sched_get_priority_max`.
pub(super) fn sched_get_priority_max(_: &mut Linux, [policy, ..]: Arguments) -> Served {
    priority(policy, 99)
}

/// `sched_get_priority_min`.
pub(super) fn sched_get_priority_min(_: &mut Linux, [policy, ..]: Arguments) -> Served {
    priority(policy, 1)
}

/// The priority of a policy: `of_real_time`, or none. The same policies as under Linux 6.12.
fn priority(policy: u64, of_real_time: u64) -> Served {
    match policy as i32 {
        libc::SCHED_FIFO | libc::SCHED_RR => Ok(of_real_time),
        // OTHER, BATCH, IDLE, DEADLINE, EXT.
        0 | 3 | 5..=7 => Ok(0),
        _ => Err(Errno::INVAL.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(policy: i32, priority: i32, nice: i32) -> Wanted {
        Wanted {
            policy: Some(policy),
            priority,
            nice,
            ..Wanted::default()
        }
    }

    #[test]
    fn a_thread_can_be_nicer_and_no_more() {
        let mut thread = Scheduling::new(5);
        assert_eq!(thread.be(4), Err(Errno::ACCESS));
        assert_eq!((thread.be(40), thread.nice), (Ok(()), 19));
        let mut thread = Scheduling::new(5);
        assert_eq!(thread.set(wanted(1, 1, 5)), Err(Errno::PERM));
        assert_eq!(thread.set(wanted(1, 0, 5)), Err(Errno::INVAL));
        assert_eq!(thread.set(wanted(0, 1, 5)), Err(Errno::INVAL));
        assert_eq!(thread.set(wanted(3, 0, 4)), Err(Errno::PERM));
        assert_eq!(thread.set(wanted(3, 0, 6)), Ok(()));
        assert_eq!((thread.policy, thread.nice), (3, 6));
        assert_eq!(thread.set(wanted(5, 0, 0)), Ok(()));
        assert_eq!(thread.set(wanted(0, 0, 6)), Err(Errno::PERM), "idle stays");
        assert_eq!(thread.nice, 6);
    }

    #[test]
    fn who_comes_first_is_nobody_here() {
        let mut thread = Scheduling::new(0);
        let mut with = |times| {
            let wanted = Wanted {
                times,
                ..wanted(6, 0, 0)
            };
            thread.set(wanted)
        };
        let ms = 1_000_000;
        assert_eq!(with([ms, 2 * ms, 3 * ms]), Err(Errno::PERM));
        assert_eq!(with([ms, 2 * ms, 0]), Err(Errno::PERM));
        for wrong in [
            [0; 3],
            [1000, ms, ms],
            [3 * ms, 2 * ms, 3 * ms],
            [ms, 3 * ms, 2 * ms],
            [2000, 3000, 4000],
            [ms, ms, 5000 * ms],
        ] {
            assert_eq!(with(wrong), Err(Errno::INVAL), "{wrong:?}");
        }
    }

    #[test]
    fn hints_come_last() {
        let mut thread = Scheduling::new(5);
        let hints = |nice, others| Wanted {
            flags: FLAG_HINTS | others,
            ..wanted(0, 0, nice)
        };
        assert_eq!(thread.set(hints(4, 0)), Err(Errno::PERM));
        assert_eq!(thread.set(hints(5, 1 << 12)), Err(Errno::INVAL));
        assert_eq!(thread.set(hints(5, 0)), Err(Errno::OPNOTSUPP));
    }

    #[test]
    fn what_is_reset_by_a_fork_is_not_inherited() {
        let mut thread = Scheduling::new(0);
        let resets = Wanted {
            flags: FLAG_RESETS,
            ..wanted(3, 0, 7)
        };
        assert_eq!(thread.set(resets), Ok(()));
        assert_eq!(thread.set(wanted(3, 0, 7)), Err(Errno::PERM));
        let expected = Scheduling {
            resets: false,
            ..thread
        };
        assert_eq!(thread.inherited(), expected);
        assert_eq!(expected.inherited(), expected);
        let thread = Scheduling { nice: -3, ..thread };
        assert_eq!(thread.inherited().nice, 0);
    }

    #[test]
    fn processors_are_those_that_there_are() {
        assert_eq!(affinity(u64::MAX, 2), Ok(3));
        assert_eq!(affinity(2, 2), Ok(2));
        assert_eq!(affinity(4, 2), Err(Errno::INVAL));
        assert_eq!(all(64), u64::MAX);
    }
}
