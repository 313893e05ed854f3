//! Topologies: nodes, links and label-switched paths between them, compiled to one `EngineConfig` per node.
//!
//! Labels are allocated from 16, per link and receiving node, in the order in which paths are added; so a topology
//! that is built twice is the same twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use florelay_engine::config::{
    Congestion, EngineConfig, ForeignLink, Limits, LinkConfig, LinkId, PeerConfig, PeerCrypto, PeerId, RatePlan, Role,
    Thresholds, TransitConfig, TransitEnd,
};
use florelay_engine::time::Nanos;
use florelay_wire::mpls::Label;

use crate::crypto::{Identity, SimClientConfig, SimServerConfig};
use crate::link::LinkModel;
use crate::ring::RingModel;

/// Ethernet without FCS, IPv4, UDP.
const OVERHEAD_BYTES: u16 = 14 + 20 + 8;
/// Ethernet's MTU less IPv4 and UDP headers.
const MTU_PAYLOAD: u16 = 1500 - 28;
/// Two label stack entries and the control word, in front of each QUIC packet.
const SHIM_BYTES: u16 = 12;
/// Rate of interfaces: far above the links in front of them.
const INTERFACE_BPS: u64 = 1_000_000_000;

/// One link, both directions.
#[derive(Debug, Clone)]
pub struct LinkSpec {
    /// Largest link payload in bytes.
    pub mtu_payload: u16,
    /// Plan of the first node's egress.
    pub rate_a: RatePlan,
    /// Plan of the second node's egress.
    pub rate_b: RatePlan,
    /// Congestion control of connections that start on it.
    pub congestion: Congestion,
    /// Liveness transmit interval.
    pub liveness_interval: Duration,
    /// Silent intervals until the link is down.
    pub detect_multiplier: u8,
    /// From the first node to the second.
    pub model_ab: LinkModel,
    /// From the second node to the first.
    pub model_ba: LinkModel,
}

impl LinkSpec {
    /// A clean link with the same cap (bits per second at layer 2; `None` = none) and delay both ways, a burst of four
    /// full frames, contracted, liveness every 100 ms.
    #[must_use]
    pub fn new(rate_bps: Option<u64>, delay: Duration) -> Self {
        let plan =
            RatePlan { rate_bps, burst_bytes: 4 * u32::from(MTU_PAYLOAD + OVERHEAD_BYTES), control_percent: 100 };
        Self {
            mtu_payload: MTU_PAYLOAD,
            rate_a: plan,
            rate_b: plan,
            congestion: Congestion::Contracted,
            liveness_interval: Duration::from_millis(100),
            detect_multiplier: 3,
            model_ab: LinkModel::with_delay(delay),
            model_ba: LinkModel::with_delay(delay),
        }
    }

    /// The same with both directions changed by `change`.
    #[must_use]
    pub fn both(mut self, change: impl Fn(LinkModel) -> LinkModel) -> Self {
        self.model_ab = change(self.model_ab);
        self.model_ba = change(self.model_ba);
        self
    }

    /// The same, dark both ways in `[start, end)`.
    #[must_use]
    pub fn dark(self, start: Nanos, end: Nanos) -> Self {
        self.both(|model| model.outage(start, end))
    }

    /// The same with a burst of this many bytes at both ends.
    #[must_use]
    pub fn burst(mut self, burst_bytes: u32) -> Self {
        self.rate_a.burst_bytes = burst_bytes;
        self.rate_b.burst_bytes = burst_bytes;
        self
    }

    /// Bytes at layer 2 of the largest frame.
    #[must_use]
    pub fn full_frame_bytes(&self) -> u32 {
        u32::from(self.mtu_payload) + u32::from(OVERHEAD_BYTES)
    }
}

/// A link between two nodes of a topology, by index.
#[derive(Debug, Clone)]
pub struct Wire {
    /// First node.
    pub a: usize,
    /// Its name for the link.
    pub a_link: LinkId,
    /// Second node.
    pub b: usize,
    /// Its name for the link.
    pub b_link: LinkId,
    /// How it is.
    pub spec: LinkSpec,
}

