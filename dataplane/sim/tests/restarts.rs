//! Senders and receivers that are killed and start anew with what their disks hold, while links lose, repeat, reorder and
//! go dark: every transfer ends once at each end, whole, and nobody gets a byte twice. The gateways check the bytes and
//! the ends as they come.
//!
//! More seeds: `FLORELAY_SEEDS=5000 cargo test -p florelay-sim --test restarts`.

use std::time::Duration;

use florelay_engine::api::TransferId;
use florelay_engine::time::Nanos;
use florelay_sim::gateway::Pace;
use florelay_sim::net::NodeId;
use florelay_sim::random::{PEER, Random, random};
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SECOND: u64 = 1_000_000_000;
const HOUR: Nanos = Nanos(3600 * SECOND);
const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const FILE: TransferId = TransferId(9);
const STREAM: TransferId = TransferId(7 << 96);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Files and streams both ways over faulty links, and restarts of both ends in turn.
fn restarted(seed: u64) -> (Random, String) {
    let mut scenario = random(seed);
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x0dead);
    let (a, b) = (scenario.a, scenario.b);
    for end in [a, b] {
        let gateway = scenario.net.gateway_mut(end);
        // A sender that lost its memory does not repeat messages, nor know their acknowledgements.
        gateway.senders.clear();
        gateway.sync_delay = ms([0, 3, 100, 3_000][rng.random_range(0..4)]);
        gateway.declare = rng.random_bool(0.5).then_some(0);
        let bytes = [50_000, 1 << 20][rng.random_range(0..2)];
        gateway.reading = Pace { bytes, interval: ms(rng.random_range(1..50)) };
    }
    for (way, from) in [a, b].into_iter().enumerate() {
        let id = TransferId(STREAM.0 | way as u128);
        let (size, bytes) = (rng.random_range(0..1_500_000), [3_000, 70_000, 1 << 20][rng.random_range(0..3)]);
        let pace = Pace { bytes, interval: ms(rng.random_range(1..60)) };
        let start = Nanos(rng.random_range(0..8 * SECOND));
        scenario.net.at(start, move |net| net.send_stream(from, PEER, id, size, pace));
    }
    let mut words = String::new();
    let mut at = rng.random_range(SECOND / 2..3 * SECOND);
    for cut in 0..rng.random_range(2..8_usize) {
        let end = [a, b][(cut + seed as usize) % 2];
        words += &format!("{end:?} at {:?}; ", Nanos(at));
        scenario.net.at(Nanos(at), move |net| net.power_cut(end, PEER));
        // Some come before the peer has heard of the one before.
        at += [rng.random_range(0..100_000_000), rng.random_range(0..8 * SECOND)][rng.random_range(0..2)];
    }
    (scenario, words)
}

#[test]
fn every_transfer_ends_once_and_whole_whoever_is_restarted() {
    let (mut transfers, mut again) = (0, 0);
    for_seeds(0..100, |seed| {
        let (mut scenario, words) = restarted(seed);
        let (a, b) = (scenario.a, scenario.b);
        scenario.net.run_until(Random::BEGUN);
        let done = scenario.net.run_while(HOUR, |net| !net.files_done());
        let net = &mut scenario.net;
        if !done {
            for id in [a, b] {
                let gateway = net.gateway(id);
                eprintln!("{id:?}: {:?}\n{:?}\n{:?}", gateway.sources, gateway.streams_out, gateway.streams_in);
                eprintln!("{:?}", net.gateway(id).sinks);
                eprintln!("{}", net.node(id).debug());
            }
            panic!("seed {seed} is not through at {:?}: {words}\n{}", net.now(), scenario.words);
        }
        for (from, to) in [(a, b), (b, a)] {
            for (id, source) in &net.gateway(from).sources {
                let sink = &net.gateway(to).sinks[id];
                assert_eq!(sink.written_bytes(), source.size(), "seed {seed}");
                again += u64::from(sink.arrivals().iter().map(|(_, n)| u64::from(*n)).sum::<u64>() > source.size());
                transfers += 1;
            }
            for (id, source) in &net.gateway(from).streams_out {
                let sink = &net.gateway(to).streams_in[id];
                assert_eq!((source.head(), sink.read_bytes()), (source.size(), source.size()), "seed {seed}");
                transfers += 1;
            }
        }
        // Nothing stays behind, and no second end comes.
        net.run_until(net.now() + Duration::from_secs(30));
        assert!(net.files_done(), "seed {seed}");
    });
    println!("{transfers} transfers, {again} files of them in part again");
}

