//! A relay of two workers: each owns one of its links, and what passes crosses a bounded ring.
//!
//! ```text
//!                    relay
//!   a ── wire 0 ── worker 0 ═ rings ═ worker 1 ── wire 1 ── b
//! ```
//!
//! Transit, alarms and outages across; frames that arrive at the wrong worker's queue; a ring that is full. The network
//! checks frames, rings and caps at each step.

use std::time::Duration;

use florelay_engine::api::{Command, LinkState, PeerState, TransferId};
use florelay_engine::config::{LinkId, PeerId, RatePlan};
use florelay_engine::egress::Class;
use florelay_engine::time::Nanos;
use florelay_sim::gateway::MessageSender;
use florelay_sim::net::NodeId;
use florelay_sim::random::{Random, random_workers};
use florelay_sim::ring::{RingCounters, RingModel};
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, line};

const A: NodeId = NodeId(0);
const RELAY: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const PEER: PeerId = PeerId(0);
const FILE: TransferId = TransferId(9);
const SECOND: u64 = 1_000_000_000;
const HOUR: Nanos = Nanos(3600 * SECOND);
const MS: Duration = Duration::from_millis(1);

/// Two hops of 5 ms at 20 Mbit/s, changed by `change`, over a relay of two workers with such rings.
fn relay(seed: u64, ring: RingModel, change: impl Fn(usize, LinkSpec) -> LinkSpec) -> Sim {
    let links = [0, 1].map(|hop| change(hop, LinkSpec::new(Some(20_000_000), 5 * MS)));
    let mut topology = line(&links);
    topology.split(1, &[0, 1]);
    topology.ring = ring;
    Scenario::new(topology).seed(seed).build()
}

fn connected(net: &mut Sim) {
    net.run_until_connected(&[(A, PEER), (B, PEER)], Nanos(10 * SECOND));
}

/// What the ring from the owner of a relay's link has counted.
fn ring(net: &Sim, from: u16) -> RingCounters {
    *net.port(net.owner(RELAY, LinkId(from))).rings().next().expect("a ring to the other worker").counters()
}

fn drops(net: &mut Sim, link: u16, reason: &str) -> u64 {
    let owner = net.owner(RELAY, LinkId(link));
    let status = net.node(owner).status();
    status.links[0].drops.iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| *count)
}

fn assert_through(net: &mut Sim) {
    let end = net.now() + Duration::from_secs(300);
    assert!(net.run_while(end, |net| !net.files_done()), "the transfer did not come to its end");
    net.run_until(net.now() + Duration::from_secs(5));
    for id in net.node_ids() {
        assert_eq!(net.port(id).held(), 0, "frames held at rest by {id:?}");
        assert!(net.port(id).rings().all(|ring| ring.waiting() == 0), "frames left in a ring of {id:?}");
    }
}

#[test]
fn each_link_is_capped_and_numbered_by_its_owner_alone() {
    let mut net = relay(1, RingModel::default(), |_, link| link);
    connected(&mut net);
    net.send_file(A, PEER, FILE, 5_000_000, 10);
    assert_through(&mut net);
    let (there, back) = (ring(&net, 0), ring(&net, 1));
    assert!(there.transit > 3000 && back.transit > 100, "{there:?} {back:?}");
    assert_eq!((there.received, there.full, back.full), (0, 0, 0));
    let outs = [(0, back), (1, there)].map(|(link, ring)| {
        let owner = net.owner(RELAY, LinkId(link));
        let status = net.node(owner).status();
        assert_eq!(status.links.len(), 1, "a worker has its own links only");
        // What left is what came through the ring; a few frames were the path's OAM, counted as such.
        let sent = status.links[0].egress.tx_frames;
        let path_oam = ring.transit - (sent[1] + sent[2]);
        assert!(path_oam < 20, "{path_oam} frames of {} are not accounted for", ring.transit);
        status.links[0].egress.tx_bytes.iter().sum::<u64>()
    });
    assert!(outs[1] > 5_000_000);
    // Numbered without a gap: the ends miss nothing.
    for id in [A, B] {
        let status = net.node(id).status();
        assert_eq!((status.links[0].rx_lost, status.links[0].rx_reordered), (0, 0));
    }
}

