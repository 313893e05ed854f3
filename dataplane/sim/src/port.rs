//! The adapters of one simulated node: a pool of heap frames, and per link a transmit ring that drains at the
//! interface's rate.
//!
//! ```text
//!             alloc                     send                     serialised
//!   free ─────────────► held ─────────────────────► in flight ─────────────► free, and the packet is on the link
//!     └──── receive ─────► │ ◄── by the engine
//!     ◄─────── free ────── ┘
//! ```
//!
//! Invariant, checked after every step: free + held + in flight = total, and no frame was dropped on the floor
//! ([`SimPort::check`]). A frame is one value that cannot be copied, so it is in one place at a time; the only way to
//! lose it is to drop it outside the port, and that is counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use florelay_engine::config::{LinkConfig, LinkId};
use florelay_engine::port::{Crossing, Ecn, FrameBuf, Port};
use florelay_engine::time::Nanos;

use crate::link::Packet;
use crate::ring::{Freight, SimRing};
use crate::window::{Exceeded, WindowRule};

/// Frames of a pool unless told otherwise.
pub const DEFAULT_FRAMES: usize = 4096;
/// Slots of a transmit ring unless told otherwise.
pub const DEFAULT_RING_FRAMES: usize = 256;

/// Smallest Ethernet frame without FCS in bytes (IEEE 802.3 clause 3.2.7).
const MIN_FRAME_BYTES: u32 = 60;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A heap frame of one pool.
#[derive(Debug)]
pub struct SimFrame {
    bytes: Box<[u8]>,
    len: usize,
    /// Of the pool that owns it; counts frames that were dropped instead of given back.
    leaked: Arc<AtomicU64>,
}

impl FrameBuf for SimFrame {
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
        assert!(len <= self.bytes.len(), "frame of {} bytes made {len} long", self.bytes.len());
        self.len = len;
    }
}

impl Drop for SimFrame {
    fn drop(&mut self) {
        self.leaked.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counters of one interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Frames put on the ring.
    pub sent_frames: u64,
    /// Bytes at layer 2 put on the ring.
    pub sent_bytes: u64,
    /// Frames that found the ring full.
    pub ring_full: u64,
    /// Frames handed to the engine.
    pub received_frames: u64,
    /// Arrivals for which the pool had no frame.
    pub no_frame: u64,
    /// Arrivals longer than a frame.
    pub too_long: u64,
    /// Most bytes at layer 2 that were in flight at once.
    pub max_in_flight_bytes: u64,
}

/// What joins one link to a node.
#[derive(Debug)]
struct Interface {
    id: LinkId,
    overhead_bytes: u32,
    mtu_payload: usize,
    rate_bps: Option<u64>,
    ring: VecDeque<InFlight>,
    in_flight_bytes: u64,
    busy_until: Nanos,
    rule: WindowRule,
    counters: InterfaceCounters,
}

#[derive(Debug)]
struct InFlight {
    done: Nanos,
    frame: SimFrame,
    ecn: Ecn,
    l2_bytes: u32,
}

/// One frame in this many is kept for receiving and OAM.
const RESERVE_SHARE: usize = 4;

/// All adapters of one node.
#[derive(Debug)]
pub struct SimPort {
    now: Nanos,
    interfaces: Vec<Interface>,
    ring_frames: usize,
    free: Vec<SimFrame>,
    total: usize,
    held: usize,
    leaked: Arc<AtomicU64>,
    /// Completions that nobody was told of yet.
    completions: Vec<(Nanos, LinkId)>,
    /// To the other workers of the node, and which links are behind each.
    pub(crate) rings: Vec<(SimRing, Vec<LinkId>)>,
    /// Frames from a ring that found the pool empty.
    crossed_no_frame: u64,
    broken: Option<Broken>,
}

/// A rule that the engine broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// More bytes in a window than the plan allows.
    Cap(LinkId, Exceeded),
    /// A frame longer than the link's MTU, in bytes of link payload.
    Mtu(LinkId, usize),
    /// Frames were dropped instead of given back.
    Leaked(u64),
    /// A ring to another worker lost or made frames.
    Ring,
    /// free + held + in flight ≠ total.
    Conservation {
        /// In the pool.
        free: usize,
        /// With the engine.
        held: usize,
        /// In transmit rings.
        in_flight: usize,
        /// All there are.
        total: usize,
    },
}

