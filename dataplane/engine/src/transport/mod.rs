//! QUIC on quinn-proto: one endpoint per worker, two connections per peer (`control`, `bulk`), clocks that stop
//! with their path, packets pulled one at a time.
//!
//! ```text
//!   handle(peer, packet) ─► Endpoint ─► Connection ─► events (polled by the node)
//!   poll_packet(conn)    ◄─ poll_transmit; on None the caller feeds one packet's worth and asks again
//! ```
//!
//! The layer knows connections, streams and packets, nothing of what the streams carry.

mod bounded;
mod clock;
mod contracted;
mod keys;
mod memory;
mod params;
mod plan;
mod pull;
mod rounds;
mod timers;
pub mod tls;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, ConnectionId, DatagramEvent, EcnCodepoint, Endpoint, EndpointConfig,
    EndpointEvent, Incoming, ServerConfig, ValidationTokenConfig, VarInt,
};

use self::clock::PathClock;
use self::keys::{CID_BYTES, ResetKey, WorkerCid};
pub(crate) use self::params::STRIPE_BYTES;
pub use self::plan::CongestionSignals;
use self::plan::PathPlan;
use crate::config::{Congestion, PathMemory, PeerConfig, PeerCrypto, PeerId};
use crate::port::Ecn;
use crate::time::Nanos;

/// Receive buffers are cut from blocks of this size; a block is reused once nothing refers to it.
const RX_BLOCK_BYTES: usize = 256 << 10;
/// Endpoint answers (version negotiation, refusals, resets) that wait for tokens, per peer; more are dropped.
const MAX_RESPONSES: usize = 8;
/// Connections per peer and lane, all states together: forged first packets cannot pile up.
const MAX_CONNECTIONS: usize = 6;
/// Server name in the handshake: a hint nobody reads; the identity is in the certificate.
const SERVER_NAME: &str = "florelay.invalid";
/// What quinn-proto reserves for a STREAM frame's length.
const LENGTH_RESERVE_BYTES: u16 = 8;
/// Bytes of a full packet that are not stream data: short header (1 + connection id + 4 packet number),
/// AEAD tag, STREAM frame header (type, 4 id, 4 offset) and the length.
/// Writing this much less than the MTU keeps each write inside one packet.
const STREAM_OVERHEAD_BYTES: u16 = 1 + CID_BYTES as u16 + 4 + 16 + 9 + LENGTH_RESERVE_BYTES;

/// Index of a connection in its endpoint.
pub(crate) type Handle = ConnectionHandle;

/// A peer's two connections: commands never share a congestion window with bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Control = 0,
    Bulk = 1,
}

/// One QUIC connection.
pub(crate) struct Conn {
    pub(crate) peer: PeerId,
    pub(crate) lane: Lane,
    pub(crate) quic: Connection,
    /// A packet's worth was written that congestion control or pacing has not let out; feed no more until it is.
    fed: bool,
    /// STREAM and DATAGRAM frames sent when `fed` was set.
    frames_sent: u64,
    /// Everything that quinn-proto had to send is sent, and nothing has happened since that could have given it more.
    quiet: bool,
    /// When `handle_timeout` is due, in the path's time.
    timeout: Option<Instant>,
    /// Packets were polled since `timeout` was read.
    timeout_moved: bool,
    dirty: bool,
    /// Its path was dark, and no packet has come since.
    regained: bool,
}

/// What the transport keeps of a peer.
pub(crate) struct PeerTransport {
    pub(crate) config: PeerConfig,
    pub(crate) clock: PathClock,
    pub(crate) dark: bool,
    pub(crate) plan: PathPlan,
    congestion: Congestion,
    /// What `client` and `server` took from the plan's memory.
    remembered: Option<PathMemory>,
    address: SocketAddr,
    /// By lane.
    client: [ClientConfig; 2],
    server: [Arc<ServerConfig>; 2],
    responses: VecDeque<Vec<u8>>,
    /// Current connections by lane.
    current: [Option<Handle>; 2],
    /// All connections by lane: the current one, those that shake hands, those that close.
    all: [Vec<Handle>; 2],
    pub(crate) stats: PeerCounters,
}

/// Counters of a peer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PeerCounters {
    /// Connections established.
    pub handshakes: u64,
    /// Handshakes that failed: wrong identity, expired, no common protocol.
    pub handshake_failures: u64,
    /// Connections lost after they were established.
    pub lost: u64,
    /// Endpoint answers dropped because too many waited.
    pub responses_dropped: u64,
    /// Sessions that this end closed because of what the peer said in them, or did not read.
    pub session_errors: u64,
    /// Those of them that were closed because the peer never said hello.
    pub hello_timeouts: u64,
}

