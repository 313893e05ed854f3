//! What a node knows of its paths when it starts again. Nobody has configured a delay: a cold start assumes 333 ms.
//!
//! ```text
//!   a ── 325 ms each way ── b      run, power cut, run again: with what a's gateway kept, and without
//! ```

use std::time::Duration;

use florelay_engine::api::{PeerState, TransferId};
use florelay_engine::config::{Congestion, LinkId, PathMemory, PeerId, RatePlan};
use florelay_engine::time::Nanos;
use florelay_sim::link::LinkModel;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Pass, Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const PEER: PeerId = PeerId(0);
const SECOND: u64 = 1_000_000_000;
const MS: Duration = Duration::from_millis(1);
const RATE: u64 = 20_000_000;
const FIRST: TransferId = TransferId(1);
const SECOND_FILE: TransferId = TransferId(2);
/// More than any run here moves.
const HUGE: u64 = 200_000_000;
/// When the power is cut.
const CUT: u64 = 25;

/// What is there after the power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Nothing is remembered.
    Cold,
    /// What A's gateway kept.
    Warm,
}

fn net(congestion: Congestion, delay: Duration, seed: u64, change: impl Fn(LinkModel) -> LinkModel) -> Sim {
    let mut spec = LinkSpec::new(Some(RATE), delay);
    spec.congestion = congestion;
    spec.model_ab = change(spec.model_ab);
    let mut topology = pair(spec);
    for node in [0, 1] {
        let config = topology.config_mut(node);
        config.links[0].delay = Duration::ZERO;
        config.peers[0].0.initial_rtt = 333 * MS;
    }
    let mut net = Scenario::new(topology).seed(seed).frames(16 << 10).build();
    connected(&mut net, 20 * SECOND);
    net
}

fn connected(net: &mut Sim, within_ns: u64) {
    let limit = net.now() + Duration::from_nanos(within_ns);
    net.run_until_connected(&[(A, PEER), (B, PEER)], limit);
}

/// Bytes of a file at B in `span` after A offered it, which is now.
fn bytes_after(net: &mut Sim, file: TransferId, span: Duration) -> u64 {
    let start = net.now();
    net.send_file(A, PEER, file, HUGE, 10);
    net.run_until(start + span);
    net.gateway(B).sinks[&file].received_between(start, start + span)
}

/// The power of A is cut, so that it starts as said, and both are connected again. No file is left behind.
fn cut(net: &mut Sim, start: Start) -> Option<PathMemory> {
    net.gateway_mut(A).sources.clear();
    if start == Start::Cold {
        net.gateway_mut(A).paths.clear();
    }
    let memory = net.gateway(A).paths.get(&PEER).copied();
    let before = net.gateway(A).peers.len();
    net.power_cut(A, PEER);
    let limit = net.now() + Duration::from_secs(20);
    let again = |net: &mut Sim| net.gateway(A).peers[before..].iter().any(|(_, _, s)| *s == PeerState::Connected);
    assert!(net.run_while(limit, |net| !again(net)), "not connected again: {:?}", &net.gateway(A).peers[before..]);
    memory
}

#[test]
fn a_second_start_fills_a_long_path_sooner() {
    for congestion in [Congestion::Shared, Congestion::Contracted] {
        for_seeds(0..4, |seed| {
            let mut net = net(congestion, 325 * MS, seed, |model| model);
            let first = bytes_after(&mut net, FIRST, 5000 * MS);
            net.run_until(Nanos(CUT * SECOND));
            let memory = cut(&mut net, Start::Warm).expect("a measured path");
            let second = bytes_after(&mut net, SECOND_FILE, 5000 * MS);
            println!("{congestion:?}, seed {seed}: {first} bytes in 5 s, then {second}; {memory:?}");
            assert!(memory.least_rtt >= 650 * MS && memory.smoothed_rtt <= 800 * MS, "seed {seed}: {memory:?}");
            if congestion == Congestion::Shared {
                assert!(second * 2 >= first * 3, "seed {seed}: {first} bytes, then {second}");
            } else {
                assert!(second * 100 >= first * 99, "seed {seed}: {first} bytes, then {second}");
            }
        });
    }
}