#[test]
fn a_trace_names_the_relay_and_the_far_end() {
    let mut net = relay(1, RingModel::default(), |_, link| link);
    connected(&mut net);
    net.command(A, Command::Trace { peer: PEER, token: 1 });
    net.run_until(net.now() + Duration::from_secs(2));
    let named: Vec<_> = net.gateway(A).hops.iter().map(|(hop, name)| (*hop, name.as_deref())).collect();
    assert_eq!(named, [(1, Some("relay-1")), (2, Some("b"))]);
}

/// Either hop goes dark: both ends are told, one by the relay's other worker, and go on within two round trips.
#[test]
fn both_ends_hear_of_either_hop_whoever_owns_it() {
    for_seeds(0..20, |seed| {
        let hop = (seed % 2) as usize;
        let (down, up) = (Nanos(8 * SECOND), Nanos(20 * SECOND));
        let mut net = relay(seed, RingModel::default(), |at, link| if at == hop { link.dark(down, up) } else { link });
        connected(&mut net);
        net.send_file(A, PEER, FILE, 30_000_000, 10);
        net.run_until(down);
        assert!(net.gateway(B).sinks[&FILE].received_bytes() > 1 << 20, "the transfer never got going");
        // Three silent intervals of 100 ms, and the way.
        net.run_until(down + Duration::from_millis(450));
        for id in [A, B] {
            assert!(matches!(net.peer_state(id, PEER), Some(PeerState::Dark(_))), "{id:?} was not told");
        }
        let other = net.owner(RELAY, LinkId(1 - hop as u16));
        assert_eq!(net.link_state(other, LinkId(1 - hop as u16)), Some(&LinkState::Up));
        net.run_until(up);
        for id in [A, B] {
            assert!(matches!(net.peer_state(id, PEER), Some(PeerState::Dark(_))), "{id:?} forgot");
        }
        net.run_until(up + Duration::from_secs(1));
        let first = net.gateway(B).sinks[&FILE].first_arrival_since(up).expect("the transfer went on");
        // Liveness may be silent for its interval first.
        assert!(first.since(up) <= 100 * MS + 2 * 20 * MS, "first new byte {:?} after link-up", first.since(up));
        assert_eq!(net.node(A).status().peers[0].counters.lost, 0, "the connection was lost");
        assert_through(&mut net);
    });
}

#[test]
fn a_far_hop_that_was_never_up_is_said_by_the_worker_that_knows_only_from_the_other() {
    let up = Nanos(15 * SECOND);
    let mut net = relay(3, RingModel::default(), |hop, link| if hop == 1 { link.dark(Nanos(0), up) } else { link });
    net.run_until(Nanos(2 * SECOND));
    assert!(matches!(net.peer_state(A, PEER), Some(PeerState::Dark(why)) if why.contains("beyond")));
    assert_eq!(net.link_state(A, LinkId(0)), Some(&LinkState::Up));
    net.run_until(up + Duration::from_secs(1));
    assert_eq!(net.peer_state(A, PEER), Some(&PeerState::Connected));
}

/// The worker of the far link is held up: its ring fills, what does not fit is counted, and QUIC repairs it.
#[test]
fn a_full_ring_drops_counts_and_loses_no_byte() {
    let slow = RingModel { capacity: 4, batch: 4, wake: 10 * MS };
    let mut net = relay(4, slow, |_, link| link.burst(40_000));
    connected(&mut net);
    net.send_file(A, PEER, FILE, 1_000_000, 10);
    assert_through(&mut net);
    let there = ring(&net, 0);
    assert!(there.full > 50, "{there:?}");
    assert_eq!(drops(&mut net, 0, "ring_full"), there.full, "each is counted by name on the link that it came by");
    assert_eq!(there.taken, there.transit);
}

