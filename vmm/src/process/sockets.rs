//! Calls that name an address, where not all may be used: this process makes them itself, on the guest's own
//! socket and with a copy of the address, so that what was checked is what is done.

use std::os::fd::AsRawFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SocketType;

use super::calls::{Calls, Next};
use super::change::Change;
use super::ptrace::{Registers, Tracee};
use crate::linux::host::{self, Message};
use crate::linux::message::{
    Header, MANY_HEADER, MANY_LENGTH, MOST_CONTROL, MOST_MESSAGES, MOST_NAME, control_messages,
};
use crate::network::{LOCAL, Limits};

/// Most bytes of a datagram.
const MOST_BYTES: u64 = 64 << 10;
/// Most ranges that a message's bytes lie in.
const MOST_VECTORS: u64 = 1024;
const DONTWAIT: i32 = libc::MSG_DONTWAIT;

impl Calls {
    /// `bind`, `listen`, `connect`, `sendto` with an address, `sendmsg` or `sendmmsg`.
    pub(super) fn named_socket(
        &self,
        tracee: Tracee,
        registers: &Registers,
    ) -> Result<Next, Errno> {
        let file = self.file(tracee, registers.rdi)?;
        let socket = Socket {
            number: file.as_raw_fd(),
            tracee,
            limits: &self.network,
        };
        match registers.orig_rax as i64 {
            libc::SYS_listen => {
                let listener = host::borrow(socket.number);
                self.network.listen(listener, registers.rsi as i32)?;
                Ok(Next::Done(0))
            }
            libc::SYS_bind => {
                let name = socket.name(registers.rsi, registers.rdx, Limits::may_bind)?;
                let done = host::bind(socket.number, &name)?;
                Ok(Next::Done(done as i64))
            }
            libc::SYS_connect => socket.connect(registers),
            libc::SYS_sendto => socket.send_to(registers),
            libc::SYS_sendmsg => socket.send_message(registers),
            _ => socket.send_many(registers),
        }
    }
}

/// A socket of the guest, which this process has as well.
struct Socket<'a> {
    number: i32,
    tracee: Tracee,
    limits: &'a Limits,
}

/// A message, copied.
struct Copied {
    bytes: Vec<u8>,
    message: Message,
}

