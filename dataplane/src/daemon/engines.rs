//! From the node's plan to what each worker's engine starts with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use florelay_engine::config::{
    Congestion, EngineConfig, ForeignLink, Limits, LinkConfig, LinkId, PathMemory, PeerConfig, PeerCrypto, PeerId,
    RatePlan, Role, TransitConfig, TransitEnd,
};
use florelay_wire::eth::{ETH_BYTES, VLAN_TAG_BYTES};
use florelay_wire::mpls::Label;
use florelay_wire::udp::UDP_BYTES;

use super::DaemonError;
use crate::adapter::share::workers_on;
use crate::plan::{AdapterPlan, CongestionPlan, LinkPlan, MAX_MTU, NodePlan, PeerPlan, TransitEndPlan, TransitPlan};

/// VLAN interfaces of the calling thread's network namespace: `name | id | parent` (net/8021q/vlanproc.c).
const VLAN_TABLE: &str = "/proc/thread-self/net/vlan/config";

/// Secrets of this start.
pub(super) struct Secrets {
    pub(super) boot_id: u64,
    pub(super) reset_key: [u8; 32],
    pub(super) seed: [u8; 32],
    /// By peer.
    pub(super) crypto: Vec<PeerCrypto>,
}

/// A link's rate, as its engine takes it.
#[must_use]
pub(crate) fn rate_plan(link: &LinkPlan) -> RatePlan {
    RatePlan { rate_bps: link.rate_bps, burst_bytes: link.burst_bytes, control_percent: link.control_percent }
}

/// Bytes that layer 2 adds to a link payload: Ethernet, a VLAN tag, IP, UDP, and what the operator adds.
///
/// The tag is counted where the link's interface is a VLAN or carries VLANs; whether this link's frames are tagged is known
/// only with the next hop, and a rate that is kept to with four bytes too many per frame is still kept to. A `udp` link
/// names no interface; there a tag belongs into the configured overhead.
#[must_use]
pub(crate) fn layer2_overhead(link: &LinkPlan) -> u16 {
    let tag = match &link.adapter {
        AdapterPlan::Xdp { interface, .. } if has_vlans(interface) => VLAN_TAG_BYTES,
        _ => 0,
    };
    ((ETH_BYTES + tag) as u16).saturating_add(ip_udp(&link.local)).saturating_add(link.extra_overhead)
}

fn ip_udp(local: &SocketAddr) -> u16 {
    let ip = if local.is_ipv4() { 20 } else { 40 };
    ip + UDP_BYTES as u16
}

fn has_vlans(interface: &str) -> bool {
    // Not there: no VLAN interface has ever been made.
    let Ok(table) = std::fs::read_to_string(VLAN_TABLE) else { return false };
    table.lines().any(|line| {
        let mut columns = line.split('|').map(str::trim);
        columns.next() == Some(interface) || columns.nth(1) == Some(interface)
    })
}

/// One worker's engine: its own links, what it needs of the others, all peers and transit rows (in order, as engines number
/// them).
pub(super) fn engine_config(plan: &NodePlan, worker: usize, secrets: &Secrets) -> Result<EngineConfig, DaemonError> {
    let number = u8::try_from(worker).map_err(|_| DaemonError::Plan("there are at most 256 workers".into()))?;
    let peers = plan.peers.iter().zip(&secrets.crypto).zip(0..);
    let peers = peers.map(|((peer, crypto), id)| Ok((peer_config(peer, PeerId(id))?, crypto.clone())));
    Ok(EngineConfig {
        node: plan.node.as_str().into(),
        snapshot: plan.snapshot,
        worker: number,
        boot_id: secrets.boot_id,
        links: owned_links(plan, worker).map(|(id, link)| link_config(id, link)).collect(),
        foreign_links: foreign_links(plan, worker),
        peers: peers.collect::<Result<_, DaemonError>>()?,
        transits: transits(plan)?,
        reset_key: secrets.reset_key,
        seed: secrets.seed,
        limits: Limits::default(),
    })
}

/// What is known of the peers' paths from an earlier run, by peer of the plan.
pub(super) fn recall(config: &mut EngineConfig, memories: &[Option<PathMemory>]) {
    for ((peer, _), memory) in config.peers.iter_mut().zip(memories) {
        peer.memory = *memory;
    }
}

/// The links of a worker.
pub(super) fn owned_links(plan: &NodePlan, worker: usize) -> impl Iterator<Item = (LinkId, &LinkPlan)> {
    (0..).map(LinkId).zip(&plan.links).filter(move |(_, link)| link.worker == worker)
}

