//! Which addresses of the host's network a guest may use: `--bind` and `--connect`.
//!
//! Each is a list of places; without a list there is no limit. What is looked at is the address that a call
//! is given, in a copy that the guest cannot change any more. A guest that listens on a socket without an
//! address would be given one, so that counts as binding; what a connection is sent from does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::str::FromStr;

use rustix::io::Errno;
use thiserror::Error;

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
    Some((address, bits))
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

    /// Whether `socket` may listen: one without an address of its own would get one by that.
    pub fn may_listen(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.bind.is_none() {
            return Ok(());
        }
        match rustix::net::getsockname(socket)?.try_into() {
            Ok(address) if SocketAddr::port(&address) == 0 => within(self.bind.as_deref(), address),
            _ => Ok(()),
        }
    }

    /// Whether a socket may be connected to `name`.
    pub fn may_connect(&self, name: &[u8]) -> Result<(), Errno> {
        if family(name) == Some(libc::AF_UNSPEC) {
            // It is to be connected no more.
            return Ok(());
        }
        allowed(self.connect.as_deref(), name)
    }

    /// Whether something may be sent to `name`.
    pub fn may_send(&self, name: &[u8]) -> Result<(), Errno> {
        allowed(self.connect.as_deref(), name)
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
