//! Datagrams: boundaries kept, never late by more than a queue, never in the way of transfers or commands, and every one
//! that does not arrive is accounted for at the sender, on a link, or at the receiver.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use florelay_engine::api::{Command, DatagramClass, DatagramRefusal, TransferId};
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::datagrams::{DatagramCounters, DatagramDrop};
use florelay_engine::time::Nanos;
use florelay_sim::net::NodeId;
use florelay_sim::random::{PEER, Random, random};
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, line};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SECOND: u64 = 1_000_000_000;
const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const CLASSES: [DatagramClass; 2] = [DatagramClass::Control, DatagramClass::Bulk];

/// Its number, and bytes that follow from it.
fn payload(number: u32, len: usize) -> Bytes {
    let tail = (4..len).map(|at| (number as usize * 31 + at) as u8);
    number.to_be_bytes().into_iter().chain(tail).collect()
}

fn send(net: &mut Sim, from: NodeId, class: DatagramClass, payload: Bytes) {
    net.command(from, Command::Datagram { peer: PEER, port: 4242, class, payload });
}

fn counters(net: &mut Sim, id: NodeId) -> DatagramCounters {
    net.node(id).status().peers[0].datagrams
}

/// Every datagram that arrived is one that was sent, whole, once; the numbers by class in order of arrival.
fn numbers(net: &Sim, id: NodeId, class: DatagramClass) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    let of_class = net.gateway(id).datagrams.iter().filter(|(_, datagram)| datagram.class == class);
    of_class
        .map(|(_, datagram)| {
            let number = u32::from_be_bytes(*datagram.payload.first_chunk().expect("four bytes of number"));
            assert_eq!((datagram.peer, datagram.port), (PeerId(0), 4242));
            assert_eq!(datagram.payload, payload(number, datagram.payload.len()));
            assert!(seen.insert(number), "datagram {number} came twice");
            number
        })
        .collect()
}

fn all_drops(counters: &DatagramCounters) -> u64 {
    DatagramDrop::ALL.iter().map(|reason| counters.dropped(*reason)).sum()
}

#[test]
fn each_is_whole_and_what_does_not_arrive_is_counted() {
    for_seeds(0..60, |seed| {
        let Random { mut net, a, b, .. } = random(seed);
        let mut rng = SmallRng::seed_from_u64(seed ^ 0xda7a);
        let count = rng.random_range(10..400);
        for number in 0..count {
            let (at, len) = (Nanos(rng.random_range(0..25 * SECOND)), rng.random_range(4..1300));
            let class = CLASSES[rng.random_range(0..2)];
            net.at(at, move |net| send(net, a, class, payload(number, len)));
        }
        net.run_until(Nanos(100 * SECOND));
        let arrived: usize = CLASSES.iter().map(|class| numbers(&net, b, *class).len()).sum();
        let (sent, received) = (counters(&mut net, a), counters(&mut net, b));
        assert_eq!(sent.sent + all_drops(&sent), u64::from(count), "seed {seed}: {sent:?}");
        assert_eq!(received.received, arrived as u64);
        assert_eq!(all_drops(&received), 0, "{received:?}");
        assert!(received.received <= sent.sent, "{sent:?} {received:?}");
    });
}

/// One link of 10 Mbit/s, connected.
fn connected(delay: Duration) -> Sim {
    let mut net = Scenario::new(line(&[LinkSpec::new(Some(10_000_000), delay)])).build();
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10 * SECOND));
    net
}

#[test]
fn the_largest_passes_and_one_byte_more_is_refused_with_the_maximum() {
    let mut net = connected(Duration::from_millis(5));
    let max = net.node(A).max_datagram_bytes(PEER).unwrap();
    assert!(max > 1400, "{max}");
    for class in CLASSES {
        send(&mut net, A, class, payload(1, max));
        send(&mut net, A, class, payload(2, max + 1));
    }
    net.command(A, Command::Datagram { peer: PeerId(9), port: 1, class: CLASSES[0], payload: Bytes::new() });
    let end = net.now() + Duration::from_secs(1);
    net.run_until(end);
    let refused = DatagramRefusal::TooLarge { bytes: max + 1, max };
    assert_eq!(net.gateway(A).refused, [refused, refused, DatagramRefusal::NoSuchPeer]);
    for class in CLASSES {
        assert_eq!(numbers(&net, B, class), [1], "{class:?}");
    }
    assert_eq!(counters(&mut net, A).dropped(DatagramDrop::TooLarge), 2);
}

