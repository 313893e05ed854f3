//! The node's plan: what `control` compiles from the operator's TOML and hands to supervisor and dataplane.
//! Closed, checked and numbered; nothing in it needs looking up again except key files, which the supervisor opens.

#[cfg(test)]
pub(crate) mod fixture;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use florelay_engine::config::Thresholds;
use florelay_engine::oam::LIVENESS_FRAME_BYTES;
use florelay_impair::LinkModel;
use florelay_wire::eth::ETH_BYTES;
use florelay_wire::udp::UDP_BYTES;
use serde::{Deserialize, Serialize};

/// Largest IP packet of a link in bytes: jumbo frames, with a little more. A worker's buffers are made for it.
pub const MAX_MTU: u16 = 9216;

/// Everything a node runs with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Number of this snapshot, from 1.
    pub snapshot: u64,
    /// Node name, e.g. `station-a`.
    pub node: String,
    /// Realm, e.g. `demo.rete`: the SPIFFE trust domain.
    pub realm: String,
    /// PEM certificate chain of this node.
    pub certificate: PathBuf,
    /// PEM private key, mode 0600.
    pub key: PathBuf,
    /// PEM certificates of the realm's CAs.
    pub trust: PathBuf,
    /// Where received files go.
    pub inbox: PathBuf,
    /// Partial files, the stateless-reset key and the control socket live here.
    pub state_dir: PathBuf,
    /// How much of streams is kept.
    pub spool: SpoolPlan,
    /// Worker threads, each pinned to its core.
    pub workers: Vec<WorkerPlan>,
    /// All links; `LinkId` is the index.
    pub links: Vec<LinkPlan>,
    /// All peers; `PeerId` is the index.
    pub peers: Vec<PeerPlan>,
    /// All transit rows.
    pub transits: Vec<TransitPlan>,
}

/// Bytes kept of open-ended streams that this node sends, until their receivers have confirmed them: in memory, and beyond that
/// on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolPlan {
    /// Of one stream.
    pub stream_bytes: u64,
    /// Of all streams together; at least `stream_bytes`.
    pub node_bytes: u64,
    /// On disk, of one stream; 0 = in memory alone, and gone with the dataplane.
    pub stream_disk_bytes: u64,
    /// On disk, of all streams together.
    pub node_disk_bytes: u64,
    /// What is accepted from a program is synced, so that a power cut does not take it; otherwise a kill does not.
    pub sync: bool,
}

impl Default for SpoolPlan {
    fn default() -> Self {
        Self {
            stream_bytes: 16 << 20,
            node_bytes: 256 << 20,
            stream_disk_bytes: 16 << 30,
            node_disk_bytes: 64 << 30,
            sync: true,
        }
    }
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPlan {
    /// Core to pin to; `None` = not pinned.
    pub core: Option<usize>,
    /// How it waits for work.
    pub poll: PollMode,
}

/// How a worker waits (DESIGN section 2; FIELD-NOTES on busy polling).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PollMode {
    /// Spins while there is work, sleeps in `poll` when there is none.
    Adaptive,
    /// Never sleeps.
    Busy,
    /// The kernel's threaded NAPI does the interrupt work on another core; the worker behaves as `Adaptive`.
    ThreadedNapi,
}

/// How a link moves frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterPlan {
    /// AF_XDP on this interface, with the socket rung as the last resort if `fallback`.
    Xdp {
        /// Interface name.
        interface: String,
        /// Highest rung to try.
        highest_rung: Rung,
        /// Fall down to a UDP socket when no AF_XDP rung holds.
        fallback: bool,
    },
    /// A UDP socket.
    Udp,
    /// An impaired link on this machine, for trying things out.
    Sim(Box<SimPlan>),
}

/// A `sim` link: two unix datagram sockets, and what happens to frames on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SimPlan {
    /// This end's socket; its folder is made if it is not there.
    pub socket: PathBuf,
    /// The neighbour's.
    pub peer: PathBuf,
    /// What happens to frames that this end sends.
    pub model: LinkModel,
    /// Of its random numbers.
    pub seed: u64,
}

/// The rung ladder, highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// AF_XDP, driver mode, zero-copy.
    ZeroCopy,
    /// AF_XDP, driver mode, copy.
    DriverCopy,
    /// AF_XDP, generic (skb) mode.
    Generic,
    /// UDP socket.
    Socket,
    /// Not on the ladder: the `sim` adapter.
    Sim,
}

