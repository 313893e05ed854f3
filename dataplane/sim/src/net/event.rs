//! What waits for its time in a network: earliest first, and first come first served at one time.

use super::{Egress, Net, NodeId, Packet};
use crate::node::Node;
use florelay_engine::LinkNotice;
use florelay_engine::time::Nanos;

pub(super) struct Entry<N: Node> {
    pub(super) at: Nanos,
    pub(super) order: u64,
    pub(super) what: What<N>,
}

pub(super) enum What<N: Node> {
    /// A frame of this interface is serialised.
    Serialised(Egress),
    /// A packet reaches the far end of a direction.
    Arrives(usize, Packet),
    /// A packet from outside the network reaches a node.
    Injected(Egress, Packet),
    /// The engine wants `handle_timeout`.
    Wake(NodeId),
    /// The gateways want theirs.
    WakeGateway(NodeId),
    /// A worker takes a burst out of this ring of another.
    Crosses(NodeId, usize),
    /// A worker hears of a link of another, at this boot of the node.
    Told(NodeId, u64, LinkNotice),
    /// The scenario does something.
    Call(Call<N>),
}

pub(super) type Call<N> = Box<dyn FnOnce(&mut Net<N>)>;

impl<N: Node> PartialEq for Entry<N> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<N: Node> Eq for Entry<N> {}

impl<N: Node> PartialOrd for Entry<N> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<N: Node> Ord for Entry<N> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
