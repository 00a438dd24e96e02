//! Calls that name an address, where not all may be used: this process makes them itself, on the guest's own
//! socket and with a copy of the address, so that what was checked is what is done.

use std::os::fd::AsRawFd;

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::calls::{Calls, Next};
use super::change::Change;
use super::ptrace::{Registers, Tracee};
use crate::linux::host;
use crate::network::Limits;

/// Longest address of a socket (`struct sockaddr_storage`).
const MOST_NAME: u64 = 128;
/// Most bytes of a datagram.
const MOST_BYTES: u64 = 64 << 10;

impl Calls {
    /// `bind`, `listen`, `connect`, or `sendto` with an address.
    pub(super) fn named_socket(
        &self,
        tracee: Tracee,
        registers: &Registers,
    ) -> Result<Next, Errno> {
        let file = self.file(registers.rdi)?;
        let socket = file.as_raw_fd();
        let named = |at, length, may: fn(&Limits, &[u8]) -> Result<(), Errno>| {
            let name = copy(
                tracee,
                at,
                u64::from(length as u32),
                MOST_NAME,
                Errno::INVAL,
            )?;
            may(&self.network, &name)?;
            Ok(name)
        };
        let done = match registers.orig_rax as i64 {
            libc::SYS_listen => {
                self.network.may_listen(host::borrow(socket))?;
                host::listen(socket, registers.rsi)?
            }
            libc::SYS_bind => host::bind(
                socket,
                &named(registers.rsi, registers.rdx, Limits::may_bind)?,
            )?,
            libc::SYS_connect => {
                let name = named(registers.rsi, registers.rdx, Limits::may_connect)?;
                let waits = !host::is_nonblocking(socket)?;
                let connect = || host::at_once(&[socket], || host::connect(socket, &name));
                match connect() {
                    Err(Errno::INPROGRESS | Errno::ALREADY) if waits => {
                        if !host::is_ready(socket, PollFlags::OUT)? {
                            return Ok(Next::ServeWith(Change::Connected(registers.rdi)));
                        }
                        // Asked again, the kernel says how it ended.
                        connect()?
                    }
                    connected => connected?,
                }
            }
            _ => {
                let name = named(registers.r8, registers.r9, Limits::may_send)?;
                let flags = registers.r10 as i32 & !libc::MSG_FASTOPEN;
                let kind = rustix::net::sockopt::socket_type(host::borrow(socket))?;
                if kind == rustix::net::SocketType::STREAM {
                    // An address says nothing to it, but to open a connection with.
                    if flags != registers.r10 as i32 {
                        return Err(Errno::OPNOTSUPP);
                    }
                    return Ok(Next::ServeWith(Change::SendToPeer(registers.r10)));
                }
                let bytes = copy(
                    tracee,
                    registers.rsi,
                    registers.rdx,
                    MOST_BYTES,
                    Errno::MSGSIZE,
                )?;
                match host::send_to(socket, &bytes, flags | libc::MSG_DONTWAIT, &name) {
                    // This process does not wait, and a datagram may always be lost.
                    Err(Errno::AGAIN) if !host::is_nonblocking(socket)? => {
                        return Err(Errno::NOBUFS);
                    }
                    sent => sent?,
                }
            }
        };
        Ok(Next::Done(done as i64))
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
