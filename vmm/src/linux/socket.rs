//! Calls on sockets, which exist with `--net host`: the host's own.

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::dispatch::Arg;
use super::host::{self, Direction, Message};
use super::stream::skip;
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, dispatch};
use crate::memory::Access;

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
    fn network(&self) -> Result<(), Errno> {
        if self.reach.network {
            Ok(())
        } else {
            Err(Errno::AFNOSUPPORT)
        }
    }

    /// Fails with what to wait for, unless somebody has connected to a listening socket. Of another
    /// descriptor the kernel says what is wrong with it.
    fn until_connected(&mut self, fd: u64) -> Result<(), Stop> {
        let descriptor = self.descriptor(fd)?;
        let listens = rustix::net::sockopt::socket_acceptconn(host::borrow(descriptor));
        if listens != Ok(true)
            || host::is_ready(descriptor, PollFlags::IN)?
            || host::is_nonblocking(descriptor)?
        {
            return Ok(());
        }
        Err(self.wait_for(descriptor, Direction::In))
    }

    /// The address at `at`. Abstract names of local sockets are the host's, and not a guest's business.
    fn address(&mut self, at: u64, length: u64) -> Result<Vec<u8>, Stop> {
        let length = u64::from(length as u32);
        if length > MOST_NAME {
            return Err(Errno::INVAL.into());
        }
        let mut name = vec![0; length as usize];
        self.memory.read(at, &mut name)?;
        let local = name.get(..2) == Some(&(libc::AF_UNIX as u16).to_le_bytes());
        if local && name.len() > 2 && (name[2] == 0 || !self.reach.world) {
            return Err(Errno::ACCESS.into());
        }
        Ok(name)
    }
}

/// Families, not kinds: the kernel says which of those take more than a guest has.
fn is_family(family: u64) -> Result<(), Errno> {
    if FAMILIES.contains(&family) {
        Ok(())
    } else {
        Err(Errno::AFNOSUPPORT)
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
    let kinds = [Arg::Value, Arg::Value, Arg::Value, Arg::Out(8)];
    dispatch::pass(linux, libc::SYS_socketpair as u64, &kinds, arguments)
}

/// `accept`.
pub(super) fn accept(linux: &mut Linux, arguments: Arguments) -> Served {
    let kinds = [Arg::Descriptor, Arg::OutSized(2), Arg::Size];
    linux.until_connected(arguments[0])?;
    dispatch::pass(linux, libc::SYS_accept as u64, &kinds, arguments)
}

/// `accept4`.
pub(super) fn accept4(linux: &mut Linux, arguments: Arguments) -> Served {
    let kinds = [Arg::Descriptor, Arg::OutSized(2), Arg::Size, Arg::Value];
    linux.until_connected(arguments[0])?;
    dispatch::pass(linux, libc::SYS_accept4 as u64, &kinds, arguments)
}

/// `bind`.
pub(super) fn bind(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    let name = linux.address(at, length)?;
    Ok(host::bind(descriptor, &name)?)
}

/// `connect`. One that takes time goes on in the background, as for a socket that does not wait, and
/// its end is waited for.
pub(super) fn connect(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    if linux.progress.started && !host::is_ready(descriptor, PollFlags::OUT)? {
        return Err(linux.wait_for(descriptor, Direction::Out));
    }
    let name = linux.address(at, length)?;
    let nonblocking = host::is_nonblocking(descriptor)?;
    if !nonblocking {
        rustix::io::ioctl_fionbio(host::borrow(descriptor), true)?;
    }
    let connected = host::connect(descriptor, &name);
    if !nonblocking {
        rustix::io::ioctl_fionbio(host::borrow(descriptor), false)?;
    }
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
        let header = Header::of(&bytes);
        if header.control_length > MOST_CONTROL {
            return Err(Errno::NOBUFS.into());
        }
        Ok(header)
    }

    fn send_message(&mut self, fd: u64, at: u64, flags: u64) -> Served {
        let descriptor = self.descriptor(fd)?;
        let header = self.header(at)?;
        let ranges = self.vectors(header.vectors, header.count)?;
        let name = if header.name == 0 {
            Vec::new()
        } else {
            self.address(header.name, u64::from(header.name_length))?
        };
        let mut control = vec![0; header.control_length as usize];
        if header.control != 0 && self.progress.bytes == 0 {
            self.memory.read(header.control, &mut control)?;
        } else {
            control.clear();
        }
        for number in passed(&control) {
            self.descriptor(number as u64)?;
        }
        let mut message = Message {
            name,
            control,
            flags: 0,
        };
        self.transmit(descriptor, &ranges, &mut message, flags as i32)
    }

    fn receive_message(&mut self, fd: u64, at: u64, flags: u64) -> Served {
        let descriptor = self.descriptor(fd)?;
        let header = self.header(at)?;
        let ranges = self.vectors(header.vectors, header.count)?;
        let room = |at: u64, length: u64| if at == 0 { 0 } else { length as usize };
        let mut message = Message {
            name: vec![0; room(header.name, u64::from(header.name_length).min(MOST_NAME))],
            control: vec![0; room(header.control, header.control_length)],
            flags: 0,
        };
        let moved = self.receive(descriptor, &ranges, &mut message, flags as i32)?;
        if header.name != 0 {
            self.memory.write(header.name, &message.name)?;
            let length = message.name.len() as u32;
            self.memory.write_value(at + NAME_LENGTH, &length)?;
        }
        if header.control != 0 {
            self.memory.write(header.control, &message.control)?;
        }
        let length = message.control.len() as u64;
        self.memory.write_value(at + CONTROL_LENGTH, &length)?;
        self.memory
            .write_value(at + FLAGS, &message.flags.cast_unsigned())?;
        Ok(moved)
    }
}

