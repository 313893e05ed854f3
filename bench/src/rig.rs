//! Engines without a wire: a port that keeps frames on the heap, and the smallest networks to run them in.
//!
//! ```text
//!   node 0 ── out ──► handed over by value ──► handle_frame of node 1
//! ```
//!
//! A frame goes from one port's pool to the other's without a copy; [`hand_over`] evens the pools out. The rigs of the
//! micro benchmarks and of [`engine_memory`](crate::engine_memory) are the same.

use std::time::Duration;

use anyhow::{Result, bail};
use florelay_engine::api::LinkState;
use florelay_engine::config::{
    Congestion, EngineConfig, Limits, LinkConfig, LinkId, PeerConfig, PeerCrypto, PeerId, RatePlan, Role, Thresholds,
    TransitConfig, TransitEnd,
};
use florelay_engine::port::{Ecn, FrameBuf, Port};
use florelay_engine::{Engine, Event, Nanos};
use florelay_wire::mpls::Label;

use crate::QUIC_PACKET_BYTES;
use crate::credentials::SPIFFE_IDS;

/// Link payload that an Ethernet MTU of 1500 leaves over IPv4.
pub const MTU_PAYLOAD: u16 = 1500 - 28;
/// Ethernet, IPv4 and UDP headers.
pub const OVERHEAD_BYTES: u16 = 14 + 28;
/// Frames of a pool.
pub const POOL_FRAMES: usize = 4096;
/// Frames that one `transmit` may send: a worker's burst.
pub const BURST_FRAMES: usize = 64;

/// A frame on the heap.
#[derive(Debug)]
pub struct HeapFrame {
    bytes: Box<[u8]>,
    len: usize,
}

impl FrameBuf for HeapFrame {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }

    fn set_len(&mut self, len: usize) {
        self.len = len.min(self.bytes.len());
    }
}

/// A port whose frames wait in `out` for whoever takes them.
#[derive(Debug)]
pub struct HeapPort {
    free: Vec<HeapFrame>,
    /// What was sent, in order.
    pub out: Vec<(LinkId, HeapFrame, Ecn)>,
    out_bytes: u64,
}

impl Default for HeapPort {
    fn default() -> Self {
        Self::new(POOL_FRAMES)
    }
}

impl HeapPort {
    /// A pool of this many frames of one link payload each.
    #[must_use]
    pub fn new(frames: usize) -> Self {
        let frame = || HeapFrame { bytes: vec![0; usize::from(MTU_PAYLOAD)].into(), len: 0 };
        Self { free: (0..frames).map(|_| frame()).collect(), out: Vec::with_capacity(BURST_FRAMES * 2), out_bytes: 0 }
    }

    /// What was sent completes: its frames are free again.
    pub fn complete(&mut self) {
        self.out_bytes = 0;
        self.free.extend(self.out.drain(..).map(|(_, frame, _)| frame));
    }

    /// A frame with these bytes, as if received; `None` when the pool is empty.
    pub fn receive(&mut self, bytes: &[u8]) -> Option<HeapFrame> {
        let mut frame = self.free.pop()?;
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        Some(frame)
    }

    /// Frames in the pool.
    #[must_use]
    pub fn free_frames(&self) -> usize {
        self.free.len()
    }
}

impl Port for HeapPort {
    type Frame = HeapFrame;

    fn alloc(&mut self, _: LinkId) -> Option<HeapFrame> {
        let mut frame = self.free.pop()?;
        frame.len = 0;
        Some(frame)
    }

    fn free(&mut self, frame: HeapFrame) {
        self.free.push(frame);
    }

    fn in_flight_bytes(&self, _: LinkId) -> u64 {
        self.out_bytes
    }

    fn tx_room(&self, _: LinkId) -> usize {
        BURST_FRAMES.saturating_sub(self.out.len())
    }

    fn spare_frames(&self) -> usize {
        self.free.len()
    }

    fn send(&mut self, link: LinkId, frame: HeapFrame, ecn: Ecn) {
        self.out_bytes += frame.bytes().len() as u64 + u64::from(OVERHEAD_BYTES);
        self.out.push((link, frame, ecn));
    }
}

