//! What a node says of its links: connecting, normal, degraded, failed; loss, delays and the clock error, against what the
//! simulated link does.
//!
//! One seed again: `FLORELAY_SEED=17 cargo test -p florelay-sim --test link_state`.

use std::time::Duration;

use bytes::Bytes;
use florelay_engine::ConditionReport;
use florelay_engine::api::Command;
use florelay_engine::config::{LinkId, PeerId};
use florelay_engine::oam::{ClockUnknown, Condition, Trace};
use florelay_engine::port::Ecn;
use florelay_engine::time::Nanos;
use florelay_sim::link::{LinkModel, Loss};
use florelay_sim::net::NodeId;
use florelay_sim::scenario::{Scenario, Sim};
use florelay_sim::seeds::for_seeds;
use florelay_sim::topo::{LinkSpec, pair};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const LINK: LinkId = LinkId(0);
const PEER: PeerId = PeerId(0);
const SECOND: u64 = 1_000_000_000;
const DELAY: Duration = Duration::from_millis(20);
/// 2026-11-21T12:34:56Z.
const WALL: u64 = 1_795_264_496 * SECOND;

fn report(net: &mut Sim, id: NodeId) -> ConditionReport {
    let now = net.now();
    net.node(id).conditions(now).remove(0)
}

/// Ten silent intervals mean down: at 12 % loss three in a row are lost now and then, and that is a failure, truly.
fn clean() -> LinkSpec {
    LinkSpec { detect_multiplier: 10, ..LinkSpec::new(Some(2_000_000), DELAY) }
}

/// The conditions of a node's link from `net.now()` to `end`, looked at each half second.
fn watch(net: &mut Sim, id: NodeId, end: Nanos) -> Vec<(u64, Condition)> {
    let mut seen: Vec<(u64, Condition)> = Vec::new();
    while net.now() < end {
        net.run_until(net.now() + Duration::from_millis(500));
        let condition = report(net, id).condition;
        if seen.last().is_none_or(|(_, last)| *last != condition) {
            seen.push((net.now().0 / SECOND, condition));
        }
    }
    seen
}

/// Loss that comes and goes, with traffic and without: degraded once, normal once, at both ends, whichever direction it is in.
#[test]
fn rising_loss_degrades_once_and_its_end_is_noticed_once() {
    for_seeds(0..12, |seed| {
        let lossy = LinkModel {
            loss_steps: vec![
                (Nanos(60 * SECOND), Loss::Bernoulli(0.02)),
                (Nanos(70 * SECOND), Loss::Bernoulli(0.06)),
                (Nanos(80 * SECOND), Loss::Bernoulli(0.12)),
                (Nanos(240 * SECOND), Loss::Bernoulli(0.0)),
            ],
            ..LinkModel::with_delay(DELAY)
        };
        let mut spec = clean();
        if seed % 2 == 0 {
            spec.model_ab = lossy;
        } else {
            spec.model_ba = lossy;
        }
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        if seed % 3 == 0 {
            net.send_messages(A, PEER, Nanos(SECOND), Duration::from_millis(20), 200, 20_000);
        }
        let end = Nanos(420 * SECOND);
        let seen = watch(&mut net, A, end);
        let [(_, Condition::Normal), (worse, Condition::Degraded), (better, Condition::Normal)] = seen[..] else {
            panic!("seed {seed}: {seen:?}")
        };
        assert!((60..120).contains(&worse), "seed {seed}: degraded at {worse} s");
        assert!((249..330).contains(&better), "seed {seed}: normal at {better} s");
        for id in [A, B] {
            let report = report(&mut net, id);
            assert_eq!((report.condition, report.changes), (Condition::Normal, 3), "seed {seed}: {report:?}");
            assert!(report.since < Duration::from_secs(180));
        }
    });
}

