//! More transfers at once than a peer allows stripes to be open (4096): none stops another.

use std::time::Duration;

use florelay_engine::api::TransferId;
use florelay_engine::config::PeerId;
use florelay_engine::time::Nanos;
use florelay_sim::gateway::Pace;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const PEER: PeerId = PeerId(0);
const MANY: u128 = 4_300;

fn connected() -> Sim {
    let mut net = Scenario::new(pair(LinkSpec::new(Some(200_000_000), Duration::from_millis(5)))).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10_000_000_000));
    net
}

#[test]
fn thousands_of_files_take_turns_and_all_arrive() {
    let mut net = connected();
    // Several packets each, one in each turn: no stripe ends before all have begun.
    for id in 0..MANY {
        let command = net.gateway_mut(A).send_file(PEER, TransferId(id), 4_000, 0);
        net.give(A, command);
    }
    let end = net.now() + Duration::from_secs(60);
    assert!(net.run_while(end, |net| !net.files_done()), "at {:?}", net.now());
}

#[test]
fn thousands_of_streams_that_wait_for_their_writers_stop_nothing() {
    let mut net = connected();
    let pace = Pace { bytes: 100, interval: Duration::from_secs(1 << 20) };
    for id in 0..MANY {
        let now = net.now();
        let command = net.gateway_mut(A).send_stream(now, PEER, TransferId(id), 200, pace);
        net.give(A, command);
    }
    let end = net.now() + Duration::from_secs(20);
    let begun = |net: &Sim| {
        net.gateway(B).streams_in.len() as u128 == MANY
            && net.gateway(B).streams_in.values().all(|stream| stream.read_bytes() == 100)
    };
    while !begun(&net) && net.now() < end {
        let next = net.now() + Duration::from_millis(100);
        net.run_until(next);
    }
    assert!(begun(&net), "the streams");
    net.send_file(A, PEER, TransferId(MANY), 1 << 20, 0);
    let end = net.now() + Duration::from_secs(10);
    let arrives = |net: &Sim| net.gateway(A).sources[&TransferId(MANY)].result().is_some();
    assert!(net.run_while(end, |net| !arrives(net)), "a file beside them");
}

#[test]
fn a_strict_file_does_not_wait_for_the_stripes_of_thousands() {
    let mut net = connected();
    // All stripes that the peer allows are bulk's, and the first of them ends after 20 s.
    for id in 0..MANY {
        let command = net.gateway_mut(A).send_file(PEER, TransferId(id), 300_000, 0);
        net.give(A, command);
    }
    let next = net.now() + Duration::from_secs(3);
    net.run_until(next);
    net.send_file(A, PEER, TransferId(MANY), 10_000, 64);
    let end = net.now() + Duration::from_secs(1);
    let arrives = |net: &Sim| net.gateway(A).sources[&TransferId(MANY)].result().is_some();
    assert!(net.run_while(end, |net| !arrives(net)), "at {:?}", net.now());
}

#[test]
fn a_large_file_has_its_share_beside_thousands_of_small_ones() {
    const SMALL: u128 = 3_000;
    let mut net = connected();
    net.send_file(A, PEER, TransferId(SMALL), 5_000_000, 0);
    for id in 0..SMALL {
        let command = net.gateway_mut(A).send_file(PEER, TransferId(id), 30_000, 0);
        net.give(A, command);
    }
    let small = |net: &Sim| {
        let sinks = net.gateway(B).sinks.iter().filter(|(id, _)| id.0 < SMALL);
        sinks.map(|(_, sink)| sink.received_bytes()).sum::<u64>() / SMALL as u64
    };
    let end = net.now() + Duration::from_secs(30);
    while small(&net) < 15_000 && net.now() < end {
        let next = net.now() + Duration::from_millis(100);
        net.run_until(next);
    }
    // Half of each small one, and as much of the large one, but for what it got before the others had begun.
    let large = net.gateway(B).sinks[&TransferId(SMALL)].received_bytes();
    assert!((10_000..200_000).contains(&large), "{large} bytes of the large one, {} of each small one", small(&net));
    assert!(net.run_while(end, |net| !net.files_done()), "at {:?}", net.now());
}
