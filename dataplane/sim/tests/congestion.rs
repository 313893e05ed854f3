//! What congestion control does where the plan and the path are not of one mind.
//!
//! ```text
//!   a ── 16 Mbit/s ── relay ── 4 Mbit/s ── b      the relay's queue marks CE
//!   c ── 16 Mbit/s ──┘
//!   a ── plan 4 Mbit/s, a hop beyond it that carries 2 ── b       nobody marks; the queue stands
//! ```

use std::time::Duration;

use florelay_engine::api::TransferId;
use florelay_engine::config::{Congestion, LinkId, PeerId};
use florelay_engine::port::Ecn;
use florelay_engine::time::Nanos;
use florelay_sim::link::{LinkModel, Packet};
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, Topology, line, pair};

const A: NodeId = NodeId(0);
const RELAY: NodeId = NodeId(1);
const PEER: PeerId = PeerId(0);
const FILE: TransferId = TransferId(7);
const SECOND: u64 = 1_000_000_000;
const MS: Duration = Duration::from_millis(1);
/// More than any run here moves.
const HUGE: u64 = 100_000_000;
/// The contracted rate.
const PLAN: u64 = 4_000_000;
/// QUIC's share of a full frame at layer 2, and of that the share of a file's bytes.
const PAYLOAD_SHARE: f64 = 1427.0 / 1514.0;

fn connected(net: &mut Sim, ends: &[NodeId]) {
    let ends: Vec<_> = ends.iter().map(|&id| (id, PEER)).collect();
    net.run_until_connected(&ends, Nanos(20 * SECOND));
}

/// What a file's receiver got in `[from, until)`, as a share of what `bps` carries.
fn goodput(net: &Sim, at: NodeId, file: TransferId, [from, until]: [u64; 2], bps: u64) -> f64 {
    let bytes = net.gateway(at).sinks[&file].received_between(Nanos(from * SECOND), Nanos(until * SECOND));
    bytes as f64 * 8.0 / ((until - from) as f64 * bps as f64 * PAYLOAD_SHARE)
}

/// The largest smoothed round trip of A's bulk connection, looked at each 50 ms until `end`.
fn largest_rtt(net: &mut Sim, end: Nanos) -> Duration {
    let mut largest = Duration::ZERO;
    while net.now() < end {
        net.run_until((net.now() + 50 * MS).min(end));
        largest = largest.max(net.node(A).status().peers[0].rtt.expect("a round trip"));
    }
    largest
}

/// A line with a fast first hop and a slow second one; the relay has one worker or two.
fn slow_second_hop(seed: u64, delay: Duration, workers: usize) -> Sim {
    let mut topology = line(&[4 * PLAN, PLAN].map(|bps| LinkSpec::new(Some(bps), delay)));
    if workers == 2 {
        topology.split(1, &[0, 1]);
    }
    Scenario::new(topology).seed(seed).frames(16 << 10).build()
}

#[test]
fn a_relay_marks_and_the_sender_leaves_its_queue_short() {
    for (workers, one_way, seeds) in [(1, 10, 3), (2, 10, 2), (1, 160, 2)] {
        for_seeds(0..seeds, |seed| {
            let mut net = slow_second_hop(seed, one_way * MS, workers);
            connected(&mut net, &[A, NodeId(2)]);
            net.send_file(A, PEER, FILE, HUGE, 10);
            let rtt = 4 * one_way * MS;
            let span = if one_way > 100 { [20, 60] } else { [10, 20] };
            net.run_until(Nanos(span[0] * SECOND));
            let largest = largest_rtt(&mut net, Nanos(span[1] * SECOND));
            let signals = net.node(A).status().peers[0].signals;
            let out = net.owner(RELAY, LinkId(1));
            let marked: u64 = net.node(out).status().links.iter().map(|link| link.egress.ecn_marked).sum();
            let seen = net.node(NodeId(2)).status().links[0].rx_ecn_ce;
            let used = goodput(&net, NodeId(2), FILE, span, PLAN);
            println!(
                "{workers} workers, {rtt:?}, seed {seed}: {used:.3}, rtt <= {largest:?}, {marked} marked, {signals:?}"
            );
            assert!(marked > 0 && seen > 0 && signals.ecn > 0, "{marked} marked, {seen} seen, {signals:?}");
            assert!(seen <= marked, "{seen} seen of {marked}");
            // 20 ms of queue before marks, and what comes in the round trip until they tell.
            assert!(largest <= rtt + 60 * MS + rtt / 10, "seed {seed}: {largest:?} on a way of {rtt:?}");
            assert!(used >= 0.95, "seed {seed}: {used} of the slow hop");
        });
    }
}

