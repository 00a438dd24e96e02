//! `futex` (futex(2)): tasks that wait for a word of memory, and those that wake them.
//!
//! Tasks share one address space, so an address is the key, and for a word of a file that is mapped shared its place
//! there: there may be several addresses of it. Other guests and processes that map the file neither wake nor are
//! woken. Tasks on other processors run meanwhile: a word is compared and changed at once.

mod queues;

use pool_core::address::USER_ADDRESS_END;
use rustix::io::Errno;

pub(super) use self::queues::{Futexes, Word};
use self::queues::{Owner, Waiter};
use super::scheduler::Tid;
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, time};

/// All bits: whoever waits.
const ANY: u32 = u32::MAX;
/// Of a word with priority inheritance or of a robust one: tasks wait; the owner has died; its number.
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const OWNER: u32 = 0x3fff_ffff;
/// A robust list may be so long (`ROBUST_LIST_LIMIT`).
const LONGEST_LIST: usize = 2048;
/// Of an operation: the word is no other process's; times are of `CLOCK_REALTIME`.
const PRIVATE: u32 = 0x80;
const REALTIME: u32 = 0x100;
const LOCK: u32 = 6;
const LOCK_BY_CLOCK: u32 = 13;

/// `futex`.
pub(super) fn futex(
    linux: &mut Linux,
    [address, operation, value, timeout, second, third]: Arguments,
) -> Served {
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
        libc::CLOCK_REALTIME
    } else {
        libc::CLOCK_MONOTONIC
    };
    if realtime && !matches!(command, 9 | LOCK_BY_CLOCK) {
        return Err(Errno::NOSYS.into());
    }
    let private = operation & PRIVATE != 0;
    let word = linux.word_at(address, private)?;
    let futex = Futex { address, word };
    match command {
        0 => wait(linux, futex, value32, ANY, limit(clock, false)),
        9 => wait(linux, futex, value32, third as u32, limit(clock, true)),
        1 => wake(linux, word, count(value).max(1), ANY),
        10 => wake(linux, word, count(value).max(1), third as u32),
        3 | 4 => {
            let to = linux.word_at(second, private)?;
            let [Ok(woken), Ok(moved)] = [value, timeout].map(|n| u64::try_from(n as i32)) else {
                return Err(Errno::INVAL.into());
            };
            if command == 4 && linux.memory.read_value::<u32>(address)? != third as u32 {
                return Err(Errno::AGAIN.into());
            }
            requeue(linux, word, to, woken, moved)
        }
        5 => {
            let other = linux.word_at(second, private)?;
            let old = wake_operation(linux, second, third as u32)?;
            let mut woken = linux.wake_futex(word, count(value).max(1), ANY);
            if old {
                woken += linux.wake_futex(other, count(timeout).max(1), ANY);
            }
            Ok(woken)
        }
        LOCK => lock(linux, futex, limit(libc::CLOCK_REALTIME, true)),
        LOCK_BY_CLOCK => lock(linux, futex, limit(clock, true)),
        8 => try_lock(linux, futex),
        7 => unlock(linux, futex),
        _ => Err(Stop::Refused(Errno::NOSYS)),
    }
}

/// A word, and the address that a task uses it by.
#[derive(Clone, Copy)]
struct Futex {
    address: u64,
    word: Word,
}

/// How long to wait: the `timespec` at an address, null for ever.
#[derive(Clone, Copy)]
struct Limit {
    at: u64,
    /// The number of the clock that an absolute time is of.
    clock: i32,
    absolute: bool,
}

fn wait(linux: &mut Linux, futex: Futex, value: u32, bits: u32, limit: Limit) -> Served {
    if bits == 0 {
        return Err(Errno::INVAL.into());
    }
    if linux.task().futex.is_none() && !linux.progress.woken {
        // The time is looked at first, as Linux does: a wrong one is an error whatever the word is.
        set_deadline(linux, limit)?;
        if linux.memory.read_value::<u32>(futex.address)? != value {
            return Err(Errno::AGAIN.into());
        }
    }
    queue(linux, futex.word, bits, false)
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
fn queue(linux: &mut Linux, word: Word, bits: u32, owns: bool) -> Served {
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
        linux.task().futex = Some(word);
        linux.futexes.add(word, Waiter { task, bits, owns });
    }
    Err(Stop::Wait(Wait::Woken { deadline }))
}

fn wake(linux: &mut Linux, word: Word, count: u64, bits: u32) -> Served {
    if bits == 0 || linux.futexes.is_owned(word) {
        return Err(Errno::INVAL.into());
    }
    Ok(linux.wake_futex(word, count, bits))
}

