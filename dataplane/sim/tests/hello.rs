//! A peer that shows who it is and then says nothing: its connections are closed in bounded time, and counted.

use std::time::Duration;

use florelay_engine::api::PeerState;
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::time::Nanos;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const PEER: PeerId = PeerId(0);
const MINUTE: Duration = Duration::from_secs(60);

fn mute(net: &mut Sim, node: NodeId, mute: bool) {
    net.node(node).mute(mute);
}

fn hello_timeouts(net: &mut Sim, node: NodeId) -> u64 {
    let counters = net.node(node).status().peers[0].counters;
    assert!(counters.session_errors >= counters.hello_timeouts);
    counters.hello_timeouts
}

#[test]
fn a_connection_without_a_hello_is_closed_and_an_honest_one_made_when_the_peer_speaks() {
    for_seeds(0..6, |seed| {
        // Who dials is mute, or who is dialled.
        let silent = if seed % 2 == 0 { A } else { B };
        let spec = LinkSpec::new(Some(1_000_000), Duration::from_millis(5 + seed * 100));
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        mute(&mut net, silent, true);
        let honest = NodeId(1 - silent.0);
        net.run_until(Nanos::ZERO + MINUTE * 10);
        assert!(net.node(honest).status().peers[0].state != PeerState::Connected);
        let handshakes = net.node(honest).status().peers[0].counters.handshakes;
        let closed = hello_timeouts(&mut net, honest);
        // Of control and bulk, each five minutes one at least. Either end counts those that it closes first.
        assert!(closed + hello_timeouts(&mut net, silent) >= 4, "{closed} of {handshakes}");
        mute(&mut net, silent, false);
        let end = net.now() + MINUTE * 5;
        let connected = |net: &mut Sim| net.node(honest).status().peers[0].state == PeerState::Connected;
        assert!(net.run_while(end, |net| !connected(net)), "not connected although both speak");
        // Nobody waits for a hello that was said.
        let before = hello_timeouts(&mut net, honest);
        net.run_until(net.now() + MINUTE * 10);
        assert!(connected(&mut net));
        assert_eq!(hello_timeouts(&mut net, honest), before);
    });
}

#[test]
fn time_in_the_dark_is_no_silence() {
    let spec = LinkSpec::new(Some(1_000_000), Duration::from_millis(200));
    let mut net = Scenario::new(pair(spec)).seed(9).build();
    // The handshake is through, the hello is not.
    let done = net.run_while(Nanos::ZERO + MINUTE, |net| net.node(B).status().peers[0].counters.handshakes < 2);
    assert!(done && net.node(B).status().peers[0].state != PeerState::Connected);
    for node in [A, B] {
        net.command(node, florelay_engine::Command::SetAdmin { link: LinkId(0), up: false });
    }
    net.run_until(net.now() + MINUTE * 60);
    for node in [A, B] {
        net.command(node, florelay_engine::Command::SetAdmin { link: LinkId(0), up: true });
    }
    net.run_until_connected(&[(A, PEER), (B, PEER)], net.now() + MINUTE);
    assert_eq!([A, B].map(|node| hello_timeouts(&mut net, node)), [0, 0]);
    assert_eq!(net.node(B).status().peers[0].counters.handshakes, 2);
}
