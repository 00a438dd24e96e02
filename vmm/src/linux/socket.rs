//! Calls on sockets, which exist with `--net host`: the host's own.

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::time::ClockId;

use super::dispatch::Arg;
use super::host::{self, Direction, Message};
use super::message::{
    Header, MANY_HEADER, MANY_LENGTH, MOST_CONTROL, MOST_MESSAGES, MOST_NAME, MOST_VECTORS,
    control_messages, credentials, passed,
};
use super::record::Record;
use super::stream::{MOST_BYTES, skip};
use super::wait::Wait;
use super::{Arguments, Linux, Served, Stop, dispatch, process, time};
use crate::memory::Access;
use crate::network::{self, Limits};

const DONTWAIT: i32 = libc::MSG_DONTWAIT;

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

    /// The address at `at`, if `may` be used by the limits of the network. Without a network there is none, whatever
    /// socket the guest was started with. Names of local sockets are the host's: abstract ones, of which an empty name is
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
        self.read_once(at, &mut name)?;
        let local = name.get(..2) == Some(&(libc::AF_UNIX as u16).to_le_bytes());
        let nameless = name.get(2).is_none_or(|&first| first == 0);
        if !self.reach.network || local && nameless {
            return Err(Errno::ACCESS.into());
        }
        may(&self.reach.limits, &name)?;
        Ok(name)
    }
}

/// `socket`.
pub(super) fn socket(linux: &mut Linux, arguments: Arguments) -> Served {
    linux.network()?;
    let [family, kind, protocol, ..] = arguments.map(|word| word as u32);
    network::is_socket(family, kind, protocol).map_err(Stop::Refused)?;
    let kinds = [Arg::Value, Arg::Value, Arg::Value];
    dispatch::pass(linux, libc::SYS_socket as u64, &kinds, arguments)
}

/// `socketpair`, which takes no network. The kernel knows pairs of local sockets alone.
pub(super) fn socketpair(linux: &mut Linux, arguments: Arguments) -> Served {
    if arguments[0] as u32 != network::LOCAL {
        return Err(Stop::Refused(Errno::AFNOSUPPORT));
    }
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
    if !linux.reach.network {
        return Err(Errno::ACCESS.into());
    }
    let socket = host::borrow(descriptor);
    linux.reach.limits.listen(socket, backlog as i32)?;
    Ok(0)
}

/// `connect`. One that takes time goes on in the background, as for a socket that does not wait, and
/// its end is waited for.
pub(super) fn connect(linux: &mut Linux, [fd, at, length, ..]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    if linux.progress.started && !host::is_ready(descriptor, PollFlags::OUT)? {
        return Err(linux.connecting(descriptor));
    }
    let name = linux.address(at, length, Limits::may_connect)?;
    let nonblocking = host::is_nonblocking(descriptor)?;
    let connected = host::at_once(&[descriptor], || host::connect(descriptor, &name));
    match connected {
        // Asked again, the kernel says how it ended.
        Err(Errno::INPROGRESS | Errno::ALREADY) if !nonblocking => {
            Err(linux.connecting(descriptor))
        }
        // A local socket whose listener has no room: the kernel does not say when there is some.
        Err(Errno::AGAIN) if !nonblocking => Err(soon()),
        done => Ok(done?),
    }
}

impl Linux {
    /// A connection is being made: its end is waited for, and when that takes longer than the socket allows
    /// (`SO_SNDTIMEO`), it goes on without the caller.
    fn connecting(&mut self, descriptor: i32) -> Stop {
        self.progress.started = true;
        match self.wait_for(descriptor, Direction::Out) {
            Stop::Error(Errno::AGAIN) => Errno::INPROGRESS.into(),
            stop => stop,
        }
    }
}

/// What is waited for the kernel does not tell: it is asked again.
fn soon() -> Stop {
    let soon = time::from_now(std::time::Duration::from_millis(2));
    Stop::Wait(Wait::Until(soon))
}

