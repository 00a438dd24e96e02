//! Telling a service manager how the daemon does (`sd_notify(3)`): one datagram to the socket
//! that the manager names in `NOTIFY_SOCKET`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A service manager that wants to know, or nobody.
#[derive(Clone, Debug, Default)]
pub struct Manager(Option<OsString>);

impl Manager {
    /// The manager that listens on `socket`, the value of `NOTIFY_SOCKET`.
    pub fn new(socket: Option<OsString>) -> Self {
        Self(socket)
    }

    /// Says `state`, as in `READY=1`. A manager that does not hear it is not worth failing for.
    pub fn tell(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = send(socket, state)
        {
            tracing::warn!(%error, "telling the service manager {state} failed");
        }
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_what_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        Manager::new(Some(path.into())).tell("READY=1");
        let mut buffer = [0; 16];
        let length = listener.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
        Manager::new(Some("/nowhere/at/all".into())).tell("READY=1");
        Manager::new(None).tell("READY=1");
    }
}