fn foreign_links(plan: &NodePlan, worker: usize) -> Vec<ForeignLink> {
    let others = (0..).map(LinkId).zip(&plan.links).filter(|(_, link)| link.worker != worker);
    others
        .map(|(id, link)| ForeignLink { id, name: link.name.as_str().into(), mtu_payload: mtu_payload(link) })
        .collect()
}

/// Links of other workers on interfaces on which this worker owns links, too.
pub(super) fn links_beside(plan: &NodePlan, worker: usize) -> Vec<(LinkId, LinkPlan)> {
    let beside =
        |link: &LinkPlan, at: LinkId| link.worker != worker && workers_on(plan, usize::from(at.0)).contains(&worker);
    let links = (0..).map(LinkId).zip(&plan.links);
    links.filter(|(at, link)| beside(link, *at)).map(|(at, link)| (at, link.clone())).collect()
}

fn mtu_payload(link: &LinkPlan) -> u16 {
    link.mtu.saturating_sub(ip_udp(&link.local))
}

fn link_config(id: LinkId, link: &LinkPlan) -> LinkConfig {
    LinkConfig {
        id,
        name: link.name.as_str().into(),
        mtu_payload: mtu_payload(link),
        overhead_bytes: layer2_overhead(link),
        rate: rate_plan(link),
        delay: Duration::from_nanos(link.delay_ns),
        congestion: match link.congestion {
            CongestionPlan::Contracted => Congestion::Contracted,
            CongestionPlan::Cubic => Congestion::Shared,
            CongestionPlan::Bbr => Congestion::SharedBbr,
        },
        liveness_interval: Duration::from_nanos(link.liveness_interval_ns),
        detect_multiplier: link.detect_multiplier,
        liveness_key: link.liveness_key,
        thresholds: link.degraded,
        admin_up: link.admin_up,
    }
}

fn peer_config(peer: &PeerPlan, id: PeerId) -> Result<PeerConfig, DaemonError> {
    Ok(PeerConfig {
        id,
        name: peer.name.as_str().into(),
        spiffe_id: Arc::from(peer.spiffe_id.as_str()),
        link: LinkId(peer.link),
        out_label: label(peer.out_label)?,
        in_label: label(peer.in_label)?,
        role: if peer.originator { Role::Originator } else { Role::Acceptor },
        quic_mtu: peer.quic_mtu,
        initial_rtt: Duration::from_nanos(peer.initial_rtt_ns),
        path_rate_bps: peer.path_rate_bps,
        return_rate_bps: peer.return_rate_bps,
        weight: peer.weight,
        memory: None,
    })
}

/// All rows of the node: a row's place among them is its name in every worker.
fn transits(plan: &NodePlan) -> Result<Vec<TransitConfig>, DaemonError> {
    let row =
        |row: &TransitPlan| Ok(TransitConfig { a: transit_end(row.a)?, b: transit_end(row.b)?, weight: row.weight });
    plan.transits.iter().map(row).collect()
}

fn transit_end(end: TransitEndPlan) -> Result<TransitEnd, DaemonError> {
    Ok(TransitEnd { link: LinkId(end.link), in_label: label(end.in_label)?, out_label: label(end.out_label)? })
}

fn link_of(plan: &NodePlan, link: u16) -> Result<&LinkPlan, DaemonError> {
    plan.links.get(usize::from(link)).ok_or_else(|| DaemonError::Plan(format!("there is no link number {link}")))
}

fn label(label: u32) -> Result<Label, DaemonError> {
    Label::new(label).ok_or_else(|| DaemonError::Plan(format!("{label} is not an MPLS label")))
}

/// What must hold before anything is started.
pub(super) fn check(plan: &NodePlan) -> Result<(), DaemonError> {
    if plan.workers.is_empty() {
        return Err(DaemonError::Plan("a node needs a worker".into()));
    }
    if let Some(link) = plan.links.iter().find(|link| link.worker >= plan.workers.len()) {
        return Err(DaemonError::Plan(format!("link {}: there is no worker {}", link.name, link.worker)));
    }
    if let Some(peer) = plan.peers.iter().find(|peer| usize::from(peer.link) >= plan.links.len()) {
        return Err(DaemonError::Plan(format!("peer {}: there is no link number {}", peer.name, peer.link)));
    }
    for row in &plan.transits {
        link_of(plan, row.a.link)?;
        link_of(plan, row.b.link)?;
    }
    if let Some(link) = plan.links.iter().find(|link| link.mtu > MAX_MTU) {
        return Err(DaemonError::Plan(format!("link {}: an mtu of {} is above {MAX_MTU}", link.name, link.mtu)));
    }
    transits(plan).map(drop)
}
