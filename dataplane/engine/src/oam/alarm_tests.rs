//! A relay with a dark far hop and the end that listens, over a lossy way between.

use florelay_wire::link::{Body, parse};
use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;
const A: LinkId = LinkId(0);
const B: LinkId = LinkId(1);

fn label(n: u32) -> Label {
    Label::new(n).unwrap()
}

fn row(n: u32) -> TransitConfig {
    TransitConfig {
        a: TransitEnd { link: A, in_label: label(100 + n), out_label: label(200 + n) },
        b: TransitEnd { link: B, in_label: label(300 + n), out_label: label(400 + n) },
        weight: 1,
    }
}

/// All alarms due now: link, forward label, backward label, alarm.
fn due(alarms: &mut Alarms, now: Nanos) -> Vec<(LinkId, u32, u32, Alarm)> {
    let mut buf = [0; ALARM_FRAME_BYTES];
    let mut out = Vec::new();
    while let Some((link, len)) = alarms.poll_transmit(now, &mut buf) {
        let frame = parse(&buf[..len]).unwrap();
        let Body::Channel { ach, message } = frame.body else { panic!("a channel") };
        assert_eq!((ach.channel, frame.forward.tc, frame.forward.ttl), (ChannelType::Alarm, Tc::OAM, PATH_TTL));
        let backward = frame.backward.unwrap().label.get();
        out.push((link, frame.forward.label.get(), backward, Alarm::parse(message).unwrap()));
    }
    assert!(alarms.next_timeout() > now);
    out
}

/// Runs the relay's timeouts until `end`; the times at which it spoke, and what it said.
fn speak_until(alarms: &mut Alarms, end: Nanos) -> Vec<(Nanos, Alarm)> {
    let mut said = Vec::new();
    while alarms.next_timeout() <= end {
        let now = alarms.next_timeout();
        said.extend(due(alarms, now).into_iter().map(|(_, _, _, alarm)| (now, alarm)));
    }
    said
}

fn both_up() -> Alarms {
    let mut alarms = Alarms::new(77, &[row(0), row(1)], |_| true);
    alarms.link_up(Nanos(0), A);
    alarms.link_up(Nanos(0), B);
    speak_until(&mut alarms, Nanos(1000 * MS));
    assert_eq!(alarms.next_timeout(), Nanos::MAX);
    alarms
}

#[test]
fn an_edge_goes_to_the_other_end_of_every_row() {
    let mut alarms = both_up();
    let now = Nanos(2000 * MS);
    alarms.link_down(now, B, alarm_reason::LIVENESS);
    let said = due(&mut alarms, now);
    let to: Vec<_> = said.iter().map(|(link, forward, backward, _)| (*link, *forward, *backward)).collect();
    assert_eq!(to, [(A, 200, 100), (A, 201, 101)]);
    for (.., alarm) in said {
        assert_eq!((alarm.kind, alarm.reason, alarm.node), (AlarmKind::Down, alarm_reason::LIVENESS, 77));
    }
    alarms.link_up(Nanos(2050 * MS), B);
    let said = due(&mut alarms, Nanos(2050 * MS));
    assert_eq!(said.iter().map(|s| s.3.kind).collect::<Vec<_>>(), [AlarmKind::Up; 2]);
    alarms.link_down(Nanos(3000 * MS), A, alarm_reason::ADMIN);
    let to: Vec<_> = due(&mut alarms, Nanos(3000 * MS)).iter().map(|s| (s.0, s.1, s.2)).collect();
    assert_eq!(to, [(B, 400, 300), (B, 401, 301)]);
}

#[test]
fn down_is_repeated_quickly_then_slowly_and_up_three_times() {
    let mut alarms = Alarms::new(77, &[row(0)], |_| true);
    alarms.link_up(Nanos(0), A);
    alarms.link_up(Nanos(0), B);
    speak_until(&mut alarms, Nanos(1000 * MS));
    alarms.link_down(Nanos(1000 * MS), B, alarm_reason::CARRIER);
    let times: Vec<_> = speak_until(&mut alarms, Nanos(4500 * MS)).iter().map(|(at, _)| at.0 / MS).collect();
    assert_eq!(times, [1000, 1100, 1200, 2200, 3200, 4200]);
    alarms.link_up(Nanos(4500 * MS), B);
    let said = speak_until(&mut alarms, Nanos(60_000 * MS));
    assert_eq!(said.iter().map(|(at, _)| at.0 / MS).collect::<Vec<_>>(), [4500, 4600, 4700]);
    assert!(said.iter().all(|(_, alarm)| alarm.kind == AlarmKind::Up));
    assert_eq!(alarms.next_timeout(), Nanos::MAX);
    // The same edge again is none.
    alarms.link_up(Nanos(5000 * MS), B);
    assert_eq!(alarms.next_timeout(), Nanos::MAX);
}

#[test]
fn a_far_hop_that_never_came_up_is_dark_as_soon_as_somebody_can_be_told() {
    let mut alarms = Alarms::new(77, &[row(0)], |_| true);
    assert_eq!(alarms.next_timeout(), Nanos::MAX, "nobody to tell");
    alarms.link_up(Nanos(5), A);
    let said = due(&mut alarms, Nanos(5));
    assert_eq!(said.iter().map(|s| (s.0, s.3.kind)).collect::<Vec<_>>(), [(A, AlarmKind::Down)]);
    alarms.link_up(Nanos(9), B);
    // To A: B is up. To B: A is up.
    let said = due(&mut alarms, Nanos(9));
    assert!(said.iter().all(|s| s.3.kind == AlarmKind::Up));
    assert!(said.iter().any(|s| s.0 == A));
}

