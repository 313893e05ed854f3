//! Egress of one link: strict priority, then deficit round robin, then the token bucket, then the port.
//!
//! ```text
//!   OAM queue (TC 7) ───────────────┐
//!   control flows (TC 6) ─ staged ──┼─ policer ─┐
//!                                   │           ├─ bucket ─ in-flight limit ─ Port::send
//!   bulk flows ── DRR ──────────────┴───────────┘
//!      Peer:    pulled from the source, one packet at a time, when it can leave at once
//!      Transit: frames in hand, bounded
//! ```
//!
//! Who owns frames: the transit and OAM queues and the one staged control packet hold frames of the port; each leaves by
//! `Port::send`, `Port::free` or back to the caller. [`Egress::drain`] gives all of them back.
//!
//! Invariants
//! - In any window, bytes sent at layer 2 ≤ rate × window + burst (the bucket), and of these OAM and control ≤ their
//!   share of the rate × window + their burst (the policer); also where the driver is put aside between its clock and the
//!   wire. What the transmit ring has not completed when a pull begins may leave later; beyond half a burst of it the bound is
//!   that much higher.
//! - A packet is pulled only if it can leave: bulk when the bucket holds the largest frame. A control packet's size is not
//!   known before it is pulled; if tokens do not suffice it is staged and nothing but OAM overtakes it, except that bulk
//!   goes while it is the *policer* that keeps it waiting.
//! - Bytes that the transmit ring has not completed ≤ max(2 frames, 1 ms of the rate).
//! - O(1) per packet, nothing allocated after the flows are added.
//!
//! Limits: one burst's worth of idle time is all that is remembered; a driver that sleeps longer than burst / rate loses the rest.

mod bucket;
mod contact;
mod counters;
mod drr;
mod queue;
mod shape;
mod source;

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::config::{LinkConfig, LinkId, RatePlan};
use crate::fib::stamp_sequence;
use crate::port::{Ecn, FrameBuf, Port};
use crate::time::Nanos;

pub use bucket::TokenBucket;
pub use counters::{Class, EgressCounters, EgressDrop};
pub use shape::{
    CONTROL_BURST_MIN_FRAMES, ECN_THRESHOLD_MIN_FRAMES, ECN_THRESHOLD_NS, IN_FLIGHT_MIN_FRAMES, IN_FLIGHT_NS,
    MIN_FRAME_BYTES,
};
pub use source::{EgressLimits, FlowKey, PacketSource, TRANSIT_FRAMES};

use drr::Flows;
use queue::FramePool;
use shape::Shape;

/// OAM frames queued at most; alarms repeat, so a drop heals.
pub const OAM_QUEUE_FRAMES: usize = 256;

struct Staged<F> {
    frame: F,
    ecn: Ecn,
    bytes: u64,
}

/// What became of one attempt to send.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Sent,
    /// Nothing waits in this class, or it may not go and others may.
    Pass,
    /// Nothing may go now.
    Blocked,
}

/// The egress of one link.
pub struct Egress<F> {
    shape: Shape,
    bucket: TokenBucket,
    policer: TokenBucket,
    flows: Flows,
    by_key: FxHashMap<FlowKey, u32>,
    pool: FramePool<F>,
    queued_bytes: u64,
    oam: VecDeque<F>,
    staged: Option<Staged<F>>,
    sequence: u16,
    open: bool,
    limits: EgressLimits,
    counters: EgressCounters,
}

impl<F: FrameBuf> Egress<F> {
    /// The egress of `link`, open, with full buckets and no flows.
    #[must_use]
    pub fn new(now: Nanos, link: &LinkConfig, limits: EgressLimits) -> Self {
        let shape = Shape::new(link, limits.transit_flow_bytes);
        let (rate, burst) = shape.bucket(link.rate);
        let (control_rate, control_burst) = shape.policer(link.rate);
        Self {
            bucket: TokenBucket::new(now, rate, burst),
            policer: TokenBucket::new(now, control_rate, control_burst),
            flows: Flows::new(shape.max_frame_bytes),
            by_key: FxHashMap::default(),
            pool: FramePool::new(limits.transit_frames),
            queued_bytes: 0,
            oam: VecDeque::with_capacity(OAM_QUEUE_FRAMES),
            staged: None,
            sequence: 0,
            open: true,
            shape,
            limits,
            counters: EgressCounters::default(),
        }
    }

