//! Calls about threads: how they begin and end, their numbers, what each has of its own.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use pool_core::address::USER_ADDRESS_END;
use rustix::io::Errno;

use super::scheduler::Tid;
use super::signal::SignalStack;
use super::task::Task;
use super::{Arguments, Linux, Request, Served, Stop};
use crate::fault::Outcome;

/// What a thread shares with the others of its process: memory, file system, descriptors, signal
/// handlers. There are no tasks that share less.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD) as u64;
const SET_BASE: u64 = libc::CLONE_SETTLS as u64;
const PARENT_SET: u64 = libc::CLONE_PARENT_SETTID as u64;
const CHILD_SET: u64 = libc::CLONE_CHILD_SETTID as u64;
const CHILD_CLEAR: u64 = libc::CLONE_CHILD_CLEARTID as u64;
/// Makes no difference to threads: semaphores of System V, detachment, an I/O context.
const NEUTRAL: u64 = (libc::CLONE_SYSVSEM | libc::CLONE_DETACHED) as u64 | 0x8000_0000;
/// The signal that a process sends to its parent when it ends.
const EXIT_SIGNAL: u64 = 0xff;

/// A thread to be started: the one that runs is copied, but for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spawn {
    /// Its number.
    pub tid: Tid,
    /// Its stack pointer; `None` keeps that of the other.
    pub stack: Option<u64>,
    /// Its thread pointer (FS base); `None` keeps that of the other.
    pub thread_pointer: Option<u64>,
}

/// What `clone` and `clone3` are asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    flags: u64,
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    thread_pointer: u64,
}

/// `clone`.
pub(super) fn clone(
    linux: &mut Linux,
    [flags, stack, parent_tid, child_tid, thread_pointer, _]: Arguments,
) -> Served {
    let flags = flags & u64::from(u32::MAX);
    let wanted = Wanted {
        flags: flags & !EXIT_SIGNAL,
        stack,
        parent_tid,
        child_tid,
        thread_pointer,
    };
    start(linux, wanted)
}

/// `clone3`: the same in a structure.
pub(super) fn clone3(linux: &mut Linux, [at, size, ..]: Arguments) -> Served {
    const FIRST_SIZE: u64 = 64;
    const WORDS: usize = 11;
    if size < FIRST_SIZE {
        return Err(Errno::INVAL.into());
    }
    if size > pool_core::PAGE_SIZE {
        return Err(Errno::TOOBIG.into());
    }
    let mut bytes = vec![0; size as usize];
    linux.memory.read(at, &mut bytes)?;
    let known = bytes.len().min(WORDS * 8);
    if bytes[known..].iter().any(|&byte| byte != 0) {
        return Err(Errno::TOOBIG.into());
    }
    bytes.resize(WORDS * 8, 0);
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_le_bytes);
    }
    let [
        flags,
        _,
        child_tid,
        parent_tid,
        signal,
        stack,
        length,
        thread_pointer,
        ids,
        count,
        _,
    ] = words;
    let has_stack = (stack == 0) == (length == 0);
    if flags & EXIT_SIGNAL != 0 || !has_stack || (ids == 0) != (count == 0) {
        return Err(Errno::INVAL.into());
    }
    if flags & THREAD == THREAD && signal != 0 {
        return Err(Errno::INVAL.into());
    }
    if count != 0 {
        // To choose a number takes a privilege.
        return Err(Errno::PERM.into());
    }
    let wanted = Wanted {
        flags,
        stack: stack.wrapping_add(length),
        parent_tid,
        child_tid,
        thread_pointer,
    };
    start(linux, wanted)
}

fn start(linux: &mut Linux, wanted: Wanted) -> Served {
    let flags = wanted.flags;
    if flags & libc::CLONE_THREAD as u64 == 0 {
        return refuse_process(linux);
    }
    let known = THREAD | SET_BASE | PARENT_SET | CHILD_SET | CHILD_CLEAR | NEUTRAL;
    if flags & THREAD != THREAD || flags & !known != 0 {
        return Err(Stop::Refused(Errno::INVAL));
    }
    let base = (flags & SET_BASE != 0).then_some(wanted.thread_pointer);
    if base.is_some_and(|base| base >= USER_ADDRESS_END) {
        return Err(Errno::PERM.into());
    }
    if wanted.stack >= USER_ADDRESS_END {
        return Err(Errno::INVAL.into());
    }
    if linux.has_all_threads() {
        return Err(Errno::AGAIN.into());
    }
    let starter = linux.task();
    let (mask, name) = (starter.mask, starter.name);
    let (scheduling, attributes) = (
        starter.scheduling.inherited(),
        starter.attributes.inherited(),
    );
    let clear = flags & CHILD_CLEAR != 0;
    let tid = linux.tasks.add(Task {
        mask,
        name,
        clear_at_end: if clear { wanted.child_tid } else { 0 },
        stack: SignalStack::default(),
        scheduling,
        attributes,
        ..Task::default()
    })?;
    // Linux does not mind if it cannot tell the parent, and leaves the other to the child, which goes on too.
    for (asked, at) in [
        (PARENT_SET, wanted.parent_tid),
        (CHILD_SET, wanted.child_tid),
    ] {
        if flags & asked != 0 {
            let _ = linux.memory.write_value(at, &tid);
        }
    }
    linux.scheduler.add(tid);
    Err(Stop::Request(Request::Spawn(Spawn {
        tid,
        stack: (wanted.stack != 0).then_some(wanted.stack),
        thread_pointer: base,
    })))
}

