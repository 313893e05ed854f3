//! Two ends of a link under virtual time: what they believe of it when it is cut, tampered with or restarted.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::{Congestion, LinkId, RatePlan, Thresholds};

const MS: u64 = 1_000_000;
const KEY: [u8; 32] = [7; 32];

fn link_config(rate_bps: Option<u64>, key: [u8; 32]) -> LinkConfig {
    LinkConfig {
        id: LinkId(0),
        name: Arc::from("test"),
        mtu_payload: 1472,
        overhead_bytes: 42,
        rate: RatePlan { rate_bps, burst_bytes: 3028, control_percent: 10 },
        delay: Duration::from_millis(5),
        congestion: Congestion::Contracted,
        liveness_interval: Duration::from_millis(100),
        detect_multiplier: 3,
        liveness_key: key,
        thresholds: Thresholds::default(),
        admin_up: true,
    }
}

fn liveness(boot_id: u64, now: Nanos) -> Liveness {
    Liveness::new(&link_config(None, KEY), boot_id, boot_id, now)
}

/// The next frame's message, if one is due.
fn message(from: &mut Liveness, now: Nanos) -> Option<Vec<u8>> {
    let mut buf = [0; LIVENESS_FRAME_BYTES];
    let len = from.poll_transmit(now, body::Extension::default(), &mut buf)?;
    let frame = florelay_wire::link::parse(&buf[..len]).expect("a whole link payload");
    let florelay_wire::link::Body::Channel { ach, message } = frame.body else { panic!("a channel") };
    assert_eq!((frame.backward, ach.channel, frame.forward.tc), (None, ChannelType::Liveness, Tc::OAM));
    Some(message.to_vec())
}

/// Both ends and the frames between them, 5 ms each way.
struct Pair {
    now: Nanos,
    ends: [Liveness; 2],
    /// Frames towards each end, with their arrival.
    towards: [VecDeque<(Nanos, Vec<u8>)>; 2],
    /// Direction towards each end works.
    works: [bool; 2],
    changes: Vec<(Nanos, usize, LinkChange)>,
    restarts: usize,
    round_trips: usize,
    sent: [usize; 2],
}

impl Pair {
    fn new() -> Self {
        Self {
            now: Nanos(MS),
            ends: [liveness(1, Nanos(MS)), liveness(2, Nanos(MS))],
            towards: [VecDeque::new(), VecDeque::new()],
            works: [true; 2],
            changes: Vec::new(),
            restarts: 0,
            round_trips: 0,
            sent: [0; 2],
        }
    }

    fn run(&mut self, ms: u64) {
        let end = Nanos(self.now.0 + ms * MS);
        loop {
            for me in 0..2 {
                let other = 1 - me;
                while self.towards[me].front().is_some_and(|(at, _)| *at <= self.now) {
                    let (_, bytes) = self.towards[me].pop_front().unwrap();
                    let event = self.ends[me].handle(self.now, &bytes).expect("genuine frames are taken");
                    self.restarts += usize::from(event.peer_restarted);
                    self.changes.extend(event.change.map(|change| (self.now, me, change)));
                    if let Some((sent_ns, held_ns)) = event.exchange.and_then(|exchange| exchange.echo) {
                        assert_eq!(self.now.0 - sent_ns - held_ns, 10 * MS);
                        self.round_trips += 1;
                    }
                }
                self.changes.extend(self.ends[me].check(self.now).map(|change| (self.now, me, change)));
                while let Some(bytes) = message(&mut self.ends[me], self.now) {
                    self.sent[me] += 1;
                    if self.works[other] {
                        self.towards[other].push_back((self.now + Duration::from_millis(5), bytes));
                    }
                }
            }
            let arrivals = self.towards.iter().filter_map(|q| q.front().map(|(at, _)| *at));
            let next = self.ends.iter().map(Liveness::next_timeout).chain(arrivals).min().unwrap();
            assert!(next > self.now, "a timeout that stays due is a busy loop");
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
        }
    }