#[test]
fn a_peer_that_was_restarted_is_met_with_what_is_known() {
    for_seeds(0..3, |seed| {
        let mut net = net(Congestion::Shared, 325 * MS, seed, |model| model);
        let first = bytes_after(&mut net, FIRST, 5000 * MS);
        net.run_until(Nanos(CUT * SECOND));
        // A goes on with its file over a new connection.
        let up = net.gateway(A).peers.len();
        net.power_cut(B, PEER);
        let limit = net.now() + Duration::from_secs(20);
        let again = |net: &mut Sim| net.gateway(A).peers[up..].iter().any(|(_, _, s)| *s == PeerState::Connected);
        assert!(net.run_while(limit, |net| !again(net)), "seed {seed}: not connected again");
        let start = net.now();
        net.run_until(start + 5000 * MS);
        let second = net.gateway(B).sinks[&FIRST].received_between(start, start + 5000 * MS);
        println!("seed {seed}: {first} bytes in 5 s, then {second}");
        assert!(second * 2 >= first * 3, "seed {seed}: {first} bytes, then {second}");
    });
}

#[test]
fn a_path_that_was_found_narrow_is_not_flooded_again() {
    for_seeds(0..3, |seed| {
        let narrow = RATE / 5;
        let [cold, warm] = [Start::Cold, Start::Warm].map(|start| {
            let mut net = net(Congestion::Contracted, 150 * MS, seed, |model| model.rate(narrow, 8 << 20));
            bytes_after(&mut net, FIRST, Duration::from_secs(30));
            net.run_until(Nanos(CUT * SECOND));
            let memory = cut(&mut net, start);
            net.send_file(A, PEER, SECOND_FILE, HUGE, 10);
            let begin = net.now();
            let mut largest = Duration::ZERO;
            for _ in 0..100 {
                net.run_until(net.now() + 100 * MS);
                largest = largest.max(net.node(A).status().peers[0].rtt.unwrap_or_default());
            }
            let bytes = net.gateway(B).sinks[&SECOND_FILE].received_between(begin, begin + 10_000 * MS);
            println!("{start:?}, seed {seed}: rtt <= {largest:?}, {bytes} bytes in 10 s, {memory:?}");
            (largest, bytes)
        });
        assert!(cold.0 >= 500 * MS, "seed {seed}: the cold start did no harm either: {cold:?}");
        assert!(warm.0 <= 400 * MS, "seed {seed}: {warm:?}");
        assert!(warm.1 * 100 >= cold.1 * 98, "seed {seed}: {warm:?} after {cold:?}");
    });
}

/// Bytes in 10 s from the connection on after a start, cold and warm, over a path that has become another at the power cut.
fn both_starts(congestion: Congestion, [before, after]: [u64; 2], seed: u64, bps: [u64; 2]) -> [u64; 2] {
    [Start::Cold, Start::Warm].map(|start| {
        let there = |ms: u64| ms as u32 * MS / 2;
        let mut net = net(congestion, there(before), seed, |model| {
            let delay_steps = vec![(Nanos(CUT * SECOND), there(2 * after) - there(before))];
            let rate_steps = vec![(Nanos(CUT * SECOND), Some(bps[1]))];
            LinkModel { delay_steps, rate_steps, ..model.rate(bps[0], 8 << 20) }
        });
        bytes_after(&mut net, FIRST, Duration::from_secs(20));
        net.run_until(Nanos(CUT * SECOND));
        cut(&mut net, start);
        bytes_after(&mut net, SECOND_FILE, Duration::from_secs(10))
    })
}