/// An engine with its port.
pub struct Node {
    /// The engine.
    pub engine: Engine<HeapFrame>,
    /// Its port.
    pub port: HeapPort,
}

impl Node {
    /// At time zero.
    ///
    /// # Errors
    /// The configuration does not fit together.
    pub fn new(config: EngineConfig) -> Result<Self> {
        Ok(Self { engine: Engine::new(config, Nanos::ZERO)?, port: HeapPort::default() })
    }

    /// Due timers.
    pub fn timers(&mut self, now: Nanos) {
        if self.engine.next_timeout(now).is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
        }
    }
}

/// Everything that `from` has sent arrives at `to` on `link`; answers how many frames.
pub fn hand_over(now: Nanos, from: &mut HeapPort, to: &mut Node, link: LinkId) -> usize {
    let count = from.out.len();
    from.out_bytes = 0;
    for (_, frame, ecn) in from.out.drain(..) {
        to.engine.handle_frame(now, link, frame, ecn, &mut to.port);
    }
    // Frames have moved from one pool to the other.
    while from.free.len() < POOL_FRAMES && to.port.free.len() > POOL_FRAMES {
        from.free.extend(to.port.free.pop());
    }
    count
}

/// A plan of this rate, with a burst of 256 full frames: four of a worker's, so that it never binds at the pace of the rigs.
#[must_use]
pub fn rate_plan(rate_bps: Option<u64>) -> RatePlan {
    RatePlan { rate_bps, burst_bytes: 256 * u32::from(MTU_PAYLOAD + OVERHEAD_BYTES), control_percent: 20 }
}

/// A link of the rigs.
#[must_use]
pub fn link_config(id: u16, rate_bps: Option<u64>, congestion: Congestion) -> LinkConfig {
    LinkConfig {
        id: LinkId(id),
        name: format!("link-{id}").into(),
        mtu_payload: MTU_PAYLOAD,
        overhead_bytes: OVERHEAD_BYTES,
        rate: rate_plan(rate_bps),
        delay: Duration::ZERO,
        congestion,
        liveness_interval: Duration::from_millis(100),
        detect_multiplier: 3,
        liveness_key: [7; 32],
        thresholds: Thresholds::default(),
        admin_up: true,
    }
}

/// A node without links; `number` makes it different from the others.
#[must_use]
pub fn engine_config(number: u8) -> EngineConfig {
    EngineConfig {
        node: format!("node-{number}").into(),
        snapshot: 1,
        worker: 0,
        boot_id: u64::from(number) + 1,
        links: Vec::new(),
        foreign_links: Vec::new(),
        peers: Vec::new(),
        transits: Vec::new(),
        reset_key: [number; 32],
        seed: [number + 1; 32],
        limits: Limits::default(),
    }
}

/// A transit path from link 0 to link 1: labels 100 in and 200 out, 101 and 201 backward.
#[must_use]
pub fn transit_row() -> TransitConfig {
    let end = |link, in_label, out_label| TransitEnd {
        link: LinkId(link),
        in_label: label(in_label),
        out_label: label(out_label),
    };
    TransitConfig { a: end(0, 100, 101), b: end(1, 201, 200), weight: 1 }
}

/// Two nodes, one link (`LinkId(0)` at both), one path; node 0 dials. `rate_bps` caps both directions.
///
/// # Errors
/// The configuration does not fit together.
pub fn pair(rate_bps: Option<u64>, crypto: &[PeerCrypto; 2]) -> Result<[Node; 2]> {
    let congestion = if rate_bps.is_some() { Congestion::Contracted } else { Congestion::Shared };
    let node = |number: u8| {
        let other = 1 - number;
        let own = usize::from(number);
        let mut config = engine_config(number);
        config.links.push(link_config(0, rate_bps, congestion));
        let peer = PeerConfig {
            id: PeerId(0),
            name: format!("node-{other}").into(),
            spiffe_id: SPIFFE_IDS[usize::from(other)].into(),
            link: LinkId(0),
            out_label: label(100 + u32::from(other)),
            in_label: label(100 + u32::from(number)),
            role: if number == 0 { Role::Originator } else { Role::Acceptor },
            quic_mtu: QUIC_PACKET_BYTES,
            initial_rtt: Duration::from_millis(1),
            path_rate_bps: rate_bps,
            return_rate_bps: rate_bps,
            weight: 100,
            memory: None,
        };
        config.peers.push((peer, crypto[own].clone()));
        Node::new(config)
    };
    Ok([node(0)?, node(1)?])
}