    fn states(&self) -> [LivenessState; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn cut(&mut self, towards: usize) {
        self.works[towards] = false;
        self.towards[towards].clear();
    }
}

#[test]
fn comes_up_with_the_first_frame_and_measures() {
    let mut pair = Pair::new();
    assert_eq!(pair.states(), [LivenessState::Connecting; 2]);
    pair.run(1);
    assert_eq!(pair.states(), [LivenessState::Connecting; 2]);
    pair.run(1000);
    assert_eq!(pair.states(), [LivenessState::Up; 2]);
    assert_eq!(pair.changes, [(Nanos(6 * MS), 0, LinkChange::Up), (Nanos(6 * MS), 1, LinkChange::Up)]);
    assert!(pair.round_trips > 0);
    assert_eq!((pair.ends[0].peer_boot_id(), pair.ends[1].peer_boot_id()), (Some(2), Some(1)));
    assert_eq!(pair.ends[0].wire_version(), Some(WIRE_VERSION));
    assert_eq!(pair.restarts, 0);
}

#[test]
fn silence_takes_it_down_in_three_intervals_and_the_next_frame_up() {
    let mut pair = Pair::new();
    pair.run(1000);
    pair.changes.clear();
    let cut = pair.now;
    pair.cut(0);
    pair.cut(1);
    pair.run(60_000);
    assert_eq!(pair.states(), [LivenessState::Down(DownReason::Timeout); 2]);
    assert_eq!(pair.changes.len(), 2);
    for (at, _, _) in &pair.changes {
        assert!(at.since(cut) <= Duration::from_millis(305), "{:?}", at.since(cut));
        assert!(at.since(cut) >= Duration::from_millis(195));
    }
    pair.works = [true; 2];
    let back = pair.now;
    pair.run(2000);
    assert_eq!(pair.states(), [LivenessState::Up; 2]);
    let ups: Vec<_> = pair.changes[2..].to_vec();
    assert_eq!(ups.len(), 2, "up once, without flapping: {ups:?}");
    assert!(
        ups.iter().all(|(at, _, change)| *change == LinkChange::Up && at.since(back) <= Duration::from_millis(105))
    );
}

#[test]
fn one_dead_direction_takes_both_ends_down_and_nobody_flaps() {
    for dead in 0..2 {
        let mut pair = Pair::new();
        pair.run(1000);
        pair.changes.clear();
        pair.cut(dead);
        pair.run(10_000);
        assert_eq!(pair.ends[dead].state(), LivenessState::Down(DownReason::Timeout));
        assert_eq!(pair.ends[1 - dead].state(), LivenessState::Down(DownReason::NotHeard));
        assert_eq!(pair.changes.len(), 2);
        pair.works[dead] = true;
        pair.run(1000);
        assert_eq!(pair.states(), [LivenessState::Up; 2]);
        assert_eq!(pair.changes.len(), 4);
    }
}

#[test]
fn a_neighbour_that_never_hears_us_is_not_up_for_long() {
    let mut pair = Pair::new();
    pair.cut(1);
    pair.run(10_000);
    assert_eq!(pair.states(), [LivenessState::Down(DownReason::NotHeard), LivenessState::Connecting]);
    assert_eq!(pair.changes.len(), 2, "{:?}", pair.changes);
}

#[test]
fn other_frames_count_against_silence() {
    let mut pair = Pair::new();
    assert_eq!(pair.ends[0].heard(Nanos(0)), None, "not before an authenticated one");
    assert_eq!(pair.ends[0].state(), LivenessState::Connecting);
    pair.run(1000);
    let one = &mut pair.ends[0];
    let mut now = pair.now;
    for _ in 0..100 {
        now += Duration::from_millis(100);
        assert_eq!((one.heard(now), one.check(now)), (None, None));
    }
    now += Duration::from_millis(301);
    assert_eq!(one.check(now), Some(LinkChange::Down(DownReason::Timeout)));
    assert_eq!(one.heard(now), Some(LinkChange::Up));
    assert_eq!(one.hold(now, DownReason::Admin), Some(LinkChange::Down(DownReason::Admin)));
    assert_eq!(one.heard(now), None);
    assert_eq!(one.state(), LivenessState::Down(DownReason::Admin));
}

#[test]
fn a_hold_is_said_and_ends() {
    let mut pair = Pair::new();
    pair.run(1000);
    pair.changes.clear();
    assert_eq!(pair.ends[0].hold(pair.now, DownReason::Admin), Some(LinkChange::Down(DownReason::Admin)));
    pair.run(6);
    assert_eq!(pair.ends[1].state(), LivenessState::Down(DownReason::PeerHeld), "at once, not after silence");
    pair.run(5000);
    assert_eq!(pair.states()[0], LivenessState::Down(DownReason::Admin));
    pair.ends[0].release(pair.now);
    pair.run(1000);
    assert_eq!(pair.states(), [LivenessState::Up; 2]);
    // Down here was answered above; then: peer held, up, up.
    assert_eq!(pair.changes.len(), 3, "{:?}", pair.changes);

    let mut config = link_config(None, KEY);
    config.admin_up = false;
    assert_eq!(Liveness::new(&config, 1, 1, Nanos(0)).state(), LivenessState::Down(DownReason::Admin));
}

#[test]
fn a_restart_is_noticed_once_within_a_round_trip() {
    let mut pair = Pair::new();
    pair.run(1000);
    pair.changes.clear();
    pair.towards = Default::default();
    pair.ends[1] = liveness(3, pair.now);
    pair.run(16);
    assert_eq!(pair.restarts, 1);
    assert_eq!(pair.ends[0].peer_boot_id(), Some(3));
    pair.run(5000);
    assert_eq!((pair.restarts, pair.states()), (1, [LivenessState::Up; 2]));
    // The one that stayed never went down; the new one came up.
    assert_eq!(pair.changes.iter().map(|c| (c.1, c.2)).collect::<Vec<_>>(), [(1, LinkChange::Up)]);
}

#[test]
fn frames_of_earlier_boots_fake_no_restart() {
    // Recorded: the first frames of boot 2 (which knew nobody), and later ones.
    let mut pair = Pair::new();
    let first = message(&mut liveness(2, Nanos(0)), Nanos(0)).unwrap();
    pair.run(1000);
    let later = message(&mut pair.ends[1].clone(), pair.ends[1].next_timeout()).unwrap();
    pair.ends[1] = liveness(3, pair.now);
    pair.towards = Default::default();
    pair.run(1000);
    assert_eq!(pair.restarts, 1);
    pair.changes.clear();
    // Boot 2 is over and known: refused. A boot never heard: taken as a candidate only, however often it comes.
    assert_eq!(pair.ends[0].handle(pair.now, &first), Err(LivenessError::Replay));
    assert_eq!(pair.ends[0].handle(pair.now, &later), Err(LivenessError::Replay));
    let stranger = message(&mut liveness(9, Nanos(0)), Nanos(0)).unwrap();
    for _ in 0..20 {
        let event = pair.ends[0].handle(pair.now, &stranger);
        assert!(matches!(
            event,
            Ok(LivenessEvent { change: None, peer_restarted: false, exchange: None }) | Err(LivenessError::Replay)
        ));
        pair.run(70);
    }
    assert_eq!((pair.restarts, pair.states()), (1, [LivenessState::Up; 2]));
    assert_eq!(pair.changes, []);
    assert_eq!(pair.ends[0].peer_boot_id(), Some(3));
}

#[test]
fn a_restarted_neighbour_is_not_sent_its_former_clock() {
    let mut a = liveness(1, Nanos(1));
    let old = message(&mut liveness(2, Nanos(1)), Nanos(1)).unwrap();
    a.handle(Nanos(2), &old).unwrap();
    let echo = |a: &mut Liveness, now| {
        let sent = body::Liveness::parse(&message(a, now).unwrap()).unwrap();
        (sent.your_boot_id, sent.echo_ns)
    };
    assert_eq!(echo(&mut a, Nanos(3)), (2, 1));
    let new = message(&mut liveness(3, Nanos(4)), Nanos(4)).unwrap();
    a.handle(Nanos(5), &new).unwrap();
    assert_eq!(echo(&mut a, Nanos(5)), (3, 0));
}

#[test]
fn forged_replayed_and_reflected_messages_change_nothing() {
    let mut a = liveness(1, Nanos(0));
    let mut b = liveness(2, Nanos(0));
    let genuine = message(&mut b, Nanos(0)).unwrap();
    let untouched = |a: &Liveness| (a.state(), a.peer_boot_id(), a.next_timeout());
    let before = untouched(&a);
    for at in 0..genuine.len() {
        for bit in 0..8 {
            let mut forged = genuine.clone();
            forged[at] ^= 1 << bit;
            assert_eq!(a.handle(Nanos(1), &forged), Err(LivenessError::Tag), "byte {at} bit {bit}");
        }
        let truncated = a.handle(Nanos(1), &genuine[..at]);
        assert!(matches!(truncated, Err(LivenessError::Tag | LivenessError::Parse(ParseError::TooShort))));
    }
    let other_key = message(&mut Liveness::new(&link_config(None, [8; 32]), 2, 2, Nanos(0)), Nanos(0)).unwrap();
    assert_eq!(a.handle(Nanos(1), &other_key), Err(LivenessError::Tag));
    let own = message(&mut a.clone(), Nanos(0)).unwrap();
    assert_eq!(a.handle(Nanos(1), &own), Err(LivenessError::Reflected));
    assert_eq!(untouched(&a), before);

    assert_eq!(a.handle(Nanos(1), &genuine).unwrap().change, Some(LinkChange::Up));
    assert_eq!(a.handle(Nanos(2), &genuine), Err(LivenessError::Replay));
    let due = b.next_timeout();
    let second = message(&mut b, due).unwrap();
    let due = b.next_timeout();
    let third = message(&mut b, due).unwrap();
    assert!(a.handle(Nanos(3), &third).is_ok());
    assert_eq!(a.handle(Nanos(4), &second), Err(LivenessError::Replay), "older than the last");
    assert_eq!(a.check(a.next_timeout().max(Nanos(400 * MS))), Some(LinkChange::Down(DownReason::Timeout)));
    assert_eq!(a.handle(Nanos(401 * MS), &third), Err(LivenessError::Replay));
    assert_eq!(a.state(), LivenessState::Down(DownReason::Timeout), "a replay does not bring it up");
}

#[test]
fn a_longer_interval_is_announced_before_it_is_kept() {
    let mut pair = Pair::new();
    pair.run(1000);
    pair.changes.clear();
    for rate in [Some(20_000), None, Some(100_000)] {
        pair.ends[0].set_rate(pair.now, rate);
        // The first frame that says so is lost.
        pair.works[1] = false;
        pair.run(10);
        pair.works[1] = true;
        pair.run(60_000);
        assert_eq!(pair.states(), [LivenessState::Up; 2], "rate {rate:?}");
    }
    assert_eq!(pair.changes, []);
    assert!(pair.ends[0].interval() > Duration::from_secs(1));
}

proptest! {
    // Over any long time, liveness takes at most 1 % of the rate, 4 % of a link that is looked for and carries nothing else,
    // and its pace stays within the jitter.
    #[test]
    fn takes_at_most_a_hundredth_of_the_rate(rate in 1_000u64..50_000_000, seed: u64, looked_for: bool) {
        let mut one = Liveness::new(&link_config(Some(rate), KEY), 1, seed, Nanos(0));
        if !looked_for {
            one.hold(Nanos(0), DownReason::Admin);
        }
        let share = if looked_for { 4 } else { 1 };
        let interval = u64::try_from(one.interval().as_nanos()).unwrap() / share;
        prop_assert!(interval >= 100 * MS / share);
        let mut at = Vec::new();
        let mut now = Nanos(0);
        for _ in 0..200 {
            prop_assert!(message(&mut one, now).is_some());
            prop_assert!(message(&mut one, now).is_none());
            at.push(now.0);
            now = one.next_timeout();
        }
        for pair in at.windows(2) {
            let gap = pair[1] - pair[0];
            prop_assert!(gap <= interval && gap + 100 >= interval / 100 * 75, "{gap} of {interval}");
        }
        let bits = 8 * (LIVENESS_FRAME_BYTES as u128 + 42) * (at.len() as u128 - 1);
        let elapsed = u128::from(at[at.len() - 1]);
        // bits / elapsed ≤ rate / 100, up to rounding of the interval to nanoseconds.
        let share = u128::from(share);
        prop_assert!(bits * 1_000_000_000 * 100 <= u128::from(rate) * share * (elapsed + 100 * at.len() as u128));
        let spread = at.windows(2).map(|p| p[1] - p[0]).collect::<std::collections::BTreeSet<_>>();
        prop_assert!(spread.len() > 10, "no jitter");
    }

    // Random cuts of either direction: when both work for long enough both ends are up, whatever happened before.
    #[test]
    fn always_finds_the_way_back(cuts in prop::collection::vec((any::<bool>(), any::<bool>(), 1u64..1500), 1..12)) {
        let mut pair = Pair::new();
        for (first, second, ms) in cuts {
            pair.works = [first, second];
            pair.run(ms);
        }
        pair.works = [true; 2];
        pair.run(1000);
        prop_assert_eq!(pair.states(), [LivenessState::Up; 2]);
        prop_assert_eq!(pair.restarts, 0);
        let changes = pair.changes.len();
        pair.run(5000);
        prop_assert_eq!(pair.changes.len(), changes);
    }

    // Random bytes, and random bytes under a right tag, never panic.
    #[test]
    fn random_messages_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut a = liveness(1, Nanos(0));
        let _ = a.handle(Nanos(1), &bytes);
        if let Some((head, tag)) = bytes.split_last_chunk_mut::<TAG_BYTES>() {
            *tag = tag_of(&a.key, head);
            let _ = a.handle(Nanos(1), &bytes);
        }
        let _ = (a.check(Nanos(2)), a.next_timeout(), message(&mut a, Nanos(3)));
    }
}

