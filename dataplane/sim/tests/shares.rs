//! How a full link is divided, over 60 s of virtual time: by weight among peers, transfers and transit LSPs, commands first
//! and within their policer, at the sender's link and at a relay's in the middle.
//!
//! ```text
//!   local      a ══ bottleneck ══ r ── b0, b1, b2
//!   transit    a0, a1, a2 ── r1 ══ bottleneck ══ r2 ── b0, b1, b2
//! ```
//!
//! What passes the bottleneck is counted where it arrives, by label and class.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use florelay_engine::api::TransferId;
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::egress::EgressDrop;
use florelay_engine::time::Nanos;
use florelay_sim::net::{Egress, NodeId};
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, Topology, pair};

const RATE_BPS: u64 = 20_000_000;
const WIDE_BPS: u64 = 200_000_000;
const DELAY: Duration = Duration::from_millis(20);
const WEIGHTS: [u16; 3] = [100, 200, 400];
/// Windows are open and every queue has what it will have.
const WARM: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(60);
const FIRST_LABEL: u32 = 16;
const LIMIT: Nanos = Nanos(10_000_000_000);
/// The commands' part of the rate where it is less than all.
const POLICER_PERCENT: u8 = 20;

/// Where flows meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// At the link of the node that sends all three.
    Local,
    /// At a relay that only passes them on.
    Transit,
}

/// Bytes at layer 2 that arrived over the bottleneck, by path and whether they are bulk.
type Counted = Rc<RefCell<[[u64; 2]; 3]>>;

struct Bed {
    net: Sim,
    senders: [(NodeId, PeerId); 3],
    receivers: [NodeId; 3],
    bottleneck: Egress,
    counted: Counted,
}

fn bed(place: Where, bottleneck: LinkSpec, weights: [u16; 3], seed: u64) -> Bed {
    let wide = LinkSpec::new(Some(WIDE_BPS), Duration::from_millis(1));
    let mut topology = Topology::new();
    let first = if place == Where::Local { 1 } else { 4 };
    let nodes = first + 4;
    for index in 0..nodes {
        topology.node(&format!("node-{index}"));
    }
    let into: Vec<usize> = match place {
        Where::Local => Vec::new(),
        Where::Transit => (0..3).map(|n| topology.link(n, 3, wide.clone())).collect(),
    };
    let middle = topology.link(first - 1, first, bottleneck);
    let out: Vec<usize> = (0..3).map(|n| topology.link(first, first + 1 + n, wide.clone())).collect();
    let senders = [0, 1, 2].map(|n| {
        let from = if place == Where::Local { 0 } else { n };
        let wires: Vec<usize> = into.get(n).copied().into_iter().chain([middle, out[n]]).collect();
        (NodeId(from), topology.path(from, &wires, weights[n]).0)
    });
    let receivers = [0, 1, 2].map(|n| NodeId(first + 1 + n));
    let bottleneck = (NodeId(first - 1), LinkId(into.len() as u16));
    let mut net = Scenario::new(topology).seed(seed).frames(32 << 10).build();
    let ends: Vec<_> = senders.into_iter().chain(receivers.map(|node| (node, PeerId(0)))).collect();
    net.run_until_connected(&ends, LIMIT);
    let counted = count(&mut net, bottleneck);
    Bed { net, senders, receivers, bottleneck, counted }
}

fn count(net: &mut Sim, bottleneck: Egress) -> Counted {
    let counted = Counted::default();
    let counts = counted.clone();
    net.meddle(
        bottleneck,
        Box::new(move |packet| {
            let lse = packet.bytes.first_chunk().map_or(0, |lse| u32::from_be_bytes(*lse));
            // RFC 3032: label, TC, S, TTL. Control and OAM have TC 6 and 7.
            let (label, tc) = (lse >> 12, lse >> 9 & 7);
            let path = label.checked_sub(FIRST_LABEL).unwrap_or(u32::MAX) as usize;
            if let Some(path) = counts.borrow_mut().get_mut(path) {
                path[usize::from(tc < 6)] += u64::from(packet.l2_bytes);
            }
            vec![packet.clone()]
        }),
    );
    counted
}

impl Bed {
    fn send(&mut self, path: usize, bytes: u64) {
        let (node, peer) = self.senders[path];
        self.net.send_file(node, peer, file(path), bytes, 10);
    }