impl SimPort {
    /// A pool of `frames` frames that fit the largest of `links`, and an interface for each link that serialises at
    /// `interface_bps` (`None` = at once).
    #[must_use]
    pub fn new(links: &[LinkConfig], interface_bps: Option<u64>, frames: usize) -> Self {
        let capacity = links.iter().map(|link| usize::from(link.mtu_payload)).max().unwrap_or(0);
        let leaked = Arc::new(AtomicU64::new(0));
        let interfaces = links
            .iter()
            .map(|link| Interface {
                id: link.id,
                overhead_bytes: link.overhead_bytes.into(),
                mtu_payload: link.mtu_payload.into(),
                rate_bps: interface_bps,
                ring: VecDeque::new(),
                in_flight_bytes: 0,
                busy_until: Nanos::ZERO,
                rule: WindowRule::new(link.rate),
                counters: InterfaceCounters::default(),
            })
            .collect();
        let frame = || SimFrame { bytes: vec![0; capacity].into(), len: 0, leaked: leaked.clone() };
        Self {
            now: Nanos::ZERO,
            interfaces,
            ring_frames: DEFAULT_RING_FRAMES,
            free: (0..frames).map(|_| frame()).collect(),
            total: frames,
            held: 0,
            leaked,
            completions: Vec::new(),
            rings: Vec::new(),
            crossed_no_frame: 0,
            broken: None,
        }
    }

    /// The time of everything that follows.
    pub fn set_now(&mut self, now: Nanos) {
        self.now = now;
    }

    /// The plan that the link must keep from now on.
    pub fn set_rate(&mut self, link: LinkId, plan: florelay_engine::config::RatePlan) {
        let now = self.now;
        self.interface_mut(link).rule.set_plan(now, plan);
    }

    /// A frame for an arrival, counted as held by the engine; `None` if it was dropped (and counted).
    pub fn receive(&mut self, link: LinkId, packet: &Packet) -> Option<SimFrame> {
        let bytes = &packet.bytes;
        let capacity = self.free.last().map(SimFrame::capacity);
        let counters = &mut self.interface_mut(link).counters;
        match capacity {
            None => counters.no_frame += 1,
            Some(capacity) if capacity < bytes.len() => counters.too_long += 1,
            Some(_) => counters.received_frames += 1,
        }
        let mut frame = self.free.pop_if(|frame| frame.capacity() >= bytes.len())?;
        self.held += 1;
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        Some(frame)
    }

    /// A frame for one that comes from another worker, with room for `len` bytes; `None` if there is none (counted).
    pub(crate) fn take_crossed(&mut self, packet: &Packet) -> Option<SimFrame> {
        let bytes = &packet.bytes;
        let Some(mut frame) = self.free.pop_if(|frame| frame.capacity() >= bytes.len()) else {
            self.crossed_no_frame += 1;
            return None;
        };
        self.held += 1;
        frame.set_len(bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        Some(frame)
    }

    /// Put a packet into the ring to the worker that owns `link`; `false` if it is full.
    pub(crate) fn hand_over(&mut self, link: LinkId, freight: Freight, packet: Packet) -> bool {
        let to = self.rings.iter_mut().find(|(_, links)| links.contains(&link));
        to.unwrap_or_else(|| panic!("no worker beside this one owns {link:?}")).0.push(freight, packet)
    }

    /// The oldest frame of the ring, if it is serialised by now; its frame is free again.
    pub fn complete(&mut self, link: LinkId) -> Option<Packet> {
        let now = self.now;
        let interface = self.interface_mut(link);
        let InFlight { frame, ecn, l2_bytes, .. } = interface.ring.pop_front_if(|slot| slot.done <= now)?;
        interface.in_flight_bytes -= u64::from(l2_bytes);
        let packet = Packet { bytes: Bytes::copy_from_slice(frame.bytes()), ecn, l2_bytes };
        self.free.push(frame);
        Some(packet)
    }

    /// When which link's next completions are due; each is told once.
    pub fn take_completions(&mut self) -> impl Iterator<Item = (Nanos, LinkId)> + '_ {
        self.completions.drain(..)
    }

