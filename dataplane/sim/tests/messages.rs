//! Command messages have a bound at the receiver, and nothing that transfers do delays them.

use std::time::Duration;

use florelay_engine::api::{Command, TransferId};
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::egress::Class;
use florelay_engine::time::Nanos;
use florelay_sim::gateway::Pace;
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LINK: LinkId = LinkId(0);
const PEER: PeerId = PeerId(0);
const FILE: TransferId = TransferId(9);
const SECOND: u64 = 1_000_000_000;
const RATE_BPS: u64 = 100_000_000;
const LARGEST: usize = 64 << 10;
/// What a receiver has of a peer's messages: 2 MiB with its gateway, 64 streams of one message in QUIC.
const BOUND_BYTES: u64 = (2 << 20) + 64 * (LARGEST as u64 + 8);

fn connected(loss: f64, seed: u64) -> Sim {
    let spec = LinkSpec::new(Some(RATE_BPS), Duration::from_millis(5)).both(|model| model.loss(loss));
    let mut net = Scenario::new(pair(spec)).seed(seed).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(5 * SECOND));
    net
}

fn control_bytes(net: &mut Sim) -> u64 {
    net.node(A).status().links[0].egress.tx_bytes[Class::Control.index()]
}

#[test]
fn a_receiver_that_never_writes_holds_a_bounded_flood_and_transfers_go_on() {
    for_seeds(0..12, |seed| {
        let mut net = connected(0.0, seed);
        net.gateway_mut(B).hold_messages = true;
        let start = net.now();
        let before = control_bytes(&mut net);
        net.send_messages(A, PEER, start, Duration::ZERO, LARGEST - seed as usize, 480);
        net.send_file(A, PEER, FILE, 80 << 20, 10);
        net.run_until(start + Duration::from_secs(5));
        // The flood has taken its bound off the link and not a packet more; the file has the rest.
        let sent = control_bytes(&mut net) - before;
        assert!(sent < BOUND_BYTES * 11 / 10, "{sent} bytes of 30 MiB of messages were sent");
        let arrived = net.gateway(B).sinks[&FILE].received_between(start + Duration::from_secs(2), net.now());
        assert!(arrived > RATE_BPS / 8 * 3 * 93 / 100, "{arrived} bytes of the file in three seconds");
        let held = net.node(B).status().peers[0].messages;
        assert!(held.unwritten_bytes <= 2 << 20 && held.unwritten > 0, "{held:?}");
        assert_eq!(net.gateway(B).inbox.latencies().len() as u64, held.unwritten);
        // Nothing is acknowledged that is not written.
        assert!(net.gateway(A).senders[0].round_trips().is_empty());
        net.release_messages(B);
        let done = net.run_while(Nanos(60 * SECOND), |net| !(net.gateway(A).senders[0].is_done() && net.files_done()));
        assert!(done, "{:?} at {:?}", net.node(B).status().peers[0].messages, net.now());
        assert_eq!((net.gateway(B).inbox.latencies().len(), net.gateway(A).senders[0].failures().len()), (480, 0));
    });
}

#[test]
fn datagrams_beyond_credit_are_counted_and_their_copies_come_later() {
    for_seeds(0..30, |seed| {
        let loss = [0.0, 0.02, 0.1][seed as usize % 3];
        let mut net = connected(loss, seed);
        net.gateway_mut(B).hold_messages = true;
        let start = net.now();
        net.send_messages(A, PEER, start, Duration::from_micros(200), 300, 3000);
        net.run_until(start + Duration::from_secs(3));
        let held = net.node(B).status().peers[0].messages;
        assert!(held.unwritten == 1024 && held.refused_datagrams > 0, "{held:?}");
        assert!(!net.gateway(A).senders[0].is_done());
        net.release_messages(B);
        assert!(net.run_while(Nanos(120 * SECOND), |net| !net.gateway(A).senders[0].is_done()), "{:?}", net.now());
        assert_eq!(net.gateway(B).inbox.latencies().len(), 3000);
        assert!(net.gateway(A).senders[0].failures().is_empty());
    });
}

#[test]
fn what_was_held_when_the_sender_was_cut_off_is_acknowledged_afterwards() {
    for_seeds(0..10, |seed| {
        let mut net = connected(0.01, seed);
        net.gateway_mut(B).hold_messages = true;
        let start = net.now();
        net.send_messages(A, PEER, start, Duration::from_millis(1), [100, 5000, LARGEST][seed as usize % 3], 30);
        net.run_until(start + Duration::from_secs(2));
        net.command(A, Command::SetAdmin { link: LINK, up: false });
        net.run_until(start + Duration::from_secs(4));
        net.release_messages(B);
        net.run_until(start + Duration::from_secs(6));
        assert!(net.gateway(A).senders[0].round_trips().is_empty());
        net.command(A, Command::SetAdmin { link: LINK, up: true });
        assert!(net.run_while(Nanos(60 * SECOND), |net| !net.gateway(A).senders[0].is_done()));
        assert_eq!(net.gateway(B).inbox.latencies().len(), 30);
    });
}

