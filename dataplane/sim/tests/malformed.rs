//! Frames that nobody should send: real ones damaged at every byte, cut at every length, and random ones, injected at
//! every node while a transfer runs. Engines survive, count what they drop by reason, and the file arrives intact.

use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::TransferId;
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::port::Ecn;
use florelay_engine::time::Nanos;
use florelay_sim::link::Packet;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, line};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const PEER: PeerId = PeerId(0);
const FILE: TransferId = TransferId(3);
const SECOND: u64 = 1_000_000_000;

fn network(seed: u64) -> Sim {
    let spec = LinkSpec::new(Some(20_000_000), Duration::from_millis(5));
    let mut net = Scenario::new(line(&[spec.clone(), spec])).seed(seed).build();
    net.run_until_connected(&[(NodeId(0), PEER), (NodeId(2), PEER)], Nanos(5 * SECOND));
    net
}

/// Every direction of the line, by the node that sends on it.
fn directions() -> [(NodeId, LinkId); 4] {
    [(NodeId(0), LinkId(0)), (NodeId(1), LinkId(0)), (NodeId(1), LinkId(1)), (NodeId(2), LinkId(0))]
}

fn drops(net: &mut Sim) -> u64 {
    let ids: Vec<_> = net.node_ids().collect();
    let reports = ids.into_iter().flat_map(|id| net.node(id).status().links);
    reports.flat_map(|link| link.drops).map(|(_, count)| count).sum()
}

/// One frame in a hundred is followed by damaged copies of itself.
fn damage(rng: &mut SmallRng, packet: &Packet) -> Vec<Packet> {
    let mut out = vec![packet.clone()];
    if rng.random_bool(0.01) {
        let variant = |bytes: Vec<u8>| Packet { bytes: bytes.into(), ..packet.clone() };
        for at in 0..packet.bytes.len().min(80) {
            let mut bytes = packet.bytes.to_vec();
            bytes[at] ^= rng.random_range(1..=255_u8);
            out.push(variant(bytes));
        }
        for len in (0..packet.bytes.len().min(80)).chain([packet.bytes.len() - 1]) {
            out.push(variant(packet.bytes[..len].to_vec()));
        }
        let mut longer = packet.bytes.to_vec();
        longer.extend((0..rng.random_range(1..20)).map(|_| rng.random::<u8>()));
        longer.truncate(1472);
        out.push(variant(longer));
    }
    out
}

#[test]
fn a_transfer_survives_damaged_copies_of_its_own_frames() {
    for_seeds(0..10, |seed| {
        let mut net = network(seed);
        for (i, from) in directions().into_iter().enumerate() {
            let mut rng = SmallRng::seed_from_u64(seed * 10 + i as u64);
            net.meddle(from, Box::new(move |packet| damage(&mut rng, packet)));
        }
        net.send_file(NodeId(0), PEER, FILE, 1 << 20, 5);
        net.send_messages(NodeId(0), PEER, net.now(), Duration::from_millis(50), 300, 20);
        let done = net
            .run_while(Nanos(120 * SECOND), |net| !(net.files_done() && net.gateway(NodeId(0)).senders[0].is_done()));
        assert!(done, "the transfer did not survive: {:#?}", net.node(NodeId(0)).status());
        assert!(drops(&mut net) > 100, "{} drops counted", drops(&mut net));
    });
}

#[test]
fn random_frames_are_counted_and_change_nothing() {
    for_seeds(0..5, |seed| {
        let mut net = network(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let (before, mut injected) = (drops(&mut net), 0);
        for _ in 0..2000 {
            let (id, link) = directions()[rng.random_range(0..4)];
            let bytes: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
            net.inject(id, link, Bytes::from(bytes), Ecn::from_bits(rng.random()));
            injected += 1;
            let next = net.now() + Duration::from_micros(500);
            net.run_until(next);
        }
        // a random label is allocated with a chance near 2^-20: all are dropped, each with a reason
        assert_eq!(drops(&mut net) - before, injected);
        net.send_file(NodeId(0), PEER, FILE, 100_000, 5);
        assert!(net.run_while(Nanos(60 * SECOND), |net| !net.files_done()), "the path does not work any more");
    });
}
