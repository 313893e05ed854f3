//! Pulling packets out of a connection, one at a time, and knowing when it need not be asked.

use quinn_proto::{Connection, EcnCodepoint};

use super::{Conn, Handle, LENGTH_RESERVE_BYTES, Lane, Transport};
use crate::port::Ecn;
use crate::time::Nanos;

impl Transport {
    /// One packet of what the connection has to send by itself (retransmissions, acknowledgements, what was fed).
    pub(crate) fn poll_packet(&mut self, now: Nanos, handle: Handle) -> Option<(&[u8], Ecn)> {
        let conn = self.conns.get_mut(handle.0)?.as_deref_mut()?;
        let at = self.peers[usize::from(conn.peer.0)].clock.instant(now);
        self.scratch.clear();
        let transmit = conn.quic.poll_transmit(at, 1, &mut self.scratch);
        // Pacing and loss timers move with every packet; they are read once a burst.
        if !conn.timeout_moved {
            conn.timeout_moved = true;
            self.polled.push(handle);
        }
        let transmit = transmit?;
        if conn.fed && data_frames(&conn.quic) != conn.frames_sent {
            conn.fed = false;
        }
        Some((&self.scratch[..transmit.size], ecn_of(transmit.ecn)))
    }

    /// A connection, to write one packet's worth into it.
    pub(crate) fn conn_to_feed(&mut self, handle: Handle) -> Option<&mut Conn> {
        self.conns.get_mut(handle.0)?.as_deref_mut()
    }

    /// After a burst of `poll_packet`: note the timers of the connections concerned.
    pub(crate) fn note_timeouts(&mut self) {
        while let Some(handle) = self.polled.pop() {
            if let Some(conn) = self.conns.get_mut(handle.0).and_then(|c| c.as_deref_mut()) {
                conn.timeout_moved = false;
                conn.timeout = conn.quic.poll_timeout();
            }
        }
    }

    /// Whether quinn-proto would certainly send nothing by itself, so that it need not be asked.
    pub(crate) fn is_quiet(&self, handle: Handle) -> bool {
        self.conns.get(handle.0).and_then(Option::as_deref).is_some_and(|conn| conn.quiet)
    }

    /// It may have something to send again.
    pub(crate) fn unquiet(&mut self, handle: Handle) {
        if let Some(conn) = self.conn_to_feed(handle) {
            conn.quiet = false;
        }
    }

    /// A connection of the bulk lane that had nothing to send was fed, and this packet came of it. If quinn-proto left
    /// room in it, then everything is sent: it writes what it has in one order, and a stream frame that is cut because
    /// something went before it fills its packet but for the bytes reserved for a length.
    pub(crate) fn fed_packet_left(&mut self, handle: Handle, packet_bytes: usize) {
        let Some(conn) = self.conns.get_mut(handle.0).and_then(|c| c.as_deref_mut()) else { return };
        let Some(peer) = self.peers.get(usize::from(conn.peer.0)) else { return };
        // On the control lane a datagram and its reliable copy are fed together: either may stay.
        conn.quiet = conn.lane == Lane::Bulk
            && packet_bytes + usize::from(LENGTH_RESERVE_BYTES) <= usize::from(peer.config.quic_mtu);
    }

    /// Whether a packet's worth may be written: nothing written before is still inside.
    pub(crate) fn may_feed(&mut self, handle: Handle) -> bool {
        self.conn_to_feed(handle).is_some_and(|conn| !conn.fed)
    }

    /// A packet's worth was written and did not leave at once.
    pub(crate) fn fed(&mut self, handle: Handle) {
        if let Some(conn) = self.conn_to_feed(handle) {
            conn.quiet = false;
            conn.fed = true;
            conn.frames_sent = data_frames(&conn.quic);
        }
    }
}

/// Frames that carry what was fed, or give it up.
fn data_frames(quic: &Connection) -> u64 {
    let sent = quic.stats().frame_tx;
    sent.stream + sent.datagram + sent.reset_stream
}

fn ecn_of(codepoint: Option<EcnCodepoint>) -> Ecn {
    codepoint.map_or(Ecn::NotEct, |c| Ecn::from_bits(c as u8))
}