/// Ten minutes of a loss at and around the threshold: at most one change after the first.
#[test]
fn noise_around_the_threshold_does_not_flap() {
    for_seeds(100..140, |seed| {
        let share = [0.015, 0.018, 0.02, 0.022, 0.025][seed as usize % 5];
        let mut net = Scenario::new(pair(clean().both(|model| model.loss(share)))).seed(seed).build();
        if seed % 2 == 0 {
            net.send_messages(A, PEER, Nanos(SECOND), Duration::from_millis(20), 200, 29_000);
        }
        net.run_until(Nanos(600 * SECOND));
        for id in [A, B] {
            let report = report(&mut net, id);
            assert!(report.changes <= 2, "seed {seed}, loss {share}: {report:?}");
        }
    });
}

/// Each direction has its own loss; both ends know both.
#[test]
fn the_figures_are_those_of_the_link() {
    for_seeds(0..6, |seed| {
        let mut spec = clean();
        spec.model_ab = LinkModel { jitter: Duration::from_millis(4), ..LinkModel::with_delay(DELAY) };
        spec.model_ba = LinkModel::with_delay(2 * DELAY).loss(0.1);
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        net.send_messages(B, PEER, Nanos(SECOND), Duration::from_millis(4), 200, 100_000);
        net.run_until(Nanos(120 * SECOND));
        let (a, b) = (report(&mut net, A).figures, report(&mut net, B).figures);
        let about = |ppm: Option<u32>| (85_000..115_000).contains(&ppm.unwrap());
        assert!(about(a.receive.long.loss_ppm()), "seed {seed}: {:?}", a.receive);
        assert!(about(b.send.unwrap().long.loss_ppm()), "seed {seed}: {:?}", b.send);
        assert_eq!((a.send.unwrap().long.lost, b.receive.long.lost), (0, 0), "seed {seed}: nothing is lost that way");
        // What is sent is what ought to come: 250 messages a second and more, in both views.
        let seen = (a.receive.long.expected, b.send.unwrap().long.expected);
        assert!(seen.0 > 60 * 250 && seen.0.abs_diff(seen.1) < seen.0 / 20, "seed {seed}: {seen:?}");

        let rtt = a.rtt.unwrap();
        let within = |rtt: Duration| (3 * DELAY..3 * DELAY + Duration::from_millis(14)).contains(&rtt);
        assert!(within(rtt.shortest) && within(rtt.smoothed) && within(rtt.latest), "seed {seed}: {rtt:?}");
        assert!(rtt.shortest <= rtt.smoothed.min(rtt.latest));
        // Only the way from A to B has jitter; what the other way has comes from frames in front of liveness.
        let (of_a, of_b) = (a.jitter.unwrap(), b.jitter.unwrap());
        let half = Duration::from_micros(500);
        assert!(of_a < half && of_b > half, "seed {seed}: {of_a:?}, {of_b:?}");
    });
}

#[test]
fn frames_out_of_order_are_not_lost() {
    for_seeds(0..4, |seed| {
        let spec = clean().both(|model| LinkModel { reorder: 0.05, reorder_delay: Duration::from_millis(15), ..model });
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        net.send_messages(A, PEER, Nanos(SECOND), Duration::from_millis(4), 200, 100_000);
        net.run_until(Nanos(90 * SECOND));
        let report = report(&mut net, B);
        let long = report.figures.receive.long;
        assert!((30_000..70_000).contains(&long.reorder_ppm().unwrap()), "seed {seed}: {long:?}");
        assert!(long.lost <= 2, "seed {seed}: late at the moment of looking at most: {long:?}");
        assert_eq!(report.condition, Condition::Normal);
    });
}

