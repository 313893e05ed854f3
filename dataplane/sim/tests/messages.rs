//! Command messages have a bound at the receiver, and nothing that transfers do delays them.

use std::time::Duration;

use florelay_engine::api::{Command, TransferId};
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::egress::Class;
use florelay_engine::time::Nanos;
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

#[test]
fn ten_thousand_transfers_delay_no_command() {
    const TRANSFERS: u128 = 10_000;
    const SLOW_BPS: u64 = 10_000_000;
    let delay = Duration::from_millis(20);
    for_seeds(0..2, |seed| {
        let spec = LinkSpec::new(Some(SLOW_BPS), delay);
        let two_frames = delay + Duration::from_nanos(2 * u64::from(spec.full_frame_bytes()) * 8 * SECOND / SLOW_BPS);
        let mut topology = pair(spec);
        // Little of each file waits in memory: there are many.
        topology.config_mut(0).limits.supply_bytes = 4096;
        let mut net = Scenario::new(topology).seed(seed).build();
        net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(5 * SECOND));
        let start = net.now();
        for id in 1..=TRANSFERS {
            net.send_file(A, PEER, TransferId(id), 20_000, (id % 100) as u8);
        }
        net.send_messages(A, PEER, start, Duration::from_millis(20), 200, 500);
        net.run_until(start + Duration::from_secs(11));
        let sent = net.port(A).rule(LINK).sent_bytes();
        assert!(sent > SLOW_BPS / 8 * 10, "the link was not full: {sent} bytes");
        let inbox = &net.gateway(B).inbox;
        assert_eq!(inbox.latencies().len(), 500);
        assert!(inbox.percentile(1.0) <= Some(two_frames), "{:?} > {two_frames:?}", inbox.percentile(1.0));
    });
}