    /// Adds a flow, or changes the weight of one that is there. Weight 0 counts as 1.
    pub fn add_flow(&mut self, key: FlowKey, weight: u16) {
        if let Some(at) = self.by_key.get(&key) {
            self.flows.set_weight(*at, weight);
        } else {
            let at = self.flows.add(key, weight);
            self.by_key.insert(key, at);
        }
    }

    /// A local flow has packets of this class again. Cheap and idempotent; `false` if there is no such flow.
    pub fn mark_ready(&mut self, key: FlowKey, class: Class) -> bool {
        let Some(at) = self.by_key.get(&key).copied() else {
            return false;
        };
        match class {
            Class::Bulk => self.flows.wake_bulk(at),
            Class::Control | Class::Oam => self.flows.wake_control(at),
        }
        true
    }

    /// Queues a transit frame, labels swapped already. OAM goes to the OAM queue. An ECN-capable frame that has to wait
    /// long is marked CE.
    ///
    /// # Errors
    /// The frame itself if it cannot be queued; the drop is counted, the caller frees it.
    pub fn enqueue_transit(&mut self, flow: u32, class: Class, frame: F, ecn: Ecn) -> Result<(), F> {
        if class == Class::Oam {
            return self.enqueue_oam(frame);
        }
        let bytes = self.wire_bytes(&frame);
        let Some(at) = self.by_key.get(&FlowKey::Transit(flow)).copied() else {
            return self.refuse(EgressDrop::UnknownFlow, frame);
        };
        if bytes > self.shape.max_frame_bytes {
            return self.refuse(EgressDrop::Oversize, frame);
        }
        if self.pool.is_full() {
            return self.refuse(EgressDrop::PoolFull, frame);
        }
        let state = self.flows.get_mut(at);
        let queue = if class == Class::Control { &mut state.control } else { &mut state.bulk };
        let queued = queue.bytes();
        if queued + bytes > self.limits.transit_flow_bytes {
            return self.refuse(EgressDrop::FlowFull, frame);
        }
        let marked = if queued > self.shape.ecn_threshold_bytes && matches!(ecn, Ecn::Ect0 | Ecn::Ect1) {
            self.counters.ecn_marked += 1;
            Ecn::Ce
        } else {
            ecn
        };
        self.pool.push(queue, frame, marked, bytes)?;
        self.queued_bytes += bytes;
        if class == Class::Control {
            self.flows.wake_control(at);
        } else {
            self.flows.wake_bulk(at);
        }
        Ok(())
    }

    /// Queues an OAM frame of this link or of a path.
    ///
    /// # Errors
    /// The frame itself if the queue is full or the link closed for it; the drop is counted, the caller frees it.
    pub fn enqueue_oam(&mut self, frame: F) -> Result<(), F> {
        let bytes = self.wire_bytes(&frame);
        if bytes > self.shape.max_frame_bytes {
            return self.refuse(EgressDrop::Oversize, frame);
        }
        if !self.open && !is_link_scope(frame.bytes()) {
            return self.refuse(EgressDrop::Closed, frame);
        }
        if self.oam.len() >= OAM_QUEUE_FRAMES {
            return self.refuse(EgressDrop::OamFull, frame);
        }
        self.queued_bytes += bytes;
        self.oam.push_back(frame);
        Ok(())
    }

    /// Sends what may be sent now on `link`; how many frames went. Call it again once they are handed over, before a sleep:
    /// until then the bucket takes them for not yet sent ([`TokenBucket::refill`]).
    pub fn pull<P, S>(&mut self, now: Nanos, link: LinkId, port: &mut P, source: &mut S) -> usize
    where
        P: Port<Frame = F>,
        S: PacketSource<P> + ?Sized,
    {
        self.bucket.refill(now);
        self.bucket.still_here(port.in_flight_bytes(link));
        self.policer.refill(now);
        let mut sent = 0;
        while port.tx_room(link) > 0 {
            let mut attempt = self.try_oam(link, port);
            if attempt == Attempt::Pass && self.open {
                // OAM that waits for the policer is not overtaken by control, which waits for it too.
                if self.oam.is_empty() {
                    attempt = self.try_control(now, link, port, source);
                }
                if attempt == Attempt::Pass {
                    attempt = self.try_bulk(now, link, port, source);
                }
            }
            if attempt != Attempt::Sent {
                break;
            }
            sent += 1;
        }
        sent
    }

    /// Changes the rate plan. Credit stays, up to the new burst.
    pub fn set_rate(&mut self, now: Nanos, plan: RatePlan) {
        let (rate, burst) = self.shape.bucket(plan);
        self.bucket.set_rate(now, rate, burst);
        let (rate, burst) = self.shape.policer(plan);
        self.policer.set_rate(now, rate, burst);
        self.shape.set_rate(plan.rate_bps);
    }