    /// What arrived over the bottleneck meanwhile.
    fn run(&mut self, time: Duration) -> [[u64; 2]; 3] {
        *self.counted.borrow_mut() = Default::default();
        self.net.run_until(self.net.now() + time);
        *self.counted.borrow()
    }

    fn drops(&mut self, reason: EgressDrop) -> u64 {
        let (node, link) = self.bottleneck;
        self.net.node(node).status().links[usize::from(link.0)].egress.drops[reason.index()]
    }
}

fn file(path: usize) -> TransferId {
    TransferId(0x100 + path as u128)
}

/// More than a share of the link carries in all the time of a test.
fn more_than(share: f64) -> u64 {
    (RATE_BPS as f64 / 8.0 * (WARM + MEASURED).as_secs_f64() * share * 1.02) as u64 + 2_000_000
}

/// Each share is within 1 % of its weight's, and so is Jain's index of what each unit of weight got (Jain, Chiu, Hawe 1984).
fn assert_shares(got: [u64; 3], weights: [u16; 3]) {
    let (total, all) = (got.iter().sum::<u64>() as f64, weights.iter().sum::<u16>());
    for (bytes, weight) in got.into_iter().zip(weights) {
        let error = bytes as f64 / total / (f64::from(weight) / f64::from(all)) - 1.0;
        assert!(error.abs() < 0.01, "{got:?} by {weights:?}: {:+.2} %", error * 100.0);
    }
    let unit: Vec<f64> = got.into_iter().zip(weights).map(|(bytes, weight)| bytes as f64 / f64::from(weight)).collect();
    let (sum, squares) = (unit.iter().sum::<f64>(), unit.iter().map(|x| x * x).sum::<f64>());
    let jain = sum * sum / (3.0 * squares);
    assert!(jain > 0.99, "Jain's index {jain}");
    println!("shares {got:?} by {weights:?}: Jain's index {jain:.6}");
}

fn weighted(place: Where, loss: f64, weights: [u16; 3], seed: u64) {
    let spec = LinkSpec::new(Some(RATE_BPS), DELAY).both(|model| model.loss(loss));
    let mut bed = bed(place, spec, weights, seed);
    let all = f64::from(weights.iter().sum::<u16>());
    for (path, weight) in weights.into_iter().enumerate() {
        bed.send(path, more_than(f64::from(weight) / all));
    }
    bed.net.run_until(bed.net.now() + WARM);
    let from = bed.net.now();
    let arrived = bed.run(MEASURED).map(|[_, bulk]| bulk);
    assert_shares(arrived, weights);
    // The whole link, but for what was lost on it and what its own OAM took.
    let carried = arrived.iter().sum::<u64>() as f64 / (RATE_BPS as f64 / 8.0 * MEASURED.as_secs_f64());
    assert!((carried / (1.0 - loss) - 1.0).abs() < 0.01, "{carried} of the link");
    if loss == 0.0 {
        // The same as the receivers see it. With loss, bytes in order come in lumps.
        let to = bed.net.now();
        let written = [0, 1, 2].map(|path| {
            let sink = &bed.net.gateway(bed.receivers[path]).sinks[&file(path)];
            sink.received_between(from, to)
        });
        assert_shares(written, weights);
    }
    let dropped: u64 = EgressDrop::ALL.into_iter().map(|reason| bed.drops(reason)).sum();
    assert_eq!(dropped, 0, "local flows are pulled and transit flows have room for their windows");
}

#[test]
fn connections_of_three_peers_share_one_to_two_to_four() {
    for_seeds(0..2, |seed| weighted(Where::Local, 0.0, WEIGHTS, seed));
}

#[test]
fn connections_of_three_peers_share_by_weight_under_loss() {
    for_seeds(0..2, |seed| weighted(Where::Local, 0.05, WEIGHTS, seed));
}

#[test]
fn equal_weights_share_equally() {
    for_seeds(0..2, |seed| weighted(Where::Local, 0.0, [100; 3], seed));
}

#[test]
fn transit_lsps_of_a_relay_share_one_to_two_to_four() {
    for_seeds(0..2, |seed| weighted(Where::Transit, 0.0, WEIGHTS, seed));
}

