//! Addresses of the host's network that a guest may use, and others.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use world::{World, text};

const ADDRESSES: &str = include_str!("programs/addresses.c");
const PLATFORMS: [&str; 2] = ["kvm", "process"];

/// A loopback address that no other test uses.
fn address() -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 77, high, low.max(1))
}

#[test]
fn addresses_are_used_within_limits_alone() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let mut world = World::new();
    world.build("addresses", "gcc", &["-w", "-pthread"], ADDRESSES);
    let host = address().to_string();
    let (good, forbidden) = ("7001", "7002");
    // Whatever reaches these has come through.
    let stream = TcpListener::bind((address(), 7002)).unwrap();
    let datagrams = UdpSocket::bind((address(), 7002)).unwrap();
    stream.set_nonblocking(true).unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let place = format!("{host}:{good}");
    for platform in PLATFORMS {
        let options = ["--platform", platform, "--net", "host"];
        let options = [&options[..], &["--bind", &place, "--connect", &place]].concat();
        let mut command = bounded(&world.vmm("addresses", &options, &[&host, good, forbidden]));
        let found = command.output().unwrap();
        let said = text(&found.stdout);
        assert_eq!(
            said,
            "listen without an address: -1 Permission denied\n\
             bind elsewhere: -1 Permission denied\n\
             bind to no family: -1 Permission denied\n\
             bind a short name: -1 Invalid argument\n\
             bind nothing: -1 Bad address\n\
             bind no socket: -1 Bad file descriptor\n\
             bind: 0 \n\
             listen: 0 \n\
             connect elsewhere: -1 Permission denied\n\
             open by sending elsewhere: -1 Permission denied\n\
             connect: 0 \n\
             read 5\n\
             accepted 1\n\
             connect again: -1 Transport endpoint is already connected\n\
             send with the address: 0 \n\
             connect where nobody listens: -1 Connection refused\n\
             connect after a while: 0 \n\
             connect elsewhere by IPv6: -1 Permission denied\n\
             connect elsewhere, at once: -1 Permission denied\n\
             bind datagrams: 0 \n\
             send elsewhere: -1 Permission denied\n\
             send to no family: -1 Permission denied\n\
             send: 0 \n\
             received 8\n\
             send too much: -1 Message too long\n\
             disconnect: 0 \n\
             done\n",
            "{platform} {}",
            text(&found.stderr)
        );
        let came = datagrams.recv(&mut [0; 9]).map_err(|error| error.kind());
        assert_eq!(came, Err(ErrorKind::WouldBlock), "{platform}");
        let came = stream.accept().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(came, Err(ErrorKind::WouldBlock), "{platform}");
    }
}

#[test]
fn limits_without_a_network_are_refused() {
    let world = World::new();
    let found = world.run("any", &["--bind", "*:80"], &[]);
    assert_eq!(found.status.code(), Some(2));
    let said = text(&found.stderr);
    assert!(
        said.contains(
            "--bind limits the host's network, which the guest has with --net host alone"
        ),
        "{said}"
    );
}
