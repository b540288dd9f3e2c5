//! Accepts connections, speaks TLS and HTTP/1.1 on them, and ends them, if need be with a reset.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::peer::Peer;
use super::router::Router;

/// Connections at one time; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How long requests may take to finish once the server is told to stop.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The most that hyper reads or gathers at once. Large bodies cross the loopback in few system calls this way.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// The most headers of a request. S3 counts bytes alone: 2 KB of metadata are a thousand names of one or two bytes.
const HEADERS_MAX: usize = 1_200;

/// Serves until `stop` changes or is dropped, then finishes what is under way, for at most [`GRACE`].
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Arc<Router>,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, address)) => {
                    let (tls, router) = (tls.clone(), Arc::clone(&router));
                    connections.spawn(connection(stream, address, tls, router, graceful.watcher()));
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    if timeout(GRACE, graceful.shutdown()).await.is_err() {
        warn!(connections = connections.len(), "requests that did not finish in time are cut");
    }
    connections.shutdown().await;
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Arc<Router>,
    watcher: Watcher,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY could not be set");
    }
    let peer = Peer::new(address);
    let wire = Wire { stream, peer: peer.clone() };
    match tls {
        None => http(wire, peer, router, watcher).await,
        Some(tls) => match timeout(HANDSHAKE_MAX, tls.accept(wire)).await {
            Ok(Ok(stream)) => http(stream, peer, router, watcher).await,
            Ok(Err(error)) => debug!(%error, %address, "the TLS handshake failed"),
            Err(_) => debug!(%address, "the TLS handshake took too long"),
        },
    }
}

async fn http<S>(stream: S, peer: Peer, router: Arc<Router>, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (router, peer) = (Arc::clone(&router), peer.clone());
        async move { router.answer(request, &peer).await }
    });
    let connection = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // The ends that faults ask for come out here as errors too, so they are no more than a debug message.
    if let Err(error) = watcher.watch(connection).await {
        debug!(%error, "a connection ended early");
    }
}

/// A TCP stream that ends with a reset when it was asked to.
///
/// SO_LINGER with a time of zero makes close(2) send RST. It must be set on the socket, which is deep inside TLS and
/// HTTP when a fault asks for it. So the fault sets a flag, and the drop of the stream reads it.
struct Wire {
    stream: TcpStream,
    peer: Peer,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.peer.is_reset()
            && let Err(error) = self.stream.set_zero_linger()
        {
            warn!(%error, "a connection is closed in order instead of reset");
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