/// A message as a node of version 1 sends it: 16 bytes shorter, under the same tag.
fn of_version_1(message: &[u8]) -> Vec<u8> {
    let first = body::Liveness { version: 1, extension: None, ..body::Liveness::parse(message).unwrap() };
    let mut bytes = vec![0; body::Liveness::LEN_1];
    first.write(&mut bytes).unwrap();
    let tag = tag_of(&KEY, body::Liveness::authenticated_bytes(&bytes).unwrap());
    body::Liveness::set_tag(&mut bytes, tag).unwrap();
    bytes
}

#[test]
fn a_neighbour_of_version_1_is_heard_and_says_less() {
    let (mut a, mut b) = (liveness(1, Nanos(MS)), liveness(2, Nanos(MS)));
    let said = body::Extension { wall_ns: 7, expected: 8, lost: 9 };
    let mut buf = [0; LIVENESS_FRAME_BYTES];
    b.poll_transmit(Nanos(MS), said, &mut buf).unwrap();
    let ours = buf[LINK_OAM_HEADER_BYTES..].to_vec();
    let event = a.clone().handle(Nanos(2 * MS), &ours).unwrap();
    assert_eq!(event.exchange.unwrap().extension, Some(said));

    let event = a.handle(Nanos(2 * MS), &of_version_1(&ours)).unwrap();
    assert_eq!((event.change, event.exchange.unwrap().extension), (Some(LinkChange::Up), None));
    assert_eq!(a.wire_version(), Some(1));
    // What was appended is authenticated like the rest.
    let mut forged = ours.clone();
    forged[60] ^= 1;
    assert_eq!(liveness(1, Nanos(MS)).handle(Nanos(2 * MS), &forged), Err(LivenessError::Tag));
}

#[test]
fn a_late_message_is_refused_but_was_not_lost() {
    let (mut a, mut b) = (liveness(1, Nanos(MS)), liveness(2, Nanos(MS)));
    let sent: Vec<_> = (0..5)
        .map(|_| {
            let due = b.next_timeout();
            message(&mut b, due).unwrap()
        })
        .collect();
    for n in [0, 1, 3] {
        a.handle(Nanos(2 * MS), &sent[n]).unwrap();
    }
    assert_eq!(a.numbers().tally(), (4, 1, 0));
    assert_eq!(a.handle(Nanos(3 * MS), &sent[2]), Err(LivenessError::Replay));
    assert_eq!(a.numbers().tally(), (4, 0, 1));
    // Again, it is a duplicate.
    assert_eq!(a.handle(Nanos(4 * MS), &sent[2]), Err(LivenessError::Replay));
    a.handle(Nanos(5 * MS), &sent[4]).unwrap();
    assert_eq!(a.numbers().tally(), (5, 0, 1));
}
