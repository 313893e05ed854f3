//! A pair that has nothing to say keeps its connections.

use std::time::Duration;

use florelay_engine::api::PeerState;
use florelay_engine::config::PeerId;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const PEER: PeerId = PeerId(0);
const HOUR: Duration = Duration::from_secs(3600);

fn handshakes(net: &mut Sim) -> [u64; 2] {
    [A, B].map(|node| net.node(node).status().peers[0].counters.handshakes)
}

#[test]
fn an_idle_pair_keeps_its_connections_for_an_hour_and_uses_them_afterwards() {
    for_seeds(0..4, |seed| {
        let loss = [0.0, 0.02][seed as usize % 2];
        let spec = LinkSpec::new(Some(2_000_000), Duration::from_millis(325)).both(|model| model.loss(loss));
        let spec = LinkSpec { detect_multiplier: 10, ..spec };
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        net.run_until_connected(&[(A, PEER), (B, PEER)], net.now() + Duration::from_secs(60));
        let before = handshakes(&mut net);
        net.run_until(net.now() + HOUR);
        // The old connections, at once: no handshake, three one-way delays at most for a lost copy.
        net.send_messages(A, PEER, net.now(), Duration::from_secs(1), 256, 1);
        net.run_until(net.now() + Duration::from_secs(10));
        assert_eq!(net.gateway(B).inbox.latencies().len(), 1, "seed {seed}: the first message after an hour");
        for node in [A, B] {
            let peer = &net.node(node).status().peers[0];
            assert_eq!(peer.state, PeerState::Connected, "seed {seed}");
            assert_eq!(peer.counters.lost, 0, "seed {seed}");
        }
        assert_eq!(handshakes(&mut net), before, "seed {seed}: no new connection");
    });
}
