//! `prctl`: one list of what a guest can ask of its process and its threads, for both platforms.
//!
//! Most of it is kept here and has no effect, as there is nothing that it would concern: no privilege, no core, no child,
//! no end that anybody would hear of. What the platform has by itself is [`Answer::OfPlatform`].

use rustix::io::Errno;

use super::{Arguments, Linux, Served, Stop};

/// Highest number of a signal, and of a capability (Linux 5.9).
const LAST_SIGNAL: u64 = 64;
const LAST_CAPABILITY: u64 = 40;
/// How late a thread may be woken, in nanoseconds.
const SLACK: u64 = 50_000;
/// `PR_GET_TID_ADDRESS`, `PR_SET_IO_FLUSHER` and `PR_GET_IO_FLUSHER`, `PR_SET_PTRACER` (`linux/prctl.h`).
const GET_TID_ADDRESS: i32 = 40;
const SET_IO_FLUSHER: i32 = 57;
const GET_IO_FLUSHER: i32 = 58;
const SET_PTRACER: i32 = 0x5961_6d61;
const SET_VMA: i32 = 0x5356_4d41;

/// Of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OfProcess {
    is_dumpable: bool,
    is_reaper: bool,
    has_no_huge_pages: bool,
}

impl Default for OfProcess {
    fn default() -> Self {
        Self {
            is_dumpable: true,
            is_reaper: false,
            has_no_huge_pages: false,
        }
    }
}

/// Of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OfThread {
    /// The signal that it is sent when whoever started its process ends.
    at_end: u8,
    keeps_capabilities: bool,
    /// Nanoseconds, and those of whoever started it.
    slack: u64,
    first_slack: u64,
}

impl Default for OfThread {
    fn default() -> Self {
        Self {
            at_end: 0,
            keeps_capabilities: false,
            slack: SLACK,
            first_slack: SLACK,
        }
    }
}

impl OfThread {
    /// Of a thread that one with this starts.
    pub(crate) fn inherited(self) -> Self {
        Self {
            at_end: 0,
            first_slack: self.slack,
            ..self
        }
    }
}

/// What a call has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It returns this.
    Is(u64),
    /// It returns zero once this is written to its second argument.
    Tells(i32),
    /// It fails.
    Fails(Errno),
    /// A thread's name, where its number is written at its end, how late it is woken, huge pages: the platform knows.
    OfPlatform,
    /// It is not served.
    Unknown,
}

/// What the call with these arguments has come to.
pub(crate) fn answer(
    process: &mut OfProcess,
    thread: &mut OfThread,
    [option, value, third, fourth, fifth, _]: Arguments,
) -> Answer {
    let rest = third | fourth | fifth;
    let checked = |holds: bool, value: u64| {
        if holds {
            Answer::Is(value)
        } else {
            Answer::Fails(Errno::INVAL)
        }
    };
    match option as i32 {
        libc::PR_SET_NAME
        | libc::PR_GET_NAME
        | GET_TID_ADDRESS
        | libc::PR_SET_TIMERSLACK
        | libc::PR_GET_TIMERSLACK
        | libc::PR_SET_THP_DISABLE
        | libc::PR_GET_THP_DISABLE => Answer::OfPlatform,
        libc::PR_SET_PDEATHSIG if value <= LAST_SIGNAL => {
            thread.at_end = value as u8;
            Answer::Is(0)
        }
        libc::PR_GET_PDEATHSIG => Answer::Tells(thread.at_end.into()),
        libc::PR_GET_DUMPABLE => Answer::Is(process.is_dumpable.into()),
        libc::PR_SET_DUMPABLE if value <= 1 => {
            process.is_dumpable = value == 1;
            Answer::Is(0)
        }
        libc::PR_GET_KEEPCAPS => Answer::Is(thread.keeps_capabilities.into()),
        libc::PR_SET_KEEPCAPS if value <= 1 => {
            thread.keeps_capabilities = value == 1;
            Answer::Is(0)
        }
        libc::PR_SET_PDEATHSIG
        | libc::PR_SET_DUMPABLE
        | libc::PR_SET_KEEPCAPS
        // Without a name for memory, and without Yama.
        | SET_VMA
        | SET_PTRACER => Answer::Fails(Errno::INVAL),
        libc::PR_GET_CHILD_SUBREAPER => Answer::Tells(process.is_reaper.into()),
        libc::PR_SET_CHILD_SUBREAPER => {
            process.is_reaper = value != 0;
            Answer::Is(0)
        }
        libc::PR_GET_TIMING
        | libc::PR_GET_SECCOMP
        | libc::PR_TASK_PERF_EVENTS_DISABLE
        | libc::PR_TASK_PERF_EVENTS_ENABLE => Answer::Is(0),
        libc::PR_GET_SECUREBITS => {
            Answer::Is(u64::from(thread.keeps_capabilities) << KEEPS_CAPABILITIES)
        }
        libc::PR_SET_TIMING => checked(value == 0, 0),
        libc::PR_GET_TSC => Answer::Tells(libc::PR_TSC_ENABLE),
        libc::PR_SET_TSC if value as i32 == libc::PR_TSC_ENABLE => Answer::Is(0),
        libc::PR_SET_NO_NEW_PRIVS => checked(value == 1 && rest == 0, 0),
        libc::PR_GET_NO_NEW_PRIVS => checked(value | rest == 0, 1),
        libc::PR_CAPBSET_READ => checked(value <= LAST_CAPABILITY, 0),
        libc::PR_CAP_AMBIENT => ambient([value, third, fourth, fifth]),
        libc::PR_CAPBSET_DROP | libc::PR_SET_SECUREBITS | SET_IO_FLUSHER | GET_IO_FLUSHER => {
            Answer::Fails(Errno::PERM)
        }
        _ => Answer::Unknown,
    }
}

