//! What is decided about a transfer while it runs: its priority, whether it goes at all, and what was declared of it.

use std::time::Duration;

use florelay_engine::api::{Command, FailCode, Failure, TransferId};
use florelay_engine::config::PeerId;
use florelay_engine::time::Nanos;
use florelay_sim::gateway::Pace;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const PEER: PeerId = PeerId(0);
const FIRST: TransferId = TransferId(1);
const SECOND: TransferId = TransferId(2);
/// More than is sent here unless a test waits for it.
const HUGE: u64 = 8 << 20;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two files under way at 5 Mbit/s.
fn under_way(seed: u64) -> Sim {
    let spec = LinkSpec::new(Some(5_000_000), Duration::from_millis(5 + seed)).both(|model| model.loss(0.005));
    let mut net = Scenario::new(pair(spec)).seed(seed).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10_000_000_000));
    for id in [FIRST, SECOND] {
        net.send_file(A, PEER, id, HUGE, 0);
    }
    run(&mut net, 2);
    net
}

fn run(net: &mut Sim, seconds: u64) {
    let end = net.now() + secs(seconds);
    net.run_until(end);
}

/// Bytes of both files that arrive in the next two seconds, but for what is under way now.
fn shares(net: &mut Sim) -> [u64; 2] {
    let start = net.now() + Duration::from_millis(300);
    let end = start + secs(2);
    net.run_until(end);
    [FIRST, SECOND].map(|id| net.gateway(B).sinks[&id].received_between(start, end))
}

fn finish(net: &mut Sim, seed: u64) {
    let end = net.now() + secs(120);
    assert!(net.run_while(end, |net| !net.files_done()), "seed {seed}: {}", net.node(A).debug());
}

#[test]
fn a_priority_that_is_changed_counts_at_once() {
    for_seeds(0..4, |seed| {
        let mut net = under_way(seed);
        let set = |net: &mut Sim, priority| net.command(A, Command::SetPriority { id: SECOND, priority });
        let [first, second] = shares(&mut net);
        assert!(first * 10 > second * 8 && second * 10 > first * 8, "seed {seed}, equal: {first}, {second}");
        set(&mut net, 64);
        let [first, second] = shares(&mut net);
        assert!(first < 20_000 && second > 900_000, "seed {seed}, strict: {first}, {second}");
        // Back and forth, ten thousand times while it waits for its turn, is no more than once.
        for _ in 0..10_000 {
            set(&mut net, 0);
            set(&mut net, 100);
        }
        set(&mut net, 2);
        let [first, second] = shares(&mut net);
        assert!((25..35).contains(&(second * 10 / first)), "seed {seed}, 3 to 1: {first}, {second}");
        // Out of range, and unknown.
        set(&mut net, 128);
        net.command(A, Command::SetPriority { id: TransferId(77), priority: 5 });
        let [first, second] = shares(&mut net);
        assert!((25..35).contains(&(second * 10 / first)), "seed {seed}, as before: {first}, {second}");
    });
}

#[test]
fn what_is_held_sends_nothing_over_any_number_of_connections_and_goes_on_where_it_was() {
    for_seeds(0..4, |seed| {
        let mut net = under_way(seed);
        net.command(A, Command::Hold { id: FIRST, held: true });
        let [first, second] = shares(&mut net);
        assert!(first == 0 && second > 900_000, "seed {seed}, held: {first}, {second}");
        let had = net.gateway(B).sinks[&FIRST].received_bytes();
        assert_eq!(net.gateway(A).sources[&FIRST].confirmed_bytes(), had, "what was sent is confirmed");
        net.power_cut(B, PEER);
        run(&mut net, 3);
        assert_eq!(net.gateway(B).sinks[&FIRST].received_bytes(), had, "seed {seed}: held on the new connection");
        assert!(net.gateway(B).sinks[&SECOND].received_bytes() > had);
        net.command(A, Command::Hold { id: FIRST, held: false });
        finish(&mut net, seed);
        let arrived: u64 = net.gateway(B).sinks[&FIRST].arrivals().iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        assert_eq!(arrived, HUGE, "seed {seed}: no byte twice");
    });
}

#[test]
fn what_is_held_from_the_beginning_or_at_its_end_waits_and_can_be_given_up() {
    for_seeds(0..4, |seed| {
        let mut net = under_way(seed);
        let third = TransferId(3);
        net.send_file(A, PEER, third, 1000, 127);
        net.command(A, Command::Hold { id: third, held: true });
        run(&mut net, 2);
        assert_eq!(net.gateway(B).sinks[&third].received_bytes(), 0, "seed {seed}: offered, and nothing sent");
        net.command(A, Command::Hold { id: SECOND, held: true });
        for (at, id) in [(A, SECOND), (B, third)] {
            net.command(at, Command::Cancel { id, failure: Failure::new(FailCode::Timeout, "too late") });
        }
        run(&mut net, 2);
        for end in [A, B] {
            for id in [SECOND, third] {
                let gateway = net.gateway(end);
                let result = gateway.sources.get(&id).map_or_else(|| gateway.sinks[&id].result(), |file| file.result());
                assert!(matches!(result, Some(Err(failure)) if failure.code == FailCode::Timeout), "{result:?}");
            }
        }
        // Nothing of what was left behind in the queues harms the one that stays.
        let end = net.now() + secs(60);
        let through = |net: &Sim| net.gateway(A).sources[&FIRST].result() == Some(&Ok(()));
        assert!(net.run_while(end, |net| !through(net)), "seed {seed}");
    });
}

#[test]
fn a_stream_of_another_size_than_declared_ends_once_at_both_ends() {
    const SIZE: u64 = 300_000;
    for_seeds(0..12, |seed| {
        let beyond = [-100_000, -1, 0, 1, 100_000][seed as usize % 5];
        let spec = LinkSpec::new(Some(5_000_000), Duration::from_millis(5 + seed)).both(|model| model.loss(0.02));
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10_000_000_000));
        net.gateway_mut(A).declare = Some(beyond);
        let pace = Pace { bytes: 7_000, interval: Duration::from_millis(3) };
        net.send_stream(A, PEER, FIRST, SIZE, pace);
        run(&mut net, 30);
        let results = [net.gateway(A).streams_out[&FIRST].result(), net.gateway(B).streams_in[&FIRST].result()];
        for result in results {
            match result {
                Some(Ok(())) if beyond == 0 => {}
                Some(Err(failure)) if beyond != 0 && failure.code == FailCode::Size => {}
                other => panic!("seed {seed}, {beyond} beyond: {other:?}"),
            }
        }
        assert!(net.gateway(B).streams_in[&FIRST].received_bytes() <= SIZE.saturating_add_signed(beyond));
    });
}
