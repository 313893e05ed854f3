//! How links move frames. Each link owns a socket; on the AF_XDP rungs it also has a *lane* on an interface.
//!
//! ```text
//!   LinkPort ── SocketLink
//!        ├────── UdpLink         the socket rung, and what holds the port on the AF_XDP rungs
//!        ├────── SimLink         an impaired link between two nodes of one machine
//!        └───── lane in a Group  sockets on RX queues of one interface, next hop, match table
//!                                (`share`: on all of them, or on this worker's part)
//! ```

pub(crate) mod rungs;
pub(crate) mod share;
pub(crate) mod sim;
pub(crate) mod socket;
pub(crate) mod udp;
pub(crate) mod xdp;

use florelay_engine::config::LinkId;
use florelay_engine::port::Ecn;

use self::socket::SocketLink;
use crate::plan::{LinkPlan, Rung};
use crate::worker::frame::WorkerFrame;

/// Frames that one `transmit` may put on a link before the others have their turn.
pub(crate) const BURST_FRAMES: usize = 64;

/// A received frame on its way to the engine: a bare link payload.
pub(crate) struct Received {
    pub(crate) link: LinkId,
    pub(crate) frame: WorkerFrame,
    pub(crate) ecn: Ecn,
}

/// Where a link stands on AF_XDP: indices into the worker's groups and the group's lanes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneAt {
    pub(crate) group: usize,
    pub(crate) lane: usize,
}

/// What a link counts outside the engine.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct LinkCounters {
    /// Received, but no buffer was free.
    pub(crate) no_frame: u64,
    /// Received through the held socket of an AF_XDP link: XDP had no socket for them.
    pub(crate) from_kernel: u64,
    /// Datagrams longer than a frame.
    pub(crate) too_long: u64,
    /// Frames that `send` could not put on the link after all.
    pub(crate) tx_dropped: u64,
    /// Frames copied because they were of another memory than the link's.
    pub(crate) crossed_copies: u64,
}

/// One link of the worker.
pub(crate) struct LinkPort {
    pub(crate) id: LinkId,
    pub(crate) plan: LinkPlan,
    pub(crate) socket: SocketLink,
    /// On an AF_XDP rung.
    pub(crate) lane: Option<LaneAt>,
    pub(crate) rung: Rung,
    /// Why each higher rung was not taken.
    pub(crate) reasons: Vec<(Rung, String)>,
    /// Frames that may still be sent in this burst.
    pub(crate) room: usize,
    /// `poll` has found the socket readable, or the last look brought something.
    pub(crate) readable: bool,
    pub(crate) counters: LinkCounters,
}

impl LinkPort {
    /// A link on its socket, until the ladder says otherwise.
    pub(crate) fn new(id: LinkId, plan: LinkPlan, socket: SocketLink) -> Self {
        Self {
            id,
            plan,
            lane: None,
            rung: socket.rung(),
            socket,
            reasons: Vec::new(),
            room: 0,
            readable: true,
            counters: LinkCounters::default(),
        }
    }
}