/// RSS puts frames of a link on the other worker's queue: they cross, and are its owner's ingress.
#[test]
fn frames_at_the_wrong_queue_reach_their_owner() {
    let mut net = relay(5, RingModel::default(), |_, link| link);
    let owners = [0, 1].map(|link| net.owner(RELAY, LinkId(link)));
    net.land((owners[0], LinkId(0)), owners[1]);
    connected(&mut net);
    net.send_file(A, PEER, FILE, 2_000_000, 10);
    assert_through(&mut net);
    // Worker 1 receives, worker 0 looks up, worker 1 sends.
    let (looked_up, received) = (ring(&net, 0), ring(&net, 1));
    assert!(looked_up.transit > 1000 && received.received >= looked_up.transit, "{looked_up:?} {received:?}");
    let status = net.node(owners[0]).status();
    assert_eq!((status.links[0].rx_frames, status.links[0].rx_lost), (received.received, 0));
}

/// Run until every file and message is through.
fn finish(scenario: &mut Random, seed: u64) {
    let (a, b) = (scenario.a, scenario.b);
    scenario.net.run_until(Random::BEGUN);
    let done = scenario.net.run_while(HOUR, |net| {
        let said = [a, b].iter().all(|&id| net.gateway(id).senders.iter().all(MessageSender::is_done));
        !(said && net.files_done())
    });
    let net = &mut scenario.net;
    assert!(done, "seed {seed} is not through at {:?}: {}", net.now(), scenario.words);
    net.run_until(Random::QUIET.max(net.now() + Duration::from_secs(10)));
    for id in net.node_ids() {
        assert_eq!(net.port(id).held(), 0, "frames held at rest by {id:?}");
        assert!(net.port(id).rings().all(|ring| ring.waiting() == 0), "frames left in a ring of {id:?}");
    }
}

#[test]
fn files_and_messages_arrive_over_relays_of_two_workers() {
    for_seeds(2000..2120, |seed| finish(&mut random_workers(seed), seed));
}

#[test]
fn files_arrive_although_a_relay_of_two_workers_is_cut_off_power() {
    for_seeds(3000..3040, |seed| {
        let mut scenario = random_workers(seed);
        let at = Nanos(SECOND + seed % 40 * SECOND / 2);
        // The far end where there is no relay.
        scenario.net.at(at, |net| net.power_cut(RELAY, PEER));
        if scenario.b == RELAY {
            for id in [scenario.a, scenario.b] {
                scenario.net.gateway_mut(id).senders.clear();
            }
        }
        finish(&mut scenario, seed);
    });
}

#[test]
fn a_transit_frame_that_finds_its_queue_full_is_counted_once_whoever_owns_the_links() {
    for workers in [1, 2] {
        let mut topology = line(&[0, 1].map(|_| LinkSpec::new(Some(20_000_000), 5 * MS)));
        topology.config_mut(1).limits.transit_queue_bytes = 20_000;
        if workers == 2 {
            topology.split(1, &[0, 1]);
        }
        let mut net = Scenario::new(topology).seed(6).build();
        connected(&mut net);
        // Rain on the second link, of which A has not been told: what it sends too much is dropped at the relay.
        let owner = net.owner(RELAY, LinkId(1));
        net.set_rate(
            owner,
            LinkId(1),
            RatePlan { rate_bps: Some(2_000_000), burst_bytes: 6_000, control_percent: 100 },
        );
        net.send_file(A, PEER, FILE, 5_000_000, 10);
        assert_through(&mut net);
        let mut bulk = |id, link: u16| {
            let owner = net.owner(id, LinkId(link));
            let status = net.node(owner).status();
            let link = status.links.into_iter().find(|report| report.id == LinkId(link)).expect("its owner has it");
            let named: u64 = link.drops.iter().map(|(_, count)| count).sum();
            (link.egress.tx_frames[Class::Bulk.index()], named + link.egress.drops.iter().sum::<u64>())
        };
        let (came, _) = bulk(A, 0);
        let ((_, near), (left, far)) = (bulk(RELAY, 0), bulk(RELAY, 1));
        assert!(far > 100, "{workers} workers: only {far} dropped");
        assert_eq!((came, near), (left + far, 0), "{workers} workers");
    }
}

#[test]
fn equal_seeds_have_equal_traces() {
    for_seeds(0..6, |seed| {
        let run = || {
            let mut net = random_workers(seed).net;
            net.run_until(Nanos(30 * SECOND));
            (net.trace(), net.delivered(), net.steps())
        };
        assert_eq!(run(), run());
    });
}
