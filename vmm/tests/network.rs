//! Addresses of the host's network that a guest may use, and others.

#![allow(clippy::unwrap_used)]

mod support;
mod world;

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use pool_tests::requirements::needs;
use pool_tests::run::bounded;
use world::{World, text};

const ADDRESSES: &str = include_str!("programs/addresses.c");
const HANDED: &str = include_str!("programs/handed.c");
const OPENS: &str = include_str!("programs/opens.c");
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
    let world = World::of("addresses", "gcc", &["-w", "-pthread"], ADDRESSES);
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
             send with the address: 1 \n\
             connect once more: 0 \n\
             one piece: 4 \n\
             two: 10 \n\
             two with an address: 10 \n\
             opened by a message 0\n\
             came two two piecestwo pieces\n\
             two that nobody reads: -1 Broken pipe\n\
             connect for an address: 0 \n\
             disconnect: 0 \n\
             listen with what is left: -1 Permission denied\n\
             listens 0\n\
             listen again: 0 \n\
             another protocol: -1 Protocol not supported\n\
             another kind: -1 Socket type not supported\n\
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
             message elsewhere: -1 Permission denied\n\
             message: 10 \n\
             received 10\n\
             message of too much: -1 Message too long\n\
             message with a lifetime: 10 \n\
             message by way of another: -1 Permission denied\n\
             messages until one goes elsewhere: 2 \n\
             of 10 and 10\n\
             messages elsewhere: -1 Permission denied\n\
             connect datagrams: 0 \n\
             messages to whom it is connected to: 2 \n\
             message from nowhere: -1 Bad address\n\
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

/// As a service gets one from inetd or systemd.
#[test]
fn a_connection_that_a_guest_is_started_with_is_its_only_one() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("handed", "gcc", &["-w"], HANDED);
    let [starter, other] = [0, 0].map(|port| TcpListener::bind((address(), port)).unwrap());
    other.set_nonblocking(true).unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    for platform in PLATFORMS {
        let connection = TcpStream::connect(starter.local_addr().unwrap()).unwrap();
        let (mut peer, _) = starter.accept().unwrap();
        let options = ["--platform", platform];
        let arguments = [&address().to_string(), &port];
        let mut command = bounded(&world.vmm("handed", &options, &arguments.map(String::as_str)));
        let found = command.stdin(OwnedFd::from(connection)).output().unwrap();
        assert_eq!(
            text(&found.stdout),
            "disconnect: -1 Permission denied\n\
             connect: -1 Permission denied\n\
             bind: -1 Permission denied\n\
             send: -1 Permission denied\n\
             listen: -1 Permission denied\n\
             write: 5 \n",
            "{platform} {}",
            text(&found.stderr)
        );
        drop(command);
        let mut came = String::new();
        peer.read_to_string(&mut came).unwrap();
        assert_eq!(came, "still", "{platform}");
        let came = other.accept().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(came, Err(ErrorKind::WouldBlock), "{platform}");
    }
}

/// As a service gets one that is to accept by itself. Shut down it is one that can be connected.
#[test]
fn a_listener_that_a_guest_is_started_with_opens_no_connection() {
    if !needs(&["kvm"]) {
        return;
    }
    let world = World::of("opens", "gcc", &["-w"], OPENS);
    let other = TcpListener::bind((address(), 0)).unwrap();
    other.set_nonblocking(true).unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    for platform in PLATFORMS {
        let listener = TcpListener::bind((address(), 0)).unwrap();
        let options = ["--platform", platform];
        let arguments = [&address().to_string(), &port];
        let mut command = bounded(&world.vmm("opens", &options, &arguments.map(String::as_str)));
        let found = command.stdin(OwnedFd::from(listener)).output().unwrap();
        assert_eq!(
            text(&found.stdout),
            "shut down: 0 \n\
             message: -1 Permission denied\n\
             messages: -1 Permission denied\n",
            "{platform} {}",
            text(&found.stderr)
        );
        let came = other.accept().map(|_| ()).map_err(|error| error.kind());
        assert_eq!(came, Err(ErrorKind::WouldBlock), "{platform}");
    }
}

#[test]
fn a_socket_of_datagrams_takes_a_network() {
    if !needs(&["kvm", "root"]) {
        return;
    }
    let world = World::of("handed", "gcc", &["-w"], HANDED);
    let path = world.directory.path().join("host");
    let host = UnixDatagram::bind(&path).unwrap();
    host.set_nonblocking(true).unwrap();
    let name = path.to_str().unwrap();
    for platform in PLATFORMS {
        let options = ["--platform", platform];
        let far = UdpSocket::bind((address(), 0)).unwrap();
        let (local, _peer) = UnixDatagram::pair().unwrap();
        for socket in [OwnedFd::from(far), local.into()] {
            let mut command = bounded(&world.vmm("handed", &options, &[name]));
            let found = command.stdin(socket).output().unwrap();
            let said = text(&found.stderr);
            assert_eq!(found.status.code(), Some(1), "{platform} {said}");
            assert!(said.contains("takes --net host"), "{platform} {said}");
        }
        // With one, local names are those of the guest's own file system, whoever makes the call.
        for limits in [&[][..], &["--bind", "none", "--connect", "none"]] {
            let options = [&options[..], &["--net", "host"], limits].concat();
            let (local, _peer) = UnixDatagram::pair().unwrap();
            let mut command = bounded(&world.vmm("handed", &options, &[name]));
            let found = command.stdin(OwnedFd::from(local)).output().unwrap();
            let said = text(&found.stdout);
            assert!(
                said.contains("connect: -1 "),
                "{platform} {limits:?} {said}"
            );
            assert!(said.contains("send: -1 "), "{platform} {limits:?} {said}");
            let came = host.recv(&mut [0; 9]).map_err(|error| error.kind());
            assert_eq!(came, Err(ErrorKind::WouldBlock), "{platform} {limits:?}");
        }
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
