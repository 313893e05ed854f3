//! What a contact plan asks of an egress: how long before the end of a contact to stop, and nothing left behind then.

use std::time::Duration;

use super::{Egress, EgressDrop};
use crate::config::RatePlan;
use crate::port::{FrameBuf, Port};

impl<F: FrameBuf> Egress<F> {
    /// Time that one largest frame, a full transmit ring and a burst take at a rate plan: what was given to the port that long
    /// before the end of a contact has left at its end, also through a modem of just that rate. An uncapped link: 1 ms.
    #[must_use]
    pub fn drain_time(&self, plan: RatePlan) -> Duration {
        self.shape.drain_time(plan)
    }

    /// Bytes sent since start, at layer 2.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.counters.tx_bytes.iter().sum()
    }

    /// Frees the OAM frames that wait, counted as drops: what they say will not be true at the next contact.
    pub fn drop_oam<P: Port<Frame = F>>(&mut self, port: &mut P) {
        while let Some(frame) = self.oam.pop_front() {
            self.queued_bytes -= self.shape.wire_bytes(&frame);
            self.counters.drops[EgressDrop::Closed.index()] += 1;
            port.free(frame);
        }
    }
}
