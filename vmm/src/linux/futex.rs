//! `futex` (futex(2)): tasks that wait for a word of memory, and those that wake them.
//!
//! Tasks share one address space and no memory is shared with anybody else, so an address is the key,
//! private or not. Tasks on other processors run meanwhile: a word is compared and changed at once.

use std::collections::{BTreeMap, VecDeque};

use pool_core::address::USER_ADDRESS_END;
use rustix::io::Errno;
use rustix::time::ClockId;

use super::scheduler::Tid;
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, time};

const ANY: u32 = u32::MAX;
/// Of a word with priority inheritance or of a robust one: tasks wait; the owner has died; its number.
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const OWNER: u32 = 0x3fff_ffff;
/// A robust list may be so long (`ROBUST_LIST_LIMIT`).
const LONGEST_LIST: usize = 2048;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiter {
    task: Tid,
    bits: u32,
    /// Waits to own the word, rather than for a change.
    owns: bool,
}

/// Who waits for what, first come first; and who owns the words that are waited for to be owned, whatever
/// programs have made of them since (`struct futex_pi_state`).
#[derive(Debug, Default)]
pub(super) struct Futexes {
    queues: BTreeMap<u64, VecDeque<Waiter>>,
    owners: BTreeMap<u64, Tid>,
}

impl Futexes {
    fn add(&mut self, address: u64, waiter: Waiter) {
        self.queues.entry(address).or_default().push_back(waiter);
    }

    /// Takes at most `count` of those that wait at `address` for one of `bits`.
    fn take(&mut self, address: u64, count: u64, bits: u32) -> Vec<Waiter> {
        let mut taken = Vec::new();
        let Some(queue) = self.queues.get_mut(&address) else {
            return taken;
        };
        queue.retain(|waiter| {
            let takes = (taken.len() as u64) < count && waiter.bits & bits != 0;
            if takes {
                taken.push(*waiter);
            }
            !takes
        });
        if queue.is_empty() {
            self.queues.remove(&address);
        }
        taken
    }

    /// Takes the first that waits to own the word at `address`, which is its own then.
    fn take_owner(&mut self, address: u64) -> Option<Tid> {
        let queue = self.queues.get(&address)?;
        let task = queue.iter().find(|waiter| waiter.owns)?.task;
        self.remove(address, task);
        if self.is_owned(address) {
            self.owners.insert(address, task);
        }
        Some(task)
    }

    /// The words that `task` owns and others wait to own.
    fn owned_by(&self, task: Tid) -> Vec<u64> {
        let owned = self.owners.iter().filter(|&(_, owner)| *owner == task);
        owned.map(|(&address, _)| address).collect()
    }

    fn remove(&mut self, address: u64, task: Tid) {
        if let Some(queue) = self.queues.get_mut(&address) {
            queue.retain(|waiter| waiter.task != task);
            if queue.is_empty() {
                self.queues.remove(&address);
            }
        }
        if !self.is_owned(address) {
            self.owners.remove(&address);
        }
    }

    fn is_awaited(&self, address: u64) -> bool {
        self.queues.contains_key(&address)
    }

    fn is_owned(&self, address: u64) -> bool {
        let queue = self.queues.get(&address);
        queue.is_some_and(|queue| queue.iter().any(|waiter| waiter.owns))
    }
}

/// `futex`.
pub(super) fn futex(
    linux: &mut Linux,
    [address, operation, value, timeout, second, third]: Arguments,
) -> Served {
    const PRIVATE: u32 = 0x80;
    const REALTIME: u32 = 0x100;
    let operation = operation as u32;
    let command = operation & !(PRIVATE | REALTIME);
    let realtime = operation & REALTIME != 0;
    let value32 = value as u32;
    // A signed count; Linux takes 0 for 1 when it wakes.
    let count = |count: u64| (count as i32).max(0) as u64;
    let limit = |clock, absolute| Limit {
        at: timeout,
        clock,
        absolute,
    };
    let clock = if realtime {
        ClockId::Realtime
    } else {
        ClockId::Monotonic
    };
    if realtime && !matches!(command, 9 | 13) {
        return Err(Errno::NOSYS.into());
    }
    word_at(address)?;
    match command {
        0 => wait(linux, address, value32, ANY, limit(clock, false)),
        9 => wait(linux, address, value32, third as u32, limit(clock, true)),
        1 => wake(linux, address, count(value).max(1), ANY),
        10 => wake(linux, address, count(value).max(1), third as u32),
        3 | 4 => {
            word_at(second)?;
            let [Ok(woken), Ok(moved)] = [value, timeout].map(|n| u64::try_from(n as i32)) else {
                return Err(Errno::INVAL.into());
            };
            if command == 4 && linux.memory.read_value::<u32>(address)? != third as u32 {
                return Err(Errno::AGAIN.into());
            }
            requeue(linux, address, second, woken, moved)
        }
        5 => {
            word_at(second)?;
            let old = wake_operation(linux, second, third as u32)?;
            let mut woken = linux.wake_futex(address, count(value).max(1), ANY);
            if old {
                woken += linux.wake_futex(second, count(timeout).max(1), ANY);
            }
            Ok(woken)
        }
        6 => lock(linux, address, limit(ClockId::Realtime, true)),
        13 => lock(linux, address, limit(clock, true)),
        8 => try_lock(linux, address),
        7 => unlock(linux, address),
        _ => Err(Stop::Refused(Errno::NOSYS)),
    }
}