/// A round trip that grows by a queue somewhere degrades, with the reason.
#[test]
fn a_growing_round_trip_degrades() {
    let mut spec = clean();
    spec.model_ab.delay_steps = vec![(Nanos(60 * SECOND), Duration::from_millis(300)), (Nanos(120 * SECOND), DELAY)];
    let mut net = Scenario::new(pair(spec)).seed(1).build();
    net.run_until(Nanos(100 * SECOND));
    let worse = report(&mut net, B);
    assert_eq!((worse.condition, worse.changes), (Condition::Degraded, 2));
    let reason = worse.reason.unwrap();
    assert!(reason.starts_with("round trip 3") && reason.contains("instead of 40."), "{reason}");
    net.run_until(Nanos(150 * SECOND));
    assert_eq!(report(&mut net, B).condition, Condition::Normal);
}

/// An outage is a failure, and does not leave a degraded link behind: what was lost in the dark is not the link's loss.
#[test]
fn an_outage_fails_and_ends_in_normal() {
    for_seeds(0..8, |seed| {
        let spec = clean().dark(Nanos(30 * SECOND), Nanos(45 * SECOND));
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        assert_eq!(report(&mut net, A).condition, Condition::Connecting);
        net.send_messages(A, PEER, Nanos(SECOND), Duration::from_millis(4), 200, 25_000);
        net.run_until(Nanos(40 * SECOND));
        let failed = report(&mut net, A);
        assert_eq!((failed.condition, failed.changes), (Condition::Failed, 2));
        assert_eq!(failed.reason.as_deref(), Some("nothing heard from the neighbour within the detection time"));
        assert!((Duration::from_secs(9)..Duration::from_secs(10)).contains(&failed.since), "{:?}", failed.since);
        let seen = watch(&mut net, A, Nanos(110 * SECOND));
        assert_eq!(seen[seen.len() - 1].1, Condition::Normal, "seed {seed}: {seen:?}");
        let report = report(&mut net, B);
        assert_eq!((report.condition, report.changes), (Condition::Normal, 3), "seed {seed}: {report:?}");
    });
}

#[test]
fn a_link_that_is_held_or_has_no_carrier_says_so() {
    let mut net = Scenario::new(pair(clean())).seed(1).build();
    net.run_until(Nanos(5 * SECOND));
    for (down, up, why) in [
        (
            Command::SetAdmin { link: LINK, up: false },
            Command::SetAdmin { link: LINK, up: true },
            "held down by the operator",
        ),
        (
            Command::SetCarrier { link: LINK, state: Err("no carrier on eth1".into()) },
            Command::SetCarrier { link: LINK, state: Ok(()) },
            "no carrier on eth1",
        ),
    ] {
        let changes = report(&mut net, A).changes;
        net.command(A, down);
        let held = report(&mut net, A);
        assert_eq!((held.condition, held.reason.as_deref()), (Condition::Failed, Some(why)));
        net.run_until(net.now() + Duration::from_secs(3));
        net.command(A, up);
        assert_eq!(report(&mut net, A).condition, Condition::Connecting);
        net.run_until(net.now() + Duration::from_secs(3));
        let back = report(&mut net, A);
        assert_eq!((back.condition, back.changes, back.reason), (Condition::Normal, changes + 3, None));
    }
}

