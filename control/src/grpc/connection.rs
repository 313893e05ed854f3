//! Connections of the API, from `accept` to the first bytes of HTTP/2.
//!
//! ```text
//!   accept ─► a place among the connections ─► TLS (if configured) ─► HTTP/2's preface ─► tonic
//!               refused_too_many                _handshake, _certificate,   _not_http2
//!                                               _identity, _late            _late
//! ```
//!
//! Whoever has not got to the end of this within [`HANDSHAKE_TIME`] is disconnected, and counted by the reason, so that
//! nobody holds a place by saying nothing. From then on HTTP/2's keep-alive watches.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use super::counters::{Counters, Refused};
use super::tls;

/// From `accept` to HTTP/2's preface.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// What a client sends first (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What all listeners share.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) places: Arc<Semaphore>,
    pub(super) counters: Arc<Counters>,
    pub(super) connections: mpsc::Sender<io::Result<Connection>>,
}

impl Door {
    /// Takes a new connection through, beside others.
    pub(super) fn enter(&self, socket: impl Socket + 'static, tls: Option<TlsAcceptor>, from: String) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            tracing::warn!("gRPC: more connections than configured; {from} is turned away");
            return self.counters.refused(Refused::TooMany);
        };
        let door = self.clone();
        tokio::spawn(async move {
            let opened = timeout(HANDSHAKE_TIME, open(socket, tls)).await;
            let (socket, preface) = match opened.unwrap_or_else(|_| Err((Refused::Late, "no HTTP/2 in time".into()))) {
                Ok(opened) => opened,
                // A look at the port, nothing more.
                Err((Refused::NotHttp2, why)) if why.is_empty() => return,
                Err((refused, why)) => {
                    tracing::warn!("gRPC: {from} is turned away: {}", crate::printable::printable(&why));
                    return door.counters.refused(refused);
                }
            };
            door.counters.connection();
            // Nobody takes it while the server ends.
            let _ = door.connections.send(Ok(Connection { socket, preface, _place: place })).await;
        });
    }
}

type Opened = (Box<dyn Socket>, &'static [u8]);

async fn open(socket: impl Socket + 'static, tls: Option<TlsAcceptor>) -> Result<Opened, (Refused, String)> {
    let mut socket: Box<dyn Socket> = match tls {
        None => Box::new(socket),
        Some(tls) => Box::new(tls.accept(socket).await.map_err(|e| (tls::reason(&e), e.to_string()))?),
    };
    let mut came = [0; PREFACE.len()];
    let mut have = 0;
    while have < came.len() {
        have += match socket.read(&mut came[have..]).await {
            Ok(0) | Err(_) if have == 0 => return Err((Refused::NotHttp2, String::new())),
            Ok(0) | Err(_) => return Err((Refused::NotHttp2, "it ended before HTTP/2 began".into())),
            Ok(n) => n,
        };
        if came[..have] != PREFACE[..have] {
            return Err((Refused::NotHttp2, "what it says is not HTTP/2".into()));
        }
    }
    Ok((socket, PREFACE))
}

/// A socket, or TLS over one.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A connection that speaks HTTP/2; its preface was read, and is read again first.
pub(super) struct Connection {
    socket: Box<dyn Socket>,
    preface: &'static [u8],
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.preface.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let (now, later) = self.preface.split_at(self.preface.len().min(buf.remaining()));
        buf.put_slice(now);
        self.preface = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