/// More may come than was looked at (`MSG_PEEK`) of what all is wanted: sockets of the internet wait for it, local ones do not.
fn looks_for_more(descriptor: i32) -> Result<bool, Errno> {
    let of = sockopt::socket_domain(host::borrow(descriptor))?;
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    Ok([AddressFamily::INET, AddressFamily::INET6].contains(&of)
        && !host::is_ready(descriptor, ends)?)
}

fn flags_of(descriptor: i32, flags: i32) -> Result<bool, Errno> {
    Ok(flags & DONTWAIT != 0 || host::is_nonblocking(descriptor)?)
}

impl Linux {
    /// Receives one message; its bytes go to `ranges`. What goes wrong once some have is for the next call to find.
    fn receive(
        &mut self,
        descriptor: i32,
        ranges: &[(u64, u64)],
        message: &mut Message,
        flags: i32,
    ) -> Served {
        let before = self.progress.bytes;
        let received = self.receive_more(descriptor, ranges, message, flags);
        let done = self.progress.bytes.max(self.progress.peeked);
        match received {
            Err(Stop::Error(_)) if done > 0 => {
                if self.progress.bytes == before {
                    // Nothing came with it this time.
                    *message = Message::default();
                }
                Ok(done)
            }
            received => received,
        }
    }

