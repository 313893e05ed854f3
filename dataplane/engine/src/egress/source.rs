//! What an egress schedules: flows, where a local one's packets come from, and the bounds of a transit one's queue.

use crate::config::{Limits, PeerId};
use crate::port::{Ecn, Port};
use crate::time::Nanos;

use super::Class;

/// Default of [`EgressLimits::transit_frames`].
pub const TRANSIT_FRAMES: usize = 8192;

/// A flow of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowKey {
    /// The connections of a peer; packets are pulled from the [`PacketSource`].
    Peer(PeerId),
    /// A transit path in one direction: [`fib::transit_flow`](crate::fib::transit_flow).
    Transit(u32),
}

/// Where a link's local packets come from.
pub trait PacketSource<P: Port> {
    /// The next packet of a local flow as a complete link payload (labels and control word written; the sequence is
    /// stamped by the egress), in a frame of `port`. `class` is `Control` or `Bulk`.
    ///
    /// `None` = nothing now (or no frame): the flow is not asked again until [`Egress::mark_ready`](super::Egress::mark_ready).
    fn next_packet(&mut self, now: Nanos, key: FlowKey, class: Class, port: &mut P) -> Option<(P::Frame, Ecn)>;
}

/// Bounds of one link's transit queues.
#[derive(Debug, Clone, Copy)]
pub struct EgressLimits {
    /// Bytes at layer 2 per flow and class.
    pub transit_flow_bytes: u64,
    /// Frames of all flows together: a closed link must not swallow the frame pool.
    pub transit_frames: usize,
}

impl From<&Limits> for EgressLimits {
    fn from(limits: &Limits) -> Self {
        Self { transit_flow_bytes: u64::from(limits.transit_queue_bytes), transit_frames: TRANSIT_FRAMES }
    }
}