#[test]
fn every_length_arrives_and_one_byte_too_many_is_refused_by_name() {
    let mut net = connected(0.02, 5);
    let lengths = [16, 1399, 1400, 1401, 1420, 1430, 1440, 1450, 1460, 1461, 2900, LARGEST - 1, LARGEST];
    for length in lengths {
        let start = net.now();
        net.send_messages(A, PEER, start, Duration::ZERO, length, 3);
    }
    let start = net.now();
    net.send_messages(A, PEER, start, Duration::ZERO, LARGEST + 1, 1);
    net.run_until(start + Duration::from_secs(10));
    let (refused, sent) = net.gateway(A).senders.split_last().unwrap();
    assert!(refused.failures()[0].1.contains("65537 bytes"), "{:?}", refused.failures());
    assert!(sent.iter().all(|sender| sender.is_done() && sender.failures().is_empty()));
    assert_eq!(net.gateway(B).inbox.latencies().len(), 3 * lengths.len());
}

/// Latencies of small and of large commands both ways over a saturated link, `crowded` by everything that could be in
/// their way: 10,000 transfers in each direction, and a stream each way that nobody reads, whose spool is full.
fn commands_over_a_full_link(crowded: bool, seed: u64) -> [[Duration; 2]; 2] {
    const TRANSFERS: u128 = 10_000;
    const STREAM: TransferId = TransferId(1 << 100);
    const CREDIT_BYTES: u32 = 1 << 20;
    let mut topology = pair(LinkSpec::new(Some(SLOW_BPS), SLOW_DELAY));
    for node in 0..2 {
        // Little of each file waits in memory: there are many.
        topology.config_mut(node).limits.supply_bytes = 4096;
        topology.config_mut(node).limits.stream_credit_bytes = CREDIT_BYTES;
    }
    let mut net = Scenario::new(topology).seed(seed).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(5 * SECOND));
    if crowded {
        for (node, direction) in [(A, 0), (B, 1 << 64)] {
            net.gateway_mut(node).reading = Pace::STOPPED;
            net.send_stream(node, PEER, TransferId(STREAM.0 + direction), 20 << 20, Pace::default());
        }
        net.run_until(net.now() + Duration::from_secs(4));
        for node in [A, B] {
            let gateway = net.gateway(node);
            assert!(gateway.streams_in.values().all(|stream| stream.unread_bytes() == CREDIT_BYTES.into()));
            assert!(gateway.streams_out.values().all(|stream| stream.held_back() > 0), "a spool is not full");
        }
    }
    for (node, direction) in [(A, 0), (B, 1 << 64)] {
        let files = if crowded { TRANSFERS } else { 1 };
        for n in 0..files {
            // None of the crowd may end before the commands do, but for some hundreds.
            let bytes = if crowded { 15_000 } else { 40_000_000 };
            net.send_file(node, PEER, TransferId(1 + n + direction), bytes, (n % 100) as u8);
        }
    }
    net.run_until(net.now() + Duration::from_secs(1));
    let start = net.now();
    for node in [A, B] {
        net.send_messages(node, PEER, start, Duration::from_millis(20), SMALL, 200);
        net.send_messages(node, PEER, start + Duration::from_millis(7), Duration::from_millis(1400), LARGEST, 3);
    }
    let before = [A, B].map(|node| net.port(node).rule(LINK).sent_bytes());
    net.run_until(start + Duration::from_secs(5));
    for (node, before) in [A, B].into_iter().zip(before) {
        let sent = net.port(node).rule(LINK).sent_bytes() - before;
        assert!(sent as f64 > SLOW_BPS as f64 / 8.0 * 5.0 * 0.99, "the link was not full: {sent} bytes");
        assert!(net.gateway(node).senders.iter().all(|s| s.is_done() && s.failures().is_empty()));
        let running = net.gateway(node).sources.values().filter(|source| source.result().is_none()).count();
        assert!(running > if crowded { 9000 } else { 0 }, "{running} transfers are left");
    }
    [A, B].map(|node| {
        let mut all: Vec<Duration> = net.gateway(node).inbox.latencies().iter().map(|(_, latency)| *latency).collect();
        assert_eq!(all.len(), 203);
        all.sort_unstable();
        // The large ones take 52 ms of the link each; the small ones that come meanwhile are not behind them.
        [all[199], all[202]]
    })
}

const SLOW_BPS: u64 = 10_000_000;
const SLOW_DELAY: Duration = Duration::from_millis(20);
const SMALL: usize = 200;

#[test]
fn ten_thousand_transfers_each_way_and_unread_streams_delay_no_command() {
    // Nothing is lost and nothing jitters: a seed decides next to nothing.
    for_seeds(0..1, |seed| {
        let idle = commands_over_a_full_link(false, seed);
        let crowded = commands_over_a_full_link(true, seed);
        println!("small and large, from A and from B: {idle:?}; crowded {crowded:?}");
        let frame = Duration::from_nanos(1514 * 8 * SECOND / SLOW_BPS);
        for (idle, crowded) in idle.into_iter().flatten().zip(crowded.into_iter().flatten()) {
            assert!(crowded <= idle + frame, "{crowded:?} against {idle:?}");
        }
    });
}