/// The descriptors that control messages pass on.
fn passed(control: &[u8]) -> Vec<i32> {
    /// Bytes of a `struct cmsghdr`, to which its messages are aligned by 8.
    const HEADER: usize = 16;
    let mut found = Vec::new();
    let mut rest = control;
    while let Some((header, data)) = rest.split_at_checked(HEADER) {
        let word = |at: usize| {
            i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = header[..8].try_into().map_or(0, u64::from_le_bytes);
        let Some(bytes) = usize::try_from(length)
            .ok()
            .and_then(|l| l.checked_sub(HEADER))
        else {
            break;
        };
        let data_here = &data[..bytes.min(data.len())];
        if word(8) == libc::SOL_SOCKET && word(12) == libc::SCM_RIGHTS {
            let numbers = data_here.chunks_exact(4);
            found.extend(numbers.map(|n| i32::from_le_bytes([n[0], n[1], n[2], n[3]])));
        }
        let Some(next) = bytes
            .checked_next_multiple_of(8)
            .filter(|&next| next <= data.len())
        else {
            break;
        };
        rest = &data[next..];
    }
    found
}

/// `setsockopt`. A close that waits until all is sent (`SO_LINGER` with a time) would have the whole guest
/// wait: it is refused with `ENOPROTOOPT`.
pub(super) fn setsockopt(linux: &mut Linux, arguments: Arguments) -> Served {
    let [_, level, name, at, length, _] = arguments;
    let lingers = level as i32 == libc::SOL_SOCKET && name as i32 == libc::SO_LINGER;
    if lingers && length >= 8 {
        let on: i32 = linux.memory.read_value(at)?;
        let seconds: i32 = linux.memory.read_value(at.wrapping_add(4))?;
        if on != 0 && seconds != 0 {
            return Err(Errno::NOPROTOOPT.into());
        }
    }
    let kinds = [
        Arg::Descriptor,
        Arg::Value,
        Arg::Value,
        Arg::InBytes(4),
        Arg::Value,
    ];
    dispatch::pass(linux, libc::SYS_setsockopt as u64, &kinds, arguments)
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
        u64::try_from(room)
            .map_err(|_| Errno::INVAL)?
            .min(MOST_NAME)
    };
    let mut message = Message {
        name: vec![0; room as usize],
        ..Message::default()
    };
    let moved = linux.receive(descriptor, &[(at, length)], &mut message, flags as i32)?;
    if name != 0 {
        linux.memory.write(name, &message.name)?;
        linux
            .memory
            .write_value(size, &(message.name.len() as u32))?;
    }
    Ok(moved)
}

/// `sendto`.
pub(super) fn sendto(linux: &mut Linux, [fd, at, length, flags, name, size]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    let name = if name == 0 {
        Vec::new()
    } else {
        linux.address(name, size)?
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

/// `recvmmsg`: what is there, at least one.
pub(super) fn recvmmsg(linux: &mut Linux, [fd, at, count, flags, ..]: Arguments) -> Served {
    many(linux, fd, at, count, flags, Linux::receive_message)
}

/// `sendmmsg`.
pub(super) fn sendmmsg(linux: &mut Linux, [fd, at, count, flags, ..]: Arguments) -> Served {
    many(linux, fd, at, count, flags, Linux::send_message)
}

/// Moves messages until one fails; only the first may wait.
fn many(
    linux: &mut Linux,
    fd: u64,
    at: u64,
    count: u64,
    flags: u64,
    one: fn(&mut Linux, u64, u64, u64) -> Served,
) -> Served {
    const LENGTH: u64 = 56;
    let mut done = 0;
    while done < count.min(MOST_MESSAGES) {
        let at = at.checked_add(done * MANY_HEADER).ok_or(Errno::FAULT)?;
        let waits = if done == 0 { 0 } else { DONTWAIT as u64 };
        match one(linux, fd, at, flags | waits) {
            Ok(moved) => linux.memory.write_value(at + LENGTH, &(moved as u32))?,
            Err(stop) if done == 0 => return Err(stop),
            Err(_) => break,
        }
        linux.progress.bytes = 0;
        done += 1;
    }
    Ok(done)
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
}
