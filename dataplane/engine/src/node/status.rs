//! What an engine shows of itself. Read off the packet path.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::api::{LinkState, MessageCounters, PeerState};
use crate::config::{LinkId, PeerId, RatePlan};
use crate::contact::ContactReport;
use crate::datagrams::DatagramCounters;
use crate::egress::EgressCounters;
use crate::fib::DropReason;
use crate::port::FrameBuf;
use crate::time::Nanos;
use crate::transport::{CongestionSignals, Lane, PeerCounters};

/// State of an engine.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// Configuration snapshot it runs.
    pub snapshot: u64,
    /// Its links.
    pub links: Vec<LinkReport>,
    /// Its peers.
    pub peers: Vec<PeerReport>,
}

/// State of a link.
#[derive(Debug, Clone)]
pub struct LinkReport {
    /// Which.
    pub id: LinkId,
    /// Its state.
    pub state: LinkState,
    /// Its rate now.
    pub rate: RatePlan,
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received at layer 2.
    pub rx_bytes: u64,
    /// Frames lost on the way here, by the link's sequence numbers.
    pub rx_lost: u64,
    /// Frames that came out of order.
    pub rx_reordered: u64,
    /// Frames that came marked CE (RFC 3168), for this node or in transit.
    pub rx_ecn_ce: u64,
    /// What egress counted.
    pub egress: EgressCounters,
    /// Drops by reason, zeroes left out.
    pub drops: Vec<(&'static str, u64)>,
    /// OAM messages for which there was no room.
    pub oam_dropped: u64,
}

/// State of a peer.
#[derive(Debug, Clone)]
pub struct PeerReport {
    /// Which.
    pub id: PeerId,
    /// Its name.
    pub name: Arc<str>,
    /// Its state.
    pub state: PeerState,
    /// Smoothed round trip of the bulk connection.
    pub rtt: Option<Duration>,
    /// Smoothed round trip of the control connection.
    pub control_rtt: Option<Duration>,
    /// ACK_FREQUENCY frames that the peer has sent (draft-ietf-quic-ack-frequency), control and bulk: it asks for fewer
    /// acknowledgements, and this end obeys.
    pub ack_frequency: [u64; 2],
    /// Congestion window of the bulk connection in bytes.
    pub cwnd: u64,
    /// QUIC packets sent on the bulk connection.
    pub sent_packets: u64,
    /// QUIC packets lost on the bulk connection.
    pub lost_packets: u64,
    /// Bytes of lost packets on the bulk connection.
    pub lost_bytes: u64,
    /// How often congestion control of its connections acted, since the start.
    pub signals: CongestionSignals,
    /// Handshakes and losses.
    pub counters: PeerCounters,
    /// Datagrams to and from it.
    pub datagrams: DatagramCounters,
    /// Command messages.
    pub messages: MessageCounters,
}

impl<F: FrameBuf> Engine<F> {
    /// The state of everything.
    pub fn status(&mut self) -> EngineStatus {
        let links = self
            .links
            .iter()
            .map(|link| LinkReport {
                id: link.config.id,
                state: link.state.clone(),
                rate: link.rate,
                rx_frames: link.rx_frames,
                rx_bytes: link.rx_bytes,
                rx_lost: link.sequence.lost,
                rx_reordered: link.sequence.reordered,
                rx_ecn_ce: link.rx_ecn_ce,
                egress: *link.egress.counters(),
                drops: DropReason::ALL
                    .iter()
                    .map(|reason| (reason.name(), link.drops[reason.index()]))
                    .filter(|(_, count)| *count > 0)
                    .collect(),
                oam_dropped: link.oam_dropped,
            })
            .collect();
        let peers = (0..self.peers.len()).filter_map(|index| self.peer_report(PeerId(index as u16))).collect();
        EngineStatus { snapshot: self.snapshot, links, peers }
    }

    /// Where the links that have a contact plan stand in it.
    #[must_use]
    pub fn contacts(&self, now: Nanos) -> Vec<(LinkId, ContactReport)> {
        let report =
            |link: &super::LinkRuntime<F>| Some((link.config.id, link.contacts.report(now, link.egress.sent_bytes())?));
        self.links.iter().filter_map(report).collect()
    }

    fn peer_report(&mut self, id: PeerId) -> Option<PeerReport> {
        let [control, stats] = [Lane::Control, Lane::Bulk].map(|lane| {
            let handle = self.transport.current(id, lane)?;
            Some(self.transport.conn(handle)?.quic.stats())
        });
        let ack_frequency = [control, stats].map(|stats| stats.map_or(0, |stats| stats.frame_rx.ack_frequency));
        let [control, stats] = [control, stats].map(|stats| Some(stats?.path));
        let peer = self.transport.peer(id)?;
        Some(PeerReport {
            id,
            name: peer.config.name.clone(),
            state: self.peers[usize::from(id.0)].state.clone(),
            rtt: stats.map(|path| path.rtt),
            control_rtt: control.map(|path| path.rtt),
            ack_frequency,
            cwnd: stats.map_or(0, |path| path.cwnd),
            sent_packets: stats.map_or(0, |path| path.sent_packets),
            lost_packets: stats.map_or(0, |path| path.lost_packets),
            lost_bytes: stats.map_or(0, |path| path.lost_bytes),
            signals: peer.plan.signals(),
            counters: peer.stats,
            datagrams: self.peers[usize::from(id.0)].datagrams.counters(),
            messages: self.peers[usize::from(id.0)].messages.counters(),
        })
    }
}
