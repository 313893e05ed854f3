//! The yardstick: a plain quinn sender over the same emulated link, kernel UDP sockets in the same namespaces.
//!
//! quinn's defaults are what a program gets that sets nothing: CUBIC, windows for 100 Mbit/s at 100 ms, MTU discovery. With
//! [`Windows::TwiceBdp`] the windows are raised to 2 × rate × round trip, as a careful user would. One connection, one
//! stream; it has no cap of its own, so the link's queue is what stops it. TLS is that of the nodes.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use florelay_e2e::interrupted;
use florelay_engine::config::PeerCrypto;
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use serde::Serialize;

use super::figures::Curve;
use super::stage::Stage;
use crate::credentials;
use crate::payload::Payload;

const PORT: u16 = 4433;
/// The handshake takes at most this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the interrupt flag and the time.
const LOOK: Duration = Duration::from_millis(20);

/// Flow control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// quinn's own.
    Default,
    /// Twice this bandwidth-delay product, bytes.
    TwiceBdp(u64),
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Plain {
    /// Bytes in order at the receiver over seconds since the stream was opened.
    pub(super) curve: Curve,
    /// Until the last byte, or until the time was over.
    pub(super) seconds: f64,
    /// Share of the sender's packets that were lost.
    pub(super) lost: f64,
}

impl Plain {
    /// bit/s.
    pub(super) fn goodput_bps(&self) -> f64 {
        self.curve.last() * 8.0 / self.seconds
    }
}

/// Sends `size` bytes from station 0 to the last station, for at most `limit`.
///
/// # Errors
/// No connection.
pub(super) fn run(stage: &Stage, windows: Windows, size: u64, limit: Duration) -> Result<Plain> {
    let [client_crypto, server_crypto] = credentials::both_sides()?;
    let last = stage.stations() - 1;
    let address = |hop, end| SocketAddr::from((stage.address(hop, end), PORT));
    let (here, there) = (address(0, 0), address(last - 1, 1));
    let bind = |station: usize, local: SocketAddr| stage.station(station).enter(move || Ok(UdpSocket::bind(local)?));
    let (client, server) = (bind(0, here)?, bind(last, there)?);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let receiver = scope.spawn(move || on_tokio(receive(server, &server_crypto, windows, over)));
        let sent = on_tokio(send(client, there, &client_crypto, windows, size, limit));
        over.store(true, Ordering::Relaxed);
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let (opened, lost) = sent.context("quinn sender")?;
        let arrivals = received.context("quinn receiver")?;
        let since = |at: Instant| at.saturating_duration_since(opened).as_secs_f64();
        let mut bytes = 0;
        let mut curve = Curve(vec![(0.0, 0.0)]);
        for (at, count) in arrivals {
            bytes += count;
            // What came after the time was over does not count.
            if since(at) <= limit.as_secs_f64() {
                curve.0.push((since(at), bytes as f64));
            }
        }
        let whole = curve.last() >= size as f64;
        let seconds = if whole { curve.0.last().map_or(0.0, |point| point.0) } else { limit.as_secs_f64() };
        Ok(Plain { curve, seconds, lost })
    })
}

fn on_tokio<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn receive(
    socket: UdpSocket,
    crypto: &PeerCrypto,
    windows: Windows,
    over: &AtomicBool,
) -> Result<Vec<(Instant, usize)>> {
    let mut config = ServerConfig::with_crypto(crypto.server.clone());
    config.transport_config(transport(windows));
    let endpoint = endpoint(socket, Some(config))?;
    let mut arrivals = Vec::new();
    let take = async {
        let connection = endpoint.accept().await.context("no connection")?.await?;
        let mut stream = connection.accept_uni().await?;
        while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
            arrivals.push((Instant::now(), chunk.bytes.len()));
        }
        // It tells the sender that all is here.
        connection.close(VarInt::from_u32(0), b"done");
        endpoint.wait_idle().await;
        anyhow::Ok(())
    };
    let taken = tokio::select! {
        taken = take => taken,
        () = set(over) => Ok(()),
    };
    // A sender whose time was over has closed: what came is what counts.
    if arrivals.is_empty() { taken.map(|()| arrivals) } else { Ok(arrivals) }
}

/// When the stream was opened, and the share of packets lost.
async fn send(
    socket: UdpSocket,
    to: SocketAddr,
    crypto: &PeerCrypto,
    windows: Windows,
    size: u64,
    limit: Duration,
) -> Result<(Instant, f64)> {
    let payload = Payload::default();
    let mut config = ClientConfig::new(crypto.client.clone());
    config.transport_config(transport(windows));
    let endpoint = endpoint(socket, None)?;
    let connecting = endpoint.connect_with(config, to, "florelay.invalid")?;
    let connection = tokio::time::timeout(PATIENCE, connecting).await.context("no answer from the receiver")??;
    let opened = Instant::now();
    let work = async {
        let mut stream = connection.open_uni().await?;
        let mut written = 0;
        while written < size {
            let piece = payload.piece(written, size);
            written += piece.len() as u64;
            stream.write_chunk(piece).await?;
        }
        stream.finish()?;
        connection.closed().await;
        anyhow::Ok(())
    };
    tokio::select! {
        sent = work => sent?,
        () = tokio::time::sleep(limit) => {}
        () = on_interrupt() => bail!("interrupted"),
    }
    let stats = connection.stats();
    connection.close(VarInt::from_u32(1), b"time is over");
    Ok((opened, stats.path.lost_packets as f64 / stats.path.sent_packets.max(1) as f64))
}

async fn set(flag: &AtomicBool) {
    while !flag.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
}

async fn on_interrupt() {
    while !interrupted() {
        tokio::time::sleep(LOOK).await;
    }
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>) -> Result<Endpoint> {
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))?)
}

fn transport(windows: Windows) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    if let Windows::TwiceBdp(bdp) = windows {
        let bytes = 2 * bdp;
        let window = VarInt::from_u64(bytes).unwrap_or(VarInt::MAX);
        config.receive_window(window).stream_receive_window(window).send_window(bytes);
    }
    Arc::new(config)
}