    fn receive_more(
        &mut self,
        descriptor: i32,
        ranges: &[(u64, u64)],
        message: &mut Message,
        flags: i32,
    ) -> Served {
        // A datagram is whole by itself.
        let whole = flags & libc::MSG_WAITALL != 0
            && sockopt::socket_type(host::borrow(descriptor))? == SocketType::STREAM;
        loop {
            let rest = skip(ranges, self.progress.bytes);
            let flagged = flags | DONTWAIT;
            let buffers = self.memory.slices_of(&rest, Access::Write)?;
            let received = host::message(Direction::In, descriptor, &buffers, message, flagged);
            let done = self.progress.bytes;
            match received {
                Ok(moved) => {
                    let wanted: u64 = rest.iter().map(|&(_, length)| length).sum();
                    // What follows descriptors is another message's, and they are to be told of.
                    let whole = whole && passed(&message.control).is_empty();
                    if !whole || moved == 0 || moved >= wanted {
                        return Ok(done + moved);
                    }
                    if flags & libc::MSG_PEEK != 0 {
                        let ends = self.progress.interrupted || flags_of(descriptor, flags)?;
                        if ends || !looks_for_more(descriptor)? {
                            return Ok(moved);
                        }
                        let limit = host::time_limit(descriptor, Direction::In);
                        let limit = limit.map(|(limit, _)| time::from_now(limit));
                        self.progress.deadline = self.progress.deadline.or(limit);
                        if self.progress.deadline.is_some_and(time::is_over) {
                            return Ok(moved);
                        }
                        self.progress.peeked = moved;
                        return Err(soon());
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
            let buffers = self.memory.slices_of(&rest, Access::Read)?;
            let quiet = flags | DONTWAIT | libc::MSG_NOSIGNAL;
            // The connection is opened once.
            let opened = self.progress.started || done > 0;
            let quiet = if opened {
                quiet & !libc::MSG_FASTOPEN
            } else {
                quiet
            };
            match host::message(Direction::Out, descriptor, &buffers, message, quiet) {
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
                // Nothing could go with the request for it (`MSG_FASTOPEN`).
                Err(Errno::INPROGRESS) if !opened && !flags_of(descriptor, flags)? => {
                    return Err(self.connecting(descriptor));
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
        self.read_once(at, &mut bytes)?;
        Ok(Header::of(&bytes)?)
    }

    /// Where the bytes of a message lie.
    fn ranges(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, Stop> {
        if header.count > MOST_VECTORS {
            return Err(Errno::MSGSIZE.into());
        }
        self.vectors(header.vectors, header.count)
    }

    fn send_message(&mut self, fd: u64, at: u64, flags: u64) -> Served {
        let descriptor = self.descriptor(fd)?;
        let (ranges, mut message) = self
            .parts_of(at)
            .map_err(|wrong| no_socket(descriptor, wrong))?;
        self.transmit(descriptor, &ranges, &mut message, flags as i32)
    }

    /// What the message at `at` consists of, checked in the kernel's order (net/socket.c).
    fn parts_of(&mut self, at: u64) -> Result<(Vec<(u64, u64)>, Message), Stop> {
        let header = self.header(at)?;
        let name = if header.name == 0 || header.name_length == 0 {
            Vec::new()
        } else {
            let length = u64::from(header.name_length);
            self.address(header.name, length, Limits::may_send)?
        };
        let ranges = self.ranges(&header)?;
        if header.control_length > MOST_CONTROL {
            return Err(Errno::NOBUFS.into());
        }
        let mut control = vec![0; header.control_length as usize];
        if self.progress.bytes == 0 {
            self.read_once(header.control, &mut control)?;
        } else {
            control.clear();
        }
        let along = control_messages(&control);
        let along = along.into_iter().map(|(level, kind, _)| (level, kind));
        self.reach.limits.may_go_along(along)?;
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
        let message = Message {
            name,
            control,
            ..Message::default()
        };
        Ok((ranges, message))
    }

    fn receive_message(&mut self, fd: u64, at: u64, flags: u64) -> Served {
        let descriptor = self.descriptor(fd)?;
        let header = self
            .header(at)
            .map_err(|wrong| no_socket(descriptor, wrong))?;
        let ranges = self
            .ranges(&header)
            .map_err(|wrong| no_socket(descriptor, wrong))?;
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
        if self.memory.write(header.control, &message.control).is_err() {
            // The message has been taken: it came without, as where there was no room for them.
            let passed = close_passed(&message.control);
            message.flags |= if passed { libc::MSG_CTRUNC } else { 0 };
            message.control.clear();
        }
        let told = self.tell_message(at, &header, &message);
        if told.is_err() {
            close_passed(&message.control);
        }
        told.map(|()| moved)
    }

    fn tell_message(&mut self, at: u64, header: &Header, message: &Message) -> Result<(), Stop> {
        if header.name != 0 {
            self.tell_name(header.name, at + Header::NAME_LENGTH, message)?;
        }
        let length = message.control.len() as u64;
        self.memory
            .write_value(at + Header::CONTROL_LENGTH, &length)?;
        self.memory
            .write_value(at + Header::FLAGS, &message.flags.cast_unsigned())?;
        Ok(())
    }

    /// As much of the name as there is room for, by what lies at `size`, and how long it is. The message has been taken by then.
    fn tell_name(&mut self, at: u64, size: u64, message: &Message) -> Result<(), Stop> {
        let room = self.memory.read_value::<i32>(size)?;
        let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
        let length = message.name.len().min(room);
        self.memory.write(at, &message.name[..length])?;
        Ok(self.memory.write_value(size, &message.name_length)?)
    }
}

/// Closes the descriptors that came with `control`: what nobody was told of nobody would close. Whether there were some.
fn close_passed(control: &[u8]) -> bool {
    let passed = passed(control);
    for &number in &passed {
        let _ = host::close(number);
    }
    !passed.is_empty()
}

/// Why a call on `descriptor` fails: that it is no socket comes before what else is `wrong`.
fn no_socket(descriptor: i32, wrong: Stop) -> Stop {
    match sockopt::socket_type(host::borrow(descriptor)) {
        Ok(_) => wrong,
        Err(error) => error.into(),
    }
}

/// Room for a name of any length, if one is asked for: the kernel says how long it is even where the guest
/// has less.
fn room_for_name(at: u64) -> Vec<u8> {
    let room = if at == 0 { 0 } else { MOST_NAME as usize };
    vec![0; room]
}

/// `recvfrom`.
pub(super) fn recvfrom(
    linux: &mut Linux,
    [fd, at, length, flags, name, size]: Arguments,
) -> Served {
    let descriptor = linux.descriptor(fd)?;
    let mut message = Message {
        name: room_for_name(name),
        ..Message::default()
    };
    let buffer = [(at, length.min(MOST_BYTES))];
    let moved = linux.receive(descriptor, &buffer, &mut message, flags as i32)?;
    if name != 0 {
        linux.tell_name(name, size, &message)?;
    }
    Ok(moved)
}

/// `sendto`.
pub(super) fn sendto(linux: &mut Linux, [fd, at, length, flags, name, size]: Arguments) -> Served {
    let descriptor = linux.descriptor(fd)?;
    let name = if name == 0 {
        Vec::new()
    } else {
        linux
            .address(name, size, Limits::may_send)
            .map_err(|wrong| no_socket(descriptor, wrong))?
    };
    let mut message = Message {
        name,
        ..Message::default()
    };
    let buffer = [(at, length.min(MOST_BYTES))];
    linux.transmit(descriptor, &buffer, &mut message, flags as i32)
}

/// `recvmsg`.
pub(super) fn recvmsg(linux: &mut Linux, [fd, at, flags, ..]: Arguments) -> Served {
    linux.receive_message(fd, at, flags)
}

/// `sendmsg`.
pub(super) fn sendmsg(linux: &mut Linux, [fd, at, flags, ..]: Arguments) -> Served {
    linux.send_message(fd, at, flags)
}

/// `recvmmsg`: all of them, but with `MSG_WAITFORONE` what is there, at least one. A time is looked at after a message
/// only, as under Linux.
pub(super) fn recvmmsg(linux: &mut Linux, [fd, at, count, flags, until, _]: Arguments) -> Served {
    let one = flags & libc::MSG_WAITFORONE as u64 != 0;
    let flags = flags & !(libc::MSG_WAITFORONE as u64);
    if until != 0 && linux.progress.last.is_none() {
        let limit = time::read_timespec(linux, until)?;
        linux.progress.last = Some(time::from_now(time::duration(&limit)));
    }
    many(linux, [fd, at, count], until, |linux, at| {
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
    many(linux, [fd, at, count], 0, |linux, at| {
        linux.send_message(fd, at, flags)
    })
}

/// Moves messages until one fails, or the time is over that is left; at `until`, if that is not null, it is told.
fn many(
    linux: &mut Linux,
    [fd, at, count]: [u64; 3],
    until: u64,
    one: impl Fn(&mut Linux, u64) -> Served,
) -> Served {
    let count = u64::from(count as u32).min(MOST_MESSAGES);
    sockopt::socket_type(host::borrow(linux.descriptor(fd)?))?;
    while linux.progress.messages < count {
        let skip = linux.progress.messages * MANY_HEADER;
        let at = at.checked_add(skip).ok_or(Errno::FAULT)?;
        match one(linux, at) {
            Ok(moved) => linux
                .memory
                .write_value(at + MANY_LENGTH, &(moved as u32))?,
            Err(Stop::Error(_)) if linux.progress.messages > 0 => break,
            Err(stop) => return Err(stop),
        }
        linux.progress.bytes = 0;
        linux.progress.waits = 0;
        linux.progress.deadline = None;
        linux.progress.peeked = 0;
        linux.progress.records.forget();
        linux.progress.messages += 1;
        if let Some(last) = linux.progress.last {
            let now = rustix::time::clock_gettime(ClockId::Monotonic);
            let left = last.checked_sub(now).filter(|_| last > now);
            let told = left.unwrap_or_default();
            let record = Record::default().u64(told.tv_sec as u64);
            let record = record.u64(told.tv_nsec as u64);
            linux.memory.write(until, record.bytes())?;
            if left.is_none() {
                break;
            }
        }
    }
    Ok(linux.progress.messages)
}
