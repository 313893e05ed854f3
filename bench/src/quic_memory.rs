//! Bare quinn-proto: one connection between two endpoints in one thread, packets handed over by reference.
//!
//! The TLS configuration and the transport parameters that cost (packet size, acknowledgement frequency, no segmentation
//! offload, one packet per call) are those of our engine, so that the difference to it is our own code. Charged to the
//! sender: writing the stream, building and sealing packets, acknowledgements. Charged to the receiver: one copy out of
//! the packet buffer (`Endpoint::handle` wants to own its bytes), opening, reassembly, reading, its own packets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::BytesMut;
use florelay_engine::config::PeerCrypto;
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    Event, ReadError, ServerConfig, StreamId, TransportConfig, VarInt, WriteError,
};

use crate::clock::{PacketCost, Shares};
use crate::credentials;
use crate::instructions::{Moved, Side, charge};
use crate::payload::Payload;
use crate::{DATA_PACKET_MIN_BYTES, QUIC_PACKET_BYTES};

/// Packets that one side builds before the other looks: a worker's receive batch.
const BURST_PACKETS: usize = 64;
/// Bytes written and not acknowledged.
const SEND_WINDOW_BYTES: u64 = 1 << 20;
/// Flow control is not to bind.
const RECEIVE_WINDOW_BYTES: u32 = 16 << 20;
/// One acknowledgement for this many packets, as the engine asks for on a fast path.
const ACK_THRESHOLD: u32 = 31;
/// Not measured: the handshake, the slow start, cold caches.
const WARM_UP_BYTES: u64 = 16 << 20;
/// Receive buffers are cut from blocks of this size, as in the engine.
const RX_BLOCK_BYTES: usize = 256 << 10;
/// Rounds without progress until it counts as stuck.
const MAX_IDLE_ROUNDS: u32 = 100_000;

/// Moves stream bytes for `duration` and says what a packet costs.
///
/// # Errors
/// The handshake failed, or nothing moves any more.
pub fn run(duration: Duration) -> Result<PacketCost> {
    let mut pair = Pair::connect(&credentials::both_sides()?)?;
    while pair.received < WARM_UP_BYTES {
        pair.round()?;
    }
    pair.restart_count();
    let began = Instant::now();
    while began.elapsed() < duration {
        pair.round()?;
    }
    Ok(pair.cost())
}

/// Transport parameters of both ends.
fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD));
    config
        .ack_frequency_config(Some(acks))
        .initial_mtu(QUIC_PACKET_BYTES)
        .min_mtu(QUIC_PACKET_BYTES)
        .mtu_discovery_config(None)
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .enable_segmentation_offload(false);
    Arc::new(config)
}

struct Peer {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    remote: SocketAddr,
    rx: BytesMut,
    scratch: Vec<u8>,
    out: Vec<Vec<u8>>,
    filled: usize,
}

impl Peer {
    fn new(server: Option<ServerConfig>, remote: SocketAddr) -> Self {
        Self {
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), server.map(Arc::new), false, None),
            connection: None,
            remote,
            rx: BytesMut::new(),
            scratch: Vec::with_capacity(2048),
            out: (0..BURST_PACKETS).map(|_| Vec::with_capacity(2048)).collect(),
            filled: 0,
        }
    }

    fn connection(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut().map(|(_, connection)| connection)
    }

    /// Timers that are due, then up to a burst of packets into `out`. Answers whether there were any.
    fn transmit(&mut self, now: Instant) -> bool {
        self.filled = 0;
        let Some((handle, connection)) = self.connection.as_mut() else { return false };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        for buffer in &mut self.out {
            buffer.clear();
            if connection.poll_transmit(now, 1, buffer).is_none() {
                break;
            }
            self.filled += 1;
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(answer);
            }
        }
        self.filled > 0
    }

    /// Packets of the other side.
    fn receive(&mut self, now: Instant, packets: &[Vec<u8>]) -> Result<()> {
        for packet in packets {
            if self.rx.capacity() < packet.len() {
                self.rx.reserve(RX_BLOCK_BYTES);
            }
            self.rx.extend_from_slice(packet);
            let data = self.rx.split();
            match self.endpoint.handle(now, self.remote, None, None, data, &mut self.scratch) {
                Some(DatagramEvent::ConnectionEvent(_, event)) => {
                    if let Some(connection) = self.connection() {
                        connection.handle_event(event);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let accepted = self.endpoint.accept(incoming, now, &mut self.scratch, None);
                    self.connection = Some(accepted.map_err(|error| error.cause)?);
                }
                Some(DatagramEvent::Response(_)) | None => {}
            }
        }
        Ok(())
    }
}