#[test]
fn paths_that_share_a_relays_link_have_equal_parts() {
    for_seeds(0..3, |seed| {
        let mut topology = Topology::new();
        let [a, relay, b, c] = ["a", "relay", "b", "c"].map(|name| topology.node(name));
        let spec = |bps, ms| LinkSpec::new(Some(bps), ms * MS);
        let near = topology.link(a, relay, spec(4 * PLAN, 10));
        let far = topology.link(relay, b, spec(PLAN, 20));
        // Six times as far away.
        let other = topology.link(c, relay, spec(4 * PLAN, 160));
        topology.path(a, &[near, far], 100);
        topology.path(c, &[other, far], 100);
        let mut net = Scenario::new(topology).seed(seed).frames(16 << 10).build();
        connected(&mut net, &[A, NodeId(3)]);
        net.send_file(A, PEER, FILE, HUGE, 10);
        net.send_file(NodeId(3), PEER, TransferId(8), HUGE, 10);
        net.run_until(Nanos(60 * SECOND));
        let shares = [FILE, TransferId(8)].map(|file| goodput(&net, NodeId(2), file, [30, 60], PLAN));
        println!("seed {seed}: {shares:?}");
        assert!(shares[0] + shares[1] >= 0.95, "seed {seed}: {shares:?}");
        assert!((shares[0] - shares[1]).abs() <= 0.05, "seed {seed}: {shares:?}");
    });
}

/// A plan of 4 Mbit/s over a way whose hop beyond carries `bps` and holds 4 MB.
fn slower_beyond(rtt: Duration, seed: u64, change: impl Fn(LinkModel) -> LinkModel) -> Sim {
    let mut spec = LinkSpec::new(Some(PLAN), rtt / 2);
    spec.model_ab = change(spec.model_ab);
    let mut net = Scenario::new(pair(spec)).seed(seed).frames(16 << 10).build();
    connected(&mut net, &[A, NodeId(1)]);
    net.send_file(A, PEER, FILE, HUGE, 10);
    net
}

#[test]
fn a_slower_hop_beyond_is_kept_busy_and_its_queue_short() {
    for (rtt, span) in [(20, [10, 20]), (60, [10, 20]), (650, [80, 110])] {
        let rtt = rtt * MS;
        for bps in [3_800_000, 2_000_000, 400_000] {
            for_seeds(0..2, |seed| {
                let mut net = slower_beyond(rtt, seed, |model| model.rate(bps, 4 << 20));
                net.run_until(Nanos(span[0] * SECOND));
                let largest = largest_rtt(&mut net, Nanos(span[1] * SECOND));
                let used = goodput(&net, NodeId(1), FILE, span, bps);
                let report = &net.node(A).status().peers[0];
                let (signals, lost) = (report.signals, report.lost_packets);
                println!("{rtt:?} {bps}, seed {seed}: {used:.3}, rtt <= {largest:?}, {signals:?}, {lost} lost");
                assert!(used >= 0.9, "{rtt:?} {bps}, seed {seed}: {used}");
                // A quarter of the way or 25 ms, frames and acknowledgements in between.
                let frames = Duration::from_secs_f64(12.0 * 12112.0 / bps as f64);
                let bound = rtt + (rtt / 4).max(60 * MS) + frames;
                assert!(largest <= bound, "{rtt:?} {bps}, seed {seed}: {largest:?}, wanted {bound:?}");
                assert_eq!(lost, 0, "{rtt:?} {bps}, seed {seed}: the queue ran over");
            });
        }
    }
}

#[test]
fn a_hop_that_gets_faster_again_is_filled() {
    for_seeds(0..3, |seed| {
        let steps = vec![(Nanos(30 * SECOND), Some(20_000_000))];
        let change = |model: LinkModel| LinkModel { rate_steps: steps.clone(), ..model.rate(800_000, 4 << 20) };
        let mut net = slower_beyond(300 * MS, seed, change);
        net.run_until(Nanos(60 * SECOND));
        let [slow, fast] =
            [([15, 30], 800_000), ([45, 60], PLAN)].map(|(span, bps)| goodput(&net, NodeId(1), FILE, span, bps));
        println!("seed {seed}: {slow:.3} before, {fast:.3} after");
        assert!(slow >= 0.9 && fast >= 0.95, "seed {seed}: {slow} before, {fast} after");
    });
}

