//! Calls on sockets, which exist with `--net host`: the host's own.

use std::ops::Range;

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::dispatch::Arg;
use super::host::{self, Direction, Message};
use super::stream::skip;
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, dispatch, process};
use crate::memory::Access;
use crate::network::Limits;

/// Longest address of a socket (`struct sockaddr_storage`).
const MOST_NAME: u64 = 128;
/// Most bytes of control messages, as `net.core.optmem_max` has it.
const MOST_CONTROL: u64 = 20 << 10;
const DONTWAIT: i32 = libc::MSG_DONTWAIT;
/// Messages that one `sendmmsg` or `recvmmsg` moves, as under Linux.
const MOST_MESSAGES: u64 = 1024;
/// Bytes of a `struct mmsghdr`.
const MANY_HEADER: u64 = 64;

/// `struct msghdr` in the guest's memory.
#[derive(Clone, Copy, Debug)]
struct Header {
    name: u64,
    name_length: u32,
    vectors: u64,
    count: u64,
    control: u64,
    control_length: u64,
}

impl Header {
    const BYTES: usize = 56;

    fn of(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        Self {
            name: word(0),
            name_length: word(NAME_LENGTH as usize) as u32,
            vectors: word(16),
            count: word(24),
            control: word(32),
            control_length: word(CONTROL_LENGTH as usize),
        }
    }
}

const NAME_LENGTH: u64 = 8;
const CONTROL_LENGTH: u64 = 40;
const FLAGS: u64 = 48;

/// Families that there are: local, IPv4, IPv6.
const FAMILIES: [u64; 3] = [
    libc::AF_UNIX as u64,
    libc::AF_INET as u64,
    libc::AF_INET6 as u64,
];
impl Linux {
    fn network(&self) -> Result<(), Stop> {
        if self.reach.network {
            Ok(())
        } else {
            Err(Stop::Refused(Errno::AFNOSUPPORT))
        }
    }

    /// `accept` or `accept4`: at once, or the listener is waited for.
    fn accepted(&mut self, number: libc::c_long, kinds: &[Arg], arguments: Arguments) -> Served {
        let descriptor = self.descriptor(arguments[0])?;
        let waits = !host::is_nonblocking(descriptor)?;
        let accepted = host::at_once(&[descriptor], || {
            dispatch::pass(self, number as u64, kinds, arguments)
        });
        match accepted {
            Err(Stop::Error(Errno::AGAIN)) if waits => {
                Err(self.wait_for(descriptor, Direction::In))
            }
            accepted => accepted,
        }
    }

    /// The address at `at`, if `may` be used by the limits of the network. Names of local sockets are the host's: abstract ones, of which an empty name is
    /// given one, are not a guest's business, and those in granted directories are with its network.
    fn address(
        &mut self,
        at: u64,
        length: u64,
        may: fn(&Limits, &[u8]) -> Result<(), Errno>,
    ) -> Result<Vec<u8>, Stop> {
        let length = u64::from(length as u32);
        if length > MOST_NAME {
            return Err(Errno::INVAL.into());
        }
        let mut name = vec![0; length as usize];
        self.memory.read(at, &mut name)?;
        let local = name.get(..2) == Some(&(libc::AF_UNIX as u16).to_le_bytes());
        if local && (!self.reach.network || name.get(2).is_none_or(|&first| first == 0)) {
            return Err(Errno::ACCESS.into());
        }
        may(&self.reach.limits, &name)?;
        Ok(name)
    }
}

/// Families, not kinds: the kernel says which of those take more than a guest has.
fn is_family(family: u64) -> Result<(), Stop> {
    if FAMILIES.contains(&family) {
        Ok(())
    } else {
        Err(Stop::Refused(Errno::AFNOSUPPORT))
    }
}