    /// Is every frame accounted for, and every rule kept so far?
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn check(&self) -> Result<(), Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let leaked = self.leaked.load(Ordering::Relaxed);
        if leaked != 0 {
            return Err(Broken::Leaked(leaked));
        }
        let in_flight = self.interfaces.iter().map(|interface| interface.ring.len()).sum();
        let (free, held, total) = (self.free.len(), self.held, self.total);
        if free + held + in_flight != total {
            return Err(Broken::Conservation { free, held, in_flight, total });
        }
        if !self.rings.iter().all(|(ring, _)| ring.conserved()) {
            return Err(Broken::Ring);
        }
        Ok(())
    }

    /// The rings to the node's other workers.
    pub fn rings(&self) -> impl Iterator<Item = &SimRing> {
        self.rings.iter().map(|(ring, _)| ring)
    }

    /// Frames from other workers' rings that found no free frame here.
    #[must_use]
    pub fn crossed_no_frame(&self) -> u64 {
        self.crossed_no_frame
    }

    /// Frames that the engine holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Frames in the pool.
    #[must_use]
    pub fn free_frames(&self) -> usize {
        self.free.len()
    }

    /// Counters of a link's interface.
    #[must_use]
    pub fn counters(&self, link: LinkId) -> &InterfaceCounters {
        &self.interface(link).counters
    }

    /// The link's cap as it is checked.
    #[must_use]
    pub fn rule(&self, link: LinkId) -> &WindowRule {
        &self.interface(link).rule
    }

    /// The links, in the order of the configuration.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.interfaces.iter().map(|interface| interface.id)
    }

    fn interface(&self, link: LinkId) -> &Interface {
        let found = self.interfaces.iter().find(|interface| interface.id == link);
        found.unwrap_or_else(|| panic!("no interface for {link:?}"))
    }

    fn interface_mut(&mut self, link: LinkId) -> &mut Interface {
        let found = self.interfaces.iter_mut().find(|interface| interface.id == link);
        found.unwrap_or_else(|| panic!("no interface for {link:?}"))
    }
}

impl Port for SimPort {
    type Frame = SimFrame;

    fn alloc(&mut self, _link: LinkId) -> Option<SimFrame> {
        let mut frame = self.free.pop()?;
        self.held += 1;
        frame.set_len(0);
        Some(frame)
    }

    fn free(&mut self, frame: SimFrame) {
        assert!(Arc::ptr_eq(&frame.leaked, &self.leaked), "a frame of another pool");
        self.held -= 1;
        self.free.push(frame);
    }

    fn in_flight_bytes(&self, link: LinkId) -> u64 {
        self.interface(link).in_flight_bytes
    }

    fn spare_frames(&self) -> usize {
        self.free.len().saturating_sub(self.total / RESERVE_SHARE)
    }

    fn tx_room(&self, link: LinkId) -> usize {
        self.ring_frames - self.interface(link).ring.len()
    }

    fn send(&mut self, link: LinkId, frame: SimFrame, ecn: Ecn) {
        if self.tx_room(link) == 0 {
            self.interface_mut(link).counters.ring_full += 1;
            self.free(frame);
            return;
        }
        assert!(Arc::ptr_eq(&frame.leaked, &self.leaked), "a frame of another pool");
        self.held -= 1;
        let now = self.now;
        let interface = self.interface_mut(link);
        let len = frame.bytes().len();
        let l2_bytes = (len as u32 + interface.overhead_bytes).max(MIN_FRAME_BYTES);
        let broken = if len > interface.mtu_payload {
            Some(Broken::Mtu(link, len))
        } else {
            interface.rule.sent(now, l2_bytes).err().map(|exceeded| Broken::Cap(link, exceeded))
        };

        let serialisation = interface
            .rate_bps
            .map_or(0, |bps| (u128::from(l2_bytes) * 8 * NANOS_PER_SECOND).div_ceil(bps.into()) as u64);
        let done = Nanos(interface.busy_until.max(now).0 + serialisation);
        interface.busy_until = done;
        interface.in_flight_bytes += u64::from(l2_bytes);
        interface.counters.sent_frames += 1;
        interface.counters.sent_bytes += u64::from(l2_bytes);
        interface.counters.max_in_flight_bytes = interface.counters.max_in_flight_bytes.max(interface.in_flight_bytes);
        interface.ring.push_back(InFlight { done, frame, ecn, l2_bytes });
        self.completions.push((done, link));
        self.broken = self.broken.or(broken);
    }