/// Both ends, connected.
pub struct Pair {
    sender: Peer,
    receiver: Peer,
    out_stream: StreamId,
    in_stream: Option<StreamId>,
    payload: Payload,
    /// Stream bytes written.
    written: u64,
    /// Real time, plus what was skipped while both ends only waited for a timer.
    skipped: Duration,
    /// Instead of real time: where the clock began to stand, and how far each round moves it.
    virtual_time: Option<(Instant, Duration)>,
    counting: bool,
    shares: Shares,
    packets: u64,
    answers: u64,
    received: u64,
    received_before: u64,
    idle_rounds: u32,
}

impl Pair {
    /// A connection from A to B with one unidirectional stream.
    ///
    /// # Errors
    /// The handshake failed.
    pub fn connect(crypto: &[PeerCrypto; 2]) -> Result<Self> {
        let [a, b] = crypto;
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = ServerConfig::with_crypto(b.server.clone());
        server.transport_config(transport());
        let mut client = ClientConfig::new(a.client.clone());
        client.transport_config(transport());
        let mut sender = Peer::new(None, address(2));
        let mut receiver = Peer::new(Some(server), address(1));
        let mut now = Instant::now();
        sender.connection = Some(sender.endpoint.connect(now, client, address(2), "florelay.invalid")?);
        // A handshake is a few flights; timers only move where a flight was lost, and here none is.
        for _ in 0..64 {
            now += Duration::from_millis(1);
            sender.transmit(now);
            receiver.receive(now, &sender.out[..sender.filled])?;
            receiver.transmit(now);
            sender.receive(now, &receiver.out[..receiver.filled])?;
            let connection = sender.connection().context("it was just opened")?;
            while let Some(event) = connection.poll() {
                if let Event::ConnectionLost { reason } = event {
                    bail!("the handshake failed: {reason}");
                }
            }
            if !connection.is_handshaking()
                && let Some(out_stream) = connection.streams().open(Dir::Uni)
            {
                return Ok(Self {
                    sender,
                    receiver,
                    out_stream,
                    in_stream: None,
                    payload: Payload::default(),
                    written: 0,
                    skipped: Duration::from_millis(64),
                    virtual_time: None,
                    counting: false,
                    shares: Shares::wall_only(),
                    packets: 0,
                    answers: 0,
                    received: 0,
                    received_before: 0,
                    idle_rounds: 0,
                });
            }
        }
        bail!("the handshake did not end")
    }

