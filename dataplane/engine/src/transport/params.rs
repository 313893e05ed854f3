//! quinn-proto's transport parameters for one peer's path: windows from the rate plan, no MTU discovery (the
//! MTU is configured), acknowledgements thinned so that the return path is not flooded.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::ControllerFactory;
use quinn_proto::{AckFrequencyConfig, IdleTimeout, TransportConfig, VarInt};

use super::Lane;
use super::bounded::{BoundedConfig, Inner};
use super::contracted::{ContractedConfig, window_bytes};
use super::plan::PathPlan;
use crate::api::MAX_MESSAGE_BYTES;
use crate::config::{Congestion, PeerConfig};

/// Payload at which this end finishes a stripe, in bytes; see `relay`. Each packet is a segment of its stream, and
/// quinn-proto walks the segments that are not acknowledged for each packet: with 92 of them that costs less than
/// opening streams more often would.
pub(crate) const STRIPE_BYTES: u64 = 128 << 10;
/// Largest stripe that is taken without waiting for flow control: what session version 1 began with.
const MAX_STRIPE_BYTES: u64 = 1 << 20;
/// Stripe header and slack on top of `MAX_STRIPE_BYTES` in a stream's window.
const STRIPE_SLACK_BYTES: u64 = 4096;
/// Receive window floor: short paths at high rates are bounded by processing, not by distance.
const MIN_RECEIVE_WINDOW_BYTES: u64 = 16 << 20;
/// Receive window in windows of the sender. What waits behind a hole counts against it, and a packet that is lost twice
/// leaves a hole for three round trips: with one window (two bandwidth-delay products) a link with 1 % loss stood still
/// for a third of the time.
const RECEIVE_WINDOWS: u64 = 2;
/// Receive window ceiling, a bound on memory per peer: 10 Gbit/s at 400 ms.
const MAX_RECEIVE_WINDOW_BYTES: u64 = 1 << 30;
/// Rate assumed for windows where the path is uncapped.
const UNCAPPED_RATE_BPS: u64 = 10_000_000_000;
/// The peer's default: how long an ACK waits for company.
const ACK_DELAY: Duration = Duration::from_millis(25);
/// On a slow link an ACK by itself costs as much as a small command: it waits for company for so many full frames …
const ACK_DELAY_FRAMES: u64 = 4;
/// … but no longer than this part of a round trip, because probe timeouts grow by it.
const ACK_DELAY_RTT_PART: u32 = 8;
/// Frames that may be ahead of a packet in each direction without there being a queue.
const SLACK_FRAMES: u64 = 2;
/// At most one ACK for this many ack-eliciting packets.
const MAX_ACK_THRESHOLD: u64 = 31;
/// ACKs per window: one for each eighth keeps loss recovery and the window moving.
const ACKS_PER_WINDOW: u64 = 8;
/// A handshake is computed as well as sent: a remembered round trip below this would have it sent again and again.
const MIN_REMEMBERED_RTT: Duration = Duration::from_millis(25);
/// The path's clock stops while it is dark, so this counts silence on a path that works: the peer is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Several keep-alives fit the idle timeout, so that a few losses do not end a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(12);

/// Streams of command messages that a peer may have open; see `messages`.
pub(crate) const MESSAGE_STREAMS: u32 = 64;
/// The longest of them: 8 bytes of header and a message.
pub(crate) const MESSAGE_STREAM_BYTES: u64 = 8 + MAX_MESSAGE_BYTES as u64;
/// Received datagrams that QUIC holds on the control connection; they are taken at every event.
const DATAGRAM_BYTES: usize = 256 << 10;

/// Windows of the bulk connection of `peer`, from rate × round trip.
pub(crate) struct Windows {
    /// Congestion window, bytes.
    pub(crate) congestion: u64,
    /// Receive window of a connection, bytes.
    pub(crate) receive: u64,
    /// Bytes that may wait for acknowledgement.
    pub(crate) send: u64,
    /// Stripes at once.
    pub(crate) streams: u64,
}

pub(crate) fn windows(peer: &PeerConfig, plan: &PathPlan) -> Windows {
    let rtt = assumed_rtt(peer, plan);
    let congestion = window_bytes(plan.rate_bps().unwrap_or(UNCAPPED_RATE_BPS), rtt, peer.quic_mtu);
    // A satellite's return link is often a hundredth of its forward link: each direction has its own windows. A contact
    // plan says nothing of the way back; what it gives this way is taken for it too.
    let inward = peer.return_rate_bps.and_then(|rate| Some(rate.max(plan.rate_bps()?)));
    let inward = window_bytes(inward.unwrap_or(UNCAPPED_RATE_BPS), rtt, peer.quic_mtu);
    let receive = bounded(inward.saturating_mul(RECEIVE_WINDOWS));
    Windows {
        congestion,
        receive,
        send: bounded(congestion).saturating_mul(2),
        streams: (receive / STRIPE_BYTES * 2).max(4096),
    }
}

