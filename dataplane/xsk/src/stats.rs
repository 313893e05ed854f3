//! Counters and accounts, as plain data: what the worker exports.

/// Where every frame of a UMEM is. `total` equals the sum of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameAccount {
    /// Chunks in the UMEM.
    pub total: u32,
    /// In the pool.
    pub free: u32,
    /// In a fill ring, or being received into, or in an RX ring.
    pub fill: u32,
    /// In hand: [`Frame`](crate::Frame) values that exist.
    pub held: u32,
    /// In a TX ring, in the driver, or in a completion ring.
    pub tx: u32,
    /// With the kernel when their socket was closed; they come back when the queue is bound again.
    pub quarantined: u32,
    /// Dropped and not yet collected, or otherwise not accounted for. Zero unless something is wrong.
    pub leaked: u32,
}

/// Things that must not happen; each is counted and made harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UmemCounters {
    /// RX descriptors outside the UMEM, or naming a frame that the kernel did not have. Never dereferenced.
    pub bad_rx_address: u64,
    /// RX descriptors whose data leaves their chunk, or that belong to a packet of several frames.
    pub bad_rx_length: u64,
    /// Completions outside the UMEM, or for a frame that was not being sent.
    pub bad_completion_address: u64,
    /// Frames of another UMEM given to this one; they went home as dropped.
    pub foreign_frames: u64,
    /// Calls on a ring with another UMEM than its own; nothing was done.
    pub foreign_rings: u64,
    /// Frames dropped instead of given back, ever.
    pub dropped: u64,
}

/// What the kernel says about a socket: XDP_STATISTICS (linux/if_xdp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpStatistics {
    /// Dropped for other reasons than the ones below.
    pub rx_dropped: u64,
    /// Dropped because of an invalid fill descriptor.
    pub rx_invalid_descs: u64,
    /// Not sent because of an invalid TX descriptor.
    pub tx_invalid_descs: u64,
    /// Dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Times the kernel found the TX ring empty.
    pub tx_ring_empty_descs: u64,
}

/// System calls made for a TX ring and what the kernel answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KickCounters {
    /// `sendto` calls made.
    pub calls: u64,
    /// Answered EAGAIN: more to do than one call does, or the socket's send buffer is full.
    pub again: u64,
    /// Answered EBUSY: the device's queue is busy or its link is not running.
    pub busy: u64,
    /// Answered ENOBUFS.
    pub no_buffers: u64,
    /// Answered ENETDOWN: the interface is down.
    pub net_down: u64,
}

/// What a TX ring refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxCounters {
    /// Frames put on the ring.
    pub frames: u64,
    /// Bytes put on the ring, at layer 2 without FCS.
    pub bytes: u64,
    /// Refused: shorter than an Ethernet header. The kernel would skip such a descriptor and never complete it.
    pub too_short: u64,
}
