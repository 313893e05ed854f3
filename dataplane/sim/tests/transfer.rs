//! Random networks, hundreds of seeds: every file arrives intact, each byte in order and exactly once, every message
//! exactly once, whatever the links do. The gateways check the bytes, the network checks frames and caps at each step.
//!
//! One seed again: `FLORELAY_SEED=17 cargo test -p florelay-sim --test transfer`.

use std::time::Duration;

use florelay_engine::time::Nanos;
use florelay_sim::random::{PEER, Random, random};
use florelay_sim::seeds::for_seeds;

const HOUR: Nanos = Nanos(3600 * 1_000_000_000);

/// Run until every file and message is through.
fn finish(scenario: &mut Random, seed: u64) {
    let (a, b) = (scenario.a, scenario.b);
    scenario.net.run_until(Random::BEGUN);
    let done = scenario.net.run_while(HOUR, |net| {
        let said = [a, b].iter().all(|&id| net.gateway(id).senders.iter().all(|sender| sender.is_done()));
        !(said && net.files_done())
    });
    let net = &mut scenario.net;
    if !done {
        for id in [a, b] {
            eprintln!("{:#?}", net.node(id).status());
            for (id, source) in &net.gateway(id).sources {
                let (confirmed, size) = (source.confirmed_bytes(), source.size());
                eprintln!("{id:?}: {confirmed} of {size} confirmed, {:?}", source.result());
            }
        }
        panic!("seed {seed} is not through at {:?}: {}", net.now(), scenario.words);
    }
    for (from, to) in [(a, b), (b, a)] {
        for (id, source) in &net.gateway(from).sources {
            assert_eq!(net.gateway(to).sinks[id].written_bytes(), source.size());
        }
        let sent: u64 = net.gateway(from).senders.iter().map(|sender| sender.sent()).sum();
        assert_eq!(net.gateway(to).inbox.latencies().len() as u64, sent);
        assert!(net.gateway(from).senders.iter().all(|sender| sender.failures().is_empty()));
    }
    // nothing stays behind: a node at rest holds no frame
    net.run_until(net.now() + Duration::from_secs(10));
    for id in net.node_ids() {
        assert_eq!(net.port(id).held(), 0, "frames held at rest by {id:?}");
    }
}

#[test]
fn files_and_messages_arrive_whatever_the_links_do() {
    for_seeds(0..200, |seed| finish(&mut random(seed), seed));
}

#[test]
fn files_arrive_although_the_power_is_cut_at_the_receiver() {
    for_seeds(1000..1040, |seed| {
        let mut scenario = random(seed);
        let (b, at) = (scenario.b, Nanos(1_000_000_000 + seed % 40 * 500_000_000));
        // messages that were acknowledged are not repeated by a sender that lost its memory: files only
        scenario.net.gateway_mut(b).senders.clear();
        let a = scenario.a;
        scenario.net.gateway_mut(a).senders.clear();
        scenario.net.at(at, move |net| net.power_cut(b, PEER));
        finish(&mut scenario, seed);
    });
}
