//! Who a guest is: the user and the group that run the VMM, without any capability, for good.
//!
//! So calls that would change that do what they do for a process without capabilities: to become who one is
//! already succeeds, and to become anybody else is not permitted. A program that is told to run as the user it
//! is started as finds nothing missing.

// Handlers have one type, those that cannot fail too.
#![allow(clippy::unnecessary_wraps)]

use rustix::io::Errno;

use super::record::Record;
use super::{Arguments, Linux, Served};

/// For "as it is" in calls that set several.
const SAME: u32 = u32::MAX;
/// `NGROUPS_MAX`.
const MOST_GROUPS: u64 = 65536;

fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

fn group() -> u32 {
    rustix::process::getgid().as_raw()
}

/// `getuid`, `geteuid`.
pub(super) fn getuid(_: &mut Linux, _: Arguments) -> Served {
    Ok(user().into())
}

/// `getgid`, `getegid`.
pub(super) fn getgid(_: &mut Linux, _: Arguments) -> Served {
    Ok(group().into())
}

/// `setuid`.
pub(super) fn setuid(_: &mut Linux, [wanted, ..]: Arguments) -> Served {
    become_one(wanted, user())
}

/// `setgid`.
pub(super) fn setgid(_: &mut Linux, [wanted, ..]: Arguments) -> Served {
    become_one(wanted, group())
}

fn become_one(wanted: u64, own: u32) -> Served {
    match wanted as u32 {
        SAME => Err(Errno::INVAL.into()),
        wanted => become_all(&[wanted.into()], own),
    }
}

/// `setreuid`.
pub(super) fn setreuid(_: &mut Linux, [real, effective, ..]: Arguments) -> Served {
    become_all(&[real, effective], user())
}

/// `setregid`.
pub(super) fn setregid(_: &mut Linux, [real, effective, ..]: Arguments) -> Served {
    become_all(&[real, effective], group())
}

/// `setresuid`.
pub(super) fn setresuid(_: &mut Linux, [real, effective, saved, ..]: Arguments) -> Served {
    become_all(&[real, effective, saved], user())
}

/// `setresgid`.
pub(super) fn setresgid(_: &mut Linux, [real, effective, saved, ..]: Arguments) -> Served {
    become_all(&[real, effective, saved], group())
}

fn become_all(wanted: &[u64], own: u32) -> Served {
    let mut wanted = wanted.iter().map(|&wanted| wanted as u32);
    if wanted.all(|wanted| wanted == own || wanted == SAME) {
        Ok(0)
    } else {
        Err(Errno::PERM.into())
    }
}

/// `getresuid`.
pub(super) fn getresuid(linux: &mut Linux, at: Arguments) -> Served {
    tell_three(linux, at, user())
}

/// `getresgid`.
pub(super) fn getresgid(linux: &mut Linux, at: Arguments) -> Served {
    tell_three(linux, at, group())
}

fn tell_three(linux: &mut Linux, at: Arguments, own: u32) -> Served {
    for &at in &at[..3] {
        linux.memory.write_value(at, &own)?;
    }
    Ok(0)
}

/// `setfsuid`, which never fails and says who it was before.
pub(super) fn setfsuid(_: &mut Linux, _: Arguments) -> Served {
    Ok(user().into())
}

/// `setfsgid`.
pub(super) fn setfsgid(_: &mut Linux, _: Arguments) -> Served {
    Ok(group().into())
}

/// `getgroups`.
pub(super) fn getgroups(linux: &mut Linux, [room, at, ..]: Arguments) -> Served {
    let groups = groups()?;
    let room = usize::try_from(room as i32).map_err(|_| Errno::INVAL)?;
    if room == 0 {
        return Ok(groups.len() as u64);
    }
    if room < groups.len() {
        return Err(Errno::INVAL.into());
    }
    let record = groups
        .iter()
        .fold(Record::default(), |record, &group| record.u32(group));
    linux.memory.write(at, record.bytes())?;
    Ok(groups.len() as u64)
}

fn groups() -> Result<Vec<u32>, Errno> {
    let groups = rustix::process::getgroups()?;
    Ok(groups
        .into_iter()
        .map(rustix::process::Gid::as_raw)
        .collect())
}

/// `setgroups`.
pub(super) fn setgroups(linux: &mut Linux, [count, at, ..]: Arguments) -> Served {
    let mut bytes = vec![0; group_bytes(count)?];
    linux.memory.read(at, &mut bytes)?;
    set_groups(&bytes)?;
    Ok(0)
}

/// How many bytes a list of `count` groups has.
pub(crate) fn group_bytes(count: u64) -> Result<usize, Errno> {
    let count = u64::from(count as u32);
    if count > MOST_GROUPS {
        return Err(Errno::PERM);
    }
    Ok(count as usize * size_of::<u32>())
}

/// Fails unless the groups in `list` are those that this process has, and so the guest.
pub(crate) fn set_groups(list: &[u8]) -> Result<(), Errno> {
    let groups_of = list.chunks_exact(4);
    let mut wanted: Vec<u32> = groups_of
        .map(|group| u32::from_ne_bytes([group[0], group[1], group[2], group[3]]))
        .collect();
    let mut own = groups()?;
    wanted.sort_unstable();
    own.sort_unstable();
    if wanted == own {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// The version of `struct __user_cap_header_struct` that there is now.
pub(crate) const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Bytes of the sets of capabilities of such a version.
pub(crate) fn capability_bytes(version: u32) -> Option<usize> {
    const SET: usize = 12;
    match version {
        0x1998_0330 => Some(SET),
        0x2007_1026 | CAPABILITY_VERSION => Some(2 * SET),
        _ => None,
    }
}

/// `capget`: none, of any thread of the guest.
pub(super) fn capget(linux: &mut Linux, [header, data, ..]: Arguments) -> Served {
    let Some(bytes) = linux.capability_bytes(header)? else {
        return if data == 0 {
            Ok(0)
        } else {
            Err(Errno::INVAL.into())
        };
    };
    if data == 0 {
        return Ok(0);
    }
    let number: i32 = linux.memory.read_value(header.wrapping_add(4))?;
    match u64::try_from(number).map_err(|_| Errno::INVAL)? {
        0 => {}
        number => {
            linux.task_named(number).map_err(|_| Errno::SRCH)?;
        }
    }
    linux.memory.write(data, &vec![0; bytes])?;
    Ok(0)
}

/// `capset`: to none.
pub(super) fn capset(linux: &mut Linux, [header, data, ..]: Arguments) -> Served {
    let bytes = linux.capability_bytes(header)?.ok_or(Errno::INVAL)?;
    let number: i32 = linux.memory.read_value(header.wrapping_add(4))?;
    if number != 0 && number.cast_unsigned() != linux.tid() {
        return Err(Errno::PERM.into());
    }
    let mut sets = vec![0; bytes];
    linux.memory.read(data, &mut sets)?;
    if sets.iter().any(|&byte| byte != 0) {
        return Err(Errno::PERM.into());
    }
    Ok(0)
}

impl Linux {
    /// Bytes of the sets for the header at `at`, or none for a version that there is not: the header says then
    /// which there is.
    fn capability_bytes(&mut self, at: u64) -> Result<Option<usize>, super::Stop> {
        let bytes = capability_bytes(self.memory.read_value(at)?);
        if bytes.is_none() {
            self.memory.write_value(at, &CAPABILITY_VERSION)?;
        }
        Ok(bytes)
    }
}