/// What came of a packet.
pub(crate) enum Handled {
    /// A connection took it, or was opened by it.
    Taken,
    /// The endpoint answers it.
    Answered,
    /// Nobody wants it.
    Refused,
}

pub(crate) struct Transport {
    endpoint: Endpoint,
    conns: Vec<Option<Box<Conn>>>,
    pub(crate) peers: Vec<PeerTransport>,
    rx: BytesMut,
    scratch: Vec<u8>,
    dirty: Vec<Handle>,
    /// Connections whose timers may have moved.
    polled: Vec<Handle>,
}

impl Transport {
    pub(crate) fn new(worker: u8, seed: &[u8; 32], reset_key: [u8; 32]) -> Self {
        let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key)));
        let cid_key = derive(seed, "florelay 1 connection ids");
        config
            .cid_generator(move || Box::new(WorkerCid::new(worker, cid_key)))
            .rng_seed(Some(derive(seed, "florelay 1 endpoint")))
            // Frames are never larger than the path's MTU, which is configured.
            .grease_quic_bit(false);
        Self {
            endpoint: Endpoint::new(Arc::new(config), None, false, None),
            conns: Vec::new(),
            peers: Vec::new(),
            rx: BytesMut::new(),
            scratch: Vec::with_capacity(usize::from(u16::MAX)),
            dirty: Vec::new(),
            polled: Vec::new(),
        }
    }

    /// Peers are added in the order of their ids.
    pub(crate) fn add_peer(
        &mut self,
        config: PeerConfig,
        crypto: &PeerCrypto,
        congestion: Congestion,
        seed: &[u8; 32],
    ) {
        let plan = PathPlan::new(config.path_rate_bps);
        if let Some(memory) = &config.memory {
            plan.measured().recall(memory);
        }
        let transport = [Lane::Control, Lane::Bulk]
            .map(|lane| Arc::new(params::transport_config(&config, lane, congestion, &plan)));
        let server = transport.clone().map(|transport| {
            let mut server = ServerConfig::with_crypto(crypto.server.clone());
            let mut no_tokens = ValidationTokenConfig::default();
            no_tokens.sent(0);
            server.transport_config(transport).migration(false).validation_token_config(no_tokens);
            Arc::new(server)
        });
        let key = derive(seed, &format!("florelay 1 initial ids {}", config.id.0));
        let counter = Arc::new(AtomicU64::new(0));
        let client = transport.map(|transport| {
            let counter = counter.clone();
            let mut client = ClientConfig::new(crypto.client.clone());
            client.transport_config(transport).initial_dst_cid_provider(Arc::new(move || {
                let hash = blake3::keyed_hash(&key, &counter.fetch_add(1, Ordering::Relaxed).to_le_bytes());
                ConnectionId::new(&hash.as_bytes()[..16])
            }));
            client
        });
        // The endpoint wants one to admit first packets at all; each peer's own is passed at acceptance.
        self.endpoint.set_server_config(Some(server[Lane::Bulk as usize].clone()));
        self.peers.push(PeerTransport {
            // A stable synthetic address (RFC 4193 prefix): a fail-over between links is not a migration.
            address: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfdf1, 0x0e1a, 0, 0, 0, 0, 0, config.id.0)), 6635),
            clock: PathClock::new(Instant::now()),
            dark: true,
            remembered: plan.memory(),
            plan,
            congestion,
            client,
            server,
            responses: VecDeque::with_capacity(MAX_RESPONSES),
            current: [None; 2],
            all: [Vec::new(), Vec::new()],
            stats: PeerCounters::default(),
            config,
        });
    }

    pub(crate) fn peer(&self, peer: PeerId) -> Option<&PeerTransport> {
        self.peers.get(usize::from(peer.0))
    }

    pub(crate) fn peer_mut(&mut self, peer: PeerId) -> Option<&mut PeerTransport> {
        self.peers.get_mut(usize::from(peer.0))
    }

    /// A connection, to do anything with: it may have something to send afterwards.
    pub(crate) fn conn(&mut self, handle: Handle) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(handle.0)?.as_deref_mut()?;
        conn.quiet = false;
        Some(conn)
    }

    /// The peer's connection of a lane, if it has one.
    pub(crate) fn current(&self, peer: PeerId, lane: Lane) -> Option<Handle> {
        self.peer(peer)?.current[lane as usize]
    }

    /// The `index`-th connection of a peer and lane, in order of age.
    pub(crate) fn nth(&self, peer: PeerId, lane: Lane, index: usize) -> Option<Handle> {
        self.peer(peer)?.all[lane as usize].get(index).copied()
    }

    /// Largest piece of stream data that surely fits one packet of this peer, in bytes.
    pub(crate) fn packet_payload(&self, peer: PeerId) -> usize {
        self.peer(peer).map_or(0, |p| usize::from(p.config.quic_mtu - STREAM_OVERHEAD_BYTES))
    }

    /// Dial a peer; its current connection of the lane is replaced.
    pub(crate) fn connect(&mut self, now: Nanos, peer: PeerId, lane: Lane) -> Option<Handle> {
        let target = self.peers.get_mut(usize::from(peer.0))?;
        target.recall();
        let at = target.clock.instant(now);
        let (handle, quic) =
            match self.endpoint.connect(at, target.client[lane as usize].clone(), target.address, SERVER_NAME) {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::error!(peer = %target.config.name, %error, "cannot open a connection");
                    return None;
                }
            };
        self.adopt(handle, peer, lane, quic);
        self.peers[usize::from(peer.0)].current[lane as usize].get_or_insert(handle);
        Some(handle)
    }

    /// A QUIC packet arrived on a peer's path.
    pub(crate) fn handle(&mut self, now: Nanos, peer: PeerId, lane: Lane, ecn: Ecn, packet: &[u8]) -> Handled {
        if self.rx.capacity() < packet.len() {
            // Reuses the block when every packet cut from it is gone; otherwise one allocation per block.
            self.rx.reserve(RX_BLOCK_BYTES);
        }
        self.rx.extend_from_slice(packet);
        let data = self.rx.split();
        let Some(from) = self.peers.get_mut(usize::from(peer.0)) else { return Handled::Refused };
        let at = from.clock.instant(now);
        let address = from.address;
        self.scratch.clear();
        let event =
            self.endpoint.handle(at, address, None, EcnCodepoint::from_bits(ecn.bits()), data, &mut self.scratch);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let Some(conn) = self.conns.get_mut(handle.0).and_then(|c| c.as_deref_mut()) else {
                    return Handled::Refused;
                };
                // The connection's packets travel on its peer's path and no other.
                if conn.peer != peer {
                    return Handled::Refused;
                }
                conn.quic.handle_event(event);
                if std::mem::take(&mut conn.regained) {
                    // It may acknowledge what had arrived before the dark: what is oldest now is really lost.
                    conn.skip_to_probe(at);
                }
                self.mark_dirty(handle);
                Handled::Taken
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.accept(at, peer, lane, incoming),
            Some(DatagramEvent::Response(transmit)) => {
                self.respond(peer, transmit.size);
                Handled::Answered
            }
            None => Handled::Refused,
        }
    }

    fn accept(&mut self, at: Instant, peer: PeerId, lane: Lane, incoming: Incoming) -> Handled {
        if self.peers[usize::from(peer.0)].all[lane as usize].len() >= MAX_CONNECTIONS && !self.evict(peer, lane) {
            self.peers[usize::from(peer.0)].stats.handshake_failures += 1;
            self.endpoint.ignore(incoming);
            return Handled::Refused;
        }
        let from = &mut self.peers[usize::from(peer.0)];
        from.recall();
        self.scratch.clear();
        match self.endpoint.accept(incoming, at, &mut self.scratch, Some(from.server[lane as usize].clone())) {
            Ok((handle, quic)) => {
                // Current only once it is established: a forged first packet must not keep this end from dialling.
                self.adopt(handle, peer, lane, quic);
                Handled::Taken
            }
            Err(error) => {
                from.stats.handshake_failures += 1;
                tracing::debug!(peer = %from.config.name, cause = %error.cause, "connection refused");
                let Some(transmit) = error.response else { return Handled::Refused };
                self.respond(peer, transmit.size);
                Handled::Answered
            }
        }
    }

    /// Keep a connection. An older one of the same lane lives on until the new one is established
    /// (see `establish`), so that a forged first packet cannot end a good connection.
    fn adopt(&mut self, handle: Handle, peer: PeerId, lane: Lane, quic: Connection) {
        if self.conns.len() <= handle.0 {
            self.conns.resize_with(handle.0 + 1, || None);
        }
        self.conns[handle.0] = Some(Box::new(Conn {
            peer,
            lane,
            quic,
            fed: false,
            frames_sent: 0,
            quiet: false,
            timeout: None,
            timeout_moved: false,
            dirty: false,
            regained: false,
        }));
        let owner = &mut self.peers[usize::from(peer.0)];
        owner.all[lane as usize].push(handle);
        self.mark_dirty(handle);
    }

    /// Forget the oldest connection that never got beyond its handshake. `false` = there is none.
    fn evict(&mut self, peer: PeerId, lane: Lane) -> bool {
        let owner = &self.peers[usize::from(peer.0)];
        let current = owner.current[lane as usize];
        let shaking = |handle: &Handle| {
            let conn = self.conns.get(handle.0).and_then(Option::as_deref);
            Some(*handle) != current && conn.is_some_and(|conn| conn.quic.is_handshaking())
        };
        let Some(oldest) = owner.all[lane as usize].iter().copied().find(shaking) else { return false };
        self.endpoint.handle_event(oldest, EndpointEvent::drained());
        self.forget(oldest);
        self.peers[usize::from(peer.0)].stats.handshake_failures += 1;
        true
    }

    /// `handle` is authenticated: it becomes its peer's current connection; the one it replaces is closed and returned.
    pub(crate) fn establish(&mut self, now: Nanos, handle: Handle) -> Option<Handle> {
        let conn = self.conn(handle)?;
        let (peer, lane) = (conn.peer, conn.lane);
        let state = self.peer_mut(peer)?;
        state.stats.handshakes += 1;
        let old = state.current[lane as usize].replace(handle).filter(|old| *old != handle)?;
        self.close(now, old, "replaced by a newer connection");
        Some(old)
    }

    /// The peer's connection of a lane is gone, or about to be.
    pub(crate) fn unset_current(&mut self, peer: PeerId, lane: Lane) {
        if let Some(state) = self.peer_mut(peer) {
            state.current[lane as usize] = None;
        }
    }

    pub(crate) fn close(&mut self, now: Nanos, handle: Handle, reason: impl Into<Bytes>) {
        let Some(conn) = self.conns.get_mut(handle.0).and_then(|c| c.as_deref_mut()) else { return };
        let at = self.peers[usize::from(conn.peer.0)].clock.instant(now);
        conn.quic.close(at, VarInt::from_u32(0), reason.into());
        self.mark_dirty(handle);
    }

    fn respond(&mut self, peer: PeerId, size: usize) {
        let to = &mut self.peers[usize::from(peer.0)];
        if to.responses.len() < MAX_RESPONSES {
            to.responses.push_back(self.scratch[..size].to_vec());
        } else {
            to.stats.responses_dropped += 1;
        }
    }

    /// Something was done to the connection: its events, timer and readiness are looked at before the next transmit.
    pub(crate) fn mark_dirty(&mut self, handle: Handle) {
        if let Some(conn) = self.conns.get_mut(handle.0).and_then(|c| c.as_deref_mut()) {
            conn.quiet = false;
            if conn.dirty {
                return;
            }
            conn.dirty = true;
            self.dirty.push(handle);
        }
    }

    pub(crate) fn take_dirty(&mut self) -> Option<Handle> {
        let handle = self.dirty.pop()?;
        if let Some(conn) = self.conn(handle) {
            conn.dirty = false;
        }
        Some(handle)
    }

    /// Exchange events between endpoint and connection and note its timer. `false` = it is gone, and forgotten.
    pub(crate) fn settle(&mut self, handle: Handle) -> bool {
        let Some(conn) = self.conns.get_mut(handle.0).and_then(|c| c.as_deref_mut()) else { return false };
        while let Some(event) = conn.quic.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(handle, event) {
                conn.quic.handle_event(answer);
            }
        }
        conn.timeout = conn.quic.poll_timeout();
        if !conn.quic.is_drained() {
            return true;
        }
        self.forget(handle);
        false
    }

    fn forget(&mut self, handle: Handle) {
        let Some(conn) = self.conns.get_mut(handle.0).and_then(Option::take) else { return };
        let owner = &mut self.peers[usize::from(conn.peer.0)];
        owner.all[conn.lane as usize].retain(|other| *other != handle);
        let slot = &mut owner.current[conn.lane as usize];
        if *slot == Some(handle) {
            *slot = None;
        }
    }

    /// The next endpoint answer for a peer.
    pub(crate) fn poll_response(&mut self, peer: PeerId) -> Option<Vec<u8>> {
        self.peer_mut(peer)?.responses.pop_front()
    }
}

fn derive(seed: &[u8; 32], context: &str) -> [u8; 32] {
    blake3::derive_key(context, seed)
}