/// A file and a stream on their way from A to B.
fn under_way(seed: u64, sync_delay: Duration) -> Sim {
    let spec = LinkSpec::new(Some(5_000_000), ms(5 + seed * 20)).both(|model| model.loss(0.01));
    let mut net = Scenario::new(pair(spec)).seed(seed).write_delay(ms(1)).build();
    for end in [A, B] {
        net.gateway_mut(end).sync_delay = sync_delay;
    }
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10 * SECOND));
    net.send_file(A, PEER, FILE, 3 << 20, 0);
    net.send_stream(A, PEER, STREAM, 3 << 20, Pace { bytes: 20_000, interval: ms(50) });
    let end = net.now() + Duration::from_secs(5);
    net.run_until(end);
    assert!(net.gateway(B).sinks[&FILE].received_bytes() > 1 << 18, "seed {seed}");
    assert!(net.gateway(B).streams_in[&STREAM].read_bytes() > 1 << 18, "seed {seed}");
    net
}

fn finish(net: &mut Sim, seed: u64) {
    let end = net.now() + Duration::from_secs(120);
    let done = net.run_while(end, |net| !net.files_done());
    assert!(done, "seed {seed}: {}\n{}", net.node(A).debug(), net.node(B).debug());
}

#[test]
fn a_restarted_sender_goes_on_where_the_receiver_is_though_it_has_lost_what_it_sent() {
    for_seeds(0..8, |seed| {
        // Nothing of the stream is on A's disk: its application writes all of it again.
        let mut net = under_way(seed, Duration::from_secs(3600));
        let (file, stream) = (&net.gateway(B).sinks[&FILE], &net.gateway(B).streams_in[&STREAM]);
        let (had, read) = (file.received_bytes(), stream.read_bytes());
        net.power_cut(A, PEER);
        assert_eq!(net.gateway(A).streams_out[&STREAM].head(), 20_000, "what it writes at once");
        let end = net.now() + Duration::from_secs(1) + ms(seed * 60);
        net.run_until(end);
        // The reader has noticed nothing.
        let stream = &net.gateway(B).streams_in[&STREAM];
        assert!(stream.result().is_none() && stream.read_bytes() >= read, "seed {seed}");
        let end = net.now() + Duration::from_secs(120);
        let through = |net: &Sim| net.gateway(A).streams_out[&STREAM].result().is_some();
        assert!(net.run_while(end, |net| !through(net)), "seed {seed}: {}", net.node(A).debug());
        assert_eq!(net.gateway(A).streams_out[&STREAM].result(), Some(&Ok(())), "seed {seed}");
        let sink = &net.gateway(B).sinks[&FILE];
        assert!(sink.shelved_at().is_none(), "seed {seed}: it was never thought forgotten");
        let arrived: u64 = sink.arrivals().iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        assert_eq!(arrived, sink.received_bytes(), "seed {seed}: no byte of the file came twice");
        assert!(had < arrived);
    });
}

#[test]
fn what_is_confirmed_of_a_file_is_synced() {
    for_seeds(0..4, |seed| {
        let mut net = under_way(seed, ms(700));
        let end = net.now() + Duration::from_secs(2);
        net.run_while(end, |net| {
            let (source, sink) = (&net.gateway(A).sources[&FILE], &net.gateway(B).sinks[&FILE]);
            assert!(source.confirmed_bytes() <= sink.synced_bytes(), "seed {seed}");
            true
        });
        let sink = &net.gateway(B).sinks[&FILE];
        let synced = sink.synced_bytes();
        assert!(0 < synced && synced < sink.written_bytes(), "seed {seed}: the disk is slow");
        assert!(net.gateway(A).sources[&FILE].confirmed_bytes() > 0);
        net.power_cut(B, PEER);
        assert_eq!(net.gateway(B).sinks[&FILE].written_bytes(), synced);
        // The sender's gateway asserts that it is never asked for what was confirmed.
        finish(&mut net, seed);
    });
}

#[test]
fn bytes_that_went_twice_are_counted_twice() {
    let sent = |cut: bool| {
        let mut net = under_way(1, Duration::from_secs(20));
        if cut {
            // Nothing is synced yet: B asks for all of it again.
            net.power_cut(B, PEER);
        }
        finish(&mut net, 1);
        net.gateway(A).sources[&FILE].wire_bytes()
    };
    let (once, twice) = (sent(false), sent(true));
    assert!((3 << 20..(3 << 20) + (8 << 10)).contains(&once), "{once}");
    assert!(twice > once + (1 << 18), "{once}, {twice}");
}