#[test]
fn a_longer_way_is_not_taken_for_a_queue_for_ever() {
    for_seeds(0..3, |seed| {
        // 40 ms, then 200 ms: more than the window of the shorter way has room for.
        let steps = vec![(Nanos(20 * SECOND), 180 * MS)];
        let change = |model: LinkModel| LinkModel { delay_steps: steps.clone(), ..model };
        let mut net = slower_beyond(40 * MS, seed, change);
        net.run_until(Nanos(60 * SECOND));
        let signals = net.node(A).status().peers[0].signals;
        let [soon, after] = [[20, 30], [30, 60]].map(|span| goodput(&net, NodeId(1), FILE, span, PLAN));
        println!("seed {seed}: {soon:.3} in the first 10 s, {after:.3} after, {signals:?}");
        assert!(signals.longer_way >= 1, "seed {seed}: {signals:?}");
        assert!(soon >= 0.8 && after >= 0.98, "seed {seed}: {soon} in the first 10 s, {after} after");
    });
}

#[test]
fn steps_of_a_low_orbit_and_jitter_cost_nothing() {
    for_seeds(0..3, |seed| {
        let steps: Vec<_> =
            (1..8).map(|n| (Nanos(15 * n * SECOND), if n % 2 == 0 { 20 * MS } else { 40 * MS })).collect();
        let change = |model: LinkModel| LinkModel { delay_steps: steps.clone(), jitter: 8 * MS, ..model };
        let mut net = slower_beyond(40 * MS, seed, change);
        net.run_until(Nanos(120 * SECOND));
        let used = goodput(&net, NodeId(1), FILE, [5, 120], PLAN);
        println!("seed {seed}: {used:.3}, {:?}", net.node(A).status().peers[0].signals);
        assert!(used >= 0.97, "seed {seed}: {used}");
    });
}

#[test]
fn both_connections_agree_on_fewer_acknowledgements() {
    for_seeds(0..2, |seed| {
        let mut net = slower_beyond(100 * MS, seed, |model| model);
        net.send_messages(A, PEER, net.now(), 20 * MS, 100, 10);
        net.run_until(Nanos(5 * SECOND));
        for id in [A, NodeId(1)] {
            let asked = net.node(id).status().peers[0].ack_frequency;
            assert!(asked.iter().all(|frames| *frames > 0), "seed {seed}, {id:?}: {asked:?}");
        }
    });
}

#[test]
fn loss_alone_leaves_the_window_alone() {
    for_seeds(0..3, |seed| {
        let mut net = slower_beyond(300 * MS, seed, |model| model.loss(0.05));
        net.run_until(Nanos(40 * SECOND));
        let used = goodput(&net, NodeId(1), FILE, [10, 40], PLAN) / 0.95;
        let signals = net.node(A).status().peers[0].signals;
        println!("seed {seed}: {used:.3}, {signals:?}");
        assert_eq!((signals.ecn, signals.queue, signals.longer_way), (0, 0, 0), "seed {seed}");
        assert!(used >= 0.9, "seed {seed}: {used}");
    });
}

#[test]
fn cubic_and_bbr_carry_a_file_over_a_link_that_loses() {
    for congestion in [Congestion::Shared, Congestion::SharedBbr] {
        for_seeds(0..3, |seed| {
            let mut spec = LinkSpec::new(Some(20_000_000), 20 * MS).both(|model| model.loss(0.01));
            spec.congestion = congestion;
            let mut net = Scenario::new(pair(spec)).seed(seed).frames(16 << 10).build();
            connected(&mut net, &[A, NodeId(1)]);
            let start = net.now();
            net.send_file(A, PEER, FILE, 10_000_000, 10);
            let done = net.run_while(start + Duration::from_secs(300), |net| !net.files_done());
            assert!(done, "{congestion:?}, seed {seed}: not through");
            println!("{congestion:?}, seed {seed}: {:?}", net.now().since(start));
        });
    }
}

#[test]
fn bbr_is_what_runs_where_it_is_asked_for() {
    // Loss halves CUBIC's window again and again; BBR measures what arrives.
    let through = [Congestion::Shared, Congestion::SharedBbr].map(|congestion| {
        let mut spec = LinkSpec::new(Some(PLAN), 200 * MS).both(|model| model.loss(0.02));
        spec.congestion = congestion;
        let mut net = Scenario::new(pair(spec)).seed(1).frames(16 << 10).build();
        connected(&mut net, &[A, NodeId(1)]);
        net.send_file(A, PEER, FILE, HUGE, 10);
        net.run_until(Nanos(40 * SECOND));
        goodput(&net, NodeId(1), FILE, [10, 40], PLAN)
    });
    println!("CUBIC {:.3}, BBR {:.3}", through[0], through[1]);
    assert!(through[1] >= 2.0 * through[0], "{through:?}");
}

