//! What an engine is told at start and at each configuration snapshot. Names, files and addresses are resolved
//! by the control process; here are numbers and ready-made keys only.

use std::sync::Arc;
use std::time::Duration;

use florelay_wire::mpls::Label;

/// Index of a link in the node's configuration; the same in every worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u16);

/// Index of a peer: a node at the far end of a label-switched path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

/// Rate of a link at layer 2, every header, retransmission and acknowledgement included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RatePlan {
    /// CIR in bits per second; `None` = uncapped.
    pub rate_bps: Option<u64>,
    /// CBS in bytes at layer 2; at least one frame of the link's MTU.
    pub burst_bytes: u32,
    /// Share of the rate that the control class may use, in percent, 1..=100 (its policer's rate).
    pub control_percent: u8,
}

/// How a QUIC connection over a link shares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// The rate is known: window from rate × measured RTT; loss alone does not collapse it, CE and a standing queue do.
    Contracted,
    /// Somebody else uses the path too: CUBIC (RFC 9438).
    Shared,
    /// The same by BBR, version 1 as quinn-proto has it. Its probing draws on the system's randomness, so that a simulation
    /// with it does not repeat itself.
    SharedBbr,
}

/// One link of the node.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Its index.
    pub id: LinkId,
    /// Its name in configuration, status and logs.
    pub name: Arc<str>,
    /// Largest link payload in bytes (LSE 0 to the end): the interface's MTU less IP and UDP headers.
    pub mtu_payload: u16,
    /// Bytes that layer 2 adds to a link payload: Ethernet, VLAN, IP, UDP, plus the configured overhead.
    pub overhead_bytes: u16,
    /// Its rate.
    pub rate: RatePlan,
    /// One-way delay the operator expects; seeds windows and timers until measured.
    pub delay: Duration,
    /// Congestion control of connections that start on this link.
    pub congestion: Congestion,
    /// Liveness: transmit interval; the link is down after `detect_multiplier` silent ones.
    pub liveness_interval: Duration,
    /// RFC 5880 section 6.8.4; at least 2.
    pub detect_multiplier: u8,
    /// Key of the liveness MAC (BLAKE3 keyed hash), the same at both ends.
    pub liveness_key: [u8; 32],
    /// When it is called degraded.
    pub thresholds: Thresholds,
    /// Administratively up at start.
    pub admin_up: bool,
}

/// Where a link's degradation begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Thresholds {
    /// Share of lost frames in either direction that degrades, in millionths.
    pub loss_ppm: u32,
    /// Share at which it is over; at most `loss_ppm`.
    pub loss_clear_ppm: u32,
    /// Growth of the smoothed round trip over the usual one that degrades. `None`: 100 ms, half of the usual one and the time of
    /// four full frames.
    pub rtt_growth: Option<Duration>,
    /// Growth at which it is over. `None`: half of `rtt_growth`.
    pub rtt_growth_clear: Option<Duration>,
    /// Jitter that degrades. `None`: half of `rtt_growth`.
    pub jitter: Option<Duration>,
    /// Jitter at which it is over. `None`: half of `jitter`.
    pub jitter_clear: Option<Duration>,
    /// How long everything has to be well before the link is normal again; also the shortest time that it is degraded.
    pub hold: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            loss_ppm: 20_000,
            loss_clear_ppm: 10_000,
            rtt_growth: None,
            rtt_growth_clear: None,
            jitter: None,
            jitter_clear: None,
            hold: Duration::from_secs(10),
        }
    }
}

/// A link of this node that another worker owns: what rows that lead there need to know of it.
#[derive(Debug, Clone)]
pub struct ForeignLink {
    /// Its index.
    pub id: LinkId,
    /// Its name, for errors.
    pub name: Arc<str>,
    /// As [`LinkConfig::mtu_payload`].
    pub mtu_payload: u16,
}

/// Which end of a path dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens the QUIC connections.
    Originator,
    /// Waits for them.
    Acceptor,
}

