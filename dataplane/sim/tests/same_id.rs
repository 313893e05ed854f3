//! Two peers that use one transfer id: the receiver keeps the first and refuses the other by name.

use std::time::Duration;

use florelay_engine::api::TransferId;
use florelay_engine::config::PeerId;
use florelay_engine::time::Nanos;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::Scenario;
use florelay_sim::topo::{LinkSpec, Topology};

const SECOND: u64 = 1_000_000_000;
const PEER: PeerId = PeerId(0);
const ID: TransferId = TransferId(7);
const SIZE: u64 = 1 << 20;

fn spec() -> LinkSpec {
    LinkSpec::new(Some(10_000_000), Duration::from_millis(5))
}

#[test]
fn the_first_peer_keeps_an_id_and_the_second_is_refused_by_name() {
    let mut topology = Topology::new();
    for name in ["a", "b", "c"] {
        topology.node(name);
    }
    for sender in [1, 2] {
        let wire = topology.link(0, sender, spec());
        topology.path(sender, &[wire], 100);
    }
    let (a, b, c) = (NodeId(0), NodeId(1), NodeId(2));
    let mut net = Scenario::new(topology).seed(3).build();
    net.run_until_connected(&[(a, PeerId(0)), (a, PeerId(1)), (b, PEER), (c, PEER)], Nanos(5 * SECOND));
    net.send_file(b, PEER, ID, SIZE, 0);
    net.run_until(net.now() + Duration::from_millis(200));
    net.send_file(c, PEER, ID, SIZE, 0);
    let ended = net.run_while(Nanos(30 * SECOND), |net| {
        [b, c].iter().any(|&node| net.gateway(node).sources[&ID].result().is_none())
    });
    assert!(ended, "one of the two transfers stalls");
    assert_eq!(net.gateway(b).sources[&ID].result(), Some(&Ok(())));
    let refused = net.gateway(c).sources[&ID].result().and_then(|result| result.as_ref().err());
    assert!(refused.is_some_and(|failure| failure.reason.contains("another peer")), "{refused:?}");
    assert_eq!(net.gateway(a).sinks[&ID].written_bytes(), SIZE);
}

#[test]
fn an_id_that_comes_in_cannot_be_sent_back_and_what_comes_in_arrives() {
    let mut topology = Topology::new();
    for name in ["a", "b"] {
        topology.node(name);
    }
    let wire = topology.link(0, 1, spec());
    topology.path(1, &[wire], 100);
    let (a, b) = (NodeId(0), NodeId(1));
    let mut net = Scenario::new(topology).seed(4).build();
    net.run_until_connected(&[(a, PEER), (b, PEER)], Nanos(5 * SECOND));
    net.send_file(b, PEER, ID, SIZE, 0);
    net.run_until(net.now() + Duration::from_millis(200));
    assert!(net.gateway(a).sinks[&ID].written_bytes() < SIZE);
    net.send_file(a, PEER, ID, SIZE, 0);
    net.run_until(net.now() + Duration::from_millis(1));
    let refused = net.gateway_mut(a).sources.remove(&ID).and_then(|source| source.result().cloned());
    assert!(matches!(&refused, Some(Err(failure)) if failure.reason.contains("the other way")), "{refused:?}");
    let ended = net.run_while(Nanos(30 * SECOND), |net| net.gateway(b).sources[&ID].result().is_none());
    assert!(ended && net.files_done(), "{:?}", net.gateway(b).sources[&ID].result());
}