/// `socket`.
pub(super) fn socket(linux: &mut Linux, arguments: Arguments) -> Served {
    linux.network()?;
    // Interfaces and addresses are listed by netlink; changing them takes capabilities.
    if arguments[0] != libc::AF_NETLINK as u64 || arguments[2] != libc::NETLINK_ROUTE as u64 {
        is_family(arguments[0])?;
    }
    let kinds = [Arg::Value, Arg::Value, Arg::Value];
    dispatch::pass(linux, libc::SYS_socket as u64, &kinds, arguments)
}

/// `socketpair`, which takes no network.
pub(super) fn socketpair(linux: &mut Linux, arguments: Arguments) -> Served {
    is_family(arguments[0])?;
    let kinds = [Arg::Value, Arg::Value, Arg::Value, Arg::Descriptors];
    dispatch::pass(linux, libc::SYS_socketpair as u64, &kinds, arguments)
}

/// `accept`.
pub(super) fn accept(linux: &mut Linux, arguments: Arguments) -> Served {
    let kinds = [Arg::Descriptor, Arg::OutSized(2), Arg::Size];
    linux.accepted(libc::SYS_accept, &kinds, arguments)
}

/// `accept4`.
pub(super) fn accept4(linux: &mut Linux, arguments: Arguments) -> Served {
    let kinds = [Arg::Descriptor, Arg::OutSized(2), Arg::Size, Arg::Value];
    linux.accepted(libc::SYS_accept4, &kinds, arguments)
}

/// `bind`.
pub(super) fn bind(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    let name = linux.address(at, length, Limits::may_bind)?;
    Ok(host::bind(descriptor, &name)?)
}

/// `listen`.
pub(super) fn listen(linux: &mut Linux, [fd, backlog, ..]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    linux.reach.limits.may_listen(host::borrow(descriptor))?;
    Ok(host::listen(descriptor, backlog)?)
}

/// `connect`. One that takes time goes on in the background, as for a socket that does not wait, and
/// its end is waited for.
pub(super) fn connect(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    if linux.progress.started && !host::is_ready(descriptor, PollFlags::OUT)? {
        return Err(linux.wait_for(descriptor, Direction::Out));
    }
    let name = linux.address(at, length, Limits::may_connect)?;
    let nonblocking = host::is_nonblocking(descriptor)?;
    let connected = host::at_once(&[descriptor], || host::connect(descriptor, &name));
    match connected {
        // Asked again, the kernel says how it ended.
        Err(Errno::INPROGRESS | Errno::ALREADY) if !nonblocking => {
            linux.progress.started = true;
            Err(linux.wait_for(descriptor, Direction::Out))
        }
        // A local socket whose listener has no room: the kernel does not say when there is some.
        Err(Errno::AGAIN) if !nonblocking => {
            let soon = super::time::from_now(std::time::Duration::from_millis(2));
            Err(Stop::Wait(Wait::Until(soon)))
        }
        done => Ok(done?),
    }
}

fn flags_of(descriptor: i32, flags: i32) -> Result<bool, Errno> {
    Ok(flags & DONTWAIT != 0 || host::is_nonblocking(descriptor)?)
}