/// Nodes, links and paths; indices are handed out in order from 0.
#[derive(Clone)]
pub struct Topology {
    configs: Vec<EngineConfig>,
    wires: Vec<Wire>,
    interface_bps: u64,
    /// Next label of each receiving node on each wire: `[at a, at b]`.
    next_label: Vec<[u32; 2]>,
    /// Nodes of several workers: the worker of each link.
    owners: BTreeMap<usize, Vec<usize>>,
    /// How the rings between workers are.
    pub ring: RingModel,
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

impl Topology {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            configs: Vec::new(),
            wires: Vec::new(),
            interface_bps: INTERFACE_BPS,
            next_label: Vec::new(),
            owners: BTreeMap::new(),
            ring: RingModel::default(),
        }
    }

    /// Every interface serialises at this rate, in bits per second, instead of 1 Gbit/s.
    pub fn set_interface_bps(&mut self, interface_bps: u64) {
        self.interface_bps = interface_bps;
    }

    /// Add a node; the answer is its index.
    pub fn node(&mut self, name: &str) -> usize {
        let index = self.configs.len();
        let secret = |what: &str| blake3::derive_key(what, name.as_bytes());
        self.configs.push(EngineConfig {
            node: name.into(),
            snapshot: 1,
            worker: 0,
            // different at every node: a frame with one's own boot id is a reflection
            boot_id: (index as u64 + 1) << 32,
            links: Vec::new(),
            foreign_links: Vec::new(),
            peers: Vec::new(),
            transits: Vec::new(),
            reset_key: secret("florelay-sim reset key"),
            seed: secret("florelay-sim seed"),
            limits: Limits::default(),
        });
        index
    }

    /// Join two nodes; the answer is the wire's index.
    pub fn link(&mut self, a: usize, b: usize, spec: LinkSpec) -> usize {
        let index = self.wires.len();
        let a_link = self.add_link_config(a, index, &spec, spec.rate_a, spec.model_ab.delay);
        let b_link = self.add_link_config(b, index, &spec, spec.rate_b, spec.model_ba.delay);
        self.wires.push(Wire { a, a_link, b, b_link, spec });
        self.next_label.push([Label::FIRST_UNRESERVED; 2]);
        index
    }

    /// A label-switched path that starts at node `from` and follows `wires`; the far end accepts. The answer is the
    /// peer's id at each end.
    pub fn path(&mut self, from: usize, wires: &[usize], weight: u16) -> (PeerId, PeerId) {
        // Per hop: (near node, near end, far node, far end), each end as (link, in label, out label).
        let mut hops = Vec::new();
        let mut at = from;
        for &index in wires {
            let (wire, labels) = (&self.wires[index], &mut self.next_label[index]);
            let [at_a, at_b] = *labels;
            labels[0] += 1;
            labels[1] += 1;
            let a = TransitEnd { link: wire.a_link, in_label: label(at_a), out_label: label(at_b) };
            let b = TransitEnd { link: wire.b_link, in_label: label(at_b), out_label: label(at_a) };
            let hop = if wire.a == at { (wire.a, a, wire.b, b) } else { (wire.b, b, wire.a, a) };
            assert_eq!(hop.0, at, "wire {index} does not continue the path");
            at = hop.2;
            hops.push(hop);
        }
        for pair in hops.windows(2) {
            let ((_, _, node, a), (_, b, _, _)) = (pair[0], pair[1]);
            self.configs[node].transits.push(TransitConfig { a, b, weight });
        }
        let (first, last) = (hops[0], hops[hops.len() - 1]);
        let slowest = |rates: Vec<Option<u64>>| rates.into_iter().flatten().min();
        let rate_of =
            |wire: &Wire, node| if wire.a == node { wire.spec.rate_a.rate_bps } else { wire.spec.rate_b.rate_bps };
        let pairs = || hops.iter().zip(wires).map(|(hop, &index)| (hop, &self.wires[index]));
        let there = slowest(pairs().map(|(hop, wire)| rate_of(wire, hop.0)).collect());
        let back = slowest(pairs().map(|(hop, wire)| rate_of(wire, hop.2)).collect());
        let near = self.add_peer([from, at], first.1, Role::Originator, wires, [there, back], weight);
        let far = self.add_peer([at, from], last.3, Role::Acceptor, wires, [back, there], weight);
        (near, far)
    }

    /// Let a node run several workers: link i belongs to worker `owners[i]`, numbered from 0 without gaps. Links and paths
    /// are to be there already.
    pub fn split(&mut self, node: usize, owners: &[usize]) {
        assert_eq!(owners.len(), self.configs[node].links.len(), "an owner for each link");
        self.owners.insert(node, owners.to_vec());
    }

    /// What the engines of a node start with, one for each worker.
    #[must_use]
    pub fn worker_configs(&self, node: usize) -> Vec<EngineConfig> {
        let config = &self.configs[node];
        let Some(owners) = self.owners.get(&node) else { return vec![config.clone()] };
        let workers = owners.iter().max().map_or(1, |most| most + 1);
        let worker = |worker: usize| {
            let foreign =
                |link: &LinkConfig| ForeignLink { id: link.id, name: link.name.clone(), mtu_payload: link.mtu_payload };
            let owned = |link: &&LinkConfig| owners[usize::from(link.id.0)] == worker;
            EngineConfig {
                worker: worker as u8,
                links: config.links.iter().filter(owned).cloned().collect(),
                foreign_links: config.links.iter().filter(|link| !owned(link)).map(foreign).collect(),
                ..config.clone()
            }
        };
        (0..workers).map(worker).collect()
    }

    /// The worker of a node's link.
    pub(crate) fn owner(&self, node: usize, link: LinkId) -> usize {
        self.owners.get(&node).map_or(0, |owners| owners[usize::from(link.0)])
    }

    /// What a node starts with, its workers taken together.
    #[must_use]
    pub fn config(&self, node: usize) -> &EngineConfig {
        &self.configs[node]
    }

    /// The same, to be changed.
    pub fn config_mut(&mut self, node: usize) -> &mut EngineConfig {
        &mut self.configs[node]
    }

    /// All nodes.
    #[must_use]
    pub fn configs(&self) -> &[EngineConfig] {
        &self.configs
    }

    /// All links.
    #[must_use]
    pub fn wires(&self) -> &[Wire] {
        &self.wires
    }

    /// Rate of every interface in bits per second.
    #[must_use]
    pub fn interface_bps(&self) -> u64 {
        self.interface_bps
    }

    fn add_link_config(
        &mut self,
        node: usize,
        wire: usize,
        spec: &LinkSpec,
        rate: RatePlan,
        delay: Duration,
    ) -> LinkId {
        let links = &mut self.configs[node].links;
        let id = LinkId(links.len() as u16);
        links.push(LinkConfig {
            id,
            name: format!("wire-{wire}").into(),
            mtu_payload: spec.mtu_payload,
            overhead_bytes: OVERHEAD_BYTES,
            rate,
            delay,
            congestion: spec.congestion,
            liveness_interval: spec.liveness_interval,
            detect_multiplier: spec.detect_multiplier,
            liveness_key: blake3::derive_key("florelay-sim liveness", &wire.to_le_bytes()),
            thresholds: Thresholds::default(),
            admin_up: true,
        });
        id
    }

    fn add_peer(
        &mut self,
        [node, peer]: [usize; 2],
        end: TransitEnd,
        role: Role,
        wires: &[usize],
        [path_rate_bps, return_rate_bps]: [Option<u64>; 2],
        weight: u16,
    ) -> PeerId {
        let specs = || wires.iter().map(|&index| &self.wires[index].spec);
        let mtu = specs().map(|spec| spec.mtu_payload).min().unwrap_or(MTU_PAYLOAD);
        let rtt: Duration = specs().map(|spec| spec.model_ab.delay + spec.model_ba.delay).sum();
        let (own_uri, peer_uri) = (spiffe(&self.configs[node].node), spiffe(&self.configs[peer].node));
        let identity = Identity::new(&own_uri, &peer_uri);
        let id = PeerId(self.configs[node].peers.len() as u16);
        let config = PeerConfig {
            id,
            name: self.configs[peer].node.clone(),
            spiffe_id: peer_uri.into(),
            link: end.link,
            out_label: end.out_label,
            in_label: end.in_label,
            role,
            quic_mtu: mtu - SHIM_BYTES,
            initial_rtt: rtt.max(Duration::from_millis(1)),
            path_rate_bps,
            return_rate_bps,
            weight,
            memory: None,
        };
        let crypto = PeerCrypto {
            client: Arc::new(SimClientConfig(identity.clone())),
            server: Arc::new(SimServerConfig(identity)),
        };
        self.configs[node].peers.push((config, crypto));
        id
    }
}

