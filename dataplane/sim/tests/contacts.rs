//! Contact plans: scenario 13 (passes) and their edges, at one hop and at a far one.
//!
//! The link itself knows when it belongs to its sender: a frame that is not wholly serialised within a contact is counted
//! as `outside`, and the modem in it sends at the contact's rate, so that what waits in it is seen too.
//!
//! One seed again: `FLORELAY_SEED=17 cargo test -p florelay-sim --test contacts`.

use std::time::Duration;

use florelay_engine::api::{LinkState, PeerState, TransferId};
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::time::Nanos;
use florelay_sim::link::LinkModel;
use florelay_sim::net::{Egress, NodeId};
use florelay_sim::scenario::{Pass, Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, line, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LINK: LinkId = LinkId(0);
const PEER: PeerId = PeerId(0);
const FILE: TransferId = TransferId(13);
const SECOND: u64 = 1_000_000_000;

/// Passes of this length, one each `period`, the first after a tenth of it.
fn passes(count: u64, length: Duration, period: Duration, spec: &LinkSpec, delay: Duration) -> Vec<Pass> {
    let start = |index: u64| Nanos::ZERO + period / 10 + period * index as u32;
    (0..count).map(|index| Pass { start: start(index), end: start(index) + length, rate: spec.rate_a, delay }).collect()
}

fn bytes(rate_bps: u64, time: Duration) -> u64 {
    (u128::from(rate_bps) * time.as_nanos() / (8 * u128::from(SECOND))) as u64
}

/// A modem that carries what it gets at the rate of the contacts, whatever waits for it.
fn modem(passes: &[Pass], delay: Duration) -> LinkModel {
    LinkModel::with_delay(delay).rate(passes[0].rate.rate_bps.unwrap(), u64::MAX)
}

/// Both ends of a link, and the link itself, are told of its contacts.
fn tell(net: &mut Sim, ends: [Egress; 2], passes: &[Pass]) {
    let contacts: Vec<_> = passes.iter().map(|pass| (pass.start, pass.end)).collect();
    for end in ends {
        net.set_contacts(end, passes);
        net.link_mut(end).set_contacts(&contacts);
    }
}

fn outside(net: &Sim, links: &[Egress]) -> u64 {
    links.iter().map(|&from| net.link(from).outside()).sum()
}

/// A backlog for more than all passes and three commands said in each gap; every pass is looked at.
fn pass_plan(seed: u64, spec: &LinkSpec, passes: &[Pass], delay: Duration) {
    let rate = spec.rate_a.rate_bps.unwrap();
    let mut spec = spec.clone();
    (spec.model_ab, spec.model_ba) = (modem(passes, delay), modem(passes, delay));
    let mut net = Scenario::new(pair(spec)).seed(seed).write_delay(Duration::from_millis(1)).build();
    tell(&mut net, [(A, LINK), (B, LINK)], passes);
    let length = passes[0].end.since(passes[0].start);
    net.send_file(A, PEER, FILE, bytes(rate, length) * passes.len() as u64 * 2, 10);
    for (index, pass) in passes.iter().enumerate() {
        net.run_until(Nanos(pass.start.0 - SECOND));
        let LinkState::Down(reason) = net.link_state(A, LINK).unwrap() else { panic!("not down before its contact") };
        assert_eq!(**reason, format!("outside contact; next at {:?}", pass.start.since(Nanos::ZERO)));
        net.send_messages(A, PEER, net.now(), Duration::ZERO, 200, 3);
        net.run_until(Nanos(pass.start.0 - 1));
        let before = net.port(A).counters(LINK).sent_frames;
        let commands = net.gateway(B).inbox.latencies().len();
        net.run_until(pass.start);
        assert!(net.port(A).counters(LINK).sent_frames > before, "seed {seed}: no probe at the start of pass {index}");

        net.run_until(pass.end + delay);
        let usage = net.node(A).contacts(pass.end)[0].1.last.clone().unwrap();
        let carries = bytes(rate, length);
        assert_eq!((usage.key, usage.capacity_bytes), (pass.start.0, Some(carries)));
        // The first one has handshakes to make and a slow gateway to offer to: four round trips.
        let wanted = if index == 0 { carries * 90 / 100 } else { carries * 95 / 100 };
        let sent = usage.sent_bytes;
        assert!(
            sent >= wanted,
            "seed {seed}: {sent} of {carries} bytes used in pass {index} at {rate} bit/s, {delay:?}"
        );
        assert!(sent <= carries + u64::from(pass.rate.burst_bytes));

        let said = &net.gateway(B).inbox.latencies()[commands..];
        assert_eq!(said.len(), 3, "seed {seed}: commands in pass {index}");
        if index > 0 {
            let bulk = net.gateway(B).sinks[&FILE].first_arrival_since(pass.start).unwrap();
            assert!(said.iter().all(|&(at, _)| at <= bulk), "seed {seed}: {said:?} after bulk at {bulk:?}");
        }
        assert!(matches!(net.peer_state(A, PEER), Some(PeerState::Dark(_))));
    }
    assert_eq!(outside(&net, &[(A, LINK), (B, LINK)]), 0, "seed {seed}: frames outside a contact");
    assert_eq!(net.node(A).status().peers[0].counters.lost, 0, "the connection was lost");
    net.run_until(net.now() + Duration::from_secs(600));
    assert_eq!(outside(&net, &[(A, LINK), (B, LINK)]), 0, "seed {seed}: frames after the last contact");
}

/// Scenario 13 at a hundredth of its rate and a tenth of its times: one minute in each 9.6 at 3 Mbit/s, 40 ms.
#[test]
fn a_pass_is_used_to_its_end_and_nothing_is_outside() {
    for_seeds(0..3, |seed| {
        let delay = Duration::from_millis(40);
        let spec = LinkSpec::new(Some(3_000_000), delay);
        let passes = passes(3, Duration::from_secs(60), Duration::from_secs(576), &spec, delay);
        pass_plan(seed, &spec, &passes, delay);
    });
}

#[test]
fn passes_of_many_shapes() {
    for_seeds(100..124, |seed| {
        let delay = Duration::from_millis(5 + seed * 7 % 120);
        let rate = [500_000, 2_000_000, 8_000_000, 20_000_000][seed as usize % 4];
        let length = Duration::from_millis(8_000 + seed * 97 % 4_000);
        let period = length + Duration::from_millis(2_000 + seed * 7_919 % 60_000);
        let spec = LinkSpec::new(Some(rate), delay);
        pass_plan(seed, &spec, &passes(3, length, period, &spec, delay), delay);
    });
}

/// The second contact is over a way ten times as long, at four times the rate: windows follow the plan, not the least round
/// trip that was measured in the first.
#[test]
fn rate_and_delay_of_each_contact_hold_in_it() {
    for_seeds(0..4, |seed| {
        let near = Duration::from_millis(30);
        let far = Duration::from_millis(300);
        let spec = LinkSpec::new(Some(2_000_000), near);
        let mut plan = passes(2, Duration::from_secs(20), Duration::from_secs(60), &spec, near);
        plan[1].rate.rate_bps = Some(8_000_000);
        plan[1].delay = far;
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        for id in [A, B] {
            net.set_contacts((id, LINK), &plan);
        }
        net.at(plan[0].end + Duration::from_secs(5), move |net| {
            for id in [A, B] {
                net.link_mut((id, LINK)).set_model(LinkModel::with_delay(far));
            }
        });
        net.send_file(A, PEER, FILE, 60 << 20, 10);
        for (pass, wanted) in plan.iter().zip([90, 93]) {
            net.run_until(pass.end);
            let usage = net.node(A).contacts(pass.end)[0].1.last.clone().unwrap();
            let percent = usage.sent_bytes * 100 / usage.capacity_bytes.unwrap();
            assert!(percent >= wanted, "seed {seed}: {percent} % of the contact at {}", usage.name);
        }
    });
}

/// Two contacts that touch: the second one is slower. The cap is checked by the network in every window.
#[test]
fn a_contact_that_touches_the_next_changes_the_rate_without_a_gap() {
    let delay = Duration::from_millis(100);
    let spec = LinkSpec::new(Some(10_000_000), delay);
    let mut plan = passes(1, Duration::from_secs(10), Duration::from_secs(10), &spec, delay);
    let mut slow = Pass { start: plan[0].end, end: plan[0].end + Duration::from_secs(10), ..plan[0] };
    slow.rate.rate_bps = Some(2_000_000);
    plan.push(slow);
    let mut net = Scenario::new(pair(spec)).seed(3).build();
    for id in [A, B] {
        net.set_contacts((id, LINK), &plan);
    }
    net.send_file(A, PEER, FILE, 60 << 20, 10);
    net.run_until(slow.start);
    assert_eq!(net.link_state(A, LINK), Some(&LinkState::Up));
    for second in 0..8 {
        let before = net.port(A).rule(LINK).sent_bytes();
        net.run_until(slow.start + Duration::from_secs(second + 1));
        let sent = net.port(A).rule(LINK).sent_bytes() - before;
        let carries = bytes(2_000_000, Duration::from_secs(1));
        // In the first second what was under way at the old rate fills the new window.
        let wanted = if second == 0 { 80 } else { 98 };
        assert!(sent * 100 >= carries * wanted, "{sent} of {carries} bytes in second {second} after the change");
    }
    let ups = net.gateway(A).links.iter().filter(|(_, _, state)| *state == LinkState::Up).count();
    assert_eq!(ups, 1, "the link went down between two contacts that touch");
}

/// The hop beyond the relay has passes, the one before it has not: both ends are told at its edges, and stop and start.
#[test]
fn both_ends_of_a_path_know_of_a_far_hops_passes() {
    for_seeds(0..6, |seed| {
        let (near, far) = (Duration::from_millis(50), Duration::from_millis(80));
        let rate = 4_000_000;
        let mut specs = [LinkSpec::new(Some(rate), near), LinkSpec::new(Some(rate), far)];
        let plan = passes(3, Duration::from_secs(12), Duration::from_secs(50), &specs[1], far);
        (specs[1].model_ab, specs[1].model_ba) = (modem(&plan, far), modem(&plan, far));
        let (relay, end) = (NodeId(1), NodeId(2));
        let hop = [(relay, LinkId(1)), (end, LINK)];
        let mut net = Scenario::new(line(&specs)).seed(seed).write_delay(Duration::from_millis(1)).build();
        tell(&mut net, hop, &plan);
        let size = bytes(rate, Duration::from_secs(24)) * 9 / 10;
        net.send_file(A, PEER, FILE, size, 10);
        for (index, pass) in plan.iter().enumerate() {
            net.run_until(pass.start + 2 * (near + far));
            assert!(!matches!(net.peer_state(A, PEER), Some(PeerState::Dark(_))), "seed {seed}: dark in pass {index}");
            net.run_until(pass.end + near + Duration::from_millis(1));
            let Some(PeerState::Dark(why)) = net.peer_state(A, PEER) else {
                panic!("seed {seed}: not told of the end")
            };
            assert_eq!(&**why, "a link beyond the next node is outside its contact");
            assert!(matches!(net.peer_state(end, PEER), Some(PeerState::Dark(_))));
            let sent = net.port(A).rule(LINK).sent_bytes();
            net.run_until(pass.end + Duration::from_secs(20));
            let dark = net.port(A).rule(LINK).sent_bytes() - sent;
            assert!(dark < bytes(rate, Duration::from_secs(20)) / 100, "{dark} bytes sent towards a closed hop");
        }
        assert_eq!(outside(&net, &hop), 0, "seed {seed}: frames outside a contact");
        assert!(net.files_done(), "seed {seed}: not through after three passes");
        assert_eq!(net.node(A).status().peers[0].counters.lost, 0, "the connection was lost");
    });
}
