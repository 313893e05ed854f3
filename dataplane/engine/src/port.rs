//! What the engine needs of the outside: frames to write into, and links to put them on.

use florelay_wire::mpls::Tc;

use crate::config::LinkId;

/// ECN codepoint of a frame's outer header (RFC 3168 section 5).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ecn {
    /// 00
    #[default]
    NotEct,
    /// 01
    Ect1,
    /// 10
    Ect0,
    /// 11, congestion experienced
    Ce,
}

impl Ecn {
    /// From the two low bits of an IPv4 TOS or IPv6 traffic class.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two low bits of an IPv4 TOS or IPv6 traffic class.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0,
            Self::Ect1 => 1,
            Self::Ect0 => 2,
            Self::Ce => 3,
        }
    }
}

/// Where a transit frame goes on that leaves by another worker's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// Its out link.
    pub link: LinkId,
    /// Its egress flow there: [`fib::transit_flow`](crate::fib::transit_flow) of the node's rows.
    pub flow: u32,
    /// Its class.
    pub tc: Tc,
}

/// One frame in hand. Its bytes are the *link payload*: they begin at LSE 0 (the UDP payload of MPLS-in-UDP).
/// Ethernet, IP and UDP headers belong to the adapter, which keeps headroom for them.
pub trait FrameBuf {
    /// The bytes from LSE 0 on.
    fn bytes(&self) -> &[u8];
    /// The bytes from LSE 0 on, to be changed in place (label swap).
    fn bytes_mut(&mut self) -> &mut [u8];
    /// How long the frame can be made, in bytes from LSE 0.
    fn capacity(&self) -> usize;
    /// Set the length; `len` ≤ `capacity()`. Bytes not yet written are unspecified, never uninitialised.
    fn set_len(&mut self, len: usize);
}

/// The adapters of one worker, seen from its engine.
///
/// Every frame taken with `alloc` or received is given back by exactly one of `send`, `cross` and `free`.
pub trait Port {
    /// What a frame is on this port: a UMEM frame, or a heap buffer.
    type Frame: FrameBuf;

    /// A free frame for `link`, empty, with room for the link's MTU; `None` when the pool is empty.
    fn alloc(&mut self, link: LinkId) -> Option<Self::Frame>;

    /// Give a frame back to the pool.
    fn free(&mut self, frame: Self::Frame);

    /// Frames that transit queues may still take. A port keeps a reserve beyond them: a node whose queues have swallowed
    /// every frame hears no liveness, so the link that would empty them never comes up.
    fn spare_frames(&self) -> usize;

    /// Bytes at layer 2 that the link's transmit ring holds and has not completed.
    fn in_flight_bytes(&self, link: LinkId) -> u64;

    /// Frames that `send` can take now on this link.
    fn tx_room(&self, link: LinkId) -> usize;

    /// Put a frame on the link. The caller has checked `tx_room`; a port that cannot send after all counts a drop.
    fn send(&mut self, link: LinkId, frame: Self::Frame, ecn: Ecn);

    /// Hand a transit frame, labels swapped already, to the worker that owns its out link; that worker's engine gets it
    /// as [`Engine::handle_crossing`](crate::Engine::handle_crossing). `false`: there was no room (or there is no such
    /// worker), and the frame is gone; the caller counts the drop.
    fn cross(&mut self, crossing: Crossing, frame: Self::Frame, ecn: Ecn) -> bool {
        let _ = (crossing, ecn);
        self.free(frame);
        false
    }

    /// A contact of this link begins, or the last one is over. After that nothing may leave, also nothing that was sent and has
    /// not been handed to the kernel. A link without a contact plan is never spoken of.
    fn contact(&mut self, _link: LinkId, _open: bool) {}
}