/// Two nodes, one link, one path: nodes 0 (`a`, which dials) and 1 (`b`).
#[must_use]
pub fn pair(spec: LinkSpec) -> Topology {
    line(&[spec])
}

/// A line of nodes `a`, `relay-1` …, `b` over these links, with one path from end to end; the first node dials.
#[must_use]
pub fn line(links: &[LinkSpec]) -> Topology {
    let mut topology = Topology::new();
    topology.node("a");
    for (i, spec) in links.iter().enumerate() {
        let name = if i + 1 == links.len() { "b".to_owned() } else { format!("relay-{}", i + 1) };
        let next = topology.node(&name);
        topology.link(i, next, spec.clone());
    }
    let wires: Vec<usize> = (0..links.len()).collect();
    topology.path(0, &wires, 100);
    topology
}

fn label(number: u32) -> Label {
    Label::new(number).expect("fewer than 2^20 paths on a link")
}

fn spiffe(node: &str) -> String {
    format!("spiffe://sim.example/node/{node}")
}

/// A link for tests of parts that need a configuration only.
#[cfg(test)]
pub(crate) fn test_link(id: u16, rate_bps: u64, burst_bytes: u32) -> LinkConfig {
    let mut topology = pair(LinkSpec::new(Some(rate_bps), Duration::ZERO).burst(burst_bytes));
    let mut link = topology.config_mut(0).links.remove(0);
    link.id = LinkId(id);
    link.overhead_bytes = 46;
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_line_fit_together() {
        let spec = LinkSpec::new(Some(10_000_000), Duration::from_millis(10));
        let mut topology = line(&[spec.clone(), spec.clone(), spec]);
        // a second path over the middle link only, against the direction of the first
        topology.path(2, &[1], 50);

        // follow the forward label from a to b, and the backward label with it
        let (peer, _) = &topology.config(0).peers[0];
        let (mut forward, mut backward) = (peer.out_label, peer.in_label);
        for relay in [1, 2] {
            let row = &topology.config(relay).transits[0];
            assert_eq!((row.a.in_label, row.a.out_label), (forward, backward), "relay {relay}");
            (forward, backward) = (row.b.out_label, row.b.in_label);
        }
        let (far, _) = &topology.config(3).peers[0];
        assert_eq!((far.in_label, far.out_label), (forward, backward));
        assert_eq!((peer.role, far.role), (Role::Originator, Role::Acceptor));
        assert_eq!((peer.quic_mtu, peer.initial_rtt), (1460, Duration::from_millis(60)));

        let (second, _) = &topology.config(2).peers[0];
        let (other_end, _) = &topology.config(1).peers[0];
        assert_eq!((second.out_label, second.in_label), (other_end.in_label, other_end.out_label));
        assert_ne!(second.out_label, topology.config(1).transits[0].b.in_label, "two rows, one label");
    }
}
