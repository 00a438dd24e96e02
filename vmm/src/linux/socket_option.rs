//! Options of sockets: which there are, on both platforms.
//!
//! An option is a way into the kernel of its own, and programs use a few of them. Those that are let through
//! take and give plain values. Others hold addresses of this process inside their value
//! (`SO_ATTACH_FILTER`), write more than they are given room for (`SO_GET_FILTER`), make descriptors of
//! processes (`SO_PEERPIDFD`), keep pages of memory (`SO_ZEROCOPY`), or ask for code in the kernel that is
//! no business of a guest (`TCP_ULP`).

use rustix::io::Errno;

use super::dispatch::{Arg, pass_changed, pass_checked};
use super::{Arguments, Linux, Served, Stop, host, process};

const SOCKET: u32 = libc::SOL_SOCKET as u32;
const IPV4: u32 = libc::IPPROTO_IP as u32;
const IPV6: u32 = libc::IPPROTO_IPV6 as u32;
const TCP: u32 = libc::IPPROTO_TCP as u32;
const UDP: u32 = libc::IPPROTO_UDP as u32;
const NETLINK: u32 = libc::SOL_NETLINK as u32;
/// Bytes of an option that are looked at: as many as any has.
const LONGEST: i32 = 64 << 10;

/// Level, first and last name, as asm-generic/socket.h, linux/in.h, in6.h, tcp.h, udp.h and netlink.h
/// number them. What takes a privilege is for the kernel to refuse.
pub(crate) const OPTIONS: [(u32, u32, u32); 35] = [
    // REUSEADDR to OOBINLINE; PRIORITY, LINGER; REUSEPORT, credentials, least bytes, times.
    (SOCKET, 2, 10),
    (SOCKET, 12, 13),
    (SOCKET, 15, 21),
    // BINDTODEVICE; TIMESTAMP, ACCEPTCONN; SNDBUFFORCE, RCVBUFFORCE.
    (SOCKET, 25, 25),
    (SOCKET, 29, 30),
    (SOCKET, 32, 33),
    // TIMESTAMPNS to RXQ_OVFL; PEEK_OFF; SELECT_ERR_QUEUE; MAX_PACING_RATE; BINDTOIFINDEX, 64-bit times.
    (SOCKET, 35, 40),
    (SOCKET, 42, 42),
    (SOCKET, 45, 45),
    (SOCKET, 47, 47),
    (SOCKET, 62, 67),
    // TOS, TTL; RECVOPTS to PKTINFO; MTU_DISCOVER to FREEBIND.
    (IPV4, 1, 2),
    (IPV4, 6, 8),
    (IPV4, 10, 15),
    // TRANSPARENT to MINTTL; BIND_ADDRESS_NO_PORT, RECVFRAGSIZE.
    (IPV4, 19, 21),
    (IPV4, 24, 25),
    // Multicast, without lists of sources; MULTICAST_ALL to LOCAL_PORT_RANGE.
    (IPV4, 32, 40),
    (IPV4, 42, 47),
    (IPV4, 49, 51),
    // FLOWINFO; hops and multicast; MTU_DISCOVER to V6ONLY; MULTICAST_ALL.
    (IPV6, 11, 11),
    (IPV6, 16, 21),
    (IPV6, 23, 26),
    (IPV6, 29, 29),
    // Groups and sources; RECVPKTINFO to HOPLIMIT; RECVPATHMTU to DONTFRAG; RECVTCLASS, TCLASS.
    (IPV6, 42, 47),
    (IPV6, 49, 52),
    (IPV6, 60, 62),
    (IPV6, 66, 67),
    // AUTOFLOWLABEL to FREEBIND.
    (IPV6, 70, 78),
    // NODELAY to CONGESTION; THIN_LINEAR_TIMEOUTS to USER_TIMEOUT; FASTOPEN to NOTSENT_LOWAT.
    (TCP, 1, 13),
    (TCP, 16, 18),
    (TCP, 23, 25),
    // CORK; SEGMENT, GRO.
    (UDP, 1, 1),
    (UDP, 103, 104),
    // Membership, PKTINFO, errors; more to say of errors, strict checks.
    (NETLINK, 1, 5),
    (NETLINK, 11, 12),
];

/// Fails with `ENOPROTOOPT` if there is no such option, or with what is wrong with the descriptor.
fn check(linux: &Linux, fd: u64, level: u64, name: u64) -> Result<(), Stop> {
    let (level, name) = (level as u32, name as u32);
    let mut known = OPTIONS.iter();
    if known.any(|&(of, first, last)| of == level && (first..=last).contains(&name)) {
        return Ok(());
    }
    rustix::net::sockopt::socket_type(host::borrow(linux.descriptor(fd)?))?;
    Err(Stop::Refused(Errno::NOPROTOOPT))
}

/// `setsockopt`. A close that waits until all is sent (`SO_LINGER` with a time) would have the whole guest
/// wait: it is refused with `ENOPROTOOPT`.
pub(super) fn setsockopt(linux: &mut Linux, arguments: Arguments) -> Served {
    let [fd, level, name, ..] = arguments;
    check(linux, fd, level, name)?;
    // As long as an option is at the most; that it is less than nothing the kernel says.
    let mut arguments = arguments;
    arguments[4] = (arguments[4] as i32).min(LONGEST) as u64;
    let lingers = (level as u32, name as i32) == (SOCKET, libc::SO_LINGER);
    let may = |bytes: &[u8]| {
        let is_set = |word: Option<&[u8]>| word.is_some_and(|word| word != [0; 4]);
        if lingers && is_set(bytes.get(..4)) && is_set(bytes.get(4..8)) {
            return Err(Stop::Refused(Errno::NOPROTOOPT));
        }
        Ok(())
    };
    let kinds = [
        Arg::Descriptor,
        Arg::Value,
        Arg::Value,
        Arg::InBytes(4),
        Arg::Value,
    ];
    let number = libc::SYS_setsockopt as u64;
    pass_checked(linux, number, &kinds, arguments, (3, may))
}

/// `getsockopt`. Processes of the host have no number in a guest.
pub(super) fn getsockopt(linux: &mut Linux, arguments: Arguments) -> Served {
    let [fd, level, name, ..] = arguments;
    check(linux, fd, level, name)?;
    let kinds = [
        Arg::Descriptor,
        Arg::Value,
        Arg::Value,
        Arg::OutSized(4),
        Arg::Size,
    ];
    let is_process = (level as u32, name as i32) == (SOCKET, libc::SO_PEERCRED);
    let change = |bytes: &mut [u8]| {
        if is_process {
            process::tell_number(bytes);
        }
    };
    let number = libc::SYS_getsockopt as u64;
    pass_changed(linux, number, &kinds, arguments, (3, change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_addresses_or_overruns_its_room_is_no_option() {
        /// `SO_ATTACH_BPF`, `SO_ATTACH_REUSEPORT_CBPF`, `_EBPF`, `SO_ZEROCOPY`, `SO_PASSPIDFD`, `SO_PEERPIDFD`.
        const LATER: [u32; 6] = [50, 51, 52, 60, 76, 77];
        let filter = [libc::SO_ATTACH_FILTER as u32, libc::SO_DETACH_FILTER as u32];
        for name in filter.into_iter().chain(LATER) {
            let mut options = OPTIONS.iter();
            let known = options
                .any(|&(level, first, last)| level == SOCKET && (first..=last).contains(&name));
            assert!(!known, "{name}");
        }
        assert!(OPTIONS.iter().all(|&(_, first, last)| first <= last));
    }
}