    /// A burst from the sender, and what the receiver answers.
    ///
    /// # Errors
    /// Nothing moves any more.
    pub fn round(&mut self) -> Result<()> {
        let start = Instant::now();
        let now = self.now(start);
        let counting = self.counting;
        let sent = charge(counting, Side::Sender, || {
            self.write()?;
            anyhow::Ok(self.sender.transmit(now))
        })?;
        let packets = &self.sender.out[..self.sender.filled];
        self.packets += packets.iter().filter(|packet| packet.len() >= DATA_PACKET_MIN_BYTES).count() as u64;
        let at_receiver = Instant::now();
        let answered = charge(counting, Side::Receiver, || {
            self.receiver.receive(now, &self.sender.out[..self.sender.filled])?;
            self.read()?;
            anyhow::Ok(self.receiver.transmit(now))
        })?;
        self.answers += self.receiver.filled as u64;
        let at_sender = Instant::now();
        charge(counting, Side::Sender, || self.sender.receive(now, &self.receiver.out[..self.receiver.filled]))?;
        let end = Instant::now();
        if sent || answered {
            self.shares.sender += (at_receiver - start) + (end - at_sender);
            self.shares.receiver += at_sender - at_receiver;
            self.idle_rounds = 0;
            return Ok(());
        }
        self.idle_rounds += 1;
        ensure!(self.idle_rounds < MAX_IDLE_ROUNDS, "stuck after {} bytes", self.received);
        // Pacing, or a delayed acknowledgement: let time jump there, there is nothing to be waited for.
        let timers =
            [&mut self.sender, &mut self.receiver].map(|peer| peer.connection().and_then(Connection::poll_timeout));
        if let Some(at) = timers.into_iter().flatten().min() {
            self.skipped += at.saturating_duration_since(now);
        }
        Ok(())
    }

    /// The clock is moved by this much a round, whatever time it takes.
    pub fn use_virtual_time(&mut self, step: Duration) {
        self.virtual_time = Some((Instant::now(), step));
    }

    /// From now on, each side works inside its fence.
    pub fn count_instructions(&mut self) {
        self.counting = true;
    }

    /// What moved since [`restart_count`](Self::restart_count).
    #[must_use]
    pub fn moved(&self) -> Moved {
        Moved { packets: self.packets, answers: self.answers, bytes: self.received - self.received_before }
    }

    fn now(&mut self, start: Instant) -> Instant {
        let Some((origin, step)) = self.virtual_time else { return start + self.skipped };
        self.skipped += step;
        origin + self.skipped
    }

    /// Stream bytes that the receiver has read.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Data packets sent since the start or [`restart_count`](Self::restart_count).
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Forget what was charged so far.
    pub fn restart_count(&mut self) {
        self.shares = if self.virtual_time.is_some() { Shares::wall_only() } else { Shares::start() };
        self.packets = 0;
        self.answers = 0;
        self.received_before = self.received;
    }

    /// What a packet has cost since [`restart_count`](Self::restart_count).
    #[must_use]
    pub fn cost(&self) -> PacketCost {
        self.shares.per_packet(self.packets, self.received - self.received_before)
    }

    fn write(&mut self) -> Result<()> {
        let connection = self.sender.connection().context("connected")?;
        while let Some(event) = connection.poll() {
            if let Event::ConnectionLost { reason } = event {
                bail!("the connection was lost: {reason}");
            }
        }
        let mut stream = connection.send_stream(self.out_stream);
        loop {
            match stream.write_chunks(&mut [self.payload.piece(self.written, u64::MAX)]) {
                Ok(written) => self.written += written.bytes as u64,
                // The window is full.
                Err(WriteError::Blocked) => return Ok(()),
                Err(error) => bail!("the stream cannot be written: {error}"),
            }
        }
    }

    fn read(&mut self) -> Result<()> {
        let Some(connection) = self.receiver.connection() else { return Ok(()) };
        while connection.poll().is_some() {}
        if self.in_stream.is_none() {
            self.in_stream = connection.streams().accept(Dir::Uni);
        }
        let Some(id) = self.in_stream else { return Ok(()) };
        let mut stream = connection.recv_stream(id);
        let mut chunks = stream.read(true).context("the stream was read already")?;
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => self.received += chunk.bytes.len() as u64,
                Ok(None) | Err(ReadError::Blocked) => break,
                Err(error) => bail!("the stream cannot be read: {error}"),
            }
        }
        // Whatever is to be sent is sent right after.
        let _ = chunks.finalize();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_move_in_full_packets() {
        let mut pair = Pair::connect(&credentials::both_sides().unwrap()).unwrap();
        while pair.received() < 4 << 20 {
            pair.round().unwrap();
        }
        let cost = pair.cost();
        assert!(cost.packets > 2000, "{cost:?}");
        assert!((1380.0..1440.0).contains(&cost.stream_bytes), "{cost:?}");
    }
}