fn refuse_process(linux: &mut Linux) -> Served {
    linux.unserved.process = true;
    Err(Errno::NOSYS.into())
}

/// `fork`, `vfork`, `execve`, `execveat`: a guest is one process, and stays the program it is.
pub(super) fn fork(linux: &mut Linux, _: Arguments) -> Served {
    refuse_process(linux)
}

/// `exit`: the end of one thread; of the guest, with this status, if it is the last.
pub(super) fn exit(linux: &mut Linux, [status, ..]: Arguments) -> Served {
    let tid = linux.tid();
    linux.release_robust_list(tid);
    linux.release_owned();
    let clear = linux.task().clear_at_end;
    // Linux does the same, and says nothing of it either when the address is wrong.
    if clear != 0 && linux.memory.write_value(clear, &0u32).is_ok() {
        linux.wake_one(clear);
    }
    if let Some(task) = linux.tasks.remove(tid) {
        linux.forget_task(&task);
    }
    linux.scheduler.end();
    if linux.tasks.is_empty() {
        return Err(Stop::End(Outcome::Exited(status as u8)));
    }
    Err(Stop::Ended)
}

/// `exit_group`: the end of the guest.
pub(super) fn exit_group(_: &mut Linux, [status, ..]: Arguments) -> Served {
    Err(Stop::End(Outcome::Exited(status as u8)))
}

/// `gettid`.
pub(super) fn gettid(linux: &mut Linux, _: Arguments) -> Served {
    Ok(linux.tid().into())
}

/// `set_tid_address`.
pub(super) fn set_tid_address(linux: &mut Linux, [at, ..]: Arguments) -> Served {
    linux.task().clear_at_end = at;
    Ok(linux.tid().into())
}

/// Bytes of a `struct robust_list_head`.
const ROBUST_HEAD: u64 = 24;

/// `set_robust_list`.
pub(super) fn set_robust_list(linux: &mut Linux, [head, size, ..]: Arguments) -> Served {
    if size != ROBUST_HEAD {
        return Err(Errno::INVAL.into());
    }
    linux.task().robust_list = head;
    Ok(0)
}

/// `get_robust_list`, of oneself (0) or of another task.
pub(super) fn get_robust_list(linux: &mut Linux, [number, head, size, ..]: Arguments) -> Served {
    let tid = if number as i32 == 0 {
        linux.tid()
    } else {
        linux.task_named(number).map_err(|_| Errno::SRCH)?
    };
    let found = linux.tasks.get(tid).map_or(0, |task| task.robust_list);
    linux.memory.write_value(size, &ROBUST_HEAD)?;
    linux.memory.write_value(head, &found)?;
    Ok(0)
}

/// A segment register whose base a program may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// FS: the thread pointer.
    Fs,
    /// GS.
    Gs,
}

/// `arch_prctl`: the bases of FS and GS. Programs may write them by instructions too, so the
/// processor knows what they are.
pub(super) fn arch_prctl(_: &mut Linux, [code, address, ..]: Arguments) -> Served {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    let code = code as u32;
    let base = match code {
        SET_FS | GET_FS => Base::Fs,
        SET_GS | GET_GS => Base::Gs,
        _ => return Err(Stop::Refused(Errno::INVAL)),
    };
    if matches!(code, GET_FS | GET_GS) {
        return Err(Stop::Request(Request::TellBase(base, address)));
    }
    if address >= USER_ADDRESS_END {
        return Err(Errno::PERM.into());
    }
    Err(Stop::Request(Request::SetBase(base, address)))
}

/// `sched_yield`: whoever else is ready runs first.
pub(super) fn sched_yield(linux: &mut Linux, _: Arguments) -> Served {
    linux.scheduler.end_turn();
    Ok(0)
}

/// `getcpu`: the one that the task runs on.
pub(super) fn getcpu(linux: &mut Linux, [processor, node, ..]: Arguments) -> Served {
    let here = linux.scheduler.here() as u32;
    for (at, value) in [(processor, here), (node, 0)] {
        if at != 0 {
            linux.memory.write_value(at, &value)?;
        }
    }
    Ok(0)
}
