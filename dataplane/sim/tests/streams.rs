//! Open-ended streams: in order, each byte exactly once, whatever the links and the receiver do; bounded at both ends; and
//! a reader that stops holds up nothing but its own stream. The gateways check the bytes as they come.

use std::time::Duration;

use florelay_engine::api::{Command, FailCode, Failure, TransferId};
use florelay_engine::config::LinkId;
use florelay_engine::time::Nanos;
use florelay_sim::gateway::{MessageSender, Pace};
use florelay_sim::net::NodeId;
use florelay_sim::random::{PEER, Random, random};
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, line};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const HOUR: Nanos = Nanos(3600 * 1_000_000_000);
const SECOND: u64 = 1_000_000_000;
const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
/// What the simulated sender keeps of a stream.
const SPOOL: u64 = 1 << 20;
/// What the receiver takes ahead of its reader, where a test is about that.
const CREDIT: u64 = 256 << 10;

fn stream(number: u64) -> TransferId {
    TransferId((7 << 96) | u128::from(number))
}

fn pace(rng: &mut SmallRng) -> Pace {
    let bytes = [1, 700, 20_000, 1 << 20][rng.random_range(0..4)];
    Pace { bytes, interval: Duration::from_micros(1 + bytes * rng.random_range(1..20)) }
}

/// Streams on top of a random scenario, as many as it has ends that may send them.
fn with_streams(seed: u64, both_ways: bool) -> (Random, u64) {
    let mut scenario = random(seed);
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x5eed);
    let (a, b) = (scenario.a, scenario.b);
    for end in [a, b] {
        scenario.net.gateway_mut(end).reading = if rng.random_bool(0.5) { Pace::default() } else { pace(&mut rng) };
    }
    let ways: &[NodeId] = if both_ways { &[a, b] } else { &[a] };
    let mut number = 0;
    for &from in ways {
        for _ in 0..rng.random_range(1..=2) {
            // slow readers and writers of single bytes would take days for more
            let pace = pace(&mut rng);
            let reading = scenario.net.gateway(if from == a { b } else { a }).reading;
            let small = pace.bytes < 1000 || reading.bytes < 1000;
            let size = if small { rng.random_range(0..3_000) } else { rng.random_range(0..3_000_000) };
            let (id, start) = (stream(number), Nanos(rng.random_range(0..10 * SECOND)));
            scenario.net.at(start, move |net| net.send_stream(from, PEER, id, size, pace));
            number += 1;
        }
    }
    (scenario, number)
}

fn finish(scenario: &mut Random, seed: u64, streams: u64) {
    let (a, b) = (scenario.a, scenario.b);
    scenario.net.run_until(Random::BEGUN);
    let done = scenario.net.run_while(HOUR, |net| {
        let said = [a, b].iter().all(|&id| net.gateway(id).senders.iter().all(MessageSender::is_done));
        !(said && net.files_done())
    });
    let net = &mut scenario.net;
    if !done {
        for id in [a, b] {
            eprintln!("{}", net.node(id).debug());
            eprintln!("{:?}\n{:?}", net.gateway(id).streams_out, net.gateway(id).streams_in);
        }
        panic!("seed {seed} is not through at {:?}: {}", net.now(), scenario.words);
    }
    let mut seen = 0;
    for (from, to) in [(a, b), (b, a)] {
        for (id, source) in &net.gateway(from).streams_out {
            assert_eq!(net.gateway(to).streams_in[id].read_bytes(), source.head());
            seen += 1;
        }
    }
    assert_eq!(seen, streams);
    net.run_until(Random::QUIET.max(net.now() + Duration::from_secs(10)));
    for id in net.node_ids() {
        assert_eq!(net.port(id).held(), 0, "frames held at rest by {id:?}");
    }
}

#[test]
fn streams_arrive_whatever_the_links_do() {
    for_seeds(0..120, |seed| {
        let (mut scenario, streams) = with_streams(seed, true);
        finish(&mut scenario, seed, streams);
    });
}

#[test]
fn streams_go_on_where_the_reader_is_after_the_receiver_or_a_relay_lost_power() {
    for_seeds(1000..1060, |seed| {
        let (mut scenario, streams) = with_streams(seed, false);
        let nodes: Vec<_> = scenario.net.node_ids().collect();
        for &id in &nodes {
            scenario.net.gateway_mut(id).senders.clear();
        }
        let node = nodes[1 + seed as usize % (nodes.len() - 1)];
        for cut in 0..=seed % 3 {
            let at = Nanos(1_000_000_000 + seed % 40 * 500_000_000 + cut * 3 * SECOND);
            scenario.net.at(at, move |net| net.power_cut(node, PEER));
        }
        finish(&mut scenario, seed, streams);
    });
}

/// One link of 20 Mbit/s and 60 ms of round trip, connected; a credit that is less than a spool.
fn connected(seed: u64) -> Sim {
    let links = [LinkSpec::new(Some(20_000_000), Duration::from_millis(30)).both(|model| model.loss(0.01))];
    let mut topology = line(&links);
    topology.config_mut(1).limits.stream_credit_bytes = CREDIT as u32;
    let mut net = Scenario::new(topology).seed(seed).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10 * SECOND));
    net
}

fn secs(net: &Sim, seconds: u64) -> Nanos {
    net.now() + Duration::from_secs(seconds)
}