impl Linux {
    /// Receives one message; its bytes go to `ranges`.
    fn receive(
        &mut self,
        descriptor: i32,
        ranges: &[(u64, u64)],
        message: &mut Message,
        flags: i32,
    ) -> Served {
        let whole = flags & libc::MSG_WAITALL != 0;
        loop {
            let rest = skip(ranges, self.progress.bytes);
            let slices = self.memory.slices_of(&rest, Access::Write)?;
            let received = host::message(
                Direction::In,
                descriptor,
                &slices,
                message,
                flags | DONTWAIT,
            );
            let done = self.progress.bytes;
            match received {
                Ok(moved) => {
                    let wanted: u64 = rest.iter().map(|&(_, length)| length).sum();
                    if !whole || moved == 0 || moved >= wanted || flags & libc::MSG_PEEK != 0 {
                        return Ok(done + moved);
                    }
                    self.progress.bytes += moved;
                }
                Err(Errno::AGAIN) if !flags_of(descriptor, flags)? => {
                    // An error's message does not make anybody wait for it.
                    if flags & libc::MSG_ERRQUEUE != 0 {
                        return Err(Errno::AGAIN.into());
                    }
                    return Err(self.wait_for(descriptor, Direction::In));
                }
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn transmit(
        &mut self,
        descriptor: i32,
        ranges: &[(u64, u64)],
        message: &mut Message,
        flags: i32,
    ) -> Served {
        loop {
            let rest = skip(ranges, self.progress.bytes);
            let done = self.progress.bytes;
            if rest.is_empty() && done > 0 {
                return Ok(done);
            }
            let slices = self.memory.slices_of(&rest, Access::Read)?;
            let quiet = flags | DONTWAIT | libc::MSG_NOSIGNAL;
            match host::message(Direction::Out, descriptor, &slices, message, quiet) {
                Ok(moved) => {
                    // What came along came with the first byte.
                    message.control.clear();
                    self.progress.bytes += moved;
                    if rest.is_empty() || flags_of(descriptor, flags)? {
                        return Ok(self.progress.bytes);
                    }
                }
                Err(Errno::AGAIN) if !flags_of(descriptor, flags)? => {
                    return Err(self.wait_for(descriptor, Direction::Out));
                }
                Err(_) if done > 0 => return Ok(done),
                Err(Errno::PIPE) if flags & libc::MSG_NOSIGNAL == 0 => {
                    return self.written(Err(Errno::PIPE.into()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn header(&mut self, at: u64) -> Result<Header, Stop> {
        let mut bytes = [0; Header::BYTES];
        self.memory.read(at, &mut bytes)?;
        let mut header = Header::of(&bytes);
        if header.name == 0 {
            header.name_length = 0;
        } else if header.name_length.cast_signed() < 0 {
            return Err(Errno::INVAL.into());
        }
        // Linux cuts here, and here alone, what is too long.
        header.name_length = header.name_length.min(MOST_NAME as u32);
        Ok(header)
    }

    fn send_message(&mut self, fd: u64, at: u64, flags: u64) -> Served {
        let descriptor = self.descriptor(fd)?;
        let header = self.header(at)?;
        let ranges = self.vectors(header.vectors, header.count)?;
        let name = if header.name == 0 {
            Vec::new()
        } else {
            let length = u64::from(header.name_length);
            self.address(header.name, length, Limits::may_send)?
        };
        if header.control_length > MOST_CONTROL {
            return Err(Errno::NOBUFS.into());
        }
        let mut control = vec![0; header.control_length as usize];
        if header.control != 0 && self.progress.bytes == 0 {
            self.memory.read(header.control, &mut control)?;
        } else {
            control.clear();
        }
        for number in passed(&control) {
            self.descriptor(number as u64)?;
        }
        credentials(&mut control, |number| {
            if number == process::PID as i32 {
                process::number_on_host()
            } else {
                number
            }
        });
        let mut message = Message {
            name,
            control,
            ..Message::default()
        };
        self.transmit(descriptor, &ranges, &mut message, flags as i32)
    }

    fn receive_message(&mut self, fd: u64, at: u64, flags: u64) -> Served {
        let descriptor = self.descriptor(fd)?;
        let header = self.header(at)?;
        let ranges = self.vectors(header.vectors, header.count)?;
        let control = match header.control {
            0 => 0,
            _ => header.control_length.min(MOST_CONTROL) as usize,
        };
        let mut message = Message {
            name: room_for_name(header.name),
            control: vec![0; control],
            ..Message::default()
        };
        let moved = self.receive(descriptor, &ranges, &mut message, flags as i32)?;
        credentials(&mut message.control, process::number_for_guest);
        let told = self.tell_message(at, &header, &message);
        if told.is_err() {
            // What nobody was told of nobody would close.
            for number in passed(&message.control) {
                let _ = host::close(number);
            }
        }
        told.map(|()| moved)
    }

    fn tell_message(&mut self, at: u64, header: &Header, message: &Message) -> Result<(), Stop> {
        if header.name != 0 {
            self.tell_name(header.name, u64::from(header.name_length), message)?;
            self.memory
                .write_value(at + NAME_LENGTH, &message.name_length)?;
        }
        if header.control != 0 {
            self.memory.write(header.control, &message.control)?;
        }
        let length = message.control.len() as u64;
        self.memory.write_value(at + CONTROL_LENGTH, &length)?;
        self.memory
            .write_value(at + FLAGS, &message.flags.cast_unsigned())?;
        Ok(())
    }

    /// As much of the name as there is `room` for.
    fn tell_name(&mut self, at: u64, room: u64, message: &Message) -> Result<(), Stop> {
        let length = message.name.len().min(room as usize);
        Ok(self.memory.write(at, &message.name[..length])?)
    }
}

/// Room for a name of any length, if one is asked for: the kernel says how long it is even where the guest
/// has less.
fn room_for_name(at: u64) -> Vec<u8> {
    let room = if at == 0 { 0 } else { MOST_NAME as usize };
    vec![0; room]
}

/// Bytes of a `struct cmsghdr`, to which its messages are aligned by 8.
const CONTROL_HEADER: usize = 16;

/// Each control message: level, kind, and where its data is, which may reach beyond what there is.
fn control_messages(control: &[u8]) -> Vec<(i32, i32, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(header) = control.get(at..at + CONTROL_HEADER) {
        let word = |at: usize| {
            i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = header[..8].try_into().map_or(0, u64::from_le_bytes);
        let Some(bytes) = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(CONTROL_HEADER))
        else {
            break;
        };
        let start = at + CONTROL_HEADER;
        let end = start.saturating_add(bytes).min(control.len());
        found.push((word(8), word(12), start..end));
        match bytes
            .checked_next_multiple_of(8)
            .and_then(|bytes| start.checked_add(bytes))
        {
            Some(next) if next <= control.len() => at = next,
            _ => break,
        }
    }
    found
}

/// The descriptors that control messages pass on.
fn passed(control: &[u8]) -> Vec<i32> {
    let rights = control_messages(control)
        .into_iter()
        .filter(|message| (message.0, message.1) == (libc::SOL_SOCKET, libc::SCM_RIGHTS));
    rights
        .flat_map(|(.., data)| control[data].chunks_exact(4))
        .map(|number| i32::from_le_bytes([number[0], number[1], number[2], number[3]]))
        .collect()
}

/// Replaces the numbers of processes in control messages that say who sends.
fn credentials(control: &mut [u8], number: impl Fn(i32) -> i32) {
    for (level, kind, data) in control_messages(control) {
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS)
            && let Some(process) = control[data].first_chunk_mut::<4>()
        {
            *process = number(i32::from_le_bytes(*process)).to_le_bytes();
        }
    }
}

/// `recvfrom`.
pub(super) fn recvfrom(
    linux: &mut Linux,
    [fd, at, length, flags, name, size]: Arguments,
) -> Served {
    let descriptor = linux.descriptor(fd)?;
    let room = if name == 0 {
        0
    } else {
        let room: i32 = linux.memory.read_value(size)?;
        u64::try_from(room).map_err(|_| Errno::INVAL)?
    };
    let mut message = Message {
        name: room_for_name(name),
        ..Message::default()
    };
    let moved = linux.receive(descriptor, &[(at, length)], &mut message, flags as i32)?;
    if name != 0 {
        linux.tell_name(name, room, &message)?;
        linux.memory.write_value(size, &message.name_length)?;
    }
    Ok(moved)
}

/// `sendto`.
pub(super) fn sendto(linux: &mut Linux, [fd, at, length, flags, name, size]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    let name = if name == 0 {
        Vec::new()
    } else {
        linux.address(name, size, Limits::may_send)?
    };
    let mut message = Message {
        name,
        ..Message::default()
    };
    linux.transmit(descriptor, &[(at, length)], &mut message, flags as i32)
}

/// `recvmsg`.
pub(super) fn recvmsg(linux: &mut Linux, [fd, at, flags, ..]: Arguments) -> Served {
    linux.receive_message(fd, at, flags)
}

/// `sendmsg`.
pub(super) fn sendmsg(linux: &mut Linux, [fd, at, flags, ..]: Arguments) -> Served {
    linux.send_message(fd, at, flags)
}

/// `recvmmsg`: all of them, but with `MSG_WAITFORONE` what is there, at least one; likewise with a time, which
/// Linux looks at after a message only.
pub(super) fn recvmmsg(linux: &mut Linux, [fd, at, count, flags, time, _]: Arguments) -> Served {
    let one = time != 0 || flags & libc::MSG_WAITFORONE as u64 != 0;
    let flags = flags & !(libc::MSG_WAITFORONE as u64);
    many(linux, [at, count], |linux, at| {
        let later = one && linux.progress.messages > 0;
        let flags = if later {
            flags | DONTWAIT as u64
        } else {
            flags
        };
        linux.receive_message(fd, at, flags)
    })
}

/// `sendmmsg`.
pub(super) fn sendmmsg(linux: &mut Linux, [fd, at, count, flags, ..]: Arguments) -> Served {
    many(linux, [at, count], |linux, at| {
        linux.send_message(fd, at, flags)
    })
}

/// Moves messages until one fails.
fn many(
    linux: &mut Linux,
    [at, count]: [u64; 2],
    one: impl Fn(&mut Linux, u64) -> Served,
) -> Served {
    const LENGTH: u64 = 56;
    let count = u64::from(count as u32).min(MOST_MESSAGES);
    while linux.progress.messages < count {
        let skip = linux.progress.messages * MANY_HEADER;
        let at = at.checked_add(skip).ok_or(Errno::FAULT)?;
        match one(linux, at) {
            Ok(moved) => linux.memory.write_value(at + LENGTH, &(moved as u32))?,
            Err(Stop::Error(_)) if linux.progress.messages > 0 => break,
            Err(stop) => return Err(stop),
        }
        linux.progress.bytes = 0;
        linux.progress.waits = 0;
        linux.progress.messages += 1;
    }
    Ok(linux.progress.messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(level: i32, kind: i32, data: &[i32]) -> Vec<u8> {
        let mut bytes = (16 + data.len() as u64 * 4).to_le_bytes().to_vec();
        bytes.extend(level.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(data.iter().flat_map(|n| n.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn passed_descriptors_are_found() {
        let rights = control(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[3, 7, 41]);
        let other = control(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[1, 2, 3]);
        assert_eq!(passed(&rights), [3, 7, 41]);
        assert_eq!(
            passed(&[other.clone(), rights.clone()].concat()),
            [3, 7, 41]
        );
        assert_eq!(passed(&rights[..rights.len() - 6]), [3, 7]);
        let mut lying = rights;
        lying[..8].fill(0xff);
        assert_eq!(passed(&lying), [3, 7, 41, 0], "its padding too");
        lying[..8].fill(0);
        assert!(passed(&lying).is_empty());
        assert!(passed(&other).is_empty() && passed(&[1; 15]).is_empty());
    }

    #[test]
    fn who_sends_is_told_by_another_number() {
        let rights = control(libc::SOL_SOCKET, libc::SCM_RIGHTS, &[1, 2, 3]);
        let sender = |number| control(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[number, 2, 3]);
        let mut both = [rights.clone(), sender(4711)].concat();
        credentials(&mut both, |number| number - 4710);
        assert_eq!(both, [rights, sender(1)].concat());
    }
}
