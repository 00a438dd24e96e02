//! Which addresses of the host's network a guest may use: `--bind` and `--connect`.
//!
//! Each is a list of places; without a list there is no limit. What is looked at is the address that a call
//! is given, in a copy that the guest cannot change any more. A guest that listens on a socket without an
//! address would be given one, so that counts as binding; what a connection or a datagram is sent from does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{Shutdown, SocketAddrAny, sockopt};
use thiserror::Error;

/// Local sockets.
pub(crate) const LOCAL: u32 = libc::AF_UNIX as u32;
/// The internet's.
pub(crate) const INTERNET: [u32; 2] = [libc::AF_INET as u32, libc::AF_INET6 as u32];
/// Its protocols that there are for a guest: that of the kind of socket, ICMP where the host lets everybody ask, TCP,
/// UDP, and TCP on several paths. The kernel has and loads others, whose addresses come in other ways than by the
/// calls that are looked at.
pub(crate) const PROTOCOLS: [u32; 6] = [
    0,
    libc::IPPROTO_ICMP as u32,
    libc::IPPROTO_TCP as u32,
    libc::IPPROTO_UDP as u32,
    libc::IPPROTO_ICMPV6 as u32,
    libc::IPPROTO_MPTCP as u32,
];
/// Kinds of its sockets that there are not: of other protocols.
pub(crate) const OTHER_KINDS: [u32; 2] = [libc::SOCK_SEQPACKET as u32, libc::SOCK_DCCP as u32];
/// Of a socket's kind: without flags.
pub(crate) const KIND: u32 = 0xf;

/// Whether there is such a socket for a guest that has the host's network. The kernel says which of them take
/// more than it has.
pub(crate) fn is_socket(family: u32, kind: u32, protocol: u32) -> Result<(), Errno> {
    if INTERNET.contains(&family) {
        if OTHER_KINDS.contains(&(kind & KIND)) {
            return Err(Errno::SOCKTNOSUPPORT);
        }
        let known = PROTOCOLS.contains(&protocol);
        return known.then_some(()).ok_or(Errno::PROTONOSUPPORT);
    }
    // Interfaces and addresses are listed by netlink; changing them takes capabilities.
    let lists = family == libc::AF_NETLINK as u32 && protocol == libc::NETLINK_ROUTE as u32;
    if lists || family == LOCAL {
        Ok(())
    } else {
        Err(Errno::AFNOSUPPORT)
    }
}

/// Control messages (level and kind) that leave a message where it goes: lifetime, class of service, the address and the
/// interface that it is sent from, how it is cut. Others can hold a route, by way of another address.
const ALONG: [(i32, i32); 8] = [
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    (libc::IPPROTO_UDP, libc::UDP_SEGMENT),
];

/// Addresses and ports: `ADDRESS:PORT`, where ADDRESS is an IPv4 address or an IPv6 address in brackets, with
/// `/BITS` for a whole network, or `*`, and PORT a number, `FIRST-LAST` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// An address of the network and the bits that are alike in all of them.
    network: Option<(IpAddr, u32)>,
    ports: RangeInclusive<u16>,
}

/// Why a text is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not ADDRESS:PORT, as in 127.0.0.1:80, 10.0.0.0/8:*, [::1]:8000-8999 or *:53")]
pub struct NoPlace;

impl FromStr for Place {
    type Err = NoPlace;
    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (address, ports) = text.rsplit_once(':').ok_or(NoPlace)?;
        let network = match address {
            "*" => None,
            address => Some(network(address).ok_or(NoPlace)?),
        };
        let ports = match ports.split_once('-') {
            _ if ports == "*" => 0..=u16::MAX,
            Some((first, last)) => port(first)?..=port(last)?,
            None => port(ports)?..=port(ports)?,
        };
        if ports.is_empty() {
            return Err(NoPlace);
        }
        Ok(Self { network, ports })
    }
}

fn network(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match text.rsplit_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into(),
        None => address.parse::<Ipv4Addr>().ok()?.into(),
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => number(bits).filter(|&bits| bits <= most)?,
        None => most,
    };
    Some(match (address, bits.checked_sub(96)) {
        // The same machines.
        (IpAddr::V6(ip), Some(bits)) if ip.to_ipv4_mapped().is_some() => (ip.to_canonical(), bits),
        _ => (address, bits),
    })
}