impl Socket<'_> {
    /// A copy of the name at `at`, if it `may` be used. Names of local sockets are of another file system here
    /// than where the guest is.
    fn name(
        &self,
        at: u64,
        length: u64,
        may: fn(&Limits, &[u8]) -> Result<(), Errno>,
    ) -> Result<Vec<u8>, Errno> {
        let length = u64::from(length as u32);
        let name = copy(self.tracee, at, length, MOST_NAME, Errno::INVAL)?;
        if name.get(..2) == Some(&(LOCAL as u16).to_ne_bytes()) {
            return Err(Errno::ACCESS);
        }
        may(self.limits, &name)?;
        Ok(name)
    }

    fn connect(&self, registers: &Registers) -> Result<Next, Errno> {
        let name = self.name(registers.rsi, registers.rdx, Limits::may_connect)?;
        let waits = !host::is_nonblocking(self.number)?;
        let connect = || host::at_once(&[self.number], || host::connect(self.number, &name));
        let done = match connect() {
            Err(Errno::INPROGRESS | Errno::ALREADY) if waits => {
                if !host::is_ready(self.number, PollFlags::OUT)? {
                    return Ok(Next::ServeWith(Change::Connected(registers.rdi)));
                }
                // Asked again, the kernel says how it ended.
                connect()?
            }
            connected => connected?,
        };
        Ok(Next::Done(done as i64))
    }

    fn send_to(&self, registers: &Registers) -> Result<Next, Errno> {
        let name = self.name(registers.r8, registers.r9, Limits::may_send)?;
        let (at, length, flags) = (registers.rsi, registers.rdx, registers.r10);
        if self.is_stream(flags)? {
            return Ok(Next::ServeWith(Change::Send(at, length, flags)));
        }
        let bytes = copy(self.tracee, at, length, MOST_BYTES, Errno::MSGSIZE)?;
        let message = Message {
            name,
            ..Message::default()
        };
        let sent = self.send(Copied { bytes, message }, flags)?;
        Ok(Next::Done(sent as i64))
    }

    /// True for a stream. An address says nothing to one, but to open a connection with.
    fn is_stream(&self, flags: u64) -> Result<bool, Errno> {
        let kind = rustix::net::sockopt::socket_type(host::borrow(self.number))?;
        if kind == SocketType::STREAM && flags as i32 & libc::MSG_FASTOPEN != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        Ok(kind == SocketType::STREAM)
    }

    /// `sendmsg`. What goes to whom the socket is connected to, in one piece, is left to the kernel as `sendto`,
    /// whose arguments are all in registers.
    fn send_message(&self, registers: &Registers) -> Result<Next, Errno> {
        let flags = registers.rdx;
        let is_stream = self.is_stream(flags)?;
        let header = self.header(registers.rsi)?;
        let ranges = self.ranges(&header)?;
        let &(at, length) = ranges.first().unwrap_or(&(0, 0));
        let kernels = Next::ServeWith(Change::Send(at, length, flags));
        let plain = (is_stream || header.name == 0) && header.control_length == 0;
        if plain && ranges.len() <= 1 {
            return Ok(kernels);
        }
        let copied = self.copied(&header, &ranges, is_stream)?;
        match self.send(copied, flags) {
            // It is the kernel that waits, with the first piece, and that sends SIGPIPE.
            Err(Errno::NOBUFS | Errno::AGAIN | Errno::PIPE) if is_stream && plain => Ok(kernels),
            sent => Ok(Next::Done(sent? as i64)),
        }
    }

    /// `sendmmsg`.
    fn send_many(&self, registers: &Registers) -> Result<Next, Errno> {
        let flags = registers.r10;
        let is_stream = self.is_stream(flags)?;
        let count = u64::from(registers.rdx as u32).min(MOST_MESSAGES);
        let one = |at: u64| {
            let header = self.header(at)?;
            let ranges = self.ranges(&header)?;
            let sent = self.send(self.copied(&header, &ranges, is_stream)?, flags)?;
            let length = at.checked_add(MANY_LENGTH).ok_or(Errno::FAULT)?;
            let told = self.tracee.write(length, &(sent as u32).to_le_bytes());
            told.map_err(|_| Errno::FAULT)
        };
        for done in 0..count {
            let at = registers.rsi.checked_add(done * MANY_HEADER);
            match at.ok_or(Errno::FAULT).and_then(one) {
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(Next::Done(done as i64)),
                Ok(()) => {}
            }
        }
        Ok(Next::Done(count as i64))
    }

    fn header(&self, at: u64) -> Result<Header, Errno> {
        let length = Header::BYTES as u64;
        let bytes = copy(self.tracee, at, length, length, Errno::FAULT)?;
        Header::of(bytes.as_slice().try_into().map_err(|_| Errno::FAULT)?)
    }

    /// Where the bytes of a message lie: address and length each.
    fn ranges(&self, header: &Header) -> Result<Vec<(u64, u64)>, Errno> {
        if header.count > MOST_VECTORS {
            return Err(Errno::MSGSIZE);
        }
        let length = header.count * 16;
        let raw = copy(self.tracee, header.vectors, length, length, Errno::FAULT)?;
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let ranges = raw
            .chunks_exact(16)
            .map(|pair| (word(&pair[..8]), word(&pair[8..])));
        if ranges.clone().any(|(_, length)| length > i64::MAX as u64) {
            return Err(Errno::INVAL);
        }
        Ok(ranges.filter(|&(_, length)| length > 0).collect())
    }

    /// A message whose address and control messages were looked at. Of a stream, as much as is copied at once.
    fn copied(
        &self,
        header: &Header,
        ranges: &[(u64, u64)],
        is_stream: bool,
    ) -> Result<Copied, Errno> {
        let mut message = Message::default();
        if header.name != 0 && !is_stream {
            let length = u64::from(header.name_length);
            message.name = self.name(header.name, length, Limits::may_send)?;
        }
        if header.control != 0 {
            let length = header.control_length;
            message.control = copy(
                self.tracee,
                header.control,
                length,
                MOST_CONTROL,
                Errno::NOBUFS,
            )?;
            let along = control_messages(&message.control);
            let mut along = along.iter().map(|&(level, kind, _)| (level, kind));
            // Its descriptors are not those of this process.
            if along.clone().any(|(level, _)| level == libc::SOL_SOCKET) {
                return Err(Errno::OPNOTSUPP);
            }
            self.limits.may_go_along(&mut along)?;
        }
        let mut bytes = Vec::new();
        for &(at, length) in ranges {
            let room = MOST_BYTES - bytes.len() as u64;
            let length = if is_stream { length.min(room) } else { length };
            bytes.extend(copy(self.tracee, at, length, room, Errno::MSGSIZE)?);
        }
        Ok(Copied { bytes, message })
    }

    fn send(&self, mut copied: Copied, flags: u64) -> Result<u64, Errno> {
        let flags = flags as i32;
        match host::send(self.number, &mut copied.bytes, &mut copied.message, flags) {
            // This process does not wait, and a datagram may always be lost.
            Err(Errno::AGAIN) if flags & DONTWAIT == 0 && !host::is_nonblocking(self.number)? => {
                Err(Errno::NOBUFS)
            }
            sent => sent,
        }
    }
}

/// Bytes of the guest's memory; `most` of them, or it fails with `too_many`.
fn copy(
    tracee: Tracee,
    at: u64,
    length: u64,
    most: u64,
    too_many: Errno,
) -> Result<Vec<u8>, Errno> {
    if length > most {
        return Err(too_many);
    }
    let mut bytes = vec![0; length as usize];
    if !bytes.is_empty() && tracee.read(at, &mut bytes).ok() != Some(bytes.len()) {
        return Err(Errno::FAULT);
    }
    Ok(bytes)
}