#[test]
fn a_reader_that_stops_holds_up_its_stream_and_nothing_else() {
    for_seeds(0..4, |seed| {
        let mut net = connected(seed);
        net.gateway_mut(B).reading = Pace::STOPPED;
        // together more than the window that all transfers of a peer share
        let stopped: Vec<_> = (0..40).map(stream).collect();
        for &id in &stopped {
            net.send_stream(A, PEER, id, 2 << 20, Pace::default());
        }
        let end = secs(&net, 60);
        net.run_until(end);
        for id in &stopped {
            let source = &net.gateway(A).streams_out[id];
            assert_eq!(
                (source.spooled(), source.head()),
                (SPOOL, SPOOL),
                "the application is held back, nothing is lost"
            );
            assert_eq!(net.gateway(B).streams_in[id].unread_bytes(), CREDIT, "and no more than this was sent");
        }
        // now a file and commands: at 20 Mbit/s, 10 MB take about 4.2 s
        let file = TransferId(9);
        net.send_file(A, PEER, file, 10_000_000, 0);
        let now = net.now();
        let commands = net.send_messages(A, PEER, now, Duration::from_millis(100), 100, 30);
        let end = secs(&net, 6);
        net.run_until(end);
        assert_eq!(net.gateway(A).sources[&file].result(), Some(&Ok(())), "seed {seed}");
        assert!(net.gateway(A).senders[commands].is_done());
        let slowest = net.gateway(B).inbox.percentile(1.0).unwrap();
        assert!(slowest < Duration::from_millis(120), "a command took {slowest:?}");
        // and when they read again, everything arrives
        for &id in &stopped {
            net.read_on(B, id, Pace::default());
        }
        let end = secs(&net, 180);
        assert!(net.run_while(end, |net| !net.files_done()), "seed {seed}: {}", net.node(A).debug());
    });
}

#[test]
fn either_end_may_give_a_stream_up_and_both_hear_of_it_once() {
    let enough = Failure::new(FailCode::Cancelled, "enough");
    for_seeds(0..40, |seed| {
        let mut net = connected(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let pace = Pace { bytes: 10_000, interval: Duration::from_millis(5) };
        net.send_stream(A, PEER, stream(0), 50_000_000, pace);
        net.send_stream(A, PEER, stream(1), 1_000_000, pace);
        let from = if seed % 2 == 0 { A } else { B };
        let at = net.now() + Duration::from_millis(rng.random_range(60..3000));
        net.run_until(at);
        net.command(from, Command::Cancel { id: stream(0), failure: enough.clone() });
        let end = secs(&net, 30);
        net.run_until(end);
        let given_up = Err(enough.clone());
        let given_up = Some(&given_up);
        assert_eq!(net.gateway(A).streams_out[&stream(0)].result(), given_up);
        assert_eq!(net.gateway(B).streams_in[&stream(0)].result(), given_up);
        assert_eq!(net.gateway(B).streams_in[&stream(1)].result(), Some(&Ok(())), "the other goes on");
    });
}

#[test]
fn a_reader_that_lost_its_place_ends_the_stream_and_repeats_nothing() {
    let mut net = connected(1);
    let pace = Pace { bytes: 10_000, interval: Duration::from_millis(5) };
    net.send_stream(A, PEER, stream(0), 50_000_000, pace);
    let end = secs(&net, 3);
    net.run_until(end);
    assert!(net.gateway(B).streams_in[&stream(0)].read_bytes() > 1 << 20);
    // The node restarts, and its reader with it.
    net.gateway_mut(B).streams_in.clear();
    net.power_cut(B, PEER);
    let end = secs(&net, 30);
    net.run_until(end);
    for result in [net.gateway(A).streams_out[&stream(0)].result(), net.gateway(B).streams_in[&stream(0)].result()] {
        let Some(Err(Failure { code, reason })) = result else { panic!("{result:?}") };
        assert!(*code == FailCode::LostPlace && reason.contains("byte 0"), "{reason}");
    }
    assert_eq!(net.gateway(B).streams_in[&stream(0)].received_bytes(), 0);
}

#[test]
fn a_full_spool_is_emptied_although_its_confirmation_was_lost() {
    let links = [LinkSpec::new(Some(50_000_000), Duration::from_millis(500))];
    let mut net = Scenario::new(line(&links)).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(20 * SECOND));
    let id = stream(0);
    net.send_stream(A, PEER, id, 3 * SPOOL, Pace::default());
    let end = secs(&net, 20);
    let arrived = |net: &mut Sim| net.gateway(B).streams_in.get(&id).is_none_or(|sink| sink.read_bytes() < SPOOL);
    assert!(net.run_while(end, arrived), "{}", net.node(A).debug());
    // Read to the last byte, and nothing of it is confirmed: the spool is full, and there is nothing left to send.
    assert_eq!(net.gateway(A).streams_out[&id].spooled(), SPOOL);
    net.meddle((B, LinkId(0)), Box::new(|_| Vec::new()));
    net.power_cut(B, PEER);
    let end = net.now() + Duration::from_millis(600);
    net.run_until(end);
    net.meddle((B, LinkId(0)), Box::new(|packet| vec![packet.clone()]));
    let end = secs(&net, 60);
    assert!(net.run_while(end, |net| !net.files_done()), "{}", net.node(A).debug());
}