    /// Opens or closes the link. A closed link sends link-scope OAM only; queued and arriving transit frames wait within
    /// their limits (clocks of their connections stop too), unless the caller drains them.
    pub fn set_open(&mut self, open: bool) {
        self.open = open;
    }

    /// Frees every frame in hand, counted as drops; how many there were. Flows stay; local ones keep their turns.
    pub fn drain<P: Port<Frame = F>>(&mut self, port: &mut P) -> usize {
        let mut freed = 0;
        for frame in self.oam.drain(..).chain(self.staged.take().map(|s| s.frame)) {
            port.free(frame);
            freed += 1;
        }
        if self.pool.used() > 0 {
            let shape = self.shape;
            for at in 0..self.flows.len() {
                let flow = self.flows.get_mut(at as u32);
                for queue in [&mut flow.control, &mut flow.bulk] {
                    while let Some((frame, _)) = self.pool.pop(queue, |f| shape.wire_bytes(f)) {
                        port.free(frame);
                        freed += 1;
                    }
                }
            }
        }
        self.queued_bytes = 0;
        self.counters.drops[EgressDrop::Drained.index()] += freed as u64;
        freed
    }

    /// When tokens will suffice for what waits now; to be asked after [`pull`](Self::pull). `None` if nothing waits, or
    /// if only room in the transmit ring is missing.
    #[must_use]
    pub fn next_wakeup(&self, now: Nanos) -> Option<Nanos> {
        let waiting = match (self.oam.front(), &self.staged) {
            (Some(frame), _) => Some(self.wire_bytes(frame)),
            (None, Some(staged)) if self.open => Some(staged.bytes),
            _ => None,
        };
        let control = waiting.and_then(|bytes| Some(self.bucket.ready_at(bytes)?.max(self.policer.ready_at(bytes)?)));
        let bulk = (self.open && self.flows.bulk_waiting())
            .then(|| self.bucket.ready_at(self.shape.max_frame_bytes))
            .flatten();
        [control, bulk].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Bytes of a frame at layer 2 on this link.
    #[must_use]
    pub fn wire_bytes(&self, frame: &F) -> u64 {
        self.shape.wire_bytes(frame)
    }

    /// True if the link is open for more than its own OAM.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// OAM frames that can still be queued.
    #[must_use]
    pub fn oam_room(&self) -> usize {
        OAM_QUEUE_FRAMES - self.oam.len()
    }

    /// Bytes at layer 2 in hand: transit, OAM and the staged packet.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Frames in hand: transit, OAM and the staged packet.
    #[must_use]
    pub fn queued_frames(&self) -> usize {
        self.pool.used() + self.oam.len() + usize::from(self.staged.is_some())
    }

    /// Largest frame in bytes at layer 2.
    #[must_use]
    pub fn max_frame_bytes(&self) -> u64 {
        self.shape.max_frame_bytes
    }

    /// The link's bucket, as of the last pull.
    #[must_use]
    pub fn bucket(&self) -> &TokenBucket {
        &self.bucket
    }

    /// Counters since start.
    #[must_use]
    pub fn counters(&self) -> &EgressCounters {
        &self.counters
    }

    fn try_oam<P: Port<Frame = F>>(&mut self, link: LinkId, port: &mut P) -> Attempt {
        while let Some(frame) = self.oam.pop_front() {
            let bytes = self.wire_bytes(&frame);
            if !self.open && !is_link_scope(frame.bytes()) {
                self.queued_bytes -= bytes;
                self.counters.drops[EgressDrop::Closed.index()] += 1;
                port.free(frame);
                continue;
            }
            let attempt = self.admit_priority(bytes, link, port);
            if attempt == Attempt::Sent {
                self.queued_bytes -= bytes;
                self.send(Class::Oam, bytes, frame, Ecn::NotEct, link, port);
            } else {
                self.oam.push_front(frame);
            }
            return attempt;
        }
        Attempt::Pass
    }

    fn try_control<P, S>(&mut self, now: Nanos, link: LinkId, port: &mut P, source: &mut S) -> Attempt
    where
        P: Port<Frame = F>,
        S: PacketSource<P> + ?Sized,
    {
        if self.staged.is_none() {
            if self.flows.control_turn().is_none() {
                return Attempt::Pass;
            }
            // Pulled as late as possible: not before the ring could take the smallest frame.
            if port.in_flight_bytes(link) + u64::from(MIN_FRAME_BYTES) > self.shape.in_flight_bytes {
                return Attempt::Blocked;
            }
            self.stage_control(now, port, source);
        }
        let Some(staged) = self.staged.take() else {
            return Attempt::Pass;
        };
        let attempt = self.admit_priority(staged.bytes, link, port);
        if attempt == Attempt::Sent {
            self.queued_bytes -= staged.bytes;
            self.send(Class::Control, staged.bytes, staged.frame, staged.ecn, link, port);
        } else {
            self.staged = Some(staged);
        }
        attempt
    }

    /// Pulls the next control packet of the next control flow that has one.
    fn stage_control<P, S>(&mut self, now: Nanos, port: &mut P, source: &mut S)
    where
        P: Port<Frame = F>,
        S: PacketSource<P> + ?Sized,
    {
        while let Some(at) = self.flows.control_turn() {
            let shape = self.shape;
            let flow = self.flows.get_mut(at);
            let (packet, local) = match flow.key {
                FlowKey::Transit(_) => (self.pool.pop(&mut flow.control, |f| shape.wire_bytes(f)), false),
                FlowKey::Peer(_) => (source.next_packet(now, flow.key, Class::Control, port), true),
            };
            let Some((frame, ecn)) = packet else {
                self.flows.sleep_control(at);
                continue;
            };
            let bytes = self.wire_bytes(&frame);
            self.flows.rotate_control(at);
            if bytes > self.shape.max_frame_bytes {
                self.counters.drops[EgressDrop::Oversize.index()] += 1;
                port.free(frame);
                continue;
            }
            if local {
                self.queued_bytes += bytes;
            }
            self.staged = Some(Staged { frame, ecn, bytes });
            return;
        }
    }

    fn try_bulk<P, S>(&mut self, now: Nanos, link: LinkId, port: &mut P, source: &mut S) -> Attempt
    where
        P: Port<Frame = F>,
        S: PacketSource<P> + ?Sized,
    {
        if self.bucket.available() < self.shape.max_frame_bytes
            || port.in_flight_bytes(link) + self.shape.max_frame_bytes > self.shape.in_flight_bytes
        {
            return Attempt::Blocked;
        }
        while let Some(at) = self.flows.bulk_turn() {
            let shape = self.shape;
            let flow = self.flows.get_mut(at);
            let (packet, local) = match flow.key {
                FlowKey::Transit(_) => (self.pool.pop(&mut flow.bulk, |f| shape.wire_bytes(f)), false),
                FlowKey::Peer(_) => (source.next_packet(now, flow.key, Class::Bulk, port), true),
            };
            let Some((frame, ecn)) = packet else {
                self.flows.sleep_bulk(at);
                continue;
            };
            let bytes = self.wire_bytes(&frame);
            self.flows.charge(at, bytes);
            if !local {
                self.queued_bytes -= bytes;
            }
            if bytes > self.shape.max_frame_bytes || !self.bucket.consume(bytes) {
                self.counters.drops[EgressDrop::Oversize.index()] += 1;
                port.free(frame);
                continue;
            }
            self.send(Class::Bulk, bytes, frame, ecn, link, port);
            return Attempt::Sent;
        }
        Attempt::Pass
    }

    /// Takes tokens for an OAM or control frame, if everything suffices.
    fn admit_priority<P: Port<Frame = F>>(&mut self, bytes: u64, link: LinkId, port: &P) -> Attempt {
        if port.in_flight_bytes(link) + bytes > self.shape.in_flight_bytes {
            return Attempt::Blocked;
        }
        if self.policer.available() < bytes {
            return Attempt::Pass;
        }
        if !self.bucket.consume(bytes) {
            return Attempt::Blocked;
        }
        let policed = self.policer.consume(bytes);
        debug_assert!(policed, "checked above");
        Attempt::Sent
    }

    fn send<P: Port<Frame = F>>(
        &mut self,
        class: Class,
        bytes: u64,
        mut frame: F,
        ecn: Ecn,
        link: LinkId,
        port: &mut P,
    ) {
        if stamp_sequence(frame.bytes_mut(), self.sequence) {
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.counters.tx_frames[class.index()] += 1;
        self.counters.tx_bytes[class.index()] += bytes;
        port.send(link, frame, ecn);
    }

    fn refuse(&mut self, reason: EgressDrop, frame: F) -> Result<(), F> {
        self.counters.drops[reason.index()] += 1;
        Err(frame)
    }
}

/// Link-scope OAM has a single label stack entry: S is set in the first one.
fn is_link_scope(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|b| b & 1 != 0)
}

#[cfg(test)]
mod tests;