/// How connections over a link share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CongestionPlan {
    /// The rate is the operator's own.
    Contracted,
    /// Others use the path too: CUBIC.
    Cubic,
    /// Others use the path too: BBR.
    Bbr,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkPlan {
    /// Its name.
    pub name: String,
    /// Worker that owns it (index).
    pub worker: usize,
    /// How it moves frames.
    pub adapter: AdapterPlan,
    /// Own address and port; `0.0.0.0:0` on a `sim` link, whose frames are counted as if they were UDP over IPv4.
    pub local: SocketAddr,
    /// The neighbour's address and port; likewise.
    pub remote: SocketAddr,
    /// MTU of the IP packet in bytes.
    pub mtu: u16,
    /// Bytes counted per frame at layer 2 beyond Ethernet, VLAN, IP and UDP (e.g. a modem's framing).
    pub extra_overhead: u16,
    /// CIR in bit/s at layer 2; `None` = uncapped.
    pub rate_bps: Option<u64>,
    /// CBS in bytes at layer 2.
    pub burst_bytes: u32,
    /// Share of the rate for the control class, percent.
    pub control_percent: u8,
    /// One-way delay expected, nanoseconds.
    pub delay_ns: u64,
    /// Congestion control of what is sent over it.
    pub congestion: CongestionPlan,
    /// Liveness interval, nanoseconds.
    pub liveness_interval_ns: u64,
    /// Detect multiplier.
    pub detect_multiplier: u8,
    /// Liveness key.
    pub liveness_key: [u8; 32],
    /// When it is called degraded.
    pub degraded: Thresholds,
    /// Up at start.
    pub admin_up: bool,
    /// When it may be used.
    pub contacts: LinkContacts,
}

/// A link's contact plan, and how it is handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkContacts {
    /// The contacts in order, not overlapping; `None` = the link may be used at any time.
    pub plan: Option<Vec<ContactPlan>>,
    /// How long before the end of a contact the last frame is sent, nanoseconds; `None` = what the link holds at most.
    pub guard_ns: Option<u64>,
    /// Follow a plan only when the kernel says that the clock is synchronised.
    pub require_synchronised_clock: bool,
}

impl Default for LinkContacts {
    fn default() -> Self {
        Self { plan: None, guard_ns: None, require_synchronised_clock: true }
    }
}

/// One contact, on the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactPlan {
    /// First moment, nanoseconds since 1970 UTC.
    pub start_unix_ns: u64,
    /// First moment after it.
    pub end_unix_ns: u64,
    /// CIR in bit/s at layer 2; `None` = uncapped.
    pub rate_bps: Option<u64>,
    /// One-way delay, nanoseconds; `None` = the link's.
    pub delay_ns: Option<u64>,
}

impl LinkPlan {
    /// The least rate at which this link makes sense, in bit/s: one liveness frame within the detection time that it is
    /// configured with. (A rate above that may still stretch the interval, to keep liveness to its share.)
    #[must_use]
    pub fn least_rate_bps(&self) -> u64 {
        const NANOS_PER_SECOND: u128 = 1_000_000_000;
        let bits = u128::from(self.liveness_frame_bytes()) * 8 * NANOS_PER_SECOND;
        let detect_ns = u128::from(self.liveness_interval_ns) * u128::from(self.detect_multiplier);
        u64::try_from(bits.div_ceil(detect_ns.max(1))).unwrap_or(u64::MAX)
    }

    /// Whether this link can use a rate at all: what everybody asks who sets one, now or for a contact. No rate at all is
    /// no cap.
    ///
    /// # Errors
    /// For people: what the rate cannot carry.
    pub fn check_rate(&self, rate_bps: Option<u64>) -> Result<(), String> {
        let least = self.least_rate_bps();
        if rate_bps.is_none_or(|rate| rate >= least) {
            return Ok(());
        }
        let bytes = self.liveness_frame_bytes();
        Err(format!(
            "less than {least} bit/s cannot carry one liveness frame of {bytes} bytes in the link's detection time"
        ))
    }

    /// Whether this link can use a contact: at its rate, liveness is heard in time and one full frame fits in it.
    ///
    /// # Errors
    /// For people: which contact, and what it cannot carry.
    pub fn check_contact(&self, contact: &ContactPlan) -> Result<(), String> {
        let start = crate::wall::show(contact.start_unix_ns);
        self.check_rate(contact.rate_bps).map_err(|reason| format!("the contact at {start}: {reason}"))?;
        let Some(rate) = contact.rate_bps else { return Ok(()) };
        let bytes = u32::from(self.mtu) + self.liveness_frame_bytes() - LIVENESS_FRAME_BYTES as u32;
        let takes_ns = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(rate.max(1));
        let lasts_ns = contact.end_unix_ns.saturating_sub(contact.start_unix_ns);
        if takes_ns <= u128::from(lasts_ns) {
            return Ok(());
        }
        let (takes, lasts) = (takes_ns / 1_000_000, lasts_ns / 1_000_000);
        Err(format!(
            "the contact at {start} lasts {lasts} ms, and at {rate} bit/s one frame of {bytes} bytes takes {takes} ms"
        ))
    }

