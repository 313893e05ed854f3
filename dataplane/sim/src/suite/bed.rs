//! Two nodes and one link as the table describes it.

use std::time::Duration;

use florelay_engine::api::TransferId;
use florelay_engine::config::{LinkId, PeerId, RatePlan};
use florelay_engine::oam::LIVENESS_FRAME_BYTES;
use florelay_engine::time::Nanos;

use crate::gateway::FileSink;
use crate::link::LinkModel;
use crate::net::NodeId;
use crate::scenario::{Scenario, Sim};
use crate::topo::{LinkSpec, Topology, pair};

pub(super) const A: NodeId = NodeId(0);
pub(super) const B: NodeId = NodeId(1);
pub(super) const LINK: LinkId = LinkId(0);
pub(super) const PEER: PeerId = PeerId(0);
pub(super) const MB: u64 = 1_000_000;

/// Bytes of a file in a full frame of 1514 bytes over IPv4, as the table counts.
const PAYLOAD_SHARE: f64 = 1427.0 / 1514.0;
/// Frames of liveness may take this share of a link.
const LIVENESS_SHARE: f64 = 0.01;
/// Ethernet, IPv4, UDP.
const OVERHEAD_BYTES: usize = 42;
/// Below this rate one frame is a noticeable time: the burst is one frame.
const SLOW_BPS: u64 = 200_000;
const SLOW_DETECT: u8 = 6;
/// Bytes that the medium's own queue takes: a modem's buffer.
const MODEM_QUEUE_BYTES: u64 = 256 << 10;
const CONNECT_LIMIT: Nanos = Nanos(60_000_000_000);

/// A link: bits per second from A to B and back, and its round trip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Profile {
    pub(super) down_bps: u64,
    pub(super) up_bps: u64,
    pub(super) rtt: Duration,
}

impl Profile {
    pub(super) const fn new(down_bps: u64, up_bps: u64, rtt_ms: u64) -> Self {
        Self { down_bps, up_bps, rtt: Duration::from_millis(rtt_ms) }
    }

    /// The link with caps at its rates; `change` adds what is wrong with both directions.
    pub(super) fn spec(self, change: impl Fn(LinkModel) -> LinkModel) -> LinkSpec {
        let mut spec = LinkSpec::new(None, self.rtt / 2);
        let frame = spec.full_frame_bytes();
        (spec.rate_a, spec.rate_b) = (plan(self.down_bps, frame), plan(self.up_bps, frame));
        spec.liveness_interval = liveness_interval(self.down_bps.min(self.up_bps));
        if self.down_bps < SLOW_BPS {
            // An interval is a second there; a higher multiplier lets liveness step back behind traffic.
            spec.detect_multiplier = SLOW_DETECT;
        }
        spec.model_ab = change(spec.model_ab.rate(self.down_bps, MODEM_QUEUE_BYTES));
        spec.model_ba = change(spec.model_ba.rate(self.up_bps, MODEM_QUEUE_BYTES));
        spec
    }

    /// Ideal goodput from A to B in bytes per second.
    pub(super) fn ideal(self, loss: f64) -> f64 {
        ideal(self.down_bps, loss)
    }
}

/// Ideal goodput in bytes per second.
pub(super) fn ideal(bps: u64, loss: f64) -> f64 {
    bps as f64 / 8.0 * (1.0 - loss) * PAYLOAD_SHARE
}

/// A cap with the burst that suits it: one frame on slow links, otherwise two frames or 4 ms.
pub(super) fn plan(rate_bps: u64, frame_bytes: u32) -> RatePlan {
    let frames = if rate_bps < SLOW_BPS { 1 } else { 2 };
    let burst_bytes = (frames * frame_bytes).max(u32::try_from(rate_bps / 8 / 250).unwrap_or(u32::MAX));
    RatePlan { rate_bps: Some(rate_bps), burst_bytes, control_percent: 100 }
}

/// 100 ms, or longer where that would take more than its share of the link.
fn liveness_interval(rate_bps: u64) -> Duration {
    let bits = (LIVENESS_FRAME_BYTES + OVERHEAD_BYTES) as f64 * 8.0;
    Duration::from_secs_f64(bits / (rate_bps as f64 * LIVENESS_SHARE)).max(Duration::from_millis(100))
}

/// The network, with both ends connected.
pub(super) fn connected(spec: LinkSpec, seed: u64) -> Sim {
    let mut net = cold(pair(spec), seed);
    net.run_until_connected(&[(A, PEER), (B, PEER)], CONNECT_LIMIT);
    net
}

/// The network at time zero: nothing was said yet.
pub(super) fn cold(topology: Topology, seed: u64) -> Sim {
    Scenario::new(topology).seed(seed).frames(64 << 10).build()
}

/// Seconds from `start` until the last file was verified and in place at its receiver; runs until senders know it too.
pub(super) fn finish(net: &mut Sim, start: Nanos, limit: Duration) -> f64 {
    let ended = net.run_while(start + limit, |net| !net.files_done());
    assert!(ended, "not through after {limit:?}");
    let sinks = net.node_ids().flat_map(|id| net.gateway(id).sinks.values());
    sinks.filter_map(FileSink::ended_at).max().map_or(f64::NAN, |at| at.since(start).as_secs_f64())
}

/// Bytes of files that reached `at` in `[from, until)`.
pub(super) fn received(net: &Sim, at: NodeId, from: Nanos, until: Nanos) -> u64 {
    net.gateway(at).sinks.values().map(|sink| sink.received_between(from, until)).sum()
}

/// The n-th file.
pub(super) fn file(n: u128) -> TransferId {
    TransferId(0x100 + n)
}

/// Latencies of all commands that reached `at`.
pub(super) fn latencies(net: &Sim, at: NodeId) -> impl Iterator<Item = Duration> + '_ {
    net.gateway(at).inbox.latencies().iter().map(|(_, latency)| *latency)
}