fn word_at(address: u64) -> Result<(), Errno> {
    if !address.is_multiple_of(4) {
        Err(Errno::INVAL)
    } else if address >= USER_ADDRESS_END {
        Err(Errno::FAULT)
    } else {
        Ok(())
    }
}

/// How long to wait: the `timespec` at an address, null for ever.
#[derive(Clone, Copy)]
struct Limit {
    at: u64,
    clock: ClockId,
    absolute: bool,
}

fn wait(linux: &mut Linux, address: u64, value: u32, bits: u32, limit: Limit) -> Served {
    if bits == 0 {
        return Err(Errno::INVAL.into());
    }
    if linux.task().futex.is_none() && !linux.progress.woken {
        // The time is looked at first, as Linux does: a wrong one is an error whatever the word is.
        set_deadline(linux, limit)?;
        if linux.memory.read_value::<u32>(address)? != value {
            return Err(Errno::AGAIN.into());
        }
    }
    queue(linux, address, bits, false)
}

fn set_deadline(linux: &mut Linux, limit: Limit) -> Result<(), Stop> {
    if limit.at != 0 && linux.progress.deadline.is_none() {
        let given = time::read_timespec(linux, limit.at)?;
        linux.progress.deadline = Some(if limit.absolute {
            time::monotonic(limit.clock, given)
        } else {
            time::from_now(time::duration(&given))
        });
    }
    Ok(())
}

/// Waits until woken: 0 then.
fn queue(linux: &mut Linux, address: u64, bits: u32, owns: bool) -> Served {
    if linux.progress.woken {
        return Ok(0);
    }
    let task = linux.tid();
    let deadline = linux.progress.deadline;
    let over = deadline.is_some_and(time::is_over);
    if linux.progress.interrupted || over {
        linux.leave_futex(task);
        if over {
            return Err(Errno::TIMEDOUT.into());
        }
    } else if linux.task().futex.is_none() {
        linux.task().futex = Some(address);
        linux.futexes.add(address, Waiter { task, bits, owns });
    }
    Err(Stop::Wait(Wait::Woken { deadline }))
}

fn wake(linux: &mut Linux, address: u64, count: u64, bits: u32) -> Served {
    if bits == 0 || linux.futexes.is_owned(address) {
        return Err(Errno::INVAL.into());
    }
    Ok(linux.wake_futex(address, count, bits))
}

fn requeue(linux: &mut Linux, from: u64, to: u64, woken: u64, moved: u64) -> Served {
    if linux.futexes.is_owned(from) || linux.futexes.is_owned(to) {
        return Err(Errno::INVAL.into());
    }
    let woken = linux.wake_futex(from, woken, ANY);
    let waiters = linux.futexes.take(from, moved, ANY);
    let moved = waiters.len() as u64;
    for waiter in waiters {
        if let Some(task) = linux.tasks.get_mut(waiter.task) {
            task.futex = Some(to);
        }
        linux.futexes.add(to, waiter);
    }
    Ok(woken + moved)
}

/// Puts what `change` makes of the word at `address` there: what it was.
fn change_word(
    linux: &mut Linux,
    address: u64,
    change: impl Fn(u32) -> Result<u32, Errno>,
) -> Result<u32, Stop> {
    let mut word = linux.memory.read_value(address)?;
    loop {
        let found = linux.memory.exchange(address, word, change(word)?)?;
        if found == word {
            return Ok(word);
        }
        word = found;
    }
}

