//! What was measured of peers' paths, said to the gateways from time to time, who keep it over restarts.

use std::time::Duration;

use super::Engine;
use crate::api::Event;
use crate::config::PeerId;
use crate::port::FrameBuf;
use crate::time::Nanos;

/// What is said is at most so old when the node ends.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// While there is nothing to say.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl<F: FrameBuf> Engine<F> {
    /// Wakes nobody for it: a path that is measured has timers enough.
    pub(super) fn say_paths(&mut self, now: Nanos) {
        if now < self.paths_due {
            return;
        }
        let mut wait = LOOK_EVERY;
        for index in 0..self.peers.len() {
            let peer = PeerId(index as u16);
            if let Some(memory) = self.transport.take_measured(peer) {
                self.events.push_back(Event::Path { peer, memory });
                wait = SAY_EVERY;
            }
        }
        self.paths_due = now + wait;
    }
}
