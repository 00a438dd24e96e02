//! Accepting connections, until told to stop.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use pool_api::auth::Peer;
use pool_api::pace::Pace;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::descriptors;
use crate::listen::Socket;
use crate::paced::Paced;
use crate::shutdown::Stop;

/// Time for a request's headers to arrive, and for an idle connection to say something.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// Most bytes of a request's line and headers: they are kept before anybody knows who asks.
const HEADER_BYTES: usize = 64 << 10;
/// Time for requests under way to end once the service is told to stop.
const DRAIN_TIME: Duration = Duration::from_secs(20);
/// Wait after a failed accept: it fails for want of descriptors, and trying harder helps nobody.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` turns true, then lets requests under way end.
pub(crate) async fn serve(
    router: Router,
    tcp: TcpListener,
    socket: Option<Socket>,
    pace: Pace,
    mut stop: Stop,
) {
    let room = Arc::new(Semaphore::new(descriptors::connections()));
    let mut connections = JoinSet::new();
    loop {
        // Connections that ended are forgotten as others come.
        while connections.try_join_next().is_some() {}
        let permit = tokio::select! {
            permit = Arc::clone(&room).acquire_owned() => permit,
            () = stop.requested() => break,
        };
        let accepted = tokio::select! {
            accepted = accept(&tcp, socket.as_ref()) => accepted,
            () = stop.requested() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            match stream {
                Stream::Tcp(stream) => {
                    converse(Paced::new(stream, pace), peer, router, stop).await;
                }
                Stream::Unix(stream) => {
                    converse(Paced::new(stream, pace), peer, router, stop).await;
                }
            }
        });
    }
    drop((tcp, socket));
    let drained = tokio::time::timeout(DRAIN_TIME, async {
        while connections.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::warn!(
            requests = connections.len(),
            "cutting requests off that do not end"
        );
    }
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

async fn accept(tcp: &TcpListener, socket: Option<&Socket>) -> std::io::Result<(Stream, Peer)> {
    let unix = async {
        match socket {
            Some(socket) => socket.listener.accept().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        accepted = tcp.accept() => {
            let (stream, address) = accepted?;
            stream.set_nodelay(true)?;
            Ok((Stream::Tcp(stream), Peer::Tcp(address)))
        }
        accepted = unix => {
            let (stream, _) = accepted?;
            let uid = stream.peer_cred()?.uid();
            Ok((Stream::Unix(stream), Peer::Unix { uid }))
        }
    }
}

/// Answers the requests of one connection.
async fn converse<S>(stream: S, peer: Peer, router: Router, mut stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let request: Request = request.map(axum::body::Body::new);
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_header_size(HEADER_BYTES)
        // A client may say that it has said all, and still want the answer (RFC 9112, 9.6).
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, ?peer, "a connection ended early");
    }
}