    fn cross(&mut self, crossing: Crossing, frame: SimFrame, ecn: Ecn) -> bool {
        let bytes = Bytes::copy_from_slice(frame.bytes());
        self.free(frame);
        let packet = Packet { l2_bytes: bytes.len() as u32, bytes, ecn };
        self.hand_over(crossing.link, Freight::Transit(crossing), packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topo::test_link;

    fn port(frames: usize) -> SimPort {
        // 8 Mbit/s interface: 1000 bytes take 1 ms; cap 8 Mbit/s with room for two frames
        SimPort::new(&[test_link(0, 8_000_000, 2000)], Some(8_000_000), frames)
    }

    fn frame(port: &mut SimPort, len: usize) -> SimFrame {
        let mut frame = port.alloc(LinkId(0)).expect("a frame");
        frame.set_len(len);
        frame
    }

    const OVERHEAD: usize = 46;

    #[test]
    fn frames_complete_one_after_the_other_at_the_interface_rate() {
        let mut port = port(4);
        for _ in 0..2 {
            let frame = frame(&mut port, 1000 - OVERHEAD);
            port.send(LinkId(0), frame, Ecn::Ect0);
        }
        assert_eq!(port.in_flight_bytes(LinkId(0)), 2000);
        let due: Vec<_> = port.take_completions().collect();
        assert_eq!(due, [(Nanos(1_000_000), LinkId(0)), (Nanos(2_000_000), LinkId(0))]);
        port.set_now(Nanos(1_000_000));
        let packet = port.complete(LinkId(0)).expect("done");
        assert_eq!((packet.l2_bytes, packet.ecn, packet.bytes.len()), (1000, Ecn::Ect0, 954));
        assert!(port.complete(LinkId(0)).is_none(), "too early");
        assert_eq!((port.in_flight_bytes(LinkId(0)), port.free_frames(), port.held()), (1000, 3, 0));
        port.check().unwrap();
    }

    #[test]
    fn a_leak_is_seen() {
        let mut port = port(4);
        let kept = frame(&mut port, 10);
        port.check().unwrap();
        drop(kept);
        assert_eq!(port.check(), Err(Broken::Leaked(1)));
    }

    #[test]
    fn the_pool_ends_and_arrivals_are_counted() {
        let mut port = port(2);
        let packet = Packet { bytes: vec![1; 50].into(), ecn: Ecn::NotEct, l2_bytes: 96 };
        let one = port.receive(LinkId(0), &packet).expect("room");
        assert_eq!(one.bytes(), [1; 50]);
        let two = port.alloc(LinkId(0)).expect("room");
        assert!(port.alloc(LinkId(0)).is_none());
        assert!(port.receive(LinkId(0), &packet).is_none());
        port.free(one);
        port.free(two);
        let jumbo = Packet { bytes: vec![1; 9000].into(), ..packet };
        assert!(port.receive(LinkId(0), &jumbo).is_none());
        let c = port.counters(LinkId(0));
        assert_eq!((c.received_frames, c.no_frame, c.too_long), (1, 1, 1));
        port.check().unwrap();
    }

    #[test]
    fn the_cap_and_the_mtu_are_watched() {
        let mut over = port(4);
        for _ in 0..3 {
            let frame = frame(&mut over, 1000 - OVERHEAD);
            over.send(LinkId(0), frame, Ecn::NotEct);
        }
        let exceeded = Exceeded { at: Nanos::ZERO, excess_bytes: 1000 };
        assert_eq!(over.check(), Err(Broken::Cap(LinkId(0), exceeded)));

        let mut links = [test_link(0, 8_000_000, 2000), test_link(1, 8_000_000, 20_000)];
        links[1].mtu_payload = 3000;
        let mut long = SimPort::new(&links, None, 4);
        let frame = frame(&mut long, 1473);
        long.send(LinkId(0), frame, Ecn::NotEct);
        assert_eq!(long.check(), Err(Broken::Mtu(LinkId(0), 1473)));
    }
}
