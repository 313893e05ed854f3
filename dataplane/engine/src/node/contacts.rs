//! Contact plans: at each edge of a plan the link is opened with the contact's rate and delay, or closed.
//!
//! A closed link is held down like one without carrier, with one difference: it does not even send liveness. Whatever
//! else a link that is down means (clocks that stop, alarms along paths, dialling at link-up) follows from there.

use std::time::Duration;

use super::Engine;
use crate::config::{LinkId, PeerConfig, PeerId, RatePlan};
use crate::contact::{Change, Contacts};
use crate::port::{FrameBuf, Port};
use crate::time::Nanos;

impl<F: FrameBuf> Engine<F> {
    pub(super) fn set_contacts(&mut self, now: Nanos, link: LinkId, contacts: Contacts) {
        let Some(index) = self.index(link) else { return };
        self.links[index].contacts.set(contacts);
        self.follow_contacts(now, index);
        // Also where it stays closed: the next contact may be another one.
        self.hold_or_release(now, index);
    }

    pub(super) fn check_contacts(&mut self, now: Nanos) {
        for index in 0..self.links.len() {
            if self.links[index].contacts.next_edge() <= now {
                self.follow_contacts(now, index);
            }
        }
    }

    fn follow_contacts(&mut self, now: Nanos, index: usize) {
        let link = &mut self.links[index];
        let sent = link.egress.sent_bytes();
        let egress = &link.egress;
        match link.contacts.follow(now, sent, |plan| egress.drain_time(plan)) {
            Change::None => {}
            Change::Opened { rate, delay } => {
                self.apply_rate(now, index, rate, delay);
                self.hold_or_release(now, index);
            }
            Change::Closed => {
                link.oam_out.clear();
                self.hold_or_release(now, index);
            }
            Change::Freed => {
                let (rate, delay) = (link.config.rate, link.config.delay);
                self.apply_rate(now, index, rate, delay);
                self.hold_or_release(now, index);
            }
        }
    }

    /// Whether frames may leave. If not, nothing is kept that would be stale at the next contact; what connections have
    /// staged waits.
    pub(super) fn in_contact<P: Port<Frame = F>>(&mut self, now: Nanos, index: usize, port: &mut P) -> bool {
        let link = &mut self.links[index];
        let open = link.contacts.may_send(now);
        if open != link.port_open {
            link.port_open = open;
            port.contact(link.config.id, open);
        }
        if !open {
            link.egress.drop_oam(port);
        }
        open
    }

    /// The operator changes a rate.
    pub(super) fn set_rate(&mut self, now: Nanos, link: LinkId, rate: RatePlan) {
        let Some(index) = self.index(link) else { return };
        let runtime = &mut self.links[index];
        runtime.contacts.rate_changed(now, rate.rate_bps);
        let delay = runtime.delay;
        self.apply_rate(now, index, rate, delay);
    }

    /// A link's rate and delay are these from now on, and the windows of the paths over it follow.
    fn apply_rate(&mut self, now: Nanos, index: usize, rate: RatePlan, delay: Duration) {
        let runtime = &mut self.links[index];
        runtime.rate = rate;
        runtime.egress.set_rate(now, rate);
        runtime.liveness.set_rate(now, rate.rate_bps);
        if runtime.delay != delay {
            runtime.condition.way_changed();
        }
        runtime.delay = delay;
        runtime.liveness.set_delay(delay);
        let configured = (runtime.config.rate.rate_bps, runtime.config.delay);
        let link = runtime.config.id;
        for peer in 0..self.peers.len() {
            let peer = PeerId(peer as u16);
            let Some(state) = self.transport.peer(peer).filter(|state| state.config.link == link) else { continue };
            // A path that was configured as fast as this link follows it; a slower hop elsewhere stays the bound.
            let path = match state.config.path_rate_bps {
                slower if slower != configured.0 => slower.zip(rate.rate_bps).map(|(a, b)| a.min(b)).or(slower),
                _ => rate.rate_bps,
            };
            let rtt = path_rtt(&state.config, configured.1, delay);
            self.transport.set_path_plan(peer, path, rtt);
        }
    }
}

/// Round trip of a path whose first link has another delay than configured: the rest of it stays what it was. `None`: the
/// link is as configured, so measurements say more.
fn path_rtt(peer: &PeerConfig, configured: Duration, delay: Duration) -> Option<Duration> {
    if delay == configured {
        return None;
    }
    // Without a configured delay nobody has said what of the path's round trip is the link's.
    let rest = if configured.is_zero() { Duration::ZERO } else { peer.initial_rtt.saturating_sub(2 * configured) };
    Some(rest + 2 * delay)
}
