//! Getting hold of the addresses to listen on.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// Listens on a TCP address.
pub(crate) async fn tcp(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "stop what listens there, or choose another with --listen",
            io::ErrorKind::AddrNotAvailable => {
                "no interface of this host has that address (ip address): choose another with --listen"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 are not for everybody (CAP_NET_BIND_SERVICE): choose another with --listen"
            }
            _ => "choose another with --listen",
        };
        let what = format!("listening on {address}: {advice}");
        anyhow::Error::new(error).context(what)
    })
}

/// A Unix socket whose file goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    _file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "leaving the socket behind");
        }
    }
}

/// Removes a socket that nobody listens on, which the kernel says in one way only: any other failure
/// may be that of a service which lives, as a full queue is.
async fn remove_abandoned(path: &Path) -> Result<()> {
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("removing the old {}", path.display()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error)
            .with_context(|| format!("asking whether anybody listens on {}", path.display())),
        Ok(_) | Err(_) => bail!(
            "another process listens on {}: stop it first",
            path.display()
        ),
    }
}

/// Listens on a Unix socket, in place of one that a killed service left behind.
pub(crate) async fn unix(path: &Path) -> Result<Socket> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("looking at {}", path.display()));
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!(
                "{} is there and is no socket: choose another path",
                path.display()
            );
        }
        Ok(_) => remove_abandoned(path).await?,
    }
    let listener = UnixListener::bind(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::InvalidInput => "name it by fewer than 108 bytes",
            _ => "is its directory writable?",
        };
        let what = format!("listening on {}: {advice}", path.display());
        anyhow::Error::new(error).context(what)
    })?;
    let file = SocketFile(path.into());
    // Anybody may connect; who may do what is decided by user id or token.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
        .with_context(|| format!("opening {} to other users", path.display()))?;
    Ok(Socket {
        listener,
        _file: file,
    })
}