/// Stations whose clocks are off by a known amount, over ways that are longer in one direction: what is shown is right within
/// what is shown beside it.
#[test]
fn the_true_clock_error_is_within_its_bound() {
    for_seeds(0..24, |seed| {
        let off_ns = [0, 3_200_000, -750_000_000, 86_400_000_000_000, -5_000][seed as usize % 5];
        let (there, back) = [(20, 20), (5, 320), (300, 10), (1, 1)][seed as usize % 4];
        let (there, back) = (Duration::from_millis(there), Duration::from_millis(back));
        let mut spec = clean();
        let jitter = Duration::from_millis(seed % 7 * 3);
        spec.model_ab = LinkModel { jitter, ..LinkModel::with_delay(there).loss(0.02) };
        spec.model_ba = LinkModel { jitter, ..LinkModel::with_delay(back).loss(0.02) };
        let mut net = Scenario::new(pair(spec)).seed(seed).build();
        net.run_until(Nanos(3 * SECOND));
        assert_eq!(report(&mut net, A).figures.clock, Err(ClockUnknown::OwnClock), "nobody has said the time yet");
        net.command(A, Command::SetWallClock { at_zero_ns: Some(WALL) });
        net.run_until(Nanos(5 * SECOND));
        assert_eq!(report(&mut net, A).figures.clock, Err(ClockUnknown::NeighboursClock));
        assert_eq!(report(&mut net, B).figures.clock, Err(ClockUnknown::OwnClock));
        net.command(B, Command::SetWallClock { at_zero_ns: WALL.checked_add_signed(off_ns) });
        if seed % 2 == 0 {
            net.send_messages(A, PEER, net.now(), Duration::from_millis(4), 200, 100_000);
        }
        for _ in 0..40 {
            net.run_until(net.now() + Duration::from_secs(2));
            let (a, b) = (report(&mut net, A).figures, report(&mut net, B).figures);
            for (clock, truth, to, from) in [(a.clock, off_ns, there, back), (b.clock, -off_ns, back, there)] {
                let clock = clock.unwrap();
                let beside = format!("seed {seed}: {clock:?}, in truth {truth}, {to:?} there and {from:?} back");
                assert!(clock.error_ns.abs_diff(truth) <= clock.bound_ns, "{beside}");
                // No wider than half of the round trip and what is allowed for readings and drift.
                let most = (to + from + 2 * jitter) / 2 + Duration::from_millis(20);
                assert!(u128::from(clock.bound_ns) <= most.as_nanos(), "{beside}");
                for (shown, truth) in [(clock.there, to), (clock.back, from)] {
                    let apart = shown.abs_diff(truth).saturating_sub(jitter + Duration::from_millis(8));
                    assert!(apart.as_nanos() <= u128::from(clock.bound_ns), "{beside}");
                }
            }
        }
        // One of them is set: what was known is forgotten, and the new error known at once.
        let now_off = off_ns - 90_000_000_000;
        net.command(B, Command::SetWallClock { at_zero_ns: WALL.checked_add_signed(now_off) });
        net.run_until(net.now() + Duration::from_secs(3));
        let clock = report(&mut net, A).figures.clock.unwrap();
        assert!(clock.error_ns.abs_diff(now_off) <= clock.bound_ns, "seed {seed}: {clock:?}");
        net.command(B, Command::SetWallClock { at_zero_ns: None });
        net.run_until(net.now() + Duration::from_secs(3));
        assert_eq!(report(&mut net, A).figures.clock, Err(ClockUnknown::NeighboursClock));
        assert_eq!(report(&mut net, B).figures.clock, Err(ClockUnknown::OwnClock));
    });
}

/// More OAM than a slow link carries: what waits behind a full queue waits without asking for the processor all the time. The
/// network refuses a node that wants to be woken again and again at the same instant.
#[test]
fn a_full_queue_of_oam_waits_without_spinning() {
    let mut spec = clean();
    spec.rate_b.rate_bps = Some(20_000);
    let topology = pair(spec);
    let mut trace = Trace::new(&topology.config(0).peers[0].0, 7, Duration::from_secs(600));
    let mut net = Scenario::new(topology).seed(1).build();
    net.run_until(Nanos(5 * SECOND));
    let mut request = [0; florelay_engine::oam::TRACE_REQUEST_BYTES];
    let length = trace.poll_transmit(net.now(), &mut request).unwrap();
    for _ in 0..700 {
        net.inject(B, LINK, Bytes::copy_from_slice(&request[..length]), Ecn::NotEct);
    }
    net.run_until(net.now() + Duration::from_millis(1));
    assert!(net.node(B).status().links[0].oam_dropped > 0, "both queues were full");
    let steps = net.steps();
    net.run_until(net.now() + Duration::from_secs(5));
    // A hundred or so replies leave in that time.
    assert!(net.steps() - steps < 2_000, "{} steps", net.steps() - steps);
}