#[test]
fn a_path_that_has_become_longer_or_shorter_is_used_as_if_it_were_new() {
    for congestion in [Congestion::Shared, Congestion::Contracted] {
        // The way there only is another; the way back stays half of `before`.
        for ways in [[40, 650], [650, 400], [200, 330]] {
            for_seeds(0..2, |seed| {
                let [cold, warm] = both_starts(congestion, ways, seed, [2 * RATE; 2]);
                println!("{congestion:?} {ways:?}, seed {seed}: {cold} bytes in 10 s, {warm} warm");
                assert!(warm * 100 >= cold * 95, "{congestion:?} {ways:?}, seed {seed}: {cold} cold, {warm} warm");
            });
        }
    }
}

#[test]
fn a_bottleneck_that_has_become_wider_or_narrower_is_found_out() {
    for congestion in [Congestion::Shared, Congestion::Contracted] {
        for_seeds(0..2, |seed| {
            for bps in [[2 * RATE, RATE / 4], [RATE / 4, 2 * RATE]] {
                let mut used = [0.0, 0.0];
                for (start, used) in [Start::Cold, Start::Warm].into_iter().zip(&mut used) {
                    let mut net = net(congestion, 100 * MS, seed, |model| {
                        let rate_steps = vec![(Nanos(CUT * SECOND), Some(bps[1]))];
                        LinkModel { rate_steps, ..model.rate(bps[0], 8 << 20) }
                    });
                    bytes_after(&mut net, FIRST, Duration::from_secs(20));
                    net.run_until(Nanos(CUT * SECOND));
                    cut(&mut net, start);
                    bytes_after(&mut net, SECOND_FILE, Duration::from_secs(20));
                    let end = net.now();
                    let from = Nanos(end.0 - 10 * SECOND);
                    let bytes = net.gateway(B).sinks[&SECOND_FILE].received_between(from, end);
                    *used = bytes as f64 * 8.0 / 10.0 / bps[1].min(RATE) as f64;
                }
                println!("{congestion:?} {bps:?}, seed {seed}: {used:?} of the bottleneck after 10 s");
                assert!(used[1] >= 0.97 * used[0], "{congestion:?} {bps:?}, seed {seed}: {used:?}");
            }
        });
    }
}

#[test]
fn a_contact_over_another_way_is_not_spoilt_by_what_is_remembered() {
    for_seeds(0..2, |seed| {
        let bytes = [Start::Cold, Start::Warm].map(|start| {
            let mut net = net(Congestion::Contracted, 20 * MS, seed, |model| LinkModel {
                delay_steps: vec![(Nanos(CUT * SECOND), 400 * MS)],
                ..model
            });
            let rate = RatePlan { rate_bps: Some(RATE), burst_bytes: 6056, control_percent: 100 };
            let passes = [(1, CUT - 5, 20), (CUT + 5, CUT + 60, 400)].map(|(start, end, delay)| Pass {
                start: Nanos(start * SECOND),
                end: Nanos(end * SECOND),
                rate,
                delay: delay * MS,
            });
            for id in [A, B] {
                net.set_contacts((id, LinkId(0)), &passes);
            }
            bytes_after(&mut net, FIRST, Duration::from_secs(20));
            net.run_until(Nanos(CUT * SECOND));
            net.gateway_mut(A).sources.clear();
            if start == Start::Cold {
                net.gateway_mut(A).paths.clear();
            }
            let memory = net.gateway(A).paths.get(&PEER).copied();
            net.power_cut(A, PEER);
            net.set_contacts((A, LinkId(0)), &passes);
            net.send_file(A, PEER, SECOND_FILE, HUGE, 10);
            net.run_until(Nanos((CUT + 25) * SECOND));
            println!("{start:?}, seed {seed}: {memory:?}");
            net.gateway(B).sinks[&SECOND_FILE].received_between(Nanos(CUT * SECOND), net.now())
        });
        println!("seed {seed}: {bytes:?} cold and warm");
        assert!(bytes[1] * 100 >= bytes[0] * 99, "seed {seed}: {bytes:?}");
    });
}