#[test]
fn a_path_is_dark_while_any_node_says_so() {
    let mut path = PathAlarm::new();
    let alarm = |node, sequence, kind, reason| Alarm { version: 1, kind, reason, sequence, node };
    let dark = |node, reason| Some(PathState::Dark { node, reason });
    assert_eq!(path.handle(Nanos(0), &alarm(1, 5, AlarmKind::Down, 3)), dark(1, 3));
    assert_eq!(path.handle(Nanos(0), &alarm(1, 5, AlarmKind::Down, 3)), None);
    assert_eq!(path.handle(Nanos(0), &alarm(2, 9, AlarmKind::Down, 1)), None);
    assert_eq!(path.handle(Nanos(0), &alarm(1, 6, AlarmKind::Up, 0)), dark(2, 1));
    assert_eq!(path.handle(Nanos(0), &alarm(1, 5, AlarmKind::Down, 3)), None, "older than the Up");
    assert_eq!(path.handle(Nanos(0), &alarm(2, 8, AlarmKind::Up, 0)), None, "older than the Down");
    assert_eq!(path.handle(Nanos(0), &alarm(2, 10, AlarmKind::Up, 0)), Some(PathState::Clear));
    // Serial numbers wrap.
    assert_eq!(path.handle(Nanos(0), &alarm(3, u32::MAX, AlarmKind::Down, 1)), dark(3, 1));
    assert_eq!(path.handle(Nanos(0), &alarm(3, 0, AlarmKind::Up, 0)), Some(PathState::Clear));
}

#[test]
fn a_lost_up_heals() {
    let mut path = PathAlarm::new();
    let alarm = Alarm { version: 1, kind: AlarmKind::Down, reason: 1, sequence: 5, node: 1 };
    path.handle(Nanos(0), &alarm);
    path.handle(Nanos(1000 * MS), &alarm);
    assert_eq!(path.next_timeout(), Nanos(4500 * MS));
    assert_eq!(path.expire(Nanos(4500 * MS - 1)), None);
    assert_eq!(path.expire(Nanos(4500 * MS)), Some(PathState::Clear));
    assert_eq!(path.next_timeout(), Nanos::MAX);
    // After that even a lower sequence is believed: the node may have started anew.
    let restarted = Alarm { sequence: 1, ..alarm };
    assert!(path.handle(Nanos(5000 * MS), &restarted).is_some());
}

#[test]
fn more_nodes_than_places_forget_the_oldest_only() {
    let mut path = PathAlarm::new();
    for node in 0..40u64 {
        let alarm = Alarm { version: 1, kind: AlarmKind::Down, reason: 1, sequence: 1, node };
        path.handle(Nanos(node), &alarm);
    }
    assert_eq!(path.said.iter().flatten().map(|s| s.node).min(), Some(40 - NODES_PER_PATH as u64));
    assert!(matches!(path.state(), PathState::Dark { .. }));
}

#[test]
fn a_restarted_node_is_another_one() {
    assert_ne!(alarm_node_id("relay", 1), alarm_node_id("relay", 2));
    assert_ne!(alarm_node_id("relay", 1), alarm_node_id("other", 1));
    assert_eq!(alarm_node_id("relay", 1), alarm_node_id("relay", 1));
}

proptest! {
    // Edges at random times, alarms lost and reordered at random: at the end the listener believes what is true, at
    // the latest when the hold time is over, provided that not all repetitions of a lasting Down are lost.
    #[test]
    fn the_end_learns_the_truth_in_the_end(
        edges in prop::collection::vec((any::<bool>(), 1u64..3000), 1..12),
        fates in prop::collection::vec((0u8..10, 0u64..400), 1..200),
    ) {
        let mut alarms = Alarms::new(1, &[row(0)], |_| true);
        alarms.link_up(Nanos(0), A);
        let mut now = 0;
        let mut wire: Vec<(Nanos, Alarm)> = Vec::new();
        let mut fate = fates.iter().cycle();
        let mut deliver = |said: Vec<(Nanos, Alarm)>, wire: &mut Vec<(Nanos, Alarm)>| {
            for (at, alarm) in said {
                let (lost, delay) = *fate.next().unwrap();
                if lost >= 5 {
                    wire.push((at + Duration::from_millis(delay), alarm));
                }
            }
        };
        let mut up = false;
        for (next, ms) in edges {
            if next { alarms.link_up(Nanos(now), B) } else { alarms.link_down(Nanos(now), B, alarm_reason::LIVENESS) }
            up = next;
            now += ms * MS;
            deliver(speak_until(&mut alarms, Nanos(now)), &mut wire);
        }
        // Quiet time without loss.
        wire.extend(speak_until(&mut alarms, Nanos(now + 8000 * MS)));
        wire.sort_by_key(|(at, _)| *at);
        let mut path = PathAlarm::new();
        for (at, alarm) in wire {
            path.expire(at);
            path.handle(at, &alarm);
        }
        path.expire(Nanos(now + 8000 * MS));
        prop_assert_eq!(path.state() == PathState::Clear, up);
    }
}