fn requeue(linux: &mut Linux, from: Word, to: Word, woken: u64, moved: u64) -> Served {
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
fn lock(linux: &mut Linux, futex: Futex, limit: Limit) -> Served {
    let Futex { address, word } = futex;
    if linux.progress.woken || linux.task().futex.is_some() {
        return queue(linux, word, ANY, true);
    }
    set_deadline(linux, limit)?;
    let value = take_or(linux, futex, |linux, value| {
        if waits_for_oneself(linux, value & OWNER) {
            return Err(Errno::DEADLK);
        }
        Ok(value | WAITERS)
    })?;
    let task = value & OWNER;
    if task == 0 {
        return Ok(0);
    }
    let waits = queue(linux, word, ANY, true);
    if linux.futexes.is_owned(word) {
        linux.futexes.know_owner(word, Owner { task, address });
    }
    waits
}

fn try_lock(linux: &mut Linux, futex: Futex) -> Served {
    let value = take_or(linux, futex, |_, value| Ok(value))?;
    if value & OWNER == 0 {
        return Ok(0);
    }
    Err(Errno::AGAIN.into())
}

/// Makes the word of `futex` the running task's if it is nobody's, else what `other` makes of it if its owner
/// is another task that lives. What it was.
fn take_or(
    linux: &mut Linux,
    Futex { address, word }: Futex,
    other: impl Fn(&Linux, u32) -> Result<u32, Errno>,
) -> Result<u32, Stop> {
    let own = linux.tid();
    let awaited = linux.futexes.is_awaited(word);
    let mut value: u32 = linux.memory.read_value(address)?;
    loop {
        let owner = value & OWNER;
        let new = if owner == 0 {
            own | value & OWNER_DIED | if awaited { WAITERS } else { 0 }
        } else if owner == own {
            return Err(Errno::DEADLK.into());
        } else if linux.tasks.get(owner).is_none() {
            return Err(Errno::SRCH.into());
        } else {
            other(linux, value)?
        };
        let found = linux.memory.exchange(address, value, new)?;
        if found == value {
            return Ok(value);
        }
        value = found;
    }
}

/// True if `owner` waits to own a word of the running task, or of one that waits for such a word, and so on.
fn waits_for_oneself(linux: &Linux, owner: Tid) -> bool {
    let next = |&task: &Tid| {
        let word = linux.tasks.get(task)?.futex?;
        linux.futexes.awaited_owner(task, word)
    };
    // No longer than there are tasks: what programs write to their words may make a circle of others.
    let chain = std::iter::successors(Some(owner), next).take(linux.tasks.len());
    chain.skip(1).any(|task| task == linux.tid())
}

fn unlock(linux: &mut Linux, Futex { address, word }: Futex) -> Served {
    let value: u32 = linux.memory.read_value(address)?;
    if value & OWNER != linux.tid() {
        return Err(Errno::PERM.into());
    }
    hand_over(linux, address, word, 0)?;
    Ok(0)
}

/// Gives the word at `address` to the first that waits for it, if one does; `died` is set in it.
fn hand_over(linux: &mut Linux, address: u64, word: Word, died: u32) -> Result<(), Stop> {
    let next = linux.futexes.take_owner(word);
    let owner = next.unwrap_or(0);
    let waiters = linux.futexes.is_awaited(word);
    let value = owner | died | if waiters { WAITERS } else { 0 };
    linux.memory.write_value(address, &value)?;
    if let Some(task) = next {
        linux.wake_waiter(task);
    }
    Ok(())
}

impl Linux {
    /// The word at `address`: `private` if it is known to be no other mapping's.
    fn word_at(&self, address: u64, private: bool) -> Result<Word, Errno> {
        if !address.is_multiple_of(4) {
            Err(Errno::INVAL)
        } else if address >= USER_ADDRESS_END {
            Err(Errno::FAULT)
        } else if private {
            Ok(Word::At(address))
        } else {
            Ok(self.shared_word(address))
        }
    }

    fn shared_word(&self, address: u64) -> Word {
        let place = self.memory.file_place(address);
        place.map_or(Word::At(address), Word::Of)
    }

    /// Wakes one that waits at `address`, as [`super::thread::exit`] does.
    pub(super) fn wake_one(&mut self, address: u64) {
        self.wake_futex(self.shared_word(address), 1, ANY);
    }

    /// Wakes at most `count` of those that wait for one of `bits` of `word`; how many.
    fn wake_futex(&mut self, word: Word, count: u64, bits: u32) -> u64 {
        let woken = self.futexes.take(word, count, bits);
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
        if let Some(word) = task.and_then(|task| task.futex.take()) {
            self.futexes.remove(word, tid);
        }
    }

    /// The guest has ended: its tasks leave their locks to who maps the same files.
    pub fn release_all(&mut self) {
        // None of its own goes on.
        self.futexes = Futexes::default();
        let tids: Vec<Tid> = self.tasks.iter().map(|(tid, _)| tid).collect();
        for tid in tids {
            self.release_robust_list(tid);
        }
    }

    /// Task `tid` ends and leaves the locks of its robust list to others (the list's form is
    /// in futex.h, `struct robust_list_head`). What is wrong with the list is its own loss.
    pub(super) fn release_robust_list(&mut self, tid: Tid) {
        let head = self.tasks.get(tid).map_or(0, |task| task.robust_list);
        if head != 0 {
            let _ = self.walk_robust_list(tid, head);
        }
    }

    /// Gives the words that the running task owns to those that wait to own them: it ends
    /// (`exit_pi_state_list`).
    pub(super) fn release_owned(&mut self) {
        for (word, address) in self.futexes.owned_by(self.tid()) {
            // Where there is no memory any more nobody finds a word of his own.
            let _ = hand_over(self, address, word, OWNER_DIED);
        }
    }

    fn walk_robust_list(&mut self, tid: Tid, head: u64) -> Result<(), Stop> {
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
                self.release_robust(tid, (entry & !1).wrapping_add(offset), entry & 1 != 0)?;
            }
            entry = next?;
        }
        if pending != 0 {
            self.release_robust(tid, (pending & !1).wrapping_add(offset), pending & 1 != 0)?;
        }
        Ok(())
    }

    fn release_robust(&mut self, tid: Tid, address: u64, inherits: bool) -> Result<(), Stop> {
        let value: u32 = self.memory.read_value(address)?;
        if !address.is_multiple_of(4) || value & OWNER != tid {
            return Ok(());
        }
        let word = self.shared_word(address);
        if inherits || self.futexes.is_owned(word) {
            return hand_over(self, address, word, OWNER_DIED);
        }
        let value = change_word(self, address, |value| Ok(value & WAITERS | OWNER_DIED))?;
        if value & WAITERS != 0 {
            self.wake_futex(word, 1, ANY);
        }
        Ok(())
    }
}