    /// Bytes of a liveness frame at layer 2, without a VLAN tag.
    #[must_use]
    pub fn liveness_frame_bytes(&self) -> u32 {
        let ip = if self.local.is_ipv4() { 20 } else { 40 };
        (LIVENESS_FRAME_BYTES + ETH_BYTES + ip + UDP_BYTES) as u32 + u32::from(self.extra_overhead)
    }
}

/// One peer and the path to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerPlan {
    /// Node name.
    pub name: String,
    /// Its SPIFFE URI.
    pub spiffe_id: String,
    /// Index of the link.
    pub link: u16,
    /// Label pushed as LSE 0.
    pub out_label: u32,
    /// Label received.
    pub in_label: u32,
    /// This end dials.
    pub originator: bool,
    /// QUIC packet size on the path, bytes.
    pub quic_mtu: u16,
    /// RTT to assume at first, nanoseconds.
    pub initial_rtt_ns: u64,
    /// Slowest link's rate towards the peer, for the windows of what is sent.
    pub path_rate_bps: Option<u64>,
    /// Slowest link's rate from the peer, for the windows of what is received.
    pub return_rate_bps: Option<u64>,
    /// DRR weight.
    pub weight: u16,
    /// How many own transfers to it run and wait.
    pub queue: QueuePlan,
}

/// Limits of a peer's queue of own transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePlan {
    /// Transfers that run at once, at most [`QueuePlan::MAX_CONCURRENT`]; 0 = as many as that.
    pub max_concurrent: u32,
    /// Transfers that wait; more are refused. At most [`QueuePlan::MAX_PENDING`].
    pub max_pending: u32,
}

impl QueuePlan {
    /// Own transfers to one peer that run at once at most, whatever is configured: each is in the engine's books.
    pub const MAX_CONCURRENT: u32 = 16_000;
    /// Largest `max_pending`: each that waits keeps a descriptor open.
    pub const MAX_PENDING: u32 = 50_000;
}

impl Default for QueuePlan {
    fn default() -> Self {
        Self { max_concurrent: 0, max_pending: 100 }
    }
}

/// One end of a transit row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitEndPlan {
    /// Index of the link.
    pub link: u16,
    /// Label on arrival.
    pub in_label: u32,
    /// Label on departure.
    pub out_label: u32,
}

/// A bidirectional path through this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitPlan {
    /// One end.
    pub a: TransitEndPlan,
    /// The other.
    pub b: TransitEndPlan,
    /// DRR weight.
    pub weight: u16,
}

#[cfg(test)]
mod tests {
    use florelay_engine::Nanos;

    use super::*;

    #[test]
    fn a_contact_must_carry_liveness_and_a_frame() {
        let link =
            LinkPlan { liveness_interval_ns: 1_000_000_000, ..fixture::link("up", 0, "127.0.0.1:1", AdapterPlan::Udp) };
        let check = |seconds: u64, rate_bps| {
            let contact =
                ContactPlan { start_unix_ns: 0, end_unix_ns: seconds * 1_000_000_000, rate_bps, delay_ns: None };
            link.check_contact(&contact)
        };
        assert!(check(600, Some(1)).unwrap_err().contains("liveness frame"));
        let least = link.least_rate_bps();
        assert!(check(600, Some(least - 1)).is_err());
        assert_eq!(check(600, Some(least)), Ok(()));
        // 1500 bytes and Ethernet's header: 12,112 bits.
        assert!(check(10, Some(1200)).unwrap_err().contains("lasts 10000 ms, and at 1200 bit/s one frame of 15"));
        assert_eq!((check(11, Some(1200)), check(1, None)), (Ok(()), Ok(())));
    }

    #[test]
    fn adapters_survive_the_encoding_between_the_processes() {
        for adapter in [
            AdapterPlan::Udp,
            AdapterPlan::Xdp { interface: "eth1".into(), highest_rung: Rung::ZeroCopy, fallback: true },
            AdapterPlan::Sim(Box::new(SimPlan {
                socket: "/run/a".into(),
                peer: "/run/b".into(),
                model: LinkModel::default().loss(0.02).outage(Nanos(1), Nanos(2)),
                seed: 7,
            })),
        ] {
            let bytes = postcard::to_stdvec(&adapter).unwrap();
            assert_eq!(postcard::from_bytes::<AdapterPlan>(&bytes).unwrap(), adapter);
        }
    }
}
