//! The bound: what the wire alone and QUIC alone allow together, one core a side.
//!
//! ```text
//!   sender's core, per packet:    T_wire + T_send      T_wire = 1 / (frames per second of the raw blast at 1514 bytes)
//!   receiver's core, per packet:           T_recv      T_send, T_recv = bare quinn-proto in memory, 1460-byte packets
//!
//!   bottleneck = max(T_wire + T_send, T_recv)
//!   bound      = stream bytes per packet × 8 / bottleneck
//! ```
//!
//! All of `T_wire` stands on the sender's core because on veth in copy mode it is spent there: `sendto`, the skb, NAPI
//! and the copy into the receiver's UMEM run in the sender's system call. `T_send` holds writing the stream, building and
//! sealing the packet and processing acknowledgements; `T_recv` one copy out of the frame, opening the packet, reassembly,
//! reading, and building acknowledgements. One 1514-byte frame carries one 1460-byte QUIC packet, as on our links.
//!
//! Not in it: the frames of acknowledgements (one in about 31 packets), reading and writing files, hashing, and everything
//! that florelay itself does. So 100 % cannot be reached; it is a bound, not a forecast.
//!
//! All of it is wall time within one run; a machine that is busy elsewhere stretches it together. The same formula over
//! CPU times ([`Bound::on_idle_cores`]) says what the cores would allow if nobody else wanted them; it is no figure to
//! divide a goodput of a busy machine by.

use serde::Serialize;

use crate::clock::PacketCost;

/// The bound of one run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bound {
    /// `T_wire`, ns per frame.
    pub wire_ns: f64,
    /// `T_wire + T_send`, ns per packet.
    pub sender_ns: f64,
    /// `T_recv`, ns per packet.
    pub receiver_ns: f64,
    /// Goodput in bit/s of stream bytes.
    pub goodput_bps: f64,
}

impl Bound {
    /// From the blast's frames per second and the cost of a packet without a wire.
    #[must_use]
    pub fn new(blast_frames_per_s: f64, quic: &PacketCost) -> Self {
        let wire_ns = 1e9 / blast_frames_per_s;
        let sender_ns = wire_ns + quic.send_ns;
        let receiver_ns = quic.receive_ns;
        let goodput_bps = quic.stream_bytes * 8.0 * 1e9 / sender_ns.max(receiver_ns);
        Self { wire_ns, sender_ns, receiver_ns, goodput_bps }
    }

    /// From CPU time of the sending thread per frame blasted, and the CPU time of a packet without a wire.
    #[must_use]
    pub fn on_idle_cores(sender_cpu_ns_per_frame: f64, quic: &PacketCost) -> Self {
        let cpu = PacketCost { send_ns: quic.send_cpu_ns, receive_ns: quic.receive_cpu_ns, ..*quic };
        Self::new(1e9 / sender_cpu_ns_per_frame, &cpu)
    }

    /// Whose core is the bottleneck.
    #[must_use]
    pub fn bottleneck(&self) -> &'static str {
        if self.sender_ns >= self.receiver_ns { "sender" } else { "receiver" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(send_ns: f64, receive_ns: f64) -> PacketCost {
        PacketCost {
            send_ns,
            receive_ns,
            send_cpu_ns: send_ns,
            receive_cpu_ns: receive_ns,
            stream_bytes: 1425.0,
            packets: 1,
        }
    }

    #[test]
    fn wire_and_sealing_share_the_senders_core() {
        // 1 Mpps is 1000 ns; with 1500 ns of QUIC, 400 000 packets of 1425 bytes a second
        let bound = Bound::new(1e6, &cost(1500.0, 1200.0));
        assert_eq!((bound.sender_ns, bound.bottleneck()), (2500.0, "sender"));
        assert!((bound.goodput_bps - 4.56e9).abs() < 1.0);
    }

    #[test]
    fn a_slow_receiver_is_the_bottleneck() {
        let bound = Bound::new(1e6, &cost(1500.0, 5000.0));
        assert_eq!(bound.bottleneck(), "receiver");
        assert!((bound.goodput_bps - 2.28e9).abs() < 1.0);
    }
}
