//! One direction of a simulated link: the model of [`florelay_impair`], applied to packets.

use bytes::Bytes;
use florelay_engine::port::Ecn;
use florelay_engine::time::Nanos;
use florelay_impair::{Channel, Fate};
pub use florelay_impair::{CorruptMode, LinkCounters, LinkModel, Loss};

/// A link payload under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// From LSE 0 on.
    pub bytes: Bytes,
    /// Outer ECN.
    pub ecn: Ecn,
    /// Length at layer 2 in bytes, every header and the configured overhead included.
    pub l2_bytes: u32,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Link(Channel);

impl Link {
    /// A link that behaves as `model` says, with its own random numbers.
    #[must_use]
    pub fn new(model: LinkModel, seed: u64) -> Self {
        Self(Channel::new(model, seed))
    }

    /// Put a packet on the link; what arrives, and when, goes to `arrive` (not at all, once, or twice).
    /// The caller reports each arrival with [`Link::arrived`].
    pub fn offer(&mut self, now: Nanos, mut packet: Packet, mut arrive: impl FnMut(Nanos, Packet)) {
        let Fate::Carried { at, copies, damage } = self.0.offer(now, packet.l2_bytes) else { return };
        if let Some(damage) = damage {
            let mut bytes = packet.bytes.to_vec();
            damage.apply(&mut bytes);
            packet.bytes = bytes.into();
        }
        for _ in 1..copies {
            arrive(at, packet.clone());
        }
        arrive(at, packet);
    }

    /// One packet has reached the far end.
    pub fn arrived(&mut self) {
        self.0.arrived();
    }

    /// Behave differently from now on; packets on their way keep their fate.
    pub fn set_model(&mut self, model: LinkModel) {
        self.0.set_model(model);
    }

    /// How it behaves.
    #[must_use]
    pub fn model(&self) -> &LinkModel {
        self.0.model()
    }

    /// What became of the packets.
    #[must_use]
    pub fn counters(&self) -> &LinkCounters {
        self.0.counters()
    }
}

#[cfg(test)]
mod tests;