/// A relay with links 0 and 1, the row of [`transit_row`] and both links up, and the time at which they are. The
/// neighbours that brought the links up are gone: leave the time where it is, or the links go down.
///
/// # Errors
/// The links do not come up.
pub fn relay() -> Result<(Node, Nanos)> {
    let mut config = engine_config(0);
    config.links = [0, 1].map(|id| link_config(id, None, Congestion::Shared)).into();
    config.transits.push(transit_row());
    let mut relay = Node::new(config)?;
    let neighbour = |number: u8| {
        let mut config = engine_config(number);
        config.links.push(link_config(0, None, Congestion::Shared));
        Node::new(config)
    };
    let mut neighbours = [neighbour(1)?, neighbour(2)?];
    let mut up = [false; 2];
    for step in 1..1000 {
        let now = Nanos(step * 10_000_000);
        relay.timers(now);
        for link in [LinkId(0), LinkId(1)] {
            relay.engine.transmit(now, link, &mut relay.port);
        }
        let Node { engine, port } = &mut relay;
        for (link, frame, ecn) in port.out.drain(..) {
            let to = &mut neighbours[usize::from(link.0)];
            to.engine.handle_frame(now, LinkId(0), frame, ecn, &mut to.port);
        }
        port.out_bytes = 0;
        for (link, neighbour) in (0..).map(LinkId).zip(&mut neighbours) {
            neighbour.timers(now);
            neighbour.engine.transmit(now, LinkId(0), &mut neighbour.port);
            neighbour.port.out_bytes = 0;
            for (_, frame, ecn) in neighbour.port.out.drain(..) {
                engine.handle_frame(now, link, frame, ecn, port);
            }
        }
        while let Some(event) = engine.poll_event() {
            if let Event::Link { link, state } = event {
                up[usize::from(link.0)] = state == LinkState::Up;
            }
        }
        if up == [true; 2] {
            // What the links still want to say of themselves is not to be counted.
            for link in [LinkId(0), LinkId(1)] {
                while engine.transmit(now, link, port) > 0 {
                    port.complete();
                }
            }
            return Ok((relay, now));
        }
    }
    bail!("the links of the relay do not come up")
}

/// A label that is known to be one.
fn label(number: u32) -> Label {
    // Labels have 20 bits; the rigs' are below 300.
    Label::new(number).unwrap_or(Label::GAL)
}

#[cfg(test)]
mod tests {
    use florelay_wire::cw::{ControlWord, PayloadType};
    use florelay_wire::link::{parse, write_path_header};
    use florelay_wire::mpls::{Lse, Tc};

    use super::*;

    #[test]
    fn the_relay_passes_a_frame_on_with_labels_swapped() {
        let (mut relay, now) = relay().unwrap();
        let lse = |number| Lse { label: label(number), tc: Tc::BULK, bottom: false, ttl: 64 };
        let cw = ControlWord { payload: PayloadType::Quic, flags: 0, sequence: 0 };
        let mut bytes = [0; 100];
        write_path_header(&mut bytes, lse(100), lse(101), cw).unwrap();
        let frame = relay.port.receive(&bytes).unwrap();
        relay.engine.handle_frame(now, LinkId(0), frame, Ecn::NotEct, &mut relay.port);
        assert_eq!(relay.engine.transmit(now, LinkId(1), &mut relay.port), 1);
        let (link, frame, _) = &relay.port.out[0];
        let sent = parse(frame.bytes()).unwrap();
        let backward = sent.backward.unwrap();
        assert_eq!((link.0, sent.forward.label, backward.label), (1, label(200), label(201)));
    }
}
