//! What HTTP goes over: sockets of Unix and of TCP.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

/// Connects to one socket, whatever the URL.
#[derive(Debug)]
pub(super) struct UnixConnector {
    path: PathBuf,
}

impl UnixConnector {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }
}

impl Connector for UnixConnector {
    type Out = SocketTransport<UnixStream>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let stream = connect_unix(&self.path, after(details.timeout)).map_err(|errno| {
            // The service's queue is full, and stays so.
            let error = io::Error::from(errno);
            or_timeout(error, details.timeout.reason)
        })?;
        Ok(Some(SocketTransport::new(stream, details.config)))
    }
}

/// Connects to a socket, within `patience`: it is for the service to take connections out of its queue.
fn connect_unix(path: &Path, patience: Option<Duration>) -> Result<UnixStream, Errno> {
    let socket = net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // It is that of connecting, too (socket(7)).
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, patience)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// How long a connection may be silent before the other host is asked whether it is there.
const IDLE: Duration = Duration::from_secs(60);
/// How long it is waited for each of [`PROBES`] answers.
const PROBE: Duration = Duration::from_secs(15);
const PROBES: u32 = 8;

/// Connects to a service on a host that may vanish. A collection says nothing for hours, so it is not
/// silence that tells, but that the host does not answer the kernel's questions (tcp(7)).
#[derive(Debug)]
pub(super) struct TcpConnector;

impl Connector for TcpConnector {
    type Out = SocketTransport<TcpStream>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let timeout = details.timeout;
        let until = after(timeout).map(|after| Instant::now() + after);
        let mut last = None;
        for (nth, address) in details.addrs.iter().enumerate() {
            // What is left is divided among those that are left.
            let left = (details.addrs.len() - nth) as u32;
            let connected = match until.map(|until| until.saturating_duration_since(Instant::now()))
            {
                Some(time) if time.is_zero() => break,
                Some(time) => TcpStream::connect_timeout(address, time / left),
                None => TcpStream::connect(address),
            };
            match connected {
                Ok(stream) => {
                    watch(&stream)?;
                    stream.set_nodelay(details.config.no_delay())?;
                    return Ok(Some(SocketTransport::new(stream, details.config)));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(error) if error.kind() != io::ErrorKind::TimedOut => error.into(),
            _ => Error::Timeout(timeout.reason),
        })
    }
}

/// Has the kernel notice when the other host is gone, whether anything is under way to it or not.
fn watch(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, IDLE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    Ok(())
}

/// A socket needs no address.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        // At least one is expected; the connector does not look at it.
        addresses.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(addresses)
    }
}

/// A kind of connected sockets.
pub(super) trait Socket: Read + Write + Debug + Send + Sync + 'static {
    fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()>;
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()>;
}

macro_rules! socket {
    ($kind:ty) => {
        impl Socket for $kind {
            fn set_timeouts(
                &self,
                read: Option<Duration>,
                write: Option<Duration>,
            ) -> io::Result<()> {
                self.set_read_timeout(read)?;
                self.set_write_timeout(write)
            }
            fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
                <$kind>::set_nonblocking(self, nonblocking)
            }
        }
    };
}
socket!(UnixStream);
socket!(TcpStream);

/// A connected socket.
pub(super) struct SocketTransport<S> {
    stream: S,
    buffers: LazyBuffers,
    /// What sending met when the other side had heard enough.
    unheard: Option<io::Error>,
}

impl<S> SocketTransport<S> {
    fn new(stream: S, config: &Config) -> Self {
        Self {
            stream,
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            unheard: None,
        }
    }
}

impl<S: Debug> Debug for SocketTransport<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SocketTransport")
            .field(&self.stream)
            .finish()
    }
}

fn after(timeout: NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|after| *after)
}

/// Whether the other side has closed the connection.
fn is_hung_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn or_timeout(error: io::Error, reason: Timeout) -> Error {
    match error.kind() {
        // The other one, ETIMEDOUT, is a host that is gone.
        io::ErrorKind::WouldBlock => Error::Timeout(reason),
        _ => error.into(),
    }
}

impl<S: Socket> Transport for SocketTransport<S> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.unheard.is_some() {
            return Ok(());
        }
        let timeout = timeout.for_write();
        self.stream.set_timeouts(None, after(timeout))?;
        let output = &self.buffers.output()[..amount];
        match self.stream.write_all(output) {
            // A service that refuses a request need not read it to its end. Why, it has said before:
            // that is there to be read.
            Err(error) if is_hung_up(&error) => {
                self.unheard = Some(error);
                Ok(())
            }
            written => written.map_err(|error| or_timeout(error, timeout.reason)),
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.stream.set_timeouts(after(timeout), None)?;
        let read = loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        if !matches!(read, Ok(1..))
            && let Some(error) = self.unheard.take()
        {
            // It has said nothing.
            return Err(error.into());
        }
        let amount = read.map_err(|error| or_timeout(error, timeout.reason))?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// An idle connection has nothing to say: what can be read is its end.
    fn is_open(&mut self) -> bool {
        let mut quiet = || {
            self.stream.set_nonblocking(true)?;
            let read = self.stream.read(&mut [0]);
            self.stream.set_nonblocking(false)?;
            Ok::<_, io::Error>(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
        };
        self.unheard.is_none() && quiet().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_queue_that_stays_full_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (unix, stream) = (AddressFamily::UNIX, SocketType::STREAM);
        let listener = net::socket_with(unix, stream, SocketFlags::CLOEXEC, None).unwrap();
        net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        net::listen(&listener, 0).unwrap();
        let patience = Some(Duration::from_millis(50));
        let _queued = connect_unix(&path, patience).unwrap();
        let full = connect_unix(&path, patience).unwrap_err();
        let told = or_timeout(full.into(), Timeout::Connect);
        assert!(matches!(told, Error::Timeout(Timeout::Connect)), "{told}");
    }

    #[test]
    fn a_host_that_vanishes_is_noticed_within_minutes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        watch(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let idle = sockopt::tcp_keepidle(&stream).unwrap();
        let probe = sockopt::tcp_keepintvl(&stream).unwrap();
        let all = idle + probe * sockopt::tcp_keepcnt(&stream).unwrap();
        assert_eq!(all, Duration::from_secs(180));
        // What the kernel says then is no silence of the service.
        let gone = io::Error::from_raw_os_error(110);
        let told = or_timeout(gone, Timeout::PerRead);
        assert!(matches!(told, Error::Io(_)), "{told}");
    }
}