/// Transport parameters for one connection of `peer`.
pub(crate) fn transport_config(
    peer: &PeerConfig,
    lane: Lane,
    congestion: Congestion,
    plan: &PathPlan,
) -> TransportConfig {
    let windows = windows(peer, plan);
    let assumed = assumed_rtt(peer, plan);
    // A planned round trip is that of a contact to come; what is remembered may be of an earlier one.
    let memory = plan.memory().filter(|_| plan.rtt().is_none());
    let floor = MIN_REMEMBERED_RTT.min(peer.initial_rtt);
    let initial_rtt = memory.map_or(plan.rtt().unwrap_or(peer.initial_rtt), |path| path.smoothed_rtt.max(floor));
    let remembers = lane == Lane::Bulk;
    let mut config = TransportConfig::default();
    let packets = windows.congestion / u64::from(peer.quic_mtu) / ACKS_PER_WINDOW;
    let ack_packets = packets.clamp(1, MAX_ACK_THRESHOLD);
    let shared = |inner| -> Arc<dyn ControllerFactory + Send + Sync> {
        let start = plan.memory().filter(|_| remembers);
        Arc::new(BoundedConfig { inner, mtu: peer.quic_mtu, plan: plan.clone(), start, remembers })
    };
    let controller: Arc<dyn ControllerFactory + Send + Sync> = match (congestion, peer.path_rate_bps) {
        (Congestion::Contracted, Some(_)) => Arc::new(ContractedConfig {
            plan: plan.clone(),
            initial_rtt: memory.map_or(initial_rtt, |path| path.least_rtt),
            ack_packets: ack_packets + 1,
            slack: ack_delay(peer, assumed)
                + frames_time(peer, peer.path_rate_bps)
                + frames_time(peer, peer.return_rate_bps),
            start_rate_bps: plan.memory().filter(|_| remembers).and_then(|path| path.rate_bps),
            remembers,
        }),
        (Congestion::Contracted, None) | (Congestion::Shared, _) => shared(Inner::Cubic),
        (Congestion::SharedBbr, _) => shared(Inner::Bbr),
    };
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(varint(ack_packets));
    acks.max_ack_delay(Some(ack_delay(peer, assumed)));
    config
        .congestion_controller_factory(controller)
        .ack_frequency_config(Some(acks))
        .initial_mtu(peer.quic_mtu)
        .min_mtu(peer.quic_mtu)
        .mtu_discovery_config(None)
        .initial_rtt(initial_rtt)
        .receive_window(varint(windows.receive))
        .stream_receive_window(varint(MAX_STRIPE_BYTES + STRIPE_SLACK_BYTES))
        .send_window(windows.send)
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(varint(windows.streams))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        // Streams are fed one packet's worth at a time by our own scheduler: nothing is left to be fair about.
        .send_fairness(false)
        .enable_segmentation_offload(false)
        .allow_spin(false);
    if lane == Lane::Control {
        // Each stream holds a whole message, and all streams and the session together fit the connection: what is not
        // taken for want of credit never holds up the session.
        let receive = (u64::from(MESSAGE_STREAMS) + 2) * MESSAGE_STREAM_BYTES;
        config
            .receive_window(varint(receive))
            .stream_receive_window(varint(MESSAGE_STREAM_BYTES))
            .send_window(receive)
            .max_concurrent_uni_streams(VarInt::from_u32(MESSAGE_STREAMS))
            .datagram_receive_buffer_size(Some(DATAGRAM_BYTES));
    }
    config
}

/// Round trip that windows of flow control have room for. What is remembered only adds to it: were the path longer again, it
/// would have to wait for the next connection.
fn assumed_rtt(peer: &PeerConfig, plan: &PathPlan) -> Duration {
    let remembered = plan.memory().map_or(Duration::ZERO, |path| path.least_rtt);
    plan.rtt().unwrap_or(peer.initial_rtt.max(remembered))
}

/// What full frames in front of a packet, or of its acknowledgement, may cost at a rate.
fn frames_time(peer: &PeerConfig, rate_bps: Option<u64>) -> Duration {
    let frame_ns = rate_bps.map_or(0, |rate| u64::from(peer.quic_mtu) * 8_000_000_000 / rate.max(1));
    Duration::from_nanos(frame_ns.saturating_mul(SLACK_FRAMES))
}

/// How long the peer's ACKs may wait; they come over the return path.
fn ack_delay(peer: &PeerConfig, rtt: Duration) -> Duration {
    let frame_ns = peer.return_rate_bps.map_or(0, |rate| u64::from(peer.quic_mtu) * 8_000_000_000 / rate.max(1));
    let wait = Duration::from_nanos(frame_ns.saturating_mul(ACK_DELAY_FRAMES));
    wait.min(rtt / ACK_DELAY_RTT_PART).max(ACK_DELAY)
}

fn bounded(window: u64) -> u64 {
    window.clamp(MIN_RECEIVE_WINDOW_BYTES, MAX_RECEIVE_WINDOW_BYTES)
}

pub(super) fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}