/// Changes the word at `address` as `WAKE_OP` says, and compares what it was.
fn wake_operation(linux: &mut Linux, address: u64, encoded: u32) -> Result<bool, Stop> {
    let signed = |bits: u32| ((bits << 20) as i32) >> 20;
    let (mut operand, compared) = (signed(encoded >> 12 & 0xfff), signed(encoded & 0xfff));
    let operation = encoded >> 28;
    if operation & 8 != 0 {
        operand = 1i32.wrapping_shl(operand as u32 & 31);
    }
    let changed = |old: i32| match operation & 7 {
        0 => Ok(operand),
        1 => Ok(old.wrapping_add(operand)),
        2 => Ok(old | operand),
        3 => Ok(old & !operand),
        4 => Ok(old ^ operand),
        _ => Err(Errno::NOSYS),
    };
    let old = change_word(linux, address, |old| {
        changed(old.cast_signed()).map(i32::cast_unsigned)
    })?;
    let old = old.cast_signed();
    Ok(match encoded >> 24 & 0xf {
        0 => old == compared,
        1 => old != compared,
        2 => old < compared,
        3 => old <= compared,
        4 => old > compared,
        5 => old >= compared,
        _ => return Err(Errno::NOSYS.into()),
    })
}

/// `LOCK_PI`: there are no priorities to be inherited, but owners are known.
fn lock(linux: &mut Linux, address: u64, limit: Limit) -> Served {
    if linux.progress.woken || linux.task().futex.is_some() {
        return queue(linux, address, ANY, true);
    }
    set_deadline(linux, limit)?;
    let word = take_or(linux, address, |word| word | WAITERS)?;
    if word & OWNER == 0 {
        return Ok(0);
    }
    let waits = queue(linux, address, ANY, true);
    if linux.futexes.is_owned(address) {
        let owners = &mut linux.futexes.owners;
        owners.entry(address).or_insert(word & OWNER);
    }
    waits
}

fn try_lock(linux: &mut Linux, address: u64) -> Served {
    let word = take_or(linux, address, |word| word)?;
    if word & OWNER == 0 {
        return Ok(0);
    }
    Err(Errno::AGAIN.into())
}

/// Makes the word at `address` the running task's if it is nobody's, else what `other` makes of it if its owner
/// is another task that lives. What it was.
fn take_or(linux: &mut Linux, address: u64, other: impl Fn(u32) -> u32) -> Result<u32, Stop> {
    let own = linux.tid();
    let awaited = linux.futexes.is_awaited(address);
    let mut word: u32 = linux.memory.read_value(address)?;
    loop {
        let owner = word & OWNER;
        let new = if owner == 0 {
            own | word & OWNER_DIED | if awaited { WAITERS } else { 0 }
        } else if owner == own {
            return Err(Errno::DEADLK.into());
        } else if linux.tasks.get(owner).is_none() {
            return Err(Errno::SRCH.into());
        } else {
            other(word)
        };
        let found = linux.memory.exchange(address, word, new)?;
        if found == word {
            return Ok(word);
        }
        word = found;
    }
}

fn unlock(linux: &mut Linux, address: u64) -> Served {
    let word: u32 = linux.memory.read_value(address)?;
    if word & OWNER != linux.tid() {
        return Err(Errno::PERM.into());
    }
    hand_over(linux, address, 0)?;
    Ok(0)
}

/// Gives a word to the first that waits for it, if one does; `died` is set in it.
fn hand_over(linux: &mut Linux, address: u64, died: u32) -> Result<(), Stop> {
    let next = linux.futexes.take_owner(address);
    let owner = next.unwrap_or(0);
    let waiters = linux.futexes.is_awaited(address);
    let word = owner | died | if waiters { WAITERS } else { 0 };
    linux.memory.write_value(address, &word)?;
    if let Some(task) = next {
        linux.wake_waiter(task);
    }
    Ok(())
}

impl Linux {
    /// Wakes at most `count` of those that wait at `address` for one of `bits`; how many.
    pub(super) fn wake_futex(&mut self, address: u64, count: u64, bits: u32) -> u64 {
        let woken = self.futexes.take(address, count, bits);
        for waiter in &woken {
            self.wake_waiter(waiter.task);
        }
        woken.len() as u64
    }

    fn wake_waiter(&mut self, tid: Tid) {
        if let Some(task) = self.tasks.get_mut(tid) {
            task.futex = None;
            if let Some(pending) = &mut task.pending {
                pending.progress.woken = true;
            }
        }
        self.scheduler.wake(tid);
    }