#[test]
fn transit_lsps_of_a_relay_share_by_weight_under_loss() {
    for_seeds(0..2, |seed| weighted(Where::Transit, 0.05, WEIGHTS, seed));
}

/// Two nodes, one connection; transfers with these priorities.
fn transfers(priorities: &[u8], bytes: impl Fn(usize) -> u64, loss: f64, seed: u64) -> Sim {
    let spec = LinkSpec::new(Some(RATE_BPS), DELAY).both(|model| model.loss(loss));
    let mut net = Scenario::new(pair(spec)).seed(seed).frames(32 << 10).build();
    net.run_until_connected(&[(NodeId(0), PeerId(0)), (NodeId(1), PeerId(0))], LIMIT);
    for (n, &priority) in priorities.iter().enumerate() {
        net.send_file(NodeId(0), PeerId(0), file(n), bytes(n), priority);
    }
    net
}

fn received(net: &Sim, n: usize, from: Nanos, to: Nanos) -> u64 {
    net.gateway(NodeId(1)).sinks[&file(n)].received_between(from, to)
}

#[test]
fn transfers_of_a_connection_share_by_priority() {
    // The weight is the priority and one.
    for_seeds(0..4, |seed| {
        let loss = [0.0, 0.05][seed as usize % 2];
        let weights = [1, 2, 4];
        let share = |n: usize| more_than(f64::from(weights[n]) / 7.0);
        let mut net = transfers(&[0, 1, 3], share, loss, seed);
        net.run_until(net.now() + WARM);
        let from = net.now();
        net.run_until(from + MEASURED);
        assert_shares([0, 1, 2].map(|n| received(&net, n, from, net.now())), weights);
    });
}

#[test]
fn a_strict_transfer_leaves_nothing_to_others_until_it_is_through() {
    for_seeds(0..4, |seed| {
        // 64 is strict; among the strict 65 counts twice. 63 is not strict, however much it weighs.
        let mut net = transfers(&[63, 64, 65], |n| if n == 0 { 60_000_000 } else { 20_000_000 }, 0.0, seed);
        net.run_until(net.now() + Duration::from_secs(1));
        let from = net.now();
        net.run_while(from + MEASURED, |net| net.gateway(NodeId(1)).sinks[&file(2)].result().is_none());
        let to = net.now();
        let got = [0, 1, 2].map(|n| received(&net, n, from, to) as f64);
        assert!((got[2] / got[1] - 2.0).abs() < 0.05, "{got:?}");
        assert!(got[0] < (got[1] + got[2]) * 0.01, "{got:?}");
        net.run_while(to + MEASURED, |net| net.gateway(NodeId(1)).sinks[&file(1)].result().is_none());
        let (from, to) = (net.now(), net.now() + Duration::from_secs(5));
        net.run_until(to);
        let rest = received(&net, 0, from, to) as f64;
        assert!(rest > RATE_BPS as f64 / 8.0 * 5.0 * 0.9, "{rest} bytes of the one that was left");
    });
}

/// A runaway commander on path 0, a calm one on path 1, bulk on path 2.
fn runaway(place: Where, seed: u64) {
    let mut spec = LinkSpec::new(Some(RATE_BPS), DELAY);
    spec.rate_a.control_percent = POLICER_PERCENT;
    let mut bed = bed(place, spec, [100; 3], seed);
    bed.send(2, more_than(0.8));
    bed.net.run_until(bed.net.now() + WARM);
    let start = bed.net.now();
    let (node, peer) = bed.senders[0];
    // 8 Mbit/s as datagrams, and as much again as copies.
    bed.net.send_messages(node, peer, start, Duration::from_millis(1), 1000, 60_000);
    let (node, peer) = bed.senders[1];
    bed.net.send_messages(node, peer, start, Duration::from_millis(101), 200, 590);
    let [[flood, _], [calm, _], [_, bulk]] = bed.run(MEASURED);
    let part = |bytes: u64| bytes as f64 / (RATE_BPS as f64 / 8.0 * MEASURED.as_secs_f64());
    let policer = f64::from(POLICER_PERCENT) / 100.0;
    assert!(part(flood + calm) <= policer * 1.001, "commands have {} of the link", part(flood + calm));
    assert!(part(flood) > policer * 0.95, "the commander does not run away: {}", part(flood));
    // Its own OAM takes 0.1 %.
    assert!(part(bulk) > (1.0 - policer) * 0.99, "bulk has {}", part(bulk));
    let inbox = &bed.net.gateway(bed.receivers[1]).inbox;
    assert_eq!(inbox.latencies().len(), 590, "commands of others pass");
    // Behind one frame of the other commander at the policer's rate, another that is staged, and bulk in the ring.
    let frame = Duration::from_nanos(1514 * 8_000_000_000 / RATE_BPS);
    let most = DELAY + Duration::from_millis(3) + 2 * frame * 100 / u32::from(POLICER_PERCENT) + 2 * frame;
    assert!(inbox.percentile(1.0) <= Some(most), "{:?} > {most:?}", inbox.percentile(1.0));
    println!(
        "{place:?}: bulk {:.4}, commands {:.4}, the calm one's {:?}",
        part(bulk),
        part(flood + calm),
        inbox.percentile(1.0)
    );
}