/// A label-switched path to a peer, as seen from this end.
#[derive(Clone)]
pub struct PeerConfig {
    /// Its index.
    pub id: PeerId,
    /// Node name, e.g. `station-b`.
    pub name: Arc<str>,
    /// SPIFFE URI that its certificate must carry, exactly.
    pub spiffe_id: Arc<str>,
    /// The link that the path leaves by.
    pub link: LinkId,
    /// Label that this end pushes as LSE 0.
    pub out_label: Label,
    /// Label at which this end receives from the peer on `link`; sent as LSE 1.
    pub in_label: Label,
    /// Who dials.
    pub role: Role,
    /// Largest QUIC packet in bytes on the whole path; at least 1200.
    pub quic_mtu: u16,
    /// Round-trip time to assume before one is measured.
    pub initial_rtt: Duration,
    /// Rate of the slowest link of the path towards the peer, for the windows of what is sent; `None` = uncapped.
    pub path_rate_bps: Option<u64>,
    /// Rate of the slowest link of the path from the peer, for the windows of what is received; `None` = uncapped.
    pub return_rate_bps: Option<u64>,
    /// DRR weight of this path's bulk traffic on the link, 1..=1000.
    pub weight: u16,
    /// What an earlier run of this node has measured of the path, if that is recent enough to believe.
    pub memory: Option<PathMemory>,
}

/// What a node has measured of a peer's path, and knows again after a start. A guess until the path has answered: the first
/// round trip that is measured takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMemory {
    /// Least round trip of the way: what it takes without queues.
    pub least_rtt: Duration,
    /// Smoothed round trip (RFC 9002 section 5.3).
    pub smoothed_rtt: Duration,
    /// What arrived per second when the path was in full use, in bits of QUIC packets. `contracted` says it only of a path that
    /// was found narrower than planned.
    pub rate_bps: Option<u64>,
    /// Rate of the path that was planned meanwhile; what was measured says nothing under another plan.
    pub planned_rate_bps: Option<u64>,
    /// Round trip that a contact plan gave meanwhile.
    pub planned_rtt: Option<Duration>,
}

/// One half of a transit row: a label pair on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransitEnd {
    /// The link.
    pub link: LinkId,
    /// Label at which frames of this path arrive here on `link`.
    pub in_label: Label,
    /// Label with which they leave on `link`.
    pub out_label: Label,
}

/// A bidirectional label-switched path that passes this node. A frame that arrives at `a.link` with
/// `a.in_label` must carry the backward label `a.out_label`; it leaves on `b.link` with forward label
/// `b.out_label` and backward label `b.in_label`; the other direction likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransitConfig {
    /// One end.
    pub a: TransitEnd,
    /// The other end.
    pub b: TransitEnd,
    /// DRR weight on both links, 1..=1000.
    pub weight: u16,
}

/// Credentials and crypto, made by the driver: rustls in production, a deterministic session in simulation.
#[derive(Clone)]
pub struct PeerCrypto {
    /// For connections that this end opens; checks the peer's SPIFFE URI.
    pub client: Arc<dyn quinn_proto::crypto::ClientConfig>,
    /// For connections from the peer; checks its SPIFFE URI.
    pub server: Arc<dyn quinn_proto::crypto::ServerConfig>,
}

/// Everything an engine starts with.
#[derive(Clone)]
pub struct EngineConfig {
    /// This node's name.
    pub node: Arc<str>,
    /// Number of this snapshot.
    pub snapshot: u64,
    /// Worker number, carried in connection ids.
    pub worker: u8,
    /// Changes at each start of the process; carried by liveness.
    pub boot_id: u64,
    /// Links owned by this worker.
    pub links: Vec<LinkConfig>,
    /// The node's other links, each owned by another worker.
    pub foreign_links: Vec<ForeignLink>,
    /// All peers of the node, with their crypto; connections live where the path's link does.
    pub peers: Vec<(PeerConfig, PeerCrypto)>,
    /// All transit rows of the node, in the same order in every worker: a row's position names its flow at the owner
    /// of its out link, whichever worker looks it up.
    pub transits: Vec<TransitConfig>,
    /// Key of stateless resets; persists over restarts.
    pub reset_key: [u8; 32],
    /// Seed for every random choice; from the system in production.
    pub seed: [u8; 32],
    /// Node-wide limits.
    pub limits: Limits,
}

/// Bounds on memory.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes a sender's gateway may have supplied and QUIC not yet taken, per transfer; fewer where there are many.
    pub supply_bytes: u32,
    /// Bytes handed to a receiver's gateway and not yet reported written, per transfer.
    pub unwritten_bytes: u32,
    /// Credit of a stream: bytes that its sender may be ahead of what this receiver's reader has taken. All of them are
    /// handed to the gateway, so that a reader that stops holds up nothing but its own stream.
    pub stream_credit_bytes: u32,
    /// Transit bytes queued per path and direction before drops are counted.
    pub transit_queue_bytes: u32,
    /// Transfers in both directions with one peer; more are refused by name.
    pub transfers_per_peer: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            supply_bytes: 1 << 20,
            unwritten_bytes: 8 << 20,
            stream_credit_bytes: 16 << 20,
            transit_queue_bytes: 2 << 20,
            transfers_per_peer: 20_000,
        }
    }
}