#[test]
fn after_the_dark_each_connection_keeps_its_own_time() {
    for_seeds(0..4, |seed| {
        let (dark, up) = (Nanos(15 * SECOND), Nanos(20 * SECOND));
        let spec = LinkSpec::new(Some(PLAN), 325 * MS).dark(dark, up);
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        connected(&mut net, &[A, NodeId(1)]);
        net.send_file(A, PEER, FILE, HUGE, 10);
        net.send_messages(A, PEER, Nanos(5 * SECOND), 70 * MS, 100, 1000);
        net.run_until(dark);
        for _ in 0..80 {
            net.run_until(net.now() + 100 * MS);
            let report = &net.node(A).status().peers[0];
            for rtt in [report.rtt, report.control_rtt] {
                let rtt = rtt.expect("a round trip");
                assert!(rtt <= 720 * MS, "seed {seed}: {rtt:?} on a way of 650 ms at {:?}", net.now());
            }
        }
    });
}

#[test]
fn a_window_of_a_few_packets_grows_again() {
    for slow in [140_000, 200_000, 240_000] {
        for_seeds(0..2, |seed| {
            // The slow hop beyond bounds the window to what it carries, then the way is dark, and comes back fast.
            let mut spec = LinkSpec::new(Some(PLAN), 100 * MS).dark(Nanos(35 * SECOND), Nanos(50 * SECOND));
            let steps = vec![(Nanos(45 * SECOND), Some(20_000_000))];
            spec.model_ab = LinkModel { rate_steps: steps, ..spec.model_ab.clone().rate(slow, 4 << 20) };
            let mut net = Scenario::new(pair(spec)).seed(seed).frames(16 << 10).build();
            connected(&mut net, &[A, NodeId(1)]);
            net.send_file(A, PEER, FILE, HUGE, 10);
            net.run_until(Nanos(120 * SECOND));
            let used = goodput(&net, NodeId(1), FILE, [110, 120], PLAN);
            assert!(used >= 0.95, "after {slow} bit/s, seed {seed}: {used} of the plan");
        });
    }
}

#[test]
fn a_hop_that_falls_to_a_fortieth_is_no_longer_way() {
    for_seeds(0..3, |seed| {
        let steps = vec![(Nanos(30 * SECOND), Some(PLAN / 40))];
        let change = |model: LinkModel| LinkModel { rate_steps: steps.clone(), ..model.rate(PLAN, 4 << 20) };
        let mut net = slower_beyond(40 * MS, seed, change);
        net.run_until(Nanos(120 * SECOND));
        let largest = largest_rtt(&mut net, Nanos(180 * SECOND));
        let used = goodput(&net, NodeId(1), FILE, [120, 180], PLAN / 40);
        println!("seed {seed}: {used:.3}, rtt <= {largest:?}");
        assert!(largest <= Duration::from_secs(2), "seed {seed}: {largest:?} on a way of 40 ms");
        assert!(used >= 0.8, "seed {seed}: {used} of the slow hop");
    });
}

#[test]
fn marks_on_a_trickle_say_nothing_of_the_path() {
    for_seeds(0..3, |seed| {
        let mut net = Scenario::new(pair(LinkSpec::new(Some(PLAN), 150 * MS))).seed(seed).frames(16 << 10).build();
        connected(&mut net, &[A, NodeId(1)]);
        let window = net.node(A).status().peers[0].cwnd;
        // All that leaves is marked, and it is next to nothing: a small file each 100 ms.
        let marked = |packet: &Packet| vec![Packet { ecn: Ecn::Ce, ..packet.clone() }];
        net.meddle((A, LinkId(0)), Box::new(marked));
        for file in 0..30 {
            net.send_file(A, PEER, TransferId(100 + file), 4_000, 10);
            net.run_until(net.now() + 100 * MS);
        }
        assert!(net.node(NodeId(1)).status().links[0].rx_ecn_ce > 30, "nothing was marked");
        assert!(net.node(A).status().peers[0].cwnd >= window / 2, "{} of {window}", net.node(A).status().peers[0].cwnd);
    });
}
