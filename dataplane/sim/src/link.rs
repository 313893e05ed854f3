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
pub struct Link {
    channel: Channel,
    /// When the link belongs to its sender; empty = always.
    contacts: Vec<(Nanos, Nanos)>,
    outside: u64,
}

impl Link {
    /// A link that behaves as `model` says, with its own random numbers.
    #[must_use]
    pub fn new(model: LinkModel, seed: u64) -> Self {
        Self { channel: Channel::new(model, seed), contacts: Vec::new(), outside: 0 }
    }

    /// Put a packet on the link; what arrives, and when, goes to `arrive` (not at all, once, or twice).
    /// The caller reports each arrival with [`Link::arrived`].
    pub fn offer(&mut self, now: Nanos, mut packet: Packet, mut arrive: impl FnMut(Nanos, Packet)) {
        let fate = self.channel.offer(now, packet.l2_bytes);
        self.outside += u64::from(self.is_outside(now, fate));
        let Fate::Carried { at, copies, damage } = fate else { return };
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
        self.channel.arrived();
    }

    /// Behave differently from now on; packets on their way keep their fate.
    pub fn set_model(&mut self, model: LinkModel) {
        self.channel.set_model(model);
    }

    /// From now on the link belongs to its sender in these intervals only; a packet that is not wholly serialised within
    /// one of them is counted in [`outside`](Self::outside), and carried all the same. Needs a model without jitter and reordering.
    pub fn set_contacts(&mut self, contacts: &[(Nanos, Nanos)]) {
        let model = self.model();
        assert!(model.jitter.is_zero() && model.reorder == 0.0, "then an arrival does not say when the packet was out");
        self.contacts = contacts.to_vec();
    }

    /// Packets outside of the contacts.
    #[must_use]
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// How it behaves.
    #[must_use]
    pub fn model(&self) -> &LinkModel {
        self.channel.model()
    }

    /// What became of the packets.
    #[must_use]
    pub fn counters(&self) -> &LinkCounters {
        self.channel.counters()
    }

    fn is_outside(&self, now: Nanos, fate: Fate) -> bool {
        let out = match fate {
            Fate::Carried { at, .. } => Nanos(at.0 - self.model().delay.as_nanos() as u64),
            Fate::Dropped(_) => now,
        };
        !self.contacts.is_empty() && !self.contacts.iter().any(|&(start, end)| start <= now && out <= end)
    }
}

#[cfg(test)]
mod tests;