#[test]
fn a_runaway_commander_starves_nothing_at_the_senders_link() {
    for_seeds(0..2, |seed| runaway(Where::Local, seed));
}

#[test]
fn a_runaway_commander_starves_nothing_at_a_relay() {
    for_seeds(0..2, |seed| runaway(Where::Transit, seed));
}

#[test]
fn a_relay_honours_the_class_of_full_transit_lsps() {
    for_seeds(0..4, |seed| {
        let mut bed = bed(Where::Transit, LinkSpec::new(Some(RATE_BPS), DELAY), [100; 3], seed);
        for path in 0..3 {
            bed.send(path, 30_000_000);
        }
        bed.net.run_until(bed.net.now() + WARM);
        let start = bed.net.now();
        for path in 0..3 {
            let (node, peer) = bed.senders[path];
            bed.net.send_messages(node, peer, start, Duration::from_millis(97 + path as u64), 200, 100);
        }
        bed.net.run_until(start + Duration::from_secs(12));
        // Three commands at once, and two frames of bulk in the ring; bulk itself waits behind windows of it.
        let frame = Duration::from_nanos(1514 * 8_000_000_000 / RATE_BPS);
        let most = DELAY + Duration::from_millis(3) + 5 * frame;
        for receiver in bed.receivers {
            let inbox = &bed.net.gateway(receiver).inbox;
            assert_eq!(inbox.latencies().len(), 100);
            assert!(inbox.percentile(1.0) <= Some(most), "{:?} > {most:?}", inbox.percentile(1.0));
        }
    });
}

#[test]
fn a_transit_flow_beyond_its_limit_is_dropped_and_counted_alone() {
    for_seeds(0..3, |seed| {
        // The relay was told less than what the ends send: windows no longer fit the narrow link's queues, and the way is
        // so long that they have been sent before the first mark comes back.
        let delay = Duration::from_millis(300);
        let mut spec = LinkSpec::new(Some(RATE_BPS), delay);
        spec.rate_a.rate_bps = Some(WIDE_BPS);
        let mut bed = bed(Where::Transit, spec, WEIGHTS, seed);
        let (node, link) = bed.bottleneck;
        let narrow = LinkSpec::new(Some(RATE_BPS), delay).rate_a;
        bed.net.set_rate(node, link, narrow);
        bed.send(0, 60_000_000);
        bed.net.run_until(bed.net.now() + WARM);
        let full = bed.drops(EgressDrop::FlowFull);
        assert!(full > 0, "nothing was dropped");
        // A second path, which its window does not fill: nothing of it is dropped, and it has its part.
        let (node, peer) = bed.senders[1];
        bed.net.send_messages(node, peer, bed.net.now(), Duration::from_millis(50), 200, 40);
        bed.net.run_until(bed.net.now() + WARM);
        assert_eq!(bed.net.gateway(bed.receivers[1]).inbox.latencies().len(), 40);
        for reason in EgressDrop::ALL.into_iter().filter(|reason| *reason != EgressDrop::FlowFull) {
            assert_eq!(bed.drops(reason), 0, "{}", reason.name());
        }
        let sender = bed.net.node(NodeId(0)).status().links[0].egress.drops;
        assert_eq!(sender.iter().sum::<u64>(), 0, "a local flow is never dropped");
    });
}