fn port(text: &str) -> Result<u16, NoPlace> {
    number(text)
        .and_then(|number| u16::try_from(number).ok())
        .ok_or(NoPlace)
}

/// Digits alone: no sign.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

impl Place {
    fn holds(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let inside = self
            .network
            .is_none_or(|(network, bits)| match (network, ip) {
                (IpAddr::V4(network), IpAddr::V4(ip)) => {
                    let alike = (network.to_bits() ^ ip.to_bits()).leading_zeros();
                    alike >= bits
                }
                (IpAddr::V6(network), IpAddr::V6(ip)) => {
                    let alike = (network.to_bits() ^ ip.to_bits()).leading_zeros();
                    alike >= bits
                }
                _ => false,
            });
        inside && self.ports.contains(&address.port())
    }
}

/// What a guest may do with addresses of the host's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Where it may be reached; anywhere without a list.
    pub bind: Option<Vec<Place>>,
    /// What it may reach.
    pub connect: Option<Vec<Place>>,
}

impl Limits {
    /// True when there is one.
    pub fn any(&self) -> bool {
        self.bind.is_some() || self.connect.is_some()
    }

    /// Whether a socket may be given `name`, a `struct sockaddr`.
    pub fn may_bind(&self, name: &[u8]) -> Result<(), Errno> {
        allowed(self.bind.as_deref(), name)
    }