/// The bit of `SECBIT_KEEP_CAPS` (`linux/securebits.h`).
const KEEPS_CAPABILITIES: u32 = 4;

/// Capabilities over an exec: none.
fn ambient([what, capability, fourth, fifth]: [u64; 4]) -> Answer {
    let is_one = capability <= LAST_CAPABILITY && fourth | fifth == 0;
    // The kernel looks at all of it.
    match i32::try_from(what).unwrap_or(-1) {
        libc::PR_CAP_AMBIENT_CLEAR_ALL if capability | fourth | fifth == 0 => Answer::Is(0),
        libc::PR_CAP_AMBIENT_IS_SET | libc::PR_CAP_AMBIENT_LOWER if is_one => Answer::Is(0),
        libc::PR_CAP_AMBIENT_RAISE if is_one => Answer::Fails(Errno::PERM),
        _ => Answer::Fails(Errno::INVAL),
    }
}

/// `prctl`.
pub(super) fn prctl(linux: &mut Linux, arguments: Arguments) -> Served {
    let mut own = linux.task().attributes;
    let answer = answer(&mut linux.attributes, &mut own, arguments);
    linux.task().attributes = own;
    match answer {
        Answer::Is(value) => Ok(value),
        Answer::Tells(number) => {
            linux.memory.write_value(arguments[1], &number)?;
            Ok(0)
        }
        Answer::Fails(error) => Err(error.into()),
        Answer::OfPlatform => of_platform(linux, arguments),
        Answer::Unknown => Err(Stop::Refused(Errno::INVAL)),
    }
}

/// What the process platform leaves to the host's kernel.
fn of_platform(linux: &mut Linux, [option, value, third, fourth, fifth, _]: Arguments) -> Served {
    let rest = third | fourth | fifth;
    match option as i32 {
        libc::PR_SET_NAME => {
            let mut name = [0; 16];
            let length = name.len() - 1;
            for (at, byte) in name[..length].iter_mut().enumerate() {
                *byte = linux.memory.read_value(value.wrapping_add(at as u64))?;
                if *byte == 0 {
                    break;
                }
            }
            linux.task().name = name;
            Ok(0)
        }
        libc::PR_GET_NAME => {
            let mut name = linux.name_of(linux.tid());
            name.resize(16, 0);
            linux.memory.write(value, &name)?;
            Ok(0)
        }
        GET_TID_ADDRESS => {
            let clear = linux.task().clear_at_end;
            linux.memory.write_value(value, &clear)?;
            Ok(0)
        }
        libc::PR_GET_TIMERSLACK => Ok(linux.task().attributes.slack),
        libc::PR_SET_TIMERSLACK => {
            let own = &mut linux.task().attributes;
            own.slack = match value {
                0 => own.first_slack,
                some => some,
            };
            Ok(0)
        }
        libc::PR_SET_THP_DISABLE if rest == 0 => {
            linux.attributes.has_no_huge_pages = value != 0;
            Ok(0)
        }
        libc::PR_GET_THP_DISABLE if value | rest == 0 => {
            Ok(linux.attributes.has_no_huge_pages.into())
        }
        _ => Err(Errno::INVAL.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(process: &mut OfProcess, thread: &mut OfThread, arguments: [u64; 5]) -> Answer {
        let [option, value, third, fourth, fifth] = arguments;
        answer(process, thread, [option, value, third, fourth, fifth, 0])
    }

    #[test]
    fn what_is_set_is_read_back_and_what_is_a_threads_is_not_all_inherited() {
        let (mut process, mut thread) = (OfProcess::default(), OfThread::default());
        let mut ask = |arguments| ask(&mut process, &mut thread, arguments);
        let wrong = Answer::Fails(Errno::INVAL);
        for (arguments, expected) in [
            ([3, 0, 0, 0, 0], Answer::Is(1)),
            ([4, 0, 0, 0, 0], Answer::Is(0)),
            ([3, 0, 0, 0, 0], Answer::Is(0)),
            ([4, 2, 0, 0, 0], wrong),
            ([1, 9, 0, 0, 0], Answer::Is(0)),
            ([2, 0, 0, 0, 0], Answer::Tells(9)),
            ([1, 65, 0, 0, 0], wrong),
            ([8, 1, 0, 0, 0], Answer::Is(0)),
            ([7, 0, 0, 0, 0], Answer::Is(1)),
            ([27, 0, 0, 0, 0], Answer::Is(16)),
            ([38, 1, 0, 0, 0], Answer::Is(0)),
            ([38, 1, 1, 0, 0], wrong),
            ([39, 0, 0, 0, 0], Answer::Is(1)),
            ([23, 40, 0, 0, 0], Answer::Is(0)),
            ([23, 41, 0, 0, 0], wrong),
            ([47, 2, 1, 0, 0], Answer::Fails(Errno::PERM)),
            ([47, 4, 0, 0, 0], Answer::Is(0)),
            ([47, 4, 1, 0, 0], wrong),
            ([47, 1, 41, 0, 0], wrong),
            ([47, 4 | 1 << 32, 0, 0, 0], wrong),
            ([67, 1, 0, 0, 0], Answer::Unknown),
        ] {
            assert_eq!(ask(arguments), expected, "{arguments:?}");
        }
        thread.slack = 7;
        let other = thread.inherited();
        assert_eq!((other.at_end, other.keeps_capabilities), (0, true));
        assert_eq!((other.slack, other.first_slack), (7, 7));
    }
}
