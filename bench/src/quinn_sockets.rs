//! quinn over UDP sockets: the yardstick that needs no AF_XDP. Client and server are two threads in two namespaces, each
//! with its tokio runtime on its own core; one connection, one unidirectional stream, packets of 1452 bytes.
//!
//! Where it would be unfair to hold quinn back, it is not: the veth keeps the kernel's offloads, socket buffers are
//! large, flow-control windows do not bind, writes are chunks without a copy. TLS is the engine's (AES-128-GCM, mutual).
//! `offload` switches UDP_SEGMENT at the sender; without it the receiver has nothing to coalesce either.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use florelay_engine::config::PeerCrypto;
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use rustix::net::sockopt;

use crate::bed::{Bed, Offloads, Side};
use crate::credentials;
use crate::payload::Payload;

/// Bytes of a packet.
pub const PACKET_BYTES: u16 = 1452;
const PORT: u16 = 4433;
const WINDOW_BYTES: u32 = 16 << 20;
/// Of each socket, in each direction.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Connecting, and closing, take at most this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Goodput {
    /// Stream bytes at the server in bit/s, from its first byte to its last.
    pub bps: f64,
    /// Datagrams per system call at the client: above 1 means that segmentation offload was really used.
    pub datagrams_per_call: f64,
    /// Share of the client's packets that were lost.
    pub lost: f64,
}

/// Sends for `duration`.
///
/// # Errors
/// No root, no connection, no bytes.
pub fn run(offload: bool, duration: Duration) -> Result<Goodput> {
    let bed = Bed::new(Offloads::Default)?;
    let [client_crypto, server_crypto] = credentials::both_sides()?;
    let (listening, wait_listening) = mpsc::channel();
    thread::scope(|scope| {
        let bed = &bed;
        let server = scope.spawn(move || {
            bed.settle(Side::B)?;
            on_tokio(serve(&server_crypto, offload, duration, &listening))
        });
        let client = scope.spawn(move || {
            bed.settle(Side::A)?;
            // A server that failed drops its end.
            wait_listening.recv().map_err(|_| anyhow!("there is no server"))?;
            on_tokio(send(&client_crypto, offload, duration))
        });
        let sent = client.join().map_err(|_| anyhow!("the client panicked"))?;
        let bps = server.join().map_err(|_| anyhow!("the server panicked"))?.context("quinn server")?;
        let stats = sent.context("quinn client")?;
        Ok(Goodput {
            bps,
            datagrams_per_call: stats.udp_tx.datagrams as f64 / stats.udp_tx.ios.max(1) as f64,
            lost: stats.path.lost_packets as f64 / stats.path.sent_packets.max(1) as f64,
        })
    })
}

fn on_tokio<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn serve(crypto: &PeerCrypto, offload: bool, duration: Duration, listening: &mpsc::Sender<()>) -> Result<f64> {
    let mut config = ServerConfig::with_crypto(crypto.server.clone());
    config.transport_config(transport(offload));
    let endpoint = endpoint(SocketAddr::from((Side::B.address(), PORT)), Some(config))?;
    listening.send(())?;
    let work = async {
        let connection = endpoint.accept().await.context("no connection")?.await?;
        let mut stream = connection.accept_uni().await?;
        let (mut bytes, mut first, mut last) = (0, None, Instant::now());
        while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
            last = Instant::now();
            // The first chunk starts the clock; its bytes came before.
            if first.is_some() {
                bytes += chunk.bytes.len();
            }
            first.get_or_insert(last);
        }
        connection.close(VarInt::from_u32(0), b"done");
        endpoint.wait_idle().await;
        let span = last - first.context("the stream was empty")?;
        ensure!(bytes > 0, "the stream was empty");
        Ok(bytes as f64 * 8.0 / span.as_secs_f64())
    };
    tokio::time::timeout(duration + PATIENCE * 2, work).await.context("the transfer did not end")?
}

async fn send(crypto: &PeerCrypto, offload: bool, duration: Duration) -> Result<quinn::ConnectionStats> {
    let payload = Payload::default();
    let mut config = ClientConfig::new(crypto.client.clone());
    config.transport_config(transport(offload));
    let endpoint = endpoint(SocketAddr::from((Side::A.address(), 0)), None)?;
    let server = SocketAddr::from((Side::B.address(), PORT));
    let connecting = endpoint.connect_with(config, server, "florelay.invalid")?;
    let connection = tokio::time::timeout(PATIENCE, connecting).await.context("no answer from the server")??;
    let work = async {
        let mut stream = connection.open_uni().await?;
        let mut written = 0;
        let began = Instant::now();
        while began.elapsed() < duration {
            let piece = payload.piece(written, u64::MAX);
            written += piece.len() as u64;
            stream.write_chunk(piece).await?;
        }
        stream.finish()?;
        // The server closes when it has everything.
        connection.closed().await;
        Ok(connection.stats())
    };
    tokio::time::timeout(duration + PATIENCE, work).await.context("the transfer did not end")?
}

fn endpoint(local: SocketAddr, server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = UdpSocket::bind(local).with_context(|| format!("bind {local}"))?;
    // Beyond net.core.{r,w}mem_max, as root may.
    sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)?;
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))?)
}

fn transport(offload: bool) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .initial_mtu(PACKET_BYTES)
        .min_mtu(PACKET_BYTES)
        .mtu_discovery_config(None)
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .enable_segmentation_offload(offload);
    Arc::new(config)
}