    /// Has `socket` listen, with `backlog`, if its address may be used: one that has none would get one by that.
    pub(crate) fn listen(&self, socket: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
        // One that listens already was handed to the guest so.
        if self.bind.is_none() || sockopt::socket_acceptconn(socket)? {
            return rustix::net::listen(socket, backlog);
        }
        if let Some(name) = self.own_name(socket)? {
            // TCP remembers the port of a connection that is over, and would get another by listening. An address that
            // a socket has cannot be given to it again; one that it remembers is its own from now on.
            match rustix::net::bind(socket, &name) {
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        rustix::net::listen(socket, backlog)?;
        // Another thread of a guest that is a process may have taken its address away meanwhile.
        if let Err(error) = self.own_name(socket) {
            rustix::net::shutdown(socket, Shutdown::Both)?;
            return Err(error);
        }
        Ok(())
    }

    /// The address of `socket`, if it is one of the internet's; fails if that may not be used.
    fn own_name(&self, socket: BorrowedFd<'_>) -> Result<Option<SocketAddrAny>, Errno> {
        let name = rustix::net::getsockname(socket)?;
        match SocketAddr::try_from(name.clone()) {
            Ok(address) => within(self.bind.as_deref(), address).map(|()| Some(name)),
            Err(_) => Ok(None),
        }
    }

    /// Whether a socket may be connected to `name`.
    pub fn may_connect(&self, name: &[u8]) -> Result<(), Errno> {
        if family(name) == Some(libc::AF_UNSPEC) {
            // It is to be connected no more.
            return Ok(());
        }
        self.may_send(name)
    }

    /// Whether something may be sent to `name`.
    pub fn may_send(&self, name: &[u8]) -> Result<(), Errno> {
        let places = self.connect.as_deref();
        allowed(places, name)?;
        match address(name) {
            // Of a socket that has an IPv4 address it is this machine by IPv4 (ip6_datagram_connect).
            Some(SocketAddr::V6(to)) if to.ip().is_unspecified() => {
                within(places, (Ipv4Addr::UNSPECIFIED, to.port()).into())
            }
            _ => Ok(()),
        }
    }

    /// Whether control messages of these levels and kinds may go along with what is sent. What they say of
    /// sockets themselves (descriptors, who sends) is no matter of addresses.
    pub(crate) fn may_go_along(
        &self,
        mut kinds: impl Iterator<Item = (i32, i32)>,
    ) -> Result<(), Errno> {
        let allowed = |found: (i32, i32)| found.0 == libc::SOL_SOCKET || ALONG.contains(&found);
        if self.connect.is_none() || kinds.all(allowed) {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }
}

fn allowed(places: Option<&[Place]>, name: &[u8]) -> Result<(), Errno> {
    let Some(family) = family(name).filter(|_| places.is_some()) else {
        return Ok(());
    };
    match family {
        // The kernel itself is asked for its interfaces; of local sockets others have their say.
        libc::AF_NETLINK | libc::AF_UNIX => return Ok(()),
        libc::AF_INET | libc::AF_INET6 | libc::AF_UNSPEC => {}
        _ => return Err(Errno::AFNOSUPPORT),
    }
    within(places, address(name).ok_or(Errno::INVAL)?)
}

fn within(places: Option<&[Place]>, address: SocketAddr) -> Result<(), Errno> {
    if places.is_none_or(|places| places.iter().any(|place| place.holds(address))) {
        Ok(())
    } else {
        Err(Errno::ACCESS)
    }
}

/// Of a `struct sockaddr`; none if it is too short to have one, which the kernel refuses.
fn family(name: &[u8]) -> Option<i32> {
    let bytes = name.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes).into())
}

/// Of a `struct sockaddr_in` or `sockaddr_in6`. Where no family is said, `bind` and `sendto` take it for
/// IPv4 (inet_bind and udp_sendmsg in net/ipv4).
fn address(name: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    let ip: IpAddr = if family(name)? == libc::AF_INET6 {
        let bytes: &[u8; 16] = name.get(8..)?.first_chunk()?;
        (*bytes).into()
    } else {
        let bytes: &[u8; 4] = name.get(4..)?.first_chunk()?;
        (*bytes).into()
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn name(family: i32, port: u16, address: &[u8]) -> Vec<u8> {
        let flow: &[u8] = if family == libc::AF_INET6 {
            &[0; 4]
        } else {
            &[]
        };
        let family = (family as u16).to_ne_bytes();
        [&family, &port.to_be_bytes()[..], flow, address, &[0; 8]].concat()
    }

    fn limits(places: &[&str]) -> Limits {
        let places: Vec<Place> = places.iter().map(|place| place.parse().unwrap()).collect();
        Limits {
            bind: Some(places.clone()),
            connect: Some(places),
        }
    }

    #[test]
    fn places_are_networks_and_ports() {
        let limits = limits(&["10.1.0.0/16:80", "[2001:db8::]/32:8000-8001", "*:53"]);
        let v4 = |ip: [u8; 4], port| limits.may_bind(&name(libc::AF_INET, port, &ip));
        assert_eq!(v4([10, 1, 2, 3], 80), Ok(()));
        assert_eq!(v4([10, 2, 2, 3], 80), Err(Errno::ACCESS));
        assert_eq!(v4([10, 1, 2, 3], 81), Err(Errno::ACCESS));
        assert_eq!(v4([9, 9, 9, 9], 53), Ok(()));
        let v6 = |ip: &str, port| {
            let ip: Ipv6Addr = ip.parse().unwrap();
            limits.may_connect(&name(libc::AF_INET6, port, &ip.octets()))
        };
        assert_eq!(v6("2001:db8:1::1", 8001), Ok(()));
        assert_eq!(v6("2001:db9::1", 8001), Err(Errno::ACCESS));
        assert_eq!(v6("::ffff:10.1.9.9", 80), Ok(()), "the same machine");
        assert_eq!(v6("::1", 53), Ok(()));
    }

    #[test]
    fn networks_of_ipv4_addresses_in_ipv6_are_of_ipv4() {
        let limits = limits(&["[::ffff:10.0.0.0]/104:80", "[::ffff:1.2.3.4]:80"]);
        for (ip, expected) in [
            ([10, 9, 9, 9], Ok(())),
            ([1, 2, 3, 4], Ok(())),
            ([11, 0, 0, 1], Err(Errno::ACCESS)),
        ] {
            assert_eq!(limits.may_bind(&name(libc::AF_INET, 80, &ip)), expected);
        }
    }

    #[test]
    fn this_machine_is_reached_by_ipv4_as_well() {
        let any = name(libc::AF_INET6, 80, &[0; 16]);
        for (places, expected) in [
            (&["[::]/0:*"][..], Err(Errno::ACCESS)),
            (&["[::]/0:*", "0.0.0.0/0:80"], Ok(())),
            (&["*:80"], Ok(())),
            (&["*:81"], Err(Errno::ACCESS)),
        ] {
            let limits = limits(places);
            assert_eq!(limits.may_connect(&any), expected, "{places:?}");
            assert_eq!(limits.may_send(&any), expected, "{places:?}");
        }
        assert_eq!(limits(&["[::]/0:*"]).may_bind(&any), Ok(()));
    }

    #[test]
    fn what_is_left_of_a_connection_is_an_address_once_it_is_looked_at() {
        let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = target.local_addr().unwrap();
        // Somebody else may take the number as soon as the connection is over.
        while !listens_where_it_was_connected(&target) {}
    }

    /// False if the number was taken meanwhile.
    fn listens_where_it_was_connected(target: &SocketAddr) -> bool {
        use rustix::net::{AddressFamily, SocketType};
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::connect(&socket, target).unwrap();
        rustix::net::connect_unspec(&socket).unwrap();
        let name = || SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
        let left = name();
        assert_ne!(left.port(), 0, "this is what the kernel does");
        let listen = |places: &[&str]| limits(places).listen(socket.as_fd(), 1);
        assert_eq!(listen(&["127.0.0.1:*"]), Err(Errno::ACCESS));
        assert_eq!(listen(&[]), Err(Errno::ACCESS));
        match listen(&["0.0.0.0:*"]) {
            Err(Errno::ADDRINUSE) => return false,
            listens => assert_eq!(listens, Ok(())),
        }
        assert_eq!(name(), left, "and not any other");
        assert_eq!(listen(&[]), Ok(()), "it listens already");
        true
    }

    #[test]
    fn what_goes_along_holds_no_route() {
        let limits = limits(&["127.0.0.1:80"]);
        let (ip, ipv6, sockets) = (libc::IPPROTO_IP, libc::IPPROTO_IPV6, libc::SOL_SOCKET);
        let ask = |kinds: &[(i32, i32)]| limits.may_go_along(kinds.iter().copied());
        assert_eq!(ask(&[]), Ok(()));
        assert_eq!(
            ask(&[(ip, libc::IP_TTL), (sockets, libc::SCM_RIGHTS)]),
            Ok(())
        );
        for route in [
            (ip, libc::IP_RETOPTS),
            (ipv6, libc::IPV6_RTHDR),
            (libc::IPPROTO_SCTP, 7),
        ] {
            assert_eq!(ask(&[(ip, libc::IP_TTL), route]), Err(Errno::ACCESS));
        }
        let anything = [(libc::IPPROTO_SCTP, 7)].into_iter();
        assert_eq!(Limits::default().may_go_along(anything), Ok(()));
    }

    #[test]
    fn an_address_of_no_family_is_one_all_the_same() {
        let limits = limits(&["127.0.0.1:80"]);
        let anywhere = name(libc::AF_UNSPEC, 81, &[0; 4]);
        assert_eq!(limits.may_bind(&anywhere), Err(Errno::ACCESS));
        assert_eq!(limits.may_send(&anywhere), Err(Errno::ACCESS));
        assert_eq!(limits.may_connect(&anywhere), Ok(()));
    }

    #[test]
    fn what_is_no_address_is_not_taken_for_one() {
        let limits = limits(&["127.0.0.1:80"]);
        let whole = name(libc::AF_INET6, 80, &[0; 16]);
        for length in 2..24 {
            assert_ne!(limits.may_bind(&whole[..length]), Ok(()), "{length}");
        }
        let other = name(libc::AF_VSOCK, 80, &[127, 0, 0, 1]);
        assert_eq!(limits.may_connect(&other), Err(Errno::AFNOSUPPORT));
        let netlink = name(libc::AF_NETLINK, 0, &[0; 4]);
        assert_eq!(limits.may_send(&netlink), Ok(()));
        assert_eq!(Limits::default().may_bind(&other), Ok(()), "no limit");
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        let none = limits(&[]);
        let local = name(libc::AF_INET, 80, &[127, 0, 0, 1]);
        assert!(none.any());
        assert_eq!(none.may_bind(&local), Err(Errno::ACCESS));
    }

    #[test]
    fn other_texts_are_no_places() {
        for text in [
            "",
            "80",
            ":80",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:+80",
            "127.0.0.1:65536",
            "127.0.0.1:90-80",
            "127.0.0.1/33:1",
            "127.0.0.1/:1",
            "::1:80",
            "[::1:80",
            "[127.0.0.1]:80",
            "localhost:80",
        ] {
            assert_eq!(text.parse::<Place>(), Err(NoPlace), "{text}");
        }
    }
}