    /// `tid` waits for its futex no more.
    pub(super) fn leave_futex(&mut self, tid: Tid) {
        let task = self.tasks.get_mut(tid);
        if let Some(address) = task.and_then(|task| task.futex.take()) {
            self.futexes.remove(address, tid);
        }
    }

    /// The running task ends and leaves the locks of its robust list to others (the list's form is
    /// in futex.h, `struct robust_list_head`). What is wrong with the list is its own loss.
    pub(super) fn release_robust_list(&mut self) {
        let head = self.task().robust_list;
        if head != 0 {
            let _ = self.walk_robust_list(head);
        }
    }

    /// Gives the words that the running task owns to those that wait to own them: it ends
    /// (`exit_pi_state_list`).
    pub(super) fn release_owned(&mut self) {
        for address in self.futexes.owned_by(self.tid()) {
            // Where there is no memory any more nobody finds a word of his own.
            let _ = hand_over(self, address, OWNER_DIED);
        }
    }

    fn walk_robust_list(&mut self, head: u64) -> Result<(), Stop> {
        let offset: u64 = self.memory.read_value(head.wrapping_add(8))?;
        let pending: u64 = self.memory.read_value(head.wrapping_add(16))?;
        let mut entry: u64 = self.memory.read_value(head)?;
        for _ in 0..LONGEST_LIST {
            if entry & !1 == head {
                break;
            }
            // Read first: whoever is woken may reuse the entry.
            let next = self.memory.read_value(entry & !1);
            if entry & !1 != pending & !1 {
                self.release_robust((entry & !1).wrapping_add(offset), entry & 1 != 0)?;
            }
            entry = next?;
        }
        if pending != 0 {
            self.release_robust((pending & !1).wrapping_add(offset), pending & 1 != 0)?;
        }
        Ok(())
    }

    fn release_robust(&mut self, address: u64, inherits: bool) -> Result<(), Stop> {
        let word: u32 = self.memory.read_value(address)?;
        if !address.is_multiple_of(4) || word & OWNER != self.tid() {
            return Ok(());
        }
        if inherits || self.futexes.is_owned(address) {
            return hand_over(self, address, OWNER_DIED);
        }
        let word = change_word(self, address, |word| Ok(word & WAITERS | OWNER_DIED))?;
        if word & WAITERS != 0 {
            self.wake_futex(address, 1, ANY);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(task: Tid, bits: u32) -> Waiter {
        Waiter {
            task,
            bits,
            owns: false,
        }
    }

    #[test]
    fn waiters_are_taken_in_order_by_their_bits() {
        let mut futexes = Futexes::default();
        for (task, bits) in [(1, 1), (2, 2), (3, 3), (4, 2)] {
            futexes.add(8, waiter(task, bits));
        }
        let tasks = |taken: Vec<Waiter>| taken.iter().map(|w| w.task).collect::<Vec<_>>();
        assert_eq!(tasks(futexes.take(8, 2, 2)), [2, 3]);
        assert_eq!(futexes.take(12, 9, ANY), []);
        assert_eq!(futexes.take(8, 0, ANY), []);
        assert_eq!(tasks(futexes.take(8, 9, ANY)), [1, 4]);
        assert!(!futexes.is_awaited(8));
    }

    #[test]
    fn a_word_is_handed_to_who_waits_to_own_it() {
        let mut futexes = Futexes::default();
        futexes.add(8, waiter(1, ANY));
        for task in [2, 3] {
            let owns = true;
            futexes.add(
                8,
                Waiter {
                    owns,
                    ..waiter(task, ANY)
                },
            );
        }
        futexes.owners.insert(8, 7);
        assert_eq!(futexes.owned_by(7), [8]);
        assert_eq!(futexes.take_owner(8), Some(2));
        assert!(futexes.owned_by(7).is_empty());
        assert_eq!(futexes.owned_by(2), [8]);
        assert_eq!(futexes.take_owner(8), Some(3));
        assert!(futexes.owners.is_empty(), "nobody waits to own it");
        assert_eq!(futexes.take_owner(8), None);
        assert!(futexes.is_awaited(8) && !futexes.is_owned(8));
    }

    #[test]
    fn whoever_leaves_is_not_taken() {
        let mut futexes = Futexes::default();
        futexes.add(8, waiter(1, ANY));
        futexes.add(8, waiter(2, ANY));
        futexes.remove(8, 1);
        futexes.remove(16, 2);
        assert_eq!(futexes.take(8, 9, ANY), [waiter(2, ANY)]);
        let nothing = futexes.queues.is_empty() && futexes.owners.is_empty();
        assert!(nothing, "nothing is left of a word");
    }
}
