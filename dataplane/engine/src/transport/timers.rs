//! Timers of connections: what is due, and what is brought forward when a path comes back from the dark.

use std::time::{Duration, Instant};

use quinn_proto::ConnectionHandle;

use super::{Conn, Transport};
use crate::config::PeerId;
use crate::time::Nanos;

/// A loss timer further away than this many round trips and the slack is none: it is the idle or keep-alive timer.
const MAX_PROBE_TIMEOUT_RTTS: u32 = 4;
const MAX_PROBE_SLACK: Duration = Duration::from_millis(200);
/// A timer that is this part of a round trip away, or nearer, may be pacing or an acknowledgement that waits for company …
const SHORT_TIMER_RTT_PART: u32 = 4;
/// … and there are no more than these two before the loss timer.
const SHORT_TIMERS: u32 = 2;

impl Conn {
    /// Let the timer run out now that says that packets are lost: the probe timeout (RFC 9002 section 6.2), or the one for
    /// packets behind which others have arrived (section 6.1.2). Nothing else of the connection is moved in time: what it
    /// sends and measures from here on is neither older nor younger for it.
    pub(super) fn skip_to_probe(&mut self, at: Instant) {
        let rtt = self.quic.rtt();
        let far = rtt.saturating_mul(MAX_PROBE_TIMEOUT_RTTS) + MAX_PROBE_SLACK;
        for _ in 0..=SHORT_TIMERS {
            let Some(due) = self.quic.poll_timeout() else { break };
            let wait = due.saturating_duration_since(at);
            // Idle and keep-alive timers are far away; a connection with nothing under way has no other.
            if wait >= far {
                break;
            }
            self.quic.handle_timeout(due.max(at));
            if wait > rtt / SHORT_TIMER_RTT_PART {
                break;
            }
        }
        self.timeout = self.quic.poll_timeout();
    }
}

impl Transport {
    /// Run the timers that are due; the connections concerned become dirty.
    pub(crate) fn handle_timeout(&mut self, now: Nanos) {
        for index in 0..self.conns.len() {
            let Some(conn) = self.conns[index].as_deref_mut() else { continue };
            let peer = &self.peers[usize::from(conn.peer.0)];
            let at = peer.clock.instant(now);
            if !peer.dark && conn.timeout.is_some_and(|due| due <= at) {
                conn.quic.handle_timeout(at);
                self.mark_dirty(ConnectionHandle(index));
            }
        }
    }

    /// The path of a peer was dark and is not any more: what was under way is lost, and only the probe timeout would tell
    /// the connections so, about 1.5 round trips from now. It runs out at once, so that the oldest bytes go again.
    pub(crate) fn probe_lost(&mut self, now: Nanos, peer: PeerId) {
        let Some(state) = self.peers.get_mut(usize::from(peer.0)) else { return };
        state.plan.interrupted();
        let at = state.clock.instant(now);
        for handle in state.all.iter().flatten().copied().collect::<Vec<_>>() {
            if let Some(conn) = self.conns.get_mut(handle.0).and_then(|c| c.as_deref_mut()) {
                conn.regained = true;
                conn.skip_to_probe(at);
                self.mark_dirty(handle);
            }
        }
    }

    /// When the next timer is due; dark paths have none.
    pub(crate) fn next_timeout(&self) -> Option<Nanos> {
        let due = |conn: &Conn| self.peers[usize::from(conn.peer.0)].clock.wakeup(conn.timeout?);
        self.conns.iter().filter_map(|conn| due(conn.as_deref()?)).min()
    }
}