#[test]
fn a_flood_drops_its_oldest_and_starves_neither_a_file_nor_commands() {
    let mut net = connected(Duration::from_millis(20));
    let file = TransferId(1);
    net.send_file(A, PEER, file, 5_000_000, 0);
    let now = net.now();
    let commands = net.send_messages(A, PEER, now, Duration::from_millis(50), 100, 100);
    // 20 Mbit/s of datagrams for 8 s into a link of 10 Mbit/s
    const COUNT: u32 = 16_000;
    for number in 0..COUNT {
        let at = now + Duration::from_micros(500) * number;
        net.at(at, move |net| send(net, A, DatagramClass::Bulk, payload(number, 1250)));
    }
    let end = now + Duration::from_millis(8_800);
    net.run_until(end);
    // Half of the link is the file's: 5 MB take 8 s and overheads.
    assert_eq!(net.gateway(A).sources[&file].result(), Some(&Ok(())), "the file is starved");
    assert!(net.gateway(A).senders[commands].is_done());
    let slowest = net.gateway(B).inbox.percentile(1.0).unwrap();
    assert!(slowest < Duration::from_millis(30), "a command took {slowest:?}");
    let arrived = numbers(&net, B, DatagramClass::Bulk);
    assert!(arrived.len() > 3500, "the datagrams are starved: {}", arrived.len());
    assert!(arrived.is_sorted(), "one path and no loss keep order");
    // The newest go: what arrives is never older than the queue takes to drain at half the link's rate.
    let oldest = net.gateway(B).datagrams.iter().map(|(at, datagram)| {
        let number = u32::from_be_bytes(*datagram.payload.first_chunk().unwrap());
        at.since(now + Duration::from_micros(500) * number)
    });
    let oldest = oldest.max().unwrap();
    assert!(oldest < Duration::from_millis(700), "a datagram was {oldest:?} old");
    let sent = counters(&mut net, A);
    assert_eq!(sent.sent + sent.dropped(DatagramDrop::QueueFull), u64::from(COUNT), "{sent:?}");
    assert!(sent.dropped(DatagramDrop::QueueFull) > 5_000);
}

#[test]
fn a_dark_path_drops_what_waits_and_what_comes() {
    let mut net = connected(Duration::from_millis(5));
    let end = net.now() + Duration::from_millis(100);
    net.run_until(end);
    for number in 0..20 {
        send(&mut net, A, DatagramClass::Bulk, payload(number, 1200));
    }
    // At 10 Mbit/s most of them still wait.
    net.command(A, Command::SetAdmin { link: LinkId(0), up: false });
    for number in 20..30 {
        send(&mut net, A, DatagramClass::Control, payload(number, 100));
    }
    let gone = counters(&mut net, A);
    assert_eq!(gone.sent + gone.dropped(DatagramDrop::Dark), 30, "{gone:?}");
    assert!(gone.dropped(DatagramDrop::Dark) >= 20, "{gone:?}");
    net.command(A, Command::SetAdmin { link: LinkId(0), up: true });
    let end = net.now() + Duration::from_secs(5);
    net.run_until(end);
    let late = numbers(&net, B, DatagramClass::Bulk).len() as u64;
    assert!(late <= gone.sent, "{late}");
    send(&mut net, A, DatagramClass::Bulk, payload(99, 100));
    let end = net.now() + Duration::from_secs(1);
    net.run_until(end);
    assert_eq!(numbers(&net, B, DatagramClass::Bulk).last(), Some(&99));
}
